// Passes over a source signal and names its rows that hold a neuron other than 0, one per cycle. Skips the rows of the signal
// memory whose flag is 0; a block without any flag takes one cycle.
module source_scan #(
    parameter int PORTS = 4,
    parameter int SIGNAL_BITS = 14,
    localparam int LOG = $clog2(PORTS),
    localparam int FLAGS = 64 / PORTS,
    localparam int BLOCK_BITS = SIGNAL_BITS - 6
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [SIGNAL_BITS-1:0] source,  // this and the next three: from the cycle before start
    input logic [SIGNAL_BITS:0] size,
    input engine::beat_address_t first_row,  // of weights
    input engine::beat_address_t stride,
    output logic busy,
    output logic flag_read,
    output logic [BLOCK_BITS-1:0] flag_block,
    input logic [FLAGS-1:0] flags,  // a cycle later, until the next read
    output logic valid,
    input logic take,
    output logic [SIGNAL_BITS-LOG-1:0] place,  // of the row
    output logic [5-LOG:0] index,  // of the row in its block
    output logic [PORTS-1:0] wanted,  // neurons of the signal
    output engine::beat_address_t base  // weight row of the first neuron of the block
);
    // The flags of the block before `ask` are there while `waiting`, and go to a buffer.
    logic [BLOCK_BITS-1:0] ask, next_block, block;
    logic [BLOCK_BITS:0] left;  // blocks to ask for
    logic waiting, ready, advance, buffered, next_is_last, pop, go, none, one, last_block, in_last_block;  // one: at most one row is left
    logic [FLAGS-1:0] next_rows, rows, first;
    logic [5-LOG:0] low;
    logic [SIGNAL_BITS:0] last;  // neuron of the signal
    engine::beat_address_t next_row, block_row;
    logic unused;

    assign last = size - 1'b1;
    assign go = !valid || take;
    assign advance = waiting && ready;
    assign pop = buffered && (none || (one && go));
    assign flag_read = start || advance;
    assign flag_block = ask;
    assign busy = waiting || buffered || !none || valid;
    assign unused = &{1'b0, source[5:0]};
    skid_buffer #(.WIDTH(FLAGS + 1)) blocks (
        .clock, .reset, .in_valid(waiting), .ready, .in({left == '0, flags}), .valid(buffered), .pop, .out({next_is_last, next_rows})
    );
    first_one #(.COUNT(FLAGS)) lowest (.set(rows), .first, .index(low));
    for (genvar p = 0; p < PORTS; p++) begin : g_wanted
        assign wanted[p] = !in_last_block || {index, p[LOG-1:0]} <= last[5:0];
    end

    always_ff @(posedge clock) begin
        // Before a start all stand at the first block.
        if (flag_read) ask <= ask + 1'b1;
        else if (!waiting) ask <= source[SIGNAL_BITS-1:6];
        if (!waiting) left <= last[SIGNAL_BITS:6];
        else if (ready) left <= left - 1'b1;
        if (pop) begin
            next_block <= next_block + 1'b1;
            next_row <= next_row + (stride << 6);
        end else if (!waiting && !buffered) begin
            next_block <= source[SIGNAL_BITS-1:6];
            next_row <= first_row;
        end
        if (pop) begin
            block <= next_block;
            block_row <= next_row;
            last_block <= next_is_last;
        end
        if (go) begin
            place <= {block, low};
            index <= low;
            base <= block_row;
            in_last_block <= last_block;
        end
        if (reset) begin
            {waiting, valid} <= '0;
            {none, one} <= '1;
            rows <= '0;
        end else begin
            if (start) waiting <= 1'b1;
            else if (advance) waiting <= left != '0;
            // How many rows are left is known with them, not from them.
            if (pop) {none, one, rows} <= {next_rows == '0, engine::at_most_one(16'(next_rows)), next_rows};
            else if (go) {none, one, rows} <= {one, engine::at_most_two(16'(rows)), rows & ~first};
            if (go) valid <= !none;
        end
    end
endmodule
