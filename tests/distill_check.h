/* What every fp32 form of the distillation op is held to: the definition in double within derived bounds, and rows that are
 * not finite. A test gives the errors of its own arithmetic and a way to run a form. Include cmocka.h before. */
#ifndef CUDISTILL_TESTS_DISTILL_CHECK_H
#define CUDISTILL_TESTS_DISTILL_CHECK_H

#include "distill_problem.h"

typedef struct {
    double reach; /* largest |x - x0| / T */
    double gain; /* sum over terms of |a| factor (|form coefficients|) max(1, 1/T_eff) + |b| mass */
    double value;     /* the same without 1/T */
    double delta;     /* relative error of a probability */
    double lse_error; /* error of a log-sum-exp */
    double ce_error;  /* error of a log-probability */
} Bound;

static inline double type_eps(DType type)
{
    return type == DT_BF16 ? 0x1p-8 : type == DT_F16 ? 0x1p-11 : type == DT_F32 ? 0x1p-24 : 0;
}

/* Sizes alone: the errors are left at 0. */
static inline Bound bound_of(const Problem *p)
{
    const DistillSpec *spec = &p->spec;
    Bound b = {.reach = p->range};
    for (int k = 0; k < spec->n_terms; k++) {
        const DistillTerm *term = &spec->terms[k];
        const double t_low = fmin(least_value(p, &term->ts), least_value(p, &term->tt));
        const double t_high = fmax(largest_value(p, &term->ts), largest_value(p, &term->tt));
        const double factor = term->factor == FACTOR_TSTT ? t_high * t_high : 1;
        const double forms = term->form == FORM_KL ? 1
                             : term->form == FORM_DKD
                                 ? fabs((double)term->alpha) + fabs((double)term->beta)
                                 : 1 + fabs((double)term->gamma);
        const double unit = term->zscore ? p->least_sd : 1;
        const double size = largest_value(p, &term->weight) * fmax(factor, 1) * forms;
        /* A z-score multiplies by x / sd once more. */
        const double jacobian = term->zscore ? 1 + p->range / p->least_sd : 1;
        b.reach = fmax(b.reach, p->range / (t_low * unit));
        b.value += size;
        b.gain += size * fmax(1, 1 / (t_low * unit)) * jacobian;
    }
    b.value += largest_value(p, &spec->ce_weight);
    b.gain += largest_value(p, &spec->ce_weight);
    return b;
}

static inline double field_bound(const Problem *p, const Bound *b, int field)
{
    switch (field) {
    case ROW_SARG:
    case ROW_TARG:
    case ROW_SRANK:
    case ROW_TRANK:
        return 0;
    case ROW_CE_S:
    case ROW_CE_T:
    case ROW_CE:
        return b->ce_error;
    case ROW_PMAX:
    case ROW_QMAX:
    case ROW_COS:
        return b->delta;
    case ROW_ENERGY:
        return (double)p->spec.energy_temperature * b->lse_error;
    case ROW_T0:
        return 0x1p-24 * 100;
    case ROW_A0:
        return 0x1p-24 * 100 + b->delta * b->value;
    default:
        if (field >= ROW_DT) {
            return 4 * b->value * b->delta * (1 + b->reach) * (1 + b->reach);
        }
        return b->value * b->delta * (1 + b->reach);
    }
}

static inline bool is_count(size_t field)
{
    return field == SUM_ROWS || (field >= SUM_TOP1 && field <= SUM_AGREE) || field == SUM_NONFINITE;
}

/* Largest share of its bound that `got` (statistics F32) uses against the definition `ref` (all F64); fails the test with
 * the place where it uses more. `what` names problem and form. */
static inline double results_within(const Problem *p, const Bound *b, const Result *ref,
                                    const Result *got, const char *what)
{
    double worst = 0;
    for (size_t i = 0; i < (size_t)p->n * ROW_FIELDS; i++) {
        const double want = ((double *)ref->rows)[i];
        const double have = (double)((float *)got->rows)[i];
        const double bound = field_bound(p, b, (int)(i % ROW_FIELDS)) + 0x1p-24 * fabs(want);
        const double error = fabs(have - want);
        if (!(error <= bound)) {
            fail_msg("%s, C %d: row %zu field %zu: %.9g, definition %.9g, bound %.3g", what, p->c,
                     i / ROW_FIELDS, i % ROW_FIELDS, have, want, bound);
        }
        worst = fmax(worst, bound > 0 ? error / bound : 0);
    }
    const double each =
        (b->value + 1 + (double)p->spec.energy_temperature) * b->delta * (1 + b->reach);
    for (size_t i = 0; i < SUM_FIELDS; i++) {
        const double want = ((double *)ref->sums)[i];
        const double have = (double)((float *)got->sums)[i];
        const double bound = is_count(i) ? 0
                                         : p->n * (each + 0x1p-23 * b->value * (1 + b->reach)) +
                                               0x1p-23 * fabs(want);
        if (!(fabs(have - want) <= bound)) {
            fail_msg("%s, C %d: sum %zu: %.9g, definition %.9g, bound %.3g", what, p->c, i, have,
                     want, bound);
        }
    }
    const double least = got->dz_type == DT_F16 ? 0x1p-25 : 0; /* half a subnormal */
    for (size_t i = 0; i < (size_t)p->n * (size_t)p->c && !p->spec.statistics_only; i++) {
        const double want = ((double *)ref->dz)[i];
        const double have = dtype_load(got->dz_type, got->dz, i);
        const double bound = p->scale * b->gain * b->delta +
                             type_eps(got->dz_type) * (fabs(want) + 1e-30) * 1.01 + least;
        const double error = fabs(have - want);
        if (!(error <= bound)) {
            fail_msg("%s, C %d: dz row %zu class %zu: %.9g, definition %.9g, bound %.3g", what,
                     p->c, i / (size_t)p->c, i % (size_t)p->c, have, want, bound);
        }
        worst = fmax(worst, error / bound);
    }
    return worst;
}

/* ---- Rows that are not finite ---- */

/* A way to run form number `form` of `count`, in fp32. */
typedef struct {
    int count;
    Result (*run)(const Problem *p, int form);
    const char *(*name)(int form);
} Forms;

static inline void same_other_rows(const Problem *p, const Result *r, const Result *clean, int bad)
{
    for (int row = 0; row < p->n; row++) {
        if (row != bad) {
            assert_memory_equal((float *)r->rows + row * ROW_FIELDS,
                                (float *)clean->rows + row * ROW_FIELDS,
                                ROW_FIELDS * sizeof(float));
            assert_memory_equal((float *)r->dz + row * p->c, (float *)clean->dz + row * p->c,
                                (size_t)p->c * sizeof(float));
        }
    }
}

/* A NaN (in a non-target class, the target, all of the row) makes its row's loss NaN, and leaves every other row's bits
 * alone. */
static inline void nan_stays_in_its_row(int spec, const Forms *forms)
{
    enum { CLASSES = 23, ROWS = 5, BAD_ROW = 2 };
    Problem p = problem_new(CLASSES, ROWS, DT_F32, spec, 2.0);
    p.rows_valid = p.n;
    float *const x = (float *)(p.no_student ? p.t : p.z) + BAD_ROW * CLASSES;
    for (int at = 0; at < forms->count * 3; at++) {
        const int form = at / 3;
        const int where = at % 3;
        Result clean = forms->run(&p, form);
        float kept[CLASSES];
        memcpy(kept, x, sizeof kept);
        for (int k = 0; k < CLASSES; k++) {
            const bool hit = where == 2 || k == (p.labels[BAD_ROW] + (where == 0)) % CLASSES;
            x[k] = hit ? NAN : kept[k];
        }
        Result r = forms->run(&p, form);
        memcpy(x, kept, sizeof kept);
        if (((float *)r.sums)[SUM_NONFINITE] != 1) {
            fail_msg("%s, form %s, NaN %d: %g rows not finite", p.name, forms->name(form), where,
                     (double)((float *)r.sums)[SUM_NONFINITE]);
        }
        const int arg = p.no_student ? ROW_TARG : ROW_SARG;
        assert_true(((float *)r.rows)[BAD_ROW * ROW_FIELDS + arg] == -1);
        same_other_rows(&p, &r, &clean, BAD_ROW);
        result_free(&r);
        result_free(&clean);
    }
    problem_free(&p);
}

enum { SMALL_CLASSES = 3, SMALL_ROWS = 4, SMALL_BAD_ROW = 2 };

/* sound: the value is no fault there. value_counts: it must be counted as not finite. */
static inline void bad_row_is_not_right(const Problem *p, const Forms *forms, bool teacher,
                                        bool sound, bool value_counts, const char *what)
{
    const float hit = sound ? SMALL_ROWS : SMALL_ROWS - 1;
    const float student = teacher ? SMALL_ROWS : hit;
    const float teachers = teacher ? hit : SMALL_ROWS;
    for (int form = 0; form < forms->count; form++) {
        Result r = forms->run(p, form);
        const float *sums = r.sums;
        if (sums[SUM_TOP1] != student || sums[SUM_TOP5] != student || sums[SUM_TTOP1] != teachers ||
            sums[SUM_TTOP5] != teachers || sums[SUM_AGREE] != hit ||
            (value_counts && sums[SUM_NONFINITE] != 1)) {
            fail_msg("%s of the %s, form %s: top1 %g, top5 %g, teacher %g, %g, agree %g, not "
                     "finite %g",
                     what, teacher ? "teacher" : "student", forms->name(form),
                     (double)sums[SUM_TOP1], (double)sums[SUM_TOP5], (double)sums[SUM_TTOP1],
                     (double)sums[SUM_TTOP5], (double)sums[SUM_AGREE], (double)sums[SUM_NONFINITE]);
        }
        result_free(&r);
    }
}

/* Of three classes every rank is below five: a row that is not finite must not count all the same, for either network,
 * and the rows beside it must. -inf on another class is no fault. */
static inline void bad_rows_are_not_right(const Forms *forms, RowEdit edit)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const names[] = {"NaN", "inf", "-inf"};
    static const char *const places[] = {"at the label", "at one other class", "at all"};
    Problem p = problem_new(SMALL_CLASSES, SMALL_ROWS, DT_F32, SPEC_KD, 2.0);
    p.rows_valid = SMALL_ROWS;
    p.spec.terms[0].edit = edit;
    for (int i = 0; i < SMALL_ROWS * SMALL_CLASSES; i++) {
        const int k = i % SMALL_CLASSES;
        p.labels[i / SMALL_CLASSES] = i / SMALL_CLASSES % SMALL_CLASSES;
        const float x = k == p.labels[i / SMALL_CLASSES] ? 2.0f : 0.5f * (float)k;
        ((float *)p.z)[i] = x;
        ((float *)p.t)[i] = x;
    }
    for (int i = 0; i < 2 * 3 * 3; i++) {
        const int value = i % 3;
        const int where = i / 3 % 3;
        const bool teacher = i / 9 == 1;
        float *x = (float *)(teacher ? p.t : p.z) + SMALL_BAD_ROW * SMALL_CLASSES;
        float kept[SMALL_CLASSES];
        memcpy(kept, x, sizeof kept);
        for (int k = 0; k < SMALL_CLASSES; k++) {
            const bool hit_here = k == (p.labels[SMALL_BAD_ROW] + where) % SMALL_CLASSES;
            x[k] = where == 2 || hit_here ? bad[value] : x[k];
        }
        char what[48];
        snprintf(what, sizeof what, "%s %s", names[value], places[where]);
        bad_row_is_not_right(&p, forms, teacher, value == 2 && where == 1, value < 2, what);
        memcpy(x, kept, sizeof kept);
    }
    problem_free(&p);
}

#endif
