/* `cudistill suite`: runs several configurations one after the other and prints one table. Every run has a folder of its
 * own under the suite's and is resumed, or skipped when finished, so an interrupted suite is simply started again. */
#include "train/commands.h"

#include "base/config.h"
#include "base/files.h"
#include "base/log.h"
#include "train/signals.h"
#include "train/train.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUITE_MAX_RUNS = 64, SUITE_MAX_SEEDS = 64 };

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
    int64_t seeds[SUITE_MAX_SEEDS];
    size_t n_seeds;
} Suite;

static Err *parse_seeds(const char *text, Suite *suite)
{
    suite->n_seeds = 0;
    for (const char *at = text; *at;) {
        char *end;
        const long long seed = strtoll(at, &end, 10);
        if (end == at || seed < 0 || (*end && *end != ',') || suite->n_seeds == SUITE_MAX_SEEDS) {
            return err_new(EXIT_USAGE_ERR,
                           "--seeds %s: whole numbers with commas are needed (at most %d)", text,
                           SUITE_MAX_SEEDS);
        }
        suite->seeds[suite->n_seeds++] = seed;
        at = *end ? end + 1 : end;
    }
    return suite->n_seeds ? NULL : err_new(EXIT_USAGE_ERR, "--seeds needs at least one number");
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

static Err *parse_suite(int argc, char **argv, Suite *suite)
{
    static const struct option options[] = {{"out", required_argument, NULL, 'o'},
                                            {"seeds", required_argument, NULL, 's'},
                                            {NULL, 0, NULL, 0}};
    const char *seeds = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'o') {
            suite->out = optarg;
        } else if (option == 's') {
            seeds = optarg;
        } else {
            return err_new(EXIT_USAGE_ERR,
                           "usage: cudistill suite SUITE.ini [--out DIR] [--seeds 1,2,3]");
        }
    }
    if (optind != argc - 1) {
        return err_new(EXIT_USAGE_ERR, "suite takes one file, for example configs/quickstart.ini");
    }
    const char *path = argv[optind];
    TRY(config_load(suite_schema, sizeof suite_schema / sizeof suite_schema[0], path, NULL, 0,
                    &suite->config));
    if (!suite->out) {
        suite->out = config_str(suite->config, "suite", "out");
    }
    TRY(read_rows(suite, path));
    if (seeds) {
        return parse_seeds(seeds, suite);
    }
    const int64_t *from = config_ints(suite->config, "suite", "seeds", &suite->n_seeds);
    if (suite->n_seeds == 0 || suite->n_seeds > SUITE_MAX_SEEDS) {
        return err_new(EXIT_CONFIG_ERR, "%s: suite.seeds needs 1 to %d numbers", path,
                       SUITE_MAX_SEEDS);
    }
    memcpy(suite->seeds, from, suite->n_seeds * sizeof *from);
    return NULL;
}

static char *run_folder(const Suite *suite, const SuiteRow *row, int64_t seed)
{
    return xformat("%s/%s-s%lld", suite->out, row->label, (long long)seed);
}

/* Trains row `r` with one seed; `teacher` is a weight file or NULL. */
static Err *run_row(Suite *suite, SuiteRow *row, int64_t seed, const char *teacher)
{
    char *folder = run_folder(suite, row, seed);
    char *out = xformat("run.out=%s", folder);
    char *seed_text = xformat("run.seed=%lld", (long long)seed);
    char *weights = teacher ? xformat("teacher.weights=%s", teacher) : NULL;
    const char *const overrides[] = {out, seed_text, weights};
    Settings settings;
    RunResult result;
    Err *err = settings_load(row->path, overrides, weights ? 3 : 2, &settings);
    if (!err) {
        log_info("--- %s, seed %lld", row->label, (long long)seed);
        err = train_run(&settings, RESUME_AUTO, &result);
        settings_free(&settings);
    }
    if (!err) {
        row->last[row->n] = result.last_top1;
        row->best[row->n] = result.best_top1;
        row->seconds += result.train_seconds;
        row->n++;
    }
    free(folder);
    free(out);
    free(seed_text);
    free(weights);
    return err;
}

static Err *run_seed(Suite *suite, size_t index)
{
    const int64_t seed = suite->seeds[index];
    const bool per_seed = config_bool(suite->config, "suite", "teacher_per_seed");
    char *teacher = NULL;
    Err *err = NULL;
    if (suite->has_teacher) {
        if (per_seed || index == 0) {
            err = run_row(suite, &suite->rows[0], seed, NULL);
        }
        char *folder = run_folder(suite, &suite->rows[0], per_seed ? seed : suite->seeds[0]);
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

static void print_table(const Suite *suite)
{
    const char *title = config_str(suite->config, "suite", "title");
    printf("\n%s\n%-28s %3s  %-16s  %-16s  %8s\n", title[0] ? title : suite->out, "run", "n",
           "last top-1 %", "best top-1 %", "s/run");
    for (int r = 0; r < suite->n_rows; r++) {
        const SuiteRow *row = &suite->rows[r];
        if (row->n == 0) {
            continue;
        }
        double last;
        double last_sd;
        double best;
        double best_sd;
        mean_and_sd(row->last, row->n, &last, &last_sd);
        mean_and_sd(row->best, row->n, &best, &best_sd);
        printf("%-28s %3d  %6.2f +- %5.2f  %6.2f +- %5.2f  %8.1f\n", row->label, row->n, last,
               last_sd, best, best_sd, row->seconds / row->n);
    }
    printf("+- is the standard deviation over seeds. Folders: %s/\n", suite->out);
}

Err *command_suite(int argc, char **argv)
{
    Suite suite = {0};
    Err *err = parse_suite(argc, argv, &suite);
    if (!err) {
        signals_install();
    }
    for (size_t i = 0; i < suite.n_seeds && !err; i++) {
        err = run_seed(&suite, i);
    }
    if (!err) {
        print_table(&suite);
    }
    for (int r = 0; r < suite.n_rows; r++) {
        free(suite.rows[r].path);
        free(suite.rows[r].label);
    }
    config_free(suite.config);
    return err;
}
