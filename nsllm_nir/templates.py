"""Text files and pages from templates with blanks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, facts: Mapping[str, Any]) -> str:
    """The file ``template`` (Jinja) with its blanks filled. In a page (``.html``) what is filled in is escaped.

    Raises:
        jinja2.UndefinedError: a blank without a fact.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=template.suffix == ".html",
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(facts)
