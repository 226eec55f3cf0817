/* Convolution nodes: cuDNN plans with our kernels around them.
 *
 * A node that fusion made runs as one plan where cuDNN has one. Otherwise it runs as its parts, the plain convolution
 * between our batch norm and elementwise kernels; so do groups that know of rows_valid when fewer rows are valid than the
 * graph has, since the plans take every row for valid. The parts store what the group would not, in the workspace. */
#include "backend/cuda_conv.h"
#include "backend/cuda.h"

#include "kernels/batchnorm.h"
#include "kernels/elementwise.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>

enum { PART_ALIGN = 256, COEF_MEAN = 0, COEF_INVSTD, COEF_SCALE, COEF_SHIFT };

#define CUDNN_OK(call)                                                                             \
    do {                                                                                           \
        const int status_ = (int)(call);                                                           \
        if (status_ != 0) {                                                                        \
            cuda_fail(__FILE__, __LINE__, #call, cudnn_status_text(status_));                      \
        }                                                                                          \
    } while (0)

typedef struct {
    CudnnConvSpec spec;
    CudnnPlan *fused; /* NULL: the parts always run */
    CudnnPlan *plain; /* NULL: the parts never do */
    int weight_c;     /* input channels of the parameter; spec.ic / groups less the padding */
    void *packed;     /* own copy of weights that no shadow has */
    float *unit;      /* parts with bias, residual or ReLU: coefficients [4c] of y*1 + bias */
    float *count;     /* fused sums: how many values each adds up */
    int coef_slot, rows_slot;
    int gamma, beta; /* tensors; of a fused gradient of a batch norm */
    /* bytes from the workspace's base, behind the library's part */
    size_t at_affine, at_x, at_dw, at_bn;
} CudaConv;

static CudaConv *conv_of(const CudaStep *own)
{
    return own->own;
}

static void *scratch(const RunArgs *args, size_t at)
{
    return (char *)args->arena[ARENA_WORKSPACE] + at;
}

/* ---- Weights ---- */

static bool needs_pack(const Step *step, const CudaConv *conv)
{
    const bool padded = conv->weight_c * conv->spec.groups != conv->spec.ic;
    const bool parameter = cuda_in(step, 1)->kind == TENSOR_PARAM;
    return padded || (!parameter && conv->spec.type != DT_F32);
}

typedef struct {
    const void *base;
    size_t elems;  /* of the arena */
    size_t offset; /* of the weights, elements */
} ShadowPlace;

static ShadowPlace shadow_place(const Step *step, const RunArgs *args)
{
    const Placement *at = &step->plan->at[step_node(step)->in[1]];
    return (ShadowPlace){args->arena[at->arena], step->graph->params->arena_elems[at->arena],
                         at->offset / sizeof(float)};
}

static const void *weights_at(const CudaStep *own, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    if (conv->packed) {
        return conv->packed;
    }
    if (conv->spec.type == DT_F32) {
        return cuda_in_at(step, args, 1);
    }
    const ShadowPlace place = shadow_place(step, args);
    const char *shadow = cuda_shadow(own->cuda, place.base, place.elems, conv->spec.type);
    return shadow + place.offset * dtype_size(conv->spec.type);
}

static int64_t weight_rows(const CudnnConvSpec *spec)
{
    return (int64_t)spec->oc * spec->kernel_h * spec->kernel_w;
}

static void pack(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    const CudnnConvSpec *spec = &conv->spec;
    if (conv->packed) {
        CUDA_OK(kernel_pad_channels(stream, cuda_type(spec->type), weight_rows(spec),
                                    conv->weight_c, spec->ic / spec->groups,
                                    cuda_in_at(step, args, 1), conv->packed));
        return;
    }
    const ShadowPlace place = shadow_place(step, args);
    cuda_shadow_refresh(own->cuda, stream, place.base, place.elems, spec->type);
}

/* ---- What groups have in common ---- */

static BnShape bn_shape(const CudnnConvSpec *spec, bool x_side, const float *rows_valid)
{
    return (BnShape){.type = cuda_type(spec->type),
                     .n = spec->n,
                     .hw = x_side ? spec->h * spec->w : spec->oh * spec->ow,
                     .c = x_side ? spec->ic : spec->oc,
                     .rows_valid = rows_valid};
}

static bool runs_fused(const CudaConv *conv, const Step *step, const RunArgs *args)
{
    const bool full = !cuda_in(step, conv->rows_slot) || args->rows >= conv->spec.n;
    return conv->fused && (full || !conv->plain);
}

/* The batch norm's scale and shift in the type that the plan reads. */
static void set_affine(const CudaConv *conv, KernelStream stream, const Step *step,
                       const RunArgs *args, CudnnConvArgs *out)
{
    const int c = conv->spec.ic;
    const float *coef = cuda_in_at(step, args, conv->coef_slot);
    if (cudnn_affine_type(conv->spec.type) == DT_F32) {
        out->scale = coef + (size_t)COEF_SCALE * (size_t)c;
        out->shift = coef + (size_t)COEF_SHIFT * (size_t)c;
        return;
    }
    char *copy = scratch(args, conv->at_affine);
    CUDA_OK(kernel_cast(stream, KERNEL_F32, KERNEL_F16, 2 * (int64_t)c,
                        coef + (size_t)COEF_SCALE * (size_t)c, copy));
    out->scale = copy;
    out->shift = copy + (size_t)c * dtype_size(DT_F16);
}

static void set_count(const CudaConv *conv, KernelStream stream, float *count)
{
    CUDA_OK(cudaMemcpyAsync(count, conv->count, sizeof *count, cudaMemcpyDeviceToDevice, stream));
}

/* x' of the affine's definition, stored. */
static void *apply_affine(const CudaConv *conv, KernelStream stream, const Step *step,
                          const RunArgs *args)
{
    const BnShape shape = bn_shape(&conv->spec, true, cuda_in_at(step, args, conv->rows_slot));
    void *x = scratch(args, conv->at_x);
    CUDA_OK(kernel_bn_apply(stream, shape, cuda_in_at(step, args, 0),
                            cuda_in_at(step, args, conv->coef_slot), NULL, conv->spec.affine_relu,
                            x, NULL));
    return x;
}

/* ---- Forward ---- */

static void forward_fused(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    const CudnnConvSpec *spec = &conv->spec;
    float *sums = cuda_out_at(step, args, 1);
    CudnnConvArgs run = {.x = cuda_in_at(step, args, 0),
                         .w = weights_at(own, step, args),
                         .out = cuda_out_at(step, args, 0),
                         .bias = cuda_in_at(step, args, 2),
                         .residual = cuda_in_at(step, args, 3),
                         .workspace = args->arena[ARENA_WORKSPACE]};
    if (spec->affine) {
        set_affine(conv, stream, step, args, &run);
    }
    if (spec->stats) {
        run.sum = sums;
        run.square_sum = sums + spec->oc;
        set_count(conv, stream, sums + 2 * (size_t)spec->oc);
    }
    CUDNN_OK(cudnn_plan_run(cuda_cudnn(own->cuda), conv->fused, stream, &run));
}

static void forward_parts(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    const CudnnConvSpec *spec = &conv->spec;
    void *y = cuda_out_at(step, args, 0);
    const CudnnConvArgs run = {.x = spec->affine ? apply_affine(conv, stream, step, args)
                                                 : cuda_in_at(step, args, 0),
                               .w = weights_at(own, step, args),
                               .out = y,
                               .workspace = args->arena[ARENA_WORKSPACE]};
    CUDNN_OK(cudnn_plan_run(cuda_cudnn(own->cuda), conv->plain, stream, &run));
    if (spec->bias) {
        CUDA_OK(cudaMemcpyAsync(conv->unit + (size_t)COEF_SHIFT * (size_t)spec->oc,
                                cuda_in_at(step, args, 2), (size_t)spec->oc * sizeof(float),
                                cudaMemcpyDeviceToDevice, stream));
    }
    if (conv->unit) {
        CUDA_OK(kernel_bn_apply(stream, bn_shape(spec, false, NULL), y, conv->unit,
                                cuda_in_at(step, args, 3), spec->relu, y, NULL));
    }
    if (spec->stats) {
        const BnShape shape = bn_shape(spec, false, cuda_in_at(step, args, conv->rows_slot));
        CUDA_OK(kernel_bn_stats(stream, shape, y, cuda_out_at(step, args, 1),
                                scratch(args, conv->at_bn)));
    }
}

static void run_forward(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    if (runs_fused(conv_of(own), step, args)) {
        forward_fused(own, stream, step, args);
    } else {
        forward_parts(own, stream, step, args);
    }
}

/* ---- Gradient of the input ---- */

static void dgrad_fused(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    const size_t c = (size_t)conv->spec.ic;
    const float *coef = cuda_in_at(step, args, conv->coef_slot);
    float *sums = cuda_out_at(step, args, 1);
    CudnnConvArgs run = {.y = cuda_in_at(step, args, 0),
                         .w = weights_at(own, step, args),
                         .out = cuda_out_at(step, args, 0),
                         .workspace = args->arena[ARENA_WORKSPACE]};
    if (conv->spec.drelu_bn) {
        run.bn_x = cuda_in_at(step, args, 2);
        run.mean = coef + COEF_MEAN * c;
        run.invstd = coef + COEF_INVSTD * c;
        run.gamma = step_address(step, args, conv->gamma);
        run.beta = step_address(step, args, conv->beta);
        run.sum = sums;
        run.square_sum = sums + c;
        set_count(conv, stream, sums + 2 * c);
    }
    CUDNN_OK(cudnn_plan_run(cuda_cudnn(own->cuda), conv->fused, stream, &run));
}

static void dgrad_parts(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    void *dz = cuda_out_at(step, args, 0);
    const CudnnConvArgs run = {.y = cuda_in_at(step, args, 0),
                               .w = weights_at(own, step, args),
                               .out = dz,
                               .workspace = args->arena[ARENA_WORKSPACE]};
    CUDNN_OK(cudnn_plan_run(cuda_cudnn(own->cuda), conv->plain, stream, &run));
    CUDA_OK(kernel_bn_reduce(
        stream, bn_shape(&conv->spec, true, cuda_in_at(step, args, conv->rows_slot)), dz, NULL,
        cuda_in_at(step, args, 2), cuda_in_at(step, args, conv->coef_slot),
        (BnMaskSource){.kind = BN_MASK_REMAKE}, dz, cuda_out_at(step, args, 1),
        scratch(args, conv->at_bn)));
}

static void run_dgrad(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    if (runs_fused(conv_of(own), step, args)) {
        dgrad_fused(own, stream, step, args);
    } else {
        dgrad_parts(own, stream, step, args);
    }
}

/* ---- Gradient of the weights ---- */

/* cuDNN gives weight gradients in the activations' type and adds to nothing: they land in the workspace and are added to
 * the fp32 arena from there, but for F32 without padding where writing is enough. */
static bool wgrad_direct(const CudaConv *conv, bool adds)
{
    return conv->spec.type == DT_F32 && conv->weight_c * conv->spec.groups == conv->spec.ic &&
           !adds;
}

static void run_wgrad(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const CudaConv *conv = conv_of(own);
    const CudnnConvSpec *spec = &conv->spec;
    const bool fused = runs_fused(conv, step, args);
    const bool adds = cuda_adds(step, args);
    float *grad = cuda_out_at(step, args, 0);
    void *dw = wgrad_direct(conv, adds) ? (void *)grad : scratch(args, conv->at_dw);
    CudnnConvArgs run = {.x = cuda_in_at(step, args, 0),
                         .y = cuda_in_at(step, args, 1),
                         .out = dw,
                         .workspace = args->arena[ARENA_WORKSPACE]};
    if (spec->affine && fused) {
        set_affine(conv, stream, step, args, &run);
    } else if (spec->affine) {
        run.x = apply_affine(conv, stream, step, args);
    }
    CUDNN_OK(
        cudnn_plan_run(cuda_cudnn(own->cuda), fused ? conv->fused : conv->plain, stream, &run));
    if (dw != grad) {
        CUDA_OK(kernel_grad_accumulate(stream, cuda_type(spec->type), weight_rows(spec),
                                       conv->weight_c, spec->ic / spec->groups, dw, adds, grad));
    }
}

/* ---- Prepare ---- */

static void release(CudaStep *own)
{
    CudaConv *conv = conv_of(own);
    if (conv) {
        cuda_step_free(own->cuda, conv->packed);
        cuda_step_free(own->cuda, conv->unit);
        cuda_step_free(own->cuda, conv->count);
    }
    free(conv);
    own->own = NULL;
}

static Err *step_memory(const CudaStep *own, size_t bytes, void **out)
{
    *out = cuda_step_alloc(own->cuda, bytes);
    return *out || cuda_described(own->cuda)
               ? NULL
               : err_new(EXIT_DEVICE_MEMORY,
                         "out of device memory for %zu bytes of weights; lower the batch size",
                         bytes);
}

/* Constants that parts and fused groups read: uploaded once. */
static Err *step_constant(const CudaStep *own, const float *values, size_t count, float **out)
{
    void *memory = NULL;
    TRY(step_memory(own, count * sizeof *values, &memory));
    *out = memory;
    if (memory) { /* on a queue: the default stream is in no order with ours */
        Backend *backend = cuda_backend(own->cuda);
        backend->upload(backend, QUEUE_COMPUTE, memory, values, count * sizeof *values);
        backend->sync(backend, QUEUE_COMPUTE);
    }
    return NULL;
}

static Err *make_unit(const CudaStep *own, CudaConv *conv)
{
    const size_t c = (size_t)conv->spec.oc;
    float *values = xcalloc(4 * c, sizeof *values);
    for (size_t i = 0; i < c; i++) {
        values[COEF_SCALE * c + i] = 1.0f;
    }
    Err *err = step_constant(own, values, 4 * c, &conv->unit);
    free(values);
    return err;
}

static Err *check_types(const Step *step, const CudaConv *conv)
{
    const CudnnConvSpec *spec = &conv->spec;
    const bool padded = conv->weight_c * spec->groups != spec->ic;
    if (spec->type != DT_F32 && spec->type != DT_BF16 && spec->type != DT_F16) {
        return err_new(EXIT_CONFIG_ERR, "%s: no convolutions in %s on cuda; try precision fp32",
                       step_node(step)->name, dtype_name(spec->type));
    }
    if (padded && spec->groups > 1) {
        return err_new(EXIT_CONFIG_ERR, "%s: %d channels of %d groups of %d are not supported",
                       step_node(step)->name, spec->ic, spec->groups, conv->weight_c);
    }
    return NULL;
}

/* The group's plan where there is one, and the plain one where it may be needed. */
static Err *make_plans(const CudaStep *own, const Step *step, CudaConv *conv)
{
    Backend *backend = cuda_backend(own->cuda);
    CudnnContext *cudnn = cuda_cudnn(own->cuda);
    const bool masks = cuda_in(step, conv->rows_slot) != NULL;
    const bool plain = cuda_conv_is_plain(&conv->spec);
    bool fused = plain || cudnn_supports(cudnn, &conv->spec, backend->deterministic);
    if (conv->spec.drelu_bn) {
        fused = fused && cuda_conv_bn_params(step->graph, step_node(step)->in[conv->coef_slot],
                                             &conv->gamma, &conv->beta);
    }
    if (fused) {
        TRY(cudnn_plan_make(cudnn, &conv->spec, backend->choices, backend->deterministic,
                            &conv->fused));
    }
    if (!fused || (masks && !plain)) {
        const CudnnConvSpec alone = cuda_conv_plain(conv->spec);
        TRY(cudnn_plan_make(cudnn, &alone, backend->choices, backend->deterministic, &conv->plain));
    }
    return NULL;
}

static size_t reserve(size_t *total, size_t bytes)
{
    const size_t at = *total;
    *total += (bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    return at;
}

static size_t plan_bytes(const CudnnPlan *plan)
{
    return plan ? cudnn_plan_workspace(plan) : 0;
}

static size_t lay_out_workspace(CudaConv *conv)
{
    const CudnnConvSpec *s = &conv->spec;
    const size_t type_size = dtype_size(s->type);
    const size_t fused = plan_bytes(conv->fused);
    const size_t plain = plan_bytes(conv->plain);
    size_t total = 0;
    (void)reserve(&total, fused > plain ? fused : plain);
    if (s->affine && conv->fused) {
        conv->at_affine = reserve(&total, 2 * (size_t)s->ic * dtype_size(DT_F16));
    }
    if (s->affine && conv->plain) {
        conv->at_x =
            reserve(&total, (size_t)s->n * (size_t)s->h * (size_t)s->w * (size_t)s->ic * type_size);
    }
    if (s->kind == CUDNN_CONV_WGRAD) {
        conv->at_dw =
            reserve(&total, (size_t)weight_rows(s) * (size_t)(s->ic / s->groups) * type_size);
    }
    if (conv->plain && s->stats) {
        conv->at_bn = reserve(&total, kernel_bn_workspace(s->n, s->oh * s->ow, s->oc));
    }
    if (conv->plain && s->drelu_bn) {
        conv->at_bn = reserve(&total, kernel_bn_workspace(s->n, s->h * s->w, s->ic));
    }
    return total;
}

static Err *make_memory(const CudaStep *own, const Step *step, CudaConv *conv)
{
    const CudnnConvSpec *s = &conv->spec;
    if (s->kind != CUDNN_CONV_WGRAD && needs_pack(step, conv)) {
        TRY(step_memory(own,
                        (size_t)weight_rows(s) * (size_t)(s->ic / s->groups) * dtype_size(s->type),
                        &conv->packed));
    }
    if (conv->plain && (s->bias || s->residual || s->relu)) {
        TRY(make_unit(own, conv));
    }
    if (conv->fused && (s->stats || s->drelu_bn)) {
        const double pixels = s->drelu_bn ? (double)s->h * s->w : (double)s->oh * s->ow;
        const float count = (float)(s->n * pixels);
        TRY(step_constant(own, &count, 1, &conv->count));
    }
    return NULL;
}

static Err *prepare(Step *step, CudaStep *own, CudaConv *conv)
{
    const Node *node = step_node(step);
    conv->spec = cuda_conv_spec(step->graph, step->node);
    conv->coef_slot = node->op == OP_CONV ? 4 : node->op == OP_CONV_DGRAD ? 3 : 2;
    conv->rows_slot = conv->coef_slot + 1;
    conv->weight_c = (node->op == OP_CONV_WGRAD ? cuda_out(step, 0) : cuda_in(step, 1))->c;
    TRY(check_types(step, conv));
    TRY(make_plans(own, step, conv));
    TRY(make_memory(own, step, conv));
    step->workspace = lay_out_workspace(conv);
    step->packs =
        node->op != OP_CONV_WGRAD && (conv->spec.type != DT_F32 || needs_pack(step, conv));
    return NULL;
}

Err *cuda_prepare_conv(Step *step, CudaStep *own)
{
    CudaConv *conv = xcalloc(1, sizeof *conv);
    const Op op = step_node(step)->op;
    own->own = conv;
    own->release = release;
    TRY(err_context(prepare(step, own, conv), "%s", step_node(step)->name));
    own->pack = step->packs ? pack : NULL;
    own->run = op == OP_CONV ? run_forward : op == OP_CONV_DGRAD ? run_dgrad : run_wgrad;
    return NULL;
}

bool cuda_conv_accepts(Cuda *cuda, const FuseCandidate *candidate)
{
    CudnnConvSpec specs[FUSE_MAX_NODES];
    if (candidate->dtype != DT_F32 && candidate->dtype != DT_BF16 && candidate->dtype != DT_F16) {
        return false;
    }
    const int count = cuda_conv_group(candidate, specs);
    for (int i = 0; i < count; i++) {
        if (!cudnn_supports(cuda_cudnn(cuda), &specs[i], cuda_backend(cuda)->deterministic)) {
            return false;
        }
    }
    return count >= 0;
}
