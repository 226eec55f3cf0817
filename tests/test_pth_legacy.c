/* .pth files in the form before torch 1.6: files that torch writes here in that form and files of Python 2
 * (tests/test_pth_legacy.py; skipped without torch), files made by hand with one fault each, and damage at every byte. */
#include "base/log.h"
#include "io/pth.h"
#include "weights_rig.h"

static char *dir;
static bool have_torch;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    dir = rig_dir();
    if (dir == NULL) {
        return 1;
    }
    char *arguments = xformat("tests/test_pth_legacy.py '%s'", dir);
    const int code = rig_python(arguments);
    free(arguments);
    have_torch = code == 0;
    if (code == 77 || code == 127) {
        print_message("skipped: no torch (set CUDISTILL_PYTHON)\n");
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

/* Types, strides, shared storages, wrappers, parameters, optimizers, Python 2: bit for bit what torch reads. */
static void test_made_by_torch(void **state)
{
    (void)state;
    if (!have_torch) {
        skip();
        return;
    }
    assert_true(compare_cases(dir) >= 22);
    char *canary = path_join(dir, "canary");
    assert_false(path_exists(canary)); /* canary.pth would have made it, had anything been run */
    free(canary);
}

/* ---- By hand ---- */

#define MAGIC "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19."
#define VERSION "\x80\x02M\xe9\x03."
#define MACHINE "\x80\x02}U\rlittle_endian\x88s."
/* A tensor of two elements over the storage '0' of `count` (op-codes) elements of `class`, and {'w': the tensor} */
#define TENSOR(class, count)                                                                       \
    "ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\n" class "\nU\x01"                       \
                                                                   "0U\x03"                        \
                                                                   "cpu" count                     \
                                                                   "NtQK\x00K\x02\x85K\x01\x85tR"
#define OBJECT(class, count) "\x80\x02}U\x01w" TENSOR(class, count) "s."
#define KEYS                                                                                       \
    "\x80\x02]U\x01"                                                                               \
    "0a."
#define DATA "\x02\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40"
#define GOOD MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS DATA

static Err *open_bytes(const char *bytes, size_t size, WeightsFile **file)
{
    return weights_open_memory("hand", (const uint8_t *)bytes, size, file);
}
#define OPEN(text, file) open_bytes(text, sizeof(text) - 1, file)

static void test_by_hand(void **state)
{
    (void)state;
    WeightsFile *file = NULL;
    ok(OPEN(GOOD, &file));
    assert_int_equal(file->count, 1);
    const float wanted[2] = {1, 2};
    assert_memory_equal(file->entries[0].data, wanted, sizeof wanted);
    weights_close(file);
    /* From a file, which need not outlive the call. */
    char *path = path_join(dir, "hand.pth");
    write_plain(path, GOOD, sizeof GOOD - 1);
    ok(pth_open(path, &file));
    assert_int_equal(unlink(path), 0);
    assert_memory_equal(file->entries[0].data, wanted, sizeof wanted);
    weights_close(file);
    free(path);
    /* More after the last storage: as torch, which lets a file hold several objects. */
    ok(OPEN(GOOD "more", &file));
    weights_close(file);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } cases[] = {
#define CASE(bytes, message) {bytes, sizeof(bytes) - 1, message}
        CASE("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x18.", "wrong magic number"),
        CASE("\x80\x02K\x07.", "wrong magic number"),
        CASE("\x80\x02}.", "wrong magic number"),
        CASE("\x80", "too few"),
        CASE("\x80\x02", "the magic number at byte 0: pickle, byte 2"),
        CASE(MAGIC, "the version at byte 15"),
        CASE(MAGIC "\x80\x02M\xea\x03.", "its version is not 1001"),
        CASE(MAGIC VERSION, "the machine's facts at byte 21"),
        CASE(MAGIC VERSION "\x80\x02}.", "lack 'little_endian'"),
        CASE(MAGIC VERSION "\x80\x02}U\rlittle_endian\x89s.", "big-endian"),
        CASE(MAGIC VERSION MACHINE, "the object at byte 42"),
        CASE(MAGIC VERSION MACHINE "\x80\x02}i.", "op-code 0x69"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02"), "list of storage keys at byte"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") "\x80\x02}.",
             "list of storage keys is missing"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") "\x80\x02]U\x01"
                                                                   "1a." DATA,
             "names a storage that the object does not have"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") "\x80\x02]K\x01"
                                                                   "a." DATA,
             "names a storage that the object does not have"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") "\x80\x02].",
             "data of tensor 'w' is missing"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") "\x80\x02](U\x01"
                                                                   "0U\x01"
                                                                   "0e." DATA DATA,
             "storage '0' twice"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS, "truncated at byte"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS
             "\x02\0\0\0\0\0\0\0\0\0\x80\x3f",
             "claims 2 elements of 4 bytes, and 4 bytes are left"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS
             "\xff\xff\xff\xff\xff\xff\xff\xff",
             "claims -1 elements"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS
             "\xff\xff\xff\xff\xff\xff\xff\x7f",
             "claims 9223372036854775807 elements"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS
             "\0\0\0\0\0\0\0\x40\0\0\x80\x3f",
             "claims 4611686018427387904 elements"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x03") KEYS DATA, "for 3 elements"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x01") KEYS DATA, "reaches beyond"),
        CASE(MAGIC VERSION MACHINE OBJECT("FloatStorage", "K\x02") KEYS
             "\x01\0\0\0\0\0\0\0\0\0\x80\x3f",
             "for 2 elements"),
        CASE(MAGIC VERSION MACHINE OBJECT("SecretStorage", "K\x02") KEYS DATA, "'SecretStorage'"),
        CASE(MAGIC VERSION MACHINE OBJECT("QInt32Storage", "K\x02") KEYS DATA, "'QInt32Storage'"),
        CASE(MAGIC VERSION MACHINE "\x80\x02}(U\x01w" TENSOR(
                 "FloatStorage", "K\x02") "U\x01v" TENSOR("DoubleStorage", "K\x02") "u." KEYS DATA,
             "two element types"),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        WeightsFile *file = NULL;
        expect_err(open_bytes(cases[i].bytes, cases[i].size, &file), EXIT_BAD_DATA,
                   cases[i].message);
        assert_null(file);
    }
}

/* Cut after any byte: refused. Any byte changed: refused, or one tensor, whose data can be read. */
static void test_damage(void **state)
{
    (void)state;
    char bytes[] = GOOD;
    const size_t size = sizeof bytes - 1;
    WeightsFile *file = NULL;
    for (size_t cut = 0; cut < size; cut++) {
        char *copy = xmalloc(cut + 1); /* of its own size, so that a sanitizer sees the end */
        memcpy(copy, bytes, cut);
        copy = xrealloc(copy, cut > 0 ? cut : 1);
        expect_err(open_bytes(copy, cut, &file), EXIT_BAD_DATA, "'hand'");
        free(copy);
    }
    size_t noticed = 0;
    for (size_t i = 0; i < size; i++) {
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (char)(1 << bit);
            Err *err = open_bytes(bytes, size, &file);
            bytes[i] ^= (char)(1 << bit);
            noticed += err != NULL;
            if (err == NULL) {
                assert_int_equal(file->count, 1);
                char copy[64];
                assert_true(file->entries[0].bytes <= sizeof copy);
                memcpy(copy, file->entries[0].data, file->entries[0].bytes);
                weights_close(file);
            }
            err_free(err);
        }
    }
    assert_true(noticed > 8 * 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_by_torch),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
