// Top module of a board with its image in on-chip memory. Its LED shows that the engine is busy.
module board_top #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 4096,
    parameter int STATE_WORDS = 4096,
    parameter int QUEUE_WORDS = 1024,
    parameter int DESCRIPTORS = 128,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int MEMORY_WORDS = 4096,
    parameter int DIVISOR = 25,
    parameter int MULTIPLIER = 1,
    parameter int VCO_DIVIDER = 24
) (
    input logic clock,
    input logic rx,
    output logic tx,
    output logic led
);
    logic engine_clock, reset, unused;
    logic [35:0] no_sdram;
    assign unused = &{1'b0, no_sdram};
    board_clock #(.MULTIPLIER(MULTIPLIER), .VCO_DIVIDER(VCO_DIVIDER)) clocks (.oscillator(clock), .clock(engine_clock), .reset);
    board_core #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS), .MEMORY_WORDS(MEMORY_WORDS), .DIVISOR(DIVISOR)
    ) core (
        .clock(engine_clock), .reset, .rx, .tx, .busy(led), .sdram_out(no_sdram), .sdram_read_data('0)
    );
endmodule
