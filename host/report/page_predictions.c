/* What the stored predictions show: agreement, reliability, entropy, classes, confusions, hard images; and the teacher's
 * energy and temperatures on the training set. */
#include "report/page.h"

#include "report/markup.h"
#include "report/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_ROOM = 40,
    NAME_LIMIT = 40,
    TEXT_ROOM = 48,
    GAIN_ALL = 30,
    GAIN_ENDS = 15,
    PAIRS = 20,
    HARDEST = 20,
    SERIES_MAX = 24
};

/* ---- The teacher on the training set ---- */

static double sum_of(const double *values, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += isfinite(values[i]) ? values[i] : 0.0;
    }
    return sum;
}

static void temperature_chart(Text *out, const RunHistogram *histogram)
{
    char(*texts)[NAME_ROOM] = xcalloc(histogram->count, sizeof *texts);
    const char **names = xcalloc(histogram->count, sizeof *names);
    for (size_t i = 0; i < histogram->count; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "%g", histogram->values[i]);
        names[i] = texts[i];
    }
    chart_columns(out,
                  &(ChartHead){.title = "Temperature per image",
                               .unit = histogram->of,
                               .x_title = "temperature T"},
                  names, histogram->counts, histogram->count);
    free(names);
    free(texts);
}

void page_teacher(Text *out, const RunView *view)
{
    const RunData *run = view->data;
    const RunHistogram *energy = &run->energy;
    const RunHistogram *temperature = &run->temperature;
    if (energy->count == 0 && temperature->count == 0) {
        return;
    }
    section_open(out, "Teacher's energy and temperatures");
    text_puts(out, "<div class=\"grid2\">\n");
    if (energy->edges != NULL) {
        Text images = {0};
        markup_count(&images, sum_of(energy->counts, energy->count));
        text_puts(&images, " images");
        const ChartCounts series = {energy->of, images.text, energy->counts, 0};
        chart_histogram(out,
                        &(ChartHead){.title = "Energy of the teacher's logits",
                                     .unit = "images",
                                     .note = "E = −T log Σ exp(t/T). Low: the teacher is certain; "
                                             "high: it hesitates.",
                                     .x_title = "energy"},
                        energy->edges, energy->count, &series, 1);
        text_free(&images);
    }
    if (temperature->values != NULL) {
        temperature_chart(out, temperature);
    } else if (temperature->edges != NULL) {
        const ChartCounts series = {temperature->of, NULL, temperature->counts, 0};
        chart_histogram(out,
                        &(ChartHead){.title = "Temperature per image",
                                     .unit = "images",
                                     .x_title = "temperature T"},
                        temperature->edges, temperature->count, &series, 1);
    }
    text_puts(out, "</div>\n");
    section_close(out);
}

/* ---- Agreement ---- */

static void cell(Text *out, size_t count, size_t whole, const char *name, double strength)
{
    text_add(out, "<td style=\"background:color-mix(in srgb,var(--c0) %.0f%%,var(--card))\"><b>",
             strength);
    markup_number(out, 100.0 * (double)count / (double)whole, 1);
    text_add(out, " %%</b>%s<br><span class=\"dim\">", name);
    markup_count(out, (double)count);
    text_puts(out, "</span></td>");
}

static void agreement_table(Text *out, const RunView *view)
{
    const Agreement who = net_agreement(view->student, view->teacher, view->data->labels);
    const size_t whole = view->student->rows;
    const size_t wrong = who.wrong_same + who.wrong_different;
    const double scale = 45.0 / (double)whole;
    text_puts(
        out,
        "<figure><figcaption><b>Who is right</b> <span class=\"unit\">test "
        "images</span></figcaption>"
        "<div class=\"scroll\"><table class=\"matrix\"><thead><tr><th></th><th>teacher right</th>"
        "<th>teacher wrong</th></tr></thead><tbody><tr><th>student right</th>");
    cell(out, who.both_right, whole, "both", scale * (double)who.both_right);
    cell(out, who.only_student, whole, "only the student", scale * (double)who.only_student);
    text_puts(out, "</tr><tr><th>student wrong</th>");
    cell(out, who.only_teacher, whole, "only the teacher", scale * (double)who.only_teacher);
    cell(out, wrong, whole, "neither", scale * (double)wrong);
    text_puts(out, "</tr></tbody></table></div><p class=\"note\">Where neither is right, they name "
                   "the same wrong class in ");
    markup_number(out, 100.0 * (double)who.wrong_same / (double)whole, 1);
    text_puts(out, " % of the images and different ones in ");
    markup_number(out, 100.0 * (double)who.wrong_different / (double)whole, 1);
    text_puts(out, " %; together they agree on ");
    markup_number(out, 100.0 * (double)(who.both_right + who.wrong_same) / (double)whole, 1);
    text_puts(out, " %.</p></figure>\n");
}

/* ---- Reliability and entropy ---- */

typedef struct {
    double shares[ECE_BINS];
    char value[TEXT_ROOM];
} ReliabilityText;

static ChartReliability reliability_of(const NetStats *stats, const char *label, int style,
                                       ReliabilityText *text)
{
    for (int b = 0; b < ECE_BINS; b++) {
        text->shares[b] = (double)stats->bin_count[b] / (double)stats->rows;
    }
    (void)snprintf(text->value, sizeof text->value, "ECE %.2f %%", 100.0 * stats->ece);
    return (ChartReliability){.label = label,
                              .value = text->value,
                              .confidence = stats->bin_confidence,
                              .accuracy = stats->bin_accuracy,
                              .shares = text->shares,
                              .style = style};
}

void page_reliability(Text *out, const RunView *views, size_t count)
{
    ChartReliability series[SERIES_MAX + 1];
    ReliabilityText *texts = xcalloc(SERIES_MAX + 1, sizeof *texts);
    size_t drawn = 0;
    for (size_t i = 0; i < count && drawn < SERIES_MAX; i++) {
        if (views[i].student != NULL) {
            series[drawn] = reliability_of(views[i].student, count > 1 ? views[i].label : "student",
                                           (int)i, &texts[drawn]);
            drawn++;
        }
    }
    if (count == 1 && views[0].teacher != NULL) {
        series[drawn] = reliability_of(views[0].teacher, "teacher", 1, &texts[drawn]);
        drawn++;
    }
    chart_reliability(
        out,
        &(ChartHead){.title = "Reliability",
                     .unit = "accuracy against confidence",
                     .note =
                         "15 bins of equal width. Below the diagonal: surer than "
                         "right. The strip, and the size of a point, tell the share of images in "
                         "the bin.",
                     .x_title = "confidence, max softmax"},
        ECE_BINS, series, drawn);
    free(texts);
}

static void entropy_chart(Text *out, const RunView *view)
{
    double edges[ENTROPY_BINS + 1];
    double counts[2][ENTROPY_BINS];
    char values[2][TEXT_ROOM];
    const NetStats *nets[2] = {view->student, view->teacher};
    static const char *const names[2] = {"student", "teacher"};
    ChartCounts series[2];
    size_t drawn = 0;
    const NetStats *first = view->student != NULL ? view->student : view->teacher;
    for (int i = 0; i <= ENTROPY_BINS; i++) {
        edges[i] = log((double)first->classes) * i / ENTROPY_BINS;
    }
    for (int n = 0; n < 2; n++) {
        if (nets[n] == NULL) {
            continue;
        }
        for (int i = 0; i < ENTROPY_BINS; i++) {
            counts[n][i] = (double)nets[n]->entropy_count[i];
        }
        (void)snprintf(values[n], sizeof values[n], "mean %.3f", nets[n]->mean_entropy);
        series[drawn++] = (ChartCounts){names[n], values[n], counts[n], n};
    }
    chart_histogram(
        out,
        &(ChartHead){.title = "Entropy of the prediction",
                     .unit = "test images",
                     .note = "0: all on one class; at the right end: all classes alike.",
                     .x_title = "entropy, nats"},
        edges, ENTROPY_BINS, series, drawn);
}

/* ---- Gain per class ---- */

typedef struct {
    double gain, from, to;
    int label;
} ClassGain;

static int by_gain(const void *a, const void *b)
{
    const ClassGain *p = a;
    const ClassGain *q = b;
    if (p->gain != q->gain) {
        return p->gain > q->gain ? -1 : 1;
    }
    return (p->label > q->label) - (p->label < q->label);
}

static void gain_chart(Text *out, const RunData *run, const char *title, const ClassGain *gains,
                       size_t count)
{
    ChartBar bars[GAIN_ALL] = {0};
    char names[GAIN_ALL][NAME_ROOM];
    char *tips[GAIN_ALL];
    for (size_t i = 0; i < count; i++) {
        const char *name = run_class_name(run, gains[i].label, names[i], sizeof names[i]);
        tips[i] = xformat("%s: %.1f %% to %.1f %%", name, gains[i].from, gains[i].to);
        bars[i] = (ChartBar){.name = name, .value = gains[i].gain, .tip = tips[i]};
    }
    chart_bars(out, &(ChartHead){.title = title, .unit = "points of class accuracy"}, bars, count);
    for (size_t i = 0; i < count; i++) {
        free(tips[i]);
    }
}

void page_gain(Text *out, const RunData *run, const NetStats *stats, const NetStats *other,
               const char *better, const char *worse)
{
    ClassGain *gains = xcalloc((size_t)stats->classes, sizeof *gains);
    size_t count = 0;
    size_t up = 0;
    size_t down = 0;
    for (int k = 0; k < stats->classes; k++) {
        const double to = net_class_accuracy(stats, k);
        const double from = net_class_accuracy(other, k);
        if (isfinite(to) && isfinite(from)) {
            gains[count++] = (ClassGain){to - from, from, to, k};
            up += to > from ? 1 : 0;
            down += to < from ? 1 : 0;
        }
    }
    qsort(gains, count, sizeof *gains, by_gain);
    text_add(out, "<p class=\"note\">Classes ahead: %zu, behind: %zu, equal: %zu.</p>\n", up, down,
             count - up - down);
    if (up + down == 0) {
        free(gains);
        return;
    }
    text_puts(out, "<div class=\"grid2\">\n");
    if (count <= GAIN_ALL) {
        const size_t half = (count + 1) / 2;
        gain_chart(out, run, better, gains, half);
        gain_chart(out, run, worse, gains + half, count - half);
    } else {
        gain_chart(out, run, better, gains, GAIN_ENDS);
        gain_chart(out, run, worse, gains + count - GAIN_ENDS, GAIN_ENDS);
    }
    text_puts(out, "</div>\n");
    free(gains);
}

/* ---- Confusions and hard images ---- */

static void put_name(Text *out, const RunData *run, int label)
{
    char buffer[NAME_ROOM];
    markup_text(out, label >= 0 ? run_class_name(run, label, buffer, sizeof buffer) : "none",
                NAME_LIMIT);
}

static void confusion_table(Text *out, const RunView *view)
{
    const RunData *run = view->data;
    Confusion pairs[PAIRS];
    const size_t count = net_confusions(view->student, run->labels, pairs, PAIRS);
    if (count == 0) {
        return;
    }
    const double most = (double)(pairs[0].a_as_b + pairs[0].b_as_a);
    text_add(
        out,
        "<div class=\"scroll\"><table><caption>The %zu most confused pairs</caption><thead><tr>"
        "<th>class A</th><th>class B</th><th class=\"n\">A taken for B</th>"
        "<th class=\"n\">B for A</th><th>together</th>%s</tr></thead><tbody>\n",
        count, view->teacher != NULL ? "<th class=\"n\">teacher</th>" : "");
    for (size_t i = 0; i < count; i++) {
        const double together = (double)(pairs[i].a_as_b + pairs[i].b_as_a);
        text_puts(out, "<tr><td>");
        put_name(out, run, pairs[i].a);
        text_puts(out, "</td><td>");
        put_name(out, run, pairs[i].b);
        text_add(out,
                 "</td><td class=\"n\">%zu</td><td class=\"n\">%zu</td><td class=\"nowrap\">"
                 "<span class=\"bar\" style=\"width:%.0fpx\"></span>%.0f</td>",
                 pairs[i].a_as_b, pairs[i].b_as_a, 70.0 * together / most, together);
        if (view->teacher != NULL) {
            const Confusion same =
                net_confusion_of(view->teacher, run->labels, pairs[i].a, pairs[i].b);
            text_add(out, "<td class=\"n\">%zu</td>", same.a_as_b + same.b_as_a);
        }
        text_puts(out, "</tr>\n");
    }
    text_puts(out, "</tbody></table></div>\n");
}

static void hardest_table(Text *out, const RunView *view)
{
    const RunData *run = view->data;
    size_t rows[HARDEST];
    const size_t count = net_hardest(view->student, rows, HARDEST);
    if (count == 0) {
        return;
    }
    text_add(
        out,
        "<div class=\"scroll\"><table><caption>The %zu hardest test images</caption><thead><tr>"
        "<th class=\"n\">image</th><th class=\"n\">loss</th><th>label</th><th>student says</th>"
        "<th class=\"n\">sure</th>%s</tr></thead><tbody>\n",
        count, view->teacher != NULL ? "<th>teacher says</th>" : "");
    for (size_t i = 0; i < count; i++) {
        const size_t row = rows[i];
        text_add(out, "<tr><td class=\"n\">%zu</td><td class=\"n\">", row);
        markup_number(out, (double)view->student->nll[row], 2);
        text_puts(out, "</td><td>");
        put_name(out, run, run->labels[row]);
        text_puts(out, "</td><td>");
        put_name(out, run, view->student->prediction[row]);
        text_add(out, "</td><td class=\"n\">%.0f %%</td>",
                 100.0 * (double)view->student->confidence[row]);
        if (view->teacher != NULL) {
            text_puts(out, "<td>");
            put_name(out, run, view->teacher->prediction[row]);
            text_puts(out,
                      view->teacher->prediction[row] == run->labels[row] ? " ✓</td>" : "</td>");
        }
        text_puts(out, "</tr>\n");
    }
    text_puts(out, "</tbody></table></div>\n");
}

void page_predictions(Text *out, const RunView *view)
{
    if (view->student == NULL && view->teacher == NULL) {
        return;
    }
    const bool both = view->student != NULL && view->teacher != NULL;
    section_open(out, both ? "Student and teacher on the test set" : "Predictions on the test set");
    text_puts(out, "<div class=\"grid2 loose\">\n");
    page_reliability(out, view, 1);
    text_puts(out, "<div>\n");
    if (both) {
        agreement_table(out, view);
    }
    entropy_chart(out, view);
    text_puts(out, "</div></div>\n");
    section_close(out);
    if (both) {
        section_open(out, "Accuracy per class, student less teacher");
        page_gain(out, view->data, view->student, view->teacher, "Student ahead, or least behind",
                  "Student behind, or least ahead");
        section_close(out);
    }
    if (view->student != NULL) {
        section_open(out, "The student's mistakes");
        text_puts(out, "<div class=\"grid2\">\n");
        confusion_table(out, view);
        hardest_table(out, view);
        text_puts(out, "</div>\n");
        section_close(out);
    }
}
