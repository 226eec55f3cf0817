/* What a captured, distributed step needs of the executor: gradient buckets that leave while backward runs, scalars in the
 * caller's memory, sizes without memory, values shared between graphs.
 *
 * The reduction of these tests copies a bucket as it finds it and then clears it, both on QUEUE_COMM: the copy must be
 * the finished gradient, bit for bit, and whatever comes after the run must see zeros. Queues are threads with random
 * delays, so a bucket that leaves too early, or a wait left out, gives wrong numbers; the last tests prove that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec_snapshot.h"

enum { MARK = 77 /* what gradients hold that nothing writes */ };

/* ---- A backend that counts and leaves waits out ---- */

typedef enum { KEEP_WAITS, DROP_WAITS_OF_COMM, DROP_WAIT_FOR_COMM } Dropped;

typedef struct {
    Backend *real;
    Dropped dropped;
    int last_of_comm; /* event last recorded on QUEUE_COMM */
    int syncs, allocs, events;
    int rows; /* of the last step run */
} Spy;

static Spy *spy_of(Backend *backend)
{
    return backend->state;
}

static void spy_upload(Backend *b, Queue queue, void *dst, const void *src, size_t bytes)
{
    spy_of(b)->real->upload(spy_of(b)->real, queue, dst, src, bytes);
}

static void spy_download(Backend *b, Queue queue, void *dst, const void *src, size_t bytes)
{
    spy_of(b)->real->download(spy_of(b)->real, queue, dst, src, bytes);
}

static void spy_fill(Backend *b, Queue queue, void *dst, int byte, size_t bytes)
{
    spy_of(b)->real->fill(spy_of(b)->real, queue, dst, byte, bytes);
}

static void *spy_alloc(Backend *b, MemKind kind, size_t bytes)
{
    spy_of(b)->allocs++;
    return spy_of(b)->real->alloc(spy_of(b)->real, kind, bytes);
}

static void spy_free(Backend *b, MemKind kind, void *memory)
{
    spy_of(b)->real->free(spy_of(b)->real, kind, memory);
}

static bool spy_accepts(Backend *b, const FuseCandidate *candidate)
{
    return spy_of(b)->real->accepts(spy_of(b)->real, candidate);
}

static Err *spy_prepare(Backend *b, Step *step)
{
    return spy_of(b)->real->prepare(spy_of(b)->real, step);
}

static void spy_release(Backend *b, Step *step)
{
    spy_of(b)->real->release(spy_of(b)->real, step);
}

static void spy_run(Backend *b, Queue queue, const Step *step, const RunArgs *args)
{
    spy_of(b)->rows = args->rows;
    spy_of(b)->real->run(spy_of(b)->real, queue, step, args);
}

static int spy_event(Backend *b)
{
    spy_of(b)->events++;
    return spy_of(b)->real->event(spy_of(b)->real);
}

static void spy_record(Backend *b, Queue queue, int event)
{
    spy_of(b)->last_of_comm = queue == QUEUE_COMM ? event : spy_of(b)->last_of_comm;
    spy_of(b)->real->record(spy_of(b)->real, queue, event);
}

static void spy_wait(Backend *b, Queue queue, int event)
{
    const Spy *spy = spy_of(b);
    const bool of_comm = spy->dropped == DROP_WAITS_OF_COMM && queue == QUEUE_COMM;
    const bool for_comm =
        spy->dropped == DROP_WAIT_FOR_COMM && queue == QUEUE_COMPUTE && event == spy->last_of_comm;
    if (!of_comm && !for_comm) {
        spy->real->wait(spy->real, queue, event);
    }
}

static void spy_sync(Backend *b, Queue queue)
{
    spy_of(b)->syncs++;
    spy_of(b)->real->sync(spy_of(b)->real, queue);
}

static Backend spy_open(Spy *spy, uint64_t delay_seed)
{
    const BackendOptions options = {.queue_threads = delay_seed != 0, .delay_seed = delay_seed};
    Err *err = backend_open("ref", &options, &spy->real);
    if (err) {
        fail_msg("%s", err->message);
    }
    spy->last_of_comm = -1;
    Backend backend = *spy->real;
    backend.state = spy;
    backend.upload = spy_upload;
    backend.download = spy_download;
    backend.fill = spy_fill;
    backend.alloc = spy_alloc;
    backend.free = spy_free;
    backend.discard = NULL;
    backend.accepts = spy_accepts;
    backend.prepare = spy_prepare;
    backend.release = spy_release;
    backend.run = spy_run;
    backend.event = spy_event;
    backend.record = spy_record;
    backend.wait = spy_wait;
    backend.sync = spy_sync;
    return backend;
}

/* ---- Overlapped buckets ---- */

typedef struct {
    float *copy; /* of ARENA_GRAD, as the reductions found it */
    int calls;
} Mirror;

static void reduce_into_mirror(void *context, Backend *backend, const Bucket *bucket, void *slice)
{
    Mirror *mirror = context;
    mirror->calls++;
    backend->download(backend, QUEUE_COMM, mirror->copy + bucket->first, slice,
                      bucket->count * sizeof(float));
    backend->fill(backend, QUEUE_COMM, slice, 0, bucket->count * sizeof(float));
}

typedef struct {
    Dropped dropped;
    int early; /* steps that every bucket claims to be ready before it is */
} Fault;

typedef struct {
    bool copied_early, cleared_late;
} Outcome;

static void mark_gradients(Rig *rig, size_t elems)
{
    double *marks = xmalloc((elems + 1) * sizeof *marks);
    for (size_t i = 0; i < elems; i++) {
        marks[i] = MARK;
    }
    rig_put(rig, rig->arena[ARENA_GRAD], DT_F32, 0, elems, marks);
    free(marks);
}

/* Runs the graph with overlapped reductions (`plain`: without) and returns what ARENA_GRAD held, malloc'ed; `after`: what
 * it holds for whoever comes next on QUEUE_COMPUTE. */
static float *run_reduced(const Graph *g, uint64_t seed, Fault fault, bool plain, float **after)
{
    const size_t elems = g->params->arena_elems[ARENA_WEIGHT];
    Spy spy = {.dropped = fault.dropped};
    Backend backend = spy_open(&spy, seed);
    Mirror mirror = {.copy = xcalloc(elems + 1, sizeof(float))};
    Rig rig;
    Err *err = rig_open(&rig, &backend, g, &(ExecOptions){.check_plan = true});
    CHECK(!err, "%s", err->message);
    Bucket *buckets = NULL;
    const BucketOptions sizes = {128, 256};
    const int count = buckets_build(exec_graph(rig.exec), exec_plan(rig.exec), &sizes, &buckets);
    for (int i = 0; i < count; i++) {
        buckets[i].ready_step -= fault.early;
        buckets[i].ready_step = buckets[i].ready_step < -1 ? -1 : buckets[i].ready_step;
    }
    exec_set_reduce(rig.exec, buckets, count, reduce_into_mirror, &mirror);
    free(buckets);
    snapshot_write_inputs(&rig, g, seed);
    snapshot_write_params(&rig, g->params, seed);
    rig_refresh(&rig);
    mark_gradients(&rig, elems);
    exec_run(rig.exec, &(ExecRun){.rows = g->batch, .scale = 1, .reduce_gradients = !plain});
    *after = xcalloc(elems + 1, sizeof(float));
    backend.download(&backend, QUEUE_COMPUTE, *after, rig.arena[ARENA_GRAD], elems * sizeof(float));
    for (int q = 0; q < QUEUE_COUNT; q++) {
        backend.sync(&backend, (Queue)q);
    }
    assert_int_equal(mirror.calls, plain ? 0 : count);
    assert_true(count > 1);
    rig_close(&rig);
    backend_close(spy.real);
    return mirror.copy;
}

static Graph reducible_graph(uint64_t seed, Params *params)
{
    const RandomGraphOptions options = {
        .act = DT_F32, .backward = true, .ops = 12, .queues = 1 + (int)(seed % 3)};
    return random_graph_make(seed, params, options);
}

static Outcome run_with_fault(uint64_t seed, Fault fault)
{
    Params params = {0};
    Graph g = reducible_graph(seed, &params);
    const size_t bytes = params.arena_elems[ARENA_WEIGHT] * sizeof(float);
    float *want = NULL;
    float *after = NULL;
    float *none = run_reduced(&g, seed, (Fault){0}, true, &want);
    float *got = run_reduced(&g, seed, fault, false, &after);
    Outcome outcome = {.copied_early = memcmp(got, want, bytes) != 0};
    for (size_t i = 0; i < bytes / sizeof(float); i++) {
        outcome.cleared_late |= after[i] != 0;
    }
    free(none);
    free(want);
    free(got);
    free(after);
    graph_free(&g);
    params_free(&params);
    return outcome;
}

static void test_buckets_are_complete_when_they_leave(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        const Outcome outcome = run_with_fault(seed, (Fault){0});
        assert_false(outcome.copied_early);
        assert_false(outcome.cleared_late);
    }
}

static void test_faults_are_caught(void **state)
{
    (void)state;
    int early = 0;
    int all_at_once = 0;
    int unordered = 0;
    int late = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        early += run_with_fault(seed, (Fault){.early = 1}).copied_early;
        all_at_once += run_with_fault(seed, (Fault){.early = 1 << 20}).copied_early;
        unordered += run_with_fault(seed, (Fault){.dropped = DROP_WAITS_OF_COMM}).copied_early;
        late += run_with_fault(seed, (Fault){.dropped = DROP_WAIT_FOR_COMM}).cleared_late;
    }
    printf("caught in 12 graphs: ready a step early %d, before the run %d, no wait before a bucket "
           "%d, no wait behind the last %d\n",
           early, all_at_once, unordered, late);
    assert_true(early > 0 && all_at_once > 0 && unordered > 0 && late > 0);
}

/* ---- Scalars of the caller ---- */

static void test_scalars_of_the_caller(void **state)
{
    (void)state;
    enum { RUNS = 200 };
    Params params = {0};
    Graph g = random_graph_make(3, &params, (RandomGraphOptions){.act = DT_F32, .backward = true});
    Spy spy = {0};
    Backend backend = spy_open(&spy, 0);
    Rig rig;
    assert_null(rig_open(&rig, &backend, &g, NULL));
    snapshot_write_inputs(&rig, &g, 3);
    snapshot_write_params(&rig, &params, 3);
    rig_refresh(&rig);
    ExecScalars *scalars = backend.alloc(&backend, MEM_HOST, sizeof *scalars);
    for (int with = 0; with < 2; with++) {
        const int rows = g.batch - with;
        const ExecRun run = {.rows = rows, .scale = 0.25F, .scalars = with ? scalars : NULL};
        exec_sync(rig.exec);
        const int before = spy.syncs;
        const int allocs = spy.allocs;
        const int events = spy.events;
        for (int i = 0; i < RUNS; i++) {
            exec_run(rig.exec, &run);
            exec_refresh(rig.exec, true);
        }
        assert_int_equal(spy.rows, g.batch); /* the refresh's */
        exec_run(rig.exec, &run);
        assert_int_equal(spy.rows, rows);
        /* The executor's own memory turns over; with the caller's nothing waits, and nothing is ever allocated. */
        assert_true(with ? spy.syncs == before : spy.syncs > before);
        assert_int_equal(spy.allocs, allocs);
        assert_int_equal(spy.events, events);
        float got[2];
        exec_read(rig.exec, "rows_valid", &got[0], sizeof got[0]);
        exec_read(rig.exec, "scale", &got[1], sizeof got[1]);
        assert_true(got[0] == (float)rows && got[1] == 0.25F);
        assert_true(!with || (scalars->rows_valid == (float)rows && scalars->scale == 0.25F));
    }
    backend.free(&backend, MEM_HOST, scalars);
    rig_close(&rig);
    backend_close(spy.real);
    graph_free(&g);
    params_free(&params);
}

/* ---- Sizes without memory; shared values ---- */

static void test_plan_only(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = random_graph_make(5, &params, (RandomGraphOptions){.act = DT_F32, .backward = true});
    Spy spy = {0};
    Backend backend = spy_open(&spy, 0);
    Exec *full = NULL;
    Exec *planned = NULL;
    assert_null(exec_open(&backend, &g, NULL, &full));
    spy = (Spy){.real = spy.real};
    assert_null(exec_open(&backend, &g, &(ExecOptions){.plan_only = true}, &planned));
    for (int a = 0; a < ARENA_COUNT; a++) {
        assert_int_equal(exec_bytes(planned, (Arena)a), exec_bytes(full, (Arena)a));
    }
    assert_true(exec_bytes(planned, ARENA_ACT) > 0 && exec_bytes(planned, ARENA_WORKSPACE) > 0 &&
                exec_bytes(planned, ARENA_GRAD) > 0);
    const ExecStepTime *times = NULL;
    assert_int_equal(exec_times(planned, &times), exec_plan(full)->n_steps);
    assert_non_null(times[0].op);
    exec_close(planned);
    assert_int_equal(spy.allocs + spy.events + spy.syncs, 0);
    exec_close(full);
    backend_close(spy.real);
    graph_free(&g);
    params_free(&params);
}

/* Two graphs read one value at one address, wherever each keeps the rest. */
static void test_shared_arena(void **state)
{
    (void)state;
    enum { OFFSET = 64, COUNT = 2 };
    Spy spy = {0};
    Backend backend = spy_open(&spy, 0);
    float *shared = backend.alloc(&backend, MEM_DEVICE, 256);
    shared[OFFSET / sizeof *shared] = 512;
    shared[OFFSET / sizeof *shared + 1] = 3;
    for (int i = 0; i < 2; i++) {
        Params params = {0};
        params_finish(&params);
        Graph g;
        graph_init(&g, &params, 1 + i, DT_F32);
        const int x = graph_shared(&g, "value", DT_F32, COUNT, OFFSET);
        graph_output(&g, graph_cast(&g, "copy", x, DT_BF16), "copy");
        Exec *exec = NULL;
        assert_null(exec_open(&backend, &g, NULL, &exec));
        assert_true(exec_bytes(exec, ARENA_SHARED) >= OFFSET + COUNT * sizeof(float));
        exec_bind(exec, ARENA_SHARED, shared);
        assert_ptr_equal(exec_tensor(exec, "value", NULL), (char *)shared + OFFSET);
        exec_run(exec, &(ExecRun){.rows = 1});
        uint16_t got[COUNT];
        exec_read(exec, "copy", got, sizeof got);
        assert_true(dtype_load(DT_BF16, got, 0) == 512 && dtype_load(DT_BF16, got, 1) == 3);
        exec_close(exec);
        graph_free(&g);
        params_free(&params);
    }
    backend.free(&backend, MEM_DEVICE, shared);
    backend_close(spy.real);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_are_complete_when_they_leave),
        cmocka_unit_test(test_faults_are_caught),
        cmocka_unit_test(test_scalars_of_the_caller),
        cmocka_unit_test(test_plan_only),
        cmocka_unit_test(test_shared_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
