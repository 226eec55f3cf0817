/* For tests of weight files: a folder of their own, expected errors, and the listing by which a file is compared with what
 * Python wrote: a line "name TYPE shape md5-of-the-bytes" for each tensor, or "error TEXT" for a file to be refused. */
#ifndef CUDISTILL_TESTS_WEIGHTS_RIG_H
#define CUDISTILL_TESTS_WEIGHTS_RIG_H

#include "base/err.h"
#include "base/files.h"
#include "base/text.h"
#include "io/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* A fresh folder, removed with dir_remove. NULL when it cannot be made. */
static inline char *rig_dir(void)
{
    const char *root = getenv("TMPDIR");
    char *dir = xformat("%s/cudistill-XXXXXX", root != NULL ? root : "/tmp");
    return mkdtemp(dir);
}

static inline void ok(Err *err)
{
    if (err != NULL) {
        fail_msg("code %d, message: %s", (int)err->code, err->message);
    }
}

static inline void expect_err(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    if (err->code != code || strstr(err->message, part) == NULL) {
        fail_msg("expected '%s', got code %d, message: %s", part, (int)err->code, err->message);
    }
    err_free(err);
}

/* Not atomic and not synchronised: many small files are written here. */
static inline void write_plain(const char *path, const void *data, size_t size)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

/* Status of a Python script: 0 done, 77 a module is missing, 127 no Python. */
static inline int rig_python(const char *arguments)
{
    const char *python = getenv("CUDISTILL_PYTHON");
    char *command = xformat("%s -B %s", python != NULL ? python : "python3", arguments);
    const int status = system(command);
    free(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void list_entry(const char *dir, const WeightEntry *entry, Text *out)
{
    text_add(out, "%s %s ", entry->name, weight_type_name(entry->type));
    for (int d = 0; d < entry->ndim; d++) {
        text_add(out, "%s%lld", d > 0 ? "x" : "", (long long)entry->shape[d]);
    }
    char *path = path_join(dir, "tensor");
    char hex[33];
    write_plain(path, entry->data, entry->bytes);
    ok(file_md5_hex(path, hex));
    free(path);
    text_add(out, " %s\n", hex);
}

static inline void compare_with_listing(const char *dir, const char *weights, const char *listing)
{
    WeightsFile *file = NULL;
    ok(weights_open(weights, &file));
    Text got = {0};
    text_puts(&got, "");
    for (size_t i = 0; i < file->count; i++) {
        list_entry(dir, &file->entries[i], &got);
    }
    char *want = NULL;
    ok(file_read_text(listing, 1 << 20, &want));
    assert_string_equal(got.text, want);
    free(want);
    text_free(&got);
    weights_close(file);
}

/* Every file that a script named in DIR/cases: DIR/<case>.pth against DIR/<case>.txt. How many there were. */
static inline int compare_cases(const char *dir)
{
    char *listing = path_join(dir, "cases");
    char *names = NULL;
    ok(file_read_text(listing, 1 << 16, &names));
    int files = 0;
    char *rest = names;
    for (char *name = strsep(&rest, "\n"); name != NULL && *name != '\0';
         name = strsep(&rest, "\n")) {
        char *weights = xformat("%s/%s.pth", dir, name);
        char *wanted = xformat("%s/%s.txt", dir, name);
        char *expected = NULL;
        ok(file_read_text(wanted, 1 << 20, &expected));
        if (strncmp(expected, "error ", 6) == 0) {
            expected[strcspn(expected, "\n")] = '\0';
            WeightsFile *file = NULL;
            expect_err(weights_open(weights, &file), EXIT_BAD_DATA, expected + 6);
            assert_null(file);
        } else {
            compare_with_listing(dir, weights, wanted);
        }
        files++;
        free(expected);
        free(wanted);
        free(weights);
    }
    free(names);
    free(listing);
    return files;
}

#endif
