"""Mutations of NIR files, in their bytes and in their structure, and the files that are mutated."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from nsllm_nir.graph import DT, as_graph, write

SIGNATURES = (b"GCOL", b"TREE", b"SNOD", b"HEAP", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"\x89HDF")
Data = bytearray
Random = np.random.Generator


def graphs() -> dict[str, nir.NIRGraph]:
    """Small graphs that hold every node type `lower` accepts, loops, subgraphs and metadata."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-60, 100, shape).astype(np.float32)

    def full(value: float, *shape: int) -> np.ndarray:
        return np.full(shape, value)

    def lif(*shape: int) -> nir.LIF:
        return nir.LIF(full(8 * DT, *shape), full(8, *shape), full(0, *shape), full(150, *shape), full(0, *shape))

    def cuba(n: int) -> nir.CubaLIF:
        return nir.CubaLIF(
            full(4 * DT, n), full(8 * DT, n), full(8, n), full(0, n), full(300, n), full(0, n), full(4, n)
        )

    def port(kind: type, *shape: int) -> nir.NIRNode:
        return kind(np.array(shape))

    line = ["in", "conv", "n1", "pool", "flat", "w", "n2", "delay", "scale", "threshold", "out"]
    stack = {
        "in": port(nir.Input, 2, 6, 6),
        "conv": nir.Conv2d((6, 6), weight(3, 2, 3, 3), 1, 0, 1, 1, np.zeros(3)),
        "n1": lif(3, 4, 4),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([3, 2, 2])}, 0, -1),
        "w": nir.Affine(weight(5, 12), np.arange(5.0)),
        "n2": cuba(5),
        "delay": nir.Delay(DT * np.arange(5)),
        "scale": nir.Scale(np.array([1, 2, -3, 4, 5.0])),
        "threshold": nir.Threshold(full(1.5, 5)),
        "out": port(nir.Output, 5),
    }
    inner = nir.NIRGraph.from_list(
        port(nir.Input, 5), nir.Linear(weight(5, 5)), nir.IF(full(1 / DT, 5), full(200, 5), full(0, 5))
    )
    loop = {
        "in": port(nir.Input, 6),
        "w": nir.Linear(weight(5, 6)),
        "n": lif(5),
        "back": nir.Linear(weight(5, 5)),
        "block": inner,
        "li": nir.LI(full(4 * DT, 5), full(4, 5), full(0, 5)),
        "out": port(nir.Output, 5),
    }
    edges = [("in", "w"), ("w", "n"), ("n", "back"), ("back", "n"), ("n", "block"), ("block", "li"), ("li", "out")]
    conv1d = {
        "in": port(nir.Input, 2, 9),
        "conv": nir.Conv1d(9, weight(3, 2, 3), 2, 1, 1, 1, np.zeros(3)),
        "n": lif(3, 5),
        "i": nir.I(full(1 / DT, 3, 5)),
        "out": port(nir.Output, 3, 5),
    }
    return {
        "stack": nir.NIRGraph(stack, list(itertools.pairwise(line))),
        "loop": nir.NIRGraph(loop, edges, metadata={"text": "words", "more": {"number": 3, "array": np.arange(4)}}),
        "conv1d": nir.NIRGraph(conv1d, list(itertools.pairwise(conv1d))),
    }


def write_seeds(folder: Path) -> None:
    """Write each graph as `nir` does, as this project does, and in HDF5's newest layout; and a language model."""
    for name, graph in graphs().items():
        nir.write(folder / f"{name}_stock.nir", graph)
        write(folder / f"{name}_own.nir", as_graph(graph))
        with (
            h5py.File(folder / f"{name}_own.nir") as old,
            h5py.File(folder / f"{name}_latest.nir", "w", libver="latest") as new,
        ):
            for key in old:
                old.copy(key, new)
    import torch

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, to_nir

    torch.manual_seed(0)
    to_nir(
        NSLLMForCausalLM(NSLLMConfig(vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1)).eval(),
        folder / "model.nir",
    )


def _place(data: Data, rng: Random) -> int:
    """A random position; half of the time within 96 bytes behind a signature of the HDF5 format."""
    at = int(rng.integers(len(data)))
    if rng.random() < 0.5:
        found = data.find(SIGNATURES[rng.integers(len(SIGNATURES))], at)
        at = min(found + int(rng.integers(96)), len(data) - 1) if found >= 0 else at
    return at


def flip_bits(data: Data, rng: Random, other: bytes) -> None:
    for _ in range(rng.integers(1, 9)):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))


def change_bytes(data: Data, rng: Random, other: bytes) -> None:
    for _ in range(rng.integers(1, 5)):
        data[_place(data, rng)] = int(rng.choice([0, 1, 2, 127, 128, 255, int(rng.integers(256))]))


def overwrite(data: Data, rng: Random, other: bytes) -> None:
    at, size = _place(data, rng), int(rng.integers(1, 200))
    data[at : at + size] = rng.bytes(size) if rng.random() < 0.4 else bytes([rng.choice([0, 255])]) * size


def truncate(data: Data, rng: Random, other: bytes) -> None:
    del data[int(rng.integers(len(data))) :]


def extend(data: Data, rng: Random, other: bytes) -> None:
    at = _place(data, rng)
    data[at:at] = rng.bytes(int(rng.integers(1, 64)))


def cut(data: Data, rng: Random, other: bytes) -> None:
    at = _place(data, rng)
    del data[at : at + int(rng.integers(1, 64))]


def splice(data: Data, rng: Random, other: bytes) -> None:
    size = int(rng.integers(8, 2000))
    source, at = int(rng.integers(len(other))), _place(data, rng)
    data[at : at + size] = other[source : source + size]


def swap(data: Data, rng: Random, other: bytes) -> None:
    size = int(rng.integers(1, 300))
    a, b = sorted(int(x) for x in rng.integers(len(data), size=2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def set_number(data: Data, rng: Random, other: bytes) -> None:
    """A stored address, length or count becomes another number, such as the address of another structure."""
    for _ in range(rng.integers(1, 3)):
        size = int(rng.choice([1, 2, 4, 8]))
        at = min(_place(data, rng) // size * size, len(data) - 8)
        addresses = [found for s in SIGNATURES if (found := data.find(s, int(rng.integers(len(data))))) >= 0]
        value = int(rng.choice([0, 1, 7, 2**31, 2**63 - 1, len(data), at, *addresses, *addresses]))
        data[at : at + size] = struct.pack("<Q", value)[:size]


def _visit(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return names


def _some(names: list[str], rng: Random) -> str:
    return names[rng.integers(len(names))]


def _datasets(file: h5py.File) -> list[str]:
    return [name for name in _visit(file) if isinstance(file[name], h5py.Dataset)]


def _groups(file: h5py.File) -> list[str]:
    return ["/", *(name for name in _visit(file) if isinstance(file[name], h5py.Group))]


def _replace(file: h5py.File, name: str, value: Any, **more: Any) -> None:
    del file[name]
    file.create_dataset(name, data=value, **more)


def drop(file: h5py.File, rng: Random) -> None:
    del file[_some(_visit(file), rng)]


def set_type(file: h5py.File, rng: Random) -> None:
    """The same numbers, or as many zeros, with another element type."""
    name = _some(_datasets(file), rng)
    kind: Any = _some(
        ["f2", ">f8", "i8", "u8", "i1", "?", "c8", "S5", "V7", "i4,f4", "g", "M8[s]", "vlen", "enum", "text"], rng
    )
    shape = file[name].shape
    if kind == "text":
        return _replace(
            file,
            name,
            np.full(shape, _some(["", "NIRGraph", "LIF", "nan", "\ud7ff", "x" * 5000], rng), object),
            dtype=h5py.string_dtype(),
        )
    kind = {"vlen": h5py.vlen_dtype("i4"), "enum": h5py.enum_dtype({"A": 0, "B": 1})}.get(kind, kind)
    if kind == "M8[s]":
        kind = h5py.opaque_dtype(np.dtype(kind))
    del file[name]
    made = file.create_dataset(name, shape, kind)
    if made.dtype.kind in "biuf":
        made[...] = rng.integers(0, 3, shape)


def set_shape(file: h5py.File, rng: Random) -> None:
    name = _some(_datasets(file), rng)
    old = file[name]
    kind = old.dtype if h5py.check_string_dtype(old.dtype) is None else np.dtype("i4")
    shape = [
        (),
        (0,),
        (1,),
        (3, 0, 2),
        (1,) * 32,
        tuple(old.shape[::-1]),
        (*old.shape, 2),
        (7, 5),
        (1, *old.shape),
        (1 << 20,),
        (1 << 12, 1 << 12),
    ]
    wanted: Any = shape[rng.integers(len(shape))]
    del file[name]
    if rng.random() < 0.2:
        file[name] = h5py.Empty(kind)
    elif int(np.prod(wanted)) > 1 << 16:
        file.create_dataset(
            name, wanted, kind, chunks=True, compression="gzip"
        )  # nothing stored: all of it is the fill value
    else:
        file.create_dataset(name, data=np.zeros(wanted, kind))


def set_values(file: h5py.File, rng: Random) -> None:
    """Numbers that no reader expects, in one element or in all."""
    names = [name for name in _datasets(file) if h5py.check_string_dtype(file[name].dtype) is None]
    name = _some(names, rng)
    with np.errstate(invalid="ignore"):  # NaN as an integer
        values = np.array(file[name][()], np.float64 if rng.random() < 0.7 else np.int64)
    extreme = [
        np.nan,
        np.inf,
        -np.inf,
        0,
        -1,
        0.5,
        3,
        1e-300,
        1e300,
        -1e9,
        2**14,
        2**17,
        2**20,
        2**31,
        2**33,
        2**62,
        -(2**63),
    ]
    if values.dtype.kind == "i":
        extreme = [int(x) for x in extreme if np.isfinite(x) and abs(x) < 2**63]
    chosen = extreme[rng.integers(len(extreme))]
    if rng.random() < 0.5 or not values.shape:
        values[...] = chosen
    else:
        values.reshape(-1)[rng.integers(max(values.size, 1)) :][:1] = chosen
    _replace(file, name, values)


def add(file: h5py.File, rng: Random) -> None:
    group = file[_some(_groups(file), rng)]
    name = _some(
        ["x", "weight", "metadata", "nodes", "edges", "type", "é\n", ".", "v_reset", "input_shape", "a" * 3000], rng
    )
    if name not in group:
        group[name] = rng.integers(-3, 9, tuple(rng.integers(1, 4, int(rng.integers(3)))))


def exchange(file: h5py.File, rng: Random) -> None:
    """Two objects change places, or one stands in for another."""
    names = _visit(file)
    a, b = _some(names, rng), _some(names, rng)
    if a == b or a.startswith(b + "/") or b.startswith(a + "/"):
        return
    file.move(a, "moved")
    if rng.random() < 0.5:
        file.move(b, a)
        file.move("moved", b)
    else:
        file.copy(b, a)


def link(file: h5py.File, rng: Random) -> None:
    """One object becomes a link: to itself, to its own group, to another object, to nothing, to another file."""
    names = _visit(file)
    name = _some(names, rng)
    target = _some([*names, name, name.rpartition("/")[0] or "/", "nothing"], rng)
    kept = file.get(target)
    del file[name]
    how = rng.integers(3)
    if how == 0 and kept:
        file[name] = kept
    elif how == 1:
        file[name] = h5py.ExternalLink(_some(["/dev/zero", "missing.nir", "/dev/stdin", "/"], rng), target)
    else:
        file[name] = h5py.SoftLink("/" + target)


def nest(file: h5py.File, rng: Random) -> None:
    """Deep nesting: subgraphs in subgraphs, or metadata in metadata; or the same subgraph many times at every level."""
    graphs = [name for name in _groups(file) if "nodes" in file[name]]
    if rng.random() < 0.3:
        group = file[_some(graphs, rng)].require_group("metadata")
        for _ in range(int(rng.choice([10, 200, 2000]))):
            group = group.create_group("m")
        return
    shared = rng.random() < 0.5
    inner = file.create_group("inner")
    inner.create_group("nodes")
    inner["type"] = "NIRGraph"
    inner["edges"] = np.zeros((0, 2), "S1")
    for level in range(int(rng.choice([5, 30, 300]))):
        outer = file.create_group(f"outer{level}")
        outer["type"], outer["edges"] = file["inner/type"], file["inner/edges"]
        nodes = outer.create_group("nodes")
        nodes["a"] = inner
        if shared:
            nodes["b"] = inner
        inner = outer
    file[_some(graphs, rng)]["nodes"]["nested"] = inner


def set_edges(file: h5py.File, rng: Random) -> None:
    name = _some([name for name in _datasets(file) if name.endswith("edges")], rng)
    nodes = list(file[name].parent.get("nodes", {"a": 0}))
    count = int(rng.choice([0, 1, 5, 20, 3000]))
    ends = [_some(nodes if rng.random() < 0.99 else ["ghost", "", "in.out"], rng) for _ in range(2 * count)]
    how = rng.integers(5)
    edges = [list(pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
    if how < 2:
        edges = [list(pair) for pair in sorted({tuple(e) for e in edges})]
    if how == 2 and edges:
        value: Any = np.array(edges, "S8")
    elif how == 3:
        value = rng.integers(0, 5, (count, 2))
    else:
        value = np.array(edges, object).reshape(-1, int(rng.choice([1, 2, 2, 2])) if edges else 2)
    _replace(file, name, value, **({"dtype": h5py.string_dtype()} if value.dtype == object else {}))


def set_kind(file: h5py.File, rng: Random) -> None:
    """A node claims to be of another type."""
    name = _some([name for name in _datasets(file) if name.endswith("/type")], rng)
    _replace(
        file,
        name,
        _some(
            ["LIF", "NIRGraph", "Conv2d", "Input", "Output", "Linear", "Flatten", "Delay", "Scale", "Identity", ""], rng
        ),
    )


BYTES: tuple[Callable[[Data, Random, bytes], None], ...] = (
    flip_bits,
    change_bytes,
    overwrite,
    truncate,
    extend,
    cut,
    splice,
    swap,
    set_number,
)
STRUCTURE: tuple[Callable[[h5py.File, Random], None], ...] = (
    drop, set_type, set_shape, set_values, set_values, add, exchange, link, nest, set_edges, set_kind,
)  # fmt: skip


def mutated(seeds: list[bytes], seed: int, index: int) -> tuple[str, bytes]:
    """The names of the mutations, and the file: two of three are changed in their bytes, the others in structure."""
    rng = np.random.default_rng([seed, index])
    data, other = bytearray(seeds[rng.integers(len(seeds))]), seeds[rng.integers(len(seeds))]
    if index % 3:
        step = BYTES[rng.integers(len(BYTES))]
        step(data, rng, other)
        return step.__name__, bytes(data)
    memory, names = io.BytesIO(data), []
    with h5py.File(memory, "r+") as file:
        for _ in range(rng.integers(1, 3)):
            change = STRUCTURE[rng.integers(len(STRUCTURE))]
            try:
                change(file, rng)
            except (
                KeyError,
                ValueError,
                OSError,
                RuntimeError,
                TypeError,
                AttributeError,
                IndexError,
            ):  # the first change left nothing to do
                continue
            names.append(change.__name__)
    return "+".join(names) or "none", memory.getvalue()
