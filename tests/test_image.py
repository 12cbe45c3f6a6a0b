"""The program image: bytes, packing, refusals of programs and of damaged images."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from nsllm_nir.errors import BackendError, InputError, LossyConversionError
from nsllm_nir.exporters import image as images
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.image_check import check_image
from nsllm_nir.hw.simulation import STEP, EngineProcess
from nsllm_nir.program import Conv2d, Count, Delay, Input, Integrate, Lif, Linear, Program, Sum, Widths, reference

LARGE = toolchain.RtlSizes(
    signal_words=1 << 22, state_words=1 << 22, queue_words=1 << 22, descriptors=1 << 12, potential_bits=32
)
HEADER = {
    "version": 1,
    "ops_start": 5,
    "signal_words": 10,
    "state_words": 11,
    "row_words": 12,
    "accumulators": 13,
    "trace_words": 16,
    "row_words_aligned": 18,
    "potential_bits": 19,
    "comparator_bits": 20,
}
KIND, FLAGS, SIZE, DESTINATION, SOURCE, SOURCE_SIZE, CONSTANTS, MORE, WEIGHTS, STRIDE, PARAMETER = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
    10,
    11,
)


def words_of(image: bytes) -> np.ndarray:
    return np.frombuffer(image, "<u4").copy()


def sealed(words: np.ndarray) -> bytes:
    """The image with its checksum made right again: only other checks can refuse it."""
    words[3] = zlib.crc32(words[4:].tobytes(), zlib.crc32(words[:3].tobytes()))
    return words.tobytes()


def descriptor(image: bytes, kind: int, word: int) -> int:
    """Index of a word in the first descriptor of this kind."""
    words = words_of(image)
    return next(at + word for at in range(32, 32 + 16 * int(words[4]), 16) if words[at] == kind)


def one_linear(weight: np.ndarray, **kwargs: object) -> Program:
    outputs, inputs = weight.shape
    zeros = np.zeros(outputs, np.int32)
    return Program((Input("input", inputs, 7), Linear("linear", "input", weight, zeros, zeros)), ("linear",), **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    """An engine that ends at the first access outside a memory, and at the first undefined operation."""
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    with EngineProcess(toolchain.build_engine(flags=flags), timeout=20.0) as process:
        yield process


Load = Callable[[bytes], None]


@pytest.fixture(params=["host", "engine"])
def load(request: pytest.FixtureRequest) -> Load:
    """The check that hosts make, and that of the C++ engine: they refuse the same images with the same status."""
    if request.param == "engine":
        return request.getfixturevalue("engine").load  # type: ignore[no-any-return]

    def check(image: bytes) -> None:
        if refusal := check_image(image, LARGE):
            raise BackendError(f"(status {refusal.status & 0xFF}): {refusal.text}")

    return check


@pytest.fixture
def image(random_program: Callable[..., Program]) -> bytes:
    return images.pack_image(random_program(0, layers=2))


def test_header_is_the_documented_layout(random_program: Callable[..., Program]) -> None:
    program = random_program(1)
    words = words_of(images.pack_image(program))
    assert words[0].tobytes() == b"NSLI" and words[1] == 3 and words[2] == words.size
    assert words[3] == zlib.crc32(words[4:].tobytes(), zlib.crc32(words[:3].tobytes()))
    assert (words[4], words[6], words[14], words[15]) == (len(program.ops), len(program.traced), 16, 1)
    assert words[10] == 64 * len(program.ops) and words[18:21].tolist() == [4, 24, 32] and not words[21:32].any()
    names = words[words[8] : words[8] + words[9]].tobytes().rstrip(b"\0").decode().split("\0")
    assert names == [op.name for op in program.ops]


def unpacked(row: np.ndarray, bits: int) -> list[int]:
    """All weights of a row: byte k of each 16-byte unit holds outputs k, 16 + k, ... of the unit."""
    outputs = []
    for unit in row.view(np.uint8).reshape(-1, 16):
        fields = [int(unit[k]) >> bits * q & (1 << bits) - 1 for q in range(8 // bits) for k in range(16)]
        outputs += [f - (f >> bits - 1 << bits) for f in fields]
    return outputs


@pytest.mark.parametrize("alignment", [4, 8, 32])
@pytest.mark.parametrize(("low", "high", "bits"), [(-1, 1, 2), (-8, 7, 4), (-9, 7, 8), (-128, 127, 8)])
def test_weight_rows_unpack_to_the_weights(low: int, high: int, bits: int, alignment: int) -> None:
    weight = np.random.default_rng(0).integers(low, high + 1, (77, 5)).astype(np.int8)
    weight[0, :2] = low, high
    image = images.pack_image(one_linear(weight), alignment)
    words = words_of(image)
    start, stride, found = (int(words[descriptor(image, 2, w)]) for w in (WEIGHTS, STRIDE, PARAMETER))
    assert (found, stride) == (bits, -(-77 * bits // (32 * alignment)) * alignment) and words[18] == alignment
    for i in range(5):
        outputs = unpacked(words[start + stride * i : start + stride * (i + 1)], bits)
        assert outputs[:77] == weight[:, i].tolist() and not any(outputs[77:])
    assert check_image(image) is None


def test_kernel_blocks_unpack_to_the_weights() -> None:
    weight = np.random.default_rng(0).integers(-8, 8, (6, 2, 3, 2)).astype(np.int8)
    weight[0, 0, 0, 0] = 7
    op = Conv2d("conv", "input", weight, np.zeros(6, int), np.arange(6) % 3, (4, 5, 5), (1, 1), (1, 0), (1, 1), 2)
    image = images.pack_image(Program((Input("input", 100), op), ("conv",)), 8)
    words = words_of(image)
    start, stride, bits = (int(words[descriptor(image, 9, w)]) for w in (WEIGHTS, STRIDE, PARAMETER))
    assert (stride, bits) == (6 * 8, 4) and check_image(image) is None
    for channel, (i, j) in itertools.product(range(4), np.ndindex(3, 2)):
        at = start + stride * channel + 8 * (2 * i + j)
        group = 3 * (channel // 2)
        assert unpacked(words[at : at + 8], bits)[:3] == weight[group : group + 3, channel % 2, i, j].tolist()


def test_equal_constants_are_immediates_and_small_ones_bytes() -> None:
    zeros, shift = np.zeros(70, int), np.arange(70) % 5
    ops = (
        Input("input", 70),
        Sum("bias", ("input",), np.full(70, -3)),
        Linear("linear", "bias", np.ones((70, 70), np.int8), zeros, shift),
        Integrate("leak", "linear", 256 - 2 ** (np.arange(70) % 9), 0),
        Integrate("same", "linear", np.full(70, 192), 0),
        Delay("delay", "same", np.full(70, 2)),
    )
    words = words_of(images.pack_image(Program(ops, ("delay",), Widths(32, 32))))
    rows = words[32 : 32 + 16 * len(ops)].reshape(-1, 16)
    assert rows[:, 1].tolist() == [0, 8, 8, 0, 8, 8]
    assert [int(rows[i, 7]) for i in (1, 2, 4, 5)] == [0xFFFFFFFD, 0, 2, 2]
    assert words[rows[2, 8] :].view(np.uint8)[:72].tolist() == [*shift, 0, 0]
    assert words[rows[3, 7] :].view(np.uint8)[:70].tolist() == [8 - i % 9 for i in range(70)]
    assert rows[3:6, 12].tolist() == [0, 128, 256] and words[11] == 256 + 64 + 2 * 128


def test_packing_is_deterministic(random_program: Callable[..., Program]) -> None:
    assert images.pack_image(random_program(3, layers=3)) == images.pack_image(random_program(3, layers=3))
    assert images.pack_image(random_program(3)) != images.pack_image(random_program(4))


def test_programs_the_engine_cannot_hold_are_refused() -> None:
    weight = np.ones((2, 2), np.int8)
    two = Program((Input("a", 2), Input("b", 2)), ("a",))
    with pytest.raises(InputError, match="one of 4, 8, 16, 32 words, got 5"):
        images.pack_image(one_linear(weight), 5)
    with pytest.raises(LossyConversionError, match="one input, this one has 2"):
        images.pack_image(two)
    with pytest.raises(LossyConversionError, match="computes with 32 bits, the program declares 40"):
        images.pack_image(one_linear(weight, widths=Widths(40, 40)))


def test_a_program_too_large_for_a_build_names_the_memory(image: bytes) -> None:
    need = images.needs(image)
    need.check(toolchain.Depths())
    for name, value in vars(need).items():
        small = toolchain.Depths(**{name: value - 1})
        with pytest.raises(
            LossyConversionError, match=f"needs {name} = {value}, this build of the spike engine has {value - 1}"
        ):
            need.check(small)


def test_truncated_images_are_refused(load: Load, image: bytes) -> None:
    for size in (0, 4, 124, 128, len(image) // 8 * 4, len(image) - 4):
        with pytest.raises(BackendError, match=r"status 3\).*the image is truncated"):
            load(image[:size])
    with pytest.raises(BackendError, match=r"status 3\)"):
        load(image + bytes(4))
    with pytest.raises(BackendError, match=r"not a whole number of 32-bit words|the image is truncated"):
        load(image[:-1])


def test_any_flipped_bit_is_refused_and_nothing_runs(engine: EngineProcess, image: bytes) -> None:
    rng = np.random.default_rng(5)
    for position in [*rng.integers(0, len(image), 60), 0, 4, 8, 12, len(image) - 1]:
        corrupt = bytearray(image)
        corrupt[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(BackendError, match=r"status [3456]\)"):
            engine.load(bytes(corrupt))
    with pytest.raises(BackendError, match=r"status 2\): no image is loaded"):
        engine.run(np.zeros((1, 16), np.int64), traced=True)


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("version", 1, 5),
        ("signal_words", toolchain.SIMULATION.signal_words + 1, 8),
        ("state_words", toolchain.SIMULATION.state_words + 1, 9),
        ("trace_words", 1, 7),
        ("row_words_aligned", 5, 7),
        ("row_words_aligned", 32, 12),
        ("potential_bits", 33, 15),
        ("comparator_bits", 33, 15),
        ("ops_start", 1 << 30, 7),
        ("signal_words", 64, 7),
        ("accumulators", 1, 12),
        ("row_words", 0, 12),
        ("state_words", 0, 12),
    ],
)
def test_wrong_headers_are_refused(load: Load, image: bytes, field: str, value: int, status: int) -> None:
    words = words_of(image)
    words[HEADER[field]] = value
    with pytest.raises(BackendError, match=rf"status {status}\)"):
        load(sealed(words))


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (2, KIND, 10),
        (2, SIZE, 0),
        (2, DESTINATION, 1 << 31),
        (2, DESTINATION, 3),
        (2, SOURCE, 1 << 20),
        (2, SOURCE_SIZE, 1 << 20),
        (2, CONSTANTS, 0xFFFFFFFF),
        (2, FLAGS, 32),
        (2, WEIGHTS, 1 << 28),
        (2, STRIDE, 2),
        (2, PARAMETER, 3),
        (3, SOURCE_SIZE, 0),
        (3, MORE, 1 << 28),
        (4, PARAMETER, 256),
        (4, FLAGS, 4),
        (4, SOURCE, 1 << 28),
        (5, SOURCE, 1 << 28),
        (6, PARAMETER, 32),
        (6, 12, 1 << 28),
        (7, STRIDE, 1 << 28),
        (1, SIZE, 5),
        (1, 14, 1),
    ],
)
def test_descriptors_that_leave_a_memory_are_refused(
    load: Load, image: bytes, kind: int, word: int, value: int
) -> None:
    words = words_of(image)
    words[descriptor(image, kind, word)] = value
    with pytest.raises(BackendError, match=r"status 12\).*op descriptor \d+: it is invalid"):
        load(sealed(words))


@pytest.mark.parametrize(
    ("kind", "section", "value"), [(2, MORE, 32), (4, CONSTANTS, 0), (6, CONSTANTS, 9), (7, CONSTANTS, 9)]
)
def test_constants_out_of_range_are_refused(load: Load, image: bytes, kind: int, section: int, value: int) -> None:
    words = words_of(image)
    at = descriptor(image, kind, section)
    immediate = words[at - section + FLAGS] & 1 << section - 4
    words[at if immediate else words[at]] = value
    with pytest.raises(
        BackendError,
        match=r"status 13\).*op descriptor \d+: it has a step, threshold, shift, decay or delay out of range",
    ):
        load(sealed(words))


@pytest.mark.parametrize(("field", "status"), [("row_words", 10), ("accumulators", 11)])
def test_rows_and_accumulators_beyond_the_build_are_refused(
    engine: EngineProcess, image: bytes, field: str, status: int
) -> None:
    words = words_of(image)
    words[HEADER[field]] = getattr(toolchain.SIMULATION, field) + 1
    with pytest.raises(BackendError, match=rf"status {status}\)"):
        engine.load(sealed(words))


def test_builds_that_are_too_small_are_named(image: bytes) -> None:
    ops = int(words_of(image)[4])
    for sizes, status, text in [
        ({"lanes": 128}, 16, "rows are aligned to 4 words, the build needs 8"),
        ({"descriptors": ops - 1}, 17, f"needs descriptors = {ops}, the build has {ops - 1}"),
        ({"signal_words": 64}, 8, "the build has 64"),
        ({"state_words": 64}, 9, "the build has 64"),
        ({"potential_bits": 23}, 15, "needs potential_bits = 24, the build has 23"),
        ({"comparator_bits": 31}, 15, "needs comparator_bits = 32, the build has 31"),
        ({"queue_words": 15}, 19, "op descriptor 1: .*it has 16, the queue 15"),
    ]:
        refusal = check_image(image, toolchain.RtlSizes(**sizes))
        assert refusal and refusal.status & 0xFF == status and re.search(text, refusal.text)
    words = words_of(image)
    words[6] = 257  # ports
    refusal = check_image(sealed(words), toolchain.RtlSizes())
    assert (
        refusal
        and refusal.status == 17
        and "it needs ports (one per descriptor at most) = 257, the build has 256" in refusal.text
    )


def test_random_changes_are_refused_or_run_without_leaving_a_memory(engine: EngineProcess, image: bytes) -> None:
    rng = np.random.default_rng(11)
    original = words_of(image)
    structure = 32 + 16 * int(original[4]) + 4 * int(original[6])
    refused = 0
    for trial in range(400):
        words = original.copy()
        at = int(rng.integers(4, structure if trial % 2 else words.size))
        old = int(words[at])
        words[at] = (
            rng.choice(
                [0, 1, 2, 7, 64, old + 1, old - 1, old + 64, old ^ 1 << int(rng.integers(32)), int(rng.integers(2**32))]
            )
            & 0xFFFFFFFF
        )
        try:
            engine.load(sealed(words))
        except BackendError as error:
            assert "refuses (status" in str(error)  # not a crash
            refused += 1
            continue
        engine.run(np.eye(3, 16, dtype=np.int64), traced=True)
    assert 100 < refused < 300


def lif_and_conv() -> Program:
    rng = np.random.default_rng(3)
    conv = Conv2d(
        "conv",
        "input",
        rng.integers(-2, 2, (4, 2, 2, 3)),
        rng.integers(-9, 9, 4),
        np.arange(4),
        (4, 5, 5),
        (2, 1),
        (1, 0),
        (1, 2),
        2,
    )
    size = int(np.prod(conv.output_shape))
    decay = rng.integers(0, 4097, (2, size))
    fires = Lif("fires", "conv", decay[0], decay[1], np.arange(size) + 5, np.arange(size))
    shows = Lif("shows", "fires", np.full(size, 7), np.full(size, 4096), None, np.zeros(size, int))
    late = Delay("late", "shows", np.arange(size) % 4)
    return Program((Input("input", 100, 3), conv, fires, shows, late), ("late",), Widths(32, 32))


@pytest.mark.parametrize("kinds", ["layers", "lif and conv"])
def test_host_and_engine_refuse_the_same_images(engine: EngineProcess, image: bytes, kinds: str) -> None:
    rng = np.random.default_rng(12)
    original = words_of(image if kinds == "layers" else images.pack_image(lif_and_conv(), 8))
    structure = 32 + 16 * int(original[4]) + 4 * int(original[6])
    statuses = set()
    for trial in range(1500):
        words = original.copy()
        for _ in range(1 + trial % 2):
            at = int(rng.integers(0, structure if trial % 4 else words.size))
            old = int(words[at])
            words[at] = (
                rng.choice(
                    [
                        0,
                        1,
                        2,
                        7,
                        8,
                        64,
                        old + 1,
                        old - 1,
                        old + 64,
                        old ^ 1 << int(rng.integers(32)),
                        int(rng.integers(2**32)),
                    ]
                )
                & 0xFFFFFFFF
            )
        changed = sealed(words) if trial % 10 else words.tobytes()
        refusal = check_image(changed, LARGE)
        try:
            engine.load(changed)
        except BackendError as error:
            if re.search(r"status 1[01]\)", str(error)):
                continue  # row buffer and accumulators of the C++ engine
            status, text = str(error).removeprefix("the spike engine refuses (status ").split("): ", 1)
            assert (
                refusal and refusal.status & 0xFF == int(status) and refusal.text.split(": ", 1)[1].startswith(text)
            )  # names the same descriptor
            statuses.add(refusal.status & 0xFF)
        else:
            assert refusal is None, (refusal, trial)
    assert statuses >= {3, 4, 5, 6, 7, 12, 13, 15}


def test_events_outside_the_input_are_refused_with_their_step(engine: EngineProcess, image: bytes) -> None:
    engine.load(image)
    engine.run(np.eye(2, 16, dtype=np.int64), traced=False)
    for neuron, count in ((16, 1), (0, 2), (3, 0xFFFFFFFF)):
        spikes = np.eye(5, 17, dtype=np.int64)
        spikes[3] = 0
        spikes[3, [2, neuron]] = (1, count)
        event = np.flatnonzero(spikes[3]).tolist().index(neuron)
        with pytest.raises(
            BackendError, match=rf"status 14\): step 5: event {event}: it names a neuron or count outside the input"
        ):
            engine.run(spikes, traced=False)
        engine.load(image)  # counts the steps from 0 again
        engine.run(spikes[:2], traced=False)


@pytest.mark.parametrize(
    "payload",
    [[], [1], [2, 1, 0, 1], [1, 1, 0], [1, 1, 0, 1, 0], [0, 0], [0xFFFFFFFF], [1, 0xFFFFFFFF, 0, 1], [3, 0, 0]],
    ids=str,
)
def test_a_request_of_another_length_is_refused(engine: EngineProcess, image: bytes, payload: list[int]) -> None:
    engine.load(image)
    with pytest.raises(BackendError, match=r"status 255\): the request does not hold the events that it announces"):
        engine.request(STEP, np.array(payload, "<u4"))
    assert (
        engine.run(np.eye(1, 16, dtype=np.int64), traced=False).size == 16 + 4 * words_of(image)[4]
    )  # nothing ran; the engine lives


@pytest.mark.parametrize(("command", "payload", "status"), [(0, [], 1), (5, [], 1), (0xFFFFFFFF, [7], 1)])
def test_unknown_commands_are_refused(
    engine: EngineProcess, image: bytes, command: int, payload: list[int], status: int
) -> None:
    engine.load(image)
    with pytest.raises(BackendError, match=rf"status {status}\)"):
        engine.request(command, np.array(payload, "<u4"))
    assert engine.run(np.zeros((0, 16), np.int64), traced=True).size == 4 * words_of(image)[4]


def test_vectors_hold_events_and_expected_words() -> None:
    program = Program((Input("input", 3, 2), Count("count", "input", np.ones(3, np.int32), 2)), ("count",))
    inputs = np.array([[0, 2, 1], [0, 0, 0]])
    words = words_of(images.pack_vectors(program, inputs, reference.run(program, inputs)))
    assert words[:3].tolist() == [0x564C534E, 3, words.size] and words[4:8].tolist() == [2, 6, 0, 0]
    assert words[8:19].tolist() == [2, 1, 2, 2, 1, 0, 2, 1, 0, 2, 1]
    assert words[19:].tolist() == [0] * 7
