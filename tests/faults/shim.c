/* LD_PRELOAD shim: lets the calls that change files fail, one chosen call or all from it on. Counts them besides, so that
 * a test can first ask how many there are.
 *
 *   FAULTS_ROOT    only files below this folder (an absolute path without symbolic links); unset: nothing happens
 *   FAULTS_CALLS   which calls, with commas: write fsync rename open truncate close mkdir link unlink; unset: all
 *   FAULTS_AT      number of the call, from 0; unset or -1: none fails
 *   FAULTS_KIND    once (default) or always: from that call on
 *   FAULTS_ERROR   ENOSPC (default), EIO, EROFS, EINTR; SHORT: a write takes half of its bytes, other calls succeed
 *   FAULTS_COUNT   file for the counts: a FaultCounts, kept up to date in a shared map, so that it also tells about a
 *                  process that was killed
 *   FAULTS_SYNC    1: fsync reaches the disk; unset: it does nothing, as no test here cuts the power
 *
 * "write" is write, pwrite and writev; "fsync" also fdatasync; "open" is every open for writing; "link" also symlink;
 * "unlink" also rmdir. close fails after it has closed, as the kernel does it. What the C library writes for stdio does
 * not pass here. */
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const NAMES[FAULT_CALLS] = {"write", "fsync", "rename", "open",  "truncate",
                                               "close", "mkdir", "link",   "unlink"};

static struct {
    char root[PATH_BYTES];
    size_t root_length; /* 0: off */
    bool chosen[FAULT_CALLS];
    long at;
    bool always, is_short, sync;
    int error;
    FaultCounts *counts, own;
} shim;

static bool is_listed(const char *list, const char *name)
{
    const size_t length = strlen(name);
    for (const char *at = list; at != NULL && *at != '\0';) {
        const size_t item = strcspn(at, ",");
        if (item == length && memcmp(at, name, length) == 0) {
            return true;
        }
        at += item + (at[item] == ',');
    }
    return false;
}

static void open_counts(const char *path)
{
    shim.counts = &shim.own;
    if (path == NULL) {
        return;
    }
    const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || syscall(SYS_ftruncate, fd, sizeof(FaultCounts)) != 0) {
        return;
    }
    void *map = mmap(NULL, sizeof(FaultCounts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        shim.counts = map;
    }
    (void)syscall(SYS_close, fd);
}

__attribute__((constructor)) static void start(void)
{
    const char *root = getenv("FAULTS_ROOT");
    if (root == NULL || root[0] == '\0') {
        return;
    }
    (void)snprintf(shim.root, sizeof shim.root, "%s", root);
    const char *calls = getenv("FAULTS_CALLS");
    for (int i = 0; i < FAULT_CALLS; i++) {
        shim.chosen[i] = calls == NULL || is_listed(calls, NAMES[i]);
    }
    const char *at = getenv("FAULTS_AT");
    shim.at = at != NULL ? strtol(at, NULL, 10) : -1;
    const char *kind = getenv("FAULTS_KIND");
    shim.always = kind != NULL && strcmp(kind, "always") == 0;
    const char *error = getenv("FAULTS_ERROR");
    error = error != NULL ? error : "ENOSPC";
    shim.is_short = strcmp(error, "SHORT") == 0;
    shim.error = strcmp(error, "EIO") == 0     ? EIO
                 : strcmp(error, "EROFS") == 0 ? EROFS
                 : strcmp(error, "EINTR") == 0 ? EINTR
                                               : ENOSPC;
    shim.sync = getenv("FAULTS_SYNC") != NULL;
    open_counts(getenv("FAULTS_COUNT"));
    shim.root_length = strlen(shim.root);
}

/* Whether this chosen call shall fail. errno is set then. */
static bool fails(FaultCall call)
{
    (void)atomic_fetch_add(&shim.counts->calls[call], 1);
    const long number = atomic_fetch_add(&shim.counts->total, 1);
    if (shim.at < 0 || (shim.always ? number < shim.at : number != shim.at)) {
        return false;
    }
    (void)atomic_fetch_add(&shim.counts->failed, 1);
    errno = shim.error;
    return true;
}

static bool is_below(const char *path)
{
    return strncmp(path, shim.root, shim.root_length) == 0 &&
           (path[shim.root_length] == '/' || path[shim.root_length] == '\0');
}

static bool fd_fails(FaultCall call, int fd)
{
    if (shim.root_length == 0 || !shim.chosen[call] || fd < 0) {
        return false;
    }
    char link[64];
    char path[PATH_BYTES];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) {
        return false;
    }
    path[size] = '\0';
    return is_below(path) && fails(call);
}

static bool path_fails(FaultCall call, int dir, const char *path)
{
    if (shim.root_length == 0 || !shim.chosen[call]) {
        return false;
    }
    if (path[0] == '/') {
        return is_below(path) && fails(call);
    }
    char link[64] = "/proc/self/cwd";
    char whole[2 * PATH_BYTES];
    if (dir != AT_FDCWD) {
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    }
    const ssize_t size = readlink(link, whole, PATH_BYTES - 1);
    if (size <= 0) {
        return false;
    }
    (void)snprintf(whole + size, sizeof whole - (size_t)size, "/%s", path);
    return is_below(whole) && fails(call);
}

/* Half of a write, at least one byte. */
static size_t shortened(size_t size)
{
    return shim.is_short ? (size + 1) / 2 : 0;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (fd_fails(FAULT_WRITE, fd)) {
        return shim.is_short ? syscall(SYS_write, fd, data, shortened(size)) : -1;
    }
    return syscall(SYS_write, fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    if (fd_fails(FAULT_WRITE, fd)) {
        return shim.is_short ? syscall(SYS_pwrite64, fd, data, shortened(size), at) : -1;
    }
    return syscall(SYS_pwrite64, fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at)
{
    return pwrite(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (fd_fails(FAULT_WRITE, fd)) {
        return shim.is_short && count > 0
                   ? syscall(SYS_write, fd, parts[0].iov_base, shortened(parts[0].iov_len))
                   : -1;
    }
    return syscall(SYS_writev, fd, parts, count);
}

static int sync_or_not(long number, int fd)
{
    if (fd_fails(FAULT_FSYNC, fd) && !shim.is_short) {
        return -1;
    }
    return shim.root_length == 0 || shim.sync ? (int)syscall(number, fd) : 0;
}

int fsync(int fd)
{
    return sync_or_not(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_or_not(SYS_fdatasync, fd);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags)
{
    if (path_fails(FAULT_RENAME, to_dir, to) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return renameat2(from_dir, from, to_dir, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

static int open_file(int dir, const char *path, int flags, mode_t mode)
{
    const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0;
    if (writes && path_fails(FAULT_OPEN, dir, path) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

/* The mode is there only where a file may be made. */
#define TAKE_MODE(flags, mode)                                                                     \
    mode_t mode = 0;                                                                               \
    if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                                  \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        (mode) = va_arg(args, mode_t);                                                             \
        va_end(args);                                                                              \
    }

int open(const char *path, int flags, ...)
{
    TAKE_MODE(flags, mode)
    return open_file(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    TAKE_MODE(flags, mode)
    return open_file(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
    TAKE_MODE(flags, mode)
    return open_file(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
    TAKE_MODE(flags, mode)
    return open_file(dir, path, flags, mode);
}

int ftruncate(int fd, off_t size)
{
    if (fd_fails(FAULT_TRUNCATE, fd) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_ftruncate, fd, size);
}

int ftruncate64(int fd, off_t size)
{
    return ftruncate(fd, size);
}

int close(int fd)
{
    const bool failed = fd_fails(FAULT_CLOSE, fd) && !shim.is_short;
    const int result = (int)syscall(SYS_close, fd);
    if (failed) {
        errno = shim.error;
        return -1;
    }
    return result;
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    if (path_fails(FAULT_MKDIR, dir, path) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}

int link(const char *from, const char *to)
{
    if (path_fails(FAULT_LINK, AT_FDCWD, to) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int symlink(const char *target, const char *path)
{
    if (path_fails(FAULT_LINK, AT_FDCWD, path) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}

int unlinkat(int dir, const char *path, int flags)
{
    if (path_fails(FAULT_UNLINK, dir, path) && !shim.is_short) {
        return -1;
    }
    return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
