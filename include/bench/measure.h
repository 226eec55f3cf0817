/* Times an operation, in the habits of nvbench and nccl-tests.
 *
 * warm: runs follow each other; a sample is the mean of so many of them that clocks and launches do not matter. cold:
 * before each run a buffer larger than the last-level cache is written, and a sample is one run. With `graph` the runs of
 * a sample are recorded once and replayed (Backend.capture_begin).
 *
 * The clock is the device's own events on a GPU; on hosts, and where the CUDA runtime does not show its events, the
 * host's monotonic clock around submission and synchronisation.
 *
 * Life cycle: measure_open, measure_run for each operation, measure_close. One thread. */
#ifndef CUDISTILL_BENCH_MEASURE_H
#define CUDISTILL_BENCH_MEASURE_H

#include "bench/lab.h"

typedef struct {
    double median, p10, p90; /* seconds a run */
    double
        noise; /* (p90 - p10) / median: what an interrupted run does to a deviation hides the rest */
    int samples, per_sample; /* runs in a sample */
} Timing;

typedef struct {
    bool cold, graph;
    double min_time_s; /* sampled time; 0 = 0.5 */
} MeasureOptions;

typedef struct Measure Measure;

/* Makes the buffers (buffer_bytes each, 0 = twice the last-level cache, 256 MiB on a GPU) and measures the speed of a plain
 * copy between them. */
Err *measure_open(Backend *backend, size_t buffer_bytes, Measure **out);
void measure_close(Measure *measure);
/* Bytes read and written a second by a plain copy larger than the caches. */
double measure_copy_speed(const Measure *measure);
const char *measure_clock(const Measure *measure); /* "events", "host" */
Timing measure_run(Measure *measure, BenchLab *lab, const MeasureOptions *options);
/* Statistics of `count` samples; sorts them. */
Timing measure_summary(double *samples, int count, int per_sample);

#endif
