/* Several ranks on the emulated GPU: processes with NCCL's stub over shared memory, training with gradient buckets that
 * leave while backward runs. What they end with must be what one process gets that runs the shards one after the other
 * and adds their gradients itself, bit for bit; reductions that leave too early or are not waited for must not give that.
 *
 * The program is its own rank: called with arguments it is a child (see rank_main). Skipped where the emulated library is
 * absent; it is looked for in CUDISTILL_CUDA_LIBRARY, then beside the tests' folder in emu/. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/plugin.h"
#include "comm/comm.h"
#include "graph_nets.h"
#include "rig.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    STEPS = 4,
    CLASSES = 10,
    MAX_WORLD = 3,
    EXIT_WRONG = 3,
    DEATH_STEP = 2,
    ID_TEXT = 2 * COMM_ID_BYTES
};

/* ---- One rank: the network and its update ---- */

typedef struct {
    Backend *backend;
    Params params;
    Graph graph, update_graph;
    Rig rig;
    Exec *update;
    ExecScalars *scalars; /* of the step, of the update */
    size_t elems;         /* of ARENA_WEIGHT */
} Trainer;

static void must(Err *err)
{
    if (err) {
        fprintf(stderr, "rank: %s\n", err->message);
        exit(err->code);
    }
}

static void write_hyper(Trainer *t)
{
    const float hyper[HYPER_COUNT] = {[HYPER_LR] = 0.1F,
                                      [HYPER_MOMENTUM] = 0.9F,
                                      [HYPER_WEIGHT_DECAY] = 1e-3F,
                                      [HYPER_GRAD_SCALE] = 1};
    exec_write(t->update, "hyper", hyper, sizeof hyper);
    exec_sync(t->update);
}

static void init_weights(Trainer *t)
{
    float *arena[ARENA_COUNT] = {NULL};
    for (int a = 0; a < ARENA_COUNT; a++) {
        arena[a] = xcalloc(t->params.arena_elems[a] + 1, sizeof(float));
    }
    params_init(&t->params, "", 1, arena);
    t->backend->upload(t->backend, QUEUE_COMPUTE, t->rig.arena[ARENA_WEIGHT], arena[ARENA_WEIGHT],
                       t->elems * sizeof(float));
    t->backend->upload(t->backend, QUEUE_COMPUTE, t->rig.arena[ARENA_STATE], arena[ARENA_STATE],
                       t->params.arena_elems[ARENA_STATE] * sizeof(float));
    t->backend->sync(t->backend, QUEUE_COMPUTE);
    for (int a = 0; a < ARENA_COUNT; a++) {
        free(arena[a]);
    }
}

/* As net_basic of graph_nets.h, in any type of activations. */
static Graph small_net(Params *params, DType act)
{
    enum { BATCH = 4, SIDE = 8 };
    Graph g;
    graph_init(&g, params, BATCH, act);
    Net net = {.params = params, .g = &g, .bn = BN_TRAIN, .trainable = true};
    const int images = graph_input(&g, "images", DT_U8, BATCH, SIDE, SIDE, 3, true);
    int x = graph_image(&g, "image", images, 3, (const float[]){0.5F, 0.5F, 0.5F},
                        (const float[]){0.3F, 0.3F, 0.3F});
    x = graph_relu(&g, "stem.relu", net_conv_bn(&net, "stem", 1, x, 8, 3, 1));
    x = net_block(&net, "a", x, 8, 8, 1);
    x = net_block(&net, "b", x, 16, 16, 2);
    net_head(&net, x, CLASSES, true);
    return g;
}

static void trainer_open(Trainer *t, Backend *backend, DType act)
{
    memset(t, 0, sizeof *t);
    t->backend = backend;
    t->graph = small_net(&t->params, act);
    t->elems = t->params.arena_elems[ARENA_WEIGHT];
    must(rig_open(&t->rig, backend, &t->graph, &(ExecOptions){.check_plan = true}));
    graph_init(&t->update_graph, &t->params, 1, DT_F32);
    const int hyper = graph_input(&t->update_graph, "hyper", DT_F32, 1, 1, 1, HYPER_COUNT, false);
    graph_node(&t->update_graph, OP_SGD, "sgd", 2, (int[]){hyper, -1}, 0, NULL)
        ->attr.sgd.decay_norm_bias = true;
    must(exec_open(backend, &t->update_graph, NULL, &t->update));
    exec_bind(t->update, ARENA_WEIGHT, t->rig.arena[ARENA_WEIGHT]);
    exec_bind(t->update, ARENA_GRAD, t->rig.arena[ARENA_GRAD]);
    exec_bind_moment(t->update, t->rig.moment);
    t->scalars = backend->alloc(backend, MEM_HOST, 2 * sizeof *t->scalars);
    write_hyper(t);
    init_weights(t);
    exec_refresh(t->rig.exec, false);
    exec_sync(t->rig.exec);
}

static void trainer_close(Trainer *t)
{
    exec_close(t->update);
    rig_close(&t->rig);
    t->backend->free(t->backend, MEM_HOST, t->scalars);
    graph_free(&t->graph);
    graph_free(&t->update_graph);
    params_free(&t->params);
}

static void write_shard(Trainer *t, int step, int shard)
{
    enum { BATCH = 4, PIXELS = BATCH * 8 * 8 * 3 };
    uint8_t images[PIXELS];
    int32_t labels[BATCH];
    Rng rng = rng_make((uint64_t)step, (uint32_t)shard, 0, RNG_TEST);
    for (int i = 0; i < PIXELS; i++) {
        images[i] = (uint8_t)rng_below(&rng, 256);
    }
    for (int i = 0; i < BATCH; i++) {
        labels[i] = (int32_t)rng_below(&rng, CLASSES);
    }
    exec_write(t->rig.exec, "images", images, sizeof images);
    exec_write(t->rig.exec, "labels", labels, sizeof labels);
    exec_sync(t->rig.exec);
}

/* What a step submits; nothing here waits, so it can be captured. */
static void submit_gradient(Trainer *t, int world, bool reduce)
{
    exec_run(t->rig.exec, &(ExecRun){.rows = t->graph.batch,
                                     .scale = 1.0F / (float)(t->graph.batch * world),
                                     .reduce_gradients = reduce,
                                     .scalars = &t->scalars[0]});
}

static void submit_update(Trainer *t)
{
    exec_run(t->update, &(ExecRun){.rows = 1, .scalars = &t->scalars[1]});
    exec_refresh(t->rig.exec, true);
}

static void save_weights(Trainer *t, const char *path)
{
    float *weights = xmalloc(t->elems * sizeof *weights);
    t->backend->download(t->backend, QUEUE_COMPUTE, weights, t->rig.arena[ARENA_WEIGHT],
                         t->elems * sizeof *weights);
    t->backend->sync(t->backend, QUEUE_COMPUTE);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(weights, sizeof *weights, t->elems, file) == t->elems, "%s", path);
    fclose(file);
    free(weights);
}

/* ---- One process for all shards ---- */

static void run_serial(Trainer *t, int world)
{
    const size_t bytes = t->elems * sizeof(float);
    float *sum = xmalloc(bytes);
    float *part = xmalloc(bytes);
    for (int step = 0; step < STEPS; step++) {
        for (int shard = 0; shard < world; shard++) {
            write_shard(t, step, shard);
            submit_gradient(t, world, false);
            t->backend->download(t->backend, QUEUE_COMPUTE, part, t->rig.arena[ARENA_GRAD], bytes);
            exec_sync(t->rig.exec);
            for (size_t i = 0; i < t->elems; i++) {
                sum[i] = shard == 0 ? part[i] : sum[i] + part[i];
            }
        }
        t->backend->upload(t->backend, QUEUE_COMPUTE, t->rig.arena[ARENA_GRAD], sum, bytes);
        submit_update(t);
        exec_sync(t->rig.exec);
    }
    free(sum);
    free(part);
}

/* ---- Ranks ---- */

static void reduce_by_comm(void *context, Backend *backend, const Bucket *bucket, void *slice)
{
    Comm *comm = context;
    must(comm->all_reduce(comm, backend->native_queue(backend, QUEUE_COMM), slice, bucket->count,
                          COMM_F32));
}

static void (*real_wait)(Backend *, Queue, int);

static void no_wait_of_comm(Backend *backend, Queue queue, int event)
{
    if (queue != QUEUE_COMM) {
        real_wait(backend, queue, event);
    }
}

static void set_reduce(Trainer *t, Comm *comm, bool early)
{
    Bucket *buckets = NULL;
    const BucketOptions sizes = {1 << 10, 1 << 11};
    const int count =
        buckets_build(exec_graph(t->rig.exec), exec_plan(t->rig.exec), &sizes, &buckets);
    CHECK(count > 4, "%d buckets", count);
    for (int i = 0; i < count && early; i++) {
        buckets[i].ready_step = -1;
    }
    exec_set_reduce(t->rig.exec, buckets, count, reduce_by_comm, comm);
    free(buckets);
}

/* Looks for dead peers while the rank waits for its queue, and lets it go on by giving the communicator up. */
typedef struct {
    Comm *comm;
    volatile sig_atomic_t stop;
    bool found;
} Watch;

static void *watch_peers(void *argument)
{
    Watch *watch = argument;
    while (!watch->stop) {
        Err *err = watch->comm->check(watch->comm);
        if (err) {
            fprintf(stderr, "rank %d noticed: %s\n", watch->comm->rank, err->message);
            err_free(err);
            watch->found = true;
            watch->comm->abort(watch->comm);
            return NULL;
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    return NULL;
}

static void run_steps(Trainer *t, Comm *comm, bool captured, bool dies)
{
    int recording = -1;
    for (int step = 0; step < STEPS; step++) {
        if (dies && step == DEATH_STEP && comm->rank == comm->world - 1) {
            kill(getpid(), SIGKILL);
        }
        write_shard(t, step, comm->rank);
        if (captured && step == 1) {
            t->backend->capture_begin(t->backend, QUEUE_COMPUTE);
        }
        if (recording < 0) {
            submit_gradient(t, comm->world, true);
            submit_update(t);
        }
        if (captured && step == 1) {
            recording = t->backend->capture_end(t->backend, QUEUE_COMPUTE);
        }
        if (recording >= 0) {
            exec_write_scalars(&t->scalars[0],
                               &(ExecRun){.rows = t->graph.batch,
                                          .scale = 1.0F / (float)(t->graph.batch * comm->world)});
            t->backend->replay(t->backend, QUEUE_COMPUTE, recording);
        }
        exec_sync(t->rig.exec);
        must(comm->check(comm)); /* what a collective left behind that ended with its peer */
    }
}

/* all_reduce of every type and broadcast, against values that are known. */
static int run_collectives(Backend *backend, Comm *comm)
{
    enum { COUNT = 1000 };
    static const struct {
        CommType type;
        DType dtype;
    } types[] = {{COMM_F32, DT_F32}, {COMM_BF16, DT_BF16}, {COMM_F16, DT_F16}};
    void *queue = backend->native_queue(backend, QUEUE_COMM);
    char host[COUNT * sizeof(float)];
    void *data = backend->alloc(backend, MEM_DEVICE, sizeof host);
    int wrong = 0;
    for (int i = 0; i < 4; i++) {
        const bool broadcast = i == 3;
        const DType dtype = broadcast ? DT_F32 : types[i].dtype;
        const size_t bytes = COUNT * dtype_size(dtype);
        for (size_t k = 0; k < COUNT; k++) {
            dtype_store(dtype, host, k, (double)(k % 50) * (comm->rank + 1));
        }
        backend->upload(backend, QUEUE_COMM, data, host, bytes);
        must(broadcast ? comm->broadcast(comm, queue, data, bytes, comm->world - 1)
                       : comm->all_reduce(comm, queue, data, COUNT, types[i].type));
        backend->download(backend, QUEUE_COMM, host, data, bytes);
        backend->sync(backend, QUEUE_COMM);
        const int factor = broadcast ? comm->world : comm->world * (comm->world + 1) / 2;
        for (size_t k = 0; k < COUNT; k++) {
            double want = 0;
            char rounded[sizeof(double)];
            dtype_store(dtype, rounded, 0, (double)(k % 50) * factor);
            want = dtype_load(dtype, rounded, 0);
            wrong += dtype_load(dtype, host, k) != want;
        }
    }
    backend->free(backend, MEM_DEVICE, data);
    return wrong == 0 ? EXIT_OK : EXIT_WRONG;
}

static void id_from_text(const char *text, unsigned char id[COMM_ID_BYTES])
{
    for (int i = 0; i < COMM_ID_BYTES; i++) {
        const char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};
        id[i] = (unsigned char)strtoul(digits, NULL, 16);
    }
}

static int run_rank(Trainer *t, Comm *comm, const char *mode, const char *out)
{
    set_reduce(t, comm, strcmp(mode, "early") == 0);
    const bool dies = strstr(mode, "dies") != NULL;
    Watch watch = {.comm = comm};
    pthread_t watcher;
    CHECK(pthread_create(&watcher, NULL, watch_peers, &watch) == 0, "no thread");
    run_steps(t, comm, strstr(mode, "captured") != NULL, dies);
    watch.stop = 1;
    pthread_join(watcher, NULL);
    if (watch.found) {
        return EXIT_PEER;
    }
    save_weights(t, out);
    return EXIT_OK;
}

/* Arguments: mode (serial, eager, captured, early, unwaited, dies, dies_captured, collectives, alone; the first three also
 * with _bf16), rank, world, id, file. */
static int rank_main(char **argv)
{
    const char *mode = argv[1];
    CommOptions options = {.rank = (int)strtol(argv[2], NULL, 10),
                           .world = (int)strtol(argv[3], NULL, 10),
                           .timeout_s = strcmp(mode, "alone") == 0 ? 2 : 60};
    id_from_text(argv[4], options.id);
    Backend *backend = NULL;
    must(backend_open("cuda", NULL, &backend));
    real_wait = backend->wait;
    backend->wait = strcmp(mode, "unwaited") == 0 ? no_wait_of_comm : real_wait;
    Comm *comm = NULL;
    const bool serial = strstr(mode, "serial") != NULL;
    if (!serial) {
        must(comm_open("nccl", &options, &comm));
    }
    int code = EXIT_OK;
    if (strcmp(mode, "collectives") == 0) {
        code = run_collectives(backend, comm);
    } else {
        Trainer t;
        trainer_open(&t, backend, strstr(mode, "bf16") ? DT_BF16 : DT_F32);
        if (serial) {
            run_serial(&t, options.world);
            save_weights(&t, argv[5]);
        } else {
            code = run_rank(&t, comm, mode, argv[5]);
        }
        trainer_close(&t);
    }
    comm_close(comm);
    backend_close(backend);
    return code;
}

/* ---- The parent ---- */

typedef struct {
    char dir[64];
    char id[ID_TEXT + 1];
} Place;

static void new_id(Place *place)
{
    unsigned char id[COMM_ID_BYTES];
    must(comm_new_id("nccl", id));
    for (int i = 0; i < COMM_ID_BYTES; i++) {
        snprintf(place->id + 2 * i, 3, "%02x", id[i]);
    }
}

static void result_path(const Place *place, const char *mode, int rank, char out[128])
{
    snprintf(out, 128, "%s/%s_%d", place->dir, mode, rank);
}

static pid_t start(const Place *place, const char *mode, int rank, int world)
{
    char path[128];
    char numbers[2][16];
    result_path(place, mode, rank, path);
    snprintf(numbers[0], sizeof numbers[0], "%d", rank);
    snprintf(numbers[1], sizeof numbers[1], "%d", world);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *const arguments[] = {(char *)"check_emu_ranks", (char *)mode, numbers[0], numbers[1],
                                   (char *)place->id,         path,         NULL};
        execv("/proc/self/exe", arguments);
        _exit(EXIT_OS);
    }
    return child;
}

/* Starts all ranks of a run and waits; status[r] as of waitpid, seconds until the last has ended. */
static double run_all(Place *place, const char *mode, int started, int world, int status[MAX_WORLD])
{
    pid_t children[MAX_WORLD];
    new_id(place);
    const double begin = now_s();
    for (int r = 0; r < started; r++) {
        children[r] = start(place, mode, r, world);
    }
    for (int left = started; left > 0; left--) {
        int code = 0;
        const pid_t ended = waitpid(-1, &code, 0);
        for (int r = 0; r < started; r++) {
            status[r] = children[r] == ended ? code : status[r];
        }
    }
    return now_s() - begin;
}

static float *load_weights(const Place *place, const char *mode, int rank, size_t *count)
{
    char path[128];
    result_path(place, mode, rank, path);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    enum { MOST = 1 << 20 };
    float *weights = xmalloc(MOST * sizeof *weights);
    *count = fread(weights, sizeof *weights, MOST, file);
    fclose(file);
    assert_true(*count > 1000 && *count < MOST);
    return weights;
}

/* Whether the two files hold the same numbers. */
static bool same_result(const Place *place, const char *mode, int rank, const char *other)
{
    size_t counts[2];
    float *a = load_weights(place, mode, rank, &counts[0]);
    float *b = load_weights(place, other, 0, &counts[1]);
    const bool same = counts[0] == counts[1] && memcmp(a, b, counts[0] * sizeof *a) == 0;
    free(a);
    free(b);
    return same;
}

static void set_seed(int seed)
{
    char text[16];
    snprintf(text, sizeof text, "%d", seed);
    setenv("CUDISTILL_EMU_DELAY_SEED", text, 1);
}

static void expect_ended(const int *status, int count)
{
    for (int r = 0; r < count; r++) {
        if (!WIFEXITED(status[r]) || WEXITSTATUS(status[r]) != EXIT_OK) {
            fail_msg("rank %d ended with status 0x%x", r, status[r]);
        }
    }
}

/* The emulated library, or false. */
static bool find_library(void)
{
    if (getenv(CUDA_PART_VARIABLE)) {
        return true;
    }
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
    if (length <= 0) {
        return false;
    }
    path[length] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        if (slash) {
            *slash = '\0';
        }
    }
    strcat(path, "/emu/" CUDA_PART);
    return access(path, R_OK) == 0 && setenv(CUDA_PART_VARIABLE, path, 1) == 0;
}

static bool open_place(Place *place)
{
    if (!find_library()) {
        printf("skipped: no emulated CUDA library; set " CUDA_PART_VARIABLE "\n");
        return false;
    }
    snprintf(place->dir, sizeof place->dir, "/tmp/cudistill_ranks_XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    set_seed(1);
    return true;
}

static void close_place(const Place *place)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", place->dir);
    assert_int_equal(system(command), 0);
}

static void check_equal(int world, const char *serial, const char *const modes[2])
{
    Place place;
    int status[MAX_WORLD] = {0};
    if (!open_place(&place)) {
        skip();
    }
    run_all(&place, serial, 1, world, status);
    expect_ended(status, 1);
    for (int m = 0; m < 2; m++) {
        for (int seed = 1; seed <= 3; seed++) {
            set_seed(seed);
            const double seconds = run_all(&place, modes[m], world, world, status);
            expect_ended(status, world);
            for (int r = 0; r < world; r++) {
                assert_true(same_result(&place, modes[m], r, serial));
            }
            printf("%d ranks, %s, delays %d: equal to one process bit for bit (%.1f s)\n", world,
                   modes[m], seed, seconds);
        }
    }
    close_place(&place);
}

static const char *const fp32_modes[] = {"eager", "captured"};
static const char *const bf16_modes[] = {"eager_bf16", "captured_bf16"};

static void test_two_ranks(void **state)
{
    (void)state;
    check_equal(2, "serial", fp32_modes);
}

static void test_three_ranks(void **state)
{
    (void)state;
    check_equal(3, "serial", fp32_modes);
}

static void test_two_ranks_bf16(void **state)
{
    (void)state;
    check_equal(2, "serial_bf16", bf16_modes);
}

static void test_faults_are_caught(void **state)
{
    (void)state;
    static const char *const faults[] = {"early", "unwaited"};
    Place place;
    int status[MAX_WORLD] = {0};
    if (!open_place(&place)) {
        skip();
    }
    run_all(&place, "serial", 1, 2, status);
    expect_ended(status, 1);
    for (int f = 0; f < 2; f++) {
        int caught = 0;
        enum { SEEDS = 3 };
        for (int seed = 1; seed <= SEEDS; seed++) {
            set_seed(seed);
            run_all(&place, faults[f], 2, 2, status);
            expect_ended(status, 2);
            caught += !same_result(&place, faults[f], 0, "serial");
        }
        printf("fault '%s': wrong numbers with %d of %d delays\n", faults[f], caught, SEEDS);
        assert_true(caught > 0);
    }
    close_place(&place);
}

static void test_collectives(void **state)
{
    (void)state;
    Place place;
    int status[MAX_WORLD] = {0};
    if (!open_place(&place)) {
        skip();
    }
    for (int world = 1; world <= MAX_WORLD; world++) {
        run_all(&place, "collectives", world, world, status);
        expect_ended(status, world);
    }
    close_place(&place);
}

static void expect_noticed(const int status, double seconds)
{
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_PEER);
    assert_true(seconds < 10);
}

static void test_dead_rank_is_noticed(void **state)
{
    (void)state;
    Place place;
    int status[MAX_WORLD] = {0};
    if (!open_place(&place)) {
        skip();
    }
    static const char *const modes[] = {"dies", "dies_captured"};
    for (int m = 0; m < 2; m++) {
        const double seconds = run_all(&place, modes[m], 2, 2, status);
        assert_true(WIFSIGNALED(status[1]));
        expect_noticed(status[0], seconds);
        printf("a rank is killed (%s): the other left after %.1f s\n", modes[m], seconds);
    }
    const double seconds = run_all(&place, "alone", 1, 2, status);
    expect_noticed(status[0], seconds);
    printf("a rank that never comes, limit 2 s: the other left after %.1f s\n", seconds);
    close_place(&place);
}

int main(int argc, char **argv)
{
    if (argc == 6) {
        return rank_main(argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collectives),       cmocka_unit_test(test_two_ranks),
        cmocka_unit_test(test_three_ranks),       cmocka_unit_test(test_two_ranks_bf16),
        cmocka_unit_test(test_faults_are_caught), cmocka_unit_test(test_dead_rank_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
