/* The fused distillation kernel where rows are not ordinary: ties, extreme logits, NaN and infinities, indices out of
 * range, and arguments that it must refuse. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on
#include "distill_rig.h"

static const DistillForm forms[] = {DISTILL_WARP, DISTILL_BLOCK, DISTILL_TWO_SWEEP,
                                    DISTILL_CLUSTER};
enum { FORMS = 4 };

static Result run(const Problem *p, DistillForm form)
{
    const Layout layout = plain_layout(p);
    Result r = result_new(p, p->dtype, DT_F32);
    const KernelStatus status = run_kernel(p, &layout, form, &r);
    if (status != 0) {
        fail_msg("%s, form %s: status %d", p->name, form_names[form], status);
    }
    return r;
}

/* Predictions are the lowest index of ties, ranks count equal logits before the label. */
static void test_ties(void **state)
{
    (void)state;
    /* With one term the common case, with 17 the general one. */
    for (int spec = SPEC_KD; spec <= 17; spec += 15) {
        Problem p = problem_new(137, 12, DT_F32, spec, 2.0);
        p.rows_valid = p.n;
        for (int row = 0; row < p.n; row++) {
            p.labels[row] = 11 * row;
            for (int k = 0; k < p.c; k++) {
                ((float *)p.z)[row * p.c + k] = 1.5f;
                ((float *)p.t)[row * p.c + k] =
                    k == 9 || k == 44 || k == 121 ? 2.0f : (k % 2 ? -1.0f : 0.0f);
            }
        }
        Result ref = result_new(&p, DT_F32, DT_F32);
        run_ref(&p, &ref);
        for (int form = 0; form < FORMS; form++) {
            Result r = run(&p, forms[form]);
            for (int row = 0; row < p.n; row++) {
                const float *out = (float *)r.rows + row * ROW_FIELDS;
                const float *want = (float *)ref.rows + row * ROW_FIELDS;
                assert_true(out[ROW_SARG] == 0 && out[ROW_SRANK] == (float)(11 * row));
                assert_true(out[ROW_TARG] == 9 && out[ROW_TRANK] == want[ROW_TRANK]);
            }
            result_free(&r);
        }
        result_free(&ref);
        problem_free(&p);
    }
}

/* Top-k among equal teacher logits takes the lowest indices: only these pull the student up. */
static void test_top_ties(void **state)
{
    (void)state;
    enum { SPEC_TOP5_RENORM = 14, CLASSES = 70 };
    Problem p = problem_new(CLASSES, 3, DT_F32, SPEC_TOP5_RENORM, 2.0);
    p.rows_valid = p.n;
    p.spec.ce_weight = constant_value(0);
    for (int i = 0; i < p.n * CLASSES; i++) {
        ((float *)p.t)[i] = i % 3 == 0 ? 0.0f : -0.0f;
    }
    for (int k = 0; k < CLASSES; k++) {
        ((float *)p.t)[CLASSES + k] = k == 50 ? 1.0f : (k == 20 ? -1.0f : 0.5f);
    }
    for (int form = 0; form < FORMS; form++) {
        Result r = run(&p, forms[form]);
        for (int row = 0; row < 2; row++) {
            for (int k = 0; k < CLASSES; k++) {
                const bool member = row == 0 ? k < 5 : k < 4 || k == 50;
                const float dz = ((float *)r.dz)[row * CLASSES + k];
                assert_true(member ? dz != 0 : dz == 0);
            }
        }
        result_free(&r);
    }
    problem_free(&p);
}

/* Equal networks at equal temperatures: the divergence is 0, not merely small; of the gradient only the rounding of one
 * product may be left (p <= 1 times a T = 3). */
static void test_equal_networks(void **state)
{
    (void)state;
    static const int classes[] = {100, 1000, 4099};
    for (int i = 0; i < 3; i++) {
        Problem p = problem_new(classes[i], 4, DT_F32, SPEC_KD, 3.0);
        p.spec.ce_weight = constant_value(0);
        memcpy(p.t, p.z, (size_t)p.n * (size_t)p.c * sizeof(float));
        for (int form = classes[i] > 1024 ? 1 : 0; form < FORMS; form++) {
            Result r = run(&p, forms[form]);
            for (int row = 0; row < p.rows_valid; row++) {
                assert_true(((float *)r.rows)[row * ROW_FIELDS + ROW_TERM] == 0);
            }
            for (int k = 0; k < p.n * p.c; k++) {
                assert_true(fabs((double)((float *)r.dz)[k]) <= 3 * 0x1p-24 * p.scale);
            }
            result_free(&r);
        }
        problem_free(&p);
    }
}

/* -log p_y of a confident row and its gradient keep their digits: e^-30 beside 1. */
static void test_confident_rows(void **state)
{
    (void)state;
    for (int spec = 0; spec <= SPEC_KD; spec += 2) {
        Problem p = problem_new(40, 3, DT_F32, spec, 1.0);
        p.rows_valid = p.n;
        for (int i = 0; i < p.n * p.c; i++) {
            ((float *)p.z)[i] = ((float *)p.t)[i] = 0;
        }
        for (int row = 0; row < p.n; row++) {
            ((float *)p.z)[row * p.c + p.labels[row]] = 30;
            ((float *)p.t)[row * p.c + p.labels[row]] = 30;
        }
        const double ce = 39 * exp(-30.0);
        for (int form = 0; form < FORMS; form++) {
            Result r = run(&p, forms[form]);
            for (int row = 0; row < p.n; row++) {
                const double got = (double)((float *)r.rows)[row * ROW_FIELDS + ROW_CE_S];
                const double dz = (double)((float *)r.dz)[row * p.c + p.labels[row]];
                assert_true(fabs(got / ce - 1) < 1e-5);
                assert_true(fabs(dz / (-0.25 * ce * p.scale) - 1) < 1e-5);
            }
            result_free(&r);
        }
        problem_free(&p);
    }
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
        for (int form = 0; form < FORMS; form++) {
            Result r = run(&p, forms[form]);
            for (int j = 0; j < p.n * ROW_FIELDS; j++) {
                if (!isfinite(((float *)r.rows)[j])) {
                    fail_msg("%s, form %s: row %d field %d", p.name, form_names[forms[form]],
                             j / ROW_FIELDS, j % ROW_FIELDS);
                }
            }
            for (int j = 0; j < p.n * p.c && !p.spec.statistics_only; j++) {
                if (!isfinite(((float *)r.dz)[j])) {
                    fail_msg("%s, form %s: gradient of row %d class %d", p.name,
                             form_names[forms[form]], j / p.c, j % p.c);
                }
            }
            result_free(&r);
        }
        problem_free(&p);
    }
}

static Result run_form(const Problem *p, int form)
{
    return run(p, forms[form]);
}

static const char *form_name(int form)
{
    return form_names[forms[form]];
}

static const Forms all_forms = {.count = FORMS, .run = run_form, .name = form_name};

static void test_nan_stays_in_its_row(void **state)
{
    (void)state;
    for (int i = 0; i < spec_count(); i++) {
        nan_stays_in_its_row(i, &all_forms);
    }
}

static void test_bad_rows_are_not_right(void **state)
{
    (void)state;
    bad_rows_are_not_right(&all_forms, EDIT_NONE);
    bad_rows_are_not_right(&all_forms, EDIT_SWAP); /* the general kernels */
}

/* A class that the teacher rules out (-inf) has no share in the divergence; one that only the student rules out makes it
 * infinite. */
static void test_absent_classes(void **state)
{
    (void)state;
    enum { CLASSES = 50 };
    for (int edit = 0; edit < 2; edit++) {
        Problem p = problem_new(CLASSES, 2, DT_F32, SPEC_KD, 2.0);
        p.spec.terms[0].edit = edit ? EDIT_SWAP : EDIT_NONE;
        for (int row = 0; row < 2; row++) {
            const int other = (p.labels[row] + 7) % CLASSES;
            if (row == 0) {
                ((float *)p.t)[other] = -INFINITY;
            } else {
                ((float *)p.z)[CLASSES + other] = -INFINITY;
            }
        }
        Result ref = result_new(&p, DT_F32, DT_F32);
        run_ref(&p, &ref);
        for (int form = 0; form < FORMS; form++) {
            Result r = run(&p, forms[form]);
            const float *rows = r.rows;
            assert_true(fabsf(rows[ROW_TERM] - ((float *)ref.rows)[ROW_TERM]) < 1e-4f);
            assert_true(isinf(rows[ROW_FIELDS + ROW_TERM]));
            assert_true(((float *)r.sums)[SUM_NONFINITE] == 1);
            result_free(&r);
        }
        result_free(&ref);
        problem_free(&p);
    }
}

/* An index out of range reads and writes nothing it should not; its row's loss is NaN, the other rows are as ever. */
static void test_indices_out_of_range(void **state)
{
    (void)state;
    static const int specs[] = {0, SPEC_KD, 9, SPEC_MIXED_TARGETS};
    static const int32_t wrong[] = {-1, 37, INT32_MIN, INT32_MAX};
    for (int i = 0; i < 16; i++) {
        Problem p = problem_new(37, 6, DT_F32, specs[i / 4], 2.0);
        p.rows_valid = p.n;
        const DistillForm form = forms[i % FORMS];
        Result clean = run(&p, form);
        p.labels[1] = wrong[i % 4];
        if (p.has_targets) {
            for (int j = 0; j < 2 * p.n * p.spec.sparse_k; j++) {
                p.sparse_index[j] = j / p.spec.sparse_k / 2 == 1 ? wrong[i % 4] : p.sparse_index[j];
            }
            p.target_kind[2] = TARGET_SPARSE;
        }
        Result r = run(&p, form);
        assert_true(isnan(((float *)r.rows)[ROW_FIELDS + ROW_LOSS]));
        assert_true(isnan(((float *)r.dz)[p.c]));
        assert_true(((float *)r.sums)[SUM_NONFINITE] == 1);
        assert_memory_equal(r.rows, clean.rows, ROW_FIELDS * sizeof(float));
        assert_memory_equal((float *)r.dz + 2 * p.c, (float *)clean.dz + 2 * p.c,
                            4 * 37 * sizeof(float));
        result_free(&r);
        result_free(&clean);
        problem_free(&p);
    }
}

static void expect_refused(Problem *p, DistillForm form, const char *what)
{
    const Layout layout = plain_layout(p);
    Result r = result_new(p, DT_F32, DT_F32);
    if (run_kernel(p, &layout, form, &r) != KERNEL_BAD_ARGUMENT) {
        fail_msg("%s was not refused", what);
    }
    result_free(&r);
}

static void test_refusals(void **state)
{
    (void)state;
    Problem p = problem_new(1025, 2, DT_F32, SPEC_KD, 2.0);
    const DistillSpec good = p.spec;
    expect_refused(&p, DISTILL_WARP, "1025 classes for a warp");
    p.spec.terms[0].ts = constant_value(0);
    expect_refused(&p, DISTILL_AUTO, "temperature 0");
    p.spec = good;
    p.spec.terms[0].weight = column_value(PROBLEM_COLUMNS);
    expect_refused(&p, DISTILL_AUTO, "a column that is not there");
    p.spec = good;
    p.spec.terms[0].form = FORM_DKD;
    p.spec.terms[0].topk = 3;
    expect_refused(&p, DISTILL_AUTO, "top-k of DKD");
    p.spec = good;
    p.spec.terms[0].edit = EDIT_SWAP;
    p.no_labels = true;
    expect_refused(&p, DISTILL_AUTO, "an edit without labels");
    p.no_labels = false;
    p.spec = good;
    p.spec.n_terms = DISTILL_MAX_TERMS + 1;
    expect_refused(&p, DISTILL_AUTO, "nine terms");
    p.spec = good;
    problem_free(&p);
    p = problem_new(100000, 1, DT_F32, SPEC_KD, 2.0);
    expect_refused(&p, DISTILL_BLOCK, "a row larger than shared memory");
    problem_free(&p);
}

/* No rows: sums of 0. More rows than one block adds up: exact counts. */
static void test_row_counts(void **state)
{
    (void)state;
    Problem p = problem_new(2, 3000, DT_F32, SPEC_KD, 2.0);
    static const int valid[] = {0, 1, 2999, 3000, 5000};
    for (int i = 0; i < 5; i++) {
        p.rows_valid = valid[i];
        Result r = run(&p, DISTILL_AUTO);
        const int expected = valid[i] < p.n ? valid[i] : p.n;
        assert_true(((float *)r.sums)[SUM_ROWS] == (float)expected);
        double loss = 0;
        for (int row = 0; row < p.n; row++) {
            const double x = (double)((float *)r.rows)[row * ROW_FIELDS + ROW_LOSS];
            assert_true(row < expected ? x != 0 : x == 0);
            loss += x;
        }
        assert_true(fabs((double)((float *)r.sums)[SUM_LOSS] - loss) <= 2e-7 * loss);
        result_free(&r);
    }
    problem_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_top_ties),
        cmocka_unit_test(test_equal_networks),
        cmocka_unit_test(test_confident_rows),
        cmocka_unit_test(test_extreme_logits_stay_finite),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_bad_rows_are_not_right),
        cmocka_unit_test(test_absent_classes),
        cmocka_unit_test(test_indices_out_of_range),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_row_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
