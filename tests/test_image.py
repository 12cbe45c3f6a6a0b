"""The program image: bytes, packing, refusals of programs and of damaged images."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from nsllm_nir import reference
from nsllm_nir.errors import BackendError, LossyConversionError
from nsllm_nir.exporters import image as images
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.simulation import STEP, EngineProcess
from nsllm_nir.program import Count, Input, Linear, Program, Widths

HEADER = {
    "version": 1,
    "ops_start": 5,
    "signal_words": 10,
    "state_words": 11,
    "row_words": 12,
    "accumulators": 13,
    "trace_words": 16,
}
KIND, FLAGS, SIZE, DESTINATION, SOURCE, SOURCE_SIZE, CONSTANTS, MORE, WEIGHTS, STRIDE, PARAMETER = 0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11


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


@pytest.fixture
def image(random_program: Callable[..., Program]) -> bytes:
    return images.pack_image(random_program(0, layers=2))


def test_header_is_the_documented_layout(random_program: Callable[..., Program]) -> None:
    program = random_program(1)
    words = words_of(images.pack_image(program))
    assert words[0].tobytes() == b"NSLI" and words[1] == 2 and words[2] == words.size
    assert words[3] == zlib.crc32(words[4:].tobytes(), zlib.crc32(words[:3].tobytes()))
    assert (words[4], words[6], words[14], words[15]) == (len(program.ops), len(program.traced), 16, 1)
    assert words[10] == 64 * len(program.ops) and not words[18:32].any()
    names = words[words[8] : words[8] + words[9]].tobytes().rstrip(b"\0").decode().split("\0")
    assert names == [op.name for op in program.ops]


@pytest.mark.parametrize(("low", "high", "bits"), [(-1, 1, 2), (-8, 7, 4), (-9, 7, 8), (-128, 127, 8)])
def test_weight_rows_unpack_to_the_weights(low: int, high: int, bits: int) -> None:
    weight = np.random.default_rng(0).integers(low, high + 1, (37, 5)).astype(np.int8)
    weight[0, :2] = low, high
    image = images.pack_image(one_linear(weight))
    words = words_of(image)
    start, stride, found = (int(words[descriptor(image, 2, w)]) for w in (WEIGHTS, STRIDE, PARAMETER))
    assert (found, stride) == (bits, -(-37 * bits // 128) * 4)
    each = 32 // bits
    for i in range(5):
        row = words[start + stride * i : start + stride * (i + 1)]
        fields = [int(row[o // each]) >> bits * (o % each) & (1 << bits) - 1 for o in range(each * stride)]
        signed = [f - (f >> bits - 1 << bits) for f in fields]
        assert signed[:37] == weight[:, i].tolist() and not any(signed[37:])


def test_packing_is_deterministic(random_program: Callable[..., Program]) -> None:
    assert images.pack_image(random_program(3, layers=3)) == images.pack_image(random_program(3, layers=3))
    assert images.pack_image(random_program(3)) != images.pack_image(random_program(4))


def test_programs_the_engine_cannot_hold_are_refused() -> None:
    weight = np.ones((2, 2), np.int8)
    two = Program((Input("a", 2), Input("b", 2)), ("a",))
    with pytest.raises(LossyConversionError, match="one input, this one has 2"):
        images.pack_image(two)
    with pytest.raises(LossyConversionError, match="computes with 32 bits, the program declares 40"):
        images.pack_image(one_linear(weight, widths=Widths(40, 40)))


def test_a_program_too_large_for_a_build_names_the_memory(image: bytes) -> None:
    need = images.needs(image)
    need.check(toolchain.Depths())
    for name, value in vars(need).items():
        small = toolchain.Depths(**{name: value - 1})
        with pytest.raises(LossyConversionError, match=f"needs {name} = {value}, this build of the spike engine has {value - 1}"):
            need.check(small)


def test_truncated_images_are_refused(engine: EngineProcess, image: bytes) -> None:
    for size in (0, 4, 124, 128, len(image) // 8 * 4, len(image) - 4):
        with pytest.raises(BackendError, match=r"status 3\): the image is truncated"):
            engine.load(image[:size])
    with pytest.raises(BackendError, match=r"status 3\)"):
        engine.load(image + bytes(4))
    with pytest.raises(BackendError, match="not a whole number of 32-bit words"):
        engine.load(image[:-1])


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
        ("row_words", toolchain.SIMULATION.row_words + 1, 10),
        ("accumulators", toolchain.SIMULATION.accumulators + 1, 11),
        ("trace_words", 1, 7),
        ("ops_start", 1 << 30, 7),
        ("signal_words", 64, 7),
        ("accumulators", 1, 12),
        ("row_words", 0, 12),
        ("state_words", 0, 12),
    ],
)
def test_wrong_headers_are_refused(engine: EngineProcess, image: bytes, field: str, value: int, status: int) -> None:
    words = words_of(image)
    words[HEADER[field]] = value
    with pytest.raises(BackendError, match=rf"status {status}\)"):
        engine.load(sealed(words))


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
        (2, MORE, 1 << 28),
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
def test_descriptors_that_leave_a_memory_are_refused(engine: EngineProcess, image: bytes, kind: int, word: int, value: int) -> None:
    words = words_of(image)
    words[descriptor(image, kind, word)] = value
    with pytest.raises(BackendError, match=r"status 12\): op descriptor \d+ is invalid"):
        engine.load(sealed(words))


@pytest.mark.parametrize(("kind", "section", "value"), [(2, MORE, 32), (4, CONSTANTS, 0), (6, CONSTANTS, 9), (7, CONSTANTS, 9)])
def test_constants_out_of_range_are_refused(engine: EngineProcess, image: bytes, kind: int, section: int, value: int) -> None:
    words = words_of(image)
    words[words[descriptor(image, kind, section)]] = value
    with pytest.raises(BackendError, match=r"status 13\): op descriptor \d+ has a step, threshold, shift, decay or delay out of range"):
        engine.load(sealed(words))


def test_random_changes_are_refused_or_run_without_leaving_a_memory(engine: EngineProcess, image: bytes) -> None:
    rng = np.random.default_rng(11)
    original = words_of(image)
    structure = 32 + 16 * int(original[4]) + 4 * int(original[6])
    refused = 0
    for trial in range(400):
        words = original.copy()
        at = int(rng.integers(4, structure if trial % 2 else words.size))
        old = int(words[at])
        words[at] = rng.choice([0, 1, 2, 7, 64, old + 1, old - 1, old + 64, old ^ 1 << int(rng.integers(32)), int(rng.integers(2**32))]) & 0xFFFFFFFF
        try:
            engine.load(sealed(words))
        except BackendError as error:
            assert "refuses (status" in str(error)  # not a crash
            refused += 1
            continue
        engine.run(np.eye(3, 16, dtype=np.int64), traced=True)
    assert 100 < refused < 300


def test_events_outside_the_input_are_refused_with_their_step(engine: EngineProcess, image: bytes) -> None:
    engine.load(image)
    engine.run(np.eye(2, 16, dtype=np.int64), traced=False)
    for neuron, count in ((16, 1), (0, 2), (3, 0xFFFFFFFF)):
        spikes = np.eye(5, 17, dtype=np.int64)
        spikes[3] = 0
        spikes[3, [2, neuron]] = (1, count)
        event = np.flatnonzero(spikes[3]).tolist().index(neuron)
        with pytest.raises(BackendError, match=rf"status 14\): step 5: event {event} names a neuron or count outside the input"):
            engine.run(spikes, traced=False)
        engine.load(image)  # counts the steps from 0 again
        engine.run(spikes[:2], traced=False)


@pytest.mark.parametrize("payload", [[], [1], [2, 1, 0, 1], [1, 1, 0], [1, 1, 0, 1, 0], [0, 0], [0xFFFFFFFF], [1, 0xFFFFFFFF, 0, 1], [3, 0, 0]], ids=str)
def test_a_request_of_another_length_is_refused(engine: EngineProcess, image: bytes, payload: list[int]) -> None:
    engine.load(image)
    with pytest.raises(BackendError, match=r"status 255\): the request does not hold the events that it announces"):
        engine._request(STEP, np.array(payload, "<u4"))
    assert engine.run(np.eye(1, 16, dtype=np.int64), traced=False).size == 16 + 4 * words_of(image)[4]  # nothing ran; the engine lives


@pytest.mark.parametrize(("command", "payload", "status"), [(0, [], 1), (5, [], 1), (0xFFFFFFFF, [7], 1)])
def test_unknown_commands_are_refused(engine: EngineProcess, image: bytes, command: int, payload: list[int], status: int) -> None:
    engine.load(image)
    with pytest.raises(BackendError, match=rf"status {status}\)"):
        engine._request(command, np.array(payload, "<u4"))
    assert engine.run(np.zeros((0, 16), np.int64), traced=True).size == 4 * words_of(image)[4]


def test_vectors_hold_events_and_expected_words() -> None:
    program = Program((Input("input", 3, 2), Count("count", "input", np.ones(3, np.int32), 2)), ("count",))
    inputs = np.array([[0, 2, 1], [0, 0, 0]])
    words = words_of(images.pack_vectors(program, inputs, reference.run(program, inputs)))
    assert words[:3].tolist() == [0x564C534E, 2, words.size] and words[4:8].tolist() == [2, 6, 0, 0]
    assert words[8:19].tolist() == [2, 1, 2, 2, 1, 0, 2, 1, 0, 2, 1]
    assert words[19:].tolist() == [0] * 7
