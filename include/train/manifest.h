/* manifest.json (train/rundir.h): what a run is and what became of it. A process killed without warning leaves the
 * status "running". */
#ifndef CUDISTILL_TRAIN_MANIFEST_H
#define CUDISTILL_TRAIN_MANIFEST_H

#include "train/run.h"

typedef struct Manifest Manifest;

/* Takes the history of a resumed run over from the file, and adds this resume unless the run is already finished. A file
 * that is absent or damaged is begun anew. Nothing is written yet. */
Manifest *manifest_open(const Run *run);
/* Whether the file said so of this run when it was opened. */
bool manifest_was_finished(const Manifest *manifest);
void manifest_close(Manifest *manifest); /* accepts NULL */
/* The whole file. error NULL: none; exit_code < 0: the run goes on. */
Err *manifest_write(const Manifest *manifest, const Run *run, const char *status, int exit_code,
                    const char *error);

#endif
