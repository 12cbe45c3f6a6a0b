// The event queue and the fetch of weights: for each tile of LANES outputs, for each event, the beats of its row that hold
// the tile, as one burst. The first tile reads the queue while it fills. Tells the lanes what each burst is, in the same order.
module row_fetch #(
    parameter int QUEUE_WORDS = 2048
) (
    input logic clock,
    input logic reset,
    input logic start,  // a pass: an empty queue that fills
    input logic push,
    input logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry,  // first beat of the row, sign, digit
    input logic filled,  // the pass has no further events
    input logic [19:0] tiles,
    input logic [2:0] tile_beats,  // of one row in one tile: 1, 2 or 4
    input logic [21:0] row_beats,  // of one row
    output logic busy,
    output logic post,  // the last event of the first tile is on its way
    input logic post_ready,
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    output logic [1:0] request_length,  // beats - 1
    output logic info_push,
    input logic info_full,
    output logic [9:0] info  // the last tile, end of the tile, with beats, beats - 1, sign, digit
);
    localparam int BITS = $clog2(QUEUE_WORDS);
    logic [BITS:0] head, tail, unread;  // unread: events of this tile
    logic active, all_there, first_tile, last_tile, none, one, last_event, may, step, enable, leave, unused;
    logic [19:0] tiles_left;
    logic [engine::BEAT_ADDRESS_BITS+4:0] word, entry;
    // The stages behind the choice of an event: its word is read, stands in a register, is the request.
    logic valid1, valid2, valid3, final1, final2, last1, last2, with1, with2;
    logic [21:0] offset, beats_left;
    logic [1:0] length;

    ram #(.WIDTH(engine::BEAT_ADDRESS_BITS + 5), .DEPTH(QUEUE_WORDS)) queue (
        .clock, .write(push), .write_address(tail[BITS-1:0]), .write_data(event_entry), .read(enable), .read_address(head[BITS-1:0]), .read_data(word)
    );

    // The last event in the queue waits until it is known whether it is the last of the tile.
    assign none = unread == '0;
    assign one = unread == {{BITS{1'b0}}, 1'b1};
    assign last_event = all_there && (none || one);
    assign may = active && (all_there || !(none || one));
    assign post = may && enable && first_tile && last_event && post_ready;
    assign step = may && enable && (!first_tile || !last_event || post_ready);
    assign leave = (!info[7] || request_ready) && !info_full;
    assign enable = !valid3 || leave;
    assign request = valid3 && info[7] && !info_full;
    assign info_push = valid3 && leave;
    assign busy = active || valid1 || valid2 || valid3;
    assign length = beats_left > 22'd3 || beats_left[2:0] >= tile_beats ? tile_beats[1:0] - 2'd1 : beats_left[1:0] - 2'd1;
    assign request_length = info[6:5];
    assign unused = &{1'b0, head[BITS]};

    always_ff @(posedge clock) begin
        if (enable) begin
            {final1, last1, with1} <= {last_tile, last_event, !none};
            {final2, last2, with2} <= {final1, last1, with1};
            entry <= word;
            request_beat <= entry[5+:engine::BEAT_ADDRESS_BITS] + {{(engine::BEAT_ADDRESS_BITS - 22) {1'b0}}, offset};
            info <= {final2, last2, with2, length, with2 ? entry[4:0] : 5'd0};  // a tile without events: nothing was written to the queue
            if (valid2 && last2) begin
                offset <= offset + {19'd0, tile_beats};
                beats_left <= beats_left - {19'd0, tile_beats};
            end
        end
        if (start) begin
            offset <= '0;
            beats_left <= row_beats;
            tiles_left <= tiles;
            first_tile <= 1'b1;
            last_tile <= tiles == 20'd1;
            head <= '0;
            tail <= '0;
            unread <= '0;
        end else begin
            if (push) tail <= tail + 1'b1;
            if (step && last_event) begin
                tiles_left <= tiles_left - 20'd1;
                first_tile <= 1'b0;
                last_tile <= tiles_left == 20'd2;
                head <= '0;
                unread <= tail;
            end else begin
                if (step) head <= head + 1'b1;
                if (push != step) unread <= push ? unread + 1'b1 : unread - 1'b1;
            end
        end
        if (reset) {active, all_there, valid1, valid2, valid3} <= '0;
        else begin
            if (start) active <= 1'b1;
            else if (step && last_event && last_tile) active <= 1'b0;
            all_there <= filled && !start;
            if (enable) {valid1, valid2, valid3} <= {step, valid1, valid2};
        end
    end
endmodule
