"""Files between a backend and its worker: ``job.json`` (scalars) and ``job.npz`` (arrays, no pickle)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import OPERATIONS, Op, Program, Widths, constants

Arrays = dict[str, NDArray[Any]]
OPS: dict[str, type[Op]] = {kind.__name__: kind for kind in OPERATIONS}
CHANNEL_SLOTS = 4  # messages that wait in a channel; Lava's default of 64 takes 16 times the shared memory
NO_TOKEN = -1  # the spikes of an input row after the last token
RESET = -2  # of the first input row: a silent start, and no token
INPUT, OUTPUT = "input.npy", "output.npy"  # memory-mapped int32 (rows, neurons)


def write(folder: Path, job: dict[str, Any], arrays: Arrays) -> None:
    """Write a job into an empty folder."""
    (folder / "job.json").write_text(json.dumps(job, default=int))  # a numpy integer is as good as an int
    np.savez(folder / "job.npz", allow_pickle=False, **arrays)


def read(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """What `write` wrote."""
    with np.load(folder / "job.npz", allow_pickle=False) as data:
        return json.loads((folder / "job.json").read_text()), dict(data)


def program_to_data(program: Program) -> tuple[dict[str, Any], Arrays]:
    """A program as plain data and arrays named ``<index of the op>.<field>``."""
    ops, arrays = [], {}
    for i, op in enumerate(program.ops):
        kept = constants(op)
        arrays.update({f"{i}.{key}": value for key, value in kept.items()})
        ops.append({"op": type(op).__name__, **{key: value for key, value in vars(op).items() if key not in kept}})
    widths = {"potential": program.widths.potential, "comparator": program.widths.comparator}
    return {"ops": ops, "outputs": list(program.outputs), "widths": widths}, arrays


def program_from_data(data: dict[str, Any], arrays: Arrays) -> Program:
    """Inverse of `program_to_data`; the program is analysed again."""
    ops = []
    for i, entry in enumerate(data["ops"]):
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "op"
        }
        prefix = f"{i}."
        fields |= {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
        ops.append(OPS[entry["op"]](**fields))
    return Program(tuple(ops), tuple(data["outputs"]), Widths(**data["widths"]))
