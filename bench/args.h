/* Arguments of the benchmarks. */
#ifndef CUDISTILL_BENCH_ARGS_H
#define CUDISTILL_BENCH_ARGS_H

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>

/* A whole number from 1 to 2^20; anything else ends the program with its usage code. */
static inline int arg_count(const char *option, const char *text)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < 1 || value > 1 << 20) {
        fprintf(stderr, "%s wants a whole number above 0, not '%s'\n", option, text);
        exit(EXIT_USAGE_ERR);
    }
    return (int)value;
}

#endif
