/* ONNX messages under construction: everything lives in one pool and is freed with it. Private to host/models. */
#ifndef CUDISTILL_MODELS_ONNX_PARTS_H
#define CUDISTILL_MODELS_ONNX_PARTS_H

#include "io/onnx.pb-c.h"

#include <stddef.h>
#include <stdint.h>

/* TensorProto.DataType */
enum { ONNX_FLOAT = 1, ONNX_UINT8 = 2 };

typedef struct OnnxBlock OnnxBlock;
typedef struct {
    void **items;
    size_t count, capacity;
} OnnxList;

typedef struct {
    OnnxBlock *blocks;
    OnnxList nodes, initializers, inputs, outputs, values;
} OnnxParts;

void onnx_parts_free(OnnxParts *parts);
/* Zeroed. */
void *onnx_alloc(OnnxParts *parts, size_t bytes);
char *onnx_format(OnnxParts *parts, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* inputs: n_in names, which are copied; one output. */
Onnx__Node *onnx_node(OnnxParts *parts, const char *op, const char *name, int n_in,
                      const char *const *inputs, const char *output);
void onnx_attribute_int(OnnxParts *parts, Onnx__Node *node, const char *name, int64_t value);
void onnx_attribute_float(OnnxParts *parts, Onnx__Node *node, const char *name, float value);
void onnx_attribute_ints(OnnxParts *parts, Onnx__Node *node, const char *name, int count,
                         const int64_t *values);
/* F32; data is copied. */
void onnx_initializer(OnnxParts *parts, const char *name, int ndim, const int64_t *dims,
                      const float *data);
/* batch < 0: the parameter "batch". rest: the other dimensions. */
void onnx_value(OnnxParts *parts, OnnxList *list, const char *name, int type, int batch, int count,
                const int64_t *rest);

#endif
