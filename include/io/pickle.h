/* Python pickles (protocols 2 to 5) as plain data. Nothing is imported, called or executed: a global is its two
 * names, a call is a value that holds callable and arguments. Op-codes that have no meaning without Python's
 * registries (INST, OBJ, EXT, PERSID) and text op-codes of protocol 0 are refused.
 *
 * Values may be shared and may even contain themselves: never walk them without a bound on the depth.
 *
 * Life cycle: pickle_read, look at pickle->root, pickle_free. Texts point into the bytes given to pickle_read, which
 * must live as long. Limits: 64 MiB of pickle, 2^21 values, 2^20 on the stack, 2^22 memo places. */
#ifndef CUDISTILL_IO_PICKLE_H
#define CUDISTILL_IO_PICKLE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_BIG_INT, /* does not fit into 64 bits; text = its bytes, two's complement, little-endian */
    PICKLE_FLOAT,
    PICKLE_TEXT,
    PICKLE_BYTES,
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_SET,
    PICKLE_DICT,
    PICKLE_GLOBAL,    /* text = module, name */
    PICKLE_CALL,      /* callable(*args), with what was later put into the result */
    PICKLE_PERSISTENT /* args = the persistent id */
} PickleKind;

typedef struct PickleValue PickleValue;
struct PickleValue {
    PickleKind kind;
    int64_t integer; /* also BOOL */
    double real;
    const char *text; /* not NUL-terminated; TEXT, BYTES, GLOBAL, BIG_INT */
    size_t length;
    const char *name; /* GLOBAL */
    size_t name_length;
    PickleValue *
        *items;   /* elements; of a DICT, and of a CALL used as one: key, value, key, value, ... */
    size_t count; /* of items */
    size_t capacity;
    PickleValue *callable; /* CALL */
    PickleValue *args;     /* CALL, PERSISTENT */
};

typedef struct Pickle Pickle;

/* EXIT_BAD_DATA with the byte position on a malformed pickle. On error *out is NULL. */
Err *pickle_read(const uint8_t *data, size_t size, Pickle **out);
/* The pickle at the beginning of `data`, which may go on after it: *used = its bytes. */
Err *pickle_read_first(const uint8_t *data, size_t size, size_t *used, Pickle **out);
const PickleValue *pickle_root(const Pickle *pickle);
/* Every value that the pickle made, in the order of its op-codes: what a walk from the root finds, without a walk. */
size_t pickle_value_count(const Pickle *pickle);
const PickleValue *pickle_value(const Pickle *pickle, size_t i);
void pickle_free(Pickle *pickle); /* accepts NULL */

bool pickle_text_is(const PickleValue *value,
                    const char *text); /* TEXT with exactly this content */
bool pickle_global_is(const PickleValue *value, const char *module, const char *name);

#endif
