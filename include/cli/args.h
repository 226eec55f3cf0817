/* Command lines as tables. A Command describes its options, arguments and examples once; from that come the parser, --help,
 * the man page and the completion of bash, zsh and fish.
 *
 * Options are long (--name VALUE or --name=VALUE), some with a letter; flags take no value; "--" ends the options. Every
 * command has --help (-h). An option that may not be repeated is refused the second time. All errors are EXIT_USAGE_ERR,
 * name the option and say what is possible; unknown options and commands come with a "did you mean".
 *
 * Life cycle: args_parse, reads, args_free. Texts point into argv. Reading an option that the table lacks, or as another
 * kind, is a bug and ends the process. */
#ifndef CUDISTILL_CLI_ARGS_H
#define CUDISTILL_CLI_ARGS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What a value is: how it is checked, and what completion offers. */
typedef enum {
    ARG_FLAG,
    ARG_TEXT,
    ARG_INT,
    ARG_FLOAT,
    ARG_CHOICE,   /* one of `choices` */
    ARG_DURATION, /* base/duration.h; read with args_float, seconds */
    ARG_FILE,
    ARG_DIR,
    ARG_RUN,     /* folder of a run */
    ARG_MODEL,   /* name of a network */
    ARG_SETTING, /* section.key=value */
    ARG_TOPIC,   /* what `help` explains: a command, a section, a key */
    ARG_BENCH_OP /* name of an operation of `bench op` */
} ArgKind;

typedef struct {
    const char *name; /* "dry-run" */
    char letter;      /* 'q' for -q too; 0 = none */
    ArgKind kind;
    bool many;           /* may be given several times */
    const char *metavar; /* "N"; NULL for flags; NULL for ARG_CHOICE: the choices */
    const char *choices; /* ARG_CHOICE: "auto|must|never" */
    double min, max;     /* inclusive, of ARG_INT and ARG_FLOAT; both 0 = none */
    const char *help;    /* what it does, default included */
} ArgOption;

typedef struct Args Args;

typedef struct Command {
    const char *name;
    const char *arguments;            /* "CONFIG.ini", "RUN...", "" */
    ArgKind argument_kind;            /* of the arguments, for completion */
    int min_arguments, max_arguments; /* max -1: any number */
    const char *summary;              /* one line */
    const char *
        details; /* further paragraphs, or NULL; a blank line parts them, other line breaks do not show */
    const ArgOption *options;
    size_t option_count;
    const char *const *examples;           /* whole command lines, NULL-terminated; or NULL */
    const struct Command *const *commands; /* sub-commands, NULL-terminated; then run is NULL */
    Err *(*run)(const Args *args);
    bool computes; /* runs parallel loops: main.c sets their waiting policy before it */
} Command;

/* argv[0] is the command's name. With --help among the options *out is NULL and no error: the help was printed on stdout.
 * `path` is how the command is called: "cudistill config". */
Err *args_parse(const Command *command, const char *path, int argc, char **argv, Args **out);
void args_free(Args *args); /* accepts NULL */

bool args_given(const Args *args, const char *option);
bool args_flag(const Args *args, const char *option);
/* The last value given, or `fallback`. */
const char *args_text(const Args *args, const char *option, const char *fallback);
int64_t args_int(const Args *args, const char *option, int64_t fallback);
double args_float(const Args *args, const char *option, double fallback);
/* Position among the choices. */
int args_choice(const Args *args, const char *option, int fallback);
/* All values of an option that may be repeated; *count may be 0. */
const char *const *args_all(const Args *args, const char *option, size_t *count);
size_t args_count(const Args *args); /* of the arguments that are no options */
const char *args_at(const Args *args, size_t i);

/* Finds the sub-command that argv names, parses and runs it; a command without sub-commands is parsed and run itself. */
Err *args_run(const Command *command, const char *path, int argc, char **argv);

/* At most 80 columns wide where no word is wider. */
void args_help(const Command *command, const char *path, FILE *out);
/* Words of a text in lines of 80 columns; `column` is where the first word goes, further lines begin at `indent`. */
void args_wrap(FILE *out, const char *text, int column, int indent);
/* The option as help writes it: "-q, --quiet", "    --seed N". Caller frees. */
char *args_option_text(const ArgOption *option);

#endif
