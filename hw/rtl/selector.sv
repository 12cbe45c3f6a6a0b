// One of COUNT words (a power of two): a tree of two-way choices.
module selector #(
    parameter int WIDTH = 24,
    parameter int COUNT = 4,
    localparam int BITS = COUNT > 1 ? $clog2(COUNT) : 1
) (
    input logic [COUNT*WIDTH-1:0] words,
    input logic [BITS-1:0] index,
    output logic [WIDTH-1:0] word
);
    for (genvar l = 0; l <= BITS; l++) begin : g_level
        localparam int LEFT = COUNT >> l;
        logic [(LEFT > 0 ? LEFT : 1)*WIDTH-1:0] kept;
        if (l == 0) begin : g_first
            assign kept = words;
        end else begin : g_half
            for (genvar w = 0; w < LEFT; w++) begin : g_pair
                assign kept[w*WIDTH+:WIDTH] = index[l-1] ? g_level[l-1].kept[(2*w+1)*WIDTH+:WIDTH] : g_level[l-1].kept[2*w*WIDTH+:WIDTH];
            end
        end
    end
    assign word = g_level[BITS].kept[WIDTH-1:0];
endmodule
