"""What the command line writes: progress on stderr, tables on stdout."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 110  # columns where stdout is no terminal


class Steps:
    """Says on stderr what runs now, and how long it took once it is done."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.message, self.start = "", 0.0
        self.status = self.console.status("") if self.console.is_terminal else None

    def __call__(self, message: str) -> None:
        """End the step before, and say what starts now."""
        self._finish()
        self.message, self.start = message, time.perf_counter()
        if self.status:
            self.status.update(message)
            self.status.start()
        else:
            print(f"{message} ...", end="", file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """How far the step is; only where stderr is a terminal."""
        if self.status:
            self.status.update(f"{self.message}: {text}")

    def _finish(self) -> None:
        if not self.message:
            return
        seconds = f"{time.perf_counter() - self.start:.1f} s"
        if self.status:
            self.status.stop()
            self.console.print(f"{self.message}: {seconds}", highlight=False)
        else:
            print(f" {seconds}", file=sys.stderr, flush=True)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()


def show(*items: Any) -> None:
    """Print tables and text on stdout, `PLAIN_WIDTH` columns wide where that is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    for item in items:
        if isinstance(item, str):
            console.print(item, markup=False, soft_wrap=True)
            continue
        if isinstance(item, Table) and item.title:  # above the table: a title wraps at the width of its table
            console.print(f"\n[bold]{item.title}[/]")
            item.title = None
        console.print(item)
