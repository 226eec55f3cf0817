/* The definition of OP_DISTILL: every row in double, straight from the formulas of
 * kernels/distill_spec.h, one plain loop per formula and nothing shared between them for speed.
 * Logarithms of probabilities are differences of log-sum-exps with the maximum subtracted, and
 * log(1 - p_y) is a log-sum-exp over the non-target classes, so no step takes the logarithm of a
 * number that may have underflowed. */
#include "backend/distill_rows.h"
#include "base/err.h"
#include <math.h>

static const double ZSCORE_EPS = 1e-7; /* added to the standard deviation (LSKD) */
static const double COS_MIN = 1e-12;   /* least denominator of the cosine */

/* A distribution over the classes with its logarithms, and the same over the non-target classes. */
typedef struct {
    double *log; /* log probability per class */
    double *prob;
    double log_non; /* log(1 - prob[y]) */
    double non;     /* 1 - prob[y] */
} Dist;

/* One row at work. Arrays have one element per class. */
typedef struct {
    const DistillArgs *args;
    int row, c;
    int y; /* label, -1 without labels */
    double *z, *t;
    double *dz;      /* unscaled gradient of loss_i */
    double *u;       /* target of the cross entropy */
    double *zx, *tx; /* the logits as a term sees them: edited, z-scored */
    double *h;       /* a term's gradient with respect to zx */
    double *hat_p, *hat_q;
    Dist p, q;
    unsigned char *in_top;
    double out[ROW_FIELDS];
    double sum[SUM_FIELDS];
} Row;

enum { ROW_ARRAYS = 13 };

size_t distill_ref_scratch(int classes)
{
    return (size_t)classes * (ROW_ARRAYS * sizeof(double) + 1);
}

static void check_value(const RowValue *v, bool temperature, const DistillArgs *args)
{
    switch (v->source) {
    case SOURCE_CONST:
        CHECK(!temperature || v->value > 0, "temperature %g is not positive", (double)v->value);
        break;
    case SOURCE_ROW:
        CHECK(args->row_params && v->column >= 0 && v->column < args->columns,
              "row parameter column %d of %d", v->column, args->columns);
        break;
    case SOURCE_BAND:
        CHECK(temperature && args->theta && args->t,
              "bands are for temperatures and need thresholds");
        for (int i = 0; i < 3; i++) {
            CHECK(v->band[i] > 0, "temperature %g is not positive", (double)v->band[i]);
        }
        break;
    case SOURCE_WSL:
        CHECK(!temperature && args->labels && args->t && args->z,
              "WSL is a weight and needs labels and both logits");
        break;
    default:
        CHECK(false, "value source %d", (int)v->source);
    }
}

static void check_term(const DistillTerm *term, const DistillArgs *args)
{
    check_value(&term->weight, false, args);
    check_value(&term->ts, true, args);
    check_value(&term->tt, true, args);
    CHECK(term->form == FORM_KL || term->topk == 0, "top-k with form %d", (int)term->form);
    CHECK(term->topk >= 0, "top-k of %d", term->topk);
    CHECK(args->labels || (term->form == FORM_KL && term->edit == EDIT_NONE),
          "form %d with edit %d needs labels", (int)term->form, (int)term->edit);
    CHECK(term->edit != EDIT_SMOOTH || (term->edit_delta >= 0 && term->edit_delta < 1), "delta %g",
          (double)term->edit_delta);
}

static bool is_logits_type(DType dtype)
{
    return dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_F16 || dtype == DT_F64;
}

void distill_check_args(const DistillArgs *args)
{
    const DistillSpec *spec = args->spec;
    CHECK(args->classes >= 2, "%d classes", args->classes);
    CHECK(args->n >= 0 && args->rows_valid >= 0, "%d rows, %d valid", args->n, args->rows_valid);
    CHECK(is_logits_type(args->logits), "logits of type %d", (int)args->logits);
    CHECK(args->z || (spec->statistics_only && args->t), "no student logits");
    CHECK(spec->statistics_only || (args->dz && is_logits_type(args->dz_type)),
          "no place for the gradient");
    CHECK(spec->n_terms >= 0 && spec->n_terms <= DISTILL_MAX_TERMS, "%d terms", spec->n_terms);
    CHECK(args->t || spec->n_terms == 0, "%d terms without a teacher", spec->n_terms);
    CHECK(!args->t || spec->energy_temperature > 0, "energy temperature %g",
          (double)spec->energy_temperature);
    CHECK((!args->rows && !args->sums) || args->stat_type == DT_F32 || args->stat_type == DT_F64,
          "statistics of type %d", (int)args->stat_type);
    CHECK(spec->ce_weight.source == SOURCE_CONST || spec->ce_weight.source == SOURCE_ROW,
          "CE weight from source %d", (int)spec->ce_weight.source);
    check_value(&spec->ce_weight, false, args);
    CHECK(spec->sparse_k >= 0 && spec->sparse_k <= args->classes, "%d pairs of %d classes",
          spec->sparse_k, args->classes);
    CHECK(!args->target_kind || args->target_weight, "target kinds without weights");
    for (int k = 0; k < spec->n_terms; k++) {
        check_term(&spec->terms[k], args);
    }
}

/* log sum over k != skip of exp(x_k / temperature). */
static double log_sum_exp(const double *x, int n, double temperature, int skip)
{
    double max = -INFINITY;
    for (int k = 0; k < n; k++) {
        if (k != skip && !(x[k] <= max)) {
            max = x[k];
        }
    }
    if (max == -INFINITY) {
        return -INFINITY;
    }
    double sum = 0;
    for (int k = 0; k < n; k++) {
        if (k != skip) {
            sum += exp((x[k] - max) / temperature);
        }
    }
    return max / temperature + log(sum); // cppcheck-suppress invalidFunctionArg ; sum >= 1
}

static int arg_max(const double *x, int n)
{
    int best = 0;
    for (int k = 1; k < n; k++) {
        if (x[k] > x[best]) {
            best = k;
        }
    }
    return best;
}

static int rank_of(const double *x, int n, int y)
{
    int rank = 0;
    for (int k = 0; k < n; k++) {
        rank += x[k] > x[y] || (k < y && x[k] == x[y]);
    }
    return rank;
}

/* d = softmax(x / temperature). */
static void dist_softmax(Dist *d, const double *x, int n, double temperature, int y)
{
    const double lse = log_sum_exp(x, n, temperature, -1);
    for (int k = 0; k < n; k++) {
        d->log[k] = x[k] / temperature - lse;
        d->prob[k] = exp(d->log[k]);
    }
    d->log_non = y < 0 ? 0 : log_sum_exp(x, n, temperature, y) - lse;
    d->non = exp(d->log_non);
}

/* d = 1 - delta on y, delta / (n-1) elsewhere. */
static void dist_smooth(Dist *d, int n, int y, double delta)
{
    for (int k = 0; k < n; k++) {
        d->prob[k] = k == y ? 1 - delta : delta / (n - 1);
        d->log[k] = log(d->prob[k]);
    }
    d->non = delta;
    d->log_non = log(delta);
}

/* The non-target classes renormalised; entry y is 0. Uniform when they all have probability 0. */
static void dist_hat(const Dist *d, int n, int y, double *hat)
{
    for (int k = 0; k < n; k++) {
        hat[k] = k == y ? 0 : d->log_non == -INFINITY ? 1.0 / (n - 1) : exp(d->log[k] - d->log_non);
    }
}

static double hat_log(const Dist *d, int n, int k)
{
    return d->log_non == -INFINITY ? -log(n - 1.0) : d->log[k] - d->log_non;
}

static double row_value(const Row *r, const RowValue *v)
{
    const DistillArgs *args = r->args;
    switch (v->source) {
    case SOURCE_ROW:
        return args->row_params[(size_t)r->row * (size_t)args->columns + (size_t)v->column];
    case SOURCE_BAND: {
        const float energy = (float)r->out[ROW_ENERGY];
        return energy < args->theta[0]   ? v->band[0]
               : energy > args->theta[1] ? v->band[2]
                                         : v->band[1];
    }
    case SOURCE_WSL:
        if (r->out[ROW_CE_T] == 0) {
            return v->value;
        }
        return v->value * (1 - exp(-r->out[ROW_CE_S] / r->out[ROW_CE_T]));
    default:
        return v->value;
    }
}

/* Mean and unbiased standard deviation of the row; returns the latter. */
static double mean_and_sd(const double *x, int n, double *mean)
{
    double sum = 0;
    for (int k = 0; k < n; k++) {
        sum += x[k];
    }
    *mean = sum / n;
    double squares = 0;
    for (int k = 0; k < n; k++) {
        squares += (x[k] - *mean) * (x[k] - *mean);
    }
    return sqrt(squares / (n - 1));
}

static void zscore(double *x, int n)
{
    double mean;
    const double s = mean_and_sd(x, n, &mean) + ZSCORE_EPS;
    for (int k = 0; k < n; k++) {
        x[k] = (x[k] - mean) / s;
    }
}

/* h, the gradient with respect to the z-scored row zx, becomes the gradient with respect to z:
 * (1/s) (h_j - mean h - (z_j - mean z)/((C-1) sd) * sum_k h_k zx_k), s = sd + eps; the last part is
 * 0 where sd is 0. */
static void zscore_backward(Row *r)
{
    double mean;
    const double sd = mean_and_sd(r->z, r->c, &mean);
    double h_mean = 0;
    double dot = 0;
    for (int k = 0; k < r->c; k++) {
        h_mean += r->h[k] / r->c;
        dot += r->h[k] * r->zx[k];
    }
    for (int k = 0; k < r->c; k++) {
        const double slope = sd > 0 ? (r->z[k] - mean) / ((r->c - 1) * sd) : 0;
        r->h[k] = (r->h[k] - h_mean - slope * dot) / (sd + ZSCORE_EPS);
    }
}

/* The k most probable classes of q, lowest index first among equals. */
static void mark_top(Row *r, int k_top)
{
    for (int k = 0; k < r->c; k++) {
        r->in_top[k] = 0;
    }
    for (int found = 0; found < k_top; found++) {
        int best = -1;
        for (int k = 0; k < r->c; k++) {
            if (!r->in_top[k] && (best < 0 || r->q.log[k] > r->q.log[best])) {
                best = k;
            }
        }
        r->in_top[best] = 1;
    }
}

/* sum over K of q log(q/p); gradient (p_j * sum_K q - q_j [j in K]) / Ts. All classes: KL(q || p),
 * (p - q) / Ts. */
static double form_kl(Row *r, const DistillTerm *term, double ts)
{
    const bool restrict_k = term->topk > 0 && term->topk < r->c;
    if (restrict_k) {
        mark_top(r, term->topk);
    }
    double shift_p = 0;
    double shift_q = 0;
    if (restrict_k && term->topk_renorm) {
        double mass_p = 0;
        double mass_q = 0;
        double top_p = -INFINITY;
        for (int k = 0; k < r->c; k++) {
            top_p = r->in_top[k] ? fmax(top_p, r->p.log[k]) : top_p;
        }
        for (int k = 0; k < r->c; k++) {
            mass_p += r->in_top[k] ? exp(r->p.log[k] - top_p) : 0;
            mass_q += r->in_top[k] ? r->q.prob[k] : 0;
        }
        /* Top-k has at least one class. */
        shift_p = top_p + log(mass_p); // cppcheck-suppress invalidFunctionArg
        shift_q = log(mass_q);         // cppcheck-suppress invalidFunctionArg
    }
    double value = 0;
    double mass = 0;
    for (int k = 0; k < r->c; k++) {
        const double q = !restrict_k || r->in_top[k] ? exp(r->q.log[k] - shift_q) : 0;
        if (q != 0) {
            value += q * ((r->q.log[k] - shift_q) - (r->p.log[k] - shift_p));
        }
        mass += q;
        r->h[k] = -q / ts;
    }
    for (int k = 0; k < r->c; k++) {
        if (restrict_k && term->topk_renorm) {
            r->h[k] += r->in_top[k] ? exp(r->p.log[k] - shift_p) / ts : 0;
        } else {
            r->h[k] += r->p.prob[k] * (restrict_k ? mass : 1) / ts;
        }
    }
    return value;
}

/* alpha * TCKD + beta * NCKD. */
static double form_dkd(Row *r, const DistillTerm *term, double ts)
{
    const int y = r->y;
    const double alpha = term->alpha;
    const double beta = term->beta;
    dist_hat(&r->p, r->c, y, r->hat_p);
    dist_hat(&r->q, r->c, y, r->hat_q);
    double tckd = 0;
    if (r->q.prob[y] != 0) {
        tckd += r->q.prob[y] * (r->q.log[y] - r->p.log[y]);
    }
    if (r->q.non != 0) {
        tckd += r->q.non * (r->q.log_non - r->p.log_non);
    }
    double nckd = 0;
    const double py_minus_qy = r->q.non - r->p.non;
    for (int k = 0; k < r->c; k++) {
        if (k == y) {
            r->h[k] = alpha * py_minus_qy / ts;
            continue;
        }
        if (r->hat_q[k] != 0) {
            nckd += r->hat_q[k] * (hat_log(&r->q, r->c, k) - hat_log(&r->p, r->c, k));
        }
        r->h[k] = (-alpha * py_minus_qy * r->hat_p[k] + beta * (r->hat_p[k] - r->hat_q[k])) / ts;
    }
    return alpha * tckd + beta * nckd;
}

/* gamma * factor * CE(q^, p^) at the temperatures, then the target part -q1_y log p1_y, which
 * overwrites p and q. */
static double form_nkd(Row *r, const DistillTerm *term, double ts, double factor, bool smooth)
{
    const int y = r->y;
    dist_hat(&r->p, r->c, y, r->hat_p);
    dist_hat(&r->q, r->c, y, r->hat_q);
    double ce = 0;
    for (int k = 0; k < r->c; k++) {
        if (k != y && r->hat_q[k] != 0) {
            ce -= r->hat_q[k] * hat_log(&r->p, r->c, k);
        }
        r->h[k] = term->gamma * factor * (r->hat_p[k] - r->hat_q[k]) / ts;
    }
    dist_softmax(&r->p, r->zx, r->c, 1, y);
    if (!smooth) {
        dist_softmax(&r->q, r->tx, r->c, 1, y);
    }
    const double q1_y = r->q.prob[y];
    for (int k = 0; k < r->c; k++) {
        r->h[k] += q1_y * (k == y ? -r->p.non : r->p.prob[k]);
    }
    return -q1_y * r->p.log[y] + term->gamma * factor * ce;
}

/* d(factor * KL)/dT when both temperatures move by the same amount (CTKD); u = zx/Ts, v = tx/Tt:
 * (Ts + Tt) KL + factor * ((E_q u - E_p u)/Ts - (Var_q v - Cov_q(u, v))/Tt), the last part 0 for a
 * q without T. */
static double temperature_gradient(const Row *r, const DistillTerm *term, double ts, double tt,
                                   double kl, bool smooth)
{
    double eq_u = 0;
    double ep_u = 0;
    double eq_v = 0;
    for (int k = 0; k < r->c; k++) {
        eq_u += r->q.prob[k] * r->zx[k] / ts;
        ep_u += r->p.prob[k] * r->zx[k] / ts;
        eq_v += r->q.prob[k] * r->tx[k] / tt;
    }
    double moved_q = 0;
    for (int k = 0; k < r->c && !smooth; k++) {
        const double v = r->tx[k] / tt;
        const double u = r->zx[k] / ts;
        moved_q += r->q.prob[k] * (v - eq_v) * ((v - eq_v) - (u - eq_u));
    }
    const double dkl = (eq_u - ep_u) / ts - moved_q / tt;
    return term->factor == FACTOR_TSTT ? (ts + tt) * kl + ts * tt * dkl : dkl;
}

static void run_term(Row *r, int index)
{
    const DistillTerm *term = &r->args->spec->terms[index];
    const double ts = row_value(r, &term->ts);
    const double tt = row_value(r, &term->tt);
    const double a = row_value(r, &term->weight);
    const double factor = term->factor == FACTOR_TSTT ? ts * tt : 1;
    for (int k = 0; k < r->c; k++) {
        r->zx[k] = r->z[k];
        r->tx[k] = r->t[k];
    }
    const int top = arg_max(r->t, r->c);
    const bool wrong = term->edit != EDIT_NONE && top != r->y;
    const bool smooth = wrong && term->edit == EDIT_SMOOTH;
    if (wrong && term->edit == EDIT_SWAP) {
        r->tx[top] = r->t[r->y];
        r->tx[r->y] = r->t[top];
    }
    if (term->zscore) {
        zscore(r->zx, r->c);
        zscore(r->tx, r->c);
    }
    dist_softmax(&r->p, r->zx, r->c, ts, r->y);
    if (smooth) {
        dist_smooth(&r->q, r->c, r->y, term->edit_delta);
    } else {
        dist_softmax(&r->q, r->tx, r->c, tt, r->y);
    }
    double value;
    if (term->form == FORM_NKD) {
        value = form_nkd(r, term, ts, factor, smooth);
    } else {
        value = factor * (term->form == FORM_KL ? form_kl(r, term, ts) : form_dkd(r, term, ts));
        for (int k = 0; k < r->c; k++) {
            r->h[k] *= factor;
        }
    }
    if (term->form == FORM_KL && term->topk == 0) {
        r->out[ROW_DT + index] = temperature_gradient(r, term, ts, tt, value / factor, smooth);
    }
    if (term->zscore) {
        zscore_backward(r);
    }
    for (int k = 0; k < r->c; k++) {
        r->dz[k] += a * r->h[k];
    }
    r->out[ROW_TERM + index] = value;
    r->out[ROW_LOSS] += a * value;
    r->sum[SUM_TERM + index] = a * value;
    if (index == 0) {
        r->out[ROW_T0] = ts;
        r->out[ROW_A0] = a;
    }
}

static int class_index(const Row *r, int32_t index)
{
    CHECK(index >= 0 && index < r->c, "class %d of %d in row %d", (int)index, r->c, r->row);
    return (int)index;
}

static void add_class(Row *r, double weight, int32_t class)
{
    const double smoothing = r->args->spec->smoothing;
    for (int k = 0; k < r->c; k++) {
        r->u[k] += weight * smoothing / r->c;
    }
    r->u[class_index(r, class)] += weight * (1 - smoothing);
}

static void add_sparse(Row *r, double weight, const int32_t *index, const float *value)
{
    const DistillSpec *spec = r->args->spec;
    double mass = 0;
    for (int j = 0; j < spec->sparse_k; j++) {
        mass += value[j];
    }
    const int others = r->c - spec->sparse_k;
    const double rest = spec->sparse_renorm || others == 0 ? 0 : (1 - mass) / others;
    for (int k = 0; k < r->c; k++) {
        r->u[k] += weight * rest;
    }
    for (int j = 0; j < spec->sparse_k; j++) {
        const double v = spec->sparse_renorm ? value[j] / mass : value[j];
        r->u[class_index(r, index[j])] += weight * (v - rest);
    }
}

static void build_target(Row *r)
{
    const DistillArgs *args = r->args;
    for (int k = 0; k < r->c; k++) {
        r->u[k] = 0;
    }
    if (!args->target_kind) {
        if (r->y >= 0) {
            add_class(r, 1, r->y);
        }
        return;
    }
    const size_t pairs = (size_t)args->spec->sparse_k;
    for (int j = 0; j < DISTILL_MAX_TARGETS; j++) {
        const size_t at = (size_t)r->row * DISTILL_MAX_TARGETS + (size_t)j;
        const double weight = args->target_weight[at];
        switch (args->target_kind[at]) {
        case TARGET_NONE:
            break;
        case TARGET_CLASS:
            add_class(r, weight, args->target_class ? args->target_class[at] : r->y);
            break;
        case TARGET_SPARSE:
            CHECK(args->sparse_index && args->sparse_value, "sparse target of row %d is absent",
                  r->row);
            add_sparse(r, weight, args->sparse_index + at * pairs, args->sparse_value + at * pairs);
            break;
        case TARGET_DENSE:
            CHECK(args->dense, "dense target of row %d is absent", r->row);
            for (int k = 0; k < r->c; k++) {
                r->u[k] += weight * args->dense[at * (size_t)r->c + (size_t)k];
            }
            break;
        default:
            CHECK(false, "target kind %d in row %d", (int)args->target_kind[at], r->row);
        }
    }
}

/* b * CE(u, p1); gradient b * (p1 * sum u - u). */
static void run_cross_entropy(Row *r)
{
    const double b = row_value(r, &r->args->spec->ce_weight);
    build_target(r);
    dist_softmax(&r->p, r->z, r->c, 1, r->y);
    double ce = 0;
    double mass = 0;
    for (int k = 0; k < r->c; k++) {
        if (r->u[k] != 0) {
            ce -= r->u[k] * r->p.log[k];
        }
        mass += r->u[k];
    }
    for (int k = 0; k < r->c; k++) {
        r->dz[k] += b * (mass * r->p.prob[k] - r->u[k]);
    }
    r->out[ROW_CE] = ce;
    r->out[ROW_LOSS] += b * ce;
    r->sum[SUM_CE] = b * ce;
}

/* Confidence, prediction, rank and CE of one network's row. A row with NaN, +inf or nothing but -inf
 * has no prediction: -1, rank C. */
static void row_statistics(Row *r, const double *x, int column_max, int column_arg, int column_rank,
                           int column_ce)
{
    const double lse = log_sum_exp(x, r->c, 1, -1);
    const bool bad = !isfinite(lse);
    const int top = arg_max(x, r->c);
    r->out[column_max] = exp(x[top] - lse);
    r->out[column_arg] = bad ? -1 : top;
    if (r->y >= 0) {
        r->out[column_rank] = bad ? r->c : rank_of(x, r->c, r->y);
        /* As a log-sum-exp of differences, which keeps a confident row's small value exact. */
        for (int k = 0; k < r->c; k++) {
            r->h[k] = x[k] - x[r->y];
        }
        const double non = log_sum_exp(r->h, r->c, 1, r->y);
        r->out[column_ce] = non > 0 ? non + log1p(exp(-non)) : log1p(exp(non));
    }
}

/* With fewer classes than `top`, rank C alone would make a row without a prediction right. */
static bool is_right(const Row *r, int column_arg, int column_rank, int column_ce, int top)
{
    return r->out[column_arg] >= 0 && isfinite(r->out[column_ce]) && r->out[column_rank] < top;
}

static void teacher_statistics(Row *r)
{
    const double temperature = r->args->spec->energy_temperature;
    row_statistics(r, r->t, ROW_QMAX, ROW_TARG, ROW_TRANK, ROW_CE_T);
    r->out[ROW_ENERGY] = -temperature * log_sum_exp(r->t, r->c, temperature, -1);
    r->sum[SUM_CE_T] = r->out[ROW_CE_T];
    r->sum[SUM_ENERGY] = r->out[ROW_ENERGY];
    if (r->y >= 0) {
        r->sum[SUM_TTOP1] = is_right(r, ROW_TARG, ROW_TRANK, ROW_CE_T, 1);
        r->sum[SUM_TTOP5] = is_right(r, ROW_TARG, ROW_TRANK, ROW_CE_T, 5);
    }
}

static void student_statistics(Row *r)
{
    row_statistics(r, r->z, ROW_PMAX, ROW_SARG, ROW_SRANK, ROW_CE_S);
    r->sum[SUM_CE_S] = r->out[ROW_CE_S];
    if (r->y >= 0) {
        r->sum[SUM_TOP1] = is_right(r, ROW_SARG, ROW_SRANK, ROW_CE_S, 1);
        r->sum[SUM_TOP5] = is_right(r, ROW_SARG, ROW_SRANK, ROW_CE_S, 5);
    }
}

static void pair_statistics(Row *r)
{
    double zz = 0;
    double tt = 0;
    double zt = 0;
    for (int k = 0; k < r->c; k++) {
        zz += r->z[k] * r->z[k];
        tt += r->t[k] * r->t[k];
        zt += r->z[k] * r->t[k];
    }
    r->out[ROW_COS] = zt / fmax(sqrt(zz) * sqrt(tt), COS_MIN);
    if (isnan(zt)) {
        r->out[ROW_COS] = NAN;
    }
    r->sum[SUM_AGREE] = r->out[ROW_SARG] >= 0 && r->out[ROW_SARG] == r->out[ROW_TARG];
}

static void run_row(Row *r)
{
    const DistillArgs *args = r->args;
    for (int i = 0; i < ROW_FIELDS; i++) {
        r->out[i] = 0;
    }
    for (int i = 0; i < SUM_FIELDS; i++) {
        r->sum[i] = 0;
    }
    r->y = args->labels ? class_index(r, args->labels[r->row]) : -1;
    for (int k = 0; k < r->c; k++) {
        const size_t at = (size_t)r->row * (size_t)r->c + (size_t)k;
        r->z[k] = args->z ? dtype_load(args->logits, args->z, at) : 0;
        r->t[k] = args->t ? dtype_load(args->logits, args->t, at) : 0;
        r->dz[k] = 0;
    }
    if (args->t) {
        teacher_statistics(r);
    }
    if (args->z) {
        student_statistics(r);
        if (args->t) {
            pair_statistics(r);
        }
        run_cross_entropy(r);
        for (int k = 0; k < args->spec->n_terms; k++) {
            run_term(r, k);
        }
    }
    r->sum[SUM_ROWS] = 1;
    r->sum[SUM_LOSS] = r->out[ROW_LOSS];
    r->sum[SUM_NONFINITE] = !isfinite(args->z ? r->out[ROW_LOSS] : r->out[ROW_ENERGY]);
}

static void store_gradient(const Row *r, bool valid)
{
    const DistillArgs *args = r->args;
    for (int k = 0; k < r->c; k++) {
        const size_t at = (size_t)r->row * (size_t)r->c + (size_t)k;
        const double old = args->spec->dz_add ? dtype_load(args->dz_type, args->dz, at) : 0;
        dtype_store(args->dz_type, args->dz, at, valid ? old + args->scale * r->dz[k] : old);
    }
}

static void take_arrays(Row *r, void *scratch)
{
    double **const arrays[] = {&r->z,      &r->t,     &r->dz,    &r->u,     &r->zx,
                               &r->tx,     &r->h,     &r->hat_p, &r->hat_q, &r->p.log,
                               &r->p.prob, &r->q.log, &r->q.prob};
    _Static_assert(sizeof arrays / sizeof *arrays == ROW_ARRAYS, "scratch size");
    double *next = scratch;
    for (int i = 0; i < ROW_ARRAYS; i++) {
        *arrays[i] = next;
        next += r->c;
    }
    r->in_top = (unsigned char *)next;
}

void distill_rows_ref(const DistillArgs *args, void *scratch)
{
    distill_check_args(args);
    Row r = {.args = args, .c = args->classes};
    take_arrays(&r, scratch);
    double sums[SUM_FIELDS] = {0};
    for (r.row = 0; r.row < args->n; r.row++) {
        const bool valid = r.row < args->rows_valid;
        if (valid) {
            run_row(&r);
            for (int i = 0; i < SUM_FIELDS; i++) {
                sums[i] += r.sum[i];
            }
        }
        for (int i = 0; i < ROW_FIELDS && args->rows; i++) {
            dtype_store(args->stat_type, args->rows, (size_t)r.row * ROW_FIELDS + (size_t)i,
                        valid ? r.out[i] : 0);
        }
        if (!args->spec->statistics_only) {
            store_gradient(&r, valid);
        }
    }
    for (int i = 0; i < SUM_FIELDS && args->sums; i++) {
        dtype_store(args->stat_type, args->sums, (size_t)i, sums[i]);
    }
}
