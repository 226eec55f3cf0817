/* The exact memo of a teacher: its logits of views that it has seen, in a file that later runs use again.
 *
 * Where augmentation draws from a finite number of views (pad-4 crop and flip: 162), a frozen teacher gives the same
 * logits whenever a sample is seen in the same view. A record holds the values of one (sample, view). A file belongs to
 * one key: a text in which the caller names everything that decides the values' bits (weights, activation type,
 * normalisation, views, data, backend and library, batch size of the teacher's pass). Another key is another file, named
 * by the key's hash.
 *
 * File DIR/<hash of the key>.memo: header (magic, version, shape, key, checksum), an index of one word per (sample, view),
 * records appended as they come. It is created whole (temporary file, link). A record counts once its index word is
 * written, which is after the record itself: a process killed at any moment loses what it was about to add and nothing
 * else. Every record carries a checksum over its values and its (sample, view): a damaged one, or an index word that points
 * to the wrong place, is noticed when it is read, reported once, and counts as absent, so that it is computed again.
 *
 * One process writes at a time (flock); others that open the file meanwhile read what is there and keep nothing of their
 * own. The file, index included, never grows beyond max_bytes: then nothing more is added, which is said once. A disk that
 * is full ends adding in the same way.
 *
 * Records are read through a memory map: a file on a failing disk, or cut short by somebody else while it is in use, ends
 * the process with SIGBUS. Several threads may call memo_get at once; all else is for one thread alone. */
#ifndef CUDISTILL_DISTILL_MEMO_H
#define CUDISTILL_DISTILL_MEMO_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MEMO_KEY_MAX = 4000 };

typedef struct {
    const char *dir;         /* made if absent */
    const char *key;         /* lines of text, below MEMO_KEY_MAX bytes */
    uint32_t samples, views; /* samples * views below 2^32 - 1 */
    size_t record_bytes;     /* of the values of one record */
    uint64_t max_bytes;      /* of the whole file */
} MemoConfig;

typedef struct {
    uint64_t capacity,
        stored; /* records that fit below max_bytes; in the file, orphans of killed runs included */
    uint64_t damaged; /* found so far */
    bool writable;
    bool full; /* nothing more is added */
} MemoStats;

typedef struct Memo Memo;

/* Bytes of the file when every view of every sample is in it. */
uint64_t memo_full_bytes(uint32_t samples, uint32_t views, size_t record_bytes);

/* Opens or creates the file. A file whose header is damaged is begun anew with a warning. Errors name the file:
 * EXIT_CONFIG_ERR when max_bytes holds not even one record or the table has too many entries, EXIT_CANT_CREATE,
 * EXIT_NOT_PERMITTED, EXIT_IO. A file that may only be read is used as one that another process writes. */
Err *memo_open(const MemoConfig *config, Memo **out);
void memo_close(Memo *memo); /* accepts NULL */

/* Copies the values of (sample, view); false when they are not there. */
bool memo_get(Memo *memo, uint32_t sample, uint32_t view, void *values);
/* Adds `count` records; values[i * record_bytes] belongs to (samples[i], views[i]). What does not fit is left out. */
void memo_put(Memo *memo, uint32_t count, const uint32_t *samples, const uint32_t *views,
              const void *values);

const char *memo_path(const Memo *memo);
MemoStats memo_stats(const Memo *memo);

#endif
