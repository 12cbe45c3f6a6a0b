"""The float graphs of `peers.py`: every neuron, both forms of r, dyadic and other parameters, loops, images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray
from quantization import leaky

from nsllm_nir.graph import DT

STEPS, RATE = 100, 0.4
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """A graph.

    dyadic: all parameters are multiples of powers of two; causes: {reader: key of `peers.CAUSES`}, where it does not
    agree.
    """

    name: str
    dyadic: bool
    graph: nir.NIRGraph
    causes: dict[str, str] = field(default_factory=dict)
    peers: tuple[str, ...] = ("norse", "snnTorch")

    @property
    def spikes(self) -> NDArray[np.int64]:
        """Random inputs (STEPS, neurons)."""
        size = int(np.prod(self.graph.nodes["a_input"].input_type["input"]))
        return (np.random.default_rng(1).random((STEPS, size)) < RATE).astype(np.int64)


def full(shape: int | tuple[int, ...], value: Any) -> Floats:
    return np.broadcast_to(np.asarray(value, np.float64), shape if isinstance(shape, tuple) else (shape,)).copy()


def lif(shape: int | tuple[int, ...], k: float, threshold: Any, *, r: float = 1.0, leak: float = 0.0) -> nir.LIF:
    """tau = k dt."""
    return nir.LIF(full(shape, k * DT), full(shape, r), full(shape, leak), full(shape, threshold), full(shape, 0))


def cuba(k: tuple[float, float], threshold: float, *, r: float, w_in: float, leak: float = 0.0) -> nir.CubaLIF:
    """12 neurons; k: tau_syn and tau_mem in dt."""
    syn, mem, r_, leak_, threshold_, w, zero = (
        full(12, x) for x in (k[0] * DT, k[1] * DT, r, leak, threshold, w_in, 0)
    )
    return nir.CubaLIF(tau_syn=syn, tau_mem=mem, r=r_, v_leak=leak_, v_threshold=threshold_, v_reset=zero, w_in=w)


def connected(shape: list[int], nodes: dict[str, nir.NIRNode], *edges: str, last: str) -> nir.NIRGraph:
    """``edges`` as "source target"; ``last`` is the output.

    Readers run nodes in the order of names or edges: names sort as the signal flows.
    """
    ports = {
        "a_input": nir.Input(np.array(shape)),
        "z_output": nir.Output(nodes[last].v_threshold.shape if hasattr(nodes[last], "v_threshold") else (12,)),
    }
    return nir.NIRGraph({**ports, **nodes}, [tuple(e.split()) for e in (*edges, f"{last} z_output")])


def chain(shape: list[int], **nodes: nir.NIRNode) -> nir.NIRGraph:
    names = ["a_input", *nodes]
    return connected(shape, nodes, *(f"{a} {b}" for a, b in pairwise(names)), last=names[-1])


def recurrent(weights: Callable[..., Floats], k: float, threshold: float, gain: float, *, relay: bool) -> nir.NIRGraph:
    """One population with feedback, through one matrix or two."""
    nodes = {
        "b_weights": nir.Linear(gain * weights(12, 10)),
        "c_lif": lif(12, k, threshold),
        "c_loop_1": nir.Linear(-weights(12, 12)),
    }
    edges = ["a_input b_weights", "b_weights c_lif", "c_lif c_loop_1"]
    if not relay:
        return connected([10], nodes, *edges, "c_loop_1 c_lif", last="c_lif")
    return connected(
        [10], {**nodes, "c_loop_2": nir.Linear(np.eye(12))}, *edges, "c_loop_1 c_loop_2", "c_loop_2 c_lif", last="c_lif"
    )


def branches(weights: Callable[..., Floats], second: nir.NIRNode | None, last: str) -> nir.NIRGraph:
    """b_weights -> b_lif -> c_linear -> e_lif, and ``second``, d_linear.

    It runs from b_lif to e_lif, or from e_lif back to b_lif; None: a plain edge.
    """
    nodes = {
        "b_in": nir.Linear(4 * weights(12, 10)),
        "b_lif": lif(12, 4, 3.03125),
        "c_linear": nir.Linear(4 * weights(12, 12)),
        last: lif(12, 4, 3.03125),
    }
    edges = ["a_input b_in", "b_in b_lif", "b_lif c_linear", f"c_linear {last}"]
    if second is None:
        return connected([10], nodes, *edges, f"b_lif {last}", last=last)
    if last == "d_lif":
        return connected([10], {**nodes, "e_linear": second}, *edges, "d_lif e_linear", "e_linear b_lif", last=last)
    return connected([10], {**nodes, "d_linear": second}, *edges, "b_lif d_linear", f"d_linear {last}", last=last)


def cases() -> list[Case]:
    """All graphs, from one seed."""
    rng = np.random.default_rng(0)

    def dyadic(*shape: int) -> Floats:
        return rng.integers(-8, 16, shape) / 8

    def real(*shape: int) -> Floats:
        return rng.normal(0.1, 0.3, shape)

    def layers(
        weights: Callable[..., Floats], k: tuple[float, float], threshold: float, *, unit_r: bool
    ) -> nir.NIRGraph:
        gains, r = (k, (1.0, 1.0)) if unit_r else ((1.0, 1.0), k)
        return chain(
            [10],
            b_weights=nir.Linear(gains[0] * weights(16, 10)),
            c_lif=lif(16, k[0], threshold, r=r[0]),
            d_linear=nir.Linear(gains[1] * weights(12, 16)),
            e_lif=lif(12, k[1], threshold, r=r[1]),
        )

    def one(
        neuron: nir.NIRNode, *, weights: Callable[..., Floats] = dyadic, gain: float = 1.0, **more: nir.NIRNode
    ) -> nir.NIRGraph:
        return chain([10], b_weights=nir.Linear(gain * weights(12, 10)), **more, c_lif=neuron)

    def image(weights: Callable[..., Floats], pool: type | None) -> nir.NIRGraph:
        size, more = (
            (4 if pool else 8),
            {"c_pool": pool(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))} if pool else {},
        )
        return chain(
            [2, 8, 8],
            b_weights=nir.Conv2d((8, 8), 4 * weights(3, 2, 3, 3), 1, 1, 1, 1, weights(3)),
            **more,
            d_lif=lif((3, size, size), 4, 3.03125),
        )

    tenths = nir.Linear(rng.integers(-5, 10, (12, 10)) / 10)
    ones, spread = np.ones(12), 1.03125 + np.arange(12) / 4
    refuses, snntorch_refuses = {"norse": "refuses", "snnTorch": "refuses"}, {"snnTorch": "refuses"}
    names = {
        "layer.weights": "b_weights",
        "layer.potential": "c_li",
        "layer.spikes": "d_threshold",
        "layer.reset": "e_scale",
        "a_input": "a_input",
    }
    nodes, edges = leaky("layer", dyadic(12, 10) / 4, 0.75, "subtract", "a_input")
    subtract = connected(
        [10],
        {names[n]: node for n, node in nodes.items()},
        *(f"{names[a]} {names[b]}" for a, b in edges),
        last="d_threshold",
    )
    return [
        Case("LIF chain, r = 1", True, layers(dyadic, (4, 8), 3.03125, unit_r=True)),
        Case("LIF chain, r = tau / dt", True, layers(dyadic, (4, 8), 3.03125, unit_r=False), {"norse": "r"}),
        Case("LIF chain, r = 1", False, layers(real, (10, 7.7), 1, unit_r=True)),
        Case("LIF chain, r = tau / dt", False, layers(real, (10, 7.7), 1, unit_r=False), {"norse": "r"}),
        Case(
            "LIF chain, tau of 16 and 32 dt",
            True,
            layers(dyadic, (16, 32), 3.03125, unit_r=True),
            {"norse, no dt": "dt"},
            ("norse, no dt",),
        ),
        Case(
            "weights and thresholds in tenths",
            False,
            chain([10], b_weights=tenths, c_lif=lif(12, 1, 0.7)),
            {"norse": "ties", "snnTorch": "ties"},
        ),
        Case("a threshold for each neuron", True, one(lif(12, 4, spread), gain=4), snntorch_refuses),
        Case(
            "LIF with v_leak",
            False,
            one(lif(12, 9.1, 1, leak=0.5), weights=real, gain=10),
            {"norse": "start", "snnTorch": "refuses"},
        ),
        Case("CubaLIF, w_in = tau_syn / dt, r = tau_mem / dt", True, one(cuba((2, 4), 3.03125, r=4, w_in=2))),
        Case(
            "CubaLIF, w_in = tau_syn / dt, r = tau_mem / dt",
            False,
            one(cuba((3.3, 9.1), 1, r=9.1, w_in=3.3), weights=real),
        ),
        Case(
            "CubaLIF, w_in = r = 1",
            False,
            one(cuba((3.3, 9.1), 1, r=1, w_in=1), weights=real, gain=20),
            snntorch_refuses,
        ),
        Case(
            "CubaLIF with v_leak",
            False,
            one(cuba((3.3, 9.1), 1, r=9.1, w_in=3.3, leak=0.5), weights=real),
            {"norse": "synapse", "snnTorch": "refuses"},
        ),
        Case("IF, r = 1 / dt", True, one(nir.IF(ones / DT, 3.03125 * ones, 0 * ones)), snntorch_refuses),
        Case(
            "IF, r = 1", True, one(nir.IF(ones, 3.03125 * DT * ones, 0 * ones)), {"norse": "r dt", "snnTorch": "leaky"}
        ),
        Case("recurrent LIF, one matrix", True, recurrent(dyadic, 4, 3.03125, 4, relay=False), {"snnTorch": "matrix"}),
        Case("recurrent LIF, two matrices", True, recurrent(dyadic, 4, 3.03125, 4, relay=True)),
        Case("recurrent LIF, two matrices", False, recurrent(real, 9.1, 1, 10, relay=True)),
        Case(
            "two LIF in one loop",
            True,
            branches(dyadic, nir.Linear(-dyadic(12, 12)), "d_lif"),
            {"norse": "loop", "snnTorch": "loop"},
        ),
        Case("residual edge", True, branches(dyadic, None, "e_lif")),
        Case("two branches", True, branches(dyadic, nir.Linear(4 * np.eye(12)), "e_lif"), {"norse": "order"}),
        Case("Conv2d", True, image(dyadic, None)),
        Case("Conv2d", False, image(real, None)),
        Case("Conv2d, SumPool2d", True, image(dyadic, nir.SumPool2d)),
        Case("Conv2d, AvgPool2d", True, image(dyadic, nir.AvgPool2d), {"norse": "leaves out"}),
        Case(
            "Scale",
            True,
            one(lif(12, 4, 1.03125), gain=4, b_scale=nir.Scale(0.5 * ones)),
            {"norse": "leaves out", "snnTorch": "refuses"},
        ),
        Case(
            "Delay",
            True,
            one(lif(12, 4, 1.03125), gain=4, b_wait=nir.Delay(2 * DT * ones)),
            {"norse": "leaves out", "snnTorch": "refuses"},
        ),
        Case("reset by subtraction (LI, Threshold, Scale)", True, subtract, refuses),
    ]
