/* Definitions of the elementwise ops, pooling, the distillation op's call, and the optimizer. */
#include "backend/distill_rows.h"
#include "ref_ops.h"

#include <math.h>
#include <string.h>

void ref_image(const RefOp *op)
{
    const ImageAttr *a = &op->node->attr.image;
    const size_t channels = (size_t)ref_out(op, 0)->c;
    const size_t source_c = (size_t)ref_in(op, 0)->c;
    for (size_t i = 0; i < tensor_elems(ref_out(op, 0)); i++) {
        const size_t c = i % channels;
        op->out[0][i] = c < 3
                            ? (op->in[0][i / channels * source_c + c] / 255 - (double)a->mean[c]) /
                                  (double)a->std[c]
                            : 0;
    }
}

void ref_relu(const RefOp *op)
{
    for (size_t i = 0; i < tensor_elems(ref_out(op, 0)); i++) {
        op->out[0][i] = op->in[0][i] < 0 ? 0 : op->in[0][i];
    }
}

void ref_relu_bwd(const RefOp *op)
{
    for (size_t i = 0; i < tensor_elems(ref_out(op, 0)); i++) {
        op->out[0][i] = op->in[1][i] > 0 ? op->in[0][i] : 0;
    }
}

void ref_add(const RefOp *op)
{
    const bool relu = op->node->attr.bn.relu;
    for (size_t i = 0; i < tensor_elems(ref_out(op, 0)); i++) {
        const double y = op->in[0][i] + op->in[1][i];
        op->out[0][i] = relu && y < 0 ? 0 : y;
    }
}

void ref_cast(const RefOp *op)
{
    memcpy(op->out[0], op->in[0], tensor_elems(ref_out(op, 0)) * sizeof(double));
}

/* One position of one pooling window: element of the large tensor, element of the small one,
 * place in the window. */
typedef void (*PoolVisit)(const RefOp *op, size_t large, size_t small, int place);

static void pool_windows(const RefOp *op, const Tensor *x, const Tensor *y, PoolVisit visit)
{
    const PoolAttr *a = &op->node->attr.pool;
    for (size_t small = 0; small < tensor_elems(y); small++) {
        const int c = (int)(small % (size_t)y->c);
        const size_t pixel = small / (size_t)y->c;
        const int ox = (int)(pixel % (size_t)y->w);
        const int oy = (int)(pixel / (size_t)y->w % (size_t)y->h);
        const size_t n = pixel / (size_t)y->w / (size_t)y->h;
        for (int place = 0; place < a->kernel * a->kernel; place++) {
            const int iy = oy * a->stride - a->pad + place / a->kernel;
            const int ix = ox * a->stride - a->pad + place % a->kernel;
            if (iy < 0 || iy >= x->h || ix < 0 || ix >= x->w) {
                continue;
            }
            const size_t large =
                ((n * (size_t)x->h + (size_t)iy) * (size_t)x->w + (size_t)ix) * (size_t)x->c +
                (size_t)c;
            visit(op, large, small, place);
        }
    }
}

static double pool_share(const RefOp *op)
{
    const int kernel = op->node->attr.pool.kernel;
    return 1.0 / (kernel * kernel);
}

static void visit_avg(const RefOp *op, size_t large, size_t small, int place)
{
    (void)place;
    op->out[0][small] += op->in[0][large] * pool_share(op);
}

static void visit_avg_bwd(const RefOp *op, size_t large, size_t small, int place)
{
    (void)place;
    op->out[0][large] += op->in[0][small] * pool_share(op);
}

/* out[1] is -1 until the window's first element was seen; NaN wins, as in PyTorch. */
static void visit_max(const RefOp *op, size_t large, size_t small, int place)
{
    const double v = op->in[0][large];
    if (op->out[1][small] < 0 || v > op->out[0][small] || (isnan(v) && !isnan(op->out[0][small]))) {
        op->out[0][small] = v;
        op->out[1][small] = place;
    }
}

static void visit_max_bwd(const RefOp *op, size_t large, size_t small, int place)
{
    if ((int)op->in[1][small] == place) {
        op->out[0][large] += op->in[0][small];
    }
}

void ref_avgpool(const RefOp *op)
{
    memset(op->out[0], 0, tensor_elems(ref_out(op, 0)) * sizeof(double));
    pool_windows(op, ref_in(op, 0), ref_out(op, 0), visit_avg);
}

void ref_avgpool_bwd(const RefOp *op)
{
    memset(op->out[0], 0, tensor_elems(ref_out(op, 0)) * sizeof(double));
    pool_windows(op, ref_out(op, 0), ref_in(op, 0), visit_avg_bwd);
}

void ref_maxpool(const RefOp *op)
{
    for (size_t i = 0; i < tensor_elems(ref_out(op, 0)); i++) {
        op->out[1][i] = -1;
    }
    pool_windows(op, ref_in(op, 0), ref_out(op, 0), visit_max);
}

void ref_maxpool_bwd(const RefOp *op)
{
    memset(op->out[0], 0, tensor_elems(ref_out(op, 0)) * sizeof(double));
    pool_windows(op, ref_out(op, 0), ref_in(op, 0), visit_max_bwd);
}

static double scalar_input(const Step *step, const RunArgs *args, int slot, double absent)
{
    const Node *node = step_node(step);
    const int tensor = slot < node->n_in ? node->in[slot] : -1;
    return tensor < 0 ? absent
                      : dtype_load(step->graph->tensors[tensor].dtype,
                                   step_address(step, args, tensor), 0);
}

void ref_distill(const Step *step, const RunArgs *args, void *scratch)
{
    const Node *node = step_node(step);
    const Tensor *tensors = step->graph->tensors;
    const int *in = node->in;
    const int *out = node->out;
    const bool student = in[DISTILL_IN_Z] >= 0;
    const Tensor *logits = &tensors[student ? in[DISTILL_IN_Z] : in[DISTILL_IN_T]];
    const int columns = in[DISTILL_IN_ROW_PARAMS] >= 0 ? tensors[in[DISTILL_IN_ROW_PARAMS]].c : 0;
    CHECK(in[DISTILL_IN_T] < 0 || tensors[in[DISTILL_IN_T]].dtype == logits->dtype,
          "%s: student logits are %s, teacher logits %s", node->name, dtype_name(logits->dtype),
          dtype_name(tensors[in[DISTILL_IN_T]].dtype));
    const DistillArgs rows = {
        .spec = &step->graph->specs[node->attr.distill],
        .n = logits->n,
        .classes = logits->c,
        .logits = logits->dtype,
        .dz_type = out[DISTILL_OUT_DZ] >= 0 ? tensors[out[DISTILL_OUT_DZ]].dtype : DT_F32,
        .z = step_address(step, args, in[DISTILL_IN_Z]),
        .t = step_address(step, args, in[DISTILL_IN_T]),
        .dz = step_address(step, args, out[DISTILL_OUT_DZ]),
        .labels = step_address(step, args, in[DISTILL_IN_LABELS]),
        .theta = step_address(step, args, in[DISTILL_IN_THETA]),
        .row_params = step_address(step, args, in[DISTILL_IN_ROW_PARAMS]),
        .columns = columns,
        .target_kind = step_address(step, args, in[DISTILL_IN_TARGET_KIND]),
        .target_weight = step_address(step, args, in[DISTILL_IN_TARGET_WEIGHT]),
        .target_class = step_address(step, args, in[DISTILL_IN_TARGET_CLASS]),
        .sparse_index = step_address(step, args, in[DISTILL_IN_SPARSE_INDEX]),
        .sparse_value = step_address(step, args, in[DISTILL_IN_SPARSE_VALUE]),
        .dense = step_address(step, args, in[DISTILL_IN_DENSE]),
        .rows_valid = (int)scalar_input(step, args, DISTILL_IN_ROWS_VALID, logits->n),
        .scale = scalar_input(step, args, DISTILL_IN_SCALE, 1),
        .rows = step_address(step, args, out[DISTILL_OUT_ROWS]),
        .sums = step_address(step, args, out[DISTILL_OUT_SUMS]),
        .stat_type =
            out[DISTILL_OUT_ROWS] >= 0 ? tensors[out[DISTILL_OUT_ROWS]].dtype : step->graph->math,
    };
    distill_rows_ref(&rows, scratch);
}

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
    const int stats = node->n_in > 1 ? node->in[1] : -1;
    if (stats >= 0) {
        const void *address = step_address(step, args, stats);
        if (dtype_load(tensors[stats].dtype, address, 1) > 0) {
            return;
        }
        const double norm =
            sgd.hyper[HYPER_GRAD_SCALE] * sqrt(dtype_load(tensors[stats].dtype, address, 0));
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
