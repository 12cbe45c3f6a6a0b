// LOAD: reads the whole image once, word by word: checksum, header, descriptors and ports. Writes descriptors and ports to
// their memories and ends with the status. The full check of the descriptors is the host's (docs/image_format.md).
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
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
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
    localparam logic [31:0] ROW_WORDS = BEAT_WORDS;
    localparam logic [31:0] MOST_OPS = DESCRIPTORS;
    localparam logic [31:0] MOST_SIGNALS = SIGNAL_WORDS;
    localparam logic [31:0] MOST_STATES = STATE_WORDS;
    localparam logic [31:0] LONGEST = QUEUE_WORDS;

    typedef enum logic [1:0] {IDLE, READ, JUDGE} state_t;
    state_t state;
    logic [31:0] index, requested, last_beat, last_word, ops_start, ports_start, names_start, names_words, image_crc, crc;
    logic [31:0] next_crc, word, signal_words, trace_words, output_words, traced, outputs;
    logic [SLOT_BITS-1:0] slot;
    logic here, stop, bad_magic, bad_version, bad_length, bad_layout, bad_signals, bad_states, bad_bits, bad_ops, bad_rows, bad_port, bad_op;
    logic [OP_BITS:0] found_ops, found_ports, wrong_port;
    logic [31:0] wrong_op;
    logic in_op, in_port, names_bad, op_is_bad, too_long, port_is_bad, outside;
    logic [32:0] signal_end;
    logic [3:0] field;
    logic [1:0] port_field;
    logic [23:0] port_signal, port_size;

    assign last_word = image_words - 32'd1;
    assign last_beat = last_word >> SLOT_BITS;
    assign request = state == READ && !stop && requested <= last_beat;
    assign request_beat = requested[engine::BEAT_ADDRESS_BITS-1:0];
    assign here = state == READ && beat_valid;
    assign slot = index[SLOT_BITS-1:0];
    assign beat_pop = here && (&slot || index == last_word);
    assign names_bad = {1'b0, names_start} + {1'b0, names_words} > {1'b0, image_words};
    selector #(.WIDTH(32), .COUNT(BEAT_WORDS)) pick (.words(beat), .index(slot), .word);
    crc32 checksum (.crc, .word, .next(next_crc));

    // A signal at a wrong place: unaligned, or its whole blocks leave the memory. An op says the size before the address, a port
    // after it.
    assign signal_end = {1'b0, word} + (in_op ? {9'd0, engine::padded_words(op.size)} : {9'd0, port_signal});
    assign outside = signal_end > {1'b0, signal_words} || (in_op ? word[5:0] : port_signal[5:0]) != 6'd0;

    // The header is complete before any of its numbers is used.
    assign in_op = index > 32'd20 && !bad_ops && found_ops != ops && (field != 4'd0 || found_ops != '0 || index == ops_start);
    assign in_port = index > 32'd20 && !bad_ops && found_ports != ports && (port_field != 2'd0 || found_ports != '0 || index == ports_start);

    always_comb begin
        case (field)
            4'd0: op_is_bad = word < 32'd1 || word > 32'd9;
            4'd2: op_is_bad = word == 32'd0 || word > signal_words;
            4'd3: op_is_bad = outside;
            4'd4: op_is_bad = word > signal_words || word[5:0] != 6'd0;
            4'd11: op_is_bad = (op.kind == engine::KIND_LINEAR || op.kind == engine::KIND_CONV2D) && word != 32'd2 && word != 32'd4 && word != 32'd8;
            4'd12: op_is_bad = word > state_words || word[5:0] != 6'd0;
            4'd14, 4'd15: op_is_bad = word != 32'd0;
            default: op_is_bad = 1'b0;
        endcase
        too_long = field == 4'd6 && word > LONGEST && (op.kind == engine::KIND_LINEAR || op.kind == engine::KIND_CONV2D);
        port_is_bad = port_field == 2'd1 && (word == 32'd0 || outside);
    end

    always_ff @(posedge clock) begin
        done <= 1'b0;
        op_write <= 1'b0;
        port_write <= 1'b0;
        if (reset) begin
            state <= IDLE;
        end else begin
            case (state)
                IDLE:
                if (start) begin
                    state <= image_words < 32'd32 ? JUDGE : READ;
                    index <= 32'd0;
                    requested <= 32'd0;
                    crc <= '1;
                    field <= 4'd0;
                    port_field <= 2'd0;
                    {found_ops, found_ports, ops, ports, traced, outputs, wrong_op} <= '0;
                    {stop, bad_magic, bad_version, bad_layout, bad_signals, bad_states, bad_bits, bad_ops, bad_rows, bad_port, bad_op} <= '0;
                    bad_length <= image_words < 32'd32;
                end
                READ: begin
                    if (request && request_ready) requested <= requested + 32'd1;
                    if (here) begin
                        index <= index + 32'd1;
                        if (index != 32'd3) crc <= next_crc;
                        case (index)
                            32'd0: bad_magic <= word != engine::IMAGE_MAGIC;
                            32'd1: bad_version <= word != engine::IMAGE_VERSION;
                            32'd2: bad_length <= word != image_words;
                            32'd3: image_crc <= word;
                            32'd4: begin
                                ops <= word[OP_BITS:0];
                                bad_ops <= word > MOST_OPS;
                            end
                            32'd5: ops_start <= word;
                            32'd6: begin
                                ports <= word[OP_BITS:0];
                                bad_ops <= bad_ops || word > MOST_OPS;
                            end
                            32'd7: ports_start <= word;
                            32'd8: names_start <= word;
                            32'd9: names_words <= word;
                            32'd10: begin
                                signal_words <= word;
                                bad_signals <= word > MOST_SIGNALS;
                            end
                            32'd11: begin
                                state_words <= word;
                                bad_states <= word > MOST_STATES;
                            end
                            32'd15: levels <= word;
                            32'd16: trace_words <= word;
                            32'd17: output_words <= word;
                            32'd18: begin
                                bad_rows <= word < ROW_WORDS;
                                row_alignment <= word[5:0];
                                if (word != 32'd4 && word != 32'd8 && word != 32'd16 && word != 32'd32) bad_layout <= 1'b1;
                            end
                            32'd19: bad_bits <= word > VALUE_BITS;
                            32'd20: bad_bits <= bad_bits || word > COMPARE_BITS;
                            default: if (index > 32'd20 && index < 32'd32 && word != 32'd0) bad_layout <= 1'b1;
                        endcase
                        // A wrong length must not be followed; what is under way is taken.
                        if (bad_magic || bad_version || bad_length) stop <= 1'b1;
                        if (index == last_word) state <= JUDGE;
                    end
                    if (stop && slot == '0 && index >> SLOT_BITS == requested) state <= JUDGE;
                    if (here && in_op) begin
                        field <= field + 4'd1;
                        if ((op_is_bad || too_long) && !bad_op) begin
                            bad_op <= 1'b1;
                            wrong_op <= {{(23 - OP_BITS) {1'b0}}, found_ops, too_long ? registers::STATUS_QUEUE_TOO_SMALL : registers::STATUS_BAD_DESCRIPTOR};
                        end
                        if (field == 4'd15) begin
                            found_ops <= found_ops + 1'b1;
                            op_write <= 1'b1;
                            op_index <= found_ops[OP_BITS-1:0];
                        end
                    end
                    if (here && in_port) begin
                        port_field <= port_field + 2'd1;
                        if (port_is_bad && !bad_port) begin
                            bad_port <= 1'b1;
                            wrong_port <= found_ports;
                        end
                        if (port_field == 2'd2) begin
                            traced <= traced + {8'd0, port_size};
                            if (word[0]) outputs <= outputs + {8'd0, port_size};
                            port <= {word[0], port_size, port_signal};
                            port_write <= 1'b1;
                            port_index <= found_ports[OP_BITS-1:0];
                        end
                        if (port_field == 2'd3) found_ports <= found_ports + 1'b1;
                    end
                end
                default: begin
                    state <= IDLE;
                    done <= 1'b1;
                    if (bad_magic) status <= {24'd0, registers::STATUS_BAD_MAGIC};
                    else if (bad_version) status <= {24'd0, registers::STATUS_BAD_VERSION};
                    else if (bad_length) status <= {24'd0, registers::STATUS_BAD_LENGTH};
                    else if (error) status <= {24'd0, registers::STATUS_MEMORY_ERROR};
                    else if (~crc != image_crc) status <= {24'd0, registers::STATUS_BAD_CHECKSUM};
                    else if (bad_layout) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
                    else if (bad_signals) status <= {24'd0, registers::STATUS_SIGNALS_TOO_SMALL};
                    else if (bad_states) status <= {24'd0, registers::STATUS_STATES_TOO_SMALL};
                    else if (bad_bits) status <= {24'd0, registers::STATUS_BITS_TOO_WIDE};
                    else if (bad_ops) status <= {24'd0, registers::STATUS_TOO_MANY_OPS};
                    else if (bad_rows) status <= {24'd0, registers::STATUS_ROWS_UNALIGNED};
                    else if (names_bad || found_ports != ports) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
                    else if (bad_port) status <= {{(23 - OP_BITS) {1'b0}}, wrong_port, registers::STATUS_BAD_LAYOUT};
                    else if (traced != trace_words || outputs != output_words || found_ops != ops) status <= {24'd0, registers::STATUS_BAD_LAYOUT};
                    else status <= wrong_op;
                end
            endcase
        end
        if (here && in_op) begin
            case (field)
                4'd0: op.kind <= word[3:0];
                4'd1: op.flags <= word[5:0];
                4'd2: op.size <= word[23:0];
                4'd3: op.destination <= word[23:0];
                4'd4: op.source <= word[23:0];
                4'd5: op.second <= word;
                4'd6: op.source_size <= word[23:0];
                4'd7: op.constants <= word;
                4'd8: op.more <= word;
                4'd9: op.weights <= word;
                4'd10: op.stride <= word;
                4'd11: op.param <= word[7:0];
                4'd12: op.state <= word[23:0];
                default: ;
            endcase
        end
        if (here && in_port) begin
            case (port_field)
                2'd0: port_signal <= word[23:0];
                2'd1: port_size <= word[23:0];
                default: ;
            endcase
        end
    end
endmodule
