"""Float NIR graphs to integer graphs: exact stays exact, the rest is measured, what cannot be held is refused."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from nsllm_nir import lower, verify
from nsllm_nir.errors import GraphError, InputError
from nsllm_nir.graph import DT, Graph, Node, as_graph, write
from nsllm_nir.lowering.net import inline
from nsllm_nir.program import DEFAULT_WIDTHS, Conv2d, Input, Lif, Linear, Program, Sum, reference
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization import scales as graph_scales
from nsllm_nir.quantization.folding import prepare
from nsllm_nir.quantization.loihi_formats import LIMITS, Formats
from nsllm_nir.quantization.quantize import compare_quantization, quantize
from nsllm_nir.verification import nir_nodes
from nsllm_nir.verification.nir_nodes import full, lif, pool, sequence

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
benchmark: Any = importlib.import_module("quantization")
STEPS = 40
Builder = Callable[[np.random.Generator], nir.NIRGraph]


def cuba(shape: int, synapse: float, membrane: float, threshold: float) -> nir.CubaLIF:
    """Gains dt / tau, which other frameworks write."""
    return nir_nodes.cuba(shape, synapse, membrane, threshold, r=1.0, w_in=1.0)


def normal(rng: np.random.Generator, *shape: int, mean: float = 0.1, deviation: float = 0.3) -> np.ndarray:
    return rng.normal(mean, deviation, shape)


def conv(rng: np.random.Generator, channels: int, outputs: int) -> nir.Conv2d:
    return nir.Conv2d((8, 8), normal(rng, outputs, channels, 3, 3), 1, 1, 1, 1, normal(rng, outputs, deviation=0.05))


def flat(*shape: int) -> nir.Flatten:
    return nir.Flatten({"input": np.array(shape)}, 0, -1)


def connected(nodes: dict[str, nir.NIRNode], size: int, outputs: int, *edges: str) -> nir.NIRGraph:
    ports = {"in": nir.Input(np.array([size])), "out": nir.Output(np.array([outputs]))}
    return nir.NIRGraph({**ports, **nodes}, [tuple(edge.split()) for edge in edges])


def recurrent(rng: np.random.Generator, neuron: nir.NIRNode) -> nir.NIRGraph:
    nodes = {
        "w": nir.Affine(normal(rng, 12, 10), normal(rng, 12)),
        "n": neuron,
        "back": nir.Linear(normal(rng, 12, 12, mean=-0.1)),
    }
    return connected(nodes, 10, 12, "in w", "w n", "n back", "back n", "n out")


def residual(rng: np.random.Generator) -> nir.NIRGraph:
    nodes = {
        "a": nir.Linear(normal(rng, 12, 10)),
        "n": lif(12, 10),
        "b": nir.Linear(normal(rng, 12, 12)),
        "m": lif(12, 20, 1.5),
    }
    return connected(nodes, 10, 12, "in a", "a n", "n b", "b m", "n m", "m out")


def nested(rng: np.random.Generator) -> nir.NIRGraph:
    inner = sequence(12, nir.Linear(normal(rng, 12, 12)), lif(12, 10))
    nodes = {"w": nir.Linear(normal(rng, 12, 10)), "n": lif(12, 7.3), "block": inner}
    return connected(nodes, 10, 12, "in w", "w n", "n block", "block out")


def li(shape: int, k: Any) -> nir.LI:
    return nir.LI(full(shape, k) * DT, full(shape, k), full(shape, 0))


def subtractive(
    weight: np.ndarray, k: float, threshold: Any = 1.0, *, gain: float = 1.0, integrator: nir.NIRNode | None = None
) -> nir.NIRGraph:
    """snnTorch's reset by subtraction: the spike takes ``gain * threshold`` off the potential, one step later."""
    n, inputs = weight.shape
    level = full(n, threshold)
    nodes = {
        "w": nir.Linear(weight),
        "v": integrator or li(n, k),
        "s": nir.Threshold(level),
        "reset": nir.Scale(-gain * level),
    }
    return connected(nodes, inputs, n, "in w", "w v", "v s", "s reset", "reset v", "s out")


def synaptic(weight: np.ndarray, synapse: float, membrane: float) -> nir.NIRGraph:
    """`snntorch.Synaptic` with reset by subtraction: the feedback does not pass the synapse."""
    n, inputs = weight.shape
    current = nir.CubaLI(full(n, synapse) * DT, full(n, membrane) * DT, full(n, membrane), full(n, 0), full(n, synapse))
    nodes = {
        "w": nir.Linear(weight),
        "i": current,
        "back": li(n, membrane),
        "s": nir.Threshold(full(n, 1.0)),
        "reset": nir.Scale(full(n, -1.0)),
    }
    return connected(nodes, inputs, n, "in w", "w i", "i s", "back s", "s reset", "reset back", "s out")


def two_populations(rng: np.random.Generator) -> nir.NIRGraph:
    """Two subtractive populations that feed each other."""
    nodes: dict[str, nir.NIRNode] = {"back": nir.Linear(normal(rng, 12, 12, mean=-0.1, deviation=0.2))}
    edges = ["in a.w", "a.s b.w", "b.s back", "back a.v", "b.s out"]
    for name, inputs, k in (("a", 10, 10.0), ("b", 12, 5.0)):
        nodes |= {f"{name}.w": nir.Linear(normal(rng, 12, inputs)), f"{name}.v": li(12, k)}
        nodes |= {f"{name}.s": nir.Threshold(full(12, 1.0)), f"{name}.reset": nir.Scale(full(12, -1.0))}
        edges += [f"{name}.w {name}.v", f"{name}.v {name}.s", f"{name}.s {name}.reset", f"{name}.reset {name}.v"]
    return connected(nodes, 10, 12, *edges)


def self_inhibition(rng: np.random.Generator) -> nir.NIRGraph:
    """A LIF population with a gain of its own for each neuron's feedback, beyond the range of its weights."""
    nodes = {
        "w": nir.Linear(normal(rng, 12, 10) / 2),
        "n": lif(12, 10),
        "own": nir.Scale(-rng.uniform(1, 3, 12)),
        "back": nir.Linear(normal(rng, 12, 12, mean=-0.1) / 2),
    }
    return connected(nodes, 10, 12, "in w", "w n", "n own", "own n", "n back", "back n", "n out")


def readout(neuron: nir.NIRNode) -> Builder:
    return lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, 10), nir.Linear(normal(r, 3, 12)), neuron)


# Dyadic parameters: every weight and threshold is a multiple of 1/8; the neuron states need few fraction bits.
EXACT: dict[str, Builder] = {
    "memoryless": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), lif(6, 1, 1.0)),
    "threshold": lambda r: sequence(
        10, nir.Affine(r.integers(-8, 16, (6, 10)) / 8, r.integers(-8, 8, 6) / 8), nir.Threshold(full(6, 0.875))
    ),
    "if": lambda r: sequence(
        10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), nir.IF(full(6, 1 / DT), full(6, 3.0), full(6, 0.0))
    ),
    "lif": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), lif(6, 2, 3.03125)),
    "norse": lambda r: sequence(10, nir.Linear(r.integers(-8, 16, (6, 10)) / 2), lif(6, 4, 3.03125, r=1)),
    "average": lambda r: sequence([2, 8, 8], lif((2, 8, 8), 1, 0.5), pool(nir.AvgPool2d), lif((2, 4, 4), 1, 0.25)),
    "scale": lambda r: sequence(
        10, nir.Linear(r.integers(-8, 16, (6, 10)) / 8), nir.Scale(np.array([0.5, 1, 3, -2, 1, 1.5])), lif(6, 1, 1)
    ),
    "subtract": lambda r: subtractive(r.integers(-8, 16, (6, 10)) / 16, 4),
    "subtract-if": lambda r: subtractive(r.integers(-12, 16, (6, 10)) / 16, 0, integrator=nir.I(full(6, 1 / DT))),
    "no-reset": lambda r: sequence(
        10, nir.Linear(r.integers(-8, 9, (6, 10)) / 8), li(6, 2), nir.Threshold(full(6, 0.53125))
    ),
}
FLOAT: dict[str, Builder] = {
    "lif": lambda r: sequence(10, nir.Affine(normal(r, 12, 10), normal(r, 12)), lif(12, 10)),
    "chain": lambda r: sequence(
        10, nir.Linear(normal(r, 20, 10)), lif(20, 7.7), nir.Linear(normal(r, 12, 20)), lif(12, 23)
    ),
    "unit-r": lambda r: sequence(10, nir.Linear(8 * normal(r, 12, 10)), lif(12, 10, r=1)),
    "mixed-tau": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, np.arange(2, 14))),
    "leak": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), lif(12, 10, leak=0.7)),
    "cubalif": lambda r: sequence(10, nir.Linear(40 * normal(r, 12, 10)), cuba(12, 3.3, 9.1, 1)),
    "if": lambda r: sequence(10, nir.Linear(normal(r, 12, 10)), nir.IF(full(12, 1 / DT), full(12, 3.0), full(12, 0.0))),
    "conv-average": lambda r: sequence([2, 8, 8], conv(r, 2, 3), pool(nir.AvgPool2d), lif((3, 4, 4), 6)),
    "conv-spikes-average": lambda r: sequence(
        [2, 8, 8],
        conv(r, 2, 3),
        lif((3, 8, 8), 6),
        pool(nir.AvgPool2d),
        flat(3, 4, 4),
        nir.Linear(normal(r, 12, 48)),
        lif(12, 9),
    ),
    "conv1d": lambda r: sequence([2, 5], nir.Conv1d(5, normal(r, 3, 2, 3), 1, 1, 1, 1, normal(r, 3)), lif((3, 5), 9)),
    "scale-behind": lambda r: sequence(
        10, nir.Linear(normal(r, 12, 10)), nir.Scale(r.uniform(0.3, 3, 12)), lif(12, 10)
    ),
    "scale-front": lambda r: sequence(10, nir.Scale(r.uniform(0.3, 3, 10)), nir.Linear(normal(r, 12, 10)), lif(12, 10)),
    "scale-alone": lambda r: sequence(10, nir.Scale(r.uniform(0.3, 1, 10)), lif(10, 10)),
    "no-weights": lambda r: sequence(10, lif(10, 10, 1.7)),
    "delay": lambda r: sequence(10, nir.Delay(DT * np.arange(10.0)), nir.Linear(normal(r, 12, 10)), lif(12, 10)),
    "recurrent": lambda r: recurrent(r, lif(12, 10)),
    "recurrent-memoryless": lambda r: recurrent(r, lif(12, 1)),
    "residual": residual,
    "nested": nested,
    "li": readout(nir.LI(full(3, 10 * DT), full(3, 1.0), full(3, 0.0))),
    "li-threshold": lambda r: sequence(
        10,
        nir.Linear(normal(r, 12, 10)),
        nir.LI(full(12, 8 * DT), full(12, 8), full(12, 0)),
        nir.Threshold(full(12, 1.0)),
    ),
    "li-mixed-gain": lambda r: sequence(
        10,
        nir.Linear(normal(r, 12, 10)),
        nir.LI(DT * np.arange(2.0, 14), full(12, 1.0), full(12, 0)),
        nir.Threshold(full(12, 0.3)),
    ),
    "subtract": lambda r: subtractive(normal(r, 12, 10), 10),
    "subtract-same-step": lambda r: subtractive(normal(r, 12, 10), 10, gain=0.9),
    "subtract-thresholds": lambda r: subtractive(normal(r, 12, 10), 10, np.linspace(0.5, 3, 12)),
    "subtract-if": lambda r: subtractive(normal(r, 12, 10, mean=0.05), 0, integrator=nir.I(full(12, 1 / DT))),
    "subtract-memoryless": lambda r: subtractive(normal(r, 12, 10), 1),
    "synaptic": lambda r: synaptic(normal(r, 12, 10, mean=0.02), 5, 10),
    "recurrent-subtract": two_populations,
    "recurrent-gain": self_inhibition,
    "no-reset": lambda r: sequence(10, nir.Linear(normal(r, 12, 10, mean=0)), li(12, 10), nir.Threshold(full(12, 1.0))),
    "two-matrices": lambda r: sequence(
        10, nir.Affine(normal(r, 30, 10), normal(r, 30)), nir.Affine(normal(r, 12, 30) / 3, normal(r, 12)), lif(12, 10)
    ),
    "li-lif": lambda r: sequence(
        10, nir.Linear(normal(r, 12, 10)), nir.LI(DT * np.arange(2.0, 14), full(12, 1), full(12, 0)), lif(12, 10)
    ),
    "li-matrix-lif": lambda r: sequence(
        10,
        nir.Linear(normal(r, 12, 10)),
        nir.LI(full(12, 7.3 * DT), full(12, 1), full(12, 0)),
        nir.Affine(normal(r, 12, 12) / 2, normal(r, 12)),
        lif(12, 10),
    ),
    "li-li": lambda r: sequence(
        10, nir.Linear(normal(r, 12, 10)), li(12, 7.3), li(12, 3.3), nir.Threshold(full(12, 6.0))
    ),
    "li-matrix-li-matrix-lif": lambda r: sequence(  # the last LI becomes a synapse, the first one stays
        10,
        li(10, 8),
        nir.Linear(normal(r, 12, 10, mean=0)),
        li(12, 3.3),
        nir.Linear(normal(r, 12, 12, mean=0) / 9),
        lif(12, 10),
    ),
    "cubali": readout(nir.CubaLI(full(3, 4 * DT), full(3, 10 * DT), full(3, 1.0), full(3, 0.1), full(3, 1.0))),
}


def spikes(graph: nir.NIRGraph | Graph, seed: int = 1, steps: int = STEPS) -> np.ndarray:
    size = next(
        int(np.prod(n.array("shape")))
        for n in as_graph(graph).nodes.values()
        if isinstance(n, Node) and n.type == "Input"
    )
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
    share = 0.06 if name.startswith(("recurrent", "subtract", "synaptic")) else 0.03  # a loop feeds differences back
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
            assert (error > 0).mean() < 0.01 if values.dtype == bool else error.max() < 0.02 * np.abs(values).max(), (
                f"{name} {node}"
            )


def test_outputs_carry_their_scale() -> None:
    ones = np.ones(3)
    for neuron in (
        nir.LI(10 * DT * ones, ones, 0.2 * ones),
        nir.CubaLI(4 * DT * ones, 10 * DT * ones, ones, 0.1 * ones, ones),
        nir.I(ones / DT),
    ):
        graph = sequence(10, nir.Linear(normal(np.random.default_rng(4), 3, 10)), neuron)
        integer, done = quantize(graph, calibration=spikes(graph, 2))
        inputs, (scale,) = spikes(graph), done.outputs.values()
        (output,) = lower(integer).outputs
        want, got = (
            float_reference.run(as_graph(graph), inputs).values[output],
            reference.run(lower(integer), inputs).values[output],
        )
        assert np.abs(got / scale - want).max() < 0.02 * np.abs(want).max()


def test_more_weight_bits_mean_fewer_differences() -> None:
    counts = {}
    for bits in (3, 4, 6, 8):
        counts[bits] = 0
        for seed in range(4):
            graph = FLOAT["chain"](np.random.default_rng(seed))
            counts[bits] += compare_quantization(
                graph, quantize(graph, weight_bits=bits)[0], spikes(graph, steps=100)
            ).differences
    assert counts[3] > counts[4] > counts[6] > counts[8], counts


def test_calibration_never_does_worse_on_its_own_inputs() -> None:
    gains = []
    for seed in range(3):
        graph = FLOAT["chain"](np.random.default_rng(seed))
        inputs = spikes(graph)
        plain = compare_quantization(graph, quantize(graph, weight_bits=4)[0], inputs).differences
        calibrated = compare_quantization(
            graph, quantize(graph, weight_bits=4, calibration=inputs)[0], inputs
        ).differences
        gains.append(plain - calibrated)
    assert min(gains) >= 0 and sum(gains) > 0, gains


def test_gains_fold_into_weights_and_average_pooling_into_scales() -> None:
    for name in ("scale-behind", "scale-front"):
        assert "Scale" not in {
            n.type for n in quantize(FLOAT[name](np.random.default_rng(4)))[0].nodes.values() if isinstance(n, Node)
        }
    types = {
        n.type
        for n in quantize(FLOAT["conv-average"](np.random.default_rng(4)))[0].nodes.values()
        if isinstance(n, Node)
    }
    assert "SumPool2d" in types and "AvgPool2d" not in types


def test_integer_graphs_pass_unchanged() -> None:
    graph = as_graph(
        sequence(6, nir.Linear(np.random.default_rng(1).integers(-60, 100, (5, 6)).astype(np.float32)), lif(5, 8, 150))
    )
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
        mutant = replace(
            node,
            parameters={
                **node.parameters,
                parameter: np.rint(node.array(parameter) * change).astype(node.array(parameter).dtype),
            },
        )
        assert (
            compare_quantization(graph, replace(integer, nodes={**integer.nodes, name: mutant}), inputs).differences
            > before + 20
        )


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
    "wide-stack": (
        connected(
            {
                "a": nir.Linear(np.ones((300, 200)) / 3),
                "b": nir.Linear(np.ones((2, 300)) / 7 + W[:, :1]),
                "m": lif(300, 10),
                "n": lif(2, 10),
            },
            200,
            2,
            "in a",
            "a b",
            "a m",
            "b n",
            "n out",
        ),
        "merge weights",
    ),
    "huge-threshold": (sequence(2, nir.Linear(W), lif(2, 10, threshold=1e6)), "larger weights or smaller thresholds"),
    "potential": (
        sequence(2, nir.Linear(W), li(2, [10, 11]), nir.Linear(W), lif(2, 10)),
        "li: linear_1 reads the potential.*one tau and gain",
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
    for name, (low, high) in LIMITS.items():
        for bits in (low - 1, high + 1):
            with pytest.raises(InputError, match=rf"^{name} must be in {low}\.\.{high}, got {bits}$"):
                quantize(graph, **{name: bits})  # type: ignore[arg-type]  # the name is one of the widths
    with pytest.raises(InputError, match="expects an array"):
        float_reference.run(as_graph(graph), np.zeros((3, 4)))


def test_narrower_formats_are_kept_and_cost_spikes() -> None:
    narrow, wide = 0, 0
    for seed in range(4):
        graph = FLOAT["chain"](np.random.default_rng(seed))
        integer, done = quantize(graph, weight_bits=6, decay_bits=5, threshold_bits=9)
        assert done.formats == Formats(6, 5, 9)
        for op in lower(integer).ops:
            if isinstance(op, Linear):
                assert np.abs(op.weight).max() <= 31
            if isinstance(op, Lif):
                assert op.threshold is not None and 0 < op.threshold.max() < 1 << 9
                assert not (op.voltage_decay % 128).any() and (op.voltage_decay > 0).all()
        inputs = spikes(graph, steps=100)
        narrow += compare_quantization(graph, integer, inputs).differences
        wide += compare_quantization(graph, quantize(graph)[0], inputs).differences
    assert narrow > wide


def test_a_decay_too_narrow_for_its_time_constant_is_refused() -> None:
    graph = sequence(4, nir.Linear(normal(np.random.default_rng(1), 4, 4)), lif(4, 100))
    quantize(graph)
    with pytest.raises(GraphError, match=r"^lif: tau is beyond 32 steps, its 4-bit decay is 0"):
        quantize(graph, decay_bits=4)


def test_a_cycle_through_a_subgraph_means_what_it_means_inlined() -> None:
    """Cycles are found on the inlined graph: each of its edges that leaves a spiking node has one step of delay."""
    rng = np.random.default_rng(1)
    weight, n, m = nir.Linear(normal(rng, 4, 4)), lif(4, 10), lif(4, 10, threshold=0.1)
    inner = connected({"w": weight, "m": m}, 4, 4, "in w", "w m", "m out")
    nested = connected({"n": n, "block": inner}, 4, 4, "in n", "n block", "block n", "n out")
    flat = connected(
        {"n": n, "block.w": weight, "block.m": m}, 4, 4, "in n", "n block.w", "block.w block.m", "block.m n", "n out"
    )
    integers = [quantize(graph)[0] for graph in (nested, flat)]
    assert str(lower(integers[0])) == str(lower(integers[1]))
    inputs = spikes(flat, steps=60)
    for run in (
        lambda i: float_reference.run(as_graph((nested, flat)[i]), inputs),
        lambda i: reference.run(lower(integers[i]), inputs),
    ):
        one, two = run(0).values, run(1).values
        assert set(one) == set(two) and all((one[name] == two[name]).all() for name in one)
        assert 0 < one["block.m"].sum() < one["block.m"].size


def test_wide_layers_are_scaled_into_the_state_width() -> None:
    graph = sequence(900, nir.Linear(np.full((2, 900), 0.37) + np.eye(2, 900) * 0.001), cuba(2, 30, 30, 0.2))
    integer, _ = quantize(graph)
    node = integer.nodes["linear"]
    assert isinstance(node, Node) and 0 < np.abs(node.array("weight")).max() < 127
    assert compare_quantization(graph, integer, spikes(graph)).differences <= 2


def test_an_integrator_that_a_threshold_reads_saturates_instead_of_limiting_its_weights() -> None:
    """The worst case of 400 inputs and beta 0.99 would leave less than 5 bits."""
    rng = np.random.default_rng(1)
    graph = subtractive(rng.uniform(-0.05, 0.05, (50, 400)) + 0.001, 100)
    integer, done = quantize(graph)
    assert max(w.error for w in done.weights) < 0.007
    assert np.abs(lower(integer).signals["v"].high).max() == (1 << 23) - 1, "the worst case must saturate"
    report = compare_quantization(graph, integer, spikes(graph, steps=100))
    assert report.nodes[0].float_spikes > 100 and report.differences < 0.2 * report.nodes[0].float_spikes, f"\n{report}"


def test_a_reset_takes_off_exactly_its_threshold() -> None:
    integer, _ = quantize(subtractive(normal(np.random.default_rng(4), 12, 10), 10))
    reset, threshold = integer.nodes["reset"], integer.nodes["s"]
    assert isinstance(reset, Node) and isinstance(threshold, Node)
    assert (-64 * reset.array("scale") == threshold.array("threshold") - 0.5).all() and np.abs(
        reset.array("scale")
    ).min() > 127


def test_gains_beyond_eight_bits_are_worth_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    def differences() -> int:
        graphs = [
            subtractive(normal(np.random.default_rng(seed), 40, 30, deviation=0.1, mean=0.02), 10) for seed in range(4)
        ]
        return sum(compare_quantization(g, quantize(g)[0], spikes(g, steps=100)).differences for g in graphs)

    wide = differences()
    monkeypatch.setattr(graph_scales, "MAX_GAIN", 127)
    assert differences() > 1.5 * wide > 0


def test_gains_become_shifted_digits() -> None:
    gain = np.array([1270, -1, 131071, -131071, 0, -128])
    program = lower(sequence(6, nir.Scale(gain.astype(np.float64)), lif(6, 8, 9)))
    assert [type(op) for op in program.ops] == [Input, Conv2d, Conv2d, Conv2d, Sum, Lif]
    inputs = np.eye(6, dtype=np.int64)
    found = reference.run(replace(program, ops=program.ops[:-1], outputs=("scale",)), inputs).values["scale"]
    assert np.array_equal(found, np.diag(gain))
    with pytest.raises(GraphError, match=r"the gain is in \[0, 131072\], allowed is \[-131071, 131071\]"):
        lower(sequence(2, nir.Scale(np.array([131072, 0])), lif(2, 8, 9)))


LOOPS = (
    "subtract",
    "subtract-same-step",
    "subtract-if",
    "synaptic",
    "recurrent-subtract",
    "recurrent-gain",
    "no-reset",
    "li-matrix-lif",
    "li-li",
)


@pytest.mark.parametrize("name", LOOPS)
def test_backends_agree(name: str) -> None:
    program = lower(quantize(FLOAT[name](np.random.default_rng(4)))[0])
    inputs = (np.random.default_rng(3).random((STEPS, 10)) < 0.4).astype(np.int64)
    report = verify(program, inputs, ["hls", "lava"])
    assert report.exact, f"\n{report}"
    assert all(0 < v.sum() < v.size for n, v in report.reference.values.items() if program.signals[n].spikes)
    (stock,) = verify(program, inputs, ["lava-stock"]).results
    if name == "recurrent-gain":  # a loop through one LIF population, with three synapses
        assert stock.exact, stock
    else:
        assert (
            stock.error.startswith("LossyConversionError: stock Loihi 2 processes")
            and "the backend 'lava'" in stock.error
        )


def test_integrators_are_bounded_by_their_fixed_points() -> None:
    """Worst-case inputs, of both signs, come close to the interval and never leave it."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        n = 6
        decays = [np.maximum(rng.integers(1, 4097, n), 40).astype(np.int32) for _ in range(2)]
        weight = (rng.integers(20, 128, n) * rng.choice([-1, 1], n)).astype(np.int8)
        zeros, bias = np.zeros(n, np.int32), rng.integers(-500, 500, n).astype(np.int32)
        ops = (
            Input("x", 1),
            Linear("a", "x", weight[:, None], zeros, zeros.astype(np.uint8)),
            Lif("v", "a", decays[0], decays[1], None, bias),
        )
        program = Program(ops, ("v",), DEFAULT_WIDTHS)
        values = reference.run(program, np.ones((1500, 1), np.int64)).values["v"]
        low, high = program.signals["v"].low, program.signals["v"].high
        assert (values >= low).all() and (values <= high).all()
        reach = np.where(weight > 0, values.max(0) / np.maximum(high, 1), values.min(0) / np.minimum(low, -1))
        assert (reach > 0.5).all(), reach


@pytest.mark.parametrize("name", ["two-matrices", "li-lif", "li-matrix-lif", "li-li", "li-matrix-li-matrix-lif"])
def test_rewrites_keep_the_meaning(name: str) -> None:
    graph = as_graph(FLOAT[name](np.random.default_rng(4)))
    rewritten = prepare(inline(graph), Formats())[0].graph
    assert len(rewritten.nodes) < len(graph.nodes)
    want, got = (float_reference.run(g, spikes(graph, steps=200)).values for g in (graph, rewritten))
    assert all(np.array_equal(want[node], got[node]) for node in want)


def test_matrices_merge_only_where_nothing_else_reads_the_first() -> None:
    rng = np.random.default_rng(2)
    nodes = {
        "a": nir.Linear(normal(rng, 12, 10)),
        "b": nir.Linear(normal(rng, 12, 12)),
        "m": lif(12, 10),
        "n": lif(12, 10),
    }
    assert {"a", "b"} <= set(quantize(connected(nodes, 10, 12, "in a", "a b", "a m", "b n", "n out"))[0].nodes)
    integer, _ = quantize(
        connected({k: v for k, v in nodes.items() if k != "m"}, 10, 12, "in a", "a b", "b n", "n out")
    )
    assert set(integer.nodes) == {"in", "b", "n", "out"}


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_digits_classifier_keeps_its_accuracy(reset: str, one_thread: None) -> None:
    """Two layers trained with snnTorch; accuracy on the held-out fifth, float against 8 bits."""
    data = benchmark.digits()
    weights = benchmark.train(data, reset)
    graph = benchmark.network(weights, benchmark.BETAS, reset)
    for x in data.tests[:20]:
        assert np.array_equal(
            float_reference.run(graph, x).values[benchmark.LAST], benchmark.snntorch_spikes(weights, reset, x)
        )
    accuracy = [
        data.accuracy(run)
        for run in (lambda x: float_reference.run(graph, x), benchmark.integer_run(quantize(graph)[0]))
    ]
    assert accuracy[0] > 0.93, "the classifier must have learned"
    assert accuracy[1] >= accuracy[0] - 0.005, accuracy
