// The constants of a job of the vector unit: requests the beats ahead and shows those of the current neurons. Up to four
// channels: bytes and three of words. Immediates are loaded once, without a request.
module constant_stream #(
    parameter int BEAT_BITS = 128,
    parameter int PORTS = 4
) (
    input logic clock,
    input logic reset,
    input logic start,  // with the job; only when the last job has taken everything
    input engine::job_t job,
    input engine::op_t op,
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    output logic valid,  // the constants of the current item are there
    input logic take,  // go on to the next item
    output logic [PORTS*5-1:0] bytes,
    output logic [PORTS*32-1:0] constants,
    output logic [PORTS*17-1:0] more,
    output logic [PORTS*26-1:0] weights  // two factors of 13 bits
);
    // The bytes are the shifts of a Linear or Conv2d, or the leak shifts of an Integrate.
    logic [31:0] bytes_place;
    logic [3:0] immediate;
    assign bytes_place = job.kind == engine::JOB_ADD ? op.more : op.constants;
    assign immediate = {
        op.flags[engine::FLAG_WEIGHTS], op.flags[engine::FLAG_MORE], op.flags[engine::FLAG_CONSTANTS],
        job.kind == engine::JOB_ADD ? op.flags[engine::FLAG_MORE] : op.flags[engine::FLAG_CONSTANTS]
    };

    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int LOG = $clog2(BEAT_WORDS);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam logic [23:0] GROUP = 24'(PORTS);

    // Channels whose beat changes at neuron n.
    function automatic logic [3:0] fresh(input logic [LOG+1:0] n);
        fresh = {{3{n[LOG-1:0] == '0}}, n == '0};
    endfunction

    function automatic logic [3:0] lowest(input logic [3:0] set);
        lowest = set & (~set + 4'd1);
    endfunction

    // Requests.
    logic [23:0] ask_left, ask_at, next_ask, increment;
    assign next_ask = ask_at + increment;
    logic [3:0] ask, ask_one, fetched;
    logic [31:0] ask_base;

    assign increment = job.serial ? 24'd1 : GROUP;
    assign fetched = job.channels & ~immediate;
    assign ask_one = lowest(ask);
    assign request = ask != 4'd0;
    always_comb begin
        case (1'b1)
            ask_one[engine::CHANNEL_BYTES]: ask_base = bytes_place;
            ask_one[engine::CHANNEL_CONSTANTS]: ask_base = op.constants;
            ask_one[engine::CHANNEL_MORE]: ask_base = op.more;
            default: ask_base = op.weights;
        endcase
    end
    assign request_beat = ask_base[LOG+:engine::BEAT_ADDRESS_BITS] +
        {{(engine::BEAT_ADDRESS_BITS - 24 + LOG) {1'b0}}, ask_one[engine::CHANNEL_BYTES] ? {2'b00, ask_at[23:LOG+2]} : ask_at[23:LOG]};

    // The current item.
    logic [23:0] at, next_at;
    logic [3:0] pending, now, one;
    logic load, unused;
    logic [BEAT_BITS-1:0] data;
    logic [31:0] value;
    logic [BEAT_BITS/8*5-1:0] held_bytes;
    logic [BEAT_BITS-1:0] held_constants;
    logic [BEAT_WORDS*17-1:0] held_more;
    logic [BEAT_WORDS*26-1:0] held_weights;

    assign next_at = at + increment;
    assign valid = pending == 4'd0;
    assign now = take ? fresh(next_at[LOG+1:0]) & fetched : pending;
    assign one = lowest(now);
    assign load = now != 4'd0 && ((one & immediate) != 4'd0 || beat_valid);
    assign beat_pop = load && (one & immediate) == 4'd0;
    always_comb begin
        case (1'b1)
            one[engine::CHANNEL_BYTES]: value = {4{bytes_place[7:0]}};
            one[engine::CHANNEL_CONSTANTS]: value = op.constants;
            one[engine::CHANNEL_MORE]: value = op.more;
            default: value = op.weights;
        endcase
    end
    assign data = (one & immediate) != 4'd0 ? {BEAT_WORDS{value}} : beat;
    assign unused = &{1'b0, ask_base, job, op};

    always_ff @(posedge clock) begin
        if (reset) begin
            ask <= 4'd0;
            ask_left <= '0;
            pending <= 4'd0;
        end else if (start) begin
            ask <= fetched;
            ask_at <= job.first;
            ask_left <= job.items;
            pending <= job.channels;
            at <= job.first;
        end else begin
            if (request && request_ready) begin
                ask <= ask & ~ask_one;
            end
            // On to the next item, one per cycle, also past those that need no beat.
            if ((request && request_ready && (ask & ~ask_one) == 4'd0) || (ask == 4'd0 && ask_left > 24'd1)) begin
                if (ask_left > 24'd1) begin
                    ask_left <= ask_left - 24'd1;
                    ask_at <= next_ask;
                    ask <= fresh(next_ask[LOG+1:0]) & fetched;
                end
            end
            pending <= load ? now & ~one : now;
            if (take) at <= next_at;
        end
        if (load && one[engine::CHANNEL_BYTES])
            for (int i = 0; i < BEAT_BITS / 8; i++) held_bytes[i*5+:5] <= data[i*8+:5];
        if (load && one[engine::CHANNEL_CONSTANTS]) held_constants <= data;
        if (load && one[engine::CHANNEL_MORE])
            for (int i = 0; i < BEAT_WORDS; i++) held_more[i*17+:17] <= data[i*32+:17];
        if (load && one[engine::CHANNEL_WEIGHTS])
            for (int i = 0; i < BEAT_WORDS; i++) held_weights[i*26+:26] <= {data[i*32+16+:13], data[i*32+:13]};
    end

    // The part of a beat that belongs to the ports; port 0 of a serial job takes any word.
    localparam int WORD_SLICES = BEAT_WORDS / PORTS;
    localparam int BYTE_SLICES = 4 * WORD_SLICES;
    logic [PORTS*32-1:0] constant_slice;
    logic [PORTS*5-1:0] byte_slice;
    logic [PORT_LOG-1:0] lane;
    assign lane = job.serial ? at[PORT_LOG-1:0] : '0;
    selector #(.WIDTH(PORTS * 5), .COUNT(BYTE_SLICES)) pick_bytes (.words(held_bytes), .index(at[LOG+1:PORT_LOG]), .word(byte_slice));
    if (WORD_SLICES == 1) begin : g_whole
        assign constant_slice = held_constants;
        assign more = held_more;
        assign weights = held_weights;
    end else begin : g_slice
        selector #(.WIDTH(PORTS * 32), .COUNT(WORD_SLICES)) pick_constants (.words(held_constants), .index(at[LOG-1:PORT_LOG]), .word(constant_slice));
        selector #(.WIDTH(PORTS * 17), .COUNT(WORD_SLICES)) pick_more (.words(held_more), .index(at[LOG-1:PORT_LOG]), .word(more));
        selector #(.WIDTH(PORTS * 26), .COUNT(WORD_SLICES)) pick_weights (.words(held_weights), .index(at[LOG-1:PORT_LOG]), .word(weights));
    end
    selector #(.WIDTH(32), .COUNT(PORTS)) pick_constant (.words(constant_slice), .index(lane), .word(constants[31:0]));
    selector #(.WIDTH(5), .COUNT(PORTS)) pick_byte (.words(byte_slice), .index(lane), .word(bytes[4:0]));
    assign constants[PORTS*32-1:32] = constant_slice[PORTS*32-1:32];
    assign bytes[PORTS*5-1:5] = byte_slice[PORTS*5-1:5];
    if (BYTE_SLICES < 4) begin : g_too_many_ports
        $error("PORTS must not exceed LANES / 16");
    end
endmodule
