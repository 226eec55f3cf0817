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
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Forms of a case. */
enum {
    C_BIAS = 1,
    C_RESIDUAL = 2,
    C_RELU = 4,
    C_GRAD_ADD = 8,    /* gradients are added to what is there */
    C_DY2 = 16,        /* BN_REDUCE: two incoming gradients */
    C_MASK = 32,       /* BN_REDUCE, BN_DX: ReLU mask from y */
    C_DZ = 64,         /* BN_REDUCE: writes dz */
    C_FROZEN = 128,    /* BN_DX with frozen statistics */
    C_STATS = 256,     /* SGD: clipping by the gradient norm */
    C_DECAY_ALL = 512, /* SGD: also BN and biases */
    C_PADDED = 1024    /* convolution of an image with padding channels: c of them, 3 real */
};

/* Row contracts of the OP_DISTILL cases. */
typedef enum {
    D_CE,
    D_KD,
    D_DKD,
    D_NKD,
    D_ENERGY, /* temperatures by band */
    D_ZSCORE_TOPK,
    D_TARGETS, /* two components of every kind, row weights and temperatures */
    D_TEACHER  /* statistics of the teacher alone */
} DistillCase;

typedef struct {
    const char *name;
    Op op;
    int n, h, w, c; /* the large side: x of a convolution or pool; n rows of c logits or features */
    int o, k, stride, pad; /* output channels or features, kernel; 0: stride 1 */
    int kw, groups;        /* 0: kw = k, one group */
    int rows;              /* rows_valid; 0 = n */
    unsigned form;
    DistillCase distill;
    DType to; /* CAST */
} OpCase;

static const OpCase op_cases[] = {
    {"image 32x32 to 3", OP_IMAGE, 3, 32, 32, 3, .o = 3},
    {"image to 4 channels", OP_IMAGE, 1, 5, 7, 3, .o = 4},
    {"image to 8 channels", OP_IMAGE, 2, 4, 4, 3, .o = 8},

    {"conv 3x3 16-16", OP_CONV, 4, 32, 32, 16, .o = 16, .k = 3, .pad = 1},
    {"conv 3x3 64-64", OP_CONV, 2, 8, 8, 64, .o = 64, .k = 3, .pad = 1},
    {"conv stem C=3", OP_CONV, 2, 32, 32, 3, .o = 16, .k = 3, .pad = 1},
    {"conv stem 3 of 4 channels", OP_CONV, 2, 16, 16, 4, .o = 16, .k = 3, .pad = 1,
     .form = C_PADDED},
    {"conv C=1 O=1 1x1 image", OP_CONV, 1, 1, 1, 1, .o = 1, .k = 1},
    {"conv 3x3 on H=W=1", OP_CONV, 3, 1, 1, 16, .o = 8, .k = 3, .pad = 1},
    {"conv 3x3 s2 odd", OP_CONV, 2, 9, 7, 16, .o = 32, .k = 3, .pad = 1, .stride = 2},
    {"conv 1x1", OP_CONV, 2, 6, 6, 32, .o = 24, .k = 1},
    {"conv 1x1 s2", OP_CONV, 2, 7, 9, 32, .o = 64, .k = 1, .stride = 2},
    {"conv 7x7 s2 p3", OP_CONV, 1, 23, 21, 3, .o = 16, .k = 7, .stride = 2, .pad = 3},
    {"conv 5x5 p2", OP_CONV, 2, 11, 6, 8, .o = 12, .k = 5, .pad = 2},
    {"conv 3x3 p0", OP_CONV, 1, 6, 5, 7, .o = 5, .k = 3},
    {"conv 1x3", OP_CONV, 2, 6, 5, 8, .o = 8, .k = 1, .kw = 3},
    {"conv groups 4", OP_CONV, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .groups = 4},
    {"conv depthwise s2", OP_CONV, 2, 9, 9, 24, .o = 24, .k = 3, .pad = 1, .stride = 2,
     .groups = 24},
    {"conv 58 to 116", OP_CONV, 1, 7, 7, 58, .o = 116, .k = 1},
    {"conv bias", OP_CONV, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .form = C_BIAS},
    {"conv bias relu", OP_CONV, 2, 7, 8, 16, .o = 32, .k = 3, .pad = 1, .form = C_BIAS | C_RELU},
    {"conv relu", OP_CONV, 2, 8, 8, 3, .o = 20, .k = 3, .pad = 1, .form = C_RELU},
    {"conv bias residual", OP_CONV, 2, 8, 8, 16, .o = 16, .k = 3, .pad = 1,
     .form = C_BIAS | C_RESIDUAL},
    {"conv bias residual relu", OP_CONV, 2, 8, 8, 32, .o = 64, .k = 1,
     .form = C_BIAS | C_RESIDUAL | C_RELU},
    {"conv residual relu odd", OP_CONV, 1, 5, 3, 9, .o = 13, .k = 3, .pad = 1,
     .form = C_RESIDUAL | C_RELU},

    {"dgrad 3x3 16-16", OP_CONV_DGRAD, 4, 32, 32, 16, .o = 16, .k = 3, .pad = 1},
    {"dgrad 3x3 s2 even", OP_CONV_DGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .stride = 2},
    {"dgrad 3x3 s2 odd", OP_CONV_DGRAD, 2, 9, 7, 16, .o = 32, .k = 3, .pad = 1, .stride = 2},
    {"dgrad 1x1 s2", OP_CONV_DGRAD, 2, 7, 9, 32, .o = 64, .k = 1, .stride = 2},
    {"dgrad 1x1", OP_CONV_DGRAD, 1, 6, 6, 64, .o = 16, .k = 1},
    {"dgrad 7x7 s2 p3 C=3", OP_CONV_DGRAD, 1, 15, 13, 3, .o = 16, .k = 7, .stride = 2, .pad = 3},
    {"dgrad C=1 O=1", OP_CONV_DGRAD, 1, 1, 1, 1, .o = 1, .k = 1},
    {"dgrad 5x5", OP_CONV_DGRAD, 2, 11, 6, 8, .o = 12, .k = 5, .pad = 2},
    {"dgrad groups 4", OP_CONV_DGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .groups = 4},
    {"dgrad depthwise s2", OP_CONV_DGRAD, 2, 9, 9, 24, .o = 24, .k = 3, .pad = 1, .stride = 2,
     .groups = 24},

    {"wgrad 3x3 16-16", OP_CONV_WGRAD, 4, 32, 32, 16, .o = 16, .k = 3, .pad = 1},
    {"wgrad 3x3 64-64", OP_CONV_WGRAD, 2, 8, 8, 64, .o = 64, .k = 3, .pad = 1},
    {"wgrad stem C=3", OP_CONV_WGRAD, 2, 16, 16, 3, .o = 16, .k = 3, .pad = 1},
    {"wgrad stem 3 of 8 channels", OP_CONV_WGRAD, 2, 9, 9, 8, .o = 16, .k = 3, .pad = 1,
     .form = C_PADDED},
    {"wgrad C=1 O=1", OP_CONV_WGRAD, 1, 1, 1, 1, .o = 1, .k = 1},
    {"wgrad 3x3 s2 odd", OP_CONV_WGRAD, 2, 9, 7, 16, .o = 32, .k = 3, .pad = 1, .stride = 2},
    {"wgrad 1x1", OP_CONV_WGRAD, 3, 6, 6, 32, .o = 24, .k = 1},
    {"wgrad 1x1 s2", OP_CONV_WGRAD, 2, 7, 9, 32, .o = 64, .k = 1, .stride = 2},
    {"wgrad 7x7 s2 p3", OP_CONV_WGRAD, 1, 15, 13, 3, .o = 16, .k = 7, .stride = 2, .pad = 3},
    {"wgrad 5x5", OP_CONV_WGRAD, 2, 11, 6, 8, .o = 12, .k = 5, .pad = 2},
    {"wgrad groups 4", OP_CONV_WGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .groups = 4},
    {"wgrad depthwise", OP_CONV_WGRAD, 2, 9, 9, 24, .o = 24, .k = 3, .pad = 1, .groups = 24},
    {"wgrad phase adds", OP_CONV_WGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .form = C_GRAD_ADD},
    {"wgrad 1x1 phase adds", OP_CONV_WGRAD, 2, 8, 8, 32, .o = 16, .k = 1, .form = C_GRAD_ADD},

    {"bias grad", OP_BIAS_GRAD, 3, 5, 7, .c = 20},
    {"bias grad of logits", OP_BIAS_GRAD, 64, 1, 1, .c = 100},
    {"bias grad C=1 adds", OP_BIAS_GRAD, 1, 3, 3, 1, .form = C_GRAD_ADD},

    {"bn_stats", OP_BN_STATS, 4, 16, 16, .c = 16},
    {"bn_stats rows", OP_BN_STATS, 5, 7, 3, 17, .rows = 3},
    {"bn_stats C=1 one pixel", OP_BN_STATS, 2, 1, 1, .c = 1},
    {"bn_stats 1-d", OP_BN_STATS, 8, 1, 1, 130, .rows = 7},
    {"bn_finalize", OP_BN_FINALIZE, 4, 8, 8, .c = 33},
    {"bn_finalize C=1", OP_BN_FINALIZE, 2, 1, 1, .c = 1},
    {"bn_running", OP_BN_RUNNING, 4, 8, 8, .c = 33},
    {"bn_infer", OP_BN_INFER, 1, 1, 1, .c = 33},
    {"bn_apply", OP_BN_APPLY, 4, 16, 16, .c = 16},
    {"bn_apply rows", OP_BN_APPLY, 5, 7, 3, 17, .rows = 2},
    {"bn_apply relu", OP_BN_APPLY, 2, 8, 8, 64, .form = C_RELU},
    {"bn_apply residual", OP_BN_APPLY, 2, 8, 8, 64, .form = C_RESIDUAL},
    {"bn_apply residual relu rows", OP_BN_APPLY, 3, 5, 5, 19, .rows = 2,
     .form = C_RESIDUAL | C_RELU},
    {"bn_apply C=1", OP_BN_APPLY, 1, 1, 1, 1, .form = C_RELU},
    {"bn_reduce", OP_BN_REDUCE, 4, 16, 16, .c = 16},
    {"bn_reduce rows", OP_BN_REDUCE, 5, 7, 3, 17, .rows = 3},
    {"bn_reduce mask", OP_BN_REDUCE, 2, 8, 8, 64, .form = C_MASK},
    {"bn_reduce mask dz", OP_BN_REDUCE, 2, 8, 8, 32, .form = C_MASK | C_DZ},
    {"bn_reduce dy2 mask dz rows", OP_BN_REDUCE, 4, 5, 3, 19, .rows = 3,
     .form = C_DY2 | C_MASK | C_DZ},
    {"bn_reduce C=1", OP_BN_REDUCE, 1, 1, 1, 1, .form = C_MASK | C_DZ},
    {"bn_dparam", OP_BN_DPARAM, 1, 1, 1, .c = 33},
    {"bn_dparam adds", OP_BN_DPARAM, 1, 1, 1, 16, .form = C_GRAD_ADD},
    {"bn_dx", OP_BN_DX, 4, 16, 16, .c = 16},
    {"bn_dx mask", OP_BN_DX, 2, 8, 8, 64, .form = C_MASK},
    {"bn_dx rows mask", OP_BN_DX, 5, 7, 3, 17, .rows = 3, .form = C_MASK},
    {"bn_dx C=1", OP_BN_DX, 2, 1, 1, .c = 1},
    {"bn_dx frozen", OP_BN_DX, 2, 8, 8, 16, .form = C_FROZEN},
    {"bn_dx frozen mask rows", OP_BN_DX, 3, 5, 5, 9, .rows = 2, .form = C_FROZEN | C_MASK},

    {"relu", OP_RELU, 2, 9, 5, .c = 17},
    {"relu_bwd", OP_RELU_BWD, 2, 9, 5, .c = 17},
    {"add", OP_ADD, 2, 9, 5, .c = 17},
    {"add relu", OP_ADD, 2, 8, 8, 32, .form = C_RELU},
    {"add one element", OP_ADD, 1, 1, 1, .c = 1},

    {"avgpool global 8", OP_AVGPOOL, 3, 8, 8, 64, .k = 8, .stride = 8},
    {"avgpool global 7", OP_AVGPOOL, 2, 7, 7, 33, .k = 7, .stride = 7},
    {"avgpool 2 s2", OP_AVGPOOL, 2, 9, 7, 16, .k = 2, .stride = 2},
    {"avgpool 3 s2 p1", OP_AVGPOOL, 2, 9, 7, 5, .k = 3, .stride = 2, .pad = 1},
    {"avgpool_bwd global 8", OP_AVGPOOL_BWD, 3, 8, 8, 64, .k = 8, .stride = 8},
    {"avgpool_bwd global 7", OP_AVGPOOL_BWD, 2, 7, 7, 33, .k = 7, .stride = 7},
    {"avgpool_bwd 2 s2", OP_AVGPOOL_BWD, 2, 9, 7, 16, .k = 2, .stride = 2},
    {"avgpool_bwd 3 s2 p1", OP_AVGPOOL_BWD, 2, 9, 7, 5, .k = 3, .stride = 2, .pad = 1},
    {"maxpool 2 s2", OP_MAXPOOL, 2, 8, 8, 32, .k = 2, .stride = 2},
    {"maxpool 3 s2 p1", OP_MAXPOOL, 2, 15, 13, 16, .k = 3, .stride = 2, .pad = 1},
    {"maxpool C=1 odd", OP_MAXPOOL, 1, 5, 3, 1, .k = 2, .stride = 2},
    {"maxpool_bwd 2 s2", OP_MAXPOOL_BWD, 2, 8, 8, 32, .k = 2, .stride = 2},
    {"maxpool_bwd 3 s2 p1", OP_MAXPOOL_BWD, 2, 15, 13, 16, .k = 3, .stride = 2, .pad = 1},
    {"maxpool_bwd 2 s2 odd", OP_MAXPOOL_BWD, 1, 5, 3, 1, .k = 2, .stride = 2},

    {"linear 64-100", OP_LINEAR, 16, 1, 1, 64, .o = 100, .form = C_BIAS},
    {"linear batch 1", OP_LINEAR, 1, 1, 1, 33, .o = 7, .form = C_BIAS},
    {"linear no bias", OP_LINEAR, 5, 1, 1, 128, .o = 1000},
    {"linear 1-1", OP_LINEAR, 2, 1, 1, 1, .o = 1, .form = C_BIAS},
    {"linear_dgrad", OP_LINEAR_DGRAD, 16, 1, 1, 64, .o = 100},
    {"linear_dgrad batch 1", OP_LINEAR_DGRAD, 1, 1, 1, 33, .o = 7},
    {"linear_wgrad", OP_LINEAR_WGRAD, 16, 1, 1, 64, .o = 100},
    {"linear_wgrad batch 1", OP_LINEAR_WGRAD, 1, 1, 1, 33, .o = 7},
    {"linear_wgrad adds", OP_LINEAR_WGRAD, 7, 1, 1, 20, .o = 10, .form = C_GRAD_ADD},

    {"cast to fp32", OP_CAST, 2, 3, 3, 17, .to = DT_F32},
    {"cast to bf16", OP_CAST, 2, 3, 3, 17, .to = DT_BF16},
    {"fold_bn", OP_FOLD_BN, 1, 1, 1, 16, .o = 24, .k = 3},
    {"fold_bn bias", OP_FOLD_BN, 1, 1, 1, 3, .o = 17, .k = 1, .form = C_BIAS},

    {"distill CE", OP_DISTILL, 16, 1, 1, 100, .distill = D_CE},
    {"distill KD", OP_DISTILL, 16, 1, 1, 100, .distill = D_KD},
    {"distill KD rows", OP_DISTILL, 9, 1, 1, 101, .rows = 6, .distill = D_KD},
    {"distill KD 2 classes", OP_DISTILL, 3, 1, 1, 2, .distill = D_KD},
    {"distill KD 1000 classes", OP_DISTILL, 4, 1, 1, 1000, .distill = D_KD},
    {"distill DKD", OP_DISTILL, 5, 1, 1, 100, .distill = D_DKD},
    {"distill NKD", OP_DISTILL, 5, 1, 1, 100, .distill = D_NKD},
    {"distill energy bands", OP_DISTILL, 12, 1, 1, 100, .distill = D_ENERGY},
    {"distill z-score top-k", OP_DISTILL, 6, 1, 1, 37, .distill = D_ZSCORE_TOPK},
    {"distill targets", OP_DISTILL, 12, 1, 1, 50, .rows = 11, .distill = D_TARGETS},
    {"distill teacher statistics", OP_DISTILL, 6, 1, 1, 100, .distill = D_TEACHER},

    {"grad_norm", OP_GRAD_NORM, 1, 1, 1, 16, .o = 24, .k = 3},
    {"sgd", OP_SGD, 1, 1, 1, 16, .o = 24, .k = 3},
    {"sgd clip, all decayed", OP_SGD, 1, 1, 1, 5, .o = 7, .k = 3, .form = C_STATS | C_DECAY_ALL},
};

enum { OP_CASE_COUNT = sizeof op_cases / sizeof op_cases[0], CASE_SPARSE_K = 3 };

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
                           .relu = (c->form & C_RELU) != 0};
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
    if (c->op == OP_CONV) {
        const int in[4] = {case_in(b, 0, g->act, c->h, c->w, c->c), graph_param(g, weight),
                           c->form & C_BIAS ? graph_param(g, params_find(&b->net->params, "bias"))
                                            : -1,
                           c->form & C_RESIDUAL ? case_in(b, 3, g->act, oh, ow, c->o) : -1};
        case_node(b, 4, in, 1, (int[]){case_out(b, 0, g->act, oh, ow, c->o)})->attr.conv = attr;
    } else if (c->op == OP_CONV_DGRAD) {
        const int in[2] = {case_in(b, 0, g->act, oh, ow, c->o), graph_param(g, weight)};
        case_node(b, 2, in, 1, (int[]){case_out(b, 0, g->act, c->h, c->w, c->c)})->attr.conv = attr;
    } else {
        const int in[2] = {case_in(b, 0, g->act, c->h, c->w, c->c),
                           case_in(b, 1, g->act, oh, ow, c->o)};
        case_node(b, 2, in, 1, (int[]){graph_param_grad(g, weight)})->attr.conv = attr;
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
    int in[6] = {-1, -1, -1, -1, -1, -1};
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
        n_in = 4;
        break;
    case OP_BN_REDUCE:
        in[0] = case_in(b, 0, act, c->h, c->w, c->c);
        in[1] = case_in(b, 1, act, c->h, c->w, c->c);
        in[2] = case_in_vector(b, 2, g->math, 4 * c->c);
        in[3] = rows;
        in[4] = c->form & C_DY2 ? case_in(b, 4, act, c->h, c->w, c->c) : -1;
        in[5] = c->form & C_MASK ? case_in(b, 5, act, c->h, c->w, c->c) : -1;
        out[0] = case_out_vector(b, 0, 1, 1, 1, 2 * c->c + 1);
        out[1] = c->form & C_DZ ? case_out(b, 1, act, c->h, c->w, c->c) : -1;
        n_in = 6;
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
        out[0] = case_out(b, 0, act, c->h, c->w, c->c);
        n_in = 6;
        break;
    }
    const BnAttr attr = {.eps = 1e-5F,
                         .momentum = 0.1F,
                         .relu = (c->form & C_RELU) != 0,
                         .frozen = (c->form & C_FROZEN) != 0};
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
    const bool stats = (b->c->form & C_STATS) != 0;
    const int in[2] = {case_in_vector(b, 0, DT_F32, HYPER_COUNT),
                       stats ? case_in_vector(b, 1, g->math, 2) : -1};
    case_node(b, 2, in, 0, NULL)->attr.sgd.decay_norm_bias = (b->c->form & C_DECAY_ALL) != 0;
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
        case_optimizer(&b);
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
