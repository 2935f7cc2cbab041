// Clocks a Verilated design and drives its AXI4-Lite bus from C++, so that Python is called once per
// job and not once per clock. Compiled into a shared library by sim/compiled.py, called by ctypes.
//
// One call of clock() is one clock cycle: inputs set before it are seen by the rising edge; outputs
// are sampled just before that edge. Every function returns 0 (AXI OKAY) or more (AXI error
// response), or a negative number: -1 no answer or no match within the limit of clocks.

#include <cstdint>
#include <memory>
#include <vector>

#include "Vdut.h"
#include "verilated.h"
#ifdef WAVES
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr uint64_t ANSWER_LIMIT = 10000;  // clocks an access may take

struct Simulation {
    VerilatedContext context;
    std::unique_ptr<Vdut> top;
#ifdef WAVES
    std::unique_ptr<VerilatedVcdC> waves;
#endif
    uint64_t clocks = 0;
    bool tracing = false;
    std::vector<uint32_t> trace;

    Simulation() : top(new Vdut(&context)) {}

    ~Simulation() {
#ifdef WAVES
        if (waves) waves->close();
#endif
        top->final();
    }

    void settle() {
        top->clk = 0;
        top->eval();
#ifdef WAVES
        if (waves) waves->dump(2 * clocks);
#endif
    }

    void edge() {
        top->clk = 1;
        top->eval();
#ifdef WAVES
        if (waves) waves->dump(2 * clocks + 1);
#endif
        clocks++;
    }

    void record();

    void clock() {
        settle();
        if (tracing) record();
        edge();
    }

    int write(uint32_t address, uint32_t data) {
        top->s_axil_awaddr = address;
        top->s_axil_awvalid = 1;
        top->s_axil_wdata = data;
        top->s_axil_wstrb = 0xF;
        top->s_axil_wvalid = 1;
        top->s_axil_bready = 1;
        for (uint64_t i = 0; i < ANSWER_LIMIT; i++) {
            settle();
            const bool address_taken = top->s_axil_awvalid && top->s_axil_awready;
            const bool data_taken = top->s_axil_wvalid && top->s_axil_wready;
            const bool answered = top->s_axil_bvalid;
            const int response = top->s_axil_bresp;
            if (tracing) record();
            edge();
            if (address_taken) top->s_axil_awvalid = 0;
            if (data_taken) top->s_axil_wvalid = 0;
            if (answered) {
                top->s_axil_bready = 0;
                return response;
            }
        }
        return -1;
    }

    int read(uint32_t address, uint32_t* data) {
        top->s_axil_araddr = address;
        top->s_axil_arvalid = 1;
        top->s_axil_rready = 1;
        for (uint64_t i = 0; i < ANSWER_LIMIT; i++) {
            settle();
            const bool address_taken = top->s_axil_arvalid && top->s_axil_arready;
            const bool answered = top->s_axil_rvalid;
            const int response = top->s_axil_rresp;
            *data = top->s_axil_rdata;
            if (tracing) record();
            edge();
            if (address_taken) top->s_axil_arvalid = 0;
            if (answered) {
                top->s_axil_rready = 0;
                return response;
            }
        }
        return -1;
    }
};

// Verilator keeps ports of up to 64 bits as integers and wider ones as arrays of 32-bit words.
template <typename Port>
uint32_t word_of(const Port& port, int index) {
    if constexpr (std::is_integral_v<Port>) {
        return static_cast<uint32_t>(static_cast<uint64_t>(port) >> (32 * index));
    } else {
        return port[index];
    }
}

void Simulation::record() {
#ifdef TRACE_VALID
    if (TRACE_VALID) {
#define PORT(name, words) \
    for (int i = 0; i < words; i++) trace.push_back(word_of(top->name, i));
        TRACE_PORTS
#undef PORT
    }
#endif
}

}  // namespace

extern "C" {

Simulation* sim_new() { return new Simulation; }

void sim_delete(Simulation* sim) { delete sim; }

void sim_reset(Simulation* sim) {
    sim->top->rst = 1;
    for (int i = 0; i < 4; i++) sim->clock();
    sim->top->rst = 0;
    sim->clock();
}

// 0 if this library was compiled with waveforms and the file is open, else -1.
int sim_waves(Simulation* sim, const char* path) {
#ifdef WAVES
    sim->context.traceEverOn(true);
    sim->waves.reset(new VerilatedVcdC);
    sim->top->trace(sim->waves.get(), 99);
    sim->waves->open(path);
    return sim->waves->isOpen() ? 0 : -1;
#else
    return -1;
#endif
}

uint64_t sim_clocks(Simulation* sim) { return sim->clocks; }

void sim_wait(Simulation* sim, uint64_t clocks) {
    for (uint64_t i = 0; i < clocks; i++) sim->clock();
}

// `done` tells how many accesses succeeded.
int sim_write_many(Simulation* sim, const uint32_t* addresses, const uint32_t* words, uint64_t count, uint64_t* done) {
    for (*done = 0; *done < count; ++*done) {
        const int response = sim->write(addresses[*done], words[*done]);
        if (response) return response;
    }
    return 0;
}

int sim_read_many(Simulation* sim, const uint32_t* addresses, uint32_t* words, uint64_t count, uint64_t* done) {
    for (*done = 0; *done < count; ++*done) {
        const int response = sim->read(addresses[*done], &words[*done]);
        if (response) return response;
    }
    return 0;
}

// Read every `interval` clocks until (word & mask) == value. -2: not within `limit` clocks.
int sim_poll(Simulation* sim, uint32_t address, uint32_t mask, uint32_t value, uint64_t limit, uint64_t interval,
             uint32_t* word) {
    const uint64_t end = sim->clocks + limit;
    for (;;) {
        const int response = sim->read(address, word);
        if (response) return response;
        if ((*word & mask) == value) return 0;
        if (sim->clocks >= end) return -2;
        sim_wait(sim, interval);
    }
}

void sim_trace(Simulation* sim, int enable) {
    sim->tracing = enable != 0;
    sim->trace.clear();
}

uint64_t sim_trace_words(Simulation* sim) { return sim->trace.size(); }

const uint32_t* sim_trace_data(Simulation* sim) { return sim->trace.data(); }

}  // extern "C"
