/* THE loop. A step is: take a batch, submit it (teacher, student, loss, gradient, update, packing of the new weights), and
 * meanwhile account for the step before. Everything is a function of (epoch, position): where a checkpoint is taken never
 * changes what comes after it. */
#include "train/train.h"

#include "base/files.h"
#include "base/log.h"
#include "train/epoch.h"
#include "train/signals.h"
#include "train/step.h"

#include <stdlib.h>
#include <string.h>

static bool finished(const Run *run)
{
    const Settings *s = run->settings;
    return (int)run->state.epoch >= s->schedule.epochs ||
           (s->max_steps > 0 && run->state.step >= s->max_steps);
}

static void add_time(Run *run, double seconds, double wait_s)
{
    Meter *const meters[] = {&run->state.epoch_meter, &run->interval};
    for (int i = 0; i < 2; i++) {
        meters[i]->seconds += seconds;
        meters[i]->data_wait_s += wait_s;
    }
    run->state.train_seconds += seconds;
}

static Err *leave(const Run *run, int signal)
{
    return err_new(signals_exit_code(signal),
                   "stopped by signal %d at step %ld: checkpoint written, run the same command "
                   "again to resume",
                   signal, run->state.step);
}

Err *train(Run *run)
{
    const Settings *s = run->settings;
    run->last_line = now_s();
    step_open(run);
    while (!finished(run)) {
        const double begin = now_s();
        const Batch *batch = loader_next(run->loader);
        if (!batch) {
            continue; /* the end of an epoch, which was dealt with after its last batch */
        }
        const double wait_s = now_s() - begin;
        const bool ended = batch->last;
        step_submit(run, batch);
        TRY(step_land_previous(run));
        const bool stop = (ended && (int)run->state.epoch + 1 == s->schedule.epochs) ||
                          run->state.step == s->max_steps;
        const int signal = signals_pending(); /* asked once: what is saved and what is said agree */
        if (ended || stop || signal || epoch_save_due(run, ended)) {
            TRY(step_land_all(run));
        }
        add_time(run, now_s() - begin, wait_s);
        TRY(epoch_progress(run));
        if (ended || stop) {
            TRY(epoch_end(run, ended));
        }
        TRY(epoch_save(run, ended, stop || signal));
        if (signal && !stop) {
            return leave(run, signal);
        }
    }
    return NULL;
}

static Err *write_result(const Run *run)
{
    const RunState *s = &run->state;
    char *text = xformat(
        "{\"name\": \"%s\", \"seed\": %llu, \"student\": \"%s\", \"teacher\": \"%s\", "
        "\"last_top1\": %.4f, \"last_top5\": %.4f, \"best_top1\": %.4f, \"best_epoch\": %u, "
        "\"teacher_top1\": %.4f, \"steps\": %ld, \"train_seconds\": %.2f, \"images_per_s\": %.1f, "
        "\"nonfinite_steps\": %ld}\n",
        run->settings->name, (unsigned long long)run->settings->seed, run->settings->student_model,
        run->settings->teacher_model ? run->settings->teacher_model : "", s->last_top1,
        s->last_top5, s->best_top1, s->best_epoch, s->teacher_top1, s->step, s->train_seconds,
        s->train_seconds > 0 ? (double)s->train_images / s->train_seconds : 0.0,
        s->nonfinite_total);
    char *path = path_join(run->settings->out, "result.json");
    Err *err = file_write_atomic(path, text, strlen(text));
    free(path);
    free(text);
    return err;
}

static Err *finish(Run *run, RunResult *result)
{
    TRY(run_save_student(run, run->settings->out, "student_last.safetensors"));
    const RunState *s = &run->state;
    if (result) {
        *result = (RunResult){
            .best_top1 = s->best_top1,
            .last_top1 = s->last_top1,
            .last_top5 = s->last_top5,
            .teacher_top1 = s->teacher_top1,
            .best_epoch = s->best_epoch,
            .epochs = s->epoch,
            .train_seconds = s->train_seconds,
            .images_per_s = s->train_seconds > 0 ? (double)s->train_images / s->train_seconds : 0.0,
            .steps = s->step};
    }
    return write_result(run);
}

Err *train_run(const Settings *settings, Resume resume, RunResult *result)
{
    Run run;
    Err *err = run_open(settings, resume, &run);
    if (!err) {
        err = run_prepare(&run);
    }
    if (!err) {
        err = train(&run);
    }
    if (!err) {
        err = finish(&run, result);
    }
    run_close(&run);
    return err;
}
