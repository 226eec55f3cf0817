/* The cpu backend's own loops: every instruction set against the plain one, Winograd convolutions
 * and per-thread weight gradients against direct sums in double. Op by op the backend is compared
 * with ref in test_ops.c; here are the forms that only a timed choice or another processor would
 * take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu.h"
#include "base/half.h"
#include "base/rng.h"

enum { THREADS = 2 };

static CpuIsa best_isa(void)
{
    CpuIsa isa;
    assert_null(cpu_isa_detect(NULL, &isa));
    return isa;
}

static void put(void *x, DType type, size_t i, float value)
{
    if (type == DT_F32) {
        ((float *)x)[i] = value;
    } else {
        ((bf16 *)x)[i] = bf16_from_float(value);
    }
}

static float get(const void *x, DType type, size_t i)
{
    return type == DT_F32 ? ((const float *)x)[i] : bf16_to_float(((const bf16 *)x)[i]);
}

static void *draw(Rng *rng, DType type, size_t count)
{
    void *x = xaligned(count * dtype_size(type) + 64);
    for (size_t i = 0; i < count; i++) {
        put(x, type, i, (float)rng_normal(rng));
    }
    return x;
}

/* ---- helpers ---- */

static void test_width_and_parts(void **state)
{
    (void)state;
    for (int c = 1; c <= 300; c++) {
        int repeat;
        const int width = cpu_width(c, &repeat);
        assert_int_equal(width, repeat * c);
        assert_int_equal(width % CPU_BLOCK, 0);
        for (int less = 1; less < repeat; less++) {
            assert_int_not_equal(less * c % CPU_BLOCK, 0);
        }
    }
    for (long count = 0; count < 200; count += 7) {
        for (int parts = 1; parts <= 9; parts++) {
            long next = 0;
            for (int i = 0; i < parts; i++) {
                const Range r = cpu_part(count, 16, i, parts);
                assert_int_equal(r.begin, next);
                assert_true(r.end >= r.begin && (r.end == count || r.end % 16 == 0));
                next = r.end;
            }
            assert_int_equal(next, count);
        }
    }
}

/* ---- loops: all instruction sets ---- */

typedef struct {
    long rows;
    int width;
    DType type;
    void *dy, *dy2, *x, *y;
    float *columns; /* scale, shift, mean, x_factor, offset */
    ColumnCoef coef;
} Columns;

static Columns make_columns(DType type, long rows, int width)
{
    Rng rng = rng_make(5, (uint32_t)width, (uint64_t)rows, RNG_TEST);
    const size_t count = (size_t)rows * (size_t)width;
    Columns c = {.rows = rows, .width = width, .type = type};
    c.dy = draw(&rng, type, count);
    c.dy2 = draw(&rng, type, count);
    c.x = draw(&rng, type, count);
    c.y = draw(&rng, type, count);
    c.columns = draw(&rng, DT_F32, 5 * (size_t)width);
    c.coef = (ColumnCoef){.scale = c.columns,
                          .shift = c.columns + width,
                          .mean = c.columns + 2 * width,
                          .x_factor = c.columns + 3 * width,
                          .offset = c.columns + 4 * width};
    return c;
}

static void free_columns(Columns *c)
{
    free(c->dy);
    free(c->dy2);
    free(c->x);
    free(c->y);
    free(c->columns);
}

/* Elementwise results: FMA and separate multiply-add differ by a rounding of the product (c = 4
 * roundings of terms of at most `scale`), and then by one rounding of the storage. */
static void assert_close(const void *a, const void *b, DType type, size_t count, double scale)
{
    for (size_t i = 0; i < count; i++) {
        const double x = (double)get(a, type, i);
        const double y = (double)get(b, type, i);
        const double limit = 4 * dtype_eps(DT_F32) * scale + dtype_eps(type) * fabs(y);
        if (fabs(x - y) > limit) {
            fail_msg("element %zu: %g, plain loops give %g, tolerance %g", i, x, y, limit);
        }
    }
}

/* Sums of `rows` terms of at most `scale` each, in fp32 for at most CPU_SUM_ROWS of them. */
static void assert_sums(const double *a, const double *b, const Columns *c, double scale)
{
    const double limit =
        4 * dtype_eps(DT_F32) * sqrt((double)CPU_SUM_ROWS * (double)c->rows) * scale;
    for (int i = 0; i < 2 * c->width; i++) {
        if (fabs(a[i] - b[i]) > limit) {
            fail_msg("sum %d: %g, plain loops give %g, tolerance %g", i, a[i], b[i], limit);
        }
    }
}

static void compare_columns(const CpuLoops *plain, const CpuLoops *loops, DType type, long rows,
                            int width)
{
    Columns c = make_columns(type, rows, width);
    const size_t count = (size_t)rows * (size_t)width;
    void *want = xaligned(count * sizeof(float) + 64);
    void *got = xaligned(count * sizeof(float) + 64);
    double *a = xaligned(CPU_SUM_BYTES(width));
    double *b = xaligned(CPU_SUM_BYTES(width));
    plain->stats(c.x, rows, width, a);
    loops->stats(c.x, rows, width, b);
    assert_sums(b, a, &c, 25);
    for (int form = 0; form < 4; form++) {
        void *residual = form & 1 ? c.dy : NULL;
        plain->apply(c.x, residual, want, rows, width, &c.coef, form >= 2);
        loops->apply(c.x, residual, got, rows, width, &c.coef, form >= 2);
        assert_close(got, want, type, count, 30);
    }
    for (int form = 0; form < 12; form++) {
        const MaskKind mask = (MaskKind)(form % 3);
        void *dy2 = form / 3 & 1 ? c.dy2 : NULL;
        const bool store = form / 6 != 0;
        memset(a, 0, CPU_SUM_BYTES(width));
        memset(b, 0, CPU_SUM_BYTES(width));
        plain->reduce(c.dy, dy2, c.x, c.y, store ? want : NULL, rows, width, &c.coef, mask, a);
        loops->reduce(c.dy, dy2, c.x, c.y, store ? got : NULL, rows, width, &c.coef, mask, b);
        assert_sums(b, a, &c, 60);
        if (store) {
            assert_close(got, want, type, count, 1);
        }
        ColumnCoef coef = c.coef;
        coef.x_factor = store ? c.coef.x_factor : NULL;
        plain->dx(c.dy, c.x, c.y, want, rows, width, &coef, mask);
        loops->dx(c.dy, c.x, c.y, got, rows, width, &coef, mask);
        assert_close(got, want, type, count, 60);
    }
    free(want);
    free(got);
    free(a);
    free(b);
    free_columns(&c);
}

static void test_column_loops(void **state)
{
    (void)state;
    static const DType types[] = {DT_F32, DT_BF16};
    for (int isa = CPU_AVX2; isa <= (int)best_isa(); isa++) {
        for (int t = 0; t < 2; t++) {
            const CpuLoops *plain = cpu_loops(CPU_BASE, types[t]);
            const CpuLoops *loops = cpu_loops((CpuIsa)isa, types[t]);
            compare_columns(plain, loops, types[t], 1, 64);
            compare_columns(plain, loops, types[t], 1301, 64);
            compare_columns(plain, loops, types[t], 37, 192);
            compare_columns(plain, loops, types[t], 0, 64);
        }
    }
}

static void test_flat_loops(void **state)
{
    (void)state;
    static const DType types[] = {DT_F32, DT_BF16};
    enum { COUNT = 77 };
    for (int isa = CPU_AVX2; isa <= (int)best_isa(); isa++) {
        for (int t = 0; t < 2; t++) {
            const DType type = types[t];
            Rng rng = rng_make(6, (uint32_t)isa, 0, RNG_TEST);
            const CpuLoops *plain = cpu_loops(CPU_BASE, type);
            const CpuLoops *loops = cpu_loops((CpuIsa)isa, type);
            void *x = draw(&rng, type, COUNT);
            void *y = draw(&rng, type, COUNT);
            put(x, type, 3, NAN);
            float want[COUNT];
            float got[COUNT];
            const size_t bytes = COUNT * dtype_size(type);
#define SAME(call_want, call_got, size)                                                            \
    do {                                                                                           \
        memset(want, 0, sizeof want);                                                              \
        memset(got, 0, sizeof got);                                                                \
        call_want;                                                                                 \
        call_got;                                                                                  \
        assert_memory_equal(got, want, size);                                                      \
    } while (0)
            SAME(plain->relu(x, want, COUNT), loops->relu(x, got, COUNT), bytes);
            assert_true(isnan(get(got, type, 3))); /* a NaN must not be hidden */
            SAME(plain->relu_bwd(x, y, want, COUNT), loops->relu_bwd(x, y, got, COUNT), bytes);
            SAME(plain->add(x, y, want, COUNT, true), loops->add(x, y, got, COUNT, true), bytes);
            SAME(plain->add(x, y, want, COUNT, false), loops->add(x, y, got, COUNT, false), bytes);
            SAME(plain->to_float(x, want, COUNT), loops->to_float(x, got, COUNT), sizeof want);
            SAME(plain->accumulate(y, want, COUNT), loops->accumulate(y, got, COUNT), sizeof want);
            uint8_t index[COUNT];
            for (int i = 0; i < COUNT; i++) {
                index[i] = (uint8_t)(i % 5);
            }
            SAME(plain->accumulate_where(y, index, 2, want, COUNT),
                 loops->accumulate_where(y, index, 2, got, COUNT), sizeof want);
            float places[2][COUNT] = {{0}};
            SAME(plain->max_place(x, want, places[0], COUNT, 7),
                 loops->max_place(x, got, places[1], COUNT, 7), sizeof want);
            assert_true(isnan(got[3]) && places[1][3] == 7);
            loops->max_place(y, got, places[1], COUNT, 9); /* a NaN found stays */
            assert_true(isnan(got[3]) && places[1][3] == 7);
            plain->max_place(y, want, places[0], COUNT, 9);
            assert_memory_equal(places[0], places[1], sizeof places[0]);
            free(x);
            x = draw(&rng, DT_F32, COUNT);
            SAME(plain->from_float(x, want, COUNT, 0.3f), loops->from_float(x, got, COUNT, 0.3f),
                 bytes);
#undef SAME
            free(x);
            free(y);
        }
    }
}

/* ---- convolutions ---- */

typedef struct {
    ConvShape shape;
    void *x, *y, *residual;
    float *weights, *bias;
} Conv;

static size_t x_count(const ConvShape *s)
{
    return (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic;
}

static size_t y_count(const ConvShape *s)
{
    return (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->oc;
}

static size_t w_count(const ConvShape *s)
{
    return (size_t)s->oc * 9 * (size_t)s->ic;
}

/* Integers: x in -2..2, weights multiples of 4 up to 8, so that every Winograd transform is exact
 * in bf16. */
static void fill(void *x, DType type, size_t count, Rng *rng, bool integers, float unit)
{
    for (size_t i = 0; i < count; i++) {
        const float value =
            integers ? unit * (float)((int)rng_below(rng, 5) - 2) : (float)rng_normal(rng);
        put(x, type, i, value);
    }
}

static Conv make_conv(ConvShape shape, bool integers)
{
    Rng rng = rng_make(7, (uint32_t)shape.ic, (uint64_t)shape.h, RNG_TEST);
    Conv c = {.shape = shape};
    c.x = xaligned(x_count(&shape) * dtype_size(shape.act));
    c.y = xaligned(y_count(&shape) * dtype_size(shape.act));
    c.residual = xaligned(y_count(&shape) * dtype_size(shape.act));
    c.weights = xaligned(w_count(&shape) * sizeof(float));
    c.bias = xaligned((size_t)shape.oc * sizeof(float));
    fill(c.x, shape.act, x_count(&shape), &rng, integers, 1);
    fill(c.y, shape.act, y_count(&shape), &rng, integers, 1);
    fill(c.residual, shape.act, y_count(&shape), &rng, integers, 1);
    fill(c.weights, DT_F32, w_count(&shape), &rng, integers, 4);
    fill(c.bias, DT_F32, (size_t)shape.oc, &rng, integers, 1);
    return c;
}

static void free_conv(Conv *c)
{
    free(c->x);
    free(c->y);
    free(c->residual);
    free(c->weights);
    free(c->bias);
}

/* What a 3x3 pad-1 convolution of any stride adds up, in double: visits every (x, weight, y)
 * triple. */
static void direct(const Conv *c, double *out, double *magnitude)
{
    const ConvShape *s = &c->shape;
    for (int n = 0; n < s->n; n++) {
        for (long pixel = 0; pixel < (long)s->oh * s->ow * 9; pixel++) {
            const int tap = (int)(pixel % 9);
            const int oh = (int)(pixel / 9 / s->ow);
            const int ow = (int)(pixel / 9 % s->ow);
            const int h = oh * s->stride + tap / 3 - 1;
            const int w = ow * s->stride + tap % 3 - 1;
            if (h < 0 || h >= s->h || w < 0 || w >= s->w) {
                continue;
            }
            for (int o = 0; o < s->oc; o++) {
                const size_t y_at =
                    ((size_t)(n * s->oh + oh) * (size_t)s->ow + (size_t)ow) * (size_t)s->oc +
                    (size_t)o;
                for (int i = 0; i < s->ic; i++) {
                    const size_t x_at =
                        ((size_t)(n * s->h + h) * (size_t)s->w + (size_t)w) * (size_t)s->ic +
                        (size_t)i;
                    const size_t w_at = ((size_t)o * 9 + (size_t)tap) * (size_t)s->ic + (size_t)i;
                    const double x = (double)get(c->x, s->act, x_at);
                    const double y = (double)get(c->y, s->act, y_at);
                    const double k = (double)c->weights[w_at];
                    const size_t at = s->kind == CONV_FORWARD ? y_at
                                      : s->kind == CONV_DGRAD ? x_at
                                                              : w_at;
                    const double term = s->kind == CONV_FORWARD ? x * k
                                        : s->kind == CONV_DGRAD ? y * k
                                                                : x * y;
                    out[at] += term;
                    magnitude[at] += term * term;
                }
            }
        }
    }
    for (size_t i = 0; s->kind == CONV_FORWARD && i < y_count(s); i++) {
        out[i] += (double)c->bias[i % (size_t)s->oc] * s->bias;
        out[i] += s->residual ? (double)get(c->residual, s->act, i) : 0;
        out[i] = s->relu && out[i] < 0 ? 0 : out[i];
    }
}

/* Winograd rounds both transformed factors to bf16 (2^-8 relative at most, each) where a factor is
 * a sum of 4 inputs or 9 weights, and an output adds 9 products of every channel: the error is a
 * random sum whose standard deviation is about 2^-8 times the root of the sum of squared direct
 * terms, times a factor of order 1; 6 of those cover every element drawn here. In the weight
 * gradient all nine taps of a filter share their products, so the largest tap's terms count, and
 * both factors are sums of 4: 9 of those. One rounding of the storage comes on top. Integers are
 * exact. */
static double deviation(const ConvShape *s, const double *magnitude, size_t i)
{
    if (s->kind != CONV_WGRAD) {
        return 6 * 0x1p-8 * sqrt(magnitude[i]);
    }
    const size_t ic = (size_t)s->ic;
    const size_t first = i / (9 * ic) * 9 * ic + i % ic;
    double largest = 0;
    for (size_t tap = 0; tap < 9; tap++) {
        largest = fmax(largest, magnitude[first + tap * ic]);
    }
    return 9 * 0x1p-8 * sqrt(largest);
}

static void compare_conv(const Conv *c, const void *got, DType type, size_t count, bool exact,
                         const double *start)
{
    double *want = xcalloc(count, sizeof *want);
    double *magnitude = xcalloc(count, sizeof *magnitude);
    direct(c, want, magnitude);
    double used = 0;
    for (size_t i = 0; i < count; i++) {
        const double b = want[i] + (start ? start[i] : 0);
        const double a = (double)get(got, type, i);
        const double rounded =
            type == DT_BF16 ? (double)bf16_to_float(bf16_from_float((float)b)) : b;
        const double limit = deviation(&c->shape, magnitude, i) + dtype_eps(type) * fabs(b) + 1e-5;
        if (exact ? a != rounded : fabs(a - b) > limit) {
            fail_msg("%dx%dx%d-%d kind %d, element %zu: %g, want %g, tolerance %g", c->shape.h,
                     c->shape.w, c->shape.ic, c->shape.oc, (int)c->shape.kind, i, a, b,
                     exact ? 0 : limit);
        }
        used = fmax(used, fabs(a - b) / limit);
    }
    if (!exact) {
        print_message("kind %d %dx%dx%d-%d: %.0f %% of the tolerance used\n", (int)c->shape.kind,
                      c->shape.h, c->shape.w, c->shape.ic, c->shape.oc, 100 * used);
    }
    free(want);
    free(magnitude);
}

static const int WINOGRAD_SHAPES[][5] = {/* n, h, w, ic, oc */
                                         {2, 8, 8, 64, 64},   {1, 7, 5, 16, 48},
                                         {3, 2, 3, 32, 16},   {1, 32, 32, 16, 16},
                                         {1, 5, 101, 16, 32}, {2, 4, 4, 128, 64},
                                         {5, 3, 2, 48, 96}};

static ConvShape winograd_shape(int index, ConvKind kind)
{
    const int *d = WINOGRAD_SHAPES[index];
    return (ConvShape){.kind = kind,
                       .act = DT_BF16,
                       .n = d[0],
                       .h = d[1],
                       .w = d[2],
                       .ic = d[3],
                       .oh = d[1],
                       .ow = d[2],
                       .oc = d[4],
                       .kernel_h = 3,
                       .kernel_w = 3,
                       .stride = 1,
                       .pad = 1,
                       .groups = 1,
                       .weight_ic = d[3]};
}

static void run_winograd(ConvShape shape, bool integers)
{
    Conv c = make_conv(shape, integers);
    const bool forward = shape.kind == CONV_FORWARD;
    const size_t count = forward ? y_count(&shape) : x_count(&shape);
    void *out = xaligned(count * sizeof(bf16));
    Winograd *winograd = cpu_winograd_open(&shape, THREADS);
    void *workspace = xaligned(cpu_winograd_workspace(winograd));
    memset(workspace, 0xFF,
           cpu_winograd_workspace(winograd)); /* NaN: reading what was never written shows */
    const ConvArgs args = {.x = forward ? c.x : out,
                           .y = forward ? out : c.y,
                           .bias = c.bias,
                           .residual = c.residual,
                           .workspace = workspace};
    cpu_winograd_pack(winograd, c.weights);
    cpu_winograd_run(winograd, &args);
    compare_conv(&c, out, DT_BF16, count, integers, NULL);
    cpu_winograd_close(winograd);
    free(workspace);
    free(out);
    free_conv(&c);
}

static void test_winograd(void **state)
{
    (void)state;
    const ConvShape first = winograd_shape(0, CONV_FORWARD);
    if (!cpu_winograd_supports(best_isa(), &first)) {
        print_message("no AVX512-BF16 on this machine: Winograd convolutions are not tested\n");
        skip();
    }
    for (int i = 0; i < (int)(sizeof WINOGRAD_SHAPES / sizeof WINOGRAD_SHAPES[0]); i++) {
        for (int integers = 0; integers < 2; integers++) {
            ConvShape shape = winograd_shape(i, CONV_FORWARD);
            assert_true(cpu_winograd_supports(best_isa(), &shape));
            shape.bias = i % 2 == 0;
            shape.residual = i % 3 != 1;
            shape.relu = i % 4 < 2;
            run_winograd(shape, integers);
            run_winograd(winograd_shape(i, CONV_DGRAD), integers);
        }
    }
}

static void run_gradient(ConvShape shape, bool integers, bool add, bool parts)
{
    Conv c = make_conv(shape, integers);
    const size_t count = w_count(&shape);
    float *grad = xaligned(count * sizeof *grad);
    double *start = xcalloc(count, sizeof *start);
    for (size_t i = 0; i < count; i++) {
        grad[i] = add ? (float)(i % 7) : NAN;
        start[i] = add ? (double)(i % 7) : 0;
    }
    ConvArgs args = {.x = c.x, .y = c.y, .grad = grad, .add = add};
    if (parts) {
        DnnlContext *context;
        ConvParts *p;
        assert_null(cpu_dnnl_open(NULL, &context));
        assert_null(cpu_conv_parts_open(context, &shape, 0, THREADS, &p));
        args.workspace = xaligned(cpu_conv_parts_workspace(p));
        cpu_conv_parts_run(p, &args);
        cpu_conv_parts_close(p);
        cpu_dnnl_close(context);
    } else {
        WinogradGrad *g = cpu_winograd_grad_open(&shape, THREADS);
        args.workspace = xaligned(cpu_winograd_grad_workspace(g));
        memset(args.workspace, 0xFF, cpu_winograd_grad_workspace(g));
        cpu_winograd_grad_run(g, &args);
        cpu_winograd_grad_close(g);
    }
    compare_conv(&c, grad, DT_F32, count, integers, start);
    free(args.workspace);
    free(start);
    free(grad);
    free_conv(&c);
}

static void test_winograd_gradient(void **state)
{
    (void)state;
    const ConvShape first = winograd_shape(0, CONV_WGRAD);
    if (!cpu_winograd_grad_supports(best_isa(), &first, THREADS)) {
        print_message("no AVX512-BF16 on this machine: Winograd weight gradients are not tested\n");
        skip();
    }
    for (int i = 0; i < (int)(sizeof WINOGRAD_SHAPES / sizeof WINOGRAD_SHAPES[0]); i++) {
        run_gradient(winograd_shape(i, CONV_WGRAD), true, i % 2 != 0, false);
        run_gradient(winograd_shape(i, CONV_WGRAD), false, i % 2 == 0, false);
    }
}

static void test_gradient_in_parts(void **state)
{
    (void)state;
    ConvShape shape = {.kind = CONV_WGRAD,
                       .act = DT_F32,
                       .n = 4,
                       .h = 9,
                       .w = 7,
                       .ic = 16,
                       .oh = 5,
                       .ow = 4,
                       .oc = 24,
                       .kernel_h = 3,
                       .kernel_w = 3,
                       .stride = 2,
                       .pad = 1,
                       .groups = 1,
                       .weight_ic = 16};
    assert_true(cpu_conv_parts_fit(&shape, THREADS));
    run_gradient(shape, true, false, true);
    run_gradient(shape, true, true, true);
    run_gradient(shape, false, false, true);
    shape.n = 5;
    assert_false(cpu_conv_parts_fit(&shape, THREADS));
}

int main(void)
{
    omp_set_num_threads(THREADS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_width_and_parts),   cmocka_unit_test(test_column_loops),
        cmocka_unit_test(test_flat_loops),        cmocka_unit_test(test_winograd),
        cmocka_unit_test(test_winograd_gradient), cmocka_unit_test(test_gradient_in_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
