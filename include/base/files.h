/* Files: whole-file reads, memory maps, and writes that appear whole or not at all.
 * Every error message names the path, the system's reason and what to do. */
#ifndef CUDISTILL_BASE_FILES_H
#define CUDISTILL_BASE_FILES_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;
} FileMap;

Err *file_map(const char *path, FileMap *out); /* read-only; EXIT_NO_INPUT when absent */
void file_unmap(FileMap *map);                 /* accepts a zeroed map */

Err *file_read_text(const char *path, size_t max_bytes,
                    char **out); /* NUL-terminated; caller frees */
/* Writes a sibling temporary file, fsyncs, renames over `path`, fsyncs the folder. On error nothing is left behind
 * and an older `path` is untouched. */
Err *file_write_atomic(const char *path, const void *data, size_t size);
/* The same from several pieces in a row, without a copy of the whole. */
typedef struct {
    const void *data;
    size_t size;
} FilePart;
Err *file_write_atomic_parts(const char *path, const FilePart *parts, size_t count);
Err *file_append_line(const char *path, const char *line); /* adds '\n'; no fsync */

bool path_exists(const char *path);
bool path_is_dir(const char *path);
char *path_join(const char *dir, const char *name); /* caller frees */
Err *dir_make(const char *path);                    /* with parents; fine if it exists */
Err *dir_sync(const char *path);                    /* fsync of the folder itself */
Err *dir_remove(const char *path);                  /* recursive; absent is fine */
/* Names in a folder, bytewise sorted, without "." and ".."; free with names_free. */
Err *dir_list(const char *path, char ***names, size_t *count);
void names_free(char **names, size_t count);

/* XXH3 128-bit as 32 hex digits (33 bytes with the NUL). */
void hash_hex(const void *data, size_t size, char out[33]);
Err *file_hash_hex(const char *path, char out[33]);
Err *file_md5_hex(const char *path, char out[33]); /* only to recognise official archives */

#endif
