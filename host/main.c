/* The program: finds the sub-command, runs it, turns its error into a message and an exit code. */
#include "base/err.h"
#include "base/log.h"
#include "bench/command_bench.h"
#include "train/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION "0.1.0"

static const Command commands[] = {
    {"train", command_train,
     "CONFIG.ini [--set section.key=value]... [--resume auto|must|never] [-q|-v]\n"
     "                  [--dry-run [--describe DEVICE.json] [--json]]",
     "train or distil a network"},
    {"eval", command_eval,
     "WEIGHTS --model NAME --data cifar100:DIR [--device auto|cpu|cuda|ref] [--precision "
     "fp32|bf16|fp16] [--json]",
     "accuracy of a weight file"},
    {"suite", command_suite, "SUITE.ini [--out DIR] [--seeds 1,2,3]",
     "run several configurations, print one table"},
    {"models", command_models, "", "list the networks"},
    {"bench", command_bench,
     "op NAME [--axis B=64,1024]... [--dtype fp32,bf16] [--device cpu|ref|cuda]",
     "time one operation ('cudistill bench --help')"},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out)
{
    fprintf(out, "cudistill " VERSION ": knowledge distillation of image classifiers\n\nusage:\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        fprintf(out, "  cudistill %-6s %s\n      %s\n", commands[i].name, commands[i].usage,
                commands[i].help);
    }
    fprintf(
        out,
        "  cudistill help [section[.key]]\n      the configuration keys\n  cudistill version\n\n"
        "examples:\n"
        "  cudistill suite configs/quickstart.ini\n"
        "  cudistill train configs/cifar100/kd/wrn_16_2__resnet20.ini --set run.seed=2\n"
        "  cudistill eval student_best.safetensors --model resnet20 --data cifar100:DIR\n");
}

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

static int leave(Err *err)
{
    if (!err && (fflush(stdout) != 0 || ferror(stdout))) {
        err = err_new(EXIT_IO, "the result could not be written to standard output");
    }
    if (!err) {
        return EXIT_OK;
    }
    const int code = err->code;
    fprintf(stderr, "cudistill: %s\n", err->message);
    err_free(err);
    return code;
}

int main(int argc, char **argv)
{
    wait_briefly(argv);
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE_ERR;
    }
    const char *name = argv[1];
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        printf("cudistill " VERSION "\n");
        return EXIT_OK;
    }
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        if (argc > 2) {
            return leave(command_help_key(argv[2]));
        }
        print_help(stdout);
        return leave(NULL);
    }
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return leave(commands[i].run(argc - 1, argv + 1));
        }
    }
    return leave(
        err_new(EXIT_USAGE_ERR, "unknown command '%s': 'cudistill help' lists them", name));
}
