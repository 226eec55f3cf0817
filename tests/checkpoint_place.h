/* Shared by the tests of checkpoints: checkpoints with a known content, and a folder for each test. */
#ifndef CUDISTILL_TESTS_CHECKPOINT_PLACE_H
#define CUDISTILL_TESTS_CHECKPOINT_PLACE_H

#include "base/err.h"
#include "base/files.h"
#include "base/log.h"
#include "train/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A checkpoint whose content follows from its step. */
typedef struct {
    long step;
    size_t size;
    int salt; /* another content for the same step */
    bool fail;
} Payload;

static inline uint8_t *payload_bytes(const Payload *payload)
{
    uint8_t *bytes = xmalloc(payload->size);
    uint32_t x = (uint32_t)(payload->step * 2654435761u + 1u) ^ ((uint32_t)payload->salt << 20);
    for (size_t i = 0; i < payload->size; i++) {
        x = x * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return bytes;
}

static inline Err *write_files(const Payload *payload, const char *dir)
{
    uint8_t *bytes = payload_bytes(payload);
    char *model = path_join(dir, "model.safetensors");
    char *state = path_join(dir, "state.json");
    char *empty = path_join(dir, "empty");
    char text[64];
    (void)snprintf(text, sizeof text, "{\"step\":%ld}\n", payload->step);
    Err *err = file_write_atomic(model, bytes, payload->size);
    if (err == NULL) {
        err = file_write_atomic(state, text, strlen(text));
    }
    if (err == NULL) {
        err = file_write_atomic(empty, "", 0);
    }
    free(empty);
    free(state);
    free(model);
    free(bytes);
    return err;
}

static inline Err *write_payload(void *context, const char *dir)
{
    const Payload *payload = context;
    Err *err = write_files(payload, dir);
    if (err == NULL && payload->fail) {
        err = err_new(EXIT_INTERNAL, "the writer gives up");
    }
    return err;
}

static inline Err *save_salted(const char *root, long step, size_t size, int keep_last, int salt)
{
    Payload payload = {.step = step, .size = size, .salt = salt};
    return checkpoint_save(root, step, size, keep_last, write_payload, &payload);
}

static inline Err *save(const char *root, long step, size_t size, int keep_last)
{
    return save_salted(root, step, size, keep_last, 0);
}

static inline void assert_ok(Err *err)
{
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
}

static inline void assert_err(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    if (err->code != code || strstr(err->message, part) == NULL) {
        fail_msg("code %d, message '%s'; expected code %d and '%s'", (int)err->code, err->message,
                 (int)code, part);
    }
    err_free(err);
}

/* Reads without the code under test. */
static inline size_t read_whole(const char *path, uint8_t **out)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    struct stat info;
    assert_int_equal(fstat(fileno(file), &info), 0);
    *out = xmalloc((size_t)info.st_size + 1);
    const size_t got = fread(*out, 1, (size_t)info.st_size, file);
    assert_int_equal(fclose(file), 0);
    (*out)[got] = 0;
    return got;
}

static inline void write_whole(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The step of a path "...step-%09ld". */
static inline long step_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    assert_non_null(slash);
    assert_true(strncmp(slash, "/step-", 6) == 0);
    return strtol(slash + 6, NULL, 10);
}

/* The content is that of the step in its name, compared byte by byte. Returns false when it is not. */
static inline bool content_holds(const char *path, size_t size, int salt)
{
    const Payload payload = {.step = step_of(path), .size = size, .salt = salt};
    uint8_t *expected = payload_bytes(&payload);
    char *model = path_join(path, "model.safetensors");
    uint8_t *found = NULL;
    const size_t got = read_whole(model, &found);
    const bool holds = got == size && memcmp(found, expected, size) == 0;
    free(found);
    free(model);
    free(expected);
    return holds;
}

/* Step of the newest checkpoint, which must be whole; -1 = none. */
static inline long newest_step(const char *root, size_t size)
{
    char *path = NULL;
    assert_ok(checkpoint_newest(root, &path));
    if (path == NULL) {
        return -1;
    }
    const long step = step_of(path);
    assert_true(content_holds(path, size, 0));
    free(path);
    return step;
}

static inline char *listing_of(const char *root)
{
    char **names = NULL;
    size_t count = 0;
    assert_ok(dir_list(root, &names, &count));
    char *text = xstrdup("");
    for (size_t i = 0; i < count; i++) {
        char *longer = xformat("%s%s ", text, names[i]);
        free(text);
        text = longer;
    }
    names_free(names, count);
    return text;
}

static inline void assert_listing(const char *root, const char *expected)
{
    char *found = listing_of(root);
    assert_string_equal(found, expected);
    free(found);
}

static inline void assert_link(const char *root, const char *name, const char *expected)
{
    char *path = path_join(root, name);
    char target[256];
    const ssize_t size = readlink(path, target, sizeof target - 1);
    assert_true(size > 0);
    target[size] = '\0';
    assert_string_equal(target, expected);
    free(path);
}

typedef struct {
    char dir[64]; /* removed at the end of the test */
    char *root;   /* dir/checkpoints, absent at the start */
} Place;

static inline int place_setup(void **state)
{
    Place *place = xcalloc(1, sizeof *place);
    (void)snprintf(place->dir, sizeof place->dir, "/tmp/test_checkpoint_XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    place->root = path_join(place->dir, "checkpoints");
    log_set_level(LOG_ERROR);
    *state = place;
    return 0;
}

static inline int place_teardown(void **state)
{
    Place *place = *state;
    assert_ok(dir_remove(place->dir));
    free(place->root);
    free(place);
    return 0;
}

#endif
