/* What logits and labels say about a network: accuracy, calibration, agreement of two networks, classes, confusions.
 * Pure functions; everything is computed in double from logits as stored. Not for several threads on one object.
 *
 * A row whose logits hold a NaN or +inf has no prediction: it counts as wrong, belongs to no bin and is counted in
 * `nonfinite`. Ties go to the lowest class. Calibration: Naeini et al. 2015, Guo et al. 2017: 15 bins of equal width
 * over the confidence max softmax(z), bin b holds ]b/15, (b+1)/15]; ECE = sum_b n_b/n |accuracy_b - confidence_b|. */
#ifndef CUDISTILL_REPORT_STATS_H
#define CUDISTILL_REPORT_STATS_H

#include "io/weights.h"

#include <stddef.h>
#include <stdint.h>

enum { ECE_BINS = 15, ENTROPY_BINS = 24 };

typedef struct {
    size_t rows;
    int classes;
    size_t nonfinite;
    int *prediction; /* [rows], -1 = none */
    float *nll;      /* [rows], -log softmax(z)[label]; NaN without a prediction */
    float *confidence;
    double top1, top5;    /* percent */
    double mean_nll, ece; /* of the rows that have a prediction; ece 0..1 */
    double mean_confidence;
    size_t bin_count[ECE_BINS];
    double bin_confidence[ECE_BINS], bin_accuracy[ECE_BINS]; /* means; NaN where empty */
    /* Entropy of softmax(z) in nats, bins of equal width over [0, ln classes]. */
    size_t entropy_count[ENTROPY_BINS];
    double mean_entropy;
    size_t *class_count, *class_right; /* [classes] */
} NetStats;

/* logits: [rows, classes]; labels within 0..classes-1. */
NetStats *net_stats(const WeightEntry *logits, const int32_t *labels);
void net_stats_free(NetStats *stats);                        /* accepts NULL */
double net_class_accuracy(const NetStats *stats, int label); /* percent; NaN without images */

/* Images by who is right. The five add up to the rows. */
typedef struct {
    size_t both_right, only_student, only_teacher, wrong_same, wrong_different;
} Agreement;
Agreement net_agreement(const NetStats *student, const NetStats *teacher, const int32_t *labels);

/* Two classes mixed up: a < b, images of a called b and the reverse. */
typedef struct {
    int a, b;
    size_t a_as_b, b_as_a;
} Confusion;
/* The most frequent pairs first, ties by class; at most `limit`. Returns how many. */
size_t net_confusions(const NetStats *stats, const int32_t *labels, Confusion *out, size_t limit);
/* The same counts for one pair. */
Confusion net_confusion_of(const NetStats *stats, const int32_t *labels, int a, int b);

/* Rows of the highest loss first; at most `limit`. Returns how many. */
size_t net_hardest(const NetStats *stats, size_t *rows, size_t limit);

/* Mean and sample standard deviation (n-1), NaN where undefined; values that are not finite are left out. */
typedef struct {
    size_t n;
    double mean, deviation;
} Spread;
Spread spread_of(const double *values, size_t count);

#endif
