// Linear and Conv2d. A pass is one digit plane of one scan (a Linear: of the source; a Conv2d: of one window and group); its
// tiles go from the event queue through the fetch to the lanes; one job of the vector unit finishes them.
module synapse_unit #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int QUEUE_WORDS = 2048,
    localparam int BEAT_BITS = 2 * LANES
) (
    input logic clock,
    input logic reset,
    input logic start,
    input engine::op_t op,
    input logic [5:0] row_alignment,  // words
    output logic busy,
    output logic [31:0] rows,
    output logic [31:0] additions,
    // Signal memory and the flags of its rows.
    output logic [23:0] flag_address,
    input logic [64/PORTS-1:0] flags,
    input logic port_taken,
    output logic signal_read,
    output logic [23:0] signal_read_address,
    input logic [PORTS*VALUE_BITS-1:0] signal_data,
    // Weights.
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    output logic [1:0] request_length,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // The geometry of a Conv2d, over the port of the constants.
    output logic reads_geometry,
    output logic geometry_request,
    input logic geometry_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] geometry_beat,
    input logic constant_valid,
    input logic [BEAT_BITS-1:0] constant_data,
    output logic geometry_pop,
    // Vector unit.
    output logic job_start,
    output engine::job_t job,
    input logic vector_busy,
    output logic lanes_valid,
    output logic [PORTS*VALUE_BITS-1:0] lanes_data,
    input logic lanes_take,
    input logic lanes_last
);
    localparam int LOG = $clog2(BEAT_BITS / 32);
    localparam int LANE_LOG = $clog2(LANES);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam logic [23:0] TILE = 24'(LANES);
    localparam logic [23:0] GROUP = 24'(PORTS);

    typedef enum logic [3:0] {IDLE, GEOMETRY, PREPARE, COUNT, PASS, PASS_RUN, PASS_NEXT, FINAL, FINAL_WAIT, WINDOW, END} state_t;
    state_t state;
    logic conv, unused;
    assign unused = &{1'b0, op};
    assign conv = op.kind == engine::KIND_CONV2D;

    // --- Shape of a pass. ---
    logic [23:0] outputs, group_first, group_d, line_d;
    logic [19:0] tiles;
    logic [21:0] row_beats;
    logic [2:0] tile_beats;
    logic [engine::BEAT_ADDRESS_BITS-1:0] weights_beat, stride_beats, tap_beats;
    logic [21:0] alignment;
    logic [16*24-1:0] geometry;
    logic [6*24-1:0] products;
    logic geometry_done;
    logic [2:0] plane;
    logic more_planes, single;
    logic [7:0] reach;

    assign outputs = conv ? geometry[3*24+:24] : op.size;
    assign tiles = 20'((outputs + TILE - 24'd1) >> LANE_LOG);
    always_comb begin
        case (1'b1)
            op.param[1]: begin
                row_beats = 22'((outputs + TILE - 24'd1) >> LANE_LOG);
                tile_beats = 3'd1;
            end
            op.param[2]: begin
                row_beats = 22'((outputs + (TILE >> 1) - 24'd1) >> (LANE_LOG - 1));
                tile_beats = 3'd2;
            end
            default: begin
                row_beats = 22'((outputs + (TILE >> 2) - 24'd1) >> (LANE_LOG - 2));
                tile_beats = 3'd4;
            end
        endcase
    end
    assign weights_beat = op.weights[LOG+:engine::BEAT_ADDRESS_BITS];
    assign stride_beats = op.stride[LOG+:engine::BEAT_ADDRESS_BITS];
    assign alignment = {16'd0, row_alignment >> LOG};
    assign tap_beats = {{(engine::BEAT_ADDRESS_BITS - 22) {1'b0}}, (row_beats + alignment - 22'd1) & ~(alignment - 22'd1)};

    conv_geometry #(.BEAT_BITS(BEAT_BITS)) shape (
        .clock, .reset, .start(start && op.kind == engine::KIND_CONV2D), .address(op.second), .done(geometry_done), .request(geometry_request),
        .request_ready(geometry_ready), .request_beat(geometry_beat), .beat_valid(constant_valid), .beat(constant_data), .beat_pop(geometry_pop),
        .words(geometry), .products
    );
    assign reads_geometry = state == GEOMETRY;

    // --- Scans. ---
    logic scan_start, scan_busy, scan_read, scan_valid, walk_start, walk_busy, walk_read, walk_valid, digits_ready, digits_busy, counting, fill_started, fill_counted;
    logic [23:0] scan_address, walk_address, end_source, window_source;
    logic [VALUE_BITS-1:0] scan_value, walk_value;
    logic [engine::BEAT_ADDRESS_BITS-1:0] scan_row, walk_row, end_kernel, window_kernel;
    logic [24:0] top, left;
    logic [23:0] top_words;
    logic push, filled;
    logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry;

    assign counting = state == COUNT;
    assign scan_start = (state == PREPARE && conv) || (state == PASS && !conv);
    assign walk_start = state == PASS && conv;
    assign signal_read = scan_read || walk_read;
    assign signal_read_address = walk_busy ? walk_address : scan_address;
    assign filled = fill_started && !scan_busy && !walk_busy && !digits_busy;

    source_scan #(.PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) scan (
        .clock, .reset, .start(scan_start), .source(op.source), .size(op.source_size), .first_row(weights_beat), .stride(stride_beats),
        .busy(scan_busy), .flag_address, .flags, .port_taken, .read(scan_read), .read_address(scan_address), .read_data(signal_data), .valid(scan_valid),
        .value(scan_value), .row(scan_row), .ready(digits_ready)
    );
    window_walk #(.PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) walk (
        .clock, .reset, .start(walk_start), .geometry, .products, .source(window_source), .kernel(window_kernel), .stride(stride_beats),
        .tap_stride(tap_beats), .top, .left, .top_words, .busy(walk_busy), .end_source, .end_kernel, .port_taken, .read(walk_read),
        .read_address(walk_address), .read_data(signal_data), .valid(walk_valid), .value(walk_value), .row(walk_row), .ready(digits_ready)
    );
    event_digits #(.VALUE_BITS(VALUE_BITS)) digits (
        .clock, .reset, .clear(start), .count_rows(conv ? counting : plane == 3'd0), .count_additions(!counting && plane == 3'd0),
        .discard(counting), .outputs, .plane, .valid(scan_valid || walk_valid), .value(walk_valid ? walk_value : scan_value),
        .row(walk_valid ? walk_row : scan_row), .ready(digits_ready), .busy(digits_busy), .push, .event_entry, .rows, .additions,
        .clear_reach(state == PASS && plane == 3'd0), .reach
    );

    // --- Queue, fetch, lanes. ---
    logic fetch_busy, post, post_ready, posted, info_push, info_full, info_valid, info_pop;
    logic [8:0] info_in, info;

    row_fetch #(.QUEUE_WORDS(QUEUE_WORDS)) fetch (
        .clock, .reset, .start(state == PASS), .push, .event_entry, .filled, .tiles, .tile_beats, .row_beats, .busy(fetch_busy), .post, .post_ready,
        .request, .request_ready, .request_beat, .request_length, .info_push, .info_full, .info(info_in)
    );
    fifo #(.WIDTH(9), .DEPTH(128)) infos (
        .clock, .reset, .push(info_push), .in(info_in), .full(info_full), .pop(info_pop), .valid(info_valid), .out(info)
    );
    lane_array #(.LANES(LANES), .PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) lanes (
        .clock, .reset, .weight_bits(op.param[3:0]), .info_valid, .info, .info_pop, .beat_valid, .beat, .beat_pop,
        .valid(lanes_valid), .data(lanes_data), .take(lanes_take), .last(lanes_last)
    );

    // --- Jobs. ---
    engine::job_t pass_job, final_job;
    assign post_ready = !posted;
    assign more_planes = (reach >> plane) > 8'd1;
    assign single = plane == 3'd0 && !more_planes;
    assign job_start = posted && !vector_busy;
    always_comb begin
        pass_job = '0;
        pass_job.kind = engine::JOB_ADD;
        pass_job.serial = conv;
        pass_job.from_lanes = 1'b1;
        pass_job.use_b = plane != 3'd0;
        pass_job.items = conv ? outputs : (outputs + GROUP - 24'd1) >> PORT_LOG;
        pass_job.b = group_d;
        pass_job.d = group_d;
        pass_job.step = products[1*24+:24];
        pass_job.first = group_first;
        pass_job.channels = {2'b00, single, single};
        pass_job.shift = {plane, 2'b00};
        // Several planes: bias and shift come last, over the sum that is in place.
        final_job = pass_job;
        final_job.from_lanes = 1'b0;
        final_job.use_b = 1'b0;
        final_job.a = group_d;
        final_job.channels = 4'b0011;
    end

    logic [23:0] group_left, column_left, row_left;
    always_ff @(posedge clock) begin
        if (post) job <= pass_job;
        else if (state == FINAL && !posted) job <= final_job;

        if (reset) begin
            state <= IDLE;
            posted <= 1'b0;
            fill_started <= 1'b0;
        end else begin
            if (post || (state == FINAL && !posted)) posted <= 1'b1;
            else if (job_start) posted <= 1'b0;
            fill_started <= state == PASS_RUN;
            case (state)
                IDLE:
                if (start) begin
                    state <= conv ? GEOMETRY : PREPARE;
                    plane <= 3'd0;
                end
                GEOMETRY: if (geometry_done) state <= PREPARE;
                PREPARE: begin
                    state <= conv ? COUNT : PASS;
                    group_first <= '0;
                    group_d <= op.destination;
                    line_d <= op.destination;
                    group_left <= geometry[1*24+:24];
                    row_left <= geometry[5*24+:24];
                    column_left <= geometry[11*24+:24];
                    top <= -{1'b0, geometry[8*24+:24]};
                    left <= -{1'b0, geometry[14*24+:24]};
                    top_words <= -products[3*24+:24];
                    window_source <= op.source;
                    window_kernel <= weights_beat;
                end
                COUNT: if (!scan_busy && !digits_busy && fill_counted) state <= PASS;
                PASS: state <= PASS_RUN;
                PASS_RUN: if (fill_started && filled && !fetch_busy) state <= PASS_NEXT;
                PASS_NEXT:
                if (more_planes) begin
                    plane <= plane + 3'd1;
                    state <= PASS;
                end else state <= plane != 3'd0 ? FINAL : WINDOW;
                FINAL: if (!posted) state <= FINAL_WAIT;
                // The next pass may write over what the final job reads only after it.
                FINAL_WAIT: if (!posted && !vector_busy) state <= WINDOW;
                WINDOW: begin
                    plane <= 3'd0;
                    state <= PASS;
                    if (!conv) state <= END;
                    else if (group_left != outputs) begin
                        group_left <= group_left - outputs;
                        group_first <= group_first + outputs;
                        group_d <= group_d + products[5*24+:24];
                        window_source <= end_source;
                        window_kernel <= end_kernel;
                    end else begin
                        group_left <= geometry[1*24+:24];
                        group_first <= '0;
                        window_source <= op.source;
                        window_kernel <= weights_beat;
                        group_d <= line_d + 24'd1;
                        line_d <= line_d + 24'd1;
                        column_left <= column_left - 24'd1;
                        left <= left + {1'b0, geometry[13*24+:24]};
                        if (column_left == 24'd1) begin
                            column_left <= geometry[11*24+:24];
                            left <= -{1'b0, geometry[14*24+:24]};
                            top <= top + {1'b0, geometry[7*24+:24]};
                            top_words <= top_words + products[2*24+:24];
                            row_left <= row_left - 24'd1;
                            if (row_left == 24'd1) state <= END;
                        end
                    end
                end
                END: if (!posted && !vector_busy) state <= IDLE;
                default: state <= IDLE;
            endcase
        end
        fill_counted <= counting;
    end
    assign busy = state != IDLE;
endmodule
