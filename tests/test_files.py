"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsllm_nir.errors import InputError
from nsllm_nir.files import new_folder, whole, write_bytes


def test_a_file_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_bytes(target, b"old")
    with whole(target) as new:
        new.write_bytes(b"new")
        (new.parent / "scratch").write_bytes(b"-")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and [path.name for path in target.parent.iterdir()] == ["file"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask(tmp_path)


def _umask(folder: Path) -> int:
    (folder / "plain").touch()
    return 0o666 & ~(folder / "plain").stat().st_mode


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "file") as new:
        new.write_bytes(b"half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_is_new(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "other"):
        with new_folder(tmp_path / name) as folder:
            (folder / "file").write_text(name)
        assert (tmp_path / name / "file").read_text() == name
        with pytest.raises(InputError, match="exists and is not an empty folder"), new_folder(tmp_path / name):
            raise AssertionError("it was opened")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "other"}
