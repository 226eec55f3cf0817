/* One training step: submitting it, and looking at its sums when it has run. Two steps are in flight: while one runs, the
 * one before is accounted for, so nothing waits for the device except where an epoch or a checkpoint needs all sums. */
#include "train/step.h"

#include "base/log.h"

#include <string.h>

/* `hyper` must live until the step has run. */
static void write_hyper(Run *run, const Batch *batch, float hyper[HYPER_COUNT])
{
    const Settings *s = run->settings;
    const int step = (int)(batch->position / (uint32_t)s->batch);
    const int steps = (int)loader_batches_per_epoch(run->loader);
    hyper[HYPER_LR] = (float)schedule_lr(&s->schedule, (int)batch->epoch, step, steps);
    hyper[HYPER_MOMENTUM] = (float)s->momentum;
    hyper[HYPER_DAMPENING] = (float)s->dampening;
    hyper[HYPER_NESTEROV] = s->nesterov ? 1.0f : 0.0f;
    hyper[HYPER_WEIGHT_DECAY] = (float)s->weight_decay;
    hyper[HYPER_GRAD_SCALE] = 1.0f;
    hyper[HYPER_CLIP_NORM] = (float)s->clip_grad;
    hyper[HYPER_FIRST] = run->state.step == 0 ? 1.0f : 0.0f;
    exec_write(run->update, "hyper", hyper, HYPER_COUNT * sizeof *hyper);
}

static void run_phases(Run *run, const Batch *batch)
{
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
}

void step_submit(Run *run, const Batch *batch)
{
    Flight *f = &run->flights[run->state.step % FLIGHTS];
    Backend *b = run->backend;
    CHECK(!f->batch, "step %ld was never accounted for", f->step);
    exec_write(run->step, "images", batch->images, batch->n * dataset_image_size(run->train_set));
    exec_write(run->step, "labels", batch->labels, batch->n * sizeof *batch->labels);
    run_phases(run, batch);
    write_hyper(run, batch, f->hyper);
    exec_run(run->update, &(ExecRun){.rows = 1});
    exec_refresh(run->step, true);
    exec_fetch(run->step, "sums", f->sums, sizeof f->sums);
    exec_fetch(run->update, "grad_stats", f->grad_stats, sizeof f->grad_stats);
    b->record(b, QUEUE_COMPUTE, f->event);
    f->batch = batch;
    run->lr = (double)f->hyper[HYPER_LR];
    run->state.step++;
    run->state.position = batch->position + batch->global_n;
    f->step = run->state.step;
}

/* The host waits for one event: a queue that has nothing else to do waits for it, and the host for the queue. */
static void await_event(Backend *b, int event)
{
    b->wait(b, QUEUE_COPY, event);
    b->sync(b, QUEUE_COPY);
}

static Err *watch_finite(Run *run, const Flight *f)
{
    if (f->grad_stats[1] == 0.0f) {
        run->state.nonfinite_streak = 0;
        return NULL;
    }
    run->state.nonfinite_total++;
    run->state.nonfinite_streak++;
    log_warn("step %ld: the gradient is not finite (%.0f elements), update skipped", f->step,
             (double)f->grad_stats[1]);
    if (run->state.nonfinite_streak < run->settings->max_nonfinite) {
        return NULL;
    }
    return err_new(EXIT_NOT_FINITE,
                   "%d updates in a row had a gradient that is not finite, up to step %ld: lower "
                   "optim.lr (now %g), set optim.clip_grad, or use train.precision = fp32",
                   run->state.nonfinite_streak, f->step, (double)f->hyper[HYPER_LR]);
}

static Err *land(Run *run, Flight *f)
{
    if (!f->batch) {
        return NULL;
    }
    await_event(run->backend, f->event);
    meter_add(&run->state.epoch_meter, f->sums);
    meter_add(&run->interval, f->sums);
    run->state.train_images += (long)f->batch->n;
    loader_release(run->loader, f->batch);
    f->batch = NULL;
    return watch_finite(run, f);
}

Err *step_land_previous(Run *run)
{
    return land(run, &run->flights[run->state.step % FLIGHTS]);
}

Err *step_land_all(Run *run)
{
    for (int i = 0; i < FLIGHTS; i++) {
        TRY(land(run, &run->flights[(run->state.step + i) % FLIGHTS]));
    }
    return NULL;
}

void step_open(Run *run)
{
    for (int i = 0; i < FLIGHTS; i++) {
        run->flights[i].event = run->backend->event(run->backend);
    }
}
