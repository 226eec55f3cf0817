/* The list of timed choices that a run carries along. Apart from backend.c, so that a backend in a shared object of its
 * own takes it along without the other backends. */
#include "backend/backend.h"

#include <stdlib.h>
#include <string.h>

static int choices_find(const Choices *choices, const char *key)
{
    for (int i = 0; choices && i < choices->count; i++) {
        if (strcmp(choices->keys[i], key) == 0) {
            return i;
        }
    }
    return -1;
}

int choices_get(const Choices *choices, const char *key)
{
    const int i = choices_find(choices, key);
    return i < 0 ? -1 : choices->values[i];
}

void choices_put(Choices *choices, const char *key, int value)
{
    const int i = choices_find(choices, key);
    if (i >= 0) {
        choices->values[i] = value;
        return;
    }
    const size_t need = (size_t)choices->count + 1;
    size_t capacity = choices->capacity; /* both arrays grow in step */
    choices->keys = xgrow(choices->keys, &capacity, need, sizeof *choices->keys);
    choices->values = xgrow(choices->values, &choices->capacity, need, sizeof *choices->values);
    choices->keys[choices->count] = xstrdup(key);
    choices->values[choices->count] = value;
    choices->count++;
}

void choices_free(Choices *choices)
{
    for (int i = 0; i < choices->count; i++) {
        free(choices->keys[i]);
    }
    free(choices->keys);
    free(choices->values);
    *choices = (Choices){0};
}
