/* What the two forms of `.pth` share (pth.c: zip, pth_legacy.c: before torch 1.6): storages by key, and the tensors that
 * the pickled object describes over them (pth_tensors.c).
 *
 * Life cycle: the form's reader adds the storages, pth_sort_storages, pth_describe (marks the storages that are read),
 * gives each wanted storage its data, pth_place. Not for several threads. Errors are EXIT_BAD_DATA and name the file. */
#ifndef CUDISTILL_IO_PTH_PARTS_H
#define CUDISTILL_IO_PTH_PARTS_H

#include "io/pickle.h"
#include "io/weights.h"

#include <stdbool.h>

typedef struct {
    char *key;
    size_t size;         /* bytes */
    const uint8_t *data; /* NULL until read */
    bool owned;          /* data is a block of memory, handed to the WeightsFile at the end */
    bool wanted;         /* a tensor of the state dict lies in it */
} PthStorage;

/* A tensor over a storage; in elements. */
typedef struct {
    size_t storage; /* index */
    int64_t offset;
    int64_t stride[WEIGHT_RANK_MAX];
} PthView;

typedef struct {
    const char *name;     /* of the file, for messages */
    const uint8_t *bytes; /* the whole file */
    size_t size;
    PthStorage *storages; /* by key, after pth_sort_storages */
    size_t storage_count;
    size_t storage_capacity;
    PthView *views; /* one for each entry of the result */
    size_t view_capacity;
    size_t entry_capacity;
    WeightsFile *file; /* the result */
} PthReader;

Err *pth_bad(const PthReader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Takes over `key`. */
void pth_add_storage(PthReader *r, char *key, size_t size, const uint8_t *data);
/* Refuses a key that is there twice. */
Err *pth_sort_storages(PthReader *r);
PthStorage *pth_find_storage(const PthReader *r, const char *key); /* NULL when absent */

/* ("storage", class, key, device, element count[, view]): whether the value is such an id. */
bool pth_is_storage_id(const PickleValue *id);
/* Bytes of an element of a storage class, also of those whose tensors are refused; 0 when unknown. */
size_t pth_element_size(const PickleValue *class);

/* Finds the state dict in the pickled object, checks every tensor of it against its storage, and notes shapes, types
 * and views. The pickle may be freed afterwards. */
Err *pth_describe(PthReader *r, const PickleValue *root);
/* Gives each entry its data. */
Err *pth_place(PthReader *r);

/* The form before torch 1.6, whole. */
Err *pth_read_legacy(PthReader *r);

#endif
