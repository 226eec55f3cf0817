/* libFuzzer's side of one target: compiled once for each with FUZZ_TARGET = fuzz_NAME. */
#include "fuzz.h"

#include "base/log.h"

#include <time.h>

#ifndef FUZZ_TARGET
#define FUZZ_TARGET fuzz_config /* for tools that look at one file alone */
#endif

/* Of the processor, not of the clock on the wall: a busy machine is no finding. */
static const double LIMIT_S = 1.0;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
const char *__asan_default_options(void);

/* A small quarantine keeps freed blocks in the caches; the memory limit counts what is in use. */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=8:malloc_context_size=4:detect_stack_use_after_return=0:allocator_"
           "may_return_null=0";
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_set_level(LOG_ERROR);
    return 0;
}

static double cpu_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const double begin = cpu_s();
    const int result = FUZZ_TARGET(data, size);
    const double took = cpu_s() - begin;
    FUZZ_CHECK(took < LIMIT_S, "%.2f s for %zu bytes", took, size);
    return result;
}
