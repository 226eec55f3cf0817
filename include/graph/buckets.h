/* Gradient buckets: slices of ARENA_GRAD in the order in which backward finishes them, each with the plan step after which
 * it is complete. Parameters lie in reverse order of registration, so a bucket is a slice. Pure; every rank computes the
 * same table. */
#ifndef CUDISTILL_GRAPH_BUCKETS_H
#define CUDISTILL_GRAPH_BUCKETS_H

#include "graph/plan.h"

typedef struct {
    size_t first, count; /* elements of ARENA_GRAD */
    /* Index into plan.steps: when it and all steps before it have finished, every gradient of the slice is complete. Steps
     * before it may be on other queues: wait for them too. -1: this graph writes no gradient there. Such a slice is still
     * reduced, since an earlier graph of the step may have written it: memory that nothing writes must be zero. */
    int ready_step;
} Bucket;

typedef struct {
    /* A bucket is closed by the parameter that brings it to its size; parameters are not divided. */
    size_t first_bytes; /* of the first bucket: small, so that the pipe fills early; 0 = 1 MiB */
    size_t
        bytes; /* of the others; 0 = 25 MiB. The last holds at most first_bytes, or one parameter */
} BucketOptions;

/* Ascending ready_step (equal ones by place), together covering the arena exactly. The plan must be of this graph, after
 * fusion (exec_plan, exec_graph). A parameter used twice is ready after its last use; one without a gradient goes with
 * its neighbours. *out is malloc'ed; 0 when nothing is trained. */
int buckets_build(const Graph *g, const Plan *plan, const BucketOptions *options, Bucket **out);

#endif
