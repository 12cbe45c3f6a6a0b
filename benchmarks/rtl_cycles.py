"""Clock cycles of Linear layers on the simulated SystemVerilog engine, against what lanes and memory allow.

    python benchmarks/rtl_cycles.py        # writes benchmarks/rtl_cycles.md

For each layer and firing rate: busy cycles of the layer's descriptor, and the larger of two bounds, events times tiles
of lanes (one memory beat of 2-bit weights per cycle) and the bytes it must read (the rows of the events, biases,
shifts) divided by the bytes of one beat. The memory answers after 20 cycles and then gives one beat in each. Each layer
stands directly behind the Input; its first constants are read while the events arrive.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import load
from nsllm_nir.hw import toolchain
from nsllm_nir.program import Input, Linear, Program

RATES, TOKENS = (0.05, 0.10, 0.25, 0.50), 4
LAYERS = [
    (1024, 256, 2),
    (1024, 1024, 2),
    (1024, 256, 4),
    (1024, 256, 8),
    (256, 512, 2),
    (4096, 320, 4),
]  # sources, outputs, weight bits


def layer(sources: int, outputs: int, bits: int) -> Program:
    """One Linear with biases and shifts that differ, so that these are read."""
    rng = np.random.default_rng(sources + outputs + bits)
    top = (1 << bits - 1) - 1
    weight = rng.integers(-top - 1, top + 1, (outputs, sources)).astype(np.int8)
    op = Linear("linear", "input", weight, rng.integers(-99, 99, outputs), rng.integers(0, 2, outputs))
    return Program((Input("input", sources, 1), op), ("linear",))


def bound(events: int, outputs: int, bits: int) -> int:
    """Cycles that lanes or memory need at least."""
    sizes = toolchain.RTL_BUILD
    beat_bytes = 4 * sizes.beat_words
    row_bytes = -(-outputs * bits // (8 * beat_bytes)) * beat_bytes
    constants = 4 * outputs + outputs
    return max(events * -(-outputs // sizes.lanes), -(-(events * row_bytes + constants) // beat_bytes))


def measure(sources: int, outputs: int, bits: int, rate: float) -> tuple[int, int, int]:
    """Events, busy cycles and bound, summed over the tokens."""
    rng = np.random.default_rng(sources)
    spikes = (rng.random((TOKENS, sources)) < rate).astype(np.int64)
    executable = load("rtl").compile(layer(sources, outputs, bits))
    executable.run(spikes)
    cycles = int(executable.cycles.ops["linear"].sum())  # type: ignore[attr-defined]
    events = spikes.sum(axis=1).tolist()
    return sum(events), cycles, sum(bound(n, outputs, bits) for n in events)


def main() -> None:
    sizes = toolchain.RTL_BUILD
    lines = [
        "# Cycles of the engine",
        "",
        f"Simulated by `python benchmarks/rtl_cycles.py`: {sizes.lanes} lanes, beats of {32 * sizes.beat_words} "
        f"bits, {TOKENS} tokens, "
        f"image format {images.VERSION}.",
        "",
        "Cycles of the layer directly behind the Input; below the bound where constants are read before it starts.",
        "",
        "| sources | outputs | weight bits | rate | events | bound | cycles | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sources, outputs, bits in LAYERS:
        for rate in RATES:
            events, cycles, least = measure(sources, outputs, bits, rate)
            lines.append(
                f"| {sources} | {outputs} | {bits} | {rate:.0%} | {events} | {least} | {cycles} "
                f"| {cycles / least:.3f} |"
            )
            print(lines[-1], flush=True)
    (Path(__file__).parent / "rtl_cycles.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
