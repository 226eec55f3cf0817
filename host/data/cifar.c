/* CIFAR-10 and CIFAR-100: finding the binary version (folder, parent folder or archive), reading
 * the records of one split and checking every byte that can be wrong. Archives are read through
 * libarchive straight into memory. */
#include "data/cifar.h"

#include "base/files.h"
#include "base/log.h"
#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_PARTS = 5, NAMES_MAX_BYTES = 65536, NAME_MAX_CHARS = 100, MD5_OTHERS = 2 };

/* The published form of each set. Source of the digests: the data set's page. */
typedef struct {
    const char *name;
    const char *folder, *archive; /* as published */
    const char *python_folder;
    const char *md5;                    /* of the archive */
    const char *md5_train;              /* of train[0] where that is all of it, or NULL */
    const char *md5_others[MD5_OTHERS]; /* python and Matlab versions */
    int classes, label_bytes;
    int label_limits[2]; /* exclusive, per label byte; the last label byte is the class */
    int train_parts;
    const char *train[MAX_PARTS];
    const char *test;
    const char *names; /* file of class names, or NULL */
} CifarFormat;

static const CifarFormat FORMATS[] = {
    [CIFAR_10] = {.name = "cifar10",
                  .folder = "cifar-10-batches-bin",
                  .archive = "cifar-10-binary.tar.gz",
                  .python_folder = "cifar-10-batches-py",
                  .md5 = "c32a1d4ab5d03f1284b67883e8d87530",
                  .md5_others = {"c58f30108f718f92721af3b95e74349a",
                                 "70270af85842c9e89bb428ec9976c926"},
                  .classes = 10,
                  .label_bytes = 1,
                  .label_limits = {10},
                  .train_parts = 5,
                  .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                            "data_batch_4.bin", "data_batch_5.bin"},
                  .test = "test_batch.bin"},
    [CIFAR_100] = {
        .name = "cifar100",
        .folder = "cifar-100-binary",
        .archive = "cifar-100-binary.tar.gz",
        .python_folder = "cifar-100-python",
        .md5 = "03b5dce01913d631647c71ecec9e9cb8",
        .md5_train = "6172c7755cfe09b2fe270c85cebc1b15",
        .md5_others = {"eb9058c3a382ffc7106e4002c42a8d85", "6a4bfa1dcd5c9453dda6bb54194911f4"},
        .classes = 100,
        .label_bytes = 2,
        .label_limits = {20, 100},
        .train_parts = 1,
        .train = {"train.bin"},
        .test = "test.bin",
        .names = "fine_label_names.txt"}};

static const char *const CIFAR10_CLASSES[10] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                                "dog",      "frog",       "horse", "ship", "truck"};

/* The files of one split and the records in each. */
typedef struct {
    const CifarFormat *format;
    CifarKind kind;
    int parts;
    const char *files[MAX_PARTS];
    uint32_t records; /* per file */
} Layout;

static Layout layout_of(CifarKind kind, Split split)
{
    Layout layout = {.format = &FORMATS[kind], .kind = kind};
    if (split == SPLIT_TRAIN) {
        layout.parts = layout.format->train_parts;
        memcpy(layout.files, layout.format->train, sizeof layout.files);
        layout.records = CIFAR_TRAIN_COUNT / (uint32_t)layout.parts;
    } else {
        layout.parts = 1;
        layout.files[0] = layout.format->test;
        layout.records = CIFAR_TEST_COUNT;
    }
    return layout;
}

static char *cure(const CifarFormat *format)
{
    return xformat("get https://www.cs.toronto.edu/~kriz/%s (MD5 %s) and give its path; it need "
                   "not be unpacked",
                   format->archive, format->md5);
}

CifarMd5 cifar_md5_kind(CifarKind kind, const char *md5)
{
    const CifarFormat *format = &FORMATS[kind];
    if (!strcasecmp(md5, format->md5)) {
        return CIFAR_MD5_OFFICIAL;
    }
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < MD5_OTHERS; i++) {
            if (!strcasecmp(md5, FORMATS[k].md5_others[i])) {
                return CIFAR_MD5_OTHER_FORMAT;
            }
        }
    }
    return strcasecmp(md5, FORMATS[!kind].md5) ? CIFAR_MD5_UNKNOWN : CIFAR_MD5_OTHER_SET;
}

bool cifar_md5_train(CifarKind kind, const char *md5)
{
    const char *known = FORMATS[kind].md5_train;
    return known && !strcasecmp(md5, known);
}

bool cifar_named(const char *name, CifarKind *kind)
{
    for (int k = 0; k < 2; k++) {
        if (!strcmp(name, FORMATS[k].name)) {
            *kind = (CifarKind)k;
            return true;
        }
    }
    return false;
}

char *cifar_cure(CifarKind kind)
{
    return cure(&FORMATS[kind]);
}

Err *cifar_order(CifarKind kind, const char *source, CifarOrder *out)
{
    const CifarFormat *format = &FORMATS[kind];
    char md5[33];
    *out = CIFAR_ORDER_UNKNOWN;
    if (!path_is_dir(source)) {
        TRY(file_md5_hex(source, md5));
        *out = cifar_md5_kind(kind, md5) == CIFAR_MD5_OFFICIAL ? CIFAR_ORDER_OFFICIAL
                                                               : CIFAR_ORDER_UNKNOWN;
        return NULL;
    }
    if (!format->md5_train) {
        return NULL;
    }
    char *path = path_join(source, format->train[0]);
    Err *err = file_md5_hex(path, md5);
    free(path);
    TRY(err);
    *out = cifar_md5_train(kind, md5) ? CIFAR_ORDER_OFFICIAL : CIFAR_ORDER_OTHER;
    return NULL;
}

size_t cifar_record_size(CifarKind kind)
{
    return (size_t)FORMATS[kind].label_bytes + 3 * (size_t)CIFAR_PIXELS;
}

/* ---- records ---- */

static Err *check_size(const Layout *layout, const char *where, uint64_t size)
{
    const uint64_t record = cifar_record_size(layout->kind);
    const uint64_t expected = record * layout->records;
    if (size == expected) {
        return NULL;
    }
    char *text = cure(layout->format);
    Err *err =
        err_new(EXIT_BAD_DATA,
                "%s: %llu bytes, expected %llu (%u records of %llu bytes); the file is %s: %s",
                where, (unsigned long long)size, (unsigned long long)expected, layout->records,
                (unsigned long long)record, size < expected ? "cut short" : "not this set's", text);
    free(text);
    return err;
}

static Err *parse_records(const Layout *layout, const char *where, const uint8_t *data,
                          uint64_t size, uint8_t *images, int32_t *labels)
{
    TRY(check_size(layout, where, size));
    CHECK(data, "%s: %llu bytes without an address", where, (unsigned long long)size);
    const CifarFormat *format = layout->format;
    const size_t record = cifar_record_size(layout->kind);
    for (uint32_t r = 0; r < layout->records; r++) {
        const uint8_t *at = data + r * record;
        for (int b = 0; b < format->label_bytes; b++) {
            if (at[b] >= format->label_limits[b]) {
                char *text = cure(format);
                Err *err = err_new(
                    EXIT_BAD_DATA,
                    "%s: record %u, byte offset %zu: %slabel %d, must be below %d; the file is "
                    "damaged or not the binary version: %s",
                    where, r, r * record + (size_t)b, b + 1 < format->label_bytes ? "coarse " : "",
                    at[b], format->label_limits[b], text);
                free(text);
                return err;
            }
        }
        labels[r] = at[format->label_bytes - 1];
        const uint8_t *plane = at + format->label_bytes;
        uint8_t *pixel = images + (size_t)r * 3 * CIFAR_PIXELS;
        for (int p = 0; p < CIFAR_PIXELS; p++) {
            pixel[3 * p] = plane[p];
            pixel[3 * p + 1] = plane[CIFAR_PIXELS + p];
            pixel[3 * p + 2] = plane[2 * CIFAR_PIXELS + p];
        }
    }
    return NULL;
}

Err *cifar_parse(CifarKind kind, const char *where, const uint8_t *data, size_t size,
                 uint32_t count, uint8_t *images, int32_t *labels)
{
    const Layout layout = {.format = &FORMATS[kind], .kind = kind, .records = count};
    return parse_records(&layout, where, data, size, images, labels);
}

/* Parses file number `part` of the split into its place. */
static Err *parse_part(const Layout *layout, int part, const char *where, const uint8_t *data,
                       uint64_t size, Dataset *dataset)
{
    const size_t first = (size_t)part * layout->records;
    return parse_records(layout, where, data, size, dataset->images + first * 3 * CIFAR_PIXELS,
                         dataset->labels + first);
}

/* ---- class names ---- */

static void clear_names(Dataset *dataset)
{
    for (int c = 0; c < dataset->classes; c++) {
        free(dataset->class_names[c]);
        dataset->class_names[c] = NULL;
    }
}

/* One name a line, exactly as many as classes; blank lines do not count. */
static Err *parse_names(Dataset *dataset, const char *where, const char *text)
{
    clear_names(dataset);
    int count = 0;
    for (const char *line = text; *line;) {
        const size_t length = strcspn(line, "\r\n");
        if (length > NAME_MAX_CHARS) {
            return err_new(EXIT_BAD_DATA,
                           "%s: class name %d is longer than %d characters; delete the file to go "
                           "without names",
                           where, count, NAME_MAX_CHARS);
        }
        if (length > 0) {
            if (count < dataset->classes) {
                dataset->class_names[count] = xformat("%.*s", (int)length, line);
            }
            count++;
        }
        line += length + (line[length] != '\0');
    }
    if (count != dataset->classes) {
        return err_new(EXIT_BAD_DATA,
                       "%s: %d class names, expected %d, one a line; delete the file to go without "
                       "names",
                       where, count, dataset->classes);
    }
    return NULL;
}

/* ---- folder ---- */

static Err *read_folder_part(const Layout *layout, const char *folder, int part, Dataset *dataset)
{
    char *path = path_join(folder, layout->files[part]);
    FileMap map = {0};
    Err *err = file_map(path, &map);
    if (!err) {
        err = parse_part(layout, part, path, map.data, map.size, dataset);
    }
    file_unmap(&map);
    free(path);
    return err;
}

static Err *read_folder(const Layout *layout, const char *folder, Dataset *dataset)
{
    for (int part = 0; part < layout->parts; part++) {
        TRY(read_folder_part(layout, folder, part, dataset));
    }
    if (!layout->format->names) {
        return NULL;
    }
    char *path = path_join(folder, layout->format->names);
    Err *err = NULL;
    if (path_exists(path)) {
        char *text = NULL;
        err = file_read_text(path, NAMES_MAX_BYTES, &text);
        if (!err) {
            err = parse_names(dataset, path, text);
        }
        free(text);
    }
    free(path);
    return err;
}

/* ---- archive ---- */

static Err *archive_failed(struct archive *archive, const char *path)
{
    const char *reason = archive_error_string(archive);
    return err_new(EXIT_BAD_DATA,
                   "%s: cannot be read as an archive (%s); it is damaged or cut short: download it "
                   "again",
                   path, reason ? reason : "unknown reason");
}

/* The whole of the current entry in fresh memory with a NUL behind it. The size comes from the
 * header and has been checked, so that a hostile archive cannot make us allocate more. */
static Err *read_entry(struct archive *archive, const char *path, const char *where, size_t size,
                       uint8_t **out)
{
    uint8_t *data = xmalloc(size + 1);
    size_t have = 0;
    while (have < size) {
        const la_ssize_t got = archive_read_data(archive, data + have, size - have);
        if (got < 0) {
            free(data);
            return archive_failed(archive, path);
        }
        if (got == 0) {
            free(data);
            return err_new(EXIT_BAD_DATA,
                           "%s: ends after %zu of %zu bytes; the archive is cut short: download it "
                           "again",
                           where, have, size);
        }
        have += (size_t)got;
    }
    data[size] = 0;
    *out = data;
    return NULL;
}

/* Which of the files we want an entry is: its part number, layout->parts for the class names, -1
 * for none. Only the last component counts, so any folder inside the archive will do. */
static int wanted_entry(const Layout *layout, struct archive_entry *entry)
{
    const char *name = archive_entry_pathname(entry);
    if (!name || archive_entry_filetype(entry) != AE_IFREG) {
        return -1;
    }
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    for (int part = 0; part < layout->parts; part++) {
        if (!strcmp(base, layout->files[part])) {
            return part;
        }
    }
    return layout->format->names && !strcmp(base, layout->format->names) ? layout->parts : -1;
}

static Err *take_entry(const Layout *layout, struct archive *archive, struct archive_entry *entry,
                       const char *path, int index, Dataset *dataset)
{
    char *where = xformat("%s, member %s", path, archive_entry_pathname(entry));
    const uint64_t size = (uint64_t)archive_entry_size(entry);
    uint8_t *data = NULL;
    Err *err = NULL;
    if (index < layout->parts) {
        err = check_size(layout, where, size);
    } else if (size > NAMES_MAX_BYTES) {
        err = err_new(EXIT_BAD_DATA, "%s: %llu bytes are too many for a list of class names", where,
                      (unsigned long long)size);
    }
    if (!err) {
        err = read_entry(archive, path, where, (size_t)size, &data);
    }
    if (!err) {
        err = index < layout->parts ? parse_part(layout, index, where, data, size, dataset)
                                    : parse_names(dataset, where, (const char *)data);
    }
    free(data);
    free(where);
    return err;
}

static Err *missing_member(const Layout *layout, const char *path, const bool *seen)
{
    for (int part = 0; part < layout->parts; part++) {
        if (!seen[part]) {
            char *text = cure(layout->format);
            Err *err =
                err_new(EXIT_BAD_DATA, "%s: no member %s; this is not the binary version of %s: %s",
                        path, layout->files[part], layout->format->name, text);
            free(text);
            return err;
        }
    }
    return NULL;
}

/* Walks through the archive until everything wanted has been read. */
static Err *scan_archive(const Layout *layout, struct archive *archive, const char *path,
                         Dataset *dataset)
{
    bool seen[MAX_PARTS + 1] = {false};
    int left = layout->parts + (layout->format->names != NULL);
    while (left > 0) {
        struct archive_entry *entry = NULL;
        const int status = archive_read_next_header(archive, &entry);
        if (status == ARCHIVE_EOF) {
            break;
        }
        if (status < ARCHIVE_WARN) {
            return archive_failed(archive, path);
        }
        const int index = wanted_entry(layout, entry);
        if (index < 0) {
            continue;
        }
        if (seen[index]) {
            return err_new(EXIT_BAD_DATA,
                           "%s: member %s occurs twice; which one is meant is unclear: repack it "
                           "with one",
                           path, archive_entry_pathname(entry));
        }
        TRY(take_entry(layout, archive, entry, path, index, dataset));
        seen[index] = true;
        left--;
    }
    return missing_member(layout, path, seen);
}

static Err *check_md5(const Layout *layout, const char *path)
{
    char md5[33];
    TRY(file_md5_hex(path, md5));
    const CifarFormat *format = layout->format;
    const CifarMd5 known = cifar_md5_kind(layout->kind, md5);
    if (known == CIFAR_MD5_OFFICIAL) {
        return NULL;
    }
    if (known == CIFAR_MD5_UNKNOWN) {
        log_warn("%s: MD5 %s is not that of the official %s (%s); using it, with sizes and labels "
                 "checked",
                 path, md5, format->archive, format->md5);
        return NULL;
    }
    char *text = cure(format);
    Err *err =
        err_new(EXIT_BAD_DATA, "%s: MD5 %s is %s: %s", path, md5,
                known == CIFAR_MD5_OTHER_SET ? "the other CIFAR set"
                                             : "the python or Matlab version, not the binary one",
                text);
    free(text);
    return err;
}

static Err *read_archive(const Layout *layout, const char *path, Dataset *dataset)
{
    TRY(check_md5(layout, path));
    struct archive *archive = archive_read_new();
    CHECK(archive, "archive_read_new has no memory");
    archive_read_support_filter_all(archive);
    archive_read_support_format_tar(archive);
    Err *err = NULL;
    if (archive_read_open_filename(archive, path, 1 << 20) != ARCHIVE_OK) {
        err = archive_failed(archive, path);
    } else {
        err = scan_archive(layout, archive, path, dataset);
    }
    archive_read_free(archive);
    return err;
}

/* ---- finding it ---- */

static bool folder_has(const char *folder, const char *name)
{
    char *path = path_join(folder, name);
    const bool has = path_exists(path);
    free(path);
    return has;
}

/* Where the split is for a path given by the user: a folder with its first file, or an archive. */
static Err *locate(const Layout *layout, const char *path, char **out)
{
    const CifarFormat *format = layout->format;
    *out = NULL;
    char *text = cure(format);
    Err *err = NULL;
    if (!path_exists(path)) {
        err = err_new(EXIT_NO_INPUT, "%s: no such file or folder; for %s %s", path, format->name,
                      text);
    } else if (!path_is_dir(path) || folder_has(path, layout->files[0])) {
        *out = xstrdup(path);
    } else if (folder_has(path, format->folder)) {
        *out = path_join(path, format->folder);
    } else if (folder_has(path, format->archive)) {
        *out = path_join(path, format->archive);
    } else if (folder_has(path, format->python_folder)) {
        err = err_new(EXIT_BAD_DATA,
                      "%s: holds the python version (%s) of %s, the binary version is needed: %s",
                      path, format->python_folder, format->name, text);
    } else {
        err = err_new(EXIT_NO_INPUT, "%s: neither %s nor %s nor %s is in this folder; for %s %s",
                      path, layout->files[0], format->folder, format->archive, format->name, text);
    }
    free(text);
    return err;
}

Err *cifar_open(CifarKind kind, const char *path, Split split, Dataset **out)
{
    *out = NULL;
    const Layout layout = layout_of(kind, split);
    char *source = NULL;
    TRY(locate(&layout, path, &source));
    Dataset *dataset =
        dataset_new(layout.format->name, source, split, layout.records * (uint32_t)layout.parts,
                    layout.format->classes, CIFAR_SIDE, CIFAR_SIDE);
    if (kind == CIFAR_10) {
        for (int c = 0; c < layout.format->classes; c++) {
            dataset->class_names[c] = xstrdup(CIFAR10_CLASSES[c]);
        }
    }
    Err *err = path_is_dir(source) ? read_folder(&layout, source, dataset)
                                   : read_archive(&layout, source, dataset);
    free(source);
    if (err) {
        dataset_close(dataset);
        return err;
    }
    dataset_seal(dataset);
    *out = dataset;
    return NULL;
}
