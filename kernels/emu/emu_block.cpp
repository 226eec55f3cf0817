/* One launch on the CPU. The blocks of a cluster (mostly one) are resident at once; their threads are taken in turn by
 * pick_next, a state machine over lane, warp, block and cluster. Threads that never meet a barrier run one after the
 * other on one stack, in the loop of a fiber; a thread that stops keeps that fiber, and the next one gets another. */
#include "kernels/emu/emu_internal.h"

#include <algorithm>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if !defined(__x86_64__) || defined(EMU_PORTABLE)
#define EMU_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emu
{

int lane;
Exchange *deposit;
Counts counts;

namespace
{

#ifdef EMU_ASAN
enum : size_t { STACK_BYTES = 1024 * 1024 };
#else
enum : size_t { STACK_BYTES = 256 * 1024 };
#endif
enum : size_t {
    PAGE = 4096,
    GAP = 64,
    STATIC_AT = SHARED_OPTIN + 2 * GAP,
    ARENA_BYTES = STATIC_AT + 64 * 1024
};
enum : unsigned char { POISON = 0xff };

/* ---- Fibers ---- */
struct Fiber {
    char *stack; /* lowest usable byte */
    size_t bytes;
    void *fake_stack; /* AddressSanitizer's */
#ifndef EMU_UCONTEXT
    void *top; /* saved stack pointer */
#else
    ucontext_t context;
#endif
};

/* Where a thread stands. */
enum Stop { STOP_WARP, STOP_BLOCK, STOP_CLUSTER, STOP_DONE, STOPS };
const char *const STOP_NAME[STOPS] = {"a warp exchange", "a block barrier", "a cluster barrier",
                                      "the end"};

struct Warp {
    int lanes;
    int at[STOPS];          /* lanes that stopped there in this round */
    int kind, detail;       /* of the exchange that they are at */
    int parity;             /* which exchange is next */
    unsigned factor, shift; /* permuted order of lanes */
    Exchange exchange[2];
};

struct Block {
    dim3 index;
    char *arena;
    bool touched_remote; /* in the part since the last cluster barrier */
};

struct Array {
    size_t offset, bytes;
    const char *name;
};

struct Engine {
    const Launch *launch;
    uint64_t number; /* of the launch */
    uint64_t random;
    int order;
    unsigned threads, warps; /* of a block */

    std::vector<Block> blocks;
    std::vector<Warp> warp;     /* blocks * warps */
    std::vector<Fiber *> lanes; /* fibers of threads that have begun; blocks * warps * 32 */
    std::vector<Array> arrays;
    size_t static_used;

    /* the running thread */
    unsigned block_now, warp_turn, warp_now;
    int turn;
    unsigned warp_factor, warp_shift;

    Fiber main;
    std::vector<Fiber *> idle;
};
Engine *engine;

#ifndef EMU_UCONTEXT
extern "C" void emu_swap_stack(void **save, void *load);
__asm__(".text\n"
        ".p2align 4\n"
        ".hidden emu_swap_stack\n"
        ".globl emu_swap_stack\n"
        ".type emu_swap_stack,@function\n"
        "emu_swap_stack:\n"
        "  pushq %rbp\n"
        "  pushq %rbx\n"
        "  pushq %r12\n"
        "  pushq %r13\n"
        "  pushq %r14\n"
        "  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n"
        "  popq %r14\n"
        "  popq %r13\n"
        "  popq %r12\n"
        "  popq %rbx\n"
        "  popq %rbp\n"
        "  ret\n"
        ".size emu_swap_stack,.-emu_swap_stack\n");
#endif

void swap(Fiber *from, Fiber *to)
{
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->bytes);
#endif
#ifndef EMU_UCONTEXT
    emu_swap_stack(&from->top, to->top);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_main();

Fiber *make_fiber()
{
    /* One page below is never mapped: an overflow of the stack ends the process. */
    char *const memory =
        static_cast<char *>(mmap(nullptr, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory, PAGE, PROT_NONE) != 0) {
        fail("no memory for the stack of an emulated thread");
    }
    Fiber *const fiber = new Fiber();
    fiber->stack = memory + PAGE;
    fiber->bytes = STACK_BYTES;
#ifndef EMU_UCONTEXT
    /* As emu_swap_stack leaves it: six registers, the address to return to, and an empty slot that keeps the
     * alignment of a called function. */
    void **const top = reinterpret_cast<void **>(fiber->stack + STACK_BYTES) - 8;
    top[6] = reinterpret_cast<void *>(fiber_main);
    fiber->top = top;
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = fiber->bytes;
    makecontext(&fiber->context, fiber_main, 0);
#endif
    return fiber;
}

Fiber *take_fiber()
{
    if (engine->idle.empty()) {
        return make_fiber();
    }
    Fiber *const fiber = engine->idle.back();
    engine->idle.pop_back();
    return fiber;
}

/* ---- Order ---- */
uint64_t next_random()
{
    return mix_bits(engine->random++);
}
unsigned gcd(unsigned a, unsigned b)
{
    return b == 0 ? a : gcd(b, a % b);
}
/* factor and shift of a permutation i -> (i*factor + shift) % n. */
void draw_permutation(uint64_t n, unsigned *factor, unsigned *shift)
{
    static const unsigned FACTORS[] = {5, 7, 11, 13, 17, 19, 23, 29, 31};
    const uint64_t bits = next_random();
    *factor = FACTORS[bits % 9];
    if (gcd(*factor, (unsigned)(n % *factor)) != 1) {
        *factor = 1;
    }
    *shift = (unsigned)((bits >> 8) % n);
}
uint64_t in_order(uint64_t i, uint64_t n, unsigned factor, unsigned shift)
{
    switch (engine->order) {
    case EMU_FORWARD:
        return i;
    case EMU_BACKWARD:
        return n - 1 - i;
    default:
        return (i * factor + shift) % n;
    }
}

Warp *warp_at(unsigned block, unsigned index)
{
    return &engine->warp[(size_t)block * engine->warps + index];
}
Warp *running_warp()
{
    return warp_at(engine->block_now, engine->warp_now);
}
Fiber **running_fiber()
{
    Engine *const e = engine;
    return &e->lanes[((size_t)e->block_now * e->warps + e->warp_now) * LANES + (size_t)lane];
}

void set_thread(unsigned t)
{
    const dim3 shape = blockDim;
    if (shape.y == 1 && shape.z == 1) {
        threadIdx = dim3(t, 0, 0);
    } else {
        threadIdx = dim3(t % shape.x, t / shape.x % shape.y, t / (shape.x * shape.y));
    }
}

void begin_round(Warp *warp)
{
    memset(warp->at, 0, sizeof warp->at);
    if (engine->order == EMU_PERMUTED) {
        draw_permutation((uint64_t)warp->lanes, &warp->factor, &warp->shift);
    }
    engine->turn = 0;
}
/* The warps of a block from one block barrier to the next. */
void begin_phase()
{
    Engine *const e = engine;
    if (e->order == EMU_PERMUTED) {
        draw_permutation(e->warps, &e->warp_factor, &e->warp_shift);
    }
    e->warp_turn = 0;
    e->warp_now = (unsigned)in_order(0, e->warps, e->warp_factor, e->warp_shift);
    blockIdx = e->blocks[e->block_now].index;
    begin_round(running_warp());
}

/* The stop at which all `total` are; ends the process where they are not at the same. */
Stop uniform(const int *at, int total, const char *what)
{
    for (int stop = 0; stop < STOPS; stop++) {
        if (at[stop] == total) {
            return (Stop)stop;
        }
    }
    std::string text;
    for (int stop = 0; stop < STOPS; stop++) {
        if (at[stop] > 0) {
            text +=
                (text.empty() ? "" : ", ") + std::to_string(at[stop]) + " at " + STOP_NAME[stop];
        }
    }
    fail("divergent barrier: of the %d %s: %s", total, what, text.c_str());
}

/* Of all warps of the running block, each of which stands at one kind of stop. */
Stop block_stop()
{
    const Engine *const e = engine;
    int at[STOPS] = {};
    for (unsigned w = 0; w < e->warps; w++) {
        const Warp *const warp = warp_at(e->block_now, w);
        for (int stop = 0; stop < STOPS; stop++) {
            at[stop] += warp->at[stop];
        }
    }
    return uniform(at, (int)e->threads, "threads of the block");
}
Stop cluster_stop()
{
    const Engine *const e = engine;
    int at[STOPS] = {};
    for (const Warp &warp : e->warp) {
        for (int stop = 0; stop < STOPS; stop++) {
            at[stop] += warp.at[stop];
        }
    }
    return uniform(at, (int)(e->threads * e->blocks.size()), "threads of the cluster");
}

/* The cluster's next thread to run becomes the running one; false when all have ended. */
bool pick_next()
{
    Engine *const e = engine;
    for (;;) {
        Warp *const warp = running_warp();
        if (e->turn < warp->lanes) {
            lane = (int)in_order((uint64_t)e->turn++, (uint64_t)warp->lanes, warp->factor,
                                 warp->shift);
            deposit = &warp->exchange[warp->parity];
            set_thread(e->warp_now * LANES + (unsigned)lane);
            return true;
        }
        if (uniform(warp->at, warp->lanes, "lanes of the warp") == STOP_WARP) {
            warp->parity ^= 1;
            warp->exchange[warp->parity].reduced = false;
            begin_round(warp);
            continue;
        }
        if (++e->warp_turn < e->warps) {
            e->warp_now = (unsigned)in_order(e->warp_turn, e->warps, e->warp_factor, e->warp_shift);
            begin_round(running_warp());
            continue;
        }
        if (block_stop() == STOP_BLOCK) {
            begin_phase();
            continue;
        }
        if (e->block_now + 1 < e->blocks.size()) {
            e->block_now++;
            begin_phase();
            continue;
        }
        if (cluster_stop() == STOP_DONE) {
            return false;
        }
        e->block_now = 0;
        for (Block &block : e->blocks) {
            block.touched_remote = false;
        }
        begin_phase();
    }
}

/* Runs threads, one after the other, for as long as the next one has not begun. */
void fiber_main()
{
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {
        Fiber *const self = *running_fiber();
        engine->launch->thread();
        *running_fiber() = nullptr;
        running_warp()->at[STOP_DONE]++;
        if (!pick_next()) {
            engine->idle.push_back(self);
            swap(self, &engine->main);
            continue;
        }
        Fiber **const next = running_fiber();
        if (*next == nullptr) {
            *next = self;
            continue;
        }
        engine->idle.push_back(self);
        swap(self, *next);
    }
}

/* The running thread stops here until it is its turn again. */
void stop_at(Stop stop)
{
    Fiber *const self = *running_fiber();
    running_warp()->at[stop]++;
    pick_next(); /* true: this thread has not ended */
    Fiber **const next = running_fiber();
    if (*next == nullptr) {
        *next = take_fiber();
    }
    if (*next != self) {
        swap(self, *next);
    }
}

/* ---- Shared memory ---- */
void poison(char *at, size_t bytes)
{
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(at, bytes);
#endif
    memset(at, POISON, bytes);
}
size_t padded(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

/* From the end of an array of `bytes` to the next array: nobody may touch it. */
size_t fence_bytes(size_t bytes)
{
    return padded(bytes) - bytes + GAP;
}
void lay_array(char *at, size_t bytes)
{
    poison(at, bytes + fence_bytes(bytes));
#ifdef EMU_ASAN
    __asan_poison_memory_region(at + bytes, fence_bytes(bytes));
#endif
}
void check_fence(const char *at, size_t bytes, const char *name)
{
#ifdef EMU_ASAN
    (void)at, (void)bytes, (void)name; /* the sanitizer watches it */
#else
    for (size_t i = bytes; i < bytes + fence_bytes(bytes); i++) {
        if ((unsigned char)at[i] != POISON) {
            fail("a block wrote %zu bytes beyond the end of its shared memory '%s'", i - bytes,
                 name);
        }
    }
#endif
}

void begin_block(Block *block, uint64_t index)
{
    const Engine *const e = engine;
    const dim3 grid = e->launch->grid;
    block->index = dim3((unsigned)(index % grid.x), (unsigned)(index / grid.x % grid.y),
                        (unsigned)(index / ((uint64_t)grid.x * grid.y)));
    block->touched_remote = false;
    if (block->arena == nullptr) {
        block->arena = static_cast<char *>(aligned_alloc(128, ARENA_BYTES / 128 * 128));
        if (block->arena == nullptr) {
            fail("no memory for the shared memory of a block");
        }
    }
    lay_array(block->arena, e->launch->shared_bytes);
    for (const Array &array : e->arrays) {
        lay_array(block->arena + array.offset, array.bytes);
    }
}
void end_block(const Block &block)
{
    const Engine *const e = engine;
    check_fence(block.arena, e->launch->shared_bytes, "dynamic");
    for (const Array &array : e->arrays) {
        check_fence(block.arena + array.offset, array.bytes, array.name);
    }
}

void run_cluster(uint64_t first)
{
    Engine *const e = engine;
    for (size_t b = 0; b < e->blocks.size(); b++) {
        begin_block(&e->blocks[b], first + b);
    }
    e->block_now = 0;
    begin_phase();
    for (size_t b = 1; b < e->blocks.size(); b++) {
        for (unsigned w = 0; w < e->warps; w++) {
            memset(warp_at((unsigned)b, w)->at, 0, sizeof(int) * STOPS);
        }
    }
    pick_next();
    Fiber *const fiber = take_fiber();
    *running_fiber() = fiber;
    swap(&e->main, fiber);
    for (const Block &block : e->blocks) {
        end_block(block);
        if (block.touched_remote) {
            fail("a block reads its neighbour's shared memory after the last cluster_sync(): the "
                 "neighbour "
                 "may have ended");
        }
    }
}

/* ---- Counters ---- */
struct Record {
    EmuCounts sum, last;
    int launches;
    uint64_t number;
};
std::mutex records_lock;
std::map<std::string, Record> *records;

void record_launch(const Launch &launch, uint64_t number)
{
    EmuCounts now = {};
    snprintf(now.name, sizeof now.name, "%s", launch.name.c_str());
    now.loaded = counts.loaded;
    now.stored = counts.stored;
    now.cached = counts.cached;
    now.blocks = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    now.threads = (uint64_t)launch.block.x * launch.block.y * launch.block.z;
    const std::lock_guard<std::mutex> held(records_lock);
    if (records == nullptr) {
        records = new std::map<std::string, Record>();
    }
    Record *const record = &(*records)[launch.name];
    record->last = now;
    record->launches++;
    record->number = number;
    memcpy(record->sum.name, now.name, sizeof now.name);
    record->sum.loaded += now.loaded;
    record->sum.stored += now.stored;
    record->sum.cached += now.cached;
    record->sum.blocks += now.blocks;
    record->sum.threads = now.threads;
}

int current_order = -1;

Engine *make_engine()
{
    Engine *const e = new Engine();
    pthread_attr_t attributes;
    void *stack = nullptr;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0 ||
        pthread_attr_getstack(&attributes, &stack, &e->main.bytes) != 0) {
        fail("the stack of the device's thread is not known");
    }
    pthread_attr_destroy(&attributes);
    e->main.stack = static_cast<char *>(stack);
    return e;
}

} // namespace

/* ---- What kernels call ---- */
void meet_warp(Meeting kind, int detail)
{
    Warp *const warp = running_warp();
    if (kind != MEET_SYNC && warp->lanes != LANES) {
        fail("exchange in a warp of %d lanes: the block's size is not a multiple of 32",
             warp->lanes);
    }
    if (warp->at[STOP_WARP] == 0) {
        warp->kind = kind;
        warp->detail = detail;
    } else if (warp->kind != kind || warp->detail != detail) {
        fail("lanes of a warp meet at different exchanges");
    }
    stop_at(STOP_WARP);
}
void block_barrier()
{
    stop_at(STOP_BLOCK);
}
void cluster_barrier()
{
    stop_at(STOP_CLUSTER);
}
int cluster_rank()
{
    return (int)engine->block_now;
}

bool in_shared(const void *p)
{
    const uintptr_t arena = (uintptr_t)engine->blocks[engine->block_now].arena;
    return (uintptr_t)p - arena < ARENA_BYTES;
}
void *cluster_shared(void *mine, int rank)
{
    Block *const own = &engine->blocks[engine->block_now];
    if (!in_shared(mine)) {
        fail("cluster_shared of an address that is not in shared memory");
    }
    if (rank < 0 || rank >= (int)engine->blocks.size()) {
        fail("cluster_shared of rank %d in a cluster of %d", rank, (int)engine->blocks.size());
    }
    if (rank != (int)engine->block_now) {
        own->touched_remote = true;
    }
    return engine->blocks[(size_t)rank].arena + (static_cast<char *>(mine) - own->arena);
}

void *shared_array(SharedSite *site, size_t bytes, const char *name)
{
    Engine *const e = engine;
    if (site->launch != e->number) {
        site->launch = e->number;
        site->offset = STATIC_AT + e->static_used;
        e->static_used += padded(bytes) + GAP;
        size_t total = bytes;
        for (const Array &array : e->arrays) {
            total += padded(array.bytes);
        }
        if (total > SHARED_DEFAULT || site->offset + padded(bytes) + GAP > ARENA_BYTES) {
            fail("%zu bytes of static shared memory, more than 48 KB", total);
        }
        if (total + e->launch->shared_bytes > SHARED_OPTIN) {
            fail("%zu bytes of static and dynamic shared memory, more than 227 KB",
                 total + e->launch->shared_bytes);
        }
        e->arrays.push_back({site->offset, bytes, name});
        for (Block &block : e->blocks) {
            lay_array(block.arena + site->offset, bytes);
        }
    }
    return e->blocks[e->block_now].arena + site->offset;
}
void *dynamic_shared()
{
    return engine->blocks[engine->block_now].arena;
}

void run_launch(const Launch &launch)
{
    if (engine == nullptr) {
        engine = make_engine();
    }
    Engine *const e = engine;
    e->launch = &launch;
    e->number++;
    e->random = 1;
    e->order = emu_order();
    e->threads = launch.block.x * launch.block.y * launch.block.z;
    e->warps = (e->threads + LANES - 1) / LANES;
    e->arrays.clear();
    e->static_used = 0;
    for (size_t b = launch.cluster; b < e->blocks.size(); b++) {
        free(e->blocks[b].arena);
    }
    e->blocks.resize(launch.cluster);
    e->warp.resize((size_t)launch.cluster * e->warps);
    e->lanes.assign((size_t)launch.cluster * e->warps * LANES, nullptr);
    for (size_t w = 0; w < e->warp.size(); w++) {
        const unsigned before = (unsigned)(w % e->warps) * LANES;
        e->warp[w].lanes = (int)std::min(e->threads - before, (unsigned)LANES);
        e->warp[w].parity = 0;
        e->warp[w].exchange[0].reduced = false;
    }
    gridDim = launch.grid;
    blockDim = launch.block;
    counts = Counts();
    forget_allocations();

    const uint64_t clusters =
        (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z / launch.cluster;
    unsigned factor = 1;
    unsigned shift = 0;
    draw_permutation(clusters, &factor, &shift);
    for (uint64_t i = 0; i < clusters; i++) {
        run_cluster(in_order(i, clusters, factor, shift) * launch.cluster);
    }
    record_launch(launch, e->number);
    e->launch = nullptr;
}

std::string place()
{
    if (engine == nullptr || engine->launch == nullptr) {
        return "";
    }
    char text[160];
    snprintf(text, sizeof text, ", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
             blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    return "kernel " + engine->launch->name + text;
}

} // namespace emu

/* ---- emu_api.h ---- */
void emu_set_order(int order)
{
    emu::current_order = order;
}
int emu_order(void)
{
    if (emu::current_order < 0) {
        emu::current_order = (int)(emu::setting("CUDISTILL_EMU_ORDER", EMU_FORWARD) % EMU_ORDERS);
    }
    return emu::current_order;
}

void emu_counts_reset(void)
{
    cudaDeviceSynchronize();
    const std::lock_guard<std::mutex> held(emu::records_lock);
    delete emu::records;
    emu::records = nullptr;
}
int emu_counts(const char *text, EmuCounts *sum, EmuCounts *last)
{
    cudaDeviceSynchronize();
    const std::lock_guard<std::mutex> held(emu::records_lock);
    EmuCounts total = {};
    EmuCounts latest = {};
    int launches = 0;
    uint64_t number = 0;
    if (emu::records != nullptr) {
        for (const auto &[name, record] : *emu::records) {
            if (name.find(text) == std::string::npos) {
                continue;
            }
            memcpy(total.name, record.sum.name, sizeof total.name);
            total.loaded += record.sum.loaded;
            total.stored += record.sum.stored;
            total.cached += record.sum.cached;
            total.blocks += record.sum.blocks;
            total.threads = record.sum.threads;
            launches += record.launches;
            if (record.number >= number) {
                number = record.number;
                latest = record.last;
            }
        }
    }
    if (sum != nullptr) {
        *sum = total;
    }
    if (last != nullptr) {
        *last = latest;
    }
    return launches;
}
EmuCounts emu_counts_last(const char *text)
{
    EmuCounts last;
    emu_counts(text, nullptr, &last);
    return last;
}
