/* Definitions of the elementwise ops, pooling, gathers and views, and the distillation op's call. */
#include "backend/distill_rows.h"
#include "data/augment.h"
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

double ref_scalar(const Step *step, const RunArgs *args, int slot, double absent)
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
        .rows_valid = (int)ref_scalar(step, args, DISTILL_IN_ROWS_VALID, logits->n),
        .scale = ref_scalar(step, args, DISTILL_IN_SCALE, 1) *
                 ref_scalar(step, args, DISTILL_IN_LOSS_SCALE, 1),
        .rows = step_address(step, args, out[DISTILL_OUT_ROWS]),
        .sums = step_address(step, args, out[DISTILL_OUT_SUMS]),
        .stat_type =
            out[DISTILL_OUT_ROWS] >= 0 ? tensors[out[DISTILL_OUT_ROWS]].dtype : step->graph->math,
    };
    distill_rows_ref(&rows, scratch);
}

/* Rows move as bytes; a row number outside the table gives bytes that are a NaN in every
 * floating-point type. */
void ref_gather(const Step *step, const RunArgs *args)
{
    const Node *node = step_node(step);
    const Tensor *table = &step->graph->tensors[node->in[0]];
    const Tensor *y = &step->graph->tensors[node->out[0]];
    const size_t row = (size_t)table->c * dtype_size(table->dtype);
    const char *from = step_address(step, args, node->in[0]);
    const int32_t *index = step_address(step, args, node->in[1]);
    char *to = step_address(step, args, node->out[0]);
    for (int i = 0; i < y->n; i++, to += row) {
        if (index[i] >= 0 && index[i] < table->n) {
            memcpy(to, from + (size_t)index[i] * row, row);
        } else {
            memset(to, 0xFF, row);
        }
    }
}

/* Positions beyond the set, like rows beyond rows_valid, give zeros. */
void ref_views(const Step *step, const RunArgs *args)
{
    const Node *node = step_node(step);
    const Tensor *set = &step->graph->tensors[node->in[0]];
    const int n = step->graph->tensors[node->out[0]].n;
    const size_t bytes = (size_t)set->h * (size_t)set->w * 3;
    const uint8_t *source = step_address(step, args, node->in[0]);
    const int32_t *source_labels = step_address(step, args, node->in[1]);
    const int32_t *order = step_address(step, args, node->in[2]);
    const int32_t *cursor = step_address(step, args, node->in[3]);
    const double rows = ref_scalar(step, args, 4, n);
    uint8_t *images = step_address(step, args, node->out[0]);
    int32_t *labels = step_address(step, args, node->out[1]);
    int32_t *ids = step_address(step, args, node->out[2]);
    const AugmentSpec spec = {.pad = node->attr.views.pad, .flip = node->attr.views.flip};
    const uint64_t seed = (uint64_t)(uint32_t)cursor[3] << 32 | (uint32_t)cursor[2];
    for (int i = 0; i < n; i++, images += bytes) {
        const int64_t at = (int64_t)cursor[1] + i;
        const int32_t id = i < rows && at >= 0 && at < set->n ? order[at] : -1;
        if (id < 0 || id >= set->n) {
            memset(images, 0, bytes);
            labels[i] = 0;
            ids[i] = 0;
            continue;
        }
        const AugmentView view = augment_view(seed, (uint32_t)cursor[0], (uint32_t)id, spec);
        augment_apply(spec, view, source + (size_t)id * bytes, set->h, set->w, images);
        labels[i] = source_labels[id];
        ids[i] = id;
    }
}
