/* Inner loops of the cpu form of OP_DISTILL. Each is written once as plain C with `omp simd`; the
 * macro at the end instantiates all of them for an instruction set, so that every table runs the
 * same formulas. `fma` is a constant in each instance: a fused multiply-add where the instruction
 * exists, separate operations elsewhere (the library's fmaf without the instruction would be a
 * hundred times slower). */
#include "backend/cpu_distill_vec.h"
#include "base/half.h"
#include <limits.h>
#include <math.h>
#include <string.h>

#define BODY static inline __attribute__((always_inline))

enum { BLOCK = 1024 }; /* elements summed in fp32 before the total in double takes over */

static inline int block_end(int begin, int n)
{
    return n - begin < BLOCK ? n : begin + BLOCK;
}

BODY float multiply_add(float a, float b, float c, const bool fma)
{
    return fma ? __builtin_fmaf(a, b, c) : a * b + c;
}

/* exp(x) for x <= 0: 2^n e^r with n = round(x / ln 2), e^r a polynomial whose own error is 0.07 of
 * 2^-24 (a weighted minimax fit of (e^r - 1 - r)/r^2 on |r| <= ln2/2). Adding 1.5 * 2^23 rounds,
 * and leaves n in the low bits. */
BODY float exp_negative(float x, const bool fma)
{
    const float lowest = -87.33f; /* exp is just above 2^-126 */
    const float to_integer = 0x1.8p23f;
    const float shifted = multiply_add(x, 0x1.715476p0f, to_integer, fma);
    const float n = shifted - to_integer;
    const float r = multiply_add(n, -0x1.7f7d1cp-20f, multiply_add(n, -0x1.62e4p-1f, x, fma), fma);
    float q = 0x1.6a215ap-10f;
    q = multiply_add(q, r, 0x1.123b9ap-7f, fma);
    q = multiply_add(q, r, 0x1.5558fcp-5f, fma);
    q = multiply_add(q, r, 0x1.55549p-3f, fma);
    q = multiply_add(q, r, 0x1.fffffcp-2f, fma);
    const float p = 1.0f + multiply_add(q * r, r, r, fma);
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3F800000u;
    float power;
    memcpy(&power, &bits, sizeof power);
    /* A mask instead of a choice: without masked instructions the compiler would keep a branch. NaN
     * is kept. */
    const float y = p * power;
    memcpy(&bits, &y, sizeof bits);
    bits &= x < lowest ? 0u : UINT32_MAX;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

BODY void widen_bf16_body(float *y, const uint16_t *x, int n)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        y[k] = bf16_to_float(x[k]);
    }
}

BODY void narrow_bf16_body(uint16_t *y, const float *x, int n)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        y[k] = bf16_from_float(x[k]);
    }
}

BODY void dot_body(const float *x, const float *y, int n, double sums[3], const bool fma)
{
    sums[0] = 0;
    sums[1] = 0;
    sums[2] = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float xy = 0;
        float xx = 0;
        float yy = 0;
#pragma omp simd reduction(+ : xy, xx, yy)
        for (int k = begin; k < end; k++) {
            xy = multiply_add(x[k], y[k], xy, fma);
            xx = multiply_add(x[k], x[k], xx, fma);
            yy = multiply_add(y[k], y[k], yy, fma);
        }
        sums[0] += xy;
        sums[1] += xx;
        sums[2] += yy;
    }
}

BODY float max_body(const float *x, int n)
{
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int k = 0; k < n; k++) {
        max = x[k] > max ? x[k] : max;
    }
    return max;
}

BODY int rank_body(const float *x, int n, int at, float value)
{
    int before = 0;
    int after = 0;
#pragma omp simd reduction(+ : before)
    for (int k = 0; k < at; k++) {
        before += x[k] >= value;
    }
#pragma omp simd reduction(+ : after)
    for (int k = at + 1; k < n; k++) {
        after += x[k] > value;
    }
    return before + after;
}

BODY int find_body(const float *x, int n, float value)
{
    int first = n;
#pragma omp simd reduction(min : first)
    for (int k = 0; k < n; k++) {
        const int here = x[k] == value ? k : INT_MAX;
        first = here < first ? here : first;
    }
    return first;
}

BODY double sum_body(const float *x, int n, float x0)
{
    double total = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int k = begin; k < end; k++) {
            sum += x[k] - x0;
        }
        total += sum;
    }
    return total;
}

BODY double squares_body(const float *x, int n, float x0, const bool fma)
{
    double total = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int k = begin; k < end; k++) {
            const float d = x[k] - x0;
            sum = multiply_add(d, d, sum, fma);
        }
        total += sum;
    }
    return total;
}

BODY double exp_body(float *e, const float *x, const float *mask, int n, float x0, float inv,
                     const bool fma)
{
    double total = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int k = begin; k < end; k++) {
            const float y = exp_negative((x[k] - x0) * inv, fma) * mask[k];
            e[k] = y;
            sum += y;
        }
        total += sum;
    }
    return total;
}

BODY double power_body(float *y, const float *e, int n, bool four)
{
    double total = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int k = begin; k < end; k++) {
            const float square = e[k] * e[k];
            const float result = four ? square * square : square;
            y[k] = result;
            sum += result;
        }
        total += sum;
    }
    return total;
}

BODY void pair_body(const RowView *s, const RowView *t, int n, PairSums *sums, const bool fma)
{
    const float *const z = s->x;
    const float *const es = s->e;
    const float *const x = t->x;
    const float *const et = t->e;
    const float z0 = s->x0;
    const float z_inv = s->inv;
    const float t0 = t->x0;
    const float t_inv = t->inv;
    PairSums total = {0};
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float et_w = 0;
        float et_v = 0;
        float et_vw = 0;
        float es_u = 0;
#pragma omp simd reduction(+ : et_w, et_v, et_vw, es_u)
        for (int k = begin; k < end; k++) {
            const float u = (z[k] - z0) * z_inv;
            const float v = (x[k] - t0) * t_inv;
            const float w = v - u;
            const float ev = et[k] * v;
            et_w = multiply_add(et[k], w, et_w, fma);
            et_v += ev;
            et_vw = multiply_add(ev, w, et_vw, fma);
            es_u = multiply_add(es[k], u, es_u, fma);
        }
        total.et_w += et_w;
        total.et_v += et_v;
        total.et_vw += et_vw;
        total.es_u += es_u;
    }
    *sums = total;
}

BODY void dense_body(const float *d, const float *x, int n, float x0, double sums[2],
                     const bool fma)
{
    sums[0] = 0;
    sums[1] = 0;
    for (int begin = 0; begin < n; begin += BLOCK) {
        const int end = block_end(begin, n);
        float mass = 0;
        float dot = 0;
#pragma omp simd reduction(+ : mass, dot)
        for (int k = begin; k < end; k++) {
            mass += d[k];
            dot = multiply_add(d[k], x[k] - x0, dot, fma);
        }
        sums[0] += mass;
        sums[1] += dot;
    }
}

BODY void fill_body(float *g, int n, float c)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        g[k] = c;
    }
}

BODY void add_body(float *g, const float *x, int n, float a, const bool fma)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        g[k] = multiply_add(a, x[k], g[k], fma);
    }
}

BODY void add2_body(float *g, const float *x, const float *y, int n, float a, float b,
                    const bool fma)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        g[k] += multiply_add(a, x[k], b * y[k], fma);
    }
}

BODY void add_shifted_body(float *g, const float *x, int n, float a, float x0, const bool fma)
{
#pragma omp simd
    for (int k = 0; k < n; k++) {
        g[k] = multiply_add(a, x[k] - x0, g[k], fma);
    }
}

BODY void scale_body(float *y, const float *x, int n, float a, bool add, const bool fma)
{
    if (add) {
#pragma omp simd
        for (int k = 0; k < n; k++) {
            y[k] = multiply_add(a, x[k], y[k], fma);
        }
        return;
    }
#pragma omp simd
    for (int k = 0; k < n; k++) {
        y[k] = a * x[k];
    }
}

// NOLINTBEGIN(bugprone-macro-parentheses): attributes and names cannot be in parentheses
#define DEFINE_TABLE(isa, title, target, fma)                                                      \
    target static void widen_bf16_##isa(float *y, const uint16_t *x, int n)                        \
    {                                                                                              \
        widen_bf16_body(y, x, n);                                                                  \
    }                                                                                              \
    target static void narrow_bf16_##isa(uint16_t *y, const float *x, int n)                       \
    {                                                                                              \
        narrow_bf16_body(y, x, n);                                                                 \
    }                                                                                              \
    target static void dot_##isa(const float *x, const float *y, int n, double sums[3])            \
    {                                                                                              \
        dot_body(x, y, n, sums, fma);                                                              \
    }                                                                                              \
    target static float max_##isa(const float *x, int n)                                           \
    {                                                                                              \
        return max_body(x, n);                                                                     \
    }                                                                                              \
    target static int rank_##isa(const float *x, int n, int at, float value)                       \
    {                                                                                              \
        return rank_body(x, n, at, value);                                                         \
    }                                                                                              \
    target static int find_##isa(const float *x, int n, float value)                               \
    {                                                                                              \
        return find_body(x, n, value);                                                             \
    }                                                                                              \
    target static double sum_##isa(const float *x, int n, float x0)                                \
    {                                                                                              \
        return sum_body(x, n, x0);                                                                 \
    }                                                                                              \
    target static double squares_##isa(const float *x, int n, float x0)                            \
    {                                                                                              \
        return squares_body(x, n, x0, fma);                                                        \
    }                                                                                              \
    target static double exp_##isa(float *e, const float *x, const float *mask, int n, float x0,   \
                                   float inv)                                                      \
    {                                                                                              \
        return exp_body(e, x, mask, n, x0, inv, fma);                                              \
    }                                                                                              \
    target static double power_##isa(float *y, const float *e, int n, bool four)                   \
    {                                                                                              \
        return power_body(y, e, n, four);                                                          \
    }                                                                                              \
    target static void pair_##isa(const RowView *s, const RowView *t, int n, PairSums *sums)       \
    {                                                                                              \
        pair_body(s, t, n, sums, fma);                                                             \
    }                                                                                              \
    target static void dense_##isa(const float *d, const float *x, int n, float x0,                \
                                   double sums[2])                                                 \
    {                                                                                              \
        dense_body(d, x, n, x0, sums, fma);                                                        \
    }                                                                                              \
    target static void fill_##isa(float *g, int n, float c)                                        \
    {                                                                                              \
        fill_body(g, n, c);                                                                        \
    }                                                                                              \
    target static void add_##isa(float *g, const float *x, int n, float a)                         \
    {                                                                                              \
        add_body(g, x, n, a, fma);                                                                 \
    }                                                                                              \
    target static void add2_##isa(float *g, const float *x, const float *y, int n, float a,        \
                                  float b)                                                         \
    {                                                                                              \
        add2_body(g, x, y, n, a, b, fma);                                                          \
    }                                                                                              \
    target static void add_shifted_##isa(float *g, const float *x, int n, float a, float x0)       \
    {                                                                                              \
        add_shifted_body(g, x, n, a, x0, fma);                                                     \
    }                                                                                              \
    target static void scale_##isa(float *y, const float *x, int n, float a, bool add)             \
    {                                                                                              \
        scale_body(y, x, n, a, add, fma);                                                          \
    }                                                                                              \
    static const DistillVec table_##isa = {                                                        \
        .name = title,                                                                             \
        .widen_bf16 = widen_bf16_##isa,                                                            \
        .narrow_bf16 = narrow_bf16_##isa,                                                          \
        .dot = dot_##isa,                                                                          \
        .max = max_##isa,                                                                          \
        .rank = rank_##isa,                                                                        \
        .find = find_##isa,                                                                        \
        .sum = sum_##isa,                                                                          \
        .squares = squares_##isa,                                                                  \
        .exp = exp_##isa,                                                                          \
        .power = power_##isa,                                                                      \
        .pair = pair_##isa,                                                                        \
        .dense = dense_##isa,                                                                      \
        .fill = fill_##isa,                                                                        \
        .add = add_##isa,                                                                          \
        .add2 = add2_##isa,                                                                        \
        .add_shifted = add_shifted_##isa,                                                          \
        .scale = scale_##isa,                                                                      \
    };
// NOLINTEND(bugprone-macro-parentheses)

DEFINE_TABLE(portable, "portable", , false)
#if defined(__x86_64__)
DEFINE_TABLE(avx2, "avx2", __attribute__((target("avx2,fma"))), true)
DEFINE_TABLE(avx512, "avx512_core",
             __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), true)
#endif

const DistillVec *distill_vec(const char *isa)
{
#if defined(__x86_64__)
    const bool portable = isa && strcmp(isa, "portable") == 0;
    const bool wide = !isa || strncmp(isa, "avx512", strlen("avx512")) == 0;
    if (wide && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return &table_avx512;
    }
    if (!portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &table_avx2;
    }
#else
    (void)isa;
#endif
    return &table_portable;
}
