/* Memory, transfers, queues and events of a backend that runs on the host (ref, cpu): its part of
 * the backend table. Device memory is host memory; a transfer is a copy in queue order.
 *
 * Life cycle: the backend's state begins with a HostDevice; host_device_open opens the queues, makes
 * `state` the backend's and fills alloc, free, upload, download, fill, event, record, wait and sync;
 * host_device_close finishes what was submitted. Thread rules: those of the backend table. */
#ifndef CUDISTILL_BACKEND_HOST_DEVICE_H
#define CUDISTILL_BACKEND_HOST_DEVICE_H

#include "backend/backend.h"
#include "backend/queues.h"

typedef struct {
    Queues *queues;
    bool threaded; /* every queue is a thread */
} HostDevice;

/* state: begins with a HostDevice; stays the caller's to free. */
void host_device_open(const BackendOptions *options, void *state, Backend *backend);
void host_device_close(Backend *backend);
/* As queues_submit, on a queue of the backend. */
void host_device_submit(Backend *backend, Queue queue, QueueTask task, void *context,
                        const void *data, size_t data_bytes);

#endif
