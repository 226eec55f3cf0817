/* CIFAR-10 and CIFAR-100, "binary version" (https://www.cs.toronto.edu/~kriz/cifar.html).
 *
 * A record is the label byte (CIFAR-10) or the coarse and the fine label byte (CIFAR-100; the fine
 * one is used), then 1024 bytes each of red, green and blue, row-major 32 x 32. Record counts and
 * label ranges are checked strictly. The MD5 of an archive is compared with the published one; a
 * different archive is used with a warning, because mirrors repack. No global state: safe from any
 * thread. */
#ifndef CUDISTILL_DATA_CIFAR_H
#define CUDISTILL_DATA_CIFAR_H

#include "data/dataset.h"
#include <stdbool.h>

typedef enum { CIFAR_10, CIFAR_100 } CifarKind;

enum {
    CIFAR_SIDE = 32,
    CIFAR_PIXELS = CIFAR_SIDE * CIFAR_SIDE,
    CIFAR_TRAIN_COUNT = 50000,
    CIFAR_TEST_COUNT = 10000
};

/* Opens a split from, in this order,
 *   a file: the .tar.gz (any compression libarchive knows), read without unpacking to disk;
 *   a folder with the .bin files;
 *   a folder with cifar-10-batches-bin/ or cifar-100-binary/ in it;
 *   a folder with the official archive in it.
 *
 * Class names come from fine_label_names.txt (CIFAR-100) or are built in (CIFAR-10); without the
 * file they are "class 0", "class 1", ... */
Err *cifar_open(CifarKind kind, const char *path, Split split, Dataset **out);

/* Bytes of one record: 3073 or 3074. */
size_t cifar_record_size(CifarKind kind);

/* Decodes exactly `count` records from data[0..size) to HWC images and labels. `where` is put into
 * messages. EXIT_BAD_DATA when size is not count records or a label is out of range (message: file,
 * record, byte offset). */
Err *cifar_parse(CifarKind kind, const char *where, const uint8_t *data, size_t size,
                 uint32_t count, uint8_t *images, int32_t *labels);

/* What an archive with this MD5 (32 hex digits) is. */
typedef enum {
    CIFAR_MD5_UNKNOWN,
    CIFAR_MD5_OFFICIAL,     /* the binary version of this kind */
    CIFAR_MD5_OTHER_FORMAT, /* the python or Matlab version: cannot be read */
    CIFAR_MD5_OTHER_SET     /* the binary version of the other kind */
} CifarMd5;
CifarMd5 cifar_md5_kind(CifarKind kind, const char *md5);

/* What is known of the order of the training records: positions in the set mean the same images as elsewhere only in the
 * official order, and mirrors keep the images but not always their order. */
typedef enum {
    CIFAR_ORDER_OFFICIAL,
    CIFAR_ORDER_OTHER,  /* train.bin is not the official one */
    CIFAR_ORDER_UNKNOWN /* CIFAR-10 unpacked, or an archive that was repacked */
} CifarOrder;

/* By the MD5 of the archive, or of CIFAR-100's unpacked train.bin. `source` is Dataset.source of a set that cifar_open made.
 * EXIT_NO_INPUT when it is no longer there. */
Err *cifar_order(CifarKind kind, const char *source, CifarOrder *out);
/* Whether the unpacked training records with this MD5 are the official ones. */
bool cifar_md5_train(CifarKind kind, const char *md5);
/* Dataset.name of a set that cifar_open made: which kind it is; false for other names. */
bool cifar_named(const char *name, CifarKind *kind);
/* How to get the official archive, as the end of a message. Caller frees. */
char *cifar_cure(CifarKind kind);

#endif
