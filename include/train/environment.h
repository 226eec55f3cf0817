/* Where a run computes: host, processor, memory, libraries, limits, the environment variables that change how the
 * program behaves. Nothing secret is read: variables go by a fixed list of names and prefixes. */
#ifndef CUDISTILL_TRAIN_ENVIRONMENT_H
#define CUDISTILL_TRAIN_ENVIRONMENT_H

#include "backend/backend.h"
#include "base/text.h"

/* Appends one JSON object (env.json of train/rundir.h): {"host", "system", "distribution", "processor", "cores_online",
 * "cores_allowed", "memory_bytes", "compiler", "device": {"backend","name","library","threads"},
 * "libraries": {name: version}, "limits": {name: number or null = none}, "environment": {name: value}, "folder",
 * "command": [...]}. */
void environment_json(Backend *backend, Text *out);

#endif
