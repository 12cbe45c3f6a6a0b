// Clock and reset of a board. The clock is the oscillator, or on ECP5 and Nexus a multiple of it. Flip-flops start at 0, so the counter holds
// the reset until 15 cycles after the clock is steady.
module board_clock #(
    parameter int MULTIPLIER = 1,
    /* verilator lint_off UNUSEDPARAM */
    parameter int VCO_DIVIDER = 24,  // frequency of the oscillator in the PLL (ECP5: 400 to 800 MHz; Nexus: 800 to 1600 MHz) / clock
    parameter int NEXUS = 0  // 1: the PLL is that of Nexus, else that of ECP5
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
    end else if (NEXUS != 0) begin : g_nexus
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
    end else begin : g_ecp5
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
    end

    always_ff @(posedge clock)
        if (!steady) started <= '0;
        else if (reset) started <= started + 1'b1;
endmodule
