/* Several runs one after the other, one table at the end: the configurations of a suite file, or one configuration with
 * several seeds. Every run has a folder of its own and is resumed, or skipped when finished, so that an interrupted suite is
 * simply started again. The first error ends it. Signals are those of a run (train/signals.h). */
#ifndef CUDISTILL_TRAIN_SUITE_H
#define CUDISTILL_TRAIN_SUITE_H

#include "base/err.h"
#include "train/settings.h"

enum { SUITE_MAX_SEEDS = 64 };

typedef struct {
    int64_t values[SUITE_MAX_SEEDS];
    size_t count;
} Seeds;

/* Whole numbers with commas, each once. EXIT_USAGE_ERR says what `--seeds` takes. */
Err *seeds_parse(const char *text, Seeds *out);

typedef struct {
    const char *out;    /* folder of the runs; NULL: the file's suite.out */
    const Seeds *seeds; /* NULL: the file's suite.seeds */
    ProgressMode progress;
    void (*finished)(const char *run_dir); /* as in Settings */
} SuiteOptions;

/* The keys of a suite file. */
const ConfigKey *suite_keys(size_t *count);
/* Runs are in OUT/NAME-sSEED, NAME being the configuration's file name. */
Err *suite_run(const char *path, const SuiteOptions *options);

typedef struct {
    const ConfigOverride *overrides; /* without run.seed */
    size_t n_overrides;
    Seeds seeds;
    Resume resume;
    ProgressMode progress;
    void (*finished)(const char *run_dir); /* as in Settings */
    const char *const *allow_drift;
    size_t n_allow_drift;
} SeedsOptions;

/* The configuration with every seed: in runs/NAME-sSEED, or with run.out in OUT/NAME-sSEED. */
Err *seeds_run(const char *config, const SeedsOptions *options);

#endif
