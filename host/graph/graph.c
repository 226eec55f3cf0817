/* The graph as data: growing lists of tensors and nodes, copies, look-ups, stages. Shapes belong to
 * build.c, rules about what is legal to validate.c. */
#include "graph/graph.h"

#include "base/err.h"
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void graph_init(Graph *g, const Params *params, int batch, DType act)
{
    CHECK(batch > 0, "a graph for a batch of %d", batch);
    CHECK(act == DT_F32 || act == DT_BF16 || act == DT_F16 || act == DT_F64,
          "activations of type %s", dtype_name(act));
    memset(g, 0, sizeof *g);
    g->params = params;
    g->batch = batch;
    g->act = act;
    g->math = act == DT_F64 ? DT_F64 : DT_F32;
}

void graph_free(Graph *g)
{
    free(g->tensors);
    free(g->nodes);
    free(g->specs);
    memset(g, 0, sizeof *g);
}

static void *copy_items(const void *items, int count, size_t item_size, size_t *capacity)
{
    *capacity = (size_t)count;
    if (count == 0) {
        return NULL;
    }
    void *copy = xmalloc((size_t)count * item_size);
    memcpy(copy, items, (size_t)count * item_size);
    return copy;
}

Graph graph_copy(const Graph *g)
{
    Graph copy = *g;
    copy.tensors = copy_items(g->tensors, g->n_tensors, sizeof *g->tensors, &copy.tensor_capacity);
    copy.nodes = copy_items(g->nodes, g->n_nodes, sizeof *g->nodes, &copy.node_capacity);
    copy.specs = copy_items(g->specs, g->n_specs, sizeof *g->specs, &copy.spec_capacity);
    return copy;
}

Graph graph_rebatch(const Graph *g, int batch)
{
    CHECK(batch > 0, "a graph for a batch of %d", batch);
    Graph copy = graph_copy(g);
    copy.batch = batch;
    for (int i = 0; i < copy.n_tensors; i++) {
        if (copy.tensors[i].batched) {
            copy.tensors[i].n = batch;
        }
    }
    return copy;
}

size_t tensor_elems(const Tensor *t)
{
    return (size_t)t->n * (size_t)t->h * (size_t)t->w * (size_t)t->c;
}

size_t tensor_bytes(const Tensor *t)
{
    return tensor_elems(t) * dtype_size(t->dtype);
}

int graph_find_tensor(const Graph *g, const char *name)
{
    for (int i = 0; i < g->n_tensors; i++) {
        if (strcmp(g->tensors[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

void name_join(char out[NAME_MAX_LEN], const char *base, const char *suffix)
{
    (void)snprintf(out, NAME_MAX_LEN, "%.*s.%s", NAME_MAX_LEN - 24, base, suffix);
}

int graph_tensor(Graph *g, const char *name, TensorKind kind, DType dtype, int n, int h, int w,
                 int c, bool batched)
{
    CHECK(n > 0 && h > 0 && w > 0 && c > 0, "tensor '%s' would be %d x %d x %d x %d", name, n, h, w,
          c);
    CHECK(!batched || n == g->batch, "batched tensor '%s' has n = %d in a graph for %d", name, n,
          g->batch);
    g->tensors =
        xgrow(g->tensors, &g->tensor_capacity, (size_t)g->n_tensors + 1, sizeof g->tensors[0]);
    Tensor *t = &g->tensors[g->n_tensors];
    memset(t, 0, sizeof *t);
    (void)snprintf(t->name, sizeof t->name, "%s", name);
    t->kind = kind;
    t->dtype = dtype;
    t->n = n;
    t->h = h;
    t->w = w;
    t->c = c;
    t->batched = batched;
    t->param = -1;
    t->producer = -1;
    return g->n_tensors++;
}

Node *graph_node(Graph *g, Op op, const char *name, int n_in, const int *in, int n_out,
                 const int *out)
{
    CHECK(n_in >= 0 && n_in <= NODE_MAX_IN, "%s '%s' has %d inputs", op_name(op), name, n_in);
    CHECK(n_out >= 0 && n_out <= NODE_MAX_OUT, "%s '%s' has %d outputs", op_name(op), name, n_out);
    g->nodes = xgrow(g->nodes, &g->node_capacity, (size_t)g->n_nodes + 1, sizeof g->nodes[0]);
    Node *node = &g->nodes[g->n_nodes];
    memset(node, 0, sizeof *node);
    node->op = op;
    node->queue = g->queue;
    node->n_in = n_in;
    node->n_out = n_out;
    for (int i = 0; i < NODE_MAX_IN; i++) {
        node->in[i] = i < n_in ? in[i] : -1;
    }
    for (int i = 0; i < NODE_MAX_OUT; i++) {
        node->out[i] = i < n_out ? out[i] : -1;
        /* Parameters, statistics and gradients exist apart from whichever node writes them. */
        if (node->out[i] >= 0 && g->tensors[node->out[i]].kind == TENSOR_ACT) {
            g->tensors[node->out[i]].producer = g->n_nodes;
        }
    }
    (void)snprintf(node->name, sizeof node->name, "%s", name);
    g->n_nodes++;
    return node;
}

void graph_output(Graph *g, int tensor, const char *name)
{
    CHECK(tensor >= 0 && tensor < g->n_tensors, "output %d of a graph with %d tensors", tensor,
          g->n_tensors);
    Tensor *t = &g->tensors[tensor];
    t->output = true;
    if (name != NULL) {
        (void)snprintf(t->name, sizeof t->name, "%s", name);
    }
}

void graph_assign_stages(Graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) {
        Node *node = &g->nodes[i];
        bool weights = false;
        bool step = false;
        for (int k = 0; k < node->n_in; k++) {
            if (node->in[k] < 0) {
                continue;
            }
            const Tensor *t = &g->tensors[node->in[k]];
            const bool from_weights =
                t->kind == TENSOR_PARAM ||
                (t->producer >= 0 && g->nodes[t->producer].stage == STAGE_WEIGHTS);
            weights = weights || from_weights;
            step = step || !from_weights;
        }
        node->stage = weights && !step ? STAGE_WEIGHTS : STAGE_STEP;
    }
}

Uses uses_make(const Graph *g)
{
    Uses uses = {.first = xcalloc((size_t)g->n_tensors + 2, sizeof(int))};
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            if (g->nodes[i].in[k] >= 0) {
                uses.first[g->nodes[i].in[k] + 2]++;
            }
        }
    }
    for (int t = 1; t <= g->n_tensors; t++) {
        uses.first[t + 1] += uses.first[t];
    }
    const size_t total = (size_t)uses.first[g->n_tensors + 1] + 1;
    uses.node = xmalloc(total * sizeof(int));
    uses.slot = xmalloc(total * sizeof(int));
    /* first[t + 1] walks from the start to the end of t's entries, which leaves first[t] at the
     * start. */
    for (int i = 0; i < g->n_nodes; i++) {
        for (int k = 0; k < g->nodes[i].n_in; k++) {
            if (g->nodes[i].in[k] >= 0) {
                const int at = uses.first[g->nodes[i].in[k] + 1]++;
                uses.node[at] = i;
                uses.slot[at] = k;
            }
        }
    }
    return uses;
}

void uses_free(Uses *uses)
{
    free(uses->first);
    free(uses->node);
    free(uses->slot);
    memset(uses, 0, sizeof *uses);
}
