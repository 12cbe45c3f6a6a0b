"""Host driver of the spike engine: the register map of docs/image_format.md over any bus."""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.hw.image_check import check_image, read_header
from nsllm_nir.hw.instruction_set import VERSION
from nsllm_nir.hw.registers import IDENTIFICATION, LOAD, OFFSETS, RESET, STEP, STEP_TRACED, status_text
from nsllm_nir.hw.toolchain import RtlSizes

Words = NDArray[np.uint32]
START, DONE = 1, 1


class Bus(Protocol):
    """How a host reaches the engine. Words are uint32; offsets and addresses count bytes."""

    def read_register(self, offset: int) -> int:
        """The 32-bit register at ``offset``."""
        ...

    def write_register(self, offset: int, value: int) -> None:
        """Set the 32-bit register at ``offset``."""
        ...

    def write_memory(self, address: int, words: Words) -> None:
        """Words into the external memory that the engine reads."""
        ...

    def send(self, words: Words) -> None:
        """One packet into the event stream; may return before the engine has taken it."""
        ...

    def receive(self) -> Words:
        """The next packet of the result stream; waits for its last word."""
        ...

    def wait(self) -> None:
        """Wait for the interrupt."""
        ...


class Driver:
    """An engine behind a bus. sizes: the build, as its identification registers state it.

    address: byte address of the program image in external memory.

    Raises:
        BackendError: no spike engine answers, or one of another image format.
    """

    def __init__(self, bus: Bus, address: int = 0) -> None:
        self.bus, self.address = bus, address
        self._result_words: dict[int, int] = {}  # of each step command; empty without a loaded image
        self._ops = 0
        if (found := self._read("identification")) != IDENTIFICATION:
            raise BackendError(
                f"no spike engine answers: its identification register reads 0x{found:08X}, "
                f"expected 0x{IDENTIFICATION:08X}"
            )
        if (version := self._read("image_version")) != VERSION:
            raise BackendError(
                f"the spike engine reads image format {version}, this driver writes format {VERSION}; "
                "use a build of the same release"
            )
        self.sizes = RtlSizes(**{field.name: self._read(field.name) for field in fields(RtlSizes)})
        for name in ("interrupt_enable", "interrupt_mask"):
            bus.write_register(OFFSETS[name], 1)

    def load(self, image: bytes) -> None:
        """Check an image, write it to external memory and have the engine load it; the states are cleared.

        Raises:
            BackendError: the image is damaged or too large for the build (names the limit), or the engine refuses it.
        """
        if refusal := check_image(image, self.sizes):
            raise BackendError(f"the image is refused (status {refusal.status & 0xFF}): {refusal.text}")
        self.load_unchecked(image)

    def load_unchecked(self, image: bytes) -> None:
        """As `load`, but only the engine itself checks the image.

        Raises:
            BackendError: the engine refuses the image.
        """
        words = np.frombuffer(image, "<u4")
        self._result_words = {}
        self.bus.write_memory(self.address, words)
        settings = {
            "image_address_low": self.address & 0xFFFFFFFF,
            "image_address_high": self.address >> 32,
            "image_words": words.size,
        }
        for name, value in settings.items():
            self.bus.write_register(OFFSETS[name], value)
        self._start(LOAD)
        self._finish()
        header = read_header(image)
        self._ops = header.ops
        self._result_words = {
            STEP: header.output_words + 2 * header.ops,
            STEP_TRACED: header.trace_words + 2 * header.ops,
        }

    def reset(self) -> None:
        """Back to the silent start.

        Raises:
            BackendError: no image is loaded.
        """
        self._start(RESET)
        self._finish()

    def step(self, events: Words, traced: bool) -> Words:
        """Advance one token. events: (n, 2) neuron and count; returns the port words, then two counters per op.

        Raises:
            BackendError: no image is loaded, or the engine refuses an event.
        """
        command = STEP_TRACED if traced else STEP
        if not self._result_words:
            raise BackendError("no image is loaded into the spike engine; load one first")
        pairs = np.ascontiguousarray(events, "<u4").reshape(-1)
        self.bus.send(np.concatenate([np.array([pairs.size // 2], "<u4"), pairs]))
        self._start(command)
        words = self.bus.receive()
        self._finish()
        if words.size != self._result_words[command]:
            raise BackendError(
                f"the spike engine sent {words.size} words for a token, expected {self._result_words[command]}"
            )
        return words

    def run(self, spikes: NDArray[np.integer], traced: bool) -> Words:
        """Advance by spikes (tokens, neurons): the ports of every token, then two 64-bit counters per op, summed.

        Raises:
            BackendError: as `step`.
        """
        ports, counters = [], np.zeros(2 * self._ops, "<u8")
        for row in spikes:
            active = np.flatnonzero(row)
            words = self.step(np.stack([active, row[active]], axis=1).astype("<u4"), traced)
            ports.append(words[: words.size - counters.size])
            counters += words[words.size - counters.size :]
        return np.concatenate([*ports, counters.view("<u4")])

    @property
    def cycles(self) -> int:
        """Clock cycles of the last command."""
        return self._read("cycles_low") | self._read("cycles_high") << 32

    def _read(self, name: str) -> int:
        return self.bus.read_register(OFFSETS[name])

    def _start(self, command: int) -> None:
        self.bus.write_register(OFFSETS["command"], command)
        self.bus.write_register(OFFSETS["control"], START)

    def _finish(self) -> None:
        self.bus.wait()
        self.bus.write_register(OFFSETS["interrupt_status"], DONE)
        if status := self._read("status"):
            raise BackendError(f"the spike engine refuses (status {status & 0xFF}): {status_text(status)}")
