/* Opens and wires a run, and does what comes before step 1. Order matters: everything that can be wrong with the user's
 * input is found before the run's folder is made, and the state of an earlier part (threads, timed choices) is read
 * before the backend is opened. */
#include "train/run.h"

#include "base/files.h"
#include "base/log.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/drift.h"
#include "train/graphs.h"
#include "train/prepare.h"
#include "train/records.h"
#include "train/rundir.h"
#include "train/space.h"
#include "train/step.h"
#include "train/teacher_table.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOSS_SCALE_FIRST 65536.0f /* as PyTorch's GradScaler */

static DType act_of(Precision precision, const DeviceInfo *info)
{
    switch (precision) {
    case PRECISION_FP32:
        return DT_F32;
    case PRECISION_BF16:
        return DT_BF16;
    case PRECISION_FP16:
        return DT_F16;
    case PRECISION_AUTO:
        break;
    }
    return info->bf16 ? DT_BF16 : DT_F32;
}

Err *precision_choose(Backend *backend, Precision wanted, DType *act)
{
    DeviceInfo info;
    backend->info(backend, &info);
    /* The reference loops define every type; that none is fast there is no reason to refuse one that was asked for. */
    const bool reference = strcmp(backend->name, "ref") == 0;
    if (!reference &&
        ((wanted == PRECISION_BF16 && !info.bf16) || (wanted == PRECISION_FP16 && !info.fp16))) {
        return err_new(
            EXIT_NO_DEVICE,
            "precision %s: %s (%s) has no fast arithmetic of that type; use auto or fp32",
            precision_name(wanted), info.name, info.library);
    }
    *act = act_of(wanted, &info);
    return NULL;
}

/* What taskset, a container or a scheduler left to this process. */
static int allowed_cores(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

/* Left to themselves, loader workers and compute threads together never exceed the cores. */
static void share_cores(const Settings *s, int *workers, int *threads)
{
    const int cores = allowed_cores();
    *workers = s->workers >= 0 ? s->workers : cores <= 4 ? 0 : 2;
    const char *omp = getenv("OMP_NUM_THREADS");
    const long asked = omp ? strtol(omp, NULL, 10) : 0; /* 0 where it is no number */
    *threads = s->threads > 0               ? s->threads
               : asked > 0 && asked <= 4096 ? (int)asked
                                            : cores - *workers;
    if (*threads < 1) {
        *threads = 1;
    }
}

static Err *open_data(Run *run)
{
    const Settings *s = run->settings;
    if (strncmp(s->dataset, SHAPE_PREFIX, strlen(SHAPE_PREFIX)) == 0) {
        return err_new(EXIT_CONFIG_ERR, "data.kind = shape is a size without images: it serves "
                                        "'cudistill train --dry-run' alone");
    }
    TRY(dataset_open(s->dataset, SPLIT_TRAIN, &run->train_set));
    TRY(longtail_apply(&s->long_tail, &run->train_set));
    TRY(dataset_open(s->dataset, SPLIT_TEST, &run->test_set));
    snprintf(run->state.dataset_hash, sizeof run->state.dataset_hash, "%s", run->train_set->hash);
    return NULL;
}

/* Compares what computes now with what computed the earlier part, and notes it for the next checkpoint. */
static Err *settle_arithmetic(Run *run, const DeviceInfo *info)
{
    Arithmetic now = {0};
    snprintf(now.student_act, sizeof now.student_act, "%s", dtype_name(run->student.act));
    snprintf(now.teacher_act, sizeof now.teacher_act, "%s",
             run->settings->teacher_model ? dtype_name(run->teacher.act) : "");
    snprintf(now.backend, sizeof now.backend, "%s", run->backend->name);
    snprintf(now.library, sizeof now.library, "%s", info->library);
    const Arithmetic then = run->state.arithmetic;
    run->state.arithmetic = now;
    if (!run->resumed) {
        return NULL;
    }
    const Drift types[] = {{"train.precision", "(type of the student's activations here)",
                            then.student_act, now.student_act},
                           {"teacher.precision", "(type of the teacher's activations here)",
                            then.teacher_act, now.teacher_act}};
    Drift changed[2];
    size_t count = 0;
    for (int i = 0; i < 2; i++) {
        if (strcmp(types[i].then, types[i].now) != 0) {
            changed[count++] = types[i];
        }
    }
    TRY(drift_judge(run->settings, changed, count));
    if (strcmp(then.backend, now.backend) != 0 || strcmp(then.library, now.library) != 0) {
        log_warn("%s was begun on %s (%s), now it is %s (%s): results are no longer the same bits",
                 run->settings->out, then.backend, then.library, now.backend, now.library);
    }
    return NULL;
}

static Err *open_backend(Run *run, int threads, const char *described)
{
    const Settings *s = run->settings;
    const BackendOptions options = {.threads = threads,
                                    .choices = &run->choices,
                                    .deterministic = s->deterministic,
                                    .described = described};
    TRY(device_open(s->device, &options, &run->backend));
    DType act = DT_F32;
    TRY(precision_choose(run->backend, s->precision, &act));
    DType teacher_act = act;
    if (s->teacher_precision != PRECISION_AUTO) {
        TRY(precision_choose(run->backend, s->teacher_precision, &teacher_act));
    }
    run->student = (NetSpec){.model = s->student_model, .act = act};
    run->teacher = (NetSpec){.model = s->teacher_model, .act = teacher_act};
    memcpy(run->student.mean, s->mean, sizeof s->mean);
    memcpy(run->student.std, s->std, sizeof s->std);
    memcpy(run->teacher.mean, s->teacher_mean, sizeof s->mean);
    memcpy(run->teacher.std, s->teacher_std, sizeof s->std);
    DeviceInfo info;
    run->backend->info(run->backend, &info);
    log_info("%s: %s, %s, %d threads; activations %s%s%s", run->backend->name, info.name,
             info.library, info.threads, dtype_name(act), s->teacher_model ? ", teacher " : "",
             s->teacher_model ? dtype_name(teacher_act) : "");
    run->state.threads = info.threads;
    return settle_arithmetic(run, &info);
}

static Err *open_networks(Run *run)
{
    const Settings *s = run->settings;
    TRY(nets_register(&run->params, &run->teacher, &run->student, run->train_set->classes));
    TRY(store_open(run->backend, &run->params, true, &run->store));
    if (s->teacher_model) {
        TRY(store_load(&run->store, TEACHER_PREFIX, s->teacher_weights, run->state.teacher_hash));
    }
    if (s->student_weights) {
        return store_load(&run->store, STUDENT_PREFIX, s->student_weights, NULL);
    }
    store_init(&run->store, STUDENT_PREFIX, s->seed);
    return NULL;
}

/* The loss scale goes on where the checkpoint left it. */
static Err *open_shared(Run *run)
{
    Backend *b = run->backend;
    float *scale = run->state.loss_scale;
    const bool begin = !run->resumed || run->scaling != LOSS_SCALE_DYNAMIC;
    if (begin) {
        scale[0] = run->scaling == LOSS_SCALE_DYNAMIC    ? LOSS_SCALE_FIRST
                   : run->scaling == LOSS_SCALE_CONSTANT ? (float)run->settings->loss_scale
                                                         : 1.0f;
        scale[1] = 0.0f;
    }
    run->shared = b->alloc(b, MEM_DEVICE, SHARED_BYTES);
    if (!run->shared) {
        return err_new(EXIT_DEVICE_MEMORY, "no device memory for the loss scale");
    }
    b->upload(b, QUEUE_COMPUTE, run->shared, scale, sizeof run->state.loss_scale);
    b->sync(b, QUEUE_COMPUTE);
    return NULL;
}

static Err *open_feed(Run *run, int workers)
{
    const Settings *s = run->settings;
    const FeedConfig config = {.resident = run->wiring.resident,
                               .dataset = run->train_set,
                               .batch = (uint32_t)s->batch,
                               .seed = s->seed,
                               .augment = {.pad = s->padding, .flip = s->flip},
                               .policy = s->policy,
                               .workers = workers,
                               .held = FLIGHTS,
                               .epoch = run->state.epoch,
                               .position = run->state.position};
    return feed_open(&config, run->backend, run->step, &run->feed);
}

/* A folder that exists is locked before anything in it is looked at: reading the newest checkpoint also clears away
 * unfinished ones, which could be another process's. */
static Err *lock_folder(Run *run)
{
    return run->lock_fd < 0 && path_exists(run->settings->out)
               ? run_lock(run->settings->out, &run->lock_fd)
               : NULL;
}

/* A folder that was absent a moment ago may have been made, used and left by another process meanwhile. */
static Err *claim_new_folder(Run *run)
{
    TRY(lock_folder(run));
    bool found;
    TRY(run_has_checkpoints(run, &found));
    return found ? err_new(EXIT_CANT_CREATE,
                           "%s: another process began this run at the same time: run the same "
                           "command again to resume it, or choose another run.out",
                           run->settings->out)
                 : NULL;
}

/* The configuration with the folder that was chosen for this run: run again, it goes on here. */
static char *config_to_run_again(const Run *run)
{
    char *text = config_text(run->settings->config, true);
    if (config_has(run->settings->config, "run", "out")) {
        return text;
    }
    static const char key[] = "\nout =";
    char *at = strstr(text, key); /* the only key of that name stands in the first section */
    CHECK(at, "the configuration has no run.out");
    char *folder = realpath(run->settings->out, NULL);
    char *whole =
        xformat("%.*s%s %s%s", (int)(at - text), text, key, folder ? folder : run->settings->out,
                at + strlen(key) + strcspn(at + strlen(key), "\n"));
    free(folder);
    free(text);
    return whole;
}

static Err *make_folder(Run *run)
{
    const Settings *s = run->settings;
    char *checkpoints = path_join(s->out, "checkpoints");
    Err *err = dir_make(checkpoints);
    free(checkpoints);
    TRY(err);
    if (run->lock_fd < 0) {
        TRY(claim_new_folder(run));
    }
    space_warn(run);
    char *path = path_join(s->out, RUN_CONFIG);
    char *text = config_to_run_again(run);
    err = file_write_atomic(path, text, strlen(text));
    free(path);
    free(text);
    return err;
}

/* Reads the state of an earlier part and settles the thread count: results repeat at one count only, so a count that
 * nobody asked for follows the checkpoint. */
static Err *read_earlier_part(Run *run, Resume resume, int *threads, char **checkpoint)
{
    TRY(lock_folder(run));
    TRY(run_read_state(run, resume, checkpoint));
    run->resumed = *checkpoint != NULL;
    if (!run->resumed || run->state.threads == *threads) {
        return NULL;
    }
    if (run->settings->threads > 0) {
        log_warn("the run was begun with %d threads and dist.threads = %d was given: results are "
                 "no longer the same bits",
                 run->state.threads, *threads);
        choices_free(&run->choices); /* they were timed at another count */
        return NULL;
    }
    log_warn(
        "the run was begun with %d threads: using %d again, so that results stay the same bits",
        run->state.threads, run->state.threads);
    *threads = run->state.threads;
    return NULL;
}

static void warn_crowding(int threads, int workers)
{
    const int cores = allowed_cores();
    if (threads + workers > cores) {
        log_warn("%d compute threads and %d loader workers share %d cores: lower dist.threads or "
                 "data.workers",
                 threads, workers, cores);
    }
}

bool run_finished(const Run *run)
{
    const Settings *s = run->settings;
    return (int)run->state.epoch >= s->schedule.epochs ||
           (s->max_steps > 0 && run->state.step >= s->max_steps);
}

/* Networks and their weights; `checkpoint` NULL: a fresh run. The folder is made once the input has proved right. */
static Err *open_weights(Run *run, const char *checkpoint)
{
    char teacher_before[DATASET_HASH_CHARS];
    memcpy(teacher_before, run->state.teacher_hash, sizeof teacher_before);
    TRY(open_networks(run));
    if (checkpoint && strcmp(teacher_before, run->state.teacher_hash) != 0) {
        const Drift drift = {"teacher.weights", "(hash of the file)", teacher_before,
                             run->state.teacher_hash};
        TRY(drift_judge(run->settings, &drift, 1));
        run->state.teacher_top1 = -1.0; /* it is checked as a new one */
    }
    TRY(make_folder(run));
    if (checkpoint) {
        if (run_finished(run)) {
            log_info("%s is already finished, at step %ld", run->settings->out, run->state.step);
        } else {
            log_info("resuming %s at step %ld (epoch %u)", run->settings->out, run->state.step,
                     run->state.epoch + 1);
        }
        TRY(run_load_weights(run, checkpoint));
    }
    return records_open(run);
}

/* Whether this folder may be begun anew: it is not there, or nobody got as far as a checkpoint in it. */
static Err *is_free(Run *run, bool *free_folder)
{
    bool used;
    TRY(run_has_checkpoints(run, &used));
    *free_folder = !used;
    return NULL;
}

/* --resume never where the user left the choice of the folder to the program: NAME, NAME-2, NAME-3, ... */
static Err *choose_folder(Run *run, Resume resume)
{
    const Settings *given = run->settings;
    if (resume != RESUME_NEVER || config_has(given->config, "run", "out")) {
        return NULL;
    }
    bool free_folder = false;
    TRY(is_free(run, &free_folder));
    for (int i = 2; !free_folder; i++) {
        free(run->folder);
        run->folder = xformat("%s-%d", given->out, i);
        run->renamed = *given;
        run->renamed.out = run->folder;
        run->settings = &run->renamed;
        TRY(is_free(run, &free_folder));
    }
    if (run->folder) {
        log_info("%s holds an earlier run, which stays: this one goes to %s", given->out,
                 run->folder);
    }
    return NULL;
}

Err *run_open(const Settings *settings, Resume resume, Run *run)
{
    *run = (Run){.settings = settings, .lock_fd = -1};
    run->state.best_top1 = run->state.last_top1 = -1.0;
    run->state.teacher_top1 = run->state.teacher_top5 = run->state.agreement = -1.0;
    TRY(drift_check_names(settings));
    TRY(choose_folder(run, resume));
    TRY(objective_make(&settings->objective, &run->objective));
    TRY(open_data(run));
    int workers;
    int threads;
    share_cores(settings, &workers, &threads);
    char *checkpoint = NULL;
    Err *err = read_earlier_part(run, resume, &threads, &checkpoint);
    if (!err) {
        warn_crowding(threads, workers);
        err = open_backend(run, threads, NULL);
    }
    if (!err) {
        err = open_weights(run, checkpoint);
    }
    free(checkpoint);
    TRY(err);
    TRY(graphs_settle(run));
    TRY(open_shared(run));
    TRY(teacher_table_open(run, &run->table));
    run->wiring.table = run->table != NULL;
    TRY(graphs_open(run));
    TRY(open_feed(run, workers));
    return step_open(run);
}

Err *run_plan(const Settings *settings, Dataset *train_set, Dataset *test_set,
              const char *described, Run *run)
{
    *run = (Run){.settings = settings,
                 .train_set = train_set,
                 .test_set = test_set,
                 .lock_fd = -1,
                 .dry = true};
    TRY(objective_make(&settings->objective, &run->objective));
    int workers;
    int threads;
    share_cores(settings, &workers, &threads);
    TRY(open_backend(run, threads, described));
    TRY(nets_register(&run->params, &run->teacher, &run->student, train_set->classes));
    TRY(graphs_settle(run));
    run->wiring.table = teacher_table_wanted(run);
    return graphs_open(run);
}

Err *run_prepare(Run *run)
{
    if (run->settings->teacher_model && run->state.teacher_top1 < 0) {
        TRY(prepare_check_teacher(run));
    }
    if (!run->resumed) {
        TRY(prepare_passes(run));
    }
    if (run->objective.needs_thresholds) {
        exec_write(run->step, "theta", run->state.theta, sizeof run->state.theta);
        log_info("energy thresholds %.4f and %.4f", (double)run->state.theta[0],
                 (double)run->state.theta[1]);
    }
    records_prepared(run);
    log_info("%s", run->objective.formula);
    exec_refresh(run->step, false);
    return NULL;
}

void run_close(Run *run)
{
    step_close(run);
    feed_close(run->feed);
    teacher_table_close(run->table);
    records_close(run->records);
    exec_close(run->step);
    exec_close(run->update);
    exec_close(run->eval);
    for (int a = 0; a < 2; a++) {
        if (run->scratch[a]) {
            run->backend->free(run->backend, MEM_DEVICE, run->scratch[a]);
        }
    }
    if (run->shared) {
        run->backend->free(run->backend, MEM_DEVICE, run->shared);
    }
    store_close(&run->store);
    backend_close(run->backend);
    params_free(&run->params);
    choices_free(&run->choices);
    dataset_close(run->train_set);
    dataset_close(run->test_set);
    run_unlock(run->lock_fd);
    free(run->folder);
    memset(run, 0, sizeof *run);
    run->lock_fd = -1;
}
