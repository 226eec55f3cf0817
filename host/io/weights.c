/* What the weight formats share: element types, look-up, conversion to fp32, and the tidying of names that training
 * scripts leave behind. */
#include "io/weights.h"

#include "base/half.h"
#include "base/log.h"
#include "io/pth.h"
#include "io/safetensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "weight data is used in the file's byte order");

static const struct {
    const char *name;
    size_t size;
} TYPES[WEIGHT_TYPE_COUNT] = {
    [WEIGHT_BOOL] = {"BOOL", 1}, [WEIGHT_U8] = {"U8", 1},   [WEIGHT_I8] = {"I8", 1},
    [WEIGHT_I16] = {"I16", 2},   [WEIGHT_U16] = {"U16", 2}, [WEIGHT_F16] = {"F16", 2},
    [WEIGHT_BF16] = {"BF16", 2}, [WEIGHT_I32] = {"I32", 4}, [WEIGHT_U32] = {"U32", 4},
    [WEIGHT_F32] = {"F32", 4},   [WEIGHT_F64] = {"F64", 8}, [WEIGHT_I64] = {"I64", 8},
    [WEIGHT_U64] = {"U64", 8},
};

size_t weight_type_size(WeightType type)
{
    CHECK((unsigned)type < WEIGHT_TYPE_COUNT, "no weight type %d", (int)type);
    return TYPES[type].size;
}

const char *weight_type_name(WeightType type)
{
    CHECK((unsigned)type < WEIGHT_TYPE_COUNT, "no weight type %d", (int)type);
    return TYPES[type].name;
}

void weights_close(WeightsFile *file)
{
    if (file == NULL) {
        return;
    }
    for (size_t i = 0; i < file->count; i++) {
        free(file->entries[i].name);
    }
    free(file->entries);
    for (size_t i = 0; i < file->metadata_count; i++) {
        free(file->metadata[i].key);
        free(file->metadata[i].value);
    }
    free(file->metadata);
    for (size_t i = 0; i < file->buffer_count; i++) {
        free(file->buffers[i]);
    }
    free(file->buffers);
    file_unmap(&file->map);
    free(file);
}

const WeightEntry *weights_find(const WeightsFile *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++) {
        if (strcmp(file->entries[i].name, name) == 0) {
            return &file->entries[i];
        }
    }
    return NULL;
}

const char *weights_metadata(const WeightsFile *file, const char *key)
{
    for (size_t i = 0; i < file->metadata_count; i++) {
        if (strcmp(file->metadata[i].key, key) == 0) {
            return file->metadata[i].value;
        }
    }
    return NULL;
}

static double integer_at(WeightType type, const uint8_t *at)
{
    const size_t size = TYPES[type].size;
    uint64_t bits = 0;
    memcpy(&bits, at, size);
    const bool is_signed =
        type == WEIGHT_I8 || type == WEIGHT_I16 || type == WEIGHT_I32 || type == WEIGHT_I64;
    if (!is_signed) {
        return (double)bits;
    }
    const unsigned shift = (unsigned)(64 - 8 * size);
    return (double)((int64_t)(bits << shift) >> shift);
}

static float element_to_float(WeightType type, const uint8_t *at)
{
    uint16_t half = 0;
    double real = 0;
    switch (type) {
    case WEIGHT_F16:
        memcpy(&half, at, sizeof half);
        return fp16_to_float(half);
    case WEIGHT_BF16:
        memcpy(&half, at, sizeof half);
        return bf16_to_float(half);
    case WEIGHT_F64:
        memcpy(&real, at, sizeof real);
        return (float)real;
    default:
        return (float)integer_at(type, at);
    }
}

void weights_to_float(const WeightEntry *entry, float *out)
{
    if (entry->type == WEIGHT_F32) {
        if (entry->bytes > 0) {
            memcpy(out, entry->data, entry->bytes);
        }
        return;
    }
    const size_t size = TYPES[entry->type].size;
    for (size_t i = 0; i < entry->count; i++) {
        out[i] = element_to_float(entry->type, (const uint8_t *)entry->data + i * size);
    }
}

/* ---- Names ---- */

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static size_t count_prefixed(const WeightsFile *file, const char *prefix)
{
    size_t count = 0;
    for (size_t i = 0; i < file->count; i++) {
        count += begins_with(file->entries[i].name, prefix);
    }
    return count;
}

/* Keeps the entries under `prefix`, without it. */
static void keep_prefixed(WeightsFile *file, const char *prefix)
{
    size_t kept = 0;
    for (size_t i = 0; i < file->count; i++) {
        WeightEntry entry = file->entries[i];
        if (!begins_with(entry.name, prefix)) {
            free(entry.name);
            continue;
        }
        const size_t skipped = strlen(prefix);
        memmove(entry.name, entry.name + skipped, strlen(entry.name) - skipped + 1);
        file->entries[kept++] = entry;
    }
    file->count = kept;
}

/* A prefix that every name has goes. false: there is none. */
static bool strip_common(WeightsFile *file)
{
    static const char *const prefixes[] = {"module.", "model.", "_orig_mod.", "student."};
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        if (file->count > 0 && count_prefixed(file, prefixes[i]) == file->count) {
            keep_prefixed(file, prefixes[i]);
            return true;
        }
    }
    return false;
}

/* A whole distiller, saved as one module, perhaps inside DataParallel: its student. false: it is none. */
static bool keep_student(WeightsFile *file, const char *name)
{
    static const char *const students[] = {"student.", "module.student."};
    static const char *const teachers[] = {"teacher.", "module.teacher."};
    for (size_t i = 0; i < sizeof students / sizeof students[0]; i++) {
        const size_t kept = count_prefixed(file, students[i]);
        if (kept == 0) {
            continue;
        }
        const size_t of_teacher = count_prefixed(file, teachers[i]);
        log_info("'%s': a whole distiller; the %zu tensors under '%s' are used, and %zu under '%s' "
                 "and %zu others are left out",
                 name, kept, students[i], of_teacher, teachers[i], file->count - kept - of_teacher);
        keep_prefixed(file, students[i]);
        return true;
    }
    return false;
}

static void tidy_names(WeightsFile *file, const char *name)
{
    bool changed = true;
    while (changed) {
        changed = strip_common(file) || keep_student(file, name);
    }
}

/* ---- Kinds ---- */

WeightsKind weights_kind(const uint8_t *data, size_t size)
{
    static const uint8_t npy[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (size >= sizeof npy && memcmp(data, npy, sizeof npy) == 0) {
        return WEIGHTS_NPY;
    }
    /* Before the others: a header's length may look like their beginning, but its ninth byte is '{'. */
    if (size > 8 && data[8] == '{') {
        return WEIGHTS_SAFETENSORS;
    }
    /* Zip archives begin with "PK", pickles with the op-code PROTO and its number; a tar archive's mark comes late. */
    const bool zip = size >= 2 && data[0] == 'P' && data[1] == 'K';
    const bool pickle = size >= 2 && data[0] == 0x80 && data[1] <= 5;
    const bool tar = size >= 262 && memcmp(data + 257, "ustar", 5) == 0;
    return zip || pickle || tar ? WEIGHTS_PTH : WEIGHTS_UNKNOWN;
}

Err *weights_open_map(const char *path, WeightsReader read, WeightsFile **out)
{
    *out = NULL;
    FileMap map;
    TRY(file_map(path, &map));
    Err *err = read(path, map.data, map.size, out);
    if (err != NULL) {
        file_unmap(&map);
        return err;
    }
    (*out)->map = map;
    return NULL;
}

Err *weights_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out)
{
    *out = NULL;
    switch (weights_kind(data, size)) {
    case WEIGHTS_PTH:
        TRY(pth_open_memory(name, data, size, out));
        break;
    case WEIGHTS_NPY:
        return err_new(EXIT_BAD_DATA,
                       "'%s' holds one array without a name, not the weights of a network; make a "
                       "safetensors file with: cudistill convert '%s' OUT.safetensors --name NAME",
                       name, name);
    default:
        TRY(safetensors_open_memory(name, data, size, out));
    }
    tidy_names(*out, name);
    return NULL;
}

Err *weights_open(const char *path, WeightsFile **out)
{
    return weights_open_map(path, weights_open_memory, out);
}
