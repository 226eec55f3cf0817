/* Nodes that are our own kernels: what a node says becomes a launcher's arguments. Every function here only enqueues. */
#include "backend/cuda.h"

#include "kernels/batchnorm.h"
#include "kernels/distill.h"
#include "kernels/elementwise.h"
#include "kernels/image.h"

static KernelType type_of(const Tensor *t)
{
    return cuda_type(t->dtype);
}

static int64_t count_of(const Tensor *t)
{
    return (int64_t)tensor_elems(t);
}

static void *workspace(const RunArgs *args)
{
    return args->arena[ARENA_WORKSPACE];
}

/* ---- Input ---- */

static void run_image(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *y = cuda_out(step, 0);
    const ImageAttr *a = &step_node(step)->attr.image;
    const ImageShape shape = {.type = type_of(y),
                              .n = y->n,
                              .h = y->h,
                              .w = y->w,
                              .oh = y->h,
                              .ow = y->w,
                              .c = y->c,
                              .mean = {a->mean[0], a->mean[1], a->mean[2]},
                              .std = {a->std[0], a->std[1], a->std[2]}};
    CUDA_OK(
        kernel_image(stream, &shape, cuda_in_at(step, args, 0), NULL, cuda_out_at(step, args, 0)));
}

static void run_views(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *set = cuda_in(step, 0);
    const ViewsAttr *a = &step_node(step)->attr.views;
    const ViewsLaunch launch = {.n = cuda_out(step, 0)->n,
                                .count = set->n,
                                .h = set->h,
                                .w = set->w,
                                .pad = a->pad,
                                .flip = a->flip,
                                .set_images = cuda_in_at(step, args, 0),
                                .set_labels = cuda_in_at(step, args, 1),
                                .order = cuda_in_at(step, args, 2),
                                .cursor = cuda_in_at(step, args, 3),
                                .rows_valid = cuda_in_at(step, args, 4),
                                .images = cuda_out_at(step, args, 0),
                                .labels = cuda_out_at(step, args, 1),
                                .ids = cuda_out_at(step, args, 2)};
    CUDA_OK(kernel_views(stream, &launch));
}

static void run_gather(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *table = cuda_in(step, 0);
    const int64_t row_bytes = (int64_t)tensor_bytes(table) / table->n;
    CUDA_OK(kernel_gather(stream, cuda_out(step, 0)->n, row_bytes, table->n,
                          cuda_in_at(step, args, 0), cuda_in_at(step, args, 1),
                          cuda_out_at(step, args, 0)));
}

/* ---- Elementwise ---- */

static void run_relu(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *y = cuda_out(step, 0);
    CUDA_OK(kernel_relu(stream, type_of(y), count_of(y), cuda_in_at(step, args, 0),
                        cuda_out_at(step, args, 0)));
}

static void run_relu_bwd(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *dx = cuda_out(step, 0);
    CUDA_OK(kernel_relu_bwd(stream, type_of(dx), count_of(dx), cuda_in_at(step, args, 0),
                            cuda_in_at(step, args, 1), cuda_out_at(step, args, 0)));
}

static void run_add(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *y = cuda_out(step, 0);
    CUDA_OK(kernel_add(stream, type_of(y), count_of(y), cuda_in_at(step, args, 0),
                       cuda_in_at(step, args, 1), step_node(step)->attr.bn.relu,
                       cuda_out_at(step, args, 0)));
}

static void run_cast(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *x = cuda_in(step, 0);
    CUDA_OK(kernel_cast(stream, type_of(x), type_of(cuda_out(step, 0)), count_of(x),
                        cuda_in_at(step, args, 0), cuda_out_at(step, args, 0)));
}

static void run_bias_grad(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *dy = cuda_in(step, 0);
    CUDA_OK(kernel_bias_grad(stream, type_of(dy), dy->n, dy->h * dy->w, dy->c,
                             cuda_in_at(step, args, 0), cuda_adds(step, args),
                             cuda_out_at(step, args, 0), workspace(args)));
}

/* ---- Pooling ---- */

static PoolShape pool_shape(const Step *step, const Tensor *x, const Tensor *y)
{
    const PoolAttr *a = &step_node(step)->attr.pool;
    return (PoolShape){.type = type_of(x),
                       .n = x->n,
                       .h = x->h,
                       .w = x->w,
                       .c = x->c,
                       .oh = y->h,
                       .ow = y->w,
                       .kernel = a->kernel,
                       .stride = a->stride,
                       .pad = a->pad};
}

static void run_avgpool(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const PoolShape shape = pool_shape(step, cuda_in(step, 0), cuda_out(step, 0));
    CUDA_OK(kernel_avgpool(stream, shape, cuda_in_at(step, args, 0), cuda_out_at(step, args, 0)));
}

static void run_avgpool_bwd(CudaStep *own, KernelStream stream, const Step *step,
                            const RunArgs *args)
{
    (void)own;
    const PoolShape shape = pool_shape(step, cuda_out(step, 0), cuda_in(step, 0));
    CUDA_OK(
        kernel_avgpool_bwd(stream, shape, cuda_in_at(step, args, 0), cuda_out_at(step, args, 0)));
}

static void run_maxpool(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const PoolShape shape = pool_shape(step, cuda_in(step, 0), cuda_out(step, 0));
    CUDA_OK(kernel_maxpool(stream, shape, cuda_in_at(step, args, 0), cuda_out_at(step, args, 0),
                           cuda_out_at(step, args, 1)));
}

static void run_maxpool_bwd(CudaStep *own, KernelStream stream, const Step *step,
                            const RunArgs *args)
{
    (void)own;
    const PoolShape shape = pool_shape(step, cuda_out(step, 0), cuda_in(step, 0));
    CUDA_OK(kernel_maxpool_bwd(stream, shape, cuda_in_at(step, args, 0), cuda_in_at(step, args, 1),
                               cuda_out_at(step, args, 0)));
}

/* ---- Batch norm: slots as in graph.h ---- */

static BnShape bn_shape(const Step *step, const RunArgs *args, const Tensor *x, int rows_slot)
{
    return (BnShape){.type = type_of(x),
                     .n = x->n,
                     .hw = x->h * x->w,
                     .c = x->c,
                     .rows_valid = cuda_in_at(step, args, rows_slot)};
}

static BnMaskSource mask_source(const Step *step, const RunArgs *args, int y_slot, int bits_slot)
{
    if (cuda_in(step, bits_slot)) {
        return (BnMaskSource){.kind = BN_MASK_BITS, .bits = cuda_in_at(step, args, bits_slot)};
    }
    if (cuda_in(step, y_slot)) {
        return (BnMaskSource){.kind = BN_MASK_OUTPUT, .y = cuda_in_at(step, args, y_slot)};
    }
    return (BnMaskSource){.kind = step_node(step)->attr.bn.remask ? BN_MASK_REMAKE : BN_MASK_NONE};
}

static void run_bn_stats(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_stats(stream, bn_shape(step, args, cuda_in(step, 0), 1),
                            cuda_in_at(step, args, 0), cuda_out_at(step, args, 0),
                            workspace(args)));
}

static void run_bn_finalize(CudaStep *own, KernelStream stream, const Step *step,
                            const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_finalize(stream, cuda_in(step, 1)->c, cuda_in_at(step, args, 0),
                               cuda_in_at(step, args, 1), cuda_in_at(step, args, 2),
                               step_node(step)->attr.bn.eps, cuda_out_at(step, args, 0)));
}

static void run_bn_running(CudaStep *own, KernelStream stream, const Step *step,
                           const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_running(stream, cuda_in(step, 1)->c, cuda_in_at(step, args, 0),
                              step_node(step)->attr.bn.momentum, cuda_out_at(step, args, 0),
                              cuda_out_at(step, args, 1)));
}

static void run_bn_infer(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_infer(stream, cuda_in(step, 0)->c, cuda_in_at(step, args, 0),
                            cuda_in_at(step, args, 1), cuda_in_at(step, args, 2),
                            cuda_in_at(step, args, 3), step_node(step)->attr.bn.eps,
                            cuda_out_at(step, args, 0)));
}

static void run_bn_apply(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_apply(stream, bn_shape(step, args, cuda_in(step, 0), 3),
                            cuda_in_at(step, args, 0), cuda_in_at(step, args, 1),
                            cuda_in_at(step, args, 2), step_node(step)->attr.bn.relu,
                            cuda_out_at(step, args, 0), cuda_out_at(step, args, 1)));
}

static void run_bn_reduce(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_reduce(stream, bn_shape(step, args, cuda_in(step, 1), 3),
                             cuda_in_at(step, args, 0), cuda_in_at(step, args, 4),
                             cuda_in_at(step, args, 1), cuda_in_at(step, args, 2),
                             mask_source(step, args, 5, 6), cuda_out_at(step, args, 1),
                             cuda_out_at(step, args, 0), workspace(args)));
}

static void run_bn_dparam(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const Tensor *grad = cuda_out(step, cuda_out(step, 0) ? 0 : 1);
    CUDA_OK(kernel_bn_dparam(stream, grad->c, cuda_in_at(step, args, 0), cuda_out_at(step, args, 0),
                             cuda_out_at(step, args, 1), cuda_adds(step, args)));
}

static void run_bn_dx(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_bn_dx(stream, bn_shape(step, args, cuda_in(step, 0), 4),
                         cuda_in_at(step, args, 0), cuda_in_at(step, args, 1),
                         cuda_in_at(step, args, 2), cuda_in_at(step, args, 3),
                         mask_source(step, args, 5, 6), step_node(step)->attr.bn.frozen,
                         cuda_out_at(step, args, 0)));
}

/* ---- Distillation ---- */

static DistillLaunch distill_launch(const Step *step, const RunArgs *args)
{
    const Tensor *z = cuda_in(step, DISTILL_IN_Z);
    const Tensor *t = cuda_in(step, DISTILL_IN_T);
    const Tensor *logits = z ? z : t;
    const Tensor *dz = cuda_out(step, DISTILL_OUT_DZ);
    const Tensor *columns = cuda_in(step, DISTILL_IN_ROW_PARAMS);
    return (DistillLaunch){.n = logits->n,
                           .classes = logits->c,
                           .z_type = type_of(logits),
                           .t_type = type_of(t ? t : logits),
                           .dz_type = dz ? type_of(dz) : KERNEL_F32,
                           .z = cuda_in_at(step, args, DISTILL_IN_Z),
                           .t = cuda_in_at(step, args, DISTILL_IN_T),
                           .dz = cuda_out_at(step, args, DISTILL_OUT_DZ),
                           .labels = cuda_in_at(step, args, DISTILL_IN_LABELS),
                           .theta = cuda_in_at(step, args, DISTILL_IN_THETA),
                           .row_params = cuda_in_at(step, args, DISTILL_IN_ROW_PARAMS),
                           .columns = columns ? columns->c : 0,
                           .target_kind = cuda_in_at(step, args, DISTILL_IN_TARGET_KIND),
                           .target_weight = cuda_in_at(step, args, DISTILL_IN_TARGET_WEIGHT),
                           .target_class = cuda_in_at(step, args, DISTILL_IN_TARGET_CLASS),
                           .sparse_index = cuda_in_at(step, args, DISTILL_IN_SPARSE_INDEX),
                           .sparse_value = cuda_in_at(step, args, DISTILL_IN_SPARSE_VALUE),
                           .dense = cuda_in_at(step, args, DISTILL_IN_DENSE),
                           .rows_valid = cuda_in_at(step, args, DISTILL_IN_ROWS_VALID),
                           .scale = cuda_in_at(step, args, DISTILL_IN_SCALE),
                           .loss_scale = cuda_in_at(step, args, DISTILL_IN_LOSS_SCALE),
                           .rows = cuda_out_at(step, args, DISTILL_OUT_ROWS),
                           .sums = cuda_out_at(step, args, DISTILL_OUT_SUMS),
                           .workspace = workspace(args)};
}

/* The counter of the sums: the workspace arena is written by other steps. */
static void release_distill(CudaStep *own)
{
    cuda_step_free(own->cuda, own->own);
    own->own = NULL;
}

static Err *prepare_distill(CudaStep *own)
{
    own->own = cuda_step_alloc(own->cuda, sizeof(unsigned));
    own->release = release_distill;
    return own->own || cuda_described(own->cuda)
               ? NULL
               : err_new(EXIT_DEVICE_MEMORY, "out of device memory for a counter of the loss; "
                                             "lower the batch size");
}

static void run_distill(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    DistillLaunch launch = distill_launch(step, args);
    launch.counter = own->own;
    CUDA_OK(kernel_distill(stream, &step->graph->specs[step_node(step)->attr.distill], &launch,
                           DISTILL_AUTO));
}

/* ---- Preparation ---- */

static const CudaRun kernel_runs[OP_COUNT] = {
    [OP_IMAGE] = run_image,
    [OP_VIEWS] = run_views,
    [OP_GATHER] = run_gather,
    [OP_RELU] = run_relu,
    [OP_RELU_BWD] = run_relu_bwd,
    [OP_ADD] = run_add,
    [OP_CAST] = run_cast,
    [OP_BIAS_GRAD] = run_bias_grad,
    [OP_AVGPOOL] = run_avgpool,
    [OP_AVGPOOL_BWD] = run_avgpool_bwd,
    [OP_MAXPOOL] = run_maxpool,
    [OP_MAXPOOL_BWD] = run_maxpool_bwd,
    [OP_BN_STATS] = run_bn_stats,
    [OP_BN_FINALIZE] = run_bn_finalize,
    [OP_BN_RUNNING] = run_bn_running,
    [OP_BN_INFER] = run_bn_infer,
    [OP_BN_APPLY] = run_bn_apply,
    [OP_BN_REDUCE] = run_bn_reduce,
    [OP_BN_DPARAM] = run_bn_dparam,
    [OP_BN_DX] = run_bn_dx,
    [OP_DISTILL] = run_distill,
};

static size_t workspace_bytes(const Step *step)
{
    const Tensor *x = cuda_in(step, 0);
    switch (step_node(step)->op) {
    case OP_BIAS_GRAD:
        return kernel_bias_grad_workspace(x->n, x->h * x->w, x->c);
    case OP_BN_STATS:
    case OP_BN_REDUCE:
        return kernel_bn_workspace(x->n, x->h * x->w, x->c);
    case OP_DISTILL: {
        const Tensor *logits = x ? x : cuda_in(step, DISTILL_IN_T);
        return kernel_distill_workspace(&step->graph->specs[step_node(step)->attr.distill],
                                        logits->n, logits->c);
    }
    default:
        return 0;
    }
}

Err *cuda_prepare_kernel_op(Step *step, CudaStep *own)
{
    const Op op = step_node(step)->op;
    if (!kernel_runs[op]) {
        return err_new(EXIT_INTERNAL, "the cuda backend has no code for op %s", op_name(op));
    }
    own->run = kernel_runs[op];
    step->workspace = workspace_bytes(step);
    return op == OP_DISTILL ? prepare_distill(own) : NULL;
}
