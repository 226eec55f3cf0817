/* What a run recorded on its way, and what it was asked for: metrics.jsonl, epochs.csv, config.origin.tsv, config.ini.
 * Lines that cannot be read are counted, not fatal: a killed run may leave a torn one. */
#include "report/collect_parts.h"

#include "base/files.h"
#include "train/rundir.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SETTINGS_LIMIT = 1 << 20, SETTINGS_MAX = 1000, EPOCH_MAX = 10000000, CSV_COLUMNS = 64 };

static RunPoint *add_point(RunPoints *points)
{
    points->points =
        xgrow(points->points, &points->capacity, points->count + 1, sizeof *points->points);
    return &points->points[points->count++];
}

/* ---- metrics.jsonl ---- */

static RunPoint read_point(const json_t *line, const char *loss, const char *ce, const char *top1)
{
    RunPoint point = {
        .epoch = json_member_int(line, "epoch", 1, EPOCH_MAX, 0),
        .step = json_member_number(line, "step"),
        .lr = json_member_number(line, "lr"),
        .loss = json_member_number(line, loss),
        .ce = json_member_number(line, ce),
        .top1 = json_member_number(line, top1),
        .teacher_top1 = json_member_number(line, "teacher_top1"),
        .agreement = json_member_number(line, "agreement"),
        .eval_top1 = json_member_number(line, "eval_top1"),
        .eval_top5 = json_member_number(line, "eval_top5"),
        .eval_loss = json_member_number(line, "eval_loss"),
        .images_per_s = json_member_number(line, "images_per_s"),
        .seconds = json_member_number(line, "seconds"),
        .phases = {json_member_number(line, "phase_data"),
                   json_member_number(line, "phase_teacher"),
                   json_member_number(line, "phase_student"),
                   json_member_number(line, "phase_update")},
        .best = json_is_true(json_object_get(line, "best")),
    };
    if (!isfinite(point.phases[PHASE_DATA])) {
        point.phases[PHASE_DATA] = json_member_number(line, "data_share");
    }
    const json_t *terms = json_object_get(line, "terms");
    for (size_t i = 0; i < RUN_TERMS; i++) {
        const json_t *term = json_array_get(terms, i);
        point.terms[i] = json_is_number(term) ? run_number(json_number_value(term)) : NAN;
    }
    return point;
}

/* False when the line is no record. */
static bool read_line(RunData *run, const char *text, size_t size)
{
    json_t *line = json_loadb(text, size, 0, NULL);
    const json_t *event = json_object_get(line, "event");
    const bool good = json_is_string(event);
    const char *kind = good ? json_string_value(event) : "";
    if (strcmp(kind, "epoch") == 0) {
        *add_point(&run->epochs_seen) = read_point(line, "train_loss", "train_ce", "train_top1");
    } else if (strcmp(kind, "step") == 0) {
        *add_point(&run->steps_seen) = read_point(line, "loss", "ce", "top1");
    } else if (strcmp(kind, "nonfinite") == 0) {
        run->nonfinite_events++;
    }
    json_decref(line);
    return good;
}

static int by_epoch(const void *a, const void *b)
{
    const RunPoint *p = a;
    const RunPoint *q = b;
    if (p->epoch != q->epoch) {
        return p->epoch < q->epoch ? -1 : 1;
    }
    return isfinite(p->step) && isfinite(q->step) ? (p->step > q->step) - (p->step < q->step) : 0;
}

/* One point an epoch, in order; of several the one of the highest step. */
static void tidy_epochs(RunPoints *points)
{
    if (points->count == 0) {
        return;
    }
    qsort(points->points, points->count, sizeof *points->points, by_epoch);
    size_t kept = 0;
    for (size_t i = 0; i < points->count; i++) {
        if (points->points[i].epoch < 1) {
            continue;
        }
        if (kept > 0 && points->points[kept - 1].epoch == points->points[i].epoch) {
            kept--;
        }
        points->points[kept++] = points->points[i];
    }
    points->count = kept;
}

static void collect_jsonl(RunData *run)
{
    char *path = path_join(run->folder, RUN_METRICS);
    FileMap map = {0};
    Err *err = path_exists(path) ? file_map(path, &map) : NULL;
    free(path);
    if (err != NULL) {
        run_note(run, "%s is left out: %s", RUN_METRICS, err->message);
        err_free(err);
        return;
    }
    size_t bad = 0;
    for (size_t at = 0; at < map.size;) {
        const char *line = (const char *)map.data + at;
        const char *end = memchr(line, '\n', map.size - at);
        const size_t size = end != NULL ? (size_t)(end - line) : map.size - at;
        bad += read_line(run, line, size) ? 0 : 1;
        at += size + 1;
    }
    file_unmap(&map);
    if (bad > 0) {
        run_note(run, "%s: %zu %s could not be read and %s left out", RUN_METRICS, bad,
                 bad == 1 ? "line" : "lines", bad == 1 ? "was" : "were");
    }
}

/* ---- epochs.csv, where metrics.jsonl has no epochs ---- */

typedef struct {
    char *fields[CSV_COLUMNS];
    int count;
} CsvRow;

/* Cuts `line` in place. */
static CsvRow csv_split(char *line)
{
    CsvRow row = {0};
    for (char *at = line; at != NULL && row.count < CSV_COLUMNS;) {
        row.fields[row.count++] = at;
        at = strchr(at, ',');
        if (at != NULL) {
            *at++ = '\0';
        }
    }
    return row;
}

static double csv_number(const CsvRow *head, const CsvRow *row, const char *name)
{
    for (int i = 0; i < head->count && i < row->count; i++) {
        if (strcmp(head->fields[i], name) == 0 && row->fields[i][0] != '\0') {
            char *end = NULL;
            const double value = strtod(row->fields[i], &end);
            return *end == '\0' ? run_number(value) : NAN;
        }
    }
    return NAN;
}

static RunPoint csv_point(const CsvRow *head, const CsvRow *row)
{
    const double epoch = csv_number(head, row, "epoch");
    RunPoint point = {
        .epoch = epoch >= 1 && epoch <= EPOCH_MAX ? (int)epoch : 0,
        .step = csv_number(head, row, "step"),
        .lr = csv_number(head, row, "lr"),
        .loss = csv_number(head, row, "train_loss"),
        .ce = csv_number(head, row, "train_ce"),
        .top1 = csv_number(head, row, "train_top1"),
        .teacher_top1 = csv_number(head, row, "teacher_top1"),
        .agreement = csv_number(head, row, "agreement"),
        .eval_top1 = csv_number(head, row, "eval_top1"),
        .eval_top5 = csv_number(head, row, "eval_top5"),
        .eval_loss = csv_number(head, row, "eval_loss"),
        .images_per_s = csv_number(head, row, "images_per_s"),
        .seconds = csv_number(head, row, "seconds"),
        .phases = {csv_number(head, row, "phase_data"), csv_number(head, row, "phase_teacher"),
                   csv_number(head, row, "phase_student"), csv_number(head, row, "phase_update")},
        .best = csv_number(head, row, "best") == 1.0,
    };
    if (!isfinite(point.phases[PHASE_DATA])) {
        point.phases[PHASE_DATA] = csv_number(head, row, "data_share");
    }
    for (int i = 0; i < RUN_TERMS; i++) {
        char *name = xformat("train_term%d", i + 1);
        point.terms[i] = csv_number(head, row, name);
        free(name);
    }
    return point;
}

static void collect_csv(RunData *run)
{
    char *text = run_file_text(run, RUN_EPOCHS, (size_t)64 << 20);
    char *rest = text;
    char *line = rest != NULL ? strsep(&rest, "\n") : NULL;
    if (line != NULL) {
        const CsvRow head = csv_split(line);
        for (line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
            const CsvRow row = csv_split(line);
            if (row.count == head.count) {
                *add_point(&run->epochs_seen) = csv_point(&head, &row);
            }
        }
    }
    free(text);
}

void collect_records(RunData *run)
{
    collect_jsonl(run);
    tidy_epochs(&run->epochs_seen);
    if (run->epochs_seen.count == 0) {
        collect_csv(run);
        tidy_epochs(&run->epochs_seen);
    }
}

/* ---- Settings ---- */

static void add_setting(RunData *run, char *key, const char *value, const char *origin)
{
    RunSettings *settings = &run->settings;
    if (settings->count >= SETTINGS_MAX) {
        free(key);
        return;
    }
    settings->list =
        xgrow(settings->list, &settings->capacity, settings->count + 1, sizeof *settings->list);
    settings->list[settings->count++] =
        (RunSetting){.key = key, .value = xstrdup(value), .origin = xstrdup(origin)};
}

static bool collect_origins(RunData *run)
{
    char *text = run_file_text(run, RUN_ORIGINS, SETTINGS_LIMIT);
    for (char *rest = text, *line = NULL; rest != NULL && (line = strsep(&rest, "\n")) != NULL;) {
        char *value = strchr(line, '\t');
        if (value == NULL) {
            continue;
        }
        *value++ = '\0';
        char *origin = strrchr(value, '\t');
        if (origin != NULL) {
            *origin++ = '\0';
        }
        if (strchr(line, '.') != NULL) {
            add_setting(run, xstrdup(line), value, origin != NULL ? origin : "");
        }
    }
    free(text);
    return run->settings.count > 0;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text)) {
        text++;
    }
    for (size_t size = strlen(text); size > 0 && isspace((unsigned char)text[size - 1]); size--) {
        text[size - 1] = '\0';
    }
    return text;
}

static void collect_ini(RunData *run)
{
    char *text = run_file_text(run, RUN_CONFIG, SETTINGS_LIMIT);
    const char *section = "";
    for (char *rest = text, *line = NULL; rest != NULL && (line = strsep(&rest, "\n")) != NULL;) {
        char *at = trim(line);
        char *equals = strchr(at, '=');
        if (at[0] == '[' && strchr(at, ']') != NULL) {
            *strchr(at, ']') = '\0';
            section = at + 1;
        } else if (at[0] != '#' && at[0] != ';' && equals != NULL && section[0] != '\0') {
            *equals = '\0';
            add_setting(run, xformat("%s.%s", section, trim(at)), trim(equals + 1), "");
        }
    }
    free(text);
}

void collect_settings(RunData *run)
{
    if (!collect_origins(run)) {
        collect_ini(run);
    }
}
