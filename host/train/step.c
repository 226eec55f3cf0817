/* One training step: submitting it, and looking at its sums when it has run. Two steps are in flight: while one runs, the
 * one before is accounted for, so nothing waits for the device except where an epoch or a checkpoint needs all sums.
 * What changes from step to step lies in the flight's StepMemory, which the submitted transfers read: so a step can be
 * recorded and replayed. */
#include "train/step.h"

#include "base/log.h"
#include "train/nonfinite.h"
#include "train/norm_limit.h"
#include "train/phases.h"

#include <string.h>

static void write_hyper(const Run *run, const Batch *batch, float hyper[HYPER_COUNT])
{
    const Settings *s = run->settings;
    const int step = (int)(batch->position / (uint32_t)s->batch);
    const int steps = (int)feed_batches_per_epoch(run->feed);
    hyper[HYPER_LR] = (float)schedule_lr(&s->schedule, (int)batch->epoch, step, steps);
    hyper[HYPER_MOMENTUM] = (float)s->momentum;
    hyper[HYPER_DAMPENING] = (float)s->dampening;
    hyper[HYPER_NESTEROV] = s->nesterov ? 1.0f : 0.0f;
    hyper[HYPER_WEIGHT_DECAY] = (float)s->weight_decay;
    hyper[HYPER_GRAD_SCALE] = 1.0f;
    hyper[HYPER_CLIP_NORM] = (float)s->clip_grad;
    hyper[HYPER_FIRST] = run->state.step == 0 ? 1.0f : 0.0f;
    hyper[HYPER_SKIP_NORM] = norm_limit(run->state.norms, run->state.step, s->skip_zscore);
}

/* ---- The runs of a step ---- */

/* Bit i: phase i runs in this step. */
static unsigned program_due(const Run *run)
{
    unsigned due = 0;
    for (int i = 0; i < run->objective.program.n_phases; i++) {
        const Phase *phase = &run->objective.program.phases[i];
        CHECK(phase->source == BATCH_STREAM && phase->batch == 0, "phase %s: no such batch here",
              phase->name);
        due |= run->state.step % phase->every == 0 ? 1u << i : 0u;
    }
    return due;
}

static ExecRun phase_run(const Run *run, int i, const Batch *batch, StepMemory *memory)
{
    const Phase *phase = &run->objective.program.phases[i];
    return (ExecRun){.rows = (int)batch->n,
                     .grad_add = phase->gradient == GRADIENT_ADD,
                     .bn_update = phase->bn == PHASE_BN_UPDATE,
                     .scale = 1.0f / (float)batch->global_n,
                     .scalars = &memory->phases[i]};
}

static ExecRun update_run(StepMemory *memory)
{
    return (ExecRun){.rows = 1, .scalars = &memory->update};
}

/* clock NULL: the step is not clocked, nothing waits. */
static void run_exec(PhaseClock *clock, Exec *exec, const ExecRun *run)
{
    if (clock) {
        phases_run(clock, exec, run);
    } else {
        exec_run(exec, run);
    }
}

static void lap(PhaseClock *clock, ProgressShare phase)
{
    if (clock) {
        phases_lap(clock, phase);
    }
}

/* All of a step that the device does: with fixed addresses, so that it can be recorded. */
static void enqueue(Run *run, const Batch *batch, unsigned phases, StepMemory *memory,
                    PhaseClock *clock)
{
    Backend *b = run->backend;
    feed_enqueue(run->feed, memory->cursor);
    lap(clock, SHARE_DATA);
    for (int i = 0; i < run->objective.program.n_phases; i++) {
        if (phases >> i & 1u) {
            const ExecRun phase = phase_run(run, i, batch, memory);
            run_exec(clock, run->step, &phase);
        }
    }
    exec_write(run->update, "hyper", memory->hyper, sizeof memory->hyper);
    const ExecRun update = update_run(memory);
    run_exec(clock, run->update, &update);
    exec_refresh(run->step, true);
    lap(clock, SHARE_UPDATE);
    exec_fetch(run->step, "sums", memory->sums, sizeof memory->sums);
    exec_fetch(run->update, "grad_stats", memory->grad_stats, sizeof memory->grad_stats);
    b->download(b, QUEUE_COMPUTE, memory->loss_scale, run->shared, sizeof memory->loss_scale);
}

/* ---- Recording ---- */

static Capture *find_capture(Run *run, const Batch *batch, int flight, unsigned phases)
{
    for (int i = 0; i < run->n_captures; i++) {
        Capture *c = &run->captures[i];
        if (c->rows == (int)batch->n && c->flight == flight && c->phases == phases) {
            return c;
        }
    }
    return NULL;
}

/* The scalars that a replay reads in place of its ExecRun. */
static void write_scalars(const Run *run, const Batch *batch, unsigned phases, StepMemory *memory)
{
    for (int i = 0; i < run->objective.program.n_phases; i++) {
        if (phases >> i & 1u) {
            const ExecRun phase = phase_run(run, i, batch, memory);
            exec_write_scalars(&memory->phases[i], &phase);
        }
    }
    const ExecRun update = update_run(memory);
    exec_write_scalars(&memory->update, &update);
}

/* The first step of a kind runs plainly: whatever is made at first use is then there. */
static void enqueue_captured(Run *run, const Batch *batch, int flight, unsigned phases)
{
    Backend *b = run->backend;
    StepMemory *memory = run->flights[flight].memory;
    Capture *c = find_capture(run, batch, flight, phases);
    if (!c) {
        if (run->n_captures < MAX_CAPTURES) {
            run->captures[run->n_captures++] = (Capture){.rows = (int)batch->n,
                                                         .flight = flight,
                                                         .phases = phases,
                                                         .recording = NOT_RECORDED};
        }
        enqueue(run, batch, phases, memory, NULL);
        return;
    }
    if (c->recording == NOT_RECORDED) {
        b->capture_begin(b, QUEUE_COMPUTE);
        enqueue(run, batch, phases, memory, NULL);
        c->recording = b->capture_end(b, QUEUE_COMPUTE);
    }
    write_scalars(run, batch, phases, memory);
    b->replay(b, QUEUE_COMPUTE, c->recording);
}

int step_recordings(const Run *run)
{
    int count = 0;
    for (int i = 0; i < run->n_captures; i++) {
        count += run->captures[i].recording != NOT_RECORDED;
    }
    return count;
}

/* ---- Submission ---- */

static void submit_clocked(Run *run, const Batch *batch, unsigned phases, StepMemory *memory)
{
    phases_begin(run->clock);
    feed_upload(run->feed, batch, memory->cursor);
    enqueue(run, batch, phases, memory, run->clock);
    phases_end(run->clock, &run->interval);
    phases_end(run->clock, &run->state.epoch_meter);
}

void step_submit(Run *run, const Batch *batch)
{
    const int flight = (int)(run->state.step % FLIGHTS);
    Flight *f = &run->flights[flight];
    Backend *b = run->backend;
    CHECK(!f->batch, "step %ld was never accounted for", f->step);
    write_hyper(run, batch, f->memory->hyper);
    const unsigned phases = program_due(run);
    if (phases_due(run->clock)) {
        submit_clocked(run, batch, phases, f->memory);
    } else {
        feed_upload(run->feed, batch, f->memory->cursor);
        if (run->capture) {
            enqueue_captured(run, batch, flight, phases);
        } else {
            enqueue(run, batch, phases, f->memory, NULL);
        }
    }
    b->record(b, QUEUE_COMPUTE, f->event);
    f->batch = batch;
    run->lr = (double)f->memory->hyper[HYPER_LR];
    run->state.step++;
    run->state.position = batch->position + batch->global_n;
    f->step = run->state.step;
}

/* ---- Accounting ---- */

/* The host waits for one event: a queue that has nothing else to do waits for it, and the host for the queue. */
static void await_event(Backend *b, int event)
{
    b->wait(b, QUEUE_COPY, event);
    b->sync(b, QUEUE_COPY);
}

/* A dynamic loss scale is meant to be too high now and then: the update is skipped, the scale has been halved, and that is
 * all (PyTorch's GradScaler). Only when it has reached its lowest value, 1, are skipped updates counted as errors. */
static bool scale_can_fall(const Run *run)
{
    return run->scaling == LOSS_SCALE_DYNAMIC && run->state.loss_scale[0] > 1.0f;
}

static Err *watch_finite(Run *run, const Flight *f)
{
    const float count = f->memory->grad_stats[1];
    if (count == 0.0f) {
        run->state.nonfinite_streak = 0;
        return NULL;
    }
    run->state.nonfinite_total++;
    if (scale_can_fall(run)) {
        log_debug("step %ld: the gradient is not finite (%.0f elements), update skipped, loss "
                  "scale now %g",
                  f->step, (double)count, (double)run->state.loss_scale[0]);
        return NULL;
    }
    run->state.nonfinite_streak++;
    log_warn("step %ld: the gradient is not finite (%.0f elements), update skipped", f->step,
             (double)count);
    if (run->state.nonfinite_streak < run->settings->max_nonfinite) {
        return NULL;
    }
    nonfinite_dump(run, f);
    return err_new(EXIT_NOT_FINITE,
                   "%d updates in a row had a gradient that is not finite, up to step %ld: lower "
                   "optim.lr (now %g), set optim.clip_grad, or use train.precision = fp32; what "
                   "was seen of the last is in %s/nonfinite-step-%ld",
                   run->state.nonfinite_streak, f->step, (double)f->memory->hyper[HYPER_LR],
                   run->settings->out, f->step);
}

/* An update whose gradient is finite but longer than train.skip_zscore allows. `scale`: the loss scale of the step. */
static void watch_norm(Run *run, const Flight *f, float scale)
{
    const double limit = (double)f->memory->hyper[HYPER_SKIP_NORM];
    const double norm = norm_note(run->state.norms, f->step - 1, f->memory->grad_stats, scale);
    if (limit > 0.0 && norm > limit) {
        run->state.nonfinite_total++;
        log_warn("step %ld: the gradient's norm %g is above %g (train.skip_zscore), update skipped",
                 f->step, norm, limit);
    }
}

static Err *land(Run *run, Flight *f)
{
    if (!f->batch) {
        return NULL;
    }
    await_event(run->backend, f->event);
    const StepMemory *memory = f->memory;
    meter_add(&run->state.epoch_meter, memory->sums);
    meter_add(&run->interval, memory->sums);
    watch_norm(run, f, run->state.loss_scale[0]);
    memcpy(run->state.loss_scale, memory->loss_scale, sizeof run->state.loss_scale);
    if (run->scaling != LOSS_SCALE_NONE) {
        run->interval.loss_scale = (double)memory->loss_scale[0];
    }
    run->state.train_images += (long)f->batch->n;
    Err *err = watch_finite(run, f);
    run->landed = f->step;
    feed_release(run->feed, f->batch);
    f->batch = NULL;
    return err;
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

void step_add_time(Run *run, double fill_s, double seconds, double wait_s)
{
    static const double memory = 0.98; /* of the mean */
    Meter *const meters[] = {&run->state.epoch_meter, &run->interval};
    for (int i = 0; i < 2; i++) {
        meters[i]->seconds += fill_s + seconds;
        meters[i]->data_wait_s += wait_s;
    }
    run->state.train_seconds += fill_s + seconds;
    RunTimes *t = &run->times;
    t->step = seconds;
    t->mean_step = t->mean_step > 0.0 ? memory * t->mean_step + (1.0 - memory) * seconds : seconds;
}

/* ---- Opening ---- */

Err *step_open(Run *run)
{
    Backend *b = run->backend;
    run->clock = phases_open(run);
    for (int i = 0; i < FLIGHTS; i++) {
        run->flights[i].event = b->event(b);
        run->flights[i].memory = b->alloc(b, MEM_HOST, sizeof *run->flights[i].memory);
        if (!run->flights[i].memory) {
            return err_new(EXIT_DEVICE_MEMORY, "no host memory for the steps in flight");
        }
    }
    return NULL;
}

void step_close(Run *run)
{
    Backend *b = run->backend;
    if (!b) {
        return;
    }
    b->sync(b, QUEUE_COMPUTE);
    for (int i = 0; i < run->n_captures; i++) {
        if (run->captures[i].recording != NOT_RECORDED) {
            b->capture_free(b, run->captures[i].recording);
        }
    }
    run->n_captures = 0;
    phases_close(run->clock);
    run->clock = NULL;
    for (int i = 0; i < FLIGHTS; i++) {
        if (run->flights[i].memory) {
            b->free(b, MEM_HOST, run->flights[i].memory);
            run->flights[i].memory = NULL;
        }
    }
}
