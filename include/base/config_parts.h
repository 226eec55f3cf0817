/* What the files of base/config share: the loaded configuration with its errors, and the reader of files. Nobody else
 * needs it. */
#ifndef CUDISTILL_BASE_CONFIG_PARTS_H
#define CUDISTILL_BASE_CONFIG_PARTS_H

#include "base/config_value.h"

enum { CONFIG_SOURCE_DEFAULT = -1, CONFIG_SOURCE_SET = -2 };

typedef struct {
    char *text; /* "PLACE: message" */
    int order;  /* of reading */
    size_t index;
} ConfigFault;

/* The first line of a section. */
typedef struct {
    char *name;
    char *place;
    int order;
} ConfigSectionSeen;

struct Config {
    ConfigTable table;
    ConfigSlot *slots;
    char *path; /* NULL: no file */
    ConfigFault *faults;
    size_t fault_count, fault_capacity;
    ConfigSectionSeen *sections;
    size_t section_count, section_capacity;
    ExitCode code;
    int file_count;
    int order;  /* lines and overrides read so far */
    bool empty; /* the file could not be read at all */
};

/* Where a value stands. */
typedef struct {
    const char *path;   /* file, or NULL */
    const char *shown;  /* without a file: "--set section.key=value" */
    const char *origin; /* for config_origin */
    int source;
    int line, column; /* of the value; 0: unknown */
} ConfigPlace;

/* Adds an error. column 0: none. */
void config_note(Config *config, const ConfigPlace *place, int column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Puts `text` into the slot of section.key, or notes why not; then the slot keeps what it had. */
void config_assign(Config *config, const ConfigPlace *place, const char *section, const char *key,
                   const char *text);
/* True where inih would cut the value: white space and a semicolon. */
bool config_has_inline_comment(const char *line);
/* host/base/config_file.c */
void config_read_file(Config *config, const char *path);

#endif
