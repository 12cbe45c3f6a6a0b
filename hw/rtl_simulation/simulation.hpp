// The engine in its surroundings: clock, reset, external memory, the host's register accesses and the two streams.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "Engine.h"
#include "memory.hpp"

namespace simulation {

class Simulation {
public:
    static constexpr Cycle PATIENCE = 2'000'000;  // cycles without any progress

    explicit Simulation(const Options& options)
        : memory(options), stall_event(options, 3), stall_result(options, 4), stall_control(options, 5) {
        context.randReset(2);
        context.randSeed(static_cast<int>(options.seed) + 1);
        engine = std::make_unique<Engine>(&context);
        engine->aresetn = 0;
        engine->s_axi_control_awvalid = engine->s_axi_control_wvalid = engine->s_axi_control_arvalid = 0;
        quiet();
        drive();
        for (int i = 0; i < 16; ++i) tick();
        engine->aresetn = 1;
        tick();
    }
    ~Simulation() { engine->final(); }

    Word read_register(Word offset) {
        begin();
        engine->s_axi_control_araddr = static_cast<CData>(offset);
        for (bool address = true, data = true; address || data;) {
            engine->s_axi_control_arvalid = address && (engine->s_axi_control_arvalid || !stall_control());
            engine->s_axi_control_rready = !stall_control();
            tick();
            if (fired.read_address) address = false;
            if (fired.read_data) data = false;
            patience("s_axi_control R");
        }
        quiet();
        return read_value;
    }

    void write_register(Word offset, Word value) {
        begin();
        engine->s_axi_control_awaddr = static_cast<CData>(offset);
        engine->s_axi_control_wdata = value;
        engine->s_axi_control_wstrb = 15;
        for (bool address = true, data = true, response = true; address || data || response;) {
            engine->s_axi_control_awvalid = address && (engine->s_axi_control_awvalid || !stall_control());
            engine->s_axi_control_wvalid = data && (engine->s_axi_control_wvalid || !stall_control());
            engine->s_axi_control_bready = !stall_control();
            tick();
            if (fired.write_address) address = false;
            if (fired.write_data) data = false;
            if (fired.write_response) response = false;
            patience("s_axi_control B");
        }
        quiet();
    }

    void wait_for_interrupt() {  // Verilator renames a port that is a reserved word somewhere
        for (begin(); !engine->__SYM__interrupt;) {
            tick();
            patience("interrupt");
        }
    }

    std::vector<Word> receive() {
        for (begin(); packets.empty();) {
            tick();
            patience("m_axis_results");
        }
        std::vector<Word> packet = packets.front();
        packets.pop_front();
        return packet;
    }

    void send(const std::vector<Word>& words) {
        for (std::size_t i = 0; i < words.size(); ++i) events.push_back({words[i], i + 1 == words.size()});
    }

    Memory memory;
    Rules rules;
    Cycle cycle = 0;
    std::vector<Cycle> op_cycles;  // by op_index, while op_busy

private:
    struct Event {
        Word word;
        bool last;
    };
    struct Fired {
        bool request, beat, event, result, read_address, read_data, write_address, write_data, write_response;
    };

    void tick() {
        Engine& e = *engine;
        e.aclk = 0;
        e.eval();
        observe();
        const std::uint64_t address = e.m_axi_image_araddr;
        const Word beats = e.m_axi_image_arlen + 1U;
        e.aclk = 1;
        e.eval();
        memory.advance(cycle, fired.request, address, beats, fired.beat);
        advance_streams();
        drive();
        ++cycle;
    }

    // Handshakes of this cycle, protocol checks and accounts, on settled signals.
    void observe() {
        const Engine& e = *engine;
        const bool reset = !e.aresetn;
        request.check(rules, cycle, reset, e.m_axi_image_arvalid, e.m_axi_image_arready,
                      {e.m_axi_image_araddr, e.m_axi_image_arlen, e.m_axi_image_arsize, e.m_axi_image_arburst});
        result.check(rules, cycle, reset, e.m_axis_results_tvalid, e.m_axis_results_tready, {e.m_axis_results_tdata, e.m_axis_results_tlast});
        read.check(rules, cycle, reset, e.s_axi_control_rvalid, e.s_axi_control_rready, {e.s_axi_control_rdata, e.s_axi_control_rresp});
        response.check(rules, cycle, reset, e.s_axi_control_bvalid, e.s_axi_control_bready, {e.s_axi_control_bresp});
        if (!e.aresetn) {
            fired = {};
            return;
        }
        if (e.m_axi_image_arvalid)
            check_burst(rules, cycle, e.m_axi_image_araddr, e.m_axi_image_arlen, e.m_axi_image_arsize, e.m_axi_image_arburst);
        if (e.s_axi_control_rvalid) rules.require(reads_asked > 0, cycle, "s_axi_control R", "response that nobody asked for");
        if (e.s_axi_control_bvalid)
            rules.require(addresses_written > 0 && data_written > 0, cycle, "s_axi_control B", "response before address and data");
        fired.request = e.m_axi_image_arvalid && e.m_axi_image_arready;
        fired.beat = e.m_axi_image_rvalid && e.m_axi_image_rready;
        fired.event = e.s_axis_events_tvalid && e.s_axis_events_tready;
        fired.result = e.m_axis_results_tvalid && e.m_axis_results_tready;
        fired.read_address = e.s_axi_control_arvalid && e.s_axi_control_arready;
        fired.read_data = e.s_axi_control_rvalid && e.s_axi_control_rready;
        fired.write_address = e.s_axi_control_awvalid && e.s_axi_control_awready;
        fired.write_data = e.s_axi_control_wvalid && e.s_axi_control_wready;
        fired.write_response = e.s_axi_control_bvalid && e.s_axi_control_bready;
        if (fired.read_data) read_value = e.s_axi_control_rdata;
        if (fired.read_data) rules.require(e.s_axi_control_rresp == 0, cycle, "s_axi_control R", "error response");
        if (fired.write_response) rules.require(e.s_axi_control_bresp == 0, cycle, "s_axi_control B", "error response");
        reads_asked += fired.read_address - fired.read_data;
        addresses_written += fired.write_address - fired.write_response;
        data_written += fired.write_data - fired.write_response;
        if (fired.result) take(e.m_axis_results_tdata, e.m_axis_results_tlast);
        if (e.op_busy) {
            if (op_cycles.size() <= e.op_index) op_cycles.resize(e.op_index + 1U);
            ++op_cycles[e.op_index];
        }
        if (fired.request || fired.beat || fired.event || fired.result || e.op_index != last_op) begin();
        last_op = e.op_index;
    }

    void take(Word word, bool last) {
        packet.push_back(word);
        if (!last) return;
        packets.push_back(packet);
        packet.clear();
    }

    void advance_streams() {
        if (fired.event) events.pop_front();
        offered = !events.empty() && ((offered && !fired.event) || !stall_event());
        taking = !stall_result();
    }

    // The inputs of the next cycle.
    void drive() {
        Engine& e = *engine;
        e.m_axi_image_arready = memory.ready;
        e.m_axi_image_rvalid = memory.valid;
        e.m_axi_image_rlast = memory.last;
        e.m_axi_image_rresp = static_cast<CData>(memory.response);
        for (std::size_t i = 0; i < BEAT_WORDS; ++i) e.m_axi_image_rdata[i] = memory.data[i];
        e.s_axis_events_tvalid = offered;
        e.s_axis_events_tdata = offered ? events.front().word : 0xDEADBEEFU;
        e.s_axis_events_tlast = offered && events.front().last;
        e.m_axis_results_tready = taking;
    }

    void quiet() {
        engine->s_axi_control_rready = 0;
        engine->s_axi_control_bready = 0;
    }

    void begin() { progress = cycle; }

    void patience(const char* what) const {
        if (cycle - progress > PATIENCE) throw Violation(cycle, what, "nothing has moved for " + std::to_string(PATIENCE) + " cycles");
    }

    VerilatedContext context;
    std::unique_ptr<Engine> engine;
    Stalls stall_event, stall_result, stall_control;
    DrivenChannel<4> request{"m_axi_image AR"};
    DrivenChannel<2> result{"m_axis_results"}, read{"s_axi_control R"};
    DrivenChannel<1> response{"s_axi_control B"};
    std::deque<Event> events;
    std::vector<Word> packet;
    std::deque<std::vector<Word>> packets;
    Fired fired{};
    bool offered = false, taking = false;
    int reads_asked = 0, addresses_written = 0, data_written = 0;  // by the host, not answered yet
    Word read_value = 0, last_op = 0;
    Cycle progress = 0;
};

}  // namespace simulation
