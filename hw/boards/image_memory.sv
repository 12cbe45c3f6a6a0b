// The program image in on-chip memory: an AXI4 read slave for bursts (INCR, whole beats), one beat per cycle, three cycles from an accepted
// request to its first beat. The host writes single words. Reads outside are answered with SLVERR.
module image_memory #(
    parameter int BEAT_BITS = 128,
    parameter int WORDS = 4096,  // of 32 bits; whole beats
    localparam int WORD_BITS = $clog2(WORDS)
) (
    input logic clock,
    input logic reset,
    input logic write,
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
    input logic s_axi_rready
);
    localparam int BEAT_WORDS = BEAT_BITS / 32;
    localparam int PLACE_BITS = $clog2(BEAT_WORDS);
    localparam int BEATS = WORDS / BEAT_WORDS;
    localparam int BITS = WORD_BITS - PLACE_BITS;
    localparam int LOW = PLACE_BITS + 2;
    logic [63-LOW:0] beat;
    logic [7:0] left;
    logic active, step, last, outside, reads, read_last, read_outside;
    logic [BEAT_BITS-1:0] data;
    logic written;  // the word of the host stands in a register, as it comes from a memory too
    logic [WORD_BITS-1:0] written_address;
    logic [31:0] written_data;
    logic unused;

    assign step = !s_axi_rvalid || s_axi_rready;
    assign last = left == '0;
    assign outside = beat >= (64 - LOW)'(BEATS);
    assign s_axi_arready = !active || (step && last);
    assign unused = &{1'b0, s_axi_araddr[LOW-1:0]};

    for (genvar k = 0; k < BEAT_WORDS; k++) begin : g_word
        ram #(.WIDTH(32), .DEPTH(BEATS)) words (
            .clock, .write(written && written_address[PLACE_BITS-1:0] == PLACE_BITS'(k)), .write_address(written_address[WORD_BITS-1:PLACE_BITS]),
            .write_data(written_data), .read(step), .read_address(beat[BITS-1:0]), .read_data(data[32*k+:32])
        );
    end

    always_ff @(posedge clock) begin
        {written, written_address, written_data} <= {write, write_address, write_data};
        if (s_axi_arvalid && s_axi_arready) begin
            beat <= s_axi_araddr[63:LOW];
            left <= s_axi_arlen;
        end else if (step) begin
            beat <= beat + 1'b1;
            left <= left - 1'b1;
        end
        if (step) begin
            read_last <= last;
            read_outside <= outside;
            s_axi_rdata <= data;
            s_axi_rlast <= read_last;
            s_axi_rresp <= {read_outside, 1'b0};
        end
        if (reset) {active, reads, s_axi_rvalid} <= '0;
        else begin
            if (s_axi_arvalid && s_axi_arready) active <= 1'b1;
            else if (step && last) active <= 1'b0;
            if (step) begin
                reads <= active;
                s_axi_rvalid <= reads;
            end
        end
    end
endmodule
