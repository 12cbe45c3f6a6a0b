// Queue; `out` shows the oldest entry while `valid`. Two cycles from push to valid; three where it lies in a block memory,
// whose words come late in their cycle and pass a register.
module fifo #(
    parameter int WIDTH = 8,
    parameter int DEPTH = 16  // a power of two
) (
    input logic clock,
    input logic reset,
    input logic push,  // not while it holds DEPTH entries
    input logic [WIDTH-1:0] in,
    output logic full,  // from two places before the last: it is a register
    input logic pop,  // not without valid
    output logic valid,
    output logic [WIDTH-1:0] out
);
    localparam int BITS = $clog2(DEPTH);
    logic [BITS:0] head, tail, used;
    logic read, held, taken;  // held: `word` is the oldest entry
    logic [WIDTH-1:0] word;

    assign used = tail - head;
    assign read = head != tail && (!held || taken);

    ram #(.WIDTH(WIDTH), .DEPTH(DEPTH)) entries (
        .clock, .write(push), .write_address(tail[BITS-1:0]), .write_data(in), .read, .read_address(head[BITS-1:0]), .read_data(word)
    );

    always_ff @(posedge clock) begin
        if (reset) begin
            head <= '0;
            tail <= '0;
            held <= 1'b0;
            full <= 1'b0;
        end else begin
            full <= used >= (BITS + 1)'(DEPTH - 2);
            if (read) head <= head + 1'b1;
            if (push) tail <= tail + 1'b1;
            if (read) held <= 1'b1;
            else if (taken) held <= 1'b0;
        end
    end

    if (DEPTH <= 16) begin : g_shallow
        assign taken = pop;
        assign valid = held;
        assign out = word;
    end else begin : g_deep
        assign taken = held && (!valid || pop);
        always_ff @(posedge clock) begin
            if (taken) out <= word;
            if (reset) valid <= 1'b0;
            else if (taken) valid <= 1'b1;
            else if (pop) valid <= 1'b0;
        end
    end
endmodule
