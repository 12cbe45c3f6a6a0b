"""Unmodified norse and snnTorch against `float_reference`: equal on dyadic parameters, and every difference has the
cause that the table names.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
pytest.importorskip("norse")
peers: Any = importlib.import_module("peers")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
RUNS = [(case, peer) for case in peers.cases() for peer in case.peers]


def named(*kinds: bool) -> list[Any]:
    """Runs with a cause or without one."""
    return [
        pytest.param(case, peer, id=f"{case.name}-{'dyadic' if case.dyadic else 'float'}-{peer}")
        for case, peer in RUNS
        if (peer in case.causes) in kinds
    ]


@pytest.mark.parametrize(("case", "peer"), named(False))
def test_readers_agree(case: Any, peer: str) -> None:
    """Dyadic and other parameters alike, wherever no cause is named."""
    found = peers.compare(case, peer)
    assert not isinstance(found, str), found
    assert set(found.values()) == {0}, found


@pytest.mark.parametrize(("case", "peer"), named(True))
def test_every_difference_has_its_cause(case: Any, peer: str) -> None:
    found, cause = peers.compare(case, peer), peers.CAUSES[case.causes[peer]]
    if not cause.experiment:
        assert isinstance(found, str), "the reader is said to refuse this graph"
    else:
        assert not isinstance(found, str), found
        assert max(found.values()) > 10, "there is nothing to explain"
        assert set(peers.explained(case, peer).values()) == {0}


def test_graphs_fire_and_rest() -> None:
    for case, _ in RUNS:
        spikes = peers.run_reference(peers.inline(peers.as_graph(case.graph)), case.spikes)
        assert all(0.02 < values.mean() < 0.95 for values in spikes.values()), case.name


def test_the_comparison_sees_one_changed_weight() -> None:
    case = peers.cases()[0]
    case.graph.nodes["b_weights"].weight[3, 4] += 4
    changed = peers.run_peer("norse", case.graph, case.spikes)
    want = peers.run_reference(peers.inline(peers.as_graph(peers.cases()[0].graph)), case.spikes)
    assert all(cells > 0 for cells in peers.differing(want, changed).values())


def test_the_default_neuron_of_snntorch_is_its_graph_with_feedback() -> None:
    cells = [int(row.split("|")[-2]) for row in peers.default_neuron()[2:]]
    assert cells[0] == 0 and min(cells[1:]) > 50, cells
