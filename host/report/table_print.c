/* Tables as aligned text, Markdown, CSV and JSON. */
#include "report/table.h"

#include "report/markup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 12, CELL_LIMIT = 160 };

typedef struct {
    char *cells[COLUMNS_MAX];
} Row;

typedef struct {
    const char *title;
    bool right;
} Column;

static const Column columns[] = {
    {"data", false},     {"student", false},  {"teacher", false},  {"method", false},
    {"n", true},         {"last top1", true}, {"best top1", true}, {"agreement", true},
    {"published", true}, {"time/run", true},  {"settings", false}, {"source and remarks", false}};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

/* ---- Cells ---- */

static char *plain_text(const char *text)
{
    Text out = {0};
    markup_plain(&out, text[0] != '\0' ? text : "–", CELL_LIMIT);
    for (char *at = out.text; *at != '\0'; at++) {
        *at = *at == '\n' ? ' ' : *at;
    }
    return out.text;
}

/* "76.05 ± 0.21", without ± for one run. */
static char *spread_text(Spread spread)
{
    Text out = {0};
    markup_number(&out, spread.mean, 2);
    if (spread.n > 1) {
        text_puts(&out, " ± ");
        markup_number(&out, spread.deviation, 2);
    }
    return out.text;
}

static char *time_text(Spread seconds)
{
    Text out = {0};
    markup_duration(&out, seconds.mean);
    return out.text;
}

static char *remark_cell(const TableGroup *group)
{
    char *both = xformat("%s%s%s", group->published ? group->figure.source : "",
                         group->published && group->remark[0] != '\0' ? "; " : "", group->remark);
    char *cell = plain_text(both);
    free(both);
    return cell;
}

static Row make_row(const TableGroup *group)
{
    const RunData *run = group->runs[0];
    return (Row){{plain_text(run->dataset), plain_text(run->student), plain_text(run->teacher),
                  plain_text(run->method),
                  xformat("%zu", group->finished > 0 ? group->finished : group->count),
                  spread_text(group->last), spread_text(group->best), spread_text(group->agreement),
                  group->published ? xformat("%.2f", group->figure.top1) : xstrdup("–"),
                  time_text(group->seconds), plain_text(group->settings), remark_cell(group)}};
}

static void free_row(Row *row)
{
    for (int c = 0; c < COLUMNS; c++) {
        free(row->cells[c]);
    }
}

/* ---- Text and Markdown ---- */

static void put_padded(Text *out, const char *text, int width, bool right)
{
    const int room = width - text_columns(text);
    for (int i = 0; right && i < room; i++) {
        text_puts(out, " ");
    }
    text_puts(out, text);
    for (int i = 0; !right && i < room; i++) {
        text_puts(out, " ");
    }
}

/* A column of nothing but dashes is not shown in text. */
static bool has_content(const Row *rows, size_t count, int column)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].cells[column], "–") != 0) {
            return true;
        }
    }
    return false;
}

static void cut_blanks(Text *out)
{
    while (out->size > 0 && out->text[out->size - 1] == ' ') {
        out->text[--out->size] = '\0';
    }
}

static void print_text(Text *out, const Row *rows, size_t count)
{
    int widths[COLUMNS];
    for (int c = 0; c < COLUMNS; c++) {
        widths[c] = text_columns(columns[c].title);
        for (size_t i = 0; i < count; i++) {
            const int width = text_columns(rows[i].cells[c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    for (size_t line = 0; line <= count; line++) {
        bool first = true;
        for (int c = 0; c < COLUMNS; c++) {
            if (has_content(rows, count, c)) {
                text_puts(out, first ? "" : "  ");
                put_padded(out, line == 0 ? columns[c].title : rows[line - 1].cells[c], widths[c],
                           columns[c].right);
                first = false;
            }
        }
        cut_blanks(out);
        text_puts(out, "\n");
    }
}

static void print_markdown(Text *out, const Row *rows, size_t count)
{
    for (int c = 0; c < COLUMNS; c++) {
        text_add(out, "| %s ", columns[c].title);
    }
    text_puts(out, "|\n");
    for (int c = 0; c < COLUMNS; c++) {
        text_puts(out, columns[c].right ? "|---:" : "|---");
    }
    text_puts(out, "|\n");
    for (size_t i = 0; i < count; i++) {
        for (int c = 0; c < COLUMNS; c++) {
            text_puts(out, "| ");
            for (const char *at = rows[i].cells[c]; *at != '\0'; at++) {
                text_puts(out, strchr("|\\<*`[", *at) != NULL ? "\\" : "");
                text_bytes(out, at, 1);
            }
            text_puts(out, " ");
        }
        text_puts(out, "|\n");
    }
}

/* ---- CSV and JSON: numbers, not cells ---- */

static void csv_text(Text *out, const char *text)
{
    Text plain = {0};
    markup_plain(&plain, text, CELL_LIMIT);
    text_puts(out, "\"");
    for (const char *at = plain.text; *at != '\0'; at++) {
        text_puts(out, *at == '"' ? "\"" : "");
        text_bytes(out, *at == '\n' ? " " : at, 1);
    }
    text_puts(out, "\"");
    text_free(&plain);
}

static void csv_number(Text *out, double value)
{
    text_puts(out, ",");
    if (isfinite(value)) {
        text_add(out, "%.10g", value);
    }
}

static void print_csv(Text *out, const Table *table)
{
    text_puts(
        out,
        "dataset,student,teacher,method,n,last_top1_mean,last_top1_sd,best_top1_mean,best_top1_sd,"
        "teacher_top1,agreement_mean,agreement_sd,published_top1,seconds_mean,settings,source,"
        "remarks\n");
    for (size_t i = 0; i < table->count; i++) {
        const TableGroup *group = &table->groups[i];
        const RunData *run = group->runs[0];
        const char *const names[] = {run->dataset, run->student, run->teacher, run->method};
        for (int k = 0; k < 4; k++) {
            text_puts(out, k > 0 ? "," : "");
            csv_text(out, names[k]);
        }
        const double numbers[] = {(double)(group->finished > 0 ? group->finished : group->count),
                                  group->last.mean,
                                  group->last.deviation,
                                  group->best.mean,
                                  group->best.deviation,
                                  group->teacher.mean,
                                  group->agreement.mean,
                                  group->agreement.deviation,
                                  group->published ? group->figure.top1 : NAN,
                                  group->seconds.mean};
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) {
            csv_number(out, numbers[k]);
        }
        const char *const words[] = {group->settings, group->published ? group->figure.source : "",
                                     group->remark};
        for (int k = 0; k < 3; k++) {
            text_puts(out, ",");
            csv_text(out, words[k]);
        }
        text_puts(out, "\n");
    }
}

static void json_text(Text *out, const char *key, const char *text)
{
    text_add(out, ",\"%s\":", key);
    text_json(out, text);
}

static void json_group(Text *out, const TableGroup *group)
{
    const RunData *run = group->runs[0];
    text_puts(out, "{\"dataset\":");
    text_json(out, run->dataset);
    json_text(out, "student", run->student);
    json_text(out, "teacher", run->teacher);
    json_text(out, "method", run->method);
    text_add(out, ",\"n\":%zu,\"finished\":%zu",
             group->finished > 0 ? group->finished : group->count, group->finished);
    text_json_number(out, "last_top1_mean", group->last.mean);
    text_json_number(out, "last_top1_sd", group->last.deviation);
    text_json_number(out, "best_top1_mean", group->best.mean);
    text_json_number(out, "best_top1_sd", group->best.deviation);
    text_json_number(out, "teacher_top1", group->teacher.mean);
    text_json_number(out, "agreement_mean", group->agreement.mean);
    text_json_number(out, "agreement_sd", group->agreement.deviation);
    text_json_number(out, "seconds_mean", group->seconds.mean);
    text_json_number(out, "published_top1", group->published ? group->figure.top1 : NAN);
    json_text(out, "source", group->published ? group->figure.source : "");
    json_text(out, "settings", group->settings);
    json_text(out, "remarks", group->remark);
    text_puts(out, ",\"runs\":[");
    for (size_t i = 0; i < group->count; i++) {
        text_puts(out, i > 0 ? ",{\"folder\":" : "{\"folder\":");
        text_json(out, group->runs[i]->folder);
        json_text(out, "status", group->runs[i]->status);
        text_json_number(out, "seed", group->runs[i]->seed);
        text_json_number(out, "last_top1", run_last_top1(group->runs[i]));
        text_puts(out, "}");
    }
    text_puts(out, "]}");
}

void table_print(const Table *table, TableForm form, Text *out)
{
    if (form == TABLE_JSON) {
        text_puts(out, "[");
        for (size_t i = 0; i < table->count; i++) {
            text_puts(out, i > 0 ? ",\n " : "");
            json_group(out, &table->groups[i]);
        }
        text_puts(out, "]\n");
        return;
    }
    if (form == TABLE_CSV) {
        print_csv(out, table);
        return;
    }
    Row *rows = xcalloc(table->count, sizeof *rows);
    for (size_t i = 0; i < table->count; i++) {
        rows[i] = make_row(&table->groups[i]);
    }
    if (form == TABLE_MARKDOWN) {
        print_markdown(out, rows, table->count);
    } else {
        print_text(out, rows, table->count);
    }
    for (size_t i = 0; i < table->count; i++) {
        free_row(&rows[i]);
    }
    free(rows);
}
