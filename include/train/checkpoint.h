/* Checkpoints: directories that appear whole or not at all.
 *
 * ROOT/step-000001234/{...files..., MANIFEST}: written into ROOT/.tmp-step-..., every file fsynced, re-read and compared
 * with its XXH3 hash, MANIFEST (name, size, hash of each file) last, folder fsynced, renamed, parent fsynced; then the
 * symlink ROOT/latest is replaced by rename, then older checkpoints beyond keep_last are removed (never the one that
 * `best`, or any other symlink in ROOT, points to). A crash at any moment leaves the older state readable.
 *
 * One process at a time works on a ROOT: hold run_lock of the run directory. Not for several threads. */
#ifndef CUDISTILL_TRAIN_CHECKPOINT_H
#define CUDISTILL_TRAIN_CHECKPOINT_H

#include "base/err.h"

/* Writes the files of a checkpoint into `dir` (file_write_atomic or the safetensors writer). */
typedef Err *(*CheckpointWriter)(void *context, const char *dir);

/* Free space is checked first (needed_bytes + 10 %; 0 = not checked): EXIT_IO with the numbers. On any error nothing is
 * left behind; NULL means that the checkpoint is verified and durable. A checkpoint of the same step is replaced.
 * keep_last <= 0 keeps all. When only `latest` or a removal fails, that is a warning and no error. */
Err *checkpoint_save(const char *root, long step, size_t needed_bytes, int keep_last,
                     CheckpointWriter write, void *context);
/* Newest checkpoint whose MANIFEST and hashes hold. Stale .tmp-* folders are removed; a damaged one is renamed
 * "...corrupt" with a warning and the next older taken; `latest` is made to point at the result. *path = NULL (no error)
 * when ROOT has none at all; EXIT_IO when there are some and all are damaged, also when an earlier call has renamed
 * them: never a silent fresh start. A checkpoint that may not be read (EXIT_NOT_PERMITTED) is an error, not damage.
 * Caller frees *path. */
Err *checkpoint_newest(const char *root, char **path);
/* Compares MANIFEST with its own hash, and every file with it: EXIT_BAD_DATA with what differs. Files that MANIFEST does
 * not name are ignored. */
Err *checkpoint_verify(const char *path);
/* Points the symlink ROOT/name ("best") at the checkpoint of `step`, atomically. */
Err *checkpoint_mark(const char *root, const char *name, long step);

/* LOCK file of a run directory, which is made if absent (flock held by the open descriptor, pid and host inside):
 * EXIT_CANT_CREATE with both when another process has it. The kernel releases it when the process ends, however. A file
 * system without locks gets a warning. */
Err *run_lock(const char *run_dir, int *fd);
void run_unlock(int fd);

#endif
