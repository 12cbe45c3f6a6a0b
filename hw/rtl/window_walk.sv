// Passes over the window of one output position of a Conv2d, in one group of channels: channel, row, column. Names the
// source neurons inside the image, one tap per cycle, with the address of the kernel row of their tap.
module window_walk #(
    parameter int SIGNAL_BITS = 14
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [16*24-1:0] geometry,
    input logic [6*SIGNAL_BITS-1:0] products,
    input logic [SIGNAL_BITS-1:0] source,  // first channel of the group
    input engine::beat_address_t kernel,  // its block
    input engine::beat_address_t stride,  // of blocks
    input engine::beat_address_t tap_stride,
    input logic [24:0] top,  // the first row and column of the window; may be negative
    input logic [24:0] left,
    input logic [SIGNAL_BITS-1:0] top_words,  // top times the words of a row
    output logic busy,
    output logic [SIGNAL_BITS-1:0] end_source,  // after the pass: the first channel of the next group
    output engine::beat_address_t end_kernel,
    output logic valid,
    input logic take,
    output logic [SIGNAL_BITS-1:0] place,
    output engine::beat_address_t row
);
    localparam int S = SIGNAL_BITS;
    logic [23:0] kernel_rows, kernel_columns, row_gap, column_gap;
    logic [S:0] channels, rows, columns, channel;
    logic [S-1:0] channel_words, row_gap_words, row_words;
    logic [23:0] i, j;
    logic [24:0] y, x;
    engine::beat_address_t tap;
    logic walking, move, here, in_rows, in_columns, last_j, last_i, last_channel, one_i, one_j, turn, unused;

    assign channels = geometry[2*24+:S+1];
    assign rows = geometry[4*24+:S+1];
    assign kernel_rows = geometry[6*24+:24];
    assign row_gap = geometry[9*24+:24];
    assign columns = geometry[10*24+:S+1];
    assign kernel_columns = geometry[12*24+:24];
    assign column_gap = geometry[15*24+:24];
    assign channel_words = products[0*S+:S];
    assign row_gap_words = products[4*S+:S];
    assign unused = &{1'b0, geometry, products};

    assign valid = here && in_rows && in_columns;
    assign move = walking && (!valid || take);
    assign turn = last_j && last_i;
    assign busy = walking || here;

    always_ff @(posedge clock) begin
        one_i <= kernel_rows == 24'd1;
        one_j <= kernel_columns == 24'd1;
        if (move) begin
            in_rows <= y[24:S+1] == '0 && y[S:0] < rows;
            in_columns <= x[24:S+1] == '0 && x[S:0] < columns;
            place <= end_source + row_words + x[S-1:0];
            row <= tap;
        end
        if (start) begin
            end_source <= source;
            end_kernel <= kernel;
            channel <= channels;
            last_channel <= channels == 1;
        end else if (move && turn) begin
            end_source <= end_source + channel_words;
            end_kernel <= end_kernel + stride;
            channel <= channel - 1'b1;
            last_channel <= channel == 2;
        end
        if (start || (move && turn)) begin
            i <= kernel_rows;
            last_i <= one_i;
            y <= top;
            row_words <= top_words;
        end else if (move && last_j) begin
            i <= i - 24'd1;
            last_i <= i == 24'd2;
            y <= y + {1'b0, row_gap};
            row_words <= row_words + row_gap_words;
        end
        if (start || (move && last_j)) begin
            j <= kernel_columns;
            last_j <= one_j;
            x <= left;
        end else if (move) begin
            j <= j - 24'd1;
            last_j <= j == 24'd2;
            x <= x + {1'b0, column_gap};
        end
        if (start) tap <= kernel;
        else if (move) tap <= turn ? end_kernel + stride : tap + tap_stride;
        if (reset) {walking, here} <= '0;
        else begin
            if (start) walking <= 1'b1;
            else if (move && turn && last_channel) walking <= 1'b0;
            if (move) here <= 1'b1;
            else if (!valid || take) here <= 1'b0;
        end
    end
endmodule
