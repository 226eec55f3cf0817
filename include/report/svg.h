/* Charts as inline SVG inside <figure>: title, unit, legend in HTML (it wraps), drawing that scales with its column.
 * Colours come from the page's CSS variables --c0 .. --c7, so that one drawing serves light, dark and paper; series
 * differ by dash as well. Labels are escaped here. Pure functions that append to `out`; nothing is kept. Values that
 * are not finite leave a gap; a chart without any finite value is left out (false). */
#ifndef CUDISTILL_REPORT_SVG_H
#define CUDISTILL_REPORT_SVG_H

#include "base/text.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    const char *title;
    const char *unit; /* behind the title; "" = none */
    const char *note; /* a sentence below the drawing; NULL = none */
    const char *x_title;
} ChartHead;

typedef struct {
    const char *label;
    const char *value; /* shown bold behind the label in the legend; NULL = none */
    const double *x, *y;
    size_t count;
    int style; /* colour and dash; 0.. */
} ChartLine;

/* A horizontal line across the chart. */
typedef struct {
    const char *label;
    const char *value;
    double y;
    int style;
} ChartRule;

typedef struct {
    ChartHead head;
    const ChartLine *lines;
    size_t line_count;
    const ChartRule *rules;
    size_t rule_count;
    bool log_y;        /* where all values are positive, else linear */
    bool from_zero;    /* the y axis begins at 0 */
    size_t max_points; /* of a line; longer ones are averaged down; 0 = 400 */
} LineChart;
bool chart_lines(Text *out, const LineChart *chart);

/* Columns of shares stacked to 100 %: values[layer][i] at x[i]. At most 8 layers. */
typedef struct {
    ChartHead head;
    const double *x;
    size_t count;
    const char *const *labels;
    const char *const *values_text; /* legend values per layer, or NULL */
    const double *const *layers;
    int layer_count;
} StackChart;
bool chart_stack(Text *out, const StackChart *chart);

/* Counts over bins. One series is drawn filled, several as outlines. edges[bins + 1]. */
typedef struct {
    const char *label;
    const char *value;
    const double *counts;
    int style;
} ChartCounts;
bool chart_histogram(Text *out, const ChartHead *head, const double *edges, size_t bins,
                     const ChartCounts *series, size_t series_count);

/* Counts of named things. */
bool chart_columns(Text *out, const ChartHead *head, const char *const *names, const double *counts,
                   size_t count);

/* Accuracy against confidence with the diagonal, and below it where the images are. shares sum to 1. */
typedef struct {
    const char *label;
    const char *value;
    const double *confidence, *accuracy, *shares; /* [bins] */
    int style;
} ChartReliability;
bool chart_reliability(Text *out, const ChartHead *head, int bins, const ChartReliability *series,
                       size_t series_count);

/* Bars to both sides of zero, a row each, in the order given. */
typedef struct {
    const char *name;
    double value;
    const char *tip; /* shown by the mouse */
} ChartBar;
bool chart_bars(Text *out, const ChartHead *head, const ChartBar *bars, size_t count);

#endif
