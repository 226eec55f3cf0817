/* kernel_select against a sort: every rank, strides, ties, NaN, infinities, both zeros; the same bits in every thread
 * order. */
#include "kernel_test.h"

#include "base/rng.h"
#include "kernels/distill.h"

enum { MAX_RANKS = 8 };

/* NaN last, -0 before 0. */
static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a;
    const float y = *(const float *)b;
    if (isnan(x) || isnan(y)) {
        return isnan(x) - isnan(y);
    }
    if (x == 0 && y == 0) {
        return (signbit(x) == 0) - (signbit(y) == 0);
    }
    return (x > y) - (x < y);
}

typedef struct {
    int n, stride;
    float *values; /* [n][stride] */
    int64_t ranks[MAX_RANKS];
    float want[MAX_RANKS];
} Case;

/* Zeros by their sign too. */
static bool same_bits(float a, float b)
{
    uint32_t x;
    uint32_t y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return x == y;
}

static Case case_new(int n, int stride, bool special)
{
    Case c = {.n = n, .stride = stride};
    Rng rng = rng_make(3, 0, (uint64_t)n + (uint64_t)stride, RNG_TEST);
    c.values = calloc((size_t)n * (size_t)stride, sizeof(float));
    float *sorted = calloc((size_t)n, sizeof(float));
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, -1e-42f, -NAN};
    for (int i = 0; i < n * stride; i++) {
        const uint32_t choice = rng_below(&rng, 4);
        c.values[i] = special && choice == 0 ? odd[rng_below(&rng, 8)]
                      : choice == 1          ? (float)rng_below(&rng, 5) - 2
                                             : -20 + 5 * rng_normal(&rng);
    }
    for (int i = 0; i < n; i++) {
        sorted[i] = c.values[(size_t)i * (size_t)stride];
    }
    qsort(sorted, (size_t)n, sizeof *sorted, compare_floats);
    for (int r = 0; r < MAX_RANKS; r++) {
        c.ranks[r] = r == 0 ? 0 : r == 1 ? n - 1 : (int64_t)rng_below(&rng, (uint32_t)n);
        c.want[r] = sorted[c.ranks[r]];
    }
    free(sorted);
    return c;
}

static void check_case(const Case *c, int n_ranks)
{
    const size_t bytes = (size_t)c->n * (size_t)c->stride * sizeof(float);
    float *values = NULL;
    float *out = NULL;
    void *workspace = NULL;
    CUDA_TEST(cudaMalloc((void **)&values, bytes));
    CUDA_TEST(cudaMalloc((void **)&out, MAX_RANKS * sizeof(float)));
    CUDA_TEST(cudaMalloc(&workspace, kernel_select_workspace()));
    CUDA_TEST(cudaMemcpy(values, c->values, bytes, cudaMemcpyHostToDevice));
    CUDA_TEST(kernel_select(NULL, values, c->n, c->stride, c->ranks, n_ranks, out, workspace));
    float got[MAX_RANKS];
    CUDA_TEST(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost));
    for (int r = 0; r < n_ranks; r++) {
        const bool same = isnan(c->want[r]) ? isnan(got[r]) != 0 : same_bits(got[r], c->want[r]);
        if (!same) {
            fail_msg("%d values, rank %lld: %.9g, sorted %.9g", c->n, (long long)c->ranks[r],
                     (double)got[r], (double)c->want[r]);
        }
    }
    CUDA_TEST(cudaFree(values));
    CUDA_TEST(cudaFree(out));
    CUDA_TEST(cudaFree(workspace));
}

static void test_ranks(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 255, 256, 257, 5000, 40000};
    int orders = 1;
#ifdef CUDISTILL_EMU
    const char *text = getenv("CUDISTILL_EMU_ORDERS");
    orders = text && strcmp(text, "1") == 0 ? 1 : EMU_ORDERS;
#endif
    for (int order = 0; order < orders; order++) {
#ifdef CUDISTILL_EMU
        emu_set_order(order);
#endif
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (int stride = 1; stride <= 32 && sizes[i] <= 5000; stride += 31) {
                Case c = case_new(sizes[i], stride, stride == 1);
                check_case(&c, MAX_RANKS);
                check_case(&c, 2);
                free(c.values);
            }
        }
    }
#ifdef CUDISTILL_EMU
    emu_set_order(0);
#endif
    Case c = case_new(40000, 1, true);
    check_case(&c, 3);
    free(c.values);
}

static void test_refusals(void **state)
{
    (void)state;
    float *values = NULL;
    CUDA_TEST(cudaMalloc((void **)&values, 16));
    const int64_t ranks[9] = {4};
    const int bad = KERNEL_BAD_ARGUMENT;
    assert_int_equal(kernel_select(NULL, values, 4, 1, ranks, 1, values, NULL), bad);
    assert_int_equal(kernel_select(NULL, values, 0, 1, ranks + 1, 1, values, NULL), bad);
    assert_int_equal(kernel_select(NULL, values, 4, 0, ranks + 1, 1, values, NULL), bad);
    assert_int_equal(kernel_select(NULL, values, 4, 1, ranks + 1, 9, values, NULL), bad);
    CUDA_TEST(cudaFree(values));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
