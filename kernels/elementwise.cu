/* Elementwise kernels: one streaming pass over flat arrays, each element read once and written once; every output depends on
 * its own inputs alone, so that outputs may lie over inputs. Then weights to and from padded channels, bias gradients
 * (column sums, chunk.cuh) and gathers of rows. Bytes: elementwise.h. Reference loops: host/backend/ref_misc.c,
 * ref_conv.c (bias gradient). */
#include "kernels/kernel.cuh"

#include "kernels/chunk.cuh"
#include "kernels/elementwise.h"

enum { FLAT_UNROLL = 4, SUM_UNROLL = 4 };

/* ---- Maps of one or two arrays ---- */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 4) relu_kernel(int64_t count, const T *x, T *y)
{
    walk_flat<packed, unroll_of<T>(FLAT_UNROLL)>(
        count, [&](auto chunks, auto in_packs, int64_t at, int64_t hop, int width) {
            Chunk<T> in[chunks.VALUE];
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                in[k] = chunk_load<in_packs.VALUE>(x + at + k * hop, width);
            }
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                float v[CHUNK];
                chunk_unpack(in[k], v);
#pragma unroll
                for (int i = 0; i < CHUNK; i++) {
                    v[i] = v[i] < 0.0f ? 0.0f : v[i]; /* NaN stays */
                }
                chunk_store<in_packs.VALUE>(y + at + k * hop, chunk_pack<T>(v), width);
            }
        });
}

extern "C" KernelStatus kernel_relu(KernelStream stream, KernelType type, int64_t count,
                                    const void *x, void *y)
{
    return by_float_type(type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto relu = aligned_to(x, 16) && aligned_to(y, 16) ? relu_kernel<T, 1> : relu_kernel<T, 0>;
        LAUNCH(relu, dim3(flat_blocks(count, unroll_of<T>(FLAT_UNROLL))), dim3(BLOCK_THREADS), 0,
               stream, count, static_cast<const T *>(x), static_cast<T *>(y));
        return kernel_status();
    });
}

enum { PAIR_ADD, PAIR_ADD_RELU, PAIR_RELU_BWD /* a where b > 0 */ };

template <int kind> DEVICE float combine_pair(float a, float b)
{
    if constexpr (kind == PAIR_RELU_BWD) {
        return b > 0.0f ? a : 0.0f;
    } else {
        const float sum = a + b;
        return kind == PAIR_ADD_RELU && sum < 0.0f ? 0.0f : sum;
    }
}

template <typename T, int packed, int kind>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    pair_kernel(int64_t count, const T *a, const T *b, T *y)
{
    walk_flat<packed, unroll_of<T>(FLAT_UNROLL)>(
        count, [&](auto chunks, auto in_packs, int64_t at, int64_t hop, int width) {
            Chunk<T> first[chunks.VALUE];
            Chunk<T> second[chunks.VALUE];
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                first[k] = chunk_load<in_packs.VALUE>(a + at + k * hop, width);
                second[k] = chunk_load<in_packs.VALUE>(b + at + k * hop, width);
            }
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                float v[CHUNK];
                float w[CHUNK];
                chunk_unpack(first[k], v);
                chunk_unpack(second[k], w);
#pragma unroll
                for (int i = 0; i < CHUNK; i++) {
                    v[i] = combine_pair<kind>(v[i], w[i]);
                }
                chunk_store<in_packs.VALUE>(y + at + k * hop, chunk_pack<T>(v), width);
            }
        });
}

template <int kind>
static KernelStatus launch_pair(KernelStream stream, KernelType type, int64_t count, const void *a,
                                const void *b, void *y)
{
    const bool packed = aligned_to(a, 16) && aligned_to(b, 16) && aligned_to(y, 16);
    return by_float_type(type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto pair = packed ? pair_kernel<T, 1, kind> : pair_kernel<T, 0, kind>;
        LAUNCH(pair, dim3(flat_blocks(count, unroll_of<T>(FLAT_UNROLL))), dim3(BLOCK_THREADS), 0,
               stream, count, static_cast<const T *>(a), static_cast<const T *>(b),
               static_cast<T *>(y));
        return kernel_status();
    });
}

extern "C" KernelStatus kernel_relu_bwd(KernelStream stream, KernelType type, int64_t count,
                                        const void *dy, const void *y, void *dx)
{
    return launch_pair<PAIR_RELU_BWD>(stream, type, count, dy, y, dx);
}

extern "C" KernelStatus kernel_add(KernelStream stream, KernelType type, int64_t count,
                                   const void *a, const void *b, bool relu, void *y)
{
    return relu ? launch_pair<PAIR_ADD_RELU>(stream, type, count, a, b, y)
                : launch_pair<PAIR_ADD>(stream, type, count, a, b, y);
}

/* ---- Casts; y += where `add` (of fp32 gradients) ---- */
template <typename From, typename To, int packed, int add>
__global__ void __launch_bounds__(BLOCK_THREADS, 3) cast_kernel(int64_t count, const From *x, To *y)
{
    constexpr int unroll = sizeof(From) + sizeof(To) == 4 ? FLAT_UNROLL : FLAT_UNROLL / 2;
    walk_flat<packed, unroll>(
        count, [&](auto chunks, auto in_packs, int64_t at, int64_t hop, int width) {
            Chunk<From> in[chunks.VALUE];
            [[maybe_unused]] Chunk<To> old[chunks.VALUE];
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                in[k] = chunk_load<in_packs.VALUE>(x + at + k * hop, width);
                if constexpr (add) {
                    old[k] = chunk_load<in_packs.VALUE>(y + at + k * hop, width);
                }
            }
#pragma unroll
            for (int k = 0; k < chunks.VALUE; k++) {
                float v[CHUNK];
                chunk_unpack(in[k], v);
                if constexpr (add) {
                    float w[CHUNK];
                    chunk_unpack(old[k], w);
#pragma unroll
                    for (int i = 0; i < CHUNK; i++) {
                        v[i] += w[i];
                    }
                }
                chunk_store<in_packs.VALUE>(y + at + k * hop, chunk_pack<To>(v), width);
            }
        });
}

template <typename From, typename To, int add>
static KernelStatus launch_cast(KernelStream stream, int64_t count, const void *x, void *y)
{
    auto cast = aligned_to(x, 16) && aligned_to(y, 16) ? cast_kernel<From, To, 1, add>
                                                       : cast_kernel<From, To, 0, add>;
    LAUNCH(cast, dim3(flat_blocks(count, FLAT_UNROLL / 2)), dim3(BLOCK_THREADS), 0, stream, count,
           static_cast<const From *>(x), static_cast<To *>(y));
    return kernel_status();
}

extern "C" KernelStatus kernel_cast(KernelStream stream, KernelType from, KernelType to,
                                    int64_t count, const void *x, void *y)
{
    return by_float_type(from, [&](auto from_tag) {
        return by_float_type(to, [&](auto to_tag) {
            return launch_cast<typename decltype(from_tag)::type, typename decltype(to_tag)::type,
                               0>(stream, count, x, y);
        });
    });
}

/* ---- Padding channels of weights and gradients: small arrays, a thread an element ---- */
static dim3 element_blocks(int64_t count)
{
    return dim3(stream_blocks(count, BLOCK_THREADS, 1, 1));
}

DEVICE int64_t thread_of_grid(void)
{
    return (int64_t)blockIdx.x * BLOCK_THREADS + (int64_t)threadIdx.x;
}

DEVICE int64_t threads_of_grid(void)
{
    return (int64_t)gridDim.x * BLOCK_THREADS;
}

template <typename T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    pad_channels_kernel(int64_t count, int c, int c_out, const float *x, T *y)
{
    for (int64_t i = thread_of_grid(); i < count; i += threads_of_grid()) {
        const int64_t row = i / c_out;
        const int channel = (int)(i - row * c_out);
        const float value = channel < c ? load_global(x + row * c + channel) : 0.0f;
        store_global(y + i, from_float<T>(value));
    }
}

extern "C" KernelStatus kernel_pad_channels(KernelStream stream, KernelType to, int64_t rows, int c,
                                            int c_out, const float *x, void *y)
{
    if (c <= 0 || c_out < c || rows < 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (c_out == c) {
        return kernel_cast(stream, KERNEL_F32, to, rows * c, x, y);
    }
    return by_float_type(to, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        LAUNCH(pad_channels_kernel<T>, element_blocks(rows * c_out), dim3(BLOCK_THREADS), 0, stream,
               rows * c_out, c, c_out, x, static_cast<T *>(y));
        return kernel_status();
    });
}

template <typename T>
__global__ void __launch_bounds__(BLOCK_THREADS)
    unpad_channels_kernel(int64_t count, int c, int c_in, const T *x, bool add, float *grad)
{
    for (int64_t i = thread_of_grid(); i < count; i += threads_of_grid()) {
        const int64_t row = i / c;
        const float value = to_float(load_global(x + row * c_in + (i - row * c)));
        store_global(grad + i, (add ? load_global(grad + i) : 0.0f) + value);
    }
}

extern "C" KernelStatus kernel_grad_accumulate(KernelStream stream, KernelType from, int64_t rows,
                                               int c, int c_in, const void *x, bool add,
                                               float *grad)
{
    if (c <= 0 || c_in < c || rows < 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    return by_float_type(from, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        if (c_in == c) {
            return add ? launch_cast<T, float, 1>(stream, rows * c, x, grad)
                       : launch_cast<T, float, 0>(stream, rows * c, x, grad);
        }
        LAUNCH(unpad_channels_kernel<T>, element_blocks(rows * c), dim3(BLOCK_THREADS), 0, stream,
               rows * c, c, c_in, static_cast<const T *>(x), add, grad);
        return kernel_status();
    });
}

/* ---- Bias gradient: sums of columns ---- */
template <typename T, int packed>
__global__ void __launch_bounds__(BLOCK_THREADS, 4)
    bias_grad_kernel(Columns columns, int64_t block_rows, const T *dy, float *partials)
{
    const Spot spot = spot_of(columns);
    float sums[1][CHUNK] = {};
    if (spot.active) {
        const int64_t begin = (int64_t)blockIdx.x * block_rows;
        walk_rows<packed, unroll_of<T>(SUM_UNROLL)>(
            columns, spot, begin + spot.row, columns.per_block, begin + block_rows,
            columns.elements, [&](auto count, auto in_packs, int64_t row, int64_t step, int width) {
                const T *at = dy + row * columns.stride + spot.column * CHUNK;
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
                    }
                }
            });
    }
    store_partials<1>(columns, sums, partials);
}

__global__ void __launch_bounds__(FOLD_LANES *CHUNK)
    bias_sums_kernel(Columns columns, unsigned blocks, const float *partials, bool add, float *db)
{
    const double sum = fold_partials<1>(columns, blocks, partials);
    const int thread = (int)threadIdx.x;
    const int channel = (int)blockIdx.x * CHUNK + thread;
    if (thread < CHUNK && channel < columns.c) {
        const float old = add ? load_global(db + channel) : 0.0f;
        store_global(db + channel, old + (float)sum);
    }
}

extern "C" size_t kernel_bias_grad_workspace(int n, int hw, int c)
{
    return n >= 0 && hw > 0 && c > 0 ? sum_workspace((int64_t)n * hw, c, 1) : 0;
}

extern "C" KernelStatus kernel_bias_grad(KernelStream stream, KernelType type, int n, int hw, int c,
                                         const void *dy, bool add, float *db, void *workspace)
{
    if (n < 0 || hw <= 0 || c <= 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    const bool packed = aligned_to(dy, 16);
    const Columns columns = columns_of((int64_t)n * hw, c, packed);
    const SumSplit split = sum_split(columns);
    float *partials = static_cast<float *>(workspace);
    const KernelStatus status = by_float_type(type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        auto bias_grad = packed ? bias_grad_kernel<T, 1> : bias_grad_kernel<T, 0>;
        LAUNCH(bias_grad, column_grid(split.blocks, columns), dim3(BLOCK_THREADS), 0, stream,
               columns, split.rows, static_cast<const T *>(dy), partials);
        return kernel_status();
    });
    if (status != 0) {
        return status;
    }
    LAUNCH(bias_sums_kernel, dim3((unsigned)(c + CHUNK - 1) / CHUNK), dim3(FOLD_LANES * CHUNK), 0,
           stream, columns, split.blocks, partials, add, db);
    return kernel_status();
}

/* ---- Gather: a warp a stretch of a row ---- */
enum { GATHER_STRETCH = 256 /* words of a warp */, GATHER_WARPS = BLOCK_THREADS / WARP_SIZE };

template <typename Word> DEVICE Word ones(void)
{
    Word word;
    memset(&word, 0xFF, sizeof word);
    return word;
}

template <typename Word>
__global__ void __launch_bounds__(BLOCK_THREADS)
    gather_kernel(int n, int64_t row_words, int64_t table_rows, const Word *table,
                  const int32_t *index, Word *y)
{
    const int row = (int)blockIdx.x * GATHER_WARPS + warp();
    if (row >= n) {
        return;
    }
    const int64_t source = load_cached(index + row);
    const bool inside = source >= 0 && source < table_rows;
    for (int64_t begin = (int64_t)blockIdx.y * GATHER_STRETCH; begin < row_words;
         begin += (int64_t)gridDim.y * GATHER_STRETCH) {
        const int64_t stop = begin + GATHER_STRETCH;
        const int64_t end = stop < row_words ? stop : row_words;
#pragma unroll 4
        for (int64_t i = begin + lane(); i < end; i += WARP_SIZE) {
            const Word word = inside ? load_global(table + source * row_words + i) : ones<Word>();
            store_global(y + (int64_t)row * row_words + i, word);
        }
    }
}

template <typename Word>
static KernelStatus launch_gather(KernelStream stream, int n, int64_t row_bytes, int64_t table_rows,
                                  const void *table, const int32_t *index, void *y)
{
    const int64_t words = row_bytes / (int64_t)sizeof(Word);
    const int64_t stretches = (words + GATHER_STRETCH - 1) / GATHER_STRETCH;
    const dim3 grid((unsigned)(n + GATHER_WARPS - 1) / GATHER_WARPS,
                    (unsigned)(stretches < UINT16_MAX ? stretches : UINT16_MAX), 1);
    LAUNCH(gather_kernel<Word>, grid, dim3(BLOCK_THREADS), 0, stream, n, words, table_rows,
           static_cast<const Word *>(table), index, static_cast<Word *>(y));
    return kernel_status();
}

extern "C" KernelStatus kernel_gather(KernelStream stream, int n, int64_t row_bytes,
                                      int64_t table_rows, const void *table, const int32_t *index,
                                      void *y)
{
    if (n < 0 || row_bytes < 0 || table_rows < 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (n == 0 || row_bytes == 0) {
        return 0;
    }
    const uintptr_t low_bits = (uintptr_t)table | (uintptr_t)y | (uintptr_t)row_bytes;
    if (low_bits % 16 == 0) {
        return launch_gather<Pack<uint32_t, 4>>(stream, n, row_bytes, table_rows, table, index, y);
    }
    if (low_bits % 4 == 0) {
        return launch_gather<uint32_t>(stream, n, row_bytes, table_rows, table, index, y);
    }
    return low_bits % 2 == 0
               ? launch_gather<uint16_t>(stream, n, row_bytes, table_rows, table, index, y)
               : launch_gather<uint8_t>(stream, n, row_bytes, table_rows, table, index, y);
}
