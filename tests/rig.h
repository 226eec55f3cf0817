/* For tests and op benches: a graph on a backend with parameter arenas of its own, everything read
 * and written as doubles, whatever the storage type. Device memory is reached through the backend's
 * table only.
 *
 * Use: rig_open; rig_set_* and rig_write; rig_refresh; rig_run; rig_read, rig_get; rig_close. */
#ifndef CUDISTILL_TESTS_RIG_H
#define CUDISTILL_TESTS_RIG_H

#include "backend/exec.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Backend *backend; /* borrowed */
    Exec *exec;
    const Params *params;
    DType math;
    void *arena[ARENA_COUNT]; /* WEIGHT, GRAD, FROZEN, STATE, SHARED */
    void *moment;
} Rig;

static inline size_t rig_arena_elems(const Params *params, Arena arena)
{
    return params->arena_elems[arena == ARENA_GRAD ? ARENA_WEIGHT : arena];
}

static inline Err *rig_open(Rig *rig, Backend *backend, const Graph *graph,
                            const ExecOptions *options)
{
    static const Arena arenas[] = {ARENA_WEIGHT, ARENA_GRAD, ARENA_FROZEN, ARENA_STATE};
    *rig = (Rig){.backend = backend, .params = graph->params, .math = graph->math};
    TRY(exec_open(backend, graph, options, &rig->exec));
    for (int i = 0; i < 4; i++) {
        const size_t bytes = (rig_arena_elems(rig->params, arenas[i]) + 1) * dtype_size(rig->math);
        rig->arena[arenas[i]] = backend->alloc(backend, MEM_DEVICE, bytes);
        CHECK(rig->arena[arenas[i]], "out of memory");
        exec_bind(rig->exec, arenas[i], rig->arena[arenas[i]]);
    }
    rig->moment = backend->alloc(
        backend, MEM_DEVICE, (rig->params->arena_elems[ARENA_WEIGHT] + 1) * dtype_size(rig->math));
    CHECK(rig->moment, "out of memory");
    exec_bind_moment(rig->exec, rig->moment);
    const size_t shared = exec_bytes(rig->exec, ARENA_SHARED);
    if (shared > 0) {
        rig->arena[ARENA_SHARED] = backend->alloc(backend, MEM_DEVICE, shared);
        CHECK(rig->arena[ARENA_SHARED], "out of memory");
        exec_bind(rig->exec, ARENA_SHARED, rig->arena[ARENA_SHARED]);
    }
    return NULL;
}

static inline void rig_close(Rig *rig)
{
    if (!rig->exec) {
        return;
    }
    exec_close(rig->exec);
    for (int a = 0; a < ARENA_COUNT; a++) {
        if (rig->arena[a]) {
            rig->backend->free(rig->backend, MEM_DEVICE, rig->arena[a]);
        }
    }
    rig->backend->free(rig->backend, MEM_DEVICE, rig->moment);
    *rig = (Rig){0};
}

static inline void rig_put(Rig *rig, void *base, DType dtype, size_t first, size_t elems,
                           const double *values)
{
    const size_t bytes = elems * dtype_size(dtype);
    void *staged = xmalloc(bytes + 1);
    for (size_t i = 0; i < elems; i++) {
        dtype_store(dtype, staged, i, values[i]);
    }
    rig->backend->upload(rig->backend, QUEUE_COMPUTE, (char *)base + first * dtype_size(dtype),
                         staged, bytes);
    rig->backend->sync(rig->backend, QUEUE_COMPUTE);
    free(staged);
}

static inline double *rig_take(Rig *rig, const void *base, DType dtype, size_t first, size_t elems)
{
    const size_t bytes = elems * dtype_size(dtype);
    void *staged = xmalloc(bytes + 1);
    rig->backend->download(rig->backend, QUEUE_COMPUTE, staged,
                           (const char *)base + first * dtype_size(dtype), bytes);
    rig->backend->sync(rig->backend, QUEUE_COMPUTE);
    double *values = xmalloc((elems + 1) * sizeof *values);
    for (size_t i = 0; i < elems; i++) {
        values[i] = dtype_load(dtype, staged, i);
    }
    free(staged);
    return values;
}

/* A parameter in an arena: its own, ARENA_GRAD, or ARENA_NONE for the momentum. */
static inline void *rig_param_base(const Rig *rig, Arena arena)
{
    return arena == ARENA_NONE ? rig->moment : rig->arena[arena];
}
static inline void rig_set_param(Rig *rig, Arena arena, int param, const double *values)
{
    const Param *p = &rig->params->items[param];
    rig_put(rig, rig_param_base(rig, arena), rig->math, p->offset, p->count, values);
}
static inline double *rig_get_param(Rig *rig, Arena arena, int param)
{
    const Param *p = &rig->params->items[param];
    return rig_take(rig, rig_param_base(rig, arena), rig->math, p->offset, p->count);
}

/* First `elems` elements of a tensor. */
static inline void rig_write_part(Rig *rig, const char *name, const double *values, size_t elems)
{
    const Graph *g = exec_graph(rig->exec);
    const int tensor = graph_find_tensor(g, name);
    CHECK(tensor >= 0, "no tensor %s", name);
    const Tensor *t = &g->tensors[tensor];
    void *staged = xmalloc(elems * dtype_size(t->dtype) + 1);
    for (size_t i = 0; i < elems; i++) {
        dtype_store(t->dtype, staged, i, values[i]);
    }
    exec_write(rig->exec, name, staged, elems * dtype_size(t->dtype));
    exec_sync(rig->exec);
    free(staged);
}
static inline double *rig_read_part(Rig *rig, const char *name, size_t elems)
{
    const Graph *g = exec_graph(rig->exec);
    const int tensor = graph_find_tensor(g, name);
    CHECK(tensor >= 0, "no tensor %s", name);
    const Tensor *t = &g->tensors[tensor];
    void *staged = xmalloc(elems * dtype_size(t->dtype) + 1);
    exec_read(rig->exec, name, staged, elems * dtype_size(t->dtype));
    double *values = xmalloc((elems + 1) * sizeof *values);
    for (size_t i = 0; i < elems; i++) {
        values[i] = dtype_load(t->dtype, staged, i);
    }
    free(staged);
    return values;
}
static inline size_t rig_elems(const Rig *rig, const char *name)
{
    const Graph *g = exec_graph(rig->exec);
    const int tensor = graph_find_tensor(g, name);
    CHECK(tensor >= 0, "no tensor %s", name);
    return tensor_elems(&g->tensors[tensor]);
}
static inline void rig_write(Rig *rig, const char *name, const double *values)
{
    rig_write_part(rig, name, values, rig_elems(rig, name));
}
static inline double *rig_read(Rig *rig, const char *name)
{
    return rig_read_part(rig, name, rig_elems(rig, name));
}

static inline void rig_refresh(Rig *rig)
{
    exec_refresh(rig->exec, false);
}
static inline void rig_run(Rig *rig, int rows, float scale, bool grad_add, bool bn_update)
{
    const ExecRun run = {
        .rows = rows, .scale = scale, .grad_add = grad_add, .bn_update = bn_update};
    exec_run(rig->exec, &run);
    exec_sync(rig->exec);
}

#endif
