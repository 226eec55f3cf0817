/* The words of a run's progress. A line of the bar is a row of pieces with ranks; pieces leave from the lowest rank up
 * until the rest fits, and the bar itself takes what room is left. */
#include "progress_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_CHARS = 160,
    MAX_PIECES = 8,
    GAP = 2,
    BAR_LEAST = 8,
    BAR_MOST = 30,
    PERCENT_DIGITS_WIDTH = 3
};

static const char *const phase_names[PROGRESS_PHASES] = {"data", "teacher", "student", "update"};

void progress_clock(double seconds, char out[16])
{
    static const double most = 9999.0 * 3600.0;
    const unsigned s =
        isfinite(seconds) && seconds > 0.0 ? (unsigned)lround(fmin(seconds, most)) : 0;
    if (s >= 3600) {
        (void)snprintf(out, 16, "%u:%02u:%02u", s / 3600, s / 60 % 60, s % 60);
    } else {
        (void)snprintf(out, 16, "%u:%02u", s / 60, s % 60);
    }
}

/* ---- Parts of both kinds of lines ---- */

/* "0.1 CE 2.902 + 0.9 KD 2.360"; nothing where the loss is one part of weight 1. */
static void terms_text(Text *out, const ProgressState *s)
{
    if (s->n_terms == 1 && s->terms[0].weight == 1.0) {
        return;
    }
    for (int i = 0; i < s->n_terms; i++) {
        const ProgressTerm *t = &s->terms[i];
        text_puts(out, i > 0 ? " + " : "");
        if (t->weight != 1.0) {
            text_add(out, "%g ", t->weight);
        }
        text_add(out, "%s %.3f", t->name, t->value);
    }
}

/* "data 1%  teacher 21%  student 74%  update 4%" without those that take no time at all. */
static void phases_text(Text *out, const ProgressState *s, const char *gap)
{
    for (int i = 0; i < PROGRESS_PHASES && s->phases[0] >= 0.0; i++) {
        if (i == SHARE_DATA || s->phases[i] > 0.0) {
            text_add(out, "%s%s %.0f%%", i > 0 ? gap : "", phase_names[i], 100.0 * s->phases[i]);
        }
    }
}

static int percent_of_epoch(const ProgressState *s)
{
    return (int)(100.0 * fmin(1.0, fmax(0.0, s->epoch_share)));
}

void progress_line_text(Text *out, const ProgressState *s)
{
    text_add(out, "epoch %d/%d  %d%%  step %ld/%ld  loss %.4f", s->epoch, s->epochs,
             percent_of_epoch(s), s->step, s->steps, s->loss);
    Text part = {0};
    terms_text(&part, s);
    if (part.size > 0) {
        text_add(out, " = %s", part.text);
    }
    text_add(out, "  top-1 %.2f %%", s->top1);
    text_add(out, "  lr %g  %.0f img/s", s->lr, s->images_per_s);
    part.size = 0;
    phases_text(&part, s, " ");
    if (part.size > 0) {
        text_add(out, "  %s", part.text);
    }
    text_free(&part);
    if (s->eta_s >= 0.0) {
        char clock[16];
        progress_clock(s->eta_s, clock);
        text_add(out, "  eta %s", clock);
    }
    if (s->nonfinite > 0) {
        text_add(out, "  skipped %ld", s->nonfinite);
    }
}

void progress_epoch_text(Text *out, const ProgressEpoch *e)
{
    char clock[16];
    progress_clock(e->seconds, clock);
    text_add(out, "epoch %d/%d  train loss %.4f  top-1 %.2f %%", e->epoch, e->epochs, e->train_loss,
             e->train_top1);
    if (e->evaluated) {
        text_add(out, "  test top-1 %.2f %%  top-5 %.2f %%%s", e->eval_top1, e->eval_top5,
                 e->best ? "  best" : "");
        if (e->teacher_top1 >= 0.0) {
            text_add(out, "  teacher %.2f %%", e->teacher_top1);
        }
    }
    text_add(out, "  %.0f img/s  %s", e->images_per_s, clock);
    if (e->eta_s > 0.0) {
        progress_clock(e->eta_s, clock);
        text_add(out, "  eta %s", clock);
    }
}

/* ---- The bar ---- */

/* A piece of a line. rank 0: not there. */
typedef struct {
    char text[PIECE_CHARS];
    int rank;
    int columns;
    int gap;  /* columns before it, unless it is the first */
    bool bar; /* drawn last, from 0 text; columns is then its width */
} Piece;

typedef struct {
    Piece pieces[MAX_PIECES];
    int count;
} Line;

static void put_piece(Line *line, int rank, const char *text)
{
    const size_t size = strlen(text);
    if (size == 0 || size >= PIECE_CHARS) {
        return;
    }
    Piece *piece = &line->pieces[line->count++];
    *piece = (Piece){.rank = rank, .columns = (int)size, .gap = GAP};
    memcpy(piece->text, text, size + 1);
}

static int line_columns(const Line *line)
{
    int columns = 0;
    for (int i = 0; i < line->count; i++) {
        const Piece *p = &line->pieces[i];
        columns += p->rank > 0 ? p->columns + (columns > 0 ? p->gap : 0) : 0;
    }
    return columns;
}

static void fit(Line *line, int room)
{
    while (line_columns(line) > room) {
        Piece *least = NULL;
        for (int i = 0; i < line->count; i++) {
            Piece *p = &line->pieces[i];
            if (p->rank > 0 && (!least || p->rank < least->rank)) {
                least = p;
            }
        }
        if (!least) {
            return;
        }
        least->rank = 0;
    }
    for (int i = 0; i < line->count; i++) {
        Piece *p = &line->pieces[i];
        if (p->bar && p->rank > 0) {
            const int wide = p->columns + room - line_columns(line);
            p->columns = wide < BAR_MOST ? wide : BAR_MOST;
        }
    }
}

static void draw_bar(Text *out, double share, int columns, const BarStyle *style)
{
    const int halves = (int)(2.0 * columns * fmin(1.0, fmax(0.0, share)));
    const char *const full = style->utf8 ? "\u2501" : "=";
    const char *const half = style->utf8 ? "\u2578" : ">";
    const char *const rest = style->utf8 ? "\u2500" : "-";
    text_puts(out, style->colour ? "\x1b[36m" : "");
    for (int i = 0; i < columns; i++) {
        if (i == halves / 2) {
            text_puts(out, style->colour && halves % 2 == 0 ? "\x1b[0;2m" : "");
        }
        text_puts(out, 2 * i + 1 < halves ? full : 2 * i < halves ? half : rest);
        if (i == halves / 2) {
            text_puts(out, style->colour && halves % 2 == 1 ? "\x1b[0;2m" : "");
        }
    }
    text_puts(out, style->colour ? "\x1b[0m" : "");
}

static void draw_line(Text *out, Line *line, const ProgressState *s, const BarStyle *style)
{
    fit(line, style->width - 1);
    bool first = true;
    for (int i = 0; i < line->count; i++) {
        const Piece *p = &line->pieces[i];
        if (p->rank == 0) {
            continue;
        }
        text_add(out, "%*s", first ? 0 : p->gap, "");
        first = false;
        if (p->bar) {
            draw_bar(out, s->epoch_share, p->columns, style);
        } else {
            text_puts(out, p->text);
        }
    }
    text_puts(out, "\x1b[K\n");
}

static int digits(int value)
{
    int count = 1;
    while (value >= 10) {
        value /= 10;
        count++;
    }
    return count;
}

static void first_line(Text *out, const ProgressState *s, const BarStyle *style)
{
    Line line = {.count = 0};
    char text[PIECE_CHARS];
    (void)snprintf(text, sizeof text, "epoch %*d/%d", digits(s->epochs), s->epoch, s->epochs);
    put_piece(&line, 9, text);
    line.pieces[line.count++] = (Piece){.rank = 3, .columns = BAR_LEAST, .gap = GAP, .bar = true};
    (void)snprintf(text, sizeof text, "%*d%%", PERCENT_DIGITS_WIDTH, percent_of_epoch(s));
    put_piece(&line, 8, text);
    (void)snprintf(text, sizeof text, "loss %.3f", s->loss);
    put_piece(&line, 7, text);
    Text terms = {0};
    terms_text(&terms, s);
    if (terms.size > 0) {
        (void)snprintf(text, sizeof text, "= %.*s", PIECE_CHARS - 3, terms.text);
        put_piece(&line, 4, text);
        line.pieces[line.count - 1].gap = 1; /* they continue the piece before */
    }
    text_free(&terms);
    (void)snprintf(text, sizeof text, "top-1 %.1f%%", s->top1);
    put_piece(&line, 5, text);
    if (s->teacher_top1 >= 0.0) {
        (void)snprintf(text, sizeof text, "teacher %.1f%%", s->teacher_top1);
        put_piece(&line, 2, text);
    }
    draw_line(out, &line, s, style);
}

static void second_line(Text *out, const ProgressState *s, const BarStyle *style)
{
    Line line = {.count = 0};
    char text[PIECE_CHARS];
    (void)snprintf(text, sizeof text, "%.0f img/s", s->images_per_s);
    put_piece(&line, 8, text);
    Text phases = {0};
    phases_text(&phases, s, "  ");
    put_piece(&line, 5, phases.size > 0 ? phases.text : "");
    text_free(&phases);
    (void)snprintf(text, sizeof text, "lr %.4g", s->lr);
    put_piece(&line, 3, text);
    if (s->eta_s >= 0.0) {
        char clock[16];
        progress_clock(s->eta_s, clock);
        (void)snprintf(text, sizeof text, "eta %s", clock);
        put_piece(&line, 9, text);
    }
    if (s->nonfinite > 0) {
        (void)snprintf(text, sizeof text, "skipped %ld", s->nonfinite);
        put_piece(&line, 7, text);
    }
    draw_line(out, &line, s, style);
}

void progress_bar_text(Text *out, const ProgressState *state, const BarStyle *style)
{
    first_line(out, state, style);
    second_line(out, state, style);
}

/* ---- JSON ---- */

/* `,"key":value`; null where it is negative, which means unknown. */
static void json_known(Text *out, const char *key, double value)
{
    text_json_number(out, key, value >= 0.0 ? value : NAN);
}

void progress_step_json(Text *out, const ProgressState *s)
{
    text_add(out, ",\"step\":%ld,\"steps\":%ld,\"epoch\":%d,\"epochs\":%d", s->step, s->steps,
             s->epoch, s->epochs);
    text_json_number(out, "epoch_share", s->epoch_share);
    text_json_number(out, "loss", s->loss);
    text_puts(out, ",\"terms\":[");
    for (int i = 0; i < s->n_terms; i++) {
        text_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
        text_json(out, s->terms[i].name);
        text_json_number(out, "weight", s->terms[i].weight);
        text_json_number(out, "value", s->terms[i].value);
        text_puts(out, "}");
    }
    text_puts(out, "]");
    json_known(out, "top1", s->top1);
    json_known(out, "teacher_top1", s->teacher_top1);
    json_known(out, "agreement", s->agreement);
    text_json_number(out, "images_per_s", s->images_per_s);
    text_json_number(out, "lr", s->lr);
    for (int i = 0; i < PROGRESS_PHASES; i++) {
        char key[24];
        (void)snprintf(key, sizeof key, "phase_%s", phase_names[i]);
        text_json_number(out, key, s->phases[0] >= 0.0 ? s->phases[i] : NAN);
    }
    json_known(out, "eta_s", s->eta_s);
    text_add(out, ",\"skipped\":%ld", s->nonfinite);
}

void progress_epoch_json(Text *out, const ProgressEpoch *e)
{
    text_add(out, ",\"step\":%ld,\"epoch\":%d,\"epochs\":%d", e->step, e->epoch, e->epochs);
    text_json_number(out, "train_loss", e->train_loss);
    text_json_number(out, "train_top1", e->train_top1);
    text_json_number(out, "eval_top1", e->evaluated ? e->eval_top1 : NAN);
    text_json_number(out, "eval_top5", e->evaluated ? e->eval_top5 : NAN);
    json_known(out, "teacher_top1", e->teacher_top1);
    text_json_number(out, "images_per_s", e->images_per_s);
    text_json_number(out, "seconds", e->seconds);
    json_known(out, "eta_s", e->eta_s);
    text_add(out, ",\"best\":%s", e->best ? "true" : "false");
}
