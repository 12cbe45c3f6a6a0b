"""The scale S of every signal of a prepared float graph, and the integer graph that follows from the scales.

An edge, and a node without weights, ties two scales; a class of tied scales is one unknown. Spikes have S = 1.
Each other class takes the largest scale that its weights, thresholds and state widths allow, or the largest one that is
lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError
from nsllm_nir.graph import DT, Node, Shape
from nsllm_nir.lowering.net import Net
from nsllm_nir.lowering.node_rules import LIF_BIAS, MAX_GAIN, rounded
from nsllm_nir.program.constants import LIF_LIMIT
from nsllm_nir.quantization.float_nodes import (
    ROLES,
    Dynamic,
    Entry,
    Firing,
    Floats,
    Interval,
    Neuron,
    Passing,
    Synapses,
    Weighted,
    has_states,
    integrates,
    neuron,
    synapses,
    tie,
)
from nsllm_nir.quantization.folding import emits, shaped
from nsllm_nir.quantization.loihi_formats import Formats

FRACTION = 64  # Loihi's states count in 1/64 of a weight unit
LOSSLESS = 3e-5  # distance from an integer that float32 parameters may have
NEAR = 0.99  # of the largest scale: given up for integer gains, so that a reset subtracts exactly its threshold
HEADROOM = 0.97  # for the rounding of weights, in bounds that float weights imply
Port = tuple[str, int]  # node, 0: its input, 1: its output
SPIKES: Port = ("", 1)


@dataclass(frozen=True)
class NodeScale:
    """A node with weights: integer weight = round(scale * weight). error: relative, root mean square."""

    node: str
    scale: float
    error: float


class Scales:
    """Scales of a prepared graph for numbers of ``formats``.

    roots: one port of each class of tied scales, in the order in which they are resolved.
    lossless: per root, whether all weights and biases are integers at its scale.

    Raises:
        GraphError: ties contradict each other, or weights feed back into the scale of their own input.
    """

    def __init__(self, net: Net, units: frozenset[str], formats: Formats) -> None:
        self.net, self.units, self.formats = net, units, formats
        self.shapes: dict[str, tuple[Node, Shape]] = {name: (node, shape) for name, node, shape in shaped(net)}
        self.parents: dict[Port, tuple[Port, float]] = {}
        self.weights: dict[str, Synapses] = {}
        self.neurons: dict[str, Neuron] = {}
        for name, (node, shape) in self.shapes.items():
            found = synapses(node, name, shape) if tie(node) is None or name in units else None
            if found is not None:
                self.weights[name] = found
            if has_states(node):
                self.neurons[name] = neuron(node, name, shape)
        self._tie_all()
        self.bounds = _bounds(net, self.shapes, self.neurons)
        self.resolved: dict[Port, float] = {SPIKES: 1.0}
        self.lossless: dict[Port, bool] = {}
        self.active: list[Port] = []
        for name in self.shapes:
            for port in ((name, 0), (name, 1)):
                self._resolve(self._find(port)[0])

    @property
    def roots(self) -> tuple[Port, ...]:
        """One port for each scale that may be chosen freely."""
        return tuple(self.lossless)

    def of(self, port: Port, factors: dict[Port, float] | None = None) -> float:
        """Scale of a node's input (name, 0) or output (name, 1)."""
        root, ratio = self._find(port)
        return ratio * self.resolved[root] * (factors or {}).get(root, 1.0)

    def _find(self, port: Port) -> tuple[Port, float]:
        """Root of a port's class, and the port's scale over the root's."""
        ratio = 1.0
        while port in self.parents:
            port, step = self.parents[port]
            ratio *= step
        return port, ratio

    def _tie(self, a: Port, b: Port, ratio: float) -> None:
        """Scale of b = ratio * scale of a."""
        (root_a, to_a), (root_b, to_b) = self._find(a), self._find(b)
        if root_a == root_b:
            if not np.isclose(to_b, ratio * to_a, rtol=1e-9):
                raise GraphError(
                    f"{b[0]}: its inputs have scales that do not agree ({to_b:g} and {ratio * to_a:g}); put a Linear "
                    "or Scale on one of them"
                )
        elif root_b == SPIKES:
            self.parents[root_a] = (root_b, to_b / (ratio * to_a))
        else:
            self.parents[root_b] = (root_a, ratio * to_a / to_b)

    def _tie_all(self) -> None:
        for name, (node, _) in self.shapes.items():
            ratio = tie(node)
            if emits(node):
                self._tie(SPIKES, (name, 1), 1.0)
            elif integrates(node):
                self._tie((name, 0), (name, 1), self._unit(name) / float(self.neurons[name].gain.max()))
            elif name not in self.weights and ratio is not None:
                self._tie((name, 0), (name, 1), ratio)
        for a, b in self.net.edges:
            self._tie((a, 1), (b, 0), 1.0)

    def _unit(self, name: str) -> int:
        """Output of an integrator per input unit: 64, or 1 where weights read it, which needs a bounded `Integrate`."""
        node = self.shapes[name][0]
        if not integrates(node):
            return 1
        other = [b for a, b in self.net.edges if a == name and self.shapes[b][0].type not in ("Output", "Threshold")]
        if not other:
            return FRACTION
        shift = np.log2(256 * self.neurons[name].mem) if node.type == "LI" else np.full(1, -1.0)
        if (shift != np.rint(shift)).any() or shift.min() < 0 or self.neurons[name].leak.any():
            raise GraphError(
                f"{name}: {other[0]} reads the potential of this {node.type} node, which integers bound only for an "
                "LI node with tau = 2**k steps (k <= 8) "
                "and v_leak = 0; use such a tau, put weights in front of it (its neurons then need one tau and gain), "
                "or use a spiking neuron"
            )
        return 1

    def _resolve(self, root: Port) -> None:
        if root in self.resolved:
            return
        if root in self.active:
            raise GraphError(
                f"{root[0]}: weights feed back into the scale of their own input without a neuron between; put a "
                "spiking neuron into that path"
            )
        self.active.append(root)
        weights: list[Floats] = []
        gains: list[Floats] = []
        biases, soft, cap = [], [], np.inf
        for name, found in self.weights.items():
            class_, ratio = self._find((name, 1))
            if class_ != root:
                continue
            self._resolve(self._find((name, 0))[0])
            weight = found.weight * (ratio / self.of((name, 0)))
            (gains if self.shapes[name][0].type == "Scale" else weights).append(weight)
            biases.append(found.bias * ratio)
            cap = min(
                cap,
                _over(self._limit(name), _top([weight])),
                _over(HEADROOM * LIF_LIMIT, ratio * _largest(self.bounds[name, 1])),
            )
        for name, n in self.neurons.items():
            class_, ratio = self._find((name, 0))
            if class_ == root:
                cap = min(cap, self._neuron_cap(name, n) / ratio)
                soft += _soft(n, ratio)
        self.active.pop()
        top = _top(weights) or _top(gains)
        if 0 < cap * top < 1:
            raise GraphError(
                f"{root[0]}: its thresholds, leak currents or worst-case sums exceed the formats "
                f"{1 / (cap * top):.3g} times where its largest weight is 1; "
                "use larger weights or smaller thresholds, and merge weights that follow each other without a neuron"
            )
        self.resolved[root], self.lossless[root] = _choose(cap, top, weights + gains + biases, soft, gains)

    def _limit(self, name: str) -> int:
        """Largest integer weight of a node: a gain may have more bits than a weight."""
        return MAX_GAIN if self.shapes[name][0].type == "Scale" else self.formats.largest_weight

    def _neuron_cap(self, name: str, n: Neuron) -> float:
        """Largest input scale that thresholds, leak currents, synaptic currents and integrators can hold."""
        reach = _largest(self.bounds[name, 0])
        cap = min(
            _over(HEADROOM * LIF_LIMIT * float(n.syn.min()), FRACTION * reach),
            _over(LIF_BIAS, float(np.abs(FRACTION * n.leak * n.mem / n.gain).max())),
        )
        if n.threshold is not None:
            return min(cap, _over(self.formats.largest_threshold, float(np.abs(n.threshold / n.gain).max())))
        out = min(_largest(self.bounds[name, 1]), self._room(name, n))
        return (
            min(cap, _over(HEADROOM * LIF_LIMIT * float(n.gain.max()), self._unit(name) * out))
            if np.isfinite(out)
            else cap
        )

    def _room(self, name: str, n: Neuron) -> float:
        """What an integrator that only thresholds read must hold: one step beyond the threshold.

        There it may saturate, as a spiking neuron does.
        """
        readers = [b for a, b in self.net.edges if a == name]
        alone = [self.shapes[b][0] for b in readers if sum(target == b for _, target in self.net.edges) == 1]
        levels = [node.array("threshold").astype(np.float64) for node in alone if node.type == "Threshold"]
        if len(levels) < len(readers) or any(
            (level < 0).any() for level in levels
        ):  # a negative threshold is added to the potential
            return np.inf
        return float((n.gain / n.syn).max()) * _largest(self.bounds[name, 0]) + _top(levels)

    def build(self, factors: dict[Port, float]) -> tuple[Net, tuple[NodeScale, ...]]:
        """The integer graph, and how weights were rounded.

        Each root's scale is multiplied by its factor (1 where none is given).
        """
        nodes: dict[str, Node] = {}
        report = []
        for name, (node, _) in self.shapes.items():
            inner, outer = self.of((name, 0), factors), self.of((name, 1), factors)
            role = ROLES[node.type]
            nodes[name] = node
            match role:
                case Weighted(integer=kind):
                    if name in self.weights:
                        weights = self.weights[name]
                        nodes[name], error = _weights(node, weights, outer / inner, outer, self._limit(name))
                        report.append(NodeScale(name, outer / inner, error))
                    elif kind:
                        nodes[name] = Node(kind, node.parameters)
                case Dynamic():
                    nodes[name] = _neuron(node, name, self.neurons[name], inner, self._unit(name), self.formats)
                case Firing(parameter):
                    level = node.array(parameter)
                    nodes[name] = Node(node.type, {parameter: _half(rounded(level * inner)).reshape(level.shape)})
                case Entry() | Passing():
                    pass
                case _:
                    assert_never(role)
        return Net(nodes, self.net.reads, self.net.metadata), tuple(report)


def _over(limit: float, value: float) -> float:
    return limit / value if value > 0 else np.inf


def _top(weights: list[Floats]) -> float:
    return max((float(np.abs(weight).max(initial=0)) for weight in weights), default=0.0)


def _largest(interval: Interval) -> float:
    return float(max(np.abs(interval[0]).max(initial=0), np.abs(interval[1]).max(initial=0)))


def _soft(n: Neuron, ratio: float) -> list[Floats]:
    """Numbers of a neuron that are best integers: thresholds where the state decays, and leak currents."""
    found = [FRACTION * ratio * n.leak * n.mem / n.gain]
    if n.threshold is not None and ((n.mem > 0) & (n.mem < 1)).any():
        found.append(ratio * n.threshold / n.gain)
    return found


def _choose(
    cap: float, top: float, strict: list[Floats], soft: list[Floats], gains: list[Floats]
) -> tuple[float, bool]:
    """Largest scale up to ``cap`` at which all numbers are integers.

    Else all of ``strict``, else (near ``cap``) of ``gains``, else ``cap``.

    Returns also whether ``strict`` are integers there. top: the largest weight.
    """
    if top == 0:
        return (cap if np.isfinite(cap) else 1.0), False
    for wanted, pivot, least in ((strict + soft, top, 0.0), (strict, top, 0.0), (gains, _top(gains), NEAR * cap)):
        flat = np.concatenate([np.zeros(1), *(np.unique(x) for x in wanted)])
        scales = np.arange(int(cap * pivot + 1e-9), int(least * pivot), -1) / (pivot or 1.0)
        for scale in scales[_near_integers(np.multiply.outer(scales, flat[:16])).all(axis=1)]:
            if _near_integers(flat * scale).all():
                return float(scale), wanted is not gains
    return cap, False


def _near_integers(x: Floats) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(x - np.rint(x)) <= LOSSLESS
    return near


def _bounds(net: Net, shapes: dict[str, tuple[Node, Shape]], neurons: dict[str, Neuron]) -> dict[Port, Interval]:
    """Worst-case intervals of every input and output for binary inputs; integrators by their fixed points."""
    out: dict[Port, Interval] = {}
    sending = {name: (0.0, 1.0) for name, (node, _) in shapes.items() if emits(node)}
    for name, (node, shape) in shapes.items():
        ends = [
            tuple(np.broadcast_to(e, shape) for e in (sending.get(r.source) or out[r.source, 1]))
            for r in net.reads[name]
        ]
        low, high = (np.sum([e[i] for e in ends], axis=0) if ends else np.full(shape, float(i)) for i in (0, 1))
        out[name, 0] = (low, high)
        role = ROLES[node.type]
        match role:
            case Weighted():
                found = role.synapses(node, name, shape)
                plus, minus = np.maximum(found.weight, 0), np.minimum(found.weight, 0)
                first = found.apply(plus, low) + found.apply(minus, high) + found.bias
                out[name, 1] = (first, found.apply(plus, high) + found.apply(minus, low) + found.bias)
            case Passing():
                out[name, 1] = role.bounds(node, name, shape, (low, high))
            case Dynamic() if name not in sending:
                n, reach = neurons[name], np.maximum(np.abs(low), np.abs(high))
                with np.errstate(divide="ignore", invalid="ignore"):
                    top = np.where(reach > 0, n.gain * reach / (n.mem * n.syn), 0.0) + np.abs(n.leak)
                out[name, 1] = (-top, top)
            case Entry() | Firing() | Dynamic():
                out[name, 1] = (np.zeros(shape), np.ones(shape))
            case _:
                assert_never(role)
    return out


def _weights(node: Node, found: Synapses, scale: float, bias_scale: float, limit: int) -> tuple[Node, float]:
    """The node with rounded weights and biases, and the relative error of its weights."""
    exact = found.weight * scale
    weight = np.clip(np.rint(exact), -limit, limit)
    size = float(np.sqrt((exact**2).mean())) if exact.size else 0.0
    error = float(np.sqrt(((weight - exact) ** 2).mean())) / size if size else 0.0
    if node.type == "Scale":
        return Node("Scale", {"scale": weight.reshape(node.array("scale").shape)}), error
    parameters = {**node.parameters, "weight": weight.astype(np.int8).reshape(node.array("weight").shape)}
    if "bias" in parameters:
        parameters["bias"] = np.rint(node.array("bias").astype(np.float64) * bias_scale).astype(np.int32)
    return Node(node.type, parameters), error


def _half(threshold: Floats) -> Floats:
    """On integers, v > t and v > floor(t) + 1/2 are the same, and the latter has no ties."""
    half: Floats = np.floor(threshold) + 0.5
    return half


def _neuron(node: Node, where: str, n: Neuron, scale: float, unit: int, formats: Formats) -> Node:
    """A neuron with rounded decays, gain ``unit`` and thresholds and leak currents at ``scale``."""
    mem, syn = formats.decay(n.mem), formats.decay(n.syn)
    membrane = next((name for name in ("tau_mem", "tau") if name in node.parameters), "")
    leaky, cuba = bool(membrane), "tau_syn" in node.parameters
    bias: NDArray[np.float64] = np.rint(FRACTION * scale * n.leak * mem / 4096 / n.gain)
    parameters: dict[str, Floats] = {"r": unit * 4096 / mem if leaky else np.full(mem.shape, unit / DT)}
    if leaky:
        parameters |= {membrane: 4096 * DT / mem, "v_leak": unit * bias * 4096 / (FRACTION * mem)}
        if cuba:
            parameters |= {"tau_syn": 4096 * DT / syn, "w_in": 4096 / syn}
    if n.threshold is not None:
        scaled = rounded(scale * n.threshold / n.gain).reshape(mem.shape)
        memoryless = (mem == 4096).all() and (syn == 4096).all() and not bias.any()
        level = _half(scaled) if memoryless else np.rint(scaled) if leaky else np.floor(scaled)
        if not memoryless and level.max() > formats.largest_threshold:
            raise GraphError(
                f"{where}: v_threshold is {level.max():g} in units of its weights, beyond {formats.threshold_bits} "
                "bits; use a smaller scale"
            )
        parameters |= {"v_threshold": level, "v_reset": np.zeros(mem.shape)}
    return Node(node.type, dict(parameters))
