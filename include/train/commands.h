/* The sub-commands. Each takes its own arguments (argv[0] is the command's name) and returns what went wrong or NULL. */
#ifndef CUDISTILL_TRAIN_COMMANDS_H
#define CUDISTILL_TRAIN_COMMANDS_H

#include "base/err.h"

typedef struct {
    const char *name;
    Err *(*run)(int argc, char **argv);
    const char *usage; /* arguments */
    const char *help;  /* one line */
} Command;

Err *command_train(int argc, char **argv);
Err *command_eval(int argc, char **argv);
Err *command_suite(int argc, char **argv);
Err *command_models(int argc, char **argv);
Err *command_help_key(const char *key);

#endif
