/* Batch norm kernels against the formulas of host/backend/ref_norm.c in double: odd channel counts, single pixels, absent and
 * partial rows, pointers off by one element, every mask, in-place forms, every thread order; values that are
 * not finite; sums over a million pixels; counted bytes.
 *
 * Tolerances. u = 2^-24, t = rounding of the storage type. A sum: a thread adds at most 256 fp32 terms, each partial sum
 * within the absolute sum A, so sqrt(256) u A is what a random walk gives at most; partials, result and the term itself
 * round once more each: (16 + 4) u A. An elementwise result: t |want| for the store, and u times the absolute
 * terms for each of its at most 4 roundings. Integer data must agree exactly. */
#include "kernel_test.h"

#include "kernels/batchnorm.h"

typedef struct {
    int n, hw, c;
} Size;
static const Size sizes[] = {{4, 9, 1},    {3, 5, 3},   {2, 7, 17},   {5, 4, 19},  {3, 16, 58},
                             {8, 25, 64},  {3, 3, 130}, {2, 1, 2048}, {1, 1, 1},   {1, 1, 19},
                             {20, 64, 16}, {2, 30, 24}, {1, 9, 264},  {3, 40, 116}};
enum { SIZES = sizeof sizes / sizeof *sizes, MANY_CHANNELS = 1000 };
static const KernelType types[] = {KERNEL_F32, KERNEL_BF16, KERNEL_F16};
static const BnMask masks[] = {BN_MASK_NONE, BN_MASK_OUTPUT, BN_MASK_BITS, BN_MASK_REMAKE};

static const double U = 0x1p-24;
static const double TINY = 0x1p-25; /* half the smallest fp16 */
static const double SUM_ROUNDINGS = 16 + 4;

typedef struct {
    KernelType type;
    int n, hw, c;
    int rows;      /* valid; ROWS_ALL: no pointer */
    size_t offset; /* elements that every array is off */
    bool integers, relu, residual, bits, second, store_dz, frozen;
    bool over; /* the output lies over an input */
    BnMask mask;
    float *x, *dy, *dy2, *y, *residuals, *coef, *sums;
    uint8_t *mask_bits;
} Case;
enum { ROWS_ALL = -1 };

static size_t case_elems(const Case *c)
{
    return (size_t)c->n * (size_t)c->hw * (size_t)c->c;
}
static size_t case_valid(const Case *c)
{
    const int rows = c->rows == ROWS_ALL || c->rows > c->n ? c->n : c->rows;
    return (size_t)rows * (size_t)c->hw * (size_t)c->c;
}
static size_t mask_row(const Case *c)
{
    return (size_t)(c->c + 7) / 8;
}
static size_t mask_bytes(const Case *c)
{
    return (size_t)c->n * (size_t)c->hw * mask_row(c);
}
static bool mask_bit(const Case *c, const uint8_t *bits, size_t i)
{
    const size_t channel = i % (size_t)c->c;
    return bits[i / (size_t)c->c * mask_row(c) + channel / 8] >> channel % 8 & 1;
}

static float *draw(const Case *c, uint64_t seed, size_t count)
{
    float *values = kernel_test_values(seed, count, -2.0f, 2.5f);
    for (size_t i = 0; c->integers && i < count; i++) {
        values[i] = roundf(values[i]);
    }
    kernel_round(c->type, values, count);
    return values;
}

static void case_fill(Case *c, uint64_t seed)
{
    const size_t elems = case_elems(c);
    c->x = draw(c, seed + 1, elems);
    c->dy = draw(c, seed + 2, elems);
    c->dy2 = draw(c, seed + 3, elems);
    c->y = draw(c, seed + 4, elems);
    c->residuals = draw(c, seed + 5, elems);
    c->coef = kernel_test_values(seed + 6, 4 * (size_t)c->c, -1.5f, 1.5f);
    c->sums = kernel_test_values(seed + 7, 2 * (size_t)c->c + 1, -9.0f, 9.0f);
    for (int i = 0; i < 4 * c->c; i++) {
        c->coef[i] = c->integers ? roundf(c->coef[i]) : c->coef[i];
        if (i / c->c == 1) {
            c->coef[i] = c->integers ? 2.0f : 0.5f + fabsf(c->coef[i]);
        }
    }
    const size_t pixels = case_valid(c) / (size_t)c->c;
    c->sums[2 * c->c] = (float)pixels;
    c->mask_bits = calloc(mask_bytes(c) + 1, 1);
    for (size_t i = 0; i < elems; i++) {
        const size_t channel = i % (size_t)c->c;
        c->mask_bits[i / (size_t)c->c * mask_row(c) + channel / 8] |=
            (uint8_t)((c->y[i] > 0.0f) << channel % 8);
    }
}

static void case_clear(Case *c)
{
    float **const arrays[] = {&c->x, &c->dy, &c->dy2, &c->y, &c->residuals, &c->coef, &c->sums};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        free(*arrays[i]);
        *arrays[i] = NULL;
    }
    free(c->mask_bits);
    c->mask_bits = NULL;
}

static BnShape case_shape(const Case *c)
{
    const float rows = (float)c->rows;
    return (BnShape){.type = c->type,
                     .n = c->n,
                     .hw = c->hw,
                     .c = c->c,
                     .rows_valid = c->rows == ROWS_ALL ? NULL : device_copy(&rows, sizeof rows)};
}
static void *case_array(const Case *c, const float *values)
{
    return device_values_at(c->type, values, case_elems(c), c->offset);
}
static size_t case_bytes(const Case *c)
{
    return case_elems(c) * kernel_type_size(c->type);
}
static void *case_room(const Case *c)
{
    return device_alloc_at(case_bytes(c), c->offset * kernel_type_size(c->type));
}
static void *case_floats(const float *values, int count)
{
    return device_copy(values, (size_t)count * sizeof(float));
}

/* Bits without a pattern over consecutive turns. */
static unsigned mixed(unsigned turn)
{
    unsigned x = (turn + 1) * 0x9E3779B1u;
    x = (x ^ x >> 15) * 0x85EBCA6Bu;
    return x ^ x >> 13;
}

/* All sizes and types, each aligned and off by one; what else there is to choose is drawn. Many channels, which are slow
 * to emulate, in two forms alone. */
typedef void (*CaseTest)(Case *c);
static void for_cases(CaseTest test)
{
    unsigned turn = 0;
    for (int s = 0; s < SIZES; s++) {
        for (int t = 0; t < 3; t++) {
            for (size_t offset = 0; offset < 2; offset++, turn++) {
                const int rows[] = {ROWS_ALL, sizes[s].n - 1, sizes[s].n, 0, sizes[s].n / 2};
                const unsigned drawn = mixed(turn);
                if (sizes[s].c > MANY_CHANNELS && t != (offset == 0 ? 2 : 0)) {
                    continue;
                }
                Case c = {.type = types[t],
                          .n = sizes[s].n,
                          .hw = sizes[s].hw,
                          .c = sizes[s].c,
                          .rows = rows[turn % 5],
                          .offset = offset,
                          .integers = (drawn & 1) != 0,
                          .relu = (drawn & 2) != 0,
                          .residual = (drawn & 4) != 0,
                          .second = (drawn & 8) != 0,
                          .store_dz = (drawn & 48) != 0,
                          .over = (drawn & 64) != 0,
                          .frozen = (drawn & 128) != 0};
                case_fill(&c, turn * 16 + 1);
                test(&c);
                case_clear(&c);
            }
        }
    }
}

/* ---- Statistics ---- */
static void run_stats(void *context, Outputs *outputs)
{
    const Case *c = context;
    float *sums = device_alloc((size_t)(2 * c->c + 1) * sizeof *sums);
    void *workspace = device_alloc(kernel_bn_workspace(c->n, c->hw, c->c));
    count_begin();
    CUDA_TEST(kernel_bn_stats(NULL, case_shape(c), case_array(c, c->x), sums, workspace));
    output_add(outputs, sums, (size_t)(2 * c->c + 1) * sizeof *sums);
}

static Closeness stats_close;

static void check_stats(const Case *c, const float *got)
{
    const size_t channels = (size_t)c->c;
    for (size_t channel = 0; channel < channels; channel++) {
        double sum = 0.0;
        double size = 0.0;
        double squares = 0.0;
        for (size_t i = channel; i < case_valid(c); i += channels) {
            sum += (double)c->x[i];
            size += fabs((double)c->x[i]);
            squares += (double)c->x[i] * (double)c->x[i];
        }
        const double roundings = c->integers ? 0.0 : SUM_ROUNDINGS * U;
        close_to(&stats_close, channel, (double)got[channel], sum, roundings * size);
        close_to(&stats_close, channel, (double)got[channels + channel], squares,
                 roundings * squares);
    }
    const size_t pixels = case_valid(c) / channels;
    assert_true(got[2 * channels] == (float)pixels);
}

static void test_stats_case(Case *c)
{
    Outputs outputs;
    run_in_orders(run_stats, c, &outputs);
    check_stats(c, outputs.data[0]);
    outputs_free(&outputs);
}

static void test_stats(void **state)
{
    (void)state;
    stats_close = closeness("bn_stats");
    for_cases(test_stats_case);
    closeness_report(&stats_close);
}

/* A million pixels of mean 1000: sums in plain fp32 would be a hundred times outside. */
static void test_stats_long(void **state)
{
    (void)state;
    stats_close = closeness("bn_stats of 2^20+3 pixels");
    for (int channels = 1; channels <= 3; channels += 2) {
        Case c = {.type = KERNEL_F32, .n = 1, .hw = (1 << 20) + 3, .c = channels, .rows = ROWS_ALL};
        case_fill(&c, 77);
        for (size_t i = 0; i < case_elems(&c); i++) {
            c.x[i] += 1000.0f;
        }
        Outputs outputs = {0};
        run_stats(&c, &outputs);
        check_stats(&c, outputs.data[0]);
        outputs_free(&outputs);
        device_free_all();
        case_clear(&c);
    }
    closeness_report(&stats_close);
}

/* ---- Channels ---- */
enum { CHANNELS = 131 };

typedef struct {
    float sums[2 * CHANNELS + 1], gamma[CHANNELS], beta[CHANNELS], mean[CHANNELS], var[CHANNELS];
    float momentum, eps;
    bool add;
} Channels;

static Channels channels_make(float count)
{
    Channels c = {.momentum = 0.1f, .eps = 1e-5f};
    for (uint64_t i = 0; i < CHANNELS; i++) {
        const float mean = kernel_test_value(1, i, -3.0f, 3.0f);
        const float var = kernel_test_value(2, i, 0.01f, 4.0f);
        c.sums[i] = mean * count;
        c.sums[CHANNELS + i] = (var + mean * mean) * count;
        c.gamma[i] = kernel_test_value(3, i, -2.0f, 2.0f);
        c.beta[i] = kernel_test_value(4, i, -2.0f, 2.0f);
        c.mean[i] = kernel_test_value(5, i, -2.0f, 2.0f);
        c.var[i] = kernel_test_value(6, i, 0.0f, 2.0f);
    }
    c.sums[2 * CHANNELS] = count;
    return c;
}

static void check_coef(Closeness *check, const float *got, int i, double mean, double var,
                       const Channels *c)
{
    const double invstd = 1.0 / sqrt(var + (double)c->eps);
    const double want[] = {mean, invstd, (double)c->gamma[i] * invstd,
                           (double)c->beta[i] - mean * (double)c->gamma[i] * invstd};
    for (int k = 0; k < 4; k++) {
        close_to(check, (size_t)i, (double)got[k * CHANNELS + i], want[k],
                 U * fabs(want[k]) + 1e-12);
    }
}

static void test_finalize_and_infer(void **state)
{
    (void)state;
    Closeness check = closeness("bn_finalize, bn_infer");
    const float counts[] = {640.0f, 1.0f, 0.0f};
    for (int k = 0; k < 3; k++) {
        Channels c = channels_make(counts[k]);
        c.sums[CHANNELS + 3] = 0.0f; /* a variance below zero counts as zero */
        float got[8 * CHANNELS];
        float *coef = device_alloc(sizeof got);
        const float *gamma = case_floats(c.gamma, CHANNELS);
        const float *beta = case_floats(c.beta, CHANNELS);
        CUDA_TEST(kernel_bn_finalize(NULL, CHANNELS, case_floats(c.sums, 2 * CHANNELS + 1), gamma,
                                     beta, c.eps, coef));
        CUDA_TEST(kernel_bn_infer(NULL, CHANNELS, gamma, beta, case_floats(c.mean, CHANNELS),
                                  case_floats(c.var, CHANNELS), c.eps, coef + 4 * CHANNELS));
        device_read(got, coef, sizeof got);
        device_free_all();
        for (int i = 0; i < CHANNELS; i++) {
            const double count = (double)counts[k];
            const double mean = count > 0 ? (double)c.sums[i] / count : 0.0;
            const double var =
                count > 0 ? fmax((double)c.sums[CHANNELS + i] / count - mean * mean, 0.0) : 0.0;
            check_coef(&check, got, i, mean, var, &c);
            check_coef(&check, got + 4 * CHANNELS, i, (double)c.mean[i], (double)c.var[i], &c);
        }
    }
    closeness_report(&check);
}

static void test_running(void **state)
{
    (void)state;
    Closeness check = closeness("bn_running");
    const float counts[] = {640.0f, 1.0f, 0.0f};
    for (int k = 0; k < 3; k++) {
        Channels c = channels_make(counts[k]);
        c.sums[5] = NAN;
        c.sums[CHANNELS + 6] = INFINITY;
        c.sums[CHANNELS + 7] = NAN;
        float mean[CHANNELS];
        float var[CHANNELS];
        float *device_mean = case_floats(c.mean, CHANNELS);
        float *device_var = case_floats(c.var, CHANNELS);
        CUDA_TEST(kernel_bn_running(NULL, CHANNELS, case_floats(c.sums, 2 * CHANNELS + 1),
                                    c.momentum, device_mean, device_var));
        device_read(mean, device_mean, sizeof mean);
        device_read(var, device_var, sizeof var);
        device_free_all();
        for (int i = 0; i < CHANNELS; i++) {
            double want_mean = (double)c.mean[i];
            double want_var = (double)c.var[i];
            const double count = (double)counts[k];
            if (count >= 1 && (i < 5 || i > 7)) {
                const double m = (double)c.momentum;
                const double batch = (double)c.sums[i] / count;
                const double biased =
                    fmax((double)c.sums[CHANNELS + i] / count - batch * batch, 0.0);
                want_mean = (1 - m) * want_mean + m * batch;
                want_var =
                    (1 - m) * want_var + m * biased * (count > 1 ? count / (count - 1) : 1.0);
            }
            close_to(&check, (size_t)i, (double)mean[i], want_mean, U * fabs(want_mean) + 1e-12);
            close_to(&check, (size_t)i, (double)var[i], want_var, U * fabs(want_var) + 1e-12);
        }
    }
    closeness_report(&check);
}

static void test_dparam(void **state)
{
    (void)state;
    const Channels c = channels_make(64.0f);
    for (int k = 0; k < 4; k++) {
        const bool add = k & 1;
        float *dgamma = case_floats(c.gamma, CHANNELS);
        float *dbeta = case_floats(c.beta, CHANNELS);
        float got[2][CHANNELS];
        CUDA_TEST(kernel_bn_dparam(NULL, CHANNELS, case_floats(c.sums, 2 * CHANNELS + 1),
                                   k & 2 ? NULL : dgamma, k & 2 ? dbeta : NULL, add));
        device_read(got[0], dgamma, sizeof got[0]);
        device_read(got[1], dbeta, sizeof got[1]);
        device_free_all();
        for (int i = 0; i < CHANNELS; i++) {
            const float gamma = (add ? c.gamma[i] : 0.0f) + c.sums[CHANNELS + i];
            const float beta = (add ? c.beta[i] : 0.0f) + c.sums[i];
            assert_true(got[0][i] == (k & 2 ? c.gamma[i] : gamma));
            assert_true(got[1][i] == (k & 2 ? beta : c.beta[i]));
        }
    }
}

static void test_fold(void **state)
{
    (void)state;
    enum { PER_O = 147, BIG = 300 };
    Closeness check = closeness("fold_bn");
    const Channels c = channels_make(64.0f);
    const int per_o[] = {1, PER_O, BIG};
    for (int k = 0; k < 3; k++) {
        const size_t count = (size_t)CHANNELS * (size_t)per_o[k];
        float *w = kernel_test_values(9, count, -1.0f, 1.0f);
        float *got = malloc(count * sizeof *got);
        float bias[CHANNELS];
        float *w_out = device_alloc(count * sizeof *w_out);
        float *b_out = device_alloc(sizeof bias);
        CUDA_TEST(kernel_fold_bn(NULL, CHANNELS, per_o[k], device_copy(w, count * sizeof *w),
                                 k == 1 ? NULL : case_floats(c.sums, CHANNELS),
                                 case_floats(c.gamma, CHANNELS), case_floats(c.beta, CHANNELS),
                                 case_floats(c.mean, CHANNELS), case_floats(c.var, CHANNELS), c.eps,
                                 w_out, b_out));
        device_read(got, w_out, count * sizeof *got);
        device_read(bias, b_out, sizeof bias);
        device_free_all();
        for (int o = 0; o < CHANNELS; o++) {
            const double scale = (double)c.gamma[o] / sqrt((double)c.var[o] + (double)c.eps);
            const double want = ((k == 1 ? 0.0 : (double)c.sums[o]) - (double)c.mean[o]) * scale +
                                (double)c.beta[o];
            close_to(&check, (size_t)o, (double)bias[o], want, U * fabs(want) + 1e-12);
            for (int i = 0; i < per_o[k]; i++) {
                const size_t at = (size_t)o * (size_t)per_o[k] + (size_t)i;
                close_to(&check, at, (double)got[at], (double)w[at] * scale,
                         U * fabs((double)w[at] * scale) + 1e-30);
            }
        }
        free(w);
        free(got);
    }
    closeness_report(&check);
}

/* ---- Apply ---- */
static void run_apply(void *context, Outputs *outputs)
{
    const Case *c = context;
    void *x = case_array(c, c->x);
    void *residual = c->residual ? case_array(c, c->residuals) : NULL;
    void *y = c->over ? (residual ? residual : x) : case_room(c);
    uint8_t *mask = c->bits ? device_alloc_at(mask_bytes(c), c->offset) : NULL;
    count_begin();
    CUDA_TEST(kernel_bn_apply(NULL, case_shape(c), x, case_floats(c->coef, 4 * c->c), residual,
                              c->relu, y, mask));
    output_add(outputs, y, case_bytes(c));
    if (mask) {
        output_add(outputs, mask, mask_bytes(c));
    }
}

static Closeness apply_close;

static void check_mask(const Case *c, const float *y, const uint8_t *bits)
{
    for (size_t i = 0; i < case_elems(c); i++) {
        assert_true(mask_bit(c, bits, i) == (y[i] > 0.0f));
    }
    for (size_t pixel = 0; c->c % 8 != 0 && pixel < (size_t)c->n * (size_t)c->hw; pixel++) {
        assert_int_equal(bits[(pixel + 1) * mask_row(c) - 1] >> c->c % 8, 0);
    }
}

static void check_apply(const Case *c, const float *y)
{
    const size_t channels = (size_t)c->c;
    for (size_t i = 0; i < case_elems(c); i++) {
        const double scale = (double)c->coef[2 * channels + i % channels];
        const double shift = (double)c->coef[3 * channels + i % channels];
        const double residual = c->residual ? (double)c->residuals[i] : 0.0;
        double want = (double)c->x[i] * scale + shift + residual;
        const double size = fabs((double)c->x[i] * scale) + fabs(shift) + fabs(residual);
        want = c->relu && want < 0.0 ? 0.0 : want;
        want = i < case_valid(c) ? want : 0.0;
        const double limit = kernel_type_eps(c->type) * fabs(want) + 2 * U * size + TINY;
        close_to(&apply_close, i, (double)y[i], want,
                 c->integers || i >= case_valid(c) ? 0.0 : limit);
    }
}

static void test_apply_case(Case *c)
{
    for (int bits = 0; bits < 2; bits++) {
        c->bits = bits != 0;
        Outputs outputs;
        run_in_orders(run_apply, c, &outputs);
        float *y = output_values(&outputs, 0, c->type);
        check_apply(c, y);
        if (bits) {
            check_mask(c, y, outputs.data[1]);
        }
        free(y);
        outputs_free(&outputs);
    }
}

static void test_apply(void **state)
{
    (void)state;
    apply_close = closeness("bn_apply");
    for_cases(test_apply_case);
    closeness_report(&apply_close);
}

/* ReLU keeps NaN; the mask of a NaN is closed; what rounds to zero is closed. */
static void test_apply_special(void **state)
{
    (void)state;
    Case c = {
        .type = KERNEL_F16, .n = 1, .hw = 1, .c = 8, .rows = ROWS_ALL, .relu = true, .bits = true};
    case_fill(&c, 5);
    for (int i = 0; i < 8; i++) {
        c.x[i] = 1.0f;
        c.coef[16 + i] = 1.0f;
        c.coef[24 + i] = 0.0f;
    }
    c.x[0] = NAN;
    c.x[1] = -INFINITY;
    c.coef[16 + 2] = 0x1p-30f;
    Outputs outputs;
    run_in_orders(run_apply, &c, &outputs);
    float *y = output_values(&outputs, 0, c.type);
    assert_true(isnan(y[0]));
    assert_true(y[1] == 0.0f && y[2] == 0.0f && y[3] == 1.0f);
    assert_int_equal(*(uint8_t *)outputs.data[1], 0xF8);
    free(y);
    outputs_free(&outputs);
    case_clear(&c);
}

/* ---- Backward ---- */
static BnMaskSource case_mask(const Case *c)
{
    return (BnMaskSource){.kind = c->mask,
                          .y = c->mask == BN_MASK_OUTPUT ? case_array(c, c->y) : NULL,
                          .bits = c->mask == BN_MASK_BITS
                                      ? device_copy_at(c->mask_bits, mask_bytes(c), c->offset)
                                      : NULL};
}

static bool is_open(const Case *c, size_t i)
{
    const size_t channels = (size_t)c->c;
    float remade =
        fmaf(c->x[i], c->coef[2 * channels + i % channels], c->coef[3 * channels + i % channels]);
    kernel_round(c->type, &remade, 1);
    switch (c->mask) {
    case BN_MASK_OUTPUT:
        return c->y[i] > 0.0f;
    case BN_MASK_BITS:
        return mask_bit(c, c->mask_bits, i);
    case BN_MASK_REMAKE:
        return remade > 0.0f;
    default:
        return true;
    }
}

static void run_reduce(void *context, Outputs *outputs)
{
    const Case *c = context;
    void *dy = case_array(c, c->dy);
    void *dy2 = c->second ? case_array(c, c->dy2) : NULL;
    void *dz = c->over ? (dy2 ? dy2 : dy) : case_room(c);
    dz = c->store_dz ? dz : NULL;
    float *sums = device_alloc((size_t)(2 * c->c + 1) * sizeof *sums);
    void *workspace = device_alloc(kernel_bn_workspace(c->n, c->hw, c->c));
    count_begin();
    CUDA_TEST(kernel_bn_reduce(NULL, case_shape(c), dy, dy2, case_array(c, c->x),
                               case_floats(c->coef, 4 * c->c), case_mask(c), dz, sums, workspace));
    output_add(outputs, sums, (size_t)(2 * c->c + 1) * sizeof *sums);
    if (dz) {
        output_add(outputs, dz, case_bytes(c));
    }
}

static Closeness dz_close, reduce_close;

static void check_reduce(const Case *c, const float *got, const float *stored)
{
    const size_t channels = (size_t)c->c;
    double *want = calloc(4 * channels, sizeof *want); /* sums, and of absolute terms */
    for (size_t i = 0; i < case_elems(c); i++) {
        const size_t channel = i % channels;
        const bool valid = i < case_valid(c);
        double dz = (double)c->dy[i] + (c->second ? (double)c->dy2[i] : 0.0);
        dz = valid && is_open(c, i) ? dz : 0.0;
        if (stored) {
            close_to(&dz_close, i, (double)stored[i], dz,
                     valid ? (kernel_type_eps(c->type) + U) * fabs(dz) + TINY : 0.0);
            dz = (double)stored[i];
        }
        const double xhat =
            ((double)c->x[i] - (double)c->coef[channel]) * (double)c->coef[channels + channel];
        want[channel] += dz;
        want[channels + channel] += dz * xhat;
        want[2 * channels + channel] += fabs(dz);
        want[3 * channels + channel] += fabs(dz * xhat);
    }
    for (size_t k = 0; k < 2 * channels; k++) {
        close_to(&reduce_close, k, (double)got[k], want[k],
                 c->integers ? 0.0 : SUM_ROUNDINGS * U * want[2 * channels + k] + 1e-30);
    }
    const size_t pixels = case_valid(c) / channels;
    assert_true(got[2 * channels] == (float)pixels);
    free(want);
}

static void test_reduce_case(Case *c)
{
    for (int m = 0; m < 4; m++) {
        c->mask = masks[m];
        Outputs outputs;
        run_in_orders(run_reduce, c, &outputs);
        float *dz = c->store_dz ? output_values(&outputs, 1, c->type) : NULL;
        check_reduce(c, outputs.data[0], dz);
        free(dz);
        outputs_free(&outputs);
    }
}

static void test_reduce(void **state)
{
    (void)state;
    dz_close = closeness("bn_reduce, dz");
    reduce_close = closeness("bn_reduce, sums");
    for_cases(test_reduce_case);
    closeness_report(&dz_close);
    closeness_report(&reduce_close);
}

static void run_dx(void *context, Outputs *outputs)
{
    const Case *c = context;
    void *dz = case_array(c, c->dy);
    void *x = case_array(c, c->x);
    const BnMaskSource mask = case_mask(c);
    void *dx = case_room(c);
    if (c->over) {
        void *y = NULL;
        memcpy(&y, &mask.y, sizeof y); /* without its const */
        dx = c->mask == BN_MASK_OUTPUT ? y : c->second ? x : dz;
    }
    count_begin();
    CUDA_TEST(kernel_bn_dx(NULL, case_shape(c), dz, x, case_floats(c->coef, 4 * c->c),
                           c->frozen ? NULL : case_floats(c->sums, 2 * c->c + 1), mask, c->frozen,
                           dx));
    output_add(outputs, dx, case_bytes(c));
}

static Closeness dx_close;

static void check_dx(const Case *c, const float *got)
{
    const size_t channels = (size_t)c->c;
    const double count = (double)c->sums[2 * channels];
    for (size_t i = 0; i < case_elems(c); i++) {
        const size_t channel = i % channels;
        const double scale = (double)c->coef[2 * channels + channel];
        double want = 0.0;
        double size = 0.0;
        if (i < case_valid(c)) {
            const double dz = is_open(c, i) ? (double)c->dy[i] : 0.0;
            want = scale * dz;
            size = fabs(want);
            if (!c->frozen) {
                const double mean = (double)c->coef[channel];
                const double slope = scale * (double)c->coef[channels + channel] *
                                     (double)c->sums[channels + channel] / count;
                const double level = scale * (double)c->sums[channel] / count;
                want -= level + slope * ((double)c->x[i] - mean);
                size += fabs(level) + fabs(slope * (double)c->x[i]) + fabs(slope * mean);
            }
        }
        close_to(&dx_close, i, (double)got[i], want,
                 kernel_type_eps(c->type) * fabs(want) + 4 * U * size +
                     (i < case_valid(c) ? TINY : 0.0));
    }
}

static void test_dx_case(Case *c)
{
    for (int m = 0; m < 4; m++) {
        c->mask = masks[m];
        c->frozen = !c->frozen;
        Outputs outputs;
        run_in_orders(run_dx, c, &outputs);
        float *dx = output_values(&outputs, 0, c->type);
        check_dx(c, dx);
        free(dx);
        outputs_free(&outputs);
    }
}

static void test_dx(void **state)
{
    (void)state;
    dx_close = closeness("bn_dx");
    for_cases(test_dx_case);
    closeness_report(&dx_close);
}

/* ---- Counted bytes: the streams exactly, partials within 5 % of them ---- */
#ifdef CUDISTILL_EMU
static void check_bytes(const char *kernel, double loaded, double stored)
{
    EmuCounts sum;
    EmuCounts all;
    assert_true(emu_counts(kernel, &sum, NULL) == 1);
    assert_true(emu_counts("", &all, NULL) >= 1);
    const double extra = (double)(all.loaded + all.stored) - loaded - stored;
    printf("%-40s %9.0f loaded, %9.0f stored; partials and sums %.1f %% more\n", kernel, loaded,
           stored, 100.0 * extra / (loaded + stored));
    assert_true((double)sum.loaded == loaded);
    assert_true((double)sum.stored >= stored);
    assert_true(extra >= 0.0 && extra <= 0.05 * (loaded + stored));
    if (stored > 0.0 && extra == 0.0) {
        assert_true((double)sum.stored == stored);
    }
}

static void count_case(Case *c, KernelRun run, const char *kernel, double loaded, double stored)
{
    Outputs outputs = {0};
    run(c, &outputs);
    const double e = (double)case_bytes(c);
    check_bytes(kernel, round(loaded * e), round(stored * e));
    outputs_free(&outputs);
    device_free_all();
}
#endif

static void test_bytes(void **state)
{
    (void)state;
#ifdef CUDISTILL_EMU
    const int channels[] = {64, 58};
    for (int k = 0; k < 2; k++) {
        for (int t = 0; t < 3; t++) {
            Case c = {.type = types[t], .n = 40, .hw = 100, .c = channels[k], .rows = ROWS_ALL};
            const double bits =
                (double)mask_row(&c) / (double)c.c / (double)kernel_type_size(c.type);
            case_fill(&c, 3);
            count_case(&c, run_stats, "bn_stats", 1, 0);
            count_case(&c, run_apply, "bn_apply", 1, 1);
            c.residual = true;
            count_case(&c, run_apply, "bn_apply", 2, 1);
            c.bits = true;
            count_case(&c, run_apply, "bn_apply", 2, 1 + bits);
            c.mask = BN_MASK_REMAKE;
            count_case(&c, run_reduce, "bn_reduce", 2, 0);
            count_case(&c, run_dx, "bn_dx", 2, 1);
            c.mask = BN_MASK_OUTPUT;
            c.second = true;
            c.store_dz = true;
            count_case(&c, run_reduce, "bn_reduce", 4, 1);
            count_case(&c, run_dx, "bn_dx", 3, 1);
            c.mask = BN_MASK_BITS;
            c.second = false;
            count_case(&c, run_reduce, "bn_reduce", 2 + bits, 1);
            count_case(&c, run_dx, "bn_dx", 2 + bits, 1);
            c.mask = BN_MASK_NONE;
            c.frozen = true;
            count_case(&c, run_dx, "bn_dx", 1, 1);
            case_clear(&c);
        }
    }
#else
    skip();
#endif
}

static void test_bad_arguments(void **state)
{
    (void)state;
    float sums[3] = {0};
    const BnShape none = {.type = KERNEL_F32, .n = 1, .hw = 1, .c = 0};
    const BnShape type = {.type = KERNEL_I32, .n = 1, .hw = 1, .c = 1};
    assert_int_equal(kernel_bn_stats(NULL, none, sums, sums, sums), KERNEL_BAD_ARGUMENT);
    assert_int_equal(kernel_bn_stats(NULL, type, sums, sums, sums), KERNEL_BAD_ARGUMENT);
    assert_int_equal(kernel_bn_apply(NULL, type, sums, sums, NULL, true, sums, NULL),
                     KERNEL_BAD_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_stats_long),
        cmocka_unit_test(test_finalize_and_infer),
        cmocka_unit_test(test_running),
        cmocka_unit_test(test_dparam),
        cmocka_unit_test(test_fold),
        cmocka_unit_test(test_apply),
        cmocka_unit_test(test_apply_special),
        cmocka_unit_test(test_reduce),
        cmocka_unit_test(test_dx),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
