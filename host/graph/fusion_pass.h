/* What the files of fusion share: one pass over a graph and the groups that it finds. */
#ifndef CUDISTILL_HOST_GRAPH_FUSION_PASS_H
#define CUDISTILL_HOST_GRAPH_FUSION_PASS_H

#include "graph/fusion.h"
#include "internal.h"

typedef struct {
    Graph *g;
    Uses uses;
    bool *changed; /* per node: rewritten or gone in this pass */
    bool *dead;
} Pass;

/* A found group. node[] in pattern order: node[0] is the one that the candidate names. */
typedef struct {
    int node[FUSE_MAX_NODES];
    int n;
    int residual; /* the other operand of an add, -1 = none */
    int main;     /* tensor that gives the candidate its shape and type */
} Match;

static inline const Node *node_at(const Pass *p, int i)
{
    return &p->g->nodes[i];
}

static inline bool usable(const Pass *p, int node)
{
    return node >= 0 && !p->changed[node] && !p->dead[node];
}

static inline int producer_op(const Pass *p, int t, Op op)
{
    const int node = t >= 0 ? p->g->tensors[t].producer : -1;
    return usable(p, node) && node_at(p, node)->op == op ? node : -1;
}

static inline void kill_node(Pass *p, int i)
{
    p->dead[i] = true;
    p->changed[i] = true;
}

/* The tensor vanishes: nobody writes it any more. */
static inline void drop_tensor(Pass *p, int t)
{
    p->g->tensors[t].producer = -1;
}

/* Puts `node` in place `to` of the list. */
void put_node(Pass *p, int to, Node node);

/* --- fusion_train.c: forms of a training step --- */
bool match_conv_stats(const Pass *p, int i, Match *m);
bool match_affine_conv(const Pass *p, int i, Match *m);
bool match_dgrad_bn(const Pass *p, int i, Match *m);
bool match_bit_mask(const Pass *p, int i, Match *m);
void apply_conv_stats(Pass *p, const Match *m);
void apply_affine_conv(Pass *p, const Match *m);
void apply_dgrad_bn(Pass *p, const Match *m);
void apply_bit_mask(Pass *p, const Match *m);

#endif
