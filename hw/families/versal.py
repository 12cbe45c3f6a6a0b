"""AMD Versal: estimated only. yosys does not know it; UltraScale+ has the same look-up table of 6 inputs."""

from __future__ import annotations

from nsllm_nir.hw.families.xc7 import CELLS
from nsllm_nir.hw.family import Family

family = Family("synth_xilinx -family xcup", CELLS)
