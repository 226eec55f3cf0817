/* `cudistill bench`: measures single operations. Arguments as a sub-command of train/commands.h. */
#ifndef CUDISTILL_BENCH_COMMAND_BENCH_H
#define CUDISTILL_BENCH_COMMAND_BENCH_H

#include "base/err.h"

/* Code of the error that tells of operations slower than the baseline. */
enum { EXIT_SLOWER = 1 };

Err *command_bench(int argc, char **argv);

#endif
