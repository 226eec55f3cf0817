/* Objectives as data: row contract, programs and text of each method; Energy KD's thresholds
 * against a plain count. */
#include "distill/energy.h"
#include "distill/objective.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "base/rng.h"

static ObjectiveConfig usual(ObjectiveMethod method)
{
    return (ObjectiveConfig){.method = method,
                             .ce_weight = 0.1f,
                             .kd_weight = 0.9f,
                             .temperature = 4,
                             .energy_temperature = 4,
                             .r_low = 0.2,
                             .r_high = 0.2,
                             .t_low_energy = 6,
                             .t_mid = 4,
                             .t_high_energy = 2};
}

static Objective made(const ObjectiveConfig *config)
{
    Objective o;
    Err *err = objective_make(config, &o);
    if (err) {
        fail_msg("%s", err->message);
    }
    return o;
}

static void expect_error(const ObjectiveConfig *config, const char *part)
{
    Objective o;
    Err *err = objective_make(config, &o);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' does not name '%s'", err->message, part);
    }
    err_free(err);
}

static void test_formula(void **state)
{
    (void)state;
    ObjectiveConfig c = usual(METHOD_NONE);
    assert_string_equal(made(&c).formula, "loss = CE");
    c.label_smoothing = 0.1f;
    assert_string_equal(made(&c).formula, "loss = CE(smoothing 0.1)");
    c = usual(METHOD_KD);
    assert_string_equal(made(&c).formula, "loss = 0.1*CE + 0.9*T^2*KL(teacher||student), T=4");
    c.label_smoothing = 0.05f;
    assert_string_equal(made(&c).formula,
                        "loss = 0.1*CE(smoothing 0.05) + 0.9*T^2*KL(teacher||student), T=4");
    c = usual(METHOD_KD);
    c.ce_weight = 0;
    c.kd_weight = 1;
    c.temperature = 1;
    assert_string_equal(made(&c).formula, "loss = T^2*KL(teacher||student), T=1");
    c.ce_weight = 0.5f;
    c.kd_weight = 0;
    assert_string_equal(made(&c).formula, "loss = 0.5*CE");
    c = usual(METHOD_ENERGY_KD);
    c.r_high = 0.3;
    assert_string_equal(made(&c).formula, "loss = 0.1*CE + 0.9*T^2*KL(teacher||student), T=6 for "
                                          "the 0.2 of lowest energy, 2 for the 0.3 "
                                          "of highest, else 4; T_E=4");
}

static void test_specs(void **state)
{
    (void)state;
    ObjectiveConfig c = usual(METHOD_NONE);
    c.label_smoothing = 0.1f;
    Objective o = made(&c);
    assert_int_equal(o.spec.n_terms, 0);
    assert_true(o.spec.ce_weight.value == 1 && o.spec.smoothing == 0.1f);
    assert_int_equal(o.program.phases[0].nets, PHASE_STUDENT);
    assert_int_equal(o.n_preparations, 0);

    c = usual(METHOD_KD);
    o = made(&c);
    assert_int_equal(o.spec.n_terms, 1);
    assert_true(o.spec.ce_weight.value == 0.1f && o.spec.terms[0].weight.value == 0.9f);
    assert_int_equal(o.spec.terms[0].form, FORM_KL);
    assert_int_equal(o.spec.terms[0].factor, FACTOR_TSTT);
    assert_true(o.spec.terms[0].ts.value == 4 && o.spec.terms[0].tt.value == 4);
    assert_int_equal(o.program.n_phases, 1);
    assert_int_equal(o.program.phases[0].nets, PHASE_STUDENT | PHASE_TEACHER);
    assert_int_equal(o.program.phases[0].source, BATCH_STREAM);
    assert_int_equal(o.program.phases[0].gradient, GRADIENT_WRITE);
    assert_int_equal(o.program.phases[0].bn, PHASE_BN_UPDATE);
    assert_int_equal(o.program.phases[0].every, 1);
    assert_false(o.needs_thresholds);
}

/* Both pairings: low energy is band 0, whichever temperature it gets. */
static void test_energy_spec(void **state)
{
    (void)state;
    for (int pairing = 0; pairing < 2; pairing++) {
        ObjectiveConfig c = usual(METHOD_ENERGY_KD);
        c.t_low_energy = pairing == 0 ? 6 : 2;
        c.t_high_energy = pairing == 0 ? 2 : 6;
        c.energy_temperature = 3;
        const Objective o = made(&c);
        const RowValue *t = &o.spec.terms[0].ts;
        assert_int_equal(t->source, SOURCE_BAND);
        assert_true(t->band[0] == c.t_low_energy && t->band[1] == 4 &&
                    t->band[2] == c.t_high_energy);
        assert_memory_equal(t->band, o.spec.terms[0].tt.band, sizeof t->band);
        assert_true(o.spec.energy_temperature == 3);
        assert_true(o.needs_thresholds);
        assert_int_equal(o.n_preparations, 1);
        const Preparation *scan = &o.preparations[0];
        assert_int_equal(scan->phase.nets, PHASE_TEACHER);
        assert_int_equal(scan->phase.source, BATCH_PASS);
        assert_int_equal(scan->phase.gradient, GRADIENT_NONE);
        assert_int_equal(scan->column, ROW_ENERGY);
        assert_int_equal(scan->result, PREPARE_THRESHOLDS);
    }
}

static void test_refused_values(void **state)
{
    (void)state;
    ObjectiveConfig c = usual(METHOD_KD);
    c.temperature = 0;
    expect_error(&c, "temperature = 0 must be positive");
    c.temperature = NAN;
    expect_error(&c, "temperature");
    c = usual(METHOD_KD);
    c.kd_weight = -1;
    expect_error(&c, "kd_weight = -1");
    c = usual(METHOD_KD);
    c.ce_weight = INFINITY;
    expect_error(&c, "ce_weight");
    c.ce_weight = c.kd_weight = 0;
    expect_error(&c, "both 0");
    c = usual(METHOD_NONE);
    c.label_smoothing = 1;
    expect_error(&c, "label_smoothing = 1");
    c = usual(METHOD_ENERGY_KD);
    c.t_high_energy = -2;
    expect_error(&c, "t_high_energy");
    c = usual(METHOD_ENERGY_KD);
    c.r_low = 0.5;
    c.r_high = 0.5;
    expect_error(&c, "leave no middle");
    /* Values that the method does not read are not judged. */
    c = usual(METHOD_KD);
    c.t_mid = -1;
    c.r_low = 7;
    assert_true(made(&c).spec.n_terms == 1);
}

/* The definition by counting: theta is an element with at most `below` smaller and more than
 * `below` not larger. */
static void check_order_statistic(const float *x, size_t n, float theta, size_t below)
{
    size_t smaller = 0;
    size_t not_larger = 0;
    for (size_t i = 0; i < n; i++) {
        smaller += x[i] < theta;
        not_larger += x[i] <= theta;
    }
    assert_true(smaller <= below);
    assert_true(not_larger > below);
}

static void test_thresholds(void **state)
{
    (void)state;
    static const double rates[] = {0, 0.1, 0.2, 0.3, 0.45};
    static const size_t sizes[] = {1, 2, 3, 5, 10, 64, 1000, 4999};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s];
        for (int ties = 0; ties < 2; ties++) {
            Rng rng = rng_make(3, (uint32_t)ties, n, RNG_TEST);
            float *x = xmalloc(n * sizeof *x);
            float *work = xmalloc(n * sizeof *work);
            for (size_t i = 0; i < n; i++) {
                const float v = (float)(-12 + 3 * rng_normal(&rng));
                x[i] = ties ? floorf(v) : v;
            }
            for (int a = 0; a < 5; a++) {
                for (int b = 0; b < 5; b++) {
                    memcpy(work, x, n * sizeof *x);
                    float theta[2];
                    Err *err = energy_thresholds(work, n, rates[a], rates[b], theta);
                    assert_null(err);
                    check_order_statistic(x, n, theta[0], (size_t)floor((double)n * rates[a]));
                    check_order_statistic(x, n, theta[1],
                                          n - ((size_t)floor((double)n * rates[b]) + 1));
                    assert_true(theta[0] <= theta[1]);
                }
            }
            free(x);
            free(work);
        }
    }
}

/* 49,984 = 781 batches of 64 of CIFAR-100: the indices of the authors' code. */
static void test_threshold_indices(void **state)
{
    (void)state;
    enum { N = 49984 };
    float *x = xmalloc(N * sizeof *x);
    for (int i = 0; i < N; i++) {
        x[i] = (float)((i * 7919) % N); /* every value once: 7919 and N have no common factor */
    }
    float theta[2];
    assert_null(energy_thresholds(x, N, 0.2, 0.3, theta));
    assert_true(theta[0] == 9996);
    assert_true(theta[1] == N - 14996);
    free(x);
}

static void expect_threshold_error(float *x, size_t n, double r_low, double r_high, ExitCode code)
{
    float theta[2];
    Err *err = energy_thresholds(x, n, r_low, r_high, theta);
    assert_non_null(err);
    assert_int_equal(err->code, code);
    err_free(err);
}

static void test_threshold_errors(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 4};
    expect_threshold_error(x, 0, 0.2, 0.2, EXIT_BAD_DATA);
    expect_threshold_error(x, 4, -0.1, 0.2, EXIT_CONFIG_ERR);
    expect_threshold_error(x, 4, 0.2, 1, EXIT_CONFIG_ERR);
    expect_threshold_error(x, 4, NAN, 0.2, EXIT_CONFIG_ERR);
    expect_threshold_error(x, 4, 0.5, 0.5, EXIT_CONFIG_ERR);
    x[2] = NAN;
    expect_threshold_error(x, 4, 0.2, 0.2, EXIT_TEACHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),          cmocka_unit_test(test_specs),
        cmocka_unit_test(test_energy_spec),      cmocka_unit_test(test_refused_values),
        cmocka_unit_test(test_thresholds),       cmocka_unit_test(test_threshold_indices),
        cmocka_unit_test(test_threshold_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
