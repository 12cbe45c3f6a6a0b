"""The typed integer form of a network: operations, intervals, the reference interpreter and its traces."""

from nsllm_nir.program.operations import (
    DEFAULT_WIDTHS,
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Lif,
    Linear,
    Op,
    Signal,
    Sum,
    Widths,
    constants,
    is_recurrent,
    sources,
    width,
)
from nsllm_nir.program.program import Program
from nsllm_nir.program.trace import Trace

__all__ = [
    "DEFAULT_WIDTHS",
    "Conv2d",
    "Count",
    "Delay",
    "Gate",
    "Input",
    "Integrate",
    "Lif",
    "Linear",
    "Op",
    "Program",
    "Signal",
    "Sum",
    "Trace",
    "Widths",
    "constants",
    "is_recurrent",
    "sources",
    "width",
]
