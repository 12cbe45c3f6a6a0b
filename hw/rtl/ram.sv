// Memory with one write and one registered read port. A word read in the cycle of its write is undefined.
module ram #(
    parameter int WIDTH = 32,
    parameter int DEPTH = 16,
    localparam int BITS = DEPTH > 1 ? $clog2(DEPTH) : 1
) (
    input logic clock,
    input logic write,
    input logic [BITS-1:0] write_address,
    input logic [WIDTH-1:0] write_data,
    input logic read,
    input logic [BITS-1:0] read_address,
    output logic [WIDTH-1:0] read_data
);
    // Deep ones are block memories even where few words of many bits would fit into logic.
    (* no_rw_check, ram_style = DEPTH > 16 ? "block" : "distributed" *) logic [WIDTH-1:0] cells[DEPTH];

    always_ff @(posedge clock) begin
        if (write) cells[write_address] <= write_data;
        if (read) read_data <= cells[read_address];
    end
endmodule
