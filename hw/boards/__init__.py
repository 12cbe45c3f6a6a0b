"""Boards: one TOML file each in this folder, read into a `Board`. A new board is a new file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.hw import families
from nsllm_nir.hw.image_check import check_image
from nsllm_nir.hw.toolchain import RtlSizes

FOLDER = Path(__file__).parent
MEMORIES = ("on-chip", "sdram", "external")


@dataclass(frozen=True)
class Device:
    """The FPGA.

    family: one of `families.names`; part: as its vendor writes it; chip, package, speed: as nextpnr writes them, where
    its family has them.

    released: groups of configuration pins that the design has as ordinary ones (Gowin); capacity: of its kinds of
    resource, by the names of `synthesis.Area`.
    """

    family: str
    part: str
    chip: str = ""
    package: str = ""
    speed: str = ""
    released: list[str] = field(default_factory=list)
    capacity: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Where the program image lies. kind: one of `MEMORIES`; words: its size in 32-bit words.

    ``sdram``: of 16 bits at the clock of the engine, behind ``sdram_memory``; ``external``: any other, for estimates
    only.

    latency: clock cycles from a read to its first beat; bandwidth: peak in bytes per second (0 on chip: one beat per
    cycle); efficiency: share of the peak that long reads get.
    """

    kind: str
    words: int
    latency: int
    bandwidth: float = 0.0
    efficiency: float = 1.0


@dataclass(frozen=True)
class Power:
    """Figures of energy, with their tier and source.

    picojoules: of one unit of work by its name, dynamic; static: watts at rest, None where not known.
    """

    picojoules: dict[str, float]
    tier: str
    source: str
    static: float | None = None


@dataclass(frozen=True)
class Board:
    """A board and the build of the spike engine for it.

    clock_mhz: of the engine; oscillator_mhz: of the board's clock pin.

    pins: {port of the top module: location}; `io_standard` is that of all of them. Without pins there is no bitstream,
    only an estimate. power: None where no figures are known.
    """

    name: str
    title: str
    source: str
    device: Device
    engine: RtlSizes
    memory: Memory
    clock_mhz: float
    oscillator_mhz: float = 0.0
    io_standard: str = ""
    pins: dict[str, str] = field(default_factory=dict)
    power: Power | None = None

    @property
    def beat_interval(self) -> float:
        """Clock cycles from one beat of the memory to the next, not rounded: 1, or as the bandwidth asks for."""
        memory = self.memory
        if not memory.bandwidth:
            return 1.0
        return max(1.0, 4 * self.engine.beat_words * self.clock_mhz * 1e6 / (memory.bandwidth * memory.efficiency))


def names() -> list[str]:
    """The boards that are described, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Board:
    """The board of this name.

    Raises:
        InputError: there is none, or its file is not as `Board` says (names the field).
    """
    path = FOLDER / f"{name}.toml"
    if name not in names():
        raise InputError(f"there is no board {name!r}; known are {', '.join(names())}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path.name}: {error}") from None
    board: Board = _read(Board, {"name": name, **content}, path.name)
    if board.device.family not in families.names():
        raise InputError(
            f"{path.name}: device.family must be one of {', '.join(families.names())}, got {board.device.family!r}"
        )
    if board.memory.kind not in MEMORIES:
        raise InputError(f"{path.name}: memory.kind must be one of {', '.join(MEMORIES)}, got {board.memory.kind!r}")
    return board


def require_fit(image: bytes, board: Board) -> None:
    """Check that the engine and the memory of a board hold a program image.

    Raises:
        LossyConversionError: they do not (names the limit).
    """
    if refusal := check_image(image, board.engine):
        raise LossyConversionError(
            f"{board.name}: the program does not fit the spike engine of this board: {refusal.text}"
        )
    if len(image) > 4 * board.memory.words:
        raise LossyConversionError(
            f"{board.name}: the program image has {len(image) // 4:,} words, the {board.memory.kind} memory of "
            f"this board {board.memory.words:,}; "
            "take narrower weights, a smaller model or another board"
        )


def _read(kind: Any, content: Any, where: str) -> Any:
    """``content`` as the dataclass ``kind``."""
    if not isinstance(content, dict):
        raise InputError(f"{where} must be a table, got {content!r}")
    hints = get_type_hints(kind)
    if unknown := sorted(set(content) - {f.name for f in fields(kind)}):
        raise InputError(f"{where}: unknown field {unknown[0]}; known are {', '.join(f.name for f in fields(kind))}")
    values = {}
    for name, value in content.items():
        nested = (
            {"device": Device, "engine": RtlSizes, "memory": Memory, "power": Power}.get(name)
            if kind is Board
            else None
        )
        if nested:
            values[name] = _read(nested, value, f"{where}: {name}")
            continue
        expected = hints[name]
        if expected in (float, float | None) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, getattr(expected, "__origin__", expected)):
            raise InputError(
                f"{where}: {name} must be of type {getattr(expected, '__name__', expected)}, got {value!r}"
            )
        values[name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None
