// `sdram_memory` with its pins and the model of the SDRAM.
module sdram_bench #(
    parameter int BEAT_BITS = 128,
    parameter int WORDS = 1 << 14,
    parameter int CLOCK_MHZ = 75
) (
    input logic clock,
    input logic reset,
    input logic flush,
    input logic write,
    output logic write_ready,
    input logic [$clog2(WORDS)-1:0] write_address,
    input logic [31:0] write_data,
    input logic [63:0] s_axi_araddr,
    input logic [7:0] s_axi_arlen,
    input logic s_axi_arvalid,
    output logic s_axi_arready,
    output logic [BEAT_BITS-1:0] s_axi_rdata,
    output logic [1:0] s_axi_rresp,
    output logic s_axi_rlast,
    output logic s_axi_rvalid,
    input logic s_axi_rready
);
    logic [35:0] sdram_out;
    logic [15:0] sdram_read_data;
    sdram_memory #(.BEAT_BITS(BEAT_BITS), .WORDS(WORDS), .CLOCK_MHZ(CLOCK_MHZ)) memory (.*);
    sdram_board #(.CLOCK_MHZ(CLOCK_MHZ)) board (.clock, .sdram_out, .sdram_read_data);
endmodule
