/* What a run is asked to do: the configuration's values as one plain struct. Only train/ reads configuration; lower
 * layers receive values. The table of keys is in host/train/settings_keys.c; `cudistill help KEY` prints it. */
#ifndef CUDISTILL_TRAIN_SETTINGS_H
#define CUDISTILL_TRAIN_SETTINGS_H

#include "base/config.h"
#include "base/err.h"
#include "data/longtail.h"
#include "data/view.h"
#include "distill/objective.h"
#include "io/progress.h"
#include "train/schedule.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { PRECISION_AUTO, PRECISION_FP32, PRECISION_BF16, PRECISION_FP16 } Precision;
typedef enum { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF } Switch;
typedef enum { RESUME_AUTO, RESUME_MUST, RESUME_NEVER } Resume;

#define SHAPE_PREFIX "shape:"

typedef struct {
    /* [run] */
    const char *name, *out, *project, *tags, *notes;
    uint64_t seed;
    bool deterministic;
    /* [data] */
    const char
        *dataset; /* what dataset_open takes, or SHAPE_PREFIX and the options: dry runs only */
    int workers;  /* -1 = chosen by the number of cores */
    Switch resident;
    LongTail long_tail;
    /* [augment] */
    int padding;
    bool flip;
    float mean[3], std[3];
    /* [teacher]: weights NULL = no teacher */
    const char *teacher_model, *teacher_weights;
    double expect_top1, tolerance; /* percent; expect_top1 < 0: not asserted */
    float teacher_mean[3], teacher_std[3];
    Precision teacher_precision;
    Switch memo;
    const char *memo_dir;
    long memo_mib;  /* of one file */
    int memo_batch; /* 0 = batch */
    /* [student] */
    const char *student_model, *student_weights;
    /* [distill], [energy_kd] */
    ObjectiveConfig objective;
    /* [optim] */
    double momentum, dampening, weight_decay, clip_grad;
    bool nesterov, decay_norm_bias;
    double loss_scale; /* 0 = dynamic where activations are fp16, else none; 1 = none */
    /* [schedule] */
    Schedule schedule;
    /* [train] */
    int batch;
    Precision precision;
    Switch capture;
    long max_steps; /* 0 = as many as the epochs have */
    int max_nonfinite;
    double skip_zscore;  /* 0 = never */
    double time_limit_s; /* of the process; 0 = none */
    /* [eval] */
    int eval_batch, eval_every; /* every n epochs; the last epoch always */
    /* [dist] */
    const char *device; /* "auto", "cpu", "ref", "cuda": device_open */
    int threads;        /* 0 = cores - workers */
    /* [checkpoint] */
    long checkpoint_every; /* steps; 0 = every epoch */
    int keep_last;
    int max_save_failures;
    /* [log] */
    double log_every_s;
    bool log_tensorboard, log_images, log_histograms, log_prometheus, log_predictions;
    /* [report] */
    bool report_auto;

    /* Called with the folder of a run that has finished, where report.auto asks for it; NULL: nobody. Not a key. */
    void (*finished)(const char *run_dir);
    ProgressMode progress; /* what a person sees: by the flags of the command line, not a key */

    /* Keys ("optim.lr", "data", "teacher.weights") whose change at a resume is a warning: --allow-drift. Borrowed. */
    const char *const *allow_drift;
    size_t n_allow_drift;

    Config *config; /* owner of the strings */

    PolicySpec policy; /* [augment] too */
} Settings;

/* The schema, for `help` and for tests. */
const ConfigKey *settings_schema(size_t *count);
/* The schema with what suggestions need: the names of other programs, other words for values. */
ConfigTable settings_table(void);
/* path may be NULL (defaults and overrides alone). All errors at once, those of the file and those of keys that do not go
 * together, before anything is created: EXIT_CONFIG_ERR, or why the file itself cannot be read. */
Err *settings_read(const char *path, const ConfigOverride *overrides, size_t n_overrides,
                   Settings *out);
/* With overrides of origin "--set". */
Err *settings_load(const char *path, const char *const *overrides, size_t n_overrides,
                   Settings *out);
void settings_free(Settings *settings);
/* What training does to a sample before it sees it. */
ViewSpec settings_view(const Settings *settings);
const char *precision_name(Precision precision);
Err *precision_parse(const char *text, Precision *out);

#endif
