/* The forms of the distillation kernel for one network without a term, see distill_single.cuh. */
#include "kernels/distill_forms.cuh"
#include "kernels/distill_single.cuh"

enum { MAX_THREADS = 512 };

/* ---- A warp per row, N packs of V columns per lane ---- */

template <typename T, int V, int N>
DEVICE void single_warp_row(const DistillParams &p, RowRecord *record, int row)
{
    const SinglePointers<T> at = single_pointers<T, V>(p, row);
    Pack<T, V> packs[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        packs[j] = load_columns<T, V>(at.x, pack_column(j, V), p.launch.classes, at.read_packs);
    }
    const SingleRow r = single_begin(p, at.x, row);
    SingleSums sums = single_start(r);
    float x[N][V]; /* logits, then exponentials */
    float max = -INFINITY;
#pragma unroll
    for (int j = 0; j < N; j++) {
        unpack(packs[j], x[j]);
        single_mask(x[j], pack_column(j, V), r);
        max = pack_max(x[j], max);
    }
    sums.x0 = warp_max(max);
#pragma unroll
    for (int j = N - 1; j >= 0; j--) {
        float e[V] = {};
        sums.first = single_first(x[j], pack_column(j, V), sums.x0, sums.first);
        single_add(x[j], pack_column(j, V), r, sums, e);
#pragma unroll
        for (int i = 0; i < V; i++) {
            x[j][i] = e[i];
        }
    }
    WarpTeam team(NULL);
    single_combine(team, sums);
    const SingleGradient g = single_finish(p, row, r, sums, record);
    if (!p.spec.statistics_only) {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int k = pack_column(j, V);
            if (k < r.classes) {
                single_store<T, V>(x[j], at, k, r.classes, r, g, p.spec.dz_add);
            }
        }
    }
}

template <typename T, int V, int N>
__global__ void __launch_bounds__(DISTILL_WARP_ROWS *WARP_SIZE, 1)
    single_warp_kernel(const GRID_CONSTANT DistillParams p)
{
    SHARED_ARRAY(RowRecord, records, DISTILL_WARP_ROWS);
    SHARED_ARRAY(float, scratch, SUM_SCRATCH);
    RowRecord *const record = &records[warp()];
    const int row = (int)blockIdx.x * warp_count() + warp();
    if (row < p.launch.n) {
        record_clear(record);
        sync_warp();
        if (row_is_valid(p, row)) {
            single_warp_row<T, V, N>(p, record, row);
        } else {
            single_invalid<T, V>(p, WarpTeam(NULL), row);
        }
        sync_warp();
        record_store(p, row, record);
    }
    sum_in_last_block(p, scratch);
}

/* ---- A block or a cluster per row ---- */

/* A block's columns: begin to end; in shared memory from index 0 (HELD), or in global memory only. */
template <typename T> struct SingleColumns {
    T *x;
    int begin, end;
};

template <typename T, int V, bool HELD>
DEVICE void single_take(const SingleColumns<T> &held, const SinglePointers<T> &at, int k,
                        float (&x)[V])
{
    if constexpr (HELD) {
        unpack(*reinterpret_cast<const Pack<T, V> *>(held.x + (k - held.begin)), x);
    } else {
        unpack(load_columns<T, V>(at.x, k, held.end, at.read_packs), x);
    }
}

template <typename T, int V, class Team>
DEVICE void single_hold(const Team &team, const SingleColumns<T> &held, const SinglePointers<T> &at)
{
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        T *const x = held.x + (k - held.begin);
        if (at.read_packs && k + V <= held.end) {
            copy_to_shared(x, at.x + k);
        } else {
            *reinterpret_cast<Pack<T, V> *>(x) = load_columns<T, V>(at.x, k, held.end, false);
        }
    }
    copies_wait();
}

/* V values are 16 bytes; every thread keeps to its own columns. */
template <typename T, int V, bool HELD, class Team>
DEVICE void single_team_row(const DistillParams &p, Team &team, SingleShared *shared,
                            unsigned char *memory, int row)
{
    const SinglePointers<T> at = single_pointers<T, V>(p, row);
    SingleColumns<T> held;
    held.x = reinterpret_cast<T *>(memory);
    team.slice(p.launch.classes, &held.begin, &held.end);
    if constexpr (HELD) {
        single_hold<T, V>(team, held, at);
    }
    const SingleRow r = single_begin(p, at.x, row);
    SingleSums sums = single_start(r);
#pragma unroll 2
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        float x[V];
        float e[V];
        single_take<T, V, HELD>(held, at, k, x);
        single_mask(x, k, r);
        single_raise(x, k, r, sums);
        single_add(x, k, r, sums, e);
    }
    single_agree(team, r, sums);
    single_combine(team, sums);
    if (team.leads()) {
        const SingleGradient g = single_finish(p, row, r, sums, &shared->record);
        if (lane() == 0) {
            shared->gradient = g;
        }
    }
    if (p.spec.statistics_only) {
        return;
    }
    team.sync();
    const SingleGradient g = shared->gradient;
#pragma unroll 2
    for (int k = held.begin + team.thread() * V; k < held.end; k += team.threads() * V) {
        float x[V];
        single_take<T, V, HELD>(held, at, k, x);
#pragma unroll
        for (int i = 0; i < V; i++) {
            x[i] = exp2_fast((x[i] - sums.x0) * DISTILL_LOG2E);
        }
        single_store<T, V>(x, at, k, held.end, r, g, p.spec.dz_add);
    }
}

template <typename T, int V, bool HELD, class Team>
DEVICE void single_team(const DistillParams &p, Team &team, SingleShared *shared,
                        unsigned char *memory, int row)
{
    if (team.leads()) {
        record_clear(&shared->record);
        sync_warp();
    }
    if (row_is_valid(p, row)) {
        single_team_row<T, V, HELD>(p, team, shared, memory, row);
    } else {
        single_invalid<T, V>(p, team, row);
    }
    if (team.leads() && team.writes()) {
        sync_warp();
        record_store(p, row, &shared->record);
    }
    team.finish();
}

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    single_block_kernel(const GRID_CONSTANT DistillParams p)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(SingleShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    single_team<T, V, true>(p, team, shared, memory, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    single_sweep_kernel(const GRID_CONSTANT DistillParams p)
{
    SHARED_ARRAY(SingleShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    single_team<T, V, false>(p, team, shared, NULL, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    single_cluster_kernel(const GRID_CONSTANT DistillParams p, int blocks)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(SingleShared, shared, 1);
    SHARED_ARRAY(float, scratch, ClusterTeam::SCRATCH);
    ClusterTeam team(scratch, blocks);
    single_team<T, V, true>(p, team, shared, memory, (int)blockIdx.x / blocks);
    sum_in_last_block(p, scratch);
}

/* ---- Launchers ---- */

static KernelType single_type(const DistillParams &params)
{
    return params.launch.z ? params.launch.z_type : params.launch.t_type;
}

template <typename T, int V, int N>
static KernelStatus launch_warp(KernelStream stream, const DistillParams &params)
{
    const int rows = distill_warp_rows(params.launch.n);
    const unsigned grid = (unsigned)((params.launch.n + rows - 1) / rows);
    const auto single_warp = single_warp_kernel<T, V, N>;
    LAUNCH(single_warp, grid, (unsigned)(rows * WARP_SIZE), 0, stream, params);
    return kernel_status();
}

KernelStatus distill_single_warp(KernelStream stream, const DistillParams &params)
{
    const bool few = params.launch.classes <= 128;
    switch (single_type(params)) {
    case KERNEL_BF16:
        return few ? launch_warp<bf16_t, 4, 1>(stream, params)
                   : launch_warp<bf16_t, 8, 4>(stream, params);
    case KERNEL_F16:
        return few ? launch_warp<half_t, 4, 1>(stream, params)
                   : launch_warp<half_t, 8, 4>(stream, params);
    default:
        return few ? launch_warp<float, 4, 1>(stream, params)
                   : launch_warp<float, 4, 8>(stream, params);
    }
}

template <typename T, int V>
static KernelStatus launch_block(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    const size_t bytes = (size_t)((classes + 63) / 64 * 64) * sizeof(T);
    const auto single_block = single_block_kernel<T, V>;
    const int status = allow_shared(single_block, bytes);
    if (status != 0) {
        return status;
    }
    LAUNCH(single_block, (unsigned)params.launch.n, (unsigned)distill_block_threads(classes), bytes,
           stream, params);
    return kernel_status();
}

KernelStatus distill_single_block(KernelStream stream, const DistillParams &params)
{
    return for_logits(single_type(params), [&](auto held) {
        return launch_block<typename decltype(held)::Type, held.PACK>(stream, params);
    });
}

template <typename T, int V>
static KernelStatus launch_sweep(KernelStream stream, const DistillParams &params)
{
    const auto single_sweep = single_sweep_kernel<T, V>;
    LAUNCH(single_sweep, (unsigned)params.launch.n,
           (unsigned)distill_block_threads(params.launch.classes), 0, stream, params);
    return kernel_status();
}

KernelStatus distill_single_sweep(KernelStream stream, const DistillParams &params)
{
    return for_logits(single_type(params), [&](auto held) {
        return launch_sweep<typename decltype(held)::Type, held.PACK>(stream, params);
    });
}

template <typename T, int V>
static KernelStatus launch_cluster_of(KernelStream stream, const DistillParams &params, int blocks)
{
    const int columns = cluster_slice(params.launch.classes, blocks);
    const size_t bytes = (size_t)columns * sizeof(T);
    const auto single_cluster = single_cluster_kernel<T, V>;
    const int status = allow_shared(single_cluster, bytes);
    if (status != 0) {
        return status;
    }
    const unsigned grid = (unsigned)params.launch.n * (unsigned)blocks;
    LAUNCH_CLUSTER(single_cluster, grid, (unsigned)distill_block_threads(columns), (unsigned)blocks,
                   bytes, stream, params, blocks);
    return kernel_status();
}

KernelStatus distill_single_cluster(KernelStream stream, const DistillParams &params, int blocks)
{
    return for_logits(single_type(params), [&](auto held) {
        return launch_cluster_of<typename decltype(held)::Type, held.PACK>(stream, params, blocks);
    });
}
