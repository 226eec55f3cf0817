/* Pattern matching on the node list. A match names the nodes of a group and what stands around it;
 * the same matcher serves listing and applying, so a candidate whose nodes an earlier group has
 * taken simply no longer matches. Within one pass the consumer lists stay those of the beginning: a
 * group that meets a node changed in this pass waits for the next.
 *
 * A fused node stands in the list where its last needed input exists already: folded convolutions
 * and those with a residual move down to the node whose work they take over, a reduction that masks
 * moves up to the mask's place. */
#include "graph/fusion.h"

#include "base/err.h"
#include "fusion_pass.h"

#include <stdlib.h>
#include <string.h>

const char *fuse_name(FusePattern pattern)
{
    static const char *const names[FUSE_COUNT] = {
        "fold_bn",     "conv_relu",       "conv_add",   "bn_relu",     "bn_add_relu", "add_relu",
        "bwd_relu_bn", "bwd_add_relu_bn", "conv_stats", "affine_conv", "dgrad_bn",    "bit_mask"};
    CHECK(pattern >= 0 && pattern < FUSE_COUNT, "no such fusion pattern: %d", (int)pattern);
    return names[pattern];
}

/* The one node that reads tensor t, when it does so once, is `op`, and t may vanish; else -1. */
static int sole_consumer(const Pass *p, int t, Op op)
{
    const int first = p->uses.first[t];
    if (p->g->tensors[t].output || p->uses.first[t + 1] - first != 1) {
        return -1;
    }
    const int node = p->uses.node[first];
    return usable(p, node) && node_at(p, node)->op == op ? node : -1;
}

/* A convolution or BN_APPLY whose epilogue is still free. */
static bool plain_epilogue(const Node *node)
{
    if (node->out[1] >= 0) {
        return false;
    }
    return node->op == OP_CONV ? node->in[3] < 0 && !node->attr.conv.relu
                               : node->op == OP_BN_APPLY && node->in[2] < 0 && !node->attr.bn.relu;
}

static bool match_fold_bn(const Pass *p, int i, Match *m)
{
    const Node *conv = node_at(p, i);
    if (conv->op != OP_CONV || !plain_epilogue(conv)) {
        return false;
    }
    const int apply = sole_consumer(p, conv->out[0], OP_BN_APPLY);
    if (apply < 0) {
        return false;
    }
    const Node *bn = node_at(p, apply);
    const int infer = producer_op(p, bn->in[1], OP_BN_INFER);
    /* With rows_valid the rows beyond are cleared, which a convolution does not do. */
    if (bn->in[0] != conv->out[0] || !plain_epilogue(bn) || bn->in[3] >= 0 || infer < 0) {
        return false;
    }
    *m = (Match){{i, apply, infer}, 2, -1, bn->out[0]};
    return true;
}

static bool match_relu(const Pass *p, int i, Op op, Match *m)
{
    const Node *node = node_at(p, i);
    if (node->op != op || node->out[1] >= 0 ||
        (op == OP_CONV ? node->attr.conv.relu : node->attr.bn.relu)) {
        return false;
    }
    const int relu = sole_consumer(p, node->out[0], OP_RELU);
    if (relu < 0) {
        return false;
    }
    *m = (Match){{i, relu}, 2, -1, node_at(p, relu)->out[0]};
    return true;
}

/* The node `i` of kind `op` feeds an add and nothing else. When both operands come from nodes that
 * could take the add in, the later one does: the other's result then exists. */
static int match_add(const Pass *p, int i, Op op, int *residual)
{
    const Node *node = node_at(p, i);
    const int add = sole_consumer(p, node->out[0], OP_ADD);
    if (add < 0) {
        return -1;
    }
    const Node *sum = node_at(p, add);
    *residual = sum->in[0] == node->out[0] ? sum->in[1] : sum->in[0];
    const int other = producer_op(p, *residual, op);
    if (other > i && plain_epilogue(node_at(p, other)) &&
        sole_consumer(p, *residual, OP_ADD) == add) {
        return -1;
    }
    return add;
}

static bool match_conv_add(const Pass *p, int i, Match *m)
{
    const Node *conv = node_at(p, i);
    int residual = -1;
    if (conv->op != OP_CONV || !plain_epilogue(conv)) {
        return false;
    }
    const int add = match_add(p, i, OP_CONV, &residual);
    if (add < 0) {
        return false;
    }
    *m = (Match){{i, add}, 2, residual, node_at(p, add)->out[0]};
    return true;
}

static bool match_bn_add_relu(const Pass *p, int i, Match *m)
{
    const Node *bn = node_at(p, i);
    int residual = -1;
    if (bn->op != OP_BN_APPLY || !plain_epilogue(bn)) {
        return false;
    }
    const int add = match_add(p, i, OP_BN_APPLY, &residual);
    if (add < 0) {
        return false;
    }
    *m = (Match){{i, add}, 2, residual, node_at(p, add)->out[0]};
    if (node_at(p, add)->attr.bn.relu) {
        return true;
    }
    const int relu = sole_consumer(p, m->main, OP_RELU);
    if (relu < 0) {
        return false;
    }
    m->node[m->n++] = relu;
    m->main = node_at(p, relu)->out[0];
    return true;
}

/* BN_REDUCE or BN_DX that has no mask yet. */
static bool unmasked(const Node *node)
{
    return node->in[5] < 0 && node->in[6] < 0 && !node->attr.bn.remask;
}

/* A reduction that still takes its dz as it comes. */
static bool plain_reduce(const Node *node, int dz)
{
    return node->op == OP_BN_REDUCE && node->in[0] == dz && node->in[4] < 0 && unmasked(node) &&
           node->out[1] < 0;
}

static bool match_bwd_relu_bn(const Pass *p, int i, Match *m)
{
    const Node *mask = node_at(p, i);
    if (mask->op != OP_RELU_BWD || p->g->tensors[mask->out[0]].output) {
        return false;
    }
    const int dz = mask->out[0];
    int reduce = -1;
    int dx = -1;
    for (int u = p->uses.first[dz]; u < p->uses.first[dz + 1]; u++) {
        const int user = p->uses.node[u];
        if (!usable(p, user)) {
            return false;
        }
        const Node *node = node_at(p, user);
        if (reduce < 0 && plain_reduce(node, dz)) {
            reduce = user;
        } else if (dx < 0 && node->op == OP_BN_DX && p->uses.slot[u] == 0 && unmasked(node)) {
            dx = user;
        } else {
            return false;
        }
    }
    if (reduce < 0 && dx < 0) {
        return false;
    }
    if (reduce >= 0 && dx >= 0 && node_at(p, reduce)->in[1] != node_at(p, dx)->in[1]) {
        return false;
    }
    *m = (Match){{i}, 1, -1, dz};
    if (reduce >= 0) {
        m->node[m->n++] = reduce;
    }
    if (dx >= 0) {
        m->node[m->n++] = dx;
    }
    return true;
}

/* node: mask, reduce, [add]. Worth it when dz is wanted elsewhere than in this batch norm, or when
 * an addition goes in. */
static bool match_bwd_add_relu_bn(const Pass *p, int i, Match *m)
{
    const Node *mask = node_at(p, i);
    if (mask->op != OP_RELU_BWD) {
        return false;
    }
    const int dz = mask->out[0];
    int reduce = -1;
    for (int u = p->uses.first[dz]; reduce < 0 && u < p->uses.first[dz + 1]; u++) {
        const int user = p->uses.node[u];
        reduce = usable(p, user) && plain_reduce(node_at(p, user), dz) ? user : -1;
    }
    if (reduce < 0) {
        return false;
    }
    bool others = p->g->tensors[dz].output;
    for (int u = p->uses.first[dz]; u < p->uses.first[dz + 1]; u++) {
        const Node *user = node_at(p, p->uses.node[u]);
        const bool own_dx = user->op == OP_BN_DX && user->in[1] == node_at(p, reduce)->in[1];
        others = others || (p->uses.node[u] != reduce && !own_dx);
    }
    *m = (Match){{i, reduce}, 2, -1, dz};
    const int add = producer_op(p, mask->in[0], OP_ADD);
    if (add >= 0 && !node_at(p, add)->attr.bn.relu &&
        sole_consumer(p, mask->in[0], OP_RELU_BWD) == i) {
        m->node[m->n++] = add;
    }
    return others || m->n == 3;
}

static bool match_pattern(const Pass *p, FusePattern pattern, int i, Match *m)
{
    if (!usable(p, i)) {
        return false;
    }
    switch (pattern) {
    case FUSE_FOLD_BN:
        return match_fold_bn(p, i, m);
    case FUSE_CONV_RELU:
        return match_relu(p, i, OP_CONV, m);
    case FUSE_CONV_ADD:
        return match_conv_add(p, i, m);
    case FUSE_BN_RELU:
        return match_relu(p, i, OP_BN_APPLY, m);
    case FUSE_BN_ADD_RELU:
        return match_bn_add_relu(p, i, m);
    case FUSE_ADD_RELU:
        return match_relu(p, i, OP_ADD, m);
    case FUSE_BWD_RELU_BN:
        return match_bwd_relu_bn(p, i, m);
    case FUSE_BWD_ADD_RELU_BN:
        return match_bwd_add_relu_bn(p, i, m);
    case FUSE_CONV_STATS:
        return match_conv_stats(p, i, m);
    case FUSE_AFFINE_CONV:
        return match_affine_conv(p, i, m);
    case FUSE_DGRAD_BN:
        return match_dgrad_bn(p, i, m);
    case FUSE_BIT_MASK:
        return match_bit_mask(p, i, m);
    case FUSE_COUNT:
        break;
    }
    return false;
}

/* Patterns of a later stage build on what the earlier ones leave. */
static int stage_of(FusePattern pattern)
{
    switch (pattern) {
    case FUSE_AFFINE_CONV:
        return 1;
    case FUSE_CONV_STATS:
        return 2;
    case FUSE_DGRAD_BN:
        return 3;
    case FUSE_BIT_MASK:
        return 4;
    default:
        return 0;
    }
}

enum { STAGES = 5 };

static FuseCandidate describe(const Graph *g, FusePattern pattern, const Match *m)
{
    const Tensor *t = &g->tensors[m->main];
    FuseCandidate c = {.pattern = pattern,
                       .node = m->node[0],
                       .dtype = t->dtype,
                       .n = t->n,
                       .h = t->h,
                       .w = t->w,
                       .c = t->c,
                       .graph = g,
                       .count = m->n};
    memcpy(c.nodes, m->node, (size_t)m->n * sizeof c.nodes[0]);
    return c;
}

static bool same_candidate(const FuseCandidate *a, const FuseCandidate *b)
{
    return a->dtype == b->dtype && a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c &&
           a->count == b->count &&
           memcmp(a->nodes, b->nodes, (size_t)a->count * sizeof a->nodes[0]) == 0;
}

static Pass pass_begin(Graph *g)
{
    return (Pass){.g = g,
                  .uses = uses_make(g),
                  .changed = xcalloc((size_t)g->n_nodes + 1, sizeof(bool)),
                  .dead = xcalloc((size_t)g->n_nodes + 1, sizeof(bool))};
}

static void pass_end(Pass *p)
{
    uses_free(&p->uses);
    free(p->changed);
    free(p->dead);
}

int fusion_candidates(const Graph *g, unsigned enabled, FuseCandidate **out)
{
    /* Where patterns compete, the one that saves more memory traffic comes first: dz stored by a
     * reduction that takes in the sum of two gradients spares one pass against masking twice. */
    static const FusePattern order[FUSE_COUNT] = {
        FUSE_FOLD_BN,     FUSE_CONV_RELU,  FUSE_CONV_ADD,        FUSE_BN_RELU,
        FUSE_BN_ADD_RELU, FUSE_ADD_RELU,   FUSE_BWD_ADD_RELU_BN, FUSE_BWD_RELU_BN,
        FUSE_AFFINE_CONV, FUSE_CONV_STATS, FUSE_DGRAD_BN,        FUSE_BIT_MASK};
    Graph view = *g; /* matching only reads */
    Pass p = pass_begin(&view);
    size_t capacity = 0;
    int count = 0;
    *out = NULL;
    for (int k = 0; k < FUSE_COUNT; k++) {
        for (int i = 0; (enabled >> order[k] & 1u) != 0 && i < g->n_nodes; i++) {
            Match m;
            if (match_pattern(&p, order[k], i, &m)) {
                *out = xgrow(*out, &capacity, (size_t)count + 1, sizeof **out);
                (*out)[count++] = describe(g, order[k], &m);
            }
        }
    }
    pass_end(&p);
    return count;
}

void put_node(Pass *p, int to, Node node)
{
    p->g->nodes[to] = node;
    p->dead[to] = false;
    p->changed[to] = true;
    for (int k = 0; k < node.n_out; k++) {
        if (node.out[k] >= 0 && p->g->tensors[node.out[k]].kind == TENSOR_ACT) {
            p->g->tensors[node.out[k]].producer = to;
        }
    }
}

static void apply_fold_bn(Pass *p, const Match *m)
{
    Graph *g = p->g;
    Node conv = g->nodes[m->node[0]];
    const Node bn = g->nodes[m->node[1]];
    const Node infer = g->nodes[m->node[2]];
    const Tensor w = g->tensors[conv.in[1]];
    char name[NAME_MAX_LEN];
    name_join(name, conv.name, "folded");
    const int folded = graph_tensor(g, name, TENSOR_ACT, g->math, w.n, w.h, w.w, w.c, false);
    name_join(name, conv.name, "folded_bias");
    const int bias = graph_tensor(g, name, TENSOR_ACT, g->math, 1, 1, 1, w.n, false);
    Node fold = {.op = OP_FOLD_BN, .queue = conv.queue, .n_in = 6, .n_out = 2};
    for (int k = 0; k < NODE_MAX_IN; k++) {
        fold.in[k] = -1;
    }
    for (int k = 0; k < NODE_MAX_OUT; k++) {
        fold.out[k] = -1;
    }
    fold.in[0] = conv.in[1];
    fold.in[1] = conv.in[2];
    memcpy(&fold.in[2], infer.in, 4 * sizeof infer.in[0]);
    fold.out[0] = folded;
    fold.out[1] = bias;
    fold.attr.bn = infer.attr.bn;
    name_join(fold.name, conv.name, "fold");
    drop_tensor(p, conv.out[0]);
    conv.in[1] = folded;
    conv.in[2] = bias;
    conv.out[0] = bn.out[0];
    put_node(p, m->node[0], fold);
    put_node(p, m->node[1], conv);
}

static void apply_relu(Pass *p, const Match *m)
{
    Node node = p->g->nodes[m->node[0]];
    drop_tensor(p, node.out[0]);
    node.out[0] = m->main;
    if (node.op == OP_CONV) {
        node.attr.conv.relu = true;
    } else {
        node.attr.bn.relu = true;
    }
    kill_node(p, m->node[1]);
    put_node(p, m->node[0], node);
}

/* conv or BN_APPLY takes in an add and perhaps a relu behind it; moves to the add's place, where
 * the residual exists. */
static void apply_add(Pass *p, const Match *m, int residual_slot)
{
    Graph *g = p->g;
    Node node = g->nodes[m->node[0]];
    const Node add = g->nodes[m->node[1]];
    const bool relu = add.attr.bn.relu || m->n == 3;
    drop_tensor(p, node.out[0]);
    drop_tensor(p, add.out[0]);
    node.in[residual_slot] = m->residual;
    node.n_in = residual_slot < node.n_in ? node.n_in : residual_slot + 1;
    node.out[0] = m->main;
    if (node.op == OP_CONV) {
        node.attr.conv.relu = relu;
    } else {
        node.attr.bn.relu = relu;
    }
    if (m->n == 3) {
        kill_node(p, m->node[2]);
    }
    kill_node(p, m->node[0]);
    put_node(p, m->node[1], node);
}

static void apply_bwd_relu_bn(Pass *p, const Match *m)
{
    const Node mask = p->g->nodes[m->node[0]];
    for (int k = 1; k < m->n; k++) {
        Node *node = &p->g->nodes[m->node[k]];
        node->in[0] = mask.in[0];
        node->in[5] = mask.in[1];
        node->n_in = 6;
        p->changed[m->node[k]] = true;
    }
    drop_tensor(p, mask.out[0]);
    kill_node(p, m->node[0]);
}

static void apply_bwd_add_relu_bn(Pass *p, const Match *m)
{
    const Node mask = p->g->nodes[m->node[0]];
    Node reduce = p->g->nodes[m->node[1]];
    reduce.in[0] = mask.in[0];
    reduce.in[5] = mask.in[1];
    reduce.out[1] = mask.out[0];
    reduce.n_in = 6;
    reduce.n_out = 2;
    if (m->n == 3) {
        const Node add = p->g->nodes[m->node[2]];
        reduce.in[0] = add.in[0];
        reduce.in[4] = add.in[1];
        drop_tensor(p, add.out[0]);
        kill_node(p, m->node[2]);
    }
    kill_node(p, m->node[1]);
    put_node(p, m->node[0], reduce);
}

static void apply_match(Pass *p, FusePattern pattern, const Match *m)
{
    switch (pattern) {
    case FUSE_FOLD_BN:
        apply_fold_bn(p, m);
        break;
    case FUSE_CONV_RELU:
    case FUSE_BN_RELU:
    case FUSE_ADD_RELU:
        apply_relu(p, m);
        break;
    case FUSE_CONV_ADD:
        apply_add(p, m, 3);
        break;
    case FUSE_BN_ADD_RELU:
        apply_add(p, m, 2);
        break;
    case FUSE_BWD_RELU_BN:
        apply_bwd_relu_bn(p, m);
        break;
    case FUSE_BWD_ADD_RELU_BN:
        apply_bwd_add_relu_bn(p, m);
        break;
    case FUSE_CONV_STATS:
        apply_conv_stats(p, m);
        break;
    case FUSE_AFFINE_CONV:
        apply_affine_conv(p, m);
        break;
    case FUSE_DGRAD_BN:
        apply_dgrad_bn(p, m);
        break;
    case FUSE_BIT_MASK:
        apply_bit_mask(p, m);
        break;
    case FUSE_COUNT:
        break;
    }
}

/* Coefficients that were folded away are read by nobody. */
static void kill_unread_coefficients(Pass *p)
{
    bool *read = xcalloc((size_t)p->g->n_tensors + 1, sizeof *read);
    for (int i = 0; i < p->g->n_nodes; i++) {
        const Node *node = node_at(p, i);
        for (int k = 0; !p->dead[i] && k < node->n_in; k++) {
            if (node->in[k] >= 0) {
                read[node->in[k]] = true;
            }
        }
    }
    for (int i = 0; i < p->g->n_nodes; i++) {
        const Node *node = node_at(p, i);
        if (!p->dead[i] && node->op == OP_BN_INFER && !read[node->out[0]] &&
            !p->g->tensors[node->out[0]].output) {
            drop_tensor(p, node->out[0]);
            p->dead[i] = true;
        }
    }
    free(read);
}

static void remove_dead(Pass *p)
{
    Graph *g = p->g;
    int kept = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        if (p->dead[i]) {
            continue;
        }
        g->nodes[kept] = g->nodes[i];
        for (int k = 0; k < g->nodes[kept].n_out; k++) {
            const int t = g->nodes[kept].out[k];
            if (t >= 0 && g->tensors[t].kind == TENSOR_ACT) {
                g->tensors[t].producer = kept;
            }
        }
        kept++;
    }
    g->n_nodes = kept;
}

static int apply_stage(Pass *p, int stage, const FuseCandidate *candidates, const bool *verdict,
                       int count)
{
    int formed = 0;
    for (int i = 0; i < count; i++) {
        const FuseCandidate *c = &candidates[i];
        Match m;
        if (!verdict[i] || stage_of(c->pattern) != stage || c->node < 0 ||
            c->node >= p->g->n_nodes || !match_pattern(p, c->pattern, c->node, &m)) {
            continue;
        }
        const FuseCandidate now = describe(p->g, c->pattern, &m);
        if (same_candidate(c, &now)) {
            apply_match(p, c->pattern, &m);
            formed++;
        }
    }
    return formed;
}

int fusion_apply(Graph *g, const FuseCandidate *candidates, const bool *verdict, int count)
{
    Pass p = pass_begin(g);
    int formed = 0;
    for (int stage = 0; stage < STAGES && formed == 0; stage++) {
        formed = apply_stage(&p, stage, candidates, verdict, count);
    }
    if (formed > 0) {
        kill_unread_coefficients(&p);
        remove_dead(&p);
    }
    pass_end(&p);
    return formed;
}

int fusion_reader(const Graph *g, int tensor, Op op)
{
    for (int i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op == op && g->nodes[i].in[0] == tensor) {
            return i;
        }
    }
    return -1;
}
