/* One row of the distillation op with any spec: every term, target, edit and export of kernels/distill_spec.h, in
 * several passes over a row that lies in shared memory in its storage type (SHARED) or is read from global memory in
 * every pass. All threads of the team do the row's arithmetic alike, thread 0 notes results in shared memory.
 *
 * Bytes: z, t and dz once when SHARED, plus targets and exports; otherwise z and t 3 times and once (2 with z-score, 35
 * to 55 with top-k) more for every term, from the second time on mostly out of the L2 cache. */
#ifndef CUDISTILL_KERNELS_DISTILL_GENERAL_CUH
#define CUDISTILL_KERNELS_DISTILL_GENERAL_CUH

#include "kernels/distill_general_target.cuh"
#include "kernels/distill_general_terms.cuh"

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
