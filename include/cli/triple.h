/* Options of three numbers with commas, one for each channel: --mean 0.5071,0.4867,0.4408. */
#ifndef CUDISTILL_CLI_TRIPLE_H
#define CUDISTILL_CLI_TRIPLE_H

#include "cli/args.h"

/* `least` is the smallest that makes sense. An option that was not given leaves `out` as it is. EXIT_USAGE_ERR. */
Err *args_triple(const Args *args, const char *option, float least, float out[3]);

#endif
