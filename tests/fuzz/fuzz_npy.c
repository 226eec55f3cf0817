/* NumPy arrays. An even first byte: the rest is the file. An odd one: version, then "header NUL data", to which magic and
 * the header's length are added. What is accepted must be sound and survive being written. */
#include "fuzz.h"
#include "fuzz_weights.h"

#include "io/npy.h"

#include <stdlib.h>
#include <string.h>

static void build(FuzzInput input, FuzzBytes *out)
{
    const uint8_t version = fuzz_byte(&input) % 5;
    const uint8_t *nul = input.left > 0 ? memchr(input.at, 0, input.left) : NULL;
    const size_t length = nul != NULL ? (size_t)(nul - input.at) : input.left;
    fuzz_put(out, "\x93NUMPY", 6);
    fuzz_put_number(out, version, 1);
    fuzz_put_number(out, 0, 1);
    fuzz_put_number(out, length, version > 1 ? 4 : 2);
    fuzz_put(out, input.at, length);
    if (nul != NULL) {
        fuzz_put(out, nul + 1, input.left - length - 1);
    }
}

static void check_round_trip(const WeightsFile *file)
{
    const WeightEntry *entry = &file->entries[0];
    fuzz_ok(npy_write("written", entry->type, entry->ndim, entry->shape, entry->data));
    WeightsFile *again = NULL;
    fuzz_ok(npy_open("written", &again));
    fuzz_check_weights(again, &again->map);
    fuzz_check_same_weights(file, again);
    weights_close(again);
}

int fuzz_npy(const uint8_t *data, size_t size)
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
    if (fuzz_refused(npy_open("input", &file), EXIT_BAD_DATA)) {
        FUZZ_CHECK(file == NULL, "a result beside an error");
    } else {
        FUZZ_CHECK(file->count == 1, "%zu entries", file->count);
        fuzz_check_weights(file, &file->map);
        check_round_trip(file);
        weights_close(file);
    }
    fuzz_files_clear();
    fuzz_bytes_free(&bytes);
    return 0;
}
