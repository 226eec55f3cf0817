/* host/train/metrics.c: what lands in metrics.jsonl and epochs.csv, and what a resume leaves of them. */
#include "base/err.h"
#include "base/files.h"
#include "base/log.h"
#include "train/metrics.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct {
    char dir[64]; /* removed at the end of the test */
    char *run, *jsonl, *csv;
} Place;

static void assert_ok(Err *err)
{
    if (err != NULL) {
        fail_msg("%s", err->message);
    }
}

static void assert_err(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    if (err->code != code || strstr(err->message, part) == NULL) {
        fail_msg("code %d, message '%s'; expected code %d and '%s'", (int)err->code, err->message,
                 (int)code, part);
    }
    err_free(err);
}

static int setup(void **state)
{
    Place *place = xcalloc(1, sizeof *place);
    (void)snprintf(place->dir, sizeof place->dir, "/tmp/test_metrics_XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    place->run = path_join(place->dir, "run");
    place->jsonl = path_join(place->run, "metrics.jsonl");
    place->csv = path_join(place->run, "epochs.csv");
    log_set_level(LOG_ERROR);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    Place *place = *state;
    assert_ok(dir_remove(place->dir));
    free(place->csv);
    free(place->jsonl);
    free(place->run);
    free(place);
    return 0;
}

/* ---- Reading the files back ---- */

typedef struct {
    char *text;
    char *lines[256];
    size_t count;
} Lines;

static void lines_read(const char *path, Lines *out)
{
    *out = (Lines){0};
    assert_ok(file_read_text(path, 1 << 20, &out->text));
    const size_t size = strlen(out->text);
    assert_true(size > 0 && out->text[size - 1] == '\n');
    for (char *line = strtok(out->text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_true(out->count < 256);
        out->lines[out->count++] = line;
    }
}

static void lines_free(Lines *lines)
{
    free(lines->text);
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) {
        fail_msg("no number '%s'", key);
    }
    return json_number_value(value);
}

static json_t *json_line(const Lines *lines, size_t index)
{
    assert_true(index < lines->count);
    json_error_t why;
    json_t *object = json_loads(lines->lines[index], JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(object)) {
        fail_msg("line %zu is no JSON object: %s: %s", index, why.text, lines->lines[index]);
    }
    return object;
}

/* "event:step event:step ..." of all lines. */
static void assert_events(const char *path, const char *expected)
{
    Lines lines;
    lines_read(path, &lines);
    char *text = xstrdup("");
    for (size_t i = 0; i < lines.count; i++) {
        json_t *object = json_line(&lines, i);
        assert_true((json_object_get(object, "schema") != NULL) == (i == 0));
        const json_t *step = json_object_get(object, "step");
        char *longer =
            xformat("%s%s:%d ", text, json_string_value(json_object_get(object, "event")),
                    step != NULL ? (int)json_integer_value(step) : -1);
        free(text);
        text = longer;
        json_decref(object);
    }
    assert_string_equal(text, expected);
    free(text);
    lines_free(&lines);
}

static void assert_number(double found, double expected)
{
    /* Ten digits are written. */
    if (!(fabs(found - expected) <= 1e-9 * fabs(expected))) {
        fail_msg("%.17g, expected %.17g", found, expected);
    }
}

static Meter meter_of_two(void)
{
    float sums[SUM_FIELDS] = {0};
    sums[SUM_ROWS] = 64;
    sums[SUM_LOSS] = 192;
    sums[SUM_CE] = 64;
    sums[SUM_TOP1] = 16;
    sums[SUM_TTOP1] = 48;
    sums[SUM_AGREE] = 32;
    sums[SUM_TERM] = 96;
    sums[SUM_TERM + 1] = 32;
    Meter meter = {0};
    meter_add(&meter, sums);
    sums[SUM_ROWS] = 16;
    sums[SUM_NONFINITE] = 3;
    meter_add(&meter, sums);
    meter.seconds = 0.5;
    meter.data_wait_s = 0.125;
    return meter;
}

static EpochRecord record_of(int epoch, long step)
{
    return (EpochRecord){.epoch = epoch,
                         .step = step,
                         .lr = 0.05,
                         .train_loss = 2.5,
                         .train_ce = 1.25,
                         .train_top1 = 40.5,
                         .teacher_top1 = 75.53,
                         .agreement = 50,
                         .n_terms = 2,
                         .terms = {0.75, 0.5},
                         .eval_top1 = 41.25,
                         .eval_top5 = 71.5,
                         .eval_loss = 2.125,
                         .eval_count = 10000,
                         .images_per_s = 1234.5,
                         .seconds = 40.5,
                         .data_share = 0.01,
                         .phases = {0.125, 0.25, 0.5, 0.125},
                         .best = true};
}

/* ---- Tests ---- */

static void test_meter(void **state)
{
    (void)state;
    Meter meter = meter_of_two();
    assert_true(meter.sums[SUM_ROWS] == 80);
    assert_true(meter.sums[SUM_LOSS] == 384);
    assert_int_equal(meter.steps, 2);
    /* In double: 2^25 steps of 1 would stop growing at 2^24 in float. */
    float one[SUM_FIELDS] = {0};
    one[SUM_ROWS] = 1;
    meter.sums[SUM_ROWS] = 16777216.0;
    meter_add(&meter, one);
    assert_true(meter.sums[SUM_ROWS] == 16777217.0);
    meter_reset(&meter);
    assert_true(meter.sums[SUM_ROWS] == 0 && meter.steps == 0 && meter.seconds == 0);
}

static void check_step_line(const json_t *object)
{
    assert_string_equal(json_string_value(json_object_get(object, "event")), "step");
    assert_int_equal(json_integer_value(json_object_get(object, "step")), 20);
    assert_int_equal(json_integer_value(json_object_get(object, "epoch")), 1);
    assert_int_equal(json_integer_value(json_object_get(object, "steps")), 2);
    assert_number(number(object, "lr"), 0.1);
    assert_number(number(object, "loss"), 384.0 / 80);
    assert_number(number(object, "ce"), 128.0 / 80);
    assert_number(number(object, "top1"), 40);
    assert_number(number(object, "teacher_top1"), 120);
    assert_number(number(object, "agreement"), 80);
    assert_number(number(object, "nonfinite"), 3);
    assert_number(number(object, "images_per_s"), 160);
    assert_number(number(object, "data_share"), 0.25);
    const json_t *terms = json_object_get(object, "terms");
    assert_int_equal(json_array_size(terms), 2);
    assert_number(json_number_value(json_array_get(terms, 0)), 2.4);
    assert_number(json_number_value(json_array_get(terms, 1)), 0.8);
}

static void test_fresh(void **state)
{
    const Place *place = *state;
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, -1, &metrics));
    const Meter meter = meter_of_two();
    assert_ok(metrics_step(metrics, 20, 1, 0.1, &meter, 2, true));
    assert_ok(metrics_event(metrics, "teacher", 20, "\"top1\":75.5,\"note\":\"a \\\"b\\\"\""));
    assert_ok(metrics_event(metrics, "plain", 21, ""));
    const Meter empty = {0};
    assert_ok(metrics_step(metrics, 22, 1, NAN, &empty, 1, true));
    /* Read before closing: every line is already in the file. */
    assert_events(place->jsonl, "open:-1 step:20 teacher:20 plain:21 step:22 ");
    Lines lines;
    lines_read(place->jsonl, &lines);
    json_t *object = json_line(&lines, 0);
    assert_number(number(object, "schema"), 1);
    json_decref(object);
    object = json_line(&lines, 1);
    check_step_line(object);
    json_decref(object);
    object = json_line(&lines, 2);
    assert_number(number(object, "top1"), 75.5);
    assert_true(number(object, "time") > 1.6e9);
    assert_string_equal(json_string_value(json_object_get(object, "note")), "a \"b\"");
    json_decref(object);
    object = json_line(&lines, 4);
    assert_true(json_is_null(json_object_get(object, "lr")));
    assert_true(json_is_null(json_object_get(object, "loss")));
    assert_true(json_is_null(json_array_get(json_object_get(object, "terms"), 0)));
    json_decref(object);
    lines_free(&lines);
    assert_err(metrics_event(metrics, "bad", 23, "\"x\":nan"), EXIT_INTERNAL, place->jsonl);
    assert_err(metrics_event(metrics, "bad", 23, "\"step\":1"), EXIT_INTERNAL, "duplicate");
    assert_events(place->jsonl, "open:-1 step:20 teacher:20 plain:21 step:22 ");
    metrics_close(metrics);
    /* A fresh start begins fresh files. */
    assert_ok(metrics_open(place->run, -1, &metrics));
    assert_events(place->jsonl, "open:-1 ");
    assert_false(path_exists(place->csv));
    metrics_close(metrics);
    metrics_close(NULL);
}

static void test_epochs(void **state)
{
    const Place *place = *state;
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, -1, &metrics));
    EpochRecord record = record_of(1, 782);
    assert_ok(metrics_epoch(metrics, &record));
    record = record_of(2, 1564);
    record.eval_top1 = -1;
    record.train_loss = NAN;
    record.phases[0] = -1.0;
    record.best = false;
    assert_ok(metrics_epoch(metrics, &record));
    metrics_close(metrics);
    Lines lines;
    lines_read(place->csv, &lines);
    assert_int_equal(lines.count, 3);
    assert_string_equal(
        lines.lines[0],
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,step,train_ce,train_top1,"
        "teacher_top1,agreement,train_term1,train_term2,eval_count,images_per_s,seconds,"
        "data_share,best,phase_data,phase_teacher,phase_student,phase_update");
    assert_string_equal(lines.lines[1],
                        "1,2.5,2.125,41.25,71.5,0.05,782,1.25,40.5,75.53,50,0.75,0.5,10000,"
                        "1234.5,40.5,0.01,1,0.125,0.25,0.5,0.125");
    assert_string_equal(lines.lines[2],
                        "2,nan,,,,0.05,1564,1.25,40.5,75.53,50,0.75,0.5,,1234.5,40.5,0.01,0,,,,");
    lines_free(&lines);
    lines_read(place->jsonl, &lines);
    assert_int_equal(lines.count, 3);
    json_t *object = json_line(&lines, 1);
    assert_number(number(object, "eval_top1"), 41.25);
    assert_number(number(object, "eval_count"), 10000);
    assert_true(json_is_true(json_object_get(object, "best")));
    assert_int_equal(json_array_size(json_object_get(object, "terms")), 2);
    assert_number(number(object, "phase_student"), 0.5);
    json_decref(object);
    object = json_line(&lines, 2);
    assert_null(json_object_get(object, "phase_student"));
    assert_null(json_object_get(object, "eval_top1"));
    assert_true(json_is_null(json_object_get(object, "train_loss")));
    json_decref(object);
    lines_free(&lines);
}

/* A table that was begun without the columns of the phases goes on without them. */
static void test_older_columns(void **state)
{
    const Place *place = *state;
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, -1, &metrics));
    metrics_close(metrics);
    static const char head[] = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,step,train_ce,"
                               "train_top1,teacher_top1,agreement,train_term1,train_term2,"
                               "eval_count,images_per_s,seconds,data_share,best";
    assert_ok(file_append_line(place->csv, head));
    assert_ok(metrics_open(place->run, 100, &metrics));
    const EpochRecord record = record_of(1, 782);
    assert_ok(metrics_epoch(metrics, &record));
    metrics_close(metrics);
    Lines lines;
    lines_read(place->csv, &lines);
    assert_int_equal(lines.count, 2);
    assert_string_equal(lines.lines[1],
                        "1,2.5,2.125,41.25,71.5,0.05,782,1.25,40.5,75.53,50,0.75,0.5,10000,"
                        "1234.5,40.5,0.01,1");
    lines_free(&lines);
}

static void write_run(const Place *place)
{
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, -1, &metrics));
    const Meter meter = meter_of_two();
    for (long step = 10; step <= 50; step += 10) {
        assert_ok(metrics_step(metrics, step, (int)(step / 20) + 1, 0.1, &meter, 2, true));
        if (step % 20 == 0) {
            const EpochRecord record = record_of((int)(step / 20), step);
            assert_ok(metrics_epoch(metrics, &record));
        }
    }
    metrics_close(metrics);
    assert_events(place->jsonl,
                  "open:-1 step:10 step:20 epoch:20 step:30 step:40 epoch:40 step:50 ");
}

static void append_raw(const char *path, const char *text, size_t size)
{
    FILE *file = fopen(path, "ab");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Epochs in epochs.csv, as "1 2 ". */
static void assert_epochs(const char *path, const char *expected)
{
    Lines lines;
    lines_read(path, &lines);
    char *text = xstrdup("");
    for (size_t i = 1; i < lines.count; i++) {
        char *longer = xformat("%s%ld ", text, strtol(lines.lines[i], NULL, 10));
        free(text);
        text = longer;
    }
    assert_string_equal(text, expected);
    free(text);
    lines_free(&lines);
}

static void resume_at(const Place *place, long step)
{
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, step, &metrics));
    metrics_close(metrics);
}

static void test_resume(void **state)
{
    const Place *place = *state;
    write_run(place);
    resume_at(place, 40);
    assert_events(place->jsonl,
                  "open:-1 step:10 step:20 epoch:20 step:30 step:40 epoch:40 resume:40 ");
    assert_epochs(place->csv, "1 2 ");
    resume_at(place, 39);
    assert_events(place->jsonl, "open:-1 step:10 step:20 epoch:20 step:30 resume:39 ");
    assert_epochs(place->csv, "1 ");
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, 39, &metrics));
    const EpochRecord record = record_of(2, 40);
    assert_ok(metrics_epoch(metrics, &record));
    metrics_close(metrics);
    assert_epochs(place->csv, "1 2 ");
    resume_at(place, 0);
    assert_events(place->jsonl, "open:-1 resume:0 ");
    Lines lines;
    lines_read(place->csv, &lines);
    assert_int_equal(lines.count, 1);
    lines_free(&lines);
}

/* What a power failure or a full disk leaves: torn last lines, zeros. */
static void test_resume_after_damage(void **state)
{
    const Place *place = *state;
    write_run(place);
    append_raw(place->jsonl, "{\"event\":\"step\",\"st", 19);
    append_raw(place->csv, "3,2.5,2.1", 9);
    resume_at(place, 50);
    assert_events(place->jsonl,
                  "open:-1 step:10 step:20 epoch:20 step:30 step:40 epoch:40 step:50 resume:50 ");
    assert_epochs(place->csv, "1 2 ");
    append_raw(place->jsonl, "\0\0\0\0\n{\"step\":\"x\"}\n[1]\n{\"step\":7}", 32);
    append_raw(place->csv, "\0\0\0\0\n4,5\n3,1,1,1,1,1,x,\n", 24);
    resume_at(place, 50);
    assert_events(place->jsonl,
                  "open:-1 step:10 step:20 epoch:20 step:30 step:40 epoch:40 step:50 resume:50 "
                  "resume:50 ");
    assert_epochs(place->csv, "1 2 ");
    /* Without its first line, or without the files, a log begins anew. */
    assert_int_equal(truncate(place->jsonl, 5), 0);
    assert_int_equal(truncate(place->csv, 0), 0);
    resume_at(place, 30);
    assert_events(place->jsonl, "open:-1 resume:30 ");
    assert_ok(dir_remove(place->run));
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, 60, &metrics));
    const EpochRecord record = record_of(3, 60);
    assert_ok(metrics_epoch(metrics, &record));
    metrics_close(metrics);
    assert_events(place->jsonl, "open:-1 resume:60 epoch:60 ");
    assert_epochs(place->csv, "3 ");
}

/* A run that goes on with another number of loss terms keeps its columns. */
static void test_other_terms(void **state)
{
    const Place *place = *state;
    write_run(place);
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, 40, &metrics));
    EpochRecord record = record_of(3, 60);
    record.n_terms = 1;
    assert_ok(metrics_epoch(metrics, &record));
    record = record_of(4, 80);
    record.n_terms = 3;
    assert_ok(metrics_epoch(metrics, &record));
    metrics_close(metrics);
    Lines lines;
    lines_read(place->csv, &lines);
    assert_int_equal(lines.count, 5);
    int commas[5] = {0};
    for (size_t i = 0; i < 5; i++) {
        for (const char *at = lines.lines[i]; *at != '\0'; at++) {
            commas[i] += *at == ',' ? 1 : 0;
        }
        assert_int_equal(commas[i], commas[0]);
    }
    assert_non_null(strstr(lines.lines[3], ",0.75,,10000,"));
    lines_free(&lines);
}

static void test_foreign_files(void **state)
{
    const Place *place = *state;
    write_run(place);
    Metrics *metrics = NULL;
    assert_ok(file_write_atomic(place->csv, "a,b\n1,2\n", 8));
    assert_err(metrics_open(place->run, 40, &metrics), EXIT_BAD_DATA, place->csv);
    assert_null(metrics);
    assert_ok(dir_remove(place->csv));
    const char *newer = "{\"schema\":2}\n";
    assert_ok(file_write_atomic(place->jsonl, newer, strlen(newer)));
    assert_err(metrics_open(place->run, 40, &metrics), EXIT_BAD_DATA, "schema 2");
    assert_null(metrics);
}

/* In a child: lines until the file-size limit; 0 when the failure is as it should be. */
static int write_beyond_limit(Metrics *metrics)
{
    const struct rlimit limit = {4000, 4000};
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) {
        return 2;
    }
    for (long step = 1; step < 1000; step++) {
        Err *err = metrics_event(metrics, "step", step, "\"text\":\"0123456789\"");
        if (err != NULL) {
            const bool right =
                err->code == EXIT_IO && strstr(err->message, "metrics.jsonl") != NULL;
            err_free(err);
            return right ? 0 : 3;
        }
    }
    return 4;
}

static void test_full_disk(void **state)
{
    const Place *place = *state;
    Metrics *metrics = NULL;
    assert_ok(metrics_open(place->run, -1, &metrics));
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(write_beyond_limit(metrics));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    /* The line that did not fit was taken back, and the log goes on. */
    assert_ok(metrics_event(metrics, "after", 5000, ""));
    metrics_close(metrics);
    Lines lines;
    lines_read(place->jsonl, &lines);
    assert_true(lines.count > 20);
    for (size_t i = 1; i + 1 < lines.count; i++) {
        json_t *object = json_line(&lines, i);
        assert_number(number(object, "step"), (double)i);
        json_decref(object);
    }
    assert_non_null(strstr(lines.lines[lines.count - 1], "after"));
    lines_free(&lines);
}

static void test_no_folder(void **state)
{
    const Place *place = *state;
    assert_ok(file_write_atomic(place->run, "x", 1));
    Metrics *metrics = NULL;
    assert_err(metrics_open(place->run, -1, &metrics), EXIT_CANT_CREATE, place->run);
    assert_null(metrics);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_meter),         TEST(test_fresh),         TEST(test_epochs),
        TEST(test_older_columns), TEST(test_resume),        TEST(test_resume_after_damage),
        TEST(test_other_terms),   TEST(test_foreign_files), TEST(test_full_disk),
        TEST(test_no_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
