/* Runs a graph on a backend: plans it, prepares every step for every rung of the batch-size ladder, and executes.
 *
 * Life cycle: exec_open; exec_bind (parameter arenas of the caller); exec_refresh after parameters were set or changed;
 * per batch: write inputs, exec_run; exec_close. An Exec owns its ACT, PERSIST, IO and WORKSPACE memory unless a shared
 * ACT or WORKSPACE is given (graphs that never run at once share them). */
#ifndef CUDISTILL_BACKEND_EXEC_H
#define CUDISTILL_BACKEND_EXEC_H

#include "backend/backend.h"
#include "graph/buckets.h"

typedef struct Exec Exec;

typedef struct {
    PlanOptions plan;
    unsigned fusion_off; /* bit p switches FusePattern p off */
    const int *ladder;   /* batch sizes besides the graph's own, e.g. {16}; NULL = none */
    int ladder_count;
    bool
        poison; /* before every run ACT and WORKSPACE are filled with NaN bytes: reading what was never written shows */
    bool time_steps; /* exec_report has seconds per step */
    bool check_plan; /* run plan_check; on by default in tests and debug builds */
    bool plan_only;  /* prepares every step and allocates nothing: for sizes (exec_bytes) */
    bool
        shared_scratch; /* the caller binds ACT and WORKSPACE (exec_bind, at least exec_bytes each) */
} ExecOptions;

/* Takes a copy of the graph (fusion works on the copy; the caller's stays as built). Errors: a step the backend cannot
 * prepare (named), out of memory (EXIT_DEVICE_MEMORY, with the sizes by arena). */
Err *exec_open(Backend *backend, const Graph *graph, const ExecOptions *options, Exec **out);
void exec_close(Exec *exec);

/* Arenas of the caller: WEIGHT, GRAD, FROZEN, STATE, SHARED, and the momentum; with shared_scratch also ACT and WORKSPACE.
 * Pointers are borrowed. */
void exec_bind(Exec *exec, Arena arena, void *base);
void exec_bind_moment(Exec *exec, void *base);
/* Runs the weights-stage nodes and packs weights. trainable_only: skips what depends on frozen parameters alone. */
void exec_refresh(Exec *exec, bool trainable_only);

/* Addresses by tensor name, for upload and download; NULL when there is no such tensor. elems at the given rung. */
void *exec_tensor(Exec *exec, const char *name, size_t *bytes);
/* Copies into an input / out of an output on QUEUE_COMPUTE; exec_read waits for the result. CHECKs the size: the whole
 * tensor, or whole first rows of a batched one. What exec_write is given must stay until exec_sync or exec_read. */
void exec_write(Exec *exec, const char *name, const void *data, size_t bytes);
void exec_read(Exec *exec, const char *name, void *data, size_t bytes);
/* As exec_read, without waiting: `data` is there when QUEUE_COMPUTE has come so far (an event recorded after this call). */
void exec_fetch(Exec *exec, const char *name, void *data, size_t bytes);

typedef struct {
    float rows_valid, scale;
} ExecScalars;

typedef struct {
    int rows; /* rows of this batch: the smallest rung >= rows runs; rows_valid (if the graph has it) is set to rows */
    bool grad_add;         /* gradient mode add (else write) */
    bool bn_update;        /* BN_RUNNING steps run */
    float scale;           /* value of the `scale` input (if the graph has it) */
    bool reduce_gradients; /* the run's gradients are complete: reduce them (exec_set_reduce) */
    /* Memory (MEM_HOST) of the caller that rows_valid and scale are uploaded from, written by this call and read by the
     * device until the run is done; for captured steps, whose replays read it again (then write it with
     * exec_write_scalars). NULL: the executor's own */
    ExecScalars *scalars;
} ExecRun;
/* What a replay reads instead of its ExecRun: call before Backend.replay, when the run before has read them. Rows must be
 * those of the recording (steps leave masking out where all rows of the rung are valid); the scale may differ. */
void exec_write_scalars(ExecScalars *scalars, const ExecRun *run);
/* Begins and ends on QUEUE_COMPUTE: work of other queues lies between. With `scalars` of the caller nothing waits or is
 * allocated, so a run, and exec_refresh(trainable_only) behind it, may be captured on QUEUE_COMPUTE (not with
 * time_steps). */
void exec_run(Exec *exec, const ExecRun *run);
void exec_sync(Exec *exec);
/* As exec_run, with the same bits, one node at a time: the host waits for each and then tells `watch` which it was
 * (of exec_graph) and how long it took. `graph` is exec_graph at the rows of this run. Never while capturing. */
typedef void (*ExecWatch)(void *context, const Graph *graph, int node, double seconds);
void exec_run_watched(Exec *exec, const ExecRun *run, ExecWatch watch, void *context);
/* Inside `watch`: copies what an output of that node holds, all of it at the rows of `graph`; waits. The values stay only
 * until other nodes take the memory. False where the tensor has no memory of its own. */
bool exec_peek(Exec *exec, const Graph *graph, int tensor, void *data);

/* Gradient reduction over ranks, overlapped with backward: after the step that completes a bucket QUEUE_COMM waits for the
 * queues that wrote it and `reduce` is called for the slice; QUEUE_COMPUTE waits for the last one at the end of the run.
 * Buckets as from buckets_build of exec_graph and exec_plan, the same on all ranks; copied. reduce enqueues on QUEUE_COMM
 * and returns. count 0: off. Only in runs with `reduce_gradients`: the last of those that add to the gradients. Buckets
 * without a step leave first. What reads gradients (OP_SGD, OP_GRAD_NORM) must be in a graph of its own. */
typedef void (*ExecReduce)(void *context, Backend *backend, const Bucket *bucket, void *slice);
void exec_set_reduce(Exec *exec, const Bucket *buckets, int count, ExecReduce reduce,
                     void *context);

const Plan *exec_plan(const Exec *exec);
const Graph *exec_graph(const Exec *exec); /* after fusion */
typedef struct {
    const char *node;
    const char *op;
    double seconds; /* summed over runs, time_steps only */
    long runs;
} ExecStepTime;
int exec_times(const Exec *exec, const ExecStepTime **out);
size_t exec_bytes(const Exec *exec, Arena arena);

#endif
