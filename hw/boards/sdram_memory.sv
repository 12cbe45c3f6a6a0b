// The program image in an SDRAM of 16 bits, 4 banks, 8192 rows and 512 columns: an AXI4 read slave for bursts (INCR, whole beats). The host writes
// single words. Reads outside are answered with SLVERR. Rows stay open, one per bank; 1 KiB in a row go to one bank, the next to the next.
// Cycles follow from the longest times, in nanoseconds, of AS4C16M16SA-7, IS42S16160G-7, MT48LC16M16A2-75 and W9825G6KH-6.
module sdram_memory #(
    parameter int BEAT_BITS = 128,  // a multiple of a burst of the SDRAM, 8 words of 16 bits
    parameter int WORDS = 1 << 23,  // of 32 bits; whole beats
    parameter int CLOCK_MHZ = 75,  // 20 to 133
    localparam int WORD_BITS = $clog2(WORDS)
) (
    input logic clock,
    input logic reset,  // of the SDRAM
    input logic flush,  // forgets requests and what is read for them
    input logic write,  // held with its address and data until `write_ready`
    output logic write_ready,
    input logic [WORD_BITS-1:0] write_address,
    input logic [31:0] write_data,
    input logic [63:0] s_axi_araddr,
    input logic [7:0] s_axi_arlen,
    input logic s_axi_arvalid,
    output logic s_axi_arready,
    output logic [BEAT_BITS-1:0] s_axi_rdata,
    output logic [1:0] s_axi_rresp,
    output logic s_axi_rlast,
    output logic s_axi_rvalid,
    input logic s_axi_rready,
    output logic [35:0] sdram_out,  // to `sdram_pins`
    input logic [15:0] sdram_read_data
);
    function automatic int cycles(input int nanoseconds);
        cycles = (nanoseconds * CLOCK_MHZ + 999) / 1000;
    endfunction
    localparam int LATENCY = 3;  // CAS
    localparam int BURST = 8;
    localparam int POWER_UP = cycles(200_000);
    localparam int ROW_TO_COLUMN = cycles(21);
    localparam int PRECHARGE_TIME = cycles(21);
    localparam int ROW_OPEN = cycles(45);  // with the precharge also long enough from row to row of a bank
    localparam int REFRESH_TIME = cycles(70);
    localparam int WRITE_RECOVERY = 2;  // 15 ns up to 133 MHz
    localparam int REFRESH_INTERVAL = CLOCK_MHZ * 125 / 16;  // 8192 in 64 ms
    localparam int REFRESHES = 8;  // at power-up
    localparam logic [12:0] MODE = 13'b000_1_00_011_0_011;  // single writes, CAS latency 3, bursts of 8
    localparam logic [2:0] NOP = 3'b111;
    localparam logic [2:0] ACTIVATE = 3'b011;
    localparam logic [2:0] READ = 3'b101;
    localparam logic [2:0] WRITE = 3'b100;
    localparam logic [2:0] PRECHARGE = 3'b010;
    localparam logic [2:0] REFRESH = 3'b001;
    localparam logic [2:0] SET_MODE = 3'b000;
    localparam logic [12:0] ALL_BANKS = 13'd1 << 10;

    // --- The request: chunks of one burst of the SDRAM. ---
    localparam int CHUNKS = WORDS / 4;
    localparam int BEAT_CHUNKS = BEAT_BITS / 128;
    localparam int LEFT_BITS = 8 + $clog2(BEAT_CHUNKS);
    localparam int PLACES = 16;  // beats that wait for the engine
    logic [59:0] chunk;
    logic [LEFT_BITS-1:0] left;  // chunks behind this one
    logic [$clog2(PLACES):0] room;  // beats that neither wait nor are on their way
    logic active, issue, last_chunk, beat_ends, outside, taken, unused;
    assign s_axi_arready = !active;
    assign last_chunk = left == '0;
    assign beat_ends = (left & LEFT_BITS'(BEAT_CHUNKS - 1)) == '0;
    assign outside = chunk >= 60'(CHUNKS);
    assign taken = s_axi_rvalid && s_axi_rready;

    always_ff @(posedge clock) begin
        if (s_axi_arvalid && s_axi_arready) begin
            chunk <= s_axi_araddr[63:4];
            left <= LEFT_BITS'({s_axi_arlen, 3'b000} >> (3 - $clog2(BEAT_CHUNKS))) | LEFT_BITS'(BEAT_CHUNKS - 1);
        end else if (issue) begin
            chunk <= chunk + 1'b1;
            left <= left - 1'b1;
        end
        if (flush) begin
            active <= 1'b0;
            room <= ($clog2(PLACES) + 1)'(PLACES);
        end else begin
            if (s_axi_arvalid && s_axi_arready) active <= 1'b1;
            else if (issue && last_chunk) active <= 1'b0;
            if (taken != (issue && beat_ends)) room <= taken ? room + 1'b1 : room - 1'b1;
        end
    end

    // --- Commands. `pause` cycles pass before the next; a row stays open for at least ROW_OPEN. ---
    typedef enum logic [2:0] {POWER, SETUP, READY, LOW, HIGH} state_t;
    localparam int PAUSE_BITS = $clog2(POWER_UP + 1);
    state_t state;
    logic [2:0] command;
    logic [1:0] command_bank;
    logic [12:0] address;
    logic [15:0] data;
    logic mask, drive;
    logic [PAUSE_BITS-1:0] pause;
    logic [3:0] setups, row_cycles, open;
    logic [12:0] rows[4];
    logic [$clog2(REFRESH_INTERVAL)-1:0] until_refresh;
    logic refresh_due, hit, reading, to_write;  // to_write: a word of the host waits; a register, as it comes from far away
    logic [1:0] bank;
    logic [12:0] row;
    logic [8:0] column;
    logic [22:0] write_place;
    assign sdram_out = {command, mask, command_bank, address, drive, data};
    assign write_place = 23'(write_address);
    assign {row, bank, column} = to_write ? {write_place, 1'b0} : {chunk[20:0], 3'd0};
    assign hit = open[bank] && rows[bank] == row;
    assign issue = state == READY && pause == '0 && !refresh_due && !to_write && active && room != '0 && hit;
    assign write_ready = state == HIGH;

    initial command = NOP;
    always_ff @(posedge clock) begin
        command <= NOP;
        command_bank <= bank;
        to_write <= write && !write_ready;
        until_refresh <= until_refresh - 1'b1;
        if (until_refresh == '0) begin
            until_refresh <= ($clog2(REFRESH_INTERVAL))'(REFRESH_INTERVAL - 1);
            refresh_due <= 1'b1;
        end
        if (row_cycles != '0) row_cycles <= row_cycles - 1'b1;
        if (pause != '0) pause <= pause - 1'b1;
        else
            case (state)
                POWER: begin
                    mask <= 1'b0;
                    command <= PRECHARGE;
                    address <= ALL_BANKS;
                    pause <= PAUSE_BITS'(PRECHARGE_TIME - 1);
                    state <= SETUP;
                end
                SETUP: begin
                    setups <= setups - 1'b1;
                    command <= setups == '0 ? SET_MODE : REFRESH;
                    command_bank <= '0;
                    address <= MODE;
                    pause <= setups == '0 ? PAUSE_BITS'(1) : PAUSE_BITS'(REFRESH_TIME - 1);
                    if (setups == '0) state <= READY;
                end
                READY: begin
                    drive <= 1'b0;
                    if (refresh_due && open == '0) begin
                        command <= REFRESH;
                        pause <= PAUSE_BITS'(REFRESH_TIME - 1);
                        refresh_due <= until_refresh == '0;
                    end else if (refresh_due || ((to_write || active) && open[bank] && !hit)) begin
                        if (row_cycles == '0) begin
                            command <= PRECHARGE;
                            address <= refresh_due ? ALL_BANKS : '0;
                            pause <= PAUSE_BITS'(PRECHARGE_TIME - 1);
                            if (refresh_due) open <= '0;
                            else open[bank] <= 1'b0;
                        end
                    end else if ((to_write || active) && !hit) begin
                        command <= ACTIVATE;
                        address <= row;
                        pause <= PAUSE_BITS'(ROW_TO_COLUMN - 1);
                        row_cycles <= 4'(ROW_OPEN - 1);
                        open[bank] <= 1'b1;
                        rows[bank] <= row;
                    end else if (issue) begin
                        command <= READ;
                        address <= {4'd0, column};
                        pause <= PAUSE_BITS'(BURST - 1);
                    end else if (to_write && !reading) begin
                        drive <= 1'b1;
                        state <= LOW;
                    end
                end
                LOW: begin
                    command <= WRITE;
                    address <= {4'd0, column};
                    data <= write_data[15:0];
                    state <= HIGH;
                end
                default: begin
                    command <= WRITE;
                    address <= {4'd0, column[8:1], 1'b1};
                    data <= write_data[31:16];
                    pause <= PAUSE_BITS'(WRITE_RECOVERY - 1);
                    state <= READY;
                end
            endcase
        if (reset) begin
            state <= POWER;
            pause <= PAUSE_BITS'(POWER_UP);
            setups <= 4'(REFRESHES);
            until_refresh <= ($clog2(REFRESH_INTERVAL))'(REFRESH_INTERVAL - 1);
            {refresh_due, row_cycles, drive} <= '0;
            open <= '0;  // not with the others: yosys does not take it
            command <= NOP;
            mask <= 1'b1;
        end
    end

    // --- What is read. Its first word comes FIRST cycles after the command: through both registers of the pins and the SDRAM. ---
    localparam int FIRST = LATENCY + 2;
    localparam int DONE = FIRST + BURST;
    logic [DONE:0] reads, completes, lasts, outsides;
    logic [BEAT_BITS-1:0] beat;
    logic full;
    assign reading = reads != '0;
    assign unused = &{1'b0, full, s_axi_araddr[3:0]};

    always_ff @(posedge clock) begin
        lasts <= {lasts[DONE-1:0], last_chunk};
        outsides <= {outsides[DONE-1:0], outside};
        if (reads[FIRST+:BURST] != '0) beat <= {sdram_read_data, beat[BEAT_BITS-1:16]};
        if (reset) reads <= '0;
        else reads <= {reads[DONE-1:0], issue};
        if (flush) completes <= '0;
        else completes <= {completes[DONE-1:0], issue && beat_ends};
    end

    fifo #(.WIDTH(BEAT_BITS + 2), .DEPTH(PLACES)) beats (
        .clock, .reset(flush), .push(completes[DONE]), .in({outsides[DONE], lasts[DONE], beat}), .full, .pop(taken), .valid(s_axi_rvalid),
        .out({s_axi_rresp[1], s_axi_rlast, s_axi_rdata})
    );
    assign s_axi_rresp[0] = 1'b0;
endmodule
