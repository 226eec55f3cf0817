/* Hand-built networks for the graph tests: parameters and nodes of residual networks with known
 * counts of everything. */
#ifndef CUDISTILL_TESTS_GRAPH_NETS_H
#define CUDISTILL_TESTS_GRAPH_NETS_H

#include "base/err.h"
#include "graph/fusion.h"
#include "graph/gradient.h"
#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    Params *params;
    Graph *g;
    BnMode bn;
    bool trainable;
    bool varied; /* batch norms begin with random scales and shifts */
} Net;

static inline int net_conv_groups(Net *net, const char *name, int x, int out_c, int kernel,
                                  int stride, int groups)
{
    char part[NAME_MAX_LEN];
    const Tensor in = net->g->tensors[x];
    const bool padded = in.producer >= 0 && net->g->nodes[in.producer].op == OP_IMAGE;
    const int in_c = padded ? 3 : in.c / groups;
    const int shape[4] = {out_c, in_c, kernel, kernel};
    (void)snprintf(part, sizeof part, "%s.weight", name);
    const int w =
        params_add(net->params, part, ROLE_CONV_WEIGHT, 4, shape, net->trainable, INIT_NORMAL, 0.1);
    return graph_conv(net->g, name, x, w, -1, stride, kernel / 2, groups);
}

static inline int net_conv(Net *net, const char *name, int x, int out_c, int kernel, int stride)
{
    return net_conv_groups(net, name, x, out_c, kernel, stride, 1);
}

static inline int net_bn(Net *net, const char *name, int x)
{
    static const char *const suffix[4] = {"weight", "bias", "running_mean", "running_var"};
    static const ParamRole role[4] = {ROLE_BN_WEIGHT, ROLE_BN_BIAS, ROLE_RUNNING_MEAN,
                                      ROLE_RUNNING_VAR};
    char part[NAME_MAX_LEN];
    const int first = net->params->count;
    for (int i = 0; i < 4; i++) {
        (void)snprintf(part, sizeof part, "%s.%s", name, suffix[i]);
        const InitKind fixed = i % 3 == 0 ? INIT_ONE : INIT_ZERO;
        const bool random = net->varied && i < 2;
        params_add(net->params, part, role[i], 1, &net->g->tensors[x].c, net->trainable,
                   random ? INIT_NORMAL : fixed, 0.7);
    }
    return graph_bn(net->g, name, x, first, net->bn, 1e-5f, 0.1f);
}

static inline int net_conv_bn(Net *net, const char *base, int number, int x, int out_c, int kernel,
                              int stride)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s.conv%d", base, number);
    const int y = net_conv(net, name, x, out_c, kernel, stride);
    (void)snprintf(name, sizeof name, "%s.bn%d", base, number);
    return net_bn(net, name, y);
}

/* widths: of the 3x3 (basic) or of 1x1, 3x3, 1x1 (bottleneck); the shortcut has its own conv + bn
 * when the shape changes. */
static inline int net_block(Net *net, const char *base, int x, int width, int out_c, int stride)
{
    char name[64];
    const bool bottleneck = out_c != width;
    int y = net_conv_bn(net, base, 1, x, width, bottleneck ? 1 : 3, bottleneck ? 1 : stride);
    (void)snprintf(name, sizeof name, "%s.relu1", base);
    y = graph_relu(net->g, name, y);
    y = net_conv_bn(net, base, 2, y, width, 3, bottleneck ? stride : 1);
    if (bottleneck) {
        (void)snprintf(name, sizeof name, "%s.relu2", base);
        y = graph_relu(net->g, name, y);
        y = net_conv_bn(net, base, 3, y, out_c, 1, 1);
    }
    int shortcut = x;
    if (stride != 1 || net->g->tensors[x].c != out_c) {
        shortcut = net_conv_bn(net, base, 4, x, out_c, 1, stride);
    }
    (void)snprintf(name, sizeof name, "%s.add", base);
    y = graph_add(net->g, name, y, shortcut);
    (void)snprintf(name, sizeof name, "%s.out", base);
    return graph_relu(net->g, name, y);
}

/* Pooling, classifier and, unless classes of the loss are not wanted, cross entropy and gradient.
 * Returns logits. */
static inline int net_head(Net *net, int x, int classes, bool loss)
{
    const Tensor in = net->g->tensors[x];
    const int shape[2] = {classes, in.c};
    const int pooled = graph_avgpool(net->g, "pool", x, in.h, 1, 0);
    const int w = params_add(net->params, "fc.weight", ROLE_LINEAR_WEIGHT, 2, shape, net->trainable,
                             INIT_UNIFORM, 0.1);
    const int b =
        params_add(net->params, "fc.bias", ROLE_BIAS, 1, shape, net->trainable, INIT_UNIFORM, 0.1);
    const int logits = graph_linear(net->g, "fc", pooled, w, b);
    graph_output(net->g, logits, "logits");
    params_finish(net->params);
    if (loss) {
        DistillSpec spec = {.ce_weight = {.source = SOURCE_CONST, .value = 1.0f},
                            .energy_temperature = 1.0f};
        int slots[DISTILL_IN_COUNT];
        for (int i = 0; i < DISTILL_IN_COUNT; i++) {
            slots[i] = -1;
        }
        slots[DISTILL_IN_Z] = logits;
        slots[DISTILL_IN_LABELS] =
            graph_input(net->g, "labels", DT_I32, net->g->batch, 1, 1, 1, true);
        graph_distill(net->g, "loss", &spec, slots);
        Err *err = graph_backward_losses(net->g);
        CHECK(err == NULL, "%s", err->message);
    }
    return logits;
}

/* Images, stem conv-bn-relu, an identity block (8 channels), a downsampling block (16 channels),
 * head. 6 convolutions. */
static inline Graph net_basic(Params *params, BnMode bn, bool trainable, bool loss)
{
    Graph g;
    graph_init(&g, params, 4, DT_F32);
    Net net = {params, &g, bn, trainable, false};
    const int images = graph_input(&g, "images", DT_U8, 4, 8, 8, 3, true);
    int x = graph_image(&g, "image", images, 3, (const float[]){0, 0, 0}, (const float[]){1, 1, 1});
    x = graph_relu(&g, "stem.relu", net_conv_bn(&net, "stem", 1, x, 8, 3, 1));
    x = net_block(&net, "a", x, 8, 8, 1);
    x = net_block(&net, "b", x, 16, 16, 2);
    net_head(&net, x, 10, loss);
    return g;
}

/* The bottleneck network with the given blocks per stage, as for ImageNet. */
static inline Graph net_bottleneck(Params *params, BnMode bn, bool trainable, bool loss,
                                   const int blocks[4], int batch, DType act)
{
    Graph g;
    graph_init(&g, params, batch, act);
    Net net = {params, &g, bn, trainable, false};
    const int images = graph_input(&g, "images", DT_U8, batch, 224, 224, 3, true);
    int x = graph_image(&g, "image", images, 4, (const float[]){0, 0, 0}, (const float[]){1, 1, 1});
    x = graph_relu(&g, "stem.relu", net_conv_bn(&net, "stem", 1, x, 64, 7, 2));
    x = graph_maxpool(&g, "maxpool", x, 3, 2, 1);
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < blocks[s]; i++) {
            char base[32];
            (void)snprintf(base, sizeof base, "layer%d.%d", s + 1, i);
            x = net_block(&net, base, x, 64 << s, 256 << s, i == 0 && s > 0 ? 2 : 1);
        }
    }
    net_head(&net, x, 1000, loss);
    return g;
}

/* --- small networks of the families that people train, batch 4, 8 x 8, activations "x" as input,
 * 7 classes, with loss and gradient --- */

typedef enum { NET_RESNET, NET_BOTTLENECK, NET_PREACT, NET_VGG, NET_MOBILE, NET_KINDS } NetKind;

static inline const char *net_kind_name(NetKind kind)
{
    static const char *const names[NET_KINDS] = {"resnet", "bottleneck", "pre-activation", "vgg",
                                                 "mobile"};
    return names[kind];
}

static inline int net_conv_bn_relu(Net *net, const char *base, int number, int x, int out_c,
                                   int kernel, int stride, int groups)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s.conv%d", base, number);
    int y = net_conv_groups(net, name, x, out_c, kernel, stride, groups);
    (void)snprintf(name, sizeof name, "%s.bn%d", base, number);
    y = net_bn(net, name, y);
    (void)snprintf(name, sizeof name, "%s.relu%d", base, number);
    return graph_relu(net->g, name, y);
}

static inline int net_bn_relu(Net *net, const char *base, int number, int x)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s.bn%d", base, number);
    const int y = net_bn(net, name, x);
    (void)snprintf(name, sizeof name, "%s.relu%d", base, number);
    return graph_relu(net->g, name, y);
}

/* bn relu conv bn relu conv + shortcut, as in wide residual networks: where the shape changes the
 * shortcut is a convolution of the normalised input. */
static inline int net_preact_block(Net *net, const char *base, int x, int out_c, int stride)
{
    char name[64];
    const bool equal = net->g->tensors[x].c == out_c && stride == 1;
    const int a = net_bn_relu(net, base, 1, x);
    (void)snprintf(name, sizeof name, "%s.conv1", base);
    int y = net_conv(net, name, a, out_c, 3, stride);
    y = net_bn_relu(net, base, 2, y);
    (void)snprintf(name, sizeof name, "%s.conv2", base);
    y = net_conv(net, name, y, out_c, 3, 1);
    (void)snprintf(name, sizeof name, "%s.shortcut", base);
    const int shortcut = equal ? x : net_conv(net, name, a, out_c, 1, stride);
    (void)snprintf(name, sizeof name, "%s.add", base);
    return graph_add(net->g, name, y, shortcut);
}

/* 1x1 wider, depthwise 3x3, 1x1 narrower without ReLU, + x where the shape stays. */
static inline int net_mobile_block(Net *net, const char *base, int x, int out_c, int stride)
{
    char name[64];
    const int wide = 2 * net->g->tensors[x].c;
    int y = net_conv_bn_relu(net, base, 1, x, wide, 1, 1, 1);
    y = net_conv_bn_relu(net, base, 2, y, wide, 3, stride, wide);
    y = net_conv_bn(net, base, 3, y, out_c, 1, 1);
    (void)snprintf(name, sizeof name, "%s.add", base);
    return stride == 1 && net->g->tensors[x].c == out_c ? graph_add(net->g, name, y, x) : y;
}

static inline int net_small_body(Net *net, NetKind kind, int x)
{
    switch (kind) {
    case NET_RESNET:
        x = net_conv_bn_relu(net, "stem", 1, x, 4, 3, 1, 1);
        x = net_block(net, "a", x, 4, 4, 1);
        x = net_block(net, "b", x, 6, 6, 2);
        return net_block(net, "c", x, 6, 6, 1);
    case NET_BOTTLENECK:
        x = net_conv_bn_relu(net, "stem", 1, x, 4, 3, 1, 1);
        x = graph_maxpool(net->g, "maxpool", x, 3, 2, 1);
        x = net_block(net, "a", x, 3, 12, 1);
        x = net_block(net, "b", x, 3, 12, 1);
        return net_block(net, "c", x, 5, 20, 2);
    case NET_PREACT:
        x = net_conv(net, "stem", x, 4, 3, 1);
        x = net_preact_block(net, "a", x, 6, 1);
        x = net_preact_block(net, "b", x, 6, 1);
        x = net_preact_block(net, "c", x, 9, 2);
        return net_bn_relu(net, "end", 1, x);
    case NET_VGG:
        x = net_conv_bn_relu(net, "a", 1, x, 5, 3, 1, 1);
        x = net_conv_bn_relu(net, "a", 2, x, 5, 3, 1, 1);
        x = graph_maxpool(net->g, "pool1", x, 2, 2, 0);
        x = net_conv_bn_relu(net, "b", 1, x, 9, 3, 1, 1);
        return net_conv_bn_relu(net, "b", 2, x, 9, 3, 1, 1);
    default:
        x = net_conv_bn_relu(net, "stem", 1, x, 4, 3, 1, 1);
        x = net_mobile_block(net, "a", x, 4, 1);
        x = net_mobile_block(net, "b", x, 6, 2);
        return net_conv_bn_relu(net, "end", 1, x, 9, 1, 1, 1);
    }
}

static inline Graph net_small(NetKind kind, Params *params, DType act)
{
    Graph g;
    graph_init(&g, params, 4, act);
    Net net = {params, &g, BN_TRAIN, true, true};
    const int x = graph_input(&g, "x", act, 4, 8, 8, 3, true);
    net_head(&net, net_small_body(&net, kind, x), 7, true);
    return g;
}

/* The patterns that every backend with epilogues takes; the others are forms of a training step. */
enum { NET_FUSE_BASE = (2u << FUSE_BWD_ADD_RELU_BN) - 1 };

/* Fuses to the fixpoint, accepting everything; returns the number of groups. */
static inline int net_fuse(Graph *g, unsigned enabled)
{
    int total = 0;
    for (;;) {
        FuseCandidate *candidates = NULL;
        const int count = fusion_candidates(g, enabled, &candidates);
        bool *verdict = xcalloc((size_t)count + 1, sizeof *verdict);
        for (int i = 0; i < count; i++) {
            verdict[i] = true;
        }
        const int formed = fusion_apply(g, candidates, verdict, count);
        free(verdict);
        free(candidates);
        if (formed == 0) {
            return total;
        }
        total += formed;
    }
}

static inline int net_count(const Graph *g, Op op)
{
    int count = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        count += g->nodes[i].op == op ? 1 : 0;
    }
    return count;
}

static inline const Node *net_node(const Graph *g, const char *name)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const char *a = g->nodes[i].name;
        const char *b = name;
        while (*a != '\0' && *a == *b) {
            a++;
            b++;
        }
        if (*a == *b) {
            return &g->nodes[i];
        }
    }
    return NULL;
}

#endif
