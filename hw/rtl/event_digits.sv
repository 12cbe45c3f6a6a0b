// Turns a source value into an event: sign and the 4-bit digit of the current plane of its magnitude. Counts events and
// additions (one per set bit and output), a set bit per cycle.
module event_digits #(
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic clear,  // counters, before an op
    input logic count_rows,
    input logic count_additions,
    input logic discard,  // count only
    input logic [23:0] outputs,  // additions per set bit
    input logic [2:0] plane,
    input logic valid,
    input logic [VALUE_BITS-1:0] value,
    input logic [engine::BEAT_ADDRESS_BITS-1:0] row,
    output logic ready,
    output logic busy,
    output logic push,
    output logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry,  // row, sign, digit
    output logic [31:0] rows,
    output logic [31:0] additions,
    input logic clear_reach,  // before a plane 0
    output logic [7:0] reach  // bit d: some magnitude has a bit in digit d
);
    logic here, pushed, negative, last;
    logic [VALUE_BITS-1:0] size, rest;
    logic [engine::BEAT_ADDRESS_BITS-1:0] address;
    logic [31:0] wide;
    logic [3:0] digit;

    assign rest = size & (size - 1'b1);
    assign last = rest == '0 || !count_additions;
    assign ready = !here || last;
    assign busy = here;
    assign wide = 32'(size);
    assign digit = wide[{plane, 2'b00}+:4];
    assign push = here && !pushed && !discard && digit != 4'd0;
    assign event_entry = {address, negative, digit};

    always_ff @(posedge clock) begin
        if (valid && ready) begin
            size <= value[VALUE_BITS-1] ? -value : value;
            negative <= value[VALUE_BITS-1];
            address <= row;
            pushed <= 1'b0;
        end else if (here) begin
            size <= rest;
            pushed <= 1'b1;
        end
        if (clear) additions <= 32'd0;
        else if (here && count_additions) additions <= additions + {8'd0, outputs};
        if (clear) rows <= 32'd0;
        else if (valid && ready && count_rows) rows <= rows + 32'd1;
        for (int d = 0; d < 8; d++)
            if (clear_reach) reach[d] <= 1'b0;
            else if (here && !pushed && wide[4*d+:4] != 4'd0) reach[d] <= 1'b1;
        if (reset) here <= 1'b0;
        else if (ready) here <= valid;
    end
endmodule
