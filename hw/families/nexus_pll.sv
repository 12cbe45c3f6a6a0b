// The PLL of Nexus: the oscillator times MULTIPLIER. VCO_DIVIDER: frequency in the PLL (800 to 1600 MHz) / clock.
module board_pll #(
    parameter int MULTIPLIER = 9,
    parameter int VCO_DIVIDER = 8
) (
    input logic oscillator,
    output logic clock,
    output logic steady
);
    // Division by 1 of the reference, and of the feedback by DIVF + 1. The settings of the loop are for a reference of 12 MHz and a feedback of
    // 72: the widest band of up to a fifth of the reference that the model of the loop in LiteX (litex/soc/cores/clock/lattice_nx.py) allows.
    logic feedback;
    PLL #(
        .REF_INTEGER_MODE("ENABLED"), .REF_MMD_DIG("1"), .FBK_INTEGER_MODE("ENABLED"), .FBK_MMD_DIG("1"), .FBK_MASK("0b00000000"),
        .SEL_FBK("FBKCLK5"), .CLKMUX_FB("CMUX_CLKOS5"), .ENCLK_CLKOS5("ENABLED"), .DIVF(MULTIPLIER * VCO_DIVIDER - 1),
        .DELF(MULTIPLIER * VCO_DIVIDER - 1), .ENCLK_CLKOP("ENABLED"), .DIVA(VCO_DIVIDER - 1), .DELA(VCO_DIVIDER - 1), .PLLPD_N("USED"),
        .V2I_1V_EN("ENABLED"), .V2I_KVCO_SEL("60"), .V2I_PP_ICTRL("0b11111"), .V2I_PP_RES("9P3K"), .KP_VCO("0b00011"), .IPI_CMPN("0b0011"),
        .IPI_CMP("0b1001"), .IPP_CTRL("0b0110"), .IPP_SEL("0b0111"), .BW_CTL_BIAS("0b1111"), .CSET("8P"), .CRIPPLE("9P")
    ) pll (
        .REFCK(oscillator), .FBKCK(feedback), .CLKOS5(feedback), .CLKOP(clock), .LOCK(steady), .PLLRESET(1'b0)
    );
endmodule
