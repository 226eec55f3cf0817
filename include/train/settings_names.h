/* What other programs call our configuration keys: for `cudistill help KEY`, and to recognise a key that somebody brings
 * along ("kd_T in RepDistiller is distill.temperature here").
 *
 * A name is written as its program writes it: argparse options with their dashes (RepDistiller's train_student.py, timm's
 * train.py), yacs paths (mdistiller's engine/cfg.py). Several names of one key are separated by '|'. Sources: the three
 * repositories as of 2024. Constant tables, safe from any thread. */
#ifndef CUDISTILL_TRAIN_SETTINGS_NAMES_H
#define CUDISTILL_TRAIN_SETTINGS_NAMES_H

#include "base/config.h"

typedef enum {
    NAMES_REPDISTILLER,
    NAMES_MDISTILLER,
    NAMES_TIMM,
    NAMES_COMMON, /* further usual spellings, of no program in particular */
    NAMES_COUNT
} NameOrigin;

/* "RepDistiller", "mdistiller", "timm"; NULL for NAMES_COMMON. */
const char *names_origin(NameOrigin origin);
/* The name of section.key there, or NULL where that program has none. */
const char *settings_name(const char *section, const char *key, NameOrigin origin);
/* All rows, in no particular order; keys without a foreign name have none. */
const ConfigNames *settings_names(size_t *count);

#endif
