/* manifest.json. It is written whole at every change, so that readers never see a part of it. */
#include "train/manifest.h"

#include "base/files.h"
#include "base/log.h"
#include "base/version.h"
#include "train/record_file.h"
#include "train/rundir.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MANIFEST_FORMAT = 1, MANIFEST_MAX_BYTES = 16 << 20 };

struct Manifest {
    double started;
    json_t *resumes; /* array */
    bool was_finished;
};

/* ---- Opening ---- */

static void read_history(Manifest *manifest, const char *path)
{
    char *text = NULL;
    Err *err = file_read_text(path, MANIFEST_MAX_BYTES, &text);
    json_t *root = err ? NULL : json_loads(text, 0, NULL);
    json_t *resumes = json_object_get(root, "resumes");
    const json_t *started = json_object_get(root, "started");
    if (json_is_array(resumes) && json_is_number(started)) {
        json_decref(manifest->resumes);
        manifest->resumes = json_incref(resumes);
        manifest->started = json_number_value(started);
        const char *status = json_string_value(json_object_get(root, "status"));
        manifest->was_finished = status && strcmp(status, "finished") == 0;
    } else {
        log_warn("%s: %s; its history is lost", path,
                 err ? err->message : "not a manifest of this program");
    }
    json_decref(root);
    free(text);
    err_free(err);
}

static void add_resume(Manifest *manifest, long step)
{
    char host[256] = "unknown";
    (void)gethostname(host, sizeof host - 1);
    json_t *name = json_string(host);
    json_t *resume =
        json_pack("{s:f, s:I, s:o}", "time", record_time(), "step", (json_int_t)step, "host",
                  name ? name : json_string("unknown")); /* NULL: a name that is not UTF-8 */
    CHECK(resume && json_array_append_new(manifest->resumes, resume) == 0,
          "the manifest's history could not be made");
}

Manifest *manifest_open(const Run *run)
{
    Manifest *manifest = xcalloc(1, sizeof *manifest);
    manifest->started = record_time();
    manifest->resumes = json_array();
    if (run->resumed) {
        char *path = path_join(run->settings->out, RUN_MANIFEST);
        read_history(manifest, path);
        free(path);
        if (!run_finished(run)) {
            add_resume(manifest, run->state.step);
        }
    }
    return manifest;
}

bool manifest_was_finished(const Manifest *manifest)
{
    return manifest->was_finished;
}

void manifest_close(Manifest *manifest)
{
    if (manifest) {
        json_decref(manifest->resumes);
        free(manifest);
    }
}

/* ---- Writing ---- */

static void percent(Text *json, const char *key, double value)
{
    if (value >= 0.0) {
        text_json_number(json, key, value);
    } else {
        text_add(json, ",\"%s\":null", key);
    }
}

static void put_what(Text *json, const Run *run)
{
    const Settings *s = run->settings;
    text_add(json, "{\"format\":%d", (int)MANIFEST_FORMAT);
    record_text(json, "version", PROGRAM_VERSION);
    record_text(json, "commit", version_commit());
    record_text(json, "name", s->name);
    record_text(json, "project", s->project);
    record_text(json, "tags", s->tags);
    record_text(json, "notes", s->notes);
    text_add(json, ",\"seed\":%llu", (unsigned long long)s->seed);
}

static void put_networks(Text *json, const Run *run)
{
    const Settings *s = run->settings;
    DeviceInfo info;
    run->backend->info(run->backend, &info);
    record_text(json, "student", s->student_model);
    text_add(json, ",\"student_parameters\":%zu", params_count(&run->params, STUDENT_PREFIX));
    record_text(json, "teacher", s->teacher_model ? s->teacher_model : "");
    record_text(json, "teacher_weights", s->teacher_model ? s->teacher_weights : "");
    record_text(json, "teacher_hash", run->state.teacher_hash);
    record_text(json, "method", config_str(s->config, "distill", "method"));
    record_text(json, "formula", run->objective.formula);
    record_text(json, "device", info.name);
    record_text(json, "backend", run->backend->name);
    record_text(json, "precision", dtype_name(run->student.act));
    text_add(json, ",\"batch\":%d,\"epochs\":%d", s->batch, s->schedule.epochs);
}

static void put_dataset(Text *json, const Run *run)
{
    const Dataset *set = run->train_set;
    text_puts(json, ",\"dataset\":{\"name\":");
    text_json(json, set->name);
    record_text(json, "source", set->source);
    record_text(json, "hash", set->hash);
    text_add(json, ",\"train\":%u,\"test\":%u,\"classes\":%d,\"size\":%d}", set->count,
             run->test_set->count, set->classes, set->height);
}

static void put_result(Text *json, const Run *run)
{
    const RunState *st = &run->state;
    const bool evaluated = st->last_top1 >= 0.0;
    text_add(json, ",\"result\":{\"epochs\":%u,\"steps\":%ld", st->epoch, st->step);
    percent(json, "last_top1", st->last_top1);
    percent(json, "last_top5", evaluated ? st->last_top5 : -1.0);
    if (evaluated) {
        text_json_number(json, "last_loss", st->last_loss);
    } else {
        text_puts(json, ",\"last_loss\":null");
    }
    percent(json, "best_top1", st->best_top1);
    if (st->best_epoch > 0) {
        text_add(json, ",\"best_epoch\":%u", st->best_epoch);
    } else {
        text_puts(json, ",\"best_epoch\":null");
    }
    percent(json, "teacher_top1", st->teacher_top1);
    percent(json, "teacher_top5", st->teacher_top5);
    percent(json, "agreement", st->agreement);
    text_json_number(json, "train_seconds", st->train_seconds);
    percent(json, "images_per_s",
            st->train_seconds > 0.0 ? (double)st->train_images / st->train_seconds : -1.0);
    text_add(json, ",\"nonfinite_steps\":%ld}}", st->nonfinite_total);
}

Err *manifest_write(const Manifest *manifest, const Run *run, const char *status, int exit_code,
                    const char *error)
{
    Text json = {0};
    put_what(&json, run);
    record_text(&json, "status", status);
    if (exit_code >= 0) {
        text_add(&json, ",\"exit_code\":%d", exit_code);
    } else {
        text_puts(&json, ",\"exit_code\":null");
    }
    record_text(&json, "error", error);
    text_add(&json, ",\"started\":%.3f,\"updated\":%.3f", manifest->started, record_time());
    put_networks(&json, run);
    put_dataset(&json, run);
    char *resumes = json_dumps(manifest->resumes, JSON_COMPACT | JSON_REAL_PRECISION(15));
    CHECK(resumes, "the manifest's history could not be encoded");
    text_add(&json, ",\"resumes\":%s", resumes);
    free(resumes);
    put_result(&json, run);
    return record_write_json(run->settings->out, RUN_MANIFEST, &json);
}
