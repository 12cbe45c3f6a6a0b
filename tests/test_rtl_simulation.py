"""The simulated surroundings of the engine: a small device behind the same ports works, and each broken bus rule is
named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nsllm_nir.errors import BackendError
from nsllm_nir.exporters import image as images
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.driver import Driver
from nsllm_nir.hw.simulated_bus import Accounts, SimulatedBus, Surroundings
from nsllm_nir.program import Input, Linear, Program, reference

# Register 0xF0 chooses a fault. Command 1 adds up a word of each beat of the image; any other command returns the event
# packet, each word plus 1.
DEVICE = """
module spike_engine #(
    parameter int LANES = 64, PORTS = 4, SIGNAL_WORDS = 64, STATE_WORDS = 64, QUEUE_WORDS = 64, DESCRIPTORS = 64,
        VALUE_BITS = 24, COMPARE_BITS = 32
) (
    input logic aclk, aresetn,
    output logic interrupt,
    input logic [7:0] s_axi_control_awaddr,
    input logic s_axi_control_awvalid,
    output logic s_axi_control_awready,
    input logic [31:0] s_axi_control_wdata,
    input logic [3:0] s_axi_control_wstrb,
    input logic s_axi_control_wvalid,
    output logic s_axi_control_wready,
    output logic [1:0] s_axi_control_bresp,
    output logic s_axi_control_bvalid,
    input logic s_axi_control_bready,
    input logic [7:0] s_axi_control_araddr,
    input logic s_axi_control_arvalid,
    output logic s_axi_control_arready,
    output logic [31:0] s_axi_control_rdata,
    output logic [1:0] s_axi_control_rresp,
    output logic s_axi_control_rvalid,
    input logic s_axi_control_rready,
    output logic [63:0] m_axi_image_araddr,
    output logic [7:0] m_axi_image_arlen,
    output logic [2:0] m_axi_image_arsize,
    output logic [1:0] m_axi_image_arburst,
    output logic m_axi_image_arvalid,
    input logic m_axi_image_arready,
    input logic [2*LANES-1:0] m_axi_image_rdata,
    input logic [1:0] m_axi_image_rresp,
    input logic m_axi_image_rlast, m_axi_image_rvalid,
    output logic m_axi_image_rready,
    input logic [31:0] s_axis_events_tdata,
    input logic s_axis_events_tvalid, s_axis_events_tlast,
    output logic s_axis_events_tready,
    output logic [31:0] m_axis_results_tdata,
    output logic m_axis_results_tvalid, m_axis_results_tlast,
    input logic m_axis_results_tready,
    output logic [15:0] op_index,
    output logic op_busy
);
    logic [31:0] registers [0:63];
    logic [31:0] beats, total, write_data, fault;
    logic flip;
    assign fault = registers[60];
    logic [7:0] write_address;
    logic have_address, have_data, adding, echoing, error;
    assign s_axi_control_awready = !have_address;
    assign s_axi_control_wready = !have_data;
    assign s_axi_control_arready = !s_axi_control_rvalid;
    assign s_axi_control_bresp = 0;
    assign s_axi_control_rresp = fault == 10 ? 2 : 0;
    assign m_axi_image_arlen = fault == 2 && flip ? 0 : 1;
    assign m_axi_image_arsize = fault == 4 ? 3 : 4;
    assign m_axi_image_arburst = fault == 3 ? 0 : 1;
    assign m_axi_image_rready = adding;
    assign s_axis_events_tready = echoing && !m_axis_results_tvalid;
    assign op_index = 3;
    assign op_busy = adding;
    always_ff @(posedge aclk) begin
        if (s_axi_control_awvalid && s_axi_control_awready) begin
            have_address <= 1; write_address <= s_axi_control_awaddr;
        end
        if (s_axi_control_wvalid && s_axi_control_wready) begin have_data <= 1; write_data <= s_axi_control_wdata; end
        if (have_address && (have_data || fault == 9) && !s_axi_control_bvalid) begin
            s_axi_control_bvalid <= 1;
            registers[write_address[7:2]] <= write_data;
            if (write_address == 8'h0C) interrupt <= 0;
            if (write_address == 0) begin
                {adding, echoing} <= registers[11] == 1 ? 2'b10 : 2'b01;
                m_axi_image_arvalid <= registers[11] == 1;
                {error, beats, total} <= 0;
                m_axi_image_araddr <=
                    {registers[7], registers[6] + (fault == 5 ? 32'd8 : fault == 6 ? 32'd4080 : 32'd0)};
            end
        end
        if (s_axi_control_bvalid && s_axi_control_bready) {s_axi_control_bvalid, have_address, have_data} <= 0;
        if (s_axi_control_arvalid && s_axi_control_arready) begin
            s_axi_control_rvalid <= 1;
            s_axi_control_rdata <= registers[s_axi_control_araddr[7:2]];
        end
        if (s_axi_control_rvalid && s_axi_control_rready) s_axi_control_rvalid <= 0;
        if (m_axi_image_arvalid && (m_axi_image_arready || fault == 1)) m_axi_image_arvalid <= 0;
        if (m_axi_image_rvalid && m_axi_image_rready) begin
            total <= total + m_axi_image_rdata[127:96];
            beats <= beats + 1;
            error <= error || m_axi_image_rresp != 0;
            if (m_axi_image_rlast && 4 * (beats + 1) >= registers[9]) begin
                adding <= 0;
                interrupt <= 1;
                registers[4] <= error || m_axi_image_rresp != 0 ? 18 : 0;
                registers[5] <= total + m_axi_image_rdata[127:96];
            end else if (m_axi_image_rlast) begin
                m_axi_image_arvalid <= 1;
                m_axi_image_araddr <= m_axi_image_araddr + 32;
            end
        end
        if (s_axis_events_tvalid && s_axis_events_tready) begin
            m_axis_results_tvalid <= 1;
            m_axis_results_tdata <= s_axis_events_tdata + 1;
            m_axis_results_tlast <= s_axis_events_tlast;
            if (s_axis_events_tlast) begin echoing <= 0; interrupt <= fault != 11; end
        end
        if (m_axis_results_tvalid && (m_axis_results_tready || fault == 7)) m_axis_results_tvalid <= 0;
        if (fault == 12 && interrupt) s_axi_control_rvalid <= 1;
        if (fault == 13 && interrupt) s_axi_control_bvalid <= 1;
        if (fault == 8) m_axis_results_tdata[9] <= flip;
        flip <= !flip;
        if (!aresetn)
            {have_address, have_data,
             s_axi_control_bvalid, s_axi_control_rvalid, m_axi_image_arvalid, m_axis_results_tvalid} <= 0;
        if (!aresetn) registers[60] <= 0;
        if (!aresetn) {adding, echoing, interrupt} <= 0;
    end
endmodule
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    (folder / "spike_engine.sv").write_text(DEVICE)
    return toolchain.build_rtl(toolchain.RtlSizes(), ("-O0",), folder)


IMAGE = np.arange(64, dtype="<u4")


def exercise(bus: SimulatedBus, address: int = 4096) -> None:
    """Both commands, and a read outside the memory."""
    for offset, value in ((0x18, address), (0x1C, 0), (0x24, 64), (0x2C, 1)):
        bus.write_register(offset, value)
    bus.write_memory(address, IMAGE)
    bus.accounts()
    for memory, status in ((IMAGE, 0), (IMAGE[:40], 18)):
        bus.write_memory(address, memory)
        bus.write_register(0, 1)
        bus.wait()
        bus.write_register(0x0C, 1)
        assert bus.read_register(0x10) == status
        if not status:
            assert bus.read_register(0x14) == IMAGE[3::4].sum()
            accounts = bus.accounts()
            assert (
                (accounts.beats, accounts.bursts) == (16, 8)
                and accounts.cycles > accounts.op_cycles[3]
                and accounts.checks > 4 * 8
            )
            assert accounts.op_cycles[:3] == [0, 0, 0] and accounts.op_cycles[3] > 16
    bus.write_register(0x2C, 3)
    for packet in (IMAGE, IMAGE[:1]):
        bus.send(packet)
        bus.write_register(0, 1)
        assert np.array_equal(bus.receive(), packet + 1)
        bus.wait()
        bus.write_register(0x0C, 1)
    assert bus.accounts().cycles > 0 and bus.accounts() == Accounts(0, 0, 0, 0, [])


@pytest.mark.parametrize(
    "surroundings",
    [Surroundings(1), Surroundings(40, 3), Surroundings(5, 1, 60, 1), Surroundings(5, 2, 60, 2)],
    ids=str,
)
def test_a_device_that_keeps_the_rules(device: Path, surroundings: Surroundings) -> None:
    with SimulatedBus(device, surroundings, timeout=30.0) as bus:
        exercise(bus)


def test_latency_and_bandwidth_are_what_was_asked(device: Path) -> None:
    cycles = {}
    for latency, interval, address_interval in ((1, 1, 1), (11, 1, 1), (1, 4, 1), (1, 1, 16)):
        with SimulatedBus(
            device, Surroundings(latency, interval, address_interval=address_interval), timeout=30.0
        ) as bus:
            for offset, value in ((0x18, 0), (0x1C, 0), (0x24, 64), (0x2C, 1)):
                bus.write_register(offset, value)
            bus.write_memory(0, IMAGE)
            bus.write_register(0, 1)
            bus.wait()
            cycles[latency, interval, address_interval] = bus.accounts().op_cycles[3]
    assert cycles[11, 1, 1] - cycles[1, 1, 1] == 8 * 10  # eight bursts of two beats, one after the other
    assert (
        cycles[1, 4, 1] - cycles[1, 1, 1] == 8 * 3 + 7 * 2
    )  # the second beat of each, and what is left of the pause between bursts
    assert cycles[1, 1, 16] - cycles[1, 1, 1] == 7 * (16 - 3)  # from burst to burst


FAULTS = [
    "m_axi_image AR: valid fell before ready",
    "m_axi_image AR: payload changed before ready",
    "m_axi_image AR: burst type is not INCR",
    "m_axi_image AR: beats are not as wide as the port",
    "m_axi_image AR: address is not a whole beat",
    "m_axi_image AR: burst crosses 4 KiB",
    "m_axis_results: valid fell before ready",
    "m_axis_results: payload changed before ready",
    "s_axi_control B: response before address and data",
    "s_axi_control R: error response",
    "interrupt: nothing has moved for 2000000 cycles",
    "s_axi_control R: response that nobody asked for",
    "s_axi_control B: response before address and data",
]


@pytest.mark.parametrize(("fault", "message"), list(enumerate(FAULTS, 1)))
def test_broken_rules_are_named(device: Path, fault: int, message: str) -> None:
    with SimulatedBus(device, Surroundings(5, 1, 60, 3), timeout=60.0) as bus:
        bus.write_register(0xF0, fault)
        with pytest.raises(BackendError, match=rf"breaks a rule: cycle \d+, {message}"):
            exercise(bus)
        with pytest.raises(BackendError, match="breaks a rule"):
            bus.read_register(0)


def test_a_valid_in_reset_is_named(tmp_path: Path) -> None:
    text = DEVICE.replace("s_axi_control_bvalid, s_axi_control_rvalid, m_axi", "s_axi_control_bvalid, m_axi")
    assert text != DEVICE
    (tmp_path / "spike_engine.sv").write_text(
        text.replace(
            "if (s_axi_control_rvalid && s_axi_control_rready) s_axi",
            "if (!aresetn) s_axi_control_rvalid <= 1; else s_axi",
        )
    )
    binary = toolchain.build_rtl(toolchain.RtlSizes(), ("-O0",), tmp_path)
    with (
        SimulatedBus(binary) as bus,
        pytest.raises(BackendError, match="breaks a rule: cycle 2, s_axi_control R: valid in reset"),
    ):
        bus.read_register(0)


def test_a_device_is_built_once_and_errors_of_its_source_are_shown(device: Path, tmp_path: Path) -> None:
    (tmp_path / "spike_engine.sv").write_text(DEVICE)
    stamp = device.stat().st_mtime_ns
    assert (
        toolchain.build_rtl(toolchain.RtlSizes(), ("-O0",), tmp_path) == device and device.stat().st_mtime_ns == stamp
    )
    (tmp_path / "spike_engine.sv").write_text(DEVICE.replace("endmodule", "endmodul"))
    with pytest.raises(BackendError, match=r"(?s)failed with status 1.*spike_engine\.sv:\d+"):
        toolchain.build_rtl(toolchain.RtlSizes(), ("-O0",), tmp_path)


# --- bursts of the engine itself --------------------------------------------------------------------------------------


def step_of_a_linear(binary: Path, address: int, surroundings: Surroundings) -> tuple[np.ndarray, np.ndarray, Accounts]:
    """One token through a Linear with rows of 17 beats (8-bit weights), its image at ``address``: what came, what
    should come, accounts.
    """
    rng = np.random.default_rng(4)
    weight = rng.integers(-128, 128, (260, 40)).astype(np.int8)
    program = Program(
        (Input("input", 40), Linear("linear", "input", weight, rng.integers(-9, 9, 260), rng.integers(0, 2, 260))),
        ("linear",),
    )
    inputs = (rng.random((1, 40)) < 0.5).astype(np.int64)
    with SimulatedBus(binary, surroundings) as bus:
        driver = Driver(bus, address)
        driver.load(images.pack_image(program, driver.sizes.beat_words))
        bus.accounts()
        got = driver.step(
            np.stack([np.flatnonzero(inputs[0]), np.ones(inputs.sum(), int)], axis=1).astype("<u4"), traced=False
        )
        return got[:260].view("<i4"), reference.run(program, inputs).values["linear"][0], bus.accounts()


def test_a_row_is_read_in_bursts_that_are_split_at_4_kib() -> None:
    binary, accounts = toolchain.build_rtl(), {}
    for address in (0, 16, 48, 0x7_FFFF_F010):
        for surroundings in (Surroundings(), Surroundings(1, 1, 60, 1), Surroundings(5, 2, 30, 2, 7)):
            got, want, accounts[address] = step_of_a_linear(binary, address, surroundings)
            assert np.array_equal(got, want)
    beats = accounts[0].beats
    assert all(account.beats == beats and account.bursts < beats / 2 for account in accounts.values())


def test_bursts_pay_where_a_memory_charges_each_read() -> None:
    binary = toolchain.build_rtl()
    free, charged = (step_of_a_linear(binary, 0, Surroundings(address_interval=interval))[2] for interval in (1, 4))
    assert charged.beats == free.beats and sum(charged.op_cycles) < 2 * sum(
        free.op_cycles
    )  # single beats would take 3 times as long


BURST_MUTANTS = {
    "length that the responses do not have": (
        "{constant, m_axi_arlen[1:0]}",
        "{constant, m_axi_arlen[1:0] ^ 2'd1}",
        r"status 18\): MEMORY_ERROR",
    ),
    "no split": ("crosses = room < ", "crosses = 1'b0 && room < ", "m_axi_image AR: burst crosses 4 KiB"),
    "valid falls": (
        "m_axi_arvalid <= split || asked;\n",
        "m_axi_arvalid <= split || asked;\n end else if (beats == 2'd1) begin m_axi_arvalid <= 1'b0;\n",
        "m_axi_image AR: valid fell before ready",
    ),
    "address moves": (
        "if (free) begin\n            address",
        "if (1'b1) begin\n            address",
        "m_axi_image AR: payload changed before ready",
    ),
    "narrow beats": (
        "m_axi_arsize = LOG[2:0]",
        "m_axi_arsize = LOG[2:0] - 3'd1",
        "m_axi_image AR: beats are not as wide as the port",
    ),
    "fixed address": ("m_axi_arburst = 2'b01", "m_axi_arburst = 2'b00", "m_axi_image AR: burst type is not INCR"),
}


@pytest.mark.parametrize("name", BURST_MUTANTS)
def test_mutants_of_the_bursts_are_caught(name: str, tmp_path: Path) -> None:
    old, new, message = BURST_MUTANTS[name]
    shutil.copytree(toolchain.RTL_SOURCES, tmp_path / "rtl")
    path = tmp_path / "rtl" / "memory_reader.sv"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    binary = toolchain.build_rtl(flags=("-O0",), folder=tmp_path / "rtl")
    with pytest.raises(BackendError, match=message):
        step_of_a_linear(binary, 48, Surroundings(5, 1, 60, 1))
