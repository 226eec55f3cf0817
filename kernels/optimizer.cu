/* The optimizer over flat arenas: one pass whatever the number of parameters. All that changes from step to step (learning
 * rate, loss scale, whether the step is skipped) is read from device memory. A block takes a stretch of fixed size;
 * where it begins in the table of segments is searched once, by 32 probes at a time, and the threads
 * walk on from there. Formulas: OP_GRAD_NORM, OP_SGD, OP_LOSS_SCALE in graph.h. Bytes: optimizer.h. Reference loops:
 * host/backend/ref_misc.c. */
#include "kernels/kernel.cuh"

#include "kernels/chunk.cuh"
#include "kernels/optimizer.h"

enum {
    STRETCH = 8192, /* elements of a block: 32 a thread */
    NORM_UNROLL = 2,
    TOTAL_THREADS = 1024
};

/* Order of graph.h. */
enum {
    HYPER_LR,
    HYPER_MOMENTUM,
    HYPER_DAMPENING,
    HYPER_NESTEROV,
    HYPER_WEIGHT_DECAY,
    HYPER_GRAD_SCALE,
    HYPER_CLIP_NORM,
    HYPER_FIRST,
    HYPER_SKIP_NORM
};

static const float LARGEST_SCALE = 16777216.0f; /* 2^24 */

static int64_t stretches(int64_t count)
{
    return (count + STRETCH - 1) / STRETCH;
}

/* The block's elements chunk by chunk: body(Number<count>, Number<packed>, at, hop, width), as walk_flat. */
template <bool packed, int unroll, typename Body> DEVICE void walk_stretch(int64_t count, Body body)
{
    enum { HOP = BLOCK_THREADS * CHUNK };
    const int64_t begin = (int64_t)blockIdx.x * STRETCH;
    const int64_t end = begin + STRETCH < count ? begin + STRETCH : count;
    int64_t at = begin + (int64_t)threadIdx.x * CHUNK;
    if constexpr (packed) {
        for (; at + (unroll - 1) * HOP + CHUNK <= end; at += unroll * HOP) {
            body(Number<unroll>(), Number<1>(), at, (int64_t)HOP, CHUNK);
        }
        for (; at + CHUNK <= end; at += HOP) {
            body(Number<1>(), Number<1>(), at, (int64_t)HOP, CHUNK);
        }
    }
    for (; at < end; at += HOP) {
        const int64_t left = end - at;
        body(Number<1>(), Number<0>(), at, (int64_t)HOP, left < CHUNK ? (int)left : CHUNK);
    }
}

DEVICE double block_total(double value)
{
    SHARED_ARRAY(double, scratch, MAX_WARPS);
    return block_reduce(value, 0.0, scratch, [](double a, double b) { return a + b; });
}

/* ---- Norm of the gradient: fp32 over 32 elements, double from there on ---- */
template <int packed>
__global__ void __launch_bounds__(BLOCK_THREADS)
    grad_norm_kernel(int64_t count, const float *grad, double *partials)
{
    float squares = 0.0f;
    int bad = 0;
    walk_stretch<packed, NORM_UNROLL>(
        count, [&](auto chunks, auto in_packs, int64_t at, int64_t hop, int width) {
            Chunk<float> in[chunks.VALUE];
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                in[k] = chunk_load<in_packs.VALUE>(grad + at + k * hop, width);
            }
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                float g[CHUNK];
                chunk_unpack(in[k], g);
#pragma unroll
                for (int i = 0; i < CHUNK; i++) {
                    squares = fmaf(g[i], g[i], squares);
                    bad += fabsf(g[i]) <= FLT_MAX ? 0 : 1;
                }
            }
        });
    const double sum = block_total((double)squares);
    const int bad_sum = block_sum(bad);
    if (threadIdx.x == 0) {
        store_global(partials + 2 * (int64_t)blockIdx.x, sum);
        store_global(partials + 2 * (int64_t)blockIdx.x + 1, (double)bad_sum);
    }
}

__global__ void __launch_bounds__(TOTAL_THREADS)
    grad_total_kernel(int64_t blocks, const double *partials, float *stats)
{
    double sum = 0.0;
    double bad = 0.0;
    for (int64_t i = (int64_t)threadIdx.x; i < blocks; i += TOTAL_THREADS) {
        sum += load_global(partials + 2 * i);
        bad += load_global(partials + 2 * i + 1);
    }
    sum = block_total(sum);
    bad = block_total(bad);
    if (threadIdx.x == 0) {
        store_global(stats, (float)sum);
        store_global(stats + 1, (float)bad);
    }
}

extern "C" size_t kernel_grad_norm_workspace(int64_t count)
{
    return count > 0 ? (size_t)stretches(count) * 2 * sizeof(double) : 0;
}

extern "C" KernelStatus kernel_grad_norm(KernelStream stream, int64_t count, const float *grad,
                                         float *stats, void *workspace)
{
    if (count < 0 || stretches(count) > INT32_MAX) {
        return KERNEL_BAD_ARGUMENT;
    }
    double *partials = static_cast<double *>(workspace);
    const int64_t blocks = stretches(count);
    if (blocks > 0) {
        auto grad_norm = aligned_to(grad, 16) ? grad_norm_kernel<1> : grad_norm_kernel<0>;
        LAUNCH(grad_norm, dim3((unsigned)blocks), dim3(BLOCK_THREADS), 0, stream, count, grad,
               partials);
        const KernelStatus status = kernel_status();
        if (status != 0) {
            return status;
        }
    }
    LAUNCH(grad_total_kernel, dim3(1), dim3(TOTAL_THREADS), 0, stream, blocks, partials, stats);
    return kernel_status();
}

/* ---- SGD ---- */
typedef struct {
    float lr, momentum, fresh /* 1 - dampening */, weight_decay, factor;
    bool nesterov, first, skip;
} SgdStep;

/* GRAD_SCALE and loss scale in one factor. */
DEVICE double unclipped_factor(const SgdLaunch &a)
{
    const double factor = (double)load_cached(a.hyper + HYPER_GRAD_SCALE);
    return a.loss_scale ? factor / (double)load_cached(a.loss_scale) : factor;
}

/* Clipping too. */
DEVICE float gradient_factor(const SgdLaunch &a)
{
    double factor = unclipped_factor(a);
    const float clip = load_cached(a.hyper + HYPER_CLIP_NORM);
    if (a.stats && clip > 0.0f) {
        const double norm = factor * sqrt((double)load_cached(a.stats));
        factor *= fmin(1.0, (double)clip / (norm + 1e-6));
    }
    return (float)factor;
}

DEVICE bool too_long(const SgdLaunch &a)
{
    const float longest = load_cached(a.hyper + HYPER_SKIP_NORM);
    return a.stats && longest > 0.0f &&
           unclipped_factor(a) * sqrt((double)load_cached(a.stats)) > (double)longest;
}

DEVICE SgdStep load_step(const SgdLaunch &a)
{
    SgdStep step;
    step.lr = load_cached(a.hyper + HYPER_LR);
    step.momentum = load_cached(a.hyper + HYPER_MOMENTUM);
    step.fresh = 1.0f - load_cached(a.hyper + HYPER_DAMPENING);
    step.weight_decay = load_cached(a.hyper + HYPER_WEIGHT_DECAY);
    step.nesterov = load_cached(a.hyper + HYPER_NESTEROV) != 0.0f;
    step.first = load_cached(a.hyper + HYPER_FIRST) != 0.0f;
    step.skip = a.stats && load_cached(a.stats + 1) > 0.0f;
    step.factor = 0.0f; /* thread 0 computes it for the block */
    return step;
}

/* The segment that holds element `at`, or the first. For whole warps. */
DEVICE int find_segment(const SgdLaunch &a, int64_t at)
{
    int low = 0;
    int count = a.n_segments;
    while (count > 1) {
        const int apart = (count + WARP_SIZE - 1) / WARP_SIZE;
        const int probe = lane() * apart;
        const bool before = probe < count && load_cached(&a.segments[low + probe].first) <= at;
        const int hits = warp_sum(before ? 1 : 0);
        const int skipped = hits > 0 ? (hits - 1) * apart : 0;
        low += skipped;
        count = count - skipped < apart ? count - skipped : apart;
    }
    return low;
}

/* The decay of the segment a thread is in, as it goes up the arena. */
typedef struct {
    int64_t next; /* where the next segment begins */
    int segment;
    float decay;
} DecayCursor;

DEVICE void enter_segment(const SgdLaunch &a, int segment, DecayCursor &cursor)
{
    cursor.segment = segment;
    cursor.decay = a.n_segments > 0 ? load_cached(&a.segments[segment].decay) : 0.0f;
    cursor.next =
        segment + 1 < a.n_segments ? load_cached(&a.segments[segment + 1].first) : INT64_MAX;
}

DEVICE void update(const SgdStep &s, float decay, const float (&g_in)[CHUNK], float (&w)[CHUNK],
                   float (&m)[CHUNK])
{
    const float weight_decay = s.weight_decay * decay;
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        const float g = fmaf(weight_decay, w[i], g_in[i] * s.factor);
        const float v = s.first ? g : fmaf(s.momentum, m[i], s.fresh * g);
        const float direction = s.nesterov ? fmaf(s.momentum, v, g) : v;
        m[i] = v;
        w[i] = fmaf(-s.lr, direction, w[i]);
    }
}

/* Copy: type of copy16; copies = 0: none. */
template <typename Copy, int copies, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 4) sgd_kernel(SgdLaunch a)
{
    SHARED_ARRAY(float, shared_factor, 1);
    SHARED_ARRAY(int, shared_segment, 1);
    SHARED_ARRAY(int, shared_skip, 1);
    SgdStep step = load_step(a);
    if (!copies && step.skip) {
        return;
    }
    if (warp() == 0) {
        const int segment = find_segment(a, (int64_t)blockIdx.x * STRETCH);
        if (lane() == 0) {
            shared_segment[0] = segment;
            shared_factor[0] = gradient_factor(a);
            shared_skip[0] = step.skip || too_long(a);
        }
    }
    sync_block();
    step.factor = shared_factor[0];
    step.skip = shared_skip[0] != 0;
    if (!copies && step.skip) {
        return;
    }
    DecayCursor cursor;
    enter_segment(a, shared_segment[0], cursor);
    walk_stretch<packed, 1>(a.count, [&](auto, auto in_packs, int64_t at, int64_t, int width) {
        float w[CHUNK];
        const Chunk<float> weight = chunk_load<in_packs.VALUE>(a.weight + at, width);
        if (!step.skip) {
            const Chunk<float> moment = chunk_load<in_packs.VALUE>(a.moment + at, width);
            const Chunk<float> grad = chunk_load<in_packs.VALUE>(a.grad + at, width);
            float m[CHUNK];
            float g[CHUNK];
            while (at >= cursor.next) {
                enter_segment(a, cursor.segment + 1, cursor);
            }
            chunk_unpack(weight, w);
            chunk_unpack(moment, m);
            chunk_unpack(grad, g);
            update(step, cursor.decay, g, w, m);
            chunk_store<in_packs.VALUE>(a.moment + at, chunk_pack<float>(m), width);
            chunk_store<in_packs.VALUE>(a.weight + at, chunk_pack<float>(w), width);
        } else {
            chunk_unpack(weight, w);
        }
        if constexpr (copies) {
            chunk_store<in_packs.VALUE>(static_cast<Copy *>(a.copy16) + at, chunk_pack<Copy>(w),
                                        width);
        }
    });
}

extern "C" KernelStatus kernel_sgd(KernelStream stream, const SgdLaunch *launch)
{
    const SgdLaunch a = *launch;
    if (a.count < 0 || a.n_segments < 0 || stretches(a.count) > INT32_MAX) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (a.count == 0) {
        return 0;
    }
    const bool packed = aligned_to(a.weight, 16) && aligned_to(a.moment, 16) &&
                        aligned_to(a.grad, 16) && aligned_to(a.copy16, 16);
    const dim3 grid((unsigned)stretches(a.count));
    if (!a.copy16) {
        auto sgd = packed ? sgd_kernel<float, 0, 1> : sgd_kernel<float, 0, 0>;
        LAUNCH(sgd, grid, dim3(BLOCK_THREADS), 0, stream, a);
        return kernel_status();
    }
    return by_float_type(a.copy_type, [&](auto tag) {
        typedef typename decltype(tag)::type Copy;
        auto sgd = packed ? sgd_kernel<Copy, 1, 1> : sgd_kernel<Copy, 1, 0>;
        LAUNCH(sgd, grid, dim3(BLOCK_THREADS), 0, stream, a);
        return kernel_status();
    });
}

/* ---- Loss scale ---- */
__global__ void loss_scale_kernel(const float *stats, float growth, float backoff, int interval,
                                  float *loss_scale)
{
    float scale = load_global(loss_scale);
    float good = load_global(loss_scale + 1);
    if (load_global(stats + 1) > 0.0f) {
        scale = fmaxf(scale * backoff, 1.0f);
        good = 0.0f;
    } else {
        good += 1.0f;
        if (good >= (float)interval) {
            scale = fminf(scale * growth, LARGEST_SCALE);
            good = 0.0f;
        }
    }
    store_global(loss_scale, scale);
    store_global(loss_scale + 1, good);
}

extern "C" KernelStatus kernel_loss_scale(KernelStream stream, const float *stats, float growth,
                                          float backoff, int interval, float *loss_scale)
{
    LAUNCH(loss_scale_kernel, dim3(1), dim3(1), 0, stream, stats, growth, backoff, interval,
           loss_scale);
    return kernel_status();
}
