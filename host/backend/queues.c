/* Execution queues of the host backends. Threaded queues are a list of items under one lock a
 * queue; events carry the number of records submitted and finished, so that a wait stands for
 * the last record before it, as on a device. */
#include "backend/queues.h"

#include "base/err.h"
#include "base/rng.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { QUEUE_DATA_MAX = 512, DELAY_MAX_US = 200 };

typedef enum { ITEM_TASK, ITEM_RECORD, ITEM_WAIT } ItemKind;

typedef struct Item {
    struct Item *next;
    ItemKind kind;
    QueueTask task;
    void *context;
    int event;
    uint64_t ticket; /* of a record: its number; of a wait: the record it waits for */
    _Alignas(16) unsigned char data[QUEUE_DATA_MAX];
} Item;

typedef struct {
    uint64_t submitted, finished;
} Event;

typedef struct {
    Queues *owner;
    int index;
    pthread_t thread;
    pthread_cond_t wake;
    Item *head, *tail;
    uint64_t submitted, finished; /* items */
} Worker;

struct Queues {
    int count;
    bool threaded;
    uint64_t delay_seed;
    pthread_mutex_t lock;    /* everything below, and the workers' lists */
    pthread_cond_t progress; /* an event was recorded or an item finished */
    bool closing;
    Event *events;
    int n_events;
    size_t event_capacity;
    Worker *workers;
};

/* Half of the items start late, so that both orders of two unordered items are seen. */
static void delay(const Queues *queues, int queue, uint64_t item)
{
    Rng rng = rng_make(queues->delay_seed, (uint32_t)queue, item, RNG_TEST);
    if (rng_below(&rng, 2) == 0) {
        return;
    }
    const struct timespec pause = {.tv_nsec = 1000L * (long)rng_below(&rng, DELAY_MAX_US)};
    nanosleep(&pause, NULL);
}

static void run_item(Worker *worker, const Item *item, uint64_t number)
{
    Queues *queues = worker->owner;
    if (item->kind == ITEM_TASK) {
        delay(queues, worker->index, number);
        item->task(item->context, item->data);
        return;
    }
    pthread_mutex_lock(&queues->lock);
    if (item->kind == ITEM_RECORD) {
        if (queues->events[item->event].finished < item->ticket) {
            queues->events[item->event].finished = item->ticket;
        }
        pthread_cond_broadcast(&queues->progress);
    } else {
        while (queues->events[item->event].finished < item->ticket) {
            pthread_cond_wait(&queues->progress, &queues->lock);
        }
    }
    pthread_mutex_unlock(&queues->lock);
}

static void *worker_main(void *argument)
{
    Worker *worker = argument;
    Queues *queues = worker->owner;
    pthread_mutex_lock(&queues->lock);
    for (;;) {
        while (!worker->head && !queues->closing) {
            pthread_cond_wait(&worker->wake, &queues->lock);
        }
        Item *item = worker->head;
        if (!item) {
            break;
        }
        worker->head = item->next;
        if (!worker->head) {
            worker->tail = NULL;
        }
        pthread_mutex_unlock(&queues->lock);
        run_item(worker, item, worker->finished);
        free(item);
        pthread_mutex_lock(&queues->lock);
        worker->finished++;
        pthread_cond_broadcast(&queues->progress);
    }
    pthread_mutex_unlock(&queues->lock);
    return NULL;
}

/* Called with the lock held. */
static void push(Queues *queues, int queue, Item *item)
{
    Worker *worker = &queues->workers[queue];
    if (worker->tail) {
        worker->tail->next = item;
    } else {
        worker->head = item;
    }
    worker->tail = item;
    worker->submitted++;
    pthread_cond_signal(&worker->wake);
}

Queues *queues_open(int count, bool threaded, uint64_t delay_seed)
{
    Queues *queues = xcalloc(1, sizeof *queues);
    queues->count = count;
    queues->threaded = threaded;
    queues->delay_seed = delay_seed;
    if (!threaded) {
        return queues;
    }
    pthread_mutex_init(&queues->lock, NULL);
    pthread_cond_init(&queues->progress, NULL);
    queues->workers = xcalloc((size_t)count, sizeof *queues->workers);
    for (int i = 0; i < count; i++) {
        Worker *worker = &queues->workers[i];
        worker->owner = queues;
        worker->index = i;
        pthread_cond_init(&worker->wake, NULL);
        const int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        CHECK(code == 0, "no thread for queue %d: %s", i, strerror(code));
    }
    return queues;
}

void queues_close(Queues *queues)
{
    if (!queues) {
        return;
    }
    if (queues->threaded) {
        pthread_mutex_lock(&queues->lock);
        queues->closing = true;
        for (int i = 0; i < queues->count; i++) {
            pthread_cond_signal(&queues->workers[i].wake);
        }
        pthread_mutex_unlock(&queues->lock);
        for (int i = 0; i < queues->count; i++) {
            pthread_join(queues->workers[i].thread, NULL);
            pthread_cond_destroy(&queues->workers[i].wake);
        }
        pthread_cond_destroy(&queues->progress);
        pthread_mutex_destroy(&queues->lock);
    }
    free(queues->workers);
    free(queues->events);
    free(queues);
}

void queues_submit(Queues *queues, int queue, QueueTask task, void *context, const void *data,
                   int data_bytes)
{
    CHECK(queue >= 0 && queue < queues->count, "queue %d of %d", queue, queues->count);
    CHECK(data_bytes >= 0 && data_bytes <= QUEUE_DATA_MAX, "%d bytes of task data", data_bytes);
    if (!queues->threaded) {
        task(context, data);
        return;
    }
    Item *item = xcalloc(1, sizeof *item);
    item->kind = ITEM_TASK;
    item->task = task;
    item->context = context;
    if (data_bytes > 0) {
        memcpy(item->data, data, (size_t)data_bytes);
    }
    pthread_mutex_lock(&queues->lock);
    push(queues, queue, item);
    pthread_mutex_unlock(&queues->lock);
}

int queues_event(Queues *queues)
{
    if (!queues->threaded) {
        return queues->n_events++;
    }
    pthread_mutex_lock(&queues->lock);
    queues->events =
        xgrow(queues->events, &queues->event_capacity, (size_t)queues->n_events + 1, sizeof(Event));
    queues->events[queues->n_events] = (Event){0};
    const int event = queues->n_events++;
    pthread_mutex_unlock(&queues->lock);
    return event;
}

static void push_event(Queues *queues, int queue, int event, ItemKind kind)
{
    CHECK(queue >= 0 && queue < queues->count, "queue %d of %d", queue, queues->count);
    CHECK(event >= 0 && event < queues->n_events, "event %d of %d", event, queues->n_events);
    if (!queues->threaded) {
        return;
    }
    Item *item = xcalloc(1, sizeof *item);
    item->kind = kind;
    item->event = event;
    pthread_mutex_lock(&queues->lock);
    if (kind == ITEM_RECORD) {
        queues->events[event].submitted++;
    }
    item->ticket = queues->events[event].submitted;
    push(queues, queue, item);
    pthread_mutex_unlock(&queues->lock);
}

void queues_record(Queues *queues, int queue, int event)
{
    push_event(queues, queue, event, ITEM_RECORD);
}

void queues_wait(Queues *queues, int queue, int event)
{
    push_event(queues, queue, event, ITEM_WAIT);
}

void queues_sync(Queues *queues, int queue)
{
    if (!queues->threaded) {
        return;
    }
    Worker *worker = &queues->workers[queue];
    pthread_mutex_lock(&queues->lock);
    const uint64_t target = worker->submitted;
    while (worker->finished < target) {
        pthread_cond_wait(&queues->progress, &queues->lock);
    }
    pthread_mutex_unlock(&queues->lock);
}
