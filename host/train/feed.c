/* The two sources of batches. The resident one walks the same function of (epoch, position) as the loader; what it hands
 * out are places only. */
#include "train/feed.h"

#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_FREE = -1 };

struct Feed {
    FeedConfig config;
    Backend *backend;
    Exec *step;
    bool wants_ids;
    Loader *loader; /* NULL: resident */
    /* resident */
    int32_t *order; /* [count] in memory that the device reads, of epoch order_epoch */
    uint32_t order_epoch;
    bool order_valid;
    uint32_t epoch, position;
    Batch *slots; /* [held]; slot SLOT_FREE: not handed out */
};

static void *take_host(void *context, size_t bytes)
{
    Backend *backend = context;
    return backend->alloc(backend, MEM_HOST, bytes);
}

static void give_host(void *context, void *memory)
{
    Backend *backend = context;
    backend->free(backend, MEM_HOST, memory);
}

static Err *open_loader(Feed *feed)
{
    const FeedConfig *c = &feed->config;
    const LoaderConfig config = {
        .batch = c->batch,
        .seed = c->seed,
        .augment = c->augment,
        .policy = c->policy,
        .shuffle = true,
        .workers = c->workers,
        .slots = c->workers + c->held + 1,
        .epoch = c->epoch,
        .position = c->position,
        .memory = {.alloc = take_host, .release = give_host, .context = feed->backend}};
    return loader_open(c->dataset, &config, &feed->loader);
}

static Err *open_resident(Feed *feed)
{
    const FeedConfig *c = &feed->config;
    const Dataset *set = c->dataset;
    feed->slots = xcalloc((size_t)c->held, sizeof *feed->slots);
    for (int i = 0; i < c->held; i++) {
        feed->slots[i].slot = SLOT_FREE;
    }
    feed->epoch = c->epoch;
    feed->position = c->position;
    feed->order = take_host(feed->backend, set->count * sizeof *feed->order);
    if (!feed->order) {
        return err_new(EXIT_DEVICE_MEMORY, "no memory for the order of %u samples", set->count);
    }
    exec_write(feed->step, "set_images", set->images, set->count * dataset_image_size(set));
    exec_write(feed->step, "set_labels", set->labels, set->count * sizeof *set->labels);
    exec_sync(feed->step);
    return NULL;
}

Err *feed_open(const FeedConfig *config, Backend *backend, Exec *step, Feed **out)
{
    CHECK(!config->resident || policy_is_none(&config->policy), "a policy on a resident set");
    Feed *feed = xcalloc(1, sizeof *feed);
    feed->config = *config;
    feed->backend = backend;
    feed->step = step;
    feed->wants_ids = graph_find_tensor(exec_graph(step), "ids") >= 0;
    Err *err = config->resident ? open_resident(feed) : open_loader(feed);
    if (err) {
        feed_close(feed);
        feed = NULL;
    }
    *out = feed;
    return err;
}

void feed_close(Feed *feed)
{
    if (!feed) {
        return;
    }
    loader_close(feed->loader);
    if (feed->order) {
        give_host(feed->backend, feed->order);
    }
    free(feed->slots);
    free(feed);
}

static Batch *free_slot(Feed *feed)
{
    for (int i = 0; i < feed->config.held; i++) {
        if (feed->slots[i].slot == SLOT_FREE) {
            feed->slots[i].slot = i;
            return &feed->slots[i];
        }
    }
    CHECK(false, "all %d batches are held", feed->config.held);
    return NULL;
}

static const Batch *next_resident(Feed *feed)
{
    const uint32_t count = feed->config.dataset->count;
    if (feed->position >= count) {
        feed->epoch++;
        feed->position = 0;
        return NULL;
    }
    const uint32_t left = count - feed->position;
    const uint32_t n = left < feed->config.batch ? left : feed->config.batch;
    Batch *batch = free_slot(feed);
    *batch = (Batch){.n = n,
                     .capacity = feed->config.batch,
                     .global_n = n,
                     .epoch = feed->epoch,
                     .position = feed->position,
                     .last = n == left,
                     .slot = batch->slot};
    feed->position += n;
    return batch;
}

const Batch *feed_next(Feed *feed)
{
    return feed->loader ? loader_next(feed->loader) : next_resident(feed);
}

void feed_release(Feed *feed, const Batch *batch)
{
    if (feed->loader) {
        loader_release(feed->loader, batch);
    } else {
        feed->slots[batch->slot].slot = SLOT_FREE;
    }
}

/* No step of the old epoch is in flight when the first batch of a new one is uploaded: the epoch's end waits for all. */
static void upload_order(Feed *feed, uint32_t epoch)
{
    const uint32_t count = feed->config.dataset->count;
    exec_sync(feed->step); /* the order of the epoch before has been read */
    rng_permutation(feed->config.seed, epoch, (uint32_t *)feed->order, count);
    exec_write(feed->step, "order", feed->order, count * sizeof *feed->order);
    feed->order_epoch = epoch;
    feed->order_valid = true;
}

void feed_upload(Feed *feed, const Batch *batch, int32_t cursor[CURSOR_FIELDS])
{
    if (!feed->loader) {
        if (!feed->order_valid || feed->order_epoch != batch->epoch) {
            upload_order(feed, batch->epoch);
        }
        cursor[0] = (int32_t)batch->epoch;
        cursor[1] = (int32_t)(batch->position + batch->global_row);
        cursor[2] = (int32_t)(uint32_t)feed->config.seed;
        cursor[3] = (int32_t)(uint32_t)(feed->config.seed >> 32);
        return;
    }
    exec_write(feed->step, "images", batch->images,
               batch->n * dataset_image_size(feed->config.dataset));
    exec_write(feed->step, "labels", batch->labels, batch->n * sizeof *batch->labels);
    if (feed->wants_ids) {
        exec_write(feed->step, "ids", batch->ids, batch->n * sizeof *batch->ids);
    }
}

void feed_enqueue(Feed *feed, const int32_t cursor[CURSOR_FIELDS])
{
    if (!feed->loader) {
        exec_write(feed->step, "cursor", cursor, CURSOR_FIELDS * sizeof *cursor);
    }
}

uint32_t feed_batches_per_epoch(const Feed *feed)
{
    const uint32_t batch = feed->config.batch;
    return (feed->config.dataset->count + batch - 1) / batch;
}
