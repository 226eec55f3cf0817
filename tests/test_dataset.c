/* Data sets: CIFAR records, folders and archives made here, good and damaged; the real CIFAR-100
 * where it is present; the drawn set: same bytes on every machine and from any thread. */
#include "data/dataset.h"

#include "base/err.h"
#include "base/files.h"
#include "base/rng.h"
#include "data/cifar.h"
#include "data/synthetic.h"
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { IMAGE = 3 * CIFAR_PIXELS, RECORD10 = IMAGE + 1, RECORD100 = IMAGE + 2 };

static void expect_error(Err *err, ExitCode code, const char *const *words)
{
    assert_non_null(err);
    assert_int_equal(err->code, code);
    for (; *words; words++) {
        if (!strstr(err->message, *words)) {
            fail_msg("'%s' is not in: %s", *words, err->message);
        }
    }
    err_free(err);
}

#define EXPECT_ERROR(err, code, ...)                                                               \
    expect_error(err, code, (const char *const[]){__VA_ARGS__, NULL})

static Dataset *open_set(const char *spec, Split split)
{
    Dataset *dataset = NULL;
    Err *err = dataset_open(spec, split, &dataset);
    if (err) {
        fail_msg("%s", err->message);
    }
    assert_non_null(dataset);
    return dataset;
}

static void expect_open_error_at(const char *kind, const char *path, Split split, ExitCode code,
                                 const char *const *words)
{
    char *spec = xformat("%s:%s", kind, path);
    Dataset *dataset = NULL;
    Err *err = dataset_open(spec, split, &dataset);
    assert_null(dataset);
    free(spec);
    expect_error(err, code, words);
}

#define EXPECT_OPEN_ERROR(kind, path, split, code, ...)                                            \
    expect_open_error_at(kind, path, split, code, (const char *const[]){__VA_ARGS__, NULL})

/* ---- records ---- */

static uint8_t pattern(uint32_t record, int channel, int y, int x)
{
    return (uint8_t)(record * 31 + (uint32_t)channel * 67 + (uint32_t)y * 5 + (uint32_t)x * 3);
}

/* Records as the format's description has them. */
static void make_records(uint8_t *out, CifarKind kind, uint32_t first, uint32_t count)
{
    for (uint32_t r = first; r < first + count; r++) {
        if (kind == CIFAR_100) {
            *out++ = (uint8_t)(r % 20);
        }
        *out++ = (uint8_t)(r * 7 % (kind == CIFAR_100 ? 100 : 10));
        for (int c = 0; c < 3; c++) {
            for (int y = 0; y < 32; y++) {
                for (int x = 0; x < 32; x++) {
                    *out++ = pattern(r, c, y, x);
                }
            }
        }
    }
}

static void check_image(const uint8_t *image, uint32_t record)
{
    for (int y = 0; y < 32; y++) {
        for (int x = 0; x < 32; x++) {
            for (int c = 0; c < 3; c++) {
                assert_int_equal(image[(y * 32 + x) * 3 + c], pattern(record, c, y, x));
            }
        }
    }
}

static void test_records(void **state)
{
    (void)state;
    enum { COUNT = 30 };
    static uint8_t data[COUNT * RECORD100];
    static uint8_t images[COUNT * IMAGE];
    int32_t labels[COUNT];
    assert_int_equal(cifar_record_size(CIFAR_10), RECORD10);
    assert_int_equal(cifar_record_size(CIFAR_100), RECORD100);
    for (int kind = CIFAR_10; kind <= CIFAR_100; kind++) {
        const size_t size = COUNT * cifar_record_size((CifarKind)kind);
        make_records(data, (CifarKind)kind, 0, COUNT);
        assert_null(cifar_parse((CifarKind)kind, "here", data, size, COUNT, images, labels));
        for (uint32_t r = 0; r < COUNT; r++) {
            assert_int_equal(labels[r], r * 7 % (kind == CIFAR_100 ? 100 : 10));
            check_image(images + r * IMAGE, r);
        }
        EXPECT_ERROR(cifar_parse((CifarKind)kind, "here", data, size - 1, COUNT, images, labels),
                     EXIT_BAD_DATA, "here", "cut short", "expected");
        EXPECT_ERROR(cifar_parse((CifarKind)kind, "here", data, size, COUNT - 1, images, labels),
                     EXIT_BAD_DATA, "here", "not this set's");
        EXPECT_ERROR(cifar_parse((CifarKind)kind, "here", data, 0, COUNT, images, labels),
                     EXIT_BAD_DATA, "0 bytes");
    }
    data[3 * RECORD100 + 1] = 100;
    EXPECT_ERROR(cifar_parse(CIFAR_100, "here", data, sizeof data, COUNT, images, labels),
                 EXIT_BAD_DATA, "here", "record 3", "offset 9223", " label 100", "below 100",
                 "cs.toronto.edu");
    data[2 * RECORD100] = 20;
    EXPECT_ERROR(cifar_parse(CIFAR_100, "here", data, sizeof data, COUNT, images, labels),
                 EXIT_BAD_DATA, "record 2", "offset 6148", "coarse label 20", "below 20");
    make_records(data, CIFAR_10, 0, COUNT);
    data[29 * RECORD10] = 10;
    EXPECT_ERROR(cifar_parse(CIFAR_10, "here", data, COUNT * RECORD10, COUNT, images, labels),
                 EXIT_BAD_DATA, "record 29", "offset 89117", "label 10", "below 10");
}

static void test_known_digests(void **state)
{
    (void)state;
    assert_int_equal(cifar_md5_kind(CIFAR_100, "03b5dce01913d631647c71ecec9e9cb8"),
                     CIFAR_MD5_OFFICIAL);
    assert_int_equal(cifar_md5_kind(CIFAR_100, "03B5DCE01913D631647C71ECEC9E9CB8"),
                     CIFAR_MD5_OFFICIAL);
    assert_int_equal(cifar_md5_kind(CIFAR_10, "c32a1d4ab5d03f1284b67883e8d87530"),
                     CIFAR_MD5_OFFICIAL);
    assert_int_equal(cifar_md5_kind(CIFAR_10, "03b5dce01913d631647c71ecec9e9cb8"),
                     CIFAR_MD5_OTHER_SET);
    assert_int_equal(cifar_md5_kind(CIFAR_100, "eb9058c3a382ffc7106e4002c42a8d85"),
                     CIFAR_MD5_OTHER_FORMAT);
    assert_int_equal(cifar_md5_kind(CIFAR_100, "d41d8cd98f00b204e9800998ecf8427e"),
                     CIFAR_MD5_UNKNOWN);
}

/* ---- folders and archives ---- */

typedef struct {
    char dir[64];
    uint8_t *test100; /* a whole test.bin */
} Fixture;

static const size_t TEST100_SIZE = (size_t)CIFAR_TEST_COUNT * RECORD100;

static int setup(void **state)
{
    Fixture *fixture = xcalloc(1, sizeof *fixture);
    snprintf(fixture->dir, sizeof fixture->dir, "/tmp/test_dataset_XXXXXX");
    if (!mkdtemp(fixture->dir)) {
        return -1;
    }
    fixture->test100 = xmalloc(TEST100_SIZE);
    make_records(fixture->test100, CIFAR_100, 0, CIFAR_TEST_COUNT);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;
    err_free(dir_remove(fixture->dir));
    free(fixture->test100);
    free(fixture);
    return 0;
}

static void write_file(const char *dir, const char *name, const void *data, size_t size)
{
    char *path = path_join(dir, name);
    assert_null(file_write_atomic(path, data, size));
    free(path);
}

static char *make_names(int count)
{
    char *text = xstrdup("");
    for (int c = 0; c < count; c++) {
        char *longer = xformat("%sname_%d\n", text, c);
        free(text);
        text = longer;
    }
    return text;
}

typedef struct {
    const char *name;
    const void *data;
    size_t size;
} Member;

static char *make_archive(const char *dir, const char *name, const Member *members, int count)
{
    char *path = path_join(dir, name);
    struct archive *archive = archive_write_new();
    assert_int_equal(archive_write_add_filter_gzip(archive), ARCHIVE_OK);
    assert_int_equal(archive_write_set_options(archive, "gzip:compression-level=1"), ARCHIVE_OK);
    assert_int_equal(archive_write_set_format_ustar(archive), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(archive, path), ARCHIVE_OK);
    for (int m = 0; m < count; m++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, members[m].name);
        archive_entry_set_size(entry, (la_int64_t)members[m].size);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        assert_int_equal(archive_write_data(archive, members[m].data, members[m].size),
                         members[m].size);
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
    return path;
}

static void check_test100(const Dataset *dataset)
{
    assert_string_equal(dataset->name, "cifar100");
    assert_int_equal(dataset->split, SPLIT_TEST);
    assert_int_equal(dataset->count, CIFAR_TEST_COUNT);
    assert_int_equal(dataset->classes, 100);
    assert_true(dataset->height == 32 && dataset->width == 32 && dataset->channels == 3);
    for (uint32_t i = 0; i < dataset->count; i++) {
        assert_int_equal(dataset->labels[i], i * 7 % 100);
    }
    for (uint32_t i = 0; i < dataset->count; i += 1111) {
        check_image(dataset_image(dataset, i), i);
    }
}

/* The same split from every place it may be in: same content, same hash. */
static void test_folders_and_archive(void **state)
{
    const Fixture *fixture = *state;
    char *parent = path_join(fixture->dir, "parent");
    char *folder = path_join(parent, "cifar-100-binary");
    char *packed = path_join(fixture->dir, "packed");
    assert_null(dir_make(folder));
    assert_null(dir_make(packed));
    char *names = make_names(100);
    write_file(folder, "test.bin", fixture->test100, TEST100_SIZE);
    write_file(folder, "fine_label_names.txt", names, strlen(names));
    const Member members[] = {{"cifar-100-binary/readme.txt", "hello", 5},
                              {"cifar-100-binary/fine_label_names.txt", names, strlen(names)},
                              {"cifar-100-binary/test.bin", fixture->test100, TEST100_SIZE}};
    char *archive = make_archive(packed, "cifar-100-binary.tar.gz", members, 3);
    const char *places[] = {folder, parent, archive, packed};
    char hash[DATASET_HASH_CHARS] = "";
    for (int p = 0; p < 4; p++) {
        char *spec = xformat("cifar100:%s", places[p]);
        Dataset *dataset = open_set(spec, SPLIT_TEST);
        check_test100(dataset);
        assert_string_equal(dataset->source, p < 2 ? folder : archive);
        assert_string_equal(dataset->class_names[0], "name_0");
        assert_string_equal(dataset->class_names[99], "name_99");
        assert_int_equal(strlen(dataset->hash), 32);
        if (p == 0) {
            memcpy(hash, dataset->hash, DATASET_HASH_CHARS);
        }
        assert_string_equal(dataset->hash, hash);
        dataset_close(dataset);
        free(spec);
    }
    free(archive);
    free(names);
    free(packed);
    free(folder);
    free(parent);
}

static void test_hash_sees_every_change(void **state)
{
    (void)state;
    char hashes[4][DATASET_HASH_CHARS];
    for (int change = 0; change < 4; change++) {
        Dataset *dataset = dataset_new("test", "test", SPLIT_TRAIN, 4, change == 3 ? 3 : 2, 2, 2);
        for (int i = 0; i < 4; i++) {
            dataset->labels[i] = i % 2;
        }
        for (int i = 0; i < 48; i++) {
            dataset->images[i] = (uint8_t)i;
        }
        dataset->images[47] ^= change == 1;
        dataset->labels[3] ^= change == 2;
        dataset_seal(dataset);
        assert_string_equal(dataset->class_names[1], "class 1");
        memcpy(hashes[change], dataset->hash, DATASET_HASH_CHARS);
        for (int other = 0; other < change; other++) {
            assert_string_not_equal(hashes[change], hashes[other]);
        }
        dataset_close(dataset);
    }
}

/* Holes read as zeros, so that files of full size cost nothing; the first record of each tells
 * them apart. */
static void write_sparse(const char *dir, const char *name, off_t size, const uint8_t *head,
                         size_t head_size)
{
    char *path = path_join(dir, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, head, head_size), head_size);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
    free(path);
}

static void test_cifar10_parts_in_order(void **state)
{
    const Fixture *fixture = *state;
    char *parent = path_join(fixture->dir, "ten");
    char *folder = path_join(parent, "cifar-10-batches-bin");
    char *spec = xformat("cifar10:%s", parent);
    assert_null(dir_make(folder));
    uint8_t head[RECORD10];
    for (uint32_t part = 1; part <= 5; part++) {
        char *name = xformat("data_batch_%u.bin", part);
        make_records(head, CIFAR_10, part, 1);
        write_sparse(folder, name, (off_t)10000 * RECORD10, head, sizeof head);
        free(name);
    }
    Dataset *dataset = open_set(spec, SPLIT_TRAIN);
    assert_int_equal(dataset->count, 50000);
    assert_int_equal(dataset->classes, 10);
    assert_string_equal(dataset->class_names[9], "truck");
    for (uint32_t part = 1; part <= 5; part++) {
        const uint32_t first = (part - 1) * 10000;
        check_image(dataset_image(dataset, first), part);
        assert_int_equal(dataset->labels[first], part * 7 % 10);
        assert_int_equal(dataset->labels[first + 1], 0);
        assert_int_equal(dataset_image(dataset, first + 9999)[3071], 0);
    }
    dataset_close(dataset);
    make_records(head, CIFAR_10, 1, 1);
    write_sparse(folder, "data_batch_3.bin", (off_t)10000 * RECORD10 - 1, head, sizeof head);
    EXPECT_OPEN_ERROR("cifar10", parent, SPLIT_TRAIN, EXIT_BAD_DATA, "data_batch_3.bin",
                      "cut short", "30730000");
    char *gone = path_join(folder, "data_batch_3.bin");
    assert_int_equal(unlink(gone), 0);
    EXPECT_OPEN_ERROR("cifar10", parent, SPLIT_TRAIN, EXIT_NO_INPUT, "data_batch_3.bin");
    free(gone);
    free(spec);
    free(folder);
    free(parent);
}

static void test_damaged_folders(void **state)
{
    const Fixture *fixture = *state;
    char *dir = path_join(fixture->dir, "damaged");
    assert_null(dir_make(dir));
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_NO_INPUT, dir, "test.bin",
                      "cifar-100-binary.tar.gz", "https://");
    char *python = path_join(dir, "cifar-100-python");
    assert_null(dir_make(python));
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "python version",
                      "binary version");
    write_file(dir, "test.bin", fixture->test100, 100000);
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "test.bin", "100000 bytes",
                      "30740000");
    write_file(dir, "test.bin", "", 0);
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "test.bin", "cut short");
    uint8_t head[RECORD100];
    make_records(head, CIFAR_100, 0, 1);
    head[1] = 200;
    write_sparse(dir, "test.bin", (off_t)TEST100_SIZE, head, sizeof head);
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "test.bin", "record 0",
                      "offset 1", "200");
    head[1] = 99;
    write_sparse(dir, "test.bin", (off_t)TEST100_SIZE, head, sizeof head);
    char *spec = xformat("cifar100:%s", dir);
    Dataset *dataset = open_set(spec, SPLIT_TEST);
    assert_string_equal(dataset->class_names[7], "class 7"); /* no file of names is fine */
    dataset_close(dataset);
    char *names = make_names(99);
    write_file(dir, "fine_label_names.txt", names, strlen(names));
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "fine_label_names.txt",
                      "99 class names");
    free(names);
    names = make_names(101);
    write_file(dir, "fine_label_names.txt", names, strlen(names));
    EXPECT_OPEN_ERROR("cifar100", dir, SPLIT_TEST, EXIT_BAD_DATA, "fine_label_names.txt",
                      "101 class names");
    EXPECT_OPEN_ERROR("cifar100", "/nonexistent", SPLIT_TEST, EXIT_NO_INPUT, "/nonexistent",
                      "https://");
    free(names);
    free(spec);
    free(python);
    free(dir);
}

static void test_damaged_archives(void **state)
{
    const Fixture *fixture = *state;
    const char *dir = fixture->dir;
    const Member test = {"x/test.bin", fixture->test100, TEST100_SIZE};
    const Member small = {"x/test.bin", fixture->test100, 3074};
    const Member train = {"x/train.bin", fixture->test100, 3074};
    const Member twice[] = {test, test};
    char *archive = make_archive(dir, "no_member.tar.gz", &train, 1);
    EXPECT_OPEN_ERROR("cifar100", archive, SPLIT_TEST, EXIT_BAD_DATA, "no_member.tar.gz",
                      "no member test.bin");
    free(archive);
    archive = make_archive(dir, "small.tar.gz", &small, 1);
    EXPECT_OPEN_ERROR("cifar100", archive, SPLIT_TEST, EXIT_BAD_DATA,
                      "small.tar.gz, member x/test.bin", "3074 bytes", "cut short");
    free(archive);
    archive = make_archive(dir, "twice.tar.gz", twice, 2);
    EXPECT_OPEN_ERROR("cifar100", archive, SPLIT_TEST, EXIT_BAD_DATA, "x/test.bin", "twice");
    free(archive);
    archive = make_archive(dir, "good.tar.gz", &test, 1);
    struct stat info;
    assert_int_equal(stat(archive, &info), 0);
    for (off_t cut = info.st_size / 2; cut > 0; cut /= 64) {
        assert_int_equal(truncate(archive, cut), 0);
        EXPECT_OPEN_ERROR("cifar100", archive, SPLIT_TEST, EXIT_BAD_DATA, "good.tar.gz");
    }
    free(archive);
    write_file(dir, "noise.tar.gz", fixture->test100 + 5000, 20000);
    char *noise = path_join(dir, "noise.tar.gz");
    EXPECT_OPEN_ERROR("cifar100", noise, SPLIT_TEST, EXIT_BAD_DATA, "noise.tar.gz", "archive");
    free(noise);
}

static void test_bad_specifications(void **state)
{
    (void)state;
    const char *const bad[][2] = {{"mnist:/x", "cifar100:PATH"},
                                  {"", "unknown kind"},
                                  {"cifar", "unknown kind"},
                                  {"cifar1000:/x", "unknown kind"},
                                  {"cifar100", "no path"},
                                  {"cifar10:", "cifar10:PATH"},
                                  {"synthetic:classes=1", "from 2 to 96"},
                                  {"synthetic:classes=97", "from 2 to 96"},
                                  {"synthetic:train=0", "from 1 to"},
                                  {"synthetic:train=-5", "train=-5"},
                                  {"synthetic:train=5x", "train=5x"},
                                  {"synthetic:train=", "whole number"},
                                  {"synthetic:seed=18446744073709551616", "18446744073709551615"},
                                  {"synthetic:colour=3", "unknown key 'colour'"},
                                  {"synthetic:classes", "not key=value"},
                                  {"synthetic:classes=20,,train=5", "not key=value"}};
    for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
        Dataset *dataset = NULL;
        EXPECT_ERROR(dataset_open(bad[b][0], SPLIT_TRAIN, &dataset), EXIT_CONFIG_ERR, bad[b][1]);
        assert_null(dataset);
    }
}

/* ---- the real one ---- */

static const char *real_cifar100(const char *dir)
{
    const char *shared = getenv("CUDISTILL_DATA");
    char *unpack = xformat("%s/cifar100/unpack", shared ? shared : "../shared/data");
    const bool present = path_exists(unpack);
    char *command = xformat("python3 '%s' '%s/real' >/dev/null 2>&1", unpack, dir);
    const bool unpacked = present && system(command) == 0;
    free(command);
    if (!unpacked) {
        print_message("skipped: %s %s\n", unpack,
                      present ? "failed (it needs python3 with Pillow, or dwebp)"
                              : "is absent (set CUDISTILL_DATA)");
    }
    free(unpack);
    return unpacked ? "real" : NULL;
}

static void check_real_split(const char *dir, Split split)
{
    char *spec = xformat("cifar100:%s", dir);
    char *path = xformat("%s/%s.bin", dir, split_name(split));
    Dataset *dataset = open_set(spec, split);
    FileMap map = {0};
    assert_null(file_map(path, &map));
    assert_int_equal(map.size, dataset->count * (size_t)RECORD100);
    assert_int_equal(dataset->count, split == SPLIT_TRAIN ? 50000 : 10000);
    assert_string_equal(dataset->class_names[0], "apple");
    assert_string_equal(dataset->class_names[99], "worm");
    uint32_t per_class[100] = {0};
    for (uint32_t i = 0; i < dataset->count; i++) {
        const uint8_t *record = map.data + (size_t)i * RECORD100;
        assert_int_equal(dataset->labels[i], record[1]);
        per_class[record[1]]++;
        const int p = (int)(i * 977 % CIFAR_PIXELS);
        const uint8_t *pixel = dataset_image(dataset, i) + 3 * p;
        assert_int_equal(pixel[0], record[2 + p]);
        assert_int_equal(pixel[1], record[2 + 1024 + p]);
        assert_int_equal(pixel[2], record[2 + 2048 + p]);
    }
    for (int c = 0; c < 100; c++) {
        assert_int_equal(per_class[c], dataset->count / 100);
    }
    file_unmap(&map);
    dataset_close(dataset);
    free(path);
    free(spec);
}

static void test_real_cifar100(void **state)
{
    const Fixture *fixture = *state;
    const char *name = real_cifar100(fixture->dir);
    if (!name) {
        skip();
    }
    char *dir = path_join(fixture->dir, name);
    check_real_split(dir, SPLIT_TRAIN);
    check_real_split(dir, SPLIT_TEST);
    assert_null(dir_remove(dir));
    free(dir);
}

/* ---- the drawn set ---- */

/* Recorded from this program; any change means that results on older drawings cannot be
 * compared. */
static const char GOLDEN_HASH[] = "d5a587d73cf49636a0c14344633fba37";

static void test_synthetic_is_reproducible(void **state)
{
    (void)state;
    Dataset *train = open_set("synthetic:classes=20,train=600,test=300,seed=3", SPLIT_TRAIN);
    Dataset *again = open_set("synthetic:seed=3,test=1,train=600", SPLIT_TRAIN);
    Dataset *shorter = open_set("synthetic:classes=20,train=200,seed=3", SPLIT_TRAIN);
    Dataset *test = open_set("synthetic:classes=20,train=600,test=300,seed=3", SPLIT_TEST);
    Dataset *reseeded = open_set("synthetic:classes=20,train=600,test=300,seed=4", SPLIT_TRAIN);
    assert_string_equal(train->hash, GOLDEN_HASH);
    assert_string_equal(train->hash, again->hash);
    assert_int_equal(shorter->count, 200);
    assert_int_equal(test->count, 300);
    assert_string_equal(test->source, "synthetic:classes=20,train=600,test=300,seed=3");
    assert_memory_equal(shorter->images, train->images, 200 * IMAGE);
    for (uint32_t i = 0; i < test->count; i++) {
        assert_int_equal(test->labels[i], i % 20);
        assert_memory_not_equal(dataset_image(test, i), dataset_image(train, i), IMAGE);
        assert_memory_not_equal(dataset_image(reseeded, i), dataset_image(train, i), IMAGE);
    }
    dataset_close(reseeded);
    dataset_close(test);
    dataset_close(shorter);
    dataset_close(again);
    dataset_close(train);
}

typedef struct {
    const Dataset *dataset;
    uint32_t first, step, wrong;
} DrawJob;

static void *draw_main(void *argument)
{
    DrawJob *job = argument;
    for (uint32_t i = job->first; i < job->dataset->count; i += job->step) {
        uint8_t image[IMAGE];
        const SyntheticConfig config = {.classes = job->dataset->classes, .seed = 3};
        synthetic_draw(&config, SPLIT_TRAIN, i, image);
        job->wrong += memcmp(image, dataset_image(job->dataset, i), IMAGE) != 0;
    }
    return NULL;
}

static void test_synthetic_from_any_thread(void **state)
{
    (void)state;
    enum { THREADS = 5 };
    Dataset *dataset = open_set("synthetic:train=500,seed=3", SPLIT_TRAIN);
    pthread_t threads[THREADS];
    DrawJob jobs[THREADS];
    for (uint32_t t = 0; t < THREADS; t++) {
        jobs[t] = (DrawJob){.dataset = dataset, .first = THREADS - 1 - t, .step = THREADS};
        assert_int_equal(pthread_create(&threads[t], NULL, draw_main, &jobs[t]), 0);
    }
    for (uint32_t t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_int_equal(jobs[t].wrong, 0);
    }
    dataset_close(dataset);
}

static void test_synthetic_classes(void **state)
{
    (void)state;
    for (int a = 0; a < SYNTHETIC_MAX_CLASSES; a++) {
        const SyntheticClass x = synthetic_class(a);
        assert_in_range(x.shape, 0, SYNTHETIC_SHAPES - 1);
        assert_in_range(x.texture, 0, SYNTHETIC_TEXTURES - 1);
        assert_in_range(x.hue, 0, SYNTHETIC_HUES - 1);
        for (int b = 0; b < a; b++) {
            const SyntheticClass y = synthetic_class(b);
            assert_false(x.shape == y.shape && x.texture == y.texture && x.hue == y.hue);
        }
    }
    /* Near neighbours: each class of the default set shares its shape with one and its texture
     * with another. */
    const SyntheticConfig config = synthetic_default();
    for (int a = 0; a < config.classes; a++) {
        int same_shape = 0;
        int same_texture = 0;
        for (int b = 0; b < config.classes; b++) {
            same_shape += b != a && synthetic_class(b).shape == synthetic_class(a).shape;
            same_texture += b != a && synthetic_class(b).texture == synthetic_class(a).texture;
        }
        assert_true(same_shape >= 1 && same_texture >= 1);
    }
    Dataset *dataset = open_set("synthetic:classes=96,train=96", SPLIT_TRAIN);
    for (int a = 0; a < 96; a++) {
        for (int b = 0; b < a; b++) {
            assert_string_not_equal(dataset->class_names[a], dataset->class_names[b]);
        }
    }
    assert_string_equal(dataset->class_names[1], "red striped square");
    dataset_close(dataset);
}

/* Pixels over many images: neither black nor white nor one colour, and classes of one hue group
 * lean that way. */
static void test_synthetic_statistics(void **state)
{
    (void)state;
    Dataset *dataset = open_set("synthetic:train=2000", SPLIT_TRAIN);
    double sum[3] = {0.0};
    double squares[3] = {0.0};
    const size_t pixels = (size_t)dataset->count * CIFAR_PIXELS;
    for (size_t p = 0; p < pixels; p++) {
        for (int c = 0; c < 3; c++) {
            const double value = dataset->images[3 * p + (size_t)c] / 255.0;
            sum[c] += value;
            squares[c] += value * value;
        }
    }
    for (int c = 0; c < 3; c++) {
        const double mean = sum[c] / (double)pixels;
        const double variance = squares[c] / (double)pixels - mean * mean;
        print_message("channel %d: mean %.4f variance %.4f\n", c, mean, variance);
        assert_true(mean > 0.25 && mean < 0.6);
        assert_true(variance > 0.02 && variance < 0.1);
    }
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_known_digests),
        cmocka_unit_test(test_folders_and_archive),
        cmocka_unit_test(test_hash_sees_every_change),
        cmocka_unit_test(test_cifar10_parts_in_order),
        cmocka_unit_test(test_damaged_folders),
        cmocka_unit_test(test_damaged_archives),
        cmocka_unit_test(test_bad_specifications),
        cmocka_unit_test(test_real_cifar100),
        cmocka_unit_test(test_synthetic_is_reproducible),
        cmocka_unit_test(test_synthetic_from_any_thread),
        cmocka_unit_test(test_synthetic_classes),
        cmocka_unit_test(test_synthetic_statistics),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
