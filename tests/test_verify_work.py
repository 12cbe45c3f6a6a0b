"""How often `verify` does each step on its way, and what it decides by asking instead of by failing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from nsllm_nir import exporters, lower, verify
from nsllm_nir.errors import BackendError, IntegerOverflowError
from nsllm_nir.graph import DT
from nsllm_nir.lowering import lower as lowering
from nsllm_nir.lowering import net
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization import float_reference
from nsllm_nir.quantization import quantize as quantization
from nsllm_nir.quantization.quantize import is_integer
from nsllm_nir.verification import prepare as preparation

INPUTS = (np.random.default_rng(0).random((12, 6)) < 0.5).astype(np.int64)


def layers(unit: float) -> nir.NIRGraph:
    """Four layers of LIF neurons; integers times ``unit``."""
    rng, found = np.random.default_rng(1), []
    for inputs, outputs in ((6, 8), (8, 8), (8, 8), (8, 5)):
        constants = (8 * DT, 8.0, 0.0, 90 * unit, 0.0)
        found += [
            nir.Linear(unit * rng.integers(-40, 100, (outputs, inputs))),
            nir.LIF(*(np.full(outputs, value) for value in constants)),
        ]
    return nir.NIRGraph.from_list(nir.Input(np.array([6])), *found)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts calls of the steps of `verify`, wherever a module holds the name."""
    counted: Counter[str] = Counter()

    def count(function: Callable[..., Any], *modules: Any) -> None:
        name = function.__name__

        def counting(*arguments: Any, **options: Any) -> Any:
            counted[f"{function.__module__.rpartition('.')[2]}.{name}"] += 1
            return function(*arguments, **options)

        for module in modules:
            monkeypatch.setattr(module, name, counting)

    count(net.inline, preparation, quantization, float_reference, lowering)
    count(lowering.lower_net, preparation, quantization, lowering)
    count(float_reference.signals, float_reference)
    count(reference.run, reference)
    return counted


def test_a_float_graph_is_inlined_lowered_and_run_once(calls: Counter[str]) -> None:
    report = verify(layers(1 / 97.3), INPUTS, [])
    assert report.quantization_error is not None
    assert calls == {"net.inline": 1, "lower.lower_net": 1, "float_reference.signals": 1, "reference.run": 1}


def test_an_integer_graph_is_lowered_once_and_never_run_in_floats(calls: Counter[str]) -> None:
    assert verify(layers(1.0), INPUTS, []).quantization is None
    assert calls == {"net.inline": 1, "lower.lower_net": 1, "reference.run": 1}


def test_integers_that_overflow_keep_their_error() -> None:
    """Only numbers decide whether a graph is quantized; sums beyond the widths are the user's to change."""
    n = 400
    graph = nir.NIRGraph.from_list(
        nir.Input(np.array([n])),
        nir.Linear(np.full((3, n), 127.0)),
        nir.Scale(np.full(3, 512.0)),
        nir.IF(np.full(3, 1 / DT), np.array([60000.0, 60001, 60003]), np.zeros(3)),
    )
    assert is_integer(graph)
    for run in (lower, lambda g: verify(g, np.zeros((2, n), np.int64), ["reference"])):
        with pytest.raises(IntegerOverflowError, match=r"^Linear 'linear', neuron 0: the worst case"):
            run(graph)


@dataclass(frozen=True)
class Failing:
    """A backend of somebody else that fails in its own way."""

    name: str = "failing"

    def version(self) -> str:
        return "0"

    def compile(self, program: Program) -> Failing:
        return self

    def run(self, inputs: np.ndarray) -> Trace:
        raise ZeroDivisionError("no spikes to divide by")


def test_a_backend_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = exporters.load
    monkeypatch.setattr(exporters, "load", lambda name: Failing() if name == "failing" else load(name))
    failing, other = verify(layers(1.0), INPUTS, ["failing", "reference"]).results
    assert isinstance(failing.failure, ZeroDivisionError) and not failing.exact and other.exact
    assert failing.error == "ZeroDivisionError: no spikes to divide by" and other.error == "" and other.failure is None
    with pytest.raises(BackendError, match="no backend is named"):
        verify(layers(1.0), INPUTS, ["nobody"])
