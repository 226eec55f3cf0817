/* What every reader of weight files promises. */
#ifndef CUDISTILL_TESTS_FUZZ_WEIGHTS_H
#define CUDISTILL_TESTS_FUZZ_WEIGHTS_H

#include "io/weights.h"

/* Sizes agree with shapes, every byte is readable, conversion works. When `inside` is not NULL, data lies in it. */
void fuzz_check_weights(const WeightsFile *file, const FileMap *inside);
/* Same names, types, shapes, bytes and metadata, entries in any order. */
void fuzz_check_same_weights(const WeightsFile *a, const WeightsFile *b);

#endif
