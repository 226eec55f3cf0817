/* From format to format. The set borrows its data from maps of the source files; a tensor that changes its type gets a
 * block of its own. */
#include "io/convert.h"

#include "base/half.h"
#include "base/near.h"
#include "io/npy.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_NAME_MAX = 255 };
static const char NPY[] = ".npy";

/* ---- Names of files ---- */

static bool stands_for_itself(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || (c == '.' && !first);
}

char *tensors_npy_name(const char *tensor)
{
    char *name = xmalloc(3 * strlen(tensor) + sizeof NPY);
    char *at = name;
    for (size_t i = 0; tensor[i] != '\0'; i++) {
        if (stands_for_itself(tensor[i], i == 0)) {
            *at++ = tensor[i];
        } else {
            at += sprintf(at, "%%%02X", (unsigned)(unsigned char)tensor[i]);
        }
    }
    memcpy(at, NPY, sizeof NPY);
    return name;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The last part of a path without ".npy", each %XX the byte it stands for; other '%' stay. */
static char *name_of_file(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = xstrdup(slash != NULL ? slash + 1 : path);
    const size_t length = strlen(name);
    if (length > strlen(NPY) && strcmp(name + length - strlen(NPY), NPY) == 0) {
        name[length - strlen(NPY)] = '\0';
    }
    char *to = name;
    for (const char *from = name; *from != '\0'; from++) {
        const int high = from[0] == '%' ? hex_digit(from[1]) : -1;
        const int low = high >= 0 ? hex_digit(from[2]) : -1;
        if (low >= 0 && high + low > 0) {
            *to++ = (char)(16 * high + low);
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return name;
}

/* ---- Reading ---- */

/* Takes over `name`. */
static void add_entry(TensorSet *set, const WeightEntry *entry, char *name)
{
    set->tensors = xgrow(set->tensors, &set->capacity, set->count + 1, sizeof *set->tensors);
    SafeTensor *tensor = &set->tensors[set->count++];
    *tensor =
        (SafeTensor){.name = name, .type = entry->type, .ndim = entry->ndim, .data = entry->data};
    memcpy(tensor->shape, entry->shape, sizeof tensor->shape);
}

static void own_file(TensorSet *set, WeightsFile *file)
{
    set->files = xgrow(set->files, &set->file_capacity, set->file_count + 1, sizeof *set->files);
    set->files[set->file_count++] = file;
}

/* Weights or one array, as the first bytes say. */
static Err *open_any(const char *name, const uint8_t *data, size_t size, WeightsFile **out)
{
    return weights_kind(data, size) == WEIGHTS_NPY ? npy_open_memory(name, data, size, out)
                                                   : weights_open_memory(name, data, size, out);
}

static Err *read_file(const char *path, const char *name, TensorSet *set)
{
    WeightsFile *file = NULL;
    TRY(weights_open_map(path, open_any, &file));
    own_file(set, file);
    if (weights_kind(file->map.data, file->map.size) == WEIGHTS_NPY) {
        add_entry(set, &file->entries[0], name != NULL ? xstrdup(name) : name_of_file(path));
        return NULL;
    }
    if (name != NULL) {
        return err_new(EXIT_USAGE_ERR,
                       "'%s' holds %zu tensors with names of their own; a name is for an array",
                       path, file->count);
    }
    for (size_t i = 0; i < file->count; i++) {
        add_entry(set, &file->entries[i], xstrdup(file->entries[i].name));
    }
    return NULL;
}

static bool is_npy_name(const char *name)
{
    const size_t length = strlen(name);
    return length > strlen(NPY) && strcmp(name + length - strlen(NPY), NPY) == 0;
}

static Err *read_array(const char *path, TensorSet *set)
{
    WeightsFile *file = NULL;
    TRY(npy_open(path, &file));
    own_file(set, file);
    add_entry(set, &file->entries[0], name_of_file(path));
    return NULL;
}

static Err *read_folder(const char *path, const char *name, TensorSet *set)
{
    if (name != NULL) {
        return err_new(EXIT_USAGE_ERR,
                       "'%s' is a folder, whose files name the tensors; a name is "
                       "for one array",
                       path);
    }
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(path, &names, &count));
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        if (is_npy_name(names[i])) {
            char *file = path_join(path, names[i]);
            err = read_array(file, set);
            free(file);
        }
    }
    names_free(names, count);
    if (err == NULL && set->count == 0) {
        err = err_new(EXIT_BAD_DATA,
                      "the folder '%s' has no .npy files; name a weight file or "
                      "another folder",
                      path);
    }
    return err;
}

Err *tensors_read(const char *path, const char *name, TensorSet *out)
{
    *out = (TensorSet){0};
    Err *err = path_is_dir(path) ? read_folder(path, name, out) : read_file(path, name, out);
    if (err != NULL) {
        tensors_free(out);
    }
    return err;
}

void tensors_free(TensorSet *set)
{
    for (size_t i = 0; i < set->count; i++) {
        free((char *)set->tensors[i].name);
    }
    free(set->tensors);
    for (size_t i = 0; i < set->buffer_count; i++) {
        free(set->buffers[i]);
    }
    free(set->buffers);
    for (size_t i = 0; i < set->file_count; i++) {
        weights_close(set->files[i]);
    }
    free(set->files);
    *set = (TensorSet){0};
}

/* ---- Names ---- */

static bool is_among(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

static Err *find_all(const TensorSet *set, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        NearMiss near = near_start(names[i]);
        bool found = false;
        for (size_t k = 0; k < set->count && !found; k++) {
            found = strcmp(set->tensors[k].name, names[i]) == 0;
            near_offer(&near, set->tensors[k].name);
        }
        if (!found) {
            char *hint = near_hint(&near);
            Err *err = err_new(EXIT_USAGE_ERR,
                               "there is no tensor '%s'%s ('cudistill inspect' lists all %zu)",
                               names[i], hint, set->count);
            free(hint);
            return err;
        }
    }
    return NULL;
}

Err *tensors_keep(TensorSet *set, const char *const *names, size_t count)
{
    TRY(find_all(set, names, count));
    size_t kept = 0;
    for (size_t i = 0; i < set->count; i++) {
        if (is_among(set->tensors[i].name, names, count)) {
            set->tensors[kept++] = set->tensors[i];
        } else {
            free((char *)set->tensors[i].name);
        }
    }
    set->count = kept;
    return NULL;
}

static int compare_texts(const void *a, const void *b)
{
    const char *const *left = a;
    const char *const *right = b;
    return strcmp(*left, *right);
}

static Err *check_names(char *const *names, size_t count)
{
    char **sorted = xcalloc(count, sizeof *sorted);
    for (size_t i = 0; i < count; i++) {
        sorted[i] = names[i];
    }
    if (count > 0) {
        qsort(sorted, count, sizeof *sorted, compare_texts);
    }
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        if (sorted[i][0] == '\0') {
            err = err_new(EXIT_USAGE_ERR, "a tensor would have an empty name: rename less of it");
        } else if (i > 0 && strcmp(sorted[i - 1], sorted[i]) == 0) {
            err = err_new(EXIT_USAGE_ERR, "two tensors would be called '%s': rename otherwise",
                          sorted[i]);
        }
    }
    free(sorted);
    return err;
}

Err *tensors_rename(TensorSet *set, const char *old, const char *new)
{
    const size_t skipped = strlen(old);
    char **names = xcalloc(set->count, sizeof *names);
    size_t changed = 0;
    for (size_t i = 0; i < set->count; i++) {
        const char *name = set->tensors[i].name;
        const bool hit = strncmp(name, old, skipped) == 0;
        names[i] = hit ? xformat("%s%s", new, name + skipped) : xstrdup(name);
        changed += hit;
    }
    Err *err = changed == 0 ? err_new(EXIT_USAGE_ERR,
                                      "no tensor's name begins with '%s' ('cudistill inspect' "
                                      "lists them)",
                                      old)
                            : check_names(names, set->count);
    for (size_t i = 0; i < set->count; i++) {
        if (err != NULL) {
            free(names[i]);
            continue;
        }
        free((char *)set->tensors[i].name);
        set->tensors[i].name = names[i];
    }
    free(names);
    return err;
}

/* ---- Types ---- */

static bool is_float(WeightType type)
{
    return type == WEIGHT_F16 || type == WEIGHT_BF16 || type == WEIGHT_F32 || type == WEIGHT_F64;
}

static size_t count_of(const SafeTensor *tensor)
{
    size_t count = 1;
    for (int i = 0; i < tensor->ndim; i++) {
        count *= (size_t)tensor->shape[i];
    }
    return count;
}

/* fp32 by rounding to odd: towards zero, the last bit set when anything was lost. A further rounding of it to at most 22
 * bits then gives what one rounding of the double would have. */
static float odd_float(double x)
{
    float y = (float)x;
    if (isnan(x) || (double)y == x) {
        return y;
    }
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    if (fabs((double)y) > fabs(x)) {
        bits--;
    }
    bits |= 1u;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static double value_at(WeightType type, const uint8_t *data, size_t i)
{
    uint16_t half;
    float single;
    double value;
    switch (type) {
    case WEIGHT_F16:
        memcpy(&half, data + 2 * i, sizeof half);
        return (double)fp16_to_float(half);
    case WEIGHT_BF16:
        memcpy(&half, data + 2 * i, sizeof half);
        return (double)bf16_to_float(half);
    case WEIGHT_F32:
        memcpy(&single, data + 4 * i, sizeof single);
        return (double)single;
    default:
        memcpy(&value, data + 8 * i, sizeof value);
        return value;
    }
}

/* false: a finite value became an infinity. */
static bool store(WeightType type, uint8_t *data, size_t i, double value)
{
    const float single = type == WEIGHT_F32 ? (float)value : odd_float(value);
    bool finite = isfinite(single);
    if (type == WEIGHT_F32) {
        memcpy(data + 4 * i, &single, sizeof single);
    } else {
        const uint16_t half =
            type == WEIGHT_F16 ? fp16_from_float(single) : bf16_from_float(single);
        finite = isfinite(type == WEIGHT_F16 ? fp16_to_float(half) : bf16_to_float(half));
        memcpy(data + 2 * i, &half, sizeof half);
    }
    return finite || !isfinite(value);
}

static Err *cast_one(const SafeTensor *tensor, WeightType type, uint8_t *out)
{
    const size_t count = count_of(tensor);
    for (size_t i = 0; i < count; i++) {
        const double value = value_at(tensor->type, tensor->data, i);
        if (!store(type, out, i, value)) {
            return err_new(EXIT_BAD_DATA,
                           "element %zu of tensor '%s' is %g, beyond the range of %s; choose a "
                           "wider type",
                           i, tensor->name, value, weight_type_name(type));
        }
    }
    return NULL;
}

/* Of every float type but `type`, or only of `from`. */
static Err *cast_where(TensorSet *set, const WeightType *from, WeightType type, size_t *changed)
{
    uint8_t **data = xcalloc(set->count, sizeof *data);
    Err *err = NULL;
    *changed = 0;
    for (size_t i = 0; i < set->count && err == NULL; i++) {
        const SafeTensor *tensor = &set->tensors[i];
        const bool chosen =
            from != NULL ? tensor->type == *from : is_float(tensor->type) && tensor->type != type;
        if (chosen) {
            data[i] = xaligned(count_of(tensor) * weight_type_size(type));
            err = cast_one(tensor, type, data[i]);
        }
    }
    for (size_t i = 0; i < set->count; i++) {
        if (data[i] == NULL || err != NULL) {
            free(data[i]);
            continue;
        }
        set->buffers =
            xgrow(set->buffers, &set->buffer_capacity, set->buffer_count + 1, sizeof(void *));
        set->buffers[set->buffer_count++] = data[i];
        set->tensors[i].data = data[i];
        set->tensors[i].type = type;
        ++*changed;
    }
    free(data);
    return err;
}

Err *tensors_cast(TensorSet *set, WeightType type)
{
    CHECK(type == WEIGHT_F16 || type == WEIGHT_BF16 || type == WEIGHT_F32, "type %s",
          weight_type_name(type));
    size_t changed = 0;
    return cast_where(set, NULL, type, &changed);
}

size_t tensors_widen_bf16(TensorSet *set)
{
    const WeightType from = WEIGHT_BF16;
    size_t changed = 0;
    Err *err = cast_where(set, &from, WEIGHT_F32, &changed);
    CHECK(err == NULL, "every bf16 is an fp32: %s", err->message);
    return changed;
}

/* ---- Writing ---- */

static Err *check_set(const TensorSet *set)
{
    char **names = xcalloc(set->count, sizeof *names);
    for (size_t i = 0; i < set->count; i++) {
        names[i] = (char *)set->tensors[i].name;
    }
    Err *err = check_names(names, set->count);
    free(names);
    return err;
}

Err *tensors_write_safetensors(const TensorSet *set, const char *path, const char *const *metadata)
{
    TRY(check_set(set));
    for (size_t i = 0; i < set->count; i++) {
        if (strcmp(set->tensors[i].name, "__metadata__") == 0) {
            return err_new(EXIT_BAD_DATA, "the name '__metadata__' is reserved in safetensors; "
                                          "rename that tensor");
        }
    }
    return safetensors_write(path, set->tensors, set->count, metadata);
}

/* Only .npy files: nothing is lost by removing the folder but what is written anew. */
static Err *check_replaceable(const char *path)
{
    if (!path_is_dir(path)) {
        return err_new(EXIT_CANT_CREATE, "'%s' is a file, not a folder; choose another name", path);
    }
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(path, &names, &count));
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        if (!is_npy_name(names[i])) {
            err = err_new(EXIT_CANT_CREATE,
                          "the folder '%s' also holds '%s', which is no .npy file, and is not "
                          "replaced; choose another folder",
                          path, names[i]);
        }
    }
    names_free(names, count);
    return err;
}

static Err *write_arrays(const TensorSet *set, const char *dir)
{
    for (size_t i = 0; i < set->count; i++) {
        const SafeTensor *tensor = &set->tensors[i];
        char *name = tensors_npy_name(tensor->name);
        char *path = path_join(dir, name);
        Err *err = strlen(name) > FILE_NAME_MAX
                       ? err_new(EXIT_CANT_CREATE,
                                 "the name of tensor '%.60s...' is too long for a file; rename it",
                                 tensor->name)
                       : npy_write(path, tensor->type, tensor->ndim, tensor->shape, tensor->data);
        free(path);
        free(name);
        TRY(err);
    }
    return NULL;
}

static Err *sync_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash == NULL   ? xstrdup(".")
                   : slash == path ? xstrdup("/")
                                   : xformat("%.*s", (int)(slash - path), path);
    Err *err = dir_sync(parent);
    free(parent);
    return err;
}

static Err *rename_err(const char *from, const char *to)
{
    char text[128];
    const int reason = errno;
    return err_new(EXIT_CANT_CREATE, "cannot rename '%s' to '%s': %s; choose another folder", from,
                   to, strerror_r(reason, text, sizeof text));
}

/* `made` becomes `path`; an older one is moved aside first and comes back when that fails. */
static Err *publish_folder(const char *made, const char *path, bool replace)
{
    if (!replace) {
        return rename(made, path) == 0 ? NULL : rename_err(made, path);
    }
    char *aside = xformat("%s.old-%ld", path, (long)getpid());
    Err *err = NULL;
    if (rename(path, aside) != 0) {
        err = rename_err(path, aside);
    } else if (rename(made, path) != 0) {
        err = rename_err(made, path);
        (void)rename(aside, path);
    } else {
        err = dir_remove(aside);
    }
    free(aside);
    return err;
}

Err *tensors_write_folder(const TensorSet *set, const char *path, bool replace)
{
    TRY(check_set(set));
    char *plain = xstrdup(path);
    for (size_t length = strlen(plain); length > 1 && plain[length - 1] == '/'; length--) {
        plain[length - 1] = '\0';
    }
    const bool exists = path_exists(plain);
    Err *err = NULL;
    if (exists) {
        err = replace ? check_replaceable(plain)
                      : err_new(EXIT_CANT_CREATE, "'%s' exists; choose another folder", plain);
    }
    char *made = xformat("%s.tmp-%ld", plain, (long)getpid());
    if (err == NULL) {
        err = dir_make(made);
    }
    if (err == NULL) {
        err = write_arrays(set, made);
        err = err != NULL ? err : publish_folder(made, plain, exists);
        if (err != NULL) {
            err_free(dir_remove(made));
        } else {
            err = sync_parent(plain);
        }
    }
    free(made);
    free(plain);
    return err;
}
