/* The log: level, sink and line: the mutable global state that the conventions allow. A line is
 * formatted first and leaves in a single write, so lines of several threads or ranks do not mix. */
#include "base/log.h"

#include "base/err.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int current_level = LOG_INFO;
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static LogSink current_sink;
static void *sink_context;

void log_set_level(LogLevel level)
{
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

LogLevel log_level(void)
{
    return (LogLevel)atomic_load_explicit(&current_level, memory_order_relaxed);
}

static const char *level_prefix(LogLevel level)
{
    switch (level) {
    case LOG_ERROR:
        return "error: ";
    case LOG_WARN:
        return "warning: ";
    case LOG_DEBUG:
        return "debug: ";
    case LOG_INFO:
        break;
    }
    return "";
}

void log_emit(LogLevel level, const char *text)
{
    char *line = xformat("%s%s\n", level_prefix(level), text);
    size_t left = strlen(line);
    /* A closed stderr must not stop a training run: errors of write are ignored. */
    const char *at = line;
    while (left > 0) {
        const ssize_t written = write(STDERR_FILENO, at, left);
        if (written <= 0) {
            break;
        }
        at += written;
        left -= (size_t)written;
    }
    free(line);
}

void log_set_sink(LogSink sink, void *context)
{
    pthread_mutex_lock(&sink_lock);
    current_sink = sink;
    sink_context = context;
    pthread_mutex_unlock(&sink_lock);
}

void log_line(LogLevel level, const char *format, ...)
{
    if (level > log_level()) {
        return;
    }
    va_list args;
    va_start(args, format);
    char *text = xvformat(format, args);
    va_end(args);
    pthread_mutex_lock(&sink_lock);
    if (current_sink != NULL) {
        current_sink(sink_context, level, text);
    } else {
        log_emit(level, text);
    }
    pthread_mutex_unlock(&sink_lock);
    free(text);
}

void log_reserve_streams(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int stream = 0; stream < 3; stream++) {
        if (fcntl(stream, F_GETFD) < 0) {
            (void)open("/dev/null", modes[stream]); /* takes the lowest number that is free */
        }
    }
}

double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
