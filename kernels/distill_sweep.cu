/* The two-sweep form of the distillation kernel: a block per row of any length. In the common case the first sweep
 * forms all sums while the largest logits are still being found: a thread holds its sums against the largest it has
 * seen and moves them when a larger one comes; the second sweep makes the gradient. Energy bands need the energy
 * before, in a sweep over the teacher's row of its own. */
#include "kernels/distill_forms.cuh"
#include "kernels/distill_general.cuh"
#include "kernels/distill_shared.cuh"

enum { MAX_THREADS = 512 };

/* Hands out a thread's packs of a row in turn; the next is on its way while one is worked on. */
template <typename T, int V> struct RowReader {
    Pack<T, V> z, t;
    int k, step, classes;
    __device__ __forceinline__ RowReader(const FastPointers<T> &at, int columns, int first,
                                         int stride)
        : k(first), step(stride), classes(columns)
    {
        fetch(at);
    }
    __device__ __forceinline__ void fetch(const FastPointers<T> &at)
    {
        if (k < classes) {
            z = load_columns<T, V>(at.z, k, classes, at.read_packs);
            t = load_columns<T, V>(at.t, k, classes, at.read_packs);
        }
    }
    __device__ __forceinline__ void next(const FastPointers<T> &at, float (&z_out)[V],
                                         float (&t_out)[V])
    {
        unpack(z, z_out);
        unpack(t, t_out);
        k += step;
        fetch(at);
    }
};

/* Moves the sums of u = (z - z0)/Ts, v = (t - t0)/Tt from the references z0, t0 to larger ones. `count` columns. */
DEVICE void move_sums(float (&s)[F_COUNT], FastRow &r, float count, float z0, float t0)
{
    /* Without a column yet, -inf, the sums are 0 and need no move. */
    const float dz = r.z0 == -INFINITY ? 0 : z0 - r.z0;
    const float dt = r.t0 == -INFINITY ? 0 : t0 - r.t0;
    const float du = rounded_product(dz, r.s_scale);
    const float dv = rounded_product(dt, r.t_scale);
    const float dw = du - dv;
    const float fs = exp2_fast(-du);
    const float ft = exp2_fast(-dv);
    s[F_ES_U] = fs * (s[F_ES_U] - du * s[F_ES]);
    s[F_ET_VW] = ft * (s[F_ET_VW] + dw * s[F_ET_V] - dv * s[F_ET_W] - dv * dw * s[F_ET]);
    s[F_ET_W] = ft * (s[F_ET_W] + dw * s[F_ET]);
    s[F_ET_V] = ft * (s[F_ET_V] - dv * s[F_ET]);
    s[F_ES] = rounded_product(s[F_ES], fs);
    s[F_ET] = rounded_product(s[F_ET], ft);
    s[F_ES1] *= exp2_fast(-dz * DISTILL_LOG2E);
    s[F_ET1] *= exp2_fast(-dt * DISTILL_LOG2E);
    s[F_EE] *= exp2_fast(-dt * r.e_scale);
    s[F_ZSUM] -= count * dz;
    r.z0 = z0;
    r.t0 = t0;
}

/* Largest of the teacher's logits and the energy, for bands. */
template <typename T, int V>
DEVICE float sweep_energy(const DistillParams &p, BlockTeam &team, const FastPointers<T> &at,
                          FastRow &r)
{
    float max = -INFINITY;
    float sum[1] = {0};
    for (int k = team.thread() * V; k < r.classes; k += team.threads() * V) {
        float t[V];
        unpack(load_columns<T, V>(at.t, k, r.classes, at.read_packs), t);
        float unused[V] = {};
        mask_columns(unused, t, k, r);
        const float larger = pack_max(t, max);
        if (larger > max) {
            sum[0] *= max == -INFINITY ? 0 : exp2_fast((max - larger) * r.e_scale);
            max = larger;
        }
        subtract_max(t, max);
        sum[0] = energy_of(t, r, sum[0]);
    }
    float row_max[1] = {max};
    team.combine<OpMax>(row_max);
    sum[0] *= max == -INFINITY ? 0 : exp2_fast((max - row_max[0]) * r.e_scale);
    team.combine<OpSum>(sum);
    r.t0 = row_max[0];
    return fast_energy(p, r, sum[0]);
}

template <typename T, int V>
DEVICE void sweep_sums(BlockTeam &team, const FastPointers<T> &at, FastRow &r, float (&s)[F_COUNT],
                       float (&first)[2])
{
    float count = 0;
    RowReader<T, V> reader(at, r.classes, team.thread() * V, team.threads() * V);
    for (int k = team.thread() * V; k < r.classes; k += team.threads() * V) {
        float z[V];
        float t[V];
        reader.next(at, z, t);
        add_dots(z, t, s);
        mask_columns(z, t, k, r);
        const float z0 = pack_max(z, r.z0);
        const float t0 = pack_max(t, r.t0);
        if (z0 > r.z0 || t0 > r.t0) {
            first[0] = z0 > r.z0 ? (float)r.classes : first[0];
            first[1] = t0 > r.t0 ? (float)r.classes : first[1];
            move_sums(s, r, count, z0, t0);
        }
        add_ranks(z, t, k, r, s);
        find_first(z, t, k, r.z0, r.t0, first);
        subtract_max(z, r.z0);
        subtract_max(t, r.t0);
        float es[V];
        float et[V];
        add_exponentials(z, t, r, s, es, et);
#pragma unroll
        for (int i = 0; i < V; i++) {
            count += z[i] > DISTILL_ABSENT ? 1.0f : 0.0f;
        }
    }
    float max[2] = {r.z0, r.t0};
    team.combine<OpMax>(max);
    first[0] = r.z0 < max[0] ? (float)r.classes : first[0];
    first[1] = r.t0 < max[1] ? (float)r.classes : first[1];
    move_sums(s, r, count, max[0], max[1]);
    team.combine<OpSum>(s);
    team.combine<OpMin>(first);
}

template <typename T, int V>
DEVICE void sweep_row(const DistillParams &p, BlockTeam &team, FastShared *shared, int row)
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
        fast_target(r, to_float(load_cached(at.z + r.y)), to_float(load_cached(at.t + r.y)));
        r.z0 = r.t0 = -INFINITY;
        const bool bands = fast_has_bands(p);
        const float energy = bands ? sweep_energy<T, V>(p, team, at, r) : 0;
        fast_temperatures(p, row, r, RowFacts{energy, 0, 0}, bands);
        float s[F_COUNT] = {};
        float first[2] = {(float)r.classes, (float)r.classes};
        sweep_sums<T, V>(team, at, r, s, first);
        const FastGradient g = finish_for_team(p, team, shared, row, r, s, first, energy);
        RowReader<T, V> reader(at, r.classes, team.thread() * V, team.threads() * V);
        for (int k = team.thread() * V; k < r.classes; k += team.threads() * V) {
            float z[V];
            float t[V];
            reader.next(at, z, t);
            gradient_columns<T, V>(z, t, at, k, r.classes, r, g, p.spec.dz_add);
        }
    }
    if (team.leads()) {
        sync_warp();
        record_store(p, row, &shared->record);
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    fast_sweep_kernel(const GRID_CONSTANT DistillParams p)
{
    SHARED_ARRAY(FastShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    sweep_row<T, V>(p, team, shared, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

template <typename T, int V>
static KernelStatus launch_fast(KernelStream stream, const DistillParams &params)
{
    const auto fast_sweep = fast_sweep_kernel<T, V>;
    LAUNCH(fast_sweep, (unsigned)params.launch.n,
           (unsigned)distill_block_threads(params.launch.classes), 0, stream, params);
    return kernel_status();
}

KernelStatus distill_fast_sweep(KernelStream stream, const DistillParams &params)
{
    return for_logits(params.launch.z_type, [&](auto held) {
        return launch_fast<typename decltype(held)::Type, held.PACK>(stream, params);
    });
}

__global__ void __launch_bounds__(MAX_THREADS, 1)
    general_sweep_kernel(const GRID_CONSTANT DistillParams p)
{
    DYNAMIC_SHARED(unsigned char, marks);
    SHARED_ARRAY(GeneralShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    general_row<BlockTeam, false>(p, team, shared, marks, p.launch.classes, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

KernelStatus distill_general_sweep(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    const size_t marks = distill_mark_bytes(classes);
    LAUNCH(general_sweep_kernel, (unsigned)params.launch.n,
           (unsigned)distill_block_threads(classes), marks, stream, params);
    return kernel_status();
}
