"""AMD 7 series (Artix-7 and its like): estimated only, no open tool of this flow places and routes it."""

from __future__ import annotations

from nsllm_nir.hw.family import LUT, Family

CELLS = {
    "lut": LUT,
    "carry": "CARRY[48]",
    "ff": "FD[RSCP]E.*",
    "block_ram": "RAMB.*",
    "lut_ram": "RAM(32|64|128|256).*",
    "dsp": r"DSP48E.|DSP58.*",
}
family = Family("synth_xilinx -family xc7", CELLS)
