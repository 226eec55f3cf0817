/* `cudistill report`: the HTML page of one run or of several. */
#include "cli/commands.h"

#include "base/log.h"
#include "report/report.h"

#include <stdio.h>
#include <stdlib.h>

static const ArgOption options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = ARG_FILE,
     .metavar = "FILE",
     .help =
         "where the page goes; default: report.html in the run's folder, or here for several runs"},
};

static const char *const examples[] = {
    "cudistill report runs/quickstart-s1",
    "cudistill report runs/kd-s1 runs/none-s1 -o compare.html",
    NULL,
};

void command_report_finished(const char *run_dir)
{
    Err *err = report_write(&run_dir, 1, NULL);
    if (err != NULL) {
        log_warn("no report: %s", err->message);
        err_free(err);
    }
}

static Err *run_report(const Args *args)
{
    const size_t count = args_count(args);
    const char **runs = xcalloc(count, sizeof *runs);
    for (size_t i = 0; i < count; i++) {
        runs[i] = args_at(args, i);
    }
    char *path = NULL;
    Err *err = report_write_to(runs, count, args_text(args, "output", NULL), &path);
    if (err == NULL) {
        printf("%s\n", path);
    }
    free(path);
    free(runs);
    return err;
}

const Command command_report = {
    .name = "report",
    .arguments = "RUN...",
    .argument_kind = ARG_RUN,
    .min_arguments = 1,
    .max_arguments = -1,
    .summary = "one HTML page with everything about a run, or several runs compared",
    .details = "The page holds curves, training pictures with the teacher's opinion, agreement, "
               "calibration, classes, "
               "confusions, configuration and environment. It is one file below 2 MB that opens "
               "offline. Of several "
               "runs the first is the one that the others are compared with. It can be made while "
               "a run is going on; "
               "what a folder lacks is left out and named.\n\n"
               "The path of the page is printed on stdout.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run_report,
};
