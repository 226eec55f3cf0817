/* Pooling. A thread makes one chunk of 8 channels of one output pixel and goes through its window (forward) or through the
 * windows that hold it (backward) in row order, so that sums have one order and nothing is added across threads. Where
 * windows overlap, an element is read once for each of them, from the caches. One window that covers the whole image has
 * kernels of its own: there the forward kernel splits the pixels of an image over the block.
 * Reference loops: host/backend/ref_misc.c. */
#include "kernels/kernel.cuh"

#include "kernels/chunk.cuh"
#include "kernels/elementwise.h"

enum { POOL_UNROLL = 4, MAX_GRID_IMAGES = 65535, MAX_PLACES = 256 /* an index is a byte */ };

/* One image on one side of the pooling; images are gridDim.z. Rows of Columns are pixels of an image. */
typedef struct {
    Columns columns;
    PoolShape pool;
    int pixels;           /* of the outputs' image */
    int64_t large, small; /* elements of an image of x and of y */
} PoolPass;

static bool pool_is_good(const PoolShape &p)
{
    return p.n >= 0 && p.h > 0 && p.w > 0 && p.c > 0 && p.oh > 0 && p.ow > 0 && p.kernel > 0 &&
           p.stride > 0 && p.pad >= 0;
}

/* Chunks never reach into the next pixel: packs need c to be a multiple of 8. */
static PoolPass pool_pass(const PoolShape &pool, int pixels)
{
    PoolPass pass = {};
    pass.columns = columns_of(pixels, pool.c, false);
    pass.pool = pool;
    pass.pixels = pixels;
    pass.large = (int64_t)pool.h * pool.w * pool.c;
    pass.small = (int64_t)pool.oh * pool.ow * pool.c;
    return pass;
}

static dim3 pool_grid(const PoolPass &pass)
{
    const int images = pass.pool.n < MAX_GRID_IMAGES ? pass.pool.n : MAX_GRID_IMAGES;
    const int per_block = pass.columns.per_block;
    return dim3((unsigned)((pass.pixels + per_block - 1) / per_block), (unsigned)pass.columns.tiles,
                (unsigned)images);
}

static bool pool_packs(const PoolShape &pool, const void *a, const void *b)
{
    return pool.c % CHUNK == 0 && aligned_to(a, 16) && aligned_to(b, 16);
}

typedef struct {
    int begin, end;
} Span;

/* Window `o` in input coordinates, clipped. */
DEVICE Span window_of(int o, const PoolShape &p, int size)
{
    const int begin = o * p.stride - p.pad;
    const int end = begin + p.kernel;
    Span span;
    span.begin = begin < 0 ? 0 : begin;
    span.end = end > size ? size : end;
    return span;
}

/* Windows that hold input position `i`. */
DEVICE Span windows_at(int i, const PoolShape &p, int count)
{
    const int reach = i + p.pad - p.kernel;
    const int last = (i + p.pad) / p.stride;
    Span span;
    span.begin = reach < 0 ? 0 : reach / p.stride + 1;
    span.end = last < count ? last + 1 : count;
    return span;
}

DEVICE float pool_share(const PoolShape &p)
{
    return 1.0f / (float)(p.kernel * p.kernel);
}

/* This thread's pixel and column of the outputs' images. */
typedef struct {
    Spot spot;
    int pixel;
    int64_t channel; /* first of the chunk */
    bool active;
} PoolSpot;

DEVICE PoolSpot pool_spot(const PoolPass &pass)
{
    PoolSpot at;
    at.spot = spot_of(pass.columns);
    at.pixel = (int)blockIdx.x * pass.columns.per_block + at.spot.row;
    at.channel = (int64_t)at.spot.column * CHUNK;
    at.active = at.spot.active && at.pixel < pass.pixels;
    return at;
}

/* sum += the chunks of a row of `count` pixels that lie c apart. */
template <int packed, typename T>
DEVICE void add_pixels(const T *x, int count, int64_t apart, int width, float (&sum)[CHUNK])
{
#pragma unroll unroll_of < T>(POOL_UNROLL)
    for (int i = 0; i < count; i++) {
        float v[CHUNK];
        chunk_unpack(chunk_load<packed>(x + i * apart, width), v);
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            sum[k] += v[k];
        }
    }
}

template <int packed, typename T>
DEVICE void store_scaled(T *y, const float (&sum)[CHUNK], float factor, int width)
{
    float v[CHUNK];
#pragma unroll
    for (int k = 0; k < CHUNK; k++) {
        v[k] = sum[k] * factor;
    }
    chunk_store<packed>(y, chunk_pack<T>(v), width);
}

/* ---- Average ---- */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3) avgpool_kernel(PoolPass pass, const T *x, T *y)
{
    const PoolShape &p = pass.pool;
    const PoolSpot at = pool_spot(pass);
    if (!at.active) {
        return;
    }
    const Span rows = window_of(at.pixel / p.ow, p, p.h);
    const Span pixels = window_of(at.pixel % p.ow, p, p.w);
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float sum[CHUNK] = {};
        for (int h = rows.begin; h < rows.end; h++) {
            const T *row = x + n * pass.large + ((int64_t)h * p.w + pixels.begin) * p.c;
            add_pixels<packed>(row + at.channel, pixels.end - pixels.begin, p.c, at.spot.width,
                               sum);
        }
        store_scaled<packed>(y + n * pass.small + (int64_t)at.pixel * p.c + at.channel, sum,
                             pool_share(p), at.spot.width);
    }
}

/* The window is the image: rows of the block share its pixels; their sums are added in order. */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    avgpool_global_kernel(PoolPass pass, const T *x, T *y)
{
    SHARED_ARRAY(float, sums, BLOCK_THREADS *CHUNK);
    const PoolShape &p = pass.pool;
    const Columns &columns = pass.columns;
    const Spot spot = spot_of(columns);
    const int pixels = p.h * p.w;
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float sum[CHUNK] = {};
        if (spot.active && spot.row < pixels) {
            const T *first = x + n * pass.large + (int64_t)spot.row * p.c + spot.column * CHUNK;
            add_pixels<packed>(first, (pixels - spot.row - 1) / columns.per_block + 1,
                               (int64_t)columns.per_block * p.c, spot.width, sum);
        }
        sync_block();
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            sums[k * BLOCK_THREADS + (int)threadIdx.x] = sum[k];
        }
        sync_block();
        if (spot.active && spot.row == 0) {
            const int rows = columns.per_block < pixels ? columns.per_block : pixels;
            for (int row = 1; row < rows; row++) {
#pragma unroll
                for (int k = 0; k < CHUNK; k++) {
                    sum[k] += sums[k * BLOCK_THREADS + row * columns.tile + (int)threadIdx.x];
                }
            }
            store_scaled<packed>(y + n * pass.small + spot.column * CHUNK, sum, pool_share(p),
                                 spot.width);
        }
    }
}

static bool is_global(const PoolShape &p)
{
    return p.oh == 1 && p.ow == 1 && p.pad == 0 && p.kernel == p.h && p.kernel == p.w;
}

extern "C" KernelStatus kernel_avgpool(KernelStream stream, PoolShape shape, const void *x, void *y)
{
    if (!pool_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (shape.n == 0) {
        return 0;
    }
    const bool packed = pool_packs(shape, x, y);
    const PoolPass pass = pool_pass(shape, shape.oh * shape.ow);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto avgpool = packed ? avgpool_kernel<T, 1> : avgpool_kernel<T, 0>;
        if (is_global(shape)) {
            avgpool = packed ? avgpool_global_kernel<T, 1> : avgpool_global_kernel<T, 0>;
        }
        LAUNCH(avgpool, pool_grid(pass), dim3(BLOCK_THREADS), 0, stream, pass,
               static_cast<const T *>(x), static_cast<T *>(y));
        return kernel_status();
    });
}

template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    avgpool_bwd_kernel(PoolPass pass, const T *dy, T *dx)
{
    const PoolShape &p = pass.pool;
    const PoolSpot at = pool_spot(pass);
    if (!at.active) {
        return;
    }
    const Span rows = windows_at(at.pixel / p.w, p, p.oh);
    const Span pixels = windows_at(at.pixel % p.w, p, p.ow);
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float sum[CHUNK] = {};
        for (int oh = rows.begin; oh < rows.end; oh++) {
            const T *row = dy + n * pass.small + ((int64_t)oh * p.ow + pixels.begin) * p.c;
            add_pixels<packed>(row + at.channel, pixels.end - pixels.begin, p.c, at.spot.width,
                               sum);
        }
        store_scaled<packed>(dx + n * pass.large + (int64_t)at.pixel * p.c + at.channel, sum,
                             pool_share(p), at.spot.width);
    }
}

/* dy has one pixel an image: read once by each thread, written to its pixels. */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    avgpool_global_bwd_kernel(PoolPass pass, const T *dy, T *dx)
{
    const PoolShape &p = pass.pool;
    const PoolSpot at = pool_spot(pass);
    if (!at.active) {
        return;
    }
    const int step = (int)gridDim.x * pass.columns.per_block;
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float g[CHUNK];
        chunk_unpack(chunk_load<packed>(dy + n * pass.small + at.channel, at.spot.width), g);
        for (int pixel = at.pixel; pixel < pass.pixels; pixel += step) {
            store_scaled<packed>(dx + n * pass.large + (int64_t)pixel * p.c + at.channel, g,
                                 pool_share(p), at.spot.width);
        }
    }
}

extern "C" KernelStatus kernel_avgpool_bwd(KernelStream stream, PoolShape shape, const void *dy,
                                           void *dx)
{
    if (!pool_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (shape.n == 0) {
        return 0;
    }
    const bool packed = pool_packs(shape, dy, dx);
    const PoolPass pass = pool_pass(shape, shape.h * shape.w);
    dim3 grid = pool_grid(pass);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto avgpool_bwd = packed ? avgpool_bwd_kernel<T, 1> : avgpool_bwd_kernel<T, 0>;
        if (is_global(shape)) {
            avgpool_bwd =
                packed ? avgpool_global_bwd_kernel<T, 1> : avgpool_global_bwd_kernel<T, 0>;
            grid.x = (grid.x + POOL_UNROLL - 1) / POOL_UNROLL;
        }
        LAUNCH(avgpool_bwd, grid, dim3(BLOCK_THREADS), 0, stream, pass, static_cast<const T *>(dy),
               static_cast<T *>(dx));
        return kernel_status();
    });
}

/* ---- Maximum ---- */
template <int packed> DEVICE void store_index(uint8_t *index, const int (&place)[CHUNK], int width)
{
    if constexpr (packed) {
        Pack<uint8_t, CHUNK> pack;
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            pack.v[k] = (uint8_t)place[k];
        }
        store_pack(index, pack);
    } else {
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            if (k < width) {
                store_global(index + k, (uint8_t)place[k]);
            }
        }
    }
}

template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    maxpool_kernel(PoolPass pass, const T *x, T *y, uint8_t *index)
{
    const PoolShape &p = pass.pool;
    const PoolSpot at = pool_spot(pass);
    if (!at.active) {
        return;
    }
    const int top = at.pixel / p.ow * p.stride - p.pad;
    const int left = at.pixel % p.ow * p.stride - p.pad;
    const Span rows = window_of(at.pixel / p.ow, p, p.h);
    const Span pixels = window_of(at.pixel % p.ow, p, p.w);
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float best[CHUNK];
        int place[CHUNK];
#pragma unroll
        for (int k = 0; k < CHUNK; k++) {
            best[k] = -INFINITY;
            place[k] = (rows.begin - top) * p.kernel + pixels.begin - left; /* the first */
        }
        for (int h = rows.begin; h < rows.end; h++) {
            const T *row = x + n * pass.large + (int64_t)h * p.w * p.c + at.channel;
#pragma unroll unroll_of < T>(POOL_UNROLL)
            for (int w = pixels.begin; w < pixels.end; w++) {
                float v[CHUNK];
                chunk_unpack(chunk_load<packed>(row + (int64_t)w * p.c, at.spot.width), v);
                const int here = (h - top) * p.kernel + w - left;
#pragma unroll
                for (int k = 0; k < CHUNK; k++) {
                    /* A NaN wins over numbers, and the first of several stays. */
                    const bool wins = v[k] > best[k] || (v[k] != v[k] && best[k] == best[k]);
                    best[k] = wins ? v[k] : best[k];
                    place[k] = wins ? here : place[k];
                }
            }
        }
        const int64_t out = n * pass.small + (int64_t)at.pixel * p.c + at.channel;
        chunk_store<packed>(y + out, chunk_pack<T>(best), at.spot.width);
        store_index<packed>(index + out, place, at.spot.width);
    }
}

static bool maxpool_is_good(const PoolShape &p)
{
    return pool_is_good(p) && p.kernel * p.kernel <= MAX_PLACES && p.pad < p.kernel;
}

extern "C" KernelStatus kernel_maxpool(KernelStream stream, PoolShape shape, const void *x, void *y,
                                       uint8_t *index)
{
    if (!maxpool_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (shape.n == 0) {
        return 0;
    }
    const bool packed = pool_packs(shape, x, y) && aligned_to(index, CHUNK);
    const PoolPass pass = pool_pass(shape, shape.oh * shape.ow);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto maxpool = packed ? maxpool_kernel<T, 1> : maxpool_kernel<T, 0>;
        LAUNCH(maxpool, pool_grid(pass), dim3(BLOCK_THREADS), 0, stream, pass,
               static_cast<const T *>(x), static_cast<T *>(y), index);
        return kernel_status();
    });
}

template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    maxpool_bwd_kernel(PoolPass pass, const T *dy, const uint8_t *index, T *dx)
{
    const PoolShape &p = pass.pool;
    const PoolSpot at = pool_spot(pass);
    if (!at.active) {
        return;
    }
    const int h = at.pixel / p.w;
    const int w = at.pixel % p.w;
    const Span rows = windows_at(h, p, p.oh);
    const Span pixels = windows_at(w, p, p.ow);
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        float sum[CHUNK] = {};
        for (int oh = rows.begin; oh < rows.end; oh++) {
            for (int ow = pixels.begin; ow < pixels.end; ow++) {
                const int64_t out = n * pass.small + ((int64_t)oh * p.ow + ow) * p.c + at.channel;
                const int here = (h + p.pad - oh * p.stride) * p.kernel + w + p.pad - ow * p.stride;
                float g[CHUNK];
                chunk_unpack(chunk_load<packed>(dy + out, at.spot.width), g);
                Pack<uint8_t, CHUNK> place;
                if constexpr (packed) {
                    place = load_pack<uint8_t, CHUNK>(index + out);
                }
#pragma unroll
                for (int k = 0; k < CHUNK; k++) {
                    if constexpr (!packed) {
                        place.v[k] = k < at.spot.width ? load_global(index + out + k) : (uint8_t)0;
                    }
                    sum[k] += (int)place.v[k] == here ? g[k] : 0.0f;
                }
            }
        }
        store_scaled<packed>(dx + n * pass.large + (int64_t)at.pixel * p.c + at.channel, sum, 1.0f,
                             at.spot.width);
    }
}

extern "C" KernelStatus kernel_maxpool_bwd(KernelStream stream, PoolShape shape, const void *dy,
                                           const uint8_t *index, void *dx)
{
    if (!maxpool_is_good(shape)) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (shape.n == 0) {
        return 0;
    }
    const bool packed = pool_packs(shape, dy, dx) && aligned_to(index, CHUNK);
    const PoolPass pass = pool_pass(shape, shape.h * shape.w);
    return by_float_type(shape.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto maxpool_bwd = packed ? maxpool_bwd_kernel<T, 1> : maxpool_bwd_kernel<T, 0>;
        LAUNCH(maxpool_bwd, pool_grid(pass), dim3(BLOCK_THREADS), 0, stream, pass,
               static_cast<const T *>(dy), index, static_cast<T *>(dx));
        return kernel_status();
    });
}
