/* The flat optimizer against plain loops in double: every combination of hyper-parameters, segments that begin anywhere, a
 * table of many segments, copies in every type, skipped steps, first steps over undefined momentum, clipping, the loss
 * scale, long gradients, arrays off by one element, every thread order, counted bytes.
 *
 * Tolerances, u = 2^-24: v and w come out of at most 5 roundings of terms whose absolute sum is A, and the factor
 * GRAD_SCALE/loss_scale*clip is rounded once: 6 u A. The norm: 32 fp32 squares a thread, double beyond: (sqrt(32) + 2) u
 * of a sum of squares. */
#include "kernel_test.h"

#include "graph/graph.h" /* HYPER_* */
#include "kernels/optimizer.h"

static const double U = 0x1p-24;

/* ---- Norm ---- */
typedef struct {
    size_t count, offset;
    const float *grad;
} NormCase;

static void run_norm(void *context, Outputs *outputs)
{
    const NormCase *c = context;
    float *stats = device_alloc(2 * sizeof *stats);
    void *workspace = device_alloc(kernel_grad_norm_workspace((int64_t)c->count));
    const float *grad = device_values_at(KERNEL_F32, c->grad, c->count, c->offset);
    count_begin();
    CUDA_TEST(kernel_grad_norm(NULL, (int64_t)c->count, grad, stats, workspace));
    output_add(outputs, stats, 2 * sizeof *stats);
}

static void test_norm(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 7, 8192, 8193, 100003, (1 << 20) + 3};
    Closeness check = closeness("grad_norm");
    for (int k = 0; k < 14; k++) {
        const size_t count = counts[k / 2];
        float *grad = kernel_test_values((uint64_t)k, count, -1.0f, 3.0f);
        NormCase c = {.count = count, .offset = (size_t)(k % 2), .grad = grad};
        Outputs outputs;
        double want = 0.0;
        for (size_t i = 0; i < count; i++) {
            want += (double)grad[i] * (double)grad[i];
        }
        run_in_orders(run_norm, &c, &outputs);
        const float *stats = outputs.data[0];
        close_to(&check, count, (double)stats[0], want, 8 * U * want);
        assert_true(stats[1] == 0.0f);
        outputs_free(&outputs);
        if (count > 4) {
            grad[2] = NAN;
            grad[count / 2] = INFINITY;
            grad[count - 1] = -INFINITY;
            run_in_orders(run_norm, &c, &outputs);
            stats = outputs.data[0];
            assert_true(!isfinite(stats[0]) && stats[1] == 3.0f);
            outputs_free(&outputs);
        }
        free(grad);
    }
    closeness_report(&check);
}

/* ---- SGD ---- */
enum { HYPERS = HYPER_COUNT };
typedef struct {
    size_t count, offset;
    float hyper[HYPERS];
    float stats[2], loss_scale[2];
    bool has_stats, has_scale, has_copy;
    KernelType copy_type;
    SgdSegment *segments;
    int n_segments;
    float *weight, *moment, *grad;
} SgdCase;

static void run_sgd(void *context, Outputs *outputs)
{
    const SgdCase *c = context;
    const size_t bytes = c->count * sizeof(float);
    const size_t copy_size = kernel_type_size(c->copy_type);
    const SgdLaunch launch = {
        .count = (int64_t)c->count,
        .weight = device_values_at(KERNEL_F32, c->weight, c->count, c->offset),
        .moment = device_values_at(KERNEL_F32, c->moment, c->count, c->offset),
        .grad = device_values_at(KERNEL_F32, c->grad, c->count, c->offset),
        .copy16 = c->has_copy ? device_alloc_at(c->count * copy_size, c->offset * copy_size) : NULL,
        .copy_type = c->copy_type,
        .hyper = device_copy(c->hyper, sizeof c->hyper),
        .stats = c->has_stats ? device_copy(c->stats, sizeof c->stats) : NULL,
        .loss_scale = c->has_scale ? device_copy(c->loss_scale, sizeof c->loss_scale) : NULL,
        .segments = device_copy(c->segments, (size_t)c->n_segments * sizeof *c->segments),
        .n_segments = c->n_segments};
    count_begin();
    CUDA_TEST(kernel_sgd(NULL, &launch));
    output_add(outputs, launch.weight, bytes);
    output_add(outputs, launch.moment, bytes);
    if (c->has_copy) {
        output_add(outputs, launch.copy16, c->count * copy_size);
    }
}

static Closeness weight_close, moment_close;

static double gradient_factor(const SgdCase *c)
{
    double factor = (double)c->hyper[HYPER_GRAD_SCALE];
    factor /= c->has_scale ? (double)c->loss_scale[0] : 1.0;
    if (c->has_stats && c->hyper[HYPER_CLIP_NORM] > 0.0f) {
        const double norm = factor * sqrt((double)c->stats[0]);
        factor *= fmin(1.0, (double)c->hyper[HYPER_CLIP_NORM] / (norm + 1e-6));
    }
    return factor;
}

static void check_update(const SgdCase *c, const float *w, const float *m)
{
    const double unclipped =
        (double)c->hyper[HYPER_GRAD_SCALE] / (c->has_scale ? (double)c->loss_scale[0] : 1.0);
    const double longest = (double)c->hyper[HYPER_SKIP_NORM];
    const bool too_long = longest > 0.0 && unclipped * sqrt((double)c->stats[0]) > longest;
    const bool skip = c->has_stats && (c->stats[1] > 0.0f || too_long);
    const double factor = gradient_factor(c);
    const double momentum = (double)c->hyper[HYPER_MOMENTUM];
    const double lr = (double)c->hyper[HYPER_LR];
    const double fresh = 1.0 - (double)c->hyper[HYPER_DAMPENING];
    int segment = 0;
    for (size_t i = 0; i < c->count; i++) {
        while (segment + 1 < c->n_segments && (size_t)c->segments[segment + 1].first <= i) {
            segment++;
        }
        if (skip) {
            assert_memory_equal(&w[i], &c->weight[i], sizeof *w);
            assert_memory_equal(&m[i], &c->moment[i], sizeof *m);
            continue;
        }
        const double decay = c->n_segments > 0 ? (double)c->segments[segment].decay : 0.0;
        const double old = (double)c->weight[i];
        const double pull = decay * (double)c->hyper[HYPER_WEIGHT_DECAY] * old;
        const double g = (double)c->grad[i] * factor + pull;
        const double size = fabs((double)c->grad[i] * factor) + fabs(pull);
        const bool first = c->hyper[HYPER_FIRST] != 0.0f;
        const double kept = first ? 0.0 : momentum * (double)c->moment[i];
        const double v = first ? g : kept + fresh * g;
        const double v_size = first ? size : fabs(kept) + fabs(fresh) * size;
        const bool nesterov = c->hyper[HYPER_NESTEROV] != 0.0f;
        const double step = nesterov ? g + momentum * v : v;
        const double step_size = nesterov ? size + momentum * v_size : v_size;
        close_to(&moment_close, i, (double)m[i], v, 6 * U * v_size + 1e-30);
        close_to(&weight_close, i, (double)w[i], old - lr * step,
                 U * fabs(old) + 6 * U * lr * step_size + U * fabs(lr * step) + 1e-30);
    }
}

static void check_copy(const SgdCase *c, const float *w, const Outputs *outputs)
{
    float *want = malloc(c->count * sizeof *want + 1);
    float *got = output_values(outputs, 2, c->copy_type);
    memcpy(want, w, c->count * sizeof *want);
    kernel_round(c->copy_type, want, c->count);
    for (size_t i = 0; i < c->count; i++) {
        assert_true(got[i] == want[i]);
    }
    free(want);
    free(got);
}

static void check_sgd(SgdCase *c)
{
    c->weight = kernel_test_values(1, c->count, -1.0f, 1.0f);
    c->moment = kernel_test_values(2, c->count, -1.0f, 1.0f);
    c->grad = kernel_test_values(3, c->count, -64.0f, 64.0f);
    for (size_t i = 0; c->hyper[HYPER_FIRST] != 0.0f && i < c->count; i += 5) {
        c->moment[i] = NAN; /* the first step does not read it */
    }
    Outputs outputs;
    run_in_orders(run_sgd, c, &outputs);
    check_update(c, outputs.data[0], outputs.data[1]);
    if (c->has_copy) {
        check_copy(c, outputs.data[0], &outputs);
    }
    outputs_free(&outputs);
    free(c->weight);
    free(c->moment);
    free(c->grad);
}

/* Segments of 16 * (1 .. longest) elements until `count` is full; at most `most`. */
static SgdSegment *segments_make(size_t count, unsigned longest, int most, int *n)
{
    SgdSegment *segments = malloc((size_t)(most + 1) * sizeof *segments);
    int made = 0;
    for (size_t at = 0; at < count && made < most; made++) {
        segments[made] = (SgdSegment){.first = (int64_t)at, .decay = made % 2 == 0 ? 1.0f : 0.0f};
        at += 16 * (1 + (size_t)kernel_test_value(8, (uint64_t)made, 0.0f, (float)longest));
    }
    *n = made;
    return segments;
}

static void fill_hyper(SgdCase *c, unsigned bits)
{
    c->hyper[HYPER_LR] = 0.1f;
    c->hyper[HYPER_MOMENTUM] = bits & 1 ? 0.9f : 0.0f;
    c->hyper[HYPER_DAMPENING] = bits & 2 ? 0.25f : 0.0f;
    c->hyper[HYPER_NESTEROV] = bits & 4 ? 1.0f : 0.0f;
    c->hyper[HYPER_WEIGHT_DECAY] = bits & 8 ? 5e-4f : 0.0f;
    c->hyper[HYPER_GRAD_SCALE] = 0.5f;
    c->hyper[HYPER_CLIP_NORM] = bits & 16 ? 2.0f : 0.0f;
    c->hyper[HYPER_FIRST] = bits & 32 ? 1.0f : 0.0f;
    c->hyper[HYPER_SKIP_NORM] = bits % 9 == 4 ? 0.06f : 0.0f; /* 50 or 0.05, by 1024 where scaled */
    c->has_stats = bits % 3 != 0;
    c->stats[0] = bits & 64 ? 1e4f : 1e-2f;
    c->stats[1] = bits % 7 == 5 ? 2.0f : 0.0f;
    c->has_scale = bits % 5 < 3;
    c->loss_scale[0] = 1024.0f;
    c->has_copy = bits % 4 != 1;
    c->copy_type = (KernelType)(bits % 3);
}

static void test_sgd(void **state)
{
    (void)state;
    weight_close = closeness("sgd, weights");
    moment_close = closeness("sgd, momentum");
    static const size_t counts[] = {1, 7, 16, 1000, 8192, 20011};
    for (unsigned bits = 0; bits < 128; bits++) {
        SgdCase c = {.count = counts[bits % 6], .offset = bits / 6 % 2};
        fill_hyper(&c, bits);
        c.segments = segments_make(c.count, bits % 8 == 0 ? 1 : 40, 4000, &c.n_segments);
        check_sgd(&c);
        free(c.segments);
    }
    closeness_report(&weight_close);
    closeness_report(&moment_close);
}

/* Tables of every size near a power of 32, an absent table, and a long arena. */
static void test_sgd_segments(void **state)
{
    (void)state;
    weight_close = closeness("sgd, many segments");
    moment_close = closeness("sgd, many segments, momentum");
    static const int tables[] = {0, 1, 2, 31, 32, 33, 64, 65, 1023, 1024, 1025};
    for (int k = 0; k < 11; k++) {
        SgdCase c = {.count = k == 10 ? (1 << 20) + 3 : 70000};
        fill_hyper(&c, 0x2B - 0x20);
        c.segments = segments_make(c.count, 3, tables[k], &c.n_segments);
        check_sgd(&c);
        free(c.segments);
    }
    closeness_report(&weight_close);
}

/* ---- Loss scale ---- */
static void test_loss_scale(void **state)
{
    (void)state;
    static const struct {
        float scale, good, bad, want_scale, want_good;
    } cases[] = {
        {1024, 0, 0, 1024, 1}, {1024, 2, 0, 2048, 0},
        {1024, 2, 1, 512, 0},  {1, 0, 3, 1, 0},
        {1.5f, 1, 1, 1, 0},    {16777216, 2, 0, 16777216, 0},
        {1024, 1, 0, 1024, 2}, {12000000, 2, 0, 16777216, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const float before[2] = {cases[i].scale, cases[i].good};
        const float stats[2] = {1.0f, cases[i].bad};
        float after[2];
        float *scale = device_copy(before, sizeof before);
        CUDA_TEST(kernel_loss_scale(NULL, device_copy(stats, sizeof stats), 2.0f, 0.5f, 3, scale));
        device_read(after, scale, sizeof after);
        device_free_all();
        assert_true(after[0] == cases[i].want_scale && after[1] == cases[i].want_good);
    }
}

/* ---- Counted bytes: 20 a parameter and the copy, exactly; the tables come on top ---- */
static void test_bytes(void **state)
{
    (void)state;
    Outputs outputs = {0};
    for (int k = 0; k < 4; k++) {
        SgdCase c = {.count = 100003};
        fill_hyper(&c, 9);
        c.has_copy = k % 2 != 0;
        c.has_stats = true;
        c.copy_type = KERNEL_BF16;
        c.stats[1] = k / 2 != 0 ? 1.0f : 0.0f;
        c.weight = kernel_test_values(1, c.count, -1.0f, 1.0f);
        c.moment = c.weight;
        c.grad = c.weight;
        c.segments = segments_make(c.count, 4000, 100, &c.n_segments);
        run_sgd(&c, &outputs);
        const double count = (double)c.count;
        const double loaded = k < 2 ? 12 * count : k == 3 ? 4 * count : 0;
        const double stored = (k < 2 ? 8 * count : 0) + (c.has_copy ? 2 * count : 0);
        count_check(":sgd", loaded, stored, 1.0);
#ifdef CUDISTILL_EMU
        const EmuCounts counts = emu_counts_last(":sgd");
        /* Of tables: 64 bytes of scalars a thread from the caches, and the segments. */
        assert_true(counts.cached <= counts.blocks * counts.threads * 128);
#endif
        outputs_free(&outputs);
        device_free_all();
        free(c.weight);
        free(c.segments);
    }
    float *grad = kernel_test_values(1, 100003, -1.0f, 1.0f);
    NormCase norm = {.count = 100003, .grad = grad};
    run_norm(&norm, &outputs);
    count_check(":grad_norm", 4.0 * 100003, 16.0 * 13, 1.0);
    outputs_free(&outputs);
    device_free_all();
    free(grad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),         cmocka_unit_test(test_sgd),
        cmocka_unit_test(test_sgd_segments), cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
