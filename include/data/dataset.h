/* Labelled image sets, wholly in memory.
 *
 * Life cycle: dataset_open reads or draws everything and checks it; from then on a Dataset is
 * immutable and any number of threads may read it; dataset_close frees it. Images are RGB bytes,
 * one after another, each height x width x channels (HWC), so that a batch is NHWC. Errors name the
 * file, the place in it and the cure: EXIT_CONFIG_ERR for a bad specification, EXIT_NO_INPUT for a
 * missing file, EXIT_BAD_DATA for a damaged one. */
#ifndef CUDISTILL_DATA_DATASET_H
#define CUDISTILL_DATA_DATASET_H

#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

typedef enum { SPLIT_TRAIN, SPLIT_TEST } Split;

enum { DATASET_HASH_CHARS = 33 }; /* 32 hex digits and the NUL */

typedef struct Dataset {
    char *name;   /* "cifar10", "cifar100", "synthetic"; with "-lt" behind it: data/longtail.h */
    char *source; /* for messages: the path read, or the full specification of a drawn set */
    Split split;
    uint32_t count; /* images */
    int classes;
    int height, width, channels; /* pixels; channels is 3 */
    char **class_names;          /* [classes] */
    int32_t *labels;             /* [count], 0 .. classes-1 */
    uint8_t *images;             /* [count][height][width][channels] */
    /* XXH3-128 over shape, labels and images: equal if and only if training would see the same
     * data. It does not depend on where the files are or whether they were packed. */
    char hash[DATASET_HASH_CHARS];
} Dataset;

/* Reads one split. `spec` is one of
 *     cifar10:PATH
 *     cifar100:PATH                 the folder of the binary version, its parent, or the .tar.gz;
 *                                   see data/cifar.h
 *     synthetic[:key=value,...]     keys classes, train, test, seed; see data/synthetic.h
 *
 * *out is NULL on error. */
Err *dataset_open(const char *spec, Split split, Dataset **out);
void dataset_close(Dataset *dataset); /* accepts NULL */

const char *split_name(Split split); /* "train", "test" */

static inline size_t dataset_image_size(const Dataset *dataset)
{
    return (size_t)dataset->height * (size_t)dataset->width * (size_t)dataset->channels;
}

/* Image i as HWC bytes; valid until dataset_close. */
static inline const uint8_t *dataset_image(const Dataset *dataset, uint32_t i)
{
    return dataset->images + (size_t)i * dataset_image_size(dataset);
}

/* For the files that build data sets: memory for `count` images, contents unset (class names NULL),
 * and the hash once everything is filled in. */
Dataset *dataset_new(const char *name, const char *source, Split split, uint32_t count, int classes,
                     int height, int width);
void dataset_seal(Dataset *dataset);

#endif
