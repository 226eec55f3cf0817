/* Batches in preallocated slots, filled ahead by worker threads.
 *
 * The stream of batches is a function of (data set, seed, batch, augmentation, policy, shuffle, drop_last):
 * it does not depend on the number of workers or slots, and the global batches do not depend on the
 * number of ranks. The whole state is (epoch, position), position = samples of the epoch already
 * delivered over all ranks; a loader opened at a saved state continues exactly, in the middle of an
 * epoch too.
 *
 * Life cycle: loader_open; then loader_next / loader_release in a loop; loader_close at any moment,
 * also while batches are being filled or held. One thread consumes (open, next, release, seek,
 * close are not for several threads at once). Nothing is allocated after loader_open. Each loader
 * owns its threads; they block all signals.
 *
 * One epoch:
 *     for (const Batch *batch = loader_next(loader); batch; batch = loader_next(loader)) {
 *         ...
 *         loader_release(loader, batch);
 *     }
 *
 * Prefetching runs across the end of an epoch, so the next epoch's first batches are ready when it
 * begins. */
#ifndef CUDISTILL_DATA_LOADER_H
#define CUDISTILL_DATA_LOADER_H

#include "data/dataset.h"
#include "data/view.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Memory of the slots: pinned memory on GPUs. alloc returns memory aligned to 64 bytes, or NULL
 * when it has none. */
typedef struct {
    void *(*alloc)(void *context, size_t bytes);
    void (*release)(void *context, void *memory);
    void *context;
} LoaderMemory;

typedef struct {
    uint32_t batch; /* samples of a global batch, over all ranks; > 0 */
    uint64_t seed;
    AugmentSpec augment; /* {0} = the images as they are */
    PolicySpec policy;   /* after crop and flip; {0} = none */
    bool shuffle;        /* order rng_permutation(seed, epoch); false = order of the data set */
    bool drop_last;      /* leave out an incomplete last batch; default keeps it */
    int workers;         /* threads; 0 = fill in loader_next itself */
    int slots;           /* batches in flight: being filled, ready or held; 0 = workers + 2 */
    int rank, world;     /* this rank's share of every global batch; world 0 or 1 = all of it */
    uint32_t epoch;      /* where to begin */
    uint32_t position;
    LoaderMemory memory; /* {0} = plain aligned memory */
} LoaderConfig;

/* One rank's share of a global batch. The arrays have room for `capacity` rows; rows n ..
 * capacity-1 are zero. n may be 0 for a rank when the last global batch is smaller than the
 * world. */
typedef struct {
    uint8_t *images;     /* [capacity][height][width][3], 64-byte aligned */
    int32_t *labels;     /* [capacity] */
    uint32_t *ids;       /* [capacity]: index of the sample in the data set */
    uint32_t n;          /* rows of this rank */
    uint32_t capacity;   /* ceil(batch / world) */
    uint32_t global_n;   /* rows of the global batch, over all ranks */
    uint32_t global_row; /* this rank's first row within the global batch */
    uint32_t epoch;
    uint32_t position; /* of the global batch's first sample in the epoch's order */
    bool last;         /* the epoch ends after this batch */
    int slot;          /* which slot holds it, 0 .. slots-1: key for per-slot device buffers */
} Batch;

typedef struct {
    uint32_t epoch, position;
} LoaderState;

typedef struct {
    uint64_t batches, samples; /* delivered to this rank */
    double wait_s; /* seconds that loader_next kept the caller waiting (with 0 workers: filling) */
} LoaderStats;

typedef struct Loader Loader;

/* EXIT_CONFIG_ERR for values that cannot work (message names them), EXIT_OS for threads or memory
 * refused. The data set must outlive the loader. */
Err *loader_open(const Dataset *dataset, const LoaderConfig *config, Loader **out);

/* The next batch, waiting for it if need be; NULL exactly once at the end of each epoch, after
 * which the following call begins the next epoch. Ends the process if the caller holds every slot
 * (it would wait for itself). */
const Batch *loader_next(Loader *loader);
/* Gives a batch back, in any order; its memory is then refilled. */
void loader_release(Loader *loader, const Batch *batch);

/* What the next call of loader_next will look at: save this, reopen or seek with it. */
LoaderState loader_state(const Loader *loader);
/* Continues at another place; prefetched batches are dropped. All batches must have been
 * released. */
void loader_seek(Loader *loader, uint32_t epoch, uint32_t position);

uint32_t loader_batches_per_epoch(const Loader *loader); /* from position 0 */
int loader_slots(const Loader *loader);
LoaderStats loader_stats(const Loader *loader);

void loader_close(Loader *loader); /* accepts NULL; batches still held become invalid */

#endif
