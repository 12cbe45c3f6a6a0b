"""What the examples share: a classifier on its float graph, the integer reference and the backends, in one table.

The samples run one after the other, each followed by silence in which all states decay to zero, as a chip would
see them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nsllm_nir import lower, quantize, verify
from nsllm_nir.graph import Graph, as_graph
from nsllm_nir.program import reference
from nsllm_nir.quantization import float_reference

Array = np.ndarray


def accuracy(raster: Array, labels: Array) -> float:
    """Share of samples whose own output neuron spikes most; raster (samples * steps, classes), ties: the lowest."""
    counts = raster.reshape(len(labels), -1, raster.shape[1]).sum(1)
    return float(np.mean(counts.argmax(1) == labels))


def _joined(samples: Array) -> Array:
    """(samples, steps, neurons) to (samples * steps, neurons)."""
    return samples.reshape(-1, samples.shape[2])


def compare(
    source: Path | Graph,
    samples: Array,
    labels: Array,
    *,
    calibration: Array,
    framework: str,
    rasters: dict[str, Array],
    backends: Iterable[str],
) -> bool:
    """Quantize, run everything, print the table; True if every backend equals the integer reference in every cell.

    samples: test spikes (samples, steps, neurons), each with its silence; calibration: spikes of training samples, of
    the same form; rasters: what the framework that trained the network emitted, {node: (samples, steps, neurons)}, the
    output last.
    """
    graph = as_graph(source)
    stream, known = _joined(samples), {node: _joined(raster) for node, raster in rasters.items()}
    integer, done = quantize(graph, calibration=_joined(calibration))
    print(done)
    program = lower(integer)
    floats = dict(float_reference.run(graph, stream).values)
    report = verify(program, stream, backends)
    integers = dict(report.reference.values)
    nodes, output = list(rasters), list(rasters)[-1]
    for i in range(0, len(samples), 10):
        if not np.array_equal(
            reference.run(program, samples[i]).values[output], integers[output].reshape(*samples.shape[:2], -1)[i]
        ):
            raise SystemExit(f"test sample {i} is not as it is alone: the samples need more steps of silence")

    print(f"\n{len(samples)} test samples, {len(stream)} steps; neurons {', '.join(nodes)}")
    print(f"{'':18} {'accuracy':>9} {'spikes':>9} {'differing cells':>16}")

    def differing(got: dict[str, Array]) -> int:
        return sum(int((got[node] != floats[node]).sum()) for node in nodes)

    def row(name: str, got: dict[str, Array], cells: int, compared: str) -> None:
        share = 100 * accuracy(got[output], labels)
        print(f"{name:18} {share:>7.2f} % {sum(int(got[node].sum()) for node in nodes):>9} {cells:>9} {compared}")

    row(framework, known, differing(known), "from the float graph")
    row("float graph", floats, 0, "(its own)")
    row("integer reference", integers, differing(integers), "from the float graph: quantization")
    for result in report.results:
        if result.trace is None:
            print(f"{result.backend:18} {result.error}")
        else:
            row(result.backend, dict(result.trace.values), result.differences, "from the integer reference, all nodes")
    return report.exact
