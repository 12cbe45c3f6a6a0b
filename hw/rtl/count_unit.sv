// Spike counts of PORTS neurons: how often 2v > (2m - 1) step for m = 1..levels, minus, if two_sided, how often -2v is.
// One level per cycle; ends early where no port can exceed a further threshold.
module count_unit #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32
) (
    input logic clock,
    input logic reset,
    input logic clear,  // no counts are shown
    input logic start,  // with the operands, only while ready; they stay until taken
    input logic [7:0] levels,
    input logic two_sided,
    input logic [PORTS*VALUE_BITS-1:0] values,
    input logic [PORTS*COMPARE_BITS-1:0] steps,
    output logic ready,
    output logic taken,
    output logic done,  // for one cycle; the counts stay until the next start
    output logic [PORTS*9-1:0] counts  // signed
);
    logic running, first, twice, second, ended, again, load, last_level, go_on;
    logic [7:0] level;
    logic [PORTS-1:0] active, both;

    // Only with a negative step can both sides exceed: then the other side runs as well.
    assign again = ended && twice && !second;
    assign load = start || again;
    assign taken = again || (start && both == '0);
    assign go_on = active != '0 && !last_level;
    assign ready = !running && !again;
    assign done = ended && !again;

    always_ff @(posedge clock) begin
        if (start) twice <= both != '0;
        if (load) second <= again;
        level <= load ? 8'd1 : level + 8'd1;
        last_level <= level == levels;
        if (reset) {running, first, ended} <= '0;
        else begin
            first <= load;
            ended <= running && !first && !go_on;
            if (load) running <= 1'b1;
            else if (!first && !go_on) running <= 1'b0;
        end
    end

    for (genvar p = 0; p < PORTS; p++) begin : g_port
        localparam int W = COMPARE_BITS;
        logic signed [VALUE_BITS-1:0] value;
        logic signed [W-1:0] step;
        // left = floor((+-2v - (2m - 1) step - 1) / 2): not negative where the threshold is exceeded.
        // change = floor(-(step + 1) / 2) for the first level, then -(step + 1).
        logic signed [W-1:0] left, change, sum;
        logic signed [8:0] count;
        logic down, side, idle, low, drop;
        assign value = values[p*VALUE_BITS+:VALUE_BITS];
        assign step = steps[p*W+:W];
        assign both[p] = two_sided && step[W-1];
        assign side = (two_sided && value[VALUE_BITS-1]) != again;
        assign {sum, drop} = {left, 1'b1} + {change, down || !first};
        assign active[p] = !idle && (!left[W-1] || !change[W-1]);
        assign counts[p*9+:9] = count;
        always_ff @(posedge clock) begin
            if (load) begin
                down <= side;
                idle <= again && !both[p];
                low <= !step[0];
            end
            if (load) left <= {{(W - VALUE_BITS) {value[VALUE_BITS-1]}}, value} ^ {W{side}};
            else if (first || active[p]) left <= sum;
            if (load) change <= {!step[W-1], ~step[W-1:1]};
            else if (first) change <= {change[W-2:0], low};
            if (start || clear) count <= '0;
            else if (running && !first && !idle && !left[W-1]) count <= count + (down ? -9'sd1 : 9'sd1);
        end
        logic unused;
        assign unused = drop;
    end
endmodule
