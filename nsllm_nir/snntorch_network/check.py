"""Runs a network and the graph made of it on the same spikes: a graph that differs is not given out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import snntorch as snn
import torch
from numpy.typing import NDArray
from torch import nn

from nsllm_nir.errors import LossyConversionError
from nsllm_nir.graph import Graph
from nsllm_nir.program.trace import Trace, compare, first_difference
from nsllm_nir.quantization import float_reference
from nsllm_nir.snntorch_network.forward import Network, leaves
from nsllm_nir.snntorch_network.tracing import STATES, Shape

CHECK_STEPS = 24
CHECK_INPUTS = 4  # constant inputs, for a forward that loops over one


def check(own: nn.Module, network: Network, graph: Graph, shape: Shape) -> None:
    """Run the network in float64 and the graph on the same seeded spikes, and compare all neurons.

    ``own`` is changed: give a copy that has not run.

    Raises:
        LossyConversionError: the first differing spike, or the network does not run.
    """
    own.eval()
    rng, size = np.random.default_rng(0), math.prod(shape)
    rates = np.linspace(0.05, 0.95, max(CHECK_STEPS, network.steps))[:, None]
    constant = network.steps > 1 and network.time_axis is None
    for spikes in (
        [rng.random((1, size)) < 0.5 for _ in range(CHECK_INPUTS)]
        if constant
        else [rng.random((len(rates), size)) < rates]
    ):
        try:
            expected = _run(own, network, spikes.reshape(-1, 1, *shape))
        except Exception as error:
            raise LossyConversionError(
                f"{type(own).__name__} does not run on one sample of shape {shape}: {error}"
            ) from error
        steps = len(next(iter(expected.values()), spikes))
        inputs = np.repeat(spikes, steps, axis=0) if constant else spikes[:steps]
        got = float_reference.run(graph, inputs.astype(np.int64)).values
        difference = first_difference(
            compare(Trace(expected), Trace({name: got[name].astype(np.int64) for name in expected}))
        )
        if difference:
            raise LossyConversionError(
                f"the graph and the network differ ({difference}); either forward does more than its layers show, or "
                "a potential lies within"
                " rounding of its threshold, then change that threshold slightly"
            )


def _run(own: nn.Module, network: Network, spikes: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Spikes (steps, neurons) of every neuron layer on an input (steps, 1, ...), from a silent start."""
    recorded: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for layer in network.layers:
        if isinstance(layer.module, snn.SpikingNeuron | snn.LeakyParallel):
            recorded[layer.name] = []
            hooks.append(layer.module.register_forward_hook(_recorder(recorded[layer.name], layer.module)))
            if isinstance(layer.module, tuple(STATES)):
                layer.module.reset_mem()  # type: ignore[operator] # snnTorch is untyped
    x = torch.from_numpy(spikes.astype(np.float64))
    try:
        with torch.no_grad():
            _call(own, network, x)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (torch.cat([step.reshape(-1, step.shape[-1]) for step in steps]) != 0).numpy().astype(np.int64)
        for name, steps in recorded.items()
    }


def _recorder(into: list[torch.Tensor], module: nn.Module) -> Any:
    def hook(_: nn.Module, __: Any, result: Any) -> None:
        spikes = result[0] if isinstance(result, tuple) else result
        # One row per step; LeakyParallel gives all steps at once.
        into.append(spikes.flatten(1 if isinstance(module, snn.SpikingNeuron) else 2))

    return hook


def _call(own: nn.Module, network: Network, x: torch.Tensor) -> None:
    """The calls that make ``own`` run all steps of ``x`` (steps, 1, ...)."""
    if network.time_axis is not None:
        own(x.transpose(0, network.time_axis) if network.time_axis else x)
        return
    if network.steps > 1 or any(isinstance(layer.module, snn.LeakyParallel) for layer in network.layers):
        own(x[0] if network.steps > 1 else x)
        return
    states = dict.fromkeys(network.states, torch.zeros(0, dtype=torch.float64))
    for step in x:
        result = list(leaves(own(step, **states)))
        states = {name: result[place] for name, place in network.states.items()}
