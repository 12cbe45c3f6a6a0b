"""What a build for a board found: simulation, synthesis, figures with their tiers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nsllm_nir.hw.boards import Board
from nsllm_nir.hw.floorplan import Floorplan
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.hw.synthesis import Area, Placement

REST = "start, streams"  # cycles of a token in which no op is busy


@dataclass(frozen=True)
class Figure:
    """A number with its tier: ``simulated``, ``synthesised``, ``modelled``."""

    name: str
    value: float
    unit: str
    tier: str


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv2d in the simulation.

    row_bytes: fetched for an event (Conv2d: at most); cycles: busy, per token; events: per token.
    """

    name: str
    weight_bits: int
    row_bytes: int
    events: float
    cycles: float


@dataclass(frozen=True)
class Simulated:
    """A run of the board's engine over the input tokens; all numbers but ``tokens`` are means per token.

    cycles, bytes: of a token without its trace; blocks: busy cycles by block of the model, `REST` last.
    """

    tokens: int
    cycles: float
    bytes: float
    blocks: dict[str, float]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Hardware:
    """What synthesis gave.

    placement, bitstream and floorplan: of a board with pins; kept: it came from the cache, no tool ran.
    """

    area: Area
    placement: Placement | None = None
    bitstream_name: str = ""
    bitstream: bytes = field(default=b"", repr=False)
    floorplan: Floorplan = field(default_factory=dict, repr=False)
    kept: bool = False


@dataclass(frozen=True)
class Report:
    """What `build` found. tools: {name: version}; files: {name in the folder: what it is}."""

    board: Board
    image_bytes: int
    simulated: Simulated
    hardware: Hardware
    surroundings: Surroundings
    tools: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> list[Figure]:
        """The table of the report."""
        area, placement, run = self.hardware.area, self.hardware.placement, self.simulated
        tier = "synthesised" if placement else "synthesised (yosys estimate)"
        names = {
            "lut": "LUT",
            "carry": "carry cells",
            "ff": "FF",
            "block_ram": "block RAM",
            "lut_ram": "LUT RAM",
            "dsp": "DSP",
        }
        rows = [Figure(text, getattr(area, name), "cells", tier) for name, text in names.items()]
        if placement:
            rows.append(Figure("Fmax", placement.fmax_mhz, "MHz", "synthesised (placed and routed)"))
        rows += [
            Figure("cycles per token", run.cycles, "cycles", "simulated"),
            Figure("fetched per token", run.bytes, "bytes", "simulated"),
        ]
        if placement:
            rows.append(Figure("tokens per second at Fmax", 1e6 * placement.fmax_mhz / run.cycles, "1/s", "modelled"))
        rate = 1e6 * self.board.clock_mhz / run.cycles
        return [
            *rows,
            Figure(
                f"tokens per second at {self.board.clock_mhz:g} MHz",
                rate,
                "1/s",
                "modelled" if placement else "modelled (clock assumed)",
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        hardware = asdict(self.hardware)
        del hardware["bitstream"], hardware["floorplan"]
        return {
            "board": asdict(self.board),
            "image_bytes": self.image_bytes,
            "figures": [asdict(figure) for figure in self.figures],
            "differences": 0,  # `simulate` ends with an error at the first
            "simulated": asdict(self.simulated),
            "memory_model": asdict(self.surroundings),
            "hardware": hardware,
            "tools": self.tools,
            "not_run": [] if self.board.pins else ["Vivado", "Vitis HLS"],
            "files": self.files,
        }
