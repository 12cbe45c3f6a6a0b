"""The portable profile without any foreign reader: what it writes, that it is exact, and what it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest

from nsllm_nir.errors import BackendError, GraphError, InputError, LossyConversionError
from nsllm_nir.graph import DT, Graph, Node
from nsllm_nir.lowering.lower import lower
from nsllm_nir.portable.profile import decode, to_portable
from nsllm_nir.program import (
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Lif,
    Linear,
    Op,
    Program,
    Sum,
    Widths,
    reference,
)
from nsllm_nir.program.trace import compare

WIDTH, VOCABULARY = 3, 5


def small_states(program: Program, fraction_bits: int = 1) -> Program:
    """The same program with states of at most a few dozen units."""

    def change(op: Op) -> Op:
        decay = (256 - 2 ** (np.arange(WIDTH + 1) % 3 + 5)).astype(np.int32)
        return (
            replace(op, fraction_bits=fraction_bits, decay=decay[: op.decay.size]) if isinstance(op, Integrate) else op
        )

    return Program(tuple(change(op) for op in program.ops), program.outputs)


def linear(
    name: str, source: str, inputs: int = WIDTH, *, seed: int = 0, low: int = -3, high: int = 3, shift: int = 0
) -> Linear:
    rng = np.random.default_rng([seed, len(name)])
    weight, bias = (
        rng.integers(low, high + 1, (WIDTH, inputs)).astype(np.int8),
        rng.integers(-2, 3, WIDTH).astype(np.int32),
    )
    return Linear(name, source, weight, bias, np.full(WIDTH, shift, np.uint8))


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def program(*ops: Op, output: str) -> Program:
    """``ops`` behind the potentials ``v`` in [-7, 7] of a one-hot input."""
    return Program((Input("input", VOCABULARY), linear("v", "input", VOCABULARY, low=-5, high=5), *ops), (output,))


def simulate(graph: Graph, spikes: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The chain by hand, in float64, far from thresholds: rasters of the LIF nodes and the Output, (steps, ...)."""
    loops = {b for a, b in graph.edges if a.endswith("loop_2")}
    primitives = {name: node for name, node in graph.nodes.items() if isinstance(node, Node)}
    values = {
        name: {key: np.asarray(value, np.float64) for key, value in node.parameters.items()}
        for name, node in primitives.items()
    }
    stages = sorted(name for name in graph.nodes if name.endswith("_lif"))
    rasters: dict[str, list[np.ndarray]] = {name: [] for name in stages}
    outputs = []
    for x in spikes.astype(np.float64):
        for lif in stages:
            prefix = lif.removesuffix("lif")
            v = values[prefix + "affine"]["weight"] @ x + values[prefix + "affine"]["bias"]
            if lif in loops and rasters[lif]:
                v += values[prefix + "loop_2"]["weight"] @ values[prefix + "loop_1"]["weight"] @ rasters[lif][-1]
            assert (np.abs(v - 3) >= 1).all()
            x = (v > values[lif]["v_threshold"]).astype(np.float64)
            rasters[lif].append(x)
        outputs.append(values[max(values)]["weight"] @ x)
    return {name: np.array(rows) for name, rows in rasters.items()}, np.array(outputs)


def differences(found: Program, path: Path, spikes: np.ndarray, *, one_hot: bool = True) -> int:
    """Cells that differ between the reference and the portable file."""
    graph = to_portable(found, path, one_hot=one_hot)
    results = compare(reference.run(found, spikes), decode(graph, simulate(graph, spikes)[1]))
    assert sum(r.spikes for r in results) > 0
    return sum(r.differences for r in results)


PROGRAMS = {
    "linear": program(linear("y", "v", shift=2), output="y"),
    "count": program(Count("c", "v", integers(1, 2, 3), 3), output="c"),
    "signed": program(Count("c", "v", integers(1, 2, 3), 3, signed=True), linear("y", "c"), output="y"),
    "step signal": program(
        Count("n", "v", integers(2, 2, 2), 2),
        Sum("step", ("n",), integers(1, 1, 3)),
        Count("c", "v", "step", 4, signed=True),
        output="c",
    ),
    "gated spikes": program(
        Count("g", "v", integers(2, 2, 2), 1),
        Count("c", "v", integers(1, 1, 1), 3, signed=True),
        Gate("y", "g", "c"),
        output="y",
    ),
    "gated potentials": program(
        Count("g", "v", integers(1, 2, 3), 1), linear("w", "v"), Gate("y", "g", "w"), output="y"
    ),
    "integrator": program(
        Count("c", "v", integers(1, 2, 3), 2), Integrate("s", "c", integers(128, 192, 255 - 31), 2), output="s"
    ),
    "negative integrator": program(Integrate("s", "v", integers(128, 192, 0), 1), output="s"),
    "mixed delays": program(
        Count("c", "v", integers(1, 2, 3), 2), Delay("d", "c", integers(0, 1, 3)), linear("y", "d"), output="y"
    ),
    "delayed potentials": program(
        Sum("w", ("v", "v"), integers(1, 2, 3)), Delay("d", "w", integers(2, 0, 1)), output="d"
    ),
    "delay of delay": program(
        Count("c", "v", integers(1, 2, 3), 2),
        Delay("d", "c", integers(1, 2, 0)),
        linear("w", "d"),
        Delay("y", "w", integers(1, 1, 2)),
        output="y",
    ),
    "recurrent": program(
        Delay("d", "c", integers(1, 2, 3)),
        linear("w", "d"),
        Sum("x", ("v", "w"), integers(0, 1, 0)),
        Count("c", "x", integers(2, 2, 2), 2, signed=True),
        output="c",
    ),
    "two layers in a delayed loop": program(
        Delay("b_late", "b", integers(1, 1, 1)),
        linear("x", "b_late"),
        Sum("y", ("v", "x"), integers(0, 0, 0)),
        Count("a", "y", integers(2, 2, 2), 1),
        Delay("a_late", "a", integers(1, 2, 1)),
        linear("z", "a_late"),
        Count("b", "z", integers(1, 1, 2), 2),
        output="b",
    ),
}


def one_hot(seed: int = 1, size: int = VOCABULARY, steps: int = 60) -> np.ndarray:
    return reference.one_hot(np.random.default_rng(seed).integers(0, size, steps), size)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_operation_is_exact(name, tmp_path):
    assert differences(PROGRAMS[name], tmp_path / "p.nir", one_hot()) == 0


@pytest.mark.parametrize("name", ["signed", "integrator", "delayed potentials", "recurrent"])
def test_inputs_that_are_not_one_hot(name, tmp_path):
    spikes = np.random.default_rng(2).integers(0, 2, (60, VOCABULARY))
    spikes[10:20] = 0
    assert differences(PROGRAMS[name], tmp_path / "p.nir", spikes, one_hot=False) == 0


@pytest.mark.parametrize(("seed", "layers", "levels"), [(0, 1, 1), (1, 1, 3), (2, 2, 2)])
def test_random_programs_are_exact(random_program, seed, layers, levels, tmp_path):
    found = small_states(random_program(seed, width=WIDTH + 1, vocabulary=8, layers=layers, levels=levels))
    assert differences(found, tmp_path / "p.nir", one_hot(seed, 8)) == 0


def test_silent_steps_are_silent_and_refused_where_constants_need_a_spike(tmp_path):
    graph = to_portable(PROGRAMS["signed"], tmp_path / "p.nir")
    spikes = one_hot()
    spikes[30:] = 0
    rasters, outputs = simulate(graph, spikes)
    assert all(raster[:30].any() and not raster[30:].any() for raster in rasters.values())
    with pytest.raises(InputError, match="step 30 holds no input spike"):
        decode(graph, outputs)


@pytest.fixture
def portable(random_program, tmp_path) -> tuple[Program, Graph]:
    found = small_states(random_program(0, width=WIDTH + 1, vocabulary=8, layers=1, levels=2))
    return found, to_portable(found, tmp_path / "p.nir")


def test_the_file_is_one_chain_of_affine_and_memoryless_lif(portable):
    _, graph = portable
    back = nir.read(graph.origin)
    assert {type(node).__name__ for node in back.nodes.values()} == {"Input", "Output", "Affine", "LIF"}
    for node in back.nodes.values():
        if isinstance(node, nir.LIF):
            assert (node.tau == np.float32(DT)).all() and (node.r == 1).all() and (node.v_threshold == 3).all()
            assert not node.v_leak.any() and not node.v_reset.any()
        elif isinstance(node, nir.Affine):
            assert node.weight.dtype == node.bias.dtype == np.float32 and not node.bias.any()
            assert np.array_equal(node.weight, np.rint(node.weight))
    forward = [(a, b) for a, b in back.edges if "loop" not in a + b]
    assert len({a for a, _ in forward}) == len({b for _, b in forward}) == len(forward)
    order, name = [], "input"
    while name != "output":
        name = dict(forward)[name]
        order.append(name)
    assert order[:-1] == sorted(order[:-1]) and len(order) == len(forward)
    loops = {a for a, b in back.edges if "loop" in b and "loop" not in a}
    assert loops and all(
        {(a, a[:-3] + "loop_1"), (a[:-3] + "loop_1", a[:-3] + "loop_2"), (a[:-3] + "loop_2", a)} <= set(back.edges)
        for a in loops
    )


def test_equal_programs_give_equal_bytes(portable, tmp_path):
    found, graph = portable
    to_portable(found, tmp_path / "again.nir")
    assert (
        hashlib.sha256(graph.origin.read_bytes()).digest()
        == hashlib.sha256((tmp_path / "again.nir").read_bytes()).digest()
    )


def weights(graph: Graph) -> int:
    return sum(
        int(np.prod(node.parameters["weight"].shape))
        for node in graph.nodes.values()
        if isinstance(node, Node) and node.type == "Affine"
    )


def test_the_size_limit_is_exact(portable, tmp_path):
    found, graph = portable
    path = tmp_path / "limit.nir"
    to_portable(found, path, max_weights=weights(graph))
    before = path.read_bytes()
    with pytest.raises(
        LossyConversionError, match=rf"needs {weights(graph):,} dense weights .* limit is {weights(graph) - 1:,}"
    ):
        to_portable(found, path, max_weights=weights(graph) - 1)
    assert path.read_bytes() == before


def test_lowered_again_it_has_the_same_rasters(portable):
    found, graph = portable
    spikes = one_hot(3, 8)
    again = lower(graph.origin)
    trace = reference.run(again, spikes)
    rasters, outputs = simulate(graph, spikes)
    for name, raster in {**rasters, again.outputs[0]: outputs}.items():
        assert np.array_equal(trace.values[name], raster), name
    assert not any(
        r.differences for r in compare(reference.run(found, spikes), decode(graph, trace.values[again.outputs[0]]))
    )


LARGE = {
    "s": program(Integrate("s", "v", integers(255, 255, 255), 3), output="s"),
    "c": program(Count("c", "v", integers(1, 1, 1), 255, signed=True), output="c"),
    "d": program(Delay("d", "v", integers(400, 0, 0)), output="d"),
    "g": program(
        Count("b", "v", integers(1, 1, 1), 255), Count("a", "v", integers(1, 1, 1), 1), Gate("g", "a", "b"), output="g"
    ),
    "y": Program(
        (
            Input("input", 60),
            Linear("y", "input", np.ones((200, 60), np.int8), np.zeros(200, np.int32), np.zeros(200, np.uint8)),
        ),
        ("y",),
    ),
    "input": Program((Input("input", 200), Count("y", "input", np.ones(200, np.int32), 1)), ("y",)),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_explodes_is_refused_by_name(name, tmp_path):
    with pytest.raises(LossyConversionError, match=rf"(?s)(?=.*'{name}').* [\d,]+ dense weights .*limit is 10,000"):
        to_portable(LARGE[name], tmp_path / "p.nir", max_weights=10_000)
    assert not list(tmp_path.iterdir())


def test_a_huge_program_is_refused_before_it_is_built(tmp_path):
    size = 50_000
    head = Linear("head", "input", np.ones((8, size), np.int8), np.zeros(8, np.int32), np.zeros(8, np.uint8))
    with pytest.raises(LossyConversionError, match="2,500,000,000 dense weights"):
        to_portable(Program((Input("input", size), head), ("head",)), tmp_path / "p.nir")


def test_what_cannot_be_held_is_refused_by_name(tmp_path):
    path = tmp_path / "p.nir"
    graded = Program((Input("input", 2, levels=3), Count("c", "input", integers(1, 1), 1)), ("c",))
    with pytest.raises(LossyConversionError, match="'input' with levels 3"):
        to_portable(graded, path)
    two = Program((Input("a", 2), Input("b", 2), Sum("s", ("a", "b"), integers(0, 0))), ("s",))
    with pytest.raises(LossyConversionError, match="'a' with levels 1, 'b' with levels 1"):
        to_portable(two, path)
    wide: list[Op] = [
        linear("y", "v", shift=16, low=100, high=127),
        Sum("z", ("y", "v"), integers(0, 0, 0)),
        Count("c", "z", integers(1, 1, 1), 1),
    ]
    with pytest.raises(LossyConversionError, match="'c': weighted sums up to"):
        to_portable(Program((*program(output="v").ops, *wide), ("c",), Widths(32, 40)), path)
    loop = program(
        Delay("late", "b", integers(1, 1, 1)),
        Sum("x", ("v", "late"), integers(0, 0, 0)),
        Count("a", "x", integers(1, 1, 1), 1),
        Count("b", "a", integers(1, 1, 1), 1),
        output="b",
    )
    with pytest.raises(LossyConversionError, match="'late': its loop passes more than one layer"):
        to_portable(loop, path)
    assert not path.exists()


def test_decode_refuses_foreign_graphs_and_values(portable, tmp_path):
    found, graph = portable
    outputs = simulate(graph, one_hot(4, 8))[1]
    assert list(decode(graph, outputs).values) == list(found.traced)
    with pytest.raises(GraphError, match="not a portable file"):
        decode(replace(graph, metadata={}), outputs)
    with pytest.raises(BackendError, match=r"shape \(steps, "):
        decode(graph, outputs[:, 1:])
    cases = [
        (3, 0.5, "node 'input', step 7, neuron 3: .* not a binary spike"),
        (-1, 0.25, "node 'logits', step 7, neuron 7: .* not an integer"),
    ]
    for column, value, message in cases:
        wrong = outputs.copy()
        wrong[7, column] += value
        with pytest.raises(BackendError, match=message):
            decode(graph, wrong)


@pytest.mark.parametrize(
    "op",
    [
        Lif("y", "v", np.full(WIDTH, 4096), np.full(WIDTH, 1024), np.full(WIDTH, 3), np.zeros(WIDTH, np.int32)),
        Conv2d(
            "y",
            "v",
            np.ones((1, 1, 1, 1), np.int8),
            np.zeros(1, np.int32),
            np.zeros(1, np.uint8),
            (1, 1, WIDTH),
            (1, 1),
            (0, 0),
            (1, 1),
            1,
        ),
    ],
    ids=["Lif", "Conv2d"],
)
def test_an_operation_without_a_portable_form_is_refused_by_name(op: Op, tmp_path: Path) -> None:
    kind = type(op).__name__
    with pytest.raises(LossyConversionError, match=rf"^'y': the portable profile has no form of a {kind}; write the"):
        to_portable(program(op, output="y"), tmp_path / "x.nir")
    assert not list(tmp_path.iterdir())


def test_a_loop_closed_by_a_lif_is_refused_by_name(tmp_path: Path) -> None:
    late = Delay("late", "y", np.ones(WIDTH, np.int32))
    total = Sum("sum", ("v", "late"), np.zeros(WIDTH, np.int32))
    y = Lif("y", "sum", np.full(WIDTH, 4096), np.full(WIDTH, 1024), np.full(WIDTH, 3), np.zeros(WIDTH, np.int32))
    with pytest.raises(LossyConversionError, match=r"^'y': the portable profile has no form of a Lif"):
        to_portable(program(late, total, y, output="y"), tmp_path / "x.nir")
