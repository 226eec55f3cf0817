/* Files in memory in place of the disk, and the helpers of the targets. The linker sends the library's calls of NAME to
 * __wrap_NAME here (FUZZ_WRAP in fuzz.mk lists the names). */
#include "fuzz.h"

#include "base/files.h"
#include "base/log.h"

#include <archive.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    const char *path;
    const uint8_t *data;
    size_t size;
} MemoryFile;

static MemoryFile files[FUZZ_FILES_MAX];
static size_t file_count;
static char *written_path;
static FuzzBytes written;

/* ---- Checks ---- */

_Noreturn void fuzz_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "%s:%d: broken promise: ", file, line);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    abort();
}

bool fuzz_refused(Err *err, ExitCode code)
{
    if (err == NULL) {
        return false;
    }
    FUZZ_CHECK(err->code == code, "code %d in place of %d: %s", (int)err->code, (int)code,
               err->message);
    FUZZ_CHECK(strlen(err->message) > 10, "an empty message: '%s'", err->message);
    err_free(err);
    return true;
}

void fuzz_ok(Err *err)
{
    FUZZ_CHECK(err == NULL, "refused: %s", err->message);
}

/* ---- Input and output ---- */

uint8_t fuzz_byte(FuzzInput *input)
{
    if (input->left == 0) {
        return 0;
    }
    input->left--;
    return *input->at++;
}

uint16_t fuzz_u16(FuzzInput *input)
{
    const uint8_t low = fuzz_byte(input);
    return (uint16_t)(low | fuzz_byte(input) << 8);
}

FuzzInput fuzz_take(FuzzInput *input, size_t size)
{
    const FuzzInput part = {input->at, size < input->left ? size : input->left};
    input->at += part.left;
    input->left -= part.left;
    return part;
}

char *fuzz_text(FuzzInput input)
{
    char *text = xmalloc(input.left + 1);
    for (size_t i = 0; i < input.left; i++) {
        text[i] = (char)(input.at[i] != 0 ? input.at[i] : ' ');
    }
    text[input.left] = '\0';
    return text;
}

void fuzz_put(FuzzBytes *bytes, const void *data, size_t size)
{
    bytes->data = xgrow(bytes->data, &bytes->capacity, bytes->size + size, 1);
    if (size > 0) {
        memcpy(bytes->data + bytes->size, data, size);
    }
    bytes->size += size;
}

void fuzz_put_number(FuzzBytes *bytes, uint64_t number, int size)
{
    for (int i = 0; i < size; i++) {
        const uint8_t byte = i < 8 ? (uint8_t)(number >> (8 * i)) : 0;
        fuzz_put(bytes, &byte, 1);
    }
}

void fuzz_bytes_free(FuzzBytes *bytes)
{
    free(bytes->data);
    *bytes = (FuzzBytes){0};
}

/* ---- Files ---- */

void fuzz_file_add(const char *path, const void *data, size_t size)
{
    FUZZ_CHECK(file_count < FUZZ_FILES_MAX, "more than %d files", (int)FUZZ_FILES_MAX);
    files[file_count++] = (MemoryFile){path, data, size};
}

void fuzz_files_clear(void)
{
    file_count = 0;
    free(written_path);
    written_path = NULL;
    fuzz_bytes_free(&written);
}

const uint8_t *fuzz_written(size_t *size)
{
    FUZZ_CHECK(written_path != NULL, "nothing was written");
    *size = written.size;
    return written.data;
}

static bool find_file(const char *path, MemoryFile *out)
{
    for (size_t i = 0; i < file_count; i++) {
        if (strcmp(files[i].path, path) == 0) {
            *out = files[i];
            return true;
        }
    }
    if (written_path != NULL && strcmp(written_path, path) == 0) {
        *out = (MemoryFile){path, written.data, written.size};
        return true;
    }
    return false;
}

static Err *absent(const char *path)
{
    return err_new(EXIT_NO_INPUT, "cannot open '%s': no such file", path);
}

/* Names that the linker makes. */
/* NOLINTBEGIN(bugprone-reserved-identifier) */
Err *__wrap_file_map(const char *path, FileMap *out);
void __wrap_file_unmap(FileMap *map);
Err *__wrap_file_read_text(const char *path, size_t max_bytes, char **out);
Err *__wrap_file_write_atomic_parts(const char *path, const FilePart *parts, size_t count);
Err *__wrap_file_write_atomic(const char *path, const void *data, size_t size);
Err *__wrap_file_hash_hex(const char *path, char out[33]);
Err *__wrap_file_md5_hex(const char *path, char out[33]);
bool __wrap_path_exists(const char *path);
bool __wrap_path_is_dir(const char *path);
int __wrap_lstat(const char *path, struct stat *info);
int __wrap_archive_read_open_filename(struct archive *archive, const char *path, size_t block);
void *__wrap_xaligned(size_t bytes);
_Noreturn void __wrap_check_failed(const char *file, int line, const char *cond, const char *format,
                                   ...) __attribute__((format(printf, 4, 5)));

Err *__wrap_file_map(const char *path, FileMap *out)
{
    MemoryFile file;
    *out = (FileMap){0};
    if (!find_file(path, &file)) {
        return absent(path);
    }
    if (file.size > 0) {
        uint8_t *copy = xmalloc(file.size);
        memcpy(copy, file.data, file.size);
        *out = (FileMap){copy, file.size};
    }
    return NULL;
}

void __wrap_file_unmap(FileMap *map)
{
    free((void *)map->data);
    *map = (FileMap){0};
}

Err *__wrap_file_read_text(const char *path, size_t max_bytes, char **out)
{
    MemoryFile file;
    *out = NULL;
    if (!find_file(path, &file)) {
        return absent(path);
    }
    if (file.size > max_bytes || (file.size > 0 && memchr(file.data, '\0', file.size) != NULL)) {
        return err_new(EXIT_BAD_DATA, "'%s' is too long, or no text", path);
    }
    *out = xmalloc(file.size + 1);
    if (file.size > 0) {
        memcpy(*out, file.data, file.size);
    }
    (*out)[file.size] = '\0';
    return NULL;
}

Err *__wrap_file_write_atomic_parts(const char *path, const FilePart *parts, size_t count)
{
    FuzzBytes all = {0};
    for (size_t i = 0; i < count; i++) {
        fuzz_put(&all, parts[i].data, parts[i].size);
    }
    free(written_path);
    fuzz_bytes_free(&written);
    written_path = xstrdup(path);
    written = all;
    return NULL;
}

Err *__wrap_file_write_atomic(const char *path, const void *data, size_t size)
{
    const FilePart part = {data, size};
    return __wrap_file_write_atomic_parts(path, &part, 1);
}

Err *__wrap_file_hash_hex(const char *path, char out[33])
{
    MemoryFile file;
    if (!find_file(path, &file)) {
        return absent(path);
    }
    hash_hex(file.data, file.size, out);
    return NULL;
}

/* Of no known archive. */
Err *__wrap_file_md5_hex(const char *path, char out[33])
{
    MemoryFile file;
    if (!find_file(path, &file)) {
        return absent(path);
    }
    memset(out, '0', 32);
    out[32] = '\0';
    return NULL;
}

bool __wrap_path_exists(const char *path)
{
    MemoryFile file;
    return find_file(path, &file);
}

bool __wrap_path_is_dir(const char *path)
{
    (void)path;
    return false;
}

int __wrap_lstat(const char *path, struct stat *info)
{
    MemoryFile file;
    *info = (struct stat){0};
    const size_t length = strlen(path);
    if (length > 0 && (path[length - 1] == '.' || path[length - 1] == '/')) {
        info->st_mode = S_IFDIR;
        return 0;
    }
    if (!find_file(path, &file)) {
        errno = ENOENT;
        return -1;
    }
    info->st_mode = S_IFREG;
    info->st_size = (off_t)file.size;
    return 0;
}

int __wrap_archive_read_open_filename(struct archive *archive, const char *path, size_t block)
{
    (void)block;
    MemoryFile file;
    if (!find_file(path, &file)) {
        archive_set_error(archive, ENOENT, "no such file");
        return ARCHIVE_FATAL;
    }
    return archive_read_open_memory(archive, file.data, file.size);
}

/* Without rounding up, and without touching each page of a data set that is then refused. */
void *__wrap_xaligned(size_t bytes)
{
    return xcalloc(1, bytes);
}

/* A CHECK says that the library has a bug, whatever the input. */
_Noreturn void __wrap_check_failed(const char *file, int line, const char *cond, const char *format,
                                   ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fuzz_fail(file, line, "check failed: %s: %s", cond, text);
}
/* NOLINTEND(bugprone-reserved-identifier) */
