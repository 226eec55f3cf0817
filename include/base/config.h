/* Configuration: strict INI files checked against a table of keys that the caller owns.
 *
 * A file holds `[section]` and `key = value` lines, comments on lines of their own (# or ;), and, above the first
 * section, at most one `include = other.ini` (relative to the file; cycles are refused). Precedence: the table's
 * default < included file < file < override. Every value remembers where it came from. A byte-order mark and Windows
 * line ends are accepted.
 *
 * Strict: an unknown section or key, a key given twice in one file, a value of the wrong type or out of range, an
 * indented line, a line over 198 bytes (the parser's limit), a comment behind a value, quotes, control characters and
 * text that is not UTF-8 are errors. All errors of a load are reported together in one Err (EXIT_CONFIG_ERR): a line
 * "FILE:LINE:COLUMN: message" for each in the order of reading, then "N errors, nothing was started." Columns count
 * characters from 1. Messages say what was probably meant: near misses, keys of another section, names that other
 * programs use.
 *
 * Values: whole numbers in decimal; floats as 0.1 or 1e-4 (no arithmetic); booleans true/false/yes/no/on/off; lists
 * separated by commas, possibly empty; paths relative to the file they stand in (an override: to the current
 * folder; a default: likewise), with ${NAME} replaced by the environment variable, which must be set.
 *
 * Life cycle: config_load, any number of reads, config_free; or, to add checks of one's own to the same report,
 * config_read, reads and config_fault, config_errors, config_free. A Config does not change after that: reads from
 * several threads are safe. The arrays of the table must outlive it. Reading a key that the table lacks, or as another type, is a bug
 * and ends the process. */
#ifndef CUDISTILL_BASE_CONFIG_H
#define CUDISTILL_BASE_CONFIG_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    CONFIG_BOOL,
    CONFIG_INT,
    CONFIG_INTS,
    CONFIG_FLOAT,
    CONFIG_FLOATS,
    CONFIG_STRING,
    CONFIG_PATH,
    CONFIG_ENUM
} ConfigType;

/* One row of the table. */
typedef struct {
    const char *section; /* at most 49 characters */
    const char *key;
    ConfigType type;
    /* Default as it would stand in a file. NULL: the key must be given. "": the empty list, string or path; a number
     * with this default is optional (config_has tells), a bool or enum must not have it. */
    const char *fallback;
    double
        min; /* inclusive limits of a number, or of each element of a list; min = max = 0: none */
    double max;
    const char *names; /* CONFIG_ENUM: the choices, as "sgd|adamw" */
    const char *help;  /* one line, for whoever prints the table */
} ConfigKey;

/* What other programs call a key: a column for each program, several names separated by '|', NULL where it has none. */
enum { CONFIG_NAME_ORIGINS = 4 };
typedef struct {
    const char *section;
    const char *key;
    const char *names[CONFIG_NAME_ORIGINS];
} ConfigNames;

/* Another word for the value of an enum: {"bfloat16", "bf16"}. */
typedef struct {
    const char *word;
    const char *choice;
} ConfigWord;

typedef struct {
    const ConfigKey *keys;
    size_t key_count;
    /* For suggestions; all may be empty. */
    const ConfigNames *names;
    size_t name_count;
    const char *origins
        [CONFIG_NAME_ORIGINS]; /* whose names a column holds; NULL: of nobody in particular */
    const ConfigWord *words;
    size_t word_count;
} ConfigTable;

/* A value from the command line. A later one of another origin takes precedence; twice from one origin is an error. */
typedef struct {
    const char *text;   /* "section.key=value" */
    const char *origin; /* what gave it: "--set", "--seed" */
} ConfigOverride;

typedef enum {
    CONFIG_FROM_DEFAULT,
    CONFIG_FROM_INCLUDE, /* a file that the named file includes, directly or not */
    CONFIG_FROM_FILE,
    CONFIG_FROM_OVERRIDE
} ConfigSource;

typedef struct Config Config;

/* path NULL: defaults and overrides alone. overrides[i] is "section.key=value", of origin "--set". On error *out is NULL.
 * EXIT_NO_INPUT (or the system's reason) where the file itself cannot be read, else EXIT_CONFIG_ERR. */
Err *config_load(const ConfigKey *keys, size_t key_count, const char *path,
                 const char *const *overrides, size_t override_count, Config **out);
void config_free(Config *config); /* accepts NULL */

/* In steps. config_read always returns a Config; where it found errors, a key that was refused keeps what it had before
 * (the included file's value, or the default). */
Config *config_read(const ConfigTable *table, const char *path, const ConfigOverride *overrides,
                    size_t override_count);
/* Adds an error at the value of section.key; where nobody gave the key: at the first line of its section, or the file. */
void config_fault(Config *config, const char *section, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* True when section.key, or anything where key is NULL, was given and refused: its value here is not what was meant. */
bool config_refused(const Config *config, const char *section, const char *key);
/* All errors so far, or NULL. */
Err *config_errors(const Config *config);
/* Leaves the key, or with NULL the whole section, out of config_text: nobody looks at it, and where giving it is an error
 * the resolved text must still load. */
void config_leave_out(Config *config, const char *section, const char *key);

bool config_bool(const Config *config, const char *section, const char *key);
int64_t config_int(const Config *config, const char *section, const char *key);
double config_float(const Config *config, const char *section, const char *key);
/* Text of a string, a path (joined with its folder; "" stays "") or the chosen name of an enum. */
const char *config_str(const Config *config, const char *section, const char *key);
/* Position of the chosen name in the row's `names`. */
int config_enum(const Config *config, const char *section, const char *key);
/* Elements of a list, owned by the config; *count may be 0. */
const int64_t *config_ints(const Config *config, const char *section, const char *key,
                           size_t *count);
const double *config_floats(const Config *config, const char *section, const char *key,
                            size_t *count);

/* False for an empty list, string or path and for an optional number that nobody gave. */
bool config_has(const Config *config, const char *section, const char *key);
/* True when a file or an override gave the value. */
bool config_is_set(const Config *config, const char *section, const char *key);
ConfigSource config_source(const Config *config, const char *section, const char *key);
/* "default", "FILE:LINE" or the origin of the override: "--set". */
const char *config_origin(const Config *config, const char *section, const char *key);
/* The value as config_text writes it: a path is absolute. Caller frees. */
char *config_value_text(const Config *config, const char *section, const char *key);

/* The whole resolved configuration as a file that loads to the same values from any folder (paths are absolute, no
 * include). With origins, a comment above each key tells where its value came from. Caller frees. */
char *config_text(const Config *config, bool origins);

#endif
