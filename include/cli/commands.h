/* The sub-commands. Each is one table (cli/args.h) and a function of a few lines that calls the layers below. */
#ifndef CUDISTILL_CLI_COMMANDS_H
#define CUDISTILL_CLI_COMMANDS_H

#include "cli/args.h"
#include "io/progress.h"

extern const Command command_train;
extern const Command command_eval;
extern const Command command_suite;
extern const Command command_config; /* check | show | keys | diff */
extern const Command command_data;   /* show | make-lt */
extern const Command command_convert;
extern const Command command_export;
extern const Command command_inspect;
extern const Command command_bench;
extern const Command command_table;
extern const Command command_report;
extern const Command command_models;
extern const Command command_doctor;
extern const Command command_completion; /* bash | zsh | fish */
extern const Command command_help;
extern const Command command_version;

/* The program: its sub-commands are all of these. */
extern const Command command_root;

/* A sub-command with a file of its own: `data make-lt`. */
extern const Command command_data_make_lt;

/* The page of a run that has finished (report.auto); one that cannot be written costs a warning. */
void command_report_finished(const char *run_dir);

/* Runs the command that argv names; what went wrong, or NULL. */
Err *command_dispatch(int argc, char **argv);
/* argv asks for work in parallel loops, not for a text that is there at once. */
bool command_computes(int argc, char **argv);
/* What a person is to see of a run by the flags quiet, verbose and json; sets the log's level. EXIT_USAGE_ERR where they
 * contradict each other. */
Err *command_progress(const Args *args, ProgressMode *out);
/* The configuration key that an option of `train` sets ("optim.lr"), or NULL. */
const char *train_option_key(const char *option);

#endif
