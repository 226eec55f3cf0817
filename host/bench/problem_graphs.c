/* One graph of one node for each operation. Inputs have names by which lab.c chooses their values. */
#include "problem_graphs.h"

#include <string.h>

enum { VIEWS_PAD = 4, MAXPOOL_MOST = 15, TOP_K = 5 };

static double size_of(const BenchPoint *p)
{
    return (double)dtype_size(p->dtype);
}

/* The integer types of --dtype belong to ops whose activations do not matter. */
static DType act_of(const BenchPoint *p)
{
    return p->dtype == DT_U8 ? DT_F32 : p->dtype;
}

static Graph *begin(const BenchPoint *p, BenchProblem *out, int batch)
{
    params_finish(&out->params);
    graph_init(&out->graph, &out->params, batch, act_of(p));
    return &out->graph;
}

static int weight(BenchProblem *out, ParamRole role, int ndim, const int *shape)
{
    return params_add(&out->params, "weight", role, ndim, shape, true, INIT_NORMAL, 0.05);
}

/* ---- The loss ---- */

static RowValue constant(float value)
{
    return (RowValue){.source = SOURCE_CONST, .value = value};
}

enum { METHOD_CE, METHOD_KD, METHOD_ENERGY_KD, METHOD_DKD, METHOD_NKD, METHOD_TOPK };

DistillSpec problem_distill_spec(const BenchPoint *p)
{
    const int method = p->value[2];
    DistillSpec spec = {.energy_temperature = 1,
                        .ce_weight = constant(0.1F),
                        .n_terms = method == METHOD_CE ? 0 : 1};
    DistillTerm *term = &spec.terms[0];
    *term = (DistillTerm){
        .factor = FACTOR_TSTT, .weight = constant(0.9F), .ts = constant(4), .tt = constant(4)};
    switch (method) {
    case METHOD_CE:
        spec.ce_weight = constant(1);
        break;
    case METHOD_ENERGY_KD:
        term->ts = term->tt = (RowValue){.source = SOURCE_BAND, .band = {6, 4, 2}};
        break;
    case METHOD_DKD:
        term->form = FORM_DKD;
        term->alpha = 1;
        term->beta = 8;
        break;
    case METHOD_NKD:
        term->form = FORM_NKD;
        term->gamma = 1.5F;
        break;
    case METHOD_TOPK:
        term->topk = TOP_K;
        term->topk_renorm = true;
        break;
    default:
        break;
    }
    return spec;
}

void problem_distill(const BenchPoint *p, BenchProblem *out)
{
    const int rows = p->value[0];
    const int classes = p->value[1];
    const int method = p->value[2];
    Graph *g = begin(p, out, rows);
    const DistillSpec spec = problem_distill_spec(p);
    int in[DISTILL_IN_COUNT];
    memset(in, 0xFF, sizeof in);
    in[DISTILL_IN_Z] = graph_input(g, "z", g->math, rows, 1, 1, classes, true);
    if (method != METHOD_CE) {
        in[DISTILL_IN_T] = graph_input(g, "t", g->math, rows, 1, 1, classes, true);
    }
    in[DISTILL_IN_LABELS] = graph_input(g, "labels", DT_I32, rows, 1, 1, 1, true);
    if (method == METHOD_ENERGY_KD) {
        in[DISTILL_IN_THETA] = graph_input(g, "theta", DT_F32, 1, 1, 1, 2, false);
    }
    const int node = graph_distill(g, "distill", &spec, in);
    graph_output(g, g->nodes[node].out[DISTILL_OUT_DZ], "dz");
    out->bytes = (method == METHOD_CE ? 2.0 : 3.0) * rows * classes * size_of(p);
}

/* ---- The optimizer ---- */

static Graph *begin_arena(const BenchPoint *p, BenchProblem *out)
{
    weight(out, ROLE_LINEAR_WEIGHT, 2, (int[]){p->value[0], 1});
    return begin(p, out, 1);
}

void problem_sgd(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin_arena(p, out);
    const int hyper = graph_input(g, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false);
    graph_node(g, OP_SGD, "sgd", 2, (int[]){hyper, -1}, 0, NULL)->attr.sgd.decay_norm_bias = true;
    out->bytes = 20.0 * p->value[0];
}

void problem_grad_norm(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin_arena(p, out);
    const int stats = graph_tensor(g, "stats", TENSOR_ACT, g->math, 1, 1, 1, 2, false);
    graph_output(g, stats, NULL);
    graph_node(g, OP_GRAD_NORM, "grad_norm", 0, NULL, 1, &stats);
    out->bytes = 4.0 * p->value[0];
}

/* ---- Activations: B, H, C ---- */

static int activation(Graph *g, const char *name, const BenchPoint *p)
{
    return graph_input(g, name, g->act, p->value[0], p->value[1], p->value[1], p->value[2], true);
}

static int result(Graph *g, const BenchPoint *p)
{
    const int id = graph_tensor(g, "y", TENSOR_ACT, g->act, p->value[0], p->value[1], p->value[1],
                                p->value[2], true);
    graph_output(g, id, NULL);
    return id;
}

static int vector(Graph *g, const char *name, int c)
{
    return graph_input(g, name, g->math, 1, 1, 1, c, false);
}

static int sums_result(Graph *g, const BenchPoint *p)
{
    const int id =
        graph_tensor(g, "sums", TENSOR_ACT, g->math, 1, 1, 1, 2 * p->value[2] + 1, false);
    graph_output(g, id, NULL);
    return id;
}

static double image_bytes(const BenchPoint *p)
{
    return size_of(p) * p->value[0] * p->value[1] * p->value[1] * p->value[2];
}

static const BnAttr bn_attr = {.eps = 1e-5F, .momentum = 0.1F};

void problem_bn_stats(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int in[2] = {activation(g, "x", p), graph_rows_valid(g)};
    graph_node(g, OP_BN_STATS, "bn_stats", 2, in, 1, (int[]){sums_result(g, p)})->attr.bn = bn_attr;
    out->bytes = image_bytes(p);
}

static void bn_apply(const BenchPoint *p, BenchProblem *out, bool residual)
{
    Graph *g = begin(p, out, p->value[0]);
    const int in[4] = {activation(g, "x", p), vector(g, "coef", 4 * p->value[2]),
                       residual ? activation(g, "residual", p) : -1, graph_rows_valid(g)};
    Node *node = graph_node(g, OP_BN_APPLY, "bn_apply", 4, in, 1, (int[]){result(g, p)});
    node->attr.bn = bn_attr;
    node->attr.bn.relu = residual;
    out->bytes = (residual ? 3 : 2) * image_bytes(p);
}

void problem_bn_apply(const BenchPoint *p, BenchProblem *out)
{
    bn_apply(p, out, false);
}

void problem_bn_apply_add_relu(const BenchPoint *p, BenchProblem *out)
{
    bn_apply(p, out, true);
}

void problem_bn_reduce(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int in[4] = {activation(g, "dy", p), activation(g, "x", p),
                       vector(g, "coef", 4 * p->value[2]), graph_rows_valid(g)};
    graph_node(g, OP_BN_REDUCE, "bn_reduce", 4, in, 1, (int[]){sums_result(g, p)})->attr.bn =
        bn_attr;
    out->bytes = 2 * image_bytes(p);
}

void problem_bn_dx(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int in[5] = {activation(g, "dz", p), activation(g, "x", p),
                       vector(g, "coef", 4 * p->value[2]), vector(g, "sums", 2 * p->value[2] + 1),
                       graph_rows_valid(g)};
    graph_node(g, OP_BN_DX, "bn_dx", 5, in, 1, (int[]){result(g, p)})->attr.bn = bn_attr;
    out->bytes = 3 * image_bytes(p);
}

void problem_relu(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    graph_output(g, graph_relu(g, "relu", activation(g, "x", p)), "y");
    out->bytes = 2 * image_bytes(p);
}

void problem_add(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    graph_output(g, graph_add(g, "add", activation(g, "a", p), activation(g, "b", p)), "y");
    out->bytes = 3 * image_bytes(p);
}

void problem_cast(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const DType to = p->dtype == DT_F32 ? DT_BF16 : DT_F32;
    graph_output(g, graph_cast(g, "cast", activation(g, "x", p), to), "y");
    out->bytes = image_bytes(p) * (1 + (double)dtype_size(to) / size_of(p));
}

/* ---- Pooling ---- */

const char *problem_wrong_pool(const BenchPoint *p)
{
    return p->value[3] > p->value[1] ? "the window K is larger than the image H" : NULL;
}

const char *problem_wrong_maxpool(const BenchPoint *p)
{
    return p->value[3] > MAXPOOL_MOST
               ? "windows of more than 15 do not fit the byte of the position"
               : problem_wrong_pool(p);
}

void problem_avgpool(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int y = graph_avgpool(g, "avgpool", activation(g, "x", p), p->value[3], p->value[4], 0);
    graph_output(g, y, "y");
    out->bytes = image_bytes(p) + (double)tensor_bytes(&g->tensors[y]);
}

void problem_maxpool(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int y = graph_maxpool(g, "maxpool", activation(g, "x", p), p->value[3], p->value[4],
                                (p->value[3] - 1) / 2);
    graph_output(g, y, "y");
    out->bytes = image_bytes(p) + (double)tensor_elems(&g->tensors[y]) * (size_of(p) + 1);
}

/* ---- Images ---- */

void problem_image(const BenchPoint *p, BenchProblem *out)
{
    static const float mean[3] = {0.5071F, 0.4867F, 0.4408F};
    static const float std[3] = {0.2675F, 0.2565F, 0.2761F};
    Graph *g = begin(p, out, p->value[0]);
    const int images =
        graph_input(g, "images", DT_U8, p->value[0], p->value[1], p->value[1], 3, true);
    graph_output(g, graph_image(g, "image", images, p->value[2], mean, std), "y");
    out->bytes = image_bytes(p) + 3.0 * p->value[0] * p->value[1] * p->value[1];
}

const char *problem_wrong_views(const BenchPoint *p)
{
    return p->value[0] > p->value[2] ? "a batch B of more images than the set N has" : NULL;
}

void problem_views(const BenchPoint *p, BenchProblem *out)
{
    const int side = p->value[1];
    const int count = p->value[2];
    Graph *g = begin(p, out, p->value[0]);
    const int images = graph_input(g, "images", DT_U8, count, side, side, 3, false);
    const int labels = graph_input(g, "labels", DT_I32, count, 1, 1, 1, false);
    const int order = graph_input(g, "order", DT_I32, count, 1, 1, 1, false);
    const int cursor = graph_input(g, "cursor", DT_I32, 1, 1, 1, 4, false);
    int views[3];
    graph_views(g, "views", images, labels, order, cursor,
                (ViewsAttr){.pad = VIEWS_PAD, .flip = true}, views);
    graph_output(g, views[0], NULL);
    out->bytes = 6.0 * p->value[0] * side * side;
}

/* ---- Matrices and convolutions ---- */

void problem_linear(const BenchPoint *p, BenchProblem *out)
{
    const int rows = p->value[0];
    const int inputs = p->value[1];
    const int outputs = p->value[2];
    const int w = weight(out, ROLE_LINEAR_WEIGHT, 2, (int[]){outputs, inputs});
    const int bias =
        params_add(&out->params, "bias", ROLE_BIAS, 1, &outputs, true, INIT_NORMAL, 0.05);
    Graph *g = begin(p, out, rows);
    const int x = graph_input(g, "x", g->act, rows, 1, 1, inputs, true);
    graph_output(g, graph_linear(g, "linear", x, w, bias), "y");
    out->bytes =
        ((double)rows * inputs + (double)inputs * outputs) * size_of(p) + 4.0 * rows * outputs;
    out->flops = 2.0 * rows * inputs * outputs;
}

void problem_gather(const BenchPoint *p, BenchProblem *out)
{
    Graph *g = begin(p, out, p->value[0]);
    const int table = graph_input(g, "table", g->act, p->value[2], 1, 1, p->value[1], false);
    const int index = graph_input(g, "index", DT_I32, p->value[0], 1, 1, 1, true);
    graph_output(g, graph_gather(g, "gather", table, index), "y");
    out->bytes = 2.0 * p->value[0] * p->value[1] * size_of(p);
}

const char *problem_wrong_conv(const BenchPoint *p)
{
    return p->value[4] % 2 == 0 ? "kernels K are odd here" : NULL;
}

/* What the three convolutions share: axes B, H, C, O, K, S. */
typedef struct {
    Graph *g;
    int weight, side; /* parameter; height and width of y */
    ConvAttr attr;
    double x, w, y; /* elements */
} Conv;

static Conv begin_conv(const BenchPoint *p, BenchProblem *out)
{
    const int c = p->value[2];
    const int o = p->value[3];
    const int k = p->value[4];
    Conv conv = {.weight = weight(out, ROLE_CONV_WEIGHT, 4, (int[]){o, c, k, k})};
    conv.attr =
        (ConvAttr){.kernel_h = k, .kernel_w = k, .stride = p->value[5], .pad = k / 2, .groups = 1};
    conv.g = begin(p, out, p->value[0]);
    conv.side = (p->value[1] + 2 * (k / 2) - k) / p->value[5] + 1;
    conv.x = (double)p->value[0] * p->value[1] * p->value[1] * c;
    conv.w = (double)k * k * c * o;
    conv.y = (double)p->value[0] * conv.side * conv.side * o;
    out->flops = 2 * conv.y * k * k * c;
    out->bytes = (conv.x + conv.w + conv.y) * size_of(p);
    return conv;
}

void problem_conv(const BenchPoint *p, BenchProblem *out)
{
    const Conv conv = begin_conv(p, out);
    graph_output(conv.g,
                 graph_conv(conv.g, "conv", activation(conv.g, "x", p), conv.weight, -1,
                            conv.attr.stride, conv.attr.pad, 1),
                 "y");
}

static int conv_gradient(const Conv *conv, const BenchPoint *p)
{
    return graph_input(conv->g, "dy", conv->g->act, p->value[0], conv->side, conv->side,
                       p->value[3], true);
}

void problem_conv_dgrad(const BenchPoint *p, BenchProblem *out)
{
    const Conv conv = begin_conv(p, out);
    const int in[2] = {conv_gradient(&conv, p), graph_param(conv.g, conv.weight)};
    graph_node(conv.g, OP_CONV_DGRAD, "conv_dgrad", 2, in, 1, (int[]){result(conv.g, p)})
        ->attr.conv = conv.attr;
}

void problem_conv_wgrad(const BenchPoint *p, BenchProblem *out)
{
    const Conv conv = begin_conv(p, out);
    const int in[2] = {activation(conv.g, "x", p), conv_gradient(&conv, p)};
    const int dw = graph_param_grad(conv.g, conv.weight);
    graph_node(conv.g, OP_CONV_WGRAD, "conv_wgrad", 2, in, 1, &dw)->attr.conv = conv.attr;
    out->bytes = (conv.x + conv.y) * size_of(p) + 4 * conv.w;
}
