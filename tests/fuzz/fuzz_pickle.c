/* Pickles. A pickle that is accepted must be walkable: every value reachable from the root has a known kind, texts lie
 * inside the input, items are there. */
#include "fuzz.h"

#include "io/pickle.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 24, VISITS_MAX = 2000 };

typedef struct {
    const uint8_t *data;
    size_t size;
    int visits; /* values may be shared without end */
} Walk;

static void check_inside(const Walk *walk, const char *text, size_t length)
{
    const uint8_t *at = (const uint8_t *)text;
    FUZZ_CHECK(at >= walk->data && length <= walk->size &&
                   (size_t)(at - walk->data) <= walk->size - length,
               "a text of %zu bytes outside the input", length);
}

static void check_value(Walk *walk, const PickleValue *value, int depth)
{
    FUZZ_CHECK(value != NULL, "a value is missing");
    FUZZ_CHECK((unsigned)value->kind <= PICKLE_PERSISTENT, "kind %d", (int)value->kind);
    if (depth == DEPTH_MAX || walk->visits == VISITS_MAX) {
        return;
    }
    walk->visits++;
    const bool is_text =
        value->kind == PICKLE_TEXT || value->kind == PICKLE_BYTES || value->kind == PICKLE_GLOBAL;
    if (is_text) {
        check_inside(walk, value->text, value->length);
    }
    if (value->kind == PICKLE_GLOBAL) {
        check_inside(walk, value->name, value->name_length);
        FUZZ_CHECK(!pickle_global_is(value, "\n", "x"), "a line holds a line break");
    }
    if (value->kind == PICKLE_CALL) {
        check_value(walk, value->callable, depth + 1);
    }
    if (value->kind == PICKLE_CALL || value->kind == PICKLE_PERSISTENT) {
        check_value(walk, value->args, depth + 1);
    }
    FUZZ_CHECK(value->count <= value->capacity, "%zu items in %zu places", value->count,
               value->capacity);
    for (size_t i = 0; i < value->count; i++) {
        check_value(walk, value->items[i], depth + 1);
    }
}

int fuzz_pickle(const uint8_t *data, size_t size)
{
    Pickle *pickle = NULL;
    if (fuzz_refused(pickle_read(data, size, &pickle), EXIT_BAD_DATA)) {
        FUZZ_CHECK(pickle == NULL, "a result beside an error");
        return 0;
    }
    Walk walk = {.data = data, .size = size};
    check_value(&walk, pickle_root(pickle), 0);
    pickle_free(pickle);
    return 0;
}
