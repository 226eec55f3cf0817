/* The block form of the distillation kernel: a block per row, the row in shared memory in its storage type. */
#include "kernels/distill_forms.cuh"
#include "kernels/distill_general.cuh"
#include "kernels/distill_shared.cuh"

enum { MAX_THREADS = 512 };

template <typename T, int V>
__global__ void __launch_bounds__(MAX_THREADS, 1)
    fast_block_kernel(const GRID_CONSTANT DistillParams p, int columns)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(FastShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    fast_shared_row<T, V>(p, team, shared, memory, columns, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

template <typename T, int V>
static KernelStatus launch_fast(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    const size_t bytes = fast_shared_bytes(classes, sizeof(T));
    const auto fast_block = fast_block_kernel<T, V>;
    const int status = allow_shared(fast_block, bytes);
    if (status != 0) {
        return status;
    }
    LAUNCH(fast_block, (unsigned)params.launch.n, (unsigned)distill_held_threads(classes, bytes),
           bytes, stream, params, (classes + 63) / 64 * 64);
    return kernel_status();
}

KernelStatus distill_fast_block(KernelStream stream, const DistillParams &params)
{
    return for_logits(params.launch.z_type, [&](auto held) {
        return launch_fast<typename decltype(held)::Type, held.PACK>(stream, params);
    });
}

__global__ void __launch_bounds__(MAX_THREADS, 1)
    general_block_kernel(const GRID_CONSTANT DistillParams p)
{
    DYNAMIC_SHARED(unsigned char, memory);
    SHARED_ARRAY(GeneralShared, shared, 1);
    SHARED_ARRAY(float, scratch, BlockTeam::SCRATCH);
    BlockTeam team(scratch);
    general_row<BlockTeam, true>(p, team, shared, memory, p.launch.classes, (int)blockIdx.x);
    sum_in_last_block(p, scratch);
}

KernelStatus distill_general_block(KernelStream stream, const DistillParams &params)
{
    const int classes = params.launch.classes;
    const size_t bytes = distill_row_bytes(classes, params.launch.z_type, params.launch.t_type);
    const int status = allow_shared(general_block_kernel, bytes);
    if (status != 0) {
        return status;
    }
    LAUNCH(general_block_kernel, (unsigned)params.launch.n,
           (unsigned)distill_block_threads(classes), bytes, stream, params);
    return kernel_status();
}
