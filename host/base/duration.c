/* Numbers with units, added up. */
#include "base/duration.h"

#include <stdlib.h>
#include <string.h>

static const char UNITS[] = "dhms";
static const double UNIT_SECONDS[] = {86400.0, 3600.0, 60.0, 1.0};
static const double LONGEST_S = 3650.0 * 86400.0;

/* Digits with at most one point between them; strtod alone would also take a sign, "0x10", "1e3" and "inf". */
static bool read_number(const char *text, double *number, const char **end)
{
    static const char digits[] = "0123456789";
    size_t length = strspn(text, digits);
    if (length == 0) {
        return false;
    }
    if (text[length] == '.') {
        const size_t decimals = strspn(text + length + 1, digits);
        if (decimals == 0) {
            return false;
        }
        length += 1 + decimals;
    }
    char *stop;
    *number = strtod(text, &stop);
    *end = text + length;
    return stop == *end;
}

bool duration_parse(const char *text, double *seconds)
{
    double total = 0.0;
    int last = -1; /* the unit before */
    const char *at = text;
    while (*at != '\0') {
        double number;
        const char *end;
        if (!read_number(at, &number, &end)) {
            return false;
        }
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
