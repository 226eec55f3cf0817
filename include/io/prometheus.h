/* A Prometheus text file, for the node exporter's textfile collector.
 * Source: https://prometheus.io/docs/instrumenting/exposition_formats (text format 0.0.4) and node_exporter's README. */
#ifndef CUDISTILL_IO_PROMETHEUS_H
#define CUDISTILL_IO_PROMETHEUS_H

#include "base/err.h"

#include <stddef.h>

typedef struct {
    const char *name;          /* [a-zA-Z_:][a-zA-Z0-9_:]* */
    const char *help;          /* any text */
    const char *const *labels; /* name, value, ..., NULL; or NULL. Names [a-zA-Z_][a-zA-Z0-9_]* */
    double value;              /* may be NaN or infinite */
} PromMetric;

/* Replaces the file whole, by rename: every metric is a gauge, without time stamp. Those of one name (with different labels)
 * must stand together; the first one's help is written. A name that is none is a bug and ends the process. */
Err *prometheus_write(const char *path, const PromMetric *metrics, size_t count);

#endif
