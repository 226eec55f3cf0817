/* Winograd convolution F(2x2, 3x3) for AVX512-BF16 (Lavin and Gray 2016, "Fast algorithms for
 * convolutional neural networks"): y = A^T [(G g G^T) . (B^T d B)] A on tiles of 2x2 outputs, 16
 * products where the direct form takes 36.
 *
 * A thread takes a few rows of tiles at a time: it transforms the input (V, bf16, one matrix
 * [tile][channel] for each of the 16 positions), multiplies each by that position's weights (bf16
 * products, fp32 sums), and transforms the products back with bias, residual and ReLU in the
 * epilogue. V and a chunk of the products stay in the second-level cache. Each output is computed
 * by one thread in a fixed order, so results do not depend on the number of threads.
 *
 * Rounding: V and the transformed weights are rounded to bf16 (relative 2^-9 each) and an output
 * sums 9 of the 16 products with signs: 0.45 % of the outputs' root mean square where the direct
 * form's single rounding is 0.17 % (normal data, 16 to 256 channels; AMD Zen 5, November 2026). */
#include "backend/cpu.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_isa.h"

#ifdef CPU_X86
#include <immintrin.h>

#include "cpu_winograd.h"

enum { TILES = 48 };

struct Winograd {
    ConvShape shape;
    int threads;
    int from, to; /* channels read and written (forward: ic, oc; data gradient: oc, ic) */
    int chunk;    /* output channels of one pass over the products: 16, 32 or 64 */
    int tiles_h, tiles_w;
    int rows;        /* rows of tiles taken at a time */
    int tiles;       /* capacity in tiles, a multiple of every kernel's rows */
    size_t v_stride; /* elements between the positions of V */
    size_t m_stride; /* elements between the positions of the products */
    bf16 *weights;   /* [chunk][position][from/2][chunk columns][2] */
};

bool cpu_winograd_supports(CpuIsa isa, const ConvShape *s)
{
    return (s->kind == CONV_FORWARD || s->kind == CONV_DGRAD) && winograd_takes(isa, s);
}

Winograd *cpu_winograd_open(const ConvShape *shape, int threads)
{
    Winograd *g = xcalloc(1, sizeof *g);
    g->shape = *shape;
    g->threads = threads;
    g->from = shape->kind == CONV_FORWARD ? shape->ic : shape->oc;
    g->to = shape->kind == CONV_FORWARD ? shape->oc : shape->ic;
    g->chunk = winograd_chunk(g->to);
    g->tiles_h = (shape->h + 1) / 2;
    g->tiles_w = (shape->w + 1) / 2;
    g->rows = g->tiles_w >= TILES ? 1 : TILES / g->tiles_w;
    g->tiles = (g->rows * g->tiles_w + 23) / 24 * 24;
    g->v_stride = (size_t)g->tiles * (size_t)g->from +
                  ROW_PAD; /* off the powers of two, which share cache sets */
    g->m_stride = (size_t)g->tiles * (size_t)g->chunk + ROW_PAD / 2;
    g->weights = xaligned((size_t)POSITIONS * (size_t)g->from * (size_t)g->to * sizeof(bf16));
    return g;
}

void cpu_winograd_close(Winograd *g)
{
    if (g) {
        free(g->weights);
    }
    free(g);
}

/* Of one thread: V, products, one pixel of zeros. */
static size_t v_bytes(const Winograd *g)
{
    return cpu_lines(POSITIONS * g->v_stride * sizeof(bf16));
}

static size_t m_bytes(const Winograd *g)
{
    return cpu_lines(POSITIONS * g->m_stride * sizeof(float));
}

static size_t thread_bytes(const Winograd *g)
{
    return v_bytes(g) + m_bytes(g) + cpu_lines((size_t)g->from * sizeof(bf16));
}

size_t cpu_winograd_workspace(const Winograd *g)
{
    return (size_t)g->threads * thread_bytes(g);
}

/* --- weights --- */

/* t = G g down the rows of a filter: 16 values of one side, taps `pitch` elements apart. */
INLINE void filter_column(const float *w, long pitch, __m512 t[4])
{
    const __m512 half = _mm512_set1_ps(0.5f);
    const __m512 a = _mm512_loadu_ps(w);
    const __m512 b = _mm512_loadu_ps(w + pitch);
    const __m512 c = _mm512_loadu_ps(w + 2 * pitch);
    const __m512 sum = _mm512_add_ps(a, c);
    t[0] = a;
    t[1] = _mm512_mul_ps(half, _mm512_add_ps(sum, b));
    t[2] = _mm512_mul_ps(half, _mm512_sub_ps(sum, b));
    t[3] = c;
}

/* u = G g G^T for one filter and 16 input channels i, g read forwards or (data gradient) from the
 * last tap to the first. */
static NATIVE void transform_filters(const float *filter, long ic, bool forward,
                                     __m512 u[POSITIONS])
{
    const __m512 half = _mm512_set1_ps(0.5f);
    const float *first = forward ? filter : filter + 8 * ic;
    const long tap = forward ? ic : -ic;
    __m512 t[3][4];
    for (int c = 0; c < 3; c++) {
        filter_column(first + c * tap, 3 * tap, t[c]);
    }
    for (int r = 0; r < 4; r++) {
        const __m512 sum = _mm512_add_ps(t[0][r], t[2][r]);
        u[r * 4] = t[0][r];
        u[r * 4 + 1] = _mm512_mul_ps(half, _mm512_add_ps(sum, t[1][r]));
        u[r * 4 + 2] = _mm512_mul_ps(half, _mm512_sub_ps(sum, t[1][r]));
        u[r * 4 + 3] = t[2][r];
    }
}

/* Where the pair of channels `from`, from + 1 to channel `to` lies. */
static size_t weight_at(const Winograd *g, int position, int from, int to)
{
    const size_t chunk = (size_t)(to / g->chunk) * POSITIONS + (size_t)position;
    const size_t pair = chunk * (size_t)(g->from / 2) + (size_t)(from / 2);
    return (pair * (size_t)g->chunk + (size_t)(to % g->chunk)) * 2;
}

/* Forward: 16 filters o, 16 channels i. Pairs of i of one filter are one 32-bit word; words of 16
 * filters are gathered. */
static NATIVE void pack_forward(const Winograd *g, const float *weights, int o, int i)
{
    const long ic = g->shape.ic;
    const __m512i pick =
        _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                           _mm512_set1_epi32(LANES / 2));
    _Alignas(64) bf16 block[POSITIONS][LANES][LANES];
    for (int k = 0; k < LANES; k++) {
        __m512 u[POSITIONS];
        transform_filters(weights + (o + k) * 9 * ic + i, ic, true, u);
        for (int p = 0; p < POSITIONS; p++) {
            _mm256_store_si256((__m256i *)(void *)block[p][k], (__m256i)_mm512_cvtneps_pbh(u[p]));
        }
    }
    for (int p = 0; p < POSITIONS; p++) {
        for (int pair = 0; pair < LANES / 2; pair++) {
            const __m512i words =
                _mm512_i32gather_epi32(pick, (const int *)(const void *)block[p] + pair, 4);
            _mm512_store_si512(g->weights + weight_at(g, p, i + 2 * pair, o), words);
        }
    }
}

/* Data gradient: filters o, o + 1 and 16 channels i. */
static NATIVE void pack_dgrad(const Winograd *g, const float *weights, int o, int i)
{
    const long ic = g->shape.ic;
    __m512 low[POSITIONS];
    __m512 high[POSITIONS];
    transform_filters(weights + o * 9 * ic + i, ic, false, low);
    transform_filters(weights + (o + 1) * 9 * ic + i, ic, false, high);
    for (int p = 0; p < POSITIONS; p++) {
        const __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low[p]));
        const __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high[p]));
        _mm512_store_si512(g->weights + weight_at(g, p, o, i),
                           _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
    }
}

void cpu_winograd_pack(Winograd *g, const float *weights)
{
    const bool forward = g->shape.kind == CONV_FORWARD;
    const int step = forward ? LANES : 2;
#pragma omp parallel for schedule(static) num_threads(g->threads)
    for (int o = 0; o < g->shape.oc; o += step) {
        for (int i = 0; i < g->shape.ic; i += LANES) {
            if (forward) {
                pack_forward(g, weights, o, i);
            } else {
                pack_dgrad(g, weights, o, i);
            }
        }
    }
}

/* --- input --- */

INLINE void store_half(bf16 *p, __m512 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(v));
}

/* One row of tiles, 16 channels: neighbouring tiles share two of their four columns. */
static NATIVE void input_tiles(const InputRows *in, int tiles, bf16 *v, int channels,
                               size_t v_stride)
{
    __m512 a[4];
    __m512 b[4];
    __m512 c[4];
    __m512 d[4];
    input_column(in, -1, a);
    input_column(in, 0, b);
    for (int t = 0; t < tiles; t++) {
        bf16 *out = v + (size_t)t * (size_t)channels;
        input_column(in, 2 * t + 1, c);
        input_column(in, 2 * t + 2, d);
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            bf16 *position = out + (size_t)(4 * r) * v_stride;
            store_half(position, _mm512_sub_ps(a[r], c[r]));
            store_half(position + v_stride, _mm512_add_ps(b[r], c[r]));
            store_half(position + 2 * v_stride, _mm512_sub_ps(c[r], b[r]));
            store_half(position + 3 * v_stride, _mm512_sub_ps(b[r], d[r]));
            a[r] = c[r];
            b[r] = d[r];
        }
    }
}

static void transform_input(const Winograd *g, const bf16 *x, long tile_row, const bf16 *zeros,
                            bf16 *v)
{
    const ConvShape *s = &g->shape;
    const bf16 *image = x + (tile_row / g->tiles_h) * s->h * s->w * g->from;
    const int tile = (int)(tile_row % g->tiles_h);
    for (int c = 0; c < g->from; c += LANES) {
        const InputRows in = input_rows(image, s->h, s->w, g->from, tile, c, zeros);
        input_tiles(&in, g->tiles_w, v + c, g->from, g->v_stride);
    }
}

/* --- products --- */

WINOGRAD_PRODUCT(product_6x64, 6, 4, false, false)
WINOGRAD_PRODUCT(product_12x32, 12, 2, false, false)
WINOGRAD_PRODUCT(product_24x16, 24, 1, false, false)

static void multiply(const Winograd *g, const bf16 *v, int first, int tiles, float *m)
{
    const size_t weights = (size_t)g->from * (size_t)g->chunk;
    const int step = g->chunk == 64 ? 6 : g->chunk == 32 ? 12 : 24;
    for (int p = 0; p < POSITIONS; p++) {
        const bf16 *w = g->weights + ((size_t)(first / g->chunk) * POSITIONS + (size_t)p) * weights;
        for (int t = 0; t < tiles; t += step) {
            const bf16 *rows = v + (size_t)p * g->v_stride + (size_t)t * (size_t)g->from;
            float *out = m + (size_t)p * g->m_stride + (size_t)t * (size_t)g->chunk;
            if (g->chunk == 64) {
                product_6x64(rows, g->from, w, 2L * g->chunk, g->from / 2, out);
            } else if (g->chunk == 32) {
                product_12x32(rows, g->from, w, 2L * g->chunk, g->from / 2, out);
            } else {
                product_24x16(rows, g->from, w, 2L * g->chunk, g->from / 2, out);
            }
        }
    }
}

/* --- output --- */

/* Where a tile's four pixels go, NULL outside the image; residual at the same place. */
typedef struct {
    bf16 *y[4];
    const bf16 *residual[4];
} OutputTile;

INLINE void output_pixel(const OutputTile *tile, int i, int c, __m512 v, __m512 bias, bool residual,
                         bool relu)
{
    v = _mm512_add_ps(v, bias);
    if (residual) {
        v = _mm512_add_ps(v, load_half(tile->residual[i] + c));
    }
    if (relu) {
        v = _mm512_max_ps(_mm512_setzero_ps(), v);
    }
    store_half(tile->y[i] + c, v);
}

/* A^T m A for 16 channels of one tile. */
INLINE void output_lanes(const Winograd *g, const float *m, const float *bias,
                         const OutputTile *tile, int c, bool residual, bool relu)
{
    __m512 s[2][4];
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        const __m512 m0 = _mm512_load_ps(m + (size_t)q * g->m_stride);
        const __m512 m1 = _mm512_load_ps(m + (size_t)(4 + q) * g->m_stride);
        const __m512 m2 = _mm512_load_ps(m + (size_t)(8 + q) * g->m_stride);
        const __m512 m3 = _mm512_load_ps(m + (size_t)(12 + q) * g->m_stride);
        s[0][q] = _mm512_add_ps(_mm512_add_ps(m0, m1), m2);
        s[1][q] = _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3);
    }
    const __m512 shift = bias ? _mm512_loadu_ps(bias + c) : _mm512_setzero_ps();
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
        const __m512 left = _mm512_add_ps(_mm512_add_ps(s[r][0], s[r][1]), s[r][2]);
        const __m512 right = _mm512_sub_ps(_mm512_sub_ps(s[r][1], s[r][2]), s[r][3]);
        if (tile->y[2 * r]) {
            output_pixel(tile, 2 * r, c, left, shift, residual, relu);
        }
        if (tile->y[2 * r + 1]) {
            output_pixel(tile, 2 * r + 1, c, right, shift, residual, relu);
        }
    }
}

INLINE void output_tile(const Winograd *g, const float *m, const float *bias,
                        const OutputTile *tile, bool residual, bool relu)
{
    for (int c = 0; c < g->chunk; c += LANES) {
        output_lanes(g, m + c, bias, tile, c, residual, relu);
    }
}

static NATIVE void output_any(const Winograd *g, const float *m, const float *bias,
                              const OutputTile *tile)
{
    const bool residual = g->shape.residual;
    if (g->shape.relu) {
        if (residual) {
            output_tile(g, m, bias, tile, true, true);
        } else {
            output_tile(g, m, bias, tile, false, true);
        }
    } else if (residual) {
        output_tile(g, m, bias, tile, true, false);
    } else {
        output_tile(g, m, bias, tile, false, false);
    }
}

static void transform_output(const Winograd *g, const ConvArgs *args, bf16 *y, long tile_row,
                             int first, const float *m)
{
    const ConvShape *s = &g->shape;
    const long image = tile_row / g->tiles_h;
    const int top = (int)(tile_row % g->tiles_h) * 2;
    for (int t = 0; t < g->tiles_w; t++) {
        OutputTile tile = {{NULL, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL}};
        for (int i = 0; i < 4; i++) {
            const int h = top + i / 2;
            const int w = 2 * t + i % 2;
            if (h < s->h && w < s->w) {
                const size_t at =
                    (size_t)((image * s->h + h) * s->w + w) * (size_t)g->to + (size_t)first;
                tile.y[i] = y + at;
                tile.residual[i] = s->residual ? (const bf16 *)args->residual + at : NULL;
            }
        }
        output_any(g, m + (size_t)t * (size_t)g->chunk, s->bias ? args->bias + first : NULL, &tile);
    }
}

/* Rows of tiles in [begin, end). */
static void run_rows(const Winograd *g, const ConvArgs *args, long begin, long end, char *workspace)
{
    const bool forward = g->shape.kind == CONV_FORWARD;
    const bf16 *from = forward ? args->x : args->y;
    bf16 *to = forward ? args->y : args->x;
    bf16 *v = (bf16 *)(void *)workspace;
    float *m = (float *)(void *)(workspace + v_bytes(g));
    bf16 *zeros = (bf16 *)(void *)(workspace + v_bytes(g) + m_bytes(g));
    const size_t v_row = (size_t)g->tiles_w * (size_t)g->from;
    const size_t m_row = (size_t)g->tiles_w * (size_t)g->chunk;
    memset(zeros, 0, (size_t)g->from * sizeof *zeros);
    for (long row = begin; row < end; row += g->rows) {
        const int rows = end - row < g->rows ? (int)(end - row) : g->rows;
        for (int r = 0; r < rows; r++) {
            transform_input(g, from, row + r, zeros, v + (size_t)r * v_row);
        }
        for (int first = 0; first < g->to; first += g->chunk) {
            multiply(g, v, first, rows * g->tiles_w, m);
            for (int r = 0; r < rows; r++) {
                transform_output(g, args, to, row + r, first, m + (size_t)r * m_row);
            }
        }
    }
}

void cpu_winograd_run(const Winograd *g, const ConvArgs *args)
{
    const int threads = g->threads;
    const long rows = (long)g->shape.n * g->tiles_h;
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num();
        const Range part = cpu_part(rows, 1, t, threads);
        run_rows(g, args, part.begin, part.end,
                 (char *)args->workspace + (size_t)t * thread_bytes(g));
    }
}

#else

bool cpu_winograd_supports(CpuIsa isa, const ConvShape *shape)
{
    (void)isa;
    (void)shape;
    return false;
}

Winograd *cpu_winograd_open(const ConvShape *shape, int threads)
{
    (void)shape;
    (void)threads;
    CHECK(false, "Winograd convolution is for x86-64 only");
    return NULL;
}

void cpu_winograd_close(Winograd *winograd)
{
    CHECK(!winograd, "Winograd convolution is for x86-64 only");
}

size_t cpu_winograd_workspace(const Winograd *winograd)
{
    (void)winograd;
    return 0;
}

void cpu_winograd_pack(Winograd *winograd, const float *weights)
{
    (void)winograd;
    (void)weights;
}

void cpu_winograd_run(const Winograd *winograd, const ConvArgs *args)
{
    (void)winograd;
    (void)args;
}

#endif
