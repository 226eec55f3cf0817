/* Weight files against the zoo. What is wanted and what is there are compared by name and shape; each likely cause is a
 * question of its own, and the first that is answered gives the sentence. */
#include "models/recognise.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char BATCHES[] = "num_batches_tracked";

bool model_is_counter(const char *name)
{
    const size_t len = strlen(name);
    const size_t tail = sizeof BATCHES - 1;
    return len >= tail && strcmp(name + len - tail, BATCHES) == 0;
}

bool model_same_shape(const Param *p, const WeightEntry *entry)
{
    bool same = p->ndim == entry->ndim;
    for (int i = 0; same && i < p->ndim; ++i) {
        same = p->shape[i] == entry->shape[i];
    }
    return same;
}

/* ---- The zoo ---- */

static Params register_alone(const ModelInfo *info, int classes)
{
    Params params = {0};
    ModelBuild build = {
        .params = &params, .prefix = "", .classes = classes, .images = -1, .stem_channels = 3};
    info->build(&build, info->layout);
    return params;
}

/* The classifier's bias comes last in every network: its length in the file is the number of
 * classes, 0 = unknown. */
static int classes_of(const ModelInfo *info, const WeightsFile *file)
{
    Params params = register_alone(info, info->classes);
    const WeightEntry *bias = weights_find(file, params.items[params.count - 1].name);
    params_free(&params);
    return bias && bias->ndim == 1 && bias->shape[0] > 1 && bias->shape[0] <= INT_MAX
               ? (int)bias->shape[0]
               : 0;
}

static int tensor_count(const WeightsFile *file)
{
    int count = 0;
    for (size_t i = 0; i < file->count; ++i) {
        count += !model_is_counter(file->entries[i].name);
    }
    return count;
}

static int same_count(const Params *params, const WeightsFile *file)
{
    int count = 0;
    for (int i = 0; i < params->count; ++i) {
        const WeightEntry *entry = weights_find(file, params->items[i].name);
        count += entry && model_same_shape(&params->items[i], entry);
    }
    return count;
}

const ModelInfo *model_recognise(const WeightsFile *file, int *classes)
{
    int count = 0;
    const ModelInfo *list = model_list(&count);
    const int tensors = tensor_count(file);
    for (int i = 0; i < count; ++i) {
        const int in_file = classes_of(&list[i], file);
        if (in_file == 0) {
            continue;
        }
        Params params = register_alone(&list[i], in_file);
        const bool same = params.count == tensors && same_count(&params, file) == tensors;
        params_free(&params);
        if (same) {
            *classes = in_file;
            return &list[i];
        }
    }
    return NULL;
}

/* ---- Causes; each gives NULL where it is not the one ---- */

/* What is compared: the parameters under a prefix, and the file. */
typedef struct {
    const Params *params;
    const char *prefix;
    const WeightsFile *file;
    float *const *arena; /* where it is NULL, parameters are not loaded */
} Misfit;

/* The i-th parameter when it is to be loaded, *name without the prefix; else NULL. */
static const Param *wanted(const Misfit *m, int i, const char **name)
{
    const Param *p = &m->params->items[i];
    const size_t skip = strlen(m->prefix);
    *name = p->name + (strncmp(p->name, m->prefix, skip) == 0 ? skip : 0);
    return (*name == p->name && skip > 0) || !m->arena[p->arena] ? NULL : p;
}

static bool is_wanted(const Misfit *m, const char *name)
{
    char *whole = xformat("%s%s", m->prefix, name);
    const bool found = params_find(m->params, whole) >= 0;
    free(whole);
    return found;
}

/* All tensors are there, and only the last two, the classifier's, have another first dimension. */
static char *other_classes(const Misfit *m)
{
    const Param *differing[2] = {NULL, NULL};
    const Param *last[2] = {NULL, NULL};
    const WeightEntry *bias = NULL;
    int faults = 0;
    for (int i = 0; i < m->params->count; ++i) {
        const char *name = NULL;
        const Param *p = wanted(m, i, &name);
        if (!p) {
            continue;
        }
        last[0] = last[1];
        last[1] = p;
        const WeightEntry *entry = weights_find(m->file, name);
        if (!entry || entry->ndim != p->ndim || p->ndim == 0) {
            return NULL;
        }
        if (!model_same_shape(p, entry)) {
            bias = entry;
            differing[faults++ % 2] = p;
        }
    }
    if (faults != 2 || differing[0] != last[0] || differing[1] != last[1] || bias->ndim != 1) {
        return NULL;
    }
    int classes = 0;
    const ModelInfo *model = model_recognise(m->file, &classes);
    return xformat("the file holds a %s of %lld classes, and %lld are wanted: choose data of as "
                   "many classes, or a file that was trained on these data",
                   model ? model->name : "network", (long long)bias->shape[0],
                   (long long)last[1]->shape[0]);
}

static char *other_network(const Misfit *m)
{
    int classes = 0;
    const ModelInfo *fits = model_recognise(m->file, &classes);
    return fits
               ? xformat("the file holds a %s of %d classes: choose that model and data of as many "
                         "classes",
                         fits->name, classes)
               : NULL;
}

/* Every name of the file begins with "part.", and without it some are wanted. */
static char *foreign_prefix(const Misfit *m)
{
    const char *first = m->file->count > 0 ? m->file->entries[0].name : "";
    const char *dot = strchr(first, '.');
    if (!dot) {
        return NULL;
    }
    const size_t length = (size_t)(dot + 1 - first);
    int fitting = 0;
    for (size_t i = 0; i < m->file->count; ++i) {
        const char *name = m->file->entries[i].name;
        if (strncmp(name, first, length) != 0) {
            return NULL;
        }
        fitting += is_wanted(m, name + length) && !is_wanted(m, name);
    }
    return fitting > 0 ? xformat("every name begins with '%.*s': take it away with 'cudistill "
                                 "convert FILE OUT.safetensors --rename %.*s='",
                                 (int)length, first, (int)length, first)
                       : NULL;
}

/* Length of the module's part of "fc.weight", the dot included; 0: there is none. */
static size_t module_length(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? (size_t)(dot + 1 - name) : 0;
}

/* What is missing is all of one module, what is unexpected too, and shape by shape they are the same. */
static char *renamed_module(const Misfit *m)
{
    const char *module = NULL;
    const char *other = NULL;
    int missing = 0;
    int unexpected = 0;
    for (size_t i = 0; i < m->file->count; ++i) {
        const char *name = m->file->entries[i].name;
        if (model_is_counter(name) || is_wanted(m, name)) {
            continue;
        }
        other = other ? other : name;
        ++unexpected;
        if (module_length(name) == 0 || module_length(name) != module_length(other) ||
            strncmp(name, other, module_length(other)) != 0) {
            return NULL;
        }
    }
    for (int i = 0; i < m->params->count && other; ++i) {
        const char *name = NULL;
        const Param *p = wanted(m, i, &name);
        if (!p || weights_find(m->file, name)) {
            continue;
        }
        module = module ? module : name;
        ++missing;
        char *renamed =
            xformat("%.*s%s", (int)module_length(other), other, name + module_length(name));
        const WeightEntry *entry = weights_find(m->file, renamed);
        free(renamed);
        if (!entry || !model_same_shape(p, entry) || module_length(name) != module_length(module) ||
            strncmp(name, module, module_length(module)) != 0) {
            return NULL;
        }
    }
    return missing > 0 && missing == unexpected
               ? xformat("'%.*s' has another name in the file: 'cudistill convert FILE "
                         "OUT.safetensors --rename %.*s=%.*s'",
                         (int)module_length(module), module, (int)module_length(other), other,
                         (int)module_length(module), module)
               : NULL;
}

static char *without_statistics(const Misfit *m)
{
    bool any = false;
    for (int i = 0; i < m->params->count; ++i) {
        const char *name = NULL;
        const Param *p = wanted(m, i, &name);
        if (!p || weights_find(m->file, name)) {
            continue;
        }
        if (p->role != ROLE_RUNNING_MEAN && p->role != ROLE_RUNNING_VAR) {
            return NULL;
        }
        any = true;
    }
    return any ? xstrdup("the file lacks the running statistics of batch norm: save "
                         "model.state_dict(), not model.parameters()")
               : NULL;
}

/* At least half of the larger of both must be the same to be worth a word. */
static char *nearest_network(const Misfit *m)
{
    int count = 0;
    const ModelInfo *list = model_list(&count);
    const ModelInfo *best = NULL;
    int best_same = 0;
    int best_of = 1;
    int best_classes = 0;
    for (int i = 0; i < count; ++i) {
        const int in_file = classes_of(&list[i], m->file);
        const int classes = in_file > 0 ? in_file : list[i].classes;
        Params params = register_alone(&list[i], classes);
        const int tensors = tensor_count(m->file);
        const int of = params.count > tensors ? params.count : tensors;
        const int same = same_count(&params, m->file);
        if ((long)same * best_of > (long)best_same * of) {
            best = &list[i];
            best_same = same;
            best_of = of;
            best_classes = classes;
        }
        params_free(&params);
    }
    return best && 2 * best_same >= best_of
               ? xformat("the file holds none of the networks exactly; nearest is %s of %d classes "
                         "(%d of %d tensors)",
                         best->name, best_classes, best_same, best_of)
               : NULL;
}

char *model_cure(const Params *params, const char *prefix, const WeightsFile *file,
                 float *const arena[ARENA_COUNT])
{
    static char *(*const causes[])(const Misfit *) = {other_classes,      other_network,
                                                      foreign_prefix,     renamed_module,
                                                      without_statistics, nearest_network};
    const Misfit misfit = {params, prefix, file, arena};
    for (size_t i = 0; i < sizeof causes / sizeof causes[0]; ++i) {
        char *text = causes[i](&misfit);
        if (text) {
            return text;
        }
    }
    return xstrdup("choose the model that the file was made with ('cudistill inspect' shows what "
                   "it holds)");
}
