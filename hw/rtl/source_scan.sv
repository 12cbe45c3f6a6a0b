// Passes over a source signal and names the neurons that are not 0, one per cycle, with the address of their weight row. Skips
// the rows of the signal memory whose flag is 0. Gives way to the vector unit at the read port of the signal memory.
module source_scan #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    localparam int FLAGS = 64 / PORTS
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [23:0] source,
    input logic [23:0] size,
    input logic [engine::BEAT_ADDRESS_BITS-1:0] first_row,  // beats
    input logic [engine::BEAT_ADDRESS_BITS-1:0] stride,
    output logic busy,
    output logic [23:0] flag_address,
    input logic [FLAGS-1:0] flags,  // a cycle later
    input logic port_taken,  // the read port belongs to another
    output logic read,
    output logic [23:0] read_address,
    input logic [PORTS*VALUE_BITS-1:0] read_data,
    output logic valid,
    output logic [VALUE_BITS-1:0] value,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] row,
    input logic ready
);
    localparam int LOG = $clog2(PORTS);
    localparam int FLAG_BITS = $clog2(FLAGS);
    typedef logic [engine::BEAT_ADDRESS_BITS-1:0] beat_t;

    // The block: rows that are still to be read. A row leaves it when its answer is taken.
    logic [23:0] next_block, block, left, block_left;
    logic [FLAGS-1:0] rows, here_bit, open;
    logic [FLAG_BITS-1:0] low, here_low;
    logic more, loaded, advance, here, accept, free, free1, emit;
    beat_t block_row, next_row;
    // The row.
    logic [PORTS-1:0] mask, fresh, rest;
    logic [PORTS*VALUE_BITS-1:0] held;
    logic [FLAG_BITS-1:0] held_low;
    beat_t held_row;
    logic [LOG-1:0] lane;
    logic [VALUE_BITS-1:0] picked, value1;
    // The neuron: its address in the block is added in two stages.
    logic valid1;
    beat_t row1;
    logic [5:0] index;
    logic [2:0] index1;

    assign flag_address = advance ? next_block + 24'd64 : next_block;
    assign here_bit = here ? {{(FLAGS - 1) {1'b0}}, 1'b1} << here_low : '0;
    assign open = rows & ~here_bit;
    assign advance = more && loaded && open == '0 && (!here || accept);
    for (genvar p = 0; p < PORTS; p++) begin : g_fresh
        assign fresh[p] = read_data[p*VALUE_BITS+:VALUE_BITS] != '0 && {18'd0, here_low, p[LOG-1:0]} < block_left;
    end
    assign rest = mask & (mask - 1'b1);
    assign free = !valid || ready;
    assign free1 = !valid1 || free;
    assign emit = mask != '0 && free1;
    assign accept = here && (mask == '0 || (rest == '0 && free1));
    assign read = open != '0 && !port_taken && (!here || accept);
    assign read_address = block + {18'd0, low, {LOG{1'b0}}};
    assign busy = more || rows != '0 || mask != '0 || valid1 || valid;
    assign index = {held_low, lane};

    always_comb begin
        low = '0;
        for (int f = FLAGS - 1; f >= 0; f--) if (open[f]) low = f[FLAG_BITS-1:0];
        lane = '0;
        for (int p = PORTS - 1; p >= 0; p--) if (mask[p]) lane = p[LOG-1:0];
    end
    selector #(.WIDTH(VALUE_BITS), .COUNT(PORTS)) pick (.words(held), .index(lane), .word(picked));

    always_ff @(posedge clock) begin
        if (accept) begin
            held <= read_data;
            held_low <= here_low;
            held_row <= block_row;
        end
        if (emit) begin
            value1 <= picked;
            index1 <= index[5:3];
            row1 <= held_row + (index[0] ? stride : '0) + (index[1] ? stride << 1 : '0) + (index[2] ? stride << 2 : '0);
        end
        if (free && valid1) begin
            value <= value1;
            row <= row1 + (index1[0] ? stride << 3 : '0) + (index1[1] ? stride << 4 : '0) + (index1[2] ? stride << 5 : '0);
        end
        if (reset) begin
            {more, loaded, here, valid1, valid} <= '0;
            rows <= '0;
            mask <= '0;
        end else if (start) begin
            next_block <= source;
            next_row <= first_row;
            left <= size;
            more <= 1'b1;
            loaded <= 1'b0;
        end else begin
            loaded <= more;  // the flags of next_block are there
            if (accept) rows <= rows & ~here_bit;
            if (advance) begin
                rows <= flags;
                block <= next_block;
                block_row <= next_row;
                block_left <= left;
                next_block <= next_block + 24'd64;
                next_row <= next_row + (stride << 6);
                left <= left - 24'd64;
                if (left <= 24'd64) more <= 1'b0;
            end
            if (read) begin
                here <= 1'b1;
                here_low <= low;
            end else if (accept || port_taken) here <= 1'b0;  // an answer that was not taken is read again
            if (accept) mask <= fresh;
            else if (emit) mask <= rest;
            if (free1) valid1 <= mask != '0;
            if (free) valid <= valid1;
        end
    end
endmodule
