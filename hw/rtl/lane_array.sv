// LANES accumulators. Takes weight beats in order, each with what to do: its digit (how often it is added), its sign, which
// part of the tile it is, and whether it ends the tile. A finished tile moves to the shadow registers, from which
// it is handed over while the next tile accumulates. Lane (u, k, q) takes its weight from byte k of unit u of the beat.
module lane_array #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    localparam int UNITS = LANES / 64,
    localparam int BEAT_BITS = 2 * LANES
) (
    input logic clock,
    input logic reset,
    input logic clear,
    input logic [3:0] weight_bits,  // 2, 4 or 8
    input logic info_valid,
    input logic [8:0] info,  // end of the tile, with a beat, part, sign, digit
    output logic info_pop,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // The outputs of finished tiles, PORTS at a time.
    output logic valid,
    output logic [PORTS*VALUE_BITS-1:0] data,
    input logic take,
    input logic last  // with take: the tile needs no further groups
);
    logic is_end, has_beat, negative, go, last_time, ending, copy, copying, subtract, free;
    logic [1:0] part;
    logic [3:0] digit, times, enables;

    assign {is_end, has_beat, part, negative, digit} = info;
    assign go = info_valid && (!has_beat || beat_valid) && !copy;
    assign last_time = !has_beat || times == digit;
    assign info_pop = go && last_time;
    assign beat_pop = info_pop && has_beat;
    assign copying = copy && free;

    // The lanes that a beat of this part holds.
    logic [3:0] part_lanes;
    assign part_lanes = weight_bits[1] ? 4'b1111 : weight_bits[2] ? {part[0], part[0], !part[0], !part[0]} : 4'b0001 << part;

    always_ff @(posedge clock) begin
        if (!copy) begin
            subtract <= negative;
            enables <= go && has_beat ? part_lanes : 4'b0000;
        end
        if (reset || clear) begin
            times <= 4'd1;
            ending <= 1'b0;
            copy <= 1'b0;
        end else begin
            if (go) times <= last_time ? 4'd1 : times + 4'd1;
            if (!copy) begin
                ending <= go && last_time && is_end;
                if (ending) copy <= 1'b1;
            end else if (copying) copy <= 1'b0;
        end
    end

    logic [LANES*VALUE_BITS-1:0] shadow;
    for (genvar q = 0; q < 4; q++) begin : g_quarter
        for (genvar u = 0; u < UNITS; u++) begin : g_unit
            for (genvar k = 0; k < 16; k++) begin : g_lane
                logic [7:0] packed_byte, weight, next_weight;
                logic [1:0] crumb;
                logic [3:0] nibble;
                logic [VALUE_BITS-1:0] sum;
                assign packed_byte = beat[(16*u+k)*8+:8];
                assign crumb = packed_byte[2*q+:2];
                assign nibble = packed_byte[4*(q%2)+:4];
                assign next_weight = weight_bits[1] ? {{6{crumb[1]}}, crumb} : weight_bits[2] ? {{4{nibble[3]}}, nibble} : packed_byte;
                always_ff @(posedge clock) begin
                    if (!copy) weight <= next_weight ^ {8{negative}};  // -w = ~w + 1: the 1 is the carry of the adder
                    if (reset || clear || copying) sum <= '0;
                    else if (enables[q] && !copy) sum <= sum + {{(VALUE_BITS - 8) {weight[7]}}, weight} + {{(VALUE_BITS - 1) {1'b0}}, subtract};
                    if (copying) shadow[((4*u+q)*16+k)*VALUE_BITS+:VALUE_BITS] <= sum;
                end
            end
        end
    end

    lane_drain #(.LANES(LANES), .PORTS(PORTS), .VALUE_BITS(VALUE_BITS)) drain (
        .clock, .reset, .weight_bits, .load(copying), .free, .shadow, .valid, .data, .take, .last
    );
endmodule
