/* A PyTorch process that answers with named tensors: the C side of tests/test_step_torch.py, which tells
 * the form of a record.
 *
 * Use: peer_open and peer_close as group set-up and tear-down; in a test, with peer->requests not NULL,
 * write a line to it, flush, and read records until the script's "end". Any record that is cut short
 * fails the test. */
#ifndef CUDISTILL_TESTS_TORCH_STREAM_H
#define CUDISTILL_TESTS_TORCH_STREAM_H

#include "base/err.h"
#include "base/files.h"
#include "python.h"

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { RECORD_NAME_BYTES = 128, RECORD_MAX = 1 << 26 };

/* PyTorch is slow to start: one process serves all cases. It reads a line for each from a FIFO. */
typedef struct {
    char folder[32]; /* weights of the case */
    FILE *requests;  /* NULL: there is no PyTorch */
    FILE *answers;
} Peer;

typedef struct {
    char name[RECORD_NAME_BYTES];
    int64_t count;
    double fp32, bf16;
    double *values;
} Record;

static inline void read_bytes(FILE *python, void *out, size_t bytes)
{
    if (fread(out, 1, bytes, python) != bytes) {
        fail_msg("test_step_torch.py ended early: its message is above");
    }
}

static inline Record read_record(FILE *python)
{
    Record r;
    read_bytes(python, r.name, sizeof r.name);
    read_bytes(python, &r.count, sizeof r.count);
    read_bytes(python, &r.fp32, sizeof r.fp32);
    read_bytes(python, &r.bf16, sizeof r.bf16);
    assert_true(r.count > 0 && r.count < RECORD_MAX);
    r.values = xmalloc((size_t)r.count * sizeof *r.values);
    read_bytes(python, r.values, (size_t)r.count * sizeof *r.values);
    return r;
}

static inline Record expect_record(FILE *python, const char *name)
{
    const Record r = read_record(python);
    assert_string_equal(r.name, name);
    return r;
}

/* *state becomes the Peer. */
static inline int peer_open(void **state)
{
    Peer *peer = xcalloc(1, sizeof *peer);
    *state = peer;
    if (!python_has("torch, safetensors")) {
        return 0;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* a process that has ended is found at its answers */
    (void)snprintf(peer->folder, sizeof peer->folder, "/tmp/step_XXXXXX");
    assert_non_null(mkdtemp(peer->folder));
    char *fifo = xformat("%s/requests", peer->folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    char *command = xformat("tests/test_step_torch.py %s < %s", peer->folder, fifo);
    peer->answers = python_open(command);
    assert_non_null(peer->answers);
    peer->requests = fopen(fifo, "w");
    assert_non_null(peer->requests);
    free(command);
    free(fifo);
    return 0;
}

static inline int peer_close(void **state)
{
    Peer *peer = *state;
    int status = 0;
    if (peer->requests) {
        (void)fclose(peer->requests);
        status = python_close(peer->answers);
        err_free(dir_remove(peer->folder));
    }
    free(peer);
    return status;
}

#endif
