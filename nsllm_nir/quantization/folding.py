"""Rewrites of a float graph that make it quantizable.

Inlining, folding of gains, synapses for spikes that lack weights.

None of them changes what the graph computes; what no integer graph can hold is refused here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from nsllm_nir.errors import GraphError
from nsllm_nir.graph import DT, Node, Shape
from nsllm_nir.graph.node_kinds import spikes
from nsllm_nir.lowering.net import Net, connected, fitting, shapes
from nsllm_nir.lowering.node_rules import gain_shift
from nsllm_nir.quantization.float_nodes import (
    Floats,
    has_states,
    integrates,
    neuron,
    steps_of,
    synapses,
    tie,
)
from nsllm_nir.quantization.loihi_formats import Formats


def prepare(net: Net, formats: Formats) -> tuple[Net, frozenset[str]]:
    """The graph with Scales folded, and the names of its unit synapses.

    These were added where spikes enter neurons without weights.

    Raises:
        GraphError: something that integers cannot hold, or shapes that do not fit.
    """
    twice = [edge for edge, number in Counter(net.edges).items() if number > 1]
    if twice:
        raise GraphError(f"{twice[0][1]}: reads {twice[0][0]!r} twice; use one edge and doubled weights")
    for name, node, shape in shaped(net):
        with fitting(node, name, shape):
            _check(node, name, shape, formats)
    net = _merge_linears(_move_integrators(_fold_scales(_uniform_gains(net))))
    return _unit_synapses(net)


def shaped(net: Net) -> list[tuple[str, Node, Shape]]:
    """Nodes in execution order with the shapes of their inputs (of the port itself, for an Input)."""
    found = shapes(net)
    return [(name, node, found[name]) for name, node in net.primitives()]


def _check(node: Node, where: str, shape: Shape, formats: Formats) -> None:
    """Refuse numbers that no integer graph can hold; `neuron` and `delay_steps` refuse theirs."""
    for name in ("weight", "bias", "scale", "threshold"):
        if name in node.parameters and not np.isfinite(node.array(name).astype(np.float64)).all():
            raise GraphError(f"{where}: the {name} holds NaN or infinity")
    if has_states(node):
        found = neuron(node, where, shape)
        if found.reset.any():
            raise GraphError(
                f"{where}: v_reset must be 0, as Loihi resets to zero; shift v_leak, v_threshold and v_reset so that "
                "v_reset is 0"
            )
        memoryless = (found.mem == 1).all() and (found.syn == 1).all() and not found.leak.any()
        if found.threshold is not None and not memoryless and (found.threshold < 0).any():
            raise GraphError(
                f"{where}: a neuron with memory needs v_threshold >= 0, found {found.threshold.min():g}; raise it and "
                "lower v_leak"
            )
        for name, rate in (("tau_syn", found.syn), ("tau", found.mem)):
            slow, most = formats.decay(rate) == 0, 2 << formats.decay_bits
            if slow.any() and (name == "tau_syn" or {"tau", "tau_mem"} & set(node.parameters)):
                bits = formats.decay_bits
                raise GraphError(
                    f"{where}: {name} is beyond {most} steps, its {bits}-bit decay is 0; use an IF or I node, or at "
                    f"most {most * DT:g} s"
                )
    if node.type == "Delay":
        steps_of(node, where, shape)


def _uniform_gains(net: Net) -> Net:
    """Integrators whose neurons have different gains: the gains move into a Scale in front."""
    nodes, edges = _nodes(net), list(net.edges)
    for name, node, shape in shaped(net):
        if not integrates(node):
            continue
        n = neuron(node, name, shape)
        top = float(n.gain.max())
        if (n.gain == top).all():
            continue
        edges = [(a, f"{name}.gain" if b == name else b) for a, b in edges] + [(f"{name}.gain", name)]
        nodes[f"{name}.gain"] = Node("Scale", {"scale": n.gain / top})
        more = {"w_in": np.ones(shape)} if node.type == "CubaLI" else {}
        nodes[name] = Node(
            node.type, {**node.parameters, **more, "r": top / (n.syn * (n.mem if node.type != "I" else DT))}
        )
    return connected(nodes, edges, net.metadata)


def _fold_scales(net: Net) -> Net:
    """Gains that are no powers of two move into the only weights in front, else into all behind; others stay."""
    for name, node in sorted(_nodes(net).items()):
        if node.type != "Scale" or gain_shift(node) is not None:
            continue
        before, behind = [a for a, b in net.edges if b == name], [b for a, b in net.edges if a == name]
        gain, ready = node.array("scale"), None
        if len(before) == 1 and sum(a == before[0] for a, _ in net.edges) == 1:
            ready = _folded(_nodes(net), before, gain, rows=True)
        if ready is None and all(sum(b == target for _, b in net.edges) == 1 for target in behind):
            ready = _folded(_nodes(net), behind, gain, rows=False)
        if ready is not None:
            net = _without(connected({**net.nodes, **ready}, [*net.edges], net.metadata), name)
    return net


def _folded(nodes: dict[str, Node], names: list[str], gain: Floats, *, rows: bool) -> dict[str, Node] | None:
    """All of ``names`` with the gains folded in; None if one cannot take them."""
    scaled = {name: _scaled(nodes[name], gain, rows=rows) for name in names}
    ready = {name: node for name, node in scaled.items() if node is not None}
    return ready if len(ready) == len(names) > 0 else None


def _scaled(node: Node, gain: Floats, *, rows: bool) -> Node | None:
    """A node whose weights took over the gains of its outputs (rows) or inputs; None if it cannot."""
    if node.type not in ("Linear", "Affine", "Conv1d", "Conv2d"):
        return None
    weight, gain = node.array("weight").astype(np.float64), gain.astype(np.float64)
    size = weight.shape[-2 if rows else -1]
    if node.type.startswith("Conv"):
        channels = (
            gain.reshape(gain.shape[0], -1)
            if gain.ndim == weight.ndim - 1
            else np.broadcast_to(gain.reshape(1, -1), (1, gain.size))
        )
        if (channels != channels[:, :1]).any() or (not rows and int(node.parameters["groups"]) > 1):
            return None
        axis = 0 if rows else 1
        per_channel = np.broadcast_to(channels[:, 0], (weight.shape[axis],))
        factor = per_channel.reshape(-1, *([1] * (weight.ndim - 1 - axis)))
    else:
        per_channel = np.broadcast_to(gain.reshape(-1), (size,))
        factor = per_channel[:, None] if rows else per_channel
    parameters = {**node.parameters, "weight": weight * factor}
    if rows and "bias" in parameters:
        bias = node.array("bias").astype(np.float64)
        parameters["bias"] = bias * per_channel.reshape(bias.shape)
    return Node(node.type, parameters)


def _move_integrators(net: Net) -> Net:
    """LI nodes whose potential only weights or one leaky neuron read.

    With one tau and gain for all neurons LI commutes with weights, and moves behind them; a bias of the weights becomes
    leak of what reads them. In front of an LI or LIF node, LI is the synapse of CubaLI or CubaLIF.
    """
    for rewrite in (_behind, _as_synapse):
        while (moved := next(_rewritten(net, rewrite), None)) is not None:
            net = moved
    return net


def _rewritten(net: Net, rewrite: Callable[[Net, str, str, Shape], Net | None]) -> Iterator[Net]:
    """What ``rewrite`` makes of each LI node, where it applies, the last one first.

    It is given the only node that reads the LI node, if that reads nothing else.
    """
    for name, node, shape in reversed(shaped(net)):
        readers = [b for a, b in net.edges if a == name]
        if (
            node.type == "LI"
            and len(readers) == 1
            and sum(b == readers[0] for _, b in net.edges) == 1
            and not node.array("v_leak").any()
        ):
            found = rewrite(net, name, readers[0], shape)
            if found is not None:
                yield found


def _as_synapse(net: Net, name: str, reader: str, shape: Shape) -> Net | None:
    """The LI node ``name`` as the synapse of ``reader``; None if that is no LI or LIF."""
    nodes = _nodes(net)
    if nodes[reader].type not in ("LI", "LIF"):
        return None
    membrane = {"tau_mem" if key == "tau" else key: value for key, value in nodes[reader].parameters.items()}
    synapse = {"tau_syn": nodes[name].array("tau"), "w_in": nodes[name].array("r")}
    return _without(
        connected({**nodes, reader: Node(f"Cuba{nodes[reader].type}", membrane | synapse)}, [*net.edges], net.metadata),
        name,
    )


def _behind(net: Net, name: str, reader: str, shape: Shape) -> Net | None:
    """The LI node ``name`` behind the weights of ``reader``.

    None if they do not commute, or nothing can take their bias.
    """
    nodes = _nodes(net)
    li, weights, behind = nodes[name], nodes[reader], [b for a, b in net.edges if a == reader]
    found = synapses(weights, reader, shape)
    same = all((values == values.reshape(-1)[0]).all() for values in (li.array("tau"), li.array("r")))
    if found is None or not same or "Output" in {nodes[b].type for b in behind}:  # an output keeps its name
        return None
    out = found.apply(found.weight, np.zeros(shape)).shape
    nodes[name] = Node("LI", {key: np.full(out, li.array(key).reshape(-1)[0]) for key in ("tau", "r", "v_leak")})
    if found.bias.any():
        if [nodes[b].type for b in behind] not in (["LI"], ["LIF"]):
            return None
        last = nodes[behind[0]]
        leak = last.array("v_leak").reshape(-1) + last.array("r").reshape(-1) * np.broadcast_to(
            found.bias, out
        ).reshape(-1)
        nodes[behind[0]] = Node(last.type, {**last.parameters, "v_leak": leak})
        nodes[reader] = Node(weights.type, {**weights.parameters, "bias": np.zeros(weights.array("bias").shape)})
    swap = {name: reader, reader: name}
    return connected(nodes, [(swap.get(a, a), swap.get(b, b)) for a, b in net.edges], net.metadata)


def _merge_linears(net: Net) -> Net:
    """Matrices that follow each other become their product, under the name of the last one."""
    for name in sorted(net.nodes):
        nodes, readers = _nodes(net), [b for a, b in net.edges if a == name]
        if (
            len(readers) != 1
            or sum(b == readers[0] for _, b in net.edges) != 1
            or {nodes[name].type, nodes[readers[0]].type} - {"Linear", "Affine"}
        ):
            continue
        one, two = (synapses(nodes[n], n, nodes[n].array("weight").shape[-1:]) for n in (name, readers[0]))
        assert one is not None and two is not None
        rows = two.weight.reshape(two.weight.shape[-2:])
        weight = (rows @ one.weight.reshape(-1, one.weight.shape[-1])).reshape(*two.bias.shape, -1)
        bias = (rows @ one.bias.reshape(-1)).reshape(two.bias.shape) + two.bias
        merged = Node("Affine", {"weight": weight, "bias": bias}) if bias.any() else Node("Linear", {"weight": weight})
        net = _without(connected({**nodes, readers[0]: merged}, [*net.edges], net.metadata), name)
    return net


def _nodes(net: Net) -> dict[str, Node]:
    return dict(net.primitives())


def _without(net: Net, name: str) -> Net:
    """The graph without a node; what it read goes to its readers."""
    before, behind = [a for a, b in net.edges if b == name], [b for a, b in net.edges if a == name]
    edges = [edge for edge in net.edges if name not in edge] + [(a, b) for a in before for b in behind]
    return connected({key: node for key, node in net.nodes.items() if key != name}, edges, net.metadata)


def emits(node: Node) -> bool:
    """True for what sends spikes: a spiking node, an Input."""
    return spikes(node) or node.type == "Input"


def _unit_synapses(net: Net) -> tuple[Net, frozenset[str]]:
    """Unit Scales where spikes reach a neuron with memory, or a sum, without weights.

    They are quantized like weights.
    """
    nodes, edges = _nodes(net), list(net.edges)
    factor: dict[str, float | None] = {name: 1.0 for name, node in net.primitives() if emits(node)}
    added = set()
    for name, node, shape in shaped(net):
        before = [a for a, b in net.edges if b == name]
        found = {factor[a] for a in before}
        single = next(iter(found)) if len(found) == 1 else None
        if len(found) > 1 or (single is not None and _needs_resolution(node, name, shape)):
            for a in before:
                if factor[a] is not None:
                    synapse = f"{name}.from_{a}"
                    nodes[synapse] = Node("Scale", {"scale": np.ones(shape)})
                    edges[edges.index((a, name))] = (a, synapse)
                    edges.append((synapse, name))
                    added.add(synapse)
            single = None
        if name not in factor:
            factor[name] = None if single is None or tie(node) is None else single * (tie(node) or 1.0)
    return connected(nodes, edges, net.metadata), frozenset(added)


def _needs_resolution(node: Node, where: str, shape: Shape) -> bool:
    """Neurons whose state decays need an input of more than single units."""
    if not has_states(node):
        return False
    n = neuron(node, where, shape)
    return integrates(node) or bool(((n.mem > 0) & (n.mem < 1)).any() or (n.syn < 1).any() or n.leak.any())
