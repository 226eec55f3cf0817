/* For tests of kernels: device arrays, runs in every thread order that must give the same bytes, counted bytes, tolerances
 * with the used share. The same source runs on the emulated device (CUDISTILL_EMU) and on a GPU, where the orders are
 * repetitions and nothing is counted.
 *
 * Use: a run function makes its device arrays, launches, and hands every output to output_add; run_in_orders calls it
 * and leaves the outputs of the first order. Device arrays are freed between runs and by device_free_all. */
#ifndef CUDISTILL_TESTS_KERNEL_TEST_H
#define CUDISTILL_TESTS_KERNEL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/half.h"
#include "kernels/launch.h"

#include <cuda_runtime_api.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef CUDISTILL_EMU
#include "kernels/emu/emu_api.h"
#endif

/* Fails the test with the error's name. */
#define CUDA_TEST(call)                                                                            \
    do {                                                                                           \
        const cudaError_t status_ = (cudaError_t)(call);                                           \
        if (status_ != cudaSuccess) {                                                              \
            fail_msg("%s: %s", #call, cudaGetErrorName(status_));                                  \
        }                                                                                          \
    } while (0)

/* ---- Values of storage types ---- */
static inline size_t kernel_type_size(KernelType type)
{
    return type == KERNEL_F32 || type == KERNEL_I32 ? 4 : type == KERNEL_U8 ? 1 : 2;
}
/* Relative rounding error of a store: half a unit in the last place. */
static inline double kernel_type_eps(KernelType type)
{
    return type == KERNEL_BF16 ? 0x1p-8 : type == KERNEL_F16 ? 0x1p-11 : 0x1p-24;
}
static inline const char *kernel_type_name(KernelType type)
{
    return type == KERNEL_BF16 ? "bf16" : type == KERNEL_F16 ? "fp16" : "fp32";
}

/* By arithmetic on the value, not on bits: independent of the conversions under test. NaN gives a quiet one. */
static inline uint16_t half_bits(float x)
{
    const unsigned sign = signbit(x) ? 0x8000u : 0u;
    const double size = fabs((double)x);
    if (isnan(x)) {
        return 0x7fff;
    }
    if (size >= 65520.0) {
        return (uint16_t)(sign | 0x7c00u);
    }
    int exponent = -14;
    if (size >= 0x1p-14) {
        (void)frexp(size, &exponent);
        exponent--;
    }
    /* Multiples of 2^(exponent - 10), ties to even in the default rounding mode; a carry moves on to the next exponent. */
    const unsigned fraction = (unsigned)nearbyint(ldexp(size, 10 - exponent));
    return (uint16_t)(sign + (unsigned)(size >= 0x1p-14 ? (exponent + 14) * 1024 : 0) + fraction);
}
static inline float half_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    const double size = exponent == 31  ? (fraction != 0 ? (double)NAN : (double)INFINITY)
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(1024 + fraction, exponent - 25);
    return (float)(bits >> 15 ? -size : size);
}
static inline void kernel_encode(KernelType type, const float *values, void *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (type == KERNEL_BF16) {
            ((uint16_t *)out)[i] = bf16_from_float(values[i]);
        } else if (type == KERNEL_F16) {
            ((uint16_t *)out)[i] = half_bits(values[i]);
        } else {
            ((float *)out)[i] = values[i];
        }
    }
}
static inline void kernel_decode(KernelType type, const void *values, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        out[i] = type == KERNEL_BF16  ? bf16_to_float(((const uint16_t *)values)[i])
                 : type == KERNEL_F16 ? half_value(((const uint16_t *)values)[i])
                                      : ((const float *)values)[i];
    }
}
/* values[i] becomes what the storage type can hold. */
static inline void kernel_round(KernelType type, float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t stored = 0;
        kernel_encode(type, &values[i], &stored, 1);
        if (type != KERNEL_F32) {
            kernel_decode(type, &stored, &values[i], 1);
        }
    }
}

/* ---- Device arrays ---- */
enum { DEVICE_ARRAYS_MOST = 256 };
static void *device_arrays[DEVICE_ARRAYS_MOST];
static int n_device_arrays;

static inline void device_free_all(void)
{
    while (n_device_arrays > 0) {
        CUDA_TEST(cudaFree(device_arrays[--n_device_arrays]));
    }
}
/* `bytes` at `offset` bytes after an aligned address, to reach the scalar paths. Contents are undefined: under emulation
 * NaN. The allocation ends with the array. */
static inline void *device_alloc_at(size_t bytes, size_t offset)
{
    void *memory = NULL;
    assert_true(n_device_arrays < DEVICE_ARRAYS_MOST);
    CUDA_TEST(cudaMalloc(&memory, bytes + offset > 0 ? bytes + offset : 1));
    device_arrays[n_device_arrays++] = memory;
    return (char *)memory + offset;
}
static inline void *device_alloc(size_t bytes)
{
    return device_alloc_at(bytes, 0);
}
static inline void *device_copy_at(const void *host, size_t bytes, size_t offset)
{
    void *const memory = device_alloc_at(bytes, offset);
    if (bytes > 0) {
        CUDA_TEST(cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice));
    }
    return memory;
}
static inline void *device_copy(const void *host, size_t bytes)
{
    return device_copy_at(host, bytes, 0);
}
/* fp32 values on the host, `type` on the device; offset in elements. */
static inline void *device_values_at(KernelType type, const float *values, size_t count,
                                     size_t offset)
{
    const size_t size = kernel_type_size(type);
    void *const stored = malloc(count * size + 1);
    assert_non_null(stored);
    kernel_encode(type, values, stored, count);
    void *const memory = device_copy_at(stored, count * size, offset * size);
    free(stored);
    return memory;
}
static inline void *device_values(KernelType type, const float *values, size_t count)
{
    return device_values_at(type, values, count, 0);
}
/* Waits for what was launched before. */
static inline void device_read(void *host, const void *device, size_t bytes)
{
    CUDA_TEST(cudaDeviceSynchronize());
    if (bytes > 0) {
        CUDA_TEST(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
    }
}

/* ---- Outputs, and runs in all orders ---- */
enum { OUTPUTS_MOST = 16 };
typedef struct {
    int count;
    void *data[OUTPUTS_MOST]; /* raw bytes as on the device */
    size_t bytes[OUTPUTS_MOST];
} Outputs;
typedef void (*KernelRun)(void *context, Outputs *outputs);

static inline void outputs_free(Outputs *outputs)
{
    for (int i = 0; i < outputs->count; i++) {
        free(outputs->data[i]);
    }
    outputs->count = 0;
}
static inline void output_add(Outputs *outputs, const void *device, size_t bytes)
{
    assert_true(outputs->count < OUTPUTS_MOST);
    void *const data = malloc(bytes + 1);
    assert_non_null(data);
    device_read(data, device, bytes);
    outputs->data[outputs->count] = data;
    outputs->bytes[outputs->count++] = bytes;
}
/* Output i as fp32 values; to be freed by the caller. */
static inline float *output_values(const Outputs *outputs, int i, KernelType type)
{
    assert_true(i < outputs->count);
    const size_t count = outputs->bytes[i] / kernel_type_size(type);
    float *const values = malloc(count * sizeof *values + 1);
    assert_non_null(values);
    kernel_decode(type, outputs->data[i], values, count);
    return values;
}

static inline int kernel_orders(void)
{
    const char *const text = getenv("CUDISTILL_EMU_ORDERS");
    const long orders = text != NULL && *text != 0 ? strtol(text, NULL, 10) : 3;
    return orders < 1 ? 1 : orders > 3 ? 3 : (int)orders;
}

static inline void outputs_equal(const Outputs *first, const Outputs *now, int order)
{
    assert_int_equal(first->count, now->count);
    for (int i = 0; i < first->count; i++) {
        assert_int_equal(first->bytes[i], now->bytes[i]);
        const unsigned char *const a = first->data[i];
        const unsigned char *const b = now->data[i];
        for (size_t k = 0; k < first->bytes[i]; k++) {
            if (a[k] != b[k]) {
                fail_msg("output %d differs from byte %zu on between thread orders 0 and %d", i, k,
                         order);
            }
        }
    }
}

/* Every order must give the bytes of the first, which are left in *outputs (free them with outputs_free). */
static inline void run_in_orders(KernelRun run, void *context, Outputs *outputs)
{
    *outputs = (Outputs){0};
    for (int order = 0; order < kernel_orders(); order++) {
#ifdef CUDISTILL_EMU
        CUDA_TEST(cudaDeviceSynchronize());
        emu_set_order(order);
        emu_set_delay_seed((uint64_t)order + 1);
#endif
        Outputs now = {0};
        run(context, &now);
        device_free_all();
        if (order == 0) {
            *outputs = now;
        } else {
            outputs_equal(outputs, &now, order);
            outputs_free(&now);
        }
    }
#ifdef CUDISTILL_EMU
    emu_set_order(EMU_FORWARD);
#endif
}

/* ---- Counted bytes ---- */
static inline void count_begin(void)
{
#ifdef CUDISTILL_EMU
    emu_counts_reset();
#endif
}
/* Since count_begin, the launches whose name ("launcher:kernel") contains `name` moved, together, at most `slack` times the
 * stated minimum (1 = exactly it) and not less than it: a smaller count is a wrong minimum. Prints both. */
static inline void count_check(const char *name, double minimum_loaded, double minimum_stored,
                               double slack)
{
#ifdef CUDISTILL_EMU
    EmuCounts sum;
    if (emu_counts(name, &sum, NULL) == 0) {
        fail_msg("no launch of '%s' was counted", name);
    }
    const double loaded = (double)sum.loaded;
    const double stored = (double)sum.stored;
    printf("%s: loaded %.0f of at least %.0f bytes, stored %.0f of %.0f, tables %.0f\n", name,
           loaded, minimum_loaded, stored, minimum_stored, (double)sum.cached);
    if (loaded < minimum_loaded || loaded > slack * minimum_loaded || stored < minimum_stored ||
        stored > slack * minimum_stored) {
        fail_msg("%s: loaded %.0f, stored %.0f bytes; stated minimum %.0f, %.0f, slack %g", name,
                 loaded, stored, minimum_loaded, minimum_stored, slack);
    }
#else
    (void)name, (void)minimum_loaded, (void)minimum_stored, (void)slack;
#endif
}

/* ---- Tolerances ---- */
typedef struct {
    const char *name;
    double share; /* largest |got - want| / limit so far */
    size_t at;
    size_t count;
} Closeness;

static inline Closeness closeness(const char *name)
{
    return (Closeness){.name = name};
}
/* |got - want| <= limit; NaN only where NaN is wanted, infinities equal. */
static inline void close_to(Closeness *check, size_t at, double got, double want, double limit)
{
    check->count++;
    if (isnan(want) && isnan(got)) {
        return;
    }
    if (isinf(want) && got == want) {
        return;
    }
    const double share = got == want ? 0.0 : fabs(got - want) / limit;
    if (!(share <= 1.0)) {
        fail_msg("%s[%zu]: got %.9g, want %.9g, limit %.3g", check->name, at, got, want, limit);
    }
    if (share > check->share) {
        check->share = share;
        check->at = at;
    }
}
/* Prints how much of the tolerance was used; fails where nothing was compared. */
static inline void closeness_report(const Closeness *check)
{
    assert_true(check->count > 0);
    printf("%s: %zu values, %.1f %% of the tolerance used (at %zu)\n", check->name, check->count,
           100.0 * check->share, check->at);
}

/* Uniform in [low, high), a function of (seed, i). */
static inline float kernel_test_value(uint64_t seed, uint64_t i, float low, float high)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + i + 1;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return low + (high - low) * ((float)(x >> 40) * 0x1p-24F);
}
static inline float *kernel_test_values(uint64_t seed, size_t count, float low, float high)
{
    float *const values = malloc(count * sizeof *values + 1);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) {
        values[i] = kernel_test_value(seed, i, low, high);
    }
    return values;
}

#endif
