/* Internals of the cuda backend (host/backend/cuda*.c); nobody else includes this but tests.
 *
 * Files: cuda.c the table, streams, events, capture; cuda_memory.c memory, transfers and weight shadows; cuda_ops.c and
 * cuda_param.c nodes that are our kernels; cuda_conv.c convolution nodes on top of cuda_cudnn.c (alone with cudnn.h);
 * cuda_linear.c on top of cuda_cublas.c (alone with cublas).
 *
 * Weights: convolutions read 16-bit (or fp32) copies. For parameters in ARENA_WEIGHT and ARENA_FROZEN the copy is a shadow
 * of the whole arena with equal element offsets, one for each arena base and type; OP_SGD writes it along with the
 * weights, uploads into the arena make it stale, and the first pack() afterwards casts the whole arena. What else writes
 * the arena (a broadcast) tells by an upload of 0 bytes to its base. The fp32 shadow is the arena itself. Folded weights
 * (ARENA_PERSIST) and weights that need padding channels are packed by their own step.
 *
 * Calls that allocate (alloc, prepare, the first pack of an arena) must not come between capture_begin and capture_end:
 * run a step once before it is captured. */
#ifndef CUDISTILL_BACKEND_CUDA_H
#define CUDISTILL_BACKEND_CUDA_H

#include "backend/backend.h"
#include "kernels/launch.h"

typedef struct Cuda Cuda;
typedef struct CudaStep CudaStep;
typedef struct CudnnContext CudnnContext;
typedef struct CublasContext CublasContext;

typedef void (*CudaRun)(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args);

/* priv of a prepared step. A family file fills run (pack, release where needed) and its own part. */
struct CudaStep {
    Cuda *cuda;
    CudaRun run, pack;
    void (*release)(CudaStep *own);
    void *own; /* the family's */
};

/* Ends the process with place, call, library message (Backend functions have no way to return it: a dead device).
 * cuda_fail: for libraries with statuses of their own, leaves with EXIT_INTERNAL. cuda_call_failed: adds the runtime's
 * text of a cudaError_t and a hint; leaves with EXIT_DEVICE_MEMORY, EXIT_NO_DEVICE or EXIT_INTERNAL, as it fits. */
_Noreturn void cuda_fail(const char *file, int line, const char *call, const char *message);
_Noreturn void cuda_call_failed(const char *file, int line, const char *call, int status);
const char *cuda_status_text(int status);
#define CUDA_OK(call)                                                                              \
    do {                                                                                           \
        const int status_ = (int)(call);                                                           \
        if (status_ != 0) {                                                                        \
            cuda_call_failed(__FILE__, __LINE__, #call, status_);                                  \
        }                                                                                          \
    } while (0)

static inline KernelType cuda_type(DType dtype)
{
    return (KernelType)dtype;
}

/* --- cuda.c: services for the families --- */
Backend *cuda_backend(const Cuda *cuda);
CudnnContext *cuda_cudnn(const Cuda *cuda);
CublasContext *cuda_cublas(const Cuda *cuda);
bool cuda_described(const Cuda *cuda); /* no device: prepare only */
/* Memory that lives as long as the step; zeroed; NULL when memory is out. Described devices give NULL and count it. */
void *cuda_step_alloc(Cuda *cuda, size_t bytes);
void cuda_step_free(Cuda *cuda, void *memory);
size_t cuda_step_bytes(const Cuda *cuda); /* of all steps together: an owner of memory in reports */
/* The shadow of the arena at `base` (elems elements) in `type`; made on first use (prepare or pack, never run). */
void *cuda_shadow(Cuda *cuda, const void *base, size_t elems, DType type);
/* Casts the arena into its shadow unless it is fresh. */
void cuda_shadow_refresh(Cuda *cuda, KernelStream stream, const void *base, size_t elems,
                         DType type);
/* The shadow that OP_SGD must write for the arena at `base`, or NULL; and that it has. */
void *cuda_shadow_of_training(Cuda *cuda, const void *base, DType *type);
void cuda_shadow_written(Cuda *cuda, const void *base);

/* --- slots of a step's node: -1 or beyond the node's count is absent --- */
static inline const Tensor *cuda_in(const Step *step, int slot)
{
    const Node *node = step_node(step);
    return slot < node->n_in && node->in[slot] >= 0 ? &step->graph->tensors[node->in[slot]] : NULL;
}
static inline const Tensor *cuda_out(const Step *step, int slot)
{
    const Node *node = step_node(step);
    return slot < node->n_out && node->out[slot] >= 0 ? &step->graph->tensors[node->out[slot]]
                                                      : NULL;
}
static inline void *cuda_in_at(const Step *step, const RunArgs *args, int slot)
{
    return cuda_in(step, slot) ? step_address(step, args, step_node(step)->in[slot]) : NULL;
}
static inline void *cuda_out_at(const Step *step, const RunArgs *args, int slot)
{
    return cuda_out(step, slot) ? step_address(step, args, step_node(step)->out[slot]) : NULL;
}
/* Whether writes to GRAD tensors of this run add. */
static inline bool cuda_adds(const Step *step, const RunArgs *args)
{
    return step_node(step)->accumulate || args->grad_add;
}

/* --- cuda_ops.c, cuda_param.c, cuda_conv.c, cuda_linear.c --- */
Err *cuda_prepare_kernel_op(Step *step, CudaStep *own);
Err *cuda_prepare_param(Step *step, CudaStep *own); /* GRAD_NORM, SGD, LOSS_SCALE, FOLD_BN */
Err *cuda_prepare_conv(Step *step, CudaStep *own);
Err *cuda_prepare_linear(Step *step, CudaStep *own);
/* Whether the group of a FUSE_CONV_STATS, FUSE_AFFINE_CONV, FUSE_DGRAD_BN (and FOLD, CONV_ADD, CONV_RELU) candidate has a
 * plan on this device. */
bool cuda_conv_accepts(Cuda *cuda, const FuseCandidate *candidate);

#endif
