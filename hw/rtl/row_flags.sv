// One flag per row of the signal memory: 0 only where every value of the row is 0, so that a scan can skip it. A word of
// flags covers a block of 64 values, the alignment of signals. Rows of a signal are written in order, from its first.
module row_flags #(
    parameter int PORTS = 4,
    parameter int WORDS = 16384,
    localparam int FLAGS = 64 / PORTS,
    localparam int BITS = $clog2(WORDS / 64)
) (
    input logic clock,
    input logic reset,
    input logic write,
    input logic [23:0] write_address,
    input logic used,  // the row holds a value other than 0
    input logic all,  // the rows come in another order: flag the whole block
    input logic mark,  // add one flag; not in two cycles in a row
    input logic [23:0] mark_address,
    input logic [23:0] read_address,
    output logic [FLAGS-1:0] flags  // of the block of read_address, a cycle later
);
    localparam int ROW = $clog2(PORTS);
    localparam int FLAG_BITS = $clog2(FLAGS);
    logic [FLAGS-1:0] block, next_block, bit_here, bit_marked;
    logic marked;
    logic [23:0] marked_address, address;
    logic unused;

    assign bit_here = {{(FLAGS - 1) {1'b0}}, 1'b1} << write_address[ROW+:FLAG_BITS];
    assign bit_marked = {{(FLAGS - 1) {1'b0}}, 1'b1} << marked_address[ROW+:FLAG_BITS];
    assign next_block = all ? '1 : (write_address[ROW+:FLAG_BITS] == '0 ? '0 : block) | (used ? bit_here : '0);
    assign address = mark ? mark_address : read_address;
    assign unused = &{1'b0, address, write_address, marked_address};

    ram #(.WIDTH(FLAGS), .DEPTH(WORDS / 64)) words (
        .clock, .write(write || marked), .write_address(marked ? marked_address[6+:BITS] : write_address[6+:BITS]),
        .write_data(marked ? flags | bit_marked : next_block), .read(1'b1), .read_address(address[6+:BITS]), .read_data(flags)
    );

    always_ff @(posedge clock) begin
        if (write) block <= next_block;
        marked_address <= mark_address;
        marked <= mark && !reset;
    end
endmodule
