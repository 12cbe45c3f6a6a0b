"""What stands in several places and no type checker sees: every table knows every operation, node, backend and family."""

from __future__ import annotations
