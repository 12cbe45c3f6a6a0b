"""Backend hls: Lif and Conv2d against the reference, their counters, their image, and mutants of both."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nsllm_nir.errors import BackendError, LossyConversionError
from nsllm_nir.exporters import hls
from nsllm_nir.exporters import image as images
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.simulation import EngineProcess
from nsllm_nir.program import Conv2d, Delay, Input, Lif, Linear, Op, Program, Sum, reference
from nsllm_nir.program.constants import LIF_LIMIT
from nsllm_nir.program.trace import Trace, compare, first_difference

SANITIZED = ("-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
DECAYS = (0, 1, 2, 410, 2048, 4095, 4096)


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, int)


def counts(program: Program, seed: int, steps: int = 20, rate: float = 0.4) -> np.ndarray:
    node = program.inputs[0]
    rng = np.random.default_rng(seed)
    return rng.integers(0, node.levels + 1, (steps, node.size)) * (rng.random((steps, node.size)) < rate)


# --- Lif ---------------------------------------------------------------------------------------------------------

LEAK_DRIVER = """
#include <cstdio>
#include "neuron.hpp"
struct C { static constexpr nsllm::Word LANES = 16; };
int main() {
    nsllm::Value state[16];
    nsllm::Word factor[16];
    while (std::fread(state, 4, 16, stdin) == 16 && std::fread(factor, 4, 16, stdin) == 16) {
        nsllm::leak_lanes<C>(factor, state);
        std::fwrite(state, 4, 16, stdout);
    }
}
"""


def test_serial_multiplier_is_the_product_rounded_toward_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    powers = [(1 << k) + d for k in range(24) for d in (-1, 0, 1)]
    sizes = [*powers, LIF_LIMIT, (1 << 31) - 1, *rng.integers(0, LIF_LIMIT, 200).tolist()]
    states = [*sizes, *(-s for s in sizes), -(1 << 31)]
    factors = [0, 1, 2, 3, 2047, 2048, 2049, 3686, 4094, 4095, 4096, *rng.integers(0, 4097, 20).tolist()]
    pairs = [(s, f) for s in states for f in factors]
    pairs += [(0, 0)] * (-len(pairs) % 16)
    (tmp_path / "leak.cpp").write_text(LEAK_DRIVER)
    command = [
        "g++",
        *SANITIZED,
        *STRICT,
        f"-I{toolchain.SOURCES}",
        str(tmp_path / "leak.cpp"),
        "-o",
        str(tmp_path / "leak"),
    ]
    subprocess.run(command, check=True, timeout=120)
    request = np.array(pairs, np.int64).reshape(-1, 16, 2).transpose(0, 2, 1).astype(np.uint32)
    done = subprocess.run([tmp_path / "leak"], input=request.tobytes(), capture_output=True, check=True, timeout=60)
    want = [(abs(s) * f // 4096) * (-1 if s < 0 else 1) for s, f in pairs]  # unbounded Python integers
    assert np.frombuffer(done.stdout, "<i4").tolist() == want


def lif_program(seed: int, fires: bool, drive: int = 1000) -> Program:
    """Every pair of decays, on neurons whose synaptic current stays within 24 bits; 70 % of the biases are near
    ``drive``.
    """
    rng = np.random.default_rng(seed)
    current, voltage = (a.reshape(-1) for a in np.meshgrid(DECAYS, DECAYS))
    current, voltage = np.tile(current, 3), np.tile(voltage, 3)
    size = current.size
    weight = rng.integers(-7, 8, (size, 40)).astype(np.int8)
    weight[:, 5:][current < 3] = 0  # slow synapses: |a| <= 31
    weight[current < 3] = np.clip(weight[current < 3], -2, 2)
    weight[current == 0] = 0  # no decay: no input
    bias = rng.integers(-drive, drive + 1, size)
    threshold = rng.integers(0, 200, size) if fires else None
    layer = Linear("layer", "input", weight, zeros(size), zeros(size))
    return Program((Input("input", 40, 3), layer, Lif("lif", "layer", current, voltage, threshold, bias)), ("lif",))


@pytest.mark.parametrize("fires", [True, False], ids=["spikes", "potential"])
@pytest.mark.parametrize("seed", range(3))
def test_all_decays_are_exact(assert_exact: Callable[..., Trace], seed: int, fires: bool) -> None:
    program = lif_program(seed, fires)
    trace = assert_exact(program, counts(program, seed, 60))
    rate = trace.values["lif"].mean()
    assert 0.02 < rate < 0.9 if fires else trace.values["lif"].min() < -100_000 < 100_000 < trace.values["lif"].max()


@pytest.mark.parametrize("fires", [True, False], ids=["spikes", "potential"])
@pytest.mark.parametrize("drive", [1 << 22, 1 << 24, (1 << 31) - 1])
def test_potential_saturates_at_both_ends(assert_exact: Callable[..., Trace], drive: int, fires: bool) -> None:
    program = lif_program(4, fires, drive)
    lif = program.ops[2]
    assert isinstance(lif, Lif)
    largest = dataclasses.replace(lif, threshold=np.full(lif.bias.size, (1 << 17) - 1))
    program = Program((*program.ops[:2], largest), ("lif",)) if fires else program
    trace = assert_exact(program, counts(program, 4, 30)).values["lif"]
    assert trace.max() == 1 if fires else (trace.min(), trace.max()) == (-LIF_LIMIT, LIF_LIMIT)


def recurrent(seed: int) -> Program:
    """A delay of one to three tokens closes a loop through a Lif; a second Lif without threshold reads it."""
    rng = np.random.default_rng(seed)
    size, decay = 70, rng.integers(100, 4097, 70)
    return Program(
        (
            Input("input", 20, 2),
            Delay("back", "lif", rng.integers(1, 4, size)),
            Linear("forward", "input", rng.integers(-20, 60, (size, 20)).astype(np.int8), zeros(size), zeros(size)),
            Linear(
                "loop",
                "back",
                rng.integers(-30, 25, (size, size)).astype(np.int8),
                rng.integers(-3, 4, size),
                rng.integers(0, 2, size),
            ),
            Sum("sum", ("forward", "loop"), zeros(size)),
            Lif("lif", "sum", np.full(size, 4096), decay, rng.integers(200, 400, size), rng.integers(-500, 500, size)),
            Linear("read", "lif", rng.integers(-128, 128, (5, size)).astype(np.int8), zeros(5), zeros(5)),
            Lif(
                "out",
                "read",
                np.array([4096, 700, 4095, 2048, 900]),
                np.array([410, 0, 4096, 1, 4095]),
                None,
                np.arange(-2, 3) * 9,
            ),
        ),
        ("out",),
    )


@pytest.mark.parametrize("seed", range(3))
def test_recurrence_through_a_lif_is_exact(assert_exact: Callable[..., Trace], seed: int) -> None:
    program = recurrent(seed)
    inputs = counts(program, seed, 50)
    executable = hls.backend.compile(program)
    trace = assert_exact(program, inputs, executable)
    assert 0.05 < trace.values["lif"].mean() < 0.8 and trace.values["out"].min() < 0
    for _ in range(2):  # the second session starts from silence again
        with executable.open() as session:
            assert np.array_equal([session.step(row) for row in inputs], trace.values["out"])


# --- Conv2d ------------------------------------------------------------------------------------------------------

GEOMETRIES: dict[str, dict[str, tuple]] = {  # type: ignore[type-arg]
    "plain": {"weight": (5, 3, 3, 3), "image": (3, 6, 7)},
    "same": {"weight": (17, 2, 3, 3), "image": (2, 5, 5), "padding": (1, 1)},
    "stride": {"weight": (4, 2, 3, 2), "image": (2, 9, 8), "stride": (2, 3), "padding": (1, 0)},
    "stride beyond the kernel": {"weight": (2, 1, 2, 1), "image": (1, 11, 7), "stride": (5, 3)},
    "dilation": {"weight": (6, 2, 3, 3), "image": (2, 9, 10), "dilation": (2, 3), "padding": (2, 3)},
    "stride and dilation": {
        "weight": (3, 2, 3, 4),
        "image": (2, 12, 20),
        "stride": (2, 4),
        "dilation": (3, 6),
        "padding": (3, 7),
    },
    "padding beyond the kernel": {"weight": (3, 1, 2, 2), "image": (1, 3, 4), "padding": (4, 3), "stride": (1, 2)},
    "groups": {"weight": (12, 2, 3, 3), "image": (6, 5, 6), "groups": (3,)},
    "one dimension": {
        "weight": (9, 3, 1, 5),
        "image": (3, 1, 40),
        "stride": (1, 2),
        "padding": (0, 2),
        "dilation": (1, 2),
    },
    "one neuron": {"weight": (1, 1, 1, 1), "image": (1, 1, 1)},
    "whole image": {"weight": (33, 4, 5, 6), "image": (4, 5, 6)},
    "depthwise": {"weight": (8, 1, 3, 3), "image": (8, 6, 6), "groups": (8,), "padding": (1, 1)},
}


def conv(name: str, source: str, rng: np.random.Generator, low: int, high: int, **geometry: tuple) -> Conv2d:  # type: ignore[type-arg]
    shape = geometry["weight"]
    pair = {
        key: geometry.get(key, default)
        for key, default in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)))
    }
    weight = rng.integers(low, high + 1, shape).astype(np.int8)
    bias, shift = rng.integers(-9, 10, shape[0]), rng.integers(0, 4, shape[0])
    return Conv2d(
        name,
        source,
        weight,
        bias,
        shift,
        geometry["image"],
        pair["stride"],
        pair["padding"],
        pair["dilation"],
        geometry.get("groups", (1,))[0],
    )


def conv_program(seed: int, low: int, high: int, levels: int, signed: bool, **geometry: tuple) -> Program:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    size = int(np.prod(geometry["image"]))
    flip = np.diag(rng.choice([-1, 1], size) if signed else np.ones(size, int)).astype(np.int8)
    ops: tuple[Op, ...] = (
        Input("input", size, levels),
        Linear("signs", "input", flip, zeros(size), zeros(size)),
        conv("conv", "signs", rng, low, high, **geometry),
    )
    return Program(ops, ("signs", "conv"))


def events_and_additions(op: Conv2d, source: np.ndarray) -> hls.SynapticEvents:
    """Tap by tap, from the definition of a convolution."""

    def reached(axis: int) -> np.ndarray:
        taps = np.zeros(op.input_shape[1 + axis], int)
        for o in range(op.output_shape[1 + axis]):
            for k in range(op.weight.shape[2 + axis]):
                position = o * op.stride[axis] + k * op.dilation[axis] - op.padding[axis]
                if 0 <= position < taps.size:
                    taps[position] += 1
        return taps

    taps = np.tile(np.outer(reached(0), reached(1)).reshape(-1), op.input_shape[0])
    bits = sum(np.abs(source) >> b & 1 for b in range(16))
    return hls.SynapticEvents(int((source != 0).sum()), int((bits * taps).sum()) * op.weight.shape[0] // op.groups)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize(
    ("low", "high", "levels", "signed"),
    [(-1, 1, 1, False), (-8, 7, 5, True), (-128, 127, 9, True)],
    ids=["2 bits", "4 bits", "8 bits"],
)
def test_convolutions_are_exact_and_count_their_work(
    assert_exact: Callable[..., Trace], name: str, low: int, high: int, levels: int, signed: bool
) -> None:
    program = conv_program(1, low, high, levels, signed, **GEOMETRIES[name])
    executable = hls.backend.compile(program)
    inputs = counts(program, 2, 8)
    inputs[0] = levels
    trace = assert_exact(program, inputs, executable)
    op = program.ops[2]
    assert isinstance(op, Conv2d)
    assert executable.counters["conv"] == events_and_additions(op, trace.values["signs"])
    assert set(executable.counters) == {"signs", "conv"}


@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions_are_exact(assert_exact: Callable[..., Trace], seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, per_group, outputs = (int(n) for n in rng.integers(1, (4, 4, 20)))
    kernel = rng.integers(1, 5, 2)
    dilation, stride, padding = rng.integers(1, 4, 2), rng.integers(1, 5, 2), rng.integers(0, 5, 2)
    size = np.maximum((kernel - 1) * dilation + 1 - 2 * padding, 1) + rng.integers(0, 7, 2)
    geometry = {
        "image": (groups * per_group, *size),
        "weight": (groups * outputs, per_group, *kernel),
        "groups": (groups,),
    }
    pairs = {"stride": stride, "padding": padding, "dilation": dilation}
    program = conv_program(seed, -7, 7, 3, True, **{k: tuple(map(int, v)) for k, v in (geometry | pairs).items()})
    assert_exact(program, counts(program, seed, 6))


def test_sum_pooling_is_exact(assert_exact: Callable[..., Trace]) -> None:
    pool = Conv2d(
        "pool", "input", np.ones((20, 1, 2, 3), np.int8), zeros(20), zeros(20), (20, 6, 9), (2, 3), (0, 0), (1, 1), 20
    )
    program = Program((Input("input", 20 * 54, 2), pool), ("pool",))
    inputs = counts(program, 3)
    pooled = assert_exact(program, inputs).values["pool"]
    assert np.array_equal(pooled.reshape(-1, 20, 3, 3), inputs.reshape(-1, 20, 3, 2, 3, 3).sum(axis=(3, 5)))


def network(seed: int) -> Program:
    """Convolution, Lif, strided grouped convolution, Lif, sum pooling, recurrent Lif, potential read-out."""
    rng = np.random.default_rng(seed)

    def lif(name: str, source: str, size: int, threshold: int | None) -> Lif:
        current, voltage = np.where(rng.random(size) < 0.5, 4096, 1500), rng.choice([0, 1, 410, 4095, 4096], size)
        return Lif(
            name,
            source,
            current,
            voltage,
            None if threshold is None else rng.integers(0, threshold, size),
            64 * rng.integers(-5, 6, size),
        )

    ops: tuple[Op, ...] = (
        Input("input", 2 * 8 * 9, 3),
        Delay("back", "hidden", rng.integers(1, 3, 30)),
        conv("conv1", "input", rng, -8, 7, weight=(6, 2, 3, 3), image=(2, 8, 9), padding=(1, 1)),
        lif("lif1", "conv1", 6 * 72, 60),
        conv(
            "conv2",
            "lif1",
            rng,
            -128,
            127,
            weight=(8, 3, 3, 3),
            image=(6, 8, 9),
            padding=(1, 1),
            stride=(2, 1),
            groups=(2,),
        ),
        lif("lif2", "conv2", 8 * 4 * 9, 800),
        Conv2d(
            "pool", "lif2", np.ones((8, 1, 2, 3), np.int8), zeros(8), zeros(8), (8, 4, 9), (2, 3), (0, 0), (1, 1), 8
        ),
        Linear("dense", "pool", rng.integers(-5, 9, (30, 48)).astype(np.int8), zeros(30), zeros(30)),
        Linear("loop", "back", rng.integers(-20, 21, (30, 30)).astype(np.int8), zeros(30), zeros(30)),
        Sum("sum", ("dense", "loop"), zeros(30)),
        lif("hidden", "sum", 30, 90),
        Linear("read", "hidden", rng.integers(-50, 51, (4, 30)).astype(np.int8), zeros(4), zeros(4)),
        lif("out", "read", 4, None),
    )
    return Program(ops, ("out",))


@pytest.mark.parametrize("seed", range(2))
def test_networks_are_exact(assert_exact: Callable[..., Trace], seed: int) -> None:
    program = network(seed)
    trace = assert_exact(program, counts(program, seed, 40, 0.2))
    assert all(0.02 < trace.values[name].mean() < 0.9 for name in ("lif1", "lif2", "hidden"))


@pytest.mark.parametrize(
    "depths",
    [toolchain.Depths(lanes=32, queue_words=3), toolchain.Depths(lanes=64, queue_words=50)],
    ids=["32 lanes", "64 lanes"],
)
def test_other_build_sizes_give_the_same_spikes(assert_exact: Callable[..., Trace], depths: toolchain.Depths) -> None:
    program = network(5)
    executable = hls.Executable(program, images.pack_image(program), toolchain.build_engine(depths, ("-O1",)))
    assert_exact(program, counts(program, 5), executable)


# --- image -------------------------------------------------------------------------------------------------------


def words_of(image: bytes) -> np.ndarray:
    return np.frombuffer(image, "<u4").copy()


def sealed(words: np.ndarray) -> bytes:
    words[3] = zlib.crc32(words[4:].tobytes(), zlib.crc32(words[:3].tobytes()))
    return words.tobytes()


def descriptor(program: Program, name: str) -> int:
    return 32 + 16 * [op.name for op in program.ops].index(name)


def test_kernel_blocks_unpack_to_the_weights() -> None:
    program = conv_program(0, -8, 7, 1, False, weight=(6, 2, 3, 2), image=(4, 5, 5), groups=(2,))
    op, words, at = program.ops[2], words_of(images.pack_image(program)), descriptor(program, "conv")
    assert isinstance(op, Conv2d) and words[at] == 9 and words[at + 11] == 4
    geometry = words[words[at + 5] : words[at + 5] + 16].tolist()
    assert geometry == [4, 6, 2, 3, 5, 3, 3, 1, 0, 1, 5, 4, 2, 1, 0, 1]
    blocks, stride = int(words[at + 9]), int(words[at + 10])
    assert stride == 24  # six taps of three 4-bit weights, one unit each
    for channel, tap, output in np.ndindex(4, 6, 3):
        field = int(words[blocks + channel * stride + 4 * tap]) >> 8 * output & 15
        assert field - (field >> 3 << 4) == op.weight[channel // 2 * 3 + output, channel % 2].reshape(-1)[tap]


def test_geometry_beyond_the_engine_is_refused() -> None:
    op = Conv2d(
        "far", "input", np.ones((1, 1, 1, 1), np.int8), zeros(1), zeros(1), (1, 1, 1), (1 << 25, 1), (0, 0), (1, 1), 1
    )
    with pytest.raises(
        LossyConversionError,
        match=(
            r"Conv2d 'far': the spike engine takes strides, paddings and dilations of at most 16777216, "
            r"found 33554432"
        ),
    ):
        images.pack_image(Program((Input("input", 1), op), ("far",)))


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    """An engine that ends at the first access outside a memory, and at the first undefined operation."""
    with EngineProcess(toolchain.build_engine(flags=SANITIZED[1:]), timeout=20.0) as process:
        yield process


FLAGS, SIZE, SOURCE, SECOND, SOURCE_SIZE, CONSTANTS, MORE, WEIGHTS, STRIDE, PARAMETER, STATE = (
    1,
    2,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    12,
)


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("lif1", FLAGS, 1),
        ("lif1", SIZE, 1 << 20),
        ("lif1", SOURCE, 1 << 28),
        ("lif1", CONSTANTS, 1 << 28),
        ("lif1", MORE, 0xFFFFFFFF),
        ("lif1", WEIGHTS, 1 << 28),
        ("lif1", STATE, 1 << 28),
        ("out", STATE, 0xFFFFFFFF),
        ("conv2", SIZE, 287),
        ("conv2", SOURCE, 1 << 28),
        ("conv2", SECOND, 1 << 28),
        ("conv2", SOURCE_SIZE, 431),
        ("conv2", CONSTANTS, 1 << 28),
        ("conv2", MORE, 1 << 28),
        ("conv2", WEIGHTS, 1 << 28),
        ("conv2", STRIDE, 4),
        ("conv2", STRIDE, 14),
        ("conv2", STRIDE, 1 << 20),
        ("conv2", PARAMETER, 3),
    ],
)
def test_wrong_descriptors_are_refused(engine: EngineProcess, name: str, word: int, value: int) -> None:
    program = network(0)
    words = words_of(images.pack_image(program))
    words[descriptor(program, name) + word] = value
    with pytest.raises(
        BackendError, match=rf"status 12\): op descriptor {[op.name for op in program.ops].index(name)}: it is invalid"
    ):
        engine.load(sealed(words))


def consistent(geometry: list[int], op: Conv2d, stride: int) -> bool:
    """What docs/image_format.md asks of a geometry, for the sizes of ``op`` and 8-bit weights."""
    channels, outputs, group_channels, group_outputs, *axes = geometry
    (height, out_height, kernel_height, *_), (width, out_width, kernel_width, *_) = axes[:6], axes[6:]
    for size, out, kernel, step, padding, dilation in (axes[:6], axes[6:]):
        if min(size, out, kernel, step, dilation) < 1 or max(size, out, kernel, step, padding, dilation) > 1 << 24:
            return False
        span = size + 2 * padding - dilation * (kernel - 1) - 1
        if span < 0 or out != span // step + 1:
            return False
    same = channels * height * width == np.prod(op.input_shape) and outputs * out_height * out_width == np.prod(
        op.output_shape
    )
    if not same or min(group_channels, group_outputs) < 1 or channels % group_channels or outputs % group_outputs:
        return False
    return (
        channels // group_channels == outputs // group_outputs
        and kernel_height * kernel_width * 4 * -(-group_outputs // 16) <= stride
    )


def test_a_geometry_is_refused_unless_it_is_consistent(engine: EngineProcess) -> None:
    program = network(0)
    op = next(op for op in program.ops if op.name == "conv2")
    original, at = words_of(images.pack_image(program)), descriptor(program, "conv2")
    start, loaded = int(original[at + SECOND]), 0
    original[at + STRIDE] = original[12] = 48  # room for a fourth kernel row
    assert isinstance(op, Conv2d) and consistent(original[start : start + 16].tolist(), op, int(original[at + STRIDE]))
    for word in range(16):
        old = int(original[start + word])
        for value in {0, 1, 2, 3, 4, 5, old + 1, abs(old - 1), 1 << 16, (1 << 24) + 1, 1 << 31, 0xFFFFFFFF} - {old}:
            words = original.copy()
            words[start + word] = value
            if consistent(words[start : start + 16].tolist(), op, int(original[at + STRIDE])):
                engine.load(sealed(words))
                loaded += 1
            else:
                with pytest.raises(BackendError, match=r"status 12\)"):
                    engine.load(sealed(words))
    assert loaded > 0  # that row, with which the stride leaves the same number of outputs


def test_accumulators_and_rows_must_hold_the_convolution(engine: EngineProcess) -> None:
    program = conv_program(0, -1, 1, 1, False, weight=(17, 2, 3, 3), image=(2, 5, 5), padding=(1, 1))
    image = images.pack_image(program)
    need = images.needs(image)
    assert (need.accumulators, need.row_words) == (25 * 17 + 47, 36)  # a row of 17 weights of 2 bits is a unit of 64
    engine.load(image)
    for header, smaller in ((13, need.accumulators - 1), (12, 16)):
        words = words_of(image)
        words[header] = smaller
        with pytest.raises(BackendError, match=r"status 12\)"):
            engine.load(sealed(words))


@pytest.mark.parametrize(
    ("name", "section", "value"),
    [
        ("lif1", MORE, 1 << 17),
        ("lif1", MORE, 0xFFFFFFFF),
        ("lif1", WEIGHTS, 4097),
        ("lif1", WEIGHTS, 4097 << 16),
        ("out", WEIGHTS, 1 << 31),
        ("conv1", MORE, 32),
    ],
)
def test_constants_out_of_range_are_refused(engine: EngineProcess, name: str, section: int, value: int) -> None:
    program = network(0)
    words = words_of(images.pack_image(program))
    words[words[descriptor(program, name) + section] + 1] = value
    with pytest.raises(
        BackendError,
        match=r"status 13\): op descriptor \d+: it has a step, threshold, shift, decay or delay out of range",
    ):
        engine.load(sealed(words))


def test_random_changes_are_refused_or_run_without_leaving_a_memory(engine: EngineProcess) -> None:
    program = network(1)
    original, rng = words_of(images.pack_image(program)), np.random.default_rng(3)
    rows = counts(program, 1, 2).astype(int)
    places = [
        descriptor(program, name) + word for name in ("conv1", "conv2", "pool", "lif1", "out") for word in range(16)
    ]
    places += [
        int(original[descriptor(program, name) + SECOND]) + word
        for name in ("conv1", "conv2", "pool")
        for word in range(16)
    ]
    refused = 0
    for _ in range(300):
        words = original.copy()
        at = int(rng.choice(places)) if rng.random() < 0.8 else int(rng.integers(400, words.size))
        old = int(words[at])
        words[at] = (
            rng.choice(
                [0, 1, 2, 3, 64, old + 1, old - 1, old + 64, old ^ 1 << int(rng.integers(32)), int(rng.integers(2**32))]
            )
            & 0xFFFFFFFF
        )
        try:
            engine.load(sealed(words))
        except BackendError as error:
            assert "refuses (status" in str(error)  # not a crash
            refused += 1
            continue
        engine.run(rows, traced=True)
    assert 60 < refused < 270


# --- mutants -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, np.ndarray, Path]:
    program = network(7)
    inputs = counts(program, 7, 24, 0.25)
    return (
        program,
        inputs,
        hls.build_vitis(program, inputs, reference.run(program, inputs), tmp_path_factory.mktemp("vitis") / "project"),
    )


@pytest.fixture(scope="module")
def bench(project: tuple[Program, np.ndarray, Path]) -> Path:
    subprocess.run(["make", "-C", str(project[2]), "build/testbench"], check=True, capture_output=True, timeout=120)
    return project[2] / "build" / "testbench"


def changed(program: Program, name: str, **change: object) -> Program:
    ops = tuple(dataclasses.replace(op, **change) if op.name == name else op for op in program.ops)  # type: ignore[arg-type]
    return Program(ops, program.outputs, program.widths)


def one_by_one(program: Program, name: str, field: str, change: Callable[[int], int]) -> Iterator[Program]:
    array = next(getattr(op, field) for op in program.ops if op.name == name)
    for i in np.ndindex(array.shape):
        copy = array.copy()
        copy[i] = change(int(copy[i]))
        yield changed(program, name, **{field: copy})


MUTANTS: dict[str, Callable[[Program], Iterator[Program]]] = {
    "current decay": lambda p: one_by_one(p, "lif2", "current_decay", lambda v: v - 1),
    "voltage decay": lambda p: one_by_one(p, "hidden", "voltage_decay", lambda v: 4096 - v),
    "voltage decay of the read-out": lambda p: one_by_one(p, "out", "voltage_decay", lambda v: v - 1 if v else 1),
    "threshold": lambda p: one_by_one(p, "lif1", "threshold", lambda v: v + 1),
    "lif bias": lambda p: one_by_one(p, "out", "bias", lambda v: v - 1),
    "weight": lambda p: one_by_one(p, "conv1", "weight", lambda v: -1 - v),
    "weight of a group": lambda p: one_by_one(p, "conv2", "weight", lambda v: -1 - v),
    "conv bias": lambda p: one_by_one(p, "conv2", "bias", lambda v: v + 5),
    "conv shift": lambda p: one_by_one(p, "conv1", "shift", lambda v: v + 1),
    "geometry": lambda p: iter([changed(p, "conv1", padding=(2, 2), dilation=(2, 2))]),
}


@pytest.mark.parametrize("kind", MUTANTS)
def test_other_constants_in_the_image_are_caught_and_named(
    project: tuple[Program, np.ndarray, Path], bench: Path, tmp_path: Path, kind: str
) -> None:
    program, inputs, folder = project
    want = reference.run(program, inputs)
    found = (
        (first_difference(compare(want, reference.run(mutant, inputs))), mutant) for mutant in MUTANTS[kind](program)
    )
    first, mutant = next((d, m) for d, m in found if d is not None)
    (tmp_path / "image.bin").write_bytes(images.pack_image(mutant))
    done = subprocess.run(
        [bench, tmp_path / "image.bin", folder / "vectors.bin"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout.splitlines()[0] == f"FAIL: {first}"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "neuron.hpp",
            "now > shift_left(threshold[k], LIF_FRACTION_BITS)",
            "now >= shift_left(threshold[k], LIF_FRACTION_BITS)",
        ),
        ("neuron.hpp", "state[k] < 0 ? negate(scaled) : scaled", "scaled"),
        ("neuron.hpp", "v[k] = spike ? 0 : now", "v[k] = now"),
        ("neuron.hpp", "bit < LIF_DECAY_BITS", "bit < LIF_DECAY_BITS - 1"),
        ("neuron.hpp", "factor[k] >> LIF_DECAY_BITS", "factor[k] >> (LIF_DECAY_BITS + 1)"),
        (
            "conv.hpp",
            "return at.remainder == 0 && at.quotient < walk.axis.outputs",
            "return at.quotient < walk.axis.outputs",
        ),
        ("conv.hpp", "if (at.quotient < strides) return false;", "if (at.quotient <= strides) return false;"),
        ("conv.hpp", "group += geometry.group_outputs;", ""),
        ("conv.hpp", "Index from = o;", "Index from = 0;"),
        ("conv.hpp", "if (!inside_x) continue;", "if (!inside_x) break;"),
    ],
    ids=[
        "compare",
        "sign",
        "no reset",
        "a factor bit",
        "factor 4096",
        "stride",
        "first output",
        "one group",
        "one output",
        "skipped row",
    ],
)
def test_mutants_of_the_engine_are_caught(
    project: tuple[Program, np.ndarray, Path], tmp_path: Path, name: str, old: str, new: str
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
    assert done.returncode == 2 and "FAIL: node '" in done.stdout


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
