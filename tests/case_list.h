/* The list behind cases.h: what each op case is. */
#ifndef CUDISTILL_TESTS_CASE_LIST_H
#define CUDISTILL_TESTS_CASE_LIST_H

#include "graph/graph.h"

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
    C_PADDED = 1024,   /* convolution of an image with padding channels: c of them, 3 real */
    /* Forms that only fusion makes and a backend need not take. */
    C_AFFINE = 2048,   /* CONV, WGRAD: a batch norm before x, */
    C_PRE_RELU = 4096, /* with its ReLU */
    C_SUMS = 8192,     /* CONV: statistics of y; DGRAD: mask and sums of a batch norm's gradient */
    C_BITS = 16384,    /* BN_APPLY: writes a bit mask; BN_REDUCE, BN_DX: read one */
    C_REMASK = 32768,  /* BN_REDUCE, BN_DX: recompute the mask */
    C_OPTIONAL = C_AFFINE | C_PRE_RELU | C_SUMS | C_BITS | C_REMASK,
    C_LOSS_SCALE = 65536, /* SGD, DISTILL: the loss is scaled */
    C_OVERFLOW = 131072   /* LOSS_SCALE: gradients not finite; SGD: a limit below the norm */
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
/* GATHER: n rows of c from a table of o. VIEWS: n of a set of o images, flipped where k. LOSS_SCALE: scale 2^w after k good
 * steps, interval o. */

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

    {"conv sums", OP_CONV, 2, 8, 8, 16, .o = 16, .k = 3, .pad = 1, .form = C_SUMS},
    {"conv sums rows odd", OP_CONV, 3, 7, 5, 9, .o = 13, .k = 3, .pad = 1, .stride = 2, .rows = 2,
     .form = C_SUMS},
    {"conv sums stem 3 of 4 channels", OP_CONV, 2, 9, 9, 4, .o = 16, .k = 3, .pad = 1,
     .form = C_PADDED | C_SUMS},
    {"conv affine rows", OP_CONV, 3, 7, 5, 16, .o = 24, .k = 3, .pad = 1, .stride = 2, .rows = 2,
     .form = C_AFFINE},
    {"conv affine relu", OP_CONV, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1,
     .form = C_AFFINE | C_PRE_RELU},
    {"conv affine relu depthwise", OP_CONV, 2, 7, 7, 24, .o = 24, .k = 3, .pad = 1, .groups = 24,
     .form = C_AFFINE | C_PRE_RELU},
    {"conv affine relu residual", OP_CONV, 2, 8, 8, 16, .o = 16, .k = 3, .pad = 1,
     .form = C_AFFINE | C_PRE_RELU | C_RESIDUAL},
    {"conv affine relu sums 1x1 rows", OP_CONV, 3, 6, 6, 64, .o = 16, .k = 1, .rows = 2,
     .form = C_AFFINE | C_PRE_RELU | C_SUMS},
    {"conv affine relu sums", OP_CONV, 2, 8, 8, 32, .o = 32, .k = 3, .pad = 1,
     .form = C_AFFINE | C_PRE_RELU | C_SUMS},

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

    {"dgrad bn", OP_CONV_DGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1, .form = C_SUMS},
    {"dgrad bn 1x1 rows", OP_CONV_DGRAD, 3, 6, 6, 64, .o = 16, .k = 1, .rows = 2, .form = C_SUMS},
    {"dgrad bn 3x3 s2 odd rows", OP_CONV_DGRAD, 3, 9, 7, 17, .o = 19, .k = 3, .pad = 1, .stride = 2,
     .rows = 1, .form = C_SUMS},

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
    {"wgrad affine rows", OP_CONV_WGRAD, 3, 7, 5, 16, .o = 24, .k = 3, .pad = 1, .stride = 2,
     .rows = 2, .form = C_AFFINE},
    {"wgrad affine relu", OP_CONV_WGRAD, 2, 8, 8, 16, .o = 32, .k = 3, .pad = 1,
     .form = C_AFFINE | C_PRE_RELU},
    {"wgrad affine relu 1x1 adds", OP_CONV_WGRAD, 2, 6, 6, 64, .o = 16, .k = 1,
     .form = C_AFFINE | C_PRE_RELU | C_GRAD_ADD},

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
    {"bn_apply relu bits", OP_BN_APPLY, 2, 8, 8, 64, .form = C_RELU | C_BITS},
    {"bn_apply residual relu bits rows", OP_BN_APPLY, 3, 5, 5, 19, .rows = 2,
     .form = C_RESIDUAL | C_RELU | C_BITS},
    {"bn_apply relu bits C=1", OP_BN_APPLY, 2, 3, 3, 1, .form = C_RELU | C_BITS},
    {"bn_reduce", OP_BN_REDUCE, 4, 16, 16, .c = 16},
    {"bn_reduce rows", OP_BN_REDUCE, 5, 7, 3, 17, .rows = 3},
    {"bn_reduce mask", OP_BN_REDUCE, 2, 8, 8, 64, .form = C_MASK},
    {"bn_reduce mask dz", OP_BN_REDUCE, 2, 8, 8, 32, .form = C_MASK | C_DZ},
    {"bn_reduce dy2 mask dz rows", OP_BN_REDUCE, 4, 5, 3, 19, .rows = 3,
     .form = C_DY2 | C_MASK | C_DZ},
    {"bn_reduce C=1", OP_BN_REDUCE, 1, 1, 1, 1, .form = C_MASK | C_DZ},
    {"bn_reduce bits", OP_BN_REDUCE, 2, 8, 8, 64, .form = C_BITS},
    {"bn_reduce dy2 bits dz rows", OP_BN_REDUCE, 4, 5, 3, 19, .rows = 3,
     .form = C_DY2 | C_BITS | C_DZ},
    {"bn_reduce remask", OP_BN_REDUCE, 2, 8, 8, 64, .form = C_REMASK},
    {"bn_reduce remask dz rows", OP_BN_REDUCE, 4, 5, 3, 19, .rows = 3, .form = C_REMASK | C_DZ},
    {"bn_dparam", OP_BN_DPARAM, 1, 1, 1, .c = 33},
    {"bn_dparam adds", OP_BN_DPARAM, 1, 1, 1, 16, .form = C_GRAD_ADD},
    {"bn_dx", OP_BN_DX, 4, 16, 16, .c = 16},
    {"bn_dx mask", OP_BN_DX, 2, 8, 8, 64, .form = C_MASK},
    {"bn_dx rows mask", OP_BN_DX, 5, 7, 3, 17, .rows = 3, .form = C_MASK},
    {"bn_dx C=1", OP_BN_DX, 2, 1, 1, .c = 1},
    {"bn_dx frozen", OP_BN_DX, 2, 8, 8, 16, .form = C_FROZEN},
    {"bn_dx frozen mask rows", OP_BN_DX, 3, 5, 5, 9, .rows = 2, .form = C_FROZEN | C_MASK},
    {"bn_dx bits", OP_BN_DX, 2, 8, 8, 64, .form = C_BITS},
    {"bn_dx bits rows", OP_BN_DX, 5, 7, 3, 17, .rows = 3, .form = C_BITS},
    {"bn_dx remask", OP_BN_DX, 2, 8, 8, 64, .form = C_REMASK},
    {"bn_dx remask rows", OP_BN_DX, 5, 7, 3, 17, .rows = 3, .form = C_REMASK},
    {"bn_dx frozen bits", OP_BN_DX, 3, 5, 5, 9, .rows = 2, .form = C_FROZEN | C_BITS},

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
    {"distill KD loss scale", OP_DISTILL, 9, 1, 1, 100, .rows = 6, .distill = D_KD,
     .form = C_LOSS_SCALE},

    {"grad_norm", OP_GRAD_NORM, 1, 1, 1, 16, .o = 24, .k = 3},
    {"sgd", OP_SGD, 1, 1, 1, 16, .o = 24, .k = 3},
    {"sgd clip, all decayed", OP_SGD, 1, 1, 1, 5, .o = 7, .k = 3, .form = C_STATS | C_DECAY_ALL},
    {"sgd skips a long gradient", OP_SGD, 1, 1, 1, 16, .o = 24, .k = 3,
     .form = C_STATS | C_OVERFLOW},
    {"sgd loss scale", OP_SGD, 1, 1, 1, 5, .o = 7, .k = 3, .form = C_LOSS_SCALE},
    {"sgd clip, loss scale", OP_SGD, 1, 1, 1, 16, .o = 24, .k = 3, .form = C_STATS | C_LOSS_SCALE},
    {"sgd limit of the unscaled norm", OP_SGD, 1, 1, 1, 5, .o = 7, .k = 3,
     .form = C_STATS | C_LOSS_SCALE | C_OVERFLOW},
    {"loss_scale counts", OP_LOSS_SCALE, 1, 1, 10, 1, .o = 4, .k = 2},
    {"loss_scale grows", OP_LOSS_SCALE, 1, 1, 10, 1, .o = 4, .k = 3},
    {"loss_scale has a top", OP_LOSS_SCALE, 1, 1, 24, 1, .o = 4, .k = 3},
    {"loss_scale backs off", OP_LOSS_SCALE, 1, 1, 10, 1, .o = 4, .k = 3, .form = C_OVERFLOW},
    {"loss_scale has a bottom", OP_LOSS_SCALE, 1, 1, 0, 1, .o = 4, .k = 3, .form = C_OVERFLOW},

    {"gather", OP_GATHER, 9, 1, 1, .c = 100, .o = 20},
    {"gather C=1 of one row", OP_GATHER, 3, 1, 1, 1, .o = 1},
    {"views", OP_VIEWS, 6, 8, 8, 3, .o = 10, .k = 1, .pad = 4},
    {"views rows odd, no flip", OP_VIEWS, 5, 7, 5, 3, .o = 9, .pad = 1, .rows = 3},
    {"views as they are", OP_VIEWS, 3, 4, 6, 3, .o = 5},
};

enum { OP_CASE_COUNT = sizeof op_cases / sizeof op_cases[0], CASE_SPARSE_K = 3 };

#endif
