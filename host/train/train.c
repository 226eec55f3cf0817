/* THE loop. A step is: take a batch, submit it (teacher, student, loss, gradient, update, packing of the new weights), and
 * meanwhile account for the step before. Everything is a function of (epoch, position): where a checkpoint is taken never
 * changes what comes after it. */
#include "train/train.h"

#include "base/files.h"
#include "base/log.h"
#include "train/epoch.h"
#include "train/signals.h"
#include "train/step.h"
#include "train/teacher_table.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* Before the first step of an epoch, and of a resumed one: the teacher's logits of what is to come. False when a signal
 * came before they were complete. */
static bool fill_table(Run *run)
{
    const RunState *st = &run->state;
    if (!run->table || (run->table_filled && run->table_epoch == st->epoch)) {
        return true;
    }
    const TableFill fill = teacher_table_fill(run->table, run->step, st->epoch, st->position);
    run->table_filled = !fill.stopped;
    run->table_epoch = st->epoch;
    epoch_note_table(run, &fill);
    return run->table_filled;
}

Err *train(Run *run)
{
    const Settings *s = run->settings;
    run->last_line = now_s();
    while (!run_finished(run)) {
        const double begin = now_s();
        if (!fill_table(run)) {
            TRY(epoch_save(run, false, true));
            return leave(run, signals_pending());
        }
        const double filled = now_s();
        const Batch *batch = feed_next(run->feed);
        if (!batch) {
            continue; /* the end of an epoch, which was dealt with after its last batch */
        }
        const double wait_s = now_s() - filled;
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
        epoch_progress(run);
        if (ended || stop) {
            epoch_end(run, ended);
        }
        TRY(epoch_save(run, ended, stop || signal));
        if (signal && !stop) {
            return leave(run, signal);
        }
    }
    return NULL;
}

static json_t *percent(double value)
{
    return isfinite(value) && value >= 0.0 ? json_real(value) : json_null();
}

static Err *write_result(const Run *run, const RunResult *r)
{
    const Settings *s = run->settings;
    json_t *root =
        json_pack("{s:s, s:I, s:s, s:s, s:o, s:o, s:o, s:i, s:o, s:I, s:f, s:f, s:I}", "name",
                  s->name, "seed", (json_int_t)s->seed, "student", s->student_model, "teacher",
                  s->teacher_model ? s->teacher_model : "", "last_top1", percent(r->last_top1),
                  "last_top5", percent(r->last_top5), "best_top1", percent(r->best_top1),
                  "best_epoch", (int)r->best_epoch, "teacher_top1", percent(r->teacher_top1),
                  "steps", (json_int_t)r->steps, "train_seconds", r->train_seconds, "images_per_s",
                  r->images_per_s, "nonfinite_steps", (json_int_t)run->state.nonfinite_total);
    CHECK(root, "result.json could not be made");
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    char *path = path_join(s->out, "result.json");
    Err *err = file_write_atomic(path, text, strlen(text));
    free(path);
    free(text);
    json_decref(root);
    return err;
}

static Err *finish(Run *run, RunResult *result)
{
    TRY(run_save_student(run, run->settings->out, "student_last.safetensors"));
    const RunState *s = &run->state;
    *result = (RunResult){
        .best_top1 = s->best_top1,
        .last_top1 = s->last_top1,
        .last_top5 = s->last_top5,
        .teacher_top1 = s->teacher_top1,
        .best_epoch = s->best_epoch,
        .epochs = s->epoch,
        .train_seconds = s->train_seconds,
        .images_per_s = s->train_seconds > 0 ? (double)s->train_images / s->train_seconds : 0.0,
        .steps = s->step,
        .resident = run->wiring.resident,
        .recordings = step_recordings(run)};
    return write_result(run, result);
}

Err *train_run(const Settings *settings, Resume resume, RunResult *result)
{
    Run run;
    RunResult ignored;
    Err *err = run_open(settings, resume, &run);
    if (!err) {
        err = run_prepare(&run);
    }
    if (!err) {
        err = train(&run);
    }
    if (!err) {
        err = finish(&run, result ? result : &ignored);
    }
    run_close(&run);
    return err;
}
