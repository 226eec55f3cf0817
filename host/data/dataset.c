/* Opening a data set by its specification, and what all data sets share: memory, hash, names. */
#include "data/dataset.h"

#include "base/files.h"
#include "data/cifar.h"
#include "data/synthetic.h"
#include <stdlib.h>
#include <string.h>

const char *split_name(Split split)
{
    return split == SPLIT_TRAIN ? "train" : "test";
}

Dataset *dataset_new(const char *name, const char *source, Split split, uint32_t count, int classes,
                     int height, int width)
{
    CHECK(count > 0 && classes > 0 && height > 0 && width > 0,
          "data set %s: %u images of %d x %d, %d classes", name, count, height, width, classes);
    Dataset *dataset = xcalloc(1, sizeof *dataset);
    dataset->name = xstrdup(name);
    dataset->source = xstrdup(source);
    dataset->split = split;
    dataset->count = count;
    dataset->classes = classes;
    dataset->height = height;
    dataset->width = width;
    dataset->channels = 3;
    dataset->class_names = xcalloc((size_t)classes, sizeof *dataset->class_names);
    dataset->labels = xmalloc(count * sizeof *dataset->labels);
    dataset->images = xaligned(count * dataset_image_size(dataset));
    return dataset;
}

void dataset_seal(Dataset *dataset)
{
    for (int c = 0; c < dataset->classes; c++) {
        if (!dataset->class_names[c]) {
            dataset->class_names[c] = xformat("class %d", c);
        }
    }
    char images[33];
    char labels[33];
    hash_hex(dataset->images, dataset->count * dataset_image_size(dataset), images);
    hash_hex(dataset->labels, dataset->count * sizeof *dataset->labels, labels);
    char *text = xformat("%u %d %d %d %d %s %s", dataset->count, dataset->classes, dataset->height,
                         dataset->width, dataset->channels, labels, images);
    hash_hex(text, strlen(text), dataset->hash);
    free(text);
}

Err *dataset_open(const char *spec, Split split, Dataset **out)
{
    *out = NULL;
    const char *colon = strchr(spec, ':');
    const size_t kind = colon ? (size_t)(colon - spec) : strlen(spec);
    const char *rest = colon ? colon + 1 : "";
    if (kind == 9 && !strncmp(spec, "synthetic", kind)) {
        SyntheticConfig config;
        TRY(synthetic_parse(rest, &config));
        return synthetic_open(&config, split, out);
    }
    const bool cifar10 = kind == 7 && !strncmp(spec, "cifar10", kind);
    const bool cifar100 = kind == 8 && !strncmp(spec, "cifar100", kind);
    if (!cifar10 && !cifar100) {
        return err_new(EXIT_CONFIG_ERR,
                       "data '%s': unknown kind of data set; use cifar10:PATH, cifar100:PATH or "
                       "synthetic[:classes=N,train=N,test=N,seed=N]",
                       spec);
    }
    if (!*rest) {
        return err_new(EXIT_CONFIG_ERR,
                       "data '%s': no path; write %.*s:PATH, where PATH is the folder or .tar.gz "
                       "of the binary "
                       "version",
                       spec, (int)kind, spec);
    }
    return cifar_open(cifar10 ? CIFAR_10 : CIFAR_100, rest, split, out);
}

void dataset_close(Dataset *dataset)
{
    if (!dataset) {
        return;
    }
    for (int c = 0; c < dataset->classes; c++) {
        free(dataset->class_names[c]);
    }
    free(dataset->class_names);
    free(dataset->labels);
    free(dataset->images);
    free(dataset->source);
    free(dataset->name);
    free(dataset);
}
