/* The values of a configuration: one slot for each row of the key table, and the parsers that fill it. A part of
 * base/config.h with a file of its own; nobody else needs it. Pure functions, but for reads of the environment and
 * the current folder by paths. */
#ifndef CUDISTILL_BASE_CONFIG_VALUE_H
#define CUDISTILL_BASE_CONFIG_VALUE_H

#include "base/config.h"

enum { CONFIG_LINE_MAX = 198 /* bytes: inih's buffer of 200 less newline and NUL */ };

typedef struct {
    char *text;   /* trimmed; of a path: joined with its folder */
    char *origin; /* "default", "FILE:LINE", "--set" */
    char *
        place; /* for messages: "FILE:LINE:COLUMN", "--set section.key=value"; NULL for a default */
    int source;    /* default, override, or the number of the file in its load */
    int line;      /* in that file */
    int order;     /* of reading, over all files and overrides */
    bool refused;  /* a value was given that could not be taken; this is an older one */
    bool left_out; /* of the resolved text */
    int64_t *ints; /* also bool (0, 1) and enum (position) */
    double *floats;
    size_t count; /* of ints or floats; 1 for a scalar that has a value */
} ConfigSlot;

/* Parses slot->text as the row wants and fills ints, floats and count. origin_path: the file that a relative path
 * starts from, or NULL. NULL, or the reason why not, which the caller frees. */
char *config_slot_parse(const ConfigTable *table, const ConfigKey *row, ConfigSlot *slot,
                        const char *origin_path);
void config_slot_free(ConfigSlot *slot); /* leaves it zeroed */

/* Bytes before the first that is not UTF-8; the length where all are. */
size_t config_utf8_length(const char *text);
/* UTF-8 without control characters, not even a tab. */
bool config_is_text(const char *text);
/* Copy of [begin, end) without white space at its ends. */
char *config_trimmed(const char *begin, const char *end);
/* The path that `text` means in file `origin_path` (NULL: in no file), ${NAME} replaced; NULL and *reason on error. */
char *config_resolve_path(const char *text, const char *origin_path, char **reason);
char *config_absolute_path(const char *path); /* "" stays "" */

#endif
