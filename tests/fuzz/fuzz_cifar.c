/* Records of the CIFAR binary version. The input says kind, number of records and how far the size is off, then gives the
 * labels; pixels follow from their position. An accepted file must decode to exactly these. */
#include "fuzz.h"

#include "data/cifar.h"

#include <stdlib.h>
#include <string.h>

enum { RECORDS_MAX = 7, CHANNELS = 3 };

static uint8_t pixel_at(uint32_t record, int channel, int position)
{
    return (uint8_t)(record * 89 + (uint32_t)channel * 57 + (uint32_t)position * 7);
}

static void put_record(FuzzBytes *out, FuzzInput *input, CifarKind kind, uint32_t record)
{
    for (int i = 0; i < (kind == CIFAR_10 ? 1 : 2); i++) {
        fuzz_put_number(out, fuzz_byte(input), 1);
    }
    for (int channel = 0; channel < CHANNELS; channel++) {
        uint8_t plane[CIFAR_PIXELS];
        for (int p = 0; p < CIFAR_PIXELS; p++) {
            plane[p] = pixel_at(record, channel, p);
        }
        fuzz_put(out, plane, sizeof plane);
    }
}

static void check_decoded(CifarKind kind, const uint8_t *data, uint32_t count,
                          const uint8_t *images, const int32_t *labels)
{
    const size_t record = cifar_record_size(kind);
    for (uint32_t r = 0; r < count; r++) {
        const int label = data[r * record + (kind == CIFAR_10 ? 0 : 1)];
        FUZZ_CHECK(labels[r] == label && label < (kind == CIFAR_10 ? 10 : 100), "label %d from %d",
                   (int)labels[r], label);
        for (int p = 0; p < CIFAR_PIXELS; p++) {
            for (int channel = 0; channel < CHANNELS; channel++) {
                FUZZ_CHECK(images[(r * CIFAR_PIXELS + (size_t)p) * CHANNELS + (size_t)channel] ==
                               pixel_at(r, channel, p),
                           "record %u, pixel %d", r, p);
            }
        }
    }
}

int fuzz_cifar(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    const uint8_t mode = fuzz_byte(&input);
    const CifarKind kind = mode % 2 == 0 ? CIFAR_10 : CIFAR_100;
    const uint32_t count = (mode >> 1) % (RECORDS_MAX + 1);
    const uint32_t present = (mode >> 4) % 2 == 0 ? count : fuzz_byte(&input) % RECORDS_MAX;
    FuzzBytes bytes = {0};
    for (uint32_t r = 0; r < present; r++) {
        put_record(&bytes, &input, kind, r);
    }
    const size_t cut = (mode >> 5) % 2 == 0 ? 0 : fuzz_u16(&input);
    const size_t used = cut < bytes.size ? bytes.size - cut : 0;
    /* Blocks of exactly the promised sizes. */
    uint8_t *file = xmalloc(used);
    if (used > 0) {
        memcpy(file, bytes.data, used);
    }
    uint8_t *images = xmalloc((size_t)count * CHANNELS * CIFAR_PIXELS);
    int32_t *labels = xmalloc(count * sizeof *labels);
    Err *err = cifar_parse(kind, "input", file, used, count, images, labels);
    if (!fuzz_refused(err, EXIT_BAD_DATA)) {
        FUZZ_CHECK(used == count * cifar_record_size(kind), "%zu bytes as %u records", used, count);
        check_decoded(kind, file, count, images, labels);
    }
    free(labels);
    free(images);
    free(file);
    fuzz_bytes_free(&bytes);
    return 0;
}
