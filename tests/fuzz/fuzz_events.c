/* TensorBoard event files. An even first byte: the rest is the file. An odd one: the rest is a list of (size, message)
 * that are put into records with right sums. A file that is accepted is also accepted when it ends earlier, as a file
 * does that is still being written. */
#include "fuzz.h"

#include "io/events.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    long values;
    unsigned sum;
} Seen;

static uint32_t masked_crc(const uint8_t *data, size_t size)
{
    uint32_t crc = ~0U;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78U : 0);
        }
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8U;
}

static void put_record(FuzzBytes *out, FuzzInput message)
{
    const size_t begin = out->size;
    fuzz_put_number(out, message.left, 8);
    fuzz_put_number(out, masked_crc(out->data + begin, 8), 4);
    fuzz_put(out, message.at, message.left);
    fuzz_put_number(out, masked_crc(message.at, message.left), 4);
}

static void look(void *context, const EventValue *value)
{
    Seen *seen = context;
    FUZZ_CHECK((unsigned)value->kind <= EVENT_OTHER, "kind %d", (int)value->kind);
    seen->values++;
    /* Reads all of it where AddressSanitizer sees it. */
    for (const char *at = value->tag; at != NULL && *at != '\0'; at++) {
        seen->sum = seen->sum * 31 + (unsigned char)*at;
    }
    for (size_t i = 0; value->kind == EVENT_IMAGE && i < value->png_size; i++) {
        seen->sum = seen->sum * 31 + value->png[i];
    }
}

/* In a block of its own of exactly this size. */
static Err *read_part(const FuzzBytes *bytes, size_t size, Seen *seen, EventsSummary *summary)
{
    uint8_t *copy = xmalloc(size);
    if (size > 0) {
        memcpy(copy, bytes->data, size);
    }
    Err *err = events_read(copy, size, look, seen, summary);
    free(copy);
    return err;
}

int fuzz_events(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    FuzzBytes bytes = {0};
    if (fuzz_byte(&input) % 2 == 1) {
        while (input.left > 0) {
            const uint8_t length = fuzz_byte(&input);
            put_record(&bytes, fuzz_take(&input, length));
        }
    } else {
        fuzz_put(&bytes, input.at, input.left);
    }
    Seen all = {0};
    EventsSummary summary;
    if (!fuzz_refused(read_part(&bytes, bytes.size, &all, &summary), EXIT_BAD_DATA)) {
        FUZZ_CHECK(summary.torn || bytes.size == 0 || summary.records > 0, "nothing was read");
        const size_t cut = bytes.size > 0 ? (size * 7919 + all.sum) % bytes.size : 0;
        Seen some = {0};
        EventsSummary shorter;
        fuzz_ok(read_part(&bytes, cut, &some, &shorter));
        FUZZ_CHECK(shorter.records <= summary.records && some.values <= all.values,
                   "%ld records in %zu bytes, %ld in %zu", shorter.records, cut, summary.records,
                   bytes.size);
    }
    fuzz_bytes_free(&bytes);
    return 0;
}
