/* Python as an oracle, never a need: tests that use it are skipped, with a message, where it or a
 * module is absent. The interpreter is $CUDISTILL_PYTHON, else python3. Commands run from the
 * folder the test runs in, the tree's root. */
#ifndef CUDISTILL_TESTS_PYTHON_H
#define CUDISTILL_TESTS_PYTHON_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static inline const char *python_name(void)
{
    const char *name = getenv("CUDISTILL_PYTHON");
    return name && name[0] != '\0' ? name : "python3";
}

/* modules: what to import, "torch, safetensors". */
static inline bool python_has(const char *modules)
{
    char command[512];
    (void)snprintf(command, sizeof command, "'%s' -c 'import %s' >/dev/null 2>&1", python_name(),
                   modules);
    return system(command) == 0;
}

static inline void python_skip(const char *modules)
{
    printf("skipped: '%s' has no %s (set CUDISTILL_PYTHON to one that has)\n", python_name(),
           modules);
    (void)fflush(stdout);
}

/* Runs "script arguments"; the stream is its standard output. */
static inline FILE *python_open(const char *script)
{
    char command[2048];
    (void)snprintf(command, sizeof command, "'%s' -B %s", python_name(), script);
    return popen(command, "r");
}

/* The exit status, as of wait: 0 when all went well. */
static inline int python_close(FILE *stream)
{
    return pclose(stream);
}

#endif
