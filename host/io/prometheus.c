/* Prometheus text files: the whole file is built in memory and renamed into place, since a collector may read at any time. */
#include "io/prometheus.h"

#include "base/files.h"
#include "base/text.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool name_fits(const char *name, bool colon)
{
    if (isdigit((unsigned char)name[0]) || name[0] == '\0') {
        return false;
    }
    for (const char *at = name; *at != '\0'; at++) {
        const bool letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
        if (!letter && !(*at >= '0' && *at <= '9') && *at != '_' && !(colon && *at == ':')) {
            return false;
        }
    }
    return true;
}

/* Backslashes and newlines, and within quotes also these, are escaped; the file must be UTF-8. */
static void add_escaped(Text *out, const char *text, bool quoted)
{
    Text clean = {0};
    text_utf8(&clean, text);
    for (const char *at = clean.text; *at != '\0'; at++) {
        if (*at == '\\') {
            text_puts(out, "\\\\");
        } else if (*at == '\n') {
            text_puts(out, "\\n");
        } else if (*at == '"' && quoted) {
            text_puts(out, "\\\"");
        } else {
            text_bytes(out, at, 1);
        }
    }
    text_free(&clean);
}

static void add_labels(Text *out, const PromMetric *metric)
{
    if (!metric->labels || !metric->labels[0]) {
        return;
    }
    for (size_t i = 0; metric->labels[i]; i += 2) {
        CHECK(name_fits(metric->labels[i], false), "'%s' is no name of a label of %s",
              metric->labels[i], metric->name);
        CHECK(metric->labels[i + 1], "label %s of %s has no value", metric->labels[i],
              metric->name);
        text_add(out, "%s%s=\"", i == 0 ? "{" : ",", metric->labels[i]);
        add_escaped(out, metric->labels[i + 1], true);
        text_puts(out, "\"");
    }
    text_puts(out, "}");
}

static void add_value(Text *out, double value)
{
    if (isnan(value)) {
        text_puts(out, " NaN\n");
    } else if (isinf(value)) {
        text_puts(out, value > 0 ? " +Inf\n" : " -Inf\n");
    } else {
        text_add(out, " %.15g\n", value);
    }
}

/* Whether the metric continues the one before it. A name may not come again after another. */
static bool continues(const PromMetric *metrics, size_t i)
{
    const bool same = i > 0 && strcmp(metrics[i].name, metrics[i - 1].name) == 0;
    for (size_t k = 0; !same && k < i; k++) {
        CHECK(strcmp(metrics[k].name, metrics[i].name) != 0,
              "the series of %s do not stand together", metrics[i].name);
    }
    return same;
}

Err *prometheus_write(const char *path, const PromMetric *metrics, size_t count)
{
    Text out = {0};
    for (size_t i = 0; i < count; i++) {
        const PromMetric *const metric = &metrics[i];
        CHECK(name_fits(metric->name, true), "'%s' is no name of a metric", metric->name);
        if (!continues(metrics, i)) {
            text_add(&out, "# HELP %s ", metric->name);
            add_escaped(&out, metric->help, false);
            text_add(&out, "\n# TYPE %s gauge\n", metric->name);
        }
        text_puts(&out, metric->name);
        add_labels(&out, metric);
        add_value(&out, metric->value);
    }
    Err *const err = file_write_atomic(path, out.text, out.size);
    text_free(&out);
    return err;
}
