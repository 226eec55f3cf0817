/* The key table of the config targets: one or two keys of every type. */
#ifndef CUDISTILL_TESTS_FUZZ_SCHEMA_H
#define CUDISTILL_TESTS_FUZZ_SCHEMA_H

#include "base/config.h"
#include "train/settings.h"

extern const ConfigKey fuzz_schema[];
extern const size_t fuzz_schema_size;

/* The configuration written and loaded again holds the same values, and its text is the same. */
void fuzz_check_reload(const Config *config, const ConfigKey *keys, size_t count);
/* What a run writes down as its configuration starts the same run again. */
void fuzz_check_settings_reload(const Settings *settings);
/* Every line of the message names a place: a line of a file, or --set. */
void fuzz_check_config_error(const Err *err);

#endif
