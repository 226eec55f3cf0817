/* Times a whole training step: teacher inference, student forward, KD loss, backward, SGD, packing of the new weights. The
 * same step as bench/peers/torch_step.py, same nets, batch and loss; networks for ImageNet get 224-pixel images.
 *
 *     bench_step [--pair STUDENT:TEACHER]... [--device cpu|ref|cuda] [--precision bf16|fp16|fp32] [--batch N] [--steps N]
 *                [--capture auto|on|off] [--resident auto|on|off] [--teacher-only] [--threads N] [--profile]
 *                [--deterministic]
 *
 * TEACHER `none`: cross entropy alone. --teacher-only: the forward pass of TEACHER in inference form instead. --pair all:
 * the five CIFAR-100 pairs. fp16 trains with a dynamic loss scale. On cuda a step is recorded after the first one and
 * replayed (--capture), batches are made on the device from images that lie there, cropped and mirrored (--resident), and
 * ten steps are timed together, since waiting for each would not let them overlap; elsewhere every step is timed by itself.
 *
 * Prints one JSON line per pair: median img/s, its 10th and 90th percentile, processor time per step (all threads), rate of
 * the direct form's multiply-adds, growth of the resident set since the start, device memory by owner in MiB (what arenas
 * and libraries were given; `growth` by the device's own count). --profile also prints microseconds per step by
 * node; --deterministic times no algorithms, so that two processes compute the same. */
#include "args.h"
#include "base/files.h"
#include "base/log.h"
#include "base/version.h"
#include "models/models.h"
#include "step_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WARM_UP = 5,
    GROUP = 10,
    SMALL_BATCH = 64,
    LARGE_BATCH = 256,
    MAX_PAIRS = 16,
    PAIR_MAX = 128
};

#define MIB 1048576.0

typedef struct {
    RigOptions rig; /* networks and batch are filled in by pair */
    int steps, batch;
    bool teacher_only;
    char pairs[MAX_PAIRS][PAIR_MAX];
    int n_pairs;
} Options;

typedef struct {
    double *seconds; /* [groups], sorted: of one step */
    int groups, group;
    double cpu_s; /* of one step */
    double open_s, rss_mib;
} Timing;

static double resident_mib(void)
{
    char *text = NULL;
    err_free(file_read_text("/proc/self/statm", 256, &text));
    const char *second = text ? strchr(text, ' ') : NULL; /* pages: virtual, resident, ... */
    const long pages = second ? strtol(second, NULL, 10) : 0;
    free(text);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / MIB;
}

/* Seconds of processor time of all threads: what a busy machine cannot stretch. */
static double cpu_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- Output ---- */

static void print_profile(const StepRig *rig, int steps)
{
    for (int e = 0; e < 2 && step_rig_exec(rig, e); e++) {
        const ExecStepTime *times;
        const int count = exec_times(step_rig_exec(rig, e), &times);
        for (int i = 0; i < count; i++) {
            printf("%9.1f us  %-14s %s\n", times[i].seconds / steps * 1e6, times[i].op,
                   times[i].node);
        }
    }
}

static void print_memory(const StepRig *rig)
{
    const RigMemory m = step_rig_memory(rig);
    const struct {
        const char *name;
        size_t bytes;
    } owners[] = {{"parameters", m.parameters},   {"gradients", m.gradients},
                  {"momentum", m.momentum},       {"state", m.state},
                  {"activations", m.activations}, {"persistent", m.persistent},
                  {"inputs", m.inputs},           {"workspace", m.workspace},
                  {"copies", m.copies},           {"prepared", m.prepared}};
    size_t total = 0;
    printf("\"memory_mib\": {");
    for (size_t i = 0; i < sizeof owners / sizeof owners[0]; i++) {
        printf("\"%s\": %.1f, ", owners[i].name, (double)owners[i].bytes / MIB);
        total += owners[i].bytes;
    }
    printf("\"total\": %.1f, \"growth\": %.1f}, ", (double)total / MIB,
           (double)m.device_growth / MIB);
}

static void print_line(const Options *o, StepRig *rig, const Timing *t)
{
    const double median = t->seconds[t->groups / 2];
    const int batch = o->rig.batch;
    DeviceInfo info;
    double load = 0.0;
    step_rig_info(rig, &info);
    (void)getloadavg(&load, 1);
    printf("{\"bench\": \"%s\", \"pair\": \"%s:%s\", \"precision\": \"%s\", \"batch\": %d, "
           "\"threads\": %d, \"steps\": %d, ",
           o->rig.student ? "step" : "forward", o->rig.student ? o->rig.student : "none",
           o->rig.teacher ? o->rig.teacher : "none", dtype_name(o->rig.act), batch, info.threads,
           t->groups * t->group);
    printf("\"img_per_s\": %.1f, \"img_per_s_p10\": %.1f, \"img_per_s_p90\": %.1f, "
           "\"ms_per_step\": %.4f, \"cpu_ms_per_step\": %.3f, \"gflop_per_s\": %.0f, ",
           batch / median, batch / t->seconds[t->groups * 9 / 10],
           batch / t->seconds[t->groups / 10], median * 1e3, t->cpu_s * 1e3,
           1e-9 * step_rig_flops(rig) * batch / median);
    printf("\"open_s\": %.1f, \"rss_growth_mib\": %.1f, ", t->open_s, t->rss_mib);
    print_memory(rig);
    printf("\"loss\": %.4f, \"loss_scale\": %g, \"load\": %.2f, \"size\": %d, \"capture\": %s, "
           "\"resident\": %s, \"group\": %d, \"backend\": \"%s\", \"device\": \"%s\", "
           "\"library\": \"%s\", \"commit\": \"%s\"}\n",
           step_rig_loss(rig), step_rig_loss_scale(rig), load, step_rig_size(rig),
           step_rig_captured(rig) ? "true" : "false", step_rig_resident(rig) ? "true" : "false",
           t->group, o->rig.device, info.name, info.library, version_commit());
    fflush(stdout);
}

/* ---- Timing ---- */

static void time_steps(const Options *o, StepRig *rig, Timing *t)
{
    long index = 0;
    double used = 0.0;
    t->group = strcmp(o->rig.device, "cuda") == 0 ? GROUP : 1;
    t->groups = (o->steps + t->group - 1) / t->group;
    t->seconds = xmalloc((size_t)t->groups * sizeof *t->seconds);
    for (; index < WARM_UP; index++) {
        step_rig_run(rig, index);
        step_rig_sync(rig);
    }
    used = cpu_s();
    for (int i = 0; i < t->groups; i++) {
        const double from = now_s();
        for (int k = 0; k < t->group; k++) {
            step_rig_run(rig, index++);
        }
        step_rig_sync(rig);
        t->seconds[i] = (now_s() - from) / t->group;
    }
    t->cpu_s = (cpu_s() - used) / (t->groups * t->group);
    qsort(t->seconds, (size_t)t->groups, sizeof *t->seconds, by_value);
}

static Err *measure(const Options *o)
{
    StepRig *rig = NULL;
    Timing t = {0};
    const double base = resident_mib();
    const double begin = now_s();
    TRY(step_rig_open(&o->rig, &rig));
    t.open_s = now_s() - begin;
    time_steps(o, rig, &t);
    t.rss_mib = resident_mib() - base;
    if (o->rig.time_steps) {
        print_profile(rig, WARM_UP + t.groups * t.group);
    }
    print_line(o, rig, &t);
    free(t.seconds);
    step_rig_close(rig);
    return NULL;
}

/* pair: "STUDENT:TEACHER", either may be none. */
static Err *measure_pair(Options *o, const char *pair)
{
    char text[PAIR_MAX];
    snprintf(text, sizeof text, "%s", pair);
    char *colon = strchr(text, ':');
    if (!colon) {
        return err_new(EXIT_USAGE_ERR, "--pair wants STUDENT:TEACHER, not '%s'", pair);
    }
    *colon = '\0';
    o->rig.student = o->teacher_only || strcmp(text, "none") == 0 ? NULL : text;
    o->rig.teacher = strcmp(colon + 1, "none") == 0 ? NULL : colon + 1;
    if (!o->rig.student && !o->rig.teacher) {
        return err_new(EXIT_USAGE_ERR, "--pair %s: nothing to run", pair);
    }
    const ModelInfo *info = model_find(o->rig.student ? o->rig.student : o->rig.teacher);
    const bool large = info && info->input_size > 64;
    o->rig.batch = o->batch ? o->batch : large ? LARGE_BATCH : SMALL_BATCH;
    return measure(o);
}

/* ---- Arguments ---- */

static void add_pair(Options *o, const char *pair)
{
    if (o->n_pairs < MAX_PAIRS) {
        snprintf(o->pairs[o->n_pairs++], PAIR_MAX, "%s", pair);
    }
}

static void add_pairs(Options *o, const char *pair)
{
    static const char *const all[] = {"resnet20:wrn_16_2", "resnet8x4:resnet32x4",
                                      "wrn_16_2:wrn_40_2", "resnet20:resnet56",
                                      "resnet32:resnet110"};
    if (strcmp(pair, "all") != 0) {
        add_pair(o, pair);
        return;
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        add_pair(o, all[i]);
    }
}

static Err *one_of(const char *option, const char *value, const char *const *names, int count,
                   int *out)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(value, names[i]) == 0) {
            *out = i;
            return NULL;
        }
    }
    return err_new(EXIT_USAGE_ERR, "%s %s: not one of its values (see the head of bench_step.c)",
                   option, value);
}

static Err *take_switch(const char *option, const char *value, RigSwitch *out)
{
    static const char *const names[] = {"auto", "on", "off"};
    int which = 0;
    TRY(one_of(option, value, names, 3, &which));
    *out = (RigSwitch)which;
    return NULL;
}

static Err *take_precision(const char *value, DType *out)
{
    static const char *const names[] = {"fp32", "bf16", "fp16"};
    static const DType types[] = {DT_F32, DT_BF16, DT_F16};
    int which = 0;
    TRY(one_of("--precision", value, names, 3, &which));
    *out = types[which];
    return NULL;
}

static Err *take_option(Options *o, const char *option, const char *value)
{
    static const char *const devices[] = {"cpu", "ref", "cuda"};
    int which = 0;
    if (strcmp(option, "--pair") == 0) {
        add_pairs(o, value);
    } else if (strcmp(option, "--threads") == 0) {
        o->rig.threads = arg_count(option, value);
    } else if (strcmp(option, "--batch") == 0) {
        o->batch = arg_count(option, value);
    } else if (strcmp(option, "--steps") == 0) {
        o->steps = arg_count(option, value);
    } else if (strcmp(option, "--precision") == 0) {
        return take_precision(value, &o->rig.act);
    } else if (strcmp(option, "--capture") == 0) {
        return take_switch(option, value, &o->rig.capture);
    } else if (strcmp(option, "--resident") == 0) {
        return take_switch(option, value, &o->rig.resident);
    } else if (strcmp(option, "--device") == 0) {
        TRY(one_of(option, value, devices, 3, &which));
        o->rig.device = devices[which];
    } else {
        return err_new(EXIT_USAGE_ERR, "unknown option %s", option);
    }
    return NULL;
}

static Err *take_arguments(Options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--profile") == 0) {
            o->rig.time_steps = true;
        } else if (strcmp(argv[i], "--teacher-only") == 0) {
            o->teacher_only = true;
        } else if (strcmp(argv[i], "--deterministic") == 0) {
            o->rig.deterministic = true;
        } else {
            TRY(take_option(o, argv[i], i + 1 < argc ? argv[i + 1] : ""));
            i++;
        }
    }
    if (o->n_pairs == 0) {
        add_pair(o, "resnet20:wrn_16_2");
        add_pair(o, "resnet8x4:resnet32x4");
    }
    return NULL;
}

static Err *run(Options *o, int argc, char **argv)
{
    TRY(take_arguments(o, argc, argv));
    for (int i = 0; i < o->n_pairs; i++) {
        TRY(measure_pair(o, o->pairs[i]));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static Options o = {.steps = 30, .rig = {.device = "cpu", .act = DT_BF16}};
    Err *err = run(&o, argc, argv);
    if (err) {
        fprintf(stderr, "bench_step: %s\n", err->message);
        const int code = err->code;
        err_free(err);
        return code;
    }
    return EXIT_OK;
}
