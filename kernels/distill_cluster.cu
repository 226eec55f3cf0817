/* The cluster form of the distillation kernel: a row spread over the shared memory of 2, 4 or 8 neighbouring blocks,
 * which add up their sums through it. For sm_90 and up; the launchers are not called on other devices. */
#include "kernels/distill_forms.cuh"
#include "kernels/distill_general.cuh"
#include "kernels/distill_shared.cuh"

enum { MAX_THREADS = 512 };

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    fast_cluster_kernel(const GRID_CONSTANT DistillParams p, int columns, int blocks)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(FastShared, shared, 1);
    SHARED_ARRAY(float, scratch, ClusterTeam::SCRATCH);
    ClusterTeam team(scratch, blocks);
    fast_shared_row<T, V>(p, team, shared, memory, columns, (int)blockIdx.x / blocks);
    sum_in_last_block(p, scratch);
}

template <typename T, int V>
static KernelStatus launch_fast(KernelStream stream, const DistillParams &params, int blocks)
{
    const int columns = cluster_slice(params.launch.classes, blocks);
    const size_t bytes = fast_shared_bytes(columns, sizeof(T));
    const auto fast_cluster = fast_cluster_kernel<T, V>;
    const int status = allow_shared(fast_cluster, bytes);
    if (status != 0) {
        return status;
    }
    const unsigned grid = (unsigned)params.launch.n * (unsigned)blocks;
    LAUNCH_CLUSTER(fast_cluster, grid, (unsigned)distill_held_threads(columns, bytes),
                   (unsigned)blocks, bytes, stream, params, columns, blocks);
    return kernel_status();
}

KernelStatus distill_fast_cluster(KernelStream stream, const DistillParams &params, int blocks)
{
    return for_logits(params.launch.z_type, [&](auto held) {
        return launch_fast<typename decltype(held)::Type, held.PACK>(stream, params, blocks);
    });
}

__global__ void __launch_bounds__(MAX_THREADS, 1)
    general_cluster_kernel(const GRID_CONSTANT DistillParams p, int columns, int blocks)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(GeneralShared, shared, 1);
    SHARED_ARRAY(float, scratch, ClusterTeam::SCRATCH);
    ClusterTeam team(scratch, blocks);
    general_row<ClusterTeam, true>(p, team, shared, memory, columns, (int)blockIdx.x / blocks);
    sum_in_last_block(p, scratch);
}

KernelStatus distill_general_cluster(KernelStream stream, const DistillParams &params, int blocks)
{
    const int columns = cluster_slice(params.launch.classes, blocks);
    const size_t bytes = distill_row_bytes(columns, params.launch.z_type, params.launch.t_type);
    const int status = allow_shared(general_cluster_kernel, bytes);
    if (status != 0) {
        return status;
    }
    const unsigned grid = (unsigned)params.launch.n * (unsigned)blocks;
    LAUNCH_CLUSTER(general_cluster_kernel, grid, (unsigned)distill_block_threads(columns),
                   (unsigned)blocks, bytes, stream, params, columns, blocks);
    return kernel_status();
}
