/* The warp form of the distillation kernel: a warp per row, up to 1024 classes. In the common case the row is in
 * registers; otherwise in the warp's part of shared memory. One to four rows a block. */
#include "kernels/distill_fast.cuh"
#include "kernels/distill_forms.cuh"
#include "kernels/distill_general.cuh"

/* ---- Common case: N packs of V columns per lane ---- */

template <typename T, int V, int N> struct WarpRow {
    float z[N][V], t[N][V];
};

/* Loads the row, takes the target out of it, finds the largest of the others. */
template <typename T, int V, int N>
DEVICE void warp_load(WarpRow<T, V, N> &w, const FastPointers<T> &at, FastRow &r,
                      float (&s)[F_COUNT])
{
    Pack<T, V> z[N];
    Pack<T, V> t[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        z[j] = load_columns<T, V>(at.z, pack_column(j, V), r.classes, at.read_packs);
        t[j] = load_columns<T, V>(at.t, pack_column(j, V), r.classes, at.read_packs);
    }
    float target[2] = {0, 0};
    float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int k = pack_column(j, V);
        unpack(z[j], w.z[j]);
        unpack(t[j], w.t[j]);
        add_dots(w.z[j], w.t[j], s);
        if (k <= r.y && r.y < k + V) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                target[0] = k + i == r.y ? w.z[j][i] : target[0];
                target[1] = k + i == r.y ? w.t[j][i] : target[1];
            }
        }
        mask_columns(w.z[j], w.t[j], k, r);
        max[0] = pack_max(w.z[j], max[0]);
        max[1] = pack_max(w.t[j], max[1]);
    }
    const int owner = r.y / V % WARP_SIZE;
    fast_target(r, shuffle(target[0], owner), shuffle(target[1], owner));
    warp_combine<OpMax>(max);
    r.z0 = max[0];
    r.t0 = max[1];
}

/* The energy of the row where the temperatures depend on it. */
template <typename T, int V, int N>
DEVICE float warp_energy(const DistillParams &p, const WarpRow<T, V, N> &w, const FastRow &r)
{
    float sum = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float t[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            t[i] = w.t[j][i];
        }
        subtract_max(t, r.t0);
        sum = energy_of(t, r, sum);
    }
    return fast_energy(p, r, warp_sum(sum));
}

/* Afterwards z holds the exponentials at Ts, or distances where T = 1 is not a power of them; t the
 * exponentials at Tt. */
template <typename T, int V, int N>
DEVICE void warp_sums(WarpRow<T, V, N> &w, const FastRow &r, float (&s)[F_COUNT], float (&first)[2])
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int k = pack_column(j, V);
        add_ranks(w.z[j], w.t[j], k, r, s);
        find_first(w.z[j], w.t[j], k, r.z0, r.t0, first);
        subtract_max(w.z[j], r.z0);
        subtract_max(w.t[j], r.t0);
        float es[V];
        float et[V];
        add_exponentials(w.z[j], w.t[j], r, s, es, et);
#pragma unroll
        for (int i = 0; i < V; i++) {
            w.z[j][i] = r.s_power ? es[i] : w.z[j][i];
            w.t[j][i] = et[i];
        }
    }
    warp_sum(s);
    warp_combine<OpMin>(first);
}

template <typename T, int V, int N>
DEVICE void warp_gradient(const WarpRow<T, V, N> &w, const FastPointers<T> &at, const FastRow &r,
                          const FastGradient &g, bool add)
{
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int k = pack_column(j, V);
        float es[V];
        float e1[V];
        if (r.s_power) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                es[i] = w.z[j][i];
                e1[i] = raise(w.z[j][i], r.s_power);
            }
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) {
                es[i] = exp2_fast(w.z[j][i] * r.s_scale);
                e1[i] = exp2_fast(w.z[j][i] * DISTILL_LOG2E);
            }
        }
        make_gradient(es, e1, w.t[j], k, r, g);
        if (k < r.classes) {
            store_columns<T, V>(at.dz, k, r.classes, at.write_packs, add, es);
        }
    }
}

template <typename T, int V, int N>
DEVICE void fast_warp_row(const DistillParams &p, RowRecord *record, int row)
{
    record_clear(record);
    sync_warp();
    if (!row_is_valid(p, row)) {
        fast_invalid<T, V>(p, WarpTeam(NULL), row);
    } else {
        FastRow r = fast_begin(p, row);
        const FastPointers<T> at = fast_pointers<T, V>(p, row);
        WarpRow<T, V, N> w;
        float s[F_COUNT] = {};
        float first[2] = {(float)r.classes, (float)r.classes};
        warp_load(w, at, r, s);
        const bool bands = fast_has_bands(p);
        const float energy = bands ? warp_energy(p, w, r) : 0;
        fast_temperatures(p, row, r, RowFacts{energy, 0, 0}, bands);
        warp_sums(w, r, s, first);
        const FastGradient g = fast_finish(p, row, r, s, first, energy, record);
        warp_gradient(w, at, r, g, p.spec.dz_add);
    }
    sync_warp();
    record_store(p, row, record);
}

template <typename T, int V, int N>
__global__ void __launch_bounds__(DISTILL_WARP_ROWS *WARP_SIZE, 1)
    fast_warp_kernel(const GRID_CONSTANT DistillParams p)
{
    SHARED_ARRAY(RowRecord, records, DISTILL_WARP_ROWS);
    SHARED_ARRAY(float, scratch, SUM_SCRATCH);
    const int row = (int)blockIdx.x * warp_count() + warp();
    if (row < p.launch.n) {
        fast_warp_row<T, V, N>(p, &records[warp()], row);
    }
    sum_in_last_block(p, scratch);
}

template <typename T, int V, int N>
static KernelStatus launch_fast(KernelStream stream, const DistillParams &params)
{
    const int rows = distill_warp_rows(params.launch.n);
    const unsigned grid = (unsigned)((params.launch.n + rows - 1) / rows);
    const auto fast_warp = fast_warp_kernel<T, V, N>;
    LAUNCH(fast_warp, grid, (unsigned)(rows * WARP_SIZE), 0, stream, params);
    return kernel_status();
}

template <typename T>
static KernelStatus launch_fast16(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    return classes <= 128   ? launch_fast<T, 4, 1>(stream, params)
           : classes <= 512 ? launch_fast<T, 8, 2>(stream, params)
                            : launch_fast<T, 8, 4>(stream, params);
}

KernelStatus distill_fast_warp(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    switch (params.launch.z_type) {
    case KERNEL_BF16:
        return launch_fast16<bf16_t>(stream, params);
    case KERNEL_F16:
        return launch_fast16<half_t>(stream, params);
    default:
        return classes <= 128   ? launch_fast<float, 4, 1>(stream, params)
               : classes <= 512 ? launch_fast<float, 4, 4>(stream, params)
                                : launch_fast<float, 4, 8>(stream, params);
    }
}

/* ---- Any spec ---- */

__global__ void __launch_bounds__(DISTILL_WARP_ROWS *WARP_SIZE, 1)
    general_warp_kernel(const GRID_CONSTANT DistillParams p, int row_bytes)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(GeneralShared, shared, DISTILL_WARP_ROWS);
    SHARED_ARRAY(float, scratch, SUM_SCRATCH);
    const int row = (int)blockIdx.x * warp_count() + warp();
    if (row < p.launch.n) {
        WarpTeam team(NULL);
        general_row<WarpTeam, true>(p, team, &shared[warp()], memory + warp() * row_bytes,
                                    p.launch.classes, row);
    }
    sum_in_last_block(p, scratch);
}

KernelStatus distill_general_warp(KernelStream stream, const DistillParams &params)
{
    const int rows = distill_warp_rows(params.launch.n);
    const unsigned grid = (unsigned)((params.launch.n + rows - 1) / rows);
    const size_t bytes =
        distill_row_bytes(params.launch.classes, params.launch.z_type, params.launch.t_type);
    LAUNCH(general_warp_kernel, grid, (unsigned)(rows * WARP_SIZE), rows * bytes, stream, params,
           (int)bytes);
    return kernel_status();
}
