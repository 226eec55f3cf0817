/* Policies: the sub-policies against a second copy of the published tables, arguments against each convention's scale,
 * shares and independence of the draws, cutout, and the view that training sees. */
#include "data/policy.h"

#include "data/view.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { SIDE = 32, DRAWS = 30000 };

/* "operation probability magnitude", as published. */
static const char *const imagenet_text[POLICY_SUBPOLICIES][2] = {
    {"Posterize .4 8", "Rotate .6 9"},  {"Solarize .6 5", "AutoContrast .6 -"},
    {"Equalize .8 -", "Equalize .6 -"}, {"Posterize .6 7", "Posterize .6 6"},
    {"Equalize .4 -", "Solarize .2 4"}, {"Equalize .4 -", "Rotate .8 8"},
    {"Solarize .6 3", "Equalize .6 -"}, {"Posterize .8 5", "Equalize 1 -"},
    {"Rotate .2 3", "Solarize .6 8"},   {"Equalize .6 -", "Posterize .4 6"},
    {"Rotate .8 8", "Color .4 0"},      {"Rotate .4 9", "Equalize .6 -"},
    {"Equalize 0 -", "Equalize .8 -"},  {"Invert .6 -", "Equalize 1 -"},
    {"Color .6 4", "Contrast 1 8"},     {"Rotate .8 8", "Color 1 2"},
    {"Color .8 8", "Solarize .8 7"},    {"Sharpness .4 7", "Invert .6 -"},
    {"ShearX .6 5", "Equalize 1 -"},    {"Color .4 0", "Equalize .6 -"},
    {"Equalize .4 -", "Solarize .2 4"}, {"Solarize .6 5", "AutoContrast .6 -"},
    {"Invert .6 -", "Equalize 1 -"},    {"Color .6 4", "Contrast 1 8"},
    {"Equalize .8 -", "Equalize .6 -"},
};

static const char *const cifar10_text[POLICY_SUBPOLICIES][2] = {
    {"Invert .1 -", "Contrast .2 6"},         {"Rotate .7 2", "TranslateX .3 9"},
    {"Sharpness .8 1", "Sharpness .9 3"},     {"ShearY .5 8", "TranslateY .7 9"},
    {"AutoContrast .5 -", "Equalize .9 -"},   {"ShearY .2 7", "Posterize .3 7"},
    {"Color .4 3", "Brightness .6 7"},        {"Sharpness .3 9", "Brightness .7 9"},
    {"Equalize .6 -", "Equalize .5 -"},       {"Contrast .6 7", "Sharpness .6 5"},
    {"Color .7 7", "TranslateX .5 8"},        {"Equalize .3 -", "AutoContrast .4 -"},
    {"TranslateY .4 3", "Sharpness .2 6"},    {"Brightness .9 6", "Color .2 8"},
    {"Solarize .5 2", "Invert 0 -"},          {"Equalize .2 -", "AutoContrast .6 -"},
    {"Equalize .2 -", "Equalize .6 -"},       {"Color .9 9", "Equalize .6 -"},
    {"AutoContrast .8 -", "Solarize .2 8"},   {"Brightness .1 3", "Color .7 0"},
    {"Solarize .4 5", "AutoContrast .9 -"},   {"TranslateY .9 9", "TranslateY .7 9"},
    {"AutoContrast .9 -", "Solarize .8 3"},   {"Equalize .8 -", "Invert .1 -"},
    {"TranslateY .7 9", "AutoContrast .9 -"},
};

static void test_published_tables(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        const PolicyStep(*steps)[2] =
            policy_subpolicies(p == 0 ? POLICY_AUTOAUGMENT_IMAGENET : POLICY_AUTOAUGMENT_CIFAR10);
        for (int i = 0; i < POLICY_SUBPOLICIES * 2; i++) {
            const char *text = (p == 0 ? imagenet_text : cifar10_text)[i / 2][i % 2];
            const PolicyStep *step = &steps[i / 2][i % 2];
            char name[32];
            char probability[8];
            char magnitude[8];
            assert_int_equal(sscanf(text, "%31s %7s %7s", name, probability, magnitude), 3);
            assert_string_equal(pil_name(step->kind), name);
            assert_true(fabs(step->probability - strtod(probability, NULL)) < 1e-12);
            assert_int_equal(step->magnitude,
                             magnitude[0] == '-' ? POLICY_NO_MAGNITUDE : magnitude[0] - '0');
        }
    }
}

static PolicySpec spec_of(PolicyKind kind)
{
    const bool timm = kind == POLICY_RANDAUGMENT_TIMM;
    const PolicySpec spec = {.kind = kind, .n = 2, .m = 9, .inc = timm};
    assert_null(policy_check(&spec, NULL));
    return spec;
}

/* ---- Arguments ---- */

typedef struct {
    int applied[PIL_KINDS];
    double low[PIL_KINDS], high[PIL_KINDS]; /* the smallest and largest argument */
    int at_low[PIL_KINDS];
    int others[PIL_KINDS]; /* arguments that were neither */
    int filters[3];        /* of geometric operations */
    int total;
} Tally;

static bool is_geometric(PilKind kind)
{
    return kind >= PIL_SHEAR_X && kind <= PIL_ROTATE;
}

static Tally tally(const PolicySpec *spec, int fill)
{
    static double values[PIL_KINDS][DRAWS * 4];
    Tally out = {.total = 0};
    for (uint32_t i = 0; i < DRAWS; i++) {
        const PolicyDraw draw = policy_draw(spec, 5, i / 1000, i % 1000, SIDE, 2 * SIDE);
        for (int k = 0; k < draw.n; k++) {
            const PilOp *op = &draw.ops[k];
            values[op->kind][out.applied[op->kind]++] = op->value;
            out.total++;
            if (is_geometric(op->kind)) {
                out.filters[op->filter]++;
                assert_int_equal(op->fill[0], fill);
                assert_int_equal(op->fill[1], fill);
                assert_int_equal(op->fill[2], fill);
            }
        }
    }
    for (int kind = 0; kind < PIL_KINDS; kind++) {
        out.low[kind] = INFINITY;
        out.high[kind] = -INFINITY;
        for (int i = 0; i < out.applied[kind]; i++) {
            out.low[kind] = fmin(out.low[kind], values[kind][i]);
            out.high[kind] = fmax(out.high[kind], values[kind][i]);
        }
        for (int i = 0; i < out.applied[kind]; i++) {
            out.at_low[kind] += values[kind][i] == out.low[kind];
            out.others[kind] +=
                values[kind][i] != out.low[kind] && values[kind][i] != out.high[kind];
        }
    }
    return out;
}

/* A share of n trials within five standard deviations. */
static void check_share(const char *of, int hits, int n, double share)
{
    const double deviation = sqrt(n * share * (1.0 - share));
    if (fabs(hits - n * share) > 5.0 * deviation + 1e-9) {
        fail_msg("%s: %d of %d, expected %.1f", of, hits, n, n * share);
    }
}

/* The operation takes these two arguments, each half of the times; or the one. */
static void check_values(const Tally *t, PilKind kind, double low, double high)
{
    const double tolerance = 1e-12 * fmax(1.0, fmax(fabs(low), fabs(high)));
    if (t->applied[kind] == 0 || fabs(t->low[kind] - low) > tolerance ||
        fabs(t->high[kind] - high) > tolerance || t->others[kind] > 0) {
        fail_msg("%s: %d times %.17g .. %.17g and %d others, expected %.17g and %.17g",
                 pil_name(kind), t->applied[kind], t->low[kind], t->high[kind], t->others[kind],
                 low, high);
    }
    if (low < high) {
        check_share(pil_name(kind), t->at_low[kind], t->applied[kind], 0.5);
    }
}

static void check_factors(const Tally *t, double low, double high)
{
    const PilKind kinds[] = {PIL_COLOR, PIL_CONTRAST, PIL_BRIGHTNESS, PIL_SHARPNESS};
    for (int i = 0; i < 4; i++) {
        check_values(t, kinds[i], low, high);
    }
}

static void test_timm(void **state)
{
    (void)state;
    PolicySpec spec = spec_of(POLICY_RANDAUGMENT_TIMM);
    Tally t = tally(&spec, 128);
    check_values(&t, PIL_ROTATE, -27.0, 27.0);
    check_values(&t, PIL_SHEAR_X, -0.27, 0.27);
    check_values(&t, PIL_SHEAR_Y, -0.27, 0.27);
    check_values(&t, PIL_TRANSLATE_X, -25.92, 25.92); /* 0.405 of 64 */
    check_values(&t, PIL_TRANSLATE_Y, -12.96, 12.96);
    check_factors(&t, 1.0 - 0.81, 1.81);
    check_values(&t, PIL_POSTERIZE, 1, 1);  /* 4 - int(3.6) */
    check_values(&t, PIL_SOLARIZE, 26, 26); /* 256 - int(230.4) */
    check_values(&t, PIL_SOLARIZE_ADD, 99, 99);
    assert_int_equal(t.applied[PIL_IDENTITY], 0);
    check_share("operations", t.total, 2 * DRAWS, 0.5);
    for (int kind = 1; kind < PIL_KINDS; kind++) {
        check_share(pil_name((PilKind)kind), t.applied[kind], 2 * DRAWS, 0.5 / 15.0);
    }
    assert_int_equal(t.filters[PIL_NEAREST], 0);
    check_share("bicubic", t.filters[PIL_BICUBIC], t.filters[PIL_BICUBIC] + t.filters[PIL_BILINEAR],
                0.5);
    spec.inc = false;
    t = tally(&spec, 128);
    check_factors(&t, 1.72, 1.72); /* 0.1 + 0.18 * 9 */
    check_values(&t, PIL_POSTERIZE, 3, 3);
    check_values(&t, PIL_SOLARIZE, 230, 230);
    spec = (PolicySpec){.kind = POLICY_RANDAUGMENT_TIMM, .n = 1, .m = 10, .inc = true};
    t = tally(&spec, 128);
    check_factors(&t, 0.1, 1.9);
    check_values(&t, PIL_POSTERIZE, 0, 0);
    check_values(&t, PIL_SOLARIZE, 0, 0);
    check_values(&t, PIL_SOLARIZE_ADD, 110, 110);
    check_share("of one", t.total, DRAWS, 0.5);
}

static void test_timm_spread(void **state)
{
    (void)state;
    const struct {
        double m, mstd, mean, deviation, low, high;
    } cases[] = {
        {5, 0.5, 5, 0.5, 2, 8}, {5, 100, 2.5, 5 / sqrt(12.0), 0, 5}, {10, 1, 10, 0, 0, 10}};
    for (int c = 0; c < 3; c++) {
        const PolicySpec spec = {
            .kind = POLICY_RANDAUGMENT_TIMM, .n = 2, .m = cases[c].m, .mstd = cases[c].mstd};
        double sum = 0;
        double squares = 0;
        int count = 0;
        int at_limit = 0;
        for (uint32_t i = 0; i < 2 * DRAWS; i++) {
            const PolicyDraw draw = policy_draw(&spec, 1, 0, i, SIDE, SIDE);
            for (int k = 0; k < draw.n; k++) {
                if (draw.ops[k].kind == PIL_ROTATE) {
                    const double level = fabs(draw.ops[k].value) / 3.0;
                    assert_true(level >= cases[c].low && level <= cases[c].high + 1e-12);
                    sum += level;
                    squares += level * level;
                    count++;
                    at_limit += level > 10 - 1e-12;
                }
            }
        }
        const double mean = sum / count;
        if (c < 2) {
            assert_true(fabs(mean - cases[c].mean) < 5 * cases[c].deviation / sqrt(count));
            assert_true(fabs(sqrt(squares / count - mean * mean) / cases[c].deviation - 1) < 0.06);
        } else { /* half of them would pass the end of the scale */
            check_share("levels at the end", at_limit, count, 0.5);
        }
    }
}

/* Expected are the values of torch.linspace(..., 31)[m]. */
static void test_torchvision(void **state)
{
    (void)state;
    PolicySpec spec = spec_of(POLICY_RANDAUGMENT_TORCHVISION);
    Tally t = tally(&spec, 0);
    check_values(&t, PIL_SHEAR_X, -0x1.70a3d8p-4, 0x1.70a3d8p-4);
    check_values(&t, PIL_SHEAR_Y, -0x1.70a3d8p-4, 0x1.70a3d8p-4);
    check_values(&t, PIL_TRANSLATE_X, -8, 8); /* 9/30 * 150/331 * 64 = 8.7 */
    check_values(&t, PIL_TRANSLATE_Y, -4, 4);
    check_values(&t, PIL_ROTATE, -9, 9);
    check_factors(&t, 1 - 0x1.147aep-2, 1 + 0x1.147aep-2);
    check_values(&t, PIL_POSTERIZE, 7, 7);
    check_values(&t, PIL_SOLARIZE, 178.5, 178.5);
    assert_int_equal(t.total, 2 * DRAWS);
    assert_int_equal(t.applied[PIL_INVERT] + t.applied[PIL_SOLARIZE_ADD], 0);
    for (int kind = 0; kind < PIL_KINDS; kind++) {
        if (kind != PIL_INVERT && kind != PIL_SOLARIZE_ADD) {
            check_share(pil_name((PilKind)kind), t.applied[kind], 2 * DRAWS, 1.0 / 14.0);
        }
    }
    assert_int_equal(t.filters[PIL_BILINEAR] + t.filters[PIL_BICUBIC], 0);
    const struct {
        int m;
        double shear, factor, solarize;
        int bits;
    } bins[] = {{1, 0x1.47ae16p-7, 0x1.eb851ep-6, 0x1.edp+7, 8},
                {10, 0x1.99999cp-4, 0x1.333332p-2, 0x1.54p+7, 7},
                {15, 0x1.333334p-3, 0x1.ccccccp-2, 0x1.fep+6, 6},
                {16, 0x1.47ae14p-3, 0x1.eb851ep-2, 0x1.dcp+6, 6},
                {30, 0x1.333334p-2, 0x1.ccccccp-1, 0, 4}};
    for (size_t i = 0; i < sizeof bins / sizeof bins[0]; i++) {
        spec.m = bins[i].m;
        t = tally(&spec, 0);
        check_values(&t, PIL_SHEAR_X, -bins[i].shear, bins[i].shear);
        check_factors(&t, 1 - bins[i].factor, 1 + bins[i].factor);
        check_values(&t, PIL_SOLARIZE, bins[i].solarize, bins[i].solarize);
        check_values(&t, PIL_POSTERIZE, bins[i].bits, bins[i].bits);
    }
}

/* Shares of every operation from the published probabilities, arguments from the magnitudes that occur. */
static void test_autoaugment(void **state)
{
    (void)state;
    for (int p = 0; p < 2; p++) {
        const PolicyKind kind = p == 0 ? POLICY_AUTOAUGMENT_IMAGENET : POLICY_AUTOAUGMENT_CIFAR10;
        const PolicySpec spec = spec_of(kind);
        const Tally t = tally(&spec, 128);
        double expected[PIL_KINDS] = {0};
        for (int i = 0; i < POLICY_SUBPOLICIES * 2; i++) {
            const PolicyStep *step = &policy_subpolicies(kind)[i / 2][i % 2];
            expected[step->kind] += step->probability / POLICY_SUBPOLICIES;
        }
        for (int k = 0; k < PIL_KINDS; k++) { /* an operation may come twice: the wider bound */
            const double mean = expected[k] * DRAWS;
            if (fabs(t.applied[k] - mean) > 5 * sqrt(2 * mean)) {
                fail_msg("%s: %d times, expected %.1f", pil_name((PilKind)k), t.applied[k], mean);
            }
        }
        assert_int_equal(t.filters[PIL_BILINEAR] + t.filters[PIL_BICUBIC], 0);
        if (p == 0) {
            assert_true(t.low[PIL_ROTATE] == -30 && t.high[PIL_ROTATE] == 30);
            check_values(&t, PIL_SHEAR_X, -0.3 * 5 / 9, 0.3 * 5 / 9);
            check_values(&t, PIL_CONTRAST, 1 - 0.8, 1.8);
            assert_true(t.low[PIL_POSTERIZE] == 4 && t.high[PIL_POSTERIZE] == 6);
        } else {
            check_values(&t, PIL_ROTATE, -20 / 3.0, 20 / 3.0);
            assert_true(t.low[PIL_TRANSLATE_X] == -29 && t.high[PIL_TRANSLATE_X] == 29);
            assert_true(t.low[PIL_TRANSLATE_Y] == -14 && t.high[PIL_TRANSLATE_Y] == 14);
            check_values(&t, PIL_POSTERIZE, 5, 5);
            assert_true(fabs(t.low[PIL_BRIGHTNESS] - 0.1) < 1e-12);
        }
    }
}

/* ---- Draws ---- */

static bool same_draw(const PolicyDraw *a, const PolicyDraw *b)
{
    bool same = a->n == b->n;
    for (int i = 0; i < a->n && same; i++) {
        same = a->ops[i].kind == b->ops[i].kind && a->ops[i].value == b->ops[i].value &&
               a->ops[i].filter == b->ops[i].filter;
    }
    return same;
}

static void test_draws_depend_on_the_key_alone(void **state)
{
    (void)state;
    for (int kind = POLICY_AUTOAUGMENT_IMAGENET; kind <= POLICY_RANDAUGMENT_TORCHVISION; kind++) {
        const PolicySpec spec = spec_of((PolicyKind)kind);
        PolicySpec with_cutout = spec;
        with_cutout.cutout = 16;
        with_cutout.cutout_prob = 0.5;
        int differ[3] = {0};
        for (uint32_t i = 0; i < 1000; i++) {
            const PolicyDraw draw = policy_draw(&spec, 7, 3, i, SIDE, SIDE);
            const PolicyDraw again = policy_draw(&with_cutout, 7, 3, i, SIDE, SIDE);
            assert_true(same_draw(&draw, &again));
            const PolicyDraw others[3] = {policy_draw(&spec, 8, 3, i, SIDE, SIDE),
                                          policy_draw(&spec, 7, 4, i, SIDE, SIDE),
                                          policy_draw(&spec, 7, 3, i + 1, SIDE, SIDE)};
            for (int k = 0; k < 3; k++) {
                differ[k] += !same_draw(&draw, &others[k]);
            }
        }
        for (int k = 0; k < 3; k++) {
            assert_true(differ[k] > 700);
        }
    }
}

static void test_cutout_draws(void **state)
{
    (void)state;
    const PolicySpec spec = {.cutout = 8, .cutout_prob = 0.25};
    assert_false(policy_is_none(&spec));
    assert_true(policy_is_none(&(PolicySpec){.cutout = 8}));
    assert_true(policy_is_none(&(PolicySpec){.cutout_prob = 1}));
    int columns[2 * SIDE] = {0};
    int rows[SIDE] = {0};
    int cuts = 0;
    for (uint32_t i = 0; i < 2 * DRAWS; i++) {
        const PolicyDraw draw = policy_draw(&spec, 9, 1, i, SIDE, 2 * SIDE);
        assert_int_equal(draw.n, 0);
        cuts += draw.cut;
        columns[draw.cut_x]++;
        rows[draw.cut_y]++;
    }
    check_share("cutout", cuts, 2 * DRAWS, 0.25);
    for (int x = 0; x < 2 * SIDE; x++) {
        check_share("column", columns[x], 2 * DRAWS, 0.5 / SIDE);
        check_share("row", rows[x / 2], 2 * DRAWS, 1.0 / SIDE);
    }
}

static void expect_refused(PolicySpec spec, const char *key, const char *part)
{
    const char *about = NULL;
    Err *err = policy_check(&spec, &about);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    assert_string_equal(about, key);
    assert_non_null(strstr(err->message, part));
    err_free(err);
}

static void test_refusals(void **state)
{
    (void)state;
    const PolicySpec timm = {.kind = POLICY_RANDAUGMENT_TIMM, .n = 2, .m = 9};
    const PolicySpec vision = {.kind = POLICY_RANDAUGMENT_TORCHVISION, .n = 2, .m = 9};
    PolicySpec spec = timm;
    spec.m = 10.5;
    expect_refused(spec, "randaug_m", "0 to 10");
    spec.m = -1;
    expect_refused(spec, "randaug_m", "0 to 10");
    spec = timm;
    spec.mstd = -1;
    expect_refused(spec, "randaug_mstd", "0 or more");
    spec = timm;
    spec.n = 0;
    expect_refused(spec, "randaug_n", "1 to 16");
    spec.n = 17;
    expect_refused(spec, "randaug_n", "1 to 16");
    spec = vision;
    spec.m = 31;
    expect_refused(spec, "randaug_m", "0 to 30");
    spec.m = 8.5;
    expect_refused(spec, "randaug_m", "whole");
    spec = (PolicySpec){.cutout = -1};
    expect_refused(spec, "cutout", "0 to 8192");
    spec = (PolicySpec){.cutout = 8, .cutout_prob = 1.5};
    expect_refused(spec, "cutout_prob", "0 to 1");
    spec = (PolicySpec){.kind = POLICY_AUTOAUGMENT_CIFAR10, .m = 99}; /* m is not of this policy */
    assert_null(policy_check(&spec, NULL));
}

/* ---- The view ---- */

static void test_view(void **state)
{
    (void)state;
    enum { HEIGHT = 20, WIDTH = 27, BYTES = HEIGHT * WIDTH * 3 };
    static uint8_t image[BYTES];
    static uint8_t want[BYTES];
    static uint8_t got[BYTES];
    static uint8_t scratch[BYTES];
    for (int i = 0; i < BYTES; i++) {
        image[i] = (uint8_t)(i * 31 + i / 7);
    }
    view_make(&(ViewSpec){0}, 1, 2, 3, image, HEIGHT, WIDTH, got, NULL);
    assert_memory_equal(got, image, BYTES);
    assert_true(view_is_plain(&(ViewSpec){0}));
    ViewSpec spec = {.crop = {.pad = 3, .flip = true}};
    assert_false(view_is_plain(&spec));
    for (int kind = POLICY_NONE; kind <= POLICY_RANDAUGMENT_TORCHVISION; kind++) {
        int changed = 0;
        spec.policy = (PolicySpec){.kind = (PolicyKind)kind,
                                   .n = 2,
                                   .m = 9,
                                   .mstd = 0.5,
                                   .inc = true,
                                   .cutout = 6,
                                   .cutout_prob = 0.5,
                                   .cutout_fill = {9, 8, 7}};
        for (uint32_t sample = 0; sample < 50; sample++) {
            augment_apply(spec.crop, augment_view(4, 1, sample, spec.crop), image, HEIGHT, WIDTH,
                          want);
            memcpy(got, want, BYTES);
            const PolicyDraw draw = policy_draw(&spec.policy, 4, 1, sample, HEIGHT, WIDTH);
            for (int i = 0; i < draw.n; i++) {
                pil_apply(&draw.ops[i], want, HEIGHT, WIDTH, scratch);
            }
            if (draw.cut) {
                pil_cutout(want, HEIGHT, WIDTH, draw.cut_x, draw.cut_y, 6, (uint8_t[3]){9, 8, 7});
            }
            changed += memcmp(got, want, BYTES) != 0;
            view_make(&spec, 4, 1, sample, image, HEIGHT, WIDTH, got, scratch);
            assert_memory_equal(got, want, BYTES);
        }
        assert_true(changed > 10);
    }
}

static void test_description(void **state)
{
    (void)state;
    const ViewSpec spec = {.policy = {.kind = POLICY_RANDAUGMENT_TORCHVISION,
                                      .n = POLICY_MAX_OPS,
                                      .m = 9,
                                      .cutout = 4,
                                      .cutout_prob = 1}};
    Text text = {0};
    view_json(&text, &spec, 1, 1, 1, SIDE, SIDE);
    const char *start = "\"dx\":0,\"dy\":0,\"flip\":false,\"policy\":\"";
    assert_memory_equal(text.text, start, strlen(start));
    assert_non_null(strstr(text.text, ", cutout at "));
    const PolicyDraw draw = policy_draw(&spec.policy, 1, 1, 1, SIDE, SIDE);
    const char *at = text.text;
    for (int i = 0; i < draw.n; i++) {
        at = strstr(at, pil_name(draw.ops[i].kind));
        assert_non_null(at);
        at++;
    }
    text_free(&text);
    view_json(&text, &(ViewSpec){.crop = {.pad = 4}}, 1, 1, 1, SIDE, SIDE);
    assert_null(strstr(text.text, "policy"));
    assert_non_null(strstr(text.text, "\"dy\":"));
    text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_tables),
        cmocka_unit_test(test_timm),
        cmocka_unit_test(test_timm_spread),
        cmocka_unit_test(test_torchvision),
        cmocka_unit_test(test_autoaugment),
        cmocka_unit_test(test_draws_depend_on_the_key_alone),
        cmocka_unit_test(test_cutout_draws),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_view),
        cmocka_unit_test(test_description),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
