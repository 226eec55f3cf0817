/* metrics.jsonl and epochs.csv. A line leaves in one write, and one that fails half-way is taken back, so that a full
 * disk costs lines but never leaves a torn one in the middle. At resume both files are rewritten atomically without the
 * lines beyond the resumed step. */
#include "train/metrics.h"

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SCHEMA = 1, CSV_STEP_COLUMN = 6 };

/* The first six as in timm's summary.csv, so that its readers work. */
static const char CSV_HEAD[] = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,"
                               "step,train_ce,train_top1,teacher_top1,agreement";
static const char CSV_TAIL[] = ",eval_count,images_per_s,seconds,data_share,best";
static const char CSV_PHASES[] = ",phase_data,phase_teacher,phase_student,phase_update";
#define CSV_TERM ",train_term"
static const char *const phase_keys[METER_PHASES] = {"phase_data", "phase_teacher", "phase_student",
                                                     "phase_update"};

struct Metrics {
    char *jsonl;
    char *csv;
    int csv_terms; /* term columns in the header of epochs.csv; -1 = no header yet */
    bool csv_phases;
};

void meter_add(Meter *meter, const float sums[SUM_FIELDS])
{
    for (int i = 0; i < SUM_FIELDS; i++) {
        meter->sums[i] += (double)sums[i];
    }
    meter->steps++;
}

void meter_reset(Meter *meter)
{
    *meter = (Meter){0};
}

bool meter_phases(const Meter *meter, double shares[METER_PHASES])
{
    double clocked = 0.0;
    for (int i = 0; i < METER_PHASES; i++) {
        clocked += meter->phase_s[i];
    }
    if (clocked <= 0.0 || meter->seconds <= 0.0) {
        shares[0] = -1.0;
        return false;
    }
    const double wait = fmin(1.0, meter->data_wait_s / meter->seconds);
    for (int i = 0; i < METER_PHASES; i++) {
        shares[i] = (i == 0 ? wait : 0.0) + (1.0 - wait) * meter->phase_s[i] / clocked;
    }
    return true;
}

static void put_array(Text *out, const char *key, const double *values, int count)
{
    text_add(out, ",\"%s\":[", key);
    for (int i = 0; i < count; i++) {
        const char *comma = i > 0 ? "," : "";
        if (isfinite(values[i])) {
            text_add(out, "%s%.10g", comma, values[i]);
        } else {
            text_add(out, "%snull", comma);
        }
    }
    text_add(out, "]");
}

static void begin_event(Text *out, const char *event, long step)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    text_add(out, "{\"event\":\"%s\",\"time\":%.3f,\"step\":%ld", event,
             (double)now.tv_sec + 1e-9 * (double)now.tv_nsec, step);
}

/* ---- Lines ---- */

static Err *append(const char *path, const char *line)
{
    struct stat before;
    const off_t size = stat(path, &before) == 0 ? before.st_size : 0;
    Err *err = file_append_line(path, line);
    struct stat after;
    if (err != NULL && stat(path, &after) == 0 && after.st_size > size &&
        truncate(path, size) != 0) {
        err = err_context(err, "and a torn line stays at its end");
    }
    return err;
}

/* Decides about one line (without its newline): keep it? */
typedef bool (*LineFilter)(const char *line, size_t size, long last_step, bool first);

static bool keep_json(const char *line, size_t size, long last_step, bool first)
{
    (void)first;
    json_t *object = json_loadb(line, size, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    const bool keep =
        json_is_object(object) &&
        (json_is_integer(step) ? json_integer_value(step) <= last_step : step == NULL);
    json_decref(object);
    return keep;
}

static bool keep_csv(const char *line, size_t size, long last_step, bool first)
{
    if (first) {
        return true;
    }
    const char *at = line;
    const char *end = line + size;
    for (int column = 0; column < CSV_STEP_COLUMN; column++) {
        at = memchr(at, ',', (size_t)(end - at));
        if (at == NULL) {
            return false;
        }
        at++;
    }
    char field[24] = "";
    const char *comma = memchr(at, ',', (size_t)(end - at));
    if (comma == NULL || comma == at || (size_t)(comma - at) >= sizeof field) {
        return false;
    }
    memcpy(field, at, (size_t)(comma - at));
    char *rest = NULL;
    const long step = strtol(field, &rest, 10);
    return *rest == '\0' && step <= last_step;
}

/* Rewrites `path` with the lines that `keep` accepts; a last line without newline was torn and goes. */
static Err *cut_back(const char *path, long last_step, LineFilter keep)
{
    if (!path_exists(path)) {
        return NULL;
    }
    FileMap map;
    TRY(file_map(path, &map));
    Text kept = {0};
    const char *text = (const char *)map.data;
    size_t at = 0;
    while (at < map.size) {
        const char *end = memchr(text + at, '\n', map.size - at);
        if (end == NULL) {
            break;
        }
        const size_t size = (size_t)(end - (text + at));
        if (keep(text + at, size, last_step, at == 0)) {
            text_bytes(&kept, text + at, size + 1);
        }
        at += size + 1;
    }
    const bool changed = kept.size != map.size;
    file_unmap(&map);
    Err *err = changed ? file_write_atomic(path, kept.text, kept.size) : NULL;
    free(kept.text);
    return err;
}

/* ---- Opening ---- */

/* First line of a file, without newline; "" when there is none. Caller frees. */
static Err *first_line(const char *path, char **line)
{
    *line = xstrdup("");
    if (!path_exists(path)) {
        return NULL;
    }
    FileMap map;
    TRY(file_map(path, &map));
    const char *end = map.size > 0 ? memchr(map.data, '\n', map.size) : NULL;
    if (end != NULL) {
        free(*line);
        *line = xformat("%.*s", (int)(end - (const char *)map.data), (const char *)map.data);
    }
    file_unmap(&map);
    return NULL;
}

/* An old log must be of this schema; *present = it has its first line. */
static Err *check_schema(const char *path, bool *present)
{
    char *line = NULL;
    Err *err = first_line(path, &line);
    json_t *object = err == NULL ? json_loads(line, 0, NULL) : NULL;
    const json_t *schema = json_object_get(object, "schema");
    *present = json_is_integer(schema);
    if (*present && json_integer_value(schema) != SCHEMA) {
        err = err_new(
            EXIT_BAD_DATA,
            "'%s' was written by another version (schema %lld, this program writes %d): resume "
            "with that version, or move the file away",
            path, (long long)json_integer_value(schema), (int)SCHEMA);
    }
    json_decref(object);
    free(line);
    return err;
}

static Err *read_csv_head(const char *path, int *terms, bool *phases)
{
    char *line = NULL;
    Err *err = first_line(path, &line);
    *terms = -1;
    *phases = strstr(line, CSV_PHASES) != NULL;
    if (err == NULL && line[0] != '\0') {
        const bool ours = strncmp(line, CSV_HEAD, strlen(CSV_HEAD)) == 0;
        *terms = 0;
        for (const char *at = strstr(line, CSV_TERM); at != NULL; at = strstr(at + 1, CSV_TERM)) {
            (*terms)++;
        }
        if (!ours || *terms > DISTILL_MAX_TERMS) {
            err = err_new(
                EXIT_BAD_DATA,
                "'%s' does not begin with the columns of this program ('%s...'): move it away, "
                "or choose another run directory",
                path, CSV_HEAD);
        }
    }
    free(line);
    return err;
}

static Err *start_jsonl(const char *path)
{
    char *line = xformat("{\"schema\":%d,\"event\":\"open\",\"time\":%lld}\n", (int)SCHEMA,
                         (long long)time(NULL));
    Err *err = file_write_atomic(path, line, strlen(line));
    free(line);
    return err;
}

/* A log without its first line (emptied, or lost with the machine) is begun anew. */
static Err *resume_files(Metrics *metrics, long resume_step)
{
    bool has_schema = false;
    TRY(check_schema(metrics->jsonl, &has_schema));
    TRY(read_csv_head(metrics->csv, &metrics->csv_terms, &metrics->csv_phases));
    TRY(cut_back(metrics->csv, resume_step, keep_csv));
    if (has_schema) {
        TRY(cut_back(metrics->jsonl, resume_step, keep_json));
    } else {
        log_warn("'%s' has no valid first line: the log starts anew at step %ld", metrics->jsonl,
                 resume_step);
        TRY(start_jsonl(metrics->jsonl));
    }
    return metrics_event(metrics, "resume", resume_step, "");
}

Err *metrics_open(const char *run_dir, long resume_step, Metrics **out)
{
    *out = NULL;
    TRY(dir_make(run_dir));
    Metrics *metrics = xcalloc(1, sizeof *metrics);
    metrics->jsonl = path_join(run_dir, "metrics.jsonl");
    metrics->csv = path_join(run_dir, "epochs.csv");
    metrics->csv_terms = -1;
    Err *err = NULL;
    if (resume_step >= 0) {
        err = resume_files(metrics, resume_step);
    } else {
        err = dir_remove(metrics->csv);
        if (err == NULL) {
            err = start_jsonl(metrics->jsonl);
        }
    }
    if (err != NULL) {
        metrics_close(metrics);
        return err;
    }
    *out = metrics;
    return NULL;
}

void metrics_close(Metrics *metrics)
{
    if (metrics != NULL) {
        free(metrics->jsonl);
        free(metrics->csv);
        free(metrics);
    }
}

/* ---- Records ---- */

Err *metrics_event(Metrics *metrics, const char *kind, long step, const char *json_fields)
{
    Text line = {0};
    begin_event(&line, kind, step);
    text_add(&line, "%s%s}", json_fields[0] != '\0' ? "," : "", json_fields);
    json_error_t why;
    json_t *object = json_loadb(line.text, line.size, JSON_REJECT_DUPLICATES, &why);
    Err *err = object != NULL
                   ? append(metrics->jsonl, line.text)
                   : err_new(EXIT_INTERNAL,
                             "event '%s' of step %ld is not written to '%s': its fields are not "
                             "JSON (%s): %s",
                             kind, step, metrics->jsonl, why.text, json_fields);
    json_decref(object);
    free(line.text);
    return err;
}

static void csv_number(Text *out, double value)
{
    if (isfinite(value)) {
        text_add(out, ",%.10g", value);
    } else {
        text_add(out, ",%s", isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
    }
}

/* Of a run without a teacher: an empty cell. */
static void csv_teacher(Text *out, double value)
{
    if (isnan(value)) {
        text_puts(out, ",");
    } else {
        csv_number(out, value);
    }
}

static Err *csv_header(Metrics *metrics, int n_terms)
{
    Text line = {0};
    text_add(&line, "%s", CSV_HEAD);
    for (int i = 0; i < n_terms; i++) {
        text_add(&line, CSV_TERM "%d", i + 1);
    }
    text_add(&line, "%s%s", CSV_TAIL, CSV_PHASES);
    Err *err = append(metrics->csv, line.text);
    free(line.text);
    if (err == NULL) {
        metrics->csv_terms = n_terms;
        metrics->csv_phases = true;
    }
    return err;
}

/* Columns as in the header; what was not measured stays empty. A run resumed with another number of terms keeps the
 * columns of its header (metrics.jsonl has them all). */
static void csv_line(Text *out, const EpochRecord *record, int csv_terms, bool csv_phases)
{
    const bool evaluated = record->eval_top1 >= 0.0;
    text_add(out, "%d", record->epoch);
    csv_number(out, record->train_loss);
    if (evaluated) {
        csv_number(out, record->eval_loss);
        csv_number(out, record->eval_top1);
        csv_number(out, record->eval_top5);
    } else {
        text_add(out, ",,,");
    }
    csv_number(out, record->lr);
    text_add(out, ",%ld", record->step);
    csv_number(out, record->train_ce);
    csv_number(out, record->train_top1);
    csv_teacher(out, record->teacher_top1);
    csv_teacher(out, record->agreement);
    for (int i = 0; i < csv_terms; i++) {
        if (i < record->n_terms) {
            csv_number(out, record->terms[i]);
        } else {
            text_add(out, ",");
        }
    }
    if (evaluated) {
        text_add(out, ",%ld", record->eval_count);
    } else {
        text_add(out, ",");
    }
    csv_number(out, record->images_per_s);
    csv_number(out, record->seconds);
    csv_number(out, record->data_share);
    text_add(out, ",%d", record->best ? 1 : 0);
    for (int i = 0; i < METER_PHASES && csv_phases; i++) {
        if (record->phases[0] >= 0.0) {
            csv_number(out, record->phases[i]);
        } else {
            text_add(out, ",");
        }
    }
}

static void put_phases(Text *out, const double shares[METER_PHASES])
{
    for (int i = 0; i < METER_PHASES && shares[0] >= 0.0; i++) {
        text_json_number(out, phase_keys[i], shares[i]);
    }
}

static void json_epoch(Text *out, const EpochRecord *record)
{
    begin_event(out, "epoch", record->step);
    text_add(out, ",\"epoch\":%d", record->epoch);
    text_json_number(out, "lr", record->lr);
    text_json_number(out, "train_loss", record->train_loss);
    text_json_number(out, "train_ce", record->train_ce);
    text_json_number(out, "train_top1", record->train_top1);
    text_json_number(out, "teacher_top1", record->teacher_top1);
    text_json_number(out, "agreement", record->agreement);
    put_array(out, "terms", record->terms, record->n_terms);
    if (record->eval_top1 >= 0.0) {
        text_json_number(out, "eval_top1", record->eval_top1);
        text_json_number(out, "eval_top5", record->eval_top5);
        text_json_number(out, "eval_loss", record->eval_loss);
        text_add(out, ",\"eval_count\":%ld", record->eval_count);
    }
    text_json_number(out, "images_per_s", record->images_per_s);
    text_json_number(out, "seconds", record->seconds);
    text_json_number(out, "data_share", record->data_share);
    put_phases(out, record->phases);
    if (record->loss_scale > 0.0) {
        text_json_number(out, "loss_scale", record->loss_scale);
    }
    text_add(out, ",\"best\":%s}", record->best ? "true" : "false");
}

Err *metrics_epoch(Metrics *metrics, const EpochRecord *record)
{
    CHECK(record->n_terms >= 0 && record->n_terms <= DISTILL_MAX_TERMS, "%d terms",
          record->n_terms);
    if (metrics->csv_terms < 0) {
        TRY(csv_header(metrics, record->n_terms));
    }
    Text line = {0};
    json_epoch(&line, record);
    Err *err = append(metrics->jsonl, line.text);
    line.size = 0;
    if (err == NULL) {
        csv_line(&line, record, metrics->csv_terms, metrics->csv_phases);
        err = append(metrics->csv, line.text);
    }
    free(line.text);
    return err;
}

Err *metrics_step(Metrics *metrics, long step, int epoch, double lr, const Meter *meter,
                  int n_terms, bool teacher)
{
    CHECK(n_terms >= 0 && n_terms <= DISTILL_MAX_TERMS, "%d terms", n_terms);
    const double *sums = meter->sums;
    const double rows = sums[SUM_ROWS];
    double terms[DISTILL_MAX_TERMS] = {0};
    for (int i = 0; i < n_terms; i++) {
        terms[i] = sums[SUM_TERM + i] / rows;
    }
    Text line = {0};
    begin_event(&line, "step", step);
    text_add(&line, ",\"epoch\":%d,\"steps\":%ld", epoch, meter->steps);
    text_json_number(&line, "lr", lr);
    text_json_number(&line, "loss", sums[SUM_LOSS] / rows);
    text_json_number(&line, "ce", sums[SUM_CE] / rows);
    text_json_number(&line, "top1", 100.0 * sums[SUM_TOP1] / rows);
    text_json_number(&line, "teacher_top1", teacher ? 100.0 * sums[SUM_TTOP1] / rows : (double)NAN);
    text_json_number(&line, "agreement", teacher ? 100.0 * sums[SUM_AGREE] / rows : (double)NAN);
    put_array(&line, "terms", terms, n_terms);
    text_json_number(&line, "nonfinite", sums[SUM_NONFINITE]);
    text_json_number(&line, "images_per_s", meter->seconds > 0.0 ? rows / meter->seconds : 0.0);
    text_json_number(&line, "data_share",
                     meter->seconds > 0.0 ? meter->data_wait_s / meter->seconds : 0.0);
    double shares[METER_PHASES];
    (void)meter_phases(meter, shares);
    put_phases(&line, shares);
    if (meter->loss_scale > 0.0) {
        text_json_number(&line, "loss_scale", meter->loss_scale);
    }
    text_add(&line, "}");
    Err *err = append(metrics->jsonl, line.text);
    free(line.text);
    return err;
}
