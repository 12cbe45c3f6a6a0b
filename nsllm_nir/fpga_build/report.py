"""The report of `build` as tables, Markdown and pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from nsllm_nir.fpga_build.results import Report
from nsllm_nir.hw import toolchain
from nsllm_nir.report.plots import INK, MARK
from nsllm_nir.templates import render

COLOURS = {2: "#17365d", 4: "#d98200", 8: "#4a8f5a"}  # by weight bits


def number(value: float) -> str:
    """Whole numbers with separators, others with four digits."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def facts(report: Report) -> dict[str, str]:
    """What the figures hold for."""
    board, around, engine = report.board, report.surroundings, report.board.engine
    beat = 4 * engine.beat_words
    return {
        "board": f"{board.title} ({board.name})",
        "part": f"{board.device.part}{f' {board.device.package}' if board.device.package else ''}",
        "engine": f"{engine.lanes} lanes, {engine.ports} ports, {engine.signal_words:,} words of signals, "
        f"{engine.state_words:,} of states",
        "memory": f"{board.memory.kind}; simulated: first beat after {around.latency} cycles, then {beat} bytes "
        f"every {around.interval}",
        "program image": f"{report.image_bytes:,} bytes of {4 * board.memory.words:,}",
        "input": f"{report.simulated.tokens} tokens, every cell of every node compared with the reference: 0 "
        f"differences",
        "clock": f"{board.clock_mhz:g} MHz{'' if report.hardware.placement else ' (assumed: nothing was placed)'}",
        "synthesis": "kept from an earlier build of the same sources, board and tools"
        if report.hardware.kept
        else "run for this report",
    }


def tables(report: Report) -> list[Table]:
    """Facts and figures for the terminal."""
    head = Table(title=f"Build for {report.board.name}", show_header=False)
    head.add_column(no_wrap=True)
    head.add_column(overflow="fold")
    for name, text in facts(report).items():
        head.add_row(name, text)
    table = Table(title="Figures")
    for column in ("what", "value", "unit", "tier"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in report.figures:
        table.add_row(figure.name, number(figure.value), figure.unit, figure.tier)
    return [head, table]


def markdown(report: Report) -> str:
    """report.md."""
    placement = report.hardware.placement
    return render(
        toolchain.TEMPLATES / "report.md.j2",
        {
            "report": report, "facts": facts(report), "number": number, "shares": shares(report),
            "pictures": [n for n in report.files if n.endswith(".png")],
            "critical": placement and f"{placement.critical}: {placement.critical_ns:.1f} ns, "
            f"{placement.routing_ns:.1f} ns of it in wires",
        },
    )  # fmt: skip


def shares(report: Report) -> dict[str, tuple[float, float]]:
    """{kind of site or resource: (used, there)} of what the design uses."""
    if report.hardware.placement:
        return {kind: (used, there) for kind, (used, there) in report.hardware.placement.used.items() if used}
    area, there = report.hardware.area, report.board.device.capacity
    half = sum(n for name, n in area.cells.items() if name.startswith("RAMB18"))  # of a block RAM as the vendor counts
    used = {
        "lut": area.lut,
        "ff": area.ff,
        "block_ram": area.block_ram - half / 2,
        "lut_ram": area.lut_ram,
        "dsp": area.dsp,
    }
    return {kind: (used[kind], there[kind]) for kind in used if kind in there}


def figures(report: Report) -> dict[str, tuple[str, Figure]]:
    """{file name: (what it shows, picture)}."""
    placed = (
        {"floorplan.png": ("where the design lies on the device", floorplan(report))}
        if report.hardware.floorplan
        else {}
    )
    return {
        **placed,
        "utilisation.png": ("used share of each kind of site", utilisation(report)),
        "cycles.png": ("cycles by block of the model", cycles(report)),
        "roofline.png": ("events per cycle of each layer against what lanes and memory allow", roofline(report)),
    }


def floorplan(report: Report) -> Figure:
    """A panel per kind of site: a square where one is used, the darker the more of its tile are."""
    plan = report.hardware.floorplan
    tiles = np.array([tile for members in plan.values() for tile in members])
    (width, height), figure = tiles[:, :2].max(axis=0) + 2, Figure(figsize=(4 * len(plan), 4.2), layout="constrained")
    for axes, (kind, members) in zip(figure.subplots(1, len(plan), squeeze=False)[0], plan.items(), strict=True):
        picture = np.zeros((height, width))
        for column, row, count in members:
            picture[row, column] = count
        axes.imshow(picture, cmap="Blues", vmin=0, vmax=max(1.0, picture.max()), interpolation="nearest")
        axes.set_title(f"{kind}: {number(picture.sum())}", fontsize=9)
        axes.set_xlabel("column", fontsize=8)
        axes.set_ylabel("row", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def utilisation(report: Report) -> Figure:
    """Bars: used share of each kind of site."""
    found = shares(report)
    figure = Figure(figsize=(8, 0.32 * len(found) + 1.1), layout="constrained")
    axes = figure.subplots()
    part = [100 * used / there for used, there in found.values()]
    bars = axes.barh(list(found), part, color=[MARK if share > 100 else INK for share in part])
    axes.bar_label(
        bars,
        [
            f" {share:.1f} %  ({number(used)} of {there:,})"
            for share, (used, there) in zip(part, found.values(), strict=True)
        ],
        fontsize=7,
    )
    axes.set_xlim(0, 1.45 * max([*part, 1.0]))
    axes.invert_yaxis()
    tier = "synthesised, placed and routed" if report.hardware.placement else "synthesised, yosys estimate"
    axes.set_xlabel(f"% of {report.board.device.part} ({tier})", fontsize=8)
    axes.tick_params(labelsize=8)
    return figure


def cycles(report: Report) -> Figure:
    """Bars: busy cycles per token of each block."""
    blocks = report.simulated.blocks
    figure = Figure(figsize=(8, 0.28 * len(blocks) + 1.0), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(blocks), list(blocks.values()), color=INK)
    axes.bar_label(
        bars,
        [f" {number(round(count))}  ({count / report.simulated.cycles:.1%})" for count in blocks.values()],
        fontsize=7,
    )
    axes.set_xlim(0, 1.3 * max(blocks.values()))
    axes.invert_yaxis()
    axes.set_xlabel(f"cycles per token (simulated, mean of {report.simulated.tokens} tokens)", fontsize=8)
    axes.tick_params(labelsize=8)
    return figure


def roofline(report: Report) -> Figure:
    """Each layer: events per busy cycle against bytes per event; the roofs are the memory's bandwidth and the lanes."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ran = [layer for layer in report.simulated.layers if layer.events]
    engine, interval = report.board.engine, report.surroundings.interval
    low, high = (
        min((layer.row_bytes for layer in ran), default=16) / 2,
        max((layer.row_bytes for layer in ran), default=16) * 2,
    )
    x = np.geomspace(low, high, 50)
    rate = 4 * engine.beat_words / interval  # bytes per cycle
    axes.plot(x, rate / x, color="0.3", label=f"memory: {rate:.4g} bytes per cycle")
    for bits in sorted({layer.weight_bits for layer in ran}):
        mine = [layer for layer in ran if layer.weight_bits == bits]
        axes.plot(
            x,
            np.minimum(1, engine.lanes * bits / 8 / x),
            "--",
            color=COLOURS[bits],
            label=f"{engine.lanes} lanes, {bits}-bit weights",
        )
        axes.plot(
            [layer.row_bytes for layer in mine],
            [layer.events / layer.cycles for layer in mine],
            "o",
            color=COLOURS[bits],
            markersize=4,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(
        "bytes per event: one weight row (Conv2d: the whole kernel block, of which an event at the border needs less)",
        fontsize=8,
    )
    axes.set_ylabel("events per busy cycle (simulated)", fontsize=8)
    axes.legend(fontsize=8)
    axes.tick_params(labelsize=8)
    return figure
