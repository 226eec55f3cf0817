/* The grid of training pictures with labels and the teacher's opinion: wrong normalisation, wrong label order and too
 * strong augmentation show at a glance. Every picture is encoded by itself, so that it has a text for readers who do
 * not see it, and so that paper and narrow windows can arrange them anew. */
#include "report/page.h"
#include "report/pictures.h"

#include "io/png.h"
#include "report/markup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = 40, NAME_LIMIT = 40 };

uint8_t *picture_cut(const uint8_t *sheet, int sheet_width, int left, int top, int side, int scale,
                     int *out_side)
{
    const int block = (side + PICTURE_SIDE_MAX - 1) / PICTURE_SIDE_MAX;
    const int size = side / block;
    uint8_t *out = xmalloc((size_t)size * (size_t)size * 3);
    for (int y = 0; y < size; y++) {
        for (int x = 0; x < size; x++) {
            for (int c = 0; c < 3; c++) {
                unsigned sum = 0;
                for (int i = 0; i < block * block; i++) {
                    const int row = top + (y * block + i / block) * scale;
                    const int column = left + (x * block + i % block) * scale;
                    const size_t at = (size_t)row * (size_t)sheet_width + (size_t)column;
                    sum += sheet[at * 3 + (size_t)c];
                }
                const unsigned area = (unsigned)(block * block);
                out[(y * size + x) * 3 + c] = (uint8_t)((sum + area / 2) / area);
            }
        }
    }
    *out_side = size;
    return out;
}

static Err *encode(const RunData *run, size_t i, uint8_t **png, size_t *size)
{
    const int cell = run->picture_side * run->picture_scale + run->picture_gap;
    const int column = (int)i % run->picture_columns;
    const int row = (int)i / run->picture_columns;
    int side;
    uint8_t *rgb = picture_cut(run->sheet, run->sheet_width, column * cell, row * cell,
                               run->picture_side, run->picture_scale, &side);
    Err *err = png_encode(rgb, side, side, png, size);
    free(rgb);
    return err;
}

static void put_name(Text *out, const RunData *run, int label)
{
    char buffer[NAME_ROOM];
    markup_text(out, label >= 0 ? run_class_name(run, label, buffer, sizeof buffer) : "–",
                NAME_LIMIT);
}

static bool teacher_differs(const RunPicture *picture)
{
    return picture->top_count > 0 && picture->top_class[0] != picture->label;
}

static void put_caption(Text *out, const RunData *run, const RunPicture *picture)
{
    text_puts(out, "<b>");
    put_name(out, run, picture->label);
    text_puts(out, "</b>");
    if (teacher_differs(picture)) {
        text_puts(out, "<em>≠ teacher</em>");
    }
    if (picture->top_count > 0) {
        text_puts(out, "<ol>");
        for (int k = 0; k < picture->top_count; k++) {
            text_puts(out, picture->top_class[k] == picture->label ? "<li class=\"hit\"><span>"
                                                                   : "<li><span>");
            put_name(out, run, picture->top_class[k]);
            text_puts(out, "</span> ");
            markup_number(out, 100.0 * picture->top_p[k], picture->top_p[k] < 0.095 ? 1 : 0);
            text_puts(out, " %</li>");
        }
        text_puts(out, "</ol>");
    }
    if (isfinite(picture->energy)) {
        text_puts(out, "<span class=\"dim\">E ");
        markup_number(out, picture->energy, 1);
        if (isfinite(picture->temperature)) {
            text_add(out, ", T %g", picture->temperature);
        }
        text_puts(out, "</span>");
    }
}

static bool put_picture(Text *out, const RunData *run, size_t i, size_t *bytes)
{
    uint8_t *png = NULL;
    size_t size = 0;
    Err *err = encode(run, i, &png, &size);
    if (err != NULL) {
        err_free(err);
        return false;
    }
    const RunPicture *picture = &run->pictures[i];
    char buffer[NAME_ROOM];
    text_add(out, "<div class=\"picture%s\">", teacher_differs(picture) ? " differs" : "");
    markup_png(out, png, size,
               picture->label >= 0 ? run_class_name(run, picture->label, buffer, sizeof buffer)
                                   : "");
    put_caption(out, run, picture);
    text_puts(out, "</div>\n");
    free(png);
    *bytes += size;
    return true;
}

void page_pictures(Text *out, const RunData *run, size_t byte_limit)
{
    if (run->picture_count == 0 || byte_limit == 0) {
        return;
    }
    size_t differing = 0;
    size_t judged = 0;
    for (size_t i = 0; i < run->picture_count; i++) {
        differing += teacher_differs(&run->pictures[i]) ? 1 : 0;
        judged += run->pictures[i].top_count > 0 ? 1 : 0;
    }
    section_open(out, "Augmented training pictures");
    text_puts(out, "<p class=\"note\">As the networks see them in epoch 1");
    if (judged > 0) {
        text_add(
            out,
            ", with the label and the teacher's three most probable classes; on %zu of %zu the "
            "teacher differs from the label. A teacher that differs on most of them has the wrong "
            "normalisation or another order of classes",
            differing, judged);
    }
    text_puts(out, ".</p>\n<div class=\"pictures\">\n");
    size_t bytes = 0;
    size_t shown = 0;
    while (shown < run->picture_count && bytes < byte_limit &&
           put_picture(out, run, shown, &bytes)) {
        shown++;
    }
    text_puts(out, "</div>\n");
    if (shown < run->picture_count) {
        text_add(
            out,
            "<p class=\"note\">%zu of %zu pictures; the others are in images/samples.png.</p>\n",
            shown, run->picture_count);
    }
    section_close(out);
}
