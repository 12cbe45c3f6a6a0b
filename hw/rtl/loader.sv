// LOAD: reads the whole image once, word by word: checksum, header, descriptors and ports. Writes descriptors and ports to
// their memories and ends with the status. The full check of the descriptors is the host's (docs/image_format.md). Speed is
// of no concern here: a word takes seven cycles, eleven in header, descriptors and ports, all numbers share one adder and one comparator.
module loader #(
    parameter int BEAT_BITS = 128,
    parameter int SIGNAL_WORDS = 16384,
    parameter int STATE_WORDS = 16384,
    parameter int QUEUE_WORDS = 2048,
    parameter int DESCRIPTORS = 256,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    localparam int OP_BITS = $clog2(DESCRIPTORS)
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [31:0] image_words,
    output logic done,  // one cycle, with the status
    output logic [31:0] status,
    input logic error,  // of the memory
    output logic request,
    input logic request_ready,
    output engine::beat_address_t request_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    output logic op_write,
    output logic [OP_BITS-1:0] op_index,
    output engine::op_t op,
    output logic port_write,
    output logic [OP_BITS-1:0] port_index,
    output logic [48:0] port,  // OUTPUT, size, signal address
    output logic [OP_BITS:0] ops,
    output logic [OP_BITS:0] ports,
    output logic [31:0] levels,  // of an input event
    output logic [31:0] state_words,
    output logic [5:0] row_alignment  // words
);
    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int SLOT_BITS = $clog2(BEAT_WORDS);

    typedef enum logic [2:0] {IDLE, ASK, WAIT, WORD, JUDGE} state_t;
    state_t state;
    logic [3:0] step;
    logic [31:0] index, word, crc, next_crc, traced, outputs;
    logic [SLOT_BITS-1:0] slot;
    logic [7:0] picked, data;
    logic in_header, begins_op, in_op, begins_port, in_port, ends, has_weights, act_op, act_port;
    logic [OP_BITS:0] found_ops, found_ports, wrong_port;
    logic [3:0] field;
    logic [12:0] store;  // the field of the descriptor that the word is
    logic [1:0] port_field;
    logic [31:0] begin_at, wrong_op;  // the address of a port, before its size; the start of the names, before their length
    logic [23:0] port_size;
    logic bad_magic, bad_version, bad_length, bad_layout, bad_signals, bad_states, bad_bits, bad_ops, bad_rows, bad_names, bad_port, bad_op, bad_crc, bad_sums;

    assign slot = index[SLOT_BITS-1:0];
    assign request = state == ASK;
    assign request_beat = index[SLOT_BITS+:engine::BEAT_ADDRESS_BITS];
    assign in_header = index[31:5] == '0;
    assign has_weights = op.kind == instruction_set::KIND_LINEAR || op.kind == instruction_set::KIND_CONV2D;
    selector #(.WIDTH(8), .COUNT(BEAT_BITS / 8)) pick (.words(beat), .index({slot, step[1:0]}), .word(picked));
    crc32 checksum (.crc, .data, .next(next_crc));

    // --- Adder and comparator: what is chosen in one step is judged three steps later. ---
    logic [31:0] left, chosen_left, add, chosen_add, fixed, chosen_fixed, limit, remembered;
    logic [32:0] sum;
    logic over, equal, is_fixed, whole_blocks, chosen_whole, chosen_is_fixed;
    logic [4:0] place;  // of a limit in the header
    ram #(.WIDTH(32), .DEPTH(32)) header (
        .clock, .write(state == WORD && step == 4'd5 && in_header), .write_address(index[4:0]), .write_data(word), .read(1'b1), .read_address(place),
        .read_data(remembered)
    );

    always_comb begin
        chosen_left = word;
        chosen_add = 32'd0;
        chosen_is_fixed = 1'b0;
        chosen_fixed = 32'd0;
        chosen_whole = 1'b0;
        place = instruction_set::HEADER_SIGNAL_WORDS;
        case (step)
            4'd0: begin  // whether descriptors begin here
                chosen_left = index;
                place = instruction_set::HEADER_OPS_START;
            end
            4'd1: begin  // whether ports begin here
                chosen_left = index;
                place = instruction_set::HEADER_PORTS_START;
            end
            4'd2: begin  // whether the image ends here
                chosen_left = index;
                chosen_add = 32'd1;
                chosen_is_fixed = 1'b1;
                chosen_fixed = image_words;
            end
            4'd5: begin  // a word of the header or of a descriptor
                chosen_is_fixed = in_header;
                case (index[4:0])
                    instruction_set::HEADER_MAGIC: chosen_fixed = instruction_set::MAGIC;
                    instruction_set::HEADER_VERSION: chosen_fixed = instruction_set::VERSION;
                    instruction_set::HEADER_IMAGE_WORDS, instruction_set::HEADER_NAMES_WORDS: chosen_fixed = image_words;
                    instruction_set::HEADER_OPS, instruction_set::HEADER_PORTS: chosen_fixed = DESCRIPTORS;
                    instruction_set::HEADER_SIGNAL_WORDS: chosen_fixed = SIGNAL_WORDS;
                    instruction_set::HEADER_STATE_WORDS: chosen_fixed = STATE_WORDS;
                    instruction_set::HEADER_POTENTIAL_BITS: chosen_fixed = VALUE_BITS;
                    instruction_set::HEADER_COMPARATOR_BITS: chosen_fixed = COMPARE_BITS;
                    default: ;
                endcase
                if (in_header) begin
                    if (index[4:0] == instruction_set::HEADER_NAMES_WORDS) chosen_add = begin_at;
                end else begin
                    chosen_is_fixed = field == instruction_set::FIELD_KIND || field == instruction_set::FIELD_SOURCE_SIZE || field >= instruction_set::FIELD_NAME;
                    chosen_fixed = field == instruction_set::FIELD_KIND ? instruction_set::LAST_KIND : field == instruction_set::FIELD_SOURCE_SIZE ? QUEUE_WORDS : 32'd0;
                    chosen_whole = field == instruction_set::FIELD_DESTINATION;
                    if (field == instruction_set::FIELD_DESTINATION) chosen_add = 32'(op.size);
                    if (field == instruction_set::FIELD_STATE) place = instruction_set::HEADER_STATE_WORDS;
                end
            end
            4'd6: begin  // the size of a port
                chosen_add = begin_at;
                chosen_whole = 1'b1;
            end
            4'd7: begin
                chosen_left = traced;
                chosen_add = 32'(port_size);
                place = instruction_set::HEADER_TRACE_WORDS;
            end
            4'd8: begin
                chosen_left = outputs;
                chosen_add = 32'(port_size);
                place = instruction_set::HEADER_OUTPUT_WORDS;
            end
            default: place = instruction_set::HEADER_CRC;
        endcase
        if (state == JUDGE) chosen_add = 32'd0;
    end

    always_ff @(posedge clock) begin
        left <= chosen_left;
        add <= chosen_add;
        fixed <= chosen_fixed;
        is_fixed <= chosen_is_fixed;
        whole_blocks <= chosen_whole;  // signals lie in whole blocks
        sum <= {1'b0, left} + {1'b0, add};
        limit <= is_fixed ? fixed : {remembered[31:6], whole_blocks ? 6'd0 : remembered[5:0]};
        over <= sum > {1'b0, limit};
        equal <= sum == {1'b0, limit};
    end

    // --- Words. ---
    logic [31:0] found;
    logic bad_field, aligned, beat_ends;
    assign aligned = word[5:0] == 6'd0;
    assign act_op = state == WORD && step == 4'd8 && in_op;
    assign act_port = state == WORD && step == 4'd9 && in_port;
    assign beat_ends = state == WORD && (step == 4'd10 || (step == 4'd6 && !in_header && !in_op && !in_port)) && (ends || (&slot) || bad_length || bad_magic || bad_version);
    assign found = {{(23 - OP_BITS) {1'b0}}, found_ops, field == instruction_set::FIELD_SOURCE_SIZE ? registers::STATUS_QUEUE_TOO_SMALL : registers::STATUS_BAD_DESCRIPTOR};
    always_comb begin
        case (field)
            instruction_set::FIELD_KIND, instruction_set::FIELD_SIZE: bad_field = over || word == 32'd0;
            instruction_set::FIELD_DESTINATION, instruction_set::FIELD_SOURCE, instruction_set::FIELD_STATE: bad_field = over || !aligned;
            instruction_set::FIELD_SOURCE_SIZE: bad_field = over && has_weights;
            instruction_set::FIELD_PARAMETER: bad_field = has_weights && word != 32'd2 && word != 32'd4 && word != 32'd8;
            default: bad_field = field >= instruction_set::FIELD_RESERVED && over;
        endcase
    end

    always_ff @(posedge clock) begin
        done <= 1'b0;
        op_write <= act_op && field == 4'd15;
        port_write <= act_port && port_field == 2'd2;
        store <= act_op ? 13'd1 << field : '0;
        data <= picked;
        if (state == IDLE) begin
            index <= 32'd0;
            crc <= '1;
            field <= 4'd0;
            port_field <= 2'd0;
            {found_ops, found_ports, traced, outputs, wrong_op} <= '0;
            {bad_magic, bad_version, bad_layout, bad_signals, bad_states, bad_bits, bad_ops, bad_rows, bad_names, bad_port, bad_op} <= '0;
            bad_length <= image_words[31:5] == '0;
        end
        if (state == WORD) begin
            if (step >= 4'd1 && step <= 4'd4) begin
                word <= {data, word[31:8]};
                if (index != 32'(instruction_set::HEADER_CRC)) crc <= next_crc;
            end
            if (step == 4'd3) begins_op <= equal;
            if (step == 4'd4) begin
                begins_port <= equal;
                in_op <= !in_header && found_ops != ops && (field != 4'd0 || found_ops != '0 || begins_op);
            end
            if (step == 4'd5) begin
                ends <= equal;
                in_port <= !in_header && found_ports != ports && (port_field != 2'd0 || found_ports != '0 || begins_port);
            end
            if (step == 4'd5 && in_header) begin
                case (index[4:0])
                    instruction_set::HEADER_OPS: ops <= word[OP_BITS:0];
                    instruction_set::HEADER_PORTS: ports <= word[OP_BITS:0];
                    instruction_set::HEADER_NAMES_START: begin_at <= word;
                    instruction_set::HEADER_STATE_WORDS: state_words <= word;
                    instruction_set::HEADER_INPUT_LEVELS: levels <= word;
                    instruction_set::HEADER_ROW_WORDS_ALIGNED: row_alignment <= word[5:0];
                    default: ;
                endcase
            end
            if (step == 4'd8 && in_header) begin
                case (index[4:0])
                    instruction_set::HEADER_MAGIC: bad_magic <= !equal;
                    instruction_set::HEADER_VERSION: bad_version <= !equal;
                    instruction_set::HEADER_IMAGE_WORDS: bad_length <= !equal;
                    instruction_set::HEADER_OPS, instruction_set::HEADER_PORTS: if (over) bad_ops <= 1'b1;
                    instruction_set::HEADER_NAMES_WORDS: bad_names <= over;
                    instruction_set::HEADER_SIGNAL_WORDS: bad_signals <= over;
                    instruction_set::HEADER_STATE_WORDS: bad_states <= over;
                    instruction_set::HEADER_ROW_WORDS_ALIGNED: begin
                        bad_rows <= word[5:0] < 6'(BEAT_WORDS);
                        if (word[31:6] != '0 || (word[5:0] != 6'd4 && word[5:0] != 6'd8 && word[5:0] != 6'd16 && word[5:0] != 6'd32)) bad_layout <= 1'b1;
                    end
                    instruction_set::HEADER_POTENTIAL_BITS, instruction_set::HEADER_COMPARATOR_BITS: if (over) bad_bits <= 1'b1;
                    default: if (index[4:0] >= instruction_set::HEADER_RESERVED && over) bad_layout <= 1'b1;
                endcase
            end
        end
        if (act_op) begin
            field <= field + 4'd1;
            if (bad_field && !bad_op) begin
                bad_op <= 1'b1;
                wrong_op <= found;
            end
            if (field == 4'd15) begin
                found_ops <= found_ops + 1'b1;
                op_index <= found_ops[OP_BITS-1:0];
            end
        end
        if (store[instruction_set::FIELD_KIND]) op.kind <= word[instruction_set::KIND_BITS-1:0];
        if (store[instruction_set::FIELD_FLAGS]) op.flags <= word[instruction_set::FLAG_BITS-1:0];
        if (store[instruction_set::FIELD_SIZE]) op.size <= word[23:0];
        if (store[instruction_set::FIELD_DESTINATION]) op.destination <= word[23:0];
        if (store[instruction_set::FIELD_SOURCE]) op.source <= word[23:0];
        if (store[instruction_set::FIELD_SECOND]) op.second <= word;
        if (store[instruction_set::FIELD_SOURCE_SIZE]) op.source_size <= word[23:0];
        if (store[instruction_set::FIELD_CONSTANTS]) op.constants <= word;
        if (store[instruction_set::FIELD_MORE]) op.more <= word;
        if (store[instruction_set::FIELD_WEIGHTS]) op.weights <= word;
        if (store[instruction_set::FIELD_STRIDE]) op.stride <= word;
        if (store[instruction_set::FIELD_PARAMETER]) op.param <= word[7:0];
        if (store[instruction_set::FIELD_STATE]) op.state <= word[23:0];
        if (act_port) begin
            port_field <= port_field + 2'd1;
            if (((port_field == 2'd0 && !aligned) || (port_field == 2'd1 && (over || word == 32'd0))) && !bad_port) begin
                bad_port <= 1'b1;
                wrong_port <= found_ports;
            end
            case (port_field)
                2'd0: begin_at <= word;
                2'd1: port_size <= word[23:0];
                2'd2: begin
                    port <= {word[0], port_size, begin_at[23:0]};
                    port_index <= found_ports[OP_BITS-1:0];
                    traced <= sum[31:0];
                end
                default: found_ports <= found_ports + 1'b1;
            endcase
        end
        if (state == WORD && step == 4'd10 && in_port && port_field == 2'd3 && word[0]) outputs <= sum[31:0];

        if (state == JUDGE && step == 4'd10) bad_sums <= !equal;
        if (state == JUDGE && step == 4'd11 && !equal) bad_sums <= 1'b1;
        if (state == JUDGE && step == 4'd12) bad_crc <= ~crc != limit;
        if (state == JUDGE && step == 4'd13) begin
            if (bad_magic) status <= {24'd0, registers::STATUS_BAD_MAGIC};
            else if (bad_version) status <= {24'd0, registers::STATUS_BAD_VERSION};
            else if (bad_length) status <= {24'd0, registers::STATUS_BAD_LENGTH};
            else if (error) status <= {24'd0, registers::STATUS_MEMORY_ERROR};
            else if (bad_crc) status <= {24'd0, registers::STATUS_BAD_CHECKSUM};
            else if (bad_layout) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
            else if (bad_signals) status <= {24'd0, registers::STATUS_SIGNALS_TOO_SMALL};
            else if (bad_states) status <= {24'd0, registers::STATUS_STATES_TOO_SMALL};
            else if (bad_bits) status <= {24'd0, registers::STATUS_BITS_TOO_WIDE};
            else if (bad_ops) status <= {24'd0, registers::STATUS_TOO_MANY_OPS};
            else if (bad_rows) status <= {24'd0, registers::STATUS_ROWS_UNALIGNED};
            else if (bad_names || found_ports != ports) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
            else if (bad_port) status <= {{(23 - OP_BITS) {1'b0}}, wrong_port, registers::STATUS_BAD_LAYOUT};
            else if (bad_sums || found_ops != ops) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
            else status <= wrong_op;
        end

        beat_pop <= beat_ends && !reset;
        if (reset) state <= IDLE;
        else
            case (state)
                IDLE: begin
                    step <= 4'd0;
                    if (start) state <= bad_length ? JUDGE : ASK;
                end
                ASK: if (request_ready) state <= WAIT;
                WAIT: if (beat_valid) state <= WORD;
                WORD: begin
                    step <= step + 4'd1;
                    if (step == 4'd10 || (step == 4'd6 && !in_header && !in_op && !in_port)) begin
                        step <= 4'd0;
                        index <= index + 32'd1;
                        if (beat_ends) state <= ASK;
                        if (bad_magic || bad_version || bad_length || ends) begin
                            state <= JUDGE;
                            step <= 4'd7;
                        end
                    end
                end
                default: begin
                    step <= step + 4'd1;
                    if (step == 4'd14) begin
                        state <= IDLE;
                        done <= 1'b1;
                    end
                end
            endcase
    end
endmodule
