// The answer to a token: the values of the ports, one word per cycle, then two counters of each descriptor; or one word, the
// status of a refusal.
module result_output #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int DESCRIPTORS = 256,
    localparam int OP_BITS = $clog2(DESCRIPTORS)
) (
    input logic clock,
    input logic reset,
    input logic start,
    input logic refuse,
    input logic [31:0] status,
    input logic traced,  // all ports, not only the outputs
    input logic [OP_BITS:0] ports,
    input logic [OP_BITS:0] ops,
    output logic done,  // one cycle
    output logic [OP_BITS-1:0] port_index,
    input logic [48:0] port,
    output logic [OP_BITS-1:0] counter_index,
    input logic [63:0] counters,
    output logic read,
    output logic [23:0] read_address,
    output logic pass,  // the answer before goes to the register behind the memory
    input logic [PORTS*VALUE_BITS-1:0] read_data,  // that register
    output logic [31:0] m_axis_tdata,
    output logic m_axis_tvalid,
    output logic m_axis_tlast,
    input logic m_axis_tready
);
    localparam int LOG = $clog2(PORTS);
    typedef enum logic [3:0] {IDLE, PORT, ENTRY, LOOK, BEGIN_PORT, WORDS, LOW, HIGH, REFUSE, LAST} state_t;
    state_t state;
    logic [OP_BITS:0] index;
    logic [23:0] at, left;
    logic enable, here, held_here, last;
    logic [1:0] counter_ready;
    logic [LOG-1:0] lane, held_lane;
    logic [48:0] entry;
    logic [63:0] held_counters;
    logic [31:0] high;
    logic [VALUE_BITS-1:0] value;

    // A word read from the signals is two stages behind; counters wait until these are empty.
    assign enable = !m_axis_tvalid || m_axis_tready;
    assign port_index = index[OP_BITS-1:0];
    assign counter_index = state == HIGH ? index[OP_BITS-1:0] + 1'b1 : index[OP_BITS-1:0];
    assign read = state == WORDS && enable;
    assign read_address = at;
    assign pass = enable;
    selector #(.WIDTH(VALUE_BITS), .COUNT(PORTS)) pick (.words(read_data), .index(held_lane), .word(value));

    always_ff @(posedge clock) begin
        done <= 1'b0;
        if (reset) begin
            state <= IDLE;
            {here, held_here} <= '0;
            m_axis_tvalid <= 1'b0;
            m_axis_tlast <= 1'b0;
        end else begin
            if (enable) begin
                here <= state == WORDS;
                lane <= at[LOG-1:0];
                held_here <= here;
                held_lane <= lane;
                m_axis_tvalid <= held_here;
                m_axis_tdata <= 32'($signed(value));
                m_axis_tlast <= 1'b0;
            end
            case (state)
                IDLE:
                if (start) begin
                    state <= refuse ? REFUSE : PORT;
                    index <= '0;
                end
                PORT: begin  // the memory of the ports reads
                    state <= ENTRY;
                    if (index == ports) begin
                        state <= here || held_here ? PORT : LOW;
                        if (!here && !held_here) index <= '0;
                    end
                end
                ENTRY: state <= LOOK;
                LOOK: begin
                    at <= entry[23:0];
                    left <= entry[47:24];
                    index <= index + 1'b1;
                    state <= traced || entry[48] ? BEGIN_PORT : PORT;
                end
                BEGIN_PORT: begin
                    last <= left == 24'd1;
                    state <= WORDS;
                end
                WORDS:
                if (enable) begin
                    at <= at + 24'd1;
                    left <= left - 24'd1;
                    last <= left == 24'd2;
                    if (last) state <= PORT;
                end
                LOW:
                if (enable && counter_ready[1]) begin
                    m_axis_tvalid <= 1'b1;
                    m_axis_tdata <= held_counters[31:0];
                    high <= held_counters[63:32];
                    state <= HIGH;
                end
                HIGH:
                if (enable) begin
                    m_axis_tvalid <= 1'b1;
                    m_axis_tdata <= high;
                    m_axis_tlast <= index + 1'b1 == ops;
                    index <= index + 1'b1;
                    state <= index + 1'b1 == ops ? LAST : LOW;
                end
                REFUSE:
                if (enable) begin
                    m_axis_tvalid <= 1'b1;
                    m_axis_tdata <= status;
                    m_axis_tlast <= 1'b1;
                    state <= LAST;
                end
                default:
                if (enable) begin
                    state <= IDLE;
                    done <= 1'b1;
                end
            endcase
            entry <= port;
            held_counters <= counters;
            counter_ready <= {counter_ready[0] && state != HIGH, state == LOW || state == HIGH};  // the counters of `index` are held
        end
    end
endmodule
