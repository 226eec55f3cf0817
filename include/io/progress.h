/* What a person sees of a run.
 *
 *   bar     on a terminal: two lines rewritten in place, at most 5 times a second; log lines scroll above them
 *   plain   elsewhere: one line per interval and per epoch on stderr with the time, never a control character
 *   json    the same events as JSON lines on stdout: "step" per interval, "epoch", "log"
 *   quiet   nothing but warnings and errors
 *
 * The bar ends with a newline, so that a shell that comes back after a kill begins on a line of its own; the cursor is
 * never hidden. Colours only on a terminal, not where NO_COLOR is set; a terminal that cannot move its cursor (TERM unset
 * or dumb) gets plain lines; blocks are drawn in ASCII where the locale's characters are not UTF-8. While a Progress is
 * open it is the log's sink (log_set_sink). A closed stdout or stderr and a log file that is removed or cannot be written
 * never stop a run. Not for several threads, except log lines, which may come from any. */
#ifndef CUDISTILL_IO_PROGRESS_H
#define CUDISTILL_IO_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    PROGRESS_AUTO,
    PROGRESS_BAR,
    PROGRESS_PLAIN,
    PROGRESS_JSON,
    PROGRESS_QUIET
} ProgressMode;

enum { PROGRESS_MAX_TERMS = 10, PROGRESS_PHASES = 4 };
typedef enum { SHARE_DATA, SHARE_TEACHER, SHARE_STUDENT, SHARE_UPDATE } ProgressShare;

/* One factor x value of the loss: "0.1 CE 2.902". */
typedef struct {
    const char *name; /* "CE", "KD" */
    double weight, value;
} ProgressTerm;

typedef struct {
    int epoch, epochs;  /* from 1 */
    long step, steps;   /* finished, in all */
    double epoch_share; /* 0..1 */
    double loss;
    ProgressTerm terms[PROGRESS_MAX_TERMS];
    int n_terms;
    double top1, teacher_top1, agreement; /* percent of the interval; < 0: unknown */
    double images_per_s, lr;
    double phases[PROGRESS_PHASES]; /* shares of the time, sum 1; phases[0] < 0: not measured yet */
    double eta_s;                   /* < 0: unknown */
    long nonfinite;                 /* updates skipped so far */
} ProgressState;

typedef struct {
    int epoch, epochs;
    long step;
    double train_loss, train_top1, eval_top1, eval_top5, teacher_top1, images_per_s, seconds, eta_s;
    bool evaluated, best;
} ProgressEpoch;

typedef struct Progress Progress;
/* An interval's line is due after interval_s seconds and a tenth of an epoch, whichever is later; the first one after 10
 * seconds at the latest. interval_s 0: with every step. */
Progress *progress_open(ProgressMode mode, double interval_s);
/* From now on every line also goes to this file, plain and with the time, first what was said since progress_open. It is
 * appended to. */
void progress_log_to(Progress *progress, const char *log_path);
/* Removes the bar, gives the log back to stderr, and notes in the log file why the run ended (error NULL: nothing).
 * Accepts NULL. */
void progress_close(Progress *progress, const char *error);
/* As often as one likes: decides itself whether to draw. True when an interval's line was due. False for NULL. */
bool progress_step(Progress *progress, const ProgressState *state);
void progress_epoch(Progress *progress, const ProgressEpoch *epoch); /* accepts NULL */
ProgressMode progress_mode(const Progress *progress);                /* never AUTO */

/* "1:02:03" of seconds. out has room for 16. */
void progress_clock(double seconds, char out[16]);
/* All of it to stdout (1) or stderr (2), not through stdio: false when that is closed, which is no error. */
bool progress_write(int descriptor, const char *text, size_t size);

#endif
