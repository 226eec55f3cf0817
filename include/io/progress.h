/* What a person sees of a run.
 *
 *   bar     on a terminal: two lines rewritten in place, at most 5 times a second; log lines scroll above them
 *   plain   elsewhere: one line per interval and per epoch on stderr, never a control character
 *   json    the same events as JSON lines on stdout
 *   quiet   nothing but warnings and errors
 *
 * Colours only on a terminal, not where NO_COLOR is set. While a Progress is open it is the log's sink (log_set_sink).
 * A closed stdout or stderr never stops a run. Not for several threads, except log lines, which may come from any. */
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
typedef enum { PHASE_DATA, PHASE_TEACHER, PHASE_STUDENT, PHASE_UPDATE } ProgressPhase;

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
/* log_path: every line also goes there (plain, with the time), or NULL. */
Progress *progress_open(ProgressMode mode, double interval_s, const char *log_path);
void progress_close(Progress *progress); /* accepts NULL; removes the bar, gives the log back */
/* As often as one likes: decides itself whether to draw. True when an interval's plain line was due. */
bool progress_step(Progress *progress, const ProgressState *state);
void progress_epoch(Progress *progress, const ProgressEpoch *epoch);
ProgressMode progress_mode(const Progress *progress);

/* "1:02:03" of seconds. out has room for 16. */
void progress_clock(double seconds, char out[16]);

#endif
