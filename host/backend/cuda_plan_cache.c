/* The file of serialized plans: a first line "cudistill-plans 1 HASH", then entries, each a line "CHOICE SIZE KEY", a line
 * with the name, SIZE bytes and a newline. */
#include "backend/cuda_plan_cache.h"

#include "base/err.h"
#include "base/files.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "cudistill-plans 1 "
enum {
    HASH_DIGITS = 32,
    HEADER_BYTES = sizeof MAGIC - 1 + HASH_DIGITS + 1,
    ENTRIES_PER_SAVE = 16 /* new ones; compiling as many takes far longer than writing the file */
};

struct PlanCache {
    char *path; /* NULL: not on disk */
    PlanEntry *entries;
    size_t count, capacity;
    int unsaved;
};

static void entry_free(PlanEntry *entry)
{
    free((char *)entry->key);
    free((char *)entry->name);
    free((char *)entry->data);
}

static PlanEntry *find(const PlanCache *cache, const char *key)
{
    for (size_t i = 0; i < cache->count; i++) {
        if (strcmp(cache->entries[i].key, key) == 0) {
            return &cache->entries[i];
        }
    }
    return NULL;
}

static char *copy_of(const char *data, size_t size)
{
    char *copy = xmalloc(size + 1);
    memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

static void keep(PlanCache *cache, const PlanEntry *entry)
{
    const PlanEntry copy = {xstrdup(entry->key), entry->choice, xstrdup(entry->name),
                            copy_of(entry->data, entry->size), entry->size};
    PlanEntry *old = find(cache, entry->key);
    if (old) {
        entry_free(old);
        *old = copy;
        return;
    }
    cache->entries =
        xgrow(cache->entries, &cache->capacity, cache->count + 1, sizeof *cache->entries);
    cache->entries[cache->count++] = copy;
}

/* A line of the text at *at, without its newline; NULL at the end. */
static char *take_line(const char **at, const char *end)
{
    const char *newline = memchr(*at, '\n', (size_t)(end - *at));
    if (!newline) {
        return NULL;
    }
    char *line = copy_of(*at, (size_t)(newline - *at));
    *at = newline + 1;
    return line;
}

static bool take_entry(PlanCache *cache, const char **at, const char *end)
{
    char *head = take_line(at, end);
    char *name = head ? take_line(at, end) : NULL;
    char *after_choice = head;
    char *key = head;
    const long choice = name ? strtol(head, &after_choice, 10) : 0;
    const unsigned long long size = name ? strtoull(after_choice, &key, 10) : 0;
    const bool good = name && after_choice > head && key > after_choice && *key == ' ' &&
                      size < (size_t)(end - *at) && (*at)[size] == '\n';
    if (good) {
        keep(cache, &(PlanEntry){key + 1, (int)choice, name, *at, (size_t)size});
        *at += size + 1;
    }
    free(head);
    free(name);
    return good;
}

/* NULL, or what is wrong with the file's text. */
static const char *parse(PlanCache *cache, const char *text, size_t size)
{
    char hash[HASH_DIGITS + 1];
    if (size < HEADER_BYTES || memcmp(text, MAGIC, sizeof MAGIC - 1) != 0) {
        return "not a file of plans of this version";
    }
    hash_hex(text + HEADER_BYTES, size - HEADER_BYTES, hash);
    if (memcmp(text + sizeof MAGIC - 1, hash, HASH_DIGITS) != 0) {
        return "its hash is not that of its contents";
    }
    const char *at = text + HEADER_BYTES;
    while (at < text + size) {
        if (!take_entry(cache, &at, text + size)) {
            return "an entry is cut short";
        }
    }
    return NULL;
}

PlanCache *plan_cache_open(const char *folder, const char *file)
{
    PlanCache *cache = xcalloc(1, sizeof *cache);
    if (!folder) {
        return cache;
    }
    Err *err = dir_make(folder);
    cache->path = path_join(folder, file);
    FileMap map = {0};
    if (!err && path_exists(cache->path)) {
        err = file_map(cache->path, &map);
    }
    if (err) {
        log_warn("plan cache: %s; plans are not kept", err->message);
        err_free(err);
        free(cache->path);
        cache->path = NULL;
        return cache;
    }
    if (map.data) {
        const char *wrong = parse(cache, (const char *)map.data, map.size);
        if (wrong) {
            log_warn("plan cache %s: %s; it is written anew", cache->path, wrong);
        }
    }
    file_unmap(&map);
    return cache;
}

const PlanEntry *plan_cache_get(const PlanCache *cache, const char *key)
{
    return find(cache, key);
}

static void save(PlanCache *cache)
{
    char *body = NULL;
    size_t body_size = 0;
    char header[HEADER_BYTES + 1];
    char hash[HASH_DIGITS + 1];
    FILE *out = open_memstream(&body, &body_size);
    CHECK(out, "no memory for a file of %zu plans", cache->count);
    for (size_t i = 0; i < cache->count; i++) {
        const PlanEntry *e = &cache->entries[i];
        (void)fprintf(out, "%d %zu %s\n%s\n", e->choice, e->size, e->key, e->name);
        (void)fwrite(e->data, 1, e->size, out);
        (void)fputc('\n', out);
    }
    const bool written = !ferror(out);
    CHECK(fclose(out) == 0 && written, "no memory for a file of %zu plans", cache->count);
    hash_hex(body, body_size, hash);
    (void)snprintf(header, sizeof header, MAGIC "%s\n", hash);
    const FilePart parts[] = {{header, HEADER_BYTES}, {body, body_size}};
    Err *err = file_write_atomic_parts(cache->path, parts, 2);
    if (err) {
        log_warn("plan cache: %s; plans are not kept", err->message);
        err_free(err);
        free(cache->path);
        cache->path = NULL;
    }
    free(body);
    cache->unsaved = 0;
}

void plan_cache_put(PlanCache *cache, const PlanEntry *entry)
{
    keep(cache, entry);
    if (cache->path && ++cache->unsaved >= ENTRIES_PER_SAVE) {
        save(cache);
    }
}

void plan_cache_close(PlanCache *cache)
{
    if (!cache) {
        return;
    }
    if (cache->path && cache->unsaved > 0) {
        save(cache);
    }
    for (size_t i = 0; i < cache->count; i++) {
        entry_free(&cache->entries[i]);
    }
    free(cache->entries);
    free(cache->path);
    free(cache);
}
