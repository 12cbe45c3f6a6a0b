// On-chip values in BANKS memories: word i is in bank i mod BANKS, row i / BANKS. A row is read or written at once; a write may name banks.
// Block memories answer late in their cycle, so that what they read goes straight to a register, with `pass`.
module banked_memory #(
    parameter int WIDTH = 24,
    parameter int BANKS = 4,
    parameter int WORDS = 1024,
    localparam int ROWS = WORDS / BANKS,
    localparam int BITS = $clog2(ROWS)
) (
    input logic clock,
    input logic [BANKS-1:0] write,
    input logic [BITS-1:0] write_row,
    input logic [BANKS*WIDTH-1:0] write_data,
    input logic read,
    input logic [BITS-1:0] read_row,
    input logic pass,
    output logic [BANKS*WIDTH-1:0] read_data
);
    logic [BANKS*WIDTH-1:0] answer;
    always_ff @(posedge clock) if (pass) read_data <= answer;
    for (genvar b = 0; b < BANKS; b++) begin : g_bank
        ram #(.WIDTH(WIDTH), .DEPTH(ROWS)) bank (
            .clock, .write(write[b]), .write_address(write_row), .write_data(write_data[b*WIDTH+:WIDTH]),
            .read, .read_address(read_row), .read_data(answer[b*WIDTH+:WIDTH])
        );
    end
endmodule
