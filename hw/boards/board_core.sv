// What every board holds, without vendor primitives: the spike engine, its image in on-chip memory or an SDRAM, and the bridge to a serial line.
module board_core #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 4096,
    parameter int STATE_WORDS = 4096,
    parameter int QUEUE_WORDS = 1024,
    parameter int DESCRIPTORS = 128,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int MEMORY_WORDS = 4096,  // of the program image
    parameter int DIVISOR = 25,  // clock cycles per bit of the serial line
    parameter int SDRAM = 0,  // 1: the image is in an SDRAM, whose pins are `sdram_pins`
    /* verilator lint_off UNUSEDPARAM */
    parameter int CLOCK_MHZ = 75  // with SDRAM
    /* verilator lint_on UNUSEDPARAM */
) (
    input logic clock,
    input logic reset,
    input logic rx,
    output logic tx,
    output logic busy,
    output logic [35:0] sdram_out,
    input logic [15:0] sdram_read_data
);
    localparam int BEAT_BITS = 2 * LANES;
    localparam int MEMORY_BITS = $clog2(MEMORY_WORDS);
    logic engine_reset, done, awvalid, awready, wvalid, wready, bvalid, bready, arvalid, arready, rvalid, rready, memory_write, memory_ready, unused;
    logic [7:0] awaddr, araddr;
    logic [31:0] wdata, rdata, memory_data;
    logic [1:0] bresp, rresp;
    logic [MEMORY_BITS-1:0] memory_address;
    logic event_valid, event_ready, event_last, result_valid, result_ready, result_last;
    logic [31:0] event_data, result_data;
    logic [63:0] image_araddr;
    logic [7:0] image_arlen;
    logic [2:0] image_arsize;
    logic [1:0] image_arburst, image_rresp;
    logic image_arvalid, image_arready, image_rlast, image_rvalid, image_rready;
    logic [BEAT_BITS-1:0] image_rdata;
    logic [15:0] op_index;
    assign unused = &{1'b0, sdram_read_data, bresp, rresp, image_arsize, image_arburst, op_index};

    uart_bridge #(.DIVISOR(DIVISOR), .MEMORY_WORDS(MEMORY_WORDS)) bridge (
        .clock, .reset, .rx, .tx, .engine_reset, .done, .memory_write, .memory_ready, .memory_address, .memory_data, .m_axi_awaddr(awaddr),
        .m_axi_awvalid(awvalid), .m_axi_awready(awready), .m_axi_wdata(wdata), .m_axi_wvalid(wvalid), .m_axi_wready(wready), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
        .m_axi_araddr(araddr), .m_axi_arvalid(arvalid), .m_axi_arready(arready), .m_axi_rdata(rdata), .m_axi_rvalid(rvalid), .m_axi_rready(rready),
        .m_axis_tdata(event_data), .m_axis_tvalid(event_valid), .m_axis_tready(event_ready), .m_axis_tlast(event_last), .s_axis_tdata(result_data),
        .s_axis_tvalid(result_valid), .s_axis_tready(result_ready), .s_axis_tlast(result_last)
    );
    if (SDRAM != 0) begin : g_sdram
        sdram_memory #(.BEAT_BITS(BEAT_BITS), .WORDS(MEMORY_WORDS), .CLOCK_MHZ(CLOCK_MHZ)) memory (
            .clock, .reset, .flush(engine_reset), .write(memory_write), .write_ready(memory_ready), .write_address(memory_address),
            .write_data(memory_data), .s_axi_araddr(image_araddr),
            .s_axi_arlen(image_arlen), .s_axi_arvalid(image_arvalid), .s_axi_arready(image_arready), .s_axi_rdata(image_rdata),
            .s_axi_rresp(image_rresp), .s_axi_rlast(image_rlast), .s_axi_rvalid(image_rvalid), .s_axi_rready(image_rready),
            .sdram_out, .sdram_read_data
        );
    end else begin : g_on_chip
        assign sdram_out = '0;
        assign memory_ready = 1'b1;
        image_memory #(.BEAT_BITS(BEAT_BITS), .WORDS(MEMORY_WORDS)) memory (
            .clock, .reset(engine_reset), .write(memory_write), .write_address(memory_address), .write_data(memory_data), .s_axi_araddr(image_araddr),
            .s_axi_arlen(image_arlen), .s_axi_arvalid(image_arvalid), .s_axi_arready(image_arready), .s_axi_rdata(image_rdata),
            .s_axi_rresp(image_rresp), .s_axi_rlast(image_rlast), .s_axi_rvalid(image_rvalid), .s_axi_rready(image_rready)
        );
    end
    spike_engine #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS)
    ) spikes (
        .aclk(clock), .aresetn(!engine_reset), .interrupt(done), .s_axi_control_awaddr(awaddr), .s_axi_control_awvalid(awvalid),
        .s_axi_control_awready(awready), .s_axi_control_wdata(wdata), .s_axi_control_wstrb(4'hF), .s_axi_control_wvalid(wvalid),
        .s_axi_control_wready(wready), .s_axi_control_bresp(bresp), .s_axi_control_bvalid(bvalid), .s_axi_control_bready(bready),
        .s_axi_control_araddr(araddr), .s_axi_control_arvalid(arvalid), .s_axi_control_arready(arready), .s_axi_control_rdata(rdata),
        .s_axi_control_rresp(rresp), .s_axi_control_rvalid(rvalid), .s_axi_control_rready(rready), .m_axi_image_araddr(image_araddr),
        .m_axi_image_arlen(image_arlen), .m_axi_image_arsize(image_arsize), .m_axi_image_arburst(image_arburst),
        .m_axi_image_arvalid(image_arvalid), .m_axi_image_arready(image_arready), .m_axi_image_rdata(image_rdata),
        .m_axi_image_rresp(image_rresp), .m_axi_image_rlast(image_rlast), .m_axi_image_rvalid(image_rvalid), .m_axi_image_rready(image_rready),
        .s_axis_events_tdata(event_data), .s_axis_events_tvalid(event_valid), .s_axis_events_tready(event_ready),
        .s_axis_events_tlast(event_last), .m_axis_results_tdata(result_data), .m_axis_results_tvalid(result_valid),
        .m_axis_results_tready(result_ready), .m_axis_results_tlast(result_last), .op_index, .op_busy(busy)
    );
endmodule
