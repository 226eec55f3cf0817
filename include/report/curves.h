/* Columns of a run's records as curves, for the charts of one run and of several. */
#ifndef CUDISTILL_REPORT_CURVES_H
#define CUDISTILL_REPORT_CURVES_H

#include "report/page.h"
#include "report/svg.h"

typedef struct {
    double *x, *y;
    size_t count;
    double last; /* the last finite y; NaN without one */
} Curve;

/* True where no epoch has ended: x is the step, else the epoch. */
bool curve_by_step(const RunData *run);
/* The member of RunPoint (a double) at `offset`. fine: every progress line where there are more of them than epochs. */
Curve curve_of(const RunData *run, size_t offset, bool fine);
void curve_free(Curve *curve);

#endif
