/* `cudistill export`: what it takes from a run's folder, its options, and what it refuses. The file is read back as messages;
 * whether its numbers are right is test_onnx.c's matter. */
#include "base/files.h"
#include "cli/commands.h"
#include "io/onnx.pb-c.h"
#include "io/safetensors.h"
#include "models/load.h"
#include "models/models.h"
#include "train/rundir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { CLASSES = 7, MAX_ARGUMENTS = 32 };

static const char CONFIG[] = "[data]\n"
                             "kind = synthetic\n"
                             "[augment]\n"
                             "mean = 0.5, 0.25, 0.125\n"
                             "std = 0.5, 0.25, 0.25\n"
                             "[student]\n"
                             "model = resnet8\n"
                             "[distill]\n"
                             "method = none\n";

/* ---- A run's folder ---- */

static void save_network(const char *path, uint64_t seed)
{
    Params params = {0};
    ModelBuild build = {.params = &params, .prefix = "", .classes = CLASSES, .images = -1};
    assert_null(model_build("resnet8", &build));
    params_finish(&params);
    float *arena[ARENA_COUNT] = {NULL};
    static const Arena used[] = {ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 2; i++) {
        arena[used[i]] = xaligned(params.arena_elems[used[i]] * sizeof(float));
    }
    params_init(&params, "", seed, arena);
    ModelEntries entries = model_save_entries(&params, "", arena, 0);
    assert_null(safetensors_write(path, entries.tensors, entries.count, NULL));
    model_entries_free(&entries);
    free(arena[ARENA_FROZEN]);
    free(arena[ARENA_STATE]);
    params_free(&params);
}

static void put_text(const char *folder, const char *name, const char *text)
{
    char *const path = path_join(folder, name);
    assert_null(file_write_atomic(path, text, strlen(text)));
    free(path);
}

typedef struct {
    char folder[40];
    char *run, *best, *last, *onnx;
} Place;

static int place_open(void **state)
{
    Place *const place = xcalloc(1, sizeof *place);
    (void)snprintf(place->folder, sizeof place->folder, "/tmp/cudistill-export-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    place->run = path_join(place->folder, "run");
    place->best = path_join(place->run, "student_best.safetensors");
    place->last = path_join(place->run, "student_last.safetensors");
    place->onnx = path_join(place->folder, "out.onnx");
    assert_null(dir_make(place->run));
    save_network(place->best, 1);
    save_network(place->last, 2);
    put_text(place->run, RUN_CONFIG, CONFIG);
    put_text(place->run, RUN_MANIFEST, "{\"dataset\":{\"size\":48}}");
    *state = place;
    return 0;
}

static int place_close(void **state)
{
    Place *const place = *state;
    assert_null(dir_remove(place->folder));
    free(place->run);
    free(place->best);
    free(place->last);
    free(place->onnx);
    free(place);
    return 0;
}

/* ---- The command ---- */

/* arguments: with spaces between; its standard output goes nowhere. */
static Err *export_with(const Place *place, const char *arguments)
{
    char *const line = xformat("export --onnx %s %s", place->onnx, arguments);
    char *argv[MAX_ARGUMENTS + 1] = {NULL};
    int argc = 0;
    for (char *at = strtok(line, " "); at; at = strtok(NULL, " ")) {
        assert_true(argc < MAX_ARGUMENTS);
        argv[argc++] = at;
    }
    (void)fflush(stdout);
    const int kept = dup(STDOUT_FILENO);
    assert_non_null(freopen("/dev/null", "w", stdout));
    Err *const err = args_run(&command_export, "cudistill export", argc, argv);
    (void)fflush(stdout);
    assert_true(dup2(kept, STDOUT_FILENO) >= 0);
    (void)close(kept);
    free(line);
    return err;
}

static Onnx__Model *exported(const Place *place, const char *arguments)
{
    Err *const err = export_with(place, arguments);
    if (err) {
        print_error("%s\n", err->message);
    }
    assert_null(err);
    FileMap map;
    assert_null(file_map(place->onnx, &map));
    Onnx__Model *const model = onnx__model__unpack(NULL, map.size, map.data);
    assert_non_null(model);
    file_unmap(&map);
    assert_int_equal(remove(place->onnx), 0);
    return model;
}

static const char *property(const Onnx__Model *model, const char *key)
{
    for (size_t i = 0; i < model->n_metadata_props; i++) {
        if (strcmp(model->metadata_props[i]->key, key) == 0) {
            return model->metadata_props[i]->value;
        }
    }
    fail_msg("no property '%s'", key);
    return NULL;
}

static size_t count_op(const Onnx__Model *model, const char *op)
{
    size_t count = 0;
    for (size_t i = 0; i < model->graph->n_node; i++) {
        count += strcmp(model->graph->node[i]->op_type, op) == 0;
    }
    return count;
}

static void expect_input(const Onnx__Model *model, int type, int batch, int side)
{
    const Onnx__ValueInfo *const input = model->graph->input[0];
    assert_string_equal(input->name, "images");
    assert_int_equal(input->type->tensor_type->elem_type, type);
    Onnx__Dimension *const *const dims = input->type->tensor_type->shape->dim;
    assert_int_equal(input->type->tensor_type->shape->n_dim, 4);
    if (batch > 0) {
        assert_int_equal(dims[0]->dim_value, batch);
    } else {
        assert_string_equal(dims[0]->dim_param, "batch");
    }
    assert_int_equal(dims[1]->dim_value, 3);
    assert_int_equal(dims[2]->dim_value, side);
    assert_int_equal(dims[3]->dim_value, side);
}

/* Whether the file holds these weights: the first convolution's, O,I,Kh,Kw in both. */
static void expect_weights(const Onnx__Model *model, const char *path)
{
    WeightsFile *file;
    assert_null(weights_open(path, &file));
    const WeightEntry *const want = weights_find(file, "conv1.weight");
    const Onnx__Tensor *got = NULL;
    for (size_t i = 0; i < model->graph->n_initializer; i++) {
        const Onnx__Tensor *const tensor = model->graph->initializer[i];
        got = strcmp(tensor->name, "conv1.weight") == 0 ? tensor : got;
    }
    assert_non_null(got);
    assert_int_equal(got->raw_data.len, want->bytes);
    assert_memory_equal(got->raw_data.data, want->data, want->bytes);
    weights_close(file);
}

static void test_run_folder(void **state)
{
    const Place *const place = *state;
    char hash[33];
    Onnx__Model *model = exported(place, place->run);
    expect_weights(model, place->best);
    expect_input(model, 1, 0, 48);
    assert_string_equal(property(model, "model"), "resnet8");
    assert_string_equal(property(model, "classes"), "7");
    assert_string_equal(property(model, "mean"), "0.5,0.25,0.125");
    assert_string_equal(property(model, "std"), "0.5,0.25,0.25");
    assert_string_equal(property(model, "weights"), "student_best.safetensors");
    assert_null(file_hash_hex(place->best, hash));
    assert_string_equal(property(model, "source_hash"), hash);
    assert_int_equal(model->opset_import[0]->version, 17);
    assert_int_equal(model->ir_version, 8);
    assert_string_equal(model->graph->name, "resnet8");
    assert_true(count_op(model, "BatchNormalization") > 0);
    assert_int_equal(count_op(model, "Cast"), 0);
    onnx__model__free_unpacked(model, NULL);

    char *const last = xformat("%s --last", place->run);
    model = exported(place, last);
    expect_weights(model, place->last);
    assert_string_equal(property(model, "weights"), "student_last.safetensors");
    onnx__model__free_unpacked(model, NULL);
    free(last);
}

static void test_options(void **state)
{
    const Place *const place = *state;
    char *const all = xformat("%s --model ResNet8 --batch 6 --opset 13 --input uint8 --fold "
                              "--size 40 --mean 0,0,0 --std 1,1,0.5",
                              place->last);
    Onnx__Model *model = exported(place, all);
    expect_input(model, 2, 6, 40);
    assert_int_equal(model->opset_import[0]->version, 13);
    assert_int_equal(model->ir_version, 7);
    assert_int_equal(count_op(model, "BatchNormalization"), 0);
    assert_int_equal(count_op(model, "Cast"), 1);
    assert_string_equal(property(model, "std"), "1,1,0.5");
    onnx__model__free_unpacked(model, NULL);
    free(all);
    /* A weight file alone: the network by its tensors, CIFAR-100's normalisation. */
    model = exported(place, place->last);
    expect_input(model, 1, 0, 32);
    assert_non_null(strstr(property(model, "mean"), "0.50709"));
    onnx__model__free_unpacked(model, NULL);
}

static void expect_error(const Place *place, const char *arguments, ExitCode code, const char *part)
{
    Err *const err = export_with(place, arguments);
    assert_non_null(err);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' is not in: %s", part, err->message);
    }
    assert_int_equal(err->code, code);
    assert_false(path_exists(place->onnx));
    err_free(err);
}

static void test_refused(void **state)
{
    const Place *const place = *state;
    const struct {
        const char *options;
        ExitCode code;
        const char *part;
    } cases[] = {
        {"--batch 0", EXIT_USAGE_ERR, "--batch '0'"},
        {"--batch 3x", EXIT_USAGE_ERR, "--batch '3x'"},
        {"--opset 12", EXIT_USAGE_ERR, "opset"},
        {"--mean 0.5,0.5,0.5", EXIT_USAGE_ERR, "belong together"},
        {"--mean 0.5,0.5 --std 1,1,1", EXIT_USAGE_ERR, "--mean '0.5,0.5'"},
        {"--mean 0,0,0 --std 1,1,0", EXIT_USAGE_ERR, "--std '1,1,0'"},
        {"--last", EXIT_USAGE_ERR, "the folder of a run"},
        {"--model resnet14", EXIT_BAD_DATA, "resnet8 of 7 classes"},
        {"--model resnet15", EXIT_CONFIG_ERR, "unknown model 'resnet15'"},
        {"--size 4", EXIT_CONFIG_ERR, "at least 8 pixels"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *const arguments = xformat("%s %s", place->best, cases[i].options);
        expect_error(place, arguments, cases[i].code, cases[i].part);
        free(arguments);
    }
    char *const both = xformat("%s --best --last", place->run);
    expect_error(place, both, EXIT_USAGE_ERR, "exclude each other");
    free(both);
    expect_error(place, place->folder, EXIT_NO_INPUT, RUN_CONFIG);
    char *const absent = path_join(place->folder, "absent.safetensors");
    expect_error(place, absent, EXIT_NO_INPUT, absent);
    free(absent);
    char *const config = path_join(place->run, RUN_CONFIG);
    expect_error(place, config, EXIT_BAD_DATA, config);
    free(config);
    assert_int_equal(remove(place->best), 0);
    expect_error(place, place->run, EXIT_NO_INPUT, "student_best.safetensors is not there");
}

static void test_unwritable(void **state)
{
    const Place *const place = *state;
    char *argv[] = {"export", place->last, "--onnx", "/nowhere/out.onnx", NULL};
    Err *const err = args_run(&command_export, "cudistill export", 4, argv);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "/nowhere/out.onnx"));
    err_free(err);
    char *none[] = {"export", place->last, NULL};
    Err *const missing = args_run(&command_export, "cudistill export", 2, none);
    assert_non_null(missing);
    assert_int_equal(missing->code, EXIT_USAGE_ERR);
    assert_non_null(strstr(missing->message, "--onnx is missing"));
    err_free(missing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_run_folder, place_open, place_close),
        cmocka_unit_test_setup_teardown(test_options, place_open, place_close),
        cmocka_unit_test_setup_teardown(test_refused, place_open, place_close),
        cmocka_unit_test_setup_teardown(test_unwritable, place_open, place_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
