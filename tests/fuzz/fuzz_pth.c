/* .pth, the zip form. The lowest bits of the first byte choose what the rest is: the file; data.pkl of an archive that is
 * otherwise right; a list of entries (which name, size, content) of an archive with right sums; or data.pkl of an archive
 * in which one byte is changed afterwards (where, to what). */
#include "fuzz.h"
#include "fuzz_weights.h"

#include "io/pth.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES_MAX = 8, STORAGE_BYTES = 96 };

static const char *const NAMES[] = {"a/data.pkl", "a/data/0",  "a/data/1", "a/byteorder",
                                    "a/version",  "b/data/0",  "a/data/",  "a/constants.pkl",
                                    "data.pkl",   "b/data.pkl"};

typedef struct {
    const char *name;
    const void *data;
    size_t size;
} Entry;

static uint32_t crc32_of(const uint8_t *data, size_t size)
{
    uint32_t crc = ~0U;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320U : 0);
        }
    }
    return ~crc;
}

/* The 26 bytes that local and central headers share: version to the lengths. */
static void put_common(FuzzBytes *out, const Entry *entry)
{
    fuzz_put_number(out, 10, 2);
    fuzz_put_number(out, 0, 8); /* flags, stored, time, date */
    fuzz_put_number(out, crc32_of(entry->data, entry->size), 4);
    fuzz_put_number(out, entry->size, 4);
    fuzz_put_number(out, entry->size, 4);
    fuzz_put_number(out, strlen(entry->name), 2);
    fuzz_put_number(out, 0, 2);
}

static void put_zip(FuzzBytes *out, const Entry *entries, size_t count)
{
    size_t offsets[ENTRIES_MAX];
    for (size_t i = 0; i < count; i++) {
        offsets[i] = out->size;
        fuzz_put(out, "PK\3\4", 4);
        put_common(out, &entries[i]);
        fuzz_put(out, entries[i].name, strlen(entries[i].name));
        fuzz_put(out, entries[i].data, entries[i].size);
    }
    const size_t directory = out->size;
    for (size_t i = 0; i < count; i++) {
        fuzz_put(out, "PK\1\2", 4);
        fuzz_put_number(out, 10, 2);
        put_common(out, &entries[i]);
        fuzz_put_number(out, 0, 10); /* comment, disk, attributes */
        fuzz_put_number(out, offsets[i], 4);
        fuzz_put(out, entries[i].name, strlen(entries[i].name));
    }
    const size_t directory_size = out->size - directory;
    fuzz_put(out, "PK\5\6", 4);
    fuzz_put_number(out, 0, 4);
    fuzz_put_number(out, count, 2);
    fuzz_put_number(out, count, 2);
    fuzz_put_number(out, directory_size, 4);
    fuzz_put_number(out, directory, 4);
    fuzz_put_number(out, 0, 2);
}

static void build_around_pickle(FuzzInput pickle, FuzzBytes *out)
{
    uint8_t storage[STORAGE_BYTES];
    for (size_t i = 0; i < sizeof storage; i++) {
        storage[i] = (uint8_t)(i * 29 + 1);
    }
    const Entry entries[] = {{"a/data.pkl", pickle.at, pickle.left},
                             {"a/byteorder", "little", 6},
                             {"a/data/0", storage, sizeof storage},
                             {"a/data/1", storage, sizeof storage / 4},
                             {"a/version", "3\n", 2}};
    put_zip(out, entries, sizeof entries / sizeof entries[0]);
}

static void build_entries(FuzzInput input, FuzzBytes *out)
{
    Entry entries[ENTRIES_MAX];
    size_t count = 0;
    while (input.left > 0 && count < ENTRIES_MAX) {
        const uint8_t name = fuzz_byte(&input) % (sizeof NAMES / sizeof NAMES[0]);
        const uint16_t size = fuzz_u16(&input);
        const FuzzInput content = fuzz_take(&input, size);
        entries[count++] = (Entry){NAMES[name], content.at, content.left};
    }
    put_zip(out, entries, count);
}

int fuzz_pth(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    const uint8_t mode = fuzz_byte(&input) % 4;
    FuzzBytes bytes = {0};
    if (mode == 1) {
        build_around_pickle(input, &bytes);
    } else if (mode == 3) {
        const uint16_t at = fuzz_u16(&input);
        const uint8_t value = fuzz_byte(&input);
        build_around_pickle(input, &bytes);
        /* From the end, where the directory lies. */
        bytes.data[bytes.size - 1 - at % bytes.size] = value;
    } else if (mode == 2) {
        build_entries(input, &bytes);
    } else {
        fuzz_put(&bytes, input.at, input.left);
    }
    fuzz_file_add("input", bytes.data, bytes.size);
    WeightsFile *file = NULL;
    if (!fuzz_refused(pth_open("input", &file), EXIT_BAD_DATA)) {
        fuzz_check_weights(file, NULL);
        weights_close(file);
    } else {
        FUZZ_CHECK(file == NULL, "a result beside an error");
    }
    fuzz_files_clear();
    fuzz_bytes_free(&bytes);
    return 0;
}
