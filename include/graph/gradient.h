/* Builds the gradient of a graph on its fine nodes, before fusion. */
#ifndef CUDISTILL_GRAPH_GRADIENT_H
#define CUDISTILL_GRAPH_GRADIENT_H

#include "base/err.h"
#include "graph/graph.h"

typedef struct {
    int tensor; /* e.g. the student's logits */
    int grad;   /* tensor holding d(loss)/d(tensor), e.g. dz of OP_DISTILL */
} GradSeed;

/* Appends backward nodes for everything that leads from trainable parameters (and from tensors in `want`) to the seeds.
 * Gradients of a tensor with several consumers are summed by OP_ADD in a fixed order. Parameters get GRAD tensors;
 * the first writer writes, later ones have `accumulate`. wanted[i] receives the gradient of want[i] (an output), or -1
 * where none flows. Refuses (EXIT_INTERNAL) a node without a gradient rule, naming it. Frozen parameters get none. */
Err *graph_backward(Graph *g, const GradSeed *seeds, int n_seeds, const int *want, int n_want,
                    int *wanted);
/* Several DISTILL nodes may feed one graph; this collects (z, dz) of all of them and calls graph_backward. */
Err *graph_backward_losses(Graph *g);

#endif
