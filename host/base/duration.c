/* Numbers with units, added up. */
#include "base/duration.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const char UNITS[] = "dhms";
static const double UNIT_SECONDS[] = {86400.0, 3600.0, 60.0, 1.0};
static const double LONGEST_S = 3650.0 * 86400.0;

bool duration_parse(const char *text, double *seconds)
{
    double total = 0.0;
    int last = -1; /* the unit before */
    const char *at = text;
    while (*at != '\0') {
        char *end;
        if (!isdigit((unsigned char)*at)) {
            return false; /* no sign, no space, no nan */
        }
        const double number = strtod(at, &end);
        const char *unit = *end != '\0' ? strchr(UNITS, *end) : NULL;
        if (*end != '\0' && unit == NULL) {
            return false;
        }
        const int rank = unit != NULL ? (int)(unit - UNITS) : 3;
        if (rank <= last || (unit == NULL && last >= 0)) {
            return false; /* units fall; a bare number stands alone */
        }
        total += number * UNIT_SECONDS[rank];
        last = rank;
        at = end + (unit != NULL);
    }
    if (!(total > 0.0 && total <= LONGEST_S)) {
        return false;
    }
    *seconds = total;
    return true;
}
