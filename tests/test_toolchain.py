"""The engine's source, its compiler cache, and the process that runs it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.exporters import hls
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.simulation import EngineProcess
from nsllm_nir.program import Program

ENGINE_FILES = (
    "check.hpp",
    "config.hpp",
    "conv.hpp",
    "crc.hpp",
    "engine.hpp",
    "image.hpp",
    "integer.hpp",
    "linear.hpp",
    "neuron.hpp",
    "registers.hpp",
    "top.hpp",
    "top.cpp",
)


def test_missing_compiler_names_the_command(monkeypatch: pytest.MonkeyPatch, random_program: Callable[..., Program]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolNotFoundError, match=r"apt-get install g\+\+"):
        hls.backend.version()
    with pytest.raises(ToolNotFoundError, match=r"g\+\+, which is not on PATH"):
        hls.backend.compile(random_program(0))


def test_engine_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NSLLM_NIR_CACHE", str(tmp_path))
    first = toolchain.build_engine(flags=("-O0",))
    stamp = first.stat().st_mtime_ns
    assert toolchain.build_engine(flags=("-O0",)) == first and first.stat().st_mtime_ns == stamp
    assert list(tmp_path.iterdir()) == [first]
    with pytest.raises(BackendError, match="failed with status 1"):
        toolchain.build_engine(flags=("-fno-such-option",))
    assert list(tmp_path.iterdir()) == [first]


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NSLLM_NIR_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"cannot be kept in .*file: .*; set NSLLM_NIR_CACHE"):
        toolchain.build_engine()


def engine_script(folder: Path, text: str) -> Path:
    path = folder / "engine"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "message"),
    [("exec sleep 60", r"did not answer within 0\.5 s"), ("echo broken >&2; exit 3", "ended with status 3: broken"), ("kill -9 $$", "ended with status -9")],
    ids=["hung", "failed", "killed"],
)
def test_a_dead_or_hung_engine_is_an_error_and_leaves_no_process(tmp_path: Path, script: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(BackendError, match=message), EngineProcess(engine_script(tmp_path, script), timeout=0.5) as process:
        process.load(bytes(1 << 20))  # more than a pipe holds
    assert time.monotonic() - start < 5
    with pytest.raises(ProcessLookupError):
        os.kill(process.process.pid, 0)


def tokens_of(source: str) -> str:
    """C++ text without comments, strings, character constants and preprocessor lines."""
    source = re.sub(r"//[^\n]*|/\*.*?\*/", " ", source, flags=re.DOTALL)
    source = re.sub(r'"(\\.|[^"\\])*"', '""', source)
    return re.sub(r"^\s*#.*$", "", source, flags=re.MULTILINE)


def operators(text: str) -> list[str]:
    return re.findall(r"[*/%]|\b(?:float|double|new|malloc|int64_t)\b", tokens_of(text))


def test_engine_source_has_no_multiplication_or_division() -> None:
    hosts = {"server.cpp", "testbench.cpp"}
    assert {p.name for p in toolchain.SOURCES.iterdir()} == {*ENGINE_FILES, *hosts}
    assert {name: operators((toolchain.SOURCES / name).read_text()) for name in ENGINE_FILES} == {name: [] for name in ENGINE_FILES}
    assert operators("int a = b * c; // d * e\n") == ["*"] and operators("a /= 3; b %= 2; float x;") == ["/", "%", "float"]


def test_vitis_sees_every_pragma() -> None:
    text = subprocess.run(["g++", "-E", "-D__SYNTHESIS__", str(toolchain.SOURCES / "top.cpp")], capture_output=True, text=True, check=True).stdout
    expected = [
        "interface mode=m_axi port=image",
        "interface mode=axis port=events",
        "interface mode=axis port=results",
        "interface mode=s_axilite port=return",
        "array_partition variable=signals type=cyclic factor=16",
        "dataflow",
        "pipeline II=1",
    ]
    for pragma in expected:
        assert f"#pragma HLS {pragma}" in text
    assert "HLS(" not in text
