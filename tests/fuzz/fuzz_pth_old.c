/* .pth before torch 1.6. The lowest bits of the first byte choose what the rest is: the file; what follows the three
 * pickles in front; or the object's pickle alone, with a key list and two storages behind it. */
#include "fuzz.h"
#include "fuzz_weights.h"

#include "io/pth.h"

#include <stdlib.h>
#include <string.h>

enum { STORAGE_BYTES = 96 };

/* Magic number, version, {"little_endian": True}. */
static const char FRONT[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                            "\x80\x02M\xe9\x03."
                            "\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";
/* ["0", "1"] */
static const char KEYS[] = "\x80\x02](X\x01\x00\x00\x00"
                           "0X\x01\x00\x00\x00"
                           "1e.";

/* count: as stated; the bytes are always the same. */
static void put_storage(FuzzBytes *out, uint64_t count)
{
    fuzz_put_number(out, count, 8);
    for (int i = 0; i < STORAGE_BYTES; i++) {
        fuzz_put_number(out, (uint64_t)(i * 29 + 1), 1);
    }
}

int fuzz_pth_old(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    const uint8_t mode = fuzz_byte(&input);
    FuzzBytes bytes = {0};
    if (mode % 4 != 0) {
        fuzz_put(&bytes, FRONT, sizeof FRONT - 1);
    }
    fuzz_put(&bytes, input.at, input.left);
    if (mode % 4 > 1) {
        fuzz_put(&bytes, KEYS, sizeof KEYS - 1);
        /* Storages are read one behind the other: the elements' size comes from the object. */
        static const uint8_t sizes[] = {4, 1, 2, 8};
        const uint64_t count = STORAGE_BYTES / sizes[(mode >> 2) % 4];
        put_storage(&bytes, count);
        put_storage(&bytes, count);
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
