/* Elementwise kernels, casts, padding of channels, gradient accumulation, bias gradients and gathers against plain loops:
 * counts 0, 1, 7 and 2^20+3, pointers off by one element, outputs over inputs, NaN and infinities, every thread order,
 * counted bytes.
 *
 * Maps and casts have one rounding, that of the store, so they must agree exactly with arithmetic in fp32 rounded once.
 * Bias gradients: fp32 sums of at most 256 terms within the absolute sum A, then double, so (sqrt(256) + 4) 2^-24 A; exact
 * for integers. */
#include "kernel_test.h"

#include "kernels/elementwise.h"

static const KernelType types[] = {KERNEL_F32, KERNEL_BF16, KERNEL_F16};
static const int64_t counts[] = {0, 1, 7, 8, 4099};
enum { COUNTS = sizeof counts / sizeof *counts, LONG_COUNT = (1 << 20) + 3 };

/* Room that may be empty. */
static void *host_alloc(size_t bytes)
{
    void *memory = malloc(bytes + 1);
    assert_non_null(memory);
    return memory;
}

static float *draw(KernelType type, uint64_t seed, size_t count)
{
    float *values = kernel_test_values(seed, count, -4.0f, 4.0f);
    const float special[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY, 1e-7f, -6e4f};
    for (size_t i = 3; i < count && i < 200; i += 11) {
        values[i] = special[i % 7];
    }
    kernel_round(type, values, count);
    return values;
}

/* The same number, or NaN on both sides. */
static void same(const float *got, const float *want, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (got[i] != want[i] && !(isnan(got[i]) && isnan(want[i]))) {
            fail_msg("element %zu of %zu: got %.9g, want %.9g", i, count, (double)got[i],
                     (double)want[i]);
        }
    }
}

/* ---- Maps ---- */
typedef enum { MAP_RELU, MAP_RELU_BWD, MAP_ADD, MAP_ADD_RELU, MAPS } Map;
typedef struct {
    Map map;
    KernelType type;
    int64_t count;
    size_t offset;
    int over; /* 0: none; the input that the output lies over */
    float *a, *b;
} MapCase;

static void run_map(void *context, Outputs *outputs)
{
    const MapCase *c = context;
    const size_t count = (size_t)c->count;
    const size_t size = kernel_type_size(c->type);
    void *a = device_values_at(c->type, c->a, count, c->offset);
    void *b = device_values_at(c->type, c->b, count, c->offset);
    void *y = c->over == 1 ? a : b;
    if (c->over == 0 || (c->over == 2 && c->map == MAP_RELU)) {
        y = device_alloc_at(count * size, c->offset * size);
    }
    count_begin();
    switch (c->map) {
    case MAP_RELU:
        CUDA_TEST(kernel_relu(NULL, c->type, c->count, a, y));
        break;
    case MAP_RELU_BWD:
        CUDA_TEST(kernel_relu_bwd(NULL, c->type, c->count, a, b, y));
        break;
    default:
        CUDA_TEST(kernel_add(NULL, c->type, c->count, a, b, c->map == MAP_ADD_RELU, y));
    }
    output_add(outputs, y, count * size);
}

static float map_value(Map map, float a, float b)
{
    const float sum = a + b;
    switch (map) {
    case MAP_RELU:
        return a < 0.0f ? 0.0f : a;
    case MAP_RELU_BWD:
        return b > 0.0f ? a : 0.0f;
    case MAP_ADD:
        return sum;
    default:
        return sum < 0.0f ? 0.0f : sum;
    }
}

static void check_map(MapCase *c)
{
    const size_t count = (size_t)c->count;
    Outputs outputs;
    c->a = draw(c->type, 1 + (uint64_t)c->count, count);
    c->b = draw(c->type, 2 + (uint64_t)c->count, count);
    run_in_orders(run_map, c, &outputs);
    float *got = output_values(&outputs, 0, c->type);
    float *want = host_alloc(count * sizeof *want);
    for (size_t i = 0; i < count; i++) {
        want[i] = map_value(c->map, c->a[i], c->b[i]);
    }
    kernel_round(c->type, want, count);
    same(got, want, count);
    free(want);
    free(got);
    free(c->a);
    free(c->b);
    outputs_free(&outputs);
}

static void test_maps(void **state)
{
    (void)state;
    for (int map = 0; map < MAPS; map++) {
        for (int t = 0; t < 3; t++) {
            for (int i = 0; i < COUNTS; i++) {
                for (int k = 0; k < 6; k++) {
                    MapCase c = {.map = (Map)map,
                                 .type = types[t],
                                 .count = counts[i],
                                 .offset = (size_t)k / 3,
                                 .over = k % 3};
                    check_map(&c);
                }
            }
        }
        MapCase c = {.map = (Map)map, .type = types[map % 3], .count = LONG_COUNT};
        check_map(&c);
    }
}

/* ---- Casts, padding, accumulation ---- */
typedef struct {
    KernelType from, to;
    int64_t rows;
    int c, wide; /* wide = c: flat */
    size_t offset;
    bool add;
    float *x, *old;
} CastCase;

static void run_cast(void *context, Outputs *outputs)
{
    const CastCase *c = context;
    const size_t count = (size_t)c->rows * (size_t)c->c;
    const size_t size = kernel_type_size(c->to);
    void *x = device_values_at(c->from, c->x, count, c->offset);
    void *y = device_alloc_at(count * size, c->offset * size);
    count_begin();
    CUDA_TEST(kernel_cast(NULL, c->from, c->to, (int64_t)count, x, y));
    output_add(outputs, y, count * size);
}

static void run_pad(void *context, Outputs *outputs)
{
    const CastCase *c = context;
    const size_t bytes = (size_t)c->rows * (size_t)c->wide * kernel_type_size(c->to);
    void *y = device_alloc_at(bytes, c->offset * kernel_type_size(c->to));
    const float *x = device_values_at(KERNEL_F32, c->x, (size_t)c->rows * (size_t)c->c, c->offset);
    count_begin();
    CUDA_TEST(kernel_pad_channels(NULL, c->to, c->rows, c->c, c->wide, x, y));
    output_add(outputs, y, bytes);
}

static void run_accumulate(void *context, Outputs *outputs)
{
    const CastCase *c = context;
    const size_t count = (size_t)c->rows * (size_t)c->c;
    float *grad = device_values_at(KERNEL_F32, c->old, count, c->offset);
    const void *x = device_values_at(c->from, c->x, (size_t)c->rows * (size_t)c->wide, c->offset);
    count_begin();
    CUDA_TEST(kernel_grad_accumulate(NULL, c->from, c->rows, c->c, c->wide, x, c->add, grad));
    output_add(outputs, grad, count * sizeof *grad);
}

static void check_cast(CastCase *c)
{
    const size_t count = (size_t)c->rows * (size_t)c->c;
    Outputs outputs;
    c->x = draw(c->from, 9, count);
    run_in_orders(run_cast, c, &outputs);
    float *got = output_values(&outputs, 0, c->to);
    kernel_round(c->to, c->x, count);
    same(got, c->x, count);
    free(got);
    free(c->x);
    outputs_free(&outputs);
}

static void test_cast(void **state)
{
    (void)state;
    for (int k = 0; k < 9; k++) {
        for (int i = 0; i < COUNTS; i++) {
            for (size_t offset = 0; offset < 2; offset++) {
                CastCase c = {.from = types[k / 3],
                              .to = types[k % 3],
                              .rows = counts[i],
                              .c = 1,
                              .offset = offset};
                check_cast(&c);
            }
        }
    }
    CastCase c = {.from = KERNEL_F32, .to = KERNEL_F16, .rows = LONG_COUNT, .c = 1};
    check_cast(&c);
}

static const int widths[][2] = {{3, 4}, {3, 8}, {1, 8}, {17, 24}, {5, 5}, {64, 64}};
enum { WIDTHS = sizeof widths / sizeof *widths, ROWS = 149 };

static void test_pad_channels(void **state)
{
    (void)state;
    for (int k = 0; k < WIDTHS * 6; k++) {
        CastCase c = {.to = types[k % 3],
                      .rows = ROWS,
                      .c = widths[k / 6][0],
                      .wide = widths[k / 6][1],
                      .offset = (size_t)(k / 3 % 2)};
        const size_t elems = (size_t)ROWS * (size_t)c.wide;
        Outputs outputs;
        c.x = draw(KERNEL_F32, 4, (size_t)ROWS * (size_t)c.c);
        run_in_orders(run_pad, &c, &outputs);
        float *got = output_values(&outputs, 0, c.to);
        float *want = host_alloc(elems * sizeof *want);
        for (size_t i = 0; i < elems; i++) {
            const size_t channel = i % (size_t)c.wide;
            want[i] =
                channel < (size_t)c.c ? c.x[i / (size_t)c.wide * (size_t)c.c + channel] : 0.0f;
        }
        kernel_round(c.to, want, elems);
        same(got, want, elems);
        free(want);
        free(got);
        free(c.x);
        outputs_free(&outputs);
    }
}

static void test_grad_accumulate(void **state)
{
    (void)state;
    for (int k = 0; k < WIDTHS * 12; k++) {
        CastCase c = {.from = types[k % 3],
                      .rows = ROWS,
                      .c = widths[k / 12][0],
                      .wide = widths[k / 12][1],
                      .offset = (size_t)(k / 3 % 2),
                      .add = k / 6 % 2 != 0};
        const size_t count = (size_t)ROWS * (size_t)c.c;
        Outputs outputs;
        c.x = draw(c.from, 4, (size_t)ROWS * (size_t)c.wide);
        c.old = kernel_test_values(5, count, -1.0f, 1.0f);
        run_in_orders(run_accumulate, &c, &outputs);
        float *want = host_alloc(count * sizeof *want);
        for (size_t i = 0; i < count; i++) {
            const size_t row = i / (size_t)c.c;
            want[i] = c.x[row * (size_t)c.wide + i % (size_t)c.c] + (c.add ? c.old[i] : 0.0f);
        }
        same(outputs.data[0], want, count);
        free(want);
        free(c.x);
        free(c.old);
        outputs_free(&outputs);
    }
}

/* ---- Bias gradient ---- */
typedef struct {
    KernelType type;
    int n, hw, c;
    size_t offset;
    bool add, integers;
    float *dy, *old;
} BiasCase;

static void run_bias(void *context, Outputs *outputs)
{
    const BiasCase *c = context;
    const size_t count = (size_t)c->n * (size_t)c->hw * (size_t)c->c;
    float *db = device_copy(c->old, (size_t)c->c * sizeof *db);
    void *workspace = device_alloc(kernel_bias_grad_workspace(c->n, c->hw, c->c));
    const void *dy = device_values_at(c->type, c->dy, count, c->offset);
    count_begin();
    CUDA_TEST(kernel_bias_grad(NULL, c->type, c->n, c->hw, c->c, dy, c->add, db, workspace));
    output_add(outputs, db, (size_t)c->c * sizeof *db);
}

static Closeness bias_close;

static void check_bias(BiasCase *c)
{
    const size_t channels = (size_t)c->c;
    const size_t count = (size_t)c->n * (size_t)c->hw * channels;
    c->dy = kernel_test_values(7, count, -3.0f, 4.0f);
    c->old = kernel_test_values(8, channels, -3.0f, 4.0f);
    for (size_t i = 0; c->integers && i < count; i++) {
        c->dy[i] = roundf(c->dy[i]);
        c->old[i % channels] = roundf(c->old[i % channels]);
    }
    kernel_round(c->type, c->dy, count);
    Outputs outputs;
    run_in_orders(run_bias, c, &outputs);
    const float *got = outputs.data[0];
    for (size_t k = 0; k < channels; k++) {
        double sum = c->add ? (double)c->old[k] : 0.0;
        double size = fabs(sum);
        for (size_t i = k; i < count; i += channels) {
            sum += (double)c->dy[i];
            size += fabs((double)c->dy[i]);
        }
        close_to(&bias_close, k, (double)got[k], sum, c->integers ? 0.0 : 20 * 0x1p-24 * size);
    }
    outputs_free(&outputs);
    free(c->dy);
    free(c->old);
}

static void test_bias_grad(void **state)
{
    (void)state;
    static const int shapes[][3] = {{0, 1, 5},   {1, 1, 1},    {1, 1, 19},   {9, 1, 100}, {5, 9, 3},
                                    {4, 16, 58}, {64, 16, 64}, {3, 25, 130}, {7, 4, 2048}};
    bias_close = closeness("bias_grad");
    for (int s = 0; s < 9; s++) {
        for (int k = 0; k < 6; k++) {
            BiasCase c = {.type = types[k % 3],
                          .n = shapes[s][0],
                          .hw = shapes[s][1],
                          .c = shapes[s][2],
                          .offset = (size_t)k / 3,
                          .add = (s + k) % 2 != 0,
                          .integers = (s + k / 2) % 2 != 0};
            check_bias(&c);
        }
    }
    BiasCase longest = {.type = KERNEL_F32, .n = LONG_COUNT, .hw = 1, .c = 1};
    check_bias(&longest);
    closeness_report(&bias_close);
}

/* ---- Gather ---- */
typedef struct {
    int n;
    int64_t row_bytes, table_rows;
    size_t offset; /* bytes */
    const uint8_t *table;
    const int32_t *index;
} GatherCase;

static void run_gather(void *context, Outputs *outputs)
{
    const GatherCase *c = context;
    const size_t bytes = (size_t)c->n * (size_t)c->row_bytes;
    void *y = device_alloc_at(bytes, c->offset);
    const void *table = device_copy_at(c->table, (size_t)(c->table_rows * c->row_bytes), c->offset);
    const int32_t *index = device_copy(c->index, (size_t)c->n * sizeof *index);
    count_begin();
    CUDA_TEST(kernel_gather(NULL, c->n, c->row_bytes, c->table_rows, table, index, y));
    output_add(outputs, y, bytes);
}

static void test_gather(void **state)
{
    (void)state;
    enum { TABLE = 37, MOST = 9000, N = 21 };
    static const int64_t row_bytes[] = {1, 2, 6, 12, 16, 400, 1000, 2001, MOST};
    uint8_t *table = malloc((size_t)TABLE * MOST);
    int32_t index[N];
    for (size_t i = 0; i < (size_t)TABLE * MOST; i++) {
        table[i] = (uint8_t)(i * 7 + i / 251);
    }
    for (int i = 0; i < N; i++) {
        index[i] = i * 11 % TABLE;
    }
    index[3] = -1;
    index[8] = TABLE;
    index[9] = INT32_MIN;
    index[20] = INT32_MAX;
    for (int k = 0; k < 9 * 4; k++) {
        static const size_t offsets[] = {0, 1, 2, 4};
        GatherCase c = {.n = k == 0 ? 0 : N,
                        .row_bytes = row_bytes[k / 4],
                        .table_rows = TABLE,
                        .offset = offsets[k % 4],
                        .table = table,
                        .index = index};
        Outputs outputs;
        run_in_orders(run_gather, &c, &outputs);
        const uint8_t *got = outputs.data[0];
        for (int i = 0; i < c.n; i++) {
            for (int64_t b = 0; b < c.row_bytes; b++) {
                const bool inside = index[i] >= 0 && index[i] < TABLE;
                assert_int_equal(got[i * c.row_bytes + b],
                                 inside ? table[index[i] * c.row_bytes + b] : 0xFF);
            }
        }
        outputs_free(&outputs);
    }
    free(table);
}

/* ---- Counted bytes: exactly the minimum ---- */
static void test_bytes(void **state)
{
    (void)state;
    enum { N = 50021 };
    Outputs outputs = {0};
    for (int k = 0; k < 6; k++) {
        const double e = (double)kernel_type_size(types[k % 3]) * N;
        const size_t offset = (size_t)k / 3;
        float *x = kernel_test_values(1, N, -1.0f, 1.0f);
        MapCase map = {.type = types[k % 3], .count = N, .offset = offset, .a = x, .b = x};
        run_map(&map, &outputs);
        count_check(":relu", e, e, 1.0);
        map.map = MAP_ADD;
        run_map(&map, &outputs);
        count_check(":pair", 2 * e, e, 1.0);
        CastCase cast = {.from = types[k % 3],
                         .rows = N,
                         .c = 1,
                         .wide = 1,
                         .offset = offset,
                         .x = x,
                         .old = x,
                         .add = true};
        run_cast(&cast, &outputs);
        count_check(":cast", e, 4.0 * N, 1.0);
        run_accumulate(&cast, &outputs);
        count_check(":cast", e + 4.0 * N, 4.0 * N, 1.0);
        outputs_free(&outputs);
        device_free_all();
        free(x);
    }
    const int32_t index[5] = {4, 0, 4, 1, 2};
    uint8_t table[5 * 1000] = {0};
    GatherCase gather = {
        .n = 5, .row_bytes = 1000, .table_rows = 5, .table = table, .index = index};
    run_gather(&gather, &outputs);
    count_check(":gather", 5000, 5000, 1.0);
    BiasCase bias = {.type = KERNEL_F16, .n = 500, .hw = 16, .c = 64};
    bias.dy = kernel_test_values(1, 500 * 16 * 64, -1.0f, 1.0f);
    bias.old = bias.dy;
    run_bias(&bias, &outputs);
    count_check(":bias_grad", 2.0 * 500 * 16 * 64, 32.0 * 64 * 4, 1.0);
    free(bias.dy);
    outputs_free(&outputs);
    device_free_all();
}

static void test_bad_arguments(void **state)
{
    (void)state;
    float x[4] = {0};
    assert_int_equal(kernel_relu(NULL, KERNEL_U8, 4, x, x), KERNEL_BAD_ARGUMENT);
    assert_int_equal(kernel_cast(NULL, KERNEL_F32, KERNEL_I32, 4, x, x), KERNEL_BAD_ARGUMENT);
    assert_int_equal(kernel_pad_channels(NULL, KERNEL_F32, 1, 4, 3, x, x), KERNEL_BAD_ARGUMENT);
    assert_int_equal(kernel_bias_grad(NULL, KERNEL_F32, 1, 0, 3, x, false, x, x),
                     KERNEL_BAD_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps),         cmocka_unit_test(test_cast),
        cmocka_unit_test(test_pad_channels), cmocka_unit_test(test_grad_accumulate),
        cmocka_unit_test(test_bias_grad),    cmocka_unit_test(test_gather),
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
