"""Float NIR graphs to integer graphs: what is exact stays exact, the rest is measured, what cannot be held is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from nsllm_nir import float_reference, lower, reference
from nsllm_nir.errors import GraphError, InputError
from nsllm_nir.graph import DT, Graph, Node, write
from nsllm_nir.graph_quantization import compare_quantization, quantize
from nsllm_nir.lowering import as_graph

STEPS = 40
Builder = Callable[[np.random.Generator], nir.NIRGraph]


def full(shape: int | tuple[int, ...], value: Any) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float64), shape if isinstance(shape, tuple) else (shape,)).copy()


def lif(shape: int | tuple[int, ...], k: Any, threshold: float = 1.0, r: Any = None, leak: float = 0.0, reset: float = 0.0) -> nir.LIF:
    """tau = k dt; r = k unless given, which is snnTorch's convention: the input enters with gain 1."""
    tau, r = full(shape, k) * DT, full(shape, k if r is None else r)
    return nir.LIF(tau=tau, r=r, v_leak=full(shape, leak), v_threshold=full(shape, threshold), v_reset=full(shape, reset))


def cuba(shape: int, synapse: float, membrane: float, threshold: float) -> nir.CubaLIF:
    ones = np.ones(shape)
    return nir.CubaLIF(
        tau_syn=synapse * DT * ones, tau_mem=membrane * DT * ones, r=ones, v_leak=0 * ones, v_threshold=threshold * ones, v_reset=0 * ones, w_in=ones
    )


def sequence(size: int | list[int], *nodes: nir.NIRNode) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(nir.Input(np.array(size if isinstance(size, list) else [size])), *nodes)


def normal(rng: np.random.Generator, *shape: int, mean: float = 0.1, deviation: float = 0.3) -> np.ndarray:
    return rng.normal(mean, deviation, shape)


def conv(rng: np.random.Generator, channels: int, outputs: int) -> nir.Conv2d:
    return nir.Conv2d((8, 8), normal(rng, outputs, channels, 3, 3), 1, 1, 1, 1, normal(rng, outputs, deviation=0.05))


def pool(kind: type = nir.AvgPool2d) -> nir.NIRNode:
    return kind(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))


def flat(*shape: int) -> nir.Flatten:
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


def connected(nodes: dict[str, nir.NIRNode], size: int, outputs: int, *edges: str) -> nir.NIRGraph:
    ports = {"in": nir.Input(np.array([size])), "out": nir.Output(np.array([outputs]))}
    return nir.NIRGraph({**ports, **nodes}, [tuple(edge.split()) for edge in edges])


def recurrent(rng: np.random.Generator, neuron: nir.NIRNode) -> nir.NIRGraph:
    nodes = {"w": nir.Affine(normal(rng, 12, 10), normal(rng, 12)), "n": neuron, "back": nir.Linear(normal(rng, 12, 12, mean=-0.1))}
    return connected(nodes, 10, 12, "in w", "w n", "n back", "back n", "n out")


def residual(rng: np.random.Generator) -> nir.NIRGraph:
    nodes = {"a": nir.Linear(normal(rng, 12, 10)), "n": lif(12, 10), "b": nir.Linear(normal(rng, 12, 12)), "m": lif(12, 20, 1.5)}
    return connected(nodes, 10, 12, "in a", "a n", "n b", "b m", "n m", "m out")


def nested(rng: np.random.Generator) -> nir.NIRGraph:
    inner = sequence(12, nir.Linear(normal(rng, 12, 12)), lif(12, 10))
    nodes = {"w": nir.Linear(normal(rng, 12, 10)), "n": lif(12, 7.3), "block": inner}
    return connected(nodes, 10, 12, "in w", "w n", "n block", "block out")


def readout(neuron: nir.NIRNode) -> Builder:
    return lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, 10), nir.Linear(normal(r, 3, 12)), neuron)


# Dyadic parameters: every weight and threshold is a multiple of 1/8; the neuron states need few fraction bits.
EXACT: dict[str, Builder] = {
    "memoryless": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), lif(6, 1, 1.0)),
    "threshold": lambda r: sequence(10, nir.Affine(r.integers(-8, 16, (6, 10)) / 8, r.integers(-8, 8, 6) / 8), nir.Threshold(full(6, 0.875))),
    "if": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), nir.IF(full(6, 1 / DT), full(6, 3.0), full(6, 0.0))),
    "lif": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), lif(6, 2, 3.03125)),
    "norse": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 2), lif(6, 4, 3.03125, r=1)),
    "average": lambda r: sequence([2, 8, 8], lif((2, 8, 8), 1, 0.5), pool(), lif((2, 4, 4), 1, 0.25)),
    "scale": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), nir.Scale(np.array([0.5, 1, 3, -2, 1, 1.5])), lif(6, 1, 1)),
}
FLOAT: dict[str, Builder] = {
    "lif": lambda r: sequence(10, nir.Affine(normal(r, 12, 10), normal(r, 12)), lif(12, 10)),
    "chain": lambda r: sequence(10, nir.Linear(normal(r, 20, 10)), lif(20, 7.7), nir.Linear(normal(r, 12, 20)), lif(12, 23)),
    "unit-r": lambda r: sequence(10, nir.Linear(8 * normal(r, 12, 10)), lif(12, 10, r=1)),
    "mixed-tau": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, np.arange(2, 14))),
    "leak": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, 10, leak=0.7)),
    "cubalif": lambda r: sequence(10, nir.Linear(40 * normal(r, 12, 10)), cuba(12, 3.3, 9.1, 1)),
    "if": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), nir.IF(full(12, 1 / DT), full(12, 3.0), full(12, 0.0))),
    "conv-average": lambda r: sequence([2, 8, 8], conv(r, 2, 3), pool(), lif((3, 4, 4), 6)),
    "conv-spikes-average": lambda r: sequence(
        [2, 8, 8], conv(r, 2, 3), lif((3, 8, 8), 6), pool(), flat(3, 4, 4), nir.Linear(normal(r, 12, 48)), lif(12, 9)
    ),
    "conv1d": lambda r: sequence([2, 5], nir.Conv1d(5, normal(r, 3, 2, 3), 1, 1, 1, 1, normal(r, 3)), lif((3, 5), 9)),
    "scale-behind": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), nir.Scale(r.uniform(0.3, 3, 12)), lif(12, 10)),
    "scale-front": lambda r: sequence(10, nir.Scale(r.uniform(0.3, 3, 10)), nir.Linear(normal(r, 12, 10)), lif(12, 10)),
    "scale-alone": lambda r: sequence(10, nir.Scale(r.uniform(0.3, 1, 10)), lif(10, 10)),
    "no-weights": lambda r: sequence(10, lif(10, 10, 1.7)),
    "delay": lambda r: sequence(10, nir.Delay(DT * np.arange(10.0)), nir.Linear(normal(r, 12, 10)), lif(12, 10)),
    "recurrent": lambda r: recurrent(r, lif(12, 10)),
    "recurrent-memoryless": lambda r: recurrent(r, lif(12, 1)),
    "residual": residual,
    "nested": nested,
    "li": readout(nir.LI(full(3, 10 * DT), full(3, 1.0), full(3, 0.0))),
    "li-threshold": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), nir.LI(full(12, 8 * DT), full(12, 8), full(12, 0)), nir.Threshold(full(12, 1.0))),
    "li-mixed-gain": lambda r: sequence(
        10, nir.Linear(normal(r, 12, 10)), nir.LI(DT * np.arange(2.0, 14), full(12, 1.0), full(12, 0)), nir.Threshold(full(12, 0.3))
    ),
    "cubali": readout(nir.CubaLI(full(3, 4 * DT), full(3, 10 * DT), full(3, 1.0), full(3, 0.1), full(3, 1.0))),
}


def spikes(graph: nir.NIRGraph | Graph, seed: int = 1, steps: int = STEPS) -> np.ndarray:
    size = next(int(np.prod(n.array("shape"))) for n in as_graph(graph).nodes.values() if isinstance(n, Node) and n.type == "Input")
    return (np.random.default_rng(seed).random((steps, size)) < 0.4).astype(np.int64)


@pytest.mark.parametrize("name", EXACT)
def test_dyadic_graphs_have_no_quantization_error(name: str) -> None:
    graph = EXACT[name](np.random.default_rng(2))
    integer, _ = quantize(graph)
    report = compare_quantization(graph, integer, spikes(graph))
    last = report.nodes[-1]
    assert 0 < last.float_spikes < last.cells
    assert report.differences == 0, f"\n{report}"


@pytest.mark.parametrize("name", FLOAT)
def test_float_graphs_have_a_small_error(name: str) -> None:
    graph = FLOAT[name](np.random.default_rng(4))
    integer, done = quantize(graph)
    assert not done.unchanged and max((w.error for w in done.weights), default=0) < 0.012
    report = compare_quantization(graph, integer, spikes(graph))
    assert 0 < report.nodes[-1].float_spikes < report.nodes[-1].cells, "the graph must fire, and not always"
    share = 0.06 if name.startswith("recurrent") else 0.03  # a loop feeds differences back
    assert report.differences <= share * sum(node.cells for node in report.nodes), f"\n{report}"


@pytest.mark.parametrize("name", [*EXACT, *FLOAT])
def test_quantization_is_idempotent_to_the_byte(name: str, tmp_path: Path) -> None:
    integer, _ = quantize({**EXACT, **FLOAT}[name](np.random.default_rng(4)))
    write(tmp_path / "once.nir", integer)
    again, done = quantize(tmp_path / "once.nir")
    assert done.unchanged
    write(tmp_path / "twice.nir", again)
    assert (tmp_path / "once.nir").read_bytes() == (tmp_path / "twice.nir").read_bytes()
    nir.read(tmp_path / "once.nir")


def test_the_integer_graph_is_a_nir_graph_of_the_same_meaning() -> None:
    for name in ("chain", "li", "cubali", "conv-spikes-average"):
        integer, _ = quantize(FLOAT[name](np.random.default_rng(4)))
        inputs = spikes(integer)
        meant, got = float_reference.run(integer, inputs), reference.run(lower(integer), inputs)
        for node, values in meant.values.items():
            error = np.abs(values.astype(np.float64) - got.values[node])
            assert (error > 0).mean() < 0.01 if values.dtype == bool else error.max() < 0.02 * np.abs(values).max(), f"{name} {node}"


def test_outputs_carry_their_scale() -> None:
    ones = np.ones(3)
    for neuron in (nir.LI(10 * DT * ones, ones, 0.2 * ones), nir.CubaLI(4 * DT * ones, 10 * DT * ones, ones, 0.1 * ones, ones), nir.I(ones / DT)):
        graph = sequence(10, nir.Linear(normal(np.random.default_rng(4), 3, 10)), neuron)
        integer, done = quantize(graph, calibration=spikes(graph, 2))
        inputs, (scale,) = spikes(graph), done.outputs.values()
        (output,) = lower(integer).outputs
        want, got = float_reference.run(as_graph(graph), inputs).values[output], reference.run(lower(integer), inputs).values[output]
        assert np.abs(got / scale - want).max() < 0.02 * np.abs(want).max()


def test_more_weight_bits_mean_fewer_differences() -> None:
    counts = {}
    for bits in (3, 4, 6, 8):
        counts[bits] = 0
        for seed in range(4):
            graph = FLOAT["chain"](np.random.default_rng(seed))
            counts[bits] += compare_quantization(graph, quantize(graph, weight_bits=bits)[0], spikes(graph, steps=100)).differences
    assert counts[3] > counts[4] > counts[6] > counts[8], counts


def test_calibration_never_does_worse_on_its_own_inputs() -> None:
    gains = []
    for seed in range(3):
        graph = FLOAT["chain"](np.random.default_rng(seed))
        inputs = spikes(graph)
        plain = compare_quantization(graph, quantize(graph, weight_bits=4)[0], inputs).differences
        calibrated = compare_quantization(graph, quantize(graph, weight_bits=4, calibration=inputs)[0], inputs).differences
        gains.append(plain - calibrated)
    assert min(gains) >= 0 and sum(gains) > 0, gains


def test_gains_fold_into_weights_and_average_pooling_into_scales() -> None:
    for name in ("scale-behind", "scale-front"):
        assert "Scale" not in {n.type for n in quantize(FLOAT[name](np.random.default_rng(4)))[0].nodes.values() if isinstance(n, Node)}
    types = {n.type for n in quantize(FLOAT["conv-average"](np.random.default_rng(4)))[0].nodes.values() if isinstance(n, Node)}
    assert "SumPool2d" in types and "AvgPool2d" not in types


def test_integer_graphs_pass_unchanged() -> None:
    graph = as_graph(sequence(6, nir.Linear(np.random.default_rng(1).integers(-60, 100, (5, 6)).astype(np.float32)), lif(5, 8, 150)))
    integer, done = quantize(graph, weight_bits=4)
    assert integer is graph and done.unchanged and "not changed" in str(done)


def test_the_report_sees_a_changed_threshold_and_a_changed_weight() -> None:
    graph = FLOAT["lif"](np.random.default_rng(4))
    integer, _ = quantize(graph)
    inputs = spikes(graph)
    before = compare_quantization(graph, integer, inputs).differences
    for name, parameter, change in (("lif", "v_threshold", 0.5), ("affine", "weight", -1)):
        node = integer.nodes[name]
        assert isinstance(node, Node)
        mutant = replace(node, parameters={**node.parameters, parameter: np.rint(node.array(parameter) * change).astype(node.array(parameter).dtype)})
        assert compare_quantization(graph, replace(integer, nodes={**integer.nodes, name: mutant}), inputs).differences > before + 20


def test_reports_are_json_and_text() -> None:
    graph = FLOAT["chain"](np.random.default_rng(4))
    integer, done = quantize(graph)
    report = compare_quantization(graph, integer, spikes(graph))
    data = json.loads(json.dumps(report.to_json()))["quantization_error"]
    assert data["differences"] == report.differences and set(data["nodes"]) == {"lif", "lif_1"}
    assert "quantization error" in str(report) and "lif_1" in str(report)
    assert set(json.loads(json.dumps(done.to_json()))["weights"]) == {"linear", "linear_1"} and "8-bit" in str(done)


def test_the_wrong_graph_is_not_compared() -> None:
    chain, other = FLOAT["chain"](np.random.default_rng(4)), FLOAT["lif"](np.random.default_rng(4))
    with pytest.raises(GraphError, match="no such spiking node"):
        compare_quantization(chain, quantize(other)[0], spikes(chain))


W = np.array([[0.3, -0.7], [0.11, 0.5]])
REFUSED: dict[str, tuple[nir.NIRGraph, str]] = {
    "reset": (sequence(2, nir.Linear(W), lif(2, 10, reset=0.1)), "v_reset must be 0"),
    "nan": (sequence(2, nir.Linear(np.array([[np.nan, 1], [0, 1]])), lif(2, 10)), "linear: the weight holds NaN"),
    "infinite-tau": (sequence(2, nir.Linear(W), lif(2, np.inf)), "IF or I node"),
    "negative-gain": (sequence(2, nir.Linear(W), lif(2, 10, r=-1)), "positive gain"),
    "negative-threshold": (sequence(2, nir.Linear(W), lif(2, 10, threshold=-1)), "v_threshold >= 0"),
    "fast": (sequence(2, nir.Linear(W), lif(2, 0.5)), "at least one step"),
    "slow": (sequence(2, nir.Linear(W), lif(2, 20000)), "12-bit decay is 0"),
    "delay": (sequence(2, nir.Delay(full(2, 1.5 * DT)), nir.Linear(W), lif(2, 10)), "whole number of steps"),
    "wide-stack": (sequence(200, nir.Linear(np.ones((300, 200)) / 3), nir.Linear(np.ones((2, 300)) / 7 + W[:, :1]), lif(2, 10)), "merge weights"),
    "huge-threshold": (sequence(2, nir.Linear(W), lif(2, 10, threshold=1e6)), "larger weights or smaller thresholds"),
    "potential": (
        sequence(2, nir.Linear(W), nir.LI(full(2, 10 * DT), full(2, 10), full(2, 0)), nir.Linear(W), lif(2, 10)),
        "li: weights read the potential",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_integers_cannot_hold_is_refused_by_name(name: str) -> None:
    graph, message = REFUSED[name]
    with pytest.raises(GraphError, match=message):
        quantize(graph)


def test_weights_that_feed_their_own_scale_are_refused() -> None:
    rng = np.random.default_rng(1)
    nodes = {name: nir.Linear(normal(rng, 4, 4)) for name in ("a", "b", "c")} | {"n": lif(4, 10)}
    with pytest.raises(GraphError, match="put a spiking neuron into that path"):
        quantize(connected(nodes, 4, 4, "in a", "a b", "b c", "c n", "a n", "n out"))


def test_spikes_without_weights_get_a_synapse() -> None:
    graph = connected({"w": nir.Linear(W), "n": lif(2, 5)}, 2, 2, "in w", "w n", "n n", "n out")
    integer, _ = quantize(graph)
    assert "n.from_n" in integer.nodes
    report = compare_quantization(graph, integer, spikes(graph))
    assert report.nodes[0].float_spikes > 0 and report.differences <= 2, f"\n{report}"


def test_other_refusals() -> None:
    graph = FLOAT["lif"](np.random.default_rng(4))
    for bits in (1, 9):
        with pytest.raises(InputError, match="weight_bits"):
            quantize(graph, weight_bits=bits)
    with pytest.raises(InputError, match="expects an array"):
        float_reference.run(as_graph(graph), np.zeros((3, 4)))


def test_a_cycle_through_a_subgraph_is_refused() -> None:
    inner = sequence(4, nir.Linear(normal(np.random.default_rng(1), 4, 4)), lif(4, 10))
    graph = connected({"n": lif(4, 10), "block": inner}, 4, 4, "in n", "n block", "block n", "n out")
    with pytest.raises(GraphError, match="cycle runs through a subgraph"):
        quantize(graph)


def test_wide_layers_are_scaled_into_the_state_width() -> None:
    graph = sequence(900, nir.Linear(np.full((2, 900), 0.37) + np.eye(2, 900) * 0.001), cuba(2, 30, 30, 0.2))
    integer, _ = quantize(graph)
    node = integer.nodes["linear"]
    assert isinstance(node, Node) and 0 < np.abs(node.array("weight")).max() < 127
    assert compare_quantization(graph, integer, spikes(graph)).differences <= 2


def test_digits_classifier_keeps_its_accuracy() -> None:
    """A Linear-LIF-Linear-LIF network trained with snnTorch; accuracy on the held-out fifth, float against 8 bits."""
    import torch
    from sklearn import datasets

    digits = datasets.load_digits()
    rng, held = np.random.default_rng(0), np.arange(len(digits.target)) % 5 == 0
    inputs = (rng.random((len(digits.data), 12, 64)) < digits.data[:, None] / 16).astype(np.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the layers are too small to share
    try:
        weights, betas = _train(torch, inputs[~held], digits.target[~held])
    finally:
        torch.set_num_threads(threads)
    nodes: list[nir.NIRNode] = []
    for weight, beta in zip(weights, betas, strict=True):
        nodes += [nir.Linear(weight), lif(len(weight), 1 / (1 - beta))]
    graph = as_graph(sequence(64, *nodes))
    for x in inputs[held][:20]:
        assert np.array_equal(float_reference.run(graph, x).values["lif_1"], _snntorch_spikes(torch, weights, betas, x))
    integer, _ = quantize(graph)
    program, name = lower(integer), "lif_1"
    want = [float_reference.run(graph, x).values[name].sum(0) for x in inputs[held]]
    got = [reference.run(program, x).values[name].sum(0) for x in inputs[held]]
    accuracy = [float(np.mean(np.argmax(counts, 1) == digits.target[held])) for counts in (want, got)]
    assert accuracy[0] > 0.93, "the classifier must have learned"
    assert accuracy[1] >= accuracy[0] - 0.005, accuracy


def _train(torch: Any, inputs: np.ndarray, labels: np.ndarray) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Weights (outputs, inputs) of both layers and the decays of their neurons."""
    import snntorch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 48, bias=False), torch.nn.Linear(48, 10, bias=False)]
    betas = (0.9, 0.8)
    neurons = [snntorch.Leaky(beta=beta, reset_mechanism="zero", reset_delay=False) for beta in betas]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], lr=5e-3)
    x, y = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
    for _ in range(12):
        for batch in torch.randperm(len(x)).split(128):
            states, total = [neuron.init_leaky() for neuron in neurons], 0
            for step in x[batch].unbind(1):
                for i, (layer, neuron) in enumerate(zip(layers, neurons, strict=True)):
                    step, states[i] = neuron(layer(step), states[i])
                total = total + step
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(total, y[batch]).backward()
            optimizer.step()
    return [layer.weight.detach().numpy().astype(np.float64) for layer in layers], betas


def _snntorch_spikes(torch: Any, weights: list[np.ndarray], betas: tuple[float, float], inputs: np.ndarray) -> np.ndarray:
    """Spikes (steps, 10) of the network in snnTorch, with the weights in float64."""
    import snntorch

    neurons = [snntorch.Leaky(beta=beta, reset_mechanism="zero", reset_delay=False) for beta in betas]
    states, out = [neuron.init_leaky() for neuron in neurons], []
    for step in torch.tensor(inputs, dtype=torch.float64):
        for i, (weight, neuron) in enumerate(zip(weights, neurons, strict=True)):
            step, states[i] = neuron(torch.tensor(weight) @ step.double(), states[i])
        out.append(step.detach().numpy())
    return np.array(out).astype(bool)
