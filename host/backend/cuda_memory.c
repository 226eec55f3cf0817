/* Memory of the cuda backend: zeroed device and pinned host memory, transfers on the queues, memory of prepared steps,
 * and the 16-bit shadows of parameter arenas. */
#include "cuda_state.h"

#include "kernels/elementwise.h"

#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 256 /* bytes: nothing is asked for as 0 */ };

/* ---- Blocks ---- */

/* Zeroed before it is handed out; NULL when the device's memory is out. */
static void *device_alloc(Cuda *cuda, size_t bytes, bool step)
{
    CHECK(!cuda->capturing, "%zu bytes of device memory are asked for while a step is captured",
          bytes);
    if (cuda->described) {
        cuda->step_bytes += step ? bytes : 0;
        return NULL;
    }
    void *memory = NULL;
    const size_t size = bytes > SMALLEST ? bytes : SMALLEST;
    const cudaError_t status = cudaMalloc(&memory, size);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* else the next launch would be blamed */
        return NULL;
    }
    CUDA_OK(status);
    CUDA_OK(cudaMemsetAsync(memory, 0, size, cuda->stream[QUEUE_COMPUTE]));
    CUDA_OK(cudaStreamSynchronize(cuda->stream[QUEUE_COMPUTE]));
    cuda->blocks = xgrow(cuda->blocks, &cuda->block_capacity, (size_t)cuda->n_blocks + 1,
                         sizeof *cuda->blocks);
    cuda->blocks[cuda->n_blocks++] = (Block){memory, bytes, step};
    cuda->step_bytes += step ? bytes : 0;
    return memory;
}

static void sync_all(const Cuda *cuda)
{
    for (int q = 0; q < QUEUE_COUNT; q++) {
        CUDA_OK(cudaStreamSynchronize(cuda->stream[q]));
    }
}

static void drop_shadows_within(Cuda *cuda, const char *memory, size_t bytes)
{
    int kept = 0; /* in order: the first of an arena stays the first */
    for (int i = 0; i < cuda->n_shadows; i++) {
        const char *base = cuda->shadows[i].base;
        if (base >= memory && base < memory + bytes) {
            cuda_step_free(cuda, cuda->shadows[i].copy);
        } else {
            cuda->shadows[kept++] = cuda->shadows[i];
        }
    }
    cuda->n_shadows = kept;
}

static void device_free(Cuda *cuda, void *memory)
{
    if (!memory) {
        return;
    }
    int found = 0;
    while (found < cuda->n_blocks && cuda->blocks[found].memory != memory) {
        found++;
    }
    CHECK(found < cuda->n_blocks, "%p is not memory of this device", memory);
    const Block block = cuda->blocks[found];
    cuda->blocks[found] = cuda->blocks[--cuda->n_blocks];
    cuda->step_bytes -= block.step ? block.bytes : 0;
    sync_all(cuda);
    CUDA_OK(cudaFree(memory));
    if (!block.step) {
        drop_shadows_within(cuda, memory, block.bytes > 0 ? block.bytes : 1);
    }
}

void *cuda_step_alloc(Cuda *cuda, size_t bytes)
{
    return device_alloc(cuda, bytes, true);
}

void cuda_step_free(Cuda *cuda, void *memory)
{
    device_free(cuda, memory);
}

size_t cuda_step_bytes(const Cuda *cuda)
{
    return cuda->step_bytes;
}

static void *table_alloc(Backend *backend, MemKind kind, size_t bytes)
{
    Cuda *cuda = cuda_of(backend);
    if (kind == MEM_DEVICE) {
        return device_alloc(cuda, bytes, false);
    }
    if (cuda->described) {
        return NULL;
    }
    void *memory = NULL;
    const size_t size = bytes > SMALLEST ? bytes : SMALLEST;
    const cudaError_t status = cudaHostAlloc(&memory, size, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return NULL;
    }
    CUDA_OK(status);
    return memset(memory, 0, size);
}

static void table_free(Backend *backend, MemKind kind, void *memory)
{
    Cuda *cuda = cuda_of(backend);
    if (kind == MEM_DEVICE) {
        device_free(cuda, memory);
    } else if (memory) {
        sync_all(cuda);
        CUDA_OK(cudaFreeHost(memory));
    }
}

/* ---- Transfers ---- */

/* Memory from `dst` on is about to be overwritten. */
static void arenas_written(Cuda *cuda, const void *dst, size_t bytes)
{
    const char *begin = dst;
    const char *end = begin + (bytes > 0 ? bytes : 1);
    for (int i = 0; i < cuda->n_shadows; i++) {
        Shadow *shadow = &cuda->shadows[i];
        const char *base = shadow->base;
        if (begin < base + shadow->elems * sizeof(float) && end > base) {
            shadow->fresh = false;
        }
    }
}

static void upload(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    Cuda *cuda = cuda_of(backend);
    arenas_written(cuda, dst, bytes);
    if (bytes > 0) {
        CUDA_OK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cuda->stream[queue]));
    }
}

static void download(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    if (bytes > 0) {
        CUDA_OK(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost,
                                cuda_of(backend)->stream[queue]));
    }
}

static void fill(Backend *backend, Queue queue, void *dst, int byte, size_t bytes)
{
    Cuda *cuda = cuda_of(backend);
    arenas_written(cuda, dst, bytes);
    if (bytes > 0) {
        CUDA_OK(cudaMemsetAsync(dst, byte, bytes, cuda->stream[queue]));
    }
}

/* ---- Shadows ---- */

static Shadow *find_shadow(Cuda *cuda, const void *base, DType type)
{
    for (int i = 0; i < cuda->n_shadows; i++) {
        if (cuda->shadows[i].base == base && cuda->shadows[i].type == type) {
            return &cuda->shadows[i];
        }
    }
    return NULL;
}

static Shadow *shadow_of(Cuda *cuda, const void *base, size_t elems, DType type)
{
    Shadow *found = find_shadow(cuda, base, type);
    if (found) {
        CHECK(found->elems == elems, "an arena of %zu elements has a shadow of %zu", elems,
              found->elems);
        return found;
    }
    CHECK(type == DT_BF16 || type == DT_F16, "a shadow of type %s", dtype_name(type));
    void *copy = cuda_step_alloc(cuda, elems * dtype_size(type));
    if (!copy && !cuda->described) {
        cuda_call_failed(__FILE__, __LINE__, "16-bit copy of the weights",
                         cudaErrorMemoryAllocation);
    }
    cuda->shadows = xgrow(cuda->shadows, &cuda->shadow_capacity, (size_t)cuda->n_shadows + 1,
                          sizeof *cuda->shadows);
    Shadow *made = &cuda->shadows[cuda->n_shadows++];
    *made = (Shadow){.base = base, .elems = elems, .type = type, .copy = copy};
    return made;
}

void *cuda_shadow(Cuda *cuda, const void *base, size_t elems, DType type)
{
    return type == DT_F32 ? (void *)base : shadow_of(cuda, base, elems, type)->copy;
}

void cuda_shadow_refresh(Cuda *cuda, KernelStream stream, const void *base, size_t elems,
                         DType type)
{
    if (type == DT_F32) {
        return;
    }
    Shadow *shadow = shadow_of(cuda, base, elems, type);
    if (!shadow->fresh && !cuda->described) {
        CUDA_OK(
            kernel_cast(stream, KERNEL_F32, cuda_type(type), (int64_t)elems, base, shadow->copy));
        shadow->fresh = true;
    }
}

void *cuda_shadow_of_training(Cuda *cuda, const void *base, DType *type)
{
    for (int i = 0; i < cuda->n_shadows; i++) {
        if (cuda->shadows[i].base == base) {
            *type = cuda->shadows[i].type;
            return cuda->shadows[i].copy;
        }
    }
    return NULL;
}

/* The first shadow of an arena is the one that OP_SGD writes; others follow by a cast when they are read again. */
static void weights_changed(Cuda *cuda, const void *base)
{
    bool first = true;
    for (int i = 0; i < cuda->n_shadows; i++) {
        if (cuda->shadows[i].base == base) {
            cuda->shadows[i].fresh = first;
            first = false;
        }
    }
}

void cuda_shadow_written(Cuda *cuda, const void *base)
{
    weights_changed(cuda, base);
    if (cuda->capturing) {
        Capture *capture = &cuda->captures[cuda->n_captures];
        capture->written = xgrow(capture->written, &capture->written_capacity,
                                 (size_t)capture->n_written + 1, sizeof *capture->written);
        capture->written[capture->n_written++] = base;
    }
}

void cuda_shadows_capture_begin(Cuda *cuda)
{
    for (int i = 0; i < cuda->n_shadows; i++) {
        cuda->shadows[i].fresh_before_capture = cuda->shadows[i].fresh;
    }
}

void cuda_shadows_capture_end(Cuda *cuda)
{
    for (int i = 0; i < cuda->n_shadows; i++) {
        cuda->shadows[i].fresh = cuda->shadows[i].fresh_before_capture;
    }
}

void cuda_shadows_replayed(Cuda *cuda, const Capture *capture)
{
    for (int i = 0; i < capture->n_written; i++) {
        weights_changed(cuda, capture->written[i]);
    }
}

/* ---- Life cycle ---- */

void cuda_memory_open(Backend *backend)
{
    backend->alloc = table_alloc;
    backend->free = table_free;
    backend->upload = upload;
    backend->download = download;
    backend->fill = fill;
}

void cuda_memory_close(Cuda *cuda)
{
    while (cuda->n_blocks > 0) {
        device_free(cuda, cuda->blocks[cuda->n_blocks - 1].memory);
    }
    free(cuda->blocks);
    free(cuda->shadows);
}
