/* `cudistill table`: runs grouped over seeds, beside published figures. */
#include "cli/commands.h"

#include "base/log.h"
#include "report/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ArgOption options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "print JSON: an array of groups with their runs"},
    {.name = "csv",
     .kind = ARG_FLAG,
     .help = "print CSV with a header, means and deviations in columns"},
    {.name = "markdown", .kind = ARG_FLAG, .help = "print a Markdown table"},
};

static const char *const examples[] = {
    "cudistill table runs/cifar100",
    "cudistill table runs/kd-s1 runs/kd-s2 runs/kd-s3 --markdown",
    NULL,
};

static Err *chosen_form(const Args *args, TableForm *form)
{
    static const struct {
        const char *option;
        TableForm form;
    } forms[] = {{"json", TABLE_JSON}, {"csv", TABLE_CSV}, {"markdown", TABLE_MARKDOWN}};
    int given = 0;
    *form = TABLE_TEXT;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (args_flag(args, forms[i].option)) {
            *form = forms[i].form;
            given++;
        }
    }
    return given <= 1
               ? NULL
               : err_new(EXIT_USAGE_ERR,
                         "--json, --csv and --markdown exclude each other: give one of them");
}

static Err *run_table(const Args *args)
{
    TableForm form;
    TRY(chosen_form(args, &form));
    const size_t count = args_count(args);
    const char **paths = xcalloc(count, sizeof *paths);
    for (size_t i = 0; i < count; i++) {
        paths[i] = args_at(args, i);
    }
    Table *table = NULL;
    Err *err = table_open(paths, count, &table);
    free(paths);
    if (err != NULL) {
        return err;
    }
    for (char *rest = table->skipped, *line = NULL; (line = strsep(&rest, "\n")) != NULL;) {
        if (line[0] != '\0') {
            log_warn("left out: %s", line);
        }
    }
    Text text = {0};
    table_print(table, form, &text);
    fputs(text.text, stdout);
    text_free(&text);
    table_free(table);
    return NULL;
}

const Command command_table = {
    .name = "table",
    .arguments = "RUN...",
    .argument_kind = ARG_RUN,
    .min_arguments = 1,
    .max_arguments = -1,
    .summary = "results over seeds, mean and deviation, beside published figures",
    .details = "Runs that differ only in their seed, names and places form a group: n, mean ± "
               "sample deviation of the last "
               "and of the best top-1 in percent, share of test images on which student and "
               "teacher agree, time of a run, "
               "and the published top-1 with its source where data set, teacher, student and "
               "method match. Schedules that "
               "differ from the published one are named. Unfinished runs are left out of the means "
               "while any run of "
               "the group has finished. RUN is the folder of a run or one that holds such folders.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run_table,
};
