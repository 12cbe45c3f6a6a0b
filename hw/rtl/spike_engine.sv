// The spike engine: runs program images (docs/image_format.md) with shifts and additions only. docs/rtl_engine.md describes
// the architecture; this module connects its parts and says who uses which memory port when.
module spike_engine #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 16384,
    parameter int STATE_WORDS = 16384,
    parameter int QUEUE_WORDS = 2048,
    parameter int DESCRIPTORS = 256,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int WEIGHT_BEATS = 64,
    parameter int CONSTANT_BEATS = 64,
    localparam int BEAT_BITS = 2 * LANES
) (
    input logic aclk,
    input logic aresetn,
    /* verilator lint_off SYMRSVDWORD */
    output logic interrupt,
    /* verilator lint_on SYMRSVDWORD */
    input logic [7:0] s_axi_control_awaddr,
    input logic s_axi_control_awvalid,
    output logic s_axi_control_awready,
    input logic [31:0] s_axi_control_wdata,
    input logic [3:0] s_axi_control_wstrb,
    input logic s_axi_control_wvalid,
    output logic s_axi_control_wready,
    output logic [1:0] s_axi_control_bresp,
    output logic s_axi_control_bvalid,
    input logic s_axi_control_bready,
    input logic [7:0] s_axi_control_araddr,
    input logic s_axi_control_arvalid,
    output logic s_axi_control_arready,
    output logic [31:0] s_axi_control_rdata,
    output logic [1:0] s_axi_control_rresp,
    output logic s_axi_control_rvalid,
    input logic s_axi_control_rready,
    output logic [63:0] m_axi_image_araddr,
    output logic [7:0] m_axi_image_arlen,
    output logic [2:0] m_axi_image_arsize,
    output logic [1:0] m_axi_image_arburst,
    output logic m_axi_image_arvalid,
    input logic m_axi_image_arready,
    input logic [BEAT_BITS-1:0] m_axi_image_rdata,
    input logic [1:0] m_axi_image_rresp,
    input logic m_axi_image_rlast,
    input logic m_axi_image_rvalid,
    output logic m_axi_image_rready,
    input logic [31:0] s_axis_events_tdata,
    input logic s_axis_events_tvalid,
    output logic s_axis_events_tready,
    input logic s_axis_events_tlast,
    output logic [31:0] m_axis_results_tdata,
    output logic m_axis_results_tvalid,
    input logic m_axis_results_tready,
    output logic m_axis_results_tlast,
    output logic [15:0] op_index,  // of the descriptor that runs
    output logic op_busy
);
    localparam int V = VALUE_BITS;
    localparam int S = $clog2(SIGNAL_WORDS);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam int OP_BITS = $clog2(DESCRIPTORS);
    localparam int SIGNAL_ROW_BITS = $clog2(SIGNAL_WORDS / PORTS);
    localparam int STATE_ROW_BITS = $clog2(STATE_WORDS / PORTS);

    logic clock, reset;
    assign clock = aclk;
    always_ff @(posedge aclk) reset <= !aresetn;

    // --- Commands. ---
    logic start, done;
    logic [31:0] command, done_status, image_words;
    logic [63:0] image_address, base;
    control_registers #(
        .LANES(LANES), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS)
    ) control (
        .clock, .reset, .s_axi_awaddr(s_axi_control_awaddr), .s_axi_awvalid(s_axi_control_awvalid), .s_axi_awready(s_axi_control_awready),
        .s_axi_wdata(s_axi_control_wdata), .s_axi_wstrb(s_axi_control_wstrb), .s_axi_wvalid(s_axi_control_wvalid),
        .s_axi_wready(s_axi_control_wready), .s_axi_bresp(s_axi_control_bresp), .s_axi_bvalid(s_axi_control_bvalid),
        .s_axi_bready(s_axi_control_bready), .s_axi_araddr(s_axi_control_araddr), .s_axi_arvalid(s_axi_control_arvalid),
        .s_axi_arready(s_axi_control_arready), .s_axi_rdata(s_axi_control_rdata), .s_axi_rresp(s_axi_control_rresp),
        .s_axi_rvalid(s_axi_control_rvalid), .s_axi_rready(s_axi_control_rready), .interrupt, .start, .command, .image_address, .image_words, .done,
        .done_status
    );

    // --- External memory. ---
    logic weight_request, weight_ready, weight_valid, weight_pop, constant_request, constant_ready, constant_valid, constant_pop, clear_error, error;
    logic [engine::BEAT_ADDRESS_BITS-1:0] weight_beat, constant_beat;
    logic [1:0] weight_length;
    logic [BEAT_BITS-1:0] weight_data, constant_data;
    memory_reader #(.BEAT_BITS(BEAT_BITS), .WEIGHT_BEATS(WEIGHT_BEATS), .CONSTANT_BEATS(CONSTANT_BEATS)) memory (
        .clock, .reset, .base, .weight_request, .weight_ready, .weight_beat, .weight_length, .weight_valid, .weight_data, .weight_pop, .constant_request,
        .constant_ready, .constant_beat, .constant_valid, .constant_data, .constant_pop, .clear_error, .error, .m_axi_araddr(m_axi_image_araddr),
        .m_axi_arlen(m_axi_image_arlen), .m_axi_arsize(m_axi_image_arsize), .m_axi_arburst(m_axi_image_arburst),
        .m_axi_arvalid(m_axi_image_arvalid), .m_axi_arready(m_axi_image_arready), .m_axi_rdata(m_axi_image_rdata),
        .m_axi_rresp(m_axi_image_rresp), .m_axi_rlast(m_axi_image_rlast), .m_axi_rvalid(m_axi_image_rvalid), .m_axi_rready(m_axi_image_rready)
    );

    // --- The program: descriptors and ports on chip. ---
    logic load_start, load_done, load_request, load_pop, op_write, port_write;
    logic [engine::BEAT_ADDRESS_BITS-1:0] load_beat;
    logic [31:0] load_status, levels, state_words;
    logic [5:0] row_alignment;
    logic [OP_BITS-1:0] op_write_index, port_write_index, op_address, port_address, counter_address;
    logic [OP_BITS:0] ops, ports;
    logic [48:0] port_data, port;
    logic [63:0] counters_in, counters_out;
    logic counter_write;
    engine::op_t op_data, op_read, op;
    always_ff @(posedge clock) if (load_start) base <= image_address;
    loader #(
        .BEAT_BITS(BEAT_BITS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS), .QUEUE_WORDS(QUEUE_WORDS), .DESCRIPTORS(DESCRIPTORS),
        .VALUE_BITS(VALUE_BITS), .COMPARE_BITS(COMPARE_BITS)
    ) load (
        .clock, .reset, .start(load_start), .image_words, .done(load_done), .status(load_status), .error, .request(load_request),
        .request_ready(constant_ready), .request_beat(load_beat), .beat_valid(constant_valid), .beat(constant_data), .beat_pop(load_pop), .op_write,
        .op_index(op_write_index), .op(op_data), .port_write, .port_index(port_write_index), .port(port_data), .ops, .ports, .levels, .state_words,
        .row_alignment
    );
    ram #(.WIDTH($bits(op_read)), .DEPTH(DESCRIPTORS)) descriptors (
        .clock, .write(op_write), .write_address(op_write_index), .write_data(op_data), .read(1'b1), .read_address(op_address), .read_data(op_read)
    );
    ram #(.WIDTH(49), .DEPTH(DESCRIPTORS)) port_table (
        .clock, .write(port_write), .write_address(port_write_index), .write_data(port_data), .read(1'b1), .read_address(port_address), .read_data(port)
    );
    ram #(.WIDTH(64), .DEPTH(DESCRIPTORS)) counter_table (
        .clock, .write(counter_write), .write_address(op_index[OP_BITS-1:0]), .write_data(counters_in), .read(1'b1), .read_address(counter_address),
        .read_data(counters_out)
    );

    // --- Execution. ---
    logic list_request, list_pop, input_start, input_done, input_bad, synapse_start, synapse_busy, own_job_start, vector_busy;
    logic result_start, refuse, result_done, traced, state_clear, job_start, synapse_job_start;
    logic [engine::BEAT_ADDRESS_BITS-1:0] list_beat;
    logic [23:0] input_bad_index, clear_address;
    logic [31:0] additions;
    engine::job_t own_job, synapse_job, job;
    engine::feed_t own_feed, synapse_feed, feed;
    logic own_feed_start, synapse_feed_start, feed_start, feed_ready, feed_discard, feed_idle;
    sequencer #(.BEAT_BITS(BEAT_BITS), .PORTS(PORTS), .DESCRIPTORS(DESCRIPTORS)) sequence_control (
        .clock, .reset, .start, .command, .done, .done_status, .memory_error(error), .clear_error, .load_start, .load_done, .load_status, .state_words,
        .ops, .op_address, .descriptor(op_read), .op, .op_index, .op_busy, .list_request, .list_ready(constant_ready), .list_beat,
        .beat_valid(constant_valid), .beat(constant_data), .list_pop, .input_start, .input_done, .input_bad, .input_bad_index, .synapse_start,
        .synapse_busy, .rows(32'(rows)), .additions, .job_start(own_job_start), .job(own_job), .vector_busy, .result_start, .refuse, .result_done, .traced,
        .counter_write, .counters(counters_in), .state_clear, .state_address(clear_address), .feed_start(own_feed_start), .feed(own_feed), .feed_ready, .feed_discard, .feed_idle
    );

    logic [PORTS-1:0] input_write, vector_write, signal_write, vector_state_write, state_write;
    logic [S-1:0] input_address;
    logic [23:0] vector_write_address, vector_read_address, result_address, signal_read_address, signal_write_address;
    logic [23:0] vector_state_write_address, state_write_address, state_read_address;
    logic [V-1:0] input_value;
    logic [PORTS-1:0] vector_used;
    logic input_used, input_marks, job_serial;
    logic flag_read;
    logic [S-1:0] scan_address;
    logic [S:0] rows;
    logic [S-7:0] flag_block;
    logic [64/PORTS-1:0] flags;
    logic [PORTS*V-1:0] vector_data, signal_in, signal_out, vector_state_data, state_in, state_out, lanes_data;
    logic reads_signals, vector_read, scan_read, result_read, signal_read, scan_pass, result_pass, signal_pass, state_read, vector_request, vector_pop, geometry_request, geometry_pop;
    logic lanes_valid, lanes_take;
    logic [engine::BEAT_ADDRESS_BITS-1:0] vector_beat, geometry_beat;

    event_input #(.PORTS(PORTS), .VALUE_BITS(V), .SIGNAL_BITS(S)) events (
        .clock, .reset, .start(input_start), .destination(op.destination[S-1:0]), .size(op.size[S:0]), .levels, .done(input_done), .bad(input_bad),
        .bad_index(input_bad_index), .s_axis_tdata(s_axis_events_tdata), .s_axis_tvalid(s_axis_events_tvalid), .s_axis_tlast(s_axis_events_tlast),
        .s_axis_tready(s_axis_events_tready), .write(input_write), .marks(input_marks), .write_address(input_address), .write_value(input_value), .used(input_used)
    );
    synapse_unit #(.LANES(LANES), .PORTS(PORTS), .VALUE_BITS(V), .SIGNAL_WORDS(SIGNAL_WORDS), .QUEUE_WORDS(QUEUE_WORDS)) synapses (
        .clock, .reset, .start(synapse_start), .op, .row_alignment, .busy(synapse_busy), .rows, .additions,
        .flag_read, .flag_block, .flags, .signal_read(scan_read), .signal_read_address(scan_address), .signal_pass(scan_pass), .signal_data(signal_out), .request(weight_request),
        .request_ready(weight_ready), .request_beat(weight_beat), .request_length(weight_length), .beat_valid(weight_valid), .beat(weight_data), .beat_pop(weight_pop),
        .geometry_request, .geometry_ready(constant_ready), .geometry_beat, .constant_valid, .constant_data, .geometry_pop,
        .job_start(synapse_job_start), .job(synapse_job), .feed_start(synapse_feed_start), .feed(synapse_feed), .vector_busy, .lanes_valid, .lanes_data, .lanes_take
    );
    assign job_start = synapse_job_start || own_job_start;
    assign job = synapse_busy ? synapse_job : own_job;
    assign feed_start = synapse_feed_start || own_feed_start;
    assign feed = own_feed_start ? own_feed : synapse_feed;
    vector_unit #(
        .BEAT_BITS(BEAT_BITS), .PORTS(PORTS), .VALUE_BITS(V), .COMPARE_BITS(COMPARE_BITS), .SIGNAL_WORDS(SIGNAL_WORDS), .STATE_WORDS(STATE_WORDS)
    ) vectors (
        .clock, .reset, .start(job_start), .next_job(job), .op, .busy(vector_busy), .lanes_valid, .lanes_data, .lanes_take,
        .feed_start, .feed, .feed_ready, .feed_discard, .feed_idle, .request(vector_request), .request_ready(constant_ready), .request_beat(vector_beat), .beat_valid(constant_valid), .beat(constant_data),
        .beat_pop(vector_pop), .serial(job_serial), .reads_signals, .signal_read(vector_read), .signal_read_address(vector_read_address), .signal_data(signal_out),
        .signal_write(vector_write), .signal_write_address(vector_write_address), .signal_write_data(vector_data), .signal_used(vector_used), .state_read,
        .state_read_address, .state_data(state_out), .state_write(vector_state_write), .state_write_address(vector_state_write_address),
        .state_write_data(vector_state_data)
    );
    result_output #(.PORTS(PORTS), .VALUE_BITS(V), .DESCRIPTORS(DESCRIPTORS)) results (
        .clock, .reset, .start(result_start), .refuse, .status(done_status), .traced, .ports, .ops, .done(result_done), .port_index(port_address),
        .port, .counter_index(counter_address), .counters(counters_out), .read(result_read), .read_address(result_address),
        .pass(result_pass), .read_data(signal_out), .m_axis_tdata(m_axis_results_tdata), .m_axis_tvalid(m_axis_results_tvalid), .m_axis_tlast(m_axis_results_tlast),
        .m_axis_tready(m_axis_results_tready)
    );

    // --- Who has the port of the constants: one unit at a time; the others are silent. ---
    assign constant_request = load_request || list_request || geometry_request || vector_request;
    assign constant_beat = (load_request ? load_beat : '0) | (list_request ? list_beat : '0) | (geometry_request ? geometry_beat : '0) |
        (vector_request ? vector_beat : '0);
    assign constant_pop = load_pop || list_pop || geometry_pop || vector_pop;

    // --- On-chip memories. ---
    logic unused;
    assign unused = &{1'b0, signal_read_address, signal_write_address, state_read_address, state_write_address};
    row_flags #(.PORTS(PORTS), .WORDS(SIGNAL_WORDS)) used_rows (
        .clock, .reset, .write(signal_write != '0), .mark(!vector_busy && input_marks), .row(signal_write_address[PORT_LOG+:SIGNAL_ROW_BITS]),
        .used(vector_busy ? vector_used != '0 : input_used), .all(vector_busy && job_serial), .read(flag_read), .read_block(flag_block), .flags
    );
    assign signal_read = vector_read || scan_read || result_read;
    assign signal_read_address = reads_signals ? vector_read_address : synapse_busy ? 24'(scan_address) : result_address;
    assign signal_pass = reads_signals || (synapse_busy ? scan_pass : result_pass);
    assign signal_write = vector_busy ? vector_write : input_write;
    assign signal_write_address = vector_busy ? vector_write_address : 24'(input_address);
    assign signal_in = vector_busy ? vector_data : {PORTS{input_value}};
    banked_memory #(.WIDTH(V), .BANKS(PORTS), .WORDS(SIGNAL_WORDS)) signals (
        .clock, .write(signal_write), .write_row(signal_write_address[PORT_LOG+:SIGNAL_ROW_BITS]), .write_data(signal_in), .read(signal_read),
        .read_row(signal_read_address[PORT_LOG+:SIGNAL_ROW_BITS]), .pass(signal_pass), .read_data(signal_out)
    );
    assign state_write = state_clear ? '1 : vector_state_write;
    assign state_write_address = state_clear ? clear_address : vector_state_write_address;
    assign state_in = state_clear ? '0 : vector_state_data;
    banked_memory #(.WIDTH(V), .BANKS(PORTS), .WORDS(STATE_WORDS)) states (
        .clock, .write(state_write), .write_row(state_write_address[PORT_LOG+:STATE_ROW_BITS]), .write_data(state_in), .read(state_read),
        .read_row(state_read_address[PORT_LOG+:STATE_ROW_BITS]), .pass(1'b1), .read_data(state_out)
    );
endmodule
