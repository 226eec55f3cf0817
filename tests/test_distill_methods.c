/* The definition of the distillation op against central differences in double and against
 * identities that hold between the methods. */
#include "backend/distill_rows.h"
#include "base/err.h"
#include "distill_problem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// clang-format off
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
// clang-format on

/* ---- ref against central differences ---- */

static double loss_of(Problem *p)
{
    Result r = result_new(p, DT_F64, DT_F64);
    run_ref(p, &r);
    const double loss = ((double *)r.sums)[SUM_LOSS];
    result_free(&r);
    return loss;
}

/* Detached weights become constants: what the row had, through its own row-parameter columns. */
static void freeze_weights(Problem *p)
{
    Result r = result_new(p, DT_F64, DT_F64);
    run_ref(p, &r);
    for (int k = 0; k < p->spec.n_terms; k++) {
        RowValue *weight = &p->spec.terms[k].weight;
        if (weight->source != SOURCE_WSL) {
            continue;
        }
        for (int row = 0; row < p->n; row++) {
            const double *out = (double *)r.rows + (size_t)row * ROW_FIELDS;
            const double a = (double)weight->value * (1 - exp(-out[ROW_CE_S] / out[ROW_CE_T]));
            p->row_params[(size_t)row * PROBLEM_COLUMNS + (size_t)(PROBLEM_FREE_COLUMN + k)] =
                (float)a;
        }
        *weight = (RowValue){.source = SOURCE_ROW, .column = PROBLEM_FREE_COLUMN + k};
    }
    result_free(&r);
}

static void test_gradient_by_differences(void **state)
{
    (void)state;
    double worst = 0;
    for (int i = 0; i < spec_count() + 20; i++) {
        Problem p = problem_new(7, 4, DT_F64, i, 2.0);
        if (p.spec.statistics_only) {
            problem_free(&p);
            continue;
        }
        p.scale = 1;
        Result r = result_new(&p, DT_F64, DT_F64);
        run_ref(&p, &r);
        freeze_weights(&p);
        for (int k = 0; k < p.n * p.c; k++) {
            double *z = (double *)p.z + k;
            const double keep = *z;
            const double h = 1e-4;
            /* Fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h */
            double f[4];
            static const double steps[4] = {1, -1, 2, -2};
            for (int j = 0; j < 4; j++) {
                *z = keep + steps[j] * h;
                f[j] = loss_of(&p);
            }
            *z = keep;
            const double slope = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h);
            const double got = k / p.c < p.rows_valid ? ((double *)r.dz)[k] : 0;
            /* eps * |loss| / h from the differences, and fp32 weights where they were frozen. */
            const double bound = 1e-8 * (1 + fabs(f[0])) + 1e-6 * fabs(slope) * p.has_wsl;
            if (!(fabs(got - slope) <= bound)) {
                fail_msg("%s: row %d class %d: gradient %.12g, differences %.12g", p.name, k / p.c,
                         k % p.c, got, slope);
            }
            worst = fmax(worst, fabs(got - slope) / bound);
        }
        result_free(&r);
        problem_free(&p);
    }
    print_message("dz by central differences: largest used share %.3f\n", worst);
}

static void test_temperature_gradient(void **state)
{
    (void)state;
    double worst = 0;
    for (int variant = 0; variant < 6; variant++) {
        Problem p = problem_new(9, 3, DT_F64, SPEC_KD, 2.0);
        DistillTerm *term = &p.spec.terms[0];
        term->ts.value = variant == 1 ? 2 : 3;
        term->tt.value = variant == 1 ? 5 : 3;
        term->factor = variant == 2 ? FACTOR_NONE : FACTOR_TSTT;
        term->zscore = variant == 3;
        term->edit = variant == 4 ? EDIT_SWAP : variant == 5 ? EDIT_SMOOTH : EDIT_NONE;
        term->edit_delta = 0.125f;
        Result r = result_new(&p, DT_F64, DT_F64);
        run_ref(&p, &r);
        const float ts = term->ts.value;
        const float tt = term->tt.value;
        const float h = 0x1p-8f;
        double f[4][8];
        static const float steps[4] = {1, -1, 2, -2};
        for (int j = 0; j < 4; j++) {
            term->ts.value = ts + steps[j] * h;
            term->tt.value = tt + steps[j] * h;
            Result moved = result_new(&p, DT_F64, DT_F64);
            run_ref(&p, &moved);
            for (int row = 0; row < p.rows_valid; row++) {
                f[j][row] = ((double *)moved.rows)[row * ROW_FIELDS + ROW_TERM];
            }
            result_free(&moved);
        }
        for (int row = 0; row < p.rows_valid; row++) {
            const double slope =
                (8 * (f[0][row] - f[1][row]) - (f[2][row] - f[3][row])) / (12 * (double)h);
            const double got = ((double *)r.rows)[row * ROW_FIELDS + ROW_DT];
            const double bound = 1e-9 * (1 + fabs(f[0][row])); /* h^4 times a fifth derivative */
            worst = fmax(worst, fabs(got - slope) / bound);
            assert_true(fabs(got - slope) <= bound);
        }
        result_free(&r);
        problem_free(&p);
    }
    print_message("temperature gradient by differences: largest used share %.3f\n", worst);
}

/* ---- identities ---- */

static double term_value(const Problem *p, int row)
{
    Result r = result_new(p, DT_F64, DT_F64);
    run_ref(p, &r);
    const double value = ((double *)r.rows)[row * ROW_FIELDS + ROW_TERM];
    result_free(&r);
    return value;
}

/* softmax of a row in plain long double. */
static void plain_softmax(const double *x, int c, double temperature, double *p)
{
    long double sum = 0;
    for (int k = 0; k < c; k++) {
        sum += expl((long double)(x[k] / temperature));
    }
    for (int k = 0; k < c; k++) {
        p[k] = (double)(expl((long double)(x[k] / temperature)) / sum);
    }
}

static void test_decoupled_identity(void **state)
{
    (void)state;
    Problem p = problem_new(20, 6, DT_F64, SPEC_KD, 2.0);
    p.rows_valid = 6;
    p.spec.ce_weight.value = 0;
    DistillTerm *term = &p.spec.terms[0];
    Result kd = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &kd);
    for (int row = 0; row < p.n; row++) {
        double q[20];
        plain_softmax((double *)p.t + row * 20, 20, (double)term->tt.value, q);
        const double non = 1 - q[p.labels[row]];
        term->form = FORM_KL;
        const double kl = term_value(&p, row);
        term->form = FORM_DKD;
        term->alpha = 1;
        term->beta = 0;
        const double tckd = term_value(&p, row);
        term->alpha = 0;
        term->beta = 1;
        const double nckd = term_value(&p, row);
        assert_true(fabs(kl - tckd - non * nckd) < 1e-12 * (1 + kl));
        /* alpha = 1, beta = 1 - q_y on this row: KD, up to beta's rounding to float. */
        term->alpha = 1;
        term->beta = (float)non;
        Result dkd = result_new(&p, DT_F64, DT_F64);
        run_ref(&p, &dkd);
        for (int k = 0; k < p.c; k++) {
            const double a = ((double *)kd.dz)[row * p.c + k];
            const double b = ((double *)dkd.dz)[row * p.c + k];
            assert_true(fabs(a - b) < 1e-7 * p.scale * 4);
        }
        result_free(&dkd);
    }
    result_free(&kd);
    problem_free(&p);
}

static void test_row_temperatures_equal_constant(void **state)
{
    (void)state;
    Problem a = problem_new(101, 9, DT_F32, SPEC_KD, 3.0);
    Problem b = problem_new(101, 9, DT_F32, SPEC_KD, 3.0);
    for (int row = 0; row < b.n; row++) {
        b.row_params[row * PROBLEM_COLUMNS] = a.spec.terms[0].ts.value;
    }
    b.spec.terms[0].ts = (RowValue){.source = SOURCE_ROW, .column = 0};
    b.spec.terms[0].tt = (RowValue){.source = SOURCE_ROW, .column = 0};
    for (int form = 0; form < 2; form++) {
        Result x = result_new(&a, DT_F32, DT_F32);
        Result y = result_new(&b, DT_F32, DT_F32);
        form == 0 ? run_ref(&a, &x) : run_cpu(&a, &x, NULL, 1);
        form == 0 ? run_ref(&b, &y) : run_cpu(&b, &y, NULL, 2);
        assert_memory_equal(x.dz, y.dz, (size_t)a.n * (size_t)a.c * sizeof(float));
        assert_memory_equal(x.rows, y.rows, (size_t)a.n * ROW_FIELDS * sizeof(float));
        result_free(&x);
        result_free(&y);
    }
    problem_free(&a);
    problem_free(&b);
}

static void test_zscore_invariance(void **state)
{
    (void)state;
    Problem p = problem_new(30, 4, DT_F64, SPEC_KD, 2.0);
    p.rows_valid = 4;
    p.spec.terms[0].zscore = true;
    p.spec.ce_weight.value = 0;
    Result a = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &a);
    for (int k = 0; k < p.n * p.c; k++) {
        ((double *)p.z)[k] = 2 * ((double *)p.z)[k] + 3;
    }
    Result b = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &b);
    /* Not exact: the 1e-7 added to the standard deviation does not scale. */
    for (int row = 0; row < p.n; row++) {
        const double x = ((double *)a.rows)[row * ROW_FIELDS + ROW_TERM];
        const double y = ((double *)b.rows)[row * ROW_FIELDS + ROW_TERM];
        assert_true(fabs(x - y) < 1e-6 * (1 + fabs(x)));
        assert_true(x > 1e-3);
    }
    for (int k = 0; k < p.n * p.c; k++) {
        assert_true(fabs(((double *)a.dz)[k] - 2 * ((double *)b.dz)[k]) < 1e-6 * p.scale);
    }
    result_free(&a);
    result_free(&b);
    problem_free(&p);
}

/* Knowledge adjustment: nothing where the teacher is right; elsewhere KD from the adjusted
 * teacher. */
static void test_row_edits(void **state)
{
    (void)state;
    Problem p = problem_new(12, 16, DT_F64, SPEC_KD, 2.0);
    p.rows_valid = p.n;
    Result plain = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &plain);
    p.spec.terms[0].edit = EDIT_SWAP;
    Result swap = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &swap);
    p.spec.terms[0].edit = EDIT_SMOOTH;
    p.spec.terms[0].edit_delta = 0.125f;
    Result smooth = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &smooth);
    p.spec.terms[0].edit = EDIT_NONE;
    const size_t row_bytes = (size_t)p.c * sizeof(double);
    const double temperature = (double)p.spec.terms[0].ts.value;
    int wrong = 0;
    for (int row = 0; row < p.n; row++) {
        double *t = (double *)p.t + row * p.c;
        const int y = p.labels[row];
        const int top = (int)((double *)plain.rows)[row * ROW_FIELDS + ROW_TARG];
        if (top == y) {
            assert_memory_equal((double *)plain.dz + row * p.c, (double *)swap.dz + row * p.c,
                                row_bytes);
            assert_memory_equal((double *)plain.dz + row * p.c, (double *)smooth.dz + row * p.c,
                                row_bytes);
            continue;
        }
        wrong++;
        const double keep = t[top];
        t[top] = t[y];
        t[y] = keep;
        assert_true(fabs(term_value(&p, row) - ((double *)swap.rows)[row * ROW_FIELDS + ROW_TERM]) <
                    1e-12);
        t[y] = t[top];
        t[top] = keep;
        double prob[12];
        plain_softmax((double *)p.z + row * p.c, p.c, temperature, prob);
        double kl = 0;
        for (int k = 0; k < p.c; k++) {
            const double q = k == y ? 0.875 : 0.125 / (p.c - 1);
            kl += q * log(q / prob[k]);
        }
        kl *= temperature * temperature;
        assert_true(fabs(kl - ((double *)smooth.rows)[row * ROW_FIELDS + ROW_TERM]) <
                    1e-11 * (1 + kl));
    }
    assert_true(wrong > 2 && wrong < p.n);
    result_free(&plain);
    result_free(&swap);
    result_free(&smooth);
    problem_free(&p);
}

static void test_wsl_weight(void **state)
{
    (void)state;
    Problem p = problem_new(10, 5, DT_F64, SPEC_KD, 2.0);
    p.rows_valid = p.n;
    p.spec.terms[0].weight = (RowValue){.source = SOURCE_WSL, .value = 2.25f};
    ((double *)p.t)[p.labels[0]] += 800; /* a teacher certain of row 0: its CE underflows to 0 */
    Result r = result_new(&p, DT_F64, DT_F64);
    run_ref(&p, &r);
    Result cpu = result_new(&p, DT_F32, DT_F32);
    run_cpu(&p, &cpu, NULL, 1);
    assert_true(((double *)r.rows)[ROW_A0] == 2.25);
    assert_true(((float *)cpu.rows)[ROW_A0] == 2.25f);
    /* Both certain of the row: 0 / 0 is the same limit. */
    const double kept = ((double *)p.z)[p.labels[0]];
    ((double *)p.z)[p.labels[0]] += 800;
    Result both = result_new(&p, DT_F64, DT_F32);
    run_ref(&p, &both);
    assert_true(((float *)both.rows)[ROW_A0] == 2.25f);
    run_cpu(&p, &both, NULL, 1);
    assert_true(((float *)both.rows)[ROW_A0] == 2.25f);
    result_free(&both);
    ((double *)p.z)[p.labels[0]] = kept;
    for (int row = 1; row < p.n; row++) {
        double ps[10];
        double pt[10];
        plain_softmax((double *)p.z + row * p.c, p.c, 1, ps);
        plain_softmax((double *)p.t + row * p.c, p.c, 1, pt);
        const double want = 2.25 * (1 - exp(-log(ps[p.labels[row]]) / log(pt[p.labels[row]])));
        assert_true(fabs(((double *)r.rows)[row * ROW_FIELDS + ROW_A0] - want) < 1e-11);
    }
    result_free(&r);
    result_free(&cpu);
    problem_free(&p);
}

/* One target in several kinds must give one loss and gradient. */
static void test_target_kinds_agree(void **state)
{
    (void)state;
    Problem p = problem_new(11, 4, DT_F64, SPEC_MIXED_TARGETS, 2.0);
    p.rows_valid = p.n;
    p.spec.smoothing = 0.1f;
    double *kept = NULL;
    double loss = 0;
    for (int kind = TARGET_CLASS; kind <= TARGET_DENSE; kind++) {
        p.spec.sparse_k = p.c;
        for (int i = 0; i < 2 * p.n; i++) {
            p.target_kind[i] = kind;
            p.target_weight[i] = i % 2 ? 0.25f : 0.75f;
            for (int k = 0; k < p.c; k++) {
                const bool hit = k == p.target_class[i];
                const double u =
                    (hit ? 1 - (double)p.spec.smoothing : 0) + (double)p.spec.smoothing / p.c;
                p.sparse_index[i * p.c + k] = (k + 3) % p.c;
                p.sparse_value[i * p.c + (k + p.c - 3) % p.c] = (float)u;
                p.dense[i * p.c + k] = (float)u;
            }
        }
        Result r = result_new(&p, DT_F64, DT_F64);
        run_ref(&p, &r);
        if (!kept) {
            loss = ((double *)r.sums)[SUM_CE];
            kept = xmalloc((size_t)p.n * (size_t)p.c * sizeof *kept);
            memcpy(kept, r.dz, (size_t)p.n * (size_t)p.c * sizeof *kept);
        }
        assert_true(fabs(((double *)r.sums)[SUM_CE] - loss) <
                    1e-6 * loss); /* probabilities are floats */
        for (int k = 0; k < p.n * p.c; k++) {
            assert_true(fabs(((double *)r.dz)[k] - kept[k]) < 1e-6 * p.scale);
        }
        result_free(&r);
    }
    free(kept);
    problem_free(&p);
}

static void test_dz_add_scale_and_valid_rows(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        Problem p = problem_new(37, 6, DT_F32, SPEC_KD, 2.0);
        p.rows_valid = 4;
        p.scale = 0.5;
        Result once = result_new(&p, DT_F32, DT_F32);
        form == 0 ? run_ref(&p, &once) : run_cpu(&p, &once, NULL, 1);
        p.spec.dz_add = true;
        p.scale = 1.5;
        Result twice = result_new(&p, DT_F32, DT_F32);
        memcpy(twice.dz, once.dz, (size_t)p.n * (size_t)p.c * sizeof(float));
        form == 0 ? run_ref(&p, &twice) : run_cpu(&p, &twice, NULL, 1);
        for (int k = 0; k < p.n * p.c; k++) {
            const float x = ((float *)once.dz)[k];
            assert_true(fabsf(((float *)twice.dz)[k] - 4 * x) <= 0x1p-21f * fabsf(x));
            assert_true((x != 0) == (k / p.c < 4));
        }
        for (int i = 4 * ROW_FIELDS; i < 6 * ROW_FIELDS; i++) {
            assert_true(((float *)once.rows)[i] == 0);
        }
        assert_true(((float *)once.sums)[SUM_ROWS] == 4);
        result_free(&once);
        result_free(&twice);
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient_by_differences),
        cmocka_unit_test(test_temperature_gradient),
        cmocka_unit_test(test_decoupled_identity),
        cmocka_unit_test(test_row_temperatures_equal_constant),
        cmocka_unit_test(test_zscore_invariance),
        cmocka_unit_test(test_row_edits),
        cmocka_unit_test(test_wsl_weight),
        cmocka_unit_test(test_target_kinds_agree),
        cmocka_unit_test(test_dz_add_scale_and_valid_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
