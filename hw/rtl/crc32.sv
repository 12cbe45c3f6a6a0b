// One step of CRC-32 (reflected polynomial 0xEDB88320) over a little-endian word. Each new bit is the parity of a fixed set
// of bits of `crc ^ word`, because the step is linear.
module crc32 (
    input logic [31:0] crc,
    input logic [31:0] word,
    output logic [31:0] next
);
    function automatic logic [31:0] step(input logic [31:0] start);
        logic [31:0] value;
        value = start;
        for (int i = 0; i < 32; i++) value = (value >> 1) ^ (value[0] ? 32'hEDB88320 : 32'd0);
        step = value;
    endfunction

    // Bit j: whether bit j of the mixed word enters bit `row` of the result.
    function automatic logic [31:0] row_mask(input logic [4:0] row);
        logic [31:0] mask, column;
        mask = '0;
        for (int j = 0; j < 32; j++) begin
            column = step(32'd1 << j);
            mask[j] = column[row];
        end
        row_mask = mask;
    endfunction

    logic [31:0] mixed;
    assign mixed = crc ^ word;
    for (genvar i = 0; i < 32; i++) begin : g_bit
        localparam logic [31:0] MASK = row_mask(5'(i));
        assign next[i] = ^(mixed & MASK);
    end
endmodule
