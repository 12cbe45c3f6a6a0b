"""What objects show in a notebook: small tables of escaped text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

MOST_ROWS = 200


def html_table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; numbers stand right, everything is escaped. Of more than `MOST_ROWS` rows the rest is counted."""
    remaining = iter(rows)
    shown = list(islice(remaining, MOST_ROWS))
    hidden = sum(1 for _ in remaining)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in shown)
    more = f"<tr><td>and {hidden:,} more</td></tr>" if hidden else ""
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}{more}</table>"


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td style="text-align: right">{value:,}</td>'
    return f'<td style="text-align: left">{escape(str(value))}</td>'
