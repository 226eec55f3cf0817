/* The disk that runs are written to. A checkpoint is as slow as fsync is, so that is what is measured. */
#include "cli/doctor.h"

#include "base/err.h"
#include "base/files.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#define GIB (1024.0 * 1024.0 * 1024.0)
enum { PROBE_BYTES = 32 << 20, PIECE_BYTES = 1 << 20 };

typedef struct {
    long magic;
    const char *name;
    const char *advice;
} FileSystem;

/* Magic numbers of linux/magic.h. */
static const FileSystem file_systems[] = {
    {0xEF53, "ext4", NULL},
    {0x58465342, "xfs", NULL},
    {0x9123683E, "btrfs", NULL},
    {0x2FC12FC1, "zfs", NULL},
    {0x794C7630, "overlay",
     "a container's own layer goes with the container: mount a volume for runs"},
    {0x01021994, "tmpfs", "it is memory: runs there do not survive a restart"},
    {0x6969, "nfs", "locks and syncs of network file systems are slow: raise checkpoint.every"},
    {0x0BD00BD0, "lustre", "many small files are slow there: raise log.every_s"},
    {0xFF534D42, "cifs",
     "locks and syncs of network file systems are slow: raise checkpoint.every"},
    {0x65735546, "fuse", "what a sync promises there is up to the server"},
    {0x01021997, "9p", "what a sync promises there is up to the host"},
};

static void check_file_system(Doctor *doctor, const char *folder)
{
    struct statfs info;
    if (statfs(folder, &info) != 0) {
        return;
    }
    for (size_t i = 0; i < sizeof file_systems / sizeof file_systems[0]; i++) {
        if ((unsigned long)info.f_type == (unsigned long)file_systems[i].magic) {
            doctor_add(doctor, file_systems[i].advice ? DOCTOR_NOTE : DOCTOR_OK, "file system",
                       file_systems[i].advice, "%s: %s", folder, file_systems[i].name);
            return;
        }
    }
    doctor_add(doctor, DOCTOR_OK, "file system", NULL, "%s: type 0x%lx", folder,
               (unsigned long)info.f_type);
}

static void check_space(Doctor *doctor, const char *folder)
{
    struct statvfs info;
    if (statvfs(folder, &info) != 0) {
        return;
    }
    const double left = (double)info.f_bavail * (double)info.f_frsize / GIB;
    const double nodes = (double)info.f_favail;
    if (info.f_files > 0 && nodes < 1000.0) {
        doctor_add(doctor, DOCTOR_WARN, "disk space", "remove small files: new ones cannot be made",
                   "%s: %.0f inodes left", folder, nodes);
    }
    const bool small = left < 1.0;
    doctor_add(doctor, small ? DOCTOR_WARN : DOCTOR_OK, "disk space",
               small ? "free some space, or set run.out elsewhere: a full disk costs checkpoints"
                     : NULL,
               "%s: %.1f GiB free", folder, left);
}

/* Seconds of writing and syncing PROBE_BYTES, and of a rename with its folder's sync; errno on failure. */
static int probe(const char *folder, const char *path, const char *renamed, double *write_s,
                 double *rename_s)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return errno;
    }
    char *piece = xmalloc(PIECE_BYTES);
    memset(piece, 0x5A, PIECE_BYTES);
    const double begin = now_s();
    int reason = 0;
    for (int done = 0; done < PROBE_BYTES && reason == 0; done += PIECE_BYTES) {
        const ssize_t wrote = write(fd, piece, PIECE_BYTES);
        reason = wrote < 0 ? errno : wrote < PIECE_BYTES ? ENOSPC : 0;
    }
    if (reason == 0 && fsync(fd) != 0) {
        reason = errno;
    }
    *write_s = now_s() - begin;
    (void)close(fd);
    free(piece);
    const double middle = now_s();
    if (reason == 0 && rename(path, renamed) != 0) {
        reason = errno;
    }
    Err *err = reason == 0 ? dir_sync(folder) : NULL;
    *rename_s = now_s() - middle;
    if (err) {
        reason = EIO;
        err_free(err);
    }
    (void)unlink(reason == 0 ? renamed : path);
    return reason;
}

static void check_speed(Doctor *doctor, const char *folder)
{
    char *path = xformat("%s/.cudistill-doctor-%d", folder, (int)getpid());
    char *renamed = xformat("%s.renamed", path);
    double write_s = 0;
    double rename_s = 0;
    const int reason = probe(folder, path, renamed, &write_s, &rename_s);
    const double speed = PROBE_BYTES / 1e6 / write_s;
    if (reason != 0) {
        doctor_add(doctor, DOCTOR_BAD, "disk",
                   "choose another folder: 'cudistill doctor FOLDER' tries it, run.out uses it",
                   "%s cannot be written: %s", folder, strerror(reason));
    } else if (speed < 20.0 || rename_s > 0.5) {
        doctor_add(doctor, DOCTOR_WARN, "disk",
                   "raise checkpoint.every, or set run.out on a faster disk",
                   "%s: %.0f MB/s written and synced, %.0f ms for a rename", folder, speed,
                   1e3 * rename_s);
    } else {
        doctor_add(doctor, DOCTOR_OK, "disk", NULL,
                   "%s: %.0f MB/s written and synced, %.1f ms for a rename", folder, speed,
                   1e3 * rename_s);
    }
    free(renamed);
    free(path);
}

void doctor_disk(Doctor *doctor, const char *folder)
{
    if (!path_is_dir(folder)) {
        doctor_add(doctor, DOCTOR_BAD, "disk", "name a folder that exists", "'%s' is no folder",
                   folder);
        return;
    }
    check_file_system(doctor, folder);
    check_space(doctor, folder);
    check_speed(doctor, folder);
}
