/* .npy: a magic number, the version, the header's length, the header, the elements. The header is the text of a Python
 * dict with three known keys; the reader takes exactly that form of it, in any order and spacing, and nothing else of
 * the language. */
#include "io/npy.h"

#include "base/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC_BYTES = 6, ALIGNMENT = 64, GROWTH_DIGITS = 21, HEADER_MAX = 1 << 16, DESCR_MAX = 16 };

static const char MAGIC[MAGIC_BYTES + 1] = "\x93NUMPY";

static const char *const DESCR[WEIGHT_TYPE_COUNT] = {
    [WEIGHT_BOOL] = "|b1", [WEIGHT_U8] = "|u1",  [WEIGHT_I8] = "|i1",  [WEIGHT_I16] = "<i2",
    [WEIGHT_U16] = "<u2",  [WEIGHT_F16] = "<f2", [WEIGHT_I32] = "<i4", [WEIGHT_U32] = "<u4",
    [WEIGHT_F32] = "<f4",  [WEIGHT_F64] = "<f8", [WEIGHT_I64] = "<i8", [WEIGHT_U64] = "<u8",
};

/* ---- Reading ---- */

typedef struct {
    const char *name; /* of the file */
    const char *text;
    size_t size;
    size_t at;
    bool has_descr, has_order, has_shape;
    char descr[DESCR_MAX + 1];
    bool fortran;
    WeightEntry *entry;
} Header;

__attribute__((format(printf, 2, 3))) static Err *bad_file(const char *name, const char *format,
                                                           ...)
{
    va_list args;
    va_start(args, format);
    char *text = xvformat(format, args);
    va_end(args);
    Err *err = err_new(EXIT_BAD_DATA, "'%s' is not a usable .npy file: %s", name, text);
    free(text);
    return err;
}

static Err *bad_header(const Header *h, const char *what)
{
    return bad_file(h->name, "header, byte %zu: %s; save it again with numpy.save", h->at, what);
}

static void skip_space(Header *h)
{
    while (h->at < h->size && (h->text[h->at] == ' ' || h->text[h->at] == '\n')) {
        h->at++;
    }
}

/* After spaces; false and nothing taken when another character stands there. */
static bool take_char(Header *h, char c)
{
    skip_space(h);
    if (h->at < h->size && h->text[h->at] == c) {
        h->at++;
        return true;
    }
    return false;
}

static bool take_word(Header *h, const char *word)
{
    skip_space(h);
    const size_t length = strlen(word);
    if (h->size - h->at < length || memcmp(h->text + h->at, word, length) != 0) {
        return false;
    }
    h->at += length;
    return true;
}

/* A text in quotes of either kind, without escapes, of at most DESCR_MAX characters. */
static Err *take_text(Header *h, char out[DESCR_MAX + 1])
{
    const char quote = take_char(h, '\'') ? '\'' : '"';
    if (quote == '"' && !take_char(h, '"')) {
        return bad_header(h, "a text in quotes belongs here");
    }
    size_t length = 0;
    while (h->at < h->size && h->text[h->at] != quote) {
        if (length == DESCR_MAX || h->text[h->at] == '\\') {
            return bad_header(h, "a text is too long");
        }
        out[length++] = h->text[h->at++];
    }
    out[length] = '\0';
    return take_char(h, quote) ? NULL : bad_header(h, "a text has no end");
}

static Err *take_size(Header *h, int64_t *out)
{
    skip_space(h);
    const size_t begin = h->at;
    *out = 0;
    while (h->at < h->size && h->text[h->at] >= '0' && h->text[h->at] <= '9') {
        if (__builtin_mul_overflow(*out, 10, out) ||
            __builtin_add_overflow(*out, h->text[h->at] - '0', out)) {
            return bad_header(h, "a dimension overflows");
        }
        h->at++;
    }
    if (h->at == begin) {
        return bad_header(h, "a dimension is not a whole number >= 0");
    }
    (void)take_char(h, 'L'); /* written by Python 2 */
    return NULL;
}

static Err *take_shape(Header *h)
{
    WeightEntry *entry = h->entry;
    if (!take_char(h, '(')) {
        return bad_header(h, "the shape is not a tuple");
    }
    entry->ndim = 0;
    while (!take_char(h, ')')) {
        if (entry->ndim == WEIGHT_RANK_MAX) {
            return bad_file(h->name, "it has more than %d dimensions", WEIGHT_RANK_MAX);
        }
        TRY(take_size(h, &entry->shape[entry->ndim]));
        entry->ndim++;
        if (!take_char(h, ',')) {
            if (entry->ndim == 1 || !take_char(h, ')')) {
                return bad_header(h, "the shape is not a tuple");
            }
            break;
        }
    }
    return NULL;
}

static Err *take_descr(Header *h)
{
    skip_space(h);
    if (h->at < h->size && (h->text[h->at] == '[' || h->text[h->at] == '{')) {
        return bad_file(h->name, "its elements are structures; save one field of it");
    }
    return take_text(h, h->descr);
}

static Err *take_pair(Header *h)
{
    char key[DESCR_MAX + 1];
    TRY(take_text(h, key));
    bool *seen = strcmp(key, "descr") == 0           ? &h->has_descr
                 : strcmp(key, "fortran_order") == 0 ? &h->has_order
                 : strcmp(key, "shape") == 0         ? &h->has_shape
                                                     : NULL;
    if (seen == NULL || *seen || !take_char(h, ':')) {
        return bad_header(h, "a key is unknown, twice there or without a value");
    }
    *seen = true;
    if (seen == &h->has_descr) {
        return take_descr(h);
    }
    if (seen == &h->has_shape) {
        return take_shape(h);
    }
    h->fortran = take_word(h, "True");
    return h->fortran || take_word(h, "False")
               ? NULL
               : bad_header(h, "fortran_order is not True or False");
}

static Err *take_dict(Header *h)
{
    if (!take_char(h, '{')) {
        return bad_header(h, "it is not a dict");
    }
    while (!take_char(h, '}')) {
        TRY(take_pair(h));
        if (!take_char(h, ',')) {
            if (!take_char(h, '}')) {
                return bad_header(h, "a comma or } belongs here");
            }
            break;
        }
    }
    skip_space(h);
    if (h->at != h->size) {
        return bad_header(h, "only spaces may follow the dict");
    }
    return h->has_descr && h->has_order && h->has_shape
               ? NULL
               : bad_header(h, "'descr', 'fortran_order' or 'shape' is missing");
}

static Err *find_type(const Header *h)
{
    for (int i = 0; i < WEIGHT_TYPE_COUNT; i++) {
        if (DESCR[i] != NULL && strcmp(DESCR[i], h->descr) == 0) {
            h->entry->type = (WeightType)i;
            return NULL;
        }
    }
    const char order = h->descr[0];
    const char kind = order != '\0' ? h->descr[1] : '\0';
    if (kind == 'O') {
        return bad_file(h->name, "it holds Python objects, which are never read; save numbers");
    }
    if (order == '>') {
        return bad_file(h->name,
                        "its numbers are big-endian ('%s'); save array.astype('<%s') instead",
                        h->descr, h->descr + 1);
    }
    return bad_file(h->name,
                    "the element type '%s' is not supported; save it as float32, float16 or an "
                    "integer type",
                    h->descr);
}

/* Shape, type and order of the header's text; counts and bytes without overflow. */
static Err *parse_header(Header *h)
{
    TRY(take_dict(h));
    TRY(find_type(h));
    if (h->fortran) {
        return bad_file(h->name,
                        "it is in Fortran order; save numpy.ascontiguousarray(array) instead");
    }
    WeightEntry *entry = h->entry;
    entry->count = 1;
    for (int i = 0; i < entry->ndim; i++) {
        if (__builtin_mul_overflow(entry->count, (size_t)entry->shape[i], &entry->count)) {
            return bad_file(h->name, "its shape overflows");
        }
    }
    if (__builtin_mul_overflow(entry->count, weight_type_size(entry->type), &entry->bytes)) {
        return bad_file(h->name, "its shape overflows");
    }
    return NULL;
}

/* *begin, *length: of the header's text. */
static Err *find_header(const char *name, const uint8_t *data, size_t size, size_t *begin,
                        size_t *length)
{
    if (size < MAGIC_BYTES || memcmp(data, MAGIC, MAGIC_BYTES) != 0) {
        return bad_file(name, "it does not begin with NumPy's magic number");
    }
    const uint8_t version = size > MAGIC_BYTES ? data[MAGIC_BYTES] : 0;
    const size_t length_bytes = version == 1 ? 2 : 4;
    *begin = MAGIC_BYTES + 2 + length_bytes;
    if (size < *begin) {
        return bad_file(name, "it ends after %zu bytes, before its header", size);
    }
    if (version < 1 || version > 3 || data[MAGIC_BYTES + 1] != 0) {
        return bad_file(name, "version %d.%d is not 1.0, 2.0 or 3.0", version,
                        data[MAGIC_BYTES + 1]);
    }
    *length = 0;
    memcpy(length, data + MAGIC_BYTES + 2, length_bytes);
    if (*length > HEADER_MAX) {
        return bad_file(name, "its header of %zu bytes is above the limit of %d", *length,
                        HEADER_MAX);
    }
    if (*length > size - *begin) {
        return bad_file(name, "it ends after %zu bytes, inside its header", size);
    }
    return NULL;
}

static Err *parse_file(const char *name, const uint8_t *data, size_t size, WeightEntry *entry)
{
    size_t begin = 0;
    size_t length = 0;
    TRY(find_header(name, data, size, &begin, &length));
    Header header = {
        .name = name, .text = (const char *)data + begin, .size = length, .entry = entry};
    TRY(parse_header(&header));
    const size_t left = size - begin - length;
    if (entry->bytes != left) {
        return bad_file(name, "its shape needs %zu bytes of data, and it has %zu; save it again",
                        entry->bytes, left);
    }
    entry->data = data + begin + length;
    return NULL;
}

Err *npy_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out)
{
    *out = NULL;
    WeightsFile *file = xcalloc(1, sizeof *file);
    file->entries = xcalloc(1, sizeof *file->entries);
    file->count = 1;
    file->entries[0].name = xstrdup("array");
    Err *err = parse_file(name, data, size, &file->entries[0]);
    if (err != NULL) {
        weights_close(file);
        return err;
    }
    *out = file;
    return NULL;
}

Err *npy_open(const char *path, WeightsFile **out)
{
    return weights_open_map(path, npy_open_memory, out);
}

/* ---- Writing ---- */

static void add_shape(Text *out, int ndim, const int64_t *shape)
{
    text_puts(out, "(");
    for (int i = 0; i < ndim; i++) {
        text_add(out, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    }
    text_puts(out, ndim == 1 ? ",)" : ")");
}

/* As numpy.save: room for the first dimension to grow, then spaces up to the alignment, and a line end. */
static void make_header(Text *out, const char *descr, int ndim, const int64_t *shape)
{
    Text dict = {0};
    text_add(&dict, "{'descr': '%s', 'fortran_order': False, 'shape': ", descr);
    add_shape(&dict, ndim, shape);
    text_puts(&dict, ", }");
    if (ndim > 0) {
        char digits[32];
        const int used = snprintf(digits, sizeof digits, "%lld", (long long)shape[0]);
        text_add(&dict, "%*s", GROWTH_DIGITS - used, "");
    }
    const size_t fixed = MAGIC_BYTES + 2 + 2;
    const size_t padding = ALIGNMENT - (fixed + dict.size + 1) % ALIGNMENT;
    text_add(&dict, "%*s\n", (int)padding, "");
    const uint8_t head[4] = {1, 0, (uint8_t)(dict.size & 0xFF), (uint8_t)(dict.size >> 8)};
    text_bytes(out, MAGIC, MAGIC_BYTES);
    text_bytes(out, (const char *)head, sizeof head);
    text_bytes(out, dict.text, dict.size);
    text_free(&dict);
}

Err *npy_write(const char *path, WeightType type, int ndim, const int64_t *shape, const void *data)
{
    CHECK((unsigned)type < WEIGHT_TYPE_COUNT && ndim >= 0 && ndim <= WEIGHT_RANK_MAX,
          "type %d, rank %d", (int)type, ndim);
    if (DESCR[type] == NULL) {
        return err_new(EXIT_BAD_DATA,
                       "cannot write '%s': NumPy has no type for %s; convert it to fp32 first",
                       path, weight_type_name(type));
    }
    size_t bytes = weight_type_size(type);
    for (int i = 0; i < ndim; i++) {
        bytes *= (size_t)shape[i];
    }
    Text header = {0};
    make_header(&header, DESCR[type], ndim, shape);
    const FilePart parts[] = {{header.text, header.size}, {data, bytes}};
    Err *err = file_write_atomic_parts(path, parts, 2);
    text_free(&header);
    return err;
}
