"""Graphs of every NIR node type, from stock `nir` objects through all backends: 0 differences from the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
import torch

from nsllm_nir import exporters, lower, verify
from nsllm_nir.errors import GraphError, LossyConversionError
from nsllm_nir.graph import DT, NODE_KINDS, Graph, Node, as_graph, walk, write
from nsllm_nir.program import Conv2d, Count, Lif, Program
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization.quantize import quantize
from nsllm_nir.verification.nir_nodes import cuba, cuba_li, full, integrate_and_fire, li, lif, pool, sequence

STEPS = 24
Builder = Callable[[np.random.Generator], nir.NIRGraph]


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-60, 100, shape).astype(np.float32)


def conv(
    rng: np.random.Generator, size: tuple[int, int], outputs: int, channels: int, kernel: int, **more: int
) -> nir.Conv2d:
    at = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **more}
    return nir.Conv2d(
        size, weights(rng, outputs, channels // at["groups"], kernel, kernel), bias=np.zeros(outputs), **at
    )


def network(size: int | list[int], ends: dict[str, int], nodes: dict[str, nir.NIRNode], *paths: str) -> nir.NIRGraph:
    """``paths`` such as "in a n out" are edges; ends: {name of an Output node: its neurons}."""
    ports = {
        "in": nir.Input(np.array(size if isinstance(size, list) else [size])),
        **{name: nir.Output(np.array([n])) for name, n in ends.items()},
    }
    edges = [edge for path in paths for edge in itertools.pairwise(path.split())]
    return nir.NIRGraph({**ports, **nodes}, list(dict.fromkeys(edges)))


def recurrent(rng: np.random.Generator, neuron: nir.NIRNode) -> nir.NIRGraph:
    nodes = {"w": nir.Linear(weights(rng, 5, 6)), "n": neuron, "rec": nir.Linear(weights(rng, 5, 5))}
    return network(6, {"out": 5}, nodes, "in w n out", "n rec n")


def residual(rng: np.random.Generator) -> nir.NIRGraph:
    identity = nir.Linear(20 * np.eye(8, dtype=np.float32))
    nodes = {
        "a": nir.Linear(weights(rng, 8, 6)),
        "n1": lif(8, 8, 150),
        "b": nir.Linear(weights(rng, 8, 8)),
        "c": identity,
        "n2": lif(8, 16, 200),
    }
    return network(6, {"out": 8}, nodes, "in a n1 b n2 out", "n1 c n2")


def nested(rng: np.random.Generator) -> nir.NIRGraph:
    inner = sequence(8, nir.Linear(weights(rng, 8, 8)), lif(8, 4, 120))
    return network(
        6, {"out": 8}, {"w": nir.Linear(weights(rng, 8, 6)), "n": lif(8, 8, 150), "block": inner}, "in w n block out"
    )


def nested_twice(rng: np.random.Generator) -> nir.NIRGraph:
    """A subgraph in a subgraph, each with a loop of its own, and a path around them."""
    inner = network(
        5,
        {"out": 5},
        {"w": nir.Linear(weights(rng, 5, 5)), "n": lif(5, 4, 120), "rec": nir.Scale(full(5, -30))},
        "in w n out",
        "n rec n",
    )
    outer = network(
        5, {"out": 5}, {"inner": inner, "w": nir.Linear(weights(rng, 5, 5)), "n": lif(5, 8, 90)}, "in inner w n out"
    )
    nodes = {
        "w": nir.Linear(weights(rng, 5, 6)),
        "n": lif(5, 8, 150),
        "block": outer,
        "a": nir.Scale(full(5, 40)),
        "b": nir.Scale(full(5, 70)),
    }
    return network(6, {"out": 5}, {**nodes, "last": lif(5, 2, 60)}, "in w n block a last out", "n b last")


def fan_in(rng: np.random.Generator) -> nir.NIRGraph:
    """Three synapse nodes of different kinds, from different steps, end at one population."""
    nodes = {
        "a": nir.Linear(weights(rng, 6, 6)),
        "b": nir.Affine(weights(rng, 6, 6), np.arange(6.0)),
        "c": nir.Scale(np.arange(-20.0, 40, 10)),
    }
    return network(
        6,
        {"out": 6},
        {**nodes, "late": nir.Delay(full(6, 2 * DT)), "n": lif(6, 8, 200)},
        "in a n out",
        "in late b n",
        "in c n",
    )


def fan_out(rng: np.random.Generator) -> nir.NIRGraph:
    nodes = {"w": nir.Linear(weights(rng, 7, 6)), "n": lif(7, 8, 120)}
    nodes |= {f"w{k}": nir.Linear(weights(rng, 4, 7)) for k in range(3)}
    nodes |= {
        "n0": lif(4, 4, 150),
        "n1": cuba(4, 2, 8, 300),
        "n2": integrate_and_fire(4, 400),
        "join": nir.Linear(weights(rng, 3, 4)),
        "last": lif(3, 2, 60),
    }
    return network(6, {"out": 3}, nodes, "in w n w0 n0 join last out", "n w1 n1 join", "n w2 n2 join")


def image_fan_out(rng: np.random.Generator) -> nir.NIRGraph:
    """The same image goes into a Flatten and into a convolution, whatever the order of their names."""
    nodes = {
        "a": nir.Flatten({"input": np.array([2, 4, 4])}, 0, -1),
        "wide": nir.Linear(weights(rng, 6, 32)),
        "n": lif(6, 8, 300),
    }
    nodes |= {"b": conv(rng, (4, 4), 3, 2, 3), "m": lif((3, 2, 2), 4, 100), "narrow": nir.Linear(weights(rng, 6, 12))}
    nodes["c"] = nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1)
    return network([2, 4, 4], {"out": 6}, nodes, "in a wide n out", "in b m c narrow n")


def populations(rng: np.random.Generator, *more: tuple[str, nir.NIRNode]) -> nir.NIRGraph:
    """Two populations excite and inhibit each other; ``more`` nodes lie on the way back."""
    nodes = {"w": nir.Linear(weights(rng, 6, 6)), "e": lif(6, 8, 200), "i": lif(4, 4, 150)}
    nodes |= {"ei": nir.Linear(np.abs(weights(rng, 4, 6))), "ie": nir.Linear(-np.abs(weights(rng, 6, 4))), **dict(more)}
    return network(6, {"out": 6}, nodes, "in w e out", "e ei i ie " + " ".join(name for name, _ in more) + " e")


def outputs(rng: np.random.Generator) -> nir.NIRGraph:
    """Spikes of two populations and the potentials of an integrator, each an output."""
    nodes = {
        "w": nir.Linear(weights(rng, 5, 6)),
        "n": lif(5, 8, 150),
        "v": nir.Linear(weights(rng, 4, 5)),
        "m": lif(4, 4, 100),
        "li": leaky(4),
    }
    return network(6, {"out": 5, "out2": 4, "out3": 4}, nodes, "in w n out", "n v m out2", "v li out3")


def leaky(size: int) -> nir.LI:
    return li(size, 4)


def mixed_cuba(rng: np.random.Generator) -> nir.NIRGraph:
    """Time constants of 1 to 256 steps in one population, and a leak current in some neurons."""
    syn, mem = 2.0 ** rng.integers(0, 5, 8), 2.0 ** np.arange(1, 9)
    leak = mem * np.array([0, 1, 0, -2, 0, 1, 0, -1])  # times 64 / mem: currents in 1/64
    neuron = nir.CubaLIF(syn * DT, mem * DT, mem, leak, 60 * np.sqrt(mem).round(), full(8, 0), syn)
    return sequence(6, nir.Linear(weights(rng, 8, 6)), neuron)


def float_weights(rng: np.random.Generator) -> nir.Linear:
    return nir.Linear(rng.normal(0.2, 0.5, (5, 9)))


def float_stack(rng: np.random.Generator) -> nir.NIRGraph:
    first = nir.Conv2d((8, 8), rng.normal(0.1, 0.3, (3, 1, 3, 3)), 1, 0, 1, 1, rng.normal(0, 0.1, 3))
    average = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    flat = nir.Flatten({"input": np.array([3, 3, 3])}, 0, -1)
    return sequence(
        [1, 8, 8],
        first,
        lif((3, 6, 6), 9.3, 1),
        average,
        flat,
        nir.Linear(rng.normal(0.1, 0.3, (4, 27))),
        lif(4, 5.7, 1),
    )


def subtractive(rng: np.random.Generator) -> nir.NIRGraph:
    """A neuron that loses its threshold when it spikes, one step later, as NIR can write it: its spikes return with
    that weight.
    """
    nodes = {
        "w": nir.Linear(rng.normal(0.2, 0.5, (5, 6))),
        "li": li(5, 8),
        "s": nir.Threshold(full(5, 1.0)),
    }
    return network(6, {"out": 5}, {**nodes, "reset": nir.Scale(full(5, -1.0))}, "in w li s out", "s reset li")


def float_recurrent(rng: np.random.Generator) -> nir.NIRGraph:
    w, back = nir.Affine(rng.normal(0.2, 0.5, (5, 6)), rng.normal(0, 0.1, 5)), nir.Linear(rng.normal(0, 0.4, (5, 5)))
    neuron = nir.CubaLIF(
        full(5, 3.3 * DT), full(5, 7.7 * DT), full(5, 5.1), full(5, 0.01), full(5, 0.9), full(5, 0), full(5, 2.5)
    )
    return network(6, {"out": 5}, {"w": w, "n": neuron, "rec": back}, "in w n out", "n rec n")


ZOO: dict[str, Builder] = {
    "linear-lif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 8, 150)),
    "affine-lif": lambda r: sequence(6, nir.Affine(weights(r, 5, 6), np.array([1, -2, 3, 0, 5.0])), lif(5, 8, 150)),
    "lif-chain": lambda r: sequence(
        6, nir.Linear(weights(r, 9, 6)), lif(9, 8, 100), nir.Linear(weights(r, 5, 9)), lif(5, 16, 300)
    ),
    "lif-arbitrary-tau": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 4096 / 410, 150)),
    "lif-mixed-tau": lambda r: sequence(6, nir.Linear(weights(r, 4, 6)), mixed(4)),
    "memoryless-lif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 1, 50)),
    "threshold": lambda r: sequence(
        6, nir.Linear(weights(r, 5, 6)), nir.Threshold(np.array([-3.0, 0.0, 10.5, 40.0, 99.0]))
    ),
    "if": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), integrate_and_fire(5, 200)),
    "cubalif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), cuba(5, 4, 16, 400)),
    "cubalif-chain": lambda r: sequence(
        6, nir.Linear(weights(r, 9, 6)), cuba(9, 4, 8, 300), nir.Linear(weights(r, 5, 9)), cuba(5, 2, 32, 900)
    ),
    "delay": lambda r: sequence(
        6, nir.Delay(DT * np.array([0, 1, 2, 3, 0, 5.0])), nir.Linear(weights(r, 5, 6)), lif(5, 8, 150)
    ),
    "scale": lambda r: sequence(
        6, nir.Linear(weights(r, 5, 6)), nir.Scale(np.array([1, 2, 4, 1, 2.0])), lif(5, 8, 150)
    ),
    "scale-integer": lambda r: sequence(6, nir.Scale(np.array([3, -5, 7, 1, 0, 2.0])), lif(6, 8, 9)),
    "conv2d": lambda r: sequence([2, 6, 6], conv(r, (6, 6), 3, 2, 3), lif((3, 4, 4), 8, 200)),
    "conv2d-padding": lambda r: sequence([2, 6, 6], conv(r, (6, 6), 3, 2, 3, padding=1), lif((3, 6, 6), 8, 200)),
    "conv2d-stride": lambda r: sequence([2, 7, 7], conv(r, (7, 7), 3, 2, 3, stride=2), lif((3, 3, 3), 8, 200)),
    "conv2d-dilation": lambda r: sequence([1, 7, 7], conv(r, (7, 7), 2, 1, 3, dilation=2), lif((2, 3, 3), 8, 200)),
    "conv1d": lambda r: sequence(
        [2, 9], nir.Conv1d(9, weights(r, 3, 2, 3), 1, 0, 1, 1, np.zeros(3)), lif((3, 7), 8, 200)
    ),
    "conv1d-stride": lambda r: sequence(
        [2, 9], nir.Conv1d(9, weights(r, 3, 2, 3), 2, 1, 1, 1, np.zeros(3)), lif((3, 5), 8, 200)
    ),
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
    "recurrent-if": lambda r: recurrent(r, integrate_and_fire(5, 400)),
    "two-populations": populations,
    "delay-in-a-loop": lambda r: populations(r, ("later", nir.Delay(DT * np.array([1, 1, 2, 3, 0, 1.0])))),
    "fan-in": fan_in,
    "fan-out": fan_out,
    "image-fan-out": image_fan_out,
    "nested-twice": nested_twice,
    "outputs": outputs,
    "lif-leak": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 8, 150, leak=64)),
    "cubalif-mixed": mixed_cuba,
    "if-mixed": lambda r: sequence(
        6, nir.Linear(weights(r, 5, 6)), nir.IF(np.array([1, 2, 1, 0.5, 1]) / DT, full(5, 120), full(5, 0))
    ),
    "scale-image": lambda r: sequence(
        [2, 3, 3], nir.Scale(r.integers(-40, 90, (2, 3, 3)).astype(float)), lif((2, 3, 3), 4, 60)
    ),
    "conv2d-groups": lambda r: unchecked([4, 5, 5], conv(r, (5, 5), 6, 4, 3, groups=2), lif((6, 3, 3), 8, 200)),
    "conv2d-oblong": lambda r: unchecked([2, 5, 8], oblong(r), lif((3, 5, 4), 8, 200)),
    "conv1d-dilation": lambda r: sequence(
        [2, 9], nir.Conv1d(9, weights(r, 3, 2, 3), 1, 2, 2, 1, np.arange(3.0)), lif((3, 9), 8, 200)
    ),
    "conv1d-groups": lambda r: unchecked(
        [2, 9], nir.Conv1d(9, weights(r, 4, 1, 3), 1, 0, 1, 2, np.zeros(4)), lif((4, 7), 8, 150)
    ),
    "sum-pool-overlap": lambda r: sequence(
        [2, 5, 5], nir.SumPool2d(np.array([3, 3]), np.array([2, 2]), np.array([1, 1])), lif((2, 3, 3), 8, 3)
    ),
    "li": lambda r: sequence(
        6, nir.Linear(weights(r, 7, 6)), lif(7, 8, 150), nir.Linear(np.abs(weights(r, 5, 7))), leaky(5)
    ),
    "li-threshold": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), leaky(5), nir.Threshold(full(5, 150.5))),
    "i": lambda r: sequence(
        6, nir.Linear(weights(r, 7, 6)), lif(7, 8, 150), nir.Linear(weights(r, 5, 7)), nir.I(full(5, 1 / DT))
    ),
    "cubali": lambda r: sequence(
        6, nir.Linear(weights(r, 7, 6)), lif(7, 8, 150), nir.Linear(weights(r, 5, 7)), cuba_integrator(5)
    ),
    "cubali-positive": lambda r: sequence(6, nir.Linear(np.abs(weights(r, 5, 6))), cuba_integrator(5)),
    "older-lif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), lif(5, 8, 150)),
    "older-if": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), integrate_and_fire(5, 200)),
    "older-cubalif": lambda r: sequence(6, nir.Linear(weights(r, 5, 6)), older_cuba(5)),
    "float-lif": lambda r: sequence(
        6, nir.Linear(r.normal(0.2, 0.5, (9, 6))), lif(9, 9.7, 1), float_weights(r), lif(5, 4.2, 1)
    ),
    "float-conv-avgpool": float_stack,
    "float-recurrent": float_recurrent,
    "float-subtractive": subtractive,
}
OLDER = [
    name for name in ZOO if name.startswith("older")
]  # written without the parameters that early nir versions did not have
FLOAT = [name for name in ZOO if name.startswith("float")]  # quantized first
REFUSED = {  # by the stock processes, which hold a part of all programs; every other graph runs on every backend
    "two-populations": r"node 'e\.delay'.*the loop passes through 'i', a Lif, and would take more than one Lava step",
    "delay-in-a-loop": r"node 'e\.delay'.*the loop passes through 'i', a Lif, and would take more than one Lava step",
    "i": r"node 'i'.*voltage_decay 0 is no multiple of 16",
    "float-subtractive": (
        r"node 's\.delay'.*the loop passes through 'li', a Lif, "
        r"and would take more than one Lava step"
    ),
    "cubali": r"node 'cubali'.*a negative state would round down instead of toward zero",
}


def unchecked(size: list[int], synapses: nir.NIRNode, neurons: nir.LIF) -> nir.NIRGraph:
    """What nir 1.0.8 infers wrong shapes for: groups, and kernels that are not square."""
    return nir.NIRGraph.from_list(
        nir.Input(np.array(size)), synapses, neurons, nir.Output(np.array(neurons.tau.shape)), type_check=False
    )


def oblong(rng: np.random.Generator) -> nir.Conv2d:
    return nir.Conv2d((5, 8), weights(rng, 3, 2, 3, 2), (1, 2), (1, 0), 1, 1, np.arange(3.0))


def cuba_integrator(size: int) -> nir.CubaLI:
    return cuba_li(size, 2, 8)


def older_cuba(size: int) -> nir.CubaLIF:
    """w_in = 1, so that the gain is dt / tau_syn."""
    return nir.CubaLIF(full(size, 4 * DT), full(size, 8 * DT), full(size, 8), full(size, 0), full(size, 90))


def mixed(size: int) -> nir.LIF:
    k = 2.0 ** np.arange(1, size + 1)
    return nir.LIF(tau=k * DT, r=k, v_leak=full(size, 0), v_threshold=50 * k, v_reset=full(size, 0))


def spikes(program: Program, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random((STEPS, program.inputs[0].size)) < 0.4).astype(np.int64)


def saved(name: str, path: Path) -> Path:
    """The graph as a file, as `nir` writes it."""
    graph = ZOO[name](np.random.default_rng(3))
    if name in FLOAT:
        integer, done = quantize(graph)
        assert not done.unchanged, "the float graph must need quantization"
        write(path, integer)
        return path
    nir.write(path, graph)
    assert str(lower(path)) == str(lower(graph)), "a file and the graph in memory lower to the same program"
    if name in OLDER:
        with h5py.File(path, "r+") as file:
            dropped = [
                f"{node}/{old}"
                for node in file["node/nodes"]
                for old in ("v_reset", "w_in")
                if old in file[f"node/nodes/{node}"]
            ]
            for dataset in dropped:
                del file[f"node/nodes/{dataset}"]
            assert dropped
        assert str(lower(path)) == str(lower(graph)), "a missing v_reset is 0, a missing w_in is 1"
    return path


@pytest.mark.parametrize("name", ZOO)
def test_zoo_is_exact_on_every_backend(name: str, tmp_path: Path) -> None:
    program = lower(saved(name, tmp_path / "graph.nir"))
    report = verify(
        program, spikes(program), ["hls", "rtl", "lava"] if name in REFUSED else ["hls", "rtl", "lava", "lava-stock"]
    )
    assert report.exact, f"\n{report}"
    fired = [report.reference.values[node] for node in program.traced[1:] if program.signals[node].spikes]
    assert all(0 < np.count_nonzero(x) < x.size for x in fired), [
        np.count_nonzero(x) for x in fired
    ]  # every population fires, and not always
    if name in REFUSED:
        with pytest.raises(LossyConversionError, match=REFUSED[name]):
            exporters.load("lava-stock").compile(program)


def test_zoo_holds_every_node_type_and_few_refusals() -> None:
    found = {node.type for build in ZOO.values() for _, node in walk(as_graph(build(np.random.default_rng(3))))}
    assert found == set(NODE_KINDS)
    assert len(ZOO) >= 40
    assert REFUSED.keys() <= ZOO.keys() and len(REFUSED) == 5, "a further refusal is a decision, not an accident"


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
    assert isinstance(op, Lif) and op.threshold is not None and op.threshold[0] == 80, (
        "gain 1/8 multiplies the threshold by 8"
    )


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
    renamed = nir.NIRGraph(
        {names[k]: v for k, v in reversed(graph.nodes.items())},
        [(names[a], names[b]) for a, b in reversed(graph.edges)],
    )
    first, second = lower(graph), lower(renamed)
    inputs = spikes(first)
    a, b = (verify(p, inputs, ["reference"]).reference.values[p.outputs[0]] for p in (first, second))
    assert (a == b).all() and a.any()


ELEMENTWISE = [kind for kind, known in NODE_KINDS.items() if known.output_shape is NODE_KINDS["LIF"].output_shape]


@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "size 1"])
@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_one_value_for_a_whole_layer_is_that_of_every_neuron(kind: str, shape: tuple[int, ...]) -> None:
    """For every node of one value per neuron: the same program and the same floats as with the value written out."""
    assert len(ELEMENTWISE) == 9
    ports = {"input": Node("Input", {"shape": [3]}), "output": Node("Output", {"shape": [3]})}
    given = {name: np.full(shape, value.reshape(-1)[0]) for name, value in NODE_KINDS[kind].example.parameters.items()}
    full = {name: np.full(3, value) for name, value in given.items()}
    one, all_ = (
        Graph({**ports, "node": Node(kind, parameters)}, (("input", "node"), ("node", "output")))
        for parameters in (given, full)
    )
    assert str(lower(one)) == str(lower(all_))
    spikes = np.random.default_rng(0).integers(0, 2, (20, 3))
    assert all(
        np.array_equal(float_reference.run(one, spikes).values[n], v)
        for n, v in float_reference.run(all_, spikes).values.items()
    )
    wrong = Graph({**ports, "node": Node(kind, {**full, next(iter(full)): np.ones(2)})}, one.edges)
    with pytest.raises(
        GraphError, match=r"^node: its \w+ has the shape \(2,\), its input \(3,\); give one value per neuron"
    ):
        lower(wrong)


def test_a_graph_in_memory_may_hold_torch_tensors() -> None:
    weight = np.arange(6.0).reshape(2, 3)
    neuron = [np.full(2, value) for value in (8e-4, 8.0, 0.0, 2.0, 0.0)]
    given = [
        nir.NIRGraph.from_list(
            nir.Input(np.array([3])), nir.Linear(take(weight)), nir.LIF(*map(take, neuron)), nir.Output(np.array([2]))
        )
        for take in (np.asarray, lambda value: torch.nn.Parameter(torch.tensor(value)))
    ]
    assert str(lower(given[0])) == str(lower(given[1]))


def test_a_weight_that_does_not_fit_is_named_itself() -> None:
    transposed = nir.NIRGraph(
        {"input": nir.Input(np.array([3])), "w": nir.Linear(np.ones((3, 2))), "output": nir.Output(np.array([3]))},
        [("input", "w"), ("w", "output")],
        type_check=False,
    )
    with pytest.raises(GraphError, match=r"^w: the weight \(3, 2\) does not fit an input of shape \(3,\)$"):
        lower(transposed)
