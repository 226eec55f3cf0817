/* What `cudistill help` explains beside commands: configuration keys, and tables of exit codes, environment variables and
 * files; all of it also as a man page. Pure tables and printing; safe from any thread but for the stream. */
#ifndef CUDISTILL_CLI_HELP_H
#define CUDISTILL_CLI_HELP_H

#include "base/config.h"

#include <stddef.h>
#include <stdio.h>

typedef struct {
    const char *name, *text;
} TopicRow;

typedef struct {
    const char *name;    /* "exit-codes" */
    const char *heading; /* "EXIT STATUS" */
    const TopicRow *rows;
    size_t count;
} Topic;

const Topic *help_topics(size_t *count);
void help_topic(const Topic *topic, FILE *out);

/* All configuration keys: those of runs, then those of suites. NULL behind the last. */
const ConfigKey *help_key_at(size_t i);
/* One key with everything about it. */
void help_key(const ConfigKey *key, FILE *out);
/* The keys of a section, a line or two each. */
void help_section(const char *section, FILE *out);
/* "number from 0 to 1", "auto|on|off". Caller frees. */
char *help_type_text(const ConfigKey *key);

/* All commands, keys and topics as a page for man(1), in the macros of man(7). */
void help_man(FILE *out);

#endif
