/* Tables of tensors: one row each, their sums, and the network that has exactly these names and shapes. */
#include "cli/inspect.h"

#include "io/npy.h"
#include "models/load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_WIDTH = 46, SHAPE_WIDTH = 18 };

typedef struct {
    double least, greatest, mean; /* of the finite values; NaN when there are none */
    size_t nonfinite;
} Stats;

static Stats stats_of(const WeightEntry *entry)
{
    float *values = xmalloc((entry->count + 1) * sizeof *values);
    weights_to_float(entry, values);
    Stats s = {.least = (double)NAN, .greatest = (double)NAN};
    double sum = 0;
    for (size_t i = 0; i < entry->count; i++) {
        const double value = (double)values[i];
        if (!isfinite(value)) {
            s.nonfinite++;
            continue;
        }
        s.least = value >= s.least ? s.least : value;
        s.greatest = value <= s.greatest ? s.greatest : value;
        sum += value;
    }
    free(values);
    s.mean = sum / (double)(entry->count - s.nonfinite);
    return s;
}

static bool is_statistic(const char *name)
{
    static const char *const ends[] = {"running_mean", "running_var", "num_batches_tracked"};
    const size_t length = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        const size_t tail = strlen(ends[i]);
        if (length >= tail && strcmp(name + length - tail, ends[i]) == 0) {
            return true;
        }
    }
    return false;
}

typedef struct {
    size_t tensors, elements, parameters, bytes, nonfinite;
} Sums;

static void add_to_sums(const WeightEntry *entry, Sums *sums)
{
    sums->tensors++;
    sums->elements += entry->count;
    sums->bytes += entry->bytes;
    sums->parameters += is_statistic(entry->name) ? 0 : entry->count;
}

/* ---- Rows ---- */

static void shape_text(const WeightEntry *entry, Text *out)
{
    for (int d = 0; d < entry->ndim; d++) {
        text_add(out, "%s%lld", d > 0 ? "x" : "", (long long)entry->shape[d]);
    }
    text_puts(out, entry->ndim == 0 ? "scalar" : "");
}

static void row_for_people(const WeightEntry *entry, const Stats *stats, Text *out)
{
    Text name = {0};
    Text shape = {0};
    inspect_text(&name, entry->name);
    shape_text(entry, &shape);
    text_add(out, "  %-*s %-5s %-*s %12zu", NAME_WIDTH, name.text, weight_type_name(entry->type),
             SHAPE_WIDTH, shape.text, entry->bytes);
    if (stats != NULL) {
        text_add(out, "  %12.6g %12.6g %12.6g %10zu", stats->least, stats->greatest, stats->mean,
                 stats->nonfinite);
    }
    text_puts(out, "\n");
    text_free(&shape);
    text_free(&name);
}

static void row_for_machines(const WeightEntry *entry, const Stats *stats, Text *out)
{
    text_puts(out, "{\"name\":");
    text_json(out, entry->name);
    text_add(out, ",\"type\":\"%s\",\"shape\":[", weight_type_name(entry->type));
    for (int d = 0; d < entry->ndim; d++) {
        text_add(out, "%s%lld", d > 0 ? "," : "", (long long)entry->shape[d]);
    }
    text_add(out, "],\"bytes\":%zu", entry->bytes);
    if (stats != NULL) {
        text_json_number(out, "min", stats->least);
        text_json_number(out, "max", stats->greatest);
        text_json_number(out, "mean", stats->mean);
        text_add(out, ",\"nonfinite\":%zu", stats->nonfinite);
    }
    text_puts(out, "}");
}

static void add_row(const WeightEntry *entry, InspectOptions options, bool first, Sums *sums,
                    Text *out)
{
    const Stats stats = options.stats ? stats_of(entry) : (Stats){0};
    sums->nonfinite += stats.nonfinite;
    add_to_sums(entry, sums);
    if (options.json) {
        text_puts(out, first ? "" : ",");
        row_for_machines(entry, options.stats ? &stats : NULL, out);
    } else {
        row_for_people(entry, options.stats ? &stats : NULL, out);
    }
}

static void add_head(const char *path, const char *kind, const char *words, InspectOptions options,
                     Text *out)
{
    if (options.json) {
        text_puts(out, "{\"path\":");
        text_json(out, path);
        text_add(out, ",\"kind\":\"%s\",\"tensors\":[", kind);
        return;
    }
    text_add(out, "%s: %s\n  %-*s %-5s %-*s %12s", path, words, NAME_WIDTH, "name", "type",
             SHAPE_WIDTH, "shape", "bytes");
    if (options.stats) {
        text_add(out, "  %12s %12s %12s %10s", "min", "max", "mean", "not finite");
    }
    text_puts(out, "\n");
}

static void add_sums(const Sums *sums, InspectOptions options, Text *out)
{
    if (options.json) {
        text_add(out, "],\"count\":%zu,\"elements\":%zu,\"parameters\":%zu,\"bytes\":%zu",
                 sums->tensors, sums->elements, sums->parameters, sums->bytes);
        if (options.stats) {
            text_add(out, ",\"nonfinite\":%zu", sums->nonfinite);
        }
        return;
    }
    text_add(out,
             "%zu tensors, %zu elements, %zu bytes; %zu parameters without running statistics "
             "and counters\n",
             sums->tensors, sums->elements, sums->bytes, sums->parameters);
    if (sums->nonfinite > 0) {
        text_add(out, "%zu values are not finite\n", sums->nonfinite);
    }
}

/* ---- Files ---- */

static void add_model(const WeightsFile *file, InspectOptions options, Text *out)
{
    int classes = 0;
    const ModelInfo *model = model_recognise(file, &classes);
    if (options.json && model != NULL) {
        text_add(out, ",\"model\":\"%s\",\"classes\":%d", model->name, classes);
    } else if (options.json) {
        text_puts(out, ",\"model\":null,\"classes\":null");
    } else if (model != NULL) {
        text_add(out, "matches: %s (%d classes)\n", model->name, classes);
    } else {
        text_puts(out, "matches: no network of 'cudistill models'\n");
    }
}

static void add_metadata(const WeightsFile *file, InspectOptions options, Text *out)
{
    if (options.json) {
        text_puts(out, ",\"metadata\":{");
        for (size_t i = 0; i < file->metadata_count; i++) {
            text_puts(out, i > 0 ? "," : "");
            text_json(out, file->metadata[i].key);
            text_puts(out, ":");
            text_json(out, file->metadata[i].value);
        }
        text_puts(out, "}");
        return;
    }
    for (size_t i = 0; i < file->metadata_count; i++) {
        text_puts(out, "metadata: ");
        inspect_text(out, file->metadata[i].key);
        text_puts(out, " = ");
        inspect_text(out, file->metadata[i].value);
        text_puts(out, "\n");
    }
}

void inspect_weights(const char *path, const char *kind, const char *words, const WeightsFile *file,
                     InspectOptions options, Text *out)
{
    Sums sums = {0};
    add_head(path, kind, words, options, out);
    for (size_t i = 0; i < file->count; i++) {
        add_row(&file->entries[i], options, i == 0, &sums, out);
    }
    add_sums(&sums, options, out);
    if (strcmp(kind, "npy") != 0) {
        add_model(file, options, out);
    }
    add_metadata(file, options, out);
    text_puts(out, options.json ? "}\n" : "");
}

/* One array under its file's name. */
static Err *add_array(const char *dir, const char *name, InspectOptions options, Sums *sums,
                      Text *out)
{
    char *path = path_join(dir, name);
    WeightsFile *file = NULL;
    Err *err = npy_open(path, &file);
    free(path);
    TRY(err);
    WeightEntry entry = file->entries[0];
    entry.name = xstrdup(name);
    add_row(&entry, options, sums->tensors == 0, sums, out);
    free(entry.name);
    weights_close(file);
    return NULL;
}

Err *inspect_arrays(const char *path, InspectOptions options, Text *out)
{
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(path, &names, &count));
    Sums sums = {0};
    add_head(path, "arrays", "folder of .npy files", options, out);
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        const char *dot = strrchr(names[i], '.');
        if (dot != NULL && strcmp(dot, ".npy") == 0) {
            err = add_array(path, names[i], options, &sums, out);
        }
    }
    names_free(names, count);
    add_sums(&sums, options, out);
    text_puts(out, options.json ? "}\n" : "");
    return err;
}
