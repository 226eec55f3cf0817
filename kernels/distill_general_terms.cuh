/* The terms of the general row kernel: KL, DKD, NKD, row edits, z-score, top-k. See distill_general.cuh. */
#ifndef CUDISTILL_KERNELS_DISTILL_GENERAL_TERMS_CUH
#define CUDISTILL_KERNELS_DISTILL_GENERAL_TERMS_CUH

#include "kernels/distill_general_state.cuh"

/* The teacher's row as a term sees it. A smoothed row has stand-ins in the order of its probabilities. */
template <class Team, bool SHARED>
DEVICE float edited_at(const General<Team, SHARED> &g, const TermCoef &c, int k)
{
    if (c.smooth) {
        return k == g.y ? c.on_y : c.others;
    }
    /* The target's column may be another block's. */
    if (k == g.y) {
        return c.swap ? logit_at(g.t_row, g.p.launch.t_type, g.top) : g.ty;
    }
    return c.swap && k == g.top ? g.ty : g.t_at(k);
}

/* Keys in the order of the values; -0 is 0. */
DEVICE unsigned order_key(float x)
{
    const float plain = x + 0.0f;
    unsigned bits;
    memcpy(&bits, &plain, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE bool in_top(const TermCoef &c, unsigned key, int k)
{
    return key > c.least || (key == c.least && k <= c.cut);
}

/* Finds `least` and `cut` of the k most probable classes: the k-th largest key two bits at a time, then, where more
 * classes equal it than are wanted, the index of the last of them. */
template <class Team, bool SHARED>
DEVICE void select_top(General<Team, SHARED> &g, TermCoef &c, int top)
{
    unsigned least = 0;
#pragma unroll 1
    for (int shift = 30; shift >= 0; shift -= 2) {
        float count[3] = {0, 0, 0};
#pragma unroll 1
        for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
            const unsigned key = order_key(edited_at(g, c, k));
#pragma unroll
            for (int i = 0; i < 3; i++) {
                count[i] += key >= least + ((unsigned)(i + 1) << shift) ? 1.0f : 0.0f;
            }
        }
        g.team.template combine<OpSum>(count);
        const float wanted = (float)top;
        const unsigned digit = count[2] >= wanted   ? 3u
                               : count[1] >= wanted ? 2u
                               : count[0] >= wanted ? 1u
                                                    : 0u;
        least += digit << shift;
    }
    int cut = -1;
    int step = 1;
    while (step < g.classes) {
        step *= 2;
    }
    /* The largest index below which fewer than the wanted number of classes are members. */
    for (; step > 0; step /= 2) {
        float count[1] = {0};
#pragma unroll 1
        for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
            const unsigned key = order_key(edited_at(g, c, k));
            count[0] += key > least || (key == least && k <= cut + step) ? 1.0f : 0.0f;
        }
        g.team.template combine<OpSum>(count);
        cut += count[0] < (float)top ? step : 0;
    }
    c.least = least;
    c.cut = cut + 1;
}

/* One term at work. */
typedef struct {
    float ts, tt, a, factor;
    float c; /* a factor / (Ts s), s the z-score's divisor or 1 */
    float s_unit, t_unit;
    float value;
    float dot; /* sum over k of gradient_k (z_k - z0) / (Ts s) */
    Soft p, q;
    PairSums sums;
} Term;

enum { T_ES, T_ET, T_ET_W, T_ET_V, T_ET_VW, T_ES_U, T_UNIT, T_T_UNIT, T_UNIT_U, T_COUNT };

template <class Team, bool SHARED>
DEVICE void term_sums(General<Team, SHARED> &g, const TermCoef &c, const Term &term, bool unit,
                      float (&s)[T_COUNT])
{
    const float inv_t_unit = 1 / term.t_unit;
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        if (k == g.y) {
            continue;
        }
        const float dz = g.z_at(k) - g.z0;
        const float dt = c.smooth ? 0 : edited_at(g, c, k) - c.t0;
        const float u = rounded_product(dz, c.inv_s);
        const float v = rounded_product(dt, c.inv_t);
        const float es = exp_fast(u);
        const float et = exp_fast(v);
        s[T_ES] += es;
        s[T_ET] += et;
        const float w = product(et, v - u);
        s[T_ET_W] += w;
        s[T_ET_V] += product(et, v);
        s[T_ET_VW] += product(w, v);
        s[T_ES_U] += product(es, u);
        if (unit) {
            const float u1 = dz * c.inv_unit;
            const float e1 = exp_fast(u1);
            s[T_UNIT] += e1;
            s[T_UNIT_U] += product(e1, u1);
            s[T_T_UNIT] += exp_fast(dt * inv_t_unit);
        }
    }
    g.team.template combine<OpSum>(s);
}

template <class Team, bool SHARED>
DEVICE void part_dkd(General<Team, SHARED> &g, TermCoef &c, Term &term, const DistillTerm &spec)
{
    const float diff = term.q.np - term.p.np;
    const float gy = term.c * spec.alpha * diff;
    term.value = term.factor * (spec.alpha * soft_tckd(term.p, term.q) +
                                spec.beta * soft_nckd(term.p, term.q, term.sums));
    c.a_s = term.c * (spec.beta - spec.alpha * diff) / term.p.sn;
    c.b_t = term.c * spec.beta / term.q.sn;
    g.gy += gy;
    term.dot = c.a_s * term.sums.es_u - c.b_t * (term.sums.et_v - term.sums.et_w) + gy * term.p.d;
}

template <class Team, bool SHARED>
DEVICE void part_nkd(General<Team, SHARED> &g, TermCoef &c, Term &term, const DistillTerm &spec,
                     const float (&s)[T_COUNT])
{
    const Soft p1 = soft_make(s[T_UNIT], (g.zy - g.z0) * c.inv_unit);
    const float ty = edited_at(g, c, g.y) - c.t0;
    const float q1_y = c.smooth ? term.q.py : soft_make(s[T_T_UNIT], ty / term.t_unit).py;
    const float gamma = spec.gamma * term.factor;
    const float q_u = term.sums.et_v - term.sums.et_w;
    term.value = -product(q1_y, p1.log_py) + gamma * (term.p.log_sn - q_u / term.q.sn);
    const float part = term.a * gamma / (term.ts * term.s_unit);
    const float unit = term.a * q1_y / term.s_unit;
    c.a_s = part / term.p.sn;
    c.b_t = part / term.q.sn;
    c.a_unit = unit * p1.scale;
    const float gy = -unit * p1.np;
    g.gy += gy;
    /* u at temperature 1, then in units of Ts as the other sums. */
    term.dot =
        c.a_s * term.sums.es_u - c.b_t * q_u + (c.a_unit * s[T_UNIT_U] + gy * p1.d) / term.ts;
}

/* KL over the teacher's k best classes. */
template <class Team, bool SHARED>
DEVICE void part_top(General<Team, SHARED> &g, TermCoef &c, Term &term, const DistillTerm &spec)
{
    c.top = true;
    c.renorm = spec.topk_renorm;
    select_top(g, c, spec.topk);
    const float log_others = logf(term.q.scale);
    float shift_p = 0;
    float shift_q = 0;
    float s[3] = {-INFINITY, -INFINITY, 0};
    /* Largest logarithms, then the masses, then the value. */
#pragma unroll 1
    for (int pass = spec.topk_renorm ? 0 : 2; pass < 3; pass++) {
        const float high_p = s[0];
        const float high_q = s[1];
        s[0] = s[1] = pass == 0 ? -INFINITY : 0;
        s[2] = 0;
#pragma unroll 1
        for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
            const float x = edited_at(g, c, k);
            if (!in_top(c, order_key(x), k)) {
                continue;
            }
            const bool on_y = k == g.y;
            const float u = on_y ? term.p.d : (g.z_at(k) - g.z0) * c.inv_s;
            const float others = c.smooth ? log_others : (x - c.t0) * c.inv_t - term.q.lse;
            const float log_p = (on_y ? term.p.log_py : u - term.p.lse) - shift_p;
            const float log_q = (on_y ? term.q.log_py : others) - shift_q;
            if (pass == 0) {
                s[0] = fmaxf(s[0], log_p);
                s[1] = fmaxf(s[1], log_q);
            } else if (pass == 1) {
                s[0] += expf(log_p - high_p);
                s[1] += expf(log_q - high_q);
            } else {
                const float q = expf(log_q);
                s[0] += product(q, log_q - log_p);
                s[1] += q;
                s[2] += product((spec.topk_renorm ? expf(log_p) : 0) - q, u);
            }
        }
        if (pass == 0) {
            g.team.template combine<OpMax>(s);
        } else {
            g.team.template combine<OpSum>(s);
        }
        if (pass == 1) {
            shift_p = high_p + logf(s[0]);
            shift_q = high_q + logf(s[1]);
        }
    }
    const float mass = s[1];
    term.value = term.factor * s[0];
    term.dot = term.c * s[2];
    c.b_t = term.c;
    c.off_t = c.smooth ? shift_q - log_others : term.q.lse + shift_q;
    float gy = 0;
    if (in_top(c, order_key(edited_at(g, c, g.y)), g.y)) {
        gy = -term.c * expf(term.q.log_py - shift_q);
        gy += spec.topk_renorm ? term.c * expf(term.p.log_py - shift_p) : 0;
    }
    if (spec.topk_renorm) {
        c.a_s = term.c;
        c.off_s = term.p.lse + shift_p;
    } else {
        c.a_s = term.c * mass * term.p.scale;
        gy += term.c * mass * term.p.py;
        term.dot += c.a_s * term.sums.es_u + term.c * mass * term.p.py * term.p.d;
    }
    g.gy += gy;
}

template <class Team, bool SHARED>
DEVICE void term_begin(General<Team, SHARED> &g, const DistillTerm &spec, TermCoef &c, Term &term)
{
    term.ts = row_value(g.p, g.row, spec.ts, g.facts);
    term.tt = row_value(g.p, g.row, spec.tt, g.facts);
    term.a = row_value(g.p, g.row, spec.weight, g.facts);
    term.factor = spec.factor == FACTOR_TSTT ? term.ts * term.tt : 1;
    const bool wrong = spec.edit != EDIT_NONE && g.top >= 0 && g.top != g.y;
    c.smooth = wrong && spec.edit == EDIT_SMOOTH;
    c.swap = wrong && spec.edit == EDIT_SWAP;
    c.on_y = 1 - spec.edit_delta;
    c.others = spec.edit_delta / (float)(g.classes - 1);
    /* A z-scored row at T is the row itself at T (sd + eps): the mean cancels in a softmax. */
    term.s_unit = spec.zscore ? g.z_sd + DISTILL_ZSCORE_EPS : 1;
    term.t_unit = spec.zscore ? g.t_sd + DISTILL_ZSCORE_EPS : 1;
    term.c = term.a * term.factor / (term.ts * term.s_unit);
    c.inv_s = 1 / (term.ts * term.s_unit);
    c.inv_t = c.smooth ? 0 : 1 / (term.tt * term.t_unit);
    c.inv_unit = 1 / term.s_unit;
    c.off_s = c.off_t = c.a_unit = c.kappa = 0;
    c.least = 0;
    c.cut = 0;
    c.top = c.renorm = false;
    c.t0 = g.t0;
    if (c.swap) {
        float m[1] = {-INFINITY};
#pragma unroll 1
        for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
            m[0] = k == g.y ? m[0] : fmaxf(m[0], edited_at(g, c, k));
        }
        g.team.template combine<OpMax>(m);
        c.t0 = m[0];
    }
}

/* a factor form of the term: its value, its coefficients, its share in the target's gradient. */
template <class Team, bool SHARED> DEVICE void general_term(General<Team, SHARED> &g, int index)
{
    const DistillTerm &spec = g.p.spec.terms[index];
    TermCoef c;
    Term term;
    term_begin(g, spec, c, term);
    float s[T_COUNT] = {};
    term_sums(g, c, term, spec.form == FORM_NKD, s);
    term.sums = PairSums{s[T_ET_W], s[T_ET_V], s[T_ET_VW], s[T_ES_U]};
    term.p = soft_make(s[T_ES], rounded_product(g.zy - g.z0, c.inv_s));
    const float ty = edited_at(g, c, g.y);
    term.q = c.smooth ? soft_smooth(g.classes, spec.edit_delta)
                      : soft_make(s[T_ET], rounded_product(ty - c.t0, c.inv_t));
    float d_temperature = 0;
    if (spec.form == FORM_NKD) {
        part_nkd(g, c, term, spec, s);
    } else if (spec.form == FORM_DKD) {
        part_dkd(g, c, term, spec);
    } else if (spec.topk > 0 && spec.topk < g.classes) {
        part_top(g, c, term, spec);
    } else {
        const float gy = term.c * (term.q.np - term.p.np);
        const float kl =
            soft_tckd(term.p, term.q) + product(term.q.np, soft_nckd(term.p, term.q, term.sums));
        const float d_kl =
            soft_kl_temperature(term.p, term.q, term.sums, term.ts, term.tt, c.smooth);
        term.value = term.factor * kl;
        c.a_s = term.c * term.p.scale;
        c.b_t = term.c * term.q.scale;
        g.gy += gy;
        term.dot =
            c.a_s * term.sums.es_u - c.b_t * (term.sums.et_v - term.sums.et_w) + gy * term.p.d;
        if (spec.topk == 0) {
            d_temperature =
                spec.factor == FACTOR_TSTT ? (term.ts + term.tt) * kl + term.factor * d_kl : d_kl;
        }
    }
    if (spec.zscore && g.z_sd != 0) {
        c.kappa = term.dot * term.ts / ((float)(g.classes - 1) * g.z_sd);
        g.gy -= c.kappa * (g.zy - g.z_mean);
    }
    g.loss += term.a * term.value;
    if (g.notes()) {
        g.shared->coef[index] = c;
        g.shared->record.out[ROW_TERM + index] = term.value;
        g.shared->record.out[ROW_DT + index] = d_temperature;
        g.shared->record.sum[SUM_TERM + index] = term.a * term.value;
        if (index == 0) {
            g.shared->record.out[ROW_T0] = term.ts;
            g.shared->record.out[ROW_A0] = term.a;
        }
    }
}

/* ---- Their gradient ---- */

template <class Team, bool SHARED>
DEVICE float term_gradient(const General<Team, SHARED> &g, const TermCoef &c, int k, float z)
{
    const float dz = z - g.z0;
    float from_s = c.a_s * exp_fast(dz * c.inv_s - c.off_s);
    float from_t = 0;
    bool member = true;
    if (c.b_t != 0) {
        const float t = edited_at(g, c, k);
        member = !c.top || in_top(c, order_key(t), k);
        const float v = c.smooth ? 0 : (t - c.t0) * c.inv_t;
        from_t = member ? c.b_t * exp_fast(v - c.off_t) : 0;
    }
    from_s = c.renorm && !member ? 0 : from_s;
    float gradient = from_s - from_t;
    if (c.a_unit != 0) {
        gradient += c.a_unit * exp_fast(dz * c.inv_unit);
    }
    if (c.kappa != 0) {
        gradient -= c.kappa * (z - g.z_mean);
    }
    return gradient;
}

#endif
