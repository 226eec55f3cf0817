/* The emulator as a device: sound kernels give the right values in every thread order, counters count, limits hold; and
 * every kind of planted fault (tests/emu/faults.cu) is found. Faults that end the process run in a child. */
#include "tests/kernels/kernel_test.h"

#include "base/rng.h"
#include "tests/emu/faults.h"
#include "tests/kernels/emu_child.h"

enum { N = 1000, BLOCK = 256 };

/* ---- Sound kernels ---- */
static void copies_and_counts(void **state)
{
    (void)state;
    float *const values = kernel_test_values(1, N, -1, 1);
    float got[N];
    count_begin();
    for (int order = 0; order < EMU_ORDERS; order++) {
        emu_set_order(order);
        const float *const x = device_copy(values, sizeof got);
        float *const y = device_alloc(sizeof got);
        CUDA_TEST(probe_copy(NULL, x, y, N));
        device_read(got, y, sizeof got);
        assert_memory_equal(got, values, sizeof got);
        device_free_all();
    }
    count_check("probe_copy:copy", 3.0 * sizeof got, 3.0 * sizeof got, 1.0);
    const EmuCounts last = emu_counts_last("copy");
    assert_int_equal(last.loaded, sizeof got);
    assert_int_equal(last.stored, sizeof got);
    assert_int_equal(last.cached, 0);
    assert_int_equal(last.blocks, (N + BLOCK - 1) / BLOCK);
    assert_int_equal(last.threads, BLOCK);
    assert_int_equal(emu_counts("no such kernel", NULL, NULL), 0);
    free(values);
}

static void fresh_memory_is_poisoned(void **state)
{
    (void)state;
    float got[4];
    const float *const memory = device_alloc(sizeof got);
    device_read(got, memory, sizeof got);
    for (int i = 0; i < 4; i++) {
        assert_true(isnan(got[i]));
    }
    device_free_all();
    assert_int_equal(emu_live_allocations(), 0);
}

typedef struct {
    int n, threads;
    const float *values;
} ReduceCase;
enum { ROWS = 3 };

static void run_reduce(void *context, Outputs *outputs)
{
    const ReduceCase *const own = context;
    const float *const x = device_copy(own->values, sizeof(float) * ROWS * (size_t)own->n);
    float *const y = device_alloc(sizeof(float) * ROWS * 3);
    CUDA_TEST(probe_reduce(NULL, x, y, ROWS, own->n, own->threads));
    output_add(outputs, y, sizeof(float) * ROWS * 3);
}

/* A sum of n values in fp32 by threads and then in a tree: each value meets at most n/threads + 10 roundings. */
static void block_reductions(void **state)
{
    (void)state;
    static const int threads[] = {32, 64, 96, 1024};
    static const int sizes[] = {1, 31, 1000};
    Closeness sums = closeness("block sums");
    for (int k = 0; k < 12; k++) {
        const int n = sizes[k % 3];
        float *const values = kernel_test_values((uint64_t)k, (size_t)ROWS * (size_t)n, -2, 3);
        ReduceCase own = {n, threads[k / 3], values};
        Outputs outputs;
        run_in_orders(run_reduce, &own, &outputs);
        float *const got = output_values(&outputs, 0, KERNEL_F32);
        for (int row = 0; row < ROWS; row++) {
            double sum = 0;
            double square = 0;
            double size = 0;
            float most = -INFINITY;
            for (int i = 0; i < n; i++) {
                const double value = values[row * n + i];
                sum += value;
                size += fabs(value);
                square += value * value;
                most = fmaxf(most, values[row * n + i]);
            }
            const double roundings = (double)n / own.threads + 12;
            close_to(&sums, (size_t)row, got[3 * row], sum, roundings * 0x1p-24 * size);
            close_to(&sums, (size_t)row, got[3 * row + 2], square,
                     (roundings + 1) * 0x1p-24 * square);
            assert_true(got[3 * row + 1] == most);
        }
        free(got);
        free(values);
        outputs_free(&outputs);
    }
    closeness_report(&sums);
}

static void run_scan(void *context, Outputs *outputs)
{
    const float *const x = device_copy(context, 32 * sizeof(float));
    float *const y = device_alloc(32 * sizeof(float));
    unsigned *const positive = device_alloc(sizeof(unsigned));
    CUDA_TEST(probe_scan(NULL, x, y, positive));
    output_add(outputs, y, 32 * sizeof(float));
    output_add(outputs, positive, sizeof(unsigned));
}

static void shuffles_and_ballot(void **state)
{
    (void)state;
    float values[32];
    unsigned want = 0;
    for (int i = 0; i < 32; i++) {
        values[i] = (float)(i * 7 % 11 - 5); /* whole numbers: sums are exact */
        want |= (values[i] > 0 ? 1u : 0u) << i;
    }
    Outputs outputs;
    run_in_orders(run_scan, values, &outputs);
    float total = 0;
    for (int i = 0; i < 32; i++) {
        total += values[i];
        assert_true(((float *)outputs.data[0])[i] == total);
    }
    assert_int_equal(*(unsigned *)outputs.data[1], want);
    outputs_free(&outputs);
}

static void run_cluster_sum(void *context, Outputs *outputs)
{
    const float *const x = device_copy(context, 512 * sizeof(float));
    float *const y = device_alloc(8 * sizeof(float));
    CUDA_TEST(probe_cluster(NULL, x, y, 2));
    output_add(outputs, y, 8 * sizeof(float));
}

static void clusters_share_memory(void **state)
{
    (void)state;
    float values[512];
    double want[2] = {0, 0};
    for (int i = 0; i < 512; i++) {
        values[i] = (float)(i % 37);
        want[i / 256] += values[i];
    }
    Outputs outputs;
    run_in_orders(run_cluster_sum, values, &outputs);
    for (int i = 0; i < 8; i++) {
        assert_true(((float *)outputs.data[0])[i] == (float)(want[i / 4] + i % 4));
    }
    outputs_free(&outputs);
}

static void shared_atomics(void **state)
{
    (void)state;
    uint8_t bytes[5000];
    unsigned want[BLOCK] = {0};
    unsigned got[BLOCK] = {0};
    for (int i = 0; i < 5000; i++) {
        bytes[i] = (uint8_t)(i * i % 251);
        want[bytes[i]]++;
    }
    const uint8_t *const x = device_copy(bytes, sizeof bytes);
    unsigned *const y = device_copy(got, sizeof got);
    CUDA_TEST(probe_histogram(NULL, x, y, 5000));
    device_read(got, y, sizeof got);
    assert_memory_equal(got, want, sizeof got);
    device_free_all();
}

/* ---- Limits of a launch ---- */
static void dynamic_shared_needs_permission(void **state)
{
    (void)state;
    enum { LIMIT = 227 * 1024, FLOATS = LIMIT / 4 };
    float *const values = kernel_test_values(3, FLOATS, 0, 1);
    float *const got = malloc(LIMIT);
    const float *const x = device_copy(values, LIMIT);
    float *const y = device_alloc(LIMIT);
    CUDA_TEST(probe_dynamic(NULL, x, y, 48 * 1024, false));
    assert_int_equal(probe_dynamic(NULL, x, y, 48 * 1024 + 16, false), cudaErrorInvalidValue);
    CUDA_TEST(probe_dynamic(NULL, x, y, LIMIT, true));
    device_read(got, y, LIMIT);
    for (int i = 0; i < FLOATS; i++) {
        assert_true(got[i] == values[FLOATS - 1 - i]);
    }
    assert_int_equal(probe_dynamic(NULL, x, y, LIMIT + 16, true), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    device_free_all();
    free(values);
    free(got);
}

static void shapes_have_limits(void **state)
{
    (void)state;
    CUDA_TEST(probe_shape(NULL, 65535, 1024));
    assert_int_equal(probe_shape(NULL, 65536, 1024), cudaErrorInvalidConfiguration);
    assert_int_equal(probe_shape(NULL, 1, 1025), cudaErrorInvalidConfiguration);
    assert_int_equal(probe_shape(NULL, 0, 32), cudaErrorInvalidConfiguration);
    assert_int_equal(probe_shape(NULL, 1, 0), cudaErrorInvalidConfiguration);
    CUDA_TEST(cudaGetLastError()); /* the launchers' status has cleared it */
}

/* ---- Conversions and randomness: against independent ones ---- */
static void conversions(void **state)
{
    (void)state;
    enum { COUNT = 1 << 16 };
    float *const values = malloc(COUNT * sizeof *values);
    uint16_t *const got = malloc(COUNT * sizeof *got);
    float *const back = malloc(COUNT * sizeof *back);
    for (int part = 0; part < 2; part++) {
        for (int i = 0; i < COUNT; i++) {
            /* Every upper half of fp32 bits; lower halves at, beside and away from the ties of fp16 and bf16. */
            static const uint32_t low[] = {0,      0x8000, 0x7fff, 0x8001,
                                           0x1000, 0x1001, 0x0fff, 0x5a5a};
            const uint32_t bits = (uint32_t)i << 16 | low[(i * 5 + part) % 8];
            memcpy(&values[i], &bits, 4);
        }
        for (int k = 0; k < 2; k++) {
            const KernelType type = k == 0 ? KERNEL_BF16 : KERNEL_F16;
            const float *const x = device_copy(values, COUNT * sizeof *values);
            void *const y = device_alloc(COUNT * sizeof *got);
            float *const z = device_alloc(COUNT * sizeof *back);
            CUDA_TEST(probe_convert(NULL, type, x, y, z, COUNT));
            device_read(got, y, COUNT * sizeof *got);
            device_read(back, z, COUNT * sizeof *back);
            for (int i = 0; i < COUNT; i++) {
                uint16_t want = 0;
                float value = 0;
                kernel_encode(type, &values[i], &want, 1);
                kernel_decode(type, &got[i], &value, 1);
                if (isnan(values[i])) {
                    assert_true(isnan(value) && isnan(back[i]));
                    continue;
                }
                if (got[i] != want || back[i] != value) {
                    fail_msg("%s of %.9g: %04x, want %04x; back %.9g, want %.9g",
                             kernel_type_name(type), (double)values[i], got[i], want,
                             (double)back[i], (double)value);
                }
            }
            device_free_all();
        }
    }
    free(values);
    free(got);
    free(back);
}

static void randomness_is_the_hosts(void **state)
{
    (void)state;
    enum { DRAWS = 50 };
    uint32_t bits[DRAWS];
    uint32_t below[DRAWS];
    float uniform[DRAWS];
    uint32_t *const device_bits = device_alloc(sizeof bits);
    uint32_t *const device_below = device_alloc(sizeof below);
    float *const device_uniform = device_alloc(sizeof uniform);
    const uint64_t seed = 0x123456789abcdef0u;
    const uint64_t sample = 0xfedcba987654u;
    CUDA_TEST(probe_random(NULL, seed, 7, sample, RNG_MIX, device_bits, device_below,
                           device_uniform, DRAWS));
    device_read(bits, device_bits, sizeof bits);
    device_read(below, device_below, sizeof below);
    device_read(uniform, device_uniform, sizeof uniform);
    Rng rng = rng_make(seed, 7, sample, RNG_MIX);
    for (int i = 0; i < DRAWS; i++) {
        assert_int_equal(bits[i], rng_u32(&rng));
        assert_int_equal(below[i], rng_below(&rng, 1000u + (uint32_t)i));
        assert_true(uniform[i] == rng_uniform(&rng));
    }
    device_free_all();
}

/* ---- Faults that show as wrong values in at least one order ---- */
typedef KernelStatus (*FaultRun)(const float *x, float *y);
static KernelStatus run_no_barrier(const float *x, float *y)
{
    return fault_no_barrier(NULL, x, y, 1);
}
static KernelStatus run_reverse(const float *x, float *y)
{
    return probe_reverse(NULL, x, y, 1);
}
static KernelStatus run_no_second_barrier(const float *x, float *y)
{
    return fault_no_second_barrier(NULL, x, y, 3);
}
static KernelStatus run_no_warp_sync(const float *x, float *y)
{
    return fault_no_warp_sync(NULL, x, y);
}

/* Bit o: order o gives wrong values. */
static int wrong_orders(FaultRun run, const float *values, const float *want, int count)
{
    int wrong = 0;
    for (int order = 0; order < EMU_ORDERS; order++) {
        float got[BLOCK];
        emu_set_order(order);
        const float *const x = device_copy(values, BLOCK * sizeof *values);
        float *const y = device_alloc(sizeof got);
        CUDA_TEST(run(x, y));
        device_read(got, y, sizeof got);
        device_free_all();
        wrong |= (memcmp(got, want, (size_t)count * sizeof *want) != 0 ? 1 : 0) << order;
    }
    emu_set_order(EMU_FORWARD);
    return wrong;
}

static void missing_barriers_are_found(void **state)
{
    (void)state;
    float values[BLOCK];
    float reversed[BLOCK];
    float rounds[BLOCK] = {0};
    float swapped[32];
    for (int i = 0; i < BLOCK; i++) {
        values[i] = (float)(i * i % 257);
    }
    for (int i = 0; i < BLOCK; i++) {
        reversed[i] = values[BLOCK - 1 - i];
        for (int round = 0; round < 3; round++) {
            rounds[i] += values[((i + 32) % BLOCK + round) % BLOCK];
        }
    }
    for (int i = 0; i < 32; i++) {
        swapped[i] = values[i ^ 1];
    }
    assert_int_equal(wrong_orders(run_reverse, values, reversed, BLOCK), 0);
    assert_true(wrong_orders(run_no_barrier, values, reversed, BLOCK) != 0);
    assert_true(wrong_orders(run_no_second_barrier, values, rounds, BLOCK) != 0);
    assert_true(wrong_orders(run_no_warp_sync, values, swapped, 32) != 0);
}

static void unwritten_shared_memory_is_poison(void **state)
{
    (void)state;
    for (int order = 0; order < EMU_ORDERS; order++) {
        float got[2 * BLOCK];
        emu_set_order(order);
        float *const y = device_alloc(sizeof got);
        CUDA_TEST(fault_unwritten_shared(NULL, y));
        device_read(got, y, sizeof got);
        for (int i = 0; i < BLOCK; i++) {
            assert_true(got[i] == 1.0F);
            assert_true(isnan(got[BLOCK + i]));
        }
        device_free_all();
    }
    emu_set_order(EMU_FORWARD);
}

/* ---- Faults that end the process ---- */
typedef struct {
    const char *name, *message;
    bool needs_sanitizer;
} Fault;
static const Fault FAULTS[] = {
    {"store_beyond", "store of 4 bytes", false},
    {"load_beyond", "load of 4 bytes", false},
    {"host_pointer", "not device or pinned memory", false},
    {"freed", "not device or pinned memory", false},
    {"raw_load_beyond", "heap-buffer-overflow", true},
    {"shared_beyond", TEST_ASAN ? "use-after-poison" : "beyond the end of its shared memory",
     false},
    {"misaligned", "not aligned to 16 bytes", false},
    {"exit_before_barrier", "divergent barrier", false},
    {"other_barrier", "divergent barrier", false},
    {"half_warp_shuffle", "divergent barrier", false},
    {"partial_warp", "not a multiple of 32", false},
    {"early_cluster_exit", "after the last cluster_sync", false},
};

static int run_fault(const char *name)
{
    float host[BLOCK] = {0};
    /* 100 floats: the allocation ends where the array does. */
    float *const x = device_copy(host, 100 * sizeof *host);
    float *const y = device_alloc(BLOCK * sizeof *host);
    KernelStatus status = 1;
    if (strcmp(name, "store_beyond") == 0) {
        status = fault_store_beyond(NULL, x, 100);
    } else if (strcmp(name, "load_beyond") == 0) {
        status = fault_load_beyond(NULL, x, y, 100);
    } else if (strcmp(name, "host_pointer") == 0) {
        status = probe_copy(NULL, host, y, 100);
    } else if (strcmp(name, "freed") == 0) {
        void *gone = NULL;
        CUDA_TEST(cudaMalloc(&gone, sizeof host));
        CUDA_TEST(cudaFree(gone));
        status = probe_copy(NULL, gone, y, 100);
    } else if (strcmp(name, "raw_load_beyond") == 0) {
        status = fault_raw_load_beyond(NULL, x, y, 100);
    } else if (strcmp(name, "shared_beyond") == 0) {
        status = fault_shared_beyond(NULL, y);
    } else if (strcmp(name, "misaligned") == 0) {
        status = fault_misaligned(NULL, x + 1, y);
    } else if (strcmp(name, "exit_before_barrier") == 0) {
        status = fault_exit_before_barrier(NULL, y);
    } else if (strcmp(name, "other_barrier") == 0) {
        status = fault_other_barrier(NULL, y);
    } else if (strcmp(name, "half_warp_shuffle") == 0) {
        status = fault_half_warp_shuffle(NULL, y);
    } else if (strcmp(name, "partial_warp") == 0) {
        status = fault_partial_warp(NULL, y);
    } else if (strcmp(name, "early_cluster_exit") == 0) {
        status = fault_early_cluster_exit(NULL, y, y);
    }
    return status == 0 && cudaDeviceSynchronize() == cudaSuccess ? 0 : 2;
}

static void faults_end_the_process(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof FAULTS / sizeof FAULTS[0]; i++) {
        if (FAULTS[i].needs_sanitizer && !TEST_ASAN) {
            continue;
        }
        for (int order = 0; order < EMU_ORDERS; order++) {
            const char number[] = {(char)('0' + order), 0};
            const char *const arguments[] = {"--fault", FAULTS[i].name, number, NULL};
            Child child;
            assert_true(child_start(&child, arguments));
            const bool survived = child_end(&child);
            if (survived || strstr(child.text, FAULTS[i].message) == NULL) {
                fail_msg("%s in order %d: status %x, wrote: %s", FAULTS[i].name, order,
                         (unsigned)child.status, child.text);
            }
        }
    }
}

/* The same child without a fault lives: the ends above are the faults'. */
static void no_fault_no_end(void **state)
{
    (void)state;
    const char *const arguments[] = {"--sound", NULL};
    Child child;
    assert_true(child_start(&child, arguments));
    if (!child_end(&child)) {
        fail_msg("status %x, wrote: %s", (unsigned)child.status, child.text);
    }
}
static int run_sound(void)
{
    float host[100] = {0};
    const float *const x = device_copy(host, sizeof host);
    float *const y = device_alloc(sizeof host);
    const KernelStatus status = probe_copy(NULL, x, y, 100);
    const bool right = status == 0 && cudaDeviceSynchronize() == cudaSuccess;
    device_free_all();
    return right && emu_live_allocations() == 0 ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--fault") == 0) {
        emu_set_order(argv[3][0] - '0');
        return run_fault(argv[2]);
    }
    if (argc == 2 && strcmp(argv[1], "--sound") == 0) {
        return run_sound();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_and_counts),
        cmocka_unit_test(fresh_memory_is_poisoned),
        cmocka_unit_test(block_reductions),
        cmocka_unit_test(shuffles_and_ballot),
        cmocka_unit_test(clusters_share_memory),
        cmocka_unit_test(shared_atomics),
        cmocka_unit_test(dynamic_shared_needs_permission),
        cmocka_unit_test(shapes_have_limits),
        cmocka_unit_test(conversions),
        cmocka_unit_test(randomness_is_the_hosts),
        cmocka_unit_test(missing_barriers_are_found),
        cmocka_unit_test(unwritten_shared_memory_is_poison),
        cmocka_unit_test(no_fault_no_end),
        cmocka_unit_test(faults_end_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
