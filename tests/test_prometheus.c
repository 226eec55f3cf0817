/* Prometheus text files, read back by a strict parser of the text format 0.0.4 that knows nothing of the writer. */
#include "base/files.h"
#include "io/prometheus.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_SERIES = 16, MAX_LABELS = 4, MAX_TEXT = 256 };

typedef struct {
    char name[MAX_TEXT];
    char labels[MAX_LABELS][2][MAX_TEXT];
    int n_labels;
    double value;
} Series;

typedef struct {
    char name[MAX_TEXT], help[MAX_TEXT]; /* of the family that is open */
    int families, n;
    Series series[MAX_SERIES];
} Parsed;

static bool take(const char **at, const char *text)
{
    const size_t length = strlen(text);
    if (strncmp(*at, text, length) != 0) {
        return false;
    }
    *at += length;
    return true;
}

static void take_name(const char **at, const char *more, char out[MAX_TEXT])
{
    const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    char allowed[MAX_TEXT];
    (void)snprintf(allowed, sizeof allowed, "%s%s", letters, more);
    assert_non_null(strchr(letters, **at));
    const size_t length = strspn(*at, allowed);
    assert_in_range(length, 1, MAX_TEXT - 1);
    memcpy(out, *at, length);
    out[length] = '\0';
    *at += length;
}

/* To the end character, which is taken too; escapes as the format has them, no others. */
static void take_text(const char **at, char end, char out[MAX_TEXT])
{
    size_t n = 0;
    while (**at != end) {
        assert_true(**at != '\0' && (**at != '\n' || end == '\n'));
        assert_true(n < MAX_TEXT - 1);
        char c = *(*at)++;
        if (c == '\\') {
            c = *(*at)++;
            assert_true(c == '\\' || c == 'n' || (c == '"' && end == '"'));
            c = c == 'n' ? '\n' : c;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    (*at)++;
}

static void take_sample(const char **at, Parsed *out)
{
    assert_true(out->n < MAX_SERIES);
    Series *const series = &out->series[out->n++];
    take_name(at, "0123456789:", series->name);
    assert_string_equal(series->name, out->name);
    if (take(at, "{")) {
        do {
            char(*const label)[MAX_TEXT] = series->labels[series->n_labels++];
            take_name(at, "0123456789", label[0]);
            assert_true(take(at, "=\""));
            take_text(at, '"', label[1]);
        } while (take(at, ","));
        assert_true(take(at, "}"));
    }
    assert_true(take(at, " "));
    char *end;
    series->value = strtod(*at, &end);
    assert_true(end > *at);
    /* No time stamp: the line ends here. */
    assert_int_equal(*end, '\n');
    *at = end + 1;
    for (int i = 0; i < out->n - 1; i++) {
        assert_memory_not_equal(&out->series[i], series, offsetof(Series, value));
    }
}

static void parse(const char *text, Parsed *out)
{
    assert_true(text[0] == '\0' || text[strlen(text) - 1] == '\n');
    for (const char *at = text; *at != '\0';) {
        if (!take(&at, "# HELP ")) {
            take_sample(&at, out);
            continue;
        }
        char name[MAX_TEXT];
        take_name(&at, "0123456789:", name);
        for (int i = 0; i < out->n; i++) {
            assert_string_not_equal(out->series[i].name, name);
        }
        (void)snprintf(out->name, sizeof out->name, "%s", name);
        assert_true(take(&at, " "));
        take_text(&at, '\n', out->help);
        assert_true(take(&at, "# TYPE "));
        take_name(&at, "0123456789:", name);
        assert_string_equal(name, out->name);
        assert_true(take(&at, " gauge\n"));
        out->families++;
    }
}

static void test_write(void **state)
{
    (void)state;
    char folder[] = "/tmp/cudistill-prom-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *const path = path_join(folder, "status.prom");
    const char *const plain[] = {"run", "seed 1", NULL};
    const char *const hard[] = {"run", "a \"b\"\\n\n{}, \xc3\xa9", "x_2", "", NULL};
    const char *const broken[] = {"run", "caf\xe9", NULL};
    const PromMetric metrics[] = {
        {"cudistill_step", "Finished steps", plain, 12345678901.0},
        {"cudistill_step", "Finished steps", hard, 0.1},
        {"cudistill_loss", "Loss: a \"mean\"\nover\\lines", broken, NAN},
        {"cudistill:eta_seconds", "", NULL, INFINITY},
        {"low", "Low", NULL, -INFINITY},
    };
    assert_null(prometheus_write(path, metrics, sizeof metrics / sizeof metrics[0]));
    char *text;
    assert_null(file_read_text(path, 1 << 20, &text));
    Parsed *const parsed = xcalloc(1, sizeof *parsed);
    parse(text, parsed);
    assert_int_equal(parsed->n, 5);
    assert_int_equal(parsed->families, 4);
    const Series *const series = parsed->series;
    assert_true(series[0].value == 12345678901.0 && series[1].value == 0.1);
    assert_true(isnan(series[2].value) && series[3].value == INFINITY);
    assert_true(series[4].value == -INFINITY);
    assert_int_equal(series[1].n_labels, 2);
    assert_string_equal(series[1].labels[0][0], "run");
    assert_string_equal(series[1].labels[0][1], hard[1]);
    assert_string_equal(series[1].labels[1][1], "");
    assert_string_equal(series[2].labels[0][1], "caf\xEF\xBF\xBD");
    assert_non_null(strstr(text, "# HELP cudistill_loss Loss: a \"mean\"\\nover\\\\lines\n"));
    free(text);
    /* Again: replaced whole, nothing else left in the folder. */
    assert_null(prometheus_write(path, metrics, 1));
    assert_null(file_read_text(path, 1 << 20, &text));
    assert_string_equal(text, "# HELP cudistill_step Finished steps\n"
                              "# TYPE cudistill_step gauge\n"
                              "cudistill_step{run=\"seed 1\"} 12345678901\n");
    free(text);
    assert_null(prometheus_write(path, metrics, 0));
    char **names;
    size_t count;
    assert_null(dir_list(folder, &names, &count));
    assert_int_equal(count, 1);
    names_free(names, count);
    free(parsed);
    free(path);
    assert_null(dir_remove(folder));
}

static void test_unwritable(void **state)
{
    (void)state;
    const PromMetric metric = {"low", "Low", NULL, 1};
    Err *const err = prometheus_write("/nowhere/status.prom", &metric, 1);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "/nowhere/status.prom"));
    err_free(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_unwritable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
