"""Backend hls: the C simulation against the reference, its process, the compiler cache, and the Vitis project with its
mutants.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nsllm_nir.errors import BackendError, InputError, LossyConversionError
from nsllm_nir.exporters import hls, load, spike_engine
from nsllm_nir.exporters import image as images
from nsllm_nir.hw import toolchain
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum, Widths, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

SANITIZED = ("-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def every_width(seed: int) -> Program:
    """What the shared random programs leave out: all weight widths, graded inputs, sizes around the alignment, a
    recurrent signed loop, long delays, values near the 32-bit limits, several outputs.
    """
    rng = np.random.default_rng(seed)

    def linear(name: str, source: str, outputs: int, inputs: int, low: int, high: int) -> Linear:
        weight = rng.integers(low, high + 1, (outputs, inputs)).astype(np.int8)
        return Linear(name, source, weight, rng.integers(-9, 10, outputs), rng.integers(0, 3, outputs))

    def count(name: str, source: str, size: int, step: int, levels: int, signed: bool) -> Count:
        return Count(name, source, rng.integers(step, 2 * step, size), levels, signed)

    ops: list[Op] = [
        Input("input", 70, 5),
        Delay("back", "loop", rng.integers(1, 4, 64)),
        linear("ternary", "input", 130, 70, -1, 1),
        count("ternary_spikes", "ternary", 130, 9, 3, True),
        Delay("late", "ternary_spikes", rng.integers(0, 6, 130)),
        linear("four_bits", "late", 64, 130, -8, 7),
        linear("recurrent", "back", 64, 64, -8, 7),
        Sum("mixed", ("four_bits", "recurrent", "four_bits"), rng.integers(-50, 50, 64)),
        count("loop", "mixed", 64, 40, 31, True),
        linear("wide", "loop", 17, 64, -128, 127),
        Linear(
            "large", "wide", rng.integers(-2, 2, (3, 17)).astype(np.int8), np.array([-5, 0, 5]), np.array([3, 3, 2])
        ),
        Integrate("leak", "large", np.array([0, 192, 128]), 0),
        Integrate("slow", "loop", 256 - 2 ** rng.integers(0, 9, 64), 7),
        Gate("half", "one", "slow"),
        Count("slow_spikes", "half", np.full(64, 3001), 7, signed=True),
    ]
    ops.insert(-2, count("one", "mixed", 64, 30, 1, False))
    return Program(tuple(ops), ("large", "leak", "slow_spikes"), Widths(32, 32))


def graded(program: Program, seed: int, steps: int = 24) -> np.ndarray:
    node = program.inputs[0]
    rng = np.random.default_rng(seed)
    return rng.integers(0, node.levels + 1, (steps, node.size)) * (rng.random((steps, node.size)) < 0.4)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_are_exact(
    assert_exact: Callable[..., Trace], random_program: Callable[..., Program], tokens: np.ndarray, seed: int
) -> None:
    program = random_program(seed, layers=1 + seed % 3, width=8 + 9 * (seed % 2), levels=1 + seed)
    assert_exact(program, reference.one_hot(tokens, 16))


@pytest.mark.parametrize("seed", range(4))
def test_all_widths_delays_loops_and_outputs_are_exact(assert_exact: Callable[..., Trace], seed: int) -> None:
    program = every_width(seed)
    trace = assert_exact(program, graded(program, seed))
    assert np.abs(trace.values["large"]).max() > 1 << 16 and trace.values["loop"].min() < 0


def test_partial_sums_that_wrap_are_exact(assert_exact: Callable[..., Trace]) -> None:
    weight = np.array([[127] * 6 + [-127] * 6] * 2, np.int8)
    zeros, big = np.zeros(12, int), np.full(12, 1 << 30)
    ops = (
        Input("input", 12),
        Sum("offset", ("input",), np.full(12, 1 << 22)),
        Linear("linear", "offset", weight, np.array([0, -3]), np.array([0, 4])),  # 6 * 127 * 2**22 > 2**31 on the way
        Sum("up", ("input",), big),
        Sum("down", ("input",), -big),
        Sum("sum", ("up", "up", "down"), zeros),
    )
    program = Program(ops, ("linear", "sum"), Widths(32, 32))
    assert_exact(program, np.random.default_rng(0).integers(0, 2, (40, 12)))


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-8, 7), (-2, 1)])
def test_sums_of_any_number_of_spikes_are_exact(assert_exact: Callable[..., Trace], low: int, high: int) -> None:
    """Beyond 255 spikes, and counts beyond 255, the 16-bit sums of a Linear would overflow."""
    rng = np.random.default_rng(2)
    size, zeros = 600, np.zeros(5, int)
    weight = rng.integers(low, high + 1, (5, size)).astype(np.int8)
    weight[:2] = [[low], [high]]
    ops = (
        Input("input", size, 300),
        Linear("plain", "input", weight, zeros, zeros),
        Sum("shifted", ("input",), np.full(size, -2)),
        Linear("signed", "shifted", weight, zeros, zeros),
    )
    rows = [np.arange(size) < spikes for spikes in (1, 254, 255, 256, 257, 258, 300, size)]
    rows += [(np.arange(size) == 9) * count for count in (127, 255, 256, 257, 300)]
    rows += [np.where(np.arange(size) < 3, count, 1) for count in (85, 127, 255, 256, 300)] + [np.full(size, 300)]
    assert_exact(Program(ops, ("plain", "signed"), Widths(32, 32)), np.array(rows, int))


def test_decay_by_shift_and_subtraction_is_the_definition() -> None:
    s = np.concatenate(
        [
            np.arange(-3000, 3000),
            [-(2**31), 2**31 - 1, -(2**31) + 1],
            np.random.default_rng(1).integers(-(2**31), 2**31, 5000),
        ]
    )
    for j in range(9):
        k = 8 - j
        assert (((s * (256 - 2**j)) >> 8) == s - (s >> k) - ((s & ((1 << k) - 1)) != 0)).all()


@pytest.mark.parametrize(
    "depths",
    [toolchain.Depths(lanes=32, rows=1, queue_words=3), toolchain.Depths(lanes=64, rows=8, queue_words=50)],
    ids=["32 lanes", "64 lanes"],
)
def test_other_build_sizes_give_the_same_spikes(assert_exact: Callable[..., Trace], depths: toolchain.Depths) -> None:
    program = every_width(9)
    executable = hls.Executable(program, images.pack_image(program), toolchain.build_engine(depths, ("-O1",)))
    assert_exact(program, graded(program, 9), executable)


def test_session_steps_like_the_reference(random_program: Callable[..., Program], tokens: np.ndarray) -> None:
    program = random_program(2, layers=2)
    executable = load("hls").compile(program)
    inputs = reference.one_hot(tokens, 16)
    want = reference.run(program, inputs).values["logits"]
    for _ in range(2):  # the second session starts from silence again
        with executable.open() as session:
            assert np.array_equal([session.step(row) for row in inputs], want)
    with executable.open() as session, pytest.raises(InputError, match="expects values in"):
        session.step(2 * inputs[0])
    assert executable.run(inputs[:0]).values["logits"].shape == (0, 16)


def test_counters_are_the_rows_and_additions_of_the_spikes() -> None:
    program = every_width(3)
    inputs = graded(program, 3)
    executable = hls.backend.compile(program)
    trace = executable.run(inputs)
    for op in program.ops:
        if isinstance(op, Linear) and op.source in trace.values:
            counts = np.abs(trace.values[op.source])
            bits = sum(int((counts >> b & 1).sum()) for b in range(16))
            assert executable.counters[op.name] == hls.SynapticEvents(
                int((counts > 0).sum()), bits * op.weight.shape[0]
            )
    assert set(executable.counters) == {op.name for op in program.ops if isinstance(op, Linear)}
    executable.run(np.zeros_like(inputs))
    assert executable.counters["ternary"] == hls.SynapticEvents(0, 0)


@pytest.mark.parametrize("tokens", [1, 5, 24, 25])
def test_a_run_may_be_divided_into_requests(
    assert_exact: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    program = every_width(4)
    inputs = graded(program, 4)
    executable = hls.backend.compile(program)
    executable.run(inputs)
    whole = dict(executable.counters)
    monkeypatch.setattr(spike_engine, "MESSAGE_TOKENS", tokens)
    assert_exact(program, inputs, executable)
    assert executable.counters == whole


def test_outputs_alone_are_those_of_the_trace() -> None:
    program = every_width(5)
    inputs = graded(program, 5)
    want = reference.run(program, inputs).values
    with hls.backend.compile(program).open() as session:
        parts = [session.run(block, traced=False) for block in np.split(inputs, [10, 10, 11])]
    assert [list(part) for part in parts] == [["large", "leak", "slow_spikes"]] * 4
    for name in program.outputs:
        assert np.array_equal(np.vstack([part[name] for part in parts]), want[name])


def test_version_names_compiler_and_format() -> None:
    assert re.fullmatch(r"g\+\+ .*\d.*, image format 3", load("hls").version())


def test_engine_killed_in_the_middle_of_a_session(random_program: Callable[..., Program]) -> None:
    executable = hls.backend.compile(random_program(0))
    row = reference.one_hot([3], 16)[0]
    with executable.open() as session:
        session.step(row)
        os.kill(session.engine.process.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match="ended with status -9"):
            session.step(row)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, np.ndarray, Path]]:
    program = every_width(21)
    inputs = graded(program, 21)
    yield (
        program,
        inputs,
        hls.build_vitis(program, inputs, reference.run(program, inputs), tmp_path_factory.mktemp("vitis") / "project"),
    )


def test_project_builds_and_passes_as_it_stands(project: tuple[Program, np.ndarray, Path]) -> None:
    folder = project[2]
    done = subprocess.run(["make", "-C", str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert f"PASS: 24 steps, {len(project[0].traced)} nodes, 0 differences" in done.stdout
    tcl = (folder / "run_hls.tcl").read_text()
    assert "set_part {xcvc1902-vsva2197-2MP-e-S}" in tcl and "create_clock -period 4.0" in tcl
    assert re.findall(r"^(?:csim|csynth|cosim|export)_design", tcl, re.MULTILINE) == [
        "csim_design",
        "csynth_design",
        "cosim_design",
        "export_design",
    ]
    named = re.findall(r"add_files (?:-tb )?(\S+)", tcl)
    assert all((folder / name).is_file() for name in named) and len(named) == 4


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", [("-std=c++14", "-O2"), SANITIZED], ids=["c++14", "sanitizers"])
def test_project_is_free_of_warnings_and_undefined_behaviour(
    project: tuple[Program, np.ndarray, Path], tmp_path: Path, flags: tuple[str, ...], compiler: str
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    sources = [str(project[2] / "hls" / name) for name in ("top.cpp", "testbench.cpp")]
    subprocess.run([compiler, *flags, *STRICT, *sources, "-o", str(tmp_path / "bench")], check=True, timeout=120)
    done = subprocess.run(
        [tmp_path / "bench", "image.bin", "vectors.bin"], cwd=project[2], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("PASS")


def test_project_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_program: Callable[..., Program]
) -> None:
    program, inputs = random_program(0), reference.one_hot([1, 2], 16)
    trace = reference.run(program, inputs)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept")
    with pytest.raises(InputError, match="is not an empty folder"):
        hls.build_vitis(program, inputs, trace, tmp_path / "full")
    two = Program((Input("a", 2), Input("b", 2)), ("a",))
    with pytest.raises(LossyConversionError):
        hls.build_vitis(two, inputs, trace, tmp_path / "new")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hls.shutil, "copyfile", full_disk)
    with pytest.raises(OSError, match="No space left"):
        hls.build_vitis(program, inputs, trace, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["full"] and (tmp_path / "full" / "precious").read_text() == "kept"


def test_project_memories_grow_with_the_program(tmp_path: Path) -> None:
    program = Program(
        (
            Input("input", 70_000),
            Linear("linear", "input", np.ones((1, 70_000), np.int8), np.zeros(1, int), np.zeros(1, int)),
        ),
        ("linear",),
    )
    inputs = reference.one_hot([69_999], 70_000)
    folder = hls.build_vitis(program, inputs, reference.run(program, inputs), tmp_path / "project")
    assert "-DNSLLM_SIGNAL_WORDS=131072 -DNSLLM_STATE_WORDS=65536" in (folder / "Makefile").read_text()


# --- mutants: one word of the image changes, the test bench names the difference that the reference predicts ------

Edit = tuple[int, int]  # image address, new word
Mutant = tuple[Program, Edit]
FIELD = {
    "flags": 1,
    "source": 4,
    "second": 5,
    "source_size": 6,
    "constants": 7,
    "more": 8,
    "weights": 9,
    "stride": 10,
    "parameter": 11,
}


class Mutator:
    """Changes of one op: the program with the changed op, and the same change in its image."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.words = np.frombuffer(images.pack_image(program), "<u4").copy()
        self.at = {op.name: 32 + 16 * i for i, op in enumerate(program.ops)}

    def replaced(self, op: Op, **change: object) -> Program:
        ops = tuple(dataclasses.replace(o, **change) if o is op else o for o in self.program.ops)  # type: ignore[arg-type]
        return Program(ops, self.program.outputs, self.program.widths)

    def field(self, name: str, key: str) -> int:
        return int(self.words[self.at[name] + FIELD[key]])

    def constant(
        self, kind: type[Op], field: str, section: str, change: Callable[[int], int], stored: Callable[[int], int] = int
    ) -> Iterator[Mutant]:
        for op in (o for o in self.program.ops if isinstance(o, kind)):
            same = self.field(op.name, "flags") & 1 << FIELD[section] - 4  # one value in the descriptor
            for i, old in enumerate(getattr(op, field)[: 1 if same else None]):
                array = getattr(op, field).copy()
                array[slice(None) if same else i] = new = change(int(old))
                address = self.at[op.name] + FIELD[section] if same else self.field(op.name, section) + i
                word = stored(new) & 0xFFFFFFFF
                if not same and field in ("shift", "decay"):  # bytes
                    address = self.field(op.name, section) + i // 4
                    word = int(self.words[address]) & ~(255 << 8 * (i % 4)) | word << 8 * (i % 4)
                yield self.replaced(op, **{field: array}), (address, word)

    def weight(self) -> Iterator[Mutant]:
        for op in (o for o in self.program.ops if isinstance(o, Linear) and o.name == "four_bits"):
            for o, i in np.ndindex(op.weight.shape):
                weight = op.weight.copy()
                weight[o, i] = -1 - weight[o, i]  # all four bits flip
                address = self.field(op.name, "weights") + i * self.field(op.name, "stride") + o // 32 * 4 + o % 16 // 4
                yield (
                    self.replaced(op, weight=weight),
                    (address, int(self.words[address]) ^ 15 << 8 * (o % 4) + 4 * (o // 16 % 2)),
                )

    def scalar(self, name: str, field: str, key: str, new: object, word: int) -> Iterator[Mutant]:
        op = next(o for o in self.program.ops if o.name == name)
        yield self.replaced(op, **{field: new}), (self.at[name] + FIELD[key], word)

    def candidates(self, kind: str) -> Iterator[Mutant]:
        signal = {name: int(self.words[at + 3]) for name, at in self.at.items()}
        table: dict[str, Callable[[], Iterator[Mutant]]] = {
            "weight": self.weight,
            "threshold": lambda: self.constant(Count, "step", "constants", lambda v: v + 1),
            "shift": lambda: self.constant(Linear, "shift", "more", lambda v: v + 1 if v < 2 else v - 1),
            "bias": lambda: self.constant(Linear, "bias", "constants", lambda v: v - 1),
            "sum bias": lambda: self.constant(Sum, "bias", "constants", lambda v: v + 3),
            "delay": lambda: self.constant(Delay, "steps", "constants", lambda v: v - 1 if v > 1 else v + 1),
            "decay": lambda: self.constant(
                Integrate,
                "decay",
                "constants",
                lambda v: 256 - max(1, (256 - v) >> 1),
                lambda v: 9 - (256 - v).bit_length(),
            ),
            "levels": lambda: self.scalar("ternary_spikes", "levels", "parameter", 2, 2),
            "sign": lambda: self.scalar("ternary_spikes", "signed", "flags", False, 0),
            "fraction bits": lambda: self.scalar("slow", "fraction_bits", "parameter", 6, 6),
            "swapped edge": lambda: self.scalar("mixed", "sources", "source_size", ("four_bits", "recurrent"), 2),
            "other source": lambda: self.scalar("half", "source", "source", "mixed", signal["mixed"]),
        }
        return table[kind]()


KINDS = [
    "weight",
    "threshold",
    "shift",
    "bias",
    "sum bias",
    "delay",
    "decay",
    "levels",
    "sign",
    "fraction bits",
    "swapped edge",
    "other source",
]


@pytest.fixture(scope="module")
def bench(project: tuple[Program, np.ndarray, Path]) -> Path:
    subprocess.run(["make", "-C", str(project[2]), "build/testbench"], check=True, capture_output=True, timeout=120)
    return project[2] / "build" / "testbench"


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_of_the_image_are_caught_and_named(
    project: tuple[Program, np.ndarray, Path], bench: Path, tmp_path: Path, kind: str
) -> None:
    program, inputs, folder = project
    mutator = Mutator(program)
    want = reference.run(program, inputs)
    found = (
        (first_difference(compare(want, reference.run(mutant, inputs))), edit)
        for mutant, edit in mutator.candidates(kind)
    )
    first, (address, word) = next((d, e) for d, e in found if d is not None)
    words = mutator.words
    assert words[address] != word
    words[address] = word
    words[3] = zlib.crc32(words[4:].tobytes(), zlib.crc32(words[:3].tobytes()))
    (tmp_path / "image.bin").write_bytes(words.tobytes())
    done = subprocess.run(
        [bench, tmp_path / "image.bin", folder / "vectors.bin"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout.splitlines()[0] == f"FAIL: {first}"


@pytest.mark.parametrize(
    ("name", "old", "new", "node"),
    [
        ("neuron.hpp", "doubled[k] > threshold[k] ? 1", "doubled[k] >= threshold[k] ? 1", "ternary_spikes"),
        ("neuron.hpp", "(slot == 0 ? op.stride : slot) - 1", "slot == 0 ? 0 : slot - 1", "back"),
        ("neuron.hpp", "== 1 ? signals[op.source + i] : 0", "== 1 ? 0 : signals[op.source + i]", "slow_spikes"),
        ("integer.hpp", "!= 0 ? 1 : 0", "!= 0 ? 0 : 0", "leak"),
        ("linear.hpp", "negative ? ~sign_mask(LOG) : sign_mask(LOG)", "sign_mask(LOG)", "loop"),
        ("linear.hpp", "negative ? HALF_RANGE - 1U : HALF_RANGE", "HALF_RANGE", "loop"),
        ("linear.hpp", "const Word shift = wide ? 0U : bit", "const Word shift = 0", "ternary_spikes"),
        ("engine.hpp", "if (op.kind == DELAY) advance<C>(op, signals, states);", "", "back"),
    ],
    ids=["compare", "delay off by one", "swapped gate", "rounding", "sign", "sign bias", "no shift", "no delay"],
)
def test_mutants_of_the_engine_are_caught(
    project: tuple[Program, np.ndarray, Path], tmp_path: Path, name: str, old: str, new: str, node: str
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project[2], folder, ignore=shutil.ignore_patterns("build"))
    source = folder / "hls" / name
    text = source.read_text()
    assert text.count(old) == 1
    source.write_text(text.replace(old, new))
    done = subprocess.run(
        ["make", "-C", str(folder), "CXXFLAGS=-std=c++17 -O0"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and f"FAIL: node '{node}', step " in done.stdout


def test_a_changed_golden_vector_is_named(
    project: tuple[Program, np.ndarray, Path], bench: Path, tmp_path: Path
) -> None:
    program, inputs, folder = project
    trace = reference.run(program, inputs)
    trace.values["loop"][7, 5] += 1
    (tmp_path / "vectors.bin").write_bytes(images.pack_vectors(program, inputs, trace))
    done = subprocess.run(
        [bench, folder / "image.bin", tmp_path / "vectors.bin"], capture_output=True, text=True, timeout=60
    )
    value = int(trace.values["loop"][7, 5])
    assert (
        done.stdout
        == f"FAIL: node 'loop', step 7, neuron 5: expected {value}, got {value - 1}\nFAIL: 1 differences in 24 steps\n"
    )
    assert done.returncode == 1


def test_damaged_files_are_refused_by_the_test_bench(
    project: tuple[Program, np.ndarray, Path], bench: Path, tmp_path: Path
) -> None:
    folder = project[2]
    for name, damage, text in [
        ("image.bin", lambda b: b[:-4], "status 3, the image is truncated"),
        ("image.bin", lambda b: b[:2000] + bytes([b[2000] ^ 1]) + b[2001:], "status 6, the checksum"),
        ("image.bin", lambda b: b"", "cannot be read, is empty"),
        ("vectors.bin", lambda b: b[:-4], "not golden vectors of this image"),
        ("vectors.bin", lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], "not golden vectors of this image"),
    ]:
        files = {"image.bin": folder / "image.bin", "vectors.bin": folder / "vectors.bin"}
        (tmp_path / name).write_bytes(damage(files[name].read_bytes()))
        files[name] = tmp_path / name
        done = subprocess.run(
            [bench, files["image.bin"], files["vectors.bin"]], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and done.stdout == "" and text in done.stderr
