/* The classifier and its gradients. Forward: activations in their own type times the weights' 16-bit shadow, summed into
 * fp32 logits. The gradients keep the fp32 gradient of the logits: fp32 products, 16-bit activations widened first (one
 * row an image: little work beside one convolution), so small probabilities are not rounded away. */
#include "backend/cuda.h"
#include "backend/cuda_cublas.h"

#include "kernels/elementwise.h"

#include <stdlib.h>

enum { PART_ALIGN = 256 };

#define CUBLAS_OK(call)                                                                            \
    do {                                                                                           \
        const int status_ = (int)(call);                                                           \
        if (status_ != 0) {                                                                        \
            cuda_fail(__FILE__, __LINE__, #call, cublas_status_text(status_));                     \
        }                                                                                          \
    } while (0)

typedef struct {
    CublasPlan *plan;
    /* bytes from the workspace's base: a widened input, a result to be narrowed */
    size_t at_wide, at_narrow;
} CudaLinear;

static CudaLinear *linear_of(const CudaStep *own)
{
    return own->own;
}

static void *scratch(const RunArgs *args, size_t at)
{
    return (char *)args->arena[ARENA_WORKSPACE] + at;
}

/* The tensor in fp32: itself, or a copy in the workspace. */
static const void *widened(const CudaStep *own, KernelStream stream, const Step *step,
                           const RunArgs *args, int slot)
{
    const Tensor *t = cuda_in(step, slot);
    const void *x = cuda_in_at(step, args, slot);
    if (t->dtype == DT_F32) {
        return x;
    }
    void *wide = scratch(args, linear_of(own)->at_wide);
    CUDA_OK(
        kernel_cast(stream, cuda_type(t->dtype), KERNEL_F32, (int64_t)tensor_elems(t), x, wide));
    return wide;
}

static const void *shadow_base(const Step *step, const RunArgs *args, size_t *elems, size_t *at)
{
    const Placement *place = &step->plan->at[step_node(step)->in[1]];
    *elems = step->graph->params->arena_elems[place->arena];
    *at = place->offset / sizeof(float);
    return args->arena[place->arena];
}

static void pack(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    size_t elems = 0;
    size_t at = 0;
    const void *base = shadow_base(step, args, &elems, &at);
    cuda_shadow_refresh(own->cuda, stream, base, elems, cuda_in(step, 0)->dtype);
}

static void run_forward(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const DType type = cuda_in(step, 0)->dtype;
    const void *w = cuda_in_at(step, args, 1);
    if (type != DT_F32) {
        size_t elems = 0;
        size_t at = 0;
        const void *base = shadow_base(step, args, &elems, &at);
        w = (const char *)cuda_shadow(own->cuda, base, elems, type) + at * dtype_size(type);
    }
    CUBLAS_OK(cublas_plan_run(cuda_cublas(own->cuda), linear_of(own)->plan, stream,
                              cuda_in_at(step, args, 0), w, cuda_in_at(step, args, 2), false,
                              cuda_out_at(step, args, 0), scratch(args, 0)));
}

static void run_dgrad(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const Tensor *dx_t = cuda_out(step, 0);
    const bool narrow = dx_t->dtype != DT_F32;
    void *dx = cuda_out_at(step, args, 0);
    float *product = narrow ? scratch(args, linear_of(own)->at_narrow) : dx;
    CUBLAS_OK(cublas_plan_run(cuda_cublas(own->cuda), linear_of(own)->plan, stream,
                              widened(own, stream, step, args, 0), cuda_in_at(step, args, 1), NULL,
                              false, product, scratch(args, 0)));
    if (narrow) {
        CUDA_OK(kernel_cast(stream, KERNEL_F32, cuda_type(dx_t->dtype), (int64_t)tensor_elems(dx_t),
                            product, dx));
    }
}

static void run_wgrad(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    CUBLAS_OK(cublas_plan_run(cuda_cublas(own->cuda), linear_of(own)->plan, stream,
                              cuda_in_at(step, args, 1), widened(own, stream, step, args, 0), NULL,
                              cuda_adds(step, args), cuda_out_at(step, args, 0), scratch(args, 0)));
}

static void release(CudaStep *own)
{
    if (linear_of(own)) {
        cublas_plan_free(linear_of(own)->plan);
    }
    free(own->own);
    own->own = NULL;
}

static CublasSpec spec_of(const Step *step)
{
    switch (step_node(step)->op) {
    case OP_LINEAR:
        return (CublasSpec){.m = cuda_in(step, 0)->n,
                            .n = cuda_out(step, 0)->c,
                            .k = cuda_in(step, 0)->c,
                            .b_transposed = true,
                            .in = cuda_in(step, 0)->dtype,
                            .bias = cuda_in(step, 2) != NULL};
    case OP_LINEAR_DGRAD:
        return (CublasSpec){.m = cuda_in(step, 0)->n,
                            .n = cuda_out(step, 0)->c,
                            .k = cuda_in(step, 0)->c,
                            .in = DT_F32};
    default:
        return (CublasSpec){.m = cuda_in(step, 1)->c,
                            .n = cuda_in(step, 0)->c,
                            .k = cuda_in(step, 0)->n,
                            .a_transposed = true,
                            .in = DT_F32};
    }
}

static Err *check_types(const Step *step)
{
    const Op op = step_node(step)->op;
    const Tensor *act = op == OP_LINEAR_DGRAD ? cuda_out(step, 0) : cuda_in(step, 0);
    const Tensor *logits = op == OP_LINEAR         ? cuda_out(step, 0)
                           : op == OP_LINEAR_DGRAD ? cuda_in(step, 0)
                                                   : cuda_in(step, 1);
    const bool storage = act->dtype == DT_F32 || act->dtype == DT_BF16 || act->dtype == DT_F16;
    const bool parameter = op == OP_LINEAR_WGRAD || cuda_in(step, 1)->kind == TENSOR_PARAM;
    if (!storage || logits->dtype != DT_F32 || !parameter) {
        return err_new(EXIT_CONFIG_ERR,
                       "linear layers on cuda take a parameter, %s and fp32, not "
                       "%s and %s; try precision fp32",
                       "activations in fp32, bf16 or fp16", dtype_name(act->dtype),
                       dtype_name(logits->dtype));
    }
    return NULL;
}

static size_t reserve(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += (bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    return at;
}

static Err *prepare(Step *step, const CudaStep *own, CudaLinear *linear)
{
    const CublasSpec spec = spec_of(step);
    const Op op = step_node(step)->op;
    TRY(check_types(step));
    TRY(cublas_plan_make(cuda_cublas(own->cuda), &spec, cuda_backend(own->cuda)->deterministic,
                         &linear->plan));
    size_t total = 0;
    (void)reserve(&total, cublas_plan_workspace(linear->plan));
    if (op != OP_LINEAR && cuda_in(step, 0)->dtype != DT_F32) {
        linear->at_wide = reserve(&total, tensor_elems(cuda_in(step, 0)) * sizeof(float));
    }
    if (op == OP_LINEAR_DGRAD && cuda_out(step, 0)->dtype != DT_F32) {
        linear->at_narrow = reserve(&total, tensor_elems(cuda_out(step, 0)) * sizeof(float));
    }
    step->workspace = total;
    step->packs = op == OP_LINEAR && spec.in != DT_F32;
    return NULL;
}

Err *cuda_prepare_linear(Step *step, CudaStep *own)
{
    CudaLinear *linear = xcalloc(1, sizeof *linear);
    const Op op = step_node(step)->op;
    own->own = linear;
    own->release = release;
    TRY(err_context(prepare(step, own, linear), "%s", step_node(step)->name));
    own->pack = step->packs ? pack : NULL;
    own->run = op == OP_LINEAR ? run_forward : op == OP_LINEAR_DGRAD ? run_dgrad : run_wgrad;
    return NULL;
}
