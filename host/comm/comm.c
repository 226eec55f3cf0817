/* One rank by itself, and the way to the communicators that live in optional parts. */
#include "comm/comm.h"

#include "base/plugin.h"

#include <stdlib.h>
#include <string.h>

/* ---- One rank: its sum is its own value ---- */

static void self_close(Comm *comm)
{
    (void)comm;
}

static Err *self_all_reduce(Comm *comm, void *queue, void *data, size_t count, CommType type)
{
    (void)comm;
    (void)queue;
    (void)data;
    (void)count;
    (void)type;
    return NULL;
}

static Err *self_broadcast(Comm *comm, void *queue, void *data, size_t bytes, int root)
{
    (void)comm;
    (void)queue;
    (void)data;
    (void)bytes;
    CHECK(root == 0, "broadcast from rank %d of 1", root);
    return NULL;
}

static Err *self_check(Comm *comm)
{
    (void)comm;
    return NULL;
}

Err *comm_open_self(Comm *out)
{
    *out = (Comm){.name = "self",
                  .rank = 0,
                  .world = 1,
                  .close = self_close,
                  .all_reduce = self_all_reduce,
                  .broadcast = self_broadcast,
                  .check = self_check,
                  .abort = self_close};
    return NULL;
}

/* ---- By name ---- */

typedef Err *(*OpenNccl)(const CommOptions *, Comm *);
typedef Err *(*NewId)(unsigned char *);

static Err *unknown(const char *name)
{
    return err_new(EXIT_USAGE_ERR, "communicator '%s' is not known; use self or nccl", name);
}

static Err *open_nccl(const CommOptions *options, Comm *comm)
{
    void *symbol = NULL;
    TRY(plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, "comm_open_nccl", &symbol));
    OpenNccl open;
    memcpy(&open, &symbol, sizeof open); /* C has no cast from an object to a function */
    return open(options, comm);
}

Err *comm_open(const char *name, const CommOptions *options, Comm **out)
{
    static const CommOptions one = {.world = 1};
    const CommOptions *o = options ? options : &one;
    *out = NULL;
    const bool self = strcmp(name, "self") == 0;
    if (!self && strcmp(name, "nccl") != 0) {
        return unknown(name);
    }
    if (o->world < 1 || o->rank < 0 || o->rank >= o->world) {
        return err_new(EXIT_USAGE_ERR, "communicator %s: rank %d of %d; ranks count from 0", name,
                       o->rank, o->world);
    }
    if (self && o->world > 1) {
        return err_new(EXIT_USAGE_ERR,
                       "communicator self is for one rank, not %d; use nccl with --device cuda",
                       o->world);
    }
    Comm *comm = xcalloc(1, sizeof *comm);
    Err *err = self ? comm_open_self(comm) : open_nccl(o, comm);
    if (err) {
        free(comm);
        return err_context(err, "communicator %s", name);
    }
    *out = comm;
    return NULL;
}

Err *comm_new_id(const char *name, unsigned char id[COMM_ID_BYTES])
{
    memset(id, 0, COMM_ID_BYTES);
    if (strcmp(name, "self") == 0) {
        return NULL;
    }
    if (strcmp(name, "nccl") != 0) {
        return unknown(name);
    }
    void *symbol = NULL;
    TRY(err_context(plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, "comm_nccl_id", &symbol),
                    "communicator nccl"));
    NewId new_id;
    memcpy(&new_id, &symbol, sizeof new_id);
    return new_id(id);
}

void comm_close(Comm *comm)
{
    if (!comm) {
        return;
    }
    comm->close(comm);
    free(comm);
}
