/* Runs an evaluation graph over a data set that lies in memory: batches are slices of it, in order; the last one may be
 * smaller. Counts are whole numbers per batch and are added as integers. */
#include "train/evaluate.h"

#include "base/log.h"
#include "kernels/distill_spec.h"
#include "train/signals.h"

#include <math.h>
#include <stdlib.h>

static const float HALF_MAX = 65504.0f;
/* Bits of the largest finite value. */
enum { HALF_MAX_BITS = 0x7BFF, HALF_SIGN = 0x8000 };

static fp16 half_of(float x)
{
    return fp16_from_float(isfinite(x) ? fminf(fmaxf(x, -HALF_MAX), HALF_MAX) : x);
}

/* The next value towards infinity, of a finite one. */
static fp16 half_above(fp16 x)
{
    if ((x & HALF_SIGN) == 0) {
        return x < HALF_MAX_BITS ? (fp16)(x + 1) : x;
    }
    return x == HALF_SIGN ? (fp16)1 : (fp16)(x - 1);
}

void logits_to_half(const float *logits, int classes, int32_t chosen, fp16 *out)
{
    for (int k = 0; k < classes; k++) {
        out[k] = half_of(logits[k]);
    }
    if (chosen < 0 || !isfinite(logits[chosen])) {
        return;
    }
    const float best = fp16_to_float(out[chosen]);
    for (int k = 0; k < chosen; k++) {
        if (fp16_to_float(out[k]) == best) {
            out[chosen] = half_above(out[chosen]);
            return;
        }
    }
}

static int classes_of(const Exec *exec)
{
    const Graph *graph = exec_graph(exec);
    const int logits = graph_find_tensor(graph, "logits");
    CHECK(logits >= 0, "the evaluation graph has no output 'logits'");
    return graph->tensors[logits].c;
}

static void submit(Exec *exec, const uint8_t *images, size_t image_size, const int32_t *labels,
                   uint32_t rows)
{
    exec_write(exec, "images", images, rows * image_size);
    exec_write(exec, "labels", labels, rows * sizeof *labels);
    exec_run(exec, &(ExecRun){.rows = (int)rows, .scale = 1.0f});
}

/* What the caller keeps of one batch, from image `at` on; `logits` and `rows` have room for a batch. */
static void keep_batch(Exec *exec, const EvalKeep *keep, bool as_teacher, int classes, uint32_t at,
                       uint32_t count, float *logits, float *rows)
{
    exec_read(exec, "rows", rows, count * ROW_FIELDS * sizeof *rows);
    if (keep->logits) {
        exec_read(exec, "logits", logits, count * (size_t)classes * sizeof *logits);
    }
    for (uint32_t i = 0; i < count; i++) {
        const float *row = rows + (size_t)i * ROW_FIELDS;
        const int32_t chosen = (int32_t)lrintf(row[as_teacher ? ROW_TARG : ROW_SARG]);
        if (keep->chosen) {
            keep->chosen[at + i] = chosen;
        }
        if (keep->energies) {
            keep->energies[at + i] = row[ROW_ENERGY];
        }
        if (keep->logits) {
            logits_to_half(logits + (size_t)i * (size_t)classes, classes, chosen,
                           keep->logits + (size_t)(at + i) * (size_t)classes);
        }
    }
}

EvalResult evaluate_keeping(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop,
                            const EvalKeep *keep)
{
    EvalResult result = {0};
    const int batch = exec_graph(exec)->batch;
    const double begin = now_s();
    const size_t image_bytes = dataset_image_size(dataset);
    const int top1 = as_teacher ? SUM_TTOP1 : SUM_TOP1;
    const int top5 = as_teacher ? SUM_TTOP5 : SUM_TOP5;
    const int ce = as_teacher ? SUM_CE_T : SUM_CE_S;
    const int classes = keep ? classes_of(exec) : 0;
    float *logits = keep ? xmalloc((size_t)batch * (size_t)classes * sizeof *logits) : NULL;
    float *exports = keep ? xmalloc((size_t)batch * ROW_FIELDS * sizeof *exports) : NULL;
    double loss = 0.0;
    for (uint32_t at = 0; at < dataset->count; at += (uint32_t)batch) {
        const uint32_t left = dataset->count - at;
        const uint32_t rows = left < (uint32_t)batch ? left : (uint32_t)batch;
        submit(exec, dataset->images + (size_t)at * image_bytes, image_bytes, dataset->labels + at,
               rows);
        float sums[SUM_FIELDS];
        exec_read(exec, "sums", sums, sizeof sums);
        result.right1 += lrintf(sums[top1]);
        result.right5 += lrintf(sums[top5]);
        loss += (double)sums[ce];
        result.count += rows;
        if (keep) {
            keep_batch(exec, keep, as_teacher, classes, at, rows, logits, exports);
        }
        if (may_stop && signals_pending()) {
            result.stopped = true;
            break;
        }
    }
    free(logits);
    free(exports);
    result.seconds = now_s() - begin;
    if (result.count > 0) {
        result.top1 = 100.0 * (double)result.right1 / (double)result.count;
        result.top5 = 100.0 * (double)result.right5 / (double)result.count;
        result.loss = loss / (double)result.count;
    }
    return result;
}

EvalResult evaluate(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop)
{
    return evaluate_keeping(exec, dataset, as_teacher, may_stop, NULL);
}

void evaluate_images(Exec *exec, const uint8_t *images, size_t image_size, const int32_t *labels,
                     uint32_t count, float *logits, float *rows)
{
    const uint32_t batch = (uint32_t)exec_graph(exec)->batch;
    const size_t classes = (size_t)classes_of(exec);
    for (uint32_t at = 0; at < count; at += batch) {
        const uint32_t n = count - at < batch ? count - at : batch;
        submit(exec, images + (size_t)at * image_size, image_size, labels + at, n);
        exec_read(exec, "logits", logits + at * classes, n * classes * sizeof *logits);
        exec_read(exec, "rows", rows + (size_t)at * ROW_FIELDS, n * ROW_FIELDS * sizeof *rows);
    }
}
