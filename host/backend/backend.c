/* Opens a backend by name, and the list of timed choices that a run carries along. */
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

Err *backend_open(const char *name, const BackendOptions *options, Backend **out)
{
    static const BackendOptions defaults;
    *out = NULL;
    if (!options) {
        options = &defaults;
    }
    Backend *backend = xcalloc(1, sizeof *backend);
    backend->choices = options->choices;
    backend->deterministic = options->deterministic;
    Err *err = NULL;
    if (strcmp(name, "ref") == 0) {
        err = backend_open_ref(options, backend);
    } else if (strcmp(name, "cpu") == 0) {
        err = backend_open_cpu(options, backend);
    } else if (strcmp(name, "cuda") == 0) {
        err = err_new(EXIT_NO_DEVICE, "device cuda: this program has no CUDA backend; use cpu");
    } else {
        err = err_new(EXIT_NO_DEVICE, "device '%s' is not known; use cpu, cuda or ref", name);
    }
    if (err) {
        free(backend);
        return err;
    }
    *out = backend;
    return NULL;
}

void backend_close(Backend *backend)
{
    if (!backend) {
        return;
    }
    backend->close(backend);
    free(backend);
}
