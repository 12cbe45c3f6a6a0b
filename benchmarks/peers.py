"""Float graphs in `float_reference` and in unmodified readers: differing spikes per node, and their causes.

    python benchmarks/peers.py        # writes benchmarks/peers.md

A cause is an experiment: the graph that the reader in fact computes, on which `float_reference` gives the
reader's spikes.
Versions: norse 1.1.0, snnTorch 1.0.0, nirtorch 2.6. Takes a few seconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray
from peer_graphs import RATE, STEPS, Case, Floats, cases
from quantization import network

from nsllm_nir.graph import DT, Graph, Node, as_graph
from nsllm_nir.graph.node_kinds import spikes as is_spiking
from nsllm_nir.lowering.net import Net, Read, inline
from nsllm_nir.quantization.float_reference import signals

Rasters = dict[str, Floats]
Edit = Callable[[dict[str, Any]], dict[str, Any]]


def load_norse(graph: nir.NIRGraph, **step: float) -> Any:
    """The model of `norse.torch.from_nir`; raises LookupError where it left out a node without a message."""
    import norse.torch

    model = norse.torch.from_nir(graph, **step)
    missing = set(graph.nodes) - {"a_input", "z_output"} - {name for name, _ in model.named_modules()}
    if missing:
        raise LookupError(f"the model has no {' and no '.join(sorted(missing))}")
    return model


def load_snntorch(graph: nir.NIRGraph) -> Any:
    from snntorch.import_nir import import_from_nir

    return import_from_nir(graph)


PEERS: dict[str, Callable[..., Any]] = {
    "norse": partial(load_norse, dt=DT),
    "norse, no dt": load_norse,
    "snnTorch": load_snntorch,
}


# --------------------------------------------------------------------------------------- what a reader computes


def edited(edit: Edit, *types: str) -> Callable[[Graph], Net]:
    """The graph with other parameters of the nodes of ``types``."""

    def meant(graph: Graph) -> Net:
        nodes = {
            name: replace(n, parameters=edit(n.parameters)) if isinstance(n, Node) and n.type in types else n
            for name, n in graph.nodes.items()
        }
        return inline(replace(graph, nodes=nodes))

    return meant


def shifted(p: dict[str, Any], target: Floats) -> dict[str, Any]:
    """A potential that starts at v_leak, with ``target`` as the potential at rest: all measured from v_leak."""
    return {
        **p,
        "v_leak": target - p["v_leak"],
        "v_threshold": p["v_threshold"] - p["v_leak"],
        "v_reset": p["v_reset"] - p["v_leak"],
    }


def late_branch(graph: Graph) -> Net:
    """The second branch one step late."""
    nodes = {**graph.nodes, "late": Node("Delay", {"delay": np.full(12, DT)})}
    return inline(
        replace(
            graph,
            nodes=nodes,
            edges=(*(e for e in graph.edges if e != ("d_linear", "e_lif")), ("d_linear", "late"), ("late", "e_lif")),
        )
    )


def input_through_loop(graph: Graph) -> Net:
    """The input in front of the recurrent matrix instead of the neurons."""
    return inline(
        replace(
            graph, edges=tuple(("b_weights", "c_loop_1") if e == ("b_weights", "c_lif") else e for e in graph.edges)
        )
    )


def one_delay(graph: Graph) -> Net:
    """A loop through two populations with one step of delay, at the edge that closes it in alphabetical order."""
    flat = inline(graph)
    order = ("a_input", "b_in", "e_linear", "b_lif", "c_linear", "d_lif", "z_output")
    return Net({name: flat.nodes[name] for name in order}, {**flat.reads, "c_linear": (Read("b_lif", False),)})


def leaky_if(graph: Graph) -> Net:
    """The IF nodes as `snntorch.Leaky(beta=0.9, threshold=v_threshold, reset_delay=False)`."""
    neurons = graph.nodes["c_lif"]
    assert isinstance(neurons, Node)
    threshold = neurons.array("v_threshold")
    nodes = {
        **graph.nodes,
        "c_lif": Node("Threshold", {"threshold": threshold}),
        "c_li": Node("LI", {"tau": np.full(12, 10 * DT), "r": np.full(12, 10.0), "v_leak": np.zeros(12)}),
        "c_scale": Node("Scale", {"scale": -0.9 * threshold}),
    }
    edges = [(a, "c_li" if b == "c_lif" else b) for a, b in graph.edges] + [
        ("c_li", "c_lif"),
        ("c_lif", "c_scale"),
        ("c_scale", "c_li"),
    ]
    return inline(replace(graph, nodes=nodes, edges=tuple(edges)))


def off_the_grid(graph: nir.NIRGraph) -> nir.NIRGraph:
    """Thresholds that no sum of the weights meets."""
    neuron = copy.copy(graph.nodes["c_lif"])
    neuron.v_threshold = neuron.v_threshold + 2.0**-12
    return nir.NIRGraph({**graph.nodes, "c_lif": neuron}, graph.edges)


@dataclass(frozen=True, eq=False)
class Cause:
    """Why a reader differs.

    meant: what it computes; changed: another graph on which both agree; output: the node whose value it returns.
    Without an experiment the reader refuses the graph.
    """

    text: str
    experiment: str = ""
    meant: Callable[[Graph], Net] = inline
    changed: Callable[[nir.NIRGraph], nir.NIRGraph] = lambda graph: graph
    output: str = ""


CAUSES = {
    "r": Cause("norse's LIF ignores r", "r = 1", edited(lambda p: {**p, "r": np.ones_like(p["r"])}, "LIF")),
    "dt": Cause("norse's dt is 1e-3 s unless given", "tau / 10", edited(lambda p: {**p, "tau": p["tau"] / 10}, "LIF")),
    "ties": Cause(
        "sums of multiples of 0.1 meet the threshold; float32 and float64 round them to different sides",
        "thresholds + 2^-12",
        changed=off_the_grid,
    ),
    "start": Cause(
        "norse's LIF starts at v_leak",
        "all potentials relative to v_leak",
        edited(lambda p: shifted(p, p["v_leak"]), "LIF"),
    ),
    "synapse": Cause(
        "norse's CubaLIF starts at v_leak, and its synapse decays to v_leak, too",
        "all potentials relative to v_leak, which r v_leak moves",
        edited(lambda p: shifted(p, (1 + p["r"]) * p["v_leak"]), "CubaLIF"),
    ),
    "r dt": Cause(
        "norse's IF ignores r and dt", "r = 1 / dt", edited(lambda p: {**p, "r": np.ones_like(p["r"]) / DT}, "IF")
    ),
    "leaky": Cause(
        "snnTorch's IF leaks (beta 0.9), resets by subtraction, and ignores dt",
        "LI of beta 0.9, Threshold, Scale",
        leaky_if,
    ),
    "order": Cause(
        "norse runs depth first: the second branch comes one step late, and the Output is the node that ran last",
        "a Delay behind the second branch; Output of d_linear",
        late_branch,
        output="d_linear",
    ),
    "leaves out": Cause("norse leaves out nodes it does not know, and runs one of the parts without a message"),
    "loop": Cause(
        (
            "nirtorch delays one edge of a loop, which names and edges choose; here every spiking node of a loop is "
            "read one step late"
        ),
        "only the edge e_linear -> b_lif reads the step before",
        one_delay,
    ),
    "matrix": Cause(
        "snnTorch feeds the input of a one-matrix loop into the matrix",
        "b_weights -> c_loop_1 instead of b_weights -> c_lif",
        input_through_loop,
    ),
    "refuses": Cause("not supported"),
}


# ------------------------------------------------------------------------------------------------ comparison


def run_peer(peer: str, graph: nir.NIRGraph, spikes: NDArray[np.int64]) -> Rasters:
    """What each module of a reader returned, and the output of the model as ``z_output``; (steps, neurons).

    Raises what the reader raises.
    """
    import torch

    rasters: dict[str, list[Floats]] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, arguments, result: rasters.setdefault(name, []).append(_row(result))

    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        nir.write(Path(folder) / "graph.nir", graph)
        model = PEERS[peer](nir.read(Path(folder) / "graph.nir"))
        for name, module in model.named_modules():
            module.register_forward_hook(record(name))
        shape, state, out = graph.nodes["a_input"].input_type["input"], None, []
        for row in torch.as_tensor(spikes, dtype=torch.float32):
            result, state = model(row.reshape(1, *shape), state)
            out.append(_row(result))
    return {**{name: np.array(rows) for name, rows in rasters.items()}, "z_output": np.array(out)}


def _row(result: Any) -> Floats:
    while isinstance(result, tuple):
        result = result[0]
    return result.detach().numpy().reshape(-1).astype(np.float64)


def run_reference(flat: Net, spikes: NDArray[np.int64], output: str = "") -> Rasters:
    """Spikes of every spiking node, and the Output (or what ``output`` names instead) as ``z_output``."""
    steps = signals(flat, spikes)
    found = {name: name for name, node in flat.nodes.items() if is_spiking(node)} | {"z_output": output or "z_output"}
    return {name: np.array([step[source].reshape(-1) for step in steps]) for name, source in found.items()}


def differing(want: Rasters, got: Rasters) -> dict[str, int]:
    """Differing cells of every signal of the reference."""
    return {name: int((np.float32(got[name]) != np.float32(values)).sum()) for name, values in want.items()}


def compare(case: Case, peer: str) -> dict[str, int] | str:
    """Differing cells per node, or the error of the reader."""
    try:
        return differing(
            run_reference(inline(as_graph(case.graph)), case.spikes), run_peer(peer, case.graph, case.spikes)
        )
    except Exception as error:  # readers refuse with exceptions of all kinds
        return f"{type(error).__name__}: {error}".splitlines()[0]


def explained(case: Case, peer: str) -> dict[str, int]:
    """Differing cells per node that are left on what the cause says that the reader computes."""
    cause = CAUSES[case.causes[peer]]
    graph = cause.changed(case.graph)
    return differing(
        run_reference(cause.meant(as_graph(graph)), case.spikes, cause.output), run_peer(peer, graph, case.spikes)
    )


def default_neuron() -> list[str]:
    """Rows of a table: `snntorch.Leaky` as it is by default, against three NIR forms of it."""
    import snntorch
    import torch
    from snntorch.export_nir import export_to_nir

    weights, spikes = (
        np.random.default_rng(0).integers(-8, 16, (12, 10)) / 16,
        (np.random.default_rng(1).random((STEPS, 10)) < RATE).astype(np.int64),
    )
    net = torch.nn.Sequential(
        torch.nn.Linear(10, 12, bias=False),
        snntorch.Leaky(beta=torch.full((12,), 0.75), threshold=torch.ones(12), init_hidden=True),
    )
    net[0].weight.data = torch.tensor(weights, dtype=torch.float32)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        want = np.array([_row(net(row)) for row in torch.tensor(spikes, dtype=torch.float32)])
        exported = export_to_nir(net, torch.zeros(10))
        again, state, reread = load_snntorch(exported), None, []
        for row in torch.tensor(spikes, dtype=torch.float32):
            result, state = again(row, state)
            reread.append(_row(result))
    found = {
        "LI, Threshold and Scale of docs/semantics.md": run_reference(
            inline(network([weights], (0.75,), "subtract")), spikes, "output"
        )["z_output"],
        "`snntorch.export_nir`, in `float_reference`": run_reference(inline(as_graph(exported)), spikes, "output")[
            "z_output"
        ],
        "`snntorch.export_nir`, read by snnTorch": np.array(reread),
    }
    rows = [f"| {name} | {int(values.sum())} | {int((values != want).sum())} |" for name, values in found.items()]
    return [
        f"| {int(want.sum())} spikes of {want.size} in snnTorch | spikes | differing cells |",
        "|---|---|---|",
        *rows,
    ]


def main() -> None:
    """Run everything and write the tables."""
    logging.disable(logging.CRITICAL)
    head = [
        "# Float graphs in other readers (simulated)",
        "",
        "Written by `python benchmarks/peers.py`: norse 1.1.0 with dt = 1e-4 s, snnTorch 1.0.0.",
        "",
    ]
    rows = ["| graph | parameters | node | spikes | differing cells: norse | snnTorch |", "|---|---|---|---|---|---|"]
    why = [
        "| graph | parameters | reader | cause | experiment | differing cells | in the experiment |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases():
        want = run_reference(inline(as_graph(case.graph)), case.spikes)
        found = {peer: compare(case, peer) for peer in case.peers}
        kind = "dyadic" if case.dyadic else "float"
        for node, values in want.items():
            if node == "z_output" and all(
                isinstance(r, str) or r[node] in [cells for n, cells in r.items() if n != node] for r in found.values()
            ):
                continue  # it repeats the last node
            cells = {peer: "refused" if isinstance(r, str) else str(r[node]) for peer, r in found.items()}
            norse = cells.get("norse") or f"{cells['norse, no dt']} (dt not given)"
            rows.append(
                f"| {case.name} | {kind} | {node} | {int(values.sum())} of {values.size} | {norse} "
                f"| {cells.get('snnTorch', '')} |"
            )
        for peer, key in case.causes.items():
            result, text = found[peer], CAUSES[key].text
            if isinstance(result, str):
                why.append(f"| {case.name} | {kind} | {peer} | {text} | | `{result}` | |")
            else:
                before, after = (", ".join(f"{n} {c}" for n, c in r.items()) for r in (result, explained(case, peer)))
                why.append(
                    f"| {case.name} | {kind} | {peer} | {text} | {CAUSES[key].experiment} | {before} | {after} |"
                )
    lines = [
        *head,
        f"{STEPS} steps, {int(100 * RATE)} % input spikes.",
        "",
        *rows,
        "",
        "Every difference, and the experiment that shows its cause:",
        "",
        *why,
        "",
    ]
    lines += [
        "",
        "snnTorch's default neuron, which resets by subtraction one step late (its own export drops both):",
        "",
        *default_neuron(),
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
