/* Batch norm forward, and what has a thread a channel. Sums: a block adds up a few hundred rows for its columns and stores
 * partials; a second kernel with one block for 8 channels adds those in double. Everything else is one streaming pass; each
 * thread keeps one chunk of 8 channels, so that coefficients are loaded once. No block waits for another.
 *
 *     xhat = (x - mean) * invstd        y = relu(x*scale + shift + residual)
 *
 * Bytes: batchnorm.h. Reference loops: host/backend/ref_norm.c. */
#include "kernels/batchnorm.cuh"

enum { STATS_UNROLL = 4, APPLY_UNROLL = 4, SMALL_THREADS = 128 };

/* ---- Sums ---- */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 4)
    bn_stats_kernel(SumShape shape, const T *x, float *partials)
{
    const Columns &columns = shape.columns;
    const Spot spot = spot_of(columns);
    float sums[2][CHUNK] = {};
    if (spot.active) {
        const int64_t valid = valid_pixels(shape.rows_valid, shape.n, shape.hw) * columns.c;
        const int64_t begin = (int64_t)blockIdx.x * shape.block_rows;
        walk_rows<packed, unroll_of<T>(STATS_UNROLL)>(
            columns, spot, begin + spot.row, columns.per_block, begin + shape.block_rows, valid,
            [&](auto count, auto in_packs, int64_t row, int64_t step, int width) {
                const T *at = x + row * columns.stride + spot.column * CHUNK;
                Chunk<T> chunk[count.VALUE];
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    chunk[k] = chunk_load<in_packs.VALUE>(at + k * step * columns.stride, width);
                }
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    float v[CHUNK];
                    chunk_unpack(chunk[k], v);
#pragma unroll
                    for (int i = 0; i < CHUNK; i++) {
                        sums[0][i] += v[i];
                        sums[1][i] = fmaf(v[i], v[i], sums[1][i]);
                    }
                }
            });
    }
    store_partials<2>(columns, sums, partials);
}

/* sums = {first, second (* invstd where coef is given), count}. */
__global__ void __launch_bounds__(2 * FOLD_LANES * CHUNK)
    bn_sums_kernel(SumShape shape, unsigned blocks, const float *partials, const float *coef,
                   float *sums)
{
    const int c = shape.columns.c;
    const double sum = fold_partials<2>(shape.columns, blocks, partials);
    const int thread = (int)threadIdx.x;
    const int channel = (int)blockIdx.x * CHUNK + thread % CHUNK;
    const int kind = thread / CHUNK;
    if (kind < 2 && channel < c) {
        const bool normalise = kind == 1 && coef;
        const double factor =
            normalise ? (double)load_cached(coef + (int64_t)COEF_INVSTD * c + channel) : 1.0;
        store_global(sums + (int64_t)kind * c + channel, (float)(sum * factor));
    }
    if (blockIdx.x == 0 && thread == 0) {
        store_global(sums + 2 * (int64_t)c,
                     (float)valid_pixels(shape.rows_valid, shape.n, shape.hw));
    }
}

KernelStatus bn_launch_sums(KernelStream stream, const SumShape &shape, const float *partials,
                            const float *coef, float *sums)
{
    const unsigned blocks = (unsigned)((shape.columns.c + CHUNK - 1) / CHUNK);
    LAUNCH(bn_sums_kernel, dim3(blocks), dim3(2 * FOLD_LANES * CHUNK), 0, stream, shape,
           sum_split(shape.columns).blocks, partials, coef, sums);
    return kernel_status();
}

extern "C" size_t kernel_bn_workspace(int n, int hw, int c)
{
    return n >= 0 && hw > 0 && c > 0 ? sum_workspace((int64_t)n * hw, c, 2) : 0;
}

extern "C" KernelStatus kernel_bn_stats(KernelStream stream, BnShape shape, const void *x,
                                        float *sums, void *workspace)
{
    if (!shape_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    const bool packed = aligned_to(x, 16);
    const SumShape sum = sum_shape(shape, packed);
    float *partials = static_cast<float *>(workspace);
    const KernelStatus status = by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto bn_stats = packed ? bn_stats_kernel<T, 1> : bn_stats_kernel<T, 0>;
        LAUNCH(bn_stats, column_grid(sum_split(sum.columns).blocks, sum.columns),
               dim3(BLOCK_THREADS), 0, stream, sum, static_cast<const T *>(x), partials);
        return kernel_status();
    });
    return status != 0 ? status : bn_launch_sums(stream, sum, partials, nullptr, sums);
}

/* ---- Channels: a thread each, in double ---- */
typedef struct {
    double mean, var; /* biased */
} Moments;

/* No rows at all count as zeros. */
DEVICE Moments moments_of(const float *sums, int c, int channel)
{
    const double count = (double)load_cached(sums + 2 * (int64_t)c);
    Moments moments = {0.0, 0.0};
    if (count > 0.0) {
        moments.mean = (double)load_global(sums + channel) / count;
        moments.var = fmax((double)load_global(sums + (int64_t)c + channel) / count -
                               moments.mean * moments.mean,
                           0.0);
    }
    return moments;
}

DEVICE void store_coef(float *coef, int c, int channel, Moments moments, float gamma, float beta,
                       float eps)
{
    const double invstd = 1.0 / sqrt(moments.var + (double)eps);
    const double scale = (double)gamma * invstd;
    store_global(coef + channel, (float)moments.mean);
    store_global(coef + (int64_t)COEF_INVSTD * c + channel, (float)invstd);
    store_global(coef + (int64_t)COEF_SCALE * c + channel, (float)scale);
    store_global(coef + (int64_t)COEF_SHIFT * c + channel,
                 (float)((double)beta - moments.mean * scale));
}

DEVICE int channel_of_thread(void)
{
    return (int)(blockIdx.x * SMALL_THREADS + threadIdx.x);
}

static dim3 channel_blocks(int c)
{
    return dim3((unsigned)(c + SMALL_THREADS - 1) / SMALL_THREADS);
}

__global__ void __launch_bounds__(SMALL_THREADS)
    bn_finalize_kernel(int c, const float *sums, const float *gamma, const float *beta, float eps,
                       float *coef)
{
    const int channel = channel_of_thread();
    if (channel < c) {
        store_coef(coef, c, channel, moments_of(sums, c, channel), load_global(gamma + channel),
                   load_global(beta + channel), eps);
    }
}

extern "C" KernelStatus kernel_bn_finalize(KernelStream stream, int c, const float *sums,
                                           const float *gamma, const float *beta, float eps,
                                           float *coef)
{
    if (c <= 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    LAUNCH(bn_finalize_kernel, channel_blocks(c), dim3(SMALL_THREADS), 0, stream, c, sums, gamma,
           beta, eps, coef);
    return kernel_status();
}

__global__ void __launch_bounds__(SMALL_THREADS)
    bn_running_kernel(int c, const float *sums, float momentum, float *running_mean,
                      float *running_var)
{
    const int channel = channel_of_thread();
    if (channel >= c) {
        return;
    }
    const double count = (double)load_cached(sums + 2 * (int64_t)c);
    const float sum = load_global(sums + channel);
    const float squares = load_global(sums + (int64_t)c + channel);
    /* The sums, since the clamp of the variance hides a NaN. */
    if (!(count >= 1.0) || !isfinite(sum) || !isfinite(squares)) {
        return;
    }
    const double mean = (double)sum / count;
    const double var = fmax((double)squares / count - mean * mean, 0.0);
    const double unbiased = count > 1.0 ? var * count / (count - 1.0) : var;
    const double keep = 1.0 - (double)momentum;
    store_global(
        running_mean + channel,
        (float)(keep * (double)load_global(running_mean + channel) + (double)momentum * mean));
    store_global(running_var + channel, (float)(keep * (double)load_global(running_var + channel) +
                                                (double)momentum * unbiased));
}

extern "C" KernelStatus kernel_bn_running(KernelStream stream, int c, const float *sums,
                                          float momentum, float *running_mean, float *running_var)
{
    if (c <= 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    LAUNCH(bn_running_kernel, channel_blocks(c), dim3(SMALL_THREADS), 0, stream, c, sums, momentum,
           running_mean, running_var);
    return kernel_status();
}

__global__ void __launch_bounds__(SMALL_THREADS)
    bn_infer_kernel(int c, const float *gamma, const float *beta, const float *mean,
                    const float *var, float eps, float *coef)
{
    const int channel = channel_of_thread();
    if (channel < c) {
        const Moments moments = {(double)load_global(mean + channel),
                                 (double)load_global(var + channel)};
        store_coef(coef, c, channel, moments, load_global(gamma + channel),
                   load_global(beta + channel), eps);
    }
}

extern "C" KernelStatus kernel_bn_infer(KernelStream stream, int c, const float *gamma,
                                        const float *beta, const float *mean, const float *var,
                                        float eps, float *coef)
{
    if (c <= 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    LAUNCH(bn_infer_kernel, channel_blocks(c), dim3(SMALL_THREADS), 0, stream, c, gamma, beta, mean,
           var, eps, coef);
    return kernel_status();
}

__global__ void __launch_bounds__(SMALL_THREADS)
    bn_dparam_kernel(int c, const float *sums, float *dgamma, float *dbeta, bool add)
{
    const int channel = channel_of_thread();
    if (channel >= c) {
        return;
    }
    if (dgamma) {
        store_global(dgamma + channel, (add ? load_global(dgamma + channel) : 0.0f) +
                                           load_global(sums + (int64_t)c + channel));
    }
    if (dbeta) {
        store_global(dbeta + channel,
                     (add ? load_global(dbeta + channel) : 0.0f) + load_global(sums + channel));
    }
}

extern "C" KernelStatus kernel_bn_dparam(KernelStream stream, int c, const float *sums,
                                         float *dgamma, float *dbeta, bool add)
{
    if (c <= 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    LAUNCH(bn_dparam_kernel, channel_blocks(c), dim3(SMALL_THREADS), 0, stream, c, sums, dgamma,
           dbeta, add);
    return kernel_status();
}

/* ---- Apply ---- */
template <typename T> struct ApplyArgs {
    const T *x, *residual; /* NULL = none */
    const float *coef;
    T *y;
    uint8_t *mask; /* NULL = none */
    bool relu;
};

template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 2) bn_apply_kernel(PassShape shape, ApplyArgs<T> a)
{
    const Columns &columns = shape.columns;
    const Spot spot = spot_of(columns);
    if (!spot.active) {
        return;
    }
    float scale[CHUNK];
    float shift[CHUNK];
    load_channels(columns, spot, a.coef + (int64_t)COEF_SCALE * columns.c, scale);
    load_channels(columns, spot, a.coef + (int64_t)COEF_SHIFT * columns.c, shift);
    const int64_t valid = valid_pixels(shape.rows_valid, shape.n, shape.hw) * columns.c;
    const int64_t first = (int64_t)blockIdx.x * columns.per_block + spot.row;
    const int64_t step = (int64_t)gridDim.x * columns.per_block;
    const int64_t rest = walk_rows<packed, unroll_of<T>(APPLY_UNROLL)>(
        columns, spot, first, step, columns.rows, valid,
        [&](auto count, auto in_packs, int64_t row, int64_t hop, int width) {
            const int64_t at = row * columns.stride + spot.column * CHUNK;
            Chunk<T> x[count.VALUE];
            Chunk<T> residual[count.VALUE];
#pragma unroll
            for (int k = 0; k < count.VALUE; k++) {
                x[k] = chunk_load<in_packs.VALUE>(a.x + at + k * hop * columns.stride, width);
            }
            if (a.residual) {
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    residual[k] = chunk_load<in_packs.VALUE>(
                        a.residual + at + k * hop * columns.stride, width);
                }
            }
#pragma unroll
            for (int k = 0; k < count.VALUE; k++) {
                float v[CHUNK];
                float r[CHUNK] = {};
                chunk_unpack(x[k], v);
                if (a.residual) {
                    chunk_unpack(residual[k], r);
                }
#pragma unroll
                for (int i = 0; i < CHUNK; i++) {
                    v[i] = affine(v[i], scale[i], shift[i]) + r[i];
                    v[i] = a.relu && v[i] < 0.0f ? 0.0f : v[i];
                }
                const Chunk<T> y = chunk_pack<T>(v);
                chunk_store<in_packs.VALUE>(a.y + at + k * hop * columns.stride, y, width);
                if (a.mask) {
                    chunk_unpack(y, v);
                    unsigned bits = 0;
#pragma unroll
                    for (int i = 0; i < CHUNK; i++) {
                        bits |= i < width && v[i] > 0.0f ? 1u << i : 0u;
                    }
                    store_global(a.mask + (row + k * hop) * columns.columns + spot.column,
                                 (uint8_t)bits);
                }
            }
        });
    zero_rows<packed>(columns, spot, rest, step, columns.rows, valid, a.y);
    for (int64_t row = rest; a.mask && row < columns.rows; row += step) {
        store_global(a.mask + row * columns.columns + spot.column, (uint8_t)0);
    }
}

extern "C" KernelStatus kernel_bn_apply(KernelStream stream, BnShape shape, const void *x,
                                        const float *coef, const void *residual, bool relu, void *y,
                                        uint8_t *mask)
{
    if (!shape_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    const bool packed = aligned_to(x, 16) && aligned_to(residual, 16) && aligned_to(y, 16) &&
                        packs_fit(mask != nullptr, shape.c);
    const PassShape pass = pass_shape(shape, packed);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        const ApplyArgs<T> args = {static_cast<const T *>(x),
                                   static_cast<const T *>(residual),
                                   coef,
                                   static_cast<T *>(y),
                                   mask,
                                   relu};
        auto bn_apply = packed ? bn_apply_kernel<T, 1> : bn_apply_kernel<T, 0>;
        LAUNCH(bn_apply, pass_grid(pass.columns, unroll_of<T>(APPLY_UNROLL)), dim3(BLOCK_THREADS),
               0, stream, pass, args);
        return kernel_status();
    });
}

/* ---- Folding into weights ---- */
typedef struct {
    int64_t per_o;
    const float *w, *bias, *gamma, *beta, *mean, *var;
    float eps;
    float *w_out, *b_out;
} FoldArgs;

/* A block an output channel. */
__global__ void __launch_bounds__(SMALL_THREADS) fold_bn_kernel(FoldArgs a)
{
    const int64_t o = (int64_t)blockIdx.x;
    const double scale =
        (double)load_cached(a.gamma + o) / sqrt((double)load_cached(a.var + o) + (double)a.eps);
    for (int64_t i = (int64_t)threadIdx.x; i < a.per_o; i += SMALL_THREADS) {
        const float w = load_global(a.w + o * a.per_o + i);
        store_global(a.w_out + o * a.per_o + i, (float)((double)w * scale));
    }
    if (threadIdx.x == 0) {
        const double bias = a.bias ? (double)load_global(a.bias + o) : 0.0;
        store_global(a.b_out + o, (float)((bias - (double)load_global(a.mean + o)) * scale +
                                          (double)load_global(a.beta + o)));
    }
}

extern "C" KernelStatus kernel_fold_bn(KernelStream stream, int o, int64_t per_o, const float *w,
                                       const float *bias, const float *gamma, const float *beta,
                                       const float *mean, const float *var, float eps, float *w_out,
                                       float *b_out)
{
    if (o <= 0 || per_o < 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    const FoldArgs args = {per_o, w, bias, gamma, beta, mean, var, eps, w_out, b_out};
    LAUNCH(fold_bn_kernel, dim3((unsigned)o), dim3(SMALL_THREADS), 0, stream, args);
    return kernel_status();
}
