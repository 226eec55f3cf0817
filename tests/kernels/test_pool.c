/* Pooling kernels against plain loops that scatter, as host/backend/ref_misc.c does: overlapping and clipped windows, windows
 * over the whole image, odd channel counts, pointers off by one element, ties and NaN, every thread order,
 * counted bytes.
 *
 * Tolerances: maxima and indices agree exactly; sums of k*k terms (or of k*k windows) within the absolute sum A: k*k roundings
 * of at most 2^-24 A each, the factor one more, and the rounding of the store. Exact where values are integers and
 * k*k is a power of two. */
#include "kernel_test.h"

#include "kernels/elementwise.h"

static const KernelType types[] = {KERNEL_F32, KERNEL_BF16, KERNEL_F16};

/* n, h, w, c, kernel, stride, pad */
static const int shapes[][7] = {
    {2, 7, 7, 64, 7, 1, 0},  {3, 8, 8, 19, 8, 1, 0}, {2, 4, 4, 2048, 4, 1, 0},
    {1, 1, 1, 3, 1, 1, 0},   {2, 8, 6, 16, 2, 2, 0}, {2, 9, 11, 8, 3, 2, 1},
    {1, 13, 7, 58, 3, 2, 1}, {3, 5, 5, 1, 3, 1, 1},  {1, 9, 9, 130, 4, 3, 1},
    {2, 6, 6, 17, 3, 3, 2},  {1, 5, 9, 24, 5, 1, 2}, {0, 4, 4, 8, 2, 2, 0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct {
    PoolShape shape;
    size_t offset;
    bool maximum;
    float *x, *dy;
    uint8_t *index;
} Case;

static int pooled(int size, int kernel, int stride, int pad)
{
    return (size + 2 * pad - kernel) / stride + 1;
}
static size_t large_elems(const PoolShape *p)
{
    return (size_t)p->n * (size_t)p->h * (size_t)p->w * (size_t)p->c;
}
static size_t small_elems(const PoolShape *p)
{
    return (size_t)p->n * (size_t)p->oh * (size_t)p->ow * (size_t)p->c;
}

static void run_forward(void *context, Outputs *outputs)
{
    const Case *c = context;
    const PoolShape *p = &c->shape;
    const size_t size = kernel_type_size(p->type);
    const void *x = device_values_at(p->type, c->x, large_elems(p), c->offset);
    void *y = device_alloc_at(small_elems(p) * size, c->offset * size);
    uint8_t *index = device_alloc_at(small_elems(p), c->offset);
    count_begin();
    if (c->maximum) {
        CUDA_TEST(kernel_maxpool(NULL, *p, x, y, index));
        output_add(outputs, y, small_elems(p) * size);
        output_add(outputs, index, small_elems(p));
    } else {
        CUDA_TEST(kernel_avgpool(NULL, *p, x, y));
        output_add(outputs, y, small_elems(p) * size);
    }
}

static void run_backward(void *context, Outputs *outputs)
{
    const Case *c = context;
    const PoolShape *p = &c->shape;
    const size_t size = kernel_type_size(p->type);
    const void *dy = device_values_at(p->type, c->dy, small_elems(p), c->offset);
    void *dx = device_alloc_at(large_elems(p) * size, c->offset * size);
    count_begin();
    if (c->maximum) {
        CUDA_TEST(kernel_maxpool_bwd(NULL, *p, dy,
                                     device_copy_at(c->index, small_elems(p), c->offset), dx));
    } else {
        CUDA_TEST(kernel_avgpool_bwd(NULL, *p, dy, dx));
    }
    output_add(outputs, dx, large_elems(p) * size);
}

/* Visits of all windows: element of x, element of y, place in the window. */
typedef void (*Visit)(void *context, size_t large, size_t small, int place);
static void visit_windows(const PoolShape *p, Visit visit, void *context)
{
    for (size_t small = 0; small < small_elems(p); small++) {
        const size_t pixel = small / (size_t)p->c;
        const int ox = (int)(pixel % (size_t)p->ow);
        const int oy = (int)(pixel / (size_t)p->ow % (size_t)p->oh);
        const size_t n = pixel / (size_t)p->ow / (size_t)p->oh;
        for (int place = 0; place < p->kernel * p->kernel; place++) {
            const int y = oy * p->stride - p->pad + place / p->kernel;
            const int x = ox * p->stride - p->pad + place % p->kernel;
            if (y >= 0 && y < p->h && x >= 0 && x < p->w) {
                const size_t at = (n * (size_t)p->h + (size_t)y) * (size_t)p->w + (size_t)x;
                visit(context, at * (size_t)p->c + small % (size_t)p->c, small, place);
            }
        }
    }
}

typedef struct {
    const Case *c;
    double *sum, *size; /* of values, of absolute values */
    float *best;
    int *place;
} Want;

static void visit_forward(void *context, size_t large, size_t small, int place)
{
    const Want *want = context;
    const float v = want->c->x[large];
    want->sum[small] += (double)v;
    want->size[small] += fabs((double)v);
    if (want->place[small] < 0 || v > want->best[small] ||
        (isnan(v) && !isnan(want->best[small]))) {
        want->best[small] = v;
        want->place[small] = place;
    }
}

static void visit_backward(void *context, size_t large, size_t small, int place)
{
    const Want *want = context;
    if (!want->c->maximum || want->c->index[small] == place) {
        want->sum[large] += (double)want->c->dy[small];
        want->size[large] += fabs((double)want->c->dy[small]);
    }
}

static Want want_make(const Case *c, size_t elems)
{
    Want want = {.c = c,
                 .sum = calloc(elems + 1, sizeof(double)),
                 .size = calloc(elems + 1, sizeof(double)),
                 .best = calloc(elems + 1, sizeof(float)),
                 .place = malloc((elems + 1) * sizeof(int))};
    for (size_t i = 0; i < elems; i++) {
        want.place[i] = -1;
    }
    return want;
}

static void want_free(Want *want)
{
    free(want->sum);
    free(want->size);
    free(want->best);
    free(want->place);
}

static Closeness sums_close;

static void check_sums(const Case *c, const Want *want, const float *got, size_t elems)
{
    const double places = (double)(c->shape.kernel * c->shape.kernel);
    const double share = c->maximum ? 1.0 : 1.0 / places;
    for (size_t i = 0; i < elems; i++) {
        const double value = want->sum[i] * share;
        const double limit = kernel_type_eps(c->shape.type) * fabs(value) +
                             (places + 2) * 0x1p-24 * want->size[i] * share + 0x1p-25;
        close_to(&sums_close, i, (double)got[i], value, limit);
    }
}

static void check_forward(Case *c)
{
    const size_t elems = small_elems(&c->shape);
    Want want = want_make(c, elems);
    visit_windows(&c->shape, visit_forward, &want);
    Outputs outputs;
    run_in_orders(run_forward, c, &outputs);
    float *got = output_values(&outputs, 0, c->shape.type);
    if (!c->maximum) {
        check_sums(c, &want, got, elems);
    } else {
        const uint8_t *index = outputs.data[1];
        for (size_t i = 0; i < elems; i++) {
            assert_true(got[i] == want.best[i] || (isnan(got[i]) && isnan(want.best[i])));
            assert_int_equal(index[i], want.place[i]);
            c->index[i] = index[i];
        }
    }
    free(got);
    want_free(&want);
    outputs_free(&outputs);
}

static void check_backward(Case *c)
{
    const size_t elems = large_elems(&c->shape);
    Want want = want_make(c, elems);
    visit_windows(&c->shape, visit_backward, &want);
    Outputs outputs;
    run_in_orders(run_backward, c, &outputs);
    float *got = output_values(&outputs, 0, c->shape.type);
    check_sums(c, &want, got, elems);
    free(got);
    want_free(&want);
    outputs_free(&outputs);
}

static Case case_make(int shape, KernelType type, size_t offset, bool maximum)
{
    const int *s = shapes[shape];
    Case c = {.shape = {.type = type,
                        .n = s[0],
                        .h = s[1],
                        .w = s[2],
                        .c = s[3],
                        .oh = pooled(s[1], s[4], s[5], s[6]),
                        .ow = pooled(s[2], s[4], s[5], s[6]),
                        .kernel = s[4],
                        .stride = s[5],
                        .pad = s[6]},
              .offset = offset,
              .maximum = maximum};
    const size_t large = large_elems(&c.shape);
    c.x = kernel_test_values(1, large, -2.0f, 2.0f);
    c.dy = kernel_test_values(2, small_elems(&c.shape), -2.0f, 2.0f);
    c.index = calloc(small_elems(&c.shape) + 1, 1);
    for (size_t i = 0; maximum && i < large; i++) {
        c.x[i] = roundf(c.x[i]); /* many ties */
        c.x[i] = i % 97 == 5 ? NAN : i % 89 == 3 ? -INFINITY : c.x[i];
    }
    kernel_round(type, c.x, large);
    kernel_round(type, c.dy, small_elems(&c.shape));
    return c;
}

static void case_clear(Case *c)
{
    free(c->x);
    free(c->dy);
    free(c->index);
}

static void test_pools(void **state)
{
    (void)state;
    for (int maximum = 0; maximum < 2; maximum++) {
        sums_close = closeness(maximum ? "maxpool_bwd" : "avgpool, avgpool_bwd");
        for (int k = 0; k < SHAPES * 6; k++) {
            Case c = case_make(k / 6, types[k % 3], (size_t)(k / 3 % 2), maximum != 0);
            check_forward(&c);
            check_backward(&c);
            case_clear(&c);
        }
        closeness_report(&sums_close);
    }
}

/* Windows that do not overlap and the whole image: each byte once. Overlapping ones: once a window. */
typedef struct {
    double visits;
} Visits;
static void visit_count(void *context, size_t large, size_t small, int place)
{
    (void)large;
    (void)small;
    (void)place;
    ((Visits *)context)->visits++;
}

static void test_bytes(void **state)
{
    (void)state;
    for (int k = 0; k < SHAPES - 1; k++) {
        Outputs outputs = {0};
        Case c = case_make(k, KERNEL_F16, 0, false);
        Visits all = {0};
        visit_windows(&c.shape, visit_count, &all);
        const double large = (double)large_elems(&c.shape);
        const double small = (double)small_elems(&c.shape);
        const bool whole = c.shape.oh == 1 && c.shape.ow == 1 && c.shape.pad == 0;
        run_forward(&c, &outputs);
        count_check(":avgpool", 2 * all.visits, 2 * small, 1.0);
        if (!whole) {
            run_backward(&c, &outputs);
            count_check(":avgpool_bwd", 2 * all.visits, 2 * large, 1.0);
        } else {
            /* dy once a thread: at most once for four pixels, or for each of few. */
            run_backward(&c, &outputs);
#ifdef CUDISTILL_EMU
            const EmuCounts counts = emu_counts_last(":avgpool_bwd");
            assert_true((double)counts.stored == 2 * large);
            assert_true(counts.loaded <= counts.stored && (double)counts.loaded >= 2 * small);
#endif
        }
        c.maximum = true;
        run_forward(&c, &outputs);
        count_check(":maxpool", 2 * all.visits, 3 * small, 1.0);
        run_backward(&c, &outputs);
        count_check(":maxpool_bwd", 3 * all.visits, 2 * large, 1.0);
        case_clear(&c);
        outputs_free(&outputs);
        device_free_all();
    }
}

static void test_bad_arguments(void **state)
{
    (void)state;
    float x[4] = {0};
    uint8_t index[4] = {0};
    PoolShape p = {.type = KERNEL_F32,
                   .n = 1,
                   .h = 40,
                   .w = 40,
                   .c = 1,
                   .oh = 1,
                   .ow = 1,
                   .kernel = 17,
                   .stride = 1};
    assert_int_equal(kernel_maxpool(NULL, p, x, x, index), KERNEL_BAD_ARGUMENT);
    p.kernel = 3;
    p.pad = 3;
    assert_int_equal(kernel_maxpool(NULL, p, x, x, index), KERNEL_BAD_ARGUMENT);
    p.stride = 0;
    assert_int_equal(kernel_avgpool(NULL, p, x, x), KERNEL_BAD_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pools),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
