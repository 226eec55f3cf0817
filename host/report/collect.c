/* Opens the folder of a run: manifest, environment, classes, errors, and the parts of collect_*.c. Nothing here trusts a
 * file: sizes are limited, types are checked member by member, and what does not fit becomes a note. */
#include "report/collect_parts.h"

#include "base/files.h"
#include "base/text.h"
#include "train/rundir.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    JSON_LIMIT = 4 << 20,
    CLASSES_LIMIT = 8 << 20,
    CLASS_MAX = 1000000,
    ENVIRONMENT_ROWS = 200,
    ENVIRONMENT_DEPTH = 6,
    ERROR_FILES = 8,
    NOTES_MAX = 40
};

static const double NUMBER_MAX = 1e15; /* whatever a run counts stays far below */

void run_texts_add(RunTexts *texts, char *owned)
{
    texts->list = xgrow(texts->list, &texts->capacity, texts->count + 1, sizeof *texts->list);
    texts->list[texts->count++] = owned;
}

void run_note(RunData *run, const char *format, ...)
{
    if (run->notes.count >= NOTES_MAX) {
        return;
    }
    va_list args;
    va_start(args, format);
    run_texts_add(&run->notes, xvformat(format, args));
    va_end(args);
}

/* ---- Files and JSON ---- */

char *run_file_text(RunData *run, const char *name, size_t max_bytes)
{
    char *path = path_join(run->folder, name);
    char *text = NULL;
    if (path_exists(path)) {
        Err *err = file_read_text(path, max_bytes, &text);
        if (err != NULL) {
            run_note(run, "%s is left out: %s", name, err->message);
            err_free(err);
            text = NULL;
        }
    }
    free(path);
    return text;
}

json_t *run_file_json(RunData *run, const char *name, size_t max_bytes)
{
    char *text = run_file_text(run, name, max_bytes);
    if (text == NULL) {
        return NULL;
    }
    json_error_t why;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &why);
    if (value == NULL) {
        run_note(run, "%s is left out: line %d: %s", name, why.line, why.text);
    }
    free(text);
    return value;
}

double run_number(double value)
{
    return fabs(value) <= NUMBER_MAX ? value : NAN;
}

double json_member_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? run_number(json_number_value(value)) : NAN;
}

int json_member_int(const json_t *object, const char *key, int low, int high, int fallback)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) {
        return fallback;
    }
    const json_int_t number = json_integer_value(value);
    return number >= low && number <= high ? (int)number : fallback;
}

char *json_member_text(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return xstrdup(json_is_string(value) ? json_string_value(value) : "");
}

/* ---- manifest.json ---- */

static char *tags_text(const json_t *manifest)
{
    const json_t *tags = json_object_get(manifest, "tags");
    if (!json_is_array(tags)) {
        return json_member_text(manifest, "tags");
    }
    Text joined = {0};
    text_puts(&joined, "");
    for (size_t i = 0; i < json_array_size(tags); i++) {
        const json_t *tag = json_array_get(tags, i);
        if (json_is_string(tag)) {
            text_add(&joined, "%s%s", joined.size > 0 ? ", " : "", json_string_value(tag));
        }
    }
    return joined.text;
}

static void read_resumes(RunData *run, const json_t *manifest)
{
    const json_t *resumes = json_object_get(manifest, "resumes");
    const size_t count = json_array_size(resumes);
    run->resumes = xcalloc(count + 1, sizeof *run->resumes);
    for (size_t i = 0; i < count; i++) {
        const json_t *resume = json_array_get(resumes, i);
        run->resumes[i] = (RunResume){.time = json_member_number(resume, "time"),
                                      .step = json_member_number(resume, "step"),
                                      .host = json_member_text(resume, "host")};
    }
    run->resume_count = count;
}

/* With manifest NULL: every text "" and every number NaN. */
static void read_manifest(RunData *run, const json_t *manifest)
{
    const struct {
        const char *key;
        char **text;
    } texts[] = {
        {"name", &run->name},       {"status", &run->status},
        {"error", &run->error},     {"version", &run->version},
        {"commit", &run->commit},   {"project", &run->project},
        {"notes", &run->comment},   {"student", &run->student},
        {"teacher", &run->teacher}, {"teacher_hash", &run->teacher_hash},
        {"method", &run->method},   {"formula", &run->formula},
        {"device", &run->device},   {"precision", &run->precision},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        *texts[i].text = json_member_text(manifest, texts[i].key);
    }
    run->tags = tags_text(manifest);
    const json_t *data = json_object_get(manifest, "dataset");
    run->dataset = json_member_text(data, "name");
    run->dataset_source = json_member_text(data, "source");
    run->dataset_hash = json_member_text(data, "hash");
    const json_t *result = json_object_get(manifest, "result");
    const struct {
        const json_t *object;
        const char *key;
        double *number;
    } numbers[] = {
        {manifest, "seed", &run->seed},
        {manifest, "exit_code", &run->exit_code},
        {manifest, "started", &run->started},
        {manifest, "updated", &run->updated},
        {manifest, "student_parameters", &run->student_parameters},
        {manifest, "batch", &run->batch},
        {manifest, "epochs", &run->epochs},
        {data, "train", &run->train_count},
        {data, "test", &run->test_count},
        {data, "classes", &run->classes},
        {data, "size", &run->image_size},
        {result, "last_top1", &run->last_top1},
        {result, "last_top5", &run->last_top5},
        {result, "last_loss", &run->last_loss},
        {result, "best_top1", &run->best_top1},
        {result, "best_epoch", &run->best_epoch},
        {result, "teacher_top1", &run->known_teacher_top1},
        {result, "teacher_top5", &run->known_teacher_top5},
        {result, "agreement", &run->agreement},
        {result, "epochs", &run->epochs_done},
        {result, "steps", &run->steps_done},
        {result, "train_seconds", &run->train_seconds},
        {result, "images_per_s", &run->images_per_s},
        {result, "nonfinite_steps", &run->nonfinite_steps},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        *numbers[i].number = json_member_number(numbers[i].object, numbers[i].key);
    }
    read_resumes(run, manifest);
}

static void collect_manifest(RunData *run)
{
    json_t *manifest = run_file_json(run, RUN_MANIFEST, JSON_LIMIT);
    if (manifest != NULL && !json_is_object(manifest)) {
        run_note(run, "%s is left out: it is not an object", RUN_MANIFEST);
        json_decref(manifest);
        manifest = NULL;
    }
    run->has_manifest = manifest != NULL;
    read_manifest(run, manifest);
    json_decref(manifest);
}

/* ---- env.json, classes.json, errors/ ---- */

/* Words with blanks between: a command line, a list of features. NULL where there is more than words. */
static char *joined_text(const json_t *list)
{
    Text joined = {0};
    text_puts(&joined, "");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *word = json_array_get(list, i);
        if (!json_is_string(word)) {
            text_free(&joined);
            return NULL;
        }
        text_add(&joined, "%s%s", i > 0 ? " " : "", json_string_value(word));
    }
    return joined.text;
}

static char *scalar_text(const json_t *value)
{
    char *joined = json_is_array(value) ? joined_text(value) : NULL;
    if (joined != NULL) {
        return joined;
    }
    if (json_is_string(value) || json_is_null(value)) {
        return xstrdup(json_is_null(value) ? "–" : json_string_value(value));
    }
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    return dumped != NULL ? dumped : xstrdup("");
}

static void add_environment(RunData *run, char *key, char *value)
{
    RunSettings *rows = &run->environment;
    rows->list = xgrow(rows->list, &rows->capacity, rows->count + 1, sizeof *rows->list);
    rows->list[rows->count++] = (RunSetting){.key = key, .value = value, .origin = xstrdup("")};
}

/* Objects become rows "outer.inner"; arrays stay JSON. */
static void flatten(RunData *run, const char *prefix, const json_t *object, int depth)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        if (run->environment.count >= ENVIRONMENT_ROWS) {
            return;
        }
        char *path = xformat("%s%s%s", prefix, prefix[0] != '\0' ? "." : "", key);
        if (json_is_object(value) && depth < ENVIRONMENT_DEPTH) {
            flatten(run, path, value, depth + 1);
            free(path);
        } else {
            add_environment(run, path, scalar_text(value));
        }
    }
}

static void collect_environment(RunData *run)
{
    json_t *environment = run_file_json(run, RUN_ENVIRONMENT, JSON_LIMIT);
    if (json_is_object(environment)) {
        flatten(run, "", environment, 0);
    }
    json_decref(environment);
}

static void collect_classes(RunData *run)
{
    json_t *file = run_file_json(run, RUN_CLASSES, CLASSES_LIMIT);
    const json_t *names = json_is_object(file) ? json_object_get(file, "classes") : file;
    const size_t count = json_array_size(names);
    for (size_t i = 0; i < count && i < CLASS_MAX; i++) {
        const json_t *name = json_array_get(names, i);
        run_texts_add(&run->class_names, json_is_string(name) ? xstrdup(json_string_value(name))
                                                              : xformat("class %zu", i));
    }
    json_decref(file);
}

static void collect_errors(RunData *run)
{
    char *folder = path_join(run->folder, "errors");
    char **names = NULL;
    size_t count = 0;
    if (path_is_dir(folder)) {
        err_free(dir_list(folder, &names, &count));
    }
    for (size_t i = 0; i < count && run->errors.count < ERROR_FILES; i++) {
        char *name = path_join("errors", names[i]);
        json_t *file = run_file_json(run, name, JSON_LIMIT);
        char *message = json_member_text(file, "message");
        const double step = json_member_number(file, "step");
        if (message[0] != '\0') {
            run_texts_add(&run->errors, isfinite(step) ? xformat("step %.0f: %s", step, message)
                                                       : xstrdup(message));
        }
        free(message);
        json_decref(file);
        free(name);
    }
    names_free(names, count);
    free(folder);
}

/* ---- Opening ---- */

bool run_data_is_run(const char *folder)
{
    static const char *const signs[] = {RUN_MANIFEST, RUN_METRICS, RUN_EPOCHS};
    bool found = false;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0] && !found; i++) {
        char *path = path_join(folder, signs[i]);
        found = path_exists(path) && !path_is_dir(path);
        free(path);
    }
    return found;
}

static char *base_name(const char *folder)
{
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/') {
        end--;
    }
    size_t begin = end;
    while (begin > 0 && folder[begin - 1] != '/') {
        begin--;
    }
    return xformat("%.*s", (int)(end - begin), folder + begin);
}

Err *run_data_open(const char *folder, RunDataScope scope, RunData **out)
{
    *out = NULL;
    if (!path_is_dir(folder)) {
        return err_new(EXIT_NO_INPUT,
                       "'%s' is no folder: give the folder of a run, as %s/NAME-sSEED", folder,
                       "runs");
    }
    if (!run_data_is_run(folder)) {
        return err_new(
            EXIT_NO_INPUT,
            "'%s' is not the folder of a run: it has no %s, %s or %s; give a folder that "
            "'cudistill train' made",
            folder, RUN_MANIFEST, RUN_METRICS, RUN_EPOCHS);
    }
    RunData *run = xcalloc(1, sizeof *run);
    run->folder = xstrdup(folder);
    collect_manifest(run);
    if (run->name[0] == '\0') {
        free(run->name);
        run->name = base_name(folder);
    }
    collect_settings(run);
    collect_records(run);
    if (scope == RUN_DATA_ALL) {
        collect_environment(run);
        collect_classes(run);
        collect_errors(run);
        collect_pictures(run);
        collect_histograms(run);
        collect_logits(run);
    }
    if (!run->has_manifest && run->epochs_seen.count == 0 && run->steps_seen.count == 0) {
        Err *err = err_new(EXIT_NO_INPUT, "nothing in '%s' can be read: %s", folder,
                           run->notes.count > 0 ? run->notes.list[0] : "its files are empty");
        run_data_free(run);
        return err;
    }
    *out = run;
    return NULL;
}

static void free_settings(RunSettings *settings)
{
    for (size_t i = 0; i < settings->count; i++) {
        free(settings->list[i].key);
        free(settings->list[i].value);
        free(settings->list[i].origin);
    }
    free(settings->list);
}

static void free_texts(RunTexts *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        free(texts->list[i]);
    }
    free(texts->list);
}

static void free_histogram(RunHistogram *histogram)
{
    free(histogram->of);
    free(histogram->edges);
    free(histogram->values);
    free(histogram->counts);
}

void run_data_free(RunData *run)
{
    if (run == NULL) {
        return;
    }
    char *const texts[] = {run->folder,  run->name,           run->status,      run->error,
                           run->version, run->commit,         run->project,     run->tags,
                           run->comment, run->student,        run->teacher,     run->teacher_hash,
                           run->method,  run->formula,        run->device,      run->precision,
                           run->dataset, run->dataset_source, run->dataset_hash};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    for (size_t i = 0; i < run->resume_count; i++) {
        free(run->resumes[i].host);
    }
    free(run->resumes);
    free(run->epochs_seen.points);
    free(run->steps_seen.points);
    free_settings(&run->settings);
    free_settings(&run->environment);
    free_texts(&run->class_names);
    free_texts(&run->errors);
    free_texts(&run->notes);
    free(run->pictures);
    free(run->sheet);
    free_histogram(&run->energy);
    free_histogram(&run->temperature);
    weights_close(run->student_file);
    weights_close(run->teacher_file);
    free(run->labels);
    free(run);
}

/* ---- Questions ---- */

static const char *find_value(const RunSettings *settings, const char *key)
{
    for (size_t i = 0; i < settings->count; i++) {
        if (strcmp(settings->list[i].key, key) == 0) {
            return settings->list[i].value;
        }
    }
    return NULL;
}

const char *run_setting(const RunData *run, const char *key)
{
    return find_value(&run->settings, key);
}

const char *run_environment(const RunData *run, const char *key)
{
    return find_value(&run->environment, key);
}

const char *run_class_name(const RunData *run, int label, char *buffer, size_t size)
{
    if (label >= 0 && (size_t)label < run->class_names.count) {
        return run->class_names.list[label];
    }
    (void)snprintf(buffer, size, "class %d", label);
    return buffer;
}

double run_last_top1(const RunData *run)
{
    double last = run->last_top1;
    for (size_t i = run->epochs_seen.count; i-- > 0 && !isfinite(last);) {
        last = run->epochs_seen.points[i].eval_top1;
    }
    return last;
}

double run_best_top1(const RunData *run, double *epoch)
{
    double best = run->best_top1;
    *epoch = run->best_epoch;
    if (!isfinite(best)) {
        for (size_t i = 0; i < run->epochs_seen.count; i++) {
            const RunPoint *point = &run->epochs_seen.points[i];
            if (isfinite(point->eval_top1) && !(point->eval_top1 <= best)) {
                best = point->eval_top1;
                *epoch = point->epoch;
            }
        }
    }
    return best;
}

double run_teacher_top1(const RunData *run)
{
    return run->known_teacher_top1;
}

bool run_data_finished(const RunData *run)
{
    return strcmp(run->status, "finished") == 0;
}
