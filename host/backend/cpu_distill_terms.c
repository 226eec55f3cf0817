/* Softmaxes of one row and the forms of a distillation term, on the vector loops of
 * cpu_distill_vec.h. Sums over classes come from those loops; the dozen numbers per softmax are in
 * double, where they cost less than one vector loop. Exponentials at T/2 and T/4 are powers of
 * those at T, so the common temperatures 4, 2 and 1 need one exponential. */
#include "backend/cpu_distill_terms.h"
#include <math.h>
#include <string.h>

static const double ZSCORE_EPS = 1e-7; /* added to the standard deviation (LSKD) */

/* What a term adds: a * factor * form, and as gradient, before the op's scale, A es_k - B et_k + A1
 * e1_k on the non-target classes, gy on the target, and entries. `dot` = sum_k gradient_k * (x_k -
 * x0) / Ts, for the z-score. */
typedef struct {
    double value;
    double kl_dt;
    double a_s, b_t, a_unit;
    const float *e_s, *e_t, *e_unit;
    double gy;
    double dot;
} Part;

void distill_net_split(const DistillRow *r, DistillNet *net)
{
    /* An infinite target would pass as a certain prediction; as NaN it spoils its row, as an
     * infinite logit of another class does. */
    net->xy = net->x[r->y] == INFINITY ? NAN : net->x[r->y];
    net->x[r->y] = -INFINITY;
    net->x0 = r->vec->max(net->x, r->c);
    net->sd = -1;
    for (int i = 0; i < SLOT_COUNT; i++) {
        net->soft[i].temperature = NAN;
    }
}

void distill_net_pad(const DistillRow *r, DistillNet *net)
{
    net->x[r->y] = net->x0;
    for (int k = r->c; k < r->padded; k++) {
        net->x[k] = net->x0;
    }
}

static double log1p_positive(double x)
{
    return x < 1e-4 ? x - x * x * (0.5 - x * (1.0 / 3)) : log(1 + x);
}

static void soft_finish(DistillSoft *soft)
{
    soft->log_sn = log(soft->sn);
    if (soft->d > 0) {
        const double r = exp(-soft->d);
        const double a = soft->sn * r;
        soft->log_py = -log1p_positive(a);
        soft->lse = soft->d - soft->log_py;
        soft->py = 1 / (1 + a);
        soft->scale = r * soft->py;
    } else {
        const double ey = exp(soft->d);
        const double total = soft->sn + ey;
        soft->lse = log(total);
        soft->log_py = soft->d - soft->lse;
        soft->py = ey / total;
        soft->scale = 1 / total;
    }
    soft->np = soft->sn * soft->scale;
    soft->log_np = soft->log_sn - soft->lse;
}

const DistillSoft *distill_net_soft(const DistillRow *r, DistillNet *net, double temperature,
                                    DistillSlot slot)
{
    const DistillSoft *base = NULL;
    for (int i = 0; i < SLOT_COUNT; i++) {
        const DistillSoft *at_hand = &net->soft[i];
        if (at_hand->temperature == temperature) {
            return at_hand;
        }
        if (i != (int)slot &&
            (at_hand->temperature == 2 * temperature || at_hand->temperature == 4 * temperature)) {
            base = at_hand;
        }
    }
    DistillSoft *soft = &net->soft[slot];
    soft->temperature = temperature;
    soft->inv = (float)(1 / temperature);
    soft->e = net->e[slot];
    soft->d = ((double)net->xy - (double)net->x0) / temperature;
    if (base) {
        const bool four = base->temperature == 4 * temperature;
        soft->sn = r->vec->power(net->e[slot], base->e, r->padded, four);
    } else {
        soft->sn = r->vec->exp(net->e[slot], net->x, r->mask, r->padded, net->x0, soft->inv);
    }
    soft_finish(soft);
    return soft;
}

/* Smoothed one-hot: 1 - delta on the target, delta / (C-1) elsewhere. */
static DistillSoft soft_smooth(const DistillRow *r, double delta)
{
    const double others = r->c - 1;
    return (DistillSoft){.temperature = 1,
                         .inv = 0,
                         .e = r->mask,
                         .sn = others,
                         .log_sn = log(others),
                         .scale = delta / others,
                         .py = 1 - delta,
                         .np = delta,
                         .log_py = log(1 - delta),
                         .log_np = log(delta)};
}

/* Mean and unbiased standard deviation; the target's own logit is added to the sums over the
 * others. */
static double net_deviation(const DistillRow *r, DistillNet *net)
{
    if (net->sd < 0) {
        const double dy = (double)net->xy - (double)net->x0;
        net->mean = (double)net->x0 + (r->vec->sum(net->x, r->padded, net->x0) + dy) / r->c;
        const float mean = (float)net->mean;
        const double stand_in =
            (double)(net->x0 - mean) * (double)(net->x0 - mean); /* in the target's place */
        const double dev = (double)net->xy - net->mean;
        const double squares = r->vec->squares(net->x, r->c, mean) - stand_in + dev * dev;
        net->sd = sqrt(squares > 0 ? squares / (r->c - 1) : squares * 0);
    }
    return net->sd;
}

double distill_row_value(const DistillRow *r, const RowValue *v)
{
    const DistillArgs *args = r->args;
    switch (v->source) {
    case SOURCE_ROW:
        return (double)args->row_params[(size_t)r->row * (size_t)args->columns + (size_t)v->column];
    case SOURCE_BAND: {
        const float energy = (float)r->out[ROW_ENERGY];
        const int band = energy < args->theta[0] ? 0 : energy > args->theta[1] ? 2 : 1;
        return (double)v->band[band];
    }
    case SOURCE_WSL:
        if (r->out[ROW_CE_T] == 0) {
            return (double)v->value;
        }
        return (double)v->value * (1 - exp(-r->out[ROW_CE_S] / r->out[ROW_CE_T]));
    default:
        return (double)v->value;
    }
}

static PairSums pair_sums(const DistillRow *r, const DistillNet *s, const DistillSoft *p,
                          const DistillNet *t, const DistillSoft *q)
{
    const RowView student = {.x = s->x, .x0 = s->x0, .inv = p->inv, .e = p->e};
    const RowView teacher = {.x = t->x, .x0 = t->x0, .inv = q->inv, .e = q->e};
    PairSums sums;
    r->vec->pair(&student, &teacher, r->padded, &sums);
    return sums;
}

/* d KL / dT with both temperatures moving; see the formula at temperature_gradient of
 * distill_ref.c. */
static double kl_temperature(const DistillRow *r, const DistillSoft *p, const DistillSoft *q,
                             const PairSums *sums, double ts, double tt)
{
    const double wy = q->d - p->d;
    const double eq_u = q->scale * (sums->et_v - sums->et_w) + q->py * p->d;
    const double ep_u = p->scale * sums->es_u + p->py * p->d;
    double moved_q = 0;
    if (!r->smooth) {
        const double eq_v = q->scale * sums->et_v + q->py * q->d;
        const double eq_w = q->scale * sums->et_w + q->py * wy;
        moved_q = q->scale * sums->et_vw + q->py * q->d * wy - eq_v * eq_w;
    }
    return (eq_u - ep_u) / ts - moved_q / tt;
}

/* KL = TCKD + (1 - q_y) NCKD, DKD = alpha TCKD + beta NCKD. In the functions below c = a * factor /
 * (Ts * s), s the z-score's divisor or 1. */
static double tckd(const DistillSoft *p, const DistillSoft *q)
{
    double value = 0;
    if (q->py != 0) {
        value += q->py * (q->log_py - p->log_py);
    }
    if (q->np != 0) {
        value += q->np * (q->log_np - p->log_np);
    }
    return value;
}

static double nckd(const DistillSoft *p, const DistillSoft *q, const PairSums *sums)
{
    return sums->et_w / q->sn - (q->log_sn - p->log_sn);
}

static void part_kl(const DistillRow *r, Part *part, const DistillSoft *p, const DistillSoft *q,
                    double c, double ts, double tt)
{
    const PairSums sums = pair_sums(r, &r->s, p, r->term_t, q);
    part->value = tckd(p, q) + q->np * nckd(p, q, &sums);
    part->kl_dt = kl_temperature(r, p, q, &sums, ts, tt);
    part->a_s = c * p->scale;
    part->b_t = c * q->scale;
    part->gy = c * (q->np - p->np);
    part->dot = part->a_s * sums.es_u - part->b_t * (sums.et_v - sums.et_w) + part->gy * p->d;
}

static void part_dkd(const DistillRow *r, Part *part, const DistillTerm *term, const DistillSoft *p,
                     const DistillSoft *q, double c)
{
    const PairSums sums = pair_sums(r, &r->s, p, r->term_t, q);
    const double alpha = (double)term->alpha;
    const double beta = (double)term->beta;
    const double diff = q->np - p->np;
    part->value = alpha * tckd(p, q) + beta * nckd(p, q, &sums);
    part->a_s = c * (beta - alpha * diff) / p->sn;
    part->b_t = c * beta / q->sn;
    part->gy = c * alpha * diff;
    part->dot = part->a_s * sums.es_u - part->b_t * (sums.et_v - sums.et_w) + part->gy * p->d;
}

/* p1, q1_y: student and teacher at temperature 1; slope = 1/s. The value is the whole of factor *
 * form. */
static void part_nkd(DistillRow *r, Part *part, const DistillTerm *term, const DistillSoft *p,
                     const DistillSoft *q, const DistillSoft *p1, double q1_y, double a,
                     double factor, double ts, double slope)
{
    const PairSums sums = pair_sums(r, &r->s, p, r->term_t, q);
    const double gamma = (double)term->gamma * factor;
    const double q_u = sums.et_v - sums.et_w;
    part->value = -q1_y * p1->log_py + gamma * (p->log_sn - q_u / q->sn);
    const double c = a * gamma / ts * slope;
    part->a_s = c / p->sn;
    part->b_t = c / q->sn;
    const double c1 = a * q1_y * slope;
    part->e_unit = p1->e;
    part->a_unit = c1 * p1->scale;
    part->gy = -c1 * p1->np;
    part->dot = part->a_s * sums.es_u - part->b_t * q_u;
    if (term->zscore) {
        /* u at temperature 1, then in units of Ts as the other sums. */
        const PairSums unit = pair_sums(r, &r->s, p1, &r->s, p1);
        part->dot += (part->a_unit * unit.es_u + part->gy * p1->d) / ts;
    }
}

/* Puts the k most probable classes of q into entries (lowest index first among equals), by a heap
 * with the least of them at the root. */
static void heap_sink(const float *key, int *heap, int count, int at)
{
    for (;;) {
        int least = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            const float a = key[heap[child]];
            const float b = key[heap[least]];
            if (a < b || (a == b && heap[child] > heap[least])) {
                least = child;
            }
        }
        if (least == at) {
            return;
        }
        const int moved = heap[at];
        heap[at] = heap[least];
        heap[least] = moved;
        at = least;
    }
}

static void select_top(DistillRow *r, const DistillSoft *q, int top)
{
    float *const key = r->work;
    if (r->smooth) {
        r->vec->fill(key, r->padded, (float)q->scale);
        key[r->y] = (float)q->py;
    } else {
        memcpy(key, r->term_t->x, (size_t)r->c * sizeof(float));
        key[r->y] = r->term_t->xy;
    }
    int *const heap = r->entries.index;
    for (int k = 0; k < top; k++) {
        heap[k] = k;
    }
    for (int at = top / 2 - 1; at >= 0; at--) {
        heap_sink(key, heap, top, at);
    }
    for (int k = top; k < r->c; k++) {
        if (key[k] > key[heap[0]]) {
            heap[0] = k;
            heap_sink(key, heap, top, 0);
        }
    }
    r->entries.count = top;
}

static double log_prob(const DistillRow *r, const DistillNet *net, const DistillSoft *soft, int k,
                       bool smooth)
{
    if (k == r->y) {
        return soft->log_py;
    }
    return smooth ? log(soft->scale)
                  : (double)(net->x[k] - net->x0) * (double)soft->inv - soft->lse;
}

/* Log of the probability of all entries. */
static double log_mass(const DistillRow *r, const DistillNet *net, const DistillSoft *soft,
                       bool smooth)
{
    const DistillEntries *const e = &r->entries;
    double max = -INFINITY;
    for (int j = 0; j < e->count; j++) {
        const double log_p = log_prob(r, net, soft, e->index[j], smooth);
        max = log_p > max ? log_p : max;
    }
    double sum = 0;
    for (int j = 0; j < e->count; j++) {
        sum += exp(log_prob(r, net, soft, e->index[j], smooth) - max);
    }
    return max + log(sum); // cppcheck-suppress invalidFunctionArg ; there is at least one entry
}

/* KL over the teacher's k best classes; entries become gradients. */
static void part_top(DistillRow *r, Part *part, const DistillTerm *term, const DistillSoft *p,
                     const DistillSoft *q, double c)
{
    select_top(r, q, term->topk);
    const DistillEntries *const e = &r->entries;
    const double shift_p = term->topk_renorm ? log_mass(r, &r->s, p, false) : 0;
    const double shift_q = term->topk_renorm ? log_mass(r, r->term_t, q, r->smooth) : 0;
    double mass = 0;
    for (int j = 0; j < e->count; j++) {
        const int k = e->index[j];
        const double log_q = log_prob(r, r->term_t, q, k, r->smooth) - shift_q;
        const double log_p = log_prob(r, &r->s, p, k, false) - shift_p;
        const double prob_q = exp(log_q);
        part->value += prob_q == 0 ? 0 : prob_q * (log_q - log_p);
        mass += prob_q;
        e->value[j] = c * ((term->topk_renorm ? exp(log_p) : 0) - prob_q);
        const double u = k == r->y ? p->d : (double)(r->s.x[k] - r->s.x0) * (double)p->inv;
        part->dot += e->value[j] * u;
    }
    if (!term->topk_renorm) {
        part->a_s = c * mass * p->scale;
        part->gy = c * mass * p->py;
        if (term->zscore) {
            part->dot += part->a_s * pair_sums(r, &r->s, p, &r->s, p).es_u + part->gy * p->d;
        }
    }
}

/* The teacher's row as the term sees it. */
static void edit_teacher(DistillRow *r, const DistillTerm *term)
{
    r->term_t = &r->t;
    r->smooth = false;
    const int top = (int)r->out[ROW_TARG];
    if (term->edit == EDIT_NONE || top == r->y || top < 0) {
        return;
    }
    if (term->edit == EDIT_SMOOTH) {
        r->smooth = true;
        return;
    }
    DistillNet *const net = &r->edited;
    memcpy(net->x, r->t.x, (size_t)r->c * sizeof(float));
    net->x[r->y] = r->t.x[top];
    net->x[top] = r->t.xy;
    distill_net_split(r, net);
    distill_net_pad(r, net);
    r->term_t = net;
}

static void apply_part(DistillRow *r, const DistillTerm *term, const Part *part, double ts)
{
    if (r->args->spec->statistics_only) {
        return;
    }
    if (part->e_t) {
        r->vec->add2(r->g, part->e_s, part->e_t, r->padded, (float)part->a_s, (float)-part->b_t);
    } else if (part->e_s) {
        r->vec->add(r->g, part->e_s, r->padded, (float)part->a_s);
    }
    if (part->e_unit) {
        r->vec->add(r->g, part->e_unit, r->padded, (float)part->a_unit);
    }
    r->gy += part->gy;
    for (int j = 0; j < r->entries.count; j++) {
        if (r->entries.index[j] == r->y) {
            r->gy += r->entries.value[j];
        } else {
            r->g[r->entries.index[j]] += (float)r->entries.value[j];
        }
    }
    if (term->zscore && r->s.sd != 0) {
        const double kappa = part->dot * ts / ((r->c - 1) * r->s.sd);
        r->vec->add_shifted(r->g, r->s.x, r->padded, (float)-kappa, (float)r->s.mean);
        r->gy -= kappa * ((double)r->s.xy - r->s.mean);
    }
}

void distill_row_term(DistillRow *r, int index)
{
    const DistillTerm *term = &r->args->spec->terms[index];
    const double ts = distill_row_value(r, &term->ts);
    const double tt = distill_row_value(r, &term->tt);
    const double a = distill_row_value(r, &term->weight);
    const double factor = term->factor == FACTOR_TSTT ? ts * tt : 1;
    edit_teacher(r, term);
    /* A z-scored row at T is the row itself at T (sd + eps): the mean cancels in a softmax. */
    const double s_unit = term->zscore ? net_deviation(r, &r->s) + ZSCORE_EPS : 1;
    const double t_unit = term->zscore ? net_deviation(r, r->term_t) + ZSCORE_EPS : 1;
    const DistillSoft *const p = distill_net_soft(r, &r->s, ts * s_unit, SLOT_TERM);
    const DistillSoft smoothed =
        r->smooth ? soft_smooth(r, (double)term->edit_delta) : (DistillSoft){0};
    const DistillSoft *const q =
        r->smooth ? &smoothed : distill_net_soft(r, r->term_t, tt * t_unit, SLOT_TERM);
    const double c = a * factor / (ts * s_unit);
    Part part = {.e_s = p->e, .e_t = q->e};
    r->entries.count = 0;
    if (term->form == FORM_NKD) {
        const DistillSlot slot = term->zscore ? SLOT_TERM_UNIT : SLOT_UNIT;
        const DistillSoft *const p1 = distill_net_soft(r, &r->s, s_unit, slot);
        const double q1_y = r->smooth ? q->py : distill_net_soft(r, r->term_t, t_unit, slot)->py;
        part_nkd(r, &part, term, p, q, p1, q1_y, a, factor, ts, 1 / s_unit);
    } else {
        if (term->topk > 0 && term->topk < r->c) {
            part.e_t = NULL;
            part.e_s = term->topk_renorm ? NULL : p->e;
            part_top(r, &part, term, p, q, c);
        } else if (term->form == FORM_KL) {
            part_kl(r, &part, p, q, c, ts, tt);
        } else {
            part_dkd(r, &part, term, p, q, c);
        }
        if (term->form == FORM_KL && term->topk == 0) {
            r->out[ROW_DT + index] = term->factor == FACTOR_TSTT
                                         ? (ts + tt) * part.value + factor * part.kl_dt
                                         : part.kl_dt;
        }
        part.value *= factor;
    }
    apply_part(r, term, &part, ts);
    r->out[ROW_TERM + index] = part.value;
    r->out[ROW_LOSS] += a * part.value;
    r->sum[SUM_TERM + index] = a * part.value;
    if (index == 0) {
        r->out[ROW_T0] = ts;
        r->out[ROW_A0] = a;
    }
}
