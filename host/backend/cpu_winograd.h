/* Private to cpu_winograd*.c, what the convolution and its weight gradient share: the shapes they
 * take, the input transform B^T d B, the matrix product. Include after <immintrin.h> and
 * <string.h>. */
#ifndef CUDISTILL_BACKEND_CPU_WINOGRAD_H
#define CUDISTILL_BACKEND_CPU_WINOGRAD_H

#include "backend/cpu.h"
#include "base/half.h"

enum { LANES = 16, POSITIONS = 16, ROW_PAD = 64, WIDTH_MAX = 256 };

#define NATIVE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) NATIVE

/* Whether the form exists for a shape, whatever its kind. */
static inline bool winograd_takes(CpuIsa isa, const ConvShape *s)
{
    return isa == CPU_AVX512_BF16 && s->act == DT_BF16 && s->kernel_h == 3 && s->kernel_w == 3 &&
           s->stride == 1 && s->pad == 1 && s->groups == 1 && s->weight_ic == s->ic &&
           s->ic % LANES == 0 && s->oc % LANES == 0 && s->w >= 2 && s->h >= 2 && s->w <= WIDTH_MAX;
}

/* Columns of one product. */
static inline int winograd_chunk(int channels)
{
    return channels % 64 == 0 ? 64 : channels % 32 == 0 ? 32 : 16;
}

INLINE __m512 load_half(const bf16 *p)
{
    const __m512i wide =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Four input rows of a row of tiles; a row outside the image is one pixel of zeros with pitch 0. */
typedef struct {
    const bf16 *row[4];
    long pitch[4];
    int width;
} InputRows;

/* Input rows 2*tile - 1 .. 2*tile + 2 of one image, from channel c on. */
static inline InputRows input_rows(const bf16 *image, int height, int width, int channels, int tile,
                                   int c, const bf16 *zeros)
{
    InputRows in = {.width = width};
    for (int r = 0; r < 4; r++) {
        const int h = 2 * tile - 1 + r;
        const bool inside = h >= 0 && h < height;
        in.row[r] = inside ? image + (long)h * width * channels + c : zeros;
        in.pitch[r] = inside ? channels : 0;
    }
    return in;
}

/* B^T applied to column x: out[0..3]. */
INLINE void input_column(const InputRows *in, int x, __m512 out[4])
{
    if (x < 0 || x >= in->width) {
        out[0] = out[1] = out[2] = out[3] = _mm512_setzero_ps();
        return;
    }
    const __m512 a = load_half(in->row[0] + x * in->pitch[0]);
    const __m512 b = load_half(in->row[1] + x * in->pitch[1]);
    const __m512 c = load_half(in->row[2] + x * in->pitch[2]);
    const __m512 d = load_half(in->row[3] + x * in->pitch[3]);
    out[0] = _mm512_sub_ps(a, c);
    out[1] = _mm512_add_ps(b, c);
    out[2] = _mm512_sub_ps(c, b);
    out[3] = _mm512_sub_ps(b, d);
}

/* Defines sum [ROWS][16 WIDE] = a times b, or += where ADD, in fp32. a holds pairs of bf16 as
 * [row][pair] or, TRANSPOSED, [pair][row]; b is [pair][16 WIDE][2]. Pitches are in elements: of a's
 * outer index, and of b's pairs. */
#define WINOGRAD_PRODUCT(name, ROWS, WIDE, TRANSPOSED, ADD)                                        \
    static NATIVE void name(const bf16 *a, long a_pitch, const bf16 *b, long b_pitch, int pairs,   \
                            float *sum)                                                            \
    {                                                                                              \
        const long row_pitch = (TRANSPOSED) ? 2 : a_pitch;                                         \
        const long pair_pitch = (TRANSPOSED) ? a_pitch : 2;                                        \
        __m512 acc[ROWS][WIDE];                                                                    \
        _Pragma("GCC unroll 24") for (int r = 0; r < (ROWS); r++)                                  \
        {                                                                                          \
            _Pragma("GCC unroll 4") for (int c = 0; c < (WIDE); c++)                               \
            {                                                                                      \
                acc[r][c] =                                                                        \
                    (ADD) ? _mm512_load_ps(sum + (r * (WIDE) + c) * LANES) : _mm512_setzero_ps();  \
            }                                                                                      \
        }                                                                                          \
        for (int k = 0; k < pairs; k++) {                                                          \
            __m512i columns[WIDE];                                                                 \
            _Pragma("GCC unroll 4") for (int c = 0; c < (WIDE); c++)                               \
            {                                                                                      \
                columns[c] = _mm512_load_si512(b + k * b_pitch + c * 2 * LANES);                   \
            }                                                                                      \
            _Pragma("GCC unroll 24") for (int r = 0; r < (ROWS); r++)                              \
            {                                                                                      \
                int pair;                                                                          \
                memcpy(&pair, a + r * row_pitch + k * pair_pitch, sizeof pair);                    \
                const __m512bh row = (__m512bh)_mm512_set1_epi32(pair);                            \
                _Pragma("GCC unroll 4") for (int c = 0; c < (WIDE); c++)                           \
                {                                                                                  \
                    acc[r][c] = _mm512_dpbf16_ps(acc[r][c], row, (__m512bh)columns[c]);            \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        _Pragma("GCC unroll 24") for (int r = 0; r < (ROWS); r++)                                  \
        {                                                                                          \
            _Pragma("GCC unroll 4") for (int c = 0; c < (WIDE); c++)                               \
            {                                                                                      \
                _mm512_store_ps(sum + (r * (WIDE) + c) * LANES, acc[r][c]);                        \
            }                                                                                      \
        }                                                                                          \
    }

#endif
