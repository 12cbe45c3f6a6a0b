// The constants of the jobs of the vector unit: requests the beats of one job while it shows the items of the one before: a word
// and a byte per port. A Lif takes three words per item, one after the other: factors, bias, threshold. Immediates need no
// request.
module constant_stream #(
    parameter int BEAT_BITS = 128,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 16384
) (
    input logic clock,
    input logic reset,
    input logic start,  // only while ready
    input engine::feed_t start_feed,  // with start: what a job will take
    output logic ready,  // the beats of the feed before are all asked for
    input logic discard,  // nobody will take the items that are on their way
    output logic idle,  // none are
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    input logic beat_valid,
    input logic [BEAT_BITS-1:0] beat,
    output logic beat_pop,
    // The next of each, while valid; the taker knows which of them its job has.
    output logic words_valid,
    input logic words_take,
    output logic [PORTS*32-1:0] words,
    output logic bytes_valid,
    input logic bytes_take,
    output logic [PORTS*5-1:0] bytes
);
    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int LOG = $clog2(BEAT_WORDS);
    localparam int PORT_LOG = $clog2(PORTS);
    localparam int N = $clog2(SIGNAL_WORDS) + 1;  // bits of a neuron
    localparam int WORD_SLICES = BEAT_WORDS / PORTS;
    localparam int BYTE_SLICES = 4 * WORD_SLICES;
    localparam logic [N-1:0] GROUP = N'(PORTS);
    localparam logic [N-1:0] BEAT = N'(BEAT_WORDS);
    if (BYTE_SLICES < 4) begin : g_too_many_ports
        $error("PORTS must not exceed LANES / 16");
    end

    // `next_feed` is asked for; the items of `feed` go to the queues, while `active`.
    engine::feed_t next_feed, feed;
    logic asking, pending, active, advance, words_pop, bytes_pop, unused;
    logic [2:0] quiet;  // for as long as an item takes through a queue
    assign ready = !asking && !pending;
    assign advance = pending && !active;
    assign idle = quiet == '1;
    assign words_pop = words_take || (discard && words_valid);
    assign bytes_pop = bytes_take || (discard && bytes_valid);
    always_ff @(posedge clock) begin
        if (start) next_feed <= start_feed;
        if (advance) feed <= next_feed;
        quiet <= reset || start ? '0 : {quiet[1:0], !(asking || pending || active || words_valid || bytes_valid)};
        if (reset) {pending, active} <= '0;
        else begin
            pending <= start || (pending && !advance);
            active <= advance || (active && (words_some || bytes_some));
        end
    end

    // In the order in which beats are requested.
    function automatic logic [3:0] next_channel(input logic [3:0] set);
        if (set[instruction_set::CHANNEL_BYTES]) next_channel = 4'b1 << instruction_set::CHANNEL_BYTES;
        else if (set[instruction_set::CHANNEL_WEIGHTS]) next_channel = 4'b1 << instruction_set::CHANNEL_WEIGHTS;
        else if (set[instruction_set::CHANNEL_CONSTANTS]) next_channel = 4'b1 << instruction_set::CHANNEL_CONSTANTS;
        else next_channel = set;
    endfunction

    // --- Requests: from beat to beat of words, in a Lif from item to item. ---
    logic [N-1:0] at, next, stop, step;
    logic [3:0] ask, asked, fresh;
    logic more, ask_moves, base_valid, base_moves;
    logic [31:0] base;
    logic [N-LOG-1:0] offset;
    assign step = next_feed.lif ? GROUP : BEAT;
    assign more = next < stop;
    assign asked = next_channel(ask);
    assign ask_moves = ask != '0 && (!base_valid || base_moves);
    assign base_moves = !request || request_ready;
    assign fresh = {{3{1'b1}}, next[LOG+1:LOG] == '0};
    always_ff @(posedge clock) begin
        if (!base_valid || base_moves) begin
            case (1'b1)
                asked[instruction_set::CHANNEL_BYTES]: base <= next_feed.add ? next_feed.more : next_feed.constants;
                asked[instruction_set::CHANNEL_CONSTANTS]: base <= next_feed.constants;
                asked[instruction_set::CHANNEL_MORE]: base <= next_feed.more;
                default: base <= next_feed.weights;
            endcase
            offset <= asked[instruction_set::CHANNEL_BYTES] ? {2'b00, at[N-1:LOG+2]} : at[N-1:LOG];
        end
        if (base_moves) request_beat <= base[LOG+:engine::BEAT_ADDRESS_BITS] + {{(engine::BEAT_ADDRESS_BITS - N + LOG) {1'b0}}, offset};
        if (start) begin
            at <= start_feed.first[N-1:0];
            next <= start_feed.lif ? GROUP : {start_feed.first[N-1:LOG] + 1'b1, {LOG{1'b0}}};
            stop <= start_feed.first[N-1:0] + (start_feed.serial ? start_feed.items[N-1:0] : start_feed.items[N-1:0] << PORT_LOG);
        end else if (asking && (ask == '0 || (ask_moves && ask == asked))) begin
            at <= next;
            next <= next + step;
        end
        if (reset) {asking, ask, base_valid, request} <= '0;
        else begin
            if (start) begin
                asking <= start_feed.fetched != '0;
                ask <= start_feed.fetched;
            end else if (asking && (ask == '0 || (ask_moves && ask == asked))) begin
                asking <= more;
                ask <= more ? next_feed.fetched & fresh : '0;
            end else if (ask_moves) ask <= ask & ~asked;
            if (!base_valid || base_moves) base_valid <= ask_moves;
            if (base_moves) request <= base_valid;
        end
    end

    // --- The next beat of the queue, and whose it is: four beats of words follow one of bytes. ---
    logic next_valid, for_bytes, next_taken, load_bytes, load_words;
    logic [1:0] part;
    logic [BEAT_BITS-1:0] next_beat;
    assign next_taken = (load_bytes && feed.fetched[instruction_set::CHANNEL_BYTES]) || (load_words && !word_immediate);
    if (WORD_SLICES == 1) begin : g_beat_is_item
        logic has_room;
        assign beat_pop = active && beat_valid && has_room;
        skid_buffer #(.WIDTH(BEAT_BITS)) beats (
            .clock, .reset, .in_valid(beat_pop), .ready(has_room), .in(beat), .valid(next_valid), .pop(next_taken), .out(next_beat)
        );
    end else begin : g_beat_has_items
        assign beat_pop = active && beat_valid && !next_valid;
        always_ff @(posedge clock) begin
            if (beat_pop) next_beat <= beat;
            next_valid <= !reset && (beat_pop || (next_valid && !next_taken));
        end
    end
    always_ff @(posedge clock) begin
        if (advance) begin
            for_bytes <= next_feed.fetched[instruction_set::CHANNEL_BYTES];
            part <= next_feed.first[LOG+1:LOG];
        end else if (next_taken) begin
            if (for_bytes) for_bytes <= !feed.fetched[instruction_set::CHANNEL_CONSTANTS];
            else begin
                for_bytes <= feed.fetched[instruction_set::CHANNEL_BYTES] && part == 2'd3;
                part <= part + 2'd1;
            end
        end
    end

    // --- Words. ---
    logic [3:0] word_channels, first_turn, turn, next_turn;
    logic [31:0] word_value;
    logic words_some, words_last, words_held, words_full, word_immediate, words_move, last_word, held_immediate, held_ends;
    logic [LOG-1:0] word_at;
    logic [N-1:0] words_left;  // items, not 0 while words_some
    logic [BEAT_BITS-1:0] held_words;
    logic [PORTS*32-1:0] word_slice;
    logic [31:0] word_picked;
    assign word_channels = feed.channels & 4'b1110;
    assign first_turn = next_channel(word_channels);
    always_comb begin
        next_turn = first_turn;
        if (turn[instruction_set::CHANNEL_WEIGHTS]) next_turn = next_channel(word_channels & ~turn);
        else if (turn[instruction_set::CHANNEL_CONSTANTS] && feed.lif && feed.channels[instruction_set::CHANNEL_MORE]) next_turn = 4'b1 << instruction_set::CHANNEL_MORE;
    end
    assign word_immediate = (turn & feed.fetched) == '0;
    assign word_value = turn[instruction_set::CHANNEL_CONSTANTS] ? feed.constants : turn[instruction_set::CHANNEL_MORE] ? feed.more : feed.weights;
    assign words_move = words_held && words_some && !words_full;
    assign last_word = feed.lif || held_immediate || (feed.serial ? word_at == '1 : word_at == LOG'(BEAT_WORDS - PORTS));
    assign load_words = words_some && !(words_last && words_move && held_ends) && (word_immediate || (next_valid && !for_bytes)) && (!words_held || (words_move && last_word));
    if (WORD_SLICES == 1) begin : g_whole
        assign word_slice = held_words;
    end else begin : g_slice
        selector #(.WIDTH(PORTS * 32), .COUNT(WORD_SLICES)) pick_words (
            .words(held_words), .index(held_immediate ? '0 : word_at[LOG-1:PORT_LOG]), .word(word_slice)
        );
    end
    // Port 0 of a serial job takes any word.
    selector #(.WIDTH(32), .COUNT(PORTS)) pick_word (.words(word_slice), .index(feed.serial ? word_at[PORT_LOG-1:0] : '0), .word(word_picked));
    always_ff @(posedge clock) begin
        if (load_words) begin
            held_immediate <= word_immediate;
            held_ends <= next_turn == first_turn;
            held_words <= next_beat;
            if (word_immediate) held_words[PORTS*32-1:0] <= {PORTS{word_value}};
        end
        if (advance) begin
            word_at <= next_feed.first[LOG-1:0];
            words_left <= next_feed.items[N-1:0];
            words_last <= next_feed.items[N-1:0] == N'(1);
        end else if (words_move && held_ends) begin
            word_at <= word_at + (feed.serial ? LOG'(1) : LOG'(PORTS));
            words_left <= words_left - N'(1);
            words_last <= words_left == N'(2);
        end
        if (reset || advance) begin
            words_held <= 1'b0;
            words_some <= !reset && next_feed.channels[3:1] != '0;
            turn <= next_channel(next_feed.channels & 4'b1110);
        end else begin
            if (words_last && words_move && held_ends) words_some <= 1'b0;
            words_held <= load_words || (words_held && !(words_move && last_word));
            if (load_words) turn <= next_turn;
        end
    end

    // --- Bytes. ---
    logic bytes_some, bytes_last, bytes_held, bytes_full, bytes_move, last_byte;
    logic [LOG+1:0] byte_at;
    logic [N-1:0] bytes_left;
    logic [BEAT_BITS/8*5-1:0] held_bytes;
    logic [PORTS*5-1:0] byte_slice;
    logic [4:0] byte_picked;
    assign bytes_move = bytes_held && bytes_some && !bytes_full;
    assign last_byte = feed.serial ? byte_at == '1 : byte_at == (LOG + 2)'(4 * BEAT_WORDS - PORTS);
    assign load_bytes = bytes_some && !(bytes_last && bytes_move) && (!feed.fetched[instruction_set::CHANNEL_BYTES] || (next_valid && for_bytes)) && (!bytes_held || (bytes_move && last_byte));
    selector #(.WIDTH(PORTS * 5), .COUNT(BYTE_SLICES)) pick_bytes (
        .words(held_bytes), .index(feed.fetched[instruction_set::CHANNEL_BYTES] ? byte_at[LOG+1:PORT_LOG] : '0), .word(byte_slice)
    );
    selector #(.WIDTH(5), .COUNT(PORTS)) pick_byte (.words(byte_slice), .index(feed.serial ? byte_at[PORT_LOG-1:0] : '0), .word(byte_picked));
    always_ff @(posedge clock) begin
        if (load_bytes)
            for (int i = 0; i < BEAT_BITS / 8; i++) held_bytes[i*5+:5] <= feed.fetched[instruction_set::CHANNEL_BYTES] || i >= PORTS ? next_beat[i*8+:5] : feed.add ? feed.more[4:0] : feed.constants[4:0];
        if (advance) begin
            byte_at <= next_feed.first[LOG+1:0];
            bytes_left <= next_feed.items[N-1:0];
            bytes_last <= next_feed.items[N-1:0] == N'(1);
        end else if (bytes_move) begin
            byte_at <= byte_at + (feed.serial ? (LOG + 2)'(1) : (LOG + 2)'(PORTS));
            bytes_left <= bytes_left - N'(1);
            bytes_last <= bytes_left == N'(2);
        end
        if (reset || advance) begin
            bytes_held <= 1'b0;
            bytes_some <= !reset && next_feed.channels[instruction_set::CHANNEL_BYTES];
        end else begin
            if (bytes_last && bytes_move) bytes_some <= 1'b0;
            bytes_held <= load_bytes || (bytes_held && !(bytes_move && last_byte));
        end
    end

    fifo #(.WIDTH(PORTS * 32), .DEPTH(8)) word_queue (
        .clock, .reset, .push(words_move), .in({word_slice[PORTS*32-1:32], word_picked}), .full(words_full), .pop(words_pop), .valid(words_valid), .out(words)
    );
    fifo #(.WIDTH(PORTS * 5), .DEPTH(8)) byte_queue (
        .clock, .reset, .push(bytes_move), .in({byte_slice[PORTS*5-1:5], byte_picked}), .full(bytes_full), .pop(bytes_pop), .valid(bytes_valid), .out(bytes)
    );
    assign unused = &{1'b0, feed, next_feed, start_feed, base, at};
endmodule
