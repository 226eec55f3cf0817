/* The end of a run, for a person or a program. */
#ifndef CUDISTILL_TRAIN_RESULT_H
#define CUDISTILL_TRAIN_RESULT_H

#include "base/text.h"
#include "train/train.h"

/* A table of accuracy, gap to the teacher, agreement, time and files, and the next command to try. */
void result_table(Text *out, const Settings *settings, const RunResult *result);
/* One line {"event":"result", "name", "out", "student", "teacher", "seed", what RunResult holds}; null where unknown. */
void result_json(Text *out, const Settings *settings, const RunResult *result);
/* Writes either to stdout, by settings->progress. Where stdout is closed nothing is lost that the run's folder lacks: a
 * warning, no error. */
void result_print(const Settings *settings, const RunResult *result);

#endif
