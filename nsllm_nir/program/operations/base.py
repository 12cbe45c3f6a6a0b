"""What every operation of a `Program` states about itself; the operations are the other modules of this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import GraphError, IntegerOverflowError
from nsllm_nir.program.signals import Ints, Signal, Widths

Int64 = NDArray[np.int64]
Values = Mapping[str, Int64]  # signals of one token, (neurons,) each
State = dict[str, Any]  # what operations keep from one token to the next, by name


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One operation: it reads signals, and produces the signal ``name``, one integer per neuron and token.

    A field that holds a string or a tuple of strings, apart from the name, names the signals that it reads, in the
    order of its operands; a field that holds an array is a constant.
    """

    name: str

    @classmethod
    @abstractmethod
    def example(cls, name: str, source: str) -> Self:
        """A small one, which reads the binary spikes of the four neurons of ``source``."""

    @abstractmethod
    def interval(self, operands: Sequence[Signal]) -> Signal:
        """The signal that it produces, from those that it reads.

        Raises:
            GraphError: the constants are not allowed, or do not fit the operands.
        """

    @abstractmethod
    def hardware(self, signal: Signal) -> Counter[str]:
        """Hardware operations per token if every neuron spikes once (docs/semantics.md); ``signal``: what it gives."""

    @abstractmethod
    def compute(self, x: Values, state: State) -> Int64:
        """Its value in this token. x: the inputs, and every signal in front of it; state: replaced, never shared."""

    def remember(self, x: Values, state: State) -> None:  # noqa: B027 - most operations have nothing to do here
        """Called at the end of a token, with every signal in ``x``."""

    def check_widths(self, operands: Sequence[Signal], widths: Widths) -> None:  # noqa: B027
        """Numbers inside of it, other than its signal, fit.

        Raises:
            IntegerOverflowError: they may not.
        """

    @property
    def recurrent(self) -> bool:
        """It never depends on the current token, so it may read a signal that is produced later."""
        return False

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest spike count whatever its operands, None where they decide: what may close a loop."""
        return None

    def error(self, message: str) -> GraphError:
        """The refusal of this operation."""
        return GraphError(f"{self._title}: {message}")

    def overflow(self, message: str) -> IntegerOverflowError:
        """The refusal of numbers that do not fit."""
        return IntegerOverflowError(f"{self._title}{message}")

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"


def sources(op: Operation) -> tuple[str, ...]:
    """Names of the signals that ``op`` reads, in the order of its operands."""
    found: list[str] = []
    for value in _values(op):
        found += [value] if isinstance(value, str) else value if _is_names(value) else []
    return tuple(found)


def constants(op: Operation) -> dict[str, Ints]:
    """The constant arrays of ``op`` by field name."""
    return {
        f.name: value for f, value in zip(fields(op)[1:], _values(op), strict=True) if isinstance(value, np.ndarray)
    }


def _values(op: Operation) -> list[Any]:
    """Of all fields but the name."""
    return [getattr(op, f.name) for f in fields(op)[1:]]


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, str) for part in value)


def same_size(op: Operation, size: int, operands: Sequence[Signal]) -> None:
    """Raises GraphError unless every operand has ``size`` neurons."""
    if any(s.size != size for s in operands):
        raise op.error(f"expects {size} neurons, its sources have {[s.size for s in operands]}")
