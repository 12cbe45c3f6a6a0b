// LANES accumulators. Takes the weight beats of events in order, and of each event: the number of its beats, its sign, its digit
// (how often each beat is added), and whether it ends the tile. A finished tile moves to the shadow registers, from which it is handed
// over while the next tile accumulates. Lane (u, k, q) takes its weight from byte k of unit u of the beat.
// Weights are added as w + 2^(bits-1), negative ones as their complement -w + 2^(bits-1) - 1: never below 0, so that nothing
// needs a sign. What all lanes of the tile got too much, the excess, is taken off when they are handed over.
module lane_array #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    localparam int UNITS = LANES / 64,
    localparam int BEAT_BITS = 2 * LANES
) (
    input logic clock,
    input logic reset,
    input logic [3:0] weight_bits,  // 2, 4 or 8
    input logic info_valid,
    input logic [9:0] info,  // the last tile, end of the tile, with beats, beats - 1, sign, digit
    input logic [$clog2(LANES/PORTS)-1:0] last_group,  // of PORTS outputs, in the last tile
    output logic info_pop,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // The outputs of finished tiles, PORTS at a time.
    output logic valid,
    output logic [PORTS*VALUE_BITS-1:0] data,
    input logic take
);
    // --- The current event: its beat is number `part` and is added for time number `times`. ---
    logic active, is_last, is_end, has_beats, negative, go, last_time, last_part, done, ending, waiting, load, next_load, free, counts;
    logic next_active, next_ending, next_waiting, next_has_beats, next_last_time, runs, takes;  // runs: the event is added; takes: a beat leaves with its addition
    logic [1:0] part, parts;
    logic [3:0] digit, times, part_lanes, enables;
    logic [7:0] step;
    logic [VALUE_BITS-1:0] excess;
    logic [$clog2(LANES/PORTS)-1:0] tile_group;  // the last of the tile that has ended

    // Between the last addition of a tile and the first of the next lies one cycle, in which the sums move to the shadow.
    assign go = runs && (!has_beats || beat_valid);
    assign beat_pop = takes && beat_valid;
    assign done = go && last_time && last_part;
    assign info_pop = info_valid && (!active || done);
    assign next_load = (ending || waiting) && free;
    assign enables = go && has_beats ? part_lanes : 4'b0000;
    assign next_active = info_pop || (active && !done);
    assign next_ending = done && is_end;
    assign next_waiting = (ending || waiting) && !free;
    assign next_has_beats = info_pop ? info[7] : has_beats;
    assign next_last_time = info_pop ? info[3:0] <= 4'd1 : !go ? last_time : last_time ? digit <= 4'd1 : times + 4'd1 == digit;

    always_ff @(posedge clock) begin
        if (info_pop) begin
            {is_last, is_end, parts, negative, digit} <= {info[9:8], info[6:0]};
            part <= 2'd0;
            part_lanes <= weight_bits[1] ? 4'b1111 : weight_bits[2] ? 4'b0011 : 4'b0001;
            last_part <= info[6:5] == 2'd0;
            times <= 4'd1;
        end else if (go && last_time) begin
            part <= part + 2'd1;
            part_lanes <= weight_bits[2] ? {part_lanes[1:0], 2'b00} : {part_lanes[2:0], 1'b0};
            last_part <= part + 2'd1 == parts;
            times <= 4'd1;
        end else if (go) times <= times + 4'd1;
        has_beats <= next_has_beats;
        last_time <= next_last_time;
        counts <= go && has_beats && part == 2'd0;
        step <= {weight_bits[3], 3'd0, weight_bits[2], 1'b0, weight_bits[1], 1'b0} - {7'd0, negative};
        if (done && is_end) tile_group <= is_last ? last_group : '1;
        if (reset || load) excess <= '0;
        else if (counts) excess <= excess + {{(VALUE_BITS - 8) {1'b0}}, step};
        if (reset) {active, ending, waiting, load, runs, takes} <= '0;
        else begin
            {active, ending, waiting, load} <= {next_active, next_ending, next_waiting, next_load};
            runs <= next_active && !next_ending && !next_waiting;
            takes <= next_active && !next_ending && !next_waiting && next_has_beats && next_last_time;
        end
    end

    // --- Lanes. ---
    logic [LANES*VALUE_BITS-1:0] shadow;
    for (genvar u = 0; u < UNITS; u++) begin : g_unit
        // Each unit has its own copy of what reaches all lanes.
        (* keep *) logic [3:0] add;
        (* keep *) logic copy, two, four, narrow, negate;
        always_ff @(posedge clock) begin
            if (info_pop) negate <= info[4];
            add <= enables;
            copy <= reset || next_load;
            {narrow, four, two} <= {!weight_bits[3], weight_bits[2], weight_bits[1]};
        end
        for (genvar k = 0; k < 16; k++) begin : g_byte
            logic [7:0] b;
            logic [3:0] high;
            logic [1:0] pair;  // of the lanes with the upper nibble
            logic [1:0] middle[2];
            logic [1:0] low[4];
            assign b = beat[(16*u+k)*8+:8];
            assign pair = (four ? b[5:4] : b[1:0]) ^ {2{negate}};
            always_ff @(posedge clock) begin
                high <= narrow ? '0 : {!b[7], b[6:4]} ^ {4{negate}};
                middle[0] <= two ? '0 : {b[3] ^ four, b[2]} ^ {2{negate}};
                middle[1] <= two ? '0 : (four ? {!b[7], b[6]} : b[3:2]) ^ {2{negate}};
                low[0] <= {b[1] ^ two, b[0]} ^ {2{negate}};
                low[1] <= two ? {!b[3], b[2]} ^ {2{negate}} : pair;
                low[2] <= (two ? {!b[5], b[4]} : b[1:0]) ^ {2{negate}};
                low[3] <= two ? {!b[7], b[6]} ^ {2{negate}} : pair;
            end
            for (genvar q = 0; q < 4; q++) begin : g_lane
                logic [VALUE_BITS-1:0] sum;
                always_ff @(posedge clock) begin
                    if (copy) sum <= '0;
                    else if (add[q]) sum <= sum + {{(VALUE_BITS - 8) {1'b0}}, high, middle[q%2], low[q]};
                    if (copy) shadow[((4*u+q)*16+k)*VALUE_BITS+:VALUE_BITS] <= sum;
                end
            end
        end
    end
    lane_drain #(.LANES(LANES), .PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) drain (
        .clock, .reset, .weight_bits, .load, .last_group(tile_group), .free, .shadow, .excess, .valid, .data, .take
    );
endmodule
