/* What the backends on the host share: zeroed memory in whole cache lines, and transfers, fills and
 * events as tasks of the backend's queues. */
#include "backend/host_device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LINE = 64 };

typedef struct {
    void *dst;
    const void *src;
    void *owned; /* freed afterwards */
    size_t bytes;
    int byte;
} MoveTask;

static HostDevice *device_of(Backend *backend)
{
    return backend->state;
}

void host_device_submit(Backend *backend, Queue queue, QueueTask task, void *context,
                        const void *data, size_t data_bytes)
{
    queues_submit(device_of(backend)->queues, (int)queue, task, context, data, (int)data_bytes);
}

static void task_copy(void *context, const void *data)
{
    (void)context;
    const MoveTask *task = data;
    memcpy(task->dst, task->src, task->bytes);
    free(task->owned);
}

static void task_fill(void *context, const void *data)
{
    (void)context;
    const MoveTask *task = data;
    memset(task->dst, task->byte, task->bytes);
}

static void *alloc(Backend *backend, MemKind kind, size_t bytes)
{
    (void)backend;
    (void)kind;
    if (bytes > SIZE_MAX - LINE) {
        return NULL;
    }
    const size_t rounded = bytes == 0 ? LINE : (bytes + LINE - 1) / LINE * LINE;
    void *memory = aligned_alloc(LINE, rounded);
    return memory ? memset(memory, 0, rounded) : NULL;
}

static void release_memory(Backend *backend, MemKind kind, void *memory)
{
    (void)backend;
    (void)kind;
    free(memory);
}

/* Where queues are threads the source is copied at once: the caller may reuse it. */
static void upload(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    MoveTask task = {.dst = dst, .src = src, .bytes = bytes};
    if (device_of(backend)->threaded && bytes > 0) {
        task.owned = xmalloc(bytes);
        memcpy(task.owned, src, bytes);
        task.src = task.owned;
    }
    host_device_submit(backend, queue, task_copy, NULL, &task, sizeof task);
}

static void download(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    const MoveTask task = {.dst = dst, .src = src, .bytes = bytes};
    host_device_submit(backend, queue, task_copy, NULL, &task, sizeof task);
}

static void fill(Backend *backend, Queue queue, void *dst, int byte, size_t bytes)
{
    const MoveTask task = {.dst = dst, .byte = byte, .bytes = bytes};
    host_device_submit(backend, queue, task_fill, NULL, &task, sizeof task);
}

static void task_discard(void *context, const void *data)
{
    (void)context;
    const MoveTask *task = data;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t skip =
        (page - (uintptr_t)task->dst % page) % page; /* up to the first whole page */
    const size_t whole = task->bytes > skip ? (task->bytes - skip) / page * page : 0;
    if (whole > 0) {
        (void)madvise((char *)task->dst + skip, whole, MADV_DONTNEED); /* refused: memory stays */
    }
}

static void discard(Backend *backend, Queue queue, void *memory, size_t bytes)
{
    const MoveTask task = {.dst = memory, .bytes = bytes};
    host_device_submit(backend, queue, task_discard, NULL, &task, sizeof task);
}

static int event(Backend *backend)
{
    return queues_event(device_of(backend)->queues);
}

static void record(Backend *backend, Queue queue, int event)
{
    queues_record(device_of(backend)->queues, (int)queue, event);
}

static void wait(Backend *backend, Queue queue, int event)
{
    queues_wait(device_of(backend)->queues, (int)queue, event);
}

static void sync_queue(Backend *backend, Queue queue)
{
    queues_sync(device_of(backend)->queues, (int)queue);
}

void host_device_open(const BackendOptions *options, void *state, Backend *backend)
{
    HostDevice *device = state;
    device->queues = queues_open(QUEUE_COUNT, options->queue_threads, options->delay_seed);
    device->threaded = options->queue_threads;
    backend->state = state;
    backend->alloc = alloc;
    backend->free = release_memory;
    backend->upload = upload;
    backend->download = download;
    backend->fill = fill;
    backend->discard = discard;
    backend->event = event;
    backend->record = record;
    backend->wait = wait;
    backend->sync = sync_queue;
}

void host_device_close(Backend *backend)
{
    queues_close(device_of(backend)->queues);
}
