// Linear and Conv2d. A pass is one digit plane of one scan (a Linear: of the source; a Conv2d: of one window and group); its
// events go through the queue and the fetch to the lanes, whose tiles are one job of the vector unit, which finishes them.
module synapse_unit #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int SIGNAL_WORDS = 16384,
    parameter int QUEUE_WORDS = 2048,
    localparam int BEAT_BITS = 2 * LANES,
    localparam int S = $clog2(SIGNAL_WORDS)
) (
    input logic clock,
    input logic reset,
    input logic start,
    input engine::op_t op,
    input logic [5:0] row_alignment,  // words
    output logic busy,
    output logic [S:0] rows,
    output logic [31:0] additions,
    // Signal memory and the flags of its rows.
    output logic flag_read,
    output logic [S-7:0] flag_block,
    input logic [64/PORTS-1:0] flags,
    output logic signal_read,
    output logic [S-1:0] signal_read_address,
    output logic signal_pass,
    input logic [PORTS*VALUE_BITS-1:0] signal_data,
    // Weights.
    output logic request,
    input logic request_ready,
    output engine::beat_address_t request_beat,
    output logic [1:0] request_length,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // The geometry of a Conv2d, over the port of the constants.
    output logic geometry_request,
    input logic geometry_ready,
    output engine::beat_address_t geometry_beat,
    input logic constant_valid,
    input logic [BEAT_BITS-1:0] constant_data,
    output logic geometry_pop,
    // Vector unit.
    output logic job_start,
    output engine::job_t job,
    output logic feed_start,  // of a Conv2d; that of a Linear is started for it
    output engine::feed_t feed,
    input logic vector_busy,
    output logic lanes_valid,
    output logic [PORTS*VALUE_BITS-1:0] lanes_data,
    input logic lanes_take
);
    localparam int LOG = $clog2(BEAT_BITS / 32);
    localparam int LANE_LOG = $clog2(LANES);
    localparam int PORT_LOG = $clog2(PORTS);

    typedef enum logic [3:0] {IDLE, GEOMETRY, PREPARE, COUNT, PASS, PASS_RUN, PASS_NEXT, FINAL, FINAL_WAIT, WINDOW, LINE, END} state_t;
    state_t state;
    logic conv, unused;
    assign unused = &{1'b0, op, row_alignment, geometry};
    assign conv = op.kind == instruction_set::KIND_CONV2D;

    // --- Shape of a pass: outputs of the Linear, or of one group at one position. ---
    logic [S:0] outputs, groups, tiles, row_beats;
    logic [2:0] tile_beats, alignment;
    logic [LANE_LOG-PORT_LOG-1:0] end_group;  // of PORTS outputs, in the last tile
    engine::beat_address_t weights_beat, stride_beats, tap_beats;
    logic [16*24-1:0] geometry;
    logic [6*S-1:0] products;
    logic geometry_done;

    function automatic logic [S:0] ceiling(input logic [S:0] number, input int shift);
        ceiling = (number + (S + 1)'((1 << shift) - 1)) >> shift;
    endfunction

    assign weights_beat = op.weights[LOG+:engine::BEAT_ADDRESS_BITS];
    assign stride_beats = op.stride[LOG+:engine::BEAT_ADDRESS_BITS];
    assign alignment = 3'((row_alignment >> LOG) - 6'd1);  // beats less one: 0, 1, 3 or 7
    assign outputs = conv ? geometry[3*24+:S+1] : op.size[S:0];
    always_ff @(posedge clock) begin
        tiles <= ceiling(outputs, LANE_LOG);
        groups <= conv ? outputs : ceiling(outputs, PORT_LOG);
        end_group <= (LANE_LOG - PORT_LOG)'(ceiling(outputs, PORT_LOG) - 1'b1);
        row_beats <= op.param[1] ? ceiling(outputs, LANE_LOG) : op.param[2] ? ceiling(outputs, LANE_LOG - 1) : ceiling(outputs, LANE_LOG - 2);
        tile_beats <= op.param[1] ? 3'd1 : op.param[2] ? 3'd2 : 3'd4;
        tap_beats <= engine::beat_address_t'((S + 1)'(row_beats + (S + 1)'(alignment))) & ~engine::beat_address_t'(alignment);
    end

    conv_geometry #(.BEAT_BITS(BEAT_BITS), .SIGNAL_BITS(S)) shape (
        .clock, .reset, .start(start && conv), .address(op.second), .done(geometry_done), .request(geometry_request), .request_ready(geometry_ready),
        .request_beat(geometry_beat), .beat_valid(constant_valid), .beat(constant_data), .beat_pop(geometry_pop), .words(geometry), .products
    );

    // --- Scans: the rows of the source, or the taps of a window, and from both the neurons that are not 0. ---
    logic scan_start, scan_busy, scan_valid, walk_start, walk_busy, walk_valid, take, read_busy, found, negative, digits_ready, digits_busy;
    logic push, filled, counting, fill_started;
    logic [S-PORT_LOG-1:0] scan_place;
    logic [5-PORT_LOG:0] scan_index;
    logic [PORTS-1:0] scan_wanted, walk_wanted;
    logic [S-1:0] walk_place, end_source, window_source, top_words;
    logic [VALUE_BITS-1:0] magnitude;
    engine::beat_address_t scan_base, walk_row, found_row, end_kernel, window_kernel;
    logic [24:0] top, left;
    logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry;
    logic [2:0] plane, last_plane;

    assign counting = state == COUNT;
    assign scan_start = conv ? state == PREPARE : start || (state == PASS && plane != 3'd0);
    assign walk_start = state == PASS && conv;
    assign walk_wanted = {{(PORTS - 1) {1'b0}}, 1'b1} << walk_place[PORT_LOG-1:0];

    source_scan #(.PORTS(PORTS), .SIGNAL_BITS(S)) scan (
        .clock, .reset, .start(scan_start), .source(op.source[S-1:0]), .size(op.source_size[S:0]), .first_row(weights_beat), .stride(stride_beats),
        .busy(scan_busy), .flag_read, .flag_block, .flags, .valid(scan_valid), .take, .place(scan_place), .index(scan_index), .wanted(scan_wanted),
        .base(scan_base)
    );
    window_walk #(.SIGNAL_BITS(S)) walk (
        .clock, .reset, .start(walk_start), .geometry, .products, .source(window_source), .kernel(window_kernel), .stride(stride_beats),
        .tap_stride(tap_beats), .top, .left, .top_words, .busy(walk_busy), .end_source, .end_kernel, .valid(walk_valid), .take, .place(walk_place),
        .row(walk_row)
    );
    neuron_read #(.PORTS(PORTS), .VALUE_BITS(VALUE_BITS), .SIGNAL_BITS(S)) neurons (
        .clock, .reset, .valid(scan_valid || walk_valid), .take, .place(scan_valid ? scan_place : walk_place[S-1:PORT_LOG]),
        .index(scan_valid ? scan_index : '0), .wanted(scan_valid ? scan_wanted : walk_wanted), .single(!scan_valid),
        .base(scan_valid ? scan_base : walk_row), .stride(stride_beats), .busy(read_busy), .read(signal_read), .read_address(signal_read_address),
        .pass(signal_pass), .read_data(signal_data), .found, .negative, .magnitude, .row(found_row), .ready(digits_ready)
    );
    event_digits #(.VALUE_BITS(VALUE_BITS), .SIGNAL_BITS(S)) digits (
        .clock, .reset, .clear(start), .count_rows(conv ? counting : plane == 3'd0), .count_additions(!counting && plane == 3'd0),
        .discard(counting), .outputs, .plane, .valid(found), .negative, .magnitude, .row(found_row), .ready(digits_ready), .busy(digits_busy), .push,
        .event_entry, .rows, .additions, .clear_top(start || (walk_start && plane == 3'd0)), .top(last_plane)
    );

    // --- Queue, fetch, lanes. ---
    logic fetch_busy, posts, post, info_push, info_full, info_valid, info_pop;
    logic [9:0] info_in, info;

    row_fetch #(.QUEUE_WORDS(QUEUE_WORDS)) fetch (
        .clock, .reset, .start(state == PASS), .push, .event_entry, .filled, .tiles(20'(tiles)), .tile_beats, .row_beats(22'(row_beats)),
        .busy(fetch_busy), .post(posts), .post_ready(!posted && !post), .request, .request_ready, .request_beat, .request_length, .info_push, .info_full, .info(info_in)
    );
    fifo #(.WIDTH(10), .DEPTH(128)) infos (
        .clock, .reset, .push(info_push), .in(info_in), .full(info_full), .pop(info_pop), .valid(info_valid), .out(info)
    );
    lane_array #(.LANES(LANES), .PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) lanes (
        .clock, .reset, .weight_bits(op.param[3:0]), .info_valid, .info, .last_group(end_group), .info_pop, .beat_valid, .beat, .beat_pop,
        .valid(lanes_valid), .data(lanes_data), .take(lanes_take)
    );

    // --- Jobs: one per pass, as soon as it is known whether further planes follow; with these, bias and shift come last, over
    // the sum that is in place. ---
    logic [S-1:0] group_first, group_d, line_d;
    logic posted, final_post, more_planes;
    assign more_planes = last_plane > plane;
    assign final_post = state == FINAL && !posted;
    assign job_start = posted && !vector_busy;
    assign feed_start = job_start && conv && job.channels != '0;
    always_comb begin
        feed = engine::feed_of(op, job.channels, job.items);
        feed.serial = 1'b1;
        feed.first = job.first;
    end
    always_ff @(posedge clock) begin
        post <= posts && !reset;
        if (post || final_post) begin
            job <= '0;
            job.kind <= instruction_set::JOB_ADD;
            job.serial <= conv;
            job.from_lanes <= post;
            job.use_b <= post && plane != 3'd0;
            job.items <= 24'(groups);
            job.a <= 24'(group_d);
            job.b <= 24'(group_d);
            job.d <= 24'(group_d);
            job.step <= 24'(products[1*S+:S]);
            job.first <= 24'(group_first);
            job.channels <= {2'b00, {2{final_post || last_plane == 3'd0}}};
            job.shift <= {plane, 2'b00};
        end
    end

    logic [S:0] group_left, column_left, row_left;
    logic last_group, last_column, last_row;
    always_ff @(posedge clock) begin
        filled <= fill_started && (state == PASS_RUN || counting) && !scan_busy && !walk_busy && !read_busy && !digits_busy;
        fill_started <= state == PASS_RUN || counting;
        last_group <= group_left == outputs;
        last_column <= column_left == 1;
        last_row <= row_left == 1;
        if (reset) begin
            state <= IDLE;
            posted <= 1'b0;
        end else begin
            if (post || final_post) posted <= 1'b1;
            else if (job_start) posted <= 1'b0;
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
                    group_d <= op.destination[S-1:0];
                    line_d <= op.destination[S-1:0];
                    group_left <= geometry[1*24+:S+1];
                    row_left <= geometry[5*24+:S+1];
                    column_left <= geometry[11*24+:S+1];
                    top <= -{1'b0, geometry[8*24+:24]};
                    left <= -{1'b0, geometry[14*24+:24]};
                    top_words <= -products[3*S+:S];
                    window_source <= op.source[S-1:0];
                    window_kernel <= weights_beat;
                end
                COUNT: if (filled) state <= PASS;
                PASS: state <= PASS_RUN;
                PASS_RUN: if (!fetch_busy) state <= PASS_NEXT;
                // The jobs of all planes but the first read the signals, which the scan of a further pass must not meet.
                PASS_NEXT:
                if (plane == 3'd0 || (!posted && !vector_busy)) begin
                    if (more_planes) plane <= plane + 3'd1;
                    state <= more_planes ? PASS : plane != 3'd0 ? FINAL : conv ? WINDOW : END;
                end
                FINAL: if (!posted) state <= FINAL_WAIT;
                // The next pass may write over what the final job reads only after it.
                FINAL_WAIT: if (!posted && !vector_busy) state <= conv ? WINDOW : END;
                WINDOW: begin
                    plane <= 3'd0;
                    state <= last_group ? LINE : PASS;
                    group_left <= last_group ? geometry[1*24+:S+1] : group_left - outputs;
                    group_first <= last_group ? '0 : group_first + outputs[S-1:0];
                    group_d <= group_d + products[5*S+:S];
                    window_source <= last_group ? op.source[S-1:0] : end_source;
                    window_kernel <= last_group ? weights_beat : end_kernel;
                end
                LINE: begin
                    state <= last_column && last_row ? END : PASS;
                    group_d <= line_d + 1'b1;
                    line_d <= line_d + 1'b1;
                    column_left <= last_column ? geometry[11*24+:S+1] : column_left - 1'b1;
                    left <= last_column ? -{1'b0, geometry[14*24+:24]} : left + {1'b0, geometry[13*24+:24]};
                    if (last_column) begin
                        top <= top + {1'b0, geometry[7*24+:24]};
                        top_words <= top_words + products[2*S+:S];
                        row_left <= row_left - 1'b1;
                    end
                end
                default: if (!posted && !vector_busy) state <= IDLE;
            endcase
        end
    end
    assign busy = state != IDLE;
endmodule
