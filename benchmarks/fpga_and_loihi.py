"""The shipped language model on the FPGA engine and, by the Lava constraint report, on Loihi 2.

python benchmarks/fpga_and_loihi.py        # writes docs/fpga_and_loihi.md
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cost_model_cases import Case
from cost_model_validation import shipped, text

from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import lava_constraints as lava
from nsllm_nir.exporters import rtl
from nsllm_nir.exporters.lava_network import WEIGHT_BITS
from nsllm_nir.hw import boards, toolchain
from nsllm_nir.hw.estimate import Estimate, estimate, setting
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.hw.token_work import profile
from nsllm_nir.program import Linear, Program

TOKENS = 32
PAGE = Path(__file__).parents[1] / "docs" / "fpga_and_loihi.md"
# Loihi, the first generation, 14 nm: picojoules of one operation.
LOIHI_PJ = {"synaptic operation": 23.6, "neuron update, active": 81.0, "neuron update, inactive": 52.0}
LOIHI_SOURCE = (
    "Davies et al., Loihi: A Neuromorphic Manycore Processor with On-Chip Learning, IEEE Micro 2018, table 2: its "
    "authors' simulation at 0.75 V"
)


def simulated(case: Case) -> tuple[float, float]:
    """Cycles and bytes read per token of the simulated engine, the answer with the logits only."""
    sizes = case.setting.sizes
    surroundings = Surroundings(latency=int(case.setting.latency), interval=int(case.setting.interval))
    executable = rtl.Executable(
        case.program, images.pack_image(case.program, sizes.beat_words), toolchain.build_rtl(sizes), surroundings
    )
    with executable.open() as session:
        session.run(case.spikes, traced=False)
        accounts = session.engine.accounts()
    return float(accounts.total.mean()), float(accounts.beats.mean()) * 4 * sizes.beat_words


def fpga(found: Estimate, cycles: float, read: float) -> list[str]:
    assert found.dynamic is not None
    rate = found.clock_mhz * 1e6 / cycles
    signal, state = found.memory["signal memory"], found.memory["state memory"]
    return [
        f"| cycles per token | {cycles:,.1f} | simulated, clock by clock |",
        f"| cycles per token, cost model | {found.cycles:,.1f} ({found.cycles / cycles - 1:+.2%}) | modelled |",
        f"| tokens per second at {found.clock_mhz:g} MHz | {rate:,.0f} | simulated cycles; the clock is assumed |",
        f"| latency of one token | {1e6 / rate:,.1f} us | likewise |",
        f"| weights and constants | {found.image_bytes / 1e6:.2f} MB in external memory | exact |",
        f"| on chip | {signal[0]:,} signal and {state[0]:,} state words | exact |",
        f"| read from memory | {read / 1e3:,.0f} kB per token | simulated |",
        (
            f"| dynamic energy, lower bound | {1e6 * sum(found.dynamic.values()):.0f} uJ per token "
            "| modelled from published figures; no power was measured |"
        ),
    ]


def by_process(program: Program, rows: list[lava.Constraint]) -> list[str]:
    """Neurons, synapses and cores by kind of op and Lava Process."""
    kinds = {op.name: type(op).__name__ for op in program.ops} | {"": "(constants)"}
    groups: dict[tuple[str, str, str], list[lava.Constraint]] = {}
    for row in rows:
        groups.setdefault((kinds[row.node], row.role, row.process), []).append(row)
    lines = [
        "| op | role | Process | neurons | synapses | cores (estimated) | refused |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, role, process), members in groups.items():
        neurons, synapses, cores = (
            sum(getattr(row, name) for row in members) for name in ("neurons", "synapses", "cores")
        )
        refused = sum(row.status != "ok" for row in members)
        lines.append(f"| {kind} | {role} | {process} | {neurons:,} | {synapses:,} | {cores:.2f} | {refused} |")
    return lines


def loihi(rows: list[lava.Constraint]) -> list[str]:
    cores, synapses = lava.estimated_cores(rows), sum(row.synapses for row in rows)
    neurons, copies = sum(row.neurons for row in rows), sum(row.neurons for row in rows if row.role == "copy")
    widest = max(max(abs(row.state_low), abs(row.state_high)) for row in rows)
    steps = max(row.lag or 0 for row in rows)
    weights = [row for row in rows if row.synapses]
    size, there = synapses * WEIGHT_BITS / 8e6, cores * lava.CORE_SYNAPSE_BITS / 8e6
    lowest, highest = min(row.weight_low for row in weights), max(row.weight_high for row in weights)
    return [
        f"| constraints broken | {sum(row.status != 'ok' for row in rows)} of {len(rows)} rows | constraint report |",
        f"| cores | {cores} of {lava.LOIHI2_CORES} | estimated from public budgets; the mapper is proprietary |",
        (
            f"| neurons | {neurons:,}, of which {copies:,} only delay a value until its partner arrives "
            "| constraint report |"
        ),
        (
            f"| synapses | {synapses:,}, {size:.2f} MB of {WEIGHT_BITS} bits; {there:.2f} MB in these cores "
            "| constraint report |"
        ),
        f"| weights | {lowest} to {highest} as stored: {WEIGHT_BITS} bits and a shared sign mode | constraint report |",
        f"| states | worst case {widest:,}, {widest.bit_length() + 1} of {lava.STATE_BITS} bits | constraint report |",
        (
            f"| throughput | one token per time step, in a pipeline of {steps + 1} steps "
            "| `lava-stock`, exact in the Lava simulator |"
        ),
        f"| latency of one token | {steps + 1} time steps, and generation waits for all of them | constraint report |",
        "| duration of a time step | not published for such a network | |",
    ]


def main() -> None:
    program, spikes, board = shipped(), text(TOKENS), boards.load("vck190")
    where = setting(board)
    build = Case("shipped", program, spikes, where)
    found = estimate(program, images.pack_image(program, board.engine.beat_words), spikes, board)
    rows = lava.constraints(program)
    tokens = profile(program, spikes, board.engine.ports)
    outputs = {op.name: op.weight.shape[0] for op in program.ops if isinstance(op, Linear)}
    messages = float(
        np.mean(
            [
                sum(outputs[w.name] * sum(p.events for p in w.passes) for w in works if w.name in outputs)
                for works in tokens
            ]
        )
    )
    additions = float(
        np.mean(
            [
                sum(outputs[w.name] * sum(p.digits for p in w.passes) for w in works if w.name in outputs)
                for works in tokens
            ]
        )
    )
    neurons = sum(row.neurons for row in rows)
    assert found.dynamic is not None
    share = found.dynamic["memory_byte"] / sum(found.dynamic.values())
    synaptic, active, inactive = LOIHI_PJ.values()
    low, high = (1e-6 * (messages * synaptic + neurons * update) for update in (inactive, active))
    lines = [
        "# The same model on the FPGA engine and on Loihi",
        "",
        (
            f"Written by `python benchmarks/fpga_and_loihi.py`: the shipped language model, one file, on {TOKENS} "
            "held-out tokens."
        ),
        (
            "The public commentary on NSLLM asks what a neuromorphic chip instead of an FPGA would give. This page "
            "puts beside each other what can be"
        ),
        (
            "said without either silicon: nothing here ran on an FPGA or on Loihi. Both sides compute the same "
            "integers (`nsllm-nir verify`)."
        ),
        "",
        f"## FPGA: {board.title}",
        "",
        (
            f"{board.engine.lanes} lanes, {board.engine.ports} ports, memory latency {where.latency:g} cycles, "
            f"{where.interval:g} cycle per beat."
        ),
        "",
        "| figure | value | tier |",
        "|---|---|---|",
        *fpga(found, *simulated(build)),
        "",
        "## Loihi 2",
        "",
        (
            "From `nsllm-nir verify model.nir --backend lava-stock --constraints report.json`, that is "
            "`exporters/lava_constraints.py`, and docs/lava.md."
        ),
        "",
        "| figure | value | tier |",
        "|---|---|---|",
        *loihi(rows),
        "",
        "What each op becomes:",
        "",
        *by_process(program, rows),
        "",
        (
            "- Native: weighted sums (synapses of 8 bits beside their core, no external memory), one spike per LIF, "
            "graded messages."
        ),
        (
            "- Not native: a count of D levels takes D LIF neurons per channel and a sum; a gate takes a product "
            "neuron; the leaky states are loops of"
        ),
        (
            "  graded neurons; every value that waits for another takes copies, one per step. Where the FPGA engine "
            "needs one word, Loihi needs a neuron."
        ),
        (
            "- Not possible with stock processes: waiting for the next token. The pipeline verifies a known text, but "
            "each generated token costs its full length."
        ),
        "",
        "## Work per token",
        "",
        "| | FPGA engine | Loihi 2 | tier |",
        "|---|---|---|---|",
        (
            f"| synaptic operations | {additions:,.0f} additions, one per unit of a count "
            f"| {messages:,.0f} graded messages at synapses (products) | simulated |"
        ),
        (
            f"| neuron updates | {sum(w.size for w in tokens[0]):,} values of all ops "
            f"| {neurons:,} neurons, each step | constraint report |"
        ),
        f"| weights fetched from DRAM | {found.bytes / 1e3:,.0f} kB | none | simulated |",
        "",
        "Published energy per operation exists for the first Loihi only: "
        + ", ".join(f"{name} {value} pJ" for name, value in LOIHI_PJ.items())
        + ".",
        f"({LOIHI_SOURCE}; quoted second-hand.)",
        (
            f"Times the work of the projections and the updates above: {low:.1f} to {high:.1f} uJ per token dynamic "
            "(**modelled**; a figure neither of Loihi 2"
        ),
        (
            "nor of a whole network: messages between cores, the synapses of helper neurons and static power are left "
            "out). No figure of Loihi 2 is used here."
        ),
        "",
        "## What this answers",
        "",
        (
            f"- Memory decides. The FPGA engine reads {found.bytes / 1e3:,.0f} kB per token from DRAM, {share:.0%} of "
            "its modelled dynamic energy;"
        ),
        (
            "  on Loihi the weights lie beside the neurons, so that this part vanishes. An FPGA whose memories on "
            "chip hold the model would gain the same."
        ),
        f"- Size decides the rest: this model takes {lava.estimated_cores(rows) / lava.LOIHI2_CORES:.0%} of a chip.",
        "  With 8 bits per synapse, 1.515 G weights fill the synapse memories of",
        (
            f"  {1.515e9 * WEIGHT_BITS / lava.CORE_SYNAPSE_BITS / lava.LOIHI2_CORES:,.0f} chips (computed), against "
            "one DRAM module."
        ),
        (
            "- Precision is no obstacle for this model: every constraint of the report holds, without a change of the "
            "model."
        ),
        (
            "- Generation is: a token that depends on the one before waits for all "
            f"{max(row.lag or 0 for row in rows) + 1} steps of the pipeline."
        ),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
