/* What an executor is made of; exec_open.c makes it, exec.c runs it, exec_reduce.c overlaps reductions with it. */
#ifndef CUDISTILL_HOST_BACKEND_EXEC_STATE_H
#define CUDISTILL_HOST_BACKEND_EXEC_STATE_H

#include "backend/exec.h"

enum { STAGING_SLOTS = 64 /* runs whose scalars may be on their way at once */ };

typedef struct {
    Graph graph;
    Step *steps; /* per node; weights-stage nodes are prepared in the largest rung only */
    bool *prepared;
} Rung;

/* A bucket, the queues that write gradients of it, and the events by which QUEUE_COMM waits for them. */
typedef struct {
    Bucket bucket;
    bool writes[QUEUE_COUNT];
    int event[QUEUE_COUNT]; /* -1 = none */
} Reduction;

struct Exec {
    Backend *backend;
    ExecOptions options;
    Graph graph; /* after fusion */
    Plan *plan;
    Rung *rungs; /* ascending batch; the last is the graph's own */
    int n_rungs;
    RunArgs args;
    void *own[ARENA_COUNT];
    size_t bytes[ARENA_COUNT];
    size_t workspace_offset[QUEUE_COUNT]; /* queues run at the same time: each has its own */
    bool queue_used[QUEUE_COUNT];
    bool arena_used[ARENA_COUNT];
    bool needs_moment;
    bool *follows_training; /* per node: reads a trainable parameter, if through weights nodes */
    int *step_event;        /* per plan step, -1 = nobody waits */
    int begin_event;
    int end_event[QUEUE_COUNT];
    ExecScalars *staging; /* STAGING_SLOTS in memory that the device reads */
    int staged;
    ExecStepTime *times;   /* per plan step */
    Reduction *reductions; /* in the order in which they become ready */
    int n_reductions;
    size_t reduction_capacity;
    ExecReduce reduce;
    void *reduce_context;
};

static inline Rung *exec_full_rung(const Exec *exec)
{
    return &exec->rungs[exec->n_rungs - 1];
}

/* exec_reduce.c. Submits the reductions of the buckets from *next on that are complete after plan step `step` (-1: before
 * the first) and moves *next on. */
void exec_reduce_ready(Exec *exec, int step, int *next);

#endif
