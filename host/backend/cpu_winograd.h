/* Private to cpu_winograd*.c: the input transform B^T d B, shared by the convolution and its weight
 * gradient. Include after <immintrin.h>. */
#ifndef CUDISTILL_BACKEND_CPU_WINOGRAD_H
#define CUDISTILL_BACKEND_CPU_WINOGRAD_H

#include "backend/cpu.h"
#include "base/half.h"

enum { LANES = 16, POSITIONS = 16, ROW_PAD = 64, WIDTH_MAX = 256 };

#define NATIVE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) NATIVE

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

#endif
