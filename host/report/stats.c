/* Statistics of logits: one sweep over the rows, then counting. */
#include "report/stats.h"

#include "report/run_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOP5 = 5 };

/* ---- One network ---- */

static void measure_row(NetStats *stats, size_t row, const float *z, int label, size_t *top5_right)
{
    const int classes = stats->classes;
    int best = 0;
    int above = 0; /* classes that rank before the label */
    bool broken = false;
    for (int k = 0; k < classes; k++) {
        broken = broken || isnan(z[k]) || z[k] == INFINITY;
        best = z[k] > z[best] ? k : best;
        const bool earlier = k < label;
        above += z[k] > z[label] || (earlier && z[k] == z[label]) ? 1 : 0;
    }
    stats->class_count[label]++;
    if (broken || isinf(z[best])) {
        stats->prediction[row] = -1;
        stats->nll[row] = NAN;
        stats->confidence[row] = NAN;
        stats->nonfinite++;
        return;
    }
    double sum = 1.0;      /* of e^d; that of the best class is 1 */
    double weighted = 0.0; /* of e^d * d, for the entropy */
    for (int k = 0; k < classes; k++) {
        if (k == best) {
            continue;
        }
        const double d = (double)z[k] - (double)z[best];
        const double e = exp(d);
        sum += e;
        weighted += e > 0.0 ? e * d : 0.0;
    }
    const double confidence = 1.0 / sum;
    const double entropy = log(sum) - weighted / sum;
    const bool right = best == label;
    stats->prediction[row] = best;
    stats->confidence[row] = (float)confidence;
    stats->nll[row] = (float)(log(sum) - ((double)z[label] - (double)z[best]));
    stats->class_right[label] += right ? 1 : 0;
    *top5_right += above < TOP5 ? 1 : 0;
    stats->mean_nll += (double)stats->nll[row];
    stats->mean_confidence += confidence;
    stats->mean_entropy += entropy;
    int bin = (int)ceil(confidence * ECE_BINS) - 1;
    bin = bin < 0 ? 0 : bin >= ECE_BINS ? ECE_BINS - 1 : bin;
    stats->bin_count[bin]++;
    stats->bin_confidence[bin] += confidence;
    stats->bin_accuracy[bin] += right ? 1.0 : 0.0;
    int slot = (int)(entropy / log((double)classes) * ENTROPY_BINS);
    slot = slot < 0 ? 0 : slot >= ENTROPY_BINS ? ENTROPY_BINS - 1 : slot;
    stats->entropy_count[slot]++;
}

static void finish(NetStats *stats, size_t top5_right)
{
    const double valid = (double)(stats->rows - stats->nonfinite);
    const double rows = (double)stats->rows;
    size_t right = 0;
    for (int k = 0; k < stats->classes; k++) {
        right += stats->class_right[k];
    }
    stats->top1 = 100.0 * (double)right / rows;
    stats->top5 = 100.0 * (double)top5_right / rows;
    stats->mean_nll /= valid;
    stats->mean_confidence /= valid;
    stats->mean_entropy /= valid;
    for (int b = 0; b < ECE_BINS; b++) {
        const double count = (double)stats->bin_count[b];
        stats->bin_confidence[b] = count > 0.0 ? stats->bin_confidence[b] / count : NAN;
        stats->bin_accuracy[b] = count > 0.0 ? stats->bin_accuracy[b] / count : NAN;
        if (count > 0.0) {
            stats->ece += count / valid * fabs(stats->bin_accuracy[b] - stats->bin_confidence[b]);
        }
    }
}

NetStats *net_stats(const WeightEntry *logits, const int32_t *labels)
{
    NetStats *stats = xcalloc(1, sizeof *stats);
    stats->rows = (size_t)logits->shape[0];
    stats->classes = (int)logits->shape[1];
    stats->prediction = xcalloc(stats->rows, sizeof *stats->prediction);
    stats->nll = xcalloc(stats->rows, sizeof *stats->nll);
    stats->confidence = xcalloc(stats->rows, sizeof *stats->confidence);
    stats->class_count = xcalloc((size_t)stats->classes, sizeof *stats->class_count);
    stats->class_right = xcalloc((size_t)stats->classes, sizeof *stats->class_right);
    float *z = xmalloc((size_t)stats->classes * sizeof *z);
    size_t top5_right = 0;
    for (size_t row = 0; row < stats->rows; row++) {
        run_logits_row(logits, row, stats->classes, z);
        measure_row(stats, row, z, labels[row], &top5_right);
    }
    free(z);
    finish(stats, top5_right);
    return stats;
}

void net_stats_free(NetStats *stats)
{
    if (stats != NULL) {
        free(stats->prediction);
        free(stats->nll);
        free(stats->confidence);
        free(stats->class_count);
        free(stats->class_right);
        free(stats);
    }
}

double net_class_accuracy(const NetStats *stats, int label)
{
    const size_t count = stats->class_count[label];
    return count > 0 ? 100.0 * (double)stats->class_right[label] / (double)count : NAN;
}

/* ---- Two networks ---- */

Agreement net_agreement(const NetStats *student, const NetStats *teacher, const int32_t *labels)
{
    Agreement out = {0};
    for (size_t row = 0; row < student->rows; row++) {
        const bool s = student->prediction[row] == labels[row];
        const bool t = teacher->prediction[row] == labels[row];
        if (s && t) {
            out.both_right++;
        } else if (s) {
            out.only_student++;
        } else if (t) {
            out.only_teacher++;
        } else if (student->prediction[row] >= 0 &&
                   student->prediction[row] == teacher->prediction[row]) {
            out.wrong_same++;
        } else {
            out.wrong_different++;
        }
    }
    return out;
}

/* ---- Confusions ---- */

static int compare_u64(const void *a, const void *b)
{
    const uint64_t p = *(const uint64_t *)a;
    const uint64_t q = *(const uint64_t *)b;
    return (p > q) - (p < q);
}

static int by_frequency(const void *a, const void *b)
{
    const Confusion *p = a;
    const Confusion *q = b;
    const size_t m = p->a_as_b + p->b_as_a;
    const size_t n = q->a_as_b + q->b_as_a;
    if (m != n) {
        return m > n ? -1 : 1;
    }
    return p->a != q->a ? (p->a > q->a) - (p->a < q->a) : (p->b > q->b) - (p->b < q->b);
}

/* Sorting the mistakes by pair needs memory for the images, where a table would need classes squared. */
size_t net_confusions(const NetStats *stats, const int32_t *labels, Confusion *out, size_t limit)
{
    uint64_t *keys = xmalloc((stats->rows + 1) * sizeof *keys);
    size_t wrong = 0;
    for (size_t row = 0; row < stats->rows; row++) {
        const int said = stats->prediction[row];
        if (said >= 0 && said != labels[row]) {
            const uint64_t low = (uint64_t)(said < labels[row] ? said : labels[row]);
            const uint64_t high = (uint64_t)(said < labels[row] ? labels[row] : said);
            keys[wrong++] = low << 33 | high << 1 | (said < labels[row] ? 1 : 0);
        }
    }
    qsort(keys, wrong, sizeof *keys, compare_u64);
    Confusion *pairs = xmalloc((wrong + 1) * sizeof *pairs);
    size_t count = 0;
    for (size_t i = 0; i < wrong; i++) {
        const int a = (int)(keys[i] >> 33);
        const int b = (int)(keys[i] >> 1 & UINT32_MAX);
        if (count == 0 || pairs[count - 1].a != a || pairs[count - 1].b != b) {
            pairs[count++] = (Confusion){.a = a, .b = b};
        }
        size_t *side = (keys[i] & 1) != 0 ? &pairs[count - 1].b_as_a : &pairs[count - 1].a_as_b;
        (*side)++;
    }
    qsort(pairs, count, sizeof *pairs, by_frequency);
    count = count < limit ? count : limit;
    memcpy(out, pairs, count * sizeof *pairs);
    free(pairs);
    free(keys);
    return count;
}

Confusion net_confusion_of(const NetStats *stats, const int32_t *labels, int a, int b)
{
    Confusion out = {.a = a, .b = b};
    for (size_t row = 0; row < stats->rows; row++) {
        out.a_as_b += labels[row] == a && stats->prediction[row] == b ? 1 : 0;
        out.b_as_a += labels[row] == b && stats->prediction[row] == a ? 1 : 0;
    }
    return out;
}

/* ---- Hard images, spreads ---- */

size_t net_hardest(const NetStats *stats, size_t *rows, size_t limit)
{
    size_t count = 0;
    for (size_t row = 0; row < stats->rows; row++) {
        if (isnan(stats->nll[row])) {
            continue;
        }
        size_t at = count < limit ? count++ : limit;
        for (; at > 0 && stats->nll[rows[at - 1]] < stats->nll[row]; at--) {
            if (at < limit) {
                rows[at] = rows[at - 1];
            }
        }
        if (at < limit) {
            rows[at] = row;
        }
    }
    return count;
}

Spread spread_of(const double *values, size_t count)
{
    Spread out = {.mean = NAN, .deviation = NAN};
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        if (isfinite(values[i])) {
            sum += values[i];
            out.n++;
        }
    }
    if (out.n > 0) {
        out.mean = sum / (double)out.n;
    }
    double squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        squares += isfinite(values[i]) ? pow(values[i] - out.mean, 2.0) : 0.0;
    }
    if (out.n > 1) {
        out.deviation = sqrt(squares / (double)(out.n - 1));
    }
    return out;
}
