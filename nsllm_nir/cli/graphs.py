"""Commands about NIR graphs: run, verify, generate, build. None of them needs torch, unless a backend does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nsllm_nir.cli.options import READING, AllNodes, Backends, Json, Model, Reading, given, with_reading
from nsllm_nir.errors import InputError
from nsllm_nir.hw import boards
from nsllm_nir.report.terminal import Steps, show

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nsllm_nir.program import Program
    from nsllm_nir.verification.prepare import Prepared


def load(model: Path, reading: Reading, length: int = 64) -> tuple[Prepared, NDArray[Any]]:
    """What backends run, and its input spikes (steps, neurons)."""
    from nsllm_nir.graph import DT
    from nsllm_nir.graph.time_step import same_step
    from nsllm_nir.verification.inputs import choose
    from nsllm_nir.verification.prepare import prepare
    from nsllm_nir.verification.verify import input_spikes

    inputs = reading.inputs()
    prepared = prepare(model, reading.dt)
    if prepared.quantization and same_step(reading.dt, DT):
        print(f"note: steps of {DT:g} s are assumed; --dt SECONDS reads a file written for others", file=sys.stderr)
    return prepared, input_spikes(prepared.program, choose(prepared.program, inputs, length=length, dt=reading.dt))


@with_reading
def run(
    model: Model,
    backend: Annotated[str, typer.Option(help="Backend name; `nsllm-nir doctor` lists them.")],
    reading: Reading = READING,
    out: Annotated[
        Path | None, typer.Option(help="Write the trace as .npz: one array (steps, neurons) per node.")
    ] = None,
    all_nodes: AllNodes = False,
    json_file: Json = None,
) -> None:
    """Run a model on one backend: spikes and synaptic operations.

    A float graph is quantized first, and the spikes that this changes are counted.
    """
    from nsllm_nir import exporters
    from nsllm_nir.files import write_arrays, write_json
    from nsllm_nir.report.tables import block_of, quantization_tables, rows, spikes_table
    from nsllm_nir.verification.prepare import quantization_json

    found = exporters.load(backend)
    prepared, spikes = load(model, reading)
    program = prepared.program
    with Steps() as progress:
        progress(f"run {backend}")
        trace = found.compile(program).run(spikes)
        error = prepared.quantization_error(spikes, trace)
    show(*quantization_tables(prepared.quantization, error), spikes_table(program, trace, all_nodes=all_nodes))
    if out:
        write_arrays(out, trace.values)
    if json_file:
        nodes = {row.name: {"block": block_of(row.name), **vars(row)} for row in rows(program, trace, all_nodes=True)}
        facts = {"backend": backend, "version": found.version(), "steps": len(spikes), "tier": "simulated"}
        write_json(json_file, {**facts, **quantization_json(prepared.quantization, error), "nodes": nodes})


@with_reading
def verify(
    model: Model,
    backend: Backends = None,
    reading: Reading = READING,
    all_nodes: AllNodes = False,
    picture: Annotated[
        Path | None, typer.Option(help="Write the spike raster, differences marked, to this PNG file.")
    ] = None,
    constraints: Annotated[
        Path | None, typer.Option(help="Print the Loihi 2 constraint report and write it to this JSON file.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Compare backends with the integer reference at every node, step and neuron; exit status 0 only if all are exact.

    Default: all backends; snntorch only for NSLLM models, which it rebuilds.
    A float graph is quantized first; the spikes that this changes stand in a table of their own and do not count as
    differences.
    """
    from nsllm_nir import exporters
    from nsllm_nir.files import write_json
    from nsllm_nir.report.tables import backends_table, differences_table, findings, quantization_tables
    from nsllm_nir.verification.verify import verify as run_verification

    names = backend or _all_backends(model)
    for name in names:
        exporters.load(name)
    prepared, spikes = load(model, reading)
    with Steps() as progress:
        report = run_verification(prepared, spikes, names, progress=progress)
    show(*quantization_tables(report.quantization, report.quantization_error))
    show(differences_table(report, all_nodes=all_nodes), backends_table(report), *findings(report))
    if constraints:
        _constraints(prepared.program, constraints)
    if picture:
        from nsllm_nir.report.plots import picture as draw

        draw(report, picture)
    if json_file:
        write_json(json_file, report.to_json())
    raise typer.Exit(0 if report.exact else 1)


def _all_backends(model: Path) -> list[str]:
    """Every backend but the reference; those that hold only language models for the files of such."""
    from nsllm_nir import exporters
    from nsllm_nir.graph import read

    found = read(model).metadata.get("nsllm_nir")
    own = isinstance(found, dict) and "model" in found
    others = [name for name in exporters.names() if name != "reference"]
    return [name for name in others if own or not exporters.load(name).about.models_only]


def _constraints(program: Program, path: Path) -> None:
    from nsllm_nir.exporters import lava_constraints
    from nsllm_nir.files import write_json
    from nsllm_nir.report.tables import constraints_table

    rows = lava_constraints.as_rows(lava_constraints.constraints(program))
    cores = lava_constraints.estimated_cores(lava_constraints.constraints(program))
    show(constraints_table(rows, cores))
    write_json(path, {"estimated_cores": cores, "rows": rows})


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    backend: Annotated[str, typer.Option(help="Backend name.")] = "hls",
    new_tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 64,
) -> None:
    """Continue a text on a backend, greedily, from integer logits."""
    from nsllm_nir.lowering.lower import lower
    from nsllm_nir.verification.generate import continuation
    from nsllm_nir.verification.inputs import check_byte_level, decode, encode

    program = lower(model)
    check_byte_level(program)
    with Steps() as progress:
        progress(f"generate with {backend}")
        written = continuation(backend, program, encode(prompt), new_tokens)
    print(prompt + decode(written))  # as it is: `show` would drop control characters


@with_reading
def build(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is built; must not exist or be empty.")],
    target: Annotated[
        str,
        typer.Option(help=f"vitis: the C++ engine as a Vitis HLS project; or a board: {', '.join(boards.names())}."),
    ] = "vitis",
    part: Annotated[str | None, typer.Option(help="With vitis: FPGA part.")] = None,
    clock_ns: Annotated[float | None, typer.Option(help="With vitis: clock period in nanoseconds.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="With a board: time limit of each tool.")] = 7200.0,
    reading: Reading = READING,
) -> None:
    """Build the hardware that runs a model.

    For a board: its program image, a cycle-accurate simulation that must equal the reference, and a report of area,
    clock and cycles. Boards with pins get a bitstream from open tools; the others a yosys estimate, and projects for
    Vivado and Vitis HLS.

    With vitis only the Vitis HLS project, with golden vectors; `make` in it checks them with g++. A float graph is
    quantized first, and the spikes that this changes are counted.
    """
    from nsllm_nir.exporters.hls import build_vitis
    from nsllm_nir.program import reference
    from nsllm_nir.report.tables import quantization_tables

    if target != "vitis" and target not in boards.names():
        raise InputError(f"--target must be vitis or a board ({', '.join(boards.names())}), got {target!r}")
    vitis = given(part=part, clock_ns=clock_ns)
    if target != "vitis" and vitis:
        raise InputError(
            f"--part and --clock-ns belong to --target vitis; part and clock of {target} stand in its board file"
        )
    if not timeout > 0:
        raise InputError(f"--timeout must be a positive number of seconds, got {timeout:g}")
    prepared, spikes = load(model, reading, length=16)
    if target != "vitis":
        return _build_board(prepared, spikes, boards.load(target), out, timeout)
    trace = reference.run(prepared.program, spikes)
    project = build_vitis(prepared.program, spikes, trace, out, **vitis)
    show(*quantization_tables(prepared.quantization, prepared.quantization_error(spikes, trace)))
    show(
        f"{project}: engine, image, golden vectors of {len(spikes)} steps. Check it with `make -C {project}`; "
        f"README.txt there says how Vitis HLS takes it."
    )


def _build_board(prepared: Prepared, spikes: NDArray[Any], board: boards.Board, out: Path, timeout: float) -> None:
    """Build for a board and show the report."""
    from nsllm_nir.fpga_build.build import build as build_board
    from nsllm_nir.fpga_build.report import tables
    from nsllm_nir.program import reference
    from nsllm_nir.report.tables import quantization_tables

    with Steps() as progress:
        report = build_board(prepared.program, spikes, board, out, timeout, progress=progress, detail=progress.detail)
        error = prepared.quantization_error(spikes, reference.run(prepared.program, spikes))
    show(*quantization_tables(prepared.quantization, error), *tables(report))
    show("", f"{out}: {', '.join(report.files)}")
