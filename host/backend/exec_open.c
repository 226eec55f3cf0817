/* Makes an executor: fuses and plans a copy of the graph, prepares every step for every rung of the ladder, allocates what
 * is its own. */
#include "exec_state.h"

#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_ALIGN = 256 };

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
        TRY(prepare_node(exec, exec_full_rung(exec), plan->weight_nodes[i], workspace));
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

static void set_sizes(Exec *exec)
{
    for (int a = 0; a < ARENA_COUNT; a++) {
        if (a != ARENA_WORKSPACE) {
            exec->bytes[a] = exec->plan->arena_bytes[a];
        }
    }
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

static void list_times(Exec *exec)
{
    const Plan *plan = exec->plan;
    exec->times = xcalloc((size_t)plan->n_steps + 1, sizeof *exec->times);
    for (int i = 0; i < plan->n_steps; i++) {
        const Node *node = &exec->graph.nodes[plan->steps[i].node];
        exec->times[i] = (ExecStepTime){.node = node->name, .op = op_name(node->op)};
    }
}

static void make_events(Exec *exec)
{
    const Plan *plan = exec->plan;
    exec->step_event = xcalloc((size_t)plan->n_steps + 1, sizeof *exec->step_event);
    for (int i = 0; i < plan->n_steps; i++) {
        const PlanStep *step = &plan->steps[i];
        exec->step_event[i] = step->records ? exec->backend->event(exec->backend) : -1;
        exec->queue_used[step->queue] = true;
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
    set_sizes(exec);
    Err *err = prepare_all(exec);
    if (!err && !exec->options.plan_only) {
        err = allocate(exec);
    }
    if (err) {
        exec_close(exec);
        return err;
    }
    find_parameters(exec);
    list_times(exec);
    if (!exec->options.plan_only) {
        make_events(exec);
    }
    *out = exec;
    return NULL;
}

void exec_close(Exec *exec)
{
    if (!exec) {
        return;
    }
    Backend *backend = exec->backend;
    for (int q = 0; q < QUEUE_COUNT && !exec->options.plan_only; q++) {
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
    free(exec->reductions);
    plan_free(exec->plan);
    graph_free(&exec->graph);
    free(exec);
}
