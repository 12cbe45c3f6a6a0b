// PORTS LIF neurons: u leaks and takes the input, v leaks and takes u and the bias, fires and resets (docs/image_format.md, Lif).
// A serial multiplier per port, shared by u and v: one bit of the factor per cycle.
module lif_unit #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic start,  // with the operands, which stay until done
    input logic fires,
    input logic [PORTS*VALUE_BITS-1:0] inputs,
    input logic [PORTS*24-1:0] currents,
    input logic [PORTS*24-1:0] potentials,
    input logic [PORTS*27-1:0] biases,
    input logic [PORTS*17-1:0] thresholds,
    input logic [PORTS*26-1:0] factors,  // of u, then of v
    output logic done,
    output logic [PORTS*24-1:0] new_currents,
    output logic [PORTS*24-1:0] new_potentials,
    output logic [PORTS*24-1:0] shown
);
    localparam logic signed [27:0] LIMIT = 28'sh7FFFFF;
    typedef enum logic [2:0] {IDLE, LOAD_U, LEAK_U, ADD_U, LOAD_V, LEAK_V, ADD_V, FIRE} state_t;
    state_t state;
    logic [3:0] bits;
    logic load, leak, is_v, unused;
    assign unused = &{1'b0, inputs};

    assign load = state == LOAD_U || state == LOAD_V;
    assign leak = state == LEAK_U || state == LEAK_V;
    assign is_v = state == LOAD_V;

    always_ff @(posedge clock) begin
        if (load) bits <= 4'd0;
        else bits <= bits + 4'd1;
        if (reset) begin
            state <= IDLE;
            done <= 1'b0;
        end else begin
            case (state)
                IDLE: if (start) begin
                    state <= LOAD_U;
                    done <= 1'b0;
                end
                LOAD_U: state <= LEAK_U;
                LEAK_U: if (bits == 4'd11) state <= ADD_U;
                ADD_U: state <= LOAD_V;
                LOAD_V: state <= LEAK_V;
                LEAK_V: if (bits == 4'd11) state <= ADD_V;
                ADD_V: state <= FIRE;
                default: begin
                    state <= IDLE;
                    done <= 1'b1;
                end
            endcase
        end
    end

    for (genvar p = 0; p < PORTS; p++) begin : g_port
        logic signed [23:0] old, u, v, shift_in;
        logic signed [27:0] sum;
        logic [23:0] size;
        logic [24:0] part, scaled;
        logic [12:0] factor;
        logic negative, spike, above, below;
        logic signed [25:0] leaked;
        assign old = is_v ? potentials[p*24+:24] : currents[p*24+:24];
        assign shift_in = {inputs[p*VALUE_BITS+:18], 6'd0};
        assign scaled = part + {1'b0, factor[0] ? size : 24'd0};
        assign leaked = negative ? -{1'b0, scaled} : {1'b0, scaled};
        assign spike = fires && sum > 28'($signed({1'b0, thresholds[p*17+:17], 6'd0}));
        assign new_currents[p*24+:24] = u;
        assign new_potentials[p*24+:24] = spike ? 24'd0 : v;
        assign shown[p*24+:24] = fires ? {23'd0, spike} : v;
        assign v = sum[23:0];
        // Beyond +-(2^23 - 1), from the bits above; -2^23 is one too low.
        assign above = !sum[27] && sum[26:23] != 4'd0;
        assign below = sum[27] && (sum[26:23] != 4'hF || sum[22:0] == 23'd0);
        always_ff @(posedge clock) begin
            if (load) begin
                size <= old[23] ? -old : old;
                negative <= old[23];
                part <= '0;
                factor <= is_v ? factors[p*26+13+:13] : factors[p*26+:13];
            end else if (leak) begin
                part <= scaled >> 1;
                factor <= factor >> 1;
            end
            if (state == ADD_U) u <= leaked[23:0] + shift_in;
            if (state == ADD_V) sum <= 28'(leaked) + 28'(u) + 28'($signed(biases[p*27+:27]));
            else if (state == FIRE) sum <= above ? LIMIT : below ? -LIMIT : sum;
        end
    end
endmodule
