/* torch.save's zip archives. Two passes: the first reads the pickle and notes the size of every entry, the tensors of
 * the state dict are then described from the pickle, and the second pass reads only the storages that they use (an
 * optimizer's state is never read). libarchive does the zip: seekable, so that sizes come from the central
 * directory, and with the entry's CRC checked at its end. */
#include "io/pth.h"

#include "base/log.h"
#include "io/pickle.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 1000, WRAPPER_DEPTH = 4, COPY_FACTOR = 4, COPY_SLACK = 1 << 20 };

/* One storage: an entry <root>/data/<key> of the archive. */
typedef struct {
    char *key;
    size_t size;   /* of the zip entry */
    uint8_t *data; /* NULL until read */
    bool wanted;
} Storage;

/* A tensor as the pickle describes it; offset and strides in elements. */
typedef struct {
    size_t storage; /* index */
    int64_t offset;
    int64_t stride[WEIGHT_RANK_MAX];
} View;

typedef struct {
    const char *path;
    size_t file_size;
    char *root; /* folder inside the archive, with its slash; NULL until data.pkl is seen */
    uint8_t *pickle_bytes;
    size_t pickle_size;
    bool is_script;
    bool big_endian;
    Storage *storages; /* sorted by key after the first pass */
    size_t storage_count;
    size_t storage_capacity;
    View *views; /* one for each entry of the result */
    size_t entry_capacity;
    size_t view_capacity;
    WeightsFile *file;
} Reader;

__attribute__((format(printf, 2, 3))) static Err *bad_file(const Reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char text[1536];
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_new(EXIT_BAD_DATA, "'%s': %s", r->path, text);
}

/* ---- The archive ---- */

static Err *open_archive(const Reader *r, struct archive **out)
{
    struct archive *archive = archive_read_new();
    CHECK(archive != NULL, "no memory for libarchive");
    (void)archive_read_support_format_zip_seekable(archive);
    if (archive_read_open_filename(archive, r->path, 1 << 18) != ARCHIVE_OK) {
        Err *err = bad_file(r, "not a readable zip archive (%s); fetch it again",
                            archive_error_string(archive));
        (void)archive_read_free(archive);
        return err;
    }
    *out = archive;
    return NULL;
}

/* Reads the current entry whole. Stored sizes come from the archive, so they are checked against the file's size
 * before memory is taken: torch stores without compression, and so does everything that is accepted here. */
static Err *read_entry(const Reader *r, struct archive *archive, const char *name, size_t size,
                       uint8_t **out)
{
    *out = NULL;
    if (size > r->file_size) {
        return bad_file(r, "entry '%s' claims %zu bytes, more than the file has (%zu)", name, size,
                        r->file_size);
    }
    uint8_t *data = xaligned(size);
    size_t used = 0;
    la_ssize_t got = 1;
    while (got > 0 && used < size) {
        got = archive_read_data(archive, data + used, size - used);
        used += got > 0 ? (size_t)got : 0;
    }
    /* One more read: it must be the end, and it checks the CRC. */
    uint8_t rest = 0;
    if (got >= 0 && used == size) {
        got = archive_read_data(archive, &rest, 1);
    }
    if (got != 0 || used != size) {
        free(data);
        const char *reason = archive_error_string(archive);
        return bad_file(r, "entry '%s' is damaged (%s); fetch the file again", name,
                        reason != NULL ? reason : "its length differs from the directory's");
    }
    *out = data;
    return NULL;
}

static int compare_storages(const void *a, const void *b)
{
    const Storage *left = a;
    const Storage *right = b;
    return strcmp(left->key, right->key);
}

/* First pass, one entry. `name` is "<root>/<rest>". */
static Err *note_entry(Reader *r, struct archive *archive, const char *name, size_t size)
{
    const char *slash = strchr(name, '/');
    if (slash == NULL) {
        return NULL;
    }
    const char *rest = slash + 1;
    if (strcmp(rest, "data.pkl") == 0) {
        if (r->root != NULL) {
            return bad_file(r, "it holds data.pkl twice");
        }
        r->root = xformat("%.*s", (int)(rest - name), name);
        r->pickle_size = size;
        return read_entry(r, archive, name, size, &r->pickle_bytes);
    }
    if (strcmp(rest, "constants.pkl") == 0) {
        r->is_script = true;
    } else if (strcmp(rest, "byteorder") == 0) {
        uint8_t *text = NULL;
        TRY(read_entry(r, archive, name, size, &text));
        r->big_endian = size >= 3 && memcmp(text, "big", 3) == 0;
        free(text);
    } else if (strncmp(rest, "data/", 5) == 0 && rest[5] != '\0') {
        r->storages =
            xgrow(r->storages, &r->storage_capacity, r->storage_count + 1, sizeof *r->storages);
        r->storages[r->storage_count++] = (Storage){.key = xstrdup(rest + 5), .size = size};
    }
    return NULL;
}

static Storage *find_storage(const Reader *r, const char *key)
{
    const Storage wanted = {.key = (char *)key};
    return r->storage_count == 0 ? NULL
                                 : bsearch(&wanted, r->storages, r->storage_count,
                                           sizeof *r->storages, compare_storages);
}

/* Second pass, one entry. */
static Err *fill_storage(Reader *r, struct archive *archive, const char *name, size_t size)
{
    const size_t root_length = strlen(r->root);
    if (strncmp(name, r->root, root_length) != 0 || strncmp(name + root_length, "data/", 5) != 0) {
        return NULL;
    }
    Storage *storage = find_storage(r, name + root_length + 5);
    if (storage == NULL || !storage->wanted || storage->data != NULL) {
        return NULL;
    }
    if (size != storage->size) {
        return bad_file(r, "it changed while it was read");
    }
    return read_entry(r, archive, name, size, &storage->data);
}

/* Names in the archive are UTF-8 in newer files (the folder is named after the file), plain bytes in older ones. */
static const char *entry_name(struct archive_entry *entry)
{
    const char *name = archive_entry_pathname_utf8(entry);
    return name != NULL ? name : archive_entry_pathname(entry);
}

static Err *for_each_entry(Reader *r,
                           Err *(*visit)(Reader *, struct archive *, const char *, size_t))
{
    struct archive *archive = NULL;
    TRY(open_archive(r, &archive));
    Err *err = NULL;
    while (err == NULL) {
        struct archive_entry *entry = NULL;
        const int status = archive_read_next_header(archive, &entry);
        if (status == ARCHIVE_EOF) {
            break;
        }
        if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
            err = bad_file(r, "the zip directory is damaged (%s); fetch the file again",
                           archive_error_string(archive));
            break;
        }
        const char *name = entry_name(entry);
        const int64_t size = archive_entry_size(entry);
        if (name != NULL && archive_entry_filetype(entry) == AE_IFREG && size >= 0) {
            err = visit(r, archive, name, (size_t)size);
        }
    }
    (void)archive_read_free(archive);
    return err;
}

/* ---- From the pickle to tensors ---- */

static bool is_dict(const PickleValue *value)
{
    return value->kind == PICKLE_DICT ||
           (value->kind == PICKLE_CALL &&
            (pickle_global_is(value->callable, "collections", "OrderedDict") ||
             pickle_global_is(value->callable, "collections", "defaultdict")));
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
            !pickle_global_is(callable, "torch._utils", "_rebuild_parameter_with_state")) {
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
    for (size_t i = 1; i < dict->count; i += 2) {
        if (is_tensor(dict->items[i])) {
            return true;
        }
    }
    return false;
}

static const PickleValue *dict_get(const PickleValue *dict, const char *key)
{
    for (size_t i = 0; i + 1 < dict->count; i += 2) {
        if (pickle_text_is(dict->items[i], key)) {
            return dict->items[i + 1];
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
static Err *find_state_dict(const Reader *r, const PickleValue *root, const PickleValue **out)
{
    const PickleValue *dict = root;
    if (!is_dict(dict)) {
        return bad_file(r, "it holds %s, not weights; save model.state_dict() instead",
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
        return bad_file(
            r, "no tensors where a state dict is looked for (the object itself, 'model', "
               "'state_dict', 'state_dict_ema', 'net', 'student'); save model.state_dict()");
    }
    *out = dict;
    return NULL;
}

static bool storage_type(const PickleValue *class, WeightType *type)
{
    static const struct {
        const char *name;
        WeightType type;
    } classes[] = {
        {"FloatStorage", WEIGHT_F32},     {"HalfStorage", WEIGHT_F16},
        {"BFloat16Storage", WEIGHT_BF16}, {"DoubleStorage", WEIGHT_F64},
        {"LongStorage", WEIGHT_I64},      {"IntStorage", WEIGHT_I32},
        {"ShortStorage", WEIGHT_I16},     {"CharStorage", WEIGHT_I8},
        {"ByteStorage", WEIGHT_U8},       {"BoolStorage", WEIGHT_BOOL},
    };
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (pickle_global_is(class, "torch", classes[i].name)) {
            *type = classes[i].type;
            return true;
        }
    }
    return false;
}

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
static bool view_reach(const WeightEntry *entry, const View *view, uint64_t *reach)
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

static Err *check_view(const Reader *r, WeightEntry *entry, const View *view)
{
    entry->count = 1;
    for (int i = 0; i < entry->ndim; i++) {
        if (__builtin_mul_overflow(entry->count, (size_t)entry->shape[i], &entry->count)) {
            return bad_file(r, "the shape of tensor '%s' overflows", entry->name);
        }
    }
    const size_t element = weight_type_size(entry->type);
    const Storage *storage = &r->storages[view->storage];
    uint64_t reach = 0;
    if (!view_reach(entry, view, &reach) || reach > storage->size / element) {
        return bad_file(r, "tensor '%s' reaches beyond its data of %zu bytes; the file is damaged",
                        entry->name, storage->size);
    }
    if (entry->count > storage->size / element) {
        return bad_file(r, "tensor '%s' is an expanded view; save it with .contiguous()",
                        entry->name);
    }
    entry->bytes = entry->count * element;
    return NULL;
}

/* id: ("storage", class, key, device, element count). */
static Err *find_view_storage(Reader *r, const char *name, const PickleValue *persistent,
                              const PickleValue **class, size_t *index)
{
    const PickleValue *id = persistent->kind == PICKLE_PERSISTENT ? persistent->args : NULL;
    if (id == NULL || id->kind != PICKLE_TUPLE || id->count < 5 ||
        !pickle_text_is(id->items[0], "storage") || id->items[2]->kind != PICKLE_TEXT ||
        id->items[4]->kind != PICKLE_INT || id->items[4]->integer < 0) {
        return bad_file(r, "tensor '%s' has no storage in the form that torch writes", name);
    }
    *class = id->items[1];
    char *key = xformat("%.*s", (int)id->items[2]->length, id->items[2]->text);
    Storage *storage = find_storage(r, key);
    free(key);
    if (storage == NULL) {
        return bad_file(r, "the data of tensor '%s' is missing from the archive; fetch it again",
                        name);
    }
    *index = (size_t)(storage - r->storages);
    return NULL;
}

/* The stated element count must fit the zip entry, too, even where the view would not reach so far. */
static Err *check_storage_count(const Reader *r, const WeightEntry *entry,
                                const PickleValue *persistent, size_t index, size_t element)
{
    const uint64_t stated = (uint64_t)persistent->args->items[4]->integer;
    if (stated > r->storages[index].size / element) {
        return bad_file(r,
                        "the storage of tensor '%s' has %zu bytes for %llu elements of %zu; the "
                        "file is damaged",
                        entry->name, r->storages[index].size, (unsigned long long)stated, element);
    }
    return NULL;
}

static Err *describe_type(const Reader *r, const PickleValue *function, const PickleValue *args,
                          const PickleValue *class, WeightEntry *entry)
{
    const bool is_v3 = pickle_global_is(function, "torch._utils", "_rebuild_tensor_v3");
    const PickleValue *named = is_v3 && args->count > 6 ? args->items[6] : class;
    if (is_v3 ? dtype_type(named, &entry->type) : storage_type(named, &entry->type)) {
        return NULL;
    }
    const bool global = named->kind == PICKLE_GLOBAL;
    return bad_file(
        r,
        "tensor '%s' has the element type '%.*s', which is not supported; convert it to "
        "float32, float16 or bfloat16",
        entry->name, global ? (int)named->name_length : 1, global ? named->name : "?");
}

static Err *describe_tensor(Reader *r, const PickleValue *value, WeightEntry *entry, View *view)
{
    const PickleValue *function = NULL;
    const PickleValue *args = tensor_call(value, &function);
    if (pickle_global_is(function, "torch._utils", "_rebuild_qtensor")) {
        return bad_file(r, "tensor '%s' is quantised; save the network before quantisation",
                        entry->name);
    }
    int strides = 0;
    if (args->count < 4 || args->items[1]->kind != PICKLE_INT || args->items[1]->integer < 0 ||
        !read_dims(args->items[2], entry->shape, &entry->ndim) ||
        !read_dims(args->items[3], view->stride, &strides) || strides != entry->ndim) {
        return bad_file(r, "tensor '%s' has no offset, size (rank <= %d) and stride", entry->name,
                        WEIGHT_RANK_MAX);
    }
    view->offset = args->items[1]->integer;
    const PickleValue *class = NULL;
    TRY(find_view_storage(r, entry->name, args->items[0], &class, &view->storage));
    TRY(describe_type(r, function, args, class, entry));
    /* Untyped storages count bytes. */
    const bool untyped = pickle_global_is(class, "torch.storage", "UntypedStorage");
    const size_t unit = untyped ? 1 : weight_type_size(entry->type);
    TRY(check_storage_count(r, entry, args->items[0], view->storage, unit));
    TRY(check_view(r, entry, view));
    r->storages[view->storage].wanted = true;
    return NULL;
}

static Err *describe_all(Reader *r, const PickleValue *dict)
{
    WeightsFile *file = r->file;
    for (size_t i = 0; i + 1 < dict->count; i += 2) {
        const PickleValue *key = dict->items[i];
        if (!is_tensor(dict->items[i + 1])) {
            continue;
        }
        if (key->kind != PICKLE_TEXT || key->length == 0 || key->length > NAME_MAX_BYTES ||
            memchr(key->text, '\0', key->length) != NULL) {
            return bad_file(r, "a tensor's name is not a text of 1 to %d bytes", NAME_MAX_BYTES);
        }
        file->entries =
            xgrow(file->entries, &r->entry_capacity, file->count + 1, sizeof *file->entries);
        r->views = xgrow(r->views, &r->view_capacity, file->count + 1, sizeof *r->views);
        WeightEntry *entry = &file->entries[file->count];
        View *view = &r->views[file->count];
        *entry = (WeightEntry){.name = xformat("%.*s", (int)key->length, key->text)};
        *view = (View){0};
        file->count++;
        TRY(describe_tensor(r, dict->items[i + 1], entry, view));
    }
    return NULL;
}

static int compare_names(const void *a, const void *b)
{
    const char *const *left = a;
    const char *const *right = b;
    return strcmp(*left, *right);
}

static Err *check_names(const Reader *r)
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
            err = bad_file(r, "tensor '%s' is there twice", names[i]);
        }
    }
    free(names);
    return err;
}

/* ---- Data ---- */

static bool is_dense(const WeightEntry *entry, const View *view)
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
static void copy_view(const WeightEntry *entry, const View *view, const uint8_t *storage,
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

/* Gives each entry its data. Dense views point into their storage; others are copied, and the sum of the copies is
 * bounded, since a small pickle could ask for any number of them. */
static Err *place_data(Reader *r)
{
    WeightsFile *file = r->file;
    size_t budget = r->file_size * COPY_FACTOR + COPY_SLACK;
    for (size_t i = 0; i < file->count; i++) {
        WeightEntry *entry = &file->entries[i];
        const View *view = &r->views[i];
        const Storage *storage = &r->storages[view->storage];
        if (entry->count == 0 || is_dense(entry, view)) {
            const size_t skipped = (size_t)view->offset * weight_type_size(entry->type);
            entry->data = storage->data + (entry->count == 0 ? 0 : skipped);
            continue;
        }
        if (entry->bytes > budget) {
            return bad_file(
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

static Err *check_storages(const Reader *r)
{
    for (size_t i = 1; i < r->storage_count; i++) {
        if (strcmp(r->storages[i - 1].key, r->storages[i].key) == 0) {
            return bad_file(r, "it holds data/%s twice", r->storages[i].key);
        }
    }
    return NULL;
}

static Err *check_read(const Reader *r)
{
    for (size_t i = 0; i < r->storage_count; i++) {
        if (r->storages[i].wanted && r->storages[i].data == NULL) {
            return bad_file(r, "it changed while it was read");
        }
    }
    return NULL;
}

static Err *read_archive(Reader *r)
{
    TRY(for_each_entry(r, note_entry));
    if (r->is_script) {
        return bad_file(r, "a TorchScript archive, not weights; save model.state_dict()");
    }
    if (r->root == NULL) {
        return bad_file(r, "a zip archive without data.pkl: not made by torch.save");
    }
    if (r->big_endian) {
        return bad_file(r, "saved on a big-endian machine; save it again on a little-endian one");
    }
    if (r->storage_count > 0) {
        qsort(r->storages, r->storage_count, sizeof *r->storages, compare_storages);
    }
    TRY(check_storages(r));
    Pickle *pickle = NULL;
    TRY(err_context(pickle_read(r->pickle_bytes, r->pickle_size, &pickle), "'%s'", r->path));
    const PickleValue *dict = NULL;
    Err *err = find_state_dict(r, pickle_root(pickle), &dict);
    if (err == NULL) {
        err = describe_all(r, dict);
    }
    pickle_free(pickle);
    if (err != NULL) {
        return err;
    }
    TRY(check_names(r));
    TRY(for_each_entry(r, fill_storage));
    TRY(check_read(r));
    return place_data(r);
}

/* The form before torch 1.6 is a sequence of pickles, the first of which is this number. */
static Err *check_magic(Reader *r)
{
    static const uint8_t old_form[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                       0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    FileMap map;
    TRY(file_map(r->path, &map));
    const bool zip = map.size >= 4 && memcmp(map.data, "PK\3\4", 4) == 0;
    const bool old =
        map.size >= sizeof old_form && memcmp(map.data, old_form, sizeof old_form) == 0;
    r->file_size = map.size;
    file_unmap(&map);
    if (old) {
        return bad_file(r,
                        "saved in the form of torch before 1.6, which is not read; convert it once "
                        "with: python -c \"import torch; p = '%s'; torch.save(torch.load(p, "
                        "map_location='cpu'), p)\"",
                        r->path);
    }
    return zip ? NULL : bad_file(r, "neither a .pth archive of torch.save nor safetensors");
}

static void reader_free(Reader *r)
{
    for (size_t i = 0; i < r->storage_count; i++) {
        free(r->storages[i].key);
        if (r->storages[i].data != NULL) {
            own_buffer(r->file, r->storages[i].data);
        }
    }
    free(r->storages);
    free(r->views);
    free(r->pickle_bytes);
    free(r->root);
}

Err *pth_open(const char *path, WeightsFile **out)
{
    *out = NULL;
    Reader reader = {.path = path, .file = xcalloc(1, sizeof(WeightsFile))};
    Err *err = check_magic(&reader);
    if (err == NULL) {
        err = read_archive(&reader);
    }
    reader_free(&reader);
    if (err != NULL) {
        weights_close(reader.file);
        return err;
    }
    log_info("'%s': a pickle, read as data; nothing in it is run", path);
    *out = reader.file;
    return NULL;
}
