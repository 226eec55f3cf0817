/* `cudistill bench op`: times one operation on a device for every combination of the values of its axes, prints a table, and
 * compares with an earlier run. */
#ifndef CUDISTILL_BENCH_BENCH_OP_H
#define CUDISTILL_BENCH_BENCH_OP_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Code of the error that tells of operations slower than the baseline. */
enum { EXIT_SLOWER = 1 };
/* Share by which a case may be slower than the baseline, where nothing else is said. */
#define BENCH_TOLERANCE 0.1

typedef struct {
    const char *op;          /* name in problem_list */
    const char *const *axes; /* "B=64,1024"; axes that are not named keep their defaults */
    size_t n_axes;
    const char *dtypes; /* "fp32,bf16"; NULL: those the device is made for */
    const char *device;
    bool warm, cold;      /* caches as the run before left them; flushed before each run */
    bool graph;           /* replay runs that were recorded once */
    const char *json;     /* file that the results go to as JSON lines; or NULL */
    const char *baseline; /* such a file; or NULL */
    double tolerance;
    double min_time_s; /* sampled for each point; 0 = 0.5 */
    int buffer_mib; /* flushes the caches, and is copied for comparison; 0 = twice the last-level cache */
    int threads; /* of the cpu device; 0 = as many as it may use */
} BenchOptions;

/* EXIT_SLOWER when a case is slower than in the baseline, EXIT_USAGE_ERR for unknown names and values. */
Err *bench_op_run(const BenchOptions *options);
/* The operations with their axes, defaults and bytes, on stdout. */
void bench_op_list(void);

#endif
