// Reads rows of the signal memory and names their neurons that are not 0, one per cycle: sign, magnitude and the address of the
// weight row, which is the base of the neuron's block and a multiple of the stride, added in steps along the way.
module neuron_read #(
    parameter int PORTS = 4,
    parameter int VALUE_BITS = 24,
    parameter int SIGNAL_BITS = 14,
    localparam int LOG = $clog2(PORTS)
) (
    input logic clock,
    input logic reset,
    input logic valid,  // a row is asked for
    output logic take,  // a register
    input logic [SIGNAL_BITS-LOG-1:0] place,
    input logic [5-LOG:0] index,  // of the row within its block of 64 neurons
    input logic [PORTS-1:0] wanted,  // neurons of the row
    input logic single,  // the base is that of the neuron itself; index is 0
    input engine::beat_address_t base,
    input engine::beat_address_t stride,
    output logic busy,
    output logic read,  // nothing else reads the signals meanwhile: the answer stays until the next read
    output logic pass,  // the answer before goes to the register behind the memory
    output logic [SIGNAL_BITS-1:0] read_address,
    input logic [PORTS*VALUE_BITS-1:0] read_data,  // that register
    output logic found,
    output logic negative,
    output logic [VALUE_BITS-1:0] magnitude,
    output engine::beat_address_t row,
    input logic ready
);
    logic valid1, valid2, valid5, free4, free5, free6, leave, none, one, single1, single2, single3, single4, there4;
    logic [PORTS-1:0] wanted1, wanted2, fresh, mask, first;
    logic [5:0] whole_index;  // of the first neuron of the row
    logic [3:0] index1;
    logic [PORTS*VALUE_BITS-1:0] data3;
    logic [VALUE_BITS-1:0] picked, value4, value5;
    engine::beat_address_t base1, base2, base3, base4, base5, high1, low1, high2, low2, lanes5;
    logic [LOG-1:0] lane, lane4;

    logic row_valid, row_single, row_taken;
    logic [SIGNAL_BITS-LOG-1:0] row_place;
    logic [5-LOG:0] row_index;
    logic [PORTS-1:0] row_wanted;
    engine::beat_address_t row_base;
    skid_buffer #(.WIDTH($bits({place, index, wanted, single, base}))) rows (
        .clock, .reset, .in_valid(valid), .ready(take), .in({place, index, wanted, single, base}), .valid(row_valid), .pop(row_taken),
        .out({row_place, row_index, row_wanted, row_single, row_base})
    );

    assign whole_index = {row_index, {LOG{1'b0}}};
    assign read = row_valid && row_taken;
    assign pass = row_taken;
    assign read_address = {row_place, {LOG{1'b0}}};
    assign free6 = !found || ready;
    assign free5 = !valid5 || free6;
    assign leave = none || (one && free4);
    assign row_taken = !valid2 || leave;
    assign busy = row_valid || valid1 || valid2 || !none || there4 || valid5 || found;
    for (genvar p = 0; p < PORTS; p++) begin : g_fresh
        assign fresh[p] = valid2 && wanted2[p] && read_data[p*VALUE_BITS+:VALUE_BITS] != '0;
    end
    first_one #(.COUNT(PORTS)) next_neuron (.set(mask), .first, .index(lane));
    selector #(.WIDTH(VALUE_BITS), .COUNT(PORTS)) pick (.words(data3), .index(lane), .word(picked));

    // So that the memory does not wait for the events in the same cycle.
    skid_buffer #(.WIDTH($bits({picked, base3, lane, single3}))) neurons (
        .clock, .reset, .in_valid(!none), .ready(free4), .in({picked, base3, lane, single3}), .valid(there4), .pop(free5),
        .out({value4, base4, lane4, single4})
    );

    // A term that a bit of the index switches on is a register that the bit resets, which costs no logic.
    logic [LOG-1:0][engine::BEAT_ADDRESS_BITS-1:0] terms5;
    always_comb begin
        lanes5 = terms5[0];
        for (int i = 1; i < LOG; i++) lanes5 = lanes5 + terms5[i];
    end

    always_ff @(posedge clock) begin
        if (row_taken) begin
            single1 <= row_single;
            wanted1 <= row_wanted;
            index1 <= whole_index[3:0];
            base1 <= row_base;
            high1 <= whole_index[5] ? stride << 5 : '0;
            low1 <= whole_index[4] ? stride << 4 : '0;
            single2 <= single1;
            wanted2 <= wanted1;
            base2 <= base1 + high1 + low1;
            high2 <= index1[3] ? stride << 3 : '0;
            low2 <= index1[2] ? stride << 2 : '0;
        end
        if (leave) begin
            data3 <= read_data;
            base3 <= base2 + high2 + low2;
            single3 <= single2;
        end
        if (free5) begin
            value5 <= value4;
            base5 <= base4;
            for (int i = 0; i < LOG; i++) terms5[i] <= lane4[i] && !single4 ? stride << i : '0;
        end
        if (free6) begin
            negative <= value5[VALUE_BITS-1];
            magnitude <= value5[VALUE_BITS-1] ? -value5 : value5;
            row <= base5 + lanes5;
        end
        if (reset) begin
            {valid1, valid2, valid5, found} <= '0;
            {none, one} <= '1;
            mask <= '0;
        end else begin
            if (row_taken) {valid2, valid1} <= {valid1, row_valid};
            // How many neurons are left is known with them, not from them.
            if (leave) {none, one, mask} <= {fresh == '0, engine::at_most_one(16'(fresh)), fresh};
            else if (free4) {none, one, mask} <= {one, engine::at_most_two(16'(mask)), mask & ~first};
            if (free5) valid5 <= there4;
            if (free6) found <= valid5;
        end
    end
    logic unused;
    assign unused = &{1'b0, index1};
endmodule
