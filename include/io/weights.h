/* Weight files: named tensors read from disk, whatever the format. weights_open tells safetensors from `.pth` by
 * the first bytes and tidies the names; safetensors.h, pth.h and npy.h read one format as it is.
 *
 * Life cycle: open, look entries up, weights_close. An open file does not change: reads from several threads are
 * safe. Data stays in the file's byte order (little-endian) and element type and need not be aligned to its element
 * size: use weights_to_float, or memcpy. */
#ifndef CUDISTILL_IO_WEIGHTS_H
#define CUDISTILL_IO_WEIGHTS_H

#include "base/err.h"
#include "base/files.h"

#include <stdint.h>

/* In the order in which safetensors ranks them for alignment. Not the element types of graphs: files know more. */
typedef enum {
    WEIGHT_BOOL,
    WEIGHT_U8,
    WEIGHT_I8,
    WEIGHT_I16,
    WEIGHT_U16,
    WEIGHT_F16,
    WEIGHT_BF16,
    WEIGHT_I32,
    WEIGHT_U32,
    WEIGHT_F32,
    WEIGHT_F64,
    WEIGHT_I64,
    WEIGHT_U64,
    WEIGHT_TYPE_COUNT
} WeightType;

size_t weight_type_size(WeightType type);
const char *weight_type_name(WeightType type); /* as in safetensors: "F32" */

enum { WEIGHT_RANK_MAX = 8 };

/* Dense, row-major. A scalar has rank 0; a dimension may be 0. */
typedef struct {
    char *name;
    WeightType type;
    int ndim;
    int64_t shape[WEIGHT_RANK_MAX];
    size_t count; /* elements */
    size_t bytes;
    const void *data;
} WeightEntry;

typedef struct {
    char *key;
    char *value;
} WeightMeta;

typedef struct {
    WeightEntry *entries; /* in the file's order */
    size_t count;
    WeightMeta *metadata;
    size_t metadata_count;
    FileMap map;    /* what the data points into: a map of the file, */
    void **buffers; /* or blocks of memory */
    size_t buffer_count;
} WeightsFile;

/* What the first bytes say; nothing else is checked. */
typedef enum { WEIGHTS_UNKNOWN, WEIGHTS_SAFETENSORS, WEIGHTS_PTH, WEIGHTS_NPY } WeightsKind;
WeightsKind weights_kind(const uint8_t *data, size_t size);

/* Reads safetensors or .pth, then tidies the names, as often as something changes:
 *  - strips `module.`, `model.`, `_orig_mod.` (torch.compile) and `student.` where every name begins with it;
 *  - keeps only the names under `student.` where some begin with it (training state of a whole distiller, with its
 *    teacher under `teacher.`), and says what is left out.
 * EXIT_NO_INPUT when absent, EXIT_BAD_DATA when damaged or of another kind. On error *out is NULL. */
Err *weights_open(const char *path, WeightsFile **out);
/* The same from memory, which must live as long as the result. `name` stands for the file in messages. */
Err *weights_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out);
/* Maps the file, reads it with one of the ..._open_memory functions and gives the map to the result. */
typedef Err *(*WeightsReader)(const char *name, const uint8_t *data, size_t size,
                              WeightsFile **out);
Err *weights_open_map(const char *path, WeightsReader read, WeightsFile **out);
void weights_close(WeightsFile *file); /* accepts NULL */

const WeightEntry *weights_find(const WeightsFile *file, const char *name); /* NULL when absent */
const char *weights_metadata(const WeightsFile *file, const char *key);     /* NULL when absent */

/* out[0..count): the elements as fp32 (64-bit types are rounded to nearest). */
void weights_to_float(const WeightEntry *entry, float *out);

#endif
