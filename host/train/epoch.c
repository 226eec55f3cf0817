/* What happens at the end of an epoch and at a checkpoint: evaluation, records, best weights, saving. */
#include "train/epoch.h"

#include "base/log.h"

#include <stdlib.h>

/* Records that cannot be written (a full disk, a removed file) cost a warning, once, never the run:
 * what must not be lost is the checkpoint, which has its own policy. */
static void note(Run *run, Err *err)
{
    if (!err) {
        run->record_failed = false;
        return;
    }
    if (!run->record_failed) {
        log_warn("step %ld: %s; training goes on", run->state.step, err->message);
    }
    run->record_failed = true;
    err_free(err);
}

void epoch_progress(Run *run)
{
    const double now = now_s();
    const double seconds = now - run->last_line;
    if (seconds < run->settings->log_every_s || run->interval.steps == 0) {
        return;
    }
    const Meter *m = &run->interval;
    const double rows = m->sums[SUM_ROWS];
    log_info("epoch %u/%d  step %ld  loss %.4f  top-1 %.2f %%  lr %.5f  %.0f img/s",
             run->state.epoch + 1, run->settings->schedule.epochs, run->state.step,
             m->sums[SUM_LOSS] / rows, 100.0 * m->sums[SUM_TOP1] / rows, run->lr, rows / seconds);
    note(run, metrics_step(run->metrics, run->state.step, (int)run->state.epoch + 1, run->lr, m,
                           run->objective.spec.n_terms));
    meter_reset(&run->interval);
    run->last_line = now;
}

void epoch_note_table(Run *run, const TableFill *fill)
{
    log_info("epoch %u/%d  teacher's logits: %ld from the memo, %ld computed, %.1f s",
             run->state.epoch + 1, run->settings->schedule.epochs, fill->known, fill->computed,
             fill->seconds);
    char *fields = xformat("\"epoch\":%u,\"known\":%ld,\"computed\":%ld,\"seconds\":%.6g",
                           run->state.epoch + 1, fill->known, fill->computed, fill->seconds);
    note(run, metrics_event(run->metrics, "memo", run->state.step, fields));
    free(fields);
}

static void fill_record(const Run *run, const EvalResult *eval, double images_per_s,
                        EpochRecord *record)
{
    const Meter *m = &run->state.epoch_meter;
    const double rows = m->sums[SUM_ROWS] > 0 ? m->sums[SUM_ROWS] : 1.0;
    *record = (EpochRecord){
        .epoch = (int)run->state.epoch + 1,
        .step = run->state.step,
        .lr = run->lr,
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
        .data_share = m->seconds > 0 ? m->data_wait_s / m->seconds : 0.0,
        .loss_scale = run->scaling != LOSS_SCALE_NONE ? (double)run->state.loss_scale[0] : 0.0};
    for (int k = 0; k < record->n_terms; k++) {
        record->terms[k] = m->sums[SUM_TERM + k] / rows;
    }
}

void epoch_end(Run *run, bool ended)
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
    const double begin = now_s();
    if (due) {
        exec_refresh(run->eval, true);
        eval = evaluate(run->eval, run->test_set, false, false);
        st->last_top1 = eval.top1;
        st->last_top5 = eval.top5;
        st->last_loss = eval.loss;
        st->last_epoch = (uint32_t)epoch;
    }
    run->last_line += now_s() - begin; /* evaluation does not count as training time */
    fill_record(run, due ? &eval : NULL, images_per_s, &record);
    if (due && eval.top1 > st->best_top1) {
        st->best_top1 = eval.top1;
        st->best_epoch = (uint32_t)epoch;
        record.best = true;
        note(run, run_save_student(run, s->out, "student_best.safetensors"));
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
    note(run, metrics_epoch(run->metrics, &record));
}

bool epoch_save_due(const Run *run, bool epoch_ended)
{
    const long every = run->settings->checkpoint_every;
    return every > 0 ? run->state.step % every == 0 : epoch_ended;
}

/* A checkpoint that is due but cannot be written costs a warning, not the run: the last good one stays, the next interval
 * tries again. A checkpoint that somebody waits for (the end, a signal) must succeed. */
Err *epoch_save(Run *run, bool epoch_ended, bool must)
{
    if (!must && !epoch_save_due(run, epoch_ended)) {
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
