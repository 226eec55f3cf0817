/* Accuracy of a weight file: the network of a name, on the test split of a data set, as `cudistill eval` measures it. */
#ifndef CUDISTILL_TRAIN_EVAL_FILE_H
#define CUDISTILL_TRAIN_EVAL_FILE_H

#include "base/err.h"
#include "train/evaluate.h"
#include "train/settings.h"

typedef struct {
    const char *weights; /* safetensors or .pth */
    const char *model;
    const char *data;   /* as dataset_open takes it: "cifar100:DIR" */
    const char *device; /* as device_open takes it */
    Precision precision;
    int batch, threads;    /* threads 0: as many as the backend chooses */
    float mean[3], std[3]; /* of pixels scaled to 0..1 */
} EvalFile;

/* Images in batches of 250, CIFAR-100's normalisation, any device. */
EvalFile eval_file_defaults(void);
Err *eval_file(const EvalFile *job, EvalResult *out);

#endif
