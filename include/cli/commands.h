/* The sub-commands. Each is one table (cli/args.h) and a function of a few lines that calls the layers below. */
#ifndef CUDISTILL_CLI_COMMANDS_H
#define CUDISTILL_CLI_COMMANDS_H

#include "cli/args.h"

#define CUDISTILL_VERSION "0.1.0"

extern const Command command_train;
extern const Command command_eval;
extern const Command command_suite;
extern const Command command_config; /* check | show | keys | diff */
extern const Command command_data;   /* show */
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

/* Runs the command that argv names; what went wrong, or NULL. */
Err *command_dispatch(int argc, char **argv);

#endif
