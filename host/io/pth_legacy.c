/* torch.save before 1.6: one pickle after the other, then raw data. In order: a magic number, the protocol's version, facts
 * about the machine, the object, the list of storage keys; then for each key an element count (i64) and the elements.
 * Element sizes stand only in the object's pickle, in the persistent ids of its storages, the optimizer's included: all
 * of them are collected first. The data is used where it lies in the file. */
#include "io/pth_parts.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { PROTOCOL_VERSION = 1001, COUNT_BYTES = 8 };

/* 0x1950a86a20f9469cfc6c */
static const uint8_t MAGIC[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

/* A storage that the object speaks of. */
typedef struct {
    const char *key; /* into the file */
    size_t length;
    size_t element;
} KeySize;

typedef struct {
    PthReader *r;
    size_t at; /* bytes read */
    KeySize *sizes;
    size_t size_count;
} Legacy;

/* The next pickle of the file; `what` names it in messages. */
static Err *next_pickle(Legacy *l, const char *what, Pickle **out)
{
    const PthReader *r = l->r;
    size_t used = 0;
    Err *err = pickle_read_first(r->bytes + l->at, r->size - l->at, &used, out);
    TRY(err_context(err, "'%s': %s at byte %zu", r->name, what, l->at));
    l->at += used;
    return NULL;
}

/* ---- The three pickles in front ---- */

static Err *check_magic(Legacy *l)
{
    Pickle *pickle = NULL;
    TRY(next_pickle(l, "the magic number", &pickle));
    const PickleValue *root = pickle_root(pickle);
    const bool right = root->kind == PICKLE_BIG_INT && root->length == sizeof MAGIC &&
                       memcmp(root->text, MAGIC, sizeof MAGIC) == 0;
    pickle_free(pickle);
    return right ? NULL
                 : pth_bad(l->r, "a pickle, but not one of torch.save (wrong magic number); save "
                                 "model.state_dict() with torch.save");
}

static Err *check_version(Legacy *l)
{
    Pickle *pickle = NULL;
    TRY(next_pickle(l, "the version", &pickle));
    const PickleValue *root = pickle_root(pickle);
    const bool right = root->kind == PICKLE_INT && root->integer == PROTOCOL_VERSION;
    pickle_free(pickle);
    return right ? NULL
                 : pth_bad(l->r,
                           "its version is not %d, the only one that torch wrote; the file "
                           "is damaged",
                           PROTOCOL_VERSION);
}

static Err *check_machine(Legacy *l)
{
    Pickle *pickle = NULL;
    TRY(next_pickle(l, "the machine's facts", &pickle));
    const PickleValue *root = pickle_root(pickle);
    bool known = false;
    bool little = false;
    for (size_t i = 0; root->kind == PICKLE_DICT && i + 1 < root->count; i += 2) {
        if (pickle_text_is(root->items[i], "little_endian")) {
            known = root->items[i + 1]->kind == PICKLE_BOOL;
            little = known && root->items[i + 1]->integer != 0;
        }
    }
    pickle_free(pickle);
    if (!known) {
        return pth_bad(l->r, "the machine's facts lack 'little_endian'; the file is damaged");
    }
    return little ? NULL
                  : pth_bad(l->r, "saved on a big-endian machine; save it again on a "
                                  "little-endian one");
}

/* ---- Storages ---- */

static int compare_keys(const void *a, const void *b)
{
    const KeySize *left = a;
    const KeySize *right = b;
    const size_t shorter = left->length < right->length ? left->length : right->length;
    const int order = memcmp(left->key, right->key, shorter);
    return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

/* One size for each key: what two ids say of one storage must agree. */
static Err *merge_sizes(Legacy *l)
{
    if (l->size_count > 0) {
        qsort(l->sizes, l->size_count, sizeof *l->sizes, compare_keys);
    }
    size_t kept = 0;
    for (size_t i = 0; i < l->size_count; i++) {
        if (kept > 0 && compare_keys(&l->sizes[kept - 1], &l->sizes[i]) == 0) {
            if (l->sizes[kept - 1].element != l->sizes[i].element) {
                return pth_bad(l->r, "storage '%.*s' has two element types; the file is damaged",
                               (int)l->sizes[i].length, l->sizes[i].key);
            }
            continue;
        }
        l->sizes[kept++] = l->sizes[i];
    }
    l->size_count = kept;
    return NULL;
}

static Err *collect_sizes(Legacy *l, const Pickle *pickle)
{
    size_t capacity = 0;
    for (size_t i = 0; i < pickle_value_count(pickle); i++) {
        const PickleValue *value = pickle_value(pickle, i);
        if (value->kind != PICKLE_PERSISTENT || !pth_is_storage_id(value->args)) {
            continue;
        }
        const PickleValue *class = value->args->items[1];
        const PickleValue *key = value->args->items[2];
        const size_t element = pth_element_size(class);
        if (element == 0) {
            const bool global = class->kind == PICKLE_GLOBAL;
            return pth_bad(l->r,
                           "the storage type '%.*s' is unknown; convert the file with a "
                           "newer torch",
                           global ? (int)class->name_length : 1, global ? class->name : "?");
        }
        l->sizes = xgrow(l->sizes, &capacity, l->size_count + 1, sizeof *l->sizes);
        l->sizes[l->size_count++] = (KeySize){key->text, key->length, element};
    }
    return merge_sizes(l);
}

/* The element count at the current place and the elements after it become the storage `key`. */
static Err *add_storage(Legacy *l, const PickleValue *key)
{
    PthReader *r = l->r;
    const KeySize wanted = {key->text, key->length, 0};
    const KeySize *known =
        key->kind != PICKLE_TEXT || l->size_count == 0
            ? NULL
            : bsearch(&wanted, l->sizes, l->size_count, sizeof wanted, compare_keys);
    if (known == NULL) {
        return pth_bad(r, "its key list names a storage that the object does not have; the file "
                          "is damaged");
    }
    const int length = (int)key->length;
    if (r->size - l->at < COUNT_BYTES) {
        return pth_bad(r, "truncated at byte %zu, before storage '%.*s'; fetch it again", r->size,
                       length, key->text);
    }
    int64_t count = 0;
    memcpy(&count, r->bytes + l->at, COUNT_BYTES);
    l->at += COUNT_BYTES;
    /* As an unsigned number a negative one is too large, too. */
    if ((uint64_t)count > (r->size - l->at) / known->element) {
        return pth_bad(r,
                       "storage '%.*s' at byte %zu claims %lld elements of %zu bytes, and %zu "
                       "bytes are left; the file is truncated or damaged, fetch it again",
                       length, key->text, l->at, (long long)count, known->element, r->size - l->at);
    }
    const size_t bytes = (size_t)count * known->element;
    pth_add_storage(r, xformat("%.*s", length, key->text), bytes, r->bytes + l->at);
    l->at += bytes;
    return NULL;
}

static Err *read_storages(Legacy *l)
{
    Pickle *pickle = NULL;
    TRY(next_pickle(l, "the list of storage keys", &pickle));
    const PickleValue *keys = pickle_root(pickle);
    Err *err = NULL;
    if (keys->kind != PICKLE_LIST) {
        err = pth_bad(l->r, "the list of storage keys is missing; the file is damaged");
    }
    for (size_t i = 0; err == NULL && i < keys->count; i++) {
        err = add_storage(l, keys->items[i]);
    }
    pickle_free(pickle);
    TRY(err);
    if (l->at < l->r->size) {
        log_warn("'%s': the last %zu bytes belong to no tensor and are not read", l->r->name,
                 l->r->size - l->at);
    }
    return pth_sort_storages(l->r);
}

static Err *read_object(Legacy *l, const Pickle *object)
{
    TRY(collect_sizes(l, object));
    TRY(read_storages(l));
    TRY(pth_describe(l->r, pickle_root(object)));
    return pth_place(l->r);
}

Err *pth_read_legacy(PthReader *r)
{
    Legacy legacy = {.r = r};
    TRY(check_magic(&legacy));
    TRY(check_version(&legacy));
    TRY(check_machine(&legacy));
    Pickle *object = NULL;
    TRY(next_pickle(&legacy, "the object", &object));
    Err *err = read_object(&legacy, object);
    pickle_free(object);
    free(legacy.sizes);
    return err;
}
