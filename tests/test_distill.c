/* The row contract of the distillation op: the vectorised fp32 form against the definition in
 * double, and both on ties, extreme logits and NaN. The definition itself: test_distill_methods,
 * test_distill_torch. */
#include "backend/cpu_distill_vec.h"
#include "backend/distill_rows.h"
#include "base/err.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include "distill_check.h"
// clang-format on

enum { CPU_THREADS = 2 };

static const char *const isas[] = {"avx512_core", "avx2", "portable"};
enum { ISA_COUNT = 3 };

/* ---- cpu against ref ---- */

/* Of the fp32 form. An exponential is off by (1.5 + 1.5 |argument|) eps, four times the first part where it is a power of
 * another; a sum of C of them by at most sqrt(C / lanes) eps more (random walk within blocks; lanes >= 4). Probabilities
 * carry this relative error, logarithms this absolute one besides that of their argument. */
static Bound cpu_bound(const Problem *p)
{
    Bound b = bound_of(p);
    b.delta = 0x1p-24 * (6 + 2 * b.reach + sqrt(fmin(p->c, 1024) / 4));
    b.lse_error = b.ce_error = b.delta * (1 + b.reach);
    return b;
}

/* Largest share of the bound that the cpu form uses on this problem. */
static double compare(Problem *p, DType dz_type, const char *isa, const char *what)
{
    const Bound b = cpu_bound(p);
    Result ref = result_new(p, DT_F64, DT_F64);
    Result cpu = result_new(p, dz_type, DT_F32);
    run_ref(p, &ref);
    run_cpu(p, &cpu, isa, CPU_THREADS);
    char place[96];
    snprintf(place, sizeof place, "%s, isa %s", what, isa);
    const double worst = results_within(p, &b, &ref, &cpu, place);
    result_free(&ref);
    result_free(&cpu);
    return worst;
}

static void test_cpu_equals_ref(void **state)
{
    (void)state;
    static const int sizes[] = {2, 3, 10, 100, 101, 1000, 1003, 21843};
    double worst[ISA_COUNT] = {0};
    int cases = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const bool large = sizes[s] > 10000;
        for (int i = 0; i < spec_count() + (large ? 0 : 24); i++) {
            Problem p = problem_new(sizes[s], large ? 2 : 9, DT_F32, i, 3.0);
            for (int isa = 0; isa < ISA_COUNT; isa++) {
                worst[isa] = fmax(worst[isa], compare(&p, DT_F32, isas[isa], p.name));
                cases++;
            }
            problem_free(&p);
        }
    }
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        print_message("cpu against ref, f32, %s: largest used share of the bound %.3f\n", isas[isa],
                      worst[isa]);
    }
    print_message("%d cases\n", cases);
}

static void test_cpu_storage_types(void **state)
{
    (void)state;
    static const DType types[] = {DT_BF16, DT_F16, DT_F64, DT_F32};
    static const int sizes[] = {3, 100, 1003};
    for (int a = 0; a < 4; a++) {
        for (int b = 0; b < 4; b++) {
            double worst = 0;
            for (int s = 0; s < 3; s++) {
                for (int i = 0; i < spec_count(); i += 2) {
                    Problem p = problem_new(sizes[s], 5, types[a], i, 2.0);
                    worst = fmax(worst, compare(&p, types[b], isas[0], p.name));
                    problem_free(&p);
                }
            }
            print_message("logits %d, gradient %d: largest used share %.3f\n", (int)types[a],
                          (int)types[b], worst);
        }
    }
}

static void test_large_class_count(void **state)
{
    (void)state;
    Problem p = problem_new(262144, 1, DT_F32, 2, 3.0);
    print_message("C 262144: used share %.3f\n", compare(&p, DT_F32, isas[0], p.name));
    problem_free(&p);
}

static void test_exp_accuracy(void **state)
{
    (void)state;
    enum { N = 4096 };
    float *x = xaligned(N * sizeof *x);
    float *e = xaligned(N * sizeof *e);
    float *ones = xaligned(N * sizeof *ones);
    for (int k = 0; k < N; k++) {
        ones[k] = 1;
    }
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        const DistillVec *vec = distill_vec(isas[isa]);
        double worst = 0;
        for (int block = 0; block < 200; block++) {
            for (int k = 0; k < N; k++) {
                x[k] = -87.32f * (float)(block * N + k) / (200.0f * N);
            }
            vec->exp(e, x, ones, N, 0, 1);
            for (int k = 0; k < N; k++) {
                const double want = exp((double)x[k]);
                worst = fmax(worst, fabs((double)e[k] - want) / want);
            }
        }
        print_message("exp, table %s: largest relative error %.3f * 2^-24\n", vec->name,
                      worst * 0x1p24);
        assert_true(worst < 1.5 * 0x1p-24);
        x[0] = -88;
        x[1] = -1e30f;
        x[2] = -INFINITY;
        x[3] = NAN;
        x[4] = 0;
        vec->exp(e, x, ones, 16, 0, 1);
        assert_true(e[0] == 0 && e[1] == 0 && e[2] == 0 && isnan(e[3]) && e[4] == 1);
    }
    free(x);
    free(e);
    free(ones);
}

static void test_threads_and_repeat(void **state)
{
    (void)state;
    for (int i = 0; i < spec_count(); i += 5) {
        Problem p = problem_new(1000, 40, DT_F32, i, 3.0);
        Result first = result_new(&p, DT_F32, DT_F32);
        run_cpu(&p, &first, NULL, 1);
        for (int threads = 2; threads <= 5; threads++) {
            Result again = result_new(&p, DT_F32, DT_F32);
            run_cpu(&p, &again, NULL, threads);
            assert_memory_equal(first.rows, again.rows, (size_t)p.n * ROW_FIELDS * sizeof(float));
            assert_memory_equal(first.sums, again.sums, SUM_FIELDS * sizeof(float));
            assert_memory_equal(first.dz, again.dz, (size_t)p.n * (size_t)p.c * sizeof(float));
            result_free(&again);
        }
        result_free(&first);
        problem_free(&p);
    }
}

/* Predictions are the lowest index of ties, ranks count equal logits before the label. */
static void test_ties(void **state)
{
    (void)state;
    Problem p = problem_new(37, 12, DT_F32, SPEC_KD, 2.0);
    p.rows_valid = p.n;
    for (int row = 0; row < p.n; row++) {
        float *z = (float *)p.z + row * p.c;
        float *t = (float *)p.t + row * p.c;
        p.labels[row] = 3 * row;
        for (int k = 0; k < p.c; k++) {
            z[k] = 1.5f;
            t[k] = k == 9 || k == 21 || k == 30 ? 2 : k % 2 ? -1 : 0;
        }
    }
    for (int form = 0; form <= ISA_COUNT; form++) {
        Result r = result_new(&p, DT_F32, DT_F32);
        form == 0 ? run_ref(&p, &r) : run_cpu(&p, &r, isas[form - 1], 1);
        for (int row = 0; row < p.n; row++) {
            const int y = 3 * row;
            const float *out = (float *)r.rows + row * ROW_FIELDS;
            assert_true(out[ROW_SARG] == 0 && out[ROW_SRANK] == (float)y);
            assert_true(out[ROW_TARG] == 9);
            int rank = 0;
            for (int k = 0; k < p.c; k++) {
                const float *t = (float *)p.t + row * p.c;
                rank += t[k] > t[y] || (k < y && t[k] == t[y]);
            }
            assert_true(out[ROW_TRANK] == (float)rank);
        }
        result_free(&r);
    }
    problem_free(&p);
}

/* ---- extreme rows ---- */

static bool all_finite(const Problem *p, const Result *r)
{
    for (int i = 0; i < p->n * ROW_FIELDS; i++) {
        if (!isfinite(((float *)r->rows)[i])) {
            print_message("row %d field %d\n", i / ROW_FIELDS, i % ROW_FIELDS);
            return false;
        }
    }
    for (int i = 0; i < p->n * p->c; i++) {
        if (!p->spec.statistics_only && !isfinite(((float *)r->dz)[i])) {
            print_message("gradient of row %d class %d\n", i / p->c, i % p->c);
            return false;
        }
    }
    return true;
}

static void test_extreme_logits_stay_finite(void **state)
{
    (void)state;
    for (int i = 0; i < spec_count(); i++) {
        Problem p = problem_new(19, 8, DT_F32, i, 2.0);
        p.rows_valid = p.n;
        float *z = p.z;
        float *t = p.t;
        for (int k = 0; k < p.c; k++) {
            z[k] = k == p.labels[0] ? 1e4f : -1e4f;
            t[k] = k == p.labels[0] ? -1e4f : 1e4f;
            z[p.c + k] = t[p.c + k] = 3;
            z[2 * p.c + k] = k % 2 ? 1e4f : -1e4f;
            t[2 * p.c + k] = 0;
            t[3 * p.c + k] = k == p.labels[3] ? 1e4f : -1e4f;
            z[4 * p.c + k] = k == p.labels[4] ? -1e4f : 0;
        }
        for (int form = 0; form <= ISA_COUNT; form++) {
            Result r = result_new(&p, DT_F32, DT_F32);
            form == 0 ? run_ref(&p, &r) : run_cpu(&p, &r, isas[form - 1], 1);
            if (!all_finite(&p, &r)) {
                fail_msg("%s (form %d): not finite", p.name, form);
            }
            result_free(&r);
        }
        problem_free(&p);
    }
}

/* ---- Rows that are not finite: the definition, and every instruction set ---- */

static Result run_form(const Problem *p, int form)
{
    Result r = result_new(p, DT_F32, DT_F32);
    form == 0 ? run_ref(p, &r) : run_cpu(p, &r, isas[form - 1], 1);
    return r;
}

static const char *form_name(int form)
{
    return form == 0 ? "ref" : isas[form - 1];
}

static const Forms forms = {.count = 1 + ISA_COUNT, .run = run_form, .name = form_name};

static void test_nan_stays_in_its_row(void **state)
{
    (void)state;
    for (int i = 0; i < spec_count(); i++) {
        nan_stays_in_its_row(i, &forms);
    }
}

static void test_bad_rows_are_not_right(void **state)
{
    (void)state;
    bad_rows_are_not_right(&forms, EDIT_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_equals_ref),
        cmocka_unit_test(test_cpu_storage_types),
        cmocka_unit_test(test_large_class_count),
        cmocka_unit_test(test_exp_accuracy),
        cmocka_unit_test(test_threads_and_repeat),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_extreme_logits_stay_finite),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_bad_rows_are_not_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
