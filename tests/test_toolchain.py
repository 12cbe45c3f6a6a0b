"""The engine's source, its compiler cache, and the process that runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsllm_nir.errors import BackendError, ToolNotFoundError
from nsllm_nir.exporters import hls
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.registers import OFFSETS
from nsllm_nir.hw.simulation import EngineProcess
from nsllm_nir.program import Program

ENGINE_FILES = (
    "check.hpp",
    "config.hpp",
    "conv.hpp",
    "crc.hpp",
    "engine.hpp",
    "image.hpp",
    "instruction_set.hpp",
    "integer.hpp",
    "linear.hpp",
    "neuron.hpp",
    "registers.hpp",
    "stream.hpp",
    "top.hpp",
    "top.cpp",
)


def test_missing_compiler_names_the_command(
    monkeypatch: pytest.MonkeyPatch, random_program: Callable[..., Program]
) -> None:
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
    [
        ("exec sleep 60", r"did not answer within 0\.5 s"),
        ("echo broken >&2; exit 3", "ended with status 3: broken"),
        ("kill -9 $$", "ended with status -9"),
    ],
    ids=["hung", "failed", "killed"],
)
def test_a_dead_or_hung_engine_is_an_error_and_leaves_no_process(tmp_path: Path, script: str, message: str) -> None:
    start = time.monotonic()
    with (
        pytest.raises(BackendError, match=message),
        EngineProcess(engine_script(tmp_path, script), timeout=0.5) as process,
    ):
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
    assert {name: operators((toolchain.SOURCES / name).read_text()) for name in ENGINE_FILES} == {
        name: [] for name in ENGINE_FILES
    }
    assert operators("int a = b * c; // d * e\n") == ["*"] and operators("a /= 3; b %= 2; float x;") == [
        "/",
        "%",
        "float",
    ]


@pytest.fixture
def vitis(tmp_path: Path) -> list[str]:
    """Flags with which a compiler sees the engine as Vitis HLS does; its stream is declared, not defined."""
    (tmp_path / "hls_stream.h").write_text(
        "namespace hls { template <class T> class stream {"
        " public: void write(const T&); T read(); bool empty(); }; }\n",
        encoding="utf-8",
    )
    return ["-std=c++14", "-D__SYNTHESIS__", "-DNSLLM_VITIS", f"-I{tmp_path}"]


def test_vitis_sees_every_pragma(vitis: list[str]) -> None:
    text = subprocess.run(
        ["g++", "-E", *vitis, str(toolchain.SOURCES / "top.cpp")], capture_output=True, text=True, check=True
    ).stdout
    expected = [
        (
            "interface mode=m_axi port=image offset=slave bundle=weights depth=1048576 latency=64 "
            "num_read_outstanding=16 max_read_burst_length=64"
        ),
        "interface mode=axis port=events",
        "interface mode=axis port=results",
        f"interface mode=s_axilite port=image bundle=control offset=0x{OFFSETS['image_address_low']:02X}",
        f"interface mode=s_axilite port=image_words bundle=control offset=0x{OFFSETS['image_words']:02X}",
        f"interface mode=s_axilite port=command bundle=control offset=0x{OFFSETS['command']:02X}",
        "interface mode=s_axilite port=return bundle=control",
        "reset variable=loaded",
        "array_partition variable=signals type=cyclic factor=16",
        "dataflow",
        "pipeline II=1",
    ]
    for pragma in expected:
        assert f"#pragma HLS {pragma}" in text
    assert "HLS(" not in text
    factors = re.findall(r"(?:factor|max|II)=(\S+)", text)
    assert len(factors) > 50 and all(factor.isdigit() for factor in factors)  # a pragma takes numbers


def test_every_interface_names_each_argument_of_the_block() -> None:
    top = (toolchain.SOURCES / "top.cpp").read_text()
    (arguments,) = re.findall(r"spike_engine\((.*?)\) \{", top)
    names = [argument.split()[-1].strip("&[]") for argument in arguments.split(",")]
    ports = re.findall(r"HLS\(interface mode=(\w+) port=(\w+)", top)
    assert dict.fromkeys(port for _, port in ports) == dict.fromkeys([*names[:1], *names[3:], *names[1:3], "return"])
    assert names == ["image", "image_words", "command", "events", "results"]


def call_graph(source: Path, flags: list[str], folder: Path) -> dict[str, set[str]]:
    """{function: functions it calls} of everything that ``source`` compiles to, from g++; names are the linker's."""
    subprocess.run(
        ["g++", *flags, "-O0", "-fcallgraph-info", "-c", str(source), "-o", str(folder / "graph.o")],
        check=True,
        timeout=120,
    )
    text = (folder / "graph.ci").read_text(encoding="utf-8")
    graph: dict[str, set[str]] = {name: set() for name in re.findall(r'node: \{ title: "([^"]+)"', text)}
    for caller, callee in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        graph[caller].add(callee)
    return graph


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The functions from which a recursion is reached: those left when the ones that call none of the rest are taken
    away, over and over.
    """
    left = {name: set(callees) for name, callees in graph.items()}
    while leaves := [name for name, callees in left.items() if not callees & set(left)]:
        for name in leaves:
            del left[name]
    return sorted(left)


def test_engine_neither_allocates_nor_recurses(vitis: list[str], tmp_path: Path) -> None:
    """Nothing outside of the engine is called but the streams of Vitis HLS: no allocation, no library, no pointer to a
    function.
    """
    graph = call_graph(toolchain.SOURCES / "top.cpp", vitis, tmp_path)
    assert "spike_engine" in graph and len(graph) > 60
    assert cycle(graph) == []
    outside = {name for name in graph if not re.search(r"5nsllm|spike_engine", name)}
    assert outside and all("3hls6stream" in name for name in outside), outside


@pytest.mark.parametrize(
    ("body", "left"),
    [("return n < 2 ? n : f(n - 1);", ["_Z1fi", "_Z1gi"]), ("return g(n);", ["_Z1fi", "_Z1gi"]), ("return n;", [])],
)
def test_the_call_graph_shows_recursion(tmp_path: Path, body: str, left: list[str]) -> None:
    source = tmp_path / "graph.cpp"
    source.write_text(f"int g(int n);\nint f(int n) {{ {body} }}\nint g(int n) {{ return f(n); }}\n")
    assert cycle(call_graph(source, [], tmp_path)) == left


def unbounded(source: str) -> list[str]:
    """Loops that are no `for` with a condition, and `for` loops of a bound that is neither a constant nor stated by a
    tripcount.
    """
    text = tokens_of(re.sub(r"HLS\((?:loop_tripcount|unroll)[^\n]*\)", "BOUNDED", source))
    found = re.findall(r"\b(?:while|do|goto)\b", text)
    for condition, body in re.findall(r"\bfor \(([^\n]*)\)[^\n]*\n((?:\s*(?:HLS\(.*|BOUNDED)\n)*)", text):
        parts = condition.split(";")
        if len(parts) == 1 and ":" in condition:  # over an array
            continue
        limit = re.search(r"(?:<|!=) *((?:C::)?[A-Z_]+|\d+)$", parts[1].strip())
        if len(parts) != 3 or not parts[1].strip() or not (limit or "BOUNDED" in body):
            found.append(condition)
    return found


def test_every_loop_of_the_engine_is_bounded() -> None:
    assert {name: unbounded((toolchain.SOURCES / name).read_text()) for name in ENGINE_FILES} == {
        name: [] for name in ENGINE_FILES
    }
    assert unbounded("while (x) {\n}\n") == ["while"]
    assert unbounded("for (;;) {\n}\n") == [";;"]
    assert unbounded("for (i = 0; i < n; ++i) {\n    x();\n") == ["i = 0; i < n; ++i"]
    assert unbounded("for (i = 0; i < n; ++i) {\n    HLS(pipeline II=1)\n    HLS(loop_tripcount max=8)\n") == []
    assert unbounded("for (i = 0; i < C::ROWS; ++i)\n") == []


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("lanes", [16, 64])
def test_every_source_compiles_without_warnings(compiler: str, lanes: int, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = [*toolchain.WARNINGS, "-Werror", "-fsyntax-only", f"-DNSLLM_LANES={lanes}"]
    for source in toolchain.SOURCES.glob("*.cpp"):
        subprocess.run([compiler, "-std=c++14", *flags, str(source)], check=True, timeout=120)
    done = subprocess.run(
        [compiler, *flags, "-DNSLLM_LANES=24", str(toolchain.SOURCES / "top.cpp")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and "NSLLM_LANES must be 16, 32 or 64" in done.stderr
