/* Sums over rows in a fixed order that depends on the number of rows alone. For small batches
 * (distill_adds_rows) the block that finishes last adds the shares of all rows at the end of the row kernel; otherwise, or
 * without a counter, a kernel of its own follows. Both give the same bits. */
#ifndef CUDISTILL_KERNELS_DISTILL_SUMS_CUH
#define CUDISTILL_KERNELS_DISTILL_SUMS_CUH

#include "kernels/distill_row.cuh"

/* Chunk i holds rows i, i + SUM_CHUNKS, ...; a thread adds four fields of one chunk. */
enum { SUM_CHUNKS = 64, SUM_QUADS = SUM_FIELDS / 4, SUM_SCRATCH = SUM_CHUNKS * SUM_FIELDS };
static_assert(SUM_FIELDS % 4 == 0, "a row's shares are whole quads");

/* Adds with the rounding error carried along (Neumaier). */
DEVICE void add_exactly(float x, float *sum, float *lost)
{
    const float next = *sum + x;
    *lost += fabsf(*sum) >= fabsf(x) ? (*sum - next) + x : (x - next) + *sum;
    *sum = next;
}

/* out[f] = sum of partials[row][f] over rows begin to end, by all threads of a block. scratch: SUM_SCRATCH floats, read
 * by nobody else any more. */
DEVICE void add_rows(const float *partials, int64_t begin, int64_t end, float *scratch, float *out)
{
    for (int item = (int)threadIdx.x; item < SUM_CHUNKS * SUM_QUADS; item += (int)blockDim.x) {
        const int chunk = item / SUM_QUADS;
        const int quad = item % SUM_QUADS;
        float sum[4] = {0, 0, 0, 0};
        float lost[4] = {0, 0, 0, 0};
#pragma unroll 4
        for (int64_t row = begin + chunk; row < end; row += SUM_CHUNKS) {
            const Pack<float, 4> x = load_pack<float, 4>(partials + row * SUM_FIELDS + quad * 4);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                add_exactly(x.v[i], &sum[i], &lost[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            /* Infinite sums have lost nothing that counts. */
            scratch[chunk * SUM_FIELDS + quad * 4 + i] =
                isfinite(sum[i]) ? sum[i] + lost[i] : sum[i];
        }
    }
    sync_block();
    if (threadIdx.x < SUM_FIELDS) {
        const int chunks = end - begin < SUM_CHUNKS ? (int)(end - begin) : SUM_CHUNKS;
        float total = 0;
        for (int i = 0; i < chunks; i++) {
            total += scratch[i * SUM_FIELDS + (int)threadIdx.x];
        }
        store_global(out + threadIdx.x, total);
    }
}

/* The end of a row kernel, by all threads of all blocks, after the block's shares have been stored: the last block adds
 * up. scratch: as for add_rows. */
DEVICE void sum_in_last_block(const DistillParams &p, float *scratch)
{
    if (p.launch.counter && last_block(p.launch.counter, gridDim.x)) {
        add_rows(p.partials, 0, p.launch.n, scratch, p.launch.sums);
    }
}

#endif
