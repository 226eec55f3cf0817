/* Options of three numbers. */
#include "cli/triple.h"

#include <math.h>
#include <stdlib.h>

Err *args_triple(const Args *args, const char *option, float least, float out[3])
{
    const char *const text = args_text(args, option, NULL);
    const char *at = text;
    for (int i = 0; text && i < 3; i++) {
        char *end;
        out[i] = strtof(at, &end);
        if (end == at || *end != (i < 2 ? ',' : '\0') || !isfinite(out[i]) || out[i] < least) {
            return err_new(EXIT_USAGE_ERR,
                           "--%s '%s': three numbers of at least %g with commas are needed, as "
                           "0.5071,0.4867,0.4408",
                           option, text, (double)least);
        }
        at = end + 1;
    }
    return NULL;
}
