// The geometry of a Conv2d: reads its 16 words and forms the products that the walk over its windows adds up, with one
// serial multiplier (a shifted addition per cycle). The products are distances in the signal memory, so the low bits of the
// factors suffice.
module conv_geometry #(
    parameter int BEAT_BITS = 128,
    parameter int SIGNAL_BITS = 14
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [31:0] address,  // of the geometry in the image, words
    output logic done,  // one cycle
    output logic request,
    input logic request_ready,
    output engine::beat_address_t request_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    output logic [16*24-1:0] words,  // the geometry
    output logic [6*SIGNAL_BITS-1:0] products
);
    localparam int S = SIGNAL_BITS;
    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int LOG = $clog2(BEAT_WORDS);
    localparam logic [4:0] BEATS = 5'(16 / BEAT_WORDS);
    typedef enum logic [1:0] {IDLE, READ, LOAD, MULTIPLY} state_t;
    state_t state;
    logic [4:0] asked, taken;
    logic [2:0] which;
    logic [S-1:0] a, b, sum, left, right;
    logic [BEAT_WORDS*24-1:0] fresh;
    logic unused;

    // Factors by number: 0 inputs of a channel, 1 positions, 2 rows of a row stride, 3 of the padding, 4 of the dilation
    // (words of the source), 5 outputs of a group, all positions.
    always_comb begin
        case (which)
            3'd0: left = words[4*24+:S];
            3'd1: left = words[5*24+:S];
            3'd2: left = words[7*24+:S];
            3'd3: left = words[8*24+:S];
            3'd4: left = words[9*24+:S];
            default: left = words[3*24+:S];
        endcase
        case (which)
            3'd1: right = words[11*24+:S];
            3'd5: right = products[2*S+:S];  // the positions, which four products have followed
            default: right = words[10*24+:S];
        endcase
        for (int i = 0; i < BEAT_WORDS; i++) fresh[i*24+:24] = beat[i*32+:24];
    end

    assign request = state == READ && asked != BEATS;
    assign request_beat = address[LOG+:engine::BEAT_ADDRESS_BITS] + engine::beat_address_t'(asked);
    assign beat_pop = state == READ && beat_valid;
    assign unused = &{1'b0, address, beat};

    always_ff @(posedge clock) begin
        done <= 1'b0;
        if (beat_pop) words <= (16 * 24)'({fresh, words} >> (BEAT_WORDS * 24));
        if (state == LOAD) begin
            a <= left;
            b <= right;
            sum <= '0;
        end else begin
            if (b[0]) sum <= sum + a;
            a <= a << 1;
            b <= b >> 1;
        end
        if (reset) state <= IDLE;
        else
            case (state)
                IDLE:
                if (start) begin
                    state <= READ;
                    asked <= '0;
                    taken <= '0;
                    which <= '0;
                end
                READ: begin
                    if (request && request_ready) asked <= asked + 5'd1;
                    if (beat_pop) taken <= taken + 5'd1;
                    if (taken == BEATS) state <= LOAD;
                end
                LOAD: state <= MULTIPLY;
                default:
                if (b == '0) begin
                    products <= {sum, products[6*S-1:S]};
                    which <= which + 3'd1;
                    state <= which == 3'd5 ? IDLE : LOAD;
                    done <= which == 3'd5;
                end
            endcase
    end
endmodule
