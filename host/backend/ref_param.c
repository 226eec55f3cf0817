/* Definitions of the optimizer: gradient norm, SGD, dynamic loss scale. */
#include "ref_ops.h"

#include <math.h>

/* The fixed order is the order of registration. */
void ref_grad_norm(const Step *step, const RunArgs *args)
{
    const Params *params = step->graph->params;
    const DType math = step->graph->math;
    double squares = 0;
    double bad = 0;
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        for (size_t i = 0; param->arena == ARENA_WEIGHT && i < param->count; i++) {
            const double g = dtype_load(math, args->arena[ARENA_GRAD], param->offset + i);
            squares += g * g;
            bad += isfinite(g) ? 0 : 1;
        }
    }
    const int stats = step_node(step)->out[0];
    void *out = step_address(step, args, stats);
    dtype_store(step->graph->tensors[stats].dtype, out, 0, squares);
    dtype_store(step->graph->tensors[stats].dtype, out, 1, bad);
}

typedef struct {
    double hyper[HYPER_COUNT];
    double clip;
    DType math;
} Sgd;

static void sgd_param(const Sgd *sgd, const RunArgs *args, const Param *param, bool decay)
{
    const double *h = sgd->hyper;
    for (size_t i = param->offset; i < param->offset + param->count; i++) {
        const double w = dtype_load(sgd->math, args->arena[ARENA_WEIGHT], i);
        double g =
            dtype_load(sgd->math, args->arena[ARENA_GRAD], i) * h[HYPER_GRAD_SCALE] * sgd->clip;
        g += decay ? h[HYPER_WEIGHT_DECAY] * w : 0;
        double v = g;
        if (h[HYPER_FIRST] == 0) {
            v = h[HYPER_MOMENTUM] * dtype_load(sgd->math, args->moment, i) +
                (1 - h[HYPER_DAMPENING]) * g;
        }
        const double step = h[HYPER_NESTEROV] != 0 ? g + h[HYPER_MOMENTUM] * v : v;
        dtype_store(sgd->math, args->moment, i, v);
        dtype_store(sgd->math, args->arena[ARENA_WEIGHT], i, w - h[HYPER_LR] * step);
    }
}

void ref_sgd(const Step *step, const RunArgs *args)
{
    const Node *node = step_node(step);
    const Tensor *tensors = step->graph->tensors;
    const Params *params = step->graph->params;
    Sgd sgd = {.clip = 1, .math = step->graph->math};
    for (int i = 0; i < HYPER_COUNT; i++) {
        sgd.hyper[i] = dtype_load(tensors[node->in[0]].dtype, step_address(step, args, node->in[0]),
                                  (size_t)i);
    }
    sgd.hyper[HYPER_GRAD_SCALE] /= ref_scalar(step, args, 2, 1);
    const int stats = node->n_in > 1 ? node->in[1] : -1;
    if (stats >= 0) {
        const void *address = step_address(step, args, stats);
        const double norm =
            sgd.hyper[HYPER_GRAD_SCALE] * sqrt(dtype_load(tensors[stats].dtype, address, 0));
        const double longest = sgd.hyper[HYPER_SKIP_NORM];
        if (dtype_load(tensors[stats].dtype, address, 1) > 0 || (longest > 0 && norm > longest)) {
            return;
        }
        if (sgd.hyper[HYPER_CLIP_NORM] > 0) {
            sgd.clip = fmin(1, sgd.hyper[HYPER_CLIP_NORM] / (norm + 1e-6));
        }
    }
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        const bool weight = param->role == ROLE_CONV_WEIGHT || param->role == ROLE_LINEAR_WEIGHT;
        if (param->arena == ARENA_WEIGHT) {
            sgd_param(&sgd, args, param, weight || node->attr.sgd.decay_norm_bias);
        }
    }
}

void ref_loss_scale(const Step *step, const RunArgs *args)
{
    enum { LARGEST = 1 << 24 };
    const Node *node = step_node(step);
    const LossScaleAttr *a = &node->attr.loss_scale;
    const int stats = node->in[0];
    float *state = step_address(step, args, node->out[0]);
    const double bad =
        dtype_load(step->graph->tensors[stats].dtype, step_address(step, args, stats), 1);
    double scale = state[0];
    double good = state[1];
    if (bad > 0) {
        scale = fmax(scale * (double)a->backoff, 1);
        good = 0;
    } else if (++good >= a->interval) {
        scale = fmin(scale * (double)a->growth, LARGEST);
        good = 0;
    }
    state[0] = (float)scale;
    state[1] = (float)good;
}
