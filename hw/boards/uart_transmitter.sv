// Transmitter of a serial line: 8 data bits, no parity, 1 stop bit, DIVISOR clock cycles per bit.
module uart_transmitter #(
    parameter int DIVISOR = 25
) (
    input logic clock,
    input logic reset,
    output logic ready,
    input logic send,  // not without ready
    input logic [7:0] data,
    output logic tx
);
    localparam int BITS = $clog2(DIVISOR + 1);
    logic [BITS-1:0] wait_cycles;
    logic [3:0] bits_left;
    logic [8:0] shift;

    assign ready = bits_left == '0;
    assign tx = shift[0];

    always_ff @(posedge clock) begin
        if (reset) begin
            bits_left <= '0;
            shift <= '1;
        end else if (send) begin
            bits_left <= 4'd10;
            shift <= {data, 1'b0};
            wait_cycles <= BITS'(DIVISOR - 1);
        end else if (wait_cycles != '0) wait_cycles <= wait_cycles - 1'b1;
        else if (!ready) begin
            bits_left <= bits_left - 1'b1;
            shift <= {1'b1, shift[8:1]};
            wait_cycles <= BITS'(DIVISOR - 1);
        end
    end
endmodule
