/* Event files: records against an independent CRC-32C, what is read back, damage of every byte, full disks, resumed runs; and
 * what TensorBoard itself makes of them (test_events.py). */
#include "base/files.h"
#include "io/events.h"
#include "io/png.h"
#include "python.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define PYTHON_MODULES "tensorboard, numpy, PIL"

enum { MAX_VALUES = 4096, HISTOGRAM_VALUES = 5000, SIDE = 12 };

static char *folder_new(void)
{
    char name[] = "/tmp/cudistill-events-XXXXXX";
    assert_non_null(mkdtemp(name));
    return xstrdup(name);
}

static void folder_free(char *folder)
{
    assert_null(dir_remove(folder));
    free(folder);
}

/* The only file of a folder, or its last in the order of names. */
static char *last_file(const char *folder)
{
    char **names;
    size_t count;
    assert_null(dir_list(folder, &names, &count));
    assert_true(count > 0);
    char *const path = path_join(folder, names[count - 1]);
    names_free(names, count);
    return path;
}

typedef struct {
    EventKind kinds[MAX_VALUES];
    char tags[MAX_VALUES][64];
    int64_t steps[MAX_VALUES];
    double values[MAX_VALUES];
    double count, sum, min, max;
    uint8_t *png;
    size_t png_size;
    int height;
    int width;
    int n;
} Seen;

static void see(void *context, const EventValue *value)
{
    Seen *const seen = context;
    assert_true(seen->n < MAX_VALUES);
    seen->kinds[seen->n] = value->kind;
    assert_non_null(value->tag);
    (void)snprintf(seen->tags[seen->n], sizeof seen->tags[0], "%s", value->tag);
    seen->steps[seen->n] = value->step;
    seen->values[seen->n] = value->value;
    if (value->kind == EVENT_HISTOGRAM) {
        seen->count = value->count;
        seen->sum = value->sum;
        seen->min = value->min;
        seen->max = value->max;
    }
    if (value->kind == EVENT_IMAGE) {
        free(seen->png);
        seen->png = xmalloc(value->png_size);
        memcpy(seen->png, value->png, value->png_size);
        seen->png_size = value->png_size;
        seen->height = value->height;
        seen->width = value->width;
    }
    seen->n++;
}

/* Fuzzed messages: every byte that is handed out must be readable. */
static void touch(void *context, const EventValue *value)
{
    unsigned *const sum = context;
    *sum += (unsigned)strlen(value->tag);
    for (size_t i = 0; i < value->png_size; i++) {
        *sum += value->png[i];
    }
}

/* CRC-32C a bit at a time. */
static uint32_t crc32c(const uint8_t *data, size_t size)
{
    uint32_t sum = ~0U;
    for (size_t i = 0; i < size; i++) {
        sum ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            sum = (sum >> 1) ^ (sum & 1 ? 0x82f63b78U : 0);
        }
    }
    return ~sum;
}

static uint32_t masked(uint32_t sum)
{
    return ((sum >> 15) | (sum << 17)) + 0xa282ead8U;
}

static uint32_t le32(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static void picture_fill(uint8_t *rgb)
{
    for (int i = 0; i < SIDE * SIDE * 3; i++) {
        rgb[i] = (uint8_t)(i * 37 + i / 7);
    }
}

static float histogram_value(int i)
{
    static const float special[] = {0,      1e-13F, -1e-13F,  1e25F,    -1e25F,
                                    1e-12F, NAN,    INFINITY, -INFINITY};
    if (i < 9) {
        return special[i];
    }
    const double x = fmod(i * 0.61803398875, 1.0) - 0.5;
    return (float)(x * exp(8 * x));
}

static void histogram_fill(float *values)
{
    for (int i = 0; i < HISTOGRAM_VALUES; i++) {
        values[i] = histogram_value(i);
    }
}

/* Everything that can be written, in one file. */
static void write_all(const char *folder)
{
    Events *events;
    assert_null(events_open(folder, -1, &events));
    const EventsHparam params[] = {{"optim.lr", NULL, 0.05},
                                   {"model.student", "wrn_16_2", 0},
                                   {"distill.limit", NULL, INFINITY},
                                   {"run.notes", "caf\xe9", 0}};
    assert_null(events_session_start(events, "a run", params, 4));
    for (int step = 0; step < 10; step++) {
        assert_null(events_scalar(events, "loss/total", step, step * 0.1 + 1.0 / 3));
        assert_null(events_scalar(events, "zero", step, 0));
    }
    uint8_t rgb[SIDE * SIDE * 3];
    picture_fill(rgb);
    uint8_t *png;
    size_t size;
    assert_null(png_encode(rgb, SIDE, SIDE, &png, &size));
    assert_null(events_image(events, "samples", 3, png, size, SIDE, SIDE));
    free(png);
    float *const values = xmalloc(HISTOGRAM_VALUES * sizeof *values);
    histogram_fill(values);
    assert_null(events_histogram(events, "energy", 4, values, HISTOGRAM_VALUES));
    assert_null(events_histogram(events, "empty", 4, values, 0));
    free(values);
    assert_null(events_session_end(events, true));
    events_close(events);
}

static void test_records(void **state)
{
    (void)state;
    assert_int_equal(crc32c((const uint8_t *)"123456789", 9), 0xE3069283);
    assert_int_equal(masked(0xE3069283), 0xC78AB0E5);
    char *const folder = folder_new();
    write_all(folder);
    char *const path = last_file(folder);
    assert_non_null(strstr(path, "/events.out.tfevents."));
    FileMap map;
    assert_null(file_map(path, &map));
    size_t at = 0;
    long records = 0;
    while (at < map.size) {
        const uint8_t *const data = map.data + at;
        const uint32_t length = le32(data);
        assert_int_equal(le32(data + 4), 0);
        assert_int_equal(le32(data + 8), masked(crc32c(data, 8)));
        assert_int_equal(le32(data + 12 + length), masked(crc32c(data + 12, length)));
        at += 16 + length;
        records++;
    }
    assert_int_equal(at, map.size);
    assert_int_equal(records, 26);
    /* After the wall time (9 bytes): field 3, a text. */
    assert_memory_equal(map.data + 12 + 9,
                        "\x1a\x0d"
                        "brain.Event:2",
                        15);
    file_unmap(&map);
    free(path);
    folder_free(folder);
}

static int find(const Seen *seen, const char *tag)
{
    for (int i = 0; i < seen->n; i++) {
        if (strcmp(seen->tags[i], tag) == 0) {
            return i;
        }
    }
    fail_msg("no value '%s'", tag);
    return -1;
}

static void test_read_back(void **state)
{
    (void)state;
    char *const folder = folder_new();
    write_all(folder);
    char *const path = last_file(folder);
    FileMap map;
    assert_null(file_map(path, &map));
    Seen *const seen = xcalloc(1, sizeof *seen);
    EventsSummary summary;
    assert_null(events_read(map.data, map.size, see, seen, &summary));
    assert_int_equal(summary.records, 26);
    assert_int_equal(seen->n, 26);
    assert_false(summary.torn);
    assert_int_equal(seen->kinds[0], EVENT_VERSION);
    assert_string_equal(seen->tags[0], "brain.Event:2");
    assert_int_equal(seen->kinds[find(seen, "_hparams_/session_start_info")], EVENT_OTHER);
    const int first = find(seen, "loss/total");
    for (int step = 0; step < 10; step++) {
        const int i = first + 2 * step;
        assert_int_equal(seen->kinds[i], EVENT_SCALAR);
        assert_int_equal(seen->steps[i], step);
        assert_true(seen->values[i] == (double)(float)(step * 0.1 + 1.0 / 3));
        assert_int_equal(seen->kinds[i + 1], EVENT_SCALAR);
        assert_true(seen->values[i + 1] == 0);
    }
    assert_int_equal(seen->kinds[find(seen, "samples")], EVENT_IMAGE);
    assert_int_equal(seen->height, SIDE);
    uint8_t *rgb;
    int height;
    int width;
    assert_null(png_decode(seen->png, seen->png_size, 1000, &rgb, &height, &width));
    uint8_t expected[SIDE * SIDE * 3];
    picture_fill(expected);
    assert_memory_equal(rgb, expected, sizeof expected);
    free(rgb);
    const int empty = find(seen, "empty");
    assert_int_equal(seen->kinds[empty], EVENT_HISTOGRAM);
    assert_true(seen->count == 0 && seen->sum == 0 && seen->min == 0 && seen->max == 0);
    free(seen->png);
    free(seen);
    file_unmap(&map);
    free(path);
    folder_free(folder);
}

static void test_cut_and_flipped(void **state)
{
    (void)state;
    char *const folder = folder_new();
    Events *events;
    assert_null(events_open(folder, -1, &events));
    assert_null(events_scalar(events, "loss", 1, 2.5));
    assert_null(events_scalar(events, "loss", 2, 2.25));
    events_close(events);
    char *const path = last_file(folder);
    char *text;
    FileMap map;
    assert_null(file_map(path, &map));
    text = xmalloc(map.size);
    memcpy(text, map.data, map.size);
    const size_t size = map.size;
    file_unmap(&map);
    uint8_t *const data = (uint8_t *)text;
    size_t ends[4] = {0};
    for (int i = 0; i < 3; i++) {
        ends[i + 1] = ends[i] + 16 + le32(data + ends[i]);
    }
    assert_int_equal(ends[3], size);
    Seen *const seen = xcalloc(1, sizeof *seen);
    EventsSummary summary;
    for (size_t cut = 0; cut <= size; cut++) {
        seen->n = 0;
        assert_null(events_read(data, cut, see, seen, &summary));
        const bool whole = cut == 0 || cut == ends[1] || cut == ends[2] || cut == ends[3];
        assert_int_equal(summary.torn, !whole);
        const long records = (cut >= ends[1]) + (cut >= ends[2]) + (cut >= ends[3]);
        assert_int_equal(summary.records, records);
    }
    for (size_t i = 0; i < size; i++) {
        data[i] ^= (uint8_t)(1U << (i % 8));
        seen->n = 0;
        Err *const err = events_read(data, size, see, seen, &summary);
        assert_non_null(err);
        assert_int_equal(err->code, EXIT_BAD_DATA);
        char place[32];
        const int record = (i >= ends[1]) + (i >= ends[2]);
        (void)snprintf(place, sizeof place, "byte %zu:", ends[record]);
        assert_non_null(strstr(err->message, place));
        assert_int_equal(summary.records, record);
        err_free(err);
        data[i] ^= (uint8_t)(1U << (i % 8));
    }
    free(seen);
    free(text);
    free(path);
    folder_free(folder);
}

/* Messages with bytes changed and the checksums made right again: an error or values, never a crash, never more than the
 * message holds. */
static void test_hostile_messages(void **state)
{
    (void)state;
    char *const folder = folder_new();
    write_all(folder);
    char *const path = last_file(folder);
    FileMap map;
    assert_null(file_map(path, &map));
    uint32_t random = 12345;
    unsigned sum = 0;
    size_t at = 0;
    long refused = 0;
    while (at < map.size) {
        const uint32_t length = le32(map.data + at);
        uint8_t *const copy = xmalloc(16 + length);
        for (int round = 0; round < 200; round++) {
            memcpy(copy, map.data + at, 16 + length);
            for (int change = 0; change <= round % 3; change++) {
                random = random * 1664525U + 1013904223U;
                copy[12 + (random >> 8) % length] = (uint8_t)(random >> 24);
            }
            put32(copy + 12 + length, masked(crc32c(copy + 12, length)));
            EventsSummary summary;
            Err *const err = events_read(copy, 16 + length, touch, &sum, &summary);
            refused += err != NULL;
            err_free(err);
        }
        free(copy);
        at += 16 + length;
    }
    assert_true(refused > 100);
    file_unmap(&map);
    free(path);
    folder_free(folder);
}

/* A record of many empty values would take a hundred times its size in memory. */
static void test_memory_budget(void **state)
{
    (void)state;
    const uint32_t length = 2000000 + 5;
    uint8_t *const record = xcalloc(1, 16 + length);
    put32(record, length);
    put32(record + 8, masked(crc32c(record, 8)));
    uint8_t *const message = record + 12;
    message[0] = 0x2a; /* summary: 2000001 bytes as a varint of four */
    const uint32_t inside = length - 5;
    for (int i = 0; i < 4; i++) {
        message[1 + i] = (uint8_t)((inside >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));
    }
    for (uint32_t i = 0; i < inside; i += 2) {
        message[5 + i] = 0x0a;
    }
    put32(message + length, masked(crc32c(message, length)));
    unsigned sum = 0;
    EventsSummary summary;
    Err *const err = events_read(record, 16 + length, touch, &sum, &summary);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_BAD_DATA);
    err_free(err);
    free(record);
}

static void test_resume_file(void **state)
{
    (void)state;
    char *const folder = folder_new();
    /* A file from the future: the clock was set back since. */
    char *const future = path_join(folder, "events.out.tfevents.4000000000.host.1");
    assert_null(file_write_atomic(future, "", 0));
    char *paths[3];
    for (int i = 0; i < 3; i++) {
        Events *events;
        assert_null(events_open(folder, i == 0 ? -1 : 7, &events));
        events_close(events);
        paths[i] = last_file(folder);
        assert_true(strcmp(paths[i], future) > 0);
        assert_true(i == 0 || strcmp(paths[i], paths[i - 1]) > 0);
    }
    FileMap map;
    assert_null(file_map(paths[2], &map));
    Seen *const seen = xcalloc(1, sizeof *seen);
    EventsSummary summary;
    assert_null(events_read(map.data, map.size, see, seen, &summary));
    assert_int_equal(seen->n, 2);
    assert_string_equal(seen->tags[1], "session_log");
    assert_int_equal(seen->steps[1], 8);
    free(seen);
    file_unmap(&map);
    for (int i = 0; i < 3; i++) {
        free(paths[i]);
    }
    free(future);
    folder_free(folder);
}

static void test_disk_full(void **state)
{
    (void)state;
    char *const folder = folder_new();
    Events *events;
    assert_null(events_open(folder, -1, &events));
    assert_null(events_scalar(events, "before", 1, 1));
    char *const path = last_file(folder);
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small = {.rlim_cur = 100, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    Err *const err = events_scalar(events, "lost, since it does not fit", 2, 2);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, handler);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_IO);
    assert_non_null(strstr(err->message, path));
    err_free(err);
    assert_null(events_scalar(events, "after", 3, 3));
    events_close(events);
    FileMap map;
    assert_null(file_map(path, &map));
    Seen *const seen = xcalloc(1, sizeof *seen);
    EventsSummary summary;
    assert_null(events_read(map.data, map.size, see, seen, &summary));
    assert_int_equal(seen->n, 3);
    assert_string_equal(seen->tags[1], "before");
    assert_string_equal(seen->tags[2], "after");
    free(seen);
    file_unmap(&map);
    free(path);
    folder_free(folder);
}

static void test_unwritable(void **state)
{
    (void)state;
    char *const folder = folder_new();
    char *const file = path_join(folder, "file");
    assert_null(file_write_atomic(file, "x", 1));
    Events *events;
    Err *const err = events_open(file, -1, &events);
    assert_non_null(err);
    assert_null(events);
    assert_non_null(strstr(err->message, file));
    err_free(err);
    free(file);
    folder_free(folder);
}

/* Steps 0..9, killed while writing step 10; resumed after step 5. */
static void write_resumed(const char *folder)
{
    Events *events;
    assert_null(events_open(folder, -1, &events));
    const EventsHparam lr = {"optim.lr", NULL, 0.1};
    assert_null(events_session_start(events, "resumed", &lr, 1));
    for (int step = 1; step <= 9; step++) {
        assert_null(events_scalar(events, "loss", step, step));
        assert_null(events_scalar(events, "only early", step, step));
    }
    events_close(events);
    char *const path = last_file(folder);
    FileMap map;
    assert_null(file_map(path, &map));
    assert_int_equal(truncate(path, (off_t)map.size - 5), 0);
    file_unmap(&map);
    free(path);
    assert_null(events_open(folder, 5, &events));
    assert_null(events_session_start(events, "resumed", &lr, 1));
    for (int step = 6; step <= 7; step++) {
        assert_null(events_scalar(events, "loss", step, 100 + step));
    }
    assert_null(events_session_end(events, false));
    events_close(events);
}

static void test_tensorboard(void **state)
{
    (void)state;
    if (!python_has(PYTHON_MODULES)) {
        python_skip(PYTHON_MODULES);
        skip();
    }
    char *const folder = folder_new();
    char *const all = path_join(folder, "all");
    char *const resumed = path_join(folder, "resumed");
    write_all(all);
    write_resumed(resumed);
    float *const values = xmalloc(HISTOGRAM_VALUES * sizeof *values);
    histogram_fill(values);
    uint8_t rgb[SIDE * SIDE * 3];
    picture_fill(rgb);
    char *const floats = path_join(folder, "histogram.f32");
    char *const pixels = path_join(folder, "picture.rgb");
    assert_null(file_write_atomic(floats, values, HISTOGRAM_VALUES * sizeof *values));
    assert_null(file_write_atomic(pixels, rgb, sizeof rgb));
    char *const script = xformat("tests/test_events.py '%s'", folder);
    FILE *const stream = python_open(script);
    assert_non_null(stream);
    char line[256];
    while (fgets(line, sizeof line, stream)) {
        printf("%s", line);
    }
    assert_int_equal(python_close(stream), 0);
    free(script);
    free(pixels);
    free(floats);
    free(values);
    free(resumed);
    free(all);
    folder_free(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),         cmocka_unit_test(test_read_back),
        cmocka_unit_test(test_cut_and_flipped), cmocka_unit_test(test_hostile_messages),
        cmocka_unit_test(test_memory_budget),   cmocka_unit_test(test_resume_file),
        cmocka_unit_test(test_disk_full),       cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_tensorboard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
