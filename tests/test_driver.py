"""The host driver on a small model of the engine's host interface, which computes tokens with the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nsllm_nir.errors import BackendError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters.spike_engine import EngineSession
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.image_check import check_image
from nsllm_nir.hw.registers import IDENTIFICATION, LOAD, OFFSETS, RESET, STEP, STEP_TRACED, status_code
from nsllm_nir.hw.toolchain import RtlSizes
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

SIZES = RtlSizes()


class ModelBus:
    """Registers, memory and streams as docs/image_format.md describes them.

    ``image_program``: what the image in memory stands for.
    """

    def __init__(self, image_program: Program) -> None:
        self.program = image_program
        self.registers = dict.fromkeys(OFFSETS.values(), 0)
        for name, value in {"identification": IDENTIFICATION, "image_version": images.VERSION, **vars(SIZES)}.items():
            self.registers[OFFSETS[name]] = value
        self.memory: dict[int, np.ndarray] = {}
        self.packets: list[np.ndarray] = []
        self.state: reference.State | None = None
        self.counters = 2 * len(image_program.ops)

    def value(self, name: str) -> int:
        return self.registers[OFFSETS[name]]

    def read_register(self, offset: int) -> int:
        return self.registers[offset]

    def write_register(self, offset: int, value: int) -> None:
        if offset == OFFSETS["interrupt_status"]:
            value = self.registers[offset] ^ value
        self.registers[offset] = value
        if offset == OFFSETS["control"]:
            assert value == 1 and not self.value("interrupt_status"), "started before the last command was acknowledged"
            self.registers[OFFSETS["status"]] = self.execute(self.value("command"))
            self.registers[OFFSETS["interrupt_status"]] = self.value("interrupt_enable") & self.value("interrupt_mask")

    def write_memory(self, address: int, words: np.ndarray) -> None:
        self.memory[address] = words

    def send(self, words: np.ndarray) -> None:
        assert words.dtype == np.dtype("<u4") and words.size == 1 + 2 * words[0]
        self.packets.append(words)

    def receive(self) -> np.ndarray:
        return self.result

    def wait(self) -> None:
        assert self.value("interrupt_status") == 1

    def execute(self, command: int) -> int:
        if command == LOAD:
            words = self.memory[self.value("image_address_low") | self.value("image_address_high") << 32]
            refusal = check_image(words[: self.value("image_words")].tobytes(), SIZES)
            self.state = None if refusal else reference.State()
            return refusal.status if refusal else 0
        if self.state is None:
            return status_code("NOT_LOADED")
        if command == RESET:
            self.state = reference.State()
            return 0
        assert command in (STEP, STEP_TRACED)
        pairs = self.packets.pop(0)[1:].reshape(-1, 2)
        bad = next((i for i, (neuron, count) in enumerate(pairs.tolist()) if neuron >= 16 or count > 1), None)
        if bad is not None:
            self.result = np.array([status_code("BAD_EVENT") | bad << 8], "<u4")
            return int(self.result[0])
        row = np.zeros(16, np.int64)
        row[pairs[:, 0]] = pairs[:, 1]
        values = reference.step(self.program, self.state, {"input": row})
        shown = [n for n in self.program.traced if command == STEP_TRACED or n in self.program.outputs]
        self.result = np.concatenate(
            [*(values[n].astype("<i4").view("<u4") for n in shown), np.zeros(self.counters, "<u4")]
        )
        return 0


@pytest.fixture
def program(random_program: Callable[..., Program]) -> Program:
    return random_program(1, layers=2)


@pytest.fixture
def image(program: Program) -> bytes:
    return images.pack_image(program)


@pytest.mark.parametrize("address", [0, 0x1_2345_6000])
def test_tokens_through_the_register_map(program: Program, image: bytes, tokens: np.ndarray, address: int) -> None:
    inputs = reference.one_hot(tokens, 16)
    driver = Driver(ModelBus(program), address)
    assert driver.sizes == SIZES
    driver.load(image)
    want = reference.run(program, inputs)
    for _ in range(2):
        trace = Trace(EngineSession(program, driver).run(inputs, traced=True))
        assert first_difference(compare(want, trace)) is None
        driver.reset()
    session = EngineSession(program, driver)
    assert np.array_equal([session.step(row) for row in inputs], want.values["logits"])


def damaged(image: bytes, word: int, value: int) -> bytes:
    words = np.frombuffer(image, "<u4").copy()
    words[word] = value
    return words.tobytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-4], r"status 3\): BAD_LENGTH"),
        (lambda b: b[:-1], r"status 3\): BAD_LENGTH"),
        (lambda b: damaged(b, 0, 7), r"status 4\): BAD_MAGIC"),
        (lambda b: damaged(b, 1, 2), r"status 5\): BAD_VERSION"),
        (lambda b: damaged(b, 40, 7), r"status 6\): BAD_CHECKSUM"),
    ],
    ids=["truncated", "odd", "magic", "version", "checksum"],
)
def test_damaged_images_never_reach_the_engine(
    program: Program, image: bytes, damage: Callable[[bytes], bytes], message: str
) -> None:
    bus = ModelBus(program)
    driver = Driver(bus)
    with pytest.raises(BackendError, match=message):
        driver.load(damage(image))
    assert not bus.memory and bus.value("command") == 0
    with pytest.raises(BackendError, match="no image is loaded"):
        driver.step(np.zeros((0, 2), "<u4"), traced=True)
    if len(damage(image)) % 4 == 0:
        with pytest.raises(BackendError, match=rf"the spike engine refuses \({message}"):
            driver.load_unchecked(damage(image))
    with pytest.raises(BackendError, match=r"status 2\): NOT_LOADED"):
        driver.reset()


def test_images_too_large_for_the_build_are_named(program: Program, image: bytes) -> None:
    bus = ModelBus(program)
    bus.registers[OFFSETS["signal_words"]] = 128
    with pytest.raises(
        BackendError, match=r"status 8\): SIGNALS_TOO_SMALL: .* needs signal_words = \d+, the build has 128"
    ):
        Driver(bus).load(image)
    assert not bus.memory


def test_refused_events_leave_the_program_loaded(program: Program, image: bytes) -> None:
    driver = Driver(ModelBus(program))
    driver.load(image)
    with pytest.raises(
        BackendError, match=r"status 14\): BAD_EVENT: event 1: it names a neuron or count outside the input"
    ):
        driver.step(np.array([[3, 1], [16, 1]], "<u4"), traced=False)
    driver.reset()
    assert driver.step(np.array([[3, 1]], "<u4"), traced=False).size == 16 + 2 * len(program.ops)


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        ("identification", 0xFFFFFFFF, "no spike engine answers: its identification register reads 0xFFFFFFFF"),
        ("image_version", 2, "reads image format 2, this driver writes format 3"),
    ],
)
def test_another_device_is_refused(program: Program, register: str, value: int, message: str) -> None:
    bus = ModelBus(program)
    bus.registers[OFFSETS[register]] = value
    with pytest.raises(BackendError, match=message):
        Driver(bus)


def test_a_result_of_the_wrong_length_is_refused(
    program: Program, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = ModelBus(program)
    driver = Driver(bus)
    driver.load(image)
    monkeypatch.setattr(bus, "receive", lambda: bus.result[:-1])
    with pytest.raises(BackendError, match=r"sent \d+ words for a token, expected \d+"):
        driver.step(np.zeros((0, 2), "<u4"), traced=True)
