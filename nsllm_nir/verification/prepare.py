"""From whatever describes a network to the program that backends run; float graphs are quantized on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError, InputError, IntegerOverflowError
from nsllm_nir.graph import DT, Graph
from nsllm_nir.graph.time_step import at_time_step, check_time_step, same_step
from nsllm_nir.lowering.lower import lower_net, why_not_integer
from nsllm_nir.lowering.net import Net, inline
from nsllm_nir.program import Program
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization.loihi_formats import Formats
from nsllm_nir.quantization.quantize import Quantization, QuantizationReport, compare, quantize_net


@dataclass(frozen=True, eq=False)
class Prepared:
    """A program, and where it comes from.

    If it came from a float graph, also that graph, inlined, in steps of `graph.DT`, and what `quantize` did to it.
    """

    program: Program
    floats: Net | None = None
    quantization: Quantization | None = None

    def quantization_error(self, inputs: NDArray[np.integer], integers: Trace) -> QuantizationReport | None:
        """Cells in which the float graph differs from the program; None where the graph was integer already.

        Args:
            inputs: spikes (steps, neurons).
            integers: what the program did on them, on the reference or on a backend that is equal to it.
        """
        return None if self.floats is None else compare(float_reference.run_net(self.floats, inputs), integers)


Source: TypeAlias = Prepared | Program | Graph | nir.NIRGraph | str | Path


def quantization_json(summary: Quantization | None, error: QuantizationReport | None) -> dict[str, Any]:
    """Plain data: the keys ``quantization`` and ``quantization_error``, null where the graph was integer already."""
    return {
        "quantization": summary.to_json() if summary else None,
        **(error.to_json() if error else {"quantization_error": None}),
    }


def prepare(source: Source, dt: float = DT) -> Prepared:
    """The program of ``source``.

    A graph whose numbers are no integers goes through `quantize` (8 bits, no calibration) first.

    Args:
        source: NIR file, `nir.NIRGraph` or `Graph`; a `Program` or the result of an earlier call passes.
        dt: seconds per step that the graph was written for (`at_time_step`).

    Raises:
        GraphError: an unreadable or inconsistent graph, or something that integers cannot hold (named, with the
            remedy).
        IntegerOverflowError: the worst case of an integer graph, or of a float graph at every scale, exceeds the
            widths of states.
        InputError: ``dt`` is no time step, or comes with a program, which counts steps.
    """
    if isinstance(source, Program | Prepared):
        check_time_step(dt)
        if not same_step(dt, DT):
            raise InputError(f"a program counts steps and has no time step; give dt = {dt:g} together with the graph")
        return source if isinstance(source, Prepared) else Prepared(source)
    graph = at_time_step(source, dt)
    try:
        return _prepared(graph)
    except (GraphError, IntegerOverflowError) as error:
        if same_step(dt, DT):
            raise
        raise type(error)(
            f"{error} (the graph is rewritten from steps of {dt:g} s to steps of {DT:g} s, and so are these times)"
        ) from error


def _prepared(graph: Graph) -> Prepared:
    net = inline(graph)
    if not why_not_integer(net):
        return Prepared(lower_net(net))
    found = quantize_net(net, Formats())
    return Prepared(found.program, net, found.summary)
