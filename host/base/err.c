/* Errors and checked allocation. An Err is one heap block and its message; making one when memory is out ends the
 * process like any other failed allocation, so callers never see a half-made error. */
#include "base/err.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CACHE_LINE = 64, FIRST_CAPACITY = 8 };

/* Not log_line and not CHECK: this must work when no memory is left, so it formats into the stack. _exit, because
 * exit handlers could wait for the very thread that failed. */
static _Noreturn void out_of_memory(const char *what, size_t bytes)
{
    char text[160];
    const int n = snprintf(text, sizeof text, "fatal: out of host memory: %s of %zu bytes failed\n",
                           what, bytes);
    const ssize_t written = write(STDERR_FILENO, text, (size_t)n);
    (void)written;
    _exit(EXIT_OS);
}

/* Names out of files end up on terminals: what could steer one becomes '?'. */
static char *harmless(char *message)
{
    for (char *at = message; *at != '\0'; at++) {
        if (((unsigned char)*at < 0x20 && *at != '\n') || *at == 0x7F) {
            *at = '?';
        }
    }
    return message;
}

Err *err_new(ExitCode code, const char *format, ...)
{
    Err *err = xmalloc(sizeof *err);
    va_list args;
    va_start(args, format);
    err->code = code;
    err->message = harmless(xvformat(format, args));
    va_end(args);
    return err;
}

Err *err_context(Err *err, const char *format, ...)
{
    if (err == NULL) {
        return NULL;
    }
    va_list args;
    va_start(args, format);
    char *context = harmless(xvformat(format, args));
    va_end(args);
    char *message = xformat("%s: %s", context, err->message);
    free(context);
    free(err->message);
    err->message = message;
    return err;
}

void err_free(Err *err)
{
    if (err == NULL) {
        return;
    }
    free(err->message);
    free(err);
}

_Noreturn void check_failed(const char *file, int line, const char *cond, const char *format, ...)
{
    char text[2048];
    int n = snprintf(text, sizeof text, "fatal: %s:%d: check failed: %s: ", file, line, cond);
    if (n < 0 || (size_t)n > sizeof text - 2) {
        n = (int)(sizeof text - 2);
    }
    va_list args;
    va_start(args, format);
    const int more = vsnprintf(text + n, sizeof text - (size_t)n, format, args);
    va_end(args);
    const size_t end = more < 0 ? (size_t)n : (size_t)n + (size_t)more;
    const size_t used = end > sizeof text - 2 ? sizeof text - 2 : end;
    text[used] = '\n';
    const ssize_t written = write(STDERR_FILENO, text, used + 1);
    (void)written;
    _exit(EXIT_INTERNAL);
}

void *xmalloc(size_t bytes)
{
    void *block = malloc(bytes > 0 ? bytes : 1);
    if (block == NULL) {
        out_of_memory("malloc", bytes);
    }
    return block;
}

void *xcalloc(size_t count, size_t size)
{
    void *block = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (block == NULL) {
        out_of_memory("calloc", size > 0 && count > SIZE_MAX / size ? SIZE_MAX : count * size);
    }
    return block;
}

void *xrealloc(void *old, size_t bytes)
{
    void *block = realloc(old, bytes > 0 ? bytes : 1);
    if (block == NULL) {
        out_of_memory("realloc", bytes);
    }
    return block;
}

void *xaligned(size_t bytes)
{
    if (bytes > SIZE_MAX - CACHE_LINE) {
        out_of_memory("aligned_alloc", bytes);
    }
    const size_t wanted = bytes > 0 ? bytes : 1;
    const size_t rounded = (wanted + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    void *block = aligned_alloc(CACHE_LINE, rounded);
    if (block == NULL) {
        out_of_memory("aligned_alloc", bytes);
    }
    memset(block, 0, rounded);
    return block;
}

char *xstrdup(const char *text)
{
    const size_t size = strlen(text) + 1;
    char *copy = xmalloc(size);
    memcpy(copy, text, size);
    return copy;
}

char *xvformat(const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    CHECK(n >= 0, "vsnprintf refused the format '%s'", format);
    char *text = xmalloc((size_t)n + 1);
    (void)vsnprintf(text, (size_t)n + 1, format, args);
    return text;
}

char *xformat(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = xvformat(format, args);
    va_end(args);
    return text;
}

void *xgrow(void *old, size_t *capacity, size_t need, size_t element_size)
{
    if (need <= *capacity) {
        return old;
    }
    size_t wanted = *capacity > 0 ? *capacity : FIRST_CAPACITY;
    while (wanted < need) {
        wanted = wanted > SIZE_MAX / 2 ? need : wanted * 2;
    }
    if (element_size > 0 && wanted > SIZE_MAX / element_size) {
        out_of_memory("realloc", SIZE_MAX);
    }
    void *block = xrealloc(old, wanted * element_size);
    *capacity = wanted;
    return block;
}
