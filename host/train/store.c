/* Parameter arenas on a backend. Files are read and written through a host copy, so a device without host-visible memory
 * works the same way. */
#include "train/store.h"

#include "base/files.h"
#include "models/load.h"

#include <stdlib.h>
#include <string.h>

static const Arena param_arenas[] = {ARENA_WEIGHT, ARENA_GRAD, ARENA_FROZEN, ARENA_STATE};
enum { PARAM_ARENAS = 4 };

static size_t arena_bytes(const Store *store, Arena arena)
{
    const Arena layout = arena == ARENA_GRAD ? ARENA_WEIGHT : arena;
    return store->params->arena_elems[layout] * store->real_size;
}

/* An empty arena still gets an address: fewer special cases later. */
static Err *take(Store *store, size_t bytes, void **out)
{
    *out = store->backend->alloc(store->backend, MEM_DEVICE, bytes ? bytes : 64);
    return *out ? NULL
                : err_new(EXIT_DEVICE_MEMORY, "no memory for %zu MiB of parameters", bytes >> 20);
}

Err *store_open(Backend *backend, const Params *params, bool train, Store *out)
{
    *out = (Store){.backend = backend, .params = params, .real_size = sizeof(float)};
    for (int i = 0; i < PARAM_ARENAS; i++) {
        if (param_arenas[i] != ARENA_GRAD || train) {
            TRY(take(out, arena_bytes(out, param_arenas[i]), &out->arena[param_arenas[i]]));
        }
    }
    return train ? take(out, arena_bytes(out, ARENA_WEIGHT), &out->moment) : NULL;
}

void store_close(Store *store)
{
    if (!store->backend) {
        return;
    }
    for (int i = 0; i < ARENA_COUNT; i++) {
        if (store->arena[i]) {
            store->backend->free(store->backend, MEM_DEVICE, store->arena[i]);
        }
    }
    if (store->moment) {
        store->backend->free(store->backend, MEM_DEVICE, store->moment);
    }
    memset(store, 0, sizeof *store);
}

void store_bind(const Store *store, Exec *exec)
{
    for (int i = 0; i < PARAM_ARENAS; i++) {
        exec_bind(exec, param_arenas[i], store->arena[param_arenas[i]]);
    }
    exec_bind_moment(exec, store->moment);
}

/* Host copies of the arenas that hold parameters; contents as on the device. */
typedef struct {
    float *arena[ARENA_COUNT];
} HostCopy;

static HostCopy copy_down(const Store *store)
{
    HostCopy copy = {{NULL}};
    Backend *b = store->backend;
    for (int i = 0; i < PARAM_ARENAS; i++) {
        const Arena arena = param_arenas[i];
        if (arena == ARENA_GRAD || !store->arena[arena]) {
            continue;
        }
        copy.arena[arena] = xmalloc(arena_bytes(store, arena) + 1);
        b->download(b, QUEUE_COMPUTE, copy.arena[arena], store->arena[arena],
                    arena_bytes(store, arena));
    }
    b->sync(b, QUEUE_COMPUTE);
    return copy;
}

static void copy_up(const Store *store, const HostCopy *copy)
{
    Backend *b = store->backend;
    for (int i = 0; i < ARENA_COUNT; i++) {
        if (copy->arena[i]) {
            b->upload(b, QUEUE_COMPUTE, store->arena[i], copy->arena[i],
                      arena_bytes(store, (Arena)i));
        }
    }
    b->sync(b, QUEUE_COMPUTE);
}

static void copy_free(HostCopy *copy)
{
    for (int i = 0; i < ARENA_COUNT; i++) {
        free(copy->arena[i]);
    }
}

void store_init(Store *store, const char *prefix, uint64_t seed)
{
    HostCopy copy = copy_down(store);
    params_init(store->params, prefix, seed, copy.arena);
    copy_up(store, &copy);
    copy_free(&copy);
}

Err *store_load(Store *store, const char *prefix, const char *path, char *hash_out)
{
    WeightsFile *file;
    TRY(weights_open(path, &file));
    HostCopy copy = copy_down(store);
    Err *err = err_context(model_load_weights(store->params, prefix, file, copy.arena), "%s", path);
    if (!err) {
        copy_up(store, &copy);
    }
    copy_free(&copy);
    weights_close(file);
    return err || !hash_out ? err : file_hash_hex(path, hash_out);
}

static Err *save_entries(const Store *store, const char *prefix, const char *path,
                         float *const arena[ARENA_COUNT], const char *const *metadata,
                         int64_t batches)
{
    ModelEntries entries = model_save_entries(store->params, prefix, arena, batches);
    Err *err = safetensors_write(path, entries.tensors, entries.count, metadata);
    model_entries_free(&entries);
    return err;
}

Err *store_save(const Store *store, const char *prefix, const char *path,
                const char *const *metadata, int64_t batches)
{
    HostCopy copy = copy_down(store);
    Err *err = save_entries(store, prefix, path, copy.arena, metadata, batches);
    copy_free(&copy);
    return err;
}

Err *store_save_moment(const Store *store, const char *prefix, const char *path)
{
    float *arena[ARENA_COUNT] = {NULL};
    Backend *b = store->backend;
    const size_t bytes = arena_bytes(store, ARENA_WEIGHT);
    arena[ARENA_WEIGHT] = xmalloc(bytes + 1);
    b->download(b, QUEUE_COMPUTE, arena[ARENA_WEIGHT], store->moment, bytes);
    b->sync(b, QUEUE_COMPUTE);
    Err *err = save_entries(store, prefix, path, arena, NULL, 0);
    free(arena[ARENA_WEIGHT]);
    return err;
}

Err *store_load_moment(Store *store, const char *prefix, const char *path)
{
    WeightsFile *file;
    TRY(weights_open(path, &file));
    float *arena[ARENA_COUNT] = {NULL};
    Backend *b = store->backend;
    const size_t bytes = arena_bytes(store, ARENA_WEIGHT);
    arena[ARENA_WEIGHT] = xcalloc(1, bytes + 1);
    Err *err = err_context(model_load_weights(store->params, prefix, file, arena), "%s", path);
    if (!err) {
        b->upload(b, QUEUE_COMPUTE, store->moment, arena[ARENA_WEIGHT], bytes);
        b->sync(b, QUEUE_COMPUTE);
    }
    free(arena[ARENA_WEIGHT]);
    weights_close(file);
    return err;
}
