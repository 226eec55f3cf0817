/* For tests of configurations: a folder for files, and an empty current folder in which nothing may appear. One set of
 * variables for each program that includes this. */
#ifndef CUDISTILL_TESTS_CONFIG_RIG_H
#define CUDISTILL_TESTS_CONFIG_RIG_H

#include "base/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char *dir;       /* holds the configurations */
static char *work;      /* the current folder of the tests; stays empty */
static char *home;      /* the current folder before */
static char *main_file; /* dir/my.ini */

static inline int rig_open(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    dir = xformat("%s/cudistill-XXXXXX", root != NULL ? root : "/tmp");
    if (mkdtemp(dir) == NULL) {
        return 1;
    }
    work = path_join(dir, "work");
    main_file = path_join(dir, "my.ini");
    home = getcwd(NULL, 0);
    Err *err = dir_make(work);
    (void)setenv("CIFAR100_ROOT", "/data/cifar100", 1);
    (void)unsetenv("CIFAR_ROOT");
    return err != NULL || home == NULL || chdir(work) != 0;
}

static inline int rig_close(void **state)
{
    (void)state;
    const int back = chdir(home);
    Err *err = dir_remove(dir);
    free(dir);
    free(work);
    free(home);
    free(main_file);
    return err != NULL || back != 0;
}

static inline void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void write_beside(const char *name, const char *text)
{
    char *path = path_join(dir, name);
    write_bytes(path, text, strlen(text));
    free(path);
}

static inline size_t names_in(const char *path)
{
    char **names;
    size_t count;
    assert_null(dir_list(path, &names, &count));
    names_free(names, count);
    return count;
}

static inline void write_companions(void)
{
    write_beside("base.ini", "[schedule]\nepochs = 7\n");
    write_beside("loop.ini", "\ninclude = my.ini\n");
    write_beside("broken.ini", "[schedule]\nepoch = 7\n");
    write_beside("my.ini", "");
}

#endif
