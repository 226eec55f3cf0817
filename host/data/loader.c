/* The loader: a ring of slots. Batch number t of the stream lives in slot t mod slots; workers
 * claim numbers in order under one lock (that is where the sample order is decided), fill outside
 * it, and the consumer takes them in order. Scheduler and consumer walk the same pure function of
 * (epoch, position), so neither can run off. */
#include "data/loader.h"

#include "base/log.h"
#include "base/rng.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORKERS = 256, MAX_SLOTS = 1024, ALIGNMENT = 64 };

typedef enum { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_HELD } SlotState;

typedef struct {
    Batch batch;
    SlotState state;
    void *memory;
    uint8_t *scratch; /* an image, for the policy; NULL without */
} Slot;

struct Loader {
    const Dataset *dataset;
    LoaderConfig config;
    uint32_t capacity; /* rows of one rank's share of a full batch */
    Slot *slots;
    pthread_t *threads;
    int threads_running;
    uint32_t *order; /* of epoch order_epoch; NULL without shuffling */
    uint32_t order_epoch;
    bool order_valid;

    pthread_mutex_t lock;
    pthread_cond_t work;   /* a slot became free, or stop */
    pthread_cond_t filled; /* a slot became ready, or a filling worker finished */
    LoaderState scheduled; /* next batch to claim */
    LoaderState delivered; /* next batch to deliver */
    uint64_t claim;        /* number of the next batch to claim */
    uint64_t deliver;      /* number of the next batch to deliver */
    int filling;
    int held;
    bool paused;
    bool stop;
    LoaderStats stats;
};

/* ---- the stream as a pure function ---- */

/* Samples of the global batch that begins at `position`; 0 = the epoch is over. */
static uint32_t global_rows(const Loader *loader, uint32_t position)
{
    const uint32_t count = loader->dataset->count;
    const uint32_t left = position < count ? count - position : 0;
    if (left >= loader->config.batch) {
        return loader->config.batch;
    }
    return loader->config.drop_last ? 0 : left;
}

/* First row of rank r's share of n rows: shares are contiguous and differ by at most one row. */
static uint32_t share_begin(uint32_t n, int r, int world)
{
    return (uint32_t)((uint64_t)n * (uint64_t)r / (uint64_t)world);
}

/* Leaves the end of an epoch for the beginning of the next one. */
static void skip_epoch_end(const Loader *loader, LoaderState *state)
{
    if (global_rows(loader, state->position) == 0) {
        state->epoch++;
        state->position = 0;
    }
}

/* ---- filling ---- */

/* Writes which samples the slot gets and moves the scheduler on. Called with the lock held: the
 * permutation belongs to the scheduler. */
static void claim_slot(Loader *loader, Slot *slot)
{
    skip_epoch_end(loader, &loader->scheduled);
    const LoaderState state = loader->scheduled;
    const LoaderConfig *config = &loader->config;
    if (config->shuffle && (!loader->order_valid || loader->order_epoch != state.epoch)) {
        rng_permutation(config->seed, state.epoch, loader->order, loader->dataset->count);
        loader->order_epoch = state.epoch;
        loader->order_valid = true;
    }
    Batch *batch = &slot->batch;
    batch->global_n = global_rows(loader, state.position);
    batch->global_row = share_begin(batch->global_n, config->rank, config->world);
    batch->n = share_begin(batch->global_n, config->rank + 1, config->world) - batch->global_row;
    batch->epoch = state.epoch;
    batch->position = state.position;
    batch->last = global_rows(loader, state.position + batch->global_n) == 0;
    const uint32_t begin = state.position + batch->global_row;
    for (uint32_t row = 0; row < batch->n; row++) {
        batch->ids[row] = config->shuffle ? loader->order[begin + row] : begin + row;
    }
    loader->scheduled.position = state.position + batch->global_n;
    loader->claim++;
    slot->state = SLOT_FILLING;
    loader->filling++;
}

static void fill_slot(const Loader *loader, Slot *slot)
{
    const Dataset *dataset = loader->dataset;
    const LoaderConfig *config = &loader->config;
    Batch *batch = &slot->batch;
    const size_t image_size = dataset_image_size(dataset);
    const ViewSpec view = {config->augment, config->policy};
    for (uint32_t row = 0; row < batch->n; row++) {
        const uint32_t id = batch->ids[row];
        batch->labels[row] = dataset->labels[id];
        view_make(&view, config->seed, batch->epoch, id, dataset_image(dataset, id),
                  dataset->height, dataset->width, batch->images + row * image_size, slot->scratch);
    }
    const size_t empty = batch->capacity - batch->n;
    memset(batch->images + batch->n * image_size, 0, empty * image_size);
    memset(batch->labels + batch->n, 0, empty * sizeof *batch->labels);
    memset(batch->ids + batch->n, 0, empty * sizeof *batch->ids);
}

static Slot *next_to_claim(Loader *loader)
{
    return &loader->slots[loader->claim % (uint64_t)loader->config.slots];
}

static void *worker_main(void *argument)
{
    Loader *loader = argument;
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop) {
        Slot *slot = next_to_claim(loader);
        if (loader->paused || slot->state != SLOT_FREE) {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        claim_slot(loader, slot);
        pthread_mutex_unlock(&loader->lock);
        fill_slot(loader, slot);
        pthread_mutex_lock(&loader->lock);
        slot->state = SLOT_READY;
        loader->filling--;
        pthread_cond_signal(&loader->filled);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- opening and closing ---- */

static void *plain_alloc(void *context, size_t bytes)
{
    (void)context;
    return xaligned(bytes);
}

static void plain_release(void *context, void *memory)
{
    (void)context;
    free(memory);
}

static Err *check_config(const Dataset *dataset, const LoaderConfig *config)
{
    if (config->batch == 0) {
        return err_new(EXIT_CONFIG_ERR, "loader: batch is 0; it must be at least 1");
    }
    if (config->world < 1 || config->rank < 0 || config->rank >= config->world) {
        return err_new(EXIT_CONFIG_ERR, "loader: rank %d of world %d; a rank lies in 0 .. world-1",
                       config->rank, config->world);
    }
    if ((uint32_t)config->world > config->batch) {
        return err_new(
            EXIT_CONFIG_ERR,
            "loader: batch %u is smaller than the number of ranks, %d; every rank needs a sample: "
            "raise batch or start fewer ranks",
            config->batch, config->world);
    }
    if (config->drop_last && config->batch > dataset->count) {
        return err_new(
            EXIT_CONFIG_ERR,
            "loader: batch %u with drop_last leaves nothing of the %u images of %s; lower batch or "
            "switch drop_last off",
            config->batch, dataset->count, dataset->source);
    }
    if (config->workers < 0 || config->workers > MAX_WORKERS) {
        return err_new(EXIT_CONFIG_ERR, "loader: %d workers; allowed are 0 .. %d", config->workers,
                       MAX_WORKERS);
    }
    if (config->slots < 1 || config->slots > MAX_SLOTS) {
        return err_new(EXIT_CONFIG_ERR, "loader: %d slots; allowed are 1 .. %d", config->slots,
                       MAX_SLOTS);
    }
    if (config->augment.pad < 0 || config->augment.pad > AUGMENT_MAX_PAD) {
        return err_new(EXIT_CONFIG_ERR, "loader: crop padding %d; allowed are 0 .. %d",
                       config->augment.pad, AUGMENT_MAX_PAD);
    }
    TRY(policy_check(&config->policy, NULL));
    if (config->position > dataset->count) {
        return err_new(EXIT_BAD_DATA,
                       "loader: position %u lies beyond the %u images of %s; the saved state "
                       "belongs to another "
                       "data set",
                       config->position, dataset->count, dataset->source);
    }
    return NULL;
}

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static Err *alloc_slots(Loader *loader)
{
    const size_t images = align_up(loader->capacity * dataset_image_size(loader->dataset));
    const size_t labels = align_up(loader->capacity * sizeof(int32_t));
    const size_t ids = align_up(loader->capacity * sizeof(uint32_t));
    const LoaderMemory *memory = &loader->config.memory;
    for (int s = 0; s < loader->config.slots; s++) {
        Slot *slot = &loader->slots[s];
        slot->memory = memory->alloc(memory->context, images + labels + ids);
        if (!slot->memory) {
            return err_new(
                EXIT_OS,
                "loader: no memory for slot %d of %d (%zu bytes each); lower batch or workers",
                s + 1, loader->config.slots, images + labels + ids);
        }
        if (!policy_is_none(&loader->config.policy)) {
            slot->scratch = xmalloc(dataset_image_size(loader->dataset));
        }
        uint8_t *base = slot->memory;
        memset(base, 0, images + labels + ids);
        slot->batch.images = base;
        slot->batch.labels = (int32_t *)(void *)(base + images);
        slot->batch.ids = (uint32_t *)(void *)(base + images + labels);
        slot->batch.capacity = loader->capacity;
        slot->batch.slot = s;
    }
    return NULL;
}

static Err *start_workers(Loader *loader)
{
    /* Signals are for the main thread: workers inherit a mask that blocks them all. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = 0;
    for (int w = 0; w < loader->config.workers && !status; w++) {
        status = pthread_create(&loader->threads[w], NULL, worker_main, loader);
        loader->threads_running += !status;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status) {
        return err_new(EXIT_OS,
                       "loader: cannot start thread %d of %d: %s; lower the number of workers",
                       loader->threads_running + 1, loader->config.workers, strerror(status));
    }
    return NULL;
}

Err *loader_open(const Dataset *dataset, const LoaderConfig *config, Loader **out)
{
    *out = NULL;
    LoaderConfig full = *config;
    full.world = full.world == 0 ? 1 : full.world;
    full.slots = full.slots == 0 ? full.workers + 2 : full.slots;
    if (!full.memory.alloc) {
        full.memory = (LoaderMemory){.alloc = plain_alloc, .release = plain_release};
    }
    TRY(check_config(dataset, &full));
    Loader *loader = xcalloc(1, sizeof *loader);
    loader->dataset = dataset;
    loader->config = full;
    loader->capacity = (full.batch + (uint32_t)full.world - 1) / (uint32_t)full.world;
    loader->scheduled = (LoaderState){full.epoch, full.position};
    loader->delivered = loader->scheduled;
    loader->slots = xcalloc((size_t)full.slots, sizeof *loader->slots);
    loader->threads = xcalloc((size_t)full.workers + 1, sizeof *loader->threads);
    loader->order = full.shuffle ? xmalloc(dataset->count * sizeof *loader->order) : NULL;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->filled, NULL);
    Err *err = alloc_slots(loader);
    if (!err) {
        err = start_workers(loader);
    }
    if (err) {
        loader_close(loader);
        return err;
    }
    *out = loader;
    return NULL;
}

void loader_close(Loader *loader)
{
    if (!loader) {
        return;
    }
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    for (int w = 0; w < loader->threads_running; w++) {
        pthread_join(loader->threads[w], NULL);
    }
    pthread_cond_destroy(&loader->filled);
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->lock);
    for (int s = 0; s < loader->config.slots; s++) {
        if (loader->slots[s].memory) {
            loader->config.memory.release(loader->config.memory.context, loader->slots[s].memory);
        }
        free(loader->slots[s].scratch);
    }
    free(loader->order);
    free(loader->threads);
    free(loader->slots);
    free(loader);
}

/* ---- consuming ---- */

const Batch *loader_next(Loader *loader)
{
    pthread_mutex_lock(&loader->lock);
    if (global_rows(loader, loader->delivered.position) == 0) {
        skip_epoch_end(loader, &loader->delivered);
        pthread_mutex_unlock(&loader->lock);
        return NULL;
    }
    CHECK(loader->held < loader->config.slots,
          "loader_next with all %d slots held: release a batch first or open with more slots",
          loader->held);
    Slot *slot = &loader->slots[loader->deliver % (uint64_t)loader->config.slots];
    CHECK(slot->state != SLOT_HELD,
          "loader_next reached slot %d, which is still held: release older batches first",
          slot->batch.slot);
    if (slot->state != SLOT_READY) {
        const double begin = now_s();
        if (loader->config.workers == 0) {
            claim_slot(loader, slot);
            fill_slot(loader, slot);
            slot->state = SLOT_READY;
            loader->filling--;
        }
        while (slot->state != SLOT_READY) {
            pthread_cond_wait(&loader->filled, &loader->lock);
        }
        loader->stats.wait_s += now_s() - begin;
    }
    const Batch *batch = &slot->batch;
    CHECK(batch->epoch == loader->delivered.epoch && batch->position == loader->delivered.position,
          "slot holds epoch %u position %u, expected %u and %u", batch->epoch, batch->position,
          loader->delivered.epoch, loader->delivered.position);
    slot->state = SLOT_HELD;
    loader->held++;
    loader->deliver++;
    loader->delivered.position += batch->global_n;
    loader->stats.batches++;
    loader->stats.samples += batch->n;
    pthread_mutex_unlock(&loader->lock);
    return batch;
}

void loader_release(Loader *loader, const Batch *batch)
{
    pthread_mutex_lock(&loader->lock);
    CHECK(batch->slot >= 0 && batch->slot < loader->config.slots &&
              &loader->slots[batch->slot].batch == batch &&
              loader->slots[batch->slot].state == SLOT_HELD,
          "loader_release of slot %d, which is not held", batch->slot);
    loader->slots[batch->slot].state = SLOT_FREE;
    loader->held--;
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->lock);
}

void loader_seek(Loader *loader, uint32_t epoch, uint32_t position)
{
    pthread_mutex_lock(&loader->lock);
    CHECK(loader->held == 0, "loader_seek with %d batches held: release them first", loader->held);
    CHECK(position <= loader->dataset->count, "loader_seek to position %u of %u", position,
          loader->dataset->count);
    loader->paused = true;
    while (loader->filling > 0) {
        pthread_cond_wait(&loader->filled, &loader->lock);
    }
    for (int s = 0; s < loader->config.slots; s++) {
        loader->slots[s].state = SLOT_FREE;
    }
    loader->claim = 0;
    loader->deliver = 0;
    loader->scheduled = (LoaderState){epoch, position};
    loader->delivered = loader->scheduled;
    loader->paused = false;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
}

LoaderState loader_state(const Loader *loader)
{
    return loader->delivered; /* written by the consumer's thread only */
}

LoaderStats loader_stats(const Loader *loader)
{
    return loader->stats; /* written by the consumer's thread only */
}

uint32_t loader_batches_per_epoch(const Loader *loader)
{
    const uint32_t count = loader->dataset->count;
    const uint32_t batch = loader->config.batch;
    return count / batch + (!loader->config.drop_last && count % batch != 0);
}

int loader_slots(const Loader *loader)
{
    return loader->config.slots;
}
