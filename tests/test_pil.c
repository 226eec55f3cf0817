/* Pillow's operations: every pixel of some thousand results against Pillow itself (test_pil.py; skipped without it), and
 * without Pillow small results worked out by hand, and the cutout's square against its definition. */
#include "data/pil.h"

#include "base/err.h"
#include "python.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_BYTES = 1 << 20, MIN_CASES = 3000, LINE = 256 };

static PilKind kind_of(const char *name)
{
    for (int kind = 0; kind < PIL_KINDS; kind++) {
        if (strcmp(name, pil_name((PilKind)kind)) == 0) {
            return (PilKind)kind;
        }
    }
    fail_msg("no operation '%s'", name);
    return PIL_IDENTITY;
}

static PilFilter filter_of(const char *name)
{
    return strcmp(name, "nearest") == 0    ? PIL_NEAREST
           : strcmp(name, "bilinear") == 0 ? PIL_BILINEAR
                                           : PIL_BICUBIC;
}

typedef struct {
    uint8_t *image, *want, *scratch;
} Buffers;

/* One case of the stream: *wrong and a message where a pixel differs. */
static void check_case(const char *line, FILE *cases, const Buffers *b, long *wrong)
{
    char fields[LINE];
    (void)snprintf(fields, sizeof fields, "%s", line);
    char *save = NULL;
    char *kind = strtok_r(fields, " ", &save);
    char *filter = strtok_r(NULL, " ", &save);
    double numbers[6]; /* fill, value, height, width */
    for (int i = 0; i < 6; i++) {
        const char *field = strtok_r(NULL, " ", &save);
        assert_non_null(field);
        numbers[i] = strtod(field, NULL);
    }
    const int height = (int)numbers[4];
    const int width = (int)numbers[5];
    PilOp op = {.kind = kind_of(kind), .filter = filter_of(filter), .value = numbers[3]};
    const size_t bytes = (size_t)height * (size_t)width * 3;
    assert_in_range(bytes, 3, MAX_BYTES);
    assert_int_equal(fread(b->image, 1, bytes, cases), bytes);
    assert_int_equal(fread(b->want, 1, bytes, cases), bytes);
    for (int c = 0; c < 3; c++) {
        op.fill[c] = (uint8_t)numbers[c];
    }
    pil_apply(&op, b->image, height, width, b->scratch);
    size_t differ = 0;
    size_t first = bytes;
    for (size_t i = bytes; i-- > 0;) {
        if (b->image[i] != b->want[i]) {
            differ++;
            first = i;
        }
    }
    if (differ > 0 && (*wrong)++ < 10) {
        print_error("%s: %zu of %zu values differ, first at %zu: %d, Pillow has %d\n", line, differ,
                    bytes, first, b->image[first], b->want[first]);
    }
}

static void test_pillow(void **state)
{
    (void)state;
    if (!python_has("PIL")) {
        python_skip("Pillow");
        skip();
        return;
    }
    const Buffers b = {xmalloc(MAX_BYTES), xmalloc(MAX_BYTES), xmalloc(MAX_BYTES)};
    FILE *cases = python_open("tests/test_pil.py");
    assert_non_null(cases);
    char line[LINE];
    long count = 0;
    long wrong = 0;
    bool ended = false;
    while (!ended && fgets(line, sizeof line, cases) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        ended = strncmp(line, "end ", 4) == 0;
        if (!ended) {
            check_case(line, cases, &b, &wrong);
            count++;
        }
    }
    assert_int_equal(python_close(cases), 0);
    assert_true(ended);
    assert_int_equal(strtol(line + 4, NULL, 10), count);
    assert_true(count >= MIN_CASES);
    print_message("%ld results compared with Pillow's\n", count);
    assert_int_equal(wrong, 0);
    free(b.image);
    free(b.want);
    free(b.scratch);
}

/* Grey images of `width` columns and one or more rows, from and to the red channel. */
static void check_grey(PilOp op, int height, int width, const uint8_t *values, const uint8_t *want)
{
    uint8_t image[64 * 3];
    uint8_t scratch[64 * 3];
    const int pixels = height * width;
    for (int i = 0; i < 3 * pixels; i++) {
        image[i] = values[i / 3];
    }
    pil_apply(&op, image, height, width, scratch);
    for (int i = 0; i < 3 * pixels; i++) {
        if (image[i] != want[i / 3]) {
            fail_msg("%s(%g): value %d is %d, not %d", pil_name(op.kind), op.value, i, image[i],
                     want[i / 3]);
        }
    }
}

static void test_by_hand(void **state)
{
    (void)state;
    const uint8_t row[5] = {0, 100, 127, 128, 255};
    check_grey((PilOp){.kind = PIL_IDENTITY}, 1, 5, row, row);
    check_grey((PilOp){.kind = PIL_INVERT}, 1, 5, row, (uint8_t[]){255, 155, 128, 127, 0});
    check_grey((PilOp){.kind = PIL_POSTERIZE, .value = 1}, 1, 5, row,
               (uint8_t[]){0, 0, 0, 128, 128});
    check_grey((PilOp){.kind = PIL_POSTERIZE, .value = 0}, 1, 5, row, (uint8_t[]){0, 0, 0, 0, 0});
    check_grey((PilOp){.kind = PIL_SOLARIZE, .value = 128}, 1, 5, row,
               (uint8_t[]){0, 100, 127, 127, 0});
    check_grey((PilOp){.kind = PIL_SOLARIZE, .value = 127.5}, 1, 5, row,
               (uint8_t[]){0, 100, 127, 127, 0});
    check_grey((PilOp){.kind = PIL_SOLARIZE_ADD, .value = 128}, 1, 5, row,
               (uint8_t[]){128, 228, 255, 128, 255});
    check_grey((PilOp){.kind = PIL_BRIGHTNESS, .value = 0.5}, 1, 5, row,
               (uint8_t[]){0, 50, 63, 64, 127});
    check_grey((PilOp){.kind = PIL_BRIGHTNESS, .value = 2}, 1, 5, row,
               (uint8_t[]){0, 200, 254, 255, 255});
    check_grey((PilOp){.kind = PIL_CONTRAST, .value = 0}, 1, 5, row, /* mean 122 */
               (uint8_t[]){122, 122, 122, 122, 122});
    check_grey((PilOp){.kind = PIL_COLOR, .value = 0.3}, 1, 5, row, row);
    check_grey((PilOp){.kind = PIL_AUTO_CONTRAST}, 1, 3, (uint8_t[]){10, 20, 30},
               (uint8_t[]){0, 127, 255});
    /* 5 times 130 and 8 times 0, by 13 */
    check_grey((PilOp){.kind = PIL_SHARPNESS, .value = 0}, 3, 3,
               (uint8_t[]){0, 0, 0, 0, 130, 0, 0, 0, 0}, (uint8_t[]){0, 0, 0, 0, 50, 0, 0, 0, 0});
    const uint8_t fill = 9;
    check_grey((PilOp){.kind = PIL_TRANSLATE_X, .value = 2, .fill = {fill, fill, fill}}, 1, 5, row,
               (uint8_t[]){127, 128, 255, fill, fill});
    check_grey((PilOp){.kind = PIL_TRANSLATE_X, .value = -1, .fill = {fill, fill, fill}}, 1, 5, row,
               (uint8_t[]){fill, 0, 100, 127, 128});
    check_grey((PilOp){.kind = PIL_TRANSLATE_X, .value = 0.5, .filter = PIL_BILINEAR}, 1, 3,
               (uint8_t[]){0, 100, 200}, (uint8_t[]){50, 150, 0});
    check_grey((PilOp){.kind = PIL_SHEAR_X, .value = 1}, 2, 4, (uint8_t[]){1, 2, 3, 4, 5, 6, 7, 8},
               (uint8_t[]){2, 3, 4, 0, 7, 8, 0, 0}); /* centres lie at .5 */
}

/* Equal shares of 0..255 come out of any values of equal counts. */
static void test_equalize_spreads(void **state)
{
    (void)state;
    enum { PIXELS = 256 * 4 };
    static uint8_t image[PIXELS * 3];
    static uint8_t scratch[PIXELS * 3];
    for (int i = 0; i < PIXELS; i++) {
        for (int c = 0; c < 3; c++) {
            image[3 * i + c] = (uint8_t)(100 + i % 64);
        }
    }
    pil_apply(&(PilOp){.kind = PIL_EQUALIZE}, image, 4, 256, scratch);
    for (int i = 0; i < PIXELS; i++) { /* step (1024 - 16)/255 = 3; (1 + 16 k)/3, at most 255 */
        const int value = (1 + 16 * (i % 64)) / 3;
        assert_int_equal(image[3 * i], value < 255 ? value : 255);
    }
}

static void test_cutout(void **state)
{
    (void)state;
    enum { HEIGHT = 7, WIDTH = 9 };
    const uint8_t fill[3] = {1, 2, 3};
    uint8_t image[HEIGHT * WIDTH * 3];
    for (int side = 0; side <= 20; side++) {
        for (int at = 0; at < HEIGHT * WIDTH; at++) {
            const int top = at / WIDTH - side / 2;
            const int left = at % WIDTH - side / 2;
            memset(image, 77, sizeof image);
            pil_cutout(image, HEIGHT, WIDTH, at % WIDTH, at / WIDTH, side, fill);
            for (int i = 0; i < HEIGHT * WIDTH * 3; i++) {
                const int y = i / 3 / WIDTH;
                const int x = i / 3 % WIDTH;
                const bool cut = y >= top && y < top + side && x >= left && x < left + side;
                assert_int_equal(image[i], cut ? fill[i % 3] : 77);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pillow),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_equalize_spreads),
        cmocka_unit_test(test_cutout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
