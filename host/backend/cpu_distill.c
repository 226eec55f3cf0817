/* The cpu form of OP_DISTILL: rows over OpenMP threads, each logit read from memory once and kept
 * in the thread's scratch; the cross entropy with its targets, statistics, exports and sums. The
 * terms are in cpu_distill_terms.c. */
#include "backend/cpu_distill_terms.h"
#include "base/err.h"
#include "base/half.h"
#include <math.h>
#include <omp.h>
#include <string.h>

static const double COS_MIN = 1e-12; /* least denominator of the cosine */

enum { ARRAY_ALIGN = 64 };
/* Elements of a batch below which waking other threads costs more than it brings (10 to 20 us with
 * passive waiting). */
enum { SERIAL_BELOW = 16384 };

enum { FLOAT_ARRAYS = 3 * (1 + SLOT_COUNT) + 3 };

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static int entries_max(int classes)
{
    return DISTILL_MAX_TARGETS * (classes + 1);
}

static size_t thread_bytes(int classes)
{
    const size_t padded = round_up((size_t)classes, DISTILL_PAD);
    const size_t entries = (size_t)entries_max(classes);
    return round_up(FLOAT_ARRAYS * padded * sizeof(float) +
                        2 * entries * (sizeof(double) + sizeof(int)),
                    ARRAY_ALIGN);
}

size_t distill_cpu_scratch(int n, int classes, int threads)
{
    const size_t sums = round_up((size_t)n * SUM_FIELDS * sizeof(float), ARRAY_ALIGN);
    return ARRAY_ALIGN + sums + (size_t)threads * thread_bytes(classes);
}

static void net_take(DistillNet *net, float **next, int padded)
{
    net->x = *next;
    *next += padded;
    for (int i = 0; i < SLOT_COUNT; i++) {
        net->e[i] = *next;
        *next += padded;
    }
}

static void row_take(DistillRow *r, void *scratch)
{
    float *next = scratch;
    net_take(&r->s, &next, r->padded);
    net_take(&r->t, &next, r->padded);
    net_take(&r->edited, &next, r->padded);
    float **const arrays[] = {&r->mask, &r->g, &r->work};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i] = next;
        next += r->padded;
    }
    double *const values = (void *)next;
    const int entries = entries_max(r->c);
    r->entries.value = values;
    r->target.value = values + entries;
    r->entries.index = (void *)(values + 2 * (size_t)entries);
    r->target.index = r->entries.index + entries;
    for (int k = 0; k < r->padded; k++) {
        r->mask[k] = k < r->c;
    }
}

static void widen(const DistillRow *r, float *dst, const void *src, DType dtype, size_t at)
{
    switch (dtype) {
    case DT_F32:
        memcpy(dst, (const float *)src + at, (size_t)r->c * sizeof(float));
        break;
    case DT_BF16:
        r->vec->widen_bf16(dst, (const bf16 *)src + at, r->c);
        break;
    case DT_F16:
        for (int k = 0; k < r->c; k++) {
            dst[k] = fp16_to_float(((const fp16 *)src)[at + (size_t)k]);
        }
        break;
    default:
        for (int k = 0; k < r->c; k++) {
            dst[k] = (float)((const double *)src)[at + (size_t)k];
        }
    }
}

static void narrow(const DistillRow *r, void *dst, DType dtype, size_t at, const float *src)
{
    switch (dtype) {
    case DT_F32:
        memcpy((float *)dst + at, src, (size_t)r->c * sizeof(float));
        break;
    case DT_BF16:
        r->vec->narrow_bf16((bf16 *)dst + at, src, r->c);
        break;
    case DT_F16:
        for (int k = 0; k < r->c; k++) {
            ((fp16 *)dst)[at + (size_t)k] = fp16_from_float(src[k]);
        }
        break;
    default:
        for (int k = 0; k < r->c; k++) {
            ((double *)dst)[at + (size_t)k] = (double)src[k];
        }
    }
}

static void entries_add(DistillEntries *e, int index, double value)
{
    e->index[e->count] = index;
    e->value[e->count] = value;
    e->count++;
}

/* Between net_split and net_pad: prediction (lowest index of ties) and rank of the target. */
static void net_rank(DistillRow *r, const DistillNet *net, int column_arg, int column_rank)
{
    int top = r->y;
    if (!(net->xy > net->x0)) {
        const int first = r->vec->find(net->x, r->c, net->x0);
        top = net->xy == net->x0 && r->y < first ? r->y : first;
    }
    r->out[column_arg] = top;
    r->out[column_rank] = r->has_label ? r->vec->rank(net->x, r->c, r->y, net->xy) : 0;
}

static int class_index(const DistillRow *r, int32_t index)
{
    CHECK(index >= 0 && index < r->c, "class %d of %d in row %d", (int)index, r->c, r->row);
    return (int)index;
}

static void add_class(DistillRow *r, double weight, int32_t class)
{
    const double smoothing = (double)r->args->spec->smoothing;
    r->target_even += weight * smoothing / r->c;
    entries_add(&r->target, class_index(r, class), weight * (1 - smoothing));
}

static void add_sparse(DistillRow *r, double weight, const int32_t *index, const float *value)
{
    const DistillSpec *spec = r->args->spec;
    double mass = 0;
    for (int j = 0; j < spec->sparse_k; j++) {
        mass += (double)value[j];
    }
    const int others = r->c - spec->sparse_k;
    const double rest = spec->sparse_renorm || others == 0 ? 0 : (1 - mass) / others;
    const double norm = spec->sparse_renorm ? mass : 1;
    r->target_even += weight * rest;
    for (int j = 0; j < spec->sparse_k; j++) {
        entries_add(&r->target, class_index(r, index[j]),
                    weight * ((double)value[j] / norm - rest));
    }
}

static void build_target(DistillRow *r)
{
    const DistillArgs *args = r->args;
    r->target.count = 0;
    r->target_even = 0;
    r->n_dense = 0;
    if (!args->target_kind) {
        if (r->has_label) {
            add_class(r, 1, r->y);
        }
        return;
    }
    const size_t pairs = (size_t)args->spec->sparse_k;
    for (int j = 0; j < DISTILL_MAX_TARGETS; j++) {
        const size_t at = (size_t)r->row * DISTILL_MAX_TARGETS + (size_t)j;
        const double weight = (double)args->target_weight[at];
        switch (args->target_kind[at]) {
        case TARGET_NONE:
            break;
        case TARGET_CLASS:
            add_class(r, weight,
                      args->target_class ? args->target_class[at]
                      : r->has_label     ? r->y
                                         : -1);
            break;
        case TARGET_SPARSE:
            CHECK(args->sparse_index && args->sparse_value, "sparse target of row %d is absent",
                  r->row);
            add_sparse(r, weight, args->sparse_index + at * pairs, args->sparse_value + at * pairs);
            break;
        case TARGET_DENSE:
            CHECK(args->dense, "dense target of row %d is absent", r->row);
            r->dense[r->n_dense] = &args->dense[at * (size_t)r->c];
            r->dense_weight[r->n_dense] = weight;
            r->n_dense++;
            break;
        default:
            CHECK(false, "target kind %d in row %d", (int)args->target_kind[at], r->row);
        }
    }
}

/* b (mass p1 - u): begins the gradient. */
static void start_gradient(DistillRow *r, const DistillSoft *p, double b, double on_y,
                           double others)
{
    r->vec->fill(r->g, r->padded, (float)(-b * r->target_even));
    r->vec->add(r->g, p->e, r->padded, (float)(b * (on_y + others) * p->scale));
    /* mass p_y - u_y without cancellation: a confident row's small gradient keeps its digits. */
    r->gy = b * (others * p->py - on_y * p->np);
    for (int j = 0; j < r->n_dense; j++) {
        r->vec->add(r->g, r->dense[j], r->c, (float)(-b * r->dense_weight[j]));
    }
    for (int j = 0; j < r->target.count; j++) {
        if (r->target.index[j] != r->y) {
            r->g[r->target.index[j]] -= (float)(b * r->target.value[j]);
        }
    }
}

/* CE(u, p1) = mass * lse - sum u_k (z_k - x0), the target class apart, where -log p_y is known
 * without cancellation. */
static void run_cross_entropy(DistillRow *r)
{
    const double b = distill_row_value(r, &r->args->spec->ce_weight);
    const DistillSoft *const p = distill_net_soft(r, &r->s, 1, SLOT_UNIT);
    build_target(r);
    double on_y = r->target_even; /* target probability of y, then of all other classes */
    double others = r->target_even * (r->c - 1);
    double dot = 0;
    if (r->target_even != 0) {
        dot += r->target_even * r->vec->sum(r->s.x, r->padded, r->s.x0);
    }
    for (int j = 0; j < r->n_dense; j++) {
        double sums[2];
        r->vec->dense(r->dense[j], r->s.x, r->c, r->s.x0, sums);
        const double dense_y = (double)r->dense[j][r->y];
        on_y += r->dense_weight[j] * dense_y;
        others += r->dense_weight[j] * (sums[0] - dense_y);
        dot += r->dense_weight[j] * sums[1];
    }
    for (int j = 0; j < r->target.count; j++) {
        const int k = r->target.index[j];
        const double value = r->target.value[j];
        if (k == r->y) {
            on_y += value;
        } else {
            others += value;
            dot += value * (double)(r->s.x[k] - r->s.x0);
        }
    }
    const double ce = others * p->lse - dot - on_y * p->log_py;
    r->out[ROW_CE] = ce;
    r->out[ROW_LOSS] = b * ce;
    r->sum[SUM_CE] = b * ce;
    if (!r->args->spec->statistics_only) {
        start_gradient(r, p, b, on_y, others);
    }
}

static void unit_statistics(DistillRow *r, const DistillSoft *unit, int column_max, int column_arg,
                            int column_rank, int column_ce)
{
    r->out[column_max] = unit->py > unit->scale ? unit->py : unit->scale;
    if (isnan(unit->lse)) {
        r->out[column_max] = NAN;
        r->out[column_arg] = -1;
        r->out[column_rank] = r->has_label ? r->c : 0;
    }
    r->out[column_ce] = r->has_label ? -unit->log_py : 0;
}

/* With fewer classes than `top`, rank C alone would make a row without a prediction right. */
static bool is_right(const DistillRow *r, int column_arg, int column_rank, int column_ce, int top)
{
    return r->out[column_arg] >= 0 && isfinite(r->out[column_ce]) && r->out[column_rank] < top;
}

/* Energy before T = 1, so that its exponentials can serve there. */
static void teacher_statistics(DistillRow *r)
{
    const double temperature = (double)r->args->spec->energy_temperature;
    const DistillSoft *const at_e = distill_net_soft(r, &r->t, temperature, SLOT_ENERGY);
    r->out[ROW_ENERGY] = -(temperature * at_e->lse + (double)r->t.x0);
    unit_statistics(r, distill_net_soft(r, &r->t, 1, SLOT_UNIT), ROW_QMAX, ROW_TARG, ROW_TRANK,
                    ROW_CE_T);
    r->sum[SUM_CE_T] = r->out[ROW_CE_T];
    r->sum[SUM_ENERGY] = r->out[ROW_ENERGY];
    if (r->has_label) {
        r->sum[SUM_TTOP1] = is_right(r, ROW_TARG, ROW_TRANK, ROW_CE_T, 1);
        r->sum[SUM_TTOP5] = is_right(r, ROW_TARG, ROW_TRANK, ROW_CE_T, 5);
    }
}

static void student_statistics(DistillRow *r)
{
    const DistillSpec *spec = r->args->spec;
    if (spec->n_terms > 0 && !spec->terms[0].zscore) {
        distill_net_soft(r, &r->s, distill_row_value(r, &spec->terms[0].ts), SLOT_TERM);
    }
    unit_statistics(r, distill_net_soft(r, &r->s, 1, SLOT_UNIT), ROW_PMAX, ROW_SARG, ROW_SRANK,
                    ROW_CE_S);
    r->sum[SUM_CE_S] = r->out[ROW_CE_S];
    if (r->has_label) {
        r->sum[SUM_TOP1] = is_right(r, ROW_SARG, ROW_SRANK, ROW_CE_S, 1);
        r->sum[SUM_TOP5] = is_right(r, ROW_SARG, ROW_SRANK, ROW_CE_S, 5);
    }
    r->sum[SUM_AGREE] = r->args->t && r->out[ROW_SARG] >= 0 && r->out[ROW_SARG] == r->out[ROW_TARG];
}

static void read_row(DistillRow *r)
{
    const DistillArgs *args = r->args;
    const size_t at = (size_t)r->row * (size_t)r->c;
    if (args->z) {
        widen(r, r->s.x, args->z, args->logits, at);
    }
    if (args->t) {
        widen(r, r->t.x, args->t, args->logits, at);
    }
    if (args->z && args->t && args->rows) {
        double sums[3];
        r->vec->dot(r->s.x, r->t.x, r->c, sums);
        const double norms = sqrt(sums[1]) * sqrt(sums[2]);
        r->out[ROW_COS] = sums[0] / (norms < COS_MIN ? COS_MIN : norms);
    }
    if (args->t) {
        distill_net_split(r, &r->t);
        net_rank(r, &r->t, ROW_TARG, ROW_TRANK);
        distill_net_pad(r, &r->t);
    }
    if (args->z) {
        distill_net_split(r, &r->s);
        net_rank(r, &r->s, ROW_SARG, ROW_SRANK);
        distill_net_pad(r, &r->s);
    }
}

static void run_row(DistillRow *r)
{
    const DistillArgs *args = r->args;
    memset(r->out, 0, sizeof r->out);
    memset(r->sum, 0, sizeof r->sum);
    r->has_label = args->labels != NULL;
    r->y = r->has_label ? class_index(r, args->labels[r->row]) : 0;
    r->mask[r->y] = 0;
    read_row(r);
    if (args->t) {
        teacher_statistics(r);
    }
    if (args->z) {
        student_statistics(r);
        run_cross_entropy(r);
        for (int k = 0; k < args->spec->n_terms; k++) {
            distill_row_term(r, k);
        }
    }
    r->mask[r->y] = 1;
    r->sum[SUM_ROWS] = 1;
    r->sum[SUM_LOSS] = r->out[ROW_LOSS];
    r->sum[SUM_NONFINITE] = !isfinite(args->z ? r->out[ROW_LOSS] : r->out[ROW_ENERGY]);
}

static void store_gradient(DistillRow *r, bool valid)
{
    const DistillArgs *args = r->args;
    const size_t at = (size_t)r->row * (size_t)r->c;
    if (!valid) {
        if (!args->spec->dz_add) {
            memset((char *)args->dz + at * dtype_size(args->dz_type), 0,
                   (size_t)r->c * dtype_size(args->dz_type));
        }
        return;
    }
    r->g[r->y] = (float)r->gy;
    if (args->dz_type == DT_F32) {
        r->vec->scale((float *)args->dz + at, r->g, r->c, (float)args->scale, args->spec->dz_add);
        return;
    }
    if (args->spec->dz_add) {
        widen(r, r->work, args->dz, args->dz_type, at);
    }
    r->vec->scale(r->work, r->g, r->c, (float)args->scale, args->spec->dz_add);
    narrow(r, args->dz, args->dz_type, at, r->work);
}

static void store_statistic(void *base, DType type, size_t at, double x)
{
    if (type == DT_F64) {
        ((double *)base)[at] = x;
    } else {
        ((float *)base)[at] = (float)x;
    }
}

static void do_row(DistillRow *r, float *row_sums)
{
    const DistillArgs *args = r->args;
    const bool valid = r->row < args->rows_valid;
    if (valid) {
        run_row(r);
        for (int i = 0; i < SUM_FIELDS; i++) {
            row_sums[(size_t)r->row * SUM_FIELDS + (size_t)i] = (float)r->sum[i];
        }
    }
    for (int i = 0; i < ROW_FIELDS && args->rows; i++) {
        store_statistic(args->rows, args->stat_type, (size_t)r->row * ROW_FIELDS + (size_t)i,
                        valid ? r->out[i] : 0);
    }
    if (!args->spec->statistics_only) {
        store_gradient(r, valid);
    }
}

static void add_rows(const DistillArgs *args, const float *row_sums)
{
    double sums[SUM_FIELDS] = {0};
    const int valid = args->rows_valid < args->n ? args->rows_valid : args->n;
    for (int row = 0; row < valid; row++) {
        for (int i = 0; i < SUM_FIELDS; i++) {
            sums[i] += (double)row_sums[(size_t)row * SUM_FIELDS + (size_t)i];
        }
    }
    for (int i = 0; i < SUM_FIELDS; i++) {
        store_statistic(args->sums, args->stat_type, (size_t)i, sums[i]);
    }
}

void distill_rows_cpu_isa(const DistillArgs *args, void *scratch, const char *isa)
{
    distill_check_args(args);
    const DistillVec *const vec = distill_vec(isa);
    char *const base = (char *)scratch + (-(uintptr_t)scratch & (ARRAY_ALIGN - 1));
    float *const row_sums = (void *)base;
    char *const thread_base =
        base + round_up((size_t)args->n * SUM_FIELDS * sizeof(float), ARRAY_ALIGN);
    const size_t per_thread = thread_bytes(args->classes);
    const bool small = (size_t)args->n * (size_t)args->classes < SERIAL_BELOW;
    const int threads = small || args->threads < 1 ? 1 : args->threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        DistillRow r = {.args = args,
                        .vec = vec,
                        .c = args->classes,
                        .padded = (int)round_up((size_t)args->classes, DISTILL_PAD)};
        row_take(&r, thread_base + (size_t)omp_get_thread_num() * per_thread);
#pragma omp for schedule(static)
        for (int row = 0; row < args->n; row++) {
            r.row = row;
            do_row(&r, row_sums);
        }
    }
    if (args->sums) {
        add_rows(args, row_sums);
    }
}

void distill_rows_cpu(const DistillArgs *args, void *scratch)
{
    distill_rows_cpu_isa(args, scratch, NULL);
}
