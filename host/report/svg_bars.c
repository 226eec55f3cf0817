/* Charts of distributions: histograms, named counts, reliability diagrams, bars to both sides of zero. */
#include "report/svg_axes.h"

#include "report/markup.h"

#include <math.h>
#include <stdio.h>

enum { X_TICKS = 7, Y_TICKS = 4 };
static const double WIDTH = 520.0, HEIGHT = 250.0;
static const double LEFT = 50.0, RIGHT = 20.0, TOP = 10.0, BOTTOM = 38.0;

static Frame plot_frame(double x_low, double x_high, double y_high)
{
    return (Frame){.left = LEFT,
                   .top = TOP,
                   .width = WIDTH - LEFT - RIGHT,
                   .height = HEIGHT - TOP - BOTTOM,
                   .x_low = x_low,
                   .x_high = x_high,
                   .y_low = 0.0,
                   .y_high = y_high};
}

static double largest(const double *values, size_t count)
{
    double most = 0.0;
    for (size_t i = 0; i < count; i++) {
        most = isfinite(values[i]) && values[i] > most ? values[i] : most;
    }
    return most;
}

static double count_at(const double *counts, size_t i)
{
    return isfinite(counts[i]) && counts[i] > 0.0 ? counts[i] : 0.0;
}

/* ---- Histograms ---- */

static void draw_filled(Text *out, const Frame *frame, const double *edges, size_t bins,
                        const ChartCounts *series)
{
    for (size_t i = 0; i < bins; i++) {
        const double value = count_at(series->counts, i);
        const double left = frame_x(frame, edges[i]);
        const double width = frame_x(frame, edges[i + 1]) - left;
        const double top = frame_y(frame, value);
        if (value > 0.0) {
            text_add(out,
                     "<rect class=\"f%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                     series->style % 8, left, top, width > 3.0 ? width - 0.8 : width,
                     frame->top + frame->height - top);
        }
    }
}

static void draw_outline(Text *out, const Frame *frame, const double *edges, size_t bins,
                         const ChartCounts *series)
{
    text_puts(out, "<path");
    line_style(out, series->style);
    text_add(out, " d=\"M%.1f %.1f", frame_x(frame, edges[0]), frame_y(frame, 0.0));
    for (size_t i = 0; i < bins; i++) {
        text_add(out, "V%.1fH%.1f", frame_y(frame, count_at(series->counts, i)),
                 frame_x(frame, edges[i + 1]));
    }
    text_add(out, "V%.1f\"/>", frame_y(frame, 0.0));
}

static bool edges_rise(const double *edges, size_t bins)
{
    for (size_t i = 0; i < bins; i++) {
        if (!(edges[i + 1] > edges[i]) || !isfinite(edges[i]) || !isfinite(edges[i + 1])) {
            return false;
        }
    }
    return bins > 0;
}

bool chart_histogram(Text *out, const ChartHead *head, const double *edges, size_t bins,
                     const ChartCounts *series, size_t series_count)
{
    double most = 0.0;
    for (size_t s = 0; s < series_count; s++) {
        most = fmax(most, largest(series[s].counts, bins));
    }
    if (most <= 0.0 || !edges_rise(edges, bins)) {
        return false;
    }
    double zero = 0.0;
    range_round(&zero, &most, Y_TICKS);
    const Frame frame = plot_frame(edges[0], edges[bins], most);
    const Ticks x_ticks = ticks_linear(edges[0], edges[bins], X_TICKS, false);
    const Ticks y_ticks = ticks_linear(0.0, most, Y_TICKS, false);
    figure_open(out, head);
    legend_open(out);
    for (size_t s = 0; s < series_count; s++) {
        if (series_count == 1) {
            legend_box(out, series[s].label, series[s].value, series[s].style);
        } else {
            legend_line(out, series[s].label, series[s].value, series[s].style, false);
        }
    }
    legend_close(out);
    svg_open(out, head, WIDTH, HEIGHT);
    svg_axes(out, &frame, &x_ticks, &y_ticks, head->x_title);
    for (size_t s = 0; s < series_count; s++) {
        if (series_count == 1) {
            draw_filled(out, &frame, edges, bins, &series[s]);
        } else {
            draw_outline(out, &frame, edges, bins, &series[s]);
        }
    }
    svg_close(out);
    figure_close(out, head);
    return true;
}

bool chart_columns(Text *out, const ChartHead *head, const char *const *names, const double *counts,
                   size_t count)
{
    double most = largest(counts, count);
    if (most <= 0.0) {
        return false;
    }
    double total = 0.0;
    for (size_t i = 0; i < count; i++) {
        total += count_at(counts, i);
    }
    most *= 1.08; /* room for the shares above the columns */
    double zero = 0.0;
    range_round(&zero, &most, Y_TICKS);
    const Frame frame = plot_frame(0.0, (double)count, most);
    const Ticks none = {0};
    const Ticks y_ticks = ticks_linear(0.0, most, Y_TICKS, false);
    figure_open(out, head);
    legend_open(out);
    legend_close(out);
    svg_open(out, head, WIDTH, HEIGHT);
    svg_axes(out, &frame, &none, &y_ticks, head->x_title);
    for (size_t i = 0; i < count; i++) {
        const double value = count_at(counts, i);
        const double middle = frame_x(&frame, (double)i + 0.5);
        const double width = fmin(frame.width / (double)count * 0.62, 90.0);
        const double top = frame_y(&frame, value);
        text_add(out, "<rect class=\"f0\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                 middle - width / 2.0, top, width, frame.top + frame.height - top);
        svg_text(out, middle, frame.top + frame.height + 15.0, "tm", names[i]);
        Text share = {0};
        markup_number(&share, 100.0 * value / total, 1);
        text_puts(&share, " %");
        svg_text(out, middle, top - 4.0, "tm strong", share.text);
        text_free(&share);
    }
    svg_close(out);
    figure_close(out, head);
    return true;
}

/* ---- Reliability ---- */

static const double RELIABILITY_HEIGHT = 400.0, STRIP_TOP = 312.0, STRIP_HEIGHT = 46.0;

static void draw_reliability(Text *out, const Frame *frame, int bins,
                             const ChartReliability *series)
{
    const double most = largest(series->shares, (size_t)bins);
    Text path = {0};
    Text dots = {0};
    for (int b = 0; b < bins; b++) {
        if (!isfinite(series->accuracy[b]) || !isfinite(series->confidence[b])) {
            continue;
        }
        const double x = frame_x(frame, series->confidence[b]);
        const double y = frame_y(frame, series->accuracy[b]);
        text_add(&path, "%s%.1f %.1f", path.size > 0 ? "L" : "M", x, y);
        /* A bin of a few images says little. */
        const double weight = most > 0.0 ? sqrt(count_at(series->shares, (size_t)b) / most) : 0.0;
        marker(&dots, x, y, series->style, 1.6 + 3.2 * weight);
    }
    if (path.size > 0) {
        text_puts(out, "<path");
        line_style(out, series->style);
        text_add(out, " d=\"%s\"/>%s", path.text, dots.text);
    }
    text_free(&path);
    text_free(&dots);
}

/* Where the images are: the share of each bin, the series side by side. */
static void draw_strip(Text *out, const Frame *upper, int bins, const ChartReliability *series,
                       size_t series_count)
{
    double most = 0.0;
    for (size_t s = 0; s < series_count; s++) {
        most = fmax(most, largest(series[s].shares, (size_t)bins));
    }
    Frame frame = *upper;
    frame.top = STRIP_TOP;
    frame.height = STRIP_HEIGHT;
    frame.y_low = 0.0;
    frame.y_high = most > 0.0 ? most : 1.0;
    Ticks ticks = {.count = 1, .at = {frame.y_high}};
    (void)snprintf(ticks.text[0], TICK_TEXT, "%.0f %%", 100.0 * frame.y_high);
    svg_grid_y(out, &frame, &ticks);
    const double slot = frame.width / (double)bins;
    const double width = (slot - 2.0) / (double)series_count;
    for (size_t s = 0; s < series_count; s++) {
        for (int b = 0; b < bins; b++) {
            const double share = count_at(series[s].shares, (size_t)b);
            const double top = frame_y(&frame, share);
            if (share > 0.0) {
                text_add(
                    out,
                    "<rect class=\"f%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"/>",
                    series[s].style % 8, frame.left + slot * b + 1.0 + width * (double)s, top,
                    width, frame.top + frame.height - top);
            }
        }
    }
}

bool chart_reliability(Text *out, const ChartHead *head, int bins, const ChartReliability *series,
                       size_t series_count)
{
    if (series_count == 0) {
        return false;
    }
    Frame frame = plot_frame(0.0, 1.0, 1.0);
    frame.height = STRIP_TOP - 14.0 - TOP;
    const Ticks unit = ticks_linear(0.0, 1.0, 5, false);
    const Ticks none = {0};
    figure_open(out, head);
    legend_open(out);
    for (size_t s = 0; s < series_count; s++) {
        legend_line(out, series[s].label, series[s].value, series[s].style, true);
    }
    legend_close(out);
    svg_open(out, head, WIDTH, RELIABILITY_HEIGHT);
    svg_axes(out, &frame, &none, &unit, NULL);
    text_add(out, "<path class=\"diagonal\" d=\"M%.1f %.1fL%.1f %.1f\"/>", frame.left,
             frame.top + frame.height, frame.left + frame.width, frame.top);
    draw_strip(out, &frame, bins, series, series_count);
    Frame whole = frame;
    whole.height = STRIP_TOP + STRIP_HEIGHT - TOP;
    svg_axes(out, &whole, &unit, &none, head->x_title);
    for (size_t s = 0; s < series_count; s++) {
        draw_reliability(out, &frame, bins, &series[s]);
    }
    svg_close(out);
    figure_close(out, head);
    return true;
}

/* ---- Bars to both sides of zero ---- */

static const double ROW_HEIGHT = 17.0, NAME_WIDTH = 150.0, VALUE_ROOM = 44.0;

static void draw_bar(Text *out, const Frame *frame, const ChartBar *bar, double y)
{
    const double zero = frame_x(frame, 0.0);
    const double end = frame_x(frame, bar->value);
    text_add(out, "<g><title>");
    markup_text(out, bar->tip != NULL ? bar->tip : bar->name, 160);
    text_puts(out, "</title>");
    text_add(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"te\">", NAME_WIDTH - 8.0, y + 12.0);
    markup_text(out, bar->name, 20);
    text_puts(out, "</text>");
    text_add(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
             bar->value < 0.0 ? "loss" : "gain", fmin(zero, end), y + 3.0,
             fmax(fabs(end - zero), 0.6), ROW_HEIGHT - 5.0);
    Text value = {0};
    text_puts(&value, bar->value > 0.0 ? "+" : "");
    markup_number(&value, bar->value, 1);
    svg_text(out, bar->value < 0.0 ? end - 5.0 : end + 5.0, y + 12.0,
             bar->value < 0.0 ? "te" : "ts", value.text);
    text_free(&value);
    text_puts(out, "</g>");
}

bool chart_bars(Text *out, const ChartHead *head, const ChartBar *bars, size_t count)
{
    double low = 0.0;
    double high = 0.0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(bars[i].value)) {
            return false;
        }
        low = fmin(low, bars[i].value);
        high = fmax(high, bars[i].value);
    }
    if (count == 0) {
        return false;
    }
    if (low == high) {
        high = 1.0;
    }
    const double left = NAME_WIDTH + (low < 0.0 ? VALUE_ROOM : 0.0);
    Frame frame = {.left = left,
                   .top = 4.0,
                   .width = WIDTH - left - VALUE_ROOM,
                   .height = ROW_HEIGHT * (double)count,
                   .x_low = low,
                   .x_high = high,
                   .y_low = 0.0,
                   .y_high = 1.0};
    figure_open(out, head);
    svg_open(out, head, WIDTH, frame.height + 10.0);
    for (size_t i = 0; i < count; i++) {
        draw_bar(out, &frame, &bars[i], frame.top + ROW_HEIGHT * (double)i);
    }
    text_add(out, "<path class=\"axis\" d=\"M%.1f %.1fv%.1f\"/>", frame_x(&frame, 0.0), frame.top,
             frame.height);
    svg_close(out);
    figure_close(out, head);
    return true;
}
