/* Kernels that test the emulator, see faults.h. They compile with nvcc too. */
#include "kernels/kernel.cuh"

#include "tests/emu/faults.h"

enum { BLOCK = 256, CLUSTER = 4, CLUSTER_BLOCK = 64 };

__global__ void copy(const float *x, float *y, int n)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
        store_global(y + i, load_stream(x + i));
    }
}
KernelStatus probe_copy(KernelStream stream, const float *x, float *y, int n)
{
    LAUNCH(copy, (n + BLOCK - 1) / BLOCK, BLOCK, 0, stream, x, y, n);
    return kernel_status();
}

__global__ void scale(const float *x, const float *factor, float *y, int n)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
        store_global(y + i, load_cached(factor) * load_global(x + i));
    }
}
KernelStatus probe_scale(KernelStream stream, const float *x, const float *factor, float *y, int n)
{
    LAUNCH(scale, (n + BLOCK - 1) / BLOCK, BLOCK, 0, stream, x, factor, y, n);
    return kernel_status();
}

__global__ void reduce(const float *x, float *y, int n)
{
    float sums[2] = {0.0f, 0.0f};
    float most = -INFINITY;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        const float value = load_global(x + (size_t)blockIdx.x * n + i);
        sums[0] += value;
        sums[1] += value * value;
        most = fmaxf(most, value);
    }
    most = block_max(most);
    block_sum(sums);
    if (threadIdx.x == 0) {
        store_global(y + 3 * blockIdx.x, sums[0]);
        store_global(y + 3 * blockIdx.x + 1, most);
        store_global(y + 3 * blockIdx.x + 2, sums[1]);
    }
}
KernelStatus probe_reduce(KernelStream stream, const float *x, float *y, int rows, int n,
                          int threads)
{
    LAUNCH(reduce, rows, threads, 0, stream, x, y, n);
    return kernel_status();
}

template <bool barrier> __global__ void reverse(const float *x, float *y)
{
    SHARED_ARRAY(float, row, BLOCK);
    const size_t first = (size_t)blockIdx.x * BLOCK;
    row[threadIdx.x] = load_global(x + first + threadIdx.x);
    if constexpr (barrier) {
        sync_block();
    }
    store_global(y + first + threadIdx.x, row[BLOCK - 1 - threadIdx.x]);
}
KernelStatus probe_reverse(KernelStream stream, const float *x, float *y, int blocks)
{
    LAUNCH(reverse<true>, blocks, BLOCK, 0, stream, x, y);
    return kernel_status();
}
KernelStatus fault_no_barrier(KernelStream stream, const float *x, float *y, int blocks)
{
    LAUNCH(reverse<false>, blocks, BLOCK, 0, stream, x, y);
    return kernel_status();
}

/* y[i] = sum over rounds of x[(i + 32 + round) % BLOCK] through one buffer that is written anew in each round. */
__global__ void rounds_without_second_barrier(const float *x, float *y, int rounds)
{
    SHARED_ARRAY(float, row, BLOCK);
    float sum = 0.0f;
    for (int round = 0; round < rounds; round++) {
        row[threadIdx.x] = load_global(x + (threadIdx.x + round) % BLOCK);
        sync_block();
        sum += row[(threadIdx.x + 32) % BLOCK];
    }
    store_global(y + threadIdx.x, sum);
}
KernelStatus fault_no_second_barrier(KernelStream stream, const float *x, float *y, int rounds)
{
    LAUNCH(rounds_without_second_barrier, 1, BLOCK, 0, stream, x, y, rounds);
    return kernel_status();
}

/* y[i] = x[i ^ 1] through shared memory within a warp. */
__global__ void swap_without_sync(const float *x, float *y)
{
    SHARED_ARRAY(float, row, WARP_SIZE);
    row[threadIdx.x] = load_global(x + threadIdx.x);
    store_global(y + threadIdx.x, row[threadIdx.x ^ 1]);
}
KernelStatus fault_no_warp_sync(KernelStream stream, const float *x, float *y)
{
    LAUNCH(swap_without_sync, 1, WARP_SIZE, 0, stream, x, y);
    return kernel_status();
}

__global__ void scan(const float *x, float *y, unsigned *positive)
{
    const float own = load_global(x + lane());
    float total = own;
    for (int apart = 1; apart < WARP_SIZE; apart *= 2) {
        const float below = shuffle_up(total, apart);
        total += lane() >= apart ? below : 0.0f;
    }
    const unsigned bits = warp_ballot(own > 0.0f);
    store_global(y + lane(), total);
    if (lane() == 0) {
        store_global(positive, bits);
    }
}
KernelStatus probe_scan(KernelStream stream, const float *x, float *y, unsigned *positive)
{
    LAUNCH(scan, 1, WARP_SIZE, 0, stream, x, y, positive);
    return kernel_status();
}

template <bool last_sync> __global__ void cluster_sum(const float *x, float *y)
{
    SHARED_ARRAY(float, own, 1);
    const float sum = block_sum(load_global(x + blockIdx.x * blockDim.x + threadIdx.x));
    if (threadIdx.x == 0) {
        own[0] = sum;
    }
    cluster_sync();
    float total = 0.0f;
    for (int rank = 0; rank < CLUSTER; rank++) {
        total += *cluster_shared(own, rank);
    }
    if constexpr (last_sync) {
        cluster_sync();
    }
    if (threadIdx.x == 0) {
        store_global(y + blockIdx.x, total + (float)cluster_rank());
    }
}
KernelStatus probe_cluster(KernelStream stream, const float *x, float *y, int clusters)
{
    LAUNCH_CLUSTER(cluster_sum<true>, clusters * CLUSTER, CLUSTER_BLOCK, CLUSTER, 0, stream, x, y);
    return kernel_status();
}
KernelStatus fault_early_cluster_exit(KernelStream stream, const float *x, float *y)
{
    LAUNCH_CLUSTER(cluster_sum<false>, CLUSTER, CLUSTER_BLOCK, CLUSTER, 0, stream, x, y);
    return kernel_status();
}

__global__ void through_dynamic(const float *x, float *y, int n)
{
    DYNAMIC_SHARED(float, row);
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        row[i] = load_global(x + i);
    }
    sync_block();
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        store_global(y + i, row[n - 1 - i]);
    }
}
KernelStatus probe_dynamic(KernelStream stream, const float *x, float *y, size_t bytes, bool allow)
{
    if (allow) {
        const int status = allow_shared(through_dynamic, bytes);
        if (status != 0) {
            return status;
        }
    }
    LAUNCH(through_dynamic, 1, BLOCK, bytes, stream, x, y, (int)(bytes / sizeof(float)));
    return kernel_status();
}

__global__ void histogram(const uint8_t *x, unsigned *y, int n)
{
    SHARED_ARRAY(unsigned, bins, BLOCK);
    bins[threadIdx.x] = 0;
    sync_block();
    for (int i = (int)threadIdx.x; i < n; i += BLOCK) {
        atomicAdd(&bins[load_global(x + i)], 1u);
    }
    sync_block();
    atomicAdd(y + threadIdx.x, bins[threadIdx.x]);
}
KernelStatus probe_histogram(KernelStream stream, const uint8_t *x, unsigned *y, int n)
{
    LAUNCH(histogram, 1, BLOCK, 0, stream, x, y, n);
    return kernel_status();
}

template <typename T> __global__ void convert(const float *x, T *y, float *back, int n)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 > n) {
        return;
    }
    const Pack<float, 4> in = load_pack_stream<float, 4>(x + i);
    store_pack<T, 4>(y + i, repack<T, 4>(in.v));
    float out[4];
    unpack(load_pack<T, 4>(y + i), out);
    for (int k = 0; k < 4; k++) {
        store_stream(back + i + k, out[k]);
    }
}
KernelStatus probe_convert(KernelStream stream, KernelType type, const float *x, void *y,
                           float *back, int n)
{
    const int blocks = (n / 4 + BLOCK - 1) / BLOCK;
    if (type == KERNEL_BF16) {
        LAUNCH(convert<bf16_t>, blocks, BLOCK, 0, stream, x, (bf16_t *)y, back, n);
    } else {
        LAUNCH(convert<half_t>, blocks, BLOCK, 0, stream, x, (half_t *)y, back, n);
    }
    return kernel_status();
}

__global__ void random_numbers(uint64_t seed, uint32_t epoch, uint64_t sample, int purpose,
                               uint32_t *bits, uint32_t *below, float *uniform, int n)
{
    Rng rng = rng_make(seed, epoch, sample, purpose);
    for (int i = 0; i < n; i++) {
        store_global(bits + i, rng_u32(&rng));
        store_global(below + i, rng_below(&rng, 1000u + (uint32_t)i));
        store_global(uniform + i, rng_uniform(&rng));
    }
}
KernelStatus probe_random(KernelStream stream, uint64_t seed, uint32_t epoch, uint64_t sample,
                          int purpose, uint32_t *bits, uint32_t *below, float *uniform, int n)
{
    LAUNCH(random_numbers, 1, 1, 0, stream, seed, epoch, sample, purpose, bits, below, uniform, n);
    return kernel_status();
}

__global__ void nothing()
{
}
KernelStatus probe_shape(KernelStream stream, unsigned grid_y, unsigned block)
{
    LAUNCH(nothing, dim3(1, grid_y), block, 0, stream);
    return kernel_status();
}

/* ---- Faults ---- */
__global__ void unwritten_shared(float *y)
{
    SHARED_ARRAY(float, row, BLOCK);
    if (blockIdx.x == 0) { /* what block 0 wrote must not be there for block 1 */
        row[threadIdx.x] = 1.0f;
    }
    sync_block();
    store_global(y + blockIdx.x * BLOCK + threadIdx.x, row[threadIdx.x]);
}
KernelStatus fault_unwritten_shared(KernelStream stream, float *y)
{
    LAUNCH(unwritten_shared, 2, BLOCK, 0, stream, y);
    return kernel_status();
}

__global__ void store_beyond(float *y, int n)
{
    if ((int)threadIdx.x <= n) {
        store_global(y + threadIdx.x, 1.0f);
    }
}
KernelStatus fault_store_beyond(KernelStream stream, float *y, int n)
{
    LAUNCH(store_beyond, 1, BLOCK, 0, stream, y, n);
    return kernel_status();
}
KernelStatus fault_load_beyond(KernelStream stream, const float *x, float *y, int n)
{
    LAUNCH(copy, 1, BLOCK, 0, stream, x, y, n + 1);
    return kernel_status();
}

/* Not through load_global: only a sanitizer sees it. */
__global__ void raw_load_beyond(const float *x, float *y, int n)
{
    store_global(y, x[n]);
}
KernelStatus fault_raw_load_beyond(KernelStream stream, const float *x, float *y, int n)
{
    LAUNCH(raw_load_beyond, 1, 1, 0, stream, x, y, n);
    return kernel_status();
}

__global__ void shared_beyond(float *y)
{
    SHARED_ARRAY(float, row, BLOCK - 1);
    float *const at = row; /* hides the bound from the undefined-behaviour sanitizer */
    at[threadIdx.x] = 1.0f;
    sync_block();
    store_global(y + threadIdx.x, row[0]);
}
KernelStatus fault_shared_beyond(KernelStream stream, float *y)
{
    LAUNCH(shared_beyond, 1, BLOCK, 0, stream, y);
    return kernel_status();
}

__global__ void misaligned(const float *x, float *y)
{
    store_pack<float, 4>(y, load_pack<float, 4>(x));
}
KernelStatus fault_misaligned(KernelStream stream, const float *x, float *y)
{
    LAUNCH(misaligned, 1, 1, 0, stream, x, y);
    return kernel_status();
}

__global__ void exit_before_barrier(float *y)
{
    if (threadIdx.x == 77) {
        return;
    }
    sync_block();
    store_global(y + threadIdx.x, 1.0f);
}
KernelStatus fault_exit_before_barrier(KernelStream stream, float *y)
{
    LAUNCH(exit_before_barrier, 1, BLOCK, 0, stream, y);
    return kernel_status();
}

__global__ void other_barrier(float *y)
{
    if (warp() == 1) {
        cluster_sync();
    } else {
        sync_block();
    }
    store_global(y + threadIdx.x, 1.0f);
}
KernelStatus fault_other_barrier(KernelStream stream, float *y)
{
    LAUNCH(other_barrier, 1, BLOCK, 0, stream, y);
    return kernel_status();
}

__global__ void half_warp_shuffle(float *y)
{
    float value = (float)lane();
    if (lane() < 16) {
        value = warp_sum(value);
    }
    store_global(y + threadIdx.x, value);
}
KernelStatus fault_half_warp_shuffle(KernelStream stream, float *y)
{
    LAUNCH(half_warp_shuffle, 1, WARP_SIZE, 0, stream, y);
    return kernel_status();
}

__global__ void partial_warp(float *y)
{
    store_global(y + threadIdx.x, warp_sum(1.0f));
}
KernelStatus fault_partial_warp(KernelStream stream, float *y)
{
    LAUNCH(partial_warp, 1, 48, 0, stream, y);
    return kernel_status();
}
