/* Images: bytes to normalised pixels with crop, flip, mixup and CutMix against plain loops in double; views of a set, epoch
 * orders and random numbers bit for bit against the host's augment.c and rng.c; odd sizes, pointers off by one, every
 * thread order, counted bytes.
 *
 * Tolerance of a pixel, u = 2^-24: factor, shift and product round once each, mixing once more for each side: 5 u of the
 * absolute terms, and the rounding of the store. */
#include "kernel_test.h"

#include "base/rng.h"
#include "data/augment.h"
#include "kernels/image.h"

static const double U = 0x1p-24;
static const float MEAN[3] = {0.485f, 0.456f, 0.406f};
static const float STD[3] = {0.229f, 0.224f, 0.225f};

static uint8_t *draw_bytes(uint64_t seed, size_t count)
{
    uint8_t *bytes = malloc(count + 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)kernel_test_value(seed, i, 0.0f, 256.0f);
    }
    return bytes;
}

/* ---- Image ---- */
typedef struct {
    ImageShape shape;
    size_t offset; /* elements of y, bytes of images */
    uint8_t *images;
    ImageView *views; /* NULL = none */
} ImageCase;

static size_t image_elems(const ImageShape *s)
{
    return (size_t)s->n * (size_t)s->oh * (size_t)s->ow * (size_t)s->c;
}

static void run_image(void *context, Outputs *outputs)
{
    const ImageCase *c = context;
    const ImageShape *s = &c->shape;
    const size_t size = kernel_type_size(s->type);
    const size_t bytes = (size_t)s->n * (size_t)s->h * (size_t)s->w * 3;
    void *y = device_alloc_at(image_elems(s) * size, c->offset * size);
    const uint8_t *images = device_copy_at(c->images, bytes, c->offset);
    const ImageView *views = c->views ? device_copy(c->views, (size_t)s->n * sizeof *views) : NULL;
    count_begin();
    CUDA_TEST(kernel_image(NULL, s, images, views, y));
    output_add(outputs, y, image_elems(s) * size);
}

/* Byte of image n as its view shows it at (y, x); black outside. */
static int shown_byte(const ImageCase *c, int n, int y, int x, int channel, bool *inside)
{
    const ImageShape *s = &c->shape;
    int source_y = y;
    int source_x = x;
    if (c->views) {
        const ImageView *v = &c->views[n];
        source_y = y + v->dy - s->pad;
        source_x = (v->flip ? s->ow - 1 - x : x) + v->dx - s->pad;
    }
    *inside = source_y >= 0 && source_y < s->h && source_x >= 0 && source_x < s->w;
    return *inside ? c->images[((n * s->h + source_y) * s->w + source_x) * 3 + channel] : 0;
}

typedef struct {
    double value, size;
    int reads; /* bytes that must be read for it */
} Shown;

static Shown normalised(const ImageCase *c, int n, int y, int x, int channel)
{
    bool inside;
    const double byte = shown_byte(c, n, y, x, channel, &inside);
    const double mean = (double)c->shape.mean[channel];
    const double std = (double)c->shape.std[channel];
    return (Shown){(byte / 255.0 - mean) / std, (byte / 255.0 + fabs(mean)) / std, inside ? 1 : 0};
}

static Shown want_pixel(const ImageCase *c, int n, int y, int x, int channel)
{
    const Shown own = normalised(c, n, y, x, channel);
    if (!c->views || c->views[n].partner < 0) {
        return own;
    }
    const ImageView *v = &c->views[n];
    const Shown other = normalised(c, v->partner, y, x, channel);
    if (x >= v->left && x < v->right && y >= v->top && y < v->bottom) {
        return other;
    }
    if (v->lambda == 1.0f) {
        return own;
    }
    const double lambda = (double)v->lambda;
    return (Shown){lambda * own.value + (1.0 - lambda) * other.value,
                   lambda * own.size + (1.0 - lambda) * other.size, own.reads + other.reads};
}

static Closeness image_close;

/* Returns the bytes that had to be read. */
static double check_image(const ImageCase *c, const Outputs *outputs)
{
    const ImageShape *s = &c->shape;
    float *got = output_values(outputs, 0, s->type);
    double reads = 0.0;
    size_t at = 0;
    for (int n = 0; n < s->n; n++) {
        for (int pixel = 0; pixel < s->oh * s->ow; pixel++) {
            for (int k = 0; k < s->c; k++, at++) {
                if (k >= 3) {
                    assert_true(got[at] == 0.0f);
                    continue;
                }
                const Shown want = want_pixel(c, n, pixel / s->ow, pixel % s->ow, k);
                close_to(&image_close, at, (double)got[at], want.value,
                         kernel_type_eps(s->type) * fabs(want.value) + 5 * U * want.size);
                reads += want.reads;
            }
        }
    }
    free(got);
    return reads;
}

static ImageView *views_make(const ImageShape *s, unsigned turn)
{
    ImageView *views = calloc((size_t)s->n, sizeof *views);
    for (int n = 0; n < s->n; n++) {
        const unsigned kind = ((unsigned)n + turn) % 5;
        const uint64_t at = (uint64_t)n * 8 + turn * 100;
        views[n] =
            (ImageView){.dx = (int)kernel_test_value(1, at, 0.0f, (float)(2 * s->pad + 1)),
                        .dy = (int)kernel_test_value(1, at + 1, 0.0f, (float)(2 * s->pad + 1)),
                        .flip = kernel_test_value(1, at + 2, 0.0f, 1.0f) < 0.5f,
                        .partner = kind == 0 ? -1 : (n + 1) % s->n,
                        .lambda = kind == 1 || kind == 4 ? 0.3f : 1.0f};
        if (kind >= 2) { /* CutMix; kind 4: both */
            views[n].left = s->ow / 4;
            views[n].right = s->ow - s->ow / 3;
            views[n].top = kind == 3 ? -2 : 1;
            views[n].bottom = kind == 3 ? s->oh + 5 : s->oh / 2;
        }
    }
    return views;
}

static ImageCase image_case(unsigned turn)
{
    static const KernelType types[] = {KERNEL_F32, KERNEL_BF16, KERNEL_F16};
    static const int channels[] = {3, 4, 8, 5};
    static const int sizes[][6] = {/* n, h, w, oh, ow, pad */
                                   {5, 32, 32, 32, 32, 4}, {3, 5, 7, 5, 7, 2},
                                   {7, 1, 1, 1, 1, 0},     {2, 9, 40, 9, 40, 0},
                                   {2, 33, 70, 17, 35, 9}, {1, 6, 3, 12, 9, 3}};
    const int *size = sizes[turn % 6];
    ImageCase c = {.shape = {.type = types[turn % 3],
                             .n = size[0],
                             .h = size[1],
                             .w = size[2],
                             .oh = size[3],
                             .ow = size[4],
                             .c = channels[turn / 3 % 4],
                             .pad = size[5]},
                   .offset = turn / 12 % 2};
    memcpy(c.shape.mean, MEAN, sizeof MEAN);
    memcpy(c.shape.std, STD, sizeof STD);
    c.images = draw_bytes(turn, (size_t)size[0] * (size_t)size[1] * (size_t)size[2] * 3);
    const bool same_size = size[1] == size[3] && size[2] == size[4];
    c.views = turn % 4 == 3 && same_size ? NULL : views_make(&c.shape, turn);
    return c;
}

static void test_image(void **state)
{
    (void)state;
    image_close = closeness("image");
    for (unsigned turn = 0; turn < 144; turn++) {
        ImageCase c = image_case(turn);
        Outputs outputs;
        run_in_orders(run_image, &c, &outputs);
        const double reads = check_image(&c, &outputs);
        outputs_free(&outputs);
        if (turn < 6) {
            run_image(&c, &outputs);
            count_check(":image", reads,
                        (double)(image_elems(&c.shape) * kernel_type_size(c.shape.type)), 1.0);
            outputs_free(&outputs);
            device_free_all();
        }
        free(c.images);
        free(c.views);
    }
    closeness_report(&image_close);
}

/* ---- Views of a set on the device ---- */
typedef struct {
    int n, count, h, w, pad;
    bool flip;
    int32_t cursor[4];
    float rows;
    bool has_rows;
    size_t offset;
    uint8_t *set;
    int32_t *labels, *order;
} ViewsCase;

static void run_views(void *context, Outputs *outputs)
{
    const ViewsCase *c = context;
    const size_t image = (size_t)c->h * (size_t)c->w * 3;
    const size_t rows = (size_t)c->n * sizeof(int32_t);
    const size_t samples = (size_t)c->count * sizeof(int32_t);
    const ViewsLaunch launch = {
        .n = c->n,
        .count = c->count,
        .h = c->h,
        .w = c->w,
        .pad = c->pad,
        .flip = c->flip,
        .set_images = device_copy_at(c->set, (size_t)c->count * image, c->offset),
        .set_labels = device_copy(c->labels, samples),
        .order = device_copy(c->order, samples),
        .cursor = device_copy(c->cursor, sizeof c->cursor),
        .rows_valid = c->has_rows ? device_copy(&c->rows, sizeof c->rows) : NULL,
        .images = device_alloc_at((size_t)c->n * image, c->offset),
        .labels = device_alloc(rows),
        .ids = device_alloc(rows)};
    count_begin();
    CUDA_TEST(kernel_views(NULL, &launch));
    output_add(outputs, launch.images, (size_t)c->n * image);
    output_add(outputs, launch.labels, rows);
    output_add(outputs, launch.ids, rows);
}

static void check_views(const ViewsCase *c, const Outputs *outputs)
{
    const size_t image = (size_t)c->h * (size_t)c->w * 3;
    const uint64_t seed = (uint64_t)(uint32_t)c->cursor[2] | (uint64_t)(uint32_t)c->cursor[3] << 32;
    const AugmentSpec spec = {.pad = c->pad, .flip = c->flip};
    const uint8_t *got = outputs->data[0];
    const int32_t *labels = outputs->data[1];
    const int32_t *ids = outputs->data[2];
    uint8_t *want = malloc(image);
    for (int i = 0; i < c->n; i++) {
        memset(want, 0, image);
        int32_t label = 0;
        int32_t sample = 0;
        if (!c->has_rows || (float)i < c->rows) {
            sample = c->order[c->cursor[1] + i];
            label = c->labels[sample];
            const AugmentView view =
                augment_view(seed, (uint32_t)c->cursor[0], (uint32_t)sample, spec);
            augment_apply(spec, view, c->set + (size_t)sample * image, c->h, c->w, want);
        }
        assert_memory_equal(got + (size_t)i * image, want, image);
        assert_int_equal(labels[i], label);
        assert_int_equal(ids[i], sample);
    }
    free(want);
}

static void test_views(void **state)
{
    (void)state;
    static const int sizes[][3] = {{32, 32, 4}, {5, 7, 2}, {1, 1, 1}, {9, 4, 0}, {3, 3, 9}};
    for (int k = 0; k < 40; k++) {
        const int *size = sizes[k % 5];
        ViewsCase c = {.n = 11,
                       .count = 50,
                       .h = size[0],
                       .w = size[1],
                       .pad = size[2],
                       .flip = k / 5 % 2 == 0,
                       .cursor = {k, 3 * k % 39, -5 * k + 1, k * 7919 - 99},
                       .rows = (float)(k % 3 * 4),
                       .has_rows = k / 10 % 2 != 0,
                       .offset = (size_t)(k / 20)};
        c.set = draw_bytes((uint64_t)k, (size_t)c.count * (size_t)size[0] * (size_t)size[1] * 3);
        c.labels = malloc((size_t)c.count * sizeof *c.labels);
        c.order = malloc((size_t)c.count * sizeof *c.order);
        for (int i = 0; i < c.count; i++) {
            c.labels[i] = i * 3 % 100;
            c.order[i] = i * 17 % c.count;
        }
        Outputs outputs;
        run_in_orders(run_views, &c, &outputs);
        check_views(&c, &outputs);
        outputs_free(&outputs);
        free(c.set);
        free(c.labels);
        free(c.order);
    }
}

/* ---- Philox ---- */
static void test_philox(void **state)
{
    (void)state;
    enum { BLOCKS = 300 };
    static const RngPurpose purposes[] = {RNG_SHUFFLE, RNG_CROP, RNG_TEST};
    for (int k = 0; k < 3; k++) {
        const uint64_t seed = 0x9E3779B97F4A7C15u * (uint64_t)(k + 1);
        const uint64_t sample = (uint64_t)k << 33 | 12345u;
        uint32_t got[BLOCKS * 4];
        uint32_t *out = device_alloc(sizeof got);
        CUDA_TEST(kernel_philox(NULL, seed, 7, sample, (int)purposes[k], BLOCKS, out));
        device_read(got, out, sizeof got);
        device_free_all();
        Rng rng = rng_make(seed, 7, sample, purposes[k]);
        for (int i = 0; i < BLOCKS * 4; i++) {
            assert_int_equal(got[i], rng_u32(&rng));
        }
    }
}

static void test_bad_arguments(void **state)
{
    (void)state;
    uint8_t bytes[12] = {0};
    ImageShape s = {.type = KERNEL_F32, .n = 1, .h = 2, .w = 2, .oh = 1, .ow = 2, .c = 3};
    assert_int_equal(kernel_image(NULL, &s, bytes, NULL, bytes), KERNEL_BAD_ARGUMENT);
    s.oh = 2;
    s.c = 2;
    assert_int_equal(kernel_image(NULL, &s, bytes, NULL, bytes), KERNEL_BAD_ARGUMENT);
    s.c = 3;
    s.type = KERNEL_U8;
    assert_int_equal(kernel_image(NULL, &s, bytes, NULL, bytes), KERNEL_BAD_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
