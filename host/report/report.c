/* Puts a report together: opens the runs, sums up their predictions, writes the page. */
#include "report/report.h"

#include "base/files.h"
#include "base/log.h"
#include "report/markup.h"
#include "report/page.h"
#include "train/rundir.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICTURE_BYTES = 600000,   /* of all runs, before base64 makes them a third larger */
    PICTURE_BYTES_MIN = 8000, /* fewer are not worth a section */
    POINTS = 400,
    POINTS_MIN = 60,
    FOOT_ROOM = 4000
};

/* ---- Runs ---- */

static void open_statistics(RunView *view)
{
    RunData *run = view->data;
    view->student =
        run->student_logits != NULL ? net_stats(run->student_logits, run->labels) : NULL;
    view->teacher =
        run->teacher_logits != NULL ? net_stats(run->teacher_logits, run->labels) : NULL;
}

static void close_views(RunView *views, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        net_stats_free(views[i].student);
        net_stats_free(views[i].teacher);
        run_data_free(views[i].data);
        free(views[i].label);
    }
    free(views);
}

static bool label_taken(const RunView *views, size_t count, size_t i, const char *label)
{
    for (size_t k = 0; k < count; k++) {
        if (k != i && strcmp(views[k].data->name, label) == 0) {
            return true;
        }
    }
    return false;
}

/* The name; with the seed where names repeat; the folder where that does not tell runs apart either. */
static void name_views(RunView *views, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const RunData *run = views[i].data;
        const bool taken = label_taken(views, count, i, run->name);
        views[i].label = taken && isfinite(run->seed)
                             ? xformat("%s, seed %.0f", run->name, run->seed)
                             : xstrdup(run->name);
    }
    bool *repeated = xcalloc(count, sizeof *repeated);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < count; k++) {
            repeated[i] = repeated[i] || (k != i && strcmp(views[k].label, views[i].label) == 0);
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (repeated[i]) {
            free(views[i].label);
            views[i].label = xstrdup(views[i].data->folder);
        }
    }
    free(repeated);
}

static Err *open_views(const char *const *runs, size_t n, RunView **out, size_t *count)
{
    RunView *views = xcalloc(n + 1, sizeof *views);
    Err *first = NULL;
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        Err *err = run_data_open(runs[i], RUN_DATA_ALL, &views[*count].data);
        if (err == NULL) {
            open_statistics(&views[(*count)++]);
        } else if (first == NULL) {
            first = err;
        } else {
            log_warn("%s", err->message);
            err_free(err);
        }
    }
    if (*count == 0) {
        free(views);
        return first != NULL ? first : err_new(EXIT_NO_INPUT, "no run was given");
    }
    if (first != NULL) {
        log_warn("%s", first->message);
        err_free(first);
    }
    name_views(views, *count);
    *out = views;
    return NULL;
}

/* ---- The page ---- */

static void put_footer(Text *out, const RunData *run)
{
    text_puts(out, "<footer>cudistill");
    if (run->version[0] != '\0') {
        text_puts(out, " ");
        markup_text(out, run->version, 40);
    }
    if (run->commit[0] != '\0') {
        text_puts(out, ", commit ");
        markup_text(out, run->commit, 40);
    }
    text_puts(out, "</footer>\n");
}

void page_run(Text *out, const RunView *view, const PageLimits *limits)
{
    page_curves(out, view, limits);
    page_pictures(out, view->data, limits->picture_bytes);
    page_teacher(out, view);
    page_predictions(out, view);
    page_settings(out, view->data);
}

static void write_single(Text *out, const RunView *view, const PageLimits *limits)
{
    page_open(out, view->data->name);
    text_puts(out, "<h1>");
    markup_text(out, view->data->name, 120);
    text_puts(out, "</h1>\n");
    page_heading(out, view->data);
    page_cards(out, view);
    page_notes(out, view);
    page_run(out, view, limits);
    put_footer(out, view->data);
    page_close(out);
}

/* Details of a run, folded; false when they would not fit. */
static bool add_details(Text *out, const RunView *view, const PageLimits *limits)
{
    Text part = {0};
    text_puts(&part, "<details><summary>");
    markup_text(&part, view->label, 160);
    text_puts(&part, "</summary>\n");
    page_heading(&part, view->data);
    page_cards(&part, view);
    page_notes(&part, view);
    page_run(&part, view, limits);
    text_puts(&part, "</details>\n");
    const bool fits = out->size + part.size + FOOT_ROOM < REPORT_BYTES_MAX;
    if (fits) {
        text_bytes(out, part.text, part.size);
    }
    text_free(&part);
    return fits;
}

static void write_several(Text *out, const RunView *views, size_t count, const PageLimits *limits)
{
    char *title = xformat("%zu runs compared", count);
    page_open(out, title);
    text_add(out, "<h1>%s</h1>\n", title);
    free(title);
    page_compare(out, views, count, limits);
    section_open(out, "Each run by itself");
    size_t left_out = 0;
    for (size_t i = 0; i < count; i++) {
        left_out += add_details(out, &views[i], limits) ? 0 : 1;
    }
    if (left_out > 0) {
        text_add(out,
                 "<p class=\"note\">Details of %zu runs are left out to keep this page below 2 MB: "
                 "<code>cudistill report FOLDER</code> shows one run whole.</p>\n",
                 left_out);
    }
    section_close(out);
    put_footer(out, views[0].data);
    page_close(out);
}

static PageLimits limits_for(size_t count)
{
    size_t pictures = (size_t)PICTURE_BYTES / count;
    size_t points = (size_t)POINTS * 3 / (count + 2);
    pictures = pictures < PICTURE_BYTES_MIN ? 0 : pictures;
    points = points < POINTS_MIN ? POINTS_MIN : points;
    return (PageLimits){.picture_bytes = pictures, .max_points = points};
}

/* A page that is too large all the same is drawn again, coarser. */
static void write_page(Text *out, const RunView *views, size_t count)
{
    CHECK(count > 0, "a page without runs");
    PageLimits limits = limits_for(count);
    for (int attempt = 0; attempt < 4; attempt++) {
        text_free(out);
        if (count == 1) {
            write_single(out, &views[0], &limits);
        } else {
            write_several(out, views, count, &limits);
        }
        if (out->size < REPORT_BYTES_MAX) {
            return;
        }
        limits.picture_bytes = attempt < 2 ? limits.picture_bytes / 4 : 0;
        limits.max_points = limits.max_points / 2 + 10;
    }
}

Err *report_write_to(const char *const *runs, size_t n, const char *out_path, char **written)
{
    RunView *views = NULL;
    size_t count = 0;
    TRY(open_views(runs, n, &views, &count));
    Text page = {0};
    write_page(&page, views, count);
    char *path = out_path != NULL ? xstrdup(out_path)
                 : count == 1     ? path_join(views[0].data->folder, RUN_REPORT)
                                  : xstrdup(RUN_REPORT);
    Err *err = file_write_atomic(path, page.text, page.size);
    if (err == NULL && written != NULL) {
        *written = path;
        path = NULL;
    }
    free(path);
    text_free(&page);
    close_views(views, count);
    return err;
}

Err *report_write(const char *const *runs, size_t n, const char *out_path)
{
    return report_write_to(runs, n, out_path, NULL);
}
