"""Graphs of every NIR node type, from stock `nir` objects through all backends: 0 differences from the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import pytest

from nsllm_nir import lower, verify
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import DT
from nsllm_nir.program import Conv2d, Count, Lif, Program

STEPS = 24
Builder = Callable[[np.random.Generator], nir.NIRGraph]


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-60, 100, shape).astype(np.float32)


def full(shape: int | tuple[int, ...], value: float) -> np.ndarray:
    return np.full(shape if isinstance(shape, tuple) else (shape,), value, np.float64)


def lif(shape: int | tuple[int, ...], k: float, threshold: float, leak: float = 0.0) -> nir.LIF:
    """tau = k dt, r = k: the input enters with gain 1."""
    return nir.LIF(tau=full(shape, k * DT), r=full(shape, k), v_leak=full(shape, leak), v_threshold=full(shape, threshold), v_reset=full(shape, 0))


def cuba(shape: int, synapse: float, membrane: float, threshold: float) -> nir.CubaLIF:
    return nir.CubaLIF(
        tau_syn=full(shape, synapse * DT),
        tau_mem=full(shape, membrane * DT),
        r=full(shape, membrane),
        w_in=full(shape, synapse),
        v_leak=full(shape, 0),
        v_threshold=full(shape, threshold),
        v_reset=full(shape, 0),
    )


def integrate_and_fire(shape: int, threshold: float) -> nir.IF:
    return nir.IF(r=full(shape, 1 / DT), v_threshold=full(shape, threshold), v_reset=full(shape, 0))


def sequence(size: int | list[int], *nodes: nir.NIRNode) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(nir.Input(np.array(size if isinstance(size, list) else [size])), *nodes)


def conv(rng: np.random.Generator, size: tuple[int, int], outputs: int, channels: int, kernel: int, **more: int) -> nir.Conv2d:
    at = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **more}
    return nir.Conv2d(size, weights(rng, outputs, channels // at["groups"], kernel, kernel), bias=np.zeros(outputs), **at)


def recurrent(rng: np.random.Generator, neuron: nir.NIRNode) -> nir.NIRGraph:
    nodes = {"in": nir.Input(np.array([6])), "w": nir.Linear(weights(rng, 5, 6)), "n": neuron, "rec": nir.Linear(weights(rng, 5, 5))}
    nodes["out"] = nir.Output(np.array([5]))
    return nir.NIRGraph(nodes, [("in", "w"), ("w", "n"), ("n", "rec"), ("rec", "n"), ("n", "out")])


def residual(rng: np.random.Generator) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input(np.array([6])),
        "a": nir.Linear(weights(rng, 8, 6)),
        "n1": lif(8, 8, 150),
        "b": nir.Linear(weights(rng, 8, 8)),
        "c": nir.Linear(20 * np.eye(8, dtype=np.float32)),
        "n2": lif(8, 16, 200),
        "out": nir.Output(np.array([8])),
    }
    return nir.NIRGraph(nodes, [("in", "a"), ("a", "n1"), ("n1", "b"), ("n1", "c"), ("b", "n2"), ("c", "n2"), ("n2", "out")])


def nested(rng: np.random.Generator) -> nir.NIRGraph:
    inner = sequence(8, nir.Linear(weights(rng, 8, 8)), lif(8, 4, 120))
    nodes = {"in": nir.Input(np.array([6])), "w": nir.Linear(weights(rng, 8, 6)), "n": lif(8, 8, 150), "block": inner, "out": nir.Output(np.array([8]))}
    return nir.NIRGraph(nodes, [("in", "w"), ("w", "n"), ("n", "block"), ("block", "out")])


ZOO: dict[str, Builder] = {
    "linear-lif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 8, 150)),
    "affine-lif": lambda r: sequence(6, nir.Affine(weights(r, 5, 6), np.array([1, -2, 3, 0, 5.0])), lif(5, 8, 150)),
    "lif-chain": lambda r: sequence(6, nir.Linear(weights(r, 9, 6)), lif(9, 8, 100), nir.Linear(weights(r, 5, 9)), lif(5, 16, 300)),
    "lif-arbitrary-tau": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 4096 / 410, 150)),
    "lif-mixed-tau": lambda r: sequence(6, nir.Linear(weights(r, 4, 6)), mixed(4)),
    "memoryless-lif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 1, 50)),
    "threshold": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), nir.Threshold(np.array([-3.0, 0.0, 10.5, 40.0, 99.0]))),
    "if": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), integrate_and_fire(5, 200)),
    "cubalif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), cuba(5, 4, 16, 400)),
    "cubalif-chain": lambda r: sequence(6, nir.Linear(weights(r, 9, 6)), cuba(9, 4, 8, 300), nir.Linear(weights(r, 5, 9)), cuba(5, 2, 32, 900)),
    "delay": lambda r: sequence(6, nir.Delay(DT * np.array([0, 1, 2, 3, 0, 5.0])), nir.Linear(weights(r, 5, 6)), lif(5, 8, 150)),
    "scale": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), nir.Scale(np.array([1, 2, 4, 1, 2.0])), lif(5, 8, 150)),
    "scale-integer": lambda r: sequence(6, nir.Scale(np.array([3, -5, 7, 1, 0, 2.0])), lif(6, 8, 9)),
    "conv2d": lambda r: sequence([2, 6, 6], conv(r, (6, 6), 3, 2, 3), lif((3, 4, 4), 8, 200)),
    "conv2d-padding": lambda r: sequence([2, 6, 6], conv(r, (6, 6), 3, 2, 3, padding=1), lif((3, 6, 6), 8, 200)),
    "conv2d-stride": lambda r: sequence([2, 7, 7], conv(r, (7, 7), 3, 2, 3, stride=2), lif((3, 3, 3), 8, 200)),
    "conv2d-dilation": lambda r: sequence([1, 7, 7], conv(r, (7, 7), 2, 1, 3, dilation=2), lif((2, 3, 3), 8, 200)),
    "conv1d": lambda r: sequence([2, 9], nir.Conv1d(9, weights(r, 3, 2, 3), 1, 0, 1, 1, np.zeros(3)), lif((3, 7), 8, 200)),
    "conv1d-stride": lambda r: sequence([2, 9], nir.Conv1d(9, weights(r, 3, 2, 3), 2, 1, 1, 1, np.zeros(3)), lif((3, 5), 8, 200)),
    "sum-pool": lambda r: sequence([2, 6, 6], lif((2, 6, 6), 1, 0.5), pool(), lif((2, 3, 3), 8, 3)),
    "conv-stack": lambda r: sequence(
        [1, 8, 8],
        conv(r, (8, 8), 3, 1, 3),
        lif((3, 6, 6), 8, 100),
        pool(),
        nir.Flatten({"input": np.array([3, 3, 3])}, 0, -1),
        nir.Linear(weights(r, 4, 27)),
        lif(4, 16, 500),
    ),
    "residual": residual,
    "nested": nested,
    "recurrent-lif": lambda r: recurrent(r, lif(5, 8, 150)),
    "recurrent-memoryless": lambda r: recurrent(r, lif(5, 1, 90)),
    "recurrent-cubalif": lambda r: recurrent(r, cuba(5, 4, 16, 600)),
}


def mixed(size: int) -> nir.LIF:
    k = 2.0 ** np.arange(1, size + 1)
    return nir.LIF(tau=k * DT, r=k, v_leak=full(size, 0), v_threshold=50 * k, v_reset=full(size, 0))


def pool() -> nir.SumPool2d:
    return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))


def spikes(program: Program, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random((STEPS, program.inputs[0].size)) < 0.4).astype(np.int64)


@pytest.fixture(params=ZOO, ids=list(ZOO))
def graph(request: pytest.FixtureRequest) -> nir.NIRGraph:
    return ZOO[request.param](np.random.default_rng(3))


def test_zoo_is_exact_on_every_backend(graph: nir.NIRGraph, tmp_path: Path) -> None:
    path = tmp_path / "graph.nir"
    nir.write(path, graph)
    program = lower(path)
    assert str(program) == str(lower(graph)), "a file and the graph in memory lower to the same program"
    report = verify(program, spikes(program), ["hls", "lava", "lava-stock"])
    node = [name for name, signal in program.signals.items() if signal.spikes][-1]
    assert 0 < report.reference.values[node].sum() < report.reference.values[node].size, "the graph must fire, and not always"
    assert report.exact, f"\n{report}"


def lowered(*nodes: nir.NIRNode, size: int | list[int] = 4) -> Program:
    return lower(sequence(size, *nodes))


def test_neurons_become_loihi_parameters() -> None:
    op = lowered(lif(4, 8, 150)).ops[-1]
    assert isinstance(op, Lif) and op.threshold is not None
    assert (op.current_decay[0], op.voltage_decay[0], op.threshold[0]) == (4096, 512, 150)
    op = lowered(cuba(4, 4, 16, 400)).ops[-1]
    assert isinstance(op, Lif) and op.threshold is not None
    assert (op.current_decay[0], op.voltage_decay[0], op.threshold[0]) == (1024, 256, 400)
    op = lowered(nir.LIF(full(4, 8 * DT), full(4, 1), full(4, 0), full(4, 10), full(4, 0))).ops[-1]
    assert isinstance(op, Lif) and op.threshold is not None and op.threshold[0] == 80, "gain 1/8 multiplies the threshold by 8"


def test_a_leak_potential_becomes_a_constant_current() -> None:
    op = lowered(lif(4, 8, 150, leak=16)).ops[-1]
    assert isinstance(op, Lif) and op.bias[0] == 64 * 16 // 8


def test_memoryless_neurons_become_counts() -> None:
    assert isinstance(lowered(lif(4, 1, 50)).ops[-1], Count)


def test_pooling_becomes_a_convolution_with_a_group_per_channel() -> None:
    op = lowered(pool(), size=[3, 4, 4]).ops[-1]
    assert isinstance(op, Conv2d) and op.groups == 3 and op.output_shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (lif(4, 4096 / 410.5, 150), r"4096 dt / tau is not integer .*quantize the graph first"),
        (lif(4, 8, 150.25), r"v_threshold / gain is not integer"),
        (lif(4, 8, 1 << 17), r"v_threshold / gain is in \[131072\.0, 131072\.0\], allowed is \[0, 131071\]"),
        (nir.LIF(full(4, DT * 8), full(4, 8), full(4, 0), full(4, 9), full(4, 1)), r"v_reset must be 0"),
        (nir.LIF(full(4, 0), full(4, 8), full(4, 0), full(4, 9), full(4, 0)), r"tau must be positive"),
        (nir.LIF(full(4, DT * 8), full(4, -8), full(4, 0), full(4, 9), full(4, 0)), r"must give a positive gain"),
        (nir.IF(full(4, np.nan), full(4, 9), full(4, 0)), r"r holds NaN or infinity"),
        (nir.Scale(full(4, 0.3)), r"the gain is not integer"),
        (nir.Linear(full((4, 4), 0.5)), r"the weight is not integer"),
        (nir.Delay(full(4, 1.5 * DT)), r"the delay in steps of 1e-4 s is not integer"),
    ],
)
def test_what_is_not_exact_is_refused_by_name(node: nir.NIRNode, message: str) -> None:
    with pytest.raises(GraphError, match=rf"^{type(node).__name__.lower()}: .*{message}"):
        lowered(node)


def test_average_pooling_is_refused_with_the_remedy() -> None:
    with pytest.raises(GraphError, match=r"^avgpool2d: AvgPool2d divides.*use SumPool2d"):
        lowered(nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), size=[3, 4, 4])


def test_renamed_and_reordered_graphs_run_the_same() -> None:
    graph = ZOO["recurrent-lif"](np.random.default_rng(3))
    names = {"in": "z", "w": "b", "n": "y", "rec": "a", "out": "c"}
    renamed = nir.NIRGraph({names[k]: v for k, v in reversed(graph.nodes.items())}, [(names[a], names[b]) for a, b in reversed(graph.edges)])
    first, second = lower(graph), lower(renamed)
    inputs = spikes(first)
    a, b = (verify(p, inputs, ["reference"]).reference.values[p.outputs[0]] for p in (first, second))
    assert (a == b).all() and a.any()
