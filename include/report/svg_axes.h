/* Axes of charts; only host/report/svg*.c include this. A Frame is the rectangle of a plot in SVG units and the range of
 * values that it shows. */
#ifndef CUDISTILL_REPORT_SVG_AXES_H
#define CUDISTILL_REPORT_SVG_AXES_H

#include "report/svg.h"

enum { TICKS_MAX = 16, TICK_TEXT = 24 };

typedef struct {
    int count;
    double at[TICKS_MAX];
    char text[TICKS_MAX][TICK_TEXT];
} Ticks;

typedef struct {
    double left, top, width, height;
    double x_low, x_high, y_low, y_high;
    bool log_y;
} Frame;

/* Ticks at 1, 2, 2.5 or 5 times a power of ten within [low, high], about `want` of them; `whole`: at whole numbers. */
Ticks ticks_linear(double low, double high, int want, bool whole);
Ticks ticks_log(double low, double high);
/* Widens the range to multiples of the tick distance. */
void range_round(double *low, double *high, int want);

double frame_x(const Frame *frame, double x);
double frame_y(const Frame *frame, double y);

void svg_open(Text *out, const ChartHead *head, double width, double height);
void svg_close(Text *out);
void svg_axes(Text *out, const Frame *frame, const Ticks *x, const Ticks *y, const char *x_title);
/* Grid lines and labels of one axis alone. */
void svg_grid_y(Text *out, const Frame *frame, const Ticks *ticks);
void svg_text(Text *out, double x, double y, const char *classes, const char *text);

void figure_open(Text *out, const ChartHead *head);
void figure_close(Text *out, const ChartHead *head);
void legend_open(Text *out);
void legend_line(Text *out, const char *label, const char *value, int style, bool marker);
void legend_box(Text *out, const char *label, const char *value, int style);
void legend_close(Text *out);

/* ` class="..." stroke-dasharray="..."` of a series, and its marker at a point. */
void line_style(Text *out, int style);
void marker(Text *out, double x, double y, int style, double radius);

#endif
