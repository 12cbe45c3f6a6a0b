"""The command line. Commands import what they need when they run, so that `--help` and `doctor` work without torch."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from nsllm_nir.cli import estimate as cli_estimate
from nsllm_nir.cli import graphs as cli_graphs
from nsllm_nir.cli import models as cli_models
from nsllm_nir.cli.options import Backends, Json
from nsllm_nir.errors import NsllmNirError
from nsllm_nir.report.terminal import Steps, show
from nsllm_nir.verification.inputs import InputOptions

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Spiking language models from snnTorch to NIR, Lava and HLS, spike for spike.",
)
TORCH_PACKAGES = ("torch", "transformers", "snntorch", "tokenizers", "safetensors", "accelerate", "datasets")
ARGUMENT = re.compile("`([a-z_]+)`")
# Arguments of the library that are options of the same name.
ARGUMENTS = {
    "dt",
    *(found.name for found in fields(InputOptions)),
    *inspect.signature(cli_models.train).parameters,
    *inspect.signature(cli_graphs.generate).parameters,
}
MODEL_COMMANDS = (cli_models.train, cli_models.quantize, cli_models.export)
GRAPH_COMMANDS = (cli_graphs.run, cli_graphs.verify, cli_graphs.generate, cli_graphs.build, cli_estimate.estimate)
for command in (*MODEL_COMMANDS, *GRAPH_COMMANDS):
    app.command()(command)


def main() -> None:
    """Entry point: an error of input, tool or file is one message and exit status 2."""
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TORCH_PACKAGES:
            raise
        extra = "datasets" if (error.name or "").startswith("datasets") else "torch"
        _stop(f"this command needs the package {error.name!r}; install it with: pip install 'nsllm-nir[{extra}]'")
    except (NsllmNirError, OSError) as error:
        _stop(str(error))


def _stop(message: str) -> None:
    print(f"error: {with_options(message)}", file=sys.stderr)
    raise SystemExit(2)


def with_options(message: str) -> str:
    """A message of the library, its arguments (in backquotes) named as options of the command line."""
    return ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')}" if found[1] in ARGUMENTS else found[0], message)


@app.command()
def doctor(
    backend: Backends = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only look at versions, run nothing.")] = False,
    json_file: Json = None,
) -> None:
    """Say which backends and tools run here, and the command that installs what is missing.

    The exit status is 0 only if all backends run.
    """
    from rich.table import Table

    from nsllm_nir import exporters
    from nsllm_nir.cli.doctor import check_all
    from nsllm_nir.files import write_json

    for name in backend or ():
        exporters.load(name)
    with Steps() as progress:
        checks = check_all(backend or exporters.names(), quick=quick, progress=progress)
    table = Table(title="Versions" if quick else "Each backend ran a tiny program and was compared with the reference")
    for column in ("name", "kind", "runs", "version", "what runs"):
        table.add_column(column)
    for check in checks:
        table.add_row(
            check.name, check.kind, "[green]yes[/]" if check.runs else "[red]no[/]", check.version, check.about
        )
    show(table, *(f"{check.name}: {check.message}" for check in checks if check.message))
    if json_file:
        write_json(json_file, [vars(check) for check in checks])
    raise typer.Exit(0 if all(check.runs for check in checks if check.kind == "backend") else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and model.nir.")] = Path("out/demo"),
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint to use; default: the one that comes with the package.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to compare.")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 32,
    json_file: Json = None,
) -> None:
    """Run a trained model on every backend, compare every spike, and write the report page.

    Every engine also continues the same text.
    """
    from nsllm_nir.demo.demo import run_demo
    from nsllm_nir.files import write_json
    from nsllm_nir.report.tables import (
        audit_table,
        backends_table,
        constraints_table,
        differences_table,
        facts_table,
        findings,
        generations_table,
        spikes_table,
    )

    with Steps() as progress:
        result = run_demo(out, checkpoint, tokens, new_tokens, progress)
    report = result.report
    show(
        spikes_table(report.program, report.reference),
        differences_table(report),
        backends_table(report),
        *findings(report),
        generations_table(result.prompt, result.generations),
        facts_table("Size", result.size),
        audit_table(report.program),
        constraints_table(result.constraints, result.cores),
        "",
        f"every spike equal: {'yes' if report.exact else 'NO'}; same text from every engine: "
        f"{'yes' if result.same_text else 'NO'}",
        f"report: {out / 'report.html'}",
    )
    if json_file:
        write_json(json_file, result.to_json())
    raise typer.Exit(0 if result.passed else 1)
