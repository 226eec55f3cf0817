/* The backend table: memory, queues and events, prepare and run. `ref` is plain loops and defines every op; `cpu` and
 * `cuda` are tested against it from one list of cases. A function that one of them could not implement sensibly does not
 * belong here.
 *
 * Thread rules: one thread drives a backend. run() neither allocates nor waits for the device. */
#ifndef CUDISTILL_BACKEND_BACKEND_H
#define CUDISTILL_BACKEND_BACKEND_H

#include "base/err.h"
#include "graph/fusion.h"
#include "graph/plan.h"

typedef enum { QUEUE_COMPUTE, QUEUE_AUX, QUEUE_COPY, QUEUE_COMM, QUEUE_COUNT } Queue;
typedef enum { MEM_DEVICE, MEM_HOST /* host memory that the device can read */ } MemKind;

/* Timed choices are part of a run's state: stored in checkpoints and reused at resume. Keys are made by the backend
 * ("conv_wgrad bf16 n64 ..."), values are small integers. */
typedef struct {
    char **keys;
    int *values;
    int count;
    size_t capacity;
} Choices;
int choices_get(const Choices *choices, const char *key); /* -1 when absent */
void choices_put(Choices *choices, const char *key, int value);
void choices_free(Choices *choices);

/* What run() gets besides the step: arena bases (momentum and the optimizer's needs beside the plan's arenas). */
typedef struct {
    void *arena[ARENA_COUNT];
    void *moment;  /* ARENA_WEIGHT's layout, fp32 */
    bool grad_add; /* writes to GRAD tensors add (gradient mode of the phase) */
    int rows; /* valid rows of this run, what rows_valid holds: lets a step skip what masking needs when rows are full */
} RunArgs;

/* A node prepared for one batch size. `workspace` bytes of ARENA_WORKSPACE are its own while it runs. */
typedef struct {
    const Graph *graph; /* of this rung */
    const Plan *plan;
    int node;
    size_t workspace;
    void *priv; /* the backend's */
    bool packs; /* has packed weights: pack() must run after parameters change */
} Step;

typedef struct {
    char name[64];    /* "AMD EPYC", "NVIDIA H200" */
    char library[64]; /* "oneDNN 2.6.3, avx512_core_bf16" */
    int threads;
    bool bf16, fp16; /* usable and worth it */
} DeviceInfo;

typedef struct Backend Backend;
struct Backend {
    const char *name; /* "ref", "cpu", "cuda" */
    void *state;
    Choices
        *choices; /* borrowed; may be NULL: nothing is timed, first candidate that works is taken */
    bool deterministic;

    void (*close)(Backend *);
    void (*info)(Backend *, DeviceInfo *);
    void *(*alloc)(Backend *, MemKind,
                   size_t bytes); /* 64-byte aligned, zeroed; NULL when memory is out */
    void (*free)(Backend *, MemKind, void *);
    void (*upload)(Backend *, Queue, void *dst, const void *src, size_t bytes);
    void (*download)(Backend *, Queue, void *dst, const void *src, size_t bytes);
    void (*fill)(Backend *, Queue, void *dst, int byte, size_t bytes);
    /* The contents are not needed any more: gives the memory behind whole pages back until it is
     * written again. NULL where there is nothing to gain. */
    void (*discard)(Backend *, Queue, void *memory, size_t bytes);

    bool (*accepts)(Backend *, const FuseCandidate *);
    Err *(*prepare)(Backend *, Step *); /* fills priv, workspace, packs, or says why not */
    void (*release)(Backend *, Step *);
    void (*pack)(Backend *, Queue, const Step *, const RunArgs *);
    void (*run)(Backend *, Queue, const Step *, const RunArgs *);

    int (*event)(Backend *); /* a new event */
    void (*record)(Backend *, Queue, int event);
    void (*wait)(Backend *, Queue, int event);
    void (*sync)(Backend *, Queue); /* the host waits for the queue */
    /* Everything submitted to the queue, and to queues that wait for it, between the two is recorded, not run; replay
     * runs it again with the same addresses: transfers read host memory as it is then. Both NULL where there is
     * nothing to gain. Queues other than the captured one must have joined it (wait) by capture_end. */
    void (*capture_begin)(Backend *, Queue);
    int (*capture_end)(Backend *,
                       Queue); /* number of the recording, kept until close or capture_free */
    void (*capture_free)(Backend *, int captured);
    void (*replay)(Backend *, Queue, int captured);
    void *(*native_queue)(Backend *, Queue); /* cudaStream_t; NULL on hosts. For comm */
    /* Device memory that prepared steps hold beside the arenas: packed weights, constants. NULL: not known. */
    size_t (*step_bytes)(Backend *);
};

/* Address of a tensor of the step's graph under `args`; NULL for id -1. */
static inline void *step_address(const Step *step, const RunArgs *args, int tensor)
{
    if (tensor < 0) {
        return NULL;
    }
    const Placement *at = &step->plan->at[tensor];
    return (char *)args->arena[at->arena] + at->offset;
}
static inline const Node *step_node(const Step *step)
{
    return &step->graph->nodes[step->node];
}

typedef struct {
    int threads; /* 0 = as the environment says */
    bool
        queue_threads; /* ref and cpu: every queue is a thread of its own, with random delays (tests) */
    uint64_t delay_seed;
    Choices *choices;
    bool deterministic;
    const char *isa; /* cpu: cap for tests ("avx2", "avx512_core", NULL = best) */
    int device;      /* cuda: index of the GPU */
    /* cuda: JSON of a described device (cuDNN's device properties). The backend then only prepares: workspace sizes and
     * what is supported are true for that device, memory cannot be had (alloc gives NULL). NULL = a real device */
    const char *described;
    const char
        *plan_cache; /* cuda: folder that keeps chosen cuDNN plans between runs; NULL = what the
                        environment variable CUDISTILL_PLAN_CACHE names, unset or empty = none */
} BackendOptions;

/* name: "ref", "cpu" or "cuda". EXIT_NO_DEVICE with the reason when it cannot be had. */
Err *backend_open(const char *name, const BackendOptions *options, Backend **out);
void backend_close(Backend *backend);
Err *backend_open_ref(const BackendOptions *options, Backend *backend);
Err *backend_open_cpu(const BackendOptions *options, Backend *backend);
/* In libcudistill_cuda.so, opened on demand; see base/plugin.h for where it is looked for. */
Err *backend_open_cuda(const BackendOptions *options, Backend *backend);

#endif
