/* Crop and flip: against an implementation that really builds the padded image, and against NumPy
 * where there is one; the numbering of views; the distribution of the draws. */
#include "data/augment.h"

#include "base/err.h"
#include "base/files.h"
#include "base/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The definition: pad with zeros, cut out, mirror. */
static void plain_apply(int pad, AugmentView view, const uint8_t *src, int height, int width,
                        uint8_t *dst)
{
    const int padded_width = width + 2 * pad;
    const int padded_height = height + 2 * pad;
    uint8_t *padded = xcalloc((size_t)padded_width * (size_t)padded_height, 3);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            for (int c = 0; c < 3; c++) {
                padded[((y + pad) * padded_width + x + pad) * 3 + c] = src[(y * width + x) * 3 + c];
            }
        }
    }
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            const int column = view.flip ? width - 1 - x : x;
            for (int c = 0; c < 3; c++) {
                dst[(y * width + x) * 3 + c] =
                    padded[((y + view.dy) * padded_width + column + view.dx) * 3 + c];
            }
        }
    }
    free(padded);
}

static void fill_random(uint8_t *bytes, size_t count, uint64_t sample)
{
    Rng rng = rng_make(5, 0, sample, RNG_TEST);
    for (size_t i = 0; i < count; i++) {
        bytes[i] =
            (uint8_t)(1 + rng_below(&rng, 255)); /* never 0: zeros come from the border alone */
    }
}

static void check_all_views(AugmentSpec spec, int height, int width)
{
    const size_t size = (size_t)height * (size_t)width * 3;
    uint8_t *src = xmalloc(size);
    uint8_t *want = xmalloc(size);
    uint8_t *got = xmalloc(size + 1);
    fill_random(src, size, (uint64_t)height * 100 + (uint64_t)width);
    for (int v = 0; v < augment_view_count(spec); v++) {
        const AugmentView view = augment_view_at(spec, v);
        assert_int_equal(augment_view_index(spec, view), v);
        plain_apply(spec.pad, view, src, height, width, want);
        memset(got, 0xA5, size + 1);
        augment_apply(spec, view, src, height, width, got);
        assert_memory_equal(got, want, size);
        assert_int_equal(got[size], 0xA5);
    }
    free(got);
    free(want);
    free(src);
}

static void test_views_against_definition(void **state)
{
    (void)state;
    check_all_views((AugmentSpec){.pad = 4, .flip = true}, 32, 32);
    check_all_views((AugmentSpec){.pad = 4, .flip = false}, 32, 32);
    check_all_views((AugmentSpec){.pad = 0, .flip = true}, 32, 32);
    check_all_views((AugmentSpec){.pad = 2, .flip = true}, 5, 7);
    check_all_views((AugmentSpec){.pad = 9, .flip = true}, 7,
                    5); /* crops without a single pixel of the image */
    check_all_views((AugmentSpec){.pad = 3, .flip = true}, 1, 1);
}

static void test_view_numbers(void **state)
{
    (void)state;
    assert_int_equal(augment_view_count((AugmentSpec){.pad = 4, .flip = true}), 162);
    assert_int_equal(augment_view_count((AugmentSpec){.pad = 4}), 81);
    assert_int_equal(augment_view_count((AugmentSpec){0}), 1);
    assert_int_equal(augment_view_count((AugmentSpec){.pad = AUGMENT_MAX_PAD, .flip = true}),
                     130050);
    const AugmentSpec widest = {.pad = AUGMENT_MAX_PAD, .flip = true};
    assert_int_equal(augment_view_index(widest, augment_view_at(widest, 130049)), 130049);
}

static void test_identity(void **state)
{
    (void)state;
    uint8_t src[32 * 32 * 3];
    uint8_t dst[32 * 32 * 3];
    fill_random(src, sizeof src, 1);
    for (int pad = 0; pad <= 8; pad++) {
        const AugmentSpec spec = {.pad = pad, .flip = true};
        augment_apply(spec, augment_identity(spec), src, 32, 32, dst);
        assert_memory_equal(dst, src, sizeof src);
    }
}

/* 162 cells, 200 expected in each: chi-square has mean 161 and deviation sqrt(2 * 161) = 18; five
 * of them. The draws are fixed, so this passes always or never. */
static void test_draws_are_uniform(void **state)
{
    (void)state;
    enum { CELLS = 162, EXPECTED = 200 };
    const AugmentSpec spec = {.pad = 4, .flip = true};
    for (int run = 0; run < 2; run++) { /* over samples, then over epochs */
        int seen[CELLS] = {0};
        for (uint32_t i = 0; i < CELLS * EXPECTED; i++) {
            const AugmentView view =
                run == 0 ? augment_view(3, 1, i, spec) : augment_view(3, i, 1, spec);
            seen[augment_view_index(spec, view)]++;
        }
        double chi_square = 0.0;
        for (int c = 0; c < CELLS; c++) {
            chi_square += (seen[c] - EXPECTED) * (double)(seen[c] - EXPECTED) / EXPECTED;
        }
        print_message("chi-square of %s: %.1f (mean 161, limit 251)\n",
                      run == 0 ? "samples" : "epochs", chi_square);
        assert_true(chi_square < 251.0);
    }
}

static void test_draws_depend_on_key_alone(void **state)
{
    (void)state;
    const AugmentSpec spec = {.pad = 4, .flip = true};
    const AugmentSpec crop_only = {.pad = 4};
    const AugmentSpec flip_only = {.flip = true};
    int changed_by_seed = 0;
    int changed_by_epoch = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        const AugmentView view = augment_view(7, 2, i, spec);
        assert_int_equal(augment_view_index(spec, view),
                         augment_view_index(spec, augment_view(7, 2, i, spec)));
        /* Crop and flip have their own purposes: switching one off leaves the other as it was. */
        const AugmentView crop = augment_view(7, 2, i, crop_only);
        const AugmentView flip = augment_view(7, 2, i, flip_only);
        assert_true(crop.dx == view.dx && crop.dy == view.dy && !crop.flip);
        assert_true(flip.dx == 0 && flip.dy == 0 && flip.flip == view.flip);
        changed_by_seed +=
            augment_view_index(spec, view) != augment_view_index(spec, augment_view(8, 2, i, spec));
        changed_by_epoch +=
            augment_view_index(spec, view) != augment_view_index(spec, augment_view(7, 3, i, spec));
    }
    assert_true(changed_by_seed > 970); /* equal by chance: 1000 / 162, about 6 */
    assert_true(changed_by_epoch > 970);
}

static const char NUMPY_ORACLE[] =
    "import sys\n"
    "import numpy as np\n"
    "image = (np.arange(32 * 32 * 3) * 7919 % 255 + 1).astype(np.uint8).reshape(32, 32, 3)\n"
    "padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))\n"
    "with open(sys.argv[1], 'wb') as out:\n"
    "    for flip in (0, 1):\n"
    "        for top in range(9):\n"
    "            for left in range(9):\n"
    "                crop = padded[top:top + 32, left:left + 32]\n"
    "                out.write(np.ascontiguousarray(crop[:, ::-1] if flip else crop).tobytes())\n";

static void test_views_against_numpy(void **state)
{
    (void)state;
    enum { SIZE = 32 * 32 * 3, VIEWS = 162 };
    const char *python = getenv("CUDISTILL_PYTHON");
    python = python ? python : "python3";
    char *probe = xformat("%s -c 'import numpy' >/dev/null 2>&1", python);
    const int absent = system(probe);
    free(probe);
    if (absent) {
        print_message("skipped: no NumPy in %s (set CUDISTILL_PYTHON)\n", python);
        skip();
    }
    char dir[] = "/tmp/test_augment_XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *script = path_join(dir, "oracle.py");
    char *views = path_join(dir, "views");
    assert_null(file_write_atomic(script, NUMPY_ORACLE, sizeof NUMPY_ORACLE - 1));
    char *command = xformat("%s %s %s", python, script, views);
    assert_int_equal(system(command), 0);
    FileMap map = {0};
    assert_null(file_map(views, &map));
    assert_int_equal(map.size, SIZE * VIEWS);
    uint8_t src[SIZE];
    for (int i = 0; i < SIZE; i++) {
        src[i] = (uint8_t)(i * 7919 % 255 + 1);
    }
    const AugmentSpec spec = {.pad = 4, .flip = true};
    for (int v = 0; v < VIEWS; v++) {
        uint8_t got[SIZE];
        augment_apply(spec, augment_view_at(spec, v), src, 32, 32, got);
        assert_memory_equal(got, map.data + (size_t)v * SIZE, SIZE);
    }
    file_unmap(&map);
    assert_null(dir_remove(dir));
    free(command);
    free(views);
    free(script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_views_against_definition),
        cmocka_unit_test(test_view_numbers),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_draws_are_uniform),
        cmocka_unit_test(test_draws_depend_on_key_alone),
        cmocka_unit_test(test_views_against_numpy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
