// Top module of an ECP5 board with its image in an SDRAM. Its LED shows that the engine is busy.
module board_top_sdram #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 4096,
    parameter int STATE_WORDS = 4096,
    parameter int QUEUE_WORDS = 1024,
    parameter int DESCRIPTORS = 128,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int MEMORY_WORDS = 1 << 23,
    parameter int DIVISOR = 25,
    parameter int MULTIPLIER = 1,
    parameter int VCO_DIVIDER = 24,
    parameter int CLOCK_MHZ = 25,
    parameter int ECP5 = 0  // 1: with the registers of its pins
) (
    input logic clock,
    input logic rx,
    output logic tx,
    output logic led,
    output logic sdram_clk,
    output logic sdram_cke,
    output logic sdram_csn,
    output logic sdram_rasn,
    output logic sdram_casn,
    output logic sdram_wen,
    output logic [1:0] sdram_dqm,
    output logic [1:0] sdram_ba,
    output logic [12:0] sdram_a,
    inout wire [15:0] sdram_d
);
    logic engine_clock, reset;
    logic [35:0] sdram_out;
    logic [15:0] sdram_read_data;
    board_clock #(.MULTIPLIER(MULTIPLIER), .VCO_DIVIDER(VCO_DIVIDER)) clocks (.oscillator(clock), .clock(engine_clock), .reset);
    board_core #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS), .MEMORY_WORDS(MEMORY_WORDS), .DIVISOR(DIVISOR), .SDRAM(1), .CLOCK_MHZ(CLOCK_MHZ)
    ) core (
        .clock(engine_clock), .reset, .rx, .tx, .busy(led), .sdram_out, .sdram_read_data
    );
    sdram_pins #(.ECP5(ECP5)) pins (
        .clock(engine_clock), .sdram_out, .sdram_read_data, .sdram_clk, .sdram_cke, .sdram_csn, .sdram_rasn, .sdram_casn, .sdram_wen, .sdram_dqm,
        .sdram_ba, .sdram_a, .sdram_d
    );
endmodule
