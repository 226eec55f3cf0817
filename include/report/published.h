/* Published results to stand beside one's own: top-1 in percent by data set, teacher, student and method, each with its
 * source. Read in the README files of the repositories named; values that could not be read there are not listed. Pure. */
#ifndef CUDISTILL_REPORT_PUBLISHED_H
#define CUDISTILL_REPORT_PUBLISHED_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    double top1;
    const char *source;  /* "RepDistiller README, last epoch" */
    int epochs, batch;   /* of the recipe behind the figure */
    double teacher_top1; /* of the teacher behind the figure; 0 = none */
} Published;

/* teacher NULL or "": the student trained alone, method "none". Names as in `cudistill models`, also as others spell them
 * (upper case, '-' for '_', MobileNetV2, ShuffleV1). False when nothing is known. */
bool published_find(const char *dataset, const char *teacher, const char *student,
                    const char *method, Published *out);

/* A warning about this pair that tables in papers call for; NULL = none. */
const char *published_warning(const char *dataset, const char *teacher, const char *student);

/* i-th pair of the table, for listings and tests; false past the end. */
bool published_at(size_t i, const char **dataset, const char **teacher, const char **student,
                  const char **method, Published *out);

#endif
