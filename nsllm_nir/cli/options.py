"""Arguments and options that several commands of the command line have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from nsllm_nir.verification.inputs import InputOptions

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


@dataclass(frozen=True)
class Reading:
    """What a model reads, as options of a command: one source, or nothing for --text pydoc; and its time step.

    The fields but ``dt`` are those of `verification.inputs.InputOptions`. `with_reading` gives them to a command.
    """

    prompt: Annotated[str | None, typer.Option(help="Read this text (byte-level models).")] = None
    tokens_file: Annotated[
        Path | None, typer.Option(help="Read token ids from a text file (separated by white space) or a 1-D .npy.")
    ] = None
    text: Annotated[
        str | None,
        typer.Option(
            help="Read the held-out tenth of this text file, or of 'pydoc' (the default input of byte-level models)."
        ),
    ] = None
    tokens: Annotated[
        int | None, typer.Option(help="With --text: how many tokens of it to read; 64 without (build: 16).")
    ] = None
    input: Annotated[
        Path | None,
        typer.Option(
            help="Read spikes (any graph): .npy, or .npz with one array or one named spikes or input, integers or "
            "booleans "
            "of shape (steps, neurons) or (steps, *shape); or a NIR data file (nir.write_data) with a node named "
            "like the "
            "graph's Input.",
        ),
    ] = None
    sample: Annotated[
        int | None,
        typer.Option(help="With --input: number of the sample, from 0, in a NIR data file that holds several."),
    ] = None
    random: Annotated[
        float | None, typer.Option(metavar="RATE", help="Read random spikes of this rate, 0 to 1 (any graph).")
    ] = None
    steps: Annotated[int | None, typer.Option(help="With --random: how many steps; 64 without (build: 16).")] = None
    seed: Annotated[int | None, typer.Option(help="With --random: seed; 0 without.")] = None
    dt: TimeStep = 1e-4

    def inputs(self) -> InputOptions:
        """The same for the library.

        Raises:
            InputError: as `InputOptions`.
        """
        return InputOptions(**{field.name: getattr(self, field.name) for field in fields(InputOptions)})


READING = Reading()  # nothing given


def with_reading(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Reading`, in the place of its argument ``reading``."""
    hints = get_type_hints(command, include_extras=True)
    kinds = get_type_hints(Reading, include_extras=True)
    options = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=kinds[field.name])
        for field in fields(Reading)
    ]
    parameters: list[Parameter] = []
    for name, own in signature(command).parameters.items():
        kept = own.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
        parameters += options if name == "reading" else [kept]

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        found = Reading(**{option.name: values.pop(option.name) for option in options})
        command(**values, reading=found)

    setattr(expanded, "__signature__", Signature(parameters))  # noqa: B010 - a plain assignment does not type-check
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
