/* The emulated runtime: order within and between streams, events, copies from pageable and pinned memory, capture and its
 * errors, replays. Order that the program does not enforce must not be kept: each such fault (a missing event wait, a
 * host that does not wait) shows as wrong numbers under some seed. */
#include "tests/kernels/kernel_test.h"

#include "tests/emu/faults.h"
#include "tests/kernels/emu_child.h"

#include <pthread.h>

enum { N = 64, BYTES = N * sizeof(float), SEEDS = 20 };

typedef struct {
    cudaStream_t a, b;
    cudaEvent_t event, back;
    float *x, *y, *factor; /* device */
    float *pinned;
} Rig;

static void rig_open(Rig *rig, unsigned flags)
{
    CUDA_TEST(cudaStreamCreateWithFlags(&rig->a, flags));
    CUDA_TEST(cudaStreamCreateWithFlags(&rig->b, flags));
    CUDA_TEST(cudaEventCreateWithFlags(&rig->event, cudaEventDisableTiming));
    CUDA_TEST(cudaEventCreateWithFlags(&rig->back, cudaEventDisableTiming));
    CUDA_TEST(cudaMallocHost((void **)&rig->pinned, BYTES));
    rig->x = device_alloc(BYTES);
    rig->y = device_alloc(BYTES);
    rig->factor = device_alloc(sizeof(float));
}
static void rig_close(Rig *rig)
{
    CUDA_TEST(cudaDeviceSynchronize());
    CUDA_TEST(cudaStreamDestroy(rig->a));
    CUDA_TEST(cudaStreamDestroy(rig->b));
    CUDA_TEST(cudaEventDestroy(rig->event));
    CUDA_TEST(cudaEventDestroy(rig->back));
    CUDA_TEST(cudaFreeHost(rig->pinned));
    device_free_all();
    emu_set_delay_seed(1);
}
static void fill(float *values, float value)
{
    for (int i = 0; i < N; i++) {
        values[i] = value;
    }
}
/* Whether all values on the device, after everything is done, are `value`. */
static bool holds(const float *device, float value)
{
    float got[N];
    device_read(got, device, BYTES);
    for (int i = 0; i < N; i++) {
        if (got[i] != value) {
            return false;
        }
    }
    return true;
}

/* ---- Order between streams ---- */
/* x = 3 on stream a; y = x on stream b, after a's event if `wait`; then x = 5 on a, after b's event if `wait_back`. */
static bool pipeline_right(Rig *rig, bool wait, bool wait_back)
{
    float values[N];
    fill(values, 3);
    CUDA_TEST(cudaMemsetAsync(rig->y, 0, BYTES, rig->b));
    CUDA_TEST(cudaMemcpyAsync(rig->x, values, BYTES, cudaMemcpyHostToDevice, rig->a));
    CUDA_TEST(cudaEventRecord(rig->event, rig->a));
    if (wait) {
        CUDA_TEST(cudaStreamWaitEvent(rig->b, rig->event, 0));
    }
    CUDA_TEST(probe_copy(rig->b, rig->x, rig->y, N));
    CUDA_TEST(cudaEventRecord(rig->back, rig->b));
    if (wait_back) {
        CUDA_TEST(cudaStreamWaitEvent(rig->a, rig->back, 0));
    }
    fill(values, 5);
    CUDA_TEST(cudaMemcpyAsync(rig->x, values, BYTES, cudaMemcpyHostToDevice, rig->a));
    const bool right = holds(rig->y, 3) && holds(rig->x, 5);
    CUDA_TEST(cudaMemset(rig->x, 0, BYTES)); /* on stream 0, for which a and b do not wait */
    CUDA_TEST(cudaDeviceSynchronize());
    return right;
}

static void missing_waits_are_found(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    int wrong = 0;
    int wrong_back = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        emu_set_delay_seed(seed);
        assert_true(pipeline_right(&rig, true, true));
        wrong += pipeline_right(&rig, false, true) ? 0 : 1;
        wrong_back += pipeline_right(&rig, true, false) ? 0 : 1;
    }
    printf("of %d seeds: missing wait wrong in %d, missing wait back in %d\n", SEEDS, wrong,
           wrong_back);
    assert_true(wrong > 0 && wrong_back > 0);
    emu_set_delay_seed(0); /* as submitted: hides both faults */
    assert_true(pipeline_right(&rig, false, true));
    assert_true(pipeline_right(&rig, true, false));
    rig_close(&rig);
}

/* Streams made without flags and stream 0 wait for each other; non-blocking ones do not. */
static int wrong_through_stream_0(unsigned flags)
{
    Rig rig;
    rig_open(&rig, flags);
    int wrong = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        emu_set_delay_seed(seed);
        float values[N];
        fill(values, (float)seed);
        CUDA_TEST(cudaMemcpyAsync(rig.x, values, BYTES, cudaMemcpyHostToDevice, rig.a));
        CUDA_TEST(probe_copy(NULL, rig.x, rig.y, N));
        CUDA_TEST(probe_copy(rig.b, rig.y, rig.x, N));
        wrong += holds(rig.y, (float)seed) && holds(rig.x, (float)seed) ? 0 : 1;
    }
    rig_close(&rig);
    return wrong;
}
static void stream_0_waits_for_blocking_streams(void **state)
{
    (void)state;
    assert_int_equal(wrong_through_stream_0(cudaStreamDefault), 0);
    assert_true(wrong_through_stream_0(cudaStreamNonBlocking) > 0);
}

/* ---- Host and device ---- */
static void pageable_is_read_during_the_call_pinned_later(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    int late = 0;
    int stale = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        emu_set_delay_seed(seed);
        float values[N];
        fill(values, 1);
        CUDA_TEST(cudaMemcpyAsync(rig.x, values, BYTES, cudaMemcpyHostToDevice, rig.a));
        fill(values, 2);
        assert_true(holds(rig.x, 1));

        fill(rig.pinned, 1);
        CUDA_TEST(cudaMemcpyAsync(rig.x, rig.pinned, BYTES, cudaMemcpyHostToDevice, rig.a));
        fill(rig.pinned, 2); /* the fault: the copy may not have run */
        late += holds(rig.x, 2) ? 1 : 0;

        fill(rig.pinned, 7);
        CUDA_TEST(cudaMemsetAsync(rig.x, 0, BYTES, rig.a));
        CUDA_TEST(cudaMemcpyAsync(rig.pinned, rig.x, BYTES, cudaMemcpyDeviceToHost, rig.a));
        stale += rig.pinned[0] == 7.0F ? 1 : 0; /* the fault: nobody waited */
        CUDA_TEST(cudaStreamSynchronize(rig.a));
        assert_true(rig.pinned[0] == 0.0F);

        fill(values, 7);
        CUDA_TEST(cudaMemcpyAsync(values, rig.x, BYTES, cudaMemcpyDeviceToHost, rig.a));
        assert_true(values[0] == 0.0F && values[N - 1] == 0.0F);
    }
    printf("of %d seeds: overwritten too early in %d, read too early in %d\n", SEEDS, late, stale);
    assert_true(late > 0 && stale > 0);
    rig_close(&rig);
}

static void add_one(void *user)
{
    (*(int *)user)++;
}
static void queries_end(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    int calls = 0;
    CUDA_TEST(cudaStreamQuery(rig.a));
    CUDA_TEST(cudaEventQuery(rig.event)); /* never recorded */
    for (int i = 0; i < 200; i++) {
        CUDA_TEST(probe_copy(rig.b, rig.pinned, rig.x, N));
        CUDA_TEST(cudaLaunchHostFunc(rig.a, add_one, &calls));
    }
    CUDA_TEST(cudaEventRecord(rig.event, rig.a));
    int polls = 0;
    cudaError_t status = cudaErrorNotReady;
    while ((status = cudaEventQuery(rig.event)) == cudaErrorNotReady) {
        polls++;
    }
    CUDA_TEST(status);
    assert_true(polls > 0);
    assert_int_equal(calls, 200);
    CUDA_TEST(cudaStreamSynchronize(rig.b));
    CUDA_TEST(cudaGetLastError()); /* "not ready" is not kept */
    rig_close(&rig);
}

static void work_goes_on_by_itself(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    volatile float *const flag = rig.pinned;
    *flag = 1;
    CUDA_TEST(cudaMemsetAsync(rig.pinned, 0, sizeof(float), rig.a));
    for (int i = 0; i < 5000 && *flag != 0.0F; i++) {
        usleep(1000);
    }
    assert_true(*flag == 0.0F);
    rig_close(&rig);
}

static void times_of_events(void **state)
{
    (void)state;
    cudaEvent_t begin;
    cudaEvent_t end;
    cudaEvent_t plain;
    float milliseconds = -1;
    CUDA_TEST(cudaEventCreate(&begin));
    CUDA_TEST(cudaEventCreate(&end));
    CUDA_TEST(cudaEventCreateWithFlags(&plain, cudaEventDisableTiming));
    CUDA_TEST(cudaEventRecord(begin, NULL));
    CUDA_TEST(cudaEventRecord(end, NULL));
    CUDA_TEST(cudaEventRecord(plain, NULL));
    CUDA_TEST(cudaEventSynchronize(end));
    CUDA_TEST(cudaEventElapsedTime(&milliseconds, begin, end));
    assert_true(milliseconds >= 0 && milliseconds < 60e3F);
    CUDA_TEST(cudaEventSynchronize(plain));
    assert_int_equal(cudaEventElapsedTime(&milliseconds, begin, plain),
                     cudaErrorInvalidResourceHandle);
    CUDA_TEST(cudaEventDestroy(begin));
    CUDA_TEST(cudaEventDestroy(end));
    CUDA_TEST(cudaEventDestroy(plain));
    (void)cudaGetLastError();
}

static void wrong_arguments(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    float values[2 * N] = {0};
    assert_int_equal(cudaFree(values), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(cudaFreeHost(rig.x), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(rig.x, values, BYTES + 4, cudaMemcpyHostToDevice),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(rig.x, values, BYTES, cudaMemcpyDeviceToHost),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(values, 0, 4), cudaErrorInvalidValue);
    assert_int_equal(cudaStreamSynchronize((cudaStream_t)values), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaEventRecord((cudaEvent_t)values, rig.a), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaSetDevice(1), cudaErrorInvalidDevice);
    void *memory = values;
    assert_int_equal(cudaMalloc(&memory, (size_t)1 << 50), cudaErrorMemoryAllocation);
    assert_null(memory);
    assert_string_equal(cudaGetErrorName(cudaGetLastError()), "cudaErrorMemoryAllocation");
    rig_close(&rig);
}

/* ---- Capture ---- */
/* y = factor * x on b, between events, captured from a. */
static cudaError_t record_scale(Rig *rig, bool join, cudaGraph_t *graph)
{
    CUDA_TEST(cudaStreamBeginCapture(rig->a, cudaStreamCaptureModeThreadLocal));
    CUDA_TEST(cudaMemcpyAsync(rig->x, rig->pinned, BYTES, cudaMemcpyHostToDevice, rig->a));
    CUDA_TEST(cudaEventRecord(rig->event, rig->a));
    CUDA_TEST(cudaStreamWaitEvent(rig->b, rig->event, 0));
    CUDA_TEST(probe_scale(rig->b, rig->x, rig->factor, rig->y, N));
    if (join) {
        CUDA_TEST(cudaEventRecord(rig->back, rig->b));
        CUDA_TEST(cudaStreamWaitEvent(rig->a, rig->back, 0));
    }
    return cudaStreamEndCapture(rig->a, graph);
}

static void replays_read_memory_then(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    size_t nodes = 0;
    fill(rig.pinned, 1);
    CUDA_TEST(cudaMemset(rig.y, 0, BYTES));
    CUDA_TEST(record_scale(&rig, true, &graph));
    assert_true(holds(rig.y, 0)); /* recorded, not run */
    CUDA_TEST(cudaGraphGetNodes(graph, NULL, &nodes));
    assert_int_equal(nodes, 2);
    CUDA_TEST(cudaGraphInstantiate(&exec, graph, 0));
    CUDA_TEST(cudaGraphDestroy(graph));
    for (int i = 1; i <= SEEDS; i++) {
        emu_set_delay_seed((uint64_t)i);
        const float factor = (float)i;
        fill(rig.pinned, (float)(i % 5));
        CUDA_TEST(cudaMemcpy(rig.factor, &factor, sizeof factor, cudaMemcpyHostToDevice));
        CUDA_TEST(cudaGraphLaunch(exec, rig.a));
        CUDA_TEST(probe_copy(rig.a, rig.y, rig.x, N)); /* follows the launch */
        assert_true(holds(rig.x, factor * (float)(i % 5)));
    }
    CUDA_TEST(cudaGraphLaunch(exec, rig.a));
    CUDA_TEST(cudaGraphExecDestroy(exec)); /* while it may run */
    rig_close(&rig);
}

static void unjoined_capture(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    cudaGraph_t graph = NULL;
    assert_int_equal(record_scale(&rig, false, &graph), cudaErrorStreamCaptureUnjoined);
    assert_null(graph);
    enum cudaStreamCaptureStatus status;
    CUDA_TEST(cudaStreamIsCapturing(rig.b, &status));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    (void)cudaGetLastError();
    CUDA_TEST(probe_copy(rig.b, rig.x, rig.y, N)); /* both streams work again */
    rig_close(&rig);
}

/* Two nodes without an order between them: over the seeds both orders come up. */
static void branches_have_no_order(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_TEST(cudaStreamBeginCapture(rig.a, cudaStreamCaptureModeGlobal));
    CUDA_TEST(cudaEventRecord(rig.event, rig.a));
    CUDA_TEST(cudaStreamWaitEvent(rig.b, rig.event, 0));
    CUDA_TEST(cudaMemsetAsync(rig.x, 0, BYTES, rig.a));
    CUDA_TEST(cudaMemsetAsync(rig.x, 0x3f, BYTES, rig.b)); /* the fault: both write x */
    CUDA_TEST(cudaEventRecord(rig.back, rig.b));
    CUDA_TEST(cudaStreamWaitEvent(rig.a, rig.back, 0));
    CUDA_TEST(cudaStreamEndCapture(rig.a, &graph));
    CUDA_TEST(cudaGraphInstantiate(&exec, graph, 0));
    int zeros = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        emu_set_delay_seed(seed);
        CUDA_TEST(cudaGraphLaunch(exec, rig.b));
        zeros += holds(rig.x, 0) ? 1 : 0;
    }
    assert_true(zeros > 0 && zeros < SEEDS);
    CUDA_TEST(cudaGraphDestroy(graph));
    CUDA_TEST(cudaGraphExecDestroy(exec));
    rig_close(&rig);
}

/* Each call is an error, the capture is then invalid, and the stream works again after its end. */
typedef cudaError_t (*Forbidden)(Rig *rig);
static cudaError_t call_malloc(Rig *rig)
{
    (void)rig;
    void *memory = NULL;
    return cudaMalloc(&memory, 16);
}
static cudaError_t call_stream_sync(Rig *rig)
{
    return cudaStreamSynchronize(rig->a);
}
static cudaError_t call_stream_query(Rig *rig)
{
    return cudaStreamQuery(rig->a);
}
static cudaError_t call_device_sync(Rig *rig)
{
    (void)rig;
    return cudaDeviceSynchronize();
}
static cudaError_t call_memcpy(Rig *rig)
{
    float value = 0;
    return cudaMemcpy(rig->x, &value, sizeof value, cudaMemcpyHostToDevice);
}
static cudaError_t call_event_query(Rig *rig)
{
    return cudaEventQuery(rig->back);
}
static cudaError_t call_isolated_wait(Rig *rig)
{
    CUDA_TEST(cudaEventRecord(rig->event, rig->b)); /* b is not captured */
    return cudaStreamWaitEvent(rig->a, rig->event, 0);
}
static cudaError_t call_merge(Rig *rig)
{
    cudaGraph_t graph;
    CUDA_TEST(cudaStreamBeginCapture(rig->b, cudaStreamCaptureModeThreadLocal));
    CUDA_TEST(cudaEventRecord(rig->event, rig->b));
    const cudaError_t error = cudaStreamWaitEvent(rig->a, rig->event, 0);
    assert_int_equal(cudaStreamEndCapture(rig->b, &graph), cudaErrorStreamCaptureInvalidated);
    return error;
}

static void forbidden_calls(void **state)
{
    (void)state;
    static const struct {
        Forbidden call;
        cudaError_t error;
    } cases[] = {
        {call_malloc, cudaErrorStreamCaptureUnsupported},
        {call_stream_sync, cudaErrorStreamCaptureUnsupported},
        {call_stream_query, cudaErrorStreamCaptureUnsupported},
        {call_device_sync, cudaErrorStreamCaptureUnsupported},
        {call_memcpy, cudaErrorStreamCaptureUnsupported},
        {call_event_query, cudaErrorStreamCaptureUnsupported},
        {call_isolated_wait, cudaErrorStreamCaptureIsolation},
        {call_merge, cudaErrorStreamCaptureMerge},
    };
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    CUDA_TEST(cudaEventRecord(rig.back, rig.b));
    CUDA_TEST(cudaStreamSynchronize(rig.b));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cudaGraph_t graph = NULL;
        CUDA_TEST(cudaStreamBeginCapture(rig.a, cudaStreamCaptureModeThreadLocal));
        CUDA_TEST(probe_copy(rig.a, rig.x, rig.y, N));
        assert_int_equal(cases[i].call(&rig), cases[i].error);
        (void)cudaGetLastError();
        assert_int_equal(probe_copy(rig.a, rig.x, rig.y, N), cudaErrorStreamCaptureInvalidated);
        assert_int_equal(cudaStreamEndCapture(rig.a, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        (void)cudaGetLastError();
    }
    rig_close(&rig);
}

static void captured_events_and_stream_0(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamDefault);
    cudaGraph_t graph;
    assert_int_equal(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal),
                     cudaErrorStreamCaptureUnsupported);
    CUDA_TEST(cudaStreamBeginCapture(rig.a, cudaStreamCaptureModeRelaxed));
    void *memory = NULL;
    CUDA_TEST(cudaMalloc(&memory, 16)); /* relaxed */
    CUDA_TEST(cudaEventRecord(rig.event, rig.a));
    assert_int_equal(cudaEventQuery(rig.event), cudaErrorCapturedEvent);
    assert_int_equal(cudaStreamEndCapture(rig.b, &graph), cudaErrorIllegalState);
    assert_int_equal(probe_copy(NULL, rig.x, rig.y, N), cudaErrorStreamCaptureImplicit);
    assert_int_equal(cudaStreamEndCapture(rig.a, &graph), cudaErrorStreamCaptureInvalidated);
    assert_int_equal(cudaStreamWaitEvent(rig.b, rig.event, 0), cudaErrorCapturedEvent);
    CUDA_TEST(cudaFree(memory));
    (void)cudaGetLastError();
    rig_close(&rig);
}

static void *malloc_in_thread(void *result)
{
    void *memory = NULL;
    *(cudaError_t *)result = cudaMalloc(&memory, 16);
    if (memory != NULL) {
        (void)cudaFree(memory);
    }
    return NULL;
}
/* What another thread may do depends on the mode of the capture. */
static void capture_modes_and_threads(void **state)
{
    (void)state;
    Rig rig;
    rig_open(&rig, cudaStreamNonBlocking);
    for (int mode = cudaStreamCaptureModeGlobal; mode <= cudaStreamCaptureModeRelaxed; mode++) {
        const bool global = mode == cudaStreamCaptureModeGlobal;
        pthread_t thread;
        cudaError_t result = cudaSuccess;
        cudaGraph_t graph = NULL;
        CUDA_TEST(cudaStreamBeginCapture(rig.a, (enum cudaStreamCaptureMode)mode));
        CUDA_TEST(probe_copy(rig.a, rig.x, rig.y, N));
        assert_int_equal(pthread_create(&thread, NULL, malloc_in_thread, &result), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(result, global ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
        assert_int_equal(cudaStreamEndCapture(rig.a, &graph),
                         global ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
        if (graph != NULL) {
            CUDA_TEST(cudaGraphDestroy(graph));
        }
        (void)cudaGetLastError();
    }
    rig_close(&rig);
}

/* ---- Processes ---- */
static int run_without_device(void)
{
    int count = -1;
    void *memory = NULL;
    cudaStream_t stream;
    const bool right = cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0 &&
                       cudaMalloc(&memory, 4) == cudaErrorNoDevice &&
                       cudaStreamCreate(&stream) == cudaErrorNoDevice &&
                       probe_copy(NULL, NULL, NULL, 4) == cudaErrorNoDevice;
    return right ? 0 : 2;
}
static void no_device(void **state)
{
    (void)state;
    const char *const arguments[] = {"--no-device", NULL};
    Child child;
    assert_int_equal(setenv("CUDISTILL_EMU_DEVICES", "0", 1), 0);
    assert_true(child_start(&child, arguments));
    assert_int_equal(unsetenv("CUDISTILL_EMU_DEVICES"), 0);
    assert_true(child_end(&child));
}

/* As with CUDA, the child of a fork cannot use its parent's device. */
static void forked_child(void **state)
{
    (void)state;
    CUDA_TEST(cudaDeviceSynchronize());
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        void *memory = NULL;
        _exit(cudaMalloc(&memory, 4) == cudaErrorInitializationError ? 0 : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--no-device") == 0) {
        return run_without_device();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_waits_are_found),
        cmocka_unit_test(stream_0_waits_for_blocking_streams),
        cmocka_unit_test(pageable_is_read_during_the_call_pinned_later),
        cmocka_unit_test(queries_end),
        cmocka_unit_test(work_goes_on_by_itself),
        cmocka_unit_test(times_of_events),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(replays_read_memory_then),
        cmocka_unit_test(unjoined_capture),
        cmocka_unit_test(branches_have_no_order),
        cmocka_unit_test(forbidden_calls),
        cmocka_unit_test(captured_events_and_stream_0),
        cmocka_unit_test(capture_modes_and_threads),
        cmocka_unit_test(no_device),
        cmocka_unit_test(forked_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
