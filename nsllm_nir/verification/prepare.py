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
from nsllm_nir.lowering.lower import lower
from nsllm_nir.program import Program
from nsllm_nir.quantization.quantize import Quantization, QuantizationReport, compare_quantization, quantize


@dataclass(frozen=True, eq=False)
class Prepared:
    """A program; if it came from a float graph, also that graph in steps of `graph.DT`, and what `quantize` made of it."""

    program: Program
    floats: Graph | None = None
    integers: Graph | None = None
    quantization: Quantization | None = None

    def quantization_error(self, inputs: NDArray[np.integer]) -> QuantizationReport | None:
        """Cells in which the float and the integer graph differ on spikes (steps, neurons); None where the graph was integer already."""
        if self.floats is None or self.integers is None:
            return None
        return compare_quantization(self.floats, self.integers, inputs)


Source: TypeAlias = Prepared | Program | Graph | nir.NIRGraph | str | Path


def quantization_json(summary: Quantization | None, error: QuantizationReport | None) -> dict[str, Any]:
    """Plain data: the keys ``quantization`` and ``quantization_error``, null where the graph was integer already."""
    return {
        "quantization": summary.to_json() if summary else None,
        **(error.to_json() if error else {"quantization_error": None}),
    }


def prepare(source: Source, dt: float = DT) -> Prepared:
    """The program of ``source``; a graph that `lower` does not accept as it is goes through `quantize` (8 bits, no calibration) first.

    Args:
        source: NIR file, `nir.NIRGraph` or `Graph`; a `Program` or the result of an earlier call passes.
        dt: seconds per step that the graph was written for (`at_time_step`).

    Raises:
        GraphError: an unreadable or inconsistent graph, or something that integers cannot hold (named, with the remedy).
        IntegerOverflowError: no scale of the weights fits the widths of states.
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
    try:
        return Prepared(lower(graph))
    except (GraphError, IntegerOverflowError):
        if "nsllm_nir" in graph.metadata:  # written by this project, hence integer: what is wrong is in the file
            raise
    integers, summary = quantize(graph)
    return Prepared(lower(integers), graph, integers, summary)
