/* The larger parts of a run: sample pictures, histograms, and the logits of the test set. Shapes are checked against
 * each other before anything indexes them. */
#include "report/collect_parts.h"

#include "base/files.h"
#include "io/npy.h"
#include "io/png.h"
#include "train/rundir.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICTURES_MAX = 256,
    BINS_MAX = 10000,
    JSON_LIMIT = 16 << 20,
    SIDE_MAX = 4096,
    GAP_MAX = 64,
    SCALE_MAX = 32
};
static const size_t SHEET_PIXELS_MAX = (size_t)64 << 20;

/* ---- images/samples.{json,png} ---- */

static RunPicture read_picture(const json_t *picture)
{
    RunPicture out = {
        .sample = json_member_int(picture, "sample", 0, INT_MAX, -1),
        .label = json_member_int(picture, "label", 0, INT_MAX, -1),
        .dx = json_member_int(picture, "dx", 0, SIDE_MAX, 0),
        .dy = json_member_int(picture, "dy", 0, SIDE_MAX, 0),
        .flip = json_is_true(json_object_get(picture, "flip")),
        .energy = json_member_number(picture, "energy"),
        .temperature = json_member_number(picture, "temperature"),
    };
    const json_t *teacher = json_object_get(picture, "teacher");
    for (size_t i = 0; i < json_array_size(teacher) && i < RUN_TOP; i++) {
        const json_t *guess = json_array_get(teacher, i);
        out.top_class[i] = json_member_int(guess, "class", 0, INT_MAX, -1);
        out.top_p[i] = json_member_number(guess, "p");
        out.top_count++;
    }
    return out;
}

static Err *load_sheet(RunData *run)
{
    char *path = path_join(run->folder, RUN_SAMPLES_PNG);
    FileMap map = {0};
    Err *err = file_map(path, &map);
    free(path);
    if (err == NULL) {
        err = png_decode(map.data, map.size, SHEET_PIXELS_MAX, &run->sheet, &run->sheet_height,
                         &run->sheet_width);
    }
    file_unmap(&map);
    return err;
}

/* How many pictures lie wholly on the sheet. */
static size_t pictures_on_sheet(const RunData *run, size_t count)
{
    const long cell = (long)run->picture_side * run->picture_scale + run->picture_gap;
    const long columns = run->picture_columns;
    const long usable = (run->sheet_width + run->picture_gap) / cell;
    const long rows = (run->sheet_height + run->picture_gap) / cell;
    if (usable < columns && (size_t)usable < count) {
        return (size_t)usable;
    }
    const size_t room = (size_t)(columns * rows);
    return count < room ? count : room;
}

void collect_pictures(RunData *run)
{
    json_t *file = run_file_json(run, RUN_SAMPLES_JSON, JSON_LIMIT);
    if (file == NULL) {
        return;
    }
    run->picture_side = json_member_int(file, "size", 1, SIDE_MAX, 0);
    run->picture_columns = json_member_int(file, "columns", 1, PICTURES_MAX, 0);
    run->picture_scale = json_member_int(file, "scale", 1, SCALE_MAX, 1);
    run->picture_gap = json_member_int(file, "gap", 0, GAP_MAX, 0);
    const json_t *list = json_object_get(file, "pictures");
    size_t count = json_array_size(list);
    count = count < PICTURES_MAX ? count : PICTURES_MAX;
    if (run->picture_side == 0 || run->picture_columns == 0 || count == 0) {
        run_note(run, "%s is left out: it lacks \"size\", \"columns\" or \"pictures\"",
                 RUN_SAMPLES_JSON);
    } else {
        Err *err = load_sheet(run);
        if (err != NULL) {
            run_note(run, "%s is left out: %s", RUN_SAMPLES_PNG, err->message);
            err_free(err);
        } else {
            run->picture_count = pictures_on_sheet(run, count);
            run->pictures = xcalloc(run->picture_count + 1, sizeof *run->pictures);
            for (size_t i = 0; i < run->picture_count; i++) {
                run->pictures[i] = read_picture(json_array_get(list, i));
            }
        }
    }
    json_decref(file);
}

/* ---- histograms.json ---- */

static double *read_numbers(const json_t *list, size_t count)
{
    double *numbers = xcalloc(count + 1, sizeof *numbers);
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(list, i);
        numbers[i] = json_is_number(number) ? run_number(json_number_value(number)) : NAN;
    }
    return numbers;
}

static void read_histogram(RunData *run, const json_t *file, const char *name, RunHistogram *out)
{
    const json_t *object = json_object_get(file, name);
    if (!json_is_object(object)) {
        return;
    }
    const json_t *counts = json_object_get(object, "counts");
    const json_t *edges = json_object_get(object, "edges");
    const json_t *values = json_object_get(object, "values");
    const size_t count = json_array_size(counts);
    const bool fits = json_is_array(edges)    ? json_array_size(edges) == count + 1
                      : json_is_array(values) ? json_array_size(values) == count
                                              : false;
    if (count == 0 || count > BINS_MAX || !fits) {
        run_note(run, "%s: \"%s\" is left out: its lists do not fit each other", RUN_HISTOGRAMS,
                 name);
        return;
    }
    out->of = json_member_text(object, "of");
    out->count = count;
    out->counts = read_numbers(counts, count);
    if (json_is_array(edges)) {
        out->edges = read_numbers(edges, count + 1);
    } else {
        out->values = read_numbers(values, count);
    }
}

void collect_histograms(RunData *run)
{
    json_t *file = run_file_json(run, RUN_HISTOGRAMS, JSON_LIMIT);
    read_histogram(run, file, "energy", &run->energy);
    read_histogram(run, file, "temperature", &run->temperature);
    json_decref(file);
}

/* ---- predictions ---- */

/* A matrix of numbers, or NULL with a note. */
static WeightsFile *open_matrix(RunData *run, const char *name, const WeightEntry **logits)
{
    char *path = path_join(run->folder, name);
    WeightsFile *file = NULL;
    Err *err = path_exists(path) ? npy_open(path, &file) : NULL;
    free(path);
    if (err != NULL) {
        run_note(run, "%s is left out: %s", name, err->message);
        err_free(err);
        return NULL;
    }
    if (file == NULL) {
        return NULL;
    }
    const WeightEntry *entry = &file->entries[0];
    const bool real =
        entry->type == WEIGHT_F16 || entry->type == WEIGHT_F32 || entry->type == WEIGHT_F64;
    if (entry->ndim != 2 || !real || entry->shape[0] < 1 || entry->shape[1] < 2 ||
        entry->shape[1] > INT_MAX) {
        run_note(run, "%s is left out: it is no matrix of logits [images, classes]", name);
        weights_close(file);
        return NULL;
    }
    *logits = entry;
    return file;
}

static void load_labels(RunData *run, int64_t *count)
{
    char *path = path_join(run->folder, RUN_LABELS);
    WeightsFile *file = NULL;
    Err *err = path_exists(path) ? npy_open(path, &file) : NULL;
    free(path);
    *count = 0;
    if (err != NULL) {
        run_note(run, "%s is left out: %s", RUN_LABELS, err->message);
        err_free(err);
    } else if (file != NULL &&
               (file->entries[0].ndim != 1 || file->entries[0].type != WEIGHT_I32)) {
        run_note(run, "%s is left out: it is no list of int32", RUN_LABELS);
    } else if (file != NULL) {
        *count = file->entries[0].shape[0];
        run->labels = xmalloc((size_t)*count * sizeof *run->labels + 1);
        memcpy(run->labels, file->entries[0].data, (size_t)*count * sizeof *run->labels);
    }
    weights_close(file);
}

static void drop(RunData *run, const char *name, const char *why, WeightsFile **file,
                 const WeightEntry **logits)
{
    if (*file != NULL) {
        run_note(run, "%s is left out: %s", name, why);
        weights_close(*file);
        *file = NULL;
        *logits = NULL;
    }
}

static bool labels_fit(const RunData *run)
{
    for (size_t i = 0; i < run->rows; i++) {
        if (run->labels[i] < 0 || run->labels[i] >= run->columns) {
            return false;
        }
    }
    return true;
}

static bool shape_fits(const WeightEntry *logits, int64_t rows, int columns)
{
    return logits == NULL || (logits->shape[0] == rows && logits->shape[1] == columns);
}

void collect_logits(RunData *run)
{
    run->student_file = open_matrix(run, RUN_STUDENT_LOGITS, &run->student_logits);
    run->teacher_file = open_matrix(run, RUN_TEACHER_LOGITS, &run->teacher_logits);
    const WeightEntry *first =
        run->student_logits != NULL ? run->student_logits : run->teacher_logits;
    if (first == NULL) {
        return;
    }
    int64_t label_count = 0;
    load_labels(run, &label_count);
    run->rows = (size_t)first->shape[0];
    run->columns = (int)first->shape[1];
    const char *why = NULL;
    if (label_count != first->shape[0]) {
        why = "labels.npy is absent or has another number of images";
    } else if (!labels_fit(run)) {
        why = "labels.npy names classes beyond the logits";
    }
    if (why != NULL) {
        drop(run, RUN_STUDENT_LOGITS, why, &run->student_file, &run->student_logits);
        drop(run, RUN_TEACHER_LOGITS, why, &run->teacher_file, &run->teacher_logits);
        run->rows = 0;
    } else if (!shape_fits(run->teacher_logits, first->shape[0], run->columns)) {
        drop(run, RUN_TEACHER_LOGITS, "its shape differs from the student's", &run->teacher_file,
             &run->teacher_logits);
    }
}

void run_logits_row(const WeightEntry *logits, size_t row, int columns, float *out)
{
    WeightEntry part = *logits;
    const size_t bytes = weight_type_size(logits->type) * (size_t)columns;
    part.count = (size_t)columns;
    part.bytes = bytes;
    part.data = (const char *)logits->data + row * bytes;
    weights_to_float(&part, out);
}
