// PORTS LIF neurons: u leaks and takes the input, v leaks and takes u and the bias, fires and resets (docs/image_format.md, Lif).
// One adder per port does all of it: the product with the factor bit by bit, the sums, the comparison with the threshold.
module lif_unit #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic start,  // with inputs and old = u; only while ready
    input logic fires,
    input logic [PORTS*VALUE_BITS-1:0] inputs,  // stay until taken
    input logic [PORTS*VALUE_BITS-1:0] old,  // u, from six cycles after read_v on v, which stays until taken
    input logic words_valid,
    input logic [PORTS*32-1:0] words,  // the constants one after the other: factors of u and v, bias, threshold if it fires
    output logic words_take,
    output logic busy,
    output logic ready,
    output logic read_v,
    output logic taken,  // the next operands may arrive in four cycles
    output logic write_u,  // result is the new u; for one cycle
    output logic write_v,
    output logic [PORTS*instruction_set::LIF_STATE_BITS-1:0] result,
    output logic [PORTS-1:0] spikes  // with write_v and one cycle longer
);
    localparam int S = instruction_set::LIF_STATE_BITS;
    localparam int W = S + 4;  // of a sum
    localparam int T = instruction_set::LIF_THRESHOLD_BITS;
    localparam int FRACTION = instruction_set::LIF_FRACTION_BITS;
    localparam int FACTOR = instruction_set::LIF_DECAY_BITS + 1;  // bits of a factor
    localparam logic [3:0] LAST_TICK = 4'(FACTOR - 1);
    typedef enum logic [2:0] {IDLE, LEAK, TOP, INPUT, BIAS, FIRE, STORE} state_t;
    state_t state;
    logic [3:0] tick;
    logic of_v, uses_word, go;

    assign busy = state != IDLE;
    assign ready = state == IDLE && words_valid;
    // The next word shows in the cycle after words_take.
    assign uses_word = of_v && (state == INPUT || (state == BIAS && fires));
    assign go = !uses_word || (words_valid && !words_take);

    always_ff @(posedge clock) begin
        tick <= state == LEAK ? tick + 4'd1 : 4'd0;
        if (reset) begin
            state <= IDLE;
            {of_v, words_take, read_v, taken, write_u, write_v} <= '0;
        end else begin
            words_take <= (of_v && state == LEAK && tick == LAST_TICK) || (uses_word && go);
            read_v <= state == LEAK && tick == LAST_TICK - 4'd3 && !of_v;
            taken <= state == LEAK && tick == LAST_TICK - 4'd3 && of_v;
            write_u <= state == STORE && !of_v;
            write_v <= state == STORE && of_v;
            case (state)
                IDLE: if (start) state <= LEAK;
                LEAK: if (tick == LAST_TICK) state <= TOP;
                TOP: state <= INPUT;
                INPUT: if (go) state <= of_v ? BIAS : STORE;
                BIAS: if (go) state <= FIRE;
                FIRE: state <= STORE;
                default: begin
                    state <= of_v ? IDLE : LEAK;
                    of_v <= !of_v;
                end
            endcase
        end
    end

    for (genvar p = 0; p < PORTS; p++) begin : g_port
        logic signed [S-1:0] value, v;
        logic signed [W-1:0] part, added, sum;
        logic signed [W-2:0] bias;
        logic [31:0] factors;
        logic factor;
        logic [T-1:0] threshold;
        logic negative, inexact, spike, above, below, carry, unused, drop;
        assign factors = {{(16 - FACTOR) {1'b0}}, words[p*32+16+:FACTOR], {(16 - FACTOR) {1'b0}}, words[p*32+:FACTOR]};
        selector #(.WIDTH(1), .COUNT(32)) pick_factor (.words(factors), .index({of_v, tick}), .word(factor));
        assign value = old[p*VALUE_BITS+:S];
        assign bias = words[p*32+:W-1];
        assign threshold = words[p*32+:T];
        // The product is rounded toward zero: one more where a negative one lost bits.
        assign carry = state == TOP && negative && inexact;
        assign {sum, drop} = {part, 1'b1} + {added, carry};
        // Beyond +-(2^23 - 1), from the bits above; -2^23 is one too low.
        assign above = !part[W-1] && part[W-2:S-1] != '0;
        assign below = part[W-1] && (part[W-2:S-1] != '1 || part[S-2:0] == '0);
        assign result[p*S+:S] = v;
        assign spikes[p] = spike;
        assign unused = &{1'b0, drop, words[p*32+:32], inputs[p*VALUE_BITS+:VALUE_BITS], old[p*VALUE_BITS+:VALUE_BITS]};
        always_ff @(posedge clock) begin
            // What is added in the next cycle.
            if (state == LEAK && !factor) added <= '0;
            else if (go)
                case (state)
                    LEAK: added <= W'(value);
                    TOP: added <= of_v ? W'(v) : W'($signed({inputs[p*VALUE_BITS+:S-FRACTION], {FRACTION{1'b0}}}));
                    INPUT: added <= W'(bias);
                    default: added <= ~{{(W - T - FRACTION) {1'b0}}, threshold, {FRACTION{1'b0}}};
                endcase
            if (state == LEAK && tick == 4'd0) begin
                part <= '0;
                negative <= value[S-1];
                inexact <= 1'b0;
                spike <= 1'b0;
            end else if (state == LEAK) begin
                part <= sum >>> 1;
                inexact <= inexact || sum[0];
            end else if (go && state != FIRE) part <= sum;
            if (state == FIRE) spike <= fires && !sum[W-1];
            if (state == STORE) v <= spike ? '0 : above ? {1'b0, {(S - 1) {1'b1}}} : below ? {1'b1, {(S - 2) {1'b0}}, 1'b1} : part[S-1:0];
        end
    end
endmodule
