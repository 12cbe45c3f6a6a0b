// Two places, so that `ready` is a register: what comes before does not wait for what comes behind in the same cycle.
module skid_buffer #(
    parameter int WIDTH = 32
) (
    input logic clock,
    input logic reset,
    input logic in_valid,
    output logic ready,
    input logic [WIDTH-1:0] in,
    output logic valid,
    input logic pop,
    output logic [WIDTH-1:0] out
);
    logic [WIDTH-1:0] spare;

    always_ff @(posedge clock) begin
        if (ready) spare <= in;
        if (!valid || pop) out <= ready ? in : spare;
        if (reset) begin
            ready <= 1'b1;
            valid <= 1'b0;
        end else if (!valid || pop) begin
            ready <= 1'b1;
            valid <= !ready || in_valid;
        end else if (in_valid && ready) ready <= 1'b0;
    end
endmodule
