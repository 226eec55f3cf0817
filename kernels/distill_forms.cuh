/* The launchers of the forms of the distillation kernel, each in a file of its own so that they compile side by side.
 * Internal to kernels/distill*.cu; arguments have been checked. */
#ifndef CUDISTILL_KERNELS_DISTILL_FORMS_CUH
#define CUDISTILL_KERNELS_DISTILL_FORMS_CUH

#include "kernels/distill_sums.cuh"

enum { DISTILL_WARP_CLASSES = 1024, DISTILL_MAX_CLASSES = 262144, DISTILL_MAX_CLUSTER = 8 };

/* Threads of a block that works on so many columns. Two blocks of 256 with up to 128 registers share a multiprocessor, so
 * that one loads while the other computes. */
static inline int distill_block_threads(int columns)
{
    return columns <= 32768 ? 256 : 512;
}

/* The same for a block with `bytes` of shared memory: where no second one fits beside it, it needs its warps itself. */
static inline int distill_held_threads(int columns, size_t bytes)
{
    return 2 * bytes > shared_limit() ? 512 : distill_block_threads(columns);
}

/* Rows of a block of the warp form: one until the multiprocessors have a row each, then one per scheduler. */
enum { DISTILL_WARP_ROWS = 4, DISTILL_SPREAD_ROWS = 128 };
static inline int distill_warp_rows(int n)
{
    return n <= DISTILL_SPREAD_ROWS ? 1 : DISTILL_WARP_ROWS;
}

/* Whether one block of so many threads adds the shares of n rows at the end of the row kernel: at most 20 loads of 16
 * bytes per thread, which take about as long as a launch. */
static inline bool distill_adds_rows(int n, int threads)
{
    return n <= 4 * threads;
}

/* A bit per column, see mark_sparse. */
static inline size_t distill_mark_bytes(int columns)
{
    return ((size_t)columns + 127) / 128 * 16;
}

/* Shared memory of a block that holds `columns` of a row. */
static inline size_t distill_row_bytes(int columns, int z_type, int t_type)
{
    return row_part_bytes(columns, z_type) + row_part_bytes(columns, t_type) +
           distill_mark_bytes(columns);
}

/* Static shared memory of any of the kernels, at most. */
enum { DISTILL_STATIC_SHARED = 9216 };
static_assert((int)BLOCK_SCRATCH >= (int)SUM_SCRATCH, "a team's scratch holds the sums");

/* launch(Held<T>) for the storage type of the logits. */
template <typename T> struct Held {
    typedef T Type;
    enum { PACK = 16 / sizeof(T) };
};
template <typename Launch> static inline KernelStatus for_logits(int type, const Launch &launch)
{
    switch (type) {
    case KERNEL_BF16:
        return launch(Held<bf16_t>());
    case KERNEL_F16:
        return launch(Held<half_t>());
    default:
        return launch(Held<float>());
    }
}

/* One KL term on the label, see distill_fast.cuh. `blocks` of a cluster hold the row. */
KernelStatus distill_fast_warp(KernelStream stream, const DistillParams &params);
KernelStatus distill_fast_block(KernelStream stream, const DistillParams &params);
KernelStatus distill_fast_sweep(KernelStream stream, const DistillParams &params);
KernelStatus distill_fast_cluster(KernelStream stream, const DistillParams &params, int blocks);
/* One network and no term, see distill_single.cuh. */
KernelStatus distill_single_warp(KernelStream stream, const DistillParams &params);
KernelStatus distill_single_block(KernelStream stream, const DistillParams &params);
KernelStatus distill_single_sweep(KernelStream stream, const DistillParams &params);
KernelStatus distill_single_cluster(KernelStream stream, const DistillParams &params, int blocks);
/* Any spec, see distill_general.cuh. */
KernelStatus distill_general_warp(KernelStream stream, const DistillParams &params);
KernelStatus distill_general_block(KernelStream stream, const DistillParams &params);
KernelStatus distill_general_sweep(KernelStream stream, const DistillParams &params);
KernelStatus distill_general_cluster(KernelStream stream, const DistillParams &params, int blocks);

#endif
