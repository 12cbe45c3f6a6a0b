// An SDRAM of 16 bits, 4 banks, 8192 rows and 512 columns that ends the simulation at the first thing a controller does wrong. Its times are the
// slowest of the parts on ULX3S boards: AS4C16M16SA-7, IS42S16160G-7, MT48LC16M16A2-75, W9825G6KH-6. A word that is read out is right only in the
// second half of its cycle, and wrong in the first: access time, pins and wires. +image=FILE: what is in it at power-up, 16-bit words in hexadecimal.
module sdram_model #(
    parameter int PERIOD_PS = 13333
) (
    input logic clk,
    input logic cke,
    input logic csn,
    input logic rasn,
    input logic casn,
    input logic wen,
    input logic [1:0] dqm,
    input logic [1:0] ba,
    input logic [12:0] a,
    inout wire [15:0] d,
    input logic driven  // the controller drives `d`
);
    localparam longint POWER_UP = 200_000_000;  // all in picoseconds
    localparam longint ROW_TO_COLUMN = 21_000;
    localparam longint PRECHARGE = 21_000;
    localparam longint ROW_OPEN = 44_000;
    localparam longint ROW_CYCLE = 66_000;
    localparam longint ROW_TO_ROW = 15_000;
    localparam longint REFRESH = 70_000;
    localparam longint WRITE_RECOVERY = 15_000;
    localparam longint REFRESH_INTERVAL = 7_812_500;
    localparam int LATENCY = 3;
    localparam int BURST = 8;
    localparam int STAGES = LATENCY + BURST;
    localparam longint NEVER = -1_000_000_000;

    logic [15:0] cells[1 << 24];  // row, bank, column
    logic [12:0] rows[4];
    logic [3:0] open = '1;
    longint now = 0, edges = 0, row_at = NEVER, refreshed = NEVER, mode_edge = NEVER, mode_at = 0, refreshes = 0, read_edge = NEVER;
    longint activated[4] = '{default: NEVER}, precharged[4] = '{default: NEVER}, written[4] = '{default: NEVER};
    bit ready = 0;
    logic [STAGES-1:0] leaving = '0;  // word k of a burst leaves LATENCY - 1 + k edges after its command
    logic [15:0] words[STAGES];
    logic [15:0] word;
    logic out = 0;
    assign d = out ? word : 'z;

    string image;
    initial if ($value$plusargs("image=%s", image) != 0) $readmemh(image, cells);

    task automatic check(input bit right, input string what);
        if (!right) $fatal(1, "SDRAM, edge %0d: %s", edges, what);
    endtask

    always @(negedge clk) begin
        out <= leaving[0];
        word <= words[0];
    end

    always @(posedge clk) begin
        now += longint'(PERIOD_PS);
        edges += 1;
        word <= ~word;
        leaving = {1'b0, leaving[STAGES-1:1]};
        for (int i = 1; i < STAGES; i++) words[i-1] = words[i];
        check(cke && !csn, "not selected");
        check(!(driven && (out || leaving[0])), "both sides drive the data");
        check(!leaving[0] || dqm == '0, "read data masked");
        if (ready) check(now - mode_at < (refreshes + 2) * REFRESH_INTERVAL, "refresh is late");
        if ({rasn, casn, wen} != 3'b111) begin
            check(now >= POWER_UP, "command before the power-up time");
            check(edges - mode_edge >= 2, "command too soon after the mode register");
            check(now - refreshed >= REFRESH, "command during refresh");
        end
        case ({rasn, casn, wen})
            3'b111: ;
            3'b011: begin  // activate
                check(ready, "row opened before the mode register is set");
                check(!open[ba], "row opened in an open bank");
                check(now - precharged[ba] >= PRECHARGE, "row opened during precharge");
                check(now - activated[ba] >= ROW_CYCLE, "row opened too soon in this bank");
                check(now - row_at >= ROW_TO_ROW, "row opened too soon after another");
                {open[ba], rows[ba], activated[ba], row_at} = {1'b1, a, now, now};
            end
            3'b101: begin  // read
                check(open[ba] && !a[10], "read of a closed row");
                check(now - activated[ba] >= ROW_TO_COLUMN, "read too soon after the row was opened");
                check(edges - read_edge >= BURST, "read cuts off a burst");
                read_edge = edges;
                for (int k = 0; k < BURST; k++) begin
                    leaving[LATENCY-1+k] = 1'b1;
                    words[LATENCY-1+k] = cells[{rows[ba], ba, a[8:3], a[2:0] + 3'(k)}];
                end
            end
            3'b100: begin  // write
                check(open[ba] && !a[10], "write to a closed row");
                check(now - activated[ba] >= ROW_TO_COLUMN, "write too soon after the row was opened");
                check(driven && dqm == '0, "write without data");
                check(leaving == '0, "write cuts off a burst");
                cells[{rows[ba], ba, a[8:0]}] = d;
                written[ba] = now;
            end
            3'b010: begin  // precharge
                check(edges - read_edge >= BURST, "precharge cuts off a burst");
                for (int b = 0; b < 4; b++)
                    if (a[10] || ba == 2'(b)) begin
                        check(now - activated[b] >= ROW_OPEN, "row closed too soon");
                        check(now - written[b] >= WRITE_RECOVERY, "row closed too soon after a write");
                        open[b] = 1'b0;
                        precharged[b] = now;
                    end
            end
            3'b001, 3'b000: begin  // refresh, mode register
                check(open == '0, "refresh or mode register with an open row");
                for (int b = 0; b < 4; b++) check(now - precharged[b] >= PRECHARGE, "refresh or mode register during precharge");
                if (wen) begin
                    refreshes += 1;
                    refreshed = now;
                end else begin
                    check(refreshes >= 8, "mode register before 8 refreshes");
                    check({ba, a} == 15'b00_000_1_00_011_0_011, "mode: not single writes, latency 3, bursts of 8");
                    {ready, refreshes, mode_at, mode_edge} = {1'b1, 64'd0, now, edges};
                end
            end
            default: check(0, "burst stop");
        endcase
    end
endmodule
