// One flag per row of the signal memory: 0 only where every value of the row is 0, so that a scan can skip it. A word of
// flags covers a block of 64 values, the alignment of signals. Rows of a signal are written in order, from its first.
module row_flags #(
    parameter int PORTS = 4,
    parameter int WORDS = 16384,
    localparam int FLAGS = 64 / PORTS,
    localparam int BITS = $clog2(WORDS / 64),
    localparam int ROW_BITS = $clog2(WORDS / PORTS)
) (
    input logic clock,
    input logic reset,
    input logic write,
    input logic mark,  // with write: add one flag to a block; not in two cycles in a row
    input logic [ROW_BITS-1:0] row,
    input logic used,  // a value is not 0
    input logic all,  // the rows come in another order: flag the whole block
    input logic read,  // at the earliest four cycles after a write
    input logic [BITS-1:0] read_block,
    output logic [FLAGS-1:0] flags  // a cycle later, until the next read
);
    localparam int FLAG_BITS = $clog2(FLAGS);
    logic [FLAGS-1:0] here, added, block;
    logic [BITS-1:0] place1, place2, place3;
    logic valid1, valid2, valid3, mark1, fetched, fresh, is_used, is_first, is_all;

    ram #(.WIDTH(FLAGS), .DEPTH(WORDS / 64)) words (
        .clock, .write(valid3), .write_address(place3), .write_data(block), .read(read || mark1), .read_address(mark1 ? place1 : read_block),
        .read_data(flags)
    );

    // A write: its flag as one bit; the block it joins; the memory. A mark reads its block in between, unless the mark before
    // was in the same one, which is not yet in the memory.
    always_ff @(posedge clock) begin
        here <= {{(FLAGS - 1) {1'b0}}, 1'b1} << row[FLAG_BITS-1:0];
        is_first <= row[FLAG_BITS-1:0] == '0;
        is_used <= used;
        is_all <= all;
        place1 <= row[ROW_BITS-1-:BITS];
        mark1 <= write && mark;
        added <= (is_used ? here : '0) | {FLAGS{is_all}};
        fresh <= is_first && !mark1;
        fetched <= mark1 && !(valid3 && place1 == place3);
        place2 <= place1;
        if (valid2) block <= (fresh ? '0 : fetched ? flags : block) | added;
        place3 <= place2;
        {valid3, valid2, valid1} <= reset ? 3'd0 : {valid2, valid1, write};
    end
endmodule
