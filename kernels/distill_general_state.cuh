/* The general row kernel at work: what its threads know of a row, loading, statistics. See distill_general.cuh. */
#ifndef CUDISTILL_KERNELS_DISTILL_GENERAL_STATE_CUH
#define CUDISTILL_KERNELS_DISTILL_GENERAL_STATE_CUH

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
        for (int i = team.thread(); i < packs; i += team.threads()) {
            copy_to_shared(to + 16 * i, source + 16 * i);
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
        const size_t z_bytes = g.has_z ? row_part_bytes(columns, in.z_type) : 0;
        const size_t both = z_bytes + (g.has_t ? row_part_bytes(columns, in.t_type) : 0);
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
        copies_wait();
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
template <class Team, bool SHARED>
DEVICE void general_deviations(General<Team, SHARED> &g, float t_sum)
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
        const float z_arg = net_record(record, student_columns(), net, g.p1, g.classes, g.notes());
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

#endif
