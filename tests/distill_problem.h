/* Problems for the tests of the distillation op: a list of specs that together use every part of
 * the row contract, then random ones, each with logits and all the inputs the spec may ask for. */
#ifndef CUDISTILL_TESTS_DISTILL_PROBLEM_H
#define CUDISTILL_TESTS_DISTILL_PROBLEM_H

#include "backend/distill_rows.h"
#include "base/err.h"
#include "base/rng.h"
#include "distill_values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Row-parameter columns: 0 and 1 temperatures, 2 and 3 weights, from 4 free for a test. */
enum { PROBLEM_COLUMNS = 4 + DISTILL_MAX_TERMS, PROBLEM_FREE_COLUMN = 4 };

/* Places in the list below that tests ask for. */
enum { SPEC_KD = 2, SPEC_MIXED_TARGETS = 25 };

typedef struct {
    char name[48];
    DistillSpec spec;
    int n, c, rows_valid;
    DType dtype;
    double scale;
    bool no_student, no_labels, has_targets, has_wsl;
    void *z, *t;
    int32_t *labels;
    float theta[2];
    float *row_params;
    int32_t *target_kind, *target_class, *sparse_index;
    float *target_weight, *sparse_value, *dense;
    double range;    /* largest less smallest logit of any row */
    double least_sd; /* least standard deviation of any row */
} Problem;

typedef struct {
    void *dz, *rows, *sums;
    DType dz_type, stat_type;
} Result;

static inline RowValue column_value(int column)
{
    return (RowValue){.source = SOURCE_ROW, .column = column};
}

static inline DistillTerm plain_term(TermForm form, float temperature)
{
    return (DistillTerm){.form = form,
                         .factor = FACTOR_TSTT,
                         .weight = constant_value(0.75f),
                         .ts = constant_value(temperature),
                         .tt = constant_value(temperature),
                         .alpha = 1,
                         .beta = 2,
                         .gamma = 1.5f};
}

/* Fills name, spec and flags of list entry i; false past the end of the list. */
static inline bool listed_spec(int i, Problem *p)
{
    static const char *const names[] = {"ce",
                                        "smoothing",
                                        "kd T4",
                                        "kd T1",
                                        "Ts != Tt",
                                        "row T and weights",
                                        "energy bands",
                                        "lskd",
                                        "lskd dkd",
                                        "dkd",
                                        "dkd T1",
                                        "nkd",
                                        "nkd lskd",
                                        "top-5",
                                        "top-5 renormalised",
                                        "top-5 lskd",
                                        "top-5 renormalised lskd",
                                        "swap",
                                        "swap lskd dkd",
                                        "swap nkd",
                                        "smooth",
                                        "smooth dkd",
                                        "smooth nkd",
                                        "smooth top-3",
                                        "wsl",
                                        "mixed targets",
                                        "sparse renormalised",
                                        "five T",
                                        "dtkd",
                                        "statistics",
                                        "teacher statistics",
                                        "no labels",
                                        "smooth delta 0",
                                        "swap top-2 bands",
                                        "dkd bands",
                                        "eight terms"};
    if (i >= (int)(sizeof names / sizeof *names)) {
        return false;
    }
    (void)snprintf(p->name, sizeof p->name, "%s", names[i]);
    DistillSpec *s = &p->spec;
    DistillTerm *t = &s->terms[0];
    const RowValue bands = {.source = SOURCE_BAND, .band = {2, 4, 6}};
    s->energy_temperature = 4;
    s->ce_weight = constant_value(0.25f);
    s->sparse_k = 3;
    s->n_terms = i < 2 ? 0 : 1;
    const bool dkd = strstr(p->name, "dkd") != NULL;
    const bool nkd = strstr(p->name, "nkd") != NULL;
    *t = plain_term(dkd   ? FORM_DKD
                    : nkd ? FORM_NKD
                          : FORM_KL,
                    strstr(p->name, "T1") ? 1
                    : nkd                 ? 2
                                          : 4);
    t->zscore = strstr(p->name, "lskd") != NULL;
    t->topk = strstr(p->name, "top-5")   ? 5
              : strstr(p->name, "top-3") ? 3
              : strstr(p->name, "top-2") ? 2
                                         : 0;
    t->topk_renorm = strstr(p->name, "renormalised") != NULL;
    t->edit = strstr(p->name, "swap")              ? EDIT_SWAP
              : strstr(p->name, "smooth") && i > 1 ? EDIT_SMOOTH
                                                   : EDIT_NONE;
    t->edit_delta = strstr(p->name, "delta 0") ? 0 : 0.1f;
    if (strstr(p->name, "bands")) {
        t->ts = t->tt = bands;
    }
    s->smoothing = i == 1 ? 0.1f : 0;
    switch (i) {
    case 4:
        t->ts = constant_value(3);
        t->tt = constant_value(5);
        t->factor = FACTOR_NONE;
        break;
    case 5:
        t->ts = column_value(0);
        t->tt = column_value(1);
        t->weight = column_value(2);
        s->ce_weight = column_value(3);
        break;
    case 24:
        t->weight = (RowValue){.source = SOURCE_WSL, .value = 2.25f};
        s->ce_weight = constant_value(1);
        p->has_wsl = true;
        break;
    case 25:
        p->has_targets = true;
        s->smoothing = 0.1f;
        break;
    case 26:
        p->has_targets = true;
        s->sparse_renorm = true;
        t->topk_renorm = false;
        break;
    case 27:
        s->n_terms = 5;
        for (int k = 0; k < 5; k++) {
            static const float temperatures[5] = {8, 2, 3, 5, 6};
            s->terms[k] = plain_term(FORM_KL, temperatures[k]);
        }
        break;
    case 28:
        s->n_terms = 2;
        t->form = FORM_KL;
        t->ts = column_value(0);
        t->tt = column_value(1);
        s->terms[1] = plain_term(FORM_KL, 4);
        break;
    case 29:
    case 30:
        s->statistics_only = true;
        s->n_terms = i == 29;
        p->no_student = i == 30;
        break;
    case 31:
        p->no_labels = true;
        p->has_targets = true;
        break;
    case 35:
        s->n_terms = DISTILL_MAX_TERMS;
        for (int k = 0; k < DISTILL_MAX_TERMS; k++) {
            s->terms[k] = plain_term((TermForm)(k % 3), 1 + 0.5f * (float)k);
            s->terms[k].zscore = k >= 4;
            s->terms[k].edit = (RowEdit)(k / 2 % 3);
            s->terms[k].edit_delta = 0.2f;
        }
        break;
    default:
        break;
    }
    return true;
}

static inline int spec_count(void)
{
    int count = 0;
    for (Problem p = {0}; listed_spec(count, &p); p = (Problem){0}) {
        count++;
    }
    return count;
}

static inline void random_spec(int i, Problem *p)
{
    Rng rng = rng_make(17, 0, (uint64_t)i, RNG_TEST);
    (void)snprintf(p->name, sizeof p->name, "random spec %d", i);
    DistillSpec *s = &p->spec;
    s->energy_temperature = (float)(1u << rng_below(&rng, 4));
    s->ce_weight = rng_below(&rng, 2) ? constant_value(0.5f) : column_value(3);
    s->smoothing = rng_below(&rng, 2) ? 0.2f : 0;
    s->sparse_k = 1 + (int)rng_below(&rng, 2);
    s->sparse_renorm = rng_below(&rng, 2) == 0;
    s->n_terms = 1 + (int)rng_below(&rng, 3);
    p->has_targets = rng_below(&rng, 2) == 0;
    for (int k = 0; k < s->n_terms; k++) {
        DistillTerm *t = &s->terms[k];
        *t = plain_term((TermForm)rng_below(&rng, 3), 0.5f * (float)(1 + rng_below(&rng, 10)));
        t->factor = (TermFactor)rng_below(&rng, 2);
        t->zscore = rng_below(&rng, 3) == 0;
        t->edit = (RowEdit)rng_below(&rng, 3);
        t->edit_delta = 0.05f * (float)rng_below(&rng, 10);
        t->weight = rng_below(&rng, 2) ? column_value(2) : t->weight;
        if (rng_below(&rng, 3) == 0) {
            t->tt = rng_below(&rng, 2) ? column_value(1) : constant_value(3);
        }
        if (rng_below(&rng, 3) == 0) {
            t->ts = (RowValue){.source = SOURCE_BAND, .band = {1, 2, 5}};
        }
        if (t->form == FORM_KL && rng_below(&rng, 2)) {
            t->topk = 1 + (int)rng_below(&rng, 6);
            t->topk_renorm = rng_below(&rng, 2) == 0;
        }
    }
}

static inline void fill_targets(Problem *p, Rng *rng)
{
    const int k_pairs = p->c; /* room for any sparse_k */
    p->target_kind = xcalloc((size_t)p->n * 2, sizeof *p->target_kind);
    p->target_weight = xcalloc((size_t)p->n * 2, sizeof *p->target_weight);
    p->target_class = xcalloc((size_t)p->n * 2, sizeof *p->target_class);
    p->sparse_index = xcalloc((size_t)p->n * 2 * (size_t)k_pairs, sizeof *p->sparse_index);
    p->sparse_value = xcalloc((size_t)p->n * 2 * (size_t)k_pairs, sizeof *p->sparse_value);
    p->dense = xcalloc((size_t)p->n * 2 * (size_t)p->c, sizeof *p->dense);
    for (int i = 0; i < 2 * p->n; i++) {
        const int any = (i / 2) % 2 == 0
                            ? i
                            : i + i / 2; /* both components of one kind, and of different ones */
        p->target_kind[i] = 1 + any % 3;
        p->target_kind[i] = i % 8 == 5 ? TARGET_NONE : p->target_kind[i];
        p->target_weight[i] = i % 2 ? 0.375f : 0.625f;
        p->target_class[i] = (int32_t)rng_below(rng, (uint32_t)p->c);
        const int first = (int)rng_below(rng, (uint32_t)p->c);
        for (int j = 0; j < p->spec.sparse_k; j++) {
            p->sparse_index[i * p->spec.sparse_k + j] = (first + j) % p->c;
            p->sparse_value[i * p->spec.sparse_k + j] = 0.9f / (float)p->spec.sparse_k;
        }
        double sum = 0;
        float *dense = p->dense + (size_t)i * (size_t)p->c;
        for (int k = 0; k < p->c; k++) {
            dense[k] = rng_uniform(rng);
            sum += (double)dense[k];
        }
        for (int k = 0; k < p->c; k++) {
            dense[k] = (float)((double)dense[k] / sum);
        }
    }
}

static inline void measure_rows(Problem *p)
{
    p->least_sd = INFINITY;
    for (int i = 0; i < 2 * p->n; i++) {
        const void *x = i < p->n ? p->z : p->t;
        const size_t at = (size_t)(i % p->n) * (size_t)p->c;
        double low = INFINITY;
        double high = -INFINITY;
        double sum = 0;
        double squares = 0;
        for (int k = 0; k < p->c; k++) {
            const double v = dtype_load(p->dtype, x, at + (size_t)k);
            low = fmin(low, v);
            high = fmax(high, v);
            sum += v;
            squares += v * v;
        }
        p->range = fmax(p->range, high - low);
        const double variance = (squares - sum * sum / p->c) / (p->c - 1);
        p->least_sd = fmin(p->least_sd, sqrt(fmax(variance, 1e-8)));
    }
}

/* Two rows at the end are beyond rows_valid. Teacher logits are larger on the label, so that about
 * half are right. */
static inline Problem problem_new(int classes, int n, DType dtype, int spec, double spread)
{
    Problem p = {
        .n = n, .c = classes, .dtype = dtype, .scale = 1.0 / 64, .rows_valid = n > 2 ? n - 2 : n};
    if (!listed_spec(spec, &p)) {
        random_spec(spec, &p);
    }
    p.spec.sparse_k = p.spec.sparse_k < classes ? p.spec.sparse_k : classes;
    Rng rng = rng_make(5, (uint32_t)classes, (uint64_t)spec, RNG_TEST);
    const size_t elements = (size_t)n * (size_t)classes;
    p.z = xcalloc(elements, sizeof(double));
    p.t = xcalloc(elements, sizeof(double));
    p.labels = xcalloc((size_t)n, sizeof *p.labels);
    p.row_params = xcalloc((size_t)n * PROBLEM_COLUMNS, sizeof *p.row_params);
    for (int row = 0; row < n; row++) {
        p.labels[row] = (int32_t)rng_below(&rng, (uint32_t)classes);
        for (int k = 0; k < classes; k++) {
            const size_t at = (size_t)row * (size_t)classes + (size_t)k;
            const double bonus = k == p.labels[row] && row % 2 ? 2.5 * spread : 0;
            dtype_store(dtype, p.z, at, spread * rng_normal(&rng) + 1);
            dtype_store(dtype, p.t, at, spread * rng_normal(&rng) + bonus);
        }
        for (int j = 0; j < PROBLEM_COLUMNS; j++) {
            p.row_params[row * PROBLEM_COLUMNS + j] =
                (j < 2 ? 1 : 0.1f) + (j < 2 ? 4 : 1) * rng_uniform(&rng);
        }
    }
    /* About a third of the rows in each band; energies concentrate as log C. */
    const double middle = -4 * log(classes) - spread * spread / 8;
    p.theta[0] = (float)(middle - 0.25 * spread);
    p.theta[1] = (float)(middle + 0.05 * spread);
    if (p.has_targets) {
        fill_targets(&p, &rng);
    }
    measure_rows(&p);
    return p;
}

static inline void problem_free(Problem *p)
{
    void *const all[] = {p->z,
                         p->t,
                         p->labels,
                         p->row_params,
                         p->target_kind,
                         p->target_weight,
                         p->target_class,
                         p->sparse_index,
                         p->sparse_value,
                         p->dense};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]);
    }
}

static inline double value_bound(const Problem *p, const RowValue *v, bool largest)
{
    double low = (double)v->value;
    double high = low;
    if (v->source == SOURCE_BAND) {
        low = fmin((double)v->band[0], fmin((double)v->band[1], (double)v->band[2]));
        high = fmax((double)v->band[0], fmax((double)v->band[1], (double)v->band[2]));
    } else if (v->source == SOURCE_ROW) {
        low = INFINITY;
        high = 0;
        for (int row = 0; row < p->n; row++) {
            const double x = (double)p->row_params[row * PROBLEM_COLUMNS + v->column];
            low = fmin(low, x);
            high = fmax(high, x);
        }
    }
    return largest ? high : low;
}

static inline double largest_value(const Problem *p, const RowValue *v)
{
    return value_bound(p, v, true);
}

static inline double least_value(const Problem *p, const RowValue *v)
{
    return value_bound(p, v, false);
}

static inline Result result_new(const Problem *p, DType dz_type, DType stat_type)
{
    const size_t elements = (size_t)p->n * (size_t)p->c;
    return (Result){.dz = xcalloc(elements, sizeof(double)),
                    .rows = xcalloc((size_t)p->n * ROW_FIELDS, sizeof(double)),
                    .sums = xcalloc(SUM_FIELDS, sizeof(double)),
                    .dz_type = dz_type,
                    .stat_type = stat_type};
}

static inline void result_free(Result *r)
{
    free(r->dz);
    free(r->rows);
    free(r->sums);
}

static inline DistillArgs problem_args(const Problem *p, const Result *r)
{
    return (DistillArgs){.spec = &p->spec,
                         .n = p->n,
                         .classes = p->c,
                         .logits = p->dtype,
                         .dz_type = r->dz_type,
                         .z = p->no_student ? NULL : p->z,
                         .t = p->t,
                         .dz = r->dz,
                         .labels = p->no_labels ? NULL : p->labels,
                         .theta = p->theta,
                         .row_params = p->row_params,
                         .columns = PROBLEM_COLUMNS,
                         .target_kind = p->target_kind,
                         .target_weight = p->target_weight,
                         .target_class = p->target_class,
                         .sparse_index = p->sparse_index,
                         .sparse_value = p->sparse_value,
                         .dense = p->dense,
                         .rows_valid = p->rows_valid,
                         .scale = p->scale,
                         .rows = r->rows,
                         .sums = r->sums,
                         .stat_type = r->stat_type};
}

static inline void run_ref(const Problem *p, const Result *r)
{
    const DistillArgs args = problem_args(p, r);
    void *scratch = xmalloc(distill_ref_scratch(p->c));
    distill_rows_ref(&args, scratch);
    free(scratch);
}

static inline void run_cpu(const Problem *p, const Result *r, const char *isa, int threads)
{
    DistillArgs args = problem_args(p, r);
    args.threads = threads;
    void *scratch = xmalloc(distill_cpu_scratch(p->n, p->c, threads));
    distill_rows_cpu_isa(&args, scratch, isa);
    free(scratch);
}

#endif
