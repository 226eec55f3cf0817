/* The common case of the distillation op with the row in the shared memory of a block, or of the blocks of a cluster.
 * Every thread keeps to its own columns, so that no barrier stands between the passes. */
#ifndef CUDISTILL_KERNELS_DISTILL_SHARED_CUH
#define CUDISTILL_KERNELS_DISTILL_SHARED_CUH

#include "kernels/distill_fast.cuh"

/* Of one block, beside its columns. */
typedef struct {
    RowRecord record;
    FastGradient gradient;
} FastShared;

/* A block's columns: begin to end, in shared memory from index 0. */
template <typename T> struct HeldColumns {
    T *z, *t;
    int begin, end;
};

template <typename T, int V>
DEVICE void held_at(const HeldColumns<T> &held, int k, float (&z)[V], float (&t)[V])
{
    unpack(*reinterpret_cast<const Pack<T, V> *>(held.z + (k - held.begin)), z);
    unpack(*reinterpret_cast<const Pack<T, V> *>(held.t + (k - held.begin)), t);
}

/* Lowest of the columns k to k + V that holds x0, of one network's row in shared memory. */
template <typename T, int V>
DEVICE float first_in_pack(const T *held, int begin, int k, const FastRow &r, float x0)
{
    float x[V];
    unpack(*reinterpret_cast<const Pack<T, V> *>(held + (k - begin)), x);
    float first = (float)r.classes;
#pragma unroll
    for (int i = V - 1; i >= 0; i--) {
        first = x[i] == x0 && k + i != r.y && k + i < r.classes ? (float)(k + i) : first;
    }
    return first;
}

/* V values are 16 bytes. first: lowest columns that hold x0, of this thread's. */
template <typename T, int V, class Team>
DEVICE void shared_load(Team &team, const FastPointers<T> &at, const HeldColumns<T> &held,
                        FastRow &r, float (&s)[F_COUNT], float (&first)[2])
{
    fast_target(r, to_float(load_cached(at.z + r.y)), to_float(load_cached(at.t + r.y)));
    /* All of the row is on its way before any of it is waited for. */
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        T *const z = held.z + (k - held.begin);
        T *const t = held.t + (k - held.begin);
        if (at.read_packs && k + V <= held.end) {
            copy_to_shared(z, at.z + k);
            copy_to_shared(t, at.t + k);
        } else {
            *reinterpret_cast<Pack<T, V> *>(z) = load_columns<T, V>(at.z, k, held.end, false);
            *reinterpret_cast<Pack<T, V> *>(t) = load_columns<T, V>(at.t, k, held.end, false);
        }
    }
    copies_wait();
    float max[2] = {-INFINITY, -INFINITY};
    int z_pack = -1; /* where this thread has seen its largest first */
    int t_pack = -1;
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        float z[V];
        float t[V];
        held_at(held, k, z, t);
        add_dots(z, t, s);
        mask_columns(z, t, k, r);
        const float z_max = pack_max(z, max[0]);
        const float t_max = pack_max(t, max[1]);
        z_pack = z_max > max[0] ? k : z_pack;
        t_pack = t_max > max[1] ? k : t_pack;
        max[0] = z_max;
        max[1] = t_max;
    }
    const float mine[2] = {max[0], max[1]};
    team.template combine<OpMax>(max);
    r.z0 = max[0];
    r.t0 = max[1];
    if (z_pack >= 0 && mine[0] == r.z0) {
        first[0] = first_in_pack<T, V>(held.z, held.begin, z_pack, r, r.z0);
    }
    if (t_pack >= 0 && mine[1] == r.t0) {
        first[1] = first_in_pack<T, V>(held.t, held.begin, t_pack, r, r.t0);
    }
}

template <typename T, int V, class Team>
DEVICE float shared_energy(const DistillParams &p, Team &team, const HeldColumns<T> &held,
                           const FastRow &r)
{
    float sum[1] = {0};
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        float z[V];
        float t[V];
        held_at(held, k, z, t);
        mask_columns(z, t, k, r);
        subtract_max(t, r.t0);
        sum[0] = energy_of(t, r, sum[0]);
    }
    team.template combine<OpSum>(sum);
    return fast_energy(p, r, sum[0]);
}

template <typename T, int V, class Team>
DEVICE void shared_sums(Team &team, const HeldColumns<T> &held, const FastRow &r,
                        float (&s)[F_COUNT], float (&first)[2])
{
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        float z[V];
        float t[V];
        held_at(held, k, z, t);
        mask_columns(z, t, k, r);
        add_ranks(z, t, k, r, s);
        subtract_max(z, r.z0);
        subtract_max(t, r.t0);
        float es[V];
        float et[V];
        add_exponentials(z, t, r, s, es, et);
    }
    team.template combine<OpSum>(s);
    team.template combine<OpMin>(first);
}

/* z, t: logits; the gradient of the columns is stored. The target's exponentials may be infinite: its gradient is made
 * without them. */
template <typename T, int V>
DEVICE void gradient_columns(float (&z)[V], float (&t)[V], const FastPointers<T> &at, int k,
                             int end, const FastRow &r, const FastGradient &g, bool add)
{
    float es[V];
    float e1[V];
    float et[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        z[i] -= r.z0;
        es[i] = exp2_fast(z[i] * r.s_scale);
        et[i] = exp2_fast((t[i] - r.t0) * r.t_scale);
    }
    if (r.s_power) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            e1[i] = raise(es[i], r.s_power);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) {
            e1[i] = exp2_fast(z[i] * DISTILL_LOG2E);
        }
    }
    make_gradient(es, e1, et, k, r, g);
    store_columns<T, V>(at.dz, k, end, at.write_packs, add, es);
}

/* One warp finishes the row for all; the coefficients go through shared memory. */
template <class Team>
DEVICE FastGradient finish_for_team(const DistillParams &p, Team &team, FastShared *shared, int row,
                                    const FastRow &r, const float (&s)[F_COUNT],
                                    const float (&first)[2], float energy)
{
    if (team.leads()) {
        const FastGradient g = fast_finish(p, row, r, s, first, energy, &shared->record);
        if (lane() == 0) {
            shared->gradient = g;
        }
    }
    team.sync();
    return shared->gradient;
}

/* columns: room for a block's columns in `memory`, a multiple of 64. */
template <typename T, int V, class Team>
DEVICE void fast_shared_row(const DistillParams &p, Team &team, FastShared *shared,
                            unsigned char *memory, int columns, int row)
{
    if (team.leads()) {
        record_clear(&shared->record);
        sync_warp();
    }
    if (!row_is_valid(p, row)) {
        fast_invalid<T, V>(p, team, row);
    } else {
        FastRow r = fast_begin(p, row);
        const FastPointers<T> at = fast_pointers<T, V>(p, row);
        HeldColumns<T> held;
        held.z = reinterpret_cast<T *>(memory);
        held.t = held.z + columns;
        team.slice(r.classes, &held.begin, &held.end);
        float s[F_COUNT] = {};
        float first[2] = {(float)r.classes, (float)r.classes};
        shared_load<T, V>(team, at, held, r, s, first);
        const bool bands = fast_has_bands(p);
        const float energy = bands ? shared_energy<T, V>(p, team, held, r) : 0;
        fast_temperatures(p, row, r, RowFacts{energy, 0, 0}, bands);
        shared_sums<T, V>(team, held, r, s, first);
        const FastGradient g = finish_for_team(p, team, shared, row, r, s, first, energy);
        for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
            float z[V];
            float t[V];
            held_at(held, k, z, t);
            gradient_columns<T, V>(z, t, at, k, held.end, r, g, p.spec.dz_add);
        }
    }
    if (team.leads() && team.writes()) {
        sync_warp();
        record_store(p, row, &shared->record);
    }
    team.finish();
}

/* Room for a block's columns of the common case. */
static inline size_t fast_shared_bytes(int columns, size_t element_bytes)
{
    return 2 * (size_t)((columns + 63) / 64 * 64) * element_bytes;
}

#endif
