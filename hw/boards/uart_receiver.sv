// Receiver of a serial line: 8 data bits, no parity, 1 stop bit, DIVISOR clock cycles per bit. A byte without its stop bit is dropped.
module uart_receiver #(
    parameter int DIVISOR = 25
) (
    input logic clock,
    input logic reset,
    input logic rx,
    output logic valid,  // one cycle
    output logic [7:0] data
);
    localparam int BITS = $clog2(DIVISOR + 1);
    logic [2:0] line;  // synchronised to the clock
    logic [BITS-1:0] wait_cycles;
    logic [3:0] bits_left;  // with the start bit

    always_ff @(posedge clock) begin
        line <= {line[1:0], rx};
        valid <= 1'b0;
        if (reset) begin
            line <= '1;
            bits_left <= '0;
        end else if (bits_left == '0) begin
            if (line[2:1] == 2'b10) begin
                bits_left <= 4'd10;
                wait_cycles <= BITS'(DIVISOR / 2 - 1);
            end
        end else if (wait_cycles != '0) wait_cycles <= wait_cycles - 1'b1;
        else begin  // the middle of a bit
            wait_cycles <= BITS'(DIVISOR - 1);
            bits_left <= bits_left - 1'b1;
            if (bits_left == 4'd10 && line[1]) bits_left <= '0;  // no start bit, a glitch
            else if (bits_left == 4'd1) valid <= line[1];
            else data <= {line[1], data[7:1]};
        end
    end
endmodule
