/* .pth files: the published checkpoint, files that torch writes here (tests/test_pth.py; skipped without torch),
 * pickles made by hand with hostile op-codes, and damage at every byte of a small archive. */
#include "base/log.h"
#include "io/pickle.h"
#include "io/pth.h"
#include "weights_rig.h"

#include <archive.h>
#include <archive_entry.h>

static char *dir;
static char *published; /* NULL when absent */
static bool have_torch;

/* Runs the Python script once for all tests. */
static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_WARN);
    dir = rig_dir();
    if (dir == NULL) {
        return 1;
    }
    const char *data = getenv("CUDISTILL_DATA");
    published =
        path_join(data != NULL ? data : "../shared/data", "checkpoints/wrn_16_2_energykd.pth");
    if (!path_exists(published)) {
        print_message("skipped: no '%s' (set CUDISTILL_DATA)\n", published);
        free(published);
        published = NULL;
    }
    char *arguments = xformat("tests/test_pth.py '%s' %s", dir, published != NULL ? published : "");
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
    free(published);
    return err != NULL;
}

/* ---- Against torch ---- */

static void test_published(void **state)
{
    (void)state;
    if (published == NULL) {
        skip();
        return;
    }
    WeightsFile *file = NULL;
    ok(weights_open(published, &file));
    assert_int_equal(file->count, 83);
    /* Trainable parameters of wrn_16_2 with 100 classes: 703,284. */
    size_t trainable = 0;
    for (size_t i = 0; i < file->count; i++) {
        const char *name = file->entries[i].name;
        if (strstr(name, "running_") == NULL && strstr(name, "num_batches") == NULL) {
            trainable += file->entries[i].count;
        }
    }
    assert_int_equal(trainable, 703284);
    static const char *const names[] = {"conv1.weight",
                                        "block1.layer.0.bn1.weight",
                                        "block1.layer.0.convShortcut.weight",
                                        "block3.layer.1.bn2.running_var",
                                        "bn1.num_batches_tracked",
                                        "fc.bias"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_non_null(weights_find(file, names[i]));
    }
    const WeightEntry *conv = weights_find(file, "conv1.weight");
    assert_int_equal(conv->ndim, 4);
    assert_int_equal(conv->shape[0], 16);
    assert_int_equal(conv->shape[1], 3);
    assert_int_equal(conv->type, WEIGHT_F32);
    const WeightEntry *tracked = weights_find(file, "bn1.num_batches_tracked");
    assert_int_equal(tracked->type, WEIGHT_I64);
    assert_int_equal(tracked->ndim, 0);
    float value = 0;
    weights_to_float(tracked, &value);
    assert_true(value > 0);
    assert_null(weights_find(file, "absent"));
    weights_close(file);
}

static void test_published_values(void **state)
{
    (void)state;
    if (!have_torch || published == NULL) {
        skip();
        return;
    }
    char *listing = path_join(dir, "published.txt");
    compare_with_listing(dir, published, listing);
    free(listing);
}

/* Every kind of file that the script makes: element types, strides, wrappers, prefixes, protocols, odd members. */
static void test_made_by_torch(void **state)
{
    (void)state;
    if (!have_torch) {
        skip();
        return;
    }
    assert_true(compare_cases(dir) >= 28);
}

/* ---- Pickles by hand ---- */

static Err *read_pickle(const char *bytes, size_t size, Pickle **out)
{
    return pickle_read((const uint8_t *)bytes, size, out);
}
#define READ(text, out) read_pickle(text, sizeof(text) - 1, out)

static void test_pickle_inert(void **state)
{
    (void)state;
    char *canary = path_join(dir, "canary");
    /* os.system("touch canary"), as every exploit does it: a value, and no file. */
    char *command = xformat("touch %s", canary);
    char bytes[512];
    const int size = snprintf(bytes, sizeof bytes,
                              "\x80\x02"
                              "cposix\nsystem\nU%c%s\x85R.",
                              (int)strlen(command), command);
    Pickle *pickle = NULL;
    ok(read_pickle(bytes, (size_t)size, &pickle));
    const PickleValue *root = pickle_root(pickle);
    assert_int_equal(root->kind, PICKLE_CALL);
    assert_true(pickle_global_is(root->callable, "posix", "system"));
    assert_true(pickle_text_is(root->args->items[0], command));
    assert_false(path_exists(canary));
    pickle_free(pickle);
    free(command);
    free(canary);
}

static void test_pickle_values(void **state)
{
    (void)state;
    Pickle *pickle = NULL;
    ok(READ("\x80\x04(K\x07J\xfe\xff\xff\xff\x8a\x02\xff\xff\x8a\x00\x8a\x09"
            "123456789G\x3f\xf8\x00\x00\x00\x00\x00\x00N\x88\x8c\x02hi\x94t.",
            &pickle));
    const PickleValue *root = pickle_root(pickle);
    assert_int_equal(root->kind, PICKLE_TUPLE);
    assert_int_equal(root->count, 9);
    assert_int_equal(root->items[0]->integer, 7);
    assert_int_equal(root->items[1]->integer, -2);
    assert_int_equal(root->items[2]->integer, -1);
    assert_int_equal(root->items[3]->integer, 0);
    assert_int_equal(root->items[4]->kind, PICKLE_BIG_INT);
    assert_true(root->items[5]->real == 1.5);
    assert_int_equal(root->items[6]->kind, PICKLE_NONE);
    assert_int_equal(root->items[7]->integer, 1);
    assert_true(pickle_text_is(root->items[8], "hi"));
    pickle_free(pickle);
    /* A list that contains itself is fine, as nobody walks it without a bound. */
    ok(READ("\x80\x02]q\x00h\x00"
            "a.",
            &pickle));
    root = pickle_root(pickle);
    assert_ptr_equal(root->items[0], root);
    pickle_free(pickle);
}

static void test_pickle_refused(void **state)
{
    (void)state;
    Pickle *pickle = NULL;
    expect_err(READ("", &pickle), EXIT_BAD_DATA, "protocol");
    expect_err(READ("\x80\x06.", &pickle), EXIT_BAD_DATA, "protocol 6");
    expect_err(READ("\x80\x02.", &pickle), EXIT_BAD_DATA, "0 values are left");
    expect_err(READ("\x80\x02NN.", &pickle), EXIT_BAD_DATA, "2 values are left");
    expect_err(READ("\x80\x02N(.", &pickle), EXIT_BAD_DATA, "left");
    expect_err(READ("\x80\x02R.", &pickle), EXIT_BAD_DATA, "empty stack");
    expect_err(READ("\x80\x02N(R.", &pickle), EXIT_BAD_DATA,
               "empty stack"); /* not below the mark */
    expect_err(READ("\x80\x02N(0.", &pickle), EXIT_BAD_DATA, "empty stack");
    expect_err(READ("\x80\x02N(\x85.", &pickle), EXIT_BAD_DATA, "fewer");
    expect_err(READ("\x80\x02t.", &pickle), EXIT_BAD_DATA, "no mark");
    expect_err(READ("\x80\x02(Nd.", &pickle), EXIT_BAD_DATA, "key has no value");
    expect_err(READ("\x80\x02}(Nu.", &pickle), EXIT_BAD_DATA, "key has no value");
    expect_err(READ("\x80\x02h\x00.", &pickle), EXIT_BAD_DATA, "memo place 0 is empty");
    expect_err(READ("\x80\x02Nr\xff\xff\xff\xff.", &pickle), EXIT_BAD_DATA, "above the limit");
    expect_err(READ("\x80\x02X\xff\xff\xff\xff.", &pickle), EXIT_BAD_DATA, "ends in the middle");
    expect_err(READ("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", &pickle), EXIT_BAD_DATA,
               "middle");
    expect_err(READ("\x80\x02\x8b\xff\xff\xff\xff.", &pickle), EXIT_BAD_DATA, "ends in the middle");
    expect_err(READ("\x80\x02"
                    "cos\nsystem",
                    &pickle),
               EXIT_BAD_DATA, "middle of a line");
    /* INST, OBJ, EXT1, PERSID and the text op-codes INT, STRING. */
    static const char refused[] = "io\x82PIS";
    for (size_t i = 0; i + 1 < sizeof refused; i++) {
        const char bytes[] = {'\x80', 2, '(', refused[i], 'o', 's', '\n', 's', '\n', '.'};
        expect_err(read_pickle(bytes, sizeof bytes, &pickle), EXIT_BAD_DATA,
                   "has no place in weights");
        assert_null(pickle);
    }
    /* A megabyte of marks, or of values, meets a limit and not the end of memory. */
    const size_t size = (size_t)3 << 20;
    char *flood = xmalloc(size);
    memcpy(flood, "\x80\x02", 2);
    memset(flood + 2, '(', size - 2);
    expect_err(read_pickle(flood, size, &pickle), EXIT_BAD_DATA, "marks");
    memset(flood + 2, 'N', size - 2);
    expect_err(read_pickle(flood, size, &pickle), EXIT_BAD_DATA, "on the stack");
    for (size_t i = 2; i + 1 < size; i += 2) {
        memcpy(flood + i, "N0", 2);
    }
    expect_err(read_pickle(flood, size, &pickle), EXIT_BAD_DATA, "middle of a value");
    free(flood);
}

/* ---- Archives by hand ---- */

typedef struct {
    const char *name;
    const void *data;
    size_t size;
} Member;

/* Stored, or deflated to hide a large entry. */
static char *write_zip(const Member *members, size_t count, bool deflate)
{
    char *path = path_join(dir, "hand.pth");
    struct archive *archive = archive_write_new();
    assert_int_equal(archive_write_set_format_zip(archive), ARCHIVE_OK);
    (void)archive_write_set_options(archive,
                                    deflate ? "zip:compression=deflate" : "zip:compression=store");
    assert_int_equal(archive_write_open_filename(archive, path), ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();
        archive_entry_set_pathname(entry, members[i].name);
        archive_entry_set_size(entry, (la_int64_t)members[i].size);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        assert_int_equal(archive_write_data(archive, members[i].data, members[i].size),
                         (la_ssize_t)members[i].size);
        archive_entry_free(entry);
    }
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    (void)archive_write_free(archive);
    return path;
}

/* A pickle and one storage "0". */
static char *write_archive(const char *pickle, size_t size, const void *storage,
                           size_t storage_size, bool deflate)
{
    const Member members[] = {{"a/data.pkl", pickle, size}, {"a/data/0", storage, storage_size}};
    return write_zip(members, 2, deflate);
}

/* {'w': tensor}: offset, size, stride as given (op-codes), over a FloatStorage of `count` elements. */
#define TENSOR_PICKLE(count, offset, size, stride)                                                 \
    "\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x01"  \
    "0U\x03"                                                                                       \
    "cpu" count "tQ" offset size stride "\x89)tRs."

static const float FOUR[4] = {1, 2, 3, 4};
#define OPEN_TENSOR(file, ...)                                                                     \
    open_tensor(TENSOR_PICKLE(__VA_ARGS__), sizeof(TENSOR_PICKLE(__VA_ARGS__)) - 1, file)

static Err *open_tensor(const char *pickle, size_t size, WeightsFile **file)
{
    char *path = write_archive(pickle, size, FOUR, sizeof FOUR, false);
    Err *err = weights_open(path, file);
    free(path);
    return err;
}

static void test_archive_views(void **state)
{
    (void)state;
    WeightsFile *file = NULL;
    ok(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x02K\x02\x86", "K\x02K\x01\x86"));
    assert_memory_equal(file->entries[0].data, FOUR, sizeof FOUR);
    weights_close(file);
    ok(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x02K\x02\x86", "K\x01K\x02\x86"));
    const float transposed[4] = {1, 3, 2, 4};
    assert_memory_equal(file->entries[0].data, transposed, sizeof transposed);
    weights_close(file);
    ok(OPEN_TENSOR(&file, "K\x04", "K\x01", "K\x02\x85", "K\x02\x85"));
    const float odd[2] = {2, 4};
    assert_int_equal(file->entries[0].bytes, sizeof odd);
    assert_memory_equal(file->entries[0].data, odd, sizeof odd);
    weights_close(file);
    /* A dimension of 1 may have any stride, an empty tensor any offset. */
    ok(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x01K\x02K\x02\x87",
                   "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01K\x02\x87"));
    assert_memory_equal(file->entries[0].data, transposed, sizeof transposed);
    weights_close(file);
    ok(OPEN_TENSOR(&file, "K\x04", "K\x63", "K\x00K\x02\x86", "K\x02K\x01\x86"));
    assert_int_equal(file->entries[0].count, 0);
    weights_close(file);

    const char beyond[] = "reaches beyond";
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x01", "K\x02K\x02\x86", "K\x02K\x01\x86"),
               EXIT_BAD_DATA, beyond);
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x02\x85", "K\x04\x85"), EXIT_BAD_DATA,
               beyond);
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x02\x85",
                           "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85"),
               EXIT_BAD_DATA, beyond);
    expect_err(OPEN_TENSOR(&file, "K\x04", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "K\x02\x85",
                           "K\x01\x85"),
               EXIT_BAD_DATA, beyond);
    expect_err(OPEN_TENSOR(&file, "K\x05", "K\x00", "K\x02\x85", "K\x01\x85"), EXIT_BAD_DATA,
               "for 5 elements");
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x05\x85", "K\x00\x85"), EXIT_BAD_DATA,
               "expanded");
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00",
                           "J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87",
                           "K\x00K\x00K\x00\x87"),
               EXIT_BAD_DATA, "overflows");
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00", "J\xff\xff\xff\xff\x85", "K\x01\x85"),
               EXIT_BAD_DATA, "size");
    expect_err(OPEN_TENSOR(&file, "K\x04", "K\x00", "K\x02\x85", "K\x02K\x01\x86"), EXIT_BAD_DATA,
               "stride");
}

/* Truncation after every byte and a change of every byte: an error or a tensor, never a crash; a changed byte of
 * the data itself is found by the CRC. */
static void test_archive_damage(void **state)
{
    (void)state;
    static const char pickle[] = TENSOR_PICKLE("K\x04", "K\x00", "K\x04\x85", "K\x01\x85");
    char *path = write_archive(pickle, sizeof pickle - 1, FOUR, sizeof FOUR, false);
    FileMap map;
    ok(file_map(path, &map));
    uint8_t *bytes = xmalloc(map.size);
    memcpy(bytes, map.data, map.size);
    const size_t size = map.size;
    file_unmap(&map);
    WeightsFile *file = NULL;
    for (size_t cut = 0; cut < size; cut++) {
        write_plain(path, bytes, cut);
        Err *err = pth_open(path, &file);
        if (err == NULL) { /* the end of the directory may lack its comment only */
            assert_memory_equal(file->entries[0].data, FOUR, sizeof FOUR);
            weights_close(file);
        }
        err_free(err);
        assert_true(err != NULL || cut + 2 >= size);
    }
    int noticed = 0;
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x41;
        write_plain(path, bytes, size);
        bytes[i] ^= 0x41;
        Err *err = pth_open(path, &file);
        if (err == NULL) {
            assert_int_equal(file->count, 1);
            assert_memory_equal(file->entries[0].data, FOUR, sizeof FOUR);
            weights_close(file);
        }
        noticed += err != NULL;
        err_free(err);
    }
    assert_true(noticed > (int)sizeof pickle + (int)sizeof FOUR);
    free(bytes);
    free(path);
}

static void test_archive_bomb(void **state)
{
    (void)state;
    static const char pickle[] =
        TENSOR_PICKLE("J\x00\x00\x10\x00", "K\x00", "K\x04\x85", "K\x01\x85");
    const size_t size = (size_t)4 << 20;
    uint8_t *zeros = xcalloc(size, 1);
    char *path = write_archive(pickle, sizeof pickle - 1, zeros, size, true);
    WeightsFile *file = NULL;
    expect_err(pth_open(path, &file), EXIT_BAD_DATA, "more than the file has");
    free(path);
    free(zeros);
}

static void expect_zip(const Member *members, size_t count, const char *message)
{
    char *path = write_zip(members, count, false);
    WeightsFile *file = NULL;
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, message);
    assert_null(file);
    free(path);
}

/* Archives that are whole, with something in them that is not. */
static void test_archive_refused(void **state)
{
    (void)state;
    static const char good[] = TENSOR_PICKLE("K\x04", "K\x00", "K\x04\x85", "K\x01\x85");
    static const char no_class[] =
        "\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n((U\x07storage"
        "ctorch\nOddStorage\nU\x01"
        "0U\x03"
        "cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89)tRs.";
    const Member data = {"a/data/0", FOUR, sizeof FOUR};
    const Member pickle = {"a/data.pkl", good, sizeof good - 1};
    expect_zip(&data, 1, "without data.pkl");
    expect_zip(&pickle, 1, "missing from the file");
    const Member script[] = {pickle, data, {"a/constants.pkl", "\x80\x02).", 4}};
    expect_zip(script, 3, "TorchScript");
    const Member big[] = {pickle, data, {"a/byteorder", "big", 3}};
    expect_zip(big, 3, "big-endian");
    const Member little[] = {pickle, data, {"a/byteorder", "little", 6}};
    char *path = write_zip(little, 3, false);
    WeightsFile *file = NULL;
    ok(weights_open(path, &file));
    weights_close(file);
    free(path);
    const Member pickles[] = {pickle, data, {"b/data.pkl", good, sizeof good - 1}};
    expect_zip(pickles, 3, "data.pkl twice");
    const Member storages[] = {pickle, data, data};
    expect_zip(storages, 3, "storage '0' twice");
    const Member half[] = {pickle, {"a/data/0", FOUR, sizeof FOUR / 2}};
    expect_zip(half, 2, "8 bytes for 4 elements of 4");
    const Member unknown[] = {{"a/data.pkl", no_class, sizeof no_class - 1}, data};
    expect_zip(unknown, 2, "'OddStorage'");
    const Member bad_code[] = {{"a/data.pkl", "\x80\x02(iposix\nsystem\n.", 19}, data};
    expect_zip(bad_code, 2, "pickle, byte 3: op-code 0x69");
    const Member far_memo[] = {{"a/data.pkl", "\x80\x02Nr\xff\xff\xff\xff.", 9}, data};
    expect_zip(far_memo, 2, "memo place 4294967295 is above the limit");
    const Member cut[] = {{"a/data.pkl", good, 40}, data};
    expect_zip(cut, 2, "pickle, byte 40");
}

/* A tuple in a tuple and so on, 100,000 deep, and a dict that holds itself as its own wrapper: data without a walk. */
static void test_archive_deep(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    char *deep = xmalloc(DEPTH + 4);
    memcpy(deep, "\x80\x02)", 3);
    memset(deep + 3, '\x85', DEPTH);
    deep[DEPTH + 3] = '.';
    const Member nested = {"a/data.pkl", deep, DEPTH + 4};
    expect_zip(&nested, 1, "save model.state_dict()");
    free(deep);
    const Member own = {"a/data.pkl", "\x80\x02}q\x00U\x05modelh\x00s.", 16};
    expect_zip(&own, 1, "no tensors");
}

static void test_other_files(void **state)
{
    (void)state;
    char *path = path_join(dir, "other");
    WeightsFile *file = NULL;
    expect_err(weights_open(path, &file), EXIT_NO_INPUT, "check the path");
    static const char old_form[] = "\x80\x02\x8a\x0al\xfc\x9c"
                                   "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    ok(file_write_atomic(path, old_form, sizeof old_form - 1));
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "the machine's facts at byte 21");
    uint8_t tar[512] = "sys_info";
    memcpy(tar + 257, "ustar", 5);
    ok(file_write_atomic(path, tar, sizeof tar));
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "form of torch 0.1");
    ok(file_write_atomic(path, "PK\5\6rest of nothing", 19));
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "neither");
    free(path);
    path = write_archive("\x80\x02N.", 4, FOUR, sizeof FOUR, false);
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "save model.state_dict()");
    free(path);
    path = write_archive("\x80\x02}.", 4, FOUR, sizeof FOUR, false);
    expect_err(weights_open(path, &file), EXIT_BAD_DATA, "no tensors");
    assert_null(file);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),     cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_made_by_torch), cmocka_unit_test(test_pickle_inert),
        cmocka_unit_test(test_pickle_values), cmocka_unit_test(test_pickle_refused),
        cmocka_unit_test(test_archive_views), cmocka_unit_test(test_archive_damage),
        cmocka_unit_test(test_archive_bomb),  cmocka_unit_test(test_archive_refused),
        cmocka_unit_test(test_archive_deep),  cmocka_unit_test(test_other_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
