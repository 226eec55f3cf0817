/* Fuzz targets: what they share.
 *
 * A target is a function fuzz_NAME(data, size) in fuzz_NAME.c that feeds one input to a parser and checks what the parser
 * promises beyond not crashing; a broken promise ends the process. The same functions run in two programs: under libFuzzer,
 * one program a target (fuzz_entry.c, `make fuzz`), and in test_fuzz_replay.c, which gives every kept input to every
 * target under the ordinary compiler.
 *
 * Nothing touches the disk. fuzz_files.c stands in, through the linker's --wrap, for the functions that reach it: paths
 * name files in memory, each in a block of exactly its size, so that AddressSanitizer sees the first byte read beyond it. */
#ifndef CUDISTILL_TESTS_FUZZ_H
#define CUDISTILL_TESTS_FUZZ_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Adds NAME to this list, to FUZZ_TARGETS of fuzz.mk, and a fuzz_NAME.c. */
#define FUZZ_FOR_EACH_TARGET(use)                                                                  \
    use(config) use(set) use(safetensors) use(pickle) use(pth) use(pth_old) use(manifest)          \
        use(cifar) use(targz) use(npy) use(events)
#define FUZZ_DECLARE(name) int fuzz_##name(const uint8_t *data, size_t size);
FUZZ_FOR_EACH_TARGET(FUZZ_DECLARE)

/* Ends the process with a message. */
_Noreturn void fuzz_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define FUZZ_CHECK(cond, ...)                                                                      \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fuzz_fail(__FILE__, __LINE__, __VA_ARGS__);                                            \
        }                                                                                          \
    } while (0)

/* Frees an error after checking its code and that its message says something. True when there was one. */
bool fuzz_refused(Err *err, ExitCode code);
/* The library promised that this works. */
void fuzz_ok(Err *err);

/* ---- Files in memory ---- */

enum { FUZZ_FILES_MAX = 4 };
/* Makes PATH a file with these bytes until fuzz_files_clear; the bytes must live as long. */
void fuzz_file_add(const char *path, const void *data, size_t size);
void fuzz_files_clear(void);
/* What was last written through file_write_atomic...; owned here until the next write. Also readable as a file under the
 * path it was written to. */
const uint8_t *fuzz_written(size_t *size);

/* ---- Reading an input piece by piece ---- */

typedef struct {
    const uint8_t *at;
    size_t left;
} FuzzInput;
uint8_t fuzz_byte(FuzzInput *input); /* 0 at the end */
uint16_t fuzz_u16(FuzzInput *input);
/* The next min(size, left) bytes. */
FuzzInput fuzz_take(FuzzInput *input, size_t size);
/* A copy with a NUL behind it, NULs inside replaced by spaces; caller frees. */
char *fuzz_text(FuzzInput input);

/* ---- Building files around an input ---- */

typedef struct {
    uint8_t *data;
    size_t size, capacity;
} FuzzBytes;
void fuzz_put(FuzzBytes *bytes, const void *data, size_t size);
void fuzz_put_number(FuzzBytes *bytes, uint64_t number, int size); /* little-endian */
void fuzz_bytes_free(FuzzBytes *bytes);

#endif
