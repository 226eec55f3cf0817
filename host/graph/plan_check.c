/* The proof of a memory plan, written apart from plan.c: happens-before as vector clocks (per step,
 * how far each queue is known to have come) instead of a bit matrix, dependencies recomputed from
 * the graph, every overlapping pair of tensors examined. It shares no helper with the planner. */
#include "graph/plan.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *g;
    const Plan *plan;
    int n_queues;
    int *position; /* per step: its place in its queue, from 1 */
    int *clock;    /* [step][queue]: steps of that queue that have ended before this one begins */
    int *first;    /* uses of tensor t: entries first[t] .. first[t+1]-1 of `use` */
    int *use;      /* steps, ascending per tensor */
    bool *use_writes;
} Proof;

static bool before(const Proof *p, int a, int b)
{
    return p->position[a] <=
           p->clock[(size_t)b * (size_t)p->n_queues + (size_t)p->plan->steps[a].queue];
}

static const Node *step_op(const Proof *p, int s)
{
    return &p->g->nodes[p->plan->steps[s].node];
}

/* --- the list of steps --- */

static char *check_step(const Proof *p, int s)
{
    const PlanStep *step = &p->plan->steps[s];
    if (step->node < 0 || step->node >= p->g->n_nodes) {
        return xformat("step %d runs node %d of %d", s, step->node, p->g->n_nodes);
    }
    const Node *node = &p->g->nodes[step->node];
    if (step->queue != node->queue || step->queue < 0) {
        return xformat("step %d, '%s', is on queue %d, its node on %d", s, node->name, step->queue,
                       node->queue);
    }
    for (int i = 0; i < step->n_waits; i++) {
        const int w = step->waits[i];
        if (w < 0 || w >= s) {
            return xformat("step %d, '%s', waits for step %d", s, node->name, w);
        }
        if (i > 0 && w <= step->waits[i - 1]) {
            return xformat("the waits of step %d, '%s', are not ascending", s, node->name);
        }
        if (!p->plan->steps[w].records) {
            return xformat("step %d, '%s', waits for step %d, which records no event", s,
                           node->name, w);
        }
    }
    return NULL;
}

/* Every node is a step or a weight node, once and in order. */
static char *check_coverage(const Proof *p)
{
    int s = 0;
    int w = 0;
    for (int i = 0; i < p->g->n_nodes; i++) {
        const bool weights = p->g->nodes[i].stage == STAGE_WEIGHTS;
        const bool found = weights ? w < p->plan->n_weight_nodes && p->plan->weight_nodes[w] == i
                                   : s < p->plan->n_steps && p->plan->steps[s].node == i;
        if (!found) {
            return xformat("node %d, '%s', is not where the plan should have it", i,
                           p->g->nodes[i].name);
        }
        w += weights ? 1 : 0;
        s += weights ? 0 : 1;
    }
    if (s != p->plan->n_steps || w != p->plan->n_weight_nodes) {
        return xformat("the plan has %d + %d nodes, the graph %d", p->plan->n_steps,
                       p->plan->n_weight_nodes, p->g->n_nodes);
    }
    for (s = 0; s < p->plan->n_steps; s++) {
        char *wrong = check_step(p, s);
        if (wrong != NULL) {
            return wrong;
        }
    }
    return NULL;
}

static void clock_join(int *clock, const int *other, int n)
{
    for (int q = 0; q < n; q++) {
        clock[q] = other[q] > clock[q] ? other[q] : clock[q];
    }
}

static void run_clocks(Proof *p)
{
    const int n_steps = p->plan->n_steps;
    for (int s = 0; s < n_steps; s++) {
        p->n_queues =
            p->plan->steps[s].queue >= p->n_queues ? p->plan->steps[s].queue + 1 : p->n_queues;
    }
    const size_t width = (size_t)p->n_queues;
    p->position = xcalloc((size_t)n_steps + 1, sizeof *p->position);
    p->clock = xcalloc(((size_t)n_steps + 1) * (width + 1), sizeof *p->clock);
    int *last = xcalloc(width + 1, sizeof *last); /* step + 1, 0 = none yet */
    for (int s = 0; s < n_steps; s++) {
        const PlanStep *step = &p->plan->steps[s];
        int *clock = p->clock + (size_t)s * width;
        const int previous = last[step->queue] - 1;
        if (previous >= 0) {
            clock_join(clock, p->clock + (size_t)previous * width, p->n_queues);
            clock[step->queue] = p->position[previous];
        }
        for (int i = 0; i < step->n_waits; i++) {
            const int w = step->waits[i];
            const int queue = p->plan->steps[w].queue;
            clock_join(clock, p->clock + (size_t)w * width, p->n_queues);
            clock[queue] = p->position[w] > clock[queue] ? p->position[w] : clock[queue];
        }
        p->position[s] = previous >= 0 ? p->position[previous] + 1 : 1;
        last[step->queue] = s + 1;
    }
    free(last);
}

/* --- who touches what --- */

/* How step s touches tensor t: bit 0 reads, bit 1 writes. */
static int touches(const Proof *p, int s, int t)
{
    const Node *node = step_op(p, s);
    const Tensor *tensor = &p->g->tensors[t];
    int how = 0;
    for (int k = 0; k < node->n_in; k++) {
        how |= node->in[k] == t ? 1 : 0;
    }
    for (int k = 0; k < node->n_out; k++) {
        how |= node->out[k] == t ? 2 : 0;
    }
    if (node->op == OP_SGD || node->op == OP_GRAD_NORM) {
        how |= tensor->kind == TENSOR_GRAD ? 1 : 0;
    }
    if (node->op == OP_SGD && tensor->kind == TENSOR_PARAM) {
        how |= p->g->params->items[tensor->param].arena == ARENA_WEIGHT ? 2 : 0;
    }
    return how;
}

/* Counts the uses of every tensor, or with `fill` enters them; for nodes that work on whole arenas
 * every tensor is tried. */
static void collect_uses(Proof *p, bool fill)
{
    const int n = p->g->n_tensors;
    int *seen = xmalloc(((size_t)n + 1) * sizeof *seen);
    memset(seen, 0xFF, ((size_t)n + 1) * sizeof *seen);
    for (int s = 0; s < p->plan->n_steps; s++) {
        const Node *node = step_op(p, s);
        const bool whole_arena = node->op == OP_SGD || node->op == OP_GRAD_NORM;
        const int tries = whole_arena ? n : node->n_in + node->n_out;
        for (int i = 0; i < tries; i++) {
            int t = i;
            if (!whole_arena) {
                t = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
            }
            const int how = t >= 0 ? touches(p, s, t) : 0;
            if (how == 0 || seen[t] == s) {
                continue;
            }
            seen[t] = s;
            if (fill) {
                p->use[p->first[t + 1]] = s;
                p->use_writes[p->first[t + 1]] = (how & 2) != 0;
                p->first[t + 1]++;
            } else {
                p->first[t + 2]++;
            }
        }
    }
    free(seen);
}

static void list_uses(Proof *p)
{
    const int n = p->g->n_tensors;
    p->first = xcalloc((size_t)n + 3, sizeof *p->first);
    collect_uses(p, false);
    for (int t = 0; t <= n; t++) {
        p->first[t + 1] += p->first[t];
    }
    const size_t total = (size_t)p->first[n + 1] + 1;
    p->use = xmalloc(total * sizeof *p->use);
    p->use_writes = xmalloc(total * sizeof *p->use_writes);
    collect_uses(p, true);
}

/* Of any two uses of a tensor of which at least one writes, the earlier ends before the later
 * begins. */
static char *check_dependencies(const Proof *p)
{
    for (int t = 0; t < p->g->n_tensors; t++) {
        for (int i = p->first[t]; i < p->first[t + 1]; i++) {
            for (int k = p->first[t]; k < i; k++) {
                if ((p->use_writes[i] || p->use_writes[k]) && !before(p, p->use[k], p->use[i])) {
                    return xformat("step %d, '%s', does not wait for step %d, '%s', though both "
                                   "use tensor '%s'",
                                   p->use[i], step_op(p, p->use[i])->name, p->use[k],
                                   step_op(p, p->use[k])->name, p->g->tensors[t].name);
                }
            }
        }
    }
    return NULL;
}

/* --- where things lie --- */

static bool node_uses(const Node *node, int t)
{
    bool uses = false;
    for (int k = 0; k < node->n_in; k++) {
        uses = uses || node->in[k] == t;
    }
    for (int k = 0; k < node->n_out; k++) {
        uses = uses || node->out[k] == t;
    }
    return uses;
}

static char *check_place(const Proof *p, int t, bool used, bool by_weights)
{
    const Tensor *tensor = &p->g->tensors[t];
    const Placement *at = &p->plan->at[t];
    if (at->arena == ARENA_NONE) {
        return used ? xformat("tensor '%s' is used but has no memory", tensor->name) : NULL;
    }
    if (at->arena < 0 || at->arena >= ARENA_COUNT) {
        return xformat("tensor '%s' is in the unknown arena %d", tensor->name, (int)at->arena);
    }
    if (at->bytes < tensor_bytes(tensor)) {
        return xformat("tensor '%s' has %zu bytes, it needs %zu", tensor->name, at->bytes,
                       tensor_bytes(tensor));
    }
    if (at->offset % dtype_size(tensor->dtype) != 0) {
        return xformat("tensor '%s' is not aligned: offset %zu", tensor->name, at->offset);
    }
    if (at->offset > p->plan->arena_bytes[at->arena] ||
        at->bytes > p->plan->arena_bytes[at->arena] - at->offset) {
        return xformat("tensor '%s' ends at byte %zu of an arena of %zu", tensor->name,
                       at->offset + at->bytes, p->plan->arena_bytes[at->arena]);
    }
    Arena arena = tensor->output || by_weights ? ARENA_PERSIST : ARENA_ACT;
    if (tensor->kind == TENSOR_INPUT) {
        arena = ARENA_IO;
    } else if (tensor->kind == TENSOR_SHARED) {
        arena = ARENA_SHARED;
        if (at->offset != (size_t)tensor->shared) {
            return xformat("shared tensor '%s' is at %zu, it belongs at %d", tensor->name,
                           at->offset, tensor->shared);
        }
    } else if (tensor->kind == TENSOR_GRAD || tensor->kind == TENSOR_PARAM) {
        const Param *param = &p->g->params->items[tensor->param];
        arena = tensor->kind == TENSOR_GRAD ? ARENA_GRAD : param->arena;
        if (at->offset != param->offset * dtype_size(p->g->math)) {
            return xformat("tensor '%s' is at %zu, its parameter at element %zu", tensor->name,
                           at->offset, param->offset);
        }
    }
    if (at->arena != arena) {
        return xformat("tensor '%s' is in arena %d, it belongs in %d", tensor->name, (int)at->arena,
                       (int)arena);
    }
    return NULL;
}

static char *check_places(const Proof *p)
{
    bool *used = xcalloc((size_t)p->g->n_tensors + 1, sizeof *used);
    bool *by_weights = xcalloc((size_t)p->g->n_tensors + 1, sizeof *by_weights);
    for (int i = 0; i < p->g->n_nodes; i++) {
        const Node *node = &p->g->nodes[i];
        for (int k = 0; k < node->n_in + node->n_out; k++) {
            const int t = k < node->n_in ? node->in[k] : node->out[k - node->n_in];
            if (t >= 0) {
                used[t] = true;
                by_weights[t] = by_weights[t] || (k >= node->n_in && node->stage == STAGE_WEIGHTS);
            }
        }
    }
    char *wrong = NULL;
    for (int t = 0; wrong == NULL && t < p->g->n_tensors; t++) {
        wrong = check_place(p, t, used[t], by_weights[t]);
    }
    free(used);
    free(by_weights);
    return wrong;
}

/* All uses of a end before any use of b begins. */
static bool all_before(const Proof *p, int a, int b)
{
    for (int i = p->first[a]; i < p->first[a + 1]; i++) {
        for (int k = p->first[b]; k < p->first[b + 1]; k++) {
            if (!before(p, p->use[i], p->use[k])) {
                return false;
            }
        }
    }
    return true;
}

/* b is written in the place of a: by a node that reads a element by element and is a's last use. */
static bool legal_inplace(const Proof *p, int a, int b)
{
    const Tensor *ta = &p->g->tensors[a];
    const Tensor *tb = &p->g->tensors[b];
    if (p->first[b] == p->first[b + 1] || p->plan->at[a].offset != p->plan->at[b].offset ||
        ta->dtype != tb->dtype || tensor_bytes(ta) != tensor_bytes(tb)) {
        return false;
    }
    const int s = p->use[p->first[b]];
    const Node *node = step_op(p, s);
    if (!p->use_writes[p->first[b]] || !node_uses(node, a)) {
        return false;
    }
    int out_slot = 0;
    while (node->out[out_slot] != b) {
        out_slot++;
    }
    for (int k = 0; k < node->n_in; k++) {
        bool allowed = node->in[k] != a;
        for (int c = 0; !allowed && op_inplace_input(node->op, out_slot, c) >= 0; c++) {
            allowed = op_inplace_input(node->op, out_slot, c) == k;
        }
        if (!allowed) {
            return false;
        }
    }
    for (int k = 0; k < node->n_out; k++) {
        if (node->out[k] == a) {
            return false;
        }
    }
    for (int i = p->first[a]; i < p->first[a + 1]; i++) {
        if (p->use[i] != s && !before(p, p->use[i], s)) {
            return false;
        }
    }
    /* What follows on b must follow s. */
    for (int i = p->first[b] + 1; i < p->first[b + 1]; i++) {
        if (!before(p, s, p->use[i])) {
            return false;
        }
    }
    return true;
}

static bool may_overlap(const Proof *p, int a, int b)
{
    if (p->plan->at[a].arena != ARENA_ACT) {
        return false;
    }
    return all_before(p, a, b) || all_before(p, b, a) || legal_inplace(p, a, b) ||
           legal_inplace(p, b, a);
}

typedef struct {
    Arena arena;
    size_t begin, end;
    int tensor;
} Extent;

static int by_place(const void *a, const void *b)
{
    const Extent *x = a;
    const Extent *y = b;
    if (x->arena != y->arena) {
        return x->arena < y->arena ? -1 : 1;
    }
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->tensor - y->tensor;
}

static char *check_overlaps(const Proof *p)
{
    Extent *extents = xmalloc(((size_t)p->g->n_tensors + 1) * sizeof *extents);
    int n = 0;
    for (int t = 0; t < p->g->n_tensors; t++) {
        const Placement *at = &p->plan->at[t];
        if (at->arena != ARENA_NONE && at->bytes > 0) {
            extents[n++] = (Extent){at->arena, at->offset, at->offset + at->bytes, t};
        }
    }
    qsort(extents, (size_t)n, sizeof *extents, by_place);
    char *wrong = NULL;
    for (int i = 0; wrong == NULL && i < n; i++) {
        for (int k = i + 1;
             k < n && extents[k].arena == extents[i].arena && extents[k].begin < extents[i].end;
             k++) {
            if (!may_overlap(p, extents[i].tensor, extents[k].tensor)) {
                const Tensor *a = &p->g->tensors[extents[i].tensor];
                const Tensor *b = &p->g->tensors[extents[k].tensor];
                wrong = xformat("tensors '%s' [%zu, %zu) and '%s' [%zu, %zu) of arena %d overlap "
                                "while both are live",
                                a->name, extents[i].begin, extents[i].end, b->name,
                                extents[k].begin, extents[k].end, (int)extents[i].arena);
                break;
            }
        }
    }
    free(extents);
    return wrong;
}

/* A bucket may leave when its last writer has ended, not before. */
static char *check_ready(const Proof *p)
{
    const int count = p->g->params != NULL ? p->g->params->count : 0;
    int *last = xmalloc(((size_t)count + 1) * sizeof *last);
    memset(last, 0xFF, ((size_t)count + 1) * sizeof *last);
    for (int t = 0; t < p->g->n_tensors; t++) {
        for (int i = p->first[t]; p->g->tensors[t].kind == TENSOR_GRAD && i < p->first[t + 1];
             i++) {
            if (p->use_writes[i]) {
                last[p->g->tensors[t].param] = p->use[i];
            }
        }
    }
    char *wrong = NULL;
    for (int i = 0; wrong == NULL && i < count; i++) {
        if (p->plan->param_ready[i] != last[i]) {
            wrong = xformat("the gradient of '%s' is complete after step %d, the plan says %d",
                            p->g->params->items[i].name, last[i], p->plan->param_ready[i]);
        }
    }
    free(last);
    return wrong;
}

char *plan_check(const Graph *g, const Plan *plan)
{
    if (plan->n_tensors != g->n_tensors) {
        return xformat("the plan places %d tensors, the graph has %d", plan->n_tensors,
                       g->n_tensors);
    }
    Proof p = {.g = g, .plan = plan};
    char *wrong = check_coverage(&p);
    if (wrong != NULL) {
        return wrong;
    }
    run_clocks(&p);
    list_uses(&p);
    wrong = check_places(&p);
    if (wrong == NULL) {
        wrong = check_dependencies(&p);
    }
    if (wrong == NULL) {
        wrong = check_ready(&p);
    }
    if (wrong == NULL) {
        wrong = check_overlaps(&p);
    }
    free(p.position);
    free(p.clock);
    free(p.first);
    free(p.use);
    free(p.use_writes);
    return wrong;
}
