/* host/train/signals.c: each case runs in a child, because signals end processes. */
#include "base/err.h"
#include "train/signals.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Longer than the time within which a second signal is an echo. */
enum { APART_US = 300000 };

/* The status of waitpid. */
static int status_of(void (*body)(void))
{
    (void)fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signals_install();
        body();
        _exit(signals_pending() != 0 ? signals_exit_code(signals_pending()) : 0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_exit(void (*body)(void), int code)
{
    const int status = status_of(body);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), code);
}

static void assert_killed(void (*body)(void), int number)
{
    const int status = status_of(body);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), number);
}

static void none(void)
{
}

static void terminate(void)
{
    (void)raise(SIGTERM);
}

static void user(void)
{
    (void)raise(SIGUSR1);
}

static void user2(void)
{
    (void)raise(SIGUSR2);
}

static void interrupt(void)
{
    (void)raise(SIGINT);
}

/* As timeout(1) does; the first one decides. */
static void echo(void)
{
    (void)raise(SIGINT);
    (void)raise(SIGINT);
    (void)raise(SIGTERM);
}

static void user_then_interrupt(void)
{
    (void)raise(SIGUSR1);
    (void)usleep(APART_US);
    (void)raise(SIGINT);
    _exit(1);
}

static void terminate_twice(void)
{
    (void)raise(SIGTERM);
    (void)usleep(APART_US);
    (void)raise(SIGTERM);
    _exit(1);
}

static void write_to_closed_pipe(void)
{
    int ends[2];
    if (pipe(ends) != 0 || close(ends[0]) != 0) {
        _exit(1);
    }
    const ssize_t written = write(ends[1], "x", 1);
    _exit(written == -1 && errno == EPIPE ? 7 : 2);
}

static void test_first_asks(void **state)
{
    (void)state;
    assert_exit(none, 0);
    assert_exit(terminate, EXIT_PREEMPTED);
    assert_exit(user, EXIT_PREEMPTED);
    assert_exit(user2, EXIT_PREEMPTED);
    assert_exit(interrupt, EXIT_INTERRUPTED);
    assert_exit(echo, EXIT_INTERRUPTED);
}

static void test_second_ends(void **state)
{
    (void)state;
    assert_killed(user_then_interrupt, SIGINT);
    assert_killed(terminate_twice, SIGTERM);
}

static void test_closed_pipe_is_an_error(void **state)
{
    (void)state;
    assert_exit(write_to_closed_pipe, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_asks),
        cmocka_unit_test(test_second_ends),
        cmocka_unit_test(test_closed_pipe_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
