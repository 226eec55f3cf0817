/* From the pickled object of a `.pth` file to tensors. The state dict is looked for under the names that training scripts
 * give it; each tensor's type, shape and strides come from the call that would rebuild it, and nothing of it is believed
 * before it was compared with the size of the storage. Views that are not dense are copied out row-major. */
#include "io/pth_parts.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 1000, WRAPPER_DEPTH = 4, COPY_FACTOR = 4, COPY_SLACK = 1 << 20 };

Err *pth_bad(const PthReader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char text[1536];
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_new(EXIT_BAD_DATA, "'%s': %s", r->name, text);
}

/* ---- Storages ---- */

void pth_add_storage(PthReader *r, char *key, size_t size, const uint8_t *data)
{
    r->storages =
        xgrow(r->storages, &r->storage_capacity, r->storage_count + 1, sizeof *r->storages);
    r->storages[r->storage_count++] = (PthStorage){.key = key, .size = size, .data = data};
}

static int compare_storages(const void *a, const void *b)
{
    const PthStorage *left = a;
    const PthStorage *right = b;
    return strcmp(left->key, right->key);
}

Err *pth_sort_storages(PthReader *r)
{
    if (r->storage_count > 0) {
        qsort(r->storages, r->storage_count, sizeof *r->storages, compare_storages);
    }
    for (size_t i = 1; i < r->storage_count; i++) {
        if (strcmp(r->storages[i - 1].key, r->storages[i].key) == 0) {
            return pth_bad(r, "it holds the storage '%s' twice", r->storages[i].key);
        }
    }
    return NULL;
}

PthStorage *pth_find_storage(const PthReader *r, const char *key)
{
    const PthStorage wanted = {.key = (char *)key};
    return r->storage_count == 0 ? NULL
                                 : bsearch(&wanted, r->storages, r->storage_count,
                                           sizeof *r->storages, compare_storages);
}

bool pth_is_storage_id(const PickleValue *id)
{
    return id != NULL && id->kind == PICKLE_TUPLE && id->count >= 5 &&
           pickle_text_is(id->items[0], "storage") && id->items[2]->kind == PICKLE_TEXT &&
           id->items[4]->kind == PICKLE_INT && id->items[4]->integer >= 0;
}

/* Classes of torch; where there is no WeightType, only the size is known. */
typedef struct {
    const char *name;
    size_t size;
    bool supported;
    WeightType type;
} StorageClass;

static const StorageClass CLASSES[] = {
    {"FloatStorage", 4, true, WEIGHT_F32},
    {"HalfStorage", 2, true, WEIGHT_F16},
    {"BFloat16Storage", 2, true, WEIGHT_BF16},
    {"DoubleStorage", 8, true, WEIGHT_F64},
    {"LongStorage", 8, true, WEIGHT_I64},
    {"IntStorage", 4, true, WEIGHT_I32},
    {"ShortStorage", 2, true, WEIGHT_I16},
    {"CharStorage", 1, true, WEIGHT_I8},
    {"ByteStorage", 1, true, WEIGHT_U8},
    {"BoolStorage", 1, true, WEIGHT_BOOL},
    {"ComplexFloatStorage", 8, false, 0},
    {"ComplexDoubleStorage", 16, false, 0},
    {"QInt8Storage", 1, false, 0},
    {"QUInt8Storage", 1, false, 0},
    {"QInt32Storage", 4, false, 0},
    {"QUInt4x2Storage", 1, false, 0},
    {"QUInt2x4Storage", 1, false, 0},
};

static const StorageClass *find_class(const PickleValue *class)
{
    for (size_t i = 0; i < sizeof CLASSES / sizeof CLASSES[0]; i++) {
        if (pickle_global_is(class, "torch", CLASSES[i].name)) {
            return &CLASSES[i];
        }
    }
    return NULL;
}

static bool is_untyped(const PickleValue *class)
{
    return pickle_global_is(class, "torch.storage", "UntypedStorage") ||
           pickle_global_is(class, "torch", "UntypedStorage");
}

size_t pth_element_size(const PickleValue *class)
{
    const StorageClass *known = find_class(class);
    return known != NULL ? known->size : is_untyped(class) ? 1 : 0;
}

/* ---- The state dict ---- */

static bool is_dict(const PickleValue *value)
{
    return value->kind == PICKLE_DICT ||
           (value->kind == PICKLE_CALL &&
            (pickle_global_is(value->callable, "collections", "OrderedDict") ||
             pickle_global_is(value->callable, "collections", "defaultdict")));
}

/* Python 2 gives OrderedDict its content as an argument, a list of lists of two; NULL: there is none. */
static const PickleValue *listed_pairs(const PickleValue *dict)
{
    const PickleValue *args = dict->kind == PICKLE_CALL ? dict->args : NULL;
    return args != NULL && args->kind == PICKLE_TUPLE && args->count > 0 &&
                   args->items[0]->kind == PICKLE_LIST
               ? args->items[0]
               : NULL;
}

static size_t pair_count(const PickleValue *dict)
{
    const PickleValue *list = listed_pairs(dict);
    return (list != NULL ? list->count : 0) + dict->count / 2;
}

/* false: what stands in the list is no pair. */
static bool get_pair(const PickleValue *dict, size_t i, const PickleValue **key,
                     const PickleValue **value)
{
    const PickleValue *list = listed_pairs(dict);
    const size_t listed = list != NULL ? list->count : 0;
    if (i >= listed) {
        *key = dict->items[2 * (i - listed)];
        *value = dict->items[2 * (i - listed) + 1];
        return true;
    }
    const PickleValue *pair = list->items[i];
    if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->count != 2) {
        return false;
    }
    *key = pair->items[0];
    *value = pair->items[1];
    return true;
}

/* Follows the wrappers that torch puts around the function that makes a tensor. NULL: not a tensor. */
static const PickleValue *tensor_call(const PickleValue *value, const PickleValue **function)
{
    for (int depth = 0; depth < WRAPPER_DEPTH; depth++) {
        if (value->kind != PICKLE_CALL || value->args->kind != PICKLE_TUPLE ||
            value->args->count == 0) {
            return NULL;
        }
        const PickleValue *callable = value->callable;
        if (pickle_global_is(callable, "torch._utils", "_rebuild_tensor_v2") ||
            pickle_global_is(callable, "torch._utils", "_rebuild_tensor_v3") ||
            pickle_global_is(callable, "torch._utils", "_rebuild_tensor") ||
            pickle_global_is(callable, "torch._utils", "_rebuild_qtensor")) {
            *function = callable;
            return value->args;
        }
        if (!pickle_global_is(callable, "torch._utils", "_rebuild_parameter") &&
            !pickle_global_is(callable, "torch._utils", "_rebuild_parameter_with_state") &&
            !pickle_global_is(callable, "torch.nn.parameter", "Parameter")) {
            return NULL;
        }
        value = value->args->items[0];
    }
    return NULL;
}

static bool is_tensor(const PickleValue *value)
{
    const PickleValue *function = NULL;
    return tensor_call(value, &function) != NULL;
}

static bool holds_tensor(const PickleValue *dict)
{
    const PickleValue *key = NULL;
    const PickleValue *value = NULL;
    for (size_t i = 0; i < pair_count(dict); i++) {
        if (get_pair(dict, i, &key, &value) && is_tensor(value)) {
            return true;
        }
    }
    return false;
}

static const PickleValue *dict_get(const PickleValue *dict, const char *name)
{
    const PickleValue *key = NULL;
    const PickleValue *value = NULL;
    for (size_t i = 0; i < pair_count(dict); i++) {
        if (get_pair(dict, i, &key, &value) && pickle_text_is(key, name)) {
            return value;
        }
    }
    return NULL;
}

static const PickleValue *unwrap(const PickleValue *dict)
{
    static const char *const wrappers[] = {"model", "state_dict", "state_dict_ema", "net",
                                           "student"};
    for (size_t i = 0; i < sizeof wrappers / sizeof wrappers[0]; i++) {
        const PickleValue *inner = dict_get(dict, wrappers[i]);
        if (inner != NULL && is_dict(inner)) {
            return inner;
        }
    }
    return NULL;
}

/* A wrapper's member wins over tensors beside it: training scripts save their best accuracy as a tensor, too. */
static Err *find_state_dict(const PthReader *r, const PickleValue *root, const PickleValue **out)
{
    const PickleValue *dict = root;
    if (!is_dict(dict)) {
        return pth_bad(r, "it holds %s, not weights; save model.state_dict() instead",
                       dict->kind == PICKLE_CALL ? "a whole Python object" : "no dict");
    }
    for (int depth = 0; depth < WRAPPER_DEPTH; depth++) {
        const PickleValue *inner = unwrap(dict);
        if (inner == NULL) {
            break;
        }
        dict = inner;
    }
    if (!holds_tensor(dict)) {
        return pth_bad(
            r, "no tensors where a state dict is looked for (the object itself, 'model', "
               "'state_dict', 'state_dict_ema', 'net', 'student'); save model.state_dict()");
    }
    *out = dict;
    return NULL;
}

/* ---- One tensor ---- */

/* The newer unsigned types have no storage class; _rebuild_tensor_v3 names them on an untyped storage. */
static bool dtype_type(const PickleValue *dtype, WeightType *type)
{
    static const struct {
        const char *name;
        WeightType type;
    } dtypes[] = {{"uint16", WEIGHT_U16}, {"uint32", WEIGHT_U32}, {"uint64", WEIGHT_U64}};
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (pickle_global_is(dtype, "torch", dtypes[i].name)) {
            *type = dtypes[i].type;
            return true;
        }
    }
    return false;
}

/* A tuple of whole numbers, plain or as torch.Size. */
static bool read_dims(const PickleValue *value, int64_t dims[WEIGHT_RANK_MAX], int *count)
{
    if (value->kind == PICKLE_CALL && pickle_global_is(value->callable, "torch", "Size") &&
        value->args->kind == PICKLE_TUPLE && value->args->count == 1) {
        value = value->args->items[0];
    }
    if (value->kind != PICKLE_TUPLE || value->count > WEIGHT_RANK_MAX) {
        return false;
    }
    *count = (int)value->count;
    for (size_t i = 0; i < value->count; i++) {
        if (value->items[i]->kind != PICKLE_INT || value->items[i]->integer < 0) {
            return false;
        }
        dims[i] = value->items[i]->integer;
    }
    return true;
}

/* Elements of the storage that the view reaches; false on overflow. */
static bool view_reach(const WeightEntry *entry, const PthView *view, uint64_t *reach)
{
    uint64_t last = (uint64_t)view->offset;
    for (int i = 0; i < entry->ndim; i++) {
        uint64_t step = 0;
        if (entry->shape[i] > 0 && (__builtin_mul_overflow((uint64_t)entry->shape[i] - 1,
                                                           (uint64_t)view->stride[i], &step) ||
                                    __builtin_add_overflow(last, step, &last))) {
            return false;
        }
    }
    *reach = entry->count == 0 ? 0 : last + 1;
    return *reach != 0 || entry->count == 0;
}

/* What a tensor may touch of its storage, in elements. A storage of torch before 0.4 may itself be a part of another. */
typedef struct {
    size_t index;
    const PickleValue *class;
    uint64_t stated; /* of the storage, by the pickle */
    uint64_t first;
    uint64_t count;
} StorageRef;

static Err *check_view(const PthReader *r, WeightEntry *entry, const PthView *view,
                       const StorageRef *ref)
{
    entry->count = 1;
    for (int i = 0; i < entry->ndim; i++) {
        if (__builtin_mul_overflow(entry->count, (size_t)entry->shape[i], &entry->count)) {
            return pth_bad(r, "the shape of tensor '%s' overflows", entry->name);
        }
    }
    const size_t element = weight_type_size(entry->type);
    const PthStorage *storage = &r->storages[view->storage];
    const uint64_t inside = storage->size / element;
    const uint64_t end = ref->first + ref->count < inside ? ref->first + ref->count : inside;
    uint64_t reach = 0;
    if (!view_reach(entry, view, &reach) || reach > end) {
        return pth_bad(r, "tensor '%s' reaches beyond its data of %llu bytes; the file is damaged",
                       entry->name, (unsigned long long)end * element);
    }
    if (entry->count > inside) {
        return pth_bad(r, "tensor '%s' is an expanded view; save it with .contiguous()",
                       entry->name);
    }
    entry->bytes = entry->count * element;
    return NULL;
}

/* The id's last member, of files before torch 0.4: None or (key of the view, offset, element count). */
static bool read_storage_view(const PickleValue *id, StorageRef *ref)
{
    ref->stated = (uint64_t)id->items[4]->integer;
    ref->first = 0;
    ref->count = ref->stated;
    if (id->count < 6 || id->items[5]->kind == PICKLE_NONE) {
        return true;
    }
    const PickleValue *part = id->items[5];
    if (part->kind != PICKLE_TUPLE || part->count != 3 || part->items[1]->kind != PICKLE_INT ||
        part->items[2]->kind != PICKLE_INT || part->items[1]->integer < 0 ||
        part->items[2]->integer < 0) {
        return false;
    }
    ref->first = (uint64_t)part->items[1]->integer;
    ref->count = (uint64_t)part->items[2]->integer;
    return ref->first + ref->count <= ref->stated;
}

static Err *refer_storage(const PthReader *r, const char *name, const PickleValue *persistent,
                          StorageRef *ref)
{
    const PickleValue *id = persistent->kind == PICKLE_PERSISTENT ? persistent->args : NULL;
    if (!pth_is_storage_id(id) || !read_storage_view(id, ref)) {
        return pth_bad(r, "tensor '%s' has no storage in the form that torch writes", name);
    }
    ref->class = id->items[1];
    char *key = xformat("%.*s", (int)id->items[2]->length, id->items[2]->text);
    const PthStorage *storage = pth_find_storage(r, key);
    free(key);
    if (storage == NULL) {
        return pth_bad(r, "the data of tensor '%s' is missing from the file; fetch it again", name);
    }
    ref->index = (size_t)(storage - r->storages);
    return NULL;
}

/* The stated element count must fit the data, too, even where the view would not reach so far. */
static Err *check_storage_count(const PthReader *r, const WeightEntry *entry, const StorageRef *ref,
                                size_t element)
{
    const size_t size = r->storages[ref->index].size;
    if (ref->stated > size / element) {
        return pth_bad(r,
                       "the storage of tensor '%s' has %zu bytes for %llu elements of %zu; the "
                       "file is damaged",
                       entry->name, size, (unsigned long long)ref->stated, element);
    }
    return NULL;
}

static Err *describe_type(const PthReader *r, const PickleValue *function, const PickleValue *args,
                          const PickleValue *class, WeightEntry *entry)
{
    const bool is_v3 = pickle_global_is(function, "torch._utils", "_rebuild_tensor_v3");
    const PickleValue *named = is_v3 && args->count > 6 ? args->items[6] : class;
    const StorageClass *known = find_class(class);
    if (is_v3) {
        if (dtype_type(named, &entry->type)) {
            return NULL;
        }
    } else if (known != NULL && known->supported) {
        entry->type = known->type;
        return NULL;
    }
    const bool global = named->kind == PICKLE_GLOBAL;
    return pth_bad(r,
                   "tensor '%s' has the element type '%.*s', which is not supported; convert it to "
                   "float32, float16 or bfloat16",
                   entry->name, global ? (int)named->name_length : 1, global ? named->name : "?");
}

static Err *describe_tensor(PthReader *r, const PickleValue *value, WeightEntry *entry,
                            PthView *view)
{
    const PickleValue *function = NULL;
    const PickleValue *args = tensor_call(value, &function);
    if (pickle_global_is(function, "torch._utils", "_rebuild_qtensor")) {
        return pth_bad(r, "tensor '%s' is quantised; save the network before quantisation",
                       entry->name);
    }
    int strides = 0;
    if (args->count < 4 || args->items[1]->kind != PICKLE_INT || args->items[1]->integer < 0 ||
        !read_dims(args->items[2], entry->shape, &entry->ndim) ||
        !read_dims(args->items[3], view->stride, &strides) || strides != entry->ndim) {
        return pth_bad(r, "tensor '%s' has no offset, size (rank <= %d) and stride", entry->name,
                       WEIGHT_RANK_MAX);
    }
    StorageRef ref = {0};
    TRY(refer_storage(r, entry->name, args->items[0], &ref));
    TRY(describe_type(r, function, args, ref.class, entry));
    const size_t element = weight_type_size(entry->type);
    /* Untyped storages count bytes. */
    const bool untyped = is_untyped(ref.class);
    TRY(check_storage_count(r, entry, &ref, untyped ? 1 : element));
    if (untyped) {
        ref.first /= element;
        ref.count /= element;
    }
    view->storage = ref.index;
    if (__builtin_add_overflow(args->items[1]->integer, (int64_t)ref.first, &view->offset)) {
        return pth_bad(r, "the offset of tensor '%s' overflows; the file is damaged", entry->name);
    }
    TRY(check_view(r, entry, view, &ref));
    r->storages[view->storage].wanted = true;
    return NULL;
}

/* ---- All tensors ---- */

/* UTF-8 as it is; text of Python 2 that is not is Latin-1. */
static char *text_of(const PickleValue *key)
{
    json_t *probe = json_stringn(key->text, key->length);
    if (probe != NULL) {
        json_decref(probe);
        return xformat("%.*s", (int)key->length, key->text);
    }
    char *name = xmalloc(2 * key->length + 1);
    char *at = name;
    for (size_t i = 0; i < key->length; i++) {
        const uint8_t byte = (uint8_t)key->text[i];
        if (byte >= 0x80) {
            *at++ = (char)(0xC0 | byte >> 6);
        }
        *at++ = (char)(byte >= 0x80 ? 0x80 | (byte & 0x3F) : byte);
    }
    *at = '\0';
    return name;
}

static Err *describe_pair(PthReader *r, const PickleValue *key, const PickleValue *value)
{
    WeightsFile *file = r->file;
    if (key->kind != PICKLE_TEXT || key->length == 0 || key->length > NAME_MAX_BYTES ||
        memchr(key->text, '\0', key->length) != NULL) {
        return pth_bad(r, "a tensor's name is not a text of 1 to %d bytes", NAME_MAX_BYTES);
    }
    file->entries =
        xgrow(file->entries, &r->entry_capacity, file->count + 1, sizeof *file->entries);
    r->views = xgrow(r->views, &r->view_capacity, file->count + 1, sizeof *r->views);
    WeightEntry *entry = &file->entries[file->count];
    PthView *view = &r->views[file->count];
    *entry = (WeightEntry){.name = text_of(key)};
    *view = (PthView){0};
    file->count++;
    return describe_tensor(r, value, entry, view);
}

static Err *describe_all(PthReader *r, const PickleValue *dict)
{
    const PickleValue *key = NULL;
    const PickleValue *value = NULL;
    for (size_t i = 0; i < pair_count(dict); i++) {
        if (get_pair(dict, i, &key, &value) && is_tensor(value)) {
            TRY(describe_pair(r, key, value));
        }
    }
    return NULL;
}

static int compare_names(const void *a, const void *b)
{
    const char *const *left = a;
    const char *const *right = b;
    return strcmp(*left, *right);
}

static Err *check_names(const PthReader *r)
{
    const WeightsFile *file = r->file;
    const char **names = xcalloc(file->count, sizeof *names);
    for (size_t i = 0; i < file->count; i++) {
        names[i] = file->entries[i].name;
    }
    qsort(names, file->count, sizeof *names, compare_names);
    Err *err = NULL;
    for (size_t i = 1; i < file->count && err == NULL; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            err = pth_bad(r, "tensor '%s' is there twice", names[i]);
        }
    }
    free(names);
    return err;
}

Err *pth_describe(PthReader *r, const PickleValue *root)
{
    const PickleValue *dict = NULL;
    TRY(find_state_dict(r, root, &dict));
    TRY(describe_all(r, dict));
    return check_names(r);
}

/* ---- Data ---- */

static bool is_dense(const WeightEntry *entry, const PthView *view)
{
    int64_t expected = 1;
    for (int i = entry->ndim - 1; i >= 0; i--) {
        if (entry->shape[i] > 1 && view->stride[i] != expected) {
            return false;
        }
        expected *= entry->shape[i];
    }
    return true;
}

/* Row-major copy: an odometer over the shape, most inner dimension last. */
static void copy_view(const WeightEntry *entry, const PthView *view, const uint8_t *storage,
                      uint8_t *out)
{
    const size_t element = weight_type_size(entry->type);
    int64_t index[WEIGHT_RANK_MAX] = {0};
    int64_t at = view->offset;
    for (size_t i = 0; i < entry->count; i++) {
        memcpy(out + i * element, storage + (size_t)at * element, element);
        for (int d = entry->ndim - 1; d >= 0; d--) {
            if (entry->shape[d] == 1) {
                continue; /* its stride is never used and may be any number */
            }
            at += view->stride[d];
            index[d]++;
            if (index[d] < entry->shape[d]) {
                break;
            }
            at -= view->stride[d] * entry->shape[d];
            index[d] = 0;
        }
    }
}

static void own_buffer(WeightsFile *file, void *buffer)
{
    file->buffers = xrealloc(file->buffers, (file->buffer_count + 1) * sizeof *file->buffers);
    file->buffers[file->buffer_count++] = buffer;
}

/* Dense views point into their storage; others are copied, and the sum of the copies is
 * bounded, since a small pickle could ask for any number of them. */
Err *pth_place(PthReader *r)
{
    WeightsFile *file = r->file;
    size_t budget = r->size * COPY_FACTOR + COPY_SLACK;
    for (size_t i = 0; i < file->count; i++) {
        WeightEntry *entry = &file->entries[i];
        const PthView *view = &r->views[i];
        const PthStorage *storage = &r->storages[view->storage];
        if (entry->count == 0 || is_dense(entry, view)) {
            const size_t skipped = (size_t)view->offset * weight_type_size(entry->type);
            entry->data = storage->data + (entry->count == 0 ? 0 : skipped);
            continue;
        }
        if (entry->bytes > budget) {
            return pth_bad(
                r, "its tensors are many views of the same data; save them with .contiguous()");
        }
        budget -= entry->bytes;
        uint8_t *copy = xaligned(entry->bytes);
        own_buffer(file, copy);
        copy_view(entry, view, storage->data, copy);
        entry->data = copy;
    }
    return NULL;
}
