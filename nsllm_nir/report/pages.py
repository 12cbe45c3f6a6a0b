"""Pages: one self-contained HTML file from a template and its context."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from nsllm_nir.files import write_bytes


def write_html(path: Path, template: str, context: dict[str, Any]) -> None:
    """Render a template of this package to one self-contained page."""
    source = (files("nsllm_nir.report") / "templates" / template).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    write_bytes(path, environment.from_string(source).render(context).encode())
