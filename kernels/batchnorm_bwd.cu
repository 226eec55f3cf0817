/* Batch norm backward: the sums (with the ReLU's mask, the second gradient of a residual branch and the masked gradient
 * stored on the way), then the gradient of the input.
 *
 *     dz = (dy + dy2) * [y > 0]         dx = scale * (dz - sum_dz/count - xhat * sum_dzx/count)
 *
 * Bytes: batchnorm.h. Reference loops: host/backend/ref_norm.c. */
#include "kernels/batchnorm.cuh"

enum { BACKWARD_UNROLL = 2 };

/* ---- Masks ---- */
template <typename T> struct MaskArgs {
    const T *y;
    const uint8_t *bits;
};

/* What decides the mask of a chunk, loaded. */
template <typename T, int kind> struct MaskChunk {
};
template <typename T> struct MaskChunk<T, BN_MASK_OUTPUT> {
    Chunk<T> y;
};
template <typename T> struct MaskChunk<T, BN_MASK_BITS> {
    unsigned bits;
};

template <typename T, int kind, int in_packs>
DEVICE void load_mask(const Columns &columns, const Spot &spot, const MaskArgs<T> &source,
                      int64_t row, int width, MaskChunk<T, kind> &mask)
{
    if constexpr (kind == BN_MASK_OUTPUT) {
        mask.y = chunk_load<in_packs>(source.y + row * columns.stride + spot.column * CHUNK, width);
    } else if constexpr (kind == BN_MASK_BITS) {
        mask.bits = load_global(source.bits + row * columns.columns + spot.column);
    }
}

/* dz = 0 where the ReLU was closed. */
template <typename T, int kind>
DEVICE void apply_mask(const MaskChunk<T, kind> &mask, const float (&x)[CHUNK],
                       const float (&scale)[CHUNK], const float (&shift)[CHUNK], float (&dz)[CHUNK])
{
    if constexpr (kind == BN_MASK_OUTPUT) {
        float y[CHUNK];
        chunk_unpack(mask.y, y);
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            dz[i] = y[i] > 0.0f ? dz[i] : 0.0f;
        }
    } else if constexpr (kind == BN_MASK_BITS) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            dz[i] = (mask.bits >> i & 1u) != 0 ? dz[i] : 0.0f;
        }
    } else if constexpr (kind == BN_MASK_REMAKE) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            dz[i] = rounded_to<T>(affine(x[i], scale[i], shift[i])) > 0.0f ? dz[i] : 0.0f;
        }
    }
}

/* launch(mask) with the kind as a compile-time constant, mask.VALUE. */
template <typename Launch> static KernelStatus for_mask(BnMask kind, Launch launch)
{
    switch (kind) {
    case BN_MASK_NONE:
        return launch(Number<BN_MASK_NONE>());
    case BN_MASK_OUTPUT:
        return launch(Number<BN_MASK_OUTPUT>());
    case BN_MASK_BITS:
        return launch(Number<BN_MASK_BITS>());
    case BN_MASK_REMAKE:
        return launch(Number<BN_MASK_REMAKE>());
    }
    return KERNEL_BAD_ARGUMENT;
}

/* ---- Reduce ---- */
template <typename T> struct ReduceArgs {
    const T *dy, *dy2, *x; /* dy2 NULL = none */
    const float *coef;
    MaskArgs<T> mask;
    T *dz; /* NULL = not stored */
};

template <typename T, int packed, int kind>
__global__ void __launch_bounds__(BLOCK_THREADS, kind == BN_MASK_NONE ? 3 : 2)
    bn_reduce_kernel(SumShape shape, ReduceArgs<T> a, float *partials)
{
    const Columns &columns = shape.columns;
    const Spot spot = spot_of(columns);
    float sums[2][CHUNK] = {};
    if (spot.active) {
        float mean[CHUNK];
        float scale[CHUNK] = {};
        float shift[CHUNK] = {};
        load_channels(columns, spot, a.coef + (int64_t)COEF_MEAN * columns.c, mean);
        if constexpr (kind == BN_MASK_REMAKE) {
            load_channels(columns, spot, a.coef + (int64_t)COEF_SCALE * columns.c, scale);
            load_channels(columns, spot, a.coef + (int64_t)COEF_SHIFT * columns.c, shift);
        }
        const int64_t valid = valid_pixels(shape.rows_valid, shape.n, shape.hw) * columns.c;
        const int64_t begin = (int64_t)blockIdx.x * shape.block_rows;
        const int64_t stop = begin + shape.block_rows;
        const int64_t end = stop < columns.rows ? stop : columns.rows;
        const int64_t rest = walk_rows<packed, unroll_of<T>(BACKWARD_UNROLL)>(
            columns, spot, begin + spot.row, columns.per_block, end, valid,
            [&](auto count, auto in_packs, int64_t row, int64_t hop, int width) {
                const int64_t at = row * columns.stride + spot.column * CHUNK;
                Chunk<T> dy[count.VALUE];
                Chunk<T> dy2[count.VALUE];
                Chunk<T> x[count.VALUE];
                MaskChunk<T, kind> mask[count.VALUE];
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    const int64_t here = at + k * hop * columns.stride;
                    dy[k] = chunk_load<in_packs.VALUE>(a.dy + here, width);
                    x[k] = chunk_load<in_packs.VALUE>(a.x + here, width);
                }
                if (a.dy2) {
#pragma unroll
                    for (int k = 0; k < count.VALUE; k++) {
                        dy2[k] = chunk_load<in_packs.VALUE>(a.dy2 + at + k * hop * columns.stride,
                                                            width);
                    }
                }
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    load_mask<T, kind, in_packs.VALUE>(columns, spot, a.mask, row + k * hop, width,
                                                       mask[k]);
                }
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    float g[CHUNK];
                    float v[CHUNK];
                    chunk_unpack(dy[k], g);
                    chunk_unpack(x[k], v);
                    if (a.dy2) {
                        float second[CHUNK];
                        chunk_unpack(dy2[k], second);
#pragma unroll
                        for (int i = 0; i < CHUNK; i++) {
                            g[i] += second[i];
                        }
                    }
                    apply_mask<T, kind>(mask[k], v, scale, shift, g);
                    if (a.dz) {
                        /* The sums are of what the next reader sees. */
                        const Chunk<T> dz = chunk_pack<T>(g);
                        chunk_store<in_packs.VALUE>(a.dz + at + k * hop * columns.stride, dz,
                                                    width);
                        chunk_unpack(dz, g);
                    }
#pragma unroll
                    for (int i = 0; i < CHUNK; i++) {
                        sums[0][i] += g[i];
                        sums[1][i] = fmaf(g[i], v[i] - mean[i], sums[1][i]);
                    }
                }
            });
        if (a.dz) {
            zero_rows<packed>(columns, spot, rest, columns.per_block, end, valid, a.dz);
        }
    }
    store_partials<2>(columns, sums, partials);
}

template <typename T, int packed>
static KernelStatus launch_reduce(KernelStream stream, const SumShape &sum, BnMask kind,
                                  const ReduceArgs<T> &args, float *partials)
{
    return for_mask(kind, [&](auto mask) {
        auto bn_reduce = bn_reduce_kernel<T, packed, mask.VALUE>;
        LAUNCH(bn_reduce, column_grid(sum_split(sum.columns).blocks, sum.columns),
               dim3(BLOCK_THREADS), 0, stream, sum, args, partials);
        return kernel_status();
    });
}

extern "C" KernelStatus kernel_bn_reduce(KernelStream stream, BnShape shape, const void *dy,
                                         const void *dy2, const void *x, const float *coef,
                                         BnMaskSource mask, void *dz, float *sums, void *workspace)
{
    if (!shape_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    const bool packed = aligned_to(dy, 16) && aligned_to(dy2, 16) && aligned_to(x, 16) &&
                        aligned_to(dz, 16) &&
                        (mask.kind != BN_MASK_OUTPUT || aligned_to(mask.y, 16)) &&
                        packs_fit(mask.kind == BN_MASK_BITS, shape.c);
    const SumShape sum = sum_shape(shape, packed);
    float *partials = static_cast<float *>(workspace);
    const KernelStatus status = by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        const ReduceArgs<T> args = {static_cast<const T *>(dy),
                                    static_cast<const T *>(dy2),
                                    static_cast<const T *>(x),
                                    coef,
                                    {static_cast<const T *>(mask.y), mask.bits},
                                    static_cast<T *>(dz)};
        return packed ? launch_reduce<T, 1>(stream, sum, mask.kind, args, partials)
                      : launch_reduce<T, 0>(stream, sum, mask.kind, args, partials);
    });
    return status != 0 ? status : bn_launch_sums(stream, sum, partials, coef, sums);
}

/* ---- Gradient of the input ---- */
template <typename T> struct DxArgs {
    const T *dz, *x;
    const float *coef, *sums;
    MaskArgs<T> mask;
    T *dx;
    bool frozen;
};

/* dx = scale*dz + factor*x + offset. */
typedef struct {
    float scale[CHUNK], factor[CHUNK], offset[CHUNK];
} DxCoef;

template <typename T>
DEVICE void load_dx_coef(const Columns &columns, const Spot &spot, const DxArgs<T> &a, DxCoef &out)
{
    const int64_t c = columns.c;
    load_channels(columns, spot, a.coef + COEF_SCALE * c, out.scale);
    if (a.frozen) {
        return;
    }
    const float count = load_cached(a.sums + 2 * c);
    const double share = count > 0.0f ? 1.0 / (double)count : 1.0;
    enum { AT_ONCE = 4 /* fewer registers than the whole chunk */ };
#pragma unroll
    for (int from = 0; from < CHUNK; from += AT_ONCE) {
        float mean[AT_ONCE];
        float invstd[AT_ONCE];
        float sum_dz[AT_ONCE];
        float sum_dzx[AT_ONCE];
        load_channels(columns, spot, a.coef + COEF_MEAN * c, mean, from);
        load_channels(columns, spot, a.coef + COEF_INVSTD * c, invstd, from);
        load_channels(columns, spot, a.sums, sum_dz, from);
        load_channels(columns, spot, a.sums + c, sum_dzx, from);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const double slope = -(double)out.scale[from + i] * share;
            const double factor = slope * (double)invstd[i] * (double)sum_dzx[i];
            out.factor[from + i] = (float)factor;
            out.offset[from + i] = (float)(slope * (double)sum_dz[i] - factor * (double)mean[i]);
        }
    }
}

template <typename T, int packed, int kind>
__global__ void __launch_bounds__(BLOCK_THREADS, kind == BN_MASK_REMAKE ? 2 : 3)
    bn_dx_kernel(PassShape shape, DxArgs<T> a)
{
    const Columns &columns = shape.columns;
    const Spot spot = spot_of(columns);
    if (!spot.active) {
        return;
    }
    DxCoef coef = {};
    load_dx_coef(columns, spot, a, coef);
    float shift[CHUNK] = {};
    if constexpr (kind == BN_MASK_REMAKE) {
        load_channels(columns, spot, a.coef + (int64_t)COEF_SHIFT * columns.c, shift);
    }
    const bool reads_x = !a.frozen || kind == BN_MASK_REMAKE;
    const int64_t valid = valid_pixels(shape.rows_valid, shape.n, shape.hw) * columns.c;
    const int64_t first = (int64_t)blockIdx.x * columns.per_block + spot.row;
    const int64_t step = (int64_t)gridDim.x * columns.per_block;
    const int64_t rest = walk_rows<packed, unroll_of<T>(BACKWARD_UNROLL)>(
        columns, spot, first, step, columns.rows, valid,
        [&](auto count, auto in_packs, int64_t row, int64_t hop, int width) {
            const int64_t at = row * columns.stride + spot.column * CHUNK;
            Chunk<T> dz[count.VALUE];
            Chunk<T> x[count.VALUE];
            MaskChunk<T, kind> mask[count.VALUE];
#pragma unroll
            for (int k = 0; k < count.VALUE; k++) {
                dz[k] = chunk_load<in_packs.VALUE>(a.dz + at + k * hop * columns.stride, width);
            }
            if (reads_x) {
#pragma unroll
                for (int k = 0; k < count.VALUE; k++) {
                    x[k] = chunk_load<in_packs.VALUE>(a.x + at + k * hop * columns.stride, width);
                }
            }
#pragma unroll
            for (int k = 0; k < count.VALUE; k++) {
                load_mask<T, kind, in_packs.VALUE>(columns, spot, a.mask, row + k * hop, width,
                                                   mask[k]);
            }
#pragma unroll
            for (int k = 0; k < count.VALUE; k++) {
                float g[CHUNK];
                float v[CHUNK] = {};
                chunk_unpack(dz[k], g);
                if (reads_x) {
                    chunk_unpack(x[k], v);
                }
                apply_mask<T, kind>(mask[k], v, coef.scale, shift, g);
#pragma unroll
                for (int i = 0; i < CHUNK; i++) {
                    const float lean = fmaf(coef.factor[i], v[i], coef.offset[i]);
                    g[i] = a.frozen ? coef.scale[i] * g[i] : fmaf(coef.scale[i], g[i], lean);
                }
                chunk_store<in_packs.VALUE>(a.dx + at + k * hop * columns.stride, chunk_pack<T>(g),
                                            width);
            }
        });
    zero_rows<packed>(columns, spot, rest, step, columns.rows, valid, a.dx);
}

template <typename T, int packed>
static KernelStatus launch_dx(KernelStream stream, const PassShape &pass, BnMask kind,
                              const DxArgs<T> &args)
{
    return for_mask(kind, [&](auto mask) {
        auto bn_dx = bn_dx_kernel<T, packed, mask.VALUE>;
        LAUNCH(bn_dx, pass_grid(pass.columns, unroll_of<T>(BACKWARD_UNROLL)), dim3(BLOCK_THREADS),
               0, stream, pass, args);
        return kernel_status();
    });
}

extern "C" KernelStatus kernel_bn_dx(KernelStream stream, BnShape shape, const void *dz,
                                     const void *x, const float *coef, const float *sums,
                                     BnMaskSource mask, bool frozen, void *dx)
{
    if (!shape_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    const bool packed = aligned_to(dz, 16) && aligned_to(x, 16) && aligned_to(dx, 16) &&
                        (mask.kind != BN_MASK_OUTPUT || aligned_to(mask.y, 16)) &&
                        packs_fit(mask.kind == BN_MASK_BITS, shape.c);
    const PassShape pass = pass_shape(shape, packed);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        const DxArgs<T> args = {static_cast<const T *>(dz),
                                static_cast<const T *>(x),
                                coef,
                                sums,
                                {static_cast<const T *>(mask.y), mask.bits},
                                static_cast<T *>(dx),
                                frozen};
        return packed ? launch_dx<T, 1>(stream, pass, mask.kind, args)
                      : launch_dx<T, 0>(stream, pass, mask.kind, args);
    });
}
