/* The memory plan: an arena and an offset for every tensor, the order of steps, and the event waits between queues.
 * Offsets are laid out for the largest batch; smaller rungs of the ladder use the same offsets.
 *
 * Two tensors of ARENA_ACT may share bytes only if every use of the one happens before the first use of the other, where
 * "happens before" is queue order plus event waits. The planner adds waits for data dependencies only, never for reuse.
 * In-place: an output takes over the memory of an input that dies at the node (op_inplace_input), when all other readers
 * of that input happen before. plan_check proves the result without sharing code with plan_build. */
#ifndef CUDISTILL_GRAPH_PLAN_H
#define CUDISTILL_GRAPH_PLAN_H

#include "graph/graph.h"

typedef struct {
    bool no_reuse; /* every tensor its own memory (off switch; same bits must come out) */
    bool no_inplace;
    size_t align; /* bytes; 0 = 64 */
} PlanOptions;

typedef struct {
    Arena arena;   /* ARENA_NONE: not used by any node */
    size_t offset; /* bytes from the arena's base */
    size_t bytes;
} Placement;

typedef struct {
    int node;
    int queue;
    int *waits; /* indices of steps on other queues that must have finished; minimal, ascending */
    int n_waits;
    bool records; /* some step waits for this one */
} PlanStep;

typedef struct {
    Placement *at; /* per tensor */
    int n_tensors;
    PlanStep *steps; /* STAGE_STEP nodes in node order */
    int n_steps;
    int *weight_nodes; /* STAGE_WEIGHTS nodes in node order; their outputs lie in ARENA_PERSIST */
    int n_weight_nodes;
    size_t arena_bytes
        [ARENA_COUNT]; /* ACT, PERSIST, IO, SHARED: needed; the parameter arenas: from Params */
    int *
        param_ready; /* per parameter: the step after which its gradient is complete, -1 = none; buckets come from it */
    size_t act_bytes_unshared; /* what ACT would take without reuse */
} Plan;

Plan *plan_build(Graph *g, const PlanOptions *options);
void plan_free(Plan *plan);
/* NULL when no two tensors that are live together overlap, every wait that a dependency needs is there, and everything
 * is inside its arena; else a description that names both tensors (caller frees). */
char *plan_check(const Graph *g, const Plan *plan);

#endif
