"""A language model of NSLLM's size on the VCK190: tokens per second and joules per token, beside the paper's.

    python benchmarks/nsllm_on_vck190.py        # writes benchmarks/nsllm_on_vck190.md and .png

No weights are needed: the ops of this project's block at the paper's sizes, with the firing statistics of
the shipped model (`nsllm_scale.py`), and the cost model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from nsllm_scale import (
    BITS,
    FFN,
    LAYERS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Choice,
    Result,
    Role,
    board_of,
    evaluate,
    parameters,
    roles,
    token,
)

HERE = Path(__file__).parent
PAPER_TOKENS, PAPER_WATTS, PAPER_RATIO, PAPER_SPEEDUP = 161.8, 13.849, 19.8, 2.2
# Of the whole engine, for what fits: of another device, whose look-up tables are smaller.
LUT_PER_LANE, LUT_TIER = 49, "synthesised: LUT4 on ECP5 with 4 ports (rtl_synthesis.md); 16 ports take more"
URAM_MBIT = 463 * 0.288  # UltraRAM of the XCVC1902 (DS950)
BASE = Choice()
AXES: list[tuple[str, list[tuple[str, Choice]]]] = [
    (
        "lanes / ports",
        [
            ("64 / 4", replace(BASE, lanes=64, ports=4)),
            ("128 / 8", replace(BASE, lanes=128, ports=8)),
            ("256 / 8", replace(BASE, ports=8)),
        ],
    ),
    (
        "clock, MHz",
        [
            ("150", replace(BASE, clock_mhz=150.0)),
            ("350", replace(BASE, clock_mhz=350.0)),
            ("500", replace(BASE, clock_mhz=500.0)),
        ],
    ),
    (
        "DRAM efficiency",
        [
            ("0.3", replace(BASE, efficiency=0.3)),
            ("0.5", replace(BASE, efficiency=0.5)),
            ("0.95", replace(BASE, efficiency=0.95)),
        ],
    ),
    ("firing, times the shipped model's", [(f"{x:g}", replace(BASE, firing=x)) for x in (0.1, 0.25, 0.5, 1.5)]),
    ("receptance in the mixer (13 d² per layer)", [("yes", replace(BASE, gated_mixer=True))]),
]


def tornado(base: Result, found: dict[str, list[tuple[str, Result]]]) -> Figure:
    """The range of tokens per second and of dynamic energy along each axis, the widest on top; the ends are named."""

    def rate(result: Result) -> float:
        return result.rate

    def millijoules(result: Result) -> float:
        return 1e3 * result.dynamic

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    ranges = {axis: [rate(base), *(rate(result) for _, result in results)] for axis, results in found.items()}
    order = sorted(found, key=lambda axis: max(ranges[axis]) - min(ranges[axis]))
    for axes, name, value, paper in (
        (figure.add_subplot(1, 2, 1), "tokens per second (modelled)", rate, PAPER_TOKENS),
        (figure.add_subplot(1, 2, 2), "dynamic mJ per token (modelled)", millijoules, 1e3 * PAPER_WATTS / PAPER_TOKENS),
    ):
        for row, axis in enumerate(order):
            ends = sorted(
                [("", value(base)), *((label, value(result)) for label, result in found[axis])], key=lambda end: end[1]
            )
            (first, low), (last, high) = ends[0], ends[-1]
            axes.barh(row, high - low, left=low, height=0.5, color="tab:blue")
            if high - low > 0.05 * value(base):
                axes.text(low, row, f"{first} ", fontsize=7, ha="right", va="center")
                axes.text(high, row, f" {last}", fontsize=7, ha="left", va="center")
        axes.axvline(value(base), color="black", linewidth=1, label="base")
        axes.axvline(paper, color="tab:red", linestyle="--", linewidth=1, label="paper")
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_xlim(left=-0.06 * axes.get_xlim()[1])
        axes.set_xlabel(name)
        axes.legend(fontsize=7, loc="lower right")
    figure.axes[1].set_yticks([])
    return figure


def row(name: str, result: Result) -> str:
    binding = max(result.roofs, key=lambda roof: result.roofs[roof])
    return (
        f"| {name} | {result.rate:,.1f} | {1e3 * result.dynamic:.1f} | {1e-6 * result.bytes:.1f} "
        f"| {1e-6 * sum(result.cycles.values()):.3f} | {binding} "
        f"({result.roofs[binding] / result.seconds:.0%}) |"
    )


def doubling(known: dict[int, dict[str, Role]]) -> list[str]:
    """What each firing rate needs for twice the paper's tokens per second, and the firing rate that reaches it."""
    rate, energy = 2 * PAPER_TOKENS, PAPER_WATTS / PAPER_TOKENS / 2
    lines = [
        (
            f"Twice the paper: {rate:.1f} tokens/s and {1e3 * energy:.1f} mJ dynamic per token, that is the paper's "
            f"{PAPER_WATTS} W at twice its rate."
        ),
        (
            "What the three resources must give at each firing rate, if all of them overlap (a lower bound of what is "
            "needed):"
        ),
        "",
        (
            "| firing | lanes, GHz (there: 64) | GB/s from memory | of the DDR4's peak "
            "| vector unit, neurons per cycle (there: 16) | dynamic mJ |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for firing in (1.0, 0.5, 0.25, 0.1):
        result = evaluate(replace(BASE, firing=firing), known[BASE.ports])
        lanes = result.roofs["lanes"] * BASE.clock_mhz * 1e-3 * BASE.lanes * rate
        memory = result.bytes * rate / 1e9
        ports = BASE.ports * result.roofs["elementwise, answer, descriptors"] * rate
        lines.append(
            f"| {firing:g} x | {lanes:.0f} | {memory:.1f} | {memory / (BASE.bandwidth / 1e9):.0%} | {ports:.1f} "
            f"| {1e3 * result.dynamic:.1f} |"
        )
    first, own = evaluate(BASE, known[BASE.ports]), highest_firing(BASE, known[BASE.ports], PAPER_TOKENS)
    lines += [
        "",
        (
            f"So with the shipped model's firing it takes {first.roofs['lanes'] * rate:.1f} times the lanes (or their "
            "clock) and"
        ),
        (
            f"{first.roofs['memory'] * rate:.1f} times the bandwidth of the base; or neurons that fire less often. "
            "The base reaches the paper's own"
        ),
        (
            f"{PAPER_TOKENS} tokens/s where they fire {own:.3f} times as often. All joules here are below the goal, "
            "but they are a lower bound: no proof."
        ),
        "",
        (
            "The highest firing rate at which a build reaches twice the paper's tokens per second (modelled; 512 and "
            "1024 lanes are no builds of this engine, they"
        ),
        "continue the structure of the model, with a memory port of 2 bits per lane):",
        "",
        "| lanes / ports | clock, MHz | memory, GB/s | firing, times the shipped model's | dynamic mJ there |",
        "|---|---|---|---|---|",
    ]
    for lanes, clock, bandwidth in (
        (256, 250.0, 25.6e9),
        (256, 500.0, 25.6e9),
        (512, 250.0, 25.6e9),
        (1024, 250.0, 25.6e9),
        (1024, 500.0, 25.6e9),
        (1024, 500.0, 51.2e9),
    ):
        choice = replace(BASE, lanes=lanes, clock_mhz=clock, bandwidth=bandwidth)
        factor = highest_firing(choice, known[choice.ports], rate)
        at = (
            f"{factor:.3f} | {1e3 * evaluate(replace(choice, firing=factor), known[choice.ports]).dynamic:.1f}"
            if factor
            else "none | "
        )
        lines.append(f"| {lanes} / {choice.ports} | {clock:g} | {bandwidth / 1e9:.1f} | {at} |")
    return lines


def highest_firing(choice: Choice, known: dict[str, Role], rate: float) -> float:
    """By bisection in (0, 1.2]; 0 where even silence is too slow."""
    low, high = 0.0, 1.2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if evaluate(replace(choice, firing=middle), known).rate >= rate else (low, middle)
    return low if low > 0 else 0.0


def paper(base: Result) -> list[str]:
    """The paper's figures, with both readings of its 19.8 x."""
    joule, gpu_rate = PAPER_WATTS / PAPER_TOKENS, PAPER_TOKENS / PAPER_SPEEDUP
    watts = PAPER_WATTS * PAPER_RATIO
    readings = [
        ("tokens per joule", joule * PAPER_RATIO * gpu_rate, joule * PAPER_RATIO),
        ("watts", watts, watts / gpu_rate),
    ]
    lines = [
        "| | tokens/s | dynamic W | dynamic mJ/token | tier |",
        "|---|---|---|---|---|",
        (
            f"| this engine, base | {base.rate:.1f} | {base.dynamic * base.rate:.2f} | {1e3 * base.dynamic:.1f} "
            "| modelled; no power was measured |"
        ),
        f"| NSLLM on VCK190 | {PAPER_TOKENS} | {PAPER_WATTS} | {1e3 * joule:.1f} | published |",
    ]
    lines += [
        f"| A800, if 19.8 x is a ratio of {name} | {gpu_rate:.1f} | {w:.1f} | {1e3 * j:.0f} | computed from published |"
        for name, w, j in readings
    ]
    return [
        *lines,
        "",
        *(
            (
                f"A ratio of {name}: the paper's own ratio of J/token is {j / joule:.1f} x, that of this engine "
                f"(modelled) {j / base.dynamic:.1f} x."
            )
            for name, _, j in readings
        ),
        (
            "The paper's watts are dynamic only, and so are these; the engine's count adders, memory reads and "
            "on-chip accesses, not the clock tree, control,"
        ),
        (
            "routing beyond the published ratio, or the memory controller: a lower bound. The device's static power "
            "is not published, so no total is given."
        ),
    ]


def fits(known: dict[str, Role]) -> list[str]:
    """Memory and logic against the device."""
    works, board = token(BASE, known), board_of(BASE)
    weights = parameters(works)
    signals = sum(-(-work.size // 64) * 64 for work in works)
    states = sum(
        (work.size if work.kind == "Integrate" else 64 + work.size)
        for work in works
        if work.kind in ("Integrate", "Delay")
    )
    bits = board.engine.potential_bits
    bram, both = 36e-3 * board.device.capacity["block_ram"], (signals + states) * bits / 1e6
    lut = LUT_PER_LANE * BASE.lanes

    engine, luts = board.engine, board.device.capacity["lut"]

    def line(name: str, need: str, there: str, fit: bool, tier: str) -> str:
        return f"| {name} | {need} | {there} | {'yes' if fit else 'no'} | {tier} |"

    def words(name: str, need: int, there: int, tier: str) -> str:
        return line(
            name, f"{need:,} words ({need * bits / 1e6:.1f} Mb)", f"{there:,} words in the build", need <= there, tier
        )

    return [
        "| resource | needed | there | fits | tier |",
        "|---|---|---|---|---|",
        line(
            "external memory",
            f"{weights * BITS / 8e6:,.0f} MB of weights",
            f"{4e-9 * board.memory.words:.1f} GB",
            True,
            "computed",
        ),
        line("LUT", f"{lut:,} ({LUT_PER_LANE} per lane)", f"{luts:,}", lut <= luts, LUT_TIER),
        words(
            "signal memory", signals, engine.signal_words, "computed; the packer gives each signal a place of its own"
        ),
        words("state memory", states, engine.state_words, "computed"),
        line(
            "both in block RAM and UltraRAM",
            f"{both:.1f} Mb",
            f"{bram:.1f} + {URAM_MBIT:.1f} Mb",
            both <= bram + URAM_MBIT,
            "computed; DS950",
        ),
        line(
            "event queue",
            f"{VOCABULARY:,} entries (embedding)",
            f"{engine.queue_words:,} in the build",
            engine.queue_words >= VOCABULARY,
            "computed",
        ),
        line("descriptors", f"{len(works):,}", f"{engine.descriptors:,}", len(works) <= engine.descriptors, "computed"),
    ]


def main() -> None:
    known = {ports: roles(ports) for ports in (4, 8, 16)}
    base = evaluate(BASE, known[BASE.ports])
    found = {
        axis: [(label, evaluate(choice, known[choice.ports])) for label, choice in choices] for axis, choices in AXES
    }
    tornado(base, found).savefig(HERE / "nsllm_on_vck190.png", dpi=120, metadata={"Software": None})
    works, events = token(BASE, known[BASE.ports]), known[BASE.ports]
    lines = [
        "# A language model of NSLLM's size on the VCK190",
        "",
        (
            "Written by `python benchmarks/nsllm_on_vck190.py`. Everything here is **modelled**, unless a row says "
            "otherwise; nothing ran on a VCK190."
        ),
        "",
        "## Assumptions",
        "",
        "- The ops of this project's block (docs/semantics.md) at the paper's sizes:",
        (
            f"  {LAYERS} layers, d = {WIDTH}, feed-forward {FFN}, vocabulary {VOCABULARY:,}: "
            f"{parameters(works) / 1e9:.3f} G weights."
        ),
        (
            "  RWKV-4 has a receptance in its mixer as well "
            f"({parameters(token(replace(BASE, gated_mixer=True), events)) / 1e9:.3f} G): a row of the sensitivity."
        ),
        (
            f"- All weights have {BITS} bits (ternary), also those of embedding and head; every bias and shift is "
            "read from memory. Batch 1."
        ),
        f"- Firing as in the shipped model on {TOKENS} held-out tokens, per op (mean over its layers; simulated):",
        "  share of source neurons that spike, "
        + ", ".join(
            f"{name} {events[name].events:.0%}" for name in ("receptance", "out", "mixer.up", "mixer.down", "head")
        )
        + "; their mean counts are "
        + ", ".join(
            f"{events[name].digits / events[name].events:.2f}"
            for name in ("receptance", "out", "mixer.up", "mixer.down", "head")
        )
        + ". NSLLM's firing rates are not public.",
        (
            "- Cycles of each op from `hw/unit_costs.json` (fitted to clock-accurate simulation; "
            "[cost_model.md](cost_model.md))."
        ),
        "  Build, clock, memory and energy per unit of work as in `hw/boards/vck190.toml`:",
        "  256 lanes, 16 ports, 250 MHz (assumed), DDR4 of 25.6 GB/s at an efficiency of 0.8 (assumed).",
        "- The answer of a token holds its 50,277 logits, one per cycle; choosing the next token is left to the host.",
        "",
        "## Beside the paper",
        "",
        *paper(base),
        "",
        "## Where the time goes (base)",
        "",
        "| part | cycles | share |",
        "|---|---|---|",
        *(
            f"| {name} | {value:,.0f} | {value * 1e-6 / BASE.clock_mhz / base.seconds:.1%} |"
            for name, value in base.cycles.items()
        ),
        "",
        "Roofs, the time that each would take alone:",
        "",
        "| roof | ms | of the token |",
        "|---|---|---|",
        *(f"| {name} | {1e3 * value:.2f} | {value / base.seconds:.0%} |" for name, value in base.roofs.items()),
        "",
        f"The binding roof is that of the {max(base.roofs, key=lambda roof: base.roofs[roof])}.",
        "",
        "## Sensitivity",
        "",
        "![tornado plot](nsllm_on_vck190.png)",
        "",
        "| | tokens/s | dynamic mJ/token | MB/token | Mcycles/token | largest roof (share of the token) |",
        "|---|---|---|---|---|---|",
        row("base", base),
        *(row(f"{axis}: {label}", result) for axis, results in found.items() for label, result in results),
        "",
        "## Does it fit",
        "",
        *fits(events),
        "",
        "## To double both",
        "",
        *doubling(known),
    ]
    (HERE / "nsllm_on_vck190.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
