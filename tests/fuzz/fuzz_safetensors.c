/* safetensors. An even first byte: the rest is the file. An odd one: the rest is "header NUL data" and the header's length
 * is put in front, so that mutations need not guess it. What is accepted must be sound and survive being written. */
#include "fuzz.h"
#include "fuzz_weights.h"

#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

static void build(FuzzInput input, FuzzBytes *out)
{
    const uint8_t *nul = input.left > 0 ? memchr(input.at, 0, input.left) : NULL;
    const size_t length = nul != NULL ? (size_t)(nul - input.at) : input.left;
    fuzz_put_number(out, length, 8);
    fuzz_put(out, input.at, length);
    if (nul != NULL) {
        fuzz_put(out, nul + 1, input.left - length - 1);
    }
}

static void check_round_trip(const WeightsFile *file)
{
    SafeTensor *tensors = xcalloc(file->count, sizeof *tensors);
    for (size_t i = 0; i < file->count; i++) {
        const WeightEntry *entry = &file->entries[i];
        tensors[i] = (SafeTensor){
            .name = entry->name, .type = entry->type, .ndim = entry->ndim, .data = entry->data};
        memcpy(tensors[i].shape, entry->shape, sizeof entry->shape);
    }
    const char **metadata = xcalloc(2 * file->metadata_count + 1, sizeof *metadata);
    for (size_t i = 0; i < file->metadata_count; i++) {
        metadata[2 * i] = file->metadata[i].key;
        metadata[2 * i + 1] = file->metadata[i].value;
    }
    fuzz_ok(safetensors_write("written", tensors, file->count, metadata));
    WeightsFile *again = NULL;
    fuzz_ok(safetensors_open("written", &again));
    fuzz_check_weights(again, &again->map);
    fuzz_check_same_weights(file, again);
    weights_close(again);
    free(metadata);
    free(tensors);
}

int fuzz_safetensors(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    FuzzBytes bytes = {0};
    if (fuzz_byte(&input) % 2 == 1) {
        build(input, &bytes);
    } else {
        fuzz_put(&bytes, input.at, input.left);
    }
    fuzz_file_add("input", bytes.data, bytes.size);
    WeightsFile *file = NULL;
    if (fuzz_refused(safetensors_open("input", &file), EXIT_BAD_DATA)) {
        FUZZ_CHECK(file == NULL, "a result beside an error");
    } else {
        fuzz_check_weights(file, &file->map);
        check_round_trip(file);
        weights_close(file);
        /* The same with tidied names. */
        fuzz_ok(weights_open("input", &file));
        fuzz_check_weights(file, &file->map);
        weights_close(file);
    }
    fuzz_files_clear();
    fuzz_bytes_free(&bytes);
    return 0;
}
