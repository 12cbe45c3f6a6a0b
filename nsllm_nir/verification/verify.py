"""Run backends on the same input and compare every node, step and neuron with the reference."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir import exporters
from nsllm_nir.errors import InputError
from nsllm_nir.graph import DT
from nsllm_nir.notebook import html_table
from nsllm_nir.program import Linear, Program, reference
from nsllm_nir.program.trace import Difference, NodeResult, Trace, compare, first_difference
from nsllm_nir.quantization.quantize import Quantization, QuantizationReport
from nsllm_nir.verification.prepare import Source, prepare, quantization_json


@dataclass(frozen=True)
class BackendResult:
    """One backend: comparison per node, or the exception that kept it from running."""

    backend: str
    version: str
    seconds: float
    nodes: tuple[NodeResult, ...]
    trace: Trace | None
    failure: Exception | None = None

    @property
    def error(self) -> str:
        """Type and message of the failure, "" for a backend that ran."""
        return f"{type(self.failure).__name__}: {self.failure}" if self.failure else ""

    @property
    def differences(self) -> int:
        """Cells (node, step, neuron) that are not those of the reference."""
        return sum(node.differences for node in self.nodes)

    @property
    def exact(self) -> bool:
        """True only if the backend ran and every cell is equal."""
        return self.failure is None and bool(self.nodes) and self.differences == 0

    @property
    def first(self) -> Difference | None:
        """The earliest differing cell, or None."""
        return first_difference(list(self.nodes))


@dataclass(frozen=True)
class Report:
    """Comparison of all backends; ``exact`` only if every one ran and agrees in every cell.

    ``quantization`` and ``quantization_error`` say what was done to a float graph before, and which spikes this changed
    on the same inputs; None for an integer graph. They say nothing about backends, which all run the integer graph.
    """

    program: Program
    reference: Trace
    results: tuple[BackendResult, ...]
    quantization: Quantization | None = None
    quantization_error: QuantizationReport | None = None

    @property
    def exact(self) -> bool:
        """True only if at least one backend was asked for, every one ran, and every cell is equal."""
        return bool(self.results) and all(result.exact for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Plain data: per backend and node the spikes and differences, and the first difference.

        Apart from them, what quantization changed.
        """
        return {
            "exact": self.exact,
            "steps": len(next(iter(self.reference.values.values()))),
            **quantization_json(self.quantization, self.quantization_error),
            "backends": {
                r.backend: {
                    "version": r.version,
                    "exact": r.exact,
                    "seconds": round(r.seconds, 3),
                    "error": r.error,
                    "first_difference": vars(r.first) if r.first else None,
                    "nodes": {n.node: {"spikes": n.spikes, "differences": n.differences} for n in r.nodes},
                }
                for r in self.results
            },
        }

    def _repr_html_(self) -> str:
        """In a notebook: one row per backend."""
        rows = [
            (r.backend, r.version, sum(n.spikes for n in r.nodes), "" if r.error else r.differences, _verdict(r))
            for r in self.results
        ]
        cells = sum(values.size for values in self.reference.values.values())
        caption = f"{cells:,} cells of {len(self.reference.values):,} nodes compared with the reference"
        return html_table(caption, ("backend", "version", "spikes", "differences", "result"), rows)

    def __str__(self) -> str:
        """A line per backend: exact, first differing cell, or why it did not run.

        Before them what quantization changed.
        """
        lines = []
        if self.quantization and self.quantization_error:
            lines += [
                "caused by quantization:",
                str(self.quantization),
                str(self.quantization_error),
                "differences between backends:",
            ]
        for r in self.results:
            verdict = (
                f"FAILED: {r.error}"
                if r.error
                else "exact"
                if r.exact
                else f"{r.differences} differences; first: {r.first}"
            )
            lines.append(
                f"{r.backend:12} {sum(n.spikes for n in r.nodes):>9} spikes in {len(r.nodes)} nodes  {verdict}"
            )
        return "\n".join(lines)


def _verdict(result: BackendResult) -> str:
    return result.error or str(result.first or "exact")


def token_spikes(program: Program, tokens: NDArray[np.integer] | list[int]) -> NDArray[np.int64]:
    """Token ids (tokens,) to input spikes of ``program``, (tokens, vocabulary) of 0 and 1.

    Raises:
        InputError: ids outside the vocabulary, or no token at all.
    """
    if len(tokens) == 0:
        raise InputError("there are no tokens to run; give a prompt of at least one token")
    return reference.one_hot(tokens, program.inputs[0].size)


def input_spikes(program: Program, inputs: NDArray[np.integer] | list[int]) -> NDArray[np.int64]:
    """Token ids (steps,), or spikes (steps, neurons) or (steps, *shape), as checked spikes (steps, neurons).

    Raises:
        InputError: wrong dimensions, dtype or values.
    """
    array = np.asarray(inputs)
    if array.ndim > 2:
        array = array.reshape(len(array), math.prod(array.shape[1:]))  # -1 would not do for no step at all
    return token_spikes(program, array) if array.ndim == 1 else reference.check_inputs(program, array)


def run(
    source: Source, inputs: NDArray[np.integer] | list[int], backend: str = "reference", *, dt: float = DT
) -> Trace:
    """Spike counts of every node on one backend.

    Arguments as in `verify`, which also reports what quantization of a float graph changes.
    """
    program = prepare(source, dt).program
    return exporters.load(backend).compile(program).run(input_spikes(program, inputs))


def verify(
    source: Source,
    inputs: NDArray[np.integer] | list[int],
    backends: Iterable[str],
    *,
    dt: float = DT,
    progress: Callable[[str], None] = lambda message: None,
) -> Report:
    """Compare ``backends`` with the reference.

    Args:
        source: NIR file, `nir.NIRGraph`, `Graph` or `Program`. A float graph is quantized first (8 bits, no
            calibration), and the report says what that changed.
        inputs: token ids (tokens,), or spikes (tokens, neurons).
        backends: registered names.
        dt: seconds per step that the graph was written for.
        progress: called with one line before each run.

    A backend that cannot run is reported with its exception and makes the report inexact; the others run all the same.

    Raises:
        GraphError, IntegerOverflowError: the graph has no exact integer form (`prepare`).
        InputError: ``inputs`` do not fit, or ``dt`` is no time step.
        BackendError: no such backend.
    """
    loaded = [exporters.load(name) for name in backends]  # an unknown name fails before anything runs
    prepared = prepare(source, dt)
    program = prepared.program
    spikes = input_spikes(program, inputs)
    progress("reference")
    expected = reference.run(program, spikes)
    if prepared.quantization:
        progress("float graph")
    error = prepared.quantization_error(spikes, expected)
    results = []
    for backend in loaded:
        progress(backend.name)
        results.append(_check(backend, program, spikes, expected))
    return Report(program, expected, tuple(results), prepared.quantization, error)


def _check(backend: exporters.Backend, program: Program, spikes: NDArray[np.integer], expected: Trace) -> BackendResult:
    start = time.perf_counter()
    try:
        version = backend.version()
        trace = backend.compile(program).run(spikes)
        # An output holds potentials: it is compared like every node, but has no spikes to count.
        nodes = tuple(n if program.signals[n.node].spikes else replace(n, spikes=0) for n in compare(expected, trace))
    except Exception as error:  # a backend may be anybody's: whatever happens in it is its row, and the others run
        return BackendResult(backend.name, "", time.perf_counter() - start, (), None, error)
    return BackendResult(backend.name, version, time.perf_counter() - start, nodes, trace)


def synaptic_operations(program: Program, trace: Trace) -> dict[str, float]:
    """Mean synaptic operations per token of each `Linear`: spikes of its source times its fan-out (simulated)."""
    return {
        op.name: float(np.abs(trace.values[op.source]).sum() * op.weight.shape[0] / len(trace.values[op.source]))
        for op in program.ops
        if isinstance(op, Linear) and op.source in trace.values
    }
