"""Files that appear whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a temporary file in the same folder takes the place of the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        file = Path(folder) / "new"
        file.write_bytes(data)
        os.replace(file, path)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as ``.npz``, as a whole or not at all."""
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())


def write_json(path: Path, data: Any) -> None:
    """Write plain data, indented."""
    write_bytes(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
