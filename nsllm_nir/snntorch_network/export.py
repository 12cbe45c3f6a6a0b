"""A network of snnTorch neurons as a float NIR graph that is checked against the network before it is given out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import snntorch as snn
import torch
from torch import nn

from nsllm_nir.errors import GraphError, InputError, LossyConversionError
from nsllm_nir.graph import Graph, Node
from nsllm_nir.snntorch_network.check import check
from nsllm_nir.snntorch_network.forward import INPUT, Layer, Network, first_shape, read_forward
from nsllm_nir.snntorch_network.layers import flatten, normalized, pool, weights
from nsllm_nir.snntorch_network.neurons import Part, neuron, parallel, use_heaviside
from nsllm_nir.snntorch_network.tracing import NORMS, STATES, UNCHANGING, Shape, is_layer

WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def network_graph(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Graph:
    """A float NIR graph that gives the spikes of ``model``, step for step; ``model`` stays as it is.

    Args:
        model: snnTorch neurons and torch layers; its forward runs one step, or loops over steps.
        input_shape: of one step without batch; needed unless the first layer with weights is Linear.

    Raises:
        LossyConversionError: a layer or an option without exact NIR form; or the graph and ``model`` gave different
        spikes.
        GraphError: a forward that cannot be read without data.
        InputError: no module, or ``input_shape`` is missing or does not fit.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"to_nir takes a torch.nn.Module, got {type(model).__name__}")
    own = _silent_copy(model)
    shape = first_shape(own) if input_shape is None else tuple(input_shape)
    if not all(isinstance(n, int) and n > 0 for n in shape) or not shape:
        raise InputError(f"input_shape must hold positive integers, got {shape}")
    with _own_instances(own):
        network = read_forward(own, shape)
        graph = _Builder(network, shape).graph()
        check(own, network, graph, shape)
    return graph


def _silent_copy(model: nn.Module) -> nn.Module:
    """A float64 copy on the CPU in the state before the first step."""
    kept = (
        t
        for m in model.modules()
        for t in (*vars(m).values(), *m._buffers.values())
        if isinstance(t, torch.Tensor) and not t.is_leaf
    )
    own = copy.deepcopy(model, {id(t): t.detach().clone() for t in kept}).to("cpu", torch.float64)
    own = nn.Sequential(own).train(own.training) if is_layer(own) else own
    for name, module in own.named_modules():
        if type(module) in (*STATES, snn.LeakyParallel):
            use_heaviside(module, name)
        if type(module) in STATES:
            module.reset_mem()
    return own


@contextmanager
def _own_instances(own: nn.Module) -> Iterator[None]:
    """snnTorch's list of all neurons, which `snntorch.utils.reset` walks, holds the copy's only."""
    before = snn.SpikingNeuron.instances
    snn.SpikingNeuron.instances = [m for m in own.modules() if isinstance(m, snn.SpikingNeuron)]
    try:
        yield
    finally:
        snn.SpikingNeuron.instances = before


@dataclass
class _Builder:
    """Nodes and edges made so far.

    ``values``: the nodes whose sum each layer gives; ``binary``: layers that give spikes.
    """

    network: Network
    shape: Shape
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    binary: set[str] = field(default_factory=lambda: {INPUT})
    folded: dict[str, str] = field(default_factory=dict)

    def graph(self) -> Graph:
        """The graph of the network.

        Raises:
            LossyConversionError: a layer without exact NIR form, or no spikes are returned.
        """
        names = {layer.name for layer in self.network.layers}
        entry = next(name for name in ("input", "input.port") if name not in names)
        self.values[INPUT] = (entry,)
        self._refuse_mixed_time()
        for layer in self.network.layers:
            self._layer(layer)
        self.nodes[entry] = Node("Input", {"shape": np.array(self.shape, np.int64)})
        outputs = self._outputs()
        for i, layer in enumerate(outputs):
            name = "output" if len(outputs) == 1 else f"output_{i}"
            name += ".port" if name in names else ""
            self.nodes[name] = Node("Output", {"shape": np.array(layer.out, np.int64)})
            self.edges += [(node, name) for node in self._reads((layer.name,), name)]
        return Graph(dict(sorted(self.nodes.items())), tuple(sorted(self.edges)))

    def _refuse_mixed_time(self) -> None:
        """`LeakyParallel` takes whole sequences: only layers that keep the axes of time and batch can be beside it."""
        if any(isinstance(layer.module, snn.LeakyParallel) for layer in self.network.layers):
            beside = (snn.LeakyParallel, nn.Linear, *UNCHANGING)
            other = next((layer for layer in self.network.layers if not isinstance(layer.module, beside)), None)
            if other is not None or self.network.steps > 1:
                what = "a loop over steps" if other is None else f"{other.name} ({type(other.module).__name__})"
                raise LossyConversionError(
                    f"LeakyParallel takes all steps at once, {what} does not; use snn.Leaky(reset_mechanism='none') "
                    "in its place"
                )

    def _reads(self, layers: tuple[str, ...], where: str) -> tuple[str, ...]:
        """Nodes whose sum ``where`` reads."""
        for layer in layers:
            if layer in self.folded:
                raise LossyConversionError(
                    f"{where}: {layer!r} is read in front of its batch normalisation {self.folded[layer]!r} too; use "
                    "a layer of its own"
                )
        nodes = tuple(node for layer in layers for node in self.values[layer])
        if len(set(nodes)) < len(nodes):
            raise LossyConversionError(
                f"{where}: adds a signal to itself, NIR has one edge between two nodes; double the weights instead"
            )
        return nodes

    def _layer(self, layer: Layer) -> None:
        module, where = layer.module, layer.name
        reads = self._reads(layer.reads, where)
        spikes = set(layer.reads) <= self.binary
        if isinstance(module, (*NORMS, *UNCHANGING[1:])) and module.training:
            raise LossyConversionError(
                f"{where}: {type(module).__name__} in training mode depends on chance or on the batch; call "
                "model.eval() first"
            )
        if isinstance(module, NORMS):
            self._fold(layer, reads)
            return
        if isinstance(module, UNCHANGING) or (isinstance(module, nn.Flatten) and layer.shape == layer.out):
            self.values[where] = reads
            self.binary |= {where} if spikes and len(reads) == 1 else set()
            return
        part = self._part(layer, spikes=spikes)
        taken = set(part.nodes) & set(self.nodes)
        if taken:
            raise GraphError(f"{where}: another layer is called {sorted(taken)[0]!r} too; rename one")
        self.nodes |= part.nodes
        self.edges += [*part.edges, *((node, entry) for node in reads for entry in part.entries)]
        self.values[where] = (part.out,)
        self.binary |= {where} if part.binary else set()

    def _part(self, layer: Layer, *, spikes: bool) -> Part:
        module, where = layer.module, layer.name
        single = spikes and len(layer.reads) == 1
        kind = type(module)
        if kind in STATES:
            return neuron(module, where, layer.shape)
        if kind is snn.LeakyParallel:
            return parallel(module, where, layer.shape, positive_input=spikes)
        if kind in WEIGHTS:
            return Part(where, (where,), {where: weights(module, where, layer.shape)})
        if kind is nn.Flatten:
            return Part(where, (where,), {where: flatten(module, layer.shape)}, binary=single)
        if kind is nn.AvgPool2d:
            return Part(where, (where,), {where: pool(module, where, layer.shape, layer.out)})
        if not single:
            raise LossyConversionError(
                f"{where}: the largest of potentials has no NIR form; pool the spikes behind the neuron, or use "
                "AvgPool2d"
            )
        total = f"{where}.sum"
        nodes = {
            total: pool(module, where, layer.shape, layer.out),
            where: Node("Threshold", {"threshold": np.full(layer.out, 0.5)}),
        }
        return Part(where, (total,), nodes, ((total, where),), binary=True)

    def _fold(self, layer: Layer, reads: tuple[str, ...]) -> None:
        """Batch normalisation into the weights in front, which nothing else may read."""
        front = self.nodes.get(reads[0]) if len(reads) == 1 else None
        if (
            front is None
            or front.type not in ("Linear", "Affine", "Conv1d", "Conv2d")
            or any(a == reads[0] for a, _ in self.edges)
        ):
            raise LossyConversionError(
                f"{layer.name}: batch normalisation goes into the weights in front; put it behind a Linear or Conv "
                "read by it alone"
            )
        self.nodes[reads[0]] = normalized(front, layer.module, layer.name)
        self.folded |= {name: layer.name for name, nodes in self.values.items() if nodes == reads}
        self.values[layer.name] = reads

    def _outputs(self) -> list[Layer]:
        """Returned layers of spikes that no other returned layer depends on."""
        layers = {layer.name: layer for layer in self.network.layers}
        found = {}
        for names in self.network.outputs:
            if len(names) != 1 or names[0] not in self.binary - {INPUT}:
                what = " + ".join(name or "its input" for name in names)
                raise LossyConversionError(
                    f"forward returns {what}, which is no train of spikes; return spikes (and states), put a neuron "
                    "behind other layers"
                )
            found[names[0]] = layers[names[0]]
        if not found:
            raise LossyConversionError(
                "forward returns no spikes, only states; return the spikes of the last layer too"
            )
        inner: set[str] = set()
        for layer in reversed(self.network.layers):
            if layer.name in found or layer.name in inner:
                inner |= set(layer.reads)
        return [layer for name, layer in found.items() if name not in inner]
