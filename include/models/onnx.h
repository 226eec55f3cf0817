/* Networks as ONNX files, for ONNX Runtime, TensorRT, OpenVINO and others.
 *
 * What is written is the inference graph that the builders of the zoo make, node by node, so every network goes the same way:
 * Conv, BatchNormalization, Relu, Add, MaxPool, AveragePool, GlobalAveragePool, Flatten, Gemm, and Cast, Div, Sub for the
 * normalisation of bytes. Input "images" [batch,3,height,width], output "logits" [batch,classes]; weights fp32 under the
 * ecosystem's tensor names, convolutions O,I,Kh,Kw; every value between has its shape in value_info.
 *
 * Source: https://onnx.ai/onnx/repo-docs/IR.html and Operators.html. The messages are host/io/onnx.proto.
 * Thread rules: functions read what they are given and write the one file. */
#ifndef CUDISTILL_MODELS_ONNX_H
#define CUDISTILL_MODELS_ONNX_H

#include "base/err.h"
#include "graph/graph.h"
#include "io/weights.h"

#include <stdbool.h>
#include <stdint.h>

enum { ONNX_OPSET_MIN = 13, ONNX_OPSET_MAX = 21, ONNX_OPSET_DEFAULT = 17 };

typedef struct {
    const char *name;            /* of the graph */
    int opset;                   /* ONNX_OPSET_MIN..MAX */
    bool dynamic;                /* the batch is the parameter "batch"; else it is the graph's */
    const char *const *metadata; /* key, value, ..., NULL; may be NULL */
} OnnxOptions;

/* Any inference graph of the operations above, batch norm folded (OP_FOLD_BN) or not: its TENSOR_INPUTs are the inputs, its
 * output tensors the outputs, under their names. F32 only. arena: the parameters of graph->params, on the host.
 * EXIT_INTERNAL names a node that cannot be expressed. Caller frees *bytes. */
Err *onnx_encode(const Graph *graph, float *const arena[ARENA_COUNT], const OnnxOptions *options,
                 uint8_t **bytes, size_t *size);

typedef struct {
    const char *model; /* of the zoo; NULL = the one whose tensors the file has */
    int batch;         /* 0 = dynamic */
    int opset;
    bool bytes;       /* input U8 pixels, normalised in the graph; else F32, already normalised */
    bool fold;        /* batch norm into the convolution before it, where there is one */
    bool own_size;    /* `size` holds; else the side for which the network was made */
    int size;         /* pixels */
    bool own_moments; /* mean and std hold; else those of CIFAR-100 (32 pixels) or ImageNet (224) */
    float mean[3], std[3];
    const char *weights; /* name of the weight file, for the metadata */
    const char *hash;    /* of the weight file, for the metadata */
} OnnxExport;

/* What was written, for the user to read. */
typedef struct {
    const char *model;
    int classes, size;
    float mean[3], std[3];
    size_t bytes; /* of the file */
} OnnxWritten;

/* Builds the network, loads the weights strictly (models/load.h) and writes the file atomically. Metadata: model, classes,
 * mean, std, input, weights, source_hash. EXIT_BAD_DATA when the tensors are those of no network or of another,
 * EXIT_CONFIG_ERR for a size that the network cannot take. */
Err *onnx_export(const char *path, const WeightsFile *weights, const OnnxExport *what,
                 OnnxWritten *written);

#endif
