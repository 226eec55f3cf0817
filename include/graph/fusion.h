/* Groups nodes into fused forms. Pure: what a backend accepts is passed in as data, so a refused group stays as its
 * parts and the result depends on nothing else. Every pattern can be switched off; tests assert off = on.
 *
 * Use: list candidates, ask the backend for each, apply; again until no group is formed, since some patterns build on
 * others. Candidates may overlap; they are applied in list order and one whose nodes are gone or changed is skipped.
 * Output tensors (taps) are never hidden.
 *
 * Patterns come in stages: first those up to FUSE_BWD_ADD_RELU_BN together, then FUSE_AFFINE_CONV, FUSE_CONV_STATS,
 * FUSE_DGRAD_BN, FUSE_BIT_MASK. One fusion_apply forms groups of the first stage that has an accepted candidate and leaves
 * the rest to the next round, so a later pattern is tried on what the earlier ones left. */
#ifndef CUDISTILL_GRAPH_FUSION_H
#define CUDISTILL_GRAPH_FUSION_H

#include "graph/graph.h"

typedef enum {
    FUSE_FOLD_BN,   /* inference: conv (its only consumer) -> BN_APPLY with coef of BN_INFER becomes
                            FOLD_BN(w) [weights stage] + conv with bias */
    FUSE_CONV_RELU, /* conv+bias -> relu */
    FUSE_CONV_ADD,  /* conv+bias -> add(., r) [-> relu]: residual in the epilogue */
    FUSE_BN_RELU,   /* BN_APPLY -> relu */
    FUSE_BN_ADD_RELU, /* BN_APPLY -> add -> relu */
    FUSE_ADD_RELU,    /* add -> relu */
    FUSE_BWD_RELU_BN, /* RELU_BWD -> BN_REDUCE, BN_DX: mask from y, dz never stored (only consumers) */
    FUSE_BWD_ADD_RELU_BN, /* [ADD ->] RELU_BWD -> BN_REDUCE writing dz, where dz has other consumers (a residual
                             branch) or an ADD goes in; preferred to FUSE_BWD_RELU_BN where both match */
    FUSE_CONV_STATS, /* training: conv -> BN_STATS(y, rows_valid): sums from the epilogue */
    FUSE_AFFINE_CONV, /* training: BN_APPLY (no residual) [with ReLU] read by nothing but convolutions, their WGRADs and
                         the ReLU masks of its own BN_REDUCE and BN_DX: the convolutions and WGRADs apply it while
                         loading (coef), the masks are recomputed (remask), y is never stored. All or nothing */
    FUSE_DGRAD_BN, /* CONV_DGRAD -> BN_REDUCE that masks by remask, or by the output of its own BN_APPLY with ReLU and no
                      residual, which is the same (only consumer; dz for BN_DX): one node with dz and sums */
    FUSE_BIT_MASK, /* BN_APPLY with ReLU whose y serves as a mask in BN_REDUCE or BN_DX: it writes one bit an element and
                      they read that instead of y. Where y is relu(x*scale + shift) of the very batch norm that is
                      differentiated they get remask, which reads nothing more, and no bits are written for them */
    FUSE_COUNT
} FusePattern;

enum { FUSE_MAX_NODES = 24 };

/* A group that could be formed. `graph` is the one given to fusion_candidates, before the group is formed: a backend reads
 * shapes, attributes and optional slots of the nodes there. It is borrowed and holds until the graph changes.
 * nodes[0] = node; the others, by pattern (node indices):
 *   FOLD_BN       conv, BN_APPLY             CONV_RELU, BN_RELU, ADD_RELU    conv | BN_APPLY | add, relu
 *   CONV_ADD      conv, add                  BN_ADD_RELU                     BN_APPLY, add, [relu]
 *   BWD_RELU_BN   RELU_BWD, [BN_REDUCE], [BN_DX]
 *   BWD_ADD_RELU_BN   RELU_BWD, BN_REDUCE, [ADD]
 *   CONV_STATS    conv, BN_STATS
 *   AFFINE_CONV   BN_APPLY, then every reader of its y in node order: OP_CONV, OP_CONV_WGRAD, OP_BN_REDUCE, OP_BN_DX
 *   DGRAD_BN      CONV_DGRAD, BN_REDUCE, [BN_DX]
 *   BIT_MASK      BN_APPLY, then the BN_REDUCE and BN_DX that mask with its y, in node order
 * dtype and shape are those of: BIT_MASK, AFFINE_CONV: y of BN_APPLY (the x side of the convolutions); CONV_STATS: y of the
 * convolution; DGRAD_BN: dx; the others: the result of the last node in the chain. */
typedef struct {
    FusePattern pattern;
    int node;       /* the first node of the group */
    DType dtype;    /* of the activations */
    int n, h, w, c; /* shape of the group's main tensor */
    const Graph *graph;
    int count; /* of nodes */
    int nodes[FUSE_MAX_NODES];
} FuseCandidate;

const char *fuse_name(FusePattern pattern);
/* Candidates of the present graph; *out is malloc'ed, returns their number. Bit p of `enabled` allows pattern p. */
int fusion_candidates(const Graph *g, unsigned enabled, FuseCandidate **out);
/* verdict[i] says whether candidate i is accepted. Returns how many groups were formed; dead nodes are removed (ids of
 * tensors stay, node indices change). Run the pair until no group is formed. */
int fusion_apply(Graph *g, const FuseCandidate *candidates, const bool *verdict, int count);
/* First node of kind `op` that reads tensor t in slot 0, -1 = none: whether a convolution's y has BN_STATS, for example. */
int fusion_reader(const Graph *g, int tensor, Op op);

enum { FUSE_ALL = (1u << FUSE_COUNT) - 1 };

#endif
