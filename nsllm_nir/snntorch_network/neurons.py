"""snnTorch neurons as NIR nodes, exact in real arithmetic; the equations are those of snnTorch 1.0.0's modules.

With U the potential before a reset, x the input, b = beta, t the threshold and s the spikes of the step:

    subtract, delayed      U = b U' + x - t s'                     s = [U > t]
    subtract, immediate    U = b U' + x - b t s'                   s = [U > t + t e'],  e = [U > 2 t - t e']
    zero                   U = b U' (1 - s') + x                   s = [U > t]
    none                   U = b U' + x                            s = [U > t]

A prime marks the step before; e says that the potential exceeds the threshold even after its reset, in which
case snnTorch asks it to exceed the threshold twice in the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import snntorch as snn
import torch
from torch import nn

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.graph import DT, Node, chain
from nsllm_nir.snntorch_network.layers import Floats, Shape, array, weights

PROBES = (-1.0, -1e-6, 0.0, 1e-6, 1.0)


@dataclass(frozen=True)
class Part:
    """What a layer becomes.

    Nodes, edges between them, the nodes that read its input, and the one that gives its output.
    """

    out: str
    entries: tuple[str, ...]
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: tuple[tuple[str, str], ...] = ()
    binary: bool = False


def neuron(module: nn.Module, name: str, shape: Shape) -> Part:
    """Nodes of a neuron layer of ``shape``; the node ``name`` carries its spikes.

    Raises:
        LossyConversionError: a neuron, an option or a parameter without exact NIR form.
    """
    assert isinstance(module, snn.SpikingNeuron)
    _refuse_options(module, name)
    reset = _reset(module, name)
    threshold = _values(module.threshold, shape, name, "threshold")
    if reset != "none" and (threshold < 0).any():
        raise LossyConversionError(
            f"{name}: a negative threshold ({threshold.min():g}) resets before the first spike; use "
            "reset_mechanism='none'"
        )
    decay, gain = _membrane(module, shape, name)
    synapse = _unit(module.alpha, shape, name, "alpha") if isinstance(module, snn.Synaptic | snn.RSynaptic) else None
    nodes, edges, entry = _integrators(name, decay, gain, synapse, threshold if reset == "zero" else None)
    if reset != "zero":
        nodes[name] = Node("Threshold", {"threshold": threshold})
    if reset in ("delayed", "immediate"):
        recovers = f"{name}.membrane"
        if synapse is not None:
            recovers = f"{name}.recovery"
            nodes[recovers] = _integrator(decay, np.ones(shape), name)
            edges += chain(recovers, name)
        nodes[f"{name}.reset"] = Node("Scale", {"scale": -threshold / gain * (decay if reset == "immediate" else 1.0)})
        edges += chain(name, f"{name}.reset", recovers)
    if reset == "immediate":
        sums = [a for a, b in edges if b == name]
        nodes |= {f"{name}.excess": Node("Threshold", {"threshold": 2 * threshold})}
        nodes |= {
            f"{name}.excess.{which}": Node("Scale", {"scale": sign * threshold})
            for which, sign in (("hold", 1), ("veto", -1))
        }
        edges += [(a, f"{name}.excess") for a in sums]
        edges += chain(f"{name}.excess", f"{name}.excess.hold", f"{name}.excess") + chain(
            f"{name}.excess", f"{name}.excess.veto", name
        )
    if isinstance(module, snn.RLeaky | snn.RSynaptic):
        nodes[f"{name}.recurrent"] = _recurrent(module, f"{name}.recurrent", shape)
        edges += chain(name, f"{name}.recurrent", entry)
    graded = _values(module.graded_spikes_factor, shape, name, "graded_spikes_factor")
    if (graded == 1).all():
        return Part(name, (entry,), nodes, tuple(edges), binary=True)
    nodes[f"{name}.graded"] = Node("Scale", {"scale": graded})
    return Part(f"{name}.graded", (entry,), nodes, (*edges, (name, f"{name}.graded")))


def parallel(module: nn.Module, name: str, shape: Shape, *, positive_input: bool) -> Part:
    """`LeakyParallel`: weights, an integrator without reset, a threshold. Its ReLU must have nothing to clip.

    Raises:
        LossyConversionError: potentials that could become negative, neurons that leak into each other, options as for
        `neuron`.
    """
    assert isinstance(module, snn.LeakyParallel)
    rnn = module.rnn
    weight = array(rnn.weight_ih_l0, name, "the weight")
    bias = (
        sum((array(b, name, "the bias") for b in (rnn.bias_ih_l0, rnn.bias_hh_l0)), np.zeros(len(weight)))
        if rnn.bias
        else np.zeros(len(weight))
    )
    hidden = array(rnn.weight_hh_l0, name, "the hidden weight")
    decay = np.diag(hidden).copy()
    if (hidden != np.diag(decay)).any():
        raise LossyConversionError(
            f"{name}: potentials that leak into each other (weight_hh_enable) have no NIR form; use a diagonal, "
            "beta=..."
        )
    if not positive_input or (weight < 0).any() or (bias < 0).any() or (decay < 0).any():
        what = "its input may be negative" if not positive_input else "a weight, bias or beta is negative"
        raise LossyConversionError(
            f"{name}: LeakyParallel clips negative potentials, and {what}; use Linear and Leaky(reset_mechanism='none')"
        )
    if (decay > 1).any():
        raise LossyConversionError(
            f"{name}: beta {decay.max():g} exceeds 1, the potential grows without end; use at most 1"
        )
    if (_values(module.graded_spikes_factor, decay.shape, name, "graded_spikes_factor") != 1).any():
        raise LossyConversionError(
            f"{name}: graded_spikes_factor of LeakyParallel is not supported; use Linear weights behind it"
        )
    nodes = {
        f"{name}.rnn": Node("Affine", {"weight": weight, "bias": bias}),
        f"{name}.membrane": _integrator(decay, np.ones(decay.shape), name),
        name: Node("Threshold", {"threshold": _values(module.threshold, decay.shape, name, "threshold")}),
    }
    return Part(name, (f"{name}.rnn",), nodes, tuple(chain(f"{name}.rnn", f"{name}.membrane", name)), binary=True)


def use_heaviside(module: nn.Module, name: str) -> None:
    """Replace the surrogate, which gives float32 spikes, by a step that keeps the dtype.

    Raises:
        LossyConversionError: the forward of the surrogate is no step, so that the neuron does not give spikes.
    """
    probes = torch.tensor(PROBES, dtype=torch.float64)
    with torch.no_grad():
        fired = module.spike_grad(probes).to(torch.float64)  # type: ignore[operator] # snnTorch is untyped
    if not torch.equal(fired, _heaviside(probes)):
        raise LossyConversionError(
            f"{name}: its spike_grad gives {fired.tolist()} at {PROBES}, not spikes; use one of snntorch.surrogate"
        )
    del module.spike_grad
    module.spike_grad = _heaviside  # type: ignore[assignment] # snnTorch is untyped


def _heaviside(potential: torch.Tensor) -> torch.Tensor:
    return (potential > 0).to(potential.dtype)


def _refuse_options(module: snn.SpikingNeuron, name: str) -> None:
    if module.inhibition:
        raise LossyConversionError(
            f"{name}: inhibition lets one neuron of the layer spike, NIR has no comparison of neurons; use "
            "inhibition=False"
        )
    if module.state_quant:
        raise LossyConversionError(
            f"{name}: state_quant rounds states, NIR has no rounding; use state_quant=False and quantize the file"
        )


def _reset(module: snn.SpikingNeuron, name: str) -> str:
    """One of "none", "zero", "delayed" and "immediate" (both subtract)."""
    mechanism = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}[module.state_function.__name__]
    if snn.SpikingNeuron.reset_dict[mechanism] != int(module.reset_mechanism_val):
        raise LossyConversionError(
            f"{name}: reset_mechanism was changed after construction, snnTorch follows in part only; construct the "
            "neuron with it"
        )
    delayed = getattr(module, "reset_delay", True)
    if isinstance(module, snn.RSynaptic) and not delayed:
        raise LossyConversionError(
            f"{name}: RSynaptic of snnTorch 1.0.0 does not reset without delay; use reset_delay=True, which computes "
            "the same"
        )
    if mechanism == "zero" and delayed and not isinstance(module, snn.Leaky):
        remedy = (
            "reset_delay=False"
            if hasattr(module, "reset_delay") and not isinstance(module, snn.RSynaptic)
            else "reset_mechanism='subtract'"
        )
        raise LossyConversionError(
            f"{name}: reset_mechanism='zero' with delay drops the whole next step, for which NIR has no node; use "
            f"{remedy}"
        )
    return mechanism if mechanism != "subtract" else "delayed" if delayed else "immediate"


def _membrane(module: snn.SpikingNeuron, shape: Shape, name: str) -> tuple[Floats, Floats]:
    """The decay of the potential per step, and the gain of its input."""
    if not isinstance(module, snn.Lapicque):
        return _unit(module.beta, shape, name, "beta"), np.ones(shape)
    resistance, capacity, step = (
        _values(each, shape, name, what)
        for each, what in ((module.R, "R"), (module.C, "C"), (module.time_step, "time_step"))
    )
    decay, gain = 1 - step / (resistance * capacity), resistance * (1 / (resistance * capacity)) * step
    if (decay < 0).any() or (decay > 1).any() or not (gain > 0).all():
        raise LossyConversionError(
            f"{name}: R, C and time_step give a decay of {decay.min():g} and gain {gain.min():g}; use 0 < time_step "
            "<= R C, R > 0"
        )
    return decay, gain


def _values(tensor: torch.Tensor, shape: Shape, name: str, what: str) -> Floats:
    """A parameter, one value per neuron, as torch broadcasts it over a batch."""
    values = array(tensor, name, f"its {what}")
    try:
        spread: Floats = np.broadcast_to(values, (1, *shape))[0].copy()
        return spread
    except ValueError as error:
        raise LossyConversionError(
            f"{name}: its {what} of shape {values.shape} does not fit neurons of shape {shape}; give one per neuron"
        ) from error


def _unit(tensor: torch.Tensor, shape: Shape, name: str, what: str) -> Floats:
    """A decay, clipped to [0, 1] as the modules do in every step."""
    return _values(tensor, shape, name, what).clip(0, 1)


def _integrators(
    name: str, decay: Floats, gain: Floats, synapse: Floats | None, threshold: Floats | None
) -> tuple[dict[str, Node], list[tuple[str, str]], str]:
    """Nodes from the input to the potential, and the first node's name.

    With ``threshold`` they lead to the spikes of a neuron that resets to zero.
    """
    last, make = (f"{name}.membrane", _integrator) if threshold is None else (name, _resetting(threshold))
    if synapse is None:
        return {last: make(decay, gain, name)}, [] if last == name else [(last, name)], last
    edges = [] if last == name else [(last, name)]
    if (decay < 1).all() and (synapse < 1).all():
        fire = {} if threshold is None else {"v_threshold": threshold, "v_reset": np.zeros_like(threshold)}
        tau = {"tau_syn": DT / (1 - synapse), "tau_mem": DT / (1 - decay)}
        gains = {"r": 1 / (1 - decay), "w_in": 1 / (1 - synapse), "v_leak": np.zeros_like(decay)}
        return {last: Node("CubaLI" if threshold is None else "CubaLIF", {**tau, **gains, **fire})}, edges, last
    nodes = {f"{name}.current": _integrator(synapse, np.ones_like(synapse), name), last: make(decay, gain, name)}
    return nodes, [(f"{name}.current", last), *edges], f"{name}.current"


def _integrator(decay: Floats, gain: Floats, name: str) -> Node:
    """``v = decay v + gain x``: LI, or I where nothing leaks."""
    if (decay == 1).all():
        return Node("I", {"r": gain / DT})
    if (decay == 1).any():
        raise LossyConversionError(
            f"{name}: some of its neurons leak, others (beta or alpha 1) never do, which one NIR node cannot hold; "
            "use two layers"
        )
    return Node("LI", {"tau": DT / (1 - decay), "r": gain / (1 - decay), "v_leak": np.zeros_like(decay)})


def _resetting(threshold: Floats) -> Callable[[Floats, Floats, str], Node]:
    """Makes an integrator that spikes beyond ``threshold`` and then starts from zero."""

    def make(decay: Floats, gain: Floats, name: str) -> Node:
        node = _integrator(decay, gain, name)
        fire: dict[str, Any] = {"v_threshold": threshold, "v_reset": np.zeros_like(threshold)}
        return Node({"I": "IF", "LI": "LIF"}[node.type], {**node.parameters, **fire})

    return make


def _recurrent(module: nn.Module, where: str, shape: Shape) -> Node:
    """Synapses from the spikes of the step before: dense, a convolution, or one per neuron (V)."""
    inner: Any = module.recurrent  # snnTorch is untyped
    if isinstance(inner, nn.Linear | nn.Conv2d):
        return weights(inner, where, shape)
    return Node("Scale", {"scale": _values(inner.V, shape, where, "V")})
