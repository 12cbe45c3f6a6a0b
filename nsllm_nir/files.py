"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path to write a file or folder to; at the end it takes the place of ``target``, after an error it vanishes.

    It lies in a new folder beside ``target``, which is the caller's for other files until then. The old ``target``, if
    any, stays as it is until the end.

    Raises:
        OSError: the folder of ``target`` cannot be made or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        yield Path(folder) / "new"
        os.replace(Path(folder) / "new", target)


def check_new_folder(target: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        InputError: ``target`` exists and is not an empty folder.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder; choose another or remove it first")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``target`` at the end, and vanishes after an error.

    Raises:
        InputError: as `check_new_folder`.
    """
    check_new_folder(target)
    with whole(target) as folder:
        folder.mkdir()
        yield folder


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    with whole(path) as new:
        new.write_bytes(data)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as ``.npz``, as a whole or not at all."""
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type] # numpy's allow_pickle is no array
        write_bytes(path, buffer.getvalue())


def write_json(path: Path, data: Any) -> None:
    """Write plain data, indented, as a whole or not at all."""
    write_bytes(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
