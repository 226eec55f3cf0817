/* Curves over the epochs of one run, or of several overlaid; over steps where no epoch has ended yet. */
#include "report/curves.h"

#include "report/markup.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_ROOM = 40, FEW_EPOCHS = 8 };
enum { SIGNIFICANT = -1 /* in place of decimals: three significant digits */ };

/* ---- Columns of the records ---- */

static double field_of(const RunPoint *point, size_t offset)
{
    double value;
    memcpy(&value, (const char *)point + offset, sizeof value);
    return value;
}

/* Steps of an epoch, from the last epoch's line; NaN when unknown. */
static double steps_per_epoch(const RunData *run)
{
    if (run->epochs_seen.count == 0) {
        return NAN;
    }
    const RunPoint *last = &run->epochs_seen.points[run->epochs_seen.count - 1];
    return last->step > 0.0 ? last->step / (double)last->epoch : NAN;
}

bool curve_by_step(const RunData *run)
{
    return run->epochs_seen.count == 0;
}

Curve curve_of(const RunData *run, size_t offset, bool fine)
{
    const double per_epoch = steps_per_epoch(run);
    const bool by_step = curve_by_step(run);
    const bool steps =
        by_step || (fine && isfinite(per_epoch) && run->steps_seen.count > run->epochs_seen.count);
    const RunPoints *points = steps ? &run->steps_seen : &run->epochs_seen;
    Curve curve = {.x = xmalloc((points->count + 1) * sizeof(double)),
                   .y = xmalloc((points->count + 1) * sizeof(double)),
                   .last = NAN};
    for (size_t i = 0; i < points->count; i++) {
        const RunPoint *point = &points->points[i];
        const double x = !steps    ? (double)point->epoch
                         : by_step ? point->step
                                   : point->step / per_epoch;
        if (!isfinite(x)) {
            continue;
        }
        const double y = field_of(point, offset);
        curve.x[curve.count] = x;
        curve.y[curve.count++] = y;
        curve.last = isfinite(y) ? y : curve.last;
    }
    return curve;
}

void curve_free(Curve *curve)
{
    free(curve->x);
    free(curve->y);
}

/* ---- Charts of one run ---- */

static const char *x_title(const RunData *run)
{
    return curve_by_step(run) ? "step" : "epoch";
}

typedef struct {
    const char *label;
    size_t offset;
    int style;
    int decimals;
    const char *unit;
    bool fine; /* every progress line, not every epoch */
} Wanted;

enum { WANTED_MAX = 16 };

static void number_text(char *text, double value, int decimals, const char *unit)
{
    Text number = {0};
    if (decimals < 0 && isfinite(value)) {
        text_add(&number, "%.3g", value);
    } else if (decimals == 0) {
        markup_count(&number, value);
    } else {
        markup_number(&number, value, decimals);
    }
    (void)snprintf(text, TEXT_ROOM, "%s%s", number.text, unit);
    text_free(&number);
}

/* One chart of several columns of a run. */
static bool draw(Text *out, const RunData *run, LineChart chart, const Wanted *wanted, size_t count)
{
    Curve curves[WANTED_MAX];
    ChartLine lines[WANTED_MAX];
    char values[WANTED_MAX][TEXT_ROOM];
    for (size_t i = 0; i < count; i++) {
        curves[i] = curve_of(run, wanted[i].offset, wanted[i].fine);
        number_text(values[i], curves[i].last, wanted[i].decimals, wanted[i].unit);
        lines[i] = (ChartLine){.label = wanted[i].label,
                               .value = values[i],
                               .x = curves[i].x,
                               .y = curves[i].y,
                               .count = curves[i].count,
                               .style = wanted[i].style};
    }
    chart.lines = lines;
    chart.line_count = count;
    const bool drawn = chart_lines(out, &chart);
    for (size_t i = 0; i < count; i++) {
        curve_free(&curves[i]);
    }
    return drawn;
}

static bool has_terms(const RunData *run, int term)
{
    for (size_t i = 0; i < run->epochs_seen.count; i++) {
        if (isfinite(run->epochs_seen.points[i].terms[term])) {
            return true;
        }
    }
    for (size_t i = 0; i < run->steps_seen.count && curve_by_step(run); i++) {
        if (isfinite(run->steps_seen.points[i].terms[term])) {
            return true;
        }
    }
    return false;
}

/* Means of so few epochs would hide the course. */
static bool few_epochs(const RunData *run)
{
    return run->epochs_seen.count < FEW_EPOCHS;
}

static void loss_chart(Text *out, const RunView *view, const PageLimits *limits)
{
    static const char *const names[RUN_TERMS] = {"distillation, term 1",
                                                 "term 2",
                                                 "term 3",
                                                 "term 4",
                                                 "term 5",
                                                 "term 6",
                                                 "term 7",
                                                 "term 8"};
    const RunData *run = view->data;
    const bool fine = few_epochs(run);
    Wanted wanted[WANTED_MAX] = {{"loss", offsetof(RunPoint, loss), 0, 3, "", fine}};
    size_t count = 1;
    if (has_terms(run, 0)) {
        wanted[count++] = (Wanted){"cross entropy", offsetof(RunPoint, ce), 1, 3, "", fine};
    }
    for (int k = 0; k < RUN_TERMS; k++) {
        if (has_terms(run, k)) {
            const char *name = k == 0 && !has_terms(run, 1) ? "distillation" : names[k];
            wanted[count++] = (Wanted){
                name, offsetof(RunPoint, terms) + (size_t)k * sizeof(double), 2 + k, 3, "", fine};
        }
    }
    draw(out, run,
         (LineChart){.head = {.title = "Training loss and its weighted terms",
                              .unit = "mean per image",
                              .x_title = x_title(run)},
                     .from_zero = true,
                     .max_points = limits->max_points},
         wanted, count);
}

static void accuracy_chart(Text *out, const RunView *view, const PageLimits *limits)
{
    const RunData *run = view->data;
    const Wanted wanted[] = {
        {"student, test", offsetof(RunPoint, eval_top1), 0, 2, " %", false},
        {"student, training", offsetof(RunPoint, top1), 2, 2, " %", few_epochs(run)},
        {"teacher, training", offsetof(RunPoint, teacher_top1), 4, 2, " %", few_epochs(run)}};
    char value[TEXT_ROOM];
    number_text(value, run_teacher_top1(run), 2, " %");
    const ChartRule rule = {"teacher, test", value, run_teacher_top1(run), 1};
    const bool taught = run->teacher[0] != '\0' || isfinite(run_teacher_top1(run));
    draw(out, run,
         (LineChart){.head = {.title = "Accuracy",
                              .unit = "top-1, %",
                              .note = "Training accuracy is of the augmented images, while the "
                                      "weights still move.",
                              .x_title = x_title(run)},
                     .rules = &rule,
                     .rule_count = 1,
                     .max_points = limits->max_points},
         wanted, taught ? 3 : 2);
}

static void rate_charts(Text *out, const RunView *view, const PageLimits *limits)
{
    const RunData *run = view->data;
    const char *kind = run_setting(run, "schedule.kind");
    const Wanted rate = {"learning rate", offsetof(RunPoint, lr), 0, SIGNIFICANT, "", true};
    draw(out, run,
         (LineChart){.head = {.title = "Learning rate", .x_title = x_title(run)},
                     .log_y = kind != NULL && strcmp(kind, "multistep") == 0,
                     .from_zero = true,
                     .max_points = limits->max_points},
         &rate, 1);
    const Wanted loss = {"test images", offsetof(RunPoint, eval_loss), 0, 3, "", false};
    draw(out, run,
         (LineChart){.head = {.title = "Test cross entropy",
                              .unit = "mean per image",
                              .x_title = x_title(run)},
                     .max_points = limits->max_points},
         &loss, 1);
    const Wanted speed = {"images per second", offsetof(RunPoint, images_per_s), 0, 0, "", true};
    draw(out, run,
         (LineChart){
             .head = {.title = "Throughput", .unit = "images per second", .x_title = x_title(run)},
             .from_zero = true,
             .max_points = limits->max_points},
         &speed, 1);
}

/* ---- Phases ---- */

static bool knows_phase(const RunPoints *points, RunPhase phase)
{
    for (size_t i = 0; i < points->count; i++) {
        if (isfinite(points->points[i].phases[phase])) {
            return true;
        }
    }
    return false;
}

static double share_at(const RunPoint *point, int layer, bool split)
{
    if (split && !isfinite(point->phases[PHASE_STUDENT])) {
        return (double)NAN; /* the data's share alone is known: no column */
    }
    if (split || layer == 0) {
        return point->phases[layer];
    }
    return 1.0 - point->phases[PHASE_DATA];
}

static void phase_chart(Text *out, const RunView *view)
{
    static const char *const four[] = {"waiting for data", "teacher", "student", "update"};
    static const char *const two[] = {"waiting for data", "computing"};
    const RunData *run = view->data;
    const bool by_step = !knows_phase(&run->epochs_seen, PHASE_DATA);
    const RunPoints *points = by_step ? &run->steps_seen : &run->epochs_seen;
    const bool split = knows_phase(points, PHASE_STUDENT);
    const int layers = split ? (int)PHASE_COUNT : 2;
    double *x = xmalloc((points->count + 1) * sizeof *x);
    double *values[PHASE_COUNT];
    double sums[PHASE_COUNT] = {0};
    double whole = 0.0;
    for (int k = 0; k < layers; k++) {
        values[k] = xmalloc((points->count + 1) * sizeof *values[k]);
        for (size_t i = 0; i < points->count; i++) {
            const RunPoint *point = &points->points[i];
            x[i] = by_step ? (double)i + 1.0 : (double)point->epoch;
            values[k][i] = share_at(point, k, split);
            sums[k] += isfinite(values[k][i]) ? values[k][i] : 0.0;
        }
        whole += sums[k];
    }
    char texts[PHASE_COUNT][TEXT_ROOM];
    const char *value_texts[PHASE_COUNT];
    for (int k = 0; k < layers; k++) {
        number_text(texts[k], 100.0 * sums[k] / whole, 1, " %");
        value_texts[k] = texts[k];
    }
    chart_stack(out, &(StackChart){.head = {.title = "Where the time goes",
                                            .unit = "% of the training time",
                                            .x_title = by_step ? "progress line" : "epoch"},
                                   .x = x,
                                   .count = points->count,
                                   .labels = split ? four : two,
                                   .values_text = value_texts,
                                   .layers = (const double *const *)values,
                                   .layer_count = layers});
    for (int k = 0; k < layers; k++) {
        free(values[k]);
    }
    free(x);
}

void page_curves(Text *out, const RunView *view, const PageLimits *limits)
{
    if (view->data->epochs_seen.count == 0 && view->data->steps_seen.count == 0) {
        return;
    }
    section_open(out, "Training");
    text_puts(out, "<div class=\"grid2\">\n");
    accuracy_chart(out, view, limits);
    loss_chart(out, view, limits);
    rate_charts(out, view, limits);
    phase_chart(out, view);
    text_puts(out, "</div>\n");
    section_close(out);
}
