/* safetensors: round trips, byte equality with the reference library (tests/test_safetensors.py; skipped without
 * it), and one file for each rule of the format that is broken. */
#include "base/err.h"
#include "base/files.h"
#include "base/half.h"
#include "io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char *dir;

static int setup(void **state)
{
    (void)state;
    const char *root = getenv("TMPDIR");
    dir = xformat("%s/cudistill-XXXXXX", root != NULL ? root : "/tmp");
    return mkdtemp(dir) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    Err *err = dir_remove(dir);
    free(dir);
    return err != NULL;
}

static void ok(Err *err)
{
    if (err != NULL) {
        fail_msg("code %d, message: %s", (int)err->code, err->message);
    }
}

static void expect_err(Err *err, const char *part)
{
    assert_non_null(err);
    if (err->code != EXIT_BAD_DATA || strstr(err->message, part) == NULL) {
        fail_msg("expected '%s', got code %d, message: %s", part, (int)err->code, err->message);
    }
    err_free(err);
}

/* Not atomic and not synchronised: many small files are written here. */
static void write_plain(const char *path, const void *data, size_t size)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

/* ---- Round trip ---- */

static const float REALS[6] = {1.5f, -2.0f, 0.0f, 3.25f, 1e-30f, 7.0f};
static const int64_t LONGS[2] = {42, -1};
static const uint16_t HALVES[3] = {0x3C00, 0xC000, 0x7C00}; /* 1, -2, infinity */
static const uint8_t BYTES[5] = {1, 0, 255, 3, 4};
static const double DOUBLES[1] = {0.1};
static const int32_t INTS[2] = {-5, 6};
static const int8_t CHARS[2] = {-1, 127};

static const SafeTensor TENSORS[] = {
    {"zeta.weight", WEIGHT_F32, 2, {2, 3}, REALS},
    {"alpha.weight", WEIGHT_F32, 1, {1}, REALS + 3},
    {"bn.num_batches_tracked", WEIGHT_I64, 0, {0}, LONGS},
    {"longs", WEIGHT_I64, 1, {2}, LONGS},
    {"half", WEIGHT_F16, 1, {3}, HALVES},
    {"brain", WEIGHT_BF16, 3, {1, 3, 1}, HALVES},
    {"bytes", WEIGHT_U8, 1, {5}, BYTES},
    {"flag", WEIGHT_BOOL, 1, {1}, BYTES},
    {"double", WEIGHT_F64, 1, {1}, DOUBLES},
    {"ints", WEIGHT_I32, 1, {2}, INTS},
    {"chars", WEIGHT_I8, 1, {2}, CHARS},
    {"empty \"quoted\" é", WEIGHT_F32, 2, {0, 3}, REALS},
};
enum { TENSOR_COUNT = sizeof TENSORS / sizeof TENSORS[0] };
static const char *const METADATA[] = {"format", "pt", NULL};

static void test_round_trip(void **state)
{
    (void)state;
    char *path = path_join(dir, "round.safetensors");
    ok(safetensors_write(path, TENSORS, TENSOR_COUNT, METADATA));
    WeightsFile *file = NULL;
    ok(weights_open(path, &file));
    assert_int_equal(file->count, TENSOR_COUNT);
    for (size_t i = 0; i < TENSOR_COUNT; i++) {
        const WeightEntry *entry = weights_find(file, TENSORS[i].name);
        assert_non_null(entry);
        assert_int_equal(entry->type, TENSORS[i].type);
        assert_int_equal(entry->ndim, TENSORS[i].ndim);
        size_t count = 1;
        for (int d = 0; d < entry->ndim; d++) {
            assert_int_equal(entry->shape[d], TENSORS[i].shape[d]);
            count *= (size_t)entry->shape[d];
        }
        assert_int_equal(entry->count, count);
        assert_int_equal(entry->bytes, count * weight_type_size(entry->type));
        assert_memory_equal(entry->data, TENSORS[i].data, entry->bytes);
    }
    assert_string_equal(weights_metadata(file, "format"), "pt");
    assert_null(weights_metadata(file, "absent"));
    uint64_t header_size = 0;
    memcpy(&header_size, file->map.data, sizeof header_size);
    assert_int_equal(header_size % 8, 0);

    float out[6];
    weights_to_float(weights_find(file, "half"), out);
    assert_true(out[0] == 1.0f && out[1] == -2.0f && out[2] > 3e38f);
    weights_to_float(weights_find(file, "brain"), out);
    assert_true(out[0] == bf16_to_float(0x3C00) && out[1] == bf16_to_float(0xC000));
    weights_to_float(weights_find(file, "longs"), out);
    assert_true(out[0] == 42.0f && out[1] == -1.0f);
    weights_to_float(weights_find(file, "chars"), out);
    assert_true(out[0] == -1.0f && out[1] == 127.0f);
    weights_to_float(weights_find(file, "bytes"), out);
    assert_true(out[2] == 255.0f);
    weights_to_float(weights_find(file, "double"), out);
    assert_true(out[0] == 0.1f);
    weights_to_float(weights_find(file, "ints"), out);
    assert_true(out[0] == -5.0f && out[1] == 6.0f);
    weights_to_float(weights_find(file, "zeta.weight"), out);
    assert_memory_equal(out, REALS, sizeof REALS);
    weights_close(file);
    ok(safetensors_write(path, NULL, 0, NULL));
    ok(safetensors_open(path, &file));
    assert_int_equal(file->count, 0);
    weights_close(file);
    weights_close(NULL);
    free(path);
}

static void test_write_refused(void **state)
{
    (void)state;
    char *path = path_join(dir, "refused.safetensors");
    const char *const bad[] = {"class", "caf\xe9", NULL};
    expect_err(safetensors_write(path, TENSORS, 1, bad), "not valid UTF-8");
    const SafeTensor tensor = {"w\xff", WEIGHT_F32, 1, {1}, REALS};
    expect_err(safetensors_write(path, &tensor, 1, NULL), "not valid UTF-8");
    assert_false(path_exists(path));
    free(path);
}

static void test_prefixes(void **state)
{
    (void)state;
    char *path = path_join(dir, "prefix.safetensors");
    const SafeTensor tensors[] = {{"module.model.fc.weight", WEIGHT_F32, 1, {2}, REALS},
                                  {"module.model.model.x", WEIGHT_F32, 1, {2}, REALS},
                                  {"fc", WEIGHT_F32, 1, {2}, REALS}};
    ok(safetensors_write(path, tensors, 2, NULL));
    WeightsFile *file = NULL;
    ok(weights_open(path, &file));
    assert_non_null(weights_find(file, "fc.weight"));
    assert_non_null(weights_find(file, "model.x"));
    weights_close(file);
    ok(safetensors_write(path, tensors, 3, NULL));
    ok(weights_open(path, &file));
    assert_non_null(weights_find(file, "module.model.fc.weight"));
    weights_close(file);
    free(path);
}

/* ---- The reference library ---- */

static int run_python(const char *arguments)
{
    const char *python = getenv("CUDISTILL_PYTHON");
    python = python != NULL ? python : "python3";
    char *probe = xformat("%s -c 'import safetensors.numpy' >/dev/null 2>&1", python);
    const int absent = system(probe);
    free(probe);
    if (absent != 0) {
        print_message("skipped: '%s' has no safetensors (set CUDISTILL_PYTHON)\n", python);
        return -1;
    }
    char *command = xformat("%s tests/test_safetensors.py %s", python, arguments);
    const int status = system(command);
    free(command);
    return status;
}

/* The script writes the same tensors through the reference writer: the files must be equal, byte for byte. */
static void test_reference(void **state)
{
    (void)state;
    char *ours = path_join(dir, "ours.safetensors");
    char *theirs = path_join(dir, "theirs.safetensors");
    ok(safetensors_write(ours, TENSORS, TENSOR_COUNT, METADATA));
    char *arguments = xformat("'%s' '%s'", ours, theirs);
    const int status = run_python(arguments);
    free(arguments);
    if (status != -1) {
        assert_int_equal(status, 0);
        FileMap a;
        FileMap b;
        ok(file_map(ours, &a));
        ok(file_map(theirs, &b));
        assert_int_equal(a.size, b.size);
        assert_memory_equal(a.data, b.data, a.size);
        file_unmap(&a);
        file_unmap(&b);
    }
    free(ours);
    free(theirs);
    if (status == -1) {
        skip();
        return;
    }
}

/* ---- Broken files ---- */

/* Header as given, then `data_size` zero bytes. */
static Err *open_header(const char *header, size_t length, size_t data_size)
{
    uint8_t bytes[2048] = {0};
    const uint64_t stated = length;
    memcpy(bytes, &stated, sizeof stated);
    memcpy(bytes + 8, header, length);
    char *path = path_join(dir, "broken.safetensors");
    write_plain(path, bytes, 8 + length + data_size);
    WeightsFile *file = NULL;
    Err *err = safetensors_open(path, &file);
    assert_true((err == NULL) == (file != NULL));
    weights_close(file);
    free(path);
    return err;
}
#define HEADER(text, data_size) open_header(text, sizeof(text) - 1, data_size)
#define ONE(dtype, shape, offsets)                                                                 \
    "{\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(a, b)                                                                                  \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" a "},"                              \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" b "}}"

static void test_accepted(void **state)
{
    (void)state;
    ok(HEADER("{}", 0));
    ok(HEADER("{}   ", 0));
    ok(HEADER("{\"__metadata__\":{}}", 0));
    ok(HEADER("{\"__metadata__\":{\"a\":\"b\"}}", 0));
    ok(HEADER(ONE("F32", "[]", "[0,4]"), 4));
    ok(HEADER(ONE("F32", "[0,5]", "[0,0]"), 0));
    ok(HEADER(ONE("F32", "[1,1,1,1,1,1,1,2]", "[0,8]"), 8));
    ok(HEADER(TWO("[4,8]", "[0,4]"), 8));
    ok(HEADER("{\"w\":{\"extra\":1,\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1));
}

static void test_broken_header(void **state)
{
    (void)state;
    expect_err(HEADER("", 0), "does not begin with '{'");
    expect_err(HEADER(" {}", 0), "does not begin with '{'");
    expect_err(HEADER("[]", 0), "does not begin with '{'");
    expect_err(HEADER("{}x", 0), "only spaces may follow");
    expect_err(HEADER("{}\n", 0), "only spaces may follow");
    expect_err(HEADER("{\"a\":", 0), "header, byte");
    expect_err(HEADER("{\"\xff\":1}", 0), "header, byte");
    expect_err(HEADER("{\"a\":{},\"a\":{}}", 0), "duplicate");
    expect_err(HEADER("{\"a\":{},\"\\u0061\":{}}", 0), "duplicate");
    expect_err(HEADER("{\"w\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0), "duplicate");
    expect_err(HEADER("{\"__metadata__\":{\"a\":1}}", 0), "'a' is not a string");
    expect_err(HEADER("{\"__metadata__\":[]}", 0), "not an object");
    expect_err(HEADER("{\"w\":3}", 0), "not an object");
    expect_err(HEADER("{\"w\":{}}", 0), "no dtype");
    expect_err(HEADER(ONE("F8_E4M3", "[1]", "[0,1]"), 1), "element type 'F8_E4M3'");
    expect_err(HEADER(ONE("f32", "[1]", "[0,4]"), 4), "element type 'f32'");
    expect_err(HEADER("{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1), "shape");
    expect_err(HEADER("{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1), "data_offsets");
    expect_err(HEADER(ONE("U8", "[-1]", "[0,1]"), 1), "whole number");
    expect_err(HEADER(ONE("U8", "[1.0]", "[0,1]"), 1), "whole number");
    expect_err(HEADER(ONE("U8", "[99999999999999999999]", "[0,1]"), 1), "header, byte");
    expect_err(HEADER(ONE("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1), "at most 8");
    expect_err(HEADER(ONE("U8", "[4294967296,4294967296]", "[0,0]"), 0), "overflows");
    expect_err(HEADER(ONE("F64", "[2305843009213693952]", "[0,0]"), 0), "overflows");
    expect_err(HEADER(ONE("U8", "[1]", "[0]"), 1), "data_offsets");
    expect_err(HEADER(ONE("U8", "[1]", "[0,1,2]"), 1), "data_offsets");
    expect_err(HEADER(ONE("U8", "[1]", "[1,0]"), 1), "ascending");
    expect_err(HEADER(ONE("U8", "[1]", "[-1,0]"), 1), "ascending");
    expect_err(HEADER(ONE("U8", "[1]", "[0.5,1]"), 1), "ascending");
    expect_err(HEADER(ONE("F32", "[1]", "[0,3]"), 3), "4 bytes by its shape, but 3");
}

static void test_broken_layout(void **state)
{
    (void)state;
    expect_err(HEADER(ONE("U8", "[1]", "[1,2]"), 2), "a hole");
    expect_err(HEADER(TWO("[0,4]", "[5,9]"), 9), "a hole");
    expect_err(HEADER(TWO("[0,4]", "[3,7]"), 7), "an overlap");
    expect_err(HEADER(TWO("[0,4]", "[0,4]"), 4), "an overlap");
    expect_err(HEADER(TWO("[0,4]", "[4,8]"), 9), "1 bytes follow");
    expect_err(HEADER(TWO("[0,4]", "[4,8]"), 7), "truncated");
    expect_err(HEADER("{}", 1), "1 bytes follow");
    char *path = path_join(dir, "length.safetensors");
    WeightsFile *file = NULL;
    const uint64_t lengths[] = {100000001, UINT64_MAX, 100, 3};
    const char *const parts[] = {"limit", "limit", "truncated", "truncated"};
    for (int i = 0; i < 4; i++) {
        uint8_t bytes[10] = {0};
        memcpy(bytes, &lengths[i], 8);
        memcpy(bytes + 8, "{}", 2);
        write_plain(path, bytes, sizeof bytes);
        expect_err(safetensors_open(path, &file), parts[i]);
    }
    free(path);
}

/* Truncated after any byte, the file is refused; with a bit of any byte of the header changed, it is refused or still
 * describes data inside the file. */
static void test_damage(void **state)
{
    (void)state;
    char *path = path_join(dir, "damage.safetensors");
    ok(safetensors_write(path, TENSORS, TENSOR_COUNT, METADATA));
    FileMap map;
    ok(file_map(path, &map));
    const size_t size = map.size;
    uint8_t *bytes = xmalloc(size);
    memcpy(bytes, map.data, size);
    file_unmap(&map);
    uint64_t header_size = 0;
    memcpy(&header_size, bytes, sizeof header_size);
    WeightsFile *file = NULL;
    for (size_t cut = 0; cut < size; cut++) {
        write_plain(path, bytes, cut);
        Err *err = safetensors_open(path, &file);
        assert_non_null(err);
        assert_null(file);
        err_free(err);
    }
    for (size_t i = 0; i < 8 + header_size; i++) {
        bytes[i] ^= (uint8_t)(1 << i % 8);
        write_plain(path, bytes, size);
        bytes[i] ^= (uint8_t)(1 << i % 8);
        Err *err = safetensors_open(path, &file);
        for (size_t k = 0; err == NULL && k < file->count; k++) {
            const uint8_t *begin = file->entries[k].data;
            assert_true(begin >= file->map.data);
            assert_true(begin + file->entries[k].bytes <= file->map.data + file->map.size);
        }
        weights_close(file);
        err_free(err);
    }
    free(bytes);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_write_refused),
        cmocka_unit_test(test_prefixes),      cmocka_unit_test(test_reference),
        cmocka_unit_test(test_accepted),      cmocka_unit_test(test_broken_header),
        cmocka_unit_test(test_broken_layout), cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
