/* `cudistill bench op`: arguments, the loop over the points of the axes, the table that people read. */
#include "bench/command_bench.h"

#include "base/files.h"
#include "base/log.h"
#include "bench/records.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, MAX_BUFFER_MIB = 1 << 16, HELP_WIDTH = 18 };

static const double DEFAULT_TOLERANCE = 0.1;

typedef struct {
    const BenchOp *op;
    AxisValues axes[BENCH_MAX_AXES];
    unsigned dtypes;
    bool dtypes_given, list, help, graph, warm, cold;
    const char *device, *json, *baseline;
    const char *axis_texts[BENCH_MAX_AXES * 4];
    int n_axis_texts;
    const char *dtype_text;
    int threads, buffer_mib;
    double tolerance, min_time_s;
} BenchArgs;

typedef struct {
    const BenchArgs *args;
    Backend *backend;
    DeviceInfo info;
    Measure *measure;
    Baseline baseline;
    char *lines; /* of --json */
    int measured, slower, compared;
    Err *refused; /* why the first point was left out */
} Bench;

/* ---- Help ---- */

static void print_bench_help(void)
{
    printf(
        "usage: cudistill bench op NAME [options]\n"
        "       cudistill bench --list\n\n"
        "Times one operation on a device, for every combination of the values of its axes.\n\n"
        "  --axis NAME=V,V...     values of an axis; the others keep their defaults\n"
        "  --dtype T,T...         fp32, bf16, fp16 (default: what the device is made for)\n"
        "  --device D             cpu (default), ref or cuda\n"
        "  --cache warm|cold|both caches as the run before left them, or flushed before each run\n"
        "                         (default both)\n"
        "  --graph                replay runs that were recorded once (cuda)\n"
        "  --json FILE            also write the results as JSON lines\n"
        "  --baseline FILE        compare with such a file; exit code %d when something is slower\n"
        "  --tolerance X          ... by more than this share (default %g)\n"
        "  --min-time S           seconds to sample each point (default 0.5)\n"
        "  --buffer MIB           size of the buffer that flushes the caches and of the copy that\n"
        "                         speeds are compared with (default: twice the last-level cache)\n"
        "  --threads N            of the cpu device (default: as many as it may use)\n"
        "  --list                 the operations with their axes, defaults and bytes\n\n"
        "of copy: bytes a second, as a share of those of a plain copy in the same run.\n"
        "noise: (90th - 10th percentile) / median.\n\n"
        "examples:\n"
        "  cudistill bench op distill --axis B=64,1024 --axis C=100,1000,21843 --dtype bf16,fp32\n"
        "  cudistill bench op conv --axis C=16 --axis O=16 --axis H=32 --cache cold\n"
        "  cudistill bench op sgd --device cuda --graph --json now.json --baseline before.json\n",
        EXIT_SLOWER, DEFAULT_TOLERANCE);
}

static void print_dtypes(unsigned dtypes)
{
    const char *comma = "";
    for (int d = 0; d < DT_COUNT; d++) {
        if (dtypes >> d & 1) {
            printf("%s%s", comma, problem_dtype((DType)d));
            comma = ",";
        }
    }
}

static void print_op(const BenchOp *op)
{
    printf("%-*s %s\n", HELP_WIDTH, op->name, op->help);
    for (int a = 0; a < problem_axes(op); a++) {
        const BenchAxis *axis = &op->axes[a];
        printf("%-*s   --axis %s=%s  %s%s%s%s\n", HELP_WIDTH, "", axis->name, axis->fallback,
               axis->help, axis->choices ? " (" : "", axis->choices ? axis->choices : "",
               axis->choices ? ")" : "");
    }
    printf("%-*s   --dtype ", HELP_WIDTH, "");
    print_dtypes(op->dtypes);
    printf("%s\n%-*s   bytes: %s\n", op->wide_logits ? "  (16 bits on cuda only)" : "", HELP_WIDTH,
           "", op->formula);
}

static void print_list(void)
{
    int count = 0;
    const BenchOp *ops = problem_list(&count);
    for (int i = 0; i < count; i++) {
        print_op(&ops[i]);
    }
}

/* ---- Arguments ---- */

static Err *parse_whole(const char *option, const char *text, int most, int *out)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 1 || value > most) {
        return err_new(EXIT_USAGE_ERR, "--%s %s: a whole number from 1 to %d is needed", option,
                       text, most);
    }
    *out = (int)value;
    return NULL;
}

static Err *parse_real(const char *option, const char *text, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out >= 0) || *out > most) {
        return err_new(EXIT_USAGE_ERR, "--%s %s: a number from 0 to %g is needed", option, text,
                       most);
    }
    return NULL;
}

static Err *parse_cache(const char *text, BenchArgs *args)
{
    args->warm = strcmp(text, "warm") == 0 || strcmp(text, "both") == 0;
    args->cold = strcmp(text, "cold") == 0 || strcmp(text, "both") == 0;
    return args->warm || args->cold
               ? NULL
               : err_new(EXIT_USAGE_ERR, "--cache %s: warm, cold or both", text);
}

static Err *parse_bench_option(int option, const char *value, BenchArgs *args)
{
    static const double most_seconds = 3600;
    switch (option) {
    case 'a':
        if (args->n_axis_texts == BENCH_MAX_AXES * 4) {
            return err_new(EXIT_USAGE_ERR, "--axis %s: too many of them", value);
        }
        args->axis_texts[args->n_axis_texts++] = value;
        return NULL;
    case 't':
        args->dtype_text = value;
        return NULL;
    case 'd':
        args->device = value;
        return NULL;
    case 'c':
        return parse_cache(value, args);
    case 'g':
        args->graph = true;
        return NULL;
    case 'j':
        args->json = value;
        return NULL;
    case 'b':
        args->baseline = value;
        return NULL;
    case 'o':
        return parse_real("tolerance", value, 1e6, &args->tolerance);
    case 'm':
        return parse_real("min-time", value, most_seconds, &args->min_time_s);
    case 'u':
        return parse_whole("buffer", value, MAX_BUFFER_MIB, &args->buffer_mib);
    case 'n':
        return parse_whole("threads", value, MAX_BUFFER_MIB, &args->threads);
    case 'l':
        args->list = true;
        return NULL;
    case 'h':
        args->help = true;
        return NULL;
    default:
        return err_new(EXIT_USAGE_ERR, "'cudistill bench --help' shows the options of bench");
    }
}

static Err *parse_dtypes(BenchArgs *args)
{
    static const DType known[] = {DT_F32, DT_BF16, DT_F16};
    for (const char *at = args->dtype_text; at;) {
        const size_t length = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < 3; i++) {
            const char *name = problem_dtype(known[i]);
            found = strlen(name) == length && strncmp(name, at, length) == 0 ? i : found;
        }
        if (found < 0) {
            return err_new(EXIT_USAGE_ERR, "--dtype %s: fp32, bf16 and fp16 with commas",
                           args->dtype_text);
        }
        args->dtypes |= 1u << known[found];
        at = at[length] ? at + length + 1 : NULL;
    }
    args->dtypes_given = args->dtypes != 0;
    return NULL;
}

static int find_axis(const BenchOp *op, const char *name, size_t length)
{
    for (int a = 0; a < problem_axes(op); a++) {
        if (strlen(op->axes[a].name) == length && strncmp(op->axes[a].name, name, length) == 0) {
            return a;
        }
    }
    return -1;
}

static Err *unknown_axis(const BenchOp *op, const char *text)
{
    char names[256] = "";
    for (int a = 0; a < problem_axes(op); a++) {
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", a ? ", " : "", op->axes[a].name);
    }
    return err_new(EXIT_USAGE_ERR, "--axis %s: op %s has the axes %s, as --axis %s=%s", text,
                   op->name, names, op->axes[0].name, op->axes[0].fallback);
}

static Err *parse_axes(BenchArgs *args)
{
    const BenchOp *op = args->op;
    for (int a = 0; a < problem_axes(op); a++) {
        TRY(axis_parse(op, a, op->axes[a].fallback, &args->axes[a]));
    }
    for (int i = 0; i < args->n_axis_texts; i++) {
        const char *text = args->axis_texts[i];
        const size_t length = strcspn(text, "=");
        const int axis = text[length] ? find_axis(op, text, length) : -1;
        if (axis < 0) {
            return unknown_axis(op, text);
        }
        TRY(axis_parse(op, axis, text + length + 1, &args->axes[axis]));
    }
    return NULL;
}

static Err *parse_bench(int argc, char **argv, BenchArgs *args)
{
    static const struct option options[] = {
        {"axis", required_argument, NULL, 'a'},     {"dtype", required_argument, NULL, 't'},
        {"device", required_argument, NULL, 'd'},   {"cache", required_argument, NULL, 'c'},
        {"graph", no_argument, NULL, 'g'},          {"json", required_argument, NULL, 'j'},
        {"baseline", required_argument, NULL, 'b'}, {"tolerance", required_argument, NULL, 'o'},
        {"min-time", required_argument, NULL, 'm'}, {"buffer", required_argument, NULL, 'u'},
        {"threads", required_argument, NULL, 'n'},  {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        TRY(parse_bench_option(option, optarg, args));
    }
    if (args->list || args->help) {
        return NULL;
    }
    if (argc - optind != 2 || strcmp(argv[optind], "op") != 0) {
        return err_new(EXIT_USAGE_ERR,
                       "usage: cudistill bench op NAME [options]; 'cudistill bench "
                       "--help' explains, 'cudistill bench --list' shows the names");
    }
    TRY(problem_find(argv[optind + 1], &args->op));
    TRY(parse_dtypes(args));
    return parse_axes(args);
}

/* ---- Measuring ---- */

static void print_head(const Bench *bench)
{
    const BenchOp *op = bench->args->op;
    printf("%s on %s: %s, %s; copy %.1f GB/s, clock: %s\n", op->name, bench->backend->name,
           bench->info.name, bench->info.library, measure_copy_speed(bench->measure) * 1e-9,
           measure_clock(bench->measure));
    for (int a = 0; a < problem_axes(op); a++) {
        printf("%9s ", op->axes[a].name);
    }
    printf("%5s %5s %11s %11s %11s %6s %9s %7s %9s%s\n", "dtype", "cache", "median us", "10 %",
           "90 %", "noise", "GB/s", "of copy", "GFLOP/s", bench->args->baseline ? "  vs base" : "");
}

static void print_record(const Bench *bench, const BenchRecord *r, double base)
{
    const BenchOp *op = r->point.op;
    for (int a = 0; a < problem_axes(op); a++) {
        char value[BENCH_TEXT];
        axis_text(&op->axes[a], r->point.value[a], value, sizeof value);
        printf("%9s ", value);
    }
    const double speed = record_bytes_per_s(r);
    printf("%5s %5s %11.2f %11.2f %11.2f %5.1f%% %9.2f %6.1f%% ", problem_dtype(r->point.dtype),
           r->cold ? "cold" : "warm", r->timing.median * 1e6, r->timing.p10 * 1e6,
           r->timing.p90 * 1e6, 100 * r->timing.noise, speed * 1e-9, 100 * speed / r->copy_speed);
    if (r->flops > 0) {
        printf("%9.1f", r->flops / r->timing.median * 1e-9);
    } else {
        printf("%9s", "-");
    }
    if (bench->args->baseline && base > 0) {
        const bool slower = baseline_slower(r->timing.median, base, bench->args->tolerance);
        printf("  %+7.1f%%%s", 100 * (r->timing.median / base - 1), slower ? " SLOWER" : "");
    } else if (bench->args->baseline) {
        printf("  %8s", "none");
    }
    printf("\n");
    fflush(stdout);
}

static void keep_record(Bench *bench, const BenchRecord *r)
{
    char *name = record_case(r);
    const double base =
        baseline_find(&bench->baseline, name, bench->info.name, bench->info.threads);
    print_record(bench, r, base);
    bench->compared += base > 0;
    bench->slower += base > 0 && baseline_slower(r->timing.median, base, bench->args->tolerance);
    bench->measured++;
    free(name);
    if (bench->args->json) {
        char *line = record_json(r, bench->backend->name, &bench->info);
        char *longer = xformat("%s%s\n", bench->lines ? bench->lines : "", line);
        free(bench->lines);
        free(line);
        bench->lines = longer;
    }
}

/* A point that cannot be had is said and left out. */
static void leave_out(Bench *bench, const BenchPoint *point, Err *err)
{
    const BenchRecord r = {.point = *point};
    char *name = record_case(&r);
    log_warn("left out: %.*s: %s", (int)(strlen(name) - strlen(" warm")), name, err->message);
    free(name);
    if (bench->refused) {
        err_free(err);
    } else {
        bench->refused = err;
    }
}

static void measure_point(Bench *bench, const BenchPoint *point)
{
    const BenchArgs *args = bench->args;
    const char *wrong = point->op->wrong ? point->op->wrong(point) : NULL;
    BenchLab *lab = NULL;
    Err *err = wrong ? err_new(EXIT_USAGE_ERR, "%s", wrong) : lab_open(bench->backend, point, &lab);
    if (err) {
        leave_out(bench, point, err);
        return;
    }
    for (int cold = 0; cold < 2; cold++) {
        if (!(cold ? args->cold : args->warm)) {
            continue;
        }
        const MeasureOptions options = {
            .cold = cold, .graph = args->graph, .min_time_s = args->min_time_s};
        const BenchRecord record = {.point = *point,
                                    .cold = cold,
                                    .graph = args->graph,
                                    .clock = measure_clock(bench->measure),
                                    .timing = measure_run(bench->measure, lab, &options),
                                    .bytes = lab_problem(lab)->bytes,
                                    .flops = lab_problem(lab)->flops,
                                    .copy_speed = measure_copy_speed(bench->measure)};
        keep_record(bench, &record);
    }
    lab_close(lab);
}

/* What was asked for, or what the op and the device have. */
static unsigned chosen_dtypes(const Bench *bench)
{
    const BenchOp *op = bench->args->op;
    const bool numbers = op->dtypes & 1u << DT_F32;
    if (bench->args->dtypes_given && numbers) {
        return bench->args->dtypes;
    }
    unsigned dtypes = op->dtypes;
    const bool halves = !op->wide_logits || strcmp(bench->backend->name, "cuda") == 0;
    if (numbers && !(bench->info.bf16 && halves)) {
        dtypes &= ~(1u << DT_BF16);
    }
    if (numbers && !(bench->info.fp16 && halves)) {
        dtypes &= ~(1u << DT_F16);
    }
    return dtypes;
}

static void measure_all(Bench *bench)
{
    static const DType order[] = {DT_F32, DT_BF16, DT_F16, DT_U8};
    const BenchOp *op = bench->args->op;
    const unsigned dtypes = chosen_dtypes(bench);
    for (size_t d = 0; d < sizeof order / sizeof order[0]; d++) {
        if (!(dtypes >> order[d] & 1)) {
            continue;
        }
        for (int i = 0; i < problem_points(op, bench->args->axes); i++) {
            const BenchPoint point = problem_point(op, bench->args->axes, i, order[d]);
            if (op->dtypes >> order[d] & 1) {
                measure_point(bench, &point);
            } else {
                leave_out(bench, &point,
                          err_new(EXIT_USAGE_ERR, "op %s has no such type", op->name));
            }
        }
    }
}

static Err *verdict(Bench *bench)
{
    if (bench->measured == 0) {
        Err *err = bench->refused;
        bench->refused = NULL;
        return err_context(err, "nothing could be measured");
    }
    if (bench->args->baseline && bench->compared == 0) {
        log_warn("%s has none of these cases for %s with %d threads", bench->args->baseline,
                 bench->info.name, bench->info.threads);
    }
    if (bench->slower > 0) {
        return err_new(
            (ExitCode)EXIT_SLOWER,
            "%d of %d cases are more than %g %% slower than in %s; noise? then run again "
            "with a longer --min-time or a larger --tolerance",
            bench->slower, bench->compared, 100 * bench->args->tolerance, bench->args->baseline);
    }
    return NULL;
}

static Err *run_bench(Bench *bench, Choices *choices)
{
    const BenchArgs *args = bench->args;
    if (args->baseline) {
        TRY(baseline_load(args->baseline, &bench->baseline));
    }
    TRY(backend_open(args->device, &(BackendOptions){.threads = args->threads, .choices = choices},
                     &bench->backend));
    if (args->graph && !bench->backend->capture_begin) {
        return err_new(EXIT_USAGE_ERR,
                       "--graph: device %s records no graphs; leave it out or use "
                       "--device cuda",
                       args->device);
    }
    bench->backend->info(bench->backend, &bench->info);
    TRY(measure_open(bench->backend, (size_t)args->buffer_mib * MIB, &bench->measure));
    print_head(bench);
    measure_all(bench);
    if (args->json && bench->lines) {
        TRY(file_write_atomic(args->json, bench->lines, strlen(bench->lines)));
    }
    return verdict(bench);
}

Err *command_bench(int argc, char **argv)
{
    BenchArgs args = {.device = "cpu", .tolerance = DEFAULT_TOLERANCE, .warm = true, .cold = true};
    TRY(parse_bench(argc, argv, &args));
    if (args.help) {
        print_bench_help();
        return NULL;
    }
    if (args.list) {
        print_list();
        return NULL;
    }
    Choices choices = {0};
    Bench bench = {.args = &args};
    Err *err = run_bench(&bench, &choices);
    measure_close(bench.measure);
    backend_close(bench.backend);
    baseline_free(&bench.baseline);
    choices_free(&choices);
    err_free(bench.refused);
    free(bench.lines);
    return err;
}
