// Top module of a board: its oscillator is the clock of the engine. Flip-flops start at 0, so the counter holds the reset for 15 cycles.
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
    parameter int DIVISOR = 25
) (
    input logic clock,
    input logic rx,
    output logic tx,
    output logic led  // the engine is busy
);
    logic [3:0] started;
    initial started = '0;
    always_ff @(posedge clock) if (started != '1) started <= started + 1'b1;
    board_core #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS), .MEMORY_WORDS(MEMORY_WORDS), .DIVISOR(DIVISOR)
    ) core (
        .clock, .reset(started != '1), .rx, .tx, .busy(led)
    );
endmodule
