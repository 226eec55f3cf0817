/* What a mistake in a configuration probably means: the end of a message, as "; did you mean 'x'?", or "". A part of
 * base/config.h; nobody else needs it. Pure functions, but that config_hint_env reads the environment and config_hint_file
 * the folder; callers free the result. */
#ifndef CUDISTILL_BASE_CONFIG_HINT_H
#define CUDISTILL_BASE_CONFIG_HINT_H

#include "base/config.h"

/* key_count when absent. */
size_t config_key_index(const ConfigTable *table, const char *section, const char *key);
bool config_has_section(const ConfigTable *table, const char *section);

/* A key that [section] does not have; section NULL or unknown: a key without a section. */
char *config_hint_key(const ConfigTable *table, const char *section, const char *key);
/* *meant: the section that was certainly meant, or NULL. */
char *config_hint_section(const ConfigTable *table, const char *section, const char **meant);
/* A line that is none of an INI file. */
char *config_hint_line(const char *line);
char *config_hint_env(const char *name);
/* A file that is not there: one of its folder with nearly the name. */
char *config_hint_file(const char *path);

#endif
