"""Hardware for a board: image, simulation of its engine, synthesis, bitstream or vendor projects, and a report."""

from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import rtl
from nsllm_nir.exporters.hls import build_vitis
from nsllm_nir.files import check_new_folder, new_folder, write_bytes, write_json
from nsllm_nir.fpga_build.results import REST, Hardware, Layer, Report, Simulated
from nsllm_nir.hw import bitstream, boards, families, floorplan, synthesis, toolchain
from nsllm_nir.hw.boards import Board
from nsllm_nir.hw.instruction_set import HEADER_WORDS, OP_WORDS, Descriptor
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.hw.synthesis import Area, Placement
from nsllm_nir.processes import Progress
from nsllm_nir.program import Conv2d, Linear, Program, reference
from nsllm_nir.program.trace import Trace, compare, first_difference
from nsllm_nir.report.tables import block_of
from nsllm_nir.templates import render

Tell = Callable[[str], None]


def _silent(message: str) -> None:
    """Nobody listens."""


def build(
    program: Program,
    inputs: NDArray[np.integer],
    board: Board,
    out: Path,
    timeout: float,
    *,
    progress: Tell = _silent,
    detail: Tell = _silent,
) -> Report:
    """Everything that puts ``program`` on ``board``, in the new folder ``out``, which appears whole or not at all.

    inputs: spikes (tokens, neurons) that the simulation runs; timeout: seconds for each tool; progress: told each step
    as it starts; detail: told how far a tool is.

    Raises:
        InputError: ``out`` exists and is not empty, or the inputs do not fit the program.
        LossyConversionError: the program does not fit the engine or the memory of the board (names the limit).
        ToolNotFoundError: a tool is missing (names the command that installs it).
        BackendError: a tool failed or took too long, or the simulated engine differs from the reference.
    """
    check_new_folder(out)
    image = pack(program, board)
    tools = tool_versions(board)
    progress("run the reference")
    trace = reference.run(program, inputs)
    progress(f"simulate the engine of {board.name}")
    around = surroundings(board)
    simulated = simulate(program, inputs, trace, board, around)
    progress(f"synthesise for {board.device.part}")
    hardware = synthesise_board(board, tools, timeout, detail)
    report = Report(board, len(image), simulated, hardware, around, tools)
    progress("write the files")
    with new_folder(out) as folder:
        return _write(report, image, program, inputs, trace, folder)


def pack(program: Program, board: Board) -> bytes:
    """The program image for the engine of a board.

    Raises:
        LossyConversionError: the engine or the memory of the board cannot hold it (names the limit).
    """
    image = images.pack_image(program, board.engine.beat_words)
    boards.require_fit(image, board)
    return image


def tool_versions(board: Board) -> dict[str, str]:
    """{tool: version} of every tool that `build` runs for a board.

    Raises:
        ToolNotFoundError: one is missing (names the command that installs it).
    """
    simulator, compiler = toolchain.find_verilator(), toolchain.find_compiler()
    tools = {tool: synthesis.version(tool) for tool in bitstream.tools(board)}
    return {"verilator": simulator.version, "g++": toolchain.compiler_version(compiler), **tools}


def surroundings(board: Board) -> Surroundings:
    """The memory of a board as the simulation has it: whole clock cycles from beat to beat, rounded up."""
    return Surroundings(latency=board.memory.latency, interval=math.ceil(board.beat_interval))


def simulate(
    program: Program, inputs: NDArray[np.integer], trace: Trace, board: Board, around: Surroundings
) -> Simulated:
    """Run the engine of a board clock by clock: once traced, against ``trace``, once as in use, for the cycles.

    Raises:
        BackendError: a value differs from ``trace`` (names the first), or the simulated engine fails.
    """
    engine = rtl.executable(program, board.engine, around)
    results = compare(trace, engine.run(inputs))
    if first := first_difference(results):
        raise BackendError(
            f"the simulated engine differs from the reference in {sum(r.differences for r in results)} cells, "
            f"first at {first}"
        )
    engine.run(inputs, traced=False)
    cycles, tokens = engine.cycles, len(inputs)
    assert cycles is not None
    blocks: dict[str, float] = {}
    for name, busy in cycles.ops.items():
        blocks[block_of(name)] = blocks.get(block_of(name), 0.0) + float(busy.mean())
    blocks[REST] = float(cycles.total.mean()) - sum(blocks.values())
    layers = []
    words = np.frombuffer(engine.image, "<u4")[HEADER_WORDS:]
    for op, row in zip(program.ops, words[: OP_WORDS * len(program.ops)].reshape(-1, OP_WORDS).tolist(), strict=True):
        if isinstance(op, Linear | Conv2d):
            descriptor = Descriptor(*row[:14])
            events = engine.counters[op.name].rows / tokens
            layers.append(
                Layer(op.name, descriptor.parameter, 4 * descriptor.stride, events, float(cycles.ops[op.name].mean()))
            )
    return Simulated(
        tokens,
        float(cycles.total.mean()),
        4 * board.engine.beat_words * float(cycles.beats.mean()),
        blocks,
        tuple(layers),
    )


def synthesise_board(board: Board, tools: dict[str, str], timeout: float, progress: Progress) -> Hardware:
    """The engine of a board: with pins down to the bitstream, else as cells.

    It does not depend on the program, so it is kept in the cache.

    Raises:
        ToolNotFoundError, BackendError: as `bitstream.build_bitstream` and `synthesis.synthesise`.
    """
    made = False

    def run(folder: Path) -> Path:
        nonlocal made
        made = True
        hardware = asdict(_synthesise(board, folder, timeout, progress))
        hardware["bitstream"] = base64.b64encode(hardware["bitstream"]).decode()
        (folder / "hardware.json").write_text(json.dumps(hardware), encoding="utf-8")
        return folder / "hardware.json"

    design = (
        board.device,
        board.engine,
        board.memory.kind,
        board.memory.words,
        board.clock_mhz,
        board.oscillator_mhz,
        board.io_standard,
        board.pins,
    )
    sources = [
        *bitstream.design_files(),
        *(path for path in Path(families.__file__).parent.iterdir() if path.is_file()),
        *map(Path, (bitstream.__file__, floorplan.__file__, synthesis.__file__)),
    ]
    kept = toolchain.cached("hardware", [board.name, repr(design), *tools.values()], sources, run)
    return replace(_decode(json.loads(kept.read_text(encoding="utf-8"))), kept=not made)


def _synthesise(board: Board, folder: Path, timeout: float, progress: Progress) -> Hardware:
    if board.pins:
        found = bitstream.build_bitstream(board, folder, timeout=timeout, progress=progress)
        return Hardware(found.area, found.placement, found.file.name, found.file.read_bytes(), found.floorplan)
    settings = board.engine.parameters()
    return Hardware(
        synthesis.synthesise(board.device.family, "spike_engine", folder, settings, timeout=timeout, progress=progress)
    )


def _decode(data: dict[str, Any]) -> Hardware:
    placement = data["placement"]
    if placement:
        placement = Placement(
            **{**placement, "used": {kind: (used, there) for kind, (used, there) in placement["used"].items()}}
        )
    plan = {kind: [(column, row, n) for column, row, n in tiles] for kind, tiles in data["floorplan"].items()}
    return Hardware(Area(**data["area"]), placement, data["bitstream_name"], base64.b64decode(data["bitstream"]), plan)


def _write(
    report: Report, image: bytes, program: Program, inputs: NDArray[np.integer], trace: Trace, folder: Path
) -> Report:
    """All files; returns the report that names them."""
    from nsllm_nir.fpga_build import report as build_report
    from nsllm_nir.report.plots import png

    board, files = report.board, {"image.bin": "the program image"}
    write_bytes(folder / "image.bin", image)
    if report.hardware.bitstream:
        files[report.hardware.bitstream_name] = "the bitstream: the engine, for any program that fits it"
        write_bytes(folder / report.hardware.bitstream_name, report.hardware.bitstream)
    else:
        files |= {
            "README.txt": "how the vendor's tools take the projects",
            "vivado/": "the SystemVerilog engine for Vivado (not run)",
        }
        files["vitis/"] = "the C++ engine for Vitis HLS (not run)"
        _vivado(board, folder)
        build_vitis(program, inputs, trace, folder / "vitis", part=board.device.part, clock_ns=1000 / board.clock_mhz)
    for name, (meaning, figure) in build_report.figures(report).items():
        files[name] = meaning
        write_bytes(folder / name, png(figure))
    files |= {"report.md": "this report", "report.json": "the same as data"}
    report = replace(report, files=files)
    write_bytes(folder / "report.md", build_report.markdown(report).encode())
    write_json(folder / "report.json", report.to_json())
    return report


def _vivado(board: Board, folder: Path) -> None:
    """``vivado/`` and README.txt."""
    project = folder / "vivado"
    (project / "rtl").mkdir(parents=True)
    sources = toolchain.rtl_files()
    for source in sources:
        shutil.copyfile(source, project / "rtl" / source.name)
    facts: dict[str, object] = {
        "title": board.title, "part": board.device.part, "clock_mhz": board.clock_mhz,
        "clock_ns": round(1000 / board.clock_mhz, 3),
        "sources": [f"rtl/{source.name}" for source in sources], "parameters": board.engine.parameters(),
    }  # fmt: skip
    for path, template in (
        (project / "build.tcl", "build.tcl"),
        (project / "spike_engine.xdc", "spike_engine.xdc"),
        (folder / "README.txt", "README.txt"),
    ):
        path.write_text(render(toolchain.TEMPLATES / "vivado" / f"{template}.j2", facts), encoding="utf-8")
