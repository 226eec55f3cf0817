/* Groups nodes into fused forms. Pure: what a backend accepts is passed in as data, so a refused group stays as its
 * parts and the result depends on nothing else. Every pattern can be switched off; tests assert off = on.
 *
 * Use: list candidates, ask the backend for each, apply. Candidates may overlap; they are applied in list order and one
 * whose nodes are gone or changed is skipped. Output tensors (taps) are never hidden. */
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
    FUSE_COUNT
} FusePattern;

typedef struct {
    FusePattern pattern;
    int node;       /* the first node of the group */
    DType dtype;    /* of the activations */
    int n, h, w, c; /* shape of the group's main tensor */
} FuseCandidate;

const char *fuse_name(FusePattern pattern);
/* Candidates of the present graph; *out is malloc'ed, returns their number. Bit p of `enabled` allows pattern p. */
int fusion_candidates(const Graph *g, unsigned enabled, FuseCandidate **out);
/* verdict[i] says whether candidate i is accepted. Returns how many groups were formed; dead nodes are removed (ids of
 * tensors stay, node indices change). Run the pair until no group is formed: some patterns build on others. */
int fusion_apply(Graph *g, const FuseCandidate *candidates, const bool *verdict, int count);

enum { FUSE_ALL = (1u << FUSE_COUNT) - 1 };

#endif
