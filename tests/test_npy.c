/* .npy: arrays of every type and rank from NumPy (tests/test_npy.py; skipped without it), our writer against its bytes, and
 * headers by hand with one fault each. */
#include "base/log.h"
#include "io/npy.h"
#include "weights_rig.h"

static char *dir;
static bool have_numpy;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    dir = rig_dir();
    if (dir == NULL) {
        return 1;
    }
    char *arguments = xformat("tests/test_npy.py write '%s'", dir);
    const int code = rig_python(arguments);
    free(arguments);
    have_numpy = code == 0;
    if (code == 77 || code == 127) {
        print_message("skipped: no NumPy (set CUDISTILL_PYTHON)\n");
    }
    return code != 0 && code != 77 && code != 127;
}

static int teardown(void **state)
{
    (void)state;
    Err *err = dir_remove(dir);
    free(dir);
    return err != NULL;
}

static int number_in(const char *name)
{
    char *path = path_join(dir, name);
    char *text = NULL;
    ok(file_read_text(path, 100, &text));
    const int number = (int)strtol(text, NULL, 10);
    free(text);
    free(path);
    return number;
}

/* Reads array i; what was read is written again as <i>.ours.npy. */
static void check_array(int i)
{
    char *path = xformat("%s/%d.npy", dir, i);
    char *listing = xformat("%s/%d.txt", dir, i);
    char *wanted = NULL;
    ok(file_read_text(listing, 4096, &wanted));
    wanted[strcspn(wanted, "\n")] = '\0';
    WeightsFile *file = NULL;
    Err *err = npy_open(path, &file);
    if (strncmp(wanted, "error ", 6) == 0) {
        expect_err(err, EXIT_BAD_DATA, wanted + 6);
        assert_null(file);
    } else {
        ok(err);
        assert_int_equal(file->count, 1);
        const WeightEntry *entry = &file->entries[0];
        Text got = {0};
        list_entry(dir, entry, &got);
        got.text[got.size - 1] = '\0';
        assert_memory_equal(got.text, "array ", 6);
        assert_string_equal(got.text + 6, wanted);
        text_free(&got);
        char *ours = xformat("%s/%d.ours.npy", dir, i);
        ok(npy_write(ours, entry->type, entry->ndim, entry->shape, entry->data));
        free(ours);
    }
    weights_close(file);
    free(wanted);
    free(listing);
    free(path);
}

static void test_numpy(void **state)
{
    (void)state;
    if (!have_numpy) {
        skip();
        return;
    }
    const int count = number_in("count");
    assert_true(count >= 34);
    for (int i = 0; i < count; i++) {
        check_array(i);
    }
    char *arguments = xformat("tests/test_npy.py compare '%s'", dir);
    assert_int_equal(rig_python(arguments), 0);
    free(arguments);
}

/* Without Python: what we write, we read. */
static void test_round_trip(void **state)
{
    (void)state;
    char *path = path_join(dir, "round.npy");
    const int64_t shape[2] = {2, 3};
    const float values[6] = {1, 2, 3, 4, 5, 6};
    ok(npy_write(path, WEIGHT_F32, 2, shape, values));
    WeightsFile *file = NULL;
    ok(npy_open(path, &file));
    assert_int_equal(file->entries[0].type, WEIGHT_F32);
    assert_int_equal(file->entries[0].ndim, 2);
    assert_int_equal(file->entries[0].shape[1], 3);
    assert_memory_equal(file->entries[0].data, values, sizeof values);
    assert_int_equal((file->map.size - sizeof values) % 64, 0);
    weights_close(file);
    expect_err(npy_write(path, WEIGHT_BF16, 2, shape, values), EXIT_BAD_DATA, "BF16");
    expect_err(npy_open("/nowhere/x.npy", &file), EXIT_NO_INPUT, "/nowhere/x.npy");
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "cudistill convert");
    free(path);
}

/* Version 1.0, the header as given, then `data_size` zeros. */
static Err *open_header(const char *header, size_t data_size, WeightsFile **file)
{
    const size_t length = strlen(header);
    const size_t size = 10 + length + data_size;
    uint8_t *bytes = xcalloc(size, 1);
    memcpy(bytes, "\x93NUMPY\1", 8);
    bytes[8] = (uint8_t)(length & 0xFF);
    bytes[9] = (uint8_t)(length >> 8);
    memcpy(bytes + 10, header, length);
    Err *err = npy_open_memory("hand", bytes, size, file);
    assert_true((err == NULL) == (*file != NULL));
    weights_close(*file);
    *file = NULL;
    free(bytes);
    return err;
}

static void test_headers(void **state)
{
    (void)state;
    WeightsFile *file = NULL;
    ok(open_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 8, &file));
    ok(open_header("{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}  \n", 24, &file));
    ok(open_header("{'descr':'|u1','fortran_order':False,'shape':(2L, 3L)}", 6, &file));
    ok(open_header("{'descr':'<f8','fortran_order':False,'shape':()}", 8, &file));
    static const struct {
        const char *header;
        size_t data;
        const char *message;
    } cases[] = {
        {"", 0, "not a dict"},
        {"[]", 0, "not a dict"},
        {"{", 0, "text in quotes"},
        {"{}", 0, "missing"},
        {"{'descr': '<f4', 'fortran_order': False}", 4, "missing"},
        {"{'descr': '<f4', 'descr': '<f4', 'shape': ()}", 4, "twice"},
        {"{'descr': '<f4', 'colour': 1, 'shape': ()}", 4, "unknown"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", 4, "True or False"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': ()}", 4, "Fortran"},
        {"{'descr': '<f4, 'fortran_order': False, 'shape': ()}", 4, "belongs here"},
        {"{'descr': '<f4", 4, "no end"},
        {"{'descr': '<f4\\'', 'shape': ()}", 4, "too long"},
        {"{'descr': 'float32_and_so_on_and_on', 'shape': ()}", 4, "too long"},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': (2,)}", 4, "'<V2'"},
        {"{'descr': '', 'fortran_order': False, 'shape': (2,)}", 4, "''"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", 8, "whole number"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2.5,)}", 8, "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2)}", 8, "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 2}", 8, "tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,", 8, "whole number"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x", 8, "only spaces"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,) 'x'", 8, "comma"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 8,
         "dimension overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}", 8,
         "shape overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 8,
         "shape overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 8, "needs 12 bytes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 8, "needs 4 bytes"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", 4,
         "more than 8 dimensions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_err(open_header(cases[i].header, cases[i].data, &file), EXIT_BAD_DATA,
                   cases[i].message);
    }
}

static void test_damage(void **state)
{
    (void)state;
    char *path = path_join(dir, "damage.npy");
    const int64_t shape[1] = {3};
    const int32_t values[3] = {1, 2, 3};
    ok(npy_write(path, WEIGHT_I32, 1, shape, values));
    FileMap map;
    ok(file_map(path, &map));
    WeightsFile *file = NULL;
    for (size_t cut = 0; cut < map.size; cut++) {
        uint8_t *copy = xmalloc(cut > 0 ? cut : 1);
        memcpy(copy, map.data, cut);
        expect_err(npy_open_memory("cut", copy, cut, &file), EXIT_BAD_DATA, "'cut'");
        free(copy);
    }
    uint8_t *copy = xmalloc(map.size);
    memcpy(copy, map.data, map.size);
    static const struct {
        size_t at;
        uint8_t value;
        const char *message;
    } faults[] = {{0, 0x92, "magic number"},
                  {6, 0, "version 0.0"},
                  {6, 4, "version 4.0"},
                  {7, 1, "version 1.1"},
                  {9, 0xFF, "inside its header"}};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        const uint8_t before = copy[faults[i].at];
        copy[faults[i].at] = faults[i].value;
        expect_err(npy_open_memory("fault", copy, map.size, &file), EXIT_BAD_DATA,
                   faults[i].message);
        copy[faults[i].at] = before;
    }
    copy[6] = 2; /* the length has four bytes, two of which are the dict's first */
    expect_err(npy_open_memory("long", copy, map.size, &file), EXIT_BAD_DATA, "above the limit");
    free(copy);
    file_unmap(&map);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numpy),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
