"""Pictures of a comparison: spike rasters with the differences marked, spikes per block, differences per block."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nsllm_nir.files import write_bytes
from nsllm_nir.report.tables import Row
from nsllm_nir.verification.verify import Report

INK, NEGATIVE, MARK = "#17365d", "#d98200", "#d00000"
MOST_PANELS = 8
OTHER = "input, final and output nodes"


def layers(report: Report) -> dict[str, list[str]]:
    """Traced nodes by layer of a language model; the nodes outside of layers come last.

    In other graphs all nodes stand together.
    """
    found: dict[str, list[str]] = {}
    other = []
    for node in report.reference.values:
        first = node.split(".")[0]
        if first.startswith("layer_"):
            found.setdefault(first, []).append(node)
        else:
            other.append(node)
    return {**found, OTHER if found else "all nodes": other} if other else found


def raster_figure(report: Report, nodes: dict[str, list[str]], title: str = "") -> Figure:
    """One panel per entry, all its nodes stacked.

    A dot per spike (timesteps within the token), a cross per differing cell.
    """
    figure = Figure(figsize=(9, 4.2 * len(nodes) + 0.5), layout="constrained")
    panels = figure.subplots(len(nodes), 1, squeeze=False)[:, 0]
    for axes, (name, members) in zip(panels, nodes.items(), strict=True):
        raster(axes, report, members)
        axes.set_title(name, loc="left", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def raster(axes: Axes, report: Report, nodes: list[str]) -> None:
    """Draw nodes below each other: a dot per spike of the reference, a cross per cell that differs in a backend."""
    steps = len(next(iter(report.reference.values.values())))
    base, centres = 0, []
    for node in nodes:
        values, signal = report.reference.values[node], report.program.signals[node]
        if signal.spikes:
            levels = max(int(signal.high.max()), -int(signal.low.min()), 1)
            for sign, colour in ((1, INK), (-1, NEGATIVE)):
                x, y = _events(values * sign, levels)
                axes.plot(x, y + base, ".", markersize=1.4, color=colour, markeredgewidth=0, rasterized=True)
        for cells in _differing(report, node):
            axes.plot(cells[:, 0] + 0.5, cells[:, 1] + base, "x", markersize=6, color=MARK)
        centres.append(base + signal.size / 2)
        base += signal.size
        axes.axhline(base - 0.5, color="0.8", linewidth=0.5)
    axes.set_yticks(centres, [_short(report, node) for node in nodes], fontsize=7)
    axes.set_xlim(0, steps)
    axes.set_ylim(base - 0.5, -0.5)
    axes.set_xlabel("token (its timesteps side by side)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)


def _short(report: Report, node: str) -> str:
    name = node.split(".", 1)[1] if node.startswith("layer_") else node
    return name if report.program.signals[node].spikes else f"{name} (potentials)"


def _events(counts: NDArray[Any], levels: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times in tokens and neurons of the spikes: a count c fires in the first c timesteps of its token."""
    found = [np.argwhere(counts >= m) for m in range(1, levels + 1)]
    times = [cells[:, 0] + (m - 0.5) / levels for m, cells in enumerate(found, start=1)]
    return np.concatenate(times), np.concatenate([cells[:, 1] for cells in found])


def _differing(report: Report, node: str) -> list[NDArray[np.int64]]:
    want = report.reference.values[node]
    return [np.argwhere(result.trace.values[node] != want) for result in report.results if result.trace is not None]


def picture(report: Report, path: Path) -> None:
    """Raster of the layers (those with differences first, at most `MOST_PANELS`) as a PNG file."""
    found = layers(report)
    differing = {n.node for result in report.results for n in result.nodes if n.differences}
    names = sorted(found, key=lambda name: differing.isdisjoint(found[name]))[:MOST_PANELS]
    shown = {name: found[name] for name in found if name in names}
    failed = [result.backend for result in report.results if result.error]
    cells = sum(result.differences for result in report.results)
    ran = ", ".join(result.backend for result in report.results if not result.error)
    title = f"reference spikes; {cells} differing cells in {ran or 'no backend'}" + (
        f"; did not run: {', '.join(failed)}" if failed else ""
    )
    if len(shown) < len(found):
        title += f"; {len(shown)} of {len(found)} panels"
    write_bytes(path, png(raster_figure(report, shown, title)))


def spikes_figure(rows: list[Row], steps: int) -> Figure:
    """Bars: spikes per neuron and token of each block."""
    spiking = [row for row in rows if row.spikes is not None]
    figure = Figure(figsize=(9, 0.28 * len(spiking) + 1.0), layout="constrained")
    axes = figure.subplots()
    rates = [(row.spikes or 0) / row.neurons / steps for row in spiking]
    bars = axes.barh([row.name for row in spiking], rates, color=INK)
    axes.bar_label(
        bars, [f" {rate:.3f}  ({row.spikes:,} spikes)" for rate, row in zip(rates, spiking, strict=True)], fontsize=7
    )
    axes.set_xlim(0, 1.35 * max(rates, default=1.0))
    axes.invert_yaxis()
    axes.set_xlabel("spikes per neuron and token", fontsize=8)
    axes.tick_params(labelsize=8)
    return figure


def differences_figure(rows: list[Row]) -> Figure:
    """A field per block and backend with its number of differing cells: white is 0."""
    compared = [row for row in rows if row.nodes]
    backends = list(compared[0].differences)
    values = np.array(
        [[np.nan if row.differences[b] is None else row.differences[b] for b in backends] for row in compared],
        dtype=float,
    )
    figure = Figure(figsize=(9, 0.28 * len(compared) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values != 0, cmap=ListedColormap(["white", "#f2a0a0"]), vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, "failed" if np.isnan(value) else f"{value:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(backends)), backends, fontsize=8)
    axes.set_yticks(range(len(compared)), [row.name for row in compared], fontsize=8)
    axes.xaxis.tick_top()
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure as a source for an HTML img element."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()
