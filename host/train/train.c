/* THE loop. A step is: write the batch, run the step graph (teacher, student, loss, gradient), run the update, pack the
 * new weights; then the previous step's sums are looked at, so that nothing waits for the device. Everything is a
 * function of (epoch, position): where a checkpoint is taken never changes what comes after it. */
#include "train/train.h"

#include "base/files.h"
#include "base/log.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double last_line;
    Meter interval;
    long interval_images;
} Pace;

static void write_hyper(Run *run, const Batch *batch)
{
    const Settings *s = run->settings;
    const int step = (int)(batch->position / (uint32_t)s->batch);
    const int steps = (int)loader_batches_per_epoch(run->loader);
    run->hyper[HYPER_LR] = (float)schedule_lr(&s->schedule, (int)batch->epoch, step, steps);
    run->hyper[HYPER_MOMENTUM] = (float)s->momentum;
    run->hyper[HYPER_DAMPENING] = (float)s->dampening;
    run->hyper[HYPER_NESTEROV] = s->nesterov ? 1.0f : 0.0f;
    run->hyper[HYPER_WEIGHT_DECAY] = (float)s->weight_decay;
    run->hyper[HYPER_GRAD_SCALE] = 1.0f;
    run->hyper[HYPER_CLIP_NORM] = (float)s->clip_grad;
    run->hyper[HYPER_FIRST] = run->state.step == 0 ? 1.0f : 0.0f;
    exec_write(run->update, "hyper", run->hyper, sizeof run->hyper);
}

static void run_step(Run *run, const Batch *batch)
{
    exec_write(run->step, "images", batch->images, batch->n * dataset_image_size(run->train_set));
    exec_write(run->step, "labels", batch->labels, batch->n * sizeof *batch->labels);
    for (int i = 0; i < run->objective.program.n_phases; i++) {
        const Phase *phase = &run->objective.program.phases[i];
        CHECK(phase->source == BATCH_STREAM && phase->batch == 0, "phase %s: no such batch here",
              phase->name);
        if (run->state.step % phase->every != 0) {
            continue;
        }
        exec_run(run->step, &(ExecRun){.rows = (int)batch->n,
                                       .grad_add = phase->gradient == GRADIENT_ADD,
                                       .bn_update = phase->bn == PHASE_BN_UPDATE,
                                       .scale = 1.0f / (float)batch->global_n});
    }
    write_hyper(run, batch);
    exec_run(run->update, &(ExecRun){.rows = 1});
    exec_refresh(run->step, true);
}

/* Adds the step's sums to the meters and watches for updates that were skipped. */
static Err *account(Run *run, Pace *pace, long images)
{
    float sums[SUM_FIELDS];
    float grad_stats[2];
    exec_read(run->step, "sums", sums, sizeof sums);
    exec_read(run->update, "grad_stats", grad_stats, sizeof grad_stats);
    meter_add(&run->state.epoch_meter, sums);
    meter_add(&pace->interval, sums);
    pace->interval_images += images;
    run->state.train_images += images;
    if (grad_stats[1] == 0.0f) {
        run->state.nonfinite_streak = 0;
        return NULL;
    }
    run->state.nonfinite_total++;
    run->state.nonfinite_streak++;
    log_warn("step %ld: the gradient is not finite (%.0f elements), update skipped",
             run->state.step, (double)grad_stats[1]);
    if (run->state.nonfinite_streak < run->settings->max_nonfinite) {
        return NULL;
    }
    return err_new(EXIT_NOT_FINITE,
                   "%d updates in a row had a gradient that is not finite, up to step %ld: lower "
                   "optim.lr (now %g), set optim.clip_grad, or use train.precision = fp32",
                   run->state.nonfinite_streak, run->state.step, (double)run->hyper[HYPER_LR]);
}

static Err *progress(Run *run, Pace *pace)
{
    const double now = now_s();
    const double seconds = now - pace->last_line;
    if (seconds < run->settings->log_every_s) {
        return NULL;
    }
    const Meter *m = &pace->interval;
    const double rows = m->sums[SUM_ROWS];
    log_info("epoch %u/%d  step %ld  loss %.4f  top-1 %.2f %%  lr %.5f  %.0f img/s",
             run->state.epoch + 1, run->settings->schedule.epochs, run->state.step,
             m->sums[SUM_LOSS] / rows, 100.0 * m->sums[SUM_TOP1] / rows,
             (double)run->hyper[HYPER_LR], (double)pace->interval_images / seconds);
    Err *err = metrics_step(run->metrics, run->state.step, (int)run->state.epoch + 1,
                            (double)run->hyper[HYPER_LR], m, run->objective.spec.n_terms);
    meter_reset(&pace->interval);
    pace->interval_images = 0;
    pace->last_line = now;
    return err;
}

static void fill_record(const Run *run, const EvalResult *eval, double images_per_s,
                        EpochRecord *record)
{
    const Meter *m = &run->state.epoch_meter;
    const double rows = m->sums[SUM_ROWS] > 0 ? m->sums[SUM_ROWS] : 1.0;
    *record = (EpochRecord){.epoch = (int)run->state.epoch + 1,
                            .step = run->state.step,
                            .lr = (double)run->hyper[HYPER_LR],
                            .train_loss = m->sums[SUM_LOSS] / rows,
                            .train_ce = m->sums[SUM_CE] / rows,
                            .train_top1 = 100.0 * m->sums[SUM_TOP1] / rows,
                            .teacher_top1 = 100.0 * m->sums[SUM_TTOP1] / rows,
                            .agreement = 100.0 * m->sums[SUM_AGREE] / rows,
                            .n_terms = run->objective.spec.n_terms,
                            .eval_top1 = eval ? eval->top1 : -1.0,
                            .eval_top5 = eval ? eval->top5 : -1.0,
                            .eval_loss = eval ? eval->loss : 0.0,
                            .eval_count = eval ? eval->count : 0,
                            .images_per_s = images_per_s,
                            .seconds = m->seconds,
                            .data_share = m->seconds > 0 ? m->data_wait_s / m->seconds : 0.0};
    for (int k = 0; k < record->n_terms; k++) {
        record->terms[k] = m->sums[SUM_TERM + k] / rows;
    }
}

/* Evaluates when due, records the epoch, and (at its end, not where max_steps cut it short) moves on to the next. */
static Err *end_epoch(Run *run, bool ended)
{
    const Settings *s = run->settings;
    RunState *st = &run->state;
    const int epoch = (int)st->epoch + 1;
    const bool final = epoch == s->schedule.epochs || st->step == s->max_steps;
    const bool due = epoch % s->eval_every == 0 || final;
    const double images_per_s = st->epoch_meter.seconds > 0
                                    ? st->epoch_meter.sums[SUM_ROWS] / st->epoch_meter.seconds
                                    : 0.0;
    EvalResult eval;
    EpochRecord record;
    if (due) {
        exec_refresh(run->eval, true);
        eval = evaluate(run->eval, run->test_set, false);
        st->last_top1 = eval.top1;
        st->last_top5 = eval.top5;
        st->last_loss = eval.loss;
        st->last_epoch = (uint32_t)epoch;
    }
    fill_record(run, due ? &eval : NULL, images_per_s, &record);
    if (due && eval.top1 > st->best_top1) {
        st->best_top1 = eval.top1;
        st->best_epoch = (uint32_t)epoch;
        record.best = true;
        TRY(run_save_student(run, s->out, "student_best.safetensors"));
    }
    if (due) {
        log_info("epoch %d/%d  train loss %.4f  test top-1 %.2f %%  top-5 %.2f %%%s  %.0f img/s",
                 epoch, s->schedule.epochs, record.train_loss, eval.top1, eval.top5,
                 record.best ? "  best" : "", images_per_s);
    }
    if (ended) {
        st->epoch++;
        st->position = 0;
        meter_reset(&st->epoch_meter);
    }
    return metrics_epoch(run->metrics, &record);
}

static bool checkpoint_due(const Run *run, bool epoch_ended)
{
    const long every = run->settings->checkpoint_every;
    return every > 0 ? run->state.step % every == 0 : epoch_ended;
}

/* One batch from arrival to evaluation. *stop is set at the end of training. */
static Err *train_batch(Run *run, const Batch *batch, Pace *pace, double wait_s, bool *epoch_ended,
                        bool *stop)
{
    const Settings *s = run->settings;
    RunState *st = &run->state;
    const double begin = now_s();
    run_step(run, batch);
    *epoch_ended = batch->last;
    const long images = (long)batch->n;
    st->position = batch->position + batch->global_n;
    loader_release(run->loader, batch);
    st->step++;
    TRY(account(run, pace, images));
    const double seconds = now_s() - begin + wait_s;
    st->epoch_meter.seconds += seconds;
    st->epoch_meter.data_wait_s += wait_s;
    st->train_seconds += seconds;
    pace->interval.seconds += seconds;
    pace->interval.data_wait_s += wait_s;
    *stop = (*epoch_ended && (int)st->epoch + 1 == s->schedule.epochs) || st->step == s->max_steps;
    TRY(progress(run, pace));
    if (*epoch_ended || *stop) {
        const double before = now_s();
        TRY(end_epoch(run, *epoch_ended));
        pace->last_line += now_s() - before; /* evaluation does not count as training time */
    }
    return NULL;
}

/* A checkpoint that is due but cannot be written costs a warning, not the run: the last good one stays, the next interval
 * tries again. A checkpoint that somebody waits for (the end, a signal) must succeed. */
static Err *save_if_due(Run *run, bool epoch_ended, bool must)
{
    if (!must && !checkpoint_due(run, epoch_ended)) {
        return NULL;
    }
    Err *err = run_save(run);
    if (!err) {
        run->save_failures = 0;
        return NULL;
    }
    run->save_failures++;
    if (must || run->save_failures >= run->settings->max_save_failures) {
        return err;
    }
    log_warn("step %ld: checkpoint not written (%d of %d failures allowed in a row): %s",
             run->state.step, run->save_failures, run->settings->max_save_failures - 1,
             err->message);
    err_free(err);
    return NULL;
}

static bool finished(const Run *run)
{
    const Settings *s = run->settings;
    return (int)run->state.epoch >= s->schedule.epochs ||
           (s->max_steps > 0 && run->state.step >= s->max_steps);
}

Err *train(Run *run)
{
    Pace pace = {.last_line = now_s()};
    bool stop = finished(run);
    while (!stop) {
        const double asked = now_s();
        const Batch *batch = loader_next(run->loader);
        if (!batch) {
            continue; /* end of an epoch: end_epoch ran with its last batch */
        }
        bool epoch_ended;
        TRY(train_batch(run, batch, &pace, now_s() - asked, &epoch_ended, &stop));
        const int signal =
            signals_pending(); /* looked at once, so that what is saved and what is said agree */
        TRY(save_if_due(run, epoch_ended, stop || signal));
        if (signal && !stop) {
            return err_new(signals_exit_code(signal),
                           "stopped by signal %d at step %ld: checkpoint written, run the "
                           "same command again to resume",
                           signal, run->state.step);
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
