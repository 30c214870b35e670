// The fast lane's harness: a verilated model, its clock, and queues on its streams, behind a C interface.
//
// `fast.py` compiles this file with the verilated model and with the file ports.inc that it generates: one line
// `PORT(member)` per top-level port, in the order of `FastSim.ports`. Everything that has a name has it in Python;
// here ports are numbers and streams are pointers into the model.
//
// One cycle is: drive the streams, clock low, evaluate, sample the streams, clock high, evaluate. What is sampled is
// therefore what the flip-flops see at the edge, combinational paths from inputs to outputs included.

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

// A stream's three ports, its queue of beats (to send) or buffer (to fill), and its random stalls.
struct Stream {
    uint8_t *valid, *ready, *payload;
    std::vector<uint8_t> mask;  // ones where the payload has bits; its size is the payload's in bytes
    bool source;                // we drive valid and payload; otherwise we drive ready
    uint8_t *beats = nullptr;   // null until the stream is used: then its ports belong to the harness
    uint64_t stride = 0, count = 0, done = 0;
    uint64_t random = 0, stall = 0;  // xorshift state; stalls when its upper 32 bits are below `stall`
    bool fired = false;              // a beat was transferred in this cycle

    bool open() {
        if (done == count) return false;
        if (stall == 0) return true;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random >> 32) >= stall;
    }

    void drive() {
        if (!source) {
            *ready = open();
        } else if (!*valid && open()) {
            *valid = 1;
            std::memcpy(payload, beats + done * stride, mask.size());
        }
    }

    void sample() {
        fired = *valid && *ready;
        if (!fired) return;
        if (!source) std::memcpy(beats + done * stride, payload, mask.size());
        done++;
    }

    // After the edge. A source between beats offers the complement of its last payload: a block that takes data
    // without looking at valid then computes with garbage instead of passing by luck.
    void release() {
        if (!source) {
            *ready = 0;
        } else if (fired) {
            *valid = 0;
            for (size_t i = 0; i < mask.size(); i++) payload[i] ^= mask[i];
        }
    }
};

struct Watch {
    std::vector<std::pair<const uint8_t *, uint32_t>> ports;  // pointer and size in bytes, at most 8
    uint64_t *rows = nullptr;
    uint64_t capacity = 0, done = 0;
};

// A memory behind an AXI4 master: the ports in the order of `sim_add_memory`'s numbers. It answers in order, after
// `latency` cycles, and pauses at random on every channel. Addresses outside of it, and of the faulty range, get an error.
struct Memory {
    enum Port {
        ARVALID, ARREADY, ARADDR, ARLEN, RVALID, RREADY, RDATA, RRESP, RLAST,
        AWVALID, AWREADY, AWADDR, AWLEN, WVALID, WREADY, WDATA, WSTRB, WLAST, BVALID, BREADY, BRESP, PORTS
    };
    struct Burst {
        uint64_t address, beats, due;
        bool error;
    };

    uint8_t *port[PORTS];
    uint64_t address_bytes, beat_bytes;
    uint8_t *data = nullptr;
    uint64_t base = 0, size = 0, latency = 1, bad_begin = 0, bad_end = 0;
    uint64_t random = 0, stall = 0, cycle = 0;
    std::deque<Burst> reads, writes, responses;
    static constexpr size_t DEPTH = 64;

    bool open() {
        if (stall == 0) return true;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        return (random >> 32) >= stall;
    }

    uint64_t address(Port which) const {
        uint64_t value = 0;
        std::memcpy(&value, port[which], address_bytes);
        return value;
    }

    bool bad(uint64_t at) const {
        return at < base || at + beat_bytes > base + size || (at >= bad_begin && at < bad_end);
    }

    void drive() {
        *port[ARREADY] = reads.size() < DEPTH && open();
        *port[AWREADY] = writes.size() < DEPTH && open();
        *port[WREADY] = !writes.empty() && open();
        if (!*port[RVALID] && !reads.empty() && reads.front().due <= cycle && open()) {
            const Burst &burst = reads.front();
            const bool error = bad(burst.address);
            *port[RVALID] = 1;
            *port[RRESP] = error ? 2 : 0;
            *port[RLAST] = burst.beats == 1;
            if (error) std::memset(port[RDATA], 0xA5, beat_bytes);
            else std::memcpy(port[RDATA], data + (burst.address - base), beat_bytes);
        }
        if (!*port[BVALID] && !responses.empty() && responses.front().due <= cycle && open()) {
            *port[BVALID] = 1;
            *port[BRESP] = responses.front().error ? 2 : 0;
        }
    }

    void sample() {
        if (*port[ARVALID] && *port[ARREADY])
            reads.push_back({address(ARADDR), *port[ARLEN] + 1ull, cycle + latency, false});
        taken_read = *port[RVALID] && *port[RREADY];
        if (taken_read) {
            reads.front().address += beat_bytes;
            if (--reads.front().beats == 0) reads.pop_front();
        }
        if (*port[WVALID] && *port[WREADY]) {
            Burst &burst = writes.front();
            uint64_t strobes = 0;
            std::memcpy(&strobes, port[WSTRB], beat_bytes / 8);
            if (strobes && bad(burst.address)) burst.error = true;
            for (uint64_t i = 0; i < beat_bytes && !bad(burst.address); i++)
                if (strobes >> i & 1) data[burst.address - base + i] = port[WDATA][i];
            burst.address += beat_bytes;
            if (--burst.beats == 0) {
                burst.due = cycle + latency;
                responses.push_back(burst);
                writes.pop_front();
            }
        }
        if (*port[AWVALID] && *port[AWREADY])
            writes.push_back({address(AWADDR), *port[AWLEN] + 1ull, 0, false});
        taken_response = *port[BVALID] && *port[BREADY];
        if (taken_response) responses.pop_front();
        cycle++;
    }

    void release() {
        if (taken_read) *port[RVALID] = 0;
        if (taken_response) *port[BVALID] = 0;
    }

    // The reset is common to both sides of the bus.
    void reset() {
        reads.clear();
        writes.clear();
        responses.clear();
        *port[RVALID] = *port[BVALID] = 0;
    }

    bool taken_read = false, taken_response = false;
};

struct Sim {
    VerilatedContext context;
    Vtop top{&context, "top"};
    std::vector<uint8_t *> ports;
    std::vector<Stream> streams;
    Watch watch;
    std::vector<Memory> memories;
#if VM_TRACE
    VerilatedVcdC *trace = nullptr;
#endif

    Sim() {
#define PORT(member) ports.push_back(reinterpret_cast<uint8_t *>(&top.member));
#include "ports.inc"
#undef PORT
    }

    void evaluate(bool clock) {
        top.clk = clock;
        top.eval();
#if VM_TRACE
        if (trace) trace->dump(context.time());
        context.timeInc(5);
#endif
    }
};

}  // namespace

extern "C" {

Sim *sim_create() { return new Sim; }

void sim_destroy(Sim *sim) {
    sim->top.final();
#if VM_TRACE
    if (sim->trace) sim->trace->close();
    delete sim->trace;
#endif
    delete sim;
}

void *sim_port(Sim *sim, uint32_t port) { return sim->ports[port]; }

void sim_settle(Sim *sim) { sim->evaluate(false); }

void sim_add_stream(Sim *sim, uint32_t valid, uint32_t ready, uint32_t payload, const uint8_t *mask, uint64_t size,
                    int source, uint64_t seed) {
    Stream stream{sim->ports[valid], sim->ports[ready], sim->ports[payload], {mask, mask + size}, source != 0};
    stream.random = seed;
    sim->streams.push_back(stream);
}

// Queue `count` beats to send, or room for as many to receive; the memory stays the caller's.
void sim_use_stream(Sim *sim, uint32_t index, uint8_t *beats, uint64_t stride, uint64_t count, uint64_t stall) {
    Stream &stream = sim->streams[index];
    stream.beats = beats;
    stream.stride = stride;
    stream.count = count;
    stream.done = 0;
    stream.stall = stall;
}

uint64_t sim_stream_done(Sim *sim, uint32_t index) { return sim->streams[index].done; }

// Put `size` bytes of the caller's behind an AXI4 master whose ports are `ports`, at the address `base`.
void sim_add_memory(Sim *sim, const uint32_t *ports, uint64_t address_bytes, uint64_t beat_bytes, uint8_t *data,
                    uint64_t base, uint64_t size, uint64_t latency, uint64_t stall, uint64_t seed) {
    Memory memory;
    for (int i = 0; i < Memory::PORTS; i++) memory.port[i] = sim->ports[ports[i]];
    memory.address_bytes = address_bytes;
    memory.beat_bytes = beat_bytes;
    memory.data = data;
    memory.base = base;
    memory.size = size;
    memory.latency = latency;
    memory.stall = stall;
    memory.random = seed;
    sim->memories.push_back(memory);
}

// Accesses to this range of the first memory get an error.
void sim_bad_range(Sim *sim, uint64_t begin, uint64_t end) {
    sim->memories[0].bad_begin = begin;
    sim->memories[0].bad_end = end;
}

// Change the pace of the first memory; a stall of 2**32 stops it.
void sim_pace_memory(Sim *sim, uint64_t latency, uint64_t stall) {
    sim->memories[0].latency = latency;
    sim->memories[0].stall = stall;
}

// Bursts that the first memory has taken the address of and not answered completely.
uint64_t sim_outstanding(Sim *sim) {
    const Memory &memory = sim->memories[0];
    return memory.reads.size() + memory.writes.size() + memory.responses.size();
}

void sim_watch(Sim *sim, const uint32_t *ports, const uint32_t *sizes, uint32_t count, uint64_t *rows,
               uint64_t capacity) {
    sim->watch = Watch{};
    for (uint32_t i = 0; i < count; i++) sim->watch.ports.push_back({sim->ports[ports[i]], sizes[i]});
    sim->watch.rows = rows;
    sim->watch.capacity = capacity;
}

uint64_t sim_watched(Sim *sim) { return sim->watch.done; }

// Simulate up to `limit` cycles, and return how many were simulated. Stop after the cycle in which the port `until`
// was high (pass UINT32_MAX for none) or, if `drain`, after which no stream in use has beats left. `stopped` tells
// whether one of these happened. While `rst` is high streams and memories rest, offered beats go back to their queues,
// and memories forget what they were asked for.
uint64_t sim_run(Sim *sim, uint64_t limit, uint32_t until, int drain, int *stopped) {
    std::vector<Stream *> used;
    for (Stream &stream : sim->streams)
        if (stream.beats) used.push_back(&stream);
    const uint8_t *stop = until == UINT32_MAX ? nullptr : sim->ports[until];
    const bool reset = sim->top.rst;
    if (reset) {
        for (Stream *stream : used) *(stream->source ? stream->valid : stream->ready) = 0;
        used.clear();
    }

    Watch &watch = sim->watch;
    *stopped = 0;
    uint64_t cycle = 0;
    while (cycle < limit && !*stopped) {
        for (Stream *stream : used) stream->drive();
        for (Memory &memory : sim->memories) reset ? memory.reset() : memory.drive();
        sim->evaluate(false);

        for (Stream *stream : used) stream->sample();
        if (!reset)
            for (Memory &memory : sim->memories) memory.sample();
        *stopped = stop && *stop;
        if (watch.done < watch.capacity) {
            uint64_t *row = watch.rows + watch.done++ * watch.ports.size();
            for (auto [port, size] : watch.ports) std::memcpy(row++, port, size);
        }
        sim->evaluate(true);
        for (Stream *stream : used) stream->release();
        if (!reset)
            for (Memory &memory : sim->memories) memory.release();
        cycle++;

        if (drain) {
            bool busy = false;
            for (Stream *stream : used) busy |= stream->done != stream->count;
            *stopped |= !busy;
        }
    }
    return cycle;
}

int sim_trace(Sim *sim, const char *path) {
#if VM_TRACE
    sim->context.traceEverOn(true);
    sim->trace = new VerilatedVcdC;
    sim->top.trace(sim->trace, 99);
    sim->trace->open(path);
    return sim->trace->isOpen();
#else
    (void)sim, (void)path;
    return 0;
#endif
}

}  // extern "C"
