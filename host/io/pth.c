/* torch.save's files: the choice between the two forms, and the zip archive. Two passes: the first reads the pickle and
 * notes the size of every entry, the tensors of the state dict are then described from the pickle, and the second pass
 * reads only the storages that they use (an optimizer's state is never read). libarchive does the zip: seekable, so that
 * sizes come from the central directory, and with the entry's CRC checked at its end. */
#include "io/pth.h"

#include "base/log.h"
#include "io/pth_parts.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    PthReader r;
    char *root; /* folder inside the archive, with its slash; NULL until data.pkl is seen */
    uint8_t *pickle;
    size_t pickle_size;
    bool is_script;
    bool big_endian;
} Zip;

static Err *open_archive(const Zip *zip, struct archive **out)
{
    struct archive *archive = archive_read_new();
    CHECK(archive != NULL, "no memory for libarchive");
    (void)archive_read_support_format_zip_seekable(archive);
    if (archive_read_open_memory(archive, zip->r.bytes, zip->r.size) != ARCHIVE_OK) {
        Err *err = pth_bad(&zip->r, "not a readable zip archive (%s); fetch it again",
                           archive_error_string(archive));
        (void)archive_read_free(archive);
        return err;
    }
    *out = archive;
    return NULL;
}

/* Reads the current entry whole. Stored sizes come from the archive, so they are checked against the file's size
 * before memory is taken: torch stores without compression, and so does everything that is accepted here. */
static Err *read_entry(const Zip *zip, struct archive *archive, const char *name, size_t size,
                       uint8_t **out)
{
    *out = NULL;
    if (size > zip->r.size) {
        return pth_bad(&zip->r, "entry '%s' claims %zu bytes, more than the file has (%zu)", name,
                       size, zip->r.size);
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
        return pth_bad(&zip->r, "entry '%s' is damaged (%s); fetch the file again", name,
                       reason != NULL ? reason : "its length differs from the directory's");
    }
    *out = data;
    return NULL;
}

/* First pass, one entry. `name` is "<root>/<rest>". */
static Err *note_entry(Zip *zip, struct archive *archive, const char *name, size_t size)
{
    const char *slash = strchr(name, '/');
    if (slash == NULL) {
        return NULL;
    }
    const char *rest = slash + 1;
    if (strcmp(rest, "data.pkl") == 0) {
        if (zip->root != NULL) {
            return pth_bad(&zip->r, "it holds data.pkl twice");
        }
        zip->root = xformat("%.*s", (int)(rest - name), name);
        zip->pickle_size = size;
        return read_entry(zip, archive, name, size, &zip->pickle);
    }
    if (strcmp(rest, "constants.pkl") == 0) {
        zip->is_script = true;
    } else if (strcmp(rest, "byteorder") == 0) {
        uint8_t *text = NULL;
        TRY(read_entry(zip, archive, name, size, &text));
        zip->big_endian = size >= 3 && memcmp(text, "big", 3) == 0;
        free(text);
    } else if (strncmp(rest, "data/", 5) == 0 && rest[5] != '\0') {
        pth_add_storage(&zip->r, xstrdup(rest + 5), size, NULL);
    }
    return NULL;
}

/* Second pass, one entry. */
static Err *fill_storage(Zip *zip, struct archive *archive, const char *name, size_t size)
{
    const size_t root_length = strlen(zip->root);
    if (strncmp(name, zip->root, root_length) != 0 ||
        strncmp(name + root_length, "data/", 5) != 0) {
        return NULL;
    }
    PthStorage *storage = pth_find_storage(&zip->r, name + root_length + 5);
    if (storage == NULL || !storage->wanted || storage->data != NULL) {
        return NULL;
    }
    if (size != storage->size) {
        return pth_bad(&zip->r, "it changed while it was read");
    }
    uint8_t *data = NULL;
    TRY(read_entry(zip, archive, name, size, &data));
    storage->data = data;
    storage->owned = true;
    return NULL;
}

/* Names in the archive are UTF-8 in newer files (the folder is named after the file), plain bytes in older ones. */
static const char *entry_name(struct archive_entry *entry)
{
    const char *name = archive_entry_pathname_utf8(entry);
    return name != NULL ? name : archive_entry_pathname(entry);
}

static Err *for_each_entry(Zip *zip, Err *(*visit)(Zip *, struct archive *, const char *, size_t))
{
    struct archive *archive = NULL;
    TRY(open_archive(zip, &archive));
    Err *err = NULL;
    while (err == NULL) {
        struct archive_entry *entry = NULL;
        const int status = archive_read_next_header(archive, &entry);
        if (status == ARCHIVE_EOF) {
            break;
        }
        if (status != ARCHIVE_OK && status != ARCHIVE_WARN) {
            err = pth_bad(&zip->r, "the zip directory is damaged (%s); fetch the file again",
                          archive_error_string(archive));
            break;
        }
        const char *name = entry_name(entry);
        const int64_t size = archive_entry_size(entry);
        if (name != NULL && archive_entry_filetype(entry) == AE_IFREG && size >= 0) {
            err = visit(zip, archive, name, (size_t)size);
        }
    }
    (void)archive_read_free(archive);
    return err;
}

static Err *check_archive(const Zip *zip)
{
    if (zip->is_script) {
        return pth_bad(&zip->r, "a TorchScript archive, not weights; save model.state_dict()");
    }
    if (zip->root == NULL) {
        return pth_bad(&zip->r, "a zip archive without data.pkl: not made by torch.save");
    }
    if (zip->big_endian) {
        return pth_bad(&zip->r,
                       "saved on a big-endian machine; save it again on a little-endian one");
    }
    return NULL;
}

static Err *check_filled(const PthReader *r)
{
    for (size_t i = 0; i < r->storage_count; i++) {
        if (r->storages[i].wanted && r->storages[i].data == NULL) {
            return pth_bad(r, "it changed while it was read");
        }
    }
    return NULL;
}

static Err *read_archive(Zip *zip)
{
    TRY(for_each_entry(zip, note_entry));
    TRY(check_archive(zip));
    TRY(pth_sort_storages(&zip->r));
    Pickle *pickle = NULL;
    TRY(err_context(pickle_read(zip->pickle, zip->pickle_size, &pickle), "'%s'", zip->r.name));
    Err *err = pth_describe(&zip->r, pickle_root(pickle));
    pickle_free(pickle);
    TRY(err);
    TRY(for_each_entry(zip, fill_storage));
    TRY(check_filled(&zip->r));
    return pth_place(&zip->r);
}

/* ---- The forms ---- */

/* torch 0.1 wrote a tar archive: a header block with this magic. */
static bool is_tar(const PthReader *r)
{
    enum { MAGIC_AT = 257 };
    return r->size >= MAGIC_AT + 5 && memcmp(r->bytes + MAGIC_AT, "ustar", 5) == 0;
}

static Err *read_form(Zip *zip)
{
    PthReader *r = &zip->r;
    if (r->size >= 4 && memcmp(r->bytes, "PK\3\4", 4) == 0) {
        return read_archive(zip);
    }
    if (is_tar(r)) {
        return pth_bad(r,
                       "a tar archive, the form of torch 0.1, which is not read; convert it once "
                       "with: python -c \"import torch; p = '%s'; torch.save(torch.load(p, "
                       "map_location='cpu', weights_only=False), p)\", if you trust its source",
                       r->name);
    }
    if (r->size >= 2 && r->bytes[0] == 0x80) {
        return pth_read_legacy(r);
    }
    return pth_bad(r, "neither a .pth file of torch.save nor safetensors");
}

/* Storages that were read into memory go to the result, which frees them. */
static void reader_free(PthReader *r)
{
    WeightsFile *file = r->file;
    file->buffers = xrealloc(file->buffers,
                             (file->buffer_count + r->storage_count + 1) * sizeof *file->buffers);
    for (size_t i = 0; i < r->storage_count; i++) {
        free(r->storages[i].key);
        if (r->storages[i].owned) {
            file->buffers[file->buffer_count++] = (void *)r->storages[i].data;
        }
    }
    free(r->storages);
    free(r->views);
}

Err *pth_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out)
{
    *out = NULL;
    Zip zip = {
        .r = {.name = name, .bytes = data, .size = size, .file = xcalloc(1, sizeof(WeightsFile))}};
    Err *err = read_form(&zip);
    reader_free(&zip.r);
    free(zip.pickle);
    free(zip.root);
    if (err != NULL) {
        weights_close(zip.r.file);
        return err;
    }
    log_info("'%s': a pickle, read as data; nothing in it is run", name);
    *out = zip.r.file;
    return NULL;
}

Err *pth_open(const char *path, WeightsFile **out)
{
    return weights_open_map(path, pth_open_memory, out);
}
