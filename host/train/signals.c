/* Signals that ask training to leave. The handler keeps two lock-free atomics, the first signal and its time: the flag
 * that the conventions allow as global state. */
#include "train/signals.h"

#include "base/err.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

/* timeout(1) and job managers send a signal to the process and again to its group: one request, delivered twice. */
static const long long ECHO_NS = 250000000;

static atomic_int first_signal;
static atomic_llong first_time_ns;

static long long clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void on_signal(int number)
{
    const int saved = errno;
    const long long now_ns = clock_ns();
    int none = 0;
    if (atomic_compare_exchange_strong(&first_signal, &none, number)) {
        atomic_store(&first_time_ns, now_ns);
    } else {
        /* 0: another thread is between the exchange and the store above. */
        const long long first_ns = atomic_load(&first_time_ns);
        if (first_ns != 0 && now_ns - first_ns >= ECHO_NS) {
            /* Blocked until this handler returns; then the default action ends the process. */
            (void)signal(number, SIG_DFL);
            (void)raise(number);
        }
    }
    errno = saved;
}

void signals_install(void)
{
    static const int stop_signals[] = {SIGTERM, SIGUSR1, SIGUSR2, SIGINT};
    static const int ignored_signals[] = {SIGPIPE, SIGXFSZ};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    (void)sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_signal;
    for (size_t i = 0; i < sizeof stop_signals / sizeof stop_signals[0]; i++) {
        CHECK(sigaction(stop_signals[i], &action, NULL) == 0, "signal %d", stop_signals[i]);
    }
    action.sa_handler = SIG_IGN;
    for (size_t i = 0; i < sizeof ignored_signals / sizeof ignored_signals[0]; i++) {
        CHECK(sigaction(ignored_signals[i], &action, NULL) == 0, "signal %d", ignored_signals[i]);
    }
}

int signals_pending(void)
{
    return atomic_load(&first_signal);
}

int signals_exit_code(int number)
{
    return number == SIGINT ? EXIT_INTERRUPTED : EXIT_PREEMPTED;
}
