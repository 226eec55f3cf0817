/* Checkpoint directories. Whole or not at all rests on three facts of the file system: rename is atomic, fsync of a
 * folder makes the names in it durable, and MANIFEST, written last, names every byte. So a name "step-..." always holds
 * a finished checkpoint, whatever is being written or removed carries a ".tmp-" name, and the symlinks are a service to
 * people: the newest checkpoint is found without them. */
#include "train/checkpoint.h"

#include "base/files.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STEP_PREFIX "step-"
#define STEP_FORMAT STEP_PREFIX "%09ld"
#define TEMP_PREFIX ".tmp-"
#define CORRUPT_MARK ".corrupt"
#define MANIFEST_NAME "MANIFEST"
#define MANIFEST_HEAD "cudistill-checkpoint 1\n"
/* Last line: the hash of all text before it. */
#define MANIFEST_TAIL "manifest "
enum { HEX = 32, MANIFEST_MAX_BYTES = 1 << 20, LINK_MAX = 256 };

static Err *os_err(ExitCode code, const char *what, const char *path, int reason, const char *cure)
{
    char text[128];
    return err_new(reason == EACCES || reason == EPERM ? EXIT_NOT_PERMITTED : code,
                   "cannot %s '%s': %s (%s)", what, path, strerror_r(reason, text, sizeof text),
                   cure);
}

static void warn_and_free(Err *err, const char *consequence)
{
    if (err != NULL) {
        log_warn("%s; %s", err->message, consequence);
        err_free(err);
    }
}

/* Steps are non-negative; -1 = not the name of a checkpoint. */
static long step_of_name(const char *name)
{
    if (strncmp(name, STEP_PREFIX, strlen(STEP_PREFIX)) != 0) {
        return -1;
    }
    errno = 0;
    const long step = strtol(name + strlen(STEP_PREFIX), NULL, 10);
    char canonical[64];
    (void)snprintf(canonical, sizeof canonical, STEP_FORMAT, step);
    return errno == 0 && step >= 0 && strcmp(canonical, name) == 0 ? step : -1;
}

static char *step_path(const char *root, long step)
{
    return xformat("%s/" STEP_FORMAT, root, step);
}

static int compare_steps_falling(const void *a, const void *b)
{
    const long left = *(const long *)a;
    const long right = *(const long *)b;
    return (left < right) - (left > right);
}

/* What a checkpoint root holds: steps, newest first, and the number of folders set aside as damaged. */
typedef struct {
    long *steps;
    size_t n_steps;
    size_t n_corrupt;
} Listing;

/* Removes what a crash left half-made or half-removed. */
static void remove_stale(const char *root, const char *name)
{
    char *path = path_join(root, name);
    warn_and_free(dir_remove(path), "left over from an interrupted save, remove it by hand");
    free(path);
}

static Err *list_root(const char *root, bool clean, Listing *out)
{
    *out = (Listing){0};
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(root, &names, &count));
    size_t capacity = 0;
    for (size_t i = 0; i < count; i++) {
        const long step = step_of_name(names[i]);
        if (step >= 0) {
            out->steps = xgrow(out->steps, &capacity, out->n_steps + 1, sizeof *out->steps);
            out->steps[out->n_steps++] = step;
        } else if (strncmp(names[i], STEP_PREFIX, strlen(STEP_PREFIX)) == 0 &&
                   strstr(names[i], CORRUPT_MARK) != NULL) {
            out->n_corrupt++;
        } else if (clean && strncmp(names[i], TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0) {
            remove_stale(root, names[i]);
        }
    }
    names_free(names, count);
    if (out->n_steps > 0) {
        qsort(out->steps, out->n_steps, sizeof *out->steps, compare_steps_falling);
    }
    return NULL;
}

/* ---- MANIFEST ---- */

/* Flushes a file to the disk and lets go of its cached pages, so that verifying reads what the disk has. */
static Err *flush_file(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return os_err(EXIT_IO, "open", path, errno, "it was written a moment ago: check the disk");
    }
    const int reason = fsync(fd) == 0 ? 0 : errno;
    /* A hint: where it has no effect, verifying reads the cache. */
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)close(fd);
    return reason == 0 ? NULL
                       : os_err(EXIT_IO, "flush to disk", path, reason,
                                "check the free space and the health of the disk");
}

/* Appends "hash size name\n" of one file to *text. */
static Err *manifest_line(const char *dir, const char *name, char **text)
{
    char *path = path_join(dir, name);
    struct stat info;
    CHECK(lstat(path, &info) == 0 && S_ISREG(info.st_mode) && strchr(name, '\n') == NULL,
          "a checkpoint holds plain files, and '%s' is none", path);
    char hash[HEX + 1];
    Err *err = file_hash_hex(path, hash);
    if (err == NULL) {
        err = flush_file(path);
    }
    free(path);
    if (err == NULL) {
        char *longer = xformat("%s%s %lld %s\n", *text, hash, (long long)info.st_size, name);
        free(*text);
        *text = longer;
    }
    return err;
}

static Err *manifest_write(const char *dir)
{
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(dir, &names, &count));
    char *text = xstrdup(MANIFEST_HEAD);
    Err *err = NULL;
    for (size_t i = 0; i < count && err == NULL; i++) {
        err = manifest_line(dir, names[i], &text);
    }
    names_free(names, count);
    char *path = path_join(dir, MANIFEST_NAME);
    if (err == NULL) {
        char hash[HEX + 1];
        hash_hex(text, strlen(text), hash);
        char *whole = xformat("%s" MANIFEST_TAIL "%s\n", text, hash);
        err = file_write_atomic(path, whole, strlen(whole));
        free(whole);
    }
    if (err == NULL) {
        err = flush_file(path);
    }
    free(path);
    free(text);
    return err;
}

static Err *damaged(const char *path, const char *what)
{
    return err_new(EXIT_BAD_DATA,
                   "'%s' is damaged: %s (restore it from a copy, or use an older checkpoint)", path,
                   what);
}

/* Checks the text's own hash and cuts it off; *lines = the first line after the head. */
static Err *manifest_open(const char *path, char *text, char **lines)
{
    const size_t tail_size = strlen(MANIFEST_TAIL) + HEX + 1;
    const size_t size = strlen(text);
    if (size < strlen(MANIFEST_HEAD) + tail_size) {
        return damaged(path, "it is cut off");
    }
    char hash[HEX + 1];
    hash_hex(text, size - tail_size, hash);
    char *tail = text + size - tail_size;
    char *expected = xformat(MANIFEST_TAIL "%s\n", hash);
    const bool whole = strcmp(tail, expected) == 0;
    free(expected);
    if (!whole) {
        return damaged(path, "it is cut off, or its text does not have the hash in its last line");
    }
    *tail = '\0';
    if (strncmp(text, MANIFEST_HEAD, strlen(MANIFEST_HEAD)) != 0) {
        return err_new(
            EXIT_BAD_DATA,
            "'%s' is not a manifest of this version (its first line is not '%.*s'): use the "
            "program that wrote it",
            path, (int)strlen(MANIFEST_HEAD) - 1, MANIFEST_HEAD);
    }
    *lines = text + strlen(MANIFEST_HEAD);
    return NULL;
}

static Err *verify_file(const char *path, long long size, const char *hash)
{
    struct stat info;
    if (lstat(path, &info) != 0) {
        return os_err(errno == ENOENT ? EXIT_BAD_DATA : EXIT_IO, "find", path, errno,
                      "it belongs to the checkpoint: restore it, or use an older checkpoint");
    }
    if (!S_ISREG(info.st_mode)) {
        return damaged(path, "it is not a plain file");
    }
    if (info.st_size != size) {
        char text[96];
        (void)snprintf(text, sizeof text, "%lld bytes, and MANIFEST says %lld",
                       (long long)info.st_size, size);
        return damaged(path, text);
    }
    char found[HEX + 1];
    TRY(file_hash_hex(path, found));
    return strcmp(found, hash) == 0 ? NULL : damaged(path, "its hash is not the one in MANIFEST");
}

/* One line "hash size name" without its newline; cut into its parts where it stands. */
static Err *verify_line(const char *dir, const char *manifest, char *line)
{
    const bool has_hash = strspn(line, "0123456789abcdef") == HEX && line[HEX] == ' ';
    char *end = line;
    errno = 0;
    const long long size = has_hash ? strtoll(line + HEX + 1, &end, 10) : -1;
    if (size < 0 || errno != 0 || end[0] != ' ' || end[1] == '\0' || strchr(end, '/') != NULL) {
        return damaged(manifest, "a line does not read 'hash size name'");
    }
    line[HEX] = '\0';
    char *path = path_join(dir, end + 1);
    Err *err = verify_file(path, size, line);
    free(path);
    return err;
}

Err *checkpoint_verify(const char *dir)
{
    char *manifest = path_join(dir, MANIFEST_NAME);
    char *text = NULL;
    char *line = NULL;
    Err *err = file_read_text(manifest, MANIFEST_MAX_BYTES, &text);
    if (err == NULL) {
        err = manifest_open(manifest, text, &line);
    }
    while (err == NULL && *line != '\0') {
        char *end = strchr(line, '\n');
        if (end == NULL) {
            err = damaged(manifest, "its last line has no end");
            break;
        }
        *end = '\0';
        err = verify_line(dir, manifest, line);
        line = end + 1;
    }
    free(text);
    free(manifest);
    return err;
}

/* ---- Saving ---- */

static Err *require_space(const char *root, size_t needed_bytes)
{
    struct statvfs info;
    if (statvfs(root, &info) != 0) {
        return os_err(EXIT_IO, "ask for the free space of", root, errno, "check the file system");
    }
    const double free_bytes = (double)info.f_bavail * (double)info.f_frsize;
    const double wanted = 1.1 * (double)needed_bytes;
    if (needed_bytes == 0 || free_bytes >= wanted) {
        return NULL;
    }
    return err_new(
        EXIT_IO,
        "'%s' has %.1f MB free and a checkpoint of %.1f MB needs %.1f MB with its margin (free "
        "some space, lower checkpoint.keep_last, or choose another run directory)",
        root, free_bytes * 1e-6, (double)needed_bytes * 1e-6, wanted * 1e-6);
}

/* A folder made now is durable only when its parent is. */
static Err *make_root(const char *root)
{
    if (path_is_dir(root)) {
        return NULL;
    }
    TRY(dir_make(root));
    char *parent = xformat("%s/..", root);
    Err *err = dir_sync(parent);
    free(parent);
    return err;
}

/* Exchanges two folders; 0, or the errno. File systems without an atomic exchange get three renames: a crash between
 * them shows the next older checkpoint, never a half-made one. */
static int exchange(const char *a, const char *b)
{
    if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return errno;
    }
    char *aside = xformat("%s-old", a);
    int reason = 0;
    if (rename(b, aside) != 0) {
        reason = errno;
    } else if (rename(a, b) != 0) {
        reason = errno;
        (void)rename(aside, b);
    } else if (rename(aside, a) != 0) {
        reason = errno;
        (void)rename(b, a);
        (void)rename(aside, b);
    }
    free(aside);
    return reason;
}

static int move(const char *from, const char *to)
{
    return rename(from, to) == 0 ? 0 : errno;
}

/* Gives the finished folder its name. A checkpoint of the same step is exchanged, so that one of both is always there. */
static Err *publish(const char *root, const char *temp, const char *final)
{
    struct stat info;
    const bool replaces = lstat(final, &info) == 0;
    const int reason = replaces ? exchange(temp, final) : move(temp, final);
    if (reason != 0) {
        return os_err(EXIT_IO, "rename the finished checkpoint to", final, reason,
                      "check the permissions and the health of the disk");
    }
    Err *err = dir_sync(root);
    if (err != NULL) {
        const int undo = replaces ? exchange(temp, final) : move(final, temp);
        if (undo != 0) {
            char text[128];
            err = err_context(
                err, "'%s' may not survive a power failure, and could not be withdrawn (%s)", final,
                strerror_r(undo, text, sizeof text));
        }
    }
    return err;
}

/* ROOT/name -> target by rename of a new link. */
static Err *replace_link(const char *root, const char *name, const char *target)
{
    char *path = path_join(root, name);
    char *temp = xformat("%s/" TEMP_PREFIX "link-%s", root, name);
    int reason = 0;
    if (unlink(temp) != 0 && errno != ENOENT) {
        reason = errno;
    }
    if (reason == 0 && symlink(target, temp) != 0) {
        reason = errno;
    }
    if (reason == 0 && rename(temp, path) != 0) {
        reason = errno;
        (void)unlink(temp);
    }
    Err *err =
        reason == 0
            ? dir_sync(root)
            : os_err(EXIT_IO, "point the symlink", path, reason,
                     "the file system must allow symlinks, and nothing else may have that name");
    free(temp);
    free(path);
    return err;
}

/* Whether a symlink of ROOT ("best", or any other mark) points at `name`. */
static bool is_marked(const char *root, const char *name)
{
    char **names = NULL;
    size_t count = 0;
    Err *err = dir_list(root, &names, &count);
    if (err != NULL) {
        err_free(err);
        return true; /* unknown: keep it */
    }
    bool marked = false;
    for (size_t i = 0; i < count && !marked; i++) {
        char *path = path_join(root, names[i]);
        char target[LINK_MAX];
        const ssize_t size = readlink(path, target, sizeof target - 1);
        if (size >= 0) {
            target[size] = '\0';
            marked = strcmp(target, name) == 0;
        }
        free(path);
    }
    names_free(names, count);
    return marked;
}

/* Renamed first, so that a checkpoint vanishes whole. */
static void remove_checkpoint(const char *root, long step)
{
    char *path = step_path(root, step);
    char *temp = xformat("%s/" TEMP_PREFIX "remove-%09ld", root, step);
    const int reason = move(path, temp);
    Err *err = reason == 0
                   ? dir_remove(temp)
                   : os_err(EXIT_IO, "rename", path, reason, "check the permissions of its folder");
    warn_and_free(err, "an old checkpoint stays on the disk");
    free(temp);
    free(path);
}

/* The newest one is marked by `latest`. */
static void rotate(const char *root, int keep_last)
{
    Listing listing;
    Err *err = list_root(root, false, &listing);
    if (err != NULL) {
        warn_and_free(err, "old checkpoints stay on the disk");
        return;
    }
    for (size_t i = (size_t)keep_last; i < listing.n_steps; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, STEP_FORMAT, listing.steps[i]);
        if (!is_marked(root, name)) {
            remove_checkpoint(root, listing.steps[i]);
        }
    }
    free(listing.steps);
}

/* After this the checkpoint counts; what fails here costs comfort or space, so it is a warning. */
static void after_save(const char *root, long step, int keep_last)
{
    char name[64];
    (void)snprintf(name, sizeof name, STEP_FORMAT, step);
    Err *err = replace_link(root, "latest", name);
    if (err != NULL) {
        warn_and_free(err,
                      "the checkpoint itself is saved, older ones stay until the symlink moves");
    } else if (keep_last > 0) {
        rotate(root, keep_last);
    }
}

static Err *write_folder(const char *root, const char *temp, const char *final,
                         CheckpointWriter write, void *context)
{
    TRY(dir_remove(temp));
    TRY(dir_make(temp));
    TRY(write(context, temp));
    TRY(manifest_write(temp));
    TRY(checkpoint_verify(temp));
    TRY(dir_sync(temp));
    return publish(root, temp, final);
}

Err *checkpoint_save(const char *root, long step, size_t needed_bytes, int keep_last,
                     CheckpointWriter write, void *context)
{
    CHECK(step >= 0, "step %ld", step);
    Err *err = make_root(root);
    if (err == NULL) {
        err = require_space(root, needed_bytes);
    }
    if (err == NULL) {
        char *temp = xformat("%s/" TEMP_PREFIX STEP_FORMAT, root, step);
        char *final = step_path(root, step);
        err = write_folder(root, temp, final, write, context);
        /* On success: the checkpoint of this step that was exchanged, if any. */
        warn_and_free(dir_remove(temp), "it is removed at the next start");
        free(final);
        free(temp);
    }
    if (err != NULL) {
        return err_context(err, "checkpoint of step %ld was not saved (older ones are untouched)",
                           step);
    }
    after_save(root, step, keep_last);
    return NULL;
}

Err *checkpoint_mark(const char *root, const char *name, long step)
{
    char target[64];
    (void)snprintf(target, sizeof target, STEP_FORMAT, step);
    char *path = path_join(root, target);
    Err *err = path_is_dir(path)
                   ? replace_link(root, name, target)
                   : err_new(EXIT_NO_INPUT,
                             "cannot point '%s/%s' at '%s': there is no such checkpoint (save "
                             "it first)",
                             root, name, path);
    free(path);
    return err;
}

/* ---- Finding ---- */

/* Renames a damaged checkpoint out of the way; it may still be worth a look, so it is not removed. */
static void set_aside(const char *path, Err *why)
{
    char *aside = xformat("%s" CORRUPT_MARK, path);
    struct stat info;
    for (int i = 2; lstat(aside, &info) == 0; i++) {
        free(aside);
        aside = xformat("%s" CORRUPT_MARK "-%d", path, i);
    }
    const int reason = move(path, aside);
    if (reason == 0) {
        log_warn("%s; the checkpoint is now '%s', the next older one is tried", why->message,
                 aside);
    } else {
        char text[128];
        log_warn("%s; it could not be renamed to '%s' (%s), the next older one is tried",
                 why->message, aside, strerror_r(reason, text, sizeof text));
    }
    free(aside);
    err_free(why);
}

/* "latest" may be one behind after a crash, or point at what was set aside. */
static void repair_latest(const char *root, long step)
{
    char name[64];
    (void)snprintf(name, sizeof name, STEP_FORMAT, step);
    char *path = path_join(root, "latest");
    char target[LINK_MAX];
    const ssize_t size = readlink(path, target, sizeof target - 1);
    target[size > 0 ? size : 0] = '\0';
    if (strcmp(target, name) != 0) {
        warn_and_free(replace_link(root, "latest", name),
                      "the symlink does not show the newest checkpoint");
    }
    free(path);
}

/* Whether this failure says that the checkpoint is bad, and not that this process may not read it. */
static bool means_damage(const Err *err)
{
    return err->code == EXIT_BAD_DATA || err->code == EXIT_NO_INPUT || err->code == EXIT_IO;
}

Err *checkpoint_newest(const char *root, char **path)
{
    *path = NULL;
    struct stat info;
    /* Only "there is no such name" means none (or that there cannot be one, below a file): a folder that cannot be read must
     * not look like a fresh start. */
    if (lstat(root, &info) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
        return NULL;
    }
    Listing listing;
    TRY(list_root(root, true, &listing));
    Err *err = NULL;
    for (size_t i = 0; i < listing.n_steps && *path == NULL && err == NULL; i++) {
        char *candidate = step_path(root, listing.steps[i]);
        err = checkpoint_verify(candidate);
        if (err == NULL) {
            *path = candidate;
            repair_latest(root, listing.steps[i]);
            break;
        }
        if (means_damage(err)) {
            set_aside(candidate, err);
            err = NULL;
            listing.n_corrupt++;
        }
        free(candidate);
    }
    if (*path == NULL && err == NULL && listing.n_corrupt > 0) {
        err = err_new(EXIT_IO,
                      "'%s' holds %zu checkpoints and all are damaged: restore one from a copy, or "
                      "remove the "
                      "folders '*" CORRUPT_MARK "*' in it to start from scratch",
                      root, listing.n_corrupt);
    }
    free(listing.steps);
    return err;
}
