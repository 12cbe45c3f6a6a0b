"""The command `estimate`: what a model would cost on a board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nsllm_nir.cli.options import READING, AllNodes, Json, Model, Reading, with_reading
from nsllm_nir.report.terminal import Steps, show

if TYPE_CHECKING:
    from rich.table import Table

    from nsllm_nir.hw.estimate import Estimate


@with_reading
def estimate(
    model: Model,
    board: Annotated[str, typer.Option(help="Name of a board in hw/boards.")],
    lanes: Annotated[
        int | None, typer.Option(help="Lanes of the engine, 64, 128 or 256, instead of those of the board file.")
    ] = None,
    ports: Annotated[
        int | None,
        typer.Option(help="Neurons per cycle of the vector unit, 4, 8 or 16, instead of those of the board file."),
    ] = None,
    clock: Annotated[
        float | None, typer.Option(metavar="MHZ", help="Clock of the engine instead of that of the board file.")
    ] = None,
    reading: Reading = READING,
    all_nodes: AllNodes = False,
    json_file: Json = None,
) -> None:
    """Estimate cycles, bytes, memory and energy per token of a model on a board.

    From the spikes of a run on the reference; nothing is measured.
    """
    from nsllm_nir.cli.graphs import load
    from nsllm_nir.exporters.image import pack_image
    from nsllm_nir.files import write_json
    from nsllm_nir.hw import boards
    from nsllm_nir.hw.estimate import configured
    from nsllm_nir.hw.estimate import estimate as model_cost

    chosen = configured(boards.load(board), lanes, ports, clock)
    prepared, spikes = load(model, reading)
    with Steps() as progress:
        progress(f"estimate on {board}")
        found = model_cost(prepared.program, pack_image(prepared.program, chosen.engine.beat_words), spikes, chosen)
    show(_ops_table(found, all_nodes=all_nodes), _facts(found))
    if json_file:
        write_json(json_file, found.to_json())


def _ops_table(found: Estimate, *, all_nodes: bool) -> Table:
    """Cycles, events and bytes by block or op."""
    from rich.table import Table

    from nsllm_nir.report.tables import block_of

    table = Table(title="Per token, mean of the run (modelled)")
    for column in ("node" if all_nodes else "block", "cycles", "share", "events", "bytes read"):
        table.add_column(column, justify="left" if column in ("node", "block") else "right")
    groups: dict[str, list[float]] = {}
    for op in found.ops:
        sums = groups.setdefault(op.name if all_nodes else block_of(op.name), [0.0] * 4)
        sums[:] = [a + b for a, b in zip(sums, (op.cycles, op.share, op.events, op.bytes), strict=True)]
    rest = found.cycles - sum(op.cycles for op in found.ops)
    groups["descriptors, answer"] = [rest, rest / found.cycles, 0.0, 0.0]
    for name, (cycles, share, events, read) in groups.items():
        table.add_row(name, f"{cycles:,.0f}", f"{share:.1%}", f"{events:,.1f}", f"{read:,.0f}")
    table.add_section()
    table.add_row(
        "total", f"{found.cycles:,.0f}", "100.0%", f"{sum(op.events for op in found.ops):,.1f}", f"{found.bytes:,.0f}"
    )
    return table


def _facts(found: Estimate) -> Table:
    from rich.table import Table

    table = Table(title=f"On {found.board}: {found.lanes} lanes, {found.ports} ports, {found.clock_mhz:g} MHz")
    for column in ("figure", "value", "tier", "rests on"):
        table.add_column(column)
    rows = [
        (
            "tokens per second",
            f"{found.tokens_per_second:,.1f}",
            "modelled",
            "unit costs: simulated; clock: board file",
        ),
        ("memory", f"latency {found.latency:g} cycles, {found.interval:.3g} cycles per beat", "modelled", "board file"),
        ("program image", f"{found.image_bytes:,} bytes", "exact", "the image"),
    ]
    rows += [
        (name, f"{used:,} of {there:,} ({used / there:.1%})", "exact", "the image and the build")
        for name, (used, there) in found.memory.items()
    ]
    if found.dynamic is None:
        rows.append(("energy", "not known", "", "the board file gives no figures"))
    else:
        for name, value in found.dynamic.items():
            rows.append(
                (
                    f"dynamic, {name}",
                    f"{value:.3e} J/token",
                    "modelled",
                    f"published pJ; {found.work[name]:,.0f} per token",
                )
            )
        rows.append(("dynamic", f"{sum(found.dynamic.values()):.3e} J/token", "modelled", "no power was measured"))
        static = "not published for this device" if found.static is None else f"{found.static:.3e} J/token"
        rows.append(
            (
                "static",
                static,
                "" if found.static is None else "modelled",
                "watts of the board file times seconds per token",
            )
        )
    for row in rows:
        table.add_row(*row)
    return table
