/* Charts over time: lines, and shares stacked to the whole. */
#include "report/svg_axes.h"

#include "base/err.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_POINTS = 400, MARKED_POINTS = 40, STACK_COLUMNS = 60, X_TICKS = 7, Y_TICKS = 5 };
static const double WIDTH = 520.0, HEIGHT = 250.0;
static const double LEFT = 50.0, RIGHT = 20.0, TOP = 10.0, BOTTOM = 38.0;

typedef struct {
    double low, high;
} Range;

static void include(Range *range, double value)
{
    if (isfinite(value)) {
        range->low = range->low <= value ? range->low : value;
        range->high = range->high >= value ? range->high : value;
    }
}

static Frame plot_frame(Range x, Range y)
{
    if (!(x.high > x.low)) {
        x.low -= 0.5;
        x.high += 0.5;
    }
    return (Frame){.left = LEFT,
                   .top = TOP,
                   .width = WIDTH - LEFT - RIGHT,
                   .height = HEIGHT - TOP - BOTTOM,
                   .x_low = x.low,
                   .x_high = x.high,
                   .y_low = y.low,
                   .y_high = y.high};
}

/* ---- Lines ---- */

typedef struct {
    double *x, *y;
    size_t count;
} Points;

/* Neighbours averaged until at most `limit` points are left. */
static Points thin_out(const ChartLine *line, size_t limit)
{
    const size_t stride = (line->count + limit - 1) / limit;
    Points out = {.x = xmalloc((limit + 1) * sizeof(double)),
                  .y = xmalloc((limit + 1) * sizeof(double))};
    for (size_t at = 0; at < line->count; at += stride) {
        double x = 0.0;
        double y = 0.0;
        size_t finite = 0;
        size_t seen = 0;
        for (; seen < stride && at + seen < line->count; seen++) {
            x += line->x[at + seen];
            if (isfinite(line->y[at + seen])) {
                y += line->y[at + seen];
                finite++;
            }
        }
        out.x[out.count] = x / (double)seen;
        out.y[out.count++] = finite > 0 ? y / (double)finite : NAN;
    }
    return out;
}

static void draw_line(Text *out, const Frame *frame, const ChartLine *line, size_t limit)
{
    const Points points = thin_out(line, limit);
    const size_t size = points.count;
    Text path = {0};
    bool pen_down = false;
    for (size_t i = 0; i < size; i++) {
        const bool drawn = isfinite(points.y[i]) && (!frame->log_y || points.y[i] > 0.0);
        if (drawn) {
            text_add(&path, "%s%.1f %.1f", pen_down ? "L" : "M", frame_x(frame, points.x[i]),
                     frame_y(frame, points.y[i]));
        }
        pen_down = drawn;
    }
    if (path.size > 0) {
        text_puts(out, "<path");
        line_style(out, line->style);
        text_add(out, " d=\"%s\"/>", path.text);
    }
    for (size_t i = 0; i < size && size <= MARKED_POINTS; i++) {
        if (isfinite(points.y[i]) && (!frame->log_y || points.y[i] > 0.0)) {
            marker(out, frame_x(frame, points.x[i]), frame_y(frame, points.y[i]), line->style, 2.4);
        }
    }
    text_free(&path);
    free(points.x);
    free(points.y);
}

static void line_ranges(const LineChart *chart, Range *x, Range *y)
{
    *x = *y = (Range){NAN, NAN};
    for (size_t l = 0; l < chart->line_count; l++) {
        const ChartLine *line = &chart->lines[l];
        for (size_t i = 0; i < line->count; i++) {
            if (isfinite(line->y[i])) {
                include(x, line->x[i]);
                include(y, line->y[i]);
            }
        }
    }
    for (size_t r = 0; r < chart->rule_count && isfinite(y->low); r++) {
        include(y, chart->rules[r].y);
    }
}

static void line_legend(Text *out, const LineChart *chart)
{
    legend_open(out);
    for (size_t l = 0; l < chart->line_count; l++) {
        const ChartLine *line = &chart->lines[l];
        bool shown = false;
        for (size_t i = 0; i < line->count && !shown; i++) {
            shown = isfinite(line->y[i]);
        }
        if (shown) {
            legend_line(out, line->label, line->value, line->style, line->count <= MARKED_POINTS);
        }
    }
    for (size_t r = 0; r < chart->rule_count; r++) {
        if (isfinite(chart->rules[r].y)) {
            legend_line(out, chart->rules[r].label, chart->rules[r].value, chart->rules[r].style,
                        false);
        }
    }
    legend_close(out);
}

bool chart_lines(Text *out, const LineChart *chart)
{
    Range x;
    Range y;
    line_ranges(chart, &x, &y);
    if (!isfinite(x.low) || !isfinite(y.low)) {
        return false;
    }
    const bool log_y = chart->log_y && y.low > 0.0;
    if (log_y) {
        const double middle = y.high > y.low ? 1.0 : 2.0;
        y.low = pow(10.0, floor(log10(y.low / middle) + 1e-9));
        y.high = pow(10.0, ceil(log10(y.high * middle) - 1e-9));
        y.high = y.high > y.low ? y.high : y.low * 10.0;
    } else {
        y.low = chart->from_zero && y.low > 0.0 ? 0.0 : y.low;
        range_round(&y.low, &y.high, Y_TICKS);
    }
    x = (Range){floor(x.low), ceil(x.high)};
    Frame frame = plot_frame(x, y);
    frame.log_y = log_y;
    const Ticks x_ticks = ticks_linear(frame.x_low, frame.x_high, X_TICKS, true);
    const Ticks y_ticks =
        log_y ? ticks_log(y.low, y.high) : ticks_linear(y.low, y.high, Y_TICKS, false);
    figure_open(out, &chart->head);
    line_legend(out, chart);
    svg_open(out, &chart->head, WIDTH, HEIGHT);
    svg_axes(out, &frame, &x_ticks, &y_ticks, chart->head.x_title);
    for (size_t r = 0; r < chart->rule_count; r++) {
        if (isfinite(chart->rules[r].y)) {
            text_puts(out, "<path");
            line_style(out, chart->rules[r].style);
            text_add(out, " d=\"M%.1f %.1fh%.1f\"/>", frame.left,
                     frame_y(&frame, chart->rules[r].y), frame.width);
        }
    }
    for (size_t l = 0; l < chart->line_count; l++) {
        draw_line(out, &frame, &chart->lines[l],
                  chart->max_points > 0 ? chart->max_points : (size_t)MAX_POINTS);
    }
    svg_close(out);
    figure_close(out, &chart->head);
    return true;
}

/* ---- Stacked shares ---- */

/* Mean of a layer over the points of a column, as part of the column's whole. */
static bool column_shares(const StackChart *chart, size_t first, size_t last, double shares[8])
{
    double whole = 0.0;
    for (int k = 0; k < chart->layer_count; k++) {
        shares[k] = 0.0;
        for (size_t i = first; i < last; i++) {
            const double value = chart->layers[k][i];
            shares[k] += isfinite(value) && value > 0.0 ? value : 0.0;
        }
        whole += shares[k];
    }
    for (int k = 0; k < chart->layer_count; k++) {
        shares[k] = whole > 0.0 ? shares[k] / whole : 0.0;
    }
    return whole > 0.0;
}

static bool any_share(const StackChart *chart)
{
    double shares[8];
    return chart->layer_count <= 8 && chart->count > 0 &&
           column_shares(chart, 0, chart->count, shares);
}

static void stack_columns(Text *out, const StackChart *chart, const Frame *frame)
{
    const size_t stride = (chart->count + STACK_COLUMNS - 1) / STACK_COLUMNS;
    for (size_t first = 0; first < chart->count; first += stride) {
        const size_t last = first + stride < chart->count ? first + stride : chart->count;
        double shares[8];
        if (!column_shares(chart, first, last, shares)) {
            continue;
        }
        const double left = frame_x(frame, chart->x[first] - 0.5);
        const double width = frame_x(frame, chart->x[last - 1] + 0.5) - left;
        const double gap = chart->count <= MARKED_POINTS ? 1.0 : 0.0;
        double below = 0.0;
        for (int k = 0; k < chart->layer_count; k++) {
            const double top = frame_y(frame, 100.0 * (below + shares[k]));
            text_add(out,
                     "<rect class=\"f%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                     k, left + gap / 2.0, top, width - gap, frame_y(frame, 100.0 * below) - top);
            below += shares[k];
        }
    }
}

bool chart_stack(Text *out, const StackChart *chart)
{
    if (!any_share(chart)) {
        return false;
    }
    const Range x = {chart->x[0] - 0.5, chart->x[chart->count - 1] + 0.5};
    const Frame frame = plot_frame(x, (Range){0.0, 100.0});
    const Ticks x_ticks = ticks_linear(frame.x_low, frame.x_high, X_TICKS, true);
    const Ticks y_ticks = ticks_linear(0.0, 100.0, Y_TICKS, false);
    figure_open(out, &chart->head);
    legend_open(out);
    for (int k = 0; k < chart->layer_count; k++) {
        legend_box(out, chart->labels[k], chart->values_text != NULL ? chart->values_text[k] : NULL,
                   k);
    }
    legend_close(out);
    svg_open(out, &chart->head, WIDTH, HEIGHT);
    svg_axes(out, &frame, &x_ticks, &y_ticks, chart->head.x_title);
    text_puts(out, "<g class=\"stack\">");
    stack_columns(out, chart, &frame);
    text_puts(out, "</g>");
    svg_close(out);
    figure_close(out, &chart->head);
    return true;
}
