/* Several runs side by side: results, the settings in which they differ, curves overlaid, reliability, classes. */
#include "report/curves.h"
#include "report/page.h"

#include "report/markup.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIGNIFICANT = -1 /* in place of decimals: three significant digits */ };
enum { LABEL_LIMIT = 60, VALUE_LIMIT = 80, LINES_MAX = 40, TEXT_ROOM = 40, DIFFERENCES_MAX = 60 };

/* ---- Results ---- */

static void number_cell(Text *out, double value, int decimals)
{
    text_puts(out, "<td class=\"n\">");
    markup_number(out, value, decimals);
    text_puts(out, "</td>");
}

static double measured_agreement(const RunView *view)
{
    if (view->student == NULL || view->teacher == NULL) {
        return view->data->agreement;
    }
    const Agreement who = net_agreement(view->student, view->teacher, view->data->labels);
    return 100.0 * (double)(who.both_right + who.wrong_same) / (double)view->student->rows;
}

static void result_row(Text *out, const RunView *view, bool best)
{
    const RunData *run = view->data;
    double epoch;
    text_puts(out, best ? "<tr class=\"best\"><td class=\"wide\">" : "<tr><td class=\"wide\">");
    markup_text(out, view->label, LABEL_LIMIT);
    text_puts(out, "</td><td>");
    markup_text(out, run->student, 30);
    text_puts(out, "</td><td>");
    markup_text(out, run->teacher[0] != '\0' ? run->teacher : "–", 30);
    text_puts(out, "</td><td>");
    markup_text(out, run->method, 24);
    text_add(out,
             isfinite(run->seed) ? "</td><td class=\"n\">%.0f</td>" : "</td><td class=\"n\">–</td>",
             run->seed);
    number_cell(out, run_last_top1(run), 2);
    number_cell(out, run_best_top1(run, &epoch), 2);
    number_cell(out, run_last_top1(run) - run_teacher_top1(run), 2);
    number_cell(out, measured_agreement(view), 2);
    number_cell(out, view->student != NULL ? 100.0 * view->student->ece : NAN, 2);
    text_puts(out, "<td class=\"n\">");
    markup_duration(out, run->train_seconds);
    text_puts(out, "</td><td class=\"n\">");
    markup_count(out, run->images_per_s);
    text_puts(out, "</td><td>");
    page_status(out, run);
    text_puts(out, "</td></tr>\n");
}

static void result_table(Text *out, const RunView *views, size_t count)
{
    double best = NAN;
    for (size_t i = 0; i < count; i++) {
        const double last = run_last_top1(views[i].data);
        best = best >= last || !isfinite(last) ? best : last;
    }
    section_open(out, "Results");
    text_puts(
        out,
        "<div class=\"scroll\"><table><thead><tr><th>run</th><th>student</th><th>teacher</th>"
        "<th>method</th><th class=\"n\">seed</th><th class=\"n\">last top-1, %</th>"
        "<th class=\"n\">best, %</th><th class=\"n\">less teacher</th>"
        "<th class=\"n\">agreement, %</th><th class=\"n\">ECE, %</th>"
        "<th class=\"n\">time</th><th class=\"n\">img/s</th><th>status</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < count; i++) {
        result_row(out, &views[i], run_last_top1(views[i].data) == best);
    }
    text_puts(out, "</tbody></table></div>\n<p class=\"note\">Highest last top-1 in bold.</p>\n");
    section_close(out);
}

/* ---- Settings that differ ---- */

static const char *value_of(const RunView *view, const char *key)
{
    const char *value = run_setting(view->data, key);
    return value != NULL ? value : "–";
}

static bool differs(const RunView *views, size_t count, const char *key)
{
    for (size_t i = 1; i < count; i++) {
        if (strcmp(value_of(&views[0], key), value_of(&views[i], key)) != 0) {
            return true;
        }
    }
    return false;
}

/* Is `key` among the settings of a run before `view`? */
static bool seen_before(const RunView *views, size_t view, const char *key)
{
    for (size_t i = 0; i < view; i++) {
        if (run_setting(views[i].data, key) != NULL) {
            return true;
        }
    }
    return false;
}

static void difference_row(Text *out, const RunView *views, size_t count, const char *key)
{
    text_puts(out, "<tr><th>");
    markup_text(out, key, LABEL_LIMIT);
    text_puts(out, "</th>");
    for (size_t i = 0; i < count; i++) {
        text_puts(out, "<td class=\"wide\">");
        const char *value = value_of(&views[i], key);
        markup_text(out, value[0] != '\0' ? value : "–", VALUE_LIMIT);
        text_puts(out, "</td>");
    }
    text_puts(out, "</tr>\n");
}

static void difference_table(Text *out, const RunView *views, size_t count)
{
    Text rows = {0};
    size_t shown = 0;
    for (size_t i = 0; i < count; i++) {
        const RunSettings *settings = &views[i].data->settings;
        for (size_t k = 0; k < settings->count && shown < DIFFERENCES_MAX; k++) {
            const char *key = settings->list[k].key;
            if (!seen_before(views, i, key) && differs(views, count, key)) {
                difference_row(&rows, views, count, key);
                shown++;
            }
        }
    }
    section_open(out, "Settings that differ");
    if (shown == 0) {
        text_puts(out, "<p class=\"note\">None: the runs were asked for the same.</p>\n");
    } else {
        text_puts(out, "<div class=\"scroll\"><table><thead><tr><th></th>");
        for (size_t i = 0; i < count; i++) {
            text_puts(out, "<th>");
            markup_text(out, views[i].label, LABEL_LIMIT);
            text_puts(out, "</th>");
        }
        text_add(out, "</tr></thead><tbody>\n%s</tbody></table></div>\n", rows.text);
    }
    section_close(out);
    text_free(&rows);
}

/* ---- Curves overlaid ---- */

static void overlay(Text *out, const RunView *views, size_t count, LineChart chart, size_t offset,
                    bool fine, int decimals, const char *unit)
{
    Curve curves[LINES_MAX];
    ChartLine lines[LINES_MAX];
    char values[LINES_MAX][TEXT_ROOM];
    size_t drawn = 0;
    for (size_t i = 0; i < count && drawn < LINES_MAX; i++) {
        if (curve_by_step(views[i].data)) {
            continue; /* another x axis */
        }
        curves[drawn] = curve_of(views[i].data, offset, fine);
        Text last = {0};
        if (decimals < 0) {
            text_add(&last, "%.3g", curves[drawn].last);
        } else if (decimals > 0) {
            markup_number(&last, curves[drawn].last, decimals);
        } else {
            markup_count(&last, curves[drawn].last);
        }
        (void)snprintf(values[drawn], TEXT_ROOM, "%s%s", last.text, unit);
        text_free(&last);
        lines[drawn] = (ChartLine){.label = views[i].label,
                                   .value = values[drawn],
                                   .x = curves[drawn].x,
                                   .y = curves[drawn].y,
                                   .count = curves[drawn].count,
                                   .style = (int)i};
        drawn++;
    }
    chart.lines = lines;
    chart.line_count = drawn;
    chart_lines(out, &chart);
    for (size_t i = 0; i < drawn; i++) {
        curve_free(&curves[i]);
    }
}

/* The teachers' accuracies as lines: one for each teacher. */
static size_t teacher_rules(const RunView *views, size_t count, ChartRule *rules,
                            char (*texts)[2][TEXT_ROOM], size_t limit)
{
    size_t found = 0;
    for (size_t i = 0; i < count && found < limit; i++) {
        const double top1 = run_teacher_top1(views[i].data);
        bool known = !isfinite(top1);
        for (size_t k = 0; k < found && !known; k++) {
            known = fabs(rules[k].y - top1) < 0.005;
        }
        if (!known) {
            (void)snprintf(texts[found][0], TEXT_ROOM, "teacher %.20s", views[i].data->teacher);
            (void)snprintf(texts[found][1], TEXT_ROOM, "%.2f %%", top1);
            rules[found] = (ChartRule){texts[found][0], texts[found][1], top1, 7 + 8 * (int)found};
            found++;
        }
    }
    return found;
}

static void overlaid_curves(Text *out, const RunView *views, size_t count, const PageLimits *limits)
{
    ChartRule rules[3];
    char texts[3][2][TEXT_ROOM];
    const size_t rule_count = teacher_rules(views, count, rules, texts, 3);
    const size_t points = limits->max_points;
    const char *kind = run_setting(views[0].data, "schedule.kind");
    section_open(out, "Training");
    text_puts(out, "<div class=\"grid2\">\n");
    overlay(out, views, count,
            (LineChart){.head = {.title = "Test accuracy", .unit = "top-1, %", .x_title = "epoch"},
                        .rules = rules,
                        .rule_count = rule_count,
                        .max_points = points},
            offsetof(RunPoint, eval_top1), false, 2, " %");
    overlay(
        out, views, count,
        (LineChart){.head = {.title = "Training accuracy", .unit = "top-1, %", .x_title = "epoch"},
                    .max_points = points},
        offsetof(RunPoint, top1), false, 2, " %");
    overlay(out, views, count,
            (LineChart){.head = {.title = "Training loss",
                                 .unit = "mean per image",
                                 .note = "Losses of different methods are not comparable.",
                                 .x_title = "epoch"},
                        .from_zero = true,
                        .max_points = points},
            offsetof(RunPoint, loss), false, 3, "");
    overlay(
        out, views, count,
        (LineChart){
            .head = {.title = "Test cross entropy", .unit = "mean per image", .x_title = "epoch"},
            .max_points = points},
        offsetof(RunPoint, eval_loss), false, 3, "");
    overlay(out, views, count,
            (LineChart){.head = {.title = "Learning rate", .x_title = "epoch"},
                        .log_y = kind != NULL && strcmp(kind, "multistep") == 0,
                        .from_zero = true,
                        .max_points = points},
            offsetof(RunPoint, lr), false, SIGNIFICANT, "");
    overlay(out, views, count,
            (LineChart){
                .head = {.title = "Throughput", .unit = "images per second", .x_title = "epoch"},
                .from_zero = true,
                .max_points = points},
            offsetof(RunPoint, images_per_s), false, 0, "");
    text_puts(out, "</div>\n");
    section_close(out);
}

/* ---- Predictions ---- */

static bool same_test_set(const RunData *a, const RunData *b)
{
    return a->rows == b->rows && a->columns == b->columns &&
           memcmp(a->labels, b->labels, a->rows * sizeof *a->labels) == 0;
}

static void gain_section(Text *out, const RunView *views, size_t count)
{
    if (views[0].student == NULL) {
        return;
    }
    for (size_t i = 1; i < count; i++) {
        if (views[i].student == NULL || !same_test_set(views[0].data, views[i].data)) {
            continue;
        }
        Text title = {0};
        text_add(&title, "Accuracy per class, %s less %s", views[0].label, views[i].label);
        section_open(out, title.text);
        text_free(&title);
        page_gain(out, views[0].data, views[0].student, views[i].student,
                  "First run ahead, or least behind", "First run behind, or least ahead");
        section_close(out);
        return;
    }
}

void page_compare(Text *out, const RunView *views, size_t count, const PageLimits *limits)
{
    Text notes = {0};
    for (size_t i = 0; i < count; i++) {
        if (views[i].data->notes.count > 0) {
            text_puts(&notes, "<li><b>");
            markup_text(&notes, views[i].label, LABEL_LIMIT);
            text_add(&notes, "</b>: %zu %s could not be read; see its details</li>\n",
                     views[i].data->notes.count,
                     views[i].data->notes.count == 1 ? "part" : "parts");
        }
    }
    if (notes.size > 0) {
        text_add(out, "<div class=\"notes\"><ul>\n%s</ul></div>\n", notes.text);
    }
    text_free(&notes);
    result_table(out, views, count);
    difference_table(out, views, count);
    overlaid_curves(out, views, count, limits);
    bool predictions = false;
    for (size_t i = 0; i < count; i++) {
        predictions = predictions || views[i].student != NULL;
    }
    if (predictions) {
        section_open(out, "Calibration of the students");
        text_puts(out, "<div class=\"grid2\">\n");
        page_reliability(out, views, count);
        text_puts(out, "</div>\n");
        section_close(out);
    }
    gain_section(out, views, count);
}
