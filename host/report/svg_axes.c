/* Ticks at round numbers, frames, legends, and the pieces that all charts share. */
#include "report/svg_axes.h"

#include "report/markup.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COLOURS = 8, LABEL_LIMIT = 48 };

/* ---- Ticks ---- */

static double nice_step(double span, int want, bool whole)
{
    const double rough = span / (double)want;
    const double power = pow(10.0, floor(log10(rough)));
    const double part = rough / power;
    double step = part <= 1.0001   ? power
                  : part <= 2.0001 ? 2.0 * power
                  : part <= 2.5001 ? 2.5 * power
                  : part <= 5.0001 ? 5.0 * power
                                   : 10.0 * power;
    if (whole) {
        step = step < 1.0 ? 1.0 : step == 2.5 ? 5.0 : step;
    }
    return step;
}

/* Ends that are equal would leave nothing to scale. */
static void widen(double *low, double *high)
{
    if (!(*high > *low)) {
        const double margin = *low != 0.0 ? fabs(*low) * 0.1 : 1.0;
        *low -= margin;
        *high += margin;
    }
}

void range_round(double *low, double *high, int want)
{
    widen(low, high);
    const double step = nice_step(*high - *low, want, false);
    *low = floor(*low / step + 1e-9) * step;
    *high = ceil(*high / step - 1e-9) * step;
}

static void tick_text(char *text, double value, double step)
{
    Text label = {0};
    if (fabs(value) >= 1e6) {
        text_add(&label, "%gM", value / 1e6);
    } else if (step >= 1.0 && floor(step) == step && fabs(value) >= 10000.0) {
        markup_count(&label, value);
    } else {
        int decimals = 0;
        while (decimals < 8 && fabs(step - round(step)) > 1e-6 * step) {
            step *= 10.0;
            decimals++;
        }
        markup_number(&label, value, decimals);
    }
    (void)snprintf(text, TICK_TEXT, "%s", label.text);
    text_free(&label);
}

Ticks ticks_linear(double low, double high, int want, bool whole)
{
    Ticks ticks = {0};
    widen(&low, &high);
    const double step = nice_step(high - low, want, whole);
    const double first = ceil(low / step - 1e-9);
    for (int i = 0; i < TICKS_MAX && (first + i) * step <= high + 1e-9 * step; i++) {
        ticks.at[i] = (first + i) * step;
        tick_text(ticks.text[i], ticks.at[i], step);
        ticks.count++;
    }
    return ticks;
}

Ticks ticks_log(double low, double high)
{
    Ticks ticks = {0};
    const double first = ceil(log10(low) - 1e-9);
    const double last = floor(log10(high) + 1e-9);
    const double stride = fmax(1.0, ceil((last - first + 1.0) / 8.0));
    for (int i = 0; i < TICKS_MAX && first + i * stride <= last; i++) {
        const double power = first + i * stride;
        ticks.at[i] = pow(10.0, power);
        if (fabs(power) > 4.0) {
            (void)snprintf(ticks.text[i], TICK_TEXT, "1e%.0f", power);
        } else {
            (void)snprintf(ticks.text[i], TICK_TEXT, "%g", ticks.at[i]);
        }
        ticks.count++;
    }
    return ticks;
}

/* ---- Frames ---- */

double frame_x(const Frame *frame, double x)
{
    return frame->left + frame->width * (x - frame->x_low) / (frame->x_high - frame->x_low);
}

double frame_y(const Frame *frame, double y)
{
    const double share = frame->log_y ? (log10(y) - log10(frame->y_low)) /
                                            (log10(frame->y_high) - log10(frame->y_low))
                                      : (y - frame->y_low) / (frame->y_high - frame->y_low);
    return frame->top + frame->height * (1.0 - share);
}

void svg_text(Text *out, double x, double y, const char *classes, const char *text)
{
    text_add(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, classes);
    markup_text(out, text, LABEL_LIMIT);
    text_puts(out, "</text>");
}

void svg_grid_y(Text *out, const Frame *frame, const Ticks *ticks)
{
    for (int i = 0; i < ticks->count; i++) {
        const double y = frame_y(frame, ticks->at[i]);
        text_add(out, "<path class=\"grid\" d=\"M%.1f %.1fh%.1f\"/>", frame->left, y, frame->width);
        svg_text(out, frame->left - 6.0, y + 3.8, "te", ticks->text[i]);
    }
}

void svg_axes(Text *out, const Frame *frame, const Ticks *x, const Ticks *y, const char *x_title)
{
    svg_grid_y(out, frame, y);
    const double bottom = frame->top + frame->height;
    text_add(out, "<path class=\"axis\" d=\"M%.1f %.1fh%.1f\"/>", frame->left, bottom,
             frame->width);
    for (int i = 0; i < x->count; i++) {
        const double at = frame_x(frame, x->at[i]);
        text_add(out, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/>", at, bottom);
        svg_text(out, at, bottom + 15.0, "tm", x->text[i]);
    }
    if (x_title != NULL && x_title[0] != '\0') {
        svg_text(out, frame->left + frame->width / 2.0, bottom + 30.0, "tm", x_title);
    }
}

void svg_open(Text *out, const ChartHead *head, double width, double height)
{
    text_add(out, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", width, height);
    markup_text(out, head->title, LABEL_LIMIT * 2);
    text_puts(out, "\">");
}

void svg_close(Text *out)
{
    text_puts(out, "</svg>\n");
}

/* ---- Figures and legends ---- */

void figure_open(Text *out, const ChartHead *head)
{
    text_puts(out, "<figure><figcaption><b>");
    markup_text(out, head->title, LABEL_LIMIT * 2);
    text_puts(out, "</b>");
    if (head->unit != NULL && head->unit[0] != '\0') {
        text_puts(out, " <span class=\"unit\">");
        markup_text(out, head->unit, LABEL_LIMIT);
        text_puts(out, "</span>");
    }
    text_puts(out, "</figcaption>\n");
}

void figure_close(Text *out, const ChartHead *head)
{
    if (head->note != NULL) {
        text_puts(out, "<p class=\"note\">");
        markup_text(out, head->note, 600);
        text_puts(out, "</p>");
    }
    text_puts(out, "</figure>\n");
}

static const char *dash_of(int style)
{
    static const char *const dashes[] = {"", "6 3", "2 2", "9 3 2 3", "12 4", "1 3"};
    const int round = style / COLOURS;
    return dashes[(style + round) % (int)(sizeof dashes / sizeof dashes[0])];
}

void line_style(Text *out, int style)
{
    text_add(out, " class=\"line s%d\"", style % COLOURS);
    if (dash_of(style)[0] != '\0') {
        text_add(out, " stroke-dasharray=\"%s\"", dash_of(style));
    }
}

/* Circle, square, triangle, diamond by turns. */
void marker(Text *out, double x, double y, int style, double radius)
{
    text_add(out, "<path class=\"dot f%d\" d=\"", style % COLOURS);
    switch (style % 4) {
    case 0:
        text_add(out, "M%.1f %.1fa%.1f %.1f 0 1 0 .01 0z", x, y - radius, radius, radius);
        break;
    case 1:
        text_add(out, "M%.1f %.1fh%.1fv%.1fh%.1fz", x - radius, y - radius, 2.0 * radius,
                 2.0 * radius, -2.0 * radius);
        break;
    case 2:
        text_add(out, "M%.1f %.1fl%.1f %.1fh%.1fz", x, y - 1.2 * radius, 1.2 * radius, 2.1 * radius,
                 -2.4 * radius);
        break;
    default:
        text_add(out, "M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz", x, y - 1.3 * radius,
                 1.3 * radius, 1.3 * radius, -1.3 * radius, 1.3 * radius, -1.3 * radius,
                 -1.3 * radius);
    }
    text_puts(out, "\"/>");
}

void legend_open(Text *out)
{
    text_puts(out, "<ul class=\"legend\">");
}

static void legend_label(Text *out, const char *label, const char *value)
{
    text_puts(out, "<span>");
    markup_text(out, label, LABEL_LIMIT);
    text_puts(out, "</span>");
    if (value != NULL && value[0] != '\0') {
        text_puts(out, " <b>");
        markup_text(out, value, LABEL_LIMIT);
        text_puts(out, "</b>");
    }
    text_puts(out, "</li>");
}

void legend_line(Text *out, const char *label, const char *value, int style, bool with_marker)
{
    text_puts(
        out,
        "<li><svg class=\"key\" viewBox=\"0 0 28 10\" aria-hidden=\"true\"><path d=\"M1 5h26\"");
    line_style(out, style);
    text_puts(out, "/>");
    if (with_marker) {
        marker(out, 14.0, 5.0, style, 3.2);
    }
    text_puts(out, "</svg>");
    legend_label(out, label, value);
}

void legend_box(Text *out, const char *label, const char *value, int style)
{
    text_add(
        out,
        "<li><svg class=\"key box\" viewBox=\"0 0 12 10\" aria-hidden=\"true\"><rect class=\"f%d\" "
        "width=\"12\" height=\"10\"/></svg>",
        style % COLOURS);
    legend_label(out, label, value);
}

void legend_close(Text *out)
{
    text_puts(out, "</ul>\n");
}
