"""Properties of random graphs: files are fixed points, names and orders carry no meaning, quantization is idempotent,
intervals hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings

from nsllm_nir import lower
from nsllm_nir.errors import GraphError, NsllmNirError
from nsllm_nir.graph import Graph, Node, as_graph, read, write
from nsllm_nir.program import Linear, Program, Signal, reference
from nsllm_nir.quantization.quantize import quantize

MakeGraph = Callable[..., nir.NIRGraph]
Values = dict[str, np.ndarray]
SEEDS = st.integers(0, 100_000)
STEPS = 24
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run_all(program: Program, inputs: np.ndarray) -> Values:
    """Every signal, also those that a trace leaves out: (steps, neurons)."""
    state, name = reference.State(), program.inputs[0].name
    steps = [reference.step(program, state, {name: row}) for row in inputs.astype(np.int64)]
    return {signal: np.array([step[signal] for step in steps]) for signal in program.signals}


def spikes(program: Program, seed: int, steps: int = 12) -> np.ndarray:
    return (np.random.default_rng(seed).random((steps, program.inputs[0].size)) < 0.4).astype(np.int64)


@few
@given(SEEDS, st.booleans())
def test_writing_reading_and_writing_is_a_fixed_point(
    random_graph: MakeGraph, tmp_path: Path, seed: int, exact: bool
) -> None:
    graph = random_graph(seed, exact)
    first, second, third, stock = (tmp_path / name for name in ("first", "second", "third", "stock"))
    write(first, as_graph(graph))
    write(second, read(first))
    assert first.read_bytes() == second.read_bytes()
    nir.write(stock, graph)
    write(second, read(stock))
    write(third, read(second))
    assert second.read_bytes() == third.read_bytes(), "a file that nir wrote becomes one that stays the same"
    if exact:
        assert str(lower(graph)) == str(lower(first)) == str(lower(stock)) == str(lower(third))


def permuted(graph: Graph, names: dict[str, str], rng: np.random.Generator) -> Graph:
    """The same graph with other node names (unique in all levels) and another order of nodes and edges."""
    nodes, edges = list(graph.nodes.items()), list(graph.edges)
    rng.shuffle(nodes)
    rng.shuffle(edges)
    inner = {names[name]: permuted(node, names, rng) if isinstance(node, Graph) else node for name, node in nodes}
    return Graph(inner, tuple((names[a], names[b]) for a, b in edges), graph.metadata)


def all_names(graph: Graph) -> list[str]:
    return [
        *graph.nodes,
        *(name for node in graph.nodes.values() if isinstance(node, Graph) for name in all_names(node)),
    ]


def renamed_values(program: Program, inputs: np.ndarray, names: dict[str, str]) -> Values:
    """Spikes of every neuron population and the outputs, under the names that ``names`` maps theirs to."""
    trace = reference.run(program, inputs).values
    return {".".join(names.get(part, part) for part in node.split(".")): values for node, values in trace.items()}


@few
@given(SEEDS, st.integers(0, 1000))
def test_names_and_orders_carry_no_meaning(random_graph: MakeGraph, seed: int, order: int) -> None:
    graph, rng = as_graph(random_graph(seed)), np.random.default_rng(order)
    old = all_names(graph)
    names = dict(zip(old, (f"x{i:03}" for i in rng.permutation(len(old))), strict=True))
    other = lower(permuted(graph, names, rng))
    program = lower(graph)
    inputs = spikes(program, seed)
    expected = renamed_values(program, inputs, {})
    found = renamed_values(other, inputs, {new: name for name, new in names.items()})
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_moved_edge_changes_the_spikes(random_graph: MakeGraph) -> None:
    """The comparison above can fail: delays that change places are another graph."""
    graph = as_graph(random_graph(0))
    node = next(
        name for name, node in graph.nodes.items() if not isinstance(node, Graph) and "weight" in node.parameters
    )
    found = graph.nodes[node]
    assert isinstance(found, Node)
    changed = replace(found, parameters={**found.parameters, "weight": found.array("weight")[::-1].copy()})
    a, b = (lower(g) for g in (graph, Graph({**graph.nodes, node: changed}, graph.edges)))
    inputs = spikes(a, 0)
    first, second = reference.run(a, inputs).values, reference.run(b, inputs).values
    assert any((first[name] != second[name]).any() for name in first)


def quantized(graph: nir.NIRGraph, bits: int) -> Graph | None:
    """None where there is no integer form."""
    try:
        return quantize(graph, weight_bits=bits)[0]
    except NsllmNirError:
        return None


@few
@given(SEEDS, st.integers(3, 8))
def test_quantization_is_idempotent(random_graph: MakeGraph, tmp_path: Path, seed: int, bits: int) -> None:
    integer = quantized(random_graph(seed, exact=False), bits)
    if integer is None:
        return
    again, done = quantize(integer, weight_bits=bits)
    assert done.unchanged
    write(tmp_path / "once", integer)
    write(tmp_path / "twice", again)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()
    from_file, done = quantize(tmp_path / "once", weight_bits=bits)
    assert done.unchanged and str(lower(from_file)) == str(lower(integer))


def test_most_random_float_graphs_have_an_integer_form(random_graph: MakeGraph) -> None:
    found = sum(quantized(random_graph(seed, exact=False), 8) is not None for seed in range(40))
    assert found >= 30


@few
@given(SEEDS)
def test_integer_graphs_stay_as_they_are(random_graph: MakeGraph, seed: int) -> None:
    graph = as_graph(random_graph(seed))
    assert quantize(graph)[0] is graph


def exceeded(program: Program, values: Values) -> list[str]:
    """Signals with a value outside of their interval."""
    return [
        name
        for name, signal in program.signals.items()
        if ((values[name] < signal.low) | (values[name] > signal.high)).any()
    ]


def worst_inputs(program: Program, seed: int) -> dict[str, np.ndarray]:
    """Constant, alternating, random, and those that drive the first weights as far up or down as they go."""
    size, step = program.inputs[0].size, np.arange(STEPS)[:, None]
    found: dict[str, np.ndarray] = {
        "ones": np.ones((STEPS, size)),
        "zeros": np.zeros((STEPS, size)),
        "steps": np.tile(step % 2, size),
        "checks": (step + np.arange(size)) % 2,
    }
    found |= {f"rate {rate}": np.random.default_rng(seed).random((STEPS, size)) < rate for rate in (0.05, 0.5, 0.95)}
    weight: np.ndarray = next(
        (op.weight for op in program.ops if isinstance(op, Linear) and op.weight.shape[1:] == (size,)),
        np.zeros((1, size)),
    )
    found |= {f"up {row}": np.tile(weight[row] > 0, (STEPS, 1)) for row in range(min(len(weight), 3))}
    return found | {f"down {row}": np.tile(weight[row] < 0, (STEPS, 1)) for row in range(min(len(weight), 3))}


@few
@given(SEEDS)
@example(0)
def test_intervals_are_never_exceeded(random_graph: MakeGraph, seed: int) -> None:
    program = lower(random_graph(seed))
    for name, inputs in worst_inputs(program, seed).items():
        assert not exceeded(program, run_all(program, inputs)), f"random_graph({seed}), inputs {name}"


@few
@given(SEEDS)
def test_intervals_of_quantized_graphs_are_never_exceeded(random_graph: MakeGraph, seed: int) -> None:
    integer = quantized(random_graph(seed, exact=False), 8)
    if integer is None:
        return
    program = lower(integer)
    for name, inputs in worst_inputs(program, seed).items():
        assert not exceeded(program, run_all(program, inputs)), f"random_graph({seed}, exact=False), inputs {name}"


@pytest.mark.parametrize("seed", range(8))
def test_intervals_of_language_model_programs_are_never_exceeded(
    random_program: Callable[..., Program], seed: int
) -> None:
    program = random_program(seed, layers=2)
    size = program.inputs[0].size
    for inputs in (np.eye(size), np.ones((30, size)), np.zeros((30, size)), np.tile(np.arange(30)[:, None] % 2, size)):
        assert not exceeded(program, run_all(program, inputs))


def test_a_narrowed_interval_is_noticed(random_graph: MakeGraph) -> None:
    """The check can fail: any bound one below a value that was reached is exceeded."""
    program = lower(random_graph(4))
    values = run_all(program, spikes(program, 4, steps=STEPS))
    for name, signal in program.signals.items():
        for low, high in (
            (signal.low, signal.high * 0 + values[name].max() - 1),
            (signal.low * 0 + values[name].min() + 1, signal.high),
        ):
            narrow = {**program.signals, name: Signal(signal.size, low, high, signal.spikes)}
            changed = lower(random_graph(4))
            object.__setattr__(changed, "signals", narrow)
            assert exceeded(changed, values) == [name]


def test_intervals_of_weights_are_tight() -> None:
    """The worst case of weights that read spikes is reached, so an interval is no mere guess."""
    weight = np.random.default_rng(2).integers(-50, 90, (5, 8)).astype(np.float32)
    program = lower(
        nir.NIRGraph.from_list(nir.Input(np.array([8])), nir.Linear(weight), nir.Threshold(np.full(5, 10.5)))
    )
    signal = program.signals["linear"]
    for row in range(5):
        values = run_all(program, np.array([weight[row] > 0, weight[row] < 0]))["linear"]
        assert values[:, row].tolist() == [signal.high[row], signal.low[row]]


def test_a_loop_of_potentials_has_no_interval() -> None:
    """Only spikes may return: sums that feed themselves grow without bound and are refused."""
    shape = {
        "input": nir.Input(np.array([3])),
        "a": nir.Linear(np.eye(3)),
        "b": nir.Linear(np.eye(3)),
        "output": nir.Output(np.array([3])),
    }
    with pytest.raises(GraphError, match="has no spiking node that could delay it"):
        lower(nir.NIRGraph(shape, [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]))
