/* Groups of runs: finding the folders, telling groups apart by their settings, statistics over seeds. */
#include "report/table.h"

#include "base/files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SEARCH_DEPTH = 4, DIFFERENCES = 4 };
static const double TEACHER_TOLERANCE = 0.3; /* points; another teacher gives another student */

/* ---- Finding runs ---- */

static void note_skipped(Table *table, Err *err)
{
    char *longer = xformat("%s%s\n", table->skipped, err->message);
    free(table->skipped);
    table->skipped = longer;
    err_free(err);
}

/* A folder named twice, or given beside the one that holds it, is one run. */
static bool already_there(const Table *table, const char *folder)
{
    struct stat one;
    struct stat other;
    for (size_t i = 0; i < table->run_count; i++) {
        if (stat(folder, &one) == 0 && stat(table->runs[i]->folder, &other) == 0 &&
            one.st_dev == other.st_dev && one.st_ino == other.st_ino) {
            return true;
        }
    }
    return false;
}

static void add_run(Table *table, const char *folder)
{
    if (already_there(table, folder)) {
        return;
    }
    RunData *run = NULL;
    Err *err = run_data_open(folder, RUN_DATA_SUMMARY, &run);
    if (err != NULL) {
        note_skipped(table, err);
        return;
    }
    table->runs =
        xgrow(table->runs, &table->run_capacity, table->run_count + 1, sizeof *table->runs);
    table->runs[table->run_count++] = run;
}

static void search(Table *table, const char *folder, int depth)
{
    if (run_data_is_run(folder)) {
        add_run(table, folder);
        return;
    }
    char **names = NULL;
    size_t count = 0;
    Err *err = depth > 0 ? dir_list(folder, &names, &count) : NULL;
    if (err != NULL) {
        note_skipped(table, err);
    }
    for (size_t i = 0; i < count; i++) {
        char *path = path_join(folder, names[i]);
        if (path_is_dir(path)) {
            search(table, path, depth - 1);
        }
        free(path);
    }
    names_free(names, count);
}

/* ---- Groups ---- */

/* Keys that name a run, place it on a machine or say what is written about it. The paths of data and weights are
 * represented by the hashes in the manifest. */
static bool decides_nothing(const char *key)
{
    static const char *const sections[] = {"log.", "report.", "checkpoint."};
    static const char *const keys[] = {"run.name",          "run.out",
                                       "run.seed",          "run.project",
                                       "run.tags",          "run.notes",
                                       "data.root",         "data.workers",
                                       "data.resident",     "teacher.weights",
                                       "teacher.memo",      "teacher.memo_dir",
                                       "teacher.memo_mib",  "teacher.expect_top1",
                                       "teacher.tolerance", "eval.batch",
                                       "eval.every",        "dist.threads",
                                       "train.capture",     "train.time_limit"};
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        if (strncmp(key, sections[i], strlen(sections[i])) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i]) == 0) {
            return true;
        }
    }
    return false;
}

static bool same_values(const RunData *a, const RunData *b)
{
    for (size_t i = 0; i < a->settings.count; i++) {
        const RunSetting *setting = &a->settings.list[i];
        const char *other = run_setting(b, setting->key);
        if (!decides_nothing(setting->key) &&
            (other == NULL || strcmp(other, setting->value) != 0)) {
            return false;
        }
    }
    return true;
}

/* The test set, the networks and the method: what decides on the published figure. */
static bool same_pair(const RunData *a, const RunData *b)
{
    return strcmp(a->dataset, b->dataset) == 0 && strcmp(a->student, b->student) == 0 &&
           strcmp(a->teacher, b->teacher) == 0 && strcmp(a->method, b->method) == 0;
}

static bool same_group(const RunData *a, const RunData *b)
{
    return same_pair(a, b) && strcmp(a->dataset_hash, b->dataset_hash) == 0 &&
           strcmp(a->teacher_hash, b->teacher_hash) == 0 &&
           strcmp(a->precision, b->precision) == 0 && same_values(a, b) && same_values(b, a);
}

static void group_runs(Table *table)
{
    for (size_t i = 0; i < table->run_count; i++) {
        size_t at = 0;
        while (at < table->count && !same_group(table->groups[at].runs[0], table->runs[i])) {
            at++;
        }
        if (at == table->count) {
            table->groups = xgrow(table->groups, &table->capacity, at + 1, sizeof *table->groups);
            table->groups[table->count++] = (TableGroup){0};
        }
        TableGroup *group = &table->groups[at];
        group->runs = xgrow(group->runs, &group->capacity, group->count + 1, sizeof *group->runs);
        group->runs[group->count++] = table->runs[i];
        group->finished += run_data_finished(table->runs[i]) ? 1 : 0;
    }
}

/* ---- Numbers and words of a group ---- */

typedef double (*RunNumber)(const RunData *run);

static double best_of(const RunData *run)
{
    double epoch;
    return run_best_top1(run, &epoch);
}

static double agreement_of(const RunData *run)
{
    return run->agreement;
}

static double seconds_of(const RunData *run)
{
    return run->train_seconds;
}

static Spread spread_over(const TableGroup *group, RunNumber number)
{
    double *values = xmalloc(group->count * sizeof *values);
    size_t count = 0;
    for (size_t i = 0; i < group->count; i++) {
        if (group->finished == 0 || run_data_finished(group->runs[i])) {
            values[count++] = number(group->runs[i]);
        }
    }
    const Spread out = spread_of(values, count);
    free(values);
    return out;
}

static const char *shown(const RunData *run, const char *key)
{
    const char *value = run_setting(run, key);
    return value != NULL ? value : "–";
}

/* Keys in which `group` differs from any other group of its pair and method. */
static char *settings_text(const Table *table, const TableGroup *group)
{
    const RunData *run = group->runs[0];
    Text text = {0};
    text_puts(&text, "");
    int found = 0;
    for (size_t k = 0; k < run->settings.count && found < DIFFERENCES; k++) {
        const char *key = run->settings.list[k].key;
        bool differs = false;
        for (size_t g = 0; g < table->count && !differs; g++) {
            const RunData *other = table->groups[g].runs[0];
            differs = other != run && same_pair(run, other) && !decides_nothing(key) &&
                      strcmp(shown(other, key), run->settings.list[k].value) != 0;
        }
        if (differs) {
            text_add(&text, "%s%s=%s", found++ > 0 ? ", " : "", key, run->settings.list[k].value);
        }
    }
    return text.text;
}

static void add_remark(Text *text, const char *remark)
{
    text_add(text, "%s%s", text->size > 0 ? "; " : "", remark);
}

static void remark_unfinished(Text *text, const TableGroup *group)
{
    const size_t open = group->count - group->finished;
    if (open == 0) {
        return;
    }
    const RunData *run = group->runs[0];
    for (size_t i = 0; i < group->count && run_data_finished(run); i++) {
        run = group->runs[i];
    }
    const double done =
        isfinite(run->epochs_done) ? run->epochs_done : (double)run->epochs_seen.count;
    char *remark =
        isfinite(run->epochs)
            ? xformat("%zu not finished (%.0f of %.0f epochs)%s", open, done, run->epochs,
                      group->finished > 0 ? ", left out" : "")
            : xformat("%zu not finished%s", open, group->finished > 0 ? ", left out" : "");
    add_remark(text, remark);
    free(remark);
}

static char *remark_text(const TableGroup *group)
{
    const RunData *run = group->runs[0];
    Text text = {0};
    text_puts(&text, "");
    remark_unfinished(&text, group);
    const Published *figure = &group->figure;
    if (group->published && isfinite(run->epochs) && figure->epochs > 0 &&
        (int)run->epochs != figure->epochs) {
        char *remark = xformat("not comparable: %.0f of %d epochs", run->epochs, figure->epochs);
        add_remark(&text, remark);
        free(remark);
    }
    if (group->published && isfinite(run->batch) && figure->batch > 0 &&
        (int)run->batch != figure->batch) {
        char *remark = xformat("batch %.0f, published %d", run->batch, figure->batch);
        add_remark(&text, remark);
        free(remark);
    }
    if (group->published && figure->teacher_top1 > 0.0 &&
        fabs(group->teacher.mean - figure->teacher_top1) > TEACHER_TOLERANCE) {
        char *remark =
            xformat("teacher %.2f, published %.2f", group->teacher.mean, figure->teacher_top1);
        add_remark(&text, remark);
        free(remark);
    }
    const char *warning = published_warning(run->dataset, run->teacher, run->student);
    if (warning != NULL) {
        add_remark(&text, warning);
    }
    return text.text;
}

static void sum_up(Table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        TableGroup *group = &table->groups[i];
        const RunData *run = group->runs[0];
        group->last = spread_over(group, run_last_top1);
        group->best = spread_over(group, best_of);
        group->agreement = spread_over(group, agreement_of);
        group->seconds = spread_over(group, seconds_of);
        group->teacher = spread_over(group, run_teacher_top1);
        group->published =
            published_find(run->dataset, run->teacher, run->student, run->method, &group->figure);
        group->settings = settings_text(table, group);
        group->remark = remark_text(group);
    }
}

/* ---- Life ---- */

static int by_pair(const void *a, const void *b)
{
    const RunData *p = *(RunData *const *)a;
    const RunData *q = *(RunData *const *)b;
    const char *const left[] = {p->dataset, p->student, p->teacher, p->method, p->name};
    const char *const right[] = {q->dataset, q->student, q->teacher, q->method, q->name};
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        const int order = strcmp(left[i], right[i]);
        if (order != 0) {
            return order;
        }
    }
    if (p->seed != q->seed) {
        return p->seed < q->seed ? -1 : 1;
    }
    return strcmp(p->folder, q->folder);
}

Err *table_open(const char *const *paths, size_t n, Table **out)
{
    *out = NULL;
    Table *table = xcalloc(1, sizeof *table);
    table->skipped = xstrdup("");
    Err *err = NULL;
    for (size_t i = 0; i < n && err == NULL; i++) {
        if (!path_is_dir(paths[i])) {
            err = err_new(EXIT_NO_INPUT,
                          "'%s' is no folder: give folders of runs, or one that holds them",
                          paths[i]);
        } else {
            search(table, paths[i], SEARCH_DEPTH);
        }
    }
    if (err == NULL && table->run_count == 0) {
        err =
            err_new(EXIT_NO_INPUT, "no run in '%s'%s: give folders that 'cudistill train' made%s%s",
                    n > 0 ? paths[0] : "", n > 1 ? " and the others" : "",
                    table->skipped[0] != '\0' ? "\n" : "", table->skipped);
    }
    if (err != NULL) {
        table_free(table);
        return err;
    }
    qsort(table->runs, table->run_count, sizeof *table->runs, by_pair);
    group_runs(table);
    sum_up(table);
    *out = table;
    return NULL;
}

void table_free(Table *table)
{
    if (table == NULL) {
        return;
    }
    for (size_t i = 0; i < table->count; i++) {
        free(table->groups[i].runs);
        free(table->groups[i].settings);
        free(table->groups[i].remark);
    }
    free(table->groups);
    for (size_t i = 0; i < table->run_count; i++) {
        run_data_free(table->runs[i]);
    }
    free(table->runs);
    free(table->skipped);
    free(table);
}
