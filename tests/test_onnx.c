/* The smaller networks of the zoo as ONNX files, and the published student: ONNX's checker takes them and ONNX Runtime gives the
 * logits that our fp32 backend gives (test_onnx.py). Graphs that cannot be expressed are refused by name. */
#include "base/log.h"
#include "io/safetensors.h"
#include "onnx_rig.h"

enum { REAL_IMAGES = 200 };

/* ---- The zoo; check_onnx.c has the large networks ---- */

static void test_zoo(void **state)
{
    (void)state;
    if (!python_has(PYTHON_MODULES)) {
        python_skip(PYTHON_MODULES);
        skip();
    }
    check_zoo(0, SMALL_PARAMETERS);
}

/* ---- The published student on real images ---- */

static void check_published(const char *data, const char *pth)
{
    char *const folder = folder_new();
    WeightsFile *weights;
    no_error(weights_open(pth, &weights));
    assert_int_equal(run_python("images '%s' '%s/cifar100' %d", folder, data, REAL_IMAGES), 0);
    char *const pixels = path_join(folder, "wrn_16_2.images");
    FileMap images;
    no_error(file_map(pixels, &images));
    assert_int_equal(images.size, REAL_IMAGES * CIFAR_SIZE * CIFAR_SIZE * 3);
    Net net;
    net_make(&net, "wrn_16_2", 100, CIFAR_SIZE, REAL_IMAGES);
    no_error(model_load_weights(&net.params, "", weights, net.arena));
    Backend *const backend = backend_new();
    float *const logits = net_logits(&net, backend, images.data, REAL_IMAGES);
    put_file(folder, "wrn_16_2.logits", logits, (size_t)REAL_IMAGES * 100 * sizeof *logits);
    export_variant(folder, weights, "wrn_16_2", "float", (OnnxExport){.opset = 17});
    export_variant(folder, weights, "wrn_16_2", "bytes",
                   (OnnxExport){.opset = 17, .bytes = true, .fold = true});
    assert_int_equal(run_python("published '%s'", folder), 0);
    free(logits);
    backend_close(backend);
    net_free(&net);
    file_unmap(&images);
    free(pixels);
    weights_close(weights);
    folder_free(folder);
}

static void test_published(void **state)
{
    (void)state;
    const char *const shared = getenv("CUDISTILL_DATA");
    const char *const data = shared ? shared : "../shared/data";
    char *const pth = xformat("%s/checkpoints/wrn_16_2_energykd.pth", data);
    const bool present = path_exists(pth);
    const bool peer = python_has(PYTHON_MODULES ", PIL");
    if (!present) {
        printf("skipped: no %s (set CUDISTILL_DATA)\n", pth);
    } else if (!peer) {
        python_skip(PYTHON_MODULES ", PIL");
    } else {
        check_published(data, pth);
    }
    free(pth);
    if (!present || !peer) {
        skip();
    }
}

/* ---- What is refused ---- */

static void expect_refused(const Graph *g, const char *node)
{
    float *const arena[ARENA_COUNT] = {NULL};
    uint8_t *bytes;
    size_t size;
    Err *const err = onnx_encode(g, arena, &(OnnxOptions){.name = "x", .opset = 17}, &bytes, &size);
    assert_non_null(err);
    assert_null(bytes);
    assert_int_equal(err->code, EXIT_INTERNAL);
    if (!strstr(err->message, node)) {
        fail_msg("'%s' is not in: %s", node, err->message);
    }
    err_free(err);
}

static void test_refused(void **state)
{
    (void)state;
    Params params = {0};
    Graph g;
    graph_init(&g, &params, 2, DT_F32);
    const int x = graph_input(&g, "images", DT_F32, 2, 8, 8, 3, true);
    const int index = graph_input(&g, "labels", DT_F32, 1, 1, 1, 1, false);
    (void)index;
    const int y = graph_relu(&g, "relu", x);
    const int wide = graph_cast(&g, "widen", y, DT_F64);
    graph_output(&g, wide, "out");
    expect_refused(&g, "'widen' (");
    graph_free(&g);

    graph_init(&g, &params, 2, DT_BF16);
    graph_output(&g, graph_relu(&g, "relu", graph_input(&g, "x", DT_BF16, 2, 8, 8, 3, true)), "y");
    expect_refused(&g, "bf16");
    graph_free(&g);
    params_free(&params);

    /* Training: the statistics of the batch. */
    Net net = {0};
    net.build = (ModelBuild){.params = &net.params,
                             .graph = &net.graph,
                             .prefix = "",
                             .bn = BN_TRAIN,
                             .trainable = true,
                             .classes = 10,
                             .stem_channels = 3,
                             .std = {1, 1, 1}};
    graph_init(&net.graph, &net.params, 2, DT_F32);
    net.build.images = graph_input(&net.graph, "images", DT_U8, 2, 32, 32, 3, true);
    no_error(model_build("resnet8", &net.build));
    params_finish(&net.params);
    static const Arena used[] = {ARENA_WEIGHT, ARENA_STATE};
    for (int i = 0; i < 2; i++) {
        net.arena[used[i]] = xaligned(net.params.arena_elems[used[i]] * sizeof(float));
    }
    uint8_t *bytes;
    size_t size;
    Err *const err =
        onnx_encode(&net.graph, net.arena, &(OnnxOptions){.name = "x", .opset = 17}, &bytes, &size);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "bn1"));
    err_free(err);
    net_free(&net);
}

static void expect_error(const char *path, const WeightsFile *weights, const OnnxExport *what,
                         ExitCode code, const char *part)
{
    OnnxWritten written;
    Err *const err = onnx_export(path, weights, what, &written);
    assert_non_null(err);
    assert_int_equal(err->code, code);
    if (!strstr(err->message, part)) {
        fail_msg("'%s' is not in: %s", part, err->message);
    }
    err_free(err);
    assert_false(path_exists(path));
}

static void test_wrong_weights(void **state)
{
    (void)state;
    char *const folder = folder_new();
    char *const path = path_join(folder, "weights.safetensors");
    char *const onnx = path_join(folder, "out.onnx");
    Net net;
    net_make(&net, "resnet8", 7, 0, 0);
    net_randomise(&net);
    ModelEntries entries = model_save_entries(&net.params, "", net.arena, 9);
    no_error(safetensors_write(path, entries.tensors, entries.count, NULL));
    model_entries_free(&entries);
    WeightsFile *weights;
    no_error(weights_open(path, &weights));
    const int opset = ONNX_OPSET_DEFAULT;
    expect_error(onnx, weights, &(OnnxExport){.model = "resnet14", .opset = opset}, EXIT_BAD_DATA,
                 "resnet8 of 7 classes");
    expect_error(onnx, weights, &(OnnxExport){.model = "resnet_8", .opset = opset}, EXIT_CONFIG_ERR,
                 "unknown model");
    expect_error(onnx, weights, &(OnnxExport){.opset = opset, .own_size = true, .size = 5},
                 EXIT_CONFIG_ERR, "at least 8 pixels");
    weights_close(weights);
    no_error(safetensors_write(path, NULL, 0, NULL));
    no_error(weights_open(path, &weights));
    expect_error(onnx, weights, &(OnnxExport){.opset = opset}, EXIT_BAD_DATA, "--model");
    weights_close(weights);
    net_free(&net);
    free(onnx);
    free(path);
    folder_free(folder);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_wrong_weights),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_zoo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
