/* Cuts ARENA_GRAD into buckets. Parameters follow each other in the arena roughly in the order in which backward finishes
 * them, so cutting is greedy along the arena; a bucket is ready when its last parameter is, and the table is sorted by
 * that. Residual branches change the order a little, which the largest step in a bucket absorbs; where readiness falls
 * far back the next network's parameters begin, and with them a new bucket. */
#include "graph/buckets.h"

#include "base/err.h"

#include <stdlib.h>

enum { MIB = 1 << 20, DEFAULT_FIRST = MIB, DEFAULT_BYTES = 25 * MIB, FALL_BACK_SHARE = 4 };

/* A parameter and the padding behind it. */
typedef struct {
    size_t first, count;
    int ready;
} Segment;

static int by_first(const void *a, const void *b)
{
    const Segment *x = a;
    const Segment *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static int by_ready(const void *a, const void *b)
{
    const Bucket *x = a;
    const Bucket *y = b;
    if (x->ready_step != y->ready_step) {
        return x->ready_step < y->ready_step ? -1 : 1;
    }
    return x->first < y->first ? -1 : x->first > y->first;
}

/* The trainable parameters in the order of the arena; each reaches to the next, the first from 0, the last to the end. */
static Segment *list_segments(const Graph *g, const Plan *plan, int *count)
{
    const Params *params = g->params;
    const size_t elems = params ? params->arena_elems[ARENA_WEIGHT] : 0;
    Segment *segments = xcalloc((size_t)(params ? params->count : 0) + 1, sizeof *segments);
    *count = 0;
    for (int p = 0; elems > 0 && p < params->count; p++) {
        if (params->items[p].arena == ARENA_WEIGHT) {
            segments[(*count)++] =
                (Segment){.first = params->items[p].offset, .ready = plan->param_ready[p]};
        }
    }
    qsort(segments, (size_t)*count, sizeof *segments, by_first);
    for (int i = 0; i < *count; i++) {
        segments[i].first = i == 0 ? 0 : segments[i].first;
        segments[i].count = (i + 1 < *count ? segments[i + 1].first : elems) - segments[i].first;
    }
    return segments;
}

static void append(Bucket *bucket, const Segment *segment)
{
    if (bucket->count == 0) {
        *bucket = (Bucket){.first = segment->first, .ready_step = -1};
    }
    bucket->count += segment->count;
    bucket->ready_step = segment->ready > bucket->ready_step ? segment->ready : bucket->ready_step;
}

/* A bucket ends when it has reached its size, so that none is tiny but the last. */
static int cut(const Segment *segments, int n, size_t first_elems, size_t elems, int fall_back,
               Bucket *buckets)
{
    int count = 0;
    Bucket open = {0};
    for (int i = 0; i < n; i++) {
        const bool falls =
            segments[i].ready >= 0 && segments[i].ready < open.ready_step - fall_back;
        if (open.count > 0 && (open.count >= (count == 0 ? first_elems : elems) || falls)) {
            buckets[count++] = open;
            open = (Bucket){0};
        }
        append(&open, &segments[i]);
    }
    if (open.count > 0) {
        buckets[count++] = open;
    }
    return count;
}

/* Nothing hides the last reduction: the parameters at the arena's end that fit into `elems` (at least one) become a
 * bucket of their own. */
static int cut_last(const Segment *segments, int n, size_t elems, Bucket *buckets, int count)
{
    const Bucket last = buckets[count - 1];
    int begin = n - 1;
    size_t size = segments[begin].count;
    while (begin > 0 && segments[begin - 1].first >= last.first &&
           size + segments[begin - 1].count <= elems) {
        size += segments[--begin].count;
    }
    if (segments[begin].first == last.first) {
        return count;
    }
    buckets[count - 1] = (Bucket){0};
    buckets[count] = (Bucket){0};
    for (int i = 0; i < n; i++) {
        if (segments[i].first >= last.first) {
            append(&buckets[i < begin ? count - 1 : count], &segments[i]);
        }
    }
    return count + 1;
}

int buckets_build(const Graph *g, const Plan *plan, const BucketOptions *options, Bucket **out)
{
    const size_t unit = dtype_size(g->math);
    const size_t first_bytes =
        options && options->first_bytes ? options->first_bytes : DEFAULT_FIRST;
    const size_t bytes = options && options->bytes ? options->bytes : DEFAULT_BYTES;
    const size_t first_elems = first_bytes / unit;
    int n = 0;
    Segment *segments = list_segments(g, plan, &n);
    Bucket *buckets = xcalloc((size_t)n + 2, sizeof *buckets);
    int count =
        cut(segments, n, first_elems, bytes / unit, plan->n_steps / FALL_BACK_SHARE, buckets);
    if (count > 0) {
        count = cut_last(segments, n, first_elems, buckets, count);
    }
    qsort(buckets, (size_t)count, sizeof *buckets, by_ready);
    free(segments);
    *out = buckets;
    return count;
}
