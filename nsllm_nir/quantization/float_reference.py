"""A plain numpy float64 interpreter of NIR graphs: what a float graph means, one step at a time.

The conventions are those of `lowering`: forward Euler with steps of `graph.DT`, strict thresholds, reset within the
step of the spike, fan-in is a sum, and one step of delay on the edges that leave a spiking node inside a cycle. It is
what `quantize` is measured against, never a backend.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.graph import Graph
from nsllm_nir.graph.node_kinds import spike_shape, spikes
from nsllm_nir.lowering.net import Net, Read, fitting, inline, joined
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization.float_nodes import Cell, Floats, cell


def signals(net: Net, inputs: NDArray[np.number]) -> list[dict[str, Floats]]:
    """Every signal of every step, from a silent start; inputs (steps, neurons) of the only Input.

    Raises:
        GraphError: shapes or parameters that do not fit.
        InputError: more than one Input, or an array that does not fit it.
    """
    nodes = dict(net.primitives())
    ports = [name for name, node in nodes.items() if node.type == "Input"]
    if len(ports) != 1:
        raise InputError(f"the graph has {len(ports)} inputs, one is expected")
    shape = tuple(int(n) for n in nodes[ports[0]].array("shape").reshape(-1))
    array = np.asarray(inputs, np.float64)
    if array.ndim != 2 or array.shape[1] != int(np.prod(shape)):
        raise InputError(f"input {ports[0]!r} expects an array (steps, {int(np.prod(shape))}), got shape {array.shape}")
    before = {name: np.zeros(spike_shape(node)) for name, node in nodes.items() if spikes(node)}
    cells: dict[str, Cell] = {}
    steps = []
    for row in array:
        now: dict[str, Floats] = {ports[0]: row.reshape(shape)}

        def value(read: Read, now: dict[str, Floats] = now, before: dict[str, Floats] = before) -> Floats:
            return before[read.source] if read.delayed else now[read.source]

        for name, node in nodes.items():
            if node.type == "Input":
                continue
            found = joined(net.reads[name], value, lambda found: found.shape, name)
            x = np.sum(found, axis=0) if len(found) > 1 else found[0]
            if name not in cells:
                with fitting(node, name, x.shape):
                    cells[name] = cell(node, name, x.shape)
            now[name] = cells[name](x)
        steps.append(now)
        before = now
    return steps


def run(graph: Graph, inputs: NDArray[np.number]) -> Trace:
    """Run spikes (steps, neurons) through a float graph.

    Returns bool arrays (steps, neurons) of every spiking node, and float64 arrays of the other outputs,
    by the names that `lower` gives them.

    Raises:
        GraphError: an inconsistent graph or parameter.
        InputError: ``inputs`` do not fit.
    """
    return run_net(inline(graph), inputs)


def run_net(net: Net, inputs: NDArray[np.number]) -> Trace:
    """`run` of an inlined graph; raises the same errors."""
    steps = signals(net, inputs)

    def stack(name: str) -> Floats:
        return np.array([x[name].reshape(-1) for x in steps])

    out: dict[str, NDArray[np.generic]] = {
        name: stack(name).astype(bool) for name, node in net.nodes.items() if spikes(node)
    }
    for name, node in net.primitives():
        if node.type == "Output":
            reads = net.reads[name]
            out.setdefault(reads[0].source if len(reads) == 1 else name + ".sum", stack(name))
    return Trace(out)
