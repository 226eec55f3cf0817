/* What happens at the end of an epoch and at a checkpoint: evaluation, records, best weights, saving; and what of all that
 * a person sees. */
#include "train/epoch.h"

#include "base/log.h"
#include "train/phases.h"
#include "train/records.h"

#include <math.h>
#include <stdlib.h>

/* ---- Progress ---- */

static long steps_of_run(const Run *run)
{
    const Settings *s = run->settings;
    const long all = (long)s->schedule.epochs * (long)feed_batches_per_epoch(run->feed);
    return s->max_steps > 0 && s->max_steps < all ? s->max_steps : all;
}

static bool evaluates(const Settings *s, int epoch)
{
    return epoch % s->eval_every == 0 || epoch == s->schedule.epochs;
}

/* Seconds to the end at the present speed, evaluations included; < 0: unknown. */
static double eta_s(const Run *run)
{
    if (run->times.mean_step <= 0.0) {
        return -1.0;
    }
    const long per_epoch = (long)feed_batches_per_epoch(run->feed);
    const long steps = steps_of_run(run);
    int evaluations = 0;
    for (int epoch = (int)run->state.epoch + 1; (long)epoch * per_epoch <= steps; epoch++) {
        evaluations += evaluates(run->settings, epoch);
    }
    return run->times.mean_step * (double)(steps - run->state.step) +
           run->times.evaluation * evaluations;
}

static double percent_of(double part, double rows, bool known)
{
    return known && rows > 0 ? 100.0 * part / rows : -1.0;
}

static int progress_terms(const Run *run, const Meter *m, ProgressTerm *terms)
{
    ObjectivePart parts[OBJECTIVE_MAX_PARTS];
    const int count = objective_parts(&run->objective.spec, parts);
    for (int i = 0; i < count; i++) {
        terms[i] =
            (ProgressTerm){.name = parts[i].name,
                           .weight = parts[i].weight,
                           .value = m->sums[parts[i].sum] / m->sums[SUM_ROWS] / parts[i].weight};
    }
    return count;
}

static ProgressState state_of(const Run *run)
{
    const Meter *m = &run->interval;
    const double rows = m->sums[SUM_ROWS];
    const bool teacher = run->settings->teacher_model != NULL;
    const Settings *s = run->settings;
    ProgressState state = {.epoch = (int)run->state.epoch + 1,
                           .epochs = s->schedule.epochs,
                           .step = run->state.step,
                           .steps = steps_of_run(run),
                           .epoch_share =
                               (double)run->state.position / (double)run->train_set->count,
                           .loss = m->sums[SUM_LOSS] / rows,
                           .top1 = percent_of(m->sums[SUM_TOP1], rows, true),
                           .teacher_top1 = percent_of(m->sums[SUM_TTOP1], rows, teacher),
                           .agreement = percent_of(m->sums[SUM_AGREE], rows, teacher),
                           .images_per_s = m->seconds > 0 ? rows / m->seconds : 0.0,
                           .lr = run->lr,
                           .eta_s = eta_s(run),
                           .nonfinite = run->state.nonfinite_total};
    state.n_terms = progress_terms(run, m, state.terms);
    if (!meter_phases(m, state.phases)) {
        (void)meter_phases(&run->state.epoch_meter, state.phases);
    }
    return state;
}

void epoch_progress(Run *run)
{
    if (run->interval.steps == 0) {
        return;
    }
    const ProgressState state = state_of(run);
    if (progress_step(run->progress, &state)) {
        records_step(run, state.eta_s);
        meter_reset(&run->interval);
        phases_ask(run->clock);
    }
}

void epoch_flush(Run *run)
{
    records_step(run, eta_s(run)); /* nothing where the interval holds no step */
    meter_reset(&run->interval);
}

void epoch_note_table(Run *run, const TableFill *fill)
{
    log_info("epoch %u/%d  teacher's logits: %ld from the memo, %ld computed, %.1f s",
             run->state.epoch + 1, run->settings->schedule.epochs, fill->known, fill->computed,
             fill->seconds);
    char *fields = xformat("\"epoch\":%u,\"known\":%ld,\"computed\":%ld,\"seconds\":%.6g",
                           run->state.epoch + 1, fill->known, fill->computed, fill->seconds);
    records_event(run, "memo", fields);
    free(fields);
}

/* ---- The end of an epoch ---- */

static void fill_record(const Run *run, const EvalResult *eval, EpochRecord *record)
{
    const Meter *m = &run->state.epoch_meter;
    const double rows = m->sums[SUM_ROWS] > 0 ? m->sums[SUM_ROWS] : 1.0;
    const bool teacher = run->settings->teacher_model != NULL;
    *record = (EpochRecord){
        .epoch = (int)run->state.epoch + 1,
        .step = run->state.step,
        .lr = run->lr,
        .train_loss = m->sums[SUM_LOSS] / rows,
        .train_ce = m->sums[SUM_CE] / rows,
        .train_top1 = 100.0 * m->sums[SUM_TOP1] / rows,
        .teacher_top1 = teacher ? 100.0 * m->sums[SUM_TTOP1] / rows : (double)NAN,
        .agreement = teacher ? 100.0 * m->sums[SUM_AGREE] / rows : (double)NAN,
        .n_terms = run->objective.spec.n_terms,
        .eval_top1 = eval ? eval->top1 : -1.0,
        .eval_top5 = eval ? eval->top5 : -1.0,
        .eval_loss = eval ? eval->loss : 0.0,
        .eval_count = eval ? eval->count : 0,
        .images_per_s = m->seconds > 0 ? m->sums[SUM_ROWS] / m->seconds : 0.0,
        .seconds = m->seconds,
        .data_share = m->seconds > 0 ? m->data_wait_s / m->seconds : 0.0,
        .loss_scale = run->scaling != LOSS_SCALE_NONE ? (double)run->state.loss_scale[0] : 0.0};
    for (int k = 0; k < record->n_terms; k++) {
        record->terms[k] = m->sums[SUM_TERM + k] / rows;
    }
    (void)meter_phases(m, record->phases);
}

static EvalResult evaluate_student(Run *run, bool final)
{
    RunState *st = &run->state;
    const double begin = now_s();
    exec_refresh(run->eval, true);
    const EvalResult eval = records_evaluate(run, final);
    run->times.evaluation = now_s() - begin;
    st->last_top1 = eval.top1;
    st->last_top5 = eval.top5;
    st->last_loss = eval.loss;
    st->last_epoch = st->epoch + 1;
    return eval;
}

static void show_epoch(const Run *run, const EpochRecord *record)
{
    progress_epoch(run->progress, &(ProgressEpoch){.epoch = record->epoch,
                                                   .epochs = run->settings->schedule.epochs,
                                                   .step = record->step,
                                                   .train_loss = record->train_loss,
                                                   .train_top1 = record->train_top1,
                                                   .eval_top1 = record->eval_top1,
                                                   .eval_top5 = record->eval_top5,
                                                   .teacher_top1 = run->state.teacher_top1,
                                                   .images_per_s = record->images_per_s,
                                                   .seconds = record->seconds,
                                                   .eta_s = eta_s(run),
                                                   .evaluated = record->eval_top1 >= 0.0,
                                                   .best = record->best});
}

void epoch_end(Run *run, bool ended)
{
    const Settings *s = run->settings;
    RunState *st = &run->state;
    const int epoch = (int)st->epoch + 1;
    const bool final = epoch == s->schedule.epochs || st->step == s->max_steps;
    const bool due = final || evaluates(s, epoch);
    const EvalResult eval = due ? evaluate_student(run, final) : (EvalResult){0};
    EpochRecord record;
    fill_record(run, due ? &eval : NULL, &record);
    if (due && eval.top1 > st->best_top1) {
        Err *err = run_save_student(run, s->out, "student_best.safetensors");
        if (!err) { /* weights that are not there are not the best */
            st->best_top1 = eval.top1;
            st->best_epoch = (uint32_t)epoch;
            record.best = true;
        }
        records_note(run, err);
    }
    if (ended) {
        st->epoch++;
        st->position = 0;
        meter_reset(&st->epoch_meter);
    }
    show_epoch(run, &record);
    records_epoch(run, &record);
}

/* ---- Checkpoints ---- */

bool epoch_save_due(const Run *run, bool epoch_ended)
{
    const long every = run->settings->checkpoint_every;
    return every > 0 ? run->state.step % every == 0 : epoch_ended;
}

/* A checkpoint that is due but cannot be written costs a warning, not the run: the last good one stays, the next interval
 * tries again. A checkpoint that somebody waits for (the end, a signal) must succeed. */
Err *epoch_save(Run *run, bool epoch_ended, bool must)
{
    if (!must && (!epoch_save_due(run, epoch_ended) || run->state.nonfinite_streak > 0)) {
        return NULL;
    }
    const double begin = now_s();
    Err *err = run_save(run);
    run->times.save = now_s() - begin;
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
