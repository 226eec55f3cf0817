/* Where a run's progress goes. Everything leaves in whole lines, each in one write, never through stdio: a stream that is
 * closed under us then has no state that could go wrong. What is on the terminal ends with a newline; to draw anew the
 * cursor goes up the two lines of the bar. */
#include "io/progress.h"

#include "base/err.h"
#include "base/log.h"
#include "progress_text.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LINE_S 10.0
#define DRAW_EVERY_S 0.2
#define LINE_EVERY_EPOCH 0.1
#define ERASE_BAR "\x1b[2A\r\x1b[J"

enum { PATIENCE_MS = 1000, NARROWEST = 20, USUAL_WIDTH = 80 };

struct Progress {
    pthread_mutex_t lock;
    ProgressMode mode;
    double interval_s;
    bool utf8, colour;
    bool stepping, said;                     /* a step was shown; an interval's line was said */
    double line_time, line_epoch, draw_time; /* of the last ones */
    Text bar;                                /* what is on the terminal; size 0: nothing */
    Text early;                              /* lines for the log file before it has a name */
    char *log_path;
    int log_fd;     /* -1: none, or it could not be written */
    LogLevel level; /* before: quiet is for the terminal, the file gets what it always gets */
    bool log_torn;
};

bool progress_write(int descriptor, const char *text, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(descriptor, text, size);
        if (written > 0) {
            text += written;
            size -= (size_t)written;
        } else if (written < 0 && errno == EAGAIN) {
            struct pollfd room = {.fd = descriptor, .events = POLLOUT};
            if (poll(&room, 1, PATIENCE_MS) <= 0) {
                return false;
            }
        } else if (written == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

static void put_time(Text *out)
{
    const time_t now = time(NULL);
    struct tm local;
    char text[40] = "";
    if (localtime_r(&now, &local)) {
        (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S%z ", &local);
    }
    text_puts(out, text);
}

static const char *level_prefix(LogLevel level)
{
    static const char *const prefixes[] = {"error: ", "warning: ", "", "debug: "};
    return prefixes[level];
}

/* Without control characters, those of the upper half (U+0080 to U+009F) included; newlines stay. */
static void put_clean(Text *out, const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        const unsigned char c = (unsigned char)*at;
        const unsigned char next = (unsigned char)at[1];
        if (c == 0xC2 && next >= 0x80 && next < 0xA0) {
            text_puts(out, "?");
            at++;
        } else if (c == '\n' || (c >= 0x20 && c != 0x7F)) {
            text_bytes(out, at, 1);
        } else {
            text_puts(out, c == '\t' ? " " : "?");
        }
    }
}

/* ---- The terminal ---- */

static bool environment_is(const char *name, const char *value)
{
    const char *text = getenv(name);
    return text && strcmp(text, value) == 0;
}

static bool environment_set(const char *name)
{
    const char *text = getenv(name);
    return text && text[0] != '\0';
}

static bool locale_is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        if (environment_set(names[i])) {
            const char *dot = strchr(getenv(names[i]), '.');
            return dot && (strncasecmp(dot, ".UTF-8", 6) == 0 || strncasecmp(dot, ".UTF8", 5) == 0);
        }
    }
    return false;
}

static int terminal_width(void)
{
    struct winsize size = {0};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
        return USUAL_WIDTH;
    }
    return size.ws_col < NARROWEST ? NARROWEST : size.ws_col;
}

static ProgressMode settle_mode(ProgressMode mode)
{
    if (mode != PROGRESS_AUTO && mode != PROGRESS_BAR) {
        return mode;
    }
    const bool moves =
        isatty(STDERR_FILENO) && environment_set("TERM") && !environment_is("TERM", "dumb");
    return moves ? PROGRESS_BAR : PROGRESS_PLAIN;
}

/* The text above the bar, or the bar alone (text ""). */
static void draw(Progress *p, const char *text)
{
    Text out = {0};
    if (p->bar.size > 0) {
        text_puts(&out, text[0] != '\0' ? ERASE_BAR : "\x1b[2A\r");
    }
    text_puts(&out, text);
    if (p->bar.size > 0) {
        text_bytes(&out, p->bar.text, p->bar.size);
    }
    (void)progress_write(STDERR_FILENO, out.text, out.size);
    text_free(&out);
}

static void redraw(Progress *p, const ProgressState *state)
{
    const BarStyle style = {.width = terminal_width(), .utf8 = p->utf8, .colour = p->colour};
    Text out = {0};
    text_puts(&out, p->bar.size > 0 ? "\x1b[2A\r" : "");
    p->bar.size = 0;
    progress_bar_text(&p->bar, state, &style);
    text_bytes(&out, p->bar.text, p->bar.size);
    (void)progress_write(STDERR_FILENO, out.text, out.size);
    text_free(&out);
}

static void erase(Progress *p)
{
    if (p->bar.size > 0) {
        (void)progress_write(STDERR_FILENO, ERASE_BAR, strlen(ERASE_BAR));
        p->bar.size = 0;
    }
}

/* One line to a person, with its newline. */
static void show_line(Progress *p, LogLevel level, const char *text)
{
    Text out = {0};
    if (p->mode == PROGRESS_BAR) {
        const bool alarm = p->colour && level <= LOG_WARN;
        text_add(&out, "%s%s%s", alarm ? level == LOG_ERROR ? "\x1b[31m" : "\x1b[33m" : "",
                 level_prefix(level), alarm ? "\x1b[0m" : "");
        put_clean(&out, text);
        text_puts(&out, "\n");
        draw(p, out.text);
    } else if (p->mode == PROGRESS_PLAIN || level <= LOG_WARN) {
        if (p->mode == PROGRESS_PLAIN) {
            put_time(&out);
        }
        text_puts(&out, level_prefix(level));
        put_clean(&out, text);
        text_puts(&out, "\n");
        (void)progress_write(STDERR_FILENO, out.text, out.size);
    }
    text_free(&out);
}

/* ---- The log file ---- */

/* A line that is cut off by a full disk is ended by the next one. */
static bool append(Progress *p, const char *text, size_t size)
{
    if (p->log_torn) {
        p->log_torn = !progress_write(p->log_fd, "\n", 1);
    }
    const bool whole = progress_write(p->log_fd, text, size);
    p->log_torn |= !whole;
    return whole;
}

static void note(Progress *p, LogLevel level, const char *text)
{
    Text line = {0};
    put_time(&line);
    text_puts(&line, level_prefix(level));
    put_clean(&line, text);
    text_puts(&line, "\n");
    if (p->log_fd >= 0) {
        const bool torn = p->log_torn;
        if (!append(p, line.text, line.size) && !torn) {
            char *why = xformat("%s: %s; training goes on", p->log_path, strerror(errno));
            show_line(p, LOG_WARN, why);
            free(why);
        }
    } else if (!p->log_path) {
        text_bytes(&p->early, line.text, line.size);
    }
    text_free(&line);
}

void progress_log_to(Progress *progress, const char *log_path)
{
    Progress *p = progress;
    pthread_mutex_lock(&p->lock);
    p->log_path = xstrdup(log_path);
    p->log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (p->log_fd < 0) {
        char *why = xformat("%s: %s; training goes on without it", log_path, strerror(errno));
        show_line(p, LOG_WARN, why);
        free(why);
    } else if (p->early.size > 0) {
        (void)append(p, p->early.text, p->early.size);
    }
    text_free(&p->early);
    pthread_mutex_unlock(&p->lock);
}

/* ---- Events ---- */

static void begin_event(Text *out, const char *event)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    text_add(out, "{\"event\":\"%s\",\"time\":%.3f", event,
             (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
}

static void end_event(Text *out)
{
    text_puts(out, "}\n");
    (void)progress_write(STDOUT_FILENO, out->text, out->size);
    text_free(out);
}

static void event_of_line(LogLevel level, const char *text)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    Text out = {0};
    begin_event(&out, "log");
    text_add(&out, ",\"level\":\"%s\",\"text\":", names[level]);
    text_json(&out, text);
    end_event(&out);
}

/* The log's sink. */
static void take_line(void *context, LogLevel level, const char *text)
{
    Progress *p = context;
    pthread_mutex_lock(&p->lock);
    note(p, level, text);
    if (p->mode == PROGRESS_JSON) {
        event_of_line(level, text);
    } else {
        show_line(p, level, text);
    }
    pthread_mutex_unlock(&p->lock);
}

/* A line of progress: shown where there is no bar for it, and kept. */
static void say(Progress *p, const char *text)
{
    note(p, LOG_INFO, text);
    if (log_level() >= LOG_INFO) {
        show_line(p, LOG_INFO, text);
    }
}

static bool line_is_due(Progress *p, const ProgressState *state, double now)
{
    const double at = state->epoch + state->epoch_share;
    if (!p->stepping) {
        p->stepping = true;
        p->line_time = now;
        p->line_epoch = at;
    }
    const double passed = now - p->line_time;
    const bool due = !p->said && p->interval_s > FIRST_LINE_S
                         ? passed >= FIRST_LINE_S
                         : passed >= p->interval_s &&
                               (p->interval_s == 0.0 || at - p->line_epoch >= LINE_EVERY_EPOCH);
    if (due) {
        p->said = true;
        p->line_time = now;
        p->line_epoch = at;
    }
    return due;
}

static void say_step(Progress *p, const ProgressState *state)
{
    Text out = {0};
    progress_line_text(&out, state);
    if (p->mode == PROGRESS_BAR) {
        note(p, LOG_INFO, out.text);
    } else {
        say(p, out.text);
    }
    text_free(&out);
    if (p->mode == PROGRESS_JSON) {
        begin_event(&out, "step");
        progress_step_json(&out, state);
        end_event(&out);
    }
}

bool progress_step(Progress *progress, const ProgressState *state)
{
    Progress *p = progress;
    if (!p) {
        return false;
    }
    const double now = now_s();
    pthread_mutex_lock(&p->lock);
    const bool due = line_is_due(p, state, now);
    if (due) {
        say_step(p, state);
    }
    if (p->mode == PROGRESS_BAR && (p->bar.size == 0 || now - p->draw_time >= DRAW_EVERY_S)) {
        redraw(p, state);
        p->draw_time = now;
    }
    pthread_mutex_unlock(&p->lock);
    return due;
}

void progress_epoch(Progress *progress, const ProgressEpoch *epoch)
{
    Progress *p = progress;
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    Text out = {0};
    progress_epoch_text(&out, epoch);
    say(p, out.text);
    text_free(&out);
    if (p->mode == PROGRESS_JSON) {
        begin_event(&out, "epoch");
        progress_epoch_json(&out, epoch);
        end_event(&out);
    }
    pthread_mutex_unlock(&p->lock);
}

/* ---- Opening ---- */

Progress *progress_open(ProgressMode mode, double interval_s)
{
    Progress *p = xcalloc(1, sizeof *p);
    (void)pthread_mutex_init(&p->lock, NULL);
    p->mode = settle_mode(mode);
    p->interval_s = interval_s;
    p->utf8 = locale_is_utf8();
    p->colour = !environment_set("NO_COLOR");
    p->log_fd = -1;
    p->level = log_level();
    if (p->mode == PROGRESS_QUIET && p->level < LOG_INFO) {
        log_set_level(LOG_INFO);
    }
    log_set_sink(take_line, p);
    return p;
}

void progress_close(Progress *progress, const char *error)
{
    Progress *p = progress;
    if (!p) {
        return;
    }
    log_set_sink(NULL, NULL);
    log_set_level(p->level);
    erase(p);
    if (error) {
        note(p, LOG_ERROR, error);
    }
    if (p->log_fd >= 0) {
        (void)close(p->log_fd);
    }
    (void)pthread_mutex_destroy(&p->lock);
    text_free(&p->bar);
    text_free(&p->early);
    free(p->log_path);
    free(p);
}

ProgressMode progress_mode(const Progress *progress)
{
    return progress->mode;
}
