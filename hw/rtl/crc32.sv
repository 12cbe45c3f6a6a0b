// CRC-32 (reflected polynomial 0xEDB88320), one byte per cycle. Each new bit is the parity of a fixed set of bits of
// `crc ^ byte`, because the step is linear.
module crc32 (
    input logic [31:0] crc,
    input logic [7:0] data,
    output logic [31:0] next
);
    function automatic logic [31:0] step(input logic [7:0] start);
        logic [31:0] value;
        value = {24'd0, start};
        for (int i = 0; i < 8; i++) value = (value >> 1) ^ (value[0] ? 32'hEDB88320 : 32'd0);
        step = value;
    endfunction

    // Bit j: whether bit j of the mixed byte enters bit `row` of the result.
    function automatic logic [7:0] row_mask(input logic [4:0] row);
        logic [7:0] mask;
        logic [31:0] column;
        mask = '0;
        for (int j = 0; j < 8; j++) begin
            column = step(8'd1 << j);
            mask[j] = column[row];
        end
        row_mask = mask;
    endfunction

    logic [7:0] mixed;
    assign mixed = crc[7:0] ^ data;
    for (genvar i = 0; i < 32; i++) begin : g_bit
        localparam logic [7:0] MASK = row_mask(5'(i));
        if (i < 24) begin : g_shifted
            assign next[i] = ^(mixed & MASK) ^ crc[i+8];
        end else begin : g_new
            assign next[i] = ^(mixed & MASK);
        end
    end
endmodule
