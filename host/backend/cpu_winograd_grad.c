/* Weight gradient of a 3x3 convolution in Winograd's form: the transpose of F(2x2, 3x3),
 * dg = G^T [sum over tiles of (A dy A^T) . (B^T d B)] G,
 * with 16 products a tile where the direct form takes 36.
 *
 * Each thread takes a part of the rows of tiles. A few rows at a time are transformed (bf16, two
 * neighbouring tiles interleaved, as the CPU's pairwise product wants them) and multiplied onto the
 * thread's own sums (fp32, one matrix [output channel][input channel] for each of the 16
 * positions). At the end the threads' sums are added in order, transformed and written or added to
 * the OHWI gradient. No thread waits inside the work, unlike in oneDNN's form, whose spinning
 * barriers are slow where other processes want the cores. */
#include "backend/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_isa.h"

#ifdef CPU_X86
#include <immintrin.h>

#include "cpu_winograd.h"

enum { PAIRS = 24 };
static const size_t SUMS_MAX_BYTES = (size_t)64 << 20; /* of all threads together */

struct WinogradGrad {
    ConvShape shape;
    int threads;
    int chunk; /* input channels of one product: 16, 32 or 64 */
    int tiles_h, tiles_w;
    int row_pairs;   /* pairs of tiles in a row of tiles */
    int rows;        /* rows of tiles taken at a time */
    size_t v_stride; /* elements between positions of the transformed input, [pair][ic][2] */
    size_t d_stride; /* of the transformed dy, [pair][oc][2] */
    size_t sums;     /* floats of one thread's sums, [position][ic/chunk][oc][chunk] */
};

bool cpu_winograd_grad_supports(CpuIsa isa, const ConvShape *s, int threads)
{
    const size_t sums = (size_t)threads * POSITIONS * (size_t)s->ic * (size_t)s->oc * sizeof(float);
    return s->kind == CONV_WGRAD && winograd_takes(isa, s) && sums <= SUMS_MAX_BYTES;
}

WinogradGrad *cpu_winograd_grad_open(const ConvShape *shape, int threads)
{
    WinogradGrad *g = xcalloc(1, sizeof *g);
    g->shape = *shape;
    g->threads = threads;
    g->chunk = winograd_chunk(shape->ic);
    g->tiles_h = (shape->h + 1) / 2;
    g->tiles_w = (shape->w + 1) / 2;
    g->row_pairs = (g->tiles_w + 1) / 2;
    g->rows = g->row_pairs >= PAIRS ? 1 : PAIRS / g->row_pairs;
    const size_t pairs = (size_t)g->rows * (size_t)g->row_pairs;
    g->v_stride =
        pairs * (size_t)shape->ic * 2 + ROW_PAD; /* off the powers of two, which share cache sets */
    g->d_stride = pairs * (size_t)shape->oc * 2 + ROW_PAD;
    g->sums = (size_t)POSITIONS * (size_t)shape->ic * (size_t)shape->oc;
    return g;
}

void cpu_winograd_grad_close(WinogradGrad *g)
{
    free(g);
}

static size_t v_bytes(const WinogradGrad *g)
{
    return cpu_lines(POSITIONS * g->v_stride * sizeof(bf16));
}

static size_t d_bytes(const WinogradGrad *g)
{
    return cpu_lines(POSITIONS * g->d_stride * sizeof(bf16));
}

static size_t zero_bytes(const WinogradGrad *g)
{
    return cpu_lines((size_t)(g->shape.ic > g->shape.oc ? g->shape.ic : g->shape.oc) *
                     sizeof(bf16));
}

static size_t thread_bytes(const WinogradGrad *g)
{
    return v_bytes(g) + d_bytes(g) + zero_bytes(g) + g->sums * sizeof(float);
}

size_t cpu_winograd_grad_workspace(const WinogradGrad *g)
{
    return (size_t)g->threads * thread_bytes(g);
}

/* --- transforms --- */

/* Stores two tiles' values of 16 channels as 16 pairs. */
INLINE void store_pairs(bf16 *p, __m512 first, __m512 second)
{
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    _mm512_store_si512(p, _mm512_permutexvar_epi16(order, halves));
}

/* One row of tiles, 16 channels. Where the last pair has one tile only, the other's dy is zero. */
static NATIVE void input_pairs(const InputRows *in, int tiles, bf16 *v, int channels, size_t stride)
{
    __m512 a[4];
    __m512 b[4];
    __m512 c[4];
    __m512 d[4];
    __m512 e[4];
    __m512 f[4];
    input_column(in, -1, a);
    input_column(in, 0, b);
    for (int t = 0; t < tiles; t += 2) {
        bf16 *out = v + (size_t)t * (size_t)channels;
        const bool pair = t + 1 < tiles;
        input_column(in, 2 * t + 1, c);
        input_column(in, 2 * t + 2, d);
        input_column(in, pair ? 2 * t + 3 : -1, e);
        input_column(in, pair ? 2 * t + 4 : -1, f);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            bf16 *position = out + (size_t)(4 * r) * stride;
            store_pairs(position, _mm512_sub_ps(a[r], c[r]), _mm512_sub_ps(c[r], e[r]));
            store_pairs(position + stride, _mm512_add_ps(b[r], c[r]), _mm512_add_ps(d[r], e[r]));
            store_pairs(position + 2 * stride, _mm512_sub_ps(c[r], b[r]),
                        _mm512_sub_ps(e[r], d[r]));
            store_pairs(position + 3 * stride, _mm512_sub_ps(b[r], d[r]),
                        _mm512_sub_ps(d[r], f[r]));
            a[r] = e[r];
            b[r] = f[r];
        }
    }
}

/* The two rows of dy under a row of tiles; a row outside the image is one pixel of zeros with
 * pitch 0. */
typedef struct {
    const bf16 *row[2];
    long pitch[2];
    int width;
} GradRows;

/* A applied to column x of dy: out[0..3]. */
INLINE void grad_column(const GradRows *in, int x, __m512 out[4])
{
    if (x >= in->width) {
        out[0] = out[1] = out[2] = out[3] = _mm512_setzero_ps();
        return;
    }
    const __m512 a = load_half(in->row[0] + x * in->pitch[0]);
    const __m512 b = load_half(in->row[1] + x * in->pitch[1]);
    out[0] = a;
    out[1] = _mm512_add_ps(a, b);
    out[2] = _mm512_sub_ps(a, b);
    out[3] = _mm512_sub_ps(_mm512_setzero_ps(), b);
}

static NATIVE void grad_pairs(const GradRows *in, int tiles, bf16 *d, int channels, size_t stride)
{
    const __m512 zero = _mm512_setzero_ps();
    for (int t = 0; t < tiles; t += 2) {
        bf16 *out = d + (size_t)t * (size_t)channels;
        __m512 a[4];
        __m512 b[4];
        __m512 p[4];
        __m512 q[4];
        grad_column(in, 2 * t, a);
        grad_column(in, 2 * t + 1, b);
        grad_column(in, 2 * t + 2, p);
        grad_column(in, 2 * t + 3, q);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            bf16 *position = out + (size_t)(4 * r) * stride;
            store_pairs(position, a[r], p[r]);
            store_pairs(position + stride, _mm512_add_ps(a[r], b[r]), _mm512_add_ps(p[r], q[r]));
            store_pairs(position + 2 * stride, _mm512_sub_ps(a[r], b[r]),
                        _mm512_sub_ps(p[r], q[r]));
            store_pairs(position + 3 * stride, _mm512_sub_ps(zero, b[r]),
                        _mm512_sub_ps(zero, q[r]));
        }
    }
}

static void transform_row(const WinogradGrad *g, const ConvArgs *args, long tile_row,
                          const bf16 *zeros, bf16 *v, bf16 *d)
{
    const ConvShape *s = &g->shape;
    const long image = tile_row / g->tiles_h;
    const int tile = (int)(tile_row % g->tiles_h);
    const bf16 *x = (const bf16 *)args->x + image * s->h * s->w * s->ic;
    const bf16 *dy = (const bf16 *)args->y + image * s->h * s->w * s->oc;
    for (int c = 0; c < s->ic; c += LANES) {
        const InputRows in = input_rows(x, s->h, s->w, s->ic, tile, c, zeros);
        input_pairs(&in, g->tiles_w, v + 2 * c, s->ic, g->v_stride);
    }
    const bool second = 2 * tile + 1 < s->h;
    for (int c = 0; c < s->oc; c += LANES) {
        const bf16 *first = dy + (long)(2 * tile) * s->w * s->oc + c;
        const GradRows in = {.row = {first, second ? first + (long)s->w * s->oc : zeros},
                             .pitch = {s->oc, second ? s->oc : 0},
                             .width = s->w};
        grad_pairs(&in, g->tiles_w, d + 2 * c, s->oc, g->d_stride);
    }
}

/* --- products --- */

WINOGRAD_PRODUCT(product_4x64, 4, 4, true, true)
WINOGRAD_PRODUCT(product_8x32, 8, 2, true, true)
WINOGRAD_PRODUCT(product_16x16, 16, 1, true, true)

static void multiply(const WinogradGrad *g, const bf16 *v, const bf16 *d, int pairs, float *sums)
{
    const int ic = g->shape.ic;
    const int oc = g->shape.oc;
    const int rows = 256 / g->chunk;
    for (int p = 0; p < POSITIONS; p++) {
        for (int i = 0; i < ic; i += g->chunk) {
            const bf16 *columns = v + (size_t)p * g->v_stride + 2 * (size_t)i;
            float *out = sums + ((size_t)p * (size_t)ic + (size_t)i) * (size_t)oc;
            for (int o = 0; o < oc; o += rows) {
                const bf16 *left = d + (size_t)p * g->d_stride + 2 * (size_t)o;
                float *block = out + (size_t)o * (size_t)g->chunk;
                if (g->chunk == 64) {
                    product_4x64(left, 2L * oc, columns, 2L * ic, pairs, block);
                } else if (g->chunk == 32) {
                    product_8x32(left, 2L * oc, columns, 2L * ic, pairs, block);
                } else {
                    product_16x16(left, 2L * oc, columns, 2L * ic, pairs, block);
                }
            }
        }
    }
}

static float *sums_of(const WinogradGrad *g, const ConvArgs *args, int thread)
{
    char *mine = (char *)args->workspace + (size_t)thread * thread_bytes(g);
    return (float *)(void *)(mine + v_bytes(g) + d_bytes(g) + zero_bytes(g));
}

static void run_rows(const WinogradGrad *g, const ConvArgs *args, Range part, int thread)
{
    char *mine = (char *)args->workspace + (size_t)thread * thread_bytes(g);
    bf16 *v = (bf16 *)(void *)mine;
    bf16 *d = (bf16 *)(void *)(mine + v_bytes(g));
    bf16 *zeros = (bf16 *)(void *)(mine + v_bytes(g) + d_bytes(g));
    float *sums = sums_of(g, args, thread);
    memset(zeros, 0, zero_bytes(g));
    memset(sums, 0, g->sums * sizeof *sums);
    for (long row = part.begin; row < part.end; row += g->rows) {
        const int rows = part.end - row < g->rows ? (int)(part.end - row) : g->rows;
        for (int r = 0; r < rows; r++) {
            const size_t pair = (size_t)r * (size_t)g->row_pairs * 2;
            transform_row(g, args, row + r, zeros, v + pair * (size_t)g->shape.ic,
                          d + pair * (size_t)g->shape.oc);
        }
        multiply(g, v, d, rows * g->row_pairs, sums);
    }
}

/* --- gradient --- */

/* G^T applied to four values. */
INLINE void gradient_side(const __m512 in[4], __m512 out[3])
{
    const __m512 half = _mm512_set1_ps(0.5f);
    const __m512 sum = _mm512_mul_ps(half, _mm512_add_ps(in[1], in[2]));
    out[0] = _mm512_add_ps(in[0], sum);
    out[1] = _mm512_mul_ps(half, _mm512_sub_ps(in[1], in[2]));
    out[2] = _mm512_add_ps(sum, in[3]);
}

/* All taps of filter o for 16 input channels from i. */
static NATIVE void write_gradient(const WinogradGrad *g, const ConvArgs *args, int o, int i)
{
    const size_t ic = (size_t)g->shape.ic;
    const size_t block = (size_t)(i / g->chunk * g->chunk) * (size_t)g->shape.oc;
    const size_t at = block + (size_t)o * (size_t)g->chunk + (size_t)(i % g->chunk);
    __m512 columns[4][3];
    for (int q = 0; q < 4; q++) {
        __m512 in[4];
        for (int r = 0; r < 4; r++) {
            const size_t position = (size_t)(4 * r + q) * ic * (size_t)g->shape.oc;
            in[r] = _mm512_load_ps(sums_of(g, args, 0) + position + at);
            for (int t = 1; t < g->threads; t++) {
                in[r] = _mm512_add_ps(in[r], _mm512_load_ps(sums_of(g, args, t) + position + at));
            }
        }
        gradient_side(in, columns[q]);
    }
    for (int r = 0; r < 3; r++) {
        const __m512 row[4] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r]};
        __m512 taps[3];
        gradient_side(row, taps);
        for (int c = 0; c < 3; c++) {
            float *to = args->grad + ((size_t)o * 9 + (size_t)(3 * r + c)) * ic + (size_t)i;
            const __m512 old = args->add ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
            _mm512_storeu_ps(to, _mm512_add_ps(old, taps[c]));
        }
    }
}

void cpu_winograd_grad_run(const WinogradGrad *g, const ConvArgs *args)
{
    const int threads = g->threads;
    const long rows = (long)g->shape.n * g->tiles_h;
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num();
        run_rows(g, args, cpu_part(rows, 1, t, threads), t);
#pragma omp barrier
        const Range filters = cpu_part(g->shape.oc, 1, t, threads);
        for (long o = filters.begin; o < filters.end; o++) {
            for (int i = 0; i < g->shape.ic; i += LANES) {
                write_gradient(g, args, (int)o, i);
            }
        }
    }
}

#else

bool cpu_winograd_grad_supports(CpuIsa isa, const ConvShape *shape, int threads)
{
    (void)isa;
    (void)shape;
    (void)threads;
    return false;
}

WinogradGrad *cpu_winograd_grad_open(const ConvShape *shape, int threads)
{
    (void)shape;
    (void)threads;
    CHECK(false, "Winograd convolution is for x86-64 only");
    return NULL;
}

void cpu_winograd_grad_close(WinogradGrad *grad)
{
    CHECK(!grad, "Winograd convolution is for x86-64 only");
}

size_t cpu_winograd_grad_workspace(const WinogradGrad *grad)
{
    (void)grad;
    return 0;
}

void cpu_winograd_grad_run(const WinogradGrad *grad, const ConvArgs *args)
{
    (void)grad;
    (void)args;
}

#endif
