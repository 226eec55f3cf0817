/* One row of the distillation op with any spec: every term, target, edit and export of kernels/distill_spec.h, in
 * several passes over a row that lies in shared memory in its storage type (SHARED) or is read from global memory in
 * every pass. All threads of the team do the row's arithmetic alike, thread 0 notes results in shared memory.
 *
 * Bytes: z, t and dz once when SHARED, plus targets and exports; otherwise z and t 3 times and once (2 with z-score, 35
 * to 55 with top-k) more for every term, from the second time on mostly out of the L2 cache. */
#ifndef CUDISTILL_KERNELS_DISTILL_GENERAL_CUH
#define CUDISTILL_KERNELS_DISTILL_GENERAL_CUH

#include "kernels/distill_row.cuh"

/* What a term adds to the gradient of non-target class k, before the op's scale, with
 * u = (z_k - z0) inv_s and v = (t_k - t0) inv_t:
 * a_s exp(u - off_s) - b_t exp(v - off_t) + a_unit exp((z_k - z0) inv_unit) - kappa (z_k - mean). */
typedef struct {
    float a_s, off_s, inv_s;
    float b_t, off_t, inv_t, t0;
    float a_unit, inv_unit;
    float kappa;
    unsigned least; /* top-k: members are the keys above, and those equal to it up to index `cut` */
    int cut;
    bool smooth, swap, top, renorm;
    float on_y, others; /* of a smoothed row: values that stand for its logits, see edited_at */
} TermCoef;

/* Of one team, in shared memory. */
typedef struct {
    RowRecord record;
    TermCoef coef[DISTILL_MAX_TERMS];
} GeneralShared;

/* Logits at columns `begin` and on. */
typedef struct {
    const unsigned char *data;
    int type, begin;
} RowView;

template <bool SHARED, typename T> DEVICE float view_load(const RowView &view, int k)
{
    const T *const at = reinterpret_cast<const T *>(view.data) + (k - view.begin);
    if constexpr (SHARED) {
        return to_float(*at);
    }
    return to_float(load_global(at));
}

template <bool SHARED> DEVICE float view_at(const RowView &view, int k)
{
    return view.type == KERNEL_F32    ? view_load<SHARED, float>(view, k)
           : view.type == KERNEL_BF16 ? view_load<SHARED, bf16_t>(view, k)
                                      : view_load<SHARED, half_t>(view, k);
}

/* Single logits from global memory; the row is read as a whole besides. */
DEVICE float logit_at(const void *row, int type, int k)
{
    return type == KERNEL_F32    ? load_cached(static_cast<const float *>(row) + k)
           : type == KERNEL_BF16 ? to_float(load_cached(static_cast<const bf16_t *>(row) + k))
                                 : to_float(load_cached(static_cast<const half_t *>(row) + k));
}

static __host__ __device__ __forceinline__ int type_size(int type)
{
    return type == KERNEL_F32 ? 4 : 2;
}

DEVICE const void *element(const void *base, int type, int64_t index)
{
    return static_cast<const char *>(base) + index * type_size(type);
}

/* Everything about a row that all its threads know. */
template <class Team, bool SHARED> struct General {
    const DistillParams &p;
    Team &team;
    GeneralShared *shared;
    unsigned *marks; /* bit per column of the block: named by a sparse target */
    int row, classes, begin, end;
    bool has_z, has_t, has_label, bad; /* bad: a class index is out of range */
    int y, top;
    const void *z_row, *t_row;
    RowView z, t;
    float zy, ty, z0, t0, z_sum, z_mean, z_sd, t_sd;
    RowFacts facts;
    Soft p1;
    float scale, gy, loss;

    __device__ __forceinline__ General(const DistillParams &params, Team &members,
                                       GeneralShared *record)
        : p(params), team(members), shared(record)
    {
    }
    __device__ __forceinline__ bool notes(void) const
    {
        return team.thread() == 0;
    }
    __device__ __forceinline__ float z_at(int k) const
    {
        return view_at<SHARED>(z, k);
    }
    __device__ __forceinline__ float t_at(int k) const
    {
        return view_at<SHARED>(t, k);
    }
};

/* The cross entropy's target: `even` on every class besides the components' own entries. */
typedef struct {
    float even, on_y, others; /* probability of y, of all other classes */
    float dot;                /* sum over k != y of u_k (z_k - z0) */
    int kind[DISTILL_MAX_TARGETS], index[DISTILL_MAX_TARGETS];
    float weight[DISTILL_MAX_TARGETS]; /* of the component; of its entry where it is a class */
    float norm[DISTILL_MAX_TARGETS], rest[DISTILL_MAX_TARGETS];
    float b;
} Target;

/* a * b where 0 times an infinity counts as 0. */
DEVICE float product(float a, float b)
{
    return a == 0 ? 0 : a * b;
}

/* ---- Loading ---- */

/* `bytes` (even) from global to shared memory by all threads of the block's team. */
template <class Team>
DEVICE void copy_row(const Team &team, unsigned char *to, const void *from, int bytes)
{
    const unsigned char *const source = static_cast<const unsigned char *>(from);
    int done = 0;
    if (aligned_to(source, 16)) {
        const int packs = bytes / 16;
        typedef Pack<uint32_t, 4> Word;
        for (int i = team.thread(); i < packs; i += team.threads()) {
            reinterpret_cast<Word *>(to)[i] =
                load_pack_stream<uint32_t, 4>(reinterpret_cast<const uint32_t *>(source) + 4 * i);
        }
        done = packs * 16;
    } else if (aligned_to(source, 4)) {
        const int words = bytes / 4;
        for (int i = team.thread(); i < words; i += team.threads()) {
            reinterpret_cast<uint32_t *>(to)[i] =
                load_stream(reinterpret_cast<const uint32_t *>(source) + i);
        }
        done = words * 4;
    }
    for (int i = done / 2 + team.thread(); i < bytes / 2; i += team.threads()) {
        reinterpret_cast<uint16_t *>(to)[i] =
            load_stream(reinterpret_cast<const uint16_t *>(source) + i);
    }
}

/* Bytes of shared memory for `columns` of a row: z, t, marks. */
static __host__ __device__ __forceinline__ size_t general_shared_bytes(int columns, int z_type,
                                                                       int t_type, bool has_z,
                                                                       bool has_t, bool marks)
{
    const size_t z_bytes = has_z ? ((size_t)columns * type_size(z_type) + 15) / 16 * 16 : 0;
    const size_t t_bytes = has_t ? ((size_t)columns * type_size(t_type) + 15) / 16 * 16 : 0;
    return z_bytes + t_bytes + (marks ? ((size_t)columns + 127) / 128 * 16 : 0);
}

/* `memory`: this team's part of the dynamic shared memory, columns = most columns of a block. */
template <class Team, bool SHARED>
DEVICE void general_load(General<Team, SHARED> &g, unsigned char *memory, int columns)
{
    const DistillLaunch &in = g.p.launch;
    g.team.slice(g.classes, &g.begin, &g.end);
    g.has_z = in.z != NULL;
    g.has_t = in.t != NULL;
    g.z = RowView{NULL, (int)in.z_type, 0};
    g.t = RowView{NULL, (int)in.t_type, 0};
    g.z_row = g.has_z ? element(in.z, in.z_type, g.row * in.ldz) : NULL;
    g.t_row = g.has_t ? element(in.t, in.t_type, g.row * in.ldt) : NULL;
    if constexpr (SHARED) {
        const size_t z_bytes =
            general_shared_bytes(columns, in.z_type, in.t_type, g.has_z, false, false);
        const size_t both =
            general_shared_bytes(columns, in.z_type, in.t_type, g.has_z, g.has_t, false);
        const int count = g.end - g.begin;
        if (g.has_z) {
            copy_row(g.team, memory, element(g.z_row, in.z_type, g.begin),
                     count * type_size(in.z_type));
        }
        if (g.has_t) {
            copy_row(g.team, memory + z_bytes, element(g.t_row, in.t_type, g.begin),
                     count * type_size(in.t_type));
        }
        g.z.data = memory;
        g.t.data = memory + z_bytes;
        g.z.begin = g.t.begin = g.begin;
        g.marks = reinterpret_cast<unsigned *>(memory + both);
        g.team.sync();
    } else {
        g.z.data = static_cast<const unsigned char *>(g.z_row);
        g.t.data = static_cast<const unsigned char *>(g.t_row);
        g.marks = reinterpret_cast<unsigned *>(memory);
    }
    g.has_label = in.labels != NULL;
    const int label = g.has_label ? load_cached(in.labels + g.row) : 0;
    g.bad = label < 0 || label >= g.classes;
    g.y = g.bad ? 0 : label;
    g.zy = g.has_z ? target_logit(logit_at(g.z_row, in.z_type, g.y)) : 0;
    g.ty = g.has_t ? target_logit(logit_at(g.t_row, in.t_type, g.y)) : 0;
    if (g.bad) {
        g.zy = g.ty = NAN;
    }
}

/* ---- Statistics ---- */

template <class Team, bool SHARED> DEVICE void general_max(General<Team, SHARED> &g)
{
    float m[2] = {-INFINITY, -INFINITY};
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        if (k != g.y) {
            m[0] = g.has_z ? fmaxf(m[0], g.z_at(k)) : 0;
            m[1] = g.has_t ? fmaxf(m[1], g.t_at(k)) : 0;
        }
    }
    g.team.template combine<OpMax>(m);
    g.z0 = m[0];
    g.t0 = m[1];
}

enum { S_Z, S_T, S_E, S_ZRANK, S_TRANK, S_ZSUM, S_TSUM, S_ZZ, S_TT, S_ZT, S_COUNT };

template <class Team, bool SHARED>
DEVICE void general_sums(const General<Team, SHARED> &g, float (&s)[S_COUNT], float (&first)[2])
{
    const float inv_energy = 1 / g.p.spec.energy_temperature;
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        const float z = g.has_z ? g.z_at(k) : 0;
        const float t = g.has_t ? g.t_at(k) : 0;
        s[S_ZZ] += z * z;
        s[S_TT] += t * t;
        s[S_ZT] += z * t;
        if (k == g.y) {
            continue;
        }
        s[S_ZRANK] += z > g.zy || (k < g.y && z == g.zy) ? 1.0f : 0.0f;
        s[S_TRANK] += t > g.ty || (k < g.y && t == g.ty) ? 1.0f : 0.0f;
        first[0] = z == g.z0 ? fminf(first[0], (float)k) : first[0];
        first[1] = t == g.t0 ? fminf(first[1], (float)k) : first[1];
        const float dz = z - g.z0;
        const float dt = t - g.t0;
        s[S_ZSUM] += dz;
        s[S_TSUM] += dt;
        s[S_Z] += exp_fast(dz);
        s[S_T] += exp_fast(dt);
        s[S_E] += exp_fast(dt * inv_energy);
    }
}

/* Standard deviations, two passes with the second's residual; the mean of z. */
template <class Team, bool SHARED> DEVICE void general_deviations(General<Team, SHARED> &g, float t_sum)
{
    const float inv = 1 / (float)g.classes;
    const float mz = g.z0 + (g.z_sum + (g.zy - g.z0)) * inv;
    const float mt = g.t0 + (t_sum + (g.ty - g.t0)) * inv;
    float s[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        const float z = g.z_at(k) - mz;
        const float t = g.t_at(k) - mt;
        s[0] += z;
        s[1] += z * z;
        s[2] += t;
        s[3] += t * t;
    }
    g.team.template combine<OpSum>(s);
    const float others = (float)(g.classes - 1);
    const float z_variance = (s[1] - s[0] * s[0] * inv) / others;
    const float t_variance = (s[3] - s[2] * s[2] * inv) / others;
    g.z_mean = mz + s[0] * inv;
    /* Below zero by rounding only; NaN stays. */
    g.z_sd = sqrtf(z_variance < 0 ? 0 : z_variance);
    g.t_sd = sqrtf(t_variance < 0 ? 0 : t_variance);
}

template <class Team, bool SHARED> DEVICE void general_statistics(General<Team, SHARED> &g)
{
    general_max(g);
    float s[S_COUNT] = {};
    float first[2] = {(float)g.classes, (float)g.classes};
    general_sums(g, s, first);
    g.team.template combine<OpSum>(s);
    g.team.template combine<OpMin>(first);
    RowRecord *const record = &g.shared->record;
    const float energy_t = g.p.spec.energy_temperature;
    float t_arg = -2;
    g.facts = RowFacts{0, 0, 0};
    g.z_sum = s[S_ZSUM];
    if (g.has_t) {
        const Soft q1 = soft_make(s[S_T], g.ty - g.t0);
        const Soft at_e = soft_make(s[S_E], (g.ty - g.t0) / energy_t);
        const NetFacts net = {g.t0, g.ty, s[S_TRANK], first[1], g.y, g.has_label};
        t_arg = net_record(record, teacher_columns(), net, q1, g.classes, g.notes());
        g.facts.energy = -(energy_t * at_e.lse + g.t0);
        g.facts.ce_t = g.has_label ? -q1.log_py : 0;
        if (g.notes()) {
            record->out[ROW_ENERGY] = g.facts.energy;
            record->sum[SUM_ENERGY] = g.facts.energy;
        }
    }
    g.top = (int)t_arg;
    if (g.has_z) {
        g.p1 = soft_make(s[S_Z], g.zy - g.z0);
        const NetFacts net = {g.z0, g.zy, s[S_ZRANK], first[0], g.y, g.has_label};
        const float z_arg =
            net_record(record, student_columns(), net, g.p1, g.classes, g.notes());
        g.facts.ce_s = g.has_label ? -g.p1.log_py : 0;
        if (g.notes() && g.has_t) {
            record->out[ROW_COS] = cosine(s[S_ZZ], s[S_TT], s[S_ZT]);
            record->sum[SUM_AGREE] = z_arg >= 0 && z_arg == t_arg ? 1.0f : 0.0f;
        }
    }
    bool any_zscore = false;
    for (int i = 0; i < g.p.spec.n_terms; i++) {
        any_zscore = any_zscore || g.p.spec.terms[i].zscore;
    }
    g.z_mean = g.z_sd = g.t_sd = 0;
    if (any_zscore && g.has_z) {
        general_deviations(g, s[S_TSUM]);
    }
}

/* ---- Cross entropy ---- */

template <class Team, bool SHARED>
DEVICE void target_class(General<Team, SHARED> &g, Target &u, int j, float weight, int index)
{
    const float smoothing = g.p.spec.smoothing;
    if (index < 0 || index >= g.classes) {
        g.bad = true;
        return;
    }
    u.kind[j] = TARGET_CLASS;
    u.index[j] = index;
    u.weight[j] = weight * (1 - smoothing);
    u.even += weight * smoothing / (float)g.classes;
    if (index == g.y) {
        u.on_y += u.weight[j];
    } else {
        u.others += u.weight[j];
        u.dot += product(u.weight[j], logit_at(g.z_row, g.p.launch.z_type, index) - g.z0);
    }
}

template <class Team, bool SHARED>
DEVICE void target_sparse(General<Team, SHARED> &g, Target &u, int j, float weight)
{
    const DistillLaunch &in = g.p.launch;
    const int pairs = g.p.spec.sparse_k;
    const int64_t at = ((int64_t)g.row * DISTILL_MAX_TARGETS + j) * pairs;
    if (!in.sparse_index || !in.sparse_value) {
        g.bad = true;
        return;
    }
    /* Of the pairs: those on y, their mass, the others' mass, their mass (z - z0), (z - z0); wrong indices. */
    float s[6] = {0, 0, 0, 0, 0, 0};
#pragma unroll 1
    for (int i = g.team.thread(); i < pairs; i += g.team.threads()) {
        const int index = load_cached(in.sparse_index + at + i);
        const float value = load_cached(in.sparse_value + at + i);
        if (index < 0 || index >= g.classes) {
            s[5] += 1;
        } else if (index == g.y) {
            s[0] += 1;
            s[1] += value;
        } else {
            const float d = logit_at(g.z_row, in.z_type, index) - g.z0;
            s[2] += value;
            s[3] += product(value, d);
            s[4] += d;
        }
    }
    if (!g.team.writes()) {
        /* Every block of a cluster has gone through all pairs: one counts. */
        for (int i = 0; i < 6; i++) {
            s[i] = 0;
        }
    }
    g.team.template combine<OpSum>(s);
    g.bad = g.bad || s[5] > 0;
    const bool renorm = g.p.spec.sparse_renorm;
    const int others = g.classes - pairs;
    const float mass = s[1] + s[2];
    const float rest = renorm || others == 0 ? 0 : (1 - mass) / (float)others;
    const float norm = renorm ? 1 / mass : 1;
    u.kind[j] = TARGET_SPARSE;
    u.weight[j] = weight;
    u.norm[j] = norm;
    u.rest[j] = rest;
    u.even += weight * rest;
    u.on_y += weight * (norm * s[1] - rest * s[0]);
    u.others += weight * (norm * s[2] - rest * ((float)pairs - s[0]));
    u.dot += weight * (norm * s[3] - product(rest, s[4]));
}

template <class Team, bool SHARED>
DEVICE void target_dense(General<Team, SHARED> &g, Target &u, int j, float weight)
{
    if (!g.p.launch.dense) {
        g.bad = true;
        return;
    }
    const float *const dense =
        g.p.launch.dense + ((int64_t)g.row * DISTILL_MAX_TARGETS + j) * g.classes;
    float s[2] = {0, 0};
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        if (k != g.y) {
            const float d = load_global(dense + k);
            s[0] += d;
            s[1] += product(d, g.z_at(k) - g.z0);
        }
    }
    g.team.template combine<OpSum>(s);
    u.kind[j] = TARGET_DENSE;
    u.weight[j] = weight;
    u.on_y += weight * load_cached(dense + g.y);
    u.others += weight * s[0];
    u.dot += weight * s[1];
}

template <class Team, bool SHARED> DEVICE void build_target(General<Team, SHARED> &g, Target &u)
{
    const DistillLaunch &in = g.p.launch;
    u.kind[0] = u.kind[1] = TARGET_NONE;
    u.even = u.on_y = u.others = u.dot = 0;
    if (!in.target_kind) {
        if (g.has_label) {
            target_class(g, u, 0, 1.0f, g.y);
        }
    } else {
#pragma unroll
        for (int j = 0; j < DISTILL_MAX_TARGETS; j++) {
            const int64_t at = (int64_t)g.row * DISTILL_MAX_TARGETS + j;
            const int kind = load_cached(in.target_kind + at);
            const float weight = load_cached(in.target_weight + at);
            if (kind == TARGET_CLASS) {
                target_class(g, u, j, weight,
                             in.target_class ? load_cached(in.target_class + at)
                             : g.has_label   ? g.y
                                             : -1);
            } else if (kind == TARGET_SPARSE) {
                target_sparse(g, u, j, weight);
            } else if (kind == TARGET_DENSE) {
                target_dense(g, u, j, weight);
            } else if (kind != TARGET_NONE) {
                g.bad = true;
            }
        }
    }
    u.on_y += u.even;
    u.others += u.even * (float)(g.classes - 1);
    u.dot += product(u.even, g.z_sum);
}

template <class Team, bool SHARED>
DEVICE void general_cross_entropy(General<Team, SHARED> &g, Target &u)
{
    build_target(g, u);
    u.b = row_value(g.p, g.row, g.p.spec.ce_weight, g.facts);
    float ce = u.others * g.p1.lse - u.dot - product(u.on_y, g.p1.log_py);
    ce = g.bad ? NAN : ce;
    /* mass p_y - u_y without cancellation: a confident row's small gradient keeps its digits. */
    g.gy = u.b * (u.others * g.p1.py - u.on_y * g.p1.np);
    g.loss = u.b * ce;
    if (g.notes()) {
        g.shared->record.out[ROW_CE] = ce;
        g.shared->record.sum[SUM_CE] = g.loss;
    }
}

/* ---- Terms ---- */

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
        const float u = dz * c.inv_s;
        const float v = dt * c.inv_t;
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
    term.dot = c.a_s * term.sums.es_u - c.b_t * q_u +
               (c.a_unit * s[T_UNIT_U] + gy * p1.d) / term.ts;
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
    term.p = soft_make(s[T_ES], (g.zy - g.z0) * c.inv_s);
    const float ty = edited_at(g, c, g.y);
    term.q = c.smooth ? soft_smooth(g.classes, spec.edit_delta)
                      : soft_make(s[T_ET], (ty - c.t0) * c.inv_t);
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
            d_temperature = spec.factor == FACTOR_TSTT
                                ? (term.ts + term.tt) * kl + term.factor * d_kl
                                : d_kl;
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

/* ---- Gradient ---- */

/* Marks the columns that sparse targets name; each word of marks has one owner. */
template <class Team, bool SHARED>
DEVICE void mark_sparse(General<Team, SHARED> &g, const Target &u)
{
    const int words = (g.end - g.begin + 31) / 32;
    const int pairs = g.p.spec.sparse_k;
#pragma unroll 1
    for (int word = g.team.thread(); word < words; word += g.team.threads()) {
        unsigned bits = 0;
#pragma unroll 1
        for (int i = 0; i < DISTILL_MAX_TARGETS * pairs; i++) {
            const int64_t at = (int64_t)g.row * DISTILL_MAX_TARGETS * pairs + i;
            const int column = load_cached(g.p.launch.sparse_index + at) - g.begin - 32 * word;
            const int kind = i < pairs ? u.kind[0] : u.kind[1];
            const bool used = kind == TARGET_SPARSE;
            bits |= used && column >= 0 && column < 32 ? 1u << column : 0u;
        }
        g.marks[word] = bits;
    }
    g.team.sync();
}

template <class Team, bool SHARED>
DEVICE float sparse_at(const General<Team, SHARED> &g, const Target &u, int k)
{
    const int column = k - g.begin;
    float value = 0;
    if (!(g.marks[column / 32] >> (column % 32) & 1u)) {
        return value;
    }
    const int pairs = g.p.spec.sparse_k;
#pragma unroll
    for (int j = 0; j < DISTILL_MAX_TARGETS; j++) {
        const int64_t at = ((int64_t)g.row * DISTILL_MAX_TARGETS + j) * pairs;
#pragma unroll 1
        for (int i = 0; i < pairs && u.kind[j] == TARGET_SPARSE; i++) {
            if (load_cached(g.p.launch.sparse_index + at + i) == k) {
                const float v = load_cached(g.p.launch.sparse_value + at + i);
                value += u.weight[j] * (v * u.norm[j] - u.rest[j]);
            }
        }
    }
    return value;
}

/* u_k of a non-target class. */
template <class Team, bool SHARED>
DEVICE float target_at(const General<Team, SHARED> &g, const Target &u, int k, bool sparse)
{
    float value = u.even + (sparse ? sparse_at(g, u, k) : 0);
#pragma unroll
    for (int j = 0; j < DISTILL_MAX_TARGETS; j++) {
        if (u.kind[j] == TARGET_DENSE) {
            const int64_t at = ((int64_t)g.row * DISTILL_MAX_TARGETS + j) * g.classes;
            value += u.weight[j] * load_global(g.p.launch.dense + at + k);
        }
        value += u.kind[j] == TARGET_CLASS && u.index[j] == k ? u.weight[j] : 0;
    }
    return value;
}

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

template <typename T> DEVICE void put_gradient(void *row, int k, float gradient, bool add)
{
    T *const at = static_cast<T *>(row) + k;
    const float old = add ? to_float(load_global(at)) : 0;
    store_global(at, from_float<T>(add ? old + gradient : gradient));
}

template <class Team, bool SHARED>
DEVICE void store_gradient(const General<Team, SHARED> &g, int k, float gradient)
{
    const DistillLaunch &in = g.p.launch;
    void *const row = const_cast<void *>(element(in.dz, in.dz_type, g.row * in.lddz));
    const bool add = g.p.spec.dz_add;
    if (in.dz_type == KERNEL_F32) {
        put_gradient<float>(row, k, gradient, add);
    } else if (in.dz_type == KERNEL_BF16) {
        put_gradient<bf16_t>(row, k, gradient, add);
    } else {
        put_gradient<half_t>(row, k, gradient, add);
    }
}

template <class Team, bool SHARED>
DEVICE void general_gradient(General<Team, SHARED> &g, const Target &u)
{
    const bool sparse = u.kind[0] == TARGET_SPARSE || u.kind[1] == TARGET_SPARSE;
    if (sparse) {
        mark_sparse(g, u);
    }
    const float unit = u.b * (u.on_y + u.others) * g.p1.scale;
    const float scale = g.bad ? NAN : row_scale(g.p);
    const int n_terms = g.p.spec.n_terms;
#pragma unroll 1
    for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
        float gradient = g.gy;
        if (k != g.y) {
            const float z = g.z_at(k);
            gradient = unit * exp_fast(z - g.z0) - u.b * target_at(g, u, k, sparse);
#pragma unroll 1
            for (int i = 0; i < n_terms; i++) {
                gradient += term_gradient(g, g.shared->coef[i], k, z);
            }
        }
        store_gradient(g, k, scale * gradient);
    }
}

/* ---- The row ---- */

template <class Team, bool SHARED> DEVICE void general_invalid(General<Team, SHARED> &g)
{
    if (!g.p.spec.statistics_only && !g.p.spec.dz_add) {
        g.team.slice(g.classes, &g.begin, &g.end);
        for (int k = g.begin + g.team.thread(); k < g.end; k += g.team.threads()) {
            store_gradient(g, k, 0.0f);
        }
    }
}

/* columns: most columns of one block, as the launcher has sized `memory` for. */
template <class Team, bool SHARED>
DEVICE void general_row(const DistillParams &p, Team &team, GeneralShared *shared,
                        unsigned char *memory, int columns, int row)
{
    General<Team, SHARED> g(p, team, shared);
    g.row = row;
    g.classes = p.launch.classes;
    if (team.leads()) {
        record_clear(&shared->record);
    }
    team.sync();
    if (!row_is_valid(p, row)) {
        general_invalid(g);
    } else {
        general_load(g, memory, columns);
        general_statistics(g);
        g.loss = g.bad ? NAN : 0;
        if (g.has_z) {
            Target u;
            general_cross_entropy(g, u);
#pragma unroll 1
            for (int i = 0; i < p.spec.n_terms; i++) {
                general_term(g, i);
            }
            team.sync();
            if (!p.spec.statistics_only) {
                general_gradient(g, u);
            }
        }
        if (g.notes()) {
            RowRecord *const record = &shared->record;
            record->out[ROW_LOSS] = g.loss;
            record->sum[SUM_LOSS] = g.loss;
            record->sum[SUM_ROWS] = 1;
            record->sum[SUM_NONFINITE] = isfinite(g.has_z ? g.loss : g.facts.energy) ? 0.0f : 1.0f;
        }
    }
    team.sync();
    if (team.leads() && team.writes()) {
        record_store(p, row, &shared->record);
    }
    team.finish();
}

#endif
