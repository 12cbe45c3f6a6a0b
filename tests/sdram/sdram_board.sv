// The pins of the FPGA and the SDRAM behind them.
module sdram_board #(
    parameter int CLOCK_MHZ = 75
) (
    input logic clock,
    input logic [35:0] sdram_out,
    output logic [15:0] sdram_read_data
);
    logic sdram_clk, sdram_cke, sdram_csn, sdram_rasn, sdram_casn, sdram_wen;
    logic [1:0] sdram_dqm, sdram_ba;
    logic [12:0] sdram_a;
    wire [15:0] sdram_d;
    sdram_pins pins (.*);
    sdram_model #(.PERIOD_PS(1_000_000 / CLOCK_MHZ)) chip (
        .clk(sdram_clk), .cke(sdram_cke), .csn(sdram_csn), .rasn(sdram_rasn), .casn(sdram_casn), .wen(sdram_wen), .dqm(sdram_dqm), .ba(sdram_ba),
        .a(sdram_a), .d(sdram_d), .driven(pins.driven)
    );
endmodule
