// The design of a board with its SDRAM, at a serial line.
module sdram_line #(
    parameter int SIGNAL_WORDS = 4096,
    parameter int STATE_WORDS = 4096,
    parameter int QUEUE_WORDS = 1024,
    parameter int DESCRIPTORS = 128,
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int MEMORY_WORDS = 1 << 23,
    parameter int DIVISOR = 8
) (
    input logic clock,
    input logic reset,
    input logic rx,
    output logic tx,
    output logic busy
);
    localparam int CLOCK_MHZ = 75;
    logic [35:0] sdram_out;
    logic [15:0] sdram_read_data;
    board_core #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS), .MEMORY_WORDS(MEMORY_WORDS), .DIVISOR(DIVISOR), .SDRAM(1), .CLOCK_MHZ(CLOCK_MHZ)
    ) core (.*);
    sdram_board #(.CLOCK_MHZ(CLOCK_MHZ)) board (.clock, .sdram_out, .sdram_read_data);
endmodule
