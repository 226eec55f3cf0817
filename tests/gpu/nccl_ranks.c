/* NCCL through the program's own communicator: sums of one rank are what it put in, broadcasts come from the root; two ranks
 * on the same GPU add up, where NCCL lets them share it (it usually does not: then its message is printed and the case is
 * skipped). Ranks are children of this program, which itself never touches the device.
 *
 * Skipped as a whole where there is no CUDA part or no GPU. CUDISTILL_CUDA_LIBRARY as for the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/log.h"
#include "comm/comm.h"
#include "graph/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 100003, PERIOD = 7, SKIPPED = 77, WRONG = 3, OPEN_S = 60, MAX_RANKS = 2 };

static const char *program;

/* ---- One rank ---- */

static void must(Err *err)
{
    if (err) {
        fprintf(stderr, "rank: %s\n", err->message);
        exit(err->code);
    }
}

/* Small whole numbers: exact in every type, in any order of adding. */
static double value_of(int rank, int i)
{
    return (double)((rank + 1) * (i % PERIOD + 1));
}

static bool sums_right(Backend *b, Comm *comm, CommType type, DType dtype)
{
    const size_t bytes = COUNT * dtype_size(dtype);
    unsigned char *host = xmalloc(bytes);
    void *device = b->alloc(b, MEM_DEVICE, bytes);
    int wrong = 0;
    CHECK(device, "no device memory");
    for (int i = 0; i < COUNT; i++) {
        dtype_store(dtype, host, (size_t)i, value_of(comm->rank, i));
    }
    b->upload(b, QUEUE_COMPUTE, device, host, bytes);
    must(comm->all_reduce(comm, b->native_queue(b, QUEUE_COMPUTE), device, COUNT, type));
    b->download(b, QUEUE_COMPUTE, host, device, bytes);
    b->sync(b, QUEUE_COMPUTE);
    must(comm->check(comm));
    for (int i = 0; i < COUNT; i++) {
        double wanted = 0.0;
        for (int r = 0; r < comm->world; r++) {
            wanted += value_of(r, i);
        }
        wrong += dtype_load(dtype, host, (size_t)i) != wanted;
    }
    printf("rank %d of %d: sums of %d %s, %d wrong\n", comm->rank, comm->world, COUNT,
           dtype_name(dtype), wrong);
    b->free(b, MEM_DEVICE, device);
    free(host);
    return wrong == 0;
}

static bool broadcast_right(Backend *b, Comm *comm)
{
    const int root = comm->world - 1;
    int32_t value[4] = {comm->rank, 11 * comm->rank, -comm->rank, 5};
    void *device = b->alloc(b, MEM_DEVICE, sizeof value);
    CHECK(device, "no device memory");
    b->upload(b, QUEUE_COMPUTE, device, value, sizeof value);
    must(comm->broadcast(comm, b->native_queue(b, QUEUE_COMPUTE), device, sizeof value, root));
    b->download(b, QUEUE_COMPUTE, value, device, sizeof value);
    b->sync(b, QUEUE_COMPUTE);
    b->free(b, MEM_DEVICE, device);
    return value[0] == root && value[1] == 11 * root && value[2] == -root && value[3] == 5;
}

/* The id goes from rank 0 to the others by a pipe. */
static void share_id(int rank, int world, int fd, unsigned char id[COMM_ID_BYTES])
{
    if (rank == 0) {
        must(comm_new_id("nccl", id));
        for (int r = 1; r < world; r++) {
            CHECK(write(fd, id, COMM_ID_BYTES) == COMM_ID_BYTES, "the id cannot be handed on");
        }
    } else if (read(fd, id, COMM_ID_BYTES) != COMM_ID_BYTES) {
        exit(EXIT_PEER); /* rank 0 has said why */
    }
    close(fd);
}

/* NCCL by default refuses two ranks on one device. */
static bool refused_sharing(const Err *err)
{
    return strstr(err->message, "uplicate GPU") || strstr(err->message, "nvalid usage") ||
           strstr(err->message, "closed by remote");
}

static int rank_main(int rank, int world, int fd)
{
    Backend *backend = NULL;
    Comm *comm = NULL;
    CommOptions options = {.rank = rank, .world = world, .timeout_s = OPEN_S};
    Err *err = backend_open("cuda", &(BackendOptions){0}, &backend);
    if (err) {
        printf("%s\n", err->message);
        return err->code == EXIT_NO_DEVICE ? SKIPPED : err->code;
    }
    share_id(rank, world, fd, options.id);
    err = comm_open("nccl", &options, &comm);
    if (err) {
        printf("rank %d of %d: %s\n", rank, world, err->message);
        return world > 1 && refused_sharing(err) ? SKIPPED : err->code;
    }
    const bool right = sums_right(backend, comm, COMM_F32, DT_F32) &&
                       sums_right(backend, comm, COMM_F16, DT_F16) &&
                       sums_right(backend, comm, COMM_BF16, DT_BF16) &&
                       broadcast_right(backend, comm);
    comm_close(comm);
    backend_close(backend);
    return right ? 0 : WRONG;
}

/* ---- Cases ---- */

static pid_t start_rank(int rank, int world, int fd)
{
    char texts[3][16];
    const int numbers[] = {rank, world, fd};
    for (int i = 0; i < 3; i++) {
        snprintf(texts[i], sizeof texts[i], "%d", numbers[i]);
    }
    const pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, texts[0], texts[1], texts[2], (char *)NULL);
        _exit(WRONG);
    }
    return pid;
}

static void run_ranks(int world)
{
    pid_t pids[MAX_RANKS];
    int ends[2];
    int worst = 0;
    bool skipped = false;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    for (int r = 0; r < world; r++) {
        pids[r] = start_rank(r, world, ends[r > 0 ? 0 : 1]);
        assert_true(pids[r] > 0);
        if (r == 0) {
            close(ends[1]); /* so that the others read an end, should rank 0 fail */
        }
    }
    close(ends[0]);
    for (int r = 0; r < world; r++) {
        int status = 0;
        assert_int_equal(waitpid(pids[r], &status, 0), pids[r]);
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : WRONG;
        skipped |= code == SKIPPED;
        worst = code != 0 && code != SKIPPED && code != EXIT_PEER ? code : worst;
        worst = code == EXIT_PEER && !skipped ? code : worst;
    }
    assert_int_equal(worst, 0);
    if (skipped) {
        print_message("skipped: see above\n");
        skip();
    }
}

static void test_one_rank(void **state)
{
    (void)state;
    run_ranks(1);
}

static void test_two_ranks_on_one_gpu(void **state)
{
    (void)state;
    run_ranks(2);
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 4) {
        return rank_main((int)strtol(argv[1], NULL, 10), (int)strtol(argv[2], NULL, 10),
                         (int)strtol(argv[3], NULL, 10));
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_rank),
                                       cmocka_unit_test(test_two_ranks_on_one_gpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
