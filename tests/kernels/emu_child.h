/* For tests of the emulator that need processes of their own: the program starts itself with other arguments. What the
 * child writes is kept. */
#ifndef CUDISTILL_TESTS_EMU_CHILD_H
#define CUDISTILL_TESTS_EMU_CHILD_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN 1
#endif
#endif
#ifndef TEST_ASAN
#define TEST_ASAN 0
#endif

typedef struct {
    pid_t process;
    int output;
    int status;
    char text[16384]; /* the beginning of stdout and stderr */
} Child;

/* arguments: NULL-terminated, without the program's name. */
static inline bool child_start(Child *child, const char *const *arguments)
{
    int ends[2];
    *child = (Child){0};
    if (pipe(ends) != 0) {
        return false;
    }
    fflush(NULL);
    child->process = fork();
    if (child->process < 0) {
        return false;
    }
    if (child->process == 0) {
        char *list[16] = {(char *)"child"};
        for (int i = 0; i < 14 && arguments[i] != NULL; i++) {
            list[i + 1] = (char *)arguments[i];
        }
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv("/proc/self/exe", list);
        _exit(127);
    }
    close(ends[1]);
    child->output = ends[0];
    return true;
}

/* Waits for the end; true when it left with 0. */
static inline bool child_end(Child *child)
{
    size_t length = 0;
    char buffer[4096];
    for (;;) {
        const ssize_t got = read(child->output, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        const size_t room = sizeof child->text - 1 - length;
        const size_t kept = (size_t)got < room ? (size_t)got : room;
        memcpy(child->text + length, buffer, kept);
        length += kept;
    }
    close(child->output);
    while (waitpid(child->process, &child->status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(child->status) && WEXITSTATUS(child->status) == 0;
}

#endif
