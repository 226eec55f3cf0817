/* A run's checkpoint: model.safetensors, momentum.safetensors and state.json inside a directory that checkpoint.c
 * publishes whole. Doubles are written with 17 digits, so that reading gives the same bits. */
#include "base/files.h"
#include "base/log.h"
#include "train/checkpoint.h"
#include "train/run.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_FORMAT = 1, STATE_MAX_BYTES = 64 << 20 };

static char *checkpoint_root(const Run *run)
{
    return path_join(run->settings->out, "checkpoints");
}

static json_t *meter_json(const Meter *meter)
{
    json_t *sums = json_array();
    for (int i = 0; i < SUM_FIELDS; i++) {
        json_array_append_new(sums, json_real(meter->sums[i]));
    }
    return json_pack("{s:o, s:I, s:f, s:f}", "sums", sums, "steps", (json_int_t)meter->steps,
                     "seconds", meter->seconds, "data_wait_s", meter->data_wait_s);
}

static json_t *choices_json(const Choices *choices)
{
    json_t *object = json_object();
    for (int i = 0; i < choices->count; i++) {
        json_object_set_new(object, choices->keys[i], json_integer(choices->values[i]));
    }
    return object;
}

static char *state_text(const Run *run)
{
    const RunState *s = &run->state;
    const Settings *c = run->settings;
    json_t *root =
        json_pack("{s:i, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "format",
                  STATE_FORMAT, "step", (json_int_t)s->step, "epoch", (json_int_t)s->epoch,
                  "position", (json_int_t)s->position, "seed", (json_int_t)c->seed, "student",
                  c->student_model, "teacher", c->teacher_model ? c->teacher_model : "",
                  "dataset_hash", s->dataset_hash, "teacher_hash", s->teacher_hash, "device",
                  c->device, "threads", s->threads, "objective", run->objective.formula);
    CHECK(root, "state.json could not be made");
    json_object_update_new(
        root,
        json_pack("{s:b, s:f, s:f, s:i, s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:I, s:i}",
                  "has_theta", s->has_theta, "theta_low", (double)s->theta[0], "theta_high",
                  (double)s->theta[1], "nonfinite_streak", s->nonfinite_streak, "nonfinite_total",
                  (json_int_t)s->nonfinite_total, "best_top1", s->best_top1, "last_top1",
                  s->last_top1, "last_top5", s->last_top5, "last_loss", s->last_loss, "best_epoch",
                  (json_int_t)s->best_epoch, "last_epoch", (json_int_t)s->last_epoch,
                  "teacher_top1", s->teacher_top1, "train_seconds", s->train_seconds,
                  "train_images", (json_int_t)s->train_images, "batch", c->batch));
    json_object_set_new(root, "epoch_meter", meter_json(&s->epoch_meter));
    json_object_set_new(root, "choices", choices_json(&run->choices));
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
    if (!err && run->metrics) {
        err = metrics_event(run->metrics, "checkpoint", run->state.step, "");
    }
    free(root);
    return err;
}

static double real_of(const json_t *root, const char *key)
{
    return json_number_value(json_object_get(root, key));
}

static long long int_of(const json_t *root, const char *key)
{
    return json_integer_value(json_object_get(root, key));
}

static void copy_text(char *out, size_t size, const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));
    snprintf(out, size, "%s", text ? text : "");
}

static void read_meter(const json_t *object, Meter *meter)
{
    const json_t *sums = json_object_get(object, "sums");
    for (size_t i = 0; i < SUM_FIELDS; i++) {
        meter->sums[i] = json_number_value(json_array_get(sums, i));
    }
    meter->steps = (long)int_of(object, "steps");
    meter->seconds = real_of(object, "seconds");
    meter->data_wait_s = real_of(object, "data_wait_s");
}

static void read_numbers(const json_t *root, RunState *s)
{
    s->step = (long)int_of(root, "step");
    s->epoch = (uint32_t)int_of(root, "epoch");
    s->position = (uint32_t)int_of(root, "position");
    s->has_theta = json_is_true(json_object_get(root, "has_theta"));
    s->theta[0] = (float)real_of(root, "theta_low");
    s->theta[1] = (float)real_of(root, "theta_high");
    s->nonfinite_streak = (int)int_of(root, "nonfinite_streak");
    s->nonfinite_total = (long)int_of(root, "nonfinite_total");
    s->best_top1 = real_of(root, "best_top1");
    s->last_top1 = real_of(root, "last_top1");
    s->last_top5 = real_of(root, "last_top5");
    s->last_loss = real_of(root, "last_loss");
    s->best_epoch = (uint32_t)int_of(root, "best_epoch");
    s->last_epoch = (uint32_t)int_of(root, "last_epoch");
    s->teacher_top1 = real_of(root, "teacher_top1");
    s->train_seconds = real_of(root, "train_seconds");
    s->train_images = (long)int_of(root, "train_images");
    s->threads = (int)int_of(root, "threads");
    copy_text(s->dataset_hash, sizeof s->dataset_hash, root, "dataset_hash");
    copy_text(s->teacher_hash, sizeof s->teacher_hash, root, "teacher_hash");
    read_meter(json_object_get(root, "epoch_meter"), &s->epoch_meter);
}

static bool same_text(const json_t *root, const char *key, const char *now)
{
    const char *then = json_string_value(json_object_get(root, key));
    return then && strcmp(then, now ? now : "") == 0;
}

/* What must not change between the parts of one run: the result would be neither run's. */
static Err *check_drift(const Run *run, const json_t *root, const char *path)
{
    const Settings *c = run->settings;
    const char *key = NULL;
    if (!same_text(root, "student", c->student_model)) {
        key = "student.model";
    } else if (!same_text(root, "teacher", c->teacher_model)) {
        key = "teacher.model";
    } else if (!same_text(root, "dataset_hash", run->train_set->hash)) {
        key = "data (another training set)";
    } else if ((uint64_t)int_of(root, "seed") != c->seed) {
        key = "run.seed";
    } else if (int_of(root, "batch") != c->batch) {
        key = "train.batch";
    } else if (!same_text(root, "objective", run->objective.formula)) {
        key = "distill (another objective)";
    }
    if (key) {
        return err_new(EXIT_CONFIG_ERR,
                       "%s was made with another value of %s: give the old value back, choose "
                       "another run.out, or "
                       "start anew with --resume never",
                       path, key);
    }
    if (!same_text(root, "device", c->device)) {
        log_warn(
            "resuming %s on another device: results are no longer bit for bit those of one run",
            path);
    }
    return NULL;
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
    if (!err && int_of(root, "format") != STATE_FORMAT) {
        err = err_new(EXIT_BAD_DATA, "%s: format %lld, this program reads %d", path,
                      int_of(root, "format"), STATE_FORMAT);
    }
    if (!err) {
        err = check_drift(run, root, checkpoint);
    }
    if (!err) {
        read_numbers(root, &run->state);
        const char *key;
        json_t *value;
        json_object_foreach(json_object_get(root, "choices"), key, value)
        {
            choices_put(&run->choices, key, (int)json_integer_value(value));
        }
    }
    json_decref(root);
    free(text);
    free(path);
    return err;
}

Err *run_read_state(Run *run, Resume resume, char **checkpoint)
{
    *checkpoint = NULL;
    char *root = checkpoint_root(run);
    Err *err = NULL;
    if (resume != RESUME_NEVER) {
        err = checkpoint_newest(root, checkpoint);
    } else if (path_exists(root)) {
        err = err_new(EXIT_CANT_CREATE,
                      "%s has checkpoints of an earlier run and --resume never was given: choose "
                      "another run.out or "
                      "remove the folder",
                      run->settings->out);
    }
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
