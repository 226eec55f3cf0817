/* From nodes of a graph to descriptions of convolutions: what a node computes, what a group of nodes would. */
#include "backend/cuda_conv.h"

#include <stdio.h>

static const Tensor *tensor_at(const Graph *g, int id)
{
    return id >= 0 ? &g->tensors[id] : NULL;
}

CudnnConvSpec cuda_conv_spec(const Graph *graph, int node_index)
{
    const Node *node = &graph->nodes[node_index];
    const ConvAttr *a = &node->attr.conv;
    CudnnConvSpec s = {.kernel_h = a->kernel_h,
                       .kernel_w = a->kernel_w,
                       .stride = a->stride,
                       .pad = a->pad,
                       .groups = a->groups};
    const Tensor *x = tensor_at(graph, node->in[0]);
    const Tensor *y = tensor_at(graph, node->out[0]);
    if (node->op == OP_CONV) {
        s.kind = CUDNN_CONV_FORWARD;
        s.bias = node->in[2] >= 0;
        s.residual = node->in[3] >= 0;
        s.relu = a->relu;
        s.affine = node->in[4] >= 0;
        s.stats = node->out[1] >= 0;
    } else if (node->op == OP_CONV_DGRAD) {
        s.kind = CUDNN_CONV_DGRAD;
        x = tensor_at(graph, node->out[0]);
        y = tensor_at(graph, node->in[0]);
        s.drelu_bn = node->out[1] >= 0;
    } else {
        s.kind = CUDNN_CONV_WGRAD;
        y = tensor_at(graph, node->in[1]);
        s.affine = node->in[2] >= 0;
    }
    s.affine_relu = s.affine && a->pre_relu;
    s.type = x->dtype;
    s.n = x->n;
    s.h = x->h;
    s.w = x->w;
    s.ic = x->c;
    s.oh = y->h;
    s.ow = y->w;
    s.oc = y->c;
    return s;
}

CudnnConvSpec cuda_conv_plain(CudnnConvSpec spec)
{
    spec.bias = false;
    spec.residual = false;
    spec.relu = false;
    spec.affine = false;
    spec.affine_relu = false;
    spec.stats = false;
    spec.drelu_bn = false;
    return spec;
}

bool cuda_conv_is_plain(const CudnnConvSpec *spec)
{
    const CudnnConvSpec plain = cuda_conv_plain(*spec);
    return cuda_conv_same(spec, &plain);
}

bool cuda_conv_same(const CudnnConvSpec *a, const CudnnConvSpec *b)
{
    const bool shape = a->kind == b->kind && a->type == b->type && a->n == b->n && a->h == b->h &&
                       a->w == b->w && a->ic == b->ic && a->oh == b->oh && a->ow == b->ow &&
                       a->oc == b->oc && a->kernel_h == b->kernel_h && a->kernel_w == b->kernel_w &&
                       a->stride == b->stride && a->pad == b->pad && a->groups == b->groups;
    return shape && a->bias == b->bias && a->residual == b->residual && a->relu == b->relu &&
           a->affine == b->affine && a->affine_relu == b->affine_relu && a->stats == b->stats &&
           a->drelu_bn == b->drelu_bn;
}

/* Whether the only reader of the tensor is a ReLU, which the next round will take in. */
static bool relu_follows(const Graph *g, int tensor)
{
    int readers = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            readers += g->nodes[i].in[k] == tensor;
        }
    }
    return readers == 1 && !g->tensors[tensor].output && fusion_reader(g, tensor, OP_RELU) >= 0;
}

/* The convolutions that would read BN_APPLY's input instead of its output. */
static int affine_group(const FuseCandidate *candidate, CudnnConvSpec *specs)
{
    const Graph *g = candidate->graph;
    const Node *apply = &g->nodes[candidate->nodes[0]];
    int count = 0;
    for (int i = 1; i < candidate->count; i++) {
        const Node *node = &g->nodes[candidate->nodes[i]];
        if (node->op != OP_CONV && node->op != OP_CONV_WGRAD) {
            continue;
        }
        CudnnConvSpec s = cuda_conv_spec(g, candidate->nodes[i]);
        s.affine = true;
        s.affine_relu = apply->attr.bn.relu;
        s.stats = node->op == OP_CONV && fusion_reader(g, node->out[0], OP_BN_STATS) >= 0;
        specs[count++] = s;
    }
    return count;
}

int cuda_conv_group(const FuseCandidate *candidate, CudnnConvSpec *specs)
{
    const Graph *g = candidate->graph;
    switch (candidate->pattern) {
    case FUSE_CONV_RELU:
        specs[0] = cuda_conv_spec(g, candidate->nodes[0]);
        specs[0].relu = true;
        return 1;
    case FUSE_CONV_ADD: {
        const Node *add = &g->nodes[candidate->nodes[1]];
        specs[0] = cuda_conv_spec(g, candidate->nodes[0]);
        specs[0].residual = true;
        specs[0].relu = add->attr.bn.relu || relu_follows(g, add->out[0]);
        return 1;
    }
    case FUSE_CONV_STATS:
        specs[0] = cuda_conv_spec(g, candidate->nodes[0]);
        specs[0].stats = true;
        return 1;
    case FUSE_AFFINE_CONV:
        return affine_group(candidate, specs);
    case FUSE_DGRAD_BN:
        specs[0] = cuda_conv_spec(g, candidate->nodes[0]);
        specs[0].drelu_bn = true;
        return cuda_conv_bn_params(g, g->nodes[candidate->nodes[1]].in[2], &(int){0}, &(int){0})
                   ? 1
                   : -1;
    default:
        return 0;
    }
}

bool cuda_conv_bn_params(const Graph *graph, int coef, int *gamma, int *beta)
{
    const int producer = coef >= 0 ? graph->tensors[coef].producer : -1;
    if (producer < 0) {
        return false;
    }
    const Node *node = &graph->nodes[producer];
    const int first = node->op == OP_BN_FINALIZE ? 1 : node->op == OP_BN_INFER ? 0 : -1;
    *gamma = first >= 0 ? node->in[first] : -1;
    *beta = first >= 0 ? node->in[first + 1] : -1;
    return first >= 0;
}

void cuda_conv_key(const CudnnConvSpec *spec, char text[CONV_KEY_MAX])
{
    static const char *const kinds[] = {"fwd", "dgrad", "wgrad"};
    (void)snprintf(text, CONV_KEY_MAX, "%s %s n%d %dx%dx%d %dx%dx%d k%dx%d s%d p%d g%d%s%s%s%s%s%s",
                   kinds[spec->kind], dtype_name(spec->type), spec->n, spec->h, spec->w, spec->ic,
                   spec->oh, spec->ow, spec->oc, spec->kernel_h, spec->kernel_w, spec->stride,
                   spec->pad, spec->groups, spec->bias ? " bias" : "",
                   spec->residual ? " residual" : "", spec->relu ? " relu" : "",
                   spec->affine_relu ? " affine_relu"
                   : spec->affine    ? " affine"
                                     : "",
                   spec->stats ? " stats" : "", spec->drelu_bn ? " drelu_bn" : "");
}
