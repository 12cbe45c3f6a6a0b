"""Graphs of random topology on every backend: 0 differences from the reference.

A failing test's name holds the seed (`pytest --graph-seeds N` runs more).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np

from nsllm_nir import exporters, lower, verify
from nsllm_nir.errors import LossyConversionError
from nsllm_nir.graph import as_graph, walk
from nsllm_nir.program import Delay, Program, reference

STEPS = 12
MakeGraph = Callable[..., nir.NIRGraph]


def spikes(program: Program, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((STEPS, program.inputs[0].size)) < 0.4).astype(np.int64)


def stock_holds(program: Program) -> bool:
    try:
        exporters.load("lava-stock").compile(program)
    except LossyConversionError as error:
        assert "node '" in str(error) and "use" in str(error), "a refusal names the node and the remedy"
        return False
    return True


def test_random_graphs_are_exact_on_every_backend(graph_seed: int, random_graph: MakeGraph, tmp_path: Path) -> None:
    nir.write(tmp_path / "graph.nir", random_graph(graph_seed))
    program = lower(tmp_path / "graph.nir")
    report = verify(
        program, spikes(program, graph_seed), ["hls", "lava", *(["lava-stock"] if stock_holds(program) else [])]
    )
    assert report.exact, f"random_graph({graph_seed})\n{report}"


def test_many_random_graphs_are_exact_on_the_spike_engine(many_graph_seeds: range, random_graph: MakeGraph) -> None:
    for seed in many_graph_seeds:
        program = lower(random_graph(seed))
        report = verify(program, spikes(program, seed), ["hls"])
        assert report.exact, f"random_graph({seed})\n{report}"


def test_random_graphs_are_the_same_for_the_same_seed(random_graph: MakeGraph) -> None:
    assert str(lower(random_graph(5))) == str(lower(random_graph(5))) != str(lower(random_graph(6)))


def test_random_graphs_hold_what_they_are_meant_to(random_graph: MakeGraph) -> None:
    """Over 100 seeds: every kind of node, subgraphs, loops, fan-in and fan-out; most populations fire, not always;
    Loihi's processes hold many.
    """
    kinds: Counter[str] = Counter()
    rates = []
    for seed in range(100):
        graph = random_graph(seed)
        program = lower(graph)
        kinds.update({node.type for _, node in walk(as_graph(graph))})
        ends = [end for edge in graph.edges for end in edge]
        targets, sources = Counter(ends[1::2]), Counter(ends[::2])
        kinds["subgraph"] += any(isinstance(node, nir.NIRGraph) for node in graph.nodes.values())
        kinds["fan-in"] += max(targets.values()) > 2
        kinds["fan-out"] += max(sources.values()) > 1
        kinds["loop"] += any(isinstance(op, Delay) and op.name.endswith(".delay") for op in program.ops)
        kinds["stock"] += stock_holds(program)
        values = reference.run(program, spikes(program, seed)).values
        rates += [values[name].mean() for name, signal in program.signals.items() if signal.spikes and name in values]
    wanted = {
        "Affine",
        "Linear",
        "Scale",
        "Conv1d",
        "Conv2d",
        "SumPool2d",
        "Flatten",
        "Delay",
        "I",
        "IF",
        "LI",
        "LIF",
        "CubaLI",
        "CubaLIF",
        "Threshold",
    }
    assert all(kinds[kind] >= 5 for kind in wanted | {"subgraph", "fan-in", "fan-out", "loop", "stock"}), kinds
    assert np.mean([0 < rate < 1 for rate in rates]) > 0.7


def test_wrong_weights_are_found(random_graph: MakeGraph) -> None:
    """The comparison can fail: engines with negated weights differ from the reference wherever weights matter."""
    found = 0
    for seed in range(10):
        graph = random_graph(seed)
        program, inputs = lower(graph), spikes(lower(graph), seed)
        for node in graph.nodes.values():
            if hasattr(node, "weight"):
                node.weight = -node.weight
        wrong, expected = exporters.load("hls").compile(lower(graph)).run(inputs), reference.run(program, inputs)
        found += any((expected.values[name] != wrong.values[name]).any() for name in program.traced)
    assert found >= 8
