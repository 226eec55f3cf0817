/* Reading the files of a run back, for tests. Everything fails the test with the file's name. */
#ifndef CUDISTILL_TESTS_RUN_FILES_H
#define CUDISTILL_TESTS_RUN_FILES_H

#include "io/npy.h"
#include "train/rundir.h"
#include "train_rig.h"

#include <jansson.h>

static inline char *run_path(const Fixture *f, const char *run, const char *name)
{
    return xformat("%s/%s/%s", f->dir, run, name);
}

static inline bool has_file(const Fixture *f, const char *run, const char *name)
{
    char *path = run_path(f, run, name);
    const bool there = path_exists(path);
    free(path);
    return there;
}

/* Caller frees. */
static inline char *read_text(const Fixture *f, const char *run, const char *name)
{
    char *path = run_path(f, run, name);
    char *text = NULL;
    assert_fine(file_read_text(path, 64 << 20, &text));
    free(path);
    return text;
}

static inline json_t *read_json(const Fixture *f, const char *run, const char *name)
{
    char *text = read_text(f, run, name);
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        fail_msg("%s of %s is no JSON: %d: %s", name, run, why.line, why.text);
    }
    free(text);
    return root;
}

/* "result.last_top1" of an object. */
static inline const json_t *member(const json_t *object, const char *path)
{
    char *names = xstrdup(path);
    char *save = NULL;
    for (char *name = strtok_r(names, ".", &save); name; name = strtok_r(NULL, ".", &save)) {
        object = json_object_get(object, name);
        if (!object) {
            fail_msg("no member '%s' of '%s'", name, path);
        }
    }
    free(names);
    return object;
}

static inline double number_at(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    if (!json_is_number(value)) {
        fail_msg("'%s' is no number", path);
    }
    return json_number_value(value);
}

static inline const char *text_at(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    if (!json_is_string(value)) {
        fail_msg("'%s' is no text", path);
    }
    return json_string_value(value);
}

static inline void assert_status(const Fixture *f, const char *run, const char *status, int code)
{
    json_t *manifest = read_json(f, run, RUN_MANIFEST);
    assert_string_equal(text_at(manifest, "status"), status);
    const json_t *exit_code = member(manifest, "exit_code");
    if (code < 0) {
        assert_true(json_is_null(exit_code));
    } else {
        assert_int_equal(json_integer_value(exit_code), code);
    }
    assert_true(json_is_string(member(manifest, "error")) == (code > 0));
    json_decref(manifest);
}

/* Lines of metrics.jsonl with this event; each line must be JSON. steps: their "step", room for `max`. */
static inline int events_of(const Fixture *f, const char *run, const char *event, long *steps,
                            int max)
{
    char *text = read_text(f, run, RUN_METRICS);
    int count = 0;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        assert_true(json_is_object(object));
        if (strcmp(text_at(object, "event"), event) == 0) {
            assert_true(count < max);
            steps[count++] = (long)number_at(object, "step");
        }
        json_decref(object);
    }
    free(text);
    return count;
}

#endif
