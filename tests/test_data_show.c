/* Pictures of a data set: the grid's pixels are the data set's, classes are chosen, pages are well formed. */
#include "report/show.h"

#include "base/rng.h"
#include "data/view.h"
#include "io/png.h"
#include "report/pictures.h"

#include "html_check.h"
#include "run_rig.h"

enum { SIDE = 32, GAP = 2 };
static const char SPEC[] = "synthetic:classes=6,train=60,test=30,seed=4";

static ShowRequest request(const char *out)
{
    return (ShowRequest){.spec = SPEC,
                         .split = SPLIT_TRAIN,
                         .count = 10,
                         .seed = 1,
                         .columns = 4,
                         .scale = 2,
                         .out = out};
}

static char *show(const ShowRequest *what)
{
    Text said = {0};
    rig_ok(dataset_show(what, &said));
    return said.text;
}

static Dataset *open_set(void)
{
    Dataset *data = NULL;
    rig_ok(dataset_open(SPEC, SPLIT_TRAIN, &data));
    return data;
}

typedef struct {
    uint8_t *rgb;
    int height, width;
} Grid;

static Grid read_grid(const char *path)
{
    Grid grid;
    FileMap map;
    rig_ok(file_map(path, &map));
    rig_ok(png_decode(map.data, map.size, (size_t)1 << 24, &grid.rgb, &grid.height, &grid.width));
    file_unmap(&map);
    return grid;
}

/* Picture i of a grid of 4 columns drawn 2 x 2; every one of the four pixels must be the same. */
static void cut(const Grid *grid, int i, uint8_t *out)
{
    const int left = i % 4 * (2 * SIDE + GAP);
    const int top = i / 4 * (2 * SIDE + GAP);
    for (int y = 0; y < 2 * SIDE; y++) {
        for (int x = 0; x < 2 * SIDE; x++) {
            const uint8_t *pixel = &grid->rgb[((top + y) * grid->width + left + x) * 3];
            uint8_t *to = &out[(y / 2 * SIDE + x / 2) * 3];
            if (y % 2 == 0 && x % 2 == 0) {
                memcpy(to, pixel, 3);
            }
            assert_memory_equal(to, pixel, 3);
        }
    }
}

/* Which image of the set, seen through which view? -1 when none. */
static int find_image(const Dataset *data, const uint8_t *picture, AugmentSpec spec)
{
    uint8_t view[SIDE * SIDE * 3];
    for (uint32_t i = 0; i < data->count; i++) {
        for (int v = 0; v < augment_view_count(spec); v++) {
            augment_apply(spec, augment_view_at(spec, v), dataset_image(data, i), SIDE, SIDE, view);
            if (memcmp(view, picture, sizeof view) == 0) {
                return (int)i;
            }
        }
    }
    return -1;
}

static void grid_shows_the_images(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "grid.png");
    const ShowRequest what = request(out);
    char *said = show(&what);
    assert_non_null(strstr(said, "60 images of 32 x 32 pixels, 6 classes, 10 images each"));
    assert_non_null(strstr(said, "grid.png: 10 pictures"));
    free(said);
    Dataset *data = open_set();
    const Grid grid = read_grid(out);
    assert_int_equal(grid.width, 4 * 2 * SIDE + 3 * GAP);
    assert_int_equal(grid.height, 3 * 2 * SIDE + 2 * GAP);
    bool seen[60] = {false};
    for (int i = 0; i < 10; i++) {
        uint8_t picture[SIDE * SIDE * 3];
        cut(&grid, i, picture);
        const int sample = find_image(data, picture, (AugmentSpec){0});
        assert_true(sample >= 0);
        assert_false(seen[sample]);
        seen[sample] = true;
    }
    free(grid.rgb);
    dataset_close(data);
    free(out);
    rig_remove(folder);
}

static void seeds_and_augmentation(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *paths[4];
    for (int i = 0; i < 4; i++) {
        char *name = xformat("%d.png", i);
        paths[i] = path_join(folder, name);
        free(name);
        ShowRequest what = request(paths[i]);
        what.seed = i == 2 ? 9 : 1;
        what.augment = i == 3;
        free(show(&what));
    }
    char hash[4][33];
    for (int i = 0; i < 4; i++) {
        rig_ok(file_hash_hex(paths[i], hash[i]));
    }
    assert_string_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
    assert_string_not_equal(hash[0], hash[3]);
    Dataset *data = open_set();
    const Grid grid = read_grid(paths[3]);
    int moved = 0;
    for (int i = 0; i < 10; i++) {
        uint8_t picture[SIDE * SIDE * 3];
        cut(&grid, i, picture);
        assert_true(find_image(data, picture, (AugmentSpec){.pad = 4, .flip = true}) >= 0);
        moved += find_image(data, picture, (AugmentSpec){0}) < 0 ? 1 : 0;
    }
    assert_true(moved > 5);
    free(grid.rgb);
    dataset_close(data);
    for (int i = 0; i < 4; i++) {
        free(paths[i]);
    }
    rig_remove(folder);
}

static void a_policy_is_the_loaders(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "grid.png");
    ShowRequest what = request(out);
    what.augment = true;
    what.policy = (PolicySpec){.kind = POLICY_AUTOAUGMENT_CIFAR10,
                               .cutout = 6,
                               .cutout_prob = 1,
                               .cutout_fill = {1, 2, 3}};
    char *said = show(&what);
    assert_non_null(strstr(said, "augmented"));
    free(said);
    Dataset *data = open_set();
    uint32_t *order = xmalloc(data->count * sizeof *order);
    rng_permutation(what.seed, 0, order, data->count);
    const ViewSpec view = {.crop = {.pad = SIDE / 8, .flip = true}, .policy = what.policy};
    const Grid grid = read_grid(out);
    for (int i = 0; i < 10; i++) {
        uint8_t picture[SIDE * SIDE * 3];
        uint8_t wanted[SIDE * SIDE * 3];
        uint8_t scratch[SIDE * SIDE * 3];
        cut(&grid, i, picture);
        view_make(&view, what.seed, 1, order[i], dataset_image(data, order[i]), SIDE, SIDE, wanted,
                  scratch);
        assert_memory_equal(picture, wanted, sizeof wanted);
    }
    what.policy = (PolicySpec){.kind = POLICY_RANDAUGMENT_TIMM, .n = 2, .m = 11};
    Text text = {0};
    Err *err = dataset_show(&what, &text);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    err_free(err);
    free(grid.rgb);
    free(order);
    dataset_close(data);
    free(out);
    rig_remove(folder);
}

static void chosen_classes(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "grid.png");
    Dataset *data = open_set();
    char *classes = xformat("%s, 4", data->class_names[1]);
    ShowRequest what = request(out);
    what.classes = classes;
    what.count = 64;
    char *said = show(&what);
    assert_non_null(strstr(said, "20 pictures"));
    assert_non_null(strstr(said, data->class_names[1]));
    assert_non_null(strstr(said, data->class_names[4]));
    free(said);
    const Grid grid = read_grid(out);
    for (int i = 0; i < 20; i++) {
        uint8_t picture[SIDE * SIDE * 3];
        cut(&grid, i, picture);
        const int sample = find_image(data, picture, (AugmentSpec){0});
        assert_true(sample >= 0 && (data->labels[sample] == 1 || data->labels[sample] == 4));
    }
    free(grid.rgb);
    free(classes);
    dataset_close(data);
    free(out);
    rig_remove(folder);
}

static int count_of(const char *page, const char *what)
{
    int count = 0;
    const size_t size = strlen(what);
    for (size_t at = 0; page[at] != '\0'; at++) {
        count += strncmp(&page[at], what, size) == 0 ? 1 : 0;
    }
    return count;
}

static void page_with_labels(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "pictures.html");
    ShowRequest what = request(out);
    what.html = true;
    free(show(&what));
    char *page = rig_read(out);
    HtmlCheck check;
    if (!html_well_formed(page, &check)) {
        fail_msg("%s", check.why);
    }
    assert_int_equal(count_of(page, "data:image/png"), 10);
    assert_non_null(strstr(page, "class 0, image "));
    free(page);
    free(out);
    rig_remove(folder);
}

static void refused(const ShowRequest *what, ExitCode code, const char *words)
{
    Text said = {0};
    Err *err = dataset_show(what, &said);
    assert_non_null(err);
    assert_int_equal(err->code, code);
    if (strstr(err->message, words) == NULL) {
        fail_msg("'%s' lacks '%s'", err->message, words);
    }
    assert_int_equal(said.size, 0);
    err_free(err);
}

static void mistakes(void **state)
{
    (void)state;
    char *folder = rig_folder();
    char *out = path_join(folder, "grid.png");
    Dataset *data = open_set();
    ShowRequest what = request(out);
    char *near = xformat("%sx", data->class_names[2]);
    what.classes = near;
    char *hint = xformat("did you mean '%s'", data->class_names[2]);
    refused(&what, EXIT_CONFIG_ERR, hint);
    what.classes = "6";
    refused(&what, EXIT_CONFIG_ERR, "0 to 5");
    what.classes = "";
    refused(&what, EXIT_CONFIG_ERR, "no class ''");
    what = request(out);
    what.columns = 1;
    what.count = 60;
    what.scale = 16;
    assert_false(path_exists(out));
    what.spec = "synthetic:classes=6,train=4096,test=30,seed=4";
    what.count = 4096;
    refused(&what, EXIT_CONFIG_ERR, "lower --count");
    what = request("/nowhere/at/all/grid.png");
    Text said = {0};
    Err *err = dataset_show(&what, &said);
    assert_non_null(err);
    err_free(err);
    what = request(out);
    what.spec = "cifar100:/nowhere/at/all";
    refused(&what, EXIT_NO_INPUT, "/nowhere/at/all");
    free(hint);
    free(near);
    dataset_close(data);
    free(out);
    rig_remove(folder);
}

/* A picture too large for a page becomes means of blocks. */
static void large_pictures_shrink(void **state)
{
    (void)state;
    enum { LARGE = 224 };
    uint8_t *sheet = xmalloc((size_t)LARGE * LARGE * 3);
    for (int i = 0; i < LARGE * LARGE * 3; i++) {
        sheet[i] = (uint8_t)(i / 3 % LARGE);
    }
    int side;
    uint8_t *small = picture_cut(sheet, LARGE, 0, 0, LARGE, 1, &side);
    assert_int_equal(side, LARGE / 3);
    assert_int_equal(small[0], 1);      /* mean of 0, 1, 2 */
    assert_int_equal(small[3 * 5], 16); /* of 15, 16, 17 */
    free(small);
    free(sheet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grid_shows_the_images),   cmocka_unit_test(seeds_and_augmentation),
        cmocka_unit_test(a_policy_is_the_loaders), cmocka_unit_test(chosen_classes),
        cmocka_unit_test(page_with_labels),        cmocka_unit_test(mistakes),
        cmocka_unit_test(large_pictures_shrink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
