/* What must not change between the parts of a run, since the result would be neither run's.
 *
 * A key of the configuration is free (it names a place, a limit, a report), or it decides the result: then another value
 * at a resume is refused, all such keys in one table, unless --allow-drift names the key (Settings.allow_drift), which
 * makes it a warning. Besides keys there are "data" (the training set's contents), "teacher.weights" (the teacher's
 * contents; its path is free), "train.precision" and "teacher.precision" (the type that computes here). */
#ifndef CUDISTILL_TRAIN_DRIFT_H
#define CUDISTILL_TRAIN_DRIFT_H

#include "train/settings.h"

#include <jansson.h>

/* One difference. */
typedef struct {
    const char *key;  /* as --allow-drift takes it */
    const char *what; /* in addition, for people: "(the training set's hash)"; "" = nothing */
    const char *then, *now;
} Drift;

/* EXIT_USAGE_ERR for a name in allow_drift that is none of the above. */
Err *drift_check_names(const Settings *settings);
/* Warns of allowed differences. EXIT_CONFIG_ERR with a table of the others and the cure; NULL when there are none. */
Err *drift_judge(const Settings *settings, const Drift *drifts, size_t count);

/* The values that decide the result, {"section.key": text}, for state.json. */
json_t *drift_config_json(const Config *config);
/* The same, compared with what was: *list gets what differs, freed with drift_free. A key that `before` does not have was
 * new since: it differs where a value is given now. */
void drift_compare(const Config *config, const json_t *before, Drift **list, size_t *count);
/* Appends a difference; copies the texts but `what`. */
void drift_add(Drift **list, size_t *count, const char *key, const char *what, const char *then,
               const char *now);
void drift_free(Drift *list, size_t count);

/* A key's value in one spelling: 5e-2 and 0.05 are the same. Caller frees. */
char *setting_text(const Config *config, const ConfigKey *row);

#endif
