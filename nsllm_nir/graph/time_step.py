"""Graphs written for another time step: NIR states parameters in seconds and does not say how long a step is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np

from nsllm_nir.errors import GraphError, InputError
from nsllm_nir.graph.nir_graph import DT, Graph, Node
from nsllm_nir.graph.node_kinds import NODE_KINDS
from nsllm_nir.graph.reader import as_graph


def same_step(a: float, b: float) -> bool:
    """True if two time steps in seconds are equal up to the rounding of float32, which files hold."""
    return math.isclose(a, b, rel_tol=1e-6)


def at_time_step(source: Graph | nir.NIRGraph | str | Path, dt: float) -> Graph:
    """The graph that does in steps of `graph.DT` (1e-4 s) what ``source`` does in steps of ``dt``.

    One forward Euler step depends on dt / tau, delay / dt and, for I and IF, r dt. So time constants and delays are
    multiplied by DT / dt, the r of I and IF by dt / DT; everything else, and what each step computes, stays. Subgraphs
    are included.

    Args:
        source: file, `nir.NIRGraph` or `Graph`; returned as it is where ``dt`` is the project's step.
        dt: seconds per step that ``source`` was written for, e.g. 1e-3 for a file of norse with its defaults.

    Raises:
        InputError: ``dt`` is not a positive number.
        GraphError: ``source`` cannot be read, or a time constant is no number.
    """
    check_time_step(dt)
    graph = as_graph(source)
    return graph if same_step(dt, DT) else _rewritten(graph, DT / dt, "")


def check_time_step(dt: float) -> None:
    """Refuse a time step that is not positive and finite; raises InputError."""
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"the time step must be a positive number of seconds, got {dt:g}")


def _rewritten(graph: Graph, ratio: float, prefix: str) -> Graph:
    """``origin`` is dropped: the graph is not that of the file any more."""
    nodes = {
        name: _rewritten(node, ratio, f"{prefix}{name}.")
        if isinstance(node, Graph)
        else _node(node, ratio, prefix + name)
        for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes, origin=None)


def _node(node: Node, ratio: float, where: str) -> Node:
    kind = NODE_KINDS[node.type]
    factors = {**dict.fromkeys(kind.seconds, ratio), **dict.fromkeys(kind.per_second, 1 / ratio)}
    scaled = {
        name: _scaled(value, factors[name], f"{where}: {name}")
        for name, value in node.parameters.items()
        if name in factors
    }
    return replace(node, parameters={**node.parameters, **scaled})


def _scaled(value: Any, factor: float, what: str) -> Any:
    try:
        return np.asarray(value, np.float64) * factor
    except (TypeError, ValueError) as error:
        raise GraphError(f"{what} holds no numbers ({error})") from error
