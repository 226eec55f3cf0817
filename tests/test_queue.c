/* Threaded queues with random delays against inline execution, on graphs whose nodes are spread
 * over queues; and the proof that this can see a fault: with one wait removed from the plan,
 * wrong numbers appear. With CUDISTILL_TEST_BACKEND=cuda streams instead, many against one; the emulated device
 * draws the order between streams from a seed, so it sees a removed wait too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/queues.h"
#include "base/plugin.h"
#include "exec_snapshot.h"

/* ---- The queues themselves ---- */

enum { LOG_MAX = 256 };

typedef struct {
    int entries[LOG_MAX];
    int count;
} Log;

static void append(void *context, const void *data)
{
    Log *log = context;
    log->entries[log->count++] = *(const int *)data;
}

static void test_order_within_a_queue(void **state)
{
    (void)state;
    for (int threaded = 0; threaded < 2; threaded++) {
        Log log = {.count = 0};
        Queues *queues = queues_open(3, threaded, 1);
        for (int i = 0; i < 100; i++) {
            queues_submit(queues, 1, append, &log, &i, sizeof i);
        }
        queues_sync(queues, 1);
        assert_int_equal(log.count, 100);
        for (int i = 0; i < 100; i++) {
            assert_int_equal(log.entries[i], i);
        }
        queues_close(queues);
    }
}

/* Queues take turns through one reused event each: a wait stands for the last record before it. */
static void test_events_order_queues(void **state)
{
    (void)state;
    for (int threaded = 0; threaded < 2; threaded++) {
        Log log = {.count = 0};
        Queues *queues = queues_open(2, threaded, 2);
        const int event[2] = {queues_event(queues), queues_event(queues)};
        for (int i = 0; i < 200; i++) {
            queues_wait(queues, i % 2, event[1 - i % 2]); /* the first has nothing to wait for */
            queues_submit(queues, i % 2, append, &log, &i, sizeof i);
            queues_record(queues, i % 2, event[i % 2]);
        }
        queues_sync(queues, 0);
        queues_sync(queues, 1);
        assert_int_equal(log.count, 200);
        for (int i = 0; i < 200; i++) {
            assert_int_equal(log.entries[i], i);
        }
        queues_close(queues);
    }
}

static void test_close_finishes(void **state)
{
    (void)state;
    Log log = {.count = 0};
    Queues *queues = queues_open(2, true, 3);
    for (int i = 0; i < 50; i++) {
        queues_submit(queues, 0, append, &log, &i, sizeof i);
    }
    queues_close(queues);
    assert_int_equal(log.count, 50);
}

/* ---- Graphs on queues ---- */

enum { GRAPHS = 20, TRIES = 200 };

static Backend *open_backend(const char *name, bool threads, uint64_t delay_seed)
{
    const BackendOptions options = {
        .queue_threads = threads, .delay_seed = delay_seed, .threads = 1};
    Backend *backend = NULL;
    Err *err = backend_open(name, &options, &backend);
    if (err) {
        fail_msg("%s", err->message);
    }
    return backend;
}

static Graph queue_graph(uint64_t seed, Params *params)
{
    const RandomGraphOptions options = {
        .act = DT_F32, .backward = true, .sgd = seed % 2, .queues = QUEUE_COUNT, .ops = 8};
    return random_graph_make(seed, params, options);
}

static void check_threads(const char *name, int graphs)
{
    Backend *inline_backend = open_backend(name, false, 0);
    long waits = 0;
    for (uint64_t seed = 1; seed <= (uint64_t)graphs; seed++) {
        Backend *threaded = open_backend(name, true, seed);
        Params params = {0};
        Graph g = queue_graph(seed, &params);
        const ExecOptions options = {.poison = true, .check_plan = true};
        Snapshot *want = snapshot_run(inline_backend, &g, &options, g.batch, seed, NULL, NULL);
        Snapshot *got = snapshot_run(threaded, &g, &options, g.batch, seed, NULL, NULL);
        const char *where = NULL;
        const double difference = snapshot_difference(got, want, g.batch, &where);
        if (difference != 0) {
            fail_msg("%s, seed %llu: '%s' differs by %.3g", name, (unsigned long long)seed, where,
                     difference);
        }
        Plan *plan = plan_build(&g, NULL);
        for (int i = 0; i < plan->n_steps; i++) {
            waits += plan->steps[i].n_waits;
        }
        plan_free(plan);
        snapshot_free(want);
        snapshot_free(got);
        graph_free(&g);
        params_free(&params);
        backend_close(threaded);
    }
    assert_true(waits > 10L * graphs);
    printf("%s: %d graphs with %ld waits, threads = inline\n", name, graphs, waits);
    backend_close(inline_backend);
}

static void test_ref_threads_equal_inline(void **state)
{
    (void)state;
    check_threads("ref", GRAPHS);
}

static void test_cpu_threads_equal_inline(void **state)
{
    (void)state;
    check_threads("cpu", GRAPHS);
}

/* Removes the wait number *context of the plan, counted over all steps. */
static void remove_wait(Exec *exec, void *context)
{
    int left = *(const int *)context;
    Plan *plan = (Plan *)exec_plan(exec); /* the one place that breaks the promise on purpose */
    for (int i = 0; i < plan->n_steps; i++) {
        PlanStep *step = &plan->steps[i];
        if (left < step->n_waits) {
            memmove(&step->waits[left], &step->waits[left + 1],
                    (size_t)(step->n_waits - left - 1) * sizeof(int));
            step->n_waits--;
            return;
        }
        left -= step->n_waits;
    }
}

/* ---- Streams ---- */

static bool cuda_wanted(void)
{
    const char *wanted = getenv("CUDISTILL_TEST_BACKEND");
    return wanted && strcmp(wanted, "cuda") == 0;
}

/* NULL where there is no such device; says so. */
static Backend *open_cuda(void)
{
    Backend *backend = NULL;
    Err *err = backend_open("cuda", NULL, &backend);
    if (err) {
        printf("%s: skipped\n", err->message);
        err_free(err);
    }
    return backend;
}

/* What the graph gives when all of it runs on QUEUE_COMPUTE. */
static Snapshot *run_on_one_queue(Backend *backend, const Graph *g, uint64_t seed)
{
    Graph flat = graph_copy(g);
    for (int i = 0; i < flat.n_nodes; i++) {
        flat.nodes[i].queue = QUEUE_COMPUTE;
    }
    const ExecOptions options = {.poison = true, .check_plan = true, .fusion_off = FUSE_ALL};
    Snapshot *s = snapshot_run(backend, &flat, &options, flat.batch, seed, NULL, NULL);
    graph_free(&flat);
    return s;
}

static void test_streams_equal_one_stream(void **state)
{
    (void)state;
    Backend *backend = open_cuda();
    if (!backend) {
        skip();
    }
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        Params params = {0};
        Graph g = queue_graph(seed, &params);
        Snapshot *want = run_on_one_queue(backend, &g, seed);
        const ExecOptions options = {.poison = true, .check_plan = true, .fusion_off = FUSE_ALL};
        Snapshot *got = snapshot_run(backend, &g, &options, g.batch, seed, NULL, NULL);
        const char *where = NULL;
        const double difference = snapshot_difference(got, want, g.batch, &where);
        if (difference != 0) {
            fail_msg("seed %llu: '%s' differs by %.3g", (unsigned long long)seed, where,
                     difference);
        }
        snapshot_free(want);
        snapshot_free(got);
        graph_free(&g);
        params_free(&params);
    }
    printf("cuda: %d graphs, many streams = one stream\n", GRAPHS);
    backend_close(backend);
}

typedef void (*SetSeed)(uint64_t seed);

static void test_missing_wait_is_seen_on_streams(void **state)
{
    (void)state;
    Backend *backend = open_cuda();
    void *symbol = NULL;
    Err *err = backend ? plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, "emu_set_delay_seed", &symbol)
                       : NULL;
    if (!backend || err) {
        printf("no emulated device, whose order of streams can be chosen: skipped\n");
        err_free(err);
        backend_close(backend);
        skip();
    }
    SetSeed set_seed = NULL;
    memcpy(&set_seed, &symbol, sizeof set_seed);
    int caught = 0;
    int tries = 0;
    for (uint64_t seed = 1; tries < TRIES && caught < 5; seed++) {
        Params params = {0};
        Graph g = queue_graph(seed, &params);
        Snapshot *want = run_on_one_queue(backend, &g, seed);
        const ExecOptions options = {.poison = true, .fusion_off = FUSE_ALL};
        for (int wait = 0; wait < 8 && tries < TRIES; wait++) {
            set_seed(seed * 100 + (uint64_t)wait + 1);
            Snapshot *got = snapshot_run(backend, &g, &options, g.batch, seed, remove_wait, &wait);
            const char *where = NULL;
            caught += snapshot_difference(got, want, g.batch, &where) != 0;
            tries++;
            snapshot_free(got);
        }
        snapshot_free(want);
        graph_free(&g);
        params_free(&params);
    }
    printf("cuda: a removed wait was seen in %d of %d tries\n", caught, tries);
    assert_true(caught > 0);
    backend_close(backend);
}

static void test_missing_wait_is_seen(void **state)
{
    (void)state;
    Backend *inline_backend = open_backend("ref", false, 0);
    int caught = 0;
    int tries = 0;
    for (uint64_t seed = 1; tries < TRIES && caught < 5; seed++) {
        Params params = {0};
        Graph g = queue_graph(seed, &params);
        const ExecOptions options = {.poison = true};
        Snapshot *want = snapshot_run(inline_backend, &g, &options, g.batch, seed, NULL, NULL);
        for (int wait = 0; wait < 8 && tries < TRIES; wait++) {
            Backend *threaded = open_backend("ref", true, seed * 100 + (uint64_t)wait);
            Snapshot *got = snapshot_run(threaded, &g, &options, g.batch, seed, remove_wait, &wait);
            const char *where = NULL;
            caught += snapshot_difference(got, want, g.batch, &where) != 0;
            tries++;
            snapshot_free(got);
            backend_close(threaded);
        }
        snapshot_free(want);
        graph_free(&g);
        params_free(&params);
    }
    printf("a removed wait was seen in %d of %d tries\n", caught, tries);
    assert_true(caught > 0);
    backend_close(inline_backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_within_a_queue),
        cmocka_unit_test(test_events_order_queues),
        cmocka_unit_test(test_close_finishes),
        cmocka_unit_test(test_ref_threads_equal_inline),
        cmocka_unit_test(test_cpu_threads_equal_inline),
        cmocka_unit_test(test_missing_wait_is_seen),
    };
    const struct CMUnitTest on_cuda[] = {
        cmocka_unit_test(test_streams_equal_one_stream),
        cmocka_unit_test(test_missing_wait_is_seen_on_streams),
    };
    return cuda_wanted() ? cmocka_run_group_tests(on_cuda, NULL, NULL)
                         : cmocka_run_group_tests(tests, NULL, NULL);
}
