// Clocks a Verilated design and drives its AXI4-Lite bus from C++, so that Python is called once per
// job and not once per clock. Compiled into a shared library by sim/backends/compiled.py, called by ctypes.
//
// One call of clock() is one clock cycle: inputs set before it are seen by the rising edge; outputs
// are sampled just before that edge. Every function returns 0 (AXI OKAY) or more (AXI error
// response), or a negative number: -1 no answer, -2 no match within the limit of clocks.
//
// With CROSSBAR defined the design has the analog macro's port (rtl/interfaces.py, rtl/pair_interfaces.py) at
// its top and a model answers it: samples, cell writes and cell reads go to callbacks, once per OU and not once
// per clock; the comparators are evaluated here from the held values and the step's limits, both in counts.
// What samples and converts on its own is a part of the port: CROSSBAR_PARTS is a list of PART(index, prefix of
// its members, port that tells the place which a converter compares, or 0).

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "Vdut.h"
#include "verilated.h"
#ifdef WAVES
#include "verilated_vcd_c.h"
#endif
#ifdef COVERAGE
#include "verilated_cov.h"
#endif

namespace {

// Verilator keeps ports of up to 64 bits as integers and wider ones as arrays of 32-bit words.
template <typename Port>
uint32_t word_of(const Port& port, int index) {
    if constexpr (std::is_integral_v<Port>) {
        return index < 2 ? static_cast<uint32_t>(static_cast<uint64_t>(port) >> (32 * index)) : 0;
    } else {
        return port[index];
    }
}

// A number inside a port, from bit `bit` of a word on; whether it goes on in the next one.
template <bool crosses, typename Port>
uint32_t bits_of(const Port& port, int word, int bit, int width) {
    const uint64_t next = crosses ? word_of(port, word + crosses) : 0;
    return (word_of(port, word) | next << 32) >> bit & ((1ull << width) - 1);
}

template <typename Port>
void set_words(Port& port, const uint32_t* words) {
    if constexpr (std::is_integral_v<Port>) {
        port = static_cast<Port>(sizeof(Port) > 4 ? words[0] | static_cast<uint64_t>(words[1]) << 32 : words[0]);
    } else {
        for (size_t i = 0; i < sizeof(Port) / 4; i++) port[i] = words[i];
    }
}

#ifdef CROSSBAR
#define ANALOG(name) crossbar___05F##name

struct Model {
    void (*sample)(uint32_t part, const uint32_t* payload, uint32_t step);
    int (*program)(const uint32_t* payload);  // whether a cell did not take its value
    void (*readback)(const uint32_t* payload, uint32_t* cells);
    const double* held;    // [PARTS][PLACES][CONVERTERS] counts
    const double* limits;  // [steps][1 << CODE_BITS] counts; a comparator answers held >= limit
    uint32_t steps;
};

// What the comparators of a part answered last.
struct Compared {
    bool changed = true;  // a sample was taken since then
    uint32_t step = 0;
    uint32_t codes[(CONVERTERS * CODE_BITS + 31) / 32 + 1] = {};
    uint32_t places[(CONVERTERS * PLACE_BITS + 31) / 32 + 1] = {};
};

// Read words of a port; whether they differ from what was there.
template <size_t size, typename Port>
bool update(uint32_t (&words)[size], const Port& port, size_t count) {
    bool different = false;
    for (size_t i = 0; i < count; i++) {
        const uint32_t word = word_of(port, i);
        different = different || word != words[i];
        words[i] = word;
    }
    return different;
}

// Field `index` of an array of fields of `bits` bits; a word follows the last one.
inline uint32_t field(const uint32_t* words, int index, int bits) {
    const int bit = index * bits;
    const uint64_t pair = words[bit / 32] | static_cast<uint64_t>(words[bit / 32 + 1]) << 32;
    return (pair >> (bit % 32)) & ((1u << bits) - 1);
}
#endif

constexpr uint64_t ANSWER_LIMIT = 10000;    // clocks an access may take
constexpr uint64_t STREAM_LIMIT = 1 << 21;  // clocks a word of the load stream may wait, for the array too

struct Simulation {
    VerilatedContext context;
    std::unique_ptr<Vdut> top;
#ifdef WAVES
    std::unique_ptr<VerilatedVcdC> waves;
#endif
    std::string coverage;  // file that takes what was covered, at the end
    uint64_t clocks = 0;
    bool tracing = false;
    int step = -1;  // records of other steps are left out; -1: none is
    std::vector<uint32_t> trace;
    uint64_t random = 0x9E3779B97F4A7C15;
    uint32_t pauses = 0;  // share of clocks, of 2**32, in which the host gives and takes nothing, on every channel

    bool goes(uint32_t share) {  // not so in that share of the calls; xorshift64
        if (!share) return true;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random >> 32) >= share;
    }

    Simulation() : top(new Vdut(&context)) {
#ifdef CROSSBAR
#ifdef COMPARATOR_VALID
        uint32_t all[(CONVERTERS + 63) / 32 + 1] = {};
        for (int j = 0; j < CONVERTERS; j++) all[j / 32] |= 1u << (j % 32);
#define PART(index, prefix, places) set_words(top->prefix##decided, all);
        CROSSBAR_PARTS
#undef PART
#endif
#define PART(index, prefix, places) top->prefix##sample___05Fready = 1;
        CROSSBAR_PARTS
#undef PART
        top->ANALOG(program___05Fready) = 1;
        top->ANALOG(readback_request___05Fready) = 1;
#endif
    }

    ~Simulation() {
#ifdef WAVES
        if (waves) waves->close();
#endif
        top->final();
#ifdef COVERAGE
        if (!coverage.empty()) context.coveragep()->write(coverage);
#endif
    }

    void settle() {
#ifdef CROSSBAR
        if (busy) be_busy();
        compare();
#endif
        top->clk = 0;
        top->eval();
#ifdef WAVES
        if (waves) waves->dump(2 * clocks);
#endif
    }

    void edge() {
#ifdef CROSSBAR
        transfer();
#endif
        top->clk = 1;
        top->eval();
#ifdef WAVES
        if (waves) waves->dump(2 * clocks + 1);
#endif
#ifdef CROSSBAR
        answer_readback();
        top->ANALOG(program_failed) = 0;
#endif
        clocks++;
    }

    void record();

#ifdef CROSSBAR
    Model model{};
    uint32_t busy = 0;  // share of clocks, of 2**32, in which the array takes nothing, on every stream
    bool readback_due = false;  // a cell read was answered by `readback`, to be taken by the design
    Compared compared[PARTS];

    void be_busy() {
#define PART(index, prefix, places) top->prefix##sample___05Fready = goes(busy);
        CROSSBAR_PARTS
#undef PART
        top->ANALOG(program___05Fready) = goes(busy);
        top->ANALOG(readback_request___05Fready) = !readback_due && goes(busy);
    }

    // Comparators of this clock: what they depend on are registers, so it is known before logic settles.
    void compare() {
        if (!model.held) return;
#define PART(index, prefix, places) \
    compare(index, top->prefix##thresholds, places, top->prefix##comparators);
        CROSSBAR_PARTS
#undef PART
    }

    template <typename Thresholds, typename Places, typename Comparators>
    void compare(int part, const Thresholds& thresholds, const Places& places, Comparators& comparators) {
        Compared& last = compared[part];
        const uint32_t step = std::min<uint32_t>(top->ANALOG(layer), model.steps - 1);
        bool changed = last.changed || step != last.step;
        changed |= update(last.codes, thresholds, (CONVERTERS * CODE_BITS + 31) / 32);
        changed |= update(last.places, places, (CONVERTERS * PLACE_BITS + 31) / 32);
        if (!changed) return;
        last.changed = false;
        last.step = step;
        const double* limits = model.limits + (static_cast<size_t>(step) << CODE_BITS);
        const double* held = model.held + static_cast<size_t>(part) * PLACES * CONVERTERS;
        uint32_t answers[(CONVERTERS + 63) / 32 + 1] = {};
        for (int j = 0; j < CONVERTERS; j++) {
            const uint32_t code = field(last.codes, j, CODE_BITS);
            const uint32_t place = field(last.places, j, PLACE_BITS);
            answers[j / 32] |= static_cast<uint32_t>(held[place * CONVERTERS + j] >= limits[code]) << (j % 32);
        }
        set_words(comparators, answers);
    }

    template <typename Payload>
    void sample(int part, bool valid, const Payload& payload) {
        if (!valid) return;
        uint32_t words[SAMPLE_WORDS];
        for (int i = 0; i < SAMPLE_WORDS; i++) words[i] = word_of(payload, i);
        model.sample(part, words, top->ANALOG(layer));
        compared[part].changed = true;
    }

    // Transfers of this clock, seen just before its rising edge; their effect is seen after it.
    void transfer() {
        if (!model.held) return;
#define PART(index, prefix, places) \
    sample(index, top->prefix##sample___05Fvalid && top->prefix##sample___05Fready, \
           top->prefix##sample___05Fpayload);
        CROSSBAR_PARTS
#undef PART
        uint32_t payload[ADDRESS_WORDS];
        if (top->ANALOG(program___05Fvalid) && top->ANALOG(program___05Fready)) {
            std::vector<uint32_t> cells(PROGRAM_WORDS);
            for (int i = 0; i < PROGRAM_WORDS; i++) cells[i] = word_of(top->ANALOG(program___05Fpayload), i);
            if (model.program(cells.data())) {
                top->ANALOG(program_failed) = 1;
                top->eval();
            }
        }
        // Applied after the edge, as a registered answer would be.
        if (top->ANALOG(readback___05Fvalid)) {
            if (top->ANALOG(readback___05Fready)) readback_due = false;
        } else if (top->ANALOG(readback_request___05Fvalid) && top->ANALOG(readback_request___05Fready)) {
            for (int i = 0; i < ADDRESS_WORDS; i++) payload[i] = word_of(top->ANALOG(readback_request___05Fpayload), i);
            cells_read.assign(CELL_WORDS + 2, 0);
            model.readback(payload, cells_read.data());
            readback_due = true;
        }
    }

    std::vector<uint32_t> cells_read;

    void answer_readback() {
        top->ANALOG(readback___05Fvalid) = readback_due;
        top->ANALOG(readback_request___05Fready) = !readback_due;
        if (readback_due) set_words(top->ANALOG(readback___05Fpayload), cells_read.data());
    }
#endif

    void clock() {
        settle();
        if (tracing) record();
        edge();
    }

    // What is valid stays so until it is taken.
    int write(uint32_t address, uint32_t data) {
        top->s_axil_awaddr = address;
        top->s_axil_wdata = data;
        top->s_axil_wstrb = 0xF;
        bool address_left = true, data_left = true;
        for (uint64_t i = 0; i < ANSWER_LIMIT; i++) {
            top->s_axil_awvalid = address_left && (top->s_axil_awvalid || goes(pauses));
            top->s_axil_wvalid = data_left && (top->s_axil_wvalid || goes(pauses));
            top->s_axil_bready = goes(pauses);
            settle();
            const bool address_taken = top->s_axil_awvalid && top->s_axil_awready;
            const bool data_taken = top->s_axil_wvalid && top->s_axil_wready;
            const bool answered = top->s_axil_bvalid && top->s_axil_bready;
            const int response = top->s_axil_bresp;
            if (tracing) record();
            edge();
            if (address_taken) address_left = top->s_axil_awvalid = 0;
            if (data_taken) data_left = top->s_axil_wvalid = 0;
            if (answered) {
                top->s_axil_bready = 0;
                return response;
            }
        }
        return -1;
    }

    int read(uint32_t address, uint32_t* data) {
        top->s_axil_araddr = address;
        bool left = true;
        for (uint64_t i = 0; i < ANSWER_LIMIT; i++) {
            top->s_axil_arvalid = left && (top->s_axil_arvalid || goes(pauses));
            top->s_axil_rready = goes(pauses);
            settle();
            const bool address_taken = top->s_axil_arvalid && top->s_axil_arready;
            const bool answered = top->s_axil_rvalid && top->s_axil_rready;
            const int response = top->s_axil_rresp;
            *data = top->s_axil_rdata;
            if (tracing) record();
            edge();
            if (address_taken) left = top->s_axil_arvalid = 0;
            if (answered) {
                top->s_axil_rready = 0;
                return response;
            }
        }
        return -1;
    }
};

void Simulation::record() {
#ifdef TRACE_VALID
    if (TRACE_VALID) {
#ifdef TRACE_LAYER
        if (step >= 0 && TRACE_LAYER != static_cast<uint32_t>(step)) return;
#endif
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

void sim_coverage(Simulation* sim, const char* path) { sim->coverage = path; }

void sim_reset(Simulation* sim) {
    sim->top->rst = 1;
    for (int i = 0; i < 4; i++) sim->clock();
    sim->top->rst = 0;
    sim->clock();
}

#ifdef CROSSBAR
void sim_model(Simulation* sim, const Model* model) { sim->model = *model; }

void sim_busy(Simulation* sim, uint32_t share) { sim->busy = share; }
#endif

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

void sim_pauses(Simulation* sim, uint32_t share) { sim->pauses = share; }

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

// Send words of a packet, the end of one if `last`; `done` tells how many were taken.
int sim_stream(Simulation* sim, const uint32_t* words, uint64_t count, int last, uint64_t* done) {
    *done = 0;
#ifdef STREAM
    auto& top = sim->top;
    for (uint64_t waited = 0; *done < count && waited < STREAM_LIMIT;) {
        top->s_axis_tvalid = top->s_axis_tvalid || sim->goes(sim->pauses);
        top->s_axis_tdata = words[*done];
        top->s_axis_tlast = last && *done + 1 == count;
        sim->settle();
        const bool taken = top->s_axis_tvalid && top->s_axis_tready;
        if (sim->tracing) sim->record();
        sim->edge();
        if (taken) top->s_axis_tvalid = 0;
        waited = taken ? 0 : waited + 1;
        *done += taken;
    }
    top->s_axis_tvalid = 0;  // of a word that was never taken
#endif
    return *done == count ? 0 : -1;
}

// Let clocks pass until the interrupt output is 1. -2: not within `limit` clocks.
int sim_interrupt(Simulation* sim, uint64_t limit) {
#ifdef INTERRUPT
    for (uint64_t i = 0; i < limit; i++) {
        if (sim->top->irq) return 0;
        sim->clock();
    }
#endif
    return -2;
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

void sim_trace(Simulation* sim, int enable, int step) {
    sim->tracing = enable != 0;
    sim->step = step;
    if (enable) sim->trace.clear();
}

uint64_t sim_trace_words(Simulation* sim) { return sim->trace.size(); }

const uint32_t* sim_trace_data(Simulation* sim) { return sim->trace.data(); }

}  // extern "C"
