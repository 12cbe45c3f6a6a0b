// The pins of an SDRAM of 16 bits: a register at each, and the clock of the SDRAM, which is that of the controller inverted: it sees commands and data
// in the middle of their cycle. A word that it reads out is taken at the falling edge, a whole cycle after the edge that it follows: time for the clock
// to leave, for the access (at most 6 ns) and for the word to enter. The way of the clock and the hold time of the SDRAM keep it beyond that edge.
module sdram_pins #(
    parameter int ECP5 = 0  // 1: the registers are those of the pins of ECP5, else ordinary ones
) (
    input logic clock,
    input logic [35:0] sdram_out,  // from `sdram_memory`
    output logic [15:0] sdram_read_data,
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
    localparam int OUTPUTS = 3 + 2 + 2 + 13 + 16;
    logic [2:0] command;  // RAS, CAS, WE, low active
    logic [1:0] bank;
    logic [12:0] address;
    logic [15:0] data, out, in, taken;
    logic mask, drive, driven;
    logic [OUTPUTS-1:0] next, states;

    assign sdram_cke = 1'b1;
    assign sdram_csn = 1'b0;
    assign {command, mask, bank, address, drive, data} = sdram_out;
    assign next = {command, {2{mask}}, bank, address, data};
    assign {sdram_rasn, sdram_casn, sdram_wen, sdram_dqm, sdram_ba, sdram_a, out} = states;

    initial driven = 1'b0;
    always_ff @(posedge clock) begin
        driven <= drive;
        sdram_read_data <= taken;
    end

    if (ECP5 != 0) begin : g_ecp5
        ODDRX1F inverted (.SCLK(clock), .RST(1'b0), .D0(1'b0), .D1(1'b1), .Q(sdram_clk));
        for (genvar i = 0; i < OUTPUTS; i++) begin : g_output
            (* syn_useioff, ioff_dir = "output" *)
            TRELLIS_FF #(.GSR("DISABLED"), .CEMUX("1"), .CLKMUX("CLK"), .LSRMUX("LSR"), .REGSET("SET")) register (
                .CLK(clock), .LSR(1'b0), .DI(next[i]), .Q(states[i])
            );
        end
        for (genvar i = 0; i < 16; i++) begin : g_data
            BB pad (.B(sdram_d[i]), .I(out[i]), .T(!driven), .O(in[i]));
            (* syn_useioff, ioff_dir = "input" *)
            TRELLIS_FF #(.GSR("DISABLED"), .CEMUX("1"), .CLKMUX("INV"), .LSRMUX("LSR"), .REGSET("RESET")) register (
                .CLK(clock), .LSR(1'b0), .DI(in[i]), .Q(taken[i])
            );
        end
    end else begin : g_any
        initial states = '1;
        assign sdram_clk = !clock;
        assign sdram_d = driven ? out : 'z;
        assign in = sdram_d;
        always_ff @(posedge clock) states <= next;
        always_ff @(negedge clock) taken <= in;
    end
endmodule
