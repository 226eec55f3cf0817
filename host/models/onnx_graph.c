/* One graph as one ONNX model: a function for every operation that inference has. Tensors keep their names; their shapes turn
 * from N H W C into N C H W, and vectors that come out of a linear layer into [batch, count]. */
#include "models/onnx.h"

#include "base/text.h"
#include "models/load.h"
#include "onnx_parts.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float PIXEL_RANGE = 255.0f;

typedef struct {
    const Graph *graph;
    const OnnxOptions *options;
    ModelEntries entries; /* parameters in the ecosystem's layout */
    OnnxParts parts;
    const char **values; /* by tensor: its name in ONNX, NULL = not there yet */
    bool *flat;          /* by tensor: [batch, count] */
    bool *written;       /* by parameter: is an initializer */
} Writer;

static const Tensor *tensor_at(const Writer *w, int tensor)
{
    return &w->graph->tensors[tensor];
}

static bool has_input(const Node *node, int slot)
{
    return slot < node->n_in && node->in[slot] >= 0;
}

static Err *refuse(const Node *node, const char *why)
{
    return err_new(EXIT_INTERNAL, "'%s' (%s) cannot be expressed in ONNX: %s", node->name,
                   op_name(node->op), why);
}

/* ---- Names and values ---- */

static bool is_taken(const Writer *w, const char *name)
{
    for (int i = 0; i < w->graph->n_tensors; i++) {
        if (w->values[i] && strcmp(w->values[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Gives the tensor its name: its own, with a number where another value has it. Outputs come first (encode_graph). */
static const char *name_value(Writer *w, int tensor)
{
    if (w->values[tensor]) {
        return w->values[tensor];
    }
    const char *const own = tensor_at(w, tensor)->name;
    const char *name = onnx_format(&w->parts, "%s", own);
    for (int i = 1; is_taken(w, name); i++) {
        name = onnx_format(&w->parts, "%s.%d", own, i);
    }
    w->values[tensor] = name;
    return name;
}

static int batch_of(const Writer *w, const Tensor *t)
{
    return t->batched && w->options->dynamic ? -1 : t->n;
}

static void list_value(Writer *w, OnnxList *list, int tensor, int type)
{
    const Tensor *const t = tensor_at(w, tensor);
    const int64_t map[] = {t->c, t->h, t->w};
    onnx_value(&w->parts, list, name_value(w, tensor), type, batch_of(w, t),
               w->flat[tensor] ? 1 : 3, map);
}

/* The output of a node is known: written as an output of the graph, or as a value between. */
static void done(Writer *w, int tensor, bool flat)
{
    w->flat[tensor] = flat;
    const bool output = tensor_at(w, tensor)->output;
    list_value(w, output ? &w->parts.outputs : &w->parts.values, tensor, ONNX_FLOAT);
}

static const SafeTensor *entry_of(const Writer *w, int param)
{
    const char *const name = w->graph->params->items[param].name;
    for (size_t i = 0; i < w->entries.count; i++) {
        if (strcmp(w->entries.tensors[i].name, name) == 0) {
            return &w->entries.tensors[i];
        }
    }
    CHECK(false, "no values of parameter '%s'", name);
    return NULL;
}

/* The name of a parameter's tensor, which becomes an initializer the first time; NULL when it is no parameter. */
static const char *parameter(Writer *w, int tensor)
{
    const Tensor *const t = tensor_at(w, tensor);
    if (t->kind != TENSOR_PARAM) {
        return NULL;
    }
    const SafeTensor *const entry = entry_of(w, t->param);
    if (!w->written[t->param]) {
        w->written[t->param] = true;
        onnx_initializer(&w->parts, entry->name, entry->ndim, entry->shape, entry->data);
    }
    return entry->name;
}

/* ---- Operations ---- */

static Onnx__Node *simple_node(Writer *w, const char *op, const Node *node, int n_in,
                               const char *const *inputs)
{
    return onnx_node(&w->parts, op, node->name, n_in, inputs, name_value(w, node->out[0]));
}

static void window_attributes(Writer *w, Onnx__Node *node, int kernel_h, int kernel_w, int stride,
                              int pad)
{
    onnx_attribute_ints(&w->parts, node, "kernel_shape", 2, (int64_t[]){kernel_h, kernel_w});
    onnx_attribute_ints(&w->parts, node, "strides", 2, (int64_t[]){stride, stride});
    onnx_attribute_ints(&w->parts, node, "pads", 4, (int64_t[]){pad, pad, pad, pad});
}

/* A step of the normalisation: a value of the images' shape that no tensor of the graph stands for. */
static const char *image_step(Writer *w, const Node *node, const char *op, const char *part,
                              const char *from, const char *constant)
{
    const Tensor *const y = tensor_at(w, node->out[0]);
    const char *const name = onnx_format(&w->parts, "%s.%s", node->name, part);
    Onnx__Node *const step =
        onnx_node(&w->parts, op, name, constant ? 2 : 1, (const char *[]){from, constant}, name);
    if (!constant) {
        onnx_attribute_int(&w->parts, step, "to", ONNX_FLOAT);
    }
    onnx_value(&w->parts, &w->parts.values, name, ONNX_FLOAT, batch_of(w, y), 3,
               (int64_t[]){y->c, y->h, y->w});
    return name;
}

/* (images / 255 - mean) / std */
static Err *put_image(Writer *w, const Node *node)
{
    if (tensor_at(w, node->out[0])->c != 3) {
        return refuse(node, "images with padded channels");
    }
    const char *const range = onnx_format(&w->parts, "%s.range", node->name);
    const char *const mean = onnx_format(&w->parts, "%s.mean", node->name);
    const char *const std = onnx_format(&w->parts, "%s.std", node->name);
    const int64_t channels[] = {1, 3, 1, 1};
    onnx_initializer(&w->parts, range, 0, NULL, &PIXEL_RANGE);
    onnx_initializer(&w->parts, mean, 4, channels, node->attr.image.mean);
    onnx_initializer(&w->parts, std, 4, channels, node->attr.image.std);
    const char *x = name_value(w, node->in[0]);
    x = image_step(w, node, "Cast", "float", x, NULL);
    x = image_step(w, node, "Div", "scaled", x, range);
    x = image_step(w, node, "Sub", "centred", x, mean);
    (void)simple_node(w, "Div", node, 2, (const char *[]){x, std});
    done(w, node->out[0], false);
    return NULL;
}

/* The node that folds batch norm into the weights `tensor`, NULL when there is none. */
static const Node *fold_of(const Writer *w, int tensor)
{
    const int producer = tensor_at(w, tensor)->producer;
    const Node *const node = producer >= 0 ? &w->graph->nodes[producer] : NULL;
    return node && node->op == OP_FOLD_BN ? node : NULL;
}

static const float *param_data(const Writer *w, int tensor)
{
    return entry_of(w, tensor_at(w, tensor)->param)->data;
}

/* w * s and (bias - mean) * s + beta with s = gamma / sqrt(var + eps), under the names of the convolution's parameters. */
static Err *put_folded(Writer *w, const Node *conv, const Node *fold, const char *names[2])
{
    for (int i = 0; i < 6; i++) {
        if (has_input(fold, i) && tensor_at(w, fold->in[i])->kind != TENSOR_PARAM) {
            return refuse(fold, "weights that are computed");
        }
    }
    const SafeTensor *const weight = entry_of(w, tensor_at(w, fold->in[0])->param);
    const size_t out = (size_t)weight->shape[0];
    const size_t each =
        (size_t)weight->shape[1] * (size_t)weight->shape[2] * (size_t)weight->shape[3];
    const float *const bias = has_input(fold, 1) ? param_data(w, fold->in[1]) : NULL;
    const float *const gamma = param_data(w, fold->in[2]);
    const float *const beta = param_data(w, fold->in[3]);
    const float *const mean = param_data(w, fold->in[4]);
    const float *const var = param_data(w, fold->in[5]);
    float *const folded = xmalloc(out * (each + 1) * sizeof *folded);
    float *const shifts = folded + out * each;
    for (size_t o = 0; o < out; o++) {
        const double scale = (double)gamma[o] / sqrt((double)var[o] + (double)fold->attr.bn.eps);
        for (size_t i = 0; i < each; i++) {
            folded[o * each + i] =
                (float)((double)((const float *)weight->data)[o * each + i] * scale);
        }
        const double before = bias ? (double)bias[o] : 0.0;
        shifts[o] = (float)((before - (double)mean[o]) * scale + (double)beta[o]);
    }
    names[0] = weight->name;
    names[1] = onnx_format(&w->parts, "%s.bias", conv->name);
    onnx_initializer(&w->parts, names[0], weight->ndim, weight->shape, folded);
    onnx_initializer(&w->parts, names[1], 1, weight->shape, shifts);
    free(folded);
    return NULL;
}

static Err *put_conv(Writer *w, const Node *node)
{
    const ConvAttr *const attr = &node->attr.conv;
    if (attr->relu || attr->pre_relu || has_input(node, 3) || has_input(node, 4)) {
        return refuse(node, "it was fused with its neighbours");
    }
    const char *names[2] = {NULL, NULL};
    const Node *const fold = fold_of(w, node->in[1]);
    if (fold) {
        TRY(put_folded(w, node, fold, names));
    } else {
        names[0] = parameter(w, node->in[1]);
        names[1] = has_input(node, 2) ? parameter(w, node->in[2]) : NULL;
        if (!names[0] || (has_input(node, 2) && !names[1])) {
            return refuse(node, "weights that are computed");
        }
    }
    const char *const x = name_value(w, node->in[0]);
    Onnx__Node *const conv =
        simple_node(w, "Conv", node, names[1] ? 3 : 2, (const char *[]){x, names[0], names[1]});
    window_attributes(w, conv, attr->kernel_h, attr->kernel_w, attr->stride, attr->pad);
    onnx_attribute_ints(&w->parts, conv, "dilations", 2, (int64_t[]){1, 1});
    onnx_attribute_int(&w->parts, conv, "group", attr->groups);
    done(w, node->out[0], false);
    return NULL;
}

static Err *put_bn(Writer *w, const Node *node)
{
    const int producer = tensor_at(w, node->in[1])->producer;
    const Node *const infer = producer >= 0 ? &w->graph->nodes[producer] : NULL;
    if (!infer || infer->op != OP_BN_INFER) {
        return refuse(node, "it uses the statistics of the batch, as training does");
    }
    if (has_input(node, 2) || has_input(node, 3) || node->attr.bn.relu) {
        return refuse(node, "it was fused with its neighbours");
    }
    const char *inputs[5] = {name_value(w, node->in[0])};
    for (int i = 0; i < 4; i++) {
        inputs[i + 1] = parameter(w, infer->in[i]);
        if (!inputs[i + 1]) {
            return refuse(node, "parameters that are computed");
        }
    }
    Onnx__Node *const bn = simple_node(w, "BatchNormalization", node, 5, inputs);
    onnx_attribute_float(&w->parts, bn, "epsilon", infer->attr.bn.eps);
    /* Of the old value, not of the new one; read in training only. */
    onnx_attribute_float(&w->parts, bn, "momentum", 1.0f - infer->attr.bn.momentum);
    done(w, node->out[0], false);
    return NULL;
}

static Err *put_relu(Writer *w, const Node *node)
{
    const char *const x = name_value(w, node->in[0]);
    (void)simple_node(w, "Relu", node, 1, &x);
    done(w, node->out[0], w->flat[node->in[0]]);
    return NULL;
}

static Err *put_add(Writer *w, const Node *node)
{
    if (node->attr.bn.relu) {
        return refuse(node, "it was fused with its neighbours");
    }
    const bool flat = w->flat[node->in[0]];
    if (flat != w->flat[node->in[1]]) {
        return refuse(node, "a map and the result of a linear layer");
    }
    const char *const inputs[] = {name_value(w, node->in[0]), name_value(w, node->in[1])};
    (void)simple_node(w, "Add", node, 2, inputs);
    done(w, node->out[0], flat);
    return NULL;
}

static Err *put_pool(Writer *w, const Node *node)
{
    const PoolAttr *const pool = &node->attr.pool;
    const Tensor *const in = tensor_at(w, node->in[0]);
    if (w->flat[node->in[0]]) {
        return refuse(node, "it pools the result of a linear layer");
    }
    const bool average = node->op == OP_AVGPOOL;
    const bool whole = pool->kernel == in->h && pool->kernel == in->w && pool->pad == 0;
    const char *const x = name_value(w, node->in[0]);
    if (average && whole) {
        (void)simple_node(w, "GlobalAveragePool", node, 1, &x);
    } else {
        Onnx__Node *const window = simple_node(w, average ? "AveragePool" : "MaxPool", node, 1, &x);
        window_attributes(w, window, pool->kernel, pool->kernel, pool->stride, pool->pad);
        if (average) {
            onnx_attribute_int(&w->parts, window, "count_include_pad", 1);
        }
    }
    done(w, node->out[0], false);
    return NULL;
}

static Err *put_linear(Writer *w, const Node *node)
{
    const char *x = name_value(w, node->in[0]);
    const char *const weight = parameter(w, node->in[1]);
    const char *const bias = has_input(node, 2) ? parameter(w, node->in[2]) : NULL;
    if (!weight || (has_input(node, 2) && !bias)) {
        return refuse(node, "weights that are computed");
    }
    if (!w->flat[node->in[0]]) {
        const Tensor *const in = tensor_at(w, node->in[0]);
        const char *const name = onnx_format(&w->parts, "%s.flat", node->name);
        Onnx__Node *const flatten = onnx_node(&w->parts, "Flatten", name, 1, &x, name);
        onnx_attribute_int(&w->parts, flatten, "axis", 1);
        onnx_value(&w->parts, &w->parts.values, name, ONNX_FLOAT, batch_of(w, in), 1,
                   (int64_t[]){in->c});
        x = name;
    }
    Onnx__Node *const gemm =
        simple_node(w, "Gemm", node, bias ? 3 : 2, (const char *[]){x, weight, bias});
    onnx_attribute_int(&w->parts, gemm, "transB", 1);
    done(w, node->out[0], true);
    return NULL;
}

static Err *put_node(Writer *w, const Node *node)
{
    switch (node->op) {
    case OP_BN_INFER:
    case OP_FOLD_BN:
        return NULL; /* written with what reads them */
    case OP_IMAGE:
        return put_image(w, node);
    case OP_CONV:
        return put_conv(w, node);
    case OP_BN_APPLY:
        return put_bn(w, node);
    case OP_RELU:
        return put_relu(w, node);
    case OP_ADD:
        return put_add(w, node);
    case OP_AVGPOOL:
    case OP_MAXPOOL:
        return put_pool(w, node);
    case OP_LINEAR:
        return put_linear(w, node);
    default:
        return refuse(node, "it is no operation of inference");
    }
}

/* ---- The model ---- */

static Err *put_inputs(Writer *w)
{
    const Graph *const g = w->graph;
    for (int i = 0; i < g->n_tensors; i++) {
        const Tensor *const t = &g->tensors[i];
        if (t->output) {
            (void)name_value(w, i);
        }
        if (t->kind != TENSOR_INPUT) {
            continue;
        }
        if (t->dtype != DT_U8 && t->dtype != DT_F32) {
            return err_new(EXIT_INTERNAL, "input '%s' of %s cannot be expressed in ONNX", t->name,
                           dtype_name(t->dtype));
        }
        list_value(w, &w->parts.inputs, i, t->dtype == DT_U8 ? ONNX_UINT8 : ONNX_FLOAT);
    }
    return NULL;
}

/* The version of the file format that came with an operator set. */
static int64_t ir_version(int opset)
{
    static const int versions[ONNX_OPSET_MAX - ONNX_OPSET_MIN + 1] = {7, 7, 8, 8, 8, 8, 9, 9, 10};
    return versions[opset - ONNX_OPSET_MIN];
}

static Onnx__Property **put_properties(Writer *w, size_t *count)
{
    const char *const *const metadata = w->options->metadata;
    *count = 0;
    while (metadata && metadata[2 * *count]) {
        (*count)++;
    }
    Onnx__Property **const list = onnx_alloc(&w->parts, *count * sizeof(Onnx__Property *));
    for (size_t i = 0; i < *count; i++) {
        list[i] = onnx_alloc(&w->parts, sizeof *list[i]);
        onnx__property__init(list[i]);
        Text value = {0}; /* readers refuse a file with a text that is not UTF-8 */
        text_utf8(&value, metadata[2 * i + 1]);
        list[i]->key = onnx_format(&w->parts, "%s", metadata[2 * i]);
        list[i]->value = onnx_format(&w->parts, "%s", value.text);
        text_free(&value);
    }
    return list;
}

static Err *pack(Writer *w, uint8_t **bytes, size_t *size)
{
    Onnx__Graph graph = ONNX__GRAPH__INIT;
    graph.name = onnx_format(&w->parts, "%s", w->options->name);
    graph.n_node = w->parts.nodes.count;
    graph.node = (Onnx__Node **)w->parts.nodes.items;
    graph.n_initializer = w->parts.initializers.count;
    graph.initializer = (Onnx__Tensor **)w->parts.initializers.items;
    graph.n_input = w->parts.inputs.count;
    graph.input = (Onnx__ValueInfo **)w->parts.inputs.items;
    graph.n_output = w->parts.outputs.count;
    graph.output = (Onnx__ValueInfo **)w->parts.outputs.items;
    graph.n_value_info = w->parts.values.count;
    graph.value_info = (Onnx__ValueInfo **)w->parts.values.items;
    Onnx__OperatorSet opset = ONNX__OPERATOR_SET__INIT;
    opset.domain = onnx_format(&w->parts, "%s", "");
    opset.has_version = 1;
    opset.version = w->options->opset;
    Onnx__OperatorSet *opsets[] = {&opset};
    Onnx__Model model = ONNX__MODEL__INIT;
    model.has_ir_version = 1;
    model.ir_version = ir_version(w->options->opset);
    model.producer_name = onnx_format(&w->parts, "cuDistill");
    model.n_opset_import = 1;
    model.opset_import = opsets;
    model.graph = &graph;
    model.metadata_props = put_properties(w, &model.n_metadata_props);
    *size = onnx__model__get_packed_size(&model);
    if (*size > INT_MAX) {
        return err_new(EXIT_INTERNAL, "%zu bytes do not fit an ONNX file, which has at most 2 GiB",
                       *size);
    }
    *bytes = xmalloc(*size);
    onnx__model__pack(&model, *bytes);
    return NULL;
}

static Err *encode_graph(Writer *w, uint8_t **bytes, size_t *size)
{
    TRY(put_inputs(w));
    for (int i = 0; i < w->graph->n_nodes; i++) {
        TRY(put_node(w, &w->graph->nodes[i]));
    }
    return pack(w, bytes, size);
}

Err *onnx_encode(const Graph *graph, float *const arena[ARENA_COUNT], const OnnxOptions *options,
                 uint8_t **bytes, size_t *size)
{
    *bytes = NULL;
    *size = 0;
    CHECK(options->opset >= ONNX_OPSET_MIN && options->opset <= ONNX_OPSET_MAX, "opset %d",
          options->opset);
    if (graph->act != DT_F32) {
        return err_new(EXIT_INTERNAL, "a graph of %s cannot be expressed in ONNX: build it in f32",
                       dtype_name(graph->act));
    }
    const size_t tensors = (size_t)graph->n_tensors + 1;
    Writer w = {.graph = graph,
                .options = options,
                .entries = model_save_entries(graph->params, "", arena, 0),
                .values = xcalloc(tensors, sizeof *w.values),
                .flat = xcalloc(tensors, sizeof *w.flat),
                .written = xcalloc((size_t)graph->params->count + 1, sizeof *w.written)};
    Err *const err = encode_graph(&w, bytes, size);
    onnx_parts_free(&w.parts);
    free(w.written);
    free(w.flat);
    free((void *)w.values);
    model_entries_free(&w.entries);
    return err;
}
