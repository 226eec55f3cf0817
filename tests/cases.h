/* The one list of op cases: every op with shapes that people use and shapes that break things.
 * tests/test_ops.c compares backends on it, bench/bench_ops.c times it. A case is one node;
 * case_build makes its graph, whose inputs are named "in<slot>" and outputs "out<slot>" (parameters
 * and gradients by role), and case_fill draws data for it.
 *
 * Integer data are small integers, so that every sum is exact in fp32 and a result may be
 * compared bit for bit. */
#ifndef CUDISTILL_TESTS_CASES_H
#define CUDISTILL_TESTS_CASES_H

#include "base/rng.h"
#include "case_list.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    Params params;
    Graph graph;
    int node;
} CaseNet;

/* ---- Building ---- */

typedef struct {
    const OpCase *c;
    CaseNet *net;
    Graph *g;
} CaseBuild;

static inline int case_weight(const CaseBuild *b)
{
    const OpCase *c = b->c;
    const int groups = c->groups ? c->groups : 1;
    const int inputs = c->form & C_PADDED ? 3 : c->c / groups;
    const bool linear = c->op == OP_LINEAR || c->op == OP_LINEAR_DGRAD || c->op == OP_LINEAR_WGRAD;
    const int kw = c->kw ? c->kw : c->k;
    const int shape[4] = {c->o, inputs, c->k, kw};
    return params_add(&b->net->params, "weight", linear ? ROLE_LINEAR_WEIGHT : ROLE_CONV_WEIGHT,
                      linear ? 2 : 4, shape, true, INIT_ZERO, 0);
}

static inline int case_vector_param(const CaseBuild *b, const char *name, ParamRole role, int count)
{
    return params_add(&b->net->params, name, role, 1, &count, true, INIT_ZERO, 0);
}

static inline int case_in(const CaseBuild *b, int slot, DType dtype, int h, int w, int c)
{
    char name[16];
    snprintf(name, sizeof name, "in%d", slot);
    return graph_input(b->g, name, dtype, b->g->batch, h, w, c, true);
}

static inline int case_in_vector(const CaseBuild *b, int slot, DType dtype, int c)
{
    char name[16];
    snprintf(name, sizeof name, "in%d", slot);
    return graph_input(b->g, name, dtype, 1, 1, 1, c, false);
}

static inline int case_shared(const CaseBuild *b, int slot)
{
    char name[16];
    snprintf(name, sizeof name, "in%d", slot);
    return graph_shared(b->g, name, DT_F32, 2, 8);
}

static inline int case_out(const CaseBuild *b, int slot, DType dtype, int h, int w, int c)
{
    char name[16];
    snprintf(name, sizeof name, "out%d", slot);
    const int id = graph_tensor(b->g, name, TENSOR_ACT, dtype, b->g->batch, h, w, c, true);
    graph_output(b->g, id, NULL);
    return id;
}

static inline int case_out_vector(const CaseBuild *b, int slot, int n, int h, int w, int c)
{
    char name[16];
    snprintf(name, sizeof name, "out%d", slot);
    const int id = graph_tensor(b->g, name, TENSOR_ACT, b->g->math, n, h, w, c, false);
    graph_output(b->g, id, NULL);
    return id;
}

static inline Node *case_node(const CaseBuild *b, int n_in, const int *in, int n_out,
                              const int *out)
{
    return graph_node(b->g, b->c->op, b->c->name, n_in, in, n_out, out);
}

static inline ConvAttr case_conv_attr(const OpCase *c)
{
    const ConvAttr attr = {.kernel_h = c->k,
                           .kernel_w = c->kw ? c->kw : c->k,
                           .stride = c->stride ? c->stride : 1,
                           .pad = c->pad,
                           .groups = c->groups ? c->groups : 1,
                           .relu = (c->form & C_RELU) != 0,
                           .pre_relu = (c->form & C_PRE_RELU) != 0};
    return attr;
}

static inline int case_window(int in, int kernel, int stride, int pad)
{
    return (in + 2 * pad - kernel) / (stride ? stride : 1) + 1;
}

static inline void case_conv(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const ConvAttr attr = case_conv_attr(c);
    const int oh = case_window(c->h, attr.kernel_h, attr.stride, c->pad);
    const int ow = case_window(c->w, attr.kernel_w, attr.stride, c->pad);
    const int weight = params_find(&b->net->params, "weight");
    const bool affine = (c->form & C_AFFINE) != 0;
    const bool sums = (c->form & C_SUMS) != 0;
    const int rows = affine || sums ? graph_rows_valid(g) : -1;
    if (c->op == OP_CONV) {
        const int in[6] = {case_in(b, 0, g->act, c->h, c->w, c->c),
                           graph_param(g, weight),
                           c->form & C_BIAS ? graph_param(g, params_find(&b->net->params, "bias"))
                                            : -1,
                           c->form & C_RESIDUAL ? case_in(b, 3, g->act, oh, ow, c->o) : -1,
                           affine ? case_in_vector(b, 4, g->math, 4 * c->c) : -1,
                           rows};
        const int out[2] = {case_out(b, 0, g->act, oh, ow, c->o),
                            sums ? case_out_vector(b, 1, 1, 1, 1, 2 * c->o + 1) : -1};
        case_node(b, 6, in, 2, out)->attr.conv = attr;
    } else if (c->op == OP_CONV_DGRAD) {
        const int in[5] = {case_in(b, 0, g->act, oh, ow, c->o), graph_param(g, weight),
                           sums ? case_in(b, 2, g->act, c->h, c->w, c->c) : -1,
                           sums ? case_in_vector(b, 3, g->math, 4 * c->c) : -1, rows};
        const int out[2] = {case_out(b, 0, g->act, c->h, c->w, c->c),
                            sums ? case_out_vector(b, 1, 1, 1, 1, 2 * c->c + 1) : -1};
        case_node(b, 5, in, 2, out)->attr.conv = attr;
    } else {
        const int in[4] = {case_in(b, 0, g->act, c->h, c->w, c->c),
                           case_in(b, 1, g->act, oh, ow, c->o),
                           affine ? case_in_vector(b, 2, g->math, 4 * c->c) : -1, rows};
        case_node(b, 4, in, 1, (int[]){graph_param_grad(g, weight)})->attr.conv = attr;
    }
}

static inline void case_linear(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const int weight = params_find(&b->net->params, "weight");
    if (c->op == OP_LINEAR) {
        const int in[3] = {case_in(b, 0, g->act, 1, 1, c->c), graph_param(g, weight),
                           c->form & C_BIAS ? graph_param(g, params_find(&b->net->params, "bias"))
                                            : -1};
        case_node(b, 3, in, 1, (int[]){case_out(b, 0, g->math, 1, 1, c->o)});
    } else if (c->op == OP_LINEAR_DGRAD) {
        const int in[2] = {case_in(b, 0, g->math, 1, 1, c->o), graph_param(g, weight)};
        case_node(b, 2, in, 1, (int[]){case_out(b, 0, g->act, 1, 1, c->c)});
    } else {
        const int in[2] = {case_in(b, 0, g->act, 1, 1, c->c), case_in(b, 1, g->math, 1, 1, c->o)};
        case_node(b, 2, in, 1, (int[]){graph_param_grad(g, weight)});
    }
}

static inline void case_bn(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const DType act = g->act;
    const int first = params_find(&b->net->params, "gamma");
    const int rows =
        c->op == OP_BN_STATS || c->op == OP_BN_REDUCE || c->op == OP_BN_DX || c->rows > 0
            ? graph_rows_valid(g)
            : -1;
    const int mask_c = (c->c + 7) / 8;
    const bool bits = (c->form & C_BITS) != 0;
    int in[7] = {-1, -1, -1, -1, -1, -1, -1};
    int out[2] = {-1, -1};
    int n_in = 0;
    switch (c->op) {
    case OP_BN_STATS:
        in[0] = case_in(b, 0, act, c->h, c->w, c->c);
        in[1] = rows;
        out[0] = case_out_vector(b, 0, 1, 1, 1, 2 * c->c + 1);
        n_in = 2;
        break;
    case OP_BN_FINALIZE:
        in[0] = case_in_vector(b, 0, g->math, 2 * c->c + 1);
        in[1] = graph_param(g, first);
        in[2] = graph_param(g, first + 1);
        out[0] = case_out_vector(b, 0, 1, 1, 1, 4 * c->c);
        n_in = 3;
        break;
    case OP_BN_RUNNING:
        in[0] = case_in_vector(b, 0, g->math, 2 * c->c + 1);
        in[1] = out[0] = graph_param(g, first + 2);
        in[2] = out[1] = graph_param(g, first + 3);
        n_in = 3;
        break;
    case OP_BN_INFER:
        for (int i = 0; i < 4; i++) {
            in[i] = graph_param(g, first + i);
        }
        out[0] = case_out_vector(b, 0, 1, 1, 1, 4 * c->c);
        n_in = 4;
        break;
    case OP_BN_APPLY:
        in[0] = case_in(b, 0, act, c->h, c->w, c->c);
        in[1] = case_in_vector(b, 1, g->math, 4 * c->c);
        in[2] = c->form & C_RESIDUAL ? case_in(b, 2, act, c->h, c->w, c->c) : -1;
        in[3] = rows;
        out[0] = case_out(b, 0, act, c->h, c->w, c->c);
        out[1] = bits ? case_out(b, 1, DT_U8, c->h, c->w, mask_c) : -1;
        n_in = 4;
        break;
    case OP_BN_REDUCE:
        in[0] = case_in(b, 0, act, c->h, c->w, c->c);
        in[1] = case_in(b, 1, act, c->h, c->w, c->c);
        in[2] = case_in_vector(b, 2, g->math, 4 * c->c);
        in[3] = rows;
        in[4] = c->form & C_DY2 ? case_in(b, 4, act, c->h, c->w, c->c) : -1;
        in[5] = c->form & C_MASK ? case_in(b, 5, act, c->h, c->w, c->c) : -1;
        in[6] = bits ? case_in(b, 6, DT_U8, c->h, c->w, mask_c) : -1;
        out[0] = case_out_vector(b, 0, 1, 1, 1, 2 * c->c + 1);
        out[1] = c->form & C_DZ ? case_out(b, 1, act, c->h, c->w, c->c) : -1;
        n_in = 7;
        break;
    case OP_BN_DPARAM:
        in[0] = case_in_vector(b, 0, g->math, 2 * c->c + 1);
        out[0] = graph_param_grad(g, first);
        out[1] = graph_param_grad(g, first + 1);
        n_in = 1;
        break;
    default: /* OP_BN_DX */
        in[0] = case_in(b, 0, act, c->h, c->w, c->c);
        in[1] = case_in(b, 1, act, c->h, c->w, c->c);
        in[2] = case_in_vector(b, 2, g->math, 4 * c->c);
        in[3] = c->form & C_FROZEN ? -1 : case_in_vector(b, 3, g->math, 2 * c->c + 1);
        in[4] = rows;
        in[5] = c->form & C_MASK ? case_in(b, 5, act, c->h, c->w, c->c) : -1;
        in[6] = bits ? case_in(b, 6, DT_U8, c->h, c->w, mask_c) : -1;
        out[0] = case_out(b, 0, act, c->h, c->w, c->c);
        n_in = 7;
        break;
    }
    const BnAttr attr = {.eps = 1e-5F,
                         .momentum = 0.1F,
                         .relu = (c->form & C_RELU) != 0,
                         .frozen = (c->form & C_FROZEN) != 0,
                         .remask = (c->form & C_REMASK) != 0};
    case_node(b, n_in, in, out[1] >= 0 ? 2 : 1, out)->attr.bn = attr;
}

static inline void case_pool(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const PoolAttr attr = {c->k, c->stride, c->pad};
    const int oh = case_window(c->h, c->k, c->stride, c->pad);
    const int ow = case_window(c->w, c->k, c->stride, c->pad);
    const bool backward = c->op == OP_AVGPOOL_BWD || c->op == OP_MAXPOOL_BWD;
    int in[2] = {-1, -1};
    int out[2] = {-1, -1};
    if (backward) {
        in[0] = case_in(b, 0, g->act, oh, ow, c->c);
        in[1] = c->op == OP_MAXPOOL_BWD ? case_in(b, 1, DT_U8, oh, ow, c->c) : -1;
        out[0] = case_out(b, 0, g->act, c->h, c->w, c->c);
    } else {
        in[0] = case_in(b, 0, g->act, c->h, c->w, c->c);
        out[0] = case_out(b, 0, g->act, oh, ow, c->c);
        out[1] = c->op == OP_MAXPOOL ? case_out(b, 1, DT_U8, oh, ow, c->c) : -1;
    }
    case_node(b, in[1] >= 0 ? 2 : 1, in, out[1] >= 0 ? 2 : 1, out)->attr.pool = attr;
}

static inline void case_fold(const CaseBuild *b)
{
    const OpCase *c = b->c;
    const Params *params = &b->net->params;
    const int first = params_find(params, "gamma");
    int in[6] = {graph_param(b->g, params_find(params, "weight")),
                 c->form & C_BIAS ? graph_param(b->g, params_find(params, "bias")) : -1};
    for (int i = 0; i < 4; i++) {
        in[2 + i] = graph_param(b->g, first + i);
    }
    const int out[2] = {case_out_vector(b, 0, c->o, c->k, c->k, c->c),
                        case_out_vector(b, 1, 1, 1, 1, c->o)};
    case_node(b, 6, in, 2, out)->attr.bn = (BnAttr){.eps = 1e-5F, .momentum = 0.1F};
}

static inline RowValue case_value(float value)
{
    return (RowValue){.source = SOURCE_CONST, .value = value};
}

static inline DistillSpec case_spec(const OpCase *c)
{
    DistillSpec spec = {.energy_temperature = 1, .ce_weight = case_value(1)};
    DistillTerm term = {.factor = FACTOR_TSTT,
                        .weight = case_value(0.9F),
                        .ts = case_value(4),
                        .tt = case_value(4)};
    spec.n_terms = 1;
    switch (c->distill) {
    case D_CE:
        spec.n_terms = 0;
        spec.smoothing = 0.1F;
        break;
    case D_KD:
        break;
    case D_DKD:
        term.form = FORM_DKD;
        term.alpha = 1;
        term.beta = 8;
        break;
    case D_NKD:
        term.form = FORM_NKD;
        term.gamma = 1.5F;
        break;
    case D_ENERGY:
        term.ts = term.tt = (RowValue){.source = SOURCE_BAND, .band = {2, 3, 5}};
        spec.energy_temperature = 2;
        break;
    case D_ZSCORE_TOPK:
        term.zscore = true;
        spec.terms[1] = term;
        spec.terms[1].zscore = false;
        spec.terms[1].topk = 5;
        spec.terms[1].topk_renorm = true;
        spec.n_terms = 2;
        break;
    case D_TARGETS:
        term.weight = (RowValue){.source = SOURCE_ROW, .value = 1, .column = 0};
        term.ts = term.tt = (RowValue){.source = SOURCE_ROW, .column = 1};
        spec.smoothing = 0.1F;
        spec.sparse_k = CASE_SPARSE_K;
        break;
    case D_TEACHER:
        spec.n_terms = 0;
        spec.statistics_only = true;
        spec.energy_temperature = 4;
        break;
    }
    spec.terms[0] = term;
    return spec;
}

static inline void case_distill(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const DistillSpec spec = case_spec(c);
    int in[DISTILL_IN_COUNT];
    for (int i = 0; i < DISTILL_IN_COUNT; i++) {
        in[i] = -1;
    }
    if (c->distill != D_TEACHER) {
        in[DISTILL_IN_Z] = case_in(b, DISTILL_IN_Z, g->math, 1, 1, c->c);
    }
    if (c->distill != D_CE) {
        in[DISTILL_IN_T] = case_in(b, DISTILL_IN_T, g->math, 1, 1, c->c);
    }
    in[DISTILL_IN_LABELS] = case_in(b, DISTILL_IN_LABELS, DT_I32, 1, 1, 1);
    if (c->distill == D_ENERGY) {
        in[DISTILL_IN_THETA] = case_in_vector(b, DISTILL_IN_THETA, DT_F32, 2);
    }
    if (c->distill == D_TARGETS) {
        in[DISTILL_IN_ROW_PARAMS] = case_in(b, DISTILL_IN_ROW_PARAMS, DT_F32, 1, 1, 2);
        in[DISTILL_IN_TARGET_KIND] = case_in(b, DISTILL_IN_TARGET_KIND, DT_I32, 1, 1, 2);
        in[DISTILL_IN_TARGET_WEIGHT] = case_in(b, DISTILL_IN_TARGET_WEIGHT, DT_F32, 1, 1, 2);
        in[DISTILL_IN_TARGET_CLASS] = case_in(b, DISTILL_IN_TARGET_CLASS, DT_I32, 1, 1, 2);
        in[DISTILL_IN_SPARSE_INDEX] =
            case_in(b, DISTILL_IN_SPARSE_INDEX, DT_I32, 1, 1, 2 * CASE_SPARSE_K);
        in[DISTILL_IN_SPARSE_VALUE] =
            case_in(b, DISTILL_IN_SPARSE_VALUE, DT_F32, 1, 1, 2 * CASE_SPARSE_K);
        in[DISTILL_IN_DENSE] = case_in(b, DISTILL_IN_DENSE, DT_F32, 1, 1, 2 * c->c);
    }
    if (c->form & C_LOSS_SCALE) {
        in[DISTILL_IN_LOSS_SCALE] = case_shared(b, DISTILL_IN_LOSS_SCALE);
    }
    const int node = graph_distill(g, c->name, &spec, in);
    for (int i = 0; i < DISTILL_OUT_COUNT; i++) {
        char name[16];
        snprintf(name, sizeof name, "out%d", i);
        if (g->nodes[node].out[i] >= 0) {
            graph_output(g, g->nodes[node].out[i], name);
        }
    }
}

static inline void case_optimizer(const CaseBuild *b)
{
    Graph *g = b->g;
    if (b->c->op == OP_GRAD_NORM) {
        case_node(b, 0, NULL, 1, (int[]){case_out_vector(b, 0, 1, 1, 1, 2)});
        return;
    }
    if (b->c->op == OP_LOSS_SCALE) {
        const int in[2] = {case_in_vector(b, 0, g->math, 2), case_shared(b, 1)};
        case_node(b, 2, in, 1, &in[1])->attr.loss_scale =
            (LossScaleAttr){.growth = 2, .backoff = 0.5F, .interval = b->c->o};
        return;
    }
    const bool stats = (b->c->form & C_STATS) != 0;
    const int in[3] = {case_in_vector(b, 0, DT_F32, HYPER_COUNT),
                       stats ? case_in_vector(b, 1, g->math, 2) : -1,
                       b->c->form & C_LOSS_SCALE ? case_shared(b, 2) : -1};
    case_node(b, 3, in, 0, NULL)->attr.sgd.decay_norm_bias = (b->c->form & C_DECAY_ALL) != 0;
}

/* A table or a set: not of the batch. */
static inline int case_in_set(const CaseBuild *b, int slot, DType dtype, int h, int w, int c)
{
    char name[16];
    snprintf(name, sizeof name, "in%d", slot);
    return graph_input(b->g, name, dtype, b->c->o, h, w, c, false);
}

static inline void case_rows(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    if (c->op == OP_GATHER) {
        const int in[2] = {case_in_set(b, 0, g->act, 1, 1, c->c), case_in(b, 1, DT_I32, 1, 1, 1)};
        case_node(b, 2, in, 1, (int[]){case_out(b, 0, g->act, 1, 1, c->c)});
        return;
    }
    const int in[5] = {case_in_set(b, 0, DT_U8, c->h, c->w, 3), case_in_set(b, 1, DT_I32, 1, 1, 1),
                       case_in_set(b, 2, DT_I32, 1, 1, 1), case_in_vector(b, 3, DT_I32, 4),
                       graph_rows_valid(g)};
    const int out[3] = {case_out(b, 0, DT_U8, c->h, c->w, 3), case_out(b, 1, DT_I32, 1, 1, 1),
                        case_out(b, 2, DT_I32, 1, 1, 1)};
    case_node(b, 5, in, 3, out)->attr.views = (ViewsAttr){.pad = c->pad, .flip = c->k != 0};
}

static inline void case_params(const CaseBuild *b)
{
    const OpCase *c = b->c;
    const bool optimizer = c->op == OP_SGD || c->op == OP_GRAD_NORM;
    const bool weight = c->op == OP_CONV || c->op == OP_CONV_DGRAD || c->op == OP_CONV_WGRAD ||
                        c->op == OP_LINEAR || c->op == OP_LINEAR_DGRAD ||
                        c->op == OP_LINEAR_WGRAD || c->op == OP_FOLD_BN;
    if (weight || optimizer) {
        case_weight(b);
    }
    if ((c->form & C_BIAS) || c->op == OP_BIAS_GRAD || optimizer) {
        case_vector_param(b, "bias", ROLE_BIAS, c->op == OP_BIAS_GRAD ? c->c : c->o);
    }
    const bool bn = c->op == OP_BN_FINALIZE || c->op == OP_BN_RUNNING || c->op == OP_BN_INFER ||
                    c->op == OP_BN_DPARAM;
    if (bn || optimizer || c->op == OP_FOLD_BN) {
        const int channels = bn ? c->c : c->o;
        case_vector_param(b, "gamma", ROLE_BN_WEIGHT, channels);
        case_vector_param(b, "beta", ROLE_BN_BIAS, channels);
        case_vector_param(b, "mean", ROLE_RUNNING_MEAN, channels);
        case_vector_param(b, "var", ROLE_RUNNING_VAR, channels);
    }
    params_finish(&b->net->params);
}

static inline void case_simple(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const bool logits = c->op == OP_BIAS_GRAD && c->h == 1 &&
                        c->w == 1; /* the gradient of logits is never 16 bits */
    const int in0 = case_in(b, 0,
                            c->op == OP_IMAGE ? DT_U8
                            : logits          ? g->math
                                              : g->act,
                            c->h, c->w, c->op == OP_IMAGE ? 3 : c->c);
    if (c->op == OP_BIAS_GRAD) {
        case_node(b, 1, &in0, 1,
                  (int[]){graph_param_grad(g, params_find(&b->net->params, "bias"))});
        return;
    }
    if (c->op == OP_IMAGE) {
        const ImageAttr attr = {{0.5071F, 0.4867F, 0.4408F}, {0.2675F, 0.2565F, 0.2761F}};
        case_node(b, 1, &in0, 1, (int[]){case_out(b, 0, g->act, c->h, c->w, c->o)})->attr.image =
            attr;
        return;
    }
    const bool two = c->op == OP_RELU_BWD || c->op == OP_ADD;
    const int in[2] = {in0, two ? case_in(b, 1, g->act, c->h, c->w, c->c) : -1};
    const int out = case_out(b, 0, c->op == OP_CAST ? c->to : g->act, c->h, c->w, c->c);
    case_node(b, two ? 2 : 1, in, 1, &out)->attr.bn.relu = (c->form & C_RELU) != 0;
}

static inline void case_build(const OpCase *c, DType act, CaseNet *net)
{
    memset(net, 0, sizeof *net);
    const CaseBuild b = {c, net, &net->graph};
    case_params(&b);
    graph_init(&net->graph, &net->params, c->n, act);
    switch (c->op) {
    case OP_CONV:
    case OP_CONV_DGRAD:
    case OP_CONV_WGRAD:
        case_conv(&b);
        break;
    case OP_LINEAR:
    case OP_LINEAR_DGRAD:
    case OP_LINEAR_WGRAD:
        case_linear(&b);
        break;
    case OP_AVGPOOL:
    case OP_AVGPOOL_BWD:
    case OP_MAXPOOL:
    case OP_MAXPOOL_BWD:
        case_pool(&b);
        break;
    case OP_FOLD_BN:
        case_fold(&b);
        break;
    case OP_DISTILL:
        case_distill(&b);
        break;
    case OP_GRAD_NORM:
    case OP_SGD:
    case OP_LOSS_SCALE:
        case_optimizer(&b);
        break;
    case OP_GATHER:
    case OP_VIEWS:
        case_rows(&b);
        break;
    case OP_IMAGE:
    case OP_BIAS_GRAD:
    case OP_RELU:
    case OP_RELU_BWD:
    case OP_ADD:
    case OP_CAST:
        case_simple(&b);
        break;
    default:
        case_bn(&b);
        break;
    }
    net->node = net->graph.n_nodes - 1;
}

static inline void case_free(CaseNet *net)
{
    graph_free(&net->graph);
    params_free(&net->params);
}

#endif
