/* Runs an evaluation graph over a data set that lies in memory: batches are slices of it, in order; the last one may be
 * smaller. Counts are whole numbers per batch and are added as integers. */
#include "train/evaluate.h"

#include "base/log.h"
#include "kernels/distill_spec.h"
#include "train/signals.h"

#include <math.h>

EvalResult evaluate(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop)
{
    EvalResult result = {0};
    const int batch = exec_graph(exec)->batch;
    const double begin = now_s();
    const size_t image_bytes = dataset_image_size(dataset);
    const int top1 = as_teacher ? SUM_TTOP1 : SUM_TOP1;
    const int top5 = as_teacher ? SUM_TTOP5 : SUM_TOP5;
    const int ce = as_teacher ? SUM_CE_T : SUM_CE_S;
    double loss = 0.0;
    for (uint32_t at = 0; at < dataset->count; at += (uint32_t)batch) {
        const uint32_t left = dataset->count - at;
        const uint32_t rows = left < (uint32_t)batch ? left : (uint32_t)batch;
        exec_write(exec, "images", dataset->images + (size_t)at * image_bytes, rows * image_bytes);
        exec_write(exec, "labels", dataset->labels + at, rows * sizeof *dataset->labels);
        exec_run(exec, &(ExecRun){.rows = (int)rows, .scale = 1.0f});
        float sums[SUM_FIELDS];
        exec_read(exec, "sums", sums, sizeof sums);
        result.right1 += lrintf(sums[top1]);
        result.right5 += lrintf(sums[top5]);
        loss += (double)sums[ce];
        result.count += rows;
        if (may_stop && signals_pending()) {
            result.stopped = true;
            break;
        }
    }
    result.seconds = now_s() - begin;
    if (result.count > 0) {
        result.top1 = 100.0 * (double)result.right1 / (double)result.count;
        result.top5 = 100.0 * (double)result.right5 / (double)result.count;
        result.loss = loss / (double)result.count;
    }
    return result;
}
