/* Who is told what. Each kind of file is a channel with a warning of its own, so that a removed folder for TensorBoard
 * does not hide that the disk is full, and one warning is given until the channel works again. */
#include "train/records.h"

#include "base/files.h"
#include "base/log.h"
#include "train/board.h"
#include "train/drift.h"
#include "train/environment.h"
#include "train/manifest.h"
#include "train/predictions.h"
#include "train/record_file.h"
#include "train/rundir.h"
#include "train/samples.h"
#include "train/status.h"

#include <stdlib.h>
#include <string.h>

#define ERROR_FILE "errors/rank-000.json"

typedef enum {
    CHANNEL_METRICS,
    CHANNEL_BOARD,
    CHANNEL_STATUS,
    CHANNEL_MANIFEST,
    CHANNEL_FILES,
    CHANNEL_OWN, /* of callers: records_note */
    CHANNEL_COUNT
} Channel;

struct Records {
    Metrics *metrics;
    Events *board; /* NULL: not wanted, or could not be opened */
    Manifest *manifest;
    Status status;
    Predictions predictions;
    Samples samples;
    bool failed[CHANNEL_COUNT];
    /* The run was finished before: there is nothing new to say of it, and what was said stays. */
    bool over;
    bool ended;
};

static void note(Run *run, Channel channel, Err *err)
{
    bool *failed = &run->records->failed[channel];
    if (err && !*failed) {
        log_warn("step %ld: %s; the run goes on without it", run->state.step, err->message);
    }
    *failed = err != NULL;
    err_free(err);
}

void records_note(Run *run, Err *err)
{
    if (run->records) {
        note(run, CHANNEL_OWN, err);
    } else {
        err_free(err);
    }
}

/* ---- Opening ---- */

static Err *write_text(const Run *run, const char *name, Text *text)
{
    Err *err = record_write(run->settings->out, name, text->text, text->size);
    text_free(text);
    return err;
}

/* Tabs separate the columns, and a value has none: the parser trims lines and refuses other control characters. */
static Err *write_origins(const Run *run)
{
    const Config *config = run->settings->config;
    Text text = {0};
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        char *value = setting_text(config, &rows[i]);
        for (char *at = value; *at; at++) {
            *at = *at == '\t' ? ' ' : *at;
        }
        text_add(&text, "%s.%s\t%s\t%s\n", rows[i].section, rows[i].key, value,
                 config_origin(config, rows[i].section, rows[i].key));
        free(value);
    }
    return write_text(run, RUN_ORIGINS, &text);
}

static Err *write_classes(const Run *run)
{
    const Dataset *set = run->train_set;
    Text json = {0};
    for (int i = 0; i < set->classes; i++) {
        text_puts(&json, i == 0 ? "[" : ",");
        text_json(&json, set->class_names[i]);
    }
    text_puts(&json, "]");
    return record_write_json(run->settings->out, RUN_CLASSES, &json);
}

static Err *write_environment(const Run *run)
{
    Text json = {0};
    environment_json(run->backend, &json);
    return record_write_json(run->settings->out, RUN_ENVIRONMENT, &json);
}

static Err *remove_file(const Run *run, const char *name)
{
    char *path = path_join(run->settings->out, name);
    Err *err = dir_remove(path);
    free(path);
    return err;
}

/* What an earlier start that came to no checkpoint has left must not pass for this run's. */
static Err *clear(const Run *run)
{
    static const char *const names[] = {"images",
                                        "predictions",
                                        RUN_HISTOGRAMS,
                                        RUN_PROMETHEUS,
                                        RUN_REPORT,
                                        RUN_MANIFEST,
                                        "student_best.safetensors",
                                        "student_last.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        TRY(remove_file(run, names[i]));
    }
    return NULL;
}

static Err *announce(const Run *run, Metrics *metrics)
{
    const Settings *s = run->settings;
    Text fields = {0};
    text_puts(&fields, "\"name\":");
    text_json(&fields, s->name);
    record_text(&fields, "student", s->student_model);
    record_text(&fields, "teacher", s->teacher_model);
    record_text(&fields, "formula", run->objective.formula);
    text_add(&fields, ",\"seed\":%llu,\"batch\":%d,\"epochs\":%d", (unsigned long long)s->seed,
             s->batch, s->schedule.epochs);
    Err *err = metrics_event(metrics, "start", run->state.step, fields.text);
    text_free(&fields);
    return err;
}

static void open_board(Run *run)
{
    Records *r = run->records;
    if (run->settings->log_tensorboard) {
        note(run, CHANNEL_BOARD, board_open(run, &r->board));
    }
}

static void write_manifest(Run *run, const char *status, int exit_code, const char *error)
{
    note(run, CHANNEL_MANIFEST,
         manifest_write(run->records->manifest, run, status, exit_code, error));
}

Err *records_open(Run *run)
{
    Metrics *metrics;
    TRY(metrics_open(run->settings->out, run->resumed ? run->state.step : -1, &metrics));
    Records *r = xcalloc(1, sizeof *r);
    r->metrics = metrics;
    r->status.checkpoint_step = run->resumed ? run->state.step : -1;
    run->records = r;
    if (!run->resumed) {
        note(run, CHANNEL_FILES, clear(run));
        note(run, CHANNEL_METRICS, announce(run, metrics));
    }
    r->manifest = manifest_open(run);
    r->over = run->resumed && run_finished(run) && manifest_was_finished(r->manifest);
    if (r->over) {
        return NULL;
    }
    predictions_open(run, &r->predictions);
    note(run, CHANNEL_FILES, remove_file(run, ERROR_FILE));
    note(run, CHANNEL_FILES, write_origins(run));
    note(run, CHANNEL_FILES, write_classes(run));
    note(run, CHANNEL_FILES, write_environment(run));
    open_board(run);
    if (!run->resumed && run->settings->log_images) {
        samples_open(run, &r->samples);
    }
    write_manifest(run, "running", -1, NULL);
    return NULL;
}

void records_close(Records *records)
{
    if (!records) {
        return;
    }
    samples_close(&records->samples);
    predictions_close(&records->predictions);
    manifest_close(records->manifest);
    events_close(records->board);
    metrics_close(records->metrics);
    free(records);
}

/* ---- Before step 1 ---- */

EvalResult records_check_teacher(Run *run, Exec *exec)
{
    Records *r = run->records;
    if (!r) {
        return evaluate(exec, run->test_set, true, true);
    }
    const uint32_t count = run->test_set->count;
    float *energies = xmalloc(count * sizeof *energies);
    EvalResult result;
    note(run, CHANNEL_FILES,
         predictions_check_teacher(&r->predictions, run, exec, energies, &result));
    if (!result.stopped) {
        samples_energies(&r->samples, "teacher, test set", energies, count);
        if (r->samples.count > 0) {
            samples_ask_teacher(&r->samples, run, exec);
        }
    }
    free(energies);
    return result;
}

void records_energies(Run *run, const float *energies, size_t count)
{
    if (run->records) {
        samples_energies(&run->records->samples, "teacher, training set", energies, count);
    }
}

void records_prepared(Run *run)
{
    Records *r = run->records;
    if (!r || run->resumed) {
        return;
    }
    if (r->samples.count > 0) {
        note(run, CHANNEL_FILES, samples_write_pictures(&r->samples, run, r->board));
    }
    note(run, CHANNEL_FILES, samples_write_histograms(&r->samples, run, r->metrics, r->board));
    samples_close(&r->samples);
    write_manifest(run, "running", -1, NULL);
}

/* ---- While it trains ---- */

static void write_status(Run *run, bool up)
{
    if (run->settings->log_prometheus) {
        note(run, CHANNEL_STATUS, status_write(&run->records->status, run, up));
    }
}

void records_step(Run *run, double eta_s)
{
    Records *r = run->records;
    if (!r || run->interval.steps == 0) {
        return;
    }
    note(run, CHANNEL_METRICS,
         metrics_step(r->metrics, run->landed, (int)run->state.epoch + 1, run->lr, &run->interval,
                      run->objective.spec.n_terms, run->settings->teacher_model != NULL));
    if (r->board) {
        note(run, CHANNEL_BOARD, board_step(r->board, run));
    }
    status_measure(&r->status, run, eta_s);
    write_status(run, true);
}

void records_epoch(Run *run, const EpochRecord *record)
{
    Records *r = run->records;
    if (!r) {
        return;
    }
    note(run, CHANNEL_METRICS, metrics_epoch(r->metrics, record));
    if (r->board) {
        Err *err = board_epoch(r->board, run, record);
        if (!err && run->settings->log_histograms) {
            err = board_weights(r->board, run);
        }
        note(run, CHANNEL_BOARD, err);
    }
    write_manifest(run, "running", -1, NULL);
    write_status(run, true);
}

void records_event(Run *run, const char *kind, const char *json_fields)
{
    Records *r = run->records;
    if (!r) {
        return;
    }
    if (strcmp(kind, "checkpoint") == 0) {
        r->status.checkpoint_step = run->state.step;
    }
    note(run, CHANNEL_METRICS, metrics_event(r->metrics, kind, run->state.step, json_fields));
}

EvalResult records_evaluate(Run *run, bool last)
{
    Records *r = run->records;
    if (!r || !last) {
        return evaluate(run->eval, run->test_set, false, false);
    }
    EvalResult result;
    note(run, CHANNEL_FILES,
         predictions_evaluate_student(&r->predictions, run, &result, &run->state.agreement));
    return result;
}

/* ---- The end ---- */

static const char *status_of(const Err *err)
{
    switch (err ? err->code : EXIT_OK) {
    case EXIT_OK:
        return "finished";
    case EXIT_PREEMPTED:
        return "preempted";
    case EXIT_INTERRUPTED:
        return "interrupted";
    default:
        return "failed";
    }
}

static Err *write_error(const Run *run, const Err *err)
{
    Text json = {0};
    text_add(&json, "{\"time\":%.3f,\"code\":%d", record_time(), (int)err->code);
    record_text(&json, "message", err->message);
    text_add(&json, ",\"step\":%ld,\"epoch\":%u}", run->state.step, run->state.epoch + 1);
    return record_write_json(run->settings->out, ERROR_FILE, &json);
}

void records_end(Run *run, const Err *err)
{
    Records *r = run->records;
    if (!r || r->ended || r->over) {
        return;
    }
    r->ended = true;
    const char *status = status_of(err);
    const bool failed = strcmp(status, "failed") == 0;
    write_manifest(run, status, err ? (int)err->code : EXIT_OK, err ? err->message : NULL);
    if (failed) {
        note(run, CHANNEL_FILES, write_error(run, err));
    }
    if (r->board && (!err || failed)) {
        note(run, CHANNEL_BOARD, events_session_end(r->board, !err));
    }
    write_status(run, false);
}
