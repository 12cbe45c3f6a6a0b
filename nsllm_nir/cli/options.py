"""Arguments and options that several commands of the command line have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[Path, typer.Argument(help="NIR file.", metavar="MODEL.nir")]
Checkpoint = Annotated[
    Path,
    typer.Argument(help="Folder that train, quantize or save_pretrained wrote, or a name on the Hugging Face hub."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")]
Backends = Annotated[list[str] | None, typer.Option("--backend", help="Backend name; may be given several times.")]
AllNodes = Annotated[bool, typer.Option("--all-nodes", help="One line per node instead of one per block.")]
TimeStep = Annotated[
    float,
    typer.Option(
        "--dt",
        metavar="SECONDS",
        help="Time step that the NIR file was written for (files do not say it), for example 1e-3.",
    ),
]

# What a model reads: one of these, or nothing for --text pydoc.
Prompt = Annotated[str | None, typer.Option(help="Read this text (byte-level models).")]
TokensFile = Annotated[
    Path | None, typer.Option(help="Read token ids from a text file (separated by white space) or a 1-D .npy.")
]
TextFile = Annotated[
    str | None,
    typer.Option(
        help="Read the held-out tenth of this text file, or of 'pydoc' (the default input of byte-level models)."
    ),
]
InputFile = Annotated[
    Path | None,
    typer.Option(
        "--input",
        help="Read spikes (any graph): .npy, or .npz with one array or one named spikes or input, integers or booleans of shape (steps, neurons) "
        "or (steps, *shape); or a NIR data file (nir.write_data) with a node named like the graph's Input.",
    ),
]
Random = Annotated[
    float | None, typer.Option(metavar="RATE", help="Read random spikes of this rate, 0 to 1 (any graph).")
]

Tokens = Annotated[int | None, typer.Option(help="With --text: how many tokens of it to read; 64 without (build: 16).")]
Sample = Annotated[
    int | None, typer.Option(help="With --input: number of the sample, from 0, in a NIR data file that holds several.")
]
Length = Annotated[int | None, typer.Option("--steps", help="With --random: how many steps; 64 without (build: 16).")]
Seed = Annotated[int | None, typer.Option(help="With --random: seed; 0 without.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
