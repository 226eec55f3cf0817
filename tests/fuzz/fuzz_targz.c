/* CIFAR archives through libarchive. The lowest bit of the first byte says which set; the next whether the rest is the
 * archive, or a list of members (which name, size, content) of a tar archive with right sums. A member may claim the size
 * of a whole split without having it. */
#include "fuzz.h"

#include "data/cifar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, SPLIT_RECORDS = CIFAR_TEST_COUNT };

static const char *const NAMES[] = {"cifar-100-binary/test.bin",
                                    "test.bin",
                                    "fine_label_names.txt",
                                    "cifar-10-batches-bin/test_batch.bin",
                                    "test_batch.bin",
                                    "../test.bin",
                                    "test.bin/",
                                    "readme"};

static void put_member(FuzzBytes *out, const char *name, char type, size_t stated,
                       FuzzInput content)
{
    char head[BLOCK] = {0};
    (void)snprintf(head, 100, "%s", name);
    (void)snprintf(head + 100, 8, "%07o", 0644);
    (void)snprintf(head + 124, 12, "%011zo", stated);
    memset(head + 148, ' ', 8);
    head[156] = type;
    memcpy(head + 257, "ustar\00000", 8);
    unsigned sum = 0;
    for (int i = 0; i < BLOCK; i++) {
        sum += (unsigned char)head[i];
    }
    (void)snprintf(head + 148, 8, "%06o", sum);
    fuzz_put(out, head, sizeof head);
    fuzz_put(out, content.at, content.left);
    static const uint8_t zeros[BLOCK];
    fuzz_put(out, zeros, (BLOCK - content.left % BLOCK) % BLOCK);
}

static void build(FuzzInput input, CifarKind kind, FuzzBytes *out)
{
    while (input.left > 0) {
        const uint8_t choice = fuzz_byte(&input);
        const uint16_t size = fuzz_u16(&input) % 4096;
        const FuzzInput content = fuzz_take(&input, size);
        const bool claims = (choice & 8) != 0;
        put_member(out, NAMES[choice % 8], choice & 16 ? '5' : '0',
                   claims ? SPLIT_RECORDS * cifar_record_size(kind) : content.left, content);
    }
    static const uint8_t end[2 * BLOCK];
    fuzz_put(out, end, sizeof end);
}

int fuzz_targz(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    const uint8_t mode = fuzz_byte(&input);
    const CifarKind kind = mode % 2 == 0 ? CIFAR_10 : CIFAR_100;
    FuzzBytes bytes = {0};
    if (mode & 2) {
        build(input, kind, &bytes);
    } else {
        fuzz_put(&bytes, input.at, input.left);
    }
    fuzz_file_add("input.tar.gz", bytes.data, bytes.size);
    Dataset *dataset = NULL;
    Err *err = cifar_open(kind, "input.tar.gz", SPLIT_TEST, &dataset);
    FUZZ_CHECK(err == NULL || dataset == NULL, "a result beside an error");
    if (!fuzz_refused(err, EXIT_BAD_DATA)) {
        /* Only a bomb of a compressed archive gets here. */
        FUZZ_CHECK(dataset->count == SPLIT_RECORDS, "%u images", dataset->count);
        dataset_close(dataset);
    }
    fuzz_files_clear();
    fuzz_bytes_free(&bytes);
    return 0;
}
