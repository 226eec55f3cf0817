/* The size of a data set without its images: data.kind = shape, for dry runs. */
#ifndef CUDISTILL_TRAIN_SHAPE_H
#define CUDISTILL_TRAIN_SHAPE_H

#include "base/err.h"

typedef struct {
    long size, classes; /* pixels of a side */
    long train, test;   /* images */
} DataShape;

/* "size=224,classes=1000,train=1281167,test=50000": any subset, any order, each once; ImageNet's where nothing is said.
 * EXIT_CONFIG_ERR. */
Err *shape_parse(const char *options, DataShape *out);

#endif
