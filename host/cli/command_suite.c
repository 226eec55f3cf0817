/* `cudistill suite`. */
#include "cli/commands.h"

#include "train/suite.h"

static Err *run(const Args *args)
{
    Seeds seeds;
    SuiteOptions suite = {.out = args_text(args, "out", NULL), .finished = command_report_finished};
    if (args_given(args, "seeds")) {
        TRY(seeds_parse(args_text(args, "seeds", ""), &seeds));
        suite.seeds = &seeds;
    }
    TRY(command_progress(args, &suite.progress));
    return suite_run(args_at(args, 0), &suite);
}

static const ArgOption options[] = {
    {.name = "out",
     .kind = ARG_DIR,
     .metavar = "DIR",
     .help = "folder of the runs (the file's suite.out)"},
    {.name = "seeds",
     .kind = ARG_TEXT,
     .metavar = "N,N...",
     .help = "seeds of every run (the file's suite.seeds)"},
    {.name = "json", .kind = ARG_FLAG, .help = "progress and results as JSON lines on stdout"},
    {.name = "quiet",
     .letter = 'q',
     .kind = ARG_FLAG,
     .help = "only warnings, errors and the table"},
    {.name = "verbose", .letter = 'v', .kind = ARG_FLAG, .help = "say more"},
};
static const char *const examples[] = {
    "cudistill suite configs/quickstart.ini",
    "cudistill suite configs/quickstart.ini --seeds 1,2,3,4,5 --out runs/five", NULL};

const Command command_suite = {
    .name = "suite",
    .arguments = "SUITE.ini",
    .argument_kind = ARG_FILE,
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "run several configurations, print one table",
    .details =
        "The file names the configurations, the seeds and the folder ('cudistill help suite' "
        "lists its keys). Every run has a folder of its own; finished runs are skipped and "
        "interrupted ones go on, so an interrupted suite is simply started again.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run,
    .computes = true};
