/* The gauges of a run. */
#include "train/status.h"

#include "base/files.h"
#include "io/prometheus.h"
#include "train/rundir.h"

#include <stdlib.h>

enum { MAX_GAUGES = 24 + OBJECTIVE_MAX_PARTS };

void status_measure(Status *status, const Run *run, double eta_s)
{
    const Meter *m = &run->interval;
    const double rows = m->sums[SUM_ROWS];
    status->measured = rows > 0.0;
    status->loss = m->sums[SUM_LOSS] / rows;
    status->top1 = 100.0 * m->sums[SUM_TOP1] / rows;
    status->lr = run->lr;
    status->images_per_s = m->seconds > 0.0 ? rows / m->seconds : 0.0;
    status->eta_s = eta_s;
    ObjectivePart parts[OBJECTIVE_MAX_PARTS];
    const int count = objective_parts(&run->objective.spec, parts);
    for (int i = 0; i < count; i++) {
        status->parts[i] = m->sums[parts[i].sum] / rows;
    }
    if (!meter_phases(m, status->phases)) { /* no step of a short interval was clocked */
        (void)meter_phases(&run->state.epoch_meter, status->phases);
    }
}

typedef struct {
    PromMetric metrics[MAX_GAUGES];
    const char *labels[MAX_GAUGES][5];
    size_t count;
    const char *run;
} Gauges;

/* name and help must stay; label NULL: only that of the run. */
static void put(Gauges *g, const char *name, const char *help, const char *label,
                const char *label_value, double value)
{
    CHECK(g->count < MAX_GAUGES, "more than %d gauges", MAX_GAUGES);
    const char **labels = g->labels[g->count];
    labels[0] = "run";
    labels[1] = g->run;
    labels[2] = label;
    labels[3] = label_value;
    g->metrics[g->count++] =
        (PromMetric){.name = name, .help = help, .labels = labels, .value = value};
}

static void put_interval(Gauges *g, const Status *status, const Run *run)
{
    static const char *const phases[METER_PHASES] = {"data", "teacher", "student", "update"};
    put(g, "cudistill_loss", "Mean training loss of the last interval", NULL, NULL, status->loss);
    ObjectivePart parts[OBJECTIVE_MAX_PARTS];
    const int count = objective_parts(&run->objective.spec, parts);
    for (int i = 0; i < count; i++) {
        put(g, "cudistill_loss_term", "Parts of the loss, weights included", "term", parts[i].name,
            status->parts[i]);
    }
    put(g, "cudistill_train_top1", "Training top-1 of the last interval, percent", NULL, NULL,
        status->top1);
    put(g, "cudistill_learning_rate", "Learning rate", NULL, NULL, status->lr);
    put(g, "cudistill_images_per_second", "Training images a second in the last interval", NULL,
        NULL, status->images_per_s);
    for (int i = 0; i < METER_PHASES && status->phases[0] >= 0.0; i++) {
        put(g, "cudistill_phase_share", "Shares of the time of a step", "phase", phases[i],
            status->phases[i]);
    }
    if (status->eta_s >= 0.0) {
        put(g, "cudistill_eta_seconds", "Estimated time to the end", NULL, NULL, status->eta_s);
    }
}

static void put_results(Gauges *g, const RunState *st)
{
    if (st->last_top1 >= 0.0) {
        put(g, "cudistill_eval_top1", "Test top-1 of the last evaluation, percent", NULL, NULL,
            st->last_top1);
    }
    if (st->best_top1 >= 0.0) {
        put(g, "cudistill_best_top1", "Best test top-1 so far, percent", NULL, NULL, st->best_top1);
    }
    if (st->teacher_top1 >= 0.0) {
        put(g, "cudistill_teacher_top1", "The teacher's test top-1, percent", NULL, NULL,
            st->teacher_top1);
    }
}

Err *status_write(const Status *status, const Run *run, bool up)
{
    const RunState *st = &run->state;
    Gauges *g = xcalloc(1, sizeof *g);
    g->run = run->settings->name;
    put(g, "cudistill_up", "1 while the program works on the run", NULL, NULL, up ? 1.0 : 0.0);
    put(g, "cudistill_epoch", "Finished epochs", NULL, NULL, (double)st->epoch);
    put(g, "cudistill_epochs", "Epochs of the whole run", NULL, NULL,
        (double)run->settings->schedule.epochs);
    put(g, "cudistill_step", "Finished optimizer steps", NULL, NULL, (double)st->step);
    if (status->measured) {
        put_interval(g, status, run);
    }
    put_results(g, st);
    put(g, "cudistill_nonfinite_updates", "Updates skipped for gradients that were not finite",
        NULL, NULL, (double)st->nonfinite_total);
    if (status->checkpoint_step >= 0) {
        put(g, "cudistill_checkpoint_step", "Step of the newest checkpoint", NULL, NULL,
            (double)status->checkpoint_step);
    }
    char *path = path_join(run->settings->out, RUN_PROMETHEUS);
    Err *err = prometheus_write(path, g->metrics, g->count);
    free(path);
    free(g);
    return err;
}
