"""The reference interpreter against results worked out by hand, and against the definitions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsllm_nir import exporters
from nsllm_nir.errors import InputError
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, State, Sum, reference
from nsllm_nir.program.operations.count import count

Build = Callable[..., Program]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def potential(name: str, source: str, *weights: int, bias: int = 0, shift: int = 0) -> Linear:
    """A potential of one neuron."""
    return Linear(name, source, np.array([weights], np.int8), ints(bias), np.array([shift], np.uint8))


def outputs(ops: tuple[Op, ...], spikes: list[list[int]], *, levels: int = 1) -> list[list[int]]:
    """Values of the last of ``ops`` at every token."""
    program = Program((Input("in", len(spikes[0]), levels), *ops), (ops[-1].name,))
    return reference.run(program, np.array(spikes)).values[ops[-1].name].tolist()


def test_linear_adds_the_rows_of_spiking_neurons_then_shifts() -> None:
    op = Linear("x", "in", np.array([[1, -2, 5], [0, 7, -128]], np.int8), ints(3, -1), np.array([0, 2], np.uint8))
    # (1*2 + 5*1 + 3) << 0 and (0*2 - 128*1 - 1) << 2; then the biases alone.
    assert outputs((op,), [[2, 0, 1], [0, 0, 0]], levels=2) == [[10, -516], [3, -4]]


def test_linear_shifts_potentials_of_both_signs_left() -> None:
    assert outputs((potential("v", "in", -3), potential("x", "v", 2, bias=1, shift=3)), [[1], [0]]) == [[-40], [8]]


def test_sum_adds_sources_and_bias() -> None:
    assert outputs(
        (potential("a", "in", 4), potential("b", "in", -9), Sum("x", ("a", "b", "a"), ints(100))), [[1], [0]]
    ) == [[99], [100]]


@pytest.mark.parametrize(
    ("v", "unsigned", "signed"),
    # Step 4, three levels: the thresholds of v are 2, 6 and 10, and a tie gives no spike.
    [
        (1, 0, 0),
        (2, 0, 0),
        (3, 1, 1),
        (6, 1, 1),
        (7, 2, 2),
        (10, 2, 2),
        (11, 3, 3),
        (100, 3, 3),
        (-2, 0, 0),
        (-3, 0, -1),
        (-6, 0, -1),
        (-7, 0, -2),
        (-11, 0, -3),
        (-100, 0, -3),
    ],
)
def test_count_even_step(v: int, unsigned: int, signed: int) -> None:
    for expected, sign in ((unsigned, False), (signed, True)):
        assert outputs((potential("v", "in", 0, bias=v), Count("x", "v", ints(4), 3, sign)), [[0]]) == [[expected]]


@pytest.mark.parametrize(("v", "expected"), [(2, 0), (3, 1), (7, 1), (8, 2)])
def test_count_odd_step_has_half_integer_thresholds(v: int, expected: int) -> None:
    # Step 5: the thresholds 2.5 and 7.5 are never met exactly.
    assert outputs((potential("v", "in", 0, bias=v), Count("x", "v", ints(5), 2)), [[0]]) == [[expected]]


def test_count_with_a_signal_as_step() -> None:
    # v = 9; step 2 (thresholds 1, 3, 5, 7), then 6 (3, 9: a tie).
    ops = (potential("v", "in", 0, bias=9), potential("step", "in", 4, bias=2), Count("x", "v", "step", 4))
    assert outputs(ops, [[0], [1]]) == [[4], [1]]


@given(
    v=st.lists(st.integers(-(2**23), 2**23 - 1), min_size=1, max_size=8),
    step=st.integers(1, 2**22),
    near=st.booleans(),
    levels=st.integers(1, 9),
    m=st.integers(1, 9),
)
def test_count_is_its_definition(v: list[int], step: int, near: bool, levels: int, m: int) -> None:
    """Brute force over exact fractions, also within one unit of a threshold."""
    values = [(2 * m - 1) * step // 2 + (x % 3 - 1) for x in v] if near else v
    expected = [sum(Fraction(x) > (k - Fraction(1, 2)) * step for k in range(1, levels + 1)) for x in values]
    assert count(np.array(values), np.array(step), levels).tolist() == expected


def test_gate_selects_without_a_product() -> None:
    ops = (Count("g", "v", ints(1), 1), Gate("x", "g", "v"))
    for bias, expected in ((-7, 0), (0, 0), (7, 7)):
        assert outputs((potential("v", "in", 0, bias=bias), *ops), [[0]]) == [[expected]]


def test_integrator_decays_with_floor_rounding() -> None:
    # c = 192 is 3/4, no fraction. 10: 10, 7 (7.5), 5 (5.25), 3 (3.75), 2, 1, 0, 0;
    # -10: -10, -8 (-7.5), -6, -5 (-4.5), -4 (-3.75), -3, -3: it stays.
    up = (potential("v", "in", 10), Integrate("x", "v", ints(192), 0))
    down = (potential("v", "in", -10), Integrate("x", "v", ints(192), 0))
    spikes = [[1]] + [[0]] * 7
    assert [x for (x,) in outputs(up, spikes)] == [10, 7, 5, 3, 2, 1, 0, 0]
    assert [x for (x,) in outputs(down, spikes)] == [-10, -8, -6, -5, -4, -3, -3, -3]


@pytest.mark.parametrize(("decay", "expected"), [(255, [8, 7 + 8, 14 + 8]), (0, [8, 8, 8]), (128, [8, 4 + 8, 6 + 8])])
def test_integrator_fraction_bits_and_extreme_decays(decay: int, expected: list[int]) -> None:
    # x << 3 enters after the decay; floor(8 * 255/256) = 7, floor(15 * 255/256) = 14.
    assert [x for (x,) in outputs((Integrate("x", "in", ints(decay), 3),), [[1]] * 3)] == expected


def test_delay_per_neuron_starts_with_silence() -> None:
    spikes = [[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]]
    assert outputs((Delay("x", "in", ints(0, 1, 3)),), spikes, levels=4) == [[1, 0, 0], [2, 1, 0], [3, 2, 0], [4, 3, 1]]


@given(steps=st.lists(st.integers(0, 300), min_size=1, max_size=6), tokens=st.integers(1, 700), seed=st.integers(0, 99))
def test_delays_of_any_length_are_their_definition(steps: list[int], tokens: int, seed: int) -> None:
    spikes = np.random.default_rng(seed).integers(0, 8, (tokens, len(steps)))
    program = Program((Input("in", len(steps), 7), Delay("x", "in", ints(*steps))), ("x",))
    padded = np.concatenate([np.zeros((300, len(steps)), int), spikes])
    expected = np.stack([padded[300 - d : 300 - d + tokens, i] for i, d in enumerate(steps)], axis=1)
    assert np.array_equal(reference.run(program, spikes).values["x"], expected)


def test_a_long_delay_takes_the_memory_of_the_run_only() -> None:
    assert outputs((Delay("x", "in", ints(2**31 - 1, 1)),), [[1, 1], [0, 0]]) == [[0, 0], [0, 1]]


def test_a_session_starts_silent_again_after_a_reset(random_program: Build, tokens: np.ndarray) -> None:
    program = random_program(3, layers=2)
    spikes = reference.one_hot(tokens, 16)
    with exporters.load("reference").compile(program).open() as session:
        first = [session.step(row) for row in spikes]
        session.reset()
        assert np.array_equal([session.step(row) for row in spikes], first)
        assert not np.array_equal([session.step(row) for row in spikes], first), "the state matters here"


def test_loop_through_a_delay() -> None:
    """A neuron that excites itself one token later: one input spike keeps it active."""
    ops: tuple[Op, ...] = (
        Delay("late", "spike", ints(1)),
        Sum("v", ("in", "late"), ints(0)),
        Count("spike", "v", ints(1), 1),
    )
    assert outputs(ops, [[0], [1], [0], [0]]) == [[0], [1], [1], [1]]


def test_run_from_silence_equals_stepping(random_program: Build, tokens: np.ndarray) -> None:
    program = random_program(3, layers=2)
    spikes = reference.one_hot(tokens, 16)
    state = State()
    stepped = [reference.step(program, state, {"input": row}) for row in spikes]
    whole = reference.run(program, spikes)
    assert tuple(whole.values) == program.traced
    for node, values in whole.values.items():
        assert (values == [x[node] for x in stepped]).all(), node
    with exporters.load("reference").compile(program).open() as session:
        assert (np.array([session.step(row) for row in spikes]) == whole.values["logits"]).all()


def test_no_tokens_give_empty_traces(random_program: Build) -> None:
    program = random_program(0)
    empty = reference.run(program, np.zeros((0, 16), np.int64))
    assert {n: v.shape for n, v in empty.values.items()} == {n: (0, program.signals[n].size) for n in program.traced}


@pytest.mark.parametrize(
    ("spikes", "message"),
    [
        (np.zeros(16, int), r"^input 'input' expects an array \(steps, 16\), got shape \(16,\)$"),
        (np.zeros((2, 15), int), r"^input 'input' expects an array \(steps, 16\), got shape \(2, 15\)$"),
        (np.zeros((2, 16)), r"^input 'input' expects integers, got float64$"),
        (np.full((2, 16), 2), r"^input 'input' expects values in \[0, 1\], got \[2, 2\]$"),
        (np.full((2, 16), -1), r"^input 'input' expects values in \[0, 1\], got \[-1, -1\]$"),
    ],
    ids=["dimensions", "neurons", "floats", "large", "negative"],
)
def test_inputs_are_checked(random_program: Build, spikes: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.run(random_program(0), spikes)


def test_a_program_with_two_inputs_is_refused() -> None:
    program = Program((Input("a", 1), Input("b", 1)), ("a",))
    with pytest.raises(InputError, match=r"^the program has 2 inputs, one is expected$"):
        reference.run(program, np.zeros((1, 1), int))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 16], r"^token 16 at position 1 is outside the vocabulary \[0, 15\]$"),
        ([-1], r"^token -1 at position 0 is outside the vocabulary \[0, 15\]$"),
        ([1.0, 2.5], r"^token ids must be integers"),
        ([[1, 2]], r"^token ids must be"),
        (["a"], r"^token ids must be integers"),
    ],
    ids=["large", "negative", "floats", "two axes", "text"],
)
def test_tokens_are_checked(ids: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.one_hot(ids, 16)


def test_one_hot() -> None:
    assert reference.one_hot([2, 0], 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert reference.one_hot([], 3).shape == (0, 3)
