/* Talk to people: one line per call on stderr, thread-safe. Results for machines go to stdout, not through here. */
#ifndef CUDISTILL_BASE_LOG_H
#define CUDISTILL_BASE_LOG_H

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

void log_set_level(LogLevel level);
LogLevel log_level(void);
void log_line(LogLevel level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Lines go to `sink` in place of stderr: without level prefix and newline, already chosen by the level. NULL: stderr again.
 * The sink may be called from any thread, one call at a time. log_emit writes a line as without a sink. */
typedef void (*LogSink)(void *context, LogLevel level, const char *text);
void log_set_sink(LogSink sink, void *context);
void log_emit(LogLevel level, const char *text);
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* Takes the standard descriptors that are closed, for files that refuse to be read or written: what is opened later must
 * not get their numbers, and with them what is meant for people. First thing in main. */
void log_reserve_streams(void);

double now_s(void); /* monotonic clock, seconds */

#endif
