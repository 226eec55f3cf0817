/* A run's checkpoint: model.safetensors, momentum.safetensors and state.json inside a directory that checkpoint.c
 * publishes whole. Doubles are written with 17 digits, so that reading gives the same bits; one that is not finite is
 * null, since JSON has no such number. state.json also holds the configuration that decides the result, and a resume
 * under another one is refused. */
#include "base/files.h"
#include "base/log.h"
#include "train/checkpoint.h"
#include "train/drift.h"
#include "train/records.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_FORMAT = 4, STATE_MAX_BYTES = 64 << 20 };

static char *checkpoint_root(const Run *run)
{
    return path_join(run->settings->out, "checkpoints");
}

/* ---- Writing ---- */

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *reals(const double *values, int count)
{
    json_t *array = json_array();
    for (int i = 0; i < count; i++) {
        CHECK(json_array_append_new(array, real(values[i])) == 0, "state.json: value %d", i);
    }
    return array;
}

static json_t *meter_json(const Meter *meter)
{
    json_t *object =
        json_pack("{s:o, s:I, s:o, s:o, s:o}", "sums", reals(meter->sums, SUM_FIELDS), "steps",
                  (json_int_t)meter->steps, "seconds", real(meter->seconds), "data_wait_s",
                  real(meter->data_wait_s), "phase_s", reals(meter->phase_s, METER_PHASES));
    CHECK(object, "state.json: the meter could not be made");
    return object;
}

static json_t *norms_json(const RunState *s)
{
    double norms[NORM_RING];
    for (int i = 0; i < NORM_RING; i++) {
        norms[i] = (double)s->norms[i];
    }
    return reals(norms, NORM_RING);
}

static json_t *choices_json(const Choices *choices)
{
    json_t *object = json_object();
    for (int i = 0; i < choices->count; i++) {
        CHECK(json_object_set_new(object, choices->keys[i], json_integer(choices->values[i])) == 0,
              "state.json: choice %s", choices->keys[i]);
    }
    return object;
}

static json_t *arithmetic_json(const Arithmetic *a)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "student_act", a->student_act, "teacher_act",
                     a->teacher_act, "backend", a->backend, "library", a->library);
}

static json_t *position_json(const RunState *s)
{
    return json_pack(
        "{s:i, s:I, s:I, s:I, s:s, s:s, s:i, s:b, s:o, s:o, s:i, s:I, s:f, s:f}", "format",
        STATE_FORMAT, "step", (json_int_t)s->step, "epoch", (json_int_t)s->epoch, "position",
        (json_int_t)s->position, "dataset_hash", s->dataset_hash, "teacher_hash", s->teacher_hash,
        "threads", s->threads, "has_theta", s->has_theta, "theta_low", real((double)s->theta[0]),
        "theta_high", real((double)s->theta[1]), "nonfinite_streak", s->nonfinite_streak,
        "nonfinite_total", (json_int_t)s->nonfinite_total, "loss_scale", (double)s->loss_scale[0],
        "loss_scale_good_steps", (double)s->loss_scale[1]);
}

static json_t *results_json(const RunState *s)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:I}", "best_top1",
                     real(s->best_top1), "last_top1", real(s->last_top1), "last_top5",
                     real(s->last_top5), "last_loss", real(s->last_loss), "best_epoch",
                     (json_int_t)s->best_epoch, "last_epoch", (json_int_t)s->last_epoch,
                     "teacher_top1", real(s->teacher_top1), "teacher_top5", real(s->teacher_top5),
                     "agreement", real(s->agreement), "train_seconds", real(s->train_seconds),
                     "train_images", (json_int_t)s->train_images);
}

static char *state_text(const Run *run)
{
    const RunState *s = &run->state;
    json_t *root = position_json(s);
    CHECK(root, "state.json could not be made");
    CHECK(json_object_update_new(root, results_json(s)) == 0 &&
              json_object_set_new(root, "epoch_meter", meter_json(&s->epoch_meter)) == 0 &&
              json_object_set_new(root, "norms", norms_json(s)) == 0 &&
              json_object_set_new(root, "choices", choices_json(&run->choices)) == 0 &&
              json_object_set_new(root, "arithmetic", arithmetic_json(&s->arithmetic)) == 0 &&
              json_object_set_new(root, "config", drift_config_json(run->settings->config)) == 0,
          "state.json could not be made");
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17) | JSON_SORT_KEYS);
    json_decref(root);
    CHECK(text, "state.json could not be encoded");
    return text;
}

Err *run_save_student(const Run *run, const char *dir, const char *name)
{
    const char *const metadata[] = {"format", "pt", "model", run->settings->student_model, NULL};
    char *path = path_join(dir, name);
    Err *err = store_save(&run->store, STUDENT_PREFIX, path, metadata, run->state.step);
    free(path);
    return err;
}

static Err *write_files(void *context, const char *dir)
{
    const Run *run = context;
    char *momentum = path_join(dir, "momentum.safetensors");
    char *state = path_join(dir, "state.json");
    Err *err = run_save_student(run, dir, "model.safetensors");
    if (!err) {
        err = store_save_moment(&run->store, STUDENT_PREFIX, momentum);
    }
    if (!err) {
        char *text = state_text(run);
        err = file_write_atomic(state, text, strlen(text));
        free(text);
    }
    free(momentum);
    free(state);
    return err;
}

Err *run_save(Run *run)
{
    char *root = checkpoint_root(run);
    const size_t weights =
        run->params.arena_elems[ARENA_WEIGHT] + run->params.arena_elems[ARENA_STATE];
    Err *err = checkpoint_save(root, run->state.step, 2 * weights * sizeof(float) + (1 << 20),
                               run->settings->keep_last, write_files, run);
    free(root);
    if (!err) {
        records_event(run, "checkpoint", "");
    }
    return err;
}

/* ---- Reading ---- */

/* A file being read. The first thing wrong with it stays in `err`, what follows is not looked at any more. */
typedef struct {
    const char *path;
    Err *err;
} Reader;

static const json_t *field(Reader *r, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!value && !r->err) {
        r->err = err_new(EXIT_BAD_DATA,
                         "%s: '%s' is missing: use an older checkpoint, or remove this one",
                         r->path, key);
    }
    return value;
}

static void wrong_type(Reader *r, const char *key, const char *expected)
{
    if (!r->err) {
        r->err = err_new(EXIT_BAD_DATA,
                         "%s: '%s' is not %s: use an older checkpoint, or remove this one", r->path,
                         key, expected);
    }
}

static double real_value(Reader *r, const json_t *value, const char *key)
{
    if (value && !json_is_number(value) && !json_is_null(value)) {
        wrong_type(r, key, "a number");
    }
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static double real_of(Reader *r, const json_t *object, const char *key)
{
    return real_value(r, field(r, object, key), key);
}

static long long int_of(Reader *r, const json_t *object, const char *key)
{
    const json_t *value = field(r, object, key);
    if (value && !json_is_integer(value)) {
        wrong_type(r, key, "a whole number");
    }
    return json_integer_value(value);
}

static void copy_text(Reader *r, char *out, size_t size, const json_t *object, const char *key)
{
    const json_t *value = field(r, object, key);
    if (value && !json_is_string(value)) {
        wrong_type(r, key, "a text");
    }
    snprintf(out, size, "%s", json_is_string(value) ? json_string_value(value) : "");
}

static void read_reals(Reader *r, const json_t *object, const char *key, double *out, size_t count)
{
    const json_t *array = field(r, object, key);
    if (json_array_size(array) != count) {
        wrong_type(r, key, "a list of that many numbers");
    }
    for (size_t i = 0; i < count; i++) {
        out[i] = real_value(r, json_array_get(array, i), key);
    }
}

static void read_meter(Reader *r, const json_t *object, Meter *meter)
{
    read_reals(r, object, "sums", meter->sums, SUM_FIELDS);
    read_reals(r, object, "phase_s", meter->phase_s, METER_PHASES);
    meter->steps = (long)int_of(r, object, "steps");
    meter->seconds = real_of(r, object, "seconds");
    meter->data_wait_s = real_of(r, object, "data_wait_s");
}

static void read_numbers(Reader *r, const json_t *root, RunState *s)
{
    s->step = (long)int_of(r, root, "step");
    s->epoch = (uint32_t)int_of(r, root, "epoch");
    s->position = (uint32_t)int_of(r, root, "position");
    s->has_theta = json_is_true(field(r, root, "has_theta"));
    s->theta[0] = (float)real_of(r, root, "theta_low");
    s->theta[1] = (float)real_of(r, root, "theta_high");
    s->nonfinite_streak = (int)int_of(r, root, "nonfinite_streak");
    s->nonfinite_total = (long)int_of(r, root, "nonfinite_total");
    s->loss_scale[0] = (float)real_of(r, root, "loss_scale");
    s->loss_scale[1] = (float)real_of(r, root, "loss_scale_good_steps");
    s->best_top1 = real_of(r, root, "best_top1");
    s->last_top1 = real_of(r, root, "last_top1");
    s->last_top5 = real_of(r, root, "last_top5");
    s->last_loss = real_of(r, root, "last_loss");
    s->best_epoch = (uint32_t)int_of(r, root, "best_epoch");
    s->last_epoch = (uint32_t)int_of(r, root, "last_epoch");
    s->teacher_top1 = real_of(r, root, "teacher_top1");
    s->teacher_top5 = real_of(r, root, "teacher_top5");
    s->agreement = real_of(r, root, "agreement");
    s->train_seconds = real_of(r, root, "train_seconds");
    s->train_images = (long)int_of(r, root, "train_images");
    s->threads = (int)int_of(r, root, "threads");
    copy_text(r, s->dataset_hash, sizeof s->dataset_hash, root, "dataset_hash");
    copy_text(r, s->teacher_hash, sizeof s->teacher_hash, root, "teacher_hash");
    read_meter(r, field(r, root, "epoch_meter"), &s->epoch_meter);
    double norms[NORM_RING];
    read_reals(r, root, "norms", norms, NORM_RING);
    for (int i = 0; i < NORM_RING; i++) {
        s->norms[i] = (float)norms[i];
    }
    const json_t *arithmetic = field(r, root, "arithmetic");
    Arithmetic *a = &s->arithmetic;
    copy_text(r, a->student_act, sizeof a->student_act, arithmetic, "student_act");
    copy_text(r, a->teacher_act, sizeof a->teacher_act, arithmetic, "teacher_act");
    copy_text(r, a->backend, sizeof a->backend, arithmetic, "backend");
    copy_text(r, a->library, sizeof a->library, arithmetic, "library");
}

/* Keys and the training set; all differences in one message. */
static Err *check_drift(Reader *r, const Run *run, const json_t *root)
{
    const json_t *before = field(r, root, "config");
    if (r->err) {
        return NULL;
    }
    Drift *list;
    size_t count;
    drift_compare(run->settings->config, before, &list, &count);
    const char *data = run->train_set->hash;
    if (strcmp(run->state.dataset_hash, data) != 0) {
        drift_add(&list, &count, "data", "(the training set's hash)", run->state.dataset_hash,
                  data);
    }
    Err *err = drift_judge(run->settings, list, count);
    drift_free(list, count);
    return err;
}

static Err *read_root(Run *run, const json_t *root, const char *path)
{
    Reader r = {.path = path};
    const long long format = int_of(&r, root, "format");
    if (!r.err && format != STATE_FORMAT) {
        return err_new(EXIT_BAD_DATA,
                       "%s: format %lld, this program reads %d: use the program that wrote it, or "
                       "choose another run.out",
                       path, format, STATE_FORMAT);
    }
    read_numbers(&r, root, &run->state);
    Err *drift = r.err ? NULL : check_drift(&r, run, root);
    const json_t *choices = field(&r, root, "choices");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)choices, key, value)
    {
        choices_put(&run->choices, key, (int)json_integer_value(value));
    }
    if (drift) {
        err_free(r.err);
        return drift;
    }
    return r.err;
}

static Err *read_state_file(Run *run, const char *checkpoint)
{
    char *path = path_join(checkpoint, "state.json");
    char *text = NULL;
    Err *err = file_read_text(path, STATE_MAX_BYTES, &text);
    json_error_t where;
    json_t *root = err ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!err && !root) {
        err = err_new(EXIT_BAD_DATA, "%s:%d: %s", path, where.line, where.text);
    }
    if (!err) {
        err = read_root(run, root, path);
    }
    json_decref(root);
    free(text);
    free(path);
    return err;
}

Err *run_has_checkpoints(const Run *run, bool *found)
{
    *found = false;
    char *root = checkpoint_root(run);
    char **names = NULL;
    size_t count = 0;
    Err *err = path_exists(root) ? dir_list(root, &names, &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        /* Damaged ones that were set aside count too: they may still be of use to somebody. */
        *found = *found || strncmp(names[i], "step-", strlen("step-")) == 0;
    }
    names_free(names, count);
    free(root);
    return err;
}

static Err *refuse_checkpoints(const Run *run)
{
    bool found;
    TRY(run_has_checkpoints(run, &found));
    return found ? err_new(EXIT_CANT_CREATE,
                           "%s has checkpoints of an earlier run and --resume never was given: "
                           "choose another run.out or remove the folder",
                           run->settings->out)
                 : NULL;
}

Err *run_read_state(Run *run, Resume resume, char **checkpoint)
{
    *checkpoint = NULL;
    if (resume == RESUME_NEVER) {
        return refuse_checkpoints(run);
    }
    char *root = checkpoint_root(run);
    Err *err = checkpoint_newest(root, checkpoint);
    if (!err && !*checkpoint && resume == RESUME_MUST) {
        err = err_new(EXIT_NO_INPUT, "--resume must: %s holds no checkpoint", root);
    }
    if (!err && *checkpoint) {
        err = read_state_file(run, *checkpoint);
    }
    free(root);
    return err;
}

Err *run_load_weights(Run *run, const char *checkpoint)
{
    char *model = path_join(checkpoint, "model.safetensors");
    char *momentum = path_join(checkpoint, "momentum.safetensors");
    Err *err = store_load(&run->store, STUDENT_PREFIX, model, NULL);
    if (!err) {
        err = store_load_moment(&run->store, STUDENT_PREFIX, momentum);
    }
    free(model);
    free(momentum);
    return err;
}
