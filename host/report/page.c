/* The frame of the report: head with all style, sections, headings, cards, notes, settings. No script, nothing loaded
 * from elsewhere. Colours: Okabe and Ito's palette, which colour-blind readers can tell apart, darker on white and
 * lighter on black where contrast asks for it; paper always gets the light ones. */
#include "report/page.h"

#include "report/markup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LIMIT = 120, VALUE_LIMIT = 300, NOTE_LIMIT = 2000 };

/* ---- Style ---- */

#define DARK                                                                                       \
    "--bg:#14181c;--fg:#e6eaed;--dim:#a3aeb8;--line:#2c343b;--axis:#78838d;--card:#1c2228;"        \
    "--mark:#3a2a16;--c0:#56b4e9;--c1:#ff8f52;--c2:#2fd0a0;--c3:#e79ec6;--c4:#f0b73a;"             \
    "--c5:#b9a3f0;--c6:#9fd36b;--c7:#b4bcc3;--good:#2fd0a0;--bad:#ff8f52;"

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1b2228;--dim:#56616b;--line:#e1e6ea;"
    "--axis:#8c97a1;--card:#f5f7f9;--mark:#fdf1e0;--c0:#0072b2;--c1:#d55e00;--c2:#008a65;"
    "--c3:#b8578f;--c4:#a87400;--c5:#6a51b0;--c6:#4c7a1c;--c7:#5f6a73;--good:#008a65;--bad:#c04f00}"
    "@media screen and (prefers-color-scheme:dark){:root{" DARK "}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,-apple-system,"
    "'Segoe UI',Roboto,'Noto Sans',sans-serif;-webkit-text-size-adjust:100%}"
    "main{max-width:1180px;margin:0 auto;padding:24px 20px 48px}"
    "h1{font-size:26px;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}"
    "h2{font-size:19px;margin:34px 0 12px;padding-top:14px;border-top:1px solid var(--line)}"
    "h3{font-size:15px;margin:18px 0 6px}"
    "p{margin:4px 0}.dim,.unit,.note{color:var(--dim)}.note{font-size:13px;max-width:75ch}"
    ".formula{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;overflow-wrap:"
    "anywhere}"
    ".status{display:inline-block;padding:1px 10px;border-radius:10px;border:1px solid "
    "currentColor;"
    "font-size:13px;white-space:nowrap}.good{color:var(--good)}.bad{color:var(--bad)}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(190px,45%),1fr));gap:"
    "10px;margin:18px 0}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px;"
    "break-inside:avoid}.card dt{color:var(--dim);font-size:13px}"
    ".card dd{margin:0;font-size:22px;line-height:1.3;font-variant-numeric:tabular-nums}"
    ".card dd small{font-size:13px}.card p{font-size:12.5px;color:var(--dim);margin:0}"
    ".notes{border-left:4px solid var(--bad);background:var(--mark);padding:8px 14px;margin:14px 0;"
    "border-radius:0 6px 6px 0;overflow-wrap:anywhere}.notes ul{margin:2px 0;padding-left:18px}"
    ".grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:0 "
    "30px;"
    "align-items:start}"
    "figure{margin:0 0 22px;min-width:0;break-inside:avoid}figcaption{margin-bottom:2px}"
    ".grid2>figure{display:grid;grid-row:span "
    "4;grid-template-rows:subgrid;grid-template-columns:minmax(0,1fr)}"
    ".grid2>div{grid-row:span 4;min-width:0}.grid2.loose>figure{display:block}"
    ".grid2>figure>figcaption{grid-row:1}.grid2>figure>.legend{grid-row:2}.grid2>figure>svg{grid-"
    "row:3}"
    ".grid2>figure>.note{grid-row:4}"
    "figure svg{display:block;width:100%;height:auto;max-width:620px}"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:2px 0 6px;padding:0;"
    "font-size:13px;min-height:19px;align-content:flex-start}.legend "
    "li{display:flex;align-items:center;gap:6px;min-width:0}"
    ".legend b{font-variant-numeric:tabular-nums}"
    "figure svg.key{width:28px;height:10px;flex:none}figure svg.key.box{width:12px}"
    "svg text{font:11.5px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;"
    "fill:var(--dim);font-variant-numeric:tabular-nums}svg .strong{fill:var(--fg)}"
    ".te{text-anchor:end}.tm{text-anchor:middle}"
    ".axis{stroke:var(--axis);fill:none}.grid{stroke:var(--line);fill:none}"
    ".diagonal{stroke:var(--axis);fill:none;stroke-dasharray:3 3}"
    ".line{fill:none;stroke-width:1.9;stroke-linejoin:round}.dot{stroke:var(--bg);stroke-width:.8}"
    ".s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}"
    ".s4{stroke:var(--c4)}.s5{stroke:var(--c5)}.s6{stroke:var(--c6)}.s7{stroke:var(--c7)}"
    ".f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}"
    ".f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}"
    ".gain{fill:var(--c0)}.loss{fill:var(--c1)}"
    ".stack{shape-rendering:crispEdges}.scroll{overflow-x:auto;margin-bottom:18px}"
    "table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;font-weight:600;font-size:15px;margin-bottom:4px}"
    "th,td{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid "
    "var(--line);vertical-align:top}"
    "th{font-weight:600;color:var(--dim)}td.n,th.n{text-align:right}td.n,td.nowrap{white-space:"
    "nowrap}tbody "
    "th{color:var(--fg)}"
    "td.wide{overflow-wrap:anywhere;min-width:12ch}tr.best td{font-weight:600}"
    "td "
    ".bar{display:inline-block;height:9px;background:var(--c0);border-radius:2px;margin-right:6px}"
    ".matrix td{padding:9px 14px;border:1px solid var(--bg);text-align:center;font-size:14px}"
    ".matrix th{border:0;padding:6px 12px 6px 0;vertical-align:middle}.matrix "
    "b{display:block;font-size:18px}"
    ".pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:12px}"
    ".picture{border:1px solid "
    "var(--line);border-radius:6px;padding:6px;font-size:12px;line-height:1.35;"
    "break-inside:avoid;min-width:0}.picture img{display:block;width:100%;aspect-ratio:1;"
    "image-rendering:pixelated;border-radius:3px;margin-bottom:5px}"
    ".picture b{display:block;overflow-wrap:anywhere;font-size:13px}.picture ol{margin:2px 0 "
    "0;padding:0;"
    "list-style:none;color:var(--dim)}.picture "
    "li{display:flex;justify-content:space-between;gap:6px}"
    ".picture li span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}"
    ".picture li{white-space:nowrap}.picture li.hit{color:var(--fg);font-weight:600}"
    ".picture.differs{border:2px dashed var(--bad);padding:5px}.picture "
    "em{color:var(--bad);font-style:normal}"
    ".settings{columns:2 420px;column-gap:30px}.settings "
    "table{width:100%;break-inside:avoid;margin-bottom:12px;"
    "table-layout:fixed}.settings td{overflow-wrap:anywhere;padding-right:8px}.settings "
    "tr.default{color:var(--dim)}"
    ".settings tr.set td:nth-child(2){font-weight:600}"
    "details{border:1px solid var(--line);border-radius:8px;padding:6px 14px;margin:12px 0}"
    "summary{cursor:pointer;font-weight:600;padding:4px 0;overflow-wrap:anywhere}"
    "footer{margin-top:40px;color:var(--dim);font-size:12.5px;border-top:1px solid "
    "var(--line);padding-top:8px}"
    "@media print{main{max-width:none;padding:0}body{font-size:11pt}"
    ".grid2{grid-template-columns:1fr "
    "1fr}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    "details::details-content{content-visibility:visible;block-size:auto}}";

void page_style(Text *out)
{
    text_puts(out, "<style>");
    text_puts(out, style);
    text_puts(out, "</style>\n");
}

void page_open(Text *out, const char *title)
{
    text_puts(out,
              "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
              "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    markup_text(out, title, NAME_LIMIT);
    text_puts(out, "</title>\n");
    page_style(out);
    text_puts(out, "</head><body><main>\n");
}

void page_close(Text *out)
{
    text_puts(out, "</main></body></html>\n");
}

void section_open(Text *out, const char *title)
{
    text_puts(out, "<section><h2>");
    markup_text(out, title, NAME_LIMIT);
    text_puts(out, "</h2>\n");
}

void section_close(Text *out)
{
    text_puts(out, "</section>\n");
}

/* ---- Heading ---- */

void page_status(Text *out, const RunData *run)
{
    const char *status = run->status;
    const bool good = strcmp(status, "finished") == 0;
    text_add(out, "<span class=\"status %s\">", good ? "good" : "bad");
    if (status[0] == '\0') {
        text_puts(out, "status unknown");
    } else if (strcmp(status, "running") == 0) {
        text_puts(out, "running or killed");
    } else {
        markup_text(out, status, 24);
    }
    if (!good && isfinite(run->exit_code) && run->exit_code != 0.0) {
        text_add(out, ", code %.0f", run->exit_code);
    }
    text_puts(out, "</span>");
}

static void put(Text *out, const char *before, const char *text, const char *after)
{
    if (text[0] != '\0') {
        text_puts(out, before);
        markup_text(out, text, NAME_LIMIT);
        text_puts(out, after);
    }
}

/* One fact of a line, with a dot between it and the one before. */
static void put_fact(Text *out, bool *first, const char *before, const char *text)
{
    if (text[0] != '\0') {
        text_add(out, "%s%s", *first ? "" : " · ", before);
        markup_text(out, text, NAME_LIMIT);
        *first = false;
    }
}

static void put_number_fact(Text *out, bool *first, const char *before, double value)
{
    if (isfinite(value)) {
        char *text = xformat("%.0f", value);
        put_fact(out, first, before, text);
        free(text);
    }
}

static void page_facts(Text *out, const RunData *run)
{
    bool first = true;
    text_puts(out, "<p class=\"dim\">");
    put_number_fact(out, &first, "seed ", run->seed);
    put_number_fact(out, &first, "batch ", run->batch);
    put_fact(out, &first, "", run->device);
    put_fact(out, &first, "", run->precision);
    if (isfinite(run->started)) {
        Text when = {0};
        markup_time(&when, run->started);
        put_fact(out, &first, "started ", when.text);
        text_free(&when);
    }
    put_fact(out, &first, "project ", run->project);
    put_fact(out, &first, "", run->tags);
    text_puts(out, "</p>\n");
}

void page_heading(Text *out, const RunData *run)
{
    text_puts(out, "<p>");
    if (run->student[0] != '\0') {
        put(out, "Student <b>", run->student, "</b>");
        if (isfinite(run->student_parameters)) {
            text_puts(out, " <span class=\"dim\">(");
            markup_count(out, run->student_parameters);
            text_puts(out, " parameters)</span>");
        }
        put(out, ", teacher <b>", run->teacher, "</b>");
        put(out, ", method <b>", run->method, "</b>");
    }
    put(out, " on <b>", run->dataset, "</b>");
    if (isfinite(run->train_count)) {
        text_puts(out, " <span class=\"dim\">(");
        markup_count(out, run->train_count);
        text_puts(out, " training images");
        if (isfinite(run->classes)) {
            text_puts(out, ", ");
            markup_count(out, run->classes);
            text_puts(out, " classes");
        }
        text_puts(out, ")</span>");
    }
    text_puts(out, "</p>\n");
    if (run->formula[0] != '\0') {
        text_puts(out, "<p class=\"formula\">");
        markup_text(out, run->formula, VALUE_LIMIT);
        text_puts(out, "</p>\n");
    }
    page_facts(out, run);
    if (run->comment[0] != '\0') {
        text_puts(out, "<p>");
        markup_text(out, run->comment, NOTE_LIMIT);
        text_puts(out, "</p>\n");
    }
}

/* ---- Cards ---- */

static void card_open(Text *out, const char *name)
{
    text_add(out, "<div class=\"card\"><dt>%s</dt><dd>", name);
}

static void card_close(Text *out, const char *below)
{
    text_puts(out, "</dd>");
    if (below[0] != '\0') {
        text_puts(out, "<p>");
        markup_text(out, below, NAME_LIMIT);
        text_puts(out, "</p>");
    }
    text_puts(out, "</div>\n");
}

static void percent_card(Text *out, const char *name, double value, const char *below)
{
    card_open(out, name);
    markup_number(out, value, 2);
    text_puts(out, isfinite(value) ? " <small>%</small>" : "");
    card_close(out, below);
}

static void accuracy_cards(Text *out, const RunData *run)
{
    Text below = {0};
    text_puts(&below, "");
    if (isfinite(run->last_top5)) {
        text_add(&below, "top-5 %.2f %%", run->last_top5);
    }
    percent_card(out, "Student, last epoch", run_last_top1(run), below.text);
    double epoch;
    const double best = run_best_top1(run, &epoch);
    below.size = 0;
    text_puts(&below, "");
    if (isfinite(epoch)) {
        text_add(&below, "epoch %.0f", epoch);
        if (isfinite(run->epochs)) {
            text_add(&below, " of %.0f", run->epochs);
        }
    }
    percent_card(out, "Student, best epoch", best, isfinite(epoch) ? below.text : "");
    if (isfinite(run_teacher_top1(run))) {
        below.size = 0;
        text_add(&below, "top-5 %.2f %%", run->known_teacher_top5);
        percent_card(out, "Teacher", run_teacher_top1(run),
                     isfinite(run->known_teacher_top5) ? below.text : "");
        card_open(out, "Student less teacher");
        const double gap = run_last_top1(run) - run_teacher_top1(run);
        text_puts(out, gap > 0.0 ? "+" : "");
        markup_number(out, gap, 2);
        text_puts(out, isfinite(gap) ? " <small>points</small>" : "");
        card_close(out, "last epoch");
    }
    text_free(&below);
}

static void network_cards(Text *out, const RunView *view)
{
    const RunData *run = view->data;
    double agreement = run->agreement;
    if (view->student != NULL && view->teacher != NULL) {
        size_t same = 0;
        for (size_t i = 0; i < view->student->rows; i++) {
            same += view->student->prediction[i] >= 0 &&
                            view->student->prediction[i] == view->teacher->prediction[i]
                        ? 1
                        : 0;
        }
        agreement = 100.0 * (double)same / (double)view->student->rows;
    }
    if (isfinite(agreement)) {
        percent_card(out, "Agreement with the teacher", agreement, "same class on test images");
    }
    if (view->student != NULL) {
        Text below = {0};
        text_puts(&below, "");
        if (view->teacher != NULL) {
            text_add(&below, "teacher %.2f %%", 100.0 * view->teacher->ece);
        }
        percent_card(out, "Calibration error (ECE)", 100.0 * view->student->ece, below.text);
        text_free(&below);
    }
}

void page_cards(Text *out, const RunView *view)
{
    const RunData *run = view->data;
    text_puts(out, "<dl class=\"cards\">\n");
    accuracy_cards(out, run);
    network_cards(out, view);
    Text below = {0};
    text_puts(&below, "");
    if (isfinite(run->epochs_done)) {
        text_add(&below, "%.0f", run->epochs_done);
        if (isfinite(run->epochs)) {
            text_add(&below, " of %.0f", run->epochs);
        }
        text_puts(&below, " epochs");
    }
    card_open(out, "Training time");
    markup_duration(out, run->train_seconds);
    card_close(out, below.text);
    card_open(out, "Throughput");
    double speed = run->images_per_s;
    for (size_t i = run->steps_seen.count; i-- > 0 && !isfinite(speed);) {
        speed = run->steps_seen.points[i].images_per_s;
    }
    markup_count(out, speed);
    text_puts(out, isfinite(speed) ? " <small>img/s</small>" : "");
    card_close(out, "");
    below.size = 0;
    text_puts(&below, "last written ");
    markup_time(&below, run->updated);
    card_open(out, "Status");
    page_status(out, run);
    card_close(out, isfinite(run->updated) ? below.text : "");
    text_free(&below);
    text_puts(out, "</dl>\n");
}

/* ---- Notes: resumes, failures, what could not be read ---- */

static void note_open(Text *out)
{
    text_puts(out, "<li>");
}

static void add_note(Text *out, const char *text)
{
    note_open(out);
    markup_text(out, text, NOTE_LIMIT);
    text_puts(out, "</li>\n");
}

static void note_history(Text *out, const RunData *run)
{
    if (run->error[0] != '\0') {
        add_note(out, run->error);
    }
    for (size_t i = 0; i < run->errors.count; i++) {
        if (strstr(run->errors.list[i], run->error) == NULL || run->error[0] == '\0') {
            add_note(out, run->errors.list[i]);
        }
    }
    for (size_t i = 0; i < run->resume_count && i < 20; i++) {
        note_open(out);
        text_puts(out, "resumed ");
        markup_time(out, run->resumes[i].time);
        if (isfinite(run->resumes[i].step)) {
            text_puts(out, " at step ");
            markup_count(out, run->resumes[i].step);
        }
        if (run->resumes[i].host[0] != '\0') {
            text_puts(out, " on ");
            markup_text(out, run->resumes[i].host, 64);
        }
        text_puts(out, "</li>\n");
    }
    const double skipped = isfinite(run->nonfinite_steps) ? run->nonfinite_steps : 0.0;
    if (skipped > 0.0 || run->nonfinite_events > 0) {
        note_open(out);
        markup_count(out, fmax(skipped, (double)run->nonfinite_events));
        text_puts(out, " updates were skipped because a number was not finite</li>\n");
    }
}

static void note_predictions(Text *out, const RunView *view)
{
    const NetStats *student = view->student;
    if (student != NULL && student->nonfinite > 0) {
        note_open(out);
        markup_count(out, (double)student->nonfinite);
        text_puts(out,
                  " test images have no prediction: the student's logits are not finite</li>\n");
    }
    const double known = run_last_top1(view->data);
    /* Rounding logits to fp16 may turn a tie or two. */
    if (student != NULL && isfinite(known) && fabs(known - student->top1) > 0.1) {
        note_open(out);
        text_add(out,
                 "the stored predictions give %.2f %%, the last epoch %.2f %%: they are of another "
                 "epoch</li>\n",
                 student->top1, known);
    }
}

void page_notes(Text *out, const RunView *view)
{
    Text list = {0};
    note_history(&list, view->data);
    note_predictions(&list, view);
    for (size_t i = 0; i < view->data->notes.count; i++) {
        add_note(&list, view->data->notes.list[i]);
    }
    if (list.size > 0) {
        text_add(out, "<div class=\"notes\"><ul>\n%s</ul></div>\n", list.text);
    }
    text_free(&list);
}

/* ---- Settings and environment ---- */

static void settings_row(Text *out, const RunSetting *setting, const char *name, bool with_origin)
{
    const bool given = with_origin && strcmp(setting->origin, "default") != 0;
    text_puts(out, !with_origin ? "<tr><td>"
                   : given      ? "<tr class=\"set\"><td>"
                                : "<tr class=\"default\"><td>");
    markup_text(out, name, NAME_LIMIT);
    text_puts(out, "</td><td>");
    markup_text(out, setting->value, VALUE_LIMIT);
    if (with_origin) {
        const char *slash = strrchr(setting->origin, '/');
        text_puts(out, "</td><td title=\"");
        markup_text(out, setting->origin, VALUE_LIMIT);
        text_puts(out, "\">");
        markup_text(out, slash != NULL ? slash + 1 : setting->origin, NAME_LIMIT);
    }
    text_puts(out, "</td></tr>\n");
}

/* A small table for each section: rows whose keys have the same text before the dot. */
static void settings_tables(Text *out, const RunSettings *settings, bool with_origin)
{
    const char *section = NULL;
    size_t length = 0;
    text_puts(out, "<div class=\"settings\">\n");
    for (size_t i = 0; i < settings->count; i++) {
        const char *key = settings->list[i].key;
        const char *dot = strchr(key, '.');
        const size_t size = dot != NULL ? (size_t)(dot - key) : 0;
        if (section == NULL || size != length || strncmp(section, key, size) != 0) {
            text_puts(out, section != NULL ? "</tbody></table>\n" : "");
            char *title = xformat("%.*s", (int)size, key);
            text_puts(out, "<table><thead><tr><th>");
            markup_text(out, title, NAME_LIMIT);
            text_puts(out, with_origin ? "</th><th></th><th>from</th>" : "</th><th></th>");
            text_puts(out, "</tr></thead><tbody>\n");
            free(title);
        }
        section = key;
        length = size;
        settings_row(out, &settings->list[i], dot != NULL ? dot + 1 : key, with_origin);
    }
    text_puts(out, section != NULL ? "</tbody></table>\n" : "");
    text_puts(out, "</div>\n");
}

void page_settings(Text *out, const RunData *run)
{
    if (run->settings.count > 0) {
        bool origins = false;
        for (size_t i = 0; i < run->settings.count; i++) {
            origins = origins || run->settings.list[i].origin[0] != '\0';
        }
        section_open(out, "Configuration");
        settings_tables(out, &run->settings, origins);
        section_close(out);
    }
    if (run->environment.count > 0) {
        section_open(out, "Environment");
        settings_tables(out, &run->environment, false);
        section_close(out);
    }
}
