"""The bus of `driver.Driver` over a serial line to a board (protocol: docs/boards.md)."""

from __future__ import annotations

import struct
import time
from binascii import crc_hqx
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.hw.registers import OFFSETS

Words = NDArray[np.uint32]
BAUD = 1_000_000
VERSION = 1
ANSWER_TIMEOUT = 2.0  # seconds; the board answers as soon as a request has ended
LONGEST = 255  # words in a request or an answer
_REQUEST, _ANSWER = 0x5A, 0xA5
_RESET, _READ_REGISTER, _WRITE_REGISTER, _WRITE_MEMORY, _SEND, _RECEIVE = range(1, 7)
_LAST, _INTERRUPT, _DAMAGED, _REFUSED = 1, 2, 4, 8


class SerialPort(Protocol):
    """What a `SerialBus` needs of a port, as pyserial's `Serial` has it."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer, or none, if no more come within the time-out of the port."""
        ...

    def write(self, data: bytes) -> Any:
        """All of ``data``."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


def open_port(name: str) -> SerialPort:
    """The serial port ``name`` (``/dev/ttyUSB0``, ``COM3``) with the settings of the boards.

    1 Mbaud, 8 data bits, no parity, 1 stop bit.

    Raises:
        ToolNotFoundError: pyserial is not installed.
        BackendError: the port cannot be opened.
    """
    try:
        import serial
    except ImportError:
        raise ToolNotFoundError(
            "a serial port needs the Python package pyserial, which is not installed; install it with: "
            "pip install pyserial"
        ) from None
    try:
        port: SerialPort = serial.Serial(name, BAUD, timeout=0.1, write_timeout=ANSWER_TIMEOUT)
    except (OSError, ValueError) as error:  # SerialException is an OSError
        raise BackendError(
            f"cannot open the serial port {name}: {error}; check that the board is plugged in and that you may use "
            "the port"
        ) from None
    return port


class SerialBus:
    """A board with a spike engine. Use it as a context manager: leaving it closes the port.

    Connecting brings both sides into step and resets the engine: an image has to be loaded afterwards. After an error,
    connect again.

    port: its name, or an open port; timeout: seconds that a command of the engine may take; memory_words: 32-bit words
    that an image may have; queue_words: that an event packet may have.

    Raises:
        ToolNotFoundError: pyserial is not installed.
        BackendError: the port cannot be opened, nothing answers, or something else than a board of this release does.
        Every method raises it where the board does not answer in time, an answer is damaged, or the board refuses.
    """

    def __init__(self, port: str | SerialPort, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._port = open_port(port) if isinstance(port, str) else port
        try:
            # Zeros end a request that has got stuck; between requests the board passes over them.
            self._write(bytes(4 * LONGEST + 9))
            deadline = time.monotonic() + ANSWER_TIMEOUT
            while self._receive_bytes(4096):
                if time.monotonic() > deadline:
                    raise BackendError("the serial port does not fall silent; check that it is the port of the board")
            version, self.memory_words, self.queue_words = self._ask(_RESET)[1].tolist()
            if version != VERSION:
                raise BackendError(
                    f"the board speaks version {version} of the serial protocol, this driver version {VERSION}; use "
                    "a build of the same release"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def read_register(self, offset: int) -> int:
        """The 32-bit register at ``offset`` (bytes)."""
        return int(self._ask(_READ_REGISTER, offset)[1][0])

    def write_register(self, offset: int, value: int) -> None:
        """Set the 32-bit register at ``offset`` (bytes)."""
        self._ask(_WRITE_REGISTER, offset, np.array([value], "<u4"))

    def write_memory(self, address: int, words: Words) -> None:
        """Words, (words,) of uint32, into the image memory from the byte ``address`` on, a multiple of 4.

        Raises:
            BackendError: they do not fit the memory; else as the class says.
        """
        if address % 4 or address // 4 + words.size > self.memory_words:
            raise BackendError(
                f"{words.size} words at byte {address} do not fit the image memory of the board, which has "
                f"{self.memory_words} words"
            )
        for first in range(0, words.size, LONGEST):
            self._ask(_WRITE_MEMORY, address + 4 * first, words[first : first + LONGEST])

    def send(self, words: Words) -> None:
        """An event packet, (words,) of uint32, to the engine."""
        if words.size > self.queue_words:
            raise BackendError(
                f"an event packet has {words.size} words, the queue of the board holds {self.queue_words}"
            )
        for first in range(0, words.size, LONGEST):
            self._ask(_SEND, int(first + LONGEST >= words.size), words[first : first + LONGEST])

    def receive(self) -> Words:
        """The next result packet, (words,) of uint32; waits until it is complete."""
        parts, deadline = [], time.monotonic() + self.timeout
        while True:
            status, words = self._ask(_RECEIVE, LONGEST)
            parts.append(words)
            if status & _LAST:
                return np.concatenate(parts)
            self._check(deadline, "the result packet")

    def wait(self) -> None:
        """Until the engine raises its interrupt."""
        deadline = time.monotonic() + self.timeout
        while not self._ask(_RECEIVE)[0] & _INTERRUPT:
            self._check(deadline, "the interrupt")

    def _check(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            status = self.read_register(OFFSETS["control"])
            raise BackendError(
                f"{what} did not come within {self.timeout:g} s (control register 0x{status:X}); connect again, or "
                "set a longer time-out"
            )

    def _ask(self, operation: int, address: int = 0, words: Words | None = None) -> tuple[int, Words]:
        """Send a request; status and words of its answer."""
        payload = b"" if words is None else words.astype("<u4").tobytes()
        request = struct.pack("<BBI", operation, len(payload) // 4, address) + payload
        self._write(bytes([_REQUEST]) + request + crc_hqx(request, 0xFFFF).to_bytes(2, "big"))
        head = self._read(4)
        if head[0] != _ANSWER:
            raise BackendError(
                f"the serial port answers with the byte 0x{head[0]:02X}, expected 0x{_ANSWER:02X}; check the port "
                "and the bitstream loaded"
            )
        body = self._read(4 * head[3] + 2)
        if crc_hqx(head[1:] + body, 0xFFFF):
            raise BackendError(
                "an answer of the board has a wrong checksum: bytes were lost or changed on the line; connect again, "
                "check the cable"
            )
        if head[2] & _DAMAGED:
            raise BackendError(
                "the board received a request with a wrong checksum: bytes were lost or changed on the line; "
                "connect again, check the cable"
            )
        if head[2] & _REFUSED or head[1] != operation:
            raise BackendError(
                f"the board refuses operation {operation} at {address} with {len(payload) // 4} words (status "
                f"{head[2]}); connect again"
            )
        return head[2], np.frombuffer(body[:-2], "<u4")

    def _read(self, size: int) -> bytes:
        data, deadline = b"", time.monotonic() + ANSWER_TIMEOUT
        while len(data) < size:
            data += self._receive_bytes(size - len(data))
            if len(data) < size and time.monotonic() > deadline:
                raise BackendError(
                    f"the board sent {len(data)} of {size} bytes of an answer within {ANSWER_TIMEOUT:g} s; check "
                    "that the bitstream is loaded, "
                    "that the port is that of the board, and the cable"
                )
        return data

    def _receive_bytes(self, size: int) -> bytes:
        try:
            return self._port.read(size)
        except OSError as error:
            raise BackendError(f"the serial port failed: {error}; check that the board is plugged in") from None

    def _write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:
            raise BackendError(f"the serial port failed: {error}; check that the board is plugged in") from None
