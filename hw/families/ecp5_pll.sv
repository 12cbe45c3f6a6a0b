// The PLL of ECP5: the oscillator times MULTIPLIER. VCO_DIVIDER: frequency in the PLL (400 to 800 MHz) / clock.
module board_pll #(
    parameter int MULTIPLIER = 2,
    parameter int VCO_DIVIDER = 12
) (
    input logic oscillator,
    output logic clock,
    output logic steady
);
    // The attributes are those that ecppll gives to every PLL.
    (* ICP_CURRENT = "12" *) (* LPF_RESISTOR = "8" *) (* MFG_ENABLE_FILTEROPAMP = "1" *) (* MFG_GMCREF_SEL = "2" *)
    EHXPLLL #(
        .CLKI_DIV(1), .CLKFB_DIV(MULTIPLIER), .CLKOP_DIV(VCO_DIVIDER), .CLKOP_CPHASE(VCO_DIVIDER / 2 - 1), .CLKOP_FPHASE(0),
        .CLKOP_ENABLE("ENABLED"), .FEEDBK_PATH("CLKOP"), .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"), .STDBY_ENABLE("DISABLED"),
        .DPHASE_SOURCE("DISABLED"), .OUTDIVIDER_MUXA("DIVA")
    ) pll (
        .CLKI(oscillator), .CLKFB(clock), .CLKOP(clock), .LOCK(steady), .RST(1'b0), .STDBY(1'b0), .PHASESEL0(1'b0), .PHASESEL1(1'b0),
        .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0), .ENCLKOP(1'b0)
    );
endmodule
