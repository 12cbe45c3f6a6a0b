"""Random programs on the simulated SystemVerilog engine, in random surroundings: its buses and its values.

    python benchmarks/axi_protocol.py        # writes benchmarks/axi_protocol.md

Program, spikes, image address, latency, interval, stalls and cost of a read follow from a seed. In each clock cycle the
simulation checks the rules of AXI4, AXI4-Lite and AXI4-Stream that `hw/rtl_simulation` lists; a broken one ends the run
and is counted. Every value of every node is compared with the integer reference.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from nsllm_nir.errors import BackendError, IntegerOverflowError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters.spike_engine import EngineSession
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.simulated_bus import Accounts, SimulatedBus, Surroundings
from nsllm_nir.program import (
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Lif,
    Linear,
    Op,
    Program,
    Sum,
    Widths,
    reference,
)
from nsllm_nir.program.trace import Trace, compare

SEEDS, TOKENS = range(40), 6


class ProgramMaker:
    """Programs of random topology, sizes, weight widths and ops; the same for the same generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.ops: list[Op] = []

    def program(self) -> Program:
        while True:
            try:
                return self.draw()
            except IntegerOverflowError:  # values that could leave the engine's words: draw again
                continue

    def draw(self) -> Program:
        size, levels = int(self.rng.integers(1, 150)), int(self.rng.choice([1, 3, 15, 200]))
        self.ops = [Input("input", size, levels)]
        source, sums = "input", ""
        for _ in range(int(self.rng.integers(1, 5))):
            sums, width = (
                self.convolution(source, size)
                if size % 4 == 0 and self.rng.random() < 0.5
                else self.linear(source, size)
            )
            source, size = self.neurons(sums, width), width
        return Program(tuple(self.ops), (source, sums), Widths(32, 32))

    def add(self, op: Op) -> str:
        self.ops.append(op)
        return op.name

    def name(self) -> str:
        return f"node_{len(self.ops)}"

    def linear(self, source: str, size: int) -> tuple[str, int]:
        width, top = int(self.rng.integers(1, 200)), int(self.rng.choice([1, 7, 127]))
        names = []
        for _ in range(int(self.rng.integers(1, 4))):
            weight = self.rng.integers(-top - 1, top + 1, (width, size)).astype(np.int8)
            names.append(
                self.add(
                    Linear(
                        self.name(), source, weight, self.rng.integers(-99, 99, width), self.rng.integers(0, 2, width)
                    )
                )
            )
        return (
            names[0] if len(names) == 1 else self.add(Sum(self.name(), tuple(names), self.rng.integers(-9, 9, width)))
        ), width

    def convolution(self, source: str, size: int) -> tuple[str, int]:
        shape, outputs, top = (2, 2, size // 4), 2 * int(self.rng.integers(1, 9)), int(self.rng.choice([1, 7, 127]))
        groups = int(self.rng.integers(1, 3))
        weight = self.rng.integers(-top - 1, top + 1, (outputs, 2 // groups, 2, 3)).astype(np.int8)
        bias, shift = self.rng.integers(-99, 99, outputs), self.rng.integers(0, 2, outputs)
        op = Conv2d(
            self.name(), source, weight, bias, shift, shape, (1, int(self.rng.integers(1, 4))), (1, 2), (1, 1), groups
        )
        return self.add(op), int(np.prod(op.output_shape))

    def neurons(self, source: str, size: int) -> str:
        """Spikes of ``source``, some of them late or gated."""
        match self.rng.integers(4):
            case 0:
                decays = self.rng.integers(500, 4097, (2, size))
                spikes = self.add(
                    Lif(
                        self.name(),
                        source,
                        decays[0],
                        decays[1],
                        self.rng.integers(50, 500, size),
                        self.rng.integers(-99, 99, size),
                    )
                )
            case 1:
                kept = self.add(Integrate(self.name(), source, 256 - 2 ** self.rng.integers(0, 9, size), 0))
                spikes = self.add(Count(self.name(), kept, self.rng.integers(50, 500, size), 3, True))
            case _:
                levels, signed = int(self.rng.choice([1, 4, 40])), bool(self.rng.integers(2))
                spikes = self.add(Count(self.name(), source, self.rng.integers(20, 200, size), levels, signed))
        if self.rng.random() < 0.3:
            spikes = self.add(Delay(self.name(), spikes, self.rng.integers(0, 4, size)))
        if self.rng.random() < 0.3:
            gate = self.add(Count(self.name(), source, self.rng.integers(1, 50, size), 1, False))
            spikes = self.add(Gate(self.name(), gate, spikes))
        return spikes


def run(seed: int, binary: Path) -> tuple[Program, Accounts, int]:
    """Program, accounts of its run from loading on, and cells that differ from the reference.

    Raises:
        BackendError: the engine breaks a rule.
    """
    rng = np.random.default_rng(seed)
    program = ProgramMaker(rng).program()
    node = program.inputs[0]
    spikes = rng.integers(0, node.levels + 1, (TOKENS, node.size)) * (
        rng.random((TOKENS, node.size)) < rng.choice([0.05, 0.3, 0.9])
    )
    latency, interval, stalls, cost = (
        int(rng.choice(choices)) for choices in ([1, 5, 20, 90], [1, 1, 3], [0, 20, 50, 70], [1, 2, 9])
    )
    address = int(rng.integers(0, 1 << 44)) * 4 * toolchain.RTL_BUILD.beat_words
    with SimulatedBus(binary, Surroundings(latency, interval, stalls, seed, cost)) as bus:
        driver = Driver(bus, address)
        driver.load(images.pack_image(program, driver.sizes.beat_words))
        got = Trace(EngineSession(program, driver).run(spikes, traced=True))
        return (
            program,
            bus.accounts(),
            sum(result.differences for result in compare(reference.run(program, spikes), got)),
        )


def main() -> None:
    sizes, binary = toolchain.RTL_BUILD, toolchain.build_rtl()
    totals: Counter[str] = Counter()
    ops: Counter[str] = Counter()
    for seed in SEEDS:
        try:
            program, accounts, differences = run(seed, binary)
        except BackendError as error:
            totals["violations"] += 1
            print(f"seed {seed}: {error}", flush=True)
            continue
        ops.update(type(op).__name__ for op in program.ops)
        totals.update(
            clock_cycles=accounts.cycles,
            bursts_read=accounts.bursts,
            beats_read=accounts.beats,
            rules_checked=accounts.checks,
            different_cells=differences,
        )
        print(f"seed {seed}: {len(program.ops)} ops, {accounts.cycles} cycles, {differences} differences", flush=True)
    rows = [
        ("programs", len(SEEDS)),
        ("clock cycles", totals["clock_cycles"]),
        ("bursts read", totals["bursts_read"]),
        ("beats read", totals["beats_read"]),
        ("rules checked", totals["rules_checked"]),
        ("**rules broken**", totals["violations"]),
        ("**cells that differ from the reference**", totals["different_cells"]),
    ]
    lines = [
        "# The buses of the SystemVerilog engine (simulated)",
        "",
        (
            f"Written by `python benchmarks/axi_protocol.py`: {sizes.lanes} lanes, {TOKENS} tokens each, random "
            "programs, addresses, latencies (1 to 90 cycles),"
        ),
        "intervals of beats (1, 3) and of reads (1, 2, 9), stalls (0 to 70 %).",
        "Ops: " + ", ".join(f"{name} {count}" for name, count in sorted(ops.items())) + ".",
        "",
        "| what | number |",
        "|---|---|",
        *(f"| {name} | {number:,} |" for name, number in rows),
    ]
    (Path(__file__).parent / "axi_protocol.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if totals["violations"] or totals["different_cells"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
