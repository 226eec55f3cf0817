/* safetensors on top of jansson and a file map. The reader trusts nothing: every number is checked for range and
 * overflow before it is used. The writer gives the reference writer's bytes, so files can be compared by hash. */
#include "io/safetensors.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, HEADER_MAX = 100000000, ALIGNMENT = 8 };

static const char METADATA_KEY[] = "__metadata__";

/* ---- Reading ---- */

__attribute__((format(printf, 2, 3))) static Err *bad_file(const char *path, const char *format,
                                                           ...)
{
    va_list args;
    va_start(args, format);
    char text[512];
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_new(EXIT_BAD_DATA,
                   "'%s' is not a valid safetensors file: %s; fetch or save it again", path, text);
}

static Err *parse_header(const char *path, const uint8_t *data, size_t size, json_t **header,
                         size_t *length)
{
    if (size < LENGTH_BYTES) {
        return bad_file(path, "%zu bytes are too few for the header's length", size);
    }
    uint64_t stated = 0;
    memcpy(&stated, data, LENGTH_BYTES);
    if (stated > HEADER_MAX) {
        return bad_file(path, "it states a header of %llu bytes, above the format's limit of %d",
                        (unsigned long long)stated, HEADER_MAX);
    }
    if (stated > size - LENGTH_BYTES) {
        return bad_file(path,
                        "truncated: it states a header of %llu bytes and has %zu bytes in all",
                        (unsigned long long)stated, size);
    }
    *length = (size_t)stated;
    const char *text = (const char *)data + LENGTH_BYTES;
    if (*length == 0 || text[0] != '{') {
        return bad_file(path, "the header does not begin with '{'");
    }
    json_error_t error;
    *header = json_loadb(text, *length, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &error);
    if (*header == NULL) {
        return bad_file(path, "header, byte %d: %s", error.position, error.text);
    }
    for (size_t i = (size_t)error.position; i < *length; i++) {
        if (text[i] != ' ') {
            json_decref(*header);
            *header = NULL;
            return bad_file(path, "header, byte %zu: only spaces may follow the object", i);
        }
    }
    return NULL;
}

static Err *parse_metadata(const char *path, json_t *object, WeightsFile *file)
{
    if (!json_is_object(object)) {
        return bad_file(path, "%s is not an object", METADATA_KEY);
    }
    file->metadata = xcalloc(json_object_size(object), sizeof *file->metadata);
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value)) {
            return bad_file(path, "%s: '%s' is not a string", METADATA_KEY, key);
        }
        WeightMeta *meta = &file->metadata[file->metadata_count++];
        meta->key = xstrdup(key);
        meta->value = xstrdup(json_string_value(value));
    }
    return NULL;
}

static Err *parse_type(const char *path, const char *name, const json_t *value, WeightType *type)
{
    const char *text = json_string_value(value);
    if (text == NULL) {
        return bad_file(path, "tensor '%s' has no dtype", name);
    }
    for (int i = 0; i < WEIGHT_TYPE_COUNT; i++) {
        if (strcmp(weight_type_name((WeightType)i), text) == 0) {
            *type = (WeightType)i;
            return NULL;
        }
    }
    return err_new(
        EXIT_BAD_DATA,
        "'%s': tensor '%s' has the element type '%s', which is not supported; convert it "
        "to F32, F16 or BF16",
        path, name, text);
}

static Err *parse_shape(const char *path, const json_t *value, WeightEntry *entry)
{
    const size_t ndim = json_array_size(value);
    if (!json_is_array(value) || ndim > WEIGHT_RANK_MAX) {
        return bad_file(path, "the shape of tensor '%s' is not an array of at most %d numbers",
                        entry->name, WEIGHT_RANK_MAX);
    }
    entry->ndim = (int)ndim;
    entry->count = 1;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *item = json_array_get(value, i);
        const json_int_t size = json_integer_value(item);
        if (!json_is_integer(item) || size < 0) {
            return bad_file(path, "dimension %zu of tensor '%s' is not a whole number >= 0", i,
                            entry->name);
        }
        entry->shape[i] = size;
        if (__builtin_mul_overflow(entry->count, (size_t)size, &entry->count)) {
            return bad_file(path, "the shape of tensor '%s' overflows", entry->name);
        }
    }
    if (__builtin_mul_overflow(entry->count, weight_type_size(entry->type), &entry->bytes)) {
        return bad_file(path, "the size of tensor '%s' overflows", entry->name);
    }
    return NULL;
}

/* The offset of each entry is kept in `begin` until the entries are in the file's order. */
typedef struct {
    WeightEntry entry;
    size_t begin;
    size_t end;
} Placed;

static Err *parse_tensor(const char *path, const json_t *object, Placed *placed)
{
    WeightEntry *entry = &placed->entry;
    if (!json_is_object(object)) {
        return bad_file(path, "the description of tensor '%s' is not an object", entry->name);
    }
    TRY(parse_type(path, entry->name, json_object_get(object, "dtype"), &entry->type));
    TRY(parse_shape(path, json_object_get(object, "shape"), entry));
    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin)) {
        return bad_file(path, "the data_offsets of tensor '%s' are not two ascending numbers",
                        entry->name);
    }
    placed->begin = (size_t)json_integer_value(begin);
    placed->end = (size_t)json_integer_value(end);
    if (placed->end - placed->begin != entry->bytes) {
        return bad_file(path, "tensor '%s' has %zu bytes by its shape, but %zu by its offsets",
                        entry->name, entry->bytes, placed->end - placed->begin);
    }
    return NULL;
}

static int compare_placed(const void *a, const void *b)
{
    const Placed *left = a;
    const Placed *right = b;
    if (left->begin != right->begin) {
        return left->begin < right->begin ? -1 : 1;
    }
    return (left->end > right->end) - (left->end < right->end);
}

/* Sorted by offset, tensors must follow one another from 0 to the end of the file. */
static Err *check_layout(const char *path, const Placed *placed, size_t count, size_t data_size)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = placed[i].entry.name;
        if (placed[i].begin != at) {
            return bad_file(path, "there is %s before the data of tensor '%s'",
                            placed[i].begin > at ? "a hole" : "an overlap", name);
        }
        if (placed[i].end > data_size) {
            return bad_file(path, "truncated: the data of tensor '%s' ends at byte %zu of %zu",
                            name, placed[i].end, data_size);
        }
        at = placed[i].end;
    }
    if (at != data_size) {
        return bad_file(path, "%zu bytes follow the last tensor", data_size - at);
    }
    return NULL;
}

static Err *parse_entries(const char *path, json_t *header, WeightsFile *file, Placed *placed)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(header, key, value)
    {
        if (strcmp(key, METADATA_KEY) == 0) {
            TRY(parse_metadata(path, value, file));
            continue;
        }
        Placed *next = &placed[file->count++];
        next->entry.name = xstrdup(key);
        TRY(parse_tensor(path, value, next));
    }
    return NULL;
}

static Err *parse_file(const char *path, const uint8_t *data, size_t size, WeightsFile *file)
{
    json_t *header = NULL;
    size_t header_size = 0;
    TRY(parse_header(path, data, size, &header, &header_size));
    const size_t begin = LENGTH_BYTES + header_size;
    Placed *placed = xcalloc(json_object_size(header), sizeof *placed);
    Err *err = parse_entries(path, header, file, placed);
    json_decref(header);
    if (err == NULL && file->count > 0) {
        qsort(placed, file->count, sizeof *placed, compare_placed);
    }
    if (err == NULL) {
        err = check_layout(path, placed, file->count, size - begin);
    }
    /* Names have one owner from here on, error or not. */
    file->entries = xcalloc(file->count, sizeof *file->entries);
    for (size_t i = 0; i < file->count; i++) {
        file->entries[i] = placed[i].entry;
        if (err == NULL) { /* offsets were checked */
            file->entries[i].data = data + begin + placed[i].begin;
        }
    }
    free(placed);
    return err;
}

Err *safetensors_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out)
{
    *out = NULL;
    WeightsFile *file = xcalloc(1, sizeof *file);
    Err *err = parse_file(name, data, size, file);
    if (err != NULL) {
        weights_close(file);
        return err;
    }
    *out = file;
    return NULL;
}

Err *safetensors_open(const char *path, WeightsFile **out)
{
    return weights_open_map(path, safetensors_open_memory, out);
}

/* ---- Writing ---- */

static size_t tensor_bytes(const SafeTensor *tensor)
{
    size_t bytes = weight_type_size(tensor->type);
    CHECK(tensor->ndim >= 0 && tensor->ndim <= WEIGHT_RANK_MAX, "tensor '%s' has rank %d",
          tensor->name, tensor->ndim);
    for (int i = 0; i < tensor->ndim; i++) {
        CHECK(tensor->shape[i] >= 0, "tensor '%s': dimension %d is %lld", tensor->name, i,
              (long long)tensor->shape[i]);
        bytes *= (size_t)tensor->shape[i];
    }
    return bytes;
}

static int compare_tensors(const void *a, const void *b)
{
    const SafeTensor *const *left = a;
    const SafeTensor *const *right = b;
    if ((*left)->type != (*right)->type) {
        return (*left)->type > (*right)->type ? -1 : 1;
    }
    return strcmp((*left)->name, (*right)->name);
}

static Err *not_utf8(const char *path, const char *what)
{
    return err_new(EXIT_BAD_DATA, "cannot write '%s': the text '%s' is not valid UTF-8; rename it",
                   path, what);
}

static Err *add_metadata(const char *path, json_t *header, const char *const *metadata)
{
    if (metadata == NULL || metadata[0] == NULL) {
        return NULL;
    }
    json_t *object = json_object();
    for (size_t i = 0; metadata[i] != NULL; i += 2) {
        CHECK(metadata[i + 1] != NULL, "metadata '%s' has no value", metadata[i]);
        if (json_object_set_new(object, metadata[i], json_string(metadata[i + 1])) != 0) {
            json_decref(object);
            return not_utf8(path, metadata[i + 1]);
        }
    }
    (void)json_object_set_new(header, METADATA_KEY, object);
    return NULL;
}

static Err *add_tensor(const char *path, json_t *header, const SafeTensor *tensor, size_t begin,
                       size_t end)
{
    CHECK(strcmp(tensor->name, METADATA_KEY) != 0 && json_object_get(header, tensor->name) == NULL,
          "tensor name '%s' is reserved or used twice", tensor->name);
    json_t *shape = json_array();
    for (int i = 0; i < tensor->ndim; i++) {
        (void)json_array_append_new(shape, json_integer(tensor->shape[i]));
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", weight_type_name(tensor->type),
                              "shape", shape, "data_offsets", (json_int_t)begin, (json_int_t)end);
    CHECK(entry != NULL, "no memory for the header of '%s'", path);
    return json_object_set_new(header, tensor->name, entry) == 0 ? NULL
                                                                 : not_utf8(path, tensor->name);
}

/* The JSON text, padded with spaces. */
static Err *make_header(const char *path, const SafeTensor *const *order, size_t count,
                        const char *const *metadata, char **text, uint64_t *size)
{
    json_t *header = json_object();
    CHECK(header != NULL, "no memory for the header of '%s'", path);
    Err *err = add_metadata(path, header, metadata);
    size_t at = 0;
    for (size_t i = 0; i < count && err == NULL; i++) {
        const size_t bytes = tensor_bytes(order[i]);
        err = add_tensor(path, header, order[i], at, at + bytes);
        at += bytes;
    }
    char *json = err == NULL ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (err != NULL) {
        return err;
    }
    CHECK(json != NULL, "no memory for the header of '%s'", path);
    const size_t length = strlen(json);
    const size_t padded = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    *text = xmalloc(padded + 1);
    memset(*text, ' ', padded);
    memcpy(*text, json, length);
    free(json);
    *size = padded;
    return NULL;
}

Err *safetensors_write(const char *path, const SafeTensor *tensors, size_t count,
                       const char *const *metadata)
{
    const SafeTensor **order = xcalloc(count, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        order[i] = &tensors[i];
    }
    if (count > 0) {
        qsort(order, count, sizeof *order, compare_tensors);
    }
    char *header = NULL;
    uint64_t header_size = 0;
    Err *err = make_header(path, order, count, metadata, &header, &header_size);
    if (err == NULL) {
        FilePart *parts = xcalloc(count + 2, sizeof *parts);
        parts[0] = (FilePart){&header_size, LENGTH_BYTES};
        parts[1] = (FilePart){header, (size_t)header_size};
        for (size_t i = 0; i < count; i++) {
            parts[i + 2] = (FilePart){order[i]->data, tensor_bytes(order[i])};
        }
        err = file_write_atomic_parts(path, parts, count + 2);
        free(parts);
    }
    free(header);
    free(order);
    return err;
}
