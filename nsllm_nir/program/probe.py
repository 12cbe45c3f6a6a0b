"""A program that uses every operation: what `doctor` runs, and what shows that no backend forgot one."""

from __future__ import annotations

import numpy as np

from nsllm_nir.program.operations import OPERATIONS, Count, Input, Op
from nsllm_nir.program.program import Program


def probe_program() -> Program:
    """A chain of the example of every operation, from four input neurons; every potential is an output.

    Behind each operation that may give more than binary spikes stands a `Count` of one level, which the next one reads.
    """
    ops: list[Op] = [Input.example("input", "")]
    for kind in OPERATIONS:
        if kind is not Input:
            ops.append(kind.example(kind.__name__.lower(), ops[-1].name))
            if ops[-1].bounds != (0, 1):
                ops.append(Count(f"{ops[-1].name}_spikes", ops[-1].name, np.ones(4, np.int32), 1))
    return Program(tuple(ops), tuple(op.name for op in ops[1:] if op.bounds is None))
