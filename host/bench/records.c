/* JSON lines by jansson, written and read back. */
#include "bench/records.h"

#include "base/files.h"
#include "base/version.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FIGURES = 6, MAX_FILE = 64 << 20 };

char *record_case(const BenchRecord *r)
{
    char text[512];
    const BenchOp *op = r->point.op;
    int at = snprintf(text, sizeof text, "%s", op->name);
    for (int a = 0; a < problem_axes(op); a++) {
        char value[BENCH_TEXT];
        axis_text(&op->axes[a], r->point.value[a], value, sizeof value);
        at += snprintf(text + at, sizeof text - (size_t)at, " %s=%s", op->axes[a].name, value);
    }
    snprintf(text + at, sizeof text - (size_t)at, " %s %s%s", problem_dtype(r->point.dtype),
             r->cold ? "cold" : "warm", r->graph ? " graph" : "");
    return xstrdup(text);
}

double record_bytes_per_s(const BenchRecord *r)
{
    return r->bytes / r->timing.median;
}

static json_t *axes_object(const BenchPoint *point)
{
    json_t *axes = json_object();
    for (int a = 0; a < problem_axes(point->op); a++) {
        const BenchAxis *axis = &point->op->axes[a];
        char value[BENCH_TEXT];
        axis_text(axis, point->value[a], value, sizeof value);
        json_object_set_new(axes, axis->name,
                            axis->choices ? json_string(value) : json_integer(point->value[a]));
    }
    return axes;
}

static void set_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, json_real(value));
}

static json_t *utc_now(void)
{
    char text[32] = "";
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc)) {
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
    return json_string(text);
}

char *record_json(const BenchRecord *r, const char *backend, const DeviceInfo *info)
{
    json_t *o = json_object();
    char *name = record_case(r);
    json_object_set_new(o, "case", json_string(name));
    json_object_set_new(o, "op", json_string(r->point.op->name));
    json_object_set_new(o, "axes", axes_object(&r->point));
    json_object_set_new(o, "dtype", json_string(problem_dtype(r->point.dtype)));
    json_object_set_new(o, "cache", json_string(r->cold ? "cold" : "warm"));
    json_object_set_new(o, "graph", json_boolean(r->graph));
    json_object_set_new(o, "clock", json_string(r->clock));
    json_object_set_new(o, "samples", json_integer(r->timing.samples));
    json_object_set_new(o, "runs_per_sample", json_integer(r->timing.per_sample));
    set_real(o, "median_s", r->timing.median);
    set_real(o, "p10_s", r->timing.p10);
    set_real(o, "p90_s", r->timing.p90);
    set_real(o, "noise", r->timing.noise);
    set_real(o, "bytes", r->bytes);
    set_real(o, "gb_per_s", record_bytes_per_s(r) * 1e-9);
    set_real(o, "copy_gb_per_s", r->copy_speed * 1e-9);
    set_real(o, "share_of_copy", record_bytes_per_s(r) / r->copy_speed);
    if (r->flops > 0) {
        set_real(o, "gflop_per_s", r->flops / r->timing.median * 1e-9);
    }
    json_object_set_new(o, "backend", json_string(backend));
    json_object_set_new(o, "device", json_string(info->name));
    json_object_set_new(o, "library", json_string(info->library));
    json_object_set_new(o, "threads", json_integer(info->threads));
    json_object_set_new(o, "commit", json_string(version_commit()));
    json_object_set_new(o, "time", utc_now());
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(FIGURES));
    CHECK(text, "no JSON of %s", name);
    free(name);
    json_decref(o);
    return text;
}

/* ---- Baseline ---- */

static Err *add_entry(Baseline *baseline, const char *path, int line, const char *text)
{
    json_error_t error;
    json_t *o = json_loads(text, 0, &error);
    const json_t *median = json_object_get(o, "median_s");
    const char *name = json_string_value(json_object_get(o, "case"));
    const char *device = json_string_value(json_object_get(o, "device"));
    if (!name || !device || !json_is_number(median) || !(json_number_value(median) > 0)) {
        Err *err = err_new(EXIT_BAD_DATA,
                           "%s:%d: not a measurement (%s): a baseline is a file that --json wrote",
                           path, line, o ? "case, device or median_s is missing" : error.text);
        json_decref(o);
        return err;
    }
    baseline->entries = xgrow(baseline->entries, &baseline->capacity, (size_t)baseline->count + 1,
                              sizeof *baseline->entries);
    baseline->entries[baseline->count++] =
        (BaselineEntry){.name = xstrdup(name),
                        .device = xstrdup(device),
                        .threads = (int)json_integer_value(json_object_get(o, "threads")),
                        .median_s = json_number_value(median)};
    json_decref(o);
    return NULL;
}

Err *baseline_load(const char *path, Baseline *out)
{
    *out = (Baseline){0};
    char *text = NULL;
    TRY(err_context(file_read_text(path, MAX_FILE, &text), "--baseline"));
    Err *err = NULL;
    int line = 0;
    for (char *at = text; !err && *at;) {
        const size_t length = strcspn(at, "\n");
        const bool more = at[length] == '\n';
        at[length] = '\0';
        line++;
        if (at[strspn(at, " \t\r")] != '\0') {
            err = add_entry(out, path, line, at);
        }
        at += length + more;
    }
    free(text);
    if (!err && out->count == 0) {
        err = err_new(EXIT_BAD_DATA, "%s: no measurements; a baseline is a file that --json wrote",
                      path);
    }
    if (err) {
        baseline_free(out);
    }
    return err;
}

void baseline_free(Baseline *baseline)
{
    for (int i = 0; i < baseline->count; i++) {
        free(baseline->entries[i].name);
        free(baseline->entries[i].device);
    }
    free(baseline->entries);
    *baseline = (Baseline){0};
}

double baseline_find(const Baseline *baseline, const char *name, const char *device, int threads)
{
    for (int i = baseline->count - 1; i >= 0; i--) {
        const BaselineEntry *entry = &baseline->entries[i];
        if (entry->threads == threads && strcmp(entry->name, name) == 0 &&
            strcmp(entry->device, device) == 0) {
            return entry->median_s;
        }
    }
    return 0;
}

bool baseline_slower(double median_s, double baseline_s, double tolerance)
{
    return median_s > baseline_s * (1 + tolerance);
}
