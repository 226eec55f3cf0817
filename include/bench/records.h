/* Measurements as JSON lines, and their comparison with those of an earlier run. One object a line; "case" names the
 * measurement ("distill B=64 C=100 method=kd bf16 warm"), "device" and "threads" the machine; a baseline is such a file.
 *
 * Pure but for baseline_load. */
#ifndef CUDISTILL_BENCH_RECORDS_H
#define CUDISTILL_BENCH_RECORDS_H

#include "backend/backend.h"
#include "bench/measure.h"

typedef struct {
    BenchPoint point;
    bool cold, graph;
    const char *clock;
    Timing timing;
    double bytes, flops;
    double copy_speed; /* bytes a second */
} BenchRecord;

/* Caller frees the texts. */
char *record_case(const BenchRecord *record);
char *record_json(const BenchRecord *record, const char *backend, const DeviceInfo *info);
double record_bytes_per_s(const BenchRecord *record);

typedef struct {
    char *name, *device;
    int threads;
    double median_s;
} BaselineEntry;
typedef struct {
    BaselineEntry *entries;
    int count;
    size_t capacity;
} Baseline;

/* EXIT_NO_INPUT when absent, EXIT_BAD_DATA with the line that is not such an object. */
Err *baseline_load(const char *path, Baseline *out);
void baseline_free(Baseline *baseline);
/* Seconds of the last entry for the case on the device, or 0 when there is none. */
double baseline_find(const Baseline *baseline, const char *name, const char *device, int threads);
bool baseline_slower(double median_s, double baseline_s, double tolerance);

#endif
