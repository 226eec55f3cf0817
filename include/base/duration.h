/* Lengths of time as people write them. */
#ifndef CUDISTILL_BASE_DURATION_H
#define CUDISTILL_BASE_DURATION_H

#include <stdbool.h>

/* "90" or "90s", "15m", "12h", "1d", "23h50m" (each unit once, in falling order), "1.5h": seconds above 0 and at most ten years.
 * False where the text is none of these. */
bool duration_parse(const char *text, double *seconds);

#endif
