// The AXI4-Lite registers: a command starts, runs and ends with a status; the interrupt says that it is done.
module control_registers #(
    parameter int LANES = 64,
    parameter int PORTS = 4,
    parameter int SIGNAL_WORDS = 16384,
    parameter int STATE_WORDS = 16384,
    parameter int QUEUE_WORDS = 2048,
    parameter int DESCRIPTORS = 256,
    parameter int VALUE_BITS = 24,
    parameter int COMPARE_BITS = 32
) (
    input logic clock,
    input logic reset,
    input logic [7:0] s_axi_awaddr,
    input logic s_axi_awvalid,
    output logic s_axi_awready,
    input logic [31:0] s_axi_wdata,
    input logic [3:0] s_axi_wstrb,
    input logic s_axi_wvalid,
    output logic s_axi_wready,
    output logic [1:0] s_axi_bresp,
    output logic s_axi_bvalid,
    input logic s_axi_bready,
    input logic [7:0] s_axi_araddr,
    input logic s_axi_arvalid,
    output logic s_axi_arready,
    output logic [31:0] s_axi_rdata,
    output logic [1:0] s_axi_rresp,
    output logic s_axi_rvalid,
    input logic s_axi_rready,
    output logic interrupt,
    output logic start,  // the command begins in this cycle
    output logic [31:0] command,
    output logic [63:0] image_address,
    output logic [31:0] image_words,
    input logic done,  // one cycle, with the status
    input logic [31:0] done_status
);
    logic started, busy, done_flag, interrupt_enable, interrupt_mask, interrupt_status;
    logic [31:0] status;
    logic have_address, have_data, write;
    logic [7:0] address;
    logic [31:0] data;
    logic [3:0] strobes;
    logic read, answer;
    logic [5:0] read_word;  // of the address
    logic [31:0] variable, constant, cycles_low, cycles_high;
    logic carry;

    assign s_axi_bresp = 2'b00;
    assign s_axi_rresp = 2'b00;
    assign s_axi_awready = !have_address;
    assign s_axi_wready = !have_data;
    assign write = have_address && have_data && !s_axi_bvalid;
    assign s_axi_arready = !s_axi_rvalid && !read && !answer;
    assign interrupt = interrupt_enable && interrupt_status;
    assign start = started && !busy;

    always_ff @(posedge clock) begin
        if (s_axi_awvalid && s_axi_awready) address <= s_axi_awaddr;
        if (s_axi_wvalid && s_axi_wready) begin
            data <= s_axi_wdata;
            strobes <= s_axi_wstrb;
        end
        for (int i = 0; i < 4; i++) begin
            if (write && strobes[i]) begin
                case (address)
                    registers::OFFSET_IMAGE_ADDRESS_LOW: image_address[8*i+:8] <= data[8*i+:8];
                    registers::OFFSET_IMAGE_ADDRESS_HIGH: image_address[32+8*i+:8] <= data[8*i+:8];
                    registers::OFFSET_IMAGE_WORDS: image_words[8*i+:8] <= data[8*i+:8];
                    registers::OFFSET_COMMAND: command[8*i+:8] <= data[8*i+:8];
                    default: ;
                endcase
            end
        end
        // The high half of the cycles follows one cycle later.
        carry <= busy && !start && (&cycles_low);
        if (start) {cycles_high, cycles_low} <= 64'd0;
        else begin
            if (busy) cycles_low <= cycles_low + 32'd1;
            if (carry) cycles_high <= cycles_high + 32'd1;
        end
        if (done) status <= done_status;

        if (reset) begin
            {have_address, have_data, s_axi_bvalid, s_axi_rvalid, read, answer} <= 6'b0;
            {started, busy, done_flag, interrupt_enable, interrupt_mask, interrupt_status} <= 6'b0;
        end else begin
            if (s_axi_awvalid && s_axi_awready) have_address <= 1'b1;
            if (s_axi_wvalid && s_axi_wready) have_data <= 1'b1;
            if (s_axi_bvalid && s_axi_bready) s_axi_bvalid <= 1'b0;
            if (s_axi_rvalid && s_axi_rready) s_axi_rvalid <= 1'b0;
            if (start) begin
                started <= 1'b0;
                busy <= 1'b1;
            end
            if (write) begin
                have_address <= 1'b0;
                have_data <= 1'b0;
                s_axi_bvalid <= 1'b1;
                if (strobes[0]) begin
                    case (address)
                        registers::OFFSET_CONTROL: if (data[0]) started <= 1'b1;
                        registers::OFFSET_INTERRUPT_ENABLE: interrupt_enable <= data[0];
                        registers::OFFSET_INTERRUPT_MASK: interrupt_mask <= data[0];
                        registers::OFFSET_INTERRUPT_STATUS: interrupt_status <= interrupt_status ^ data[0];
                        default: ;
                    endcase
                end
            end
            read <= s_axi_arvalid && s_axi_arready;
            answer <= read;
            if (answer) begin
                s_axi_rvalid <= 1'b1;
                if (read_word == registers::OFFSET_CONTROL[7:2]) done_flag <= done_flag && !variable[1];
            end
            if (done) begin
                busy <= 1'b0;
                done_flag <= 1'b1;
                if (interrupt_mask) interrupt_status <= 1'b1;
            end
        end
    end

    // A read takes three cycles: address, the word among those that change and among those that do not, their choice.
    always_ff @(posedge clock) begin
        if (s_axi_arready) read_word <= s_axi_araddr[7:2];
        case (read_word[3:0])
            registers::OFFSET_CONTROL[5:2]: variable <= {28'd0, !busy && !started, !busy && !started, done_flag, started};
            registers::OFFSET_INTERRUPT_ENABLE[5:2]: variable <= {31'd0, interrupt_enable};
            registers::OFFSET_INTERRUPT_MASK[5:2]: variable <= {31'd0, interrupt_mask};
            registers::OFFSET_INTERRUPT_STATUS[5:2]: variable <= {31'd0, interrupt_status};
            registers::OFFSET_STATUS[5:2]: variable <= status;
            registers::OFFSET_IMAGE_ADDRESS_LOW[5:2]: variable <= image_address[31:0];
            registers::OFFSET_IMAGE_ADDRESS_HIGH[5:2]: variable <= image_address[63:32];
            registers::OFFSET_IMAGE_WORDS[5:2]: variable <= image_words;
            registers::OFFSET_COMMAND[5:2]: variable <= command;
            default: variable <= 32'd0;
        endcase
        case (read_word[3:0])
            registers::OFFSET_IDENTIFICATION[5:2]: constant <= registers::IDENTIFICATION;
            registers::OFFSET_IMAGE_VERSION[5:2]: constant <= instruction_set::VERSION;
            registers::OFFSET_LANES[5:2]: constant <= LANES;
            registers::OFFSET_PORTS[5:2]: constant <= PORTS;
            registers::OFFSET_SIGNAL_WORDS[5:2]: constant <= SIGNAL_WORDS;
            registers::OFFSET_STATE_WORDS[5:2]: constant <= STATE_WORDS;
            registers::OFFSET_QUEUE_WORDS[5:2]: constant <= QUEUE_WORDS;
            registers::OFFSET_DESCRIPTORS[5:2]: constant <= DESCRIPTORS;
            registers::OFFSET_POTENTIAL_BITS[5:2]: constant <= VALUE_BITS;
            registers::OFFSET_COMPARATOR_BITS[5:2]: constant <= COMPARE_BITS;
            registers::OFFSET_BEAT_BITS[5:2]: constant <= 2 * LANES;
            registers::OFFSET_CYCLES_LOW[5:2]: constant <= cycles_low;
            registers::OFFSET_CYCLES_HIGH[5:2]: constant <= cycles_high;
            default: constant <= 32'd0;
        endcase
        if (answer) s_axi_rdata <= read_word[5:4] == 2'd0 ? variable : read_word[5:4] == 2'd2 ? constant : 32'd0;
    end
    logic unused;
    assign unused = &{1'b0, s_axi_araddr[1:0]};
endmodule
