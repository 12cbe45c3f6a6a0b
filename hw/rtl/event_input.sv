// The Input op: clears its signal, then takes one packet of events from the stream. After an event out of range the packet is
// taken to its end.
module event_input #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [23:0] destination,
    input logic [23:0] size,
    input logic [31:0] levels,
    output logic done,  // one cycle
    output logic bad,  // with the index of the event, at done
    output logic [23:0] bad_index,
    input logic [31:0] s_axis_tdata,
    input logic s_axis_tvalid,
    input logic s_axis_tlast,
    output logic s_axis_tready,
    output logic [PORTS-1:0] write,
    output logic marks,  // the write is an event in a signal of zeros, not a cleared row
    output logic [23:0] write_address,
    output logic [VALUE_BITS-1:0] write_value
);
    localparam int LOG = $clog2(PORTS);
    localparam logic [23:0] GROUP = 24'(PORTS);
    typedef enum logic [2:0] {IDLE, CLEAR, COUNT, NEURON, LEVEL, FLUSH} state_t;
    state_t state;
    logic [23:0] at, left, index;
    logic [31:0] events_left, neuron;
    logic take, put;

    assign s_axis_tready = state == COUNT || state == NEURON || state == LEVEL || state == FLUSH;
    assign take = s_axis_tvalid && s_axis_tready;
    assign put = state == LEVEL && take && !bad;
    assign marks = state != CLEAR;
    assign write_address = state == CLEAR ? at : destination + neuron[23:0];
    assign write_value = state == CLEAR ? '0 : s_axis_tdata[VALUE_BITS-1:0];
    for (genvar p = 0; p < PORTS; p++) begin : g_write
        assign write[p] = state == CLEAR || (put && s_axis_tdata <= levels && neuron < {8'd0, size} && neuron[LOG-1:0] == p);
    end

    always_ff @(posedge clock) begin
        done <= 1'b0;
        if (reset) state <= IDLE;
        else
            case (state)
                IDLE:
                if (start) begin
                    state <= CLEAR;
                    at <= destination;
                    left <= size;
                    bad <= 1'b0;
                    index <= '0;
                end
                CLEAR: begin
                    at <= at + GROUP;
                    left <= left - GROUP;
                    if (left <= GROUP) state <= COUNT;
                end
                COUNT:
                if (take) begin
                    events_left <= s_axis_tdata;
                    state <= s_axis_tdata == 32'd0 ? FLUSH : NEURON;
                    if (s_axis_tlast) begin
                        state <= IDLE;
                        done <= 1'b1;
                    end
                end
                NEURON:
                if (take) begin
                    neuron <= s_axis_tdata;
                    state <= LEVEL;
                    if (s_axis_tlast) begin
                        state <= IDLE;
                        done <= 1'b1;
                    end
                end
                LEVEL:
                if (take) begin
                    index <= index + 24'd1;
                    events_left <= events_left - 32'd1;
                    state <= events_left == 32'd1 ? FLUSH : NEURON;
                    if (!bad && (neuron >= {8'd0, size} || s_axis_tdata > levels)) begin
                        bad <= 1'b1;
                        bad_index <= index;
                    end
                    if (s_axis_tlast) begin
                        state <= IDLE;
                        done <= 1'b1;
                    end
                end
                default:
                if (take && s_axis_tlast) begin
                    state <= IDLE;
                    done <= 1'b1;
                end
            endcase
    end
endmodule
