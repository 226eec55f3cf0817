/* Logits of the test set as files. 16 bits are kept of a logit: the files serve accuracy per class, calibration and
 * ensembles, not further training. */
#include "train/predictions.h"

#include "base/files.h"
#include "base/log.h"
#include "io/npy.h"
#include "train/rundir.h"

#include <stdlib.h>
#include <string.h>

static size_t logits_bytes(const Run *run)
{
    return (size_t)run->test_set->count * (size_t)run->test_set->classes * sizeof(fp16);
}

/* ---- Files ---- */

static Err *write_array(const Run *run, const char *name, WeightType type, int64_t columns,
                        const void *data)
{
    char *path = path_join(run->settings->out, name);
    const int64_t shape[2] = {run->test_set->count, columns};
    char *dir = path_join(run->settings->out, "predictions");
    Err *err = dir_make(dir);
    if (!err) {
        err = npy_write(path, type, columns > 0 ? 2 : 1, shape, data);
    }
    free(dir);
    free(path);
    return err;
}

static Err *write_logits(const Run *run, const char *name, const fp16 *logits)
{
    char *path = path_join(run->settings->out, RUN_LABELS);
    const bool labelled = path_exists(path);
    free(path);
    TRY(write_array(run, name, WEIGHT_F16, run->test_set->classes, logits));
    return labelled ? NULL : write_array(run, RUN_LABELS, WEIGHT_I32, 0, run->test_set->labels);
}

/* The class with the largest logit, the lowest index of ties; logits_to_half has kept the network's choice so. */
static int32_t largest(const fp16 *logits, int classes)
{
    int32_t best = -1;
    float value = 0.0f;
    for (int k = 0; k < classes; k++) {
        const float x = fp16_to_float(logits[k]);
        if (x == x && (best < 0 || x > value)) {
            best = k;
            value = x;
        }
    }
    return best;
}

/* The file was checked when it was opened; another shape is another run's. */
static int32_t *classes_of_file(const Run *run, const WeightsFile *file)
{
    const WeightEntry *e = &file->entries[0];
    const Dataset *set = run->test_set;
    if (e->type != WEIGHT_F16 || e->ndim != 2 || e->shape[0] != set->count ||
        e->shape[1] != set->classes) {
        return NULL;
    }
    int32_t *chosen = xmalloc(set->count * sizeof *chosen);
    fp16 *row = xmalloc((size_t)set->classes * sizeof *row);
    for (uint32_t i = 0; i < set->count; i++) {
        const size_t bytes = (size_t)set->classes * sizeof *row;
        memcpy(row, (const char *)e->data + i * bytes, bytes);
        chosen[i] = largest(row, set->classes);
    }
    free(row);
    return chosen;
}

/* ---- Life cycle ---- */

void predictions_open(const Run *run, Predictions *out)
{
    const size_t bytes = logits_bytes(run);
    *out = (Predictions){.wanted = run->settings->log_predictions};
    if (out->wanted && bytes > PREDICTIONS_MAX_BYTES) {
        log_info("logits of the test set are not kept: %zu MiB for each network, at most %zu are "
                 "written",
                 bytes >> 20, PREDICTIONS_MAX_BYTES >> 20);
        out->wanted = false;
    }
    if (!run->resumed || !run->settings->teacher_model) {
        return;
    }
    char *path = path_join(run->settings->out, RUN_TEACHER_LOGITS);
    WeightsFile *file = NULL;
    Err *err = path_exists(path) ? npy_open(path, &file) : NULL;
    if (err) {
        log_warn("%s; how often the networks agree is not known", err->message);
        err_free(err);
    }
    if (file) {
        out->teacher = classes_of_file(run, file);
        weights_close(file);
    }
    free(path);
}

void predictions_close(Predictions *predictions)
{
    free(predictions->teacher);
    *predictions = (Predictions){0};
}

/* ---- Evaluations ---- */

Err *predictions_check_teacher(Predictions *predictions, const Run *run, Exec *exec,
                               float *energies, EvalResult *result)
{
    const Dataset *set = run->test_set;
    EvalKeep keep = {.chosen = xmalloc(set->count * sizeof *keep.chosen), .energies = energies};
    if (predictions->wanted) {
        keep.logits = xmalloc(logits_bytes(run));
    }
    *result = evaluate_keeping(exec, set, true, true, &keep);
    Err *err = NULL;
    free(predictions->teacher);
    predictions->teacher = keep.chosen;
    if (result->stopped) {
        free(predictions->teacher);
        predictions->teacher = NULL;
    } else if (predictions->wanted) {
        err = write_logits(run, RUN_TEACHER_LOGITS, keep.logits);
    }
    free(keep.logits);
    return err;
}

static double agreement_of(const int32_t *a, const int32_t *b, uint32_t count)
{
    uint32_t same = 0;
    for (uint32_t i = 0; i < count; i++) {
        same += a[i] >= 0 && a[i] == b[i];
    }
    return 100.0 * same / count;
}

Err *predictions_evaluate_student(const Predictions *predictions, const Run *run,
                                  EvalResult *result, double *agreement)
{
    const Dataset *set = run->test_set;
    EvalKeep keep = {.chosen = xmalloc(set->count * sizeof *keep.chosen)};
    if (predictions->wanted) {
        keep.logits = xmalloc(logits_bytes(run));
    }
    *result = evaluate_keeping(run->eval, set, false, false, &keep);
    *agreement =
        predictions->teacher ? agreement_of(keep.chosen, predictions->teacher, set->count) : -1.0;
    Err *err = predictions->wanted ? write_logits(run, RUN_STUDENT_LOGITS, keep.logits) : NULL;
    free(keep.logits);
    free(keep.chosen);
    return err;
}
