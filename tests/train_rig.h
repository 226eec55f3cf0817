/* Small whole runs for tests: a folder, a teacher trained a little, and runs with overrides in it. */
#ifndef CUDISTILL_TESTS_TRAIN_RIG_H
#define CUDISTILL_TESTS_TRAIN_RIG_H

#include "base/files.h"
#include "train/train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_OVERRIDES = 32 };

typedef struct {
    char dir[64];
    char *teacher; /* weights of a resnet8 that was trained a little */
} Fixture;

/* Overrides of all runs: 300 images, so that an epoch has 9 whole batches of 32 and one of 12. */
static const char *const common[] = {
    "data.kind=synthetic",   "data.options=classes=4,train=300,test=120",
    "student.model=resnet8", "train.batch=32",
    "schedule.kind=cosine",  "schedule.epochs=2",
    "eval.batch=50",         "dist.threads=2",
    "dist.device=cpu",       "log.every_s=1000",
};
enum { COMMON = sizeof common / sizeof common[0] };

/* An override may be given once: one in `extra` takes the place of a common one. */
static inline bool replaced(const char *override, const char *const *extra)
{
    const size_t key = strcspn(override, "=") + 1;
    for (int i = 0; extra && extra[i]; i++) {
        if (strncmp(extra[i], override, key) == 0) {
            return true;
        }
    }
    return false;
}

/* Runs with the common overrides and `extra` (NULL-terminated) in DIR/name. */
static inline Err *run_in(const Fixture *f, const char *name, Resume resume,
                          const char *const *extra, RunResult *result)
{
    const char *overrides[MAX_OVERRIDES];
    size_t count = 0;
    for (int i = 0; i < COMMON; i++) {
        if (!replaced(common[i], extra)) {
            overrides[count++] = common[i];
        }
    }
    char *out = xformat("run.out=%s/%s", f->dir, name);
    overrides[count++] = out;
    for (int i = 0; extra && extra[i]; i++) {
        overrides[count++] = extra[i];
    }
    Settings settings;
    Err *err = settings_load(NULL, overrides, count, &settings);
    if (!err) {
        err = train_run(&settings, resume, result);
        settings_free(&settings);
    }
    free(out);
    return err;
}

static inline void assert_fine(Err *err)
{
    if (err) {
        fail_msg("%s", err->message);
    }
}

static inline void assert_code(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    assert_int_equal(err->code, code);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' is not in '%s'", part, err->message);
    }
    err_free(err);
}

static inline void weights_hash(const Fixture *f, const char *name, char hash[33])
{
    char *path = xformat("%s/%s/student_last.safetensors", f->dir, name);
    assert_fine(file_hash_hex(path, hash));
    free(path);
}

static inline int open_fixture(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/cudistill-train-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    RunResult result;
    assert_fine(
        run_in(f, "teacher", RESUME_AUTO, (const char *[]){"schedule.epochs=6", NULL}, &result));
    assert_true(result.last_top1 > 30.0); /* chance is 25 */
    f->teacher = xformat("teacher.weights=%s/teacher/student_last.safetensors", f->dir);
    *state = f;
    return 0;
}

static inline int close_fixture(void **state)
{
    Fixture *f = *state;
    err_free(dir_remove(f->dir));
    free(f->teacher);
    free(f);
    return 0;
}

#endif
