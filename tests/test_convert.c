/* `cudistill convert`, through its table: from every form to every form, names that a file must not have, rounding against
 * exact arithmetic (tests/test_convert.py; skipped without NumPy), and what it refuses. */
#include "base/half.h"
#include "base/log.h"
#include "base/rng.h"
#include "command_rig.h"
#include "io/convert.h"
#include "io/npy.h"

#include <math.h>
#include <sys/stat.h>

static char *dir;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    dir = rig_dir();
    return dir == NULL;
}

static int teardown(void **state)
{
    (void)state;
    Err *err = dir_remove(dir);
    free(dir);
    return err != NULL;
}

/* A path in the test's folder; a few live at a time. */
static const char *in_dir(const char *name)
{
    static char paths[8][512];
    static int next;
    next = (next + 1) % 8;
    (void)snprintf(paths[next], sizeof paths[next], "%s/%s", dir, name);
    return paths[next];
}

#define CONVERT(...) convert((const char *[]){__VA_ARGS__, NULL})
static Err *convert(const char *const *arguments)
{
    char *said = NULL;
    Err *err = command_run(&command_convert, arguments, &said);
    /* One line when it worked, none when not. */
    const char *end = strchr(said, '\n');
    assert_true(err != NULL ? said[0] == '\0' : end != NULL && end[1] == '\0');
    free(said);
    return err;
}

static const float REALS[6] = {1.5f, -2.0f, 0.0f, 3.25f, 1e-30f, 7.0f};
static const uint16_t HALVES[3] = {0x3C00, 0xC000, 0x3555};
static const int64_t LONGS[1] = {42};
static const char *const METADATA[] = {"arch", "none", "format", "xx", NULL};
static const SafeTensor TENSORS[] = {
    {"module.a.weight", WEIGHT_F32, 2, {2, 3}, REALS},
    {"module.a/../b", WEIGHT_F32, 1, {3}, REALS},
    {"module...", WEIGHT_F32, 1, {1}, REALS + 3},
    {"module.c:\\d %41é\n", WEIGHT_F32, 1, {2}, REALS + 1},
    {"module.half", WEIGHT_F16, 1, {3}, HALVES},
    {"module.brain", WEIGHT_BF16, 1, {3}, HALVES},
    {"module.count", WEIGHT_I64, 0, {0}, LONGS},
    {"module.empty", WEIGHT_F32, 2, {0, 3}, REALS},
};
enum { TENSOR_COUNT = sizeof TENSORS / sizeof TENSORS[0] };

static void write_source(const char *path)
{
    ok(safetensors_write(path, TENSORS, TENSOR_COUNT, METADATA));
}

static void check_same(const WeightsFile *file, bool brain_widened)
{
    assert_int_equal(file->count, TENSOR_COUNT);
    for (size_t i = 0; i < TENSOR_COUNT; i++) {
        const SafeTensor *tensor = &TENSORS[i];
        const WeightEntry *entry = weights_find(file, tensor->name + strlen("module."));
        assert_non_null(entry);
        assert_int_equal(entry->ndim, tensor->ndim);
        for (int d = 0; d < entry->ndim; d++) {
            assert_int_equal(entry->shape[d], tensor->shape[d]);
        }
        if (tensor->type == WEIGHT_BF16 && brain_widened) {
            assert_int_equal(entry->type, WEIGHT_F32);
            for (size_t k = 0; k < entry->count; k++) {
                const float wanted = bf16_to_float(HALVES[k]);
                assert_memory_equal((const char *)entry->data + 4 * k, &wanted, 4);
            }
            continue;
        }
        assert_int_equal(entry->type, tensor->type);
        assert_memory_equal(entry->data, tensor->data, entry->bytes);
    }
}

/* Weights to weights, weights to arrays, arrays to weights: every bit stays, and no name leaves the folder. */
static void test_round_trip(void **state)
{
    (void)state;
    write_source(in_dir("in.safetensors"));
    ok(CONVERT(in_dir("in.safetensors"), in_dir("tidy.safetensors")));
    WeightsFile *file = NULL;
    ok(safetensors_open(in_dir("tidy.safetensors"), &file));
    check_same(file, false);
    assert_string_equal(weights_metadata(file, "format"), "pt");
    assert_string_equal(weights_metadata(file, "arch"), "none");
    assert_string_equal(weights_metadata(file, "source"), "in.safetensors");
    weights_close(file);

    ok(CONVERT(in_dir("in.safetensors"), in_dir("arrays/")));
    char **names = NULL;
    size_t count = 0;
    ok(dir_list(in_dir("arrays"), &names, &count));
    assert_int_equal(count, TENSOR_COUNT);
    static const char *const wanted[] = {
        "%2E..npy",  "a%2F..%2Fb.npy", "a.weight.npy", "brain.npy", "c%3A%5Cd%20%2541%C3%A9%0A.npy",
        "count.npy", "empty.npy",      "half.npy"};
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(names[i], wanted[i]);
    }
    names_free(names, count);
    ok(CONVERT(in_dir("arrays"), in_dir("back.safetensors")));
    ok(safetensors_open(in_dir("back.safetensors"), &file));
    check_same(file, true);
    weights_close(file);
}

static void test_one_array(void **state)
{
    (void)state;
    write_source(in_dir("one.safetensors"));
    ok(CONVERT(in_dir("one.safetensors"), in_dir("one.npy"), "--tensor", "a.weight"));
    WeightsFile *file = NULL;
    ok(npy_open(in_dir("one.npy"), &file));
    assert_int_equal(file->entries[0].ndim, 2);
    assert_memory_equal(file->entries[0].data, REALS, sizeof REALS);
    weights_close(file);
    ok(CONVERT(in_dir("one.npy"), in_dir("named.safetensors"), "--name", "fc.weight"));
    ok(safetensors_open(in_dir("named.safetensors"), &file));
    assert_string_equal(file->entries[0].name, "fc.weight");
    weights_close(file);
    ok(CONVERT(in_dir("one.npy"), in_dir("unnamed.safetensors")));
    ok(safetensors_open(in_dir("unnamed.safetensors"), &file));
    assert_string_equal(file->entries[0].name, "one");
    weights_close(file);

    expect_err(CONVERT(in_dir("one.safetensors"), in_dir("x.npy")), EXIT_USAGE_ERR,
               "holds one tensor, and there are 8");
    expect_err(CONVERT(in_dir("one.safetensors"), in_dir("x.npy"), "--tensor", "a.wieght"),
               EXIT_USAGE_ERR, "did you mean 'a.weight'?");
    expect_err(CONVERT(in_dir("one.safetensors"), in_dir("x.safetensors"), "--name", "w"),
               EXIT_USAGE_ERR, "names of their own");
    expect_err(CONVERT(in_dir("one.safetensors"), in_dir("x.npy"), "--dtype", "bf16"),
               EXIT_USAGE_ERR, "no bf16");
    assert_false(path_exists(in_dir("x.npy")));
    assert_false(path_exists(in_dir("x.safetensors")));
}

static void test_rename(void **state)
{
    (void)state;
    write_source(in_dir("rename.safetensors"));
    expect_err(CONVERT(in_dir("rename.safetensors"), in_dir("renamed.safetensors"), "--rename",
                       "module_=x"),
               EXIT_USAGE_ERR, "begins with 'module_'");
    ok(CONVERT(in_dir("rename.safetensors"), in_dir("renamed.safetensors"), "--rename", "a.=fc.",
               "--rename=fc.w=head.w", "--tensor", "a.weight", "--tensor", "half"));
    WeightsFile *file = NULL;
    ok(safetensors_open(in_dir("renamed.safetensors"), &file));
    assert_int_equal(file->count, 2);
    assert_non_null(weights_find(file, "head.weight"));
    assert_non_null(weights_find(file, "half"));
    weights_close(file);
    expect_err(
        CONVERT(in_dir("rename.safetensors"), in_dir("x.safetensors"), "--rename", "half=brain"),
        EXIT_USAGE_ERR, "two tensors would be called 'brain'");
    expect_err(CONVERT(in_dir("rename.safetensors"), in_dir("x.safetensors"), "--rename", "half="),
               EXIT_USAGE_ERR, "empty name");
    expect_err(CONVERT(in_dir("rename.safetensors"), in_dir("x.safetensors"), "--rename", "half"),
               EXIT_USAGE_ERR, "OLD=NEW");
    expect_err(CONVERT(in_dir("rename.safetensors"), in_dir("x.safetensors"), "--rename",
                       "half=__metadata__"),
               EXIT_BAD_DATA, "reserved");
    assert_false(path_exists(in_dir("x.safetensors")));
}

/* ---- Types ---- */

static float half_of(const char *path, WeightType type, size_t i)
{
    WeightsFile *file = NULL;
    ok(safetensors_open(path, &file));
    assert_int_equal(file->entries[0].type, type);
    float *values = xmalloc(file->entries[0].count * sizeof *values);
    weights_to_float(&file->entries[0], values);
    const float value = values[i];
    free(values);
    weights_close(file);
    return value;
}

/* Rounding to fp32 first would make a tie of the first and third value, and then round down. */
static void test_rounds_once(void **state)
{
    (void)state;
    const double x[4] = {1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11, 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-8};
    const SafeTensor tensor = {"x", WEIGHT_F64, 1, {4}, x};
    ok(safetensors_write(in_dir("ties.safetensors"), &tensor, 1, NULL));
    ok(CONVERT(in_dir("ties.safetensors"), in_dir("fp16.safetensors"), "--dtype", "fp16"));
    assert_true(half_of(in_dir("fp16.safetensors"), WEIGHT_F16, 0) == 1 + 0x1p-10f);
    assert_true(half_of(in_dir("fp16.safetensors"), WEIGHT_F16, 1) == 1);
    ok(CONVERT(in_dir("ties.safetensors"), in_dir("bf16.safetensors"), "--dtype", "bf16"));
    assert_true(half_of(in_dir("bf16.safetensors"), WEIGHT_BF16, 2) == 1 + 0x1p-7f);
    assert_true(half_of(in_dir("bf16.safetensors"), WEIGHT_BF16, 3) == 1);
}

static void test_rounding(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    double *x = xmalloc(COUNT * sizeof *x);
    Rng rng = rng_make(1, 0, 0, RNG_TEST);
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t words[4] = {rng_u32(&rng), rng_u32(&rng), rng_u32(&rng), rng_u32(&rng)};
        /* All of fp16's range and below, many of them ties or next to one. */
        const double mantissa = words[3] % 2 ? words[0] : words[0] & 0xFFF00000u;
        const double tail = words[3] % 3 ? 0 : (words[3] % 5 ? 0x1p-45 : -0x1p-45);
        x[i] = ldexp(1 + mantissa * 0x1p-32 + tail, (int)(words[1] % 45) - 30);
        x[i] = words[2] % 2 ? x[i] : -x[i];
    }
    x[0] = 0;
    x[1] = -0.0;
    x[2] = (double)INFINITY;
    x[3] = (double)NAN;
    const SafeTensor tensor = {"x", WEIGHT_F64, 1, {COUNT}, x};
    ok(safetensors_write(in_dir("x.safetensors"), &tensor, 1, NULL));
    free(x);
    static const char *const types[] = {"fp16", "bf16", "fp32"};
    for (int i = 0; i < 3; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "x-%s.safetensors", types[i]);
        ok(CONVERT(in_dir("x.safetensors"), in_dir(name), "--dtype", types[i]));
    }
    char *arguments = xformat("tests/test_convert.py '%s' '%s' '%s' '%s'", in_dir("x.safetensors"),
                              in_dir("x-fp16.safetensors"), in_dir("x-bf16.safetensors"),
                              in_dir("x-fp32.safetensors"));
    const int code = rig_python(arguments);
    free(arguments);
    assert_int_equal(unlink(in_dir("x.safetensors")), 0);
    if (code == 77 || code == 127) {
        print_message("skipped: no NumPy (set CUDISTILL_PYTHON)\n");
        skip();
        return;
    }
    assert_int_equal(code, 0);
}

static void test_range(void **state)
{
    (void)state;
    const double values[2] = {1, 65520};
    const SafeTensor tensor = {"w", WEIGHT_F64, 1, {2}, values};
    ok(safetensors_write(in_dir("range.safetensors"), &tensor, 1, NULL));
    expect_err(CONVERT(in_dir("range.safetensors"), in_dir("r.safetensors"), "--dtype", "fp16"),
               EXIT_BAD_DATA, "element 1 of tensor 'w' is 65520, beyond the range of F16");
    assert_false(path_exists(in_dir("r.safetensors")));
    ok(CONVERT(in_dir("range.safetensors"), in_dir("r.safetensors"), "--dtype", "bf16"));
    const double huge[1] = {1e39};
    const SafeTensor wide = {"w", WEIGHT_F64, 1, {1}, huge};
    ok(safetensors_write(in_dir("range.safetensors"), &wide, 1, NULL));
    static const char *const types[] = {"fp32", "fp16", "bf16"};
    for (int i = 0; i < 3; i++) {
        expect_err(
            CONVERT(in_dir("range.safetensors"), in_dir("q.safetensors"), "--dtype", types[i]),
            EXIT_BAD_DATA, "beyond the range");
    }
}

/* ---- What is refused ---- */

static void test_existing(void **state)
{
    (void)state;
    write_source(in_dir("e.safetensors"));
    ok(CONVERT(in_dir("e.safetensors"), in_dir("there.safetensors")));
    expect_err(CONVERT(in_dir("e.safetensors"), in_dir("there.safetensors")), EXIT_CANT_CREATE,
               "--force");
    ok(CONVERT(in_dir("e.safetensors"), in_dir("there.safetensors"), "--force"));
    ok(CONVERT(in_dir("e.safetensors"), in_dir("folder/"), "--tensor", "half"));
    expect_err(CONVERT(in_dir("e.safetensors"), in_dir("folder")), EXIT_CANT_CREATE, "--force");
    ok(CONVERT(in_dir("e.safetensors"), in_dir("folder"), "--tensor", "count", "-f"));
    assert_false(path_exists(in_dir("folder/half.npy")));
    assert_true(path_exists(in_dir("folder/count.npy")));
    write_plain(in_dir("folder/thesis.tex"), "x", 1);
    expect_err(CONVERT(in_dir("e.safetensors"), in_dir("folder"), "-f"), EXIT_CANT_CREATE,
               "also holds 'thesis.tex'");
    assert_true(path_exists(in_dir("folder/count.npy")));
    /* A file over itself: what is read stays readable until the end. */
    ok(CONVERT(in_dir("e.safetensors"), in_dir("e.safetensors"), "-f"));
    WeightsFile *file = NULL;
    ok(safetensors_open(in_dir("e.safetensors"), &file));
    check_same(file, false);
    weights_close(file);
    /* Nothing is left beside what was made. */
    char **names = NULL;
    size_t count = 0;
    ok(dir_list(dir, &names, &count));
    for (size_t i = 0; i < count; i++) {
        assert_null(strstr(names[i], ".tmp"));
        assert_null(strstr(names[i], ".old"));
    }
    names_free(names, count);
}

static void test_refused(void **state)
{
    (void)state;
    write_source(in_dir("r-in.safetensors"));
    expect_err(CONVERT(in_dir("r-in.safetensors"), in_dir("out.pth")), EXIT_USAGE_ERR,
               "pickles are read, never written");
    expect_err(CONVERT(in_dir("r-in.safetensors"), in_dir("out.safetensor")), EXIT_USAGE_ERR,
               "no form that is written");
    expect_err(CONVERT(in_dir("absent.pth"), in_dir("out.safetensors")), EXIT_NO_INPUT,
               "absent.pth");
    assert_int_equal(mkdir(in_dir("bare"), 0700), 0);
    expect_err(CONVERT(in_dir("bare"), in_dir("out.safetensors")), EXIT_BAD_DATA, "no .npy files");
    write_plain(in_dir("noise"), "not weights at all", 18);
    expect_err(CONVERT(in_dir("noise"), in_dir("out.safetensors")), EXIT_BAD_DATA, "noise");
    expect_err(CONVERT(in_dir("r-in.safetensors")), EXIT_USAGE_ERR, "");
    assert_false(path_exists(in_dir("out.safetensors")));
    if (geteuid() != 0) { /* root may write anywhere */
        assert_int_equal(mkdir(in_dir("locked"), 0500), 0);
        expect_err(CONVERT(in_dir("r-in.safetensors"), in_dir("locked/out.safetensors")),
                   EXIT_NOT_PERMITTED, "permissions");
    }
    /* A long name fits in safetensors and not in a file's name. */
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    const SafeTensor tensor = {name, WEIGHT_F32, 1, {1}, REALS};
    ok(safetensors_write(in_dir("long.safetensors"), &tensor, 1, NULL));
    expect_err(CONVERT(in_dir("long.safetensors"), in_dir("long/")), EXIT_CANT_CREATE, "too long");
    assert_false(path_exists(in_dir("long")));
}

/* The published student, a pickle, becomes safetensors with every bit. */
static void test_published(void **state)
{
    (void)state;
    const char *data = getenv("CUDISTILL_DATA");
    char *path =
        path_join(data != NULL ? data : "../shared/data", "checkpoints/wrn_16_2_energykd.pth");
    if (!path_exists(path)) {
        print_message("skipped: no '%s' (set CUDISTILL_DATA)\n", path);
        free(path);
        skip();
        return;
    }
    ok(CONVERT(path, in_dir("published.safetensors")));
    WeightsFile *from = NULL;
    WeightsFile *to = NULL;
    ok(weights_open(path, &from));
    ok(safetensors_open(in_dir("published.safetensors"), &to));
    assert_int_equal(from->count, to->count);
    for (size_t i = 0; i < from->count; i++) {
        const WeightEntry *entry = weights_find(to, from->entries[i].name);
        assert_non_null(entry);
        assert_int_equal(entry->bytes, from->entries[i].bytes);
        assert_memory_equal(entry->data, from->entries[i].data, entry->bytes);
    }
    weights_close(from);
    weights_close(to);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_one_array),
        cmocka_unit_test(test_rename),     cmocka_unit_test(test_rounds_once),
        cmocka_unit_test(test_rounding),   cmocka_unit_test(test_range),
        cmocka_unit_test(test_existing),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
