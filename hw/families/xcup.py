"""AMD UltraScale+: estimated only."""

from __future__ import annotations

from nsllm_nir.hw.families.xc7 import CELLS
from nsllm_nir.hw.family import Family

family = Family("synth_xilinx -family xcup", CELLS)
