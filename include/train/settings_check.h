/* Checks of a configuration that need more than one key, or more than a key's row: a part of settings_read with a file of
 * its own; nobody else needs it. */
#ifndef CUDISTILL_TRAIN_SETTINGS_CHECK_H
#define CUDISTILL_TRAIN_SETTINGS_CHECK_H

#include "train/settings.h"

/* Notes in `config` what does not go together, each at the key that is to be changed. A key that was refused already is
 * not spoken of again. Leaves the section of a method that is not chosen out of the resolved text. */
void settings_check(Config *config, const Settings *settings);

#endif
