"""The integer program: golden text, interval analysis, width refusals, messages and audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsllm_nir.errors import GraphError, IntegerOverflowError, NsllmNirError
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
    State,
    Sum,
    Widths,
    reference,
    width,
)
from nsllm_nir.program.operations.conv2d import per_neuron, synapses

Build = Callable[..., Program]
DEFAULT_WIDTHS = Widths()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def linear(name: str, source: str, weight: list[list[int]], *, bias: int = 0, shift: int = 0) -> Linear:
    rows = len(weight)
    return Linear(
        name, source, np.array(weight, np.int16), np.full(rows, bias, np.int32), np.full(rows, shift, np.uint8)
    )


def program(*ops: Op, outputs: tuple[str, ...] = (), widths: Widths = DEFAULT_WIDTHS) -> Program:
    return Program((Input("in", 2), *ops), outputs, widths)


def test_text_is_golden(random_program: Build, golden: Callable[[str, str], None]) -> None:
    golden("program.txt", str(random_program(0, layers=2)))


def test_text_shows_every_change_of_a_constant(random_program: Build) -> None:
    original = random_program(0)
    for i, op in enumerate(original.ops):
        for field, value in vars(op).items():
            if isinstance(value, np.ndarray) and field != "decay":
                changed = replace(
                    op, **{field: value + (np.arange(value.size).reshape(value.shape) == 0).astype(value.dtype)}
                )
                text = str(Program((*original.ops[:i], changed, *original.ops[i + 1 :]), original.outputs))
                assert [a == b for a, b in zip(text.splitlines(), str(original).splitlines(), strict=True)][
                    1 + i
                ] is False


def extreme_weight(op: Linear) -> np.ndarray:
    """The largest weights of the same signs; what makes up a step stays positive."""
    return (
        np.abs(op.weight)
        if op.name.endswith(("pool", "in_step"))
        else np.where(op.weight < 0, -128, 127).astype(np.int8)
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    width=st.sampled_from([1, 2, 5]),
    layers=st.integers(1, 2),
    levels=st.integers(1, 6),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
    extreme=st.booleans(),
)
def test_no_signal_ever_leaves_its_interval(
    random_program: Build, seed: int, width: int, layers: int, levels: int, rate: float, extreme: bool
) -> None:
    found = random_program(seed, width=width, vocabulary=4, layers=layers, levels=levels)
    if extreme:
        ops = tuple(replace(op, weight=extreme_weight(op)) if isinstance(op, Linear) else op for op in found.ops)
        found = Program(ops, found.outputs, Widths(40, 48))
    state, rng = State(), np.random.default_rng(seed)
    for _ in range(40):
        values = reference.step(found, state, {"input": (rng.random(4) < rate).astype(np.int64)})
        for name, value in values.items():
            assert (value >= found.signals[name].low).all() and (value <= found.signals[name].high).all(), name


def test_linear_interval_is_reached_and_not_wider() -> None:
    found = program(linear("a", "in", [[3, -5], [-128, 127]], bias=2, shift=1))
    assert found.signals["a"].low.tolist() == [(-5 + 2) * 2, (-128 + 2) * 2]
    assert found.signals["a"].high.tolist() == [(3 + 2) * 2, (127 + 2) * 2]


@pytest.mark.parametrize("j", range(9))
@pytest.mark.parametrize("sign", [1, -1])
def test_integrator_interval_is_nearly_reached(j: int, sign: int) -> None:
    ops = (linear("x", "in", [[sign, 0]]), Integrate("s", "x", ints(256 - 2**j), 3))
    found = Program((Input("in", 2), *ops), ("s",))
    state = State()
    for _ in range(4000):
        reached = int(reference.step(found, state, {"in": np.array([1, 0])})["s"][0])
    bound = int(found.signals["s"].high[0] if sign > 0 else found.signals["s"].low[0])
    assert abs(reached) <= abs(bound) and abs(bound) - abs(reached) <= 2 ** (8 - j) + 1


@pytest.mark.parametrize(
    ("op", "low", "high", "spikes"),
    [
        (Sum("x", ("in", "in"), ints(5, -7)), [5, -7], [7, -5], False),
        (Count("x", "in", ints(1, 1), 3), [0, 0], [3, 3], True),
        (Count("x", "in", ints(1, 1), 3, True), [-3, -3], [3, 3], True),
        (Gate("x", "in", "in"), [0, 0], [1, 1], True),
        (Delay("x", "in", ints(0, 2)), [0, 0], [1, 1], True),
    ],
    ids=["sum", "count", "signed count", "gate", "delay"],
)
def test_interval_of_each_op(op: Op, low: list[int], high: list[int], spikes: bool) -> None:
    signal = program(op).signals["x"]
    assert (signal.low.tolist(), signal.high.tolist(), signal.spikes) == (low, high, spikes)


def test_gate_and_delay_of_a_potential_that_is_never_zero_include_zero() -> None:
    """A closed gate and the time before the start both give 0."""
    found = program(Sum("p", ("in",), ints(5, -5)), Gate("g", "in", "p"), Delay("d", "p", ints(1, 1)))
    for name in ("g", "d"):
        assert (found.signals[name].low.tolist(), found.signals[name].high.tolist()) == ([0, -5], [6, 0])


@given(low=st.integers(-(2**40), 2**40), span=st.integers(0, 2**40))
def test_width_is_the_narrowest(low: int, span: int) -> None:
    high, bits = low + span, width(low, low + span)

    def fits(b: int) -> bool:
        return b >= 1 and ((low >= 0 and high < 2**b) if low >= 0 else (-(2 ** (b - 1)) <= low and high < 2 ** (b - 1)))

    assert fits(bits) and not fits(bits - 1)


def test_width_refusal_names_op_neuron_and_interval() -> None:
    ops = (linear("wide", "in", [[1, 1], [100, -28]], shift=1),)
    assert program(*ops, widths=Widths(potential=9)).signals["wide"].bits == 9
    with pytest.raises(
        IntegerOverflowError,
        match=r"^Linear 'wide', neuron 1: the worst case \[-56, 200\] needs 9 bits, 8 are declared; "
        r"use fewer weight bits",
    ):
        program(*ops, widths=Widths(potential=8))


def test_comparator_refusal_names_the_count() -> None:
    ops = (linear("v", "in", [[100, -100]]), Count("c", "v", ints(1000), 8))
    need = width(-1 - 2 * 100 - 15 * 1000, 200)
    program(*ops, widths=Widths(comparator=need))
    with pytest.raises(
        IntegerOverflowError,
        match=rf"^Count 'c': the comparison needs {need} bits, {need - 1} are declared; use a smaller step$",
    ):
        program(*ops, widths=Widths(comparator=need - 1))


@pytest.mark.parametrize(
    "op", [linear("x", "big", [[2]], shift=31), Integrate("x", "big", ints(255), 31)], ids=["shift", "fraction bits"]
)
def test_worst_cases_beyond_64_bits_do_not_wrap(op: Op) -> None:
    """2**33 << 31 is 0 in int64 arithmetic: the analysis must see the true value."""
    big: list[Op] = [Input("in", 1, 2**21), linear("half", "in", [[64]]), linear("big", "half", [[64]])]
    assert Program(tuple(big), (), Widths(40)).signals["big"].high[0] == 2**33
    with pytest.raises(IntegerOverflowError, match=r"'x', neuron 0: the worst case \[0, \d{20,}\] needs"):
        Program((*big, op), (), Widths(40, 64))


def exact_interval(op: Op, low: list[int], high: list[int]) -> tuple[list[int], list[int]]:
    """Of an operation without memory, in Python integers, from the interval of its source."""
    if isinstance(op, Sum):
        parts = [len(op.sources)] * len(low)
        lowest, highest = ([n * x + int(b) for n, x, b in zip(parts, end, op.bias, strict=True)] for end in (low, high))
        return lowest, highest
    if isinstance(op, Conv2d):
        rows, columns, weights = (x.tolist() for x in synapses(op))
        bias, shift = per_neuron(op, op.bias).tolist(), per_neuron(op, op.shift).tolist()
        low, high = [min(x, 0) for x in low], [max(x, 0) for x in high]  # the padding
    else:
        assert isinstance(op, Linear)
        at = np.nonzero(op.weight)
        rows, columns, weights = at[0].tolist(), at[1].tolist(), op.weight[at].tolist()
        bias, shift = op.bias.tolist(), op.shift.tolist()
    ends = list(bias), list(bias)
    for row, column, weight in zip(rows, columns, weights, strict=True):
        products = weight * low[column], weight * high[column]
        ends[0][row] += min(products)
        ends[1][row] += max(products)
    lowest, highest = ([x << s for x, s in zip(end, shift, strict=True)] for end in ends)
    return lowest, highest


@settings(max_examples=150)
@given(data=st.data())
def test_a_worst_case_of_any_size_is_exact_or_refused(data: st.DataObject) -> None:
    """Large weights, shifts, sources and fan-ins in any order: the analysis never wraps, in any operation."""
    widths = Widths(data.draw(st.sampled_from([24, 40])), 64)
    weights = st.sampled_from([-128, -1, 0, 1, 64, 114, 127])
    shifts = st.sampled_from([0, 1, 10, 16, 21, 30, 31])
    biases = st.sampled_from([-(2**31), -1, 0, 3, 2**31 - 1])

    def constant(strategy: st.SearchStrategy[int], size: int) -> np.ndarray:
        return np.array(data.draw(st.lists(strategy, min_size=size, max_size=size)), np.int64)

    levels = data.draw(st.sampled_from([1, 255, 2**20, 2**30]))
    ops: list[Op] = [Input("op0", 4, levels)]
    for i in range(1, 1 + data.draw(st.integers(1, 4))):
        kind, name, source = data.draw(st.sampled_from([Linear, Conv2d, Sum])), f"op{i}", f"op{i - 1}"
        if kind is Linear:
            weight = constant(weights, 16).reshape(4, 4)
            ops.append(Linear(name, source, weight, constant(biases, 4), constant(shifts, 4)))
        elif kind is Sum:
            ops.append(Sum(name, (source,) * data.draw(st.sampled_from([1, 2, 300])), constant(biases, 4)))
        else:
            kernel = constant(weights, 6).reshape(2, 1, 1, 3)
            geometry = ((2, 1, 2), (1, 1), (0, 1), (1, 1), 2)
            ops.append(Conv2d(name, source, kernel, constant(biases, 2), constant(shifts, 2), *geometry))
    intervals = {"op0": ([0] * 4, [levels] * 4)}
    for before, op in pairwise(ops):
        intervals[op.name] = exact_interval(op, *intervals[before.name])
    limit = 1 << (widths.potential - 1)
    fits = all(-limit <= min(low) and max(high) < limit for low, high in intervals.values())
    if not fits:
        with pytest.raises(IntegerOverflowError):
            Program(tuple(ops), (), widths)
        return
    for name, signal in Program(tuple(ops), (), widths).signals.items():
        assert (signal.low.tolist(), signal.high.tolist()) == tuple(intervals[name]), name
        assert signal.low.dtype == signal.high.dtype == np.int64


@pytest.mark.parametrize("decay", [0, 1, 4096])
def test_a_lif_on_the_largest_source_is_refused(decay: int) -> None:
    """2**39 << 6 << 12 leaves 64 bits twice over; the bound of the current must not come out small."""
    big = (Input("in", 1, 2**30), linear("big", "in", [[1]], shift=8))
    lif = Lif("x", "big", ints(decay), ints(decay), None, ints(0))
    with pytest.raises(IntegerOverflowError, match=r"^Lif 'x', neuron 0: the synaptic current may leave 24 bits"):
        Program((*big, lif), (), Widths(40, 64))


def test_comparator_of_a_signed_count_holds_the_comparison_of_both_signs() -> None:
    ops = (linear("v", "in", [[100, 0]]), Count("c", "v", ints(1000), 8, signed=True))
    need = width(-1 - 2 * 100 - 15 * 1000, 200)
    program(*ops, widths=Widths(comparator=need))
    with pytest.raises(IntegerOverflowError, match=rf"the comparison needs {need} bits"):
        program(*ops, widths=Widths(comparator=need - 1))


POTENTIAL = linear("v", "in", [[1, 1], [1, 1]])
MESSAGES: dict[str, tuple[tuple[Op, ...], str]] = {
    "name twice": ((POTENTIAL, POTENTIAL), r"^Linear 'v': this name is used twice; names must be unique$"),
    "unknown source": (
        (Sum("s", ("in", "ghost"), ints(0, 0)),),
        r"^Sum 's': reads the signal 'ghost', which no operation produces$",
    ),
    "order": (
        (Sum("s", ("v",), ints(0, 0)), POTENTIAL),
        r"^Sum 's': reads 'v' before it is produced; order the operations, or put a delay of at least one token",
    ),
    "zero delay in a loop": (
        (Delay("d", "c", ints(0, 1)), Count("c", "d", ints(1, 1), 1)),
        r"^Delay 'd': reads 'c' before it is produced",
    ),
    "loop of a potential": (
        (Delay("d", "v", ints(1, 1)), linear("v", "d", [[1, 0], [0, 1]])),
        r"^Delay 'd': closes a loop through 'v', a Linear; only a Count or a spiking Lif may close a loop$",
    ),
    "loop of another size": (
        (Delay("d", "c", ints(1, 1, 1)), Count("c", "in", ints(1, 1), 1)),
        r"^Delay 'd': expects 3 neurons, its sources have \[2\]$",
    ),
    "input size": ((Input("x", 0),), r"^Input 'x': size and levels must be at least 1, got 0 and 1$"),
    "input levels": ((Input("x", 1, 0),), r"^Input 'x': size and levels must be at least 1, got 1 and 0$"),
    "sum size": ((Sum("s", ("in", "in"), ints(0, 0, 0)),), r"^Sum 's': expects 3 neurons, its sources have \[2, 2\]$"),
    "gate size": (
        (linear("one", "in", [[1, 1]]), Gate("g", "in", "one")),
        r"^Gate 'g': expects 1 neurons, its sources have \[2, 1\]$",
    ),
    "gate values": (
        (Count("c", "in", ints(1, 1), 2), Gate("g", "c", "in")),
        r"^Gate 'g': the gate 'c' must be binary, its interval is \[0, 2\]$",
    ),
    "signed gate": (
        (Count("c", "in", ints(1, 1), 1, True), Gate("g", "c", "in")),
        r"^Gate 'g': the gate 'c' must be binary, its interval is \[-1, 1\]$",
    ),
    "delay": ((Delay("d", "in", ints(0, -1)),), r"^Delay 'd': delays must be >= 0 tokens, got -1$"),
    "weight shape": (
        (linear("l", "in", [[1, 1, 1]]),),
        r"^Linear 'l': weight \(1, 3\), bias \(1,\), shift \(1,\) do not fit a source of 2 neurons$",
    ),
    "weight vector": (
        (Linear("l", "in", ints(1, 1), ints(0), ints(0)),),
        r"^Linear 'l': weight \(2,\), bias \(1,\), shift \(1,\) do not fit a source of 2 neurons$",
    ),
    "weight type": (
        (Linear("l", "in", np.ones((1, 2), np.float32), ints(0), ints(0)),),
        r"^Linear 'l': .*integers, got float32",
    ),
    "bias type": (
        (Linear("l", "in", np.ones((1, 2), np.int8), np.zeros(1), ints(0)),),
        r"^Linear 'l': .*integers, got float64",
    ),
    "weight high": (
        (linear("l", "in", [[128, 0]]),),
        r"^Linear 'l': weights must be in \[-128, 127\], found \[0, 128\]; quantize the model first$",
    ),
    "weight low": (
        (linear("l", "in", [[-129, 0]]),),
        r"^Linear 'l': weights must be in \[-128, 127\], found \[-129, 0\]",
    ),
    "shift": ((linear("l", "in", [[1, 1]], shift=32),), r"^Linear 'l': shifts must be in \[0, 31\], found \[32, 32\]$"),
    "levels": ((Count("c", "in", ints(1, 1), 256),), r"^Count 'c': levels must be in \[1, 255\], got 256$"),
    "no levels": ((Count("c", "in", ints(1, 1), 0),), r"^Count 'c': levels must be in \[1, 255\], got 0$"),
    "step shape": ((Count("c", "in", ints(1), 1),), r"^Count 'c': step has shape \(1,\), its source has 2 neurons$"),
    "step value": (
        (Count("c", "in", ints(1, 0), 1),),
        r"^Count 'c': the step must be at least 1, its smallest value is 0$",
    ),
    "step signal": ((Count("c", "in", "in", 1),), r"^Count 'c': the step must be at least 1, its smallest value is 0$"),
    "decay": (
        (Integrate("i", "in", ints(255, 253), 0),),
        r"^Integrate 'i': decays must be 256 - 2\*\*j with j in 0..8",
    ),
    "decay of 256": (
        (Integrate("i", "in", ints(255, 256), 0),),
        r"^Integrate 'i': decays must be 256 - 2\*\*j with j in 0..8",
    ),
    "fraction bits": (
        (Integrate("i", "in", ints(255, 255), 64),),
        r"^Integrate 'i': fraction bits must be in \[0, 31\], got 64$",
    ),
    "negative fraction bits": (
        (Integrate("i", "in", ints(255, 255), -1),),
        r"^Integrate 'i': fraction bits must be in \[0, 31\], got -1$",
    ),
    "empty constant": ((Delay("d", "in", ints()),), r"^Delay 'd': .*empty"),
    "no source": ((Sum("s", (), ints(0)),), r"^Sum 's': .*no source"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_inconsistent_operations_are_refused(case: str) -> None:
    ops, message = MESSAGES[case]
    with pytest.raises(GraphError, match=message):
        program(*ops)


def test_an_output_must_exist() -> None:
    with pytest.raises(GraphError, match=r"^output 'ghost' is not a signal of the program$"):
        program(outputs=("ghost",))


@settings(max_examples=60)
@given(data=st.data())
def test_any_constants_give_a_program_or_a_project_error(data: st.DataObject) -> None:
    """Shapes, types and values at random: nothing but a project error may escape."""
    shape = st.sampled_from([(), (0,), (1,), (2,), (3,), (1, 2), (2, 2), (2, 0), (1, 2, 2)])
    dtype = st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.float32, bool])

    def array() -> np.ndarray:
        return np.full(data.draw(shape), data.draw(st.integers(0, 3)), data.draw(dtype))

    small = st.integers(-1, 70)
    ops: list[Op] = [
        Linear("x", "in", array(), array(), array()),
        Sum("x", ("in",) * data.draw(st.integers(0, 2)), array()),
        Count("x", "in", array(), data.draw(small)),
        Integrate("x", "in", array(), data.draw(small)),
        Delay("x", "in", array()),
    ]
    for op in ops:
        try:
            found = program(op)
        except NsllmNirError:
            continue
        values = reference.step(found, State(), {"in": np.ones(2, np.int64)})
        assert (values["x"] <= found.signals["x"].high).all() and (values["x"] >= found.signals["x"].low).all()


def test_audit_holds_no_multiplication_division_exponential_or_root(random_program: Build) -> None:
    audit = random_program(0, layers=2).audit()
    assert set().union(*audit.values()) == {"add", "compare", "shift", "select", "move"}
    assert {type(op) for op in random_program(0, layers=2).ops} == {Input, Linear, Sum, Count, Gate, Integrate, Delay}


def test_audit_counts_each_op() -> None:
    found = program(
        linear("l", "in", [[1, 1], [1, 1], [1, 1]]),
        Count("c", "l", ints(1, 1, 1), 4),
        Count("t", "l", ints(1, 1, 1), 4, True),
        Gate("g", "in", "in"),
        Integrate("i", "c", ints(255, 255, 255), 2),
        Sum("s", ("l", "i"), ints(0, 0, 0)),
        Delay("d", "in", ints(1, 1)),
    )
    audit = found.audit()
    assert audit["l"]["add"] == 3 * 2 + 3
    assert audit["c"]["compare"] == 3 * 4 and audit["t"]["compare"] == 2 * 3 * 4
    assert audit["g"] == {"select": 2} and audit["d"] == {"move": 2} and audit["s"] == {"add": 6}
    assert audit["i"] == {"shift": 9, "add": 6}


def test_traced_signals_and_parameters() -> None:
    found = program(
        linear("l", "in", [[1, 2]]), Count("c", "l", ints(1), 4), linear("out", "c", [[1], [1]]), outputs=("out",)
    )
    assert found.traced == ("in", "c", "out")
    assert found.parameters() == (2 + 1 + 1) + 1 + (2 + 2 + 2)
