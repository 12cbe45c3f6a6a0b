// The elementwise work: PORTS neurons per cycle through a pipeline of read, operands, add, shift, add, write. Count, Lif and
// Delay hold the pipeline while their neurons take several cycles. A job comes with `start` while the unit is not `busy`.
module vector_unit #(
    parameter int BEAT_BITS = 128,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32
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
    output logic lanes_last,  // with take: the job needs no further group
    // Constants.
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
    input logic [PORTS*VALUE_BITS-1:0] signal_data,
    output logic [PORTS-1:0] signal_write,
    output logic [23:0] signal_write_address,
    output logic [PORTS*VALUE_BITS-1:0] signal_write_data,
    // State memory.
    output logic state_read,
    output logic [23:0] state_read_address,
    input logic [PORTS*VALUE_BITS-1:0] state_data,
    output logic [PORTS-1:0] state_write,
    output logic [23:0] state_write_address,
    output logic [PORTS*VALUE_BITS-1:0] state_write_data
);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam int V = VALUE_BITS;
    localparam logic [23:0] GROUP = 24'(PORTS);

    typedef enum logic [2:0] {IDLE, START, SLOT, SLOT_TAKE, RUN, DRAIN, MOVE} state_t;
    state_t state;
    engine::job_t job;
    logic [23:0] padded;
    assign padded = engine::padded_words(op.size);
    logic enable;  // the stages up to the operands move

    // --- Issue: which words are read. ---
    logic [23:0] left, a_at, b_at, d_at, state_at;
    logic [PORT_LOG-1:0] lane_at;  // of a serial job: the neuron within its group
    logic step, two_steps, issue, last_step, last_item;
    logic [17:0] slot, slots;  // Delay: the current slot and where it begins
    logic [23:0] slot_offset;
    logic [PORTS-1:0] asked;
    assign slots = op.stride[17:0];

    assign two_steps = job.use_b || job.kind == engine::JOB_LIF;
    assign last_step = step == two_steps;
    assign last_item = left == 24'd1;
    assign issue = state == RUN && left != 24'd0 && (!job.from_lanes || lanes_valid);
    assign reads_signals = state != IDLE && !(job.from_lanes && !job.use_b);
    assign signal_read = enable && issue && reads_signals;
    assign signal_read_address = step && job.use_b ? b_at : a_at;
    assign lanes_take = enable && issue && job.from_lanes && last_step && (!job.serial || lane_at == '1 || last_item);
    assign lanes_last = last_item;

    // --- Stage 1: the memories answer. ---
    logic v1, last1, step1;
    logic [23:0] d1, state1;
    logic [PORT_LOG-1:0] lane1, a_lane1, b_lane1;
    logic [PORTS*V-1:0] signal1, lanes1;
    // --- Stage 2: operands. ---
    logic v2, go, started;
    logic [23:0] d2, state2;
    logic [PORTS*V-1:0] a2, b2, s2, t2;

    logic constants_valid, constants_start;
    logic [PORTS*5-1:0] bytes;
    logic [PORTS*32-1:0] constants;
    logic [PORTS*17-1:0] more;
    logic [PORTS*26-1:0] weights;

    constant_stream #(.BEAT_BITS(BEAT_BITS), .PORTS(PORTS)) stream (
        .clock, .reset, .start(constants_start), .job, .op, .request, .request_ready, .request_beat, .beat_valid, .beat, .beat_pop,
        .valid(constants_valid), .take(go), .bytes, .constants, .more, .weights
    );
    assign constants_start = state == START;

    // Where single neurons are taken, port 0 gets the one that is meant.
    logic [V-1:0] signal_picked, lane_picked;
    selector #(.WIDTH(V), .COUNT(PORTS)) pick_signal (.words(signal_data), .index(step1 ? b_lane1 : a_lane1), .word(signal_picked));
    selector #(.WIDTH(V), .COUNT(PORTS)) pick_lane (.words(lanes1), .index(lane1), .word(lane_picked));
    assign signal1 = {signal_data[PORTS*V-1:V], signal_picked};

    // --- Units that take several cycles. ---
    logic iterative, iterative_start, iterative_done, count_done, lif_done, lif_wrote, delay_done;
    logic [PORTS*9-1:0] counts;
    logic [PORTS*24-1:0] new_currents, new_potentials, shown, currents, potentials;
    logic [PORTS*27-1:0] biases;
    logic [PORTS*COMPARE_BITS-1:0] steps;

    assign iterative = job.kind == engine::JOB_COUNT || job.kind == engine::JOB_LIF || job.kind == engine::JOB_DELAY;
    assign iterative_start = v2 && iterative && constants_valid && !started;
    assign iterative_done = started && (job.kind == engine::JOB_COUNT ? count_done : job.kind == engine::JOB_LIF ? lif_done && lif_wrote : delay_done);
    assign go = v2 && constants_valid && (!iterative || iterative_done);
    assign enable = !v2 || go;

    count_unit #(.PORTS(PORTS), .VALUE_BITS(V), .COMPARE_BITS(COMPARE_BITS)) counter (
        .clock, .reset, .start(iterative_start && job.kind == engine::JOB_COUNT), .levels(op.param), .two_sided(op.flags[engine::FLAG_SIGNED]), .values(a2), .steps,
        .done(count_done), .counts
    );
    lif_unit #(.PORTS(PORTS), .VALUE_BITS(V)) lif (
        .clock, .reset, .start(iterative_start && job.kind == engine::JOB_LIF), .fires(!op.flags[engine::FLAG_POTENTIAL]), .inputs(a2), .currents, .potentials, .biases,
        .thresholds(more), .factors(weights), .done(lif_done), .new_currents, .new_potentials, .shown
    );

    // Delay: all slots pass by, from the current one, which is the oldest; each port keeps the one of the age that it asks for.
    logic delay_running, delay_v1, delay_wraps;
    logic [17:0] delay_slot, age, age1;
    logic [23:0] delay_at;
    assign delay_wraps = delay_slot + 18'd1 == slots;
    assign delay_done = !delay_running && !delay_v1;

    assign state_read = (enable && issue) || delay_running || state == SLOT;
    assign state_read_address = state == SLOT ? op.state : delay_running ? delay_at : step ? state_at + padded : state_at;

    // --- Stages 3 to 5: add, shift, add, write. ---
    logic v3, v4, v5;
    logic [23:0] d3, d4, d5, state3, state4, state5;
    logic [PORTS*V-1:0] x3, b3, x4, b4, x5;
    logic [PORTS*5-1:0] shift3;

    for (genvar p = 0; p < PORTS; p++) begin : g_port
        logic signed [V-1:0] a, b, s, x, other;
        logic signed [V:0] opposite, leaked;
        logic [V-1:0] whole3;
        logic [3:0] leak;
        logic unused;
        assign unused = &{1'b0, leaked[V], t2[p*V+:V]};
        logic [17:0] steps_back;
        logic [31:0] word;
        assign a = a2[p*V+:V];
        assign b = b2[p*V+:V];
        assign s = s2[p*V+:V];
        assign word = constants[p*32+:32];
        assign steps[p*COMPARE_BITS+:COMPARE_BITS] = job.use_b ? {{(COMPARE_BITS - V) {b[V-1]}}, b} : word[COMPARE_BITS-1:0];
        assign currents[p*24+:24] = s2[p*V+:24];
        assign potentials[p*24+:24] = t2[p*V+:24];
        assign biases[p*27+:27] = word[26:0];
        // S - ceil(S / 2^k) = S + floor(-S / 2^k), the sum in the next stage
        assign leak = bytes[p*5+:4];
        assign opposite = -{s[V-1], s};
        assign leaked = opposite >>> leak;
        assign steps_back = word[17:0];
        assign asked[p] = delay_v1 && steps_back == age1;
        always_comb begin
            x = a;
            other = '0;
            case (job.kind)
                engine::JOB_ADD: begin
                    if (job.channels[engine::CHANNEL_CONSTANTS]) x = a + word[V-1:0];
                    if (job.use_b) other = b;
                end
                engine::JOB_COUNT: x = {{(V - 9) {counts[p*9+8]}}, counts[p*9+:9]};
                engine::JOB_GATE: if (b != {{(V - 1) {1'b0}}, 1'b1}) x = '0;
                engine::JOB_INTEGRATE: other = leaked[V-1:0];
                engine::JOB_LIF: x = {{(V - 24) {shown[p*24+23]}}, shown[p*24+:24]};
                default: ;
            endcase
        end
        always_ff @(posedge clock) begin
            x3[p*V+:V] <= x;
            b3[p*V+:V] <= other;
            shift3[p*5+:5] <= job.kind == engine::JOB_ADD && job.channels[engine::CHANNEL_BYTES] ? bytes[p*5+:5] : job.shift;
            x4[p*V+:V] <= x3[p*V+:V] << shift3[p*5+:5];
            whole3 <= job.kind == engine::JOB_INTEGRATE ? s : '0;
            b4[p*V+:V] <= b3[p*V+:V] + whole3;
            x5[p*V+:V] <= x4[p*V+:V] + b4[p*V+:V];
        end
        assign signal_write[p] = v5 && job.kind != engine::JOB_ADVANCE && (!job.serial || d5[PORT_LOG-1:0] == p);
        assign signal_write_data[p*V+:V] = job.serial ? x5[V-1:0] : x5[p*V+:V];
    end
    assign signal_write_address = d5;

    // State writes: a result of Integrate, a stored source of Delay, u and v of Lif, and the moved slot.
    logic lif_write_u, lif_write_v, moved;
    logic [17:0] next_slot;
    logic [23:0] next_offset;
    assign lif_write_u = started && job.kind == engine::JOB_LIF && lif_done && !lif_wrote;
    assign lif_write_v = go && job.kind == engine::JOB_LIF;
    assign moved = state == MOVE;
    assign next_slot = slot + 18'd1 == slots ? 18'd0 : slot + 18'd1;
    assign next_offset = slot + 18'd1 == slots ? 24'd0 : slot_offset + padded;
    assign state_write = {PORTS{lif_write_u || lif_write_v || moved || (v5 && (job.kind == engine::JOB_ADVANCE || job.kind == engine::JOB_INTEGRATE))}};
    assign state_write_address = moved ? op.state : lif_write_v ? state2 + padded : lif_write_u ? state2 : state5;
    for (genvar p = 0; p < PORTS; p++) begin : g_state
        logic [23:0] written;
        logic [V-1:0] kept;
        assign written = lif_write_v ? new_potentials[p*24+:24] : new_currents[p*24+:24];
        assign kept = {{(V - 24) {written[23]}}, written};
        if (p == 0) begin : g_slot
            assign state_write_data[p*V+:V] = moved ? {{(V - 18) {1'b0}}, next_slot} : lif_write_u || lif_write_v ? kept : x5[p*V+:V];
        end else if (p == 1) begin : g_offset
            assign state_write_data[p*V+:V] = moved ? {{(V - 24) {1'b0}}, next_offset} : lif_write_u || lif_write_v ? kept : x5[p*V+:V];
        end else begin : g_value
            assign state_write_data[p*V+:V] = lif_write_u || lif_write_v ? kept : x5[p*V+:V];
        end
    end

    assign busy = state != IDLE;
    assign serial = job.serial;

    always_ff @(posedge clock) begin
        if (enable) begin
            last1 <= last_step;
            step1 <= step;
            d1 <= d_at;
            state1 <= state_at;
            lane1 <= lane_at;
            a_lane1 <= job.serial ? a_at[PORT_LOG-1:0] : '0;
            b_lane1 <= job.serial ? b_at[PORT_LOG-1:0] : '0;
            lanes1 <= lanes_data;
            if (v1 && !step1) begin
                a2 <= job.from_lanes ? {lanes1[PORTS*V-1:V], lane_picked} : signal1;
                s2 <= state_data;
            end
            if (v1 && step1) begin
                b2 <= signal1;
                t2 <= state_data;
            end
            d2 <= d1;
            state2 <= state1;
            if (issue) begin
                step <= !last_step;
                if (last_step) begin
                    left <= left - 24'd1;
                    a_at <= a_at + (job.serial ? job.step : GROUP);
                    b_at <= b_at + (job.serial ? job.step : GROUP);
                    d_at <= d_at + (job.serial ? job.step : GROUP);
                    state_at <= state_at + GROUP;
                    if (job.serial) lane_at <= lane_at + 1'b1;
                end
            end
        end
        d3 <= d2;
        d4 <= d3;
        d5 <= d4;
        state3 <= state2;
        state4 <= state3;
        state5 <= state4;

        for (int p = 0; p < PORTS; p++) if (asked[p]) a2[p*V+:V] <= state_data[p*V+:V];
        age1 <= age;
        if (iterative_start && job.kind == engine::JOB_DELAY) begin
            age <= slots;
            delay_slot <= slot;
            delay_at <= state2 + slot_offset;
        end else if (delay_running) begin
            age <= age - 18'd1;
            delay_slot <= delay_wraps ? 18'd0 : delay_slot + 18'd1;
            delay_at <= delay_wraps ? state2 : delay_at + padded;
        end
        if (state == SLOT_TAKE) begin
            slot <= state_data[17:0];
            slot_offset <= state_data[V+:24];
        end

        if (reset) begin
            state <= IDLE;
            {v1, v2, v3, v4, v5, started, lif_wrote, delay_running, delay_v1} <= '0;
        end else begin
            if (enable) begin
                v1 <= issue;
                v2 <= v1 && last1;
            end
            v3 <= go;
            v4 <= v3;
            v5 <= v4;
            if (go) started <= 1'b0;
            else if (iterative_start) started <= 1'b1;
            lif_wrote <= started && lif_done && !go;
            delay_v1 <= delay_running;
            if (iterative_start && job.kind == engine::JOB_DELAY && slots != 18'd0) delay_running <= 1'b1;
            else if (age == 18'd1) delay_running <= 1'b0;
            case (state)
                IDLE:
                if (start) begin
                    state <= START;
                    job <= next_job;
                    left <= next_job.items;
                    a_at <= next_job.a;
                    b_at <= next_job.b;
                    d_at <= next_job.d;
                    state_at <= op.state;
                    lane_at <= '0;
                    step <= 1'b0;
                end
                START: state <= (job.kind == engine::JOB_DELAY && slots != 18'd0) || job.kind == engine::JOB_ADVANCE ? SLOT : RUN;
                SLOT: state <= SLOT_TAKE;
                SLOT_TAKE: begin
                    state <= RUN;
                    state_at <= op.state + 24'd64 + (job.kind == engine::JOB_ADVANCE ? state_data[V+:24] : 24'd0);
                end
                RUN: if (left == 24'd0) state <= DRAIN;
                DRAIN: if (!(v1 || v2 || v3 || v4 || v5)) state <= job.kind == engine::JOB_ADVANCE ? MOVE : IDLE;
                default: state <= IDLE;
            endcase
        end
    end
endmodule
