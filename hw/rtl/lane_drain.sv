// Hands over a finished tile as a stream of groups of PORTS outputs, in order and ahead of the taker: one shadow group per
// cycle passes its gate, an OR tree joins all gates, a queue keeps what comes out. The registers of the gates need no logic:
// the gate is their synchronous reset.
module lane_drain #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic [3:0] weight_bits,  // 2, 4 or 8
    input logic load,  // the shadow takes a tile; only while free
    input logic [$clog2(LANES/PORTS)-1:0] last_group,  // with load: of the tile
    output logic free,
    input logic [LANES*VALUE_BITS-1:0] shadow,
    input logic [VALUE_BITS-1:0] excess,  // with load: what all lanes have too much
    output logic valid,
    output logic [PORTS*VALUE_BITS-1:0] data,
    input logic take  // only while valid
);
    localparam int WORD = PORTS * VALUE_BITS;
    localparam int GROUPS = LANES / PORTS;
    localparam int BITS = $clog2(GROUPS);
    localparam int LEVELS = (BITS + 1) / 2;
    localparam int STAGES = 3 + LEVELS / 2;  // registers: select, gate, every second level of the tree, difference
    localparam int DEPTH = 8;  // more than the cycles from a free place to its group

    // --- Which group passes: blocks of 16 lanes, whose order depends on the packing of the weights. ---
    localparam int BLOCK_BITS = $clog2(LANES / 16);
    localparam int SUB_BITS = BITS - BLOCK_BITS;
    logic [BITS-1:0] group, tile_last, stored;
    logic [BLOCK_BITS-1:0] block, stored_block;
    logic [GROUPS-1:0] select;
    logic [STAGES-1:0] moving, first;
    logic [$clog2(DEPTH):0] room;
    logic holds, go, done, unused;

    assign block = group[BITS-1-:BLOCK_BITS];
    if (BLOCK_BITS == 2) begin : g_one
        assign stored_block = block;
    end else begin : g_more
        assign stored_block = weight_bits[1] ? block : weight_bits[2] ? {block[BLOCK_BITS-2:1], block[BLOCK_BITS-1], block[0]} : {block[BLOCK_BITS-3:0], block[BLOCK_BITS-1-:2]};
    end
    if (SUB_BITS == 0) begin : g_block
        assign stored = stored_block;
    end else begin : g_part
        assign stored = {stored_block, group[SUB_BITS-1:0]};
    end
    assign unused = &{1'b0, weight_bits, full};
    assign free = !holds;
    assign go = (holds || load) && room != '0;
    assign done = go && group == (load ? last_group : tile_last);

    always_ff @(posedge clock) begin
        for (int p = 0; p < GROUPS; p++) select[p] <= go && stored == BITS'(p);
        moving <= {moving[STAGES-2:0], go};
        first <= {first[STAGES-2:0], group == '0};
        if (load) tile_last <= last_group;
        if (reset) begin
            {holds, moving} <= '0;
            group <= '0;
            room <= DEPTH[$clog2(DEPTH):0];
        end else begin
            if (done) holds <= 1'b0;
            else if (load) holds <= 1'b1;
            if (done) group <= '0;
            else if (go) group <= group + 1'b1;
            if (go != take) room <= go ? room - 1'b1 : room + 1'b1;
        end
    end

    // --- Gates and tree. ---
    for (genvar l = 0; l <= LEVELS; l++) begin : g_level
        localparam int COUNT = GROUPS >> (2 * l) > 0 ? GROUPS >> (2 * l) : 1;
        logic [COUNT*WORD-1:0] words;
        if (l == 0) begin : g_gate
            always_ff @(posedge clock) for (int p = 0; p < GROUPS; p++) words[p*WORD+:WORD] <= select[p] ? shadow[p*WORD+:WORD] : '0;
        end else begin : g_or
            localparam int FROM = (GROUPS >> (2 * l - 2)) / COUNT;
            logic [COUNT*WORD-1:0] joined;
            always_comb begin
                joined = '0;
                for (int i = 0; i < COUNT; i++) for (int j = 0; j < FROM; j++) joined[i*WORD+:WORD] |= g_level[l-1].words[(i*FROM+j)*WORD+:WORD];
            end
            if (l % 2 == 0) begin : g_register
                always_ff @(posedge clock) words <= joined;
            end else begin : g_wire
                assign words = joined;
            end
        end
    end

    // The excess of a tile stays until the first group of the next passes by.
    logic [VALUE_BITS-1:0] tile_excess, group_excess;
    logic [WORD-1:0] exact;
    always_ff @(posedge clock) begin
        if (load) tile_excess <= excess;
        if (moving[STAGES-3] && first[STAGES-3]) group_excess <= tile_excess;
        for (int p = 0; p < PORTS; p++) exact[p*VALUE_BITS+:VALUE_BITS] <= g_level[LEVELS].words[p*VALUE_BITS+:VALUE_BITS] - group_excess;
    end

    logic full;
    fifo #(.WIDTH(WORD), .DEPTH(DEPTH)) queue (.clock, .reset, .push(moving[STAGES-1]), .in(exact), .full, .pop(take), .valid, .out(data));
endmodule
