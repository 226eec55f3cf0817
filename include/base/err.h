/* Errors, of three kinds (README, "Conventions").
 *
 * 1. A bug or a dead device: CHECK(cond, ...) prints place, condition and message and ends the process (code 70).
 * 2. The user or the world (bad file, bad key, disk full): functions return Err * (NULL is success). The message
 *    names the object and the cure; `code` is the exit code the program leaves with if nobody handles it.
 * 3. Expected outcomes (end of epoch, key absent) are plain return values.
 *
 * An Err is owned by whoever holds it: pass it up, or err_free it. Thread-safe: no shared state. */
#ifndef CUDISTILL_BASE_ERR_H
#define CUDISTILL_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* Exit codes: sysexits where one exists. */
typedef enum {
    EXIT_OK = 0,
    EXIT_USAGE_ERR = 64,
    EXIT_BAD_DATA = 65,
    EXIT_NO_INPUT = 66,
    EXIT_NO_DEVICE = 69,
    EXIT_INTERNAL = 70,
    EXIT_OS = 71,
    EXIT_CANT_CREATE = 73,
    EXIT_IO = 74,
    EXIT_PREEMPTED = 75, /* checkpoint written: run again to resume */
    EXIT_PEER = 76,
    EXIT_NOT_PERMITTED = 77,
    EXIT_CONFIG_ERR = 78,
    EXIT_NOT_FINITE = 79,
    EXIT_DEVICE_MEMORY = 80,
    EXIT_TEACHER = 81,
    EXIT_INTERRUPTED = 130
} ExitCode;

typedef struct Err {
    ExitCode code;
    char *message; /* one or more lines, no trailing newline; control characters are '?' */
} Err;

Err *err_new(ExitCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "context: " in front of the message; returns its argument. NULL stays NULL. */
Err *err_context(Err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
void err_free(Err *err);

#define TRY(call)                                                                                  \
    do {                                                                                           \
        Err *try_err_ = (call);                                                                    \
        if (try_err_) {                                                                            \
            return try_err_;                                                                       \
        }                                                                                          \
    } while (0)

_Noreturn void check_failed(const char *file, int line, const char *cond, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__);                                  \
        }                                                                                          \
    } while (0)

/* Allocation that ends the process with the size asked for when memory is out. xaligned: 64-byte aligned, zeroed;
 * free with free(). xgrow doubles *capacity until it holds `need` elements. */
void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *old, size_t bytes);
void *xaligned(size_t bytes);
char *xstrdup(const char *text);
char *xformat(const char *format, ...) __attribute__((format(printf, 1, 2)));
char *xvformat(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
void *xgrow(void *old, size_t *capacity, size_t need, size_t element_size);

#endif
