/* Opens a backend by name. `cuda` is an optional part of the program and is looked up when it is asked for. */
#include "backend/backend.h"

#include "base/plugin.h"

#include <stdlib.h>
#include <string.h>

typedef Err *(*BackendOpen)(const BackendOptions *options, Backend *backend);

static Err *open_cuda(const BackendOptions *options, Backend *backend)
{
    void *symbol = NULL;
    TRY(plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, "backend_open_cuda", &symbol));
    BackendOpen open = NULL;
    memcpy(&open, &symbol, sizeof open); /* ISO C has no cast from object to function pointers */
    return open(options, backend);
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
        err = err_context(open_cuda(options, backend), "device cuda");
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
