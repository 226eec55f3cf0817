/* Small helpers that the graph's own files share. plan_check.c does not include this: it proves the
 * plan by itself. */
#ifndef CUDISTILL_HOST_GRAPH_INTERNAL_H
#define CUDISTILL_HOST_GRAPH_INTERNAL_H

#include "graph/graph.h"

/* Positions of a sliding window along one axis; 0 when the window does not fit. */
static inline int window_out(int in, int kernel, int stride, int pad)
{
    const int room = in + 2 * pad - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

/* The consumers of every tensor, as one entry per (node, slot), in node order: entries first[t] ..
 * first[t+1]-1. */
typedef struct {
    int *first;
    int *node;
    int *slot;
} Uses;
Uses uses_make(const Graph *g);
void uses_free(Uses *uses);

/* "<base>.<suffix>" cut to what fits a name. */
void name_join(char out[NAME_MAX_LEN], const char *base, const char *suffix);

#endif
