/* Builders: one call appends one operation with inferred shapes (graph_bn appends the small nodes
 * that batch norm is). A shape that does not fit is a bug in a model and ends the process, naming
 * the node. */
#include "graph/graph.h"

#include "base/err.h"
#include "internal.h"

#include <stdio.h>
#include <string.h>

static const Tensor *tensor_at(const Graph *g, int id, const char *user)
{
    CHECK(id >= 0 && id < g->n_tensors, "'%s' reads tensor %d of a graph with %d", user, id,
          g->n_tensors);
    return &g->tensors[id];
}

static const Param *param_at(const Graph *g, int param, const char *user)
{
    CHECK(g->params != NULL && param >= 0 && param < g->params->count,
          "'%s' refers to parameter %d, which is not there", user, param);
    return &g->params->items[param];
}

/* A batched activation like `like` with other sizes. */
static int act_tensor(Graph *g, const char *name, DType dtype, int like, int h, int w, int c)
{
    const Tensor *t = &g->tensors[like];
    return graph_tensor(g, name, TENSOR_ACT, dtype, t->n, h, w, c, t->batched);
}

static int vector_tensor(Graph *g, const char *name, int c)
{
    return graph_tensor(g, name, TENSOR_ACT, g->math, 1, 1, 1, c, false);
}

int graph_input(Graph *g, const char *name, DType dtype, int n, int h, int w, int c, bool batched)
{
    CHECK(graph_find_tensor(g, name) < 0, "the graph has a tensor '%s' already", name);
    return graph_tensor(g, name, TENSOR_INPUT, dtype, n, h, w, c, batched);
}

int graph_shared(Graph *g, const char *name, DType dtype, int c, int offset_bytes)
{
    const int found = graph_find_tensor(g, name);
    if (found >= 0) {
        const Tensor *t = &g->tensors[found];
        CHECK(t->kind == TENSOR_SHARED && t->dtype == dtype && t->c == c &&
                  t->shared == offset_bytes,
              "the graph has another tensor '%s' already", name);
        return found;
    }
    CHECK(offset_bytes >= 0 && (size_t)offset_bytes % dtype_size(dtype) == 0,
          "shared tensor '%s' at byte %d", name, offset_bytes);
    const int id = graph_tensor(g, name, TENSOR_SHARED, dtype, 1, 1, 1, c, false);
    g->tensors[id].shared = offset_bytes;
    return id;
}

static int param_tensor(Graph *g, int param, TensorKind kind)
{
    const Param *p = param_at(g, param, "graph");
    for (int i = 0; i < g->n_tensors; i++) {
        if (g->tensors[i].param == param && g->tensors[i].kind == kind) {
            return i;
        }
    }
    char name[NAME_MAX_LEN];
    if (kind == TENSOR_GRAD) {
        CHECK(p->trainable, "gradient of '%s', which is not trainable", p->name);
        name_join(name, p->name, "grad");
    } else {
        (void)snprintf(name, sizeof name, "%s", p->name);
    }
    int dims[4] = {1, 1, 1, (int)p->count};
    if (p->role == ROLE_CONV_WEIGHT) {
        dims[0] = p->shape[0];
        dims[1] = p->shape[2];
        dims[2] = p->shape[3];
        dims[3] = p->shape[1];
    } else if (p->role == ROLE_LINEAR_WEIGHT) {
        dims[0] = p->shape[0];
        dims[3] = p->shape[1];
    }
    const int id = graph_tensor(g, name, kind, g->math, dims[0], dims[1], dims[2], dims[3], false);
    g->tensors[id].param = param;
    return id;
}

int graph_param(Graph *g, int param)
{
    return param_tensor(g, param, TENSOR_PARAM);
}

int graph_param_grad(Graph *g, int param)
{
    return param_tensor(g, param, TENSOR_GRAD);
}

static int shared_scalar(Graph *g, const char *name)
{
    const int found = graph_find_tensor(g, name);
    return found >= 0 ? found : graph_input(g, name, DT_F32, 1, 1, 1, 1, false);
}

int graph_rows_valid(Graph *g)
{
    return shared_scalar(g, "rows_valid");
}

int graph_scale(Graph *g)
{
    return shared_scalar(g, "scale");
}

int graph_image(Graph *g, const char *name, int u8_images, int channels, const float mean[3],
                const float std[3])
{
    const Tensor in = *tensor_at(g, u8_images, name);
    CHECK(in.dtype == DT_U8 && in.c == 3, "image '%s' wants u8 with 3 channels, got %s with %d",
          name, dtype_name(in.dtype), in.c);
    CHECK(channels >= 3, "image '%s' has %d channels, at least 3 are needed", name, channels);
    const int y = act_tensor(g, name, g->act, u8_images, in.h, in.w, channels);
    Node *node = graph_node(g, OP_IMAGE, name, 1, &u8_images, 1, &y);
    for (int i = 0; i < 3; i++) {
        CHECK(std[i] > 0.0f, "image '%s': standard deviation %d is %g", name, i, (double)std[i]);
        node->attr.image.mean[i] = mean[i];
        node->attr.image.std[i] = std[i];
    }
    return y;
}

int graph_conv(Graph *g, const char *name, int x, int w_param, int bias_param, int stride, int pad,
               int groups)
{
    const Tensor in = *tensor_at(g, x, name);
    const Param *p = param_at(g, w_param, name);
    CHECK(p->role == ROLE_CONV_WEIGHT, "conv '%s': '%s' is no convolution weight", name, p->name);
    CHECK(stride > 0 && pad >= 0 && groups > 0, "conv '%s': stride %d, pad %d, groups %d", name,
          stride, pad, groups);
    const int out_c = p->shape[0];
    const int in_c = p->shape[1] * groups;
    /* Only the stem's image may carry padding channels; they are zero and ignored. */
    CHECK(in.c == in_c || (groups == 1 && in.c > in_c), "conv '%s' takes %d channels, '%s' has %d",
          name, in_c, in.name, in.c);
    CHECK(out_c % groups == 0, "conv '%s': %d channels in %d groups", name, out_c, groups);
    CHECK(in.dtype == g->act, "conv '%s' reads %s in a graph of %s", name, dtype_name(in.dtype),
          dtype_name(g->act));
    const int h = window_out(in.h, p->shape[2], stride, pad);
    const int w = window_out(in.w, p->shape[3], stride, pad);
    CHECK(h > 0 && w > 0, "conv '%s': kernel %d x %d does not fit %d x %d", name, p->shape[2],
          p->shape[3], in.h, in.w);
    const ConvAttr attr = {.kernel_h = p->shape[2],
                           .kernel_w = p->shape[3],
                           .stride = stride,
                           .pad = pad,
                           .groups = groups};
    const int weight = graph_param(g, w_param);
    const int bias = bias_param >= 0 ? graph_param(g, bias_param) : -1;
    CHECK(bias < 0 || g->tensors[bias].c == out_c, "conv '%s': bias of %d for %d channels", name,
          g->tensors[bias].c, out_c);
    const int y = act_tensor(g, name, g->act, x, h, w, out_c);
    Node *node = graph_node(g, OP_CONV, name, 4, (int[]){x, weight, bias, -1}, 1, &y);
    node->attr.conv = attr;
    return y;
}

static void bn_check(const Graph *g, const char *name, int channels, int bn_param)
{
    static const ParamRole roles[4] = {ROLE_BN_WEIGHT, ROLE_BN_BIAS, ROLE_RUNNING_MEAN,
                                       ROLE_RUNNING_VAR};
    for (int i = 0; i < 4; i++) {
        const Param *p = param_at(g, bn_param + i, name);
        CHECK(p->role == roles[i] && (int)p->count == channels,
              "batch norm '%s' over %d channels: '%s' does not fit as %d", name, channels, p->name,
              i);
    }
}

/* Statistics of this batch, and the running ones when they are to be updated; returns coef. */
static int bn_batch_coef(Graph *g, const char *name, int x, const int params[4], BnMode mode,
                         BnAttr attr)
{
    char part[NAME_MAX_LEN];
    const int channels = g->tensors[x].c;
    name_join(part, name, "stats");
    const int sums = vector_tensor(g, part, 2 * channels + 1);
    const int rows_valid = graph_rows_valid(g);
    graph_node(g, OP_BN_STATS, part, 2, (int[]){x, rows_valid}, 1, &sums)->attr.bn = attr;
    name_join(part, name, "coef");
    const int coef = vector_tensor(g, part, 4 * channels);
    graph_node(g, OP_BN_FINALIZE, part, 3, (int[]){sums, params[0], params[1]}, 1, &coef)->attr.bn =
        attr;
    if (mode == BN_TRAIN) {
        name_join(part, name, "running");
        Node *node = graph_node(g, OP_BN_RUNNING, part, 3, (int[]){sums, params[2], params[3]}, 2,
                                (int[]){params[2], params[3]});
        node->attr.bn = attr;
    }
    return coef;
}

int graph_bn(Graph *g, const char *name, int x, int bn_param, BnMode mode, float eps,
             float momentum)
{
    const Tensor in = *tensor_at(g, x, name);
    bn_check(g, name, in.c, bn_param);
    CHECK(in.dtype == g->act, "batch norm '%s' reads %s in a graph of %s", name,
          dtype_name(in.dtype), dtype_name(g->act));
    CHECK(eps > 0.0f && momentum >= 0.0f && momentum <= 1.0f,
          "batch norm '%s': eps %g, momentum %g", name, (double)eps, (double)momentum);
    int params[4];
    for (int i = 0; i < 4; i++) {
        params[i] = graph_param(g, bn_param + i);
    }
    const BnAttr attr = {.eps = eps, .momentum = momentum, .frozen = mode == BN_EVAL};
    int coef = -1;
    if (mode == BN_EVAL) {
        char part[NAME_MAX_LEN];
        name_join(part, name, "coef");
        coef = vector_tensor(g, part, 4 * in.c);
        graph_node(g, OP_BN_INFER, part, 4, params, 1, &coef)->attr.bn = attr;
    } else {
        coef = bn_batch_coef(g, name, x, params, mode, attr);
    }
    const int y = act_tensor(g, name, in.dtype, x, in.h, in.w, in.c);
    const int rows_valid = mode == BN_EVAL ? -1 : graph_rows_valid(g);
    graph_node(g, OP_BN_APPLY, name, 4, (int[]){x, coef, -1, rows_valid}, 1, &y)->attr.bn = attr;
    return y;
}

int graph_relu(Graph *g, const char *name, int x)
{
    const Tensor in = *tensor_at(g, x, name);
    const int y = act_tensor(g, name, in.dtype, x, in.h, in.w, in.c);
    graph_node(g, OP_RELU, name, 1, &x, 1, &y);
    return y;
}

int graph_add(Graph *g, const char *name, int a, int b)
{
    const Tensor ta = *tensor_at(g, a, name);
    const Tensor tb = *tensor_at(g, b, name);
    CHECK(ta.n == tb.n && ta.h == tb.h && ta.w == tb.w && ta.c == tb.c && ta.dtype == tb.dtype &&
              ta.batched == tb.batched,
          "add '%s': '%s' is %s %dx%dx%dx%d, '%s' is %s %dx%dx%dx%d", name, ta.name,
          dtype_name(ta.dtype), ta.n, ta.h, ta.w, ta.c, tb.name, dtype_name(tb.dtype), tb.n, tb.h,
          tb.w, tb.c);
    const int y = act_tensor(g, name, ta.dtype, a, ta.h, ta.w, ta.c);
    graph_node(g, OP_ADD, name, 2, (int[]){a, b}, 1, &y);
    return y;
}

static int pool_shape(Graph *g, const char *name, int x, PoolAttr pool)
{
    const Tensor in = *tensor_at(g, x, name);
    CHECK(pool.kernel > 0 && pool.stride > 0 && pool.pad >= 0 && 2 * pool.pad <= pool.kernel,
          "pool '%s': kernel %d, stride %d, pad %d", name, pool.kernel, pool.stride, pool.pad);
    const int h = window_out(in.h, pool.kernel, pool.stride, pool.pad);
    const int w = window_out(in.w, pool.kernel, pool.stride, pool.pad);
    CHECK(h > 0 && w > 0, "pool '%s': kernel %d does not fit %d x %d", name, pool.kernel, in.h,
          in.w);
    return act_tensor(g, name, in.dtype, x, h, w, in.c);
}

int graph_avgpool(Graph *g, const char *name, int x, int kernel, int stride, int pad)
{
    const PoolAttr pool = {kernel, stride, pad};
    const int y = pool_shape(g, name, x, pool);
    graph_node(g, OP_AVGPOOL, name, 1, &x, 1, &y)->attr.pool = pool;
    return y;
}

int graph_maxpool(Graph *g, const char *name, int x, int kernel, int stride, int pad)
{
    const PoolAttr pool = {kernel, stride, pad};
    CHECK(kernel * kernel <= 256,
          "pool '%s': the position in a window of %d x %d does not fit a byte", name, kernel,
          kernel);
    const int y = pool_shape(g, name, x, pool);
    const Tensor out = g->tensors[y];
    char part[NAME_MAX_LEN];
    name_join(part, name, "index");
    const int index = act_tensor(g, part, DT_U8, y, out.h, out.w, out.c);
    graph_node(g, OP_MAXPOOL, name, 1, &x, 2, (int[]){y, index})->attr.pool = pool;
    return y;
}

int graph_linear(Graph *g, const char *name, int x, int w_param, int bias_param)
{
    const Tensor in = *tensor_at(g, x, name);
    const Param *p = param_at(g, w_param, name);
    CHECK(p->role == ROLE_LINEAR_WEIGHT, "linear '%s': '%s' is no linear weight", name, p->name);
    CHECK(in.h == 1 && in.w == 1 && in.c == p->shape[1],
          "linear '%s' takes 1x1x%d, '%s' is %dx%dx%d", name, p->shape[1], in.name, in.h, in.w,
          in.c);
    const int out_c = p->shape[0];
    const int weight = graph_param(g, w_param);
    const int bias = bias_param >= 0 ? graph_param(g, bias_param) : -1;
    CHECK(bias < 0 || g->tensors[bias].c == out_c, "linear '%s': bias of %d for %d", name,
          g->tensors[bias].c, out_c);
    const int y = act_tensor(g, name, g->math, x, 1, 1, out_c);
    graph_node(g, OP_LINEAR, name, 3, (int[]){x, weight, bias}, 1, &y);
    return y;
}

int graph_cast(Graph *g, const char *name, int x, DType dtype)
{
    const Tensor in = *tensor_at(g, x, name);
    const int y = act_tensor(g, name, dtype, x, in.h, in.w, in.c);
    graph_node(g, OP_CAST, name, 1, &x, 1, &y);
    return y;
}

int graph_gather(Graph *g, const char *name, int table, int index)
{
    const Tensor rows = *tensor_at(g, table, name);
    const Tensor ids = *tensor_at(g, index, name);
    CHECK(!rows.batched && rows.h == 1 && rows.w == 1, "gather '%s': '%s' is no table of rows",
          name, rows.name);
    CHECK(ids.dtype == DT_I32 && tensor_elems(&ids) == (size_t)ids.n,
          "gather '%s': '%s' holds no row numbers", name, ids.name);
    const int y = act_tensor(g, name, rows.dtype, index, 1, 1, rows.c);
    graph_node(g, OP_GATHER, name, 2, (int[]){table, index}, 1, &y);
    return y;
}

void graph_views(Graph *g, const char *name, int set_images, int set_labels, int order, int cursor,
                 ViewsAttr attr, int out[3])
{
    static const char *const parts[3] = {"images", "labels", "ids"};
    const Tensor set = *tensor_at(g, set_images, name);
    CHECK(set.dtype == DT_U8 && set.c == 3 && !set.batched,
          "views '%s': '%s' is no set of RGB images", name, set.name);
    const int in[5] = {set_images, set_labels, order, cursor, graph_rows_valid(g)};
    for (int i = 1; i < 4; i++) {
        const Tensor *t = tensor_at(g, in[i], name);
        CHECK(t->dtype == DT_I32 && tensor_elems(t) == (i < 3 ? (size_t)set.n : 4) && !t->batched,
              "views '%s': '%s' does not belong to a set of %d images", name, t->name, set.n);
    }
    for (int i = 0; i < 3; i++) {
        char part[NAME_MAX_LEN];
        name_join(part, name, parts[i]);
        const bool images = i == 0;
        out[i] = graph_tensor(g, part, TENSOR_ACT, images ? DT_U8 : DT_I32, g->batch,
                              images ? set.h : 1, images ? set.w : 1, images ? 3 : 1, true);
    }
    graph_node(g, OP_VIEWS, name, 5, in, 3, out)->attr.views = attr;
}

static void distill_check(const Graph *g, const char *name, const DistillSpec *spec,
                          const int in[DISTILL_IN_COUNT])
{
    CHECK(spec->n_terms >= 0 && spec->n_terms <= DISTILL_MAX_TERMS, "distill '%s' has %d terms",
          name, spec->n_terms);
    CHECK(in[DISTILL_IN_Z] >= 0 || (spec->statistics_only && in[DISTILL_IN_T] >= 0),
          "distill '%s' has no logits", name);
    CHECK(spec->n_terms == 0 || in[DISTILL_IN_T] >= 0, "distill '%s' has terms but no teacher",
          name);
    /* A tensor has one writer: what several losses say about one tensor is summed by
     * graph_backward. */
    CHECK(!spec->dz_add, "distill '%s': dz_add has no meaning in a graph", name);
    for (int i = 0; i < DISTILL_IN_COUNT; i++) {
        CHECK(in[i] < g->n_tensors, "distill '%s' reads tensor %d of a graph with %d", name, in[i],
              g->n_tensors);
    }
}

int graph_distill(Graph *g, const char *name, const DistillSpec *spec,
                  const int in[DISTILL_IN_COUNT])
{
    distill_check(g, name, spec, in);
    int inputs[DISTILL_IN_COUNT];
    memcpy(inputs, in, sizeof inputs);
    if (inputs[DISTILL_IN_ROWS_VALID] < 0) {
        inputs[DISTILL_IN_ROWS_VALID] = graph_rows_valid(g);
    }
    if (inputs[DISTILL_IN_SCALE] < 0 && !spec->statistics_only) {
        inputs[DISTILL_IN_SCALE] = graph_scale(g);
    }
    const int like = in[DISTILL_IN_Z] >= 0 ? in[DISTILL_IN_Z] : in[DISTILL_IN_T];
    const Tensor logits = g->tensors[like];
    char part[NAME_MAX_LEN];
    int out[DISTILL_OUT_COUNT] = {-1, -1, -1};
    if (!spec->statistics_only) {
        name_join(part, name, "dz");
        out[DISTILL_OUT_DZ] = act_tensor(g, part, g->math, like, 1, 1, logits.c);
    }
    name_join(part, name, "rows");
    out[DISTILL_OUT_ROWS] = act_tensor(g, part, g->math, like, 1, 1, ROW_FIELDS);
    name_join(part, name, "sums");
    out[DISTILL_OUT_SUMS] = vector_tensor(g, part, SUM_FIELDS);
    graph_output(g, out[DISTILL_OUT_ROWS], NULL);
    graph_output(g, out[DISTILL_OUT_SUMS], NULL);
    g->specs = xgrow(g->specs, &g->spec_capacity, (size_t)g->n_specs + 1, sizeof g->specs[0]);
    g->specs[g->n_specs] = *spec;
    graph_node(g, OP_DISTILL, name, DISTILL_IN_COUNT, inputs, DISTILL_OUT_COUNT, out)
        ->attr.distill = g->n_specs++;
    return g->n_nodes - 1;
}
