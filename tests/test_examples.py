"""Examples run as they stand; their tables say that accuracy survives quantization and that backends differ nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nir
import numpy as np
import pytest

from nsllm_nir import exporters
from nsllm_nir.graph import DT, as_graph
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization import float_reference

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem != "comparison")
# Accuracy in percent that the float network must reach, and how far the integer one may be from it; a test sample is
# 0.28 or 0.27.
LEARNED = {"digits_classifier": (95.0, 0.5), "norse_file": (93.0, 1.0), "recurrent_series": (95.0, 1.0)}


def run(script: Path, folder: Path) -> str:
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem not in LEARNED], ids=lambda path: path.stem)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    assert "exact" in run(script, tmp_path)


@pytest.mark.parametrize("name", LEARNED)
def test_classifiers_keep_their_accuracy_on_every_backend(name: str, tmp_path: Path) -> None:
    rows = re.findall(r"^(\S.*?) +([\d.]+) % +(\d+) +(\d+) ", run(EXAMPLES / f"{name}.py", tmp_path), re.MULTILINE)
    table = {label: (float(accuracy), int(spikes), int(differing)) for label, accuracy, spikes, differing in rows}
    framework, floats, integers, *backends = table
    assert (floats, integers, backends) == ("float graph", "integer reference", ["lava", "hls"])
    least, most_lost = LEARNED[name]
    assert table[framework][0] >= least
    assert table[framework][2] <= 20, (
        "float32 of the framework against float64 of the graph: a rare cell at the threshold"
    )
    assert table[integers][0] >= table[framework][0] - most_lost and table[integers][2] > 0
    for backend in backends:
        assert table[backend] == (*table[integers][:2], 0)


@pytest.fixture
def comparison() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comparison", EXAMPLES / "comparison.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(silence: int) -> dict[str, Any]:
    """A small network and twenty samples of eight steps."""
    rng, size = np.random.default_rng(0), 4
    constants = np.full(size, 5 * DT), np.full(size, 5.0), np.zeros(size), np.ones(size)
    graph = as_graph(
        nir.NIRGraph.from_list(
            nir.Input(np.array([6])), nir.Linear(rng.normal(0.2, 0.3, (size, 6))), nir.LIF(*constants)
        )
    )
    samples = np.zeros((20, 8 + silence, 6), np.int64)
    samples[:, :8] = rng.random((20, 8, 6)) < 0.4
    raster = float_reference.run(graph, samples.reshape(-1, 6)).values["lif"].reshape(20, -1, size)
    labels = raster.sum(1).argmax(1)
    return {
        "source": graph,
        "samples": samples,
        "labels": labels,
        "calibration": samples,
        "framework": "none",
        "rasters": {"lif": raster},
    }


def test_the_comparison_passes_where_all_is_equal(comparison: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.compare(**arguments(60), backends=["hls"])
    assert re.search(r"hls +[\d.]+ % +\d+ +0 from the integer reference", capsys.readouterr().out)


def test_the_comparison_sees_one_wrong_spike(
    comparison: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong:
        name = "wrong"

        def version(self) -> str:
            return "0"

        def compile(self, program: Program) -> Wrong:
            self.program = program
            return self

        def run(self, inputs: np.ndarray) -> Trace:
            values = {node: found.copy() for node, found in reference.run(self.program, inputs).values.items()}
            values["lif"][5, 1] ^= 1
            return Trace(values)

    monkeypatch.setattr(exporters, "load", lambda name: Wrong())
    assert not comparison.compare(**arguments(60), backends=["wrong"])
    assert re.search(r"wrong +[\d.]+ % +\d+ +1 from the integer reference", capsys.readouterr().out)


def test_too_little_silence_is_noticed(comparison: ModuleType) -> None:
    with pytest.raises(SystemExit, match="more steps of silence"):
        comparison.compare(**arguments(0), backends=[])
