// Queue in a block memory; `out` shows the oldest entry while `valid`. Two cycles from push to valid.
module fifo #(
    parameter int WIDTH = 8,
    parameter int DEPTH = 16  // a power of two
) (
    input logic clock,
    input logic reset,
    input logic push,  // not while full
    input logic [WIDTH-1:0] in,
    output logic full,
    input logic pop,  // not without valid
    output logic valid,
    output logic [WIDTH-1:0] out
);
    localparam int BITS = $clog2(DEPTH);
    logic [BITS:0] head, tail, next;

    assign next = head + {{BITS{1'b0}}, pop};
    assign full = tail == {~head[BITS], head[BITS-1:0]};

    ram #(.WIDTH(WIDTH), .DEPTH(DEPTH)) entries (
        .clock, .write(push), .write_address(tail[BITS-1:0]), .write_data(in),
        .read(1'b1), .read_address(next[BITS-1:0]), .read_data(out)
    );

    always_ff @(posedge clock) begin
        if (reset) begin
            head <= '0;
            tail <= '0;
            valid <= 1'b0;
        end else begin
            head <= next;
            tail <= tail + {{BITS{1'b0}}, push};
            valid <= next != tail;  // what is written in this cycle shows one cycle later
        end
    end
endmodule
