"""Results as tables (terminal), JSON and one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from nsllm_nir.program import Linear, Program
from nsllm_nir.program.trace import Trace
from nsllm_nir.quantization.quantize import Quantization, QuantizationReport
from nsllm_nir.verification.verify import BackendResult, Report, synaptic_operations

if TYPE_CHECKING:
    from nsllm_nir.verification.generate import Generation

OPERATIONS = ("add", "compare", "shift", "select", "move")
ABSENT_OPERATIONS = ("multiply", "divide", "exponential", "square root")


@dataclass(frozen=True)
class Row:
    """One block (or node) of a program in one run.

    spikes: of its spiking nodes, None if it has none; synaptic_operations: mean per token, None without weights;
    differences: per backend, None for a backend that failed.
    """

    name: str
    nodes: int
    neurons: int
    spikes: int | None
    synaptic_operations: float | None
    differences: dict[str, int | None]


def block_of(node: str) -> str:
    """The part of the model that a node belongs to: ``layer_000.mixer`` of ``layer_000.mixer.key_spikes``."""
    parts = node.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def rows(
    program: Program, trace: Trace, results: Iterable[BackendResult] = (), *, all_nodes: bool = False
) -> list[Row]:
    """The run by block, or by node, in program order: spikes, synaptic operations, differences."""
    work = synaptic_operations(program, trace)
    groups: dict[str, list[str]] = {}
    for op in program.ops:
        if op.name in trace.values or isinstance(op, Linear):
            groups.setdefault(op.name if all_nodes else block_of(op.name), []).append(op.name)
    found = [(result.backend, {node.node: node.differences for node in result.nodes}) for result in results]
    return [_row(name, members, program, trace, work, found) for name, members in groups.items()]


def _row(
    name: str,
    members: list[str],
    program: Program,
    trace: Trace,
    work: dict[str, float],
    found: list[tuple[str, dict[str, int]]],
) -> Row:
    traced = [node for node in members if node in trace.values]
    spiking = [node for node in traced if program.signals[node].spikes]
    synaptic = [work[node] for node in members if node in work]
    return Row(
        name=name,
        nodes=len(traced),
        neurons=sum(program.signals[node].size for node in traced),
        spikes=sum(int(abs(trace.values[node]).sum()) for node in spiking) if spiking else None,
        synaptic_operations=sum(synaptic) if synaptic else None,
        differences={backend: sum(cells[node] for node in traced) if cells else None for backend, cells in found},
    )


def total_spikes(program: Program, trace: Trace) -> int:
    """Spikes of all spiking nodes (outputs are potentials and do not count)."""
    return sum(int(abs(values).sum()) for node, values in trace.values.items() if program.signals[node].spikes)


def audit_totals(program: Program) -> dict[str, int]:
    """Operations per token by class, every neuron spiking (dense bound).

    The classes that hardware must not need are listed with their 0.
    """
    totals = dict.fromkeys((*OPERATIONS, *ABSENT_OPERATIONS), 0)
    for counted in program.audit().values():
        for operation, times in counted.items():
            totals[operation] = totals.get(operation, 0) + times
    return totals


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _difference(value: int | None) -> str:
    return "[red]failed[/]" if value is None else f"[red]{value:,}[/]" if value else "0"


def spikes_table(program: Program, trace: Trace, *, all_nodes: bool = False) -> Table:
    """Spikes and synaptic operations of one run."""
    steps = len(next(iter(trace.values.values())))
    table = Table(title=f"Spikes over {steps} steps, and synaptic operations (tier: simulated)")
    table.add_column("node" if all_nodes else "block", no_wrap=True)
    for column in ("nodes", "neurons", "spikes", "per neuron\nand step", "synaptic operations\nper step"):
        table.add_column(column, justify="right")
    found = rows(program, trace, all_nodes=all_nodes)
    for row in found:
        rate = "" if row.spikes is None else f"{row.spikes / row.neurons / steps:.3f}"
        table.add_row(
            row.name,
            str(row.nodes or ""),
            _number(row.neurons or None),
            _number(row.spikes),
            rate,
            _number(row.synaptic_operations),
        )
    table.add_section()
    work = sum(row.synaptic_operations or 0 for row in found)
    table.add_row(
        "total",
        str(sum(r.nodes for r in found)),
        _number(sum(r.neurons for r in found)),
        _number(total_spikes(program, trace)),
        "",
        _number(work),
    )
    return table


def backends_table(report: Report) -> Table:
    """One line per backend: does every cell agree with the reference?"""
    table = Table(title="Backends against the reference, every node, step and neuron")
    for column in ("backend", "version"):
        table.add_column(column)
    for column in ("seconds", "cells compared", "differences", "exact"):
        table.add_column(column, justify="right")
    cells = sum(values.size for values in report.reference.values.values())
    for result in report.results:
        differences = None if result.error else result.differences
        verdict = "[green]yes[/]" if result.exact else "[red]no[/]"
        table.add_row(
            result.backend,
            result.version,
            f"{result.seconds:.1f}",
            "0" if result.error else f"{cells:,}",
            _difference(differences),
            verdict,
        )
    return table


def differences_table(report: Report, *, all_nodes: bool = False) -> Table:
    """Spikes of the reference, and differing cells of each backend, by block or node."""
    steps = len(next(iter(report.reference.values.values())))
    table = Table(title=f"Differences between backends: spikes over {steps} steps, and differing cells of each backend")
    table.add_column("node" if all_nodes else "block", no_wrap=True)
    for column in ("nodes", "neurons", "spikes", *(result.backend for result in report.results)):
        table.add_column(column, justify="right")
    found = [row for row in rows(report.program, report.reference, report.results, all_nodes=all_nodes) if row.nodes]
    for row in found:
        spikes = "potentials" if row.spikes is None else _number(row.spikes)
        table.add_row(
            row.name, str(row.nodes), _number(row.neurons), spikes, *map(_difference, row.differences.values())
        )
    table.add_section()
    spikes = _number(total_spikes(report.program, report.reference))
    totals = [None if result.error else result.differences for result in report.results]
    table.add_row(
        "total",
        str(sum(r.nodes for r in found)),
        _number(sum(r.neurons for r in found)),
        spikes,
        *map(_difference, totals),
    )
    return table


def quantization_tables(summary: Quantization | None, error: QuantizationReport | None) -> list[Table]:
    """Spikes of a float and of its integer graph, and the differing cells, by node; nothing for an integer graph."""
    if summary is None or error is None:
        return []
    table = Table(
        title=f"Caused by quantization, {error.steps} steps: float graph against its integer form "
        f"({summary.formats.weight_bits}-bit weights)"
    )
    table.add_column("node", no_wrap=True)
    for column in ("float\nspikes", "integer\nspikes", "differing\ncells", "of cells"):
        table.add_column(column, justify="right")
    for n in error.nodes:
        share = f"{100 * n.differences / max(n.cells, 1):.2f} %"
        table.add_row(n.node, _number(n.float_spikes), _number(n.integer_spikes), _number(n.differences), share)
    table.add_section()
    cells = sum(n.cells for n in error.nodes)
    spikes = (sum(n.float_spikes for n in error.nodes), sum(n.integer_spikes for n in error.nodes))
    table.add_row(
        "total", *map(_number, (*spikes, error.differences)), f"{100 * error.differences / max(cells, 1):.2f} %"
    )
    return [table]


def findings(report: Report) -> list[str]:
    """One line per backend that is not exact: its error, or where it differs first."""
    lines = []
    for result in report.results:
        if result.error:
            lines.append(f"{result.backend} did not run: {result.error}")
        elif result.first:
            lines.append(f"{result.backend} first differs at {result.first}")
    return lines


def facts_table(title: str, facts: dict[str, Any]) -> Table:
    """Two columns: what (underscores shown as spaces), value."""
    table = Table(title=title, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    for name, value in facts.items():
        table.add_row(
            name.replace("_", " "),
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value),
        )
    return table


def audit_table(program: Program) -> Table:
    """Operations per token by class."""
    return facts_table("Operations per step, every neuron spiking (bound from the program)", audit_totals(program))


def constraints_table(constraints: Sequence[dict[str, Any]], cores: int) -> Table:
    """Summary of the Loihi 2 constraint report (`lava_constraints.as_rows`)."""
    refused = [row for row in constraints if row["status"] != "ok"]
    facts = {
        "populations": len(constraints),
        "outside a documented limit": len(refused),
        "neurons": sum(row["neurons"] for row in constraints),
        "synapses": sum(row["synapses"] for row in constraints),
        "weights as stored": f"[{min(row['weight_low'] for row in constraints)}, "
        f"{max(row['weight_high'] for row in constraints)}]",
        "states": f"[{min(row['state_low'] for row in constraints):,}, "
        f"{max(row['state_high'] for row in constraints):,}]",
        "longest delay (steps)": max(row["delay"] for row in constraints),
        "neuro cores (tier: modelled)": cores,
    }
    return facts_table(
        "Loihi 2 constraints of the stock form",
        {**facts, **{f"{row['node']} ({row['role']})": row["reason"] for row in refused}},
    )


def generations_table(prompt: str, generations: Iterable[Generation]) -> Table:
    """Prompt, and what each engine wrote after it."""
    table = Table(title="Greedy continuation of the same prompt")
    table.add_column("engine", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("text", overflow="fold")
    table.add_row("(prompt)", "", Text(prompt))
    for g in generations:
        table.add_row(g.engine, f"{g.seconds:.2f}", Text(g.error or g.text, style="red" if g.error else ""))
    return table
