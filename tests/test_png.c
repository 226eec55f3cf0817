/* PNG: round trips, files that Pillow wrote and reads (test_png.py), damaged and oversized files, grids. */
#include "base/files.h"
#include "io/png.h"
#include "python.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PYTHON_MODULES "numpy, PIL"

enum { LIMIT = 1 << 20 };

static uint8_t *picture_new(int height, int width)
{
    const size_t size = (size_t)height * (size_t)width * 3;
    uint8_t *const rgb = xmalloc(size);
    uint32_t random = 99;
    for (size_t i = 0; i < size; i++) {
        random = random * 1664525U + 1013904223U;
        rgb[i] = i % 5 == 0 ? (uint8_t)(random >> 24) : (uint8_t)i;
    }
    return rgb;
}

static void test_round_trip(void **state)
{
    (void)state;
    const int sizes[][2] = {{1, 1}, {1, 300}, {17, 1}, {32, 32}, {224, 301}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *const rgb = picture_new(sizes[i][0], sizes[i][1]);
        uint8_t *png;
        uint8_t *back;
        size_t size;
        int height;
        int width;
        assert_null(png_encode(rgb, sizes[i][0], sizes[i][1], &png, &size));
        assert_memory_equal(png, "\x89PNG\r\n\x1a\n", 8);
        assert_null(png_decode(png, size, LIMIT, &back, &height, &width));
        assert_int_equal(height, sizes[i][0]);
        assert_int_equal(width, sizes[i][1]);
        assert_memory_equal(back, rgb, (size_t)height * (size_t)width * 3);
        free(back);
        free(png);
        free(rgb);
    }
}

static void expect_refused(const uint8_t *png, size_t size, size_t limit)
{
    uint8_t *rgb;
    int height;
    int width;
    Err *const err = png_decode(png, size, limit, &rgb, &height, &width);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_BAD_DATA);
    assert_null(rgb);
    err_free(err);
}

static void test_damage(void **state)
{
    (void)state;
    uint8_t *const rgb = picture_new(20, 30);
    uint8_t *png;
    size_t size;
    assert_null(png_encode(rgb, 20, 30, &png, &size));
    for (size_t cut = 0; cut < size; cut++) {
        expect_refused(png, cut, LIMIT);
    }
    for (size_t i = 0; i < size; i++) {
        png[i] ^= 0x10;
        expect_refused(png, size, LIMIT);
        png[i] ^= 0x10;
    }
    expect_refused(png, size, 20 * 30 - 1);
    uint8_t *back;
    int height;
    int width;
    assert_null(png_decode(png, size, 20 * 30, &back, &height, &width));
    free(back);
    expect_refused((const uint8_t *)"not a picture at all", 20, LIMIT);
    free(png);
    free(rgb);
}

static void test_too_wide(void **state)
{
    (void)state;
    /* libpng takes at most 1,000,000 in a row. */
    uint8_t *const rgb = xcalloc(1000001, 3);
    uint8_t *png;
    size_t size;
    Err *const err = png_encode(rgb, 1, 1000001, &png, &size);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_INTERNAL);
    assert_null(png);
    err_free(err);
    free(rgb);
}

static void test_grid(void **state)
{
    (void)state;
    /* Five pictures of 2 x 3 in rows of three, each pixel 2 x 2, one grey pixel between. */
    enum { COUNT = 5, H = 2, W = 3, COLUMNS = 3, GAP = 1, SCALE = 2 };
    uint8_t pictures[COUNT][H][W][3];
    for (int i = 0; i < COUNT * H * W * 3; i++) {
        ((uint8_t *)pictures)[i] = (uint8_t)(i + 130);
    }
    uint8_t *rgb;
    int height;
    int width;
    picture_grid(&pictures[0][0][0][0], COUNT, H, W, COLUMNS, GAP, SCALE, &rgb, &height, &width);
    assert_int_equal(height, 2 * H * SCALE + GAP);
    assert_int_equal(width, COLUMNS * W * SCALE + (COLUMNS - 1) * GAP);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            const int row = y / (H * SCALE + GAP);
            const int column = x / (W * SCALE + GAP);
            const int in_y = y % (H * SCALE + GAP);
            const int in_x = x % (W * SCALE + GAP);
            const int i = row * COLUMNS + column;
            const bool grey = i >= COUNT || in_y == H * SCALE || in_x == W * SCALE;
            for (int c = 0; c < 3; c++) {
                assert_int_equal(rgb[(y * width + x) * 3 + c],
                                 grey ? 128 : pictures[i][in_y / SCALE][in_x / SCALE][c]);
            }
        }
    }
    free(rgb);
    picture_grid(&pictures[0][0][0][0], 2, H, W, 8, 4, 1, &rgb, &height, &width);
    assert_int_equal(height, H);
    assert_int_equal(width, 2 * W + 4);
    free(rgb);
}

static void compare_with_pillow(const char *folder, const char *kind)
{
    char *const name = xformat("%s/%s.png", folder, kind);
    char *const raw = xformat("%s/%s.rgb", folder, kind);
    FileMap png;
    FileMap expected;
    assert_null(file_map(name, &png));
    assert_null(file_map(raw, &expected));
    uint8_t *rgb;
    int height;
    int width;
    assert_null(png_decode(png.data, png.size, LIMIT, &rgb, &height, &width));
    assert_int_equal(height, 19);
    assert_int_equal(width, 23);
    assert_int_equal(expected.size, 19 * 23 * 3);
    if (memcmp(rgb, expected.data, expected.size) != 0) {
        fail_msg("%s: Pillow has other pixels", kind);
    }
    free(rgb);
    file_unmap(&expected);
    file_unmap(&png);
    free(raw);
    free(name);
}

static void test_pillow(void **state)
{
    (void)state;
    if (!python_has(PYTHON_MODULES)) {
        python_skip(PYTHON_MODULES);
        skip();
    }
    char folder[] = "/tmp/cudistill-png-XXXXXX";
    assert_non_null(mkdtemp(folder));
    uint8_t *const rgb = picture_new(40, 50);
    uint8_t *png;
    size_t size;
    assert_null(png_encode(rgb, 40, 50, &png, &size));
    char *const ours = path_join(folder, "ours.png");
    char *const pixels = path_join(folder, "ours.rgb");
    assert_null(file_write_atomic(ours, png, size));
    assert_null(file_write_atomic(pixels, rgb, 40 * 50 * 3));
    char *const script = xformat("tests/test_png.py '%s'", folder);
    FILE *const stream = python_open(script);
    assert_non_null(stream);
    char kind[64];
    int kinds = 0;
    while (fgets(kind, sizeof kind, stream)) {
        kind[strcspn(kind, "\n")] = '\0';
        compare_with_pillow(folder, kind);
        kinds++;
    }
    assert_int_equal(python_close(stream), 0);
    assert_int_equal(kinds, 11);
    free(script);
    free(pixels);
    free(ours);
    free(png);
    free(rgb);
    assert_null(dir_remove(folder));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_too_wide),   cmocka_unit_test(test_grid),
        cmocka_unit_test(test_pillow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
