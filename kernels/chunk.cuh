/* What the streaming kernels (batch norm, elementwise, pooling, bias gradients) share: chunks of 8 elements, which move in
 * 16-byte packs where memory is aligned and element by element elsewhere; walks over a flat array and over the rows of
 * [pixels][channels]; column sums in fixed order.
 *
 * A [pixels][c] tensor is cut in one of two ways. Packed: rows of lcm(c, 8) elements, that is `repeats` pixels, so that
 * every chunk begins at a multiple of 8 elements whatever c is; the last row may be incomplete. Grouped (pointers that are
 * not aligned, and bit masks where c is no multiple of 8): rows of one pixel, whose last chunk may be narrower. In
 * both a thread keeps its column and goes down the rows, so coefficients and sums stay in registers. */
#ifndef CUDISTILL_KERNELS_CHUNK_CUH
#define CUDISTILL_KERNELS_CHUNK_CUH

#include "kernels/kernel.cuh"
#include "kernels/launch.h"

enum {
    CHUNK = 8,
    BLOCK_THREADS = 256,
    TILE = 32,          /* most columns (chunks) of a block */
    SUM_ROWS_MIN = 8,   /* rows that one thread adds up in fp32 */
    SUM_ROWS_MAX = 256, /* likewise; beyond this more blocks take part */
    MAX_PARTS = 32,     /* of one sum within a block */
    SUM_BLOCKS =
        132 * 8,     /* of a reduction; a constant, so that sums are the same on every device */
    FOLD_LANES = 64, /* threads that share one sum of partials */
    BLOCKS_PER_SM =
        24, /* of an elementwise kernel: whole waves for 2, 3, 4, 6 or 8 resident blocks */
    SMS_WHERE_UNKNOWN = 132
};

template <typename T> struct TypeTag {
    typedef T type;
};

/* body(TypeTag<T>) for the storage type, or KERNEL_BAD_ARGUMENT. */
template <typename Body> static KernelStatus by_float_type(KernelType type, Body body)
{
    switch (type) {
    case KERNEL_F32:
        return body(TypeTag<float>());
    case KERNEL_BF16:
        return body(TypeTag<bf16_t>());
    case KERNEL_F16:
        return body(TypeTag<half_t>());
    default:
        return KERNEL_BAD_ARGUMENT;
    }
}

static inline int query_multiprocessors(void)
{
    int device = 0;
    int count = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
        (void)cudaGetLastError();
        return SMS_WHERE_UNKNOWN;
    }
    return count;
}

/* Of the device that was current at the first call. Only speed depends on it. */
static inline int multiprocessors(void)
{
    static const int count = query_multiprocessors();
    return count;
}

/* Blocks for `units` independent units of work, of which a block does `each` at a time: one unit for each thread until
 * every multiprocessor has two blocks, then several, up to a fixed number of waves. */
static inline unsigned stream_blocks(int64_t units, int64_t each, int unroll, int64_t shared_by)
{
    const int64_t sms = multiprocessors();
    const int64_t most = (units + each - 1) / each;
    int64_t blocks = (most + unroll - 1) / unroll;
    const int64_t least = 2 * sms / shared_by + 1;
    blocks = blocks < least ? least : blocks;
    const int64_t cap = BLOCKS_PER_SM * sms / shared_by + 1;
    blocks = blocks < cap ? blocks : cap;
    blocks = blocks < most ? blocks : most;
    return blocks > 0 ? (unsigned)blocks : 1u;
}

/* ---- Chunks ---- */
template <typename T> struct Chunk {
    Pack<T, PACK_WIDTH<T>> part[CHUNK / PACK_WIDTH<T>];
};

/* Chunks that a thread loads at once, so that as many bytes are in flight for every type. */
template <typename T> constexpr int unroll_of(int for_16_bits)
{
    return sizeof(T) == 2 ? for_16_bits : for_16_bits / 2;
}

/* packed: p is aligned to 16 bytes and all of the chunk is there; else the first `width` elements, and zeros. */
template <bool packed, typename T> DEVICE Chunk<T> chunk_load(const T *p, int width)
{
    Chunk<T> chunk;
#pragma unroll
    for (int k = 0; k < CHUNK / PACK_WIDTH<T>; k++) {
        if constexpr (packed) {
            chunk.part[k] = load_pack<T, PACK_WIDTH<T>>(p + k * PACK_WIDTH<T>);
        } else {
#pragma unroll
            for (int i = 0; i < PACK_WIDTH<T>; i++) {
                const int at = k * PACK_WIDTH<T> + i;
                chunk.part[k].v[i] = at < width ? load_global(p + at) : from_float<T>(0.0f);
            }
        }
    }
    return chunk;
}

template <bool packed, typename T> DEVICE void chunk_store(T *p, const Chunk<T> &chunk, int width)
{
#pragma unroll
    for (int k = 0; k < CHUNK / PACK_WIDTH<T>; k++) {
        if constexpr (packed) {
            store_pack(p + k * PACK_WIDTH<T>, chunk.part[k]);
        } else {
#pragma unroll
            for (int i = 0; i < PACK_WIDTH<T>; i++) {
                const int at = k * PACK_WIDTH<T> + i;
                if (at < width) {
                    store_global(p + at, chunk.part[k].v[i]);
                }
            }
        }
    }
}

template <typename T> DEVICE void chunk_unpack(const Chunk<T> &chunk, float (&v)[CHUNK])
{
#pragma unroll
    for (int k = 0; k < CHUNK / PACK_WIDTH<T>; k++) {
        float part[PACK_WIDTH<T>];
        unpack(chunk.part[k], part);
#pragma unroll
        for (int i = 0; i < PACK_WIDTH<T>; i++) {
            v[k * PACK_WIDTH<T> + i] = part[i];
        }
    }
}

/* Rounds to T. */
template <typename T> DEVICE Chunk<T> chunk_pack(const float (&v)[CHUNK])
{
    Chunk<T> chunk;
#pragma unroll
    for (int k = 0; k < CHUNK / PACK_WIDTH<T>; k++) {
        float part[PACK_WIDTH<T>];
#pragma unroll
        for (int i = 0; i < PACK_WIDTH<T>; i++) {
            part[i] = v[k * PACK_WIDTH<T> + i];
        }
        chunk.part[k] = repack<T>(part);
    }
    return chunk;
}

/* A compile-time number or switch as an argument of a walk's body. */
template <int value> struct Number {
    static constexpr int VALUE = value;
};

/* ---- Flat arrays ----
 * body(Number<count>, Number<packed>, at, hop, width): `count` chunks at at, at+hop, ...; loads of all of them come first, so
 * that several are in flight. Chunks are independent: a body may write over what it has read. */
template <bool packed, int unroll, typename Body> DEVICE void walk_flat(int64_t count, Body body)
{
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    const int64_t whole = packed ? count / CHUNK : 0;
    const int64_t step = (int64_t)gridDim.x * BLOCK_THREADS;
    int64_t i = (int64_t)blockIdx.x * BLOCK_THREADS + (int64_t)threadIdx.x;
    for (; i + (unroll - 1) * step < whole; i += unroll * step) {
        body(Number<unroll>(), Number<packed>(), i * CHUNK, step * CHUNK, CHUNK);
    }
    for (; i < whole; i += step) {
        body(Number<1>(), Number<packed>(), i * CHUNK, step * CHUNK, CHUNK);
    }
    for (; i < chunks; i += step) {
        const int64_t left = count - i * CHUNK;
        body(Number<1>(), Number<0>(), i * CHUNK, step * CHUNK, left < CHUNK ? (int)left : CHUNK);
    }
}

static inline unsigned flat_blocks(int64_t count, int unroll)
{
    return stream_blocks((count + CHUNK - 1) / CHUNK, BLOCK_THREADS, unroll, 1);
}

/* ---- [pixels][c] ---- */
typedef struct {
    int64_t elements; /* of the tensor */
    int64_t rows;     /* the incomplete one counted */
    int64_t stride;   /* elements of a row */
    int columns;      /* chunks of a row */
    int c, repeats;   /* channels; pixels of a row */
    int tile, tiles;  /* columns of a block; blocks side by side (gridDim.y) */
    int per_block;    /* rows that a block holds at once */
} Columns;

static inline Columns columns_of(int64_t pixels, int c, bool packed)
{
    Columns columns = {};
    columns.c = c;
    columns.repeats = 1;
    while (packed && (int64_t)columns.repeats * c % CHUNK != 0) {
        columns.repeats *= 2;
    }
    columns.stride = (int64_t)columns.repeats * c;
    columns.columns = (int)((columns.stride + CHUNK - 1) / CHUNK);
    columns.elements = pixels * c;
    columns.rows = (pixels + columns.repeats - 1) / columns.repeats;
    columns.tiles = (columns.columns + TILE - 1) / TILE;
    columns.tile = (columns.columns + columns.tiles - 1) / columns.tiles;
    columns.tiles = (columns.columns + columns.tile - 1) / columns.tile;
    columns.per_block = BLOCK_THREADS / columns.tile;
    return columns;
}

static inline dim3 column_grid(unsigned row_blocks, const Columns &columns)
{
    return dim3(row_blocks, (unsigned)columns.tiles, 1);
}

/* The place of a thread. */
typedef struct {
    int column, row; /* row: within the block's first per_block rows */
    int width;       /* elements of a chunk in this column */
    bool active;
} Spot;

DEVICE Spot spot_of(const Columns &columns)
{
    const int thread = (int)threadIdx.x;
    Spot spot;
    spot.row = thread / columns.tile;
    spot.column = (int)blockIdx.y * columns.tile + thread % columns.tile;
    spot.active = spot.row < columns.per_block && spot.column < columns.columns;
    const int64_t left = columns.stride - (int64_t)spot.column * CHUNK;
    spot.width = left < CHUNK ? (int)left : CHUNK;
    return spot;
}

/* Channel of element i of the thread's chunks; of one that is not there (i >= width) some channel. */
DEVICE int channel_of(const Columns &columns, const Spot &spot, int i)
{
    const int element = spot.column * CHUNK + i;
    if (columns.repeats == 1) {
        return element < columns.c ? element : 0;
    }
    return (int)((unsigned)element % (unsigned)columns.c);
}

/* Values of the channels of elements `from` to `from` + N of the thread's chunks; in packs where c is a multiple of the
 * chunk. */
template <int N>
DEVICE void load_channels(const Columns &columns, const Spot &spot, const float *values,
                          float (&out)[N], int from = 0)
{
    static_assert(N % 4 == 0 && N <= CHUNK, "whole packs");
    if (columns.c % CHUNK == 0 && aligned_to(values, 16)) {
        const float *first = values + spot.column * CHUNK + from;
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const Pack<float, 4> pack = load_pack_cached<float, 4>(first + i);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                out[i + k] = pack.v[k];
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        out[i] = load_cached(values + channel_of(columns, spot, from + i));
    }
}

DEVICE int64_t valid_pixels(const float *rows_valid, int n, int64_t hw)
{
    if (!rows_valid) {
        return n * hw;
    }
    const float rows = load_cached(rows_valid);
    return (rows < (float)n ? (rows > 0.0f ? (int64_t)rows : 0) : n) * hw;
}

/* Goes down the rows first, first + step, ... < end of the thread's column as far as elements are below `valid`:
 * body(Number<count>, Number<packed>, row, step, width). Returns the first row that was not visited; an incomplete row
 * (packed form) is visited with the width that is valid, and returned, since its rest was not. */
template <bool packed, int unroll, typename Body>
DEVICE int64_t walk_rows(const Columns &columns, const Spot &spot, int64_t first, int64_t step,
                         int64_t end, int64_t valid, Body body)
{
    const int64_t whole =
        valid == columns.elements && columns.repeats == 1 ? columns.rows : valid / columns.stride;
    const int64_t limit = whole < end ? whole : end;
    int64_t row = first;
    if constexpr (packed) {
        for (; row + (unroll - 1) * step < limit; row += unroll * step) {
            body(Number<unroll>(), Number<1>(), row, step, CHUNK);
        }
        for (; row < limit; row += step) {
            body(Number<1>(), Number<1>(), row, step, CHUNK);
        }
        const int64_t left = valid - (row * columns.stride + (int64_t)spot.column * CHUNK);
        if (row < end && left > 0) {
            body(Number<1>(), Number<0>(), row, step, left < CHUNK ? (int)left : CHUNK);
        }
    } else {
        for (; row < limit; row += step) {
            body(Number<1>(), Number<0>(), row, step, spot.width);
        }
    }
    return row;
}

/* Stores zero to what `walk_rows` left out. */
template <bool packed, typename T>
DEVICE void zero_rows(const Columns &columns, const Spot &spot, int64_t row, int64_t step,
                      int64_t end, int64_t valid, T *y)
{
    for (; row < end; row += step) {
        const int64_t at = row * columns.stride + (int64_t)spot.column * CHUNK;
        const int64_t left = columns.elements - at;
        if (packed && at >= valid && left >= CHUNK) {
            const float zeros[CHUNK] = {};
            chunk_store<true>(y + at, chunk_pack<T>(zeros), CHUNK);
            continue;
        }
        const int64_t begin = at < valid ? valid : at;
        const int64_t stop = at + (left < spot.width ? left : spot.width);
        for (int64_t i = begin; i < stop; i++) {
            store_global(y + i, from_float<T>(0.0f));
        }
    }
}

/* ---- Column sums: fp32 over at most SUM_ROWS_MAX rows, in double over the rows of a block, rounded to an fp32 partial,
 * and in double over blocks. The cut depends on the shape alone. ---- */
typedef struct {
    int64_t rows; /* of a block */
    unsigned blocks;
} SumSplit;

static inline SumSplit sum_split(const Columns &columns)
{
    const int64_t wanted = columns.tiles < SUM_BLOCKS ? SUM_BLOCKS / columns.tiles : 1;
    const int64_t at_once = wanted * columns.per_block;
    int64_t each = (columns.rows + at_once - 1) / at_once;
    each = each < SUM_ROWS_MIN ? (int64_t)SUM_ROWS_MIN : each;
    each = each < SUM_ROWS_MAX ? each : (int64_t)SUM_ROWS_MAX;
    SumSplit split = {};
    split.rows = each * columns.per_block;
    split.blocks = (unsigned)((columns.rows + split.rows - 1) / split.rows);
    split.blocks = split.blocks > 0 ? split.blocks : 1;
    return split;
}

/* Partials of a block and kind: channels where a block sees whole rows, else all elements of a row, to be folded later. */
static inline __host__ __device__ int partial_width(const Columns &columns)
{
    return columns.tiles == 1 ? columns.c : columns.columns * CHUNK;
}

/* Bytes of partials, float [blocks][kinds][partial_width], in whichever form the tensor will be cut. */
static inline size_t sum_workspace(int64_t pixels, int c, int kinds)
{
    size_t most = 0;
    for (int packed = 0; packed < 2; packed++) {
        const Columns columns = columns_of(pixels, c, packed != 0);
        const size_t bytes = (size_t)sum_split(columns).blocks * (size_t)kinds *
                             (size_t)partial_width(columns) * sizeof(float);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Adds up the threads' sums column by column and stores the block's partials. All threads must call; those that are not
 * active hold zeros. */
template <int kinds>
DEVICE void store_partials(const Columns &columns, const float (&sums)[kinds][CHUNK],
                           float *partials)
{
    enum { LINE = BLOCK_THREADS + 4 /* a warp's reads below fall on 32 banks */ };
    SHARED_ARRAY(float, lines, kinds *CHUNK *LINE);
    SHARED_ARRAY(double, halves, BLOCK_THREADS);
    const int thread = (int)threadIdx.x;
#pragma unroll
    for (int k = 0; k < kinds; k++) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++) {
            lines[(k * CHUNK + i) * LINE + thread] = sums[k][i];
        }
    }
    sync_block();
    const bool fold = columns.tiles == 1;
    const int own = fold ? columns.c : columns.tile * CHUNK; /* outputs of a kind */
    const int repeats = fold ? columns.repeats : 1;
    const int outputs = kinds * own;
    const int room = outputs < BLOCK_THREADS ? BLOCK_THREADS / outputs : 1;
    const int parts = room < MAX_PARTS ? room : MAX_PARTS;
    const int width = partial_width(columns);
    const int first = fold ? 0 : (int)blockIdx.y * own;
    float *mine = partials + (int64_t)blockIdx.x * kinds * width;
    for (int o = thread; o < outputs * parts; o += BLOCK_THREADS) {
        const int out = o % outputs;
        const int kind = out / own;
        double sum = 0.0;
        for (int repeat = 0; repeat < repeats; repeat++) {
            const int element = repeat * own + out % own;
            const float *line = lines + (kind * CHUNK + element % CHUNK) * LINE + element / CHUNK;
            for (int row = o / outputs; row < columns.per_block; row += parts) {
                sum += (double)line[row * columns.tile];
            }
        }
        if (parts > 1) {
            halves[o] = sum;
        } else if (first + out % own < width) {
            store_global(mine + kind * width + first + out % own, (float)sum);
        }
    }
    if (parts == 1) {
        return;
    }
    sync_block();
    if (thread < outputs && first + thread % own < width) {
        double sum = 0.0;
        for (int part = 0; part < parts; part++) {
            sum += halves[part * outputs + thread];
        }
        store_global(mine + thread / own * width + first + thread % own, (float)sum);
    }
}

/* For kernels of FOLD_LANES * CHUNK * kinds threads, a block for 8 channels: the sum over blocks of kind and channel of
 * this thread, valid in the first CHUNK * kinds threads. */
template <int kinds>
DEVICE double fold_partials(const Columns &columns, unsigned blocks, const float *partials)
{
    enum { GROUP = CHUNK * kinds };
    SHARED_ARRAY(double, lanes, FOLD_LANES *GROUP);
    const int thread = (int)threadIdx.x;
    const int channel = (int)blockIdx.x * CHUNK + thread % CHUNK;
    const int kind = thread % GROUP / CHUNK;
    const int64_t width = partial_width(columns);
    const int repeats = columns.tiles == 1 ? 1 : columns.repeats;
    double sum = 0.0;
    if (channel < columns.c) {
        for (int repeat = 0; repeat < repeats; repeat++) {
            const float *at = partials + kind * width + (int64_t)repeat * columns.c + channel;
#pragma unroll 4
            for (unsigned block = (unsigned)thread / GROUP; block < blocks; block += FOLD_LANES) {
                sum += (double)load_global(at + (int64_t)block * kinds * width);
            }
        }
    }
    lanes[thread] = sum;
    for (int half = FOLD_LANES / 2; half > 0; half /= 2) {
        sync_block();
        if (thread < half * GROUP) {
            lanes[thread] += lanes[thread + half * GROUP];
        }
    }
    sync_block();
    return lanes[thread % GROUP];
}

#endif
