/* The teacher's memo as one append-only file: header, index, records. Writing goes through pwrite, so that a full disk is
 * an error that can be answered and not a signal; reading goes through a shared map, since an epoch reads as many records
 * as there are samples. How many records there are follows from the file's size. */
#include "distill/memo.h"

#include "base/files.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { VERSION = 1, PAGE = 4096, HEADER_BYTES = 2 * PAGE, OPEN_ATTEMPTS = 8 };
static const char MAGIC[8] = {'C', 'D', 'M', 'E', 'M', 'O', '\r', '\n'};

typedef struct {
    char magic[8];
    uint32_t version, samples, views, record_bytes;
    char key[MEMO_KEY_MAX];
    uint64_t check; /* of all before */
} Header;
_Static_assert(sizeof(Header) <= HEADER_BYTES, "the header fits before the index");

struct Memo {
    MemoConfig config;
    char *path;
    int fd;
    const uint8_t *map;
    size_t map_bytes;
    size_t records_at; /* offset of the first record */
    size_t slot_bytes; /* checksum and values, rounded up */
    uint8_t *staging;  /* slots on their way to the file */
    uint32_t staging_slots;
    MemoStats stats;
};

/* ---- Layout ---- */

static size_t slot_size(size_t record_bytes)
{
    return (sizeof(uint64_t) + record_bytes + 7) / 8 * 8;
}

static size_t records_offset(uint64_t entries)
{
    return HEADER_BYTES + (entries * sizeof(uint32_t) + PAGE - 1) / PAGE * PAGE;
}

uint64_t memo_full_bytes(uint32_t samples, uint32_t views, size_t record_bytes)
{
    const uint64_t entries = (uint64_t)samples * views;
    return records_offset(entries) + entries * slot_size(record_bytes);
}

static uint64_t entry_of(const Memo *memo, uint32_t sample, uint32_t view)
{
    CHECK(sample < memo->config.samples && view < memo->config.views, "view %u of sample %u", view,
          sample);
    return (uint64_t)sample * memo->config.views + view;
}

/* Bound to the entry, so that a record in another's place is not taken for it. */
static uint64_t checksum(const void *values, size_t bytes, uint64_t entry)
{
    return XXH3_64bits_withSeed(values, bytes, entry + 1);
}

static Header make_header(const MemoConfig *config)
{
    Header header;
    memset(&header, 0, sizeof header);
    memcpy(header.magic, MAGIC, sizeof MAGIC);
    header.version = VERSION;
    header.samples = config->samples;
    header.views = config->views;
    header.record_bytes = (uint32_t)config->record_bytes;
    memcpy(header.key, config->key, strlen(config->key));
    header.check = XXH3_64bits(&header, offsetof(Header, check));
    return header;
}

/* ---- Opening ---- */

static Err *io_error(const char *what, const char *path, int reason)
{
    const ExitCode code =
        reason == EACCES || reason == EPERM || reason == EROFS ? EXIT_NOT_PERMITTED : EXIT_IO;
    return err_new(code,
                   "cannot %s the teacher's memo '%s': %s; choose another teacher.memo_dir, or "
                   "set teacher.memo = off",
                   what, path, strerror(reason));
}

static Err *check_config(const MemoConfig *config)
{
    const uint64_t entries = (uint64_t)config->samples * config->views;
    CHECK(strlen(config->key) < MEMO_KEY_MAX, "a key of %zu bytes", strlen(config->key));
    if (entries == 0 || entries >= UINT32_MAX) {
        return err_new(EXIT_CONFIG_ERR,
                       "teacher.memo: %u samples in %u views are more than a memo can hold; set "
                       "teacher.memo = off",
                       config->samples, config->views);
    }
    const uint64_t least = records_offset(entries) + slot_size(config->record_bytes);
    if (config->max_bytes < least) {
        return err_new(EXIT_CONFIG_ERR,
                       "teacher.memo_mib: %u samples in %u views need at least %llu MiB, and %llu "
                       "MiB for all of them",
                       config->samples, config->views, (unsigned long long)(least >> 20) + 1,
                       (unsigned long long)(memo_full_bytes(config->samples, config->views,
                                                            config->record_bytes) >>
                                            20) +
                           1);
    }
    return NULL;
}

/* 0 or the system's reason. */
static int write_all(int fd, const void *data, size_t size, off_t at)
{
    const uint8_t *from = data;
    while (size > 0) {
        const ssize_t wrote = pwrite(fd, from, size, at);
        if (wrote < 0 && errno != EINTR) {
            return errno;
        }
        if (wrote > 0) {
            from += wrote;
            size -= (size_t)wrote;
            at += wrote;
        }
    }
    return 0;
}

/* A new file without records, under its name only when it is whole. Somebody else's that appeared meanwhile is as good. */
static Err *create(const Memo *memo)
{
    char *temporary = xformat("%s.XXXXXX", memo->path);
    const int fd = mkostemp(temporary, O_CLOEXEC);
    int reason = fd < 0 ? errno : 0;
    if (fd >= 0) {
        const Header header = make_header(&memo->config);
        if (fchmod(fd, 0644) != 0 || ftruncate(fd, (off_t)memo->records_at) != 0) {
            reason = errno;
        }
        if (!reason) {
            reason = write_all(fd, &header, sizeof header, 0);
        }
        if (!reason && fsync(fd) != 0) {
            reason = errno;
        }
        if (!reason && link(temporary, memo->path) != 0 && errno != EEXIST) {
            reason = errno;
        }
        (void)close(fd);
        (void)unlink(temporary);
    }
    free(temporary);
    return reason ? io_error("create", memo->path, reason) : NULL;
}

static int lock_exclusively(int fd)
{
    int status;
    do {
        status = flock(fd, LOCK_EX | LOCK_NB);
    } while (status != 0 && errno == EINTR);
    return status == 0 ? 0 : errno;
}

/* Opens the file as writer, or as reader where it is locked or may not be written. *reason: the system's, when it is not
 * opened at all. */
static void open_file(Memo *memo, int *reason)
{
    *reason = 0;
    memo->fd = open(memo->path, O_RDWR | O_CLOEXEC);
    memo->stats.writable = memo->fd >= 0;
    if (memo->fd < 0 && (errno == EACCES || errno == EROFS)) {
        memo->fd = open(memo->path, O_RDONLY | O_CLOEXEC);
    }
    if (memo->fd < 0) {
        *reason = errno;
        return;
    }
    if (!memo->stats.writable) {
        log_info("teacher's memo '%s' may only be read: what it lacks is computed in every epoch",
                 memo->path);
        return;
    }
    const int refused = lock_exclusively(memo->fd);
    memo->stats.writable = refused == 0;
    if (refused) {
        log_info("teacher's memo '%s' is %s: this run reads what is there and adds nothing",
                 memo->path,
                 refused == EWOULDBLOCK ? "being written by another run"
                                        : "on a file system without locks");
    }
}

typedef enum { HEADER_FINE, HEADER_DAMAGED, HEADER_FOREIGN } HeaderState;

static HeaderState read_header(const Memo *memo)
{
    Header header;
    struct stat status;
    if (fstat(memo->fd, &status) != 0 || (uint64_t)status.st_size < memo->records_at ||
        pread(memo->fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        header.check != XXH3_64bits(&header, offsetof(Header, check))) {
        return HEADER_DAMAGED;
    }
    const Header expected = make_header(&memo->config);
    return memcmp(&header, &expected, sizeof header) == 0 ? HEADER_FINE : HEADER_FOREIGN;
}

static void close_file(Memo *memo)
{
    if (memo->fd >= 0) {
        (void)close(memo->fd);
    }
    memo->fd = -1;
}

/* One attempt; *again when the file has to be created or was removed. */
static Err *try_open(Memo *memo, bool *again)
{
    *again = false;
    int reason;
    open_file(memo, &reason);
    if (reason == ENOENT) {
        *again = true;
        return create(memo);
    }
    if (reason) {
        return io_error("open", memo->path, reason);
    }
    switch (read_header(memo)) {
    case HEADER_FINE:
        return NULL;
    case HEADER_FOREIGN:
        return err_new(EXIT_BAD_DATA,
                       "teacher's memo '%s' belongs to another teacher or data set, or another "
                       "version wrote it: remove it",
                       memo->path);
    case HEADER_DAMAGED:
        break;
    }
    if (!memo->stats.writable) {
        return err_new(EXIT_BAD_DATA,
                       "teacher's memo '%s' is damaged and cannot be replaced now: "
                       "remove it, or set teacher.memo = off",
                       memo->path);
    }
    log_warn("teacher's memo '%s' is damaged at its beginning: it is begun anew", memo->path);
    if (unlink(memo->path) != 0 && errno != ENOENT) {
        return io_error("replace", memo->path, errno);
    }
    close_file(memo);
    *again = true;
    return NULL;
}

/* Records in the file by its size; a part of one at the end is overwritten by the next. */
static uint64_t count_records(const Memo *memo)
{
    struct stat status;
    if (fstat(memo->fd, &status) != 0 || (uint64_t)status.st_size < memo->records_at) {
        return 0;
    }
    return ((uint64_t)status.st_size - memo->records_at) / memo->slot_bytes;
}

static Err *map_records(Memo *memo)
{
    const uint64_t entries = (uint64_t)memo->config.samples * memo->config.views;
    const uint64_t most =
        2 * entries < UINT32_MAX ? 2 * entries : UINT32_MAX - 1; /* with orphans */
    const uint64_t fitting = (memo->config.max_bytes - memo->records_at) / memo->slot_bytes;
    memo->stats.capacity = fitting < most ? fitting : most;
    memo->stats.stored = count_records(memo);
    /* Address space beyond the file's end is never touched; records that others append appear in it. */
    const uint64_t slots =
        memo->stats.capacity > memo->stats.stored ? memo->stats.capacity : memo->stats.stored;
    memo->map_bytes = memo->records_at + slots * memo->slot_bytes;
    void *map = mmap(NULL, memo->map_bytes, PROT_READ, MAP_SHARED, memo->fd, 0);
    if (map == MAP_FAILED) {
        return io_error("map", memo->path, errno);
    }
    memo->map = map;
    return NULL;
}

Err *memo_open(const MemoConfig *config, Memo **out)
{
    *out = NULL;
    TRY(check_config(config));
    TRY(dir_make(config->dir));
    char name[33];
    hash_hex(config->key, strlen(config->key), name);
    char *file = xformat("%s.memo", name);
    Memo *memo = xcalloc(1, sizeof *memo);
    memo->config = *config;
    memo->path = path_join(config->dir, file);
    free(file);
    memo->fd = -1;
    memo->slot_bytes = slot_size(config->record_bytes);
    memo->records_at = records_offset((uint64_t)config->samples * config->views);
    Err *err = NULL;
    bool again = true;
    for (int i = 0; i < OPEN_ATTEMPTS && again && !err; i++) {
        err = try_open(memo, &again);
    }
    if (!err && again) {
        err = err_new(EXIT_IO,
                      "teacher's memo '%s' vanishes whenever it is created: is another "
                      "program clearing the folder?",
                      memo->path);
    }
    if (!err) {
        err = map_records(memo);
    }
    if (err) {
        memo_close(memo);
        return err;
    }
    memo->config.key = NULL; /* the caller's memory, used above only */
    memo->config.dir = NULL;
    *out = memo;
    return NULL;
}

void memo_close(Memo *memo)
{
    if (!memo) {
        return;
    }
    if (memo->map) {
        (void)munmap((void *)memo->map, memo->map_bytes);
    }
    close_file(memo);
    free(memo->staging);
    free(memo->path);
    free(memo);
}

/* ---- Reading ---- */

bool memo_get(Memo *memo, uint32_t sample, uint32_t view, void *values)
{
    const uint64_t entry = entry_of(memo, sample, view);
    const uint32_t *index = (const uint32_t *)(const void *)(memo->map + HEADER_BYTES);
    const uint32_t word = __atomic_load_n(&index[entry], __ATOMIC_ACQUIRE);
    if (word == 0) {
        return false;
    }
    const uint64_t slot = word - 1;
    if (slot >= __atomic_load_n(&memo->stats.stored, __ATOMIC_RELAXED)) {
        /* Another process may have added it. */
        __atomic_store_n(&memo->stats.stored, count_records(memo), __ATOMIC_RELAXED);
    }
    const size_t at = memo->records_at + slot * memo->slot_bytes;
    if (slot < __atomic_load_n(&memo->stats.stored, __ATOMIC_RELAXED) &&
        at + memo->slot_bytes <= memo->map_bytes) {
        uint64_t check;
        memcpy(&check, memo->map + at, sizeof check);
        memcpy(values, memo->map + at + sizeof check, memo->config.record_bytes);
        if (check == checksum(values, memo->config.record_bytes, entry)) {
            return true;
        }
    }
    if (__atomic_fetch_add(&memo->stats.damaged, 1, __ATOMIC_RELAXED) == 0) {
        log_warn(
            "teacher's memo '%s': a record is damaged (sample %u, view %u); what is damaged is "
            "computed again",
            memo->path, sample, view);
    }
    return false;
}

/* ---- Writing ---- */

static void stop_adding(Memo *memo, const char *why)
{
    memo->stats.full = true;
    log_warn("teacher's memo '%s' stays at %llu records: %s; what it lacks is computed in every "
             "epoch",
             memo->path, (unsigned long long)memo->stats.stored, why);
}

static void stage(Memo *memo, uint32_t count, const uint32_t *samples, const uint32_t *views,
                  const void *values)
{
    if (memo->staging_slots < count) {
        free(memo->staging);
        memo->staging = xcalloc(count, memo->slot_bytes);
        memo->staging_slots = count;
    }
    const size_t bytes = memo->config.record_bytes;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *from = (const uint8_t *)values + i * bytes;
        uint8_t *slot = memo->staging + i * memo->slot_bytes;
        const uint64_t check = checksum(from, bytes, entry_of(memo, samples[i], views[i]));
        memcpy(slot, &check, sizeof check);
        memcpy(slot + sizeof check, from, bytes);
    }
}

void memo_put(Memo *memo, uint32_t count, const uint32_t *samples, const uint32_t *views,
              const void *values)
{
    if (!memo->stats.writable || memo->stats.full || count == 0) {
        return;
    }
    const uint64_t first = memo->stats.stored;
    const uint64_t room = memo->stats.capacity > first ? memo->stats.capacity - first : 0;
    const uint32_t fitting = room < count ? (uint32_t)room : count;
    stage(memo, fitting, samples, views, values);
    int reason = write_all(memo->fd, memo->staging, fitting * memo->slot_bytes,
                           (off_t)(memo->records_at + first * memo->slot_bytes));
    for (uint32_t i = 0; i < fitting && !reason; i++) {
        const uint32_t word = (uint32_t)(first + i + 1);
        const uint64_t entry = entry_of(memo, samples[i], views[i]);
        reason =
            write_all(memo->fd, &word, sizeof word, (off_t)(HEADER_BYTES + entry * sizeof word));
    }
    if (reason) {
        stop_adding(memo, strerror(reason));
        return;
    }
    memo->stats.stored = first + fitting;
    if (fitting < count) {
        stop_adding(memo, "teacher.memo_mib allows no more");
    }
}

const char *memo_path(const Memo *memo)
{
    return memo->path;
}

MemoStats memo_stats(const Memo *memo)
{
    return memo->stats;
}
