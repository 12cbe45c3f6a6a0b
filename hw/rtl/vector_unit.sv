// The elementwise work: PORTS neurons per cycle through a pipeline that never stops: read, operands, add, shift in two
// stages, add, write. An item is issued when its accumulators and constants are there. Count, Lif and Delay take several
// cycles per item and hand their results to the last adder. A job comes with `start` while the unit is not `busy`.
module vector_unit #(
    parameter int BEAT_BITS = 128,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32,
    parameter int SIGNAL_WORDS = 16384,
    parameter int STATE_WORDS = 16384
) (
    input logic clock,
    input logic reset,
    input logic start,
    input engine::job_t next_job,
    input engine::op_t op,  // whose job it is
    output logic busy,
    // Lanes: the groups of finished accumulators, in order.
    input logic lanes_valid,
    input logic [PORTS*VALUE_BITS-1:0] lanes_data,
    output logic lanes_take,
    // Constants. Those of a job are started before it or with it, if it takes any.
    input logic feed_start,
    input engine::feed_t feed,
    output logic feed_ready,
    input logic feed_discard,
    output logic feed_idle,
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // Signal memory; addresses are words.
    output logic serial,  // one value per write
    output logic reads_signals,  // the read port is in use by this job
    output logic signal_read,
    output logic [23:0] signal_read_address,
    input logic [PORTS*VALUE_BITS-1:0] signal_data,  // two cycles after the read
    output logic [PORTS-1:0] signal_write,
    output logic [23:0] signal_write_address,
    output logic [PORTS*VALUE_BITS-1:0] signal_write_data,
    output logic [PORTS-1:0] signal_used,  // which of them are not 0, unless serial
    // State memory.
    output logic state_read,
    output logic [23:0] state_read_address,
    input logic [PORTS*VALUE_BITS-1:0] state_data,  // two cycles after the read
    output logic [PORTS-1:0] state_write,
    output logic [23:0] state_write_address,
    output logic [PORTS*VALUE_BITS-1:0] state_write_data
);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam int V = VALUE_BITS;
    localparam int A = $clog2(SIGNAL_WORDS);  // bits of a signal address
    localparam int S = $clog2(STATE_WORDS);  // bits of a state address
    localparam int N = A + 1;  // bits of a number of items
    localparam int K = S - 5;  // bits of a number of slots: each has 64 words at least
    localparam logic [A-1:0] GROUP = A'(PORTS);
    localparam logic [S-1:0] STATE_GROUP = S'(PORTS);

    typedef enum logic [2:0] {IDLE, START, SLOT, SLOT_WAIT, RUN, DRAIN, MOVE} state_t;
    state_t state;
    engine::job_t job;
    logic is_add, is_count, is_gate, is_integrate, is_delay, is_lif, is_advance, has_slots, takes_words, takes_bytes, unused;
    logic [S-1:0] padded, slots_at;  // words of a slot or state, where the slots begin
    logic [K-1:0] slots;
    assign slots = op.stride[K-1:0];
    assign unused = &{1'b0, job, op};
    always_ff @(posedge clock) begin
        padded <= S'(engine::padded_words(op.size));
        slots_at <= op.state[S-1:0] + S'(instruction_set::ALIGNMENT);
        has_slots <= slots != '0;
        is_add <= job.kind == instruction_set::JOB_ADD;
        is_count <= job.kind == instruction_set::JOB_COUNT;
        is_gate <= job.kind == instruction_set::JOB_GATE;
        is_integrate <= job.kind == instruction_set::JOB_INTEGRATE;
        is_delay <= job.kind == instruction_set::JOB_DELAY && slots != '0;
        is_lif <= job.kind == instruction_set::JOB_LIF;
        is_advance <= job.kind == instruction_set::JOB_ADVANCE;
        takes_words <= job.channels[3:1] != '0;
        takes_bytes <= job.channels[instruction_set::CHANNEL_BYTES];
    end

    // --- Issue: an item takes one step, or two with b. ---
    logic [N-1:0] left;
    logic [A-1:0] a_at, b_at, d_at, stride;
    logic [S-1:0] state_at, v_at, result_at;  // v_at: v of the item before; result_at: where the state of the next result goes
    logic [PORT_LOG-1:0] lane_at;  // of a serial job: the neuron within its group
    logic step, last_step, issue, first_issue, last_item, waits, constants_valid, words_valid, words_take, bytes_valid, bytes_take;
    assign last_step = step == job.use_b;
    assign issue = state == RUN && (step || (!waits && (!job.from_lanes || lanes_valid) && constants_valid));
    assign constants_valid = is_lif || ((!takes_words || words_valid) && (!takes_bytes || bytes_valid));
    assign first_issue = issue && !step;
    assign lanes_take = first_issue && job.from_lanes && (!job.serial || lane_at == '1 || last_item);
    assign stride = job.serial ? job.step[A-1:0] : GROUP;

    // --- Stages 1 to 3: the memories read and answer, the answers stand in their registers. ---
    logic v1, v2, v3, last1, last2, last3, step1, step2, step3;
    logic [PORT_LOG-1:0] signal_index1, signal_index2, lane_index1, lane_index2;
    logic [PORTS*V-1:0] lanes1, lanes2, lanes3;
    logic [PORTS-1:0] takes_signal3;
    logic takes_state3;
    logic [PORTS*32-1:0] words, words1, words2, words3;
    logic [PORTS*5-1:0] bytes, bytes1, bytes2, bytes3;
    logic lif_words_take, lif_read_v, v_read1, v_read2, v_read3;
    constant_stream #(.BEAT_BITS(BEAT_BITS), .PORTS(PORTS), .SIGNAL_WORDS(SIGNAL_WORDS)) stream (
        .clock, .reset, .start(feed_start), .start_feed(feed), .ready(feed_ready), .discard(feed_discard), .idle(feed_idle), .request, .request_ready, .request_beat, .beat_valid, .beat, .beat_pop,
        .words_valid, .words_take, .words, .bytes_valid, .bytes_take, .bytes
    );
    assign words_take = is_lif ? lif_words_take : first_issue && takes_words;
    assign bytes_take = first_issue && takes_bytes;

    // --- Delay: all slots pass by, from the current one, which is the oldest; each port keeps the one of the age that it asks for. ---
    logic delay_ready, delay_running, delay_last;
    logic [3:0] delay_ended;
    logic [S-1:0] slot_offset, delay_at, item_at, item_start;
    logic [K-1:0] slot, next_slot, delay_slot, age, age1, age2;
    logic [S-1:0] next_offset;
    logic [PORTS-1:0] asked, found;
    assign delay_last = age == K'(1);
    assign next_slot = slot + K'(1) == slots ? '0 : slot + K'(1);
    assign next_offset = slot + K'(1) == slots ? '0 : slot_offset + padded;
    always_ff @(posedge clock) begin
        delay_ready <= first_issue && is_delay;
        item_at <= state_at;
        if (delay_ready) begin
            age <= slots;
            delay_slot <= slot;
            delay_at <= item_at + slot_offset;
        end else if (delay_running) begin
            age <= age - K'(1);
            delay_slot <= delay_slot + K'(1) == slots ? '0 : delay_slot + K'(1);
            delay_at <= delay_slot + K'(1) == slots ? item_start : delay_at + padded;
        end
        if (delay_ready) item_start <= item_at;
        age1 <= delay_running ? age : '0;
        age2 <= age1;
        delay_ended <= {delay_ended[2:0], delay_running && delay_last};
        if (reset) {delay_running, delay_ended} <= '0;
        else if (delay_ready) delay_running <= 1'b1;
        else if (delay_last) delay_running <= 1'b0;
    end

    // --- Stage 4: operands. They stay until the item goes on. ---
    logic held, in_unit, count_start, lif_start, lif_busy, count_ready, count_taken, count_done, lif_ready, lif_taken, write_u, write_v, go, fires, slot_known;
    logic v4, v5, state5, last5, spike5, after_v;  // of a Lif: a new u or v, v, whether it fires
    logic signal6, signal7, signal8, state6, state7, state8, last6, last7, last8;  // what is written
    logic [2:0] slot_read;
    logic [PORTS*V-1:0] word3, a4, b4, s4, x8;
    logic [PORTS*32-1:0] words4;
    logic [PORTS*5-1:0] bytes4;
    logic [PORTS*9-1:0] counts;
    logic [PORTS*24-1:0] lif_result;
    logic [PORTS-1:0] lif_spikes;
    logic [PORTS*COMPARE_BITS-1:0] steps;
    for (genvar p = 0; p < PORTS; p++) begin : g_word
        assign word3[p*V+:V] = lanes3[p*V+:V] | (takes_signal3[p] ? signal_data[p*V+:V] : '0) | (takes_state3 ? state_data[p*V+:V] : '0);
    end
    // Where single neurons are taken, port 0 gets the one that is meant; those of the other ports are 0.
    logic [V-1:0] others3;
    always_comb begin
        others3 = '0;
        for (int p = 1; p < PORTS; p++) others3 |= word3[p*V+:V];
        if (!job.serial) others3 = '0;
    end
    assign in_unit = delay_ready || delay_running || delay_ended != '0 || !count_ready || count_done || lif_busy || write_v || after_v || spike5;
    assign fires = !op.flags[instruction_set::FLAG_POTENTIAL];
    assign go = v4 && !(is_count || is_lif || is_delay);
    assign count_start = held && is_count && count_ready;
    assign lif_start = held && is_lif && lif_ready;
    count_unit #(.PORTS(PORTS), .VALUE_BITS(V), .COMPARE_BITS(COMPARE_BITS)) counter (
        .clock, .reset, .clear(!is_count), .start(count_start), .levels(op.param), .two_sided(op.flags[instruction_set::FLAG_SIGNED_COUNT]), .values(a4), .steps,
        .ready(count_ready), .taken(count_taken), .done(count_done), .counts
    );
    lif_unit #(.PORTS(PORTS), .VALUE_BITS(V)) lif (
        .clock, .reset, .start(lif_start), .fires, .inputs(a4), .old(s4), .words_valid(words_valid && is_lif), .words,
        .words_take(lif_words_take), .busy(lif_busy), .ready(lif_ready), .read_v(lif_read_v), .taken(lif_taken), .write_u, .write_v, .result(lif_result), .spikes(lif_spikes)
    );

    // --- Stages 5 to 8: (a + constant) << shift and b, or S less its decay, or the result of a unit; their sum. ---
    for (genvar p = 0; p < PORTS; p++) begin : g_port
        logic [V-1:0] own, a, b, b5, shown, x5, x6, x7, moved, s6, b7, drop_none;
        logic signed [V-1:0] s5, r5, r6;
        logic [V-1:0] constant4;
        logic [4:0] shift5;
        logic [2:0] shift6;
        logic [3:0] leak5;
        logic [1:0] leak6;
        logic is_one4, lost5, lost6, exact, drop;
        assign a = a4[p*V+:V];
        assign b = b4[p*V+:V];
        if (p == 0) begin : g_any
            assign own = word3[p*V+:V] | others3;
        end else begin : g_own
            assign own = word3[p*V+:V];
        end
        assign is_one4 = b == V'(1);
        assign steps[p*COMPARE_BITS+:COMPARE_BITS] = {{(COMPARE_BITS - V) {b[V-1]}}, b} | words4[p*32+:COMPARE_BITS];
        // S - ceil(S / 2^k) = S + ~(S >> k) + (1 if no bit was lost), the shift in two parts.
        assign lost5 = (leak5[0] && s5[0]) || (leak5[1] && s5[1:0] != '0) || (leak5[1] && leak5[0] && s5[2]);
        assign r5 = s5 >>> leak5[1:0];
        assign exact = !(lost6 || (leak6[0] && r6[3:0] != '0) || (leak6[1] && r6[7:0] != '0));
        assign {moved, drop} = {s6, 1'b1} + {~(leak6[1] ? r6 >>> 8 : leak6[0] ? r6 >>> 4 : r6), exact};
        assign drop_none = x6 << {shift6[1:0], 2'b00};
        always_ff @(posedge clock) begin
            // Stage 3: what is not meant is 0.
            lanes3[p*V+:V] <= step2 || !job.from_lanes || (job.serial && lane_index2 != p) ? '0 : lanes2[p*V+:V];
            takes_signal3[p] <= (step2 || !job.from_lanes) && (!is_delay || v2) && (!job.serial || signal_index2 == p);
            // Stage 4.
            if (v3 && !step3) begin
                a4[p*V+:V] <= own;
                words4[p*32+:32] <= words3[p*32+:32];
                bytes4[p*5+:5] <= bytes3[p*5+:5];
                constant4 <= is_add ? words3[p*32+:V] : '0;
            end
            if ((v3 && !step3) || v_read3) s4[p*V+:V] <= state_data[p*V+:V];
            if (state == START || delay_ended[3]) b4[p*V+:V] <= '0;
            else if ((v3 && step3) || asked[p]) b4[p*V+:V] <= own;
            asked[p] <= age2 != '0 && words4[p*32+:K] == age2;
            if (state == START || delay_ended[3]) found[p] <= 1'b0;
            else if (asked[p]) found[p] <= 1'b1;
            // Stage 5.
            x5 <= is_count || is_lif || (is_gate && !is_one4) || found[p] ? '0 : a + constant4;
            b5 <= is_add || is_delay ? b : '0;
            s5 <= is_integrate ? s4[p*V+:V] : '0;
            shift5 <= is_add && job.channels[instruction_set::CHANNEL_BYTES] ? bytes4[p*5+:5] : job.shift;
            leak5 <= bytes4[p*5+:4];
            shown <= !is_lif || after_v ? '0 : V'($signed(lif_result[p*24+:24]));
            if (after_v && lif_spikes[p]) shown[0] <= 1'b1;
            // Stage 6.
            x6 <= x5 << shift5[1:0];
            shift6 <= shift5[4:2];
            s6 <= s5 | b5 | shown | V'($signed(counts[p*9+:9]));
            r6 <= is_integrate ? r5 : '1;
            lost6 <= !is_integrate || lost5;
            leak6 <= leak5[3:2];
            // Stage 7.
            x7[15:0] <= shift6[2] ? '0 : drop_none[15:0];
            x7[V-1:16] <= shift6[2] ? drop_none[V-17:0] : drop_none[V-1:16];
            b7 <= moved;
            // Stage 8.
            x8[p*V+:V] <= x7 + b7;
            // Stage 9: write.
            signal_write[p] <= signal8 && (!job.serial || d_at[PORT_LOG-1:0] == p);
            signal_write_data[p*V+:V] <= job.serial ? x8[V-1:0] : x8[p*V+:V];
            signal_used[p] <= x8[p*V+:V] != '0;
        end
        logic unused_port;
        assign unused_port = &{1'b0, drop, words4[p*32+:32], bytes4[p*5+:5]};
    end

    // State writes: a result of Integrate, a stored source of Delay, u and v of Lif, and the moved slot.
    for (genvar p = 0; p < PORTS; p++) begin : g_state
        always_ff @(posedge clock) begin
            state_write_data[p*V+:V] <= x8[p*V+:V];
            if (p == 0 && state == MOVE) state_write_data[p*V+:V] <= V'(next_slot);
            if (p == 1 && state == MOVE) state_write_data[p*V+:V] <= V'(next_offset);
        end
    end
    always_ff @(posedge clock) begin
        state_write <= {PORTS{state8 || state == MOVE}};
        state_write_at <= state == MOVE ? op.state[S-1:0] : last8 && is_lif ? result_at + padded : result_at;
        signal_write_at <= d_at;
    end
    assign serial = job.serial;
    logic [A-1:0] signal_read_at, signal_write_at;
    logic [S-1:0] state_read_at, state_write_at;
    assign signal_read_address = 24'(signal_read_at);
    assign signal_write_address = 24'(signal_write_at);
    assign state_read_address = 24'(state_read_at);
    assign state_write_address = 24'(state_write_at);

    always_ff @(posedge clock) begin
        // Reads.
        signal_read_at <= step ? b_at : a_at;
        state_read_at <= state == SLOT ? op.state[S-1:0] : delay_running ? delay_at : lif_read_v ? v_at : state_at;
        signal_index1 <= step ? b_at[PORT_LOG-1:0] : a_at[PORT_LOG-1:0];
        lane_index1 <= lane_at;
        {last1, last2, last3} <= {last_step, last1, last2};
        {step1, step2, step3} <= {step, step1, step2};
        {signal_index2, lane_index2} <= {signal_index1, lane_index1};
        {lanes1, lanes2} <= {lanes_data, lanes1};
        {words1, words2, words3} <= {takes_words ? words : '0, words1, words2};
        {bytes1, bytes2, bytes3} <= {bytes, bytes1, bytes2};
        takes_state3 <= is_delay && !v2;
        // Addresses.
        if (state == IDLE) begin
            a_at <= next_job.a[A-1:0];
            b_at <= next_job.b[A-1:0];
        end else if (issue && last_step) begin
            a_at <= a_at + stride;
            b_at <= b_at + stride;
        end
        if (state == IDLE) d_at <= next_job.d[A-1:0];
        else if (signal8) d_at <= d_at + stride;
        if (state == IDLE) begin
            left <= next_job.items[N-1:0];
            lane_at <= '0;
        end else if (first_issue) begin
            left <= left - N'(1);
            lane_at <= lane_at + 1'b1;
        end
        if (state == START) last_item <= left == N'(1);
        else if (first_issue) last_item <= left == N'(2);
        if (state == START) begin
            state_at <= op.state[S-1:0];
            result_at <= op.state[S-1:0];
        end else if (slot_known) begin
            state_at <= slots_at;
            result_at <= slots_at + slot_offset;
        end else begin
            if (first_issue) state_at <= state_at + STATE_GROUP;
            if (state8 && last8) result_at <= result_at + STATE_GROUP;
        end
        if (first_issue) v_at <= state_at + padded;
        slot_read <= {slot_read[1:0], state == SLOT};
        slot_known <= slot_read[2];
        if (slot_read[2]) begin
            slot <= state_data[K-1:0];
            slot_offset <= state_data[V+:S];
        end

        if (reset) begin
            state <= IDLE;
            {busy, reads_signals, signal_read, state_read, step, waits, held} <= '0;
            {v1, v2, v3, v4, v5, v_read1, v_read2, v_read3, state5, last5, after_v, spike5} <= '0;
            {signal6, signal7, signal8, state6, state7, state8, last6, last7, last8} <= '0;
        end else begin
            signal_read <= issue && reads_signals;
            state_read <= first_issue || delay_running || lif_read_v || state == SLOT;
            {v1, v2, v3, v4} <= {issue, v1, v2, v3 && last3};
            {v_read1, v_read2, v_read3} <= {lif_read_v, v_read1, v_read2};
            v5 <= go || delay_ended[3];
            {state5, last5, after_v, spike5} <= {write_u || write_v, write_v, write_v && fires, after_v};
            {signal6, signal7, signal8} <= {(v5 && !is_advance) || count_done || spike5 || (last5 && !fires), signal6, signal7};
            {state6, state7, state8} <= {(v5 && (is_advance || is_integrate)) || state5, state6, state7};
            {last6, last7, last8} <= {v5 || last5, last6, last7};
            if (issue) step <= !last_step;
            if (first_issue) waits <= job.kind == instruction_set::JOB_COUNT || job.kind == instruction_set::JOB_LIF || is_delay;
            else if (count_taken || lif_taken || (delay_running && delay_last)) waits <= 1'b0;
            if (v3 && last3) held <= is_count || is_lif;
            else if (count_start || lif_start) held <= 1'b0;
            case (state)
                IDLE:
                if (start) begin
                    state <= START;
                    job <= next_job;
                    busy <= 1'b1;
                    reads_signals <= !next_job.from_lanes || next_job.use_b;
                    waits <= 1'b0;
                end
                START: state <= (job.kind == instruction_set::JOB_DELAY && has_slots) || job.kind == instruction_set::JOB_ADVANCE ? SLOT : RUN;
                SLOT: state <= SLOT_WAIT;
                SLOT_WAIT: if (slot_known) state <= RUN;
                RUN: if (issue && last_step && (job.use_b ? left == '0 : last_item)) state <= DRAIN;
                DRAIN:
                if (!(waits || held || v1 || v2 || v3 || v4 || v5 || signal6 || signal7 || signal8 || state5 || state6 || state7 || state8 || in_unit)) begin
                    state <= is_advance ? MOVE : IDLE;
                    busy <= is_advance;
                    reads_signals <= 1'b0;
                end
                default: begin
                    state <= IDLE;
                    busy <= 1'b0;
                end
            endcase
        end
    end
endmodule
