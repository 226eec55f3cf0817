/* Reverse-mode differentiation of the node list. One sweep forward marks what a gradient must
 * reach, one sweep backward lets every node turn the gradient of its output into contributions to
 * its inputs. A tensor's contributions are complete when its producer is reached, since consumers
 * come after producers; they are summed in the order in which they arrive. */
#include "graph/gradient.h"

#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int *items;
    int count;
    size_t capacity;
} IdList;

typedef struct {
    Graph *g;
    int n_nodes; /* of the forward graph */
    int n_tensors;
    bool *needs;      /* a gradient of this tensor leads to something asked for */
    bool *grad_begun; /* per parameter: its GRAD tensor has a writer */
    IdList *parts;    /* contributions per forward tensor */
} Backward;

/* Appends a backward node named after the forward node it belongs to. Reallocates g->nodes. */
static Node *emit(Backward *b, Op op, const Node *of, const char *suffix, int n_in, const int *in,
                  int n_out, const int *out)
{
    char name[NAME_MAX_LEN];
    name_join(name, of->name, suffix);
    Node *node = graph_node(b->g, op, name, n_in, in, n_out, out);
    node->backward = true;
    return node;
}

/* A new tensor of the shape and type of `like`. */
static int grad_like(Backward *b, int like, const char *suffix)
{
    const Tensor t = b->g->tensors[like];
    char name[NAME_MAX_LEN];
    name_join(name, t.name, suffix);
    return graph_tensor(b->g, name, TENSOR_ACT, t.dtype, t.n, t.h, t.w, t.c, t.batched);
}

static bool needs(const Backward *b, int tensor)
{
    return tensor >= 0 && b->needs[tensor];
}

static void contribute(Backward *b, int tensor, int grad)
{
    IdList *list = &b->parts[tensor];
    list->items =
        xgrow(list->items, &list->capacity, (size_t)list->count + 1, sizeof list->items[0]);
    list->items[list->count++] = grad;
}

/* The GRAD tensor of a trainable parameter's tensor, or -1. */
static int param_grad(Backward *b, int tensor)
{
    if (!needs(b, tensor)) {
        return -1;
    }
    const Tensor *t = &b->g->tensors[tensor];
    CHECK(t->kind == TENSOR_PARAM,
          "'%s' is computed from trainable parameters: build the gradient before fusion", t->name);
    return graph_param_grad(b->g, t->param);
}

/* Whether a write to this gradient has to add; from now on every write does. */
static bool grad_adds(Backward *b, int grad)
{
    const int param = b->g->tensors[grad].param;
    const bool adds = b->grad_begun[param];
    b->grad_begun[param] = true;
    return adds;
}

/* One node (inputs) -> gradient of a parameter, when that parameter is trained. */
static void emit_param_grad(Backward *b, Op op, const Node *of, const char *suffix, int n_in,
                            const int *in, int param)
{
    const int grad = param_grad(b, param);
    if (grad < 0) {
        return;
    }
    const bool adds = grad_adds(b, grad);
    Node *node = emit(b, op, of, suffix, n_in, in, 1, &grad);
    node->accumulate = adds;
    node->attr = of->attr;
}

/* One node (inputs) -> gradient of an activation, when it is needed. */
static void emit_dx(Backward *b, Op op, const Node *of, const char *suffix, int n_in, const int *in,
                    int x)
{
    if (!needs(b, x)) {
        return;
    }
    const int dx = grad_like(b, x, "grad");
    emit(b, op, of, suffix, n_in, in, 1, &dx)->attr = of->attr;
    contribute(b, x, dx);
}

static Err *conv_backward(Backward *b, const Node *node, int dy)
{
    if (node->attr.conv.relu || node->in[3] >= 0 || node->in[4] >= 0 || node->out[1] >= 0) {
        return err_new(EXIT_INTERNAL,
                       "conv '%s' is fused already: build the gradient before fusion", node->name);
    }
    emit_dx(b, OP_CONV_DGRAD, node, "dgrad", 2, (int[]){dy, node->in[1]}, node->in[0]);
    emit_param_grad(b, OP_CONV_WGRAD, node, "wgrad", 2, (int[]){node->in[0], dy}, node->in[1]);
    emit_param_grad(b, OP_BIAS_GRAD, node, "bgrad", 1, &dy, node->in[2]);
    return NULL;
}

static void linear_backward(Backward *b, const Node *node, int dy)
{
    emit_dx(b, OP_LINEAR_DGRAD, node, "dgrad", 2, (int[]){dy, node->in[1]}, node->in[0]);
    emit_param_grad(b, OP_LINEAR_WGRAD, node, "wgrad", 2, (int[]){node->in[0], dy}, node->in[1]);
    emit_param_grad(b, OP_BIAS_GRAD, node, "bgrad", 1, &dy, node->in[2]);
}

/* dgamma and dbeta come from one node, unless only one of them has to be added to what is there. */
static void bn_dparam(Backward *b, const Node *apply, int sums, int gamma, int beta)
{
    int grads[2] = {param_grad(b, gamma), param_grad(b, beta)};
    bool adds[2] = {grads[0] >= 0 && grad_adds(b, grads[0]),
                    grads[1] >= 0 && grad_adds(b, grads[1])};
    if (grads[0] >= 0 && grads[1] >= 0 && adds[0] != adds[1]) {
        Node *node = emit(b, OP_BN_DPARAM, apply, "dgamma", 1, &sums, 2, (int[]){grads[0], -1});
        node->accumulate = adds[0];
        grads[0] = -1;
        adds[0] = false;
    }
    if (grads[0] >= 0 || grads[1] >= 0) {
        Node *node = emit(b, OP_BN_DPARAM, apply, "dparam", 1, &sums, 2, grads);
        node->accumulate = adds[0] || adds[1];
    }
}

/* Batch norm as one: from its apply node back through coef (and the batch's sums, unless they are
 * constants). */
static Err *bn_backward(Backward *b, const Node *node, int dy)
{
    Graph *g = b->g;
    const int x = node->in[0];
    const int coef_node = g->tensors[node->in[1]].producer;
    if (node->attr.bn.relu || node->in[2] >= 0 || node->out[1] >= 0) {
        return err_new(EXIT_INTERNAL,
                       "batch norm '%s' is fused already: build the gradient before fusion",
                       node->name);
    }
    const Op coef_op = coef_node >= 0 ? g->nodes[coef_node].op : OP_COUNT;
    const bool frozen = coef_op == OP_BN_INFER;
    if (!frozen && coef_op != OP_BN_FINALIZE) {
        return err_new(EXIT_INTERNAL, "batch norm '%s': its coefficients come from no batch norm",
                       node->name);
    }
    const Node from = g->nodes[coef_node];
    const int gamma = from.in[frozen ? 0 : 1];
    const int beta = from.in[frozen ? 1 : 2];
    if (!frozen) {
        const int stats = g->tensors[from.in[0]].producer;
        if (stats < 0 || g->nodes[stats].op != OP_BN_STATS || g->nodes[stats].in[0] != x) {
            return err_new(EXIT_INTERNAL,
                           "batch norm '%s': its statistics are not those of its input",
                           node->name);
        }
    }
    const int rows_valid = graph_rows_valid(g);
    int sums = -1;
    if (needs(b, gamma) || needs(b, beta) || (needs(b, x) && !frozen)) {
        char name[NAME_MAX_LEN];
        name_join(name, node->name, "bwd_sums");
        sums = graph_tensor(g, name, TENSOR_ACT, g->math, 1, 1, 1, 2 * g->tensors[x].c + 1, false);
        Node *reduce = emit(b, OP_BN_REDUCE, node, "reduce", 6,
                            (int[]){dy, x, node->in[1], rows_valid, -1, -1}, 2, (int[]){sums, -1});
        reduce->attr.bn = node->attr.bn;
        reduce->attr.bn.frozen = frozen;
        bn_dparam(b, node, sums, gamma, beta);
    }
    if (needs(b, x)) {
        const int dx = grad_like(b, x, "grad");
        Node *bn_dx = emit(b, OP_BN_DX, node, "dx", 6,
                           (int[]){dy, x, node->in[1], frozen ? -1 : sums, rows_valid, -1}, 1, &dx);
        bn_dx->attr.bn = node->attr.bn;
        bn_dx->attr.bn.frozen = frozen;
        contribute(b, x, dx);
    }
    return NULL;
}

static Err *node_backward(Backward *b, const Node *node, int dy)
{
    const int x = node->in[0];
    switch (node->op) {
    case OP_CONV:
        return conv_backward(b, node, dy);
    case OP_LINEAR:
        linear_backward(b, node, dy);
        return NULL;
    case OP_BN_APPLY:
        return bn_backward(b, node, dy);
    case OP_RELU:
        emit_dx(b, OP_RELU_BWD, node, "bwd", 2, (int[]){dy, node->out[0]}, x);
        return NULL;
    case OP_ADD:
        if (node->attr.bn.relu) {
            return err_new(EXIT_INTERNAL,
                           "add '%s' is fused already: build the gradient before fusion",
                           node->name);
        }
        for (int k = 0; k < 2; k++) {
            if (needs(b, node->in[k])) {
                contribute(b, node->in[k], dy);
            }
        }
        return NULL;
    case OP_AVGPOOL:
        emit_dx(b, OP_AVGPOOL_BWD, node, "bwd", 1, &dy, x);
        return NULL;
    case OP_MAXPOOL:
        emit_dx(b, OP_MAXPOOL_BWD, node, "bwd", 2, (int[]){dy, node->out[1]}, x);
        return NULL;
    case OP_CAST:
        emit_dx(b, OP_CAST, node, "bwd", 1, &dy, x);
        return NULL;
    default:
        return err_new(EXIT_INTERNAL,
                       "%s '%s' has no gradient rule, but a gradient must pass through it",
                       op_name(node->op), node->name);
    }
}

/* The sum of a tensor's contributions in its own type, or -1. */
static int gradient_of(Backward *b, int tensor)
{
    IdList *list = &b->parts[tensor];
    if (list->count == 0) {
        return -1;
    }
    Node named = {.op = OP_ADD};
    memcpy(named.name, b->g->tensors[tensor].name, NAME_MAX_LEN);
    int sum = -1;
    for (int i = 0; i < list->count; i++) {
        int part = list->items[i];
        if (b->g->tensors[part].dtype != b->g->tensors[tensor].dtype) {
            const int cast = grad_like(b, tensor, "grad_cast");
            emit(b, OP_CAST, &named, "grad_cast", 1, &part, 1, &cast);
            part = cast;
        }
        if (sum < 0) {
            sum = part;
            continue;
        }
        const int total = grad_like(b, tensor, "grad_sum");
        emit(b, OP_ADD, &named, "grad_sum", 2, (int[]){sum, part}, 1, &total);
        sum = total;
    }
    list->count = 1;
    list->items[0] = sum;
    return sum;
}

static void mark_needs(Backward *b, const int *want, int n_want)
{
    const Graph *g = b->g;
    for (int t = 0; t < b->n_tensors; t++) {
        b->needs[t] =
            g->tensors[t].kind == TENSOR_PARAM && g->params->items[g->tensors[t].param].trainable;
    }
    for (int i = 0; i < n_want; i++) {
        b->needs[want[i]] = true;
    }
    for (int i = 0; i < b->n_nodes; i++) {
        const Node *node = &g->nodes[i];
        /* Losses are where gradients begin (seeds), and running statistics are constants. */
        if (node->backward || node->op == OP_DISTILL || node->op == OP_BN_RUNNING) {
            continue;
        }
        bool flows = false;
        for (int k = 0; k < node->n_in; k++) {
            flows = flows || needs(b, node->in[k]);
        }
        for (int k = 0; flows && k < node->n_out; k++) {
            if (node->out[k] >= 0) {
                b->needs[node->out[k]] = true;
            }
        }
    }
}

static void mark_written_grads(Backward *b)
{
    for (int i = 0; i < b->n_nodes; i++) {
        const Node *node = &b->g->nodes[i];
        for (int k = 0; k < node->n_out; k++) {
            if (node->out[k] >= 0 && b->g->tensors[node->out[k]].kind == TENSOR_GRAD) {
                b->grad_begun[b->g->tensors[node->out[k]].param] = true;
            }
        }
    }
}

static Err *seeds_place(Backward *b, const GradSeed *seeds, int n_seeds)
{
    const Graph *g = b->g;
    for (int i = 0; i < n_seeds; i++) {
        CHECK(seeds[i].tensor >= 0 && seeds[i].tensor < b->n_tensors && seeds[i].grad >= 0 &&
                  seeds[i].grad < b->n_tensors,
              "gradient seed %d refers to tensors %d and %d of %d", i, seeds[i].tensor,
              seeds[i].grad, b->n_tensors);
        const Tensor *t = &g->tensors[seeds[i].tensor];
        const Tensor *d = &g->tensors[seeds[i].grad];
        if (t->n != d->n || t->h != d->h || t->w != d->w || t->c != d->c) {
            return err_new(EXIT_INTERNAL,
                           "gradient '%s' (%dx%dx%dx%d) does not fit '%s' (%dx%dx%dx%d)", d->name,
                           d->n, d->h, d->w, d->c, t->name, t->n, t->h, t->w, t->c);
        }
        if (b->needs[seeds[i].tensor]) {
            contribute(b, seeds[i].tensor, seeds[i].grad);
        }
    }
    return NULL;
}

static Err *sweep(Backward *b)
{
    for (int i = b->n_nodes - 1; i >= 0; i--) {
        const Node node = b->g->nodes[i]; /* a copy: appending moves the list */
        const int y = node.out[0];
        if (node.backward || y < 0 || b->parts[y].count == 0 || b->g->tensors[y].producer != i) {
            continue;
        }
        const int dy = gradient_of(b, y);
        TRY(node_backward(b, &node, dy));
    }
    return NULL;
}

static void wanted_collect(Backward *b, const int *want, int n_want, int *wanted)
{
    for (int i = 0; i < n_want; i++) {
        const Tensor *t = &b->g->tensors[want[i]];
        if (t->kind == TENSOR_PARAM) {
            const int param = t->param;
            wanted[i] = b->grad_begun[param] ? graph_param_grad(b->g, param) : -1;
            continue;
        }
        wanted[i] = gradient_of(b, want[i]);
        if (wanted[i] >= 0) {
            graph_output(b->g, wanted[i], NULL);
        }
    }
}

Err *graph_backward(Graph *g, const GradSeed *seeds, int n_seeds, const int *want, int n_want,
                    int *wanted)
{
    Backward b = {.g = g, .n_nodes = g->n_nodes, .n_tensors = g->n_tensors};
    for (int i = 0; i < n_want; i++) {
        CHECK(want[i] >= 0 && want[i] < g->n_tensors, "gradient of tensor %d of %d is wanted",
              want[i], g->n_tensors);
        const Tensor *t = &g->tensors[want[i]];
        CHECK(t->kind != TENSOR_PARAM || g->params->items[t->param].trainable,
              "the gradient of the frozen parameter '%s' is wanted", t->name);
    }
    b.needs = xcalloc((size_t)b.n_tensors + 1, sizeof *b.needs);
    b.parts = xcalloc((size_t)b.n_tensors + 1, sizeof *b.parts);
    b.grad_begun =
        xcalloc((size_t)(g->params != NULL ? g->params->count : 0) + 1, sizeof *b.grad_begun);
    mark_needs(&b, want, n_want);
    mark_written_grads(&b);
    Err *err = seeds_place(&b, seeds, n_seeds);
    if (err == NULL) {
        err = sweep(&b);
    }
    if (err == NULL) {
        wanted_collect(&b, want, n_want, wanted);
    }
    for (int t = 0; t < b.n_tensors; t++) {
        free(b.parts[t].items);
    }
    free(b.parts);
    free(b.needs);
    free(b.grad_begun);
    return err;
}

Err *graph_backward_losses(Graph *g)
{
    GradSeed *seeds = xmalloc((size_t)(g->n_nodes + 1) * sizeof *seeds);
    int count = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *node = &g->nodes[i];
        if (node->op == OP_DISTILL && !node->backward && node->out[DISTILL_OUT_DZ] >= 0) {
            seeds[count++] = (GradSeed){node->in[DISTILL_IN_Z], node->out[DISTILL_OUT_DZ]};
        }
    }
    Err *err = graph_backward(g, seeds, count, NULL, 0, NULL);
    free(seeds);
    return err;
}
