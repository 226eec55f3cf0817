/* Collective communication between the ranks of a run, one table of functions: self (one rank), nccl (GPUs). Ranks are
 * processes; each drives one device.
 *
 * Life cycle: comm_open, collectives in the same order on all ranks, comm_close. Thread rules: one thread, but check and
 * abort may be called from any: while one thread waits for a queue, another looks for dead peers and aborts.
 *
 * Reductions are enqueued on a native queue (Backend.native_queue) and finish in its order. They may be captured, by all
 * ranks alike, once the same collectives have run uncaptured: the first use of a size connects ranks and allocates. */
#ifndef CUDISTILL_COMM_COMM_H
#define CUDISTILL_COMM_COMM_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

typedef enum { COMM_F32, COMM_BF16, COMM_F16 } CommType;

typedef struct Comm Comm;
struct Comm {
    const char *name; /* "self", "nccl" */
    int rank, world;
    void *state;
    void (*close)(Comm *);
    /* data[i] = sum over ranks, in place, on the queue. */
    Err *(*all_reduce)(Comm *, void *queue, void *data, size_t count, CommType type);
    Err *(*broadcast)(Comm *, void *queue, void *data, size_t bytes, int root);
    /* The error of a peer or of the transport that is known by now, else NULL; cheap. Call it while waiting for a queue,
     * which may never end, and after it, since data of a collective that failed are not valid. */
    Err *(*check)(Comm *);
    /* Gives up: collectives under way end, the communicator can only be closed after it. */
    void (*abort)(Comm *);
};

enum { COMM_ID_BYTES = 128 };
typedef struct {
    int rank, world;
    int device;
    unsigned char
        id[COMM_ID_BYTES]; /* of rank 0's comm_nccl_id, carried to all ranks by the launcher */
    double timeout_s;      /* for opening, and for a collective to be enqueued; 0 = 120 */
} CommOptions;

Err *comm_open_self(Comm *out);
/* nccl is in libcudistill_cuda.so (host/comm/nccl.c). options NULL: one rank. Errors: EXIT_NO_DEVICE with the reason when
 * the library or the GPU cannot be had, EXIT_PEER when the ranks do not find each other, EXIT_USAGE_ERR. */
Err *comm_open(const char *name /* "self", "nccl" */, const CommOptions *options, Comm **out);
/* A new id, by one rank for all; each id serves one opening. */
Err *comm_new_id(const char *name, unsigned char id[COMM_ID_BYTES]);
void comm_close(Comm *comm);

/* What host/comm/nccl.c defines and the loader finds by name. */
Err *comm_nccl_id(unsigned char id[COMM_ID_BYTES]);
Err *comm_open_nccl(const CommOptions *options, Comm *out);

#endif
