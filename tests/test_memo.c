/* The memo's file: what was put in comes out, in later processes too; damage anywhere is noticed and never served; a
 * killed writer leaves a file that works; one writer at a time; the bound and a full disk end adding and nothing else. */
#include "base/files.h"
#include "base/log.h"
#include "base/rng.h"
#include "distill/memo.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    SAMPLES = 50,
    VIEWS = 18,
    FLOATS = 7,
    BYTES = FLOATS * sizeof(float),
    ALL = SAMPLES * VIEWS
};
enum { INDEX_AT = 8192, RECORDS_AT = 8192 + 4096, SLOT = 8 + 32 }; /* 28 bytes rounded up to 32 */

static const char KEY[] = "teacher a\nweights 0123\n";

typedef struct {
    char dir[64];
} Fixture;

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/cudistill-memo-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    err_free(dir_remove(f->dir));
    free(f);
    return 0;
}

static MemoConfig config_of(const Fixture *f)
{
    return (MemoConfig){.dir = f->dir,
                        .key = KEY,
                        .samples = SAMPLES,
                        .views = VIEWS,
                        .record_bytes = BYTES,
                        .max_bytes = 1 << 20};
}

static Memo *open_with(const MemoConfig *config)
{
    Memo *memo;
    Err *err = memo_open(config, &memo);
    if (err) {
        fail_msg("%s", err->message);
    }
    return memo;
}

static Memo *open_memo(const Fixture *f)
{
    const MemoConfig config = config_of(f);
    return open_with(&config);
}

static void assert_code(Err *err, ExitCode code, const char *part)
{
    assert_non_null(err);
    assert_int_equal(err->code, code);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' is not in '%s'", part, err->message);
    }
    err_free(err);
}

/* The values of an entry: drawn, so that no two are alike. */
static void draw(uint32_t entry, float values[FLOATS])
{
    Rng rng = rng_make(5, 0, entry, RNG_TEST);
    for (int i = 0; i < FLOATS; i++) {
        values[i] = (float)rng_normal(&rng);
    }
}

static void put_entries(Memo *memo, uint32_t first, uint32_t count)
{
    uint32_t samples[ALL];
    uint32_t views[ALL];
    float values[ALL][FLOATS];
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t entry = first + i;
        samples[i] = entry % SAMPLES; /* not the order of the index */
        views[i] = entry / SAMPLES;
        draw(entry, values[i]);
    }
    memo_put(memo, count, samples, views, values);
}

/* Present entries, each compared bit for bit. */
static int count_present(Memo *memo)
{
    int present = 0;
    for (uint32_t entry = 0; entry < ALL; entry++) {
        float expected[FLOATS];
        float values[FLOATS];
        if (memo_get(memo, entry % SAMPLES, entry / SAMPLES, values)) {
            draw(entry, expected);
            assert_memory_equal(values, expected, sizeof values);
            present++;
        }
    }
    return present;
}

static void values_come_back(void **state)
{
    Memo *memo = open_memo(*state);
    assert_int_equal(count_present(memo), 0);
    put_entries(memo, 0, 64);
    put_entries(memo, 200, 64);
    assert_int_equal(count_present(memo), 128);
    memo_close(memo);
    memo = open_memo(*state);
    assert_int_equal(memo_stats(memo).stored, 128);
    assert_int_equal(count_present(memo), 128);
    put_entries(memo, 64, 136);
    put_entries(memo, 264, ALL - 264);
    assert_int_equal(count_present(memo), ALL);
    assert_int_equal(memo_stats(memo).damaged, 0);
    struct stat status;
    assert_int_equal(stat(memo_path(memo), &status), 0);
    assert_int_equal(status.st_size, RECORDS_AT + ALL * SLOT);
    assert_int_equal(memo_full_bytes(SAMPLES, VIEWS, BYTES), RECORDS_AT + ALL * SLOT);
    memo_close(memo);
}

static void another_key_is_another_file(void **state)
{
    const Fixture *f = *state;
    Memo *memo = open_memo(f);
    put_entries(memo, 0, 10);
    MemoConfig config = config_of(f);
    config.key = "teacher b\n";
    Memo *other = open_with(&config);
    assert_string_not_equal(memo_path(memo), memo_path(other));
    assert_int_equal(count_present(other), 0);
    /* The file of one key under the name of another is refused. */
    char *mine = xstrdup(memo_path(memo));
    char *theirs = xstrdup(memo_path(other));
    memo_close(memo);
    memo_close(other);
    assert_int_equal(rename(theirs, mine), 0);
    config.key = KEY;
    assert_code(memo_open(&config, &memo), EXIT_BAD_DATA, "belongs to another teacher");
    free(mine);
    free(theirs);
}

static void flip_byte(const char *path, off_t at)
{
    const int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Each byte of two records in turn, checksum included, and each byte of their index words. */
static void damage_is_noticed(void **state)
{
    Memo *memo = open_memo(*state);
    put_entries(memo, 0, 100);
    char *path = xstrdup(memo_path(memo));
    memo_close(memo);
    int changes = 0;
    for (off_t at = RECORDS_AT + 10 * SLOT; at < RECORDS_AT + 12 * SLOT; at++) {
        const bool padding = (at - RECORDS_AT) % SLOT >= 8 + (off_t)BYTES;
        flip_byte(path, at);
        memo = open_memo(*state);
        assert_int_equal(count_present(memo), padding ? 100 : 99);
        assert_int_equal(memo_stats(memo).damaged, padding ? 0 : 1);
        memo_close(memo);
        flip_byte(path, at);
        changes++;
    }
    for (off_t at = INDEX_AT; at < INDEX_AT + 8; at++) { /* entry 0: present; entry 50 in slot 51 */
        flip_byte(path, at);
        memo = open_memo(*state);
        assert_int_equal(count_present(memo), 99);
        memo_close(memo);
        flip_byte(path, at);
    }
    /* What is computed again replaces it. */
    flip_byte(path, RECORDS_AT + 10 * SLOT + 9);
    memo = open_memo(*state);
    assert_int_equal(count_present(memo), 99);
    put_entries(memo, 10, 1);
    assert_int_equal(count_present(memo), 100);
    memo_close(memo);
    free(path);
    assert_int_equal(changes, 2 * SLOT);
}

static void a_damaged_header_begins_anew(void **state)
{
    for (int kind = 0; kind < 3; kind++) {
        Memo *memo = open_memo(*state);
        put_entries(memo, 0, 100);
        char *path = xstrdup(memo_path(memo));
        memo_close(memo);
        if (kind == 0) {
            flip_byte(path, 3);
        } else if (kind == 1) {
            flip_byte(path, 40);
        } else {
            assert_int_equal(truncate(path, 100), 0);
        }
        memo = open_memo(*state);
        assert_int_equal(count_present(memo), 0);
        put_entries(memo, 0, 5);
        assert_int_equal(count_present(memo), 5);
        memo_close(memo);
        assert_int_equal(unlink(path), 0);
        free(path);
    }
}

static void a_file_cut_short_serves_the_rest(void **state)
{
    Memo *memo = open_memo(*state);
    put_entries(memo, 0, 100);
    char *path = xstrdup(memo_path(memo));
    memo_close(memo);
    assert_int_equal(truncate(path, RECORDS_AT + 60 * SLOT + 11), 0);
    memo = open_memo(*state);
    assert_int_equal(count_present(memo), 60);
    put_entries(memo, 60, 40);
    assert_int_equal(count_present(memo), 100);
    memo_close(memo);
    free(path);
}

/* A writer is killed at some moment; what it leaves is whole, and at least what it had put before. */
static void a_killed_writer_leaves_a_whole_file(void **state)
{
    int before = 0;
    for (int trial = 0; trial < 6; trial++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        const pid_t child = fork();
        if (child == 0) {
            close(ends[0]);
            Memo *memo = open_memo(*state);
            for (uint32_t i = 0; i < ALL; i += 3) {
                put_entries(memo, (i + 97 * (uint32_t)trial) % (ALL - 3), 3);
                if (write(ends[1], "+", 1) != 1) {
                    _exit(1);
                }
            }
            pause();
        }
        close(ends[1]);
        char tick;
        for (int i = 0; i < 10 + 20 * trial; i++) {
            assert_int_equal(read(ends[0], &tick, 1), 1);
        }
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        close(ends[0]);
        Memo *memo = open_memo(*state);
        assert_true(memo_stats(memo).writable); /* the lock went with the process */
        const int present = count_present(memo);
        assert_true(present >= 3 * (10 + 20 * trial) && present >= before);
        assert_int_equal(memo_stats(memo).damaged, 0);
        before = present;
        memo_close(memo);
    }
}

static void the_second_run_only_reads(void **state)
{
    Memo *first = open_memo(*state);
    Memo *second = open_memo(*state);
    assert_true(memo_stats(first).writable);
    assert_false(memo_stats(second).writable);
    put_entries(first, 0, 30);
    assert_int_equal(count_present(second), 30); /* what the writer adds is seen at once */
    put_entries(second, 100, 30);
    assert_int_equal(count_present(second), 30);
    memo_close(first);
    memo_close(second);
    Memo *third = open_memo(*state);
    assert_true(memo_stats(third).writable);
    assert_int_equal(count_present(third), 30);
    memo_close(third);
}

static void the_bound_holds(void **state)
{
    const Fixture *f = *state;
    MemoConfig config = config_of(f);
    config.max_bytes = RECORDS_AT + 70 * SLOT + SLOT / 2;
    Memo *memo = open_with(&config);
    put_entries(memo, 0, 64);
    assert_false(memo_stats(memo).full);
    put_entries(memo, 64, 64);
    assert_true(memo_stats(memo).full);
    put_entries(memo, 128, 64);
    assert_int_equal(count_present(memo), 70);
    struct stat status;
    assert_int_equal(stat(memo_path(memo), &status), 0);
    assert_true((uint64_t)status.st_size <= config.max_bytes);
    memo_close(memo);
    memo = open_memo(f); /* a larger bound: the rest may come */
    put_entries(memo, 70, 30);
    assert_int_equal(count_present(memo), 100);
    memo_close(memo);
    memo = open_with(&config); /* a smaller one again: everything is served, nothing added */
    put_entries(memo, 200, 3);
    assert_int_equal(count_present(memo), 100);
    memo_close(memo);
    config.max_bytes = RECORDS_AT;
    assert_code(memo_open(&config, &memo), EXIT_CONFIG_ERR, "at least");
    config.samples = 1u << 20;
    config.views = 1u << 13;
    assert_code(memo_open(&config, &memo), EXIT_CONFIG_ERR, "more than a memo can hold");
}

/* A limit of the file's size stands for a full disk: the same answer from pwrite. */
static void a_full_disk_ends_adding(void **state)
{
    Memo *memo = open_memo(*state);
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*const handler)(int) = signal(SIGXFSZ, SIG_IGN);
    const struct rlimit tight = {.rlim_cur = RECORDS_AT + 50 * SLOT, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    put_entries(memo, 0, 40);
    put_entries(memo, 40, 40);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_true(memo_stats(memo).full);
    assert_int_equal(count_present(memo), 40);
    memo_close(memo);
    memo = open_memo(*state);
    put_entries(memo, 40, 40);
    assert_int_equal(count_present(memo), 80);
    memo_close(memo);
}

static void a_bad_folder_is_named(void **state)
{
    const Fixture *f = *state;
    char *file = path_join(f->dir, "file");
    Err *err = file_write_atomic(file, "x", 1);
    assert_null(err);
    MemoConfig config = config_of(f);
    config.dir = file;
    Memo *memo;
    err = memo_open(&config, &memo);
    assert_non_null(err);
    assert_non_null(strstr(err->message, file));
    assert_null(memo);
    err_free(err);
    free(file);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(values_come_back),
        CASE(another_key_is_another_file),
        CASE(damage_is_noticed),
        CASE(a_damaged_header_begins_anew),
        CASE(a_file_cut_short_serves_the_rest),
        CASE(a_killed_writer_leaves_a_whole_file),
        CASE(the_second_run_only_reads),
        CASE(the_bound_holds),
        CASE(a_full_disk_ends_adding),
        CASE(a_bad_folder_is_named),
    };
    log_set_level(LOG_ERROR); /* damage is made by the hundred */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
