/* Execution queues for backends that run on the host. Inline (default): a task runs at once on the calling thread, record
 * and wait are no-ops. Threaded: every queue is a thread that takes tasks in order, with random delays, so that a missing
 * event wait shows as wrong numbers on any machine. */
#ifndef CUDISTILL_BACKEND_QUEUES_H
#define CUDISTILL_BACKEND_QUEUES_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Queues Queues;
typedef void (*QueueTask)(void *context, const void *data);

Queues *queues_open(int count, bool threaded, uint64_t delay_seed);
void queues_close(Queues *queues); /* finishes what was submitted */
/* Copies data_bytes (at most 512) of `data`, calls task(context, copy) in queue order. */
void queues_submit(Queues *queues, int queue, QueueTask task, void *context, const void *data,
                   int data_bytes);
int queues_event(Queues *queues);
void queues_record(Queues *queues, int queue, int event);
void queues_wait(Queues *queues, int queue,
                 int event); /* for the last record submitted before this call */
void queues_sync(Queues *queues, int queue);

#endif
