/* Places tensors and orders steps in three passes: data dependencies give the event waits and the
 * happens-before relation (a bit matrix over steps); tensors that one memory can serve in turn at
 * the same place (in-place outputs) become blocks; blocks get offsets, the biggest first, each in
 * the tightest gap that the blocks it is live together with leave. On residual networks this
 * reaches the lower bound, the most bytes live at one step. */
#include "graph/plan.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_QUEUES = 16, DEFAULT_ALIGN = 64 };

typedef struct {
    int *items;
    int count;
    size_t capacity;
} StepList;

typedef struct {
    Graph *g;
    Plan *plan;
    PlanOptions options;
    uint64_t *before; /* row s: the steps that end before s begins */
    size_t row_words;
    StepList *uses; /* per tensor: steps that read or write it, ascending */
    int *def;       /* per tensor: the step that writes it first, -1 = none */
    int *block; /* per tensor: representative of its block (in-place chain), itself when alone */
    int queue_of_prev[MAX_QUEUES];
} Planner;

static void list_add(StepList *list, int step)
{
    if (list->count > 0 && list->items[list->count - 1] == step) {
        return;
    }
    list->items =
        xgrow(list->items, &list->capacity, (size_t)list->count + 1, sizeof list->items[0]);
    list->items[list->count++] = step;
}

static bool happens_before(const Planner *p, int a, int b)
{
    return p->before[(size_t)b * p->row_words + (size_t)a / 64] >> (a % 64) & 1u;
}

static void row_add(Planner *p, int s, int earlier)
{
    uint64_t *row = p->before + (size_t)s * p->row_words;
    const uint64_t *from = p->before + (size_t)earlier * p->row_words;
    for (size_t w = 0; w < p->row_words; w++) {
        row[w] |= from[w];
    }
    row[earlier / 64] |= (uint64_t)1 << (earlier % 64);
}

static size_t align_up(size_t bytes, size_t align)
{
    return (bytes + align - 1) / align * align;
}

/* Steps and weight nodes in node order. */
static void list_steps(Planner *p)
{
    Plan *plan = p->plan;
    const Graph *g = p->g;
    plan->steps = xcalloc((size_t)g->n_nodes + 1, sizeof *plan->steps);
    plan->weight_nodes = xcalloc((size_t)g->n_nodes + 1, sizeof *plan->weight_nodes);
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *node = &g->nodes[i];
        CHECK(node->queue >= 0 && node->queue < MAX_QUEUES,
              "%s '%s' is on queue %d, queues are 0..%d", op_name(node->op), node->name,
              node->queue, MAX_QUEUES - 1);
        if (node->stage == STAGE_WEIGHTS) {
            plan->weight_nodes[plan->n_weight_nodes++] = i;
        } else {
            plan->steps[plan->n_steps++] = (PlanStep){.node = i, .queue = node->queue};
        }
    }
}

/* What a step touches: its inputs and outputs, and for the two nodes that work on whole arenas
 * every tensor there. */
typedef struct {
    int *reads, *writes;
    int n_reads, n_writes;
} Access;

static void access_of(const Graph *g, const Node *node, Access *a)
{
    a->n_reads = 0;
    a->n_writes = 0;
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k] >= 0) {
            a->reads[a->n_reads++] = node->in[k];
        }
    }
    for (int k = 0; k < node->n_out; k++) {
        if (node->out[k] >= 0) {
            a->writes[a->n_writes++] = node->out[k];
        }
    }
    if (node->op != OP_SGD && node->op != OP_GRAD_NORM) {
        return;
    }
    for (int t = 0; t < g->n_tensors; t++) {
        const Tensor *tensor = &g->tensors[t];
        if (tensor->kind == TENSOR_GRAD) {
            a->reads[a->n_reads++] = t;
        } else if (node->op == OP_SGD && tensor->kind == TENSOR_PARAM &&
                   g->params->items[tensor->param].arena == ARENA_WEIGHT) {
            a->writes[a->n_writes++] = t;
        }
    }
}

static int descending(const void *a, const void *b)
{
    return *(const int *)b - *(const int *)a;
}

/* Waits of step s for its dependencies on other queues. Latest first: what an earlier wait, the
 * step's own queue or a later dependency implies is left out, so the result is the transitive
 * reduction. */
static void step_waits(Planner *p, int s, StepList *deps)
{
    PlanStep *step = &p->plan->steps[s];
    const int previous = p->queue_of_prev[step->queue];
    if (previous >= 0) {
        row_add(p, s, previous);
    }
    p->queue_of_prev[step->queue] = s;
    if (deps->count > 0) {
        qsort(deps->items, (size_t)deps->count, sizeof deps->items[0], descending);
    }
    int kept = 0;
    for (int i = 0; i < deps->count; i++) {
        const int d = deps->items[i];
        if (!happens_before(p, d, s)) {
            row_add(p, s, d);
            p->plan->steps[d].records = true;
            deps->items[kept++] = d;
        }
    }
    step->n_waits = kept;
    if (kept > 0) {
        step->waits = xmalloc((size_t)kept * sizeof *step->waits);
        for (int i = 0; i < kept; i++) {
            step->waits[i] = deps->items[kept - 1 - i];
        }
    }
}

/* Reads wait for the last write, writes for the last write and all reads since. */
static void find_waits(Planner *p)
{
    const Graph *g = p->g;
    Plan *plan = p->plan;
    p->row_words = (size_t)plan->n_steps / 64 + 1;
    p->before = xcalloc((size_t)plan->n_steps + 1, p->row_words * sizeof *p->before);
    int *writer = xmalloc(((size_t)g->n_tensors + 1) * sizeof *writer);
    memset(writer, 0xFF, ((size_t)g->n_tensors + 1) * sizeof *writer);
    StepList *readers = xcalloc((size_t)g->n_tensors + 1, sizeof *readers);
    const size_t room = (size_t)g->n_tensors + NODE_MAX_IN + NODE_MAX_OUT;
    Access a = {.reads = xmalloc(room * sizeof(int)), .writes = xmalloc(room * sizeof(int))};
    StepList deps = {0};
    for (int q = 0; q < MAX_QUEUES; q++) {
        p->queue_of_prev[q] = -1;
    }
    for (int s = 0; s < plan->n_steps; s++) {
        access_of(g, &g->nodes[plan->steps[s].node], &a);
        deps.count = 0;
        for (int i = 0; i < a.n_reads; i++) {
            if (writer[a.reads[i]] >= 0) {
                list_add(&deps, writer[a.reads[i]]);
            }
        }
        for (int i = 0; i < a.n_writes; i++) {
            const int t = a.writes[i];
            if (writer[t] >= 0) {
                list_add(&deps, writer[t]);
            }
            for (int k = 0; k < readers[t].count; k++) {
                list_add(&deps, readers[t].items[k]);
            }
        }
        step_waits(p, s, &deps);
        for (int i = 0; i < a.n_reads; i++) {
            list_add(&readers[a.reads[i]], s);
            list_add(&p->uses[a.reads[i]], s);
        }
        for (int i = 0; i < a.n_writes; i++) {
            const int t = a.writes[i];
            writer[t] = s;
            readers[t].count = 0;
            list_add(&p->uses[t], s);
            p->def[t] = p->def[t] < 0 ? s : p->def[t];
        }
    }
    for (int t = 0; t < g->n_tensors; t++) {
        free(readers[t].items);
    }
    free(readers);
    free(deps.items);
    free(a.reads);
    free(a.writes);
    free(writer);
}

static Arena arena_of(const Planner *p, int t)
{
    const Tensor *tensor = &p->g->tensors[t];
    switch (tensor->kind) {
    case TENSOR_INPUT:
        return ARENA_IO;
    case TENSOR_PARAM:
        return p->g->params->items[tensor->param].arena;
    case TENSOR_GRAD:
        return ARENA_GRAD;
    case TENSOR_SHARED:
        return ARENA_SHARED;
    case TENSOR_ACT:
        break;
    }
    if (tensor->producer < 0) {
        return ARENA_NONE;
    }
    const bool persists = tensor->output || p->g->nodes[tensor->producer].stage == STAGE_WEIGHTS;
    return persists ? ARENA_PERSIST : ARENA_ACT;
}

/* Everything but ACT: parameters where Params says, the rest one after the other. */
static void place_fixed(Planner *p)
{
    Plan *plan = p->plan;
    const Params *params = p->g->params;
    const size_t unit = dtype_size(p->g->math);
    for (int t = 0; t < plan->n_tensors; t++) {
        const Tensor *tensor = &p->g->tensors[t];
        Placement *at = &plan->at[t];
        at->arena = arena_of(p, t);
        at->bytes = at->arena == ARENA_NONE ? 0 : tensor_bytes(tensor);
        if (tensor->param >= 0) {
            at->offset = params->items[tensor->param].offset * unit;
        } else if (at->arena == ARENA_SHARED) {
            at->offset = (size_t)tensor->shared;
            const size_t end = at->offset + at->bytes;
            plan->arena_bytes[ARENA_SHARED] =
                end > plan->arena_bytes[ARENA_SHARED] ? end : plan->arena_bytes[ARENA_SHARED];
        } else if (at->arena == ARENA_IO || at->arena == ARENA_PERSIST) {
            at->offset = plan->arena_bytes[at->arena];
            plan->arena_bytes[at->arena] += align_up(at->bytes, p->options.align);
        } else if (at->arena == ARENA_ACT) {
            plan->act_bytes_unshared += align_up(at->bytes, p->options.align);
        }
    }
    if (params != NULL) {
        for (int a = 0; a < ARENA_COUNT; a++) {
            if (a == ARENA_WEIGHT || a == ARENA_FROZEN || a == ARENA_STATE) {
                plan->arena_bytes[a] = params->arena_elems[a] * unit;
            }
        }
        plan->arena_bytes[ARENA_GRAD] = params->arena_elems[ARENA_WEIGHT] * unit;
    }
}

/* Whether `out`, written by step s, may take over the memory of `in`: same bytes, read at this node
 * in nothing but elementwise slots, and every other use of it over before s begins. */
static bool takes_over(const Planner *p, int s, int out_slot, int in, int out)
{
    const Node *node = &p->g->nodes[p->plan->steps[s].node];
    const Tensor *ti = &p->g->tensors[in];
    const Tensor *to = &p->g->tensors[out];
    if (p->plan->at[in].arena != ARENA_ACT || p->plan->at[out].arena != ARENA_ACT ||
        ti->dtype != to->dtype || ti->batched != to->batched ||
        tensor_bytes(ti) != tensor_bytes(to)) {
        return false;
    }
    for (int k = 0; k < node->n_in; k++) {
        bool elementwise = node->in[k] != in;
        for (int c = 0; !elementwise && op_inplace_input(node->op, out_slot, c) >= 0; c++) {
            elementwise = op_inplace_input(node->op, out_slot, c) == k;
        }
        if (!elementwise) {
            return false;
        }
    }
    for (int i = 0; i < p->uses[in].count; i++) {
        const int use = p->uses[in].items[i];
        if (use != s && !happens_before(p, use, s)) {
            return false;
        }
    }
    return true;
}

static void choose_inplace(Planner *p)
{
    bool *taken = xcalloc((size_t)p->plan->n_tensors + 1, sizeof *taken);
    for (int s = 0; s < p->plan->n_steps; s++) {
        const Node *node = &p->g->nodes[p->plan->steps[s].node];
        for (int o = 0; o < node->n_out; o++) {
            for (int c = 0; node->out[o] >= 0; c++) {
                const int slot = op_inplace_input(node->op, o, c);
                if (slot < 0) {
                    break;
                }
                const int in = slot < node->n_in ? node->in[slot] : -1;
                if (in >= 0 && !taken[in] && takes_over(p, s, o, in, node->out[o])) {
                    taken[in] = true;
                    p->block[node->out[o]] = p->block[in];
                    break;
                }
            }
        }
    }
    free(taken);
}

/* One memory of ACT and when it is in use: from `first` to the last use on each queue. */
typedef struct {
    int tensor; /* representative */
    size_t bytes, offset;
    int first;
    int last[MAX_QUEUES];
} Block;

static bool block_ends_before(const Planner *p, const Block *a, const Block *b)
{
    for (int q = 0; q < MAX_QUEUES; q++) {
        if (a->last[q] >= 0 && !happens_before(p, a->last[q], b->first)) {
            return false;
        }
    }
    return true;
}

static int by_size(const void *a, const void *b)
{
    const Block *x = a;
    const Block *y = b;
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? 1 : -1;
    }
    return x->first != y->first ? x->first - y->first : x->tensor - y->tensor;
}

static Block *make_blocks(const Planner *p, int *count)
{
    const int n = p->plan->n_tensors;
    Block *blocks = xcalloc((size_t)n + 1, sizeof *blocks);
    int *index = xmalloc(((size_t)n + 1) * sizeof *index);
    memset(index, 0xFF, ((size_t)n + 1) * sizeof *index);
    *count = 0;
    for (int t = 0; t < n; t++) {
        if (p->plan->at[t].arena != ARENA_ACT) {
            continue;
        }
        const int r = p->block[t];
        if (index[r] < 0) {
            index[r] = *count;
            Block *fresh = &blocks[(*count)++];
            fresh->tensor = r;
            fresh->first = p->def[r];
            fresh->bytes = align_up(p->plan->at[r].bytes, p->options.align);
            memset(fresh->last, 0xFF, sizeof fresh->last);
        }
        Block *b = &blocks[index[r]];
        for (int i = 0; i < p->uses[t].count; i++) {
            const int use = p->uses[t].items[i];
            int *last = &b->last[p->plan->steps[use].queue];
            *last = use > *last ? use : *last;
        }
    }
    free(index);
    qsort(blocks, (size_t)*count, sizeof *blocks, by_size);
    return blocks;
}

typedef struct {
    size_t begin, end;
} Span;

static int by_begin(const void *a, const void *b)
{
    const Span *x = a;
    const Span *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The smallest gap between occupied spans that holds `bytes`, else their end. */
static size_t best_gap(Span *spans, int n, size_t bytes)
{
    qsort(spans, (size_t)n, sizeof *spans, by_begin);
    size_t best = SIZE_MAX;
    size_t best_room = SIZE_MAX;
    size_t end = 0;
    for (int i = 0; i < n; i++) {
        if (spans[i].begin > end) {
            const size_t room = spans[i].begin - end;
            if (room >= bytes && room < best_room) {
                best_room = room;
                best = end;
            }
        }
        end = spans[i].end > end ? spans[i].end : end;
    }
    return best != SIZE_MAX ? best : end;
}

static void place_blocks(Planner *p)
{
    Plan *plan = p->plan;
    int count = 0;
    Block *blocks = make_blocks(p, &count);
    Span *spans = xmalloc(((size_t)count + 1) * sizeof *spans);
    size_t top = 0;
    for (int i = 0; i < count; i++) {
        Block *b = &blocks[i];
        int n = 0;
        for (int k = 0; k < i; k++) {
            const Block *other = &blocks[k];
            if (!block_ends_before(p, b, other) && !block_ends_before(p, other, b)) {
                spans[n++] = (Span){other->offset, other->offset + other->bytes};
            }
        }
        b->offset = p->options.no_reuse ? top : best_gap(spans, n, b->bytes);
        top = b->offset + b->bytes > top ? b->offset + b->bytes : top;
        plan->at[b->tensor].offset = b->offset;
    }
    for (int t = 0; t < plan->n_tensors; t++) {
        if (plan->at[t].arena == ARENA_ACT) {
            plan->at[t].offset = plan->at[p->block[t]].offset;
        }
    }
    plan->arena_bytes[ARENA_ACT] = top;
    free(spans);
    free(blocks);
}

static void find_param_ready(Planner *p)
{
    const Graph *g = p->g;
    const int count = g->params != NULL ? g->params->count : 0;
    p->plan->param_ready = xmalloc(((size_t)count + 1) * sizeof(int));
    memset(p->plan->param_ready, 0xFF, ((size_t)count + 1) * sizeof(int));
    for (int s = 0; s < p->plan->n_steps; s++) {
        const Node *node = &g->nodes[p->plan->steps[s].node];
        for (int k = 0; k < node->n_out; k++) {
            if (node->out[k] >= 0 && g->tensors[node->out[k]].kind == TENSOR_GRAD) {
                p->plan->param_ready[g->tensors[node->out[k]].param] = s;
            }
        }
    }
}

Plan *plan_build(Graph *g, const PlanOptions *options)
{
    graph_assign_stages(g);
    Planner p = {.g = g, .plan = xcalloc(1, sizeof(Plan))};
    if (options != NULL) {
        p.options = *options;
    }
    if (p.options.align == 0) {
        p.options.align = DEFAULT_ALIGN;
    }
    const size_t n = (size_t)g->n_tensors;
    p.plan->n_tensors = g->n_tensors;
    p.plan->at = xcalloc(n + 1, sizeof *p.plan->at);
    p.uses = xcalloc(n + 1, sizeof *p.uses);
    p.def = xmalloc((n + 1) * sizeof *p.def);
    p.block = xmalloc((n + 1) * sizeof *p.block);
    for (size_t t = 0; t < n; t++) {
        p.def[t] = -1;
        p.block[t] = (int)t;
    }
    list_steps(&p);
    find_waits(&p);
    place_fixed(&p);
    if (!p.options.no_reuse && !p.options.no_inplace) {
        choose_inplace(&p);
    }
    place_blocks(&p);
    find_param_ready(&p);
    for (size_t t = 0; t < n; t++) {
        free(p.uses[t].items);
    }
    free(p.uses);
    free(p.def);
    free(p.block);
    free(p.before);
    return p.plan;
}

void plan_free(Plan *plan)
{
    if (plan == NULL) {
        return;
    }
    for (int s = 0; s < plan->n_steps; s++) {
        free(plan->steps[s].waits);
    }
    free(plan->steps);
    free(plan->weight_nodes);
    free(plan->param_ready);
    free(plan->at);
    free(plan);
}
