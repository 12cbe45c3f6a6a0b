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
    input logic [SIGNAL_BITS-1:0] source,
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
    // The flags of `answer` are there while `waiting`; `ask` is the block after it.
    logic [BLOCK_BITS-1:0] ask, answer, block;
    logic [BLOCK_BITS:0] left;  // blocks to ask for
    logic waiting, advance, go, at_most_one, last_block, in_last_block;
    logic [FLAGS-1:0] rows, first;
    logic [5-LOG:0] low;
    logic [SIGNAL_BITS:0] last;  // neuron of the signal
    engine::beat_address_t answer_row, block_row;
    logic unused;

    assign last = size - 1'b1;
    assign go = !valid || take;
    assign advance = waiting && (rows == '0 || (at_most_one && go));
    assign flag_read = start || advance;
    assign flag_block = start ? source[SIGNAL_BITS-1:6] : ask;
    assign busy = waiting || rows != '0 || valid;
    assign unused = &{1'b0, source[5:0]};
    first_one #(.COUNT(FLAGS)) next_row (.set(rows), .first, .index(low), .at_most_one);
    for (genvar p = 0; p < PORTS; p++) begin : g_wanted
        assign wanted[p] = !in_last_block || {index, p[LOG-1:0]} <= last[5:0];
    end

    always_ff @(posedge clock) begin
        if (flag_read) begin
            ask <= flag_block + 1'b1;
            answer <= flag_block;
            left <= start ? last[SIGNAL_BITS:6] : left - 1'b1;
            answer_row <= start ? first_row : answer_row + (stride << 6);
        end
        if (advance) begin
            block <= answer;
            block_row <= answer_row;
            last_block <= left == '0;
        end
        if (go) begin
            place <= {block, low};
            index <= low;
            base <= block_row;
            in_last_block <= last_block;
        end
        if (reset) begin
            {waiting, valid} <= '0;
            rows <= '0;
        end else begin
            if (start) waiting <= 1'b1;
            else if (advance) waiting <= left != '0;
            if (advance) rows <= flags;
            else if (go) rows <= rows & ~first;
            if (go) valid <= rows != '0;
        end
    end
endmodule
