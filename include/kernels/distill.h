/* The fused distillation kernel: the whole row contract of distill_spec.h in one pass over student and teacher logits.
 *
 * Bytes it must move, for R rows of C classes: read z and t once, write dz once (with dz_add also read it); that holds
 * wherever the row fits on chip (registers or a warp's shared memory for C <= 1024, above it the shared memory of one
 * block or of a cluster of up to 8). Where it does not, the two-sweep form reads z and t twice for one KL term with
 * constant or per-row temperatures, t three times with energy bands, and both more often for general specs (see
 * kernels/distill_general.cuh), from the second time on mostly out of the L2 cache. Without terms and with one network
 * only (cross entropy, statistics of one network) that network's logits are all that is read.
 * Reference loop: host/backend/distill_ref.c.
 *
 * fp32 arithmetic; energies, log-sum-exps and the sums over rows as accurate as distill_rows_cpu. Bit-identical from run
 * to run, with and without `counter`.
 *
 * A row with a label or target class outside 0 .. classes-1, a sparse index out of range or a NaN or +inf logit has a
 * NaN loss and, where there is a gradient, a NaN gradient; it is counted in SUM_NONFINITE and leaves the bits of the
 * other rows alone. */
#ifndef CUDISTILL_KERNELS_DISTILL_H
#define CUDISTILL_KERNELS_DISTILL_H

#include "kernels/distill_spec.h"
#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device pointers; NULL = absent. Leading dimensions in elements, 0 = classes. Shapes as in distill_spec.h. dz must
 * not overlap z or t. */
typedef struct {
    int n, classes;                     /* classes 2 .. 262144 */
    KernelType z_type, t_type, dz_type; /* KERNEL_F32, BF16 or F16 each */
    const void *z, *t;                  /* [n][ldz], [n][ldt] */
    void *dz;                           /* [n][lddz] */
    int64_t ldz, ldt, lddz;
    const int32_t *labels;   /* [n] */
    const float *theta;      /* [2] */
    const float *row_params; /* [n][columns] */
    int columns;
    const int32_t *target_kind;  /* [n][2] */
    const float *target_weight;  /* [n][2] */
    const int32_t *target_class; /* [n][2] */
    const int32_t *sparse_index; /* [n][2K] */
    const float *sparse_value;   /* [n][2K] */
    const float *dense;          /* [n][2*classes] */
    const float *rows_valid;     /* [1]; NULL = n */
    const float *scale;          /* [1]; NULL = 1 */
    const float *loss_scale;     /* [1]; NULL = 1; multiplies scale */
    float *rows;                 /* [n][ROW_FIELDS] */
    float *sums;                 /* [SUM_FIELDS]; needs `workspace` */
    void *workspace;             /* kernel_distill_workspace bytes, 16-byte aligned */
    /* [1], or NULL: with it small batches form `sums` at the end of the row kernel, without a launch of their own.
     * Zeroed once, before the first launch that is given it; every launch leaves it 0. Launches that share it follow
     * one another, in one stream or graph; nothing else may write it. */
    unsigned *counter;
} DistillLaunch;

/* How the rows are held. AUTO picks by classes, type and the device's shared memory; the others are for tests. */
typedef enum {
    DISTILL_AUTO,
    DISTILL_WARP,      /* a warp per row, row in registers; classes <= 1024 */
    DISTILL_BLOCK,     /* a block per row, row in shared memory */
    DISTILL_TWO_SWEEP, /* a block per row, row read twice (online softmax) */
    DISTILL_CLUSTER /* sm_90 and up: a row spread over the shared memory of a cluster of up to 8 blocks */
} DistillForm;

size_t kernel_distill_workspace(const DistillSpec *spec, int n, int classes);
/* KERNEL_BAD_ARGUMENT where `form` cannot hold such a row or the arguments contradict the spec. */
KernelStatus kernel_distill(KernelStream stream, const DistillSpec *spec,
                            const DistillLaunch *launch, DistillForm form);
/* The form that AUTO takes on the current device for rows of both networks; of one network more classes fit in a
 * block. */
DistillForm kernel_distill_form(const DistillSpec *spec, int classes, KernelType z_type,
                                KernelType t_type);

/* Exact order statistics of a column of row exports: out[i] = the value of rank rank[i] (0 = smallest) among the n values
 * values[0], values[stride], ...; NaN sorts last. Radix select in fixed order. Used for the energy thresholds of a scan.
 * n < 2^31, n_ranks <= 8. workspace: kernel_select_workspace() bytes. */
size_t kernel_select_workspace(void);
KernelStatus kernel_select(KernelStream stream, const float *values, int64_t n, int64_t stride,
                           const int64_t *ranks /* host */, int n_ranks, float *out,
                           void *workspace);

#ifdef __cplusplus
}
#endif
#endif
