"""Spikes of one network under snnTorch's reset rules, beside a subtraction within the step of the spike.

    python benchmarks/reset_rules.py        # writes benchmarks/reset_rules.md

512-1024-1024-256 neurons, beta 0.9, threshold 1, no bias, 64 steps of 10 % input. The weights are drawn once; their
gains give about 10 % in the hidden layers under the immediate reset. Everything runs in float64; all spikes are
simulated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import snntorch as snn
import torch
from norse.torch import LIFBoxCell, LIFBoxParameters
from norse.torch.functional.reset import reset_subtract
from numpy.typing import NDArray
from torch import nn

from nsllm_nir import graph, to_nir
from nsllm_nir.quantization import float_reference

SIZES, STEPS, RATE, BETA = (512, 1024, 1024, 256), 64, 0.1, 0.9
GAINS = (0.62, 0.55, 0.53)
RULES: dict[str, dict[str, Any]] = {
    "snnTorch `Leaky()`, its default: subtract, one step late": {},
    "snnTorch `Leaky(reset_delay=False)`: subtract in the same step, with a second condition": {"reset_delay": False},
    'snnTorch `Leaky(reset_mechanism="zero")`': {"reset_mechanism": "zero"},
}
Floats = NDArray[np.float64]


def drawn() -> tuple[list[Floats], Floats]:
    """Weights (outputs, inputs) of each layer, and the input spikes (steps, inputs)."""
    rng = np.random.default_rng(0)
    weights = [
        rng.normal(0, gain / np.sqrt(RATE * inputs), (outputs, inputs))
        for gain, inputs, outputs in zip(GAINS, SIZES, SIZES[1:], strict=False)
    ]
    return weights, (rng.random((STEPS, SIZES[0])) < RATE).astype(np.float64)


def immediate(weights: list[Floats], spikes: Floats) -> list[Floats]:
    """``U = beta U + x; s = [U > 1]; U = U - s`` in plain numpy: spikes (steps, neurons) of each layer."""
    out = []
    for weight in weights:
        potential, rows = np.zeros(len(weight)), []
        for x in spikes @ weight.T:
            potential = BETA * potential + x
            rows.append(potential > 1)
            potential = potential - rows[-1]
        spikes = np.array(rows, np.float64)
        out.append(spikes)
    return out


def norse(weights: list[Floats], spikes: Floats) -> list[Floats]:
    """norse's LIFBoxCell with `reset_subtract`; it multiplies the input by dt / tau, so the threshold is scaled too."""
    rate = 1 - BETA
    out = []
    for weight in weights:
        parameters = LIFBoxParameters(
            tau_mem_inv=torch.tensor(rate / 0.001, dtype=torch.float64),
            v_th=torch.tensor(rate),
            reset_method=reset_subtract,
        )
        cell, state, rows = LIFBoxCell(parameters, dt=0.001), None, []
        for x in torch.from_numpy(spikes @ weight.T):
            fired, state = cell(x[None], state)
            rows.append(fired[0].detach().numpy())
        spikes = np.array(rows, np.float64)
        out.append(spikes)
    return out


def snntorch_network(weights: list[Floats], options: dict[str, Any]) -> nn.Sequential:
    """Linear and Leaky layers in float64."""
    layers: list[nn.Module] = []
    for weight in weights:
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(weight)
        neurons = snn.Leaky(beta=BETA, init_hidden=True, **options).double()
        neurons.beta = torch.tensor(BETA, dtype=torch.float64)
        neurons.spike_grad = lambda u: (u > 0).double()
        layers += [linear, neurons]
    return nn.Sequential(*layers)


def module_spikes(network: nn.Sequential, spikes: Floats) -> list[Floats]:
    """Spikes of each neuron layer of the module itself."""
    modules = list(network)
    rows: list[list[Floats]] = [[] for _ in modules[1::2]]
    with torch.no_grad():
        for x in torch.from_numpy(spikes)[:, None]:
            for i, (linear, neurons) in enumerate(zip(modules[::2], modules[1::2], strict=True)):
                x = neurons(linear(x))
                rows[i].append(x[0].numpy())
    return [np.array(each) for each in rows]


def graph_spikes(network: nn.Sequential, spikes: Floats) -> list[Floats]:
    """Spikes of each neuron layer of the file that `to_nir` writes."""
    with tempfile.TemporaryDirectory() as folder:
        values = float_reference.run(
            graph.read(to_nir(network, Path(folder) / "network.nir")), spikes.astype(np.int64)
        ).values
    return [values[str(i)].astype(np.float64) for i in range(1, len(network), 2)]


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    weights, spikes = drawn()
    base = immediate(weights, spikes)
    rates = ", ".join(f"{layer.mean():.1%}" for layer in base)
    lines = [
        "# Reset rules (simulated)",
        "",
        "Written by `python benchmarks/reset_rules.py`: 512-1024-1024-256 neurons, beta 0.9, threshold 1,",
    ]
    lines += [f"64 steps of 10 % input, float64. Rates under the immediate reset: {rates}.", ""]
    lines += [
        "| rule | spikes per layer | output, immediate = 100 % | differing cells of the NIR file |",
        "|---|---|---|---|",
    ]

    def row(name: str, found: list[Floats], written: Callable[[], list[Floats]] | None) -> str:
        counts = ", ".join(f"{int(layer.sum())}" for layer in found)
        differences = (
            "" if written is None else str(int(sum((a != b).sum() for a, b in zip(found, written(), strict=True))))
        )
        return f"| {name} | {counts} | {found[-1].sum() / base[-1].sum():.1%} | {differences} |"

    lines.append(row("immediate: `U -= threshold` in the step of the spike", base, None))
    lines.append(row("norse 1.1.0 `LIFBoxCell`, `reset_subtract`", norse(weights, spikes), None))
    for name, options in RULES.items():
        network = snntorch_network(weights, options)
        lines.append(row(name, module_spikes(network, spikes), partial(graph_spikes, network, spikes)))
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
