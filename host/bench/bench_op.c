/* `bench op`: the loop over the points of the axes and the table that people read. */
#include "bench/bench_op.h"

#include "base/files.h"
#include "base/log.h"
#include "bench/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, HELP_WIDTH = 18 };

/* The options, their lists of values read. */
typedef struct {
    const BenchOptions *options;
    const BenchOp *op;
    AxisValues axes[BENCH_MAX_AXES];
    unsigned dtypes; /* 0: the device's */
} BenchPlan;

typedef struct {
    const BenchPlan *plan;
    Backend *backend;
    DeviceInfo info;
    Measure *measure;
    Baseline baseline;
    char *lines; /* of options->json */
    int measured, slower, compared;
    Err *refused; /* why the first point was left out */
} Bench;

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

void bench_op_list(void)
{
    int count = 0;
    const BenchOp *ops = problem_list(&count);
    for (int i = 0; i < count; i++) {
        print_op(&ops[i]);
    }
}

/* ---- Lists of values ---- */

static Err *parse_dtypes(BenchPlan *plan)
{
    static const DType known[] = {DT_F32, DT_BF16, DT_F16};
    for (const char *at = plan->options->dtypes; at;) {
        const size_t length = strcspn(at, ",");
        int found = -1;
        for (int i = 0; i < 3; i++) {
            const char *name = problem_dtype(known[i]);
            found = strlen(name) == length && strncmp(name, at, length) == 0 ? i : found;
        }
        if (found < 0) {
            return err_new(EXIT_USAGE_ERR, "--dtype %s: fp32, bf16 and fp16 with commas",
                           plan->options->dtypes);
        }
        plan->dtypes |= 1u << known[found];
        at = at[length] ? at + length + 1 : NULL;
    }
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

static Err *parse_axes(BenchPlan *plan)
{
    const BenchOp *op = plan->op;
    for (int a = 0; a < problem_axes(op); a++) {
        TRY(axis_parse(op, a, op->axes[a].fallback, &plan->axes[a]));
    }
    for (size_t i = 0; i < plan->options->n_axes; i++) {
        const char *text = plan->options->axes[i];
        const size_t length = strcspn(text, "=");
        const int axis = text[length] ? find_axis(op, text, length) : -1;
        if (axis < 0) {
            return unknown_axis(op, text);
        }
        TRY(axis_parse(op, axis, text + length + 1, &plan->axes[axis]));
    }
    return NULL;
}

/* ---- Measuring ---- */

static void print_head(const Bench *bench)
{
    const BenchOp *op = bench->plan->op;
    printf("%s on %s: %s, %s; copy %.1f GB/s, clock: %s\n", op->name, bench->backend->name,
           bench->info.name, bench->info.library, measure_copy_speed(bench->measure) * 1e-9,
           measure_clock(bench->measure));
    for (int a = 0; a < problem_axes(op); a++) {
        printf("%9s ", op->axes[a].name);
    }
    printf("%5s %5s %11s %11s %11s %6s %9s %7s %9s%s\n", "dtype", "cache", "median us", "10 %",
           "90 %", "noise", "GB/s", "of copy", "GFLOP/s",
           bench->plan->options->baseline ? "  vs base" : "");
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
    if (bench->plan->options->baseline && base > 0) {
        const bool slower =
            baseline_slower(r->timing.median, base, bench->plan->options->tolerance);
        printf("  %+7.1f%%%s", 100 * (r->timing.median / base - 1), slower ? " SLOWER" : "");
    } else if (bench->plan->options->baseline) {
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
    bench->slower +=
        base > 0 && baseline_slower(r->timing.median, base, bench->plan->options->tolerance);
    bench->measured++;
    free(name);
    if (bench->plan->options->json) {
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
    const BenchOptions *options = bench->plan->options;
    const char *wrong = point->op->wrong ? point->op->wrong(point) : NULL;
    BenchLab *lab = NULL;
    Err *err = wrong ? err_new(EXIT_USAGE_ERR, "%s", wrong) : lab_open(bench->backend, point, &lab);
    if (err) {
        leave_out(bench, point, err);
        return;
    }
    for (int cold = 0; cold < 2; cold++) {
        if (!(cold ? options->cold : options->warm)) {
            continue;
        }
        const MeasureOptions how = {
            .cold = cold, .graph = options->graph, .min_time_s = options->min_time_s};
        const BenchRecord record = {.point = *point,
                                    .cold = cold,
                                    .graph = options->graph,
                                    .clock = measure_clock(bench->measure),
                                    .timing = measure_run(bench->measure, lab, &how),
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
    const BenchOp *op = bench->plan->op;
    const bool numbers = op->dtypes & 1u << DT_F32;
    if (bench->plan->dtypes && numbers) {
        return bench->plan->dtypes;
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
    const BenchOp *op = bench->plan->op;
    const unsigned dtypes = chosen_dtypes(bench);
    for (size_t d = 0; d < sizeof order / sizeof order[0]; d++) {
        if (!(dtypes >> order[d] & 1)) {
            continue;
        }
        for (int i = 0; i < problem_points(op, bench->plan->axes); i++) {
            const BenchPoint point = problem_point(op, bench->plan->axes, i, order[d]);
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
    if (bench->plan->options->baseline && bench->compared == 0) {
        log_warn("%s has none of these cases for %s with %d threads",
                 bench->plan->options->baseline, bench->info.name, bench->info.threads);
    }
    if (bench->slower > 0) {
        return err_new(
            (ExitCode)EXIT_SLOWER,
            "%d of %d cases are more than %g %% slower than in %s; noise? then run again "
            "with a longer --min-time or a larger --tolerance",
            bench->slower, bench->compared, 100 * bench->plan->options->tolerance,
            bench->plan->options->baseline);
    }
    return NULL;
}

static Err *run_bench(Bench *bench, Choices *choices)
{
    const BenchOptions *options = bench->plan->options;
    if (options->baseline) {
        TRY(baseline_load(options->baseline, &bench->baseline));
    }
    TRY(backend_open(options->device,
                     &(BackendOptions){.threads = options->threads, .choices = choices},
                     &bench->backend));
    if (options->graph && !bench->backend->capture_begin) {
        return err_new(EXIT_USAGE_ERR,
                       "--graph: device %s records no graphs; leave it out or use "
                       "--device cuda",
                       options->device);
    }
    bench->backend->info(bench->backend, &bench->info);
    TRY(measure_open(bench->backend, (size_t)options->buffer_mib * MIB, &bench->measure));
    print_head(bench);
    measure_all(bench);
    if (options->json && bench->lines) {
        TRY(file_write_atomic(options->json, bench->lines, strlen(bench->lines)));
    }
    return verdict(bench);
}

Err *bench_op_run(const BenchOptions *options)
{
    BenchPlan plan = {.options = options};
    TRY(problem_find(options->op, &plan.op));
    TRY(parse_dtypes(&plan));
    TRY(parse_axes(&plan));
    Choices choices = {0};
    Bench bench = {.plan = &plan};
    Err *err = run_bench(&bench, &choices);
    measure_close(bench.measure);
    backend_close(bench.backend);
    baseline_free(&bench.baseline);
    choices_free(&choices);
    err_free(bench.refused);
    free(bench.lines);
    return err;
}
