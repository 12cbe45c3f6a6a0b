// Executes the commands: LOAD, RESET, and STEP as all descriptors in order, the delay lines, the answer. Makes the jobs of the
// elementwise ops; Input, Linear and Conv2d have units of their own.
module sequencer #(
    parameter int BEAT_BITS = 128,
    parameter int PORTS = 4,
    parameter int DESCRIPTORS = 256,
    localparam int OP_BITS = $clog2(DESCRIPTORS)
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [31:0] command,
    output logic done,
    output logic [31:0] done_status,
    input logic memory_error,
    output logic clear_error,
    // Loader.
    output logic load_start,
    input logic load_done,
    input logic [31:0] load_status,
    input logic [31:0] state_words,
    input logic [OP_BITS:0] ops,
    // Descriptors.
    output logic [OP_BITS-1:0] op_address,
    input engine::op_t descriptor,
    output engine::op_t op,
    output logic [15:0] op_index,
    output logic op_busy,
    // The list of sources of a Sum.
    output logic list_request,
    input logic list_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] list_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic list_pop,
    // Units.
    output logic input_start,
    input logic input_done,
    input logic input_bad,
    input logic [23:0] input_bad_index,
    output logic synapse_start,
    input logic synapse_busy,
    input logic [31:0] rows,
    input logic [31:0] additions,
    output logic job_start,
    output engine::job_t job,
    input logic vector_busy,
    output logic result_start,
    output logic refuse,
    input logic result_done,
    output logic traced,
    output logic counter_write,
    output logic [63:0] counters,
    // Clears the states.
    output logic state_clear,
    output logic [23:0] state_address,
    // The constants of the next job, started as soon as the one before has all of its own.
    output logic feed_start,
    output engine::feed_t feed,
    input logic feed_ready,
    output logic feed_discard,  // the op that they are for will not run
    input logic feed_idle
);
    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int LOG = $clog2(BEAT_WORDS);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam logic [23:0] GROUP = 24'(PORTS);

    typedef enum logic [4:0] {
        IDLE, LOAD, CLEAR, FETCH, DECODE, BEGIN_OP, INPUT, DISCARD, SYNAPSE, LIST_ASK, LIST_TAKE, JOB, JOB_WAIT, NEXT, DELAYS, DELAYS_READ, DELAYS_DECODE,
        DELAYS_LOOK, DELAYS_CHOOSE, DELAYS_JOB, DELAYS_WAIT, ANSWER, ANSWER_WAIT, END
    } state_t;
    state_t state;
    logic loaded, refused, any_delay, is_delay_line, first_pass, last_pass, all_clear;
    logic [OP_BITS:0] index, next;  // of the descriptor that runs; of the one that is read
    logic was_running, ahead, fed, early, running, at_end, free;  // ahead: `feed` is that of `next`; fed: it is started
    engine::op_t fetched_op;
    logic [23:0] source, source_next;
    logic [BEAT_WORDS*24-1:0] list;
    logic [31:0] status;
    logic unused;

    assign op_address = next[OP_BITS-1:0];
    assign op_index = 16'(index);
    assign op_busy = state == DECODE || state == BEGIN_OP || state == INPUT || state == SYNAPSE || state == LIST_ASK || state == LIST_TAKE || state == JOB ||
        state == JOB_WAIT || state == NEXT || state == DELAYS_JOB || state == DELAYS_WAIT;
    assign input_start = state == BEGIN_OP && op.kind == instruction_set::KIND_INPUT;
    assign list_request = state == LIST_ASK;
    assign list_beat = op.more[LOG+:engine::BEAT_ADDRESS_BITS] + {{(engine::BEAT_ADDRESS_BITS - 24 + LOG) {1'b0}}, source[23:LOG]};
    assign list_pop = state == LIST_TAKE && beat_valid;
    assign job_start = (state == JOB || state == DELAYS_JOB) && !vector_busy;
    assign clear_error = start;
    assign load_start = state == IDLE && start && command == registers::COMMAND_LOAD;
    assign result_start = state == ANSWER;
    assign refuse = refused || memory_error;
    assign done_status = status;
    assign state_clear = state == CLEAR;
    assign feed_discard = state == DISCARD;
    assign counter_write = state == NEXT;
    assign counters = op.kind == instruction_set::KIND_LINEAR || op.kind == instruction_set::KIND_CONV2D ? {additions, rows} : 64'd0;
    assign source_next = source + (first_pass ? 24'd2 : 24'd1);
    assign unused = &{1'b0, beat};

    function automatic logic [23:0] groups_of(input logic [23:0] size);
        groups_of = (size + GROUP - 24'd1) >> PORT_LOG;
    endfunction

    // The port of the constants serves one after the other: `free` says that the op that runs asks it for nothing more. A Sum
    // first reads its list.
    logic [3:0] fetched_channels;
    // A Conv2d, which takes constants in many jobs, starts its own.
    assign fetched_channels = fetched_op.kind == instruction_set::KIND_CONV2D ? '0 : instruction_set::channels_of(fetched_op.kind, fetched_op.flags);
    assign running = state == INPUT || state == SYNAPSE || state == JOB_WAIT;
    assign free = feed_ready && (state == INPUT || (state == SYNAPSE && op.kind == instruction_set::KIND_LINEAR) || state == NEXT ||
        (state == JOB_WAIT && (op.kind != instruction_set::KIND_SUM || last_pass)));
    always_ff @(posedge clock) begin
        if (state == DECODE || running) begin
            feed <= engine::feed_of(fetched_op, fetched_channels, groups_of(fetched_op.size));
            early <= fetched_op.kind != instruction_set::KIND_SUM && fetched_channels != '0;
        end
        feed_start <= 1'b0;
        was_running <= running;
        if (reset || state == DECODE) ahead <= 1'b0;
        else if (was_running) ahead <= 1'b1;
        if (reset || state == BEGIN_OP) fed <= 1'b0;
        if (reset) feed_start <= 1'b0;
        else if (state == BEGIN_OP) feed_start <= early && !fed;
        else if (state == JOB && op.kind == instruction_set::KIND_SUM) feed_start <= first_pass && !vector_busy;
        else if (ahead && free && early && !fed && !at_end) begin
            feed_start <= 1'b1;
            fed <= 1'b1;
        end
    end

    // The job of an elementwise op, as the instruction set says. A Sum adds its first two sources at once, then one more in each pass.
    always_comb begin
        job = '0;
        job.kind = instruction_set::job_of(op.kind);
        job.items = groups_of(op.size);
        job.a = op.source;
        job.b = op.second[23:0];
        job.d = op.destination;
        job.use_b = instruction_set::reads_second(op.kind);
        job.channels = instruction_set::channels_of(op.kind, op.flags);
        case (op.kind)
            instruction_set::KIND_SUM: begin
                job.a = list[23:0];
                job.b = first_pass ? list[47:24] : op.destination;
                job.use_b = !first_pass || op.source_size != 24'd1;
                if (!first_pass) job.channels = '0;
            end
            instruction_set::KIND_COUNT: job.use_b = op.flags[instruction_set::FLAG_SIGNAL_STEP];
            instruction_set::KIND_INTEGRATE: job.shift = op.param[4:0];
            instruction_set::KIND_DELAY:
            if (state == DELAYS_JOB) begin
                job.kind = instruction_set::JOB_ADVANCE;
                job.channels = '0;
            end
            default: ;
        endcase
    end

    always_ff @(posedge clock) begin
        done <= 1'b0;
        // What follows from registers that stay: the states that ask for these come later.
        fetched_op <= descriptor;
        refused <= status != 32'd0;
        at_end <= next == ops;
        all_clear <= {8'd0, state_address} + PORTS >= state_words;  // one row more is cleared: behind the states, or the first again
        last_pass <= source_next >= op.source_size;
        is_delay_line <= op.kind == instruction_set::KIND_DELAY && op.stride != 32'd0;
        synapse_start <= !reset && state == BEGIN_OP && (op.kind == instruction_set::KIND_LINEAR || op.kind == instruction_set::KIND_CONV2D);
        if (state == DECODE || state == DELAYS_DECODE) op <= fetched_op;
        if (list_pop)
            for (int i = 0; i < BEAT_WORDS; i++) list[i*24+:24] <= beat[i*32+:24];
        else if (state == JOB_WAIT && !vector_busy) list <= first_pass ? list >> 48 : list >> 24;
        if (reset) begin
            state <= IDLE;
            loaded <= 1'b0;
            {next, state_address} <= '0;
        end else begin
            case (state)
                IDLE:
                if (start) begin
                    status <= {24'd0, registers::STATUS_OK};
                    traced <= command == registers::COMMAND_STEP_TRACED;
                    index <= '0;
                    any_delay <= 1'b0;
                    state <= END;
                    if (command == registers::COMMAND_LOAD) begin
                        loaded <= 1'b0;
                        state <= LOAD;
                    end else if (command != registers::COMMAND_RESET && command != registers::COMMAND_STEP && command != registers::COMMAND_STEP_TRACED)
                        status <= {24'd0, registers::STATUS_UNKNOWN_COMMAND};
                    else if (!loaded) status <= {24'd0, registers::STATUS_NOT_LOADED};
                    else state <= command == registers::COMMAND_RESET ? CLEAR : FETCH;
                end
                LOAD:
                if (load_done) begin
                    status <= load_status;
                    loaded <= load_status == 32'd0;
                    state <= load_status == 32'd0 ? CLEAR : END;
                end
                CLEAR: begin
                    state_address <= state_address + GROUP;
                    if (all_clear) state <= END;
                end
                FETCH: state <= at_end ? ANSWER : DECODE;
                DECODE: begin
                    next <= next + 1'b1;
                    state <= BEGIN_OP;
                end
                BEGIN_OP: begin
                    source <= '0;
                    first_pass <= 1'b1;
                    case (op.kind)
                        instruction_set::KIND_INPUT: state <= INPUT;
                        instruction_set::KIND_LINEAR, instruction_set::KIND_CONV2D: state <= SYNAPSE;
                        instruction_set::KIND_SUM: state <= LIST_ASK;
                        default: state <= JOB;
                    endcase
                end
                INPUT:
                if (input_done) begin
                    state <= NEXT;
                    if (input_bad) begin
                        status <= {input_bad_index, registers::STATUS_BAD_EVENT};
                        state <= DISCARD;
                    end
                end
                DISCARD: if (feed_idle) state <= ANSWER;
                SYNAPSE: if (!synapse_start && !synapse_busy) state <= NEXT;
                LIST_ASK: if (list_ready) state <= LIST_TAKE;
                LIST_TAKE: if (beat_valid) state <= JOB;
                JOB: if (!vector_busy) state <= JOB_WAIT;
                JOB_WAIT:
                if (!vector_busy) begin
                    first_pass <= 1'b0;
                    source <= source_next;
                    state <= NEXT;
                    if (is_delay_line) any_delay <= 1'b1;
                    if (op.kind == instruction_set::KIND_SUM && !last_pass)
                        state <= source_next[LOG-1:0] == '0 ? LIST_ASK : JOB;
                end
                NEXT: begin
                    index <= next;
                    state <= !at_end ? DECODE : any_delay ? DELAYS : ANSWER;
                    if (at_end) next <= '0;
                end
                DELAYS: state <= DELAYS_READ;
                DELAYS_READ: begin
                    index <= next;
                    state <= at_end ? ANSWER : DELAYS_DECODE;
                end
                DELAYS_DECODE: begin
                    next <= next + 1'b1;
                    state <= DELAYS_LOOK;
                end
                DELAYS_LOOK: state <= DELAYS_CHOOSE;
                DELAYS_CHOOSE: state <= is_delay_line ? DELAYS_JOB : DELAYS_READ;
                DELAYS_JOB: if (!vector_busy) state <= DELAYS_WAIT;
                DELAYS_WAIT: if (!vector_busy) state <= DELAYS_READ;
                ANSWER: begin
                    if (memory_error && !refused) status <= {24'd0, registers::STATUS_MEMORY_ERROR};
                    state <= ANSWER_WAIT;
                end
                ANSWER_WAIT: if (result_done) state <= END;
                default: begin
                    state <= IDLE;
                    done <= 1'b1;
                    {next, state_address} <= '0;
                end
            endcase
        end
    end
endmodule
