/* Parts of the HTML report; host/report/report.c puts them together. All append to `out`, escape what comes from files,
 * and leave out what a run does not have. */
#ifndef CUDISTILL_REPORT_PAGE_H
#define CUDISTILL_REPORT_PAGE_H

#include "base/text.h"
#include "report/run_data.h"
#include "report/stats.h"

#include <stdbool.h>
#include <stddef.h>

/* A run and what its predictions say. */
typedef struct {
    RunData *data;
    char *label;                 /* tells the runs of a page apart */
    NetStats *student, *teacher; /* NULL where there are no predictions */
} RunView;

/* How much of a page one run may take: the page stays below 2 MB however many runs it has. */
typedef struct {
    size_t picture_bytes; /* of encoded pictures */
    size_t max_points;    /* of a line */
} PageLimits;

void page_open(Text *out, const char *title);
void page_close(Text *out);
void page_style(Text *out);
void section_open(Text *out, const char *title);
void section_close(Text *out);
/* "finished", "running or killed", "failed (79)" ... and a class for its colour. */
void page_status(Text *out, const RunData *run);

/* Everything about one run below its cards. */
void page_run(Text *out, const RunView *view, const PageLimits *limits);
void page_heading(Text *out, const RunData *run);
void page_cards(Text *out, const RunView *view);
void page_notes(Text *out, const RunView *view);
void page_curves(Text *out, const RunView *view, const PageLimits *limits);
void page_pictures(Text *out, const RunData *run, size_t byte_limit);
void page_teacher(Text *out, const RunView *view);
void page_predictions(Text *out, const RunView *view);
void page_settings(Text *out, const RunData *run);

/* What several runs have in common and where they differ. */
void page_compare(Text *out, const RunView *views, size_t count, const PageLimits *limits);
/* Gain per class of `stats` over `other`: all classes, or the first and last 15. */
void page_gain(Text *out, const RunData *run, const NetStats *stats, const NetStats *other,
               const char *better, const char *worse);
/* Reliability of the students of several runs, or of one run's student and teacher. */
void page_reliability(Text *out, const RunView *views, size_t count);

#endif
