// The event queue and the fetch of weights: for each tile of LANES outputs, for each event, the beats of its row that hold
// the tile. The first tile reads the queue while it fills. Tells the lanes what each beat is, in the same order.
module row_fetch #(
    parameter int QUEUE_WORDS = 2048
) (
    input logic clock,
    input logic reset,
    input logic start,  // a pass: an empty queue that fills
    input logic push,
    input logic [engine::BEAT_ADDRESS_BITS+4:0] event_entry,
    input logic filled,  // the pass has no further events
    input logic [19:0] tiles,  // per event
    input logic [2:0] tile_beats,  // of one row in one tile: 1, 2 or 4
    input logic [21:0] row_beats,  // of one row
    output logic busy,
    output logic post,  // the last beat of a tile is on its way
    input logic post_ready,
    output logic request,
    input logic request_ready,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] request_beat,
    output logic info_push,
    input logic info_full,
    output logic [8:0] info
);
    localparam int BITS = $clog2(QUEUE_WORDS);
    logic [BITS:0] head, tail, next_head, after;
    logic entry_valid, last_event, may, leave, here, has_beat, last_part, step, empty;
    logic [engine::BEAT_ADDRESS_BITS+4:0] entry;
    logic [19:0] tiles_left;
    logic [21:0] offset, beats_left;
    logic [1:0] part;
    logic active;

    ram #(.WIDTH(engine::BEAT_ADDRESS_BITS + 5), .DEPTH(QUEUE_WORDS)) queue (
        .clock, .write(push), .write_address(tail[BITS-1:0]), .write_data(event_entry), .read(1'b1), .read_address(next_head[BITS-1:0]), .read_data(entry)
    );

    assign after = head + 1'b1;
    assign last_event = filled && after == tail;
    assign empty = filled && tail == '0;
    // The last event in the queue waits until it is known whether it is the last of the tile.
    assign may = active && (empty || (entry_valid && (filled || after != tail))) && (!here || leave);
    assign last_part = {1'b0, part} + 3'd1 == tile_beats || {20'd0, part} + 22'd1 == beats_left;
    assign post = may && (empty || (last_event && last_part)) && post_ready;
    assign step = may && (empty ? post_ready : !(last_event && last_part) || post_ready);
    assign leave = (!has_beat || request_ready) && !info_full;
    assign request = here && has_beat && !info_full;
    assign info_push = here && leave;
    assign busy = active || here;

    always_comb begin
        next_head = head;
        if (step && last_part && !empty) next_head = last_event ? '0 : after;
    end

    always_ff @(posedge clock) begin
        if (step) begin
            request_beat <= entry[5+:engine::BEAT_ADDRESS_BITS] + {{(engine::BEAT_ADDRESS_BITS - 22) {1'b0}}, offset} + {{(engine::BEAT_ADDRESS_BITS - 2) {1'b0}}, part};
            info <= {empty || (last_event && last_part), !empty, part, entry[4:0]};
            has_beat <= !empty;
            part <= last_part ? 2'd0 : part + 2'd1;
            if (post) begin
                tiles_left <= tiles_left - 20'd1;
                offset <= offset + {19'd0, tile_beats};
                beats_left <= beats_left - {19'd0, tile_beats};
            end
        end
        if (reset) begin
            {active, here, entry_valid} <= '0;
        end else if (start) begin
            active <= 1'b1;
            head <= '0;
            tail <= '0;
            entry_valid <= 1'b0;
            tiles_left <= tiles;
            offset <= '0;
            beats_left <= row_beats;
            part <= '0;
        end else begin
            head <= next_head;
            if (push) tail <= tail + 1'b1;
            entry_valid <= next_head != tail;
            if (step) here <= 1'b1;
            else if (leave) here <= 1'b0;
            if (post && tiles_left == 20'd1) active <= 1'b0;
        end
    end
endmodule
