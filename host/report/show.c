/* Chooses pictures of a data set and writes them as a grid or a page. */
#include "report/show.h"

#include "base/files.h"
#include "base/near.h"
#include "base/rng.h"
#include "data/view.h"
#include "io/png.h"
#include "report/markup.h"
#include "report/page.h"
#include "report/pictures.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2, PAD_PART = 8, GRID_SIDE_MAX = 32767, LISTED_CLASSES = 20, NAME_LIMIT = 60 };

/* ---- Classes ---- */

static int class_number(const Dataset *data, const char *word)
{
    for (int k = 0; k < data->classes; k++) {
        if (strcmp(data->class_names[k], word) == 0) {
            return k;
        }
    }
    char *end = NULL;
    const long number = strtol(word, &end, 10);
    const bool whole = isdigit((unsigned char)word[0]) && *end == '\0';
    return whole && number < data->classes ? (int)number : -1;
}

static Err *unknown_class(const Dataset *data, const char *word)
{
    NearMiss near = near_start(word);
    for (int k = 0; k < data->classes; k++) {
        near_offer(&near, data->class_names[k]);
    }
    char *hint = near_hint(&near);
    Err *err = err_new(EXIT_CONFIG_ERR,
                       "%s has no class '%s'%s (names, or numbers 0 to %d, with commas between)",
                       data->name, word, hint, data->classes - 1);
    free(hint);
    return err;
}

/* wanted[classes]; all of them without a list. */
static Err *choose_classes(const Dataset *data, const char *list, bool *wanted)
{
    for (int k = 0; k < data->classes; k++) {
        wanted[k] = list == NULL;
    }
    char *copy = xstrdup(list != NULL ? list : "");
    Err *err = NULL;
    for (char *rest = copy, *word = NULL;
         list != NULL && err == NULL && (word = strsep(&rest, ",")) != NULL;) {
        word += strspn(word, " ");
        for (size_t size = strlen(word); size > 0 && word[size - 1] == ' '; size--) {
            word[size - 1] = '\0';
        }
        const int number = class_number(data, word);
        if (number < 0) {
            err = unknown_class(data, word);
        } else {
            wanted[number] = true;
        }
    }
    free(copy);
    return err;
}

/* ---- Pictures ---- */

static bool is_augmented(const ShowRequest *request)
{
    return request->augment || !policy_is_none(&request->policy);
}

typedef struct {
    uint32_t *samples;
    int count;
    uint8_t *pixels; /* count images */
} Choice;

static Choice choose_pictures(const Dataset *data, const ShowRequest *request, const bool *wanted)
{
    Choice choice = {.samples = xmalloc((size_t)request->count * sizeof(uint32_t))};
    uint32_t *order = xmalloc((size_t)data->count * sizeof *order);
    rng_permutation(request->seed, 0, order, data->count);
    for (uint32_t i = 0; i < data->count && choice.count < request->count; i++) {
        if (wanted[data->labels[order[i]]]) {
            choice.samples[choice.count++] = order[i];
        }
    }
    free(order);
    const ViewSpec view = {
        .crop = {.pad = request->augment ? data->height / PAD_PART : 0, .flip = request->augment},
        .policy = request->policy};
    const size_t bytes = dataset_image_size(data);
    choice.pixels = xmalloc((size_t)choice.count * bytes + 1);
    uint8_t *scratch = xmalloc(bytes);
    for (int i = 0; i < choice.count; i++) {
        const uint32_t sample = choice.samples[i];
        view_make(&view, request->seed, 1, sample, dataset_image(data, sample), data->height,
                  data->width, choice.pixels + (size_t)i * bytes, scratch);
    }
    free(scratch);
    return choice;
}

static Err *write_grid(const Dataset *data, const ShowRequest *request, const Choice *choice)
{
    const int columns = request->columns < choice->count ? request->columns : choice->count;
    const int rows = (choice->count + columns - 1) / columns;
    const long width = (long)columns * (data->width * request->scale + GAP);
    const long height = (long)rows * (data->height * request->scale + GAP);
    if (width > GRID_SIDE_MAX || height > GRID_SIDE_MAX) {
        return err_new(
            EXIT_CONFIG_ERR,
            "a grid of %ld x %ld pixels is too large (at most %d a side): lower --count, "
            "--columns or --scale",
            width, height, (int)GRID_SIDE_MAX);
    }
    uint8_t *rgb = NULL;
    int grid_height;
    int grid_width;
    picture_grid(choice->pixels, choice->count, data->height, data->width, columns, GAP,
                 request->scale, &rgb, &grid_height, &grid_width);
    uint8_t *png = NULL;
    size_t size = 0;
    Err *err = png_encode(rgb, grid_height, grid_width, &png, &size);
    free(rgb);
    if (err == NULL) {
        err = file_write_atomic(request->out, png, size);
        free(png);
    }
    return err;
}

static Err *put_picture(Text *page, const Dataset *data, const Choice *choice, int i)
{
    const int label = data->labels[choice->samples[i]];
    int side;
    uint8_t *rgb =
        picture_cut(choice->pixels + (size_t)i * dataset_image_size(data), data->width, 0, 0,
                    data->height < data->width ? data->height : data->width, 1, &side);
    uint8_t *png = NULL;
    size_t size = 0;
    Err *err = png_encode(rgb, side, side, &png, &size);
    free(rgb);
    if (err != NULL) {
        return err;
    }
    text_puts(page, "<div class=\"picture\">");
    markup_png(page, png, size, data->class_names[label]);
    text_puts(page, "<b>");
    markup_text(page, data->class_names[label], NAME_LIMIT);
    text_add(page, "</b><span class=\"dim\">class %d, image %u</span></div>\n", label,
             choice->samples[i]);
    free(png);
    return NULL;
}

static Err *write_page(const Dataset *data, const ShowRequest *request, const Choice *choice)
{
    Text page = {0};
    Text title = {0};
    text_add(&title, "%s, %s set", data->name, split_name(data->split));
    page_open(&page, title.text);
    text_puts(&page, "<h1>");
    markup_text(&page, title.text, NAME_LIMIT);
    text_add(&page,
             "</h1>\n<p>%d of %u images of %d classes%s, %d x %d pixels</p>\n<p class=\"dim\">",
             choice->count, data->count, data->classes, is_augmented(request) ? ", augmented" : "",
             data->width, data->height);
    markup_text(&page, data->source, 300);
    text_puts(&page, "</p>\n<div class=\"pictures\">\n");
    Err *err = NULL;
    for (int i = 0; i < choice->count && err == NULL; i++) {
        err = put_picture(&page, data, choice, i);
    }
    text_puts(&page, "</div>\n");
    page_close(&page);
    if (err == NULL) {
        err = file_write_atomic(request->out, page.text, page.size);
    }
    text_free(&title);
    text_free(&page);
    return err;
}

/* ---- What is said ---- */

static void say_counts(Text *said, const Dataset *data, const bool *wanted)
{
    uint32_t *counts = xcalloc((size_t)data->classes, sizeof *counts);
    for (uint32_t i = 0; i < data->count; i++) {
        counts[data->labels[i]]++;
    }
    uint32_t least = UINT32_MAX;
    uint32_t most = 0;
    int chosen = 0;
    for (int k = 0; k < data->classes; k++) {
        least = counts[k] < least ? counts[k] : least;
        most = counts[k] > most ? counts[k] : most;
        chosen += wanted[k] ? 1 : 0;
    }
    text_add(said, "%s, %s set: %u images of %d x %d pixels, %d classes, ", data->name,
             split_name(data->split), data->count, data->width, data->height, data->classes);
    if (least == most) {
        text_add(said, "%u images each\n", most);
    } else {
        text_add(said, "%u to %u images each\n", least, most);
    }
    for (int k = 0; k < data->classes && chosen <= LISTED_CLASSES; k++) {
        if (wanted[k]) {
            text_add(said, "%6u  ", counts[k]);
            markup_plain(said, data->class_names[k], NAME_LIMIT);
            text_puts(said, "\n");
        }
    }
    free(counts);
}

static Err *show(const Dataset *data, const ShowRequest *request, const bool *wanted, Text *said)
{
    Choice choice = choose_pictures(data, request, wanted);
    Err *err = NULL;
    if (choice.count == 0) {
        err = err_new(EXIT_CONFIG_ERR, "no image of these classes in the %s set of %s",
                      split_name(data->split), data->name);
    } else if (request->html) {
        err = write_page(data, request, &choice);
    } else {
        err = write_grid(data, request, &choice);
    }
    if (err == NULL) {
        say_counts(said, data, wanted);
        text_add(said, "%s: %d %s%s\n", request->out, choice.count,
                 choice.count == 1 ? "picture" : "pictures",
                 is_augmented(request) ? ", augmented" : "");
    }
    free(choice.samples);
    free(choice.pixels);
    return err;
}

Err *dataset_show(const ShowRequest *request, Text *said)
{
    Dataset *data = NULL;
    TRY(policy_check(&request->policy, NULL));
    TRY(dataset_open(request->spec, request->split, &data));
    bool *wanted = xcalloc((size_t)data->classes, sizeof *wanted);
    Err *err = choose_classes(data, request->classes, wanted);
    if (err == NULL) {
        err = show(data, request, wanted, said);
    }
    free(wanted);
    dataset_close(data);
    return err;
}
