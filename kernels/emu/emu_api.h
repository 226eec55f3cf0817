/* Switches and counters of the emulator, for tests. Plain C.
 *
 * Build (one shared object; -DCUDISTILL_EMU also for the C files that use it):
 *     g++ -std=c++17 -O2 -g -fPIC -DCUDISTILL_EMU -Ikernels/emu/include -Iinclude -I. -Wall -Wextra -Wno-unknown-pragmas \
 *         -c kernels/emu/emu_block.cpp (and the other kernels/emu/emu_*.cpp)
 *     g++ (the same) -x c++ -c kernels/NAME.cu
 *     link with -lstdc++ -lpthread -lm -lrt
 * Sanitizers: add -fsanitize=address,undefined to all of them. Kernels are tested with -O2 and without -march, so that no
 * multiplication and addition is contracted.
 *
 * Environment, read once at the first use:
 *     CUDISTILL_EMU_ORDER=0|1|2     order of threads, warps and blocks: forwards (default), backwards, permuted
 *     CUDISTILL_EMU_ORDERS=1|3      for kernel tests: how many of the orders they run (default 3)
 *     CUDISTILL_EMU_DELAY_SEED=n    seed of the order between streams (default 1); 0 = as submitted, at once
 *     CUDISTILL_EMU_DEVICES=n       number of devices (default 1)
 *     CUDISTILL_EMU_MEMORY=bytes    of a device (default 16 GiB)
 *     CUDISTILL_EMU_NCCL_TIMEOUT_S=n   a peer that long silent is dead (default 30)
 *
 * What is not emulated: races between blocks that run at the same time, memory order, tensor cores, asynchronous copies
 * within a kernel, fast-math and contraction differences, registers, speed. */
#ifndef CUDISTILL_KERNELS_EMU_API_H
#define CUDISTILL_KERNELS_EMU_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EMU_FORWARD, EMU_BACKWARD, EMU_PERMUTED, EMU_ORDERS };

/* For launches carried out from now on; call it when the device is idle. */
void emu_set_order(int order);
int emu_order(void);
/* Restarts the drawing of stream orders. */
void emu_set_delay_seed(uint64_t seed);

/* One launch: bytes of global memory that its threads loaded and stored, every access counted in full; cached: by
 * load_cached. */
typedef struct {
    char name[128]; /* "launcher:kernel", e.g. "kernel_bn_apply:bn_apply<float>" */
    uint64_t loaded, stored, cached;
    uint64_t blocks, threads; /* of the grid; of a block */
} EmuCounts;
/* Forgets the launches so far. */
void emu_counts_reset(void);
/* Launches since then whose name contains the text; their sum in *sum and the last in *last (either may be NULL). Waits for
 * the device. */
int emu_counts(const char *text, EmuCounts *sum, EmuCounts *last);
/* The last launch whose name contains the text; zeros where there is none. */
EmuCounts emu_counts_last(const char *text);

/* Memory that was allocated and not freed. */
size_t emu_live_allocations(void);

#ifdef __cplusplus
}
#endif
#endif
