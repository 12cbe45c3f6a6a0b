"""Single changes in a file, program, interpreter or trace: each is caught, the first difference in the right node."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from nsllm_nir import exporters, lower, to_nir, verify
from nsllm_nir.errors import ToolNotFoundError
from nsllm_nir.exporters import lava
from nsllm_nir.program import Count, Delay, Gate, Integrate, Linear, Op, Program, reference
from nsllm_nir.program.trace import Difference, Trace, compare, first_difference
from nsllm_nir.verification.verify import token_spikes

TOKENS = np.random.default_rng(2).integers(0, 24, 64)
A, M = "layer_000.attention", "layer_000.mixer"
Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Original:
    """A two-layer model of ternary weights and a coarse residual, so that one unit matters, and its reference trace."""

    path: Path
    program: Program
    trace: Trace

    def first(self, actual: Trace) -> Difference | None:
        return first_difference(compare(self.trace, actual))

    def busiest(self, node: str) -> int:
        """The neuron that spikes most."""
        return int(np.abs(self.trace.values[node]).sum(0).argmax())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    import torch

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM

    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "residual_fraction_bits": 2,
        "residual_gain": 2.0,
    }
    path = tmp_path_factory.mktemp("original") / "model.nir"
    to_nir(NSLLMForCausalLM(NSLLMConfig(weight_bits=2, embedding_bits=4, **sizes)), path)
    program = lower(path)
    return Original(path, program, reference.run(program, token_spikes(program, TOKENS)))


def test_the_original_has_no_difference(original: Original) -> None:
    assert original.first(reference.run(lower(original.path), token_spikes(original.program, TOKENS))) is None
    assert all(np.abs(v).sum() > 0 for v in original.trace.values.values())


def weight(delta: int, column: int) -> Change:
    """One weight of the neuron 3, kept within the int8 range."""

    def change(w: np.ndarray) -> np.ndarray:
        w[0, 3, column] += delta
        return w

    return change


def neuron(delta: float, i: int = 3) -> Change:
    """The step of neuron ``i`` by ``delta``: line m moves by (2m - 1) delta, as a count requires."""

    def change(t: np.ndarray) -> np.ndarray:
        levels = len(t) // 2 if len(t) > 1 and np.array_equal(t[0], t[len(t) // 2]) else len(t)
        t[:, i] += delta * (2 * (np.arange(len(t)) % levels) + 1)
        return t

    return change


def one(value: float, i: int) -> Change:
    def change(a: np.ndarray) -> np.ndarray:
        a[0, i] = value
        return a

    return change


# The steps are even, so one less (not one more) moves the first threshold of an integer potential.
# Edits of the file: data set, source node whose busiest neuron is the column (weights only), change, node of the first
# difference.
WEIGHTS: dict[str, tuple[str, str, int, str]] = {
    "embedding weight": ("embedding", "input", 1, f"{A}.input.spikes"),
    "receptance weight": (f"{A}/nodes/receptance", f"{A}.shift", 1, f"{A}.receptance_spikes"),
    "key weight": (f"{A}/nodes/key", f"{A}.shift", -1, f"{A}.key_spikes"),
    "value weight": (f"{A}/nodes/value", f"{A}.shift", 1, f"{A}.value_spikes"),
    "out weight": (f"{A}/nodes/out", f"{A}.read_gate", 1, f"{M}.input.spikes"),
    "up weight": (f"{M}/nodes/up", f"{M}.shift", -1, f"{M}.up_spikes"),
    "down weight": (f"{M}/nodes/down", f"{M}.up_spikes", 1, "layer_001.attention.input.spikes"),
    "last down weight": ("layer_001.mixer/nodes/down", "layer_001.mixer.up_spikes", -1, "final.spikes"),
    "head weight": ("head", "final.spikes", -1, "head"),
}
EDITS: dict[str, tuple[tuple[str, ...], Change, str]] = {
    "receptance threshold": ((f"{A}/nodes/receptance_spikes.lines/threshold",), neuron(-1), f"{A}.receptance_spikes"),
    "value threshold": ((f"{A}/nodes/value_spikes.lines/threshold",), neuron(1), f"{A}.value_spikes"),
    "input threshold": ((f"{A}/nodes/input.spikes.lines/threshold",), neuron(-1), f"{A}.input.spikes"),
    "up threshold": ((f"{M}/nodes/up_spikes.lines/threshold",), neuron(1), f"{M}.up_spikes"),
    "read-out step": ((f"{A}/nodes/read_spikes.lines/threshold",), neuron(64), f"{A}.read_spikes"),
    "final threshold": (("final/nodes/spikes.lines/threshold",), neuron(-1), "final.spikes"),
    "key bias": ((f"{A}/nodes/key/bias",), lambda b: b + (np.arange(16) == 3), f"{A}.key_spikes"),
    "head bias": (("head/bias",), lambda b: b - (np.arange(24) == 5), "head"),
    "delay 0 to 1": ((f"{A}/nodes/shift/delay",), one(1e-4, 12), f"{A}.shift"),
    "delay 1 to 0": ((f"{M}/nodes/shift/delay",), one(0.0, 2), f"{M}.shift"),
    "delay 1 to 2": ((f"{M}/nodes/shift/delay",), one(2e-4, 2), f"{M}.shift"),
    "slower decay": (
        tuple(f"{A}/nodes/{n}/{p}" for n in ("numerator", "denominator") for p in ("tau", "r")),
        lambda t: t * (1 + (np.arange(16) == 9)),
        f"{A}.read_spikes",
    ),
    "shift of out": ((f"{A}/nodes/out.scale/scale",), lambda s: s * (1 + (np.arange(16) == 3)), f"{M}.input.spikes"),
    "shift of the embedding": (
        ("embedding.scale/scale",),
        lambda s: s * (1 + (np.arange(16) == 3)),
        f"{A}.input.spikes",
    ),
}


def mutate(original: Original, tmp_path: Path, edit_file: Callable[..., None], case: str) -> tuple[Path, str]:
    """The changed file, and the node where the first difference must be."""
    path = Path(shutil.copy(original.path, tmp_path / "mutant.nir"))
    if case in WEIGHTS:
        dataset, source, delta, node = WEIGHTS[case]
        edit_file(path, f"{dataset}/weight", weight(delta, original.busiest(source)))
        return path, node
    datasets, change, node = EDITS[case]
    for dataset in datasets:
        edit_file(path, dataset, change)
    return path, node


@pytest.mark.parametrize("case", [*WEIGHTS, *EDITS])
def test_a_changed_file_is_caught_in_the_right_node(
    original: Original, tmp_path: Path, edit_file: Callable[..., None], case: str
) -> None:
    path, node = mutate(original, tmp_path, edit_file, case)
    program = lower(path)
    first = original.first(reference.run(program, token_spikes(program, TOKENS)))
    assert first is not None and first.node == node


@pytest.mark.parametrize(
    "case", ["key weight", "value threshold", "slower decay", "delay 1 to 2", "shift of out", "head bias"]
)
def test_the_engine_runs_the_changed_file_and_is_caught(
    original: Original, tmp_path: Path, edit_file: Callable[..., None], case: str
) -> None:
    caught_on("hls", *mutate(original, tmp_path, edit_file, case), original)


def test_the_fused_lava_form_runs_the_changed_file_and_is_caught(
    original: Original, tmp_path: Path, edit_file: Callable[..., None]
) -> None:
    try:
        lava.fused.version()
    except ToolNotFoundError as error:
        pytest.skip(str(error))
    caught_on("lava", *mutate(original, tmp_path, edit_file, "read-out step"), original)


@pytest.mark.parametrize("case", ["key weight", "up threshold", "slower decay", "head weight"])
def test_the_model_rebuilt_from_the_changed_file_is_caught(
    original: Original, tmp_path: Path, edit_file: Callable[..., None], case: str
) -> None:
    caught_on("snntorch", *mutate(original, tmp_path, edit_file, case), original)


def caught_on(backend: str, path: Path, node: str, original: Original) -> None:
    program = lower(path)
    first = original.first(exporters.load(backend).compile(program).run(token_spikes(program, TOKENS)))
    assert first is not None and first.node == node
    assert verify(path, TOKENS, ["reference"]).exact, "the mutant is consistent in itself"


@pytest.mark.parametrize(
    ("source", "target", "node"),
    [
        ("embedding.scale", f"{A}_residual", f"{M}.input.spikes"),
        (f"{A}", f"{A}_residual", f"{M}.input.spikes"),
        ("layer_000.attention_residual", "layer_000.mixer_residual", "layer_001.attention.input.spikes"),
    ],
    ids=["residual", "attention", "second residual"],
)
def test_a_dropped_edge_is_caught(original: Original, tmp_path: Path, source: str, target: str, node: str) -> None:
    path = Path(shutil.copy(original.path, tmp_path / "mutant.nir"))
    with h5py.File(path, "r+") as file:
        edges = [tuple(x.decode() for x in edge) for edge in file["node/edges"][()]]
        edges.remove((source, target))
        del file["node/edges"]
        file["node"].create_dataset("edges", data=edges, dtype=h5py.string_dtype())
    program = lower(path)
    first = original.first(reference.run(program, token_spikes(program, TOKENS)))
    assert first is not None and first.node == node


def swap_gates(op: Op) -> Op:
    gates = {f"{A}.key_spikes": f"{A}.receptance_spikes"}
    return replace(op, gate=gates.get(op.gate, op.gate)) if isinstance(op, Gate) else op


def lose_a_level(op: Op) -> Op:
    return replace(op, levels=op.levels - 1) if isinstance(op, Count) and op.name == f"{M}.up_spikes" else op


def lose_the_sign(op: Op) -> Op:
    return replace(op, signed=False) if isinstance(op, Count) and op.name == f"{M}.input.spikes" else op


@pytest.mark.parametrize("backend", ["reference", "hls"])
@pytest.mark.parametrize(
    ("change", "node"),
    [(swap_gates, f"{A}.key_value"), (lose_a_level, f"{M}.up_spikes"), (lose_the_sign, f"{M}.input.spikes")],
)
def test_a_changed_program_is_caught(original: Original, backend: str, change: Callable[[Op], Op], node: str) -> None:
    program = replace(original.program, ops=tuple(change(op) for op in original.program.ops))
    first = original.first(exporters.load(backend).compile(program).run(token_spikes(program, TOKENS)))
    assert first is not None and first.node == node


def mutant(kind: type[Op], old: str, new: str) -> Callable[..., np.ndarray]:
    """What an operation computes, with one change of the source of its module."""
    module = sys.modules[kind.__module__]
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{module.__name__} no longer holds {old!r}"
    changed = ModuleType(module.__name__)  # the dataclass machinery looks a class up by its module
    exec(compile(source.replace(old, new), "mutant", "exec"), changed.__dict__)
    compute: Callable[..., np.ndarray] = vars(changed)[kind.__name__].compute
    return compute


@pytest.mark.parametrize(
    ("kind", "old", "new", "node"),
    [
        (Integrate, "astype(np.int64)) >> DECAY_BITS)", "astype(np.int64) + 128) >> DECAY_BITS)", f"{A}.read_spikes"),
        (Count, "+= 2 * v > (2 * m - 1) * step", "+= 2 * v >= (2 * m - 1) * step", f"{A}.input.spikes"),
        (Count, "+= 2 * v > (2 * m - 1) * step", "+= v > m * step", f"{A}.input.spikes"),
        (Delay, "np.where(self.steps == 0, x[self.source], late)", "x[self.source]", f"{A}.shift"),
        (Linear, "@ spikes[active] + self.bias", "@ spikes[active]", f"{A}.receptance_spikes"),
        (
            Count,
            "c - count(-x[self.source], step, self.levels) if self.signed",
            "c if self.signed",
            f"{A}.input.spikes",
        ),
        (Gate, "np.where(x[self.gate] == 1, x[self.source], 0)", "x[self.source]", f"{A}.key_value"),
        (
            Integrate,
            "(x[self.source] << self.fraction_bits)\n",
            "(x[self.source] << self.fraction_bits) * (s >= 0)\n        s = s - (s > 0)\n",
            f"{A}.read_spikes",
        ),
    ],
    ids=[
        "decay rounded to nearest",
        "tie fires",
        "threshold without the half",
        "delay ignored",
        "bias ignored",
        "sign lost",
        "gate open",
        "state off by one",
    ],
)
def test_a_wrong_rule_is_caught(
    original: Original, monkeypatch: pytest.MonkeyPatch, kind: type[Op], old: str, new: str, node: str
) -> None:
    monkeypatch.setattr(kind, "compute", mutant(kind, old, new))
    first = original.first(reference.run(original.program, token_spikes(original.program, TOKENS)))
    assert first is not None and first.node == node


@pytest.mark.parametrize("node", [f"{A}.shift", f"{M}.up_spikes", "final.spikes", "head"])
def test_a_latency_off_by_one_is_caught(original: Original, node: str) -> None:
    late = np.vstack([np.zeros_like(original.trace.values[node][:1]), original.trace.values[node][:-1]])
    first = original.first(Trace({**original.trace.values, node: late}))
    assert first is not None and first.node == node and first.step <= 1


def test_a_difference_names_both_values(original: Original) -> None:
    values = {**original.trace.values}
    changed = values["final.spikes"].copy()
    changed[5, 7] += 3
    changed[6, 1] += 1
    values["final.spikes"] = changed
    first = original.first(Trace(values))
    want = int(original.trace.values["final.spikes"][5, 7])
    assert first == Difference("final.spikes", 5, 7, want, want + 3)
    assert str(first) == f"node 'final.spikes', step 5, neuron 7: expected {want}, got {want + 3}"
    assert {r.node: r.differences for r in compare(original.trace, Trace(values)) if r.differences} == {
        "final.spikes": 2
    }
