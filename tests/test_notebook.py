"""What a notebook shows: escaped tables with the numbers of the objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from nsllm_nir import verify
from nsllm_nir.errors import BackendError
from nsllm_nir.notebook import MOST_ROWS, html_table
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace
from nsllm_nir.report.tables import backends_table
from nsllm_nir.verification.verify import BackendResult


def cells(html: str) -> list[list[str]]:
    """The text of the rows, headings first; every tag is closed."""
    opened: list[str] = []
    rows: list[list[str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            opened.append(tag)
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append("")

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

        def handle_data(self, data: str) -> None:
            if opened[-1] in ("td", "th"):
                rows[-1][-1] += data

    Reader().feed(html)
    assert not opened
    return rows


def test_everything_is_escaped_and_long_tables_are_cut() -> None:
    html = html_table("<b>", ("<i>",), [("<script>alert(1)</script>",)])
    assert set(re.findall(r"<(\w+)", html)) == {"table", "caption", "tr", "th", "td"}
    assert cells(html) == [["<i>"], ["<script>alert(1)</script>"]]
    rows = cells(html_table("", ("n",), ((i,) for i in range(MOST_ROWS + 1234))))
    assert len(rows) == MOST_ROWS + 2 and rows[MOST_ROWS] == [str(MOST_ROWS - 1)] and rows[-1] == ["and 1,234 more"]


def test_a_program_shows_its_operations(random_program: Callable[..., Program]) -> None:
    program = random_program(0)
    head, *rows = cells(program._repr_html_())
    assert [row[0] for row in rows] == [op.name for op in program.ops]
    low, high = program.signals["logits"].low.min(), program.signals["logits"].high.max()
    found = dict(zip(head, rows[-1], strict=True))
    assert (found["operation"], found["reads"], found["neurons"]) == ("Linear", "final_spikes", "16")
    assert (found["lowest"], found["highest"]) == (f"{low:,}", f"{high:,}")


def test_a_trace_shows_its_nodes(random_program: Callable[..., Program], tokens: np.ndarray) -> None:
    trace = reference.run(random_program(0), reference.one_hot(tokens, 16))
    head, *rows = cells(trace._repr_html_())
    assert [row[0] for row in rows] == list(trace.values)
    values = trace.values["logits"]
    expected = (48, 16, np.abs(values).sum(), values.min(), values.max())
    assert rows[-1][1:] == [f"{number:,}" for number in expected] and len(head) == 6
    assert cells(Trace({"x": np.zeros((0, 3), np.int64)})._repr_html_())[1] == ["x", "0", "3", "0", "", ""]


def test_a_report_shows_its_backends(random_program: Callable[..., Program], tokens: np.ndarray) -> None:
    report = verify(random_program(0), tokens, ["reference"])
    (result,) = report.results
    broken = BackendResult("broken", "", 0.0, (), None, BackendError("<it broke>"))
    (wrong,) = (node for node in result.nodes if node.node == "logits")
    different = replace(wrong, differences=3, first=None)
    report = replace(report, results=(result, broken, replace(result, backend="wrong", nodes=(different,))))
    _, good, bad, other = cells(report._repr_html_())
    assert (good[0], good[3:]) == ("reference", ["0", "exact"]) and int(good[2].replace(",", "")) > 0
    assert bad == ["broken", "", "0", "", "BackendError: <it broke>"]
    assert other[3] == "3"


def test_a_table_shows_itself(random_program: Callable[..., Program], tokens: np.ndarray) -> None:
    table = backends_table(verify(random_program(0), tokens, ["reference"]))
    assert "reference" in table._repr_mimebundle_([], [])["text/html"]
