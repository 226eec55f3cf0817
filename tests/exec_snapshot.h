/* Runs a random training graph on a backend and keeps everything it leaves behind: outputs,
 * gradients, weights, statistics, momentum. Two ways of executing one graph are compared through
 * it. */
#ifndef CUDISTILL_TESTS_EXEC_SNAPSHOT_H
#define CUDISTILL_TESTS_EXEC_SNAPSHOT_H

#include "random_graph.h"
#include "rig.h"

enum { SNAPSHOT_MAX = 1024 };

typedef struct {
    char name[NAME_MAX_LEN];
    bool batched;
    size_t row; /* elements of one row */
    size_t elems;
    double *values;
} SnapshotItem;

typedef struct {
    SnapshotItem items[SNAPSHOT_MAX];
    int count;
} Snapshot;

static inline void snapshot_free(Snapshot *s)
{
    for (int i = 0; i < s->count; i++) {
        free(s->items[i].values);
    }
    free(s);
}

static inline SnapshotItem *snapshot_add(Snapshot *s, const char *name, const char *suffix,
                                         size_t elems, double *values)
{
    CHECK(s->count < SNAPSHOT_MAX, "snapshot is full");
    SnapshotItem *item = &s->items[s->count++];
    *item = (SnapshotItem){.row = elems, .elems = elems, .values = values};
    snprintf(item->name, sizeof item->name, "%.90s%s", name, suffix);
    return item;
}

/* Inputs are functions of the row, so that a smaller batch sees the beginning of a larger one. */
static inline void snapshot_write_inputs(Rig *rig, const Graph *g, uint64_t seed)
{
    for (int t = 0; t < g->n_tensors; t++) {
        const Tensor *tensor = &g->tensors[t];
        const bool given = tensor->kind == TENSOR_INPUT || tensor->kind == TENSOR_SHARED;
        if (!given || strcmp(tensor->name, "rows_valid") == 0 ||
            strcmp(tensor->name, "scale") == 0) {
            continue;
        }
        double *values = xcalloc(tensor_elems(tensor) + 1, sizeof *values);
        Rng rng = rng_make(seed, 31, 0, RNG_TEST);
        for (size_t i = 0; i < tensor_elems(tensor); i++) {
            values[i] = tensor->dtype == DT_I32 ? (double)rng_below(&rng, RANDOM_GRAPH_CLASSES)
                                                : rng_normal(&rng);
        }
        if (strcmp(tensor->name, "hyper") == 0) {
            memset(values, 0, HYPER_COUNT * sizeof *values);
            values[HYPER_LR] = 0.05;
            values[HYPER_MOMENTUM] = 0.9;
            values[HYPER_WEIGHT_DECAY] = 1e-3;
            values[HYPER_GRAD_SCALE] = 1;
            values[HYPER_CLIP_NORM] = 1;
        }
        if (tensor->kind == TENSOR_SHARED) { /* the loss scale */
            values[0] = 4;
            values[1] = 0;
        }
        rig_write(rig, tensor->name, values);
        free(values);
    }
}

static inline void snapshot_write_params(Rig *rig, const Params *params, uint64_t seed)
{
    float *arena[ARENA_COUNT] = {NULL};
    for (int a = 0; a < ARENA_COUNT; a++) {
        arena[a] = xcalloc(params->arena_elems[a] + 1, sizeof(float));
    }
    params_init(params, "", seed, arena);
    for (int p = 0; p < params->count; p++) {
        const Param *param = &params->items[p];
        double *values = xcalloc(param->count + 1, sizeof *values);
        for (size_t i = 0; i < param->count; i++) {
            values[i] = arena[param->arena][param->offset + i];
        }
        rig_set_param(rig, param->arena, p, values);
        free(values);
    }
    for (int a = 0; a < ARENA_COUNT; a++) {
        free(arena[a]);
    }
}

static inline Snapshot *snapshot_take(Rig *rig, const Graph *g)
{
    Snapshot *s = xcalloc(1, sizeof *s);
    for (int t = 0; t < g->n_tensors; t++) {
        const Tensor *tensor = &g->tensors[t];
        const bool kept = tensor->output || tensor->kind == TENSOR_SHARED;
        if (kept && exec_tensor(rig->exec, tensor->name, NULL)) {
            SnapshotItem *item = snapshot_add(s, tensor->name, "", tensor_elems(tensor),
                                              rig_read(rig, tensor->name));
            item->batched = tensor->batched;
            item->row = tensor_elems(tensor) / (size_t)tensor->n;
        }
    }
    for (int p = 0; p < g->params->count; p++) {
        const Param *param = &g->params->items[p];
        snapshot_add(s, param->name, "", param->count, rig_get_param(rig, param->arena, p));
        if (param->arena == ARENA_WEIGHT) {
            snapshot_add(s, param->name, " gradient", param->count,
                         rig_get_param(rig, ARENA_GRAD, p));
            snapshot_add(s, param->name, " momentum", param->count,
                         rig_get_param(rig, ARENA_NONE, p));
        }
    }
    return s;
}

/* Opens, fills and runs the graph once. `broken` may spoil the plan before the run. */
static inline Snapshot *snapshot_run(Backend *backend, const Graph *g, const ExecOptions *options,
                                     int rows, uint64_t seed,
                                     void (*broken)(Exec *exec, void *context), void *context)
{
    Rig rig;
    Err *err = rig_open(&rig, backend, g, options);
    CHECK(!err, "%s", err->message);
    snapshot_write_inputs(&rig, g, seed);
    snapshot_write_params(&rig, g->params, seed);
    rig_refresh(&rig);
    if (broken) {
        broken(rig.exec, context);
    }
    rig_run(&rig, rows, 1.0F / (float)rows, false, true);
    Snapshot *s = snapshot_take(&rig, g);
    rig_close(&rig);
    return s;
}

static inline bool snapshot_is_gradient(const SnapshotItem *item)
{
    return strstr(item->name, " gradient") || strstr(item->name, " momentum");
}

static inline double snapshot_largest(const SnapshotItem *item)
{
    double max = 0;
    for (size_t i = 0; i < item->elems; i++) {
        max = fmax(max, fabs(item->values[i]));
    }
    return max;
}

/* Largest difference in shares of the tensor's largest value (of any gradient's, for gradients:
 * that of a bias before batch norm is zero but for roundings of terms that are not); rows =
 * compared rows of batched tensors. NaN = infinite. *where names the worst. */
static inline double snapshot_difference(const Snapshot *a, const Snapshot *b, int rows,
                                         const char **where)
{
    double worst = 0;
    *where = "";
    CHECK(a->count == b->count, "%d and %d tensors", a->count, b->count);
    double gradient = 0;
    for (int t = 0; t < b->count; t++) {
        gradient = snapshot_is_gradient(&b->items[t])
                       ? fmax(gradient, snapshot_largest(&b->items[t]))
                       : gradient;
    }
    for (int t = 0; t < a->count; t++) {
        const SnapshotItem *x = &a->items[t];
        const SnapshotItem *y = &b->items[t];
        const size_t elems = x->batched ? x->row * (size_t)rows : x->elems;
        const double max = snapshot_is_gradient(y) ? gradient : snapshot_largest(y);
        double difference = 0;
        for (size_t i = 0; i < elems; i++) {
            const double d = fabs(x->values[i] - y->values[i]);
            difference = isfinite(d) ? fmax(difference, d) : INFINITY;
        }
        const double share = difference == 0 ? 0 : difference / fmax(max, 1e-30);
        if (share > worst) {
            worst = share;
            *where = x->name;
        }
    }
    return worst;
}

#endif
