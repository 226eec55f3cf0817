/* Chooses the device of a command. */
#include "train/device.h"

#include "base/log.h"
#include "base/plugin.h"

#include <string.h>

Err *device_open(const char *name, const BackendOptions *options, Backend **out)
{
    if (strcmp(name, "auto") != 0) {
        return backend_open(name, options, out);
    }
    if (plugin_present(CUDA_PART, CUDA_PART_VARIABLE)) {
        Err *err = backend_open("cuda", options, out);
        if (!err) {
            return NULL;
        }
        log_info("device: cpu (%s)", err->message);
        err_free(err);
    }
    return backend_open("cpu", options, out);
}
