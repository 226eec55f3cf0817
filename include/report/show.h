/* Pictures of a data set as one PNG or as a page with labels. */
#ifndef CUDISTILL_REPORT_SHOW_H
#define CUDISTILL_REPORT_SHOW_H

#include "base/err.h"
#include "base/text.h"
#include "data/dataset.h"
#include "data/policy.h"

#include <stdbool.h>
#include <stdint.h>

enum { SHOW_COUNT_MAX = 4096, SHOW_SCALE_MAX = 16 };

typedef struct {
    const char *spec; /* as dataset_open takes it */
    Split split;
    int count;           /* pictures, 1..SHOW_COUNT_MAX; fewer where the set has fewer */
    const char *classes; /* names or numbers with commas between; NULL = all */
    bool
        augment; /* random crop of an image padded by an eighth of its side, and flip: data/augment.h, epoch 1 */
    uint64_t seed; /* which images, and their views */
    int columns;   /* of the PNG */
    int scale;     /* pixels a pixel, of the PNG */
    bool html;
    const char *out;   /* replaced whole */
    PolicySpec policy; /* after crop and flip, where those are asked for; {0} = none */
} ShowRequest;

/* What was written and the counts of the classes are added to `said`. EXIT_CONFIG_ERR for classes that there are not
 * (with a suggestion) or a grid beyond 32767 pixels; errors of dataset_open and of writing. */
Err *dataset_show(const ShowRequest *request, Text *said);

#endif
