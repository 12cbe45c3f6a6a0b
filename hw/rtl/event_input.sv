// The Input op: clears its signal, then takes one packet of events from the stream, to its end.
module event_input #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int SIGNAL_BITS = 14
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic [SIGNAL_BITS-1:0] destination,
    input logic [SIGNAL_BITS:0] size,
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
    output logic [SIGNAL_BITS-1:0] write_address,
    output logic [VALUE_BITS-1:0] write_value,
    output logic used  // the value is not 0
);
    localparam int S = SIGNAL_BITS;
    localparam int LOG = $clog2(PORTS);
    typedef enum logic [2:0] {IDLE, CLEAR, COUNT, NEURON, LEVEL, END} state_t;
    state_t state;
    logic [S-1:0] at;  // row to clear, neuron of the event
    logic [S-LOG:0] left;  // rows
    logic take, in_range, level;
    logic named, ends, legal;  // the neuron is inside the input; an event has ended with its level; neither is too large
    logic [S-1:0] neuron;
    logic [VALUE_BITS-1:0] value;
    logic [31:0] bound;

    assign s_axis_tready = state == COUNT || state == NEURON || state == LEVEL;
    assign take = s_axis_tvalid && s_axis_tready;
    assign level = state == LEVEL;
    assign bound = level ? levels : 32'(size);
    assign in_range = {s_axis_tdata, 1'b0} < {bound, level};  // a level may be equal

    always_ff @(posedge clock) begin
        done <= state == END;
        if (state == IDLE && start) begin
            at <= destination;
            left <= (S - LOG + 1)'((32'(size) - 32'd1) >> LOG);
        end else if (state == CLEAR) begin
            at <= at + S'(PORTS);
            left <= left - 1'b1;
        end else if (take) begin
            at <= destination + s_axis_tdata[S-1:0];
            named <= in_range;
        end
        // A level: its event ends with it.
        if (state == IDLE) begin
            bad <= 1'b0;
            bad_index <= '0;
        end else if (ends && !bad) begin
            bad <= !legal;
            if (legal) bad_index <= bad_index + 24'd1;
        end
        ends <= level && take && !reset;
        legal <= named && in_range;
        neuron <= at;
        value <= s_axis_tdata[VALUE_BITS-1:0];
        for (int p = 0; p < PORTS; p++) write[p] <= state == CLEAR || (ends && legal && !bad && neuron[LOG-1:0] == LOG'(p));
        marks <= state != CLEAR;
        write_address <= state == CLEAR ? at : neuron;
        write_value <= state == CLEAR ? '0 : value;
        used <= state != CLEAR && value != '0;
        if (reset) begin
            state <= IDLE;
            write <= '0;
        end else if (take && s_axis_tlast) state <= END;
        else
            case (state)
                IDLE: if (start) state <= CLEAR;
                CLEAR: if (left == '0) state <= COUNT;
                COUNT: if (take) state <= NEURON;
                NEURON: if (take) state <= LEVEL;
                LEVEL: if (take) state <= NEURON;
                default: state <= IDLE;
            endcase
    end
endmodule
