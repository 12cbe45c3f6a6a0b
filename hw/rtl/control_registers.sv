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
    logic [63:0] cycles;
    logic have_address, have_data, write;
    logic [7:0] address;
    logic [31:0] data, strobes;
    logic read;
    logic [31:0] value;

    assign s_axi_bresp = 2'b00;
    assign s_axi_rresp = 2'b00;
    assign s_axi_awready = !have_address;
    assign s_axi_wready = !have_data;
    assign write = have_address && have_data && !s_axi_bvalid;
    assign s_axi_arready = !s_axi_rvalid;
    assign read = s_axi_arvalid && s_axi_arready;
    assign interrupt = interrupt_enable && interrupt_status;
    assign start = started && !busy;

    always_ff @(posedge clock) begin
        if (s_axi_awvalid && s_axi_awready) address <= s_axi_awaddr;
        if (s_axi_wvalid && s_axi_wready) begin
            data <= s_axi_wdata;
            strobes <= {{8{s_axi_wstrb[3]}}, {8{s_axi_wstrb[2]}}, {8{s_axi_wstrb[1]}}, {8{s_axi_wstrb[0]}}};
        end
        if (write) begin
            case (address)
                registers::OFFSET_IMAGE_ADDRESS_LOW: image_address[31:0] <= (image_address[31:0] & ~strobes) | (data & strobes);
                registers::OFFSET_IMAGE_ADDRESS_HIGH: image_address[63:32] <= (image_address[63:32] & ~strobes) | (data & strobes);
                registers::OFFSET_IMAGE_WORDS: image_words <= (image_words & ~strobes) | (data & strobes);
                registers::OFFSET_COMMAND: command <= (command & ~strobes) | (data & strobes);
                default: ;
            endcase
        end
        if (read) s_axi_rdata <= value;
        if (start) cycles <= 64'd0;
        else if (busy) cycles <= cycles + 64'd1;
        if (done) status <= done_status;

        if (reset) begin
            {have_address, have_data, s_axi_bvalid, s_axi_rvalid} <= 4'b0;
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
            if (read) begin
                s_axi_rvalid <= 1'b1;
                if (s_axi_araddr == registers::OFFSET_CONTROL) done_flag <= 1'b0;
            end
            if (done) begin
                busy <= 1'b0;
                done_flag <= 1'b1;
                if (interrupt_mask) interrupt_status <= 1'b1;
            end
        end
    end

    always_comb begin
        case (s_axi_araddr)
            registers::OFFSET_CONTROL: value = {28'd0, !busy && !started, !busy && !started, done_flag, started};
            registers::OFFSET_INTERRUPT_ENABLE: value = {31'd0, interrupt_enable};
            registers::OFFSET_INTERRUPT_MASK: value = {31'd0, interrupt_mask};
            registers::OFFSET_INTERRUPT_STATUS: value = {31'd0, interrupt_status};
            registers::OFFSET_STATUS: value = status;
            registers::OFFSET_IMAGE_ADDRESS_LOW: value = image_address[31:0];
            registers::OFFSET_IMAGE_ADDRESS_HIGH: value = image_address[63:32];
            registers::OFFSET_IMAGE_WORDS: value = image_words;
            registers::OFFSET_COMMAND: value = command;
            registers::OFFSET_IDENTIFICATION: value = registers::IDENTIFICATION;
            registers::OFFSET_IMAGE_VERSION: value = engine::IMAGE_VERSION;
            registers::OFFSET_LANES: value = LANES;
            registers::OFFSET_PORTS: value = PORTS;
            registers::OFFSET_SIGNAL_WORDS: value = SIGNAL_WORDS;
            registers::OFFSET_STATE_WORDS: value = STATE_WORDS;
            registers::OFFSET_QUEUE_WORDS: value = QUEUE_WORDS;
            registers::OFFSET_DESCRIPTORS: value = DESCRIPTORS;
            registers::OFFSET_POTENTIAL_BITS: value = VALUE_BITS;
            registers::OFFSET_COMPARATOR_BITS: value = COMPARE_BITS;
            registers::OFFSET_BEAT_BITS: value = 2 * LANES;
            registers::OFFSET_CYCLES_LOW: value = cycles[31:0];
            registers::OFFSET_CYCLES_HIGH: value = cycles[63:32];
            default: value = 32'd0;
        endcase
    end
endmodule
