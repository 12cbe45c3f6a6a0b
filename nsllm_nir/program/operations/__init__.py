"""The operations of a `Program`, one module each: what they compute, check and cost. Backends match over `Op`."""

from typing import get_args

from nsllm_nir.program.operations.base import Operation, State, constants, sources
from nsllm_nir.program.operations.conv2d import Conv2d, convolve
from nsllm_nir.program.operations.count import Count
from nsllm_nir.program.operations.delay import Delay
from nsllm_nir.program.operations.gate import Gate
from nsllm_nir.program.operations.input import Input
from nsllm_nir.program.operations.integrate import Integrate
from nsllm_nir.program.operations.lif import Lif
from nsllm_nir.program.operations.linear import Linear
from nsllm_nir.program.operations.sum import Sum
from nsllm_nir.program.signals import Ints

Op = Input | Linear | Conv2d | Sum | Count | Gate | Integrate | Lif | Delay
OPERATIONS: tuple[type[Op], ...] = get_args(Op)

__all__ = [
    "OPERATIONS",
    "Conv2d",
    "Count",
    "Delay",
    "Gate",
    "Input",
    "Integrate",
    "Ints",
    "Lif",
    "Linear",
    "Op",
    "Operation",
    "State",
    "Sum",
    "constants",
    "convolve",
    "sources",
]
