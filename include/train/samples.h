/* What a run shows of its data: the first pictures of epoch 1 as training sees them with what the teacher says of each
 * (images/samples.*), and histograms of the teacher's energy and of the temperatures that follow (histograms.json).
 *
 * Life cycle: samples_open; samples_ask_teacher, samples_energies as they become known; samples_write once the energy
 * thresholds are known; samples_close. Not for several threads. */
#ifndef CUDISTILL_TRAIN_SAMPLES_H
#define CUDISTILL_TRAIN_SAMPLES_H

#include "io/events.h"
#include "train/metrics.h"
#include "train/run.h"

enum { SAMPLES_MAX = 32, SAMPLES_COLUMNS = 8, SAMPLES_SCALE = 1, SAMPLES_GAP = 2, SAMPLES_TOP = 3 };

typedef struct {
    int count;                 /* pictures: SAMPLES_MAX, or the training set where it is smaller */
    uint32_t ids[SAMPLES_MAX]; /* in the training set */
    int32_t labels[SAMPLES_MAX];
    uint8_t *pictures;                  /* [count][height][width][3] */
    bool asked;                         /* the teacher was */
    int top[SAMPLES_MAX][SAMPLES_TOP];  /* classes, most probable first; -1: none */
    double p[SAMPLES_MAX][SAMPLES_TOP]; /* softmax of the logits at temperature 1 */
    float energy[SAMPLES_MAX];
    const char *energies_of; /* NULL: none given */
    float *energies;
    size_t n_energies;
} Samples;

void samples_open(const Run *run, Samples *out);
void samples_close(Samples *samples);
void samples_ask_teacher(Samples *samples, const Run *run, Exec *exec);
/* Copies the values; `of` must stay: "teacher, training set". Earlier ones are replaced. */
void samples_energies(Samples *samples, const char *of, const float *values, size_t count);
/* The temperature that the first term of the loss gives a row of this energy; < 0: there is no such term. */
double samples_temperature(const Run *run, float energy);

/* images/samples.png and .json; with events not NULL also the image "samples". */
Err *samples_write_pictures(const Samples *samples, const Run *run, Events *events);
/* histograms.json, the events "histogram" of metrics, and with events not NULL "teacher/energy". Nothing without
 * energies. */
Err *samples_write_histograms(const Samples *samples, const Run *run, Metrics *metrics,
                              Events *events);

#endif
