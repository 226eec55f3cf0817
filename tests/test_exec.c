/* The executor on random training graphs: every switch must leave the numbers alone. Memory reuse,
 * in-place steps and poison change nothing at all (bit for bit); fusion changes roundings only; a
 * rung of the batch-size ladder, and rows_valid below the batch, give what a smaller batch gives.
 * Also its errors, gradient modes and refresh. With CUDISTILL_TEST_BACKEND=cuda the same on cuda instead, and its results
 * against those of `ref`.
 *
 * Tolerances, relative to a tensor's largest value. Double: every value passes some 100
 * roundings of 2^-53, which normalisation by small variances amplifies by 1e2: 1e-13 is asked
 * (1e-16 * sqrt(100) * 1e2). fp32: the same with 2^-24: 6e-5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec_snapshot.h"

static const double DOUBLE_TOLERANCE = 1e-13;
static const double FLOAT_TOLERANCE = 6e-5;

static Backend *open_backend(const char *name)
{
    Backend *backend = NULL;
    Err *err = backend_open(name, NULL, &backend);
    if (err) {
        fail_msg("%s", err->message);
    }
    return backend;
}

static void expect_close(const Snapshot *got, const Snapshot *want, int rows, double tolerance,
                         const char *what, uint64_t seed, double *used)
{
    const char *where = NULL;
    const double difference = snapshot_difference(got, want, rows, &where);
    if (!(difference <= tolerance)) {
        fail_msg("seed %llu, %s: '%s' differs by %.3g (tolerance %.3g)", (unsigned long long)seed,
                 what, where, difference, tolerance);
    }
    if (used) {
        *used = fmax(*used, difference);
    }
}

/* ---- Switches ---- */

typedef struct {
    double fusion, ladder;
} Worst;

static void check_memory_switches(Backend *backend, const Graph *g, const Snapshot *want,
                                  uint64_t seed)
{
    static const struct {
        const char *name;
        ExecOptions options;
    } switches[] = {{"no reuse", {.plan = {.no_reuse = true}}},
                    {"no in-place", {.plan = {.no_inplace = true}}},
                    {"no reuse, no in-place", {.plan = {.no_reuse = true, .no_inplace = true}}},
                    {"poison", {.poison = true}}};
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        ExecOptions options = switches[i].options;
        options.check_plan = true;
        Snapshot *got = snapshot_run(backend, g, &options, g->batch, seed, NULL, NULL);
        expect_close(got, want, g->batch, 0, switches[i].name, seed, NULL);
        snapshot_free(got);
    }
}

/* A rung, and rows_valid in the full batch, against a graph of just that batch size. */
static void check_ladder(Backend *backend, uint64_t seed, RandomGraphOptions options,
                         double tolerance, Worst *worst)
{
    enum { BATCH = 5, RUNG = 3 };
    for (int rows = 2; rows <= RUNG; rows++) {
        Params params = {0};
        Params small_params = {0};
        options.batch = BATCH;
        Graph g = random_graph_make(seed, &params, options);
        options.batch = rows;
        Graph small = random_graph_make(seed, &small_params, options);
        const int ladder[] = {RUNG};
        const ExecOptions with_ladder = {
            .ladder = ladder, .ladder_count = 1, .poison = true, .check_plan = true};
        const ExecOptions plain = {.poison = true, .check_plan = true};
        Snapshot *want = snapshot_run(backend, &small, &plain, rows, seed, NULL, NULL);
        Snapshot *rung = snapshot_run(backend, &g, &with_ladder, rows, seed, NULL, NULL);
        Snapshot *masked = snapshot_run(backend, &g, &plain, rows, seed, NULL, NULL);
        expect_close(rung, want, rows, tolerance, "ladder", seed, &worst->ladder);
        expect_close(masked, want, rows, tolerance, "rows_valid", seed, &worst->ladder);
        snapshot_free(want);
        snapshot_free(rung);
        snapshot_free(masked);
        graph_free(&g);
        graph_free(&small);
        params_free(&params);
        params_free(&small_params);
    }
}

static void check_switches(Backend *backend, DType act, int seeds, double tolerance)
{
    Worst worst = {0};
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        Params params = {0};
        const RandomGraphOptions options = {.act = act,
                                            .backward = seed % 8 != 0,
                                            .sgd = seed % 2 == 0 && seed % 8 != 0,
                                            .loss_scale = seed % 3 == 0,
                                            .inference = seed % 16 == 0};
        Graph g = random_graph_make(seed, &params, options);
        const ExecOptions plain = {.check_plan = true};
        Snapshot *want = snapshot_run(backend, &g, &plain, g.batch, seed, NULL, NULL);
        check_memory_switches(backend, &g, want, seed);
        if (tolerance > 0) {
            const ExecOptions unfused = {
                .fusion_off = FUSE_ALL, .check_plan = true, .poison = true};
            Snapshot *got = snapshot_run(backend, &g, &unfused, g.batch, seed, NULL, NULL);
            expect_close(got, want, g.batch, tolerance, "fusion off", seed, &worst.fusion);
            snapshot_free(got);
            if (seed % 4 == 1) {
                check_ladder(backend, seed, options, tolerance, &worst);
            }
        }
        snapshot_free(want);
        graph_free(&g);
        params_free(&params);
    }
    if (tolerance > 0) {
        printf("%s %s, %d graphs: used share of the tolerance: fusion %.1f%%, ladder %.1f%%\n",
               backend->name, dtype_name(act), seeds, 100 * worst.fusion / tolerance,
               100 * worst.ladder / tolerance);
    }
}

static void test_ref_double(void **state)
{
    (void)state;
    Backend *backend = open_backend("ref");
    check_switches(backend, DT_F64, 100, DOUBLE_TOLERANCE);
    backend_close(backend);
}

static void test_ref_fp32(void **state)
{
    (void)state;
    Backend *backend = open_backend("ref");
    check_switches(backend, DT_F32, 50, FLOAT_TOLERANCE);
    backend_close(backend);
}

static void test_ref_bf16(void **state)
{
    (void)state;
    Backend *backend = open_backend("ref");
    check_switches(backend, DT_BF16, 30, 0);
    backend_close(backend);
}

static void test_cpu(void **state)
{
    (void)state;
    Backend *backend = open_backend("cpu");
    DeviceInfo info;
    backend->info(backend, &info);
    check_switches(backend, DT_F32, 40, FLOAT_TOLERANCE);
    if (info.bf16) {
        check_switches(backend, DT_BF16, 20, 0);
    } else {
        printf("cpu: no bf16 here, skipped\n");
    }
    backend_close(backend);
}

/* The whole of a random training step in fp32, one backend against the other. */
static void check_against_ref(Backend *backend, int seeds)
{
    Backend *ref = open_backend("ref");
    double used = 0;
    for (uint64_t seed = 1; seed <= (uint64_t)seeds; seed++) {
        Params params = {0};
        const RandomGraphOptions options = {
            .act = DT_F32, .backward = true, .sgd = seed % 2 == 0, .inference = seed % 8 == 0};
        Graph g = random_graph_make(seed, &params, options);
        const ExecOptions poisoned = {.check_plan = true, .poison = true};
        Snapshot *want = snapshot_run(ref, &g, &poisoned, g.batch, seed, NULL, NULL);
        Snapshot *got = snapshot_run(backend, &g, &poisoned, g.batch, seed, NULL, NULL);
        expect_close(got, want, g.batch, FLOAT_TOLERANCE, "against ref", seed, &used);
        snapshot_free(want);
        snapshot_free(got);
        graph_free(&g);
        params_free(&params);
    }
    printf("%s against ref, %d graphs: used share of the tolerance %.1f%%\n", backend->name, seeds,
           100 * used / FLOAT_TOLERANCE);
    backend_close(ref);
}

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

static void test_cuda(void **state)
{
    (void)state;
    Backend *backend = open_cuda();
    if (!backend) {
        skip();
    }
    check_against_ref(backend, 16);
    check_switches(backend, DT_F32, 16, FLOAT_TOLERANCE);
    check_switches(backend, DT_BF16, 8, 0);
    check_switches(backend, DT_F16, 8, 0);
    backend_close(backend);
}

static const DType narrow_types[] = {DT_BF16, DT_F16};

/* Sets weights and running statistics to those of another rig, or (NULL) to drawn ones; then one step. The logits. */
static double *run_from(Rig *rig, Rig *source, const Params *params, int rows, uint64_t seed)
{
    if (!source) {
        snapshot_write_params(rig, params, seed);
    }
    for (int p = 0; source && p < params->count; p++) {
        const Arena arena = params->items[p].arena;
        double *values = rig_get_param(source, arena, p);
        rig_set_param(rig, arena, p, values);
        free(values);
    }
    rig_refresh(rig);
    rig_run(rig, rows, 1, false, true);
    return rig_read(rig, "logits");
}

/* 16-bit copies of the weights follow the fp32 weights: after an update, and after new ones were set. A new rig, whose
 * copies are made from those weights, must give the same logits. */
static void test_cuda_weight_copies(void **state)
{
    (void)state;
    enum { GRAPHS = 8 };
    Backend *backend = open_cuda();
    if (!backend) {
        skip();
    }
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        Params params = {0};
        Graph g = random_graph_make(
            seed, &params,
            (RandomGraphOptions){.act = narrow_types[seed % 2], .backward = true, .sgd = true});
        Rig rig[2];
        for (int i = 0; i < 2; i++) {
            assert_null(rig_open(&rig[i], backend, &g, NULL));
            snapshot_write_inputs(&rig[i], &g, seed);
        }
        const size_t bytes = rig_elems(&rig[0], "logits") * sizeof(double);
        double *first = run_from(&rig[0], NULL, &params, g.batch, seed);
        double *anew = run_from(&rig[1], &rig[0], &params, g.batch, 0);
        exec_refresh(rig[0].exec, true);
        rig_run(&rig[0], g.batch, 1, false, true);
        double *second = rig_read(&rig[0], "logits");
        assert_memory_equal(second, anew, bytes);
        assert_memory_not_equal(second, first, bytes); /* the step did change something */
        double *set = run_from(&rig[0], NULL, &params, g.batch, seed);
        assert_memory_equal(set, first, bytes);
        snapshot_write_params(&rig[0], &params, seed + 1);
        backend->capture_begin(backend, QUEUE_COMPUTE);
        exec_refresh(rig[0].exec, true); /* is recorded, not done */
        backend->capture_free(backend, backend->capture_end(backend, QUEUE_COMPUTE));
        double *third = run_from(&rig[1], &rig[0], &params, g.batch, 0);
        rig_refresh(&rig[0]);
        rig_run(&rig[0], g.batch, 1, false, true);
        double *late = rig_read(&rig[0], "logits");
        assert_memory_equal(late, third, bytes);
        free(third);
        free(late);
        free(first);
        free(anew);
        free(second);
        free(set);
        rig_close(&rig[0]);
        rig_close(&rig[1]);
        graph_free(&g);
        params_free(&params);
    }
    backend_close(backend);
}

/* Weights that graphs of two 16-bit types read: replayed updates write the copy of the one that trains, the other's must
 * be made anew. */
static void test_cuda_two_types(void **state)
{
    (void)state;
    enum { SEED = 6 };
    Backend *backend = open_cuda();
    if (!backend) {
        skip();
    }
    Params params[2] = {{0}, {0}};
    Graph g[2];
    Rig rig[3]; /* trains in bf16; fp16 on the same weights; fp16 on copied weights */
    for (int i = 0; i < 3; i++) {
        const int of = i > 0;
        if (i < 2) {
            g[i] = random_graph_make(
                SEED, &params[i],
                (RandomGraphOptions){.act = narrow_types[i], .backward = true, .sgd = i == 0});
        }
        assert_null(rig_open(&rig[i], backend, &g[of], NULL));
        snapshot_write_inputs(&rig[i], &g[of], SEED);
    }
    exec_bind(rig[1].exec, ARENA_WEIGHT, rig[0].arena[ARENA_WEIGHT]);
    snapshot_write_params(&rig[0], &params[0], SEED);
    snapshot_write_params(&rig[1], &params[1], SEED); /* its running statistics */
    free(run_from(&rig[0], NULL, &params[0], g[0].batch, SEED));
    backend->capture_begin(backend, QUEUE_COMPUTE);
    exec_run(rig[0].exec, &(ExecRun){.rows = g[0].batch, .scale = 1});
    const int recording = backend->capture_end(backend, QUEUE_COMPUTE);
    double *before = NULL;
    for (int round = 0; round < 2; round++) {
        rig_refresh(&rig[1]);
        rig_run(&rig[1], g[1].batch, 1, false, false);
        double *got = rig_read(&rig[1], "logits");
        for (int p = 0; p < params[0].count; p++) {
            const Arena arena = params[0].items[p].arena;
            double *values = rig_get_param(&rig[arena == ARENA_WEIGHT ? 0 : 1], arena, p);
            rig_set_param(&rig[2], arena, p, values);
            free(values);
        }
        rig_refresh(&rig[2]);
        rig_run(&rig[2], g[1].batch, 1, false, false);
        double *want = rig_read(&rig[2], "logits");
        const size_t bytes = rig_elems(&rig[2], "logits") * sizeof(double);
        assert_memory_equal(got, want, bytes);
        if (before) {
            assert_memory_not_equal(got, before, bytes);
        }
        free(before);
        before = got;
        free(want);
        backend->replay(backend, QUEUE_COMPUTE, recording);
    }
    free(before);
    for (int i = 2; i >= 0; i--) {
        rig_close(&rig[i]);
    }
    for (int i = 0; i < 2; i++) {
        graph_free(&g[i]);
        params_free(&params[i]);
    }
    backend_close(backend);
}

/* Training steps with their refresh, on one rig: submitted one by one, or recorded once and replayed. Between the second
 * and the third the weights are set anew. */
static Snapshot *run_training(Backend *backend, const Graph *g, uint64_t seed, bool recorded)
{
    enum { STEPS = 5 };
    Rig rig;
    const ExecOptions options = {.check_plan = true, .poison = true};
    Err *err = rig_open(&rig, backend, g, &options);
    CHECK(!err, "%s", err->message);
    snapshot_write_inputs(&rig, g, seed);
    snapshot_write_params(&rig, g->params, seed);
    rig_refresh(&rig);
    ExecScalars *scalars = backend->alloc(backend, MEM_HOST, sizeof *scalars);
    int recording = -1;
    for (int s = 0; s < STEPS; s++) {
        const ExecRun run = {.rows = g->batch - 1,
                             .scale = 1.0F / (float)(s + 2),
                             .bn_update = true,
                             .scalars = scalars};
        if (s == 2) {
            snapshot_write_params(&rig, g->params, seed + 1);
            rig_refresh(&rig);
        }
        if (recorded && s == 1) {
            backend->capture_begin(backend, QUEUE_COMPUTE);
        }
        if (!recorded || s <= 1) {
            exec_run(rig.exec, &run);
            exec_refresh(rig.exec, true);
        }
        if (recorded && s == 1) {
            recording = backend->capture_end(backend, QUEUE_COMPUTE);
        }
        if (recording >= 0) {
            exec_write_scalars(scalars, &run);
            backend->replay(backend, QUEUE_COMPUTE, recording);
        }
        exec_sync(rig.exec);
    }
    Snapshot *s = snapshot_take(&rig, g);
    if (recording >= 0) {
        backend->capture_free(backend, recording);
    }
    backend->free(backend, MEM_HOST, scalars);
    rig_close(&rig);
    return s;
}

static void test_cuda_capture(void **state)
{
    (void)state;
    enum { GRAPHS = 10 };
    Backend *backend = open_cuda();
    if (!backend) {
        skip();
    }
    static const DType types[] = {DT_F32, DT_BF16, DT_F16};
    for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
        Params params = {0};
        const RandomGraphOptions options = {
            .act = types[seed % 3], .backward = true, .sgd = true, .queues = QUEUE_COUNT};
        Graph g = random_graph_make(seed, &params, options);
        Snapshot *want = run_training(backend, &g, seed, false);
        Snapshot *got = run_training(backend, &g, seed, true);
        expect_close(got, want, g.batch - 1, 0, "capture", seed, NULL);
        snapshot_free(want);
        snapshot_free(got);
        graph_free(&g);
        params_free(&params);
    }
    printf("cuda: %d trainings, capture on = off\n", GRAPHS);
    backend_close(backend);
}

/* ---- One graph, looked at closely ---- */

typedef struct {
    Params params;
    Graph g;
    Backend *backend;
    Rig rig;
} Fixture;

enum { FIXTURE_SEED = 5 };

static void open_fixture(Fixture *f, RandomGraphOptions graph_options, const ExecOptions *options)
{
    memset(f, 0, sizeof *f);
    f->backend = open_backend("ref");
    f->g = random_graph_make(FIXTURE_SEED, &f->params, graph_options);
    Err *err = rig_open(&f->rig, f->backend, &f->g, options);
    if (err) {
        fail_msg("%s", err->message);
    }
    snapshot_write_inputs(&f->rig, &f->g, FIXTURE_SEED);
    snapshot_write_params(&f->rig, &f->params, FIXTURE_SEED);
    rig_refresh(&f->rig);
}

static void close_fixture(Fixture *f)
{
    rig_close(&f->rig);
    backend_close(f->backend);
    graph_free(&f->g);
    params_free(&f->params);
}

static void test_gradients_add_and_write(void **state)
{
    (void)state;
    Fixture f;
    open_fixture(&f, (RandomGraphOptions){.act = DT_F64, .backward = true}, NULL);
    rig_run(&f.rig, f.g.batch, 1, false, false);
    rig_run(&f.rig, f.g.batch, 1, false, false);
    Snapshot *once = snapshot_take(&f.rig, &f.g);
    rig_run(&f.rig, f.g.batch, 1, true, false);
    Snapshot *twice = snapshot_take(&f.rig, &f.g);
    int gradients = 0;
    for (int t = 0; t < once->count; t++) {
        if (!strstr(once->items[t].name, " gradient")) {
            continue;
        }
        for (size_t i = 0; i < once->items[t].elems; i++) {
            const double g = once->items[t].values[i];
            assert_true(fabs(twice->items[t].values[i] - 2 * g) <= 1e-12 * (1 + fabs(g)));
            gradients += g != 0;
        }
    }
    assert_true(gradients > 10);
    snapshot_free(once);
    snapshot_free(twice);
    close_fixture(&f);
}

static void test_running_statistics_on_demand(void **state)
{
    (void)state;
    Fixture f;
    open_fixture(&f, (RandomGraphOptions){.act = DT_F32, .backward = true}, NULL);
    Snapshot *before = snapshot_take(&f.rig, &f.g);
    rig_run(&f.rig, f.g.batch, 1, false, false);
    Snapshot *kept = snapshot_take(&f.rig, &f.g);
    rig_run(&f.rig, f.g.batch, 1, false, true);
    Snapshot *updated = snapshot_take(&f.rig, &f.g);
    int changed = 0;
    int statistics = 0;
    for (int t = 0; t < before->count; t++) {
        if (!strstr(before->items[t].name, "running")) {
            continue;
        }
        const size_t bytes = before->items[t].elems * sizeof(double);
        assert_memory_equal(before->items[t].values, kept->items[t].values, bytes);
        changed += memcmp(before->items[t].values, updated->items[t].values, bytes) != 0;
        statistics++;
    }
    assert_true(statistics > 0 && changed > 0);
    snapshot_free(before);
    snapshot_free(kept);
    snapshot_free(updated);
    close_fixture(&f);
}

/* ---- A backend that counts and refuses ---- */

typedef struct {
    Backend *ref;
    Op refused;
    size_t memory_limit; /* one allocation */
    int runs[OP_COUNT];
} Spy;

static Spy *spy_of(Backend *backend)
{
    return backend->state;
}

static Err *spy_prepare(Backend *backend, Step *step)
{
    if (step_node(step)->op == spy_of(backend)->refused) {
        return err_new(EXIT_USAGE_ERR, "cannot do this");
    }
    return spy_of(backend)->ref->prepare(spy_of(backend)->ref, step);
}

static void *spy_alloc(Backend *backend, MemKind kind, size_t bytes)
{
    const bool refused = bytes > spy_of(backend)->memory_limit;
    return refused ? NULL : spy_of(backend)->ref->alloc(spy_of(backend)->ref, kind, bytes);
}

static void spy_run(Backend *backend, Queue queue, const Step *step, const RunArgs *args)
{
    spy_of(backend)->runs[step_node(step)->op]++;
    spy_of(backend)->ref->run(spy_of(backend)->ref, queue, step, args);
}

static void spy_upload(Backend *backend, Queue queue, void *dst, const void *src, size_t bytes)
{
    spy_of(backend)->ref->upload(spy_of(backend)->ref, queue, dst, src, bytes);
}

static void spy_sync(Backend *backend, Queue queue)
{
    spy_of(backend)->ref->sync(spy_of(backend)->ref, queue);
}

static void spy_record(Backend *backend, Queue queue, int event)
{
    spy_of(backend)->ref->record(spy_of(backend)->ref, queue, event);
}

static void spy_wait(Backend *backend, Queue queue, int event)
{
    spy_of(backend)->ref->wait(spy_of(backend)->ref, queue, event);
}

static int spy_event(Backend *backend)
{
    return spy_of(backend)->ref->event(spy_of(backend)->ref);
}

static Backend spy_make(Spy *spy)
{
    Backend backend = *spy->ref;
    backend.state = spy;
    backend.prepare = spy_prepare;
    backend.alloc = spy_alloc;
    backend.run = spy_run;
    backend.upload = spy_upload;
    backend.sync = spy_sync;
    backend.record = spy_record;
    backend.wait = spy_wait;
    backend.event = spy_event;
    return backend;
}

static void test_refused_step_is_named(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = random_graph_make(1, &params, (RandomGraphOptions){.act = DT_F32});
    Spy spy = {.ref = open_backend("ref"), .refused = OP_LINEAR, .memory_limit = SIZE_MAX};
    Backend backend = spy_make(&spy);
    Exec *exec = NULL;
    Err *err = exec_open(&backend, &g, NULL, &exec);
    assert_non_null(err);
    assert_null(exec);
    assert_int_equal(err->code, EXIT_USAGE_ERR);
    assert_non_null(strstr(err->message, "linear"));
    assert_non_null(strstr(err->message, "cannot do this"));
    err_free(err);
    backend_close(spy.ref);
    graph_free(&g);
    params_free(&params);
}

static void test_out_of_memory_tells_sizes(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = random_graph_make(1, &params, (RandomGraphOptions){.act = DT_F32});
    Spy spy = {.ref = open_backend("ref"), .refused = OP_COUNT, .memory_limit = 0};
    Backend backend = spy_make(&spy);
    Exec *exec = NULL;
    Err *err = exec_open(&backend, &g, NULL, &exec);
    assert_non_null(err);
    assert_null(exec);
    assert_int_equal(err->code, EXIT_DEVICE_MEMORY);
    assert_non_null(strstr(err->message, "MiB"));
    err_free(err);
    backend_close(spy.ref);
    graph_free(&g);
    params_free(&params);
}

/* conv -> BN (eval), once frozen and once trained; its weights-stage nodes run in exec_refresh
 * only. */
static void test_refresh_follows_training(void **state)
{
    (void)state;
    static const ParamRole roles[4] = {ROLE_BN_WEIGHT, ROLE_BN_BIAS, ROLE_RUNNING_MEAN,
                                       ROLE_RUNNING_VAR};
    Params params = {0};
    const int channels = 2;
    char name[32];
    for (int net = 0; net < 2; net++) {
        snprintf(name, sizeof name, "w%d", net);
        params_add(&params, name, ROLE_CONV_WEIGHT, 4, (int[]){2, 2, 1, 1}, net == 1, INIT_ONE, 0);
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "bn%d.%d", net, i);
            params_add(&params, name, roles[i], 1, &channels, net == 1, INIT_ONE, 0);
        }
    }
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, 1, DT_F32);
    int y = graph_input(&g, "x", DT_F32, 1, 2, 2, 2, true);
    for (int net = 0; net < 2; net++) {
        snprintf(name, sizeof name, "conv%d", net);
        y = graph_conv(&g, name, y, 5 * net, -1, 1, 0, 1);
        snprintf(name, sizeof name, "norm%d", net);
        y = graph_bn(&g, name, y, 5 * net + 1, BN_EVAL, 1e-5F, 0.1F);
    }
    graph_output(&g, y, "y");
    Spy spy = {.ref = open_backend("ref"), .refused = OP_COUNT, .memory_limit = SIZE_MAX};
    Backend backend = spy_make(&spy);
    Rig rig;
    assert_null(rig_open(&rig, &backend, &g, NULL));
    exec_refresh(rig.exec, false);
    assert_int_equal(spy.runs[OP_FOLD_BN], 2);
    exec_refresh(rig.exec, true);
    assert_int_equal(spy.runs[OP_FOLD_BN], 3);
    rig_run(&rig, 1, 1, false, false);
    assert_int_equal(spy.runs[OP_FOLD_BN], 3);
    assert_int_equal(spy.runs[OP_CONV], 2);
    assert_int_equal(spy.runs[OP_BN_APPLY], 0);
    rig_close(&rig);
    backend_close(spy.ref);
    graph_free(&g);
    params_free(&params);
}

static void test_times_and_sizes(void **state)
{
    (void)state;
    Fixture f;
    const ExecOptions options = {.time_steps = true};
    open_fixture(&f, (RandomGraphOptions){.act = DT_F32, .backward = true}, &options);
    rig_run(&f.rig, f.g.batch, 1, false, true);
    rig_run(&f.rig, f.g.batch, 1, false, true);
    const ExecStepTime *times = NULL;
    const int count = exec_times(f.rig.exec, &times);
    assert_int_equal(count, exec_plan(f.rig.exec)->n_steps);
    double seconds = 0;
    for (int i = 0; i < count; i++) {
        assert_int_equal(times[i].runs, 2);
        seconds += times[i].seconds;
    }
    assert_true(seconds > 0);
    assert_true(exec_bytes(f.rig.exec, ARENA_ACT) > 0 &&
                exec_bytes(f.rig.exec, ARENA_WORKSPACE) > 0);
    size_t bytes = 0;
    assert_non_null(exec_tensor(f.rig.exec, "logits", &bytes));
    assert_int_equal(bytes, (size_t)f.g.batch * RANDOM_GRAPH_CLASSES * sizeof(float));
    assert_null(exec_tensor(f.rig.exec, "no such tensor", NULL));
    close_fixture(&f);
}

/* Two graphs that never run at once share one ACT and one WORKSPACE. */
static void test_shared_scratch(void **state)
{
    (void)state;
    Backend *backend = open_backend("ref");
    Params params[2] = {{0}, {0}};
    Graph g[2];
    Rig rig[2];
    size_t act = 0;
    size_t workspace = 0;
    const ExecOptions options = {.shared_scratch = true, .poison = true};
    for (int i = 0; i < 2; i++) {
        g[i] = random_graph_make((uint64_t)i + 3, &params[i],
                                 (RandomGraphOptions){.act = DT_F32, .backward = true});
        assert_null(rig_open(&rig[i], backend, &g[i], &options));
        act = act > exec_bytes(rig[i].exec, ARENA_ACT) ? act : exec_bytes(rig[i].exec, ARENA_ACT);
        const size_t need = exec_bytes(rig[i].exec, ARENA_WORKSPACE);
        workspace = workspace > need ? workspace : need;
    }
    void *scratch[2] = {backend->alloc(backend, MEM_DEVICE, act),
                        backend->alloc(backend, MEM_DEVICE, workspace)};
    for (int i = 0; i < 2; i++) {
        exec_bind(rig[i].exec, ARENA_ACT, scratch[0]);
        exec_bind(rig[i].exec, ARENA_WORKSPACE, scratch[1]);
        snapshot_write_inputs(&rig[i], &g[i], 1);
        snapshot_write_params(&rig[i], &params[i], 1);
        rig_refresh(&rig[i]);
    }
    for (int i = 0; i < 2; i++) {
        rig_run(&rig[i], g[i].batch, 1.0F / (float)g[i].batch, false, true);
    }
    for (int i = 0; i < 2; i++) {
        const ExecOptions own = {0};
        Snapshot *got = snapshot_take(&rig[i], &g[i]);
        Snapshot *want = snapshot_run(backend, &g[i], &own, g[i].batch, 1, NULL, NULL);
        expect_close(got, want, g[i].batch, 0, "shared scratch", (uint64_t)i, NULL);
        snapshot_free(got);
        snapshot_free(want);
        rig_close(&rig[i]);
        graph_free(&g[i]);
        params_free(&params[i]);
    }
    backend->free(backend, MEM_DEVICE, scratch[0]);
    backend->free(backend, MEM_DEVICE, scratch[1]);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref_double),
        cmocka_unit_test(test_ref_fp32),
        cmocka_unit_test(test_ref_bf16),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_gradients_add_and_write),
        cmocka_unit_test(test_running_statistics_on_demand),
        cmocka_unit_test(test_refused_step_is_named),
        cmocka_unit_test(test_out_of_memory_tells_sizes),
        cmocka_unit_test(test_refresh_follows_training),
        cmocka_unit_test(test_times_and_sizes),
        cmocka_unit_test(test_shared_scratch),
    };
    const struct CMUnitTest on_cuda[] = {
        cmocka_unit_test(test_cuda),
        cmocka_unit_test(test_cuda_weight_copies),
        cmocka_unit_test(test_cuda_two_types),
        cmocka_unit_test(test_cuda_capture),
    };
    return cuda_wanted() ? cmocka_run_group_tests(on_cuda, NULL, NULL)
                         : cmocka_run_group_tests(tests, NULL, NULL);
}
