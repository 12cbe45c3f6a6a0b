// Clock and reset of a board. The clock is the oscillator, or on ECP5 a multiple of it. Flip-flops start at 0, so the counter holds the
// reset until 15 cycles after the clock is steady. The attributes are those that ecppll gives to every PLL.
module board_clock #(
    parameter int MULTIPLIER = 1,
    /* verilator lint_off UNUSEDPARAM */
    parameter int VCO_DIVIDER = 24  // frequency of the oscillator in the PLL (400 to 800 MHz) / clock
    /* verilator lint_on UNUSEDPARAM */
) (
    input logic oscillator,
    output logic clock,
    output logic reset
);
    logic steady;
    logic [3:0] started;
    initial started = '0;
    assign reset = started != '1;

    if (MULTIPLIER == 1) begin : g_direct
        assign clock = oscillator;
        assign steady = 1'b1;
    end else begin : g_pll
        (* ICP_CURRENT = "12" *) (* LPF_RESISTOR = "8" *) (* MFG_ENABLE_FILTEROPAMP = "1" *) (* MFG_GMCREF_SEL = "2" *)
        EHXPLLL #(
            .CLKI_DIV(1), .CLKFB_DIV(MULTIPLIER), .CLKOP_DIV(VCO_DIVIDER), .CLKOP_CPHASE(VCO_DIVIDER / 2 - 1), .CLKOP_FPHASE(0),
            .CLKOP_ENABLE("ENABLED"), .FEEDBK_PATH("CLKOP"), .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"),
            .DPHASE_SOURCE("DISABLED"), .OUTDIVIDER_MUXA("DIVA")
        ) pll (
            .CLKI(oscillator), .CLKFB(clock), .CLKOP(clock), .LOCK(steady), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), .PHASESEL1(1'b0),
            .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0)
        );
    end

    always_ff @(posedge clock)
        if (!steady) started <= '0;
        else if (reset) started <= started + 1'b1;
endmodule
