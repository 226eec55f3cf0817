/* Executes a graph: one plan for the largest batch, one set of prepared steps for each rung of
 * the batch-size ladder. Every run begins and ends on QUEUE_COMPUTE: other queues wait for its
 * begin, and it waits for their end, so that runs, uploads and refreshes of one Exec are in
 * order without the caller's help. Device memory is only touched through the backend's table. */
#include "backend/exec.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum {
    STAGING_SLOTS = 64, /* runs whose scalars may be on their way at once */
    WORKSPACE_ALIGN = 256,
    POISON = 0xFF /* bytes that are a NaN in every floating-point type */
};

typedef struct {
    Graph graph;
    Step *steps; /* per node; weights-stage nodes are prepared in the largest rung only */
    bool *prepared;
} Rung;

typedef struct {
    float rows_valid, scale;
} Scalars;

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
    Scalars *staging; /* STAGING_SLOTS in memory that the device reads */
    int staged;
    ExecStepTime *times; /* per plan step */
};

/* ---- Opening ---- */

static void fuse(Exec *exec)
{
    for (;;) {
        FuseCandidate *candidates = NULL;
        const int count =
            fusion_candidates(&exec->graph, FUSE_ALL & ~exec->options.fusion_off, &candidates);
        bool *verdict = xcalloc((size_t)count + 1, sizeof *verdict);
        for (int i = 0; i < count; i++) {
            verdict[i] = exec->backend->accepts(exec->backend, &candidates[i]);
        }
        const int formed = fusion_apply(&exec->graph, candidates, verdict, count);
        free(verdict);
        free(candidates);
        if (formed == 0) {
            return;
        }
    }
}

static void check_plan(const Exec *exec)
{
    char *wrong = graph_validate(&exec->graph);
    CHECK(!wrong, "graph after fusion: %s", wrong);
    wrong = plan_check(&exec->graph, exec->plan);
    CHECK(!wrong, "memory plan: %s", wrong);
}

static int compare_int(const void *a, const void *b)
{
    const int x = *(const int *)a;
    const int y = *(const int *)b;
    return (x > y) - (x < y);
}

static void make_rungs(Exec *exec, const int *ladder, int ladder_count)
{
    int *batches = xcalloc((size_t)ladder_count + 1, sizeof *batches);
    batches[0] = exec->graph.batch;
    for (int i = 0; i < ladder_count; i++) {
        CHECK(ladder[i] > 0 && ladder[i] <= exec->graph.batch,
              "ladder size %d of a graph of batch %d", ladder[i], exec->graph.batch);
        batches[i + 1] = ladder[i];
    }
    qsort(batches, (size_t)ladder_count + 1, sizeof *batches, compare_int);
    exec->rungs = xcalloc((size_t)ladder_count + 1, sizeof *exec->rungs);
    for (int i = 0; i <= ladder_count; i++) {
        if (i > 0 && batches[i] == batches[i - 1]) {
            continue;
        }
        Rung *rung = &exec->rungs[exec->n_rungs++];
        rung->graph = graph_rebatch(&exec->graph, batches[i]);
        rung->steps = xcalloc((size_t)rung->graph.n_nodes + 1, sizeof *rung->steps);
        rung->prepared = xcalloc((size_t)rung->graph.n_nodes + 1, sizeof *rung->prepared);
    }
    free(batches);
}

static Rung *full_rung(const Exec *exec)
{
    return &exec->rungs[exec->n_rungs - 1];
}

/* Prepares one node and widens the workspace of its queue. */
static Err *prepare_node(Exec *exec, Rung *rung, int node, size_t workspace[QUEUE_COUNT])
{
    Step *step = &rung->steps[node];
    *step = (Step){.graph = &rung->graph, .plan = exec->plan, .node = node};
    const Node *n = step_node(step);
    Err *err = exec->backend->prepare(exec->backend, step);
    if (err) {
        return err_context(err, "%s: step '%s' (%s) at batch %d", exec->backend->name, n->name,
                           op_name(n->op), rung->graph.batch);
    }
    rung->prepared[node] = true;
    const int queue = n->stage == STAGE_WEIGHTS ? QUEUE_COMPUTE : n->queue;
    workspace[queue] = step->workspace > workspace[queue] ? step->workspace : workspace[queue];
    return NULL;
}

static Err *prepare_all(Exec *exec)
{
    const Plan *plan = exec->plan;
    size_t workspace[QUEUE_COUNT] = {0};
    for (int i = 0; i < plan->n_weight_nodes; i++) {
        TRY(prepare_node(exec, full_rung(exec), plan->weight_nodes[i], workspace));
    }
    for (int r = exec->n_rungs - 1; r >= 0; r--) {
        for (int i = 0; i < plan->n_steps; i++) {
            TRY(prepare_node(exec, &exec->rungs[r], plan->steps[i].node, workspace));
        }
    }
    size_t total = 0;
    for (int q = 0; q < QUEUE_COUNT; q++) {
        exec->workspace_offset[q] = total;
        total += (workspace[q] + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
    }
    exec->bytes[ARENA_WORKSPACE] = total;
    return NULL;
}

static bool owns_arena(const Exec *exec, Arena arena)
{
    const bool scratch = arena == ARENA_ACT || arena == ARENA_WORKSPACE;
    return arena == ARENA_PERSIST || arena == ARENA_IO ||
           (scratch && !exec->options.shared_scratch);
}

static Err *allocate(Exec *exec)
{
    for (int a = 0; a < ARENA_COUNT; a++) {
        if (a != ARENA_WORKSPACE) {
            exec->bytes[a] = exec->plan->arena_bytes[a];
        }
        if (!owns_arena(exec, (Arena)a) || exec->bytes[a] == 0) {
            continue;
        }
        exec->own[a] = exec->backend->alloc(exec->backend, MEM_DEVICE, exec->bytes[a]);
        if (!exec->own[a]) {
            return err_new(EXIT_DEVICE_MEMORY,
                           "%s: out of memory for a graph of batch %d, which needs: activations "
                           "%.1f MiB, outputs "
                           "%.1f MiB, inputs %.1f MiB, workspace %.1f MiB; lower the batch size",
                           exec->backend->name, exec->graph.batch,
                           (double)exec->plan->arena_bytes[ARENA_ACT] / 0x1p20,
                           (double)exec->plan->arena_bytes[ARENA_PERSIST] / 0x1p20,
                           (double)exec->plan->arena_bytes[ARENA_IO] / 0x1p20,
                           (double)exec->bytes[ARENA_WORKSPACE] / 0x1p20);
        }
        exec->args.arena[a] = exec->own[a];
    }
    exec->staging =
        exec->backend->alloc(exec->backend, MEM_HOST, STAGING_SLOTS * sizeof *exec->staging);
    return exec->staging
               ? NULL
               : err_new(EXIT_DEVICE_MEMORY, "%s: out of host memory for the step's scalars",
                         exec->backend->name);
}

/* Which nodes read parameters that training changes; and which arenas must be bound. */
static void find_parameters(Exec *exec)
{
    const Graph *g = &exec->graph;
    exec->follows_training = xcalloc((size_t)g->n_nodes + 1, sizeof *exec->follows_training);
    for (int n = 0; n < g->n_nodes; n++) {
        const Node *node = &g->nodes[n];
        for (int i = 0; i < node->n_in; i++) {
            const Tensor *t = node->in[i] >= 0 ? &g->tensors[node->in[i]] : NULL;
            if (!t) {
                continue;
            }
            if (t->kind == TENSOR_PARAM) {
                exec->follows_training[n] |= g->params->items[t->param].trainable;
            } else if (t->producer >= 0 && g->nodes[t->producer].stage == STAGE_WEIGHTS) {
                exec->follows_training[n] |= exec->follows_training[t->producer];
            }
        }
        if (node->op == OP_SGD || node->op == OP_GRAD_NORM) {
            exec->arena_used[ARENA_GRAD] = true;
        }
        if (node->op == OP_SGD) {
            exec->arena_used[ARENA_WEIGHT] = true;
            exec->needs_moment = true;
        }
    }
    for (int t = 0; t < g->n_tensors; t++) {
        exec->arena_used[exec->plan->at[t].arena] = true;
    }
    exec->arena_used[ARENA_NONE] = false;
    exec->arena_used[ARENA_WORKSPACE] = exec->bytes[ARENA_WORKSPACE] > 0;
}

static void make_events(Exec *exec)
{
    const Plan *plan = exec->plan;
    exec->step_event = xcalloc((size_t)plan->n_steps + 1, sizeof *exec->step_event);
    exec->times = xcalloc((size_t)plan->n_steps + 1, sizeof *exec->times);
    for (int i = 0; i < plan->n_steps; i++) {
        const PlanStep *step = &plan->steps[i];
        const Node *node = &exec->graph.nodes[step->node];
        exec->step_event[i] = step->records ? exec->backend->event(exec->backend) : -1;
        exec->queue_used[step->queue] = true;
        exec->times[i] = (ExecStepTime){.node = node->name, .op = op_name(node->op)};
    }
    exec->queue_used[QUEUE_COMPUTE] = true;
    exec->begin_event = exec->backend->event(exec->backend);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        exec->end_event[q] = exec->queue_used[q] ? exec->backend->event(exec->backend) : -1;
    }
}

Err *exec_open(Backend *backend, const Graph *graph, const ExecOptions *options, Exec **out)
{
    static const ExecOptions defaults;
    *out = NULL;
    Exec *exec = xcalloc(1, sizeof *exec);
    exec->backend = backend;
    exec->options = options ? *options : defaults;
    exec->options.ladder = NULL; /* the caller's memory: used below only */
    exec->graph = graph_copy(graph);
    fuse(exec);
    exec->plan = plan_build(&exec->graph, &exec->options.plan);
    if (exec->options.check_plan) {
        check_plan(exec);
    }
    make_rungs(exec, options ? options->ladder : NULL,
               options && options->ladder ? options->ladder_count : 0);
    Err *err = prepare_all(exec);
    if (!err) {
        err = allocate(exec);
    }
    if (err) {
        exec_close(exec);
        return err;
    }
    find_parameters(exec);
    make_events(exec);
    *out = exec;
    return NULL;
}

void exec_close(Exec *exec)
{
    if (!exec) {
        return;
    }
    Backend *backend = exec->backend;
    for (int q = 0; q < QUEUE_COUNT; q++) {
        backend->sync(backend, (Queue)q);
    }
    for (int r = 0; r < exec->n_rungs; r++) {
        Rung *rung = &exec->rungs[r];
        for (int n = 0; n < rung->graph.n_nodes; n++) {
            if (rung->prepared[n]) {
                backend->release(backend, &rung->steps[n]);
            }
        }
        free(rung->steps);
        free(rung->prepared);
        graph_free(&rung->graph);
    }
    for (int a = 0; a < ARENA_COUNT; a++) {
        if (exec->own[a]) {
            backend->free(backend, MEM_DEVICE, exec->own[a]);
        }
    }
    if (exec->staging) {
        backend->free(backend, MEM_HOST, exec->staging);
    }
    free(exec->rungs);
    free(exec->follows_training);
    free(exec->step_event);
    free(exec->times);
    plan_free(exec->plan);
    graph_free(&exec->graph);
    free(exec);
}

/* ---- Binding and tensors ---- */

void exec_bind(Exec *exec, Arena arena, void *base)
{
    const bool parameters = arena == ARENA_WEIGHT || arena == ARENA_GRAD || arena == ARENA_FROZEN ||
                            arena == ARENA_STATE;
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
    const RunArgs args = args_of_queue(exec, QUEUE_COMPUTE);
    for (int i = 0; i < exec->plan->n_weight_nodes; i++) {
        const int node = exec->plan->weight_nodes[i];
        if (!trainable_only || exec->follows_training[node]) {
            backend->run(backend, QUEUE_COMPUTE, &full_rung(exec)->steps[node], &args);
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

/* The source must stay until the device has read it, hence slots; they turn over only if the
 * caller never synchronises. */
static void upload_scalars(Exec *exec, const ExecRun *run)
{
    if (exec->staged == STAGING_SLOTS) {
        exec_sync(exec);
    }
    Scalars *slot = &exec->staging[exec->staged++];
    *slot = (Scalars){.rows_valid = (float)run->rows, .scale = run->scale};
    upload_scalar(exec, "rows_valid", &slot->rows_valid);
    upload_scalar(exec, "scale", &slot->scale);
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

static void fork_queues(Exec *exec)
{
    Backend *backend = exec->backend;
    backend->record(backend, QUEUE_COMPUTE, exec->begin_event);
    for (int q = 0; q < QUEUE_COUNT; q++) {
        if (exec->queue_used[q] && q != QUEUE_COMPUTE) {
            backend->wait(backend, (Queue)q, exec->begin_event);
        }
    }
}

static void join_queues(Exec *exec)
{
    Backend *backend = exec->backend;
    for (int q = 0; q < QUEUE_COUNT; q++) {
        if (exec->queue_used[q] && q != QUEUE_COMPUTE) {
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
    return full_rung(exec);
}

static void run_step(Exec *exec, const Rung *rung, int index, const RunArgs *args)
{
    Backend *backend = exec->backend;
    const PlanStep *plan_step = &exec->plan->steps[index];
    const Step *step = &rung->steps[plan_step->node];
    const Queue queue = (Queue)plan_step->queue;
    if (!exec->options.time_steps) {
        backend->run(backend, queue, step, args);
        return;
    }
    backend->sync(backend, queue);
    const double start = now_s();
    backend->run(backend, queue, step, args);
    backend->sync(backend, queue);
    exec->times[index].seconds += now_s() - start;
    exec->times[index].runs++;
}

void exec_run(Exec *exec, const ExecRun *run)
{
    Backend *backend = exec->backend;
    const Rung *rung = smallest_rung(exec, run->rows);
    check_bound(exec);
    if (exec->options.poison) {
        poison(exec);
    }
    upload_scalars(exec, run);
    fork_queues(exec);
    RunArgs args[QUEUE_COUNT];
    for (int q = 0; q < QUEUE_COUNT; q++) {
        args[q] = args_of_queue(exec, q);
        args[q].grad_add = run->grad_add;
    }
    for (int i = 0; i < exec->plan->n_steps; i++) {
        const PlanStep *step = &exec->plan->steps[i];
        for (int w = 0; w < step->n_waits; w++) {
            backend->wait(backend, (Queue)step->queue, exec->step_event[step->waits[w]]);
        }
        if (run->bn_update || exec->graph.nodes[step->node].op != OP_BN_RUNNING) {
            run_step(exec, rung, i, &args[step->queue]);
        }
        if (step->records) {
            backend->record(backend, (Queue)step->queue, exec->step_event[i]);
        }
    }
    join_queues(exec);
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
