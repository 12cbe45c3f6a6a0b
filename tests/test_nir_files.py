"""NIR files: equal bytes, stock readers, redundant metadata, round trips, laziness, and files that stay whole."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch

from nsllm_nir import NSLLMForCausalLM, from_nir, graph, lower, to_nir
from nsllm_nir.errors import GraphError, LossyConversionError
from nsllm_nir.graph import Graph, LazyArray, Node
from nsllm_nir.program import Program, reference

Model = Callable[..., NSLLMForCausalLM]
Export = Callable[..., Path]
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "binary pooled": {"coding": "binary", "normalisation": "pooled"},
    "ternary pooled": {"normalisation": "pooled", "levels": 2},
    "no denominator": {"denominator": False, "weight_bits": 2},
    "two layers": {"num_hidden_layers": 2, "levels": [1, 3], "weight_bits": 4},
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
TOKENS = np.random.default_rng(5).integers(0, 24, 40)


def values(program: Program) -> dict[str, list[np.ndarray]]:
    """Every signal at every token."""
    state, name = reference.State(), program.inputs[0].name
    steps = [reference.step(program, state, {name: row}) for row in reference.one_hot(TOKENS, 24)]
    return {signal: [x[signal] for x in steps] for signal in steps[0]}


def output(program: Program) -> list[list[int]]:
    return np.array(values(program)[program.outputs[0]]).tolist()


def test_equal_models_give_equal_bytes_in_every_process(tiny_model: Model, tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=2)
    here = to_nir(model, tmp_path / "here.nir").read_bytes()
    model.save_pretrained(tmp_path / "model")
    code = "import sys; from nsllm_nir import *; to_nir(NSLLMForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])"
    other = tmp_path / "other.nir"
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model", other],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
    )
    assert other.read_bytes() == here
    with torch.no_grad():
        model.head.weight[0, 0] += 1
    assert to_nir(model, other).read_bytes() != here


@every_config
def test_stock_nir_reads_the_file_with_type_checks(nir_file: Export, config: dict[str, Any]) -> None:
    path = nir_file(**config)
    stock = nir.read(path, type_check=True)
    lazy = graph.read(path)
    assert sorted(stock.nodes) == sorted(lazy.nodes) and sorted(map(tuple, stock.edges)) == sorted(lazy.edges)
    assert str(lower(stock)) == str(lower(path))
    assert output(lower(stock)) == output(lower(path))


def without_metadata(found: Graph) -> Graph:
    return Graph(
        {name: without_metadata(n) if isinstance(n, Graph) else n for name, n in found.nodes.items()}, found.edges
    )


@every_config
def test_metadata_is_redundant(nir_file: Export, config: dict[str, Any]) -> None:
    """A reader that knows only the primitives computes the same: every Linear, integrator, delay, count by its name."""
    composite = lower(nir_file(**config))
    primitive = lower(without_metadata(graph.read(nir_file(**config))))
    assert len(primitive.ops) > 1.5 * len(composite.ops)
    found, want = values(primitive), values(composite)
    # `lower` folds a Scale into the Linear in front (key_value), and the primitive step lacks the constant that its
    # thresholds hold.
    common = [name for name in want if name in found and not name.endswith((".step", ".key_value"))]
    assert {"head", "layer_000.attention.numerator", "layer_000.mixer.up_spikes", "final.spikes"} <= set(common)
    for name in common:
        assert np.array_equal(found[name], want[name]), name
    assert np.abs(want["head"]).sum() > 0


@every_config
def test_file_to_model_and_back(tiny_model: Model, nir_file: Export, tmp_path: Path, config: dict[str, Any]) -> None:
    model, path = tiny_model(**config), nir_file(**config)
    again = from_nir(path)
    tokens = torch.from_numpy(TOKENS)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        assert torch.equal(again(tokens).logits, expected)
        assert torch.equal(again.set_binary_mode()(tokens).logits, expected)
    assert to_nir(again, tmp_path / "again.nir").read_bytes() == path.read_bytes()
    again.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(NSLLMForCausalLM.from_pretrained(tmp_path / "saved")(tokens).logits, expected)
    integers = (expected[0].double().numpy() * 2.0**model.config.logit_fraction_bits).astype(np.int64)
    assert output(lower(path)) == integers.tolist()


def test_frozen_and_latent_model_give_the_same_file(tiny_model: Model, tmp_path: Path) -> None:
    model = tiny_model()
    assert (
        to_nir(model, tmp_path / "latent.nir").read_bytes()
        == to_nir(model.freeze(), tmp_path / "frozen.nir").read_bytes()
    )


def test_writing_what_was_read_gives_the_same_bytes(nir_file: Export, tmp_path: Path) -> None:
    path = nir_file(num_hidden_layers=2)
    graph.write(tmp_path / "copy.nir", graph.read(path))
    assert (tmp_path / "copy.nir").read_bytes() == path.read_bytes()
    lazy = graph.read(path)
    shuffled = Graph(dict(reversed(lazy.nodes.items())), tuple(reversed(lazy.edges)), lazy.metadata)
    graph.write(tmp_path / "copy.nir", shuffled)
    assert (tmp_path / "copy.nir").read_bytes() == path.read_bytes()


def test_node_names_and_order_carry_no_meaning(nir_file: Export) -> None:
    found = graph.read(nir_file(num_hidden_layers=2))
    shuffled = Graph(dict(reversed(found.nodes.items())), tuple(reversed(found.edges)), found.metadata)
    assert str(lower(shuffled)) == str(lower(found))
    names = {name: f"n{hash_order:02d}" for hash_order, name in enumerate(sorted(found.nodes, key=lambda n: n[::-1]))}
    renamed = Graph(
        {names[n]: node for n, node in found.nodes.items()}, tuple((names[a], names[b]) for a, b in found.edges)
    )
    assert output(lower(renamed)) == output(lower(found))
    inner = without_metadata(found)
    block = inner.nodes["layer_001.attention"]
    assert isinstance(block, Graph)
    names = {name: f"n{order:03d}" for order, name in enumerate(sorted(block.nodes, key=lambda n: n[::-1]))}
    other = Graph(
        {names[n]: node for n, node in block.nodes.items()}, tuple((names[a], names[b]) for a, b in block.edges)
    )
    assert output(lower(replace(inner, nodes={**inner.nodes, "layer_001.attention": other}))) == output(lower(found))


def test_a_composite_may_read_the_sum_of_two_signals(nir_file: Export) -> None:
    """What the last residual node adds may as well be added at the block that reads it."""
    found = graph.read(nir_file())
    total = next(a for a, b in found.edges if b == "final")
    nodes = {name: node for name, node in found.nodes.items() if name != total}
    edges = [(a, b) for a, b in found.edges if total not in (a, b)]
    edges += [(a, "final") for a, b in found.edges if b == total]
    assert output(lower(Graph(nodes, tuple(edges)))) == output(lower(found))


def test_lowering_one_block_loads_only_that_block(nir_file: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nir_file(num_hidden_layers=2)
    loaded: list[str] = []
    load = LazyArray.__array__

    def record(self: LazyArray, *args: Any, **kwargs: Any) -> np.ndarray:
        loaded.append(self.dataset)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(LazyArray, "__array__", record)
    lazy = graph.read(path)
    assert loaded == []
    block = lower(lazy, node="layer_001.mixer", input_levels=200)
    assert loaded and all(name.startswith("/node/nodes/layer_001.mixer/") for name in loaded)
    assert [op.name for op in block.ops if op.name.startswith("layer_001.mixer.")] == [
        op.name for op in lower(path).ops if op.name.startswith("layer_001.mixer.")
    ]


def test_lowering_one_block_names_the_blocks(nir_file: Export) -> None:
    with pytest.raises(
        GraphError, match=r"^'head' is not a subgraph; subgraphs are final, layer_000\.attention, layer_000\.mixer$"
    ):
        lower(nir_file(), node="head")


CHANGES: dict[str, tuple[str, Callable[[np.ndarray], Any], str]] = {
    "one line of a count": (
        "layer_000.attention/nodes/value_spikes.lines/threshold",
        lambda t: t + 2 * (np.arange(t.size).reshape(t.shape) == t.size - 1),
        "value_spikes.lines",
    ),
    "an even line": ("layer_000.mixer/nodes/up_spikes.lines/threshold", lambda t: t + 0.25, "up_spikes.lines"),
    "an AND that became an OR": (
        "layer_000.attention/nodes/read_gate.lines/threshold",
        lambda t: t - 1,
        "read_gate.lines",
    ),
    "an expansion": (
        "layer_000.attention/nodes/input.spikes.expand/weight",
        lambda w: w + 2 * (w == w.min()),
        "input.spikes.expand",
    ),
    "a collapse": ("layer_000.mixer/nodes/up_spikes/weight", lambda w: w * 2, "up_spikes"),
    "a collapse bias": ("layer_000.mixer/nodes/up_spikes/bias", lambda b: b + 1, "up_spikes"),
    "a time constant": ("layer_000.attention/nodes/numerator/tau", lambda t: t * 2, "numerator"),
    "decays that differ": ("layer_000.attention/nodes/denominator/r", lambda r: r * 2, "denominator"),
    "a leak": ("layer_000.attention/nodes/numerator/v_leak", lambda v: v + 1, "numerator"),
    "half a delay": ("layer_000.mixer/nodes/shift/delay", lambda d: d + 5e-5, "shift"),
    "fraction bits that differ": ("layer_000.attention/nodes/denominator.in/scale", lambda s: s * 2, "denominator.in"),
    "a kernel stride": ("final/nodes/spikes/stride", lambda s: s + 1, "spikes"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_composites_whose_primitives_say_otherwise_are_refused(
    nir_file: Export, edit_file: Callable[..., None], case: str
) -> None:
    path, (dataset, change, node) = nir_file(), CHANGES[case]
    edit_file(path, dataset, change)
    where = dataset.split("/")[0]
    for read in (lower, from_nir):
        with pytest.raises(
            GraphError,
            match=rf"^{where}\.{node}: its metadata says spik\w+, but the parameter '\w+' does not fit that composite$",
        ):
            read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: replace(b, edges=b.edges[1:]),
            (
                r"^layer_000.mixer: its metadata says spiking_channel_mixer, but the edge \('down', "
                r"'down.scale'\) is missing, extra or doubled$"
            ),
        ),
        (lambda b: replace(b, edges=(*b.edges, b.edges[0])), r"^layer_000.mixer: .*edge.* doubled$"),
        (
            lambda b: replace(b, nodes={k: v for k, v in b.nodes.items() if k != "up"}),
            r"^layer_000.mixer: .*its primitives lack or distort 'up.weight'$",
        ),
        (
            lambda b: replace(b, nodes={**b.nodes, "more": b.nodes["shift"]}),
            r"^layer_000.mixer: .*the node 'more' is missing or extra$",
        ),
        (
            lambda b: replace(b, nodes={**b.nodes, "shift": Node("Scale", {"scale": np.ones((1, 16))})}),
            r"^layer_000.mixer: .*lack or distort 'shift.delay'$",
        ),
        (
            lambda b: replace(b, metadata={"nsllm_nir": {"op": "spiking_channel_mixer", "version": 2}}),
            r"^layer_000.mixer: composite 'spiking_channel_mixer' version 2 is unknown",
        ),
        (
            lambda b: replace(b, metadata={"nsllm_nir": {"op": "other", "version": 1}}),
            r"^layer_000.mixer: composite 'other' version 1 is unknown; delete its metadata",
        ),
        (
            lambda b: replace(b, metadata={"nsllm_nir": {"op": "spiking_channel_mixer", "version": "x"}}),
            r"^layer_000.mixer: composite 'spiking_channel_mixer' version x is unknown",
        ),
    ],
    ids=["edge", "doubled edge", "node", "extra node", "type", "version", "op", "version text"],
)
def test_composites_of_another_structure_are_refused(
    nir_file: Export, change: Callable[[Graph], Graph], message: str
) -> None:
    found = graph.read(nir_file())
    block = found.nodes["layer_000.mixer"]
    assert isinstance(block, Graph)
    with pytest.raises(GraphError, match=message):
        lower(replace(found, nodes={**found.nodes, "layer_000.mixer": change(block)}))


def block(name: str, change: Callable[[Graph], Graph]) -> Callable[[Graph], Graph]:
    def apply(found: Graph) -> Graph:
        inner = found.nodes[name]
        assert isinstance(inner, Graph)
        return replace(found, nodes={**found.nodes, name: change(inner)})

    return apply


MODEL_CHANGES: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "no model": (lambda g: replace(g, metadata={}), r"^the graph is not an NSLLM model"),
    "no fraction": (
        lambda g: replace(g, metadata={"nsllm_nir": {"model": "nsllm", "version": 1}}),
        r"^the NSLLM graph lacks .*'residual_fraction_bits'",
    ),
    "unknown version": (
        lambda g: replace(g, metadata={"nsllm_nir": {**g.metadata["nsllm_nir"], "version": 9}}),
        r"version 9 is unknown",
    ),
    "no layer": (
        lambda g: Graph({n: x for n, x in g.nodes.items() if "layer" not in n}, (), g.metadata),
        r"^the NSLLM graph (has no layer|lacks)",
    ),
    "no block": (
        lambda g: Graph({n: x for n, x in g.nodes.items() if n != "layer_000.mixer"}, (), g.metadata),
        r"^the NSLLM graph lacks its block 'layer_000.mixer'$",
    ),
    "block of another kind": (
        lambda g: replace(g, nodes={**g.nodes, "layer_000.mixer": g.nodes["layer_000.attention"]}),
        r"^the NSLLM graph lacks its block 'layer_000.mixer'$",
    ),
    "primitives only": (
        block("layer_000.mixer", lambda b: replace(b, metadata={})),
        r"^the NSLLM graph lacks its block 'layer_000.mixer'$",
    ),
    "no head": (
        lambda g: replace(g, nodes={n: x for n, x in g.nodes.items() if n != "head"}),
        r"^the NSLLM graph lacks.*'head",
    ),
    "dropped residual edge": (
        lambda g: replace(
            g, edges=tuple(e for e in g.edges if e != ("embedding.scale", "layer_000.attention_residual"))
        ),
        r"the edge .*'embedding.scale', 'layer_000.attention_residual'",
    ),
    "residual gain": (
        lambda g: replace(
            g, nodes={**g.nodes, "layer_000.mixer_residual": Node("Scale", {"scale": np.full((1, 16), 2.0)})}
        ),
        r"'?layer_000.mixer_residual'?.*",
    ),
    "extra node": (lambda g: replace(g, nodes={**g.nodes, "more": g.nodes["head.scale"]}), r"'more'"),
}


@pytest.mark.parametrize("case", MODEL_CHANGES)
def test_graphs_that_the_model_cannot_hold_are_refused(nir_file: Export, case: str) -> None:
    change, message = MODEL_CHANGES[case]
    with pytest.raises(GraphError, match=message):
        from_nir(change(graph.read(nir_file())))


MODEL_EDITS: dict[str, tuple[tuple[str, ...], Callable[[np.ndarray], Any], str]] = {
    "two tokens of delay": (
        ("mixer/nodes/shift/delay",),
        lambda d: 2 * d,
        r"^layer_000.mixer: the model class delays the first half of the channels by one token",
    ),
    "decay": (
        (
            "attention/nodes/numerator/tau",
            "attention/nodes/numerator/r",
            "attention/nodes/denominator/tau",
            "attention/nodes/denominator/r",
        ),
        lambda t: 4 * t,
        r"^layer_000.attention: decay shifts in \[0, 5\] are outside the model's \[2, 7\]$",
    ),
    "read-out step": (
        ("attention/nodes/read_spikes.lines/threshold",),
        lambda t: t + 128 * (2 * np.arange(1, 5) - 1)[:, None],
        r"^layer_000.attention: the read-out step must be one key spike",
    ),
}


@pytest.mark.parametrize("case", MODEL_EDITS)
def test_numbers_that_the_model_cannot_hold_are_refused_but_run_as_a_program(
    nir_file: Export, edit_file: Callable[..., None], case: str
) -> None:
    path, (datasets, change, message) = nir_file(), MODEL_EDITS[case]
    before = output(lower(path))
    for dataset in datasets:
        edit_file(path, f"layer_000.{dataset}", change)
    assert output(lower(path)) != before
    with pytest.raises(GraphError, match=message):
        from_nir(path)


@pytest.mark.parametrize(
    "other",
    [
        {"coding": "binary"},
        {"normalisation": "pooled"},
        {"levels": 2},
        {"intermediate_size": 40},
        {"denominator": False},
        {"state_fraction_bits": 5},
    ],
    ids=lambda config: next(iter(config)),
)
def test_layers_of_different_kinds_are_refused(tiny_model: Model, tmp_path: Path, other: dict[str, Any]) -> None:
    """One NSLLMConfig holds one coding, normalisation and size; a block from another model must not be bent to fit."""
    first, second = (
        graph.read(to_nir(tiny_model(num_hidden_layers=2, **c), tmp_path / f"{len(c)}.nir")) for c in ({}, other)
    )
    key = next(iter(other))
    names = {"intermediate_size": ["mixer"], "denominator": ["attention"], "state_fraction_bits": ["attention"]}.get(
        key, ["attention", "mixer"]
    )
    for name in names:
        mixed = replace(first, nodes={**first.nodes, f"layer_001.{name}": second.nodes[f"layer_001.{name}"]})
        lower(mixed)
        with pytest.raises(GraphError, match=r"^the layers differ in .*, which one NSLLMConfig cannot hold$"):
            from_nir(mixed)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond ``size`` bytes fail, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.7, 0.999])
def test_a_full_disk_leaves_the_old_file(tiny_model: Model, tmp_path: Path, part: float) -> None:
    path, small, large = tmp_path / "model.nir", tiny_model(), tiny_model(seed=1, num_hidden_layers=2)
    before = to_nir(small, path).read_bytes()
    whole = to_nir(large, tmp_path / "whole.nir").stat().st_size
    (tmp_path / "whole.nir").unlink()
    message = r"^cannot write .*model\.nir: .*; the old file, if any, is unchanged$"
    with pytest.raises(GraphError, match=message), file_size_limit(int(part * whole)):
        to_nir(large, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.nir"]


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "No space left on device")],
    ids=["interrupt", "memory", "disk"],
)
def test_an_interrupted_export_leaves_the_old_file(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path, model = tmp_path / "model.nir", tiny_model()
    before, add = to_nir(model, path).read_bytes(), graph.GraphWriter.add

    def failing(self: graph.GraphWriter, name: str, node: Node | Graph) -> None:
        if name == "layer_000.mixer":
            raise error
        add(self, name, node)

    monkeypatch.setattr(graph.GraphWriter, "add", failing)
    with pytest.raises(GraphError if isinstance(error, OSError) else type(error)):
        to_nir(model, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be_written_are_named(tiny_model: Model, tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "none" / "m.nir",
        tmp_path / "file" / "m.nir",
        tmp_path / "folder",
        tmp_path / ("n" * 300),
        Path("/proc/m.nir"),
    ):
        with pytest.raises(GraphError, match=rf"^cannot write {path}: "):
            to_nir(model, path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_file_that_cannot_be_opened_leaves_no_temporary_file(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(GraphError, match=r"^cannot write .*Too many open files"):
        to_nir(tiny_model(), tmp_path / "m.nir")
    assert list(tmp_path.iterdir()) == []


def poison(model: NSLLMForCausalLM) -> None:
    mixer: Any = model.layers[0].mixer
    mixer.up.weight[1, 2] = float("nan")


def grow(model: NSLLMForCausalLM) -> None:
    mixer: Any = model.layers[0].mixer
    mixer.up_spikes.threshold[3] = 2.0**20


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"normalisation": "rms"}, None, r"^normalisation 'rms' needs a square root and a division"),
        ({"state": "matrix"}, None, r"^state 'matrix' gates integer states with spikes"),
        ({}, poison, r"^parameter 'layers.0.mixer.up.weight' holds NaN or infinity; the model cannot be exported$"),
        ({"levels": 8}, grow, r"threshold|step"),
    ],
    ids=["rms", "matrix", "nan", "threshold beyond float32"],
)
def test_what_a_file_cannot_hold_is_refused_before_writing(
    tiny_model: Model,
    tmp_path: Path,
    config: dict[str, Any],
    change: Callable[[NSLLMForCausalLM], None] | None,
    message: str,
) -> None:
    model = tiny_model(**config)
    if change:
        with torch.no_grad():
            change(model)
    with pytest.raises(LossyConversionError, match=message):
        to_nir(model, tmp_path / "m.nir")
    assert list(tmp_path.iterdir()) == []
