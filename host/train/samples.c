/* The pictures are made by the functions that training uses, from the same (seed, epoch, sample), so they are the very
 * bytes that the first batch holds. */
#include "train/samples.h"

#include "base/rng.h"
#include "io/png.h"
#include "train/record_file.h"
#include "train/rundir.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ENERGY_BINS = 60 };

/* ---- Pictures ---- */

void samples_open(const Run *run, Samples *out)
{
    const Dataset *set = run->train_set;
    const Settings *s = run->settings;
    const ViewSpec spec = settings_view(s);
    *out = (Samples){.count = set->count < SAMPLES_MAX ? (int)set->count : SAMPLES_MAX};
    const size_t bytes = dataset_image_size(set);
    out->pictures = xmalloc((size_t)out->count * bytes);
    uint8_t *scratch = xmalloc(bytes);
    uint32_t *order = xmalloc(set->count * sizeof *order);
    rng_permutation(s->seed, 0, order, set->count);
    for (int i = 0; i < out->count; i++) {
        const uint32_t id = order[i];
        out->ids[i] = id;
        out->labels[i] = set->labels[id];
        view_make(&spec, s->seed, 0, id, dataset_image(set, id), set->height, set->width,
                  out->pictures + (size_t)i * bytes, scratch);
    }
    free(order);
    free(scratch);
}

void samples_close(Samples *samples)
{
    free(samples->pictures);
    free(samples->energies);
    *samples = (Samples){0};
}

/* ---- The teacher's opinion ---- */

/* The most probable classes of one row, lowest index of ties. */
static void top_of(const float *logits, int classes, int top[SAMPLES_TOP], double p[SAMPLES_TOP])
{
    double largest = -INFINITY;
    for (int k = 0; k < classes; k++) {
        largest = fmax(largest, (double)logits[k]);
    }
    double sum = 0.0;
    for (int k = 0; k < classes; k++) {
        sum += exp((double)logits[k] - largest);
    }
    for (int rank = 0; rank < SAMPLES_TOP; rank++) {
        int best = -1;
        for (int k = 0; k < classes; k++) {
            bool taken = false;
            for (int r = 0; r < rank; r++) {
                taken = taken || top[r] == k;
            }
            if (!taken && (best < 0 || logits[k] > logits[best])) {
                best = k;
            }
        }
        top[rank] = best;
        p[rank] = best >= 0 ? exp((double)logits[best] - largest) / sum : 0.0;
    }
}

void samples_ask_teacher(Samples *samples, const Run *run, Exec *exec)
{
    const int classes = run->train_set->classes;
    float *logits = xmalloc((size_t)samples->count * (size_t)classes * sizeof *logits);
    float *rows = xmalloc((size_t)samples->count * ROW_FIELDS * sizeof *rows);
    evaluate_images(exec, samples->pictures, dataset_image_size(run->train_set), samples->labels,
                    (uint32_t)samples->count, logits, rows);
    for (int i = 0; i < samples->count; i++) {
        top_of(logits + (size_t)i * (size_t)classes, classes, samples->top[i], samples->p[i]);
        samples->energy[i] = rows[(size_t)i * ROW_FIELDS + ROW_ENERGY];
    }
    samples->asked = true;
    free(rows);
    free(logits);
}

void samples_energies(Samples *samples, const char *of, const float *values, size_t count)
{
    free(samples->energies);
    samples->energies = xmalloc((count > 0 ? count : 1) * sizeof *values);
    memcpy(samples->energies, values, count * sizeof *values);
    samples->n_energies = count;
    samples->energies_of = of;
}

double samples_temperature(const Run *run, float energy)
{
    const DistillSpec *spec = &run->objective.spec;
    if (spec->n_terms == 0) {
        return -1.0;
    }
    const RowValue *t = &spec->terms[0].ts;
    switch (t->source) {
    case SOURCE_CONST:
        return (double)t->value;
    case SOURCE_BAND:
        return (double)(energy < run->state.theta[0]   ? t->band[0]
                        : energy > run->state.theta[1] ? t->band[2]
                                                       : t->band[1]);
    case SOURCE_ROW:
    case SOURCE_WSL:
        break;
    }
    return -1.0;
}

static void put_opinion(Text *json, const Samples *samples, const Run *run, int i)
{
    text_puts(json, ",\"teacher\":[");
    for (int rank = 0; rank < SAMPLES_TOP && samples->top[i][rank] >= 0; rank++) {
        text_add(json, "%s{\"class\":%d", rank > 0 ? "," : "", samples->top[i][rank]);
        text_json_number(json, "p", samples->p[i][rank]);
        text_puts(json, "}");
    }
    text_puts(json, "]");
    text_json_number(json, "energy", (double)samples->energy[i]);
    const double temperature = samples_temperature(run, samples->energy[i]);
    if (temperature > 0.0) {
        text_json_number(json, "temperature", temperature);
    }
}

static Err *write_list(const Samples *samples, const Run *run)
{
    const ViewSpec view = settings_view(run->settings);
    Text json = {0};
    text_add(&json, "{\"size\":%d,\"columns\":%d,\"scale\":%d,\"gap\":%d,\"pictures\":[",
             run->train_set->height, SAMPLES_COLUMNS, SAMPLES_SCALE, SAMPLES_GAP);
    for (int i = 0; i < samples->count; i++) {
        text_add(&json, "%s{\"sample\":%u,\"label\":%d,", i > 0 ? "," : "", samples->ids[i],
                 (int)samples->labels[i]);
        view_json(&json, &view, run->settings->seed, 0, samples->ids[i], run->train_set->height,
                  run->train_set->width);
        if (samples->asked) {
            put_opinion(&json, samples, run, i);
        }
        text_puts(&json, "}");
    }
    text_puts(&json, "]}");
    return record_write_json(run->settings->out, RUN_SAMPLES_JSON, &json);
}

Err *samples_write_pictures(const Samples *samples, const Run *run, Events *events)
{
    const Dataset *set = run->train_set;
    uint8_t *rgb = NULL;
    int height = 0;
    int width = 0;
    picture_grid(samples->pictures, samples->count, set->height, set->width, SAMPLES_COLUMNS,
                 SAMPLES_GAP, SAMPLES_SCALE, &rgb, &height, &width);
    uint8_t *png = NULL;
    size_t size = 0;
    Err *err = png_encode(rgb, height, width, &png, &size);
    free(rgb);
    if (!err) {
        err = record_write(run->settings->out, RUN_SAMPLES_PNG, png, size);
    }
    if (!err) {
        err = write_list(samples, run);
    }
    if (!err && events) {
        err = events_image(events, "samples", 0, png, size, height, width);
    }
    free(png);
    return err;
}

/* ---- Histograms ---- */

typedef struct {
    double low, width; /* of a bin */
    long counts[ENERGY_BINS];
} Bins;

/* Equal bins from the smallest to the largest finite value; the largest lies in the last. False when there is none. */
static bool count_energies(const float *values, size_t count, Bins *out)
{
    *out = (Bins){.low = INFINITY};
    double high = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(values[i])) {
            out->low = fmin(out->low, (double)values[i]);
            high = fmax(high, (double)values[i]);
        }
    }
    if (high < out->low) {
        return false;
    }
    out->width = high > out->low ? (high - out->low) / ENERGY_BINS : 1.0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(values[i])) {
            const int bin = (int)(((double)values[i] - out->low) / out->width);
            out->counts[bin < ENERGY_BINS ? bin : ENERGY_BINS - 1]++;
        }
    }
    return true;
}

static void put_energies(Text *json, const Bins *bins)
{
    text_puts(json, ",\"edges\":[");
    for (int i = 0; i <= ENERGY_BINS; i++) {
        text_add(json, "%s%.9g", i > 0 ? "," : "", bins->low + bins->width * i);
    }
    text_puts(json, "],\"counts\":[");
    for (int i = 0; i < ENERGY_BINS; i++) {
        text_add(json, "%s%ld", i > 0 ? "," : "", bins->counts[i]);
    }
    text_puts(json, "]");
}

enum { MAX_TEMPERATURES = 3 }; /* a band each */

typedef struct {
    double values[MAX_TEMPERATURES]; /* rising */
    long counts[MAX_TEMPERATURES];
    int n;
} Temperatures;

static void offer_temperature(Temperatures *out, double value)
{
    int at = 0;
    while (at < out->n && out->values[at] < value) {
        at++;
    }
    if (at < out->n && out->values[at] == value) {
        return;
    }
    CHECK(out->n < MAX_TEMPERATURES, "more than %d temperatures", MAX_TEMPERATURES);
    memmove(out->values + at + 1, out->values + at, (size_t)(out->n - at) * sizeof out->values[0]);
    out->values[at] = value;
    out->n++;
}

/* All temperatures that the loss knows, those that no row gets too. */
static Temperatures count_temperatures(const Samples *samples, const Run *run)
{
    Temperatures out = {.n = 0};
    if (samples_temperature(run, 0.0f) < 0.0) {
        return out;
    }
    const RowValue *t = &run->objective.spec.terms[0].ts;
    for (int i = 0; i < MAX_TEMPERATURES; i++) {
        offer_temperature(&out, (double)(t->source == SOURCE_BAND ? t->band[i] : t->value));
    }
    for (size_t i = 0; i < samples->n_energies; i++) {
        const double value = samples_temperature(run, samples->energies[i]);
        for (int k = 0; k < out.n; k++) {
            out.counts[k] += out.values[k] == value;
        }
    }
    return out;
}

static void put_temperatures(Text *json, const Temperatures *t)
{
    text_puts(json, ",\"values\":[");
    for (int i = 0; i < t->n; i++) {
        text_add(json, "%s%.9g", i > 0 ? "," : "", t->values[i]);
    }
    text_puts(json, "],\"counts\":[");
    for (int i = 0; i < t->n; i++) {
        text_add(json, "%s%ld", i > 0 ? "," : "", t->counts[i]);
    }
    text_puts(json, "]");
}

/* One of the two as a member of histograms.json and as an event "histogram". */
static Err *put_histogram(Text *json, Metrics *metrics, const char *name, const char *of,
                          const Text *body)
{
    text_add(json, "%s\"%s\":{\"of\":", json->size > 1 ? "," : "", name);
    text_json(json, of);
    text_add(json, "%s}", body->text);
    Text fields = {0};
    text_puts(&fields, "\"name\":");
    text_json(&fields, name);
    text_add(&fields, ",\"of\":");
    text_json(&fields, of);
    text_puts(&fields, body->text);
    Err *err = metrics ? metrics_event(metrics, "histogram", 0, fields.text) : NULL;
    text_free(&fields);
    return err;
}

Err *samples_write_histograms(const Samples *samples, const Run *run, Metrics *metrics,
                              Events *events)
{
    Bins bins;
    if (!samples->energies_of || !count_energies(samples->energies, samples->n_energies, &bins)) {
        return NULL;
    }
    Text json = {0};
    Text body = {0};
    text_puts(&json, "{");
    put_energies(&body, &bins);
    Err *err = put_histogram(&json, metrics, "energy", samples->energies_of, &body);
    const Temperatures temperatures = count_temperatures(samples, run);
    if (!err && temperatures.n > 0) {
        text_free(&body);
        put_temperatures(&body, &temperatures);
        err = put_histogram(&json, metrics, "temperature", samples->energies_of, &body);
    }
    text_free(&body);
    text_puts(&json, "}");
    if (err) {
        text_free(&json);
        return err;
    }
    TRY(record_write_json(run->settings->out, RUN_HISTOGRAMS, &json));
    return events ? events_histogram(events, "teacher/energy", 0, samples->energies,
                                     samples->n_energies)
                  : NULL;
}
