"""The bus of `driver.Driver` on the simulated SystemVerilog engine."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from nsllm_nir.errors import BackendError
from nsllm_nir.hw.simulation import REQUEST_TIMEOUT, PipeProcess, Words

_READ_REGISTER, _WRITE_REGISTER, _WRITE_MEMORY, _SEND, _RECEIVE, _WAIT, _ACCOUNTS = range(1, 8)


@dataclass(frozen=True)
class Surroundings:
    """What the engine meets in the simulation.

    latency: cycles from an accepted read to its first beat; interval: cycles from one beat to the next; stalls: percent
    of the cycles in which memory, streams and host hold back; seed: of the stalls and of all registers without a reset;
    address_interval: cycles from one accepted read (a burst) to the next.
    """

    latency: int = 20
    interval: int = 1
    stalls: int = 0
    seed: int = 0
    address_interval: int = 1


@dataclass(frozen=True)
class Accounts:
    """What a simulated engine did between two readings.

    beats, bursts: read from memory; cycles: of the clock; checks: rules of the buses that were looked at and kept;
    op_cycles: clock cycles in which each descriptor was busy.
    """

    beats: int
    bursts: int
    cycles: int
    checks: int
    op_cycles: list[int]


class SimulatedBus(PipeProcess):
    """A simulated engine. binary: what `toolchain.build_rtl` returned; timeout: seconds that one request may take.

    Every method raises BackendError where the engine breaks a rule of its buses (names cycle and channel), crashes or
    hangs.
    """

    def __init__(
        self, binary: Path, surroundings: Surroundings = Surroundings(), timeout: float = REQUEST_TIMEOUT
    ) -> None:
        super().__init__([str(binary), *map(str, astuple(surroundings))], timeout)

    def refusal(self, status: int, text: str) -> BackendError:
        """The error of a broken rule of a bus, which ``text`` names."""
        return BackendError(f"the simulated engine breaks a rule: {text}")

    def read_register(self, offset: int) -> int:
        """The 32-bit register at ``offset`` (bytes)."""
        return int(self._ask(_READ_REGISTER, [offset])[0])

    def write_register(self, offset: int, value: int) -> None:
        """Set the 32-bit register at ``offset`` (bytes)."""
        self._ask(_WRITE_REGISTER, [offset, value])

    def write_memory(self, address: int, words: Words) -> None:
        """Replace the content of the external memory: ``words`` at the byte address, nothing elsewhere."""
        self.request(_WRITE_MEMORY, np.concatenate([np.array([address & 0xFFFFFFFF, address >> 32], "<u4"), words]))

    def send(self, words: Words) -> None:
        """An event packet, (words,) of uint32, to the engine."""
        self.request(_SEND, words)

    def receive(self) -> Words:
        """The next result packet, (words,) of uint32; waits until it is complete."""
        return self._ask(_RECEIVE, [])

    def wait(self) -> None:
        """Until the engine raises its interrupt."""
        self._ask(_WAIT, [])

    def accounts(self) -> Accounts:
        """What happened since the last call."""
        beats, bursts, cycles, checks, *op_cycles = self._ask(_ACCOUNTS, []).view("<u8").tolist()
        return Accounts(beats, bursts, cycles, checks, op_cycles)

    def _ask(self, operation: int, payload: list[int]) -> Words:
        return self.request(operation, np.array(payload, "<u4"))
