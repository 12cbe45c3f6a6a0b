"""Corrupt and hostile files through read and lower: no crash, no hang, no unbounded memory, only the project's own
errors.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from nsllm_nir.graph import DT

FUZZ = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
TEXT = "<IQI"  # bytes, heap, object: how HDF5 stores an element of a data set of texts


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FUZZ), *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def test_mutated_files_are_read_or_refused() -> None:
    """A sample of what benchmarks/fuzz.py does with 10,000 files."""
    done = run("--files", 300, "--seed", 11)
    print(done.stdout)  # shown on failure: the seed and index of each file that did something else
    assert done.returncode == 0, done.stderr
    assert "300 files, seed 11" in done.stdout and "| GraphError |" in done.stdout and "| accepted |" in done.stdout


def write_graph(path: Path) -> Path:
    lif = nir.LIF(np.full(4, 8 * DT), np.full(4, 8), np.zeros(4), np.full(4, 150), np.zeros(4))
    weights = nir.Linear(np.random.default_rng(0).integers(-60, 100, (4, 5)).astype(np.float32))
    nir.write(path, nir.NIRGraph.from_list(nir.Input(np.array([5])), weights, lif))
    return path


def patch(path: Path, at: int, form: str, *values: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(data)


def free_text(path: Path, size: int) -> None:
    """The free space behind the texts of the first collection claims to have ``size`` bytes."""
    data = path.read_bytes()
    at = data.index(b"GCOL") + 16
    while index := struct.unpack_from("<H", data, at)[0]:
        at += 16 + (struct.unpack_from("<Q", data, at + 8)[0] + 7) // 8 * 8
        assert index
    patch(path, at + 8, "<Q", size)


def long_text(path: Path) -> None:
    """An object of the collection is so long that its end wraps around 2**64 to its start."""
    at = path.read_bytes().index(b"GCOL") + 16
    patch(path, at + 8, "<Q", 2**64 - 16)


def free_names(path: Path) -> None:
    """The first block of free space between names is followed by itself."""
    data, at = path.read_bytes(), -1
    while (at := data.index(b"HEAP", at + 1)) and struct.unpack_from("<Q", data, at + 16)[0] == 1:
        continue
    block, address = struct.unpack_from("<QQ", data, at + 16)
    patch(path, address + block, "<Q", block)


def looped_tree(path: Path) -> None:
    """All children of the B-tree of a group with many nodes are the B-tree itself."""
    with h5py.File(path, "r+") as file:
        for i in range(600):
            file.create_group(f"node/nodes/n{i}")
    data = path.read_bytes()
    found = [at for at in range(0, len(data), 8) if data[at : at + 6] == b"TREE\x00\x01"]
    for child in range(struct.unpack_from("<H", data, found[-1] + 6)[0]):
        patch(path, found[-1] + 32 + 16 * child, "<Q", found[-1])


def claimed_text(path: Path) -> None:
    """The type of the graph claims 4 GB."""
    with h5py.File(path) as file:
        at = file["node/type"].id.get_offset()
    patch(path, at, "<I", 2**32 - 2)


def repeated_text(path: Path) -> None:
    """60,000 ends of edges are one and the same text of 1 MB."""
    with h5py.File(path, "r+") as file:
        del file["node/edges"]
        file["node/long"] = "x" * 2**20
        file.create_dataset("node/edges", data=np.full((30000, 2), "a", object), dtype=h5py.string_dtype())
        at, long = file["node/edges"].id.get_offset(), file["node/long"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[at : at + 60000 * 16] = data[long : long + 16] * 60000
    path.write_bytes(data)


def shared_subgraphs(path: Path) -> None:
    """40 levels, each of which holds the next one twice: 2**40 nodes."""
    with h5py.File(path, "r+") as file:
        inner: Any = None
        for level in range(40):
            outer = file.create_group(f"level{level}")
            outer["type"], outer["edges"] = "NIRGraph", np.zeros((0, 2), "S1")
            nodes = outer.create_group("nodes")
            if inner is not None:
                nodes["a"] = nodes["b"] = inner
            inner = outer
        file["node/nodes/shared"] = inner


def deep_subgraphs(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        group = file["node/nodes"]
        for _ in range(2000):
            inner = group.create_group("a")
            inner["type"], inner["edges"] = "NIRGraph", np.zeros((0, 2), "S1")
            group = inner.create_group("nodes")


def shared_metadata(path: Path) -> None:
    """A file of 1 MB whose metadata would take 20 GB."""
    with h5py.File(path, "r+") as file:
        zeros = file.create_dataset(
            "zeros", (4 << 20,), "i1", data=np.zeros(4 << 20, np.int8), chunks=True, compression="gzip"
        )
        group = file.create_group("node/metadata")
        for i in range(5000):
            group[f"m{i}"] = zeros


def replaced(name: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = value

    return change


def external_numbers(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["node/nodes/linear/weight"]
        file.create_dataset("node/nodes/linear/weight", (4, 5), "f4", external=[("/dev/zero", 0, 80)])


def large_chunk(path: Path) -> None:
    """The weight is stored in one chunk of 4 GB, of which it takes a part."""
    with h5py.File(path, "r+") as file:
        del file["node/nodes/linear/weight"]
        file.create_dataset("node/nodes/linear/weight", (4, 5), "f4", chunks=(1 << 15, 1 << 14), maxshape=(None, None))


def large_pooling(path: Path) -> None:
    pool = nir.SumPool2d(np.array([2, 2]), np.array([1, 1]), np.array([1 << 14, 1 << 14]))
    nir.write(path, nir.NIRGraph.from_list(nir.Input(np.array([1, 8, 8])), pool))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "text without size": (lambda path: free_text(path, 0), "the structure GCOL at byte"),
    "text that is too long": (long_text, "the structure GCOL at byte"),
    "free names in a circle": (free_names, "the structure HEAP at byte"),
    "B-tree in a circle": (looped_tree, "the structure TREE at byte"),
    "text of 4 GB": (claimed_text, "/node/type claims more text than this file can hold"),
    "one text many times": (repeated_text, "/node/edges claims more text than this file can hold"),
    "shared subgraphs": (shared_subgraphs, "stands in the file a second time"),
    "deep subgraphs": (deep_subgraphs, "lies more than 64 subgraphs deep"),
    "shared metadata": (shared_metadata, "edges and metadata up to here take 64 MiB more than the file"),
    "link to another file": (
        replaced("node/nodes", h5py.ExternalLink("/dev/zero", "/")),
        "/node/nodes is a link to another place",
    ),
    "link by name": (replaced("node/nodes/lif", h5py.SoftLink("/node")), "/node/nodes/lif is a link to another place"),
    "numbers of another file": (external_numbers, "/node/nodes/linear/weight keeps its numbers in other files"),
    "chunk of 2 GB": (large_chunk, "/node/nodes/linear/weight claims 2,147,483,648 bytes"),
    "input of 2**40 neurons": (
        replaced("node/nodes/input/shape", np.array([1 << 20, 1 << 20])),
        "1,099,511,627,776 neurons of shape",
    ),
    "endless input": (replaced("node/nodes/input/shape", np.array([np.inf])), "input: the shape holds NaN or infinity"),
    "input of words": (
        replaced("node/nodes/input/shape", np.array([b"five"])),
        "the parameter 'shape' holds text, expected numbers",
    ),
    "padding of 16384": (large_pooling, "neurons of shape (1, 32775, 32775), allowed are 16,777,216"),
    "no number": (replaced("node/nodes/linear/weight", h5py.Empty("f4")), "/node/nodes/linear/weight holds nothing"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each hostile file led to, every one in a process of its own with limits."""
    folder, paths = tmp_path_factory.mktemp("hostile"), []
    for number, (damage, _) in enumerate(HOSTILE.values()):
        paths.append(write_graph(folder / f"{number}.nir"))
        damage(paths[-1])
    done = run(*paths)
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_name(case: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome = outcomes[case]
    assert outcome["kind"] == "GraphError", outcome
    assert HOSTILE[case][1] in outcome["message"]
    assert outcome["peak"] < 128, "MiB that one small file may add"


def test_the_undamaged_file_is_accepted(tmp_path: Path) -> None:
    done = run(write_graph(tmp_path / "graph.nir"))
    assert done.returncode == 0 and json.loads(done.stdout)["kind"] == "accepted"


def test_edited_files_are_accepted(tmp_path: Path) -> None:
    """Deleted objects leave their bytes in the file, also those of structures that others overwrote in part: they are
    no corruption.
    """
    paths = []
    for seed in range(6):
        paths.append(write_graph(tmp_path / f"{seed}.nir"))
        rng = np.random.default_rng(seed)
        for _edit in range(6):
            with h5py.File(paths[-1], "r+") as file:
                for name in [name for name in file if name.startswith("x")]:
                    del file[name]
                for _ in range(int(rng.integers(1, 40))):
                    group = file.create_group(f"x{rng.integers(1 << 30)}")
                    for key in range(int(rng.integers(1, 20))):
                        group[f"{key}_" + "y" * int(rng.integers(40))] = (
                            "x" * int(rng.integers(3000)) if key % 2 else np.arange(rng.integers(1, 90))
                        )
                for name in file["node/nodes"]:
                    file.copy(f"node/nodes/{name}", f"x{name}")
                    del file[f"node/nodes/{name}"]
                    file.move(f"x{name}", f"node/nodes/{name}")
    done = run(*paths)
    assert {json.loads(line)["kind"] for line in done.stdout.splitlines()} == {"accepted"}, done.stdout


def test_the_harness_notices_a_hang_a_crash_and_a_foreign_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the trials report when `read` misbehaves: without this, zero differences would mean nothing."""
    script = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz
fuzz.SECONDS = 1
for act in (
    lambda path: time.sleep(60),
    lambda path: os.kill(os.getpid(), 11),
    lambda path: 1 / 0,
    lambda path: bytearray(1 << 33),
):
    fuzz.read = act
    print(fuzz.guarded(None).kind)
"""
    done = subprocess.run([sys.executable, "-c", script, str(FUZZ.parent)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["time-out", "SIGSEGV", "ZeroDivisionError", "MemoryError"], done.stderr
