/* The emulated NCCL between processes: values of collectives, collectives on streams and in captures, a bucket that is
 * reduced before it is ready, and what happens when a rank dies, is missing, gives up or disagrees. Every rank is this
 * program again; the parent only compares how they end. */
#include "tests/kernels/kernel_test.h"

#include "tests/emu/faults.h"
#include "tests/kernels/emu_child.h"

#include <dirent.h>
#include <nccl.h>
#include <pthread.h>
#include <time.h>

enum { SEEDS = 20, N = 64 };

/* ---- A rank ---- */
typedef struct {
    int rank, world;
    ncclUniqueId id;
    ncclComm_t comm;
    cudaStream_t compute, side;
    cudaEvent_t ready, reduced;
} Rank;

/* Leaves the process: the parent shows what was written. */
#define RANK_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "rank %d, line %d: %s\n", self->rank, __LINE__, #condition);           \
            exit(3);                                                                               \
        }                                                                                          \
    } while (0)
#define RANK_CUDA(call) RANK_CHECK((call) == cudaSuccess)
#define RANK_NCCL(call) RANK_CHECK((call) == ncclSuccess)

static void rank_open(Rank *self)
{
    RANK_NCCL(ncclCommInitRank(&self->comm, self->world, self->id, self->rank));
    RANK_CUDA(cudaStreamCreateWithFlags(&self->compute, cudaStreamNonBlocking));
    RANK_CUDA(cudaStreamCreateWithFlags(&self->side, cudaStreamNonBlocking));
    RANK_CUDA(cudaEventCreateWithFlags(&self->ready, cudaEventDisableTiming));
    RANK_CUDA(cudaEventCreateWithFlags(&self->reduced, cudaEventDisableTiming));
}
static void rank_close(Rank *self)
{
    RANK_CUDA(cudaDeviceSynchronize());
    RANK_NCCL(ncclCommFinalize(self->comm));
    RANK_NCCL(ncclCommDestroy(self->comm));
    RANK_CUDA(cudaEventDestroy(self->ready));
    RANK_CUDA(cudaEventDestroy(self->reduced));
    RANK_CUDA(cudaStreamDestroy(self->compute));
    RANK_CUDA(cudaStreamDestroy(self->side));
    device_free_all();
}

static float value_of(int rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 3) % 50) - 20; /* whole numbers: exact in every type */
}

static void reduce_once(Rank *self, KernelType type, size_t count, bool average, bool apart)
{
    static const ncclDataType_t types[] = {ncclFloat32, ncclBfloat16, ncclFloat16};
    float *const values = malloc(count * sizeof *values + 1);
    RANK_CHECK(values != NULL);
    for (size_t i = 0; i < count; i++) {
        values[i] = value_of(self->rank, i);
    }
    void *const send = device_values(type, values, count);
    void *const receive = apart ? device_values(type, values, count) : send;
    RANK_NCCL(ncclAllReduce(send, receive, count, types[type], average ? ncclAvg : ncclSum,
                            self->comm, self->side));
    void *const stored = malloc(count * 4 + 1);
    RANK_CHECK(stored != NULL);
    device_read(stored, receive, count * kernel_type_size(type));
    kernel_decode(type, stored, values, count);
    for (size_t i = 0; i < count; i++) {
        float want = 0;
        for (int rank = 0; rank < self->world; rank++) {
            want += value_of(rank, i);
        }
        want = average ? want / (float)self->world : want;
        kernel_round(type, &want, 1);
        RANK_CHECK(values[i] == want);
    }
    free(stored);
    free(values);
    device_free_all();
}

static void mode_values(Rank *self)
{
    rank_open(self);
    static const size_t counts[] = {0, 1, 1000, 150001};
    for (int i = 0; i < 4 * 3 * 4; i++) {
        reduce_once(self, (KernelType)(i / 4 % 3), counts[i % 4], i / 12 % 2, i / 24 % 2);
    }
    unsigned char bytes[1001];
    for (int i = 0; i < 1001; i++) {
        bytes[i] = (unsigned char)(i * 13 + self->rank);
    }
    unsigned char *const data = device_copy(bytes, sizeof bytes);
    RANK_NCCL(ncclBroadcast(data, data, sizeof bytes, ncclUint8, 1, self->comm, self->side));
    device_read(bytes, data, sizeof bytes);
    for (int i = 0; i < 1001; i++) {
        RANK_CHECK(bytes[i] == (unsigned char)(i * 13 + 1));
    }
    float host = 0;
    RANK_CHECK(ncclAllReduce(&host, &host, 1, ncclFloat32, ncclSum, self->comm, self->side) ==
               ncclInvalidArgument);
    rank_close(self);
}

/* y = factor * x on the compute stream, then its sum over the ranks on the other one, which waits for it if `wait`; then a
 * copy of y on the compute stream, which waits for the sum. */
static void enqueue_step(Rank *self, const float *x, const float *factor, float *y, float *z,
                         bool wait)
{
    RANK_CHECK(probe_scale(self->compute, x, factor, y, N) == 0);
    RANK_CUDA(cudaEventRecord(self->ready, self->compute));
    if (wait) {
        RANK_CUDA(cudaStreamWaitEvent(self->side, self->ready, 0));
    }
    RANK_NCCL(ncclAllReduce(y, y, N, ncclFloat32, ncclSum, self->comm, self->side));
    RANK_CUDA(cudaEventRecord(self->reduced, self->side));
    RANK_CUDA(cudaStreamWaitEvent(self->compute, self->reduced, 0));
    RANK_CHECK(probe_copy(self->compute, y, z, N) == 0);
}

typedef struct {
    float *x, *factor, *y, *z;
} StepMemory;
static StepMemory step_memory(const Rank *self)
{
    float values[N];
    for (int i = 0; i < N; i++) {
        values[i] = value_of(self->rank, (size_t)i);
    }
    return (StepMemory){device_copy(values, sizeof values), device_alloc(sizeof(float)),
                        device_alloc(sizeof values), device_alloc(sizeof values)};
}
static bool step_right(const Rank *self, const float *z, float factor)
{
    float got[N];
    device_read(got, z, sizeof got);
    for (int i = 0; i < N; i++) {
        float want = 0;
        for (int rank = 0; rank < self->world; rank++) {
            want += factor * value_of(rank, (size_t)i);
        }
        if (got[i] != want) {
            return false;
        }
    }
    return true;
}

/* The number of seeds, of all, in which the result is wrong. */
static int overlap(Rank *self, bool wait)
{
    const StepMemory memory = step_memory(self);
    int wrong = 0;
    for (int seed = 1; seed <= SEEDS; seed++) {
        const float factor = (float)seed;
        emu_set_delay_seed((uint64_t)seed);
        RANK_CUDA(cudaMemcpy(memory.factor, &factor, sizeof factor, cudaMemcpyHostToDevice));
        enqueue_step(self, memory.x, memory.factor, memory.y, memory.z, wait);
        wrong += step_right(self, memory.z, factor) ? 0 : 1;
    }
    device_free_all();
    return wrong;
}
static void mode_overlap(Rank *self)
{
    rank_open(self);
    RANK_CHECK(overlap(self, true) == 0);
    const int wrong = overlap(self, false);
    printf("rank %d: bucket reduced too early: wrong in %d of %d seeds\n", self->rank, wrong,
           SEEDS);
    RANK_CHECK(wrong > 0);
    rank_close(self);
}

static void mode_capture(Rank *self)
{
    rank_open(self);
    const StepMemory memory = step_memory(self);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    RANK_CUDA(cudaStreamBeginCapture(self->compute, cudaStreamCaptureModeThreadLocal));
    enqueue_step(self, memory.x, memory.factor, memory.y, memory.z, true);
    RANK_CUDA(cudaStreamEndCapture(self->compute, &graph));
    RANK_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int step = 1; step <= SEEDS; step++) {
        const float factor = (float)step;
        emu_set_delay_seed((uint64_t)step + (uint64_t)self->rank);
        RANK_CUDA(cudaMemcpy(memory.factor, &factor, sizeof factor, cudaMemcpyHostToDevice));
        RANK_CUDA(cudaGraphLaunch(exec, self->compute));
        RANK_CHECK(step_right(self, memory.z, factor));
    }
    RANK_CUDA(cudaGraphExecDestroy(exec));
    RANK_CUDA(cudaGraphDestroy(graph));
    rank_close(self);
}

/* The state that the communicator comes to; not "in progress". */
static ncclResult_t settle(Rank *self)
{
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
        RANK_NCCL(ncclCommGetAsyncError(self->comm, &state));
    }
    return state;
}
static ncclResult_t open_non_blocking(Rank *self)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return ncclCommInitRankConfig(&self->comm, self->world, self->id, self->rank, &config);
}
static void mode_non_blocking(Rank *self)
{
    RANK_CHECK(open_non_blocking(self) == ncclInProgress);
    float *const x = device_alloc(N * sizeof *x);
    RANK_CHECK(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, NULL) == ncclInvalidUsage);
    RANK_NCCL(settle(self));
    for (int i = 0; i < 3; i++) {
        RANK_CHECK(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, NULL) ==
                   ncclInProgress);
        RANK_NCCL(settle(self));
    }
    RANK_CUDA(cudaDeviceSynchronize());
    RANK_CHECK(ncclCommFinalize(self->comm) == ncclInProgress);
    RANK_NCCL(settle(self));
    RANK_NCCL(ncclCommDestroy(self->comm));
    device_free_all();
}

/* Rank 1 ends in the middle; the others must hear of it and their streams must go on. */
static void mode_death(Rank *self)
{
    rank_open(self);
    float *const x = device_alloc(N * sizeof *x);
    RANK_NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, self->side));
    RANK_CUDA(cudaStreamSynchronize(self->side));
    if (self->rank == 1) {
        _exit(0);
    }
    RANK_NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, self->side));
    RANK_CUDA(cudaStreamSynchronize(self->side));
    ncclResult_t state = ncclSuccess;
    RANK_NCCL(ncclCommGetAsyncError(self->comm, &state));
    RANK_CHECK(state == ncclRemoteError);
    RANK_CHECK(strstr(ncclGetLastError(self->comm), "has gone") != NULL);
    RANK_NCCL(ncclCommAbort(self->comm));
    device_free_all();
}

/* Rank 1 is never started. */
static void mode_missing(Rank *self)
{
    RANK_CHECK(open_non_blocking(self) == ncclInProgress);
    RANK_CHECK(settle(self) == ncclRemoteError);
    RANK_NCCL(ncclCommAbort(self->comm));
}

static void *abort_soon(void *comm)
{
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    nanosleep(&pause, NULL);
    (void)ncclCommAbort(comm);
    return NULL;
}
/* Rank 0 waits for a sum that rank 1 never asks for; another of its threads gives up; rank 1 then hears of it. */
static void mode_abort(Rank *self)
{
    rank_open(self);
    float *const x = device_alloc(N * sizeof *x);
    if (self->rank == 0) {
        pthread_t thread;
        RANK_NCCL(ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, self->side));
        RANK_CHECK(pthread_create(&thread, NULL, abort_soon, self->comm) == 0);
        RANK_CUDA(cudaStreamSynchronize(self->side));
        RANK_CHECK(pthread_join(thread, NULL) == 0);
        device_free_all();
        return;
    }
    const struct timespec pause = {.tv_nsec = 400 * 1000 * 1000};
    nanosleep(&pause, NULL);
    /* Rank 0 has put its part before it left, so that the first sum may still come to an end. */
    for (int i = 0; i < 2; i++) {
        (void)ncclAllReduce(x, x, N, ncclFloat32, ncclSum, self->comm, self->side);
        RANK_CUDA(cudaStreamSynchronize(self->side));
    }
    ncclResult_t state = ncclSuccess;
    RANK_NCCL(ncclCommGetAsyncError(self->comm, &state));
    RANK_CHECK(state == ncclRemoteError);
    RANK_NCCL(ncclCommDestroy(self->comm));
    device_free_all();
}

/* The ranks reduce their buckets in different orders. */
static void mode_disagree(Rank *self)
{
    rank_open(self);
    float *const x = device_alloc(2 * N * sizeof *x);
    for (int i = 0; i < 2; i++) {
        const size_t count = (i + self->rank) % 2 == 0 ? N : 2 * N;
        (void)ncclAllReduce(x, x, count, ncclFloat32, ncclSum, self->comm, self->side);
    }
    RANK_CUDA(cudaStreamSynchronize(self->side));
    ncclResult_t state = ncclSuccess;
    RANK_NCCL(ncclCommGetAsyncError(self->comm, &state));
    RANK_CHECK(state == ncclInvalidUsage || state == ncclRemoteError);
    RANK_NCCL(ncclCommAbort(self->comm));
    device_free_all();
}

typedef struct {
    const char *name;
    void (*run)(Rank *self);
    int world, started;
} Mode;
static const Mode MODES[] = {
    {"values", mode_values, 2, 2},
    {"values3", mode_values, 3, 3},
    {"overlap", mode_overlap, 2, 2},
    {"capture", mode_capture, 2, 2},
    {"non_blocking", mode_non_blocking, 2, 2},
    {"death", mode_death, 3, 3},
    {"missing", mode_missing, 2, 1},
    {"abort", mode_abort, 2, 2},
    {"disagree", mode_disagree, 2, 2},
};
enum { MODE_COUNT = sizeof MODES / sizeof MODES[0] };

static int run_rank(const char *mode, const char *rank)
{
    Rank rank_of_process = {.rank = rank[0] - '0'};
    Rank *const self = &rank_of_process;
    /* NCCL_COMM_ID is set by the parent. */
    RANK_NCCL(ncclGetUniqueId(&self->id));
    for (int i = 0; i < MODE_COUNT; i++) {
        if (strcmp(MODES[i].name, mode) == 0) {
            self->world = MODES[i].world;
            MODES[i].run(self);
            return 0;
        }
    }
    return 2;
}

/* ---- The parent ---- */
static void id_of_process(char id[64])
{
    snprintf(id, 64, "test%d", (int)getpid());
}

/* Pieces of shared memory that this run left in the system. */
static int left_behind(void)
{
    int count = 0;
    char id[64];
    id_of_process(id);
    DIR *const folder = opendir("/dev/shm");
    if (folder == NULL) {
        return 0;
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += strstr(entry->d_name, id) != NULL ? 1 : 0;
    }
    closedir(folder);
    return count;
}

static void run_mode(void **state)
{
    const Mode *const mode = *state;
    char id[64];
    id_of_process(id);
    assert_int_equal(setenv("NCCL_COMM_ID", id, 1), 0);
    if (mode->started < mode->world) {
        assert_int_equal(setenv("CUDISTILL_EMU_NCCL_TIMEOUT_S", "1", 1), 0);
    }
    Child ranks[4];
    for (int rank = 0; rank < mode->started; rank++) {
        const char number[] = {(char)('0' + rank), 0};
        const char *const arguments[] = {"--rank", mode->name, number, NULL};
        assert_true(child_start(&ranks[rank], arguments));
    }
    bool right = true;
    for (int rank = 0; rank < mode->started; rank++) {
        const bool ended = child_end(&ranks[rank]);
        printf("%s", ranks[rank].text);
        right = right && ended;
    }
    assert_int_equal(unsetenv("CUDISTILL_EMU_NCCL_TIMEOUT_S"), 0);
    assert_int_equal(unsetenv("NCCL_COMM_ID"), 0);
    assert_true(right);
}

static void two_ids_differ(void **state)
{
    (void)state;
    ncclUniqueId first;
    ncclUniqueId second;
    assert_int_equal(ncclGetUniqueId(&first), ncclSuccess);
    assert_int_equal(ncclGetUniqueId(&second), ncclSuccess);
    assert_memory_not_equal(&first, &second, sizeof first);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--rank") == 0) {
        return run_rank(argv[2], argv[3]);
    }
    struct CMUnitTest tests[MODE_COUNT + 1];
    for (int i = 0; i < MODE_COUNT; i++) {
        tests[i] = (struct CMUnitTest){MODES[i].name, run_mode, NULL, NULL, (void *)&MODES[i]};
    }
    tests[MODE_COUNT] = (struct CMUnitTest)cmocka_unit_test(two_ids_differ);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const int left = left_behind();
    if (left > 0) {
        fprintf(stderr, "%d pieces of shared memory left in /dev/shm\n", left);
    }
    return failed != 0 || left > 0 ? 1 : 0;
}
