/* Accuracy of a network over a data set: every image once, in order, exact counts. */
#ifndef CUDISTILL_TRAIN_EVALUATE_H
#define CUDISTILL_TRAIN_EVALUATE_H

#include "backend/exec.h"
#include "base/half.h"
#include "data/dataset.h"

typedef struct {
    double top1, top5; /* percent */
    double loss;       /* mean of -log p_y */
    long count;        /* images */
    long right1, right5;
    double seconds;
    bool stopped; /* a signal came and may_stop was given: the figures are of a part */
} EvalResult;

/* What is kept of every image, in the data set's order; NULL members are not wanted. */
typedef struct {
    /* [count][classes], by logits_to_half */
    fp16 *logits;
    int32_t *chosen; /* [count]: the predicted class, -1 where there is none */
    float *energies; /* [count]; as_teacher only */
} EvalKeep;

/* exec runs a graph of nets_eval_graph; its weights must have been refreshed. as_teacher: which sums
 * to read. may_stop: leave off when a signal is pending. keep may be NULL. */
EvalResult evaluate_keeping(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop,
                            const EvalKeep *keep);
EvalResult evaluate(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop);
/* Any images through the same graph: logits [count][classes], rows [count][ROW_FIELDS]. */
void evaluate_images(Exec *exec, const uint8_t *images, size_t image_size, const int32_t *labels,
                     uint32_t count, float *logits, float *rows);
/* One row rounded to 16 bits, finite values beyond the type's range to its largest. Where rounding makes the chosen
 * class tie with one that would be preferred for its lower index, the chosen one gets the next larger value: who takes
 * the largest element of the file sees what the network chose. */
void logits_to_half(const float *logits, int classes, int32_t chosen, fp16 *out);

#endif
