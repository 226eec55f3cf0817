/* The program's own table, and the way from argv to a command's function. */
#include "cli/commands.h"

#include "base/log.h"

#include <string.h>

static const Command *const commands[] = {&command_train,
                                          &command_eval,
                                          &command_suite,
                                          &command_config,
                                          &command_data,
                                          &command_convert,
                                          &command_export,
                                          &command_inspect,
                                          &command_table,
                                          &command_report,
                                          &command_models,
                                          &command_bench,
                                          &command_doctor,
                                          &command_completion,
                                          &command_help,
                                          &command_version,
                                          NULL};

static const ArgOption options[] = {
    {.name = "version", .letter = 'V', .kind = ARG_FLAG, .help = "as 'cudistill version'"}};

static const char *const examples[] = {
    "cudistill suite configs/quickstart.ini",
    "cudistill train configs/cifar100/kd/wrn_16_2__resnet20.ini --seed 2",
    "cudistill eval student_best.safetensors --model resnet20 --data cifar100:DIR",
    "cudistill help optim.lr", NULL};

const Command command_root = {.name = "cudistill",
                              .arguments = "",
                              .summary =
                                  "Knowledge distillation of image classifiers: trains small "
                                  "networks from large ones.",
                              .options = options,
                              .option_count = sizeof options / sizeof options[0],
                              .examples = examples,
                              .commands = commands};

Err *command_dispatch(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        char *version[] = {(char *)command_version.name, NULL};
        return args_run(&command_version, "cudistill version", 1, version);
    }
    return args_run(&command_root, "cudistill", argc, argv);
}

bool command_computes(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return false;
        }
    }
    for (size_t i = 0; argc > 1 && command_root.commands[i]; i++) {
        if (strcmp(command_root.commands[i]->name, argv[1]) == 0) {
            return command_root.commands[i]->computes;
        }
    }
    return false;
}

Err *command_progress(const Args *args, ProgressMode *out)
{
    const bool quiet = args_flag(args, "quiet");
    const bool verbose = args_flag(args, "verbose");
    const bool json = args_flag(args, "json");
    if (quiet && (verbose || json)) {
        return err_new(EXIT_USAGE_ERR, "--quiet and --%s exclude each other",
                       verbose ? "verbose" : "json");
    }
    if (quiet || verbose) {
        log_set_level(quiet ? LOG_WARN : LOG_DEBUG);
    }
    *out = quiet ? PROGRESS_QUIET : json ? PROGRESS_JSON : PROGRESS_AUTO;
    return NULL;
}
