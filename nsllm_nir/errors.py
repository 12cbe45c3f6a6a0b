"""Every error this project raises on purpose: what went wrong, where, and what to do about it."""

from __future__ import annotations


class NsllmNirError(Exception):
    """Base class; the command line prints its message and exits with status 2."""


class GraphError(NsllmNirError, ValueError):
    """A NIR file or graph that cannot be read, is inconsistent, or holds an unknown node."""


class LossyConversionError(NsllmNirError, ValueError):
    """Something the target cannot hold exactly; nothing was written."""


class IntegerOverflowError(NsllmNirError, OverflowError):
    """A program whose worst case does not fit the declared widths."""


class InputError(NsllmNirError, ValueError):
    """Input spikes, tokens or weights of the wrong shape, type or range."""


class BackendError(NsllmNirError, RuntimeError):
    """A backend that started and failed (crash, time-out, refused program)."""


class ToolNotFoundError(NsllmNirError, RuntimeError):
    """A missing compiler, package or simulator; the message holds the command that installs it."""
