/* Optional parts of the program are shared objects that are opened on demand; why one does not load is part of the message
 * that an explicit request gets.
 *
 * A part FILE is looked for as: the path in the environment variable given (if set, nothing else is tried); FILE in the
 * folder of the running program; in ../lib and ../lib/cudistill beside it; then by the system's search path. */
#ifndef CUDISTILL_BASE_PLUGIN_H
#define CUDISTILL_BASE_PLUGIN_H

#include "base/err.h"

#define CUDA_PART "libcudistill_cuda.so"
#define CUDA_PART_VARIABLE "CUDISTILL_CUDA_LIBRARY"

/* Whether there is such a part at all, usable or not. */
bool plugin_present(const char *file, const char *variable);
/* Address of `symbol` in the part, which stays loaded until the end of the process. EXIT_NO_DEVICE with the loader's
 * reason when the part or the symbol is missing. */
Err *plugin_symbol(const char *file, const char *variable, const char *symbol, void **out);

#endif
