// Types that the modules of the spike engine share (docs/image_format.md); its numbers are in the package instruction_set.
package engine;
    localparam int BEAT_ADDRESS_BITS = 28;
    typedef logic [BEAT_ADDRESS_BITS-1:0] beat_address_t;

    // An op descriptor. On-chip addresses and sizes are words; image addresses are words of the image.
    typedef struct packed {
        logic [instruction_set::KIND_BITS-1:0] kind;
        logic [instruction_set::FLAG_BITS-1:0] flags;
        logic [23:0] size;
        logic [23:0] destination;
        logic [23:0] source;
        logic [31:0] second;
        logic [23:0] source_size;
        logic [31:0] constants;
        logic [31:0] more;
        logic [31:0] weights;
        logic [31:0] stride;
        logic [7:0] param;
        logic [23:0] state;
    } op_t;

    // What a job adds to the descriptor of its op.
    typedef struct packed {
        logic [instruction_set::JOB_BITS-1:0] kind;  // JOB_ADD: result = ((a + constants) << shift) + b
        logic serial;          // one neuron at a time (Conv2d: its outputs lie `step` apart)
        logic from_lanes;      // a comes from the lanes, not from the signal memory
        logic use_b;           // b is read from the signal memory
        logic [23:0] items;    // groups of PORTS neurons; neurons if serial
        logic [23:0] a;        // signal address
        logic [23:0] b;        // signal address
        logic [23:0] d;        // signal address of the result
        logic [23:0] step;     // from one neuron to the next if serial
        logic [23:0] first;    // neuron of the first constant
        logic [3:0] channels;  // constants that the job takes
        logic [4:0] shift;     // where there is no channel of bytes
    } job_t;

    // The constants that a job takes, which may be on their way before it starts.
    typedef struct packed {
        logic lif;             // the words of an item come one after the other
        logic add;             // the bytes lie where the descriptor says `more`
        logic serial;          // as in the job
        logic [23:0] items;
        logic [23:0] first;
        logic [3:0] channels;
        logic [3:0] fetched;   // channels that are not immediates
        logic [31:0] constants;
        logic [31:0] more;
        logic [31:0] weights;
    } feed_t;

    function automatic feed_t feed_of(input op_t op, input logic [3:0] channels, input logic [23:0] items);
        logic add, unused;
        logic [3:0] immediate;
        add = op.kind == instruction_set::KIND_LINEAR || op.kind == instruction_set::KIND_CONV2D;
        immediate = {op.flags[instruction_set::FLAG_SAME_WEIGHTS], op.flags[instruction_set::FLAG_SAME_MORE], op.flags[instruction_set::FLAG_SAME_CONSTANTS],
            op.flags[add ? instruction_set::FLAG_SAME_MORE : instruction_set::FLAG_SAME_CONSTANTS]};
        unused = &{1'b0, op};
        feed_of = {op.kind == instruction_set::KIND_LIF, add, 1'b0, items, 24'd0, channels, channels & ~immediate, op.constants, op.more, op.weights};
    endfunction

    function automatic logic [23:0] padded_words(input logic [23:0] words);
        padded_words = (words + 24'(instruction_set::ALIGNMENT - 1)) & ~24'(instruction_set::ALIGNMENT - 1);
    endfunction

    // Whether few bits are set, by groups of four.
    function automatic logic two_of(input logic [3:0] bits);
        two_of = (bits[0] && bits[3:1] != 3'd0) || (bits[1] && bits[3:2] != 2'd0) || (bits[2] && bits[3]);
    endfunction
    function automatic logic three_of(input logic [3:0] bits);
        three_of = (bits[1:0] == 2'b11 && bits[3:2] != 2'd0) || (bits[3:2] == 2'b11 && bits[1:0] != 2'd0);
    endfunction
    function automatic logic at_most_one(input logic [15:0] bits);
        logic [3:0] some, two;
        for (int g = 0; g < 4; g++) begin
            some[g] = bits[4*g+:4] != 4'd0;
            two[g] = two_of(bits[4*g+:4]);
        end
        at_most_one = two == 4'd0 && !two_of(some);
    endfunction
    function automatic logic at_most_two(input logic [15:0] bits);
        logic [3:0] some, two, three;
        for (int g = 0; g < 4; g++) begin
            some[g] = bits[4*g+:4] != 4'd0;
            two[g] = two_of(bits[4*g+:4]);
            three[g] = three_of(bits[4*g+:4]);
        end
        at_most_two = two == 4'd0 ? !three_of(some) : three == 4'd0 && some == two && !two_of(some);
    endfunction
endpackage
