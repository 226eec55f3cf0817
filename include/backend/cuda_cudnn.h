/* cuDNN through its graph C API (cudnnBackend*): one plan is one operation graph for one shape. Only
 * host/backend/cuda_cudnn.c includes cudnn.h. Sources: headers and documentation of cuDNN 9's graph API; what a device
 * accepts is in tests/golden/cudnn_sm90.txt. Under emulation tests/emu/cudnn_by_ref.c defines the same functions with
 * plain loops.
 *
 * Life cycle: cudnn_context_open; plans and questions in any order; cudnn_context_close. Plans belong to the context,
 * equal questions share one, and all live until it closes. Thread rules: one thread.
 *
 * Arithmetic: sums in fp32. Engines that reduce in 16 bits or use Fourier transforms are left out; for F32 also those that
 * round their inputs to TF32. Deterministic plans leave out engines that cuDNN notes as nondeterministic.
 *
 * Plans on disk: cuDNN's own serialization, which holds the code of engines compiled at run time (0.3 to 2 s each on two
 * cores), one file a cuDNN version and device. A damaged file is ignored with a warning and written anew. */
#ifndef CUDISTILL_BACKEND_CUDA_CUDNN_H
#define CUDISTILL_BACKEND_CUDA_CUDNN_H

#include "backend/backend.h"
#include "kernels/launch.h"

typedef struct CudnnContext CudnnContext;
typedef struct CudnnPlan CudnnPlan;

typedef enum { CUDNN_CONV_FORWARD, CUDNN_CONV_DGRAD, CUDNN_CONV_WGRAD } CudnnConvKind;

/* All tensors NHWC / OHWI of `type`, per-channel vectors fp32 unless said. x is the side with ic channels in all three
 * kinds, y the one with oc. */
typedef struct {
    CudnnConvKind kind;
    DType type;      /* BF16, F16, F32 */
    int n, h, w, ic; /* x side; ic includes padding channels */
    int oh, ow, oc;
    int kernel_h, kernel_w, stride, pad, groups;
    bool bias, residual, relu; /* FORWARD: y = relu(conv + bias + residual), rounded once */
    bool affine,
        affine_relu; /* FORWARD, WGRAD: of x' = relu(x*scale + shift), rounded to `type`, zero in the padding */
    bool stats; /* FORWARD: sum and sum of squares of y per channel, over all n images */
    bool
        drelu_bn; /* DGRAD: dz = dx*[x*scale + shift > 0]; sums of dz and dz*xhat per channel of x */
} CudnnConvSpec;

/* Device addresses of one execution, 16-byte aligned; those that the spec does not ask for are ignored. */
typedef struct {
    const void *x, *w, *y; /* inputs of the kind; the one that it computes is `out` */
    void *out;             /* FORWARD: y; DGRAD: dx, or dz; WGRAD: dw, all of `type` */
    const float *bias;
    const void *residual;
    const void *scale, *shift;  /* affine: of type cudnn_affine_type */
    const float *mean, *invstd; /* drelu_bn: the batch norm's coefficients and */
    const float *gamma, *beta; /* parameters (the mask is that of (x - mean)*invstd*gamma + beta) */
    const void *bn_x;          /* drelu_bn: the batch norm's input */
    float *sum, *square_sum;   /* stats: of y, y^2; drelu_bn: of dz, dz*xhat */
    void *workspace;
} CudnnConvArgs;

/* Type in which the affine's scale and shift are read. F16 activations: F16, because the engines that exist ahead of time
 * and all those of the weight gradient want it; the rounding is that of one more factor in x's own type. Else F32. */
static inline DType cudnn_affine_type(DType type)
{
    return type == DT_F16 ? DT_F16 : DT_F32;
}

/* described: JSON text of device properties, or NULL for the current device (then a handle is made). plan_cache: a folder
 * (made when absent), or NULL. Errors: EXIT_NO_DEVICE with cuDNN's reason; EXIT_CONFIG_ERR for a description that cuDNN
 * does not take. */
Err *cudnn_context_open(const char *described, const char *plan_cache, CudnnContext **out);
void cudnn_context_close(CudnnContext *context); /* accepts NULL */
/* "cuDNN 9.19.0" */
void cudnn_context_describe(const CudnnContext *context, char *text, size_t size);

typedef struct {
    int plans;        /* made or loaded */
    int compiled;     /* of them, at run time, in `compile_s` seconds altogether */
    int loaded;       /* of them, from the plan cache */
    double compile_s; /* candidates that were compiled only to be timed included */
} CudnnCounts;
CudnnCounts cudnn_context_counts(const CudnnContext *context);

/* Finds the plan: heuristics' candidates in order, the first that finalizes; with choices (and a device) the fastest of
 * the first few, timed on scratch memory, remembered under the spec's key and cuDNN's version. Deterministic plans are not
 * timed: what a clock decides may be another engine, with other bits, in the next run.
 * EXIT_CONFIG_ERR with cuDNN's reason when there is none. */
Err *cudnn_plan_make(CudnnContext *context, const CudnnConvSpec *spec, Choices *choices,
                     bool deterministic, CudnnPlan **out);
/* Whether there is a plan; answers and plans are remembered. */
bool cudnn_supports(CudnnContext *context, const CudnnConvSpec *spec, bool deterministic);
size_t cudnn_plan_workspace(const CudnnPlan *plan);
/* "eng62 k2=4 k13=0, precompiled": for reports and golden files. */
const char *cudnn_plan_name(const CudnnPlan *plan);
/* cudnnStatus_t; text by cudnn_status_text. Neither allocates device memory nor waits; may be captured. */
int cudnn_plan_run(CudnnContext *context, const CudnnPlan *plan, KernelStream stream,
                   const CudnnConvArgs *args);
const char *cudnn_status_text(int status);

#endif
