// Passes over the window of one output position of a Conv2d, in one group of channels: channel, row, column. Names the
// source neurons inside the image that are not 0, with the address of the kernel row of their tap.
module window_walk #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [16*24-1:0] geometry,
    input logic [6*24-1:0] products,
    input logic [23:0] source,  // first channel of the group
    input logic [engine::BEAT_ADDRESS_BITS-1:0] kernel,  // its block
    input logic [engine::BEAT_ADDRESS_BITS-1:0] stride,  // of blocks
    input logic [engine::BEAT_ADDRESS_BITS-1:0] tap_stride,
    input logic [24:0] top,  // the first row and column of the window; may be negative
    input logic [24:0] left,
    input logic [23:0] top_words,  // top times the words of a row
    output logic busy,
    output logic [23:0] end_source,  // after the pass: the first channel of the next group
    output logic [engine::BEAT_ADDRESS_BITS-1:0] end_kernel,
    input logic port_taken,
    output logic read,
    output logic [23:0] read_address,
    input logic [PORTS*VALUE_BITS-1:0] read_data,
    output logic valid,
    output logic [VALUE_BITS-1:0] value,
    output logic [engine::BEAT_ADDRESS_BITS-1:0] row,
    input logic ready
);
    localparam int LOG = $clog2(PORTS);
    logic [23:0] channels, rows, columns, kernel_rows, kernel_columns, row_gap, column_gap, channel_words, row_gap_words;
    logic [23:0] channel, i, j, row_words;
    logic [24:0] y, x;
    logic [engine::BEAT_ADDRESS_BITS-1:0] tap, row1;
    logic walking, in_image, move, here, last_j, last_i, last_channel;
    logic [LOG-1:0] lane;
    logic [VALUE_BITS-1:0] picked;
    logic [23:0] place;

    assign channels = geometry[2*24+:24];
    assign rows = geometry[4*24+:24];
    assign kernel_rows = geometry[6*24+:24];
    assign row_gap = geometry[9*24+:24];
    assign columns = geometry[10*24+:24];
    assign kernel_columns = geometry[12*24+:24];
    assign column_gap = geometry[15*24+:24];
    assign channel_words = products[0*24+:24];
    assign row_gap_words = products[4*24+:24];

    assign last_j = j == 24'd1;
    assign last_i = i == 24'd1;
    assign last_channel = channel == 24'd1;
    assign in_image = !y[24] && y[23:0] < rows && !x[24] && x[23:0] < columns;
    assign place = end_source + row_words + x[23:0];
    assign read = walking && in_image && !port_taken && !here && !valid;
    assign read_address = place;
    assign move = walking && (!in_image || read);
    assign busy = walking || here || valid;
    selector #(.WIDTH(VALUE_BITS), .COUNT(PORTS)) pick (.words(read_data), .index(lane), .word(picked));

    always_ff @(posedge clock) begin
        if (read) begin
            lane <= place[LOG-1:0];
            row1 <= tap;
        end
        if (here) begin
            value <= picked;
            row <= row1;
        end
        if (start) begin
            end_source <= source;
            end_kernel <= kernel;
            tap <= kernel;
            channel <= channels;
            i <= kernel_rows;
            j <= kernel_columns;
            y <= top;
            x <= left;
            row_words <= top_words;
        end else if (move) begin
            j <= last_j ? kernel_columns : j - 24'd1;
            x <= last_j ? left : x + {1'b0, column_gap};
            tap <= tap + tap_stride;
            if (last_j) begin
                i <= last_i ? kernel_rows : i - 24'd1;
                y <= last_i ? top : y + {1'b0, row_gap};
                row_words <= last_i ? top_words : row_words + row_gap_words;
                if (last_i) begin
                    channel <= channel - 24'd1;
                    end_source <= end_source + channel_words;
                    end_kernel <= end_kernel + stride;
                    tap <= end_kernel + stride;
                end
            end
        end
        if (reset) {walking, here, valid} <= '0;
        else begin
            if (start) walking <= 1'b1;
            else if (move && last_j && last_i && last_channel) walking <= 1'b0;
            here <= read;
            if (here) valid <= picked != '0;
            else if (ready) valid <= 1'b0;
        end
    end
    logic unused;
    assign unused = &{1'b0, geometry, products};
endmodule
