/* The common case of the distillation op: one KL term without z-score, top-k and edit, cross entropy with the label,
 * smoothed or not, z, t and dz of one type. Temperatures and weights may come from anywhere.
 *
 *   dz_k = A1 e^{z_k - z0} + A e^{(z_k - z0)/Ts} - B e^{(t_k - t0)/Tt} - b smoothing/C,  k != y
 *
 * z and t are read once and dz written once wherever the row fits (registers or shared memory), z and t twice in the
 * two-sweep form (t three times with energy bands). Exponentials are taken in base 2, by exp2_fast; where a temperature
 * is 1, 2 or 4, e^x is a power of e^{x/T}, so that 2 instead of 4 are needed per column. The relative error of an
 * exponential is 2^-22 + 2^-23 |argument|, times 4 where it is a fourth power. */
#ifndef CUDISTILL_KERNELS_DISTILL_FAST_CUH
#define CUDISTILL_KERNELS_DISTILL_FAST_CUH

#include "kernels/distill_row.cuh"

/* Stands for an absent column after z0 is subtracted: its exponential is 0 at every temperature, and
 * products with it are finite. */
#define DISTILL_ABSENT (-1e30f)
/* Divergences that only an absent probability makes. */
#define DISTILL_INFINITE 1e25f

enum {
    F_ES,   /* e^u, u = (z - z0)/Ts */
    F_ES1,  /* e^{z - z0} */
    F_ET,   /* e^v, v = (t - t0)/Tt */
    F_ET1,  /* e^{t - t0} */
    F_EE,   /* e^{(t - t0)/Te} */
    F_ET_W, /* e^v (v - u); these four with u and v in units of ln 2 */
    F_ET_V,
    F_ET_VW,
    F_ES_U,
    F_ZZ,
    F_TT,
    F_ZT,
    F_ZRANK,
    F_TRANK,
    F_ZSUM, /* z - z0, with smoothing only */
    F_COUNT
};

/* What all threads of a row know before its sums. */
typedef struct {
    int classes, y;
    bool bad;
    float zy, ty;
    float z_below, t_below; /* the next smaller number, so that > tests >= */
    float z0, t0;
    float ts, tt;
    float s_scale, t_scale, e_scale; /* log2(e) / T */
    int s_power, t_power; /* 1, 2 or 4: T=1 as this power; 0: an exponential of its own */
    int e_power;          /* the same of the energy; -1: known already */
    bool smoothed;
} FastRow;

/* Gradient of a column, with the op's scale. */
typedef struct {
    float a1, a, b, even, gy;
} FastGradient;

DEVICE float next_below(float x)
{
    if (x == 0) {
        return -1.401298464e-45f;
    }
    int bits;
    memcpy(&bits, &x, sizeof bits);
    bits += x > 0 ? -1 : (x == -INFINITY ? 0 : 1);
    memcpy(&x, &bits, sizeof x);
    return x;
}

DEVICE int power_of(float temperature)
{
    return temperature == 1 ? 1 : (temperature == 2 ? 2 : (temperature == 4 ? 4 : 0));
}

DEVICE float raise(float e, int power)
{
    const float square = e * e;
    return power == 1 ? e : (power == 2 ? square : square * square);
}

/* ---- Packs of columns ---- */

/* First column of a lane's pack where a warp holds the row in packs. */
DEVICE int pack_column(int pack, int width)
{
    return (pack * WARP_SIZE + lane()) * width;
}

/* Columns k to k + V of a row; beyond the end 0. */
template <typename T, int V>
DEVICE Pack<T, V> load_columns(const T *row, int k, int end, bool aligned)
{
    if (aligned && k + V <= end) {
        return load_pack_stream<T, V>(row + k);
    }
    Pack<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; i++) {
        pack.v[i] = k + i < end ? load_stream(row + k + i) : from_float<T>(0.0f);
    }
    return pack;
}

/* -inf in place of the target and of what is beyond the end. */
template <int V> DEVICE void mask_columns(float (&z)[V], float (&t)[V], int k, const FastRow &r)
{
    if ((k <= r.y && r.y < k + V) || k + V > r.classes) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            const bool out = k + i == r.y || k + i >= r.classes;
            z[i] = out ? -INFINITY : z[i];
            t[i] = out ? -INFINITY : t[i];
        }
    }
}

template <int V> DEVICE void add_dots(const float (&z)[V], const float (&t)[V], float (&s)[F_COUNT])
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        s[F_ZZ] += z[i] * z[i];
        s[F_TT] += t[i] * t[i];
        s[F_ZT] += z[i] * t[i];
    }
}

template <int V> DEVICE float pack_max(const float (&x)[V], float max)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        max = fmaxf(max, x[i]);
    }
    return max;
}

/* Ranks of the target. */
template <int V>
DEVICE void add_ranks(const float (&z)[V], const float (&t)[V], int k, const FastRow &r,
                      float (&s)[F_COUNT])
{
    const bool before = k + V <= r.y;
    const float z_least = before ? r.z_below : r.zy;
    const float t_least = before ? r.t_below : r.ty;
#pragma unroll
    for (int i = 0; i < V; i++) {
        s[F_ZRANK] += z[i] > z_least ? 1.0f : 0.0f;
        s[F_TRANK] += t[i] > t_least ? 1.0f : 0.0f;
    }
    if (k <= r.y && r.y < k + V) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ZRANK] += k + i < r.y && z[i] == r.zy ? 1.0f : 0.0f;
            s[F_TRANK] += k + i < r.y && t[i] == r.ty ? 1.0f : 0.0f;
        }
    }
}

/* Lowest columns that hold x0. */
template <int V>
DEVICE void find_first(const float (&z)[V], const float (&t)[V], int k, float z0, float t0,
                       float (&first)[2])
{
#pragma unroll
    for (int i = V - 1; i >= 0; i--) {
        first[0] = z[i] == z0 ? fminf(first[0], (float)(k + i)) : first[0];
        first[1] = t[i] == t0 ? fminf(first[1], (float)(k + i)) : first[1];
    }
}

/* From logits to distances from the largest; absent columns stay absent. A NaN is lost here: the row
 * is known by its sum of squares. */
template <int V> DEVICE void subtract_max(float (&x)[V], float x0)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        x[i] = fmaxf(x[i] - x0, DISTILL_ABSENT);
    }
}

/* z, t: distances. es and et return the exponentials at the temperatures. */
template <int V>
DEVICE void add_exponentials(const float (&z)[V], const float (&t)[V], const FastRow &r,
                             float (&s)[F_COUNT], float (&es)[V], float (&et)[V])
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float u = rounded_product(z[i], r.s_scale);
        const float v = rounded_product(t[i], r.t_scale);
        es[i] = exp2_fast(u);
        et[i] = exp2_fast(v);
        s[F_ES] += es[i];
        s[F_ET] += et[i];
        const float w = v - u;
        const float ev = et[i] * v;
        s[F_ET_W] += et[i] * w;
        s[F_ET_V] += ev;
        s[F_ET_VW] += ev * w;
        s[F_ES_U] += es[i] * u;
    }
    if (r.s_power) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ES1] += raise(es[i], r.s_power);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ES1] += exp2_fast(z[i] * DISTILL_LOG2E);
        }
    }
    if (r.t_power) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ET1] += raise(et[i], r.t_power);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ET1] += exp2_fast(t[i] * DISTILL_LOG2E);
        }
    }
    if (r.e_power > 0) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_EE] += raise(et[i], r.e_power);
        }
    } else if (r.e_power == 0) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_EE] += exp2_fast(t[i] * r.e_scale);
        }
    }
    if (r.smoothed) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            s[F_ZSUM] += z[i] > DISTILL_ABSENT ? z[i] : 0;
        }
    }
}

template <int V> DEVICE float energy_of(const float (&t)[V], const FastRow &r, float sum)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        sum += exp2_fast(t[i] * r.e_scale);
    }
    return sum;
}

/* es at Ts, e1 at 1, et at Tt become the gradient in es. */
template <int V>
DEVICE void make_gradient(float (&es)[V], const float (&e1)[V], const float (&et)[V], int k,
                          const FastRow &r, const FastGradient &g)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        es[i] = g.a1 * e1[i] + ((g.a * es[i] - g.even) - g.b * et[i]);
    }
    if (k <= r.y && r.y < k + V) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            es[i] = k + i == r.y ? g.gy : es[i];
        }
    }
}

template <typename T, int V>
DEVICE void store_columns(T *row, int k, int end, bool aligned, bool add, float (&g)[V])
{
    if (aligned && k + V <= end) {
        if (add) {
            float old[V];
            unpack(load_pack_stream<T, V>(row + k), old);
#pragma unroll
            for (int i = 0; i < V; i++) {
                g[i] += old[i];
            }
        }
        store_pack_stream(row + k, repack<T, V>(g));
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        if (k + i < end) {
            const float old = add ? to_float(load_global(row + k + i)) : 0;
            store_global(row + k + i, from_float<T>(add ? old + g[i] : g[i]));
        }
    }
}

/* ---- One row ---- */

template <typename T> struct FastPointers {
    const T *z, *t;
    T *dz;
    bool read_packs, write_packs; /* rows begin at whole packs */
};

template <typename T, int V> DEVICE FastPointers<T> fast_pointers(const DistillParams &p, int row)
{
    FastPointers<T> at;
    at.z = static_cast<const T *>(p.launch.z) + row * p.launch.ldz;
    at.t = static_cast<const T *>(p.launch.t) + row * p.launch.ldt;
    at.dz = static_cast<T *>(p.launch.dz) + row * p.launch.lddz;
    at.read_packs = aligned_to(at.z, V * sizeof(T)) && aligned_to(at.t, V * sizeof(T));
    at.write_packs = aligned_to(at.dz, V * sizeof(T));
    return at;
}

DEVICE FastRow fast_begin(const DistillParams &p, int row)
{
    FastRow r = {};
    r.classes = p.launch.classes;
    const int label = load_cached(p.launch.labels + row);
    r.bad = label < 0 || label >= r.classes;
    r.y = r.bad ? 0 : label;
    r.smoothed = p.spec.smoothing != 0;
    r.e_scale = DISTILL_LOG2E / p.spec.energy_temperature;
    return r;
}

DEVICE void fast_target(FastRow &r, float zy, float ty)
{
    r.zy = r.bad ? NAN : target_logit(zy);
    r.ty = r.bad ? NAN : target_logit(ty);
    r.z_below = next_below(r.zy);
    r.t_below = next_below(r.ty);
}

DEVICE bool fast_has_bands(const DistillParams &p)
{
    return p.spec.terms[0].ts.source == SOURCE_BAND || p.spec.terms[0].tt.source == SOURCE_BAND;
}

/* log-sum-exp at the energy's temperature and the energy itself. */
DEVICE float fast_energy(const DistillParams &p, const FastRow &r, float sum)
{
    const float temperature = p.spec.energy_temperature;
    return -(temperature * soft_make(sum, (r.ty - r.t0) / temperature).lse + r.t0);
}

/* Temperatures; `facts` need the energy only where there are bands. */
DEVICE void fast_temperatures(const DistillParams &p, int row, FastRow &r, const RowFacts &facts,
                              bool energy_known)
{
    const DistillTerm &term = p.spec.terms[0];
    r.ts = row_value(p, row, term.ts, facts);
    r.tt = row_value(p, row, term.tt, facts);
    r.s_scale = DISTILL_LOG2E / r.ts;
    r.t_scale = DISTILL_LOG2E / r.tt;
    r.s_power = power_of(r.ts);
    r.t_power = power_of(r.tt);
    r.e_power = energy_known ? -1 : power_of(r.tt / p.spec.energy_temperature);
}

/* The softmax that lane `source` has made. */
DEVICE Soft soft_of_lane(const Soft &mine, int source)
{
    Soft s;
    s.d = shuffle(mine.d, source);
    s.sn = shuffle(mine.sn, source);
    s.log_sn = shuffle(mine.log_sn, source);
    s.lse = shuffle(mine.lse, source);
    s.scale = shuffle(mine.scale, source);
    s.py = shuffle(mine.py, source);
    s.np = shuffle(mine.np, source);
    s.log_py = shuffle(mine.log_py, source);
    s.log_np = shuffle(mine.log_np, source);
    return s;
}

/* What a row comes to. */
typedef struct {
    float ce, value, loss; /* value: factor * KL */
    float a, b;            /* weights of the term and of the cross entropy */
    float energy;
    float d_temperature;
} FastValues;

/* By one warp. */
DEVICE void fast_note(const FastRow &r, const float (&s)[F_COUNT], const float (&first)[2],
                      const Soft &p1, const Soft &q1, const FastValues &v, RowRecord *record)
{
    const bool writer = lane() == 0;
    const float z_arg =
        net_record(record, student_columns(), NetFacts{r.z0, r.zy, s[F_ZRANK], first[0], r.y, true},
                   p1, r.classes, writer);
    const float t_arg =
        net_record(record, teacher_columns(), NetFacts{r.t0, r.ty, s[F_TRANK], first[1], r.y, true},
                   q1, r.classes, writer);
    if (writer) {
        record->out[ROW_LOSS] = v.loss;
        record->out[ROW_CE] = v.ce;
        record->out[ROW_ENERGY] = v.energy;
        record->out[ROW_COS] = cosine(s[F_ZZ], s[F_TT], s[F_ZT]);
        record->out[ROW_T0] = r.ts;
        record->out[ROW_A0] = v.a;
        record->out[ROW_TERM] = v.value;
        record->out[ROW_DT] = v.d_temperature;
        record->sum[SUM_ROWS] = 1;
        record->sum[SUM_LOSS] = v.loss;
        record->sum[SUM_CE] = v.b * v.ce;
        record->sum[SUM_ENERGY] = v.energy;
        record->sum[SUM_AGREE] = z_arg >= 0 && z_arg == t_arg ? 1.0f : 0.0f;
        record->sum[SUM_TERM] = v.a * v.value;
        record->sum[SUM_NONFINITE] = isfinite(v.loss) ? 0.0f : 1.0f;
    }
}

/* The row's five softmaxes, of which the lanes of a warp make one each. */
typedef struct {
    Soft p1, q1, ps, qs;
    float energy_lse;
} FastSofts;

DEVICE FastSofts fast_softs(const DistillParams &p, const FastRow &r, const float (&s)[F_COUNT])
{
    /* What subtract_max has lost: a NaN shows in the squares, an infinite x0 leaves no exponential. */
    const float dz = isnan(s[F_ZZ]) || isinf(r.z0) ? NAN : r.zy - r.z0;
    const float dt = isnan(s[F_TT]) || isinf(r.t0) ? NAN : r.ty - r.t0;
    const int of = lane();
    const float sum = of == 0   ? s[F_ES1]
                      : of == 1 ? s[F_ET1]
                      : of == 2 ? s[F_ES]
                      : of == 3 ? s[F_ET]
                                : s[F_EE];
    const float temperature = of < 2    ? 1
                              : of == 2 ? r.ts
                              : of == 3 ? r.tt
                                        : p.spec.energy_temperature;
    const Soft mine = soft_make(sum, (of == 0 || of == 2 ? dz : dt) / temperature);
    FastSofts softs;
    softs.p1 = soft_of_lane(mine, 0);
    softs.q1 = soft_of_lane(mine, 1);
    softs.ps = soft_of_lane(mine, 2);
    softs.qs = soft_of_lane(mine, 3);
    softs.energy_lse = shuffle(mine.lse, 4);
    return softs;
}

/* From the sums to loss, exports and the gradient's coefficients, by one warp. energy: where known,
 * else taken from the sums. */
DEVICE FastGradient fast_finish(const DistillParams &p, int row, const FastRow &r,
                                const float (&s)[F_COUNT], const float (&first)[2], float energy,
                                RowRecord *record)
{
    const DistillTerm &term = p.spec.terms[0];
    const FastSofts softs = fast_softs(p, r, s);
    const Soft &p1 = softs.p1;
    const Soft &ps = softs.ps;
    const Soft &qs = softs.qs;
    FastValues v;
    v.energy = r.e_power < 0 ? energy : -(p.spec.energy_temperature * softs.energy_lse + r.t0);
    v.energy = isnan(softs.q1.lse) ? NAN : v.energy;
    const PairSums sums = {s[F_ET_W] * DISTILL_LN2, s[F_ET_V] * DISTILL_LN2,
                           s[F_ET_VW] * (DISTILL_LN2 * DISTILL_LN2), s[F_ES_U] * DISTILL_LN2};
    float kl = soft_tckd(ps, qs) + (qs.np != 0 ? qs.np * soft_nckd(ps, qs, sums) : 0);
    kl = kl > DISTILL_INFINITE ? INFINITY : kl;
    const float factor = term.factor == FACTOR_TSTT ? r.ts * r.tt : 1;
    const float d_kl = soft_kl_temperature(ps, qs, sums, r.ts, r.tt, false);
    v.d_temperature = term.factor == FACTOR_TSTT ? (r.ts + r.tt) * kl + factor * d_kl : d_kl;
    const RowFacts facts = {v.energy, -p1.log_py, -softs.q1.log_py};
    v.a = row_value(p, row, term.weight, facts);
    v.b = row_value(p, row, p.spec.ce_weight, facts);
    const float even = p.spec.smoothing / (float)r.classes;
    const float on_y = even + (1 - p.spec.smoothing);
    const float others = even * (float)(r.classes - 1);
    v.ce = -p1.log_py;
    if (r.smoothed) {
        v.ce = others * p1.lse - even * s[F_ZSUM] - on_y * p1.log_py;
        /* A logit of -inf is absent from the sum. */
        v.ce = isinf(s[F_ZZ]) && !isnan(v.ce) ? INFINITY : v.ce;
    }
    v.value = factor * kl;
    v.loss = v.b * v.ce + v.a * v.value;
    fast_note(r, s, first, p1, softs.q1, v, record);
    const float scale = row_scale(p);
    const float c = scale * v.a * factor / r.ts;
    FastGradient g;
    g.a1 = scale * v.b * p1.scale;
    g.a = c * ps.scale;
    g.b = c * qs.scale;
    g.even = scale * v.b * even;
    g.gy = scale * v.b * (others * p1.py - on_y * p1.np) + c * (qs.np - ps.np);
    return g;
}

/* A row at or beyond rows_valid. */
template <typename T, int V, class Team>
DEVICE void fast_invalid(const DistillParams &p, const Team &team, int row)
{
    if (p.spec.dz_add) {
        return;
    }
    const FastPointers<T> at = fast_pointers<T, V>(p, row);
    int begin;
    int end;
    team.slice(p.launch.classes, &begin, &end);
    for (int k = begin + team.thread() * V; k < end; k += team.threads() * V) {
        float zero[V] = {};
        store_columns<T, V>(at.dz, k, end, at.write_packs, false, zero);
    }
}

#endif
