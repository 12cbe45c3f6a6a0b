"""Bad files, graphs, tokens and backends: one project error that names what, where and what to do."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from nsllm_nir import exporters, from_nir, generate, graph, lower, verify
from nsllm_nir.errors import (
    BackendError,
    GraphError,
    InputError,
    IntegerOverflowError,
    LossyConversionError,
    ToolNotFoundError,
)
from nsllm_nir.graph import Graph, Node
from nsllm_nir.program import Delay, Program, Widths, reference
from nsllm_nir.program.trace import Trace

Export = Callable[..., Path]
Edit = Callable[..., None]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("read", [lower, from_nir])
def test_truncated_files(nir_file: Export, read: Callable[[Path], Any], part: float) -> None:
    path = nir_file()
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(
        GraphError,
        match=rf"^{path} is not a readable NIR file \(.*\); it may be truncated or corrupt, export it again$",
    ):
        read(path)


FLIPS = """
import sys
from pathlib import Path
import numpy as np
from nsllm_nir import lower
from nsllm_nir.errors import NsllmNirError

path, seed, many = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole, outcomes = path.read_bytes(), {"read": 0, "refused": 0}
for i in range(many):
    rng, data = np.random.default_rng([seed, i]), bytearray(whole)
    for position in rng.integers(0, len(data), 3):
        data[position] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    try:
        lower(path)
        outcomes["read"] += 1
    except NsllmNirError:
        outcomes["refused"] += 1
print(outcomes["read"], outcomes["refused"])
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_flipped_bytes_are_read_or_refused(nir_file: Export, seed: int) -> None:
    """In a process of its own, since a crash of the HDF5 library would end this one."""
    path = nir_file(vocab_size=12, hidden_size=8, intermediate_size=8)
    command = [sys.executable, "-c", FLIPS, str(path), str(seed), "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read + refused == 100 and refused >= 10


def test_an_array_that_became_unreadable_after_opening_is_named(nir_file: Export) -> None:
    path = nir_file()
    lazy = graph.read(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(
        GraphError,
        match=(
            rf"^{path}: /node/nodes/\S+ is not readable \(.*\); the file may be truncated or corrupt, export it "
            r"again$"
        ),
    ):
        lower(lazy)


def test_a_claimed_size_beyond_the_file_is_not_allocated(nir_file: Export) -> None:
    path = nir_file()
    with h5py.File(path, "r+") as file:
        group = file["node/nodes/head"]
        del group["weight"]
        group.create_dataset("weight", (1, 1 << 20, 1 << 20), "i1", chunks=(1, 1024, 1024))
    with pytest.raises(
        GraphError,
        match=r"/node/nodes/head/weight claims 1,099,511,627,776 bytes, more than this file can hold; it is corrupt",
    ):
        lower(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.nir"
    with pytest.raises(GraphError, match=rf"^{path}: no such file$"):
        lower(path)
    with pytest.raises(GraphError, match=rf"^{tmp_path} is a folder, not a NIR file$"):
        lower(tmp_path)
    for content in (b"", b"weights: 3\n" * 100, b"PK\x03\x04" + bytes(500)):
        path.write_bytes(content)
        with pytest.raises(GraphError, match=rf"^{path} is not a readable NIR file"):
            lower(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(GraphError, match=rf"^{path} is an HDF5 file but not a NIR file \(it has no group 'node'\)$"):
        lower(path)
    with h5py.File(path, "w") as file:
        file["node"] = np.zeros(3)
    with pytest.raises(GraphError, match=rf"^{path} is not a readable NIR file"):
        lower(path)


@pytest.mark.parametrize(
    ("dataset", "value", "message"),
    [
        (
            "head/type",
            "Attention",
            r"^graph\.head: node type 'Attention' is not supported; supported are Affine, .* and NIRGraph$",
        ),
        ("layer_000.mixer/nodes/up/type", "ALIF", r"^graph\.layer_000\.mixer\.up: node type 'ALIF' is not supported"),
        ("head/bias", None, r"^graph\.head: the Affine node lacks the parameter 'bias'$"),
        ("head/type", None, r"is not a readable NIR file \(.*type"),
        ("head/type", np.zeros(3), r"type"),
        ("head/weight", "text", r"^head: the parameter 'weight' holds text, expected numbers$"),
        (
            "../edges",
            [("input", "ghost")],
            r"^graph: the edge 'input' -> 'ghost' names a node 'ghost' that does not exist$",
        ),
        (
            "../edges",
            [("input", "embedding"), ("input", "embedding")],
            r"^graph: the edge \('input', 'embedding'\) is listed twice$",
        ),
        ("../edges", [("a", "b", "c")], r"is not a readable NIR file"),
        ("../type", "Sequence", r"^graph: expected a NIRGraph, found 'Sequence'$"),
    ],
)
def test_structures_that_are_no_graph(nir_file: Export, dataset: str, value: Any, message: str) -> None:
    path = nir_file()
    with h5py.File(path, "r+") as file:
        group, name = file["node/nodes"], dataset
        if dataset.startswith("../"):
            group, name = file["node"], dataset[3:]
        del group[name]
        if isinstance(value, str | list):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        elif value is not None:
            group.create_dataset(name, data=value)
    with pytest.raises(GraphError, match=message):
        lower(path)


NUMBERS: dict[str, tuple[str, np.ndarray, str]] = {
    "nan weight": (
        "head/weight",
        np.full((1, 24, 16), np.nan, np.float32),
        r"^head: the weight holds NaN or infinity$",
    ),
    "weight of 300": (
        "head/weight",
        np.full((1, 24, 16), 300, np.int16),
        r"^head: the weight is in \[300, 300\], allowed is \[-128, 127\]$",
    ),
    "half a weight": (
        "head/weight",
        np.full((1, 24, 16), 0.5, np.float32),
        r"^head: the weight is not integer \(first value 0\.5\); quantize the graph first$",
    ),
    "complex weight": (
        "head/weight",
        np.zeros((1, 24, 16), np.complex64),
        r"holds complex64, expected numbers or text",
    ),
    "inputs": (
        "head/weight",
        np.zeros((1, 24, 15), np.int8),
        r"^head: the weight \(1, 24, 15\) does not fit an input of shape \(1, 16\)$",
    ),
    "vector": (
        "head/weight",
        np.zeros(16, np.int8),
        r"^head: the weight has shape \(16,\), expected \(outputs, inputs\)$",
    ),
    "scalar": ("head/weight", np.array(3, np.int8), r"^head: the weight has shape \(\), expected \(outputs, inputs\)$"),
    "batch": (
        "head/weight",
        np.zeros((2, 24, 16), np.int8),
        r"^head: batched weights \(2, 24, 16\) are not supported; use one matrix per node$",
    ),
    "empty": ("head/weight", np.zeros((1, 0, 16), np.int8), r"'?head'?: .*"),
    "bias": (
        "head/bias",
        np.zeros((1, 23), np.int32),
        r"^Linear 'head': weight \(24, 16\), bias \(23,\)|^Linear 'head': .*do not fit",
    ),
    "half a bias": ("head/bias", np.full((1, 24), 0.5), r"^head: the bias is not integer \(first value 0\.5\)"),
    "gain of 300,000": (
        "head.scale/scale",
        np.full((1, 24), 300_000.0),
        r"^head\.scale: the gain is in \[300000\.0, .*allowed is \[-131071, 131071\]$",
    ),
    "gain of a half": (
        "head.scale/scale",
        np.full((1, 24), 0.5),
        r"^head\.scale: the gain is not integer \(first value 0\.5\); quantize the graph first$",
    ),
    "nan gain": ("head.scale/scale", np.full((1, 24), np.nan), r"^head\.scale: the gain holds NaN or infinity$"),
    "gain of -200,000": (
        "head.scale/scale",
        np.full((1, 24), -200_000.0),
        r"^head\.scale: the gain is in \[-200000\.0, .*allowed is \[-131071, 131071\]$",
    ),
    "gain of 2**40": (
        "head.scale/scale",
        np.full((1, 24), 2.0**40),
        r"^Linear 'head': shifts must be in \[0, 31\], found \[40, 40\]$",
    ),
    "gain shape": (
        "head.scale/scale",
        np.ones((1, 23)),
        r"^head\.scale: its scale has the shape \(1, 23\), its input \(1, 24\); give one",
    ),
    "nan weight in a block": (
        "layer_000.mixer/nodes/up/weight",
        np.full((1, 24, 16), np.nan, np.float32),
        r"^layer_000\.mixer: .*up\.weight, which must hold int8 integers$",
    ),
    "weight of 300 in a block": (
        "layer_000.mixer/nodes/up/weight",
        np.full((1, 24, 16), 300, np.int16),
        r"^layer_000\.mixer: .*up\.weight, which must hold int8 integers$",
    ),
    "half a weight in a block": (
        "layer_000.mixer/nodes/up/weight",
        np.full((1, 24, 16), 0.5, np.float32),
        r"^layer_000\.mixer: .*up\.weight, which must hold int8 integers$",
    ),
    "inputs of a block": (
        "layer_000.mixer/nodes/up/weight",
        np.zeros((1, 24, 15), np.int8),
        r"^Linear 'layer_000\.mixer\.up': weight \(24, 15\).* do not fit a source of 16 neurons$",
    ),
    "gain in a block": (
        "layer_000.mixer/nodes/down.scale/scale",
        np.full((1, 16), 3.0),
        r"^layer_000\.mixer: .*down\.scale\.scale, whose gains must be powers of two in 2\*\*0\.\.2\*\*31$",
    ),
    "nan threshold": (
        "final/nodes/spikes.lines/threshold",
        np.full((16, 16), np.nan, np.float32),
        r"^final\.spikes\.lines: its metadata says spike_count, but the parameter 'threshold'",
    ),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_no_program_holds(nir_file: Export, case: str) -> None:
    path, (dataset, value, message) = nir_file(), NUMBERS[case]
    with h5py.File(path, "r+") as file:
        group = file["node/nodes"]
        del group[dataset]
        group[dataset] = value
    with pytest.raises(GraphError, match=message):
        lower(path)
    with pytest.raises(GraphError):
        from_nir(path)


def chain(*nodes: tuple[str, Node | Graph], edges: tuple[tuple[str, str], ...] = ()) -> Graph:
    """input -> nodes in their order -> output, both of two neurons, and more edges."""
    names = ["input", *(name for name, _ in nodes), "output"]
    shape = {"shape": np.array([2])}
    return Graph(
        {"input": Node("Input", shape), **dict(nodes), "output": Node("Output", shape)},
        (*itertools.pairwise(names), *edges),
    )


EYE = Node("Linear", {"weight": np.eye(2, dtype=np.int8)})


def threshold(value: float) -> Node:
    return Node("Threshold", {"threshold": np.full(2, value)})


def li(tau: np.ndarray, r: np.ndarray) -> Node:
    return Node("LI", {"tau": tau, "r": r, "v_leak": np.zeros(2)})


def conv(**changes: Any) -> Node:
    parameters = {
        "input_shape": 2,
        "weight": np.ones((1, 1, 1), np.int8),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": np.zeros(1, np.int8),
    }
    return Node("Conv1d", {**parameters, **changes})


SUB = Graph(
    {"in": Node("Input", {"shape": np.array([2])}), "x": EYE, "out": Node("Output", {"shape": np.array([2])})},
    (("in", "x"), ("x", "out")),
)
GRAPHS: dict[str, tuple[Graph, str]] = {
    "cycle without spikes": (
        chain(("a", EYE), ("b", EYE), edges=(("b", "a"),)),
        r"^the graph: the cycle through a, b, output has no spiking node that could delay it$",
    ),
    "no source": (
        replace(chain(("a", EYE)), edges=(("a", "output"),)),
        r"^a: the node has no input; connect or delete it$",
    ),
    "no output": (Graph({"input": Node("Input", {"shape": np.array([2])})}, ()), r"(no|lacks an|one) Output"),
    "no node": (Graph({}, ()), r"(no|lacks an|one) (In|Out)put"),
    "two outputs of a subgraph": (
        chain(
            (
                "s",
                replace(
                    SUB,
                    nodes={**SUB.nodes, "more": Node("Output", {"shape": np.array([2])})},
                    edges=(*SUB.edges, ("in", "more")),
                ),
            )
        ),
        r"^s: .*one Output",
    ),
    "subgraph without output": (chain(("s", Graph({"in": SUB.nodes["in"]}, ()))), r"^s: .*one Output"),
    "edge into an input": (
        chain(("a", threshold(0.5)), edges=(("a", "input"),)),
        r"^input: an Input node reads nothing",
    ),
    "threshold of 2**40": (chain(("a", threshold(2.0**40))), r"^a: the threshold"),
    "threshold of -2**40": (chain(("a", threshold(-(2.0**40)))), r"^a: the threshold"),
    "infinite threshold": (chain(("a", threshold(np.inf))), r"^a: the threshold holds NaN or infinity$"),
    "tau of an LI": (
        chain(("a", li(np.full(2, 3e-4), np.full(2, 3.0)))),
        r"^a: 4096 dt / tau is not integer .*quantize the graph first$",
    ),
    "shapes of an LI": (
        chain(("a", li(np.full(2, 2e-4), np.full(3, 2.0)))),
        r"^a: its r has the shape \(3,\), its input \(2,\); give one value per neuron, or one for all$",
    ),
    "tau of a LIF": (
        chain(
            (
                "a",
                Node(
                    "LIF", {"tau": np.full(2, 3e-4), "r": np.ones(2), "v_leak": np.zeros(2), "v_threshold": np.ones(2)}
                ),
            )
        ),
        r"^a: 4096 dt / tau is not integer .*quantize the graph first$",
    ),
    "half a delay": (
        chain(("a", Node("Delay", {"delay": np.full(2, 1.5e-4)}))),
        r"^a: the delay in steps of 1e-4 s is not integer",
    ),
    "negative delay": (
        chain(("a", Node("Delay", {"delay": np.full(2, -1e-4)}))),
        r"^a: the delay in steps of 1e-4 s is in \[-1\.0, -1\.0\], allowed is \[0, 1048576\]$",
    ),
    "kernel of 3": (
        chain(("a", conv(weight=np.ones((1, 1, 3), np.int8)))),
        r"^Conv2d 'a': .*output \(1, 1, 0\) does not fit weight \(1, 1, 1, 3\)$",
    ),
    "padding by name": (
        chain(("a", conv(padding="full"))),
        r"^a: padding must be a number, 'valid' or 'same', got 'full'$",
    ),
    "kernel without axes": (
        chain(("a", conv(weight=np.ones(1, np.int8)))),
        r"^a: the parameters of this Conv1d do not fit each other",
    ),
    "huge convolution": (
        chain(("a", conv(input_shape=1 << 20))),
        r"^a: weight \(1, 1, 1, 1\) or .*input \(1, 1048576\) is out of range$",
    ),
    "text for numbers": (chain(("a", Node("Threshold", {"threshold": "high"}))), r"^a: "),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_are_no_program(case: str) -> None:
    found, message = GRAPHS[case]
    with pytest.raises(GraphError, match=message):
        lower(found)


def test_a_gain_behind_a_subgraph_does_not_scale_other_readers() -> None:
    """The shift of a Scale moves into a Linear only where nothing else reads that Linear, in a subgraph neither."""
    passing = Graph({"in": SUB.nodes["in"], "out": SUB.nodes["out"]}, (("in", "out"),))
    double = Node("Scale", {"scale": np.full(2, 2.0)})
    nodes: dict[str, Node | Graph] = {**chain(("a", EYE)).nodes, "b": passing, "c": double, "d": EYE}
    edges = (("input", "a"), ("a", "b"), ("b", "c"), ("a", "d"), ("c", "output"), ("d", "output"))
    program = lower(Graph(nodes, edges))
    assert reference.run(program, np.array([[1, 0]])).values[program.outputs[0]].tolist() == [[3, 0]]


@pytest.mark.parametrize("steps", [1, 7, 11, 100, 1000])
def test_delays_in_float32_seconds_are_read(steps: int) -> None:
    for seconds in (np.float32(1e-4) * np.float32(steps), np.float32(1e-4 * steps)):
        program = lower(chain(("a", Node("Delay", {"delay": np.full(2, seconds, np.float32)}))))
        delay = program.ops[-1]
        assert isinstance(delay, Delay) and delay.steps.tolist() == [steps, steps]


def test_nir_objects_of_unknown_type_are_refused() -> None:
    class Sigma(nir.Threshold):
        """A node type of somebody's own."""

    stock = nir.NIRGraph.from_list(Sigma(np.ones(2)))
    with pytest.raises(GraphError, match=r"^graph\.\w+: node type 'Sigma' is not supported; supported are"):
        lower(stock)


def test_an_overflow_prone_file_is_refused(nir_file: Export, random_program: Callable[..., Program]) -> None:
    with pytest.raises(
        IntegerOverflowError,
        match=(
            r"^Integrate 'layer_000\.attention\.numerator', neuron 0: the worst case \[0, \d+\] needs \d+ bits, "
            r"14 are declared"
        ),
    ):
        lower(nir_file(), widths=Widths(potential=14))


@pytest.mark.parametrize(
    "action", [lambda p, t: verify(p, t, ["reference"]), lambda p, t: generate_from(p, t)], ids=["verify", "generate"]
)
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([3, 16], r"^token 16 at position 1 is outside the vocabulary \[0, 15\]$"),
        ([-1], r"^token -1 at position 0 is outside the vocabulary \[0, 15\]$"),
        ([], r"^there are no tokens to run; give a prompt of at least one token$"),
        ([1.0, 2.0], r"^token ids must be integers"),
    ],
    ids=["large", "negative", "empty", "floats"],
)
def test_tokens(
    random_program: Callable[..., Program], action: Callable[[Program, list], Any], tokens: list, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        action(random_program(0), tokens)


def generate_from(program: Program, prompt: list) -> list[int]:
    with exporters.load("reference").compile(program).open() as session:
        return generate(session, program, prompt, 2)


def test_unknown_backends_are_named_before_anything_runs(
    random_program: Callable[..., Program], tokens: np.ndarray
) -> None:
    seen: list[str] = []
    with pytest.raises(
        BackendError,
        match=f"^no backend is named 'loihi3'; registered are {', '.join(exporters.names())}$",
    ):
        verify(random_program(0), tokens, ["reference", "loihi3"], progress=seen.append)
    assert seen == []


@dataclass
class Broken:
    """A backend whose trace is changed by ``change``."""

    change: Callable[[Trace], Any]
    name: str = "broken"

    def version(self) -> str:
        return "1"

    def compile(self, program: Program) -> Any:
        change = self.change

        class Executable:
            def run(self, inputs: np.ndarray) -> Any:
                return change(reference.run(program, inputs))

        return Executable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: Trace({n: v[:-1] for n, v in t.values.items()}),
            r"^BackendError: node 'input': the backend returned shape \(47, 16\), the reference has \(48, 16\)$",
        ),
        (
            lambda t: Trace({n: v for n, v in t.values.items() if n != "logits"}),
            r"^BackendError: the backend returned no trace for node 'logits'$",
        ),
        (lambda t: Trace({}), r"^BackendError: the backend returned no trace for node 'input'$"),
    ],
    ids=["short", "missing", "empty"],
)
def test_backends_that_return_too_little(
    monkeypatch: pytest.MonkeyPatch,
    random_program: Callable[..., Program],
    tokens: np.ndarray,
    change: Any,
    message: str,
) -> None:
    load = exporters.load
    monkeypatch.setattr(exporters, "load", lambda name: Broken(change) if name == "broken" else load(name))
    report = verify(random_program(0), tokens, ["broken", "reference"])
    broken, other = report.results
    assert not report.exact and not broken.exact and other.exact
    assert re.search(message, broken.error)


def test_a_missing_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch, random_program: Callable[..., Program], tokens: np.ndarray
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(
        ToolNotFoundError,
        match=r"^the snntorch backend needs the package 'snntorch'; install it with: pip install 'nsllm-nir\[torch\]'$",
    ):
        exporters.load("snntorch").version()
    report = verify(random_program(0), tokens, ["snntorch"])
    assert not report.exact and report.results[0].error.startswith(
        "ToolNotFoundError: the snntorch backend needs the package"
    )


def test_the_model_backend_needs_a_file_and_tokens(nir_file: Export, random_program: Callable[..., Program]) -> None:
    backend = exporters.load("snntorch")
    with pytest.raises(
        LossyConversionError,
        match=r"^the snntorch backend rebuilds language models .* comes from no such file; use another backend$",
    ):
        backend.compile(random_program(0))
    executable = backend.compile(lower(nir_file()))
    spikes = reference.one_hot([1, 2], 24)
    spikes[0, 5] = 1
    with pytest.raises(InputError, match=r"^a language model reads exactly one token spike per step"):
        executable.run(spikes)
