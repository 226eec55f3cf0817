/* ONNX messages in a pool. protobuf-c only reads what it packs, so names may be shared and constant. */
#include "onnx_parts.h"

#include "base/err.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* AttributeProto.AttributeType */
enum { TYPE_FLOAT = 1, TYPE_INT = 2, TYPE_INTS = 7, MAX_ATTRIBUTES = 8 };

struct OnnxBlock {
    OnnxBlock *next;
    max_align_t data[];
};

void *onnx_alloc(OnnxParts *parts, size_t bytes)
{
    OnnxBlock *const block = xcalloc(1, sizeof *block + bytes);
    block->next = parts->blocks;
    parts->blocks = block;
    return block->data;
}

void onnx_parts_free(OnnxParts *parts)
{
    while (parts->blocks) {
        OnnxBlock *const block = parts->blocks;
        parts->blocks = block->next;
        free(block);
    }
    free(parts->nodes.items);
    free(parts->initializers.items);
    free(parts->inputs.items);
    free(parts->outputs.items);
    free(parts->values.items);
    memset(parts, 0, sizeof *parts);
}

static void list_add(OnnxList *list, void *item)
{
    list->items = xgrow(list->items, &list->capacity, list->count + 1, sizeof *list->items);
    list->items[list->count++] = item;
}

char *onnx_format(OnnxParts *parts, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *const text = xvformat(format, args);
    va_end(args);
    const size_t size = strlen(text) + 1;
    char *const copy = onnx_alloc(parts, size);
    memcpy(copy, text, size);
    free(text);
    return copy;
}

Onnx__Node *onnx_node(OnnxParts *parts, const char *op, const char *name, int n_in,
                      const char *const *inputs, const char *output)
{
    Onnx__Node *const node = onnx_alloc(parts, sizeof *node);
    onnx__node__init(node);
    node->name = onnx_format(parts, "%s", name);
    node->op_type = onnx_format(parts, "%s", op);
    node->n_input = (size_t)n_in;
    node->input = onnx_alloc(parts, (size_t)n_in * sizeof *node->input);
    for (int i = 0; i < n_in; i++) {
        node->input[i] = onnx_format(parts, "%s", inputs[i]);
    }
    node->n_output = 1;
    node->output = onnx_alloc(parts, sizeof *node->output);
    node->output[0] = onnx_format(parts, "%s", output);
    node->attribute = onnx_alloc(parts, MAX_ATTRIBUTES * sizeof *node->attribute);
    list_add(&parts->nodes, node);
    return node;
}

static Onnx__Attribute *attribute_add(OnnxParts *parts, Onnx__Node *node, const char *name,
                                      int type)
{
    CHECK(node->n_attribute < MAX_ATTRIBUTES, "more than %d attributes", MAX_ATTRIBUTES);
    Onnx__Attribute *const attribute = onnx_alloc(parts, sizeof *attribute);
    onnx__attribute__init(attribute);
    attribute->name = onnx_format(parts, "%s", name);
    attribute->has_type = 1;
    attribute->type = type;
    node->attribute[node->n_attribute++] = attribute;
    return attribute;
}

void onnx_attribute_int(OnnxParts *parts, Onnx__Node *node, const char *name, int64_t value)
{
    Onnx__Attribute *const attribute = attribute_add(parts, node, name, TYPE_INT);
    attribute->has_i = 1;
    attribute->i = value;
}

void onnx_attribute_float(OnnxParts *parts, Onnx__Node *node, const char *name, float value)
{
    Onnx__Attribute *const attribute = attribute_add(parts, node, name, TYPE_FLOAT);
    attribute->has_f = 1;
    attribute->f = value;
}

static int64_t *copy_ints(OnnxParts *parts, int count, const int64_t *values)
{
    int64_t *const copy = onnx_alloc(parts, (size_t)count * sizeof *copy);
    if (count > 0) {
        memcpy(copy, values, (size_t)count * sizeof *copy);
    }
    return copy;
}

void onnx_attribute_ints(OnnxParts *parts, Onnx__Node *node, const char *name, int count,
                         const int64_t *values)
{
    Onnx__Attribute *const attribute = attribute_add(parts, node, name, TYPE_INTS);
    attribute->n_ints = (size_t)count;
    attribute->ints = copy_ints(parts, count, values);
}

void onnx_initializer(OnnxParts *parts, const char *name, int ndim, const int64_t *dims,
                      const float *data)
{
    Onnx__Tensor *const tensor = onnx_alloc(parts, sizeof *tensor);
    onnx__tensor__init(tensor);
    size_t bytes = sizeof *data;
    for (int i = 0; i < ndim; i++) {
        bytes *= (size_t)dims[i];
    }
    tensor->name = onnx_format(parts, "%s", name);
    tensor->n_dims = (size_t)ndim;
    tensor->dims = copy_ints(parts, ndim, dims);
    tensor->has_data_type = 1;
    tensor->data_type = ONNX_FLOAT;
    tensor->has_raw_data = 1;
    tensor->raw_data.len = bytes;
    tensor->raw_data.data = onnx_alloc(parts, bytes);
    memcpy(tensor->raw_data.data, data, bytes);
    list_add(&parts->initializers, tensor);
}

static Onnx__Dimension *dimension(OnnxParts *parts, int64_t value)
{
    Onnx__Dimension *const dim = onnx_alloc(parts, sizeof *dim);
    onnx__dimension__init(dim);
    if (value < 0) {
        dim->dim_param = onnx_format(parts, "batch");
    } else {
        dim->has_dim_value = 1;
        dim->dim_value = value;
    }
    return dim;
}

void onnx_value(OnnxParts *parts, OnnxList *list, const char *name, int type, int batch, int count,
                const int64_t *rest)
{
    Onnx__Shape *const shape = onnx_alloc(parts, sizeof *shape);
    onnx__shape__init(shape);
    shape->n_dim = (size_t)count + 1;
    shape->dim = onnx_alloc(parts, shape->n_dim * sizeof *shape->dim);
    shape->dim[0] = dimension(parts, batch);
    for (int i = 0; i < count; i++) {
        shape->dim[i + 1] = dimension(parts, rest[i]);
    }
    Onnx__TensorType *const tensor = onnx_alloc(parts, sizeof *tensor);
    onnx__tensor_type__init(tensor);
    tensor->has_elem_type = 1;
    tensor->elem_type = type;
    tensor->shape = shape;
    Onnx__Type *const kind = onnx_alloc(parts, sizeof *kind);
    onnx__type__init(kind);
    kind->tensor_type = tensor;
    Onnx__ValueInfo *const info = onnx_alloc(parts, sizeof *info);
    onnx__value_info__init(info);
    info->name = onnx_format(parts, "%s", name);
    info->type = kind;
    list_add(list, info);
}
