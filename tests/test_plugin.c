/* Optional parts of the program: the places they are looked for, in order, and that every way of failing tells its reason.
 * libm stands in for a part: it is on every system and has known functions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/files.h"
#include "base/plugin.h"
#include "train/device.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PART "libcudistill_test_part.so"
#define VARIABLE "CUDISTILL_TEST_PART"

static const char *program; /* absolute path of this test */

/* ---- What the copy of this program does: 0 = loaded and right, 1 = absent, 2 = failed otherwise ---- */

static int child(void)
{
    void *symbol = NULL;
    Err *err = plugin_symbol(PART, VARIABLE, "cos", &symbol);
    if (err) {
        const bool absent = strstr(err->message, "comes without") != NULL;
        err_free(err);
        return absent && !plugin_present(PART, VARIABLE) ? 1 : 2;
    }
    double (*cosine)(double) = NULL;
    memcpy(&cosine, &symbol, sizeof cosine);
    return plugin_present(PART, VARIABLE) && cosine(0) == 1 ? 0 : 2;
}

static int run_child(const char *path)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl(path, path, "--child", (char *)NULL);
        _exit(99);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* ---- A folder with a copy of this program in bin/ ---- */

typedef struct {
    char dir[64];
    char *copy, *libm;
} Place;

static void make_dir(const Place *place, const char *name)
{
    char *path = path_join(place->dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
}

static void open_place(Place *place)
{
    snprintf(place->dir, sizeof place->dir, "/tmp/cudistill-plugin-XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    make_dir(place, "bin");
    make_dir(place, "lib");
    make_dir(place, "lib/cudistill");
    place->copy = path_join(place->dir, "bin/program");
    char *command = xformat("cp '%s' '%s'", program, place->copy);
    assert_int_equal(system(command), 0);
    free(command);
    double (*function)(double) = cos;
    void *address = NULL;
    memcpy(&address, &function, sizeof address);
    Dl_info info;
    assert_true(dladdr(address, &info) != 0);
    place->libm = xstrdup(info.dli_fname);
}

static void close_place(Place *place)
{
    char *command = xformat("rm -rf '%s'", place->dir);
    assert_int_equal(system(command), 0);
    free(command);
    free(place->copy);
    free(place->libm);
}

/* A folder stands for the part: it is there and does not load. */
static void test_places(void **state)
{
    (void)state;
    static const char *const folders[] = {"bin/", "lib/", "lib/cudistill/"};
    Place place = {0};
    open_place(&place);
    assert_int_equal(run_child(place.copy), 1);
    for (int i = 2; i >= 0; i--) { /* places that come first are filled last */
        char *name = xformat("%s%s", folders[i], PART);
        char *path = path_join(place.dir, name);
        make_dir(&place, name);
        assert_int_equal(run_child(place.copy), 2);
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(symlink(place.libm, path), 0);
        assert_int_equal(run_child(place.copy), 0);
        free(name);
        free(path);
    }
    close_place(&place);
}

static void test_variable_comes_first(void **state)
{
    (void)state;
    Place place = {0};
    open_place(&place);
    setenv(VARIABLE, place.libm, 1);
    assert_int_equal(run_child(place.copy), 0);
    char *name = xformat("bin/%s", PART);
    char *path = path_join(place.dir, name);
    assert_int_equal(symlink(place.libm, path), 0);
    setenv(VARIABLE, "/nowhere/part.so", 1);
    assert_int_equal(run_child(place.copy), 2); /* though a part lies beside the program */
    unsetenv(VARIABLE);
    assert_int_equal(run_child(place.copy), 0);
    free(name);
    free(path);
    close_place(&place);
}

static void expect_error(Err *err, const char *part)
{
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_NO_DEVICE);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' does not say '%s'", err->message, part);
    }
    err_free(err);
}

static void test_reasons(void **state)
{
    (void)state;
    void *symbol = &symbol;
    unsetenv(VARIABLE);
    expect_error(plugin_symbol(PART, VARIABLE, "cos", &symbol), "comes without " PART);
    assert_null(symbol);
    assert_false(plugin_present(PART, VARIABLE));
    setenv(VARIABLE, "/nowhere/part.so", 1);
    assert_true(plugin_present(PART, VARIABLE));
    expect_error(plugin_symbol(PART, VARIABLE, "cos", &symbol), VARIABLE " = /nowhere/part.so");
    setenv(VARIABLE, "/proc/self/cmdline", 1); /* a file that is no shared object */
    expect_error(plugin_symbol(PART, VARIABLE, "cos", &symbol), "does not load");
    unsetenv(VARIABLE);
    assert_null(plugin_symbol("libm.so.6", VARIABLE, "cos", &symbol)); /* the system's path */
    assert_non_null(symbol);
    expect_error(plugin_symbol("libm.so.6", VARIABLE, "cudistill_is_not_here", &symbol),
                 "another version");
}

/* ---- The CUDA part ---- */

static void test_device(void **state)
{
    (void)state;
    const char *given = getenv(CUDA_PART_VARIABLE);
    char *before = given ? xstrdup(given) : NULL;
    setenv(CUDA_PART_VARIABLE, "/nowhere/part.so", 1);
    Backend *backend = NULL;
    expect_error(backend_open("cuda", NULL, &backend), "device cuda: " CUDA_PART_VARIABLE);
    assert_null(backend);
    expect_error(device_open("cuda", NULL, &backend), "device cuda: " CUDA_PART_VARIABLE);
    static const BackendOptions options = {.threads = 1};
    assert_null(device_open("auto", &options, &backend));
    assert_string_equal(backend->name, "cpu");
    backend_close(backend);
    expect_error(device_open("gpu", NULL, &backend), "'gpu' is not known");
    if (before) {
        setenv(CUDA_PART_VARIABLE, before, 1);
    } else {
        unsetenv(CUDA_PART_VARIABLE);
    }
    free(before);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0) {
        return child();
    }
    static char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) {
        return 1;
    }
    program = path;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_variable_comes_first),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
