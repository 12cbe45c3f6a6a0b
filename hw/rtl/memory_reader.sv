// The AXI4 read master. Two clients request bursts of 1 to 4 beats; a client is ready only while its response queue has room
// for the longest, so a response is never held back and neither client can block the other. A burst that would cross 4 KiB
// is split there.
module memory_reader #(
    parameter int BEAT_BITS = 128,
    parameter int WEIGHT_BEATS = 64,
    parameter int CONSTANT_BEATS = 64
) (
    input logic clock,
    input logic reset,
    input logic [63:0] base,  // byte address of the image, a multiple of a beat
    input logic weight_request,
    output logic weight_ready,
    input logic [engine::BEAT_ADDRESS_BITS-1:0] weight_beat,
    input logic [1:0] weight_length,  // beats - 1
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
    output logic error,  // a response was an error since clear_error, or not as long as the request
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
    localparam int PAGE = 12 - LOG;  // bits of a beat within 4 KiB
    localparam int ORDER = 2 ** $clog2(WEIGHT_BEATS + CONSTANT_BEATS);
    localparam logic [$clog2(CONSTANT_BEATS):0] FEW = ($clog2(CONSTANT_BEATS) + 1)'(CONSTANT_BEATS - 8);
    localparam int ADDRESS = engine::BEAT_ADDRESS_BITS;

    // --- Who asks. While few constants are on their way, they have every second turn. More of them only take what the weights
    // leave: what comes too early takes the place of weights that the lanes wait for. ---
    logic [$clog2(WEIGHT_BEATS):0] weights_left;  // free places in the response queues
    logic [$clog2(CONSTANT_BEATS):0] constants_left;
    logic [2:0] weights_taken;  // in the last cycle
    logic constants_taken, weight_popped, constant_popped, weights_fit, constants_fit, constant_turn, lanes_wait, take_weight, take_constant, ready;
    logic weight_asked, constant_asked, asked, asked_constant, accept;
    logic [ADDRESS-1:0] next_weight, next_constant, asked_beat;
    logic [1:0] next_length, asked_length;

    assign take_weight = weight_asked && ready && weights_fit && !constant_turn;
    assign take_constant = constant_asked && ready && constants_fit && (constant_turn || !weight_asked || (lanes_wait && !weights_fit));
    skid_buffer #(.WIDTH(ADDRESS + 2)) weight_requests (
        .clock, .reset, .in_valid(weight_request), .ready(weight_ready), .in({weight_length, weight_beat}), .valid(weight_asked), .pop(take_weight),
        .out({next_length, next_weight})
    );
    skid_buffer #(.WIDTH(ADDRESS)) constant_requests (
        .clock, .reset, .in_valid(constant_request), .ready(constant_ready), .in(constant_beat), .valid(constant_asked), .pop(take_constant),
        .out(next_constant)
    );

    skid_buffer #(.WIDTH(ADDRESS + 3)) requests (
        .clock, .reset, .in_valid(take_weight || take_constant), .ready,
        .in(take_constant ? {3'b100, next_constant} : {1'b0, next_length, next_weight}), .valid(asked), .pop(accept),
        .out({asked_constant, asked_length, asked_beat})
    );

    always_ff @(posedge clock)
        if (reset) begin
            weights_left <= WEIGHT_BEATS[$clog2(WEIGHT_BEATS):0];
            constants_left <= CONSTANT_BEATS[$clog2(CONSTANT_BEATS):0];
            {constant_turn, lanes_wait, weights_taken, constants_taken, weight_popped, constant_popped, weights_fit, constants_fit} <= '0;
        end else begin
            // What was taken counts in the places two cycles later, in whether a burst fits three: room for three is kept.
            weights_taken <= take_weight ? {1'b0, next_length} + 3'd1 : 3'd0;
            constants_taken <= take_constant;
            {weight_popped, constant_popped} <= {weight_pop, constant_pop};
            weights_left <= weights_left + {{$clog2(WEIGHT_BEATS) {1'b0}}, weight_popped} - {{($clog2(WEIGHT_BEATS) - 2) {1'b0}}, weights_taken};
            constants_left <= constants_left + {{$clog2(CONSTANT_BEATS) {1'b0}}, constant_popped} - {{$clog2(CONSTANT_BEATS) {1'b0}}, constants_taken};
            weights_fit <= weights_left >= ($clog2(WEIGHT_BEATS) + 1)'(12);
            constants_fit <= constants_left >= ($clog2(CONSTANT_BEATS) + 1)'(3);
            lanes_wait <= weight_valid && !weight_pop;
            constant_turn <= constant_asked && !take_constant && constants_left > FEW && !constant_turn;
        end

    // --- Addresses. ---
    logic free, split, crosses, constant;
    logic [63-LOG:0] address, next_address;
    logic [PAGE-1:0] room;  // beats of the page behind the first
    logic [1:0] rest;  // beats - 1 on the next page

    assign free = !m_axi_arvalid || m_axi_arready;
    assign accept = free && asked && !split;
    assign next_address = base[63:LOG] + {{(64 - LOG - ADDRESS) {1'b0}}, asked_beat};
    assign room = ~next_address[PAGE-1:0];
    assign crosses = room < {{(PAGE - 2) {1'b0}}, asked_length};
    assign m_axi_araddr = {address, {LOG{1'b0}}};
    assign m_axi_arlen[7:2] = '0;
    assign m_axi_arsize = LOG[2:0];
    assign m_axi_arburst = 2'b01;

    always_ff @(posedge clock) begin
        if (free) begin
            address <= split ? {address[63-LOG:PAGE] + 1'b1, {PAGE{1'b0}}} : next_address;
            m_axi_arlen[1:0] <= split ? rest : crosses ? room[1:0] : asked_length;
            if (!split) constant <= asked_constant;
            rest <= asked_length - room[1:0] - 2'd1;
        end
        if (reset) {m_axi_arvalid, split} <= '0;
        else if (free) begin
            m_axi_arvalid <= split || asked;
            split <= accept && crosses;
        end
    end

    // --- Responses. ---
    logic tag_constant, tag_valid, response, last_beat, weight_full, constant_full, order_full, push_order, unused;
    logic [1:0] tag_length, beats;
    assign push_order = m_axi_arvalid && m_axi_arready;
    assign m_axi_rready = tag_valid;
    assign response = m_axi_rvalid && m_axi_rready;
    assign last_beat = beats == tag_length;
    assign unused = &{1'b0, weight_full, constant_full, order_full, base[LOG-1:0]};

    fifo #(.WIDTH(3), .DEPTH(ORDER)) order (
        .clock, .reset, .push(push_order), .in({constant, m_axi_arlen[1:0]}), .full(order_full), .pop(response && last_beat), .valid(tag_valid),
        .out({tag_constant, tag_length})
    );
    fifo #(.WIDTH(BEAT_BITS), .DEPTH(WEIGHT_BEATS)) weights (
        .clock, .reset, .push(response && !tag_constant), .in(m_axi_rdata), .full(weight_full), .pop(weight_pop), .valid(weight_valid), .out(weight_data)
    );
    fifo #(.WIDTH(BEAT_BITS), .DEPTH(CONSTANT_BEATS)) constants (
        .clock, .reset, .push(response && tag_constant), .in(m_axi_rdata), .full(constant_full), .pop(constant_pop), .valid(constant_valid),
        .out(constant_data)
    );

    always_ff @(posedge clock)
        if (reset) begin
            beats <= 2'd0;
            error <= 1'b0;
        end else begin
            if (response) beats <= last_beat ? 2'd0 : beats + 2'd1;
            if (clear_error) error <= 1'b0;
            else if (response && (m_axi_rresp != 2'b00 || m_axi_rlast != last_beat)) error <= 1'b1;
        end
endmodule
