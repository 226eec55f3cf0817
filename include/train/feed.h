/* Where a run's batches come from: the loader, whose slots are uploaded step by step, or the resident set, which lies on
 * the device and whose batches are made there (OP_VIEWS) from the epoch's order and a cursor. Both give the same stream,
 * bit for bit, from the same (epoch, position).
 *
 * Life cycle: feed_open once the step's executor is open (it uploads a resident set); feed_next, feed_upload,
 * feed_enqueue, feed_release for every batch; feed_close. Not for several threads. */
#ifndef CUDISTILL_TRAIN_FEED_H
#define CUDISTILL_TRAIN_FEED_H

#include "backend/exec.h"
#include "data/loader.h"

typedef struct Feed Feed;

typedef struct {
    bool resident;
    const Dataset *dataset;
    uint32_t batch;
    uint64_t seed;
    AugmentSpec augment;
    PolicySpec policy; /* none where resident */
    int workers;       /* of the loader */
    int held;          /* batches that the caller holds at once */
    uint32_t epoch, position;
} FeedConfig;

enum { CURSOR_FIELDS = 4 };

/* The executor's graph is one of nets_train_graph, wired as config->resident says. */
Err *feed_open(const FeedConfig *config, Backend *backend, Exec *step, Feed **out);
void feed_close(Feed *feed); /* accepts NULL */

/* As loader_next: NULL once at the end of each epoch. A batch of a resident set has no images, labels or ids here. */
const Batch *feed_next(Feed *feed);
void feed_release(Feed *feed, const Batch *batch);
/* Uploads what cannot be part of a captured step, and writes the batch's place into `cursor` (memory that the device
 * reads, which must stay until the step has run). */
void feed_upload(Feed *feed, const Batch *batch, int32_t cursor[CURSOR_FIELDS]);
/* Submits what belongs into every step before it runs: the upload of `cursor`, where there is one. */
void feed_enqueue(Feed *feed, const int32_t cursor[CURSOR_FIELDS]);

uint32_t feed_batches_per_epoch(const Feed *feed);

#endif
