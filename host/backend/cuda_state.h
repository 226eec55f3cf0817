/* What a cuda backend is made of, for cuda.c (table, streams, capture) and cuda_memory.c (memory, shadows). */
#ifndef CUDISTILL_HOST_BACKEND_CUDA_STATE_H
#define CUDISTILL_HOST_BACKEND_CUDA_STATE_H

#include "backend/cuda.h"

#include <cuda_runtime_api.h>

/* A 16-bit copy of a parameter arena. */
typedef struct {
    const void *base;
    size_t elems;
    DType type;
    void *copy;
    bool fresh; /* holds what the arena held when the last submitted work has run */
    bool fresh_before_capture;
} Shadow;

/* Memory that was handed out. */
typedef struct {
    void *memory;
    size_t bytes;
    bool step; /* by cuda_step_alloc */
} Block;

/* A recorded step, and the arenas whose weights a replay changes. */
typedef struct {
    cudaGraphExec_t graph; /* NULL = freed */
    const void **written;
    int n_written;
    size_t written_capacity;
} Capture;

struct Cuda {
    Backend *backend;
    bool described;
    char device_name[64];
    int capability; /* 90 = sm_90 */
    int threads;    /* as asked for: said in reports, nothing here depends on it */
    cudaStream_t stream[QUEUE_COUNT];
    cudaEvent_t *events;
    int n_events;
    size_t event_capacity;
    Capture *captures;
    int n_captures;
    size_t capture_capacity;
    bool capturing;
    Block *blocks;
    int n_blocks;
    size_t block_capacity;
    size_t step_bytes;
    Shadow *shadows;
    int n_shadows;
    size_t shadow_capacity;
    CudnnContext *cudnn;
    CublasContext *cublas;
};

static inline Cuda *cuda_of(Backend *backend)
{
    return backend->state;
}

/* cuda_memory.c: its part of the table, and what is left at the end. */
void cuda_memory_open(Backend *backend);
void cuda_memory_close(Cuda *cuda);
/* Shadow states while a capture records what does not run yet, and when it is replayed. */
void cuda_shadows_capture_begin(Cuda *cuda);
void cuda_shadows_capture_end(Cuda *cuda);
void cuda_shadows_replayed(Cuda *cuda, const Capture *capture);

#endif
