"""What runs where.

A small graph of every NIR node, in each of its forms, on every backend, compared with the reference.

``python -m nsllm_nir.verification.support_matrix [PAGE.md]`` prints the table, or replaces the one between the markers
of a page.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir import exporters
from nsllm_nir.errors import (
    BackendError,
    GraphError,
    InputError,
    IntegerOverflowError,
    LossyConversionError,
    NsllmNirError,
)
from nsllm_nir.graph import DT, NODE_KINDS, Graph, Node, write
from nsllm_nir.lowering.node_rules import RULES
from nsllm_nir.program import Program
from nsllm_nir.verification import nir_nodes
from nsllm_nir.verification.nir_nodes import Floats, cuba_li, full, integrate_and_fire, li, pool
from nsllm_nir.verification.prepare import prepare
from nsllm_nir.verification.verify import token_spikes, verify

STEPS = 24
VOCABULARY = 16  # of the language model; no other probe has as many inputs
RUNS_AT_ONCE = 2  # most of a run is the start of a Lava process
BEGIN, END = (
    "<!-- support matrix: python -m nsllm_nir.verification.support_matrix docs/nir_files.md -->",
    "<!-- end of the support matrix -->",
)
REFUSALS = (GraphError, InputError, IntegerOverflowError, LossyConversionError)  # of a graph; others are faults
Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Row:
    """One form of a node.

    numbers: "as they are", "quantized", or "" where the graph itself is refused; refused: {backend: reason}, "" where
    it is exact.
    """

    node: str
    form: str
    numbers: str
    refused: dict[str, str]


def weights(*shape: int, unit: float = 1.0) -> Floats:
    """Integers times ``unit``; more excitation than inhibition."""
    return unit * np.random.default_rng(sum(shape)).integers(-60, 100, shape).astype(np.float64)


def linear(outputs: int, inputs: int, unit: float = 1.0) -> nir.Linear:
    """Random integer weights times ``unit``."""
    return nir.Linear(weights(outputs, inputs, unit=unit))


def conv2d(
    channels: int, outputs: int, unit: float = 1.0, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> nir.Conv2d:
    """A 3x3 convolution of 7x7 images, random integer weights times ``unit``."""
    return nir.Conv2d(
        (7, 7), weights(outputs, channels, 3, 3, unit=unit), stride, padding, dilation, 1, unit * np.arange(outputs)
    )


def lif(
    size: int | tuple[int, ...], threshold: float = 150.0, *, tau: float = 8.0, leak: float = 0.0, reset: float = 0.0
) -> nir.LIF:
    """tau in steps; r = tau / dt, so that the input enters with gain 1."""
    return nir_nodes.lif(size, tau, threshold, leak=leak, reset=reset)


def cuba(size: int, threshold: float, synapse: float, membrane: float, leak: float = 0.0) -> nir.CubaLIF:
    """Time constants in steps."""
    return nir_nodes.cuba(size, synapse, membrane, threshold, leak=leak)


def chain(size: int | tuple[int, ...], *nodes: nir.NIRNode) -> Writer:
    """An Input of ``size``, the nodes one after the other, an Output."""
    graph = nir.NIRGraph.from_list(nir.Input(np.array(size).reshape(-1)), *nodes)
    return lambda path: nir.write(path, graph)


def wired(nodes: dict[str, nir.NIRNode], *edges: str) -> Writer:
    """Nodes by name and edges "from to"; six inputs ``in`` and five outputs ``out`` unless ``nodes`` says otherwise."""
    ports = {"in": nir.Input(np.array([6])), "out": nir.Output(np.array([5]))}
    return lambda path: nir.write(path, nir.NIRGraph({**ports, **nodes}, [tuple(edge.split()) for edge in edges]))


def leaky(reset: str, delay: bool) -> Writer:
    """Two layers of snnTorch's Leaky, as `to_nir` writes them."""

    def write(path: Path) -> None:
        import snntorch
        import torch

        from nsllm_nir.language_model.nir_export import to_nir

        layers: list[torch.nn.Module] = []
        for inputs, outputs in ((6, 8), (8, 5)):
            layer = torch.nn.Linear(inputs, outputs, bias=False)
            layer.weight.data = torch.from_numpy(weights(outputs, inputs, unit=UNIT)).float()
            layers += [layer, snntorch.Leaky(beta=0.8, reset_mechanism=reset, reset_delay=delay, init_hidden=True)]
        to_nir(torch.nn.Sequential(*layers), path, input_shape=(6,))

    return write


def language_model(path: Path) -> None:
    """A tiny model of this project; it reads one token per step."""
    import torch

    from nsllm_nir.language_model.configuration import NSLLMConfig
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM
    from nsllm_nir.language_model.nir_export import to_nir

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NSLLMForCausalLM(NSLLMConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1))
    to_nir(model.eval(), path)  # type: ignore[no-untyped-call] # of transformers


UNIT = 1 / 97.3  # makes floats of integers
LIF = (linear(5, 6), lif(5))
BLOCK = nir.NIRGraph.from_list(nir.Input(np.array([5])), linear(5, 5), lif(5))


def example(kind: str) -> Writer:
    """The example of a node type between an Input and an Output."""
    found = NODE_KINDS[kind].example
    shape = {"shape": np.array(found.shape)}
    nodes: dict[str, Node | Graph] = {
        "input": Node("Input", shape),
        "node": Node(kind, found.parameters),
        "output": Node("Output", shape),
    }
    return lambda path: write(path, Graph(nodes, (("input", "node"), ("node", "output"))))


# Node types, then what concerns the graph; each form is a graph as small as the statement allows.
FORMS: dict[str, dict[str, Writer]] = {
    "Affine": {
        "integers": chain(6, nir.Affine(weights(5, 6), np.arange(5.0)), lif(5)),
        "floats": chain(6, nir.Affine(weights(5, 6, unit=UNIT), UNIT * np.arange(5)), lif(5, 1.3)),
    },
    "AvgPool2d": {
        "behind spikes": chain((2, 6, 6), lif((2, 6, 6), 0.5, tau=1), pool(nir.AvgPool2d), lif((2, 3, 3), 0.6))
    },
    "Conv1d": {
        "integers": chain((2, 9), nir.Conv1d(9, weights(3, 2, 3), 1, 0, 1, 1, np.arange(3.0)), lif((3, 7))),
        "floats": chain(
            (2, 9), nir.Conv1d(9, weights(3, 2, 3, unit=UNIT), 1, 0, 1, 1, UNIT * np.arange(3)), lif((3, 7), 1.3)
        ),
    },
    "Conv2d": {
        "integers": chain((2, 7, 7), conv2d(2, 3), lif((3, 5, 5))),
        "floats": chain((2, 7, 7), conv2d(2, 3, UNIT), lif((3, 5, 5), 1.3)),
        "stride, padding": chain((2, 7, 7), conv2d(2, 3, stride=2, padding=1), lif((3, 4, 4))),
        "dilation": chain((2, 7, 7), conv2d(2, 3, dilation=2), lif((3, 3, 3))),
    },
    "CubaLI": {
        "integers, read by an Output": chain(6, linear(5, 6), cuba_li(5, 4, 16)),
        "floats, read by an Output": chain(6, linear(5, 6, UNIT), cuba_li(5, 3.7, 9.1)),
    },
    "CubaLIF": {
        "integers": chain(6, linear(5, 6), cuba(5, 400, 4, 16)),
        "floats": chain(6, linear(5, 6, UNIT), cuba(5, 3.1, 3.7, 9.1)),
        "floats, v_leak not 0": chain(6, linear(5, 6, UNIT), cuba(5, 3.1, 3.7, 9.1, leak=0.4)),
    },
    "Delay": {
        "whole steps, before weights": chain(6, nir.Delay(DT * np.array([0, 1, 2, 3, 0, 5.0])), linear(5, 6), lif(5)),
        "half a step": chain(6, nir.Delay(full(6, 0.5 * DT)), linear(5, 6), lif(5)),
    },
    "Flatten": {
        "after a convolution": chain(
            (2, 7, 7), conv2d(2, 3), nir.Flatten({"input": np.array([3, 5, 5])}, 0, -1), lif(75)
        )
    },
    "I": {
        "integers, read by an Output": chain(6, linear(5, 6), nir.I(full(5, 1 / DT))),
        "read by a Threshold": chain(6, linear(5, 6), nir.I(full(5, 1 / DT)), nir.Threshold(full(5, 400.5))),
    },
    "IF": {
        "integers": chain(6, linear(5, 6), integrate_and_fire(5, 200)),
        "floats": chain(6, linear(5, 6, UNIT), integrate_and_fire(5, 2.3)),
    },
    "LI": {
        "tau = 2^k dt, read by an Output": chain(6, linear(5, 6), li(5, 8)),
        "other tau, read by an Output": chain(6, linear(5, 6, UNIT), li(5, 7.3)),
        "tau = 2^k dt, read by a Threshold": chain(6, linear(5, 6), li(5, 8), nir.Threshold(full(5, 400.5))),
        "other tau, read by weights": chain(6, linear(5, 6, UNIT), li(5, 7.3), linear(4, 5, UNIT), lif(4, 1.3)),
    },
    "LIF": {
        "integers": chain(6, *LIF),
        "floats": chain(6, linear(5, 6, UNIT), lif(5, 1.3, tau=7.3)),
        "tau = dt: no memory": chain(6, linear(5, 6), lif(5, 50, tau=1)),
        "floats, v_leak not 0": chain(6, linear(5, 6, UNIT), lif(5, 1.3, tau=7.3, leak=0.7)),
        "v_reset not 0": chain(6, linear(5, 6, UNIT), lif(5, 1.3, tau=7.3, reset=0.2)),
        "tau below dt": chain(6, linear(5, 6, UNIT), lif(5, 1.3, tau=0.5)),
        "v_threshold below 0": chain(6, linear(5, 6, UNIT), lif(5, -0.3)),
    },
    "Linear": {
        "integers": chain(6, *LIF),
        "floats": chain(6, linear(5, 6, UNIT), lif(5, 1.3)),
        "read by an Output": chain(6, linear(5, 6)),
    },
    "Scale": {
        "powers of two": chain(6, linear(5, 6), nir.Scale(np.array([1, 2, 4, 1, 2.0])), lif(5)),
        "integers": chain(6, nir.Scale(np.array([3, -5, 7, 1, 0, 2.0])), lif(6, 9)),
        "floats": chain(6, linear(5, 6), nir.Scale(np.array([0.3, 1.7, 2, -0.8, 1.1])), lif(5)),
    },
    "SumPool2d": {
        "behind spikes": chain((2, 6, 6), lif((2, 6, 6), 0.5, tau=1), pool(nir.SumPool2d), lif((2, 3, 3), 3))
    },
    "Threshold": {
        "integers and halves": chain(6, linear(5, 6), nir.Threshold(np.array([-3.0, 0.0, 10.5, 40.0, 99.0]))),
        "floats": chain(6, linear(5, 6, UNIT), nir.Threshold(full(5, 0.77))),
    },
    "Input, Output": {
        "two Outputs": wired(
            {"w": linear(5, 6), "n": lif(5), "v": linear(5, 5), "out2": nir.Output(np.array([5]))},
            "in w",
            "w n",
            "n out",
            "n v",
            "v out2",
        ),
        "two Inputs": wired(
            {"in2": nir.Input(np.array([6])), "w": linear(5, 6), "v": linear(5, 6), "n": lif(5)},
            "in w",
            "in2 v",
            "w n",
            "v n",
            "n out",
        ),
    },
    "NIRGraph": {
        "subgraph": wired({"w": linear(5, 6), "n": lif(5), "block": BLOCK}, "in w", "w n", "n block", "block out"),
        "blocks of a spiking language model": language_model,
    },
    "fan-in": {
        "two branches": wired(
            {"a": linear(5, 6), "b": linear(5, 6), "n": lif(5)}, "in a", "in b", "a n", "b n", "n out"
        )
    },
    "cycle": {
        "neuron, Linear, same neuron": wired(
            {"w": linear(5, 6), "n": lif(5), "rec": linear(5, 5)}, "in w", "w n", "n rec", "rec n", "n out"
        ),
        "neuron to itself, no weights": wired(
            {"w": linear(5, 6, UNIT), "n": lif(5, 1.3)}, "in w", "w n", "n n", "n out"
        ),
        "through two neurons": wired(
            {"w": linear(5, 6), "n": lif(5), "v": linear(5, 5), "m": lif(5), "rec": linear(5, 5)},
            "in w",
            "w n",
            "n v",
            "v m",
            "m rec",
            "rec n",
            "m out",
        ),
        "with a Delay node": wired(
            {"w": linear(5, 6), "n": lif(5), "late": nir.Delay(full(5, 2 * DT)), "rec": linear(5, 5)},
            "in w",
            "w n",
            "n late",
            "late rec",
            "rec n",
            "n out",
        ),
        "through a subgraph": wired(
            {"w": linear(5, 6), "n": lif(5), "block": BLOCK}, "in w", "w n", "n block", "block n", "n out"
        ),
        "without a spiking node": wired(
            {"w": linear(5, 6), "v": linear(5, 5), "n": lif(5)}, "in w", "w v", "v v", "v n", "n out"
        ),
    },
    "reset, snnTorch": {
        "to zero, in the step of the spike": leaky("zero", False),
        "to zero, a step late": leaky("zero", True),
        "by subtraction, in the step of the spike": leaky("subtract", False),
        "by subtraction, a step late (default)": leaky("subtract", True),
        "none": leaky("none", True),
    },
}
# A node type without forms of its own is shown by its example.
PROBES = FORMS | {kind: {"example": example(kind)} for kind in NODE_KINDS if kind in RULES and kind not in FORMS}


def matrix(backends: Iterable[str]) -> list[Row]:
    """Every form of every node of `RULES` and of the graph, on every backend.

    Raises:
        ToolNotFoundError: a backend does not run here.
        BackendError: a backend failed, or differs from the reference.
        GraphError: a node type has no probe, or a probe always gives the same.
    """
    names = list(backends)
    for name in names:
        exporters.load(name).version()
    if missing := set(RULES) - set(PROBES):
        raise GraphError(
            f"no probe for {', '.join(sorted(missing))}; add one to nsllm_nir/verification/support_matrix.py"
        )
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        runs: list[Future[Row]] = []
        for node, forms in PROBES.items():
            for form, writer in forms.items():
                path = _written(writer, Path(folder) / f"{len(runs)}.nir")
                runs.append(pool.submit(_row, node, form, path, names))
        return [run.result() for run in runs]


def _written(writer: Writer, path: Path) -> Path | NsllmNirError:
    """The file, or why there is none."""
    try:
        writer(path)
    except NsllmNirError as error:
        return error
    return path


def _row(node: str, form: str, path: Path | NsllmNirError, backends: list[str]) -> Row:
    if isinstance(path, NsllmNirError):
        return Row(node, form, "", dict.fromkeys(backends, str(path)))
    try:
        prepared = prepare(path)
        report = verify(prepared, _inputs(prepared.program), backends)
    except NsllmNirError as error:
        return Row(node, form, "", dict.fromkeys(backends, str(error)))
    values = report.reference.values[report.program.outputs[-1]]
    if values.min() == values.max():
        raise GraphError(f"{node}, {form}: the probe always gives {values.min()}, which proves nothing")
    for result in report.results:
        if not result.exact and not isinstance(result.failure, REFUSALS):
            raise BackendError(f"{node}, {form}, {result.backend}: {result.error or result.first}") from result.failure
    refused = {result.backend: str(result.failure or "") for result in report.results}
    return Row(node, form, "quantized" if prepared.quantization else "as they are", refused)


def _inputs(program: Program) -> NDArray[np.int64]:
    """Random spikes; random tokens for a language model, which reads one at a time."""
    rng, size = np.random.default_rng(1), program.inputs[0].size
    return (
        token_spikes(program, rng.integers(0, size, STEPS))
        if size == VOCABULARY
        else (rng.random((STEPS, size)) < 0.4).astype(np.int64)
    )


def markdown(rows: list[Row]) -> str:
    """The table, and below it the reasons of the refusals, numbered in the order of the table."""
    backends = list(rows[0].refused)
    reasons: dict[str, int] = {}
    lines = [
        f"| node | form | numbers | {' | '.join(f'`{name}`' for name in backends)} |",
        "|---|---|---|" + "---|" * len(backends),
    ]
    for row in rows:
        cells = [
            f"refused ({reasons.setdefault(why, len(reasons) + 1)})" if why else "exact" for why in row.refused.values()
        ]
        lines.append(f"| {row.node} | {row.form} | {row.numbers} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {why}" for why, number in reasons.items())])


def replaced(page: str, table: str) -> str:
    """``page`` with ``table`` between its markers; raises InputError where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def main() -> None:
    """Print the table, or put it into the page that the first argument names."""
    table = markdown(matrix(name for name in exporters.names() if name != "reference"))
    if len(sys.argv) == 1:
        print(table)
        return
    page = Path(sys.argv[1])
    page.write_text(replaced(page.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
