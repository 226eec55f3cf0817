/* Records of a run: metrics.jsonl (one JSON object per line, flushed per line, "schema" in the first) and epochs.csv with
 * timm's column names first. At resume, lines beyond the resumed step and torn ones are dropped, so that a log has every
 * step once. `step` is always the number of finished optimizer steps, the number that a checkpoint carries: a line of
 * step 100 stays when step 100 is resumed. Values that are not finite are null in JSON. Not for several threads.
 * Errors (disk full, no permission) name the file; a line that could not be written leaves nothing behind. */
#ifndef CUDISTILL_TRAIN_METRICS_H
#define CUDISTILL_TRAIN_METRICS_H

#include "base/err.h"
#include "kernels/distill_spec.h"
#include <stdbool.h>

enum { METER_PHASES = 4 }; /* data, teacher, student, update: ProgressShare */

/* Sums over an interval or an epoch: OP_DISTILL's SUM_* added up in double. */
typedef struct {
    double sums[SUM_FIELDS];
    long steps;
    double seconds, data_wait_s;
    double loss_scale; /* after the last step; 0 = none */
    double phase_s
        [METER_PHASES]; /* seconds of the steps that were clocked, without the wait for data */
} Meter;
void meter_add(Meter *meter, const float sums[SUM_FIELDS]);
void meter_reset(Meter *meter);
/* Shares of the time, sum 1: the wait for data as measured in all steps, the rest split as in the clocked steps. False,
 * and shares[0] = -1, when no step was clocked. */
bool meter_phases(const Meter *meter, double shares[METER_PHASES]);

typedef struct {
    int epoch; /* from 1 */
    long step;
    double lr;
    double train_loss, train_ce, train_top1, teacher_top1, agreement;
    int n_terms;
    double terms[DISTILL_MAX_TERMS];
    double eval_top1, eval_top5,
        eval_loss; /* percent, percent, mean; eval_top1 < 0: not evaluated */
    long eval_count;
    double images_per_s, seconds;
    double data_share; /* part of the time spent waiting for data, 0..1 */
    double phases
        [METER_PHASES]; /* shares of the time (meter_phases); phases[0] < 0: not measured, not written */
    double loss_scale; /* at the end of the epoch; 0 = none, then it is not written */
    bool best;
} EpochRecord;

typedef struct Metrics Metrics;
/* A fresh start replaces both files; a resume cuts them back and adds an event "resume" with the step. EXIT_BAD_DATA when
 * the files there are of another schema. */
Err *metrics_open(const char *run_dir, long resume_step /* -1 = fresh */, Metrics **out);
void metrics_close(Metrics *metrics);
/* A free-form event: the line gets "event", "time" and "step"; json_fields are further fields made by the caller.
 * EXIT_INTERNAL when these are not JSON. */
Err *metrics_event(Metrics *metrics, const char *kind, long step,
                   const char *json_fields /* "\"lr\":0.1" or "" */);
/* An "epoch" event and a line of epochs.csv. */
Err *metrics_epoch(Metrics *metrics, const EpochRecord *record);
/* Per step line (log interval decided by the caller): means over the meter's rows; top1, teacher_top1 and agreement in
 * percent. `step` = the last step in the meter, `steps` in the line = how many it holds. */
Err *metrics_step(Metrics *metrics, long step, int epoch, double lr, const Meter *meter,
                  int n_terms, bool teacher);

#endif
