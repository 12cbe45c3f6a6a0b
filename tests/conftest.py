"""Shared programs and random inputs; every random choice is seeded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum

hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files of tests/golden instead of comparing with them")


def build_program(seed: int, *, width: int = 8, vocabulary: int = 16, layers: int = 1, levels: int = 4) -> Program:
    """A random NSLLM-shaped program: every op, every shape of step, signed and unsigned counts."""
    rng = np.random.default_rng(seed)
    zeros = np.zeros(width, np.int32)

    def linear(name: str, source: str, outputs: int, inputs: int, shift: int = 0) -> Linear:
        weight = rng.integers(-7, 8, (outputs, inputs)).astype(np.int8)
        return Linear(name, source, weight, rng.integers(-3, 4, outputs).astype(np.int32), np.full(outputs, shift, np.uint8))

    def step(size: int, low: int, high: int) -> np.ndarray:
        return rng.integers(low, high, size).astype(np.int32)

    decay = (256 - 2 ** (np.arange(width) % 6 + 2)).astype(np.int32)
    ops: list[Op] = [Input("input", vocabulary), linear("embedding", "input", width, vocabulary)]
    h = "embedding"
    for i in range(layers):
        p = f"layer_{i:02d}."
        pooled = [
            Count(p + "pool_spikes", h, step(width, 3, 6), levels),
            Linear(p + "pool", p + "pool_spikes", np.ones((1, width), np.int8), np.zeros(1, np.int32), np.zeros(1, np.uint8)),
            Linear(p + "in_step", p + "pool", np.ones((width, 1), np.int8), step(width, 2, 6), np.zeros(width, np.uint8)),
            Count(p + "in_spikes", h, p + "in_step", levels),
        ]
        plain = [Count(p + "in_spikes", h, step(width, 2, 6), levels, signed=True)]
        ops += pooled if i % 2 else plain
        ops += [
            Delay(p + "shift", p + "in_spikes", (np.arange(width) < width // 2).astype(np.int32) * (1 + np.arange(width) % 2)),
            *(linear(p + n, p + "shift", width, width) for n in ("receptance", "key", "value")),
            Count(p + "receptance_spikes", p + "receptance", step(width, 5, 12), 1),
            Count(p + "key_spikes", p + "key", step(width, 5, 12), 1),
            Count(p + "value_spikes", p + "value", step(width, 5, 12), levels),
            Gate(p + "key_value", p + "key_spikes", p + "value_spikes"),
            Integrate(p + "numerator", p + "key_value", decay, 5),
            Integrate(p + "denominator", p + "key_spikes", decay, 5),
            Sum(p + "read_step", (p + "denominator",), np.full(width, 8, np.int32)),
            Count(p + "read_spikes", p + "numerator", p + "read_step", levels),
            Gate(p + "out_spikes", p + "receptance_spikes", p + "read_spikes"),
            linear(p + "out", p + "out_spikes", width, width, 1),
            Sum(p + "residual", (h, p + "out"), zeros),
        ]
        h = p + "residual"
    ops += [Count("final_spikes", h, step(width, 3, 8), 2 * levels), linear("logits", "final_spikes", vocabulary, width)]
    return Program(tuple(ops), ("logits",))


@pytest.fixture(scope="session")
def random_program() -> Callable[..., Program]:
    """`build_program(seed, ...)`."""
    return build_program


@pytest.fixture
def tokens() -> np.ndarray:
    """48 token ids below 16."""
    return np.random.default_rng(7).integers(0, 16, 48)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: ``text`` equals tests/golden/name, or replaces it under ``--update-golden``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; after checking the change run: pytest --update-golden"

    return check


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Torch on one thread: these tensors are too small to share."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny_model(one_thread: None) -> Callable[..., Any]:
    """`tiny_model(seed=0, **config)`: a model of random weights in evaluation mode, 24 tokens, 16 channels, all of whose neurons fire."""
    import torch

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM

    def build(seed: int = 0, **config: Any) -> NSLLMForCausalLM:
        sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, **config}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NSLLMForCausalLM(NSLLMConfig(**sizes)).eval()

    return build


@pytest.fixture
def nir_file(tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`nir_file(seed=0, **config)`: the exported file of that `tiny_model`."""
    from nsllm_nir import to_nir

    return lambda seed=0, **config: to_nir(tiny_model(seed, **config), tmp_path / "model.nir")


@pytest.fixture(scope="session")
def edit_file() -> Callable[..., None]:
    """`edit_file(path, "node/nodes/parameter", change)`: replace one array of a NIR file by ``change(array)``, in the file itself.

    The data set is replaced, not overwritten: equal arrays of a file may be one data set under several names.
    """
    import h5py

    def edit(path: Path, dataset: str, change: Callable[[np.ndarray], Any]) -> None:
        with h5py.File(path, "r+") as file:
            group, name = file["node/nodes/" + dataset.rpartition("/")[0]], dataset.rpartition("/")[2]
            old = group[name][()]
            new = np.asarray(change(old.copy()), old.dtype)
            assert new.shape == old.shape and not np.array_equal(new, old, equal_nan=new.dtype.kind == "f"), "the edit changes nothing"
            del group[name]
            group.create_dataset(name, data=new)

    return edit
