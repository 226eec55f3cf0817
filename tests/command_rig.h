/* Runs a sub-command in the test's own process, from its table, and keeps what it says on stdout. */
#ifndef CUDISTILL_TESTS_COMMAND_RIG_H
#define CUDISTILL_TESTS_COMMAND_RIG_H

#include "cli/commands.h"
#include "weights_rig.h"

enum { COMMAND_ARGUMENTS_MAX = 30 };

/* What the command returned. arguments: after its name, NULL-terminated. *said: its stdout, freed by the caller; may be
 * NULL. */
static inline Err *command_run(const Command *command, const char *const *arguments, char **said)
{
    char *argv[COMMAND_ARGUMENTS_MAX + 2] = {(char *)command->name};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++) {
        assert_true(argc < COMMAND_ARGUMENTS_MAX);
        argv[argc] = (char *)arguments[argc - 1];
    }
    FILE *file = tmpfile();
    assert_non_null(file);
    (void)fflush(stdout);
    const int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0 && dup2(fileno(file), STDOUT_FILENO) >= 0);
    char *path = xformat("cudistill %s", command->name);
    Err *err = args_run(command, path, argc, argv);
    free(path);
    (void)fflush(stdout);
    assert_true(dup2(saved, STDOUT_FILENO) >= 0);
    (void)close(saved);
    if (said != NULL) {
        const long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
        assert_true(size >= 0);
        rewind(file);
        *said = xcalloc((size_t)size + 1, 1);
        assert_int_equal(fread(*said, 1, (size_t)size, file), size);
    }
    (void)fclose(file);
    return err;
}

#endif
