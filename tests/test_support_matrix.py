"""The guide for users with a .nir file: its table is what the code does, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nsllm_nir import exporters
from nsllm_nir.errors import BackendError, GraphError, InputError
from nsllm_nir.graph import Node
from nsllm_nir.lowering.node_rules import RULES
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.verification import support_matrix as support

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "nir_files.md").read_text(encoding="utf-8")
UPDATE = "run: python -m nsllm_nir.verification.support_matrix docs/nir_files.md"


@pytest.fixture
def only_lif(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One probe in place of all; returns monkeypatch."""
    monkeypatch.setattr(
        support, "PROBES", {"LIF": {"integers": support.chain(6, support.linear(5, 6), support.lif(5))}}
    )
    monkeypatch.setattr(support, "RULES", {"LIF": RULES["LIF"]})
    return monkeypatch


def test_the_table_of_the_guide_is_what_the_code_does() -> None:
    rows = support.matrix(name for name in exporters.names() if name != "reference")
    assert support.replaced(TEXT, support.markdown(rows)) == TEXT, UPDATE


def test_every_node_type_and_backend_is_in_the_table() -> None:
    table = TEXT.split(support.BEGIN)[1]
    assert set(RULES) <= set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE))
    assert set(re.findall(r"`([\w-]+)`", table.splitlines()[2])) == set(exporters.names()) - {"reference"}
    assert table.count(" exact ") > 100, "most of it must run"


def test_a_rule_that_refuses_changes_the_table(only_lif: pytest.MonkeyPatch) -> None:
    (before,) = support.matrix(["reference"])
    assert before.refused == {"reference": ""} and before.numbers == "as they are"

    def refuse(node: Node, where: str, *more: object) -> None:
        raise GraphError(f"{where}: no")

    only_lif.setitem(RULES, "LIF", refuse)
    (after,) = support.matrix(["reference"])
    assert after.refused == {"reference": "lif: no"}
    assert support.markdown([before]) != support.markdown([after])


@dataclass(frozen=True)
class Wrong:
    """A backend that adds one spike."""

    name: str = "wrong"
    program: Program | None = None

    def version(self) -> str:
        return "0"

    def compile(self, program: Program) -> Wrong:
        return Wrong(program=program)

    def run(self, inputs: np.ndarray) -> Trace:
        assert self.program is not None
        values = {node: found.copy() for node, found in reference.run(self.program, inputs).values.items()}
        values["lif"][3, 2] ^= 1
        return Trace(values)


def test_a_backend_that_differs_is_no_row(only_lif: pytest.MonkeyPatch) -> None:
    only_lif.setattr(exporters, "load", lambda name: Wrong())
    with pytest.raises(BackendError, match=r"LIF, integers, wrong: node 'lif', step 3, neuron 2"):
        support.matrix(["wrong"])


def test_a_node_without_a_probe_is_no_table(only_lif: pytest.MonkeyPatch) -> None:
    only_lif.setattr(support, "RULES", {"LIF": RULES["LIF"], "IF": RULES["IF"]})
    with pytest.raises(GraphError, match="no probe for IF"):
        support.matrix(["reference"])


def test_a_probe_that_never_fires_proves_nothing(only_lif: pytest.MonkeyPatch) -> None:
    only_lif.setattr(
        support, "PROBES", {"LIF": {"silent": support.chain(6, support.linear(5, 6), support.lif(5, 100_000))}}
    )
    with pytest.raises(GraphError, match="always gives 0"):
        support.matrix(["reference"])


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(InputError, match="lacks the lines"):
        support.replaced("# A page\n", "| table |")


def test_the_lines_of_the_guide_run(tmp_path: Path) -> None:
    """Python and shell blocks of the page, in their order, in one folder."""
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("sh") >= 4
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, code in blocks:
        command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-ec", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "report.json").exists() and (tmp_path / "trace.npz").exists()


MESSAGES = re.findall(r"^\| (`[^|]+`) \|", TEXT.split("## 7.")[1].split("## 8.")[0], re.MULTILINE)


@pytest.mark.parametrize("cell", MESSAGES)
def test_refusals_are_quoted_as_the_code_words_them(cell: str) -> None:
    """Every quoted message is in the source of the package, the parts between dots one after the other."""
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("nsllm_nir", "exporters")
        for path in (ROOT / folder).rglob("*.py")
    )
    source = re.sub(r'"\n\s+f?"', "", source)  # a message over several lines is one
    for quoted in re.findall(r"`([^`]+)`", cell):
        assert re.search(r"[^\n]*".join(re.escape(part.strip()) for part in quoted.split("...")), source), quoted
