"""Unmodified norse, snnTorch and nirtorch run portable files spike for spike, with the code of
docs/portable_profile.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import nirtorch
import numpy as np
import pytest
import torch

from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, to_nir
from nsllm_nir.errors import BackendError
from nsllm_nir.graph import Graph, Node, read, write
from nsllm_nir.lowering.lower import lower
from nsllm_nir.portable.profile import decode, to_portable
from nsllm_nir.program import Count, Delay, Input, Integrate, Linear, Program, Sum, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
READERS = ("load_norse", "load_snntorch", "load_nirtorch")
VOCABULARY, STEPS = 8, 48
MODELS: dict[str, dict[str, Any]] = {
    "ternary": {"num_hidden_layers": 1, "levels": 2},
    "pooled": {
        "num_hidden_layers": 2,
        "levels": 1,
        "coding": "binary",
        "normalisation": "pooled",
        "state_fraction_bits": 2,
    },
    "no denominator": {
        "num_hidden_layers": 1,
        "levels": 2,
        "denominator": False,
        "residual_fraction_bits": 6,
        "logit_fraction_bits": 8,
        "weight_bits": 8,
    },
}


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """The functions of the Python block of the document."""
    text = (Path(__file__).parents[1] / "docs" / "portable_profile.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/portable_profile.md", "exec"), names)
    return names


def small_model(seed: int = 1, **changes: Any) -> NSLLMForCausalLM:
    """Random weights, short memories, all neurons active."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_attention_heads": 1,
        "final_levels": 2,
        "weight_bits": 2,
    }
    fractions = {"state_fraction_bits": 1, "residual_fraction_bits": 2, "logit_fraction_bits": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NSLLMForCausalLM(NSLLMConfig(**{**sizes, **fractions, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("integrator.shift"):
                parameter.copy_(torch.tensor([7.0, 6.0, 6.0, 5.0]))
            elif "threshold" in name and "read_spikes" not in name:
                parameter.mul_(0.4)
            elif parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(2)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Program, Path]]:
    """`models(name)`: the program of one of MODELS, lowered from its structured file, and its portable file."""
    made: dict[str, tuple[Program, Path]] = {}

    def make(name: str) -> tuple[Program, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp("models")
            to_nir(small_model(**MODELS[name]), folder / "structured.nir")
            program = lower(folder / "structured.nir")
            to_portable(program, folder / "portable.nir")
            made[name] = program, folder / "portable.nir"
        return made[name]

    return make


def token_spikes(size: int = VOCABULARY) -> np.ndarray:
    return reference.one_hot(np.random.default_rng(11).integers(0, size, STEPS), size)


def run_hooked(
    documented: dict[str, Any], reader: str, path: Path, spikes: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The Output of a reader, and what each of its LIF modules returned."""
    model = documented[reader](path)
    rasters: dict[str, list[np.ndarray]] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, arguments, result: rasters.setdefault(name, []).append(
            (result[0] if isinstance(result, tuple) else result).reshape(-1).numpy()
        )

    for name, module in model.named_modules():
        if name.endswith("_lif"):
            module.register_forward_hook(record(name.rsplit(".")[-1]))
    return documented["run"](model, spikes), {name: np.array(rows) for name, rows in rasters.items()}


def differing(expected: Trace, actual: Trace) -> dict[str, int]:
    return {r.node: r.differences for r in compare(expected, actual) if r.differences}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", MODELS)
def test_models_run_spike_for_spike(documented, models, name, reader):
    program, path = models(name)
    spikes = token_spikes()
    expected = reference.run(program, spikes)
    outputs, _ = run_hooked(documented, reader, path, spikes)
    assert differing(expected, decode(path, outputs)) == {}
    silent = [node for node, values in expected.values.items() if not values.any()]
    assert silent == []


@pytest.mark.parametrize("reader", READERS)
def test_every_population_has_the_rasters_of_the_reference(documented, models, reader):
    _, path = models("ternary")
    spikes = token_spikes()
    again = lower(path)
    expected = reference.run(again, spikes).values
    outputs, rasters = run_hooked(documented, reader, path, spikes)
    populations = [op.name for op in again.ops if isinstance(op, Count)]
    assert sorted(rasters) == populations
    for name in populations:
        assert np.array_equal(rasters[name], expected[name]), name
    assert np.array_equal(outputs, expected[again.outputs[0]])


@pytest.mark.parametrize("reader", READERS)
def test_random_programs_run_spike_for_spike(documented, random_program, reader, tmp_path):
    for seed, layers, levels in ((0, 1, 3), (1, 2, 2)):
        found = random_program(seed, width=4, vocabulary=VOCABULARY, layers=layers, levels=levels)
        decay = np.array([128, 192, 224, 128], np.int32)
        program = Program(
            tuple(replace(op, decay=decay, fraction_bits=1) if isinstance(op, Integrate) else op for op in found.ops),
            found.outputs,
        )
        to_portable(program, tmp_path / "p.nir")
        outputs = documented["run"](documented[reader](tmp_path / "p.nir"), token_spikes())
        assert differing(reference.run(program, token_spikes()), decode(tmp_path / "p.nir", outputs)) == {}


def recurrent_program() -> Program:
    """Two layers of neurons in a loop, a delay behind each, and negative states."""
    rng = np.random.default_rng(5)

    def linear(name: str, source: str, inputs: int) -> Linear:
        return Linear(
            name,
            source,
            rng.integers(-4, 5, (3, inputs)).astype(np.int8),
            rng.integers(-1, 2, 3).astype(np.int32),
            np.zeros(3, np.uint8),
        )

    def ones(value: int) -> np.ndarray:
        return np.full(3, value, np.int32)

    return Program(
        (
            Input("input", VOCABULARY),
            linear("v", "input", VOCABULARY),
            Delay("b_late", "b", ones(1)),
            linear("x", "b_late", 3),
            Sum("y", ("v", "x"), ones(0)),
            Count("a", "y", ones(3), 2, signed=True),
            Delay("a_late", "a", np.array([1, 2, 3], np.int32)),
            linear("z", "a_late", 3),
            Count("b", "z", ones(2), 2),
            Integrate("s", "v", np.array([128, 192, 0], np.int32), 0),
            Count("c", "s", ones(4), 3, signed=True),
        ),
        ("c", "s"),
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("one_hot", [True, False])
def test_recurrent_programs_run_spike_for_spike(documented, reader, one_hot, tmp_path):
    spikes = token_spikes() if one_hot else np.random.default_rng(12).integers(0, 2, (STEPS, VOCABULARY))
    if not one_hot:
        spikes[5:10] = 0
        program = Program(recurrent_program().ops[:-2], ("b",))
    else:
        program = recurrent_program()
    to_portable(program, tmp_path / "p.nir", one_hot=one_hot)
    outputs = documented["run"](documented[reader](tmp_path / "p.nir"), spikes)
    assert differing(reference.run(program, spikes), decode(tmp_path / "p.nir", outputs)) == {}


ATTENTION = "layer_000.attention."
MUTANTS: dict[str, tuple[str, str, Callable[[np.ndarray], Any], float, str]] = {
    # node, parameter, index, added value, signal that differs first
    "weight of a new line": ("stage_02_affine", "weight", lambda w: (-1, 0), 60, ATTENTION + "value_spikes"),
    "constant of a new line": (
        "stage_02_affine",
        "weight",
        lambda w: (-1, np.flatnonzero(w[-1])[-1]),
        -60,
        ATTENTION + "value_spikes",
    ),
    "relay": ("stage_05_affine", "weight", lambda w: (10, np.flatnonzero(w[10])[0]), -4, ATTENTION + "input.spikes"),
    "gate": ("stage_06_affine", "weight", lambda w: (-1, np.flatnonzero(w[-1])[0]), 2, ATTENTION + "read_gate"),
    "memory of the token shift": ("stage_01_loop_1", "weight", lambda w: (0, 0), 60, ATTENTION + "shift"),
    "decay of the numerator": (
        "stage_04_loop_1",
        "weight",
        lambda w: (0, np.flatnonzero(w[0])[0]),
        -60,
        ATTENTION + "read_spikes",
    ),
    "threshold": ("stage_02_lif", "v_threshold", lambda v: (-1,), -60, ATTENTION + "value_spikes"),
    "bias": ("stage_08_affine", "bias", lambda b: (-1,), 60, "layer_000.mixer.up_spikes"),
    "readout": ("stage_10_readout", "weight", lambda w: (-1, -1), 1, "head"),
}


def mutate(graph: Graph, name: str) -> Graph:
    """One number of the file changed."""
    node, parameter, place, by, _ = MUTANTS[name]
    found = graph.nodes[node]
    assert isinstance(found, Node)
    values = found.array(parameter).copy()
    values[tuple(place(values))] += by
    return replace(
        graph, nodes={**graph.nodes, node: replace(found, parameters={**found.parameters, parameter: values})}
    )


def without_loop(graph: Graph, stage: str) -> Graph:
    """The edge that closes the loop of a stage dropped, and the nodes that nothing reads then."""
    nodes = {name: node for name, node in graph.nodes.items() if not name.startswith(stage + "_loop")}
    return replace(graph, nodes=nodes, edges=tuple(edge for edge in graph.edges if set(edge) <= set(nodes)))


def first_differing(
    documented: dict[str, Any], reader: str, program: Program, original: Path, mutant: Graph, folder: Path
) -> str | None:
    """The signal that differs first between the reference and a reader of the mutant."""
    write(folder / "mutant.nir", mutant)
    outputs = documented["run"](documented[reader](folder / "mutant.nir"), token_spikes())
    found = first_difference(compare(reference.run(program, token_spikes()), decode(original, outputs)))
    return found.node if found else None


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_found_and_named(documented, models, name, reader, tmp_path):
    program, path = models("ternary")
    mutant = mutate(read(path), name)
    if name == "threshold" and reader == "load_snntorch":
        with pytest.raises(AssertionError, match="must be same"):
            first_differing(documented, reader, program, path, mutant, tmp_path)
    else:
        assert first_differing(documented, reader, program, path, mutant, tmp_path) == MUTANTS[name][-1]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("stage", "signal"), [("stage_01", "shift"), ("stage_03", "read_spikes"), ("stage_04", "read_spikes")]
)
def test_a_dropped_loop_is_found_and_named(documented, models, stage, signal, reader, tmp_path):
    program, path = models("ternary")
    mutant = without_loop(read(path), stage)
    assert first_differing(documented, reader, program, path, mutant, tmp_path) == ATTENTION + signal


def test_the_random_bias_of_nirtorch_is_refused_and_does_not_reach_the_spikes(documented, models):
    """Without the documented Affine, nirtorch 2.6 invents biases: the Output is not binary any more."""
    program, path = models("ternary")
    outputs = documented["run"](nirtorch.nir_to_torch(nir.read(path), {nir.LIF: documented["LIF"]}), token_spikes())
    with pytest.raises(BackendError, match="not a binary spike"):
        decode(path, outputs)
    assert differing(reference.run(program, token_spikes()), decode(path, np.rint(outputs))) == {}
