/* Nodes on parameters: folding, and the optimizer over whole arenas. What differs from one stretch of the weights to the
 * next (weight decay) is a table in device memory, made when the step is prepared. Elements between parameters are zero
 * from the start, and the update of zeros by zeros leaves them so. */
#include "backend/cuda.h"

#include "kernels/batchnorm.h"
#include "kernels/optimizer.h"

#include <stdlib.h>

static int64_t weight_elems(const Step *step)
{
    return (int64_t)step->graph->params->arena_elems[ARENA_WEIGHT];
}

static void run_fold_bn(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    const int outputs = cuda_in(step, 2)->c;
    const int64_t per_output = (int64_t)tensor_elems(cuda_in(step, 0)) / outputs;
    CUDA_OK(kernel_fold_bn(stream, outputs, per_output, cuda_in_at(step, args, 0),
                           cuda_in_at(step, args, 1), cuda_in_at(step, args, 2),
                           cuda_in_at(step, args, 3), cuda_in_at(step, args, 4),
                           cuda_in_at(step, args, 5), step_node(step)->attr.bn.eps,
                           cuda_out_at(step, args, 0), cuda_out_at(step, args, 1)));
}

static void run_grad_norm(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    (void)own;
    CUDA_OK(kernel_grad_norm(stream, weight_elems(step), args->arena[ARENA_GRAD],
                             cuda_out_at(step, args, 0), args->arena[ARENA_WORKSPACE]));
}

static void run_loss_scale(CudaStep *own, KernelStream stream, const Step *step,
                           const RunArgs *args)
{
    (void)own;
    const LossScaleAttr *a = &step_node(step)->attr.loss_scale;
    CUDA_OK(kernel_loss_scale(stream, cuda_in_at(step, args, 0), a->growth, a->backoff, a->interval,
                              cuda_out_at(step, args, 0)));
}

/* ---- SGD ---- */

typedef struct {
    SgdSegment *device;
    int count;
} Segments;

static int compare_segments(const void *a, const void *b)
{
    const SgdSegment *x = a;
    const SgdSegment *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* One segment a parameter in the arena's order, neighbours that are treated alike joined. *out is malloc'ed. */
static int decay_segments(const Params *params, bool decay_norm_bias, SgdSegment **out)
{
    SgdSegment *segments = xcalloc((size_t)params->count + 1, sizeof *segments);
    int count = 0;
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        const bool weight = param->role == ROLE_CONV_WEIGHT || param->role == ROLE_LINEAR_WEIGHT;
        if (param->arena == ARENA_WEIGHT) {
            segments[count++] = (SgdSegment){.first = (int64_t)param->offset,
                                             .decay = weight || decay_norm_bias ? 1.0F : 0.0F};
        }
    }
    qsort(segments, (size_t)count, sizeof *segments, compare_segments);
    int joined = 0;
    for (int i = 0; i < count; i++) {
        if (joined == 0 || segments[i].decay != segments[joined - 1].decay) {
            segments[joined++] = segments[i];
        }
    }
    *out = segments;
    return joined;
}

static void run_sgd(CudaStep *own, KernelStream stream, const Step *step, const RunArgs *args)
{
    const Segments *segments = own->own;
    float *weights = args->arena[ARENA_WEIGHT];
    DType copy_type = DT_F32;
    void *copy = cuda_shadow_of_training(own->cuda, weights, &copy_type);
    const SgdLaunch launch = {.count = weight_elems(step),
                              .weight = weights,
                              .moment = args->moment,
                              .grad = args->arena[ARENA_GRAD],
                              .copy16 = copy,
                              .copy_type = cuda_type(copy_type),
                              .hyper = cuda_in_at(step, args, 0),
                              .stats = cuda_in_at(step, args, 1),
                              .loss_scale = cuda_in_at(step, args, 2),
                              .segments = segments->device,
                              .n_segments = segments->count};
    CUDA_OK(kernel_sgd(stream, &launch));
    cuda_shadow_written(own->cuda, weights);
}

static void release_sgd(CudaStep *own)
{
    Segments *segments = own->own;
    cuda_step_free(own->cuda, segments->device);
    free(segments);
}

static Err *prepare_sgd(Step *step, CudaStep *own)
{
    Segments *segments = xcalloc(1, sizeof *segments);
    own->own = segments;
    own->run = run_sgd;
    own->release = release_sgd;
    SgdSegment *table = NULL;
    segments->count =
        decay_segments(step->graph->params, step_node(step)->attr.sgd.decay_norm_bias, &table);
    const size_t bytes = (size_t)segments->count * sizeof *table;
    segments->device = cuda_step_alloc(own->cuda, bytes);
    if (segments->device) {
        Backend *backend = cuda_backend(own->cuda);
        backend->upload(backend, QUEUE_COMPUTE, segments->device, table, bytes);
        backend->sync(backend, QUEUE_COMPUTE);
    }
    free(table);
    return segments->device || cuda_described(own->cuda)
               ? NULL
               : err_new(EXIT_DEVICE_MEMORY, "out of device memory for the optimizer's table");
}

Err *cuda_prepare_param(Step *step, CudaStep *own)
{
    switch (step_node(step)->op) {
    case OP_FOLD_BN:
        own->run = run_fold_bn;
        return NULL;
    case OP_GRAD_NORM:
        own->run = run_grad_norm;
        step->workspace = kernel_grad_norm_workspace(weight_elems(step));
        return NULL;
    case OP_LOSS_SCALE:
        own->run = run_loss_scale;
        return NULL;
    default:
        return prepare_sgd(step, own);
    }
}
