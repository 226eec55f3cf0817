/* Exact order statistics by radix select: the key of a wanted rank is found byte by byte from the top. Each round counts,
 * for every rank, the values that share the bytes found so far by their next byte, in blocks that note counts of
 * their own, and one block adds these up and goes on by one byte. Counts are integers: the result does not depend
 * on the order of additions. */
#include "kernels/kernel.cuh"

#include "kernels/distill.h"

enum { MAX_RANKS = 8, BYTE_VALUES = 256, SELECT_THREADS = 256, SELECT_BLOCKS = 128, ROUNDS = 4 };

/* For every rank: bytes found so far, and how many of the values with these bytes are before it. */
typedef struct {
    unsigned prefix[MAX_RANKS];
    unsigned before[MAX_RANKS];
} SelectState;

typedef struct {
    unsigned rank[MAX_RANKS];
    int count;
} SelectRanks;

typedef struct {
    SelectState state;
    unsigned counts[SELECT_BLOCKS][MAX_RANKS][BYTE_VALUES];
} SelectWorkspace;

extern "C" size_t kernel_select_workspace(void)
{
    return sizeof(SelectWorkspace);
}

/* Keys in the order of the values; every NaN is the last. -0 comes before 0. */
DEVICE unsigned select_key(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    const unsigned key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return isnan(x) ? 0xffffffffu : key;
}

DEVICE float select_value(unsigned key)
{
    const unsigned bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

DEVICE bool shares_bytes(unsigned key, unsigned prefix, int round)
{
    return round == 0 || key >> (32 - 8 * round) == prefix >> (32 - 8 * round);
}

/* Counts of the next byte, of this block's share of the values. A thread counts one byte value in a tile of keys that
 * lies in shared memory, so that no two add to one counter. */
__global__ void __launch_bounds__(SELECT_THREADS)
    select_count_kernel(const float *values, int64_t n, int64_t stride, int ranks, int round,
                        SelectWorkspace *work)
{
    SHARED_ARRAY(unsigned, tile, SELECT_THREADS);
    unsigned prefix[MAX_RANKS];
    unsigned count[MAX_RANKS];
#pragma unroll
    for (int r = 0; r < MAX_RANKS; r++) {
        prefix[r] = r < ranks && round > 0 ? load_global(&work->state.prefix[r]) : 0;
        count[r] = 0;
    }
    for (int64_t first = (int64_t)blockIdx.x * SELECT_THREADS; first < n;
         first += (int64_t)gridDim.x * SELECT_THREADS) {
        const int64_t at = first + threadIdx.x;
        sync_block();
        tile[threadIdx.x] = at < n ? select_key(load_global(values + at * stride)) : 0;
        sync_block();
        const int held = n - first < SELECT_THREADS ? (int)(n - first) : SELECT_THREADS;
        for (int i = 0; i < held; i++) {
            const unsigned key = tile[i];
            const bool mine = (key >> (24 - 8 * round) & 0xffu) == threadIdx.x;
#pragma unroll
            for (int r = 0; r < MAX_RANKS; r++) {
                count[r] += mine && shares_bytes(key, prefix[r], round) ? 1u : 0u;
            }
        }
    }
#pragma unroll
    for (int r = 0; r < MAX_RANKS; r++) {
        if (r < ranks) {
            store_global(&work->counts[blockIdx.x][r][threadIdx.x], count[r]);
        }
    }
}

/* Adds up the blocks' counts and takes the byte in which each rank lies. */
__global__ void __launch_bounds__(BYTE_VALUES)
    select_step_kernel(SelectRanks ranks, int round, int blocks, SelectWorkspace *work, float *out)
{
    SHARED_ARRAY(unsigned, total, BYTE_VALUES);
    for (int r = 0; r < ranks.count; r++) {
        unsigned sum = 0;
        for (int b = 0; b < blocks; b++) {
            sum += load_global(&work->counts[b][r][threadIdx.x]);
        }
        sync_block();
        total[threadIdx.x] = sum;
        sync_block();
        if (threadIdx.x == 0) {
            const unsigned wanted =
                ranks.rank[r] - (round > 0 ? load_global(&work->state.before[r]) : 0);
            unsigned before = 0;
            unsigned byte = 0;
            while (byte < BYTE_VALUES - 1 && before + total[byte] <= wanted) {
                before += total[byte];
                byte++;
            }
            const unsigned old = round > 0 ? load_global(&work->state.prefix[r]) : 0;
            const unsigned gone = round > 0 ? load_global(&work->state.before[r]) : 0;
            const unsigned prefix = old | byte << (24 - 8 * round);
            store_global(&work->state.prefix[r], prefix);
            store_global(&work->state.before[r], gone + before);
            if (round == ROUNDS - 1) {
                store_global(out + r, select_value(prefix));
            }
        }
    }
}

extern "C" KernelStatus kernel_select(KernelStream stream, const float *values, int64_t n,
                                      int64_t stride, const int64_t *ranks, int n_ranks, float *out,
                                      void *workspace)
{
    if (n < 1 || n > INT32_MAX || stride < 1 || n_ranks < 0 || n_ranks > MAX_RANKS) {
        return KERNEL_BAD_ARGUMENT;
    }
    SelectRanks wanted = {};
    wanted.count = n_ranks;
    for (int r = 0; r < n_ranks; r++) {
        if (ranks[r] < 0 || ranks[r] >= n) {
            return KERNEL_BAD_ARGUMENT;
        }
        wanted.rank[r] = (unsigned)ranks[r];
    }
    SelectWorkspace *const work = static_cast<SelectWorkspace *>(workspace);
    const int64_t tiles = (n + SELECT_THREADS - 1) / SELECT_THREADS;
    const int blocks = tiles < SELECT_BLOCKS ? (int)tiles : SELECT_BLOCKS;
    for (int round = 0; round < ROUNDS && n_ranks > 0; round++) {
        LAUNCH(select_count_kernel, (unsigned)blocks, (unsigned)SELECT_THREADS, 0, stream, values,
               n, stride, n_ranks, round, work);
        LAUNCH(select_step_kernel, 1u, (unsigned)BYTE_VALUES, 0, stream, wanted, round, blocks,
               work, out);
    }
    return kernel_status();
}
