/* How a run's progress reads: pure functions from state to text. progress.c decides when and where it is written. */
#ifndef CUDISTILL_HOST_IO_PROGRESS_TEXT_H
#define CUDISTILL_HOST_IO_PROGRESS_TEXT_H

#include "base/text.h"
#include "io/progress.h"

typedef struct {
    int width; /* columns of the terminal */
    bool utf8, colour;
} BarStyle;

/* Two lines with their newlines, each narrower than the terminal: what has no room is left out, the least important
 * first. */
void progress_bar_text(Text *out, const ProgressState *state, const BarStyle *style);
/* One line, without newline. */
void progress_line_text(Text *out, const ProgressState *state);
void progress_epoch_text(Text *out, const ProgressEpoch *epoch);
/* Members of a JSON object, each beginning with a comma. */
void progress_step_json(Text *out, const ProgressState *state);
void progress_epoch_json(Text *out, const ProgressEpoch *epoch);

#endif
