/* The cross entropy of the general row kernel: targets of up to two components of any kind. See distill_general.cuh. */
#ifndef CUDISTILL_KERNELS_DISTILL_GENERAL_TARGET_CUH
#define CUDISTILL_KERNELS_DISTILL_GENERAL_TARGET_CUH

#include "kernels/distill_general_state.cuh"

/* The cross entropy's target: `even` on every class besides the components' own entries. */
typedef struct {
    float even, on_y, others; /* probability of y, of all other classes */
    float dot;                /* sum over k != y of u_k (z_k - z0) */
    int kind[DISTILL_MAX_TARGETS], index[DISTILL_MAX_TARGETS];
    float weight[DISTILL_MAX_TARGETS]; /* of the component; of its entry where it is a class */
    float norm[DISTILL_MAX_TARGETS], rest[DISTILL_MAX_TARGETS];
    float b;
} Target;

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

/* ---- Its gradient ---- */

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
            /* Any index, also a wrong one: unsigned numbers wrap. */
            const unsigned column = (unsigned)load_cached(g.p.launch.sparse_index + at) -
                                    (unsigned)(g.begin + 32 * word);
            const int kind = i < pairs ? u.kind[0] : u.kind[1];
            const bool used = kind == TARGET_SPARSE;
            bits |= used && column < 32 ? 1u << column : 0u;
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

#endif
