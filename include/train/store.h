/* A run's networks' memory: the parameter arenas on the backend, and their way to and from weight files.
 * The student's trainable parameters, gradients and momentum have equal element offsets; the teacher's are in FROZEN. */
#ifndef CUDISTILL_TRAIN_STORE_H
#define CUDISTILL_TRAIN_STORE_H

#include "backend/exec.h"
#include "base/err.h"
#include "graph/tensor.h"
#include <stdint.h>

typedef struct {
    Backend *backend;
    const Params *params;
    size_t real_size;         /* bytes of an element: 4, or 8 in double graphs */
    void *arena[ARENA_COUNT]; /* WEIGHT, GRAD, FROZEN, STATE on the device */
    void *moment;
} Store;

/* train: GRAD and momentum too. */
Err *store_open(Backend *backend, const Params *params, bool train, Store *out);
void store_close(Store *store);
void store_bind(const Store *store, Exec *exec);
/* Initial values of the networks under `prefix`. */
void store_init(Store *store, const char *prefix, uint64_t seed);
/* Weight file (safetensors or .pth) into the network under `prefix`. hash_out (33 bytes) may be NULL. */
Err *store_load(Store *store, const char *prefix, const char *path, char *hash_out);
/* safetensors with the ecosystem's names and metadata (key, value pairs, NULL-terminated); batches: the value of
 * num_batches_tracked. */
Err *store_save(const Store *store, const char *prefix, const char *path,
                const char *const *metadata, int64_t batches);
Err *store_save_moment(const Store *store, const char *prefix, const char *path);
Err *store_load_moment(Store *store, const char *prefix, const char *path);

#endif
