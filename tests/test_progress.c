/* io/progress: what reaches a terminal (a pty, shown by a small terminal emulator), a pipe, stdout as JSON and the log
 * file; streams that close and files that vanish. Each mode runs in a child, whose streams are the test's. */
#include "base/err.h"
#include "base/files.h"
#include "base/log.h"
#include "io/progress.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { COLUMNS = 160, SCREEN_ROWS = 400, MOST_OUTPUT = 1 << 20 };

/* ---- States to show ---- */

static ProgressState some_state(long step)
{
    ProgressState s = {.epoch = 14,
                       .epochs = 100,
                       .step = step,
                       .steps = 40000,
                       .epoch_share = 0.61,
                       .loss = 2.4142,
                       .terms = {{"CE", 0.1, 2.902}, {"KD", 0.9, 2.360}},
                       .n_terms = 2,
                       .top1 = 58.94,
                       .teacher_top1 = 75.26,
                       .agreement = 61.5,
                       .images_per_s = 11842,
                       .lr = 0.05,
                       .phases = {0.01, 0.21, 0.74, 0.04},
                       .eta_s = 9667,
                       .nonfinite = 3};
    return s;
}

static ProgressEpoch some_epoch(int epoch)
{
    return (ProgressEpoch){.epoch = epoch,
                           .epochs = 100,
                           .step = 391L * epoch,
                           .train_loss = 2.25,
                           .train_top1 = 57.5,
                           .eval_top1 = 61.25,
                           .eval_top5 = 87.5,
                           .teacher_top1 = 75.26,
                           .images_per_s = 11800,
                           .seconds = 4.25,
                           .eta_s = 365,
                           .evaluated = true,
                           .best = epoch % 2 == 1};
}

/* ---- Children and what they write ---- */

typedef struct {
    char *text;
    size_t size;
} Output;

static Output read_all(int descriptor)
{
    Output out = {.text = xcalloc(MOST_OUTPUT + 1, 1)};
    for (;;) {
        const ssize_t got = read(descriptor, out.text + out.size, MOST_OUTPUT - out.size);
        if (got <= 0) { /* a pty whose other side is closed gives EIO */
            break;
        }
        out.size += (size_t)got;
    }
    (void)close(descriptor);
    return out;
}

static void assert_exits(pid_t child, int code)
{
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
}

static void settle_environment(const char *locale, const char *terminal)
{
    (void)setenv("LC_ALL", locale, 1);
    (void)setenv("TERM", terminal, 1);
    (void)unsetenv("NO_COLOR");
    (void)signal(SIGPIPE, SIG_IGN);
}

static Output on_terminal(void (*body)(void), const char *locale, const char *terminal, int columns)
{
    const struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
    int master = -1;
    (void)fflush(NULL);
    const pid_t child = forkpty(&master, NULL, NULL, &size);
    if (child < 0) { /* a container without /dev/pts */
        printf("skipped: no pseudo-terminal can be had here (%s)\n", strerror(errno));
        skip();
    }
    if (child == 0) {
        settle_environment(locale, terminal);
        body();
        _exit(0);
    }
    const Output out = read_all(master);
    assert_exits(child, 0);
    return out;
}

/* What the body writes to one of its streams; the other is closed. */
static Output on_pipe(void (*body)(void), int stream)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        settle_environment("C.UTF-8", "xterm");
        (void)close(ends[0]);
        (void)dup2(ends[1], stream);
        (void)close(stream == STDOUT_FILENO ? STDERR_FILENO : STDOUT_FILENO);
        body();
        _exit(0);
    }
    (void)close(ends[1]);
    const Output out = read_all(ends[0]);
    assert_exits(child, 0);
    return out;
}

/* ---- A terminal ---- */

typedef struct {
    char cells[SCREEN_ROWS][COLUMNS + 1];
    int row, column;
    int rows; /* used */
    int overflows;
} Screen;

static void clear_from(Screen *s, int row, int column)
{
    memset(s->cells[row] + column, ' ', (size_t)(COLUMNS - column));
}

/* After ESC [: gives what follows the sequence. Anything but the few that a bar needs fails. */
static const char *escape(Screen *s, const char *at)
{
    char *end;
    const long count = strtol(at, &end, 10);
    while (*end == ';') {
        (void)strtol(end + 1, &end, 10);
    }
    switch (*end) {
    case 'A':
        s->row -= (int)(end == at ? 1 : count);
        assert_true(s->row >= 0);
        break;
    case 'K':
        clear_from(s, s->row, s->column);
        break;
    case 'J':
        clear_from(s, s->row, s->column);
        for (int r = s->row + 1; r < s->rows; r++) {
            clear_from(s, r, 0);
        }
        break;
    case 'm':
        break;
    default:
        fail_msg("sequence ESC [ %.8s", at);
    }
    return end + 1;
}

static void put_cell(Screen *s, char c)
{
    if (s->column == COLUMNS) {
        s->overflows++;
        return;
    }
    s->cells[s->row][s->column++] = c;
}

static Screen *show(const Output *out)
{
    Screen *s = xcalloc(1, sizeof *s);
    for (int r = 0; r < SCREEN_ROWS; r++) {
        clear_from(s, r, 0);
    }
    for (const char *at = out->text; at < out->text + out->size;) {
        const unsigned char c = (unsigned char)*at;
        if (c == 0x1B) {
            assert_int_equal(at[1], '[');
            at = escape(s, at + 2);
            continue;
        }
        at++;
        if (c == '\n') {
            s->row++;
            assert_true(s->row < SCREEN_ROWS);
        } else if (c == '\r') {
            s->column = 0;
        } else if (c >= 0x80) {
            if (c >= 0xC0) { /* the first byte of a character */
                put_cell(s, '#');
            }
        } else {
            assert_true(c >= 0x20);
            put_cell(s, (char)c);
        }
        s->rows = s->row + 1 > s->rows ? s->row + 1 : s->rows;
    }
    return s;
}

static bool on_screen(const Screen *s, const char *text)
{
    for (int r = 0; r < s->rows; r++) {
        if (strstr(s->cells[r], text)) {
            return true;
        }
    }
    return false;
}

static int used_rows(const Screen *s)
{
    int used = 0;
    for (int r = 0; r < s->rows; r++) {
        used += strspn(s->cells[r], " ") < COLUMNS;
    }
    return used;
}

static int count_of(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at++) {
        count++;
    }
    return count;
}

/* ---- The bar ---- */

enum { STEPS = 300, STEP_US = 5000, LOG_EVERY = 100 };

static void long_run(void)
{
    Progress *p = progress_open(PROGRESS_AUTO, 1000.0);
    if (progress_mode(p) != PROGRESS_BAR) {
        _exit(3);
    }
    for (long step = 0; step < STEPS; step++) {
        const ProgressState state = some_state(step);
        (void)progress_step(p, &state);
        if (step % LOG_EVERY == 50) {
            log_info("line %ld", step);
        }
        (void)usleep(STEP_US);
    }
    const ProgressEpoch epoch = some_epoch(14);
    progress_epoch(p, &epoch);
    progress_close(p, NULL);
    (void)fprintf(stderr, "after\n");
}

static void the_bar_is_calm_and_leaves_nothing(void **state)
{
    (void)state;
    const Output out = on_terminal(long_run, "C.UTF-8", "xterm-256color", COLUMNS);
    const int draws = count_of(out.text, "eta 2:41:07");
    const double seconds = STEPS * STEP_US * 1e-6;
    /* One for each log line and the epoch's besides 5 a second; a slow machine takes longer than `seconds`. */
    print_message("%d draws in at least %.1f s\n", draws, seconds);
    assert_true(draws >= 4);
    assert_true(draws <= 5 * 3 * (seconds + 1.0));
    Screen *s = show(&out);
    assert_int_equal(s->overflows, 0);
    assert_true(on_screen(s, "line 50") && on_screen(s, "line 150") && on_screen(s, "line 250"));
    assert_true(on_screen(s, "test top-1 61.25 %"));
    assert_true(on_screen(s, "after"));
    assert_false(on_screen(s, "img/s  data"));
    assert_int_equal(used_rows(s), 5); /* nothing of the bar is left between or behind the lines */
    free(s);
    free(out.text);
}

/* Between two draws with nothing said between them at least 0.2 s pass: measured by the child itself. */
static void draw_for_a_second(void)
{
    Progress *p = progress_open(PROGRESS_AUTO, 1000.0);
    const double begin = now_s();
    for (long step = 0; now_s() - begin < 1.0; step++) {
        const ProgressState state = some_state(step);
        (void)progress_step(p, &state);
    }
    progress_close(p, NULL);
}

static void at_most_five_draws_a_second(void **state)
{
    (void)state;
    const Output out = on_terminal(draw_for_a_second, "C.UTF-8", "xterm", COLUMNS);
    const int draws = count_of(out.text, "eta 2:41:07");
    print_message("%d draws in 1 s of steps\n", draws);
    assert_in_range(draws, 2, 6); /* at 0, 0.2, 0.4 ... and perhaps at 1.0 */
    free(out.text);
}

static void show_and_stay(void)
{
    Progress *p = progress_open(PROGRESS_BAR, 1000.0);
    const ProgressState state = some_state(1);
    (void)progress_step(p, &state);
    _exit(0); /* as a kill does: nothing is tidied up */
    progress_close(p, NULL);
}

static void every_width_has_room(void **state)
{
    (void)state;
    for (int columns = 20; columns <= COLUMNS; columns += 5) {
        const Output out = on_terminal(show_and_stay, "C.UTF-8", "xterm", columns);
        Screen *s = show(&out);
        assert_int_equal(used_rows(s), 2);
        for (int r = 0; r < 2; r++) {
            for (int c = columns - 1; c < COLUMNS; c++) {
                assert_int_equal(s->cells[r][c], ' '); /* the last column stays free */
            }
        }
        assert_true(on_screen(s, "epoch  14/100"));
        assert_true(on_screen(s, "eta 2:41:07"));
        assert_true(columns < 60 || on_screen(s, "loss 2.414"));
        assert_true(columns < 115 || on_screen(s, "loss 2.414 = 0.1 CE 2.902 + 0.9 KD 2.360"));
        assert_true(columns < 90 || on_screen(s, "data 1%  teacher 21%  student 74%  update 4%"));
        /* The cursor waits at the beginning of a free line: a shell's prompt comes there. */
        assert_int_equal(s->row, 2);
        assert_int_equal(s->column, 0);
        free(s);
        free(out.text);
    }
}

static void a_terminal_decides_the_style(void **state)
{
    (void)state;
    Output out = on_terminal(show_and_stay, "C.UTF-8", "xterm", COLUMNS);
    assert_non_null(strstr(out.text, "\u2501"));
    assert_non_null(strstr(out.text, "\x1b[36m"));
    free(out.text);
    out = on_terminal(show_and_stay, "de_DE.ISO-8859-1", "xterm", COLUMNS);
    assert_null(strstr(out.text, "\u2501"));
    assert_non_null(strstr(out.text, "====="));
    free(out.text);
    out = on_terminal(show_and_stay, "C.UTF-8", "dumb", COLUMNS);
    assert_null(strchr(out.text, 0x1B));
    free(out.text);
}

static void without_colour(void)
{
    (void)setenv("NO_COLOR", "1", 1);
    log_set_level(LOG_INFO);
    Progress *p = progress_open(PROGRESS_AUTO, 1000.0);
    const ProgressState state = some_state(1);
    (void)progress_step(p, &state);
    log_warn("careful");
    progress_close(p, NULL);
}

static void no_color_is_obeyed(void **state)
{
    (void)state;
    const Output out = on_terminal(without_colour, "C.UTF-8", "xterm", COLUMNS);
    assert_non_null(strstr(out.text, "\u2501"));
    assert_non_null(strstr(out.text, "warning: careful"));
    for (const char *at = out.text; (at = strstr(at, "\x1b[")) != NULL; at += 2) {
        assert_null(memchr(at, 'm', strspn(at + 2, "0123456789;m") + 2));
    }
    free(out.text);
}

/* ---- Plain lines ---- */

static void plain_run(void)
{
    Progress *p = progress_open(PROGRESS_AUTO, 0.0);
    if (progress_mode(p) != PROGRESS_PLAIN) {
        _exit(3);
    }
    log_info("name with \x1b[31mcolours\x1b[0m, a \ttab, \xC2\x9B and \xC3\xA9");
    for (long step = 1; step <= 3; step++) {
        const ProgressState state = some_state(step);
        if (!progress_step(p, &state)) {
            _exit(4);
        }
    }
    const ProgressEpoch epoch = some_epoch(14);
    progress_epoch(p, &epoch);
    progress_close(p, NULL);
}

static void plain_lines_have_no_control_characters(void **state)
{
    (void)state;
    const Output out = on_pipe(plain_run, STDERR_FILENO);
    assert_int_equal(count_of(out.text, "\n"), 5);
    for (size_t i = 0; i < out.size; i++) {
        const unsigned char c = (unsigned char)out.text[i];
        assert_true(c == '\n' || (c >= 0x20 && c != 0x7F));
    }
    assert_non_null(strstr(out.text, "name with ?[31mcolours?[0m, a  tab, ? and \xC3\xA9\n"));
    assert_non_null(strstr(
        out.text, "epoch 14/100  61%  step 2/40000  loss 2.4142 = 0.1 CE 2.902 + 0.9 KD 2.360  "
                  "top-1 58.94 %  lr 0.05  11842 img/s  data 1% teacher 21% student 74% update 4%"
                  "  eta 2:41:07  skipped 3\n"));
    assert_int_equal(strspn(out.text, "0123456789T:-"), 19); /* 2026-01-02T03:04:05+0000 */
    free(out.text);
}

/* ---- JSON and quiet ---- */

static void json_run(void)
{
    Progress *p = progress_open(PROGRESS_JSON, 0.0);
    log_info("a \"line\" with \xFF and a \n newline");
    ProgressState state = some_state(1);
    (void)progress_step(p, &state);
    state.loss = 0.0 / (double)(state.n_terms - 2); /* NaN */
    state.top1 = -1.0;
    state.phases[0] = -1.0;
    (void)progress_step(p, &state);
    const ProgressEpoch epoch = some_epoch(14);
    progress_epoch(p, &epoch);
    progress_close(p, NULL);
}

static json_t *next_object(char **rest)
{
    char *line = strtok_r(NULL, "\n", rest);
    assert_non_null(line);
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    assert_true(json_is_object(object));
    assert_true(json_is_real(json_object_get(object, "time")));
    return object;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static double number_of(const json_t *object, const char *key)
{
    assert_true(json_is_number(json_object_get(object, key)));
    return json_number_value(json_object_get(object, key));
}

static void json_lines_can_be_parsed(void **state)
{
    (void)state;
    const Output out = on_pipe(json_run, STDOUT_FILENO);
    char *copy = xformat("\n%s", out.text);
    char *rest = copy;
    json_t *object = NULL;
    rest = copy + 1;
    char *line = strtok_r(rest, "\n", &rest);
    object = json_loads(line, 0, NULL);
    assert_string_equal(text_of(object, "event"), "log");
    assert_string_equal(text_of(object, "level"), "info");
    assert_string_equal(text_of(object, "text"), "a \"line\" with \xEF\xBF\xBD and a \n newline");
    json_decref(object);
    object = next_object(&rest);
    assert_string_equal(text_of(object, "event"), "step");
    assert_true(number_of(object, "loss") == 2.4142);
    assert_true(number_of(object, "phase_student") == 0.74);
    const json_t *term = json_array_get(json_object_get(object, "terms"), 1);
    assert_string_equal(text_of(term, "name"), "KD");
    assert_true(number_of(term, "weight") == 0.9 && number_of(term, "value") == 2.36);
    json_decref(object);
    object = next_object(&rest);
    assert_true(json_is_null(json_object_get(object, "loss")));
    assert_true(json_is_null(json_object_get(object, "top1")));
    assert_true(json_is_null(json_object_get(object, "phase_student")));
    json_decref(object);
    object = next_object(&rest);
    assert_string_equal(text_of(object, "event"), "epoch");
    assert_true(number_of(object, "eval_top1") == 61.25);
    json_decref(object);
    assert_null(strtok_r(NULL, "\n", &rest));
    free(copy);
    free(out.text);
}

static void quiet_run(void)
{
    log_set_level(LOG_WARN);
    Progress *p = progress_open(PROGRESS_QUIET, 0.0);
    log_info("nothing");
    const ProgressState state = some_state(1);
    (void)progress_step(p, &state);
    log_warn("careful");
    progress_close(p, NULL);
}

static void quiet_says_warnings_only(void **state)
{
    (void)state;
    const Output out = on_pipe(quiet_run, STDERR_FILENO);
    assert_string_equal(out.text, "warning: careful\n");
    free(out.text);
}

/* ---- When a line is due ---- */

static void intervals_are_time_and_a_tenth_of_an_epoch(void **state)
{
    (void)state;
    Progress *p = progress_open(PROGRESS_QUIET, 0.05);
    ProgressState s = some_state(1);
    s.epoch_share = 0.5;
    assert_false(progress_step(p, &s)); /* the clock starts with the first step */
    (void)usleep(60000);
    s.epoch_share = 0.55;
    assert_false(progress_step(p, &s)); /* too little of an epoch */
    s.epoch_share = 0.61;
    assert_true(progress_step(p, &s));
    s.epoch_share = 0.8;
    assert_false(progress_step(p, &s)); /* too soon */
    (void)usleep(60000);
    s.epoch = 15;
    s.epoch_share = 0.0;
    assert_true(progress_step(p, &s));
    progress_close(p, NULL);
    char clock[16];
    progress_clock(3723.4, clock);
    assert_string_equal(clock, "1:02:03");
    progress_clock(59.6, clock);
    assert_string_equal(clock, "1:00");
    progress_clock(1e300, clock);
    assert_string_equal(clock, "9999:00:00");
}

/* ---- The log file ---- */

typedef struct {
    char dir[64];
    char log[96];
} Folder;

static int open_folder(void **state)
{
    Folder *f = xcalloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/cudistill-progress-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->log, sizeof f->log, "%s/log.txt", f->dir);
    *state = f;
    return 0;
}

static int close_folder(void **state)
{
    Folder *f = *state;
    err_free(dir_remove(f->dir));
    free(f);
    return 0;
}

static char *log_text(const Folder *f)
{
    char *text = NULL;
    Err *err = file_read_text(f->log, 1 << 20, &text);
    assert_null(err);
    return text;
}

static void the_log_has_every_line(void **state)
{
    const Folder *f = *state;
    log_set_level(LOG_INFO);
    Progress *p = progress_open(PROGRESS_QUIET, 0.0);
    log_info("before the folder exists");
    progress_log_to(p, f->log);
    const ProgressState s = some_state(7);
    (void)progress_step(p, &s);
    const ProgressEpoch epoch = some_epoch(14);
    progress_epoch(p, &epoch);
    progress_close(p, "the end\x1b[2J");
    char *text = log_text(f);
    assert_int_equal(count_of(text, "\n"), 4);
    const char *at = text;
    static const char *const parts[] = {"before the folder exists\n", "step 7/40000",
                                        "test top-1 61.25", "error: the end?[2J\n"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(strspn(at, "0123456789T:-"), 19);
        assert_non_null(strstr(at, parts[i]));
        at = strchr(at, '\n') + 1;
    }
    free(text);
}

static void write_on(void)
{
    Progress *p = progress_open(PROGRESS_PLAIN, 0.0);
    for (long step = 0; step < 20; step++) {
        const ProgressState s = some_state(step);
        if (!progress_step(p, &s)) {
            _exit(1);
        }
        log_warn("a warning");
    }
    progress_close(p, "the end");
}

static void write_json_on(void)
{
    Progress *p = progress_open(PROGRESS_JSON, 0.0);
    for (long step = 0; step < 20; step++) {
        const ProgressState s = some_state(step);
        (void)progress_step(p, &s);
    }
    progress_close(p, NULL);
}

/* Both streams closed, then pipes that nobody reads. */
static void closed_streams_stop_nothing(void **state)
{
    (void)state;
    void (*const bodies[])(void) = {write_on, write_json_on};
    for (int i = 0; i < 4; i++) {
        (void)fflush(NULL);
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            settle_environment("C", "xterm");
            int ends[2];
            (void)close(STDOUT_FILENO);
            (void)close(STDERR_FILENO);
            if (i >= 2 && (pipe(ends) != 0 || dup2(ends[1], STDERR_FILENO) < 0 ||
                           dup2(ends[1], STDOUT_FILENO) < 0 || close(ends[0]) != 0)) {
                _exit(2);
            }
            bodies[i % 2]();
            _exit(0);
        }
        assert_exits(child, 0);
    }
}

static void a_removed_log_stops_nothing(void **state)
{
    const Folder *f = *state;
    log_set_level(LOG_INFO);
    Progress *p = progress_open(PROGRESS_QUIET, 0.0);
    progress_log_to(p, f->log);
    const ProgressState s = some_state(1);
    (void)progress_step(p, &s);
    assert_int_equal(unlink(f->log), 0);
    assert_true(progress_step(p, &s));
    progress_close(p, NULL);
    char *nowhere = path_join(f->log, "log.txt");
    p = progress_open(PROGRESS_QUIET, 0.0);
    log_set_level(LOG_ERROR);
    progress_log_to(p, nowhere);
    assert_true(progress_step(p, &s));
    progress_close(p, NULL);
    log_set_level(LOG_INFO);
    free(nowhere);
}

/* A file-size limit cuts a line off as a full disk does; when there is room again the next line stands alone. */
static void fill_up(const Folder *f)
{
    (void)signal(SIGXFSZ, SIG_IGN);
    Progress *p = progress_open(PROGRESS_PLAIN, 0.0);
    progress_log_to(p, f->log);
    log_info("a line");
    struct stat now;
    (void)stat(f->log, &now);
    struct rlimit limit;
    (void)getrlimit(RLIMIT_FSIZE, &limit);
    const struct rlimit small = {.rlim_cur = (rlim_t)now.st_size + 30, .rlim_max = limit.rlim_max};
    (void)setrlimit(RLIMIT_FSIZE, &small);
    log_info("the second line is too long");
    log_info("the third has no room");
    (void)setrlimit(RLIMIT_FSIZE, &limit);
    log_info("the fourth");
    progress_close(p, NULL);
}

static void a_full_disk_stops_nothing(void **state)
{
    const Folder *f = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        settle_environment("C", "xterm");
        (void)dup2(ends[1], STDERR_FILENO);
        fill_up(f);
        _exit(0);
    }
    (void)close(ends[1]);
    const Output out = read_all(ends[0]);
    assert_exits(child, 0);
    assert_int_equal(count_of(out.text, "File too large; training goes on"), 1);
    char *text = log_text(f);
    assert_int_equal(count_of(text, "\n"), 3); /* whole, cut, whole */
    assert_non_null(strstr(text, " a line\n"));
    assert_non_null(strstr(text, " the fourth\n"));
    free(text);
    free(out.text);
}

/* ---- Lines of other threads ---- */

enum { THREADS = 4, LINES = 50 };

static void *say_lines(void *context)
{
    for (int i = 0; i < LINES; i++) {
        log_info("thread %d says %d.", *(const int *)context, i);
    }
    return NULL;
}

static void threads_run(void)
{
    Progress *p = progress_open(PROGRESS_AUTO, 1000.0);
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        (void)pthread_create(&threads[i], NULL, say_lines, &numbers[i]);
    }
    for (long step = 0; step < 100; step++) {
        const ProgressState s = some_state(step);
        (void)progress_step(p, &s);
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    progress_close(p, NULL);
}

static void threads_do_not_mix(void **state)
{
    (void)state;
    const Output out = on_terminal(threads_run, "C", "xterm", COLUMNS);
    Screen *s = show(&out);
    assert_int_equal(used_rows(s), THREADS * LINES);
    for (int i = 0; i < THREADS * LINES; i += 7) {
        char *line = xformat("thread %d says %d. ", i % THREADS, i % LINES);
        assert_true(on_screen(s, line));
        free(line);
    }
    free(s);
    free(out.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bar_is_calm_and_leaves_nothing),
        cmocka_unit_test(at_most_five_draws_a_second),
        cmocka_unit_test(every_width_has_room),
        cmocka_unit_test(a_terminal_decides_the_style),
        cmocka_unit_test(no_color_is_obeyed),
        cmocka_unit_test(plain_lines_have_no_control_characters),
        cmocka_unit_test(json_lines_can_be_parsed),
        cmocka_unit_test(quiet_says_warnings_only),
        cmocka_unit_test(intervals_are_time_and_a_tenth_of_an_epoch),
        cmocka_unit_test_setup_teardown(the_log_has_every_line, open_folder, close_folder),
        cmocka_unit_test(closed_streams_stop_nothing),
        cmocka_unit_test_setup_teardown(a_removed_log_stops_nothing, open_folder, close_folder),
        cmocka_unit_test_setup_teardown(a_full_disk_stops_nothing, open_folder, close_folder),
        cmocka_unit_test(threads_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
