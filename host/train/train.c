/* THE loop. A step is: take a batch, submit it (teacher, student, loss, gradient, update, packing of the new weights), and
 * meanwhile account for the step before. Everything is a function of (epoch, position): where a checkpoint is taken never
 * changes what comes after it. */
#include "train/train.h"

#include "base/files.h"
#include "base/log.h"
#include "train/epoch.h"
#include "train/records.h"
#include "train/rundir.h"
#include "train/step.h"
#include "train/stop.h"
#include "train/teacher_table.h"

#include <stdio.h>
#include <stdlib.h>

/* Before the first step of an epoch, and of a resumed one: the teacher's logits of what is to come. False when the run was
 * asked to leave before they were complete. */
static bool fill_table(Run *run)
{
    const RunState *st = &run->state;
    if (!run->table || (run->table_filled && run->table_epoch == st->epoch)) {
        return true;
    }
    const TableFill fill =
        teacher_table_fill(run->table, run->step, st->epoch, st->position, stop_time(run));
    run->table_filled = !fill.stopped;
    run->table_epoch = st->epoch;
    epoch_note_table(run, &fill);
    return run->table_filled;
}

Err *train(Run *run)
{
    const Settings *s = run->settings;
    double fill_s = 0.0; /* of the teacher's table, since the last step */
    while (!run_finished(run)) {
        const double begin = now_s();
        if (!fill_table(run)) {
            const int stop = stop_asked(run);
            TRY(epoch_save(run, false, true));
            return stop_error(run, stop);
        }
        const double filled = now_s();
        fill_s += filled - begin;
        const Batch *batch = feed_next(run->feed);
        if (!batch) {
            continue; /* the end of an epoch, which was dealt with after its last batch */
        }
        const double wait_s = now_s() - filled;
        const bool ended = batch->last;
        step_submit(run, batch);
        TRY(step_land_previous(run));
        const bool last = (ended && (int)run->state.epoch + 1 == s->schedule.epochs) ||
                          run->state.step == s->max_steps;
        const int stop = stop_asked(run); /* asked once: what is saved and what is said agree */
        if (ended || last || stop || epoch_save_due(run, ended)) {
            TRY(step_land_all(run));
        }
        step_add_time(run, fill_s, now_s() - filled, wait_s);
        fill_s = 0.0;
        epoch_progress(run);
        if (ended || last || stop) {
            epoch_flush(run);
        }
        if (ended || last) {
            epoch_end(run, ended);
        }
        TRY(epoch_save(run, ended, last || stop));
        if (stop && !last) {
            return stop_error(run, stop);
        }
    }
    return NULL;
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
        .teacher_top5 = s->teacher_top5,
        .agreement = s->agreement,
        .best_epoch = s->best_epoch,
        .epochs = s->epoch,
        .train_seconds = s->train_seconds,
        .images_per_s = s->train_seconds > 0 ? (double)s->train_images / s->train_seconds : 0.0,
        .steps = s->step,
        .nonfinite = s->nonfinite_total,
        .resident = run->wiring.resident,
        .recordings = step_recordings(run)};
    (void)snprintf(result->out, sizeof result->out, "%s", run->settings->out);
    return NULL;
}

/* From here on what is said goes to the run's log, too. */
static void begin_log(const Run *run)
{
    char *path = path_join(run->settings->out, RUN_LOG);
    progress_log_to(run->progress, path);
    free(path);
}

Err *train_run(const Settings *settings, Resume resume, RunResult *result)
{
    const double begun = now_s();
    Progress *progress = progress_open(settings->progress, settings->log_every_s);
    Run run;
    RunResult own;
    result = result ? result : &own;
    Err *err = run_open(settings, resume, &run);
    run.progress = progress;
    run.times.begun = begun;
    if (!err) {
        begin_log(&run);
        err = run_prepare(&run);
    }
    if (!err) {
        err = train(&run);
    }
    if (!err) {
        err = finish(&run, result);
    }
    records_end(&run, err);
    run_close(&run);
    progress_close(progress, err ? err->message : NULL);
    if (!err && settings->report_auto && settings->finished) {
        settings->finished(result->out);
    }
    return err;
}
