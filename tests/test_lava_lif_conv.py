"""`Lif` and `Conv2d` on both Lava backends: exact per node, recurrence in stock, and what stock refuses by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nsllm_nir import exporters
from nsllm_nir.errors import LossyConversionError, ToolNotFoundError
from nsllm_nir.exporters import lava, lava_constraints, lava_lif, lava_network, lava_stock
from nsllm_nir.exporters.lava_dendrites import dendrites
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.exporters.lava_worker.engine import Engine
from nsllm_nir.program import Conv2d, Count, Delay, Input, Lif, Linear, Op, Program, Signal, Sum, reference
from nsllm_nir.program.operations.conv2d import per_neuron, synapses
from nsllm_nir.program.trace import compare, first_difference

try:
    MISSING = "" if lava.fused.version() else "lava-nc has no version"
except ToolNotFoundError as error:
    MISSING = str(error)
needs_lava = pytest.mark.skipif(bool(MISSING), reason=MISSING or "Lava is installed")
SIZE = 6


def _differences(program: Program, backend: str, inputs: np.ndarray) -> int:
    results = compare(reference.run(program, inputs), exporters.load(backend).compile(program).run(inputs))
    return sum(result.differences for result in results)


def _full(value: int, size: int = SIZE) -> np.ndarray:
    return np.full(size, value, np.int32)


def _linear(
    rng: np.random.Generator, name: str, source: str, inputs: int, outputs: int = SIZE, shift: int = 0
) -> Linear:
    weight = rng.integers(-20, 21, (outputs, inputs)).astype(np.int8)
    return Linear(
        name, source, weight, rng.integers(-3, 4, outputs).astype(np.int32), np.full(outputs, shift, np.uint8)
    )


def _identity(name: str, source: str, size: int = SIZE, weight: int = 1) -> Linear:
    return Linear(name, source, (weight * np.eye(size)).astype(np.int8), _full(0, size), np.zeros(size, np.uint8))


def _lif(name: str, source: str, cd: Any = 4096, vd: Any = 0, vth: Any = 30, bias: Any = 0, size: int = SIZE) -> Lif:
    def whole(value: Any) -> Any:
        return None if value is None else np.broadcast_to(np.asarray(value, np.int32), (size,)).copy()

    return Lif(name, source, whole(cd), whole(vd), whole(vth), whole(bias))


def _random_conv(rng: np.random.Generator) -> Conv2d:
    groups = int(rng.integers(1, 4))
    channels, outputs = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    kernel = rng.integers(1, 4, 2)
    height, width = (int(i) for i in rng.integers(6, 9, 2))
    geometry = [(int(a), int(b)) for a, b in (rng.integers(1, 3, 2), rng.integers(0, 3, 2), rng.integers(1, 3, 2))]
    weight = rng.integers(-128, 128, (outputs, channels // groups, *kernel)).astype(np.int8)
    bias, shift = rng.integers(-9, 9, outputs).astype(np.int32), rng.integers(0, 3, outputs).astype(np.uint8)
    return Conv2d(
        "conv", "x", weight, bias, shift, (channels, height, width), geometry[0], geometry[1], geometry[2], groups
    )


def _conv_program(seed: int) -> Program:
    rng = np.random.default_rng(seed)
    conv = _random_conv(rng)
    n = int(np.prod(conv.output_shape))
    spikes = _lif(
        "spikes", "conv", rng.integers(2000, 4097, n), rng.integers(0, 4096, n), rng.integers(0, 500, n), 0, n
    )
    return Program((Input("x", int(np.prod(conv.input_shape)), 3), conv, spikes), ("conv", "spikes"))


def _network(seed: int) -> Program:
    """Convolution, merged populations of different decays, recurrence of a Lif and of a Count, delays, joins of unequal
    depth, read-out.
    """
    rng = np.random.default_rng(seed)

    def values(low: int, high: int, size: int = SIZE) -> np.ndarray:
        return rng.integers(low, high, size)

    weight = rng.integers(-20, 21, (2, 2, 3, 3)).astype(np.int8)
    conv = Conv2d(
        "conv",
        "x",
        weight,
        values(-3, 4, 2).astype(np.int32),
        np.array([0, 1], np.uint8),
        (2, 4, 4),
        (2, 1),
        (1, 1),
        (1, 1),
        1,
    )
    pixels = int(np.prod(conv.output_shape))
    ops: list[Op] = [
        Input("x", 32),
        conv,
        _lif("pixels", "conv", values(1000, 4097, pixels), values(0, 4096, pixels), values(20, 60, pixels), 0, pixels),
        _linear(rng, "forward", "pixels", pixels, shift=1),
        Delay("back", "hidden", _full(1)),
        _linear(rng, "recurrent", "back", SIZE),
        Sum("joined", ("forward", "recurrent"), values(-5, 6).astype(np.int32)),
        _lif("hidden", "joined", 4096, values(0, 200), values(20, 60), values(-300, 300)),
        Delay("late", "hidden", values(0, 3).astype(np.int32)),
        _linear(rng, "from_late", "late", SIZE),
        _linear(rng, "from_hidden", "hidden", SIZE),
        Sum("branches", ("from_late", "from_hidden"), values(-5, 6).astype(np.int32)),
        _lif("deep", "branches", values(1000, 4096), values(0, 64), values(20, 60), 4 * values(0, 2)),
        Delay("count_back", "count", _full(1)),
        _linear(rng, "count_recurrent", "count_back", SIZE),
        _linear(rng, "count_forward", "deep", SIZE),
        Sum("count_in", ("count_recurrent", "count_forward"), values(-5, 6).astype(np.int32)),
        Count("count", "count_in", values(10, 40).astype(np.int32), 3, signed=bool(seed % 2)),
        Linear(
            "positive",
            "deep",
            values(0, 21, 4 * SIZE).reshape(4, SIZE).astype(np.int8),
            _full(0, 4),
            np.zeros(4, np.uint8),
        ),
        _lif("readout", "positive", [4096, 2048, 512, 1024], [256, 1024, 4096, 512], None, [0, 7, 100, 3], 4),
        _linear(rng, "direct", "hidden", SIZE),
        _lif("memoryless", "direct", 4096, 4096, values(0, 40), values(-900, 900)),
    ]
    return Program(tuple(ops), ("readout", "memoryless", "count"))


def _spikes(program: Program, seed: int = 0, tokens: int = 40) -> np.ndarray:
    node = program.inputs[0]
    return np.random.default_rng(seed).integers(0, node.levels + 1, (tokens, node.size))


# ---------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(12))
def test_engine_convolves_and_fires_as_the_reference(seed: int) -> None:
    program = _conv_program(seed)
    inputs = _spikes(program, seed, 10)
    data, arrays = jobs.program_to_data(program)
    again = jobs.program_from_data(json.loads(json.dumps(data, default=int)), arrays)
    assert str(again) == str(program)
    want, engine = reference.run(program, inputs), Engine(again)
    got = np.vstack([engine.run(block) for block in np.array_split(inputs, 3)])
    np.testing.assert_array_equal(got, np.hstack([want.values[node] for node in program.traced]))
    assert 0 < want.values["spikes"].mean() < 1


@pytest.mark.parametrize("seed", range(12))
def test_engine_integrates_without_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lif = _lif("v", "a", rng.integers(50, 4097, 50), rng.integers(0, 4097, 50), None, rng.integers(-5000, 5000, 50), 50)
    program = Program((Input("x", 9, 3), _linear(rng, "a", "x", 9, 50), lif), ("v",))
    inputs = _spikes(program, seed)
    want, engine = reference.run(program, inputs).values, Engine(program)
    np.testing.assert_array_equal(
        np.vstack([engine.run(block) for block in np.array_split(inputs, 3)]),
        np.hstack([want[n] for n in program.traced]),
    )
    assert want["v"].min() < 0 < want["v"].max()


def test_engine_saturates() -> None:
    program = Program(
        (Input("x", 2, 255), _identity("a", "x", 2, 127), _lif("v", "a", 4096, 0, None, [500_000, -500_000], 2)), ("v",)
    )
    inputs = np.full((30, 2), 1)
    want, engine = reference.run(program, inputs).values, Engine(program)
    np.testing.assert_array_equal(
        np.vstack([engine.run(block) for block in np.array_split(inputs, 3)]), np.hstack([want["x"], want["v"]])
    )
    assert np.abs(want["v"]).max() == lava_lif.RANGES["v"][1]


@pytest.mark.parametrize("seed", range(12))
def test_synapses_of_a_convolution(seed: int) -> None:
    program = _conv_program(seed)
    op = next(o for o in program.ops if isinstance(o, Conv2d))
    rows, columns, weights = synapses(op)
    assert (weights != 0).all() and len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(rows)
    inputs = _spikes(program, seed, 3)
    total = np.zeros((3, program.signals["conv"].size), np.int64)
    for token in range(3):
        np.add.at(total[token], rows, weights * inputs[token][columns])
    want = (total + per_neuron(op, op.bias)) << per_neuron(op, op.shift).astype(np.int64)
    np.testing.assert_array_equal(want, reference.run(program, inputs).values["conv"])


@needs_lava
@pytest.mark.parametrize("backend", ["lava", "lava-stock"])
@pytest.mark.parametrize("seed", [0, 1])
def test_backend_equals_reference(backend: str, seed: int) -> None:
    program = _network(seed)
    inputs = _spikes(program, seed)
    values = reference.run(program, inputs).values
    assert all(v.any() for v in values.values()) and (seed == 0 or values["count"].min() < 0)
    assert _differences(program, backend, inputs) == 0


@needs_lava
@pytest.mark.parametrize("seed", [3, 5])
def test_a_convolution_that_is_an_output(seed: int) -> None:
    program = _conv_program(seed)
    assert not dendrites(program).inlined
    assert _differences(program, "lava-stock", _spikes(program, seed, 8)) == 0


def test_large_convolutions_stay_sparse() -> None:
    """32 x 32 pixels, 16 channels: a dense matrix would hold 268 million weights."""
    weight = np.ones((16, 16, 3, 3), np.int8)
    conv = Conv2d("conv", "x", weight, _full(0, 16), np.zeros(16, np.uint8), (16, 32, 32), (1, 1), (1, 1), (1, 1), 1)
    program = Program((Input("x", 16 * 32 * 32), conv, _lif("s", "conv", size=16 * 32 * 32)), ("s",))
    _, arrays = lava_network.job(lava_stock.lower(program))
    assert (
        sum(a.size for name, a in arrays.items() if name.endswith(".values"))
        == 16 * 16 * (3 * 32 - 2) ** 2 + 2 * 16 * 32 * 32
    )


@needs_lava
@pytest.mark.parametrize("backend", ["lava", "lava-stock"])
def test_extreme_states(backend: str) -> None:
    """Currents near 24 bits, a potential that saturates below, the largest and the smallest threshold, full and slow
    decays.
    """
    linear = Linear(
        "a",
        "x",
        np.diag([127, 127, -127, -127, 127, 1]).astype(np.int8),
        _full(0),
        np.array([8, 8, 8, 8, 2, 0], np.uint8),
    )
    lif = _lif("s", "a", [4096, 4096, 4096, 4096, 64, 1], [0, 4095, 0, 1, 0, 0], [131071, 0, 0, 0, 131071, 0])
    program = Program((Input("x", SIZE, 4), linear, lif), ("s",))
    inputs = _spikes(program, tokens=120)
    values = reference.run(program, inputs).values["s"]
    assert values.any(axis=0).tolist() == [True, True, False, False, True, True]
    assert _differences(program, backend, inputs) == 0


# --------------------------------------------------------------------------------------- bias, registers


def _bias_program(lif: Lif, depth: int = 0, weight: int = 1) -> Program:
    """A Lif behind ``depth`` more pairs of synapses and one of ``weight``, and its spikes two tokens late (early spikes
    would show).
    """
    ops: list[Op] = [Input("x", SIZE)]
    for k in range(depth):
        ops.append(_identity(f"pass_{k}", ops[-1].name))
        ops.append(Count(f"spikes_{k}", ops[-1].name, _full(1), 1))
    last = _identity("last", ops[-1].name, weight=weight)
    return Program((*ops, last, replace(lif, source="last"), Delay("late", lif.name, _full(2))), ("late",))


BIASES: dict[str, tuple[Any, ...]] = {
    "leak, positive": (_lif("s", "", 4096, [0, 0, 7, 100, 300, 1000], 20, [1, 63, 65, 700, 2000, -5]), 1),
    "leak, negative": (_lif("s", "", 4096, [0, 0, 7, 100, 300, 1000], 60, [-1, -63, -65, -700, -900, -300]), 1, 40),
    "multiples of 64 at a strong leak": (
        _lif("s", "", 4096, [4095, 4000, 2048, 4095, 4000, 3000], [0, 1, 2, 3, 30, 20], [64, -64, 128, 0, 1920, -640]),
        4,
    ),
    "current with memory": (
        _lif("s", "", [1, 100, 2000, 4095, 4095, 3], [0, 10, 10, 60, 0, 0], 60, [5, 100, 800, -200, 4096, -8]),
        2,
        20,
    ),
    "no memory": (_lif("s", "", 4096, 4096, [0, 1, 0, 2, 5, 30], [1, 64, -64, 65, 319, 1921]), 2),
    "exponents": (_lif("s", "", 300, 0, 60_000, [4095, 4096, 8190, 4095 << 7, -4096 << 7, 0]), 0),
}


@needs_lava
@pytest.mark.parametrize("case", BIASES)
def test_a_bias_acts_from_the_first_token_on(case: str) -> None:
    program = _bias_program(*BIASES[case])
    inputs = _spikes(program)
    inputs[:3] = 0
    assert reference.run(program, inputs).values["s"].any()
    assert _differences(program, "lava-stock", inputs) == 0


def _signal(low: int, high: int) -> Signal:
    return Signal(SIZE, np.full(SIZE, low), np.full(SIZE, high), False)


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_the_initial_potential_leads_to_zero(lag: int) -> None:
    rng = np.random.default_rng(lag)
    lif = _lif("s", "a", 100, rng.integers(0, 900, SIZE), 100_000, rng.integers(-3000, 3000, SIZE))
    form = lava_lif.registers(lif, _signal(-1, 1), lag)
    assert not form.reason
    v = form.values["v"]
    for step in range(lag):
        assert step == 0 or v.any()
        v = np.sign(v) * ((np.abs(v) * (4096 - form.values["dv"])) >> 12) + (
            form.values["bias_mant"] << form.values["bias_exp"]
        )
    assert not v.any()


REFUSED = {
    "current_decay 0": (
        Program((Input("x", SIZE), _identity("a", "x", weight=0), _lif("s", "a", 0)), ("s",)),
        r"'s' \(LIF\).*register du.*would be -1",
    ),
    "voltage_decay 4096": (
        Program((Input("x", SIZE), _lif("s", "x", 100, 4096)), ("s",)),
        r"'s'.*register dv \(voltage_decay\) would be 4096",
    ),
    "mantissa": (
        Program((Input("x", SIZE), _lif("s", "x", 100, 0, 30, 4097)), ("s",)),
        r"'s'.*neuron 0.*bias 4097 is no 13-bit mantissa",
    ),
    "large bias": (
        Program((Input("x", SIZE), _lif("s", "x", 100, 0, 30, 1 << 20)), ("s",)),
        r"'s'.*register bias_mant would be 8192",
    ),
    "early spike": (
        Program((Input("x", SIZE), _lif("s", "x", 100, 1000, 1, -300)), ("s",)),
        r"'s'.*no initial potential makes up for the bias -300",
    ),
    "strong leak": (
        _bias_program(_lif("s", "", 100, 4095, 30, 7), 2),
        r"'s'.*no initial potential makes up for the bias 7",
    ),
    "bias in the current": (
        Program(
            (Input("x", SIZE, 255), _identity("a", "x", weight=127), _lif("s", "a", 4096, 1, 30, 7_000_000)), ("s",)
        ),
        r"'s'.*synaptic input with its bias",
    ),
    "integrator, 12-bit decay": (
        Program((Input("x", SIZE), _lif("v", "x", 4096, 100, None)), ("v",)),
        r"'v'.*voltage_decay 100 is no multiple of 16",
    ),
    "integrator, current": (
        Program((Input("x", SIZE), _lif("v", "x", 3000, 4096, None)), ("v",)),
        r"'v'.*current_decay 3000 is no multiple of 16",
    ),
    "integrator without leak": (
        Program((Input("x", SIZE), _lif("v", "x", 4096, 0, None)), ("v",)),
        r"'v'.*voltage_decay 0 is no multiple of 16",
    ),
    "integrator, negative": (
        Program((Input("x", SIZE), _identity("a", "x", weight=-1), _lif("v", "a", 4096, 1024, None)), ("v",)),
        r"'v'.*round down instead of toward zero",
    ),
    "integrator, saturating": (
        Program((Input("x", SIZE, 255), _identity("a", "x", weight=127), _lif("v", "a", 4096, 16, None)), ("v",)),
        r"'v'.*may saturate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_stock_cannot_hold_is_refused_by_name(case: str) -> None:
    program, message = REFUSED[case]
    with pytest.raises(LossyConversionError, match=message):
        lava_constraints.check(lava_stock.lower(program))


@needs_lava
def test_the_fused_backend_runs_what_stock_refuses() -> None:
    program = REFUSED["integrator, negative"][0]
    assert _differences(program, "lava", _spikes(program)) == 0


@needs_lava
def test_integrators_without_memory_may_be_negative() -> None:
    program = Program(
        (
            Input("x", SIZE),
            _identity("a", "x", weight=-3),
            _lif("v", "a", 4096, 4096, None, [0, 1, -1, 5000, -70_000, 64]),
        ),
        ("v",),
    )
    assert _differences(program, "lava-stock", _spikes(program)) == 0


# ------------------------------------------------------------------------------------------- recurrence


def _loop(
    target: Count | Lif,
    recurrent: Op,
    *more: Op,
    source: str = "joined",
    outputs: tuple[str, ...] = ("s",),
    steps: Any = 1,
) -> Program:
    """x and the delayed spikes of "s" meet in "joined"."""
    delay = Delay("back", "s", np.broadcast_to(np.asarray(steps, np.int32), (SIZE,)).copy())
    joined = Sum("joined", ("forward", "recurrent"), _full(1))
    return Program(
        (
            Input("x", SIZE),
            _identity("forward", "x", weight=40),
            delay,
            recurrent,
            joined,
            *more,
            replace(target, source=source),
        ),
        outputs,
    )


RECURRENT = _linear(np.random.default_rng(0), "recurrent", "back", SIZE, shift=1)
CONVOLUTION = Conv2d(
    "recurrent",
    "back",
    np.full((1, 1, 1, 3), -9, np.int8),
    _full(2, 1),
    np.zeros(1, np.uint8),
    (1, 1, SIZE),
    (1, 1),
    (0, 1),
    (1, 1),
    1,
)
LOOPS = {
    "lif": _loop(_lif("s", "", 4096, 100, 50), RECURRENT),
    "current": _loop(_lif("s", "", 1500, 100, 50), RECURRENT),
    "no memory": _loop(_lif("s", "", 4096, 4096, 30), RECURRENT),
    "convolution": _loop(_lif("s", "", 4096, 100, 50), CONVOLUTION),
    "count": _loop(Count("s", "", _full(31), 2), RECURRENT),
    "signed count": _loop(Count("s", "", _full(31), 2, signed=True), RECURRENT),
    "two sums": _loop(
        _lif("s", "", 4096, 100, 50), RECURRENT, Sum("again", ("joined", "x"), _full(-3)), source="again"
    ),
    "no weights": _loop(_lif("s", "", 4096, 100, 10), Sum("recurrent", ("back",), _full(-9))),
    "no weights, count": Program(
        (
            Input("x", SIZE, 2),
            Delay("back", "s", _full(1)),
            Sum("v", ("back", "x"), _full(0)),
            Count("s", "v", _full(2), 3),
        ),
        ("s",),
    ),
    "nothing but the loop": Program(
        (Input("x", SIZE), Delay("back", "s", _full(1)), RECURRENT, _lif("s", "recurrent", 4096, 100, 5, 640)), ("s",)
    ),
}


@needs_lava
@pytest.mark.parametrize("case", LOOPS)
def test_a_loop_of_one_token_runs_natively(case: str) -> None:
    program = LOOPS[case]
    inputs = _spikes(program)
    values = reference.run(program, inputs).values
    assert values["back"].any()
    opened = Program(
        tuple(replace(op, steps=op.steps + 39) if isinstance(op, Delay) else op for op in program.ops), program.outputs
    )
    assert (reference.run(opened, inputs).values["s"] != values["s"]).any()
    assert _differences(program, "lava-stock", inputs) == 0


BAD_LOOPS = {
    "two tokens": (_loop(_lif("s", ""), RECURRENT, steps=[1, 1, 1, 1, 1, 2]), "delay other than one token"),
    "interior output": (
        _loop(_lif("s", ""), RECURRENT, outputs=("s", "joined")),
        "'joined' in the loop must have exactly one reader",
    ),
    "two readers": (
        _loop(_lif("s", ""), RECURRENT, _identity("other", "back"), outputs=("s", "other")),
        "'other' in the loop must have exactly one reader",
    ),
    "another neuron": (
        _loop(_lif("s", ""), RECURRENT, _lif("between", "joined"), _identity("onward", "between"), source="onward"),
        "passes through 'between', a Lif",
    ),
    "two linears": (
        _loop(_lif("s", ""), RECURRENT, _identity("onward", "joined"), source="onward"),
        "passes through 'onward', a Linear",
    ),
    "step signal": (
        _loop(Count("s", "", "step", 1), RECURRENT, Sum("step", ("x",), _full(9))),
        "whose step is a signal",
    ),
}


@pytest.mark.parametrize("case", BAD_LOOPS)
def test_other_loops_are_refused_by_name(case: str) -> None:
    program, message = BAD_LOOPS[case]
    with pytest.raises(LossyConversionError, match=f"'back'.*{message}.*use the backend 'lava'"):
        lava_constraints.check(lava_stock.lower(program))


def test_a_recurrent_count_that_leaves_the_lif_input_is_refused() -> None:
    with pytest.raises(LossyConversionError, match=r"'s'.*recurrent count reaches"):
        lava_constraints.check(lava_stock.lower(_loop(Count("s", "", _full(300_000), 1), RECURRENT)))


@needs_lava
def test_repeated_synapses_beyond_eight_bits_are_kept_apart() -> None:
    """127 + 127 between one pair of neurons: a single Sparse would clip the sum."""
    ops = (
        Input("x", SIZE),
        _identity("a", "x", weight=127),
        _identity("b", "x", weight=127),
        Sum("c", ("a", "b"), _full(0)),
        _lif("s", "c", 4096, 0, 253),
    )
    program = Program(ops, ("s",))
    assert set(dendrites(program).inlined) == {"a", "b", "c"}
    assert _differences(program, "lava-stock", np.ones((5, SIZE), np.int64)) == 0
    assert reference.run(program, np.ones((5, SIZE), np.int64)).values["s"].all()


def test_a_count_whose_step_is_its_source_is_merged_before_the_limits_are_checked() -> None:
    ops = (Input("x", SIZE), Sum("v", ("x",), _full(3)))
    lava_constraints.check(lava_stock.lower(Program((*ops, Count("s", "v", "v", 63, signed=True)), ("s",))))
    with pytest.raises(LossyConversionError, match=r"'s'.*weights in \[-258, "):
        lava_constraints.check(lava_stock.lower(Program((*ops, Count("s", "v", "v", 64, signed=True)), ("s",))))


@needs_lava
def test_a_count_whose_step_is_its_source() -> None:
    program = Program((Input("x", SIZE), Sum("v", ("x",), _full(3)), Count("s", "v", "v", 2, signed=True)), ("s",))
    assert _differences(program, "lava-stock", _spikes(program)) == 0


# --------------------------------------------------------------------------------------------- mutants


def _other(program: Program, name: str, **fields: Callable[[Any], Any]) -> Program:
    return replace(
        program,
        ops=tuple(
            replace(op, **{k: f(getattr(op, k)) for k, f in fields.items()}) if op.name == name else op
            for op in program.ops
        ),
    )


MUTANTS: dict[str, tuple[str, Callable[[Program], Program]]] = {
    "convolution weight": ("pixels", lambda p: _other(p, "conv", weight=lambda w: w + 1)),
    "flipped convolution": ("pixels", lambda p: _other(p, "conv", weight=lambda w: w[:, :, ::-1])),
    "current decay": ("deep", lambda p: _other(p, "deep", current_decay=lambda d: d // 2)),
    "voltage decay": ("deep", lambda p: _other(p, "deep", voltage_decay=lambda d: d + 64)),
    "threshold": ("hidden", lambda p: _other(p, "hidden", threshold=lambda t: t + 3)),
    "bias": ("hidden", lambda p: _other(p, "hidden", bias=lambda b: b + 64)),
    "recurrent weight": ("hidden", lambda p: _other(p, "recurrent", weight=lambda w: w + 5)),
    "read-out decay": ("readout", lambda p: _other(p, "readout", voltage_decay=lambda d: d // 2)),
}


@needs_lava
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught_at_their_node(mutant: str) -> None:
    program, (node, mutate) = _network(0), MUTANTS[mutant]
    inputs = _spikes(program)
    want, changed = reference.run(program, inputs), mutate(program)
    found = first_difference(compare(want, exporters.load("lava-stock").compile(changed).run(inputs)))
    assert found is not None and found == first_difference(compare(want, reference.run(changed, inputs)))
    assert next(r for r in compare(want, reference.run(changed, inputs)) if r.differences).node in (node, "back")


def _without(network: lava_network.Network, register: str, change: Callable[[Any], Any]) -> lava_network.Network:
    populations = tuple(
        replace(p, registers={name: change(v) if name == register else v for name, v in p.registers.items()})
        for p in network.populations
    )
    return replace(network, populations=populations)


@needs_lava
@pytest.mark.parametrize(
    ("case", "register", "change"),
    [
        ("leak, positive", "v", np.zeros_like),
        ("leak, positive", "bias_mant", np.zeros_like),
        ("current with memory", "du", lambda du: du // 2),
        ("exponents", "bias_exp", np.zeros_like),
        ("no memory", "vth", lambda vth: vth + 1),
    ],
)
def test_a_wrong_register_is_caught(case: str, register: str, change: Callable[[Any], Any]) -> None:
    program = _bias_program(*BIASES[case])
    inputs = _spikes(program)
    executable = lava.stock.compile(program)
    wrong = replace(executable, network=_without(executable.network, register, change))
    found = first_difference(compare(reference.run(program, inputs), wrong.run(inputs)))
    assert found is not None and found.node in ("s", "late")


@needs_lava
def test_a_dropped_loop_is_caught() -> None:
    program = LOOPS["lif"]
    executable = lava.stock.compile(program)
    kept = tuple(p for p in executable.network.projections if p.source != p.target.process)
    assert len(kept) == len(executable.network.projections) - 1
    wrong = replace(executable, network=replace(executable.network, projections=kept))
    assert first_difference(compare(reference.run(program, _spikes(program)), wrong.run(_spikes(program)))) is not None


# ---------------------------------------------------------------------------------- constraint report


def test_the_report_names_registers_and_inlined_nodes() -> None:
    program = _network(0)
    rows = lava_constraints.constraints(program)
    plain = json.loads(json.dumps(lava_constraints.as_rows(rows)))
    assert {row["status"] for row in plain} == {"ok"}
    assert {row["node"] for row in plain} == {op.name for op in program.ops} | {""}
    hidden = next(r for r in rows if (r.node, r.role) == ("hidden", "lif"))
    op = next(o for o in program.ops if o.name == "hidden")
    assert isinstance(op, Lif) and op.threshold is not None
    assert hidden.process == "LIF" and hidden.threshold == op.threshold.max()
    assert hidden.registers["du"] == (4095, 4095, 0, 4095)
    assert hidden.registers["dv"] == (op.voltage_decay.min(), op.voltage_decay.max(), 0, 4095)
    assert hidden.registers["bias_mant"][2:] == (-4096, 4095) and set(hidden.registers) == {
        "du",
        "dv",
        "vth",
        "bias_mant",
        "bias_exp",
        "v",
    }
    recurrent = next(r for r in rows if r.node == "recurrent")
    assert (recurrent.role, recurrent.process, recurrent.neurons) == ("synapses", "LIF", 0)
    assert recurrent.synapses == np.count_nonzero(
        next(o.weight for o in program.ops if isinstance(o, Linear) and o.name == "recurrent")
    )
    assert next(r for r in rows if r.node == "back").delay == 1
    assert next(r for r in rows if (r.node, r.role) == ("memoryless", "lif")).process == "LIFReset"


def test_a_refused_register_shows_in_its_row() -> None:
    row = next(r for r in lava_constraints.constraints(REFUSED["voltage_decay 4096"][0]) if r.role == "lif")
    assert row.status == "error" and row.registers["dv"] == (4096, 4096, 0, 4095)


def test_populations_of_different_parameters_share_processes() -> None:
    network = lava_stock.lower(_network(0))
    job, _ = lava_network.job(network)
    assert set(job["sizes"]) == {"input", "graded", "lif", "units"} and len(job["synapses"]) <= 10


def test_long_delays_and_deep_sums_are_laid_out_without_recursion() -> None:
    """As many copies, and as many sums in front of one neuron, as Python's stack would not hold."""
    deep: list[Op] = [Input("x", 1), Delay("late", "x", np.array([1500]))]
    for i in range(1500):
        sources = (f"s{i - 1}" if i else "x", "late")
        deep.append(Sum(f"s{i}", sources, np.array([i % 2])))
    lif = _lif("spikes", "s1499", 4096, 4096, 2000, 0, 1)
    network = lava_stock.lower(Program((*deep, lif), ("spikes",)))
    assert len(network.inlined) == 1500
    assert sum(p.role == "copy" and p.node == "x" for p in network.populations) == 1500
