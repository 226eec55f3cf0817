/* Random networks for tests of the planner, fusion, gradients and backends: a directed acyclic
 * graph of convolutions, batch norms, ReLUs, additions, pools and a linear head, with residual
 * branches, shared weights, several queues, taps and (when asked for) a loss, its gradient and an
 * optimizer step. A function of (seed, options) alone.
 *
 * Inputs of the graph:   "x"           activations [batch, size, size, 3], graph->act (with
 * options.images: u8 images "images" instead)   "labels"      I32 [batch,1,1,1], only with
 * options.backward; valid values 0 .. RANDOM_GRAPH_CLASSES-1   "rows_valid"  F32 [1], when
 * something needs it (every graph with batch norm in training or a loss)   "scale"       F32 [1],
 * only with options.backward   "hyper"       F32 [HYPER_COUNT], only with options.sgd Outputs:
 * "logits" [batch,1,1,classes] in graph->math; random taps (find them by Tensor.output); with
 * options.backward the rows and sums of the loss and all parameter gradients (ARENA_GRAD).
 *
 * params must be zeroed; the maker registers parameters there (with initial values that keep
 * activations near 1) and calls params_finish. The caller keeps it until the graph is freed, then
 * frees both. */
#ifndef CUDISTILL_TESTS_RANDOM_GRAPH_H
#define CUDISTILL_TESTS_RANDOM_GRAPH_H

#include "base/err.h"
#include "base/rng.h"
#include "graph/gradient.h"
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    DType act;       /* element type of activations; F32 when zeroed */
    int batch;       /* 0 = drawn, 2..5 */
    int size;        /* height and width of x; 0 = drawn, 4..8 */
    int ops;         /* rough number of operations; 0 = drawn, 3..24 */
    int queues;      /* nodes are spread over this many queues; 0 and 1 = all on queue 0 */
    bool images;     /* begin with u8 images and OP_IMAGE */
    bool backward;   /* loss and gradient */
    bool sgd;        /* OP_GRAD_NORM and OP_SGD behind it (needs backward) */
    bool loss_scale; /* the shared tensor "loss_scale" scales the loss; updated behind sgd */
    /* Every batch norm is BN_EVAL; else the mode is drawn per batch norm, mostly BN_TRAIN. */
    bool inference;
    bool no_taps; /* mark no tensors besides the logits as outputs */
} RandomGraphOptions;

enum { RANDOM_GRAPH_CLASSES = 7, RANDOM_GRAPH_POOL = 64 };

typedef struct {
    Graph g;
    Params *params;
    RandomGraphOptions options;
    Rng rng;
    int pool[RANDOM_GRAPH_POOL]; /* activations that later nodes may read */
    int n_pool;
    int serial;
} RandomGraph;

static inline int random_graph_below(RandomGraph *r, int bound)
{
    return (int)rng_below(&r->rng, (uint32_t)bound);
}

static inline bool random_graph_chance(RandomGraph *r, int one_in)
{
    return random_graph_below(r, one_in) == 0;
}

static inline const char *random_graph_name(RandomGraph *r, const char *kind,
                                            char out[NAME_MAX_LEN])
{
    (void)snprintf(out, NAME_MAX_LEN, "%s%d", kind, r->serial++);
    return out;
}

static inline void random_graph_push(RandomGraph *r, int tensor)
{
    if (r->n_pool < RANDOM_GRAPH_POOL) {
        r->pool[r->n_pool++] = tensor;
    } else {
        r->pool[random_graph_below(r, RANDOM_GRAPH_POOL)] = tensor;
    }
}

/* Mostly a recent tensor, so that graphs grow deep; sometimes any. */
static inline int random_graph_pick(RandomGraph *r)
{
    const int recent = r->n_pool < 3 ? r->n_pool : 3;
    return random_graph_chance(r, 4) ? r->pool[random_graph_below(r, r->n_pool)]
                                     : r->pool[r->n_pool - 1 - random_graph_below(r, recent)];
}

static inline int random_graph_conv(RandomGraph *r, int x, int out_c)
{
    char name[NAME_MAX_LEN];
    char part[NAME_MAX_LEN + 16];
    const Tensor in = r->g.tensors[x];
    const int kernel = random_graph_chance(r, 3) ? 1 : 3;
    const int stride = in.h >= 4 && random_graph_chance(r, 4) ? 2 : 1;
    const int groups = in.c % 2 == 0 && out_c % 2 == 0 && random_graph_chance(r, 5) ? 2 : 1;
    const bool bias = random_graph_chance(r, 3);
    for (int i = 0; i < r->params->count && random_graph_chance(r, 3); i++) {
        const Param *p = &r->params->items[i]; /* a weight used twice: its gradients add */
        if (p->role == ROLE_CONV_WEIGHT && p->shape[1] == in.c && !bias) {
            return graph_conv(&r->g, random_graph_name(r, "conv_shared", name), x, i, -1, 1,
                              p->shape[2] / 2, 1);
        }
    }
    random_graph_name(r, "conv", name);
    const bool trainable = !random_graph_chance(r, 6);
    const int shape[4] = {out_c, in.c / groups, kernel, kernel};
    (void)snprintf(part, sizeof part, "%s.weight", name);
    const int w = params_add(r->params, part, ROLE_CONV_WEIGHT, 4, shape, trainable, INIT_NORMAL,
                             sqrt(2.0 / (shape[1] * kernel * kernel)));
    int b = -1;
    if (bias) {
        (void)snprintf(part, sizeof part, "%s.bias", name);
        b = params_add(r->params, part, ROLE_BIAS, 1, &out_c, trainable, INIT_NORMAL, 0.1);
    }
    return graph_conv(&r->g, name, x, w, b, stride, kernel / 2, groups);
}

static inline int random_graph_bn(RandomGraph *r, int x)
{
    char name[NAME_MAX_LEN];
    char part[NAME_MAX_LEN + 16];
    const int c = r->g.tensors[x].c;
    BnMode mode = BN_TRAIN;
    if (r->options.inference || random_graph_chance(r, 6)) {
        mode = BN_EVAL;
    } else if (random_graph_chance(r, 6)) {
        mode = BN_FROZEN_STATS;
    }
    for (int i = 0; i < r->params->count && random_graph_chance(r, 6); i++) {
        if (r->params->items[i].role == ROLE_BN_WEIGHT && r->params->items[i].shape[0] == c) {
            return graph_bn(&r->g, random_graph_name(r, "bn_shared", name), x, i, mode, 1e-5f,
                            0.1f);
        }
    }
    random_graph_name(r, "bn", name);
    const bool trainable = !random_graph_chance(r, 6);
    static const struct {
        const char *suffix;
        ParamRole role;
        InitKind init;
        double init_scale;
    } parts[4] = {{"weight", ROLE_BN_WEIGHT, INIT_NORMAL, 1.0},
                  {"bias", ROLE_BN_BIAS, INIT_NORMAL, 0.2},
                  {"running_mean", ROLE_RUNNING_MEAN, INIT_NORMAL, 0.2},
                  {"running_var", ROLE_RUNNING_VAR, INIT_ONE, 0.0}};
    const int first = r->params->count;
    for (int i = 0; i < 4; i++) {
        (void)snprintf(part, sizeof part, "%s.%s", name, parts[i].suffix);
        params_add(r->params, part, parts[i].role, 1, &c, trainable, parts[i].init,
                   parts[i].init_scale);
    }
    return graph_bn(&r->g, name, x, first, mode, 1e-5f, 0.1f);
}

/* Another tensor of the same shape and type, or -1. */
static inline int random_graph_partner(RandomGraph *r, int x)
{
    const Tensor a = r->g.tensors[x];
    const int start = random_graph_below(r, r->n_pool);
    for (int i = 0; i < r->n_pool; i++) {
        const int id = r->pool[(start + i) % r->n_pool];
        const Tensor *b = &r->g.tensors[id];
        if ((id != x || random_graph_chance(r, 8)) && a.h == b->h && a.w == b->w && a.c == b->c &&
            a.dtype == b->dtype) {
            return id;
        }
    }
    return -1;
}

/* conv bn relu conv bn (+ shortcut) relu, as in a residual network; the shortcut has its own conv
 * and bn where sizes or channels change. */
static inline int random_graph_block(RandomGraph *r, int x)
{
    char name[NAME_MAX_LEN];
    const int c = random_graph_chance(r, 2) ? r->g.tensors[x].c : 2 + 2 * random_graph_below(r, 4);
    int y = random_graph_bn(r, random_graph_conv(r, x, c));
    y = graph_relu(&r->g, random_graph_name(r, "relu", name), y);
    y = random_graph_bn(r, random_graph_conv(r, y, c));
    const Tensor a = r->g.tensors[y];
    const Tensor b = r->g.tensors[x];
    int shortcut = x;
    if (a.h != b.h || a.c != b.c) {
        const int stride = b.h / a.h > 1 ? (b.h + a.h - 1) / a.h : 1;
        (void)random_graph_name(r, "down", name);
        char part[NAME_MAX_LEN + 16];
        (void)snprintf(part, sizeof part, "%s.weight", name);
        const int shape[4] = {a.c, b.c, 1, 1};
        const int w = params_add(r->params, part, ROLE_CONV_WEIGHT, 4, shape, true, INIT_NORMAL,
                                 sqrt(2.0 / b.c));
        shortcut = graph_conv(&r->g, name, x, w, -1, stride, 0, 1);
        if (r->g.tensors[shortcut].h != a.h) {
            return y;
        }
        shortcut = random_graph_bn(r, shortcut);
    }
    y = graph_add(&r->g, random_graph_name(r, "add", name), y, shortcut);
    return graph_relu(&r->g, random_graph_name(r, "relu", name), y);
}

static inline int random_graph_op(RandomGraph *r)
{
    char name[NAME_MAX_LEN];
    const int x = random_graph_pick(r);
    const Tensor in = r->g.tensors[x];
    switch (random_graph_below(r, 9)) {
    case 0:
    case 1:
        return random_graph_conv(r, x, 2 + random_graph_below(r, 7));
    case 2:
        return random_graph_bn(r, x);
    case 3:
        return graph_relu(&r->g, random_graph_name(r, "relu", name), x);
    case 4: {
        const int other = random_graph_partner(r, x);
        return other < 0 ? graph_relu(&r->g, random_graph_name(r, "relu", name), x)
                         : graph_add(&r->g, random_graph_name(r, "add", name), x, other);
    }
    case 5:
        if (in.h >= 3) {
            return random_graph_chance(r, 2)
                       ? graph_maxpool(&r->g, random_graph_name(r, "maxpool", name), x, 3, 2, 1)
                       : graph_avgpool(&r->g, random_graph_name(r, "avgpool", name), x, 2, 2, 0);
        }
        return random_graph_conv(r, x, in.c);
    default:
        return random_graph_block(r, x);
    }
}

/* Pooled vector of x through a linear layer of its own. */
static inline int random_graph_head(RandomGraph *r, int x)
{
    char name[NAME_MAX_LEN];
    char part[NAME_MAX_LEN + 16];
    const Tensor in = r->g.tensors[x];
    const int pooled = graph_avgpool(&r->g, random_graph_name(r, "pool", name), x, in.h, 1, 0);
    random_graph_name(r, "linear", name);
    const int shape[2] = {RANDOM_GRAPH_CLASSES, in.c};
    (void)snprintf(part, sizeof part, "%s.weight", name);
    const int w = params_add(r->params, part, ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_UNIFORM,
                             1.0 / sqrt(in.c));
    (void)snprintf(part, sizeof part, "%s.bias", name);
    const int b =
        params_add(r->params, part, ROLE_BIAS, 1, shape, true, INIT_UNIFORM, 1.0 / sqrt(in.c));
    return graph_linear(&r->g, name, pooled, w, random_graph_chance(r, 4) ? -1 : b);
}

static inline void random_graph_loss(RandomGraph *r, int logits)
{
    const int labels = graph_input(&r->g, "labels", DT_I32, r->g.batch, 1, 1, 1, true);
    DistillSpec spec = {.ce_weight = {.source = SOURCE_CONST, .value = 1.0f},
                        .energy_temperature = 1.0f};
    int in[DISTILL_IN_COUNT];
    for (int i = 0; i < DISTILL_IN_COUNT; i++) {
        in[i] = -1;
    }
    in[DISTILL_IN_Z] = logits;
    in[DISTILL_IN_LABELS] = labels;
    const int scale = r->options.loss_scale ? graph_shared(&r->g, "loss_scale", DT_F32, 2, 64) : -1;
    in[DISTILL_IN_LOSS_SCALE] = scale;
    graph_distill(&r->g, "loss", &spec, in);
    Err *err = graph_backward_losses(&r->g);
    CHECK(err == NULL, "random graph: %s", err->message);
    if (r->options.sgd) {
        const int stats = graph_tensor(&r->g, "grad_stats", TENSOR_ACT, DT_F32, 1, 1, 1, 2, false);
        graph_node(&r->g, OP_GRAD_NORM, "grad_norm", 0, NULL, 1, &stats);
        const int hyper = graph_input(&r->g, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false);
        graph_node(&r->g, OP_SGD, "sgd", 3, (int[]){hyper, stats, scale}, 0, NULL)
            ->attr.sgd.decay_norm_bias = true;
        if (scale >= 0) {
            graph_node(&r->g, OP_LOSS_SCALE, "scaler", 2, (int[]){stats, scale}, 1, &scale)
                ->attr.loss_scale = (LossScaleAttr){.growth = 2, .backoff = 0.5f, .interval = 1};
        }
    }
}

static inline Graph random_graph_make(uint64_t seed, Params *params, RandomGraphOptions options)
{
    RandomGraph r = {.params = params, .options = options, .rng = rng_make(seed, 0, 0, RNG_TEST)};
    const int batch = options.batch > 0 ? options.batch : 2 + random_graph_below(&r, 4);
    const int size = options.size > 0 ? options.size : 4 + random_graph_below(&r, 5);
    const int ops = options.ops > 0 ? options.ops : 3 + random_graph_below(&r, 22);
    graph_init(&r.g, params, batch, options.act);
    int x = -1;
    if (options.images) {
        x = graph_input(&r.g, "images", DT_U8, batch, size, size, 3, true);
        x = graph_image(&r.g, "x", x, 3, (const float[]){0.5f, 0.4f, 0.45f},
                        (const float[]){0.25f, 0.2f, 0.3f});
    } else {
        x = graph_input(&r.g, "x", options.act, batch, size, size, 3, true);
    }
    random_graph_push(&r, random_graph_conv(&r, x, 2 + random_graph_below(&r, 7)));
    for (int i = 0; i < ops; i++) {
        const int y = random_graph_op(&r);
        if (!options.no_taps && random_graph_chance(&r, 8)) {
            graph_output(&r.g, y, NULL);
        }
        random_graph_push(&r, y);
    }
    int logits = random_graph_head(&r, r.pool[r.n_pool - 1]);
    while (random_graph_chance(&r, 2)) {
        char name[NAME_MAX_LEN];
        const int other = random_graph_head(&r, random_graph_pick(&r));
        logits = graph_add(&r.g, random_graph_name(&r, "sum", name), logits, other);
    }
    graph_output(&r.g, logits, "logits");
    params_finish(params);
    if (options.backward) {
        random_graph_loss(&r, logits);
    }
    for (int i = 0; i < r.g.n_nodes; i++) {
        r.g.nodes[i].queue = options.queues > 1 ? random_graph_below(&r, options.queues) : 0;
    }
    return r.g;
}

#endif
