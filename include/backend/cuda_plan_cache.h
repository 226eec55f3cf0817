/* Serialized plans by key, in one file: a store of texts that is read whole and written whole. The file begins with a
 * format name and the hash of the rest; whatever does not match is ignored with a warning, so a damaged or foreign file
 * costs time and nothing else.
 *
 * Life cycle: plan_cache_open (reads), plan_cache_get and plan_cache_put, plan_cache_close (writes when something was
 * put). Writing is atomic; of several processes the last one wins, which loses entries, never mixes them. One thread. */
#ifndef CUDISTILL_BACKEND_CUDA_PLAN_CACHE_H
#define CUDISTILL_BACKEND_CUDA_PLAN_CACHE_H

#include <stddef.h>

typedef struct PlanCache PlanCache;

typedef struct {
    const char *key;
    int choice;       /* the engine's number among the candidates */
    const char *name; /* for reports */
    const char *data;
    size_t size;
} PlanEntry;

/* folder NULL: keeps nothing on disk. file: the name in the folder. */
PlanCache *plan_cache_open(const char *folder, const char *file);
/* Entry of `key`, owned by the cache until it is put again or the cache closes; NULL when absent. */
const PlanEntry *plan_cache_get(const PlanCache *cache, const char *key);
/* Copies; replaces an entry of the same key. Writes the file now and then. */
void plan_cache_put(PlanCache *cache, const PlanEntry *entry);
void plan_cache_close(PlanCache *cache); /* accepts NULL */

#endif
