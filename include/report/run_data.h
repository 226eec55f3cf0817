/* A run's folder (train/rundir.h) read into plain data, for reports and tables.
 *
 * Life cycle: run_data_open, read, run_data_free. Afterwards the data does not change. What is absent, damaged or of
 * another shape is left out and named in `notes`; numbers nobody knows are NaN, texts nobody knows "". Texts come from
 * files that anybody may have written: escape them (report/markup.h). */
#ifndef CUDISTILL_REPORT_RUN_DATA_H
#define CUDISTILL_REPORT_RUN_DATA_H

#include "base/err.h"
#include "io/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RUN_TERMS = 8, RUN_TOP = 3 };
typedef enum { PHASE_DATA, PHASE_TEACHER, PHASE_STUDENT, PHASE_UPDATE, PHASE_COUNT } RunPhase;

/* An "epoch" or "step" line of metrics.jsonl. Accuracies in percent, shares 0..1, NaN where unknown. */
typedef struct {
    int epoch;
    double step;
    double lr, loss, ce, top1, teacher_top1, agreement;
    double terms[RUN_TERMS]; /* the first is term 1 */
    double eval_top1, eval_top5, eval_loss;
    double images_per_s, seconds;
    double phases[PHASE_COUNT];
    bool best;
} RunPoint;

typedef struct {
    RunPoint *points;
    size_t count, capacity;
} RunPoints;

/* A line of config.origin.tsv; or of config.ini, then without origin. */
typedef struct {
    char *key; /* "section.key" */
    char *value;
    char *origin;
} RunSetting;

typedef struct {
    RunSetting *list;
    size_t count, capacity;
} RunSettings;

typedef struct {
    char **list;
    size_t count, capacity;
} RunTexts;

typedef struct {
    double time, step;
    char *host;
} RunResume;

/* A training picture and the teacher's opinion. */
typedef struct {
    long sample;
    int label;
    int dx, dy;
    bool flip;
    int top_count;
    int top_class[RUN_TOP];
    double top_p[RUN_TOP];
    double energy, temperature; /* NaN where unknown */
} RunPicture;

typedef struct {
    char *of;
    size_t count;   /* bins or values */
    double *edges;  /* [count + 1], or NULL */
    double *values; /* [count], or NULL */
    double *counts; /* [count] */
} RunHistogram;

typedef struct {
    char *folder; /* as given */
    char *name, *status, *error, *version, *commit;
    char *project, *tags, *comment; /* comment: run.notes */
    char *student, *teacher, *teacher_hash, *method, *formula, *device, *precision;
    char *dataset, *dataset_source, *dataset_hash;
    double seed, exit_code, started, updated;
    double student_parameters, batch, epochs, train_count, test_count, classes, image_size;
    double last_top1, last_top5, last_loss, best_top1, best_epoch;
    double known_teacher_top1, known_teacher_top5, agreement;
    double epochs_done, steps_done, train_seconds, images_per_s, nonfinite_steps;
    RunResume *resumes;
    size_t resume_count;
    bool has_manifest;

    RunPoints epochs_seen, steps_seen;
    size_t nonfinite_events;

    RunSettings settings;    /* in the file's order */
    RunSettings environment; /* env.json as paths of keys and values */
    RunTexts class_names;
    RunTexts errors; /* of errors/, one text each */
    RunTexts notes;  /* what could not be read */

    RunPicture *pictures;
    size_t picture_count;
    int picture_side, picture_columns, picture_scale, picture_gap;
    uint8_t *sheet; /* RGB of images/samples.png, or NULL */
    int sheet_height, sheet_width;

    RunHistogram energy, temperature; /* count 0 = absent */

    /* Logits of the test set, kept open: row-major [rows, columns]; NULL where absent. They fit each other. */
    WeightsFile *student_file, *teacher_file;
    const WeightEntry *student_logits, *teacher_logits;
    int32_t *labels;
    size_t rows;
    int columns;
} RunData;

/* What is read: all of it, or what a table needs (manifest, epochs, settings). */
typedef enum { RUN_DATA_ALL, RUN_DATA_SUMMARY } RunDataScope;

/* EXIT_NO_INPUT when `folder` is no folder, or holds none of a run's files. */
Err *run_data_open(const char *folder, RunDataScope scope, RunData **out);
void run_data_free(RunData *run); /* accepts NULL */

/* Is this the folder of a run? */
bool run_data_is_run(const char *folder);

/* Value of "section.key"; NULL when not known. */
const char *run_setting(const RunData *run, const char *key);
const char *run_environment(const RunData *run, const char *key);
/* "class 7" where there is no name. `buffer` holds at least 32 bytes. */
const char *run_class_name(const RunData *run, int label, char *buffer, size_t size);

/* What the manifest says, else the last evaluated epoch; NaN when neither knows. */
double run_last_top1(const RunData *run);
double run_best_top1(const RunData *run, double *epoch);
double run_teacher_top1(const RunData *run);
bool run_data_finished(const RunData *run);

/* Row i of logits as fp32. */
void run_logits_row(const WeightEntry *logits, size_t row, int columns, float *out);

#endif
