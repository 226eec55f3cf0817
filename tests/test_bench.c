/* `cudistill bench`: arguments, formulas, statistics, JSON and baselines, and short real runs on the host. Speeds are not
 * looked at: they belong to the machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/files.h"
#include "bench/bench_op.h"
#include "bench/records.h"
#include "cli/commands.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const BenchOp *find_op(const char *name)
{
    const BenchOp *op = NULL;
    assert_null(problem_find(name, &op));
    return op;
}

static void expect_error(Err *err, ExitCode code, const char *says)
{
    assert_non_null(err);
    if (err->code != code || !strstr(err->message, says)) {
        fail_msg("%d: %s (wanted %d: %s)", (int)err->code, err->message, (int)code, says);
    }
    err_free(err);
}

/* ---- Axes ---- */

static void test_axes(void **state)
{
    (void)state;
    const BenchOp *op = find_op("distill");
    AxisValues v[BENCH_MAX_AXES];
    assert_null(axis_parse(op, 0, "64,1024,7", &v[0]));
    assert_int_equal(v[0].count, 3);
    assert_int_equal(v[0].values[2], 7);
    assert_null(axis_parse(op, 1, "100,1000", &v[1]));
    assert_null(axis_parse(op, 2, "kd,ce", &v[2]));
    assert_int_equal(problem_points(op, v), 12);
    /* The last axis changes fastest. */
    const BenchPoint second = problem_point(op, v, 1, DT_BF16);
    assert_int_equal(second.value[0], 64);
    assert_int_equal(second.value[1], 100);
    char text[BENCH_TEXT];
    axis_text(&op->axes[2], second.value[2], text, sizeof text);
    assert_string_equal(text, "ce");
    const BenchPoint last = problem_point(op, v, 11, DT_F32);
    assert_int_equal(last.value[0], 7);
    assert_int_equal(last.value[1], 1000);
    static const char *const bad[] = {"",    "0",    "-1", "1.5",         "64,", ",64",
                                      "64 ", "many", "1x", "99999999999", "+4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        expect_error(axis_parse(op, 0, bad[i], &v[0]), EXIT_USAGE_ERR, "whole numbers");
    }
    expect_error(axis_parse(op, 1, "1", &v[0]), EXIT_USAGE_ERR, "from 2");
    expect_error(axis_parse(op, 2, "kd,kdd", &v[0]), EXIT_USAGE_ERR, "energy_kd");
    expect_error(axis_parse(op, 2, "k", &v[0]), EXIT_USAGE_ERR, "ce|kd");
}

/* ---- Formulas ---- */

/* First values of the defaults, so that everything is small enough to build. */
static BenchPoint default_point(const BenchOp *op, DType dtype)
{
    AxisValues v[BENCH_MAX_AXES];
    for (int a = 0; a < problem_axes(op); a++) {
        assert_null(axis_parse(op, a, op->axes[a].fallback, &v[a]));
    }
    return problem_point(op, v, 0, dtype);
}

/* Bytes of what the node reads and writes that is not a vector by channel or by row; weights in the type of the
 * activations. */
static double bytes_of_node(const BenchProblem *p)
{
    const Node *node = &p->graph.nodes[p->node];
    double bytes = 0;
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        const int id = i < node->n_in ? node->in[i] : node->out[i - node->n_in];
        const Tensor *t = id >= 0 ? &p->graph.tensors[id] : NULL;
        if (!t || (t->h * t->w * t->c == 1) || (!t->batched && t->n * t->h * t->w == 1)) {
            continue;
        }
        const bool weight = t->kind == TENSOR_PARAM;
        bytes += (double)tensor_elems(t) * (double)dtype_size(weight ? p->graph.act : t->dtype);
    }
    return bytes;
}

static void test_formulas(void **state)
{
    (void)state;
    static const char *const whole[] = {
        "bn_stats", "bn_apply",   "bn_apply_add_relu", "bn_reduce", "bn_dx", "relu",
        "add",      "cast",       "avgpool",           "maxpool",   "image", "linear",
        "conv",     "conv_dgrad", "conv_wgrad"};
    static const DType dtypes[] = {DT_F32, DT_BF16, DT_F16};
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        for (int d = 0; d < 3; d++) {
            const BenchPoint point = default_point(find_op(whole[i]), dtypes[d]);
            BenchProblem p;
            problem_build(&point, &p);
            if (fabs(p.bytes - bytes_of_node(&p)) > 0.5) {
                fail_msg("%s %s: %.0f bytes, the node has %.0f", whole[i], problem_dtype(dtypes[d]),
                         p.bytes, bytes_of_node(&p));
            }
            problem_free(&p);
        }
    }
}

static void test_formulas_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        int value[BENCH_MAX_AXES];
        DType dtype;
        double bytes, flops;
    } cases[] = {{"distill", {64, 100, 1}, DT_BF16, 3 * 64 * 100 * 2, 0},
                 {"distill", {8, 10, 0}, DT_F32, 2 * 8 * 10 * 4, 0},
                 {"sgd", {1000}, DT_F32, 20000, 0},
                 {"grad_norm", {1000}, DT_F32, 4000, 0},
                 {"views", {4, 32, 10}, DT_U8, 4 * 32 * 32 * 6, 0},
                 {"gather", {4, 100, 10}, DT_F16, 2 * 4 * 100 * 2, 0},
                 {"linear", {4, 8, 3}, DT_F32, (4 * 8 + 8 * 3 + 4 * 3) * 4, 2 * 4 * 8 * 3},
                 /* 5 x 5 to 3 x 3 by stride 2 */
                 {"conv",
                  {2, 5, 4, 6, 3, 2},
                  DT_BF16,
                  (2 * 25 * 4 + 9 * 4 * 6 + 2 * 9 * 6) * 2,
                  2 * 2 * 9 * 6 * 9 * 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        BenchPoint point = {.op = find_op(cases[i].op), .dtype = cases[i].dtype};
        memcpy(point.value, cases[i].value, sizeof point.value);
        BenchProblem p;
        problem_build(&point, &p);
        assert_true(p.bytes == cases[i].bytes);
        assert_true(p.flops == cases[i].flops);
        problem_free(&p);
    }
}

static void test_impossible_points(void **state)
{
    (void)state;
    BenchPoint views = {.op = find_op("views"), .value = {8, 32, 4}, .dtype = DT_U8};
    assert_non_null(views.op->wrong(&views));
    views.value[2] = 8;
    assert_null(views.op->wrong(&views));
    BenchPoint pool = {.op = find_op("maxpool"), .value = {1, 4, 1, 5, 1}, .dtype = DT_F32};
    assert_non_null(pool.op->wrong(&pool));
    BenchPoint conv = {.op = find_op("conv"), .value = {1, 4, 1, 1, 2, 1}, .dtype = DT_F32};
    assert_non_null(conv.op->wrong(&conv));
}

/* ---- Statistics ---- */

static void test_summary(void **state)
{
    (void)state;
    double samples[11];
    for (int i = 0; i < 11; i++) {
        samples[i] = (i * 7 % 11) + 1; /* 1 to 11, mixed up */
    }
    const Timing t = measure_summary(samples, 11, 3);
    assert_true(t.median == 6 && t.p10 == 2 && t.p90 == 10);
    assert_true(fabs(t.noise - 8.0 / 6) < 1e-15);
    assert_int_equal(t.samples, 11);
    assert_int_equal(t.per_sample, 3);
    double two[2] = {4, 2};
    assert_true(measure_summary(two, 2, 1).median == 3);
    double one[1] = {5};
    assert_true(measure_summary(one, 1, 1).noise == 0);
}

/* ---- JSON and baselines ---- */

static BenchRecord example(double median)
{
    BenchRecord r = {.point = {.op = find_op("distill"), .value = {64, 100, 1}, .dtype = DT_BF16},
                     .cold = true,
                     .graph = true,
                     .clock = "events",
                     .bytes = 38400,
                     .copy_speed = 4e12};
    r.timing =
        (Timing){.median = median, .p10 = median, .p90 = median, .samples = 20, .per_sample = 1};
    return r;
}

static const DeviceInfo example_info = {
    .name = "GPU \"X\"", .library = "cuDNN 9.0, CUDA 13", .threads = 1};

static void test_json_round_trip(void **state)
{
    (void)state;
    char path[] = "/tmp/cudistill_bench_XXXXXX";
    close(mkstemp(path));
    FILE *file = fopen(path, "w");
    for (int i = 1; i <= 2; i++) {
        const BenchRecord r = example(i * 2.5e-6);
        char *line = record_json(&r, "cuda", &example_info);
        assert_null(strchr(line, '\n'));
        fprintf(file, "%s\n\n", line);
        free(line);
    }
    fclose(file);
    const BenchRecord r = example(1);
    char *name = record_case(&r);
    assert_string_equal(name, "distill B=64 C=100 method=kd bf16 cold graph");
    Baseline b;
    assert_null(baseline_load(path, &b));
    assert_int_equal(b.count, 2);
    assert_true(fabs(baseline_find(&b, name, example_info.name, 1) / 5e-6 - 1) < 1e-5);
    assert_true(baseline_find(&b, name, "another GPU", 1) == 0);
    assert_true(baseline_find(&b, name, example_info.name, 2) == 0);
    assert_true(baseline_find(&b, "distill B=64 C=100 method=kd bf16 cold", example_info.name, 1) ==
                0);
    baseline_free(&b);
    free(name);
    unlink(path);
}

static void test_slower(void **state)
{
    (void)state;
    assert_true(baseline_slower(1.11, 1, 0.1));
    assert_false(baseline_slower(1.09, 1, 0.1));
    assert_false(baseline_slower(0.5, 1, 0));
    assert_true(baseline_slower(1.0001, 1, 0));
}

static void test_bad_baselines(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"", "no measurements"},
               {"\n \n", "no measurements"},
               {"{\"case\":\"a\",\"device\":\"d\",\"median_s\":1}\nrubbish\n", ":2:"},
               {"{\"case\":\"a\",\"device\":\"d\"}", "median_s"},
               {"{\"case\":\"a\",\"device\":\"d\",\"median_s\":-1}", ":1:"},
               {"{\"case\":1,\"device\":\"d\",\"median_s\":1}", ":1:"},
               {"[1]", ":1:"}};
    char path[] = "/tmp/cudistill_bench_XXXXXX";
    close(mkstemp(path));
    Baseline b;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_null(file_write_atomic(path, bad[i].text, strlen(bad[i].text)));
        expect_error(baseline_load(path, &b), EXIT_BAD_DATA, bad[i].says);
        assert_int_equal(b.count, 0);
    }
    unlink(path);
    expect_error(baseline_load(path, &b), EXIT_NO_INPUT, path);
}

/* ---- Runs ---- */

static Backend *open_backend(const char *name)
{
    Backend *backend = NULL;
    assert_null(backend_open(name, &(BackendOptions){.threads = 1}, &backend));
    return backend;
}

/* The operation really runs on the values that are there. */
static void test_lab_computes(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "cpu"};
    enum { ROWS = 4, CLASSES = 10, ELEMS = ROWS * CLASSES };
    for (int b = 0; b < 2; b++) {
        Backend *backend = open_backend(names[b]);
        BenchLab *lab = NULL;
        const BenchPoint relu = {
            .op = find_op("relu"), .value = {ROWS, 1, CLASSES}, .dtype = DT_F32};
        assert_null(lab_open(backend, &relu, &lab));
        double x[ELEMS] = {0};
        double y[ELEMS] = {0};
        lab_submit(lab);
        assert_true(lab_read(lab, "x", x, ELEMS) && lab_read(lab, "y", y, ELEMS));
        int negative = 0;
        for (int i = 0; i < ELEMS; i++) {
            assert_true(y[i] == fmax(x[i], 0));
            negative += x[i] < 0;
        }
        assert_true(negative > 5 && negative < ELEMS - 5);
        assert_false(lab_read(lab, "no such tensor", y, 1));
        lab_close(lab);
        for (int method = 0; method < 6; method++) {
            const BenchPoint loss = {
                .op = find_op("distill"), .value = {ROWS, CLASSES, method}, .dtype = DT_F32};
            assert_null(lab_open(backend, &loss, &lab));
            lab_submit(lab);
            assert_true(lab_read(lab, "dz", y, ELEMS));
            for (int row = 0; row < ROWS; row++) { /* softmax gradients add up to nothing */
                double sum = 0;
                double size = 0;
                for (int c = 0; c < CLASSES; c++) {
                    sum += y[row * CLASSES + c];
                    size += fabs(y[row * CLASSES + c]);
                }
                assert_true(size > 1e-3 && fabs(sum) < 1e-5 * size);
            }
            lab_close(lab);
        }
        backend_close(backend);
    }
}

static void check_measurement(Backend *backend)
{
    Measure *m = NULL;
    assert_null(measure_open(backend, 1 << 20, &m));
    assert_true(measure_copy_speed(m) > 0 && isfinite(measure_copy_speed(m)));
    const BenchPoint point = {.op = find_op("add"), .value = {2, 8, 16}, .dtype = DT_F32};
    BenchLab *lab = NULL;
    assert_null(lab_open(backend, &point, &lab));
    for (int i = 0; i < (backend->capture_begin ? 4 : 2); i++) {
        const bool cold = i % 2 == 1;
        const MeasureOptions options = {.cold = cold, .graph = i >= 2, .min_time_s = 1e-3};
        const Timing t = measure_run(m, lab, &options);
        assert_true(t.p10 > 0 && t.p10 <= t.median && t.median <= t.p90 && t.median < 1);
        assert_true(t.samples >= 5 && (cold ? t.per_sample == 1 : t.per_sample >= 1));
    }
    lab_close(lab);
    measure_close(m);
}

static void test_measurement(void **state)
{
    (void)state;
    Backend *backend = open_backend("cpu");
    check_measurement(backend);
    backend_close(backend);
}

/* On a GPU or the emulated one: recorded runs, and logits of 16 bits, whose gradient must be that of fp32 logits but for
 * roundings: logits up to 12 are rounded by at most 2^-6 (bf16), which moves a softmax by 1.6 %, and the gradient by 2^-9
 * of its value: 2 % of the largest. fp16 has 8 times finer steps. */
static void test_cuda(void **state)
{
    (void)state;
    static const struct {
        DType dtype;
        double tolerance;
    } types[] = {{DT_BF16, 2e-2}, {DT_F16, 2.5e-3}};
    enum { ROWS = 5, CLASSES = 100, ELEMS = ROWS * CLASSES };
    Backend *backend = NULL;
    Err *err = backend_open("cuda", NULL, &backend);
    if (err) {
        printf("skipped: %s\n", err->message);
        err_free(err);
        skip();
    }
    check_measurement(backend);
    for (int method = 0; method < 6; method++) {
        double want[ELEMS];
        double got[ELEMS];
        BenchPoint loss = {
            .op = find_op("distill"), .value = {ROWS, CLASSES, method}, .dtype = DT_F32};
        BenchLab *lab = NULL;
        assert_null(lab_open(backend, &loss, &lab));
        lab_submit(lab);
        assert_true(lab_read(lab, "dz", want, ELEMS));
        lab_close(lab);
        for (int t = 0; t < 2; t++) {
            double largest = 0;
            double worst = 0;
            loss.dtype = types[t].dtype;
            assert_null(lab_open(backend, &loss, &lab));
            lab_submit(lab);
            assert_true(lab_read(lab, "dz", got, ELEMS));
            lab_close(lab);
            for (int i = 0; i < ELEMS; i++) {
                largest = fmax(largest, fabs(want[i]));
                worst = fmax(worst, fabs(got[i] - want[i]));
            }
            printf("distill method %d %s: %.0f %% of the tolerance\n", method,
                   problem_dtype(types[t].dtype), 100 * worst / (types[t].tolerance * largest));
            assert_true(largest > 0 && worst > 0 && worst <= types[t].tolerance * largest);
        }
    }
    backend_close(backend);
}

/* ---- The command ---- */

enum { MAX_WORDS = 24 };

static Err *run_command(const char *words)
{
    char text[512];
    snprintf(text, sizeof text, "bench %s", words);
    char *argv[MAX_WORDS + 1];
    int argc = 0;
    for (char *word = strtok(text, " "); word && argc < MAX_WORDS; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return args_run(&command_bench, "cudistill bench", argc, argv);
}

static void test_command_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *words, *says;
    } cases[] = {{"", "a command is missing: op"},
                 {"op", "NAME is missing"},
                 {"ops relu", "did you mean 'op'?"},
                 {"op relu add", "unexpected argument 'add'"},
                 {"op distil", "distill"},
                 {"op relu --axis D=3", "B, H, C"},
                 {"op relu --axis B", "B, H, C"},
                 {"op relu --axis B=x", "whole numbers"},
                 {"op relu --dtype fp8", "bf16"},
                 {"op relu --dtype fp32,", "bf16"},
                 {"op relu --tolerance -1", "--tolerance"},
                 {"op relu --min-time soon", "--min-time"},
                 {"op relu --buffer 0", "--buffer"},
                 {"op relu --cache hot", "warm"},
                 {"op relu --colour", "--help"},
                 {"op relu --device tpu", "cpu, ref or cuda"},
                 {"op relu --device cpu --graph", "--graph"},
                 {"op conv --axis K=2 --buffer 1", "odd"},
                 {"op distill --dtype bf16 --buffer 1", "--device cuda"},
                 {"op sgd --dtype bf16 --buffer 1", "no such type"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_error(run_command(cases[i].words), EXIT_USAGE_ERR, cases[i].says);
    }
    expect_error(run_command("op relu --baseline /nonexistent/b.json"), EXIT_NO_INPUT, "baseline");
    assert_null(run_command("op --list"));
    assert_null(run_command("--help"));
}

/* A file with the medians of another one times `factor`. */
static void scale_medians(const char *from, const char *to, double factor)
{
    Baseline b;
    assert_null(baseline_load(from, &b));
    FILE *file = fopen(to, "w");
    for (int i = 0; i < b.count; i++) {
        fprintf(file, "{\"case\":\"%s\",\"device\":\"%s\",\"threads\":%d,\"median_s\":%.9g}\n",
                b.entries[i].name, b.entries[i].device, b.entries[i].threads,
                factor * b.entries[i].median_s);
    }
    fclose(file);
    baseline_free(&b);
}

static void test_regression(void **state)
{
    (void)state;
    char dir[] = "/tmp/cudistill_bench_XXXXXX";
    assert_non_null(mkdtemp(dir));
    char now[64];
    char base[64];
    char words[400];
    snprintf(now, sizeof now, "%s/now.json", dir);
    snprintf(base, sizeof base, "%s/base.json", dir);
    static const char *const run = "op relu --axis B=2 --axis H=4 --axis C=8,16 --dtype fp32 "
                                   "--threads 1 --buffer 1 --min-time 0.001";
    snprintf(words, sizeof words, "%s --json %s", run, now);
    assert_null(run_command(words));
    Baseline b;
    assert_null(baseline_load(now, &b));
    assert_int_equal(b.count, 4); /* two sizes, warm and cold */
    baseline_free(&b);
    /* A thousand times as fast and as slow: beyond any noise. */
    scale_medians(now, base, 1e-3);
    snprintf(words, sizeof words, "%s --baseline %s", run, base);
    expect_error(run_command(words), (ExitCode)EXIT_SLOWER, "4 of 4");
    scale_medians(now, base, 1e3);
    assert_null(run_command(words));
    dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_axes),
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_formulas_by_hand),
        cmocka_unit_test(test_impossible_points),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_json_round_trip),
        cmocka_unit_test(test_slower),
        cmocka_unit_test(test_bad_baselines),
        cmocka_unit_test(test_lab_computes),
        cmocka_unit_test(test_measurement),
        cmocka_unit_test(test_cuda),
        cmocka_unit_test(test_command_refuses),
        cmocka_unit_test(test_regression),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
