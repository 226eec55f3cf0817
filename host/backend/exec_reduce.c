/* Gradient reductions under way while backward runs. A bucket leaves when the step that completes it has been submitted:
 * every queue that writes gradients of the bucket records an event there, QUEUE_COMM waits for them and gets the
 * reduction. The run's end joins QUEUE_COMM (exec.c). */
#include "exec_state.h"

#include <string.h>

static bool writes_bucket(const Exec *exec, const Node *node, const Bucket *bucket)
{
    const size_t unit = dtype_size(exec->graph.math);
    for (int o = 0; o < node->n_out; o++) {
        const int tensor = node->out[o];
        if (tensor < 0 || exec->graph.tensors[tensor].kind != TENSOR_GRAD) {
            continue;
        }
        const Placement *at = &exec->plan->at[tensor];
        const size_t first = at->offset / unit;
        const size_t end = first + at->bytes / unit;
        if (first < bucket->first + bucket->count && end > bucket->first) {
            return true;
        }
    }
    return false;
}

/* Only the last step of a bucket is known by number; earlier ones on other queues may still run, so each queue that
 * writes into the bucket is waited for. */
static void find_writers(const Exec *exec, Reduction *r)
{
    for (int i = 0; i <= r->bucket.ready_step; i++) {
        const PlanStep *step = &exec->plan->steps[i];
        if (step->queue != QUEUE_COMM &&
            writes_bucket(exec, &exec->graph.nodes[step->node], &r->bucket)) {
            r->writes[step->queue] = true;
        }
    }
}

static void check_graph(const Exec *exec)
{
    for (int n = 0; n < exec->graph.n_nodes; n++) {
        const Op op = exec->graph.nodes[n].op;
        CHECK(op != OP_SGD && op != OP_GRAD_NORM,
              "%s reads gradients inside the run that reduces them: give it a graph of its own",
              op_name(op));
    }
}

void exec_set_reduce(Exec *exec, const Bucket *buckets, int count, ExecReduce reduce, void *context)
{
    const int had = (int)exec->reduction_capacity;
    CHECK(!exec->options.plan_only, "an executor opened with plan_only cannot reduce");
    if (count > 0) {
        check_graph(exec);
        exec->arena_used[ARENA_GRAD] = true;
        exec->reductions = xgrow(exec->reductions, &exec->reduction_capacity, (size_t)count,
                                 sizeof *exec->reductions);
    }
    for (int i = had; i < (int)exec->reduction_capacity; i++) {
        memset(exec->reductions[i].event, 0xFF, sizeof exec->reductions[i].event);
    }
    for (int i = 0; i < count; i++) {
        Reduction *r = &exec->reductions[i];
        r->bucket = buckets[i];
        memset(r->writes, 0, sizeof r->writes);
        CHECK(r->bucket.ready_step < exec->plan->n_steps, "bucket of step %d of %d",
              r->bucket.ready_step, exec->plan->n_steps);
        CHECK(i == 0 || r->bucket.ready_step >= buckets[i - 1].ready_step,
              "buckets do not ascend: step %d after %d", r->bucket.ready_step,
              buckets[i - 1].ready_step);
        find_writers(exec, r);
        for (int q = 0; q < QUEUE_COUNT; q++) {
            if (r->writes[q] && r->event[q] < 0) {
                r->event[q] = exec->backend->event(exec->backend);
            }
        }
    }
    if (count > 0 && exec->end_event[QUEUE_COMM] < 0) {
        exec->end_event[QUEUE_COMM] = exec->backend->event(exec->backend);
    }
    exec->n_reductions = count;
    exec->reduce = reduce;
    exec->reduce_context = context;
}

void exec_reduce_ready(Exec *exec, int step, int *next)
{
    Backend *backend = exec->backend;
    const size_t unit = dtype_size(exec->graph.math);
    while (*next < exec->n_reductions && exec->reductions[*next].bucket.ready_step <= step) {
        const Reduction *r = &exec->reductions[(*next)++];
        for (int q = 0; q < QUEUE_COUNT; q++) {
            if (r->writes[q]) {
                backend->record(backend, (Queue)q, r->event[q]);
                backend->wait(backend, QUEUE_COMM, r->event[q]);
            }
        }
        exec->reduce(exec->reduce_context, backend, &r->bucket,
                     (char *)exec->args.arena[ARENA_GRAD] + r->bucket.first * unit);
    }
}
