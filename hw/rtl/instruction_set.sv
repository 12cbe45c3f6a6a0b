// Written from hw/instruction_set.py by: python -m nsllm_nir.hw.generated_files
/* verilator lint_off UNUSEDPARAM */
package instruction_set;
    localparam logic [31:0] MAGIC = 32'h494C534E;  // the bytes 'N' 'S' 'L' 'I'
    localparam logic [31:0] VERSION = 32'd3;
    localparam int ALIGNMENT = 64;
    localparam int LIF_DECAY_BITS = 12;
    localparam int LIF_FRACTION_BITS = 6;
    localparam int LIF_STATE_BITS = 24;
    localparam int LIF_THRESHOLD_BITS = 17;

    // Words of the header and of a descriptor.
    localparam logic [4:0] HEADER_MAGIC = 5'd0;
    localparam logic [4:0] HEADER_VERSION = 5'd1;
    localparam logic [4:0] HEADER_IMAGE_WORDS = 5'd2;
    localparam logic [4:0] HEADER_CRC = 5'd3;
    localparam logic [4:0] HEADER_OPS = 5'd4;
    localparam logic [4:0] HEADER_OPS_START = 5'd5;
    localparam logic [4:0] HEADER_PORTS = 5'd6;
    localparam logic [4:0] HEADER_PORTS_START = 5'd7;
    localparam logic [4:0] HEADER_NAMES_START = 5'd8;
    localparam logic [4:0] HEADER_NAMES_WORDS = 5'd9;
    localparam logic [4:0] HEADER_SIGNAL_WORDS = 5'd10;
    localparam logic [4:0] HEADER_STATE_WORDS = 5'd11;
    localparam logic [4:0] HEADER_ROW_WORDS = 5'd12;
    localparam logic [4:0] HEADER_ACCUMULATORS = 5'd13;
    localparam logic [4:0] HEADER_INPUT_SIZE = 5'd14;
    localparam logic [4:0] HEADER_INPUT_LEVELS = 5'd15;
    localparam logic [4:0] HEADER_TRACE_WORDS = 5'd16;
    localparam logic [4:0] HEADER_OUTPUT_WORDS = 5'd17;
    localparam logic [4:0] HEADER_ROW_WORDS_ALIGNED = 5'd18;
    localparam logic [4:0] HEADER_POTENTIAL_BITS = 5'd19;
    localparam logic [4:0] HEADER_COMPARATOR_BITS = 5'd20;
    localparam logic [4:0] HEADER_RESERVED = 5'd21;  // and all behind
    localparam logic [3:0] FIELD_KIND = 4'd0;
    localparam logic [3:0] FIELD_FLAGS = 4'd1;
    localparam logic [3:0] FIELD_SIZE = 4'd2;
    localparam logic [3:0] FIELD_DESTINATION = 4'd3;
    localparam logic [3:0] FIELD_SOURCE = 4'd4;
    localparam logic [3:0] FIELD_SECOND = 4'd5;
    localparam logic [3:0] FIELD_SOURCE_SIZE = 4'd6;
    localparam logic [3:0] FIELD_CONSTANTS = 4'd7;
    localparam logic [3:0] FIELD_MORE = 4'd8;
    localparam logic [3:0] FIELD_WEIGHTS = 4'd9;
    localparam logic [3:0] FIELD_STRIDE = 4'd10;
    localparam logic [3:0] FIELD_PARAMETER = 4'd11;
    localparam logic [3:0] FIELD_STATE = 4'd12;
    localparam logic [3:0] FIELD_NAME = 4'd13;
    localparam logic [3:0] FIELD_RESERVED = 4'd14;  // and all behind

    localparam int KIND_BITS = 4;
    localparam logic [3:0] KIND_INPUT = 4'd1;
    localparam logic [3:0] KIND_LINEAR = 4'd2;
    localparam logic [3:0] KIND_SUM = 4'd3;
    localparam logic [3:0] KIND_COUNT = 4'd4;
    localparam logic [3:0] KIND_GATE = 4'd5;
    localparam logic [3:0] KIND_INTEGRATE = 4'd6;
    localparam logic [3:0] KIND_DELAY = 4'd7;
    localparam logic [3:0] KIND_LIF = 4'd8;
    localparam logic [3:0] KIND_CONV2D = 4'd9;
    localparam logic [31:0] LAST_KIND = 32'd9;

    // Bits of the flags of a descriptor.
    localparam int FLAG_BITS = 6;
    localparam int FLAG_SIGNED_COUNT = 0;
    localparam int FLAG_SIGNAL_STEP = 1;
    localparam int FLAG_POTENTIAL = 2;
    localparam int FLAG_SAME_CONSTANTS = 3;
    localparam int FLAG_SAME_MORE = 4;
    localparam int FLAG_SAME_WEIGHTS = 5;

    // Jobs of the vector unit.
    localparam int JOB_BITS = 3;
    localparam logic [2:0] JOB_ADD = 3'd0;
    localparam logic [2:0] JOB_COUNT = 3'd1;
    localparam logic [2:0] JOB_GATE = 3'd2;
    localparam logic [2:0] JOB_INTEGRATE = 3'd3;
    localparam logic [2:0] JOB_DELAY = 3'd4;
    localparam logic [2:0] JOB_LIF = 3'd5;
    localparam logic [2:0] JOB_ADVANCE = 3'd6;

    // Channels of constants, in the order of their requests.
    localparam int CHANNEL_BYTES = 0;
    localparam int CHANNEL_CONSTANTS = 1;
    localparam int CHANNEL_MORE = 2;
    localparam int CHANNEL_WEIGHTS = 3;

    // The job that runs an op.
    function automatic logic [2:0] job_of(input logic [3:0] kind);
        case (kind)
            KIND_SUM: job_of = JOB_ADD;
            KIND_COUNT: job_of = JOB_COUNT;
            KIND_GATE: job_of = JOB_GATE;
            KIND_INTEGRATE: job_of = JOB_INTEGRATE;
            KIND_DELAY: job_of = JOB_DELAY;
            KIND_LIF: job_of = JOB_LIF;
            default: job_of = JOB_ADD;
        endcase
    endfunction

    // Whether an op reads the signal of the field `second` whatever its flags are.
    function automatic logic reads_second(input logic [3:0] kind);
        case (kind)
            KIND_GATE: reads_second = 1'b1;
            default: reads_second = 1'b0;
        endcase
    endfunction

    // The channels of constants that an op takes.
    function automatic logic [3:0] channels_of(input logic [3:0] kind, input logic [5:0] flags);
        logic unused;
        unused = &{1'b0, flags};
        case (kind)
            KIND_LINEAR: channels_of = {1'b0, 1'b0, 1'b1, 1'b1};
            KIND_SUM: channels_of = {1'b0, 1'b0, 1'b1, 1'b0};
            KIND_COUNT: channels_of = {1'b0, 1'b0, !flags[FLAG_SIGNAL_STEP], 1'b0};
            KIND_INTEGRATE: channels_of = {1'b0, 1'b0, 1'b0, 1'b1};
            KIND_DELAY: channels_of = {1'b0, 1'b0, 1'b1, 1'b0};
            KIND_LIF: channels_of = {1'b1, !flags[FLAG_POTENTIAL], 1'b1, 1'b0};
            KIND_CONV2D: channels_of = {1'b0, 1'b0, 1'b1, 1'b1};
            default: channels_of = 4'b0;
        endcase
    endfunction
endpackage
/* verilator lint_on UNUSEDPARAM */
