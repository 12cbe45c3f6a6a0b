"""What stands in several places unseen by the type checker: tables know every operation, node, backend and family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nsllm_nir import verify
from nsllm_nir.graph import DT, NODE_KINDS, Graph, Node, read, write
from nsllm_nir.graph.time_step import at_time_step
from nsllm_nir.lowering.lower import why_not_integer
from nsllm_nir.lowering.net import inline
from nsllm_nir.lowering.node_rules import RULES
from nsllm_nir.quantization.float_nodes import ROLES
from nsllm_nir.verification.support_matrix import PROBES

PORTS = {"Input", "Output"}


def test_every_stage_knows_every_node() -> None:
    """Declared in `graph`, lowered by a rule, with a role in quantization, and shown in the support matrix."""
    assert set(RULES) == set(NODE_KINDS) - PORTS
    assert set(ROLES) == set(NODE_KINDS)
    assert set(PROBES) >= set(RULES)


def example_graph(kind: str, gain: float) -> Graph:
    """Input, a Scale, the example of a node type, Output."""
    found = NODE_KINDS[kind].example
    shape = {"shape": np.array(found.shape)}
    nodes: dict[str, Node | Graph] = {
        "input": Node("Input", shape),
        "gain": Node("Scale", {"scale": np.full(found.shape, gain)}),
        "node": Node(kind, found.parameters),
        "output": Node("Output", shape),
    }
    return Graph(nodes, (("input", "gain"), ("gain", "node"), ("node", "output")))


@pytest.mark.parametrize("kind", sorted(set(NODE_KINDS) - PORTS))
def test_the_example_of_a_node_runs_from_file_to_comparison(kind: str, tmp_path: Path) -> None:
    """Integers as they are, floats quantized, and the same in steps of 1 ms; optional parameters may be missing."""
    declared = NODE_KINDS[kind]
    assert set(declared.example.parameters) == set(declared.parameters)
    rng = np.random.default_rng(1)
    inputs = (rng.random((20, int(np.prod(declared.example.shape)))) < 0.5).astype(np.int64)
    for gain, integer in ((3.0, kind != "AvgPool2d"), (3.7, False)):
        write(tmp_path / "node.nir", example_graph(kind, gain))
        graph = read(tmp_path / "node.nir")
        assert (why_not_integer(inline(graph)) == "") is integer
        report = verify(graph, inputs, ["reference"])
        assert report.exact and (report.quantization is None) is integer
        value = report.reference.values[report.program.outputs[-1]]
        assert value.min() < value.max(), "the example always gives the same"
        if report.quantization_error:
            assert report.quantization_error.differences == 0
        slow = at_time_step(graph, 1e-3)
        before, after = (found.nodes["node"].parameters for found in (graph, slow))
        changed = {name for name in declared.parameters if after[name] is not before[name]}
        assert changed == {*declared.seconds, *declared.per_second}
        assert str(verify(at_time_step(slow, DT * DT / 1e-3), inputs, ["reference"]).program) == str(report.program)
    bare = {name: value for name, value in declared.example.parameters.items() if name not in declared.optional}
    graph = example_graph(kind, 3.0)
    write(tmp_path / "bare.nir", Graph({**graph.nodes, "node": Node(kind, bare)}, graph.edges))
    assert verify(tmp_path / "bare.nir", inputs, ["reference"]).exact
