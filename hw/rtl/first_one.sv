// The lowest bit that is set, among COUNT (a power of two, up to 16): groups of four, then the bit in the group.
module first_one #(
    parameter int COUNT = 4,
    localparam int BITS = $clog2(COUNT)
) (
    input logic [COUNT-1:0] set,
    output logic [COUNT-1:0] first,  // only that bit
    output logic [BITS-1:0] index
);
    logic [15:0] wide, low;
    logic [3:0] some, group;
    logic unused;
    assign wide = 16'(set);

    function automatic logic [3:0] lowest(input logic [3:0] bits);
        lowest = {bits[3] && bits[2:0] == 3'd0, bits[2] && bits[1:0] == 2'd0, bits[1] && !bits[0], bits[0]};
    endfunction

    for (genvar g = 0; g < 4; g++) begin : g_group
        assign some[g] = wide[4*g+:4] != 4'd0;
        assign low[4*g+:4] = group[g] ? lowest(wide[4*g+:4]) : 4'd0;
    end
    assign group = lowest(some);
    assign first = low[COUNT-1:0];
    assign unused = &{1'b0, low};
    always_comb begin
        index = '0;
        for (int i = 0; i < COUNT; i++) if (first[i]) index |= BITS'(i);
    end
endmodule
