/* The LOCK file of a run directory. flock, since the kernel releases it however the process ends, so a lock is never
 * stale; the file itself stays, because removing it would let two processes lock two different files of that name. */
#include "train/checkpoint.h"

#include "base/files.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { OWNER_MAX = 512 };

/* "pid 12 host x", or what can be said when the owner has not written its line yet. */
static char *owner_of(int fd)
{
    char text[OWNER_MAX];
    const ssize_t got = pread(fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return xstrdup(text[0] != '\0' ? text : "another process");
}

static int lock_file(int fd)
{
    int status = flock(fd, LOCK_EX | LOCK_NB);
    while (status != 0 && errno == EINTR) {
        status = flock(fd, LOCK_EX | LOCK_NB);
    }
    return status == 0 ? 0 : errno;
}

/* Only for the message that others get, so a full disk is no reason to refuse the run. */
static void write_owner(int fd, const char *path)
{
    char host[256] = "unknown";
    (void)gethostname(host, sizeof host - 1);
    char *text = xformat("pid %d host %s\n", (int)getpid(), host);
    const size_t size = strlen(text);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, size, 0) != (ssize_t)size) {
        log_warn("cannot write the process id into '%s': %s; the lock itself holds", path,
                 strerror(errno));
    }
    free(text);
}

Err *run_lock(const char *run_dir, int *fd_out)
{
    *fd_out = -1;
    TRY(dir_make(run_dir));
    char *path = path_join(run_dir, "LOCK");
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    Err *err = NULL;
    if (fd < 0) {
        const int reason = errno;
        err =
            err_new(EXIT_CANT_CREATE,
                    "cannot open the lock '%s': %s (the run directory must be writable: check its "
                    "permissions or choose another one)",
                    path, strerror(reason));
        free(path);
        return err;
    }
    const int reason = lock_file(fd);
    if (reason == EWOULDBLOCK) {
        char *owner = owner_of(fd);
        err =
            err_new(EXIT_CANT_CREATE,
                    "run directory '%s' is in use: '%s' is locked by %s (wait for it, stop it, or "
                    "choose another run directory)",
                    run_dir, path, owner);
        free(owner);
        (void)close(fd);
        free(path);
        return err;
    }
    if (reason != 0) {
        /* Some network file systems know no locks; refusing them would help nobody. */
        log_warn("cannot lock '%s': %s; make sure that no second process uses this run directory",
                 path, strerror(reason));
    }
    write_owner(fd, path);
    free(path);
    *fd_out = fd;
    return NULL;
}

void run_unlock(int fd)
{
    if (fd >= 0) {
        /* An empty file names no owner that is gone. */
        if (ftruncate(fd, 0) != 0) {
            log_debug("cannot empty the lock file: %s", strerror(errno));
        }
        (void)close(fd);
    }
}
