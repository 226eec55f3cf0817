/* Accuracy of a network over a data set: every image once, in order, exact counts. */
#ifndef CUDISTILL_TRAIN_EVALUATE_H
#define CUDISTILL_TRAIN_EVALUATE_H

#include "backend/exec.h"
#include "data/dataset.h"

typedef struct {
    double top1, top5; /* percent */
    double loss;       /* mean of -log p_y */
    long count;        /* images */
    long right1, right5;
    double seconds;
    bool stopped; /* a signal came and may_stop was given: the figures are of a part */
} EvalResult;

/* exec runs a graph of nets_eval_graph; its weights must have been refreshed. as_teacher: which sums
 * to read. may_stop: leave off when a signal is pending. */
EvalResult evaluate(Exec *exec, const Dataset *dataset, bool as_teacher, bool may_stop);

#endif
