/* Times a whole training step on the CPU: teacher inference, student forward, KD loss, backward,
 * SGD, packing of the new weights; images lie in memory. The same step as
 * bench/peers/torch_step.py, same nets, batch and loss.
 *
 *     bench_step [--pair STUDENT:TEACHER] [--threads N] [--batch N] [--steps N]
 *                [--precision bf16|fp32] [--profile]
 *
 * Prints one JSON line per pair: median img/s, its 10th and 90th percentile, processor time per
 * step (all threads), rate of the direct form's multiply-adds, growth of the resident set since the
 * start of main. --profile also prints microseconds per step by node. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "args.h"
#include "backend/exec.h"
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "models/models.h"
#include "train/nets.h"

enum { BATCHES = 16, CLASSES = 100, SIZE = 32 };

typedef struct {
    const char *student, *teacher;
    int threads, batch, steps, warmup;
    DType act;
    bool profile;
} Options;

typedef struct {
    Params params;
    Backend *backend;
    Choices choices;
    Exec *step, *update;
    float *arena[ARENA_COUNT];
    float *moment;
    uint8_t *images;
    int32_t *labels;
    double gflop; /* of one image's step */
} Bench;

static void fail(Err *err)
{
    if (err) {
        fprintf(stderr, "bench_step: %s\n", err->message);
        exit(err->code);
    }
}

static double resident_mib(void)
{
    char *text = NULL;
    err_free(file_read_text("/proc/self/statm", 256, &text));
    const char *second = text ? strchr(text, ' ') : NULL; /* pages: virtual, resident, ... */
    const long pages = second ? strtol(second, NULL, 10) : 0;
    free(text);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
}

/* Seconds of processor time of all threads: what a busy machine cannot stretch. */
static double cpu_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static DistillSpec kd_spec(void)
{
    const RowValue temperature = {.source = SOURCE_CONST, .value = 4.0f};
    DistillSpec spec = {.n_terms = 1, .energy_temperature = 1.0f};
    spec.ce_weight = (RowValue){.source = SOURCE_CONST, .value = 0.1f};
    spec.terms[0] = (DistillTerm){.form = FORM_KL,
                                  .factor = FACTOR_TSTT,
                                  .ts = temperature,
                                  .tt = temperature,
                                  .weight = {.source = SOURCE_CONST, .value = 0.9f}};
    return spec;
}

static void bind(Bench *b, Exec *exec)
{
    static const Arena arenas[] = {ARENA_WEIGHT, ARENA_GRAD, ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 4; i++) {
        exec_bind(exec, arenas[i], b->arena[arenas[i]]);
    }
    exec_bind_moment(exec, b->moment);
}

static void open_arenas(Bench *b)
{
    static const Arena arenas[] = {ARENA_WEIGHT, ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 3; i++) {
        b->arena[arenas[i]] = xaligned((b->params.arena_elems[arenas[i]] + 16) * sizeof(float));
    }
    const size_t bytes = (b->params.arena_elems[ARENA_WEIGHT] + 16) * sizeof(float);
    b->arena[ARENA_GRAD] = xaligned(bytes);
    b->moment = xaligned(bytes);
    params_init(&b->params, STUDENT_PREFIX, 1, b->arena);
    params_init(&b->params, TEACHER_PREFIX, 2, b->arena);
}

static void open_bench(Bench *b, const Options *o)
{
    const NetSpec student = {
        .model = o->student, .act = o->act, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.3f, 0.3f, 0.3f}};
    NetSpec teacher = student;
    teacher.model = o->teacher;
    const BackendOptions backend = {.threads = o->threads, .choices = &b->choices};
    fail(backend_open("cpu", &backend, &b->backend));
    fail(nets_register(&b->params, &teacher, &student, CLASSES));
    open_arenas(b);
    const DistillSpec spec = kd_spec();
    Graph g;
    const StepGraph wiring = {.teacher = &teacher,
                              .student = &student,
                              .classes = CLASSES,
                              .size = SIZE,
                              .batch = o->batch,
                              .spec = &spec,
                              .bn = BN_TRAIN,
                              .backward = true};
    fail(nets_train_graph(&b->params, &wiring, &g));
    b->gflop = 2e-9 * (3.0 * model_macs(&g, STUDENT_PREFIX) + model_macs(&g, TEACHER_PREFIX));
    fail(exec_open(b->backend, &g, &(ExecOptions){.time_steps = o->profile}, &b->step));
    graph_free(&g);
    nets_update_graph(&b->params, o->act, true, LOSS_SCALE_NONE, &g);
    fail(exec_open(b->backend, &g, &(ExecOptions){.time_steps = o->profile}, &b->update));
    graph_free(&g);
    bind(b, b->step);
    bind(b, b->update);
    exec_refresh(b->step, false);
    const size_t pixels = (size_t)BATCHES * (size_t)o->batch * SIZE * SIZE * 3;
    b->images = xmalloc(pixels);
    b->labels = xmalloc((size_t)BATCHES * (size_t)o->batch * sizeof *b->labels);
    Rng rng = rng_make(3, 0, 0, RNG_TEST);
    for (size_t i = 0; i < pixels; i++) {
        b->images[i] = (uint8_t)rng_below(&rng, 256);
    }
    for (int i = 0; i < BATCHES * o->batch; i++) {
        b->labels[i] = (int32_t)rng_below(&rng, CLASSES);
    }
}

static void run_step(Bench *b, const Options *o, int index)
{
    const size_t image_bytes = (size_t)o->batch * SIZE * SIZE * 3;
    const size_t at = (size_t)(index % BATCHES);
    const float hyper[HYPER_COUNT] = {[HYPER_LR] = 0.01f,
                                      [HYPER_MOMENTUM] = 0.9f,
                                      [HYPER_WEIGHT_DECAY] = 5e-4f,
                                      [HYPER_GRAD_SCALE] = 1.0f,
                                      [HYPER_FIRST] = index == 0 ? 1.0f : 0.0f};
    exec_write(b->step, "images", b->images + at * image_bytes, image_bytes);
    exec_write(b->step, "labels", b->labels + at * (size_t)o->batch,
               (size_t)o->batch * sizeof *b->labels);
    exec_run(b->step,
             &(ExecRun){.rows = o->batch, .bn_update = true, .scale = 1.0f / (float)o->batch});
    exec_write(b->update, "hyper", hyper, sizeof hyper);
    exec_run(b->update, &(ExecRun){.rows = 1});
    exec_refresh(b->step, true);
    exec_sync(b->step);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_profile(const Bench *b, int steps)
{
    Exec *const execs[2] = {b->step, b->update};
    for (int e = 0; e < 2; e++) {
        const ExecStepTime *times;
        const int count = exec_times(execs[e], &times);
        for (int i = 0; i < count; i++) {
            printf("%9.1f us  %-14s %s\n", times[i].seconds / steps * 1e6, times[i].op,
                   times[i].node);
        }
    }
}

static void measure(const Options *o)
{
    Bench b = {0};
    const double base = resident_mib();
    const double begin = now_s();
    open_bench(&b, o);
    const double open_s = now_s() - begin;
    double *seconds = xmalloc((size_t)o->steps * sizeof *seconds);
    double used = 0.0;
    for (int i = 0; i < o->warmup + o->steps; i++) {
        if (i == o->warmup) {
            used = cpu_s();
        }
        const double from = now_s();
        run_step(&b, o, i);
        if (i >= o->warmup) {
            seconds[i - o->warmup] = now_s() - from;
        }
    }
    used = (cpu_s() - used) / o->steps;
    if (o->profile) {
        print_profile(&b, o->warmup + o->steps);
    }
    float loss[SUM_FIELDS];
    exec_read(b.step, "sums", loss, sizeof loss);
    qsort(seconds, (size_t)o->steps, sizeof *seconds, by_value);
    const double median = seconds[o->steps / 2];
    DeviceInfo info;
    b.backend->info(b.backend, &info);
    double load = 0.0;
    (void)getloadavg(&load, 1);
    printf("{\"bench\": \"step\", \"pair\": \"%s:%s\", \"precision\": \"%s\", \"batch\": %d, "
           "\"threads\": %d, "
           "\"steps\": %d, \"img_per_s\": %.1f, \"img_per_s_p10\": %.1f, \"img_per_s_p90\": %.1f, "
           "\"cpu_ms_per_step\": %.1f, \"gflop_per_s\": %.0f, "
           "\"open_s\": %.1f, \"rss_growth_mib\": %.1f, \"loss\": %.4f, \"load\": %.2f, "
           "\"device\": \"%s\", "
           "\"library\": \"%s\"}\n",
           o->student, o->teacher, dtype_name(o->act), o->batch, info.threads, o->steps,
           o->batch / median, o->batch / seconds[o->steps * 9 / 10],
           o->batch / seconds[o->steps / 10], used * 1e3, b.gflop * (double)o->batch / median,
           open_s, resident_mib() - base, (double)loss[SUM_LOSS] / (double)loss[SUM_ROWS], load,
           info.name, info.library);
    free(seconds);
    exec_close(b.step);
    exec_close(b.update);
    backend_close(b.backend);
    choices_free(&b.choices);
    for (int a = 0; a < ARENA_COUNT; a++) {
        free(b.arena[a]);
    }
    free(b.moment);
    free(b.images);
    free(b.labels);
    params_free(&b.params);
}

int main(int argc, char **argv)
{
    Options o = {.batch = 64, .steps = 30, .warmup = 5, .act = DT_BF16};
    char pair[128] = "";
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--profile") == 0) {
            o.profile = true;
            continue;
        }
        if (strcmp(argv[i], "--pair") == 0) {
            snprintf(pair, sizeof pair, "%s", value);
        } else if (strcmp(argv[i], "--threads") == 0) {
            o.threads = arg_count(argv[i], value);
        } else if (strcmp(argv[i], "--batch") == 0) {
            o.batch = arg_count(argv[i], value);
        } else if (strcmp(argv[i], "--steps") == 0) {
            o.steps = arg_count(argv[i], value);
        } else if (strcmp(argv[i], "--precision") == 0) {
            o.act = strcmp(value, "fp32") == 0 ? DT_F32 : DT_BF16;
        } else {
            fprintf(stderr, "bench_step: unknown option %s\n", argv[i]);
            return EXIT_USAGE_ERR;
        }
        i++;
    }
    char *colon = strchr(pair, ':');
    if (pair[0] && !colon) {
        fprintf(stderr, "bench_step: --pair wants STUDENT:TEACHER, not '%s'\n", pair);
        return EXIT_USAGE_ERR;
    }
    if (colon) {
        *colon = '\0';
        o.student = pair;
        o.teacher = colon + 1;
        measure(&o);
        return EXIT_OK;
    }
    o.student = "resnet20";
    o.teacher = "wrn_16_2";
    measure(&o);
    o.student = "resnet8x4";
    o.teacher = "resnet32x4";
    measure(&o);
    return EXIT_OK;
}
