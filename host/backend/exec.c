/* Executes a graph: one plan for the largest batch, one set of prepared steps for each rung of
 * the batch-size ladder. Every run begins and ends on QUEUE_COMPUTE: other queues wait for its
 * begin, and it waits for their end, so that runs, uploads and refreshes of one Exec are in
 * order without the caller's help, and a run submitted while QUEUE_COMPUTE is captured is captured whole. Device memory is
 * only touched through the backend's table. */
#include "exec_state.h"

#include "base/log.h"

#include <string.h>

enum { POISON = 0xFF /* bytes that are a NaN in every floating-point type */ };

/* ---- Binding and tensors ---- */

void exec_bind(Exec *exec, Arena arena, void *base)
{
    const bool parameters = arena == ARENA_WEIGHT || arena == ARENA_GRAD || arena == ARENA_FROZEN ||
                            arena == ARENA_STATE || arena == ARENA_SHARED;
    const bool scratch =
        exec->options.shared_scratch && (arena == ARENA_ACT || arena == ARENA_WORKSPACE);
    CHECK(parameters || scratch, "arena %d belongs to the executor", (int)arena);
    exec->args.arena[arena] = base;
}

void exec_bind_moment(Exec *exec, void *base)
{
    exec->args.moment = base;
}

static void check_bound(const Exec *exec)
{
    CHECK(!exec->options.plan_only, "an executor opened with plan_only cannot run");
    for (int a = 0; a < ARENA_COUNT; a++) {
        CHECK(!exec->arena_used[a] || exec->bytes[a] == 0 || exec->args.arena[a],
              "arena %d is not bound", a);
    }
    CHECK(!exec->needs_moment || exec->args.moment, "the momentum is not bound");
}

static int find_placed(const Exec *exec, const char *name)
{
    const int tensor = graph_find_tensor(&exec->graph, name);
    return tensor >= 0 && exec->plan->at[tensor].arena != ARENA_NONE ? tensor : -1;
}

static void *address(const Exec *exec, int tensor)
{
    const Placement *at = &exec->plan->at[tensor];
    CHECK(exec->args.arena[at->arena], "tensor '%s': arena %d is not bound",
          exec->graph.tensors[tensor].name, (int)at->arena);
    return (char *)exec->args.arena[at->arena] + at->offset;
}

void *exec_tensor(Exec *exec, const char *name, size_t *bytes)
{
    const int tensor = find_placed(exec, name);
    if (tensor < 0) {
        return NULL;
    }
    if (bytes) {
        *bytes = tensor_bytes(&exec->graph.tensors[tensor]);
    }
    return address(exec, tensor);
}

/* The whole tensor, or whole rows from the first of a batched one. */
static void *checked_address(const Exec *exec, const char *name, size_t bytes)
{
    const int tensor = find_placed(exec, name);
    CHECK(tensor >= 0, "no tensor '%s' in the graph", name);
    const Tensor *t = &exec->graph.tensors[tensor];
    const size_t whole = tensor_bytes(t);
    const bool rows = t->batched && bytes <= whole && bytes % (whole / (size_t)t->n) == 0;
    CHECK(bytes == whole || rows, "tensor '%s' has %zu bytes, not %zu", name, whole, bytes);
    return address(exec, tensor);
}

void exec_write(Exec *exec, const char *name, const void *data, size_t bytes)
{
    void *dst = checked_address(exec, name, bytes);
    exec->backend->upload(exec->backend, QUEUE_COMPUTE, dst, data, bytes);
}

void exec_sync(Exec *exec)
{
    exec->backend->sync(exec->backend, QUEUE_COMPUTE);
    exec->staged = 0;
}

void exec_fetch(Exec *exec, const char *name, void *data, size_t bytes)
{
    const void *src = checked_address(exec, name, bytes);
    exec->backend->download(exec->backend, QUEUE_COMPUTE, data, src, bytes);
}

void exec_read(Exec *exec, const char *name, void *data, size_t bytes)
{
    exec_fetch(exec, name, data, bytes);
    exec_sync(exec);
}

/* ---- Running ---- */

static RunArgs args_of_queue(const Exec *exec, int queue)
{
    RunArgs args = exec->args;
    if (args.arena[ARENA_WORKSPACE]) {
        args.arena[ARENA_WORKSPACE] =
            (char *)args.arena[ARENA_WORKSPACE] + exec->workspace_offset[queue];
    }
    return args;
}

/* Whether every reader of the tensor has packed it, for every batch size: convolutions and their
 * weights (slot 1). */
static bool only_packed(const Exec *exec, int tensor)
{
    bool read = false;
    for (int n = 0; n < exec->graph.n_nodes; n++) {
        const Node *node = &exec->graph.nodes[n];
        for (int i = 0; i < node->n_in; i++) {
            if (node->in[i] != tensor) {
                continue;
            }
            read = true;
            for (int r = 0; r < exec->n_rungs; r++) {
                const Rung *rung = &exec->rungs[r];
                if (i != 1 || !rung->prepared[n] || !rung->steps[n].packs) {
                    return false;
                }
            }
        }
    }
    return read && !exec->graph.tensors[tensor].output;
}

/* Folded weights of a frozen network are needed again only by the next full refresh. */
static void discard_packed(Exec *exec)
{
    for (int i = 0; i < exec->plan->n_weight_nodes; i++) {
        const int n = exec->plan->weight_nodes[i];
        const Node *node = &exec->graph.nodes[n];
        for (int o = 0; o < node->n_out && !exec->follows_training[n]; o++) {
            const int tensor = node->out[o];
            if (tensor >= 0 && only_packed(exec, tensor)) {
                exec->backend->discard(exec->backend, QUEUE_COMPUTE, address(exec, tensor),
                                       tensor_bytes(&exec->graph.tensors[tensor]));
            }
        }
    }
}

void exec_refresh(Exec *exec, bool trainable_only)
{
    Backend *backend = exec->backend;
    check_bound(exec);
    RunArgs args = args_of_queue(exec, QUEUE_COMPUTE);
    args.rows = exec->graph.batch;
    for (int i = 0; i < exec->plan->n_weight_nodes; i++) {
        const int node = exec->plan->weight_nodes[i];
        if (!trainable_only || exec->follows_training[node]) {
            backend->run(backend, QUEUE_COMPUTE, &exec_full_rung(exec)->steps[node], &args);
        }
    }
    for (int r = 0; r < exec->n_rungs; r++) {
        for (int n = 0; n < exec->graph.n_nodes; n++) {
            const Step *step = &exec->rungs[r].steps[n];
            if (exec->rungs[r].prepared[n] && step->packs &&
                (!trainable_only || exec->follows_training[n])) {
                backend->pack(backend, QUEUE_COMPUTE, step, &args);
            }
        }
    }
    if (!trainable_only && backend->discard) {
        discard_packed(exec);
    }
}

static void upload_scalar(Exec *exec, const char *name, const float *value)
{
    const int tensor = find_placed(exec, name);
    if (tensor >= 0) {
        exec->backend->upload(exec->backend, QUEUE_COMPUTE, address(exec, tensor), value,
                              sizeof *value);
    }
}

void exec_write_scalars(ExecScalars *scalars, const ExecRun *run)
{
    *scalars = (ExecScalars){.rows_valid = (float)run->rows, .scale = run->scale};
}

/* The source must stay until the device has read it, hence slots; they turn over only if the
 * caller never synchronises. Nothing waits where the caller keeps the scalars. */
static void upload_scalars(Exec *exec, const ExecRun *run)
{
    ExecScalars *scalars = run->scalars;
    if (!scalars) {
        if (exec->staged == STAGING_SLOTS) {
            exec_sync(exec);
        }
        scalars = &exec->staging[exec->staged++];
    }
    exec_write_scalars(scalars, run);
    upload_scalar(exec, "rows_valid", &scalars->rows_valid);
    upload_scalar(exec, "scale", &scalars->scale);
}

static void poison(Exec *exec)
{
    static const Arena scratch[] = {ARENA_ACT, ARENA_WORKSPACE};
    for (int i = 0; i < 2; i++) {
        if (exec->bytes[scratch[i]] > 0) {
            exec->backend->fill(exec->backend, QUEUE_COMPUTE, exec->args.arena[scratch[i]], POISON,
                                exec->bytes[scratch[i]]);
        }
    }
}

static bool reduces(const Exec *exec, const ExecRun *run)
{
    return run->reduce_gradients && exec->n_reductions > 0;
}

/* Queues besides QUEUE_COMPUTE that the run puts work on. */
static bool branches(const Exec *exec, const ExecRun *run, int queue)
{
    return queue != QUEUE_COMPUTE &&
           (exec->queue_used[queue] || (queue == QUEUE_COMM && reduces(exec, run)));
}

static void fork_queues(Exec *exec, const ExecRun *run)
{
    Backend *backend = exec->backend;
    backend->record(backend, QUEUE_COMPUTE, exec->begin_event);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        if (branches(exec, run, q)) {
            backend->wait(backend, (Queue)q, exec->begin_event);
        }
    }
}

static void join_queues(Exec *exec, const ExecRun *run)
{
    Backend *backend = exec->backend;
    for (int q = 0; q < QUEUE_COUNT; q++) {
        if (branches(exec, run, q)) {
            backend->record(backend, (Queue)q, exec->end_event[q]);
            backend->wait(backend, QUEUE_COMPUTE, exec->end_event[q]);
        }
    }
}

static const Rung *smallest_rung(const Exec *exec, int rows)
{
    CHECK(rows > 0 && rows <= exec->graph.batch, "%d rows for a graph of batch %d", rows,
          exec->graph.batch);
    for (int r = 0; r < exec->n_rungs; r++) {
        if (exec->rungs[r].graph.batch >= rows) {
            return &exec->rungs[r];
        }
    }
    return exec_full_rung(exec);
}

/* Who looks on while the nodes run one by one; watch NULL: nobody. */
typedef struct {
    ExecWatch watch;
    void *context;
} Watcher;

static void run_step(Exec *exec, const Rung *rung, int index, const RunArgs *args,
                     const Watcher *watcher)
{
    Backend *backend = exec->backend;
    const PlanStep *plan_step = &exec->plan->steps[index];
    const Step *step = &rung->steps[plan_step->node];
    const Queue queue = (Queue)plan_step->queue;
    if (!exec->options.time_steps && !watcher->watch) {
        backend->run(backend, queue, step, args);
        return;
    }
    backend->sync(backend, queue);
    const double start = now_s();
    backend->run(backend, queue, step, args);
    backend->sync(backend, queue);
    const double seconds = now_s() - start;
    exec->times[index].seconds += seconds;
    exec->times[index].runs++;
    if (watcher->watch) {
        watcher->watch(watcher->context, &rung->graph, plan_step->node, seconds);
    }
}

static void run_steps(Exec *exec, const ExecRun *run, const Watcher *watcher)
{
    Backend *backend = exec->backend;
    const Rung *rung = smallest_rung(exec, run->rows);
    check_bound(exec);
    if (exec->options.poison) {
        poison(exec);
    }
    upload_scalars(exec, run);
    fork_queues(exec, run);
    RunArgs args[QUEUE_COUNT];
    for (int q = 0; q < QUEUE_COUNT; q++) {
        args[q] = args_of_queue(exec, q);
        args[q].grad_add = run->grad_add;
        args[q].rows = run->rows;
    }
    int next_reduction = reduces(exec, run) ? 0 : exec->n_reductions;
    exec_reduce_ready(exec, -1, &next_reduction);
    for (int i = 0; i < exec->plan->n_steps; i++) {
        const PlanStep *step = &exec->plan->steps[i];
        for (int w = 0; w < step->n_waits; w++) {
            backend->wait(backend, (Queue)step->queue, exec->step_event[step->waits[w]]);
        }
        if (run->bn_update || exec->graph.nodes[step->node].op != OP_BN_RUNNING) {
            run_step(exec, rung, i, &args[step->queue], watcher);
        }
        if (step->records) {
            backend->record(backend, (Queue)step->queue, exec->step_event[i]);
        }
        exec_reduce_ready(exec, i, &next_reduction);
    }
    join_queues(exec, run);
}

void exec_run(Exec *exec, const ExecRun *run)
{
    run_steps(exec, run, &(Watcher){0});
}

void exec_run_watched(Exec *exec, const ExecRun *run, ExecWatch watch, void *context)
{
    run_steps(exec, run, &(Watcher){.watch = watch, .context = context});
}

bool exec_peek(Exec *exec, const Graph *graph, int tensor, void *data)
{
    if (exec->plan->at[tensor].arena == ARENA_NONE) {
        return false;
    }
    Backend *backend = exec->backend;
    backend->download(backend, QUEUE_COMPUTE, data, address(exec, tensor),
                      tensor_bytes(&graph->tensors[tensor]));
    backend->sync(backend, QUEUE_COMPUTE);
    return true;
}

/* ---- Reports ---- */

const Plan *exec_plan(const Exec *exec)
{
    return exec->plan;
}

const Graph *exec_graph(const Exec *exec)
{
    return &exec->graph;
}

int exec_times(const Exec *exec, const ExecStepTime **out)
{
    *out = exec->times;
    return exec->plan->n_steps;
}

size_t exec_bytes(const Exec *exec, Arena arena)
{
    return exec->bytes[arena];
}
