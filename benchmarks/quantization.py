"""What rounding to integers costs: random LIF chains, and a digits classifier under both resets of snnTorch.

    python benchmarks/quantization.py        # writes benchmarks/quantization.md

All spikes are simulated: float graphs by `float_reference`, integer graphs by the integer reference. Takes about
two minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir import lower
from nsllm_nir.graph import DT, Graph, as_graph
from nsllm_nir.program import Program, reference
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization.quantize import compare_quantization, quantize

BITS = (3, 4, 6, 8)
SEEDS, CHAIN_STEPS = 4, 100
BETAS = (0.9, 0.8)
RESETS: dict[str, dict[str, Any]] = {
    "zero": {"reset_mechanism": "zero", "reset_delay": False},
    "subtract": {},
}  # of snntorch.Leaky; {}: its default
TOKEN_STEPS, RATE_IMAGES, SPIKE_IMAGES, EPOCHS = 12, 20, 100, 12
LAST = "layer_1.spikes"
Weights = list[NDArray[np.float64]]
Spikes = NDArray[np.int64]


def leaky(
    name: str, weight: NDArray[np.float64], beta: NDArray[np.float64] | float, reset: str, source: str
) -> tuple[dict[str, nir.NIRNode], list[tuple[str, str]]]:
    """Nodes and edges of weights (outputs, inputs) and `snntorch.Leaky` of threshold 1; spikes: ``<name>.spikes``."""
    ones = np.ones(len(weight))
    tau = DT / (1 - beta) * ones
    weights, spikes = f"{name}.weights", f"{name}.spikes"
    if reset == "zero":
        nodes = {
            weights: nir.Linear(weight),
            spikes: nir.LIF(tau=tau, r=tau / DT, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones),
        }
        return nodes, [(source, weights), (weights, spikes)]
    potential, back = f"{name}.potential", f"{name}.reset"
    nodes = {
        weights: nir.Linear(weight),
        potential: nir.LI(tau=tau, r=tau / DT, v_leak=0 * ones),
        spikes: nir.Threshold(ones),
        back: nir.Scale(-ones),
    }
    return nodes, [(source, weights), (weights, potential), (potential, spikes), (spikes, back), (back, potential)]


def network(weights: Weights, betas: tuple[NDArray[np.float64] | float, ...], reset: str) -> Graph:
    """Layers of `leaky` neurons, one after the other."""
    nodes: dict[str, nir.NIRNode] = {
        "input": nir.Input(np.array([weights[0].shape[1]])),
        "output": nir.Output(np.array([len(weights[-1])])),
    }
    edges: list[tuple[str, str]] = []
    source = "input"
    for i, (weight, beta) in enumerate(zip(weights, betas, strict=True)):
        more, connections = leaky(f"layer_{i}", weight, beta, reset, source)
        nodes, edges, source = nodes | more, edges + connections, f"layer_{i}.spikes"
    return as_graph(nir.NIRGraph(nodes, [*edges, (source, "output")]))


def chain(seed: int, reset: str) -> Graph:
    """A random 10-20-12 network."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0.1, 0.3, (20, 10)), rng.normal(0.1, 0.3, (12, 20))]
    return network(weights, (1 - 1 / 7.7, 1 - 1 / 23), reset)


def random_spikes(seed: int, size: int = 10) -> Spikes:
    """40 % of the cells, (CHAIN_STEPS, size)."""
    return (np.random.default_rng(seed).random((CHAIN_STEPS, size)) < 0.4).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Digits:
    """Random spikes (images, TOKEN_STEPS, 64) at the pixels' rate, labels (images,), and which fifth is held out."""

    spikes: Spikes
    labels: Spikes
    held: NDArray[np.bool_]

    @property
    def tests(self) -> Spikes:
        return self.spikes[self.held]

    def accuracy(self, run: Any) -> float:
        """Share of held-out images whose label spikes most; ``run``: spikes (steps, 64) to a Trace."""
        found = [np.argmax(run(x).values[LAST].sum(0)) for x in self.tests]
        return float(np.mean(np.array(found) == self.labels[self.held]))


def digits() -> Digits:
    """The digits of scikit-learn, which come with the package."""
    from sklearn import datasets

    found, rng = datasets.load_digits(), np.random.default_rng(0)
    spikes = (rng.random((len(found.data), TOKEN_STEPS, 64)) < found.data[:, None] / 16).astype(np.int64)
    return Digits(spikes, found.target, np.arange(len(found.target)) % 5 == 0)


def train(data: Digits, reset: str) -> Weights:
    """64-48-10 `snntorch.Leaky` neurons trained on what is not held out; weights (outputs, inputs) of both layers."""
    import snntorch
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)  # the layers are too small to share
    layers = [torch.nn.Linear(64, 48, bias=False), torch.nn.Linear(48, 10, bias=False)]
    neurons = [snntorch.Leaky(beta=beta, **RESETS[reset]) for beta in BETAS]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=5e-3)
    x, y = torch.tensor(data.spikes[~data.held], dtype=torch.float32), torch.tensor(data.labels[~data.held])
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(128):
            states, total = [neuron.init_leaky() for neuron in neurons], torch.tensor(0.0)
            for step in x[batch].unbind(1):
                for i, (layer, neuron) in enumerate(zip(layers, neurons, strict=True)):
                    step, states[i] = neuron(layer(step), states[i])
                total = total + step
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(total, y[batch]).backward()
            optimizer.step()
    return [layer.weight.detach().numpy().astype(np.float64) for layer in layers]


def snntorch_spikes(weights: Weights, reset: str, inputs: Spikes) -> NDArray[np.bool_]:
    """Spikes (steps, 10) of the same network in snnTorch itself, in float64."""
    import snntorch
    import torch

    neurons = [snntorch.Leaky(beta=torch.tensor(beta, dtype=torch.float64), **RESETS[reset]).double() for beta in BETAS]
    states, out = [neuron.init_leaky() for neuron in neurons], []
    for step in torch.tensor(inputs, dtype=torch.float64):
        for i, (weight, neuron) in enumerate(zip(weights, neurons, strict=True)):
            step, states[i] = neuron(torch.tensor(weight) @ step.double(), states[i])
        out.append(step.detach().numpy())
    return np.array(out).astype(bool)


def integer_run(graph: Graph) -> Any:
    program: Program = lower(graph)
    return lambda x: reference.run(program, x)


def chain_table() -> list[str]:
    """Differing cells of all seeds, by weight bits."""
    rows = {}
    for reset in RESETS:
        for calibrated in (False, True):
            name = f"reset {'to zero' if reset == 'zero' else 'by subtraction'}"
            name += ", calibrated on other inputs" if calibrated else ""
            rows[name] = [0] * len(BITS)
            for seed in range(SEEDS):
                graph = chain(seed, reset)
                for i, bits in enumerate(BITS):
                    integer, _ = quantize(graph, weight_bits=bits, calibration=random_spikes(2) if calibrated else None)
                    rows[name][i] += compare_quantization(graph, integer, random_spikes(1)).differences
    fired = {
        r: sum(
            v.sum() for s in range(SEEDS) for v in float_reference.run(chain(s, r), random_spikes(1)).values.values()
        )
        for r in RESETS
    }
    lines = [f"| weight bits | {' | '.join(map(str, BITS))} |", "|---" * (len(BITS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in rows.items()]
    spikes = " and ".join(str(int(n)) for n in fired.values())
    return [
        (
            f"Differing cells of a random 10-20-12 network, {SEEDS} seeds of {CHAIN_STEPS} steps "
            f"({SEEDS * CHAIN_STEPS * 32} cells, {spikes} spikes):"
        ),
        "",
        *lines,
    ]


def digits_table(reset: str) -> list[str]:
    """Accuracy and differing cells of the classifier, by weight bits."""
    data = digits()
    weights = train(data, reset)
    graph = network(weights, BETAS, reset)
    own = sum(
        int((float_reference.run(graph, x).values[LAST] != snntorch_spikes(weights, reset, x)).sum())
        for x in data.tests[:RATE_IMAGES]
    )
    accuracies = [data.accuracy(lambda x: float_reference.run(graph, x))]
    cells, total, spikes = [], 0, 0
    for bits in reversed(BITS):
        integer, _ = quantize(graph, weight_bits=bits)
        accuracies.append(data.accuracy(integer_run(integer)))
        reports = [compare_quantization(graph, integer, x) for x in data.tests[:SPIKE_IMAGES]]
        cells.append(sum(r.differences for r in reports))
        total, spikes = (sum(getattr(n, key) for r in reports for n in r.nodes) for key in ("cells", "float_spikes"))
    title = "to zero" if reset == "zero" else "by subtraction, one step late (the default of `snntorch.Leaky`)"
    return [
        (
            f"Reset {title}; {spikes} spikes in {total} cells; `float_reference` and snnTorch differ in {own} cells "
            f"of {RATE_IMAGES} images:"
        ),
        "",
        f"| weights | float | {' | '.join(f'{bits} bits' for bits in reversed(BITS))} |",
        "|---" * (len(BITS) + 2) + "|",
        f"| accuracy | {' | '.join(f'{100 * a:.1f} %' for a in accuracies)} |",
        f"| differing cells | 0 | {' | '.join(map(str, cells))} |",
    ]


def main() -> None:
    """Measure and write the tables."""
    lines = [
        "# Quantization error (simulated)",
        "",
        "Written by `python benchmarks/quantization.py`.",
        "",
        *chain_table(),
        "",
    ]
    lines += [
        f"Classifier of the scikit-learn digits, 64-48-10, betas {BETAS[0]} and {BETAS[1]}, {TOKEN_STEPS} steps "
        "of random spikes at the rate of the pixels, "
        f"trained by snnTorch for {EPOCHS} epochs on four fifths. Accuracy on the other 360 images; spikes of its "
        f"first {SPIKE_IMAGES} images.",
        "",
    ]
    for reset in RESETS:
        lines += [*digits_table(reset), ""]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
