/* The cuda backend: its table, streams, events and captures, and the way from a node to the file that computes it.
 * Queues are streams; nothing here waits but sync, alloc, free and close. A described device has no streams: steps are
 * prepared for it and never run. */
#include "cuda_state.h"

#include "backend/cuda_cublas.h"
#include "backend/cuda_cudnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLAN_CACHE_VARIABLE "CUDISTILL_PLAN_CACHE"
enum { OLDEST_CAPABILITY = 80 }; /* what the kernels are compiled for */

/* ---- Dead devices ---- */

const char *cuda_status_text(int status)
{
    return cudaGetErrorString((cudaError_t)status);
}

_Noreturn static void leave(ExitCode code, const char *file, int line, const char *call,
                            const char *message, const char *hint)
{
    fprintf(stderr, "fatal: %s:%d: %s: %s%s%s\n", file, line, call, message, hint[0] ? "; " : "",
            hint);
    fflush(stderr);
    _exit(code); /* no handlers: they would touch the device again */
}

_Noreturn void cuda_fail(const char *file, int line, const char *call, const char *message)
{
    leave(EXIT_INTERNAL, file, line, call, message, "");
}

_Noreturn void cuda_call_failed(const char *file, int line, const char *call, int status)
{
    const char *text = cuda_status_text(status);
    switch (status) {
    case cudaErrorMemoryAllocation:
        leave(EXIT_DEVICE_MEMORY, file, line, call, text,
              "lower the batch size, or see with nvidia-smi who else uses the GPU");
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorNoKernelImageForDevice:
        leave(EXIT_NO_DEVICE, file, line, call, text,
              "the GPU or its driver is not usable: see nvidia-smi and the kernel's log");
    default:
        leave(EXIT_INTERNAL, file, line, call, text,
              "an earlier launch may be the cause: CUDA_LAUNCH_BLOCKING=1 shows which");
    }
}

/* ---- Services for the families ---- */

Backend *cuda_backend(const Cuda *cuda)
{
    return cuda->backend;
}

CudnnContext *cuda_cudnn(const Cuda *cuda)
{
    return cuda->cudnn;
}

CublasContext *cuda_cublas(const Cuda *cuda)
{
    return cuda->cublas;
}

bool cuda_described(const Cuda *cuda)
{
    return cuda->described;
}

/* ---- Queues, events, captures ---- */

static int event(Backend *backend)
{
    Cuda *cuda = cuda_of(backend);
    cuda->events = xgrow(cuda->events, &cuda->event_capacity, (size_t)cuda->n_events + 1,
                         sizeof *cuda->events);
    cuda->events[cuda->n_events] = NULL;
    if (!cuda->described) {
        CUDA_OK(cudaEventCreateWithFlags(&cuda->events[cuda->n_events], cudaEventDisableTiming));
    }
    return cuda->n_events++;
}

static cudaEvent_t event_at(const Cuda *cuda, int index)
{
    CHECK(index >= 0 && index < cuda->n_events, "event %d of %d", index, cuda->n_events);
    return cuda->events[index];
}

static void record(Backend *backend, Queue queue, int index)
{
    const Cuda *cuda = cuda_of(backend);
    CUDA_OK(cudaEventRecord(event_at(cuda, index), cuda->stream[queue]));
}

static void wait(Backend *backend, Queue queue, int index)
{
    const Cuda *cuda = cuda_of(backend);
    CUDA_OK(cudaStreamWaitEvent(cuda->stream[queue], event_at(cuda, index), 0));
}

static void sync_queue(Backend *backend, Queue queue)
{
    const Cuda *cuda = cuda_of(backend);
    if (!cuda->described) {
        CUDA_OK(cudaStreamSynchronize(cuda->stream[queue]));
    }
}

static void *native_queue(Backend *backend, Queue queue)
{
    /* cppcheck-suppress CastIntegerToAddressAtReturn ; cudaStream_t is a pointer */
    return cuda_of(backend)->stream[queue];
}

static size_t step_bytes(Backend *backend)
{
    return cuda_step_bytes(cuda_of(backend));
}

/* Thread-local mode: what loader threads call meanwhile is no concern of the recording. */
static void capture_begin(Backend *backend, Queue queue)
{
    Cuda *cuda = cuda_of(backend);
    CHECK(!cuda->capturing, "a capture within a capture");
    cuda->captures = xgrow(cuda->captures, &cuda->capture_capacity, (size_t)cuda->n_captures + 1,
                           sizeof *cuda->captures);
    cuda->captures[cuda->n_captures] = (Capture){0};
    cuda->capturing = true;
    cuda_shadows_capture_begin(cuda);
    CUDA_OK(cudaStreamBeginCapture(cuda->stream[queue], cudaStreamCaptureModeThreadLocal));
}

static int capture_end(Backend *backend, Queue queue)
{
    Cuda *cuda = cuda_of(backend);
    CHECK(cuda->capturing, "the end of a capture that has no beginning");
    cudaGraph_t graph = NULL;
    CUDA_OK(cudaStreamEndCapture(cuda->stream[queue], &graph));
    CUDA_OK(cudaGraphInstantiate(&cuda->captures[cuda->n_captures].graph, graph, 0));
    CUDA_OK(cudaGraphDestroy(graph));
    cuda_shadows_capture_end(cuda);
    cuda->capturing = false;
    return cuda->n_captures++;
}

static Capture *capture_at(const Cuda *cuda, int index)
{
    CHECK(index >= 0 && index < cuda->n_captures && cuda->captures[index].graph, "capture %d of %d",
          index, cuda->n_captures);
    return &cuda->captures[index];
}

static void replay(Backend *backend, Queue queue, int captured)
{
    Cuda *cuda = cuda_of(backend);
    const Capture *capture = capture_at(cuda, captured);
    CUDA_OK(cudaGraphLaunch(capture->graph, cuda->stream[queue]));
    cuda_shadows_replayed(cuda, capture);
}

static void capture_free(Backend *backend, int captured)
{
    Cuda *cuda = cuda_of(backend);
    Capture *capture = capture_at(cuda, captured);
    for (int q = 0; q < QUEUE_COUNT; q++) { /* it may still run */
        sync_queue(backend, (Queue)q);
    }
    CUDA_OK(cudaGraphExecDestroy(capture->graph));
    free(capture->written);
    *capture = (Capture){0};
}

/* ---- Steps ---- */

static Err *prepare_op(Step *step, CudaStep *own)
{
    switch (step_node(step)->op) {
    case OP_CONV:
    case OP_CONV_DGRAD:
    case OP_CONV_WGRAD:
        return cuda_prepare_conv(step, own);
    case OP_LINEAR:
    case OP_LINEAR_DGRAD:
    case OP_LINEAR_WGRAD:
        return cuda_prepare_linear(step, own);
    case OP_FOLD_BN:
    case OP_GRAD_NORM:
    case OP_SGD:
    case OP_LOSS_SCALE:
        return cuda_prepare_param(step, own);
    default:
        return cuda_prepare_kernel_op(step, own);
    }
}

static void release(Backend *backend, Step *step)
{
    (void)backend;
    CudaStep *own = step->priv;
    if (own && own->release) {
        own->release(own);
    }
    free(own);
    step->priv = NULL;
}

static Err *prepare(Backend *backend, Step *step)
{
    const Graph *g = step->graph;
    if (g->math != DT_F32 || g->act == DT_F64) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s: the cuda backend computes in fp32, not %s: use the ref backend",
                       step_node(step)->name, dtype_name(g->math));
    }
    CudaStep *own = xcalloc(1, sizeof *own);
    own->cuda = cuda_of(backend);
    step->priv = own;
    Err *err = prepare_op(step, own);
    if (err) {
        release(backend, step);
    }
    return err;
}

static void run(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    CudaStep *own = step->priv;
    own->run(own, cuda_of(backend)->stream[queue], step, args);
}

static void pack(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    CudaStep *own = step->priv;
    own->pack(own, cuda_of(backend)->stream[queue], step, args);
}

static bool accepts(Backend *backend, const FuseCandidate *candidate)
{
    if (candidate->dtype != DT_F32 && candidate->dtype != DT_BF16 && candidate->dtype != DT_F16) {
        return false;
    }
    switch (candidate->pattern) {
    case FUSE_BN_RELU:
    case FUSE_BN_ADD_RELU:
    case FUSE_ADD_RELU:
    case FUSE_BWD_RELU_BN:
    case FUSE_BWD_ADD_RELU_BN:
    case FUSE_BIT_MASK:
        return true;
    default:
        return cuda_conv_accepts(cuda_of(backend), candidate);
    }
}

/* ---- The backend itself ---- */

static void info(Backend *backend, DeviceInfo *out)
{
    const Cuda *cuda = cuda_of(backend);
    char cudnn[32];
    cudnn_context_describe(cuda->cudnn, cudnn, sizeof cudnn);
    *out = (DeviceInfo){.threads = cuda->threads, .bf16 = true, .fp16 = true}; /* of all we open */
    snprintf(out->name, sizeof out->name, "%s", cuda->device_name);
    snprintf(out->library, sizeof out->library, "CUDA %d.%d, sm_%d, %s", CUDART_VERSION / 1000,
             CUDART_VERSION % 1000 / 10, cuda->capability, cudnn);
}

static void close_cuda(Backend *backend)
{
    Cuda *cuda = cuda_of(backend);
    for (int q = 0; q < QUEUE_COUNT && cuda->stream[q]; q++) {
        CUDA_OK(cudaStreamSynchronize(cuda->stream[q]));
    }
    for (int i = 0; i < cuda->n_captures; i++) {
        if (cuda->captures[i].graph) {
            capture_free(backend, i);
        }
    }
    for (int i = 0; i < cuda->n_events; i++) {
        if (cuda->events[i]) {
            CUDA_OK(cudaEventDestroy(cuda->events[i]));
        }
    }
    if (cuda->cudnn) {
        cudnn_context_close(cuda->cudnn);
    }
    if (cuda->cublas) {
        cublas_context_close(cuda->cublas);
    }
    cuda_memory_close(cuda);
    for (int q = 0; q < QUEUE_COUNT && cuda->stream[q]; q++) {
        CUDA_OK(cudaStreamDestroy(cuda->stream[q]));
    }
    free(cuda->captures);
    free(cuda->events);
    free(cuda);
}

static Err *open_error(const char *what, cudaError_t status)
{
    return err_new(EXIT_NO_DEVICE, "%s: %s", what, cuda_status_text(status));
}

/* Why there is no GPU, in words that tell what to do. */
static Err *count_devices(int *count)
{
    const cudaError_t status = cudaGetDeviceCount(count);
    switch (status) {
    case cudaSuccess:
        return NULL;
    case cudaErrorInsufficientDriver:
        return err_new(EXIT_NO_DEVICE,
                       "no NVIDIA driver, or one too old for CUDA %d.%d: install or update it",
                       CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    case cudaErrorNoDevice:
        return err_new(EXIT_NO_DEVICE,
                       "no GPU: the driver shows none (look at nvidia-smi and at the variable "
                       "CUDA_VISIBLE_DEVICES)");
    default:
        return open_error("the driver does not start", status);
    }
}

static Err *choose_device(Cuda *cuda, int index)
{
    int count = 0;
    TRY(count_devices(&count));
    if (index < 0 || index >= count) {
        return err_new(EXIT_NO_DEVICE, "there is no GPU %d: the driver shows %d, counted from 0",
                       index, count);
    }
    struct cudaDeviceProp properties;
    cudaError_t status = cudaGetDeviceProperties(&properties, index);
    if (status != cudaSuccess) {
        return open_error("the GPU does not tell its properties", status);
    }
    snprintf(cuda->device_name, sizeof cuda->device_name, "%.63s", properties.name);
    cuda->capability = properties.major * 10 + properties.minor;
    if (cuda->capability < OLDEST_CAPABILITY) {
        return err_new(EXIT_NO_DEVICE, "%s has compute capability %d.%d; %d.%d or newer is needed",
                       cuda->device_name, properties.major, properties.minor,
                       OLDEST_CAPABILITY / 10, OLDEST_CAPABILITY % 10);
    }
    status = cudaSetDevice(index);
    return status == cudaSuccess ? NULL : open_error("the GPU cannot be used", status);
}

/* QUEUE_COMM goes first: a reduction that waits for free processors would hold up all ranks. */
static Err *open_streams(Cuda *cuda)
{
    int lowest = 0;
    int highest = 0;
    cudaError_t status = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
    for (int q = 0; q < QUEUE_COUNT && status == cudaSuccess; q++) {
        status = cudaStreamCreateWithPriority(&cuda->stream[q], cudaStreamNonBlocking,
                                              q == QUEUE_COMM ? highest : lowest);
    }
    return status == cudaSuccess ? NULL : open_error("the GPU gives no streams", status);
}

/* The value after "key": in a flat JSON object of device properties. */
static const char *described_value(const char *json, const char *key)
{
    char *quoted = xformat("\"%s\":", key);
    const char *at = strstr(json, quoted);
    const char *value = at ? at + strlen(quoted) : NULL;
    free(quoted);
    return value ? value + strspn(value, " \t\n\"") : NULL;
}

static Err *describe_device(Cuda *cuda, const char *json)
{
    const char *name = described_value(json, "deviceName");
    const char *version = described_value(json, "deviceVer");
    if (!name || !version) {
        return err_new(EXIT_CONFIG_ERR,
                       "the described device lacks deviceName or deviceVer (cuDNN's JSON of device "
                       "properties is needed)");
    }
    snprintf(cuda->device_name, sizeof cuda->device_name, "%.*s (described)",
             (int)strcspn(name, "\"") < 48 ? (int)strcspn(name, "\"") : 48, name);
    cuda->capability = (int)strtol(version, NULL, 10) / 10;
    return NULL;
}

static const char *plan_cache(const BackendOptions *options)
{
    const char *folder = options->plan_cache ? options->plan_cache : getenv(PLAN_CACHE_VARIABLE);
    return folder && folder[0] ? folder : NULL;
}

Err *backend_open_cuda(const BackendOptions *options, Backend *backend)
{
    Cuda *cuda = xcalloc(1, sizeof *cuda);
    cuda->backend = backend;
    cuda->described = options->described != NULL;
    cuda->threads = options->threads > 0 ? options->threads : 1;
    backend->state = cuda;
    Err *err = cuda->described ? describe_device(cuda, options->described)
                               : choose_device(cuda, options->device);
    if (!err && !cuda->described) {
        err = open_streams(cuda);
    }
    if (!err) {
        err = cudnn_context_open(options->described, plan_cache(options), &cuda->cudnn);
    }
    if (!err) {
        err = cublas_context_open(cuda->described, &cuda->cublas);
    }
    if (err) {
        close_cuda(backend);
        return err;
    }
    cuda_memory_open(backend);
    backend->name = "cuda";
    backend->close = close_cuda;
    backend->info = info;
    backend->accepts = accepts;
    backend->prepare = prepare;
    backend->release = release;
    backend->pack = pack;
    backend->run = run;
    backend->event = event;
    backend->record = record;
    backend->wait = wait;
    backend->sync = sync_queue;
    backend->capture_begin = capture_begin;
    backend->capture_end = capture_end;
    backend->capture_free = capture_free;
    backend->replay = replay;
    backend->native_queue = native_queue;
    backend->step_bytes = step_bytes;
    return NULL;
}
