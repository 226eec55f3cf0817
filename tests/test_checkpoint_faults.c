/* host/train/checkpoint.c under failures. This program defines the system calls that write (write, fsync, rename, ...)
 * itself, so that the n-th one can fail or end the process: a crash is tried at every one of them, as is an error, and
 * besides a child that does nothing but save is killed at random moments. */
#include "checkpoint_place.h"

#include "base/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- Faults ---- */

typedef enum {
    FAULT_OFF,
    FAULT_COUNT,  /* none, but count the calls */
    FAULT_ONCE,   /* the n-th call fails */
    FAULT_ALWAYS, /* it and all after it fail, as on a dead disk */
    FAULT_SHORT,  /* the n-th call, if a write, writes half: no error for the caller */
    FAULT_EINTR,  /* the n-th call, if a write, is interrupted: no error for the caller */
    FAULT_CRASH   /* the process ends before the n-th call; a write has written half */
} FaultKind;

static struct {
    FaultKind kind;
    int at, calls, error;
    bool no_exchange; /* a file system without RENAME_EXCHANGE */
    bool
        real_fsync; /* else fsync does nothing: no test cuts the power, and the disk would take most of the time */
} fault;

enum { CRASHED = 99 };

/* Whether this call shall fail, with errno set. */
static bool faulty(bool is_write)
{
    if (fault.kind == FAULT_OFF) {
        return false;
    }
    const int call = fault.calls++;
    const bool now = call == fault.at || (fault.kind == FAULT_ALWAYS && call > fault.at);
    if (!now || fault.kind == FAULT_COUNT) {
        return false;
    }
    if (fault.kind == FAULT_CRASH && !is_write) {
        _exit(CRASHED);
    }
    errno = fault.kind == FAULT_EINTR ? EINTR : fault.error;
    return fault.kind == FAULT_ONCE || fault.kind == FAULT_ALWAYS || is_write;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (fd > STDERR_FILENO && faulty(true)) {
        if (fault.kind != FAULT_SHORT && fault.kind != FAULT_CRASH) {
            return -1;
        }
        const ssize_t done = syscall(SYS_write, fd, data, (size + 1) / 2);
        if (fault.kind == FAULT_CRASH) {
            _exit(CRASHED);
        }
        return done;
    }
    return syscall(SYS_write, fd, data, size);
}

int fsync(int fd)
{
    if (faulty(false)) {
        return -1;
    }
    return fault.real_fsync ? (int)syscall(SYS_fsync, fd) : 0;
}

int rename(const char *from, const char *to)
{
    return faulty(false) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags)
{
    if (fault.no_exchange) {
        errno = EINVAL;
        return -1;
    }
    return faulty(false) ? -1 : (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int symlink(const char *target, const char *path)
{
    return faulty(false) ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

int mkdir(const char *path, mode_t mode)
{
    return faulty(false) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int unlink(const char *path)
{
    return faulty(false) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return faulty(false) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static void fault_set(FaultKind kind, int at, int error)
{
    fault.kind = kind;
    fault.at = at;
    fault.calls = 0;
    fault.error = error;
}

static int setup(void **state)
{
    fault_set(FAULT_OFF, 0, 0);
    fault.no_exchange = false;
    fault.real_fsync = false;
    return place_setup(state);
}

static int teardown(void **state)
{
    fault_set(FAULT_OFF, 0, 0);
    return place_teardown(state);
}

/* ---- The same step again ---- */

static void check_replacing(const char *root)
{
    assert_ok(save(root, 4, 500, 3));
    assert_ok(save(root, 5, 500, 3));
    assert_ok(save_salted(root, 5, 700, 3, 1));
    assert_listing(root, "latest step-000000004 step-000000005 ");
    char *path = NULL;
    assert_ok(checkpoint_newest(root, &path));
    assert_true(content_holds(path, 700, 1));
    free(path);
}

static void test_same_step_again(void **state)
{
    const Place *place = *state;
    check_replacing(place->root);
    assert_ok(dir_remove(place->root));
    fault.no_exchange = true;
    check_replacing(place->root);
}

/* ---- Every system call ---- */

enum { SMALL = 3000 };

/* Two checkpoints and a mark, so that saving step 3 also rotates; step 2 may be saved again. */
static void prepare(const char *root)
{
    assert_ok(dir_remove(root));
    assert_ok(save(root, 1, SMALL, 2));
    assert_ok(save(root, 2, SMALL, 2));
}

static int count_calls(const char *root, long step)
{
    prepare(root);
    fault_set(FAULT_COUNT, 0, 0);
    Err *err = save(root, step, SMALL, 2);
    const int calls = fault.calls;
    fault_set(FAULT_OFF, 0, 0);
    assert_ok(err);
    return calls;
}

static const long STEPS[] = {3, 2};

static void check_errors(const char *root, long step, FaultKind kind, int error)
{
    const int calls = count_calls(root, step);
    int refused = 0;
    for (int at = 0; at < calls; at++) {
        prepare(root);
        char *before = listing_of(root);
        fault_set(kind, at, error);
        Err *err = save(root, step, SMALL, 2);
        fault_set(FAULT_OFF, 0, 0);
        const long expected = err == NULL ? step : 2;
        if (err != NULL) {
            refused++;
            assert_non_null(strstr(err->message, root));
            assert_non_null(strstr(err->message, strerror(error)));
            if (kind == FAULT_ONCE) {
                assert_listing(root, before);
            }
        }
        err_free(err);
        free(before);
        const long newest = newest_step(root, SMALL);
        /* With a dead disk the new checkpoint may be there although its save could not be acknowledged. */
        if (newest != expected && !(kind == FAULT_ALWAYS && newest == step)) {
            fail_msg("call %d of %d: newest is %ld, expected %ld", at, calls, newest, expected);
        }
        assert_link(root, "latest", newest == 3 ? "step-000000003" : "step-000000002");
    }
    print_message("step %ld, %s at each of %d calls: %d refused, %d saved with a warning\n", step,
                  strerror(error), calls, refused, calls - refused);
    assert_in_range(refused, 20, calls - 1);
}

static void test_error_at_every_call(void **state)
{
    const Place *place = *state;
    for (size_t i = 0; i < 2; i++) {
        check_errors(place->root, STEPS[i], FAULT_ONCE, ENOSPC);
        check_errors(place->root, STEPS[i], FAULT_ONCE, EIO);
        check_errors(place->root, STEPS[i], FAULT_ALWAYS, EROFS);
    }
    fault.no_exchange = true;
    check_errors(place->root, 2, FAULT_ONCE, EIO);
}

static void test_harmless_faults(void **state)
{
    const Place *place = *state;
    static const FaultKind kinds[] = {FAULT_SHORT, FAULT_EINTR};
    const int calls = count_calls(place->root, 3);
    for (size_t i = 0; i < 2; i++) {
        for (int at = 0; at < calls; at++) {
            prepare(place->root);
            fault_set(kinds[i], at, 0);
            Err *err = save(place->root, 3, SMALL, 2);
            fault_set(FAULT_OFF, 0, 0);
            assert_ok(err);
            assert_int_equal(newest_step(place->root, SMALL), 3);
        }
    }
}

/* As the crash left it: what has the name of a checkpoint is one, and `latest` leads to one. */
static void assert_left_whole(const char *root)
{
    char **names = NULL;
    size_t count = 0;
    assert_ok(dir_list(root, &names, &count));
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], ".tmp-", 5) != 0) {
            char *path = path_join(root, names[i]);
            assert_ok(checkpoint_verify(path));
            free(path);
        }
    }
    names_free(names, count);
    char *latest = path_join(root, "latest");
    assert_true(path_is_dir(latest));
    free(latest);
}

static void check_crashes(const char *root, long step)
{
    const int calls = count_calls(root, step);
    for (int at = 0; at < calls; at++) {
        prepare(root);
        (void)fflush(NULL);
        const pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            fault_set(FAULT_CRASH, at, 0);
            Err *err = save(root, step, SMALL, 2);
            _exit(err == NULL ? 1 : 2);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), CRASHED);
        assert_left_whole(root);
        const long newest = newest_step(root, SMALL);
        assert_true(newest == 2 || newest == step);
        assert_link(root, "latest", newest == 3 ? "step-000000003" : "step-000000002");
        /* Nothing half-made stays, and saving works again. */
        char *left = listing_of(root);
        assert_null(strstr(left, ".tmp-"));
        assert_null(strstr(left, "corrupt"));
        free(left);
        assert_ok(save(root, 4, SMALL, 2));
        assert_int_equal(newest_step(root, SMALL), 4);
    }
    print_message("step %ld: a crash at each of %d calls\n", step, calls);
}

static void test_crash_at_every_call(void **state)
{
    const Place *place = *state;
    check_crashes(place->root, 3);
    check_crashes(place->root, 2);
}

/* ---- Kill ---- */

enum { MEGABYTE = 1 << 20, KILLS = 100 };

/* Saves one step after the other and writes each to `acknowledge` when it is saved. */
static _Noreturn void save_forever(const char *root, long step, int acknowledge)
{
    for (;; step++) {
        Err *err = save(root, step, MEGABYTE, 2);
        if (err != NULL) {
            log_error("%s", err->message);
            _exit(1);
        }
        if (syscall(SYS_write, acknowledge, &step, sizeof step) != (long)sizeof step) {
            _exit(2);
        }
    }
}

/* Lets a child save from `step` on for some time, kills it; the last acknowledged step, or `acknowledged`. */
static long kill_once(const char *root, long step, long acknowledged, double delay_s)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)close(ends[0]);
        save_forever(root, step, ends[1]);
    }
    (void)close(ends[1]);
    (void)usleep((useconds_t)(delay_s * 1e6));
    assert_int_equal(kill(pid, SIGKILL), 0);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    long saved = 0;
    while (read(ends[0], &saved, sizeof saved) == (ssize_t)sizeof saved) {
        acknowledged = saved;
    }
    (void)close(ends[0]);
    return acknowledged;
}

static void test_kill(void **state)
{
    const Place *place = *state;
    fault.real_fsync = true;
    const double begin = now_s();
    assert_ok(save(place->root, 1, MEGABYTE, 2));
    /* The longest time before a kill follows the disk's speed, so that about every second child saves something. */
    double longest_s = 3.0 * (now_s() - begin);
    Rng rng = rng_make((uint64_t)getpid(), 0, 0, RNG_TEST);
    long acknowledged = 1;
    int ahead = 0;
    int with_saves = 0;
    for (int i = 0; i < KILLS; i++) {
        const long before = acknowledged;
        const double delay_s = longest_s * (double)rng_uniform(&rng);
        acknowledged = kill_once(place->root, before + 1, before, delay_s);
        longest_s *= acknowledged > before ? 0.9 : 1.1;
        with_saves += acknowledged > before ? 1 : 0;
        const long newest = newest_step(place->root, MEGABYTE);
        if (newest < acknowledged || newest > acknowledged + 1) {
            fail_msg("kill %d: newest %ld, acknowledged %ld", i, newest, acknowledged);
        }
        ahead += newest > acknowledged ? 1 : 0;
        acknowledged = newest;
    }
    print_message(
        "%d kills within %.1f ms: %d after a save, %d between rename and return, %ld saves "
        "of 1 MB\n",
        KILLS, 1e3 * longest_s, with_saves, ahead, acknowledged);
    assert_in_range(with_saves, KILLS / 5, KILLS);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_same_step_again),
        TEST(test_error_at_every_call),
        TEST(test_harmless_faults),
        TEST(test_crash_at_every_call),
        TEST(test_kill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
