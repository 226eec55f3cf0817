/* Runs one after the other, each in its folder under the suite's, and the table of what they reached. */
#include "train/suite.h"

#include "base/config.h"
#include "base/files.h"
#include "base/log.h"
#include "train/result.h"
#include "train/signals.h"
#include "train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUITE_MAX_RUNS = 64 };

static const ConfigKey suite_schema[] = {
    {"suite", "title", CONFIG_STRING, "", 0, 0, NULL, "heading of the table"},
    {"suite", "out", CONFIG_STRING, "runs/suite", 0, 0, NULL,
     "folder of the runs, from the current folder"},
    {"suite", "teacher", CONFIG_STRING, "", 0, 0, NULL,
     "configuration trained first, its best weights teach the runs"},
    {"suite", "runs", CONFIG_STRING, NULL, 0, 0, NULL,
     "configurations, separated by commas, relative to the suite"},
    {"suite", "seeds", CONFIG_INTS, "1", 0, 4294967295.0, NULL, "seeds of every run"},
    {"suite", "teacher_per_seed", CONFIG_BOOL, "true", 0, 0, NULL,
     "train a teacher for every seed, or one for all"},
};

typedef struct {
    char *path; /* of the configuration */
    char *label;
    int n;
    double last[SUITE_MAX_SEEDS], best[SUITE_MAX_SEEDS], seconds;
} SuiteRow;

typedef struct {
    Config *config;
    const char *out;
    SuiteRow rows[SUITE_MAX_RUNS];
    int n_rows;
    bool has_teacher; /* rows[0] */
    Seeds seeds;
    ProgressMode progress;
    void (*finished)(const char *run_dir);
} Suite;

const ConfigKey *suite_keys(size_t *count)
{
    *count = sizeof suite_schema / sizeof suite_schema[0];
    return suite_schema;
}

static bool has_seed(const Seeds *seeds, int64_t seed)
{
    for (size_t i = 0; i < seeds->count; i++) {
        if (seeds->values[i] == seed) {
            return true;
        }
    }
    return false;
}

Err *seeds_parse(const char *text, Seeds *out)
{
    static const long long most = UINT32_MAX;
    *out = (Seeds){.count = 0};
    const char *at = text;
    do {
        char *end = NULL;
        const long long seed = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : -1;
        if (seed < 0 || seed > most || (*end && *end != ',') || has_seed(out, seed) ||
            out->count == SUITE_MAX_SEEDS) {
            return err_new(EXIT_USAGE_ERR,
                           "--seeds '%s': up to %d different whole numbers with commas are needed, "
                           "as 1,2,3",
                           text, SUITE_MAX_SEEDS);
        }
        out->values[out->count++] = seed;
        at = *end ? end + 1 : NULL;
    } while (at);
    return NULL;
}

static char *label_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *label = xstrdup(slash ? slash + 1 : path);
    char *dot = strrchr(label, '.');
    if (dot) {
        *dot = '\0';
    }
    return label;
}

static Err *add_row(Suite *suite, const char *suite_path, const char *name)
{
    if (suite->n_rows == SUITE_MAX_RUNS) {
        return err_new(EXIT_CONFIG_ERR, "%s: more than %d runs", suite_path, SUITE_MAX_RUNS);
    }
    const char *slash = strrchr(suite_path, '/');
    char *dir = slash ? xformat("%.*s", (int)(slash - suite_path), suite_path) : xstrdup(".");
    SuiteRow *row = &suite->rows[suite->n_rows++];
    row->path = path_join(dir, name);
    row->label = label_of(name);
    free(dir);
    return NULL;
}

static Err *read_rows(Suite *suite, const char *path)
{
    const Config *c = suite->config;
    suite->has_teacher = config_has(c, "suite", "teacher");
    if (suite->has_teacher) {
        TRY(add_row(suite, path, config_str(c, "suite", "teacher")));
    }
    char *runs = xstrdup(config_str(c, "suite", "runs"));
    Err *err = NULL;
    char *save = NULL;
    for (char *name = strtok_r(runs, ", \t", &save); name && !err;
         name = strtok_r(NULL, ", \t", &save)) {
        err = add_row(suite, path, name);
    }
    free(runs);
    return err;
}

static Err *read_suite(const char *path, const SuiteOptions *options, Suite *suite)
{
    TRY(config_load(suite_schema, sizeof suite_schema / sizeof suite_schema[0], path, NULL, 0,
                    &suite->config));
    suite->out = options->out ? options->out : config_str(suite->config, "suite", "out");
    suite->progress = options->progress;
    suite->finished = options->finished;
    TRY(read_rows(suite, path));
    if (options->seeds) {
        suite->seeds = *options->seeds;
        return NULL;
    }
    size_t count;
    const int64_t *seeds = config_ints(suite->config, "suite", "seeds", &count);
    if (count == 0 || count > SUITE_MAX_SEEDS) {
        return err_new(EXIT_CONFIG_ERR, "%s: suite.seeds needs 1 to %d numbers", path,
                       SUITE_MAX_SEEDS);
    }
    memcpy(suite->seeds.values, seeds, count * sizeof *seeds);
    suite->seeds.count = count;
    return NULL;
}

static char *run_folder(const Suite *suite, const SuiteRow *row, int64_t seed)
{
    return xformat("%s/%s-s%lld", suite->out, row->label, (long long)seed);
}

static Err *train_row(SuiteRow *row, int64_t seed, const Settings *settings, Resume resume)
{
    RunResult result;
    log_info("--- %s, seed %lld", row->label, (long long)seed);
    TRY(train_run(settings, resume, &result));
    if (settings->progress == PROGRESS_JSON) {
        result_print(settings, &result);
    }
    row->last[row->n] = result.last_top1;
    row->best[row->n] = result.best_top1;
    row->seconds += result.train_seconds;
    row->n++;
    return NULL;
}

/* Trains a row with one seed; `teacher` is a weight file or NULL. */
static Err *run_row(Suite *suite, SuiteRow *row, int64_t seed, const char *teacher)
{
    char *folder = run_folder(suite, row, seed);
    char *out = xformat("run.out=%s", folder);
    char *seed_text = xformat("run.seed=%lld", (long long)seed);
    char *weights = teacher ? xformat("teacher.weights=%s", teacher) : NULL;
    const char *const overrides[] = {out, seed_text, weights};
    Settings settings;
    Err *err = settings_load(row->path, overrides, weights ? 3 : 2, &settings);
    if (!err) {
        settings.progress = suite->progress;
        settings.finished = suite->finished;
        err = train_row(row, seed, &settings, RESUME_AUTO);
        settings_free(&settings);
    }
    free(folder);
    free(out);
    free(seed_text);
    free(weights);
    return err;
}

static Err *run_seed(Suite *suite, size_t index)
{
    const int64_t seed = suite->seeds.values[index];
    const bool per_seed = config_bool(suite->config, "suite", "teacher_per_seed");
    char *teacher = NULL;
    Err *err = NULL;
    if (suite->has_teacher) {
        if (per_seed || index == 0) {
            err = run_row(suite, &suite->rows[0], seed, NULL);
        }
        char *folder = run_folder(suite, &suite->rows[0], per_seed ? seed : suite->seeds.values[0]);
        teacher = path_join(folder, "student_best.safetensors");
        free(folder);
    }
    for (int r = suite->has_teacher; r < suite->n_rows && !err; r++) {
        err = run_row(suite, &suite->rows[r], seed, teacher);
    }
    free(teacher);
    return err;
}

static void mean_and_sd(const double *values, int n, double *mean, double *sd)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        sum += values[i];
    }
    *mean = sum / n;
    double squares = 0.0;
    for (int i = 0; i < n; i++) {
        squares += (values[i] - *mean) * (values[i] - *mean);
    }
    *sd = n > 1 ? sqrt(squares / (n - 1)) : 0.0;
}

static void print_rows(const char *title, const SuiteRow *rows, int count)
{
    printf("\n%s\n%-28s %3s  %-16s  %-16s  %8s\n", title, "run", "n", "last top-1 %",
           "best top-1 %", "s/run");
    for (int r = 0; r < count; r++) {
        const SuiteRow *row = &rows[r];
        if (row->n == 0) {
            continue;
        }
        double last;
        double last_sd;
        double best;
        double best_sd;
        mean_and_sd(row->last, row->n, &last, &last_sd);
        mean_and_sd(row->best, row->n, &best, &best_sd);
        printf("%-28s %3d  %6.2f ± %5.2f  %6.2f ± %5.2f  %8.1f\n", row->label, row->n, last,
               last_sd, best, best_sd, row->seconds / row->n);
    }
    printf("± is the standard deviation over seeds.");
}

static void print_suite(const Suite *suite)
{
    const char *title = config_str(suite->config, "suite", "title");
    print_rows(title[0] ? title : suite->out, suite->rows, suite->n_rows);
    printf(" Folders: %s/\n", suite->out);
}

Err *suite_run(const char *path, const SuiteOptions *options)
{
    Suite *suite = xcalloc(1, sizeof *suite);
    Err *err = read_suite(path, options, suite);
    if (!err) {
        signals_install();
    }
    for (size_t i = 0; i < suite->seeds.count && !err; i++) {
        err = run_seed(suite, i);
    }
    if (!err && options->progress != PROGRESS_JSON) {
        print_suite(suite);
    }
    for (int r = 0; r < suite->n_rows; r++) {
        free(suite->rows[r].path);
        free(suite->rows[r].label);
    }
    config_free(suite->config);
    free(suite);
    return err;
}

/* ---- One configuration, several seeds ---- */

/* "run.out=OUT/NAME-sSEED" where the configuration names a folder, else NULL: each seed has a folder of its own anyway. */
static Err *seed_folder(const char *config, const SeedsOptions *options, int64_t seed, char **out)
{
    Settings settings;
    TRY(settings_read(config, options->overrides, options->n_overrides, &settings));
    *out = config_has(settings.config, "run", "out")
               ? xformat("%s/%s-s%lld", config_str(settings.config, "run", "out"), settings.name,
                         (long long)seed)
               : NULL;
    settings_free(&settings);
    return NULL;
}

static Err *run_one_seed(const char *config, const SeedsOptions *options, int64_t seed,
                         SuiteRow *row)
{
    char *folder = NULL;
    TRY(seed_folder(config, options, seed, &folder));
    ConfigOverride *overrides = xcalloc(options->n_overrides + 2, sizeof *overrides);
    size_t count = 0;
    for (size_t i = 0; i < options->n_overrides; i++) {
        const char *text = options->overrides[i].text;
        if (!folder || strncmp(text, "run.out=", strlen("run.out=")) != 0) {
            overrides[count++] = options->overrides[i];
        }
    }
    char *seed_text = xformat("run.seed=%lld", (long long)seed);
    char *out = folder ? xformat("run.out=%s", folder) : NULL;
    overrides[count++] = (ConfigOverride){.text = seed_text, .origin = "--seeds"};
    if (out) {
        overrides[count++] = (ConfigOverride){.text = out, .origin = "--seeds"};
    }
    Settings settings;
    Err *err = settings_read(config, overrides, count, &settings);
    if (!err) {
        settings.progress = options->progress;
        settings.finished = options->finished;
        settings.allow_drift = options->allow_drift;
        settings.n_allow_drift = options->n_allow_drift;
        free(row->label);
        row->label = xstrdup(settings.name);
        err = train_row(row, seed, &settings, options->resume);
        settings_free(&settings);
    }
    free(folder);
    free(seed_text);
    free(out);
    free(overrides);
    return err;
}

Err *seeds_run(const char *config, const SeedsOptions *options)
{
    SuiteRow *row = xcalloc(1, sizeof *row);
    Err *err = NULL;
    signals_install();
    for (size_t i = 0; i < options->seeds.count && !err; i++) {
        err = run_one_seed(config, options, options->seeds.values[i], row);
    }
    if (!err && options->progress != PROGRESS_JSON) {
        print_rows(config, row, 1);
        printf("\n");
    }
    free(row->label);
    free(row);
    return err;
}
