/* `cudistill inspect`, through its table: every kind of file and folder by its content, the JSON form parsed again, and
 * damaged ones with their exit code. */
#include "base/log.h"
#include "command_rig.h"
#include "io/events.h"
#include "io/npy.h"
#include "io/safetensors.h"
#include "models/load.h"
#include "train/checkpoint.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

static char *dir;

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
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

/* What the command says of a path; caller frees. */
static char *say(const char *path, const char *option)
{
    char *said = NULL;
    ok(command_run(&command_inspect, (const char *[]){path, option, NULL}, &said));
    return said;
}

static json_t *say_json(const char *path)
{
    char *said = NULL;
    ok(command_run(&command_inspect, (const char *[]){path, "--json", "--stats", NULL}, &said));
    const size_t length = strlen(said);
    assert_true(length > 0 && strchr(said, '\n') == said + length - 1);
    json_error_t error;
    json_t *object = json_loads(said, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL) {
        fail_msg("%s at byte %d of %s", error.text, error.position, said);
    }
    free(said);
    return object;
}

static void expect_refused(const char *path, ExitCode code, const char *part)
{
    char *said = NULL;
    expect_err(command_run(&command_inspect, (const char *[]){path, NULL}, &said), code, part);
    assert_string_equal(said, "");
    free(said);
}

static void expect_all(const char *text, const char *const *parts)
{
    for (; *parts != NULL; parts++) {
        if (strstr(text, *parts) == NULL) {
            fail_msg("'%s' is not in:\n%s", *parts, text);
        }
    }
}

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    return text;
}

static json_int_t integer_at(const json_t *object, const char *key)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    return json_integer_value(json_object_get(object, key));
}

/* ---- Weights ---- */

/* A resnet8 of 10 classes, every weight 0.5, as its training would save it. */
static void write_network(const char *path)
{
    Params params = {0};
    ModelBuild build = {
        .params = &params, .prefix = "", .classes = 10, .images = -1, .stem_channels = 3};
    ok(model_build("resnet8", &build));
    params_finish(&params);
    float *arena[ARENA_COUNT] = {0};
    for (int a = 0; a < ARENA_COUNT; a++) {
        arena[a] = xmalloc((params.arena_elems[a] + 1) * sizeof *arena[a]);
        for (size_t i = 0; i < params.arena_elems[a]; i++) {
            arena[a][i] = 0.5f;
        }
    }
    ModelEntries entries = model_save_entries(&params, "", arena, 7);
    const char *const metadata[] = {"model", "resnet8", NULL};
    ok(safetensors_write(path, entries.tensors, entries.count, metadata));
    model_entries_free(&entries);
    for (int a = 0; a < ARENA_COUNT; a++) {
        free(arena[a]);
    }
    params_free(&params);
}

static void test_network(void **state)
{
    (void)state;
    const char *path = in_dir("network");
    write_network(path);
    char *said = say(path, NULL);
    expect_all(said, (const char *[]){"safetensors", "conv1.weight", "16x3x3x3", "1728",
                                      "bn1.num_batches_tracked", "scalar", "56 tensors",
                                      "matches: resnet8 (10 classes)", "metadata: model = resnet8",
                                      NULL});
    free(said);
    json_t *object = say_json(path);
    assert_string_equal(text_at(object, "kind"), "safetensors");
    assert_string_equal(text_at(object, "model"), "resnet8");
    assert_int_equal(integer_at(object, "classes"), 10);
    /* 83,892 with 100 classes; 90 rows of 64 weights and a bias fewer. */
    assert_int_equal(integer_at(object, "parameters"), 83892 - 90 * 65);
    assert_int_equal(integer_at(object, "nonfinite"), 0);
    const json_t *tensors = json_object_get(object, "tensors");
    assert_int_equal(json_array_size(tensors), 56);
    const json_t *first = json_array_get(tensors, 1);
    assert_true(json_number_value(json_object_get(first, "mean")) != 0);
    json_decref(object);
}

static void test_statistics(void **state)
{
    (void)state;
    const float values[5] = {1, -3, NAN, INFINITY, 5};
    const float bad[1] = {NAN};
    const SafeTensor tensors[] = {{"w", WEIGHT_F32, 1, {5}, values},
                                  {"all", WEIGHT_F32, 1, {1}, bad},
                                  {"\x1b[31mred\xc2\x9b", WEIGHT_F32, 1, {1}, values},
                                  {"none", WEIGHT_F32, 1, {0}, values}};
    const char *path = in_dir("statistics");
    const char *const metadata[] = {"title", "\x1b]0;owned\x07", NULL};
    ok(safetensors_write(path, tensors, 4, metadata));
    char *said = say(path, "--stats");
    expect_all(said, (const char *[]){"          -3            5            1          2",
                                      "?[31mred?", "metadata: title = ?]0;owned?",
                                      "3 values are not finite", "no network", NULL});
    assert_null(strchr(said, '\x1b')); /* a file's texts do not speak to the terminal */
    assert_null(strchr(said, '\x07'));
    free(said);
    json_t *object = say_json(path);
    size_t i = 0;
    const json_t *tensor = NULL;
    json_array_foreach(json_object_get(object, "tensors"), i, tensor)
    {
        const bool finite = strcmp(text_at(tensor, "name"), "w") == 0 ||
                            strstr(text_at(tensor, "name"), "red") != NULL;
        assert_true(json_is_number(json_object_get(tensor, "mean")) == finite);
    }
    json_decref(object);
}

static void test_arrays(void **state)
{
    (void)state;
    const int64_t shape[2] = {2, 3};
    const int64_t values[6] = {1, 2, 3, 4, 5, 9};
    assert_int_equal(mkdir(in_dir("arrays"), 0700), 0);
    ok(npy_write(in_dir("arrays/a.npy"), WEIGHT_I64, 2, shape, values));
    ok(npy_write(in_dir("arrays/b.npy"), WEIGHT_I64, 1, shape, values));
    char *said = say(in_dir("arrays/a.npy"), "--stats");
    expect_all(said, (const char *[]){"npy", "I64", "2x3", "48", "9", NULL});
    assert_null(strstr(said, "matches"));
    free(said);
    json_t *object = say_json(in_dir("arrays"));
    assert_string_equal(text_at(object, "kind"), "arrays");
    assert_int_equal(integer_at(object, "count"), 2);
    assert_int_equal(integer_at(object, "elements"), 8);
    json_decref(object);
}

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
    json_t *object = say_json(path);
    assert_string_equal(text_at(object, "kind"), "pth");
    assert_string_equal(text_at(object, "model"), "wrn_16_2");
    assert_int_equal(integer_at(object, "classes"), 100);
    assert_int_equal(integer_at(object, "parameters"), 703284);
    json_decref(object);
    free(path);
}

/* ---- Folders ---- */

static Err *write_checkpoint(void *context, const char *folder)
{
    (void)context;
    char *weights = path_join(folder, "model.safetensors");
    char *text = path_join(folder, "state.json");
    write_network(weights);
    static const char json[] = "{\"step\": 12, \"best_top1\": 71.5, \"epoch\": 3, \"config\": {}}";
    Err *err = file_write_atomic(text, json, sizeof json - 1);
    free(text);
    free(weights);
    return err;
}

static void test_checkpoint(void **state)
{
    (void)state;
    ok(checkpoint_save(in_dir("checkpoints"), 12, 0, 0, write_checkpoint, NULL));
    ok(checkpoint_save(in_dir("checkpoints"), 13, 0, 0, write_checkpoint, NULL));
    char *said = say(in_dir("checkpoints/latest"), NULL);
    expect_all(said, (const char *[]){"all files are as its MANIFEST says", "best_top1", "71.5",
                                      "MANIFEST", "state.json", "resnet8 (10 classes)", NULL});
    free(said);
    json_t *object = say_json(in_dir("checkpoints/latest"));
    assert_string_equal(text_at(object, "kind"), "checkpoint");
    assert_int_equal(integer_at(json_object_get(object, "state"), "step"), 12);
    assert_string_equal(text_at(json_object_get(object, "weights"), "model"), "resnet8");
    assert_int_equal(json_array_size(json_object_get(object, "files")), 3);
    json_decref(object);

    /* One byte of a file is another: the checkpoint is named damaged, and is left as it is. */
    char **names = NULL;
    size_t count = 0;
    ok(dir_list(in_dir("checkpoints"), &names, &count));
    assert_int_equal(count, 3);
    char *path = xformat("%s/checkpoints/%s/state.json", dir, names[1] /* after latest */);
    char *text = NULL;
    ok(file_read_text(path, 1000, &text));
    text[9] = '9';
    write_plain(path, text, strlen(text));
    free(text);
    free(path);
    char *folder = xformat("%s/checkpoints/%s", dir, names[1]);
    expect_refused(folder, EXIT_BAD_DATA, "state.json");
    assert_true(path_is_dir(folder));
    free(folder);
    names_free(names, count);
    said = say(in_dir("checkpoints"), NULL);
    expect_all(said, (const char *[]){"  whole\n", "  damaged: ", NULL});
    free(said);
    object = say_json(in_dir("checkpoints"));
    const json_t *list = json_object_get(object, "checkpoints");
    assert_int_equal(json_array_size(list), 2);
    assert_true(json_is_false(json_object_get(json_array_get(list, 0), "whole")));
    assert_true(json_is_true(json_object_get(json_array_get(list, 1), "whole")));
    json_decref(object);
}

static void test_run(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_dir("run"), 0700), 0);
    assert_int_equal(mkdir(in_dir("run/tb"), 0700), 0);
    static const char manifest[] =
        "{\"format\":1,\"name\":\"quick\",\"status\":\"finished\",\"error\":null,"
        "\"dataset\":{\"name\":\"cifar100\"},\"result\":{\"last_top1\":72.25}}";
    write_plain(in_dir("run/manifest.json"), manifest, sizeof manifest - 1);
    char *said = say(in_dir("run"), NULL);
    expect_all(said, (const char *[]){"folder of a run", "quick", "finished", "cifar100", "72.25",
                                      "manifest.json", "folder  tb", NULL});
    assert_null(strstr(said, "error"));
    free(said);
    json_t *object = say_json(in_dir("run"));
    assert_string_equal(text_at(json_object_get(object, "manifest"), "status"), "finished");
    assert_int_equal(json_array_size(json_object_get(object, "files")), 2);
    json_decref(object);
    write_plain(in_dir("run/manifest.json"), manifest, sizeof manifest - 10);
    expect_refused(in_dir("run"), EXIT_BAD_DATA, "manifest.json', line 1");
}

/* ---- Events ---- */

static char *write_events(void)
{
    Events *events = NULL;
    ok(events_open(in_dir("tb"), -1, &events));
    for (long step = 1; step <= 20; step++) {
        ok(events_scalar(events, "loss/total", step, 1.0 / (double)step));
        ok(events_scalar(events, "acc", step, step == 20 ? (double)NAN : (double)step));
    }
    const float values[3] = {1, 2, 3};
    ok(events_histogram(events, "energy", 20, values, 3));
    events_close(events);
    char **names = NULL;
    size_t count = 0;
    ok(dir_list(in_dir("tb"), &names, &count));
    assert_int_equal(count, 1);
    char *path = xformat("%s/tb/%s", dir, names[0]);
    names_free(names, count);
    return path;
}

static void test_events(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_dir("tb"), 0700), 0);
    char *path = write_events();
    char *said = say(path, NULL);
    expect_all(
        said, (const char *[]){"brain.Event:2", "loss/total", "scalar", "histogram", "0.05", NULL});
    free(said);
    json_t *object = say_json(path);
    assert_string_equal(text_at(object, "kind"), "events");
    const json_t *tags = json_object_get(object, "tags");
    assert_int_equal(json_array_size(tags), 3);
    const json_t *loss = json_array_get(tags, 0);
    assert_string_equal(text_at(loss, "tag"), "loss/total");
    assert_int_equal(integer_at(loss, "events"), 20);
    assert_int_equal(integer_at(loss, "last_step"), 20);
    assert_true(fabs(json_number_value(json_object_get(loss, "min")) - 0.05) < 1e-6);
    const json_t *accuracy = json_array_get(tags, 1);
    assert_true(json_is_null(json_object_get(accuracy, "last")));
    assert_true(json_number_value(json_object_get(accuracy, "max")) == 19);
    assert_true(json_is_false(json_object_get(object, "torn")));
    json_decref(object);

    FileMap map;
    ok(file_map(path, &map));
    uint8_t *bytes = xmalloc(map.size);
    memcpy(bytes, map.data, map.size);
    const size_t size = map.size;
    file_unmap(&map);
    write_plain(path, bytes, size - 3);
    object = say_json(path);
    assert_true(json_is_true(json_object_get(object, "torn")));
    json_decref(object);
    bytes[size / 2] ^= 1;
    write_plain(path, bytes, size);
    expect_refused(path, EXIT_BAD_DATA, "byte");
    free(bytes);
    free(path);
}

/* ---- The rest ---- */

static void test_others(void **state)
{
    (void)state;
    static const char onnx[] = "\x08\x08\x12\x07pytorch";
    write_plain(in_dir("m"), onnx, sizeof onnx - 1);
    char *said = say(in_dir("m"), NULL);
    expect_all(said, (const char *[]){"ONNX model", NULL});
    free(said);
    json_t *object = say_json(in_dir("m"));
    assert_string_equal(text_at(object, "kind"), "onnx");
    json_decref(object);
    expect_refused(in_dir("absent"), EXIT_NO_INPUT, "absent");
    write_plain(in_dir("empty"), "", 0);
    expect_refused(in_dir("empty"), EXIT_BAD_DATA, "of another kind");
    write_plain(in_dir("text"), "hello, this is a text", 21);
    expect_refused(in_dir("text"), EXIT_BAD_DATA, "of another kind");
    assert_int_equal(mkdir(in_dir("bare"), 0700), 0);
    expect_refused(in_dir("bare"), EXIT_BAD_DATA, "neither a run nor a checkpoint");
    write_plain(in_dir("cut.npy"), "\x93NUMPY\1", 8);
    expect_refused(in_dir("cut.npy"), EXIT_BAD_DATA, "before its header");
    write_plain(in_dir("cut.safetensors"), "\x40\0\0\0\0\0\0\0{\"w\":", 13);
    expect_refused(in_dir("cut.safetensors"), EXIT_BAD_DATA, "truncated");
    write_plain(in_dir("cut.pth"), "PK\3\4", 4);
    expect_refused(in_dir("cut.pth"), EXIT_BAD_DATA, "zip");
    write_plain(in_dir("old.pth"), "\x80\2\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 15);
    expect_refused(in_dir("old.pth"), EXIT_BAD_DATA, "the version at byte 15");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_network),    cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_arrays),     cmocka_unit_test(test_published),
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_run),
        cmocka_unit_test(test_events),     cmocka_unit_test(test_others),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
