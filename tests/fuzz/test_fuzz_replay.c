/* Every kept input, tests/fuzz/corpus/TARGET and tests/fuzz/regress/TARGET, through its target: what fuzzing has reached
 * stays reached, what it has found stays fixed, with any compiler. A broken promise ends the program with a message and
 * the name of the input. Run from the tree's root. */
#include "fuzz.h"

#include "base/log.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The input in work, for the handler of the signal that a broken promise ends with. */
static char current[512];

static void say_current(int number)
{
    (void)!write(STDERR_FILENO, current, strlen(current));
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

typedef struct {
    const char *name;
    int (*run)(const uint8_t *data, size_t size);
} Target;

/* The C library's own functions: those of base/files.h are not what they seem in this program. */
static uint8_t *read_input(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = xmalloc(*size);
    assert_int_equal(fread(data, 1, *size, file), *size);
    assert_int_equal(fclose(file), 0);
    return data;
}

static int replay_folder(const Target *target, const char *kind)
{
    char *folder = xformat("tests/fuzz/%s/%s", kind, target->name);
    DIR *dir = opendir(folder);
    int count = 0;
    for (const struct dirent *entry = dir != NULL ? readdir(dir) : NULL; entry != NULL;
         entry = readdir(dir)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        char *path = xformat("%s/%s", folder, entry->d_name);
        size_t size = 0;
        uint8_t *data = read_input(path, &size);
        (void)snprintf(current, sizeof current, "%s\n", path);
        assert_int_equal(target->run(data, size), 0);
        free(data);
        free(path);
        count++;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    free(folder);
    return count;
}

static void replay(void **state)
{
    const Target *target = *state;
    const int kept = replay_folder(target, "corpus");
    const int regressions = replay_folder(target, "regress");
    print_message("%s: %d inputs, %d regressions\n", target->name, kept, regressions);
    assert_true(kept > 0);
    /* Nothing, and a single zero. */
    assert_int_equal(target->run((const uint8_t *)"", 0), 0);
    assert_int_equal(target->run((const uint8_t *)"", 1), 0);
}

int main(void)
{
#define TARGET(name) {#name, fuzz_##name},
    static Target targets[] = {FUZZ_FOR_EACH_TARGET(TARGET)};
    enum { COUNT = sizeof targets / sizeof targets[0] };
    struct CMUnitTest tests[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        tests[i] = (struct CMUnitTest){
            .name = targets[i].name, .test_func = replay, .initial_state = &targets[i]};
    }
    log_set_level(LOG_ERROR);
    (void)signal(SIGABRT, say_current);
    (void)signal(SIGSEGV, say_current);
    return cmocka_run_group_tests_name("fuzz replay", tests, NULL, NULL);
}
