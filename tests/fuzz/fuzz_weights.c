/* Checks of open weight files, shared by the targets of the weight formats. */
#include "fuzz_weights.h"

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

/* Reads every byte where AddressSanitizer sees it. */
static unsigned touch(const uint8_t *data, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum = sum * 31 + data[i];
    }
    return sum;
}

static void check_entry(const WeightEntry *entry, const FileMap *inside)
{
    FUZZ_CHECK(entry->name != NULL, "an entry without a name");
    FUZZ_CHECK(entry->ndim >= 0 && entry->ndim <= WEIGHT_RANK_MAX, "rank %d", entry->ndim);
    size_t count = 1;
    for (int i = 0; i < entry->ndim; i++) {
        FUZZ_CHECK(entry->shape[i] >= 0, "a negative dimension");
        count *= (size_t)entry->shape[i];
    }
    FUZZ_CHECK(count == entry->count && entry->bytes == count * weight_type_size(entry->type),
               "'%s': %zu elements, %zu bytes, the shape says %zu", entry->name, entry->count,
               entry->bytes, count);
    const uint8_t *data = entry->data;
    if (inside != NULL && entry->bytes > 0) {
        FUZZ_CHECK(data >= inside->data && entry->bytes <= inside->size &&
                       (size_t)(data - inside->data) <= inside->size - entry->bytes,
                   "'%s' lies outside the file", entry->name);
    }
    const unsigned sum = touch(data, entry->bytes);
    float *values = xmalloc(entry->count * sizeof *values);
    weights_to_float(entry, values);
    FUZZ_CHECK(sum == touch(data, entry->bytes), "conversion changed '%s'", entry->name);
    free(values);
}

void fuzz_check_weights(const WeightsFile *file, const FileMap *inside)
{
    for (size_t i = 0; i < file->count; i++) {
        check_entry(&file->entries[i], inside);
        FUZZ_CHECK(weights_find(file, file->entries[i].name) == &file->entries[i],
                   "two entries '%s'", file->entries[i].name);
    }
    for (size_t i = 0; i < file->metadata_count; i++) {
        FUZZ_CHECK(weights_metadata(file, file->metadata[i].key) != NULL, "metadata is not found");
    }
}

void fuzz_check_same_weights(const WeightsFile *a, const WeightsFile *b)
{
    FUZZ_CHECK(a->count == b->count && a->metadata_count == b->metadata_count,
               "%zu entries and %zu metadata became %zu and %zu", a->count, a->metadata_count,
               b->count, b->metadata_count);
    for (size_t i = 0; i < a->count; i++) {
        const WeightEntry *left = &a->entries[i];
        const WeightEntry *right = weights_find(b, left->name);
        FUZZ_CHECK(right != NULL, "'%s' is lost", left->name);
        FUZZ_CHECK(
            left->type == right->type && left->ndim == right->ndim && left->bytes == right->bytes &&
                memcmp(left->shape, right->shape, (size_t)left->ndim * sizeof left->shape[0]) == 0,
            "'%s' has another form", left->name);
        FUZZ_CHECK(left->bytes == 0 || memcmp(left->data, right->data, left->bytes) == 0,
                   "'%s' has other values", left->name);
    }
    for (size_t i = 0; i < a->metadata_count; i++) {
        const char *value = weights_metadata(b, a->metadata[i].key);
        FUZZ_CHECK(value != NULL && strcmp(value, a->metadata[i].value) == 0,
                   "metadata '%s' is not what it was", a->metadata[i].key);
    }
}
