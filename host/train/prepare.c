/* The teacher's check and the passes over the training set before step 1 (the energy scan). Both
 * run the teacher's inference graph; a wrong normalisation or label order shows here, before any
 * training. */
#include "train/prepare.h"

#include "base/log.h"
#include "distill/energy.h"
#include "train/records.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>

static Err *stopped(int signal)
{
    return err_new(
        signals_exit_code(signal),
        "stopped by signal %d before step 1: nothing to save, run the same command again", signal);
}

Err *prepare_check_teacher(Run *run)
{
    const Settings *s = run->settings;
    Exec *exec;
    TRY(run_eval_exec(run, &run->teacher, TEACHER_PREFIX, s->eval_batch, &exec));
    exec_refresh(exec, false);
    const EvalResult result = records_check_teacher(run, exec);
    exec_close(exec);
    if (result.stopped) {
        return stopped(signals_pending());
    }
    log_info("teacher %s: top-1 %.2f %%, top-5 %.2f %% on %ld test images (%s)", s->teacher_model,
             result.top1, result.top5, result.count, s->teacher_weights);
    if (s->expect_top1 >= 0 && fabs(result.top1 - s->expect_top1) > s->tolerance) {
        return err_new(
            EXIT_TEACHER,
            "teacher %s: top-1 %.2f %%, expected %.2f +- %.2f: check teacher.mean, teacher.std, "
            "the label order of the data and that the file is the one meant; or set "
            "teacher.expect_top1",
            s->teacher_weights, result.top1, s->expect_top1, s->tolerance);
    }
    if (!isfinite(result.loss)) {
        return err_new(
            EXIT_TEACHER,
            "teacher %s: its loss on the test set is not finite: the file is damaged, or "
            "teacher.precision = fp32 is needed",
            s->teacher_weights);
    }
    const double chance = 100.0 / run->test_set->classes;
    if (result.top1 < chance + 0.05 * (100.0 - chance)) {
        log_warn("the teacher is hardly better than chance (%.2f %%): is its normalisation or "
                 "label order wrong?",
                 chance);
    }
    run->state.teacher_top1 = result.top1;
    run->state.teacher_top5 = result.top5;
    return NULL;
}

/* Column `column` of every row of one augmented, shuffled pass; `values` has room for the training set. */
static Err *collect_column(Run *run, Exec *exec, const Preparation *preparation, float *values,
                           size_t *count)
{
    const Settings *s = run->settings;
    const int batch_size = exec_graph(exec)->batch;
    const LoaderConfig config = {.batch = (uint32_t)batch_size,
                                 .seed = s->seed,
                                 .augment = {.pad = s->padding, .flip = s->flip},
                                 .policy = s->policy,
                                 .shuffle = true,
                                 .drop_last = true};
    Loader *loader;
    TRY(loader_open(run->train_set, &config, &loader));
    const size_t image_bytes = dataset_image_size(run->train_set);
    float *rows = xmalloc((size_t)batch_size * ROW_FIELDS * sizeof *rows);
    *count = 0;
    for (const Batch *batch = loader_next(loader); batch; batch = loader_next(loader)) {
        exec_write(exec, "images", batch->images, batch->n * image_bytes);
        exec_write(exec, "labels", batch->labels, batch->n * sizeof *batch->labels);
        exec_run(exec, &(ExecRun){.rows = (int)batch->n, .scale = 1.0f});
        exec_read(exec, "rows", rows, batch->n * ROW_FIELDS * sizeof *rows);
        for (uint32_t i = 0; i < batch->n; i++) {
            values[(*count)++] = rows[i * ROW_FIELDS + (uint32_t)preparation->column];
        }
        loader_release(loader, batch);
        if (signals_pending()) {
            break;
        }
    }
    free(rows);
    loader_close(loader);
    return signals_pending() ? stopped(signals_pending()) : NULL;
}

static Err *use_column(Run *run, const Preparation *preparation, float *values, size_t count)
{
    const ObjectiveConfig *o = &run->settings->objective;
    switch (preparation->result) {
    case PREPARE_THRESHOLDS:
        records_energies(run, values, count);
        TRY(energy_thresholds(values, count, o->r_low, o->r_high, run->state.theta));
        run->state.has_theta = true;
        return NULL;
    }
    return NULL;
}

Err *prepare_passes(Run *run)
{
    for (int i = 0; i < run->objective.n_preparations; i++) {
        const Preparation *preparation = &run->objective.preparations[i];
        const Phase *phase = &preparation->phase;
        CHECK(phase->nets == PHASE_TEACHER && phase->source == BATCH_PASS,
              "preparation %s: not a teacher's pass", phase->name);
        const int wanted = phase->batch ? phase->batch : run->settings->batch;
        const int images = (int)run->train_set->count;
        Exec *exec;
        TRY(run_eval_exec(run, &run->teacher, TEACHER_PREFIX, wanted < images ? wanted : images,
                          &exec));
        exec_refresh(exec, false);
        float *values = xmalloc(run->train_set->count * sizeof *values);
        size_t count = 0;
        Err *err = collect_column(run, exec, preparation, values, &count);
        if (!err) {
            err = use_column(run, preparation, values, count);
        }
        free(values);
        exec_close(exec);
        TRY(err);
    }
    return NULL;
}
