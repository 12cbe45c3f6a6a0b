// A host on a serial line reads and writes the registers of the engine, writes its image memory, sends event packets and receives result
// packets (docs/boards.md). A request is carried out only after its checksum was right, takes a bounded time, and is always answered.
module uart_bridge #(
    parameter int DIVISOR = 25,  // clock cycles per bit
    parameter int MEMORY_WORDS = 4096,
    parameter int QUEUE_WORDS = 1024,  // of events and of results; a power of two
    localparam int MEMORY_BITS = $clog2(MEMORY_WORDS)
) (
    input logic clock,
    input logic reset,
    input logic rx,
    output logic tx,
    output logic engine_reset,
    input logic done,  // the interrupt of the engine
    output logic memory_write,  // held until `memory_ready`
    input logic memory_ready,
    output logic [MEMORY_BITS-1:0] memory_address,
    output logic [31:0] memory_data,
    output logic [7:0] m_axi_awaddr,
    output logic m_axi_awvalid,
    input logic m_axi_awready,
    output logic [31:0] m_axi_wdata,
    output logic m_axi_wvalid,
    input logic m_axi_wready,
    input logic m_axi_bvalid,
    output logic m_axi_bready,
    output logic [7:0] m_axi_araddr,
    output logic m_axi_arvalid,
    input logic m_axi_arready,
    input logic [31:0] m_axi_rdata,
    input logic m_axi_rvalid,
    output logic m_axi_rready,
    output logic [31:0] m_axis_tdata,
    output logic m_axis_tvalid,
    input logic m_axis_tready,
    output logic m_axis_tlast,
    input logic [31:0] s_axis_tdata,
    input logic s_axis_tvalid,
    output logic s_axis_tready,
    input logic s_axis_tlast
);
    localparam logic [7:0] REQUEST = 8'h5A;
    localparam logic [7:0] ANSWER = 8'hA5;
    localparam logic [31:0] VERSION = 32'd1;
    localparam logic [7:0] RESET = 8'd1;
    localparam logic [7:0] READ_REGISTER = 8'd2;
    localparam logic [7:0] WRITE_REGISTER = 8'd3;
    localparam logic [7:0] WRITE_MEMORY = 8'd4;
    localparam logic [7:0] SEND = 8'd5;
    localparam logic [7:0] RECEIVE = 8'd6;
    localparam int LEVEL_BITS = $clog2(QUEUE_WORDS) + 1;
    typedef enum logic [3:0] {IDLE, HEAD, PAYLOAD, CHECK, JUDGE, DECIDE, FETCH, MOVE, READ, WRITE, SHOW, LOAD, BYTES, TAIL} state_t;
    state_t state;

    function automatic logic [15:0] crc16(input logic [15:0] crc, input logic [7:0] data);
        crc16 = crc ^ {data, 8'd0};
        for (int i = 0; i < 8; i++) crc16 = {crc16[14:0], 1'b0} ^ (crc16[15] ? 16'h1021 : 16'd0);
    endfunction

    logic received, ready, put;
    logic [7:0] in, out;
    uart_receiver #(.DIVISOR(DIVISOR)) receiver (.clock, .reset, .rx, .valid(received), .data(in));
    uart_transmitter #(.DIVISOR(DIVISOR)) transmitter (.clock, .reset, .ready, .send(put), .data(out), .tx);

    // --- The request: operation, number of words, address; its words lie in `payload`. ---
    logic [7:0] operation, count, index;
    logic [31:0] address, word, stored;
    logic [15:0] crc;
    logic [2:0] place;  // of a byte in the head, in a word, in the checksum
    logic last_word;
    assign last_word = index + 8'd1 == count;
    ram #(.WIDTH(32), .DEPTH(256)) payload (
        .clock, .write(state == PAYLOAD && received && place[1:0] == 2'd3), .write_address(index), .write_data({in, word[31:8]}), .read(1'b1),
        .read_address(index), .read_data(stored)
    );

    // --- Queues of events and results. `whole`: the last word of a result packet is in its queue; nothing enters behind it. ---
    logic push, pop, taken, given, full, results_full, results_valid, whole, unused;
    logic [3:0] resetting;
    logic [31:0] result;
    logic [LEVEL_BITS-1:0] events, results;
    assign engine_reset = reset || resetting != '0;
    assign push = state == MOVE && operation == SEND;
    assign pop = state == LOAD && operation == RECEIVE;
    assign taken = m_axis_tvalid && m_axis_tready;
    assign s_axis_tready = !results_full && !whole;
    assign given = s_axis_tvalid && s_axis_tready;
    assign unused = &{1'b0, full, results_valid};
    fifo #(.WIDTH(33), .DEPTH(QUEUE_WORDS)) event_queue (
        .clock, .reset(engine_reset), .push, .in({address[0] && last_word, stored}), .full, .pop(taken), .valid(m_axis_tvalid),
        .out({m_axis_tlast, m_axis_tdata})
    );
    fifo #(.WIDTH(32), .DEPTH(QUEUE_WORDS)) result_queue (
        .clock, .reset(engine_reset), .push(given), .in(s_axis_tdata), .full(results_full), .pop, .valid(results_valid), .out(result)
    );

    assign m_axi_awaddr = address[7:0];
    assign m_axi_araddr = address[7:0];
    assign m_axi_wdata = stored;
    assign m_axi_bready = state == WRITE;
    assign m_axi_rready = state == READ;
    assign memory_write = state == MOVE && operation == WRITE_MEMORY;
    assign memory_address = address[MEMORY_BITS+1:2];
    assign memory_data = stored;

    // --- What is refused, and how many words are answered: registers that stand in DECIDE. ---
    logic refused, damaged;
    logic [3:0] status;  // last word of a result packet, interrupt, damaged, refused
    logic [7:0] answered;
    always_ff @(posedge clock) begin
        damaged <= crc != '0;
        refused <= 1'b0;
        answered <= '0;
        case (operation)
            RESET: answered <= 8'd3;
            READ_REGISTER: answered <= 8'd1;
            WRITE_REGISTER: refused <= count != 8'd1;
            WRITE_MEMORY: refused <= count == '0 || address[1:0] != '0 || {2'd0, address[31:2]} + {24'd0, count} > MEMORY_WORDS;
            SEND: refused <= count == '0 || {1'b0, events} + (LEVEL_BITS + 1)'(count) > (LEVEL_BITS + 1)'(QUEUE_WORDS);
            RECEIVE: answered <= {{(32 - LEVEL_BITS) {1'b0}}, results} < {24'd0, address[7:0]} ? 8'(results) : address[7:0];
            default: refused <= 1'b1;
        endcase
    end

    // --- The answer. ---
    assign put = ready && (state == SHOW || state == BYTES || state == TAIL);
    always_comb
        case (state)
            SHOW:
            case (place[1:0])
                2'd0: out = ANSWER;
                2'd1: out = operation;
                2'd2: out = {4'd0, status};
                default: out = count;
            endcase
            BYTES: out = word[7:0];
            default: out = place[0] ? crc[7:0] : crc[15:8];
        endcase

    always_ff @(posedge clock) begin
        if (received && (state == HEAD || state == PAYLOAD || state == CHECK)) crc <= crc16(crc, in);
        else if (put && (state == BYTES || place != '0)) crc <= crc16(crc, out);
        else if (state == IDLE || (state == SHOW && place == '0)) crc <= '1;
        case (state)
            IDLE: begin
                place <= '0;
                index <= '0;
                if (received && in == REQUEST) state <= HEAD;
            end
            HEAD:
            if (received) begin
                place <= place + 1'b1;
                case (place)
                    3'd0: operation <= in;
                    3'd1: count <= in;
                    default: address <= {in, address[31:8]};
                endcase
                if (place == 3'd5) begin
                    place <= '0;
                    state <= count == '0 ? CHECK : PAYLOAD;
                end
            end
            PAYLOAD:
            if (received) begin
                word <= {in, word[31:8]};
                place <= {1'b0, place[1:0] + 2'd1};
                if (place[1:0] == 2'd3) begin
                    index <= index + 1'b1;
                    if (last_word) state <= CHECK;
                end
            end
            CHECK:
            if (received) begin
                place <= place + 1'b1;
                index <= '0;
                if (place[0]) state <= JUDGE;
            end
            JUDGE: state <= DECIDE;
            DECIDE: begin
                place <= '0;
                status <= {refused && !damaged, damaged, done, 1'b0};
                if (damaged || refused) count <= '0;
                else if (answered != '0 || operation == RECEIVE) count <= answered;
                state <= SHOW;
                if (!damaged && !refused)
                    case (operation)
                        READ_REGISTER: state <= READ;
                        WRITE_REGISTER, WRITE_MEMORY, SEND: state <= FETCH;
                        RECEIVE: status[0] <= whole && results == LEVEL_BITS'(answered) && answered != '0;
                        default: ;
                    endcase
            end
            FETCH: state <= MOVE;
            MOVE:
            if (operation != WRITE_MEMORY || memory_ready) begin
                index <= index + 1'b1;
                address <= address + (operation == WRITE_MEMORY ? 32'd4 : 32'd0);
                state <= operation == WRITE_REGISTER ? WRITE : last_word ? SHOW : FETCH;
                if (last_word) begin
                    count <= '0;
                    index <= '0;
                end
            end
            WRITE: if (m_axi_bvalid) state <= SHOW;
            READ:
            if (m_axi_rvalid) begin
                word <= m_axi_rdata;
                state <= SHOW;
            end
            SHOW:
            if (put) begin
                place <= {1'b0, place[1:0] + 2'd1};
                if (place[1:0] == 2'd3) state <= count == '0 ? TAIL : LOAD;
            end
            LOAD: begin
                index <= index + 1'b1;
                case (operation)
                    RECEIVE: word <= result;
                    READ_REGISTER: ;
                    default: word <= index == 8'd0 ? VERSION : index == 8'd1 ? MEMORY_WORDS : QUEUE_WORDS;
                endcase
                state <= BYTES;
            end
            BYTES:
            if (put) begin
                word <= {8'd0, word[31:8]};
                place <= {1'b0, place[1:0] + 2'd1};
                if (place[1:0] == 2'd3) state <= index == count ? TAIL : LOAD;
            end
            TAIL:
            if (put) begin
                place <= place + 1'b1;
                if (place[0]) state <= IDLE;
            end
            default: state <= IDLE;
        endcase

        if (m_axi_awready) m_axi_awvalid <= 1'b0;
        if (m_axi_wready) m_axi_wvalid <= 1'b0;
        if (m_axi_arready) m_axi_arvalid <= 1'b0;
        if (state == MOVE && operation == WRITE_REGISTER) {m_axi_awvalid, m_axi_wvalid} <= 2'b11;
        if (state == DECIDE && operation == READ_REGISTER && !damaged) m_axi_arvalid <= 1'b1;

        if (resetting != '0) resetting <= resetting - 1'b1;
        if (state == DECIDE && operation == RESET && !damaged) resetting <= '1;
        if (push != taken) events <= push ? events + 1'b1 : events - 1'b1;
        if (given != pop) results <= given ? results + 1'b1 : results - 1'b1;
        if (given && s_axis_tlast) whole <= 1'b1;
        else if (pop && results == LEVEL_BITS'(1)) whole <= 1'b0;
        if (engine_reset) begin
            {events, results} <= '0;
            {whole, m_axi_awvalid, m_axi_wvalid, m_axi_arvalid} <= '0;
        end
        if (reset) begin
            state <= IDLE;
            resetting <= '0;
        end
    end
endmodule
