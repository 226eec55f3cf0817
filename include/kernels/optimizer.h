/* The flat optimizer over the arenas: one launch whatever the number of parameters (OP_GRAD_NORM, OP_SGD, OP_LOSS_SCALE of
 * graph.h). Minimum bytes of SGD: 20 a parameter (weight and momentum read and written, gradient read), 2 more with a
 * 16-bit copy. Reference loops: host/backend/ref_param.c. */
#ifndef CUDISTILL_KERNELS_OPTIMIZER_H
#define CUDISTILL_KERNELS_OPTIMIZER_H

#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* stats F32 [2]: sum of squares, count of values that are not finite. Summed by blocks of fixed size, in fixed order.
 * workspace: kernel_grad_norm_workspace bytes, 8-byte aligned. All `count` elements take part: padding of the arena
 * holds zeros. Bytes: 4 a parameter. */
size_t kernel_grad_norm_workspace(int64_t count);
KernelStatus kernel_grad_norm(KernelStream stream, int64_t count, const float *grad, float *stats,
                              void *workspace);

/* A stretch of the arena whose elements are treated alike: from `first` to the next segment's first. In device memory,
 * ascending, the first at 0; segments begin at multiples of 16 elements. No segments at all: nothing decays. */
typedef struct {
    int64_t first;
    float decay; /* factor of weight decay: 0 or 1 */
    float unused;
} SgdSegment;
typedef struct {
    int64_t count; /* elements of the arenas */
    float *weight, *moment;
    const float *grad;
    /* NULL = none: the new weights rounded to copy_type; of a skipped step the old ones. */
    void *copy16;
    KernelType copy_type;
    const float *hyper;      /* [HYPER_COUNT], order of graph.h */
    const float *stats;      /* [2] or NULL: no clipping, never skipped */
    const float *loss_scale; /* [2] or NULL */
    const SgdSegment *segments;
    int n_segments;
} SgdLaunch;
KernelStatus kernel_sgd(KernelStream stream, const SgdLaunch *launch);
/* In place, see OP_LOSS_SCALE. */
KernelStatus kernel_loss_scale(KernelStream stream, const float *stats, float growth, float backoff,
                               int interval, float *loss_scale);

#ifdef __cplusplus
}
#endif
#endif
