// Spike counts of PORTS neurons: how often 2v > (2m - 1) step for m = 1..levels, minus, if two_sided, how often -2v is.
// One level per cycle; ends early where no port can exceed a further threshold.
module count_unit #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32
) (
    input logic clock,
    input logic reset,
    input logic start,  // with the operands, which stay until done
    input logic [7:0] levels,
    input logic two_sided,
    input logic [PORTS*VALUE_BITS-1:0] values,
    input logic [PORTS*COMPARE_BITS-1:0] steps,
    output logic done,  // from the cycle in which the counts are complete to the next start
    output logic [PORTS*9-1:0] counts  // signed
);
    localparam int WIDE = COMPARE_BITS + 1;
    logic running, first, second_side;
    logic [7:0] level;
    logic [PORTS-1:0] active, both;
    logic go_on;

    assign go_on = active != '0 && level != levels;

    always_ff @(posedge clock) begin
        first <= start;
        if (start) level <= 8'd1;
        else if (running && !first) level <= level + 8'd1;
        if (reset) begin
            running <= 1'b0;
            done <= 1'b0;
            second_side <= 1'b0;
        end else if (start) begin
            running <= 1'b1;
            done <= 1'b0;
            second_side <= 1'b0;
        end else if (running && !first && !go_on) begin
            // Only with a negative step can both sides exceed: then the other side runs as well.
            if (both != '0 && !second_side) begin
                second_side <= 1'b1;
                first <= 1'b1;
                level <= 8'd1;
            end else begin
                running <= 1'b0;
                done <= 1'b1;
            end
        end
    end

    for (genvar p = 0; p < PORTS; p++) begin : g_port
        logic signed [VALUE_BITS-1:0] value;
        logic signed [COMPARE_BITS-1:0] step;
        logic signed [WIDE-1:0] doubled, wide_step, left;  // left = +-2v - (2m - 1) step - 1: not negative where the threshold is exceeded
        logic signed [8:0] count;
        logic down, idle;
        assign value = values[p*VALUE_BITS+:VALUE_BITS];
        assign step = steps[p*COMPARE_BITS+:COMPARE_BITS];
        assign both[p] = two_sided && step[COMPARE_BITS-1];
        assign down = (two_sided && value[VALUE_BITS-1]) != second_side;
        assign idle = second_side && !both[p];
        assign doubled = {{(WIDE - VALUE_BITS - 1) {value[VALUE_BITS-1]}}, value, 1'b0};
        assign wide_step = {step[COMPARE_BITS-1], step};
        assign active[p] = !idle && (!left[WIDE-1] || step[COMPARE_BITS-1]);
        assign counts[p*9+:9] = count;
        always_ff @(posedge clock) begin
            if (first) left <= (doubled ^ {WIDE{down}}) + ~wide_step + {{(WIDE - 1) {1'b0}}, down};
            else if (running && active[p]) left <= left - (wide_step <<< 1);
            if (start) count <= '0;
            else if (running && !first && !idle && !left[WIDE-1]) count <= down ? count - 9'sd1 : count + 9'sd1;
        end
    end
endmodule
