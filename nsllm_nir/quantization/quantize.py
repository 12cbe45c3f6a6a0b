"""Float NIR graphs to integer NIR graphs in Loihi's formats, and the error that this causes.

Every signal v of the float graph becomes an integer signal that stands for ``S v``. Spikes have S = 1; nodes without
weights tie the scales of what they connect, weights set the ratio of two scales (docs/quantization.md). The
integer graph is an ordinary NIR graph: read as floats it means the same as what backends compute, up to the
    rounding of states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError, IntegerOverflowError
from nsllm_nir.graph import Graph, as_graph
from nsllm_nir.lowering.lower import lower, lower_net, why_not_integer
from nsllm_nir.lowering.net import Net, inline
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization.folding import prepare
from nsllm_nir.quantization.loihi_formats import Formats
from nsllm_nir.quantization.scales import NodeScale, Port, Scales

SHRINKS = 20
CANDIDATES = (1.0, 0.9, 0.8, 0.7, 1.25, 1.5)  # of the data-free scale; above 1 the largest weights are clipped


@dataclass(frozen=True)
class Quantization:
    """What `quantize` did. unchanged: the graph was integer already. outputs: integer value = scale * float value."""

    formats: Formats
    unchanged: bool
    weights: tuple[NodeScale, ...] = ()
    outputs: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **vars(self.formats),
            "unchanged": self.unchanged,
            "weights": {w.node: {"scale": w.scale, "relative_error": w.error} for w in self.weights},
            "outputs": self.outputs,
        }

    def __str__(self) -> str:
        if self.unchanged:
            return "the graph is integer already and was not changed"
        lines = [f"quantized to {self.formats.weight_bits}-bit weights"]
        lines += [f"{w.node:24} scale {w.scale:.6g}  weight error {100 * w.error:.2f} %" for w in self.weights]
        return "\n".join(lines)


@dataclass(frozen=True)
class NodeError:
    """One spiking node: spikes of both graphs, differing cells, cells (steps * neurons)."""

    node: str
    float_spikes: int
    integer_spikes: int
    differences: int
    cells: int


@dataclass(frozen=True)
class QuantizationReport:
    """Quantization error per spiking node.

    It says nothing about backends: their equivalence is exact and `verify` checks it.
    """

    steps: int
    nodes: tuple[NodeError, ...]

    @property
    def differences(self) -> int:
        """Cells in which the float and the integer graph differ."""
        return sum(node.differences for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Plain data, under the key ``quantization_error``."""
        nodes = {n.node: {k: v for k, v in vars(n).items() if k != "node"} for n in self.nodes}
        return {"quantization_error": {"steps": self.steps, "differences": self.differences, "nodes": nodes}}

    def __str__(self) -> str:
        lines = [
            "quantization error (float graph against integer graph; not the equivalence of backends, which is exact)"
        ]
        for n in self.nodes:
            share = 100 * n.differences / max(n.cells, 1)
            spikes = f"float {n.float_spikes:>8}  integer {n.integer_spikes:>8} spikes"
            lines.append(f"{n.node:24} {spikes}  {n.differences:>7} differences ({share:.2f} % of cells)")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Quantized:
    """What `quantize_net` made: the integer graph inlined, and lowered."""

    net: Net
    program: Program
    summary: Quantization


def quantize(
    source: Graph | nir.NIRGraph | str | Path,
    *,
    weight_bits: int = 8,
    decay_bits: int = 12,
    threshold_bits: int = 17,
    calibration: NDArray[np.integer] | None = None,
) -> tuple[Graph, Quantization]:
    """An integer graph that `lower` accepts and that means the same network.

    Subgraphs are inlined, neurons keep their names.

    Args:
        source: file, `nir.NIRGraph` or `Graph`; one whose numbers integers hold (`is_integer`) is returned unchanged.
        weight_bits: 2 to 8, symmetric.
        decay_bits: 1 to 12; dt / tau is rounded to multiples of 2**-decay_bits.
        threshold_bits: 2 to 17, unsigned.
        calibration: spikes (steps, neurons). If given, the scale of each layer is the candidate with the fewest
            differing spikes.

    Raises:
        GraphError: something integers cannot hold (named, with the remedy).
        IntegerOverflowError: no scale fits the widths of states.
        InputError: a number of bits or ``calibration`` do not fit.
    """
    formats = Formats(weight_bits, decay_bits, threshold_bits)
    graph = as_graph(source)
    net = inline(graph)
    if not why_not_integer(net):
        return graph, Quantization(formats, True)
    found = quantize_net(net, formats, calibration)
    return found.net.graph, found.summary


def quantize_net(net: Net, formats: Formats, calibration: NDArray[np.integer] | None = None) -> Quantized:
    """`quantize` of an inlined graph that is not integer; raises the same errors."""
    scales = Scales(*prepare(net, formats), formats)
    factors: dict[Port, float] = {} if calibration is None else _calibrate(net, scales, calibration)
    factors, program, built, weights = _fitting(scales, factors)
    outputs = {name: scales.of((name, 1), factors) for name, node in built.primitives() if node.type == "Output"}
    return Quantized(built, program, Quantization(formats, False, weights, outputs))


def is_integer(source: Graph | nir.NIRGraph | str | Path) -> bool:
    """True if integers hold the numbers of a graph as they are, so that `quantize` leaves it alone.

    Whether their sums fit the widths is another question, which `lower` answers.

    Raises:
        GraphError: shapes or parameters that do not fit each other.
    """
    return not why_not_integer(inline(as_graph(source)))


def compare_quantization(
    source: Graph | nir.NIRGraph | str | Path, integer: Graph, inputs: NDArray[np.integer]
) -> QuantizationReport:
    """Run both graphs on spikes (steps, neurons) and count the differing cells of every spiking node.

    Raises:
        GraphError: ``integer`` lacks a spiking node of ``source``.
        InputError: the inputs do not fit.
    """
    return compare(float_reference.run(as_graph(source), inputs), reference.run(lower(integer), inputs))


def compare(floats: Trace, integers: Trace) -> QuantizationReport:
    """Differing cells of every spiking node, of the run of a float graph and of what `quantize` made of it.

    Raises:
        GraphError: ``integers`` lacks a spiking node of ``floats``.
    """
    nodes, steps = [], 0
    for name, want in floats.values.items():
        steps = len(want)
        if want.dtype != bool:
            continue
        got = integers.values.get(name)
        if got is None or got.shape != want.shape:
            raise GraphError(
                f"{name}: the integer graph has no such spiking node; compare a graph with what quantize made of it"
            )
        nodes.append(NodeError(name, int(want.sum()), int(got.sum()), int((got != want).sum()), want.size))
    return QuantizationReport(steps, tuple(nodes))


def _fitting(
    scales: Scales, factors: dict[Port, float]
) -> tuple[dict[Port, float], Program, Net, tuple[NodeScale, ...]]:
    """The factors that fit, and what they build.

    Where the worst case of the rounded weights leaves the widths, scales shrink by tenths.
    """
    for _ in range(SHRINKS):
        built, weights = scales.build(factors)
        try:
            return factors, lower_net(built), built, weights
        except IntegerOverflowError as error:
            failed = error
        factors = {root: 0.9 * factors.get(root, 1.0) for root in scales.roots}
    raise IntegerOverflowError(
        f"no scale of the weights fits the declared widths: {failed}; use fewer weight bits, or put a neuron between "
        "layers"
    ) from failed


def _calibrate(net: Net, scales: Scales, inputs: NDArray[np.integer]) -> dict[Port, float]:
    """The factor of each scale that leaves the fewest differing spikes, one scale after the other.

    Ties keep the data-free scale.
    """
    expected = float_reference.run_net(net, inputs)
    best: dict[Port, float] = {}
    for root in scales.roots:
        if scales.lossless[root]:
            continue
        costs = {}
        for factor in CANDIDATES:
            try:
                integers = reference.run(lower_net(scales.build({**best, root: factor})[0]), inputs)
            except (GraphError, IntegerOverflowError):  # a candidate beyond the formats is no candidate
                continue
            costs[factor] = compare(expected, integers).differences
        if costs:
            best[root] = min(costs, key=lambda factor: costs[factor])
    return best
