/* The program: lets idle threads wait shortly, runs the command, turns its error into a message and an exit code. */
#include "base/log.h"
#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* libgomp's idle threads spin for long by default, which doubles the time of a convolution when
 * anything else runs beside it; not spinning at all costs a wake-up at each of some 250 parallel loops
 * of a step. 20,000 turns are a few tens of microseconds: 2,040 img/s where passive waiting gave 1,490
 * and endless spinning 2,080 (resnet20 with wrn_16_2, 2 cores of a Zen 5, 2026-11). The policy is read
 * when the library is loaded, so the program starts itself once more. */
static void wait_briefly(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) {
        return;
    }
    if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0 && setenv("GOMP_SPINCOUNT", "20000", 1) == 0) {
        execv("/proc/self/exe", argv); /* where this fails the program goes on, only slower */
    }
}

/* The errors of a configuration are lines that begin with FILE:LINE, as editors want them, and a closing line. */
static bool names_places(const Err *err)
{
    static const char closing[] = ", nothing was started.";
    const size_t length = strlen(err->message);
    return err->code == EXIT_CONFIG_ERR && length >= sizeof closing &&
           strcmp(err->message + length - (sizeof closing - 1), closing) == 0;
}

static int leave(Err *err)
{
    if (!err && (fflush(stdout) != 0 || ferror(stdout))) {
        err = err_new(EXIT_IO, "the result could not be written to standard output");
    }
    if (!err) {
        return EXIT_OK;
    }
    const int code = err->code;
    fprintf(stderr, "%s%s\n", names_places(err) ? "" : "cudistill: ", err->message);
    err_free(err);
    return code;
}

int main(int argc, char **argv)
{
    log_reserve_streams();
    if (argc < 2) {
        args_help(&command_root, "cudistill", stderr);
        return EXIT_USAGE_ERR;
    }
    if (command_computes(argc, argv)) {
        wait_briefly(argv);
    }
    return leave(command_dispatch(argc, argv));
}
