// The AXI4 read master. Two clients request single beats; a client is ready only while its response queue has room for the
// answer, so a response is never held back and neither client can block the other.
module memory_reader #(
    parameter int BEAT_BITS = 128,
    parameter int WEIGHT_BEATS = 64,
    parameter int CONSTANT_BEATS = 32
) (
    input logic clock,
    input logic reset,
    input logic [63:0] base,  // byte address of the image, a multiple of a beat
    input logic weight_request,
    output logic weight_ready,
    input logic [engine::BEAT_ADDRESS_BITS-1:0] weight_beat,
    output logic weight_valid,
    output logic [BEAT_BITS-1:0] weight_data,
    input logic weight_pop,
    input logic constant_request,
    output logic constant_ready,
    input logic [engine::BEAT_ADDRESS_BITS-1:0] constant_beat,
    output logic constant_valid,
    output logic [BEAT_BITS-1:0] constant_data,
    input logic constant_pop,
    input logic clear_error,
    output logic error,  // a response was an error since clear_error
    output logic [63:0] m_axi_araddr,
    output logic [7:0] m_axi_arlen,
    output logic [2:0] m_axi_arsize,
    output logic [1:0] m_axi_arburst,
    output logic m_axi_arvalid,
    input logic m_axi_arready,
    input logic [BEAT_BITS-1:0] m_axi_rdata,
    input logic [1:0] m_axi_rresp,
    input logic m_axi_rlast,
    input logic m_axi_rvalid,
    output logic m_axi_rready
);
    localparam int LOG = $clog2(BEAT_BITS / 8);
    localparam int ORDER = WEIGHT_BEATS + CONSTANT_BEATS <= 64 ? 64 : 2 ** $clog2(WEIGHT_BEATS + CONSTANT_BEATS);
    logic [$clog2(WEIGHT_BEATS):0] weights_left;  // free places in the response queues
    logic [$clog2(CONSTANT_BEATS):0] constants_left;
    logic free, take_weight, take_constant, tag, tag_valid, response;
    logic weight_full, constant_full, order_full, unused;

    assign m_axi_arlen = 8'd0;
    assign m_axi_arsize = LOG[2:0];
    assign m_axi_arburst = 2'b01;
    assign free = !m_axi_arvalid || m_axi_arready;
    assign constant_ready = free && constants_left != '0;
    assign weight_ready = free && weights_left != '0 && !(constant_request && constants_left != '0);
    assign take_constant = constant_request && constant_ready;
    assign take_weight = weight_request && weight_ready;
    assign m_axi_rready = tag_valid;
    assign response = m_axi_rvalid && m_axi_rready;
    assign unused = &{1'b0, weight_full, constant_full, order_full, m_axi_rlast, base[LOG-1:0]};

    fifo #(.WIDTH(1), .DEPTH(ORDER)) order (
        .clock, .reset, .push(take_weight || take_constant), .in(take_constant), .full(order_full), .pop(response), .valid(tag_valid), .out(tag)
    );
    fifo #(.WIDTH(BEAT_BITS), .DEPTH(WEIGHT_BEATS)) weights (
        .clock, .reset, .push(response && !tag), .in(m_axi_rdata), .full(weight_full), .pop(weight_pop), .valid(weight_valid), .out(weight_data)
    );
    fifo #(.WIDTH(BEAT_BITS), .DEPTH(CONSTANT_BEATS)) constants (
        .clock, .reset, .push(response && tag), .in(m_axi_rdata), .full(constant_full), .pop(constant_pop), .valid(constant_valid),
        .out(constant_data)
    );

    always_ff @(posedge clock) begin
        if (free) m_axi_araddr <= {base[63:LOG] + {{(64 - LOG - engine::BEAT_ADDRESS_BITS){1'b0}}, take_constant ? constant_beat : weight_beat}, {LOG{1'b0}}};
        if (reset) begin
            m_axi_arvalid <= 1'b0;
            weights_left <= WEIGHT_BEATS[$clog2(WEIGHT_BEATS):0];
            constants_left <= CONSTANT_BEATS[$clog2(CONSTANT_BEATS):0];
            error <= 1'b0;
        end else begin
            if (free) m_axi_arvalid <= take_weight || take_constant;
            if (take_weight != weight_pop) weights_left <= take_weight ? weights_left - 1'b1 : weights_left + 1'b1;
            if (take_constant != constant_pop) constants_left <= take_constant ? constants_left - 1'b1 : constants_left + 1'b1;
            if (clear_error) error <= 1'b0;
            else if (response && m_axi_rresp != 2'b00) error <= 1'b1;
        end
    end
endmodule
