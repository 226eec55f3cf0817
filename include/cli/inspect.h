/* What `cudistill inspect` says of a file or folder, as text for people or as one JSON object on a line. Nothing is
 * executed or changed. Each function appends to `out`; on an error (EXIT_BAD_DATA with the place, EXIT_NO_INPUT, EXIT_IO)
 * what it had appended is to be thrown away. Not for several threads on one Text. */
#ifndef CUDISTILL_CLI_INSPECT_H
#define CUDISTILL_CLI_INSPECT_H

#include "base/files.h"
#include "base/text.h"
#include "io/weights.h"

typedef struct {
    bool json;
    bool
        stats; /* of each tensor: least, greatest and mean finite value, values that are not finite */
} InspectOptions;

/* Finds out by content what `path` is, and calls one of the others. */
Err *inspect_path(const char *path, InspectOptions options, Text *out);

/* safetensors, .pth or .npy, read into `file`: its tensors, sums, and the network of the zoo that it fits exactly. `kind`
 * is said to machines ("safetensors", "pth", "npy"), `words` to people. */
void inspect_weights(const char *path, const char *kind, const char *words, const WeightsFile *file,
                     InspectOptions options, Text *out);
/* All arrays of a folder, in one table. */
Err *inspect_arrays(const char *path, InspectOptions options, Text *out);
/* A checkpoint: MANIFEST and every file compared with it, then state.json and the weights. */
Err *inspect_checkpoint(const char *path, InspectOptions options, Text *out);
/* A folder of checkpoints: which of them are whole. */
Err *inspect_checkpoints(const char *path, InspectOptions options, Text *out);
/* The folder of a run (train/rundir.h): its manifest and its files. */
Err *inspect_run(const char *path, InspectOptions options, Text *out);
/* TensorBoard events: one line a tag. */
Err *inspect_events(const char *path, const FileMap *map, InspectOptions options, Text *out);

/* A text from a file, made safe for a terminal: no control characters, UTF-8. */
void inspect_text(Text *out, const char *text);

#endif
