/* Completion scripts for shells, from the tables of commands: commands, options, choices, networks, operations, keys after
 * --set with their choices, files and folders. The scripts stand alone: they never call the program. */
#ifndef CUDISTILL_CLI_COMPLETION_H
#define CUDISTILL_CLI_COMPLETION_H

#include "base/config.h"
#include "cli/args.h"

#include <stdio.h>

void completion_bash(FILE *out);
void completion_zsh(FILE *out);
void completion_fish(FILE *out);

/* ---- For the three of them ---- */

/* Calls `visit` for every command that runs: path "config check" without the program's name. */
void completion_walk(FILE *out, void (*visit)(FILE *out, const Command *command, const char *path));
/* The words that a value can be, with blanks between, or NULL: then it is a file, a folder or free. Caller frees. */
char *completion_words(ArgKind kind, const char *choices);
/* The values of a configuration key, or NULL when they are free. Caller frees. */
char *completion_key_words(const ConfigKey *key);
/* Text between single quotes of a POSIX shell. */
void completion_quote(FILE *out, const char *text);

#endif
