/* For tests of cuDNN's plans on a described device: no GPU is needed, but CUDA's libraries. Run from the repository's root.
 *
 * Engines that are compiled at run time want a libcuda.so.1. Where the machine has none, the program starts itself again
 * with a stub of it, made beside the program, on LD_LIBRARY_PATH: that one process sees it and nobody else. */
#ifndef CUDISTILL_TESTS_PLANS_H
#define CUDISTILL_TESTS_PLANS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/cuda.h"
#include "backend/cuda_conv.h"
#include "backend/exec.h"
#include "base/files.h"
#include "base/log.h"
#include "kernels/distill_spec.h"
#include "models/models.h"
#include "train/nets.h"

#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLANS_DEVICE "tests/golden/h200.json"
#define PLANS_TABLE "tests/golden/cudnn_sm90.txt"
#define PLANS_STUB_VARIABLE "CUDISTILL_TEST_LIBCUDA_STUB"

/* Starts the program again with the stub where there is no libcuda. False: it cannot be made, and `why` says so. */
static inline bool plans_need_libcuda(char **argv, char why[200])
{
    char program[4096];
    if (getenv(PLANS_STUB_VARIABLE) || dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
        return true;
    }
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    CHECK(length > 0, "/proc/self/exe cannot be read");
    program[length] = '\0';
    char *folder = xstrdup(program);
    const char *lib = getenv("CUDA_LIB") ? getenv("CUDA_LIB") : "/usr/local/cuda/lib64";
    const char *old = getenv("LD_LIBRARY_PATH");
    char *stub = xformat("%s/libcuda_stub", dirname(folder));
    char *make = xformat("tests/gpu/make_libcuda_stub '%s' '%s'", stub, lib);
    char *path = xformat("%s%s%s", stub, old ? ":" : "", old ? old : "");
    const bool made = system(make) == 0; /* NOLINT(cert-env33-c): a script of this tree */
    if (made) {
        setenv("LD_LIBRARY_PATH", path, 1);
        setenv(PLANS_STUB_VARIABLE, "1", 1);
        execv(program, argv);
    }
    (void)snprintf(why, 200, "no libcuda.so.1 here, and '%s' failed", make);
    free(folder);
    free(stub);
    free(make);
    free(path);
    return false;
}

static inline char *plans_device(void)
{
    char *text = NULL;
    Err *err = file_read_text(PLANS_DEVICE, 1 << 16, &text);
    CHECK(!err, "%s", err ? err->message : "");
    return text;
}

#endif
