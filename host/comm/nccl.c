/* Ranks on GPUs through NCCL. The communicator is non-blocking: a call that NCCL has not finished says "in progress" and is
 * polled here with a deadline, so that a rank that never comes or has died ends in an error and not in a wait without
 * end. Every call into NCCL is made under one lock and returns at once; that is why another thread may check or abort
 * while this one waits. A dead peer shows as an asynchronous error of the communicator; what NCCL cannot see (a process
 * that stands still) is for the deadline of whoever waits for the queue. */
#include "comm/comm.h"

#include "base/log.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

_Static_assert(sizeof(ncclUniqueId) == COMM_ID_BYTES, "the id of NCCL does not fit");

static const double DEFAULT_TIMEOUT_S = 120;
static const double CLOSE_TIMEOUT_S = 10;

typedef struct {
    pthread_mutex_t lock; /* of comm */
    ncclComm_t comm;      /* NULL after an abort */
    int rank, world, device;
    double timeout_s;
} Nccl;

/* ---- Messages ---- */

static void version_text(int version, char out[32])
{
    snprintf(out, 32, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

/* "NCCL 2.28.9", and what it was built for where that differs. */
static char *library_text(void)
{
    char built[32];
    char used[32];
    int version = 0;
    version_text(NCCL_VERSION_CODE, built);
    if (ncclGetVersion(&version) != ncclSuccess) {
        return xformat("NCCL of unknown version (built for %s)", built);
    }
    version_text(version, used);
    return version == NCCL_VERSION_CODE ? xformat("NCCL %s", used)
                                        : xformat("NCCL %s (built for %s)", used, built);
}

/* What usually is behind a result, and the cure. */
static const char *hint_of(ncclResult_t result)
{
    switch (result) {
    case ncclUnhandledCudaError:
        return "a CUDA call failed: is the GPU of this rank free and the driver new enough for "
               "this "
               "NCCL?";
    case ncclSystemError:
        return "a system call failed: NCCL_DEBUG=WARN tells which; full /dev/shm and the wrong "
               "network interface (NCCL_SOCKET_IFNAME) are common";
    case ncclInvalidUsage:
        return "two ranks on one GPU, or ranks with different versions of NCCL: give each rank a "
               "GPU "
               "of its own and the same library";
    case ncclRemoteError:
        return "another rank has died or lost its connection: look for the first error among the "
               "other ranks";
    case ncclInternalError:
    case ncclInvalidArgument:
        return "this should not happen: run again with NCCL_DEBUG=INFO and report it";
    default:
        return "run again with NCCL_DEBUG=WARN for the reason";
    }
}

static Err *nccl_error(const Nccl *nccl, const char *call, ncclResult_t result, const char *detail)
{
    char *library = library_text();
    Err *err =
        err_new(EXIT_PEER, "rank %d of %d, GPU %d: %s: %s%s%s; %s [%s]", nccl->rank, nccl->world,
                nccl->device, call, ncclGetErrorString(result), detail && detail[0] ? ": " : "",
                detail ? detail : "", hint_of(result), library);
    free(library);
    return err;
}

static Err *late_error(const Nccl *nccl, const char *what, double timeout_s)
{
    char *library = library_text();
    Err *err = err_new(EXIT_PEER,
                       "rank %d of %d, GPU %d: %s not finished after %g s: another rank did not "
                       "come so far; look for its error, or whether it was started at all [%s]",
                       nccl->rank, nccl->world, nccl->device, what, timeout_s, library);
    free(library);
    return err;
}

static Err *aborted_error(const Nccl *nccl)
{
    return err_new(EXIT_PEER, "rank %d of %d: the communicator was given up", nccl->rank,
                   nccl->world);
}

/* ---- Waiting ---- */

/* State of the communicator; ncclInProgress while it works on a call. ncclInvalidUsage when it was aborted. */
static ncclResult_t state_of(Nccl *nccl, char detail[256])
{
    ncclResult_t state = ncclSuccess;
    detail[0] = '\0';
    pthread_mutex_lock(&nccl->lock);
    if (!nccl->comm) {
        pthread_mutex_unlock(&nccl->lock);
        return ncclInvalidUsage;
    }
    const ncclResult_t asked = ncclCommGetAsyncError(nccl->comm, &state);
    state = asked == ncclSuccess ? state : asked;
    if (state != ncclSuccess && state != ncclInProgress) {
        const char *last = ncclGetLastError(nccl->comm);
        snprintf(detail, 256, "%s", last ? last : "");
    }
    pthread_mutex_unlock(&nccl->lock);
    return state;
}

static bool is_aborted(Nccl *nccl)
{
    pthread_mutex_lock(&nccl->lock);
    const bool gone = !nccl->comm;
    pthread_mutex_unlock(&nccl->lock);
    return gone;
}

/* Waits until the communicator has finished a call whose result was `result`. */
static Err *settle(Nccl *nccl, const char *call, ncclResult_t result, double timeout_s)
{
    const double end = now_s() + timeout_s;
    char detail[256] = "";
    long pause_ns = 1000;
    while (result == ncclInProgress) {
        result = state_of(nccl, detail);
        if (result == ncclInProgress) {
            if (now_s() > end) {
                return late_error(nccl, call, timeout_s);
            }
            nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
            pause_ns = pause_ns < 500000 ? 2 * pause_ns : pause_ns;
        }
    }
    if (result == ncclSuccess) {
        return NULL;
    }
    return is_aborted(nccl) ? aborted_error(nccl) : nccl_error(nccl, call, result, detail);
}

/* ---- The table ---- */

static Err *nccl_check(Comm *comm)
{
    Nccl *nccl = comm->state;
    char detail[256];
    const ncclResult_t state = state_of(nccl, detail);
    if (state == ncclSuccess || state == ncclInProgress) {
        return NULL;
    }
    return is_aborted(nccl) ? aborted_error(nccl)
                            : nccl_error(nccl, "a collective under way", state, detail);
}

/* Takes the communicator away from everybody else; NULL when it is gone already. */
static ncclComm_t take(Nccl *nccl)
{
    pthread_mutex_lock(&nccl->lock);
    const ncclComm_t comm = nccl->comm;
    nccl->comm = NULL;
    pthread_mutex_unlock(&nccl->lock);
    return comm;
}

static void nccl_abort(Comm *comm)
{
    const ncclComm_t given_up = take(comm->state);
    if (given_up) {
        (void)ncclCommAbort(given_up); /* there is nothing left to do about a failure */
    }
}

/* A communicator whose ranks do not all leave within the deadline is given up. */
static void nccl_close(Comm *comm)
{
    Nccl *nccl = comm->state;
    ncclResult_t result = ncclInvalidUsage;
    pthread_mutex_lock(&nccl->lock);
    if (nccl->comm) {
        result = ncclCommFinalize(nccl->comm);
    }
    pthread_mutex_unlock(&nccl->lock);
    Err *err = settle(nccl, "ncclCommFinalize", result, CLOSE_TIMEOUT_S);
    const ncclComm_t left = err ? NULL : take(nccl);
    if (left) {
        (void)ncclCommDestroy(left);
    }
    nccl_abort(comm);
    err_free(err);
    pthread_mutex_destroy(&nccl->lock);
    free(nccl);
    comm->state = NULL;
}

static ncclDataType_t type_of(CommType type)
{
    switch (type) {
    case COMM_F32:
        return ncclFloat32;
    case COMM_BF16:
        return ncclBfloat16;
    case COMM_F16:
        return ncclFloat16;
    }
    CHECK(false, "communication type %d", (int)type);
    return ncclFloat32;
}

static Err *nccl_all_reduce(Comm *comm, void *queue, void *data, size_t count, CommType type)
{
    Nccl *nccl = comm->state;
    ncclResult_t result = ncclInvalidUsage;
    pthread_mutex_lock(&nccl->lock);
    if (nccl->comm) {
        result = ncclAllReduce(data, data, count, type_of(type), ncclSum, nccl->comm,
                               (cudaStream_t)queue);
    }
    pthread_mutex_unlock(&nccl->lock);
    return settle(nccl, "ncclAllReduce", result, nccl->timeout_s);
}

static Err *nccl_broadcast(Comm *comm, void *queue, void *data, size_t bytes, int root)
{
    Nccl *nccl = comm->state;
    CHECK(root >= 0 && root < nccl->world, "broadcast from rank %d of %d", root, nccl->world);
    ncclResult_t result = ncclInvalidUsage;
    pthread_mutex_lock(&nccl->lock);
    if (nccl->comm) {
        result = ncclBroadcast(data, data, bytes, ncclUint8, root, nccl->comm, (cudaStream_t)queue);
    }
    pthread_mutex_unlock(&nccl->lock);
    return settle(nccl, "ncclBroadcast", result, nccl->timeout_s);
}

/* ---- Opening ---- */

/* Newer than built for is fine; an older library lacks functions or lays out the configuration otherwise. */
static Err *check_version(void)
{
    int version = 0;
    char built[32];
    char used[32];
    const ncclResult_t result = ncclGetVersion(&version);
    version_text(NCCL_VERSION_CODE, built);
    version_text(version, used);
    if (result != ncclSuccess || version / 10000 != NCCL_MAJOR ||
        version / 100 < NCCL_VERSION_CODE / 100) {
        return err_new(
            EXIT_NO_DEVICE,
            "NCCL %s was found where the program was built for %s: put the newer libnccl.so.2 "
            "first in LD_LIBRARY_PATH, or build again",
            result == ncclSuccess ? used : "of unknown version", built);
    }
    return NULL;
}

Err *comm_nccl_id(unsigned char id[COMM_ID_BYTES])
{
    TRY(check_version());
    ncclUniqueId unique;
    const ncclResult_t result = ncclGetUniqueId(&unique);
    if (result != ncclSuccess) {
        return err_new(EXIT_PEER, "ncclGetUniqueId: %s; %s", ncclGetErrorString(result),
                       hint_of(result));
    }
    memcpy(id, &unique, COMM_ID_BYTES);
    return NULL;
}

static Err *connect_ranks(Nccl *nccl, const CommOptions *options)
{
    const cudaError_t chosen = cudaSetDevice(options->device);
    if (chosen != cudaSuccess) {
        return err_new(EXIT_NO_DEVICE,
                       "rank %d of %d: GPU %d cannot be had: %s; each rank needs one "
                       "of its own (CUDA_VISIBLE_DEVICES)",
                       nccl->rank, nccl->world, options->device, cudaGetErrorString(chosen));
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclUniqueId unique;
    memcpy(&unique, options->id, COMM_ID_BYTES);
    ncclComm_t comm = NULL;
    const ncclResult_t result =
        ncclCommInitRankConfig(&comm, nccl->world, unique, nccl->rank, &config);
    nccl->comm = comm;
    if (!comm) {
        return nccl_error(nccl, "ncclCommInitRankConfig", result, NULL);
    }
    return settle(nccl, "ncclCommInitRankConfig", result, nccl->timeout_s);
}

Err *comm_open_nccl(const CommOptions *options, Comm *out)
{
    TRY(check_version());
    Nccl *nccl = xcalloc(1, sizeof *nccl);
    nccl->rank = options->rank;
    nccl->world = options->world;
    nccl->device = options->device;
    nccl->timeout_s = options->timeout_s > 0 ? options->timeout_s : DEFAULT_TIMEOUT_S;
    CHECK(pthread_mutex_init(&nccl->lock, NULL) == 0, "no lock for the communicator");
    *out = (Comm){.name = "nccl",
                  .rank = nccl->rank,
                  .world = nccl->world,
                  .state = nccl,
                  .close = nccl_close,
                  .all_reduce = nccl_all_reduce,
                  .broadcast = nccl_broadcast,
                  .check = nccl_check,
                  .abort = nccl_abort};
    Err *err = connect_ranks(nccl, options);
    if (err) {
        nccl_abort(out);
        pthread_mutex_destroy(&nccl->lock);
        free(nccl);
        *out = (Comm){0};
    }
    return err;
}
