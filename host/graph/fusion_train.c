/* The forms that spare a training step passes over memory: statistics and reductions in the
 * epilogue of the convolution before them, a normalisation in the prologue of the convolutions
 * behind it, masks as bits. Each rewrites nodes in their places: what a fused node reads besides
 * exists since the forward pass. */
#include "fusion_pass.h"

/* Inputs of BN_REDUCE and BN_DX (graph.h). */
enum { SLOT_X = 1, SLOT_COEF = 2, SLOT_MASK_Y = 5, SLOT_MASK_BITS = 6 };

static bool differentiates_bn(const Node *node)
{
    return node->op == OP_BN_REDUCE || node->op == OP_BN_DX;
}

/* y of `apply` is relu(x*scale + shift) of the batch norm that `node` differentiates: its mask can
 * be recomputed from what the node reads anyway. */
static bool masks_itself(const Node *node, const Node *apply)
{
    return apply->op == OP_BN_APPLY && apply->attr.bn.relu && apply->in[2] < 0 &&
           apply->in[0] == node->in[SLOT_X] && apply->in[1] == node->in[SLOT_COEF];
}

static void set_remask(Pass *p, int i)
{
    Node *node = &p->g->nodes[i];
    node->in[SLOT_MASK_Y] = -1;
    node->attr.bn.remask = true;
    p->changed[i] = true;
}

bool match_conv_stats(const Pass *p, int i, Match *m)
{
    const Node *conv = node_at(p, i);
    if (conv->op != OP_CONV || conv->in[2] >= 0 || conv->in[3] >= 0 || conv->attr.conv.relu ||
        conv->out[1] >= 0) {
        return false;
    }
    const int y = conv->out[0];
    for (int u = p->uses.first[y]; u < p->uses.first[y + 1]; u++) {
        const int stats = p->uses.node[u];
        if (!usable(p, stats) || node_at(p, stats)->op != OP_BN_STATS) {
            continue;
        }
        /* A normalisation in front counts the same rows: the node has one rows_valid. */
        if (conv->in[4] < 0 || conv->in[5] == node_at(p, stats)->in[1]) {
            *m = (Match){{i, stats}, 2, -1, y};
            return true;
        }
    }
    return false;
}

void apply_conv_stats(Pass *p, const Match *m)
{
    Node conv = p->g->nodes[m->node[0]];
    const Node *stats = node_at(p, m->node[1]);
    conv.in[5] = stats->in[1];
    conv.out[1] = stats->out[0];
    conv.n_in = 6;
    conv.n_out = 2;
    kill_node(p, m->node[1]);
    put_node(p, m->node[0], conv);
}

/* Whether a reader of y can do with x and coef instead. */
static bool takes_affine(const Node *reader, int slot, const Node *apply)
{
    switch (reader->op) {
    case OP_CONV:
        return slot == 0 && reader->in[4] < 0 &&
               (reader->in[5] < 0 || reader->in[5] == apply->in[3]);
    case OP_CONV_WGRAD:
        return slot == 0 && reader->in[2] < 0;
    case OP_BN_REDUCE:
    case OP_BN_DX:
        return slot == SLOT_MASK_Y && masks_itself(reader, apply);
    default:
        return false;
    }
}

bool match_affine_conv(const Pass *p, int i, Match *m)
{
    const Node *apply = node_at(p, i);
    /* rows_valid: batch statistics, thus training. */
    if (apply->op != OP_BN_APPLY || apply->in[2] >= 0 || apply->in[3] < 0 || apply->out[1] >= 0 ||
        p->g->tensors[apply->out[0]].output) {
        return false;
    }
    const int y = apply->out[0];
    bool convolved = false;
    *m = (Match){{i}, 1, -1, y};
    for (int u = p->uses.first[y]; u < p->uses.first[y + 1]; u++) {
        const int reader = p->uses.node[u];
        if (!usable(p, reader) || m->n == FUSE_MAX_NODES ||
            !takes_affine(node_at(p, reader), p->uses.slot[u], apply)) {
            return false;
        }
        m->node[m->n++] = reader;
        convolved = convolved || node_at(p, reader)->op == OP_CONV;
    }
    return convolved;
}

void apply_affine_conv(Pass *p, const Match *m)
{
    const Node apply = p->g->nodes[m->node[0]];
    for (int k = 1; k < m->n; k++) {
        Node *node = &p->g->nodes[m->node[k]];
        if (differentiates_bn(node)) {
            set_remask(p, m->node[k]);
            continue;
        }
        const int coef = node->op == OP_CONV ? 4 : 2;
        node->in[0] = apply.in[0];
        node->in[coef] = apply.in[1];
        node->in[coef + 1] = apply.in[3];
        node->n_in = coef + 2;
        node->attr.conv.pre_relu = apply.attr.bn.relu;
        p->changed[m->node[k]] = true;
    }
    drop_tensor(p, apply.out[0]);
    kill_node(p, m->node[0]);
}

/* `node`, BN_REDUCE or BN_DX, masks by what it can recompute itself. */
static bool remasks(const Pass *p, const Node *node)
{
    if (node->attr.bn.remask) {
        return true;
    }
    const int y = node->in[SLOT_MASK_Y];
    const int apply = y >= 0 ? p->g->tensors[y].producer : -1;
    return apply >= 0 && masks_itself(node, node_at(p, apply));
}

bool match_dgrad_bn(const Pass *p, int i, Match *m)
{
    const Node *dgrad = node_at(p, i);
    if (dgrad->op != OP_CONV_DGRAD || dgrad->in[2] >= 0 || p->g->tensors[dgrad->out[0]].output) {
        return false;
    }
    const int dx = dgrad->out[0];
    int reduce = -1;
    int bn_dx = -1;
    for (int u = p->uses.first[dx]; u < p->uses.first[dx + 1]; u++) {
        const int user = p->uses.node[u];
        if (!usable(p, user) || p->uses.slot[u] != 0 || !remasks(p, node_at(p, user))) {
            return false;
        }
        const Node *node = node_at(p, user);
        if (reduce < 0 && node->op == OP_BN_REDUCE && node->in[4] < 0) {
            reduce = user;
        } else if (bn_dx < 0 && node->op == OP_BN_DX) {
            bn_dx = user;
        } else {
            return false;
        }
    }
    if (reduce < 0) {
        return false;
    }
    *m = (Match){{i, reduce}, 2, -1, dx};
    if (bn_dx >= 0) {
        const Node *a = node_at(p, reduce);
        const Node *b = node_at(p, bn_dx);
        /* A reduction that stores dz beside a BN_DX that masks by itself: no tensor holds both. */
        if (a->out[1] >= 0 || a->in[SLOT_X] != b->in[SLOT_X] ||
            a->in[SLOT_COEF] != b->in[SLOT_COEF]) {
            return false;
        }
        m->node[m->n++] = bn_dx;
    }
    return true;
}

void apply_dgrad_bn(Pass *p, const Match *m)
{
    Node dgrad = p->g->nodes[m->node[0]];
    const Node reduce = p->g->nodes[m->node[1]];
    if (reduce.out[1] >= 0) {
        drop_tensor(p, dgrad.out[0]);
        dgrad.out[0] = reduce.out[1];
    }
    dgrad.in[2] = reduce.in[SLOT_X];
    dgrad.in[3] = reduce.in[SLOT_COEF];
    dgrad.in[4] = reduce.in[3];
    dgrad.out[1] = reduce.out[0];
    dgrad.n_in = 5;
    dgrad.n_out = 2;
    if (m->n == 3) {
        Node *dx = &p->g->nodes[m->node[2]]; /* gets dz as it must be */
        dx->in[SLOT_MASK_Y] = -1;
        dx->attr.bn.remask = false;
        p->changed[m->node[2]] = true;
    }
    kill_node(p, m->node[1]);
    put_node(p, m->node[0], dgrad);
}

bool match_bit_mask(const Pass *p, int i, Match *m)
{
    const Node *apply = node_at(p, i);
    if (apply->op != OP_BN_APPLY || !apply->attr.bn.relu || apply->out[1] >= 0) {
        return false;
    }
    const int y = apply->out[0];
    *m = (Match){{i}, 1, -1, y};
    for (int u = p->uses.first[y]; u < p->uses.first[y + 1]; u++) {
        const int reader = p->uses.node[u];
        if (p->uses.slot[u] != SLOT_MASK_Y || !differentiates_bn(node_at(p, reader))) {
            continue;
        }
        if (!usable(p, reader) || m->n == FUSE_MAX_NODES) {
            return false;
        }
        m->node[m->n++] = reader;
    }
    return m->n > 1;
}

void apply_bit_mask(Pass *p, const Match *m)
{
    Graph *g = p->g;
    Node apply = g->nodes[m->node[0]];
    int mask = -1;
    for (int k = 1; k < m->n; k++) {
        if (masks_itself(node_at(p, m->node[k]), &apply)) {
            set_remask(p, m->node[k]);
            continue;
        }
        if (mask < 0) {
            const Tensor y = g->tensors[apply.out[0]];
            char name[NAME_MAX_LEN];
            name_join(name, apply.name, "mask");
            mask =
                graph_tensor(g, name, TENSOR_ACT, DT_U8, y.n, y.h, y.w, (y.c + 7) / 8, y.batched);
        }
        Node *node = &g->nodes[m->node[k]];
        node->in[SLOT_MASK_Y] = -1;
        node->in[SLOT_MASK_BITS] = mask;
        node->n_in = SLOT_MASK_BITS + 1;
        p->changed[m->node[k]] = true;
    }
    if (mask >= 0) {
        apply.out[1] = mask;
        apply.n_out = 2;
    }
    put_node(p, m->node[0], apply);
}
