/* `cudistill convert`: reads tensors, changes what the options ask for, writes them in the form that the output's name asks
 * for. */
#include "cli/commands.h"

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "io/convert.h"
#include "io/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TO_SAFETENSORS, TO_ARRAY, TO_FOLDER } Target;

/* ---- The output's name ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t length = strlen(text);
    const size_t tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static Err *target_of(const char *out, Target *target)
{
    if (ends_with(out, ".safetensors")) {
        *target = TO_SAFETENSORS;
        return NULL;
    }
    if (ends_with(out, ".npy")) {
        *target = TO_ARRAY;
        return NULL;
    }
    static const char *const pickles[] = {".pth", ".pt", ".pkl", ".ckpt", ".bin"};
    for (size_t i = 0; i < sizeof pickles / sizeof pickles[0]; i++) {
        if (ends_with(out, pickles[i])) {
            return err_new(EXIT_USAGE_ERR,
                           "'%s': pickles are read, never written; write OUT.safetensors, and in "
                           "Python: torch.save(safetensors.torch.load_file('OUT.safetensors'), "
                           "'%s')",
                           out, base_name(out));
        }
    }
    /* A dot in the name of what is not there yet is more likely a slip than a folder. */
    if (strchr(base_name(out), '.') != NULL && !path_is_dir(out)) {
        return err_new(EXIT_USAGE_ERR,
                       "'%s' is no form that is written: end it with .safetensors, with .npy (one "
                       "tensor) or with / (a folder of .npy files)",
                       out);
    }
    *target = TO_FOLDER;
    return NULL;
}

static Err *check_free(const char *out, bool force)
{
    if (!path_exists(out) || force) {
        return NULL;
    }
    return err_new(EXIT_CANT_CREATE, "'%s' exists; choose another name, or --force to replace it",
                   out);
}

/* ---- Changes ---- */

static Err *rename_all(const Args *args, TensorSet *set)
{
    size_t count = 0;
    const char *const *renames = args_all(args, "rename", &count);
    for (size_t i = 0; i < count; i++) {
        const char *equals = strchr(renames[i], '=');
        if (equals == NULL || equals == renames[i]) {
            return err_new(EXIT_USAGE_ERR, "--rename '%s' does not read OLD=NEW (NEW may be empty)",
                           renames[i]);
        }
        char *old = xformat("%.*s", (int)(equals - renames[i]), renames[i]);
        Err *err = tensors_rename(set, old, equals + 1);
        free(old);
        TRY(err_context(err, "--rename %s", renames[i]));
    }
    return NULL;
}

static Err *change_types(const Args *args, Target target, TensorSet *set)
{
    static const WeightType types[] = {WEIGHT_F32, WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16};
    const int choice = args_choice(args, "dtype", 0);
    if (choice > 0) {
        TRY(tensors_cast(set, types[choice]));
    }
    if (target == TO_SAFETENSORS) {
        return NULL;
    }
    const size_t widened = tensors_widen_bf16(set);
    if (widened > 0) {
        log_info("NumPy has no bf16: %zu tensors are written as fp32, with the same values",
                 widened);
    }
    return NULL;
}

static Err *change(const Args *args, Target target, TensorSet *set)
{
    size_t count = 0;
    const char *const *names = args_all(args, "tensor", &count);
    if (count > 0) {
        TRY(tensors_keep(set, names, count));
    }
    TRY(rename_all(args, set));
    TRY(change_types(args, target, set));
    if (target == TO_ARRAY && set->count != 1) {
        return err_new(EXIT_USAGE_ERR,
                       "an .npy file holds one tensor, and there are %zu: choose one with --tensor "
                       "NAME, or end OUT with / for a folder",
                       set->count);
    }
    return NULL;
}

/* ---- Writing ---- */

/* The metadata of the file that was read, and its name. Caller frees the list. */
static const char **make_metadata(const TensorSet *set, const char *source)
{
    const WeightsFile *file = set->file_count == 1 ? set->files[0] : NULL;
    const size_t most = file != NULL ? file->metadata_count : 0;
    const char **metadata = xcalloc(2 * (most + 2) + 1, sizeof *metadata);
    size_t at = 0;
    for (size_t i = 0; i < most; i++) {
        const WeightMeta *meta = &file->metadata[i];
        if (strcmp(meta->key, "format") != 0 && strcmp(meta->key, "source") != 0) {
            metadata[at++] = meta->key;
            metadata[at++] = meta->value;
        }
    }
    metadata[at++] = "format";
    metadata[at++] = "pt";
    metadata[at++] = "source";
    metadata[at] = source;
    return metadata;
}

static size_t bytes_of(const TensorSet *set)
{
    size_t bytes = 0;
    for (size_t i = 0; i < set->count; i++) {
        size_t size = weight_type_size(set->tensors[i].type);
        for (int d = 0; d < set->tensors[i].ndim; d++) {
            size *= (size_t)set->tensors[i].shape[d];
        }
        bytes += size;
    }
    return bytes;
}

static Err *write_set(const Args *args, Target target, const TensorSet *set)
{
    const char *out = args_at(args, 1);
    if (target == TO_FOLDER) {
        return tensors_write_folder(set, out, args_flag(args, "force"));
    }
    if (target == TO_ARRAY) {
        const SafeTensor *tensor = &set->tensors[0];
        return npy_write(out, tensor->type, tensor->ndim, tensor->shape, tensor->data);
    }
    Text source = {0};
    text_utf8(&source, base_name(args_at(args, 0)));
    const char **metadata = make_metadata(set, source.text);
    Err *err = tensors_write_safetensors(set, out, metadata);
    free(metadata);
    text_free(&source);
    return err;
}

/* One line on stdout. The hash is of the file; a folder has none. */
static Err *print_result(Target target, const TensorSet *set, const char *out)
{
    char hash[33];
    if (target == TO_FOLDER) {
        printf("%s: %zu tensors, %zu bytes\n", out, set->count, bytes_of(set));
        return NULL;
    }
    TRY(file_hash_hex(out, hash));
    printf("%s: %zu tensors, %zu bytes, xxh3 %s\n", out, set->count, bytes_of(set), hash);
    return NULL;
}

static Err *run(const Args *args)
{
    const char *out = args_at(args, 1);
    Target target = TO_FOLDER;
    TRY(target_of(out, &target));
    if (target != TO_SAFETENSORS && args_choice(args, "dtype", 0) == 3) {
        return err_new(EXIT_USAGE_ERR, "NumPy has no bf16: choose --dtype fp32 or fp16");
    }
    TRY(check_free(out, args_flag(args, "force")));
    TensorSet set;
    TRY(tensors_read(args_at(args, 0), args_text(args, "name", NULL), &set));
    Err *err = change(args, target, &set);
    if (err == NULL) {
        err = write_set(args, target, &set);
    }
    if (err == NULL) {
        err = print_result(target, &set, out);
    }
    tensors_free(&set);
    return err;
}

static const ArgOption options[] = {
    {.name = "tensor",
     .kind = ARG_TEXT,
     .many = true,
     .metavar = "NAME",
     .help = "only this tensor"},
    {.name = "rename",
     .kind = ARG_TEXT,
     .many = true,
     .metavar = "OLD=NEW",
     .help = "names that begin with OLD begin with NEW instead"},
    {.name = "dtype",
     .kind = ARG_CHOICE,
     .choices = "keep|fp32|fp16|bf16",
     .help = "type of the floating-point tensors, rounded to nearest even (keep)"},
    {.name = "name",
     .kind = ARG_TEXT,
     .metavar = "NAME",
     .help = "the tensor's name when IN is one .npy file (the file's name)"},
    {.name = "force", .letter = 'f', .kind = ARG_FLAG, .help = "replace OUT when it exists"},
};
static const char *const examples[] = {
    "cudistill convert resnet32x4_vanilla/ckpt_epoch_240.pth resnet32x4.safetensors",
    "cudistill convert teacher.safetensors arrays/ --dtype fp32",
    "cudistill convert teacher.safetensors fc.npy --tensor fc.weight",
    "cudistill convert old.pth new.safetensors --rename linear.=fc. --dtype fp16", NULL};

const Command command_convert = {
    .name = "convert",
    .arguments = "IN OUT",
    .argument_kind = ARG_FILE,
    .min_arguments = 2,
    .max_arguments = 2,
    .summary = "between safetensors, .pth (read only) and .npy",
    .details =
        "IN is safetensors, a .pth of any age, an .npy file or a folder of them; its content "
        "decides, not its name. OUT is named .safetensors, .npy (one tensor) or anything with / "
        "behind it: a folder with an .npy file a tensor.\n\nThe weights are looked for under "
        "model, state_dict, state_dict_ema, net and student, and the prefixes module., model., "
        "_orig_mod. and student. go. --tensor speaks of these names and comes before --rename. "
        "A .pth is a pickle: it is read as data, nothing in it is run.\n\nFrom safetensors to "
        ".pth, in Python: torch.save(safetensors.torch.load_file('IN.safetensors'), 'OUT.pth')",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run};
