// Clock and reset of a board. The clock is the oscillator, or a multiple of it from the PLL of the family (hw/families/*_pll.sv). Flip-flops
// start at 0, so the counter holds the reset until 15 cycles after the clock is steady.
module board_clock #(
    parameter int MULTIPLIER = 1,
    /* verilator lint_off UNUSEDPARAM */
    parameter int VCO_DIVIDER = 24  // frequency of the oscillator in the PLL / clock
    /* verilator lint_on UNUSEDPARAM */
) (
    input logic oscillator,
    output logic clock,
    output logic reset
);
    logic steady;
    logic [1:0] seen;  // the PLL says at any time that it is steady: two flip-flops before anything depends on it
    logic [3:0] started;
    initial seen = '0;
    initial started = '0;
    assign reset = started != '1;

    if (MULTIPLIER == 1) begin : g_direct
        assign clock = oscillator;
        assign steady = 1'b1;
    end else begin : g_pll
        board_pll #(.MULTIPLIER(MULTIPLIER), .VCO_DIVIDER(VCO_DIVIDER)) pll (.oscillator, .clock, .steady);
    end

    always_ff @(posedge clock) begin
        seen <= {seen[0], steady};
        if (!seen[1]) started <= '0;
        else if (reset) started <= started + 1'b1;
    end
endmodule
