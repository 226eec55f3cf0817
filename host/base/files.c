/* Files: maps, whole-file reads, atomic writes, folders and hashes. Atomic means: a sibling temporary file, fsync,
 * rename, fsync of the folder; a reader (or a map of the older file) sees the old bytes or the new ones. Messages
 * name the path and turn the system's reason into advice. */
#include "base/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum { READ_CHUNK = 1 << 20, TEMP_ATTEMPTS = 100 };

static const char *cure_of(int reason)
{
    switch (reason) {
    case ENOENT:
        return "check the path";
    case EACCES:
    case EPERM:
        return "check the permissions of the file and its folder";
    case EROFS:
        return "choose a place on a writable file system";
    case ENOSPC:
        return "free some space or choose another place";
    case EDQUOT:
        return "the quota is used up: free some space or choose another place";
    case ENOTDIR:
        return "a part of the path is a file, not a folder";
    case EISDIR:
        return "this is a folder: name a file";
    case ENOTEMPTY:
    case EEXIST:
        return "something else is in the way: remove it or choose another name";
    case EMFILE:
    case ENFILE:
        return "too many open files: raise 'ulimit -n'";
    case EIO:
        return "the disk reports an error: check its health";
    default:
        return "see the system's reason";
    }
}

static Err *system_err(ExitCode other, const char *what, const char *path, int reason)
{
    ExitCode code = other;
    if (reason == ENOENT && other != EXIT_CANT_CREATE) {
        code = EXIT_NO_INPUT;
    } else if (reason == EACCES || reason == EPERM) {
        code = EXIT_NOT_PERMITTED;
    }
    char text[128];
    return err_new(code, "cannot %s '%s': %s (%s)", what, path,
                   strerror_r(reason, text, sizeof text), cure_of(reason));
}

/* Opens a regular file for reading; *size is its size at this moment. */
static Err *open_input(const char *path, int *fd_out, size_t *size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return system_err(EXIT_IO, "open", path, errno);
    }
    struct stat info;
    if (fstat(fd, &info) != 0) {
        const int reason = errno;
        (void)close(fd);
        return system_err(EXIT_IO, "examine", path, reason);
    }
    if (S_ISDIR(info.st_mode)) {
        (void)close(fd);
        return system_err(EXIT_NO_INPUT, "read", path, EISDIR);
    }
    *fd_out = fd;
    *size = (size_t)info.st_size;
    return NULL;
}

Err *file_map(const char *path, FileMap *out)
{
    *out = (FileMap){0};
    int fd = -1;
    size_t size = 0;
    TRY(open_input(path, &fd, &size));
    if (size == 0) {
        (void)close(fd);
        return NULL;
    }
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int reason = errno;
    (void)close(fd);
    if (data == MAP_FAILED) {
        return system_err(EXIT_IO, "map", path, reason);
    }
    out->data = data;
    out->size = size;
    return NULL;
}

void file_unmap(FileMap *map)
{
    if (map->data != NULL) {
        /* munmap takes a plain pointer although the pages are read-only. */
        (void)munmap((void *)map->data, map->size);
    }
    *map = (FileMap){0};
}

static ssize_t read_retry(int fd, void *buffer, size_t size)
{
    ssize_t got = read(fd, buffer, size);
    while (got < 0 && errno == EINTR) {
        got = read(fd, buffer, size);
    }
    return got;
}

/* Pipes and /proc files report size 0, so the size is found by reading. */
Err *file_read_text(const char *path, size_t max_bytes, char **out)
{
    *out = NULL;
    int fd = -1;
    size_t size = 0;
    TRY(open_input(path, &fd, &size));
    char *text = NULL;
    size_t capacity = 0;
    size_t used = 0;
    for (;;) {
        text = xgrow(text, &capacity, used + 4096, 1);
        const ssize_t got = read_retry(fd, text + used, capacity - used - 1);
        if (got < 0) {
            const int reason = errno;
            (void)close(fd);
            free(text);
            return system_err(EXIT_IO, "read", path, reason);
        }
        if (got == 0) {
            break;
        }
        used += (size_t)got;
        if (used > max_bytes) {
            (void)close(fd);
            free(text);
            return err_new(EXIT_BAD_DATA,
                           "'%s' is larger than the %zu bytes allowed here: is it the right file?",
                           path, max_bytes);
        }
    }
    (void)close(fd);
    if (memchr(text, '\0', used) != NULL) {
        free(text);
        return err_new(EXIT_BAD_DATA, "'%s' is not a text file (it holds a NUL byte)", path);
    }
    text[used] = '\0';
    *out = text;
    return NULL;
}

/* 0, or the errno. */
static int write_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;
    while (size > 0) {
        const ssize_t written = write(fd, at, size < (1u << 30) ? size : (1u << 30));
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return errno;
        }
        at += written;
        size -= (size_t)written;
    }
    return 0;
}

/* O_EXCL with a name of our own, not mkstemp: that would create the file with mode 0600 whatever the umask says. */
static Err *temp_create(const char *path, char **temp_out, int *fd_out)
{
    for (int attempt = 0; attempt < TEMP_ATTEMPTS; attempt++) {
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        char *temp = xformat("%s.tmp-%d-%ld-%d", path, (int)getpid(), now.tv_nsec, attempt);
        const int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *temp_out = temp;
            *fd_out = fd;
            return NULL;
        }
        const int reason = errno;
        free(temp);
        if (reason != EEXIST) {
            return system_err(EXIT_CANT_CREATE, "create", path, reason);
        }
    }
    return system_err(EXIT_CANT_CREATE, "create", path, EEXIST);
}

static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return xstrdup(".");
    }
    return slash == path ? xstrdup("/") : xformat("%.*s", (int)(slash - path), path);
}

Err *file_write_atomic_parts(const char *path, const FilePart *parts, size_t count)
{
    char *temp = NULL;
    int fd = -1;
    TRY(temp_create(path, &temp, &fd));
    int reason = 0;
    for (size_t i = 0; i < count && reason == 0; i++) {
        reason = write_all(fd, parts[i].data, parts[i].size);
    }
    if (reason == 0 && fsync(fd) != 0) {
        reason = errno;
    }
    if (close(fd) != 0 && reason == 0) {
        reason = errno;
    }
    if (reason == 0 && rename(temp, path) != 0) {
        reason = errno;
    }
    if (reason != 0) {
        (void)unlink(temp);
        free(temp);
        return system_err(EXIT_IO, "write", path, reason);
    }
    free(temp);
    char *dir = parent_of(path);
    Err *err = dir_sync(dir);
    free(dir);
    return err;
}

Err *file_write_atomic(const char *path, const void *data, size_t size)
{
    const FilePart part = {data, size};
    return file_write_atomic_parts(path, &part, 1);
}

/* One write of the whole line: with O_APPEND, lines of several writers do not mix. */
Err *file_append_line(const char *path, const char *line)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
        return system_err(EXIT_CANT_CREATE, "open", path, errno);
    }
    char *text = xformat("%s\n", line);
    int reason = write_all(fd, text, strlen(text));
    free(text);
    if (close(fd) != 0 && reason == 0) {
        reason = errno;
    }
    return reason == 0 ? NULL : system_err(EXIT_IO, "append to", path, reason);
}

bool path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool path_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *path_join(const char *dir, const char *name)
{
    const size_t length = strlen(dir);
    if (name[0] == '/' || length == 0) {
        return xstrdup(name);
    }
    return xformat(dir[length - 1] == '/' ? "%s%s" : "%s/%s", dir, name);
}

static Err *dir_make_one(const char *path)
{
    if (mkdir(path, 0777) == 0) {
        return NULL;
    }
    const int reason = errno;
    if (reason == EEXIST && path_is_dir(path)) {
        return NULL;
    }
    return system_err(EXIT_CANT_CREATE, "create folder", path, reason == EEXIST ? ENOTDIR : reason);
}

Err *dir_make(const char *path)
{
    if (path_is_dir(path)) {
        return NULL;
    }
    char *partial = xstrdup(path);
    for (char *at = partial + 1; partial[0] != '\0' && *at != '\0'; at++) {
        if (*at != '/') {
            continue;
        }
        *at = '\0';
        Err *err = path_is_dir(partial) ? NULL : dir_make_one(partial);
        *at = '/';
        if (err != NULL) {
            free(partial);
            return err;
        }
    }
    free(partial);
    return dir_make_one(path);
}

Err *dir_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return system_err(EXIT_IO, "open folder", path, errno);
    }
    const int reason = fsync(fd) == 0 ? 0 : errno;
    (void)close(fd);
    /* EINVAL: a file system without fsync for folders; nothing more can be done there. */
    return reason == 0 || reason == EINVAL ? NULL
                                           : system_err(EXIT_IO, "sync folder", path, reason);
}

Err *dir_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0) {
        return errno == ENOENT ? NULL : system_err(EXIT_IO, "examine", path, errno);
    }
    if (!S_ISDIR(info.st_mode)) {
        return unlink(path) == 0 ? NULL : system_err(EXIT_IO, "remove", path, errno);
    }
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(path, &names, &count));
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        char *child = path_join(path, names[i]);
        err = dir_remove(child);
        free(child);
    }
    names_free(names, count);
    if (err != NULL) {
        return err;
    }
    return rmdir(path) == 0 ? NULL : system_err(EXIT_IO, "remove folder", path, errno);
}

static int compare_names(const void *a, const void *b)
{
    const char *const *left = a;
    const char *const *right = b;
    return strcmp(*left, *right);
}

Err *dir_list(const char *path, char ***names, size_t *count)
{
    *names = NULL;
    *count = 0;
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return system_err(EXIT_IO, "list folder", path, errno);
    }
    size_t capacity = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        *names = xgrow(*names, &capacity, *count + 1, sizeof **names);
        (*names)[(*count)++] = xstrdup(entry->d_name);
    }
    const int reason = errno;
    (void)closedir(dir);
    if (reason != 0) {
        names_free(*names, *count);
        *names = NULL;
        *count = 0;
        return system_err(EXIT_IO, "list folder", path, reason);
    }
    if (*count > 0) {
        qsort(*names, *count, sizeof **names, compare_names);
    }
    return NULL;
}

void names_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
}

static void hex_of(const uint8_t bytes[16], char out[33])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[32] = '\0';
}

static void xxh_hex(XXH128_hash_t hash, char out[33])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    hex_of(canonical.digest, out);
}

void hash_hex(const void *data, size_t size, char out[33])
{
    xxh_hex(XXH3_128bits(data, size), out);
}

/* Reads, not a map: a file that shrinks meanwhile is a short read here, but a fatal signal in a map. */
static Err *feed_file(const char *path, void (*feed)(void *state, const void *data, size_t size),
                      void *state)
{
    int fd = -1;
    size_t size = 0;
    TRY(open_input(path, &fd, &size));
    void *buffer = xmalloc(READ_CHUNK);
    ssize_t got = read_retry(fd, buffer, READ_CHUNK);
    while (got > 0) {
        feed(state, buffer, (size_t)got);
        got = read_retry(fd, buffer, READ_CHUNK);
    }
    const int reason = got < 0 ? errno : 0;
    free(buffer);
    (void)close(fd);
    return reason == 0 ? NULL : system_err(EXIT_IO, "read", path, reason);
}

static void feed_xxh(void *state, const void *data, size_t size)
{
    (void)XXH3_128bits_update(state, data, size);
}

static void feed_md5(void *state, const void *data, size_t size)
{
    (void)EVP_DigestUpdate(state, data, size);
}

Err *file_hash_hex(const char *path, char out[33])
{
    XXH3_state_t *state = XXH3_createState();
    CHECK(state != NULL, "no memory for the state of XXH3");
    (void)XXH3_128bits_reset(state);
    Err *err = feed_file(path, feed_xxh, state);
    if (err == NULL) {
        xxh_hex(XXH3_128bits_digest(state), out);
    }
    (void)XXH3_freeState(state);
    return err;
}

Err *file_md5_hex(const char *path, char out[33])
{
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    CHECK(state != NULL, "no memory for the state of MD5");
    Err *err = NULL;
    if (EVP_DigestInit_ex(state, EVP_md5(), NULL) != 1) {
        err = err_new(EXIT_OS,
                      "this system's libcrypto refuses MD5 (FIPS mode?), so '%s' cannot be "
                      "compared with the official archive",
                      path);
    } else {
        err = feed_file(path, feed_md5, state);
    }
    uint8_t digest[EVP_MAX_MD_SIZE] = {0};
    if (err == NULL && EVP_DigestFinal_ex(state, digest, NULL) == 1) {
        hex_of(digest, out);
    }
    EVP_MD_CTX_free(state);
    return err;
}
