/* A network, its loss and its gradient as a flat list of nodes over tensors. No pointers: everything is an index, so a
 * graph can be copied, rewritten and checked as data. All functions here are pure: no backend, no I/O.
 *
 * Life cycle: graph_init; builders append (a node's inputs always exist before it, so node order is a valid execution
 * order); graph_backward appends the gradient (gradient.h); fusion_apply rewrites (fusion.h); plan_build places (plan.h).
 *
 * Shapes are N H W C everywhere. `batched` tensors have n = the batch size and shrink with the rung of the batch-size
 * ladder (graph_rebatch). Vectors are [1,1,1,c].
 *
 * Batch norm is small nodes, so that synchronised statistics are one all-reduce of 2C+1 sums and every fusion can fall
 * back to its parts. BN "sums" are [1,1,1,2C+1]: sum, sum of squares (backward: sum dz, sum dz*xhat), count;
 * BN "coef" are [1,1,1,4C]: mean, 1/sqrt(var+eps), scale = gamma*invstd, shift = beta - mean*scale. Both are F32 (F64 in
 * double graphs) whatever the activations' type. Variance is biased in normalisation, unbiased in running_var.
 *
 * ReLU keeps NaN in every form (relu(NaN) = NaN). One exception: convolutions that the CPU backend runs in oneDNN with
 * a fused ReLU, whose eltwise turns NaN into 0. Fusion makes those only where batch norm is folded (a teacher, evaluation),
 * and weights are finite when they are loaded (models/load.h). */
#ifndef CUDISTILL_GRAPH_GRAPH_H
#define CUDISTILL_GRAPH_GRAPH_H

#include "graph/tensor.h"
#include "kernels/distill_spec.h"

enum { NODE_MAX_IN = 16, NODE_MAX_OUT = 4, NAME_MAX_LEN = PARAM_NAME_MAX };

/* Inputs in slot order; [x] = optional, -1 when absent. "F" marks forms that only fusion makes. */
typedef enum {
    OP_IMAGE,      /* (u8 [n,h,w,3]) -> y [n,h,w,c>=3]: (u8/255 - mean)/std, channels 3.. zero */
    OP_CONV,       /* (x, w, [bias], [residual] F, [coef] F, [rows_valid] F) -> (y, [sums] F);
                       attr.conv.relu F: y = relu(conv + bias + residual). With coef the convolution reads
                       x' = what BN_APPLY of (x, coef, -, rows_valid) with ReLU where attr.conv.pre_relu would store;
                       sums: what BN_STATS of (y, rows_valid) gives (neither bias, residual nor relu then) */
    OP_CONV_DGRAD, /* (dy, w, [x] F, [coef] F, [rows_valid] F) -> (dx, [sums] F). With x, coef, rows_valid and sums: what
                       BN_REDUCE of (dx, x, coef, rows_valid) with attr.bn.remask gives: output 0 is its dz */
    OP_CONV_WGRAD, /* (x, dy, [coef] F, [rows_valid] F) -> dw (GRAD); with coef: of x' as in OP_CONV */
    OP_BIAS_GRAD,   /* (dy) -> db (GRAD): sum over n,h,w of the valid rows */
    OP_BN_STATS,    /* (x, rows_valid) -> sums, of the first rows_valid images; attr.bn */
    OP_BN_FINALIZE, /* (sums, gamma, beta) -> coef */
    OP_BN_RUNNING,  /* (sums, running_mean, running_var) -> (running_mean, running_var), in place;
                       a channel whose batch mean or variance is not finite keeps both, as do all when there are no rows */
    OP_BN_INFER,    /* (gamma, beta, running_mean, running_var) -> coef */
    OP_BN_APPLY, /* (x, coef, [residual] F, [rows_valid]) -> (y, [mask] F); y = x*scale + shift (+ residual)
                       (relu if attr.bn.relu F); rows beyond rows_valid become zero. mask: U8 [n,h,w,(c+7)/8], bit c%8
                       of byte c/8 set where the stored y > 0 */
    OP_BN_REDUCE, /* (dy, x, coef, rows_valid, [dy2] F, [y] F, [mask] F) -> (sums, [dz] F);
                       dz = (dy + dy2) * [y > 0] where y or mask is given or attr.bn.remask F is set (y = x*scale + shift,
                       recomputed and rounded as BN_APPLY stores it), zero beyond rows_valid, rounded to
                       its type before it is summed where it is stored; sums over the valid rows */
    OP_BN_DPARAM, /* (sums) -> (dgamma, dbeta) (GRAD) */
    OP_BN_DX, /* (dz, x, coef, sums, rows_valid, [y] F, [mask] F) -> dx = scale*(dz' - sum_dz/count - xhat*sum_dzx/count),
                       dz' = dz*[y>0] where y or mask is given or attr.bn.remask F is set; zero beyond rows_valid. attr.bn.frozen: dx = scale*dz', no sums */
    OP_RELU,  /* (x) -> y */
    OP_RELU_BWD,     /* (dy, y) -> dx = dy*[y>0] */
    OP_ADD,          /* (a, b) -> y (relu if attr.bn.relu F) */
    OP_AVGPOOL,      /* (x) -> y; attr.pool; divides by kernel^2 (count_include_pad) */
    OP_AVGPOOL_BWD,  /* (dy) -> dx */
    OP_MAXPOOL,      /* (x) -> (y, index u8: position in the window, first of ties) */
    OP_MAXPOOL_BWD,  /* (dy, index) -> dx */
    OP_LINEAR,       /* (x [n,1,1,i], w, [bias]) -> y [n,1,1,o] */
    OP_LINEAR_DGRAD, /* (dy, w) -> dx */
    OP_LINEAR_WGRAD, /* (x, dy) -> dw (GRAD) */
    OP_CAST,         /* (x) -> y of another dtype */
    OP_FOLD_BN, /* (w, [bias], gamma, beta, running_mean, running_var) -> (w', b'): w*scale[o], (bias-mean)*scale+beta */
    OP_DISTILL, /* distill_spec.h */
    OP_GRAD_NORM, /* () -> stats [1,1,1,2], F32 (F64 in double graphs): sum of squares of ARENA_GRAD,
                     count of non-finite gradients; fixed order */
    OP_SGD, /* (hyper F32 [1,1,1,HYPER_COUNT], [stats], [loss_scale]) : updates ARENA_WEIGHT and ARENA_MOMENT from
                       ARENA_GRAD */
    OP_LOSS_SCALE, /* (stats, loss_scale) -> loss_scale in place, a shared tensor F32 [1,1,1,2]: {scale, good steps}.
                       stats[1] > 0: scale *= backoff (at least 1), good = 0; else good += 1 and, at `interval`, scale *=
                       growth (at most 2^24), good = 0. PyTorch's GradScaler. OP_DISTILL multiplies by scale, OP_SGD divides */
    OP_GATHER, /* (table [R,1,1,C] not batched, index I32 [n]) -> y [n,1,1,C] of the table's dtype: y_i = table[index_i] */
    OP_VIEWS, /* (set_images U8 [N,h,w,3], set_labels I32 [N], order I32 [N], cursor I32 [1,1,1,4], rows_valid; none batched)
                       -> (images U8 [n,h,w,3], labels I32 [n], ids I32 [n]): row i is the view of sample
                       order[position + i] that augment_view (data/augment.h) draws; beyond rows_valid all zero.
                       cursor = {epoch, position, seed low, seed high}; attr.views */
    OP_COUNT
} Op;

/* Values of OP_SGD read from device memory, PyTorch's form: g' = g*GRAD_SCALE*clip + WEIGHT_DECAY*w (where the segment
 * decays); v = MOMENTUM*v + (1-DAMPENING)*g' (v = g' when FIRST is not 0); w -= LR*(NESTEROV ? g' + MOMENTUM*v : v).
 * clip = min(1, CLIP_NORM/(norm+1e-6)) when CLIP_NORM > 0, norm = GRAD_SCALE*sqrt(stats[0]). When stats[1] > 0, or
 * SKIP_NORM > 0 and norm > SKIP_NORM, nothing is written: the step is skipped. Where loss_scale is given, GRAD_SCALE stands for GRAD_SCALE/loss_scale[0]. */
enum {
    HYPER_LR,
    HYPER_MOMENTUM,
    HYPER_DAMPENING,
    HYPER_NESTEROV,
    HYPER_WEIGHT_DECAY,
    HYPER_GRAD_SCALE,
    HYPER_CLIP_NORM,
    HYPER_FIRST,
    HYPER_SKIP_NORM,
    HYPER_COUNT
};

typedef enum {
    STAGE_STEP,   /* runs with every batch */
    STAGE_WEIGHTS /* depends on parameters alone (folding, BN_INFER): runs when they have changed */
} Stage;

typedef struct {
    int kernel_h, kernel_w, stride, pad, groups;
    bool relu, pre_relu;
} ConvAttr;
typedef struct {
    float eps, momentum; /* momentum as PyTorch's: new = (1-m)*old + m*batch */
    bool relu, frozen, remask;
} BnAttr;
typedef struct {
    int kernel, stride, pad;
} PoolAttr;
typedef struct {
    float mean[3], std[3];
} ImageAttr;
typedef struct {
    bool decay_norm_bias; /* false: BN parameters and biases are not decayed */
} SgdAttr;
typedef struct {
    float growth, backoff;
    int interval; /* steps */
} LossScaleAttr;
typedef struct {
    int pad;
    bool flip;
} ViewsAttr;

typedef struct {
    Op op;
    Stage stage; /* set by graph_assign_stages (plan_build calls it) */
    int queue;   /* execution queue; g->queue when the node was added */
    int n_in, n_out;
    int in[NODE_MAX_IN], out[NODE_MAX_OUT]; /* tensor ids, -1 = absent */
    bool accumulate;                        /* writes to GRAD tensors add: a parameter used twice */
    bool backward;                          /* appended by graph_backward */
    union {
        ConvAttr conv;
        BnAttr bn;
        PoolAttr pool;
        ImageAttr image;
        SgdAttr sgd;
        LossScaleAttr loss_scale;
        ViewsAttr views;
        int distill; /* index into Graph.specs */
    } attr;
    char name[NAME_MAX_LEN];
} Node;

typedef enum {
    TENSOR_INPUT, /* written by the host, ARENA_IO */
    TENSOR_PARAM, /* parameter or running statistic `param`, ARENA_WEIGHT | FROZEN | STATE */
    TENSOR_GRAD,  /* gradient of `param`, ARENA_GRAD at the parameter's element offset */
    TENSOR_SHARED, /* ARENA_SHARED at byte offset `shared`: one address for all graphs of a run, kept between runs */
    TENSOR_ACT /* everything else */
} TensorKind;

typedef struct {
    char name[NAME_MAX_LEN];
    TensorKind kind;
    DType dtype;
    int n, h, w, c;
    bool batched;
    bool
        output; /* result or tap: own memory in ARENA_PERSIST, no fusion hides it, no folding across it */
    int param;    /* index into Params, or -1 */
    int shared;   /* TENSOR_SHARED: bytes from the arena's base */
    int producer; /* node, or -1 */
} Tensor;

typedef struct {
    Tensor *tensors;
    int n_tensors;
    size_t tensor_capacity;
    Node *nodes;
    int n_nodes;
    size_t node_capacity;
    DistillSpec *specs;
    int n_specs;
    size_t spec_capacity;
    int batch;  /* n of batched tensors */
    DType act;  /* activations */
    DType math; /* statistics, logits, losses, parameters: F32, or F64 in double graphs */
    int queue;  /* given to nodes that are added */
    const Params *params;
} Graph;

const char *op_name(Op op);
/* The input slot whose memory output 0 (`out` slot) may take over when that input dies at this node; -1 = none.
 * Elementwise ops only: each output element depends on the same element of that input. */
int op_inplace_input(
    Op op, int out_slot,
    int candidate); /* candidate = 0,1,..: next possible input slot, -1 = no more */
/* Outputs that are the same tensor as an input, always (BN_RUNNING). */
int op_alias_input(Op op, int out_slot); /* -1 = none */

/* act: F32, BF16, F16 or F64; math becomes F64 when act is F64, else F32. */
void graph_init(Graph *g, const Params *params, int batch, DType act);
void graph_free(Graph *g);
Graph graph_copy(const Graph *g);
/* The same graph for another batch size: every batched tensor gets n = batch. Ids stay. */
Graph graph_rebatch(const Graph *g, int batch);
size_t tensor_elems(const Tensor *t);
size_t tensor_bytes(const Tensor *t);
int graph_find_tensor(const Graph *g, const char *name); /* -1 when absent */
void graph_assign_stages(Graph *g);
/* NULL when every node's inputs precede it, shapes, dtypes and attributes agree; else what is wrong (caller frees). */
char *graph_validate(const Graph *g);
/* Marks a tensor as result or tap. Call before fusion. */
void graph_output(Graph *g, int tensor, const char *name /* NULL keeps the name */);

/* --- builders; each returns the id of the (first) output tensor; shapes are inferred and CHECKed --- */
int graph_input(Graph *g, const char *name, DType dtype, int n, int h, int w, int c, bool batched);
int graph_shared(Graph *g, const char *name, DType dtype, int c, int offset_bytes); /* [1,1,1,c] */
int graph_param(Graph *g,
                int param); /* one tensor per parameter; repeated calls give the same id */
int graph_param_grad(Graph *g, int param); /* likewise */
/* Raw append: shape of outputs given. Used by gradient and fusion. */
int graph_tensor(Graph *g, const char *name, TensorKind kind, DType dtype, int n, int h, int w,
                 int c, bool batched);
Node *graph_node(Graph *g, Op op, const char *name, int n_in, const int *in, int n_out,
                 const int *out);

/* Common per-step scalars, created on first use: rows_valid and scale, F32 [1] inputs of those names. */
int graph_rows_valid(Graph *g);
int graph_scale(Graph *g);

int graph_image(Graph *g, const char *name, int u8_images, int channels, const float mean[3],
                const float std[3]);
int graph_conv(Graph *g, const char *name, int x, int w_param, int bias_param /* -1 */, int stride,
               int pad, int groups);
typedef enum {
    BN_TRAIN,
    BN_FROZEN_STATS /* batch statistics, running ones not updated */,
    BN_EVAL
} BnMode;
/* gamma, beta, running mean and variance are consecutive: bn_param, +1, +2, +3. */
int graph_bn(Graph *g, const char *name, int x, int bn_param, BnMode mode, float eps,
             float momentum);
int graph_relu(Graph *g, const char *name, int x);
int graph_add(Graph *g, const char *name, int a, int b);
int graph_avgpool(Graph *g, const char *name, int x, int kernel, int stride, int pad);
int graph_maxpool(Graph *g, const char *name, int x, int kernel, int stride, int pad);
/* y has dtype g->math: logits are never rounded to 16 bits. */
int graph_linear(Graph *g, const char *name, int x, int w_param, int bias_param);
int graph_cast(Graph *g, const char *name, int x, DType dtype);
int graph_gather(Graph *g, const char *name, int table, int index);
/* out[3]: images, labels, ids. */
void graph_views(Graph *g, const char *name, int set_images, int set_labels, int order, int cursor,
                 ViewsAttr attr, int out[3]);
/* in[]: DISTILL_IN_* ids (rows_valid, scale may be -1: the shared ones are used unless statistics_only). Returns the node
 * index; outputs are nodes[i].out[DISTILL_OUT_*], all marked as outputs except dz (absent when statistics_only). */
int graph_distill(Graph *g, const char *name, const DistillSpec *spec,
                  const int in[DISTILL_IN_COUNT]);

#endif
