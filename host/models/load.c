/* Weight files against parameter lists. Loading compares everything first and copies afterwards, so
 * a file that does not fit changes nothing and the message can name all that is wrong at once. */
#include "models/load.h"

#include "models/recognise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LISTED = 8 /* of each kind of fault */ };
static const char BATCHES[] = "num_batches_tracked";
enum { COUNTER_NAME_MAX = PARAM_NAME_MAX + sizeof BATCHES };

/* ---- Layout: rows x columns becomes columns x rows, once per output channel ---- */

static void transpose(const float *in, size_t rows, size_t cols, float *out)
{
    for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) {
            out[c * rows + r] = in[r * cols + c];
        }
    }
}

static size_t window_of(const Param *p)
{
    return p->role == ROLE_CONV_WEIGHT ? (size_t)p->shape[2] * (size_t)p->shape[3] : 1;
}

/* O,I,Kh,Kw to O,Kh,Kw,I, or back. */
static void swap_layout(const Param *p, bool to_file, const float *in, float *out)
{
    const size_t window = window_of(p);
    const size_t channels = (size_t)p->shape[1];
    for (size_t o = 0; o < (size_t)p->shape[0]; ++o) {
        const size_t at = o * channels * window;
        transpose(in + at, to_file ? window : channels, to_file ? channels : window, out + at);
    }
}

/* ---- Loading ---- */

static bool under_prefix(const Param *p, const char *prefix)
{
    return strncmp(p->name, prefix, strlen(prefix)) == 0;
}

static bool is_float(WeightType type)
{
    return type == WEIGHT_F32 || type == WEIGHT_F16 || type == WEIGHT_BF16 || type == WEIGHT_F64;
}

/* A growing line of text: "tensors missing: a, b and 7 more". */
typedef struct {
    char *text; /* NULL while nothing is listed */
    int count;
} FaultList;

static void fault_add(FaultList *list, const char *fault)
{
    ++list->count;
    if (list->count > LISTED) {
        return;
    }
    char *longer = list->text ? xformat("%s, %s", list->text, fault) : xstrdup(fault);
    free(list->text);
    list->text = longer;
}

/* "\n  <title>: <list>", or "". Frees the list; the caller frees the line. */
static char *fault_line(FaultList *list, const char *title)
{
    char *line = NULL;
    if (list->count > LISTED) {
        line = xformat("\n  %d %s: %s and %d more", list->count, title, list->text,
                       list->count - LISTED);
    } else if (list->count > 0) {
        line = xformat("\n  %d %s: %s", list->count, title, list->text);
    } else {
        line = xstrdup("");
    }
    free(list->text);
    return line;
}

static char *shape_text(int ndim, const int64_t *shape)
{
    char *text = xstrdup("[");
    for (int i = 0; i < ndim; ++i) {
        char *longer = xformat("%s%s%lld", text, i > 0 ? "," : "", (long long)shape[i]);
        free(text);
        text = longer;
    }
    char *closed = xformat("%s]", text);
    free(text);
    return closed;
}

static void fault_shape(FaultList *list, const char *name, const Param *p, const WeightEntry *entry)
{
    int64_t wanted[4] = {0};
    for (int i = 0; i < p->ndim; ++i) {
        wanted[i] = p->shape[i];
    }
    char *got = shape_text(entry->ndim, entry->shape);
    char *want = shape_text(p->ndim, wanted);
    const char *type = weight_type_name(entry->type);
    char *fault = model_same_shape(p, entry)
                      ? xformat("%s is %s, not a floating-point type", name, type)
                      : xformat("%s is %s %s, not %s", name, type, got, want);
    fault_add(list, fault);
    free(fault);
    free(want);
    free(got);
}

/* NULL when the file holds exactly the parameters under `prefix`. */
static Err *compare(const Params *params, const char *prefix, const WeightsFile *file,
                    float *const arena[ARENA_COUNT])
{
    const size_t skip = strlen(prefix);
    FaultList missing = {0};
    FaultList unexpected = {0};
    FaultList differing = {0};
    int wanted = 0;
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (!under_prefix(p, prefix) || !arena[p->arena]) {
            continue;
        }
        ++wanted;
        const WeightEntry *entry = weights_find(file, p->name + skip);
        if (!entry) {
            fault_add(&missing, p->name + skip);
        } else if (!model_same_shape(p, entry) || !is_float(entry->type)) {
            fault_shape(&differing, p->name + skip, p, entry);
        }
    }
    CHECK(wanted > 0, "no parameter to load under the prefix '%s'", prefix);
    for (size_t i = 0; i < file->count; ++i) {
        char *name = xformat("%s%s", prefix, file->entries[i].name);
        if (!model_is_counter(name) && params_find(params, name) < 0) {
            fault_add(&unexpected, file->entries[i].name);
        }
        free(name);
    }
    if (missing.count + unexpected.count + differing.count == 0) {
        return NULL;
    }
    char *cure = model_cure(params, prefix, file, arena);
    char *lines[3] = {fault_line(&missing, "missing"), fault_line(&unexpected, "unexpected"),
                      fault_line(&differing, "of another shape or type")};
    Err *err = err_new(EXIT_BAD_DATA, "the tensors are not those of the network; %s%s%s%s", cure,
                       lines[0], lines[1], lines[2]);
    for (int i = 0; i < 3; ++i) {
        free(lines[i]);
    }
    free(cure);
    return err;
}

/* What is not finite among the values that would be loaded. */
typedef struct {
    const char *tensor; /* the first; NULL: there is none */
    size_t values, first, count;
    double value; /* of element `first` */
    int others;   /* tensors */
} Nonfinite;

static void note_nonfinite(const char *name, const float *values, size_t count, Nonfinite *found)
{
    size_t bad = 0;
    size_t first = 0;
    for (size_t k = count; k > 0; --k) {
        if (!isfinite(values[k - 1])) {
            ++bad;
            first = k - 1;
        }
    }
    if (bad > 0 && found->tensor) {
        ++found->others;
    } else if (bad > 0) {
        *found = (Nonfinite){.tensor = name,
                             .values = bad,
                             .first = first,
                             .count = count,
                             .value = (double)values[first]};
    }
}

/* NULL when every value that would be loaded is finite in fp32. `scratch` holds the largest
 * tensor. */
static Err *check_values(const Params *params, const char *prefix, const WeightsFile *file,
                         float *const arena[ARENA_COUNT], float *scratch)
{
    Nonfinite found = {0};
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (under_prefix(p, prefix) && arena[p->arena]) {
            const char *name = p->name + strlen(prefix);
            weights_to_float(weights_find(file, name), scratch);
            note_nonfinite(name, scratch, p->count, &found);
        }
    }
    if (!found.tensor) {
        return NULL;
    }
    char *others =
        found.others > 0 ? xformat("; so do %d other tensors", found.others) : xstrdup("");
    Err *err = err_new(EXIT_BAD_DATA,
                       "tensor '%s' holds %zu values that are not finite (of %zu; the first is "
                       "element %zu: %g)%s: the file is damaged or was written by a training that "
                       "diverged; choose another",
                       found.tensor, found.values, found.count, found.first, found.value, others);
    free(others);
    return err;
}

Err *model_load_weights(const Params *params, const char *prefix, const WeightsFile *file,
                        float *const arena[ARENA_COUNT])
{
    TRY(compare(params, prefix, file, arena));
    size_t most = 1;
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        most = under_prefix(p, prefix) && p->count > most ? p->count : most;
    }
    float *scratch = xmalloc(most * sizeof *scratch);
    Err *err = check_values(params, prefix, file, arena, scratch);
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (err || !under_prefix(p, prefix) || !arena[p->arena]) {
            continue;
        }
        const WeightEntry *entry = weights_find(file, p->name + strlen(prefix));
        float *out = arena[p->arena] + p->offset;
        if (window_of(p) == 1) {
            weights_to_float(entry, out);
        } else {
            weights_to_float(entry, scratch);
            swap_layout(p, false, scratch, out);
        }
    }
    free(scratch);
    return err;
}

/* ---- Saving ---- */

static SafeTensor tensor_of(const Param *p, const char *name, const float *data)
{
    SafeTensor tensor = {.name = name, .type = WEIGHT_F32, .ndim = p->ndim, .data = data};
    for (int i = 0; i < p->ndim; ++i) {
        tensor.shape[i] = p->shape[i];
    }
    return tensor;
}

ModelEntries model_save_entries(const Params *params, const char *prefix,
                                float *const arena[ARENA_COUNT], int64_t batches)
{
    const size_t skip = strlen(prefix);
    size_t tensors = 0;
    size_t copied = 0;
    size_t norms = 0;
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (under_prefix(p, prefix) && arena[p->arena]) {
            ++tensors;
            norms += p->role == ROLE_RUNNING_VAR;
            copied += window_of(p) > 1 ? p->count : 0;
        }
    }
    ModelEntries entries = {.tensors = xcalloc(tensors + norms + 1, sizeof *entries.tensors),
                            .copies = xmalloc((copied + 1) * sizeof *entries.copies),
                            .names = xcalloc(norms + 1, COUNTER_NAME_MAX),
                            .batches = xmalloc(sizeof *entries.batches)};
    *entries.batches = batches;
    float *copy = entries.copies;
    char *name = entries.names;
    for (int i = 0; i < params->count; ++i) {
        const Param *p = &params->items[i];
        if (!under_prefix(p, prefix) || !arena[p->arena]) {
            continue;
        }
        const float *data = arena[p->arena] + p->offset;
        if (window_of(p) > 1) {
            swap_layout(p, true, data, copy);
            data = copy;
            copy += p->count;
        }
        entries.tensors[entries.count++] = tensor_of(p, p->name + skip, data);
        if (p->role == ROLE_RUNNING_VAR) {
            const char *dot = strrchr(p->name, '.');
            (void)snprintf(name, COUNTER_NAME_MAX, "%.*s%s",
                           (int)(dot + 1 - p->name - (ptrdiff_t)skip), p->name + skip, BATCHES);
            entries.tensors[entries.count++] =
                (SafeTensor){.name = name, .type = WEIGHT_I64, .data = entries.batches};
            name += COUNTER_NAME_MAX;
        }
    }
    return entries;
}

void model_entries_free(ModelEntries *entries)
{
    free(entries->tensors);
    free(entries->copies);
    free(entries->names);
    free(entries->batches);
    memset(entries, 0, sizeof *entries);
}
