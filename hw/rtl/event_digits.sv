// Turns a neuron into an event: sign and the 4-bit digit of the current plane of its magnitude. Passes over the digits, from the
// lowest up to the highest that is not 0, and counts events and additions (one per set bit and output), a set bit per cycle.
module event_digits #(
    parameter int VALUE_BITS = 24,
    parameter int SIGNAL_BITS = 14
) (
    input logic clock,
    input logic reset,
    input logic clear,  // counters, before an op
    input logic count_rows,
    input logic count_additions,
    input logic discard,  // count only
    input logic [SIGNAL_BITS:0] outputs,  // additions per set bit
    input logic [2:0] plane,
    input logic valid,
    input logic negative,
    input logic [VALUE_BITS-1:0] magnitude,
    input engine::beat_address_t row,
    output logic ready,
    output logic busy,
    output logic push,
    output logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry,  // row, sign, digit
    output logic [SIGNAL_BITS:0] rows,
    output logic [31:0] additions,
    input logic clear_top,  // before a plane 0
    output logic [2:0] top  // the highest digit of any magnitude
);
    localparam int V = VALUE_BITS;
    logic here, pushed, minus, upper_zero, simple, last, counts, next_zero, next_simple;
    logic [V-1:0] rest;  // the lowest digit is the current one, without the bits that are counted
    logic [2:0] at;  // the current digit
    logic [3:0] digit;
    function automatic logic one(input logic [3:0] bits);
        one = !counts || (bits & (bits - 4'd1)) == 4'd0;
    endfunction
    engine::beat_address_t address;

    // The cycle of a digit's last set bit is known one cycle ahead, and so is that of the last digit.
    assign digit = rest[3:0];
    always_comb begin
        next_zero = upper_zero;
        next_simple = one(digit & (digit - 4'd1));
        if (ready) begin
            next_zero = magnitude[V-1:4] == '0;
            next_simple = one(magnitude[3:0]);
        end else if (simple) begin
            next_zero = rest[V-1:8] == '0;
            next_simple = one(rest[7:4]);
        end
    end
    assign ready = !here || last;
    assign busy = here;
    assign push = here && !pushed && !discard && at == plane && digit != 4'd0;
    assign event_entry = {address, minus, digit};

    always_ff @(posedge clock) begin
        if (ready) begin
            rest <= magnitude;
            minus <= negative;
            address <= row;
            at <= 3'd0;
        end else if (simple) begin
            rest <= rest >> 4;
            at <= at + 3'd1;
        end else rest[3:0] <= digit & (digit - 4'd1);
        upper_zero <= next_zero;
        simple <= next_simple;
        last <= (next_zero && next_simple) || discard;
        counts <= count_additions;
        pushed <= here && !ready && !simple;
        if (clear) additions <= 32'd0;
        else if (here && count_additions && digit != 4'd0) additions <= additions + 32'(outputs);
        if (clear) rows <= '0;
        else if (valid && ready && count_rows) rows <= rows + 1'b1;
        if (clear_top) top <= 3'd0;
        else if (here && digit != 4'd0 && at > top) top <= at;
        if (reset) here <= 1'b0;
        else if (ready) here <= valid;
    end
endmodule
