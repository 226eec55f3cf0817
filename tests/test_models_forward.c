/* Whole networks on `ref` against PyTorch: the same weights (through the .pth reader) and images
 * give the same logits and the same feature taps in inference, with fusion (folded batch norm) and
 * without, and weights written by us load strictly into the PyTorch modules.
 *
 * Tolerance: both sides sum in fp32, in different orders, and the errors of L layers add like a
 * random walk: c * eps * sqrt(L) of the largest value. With L = 110 and c = 8 that is 2^-23 * 10.5
 * * 8 = 1e-5; the used share is printed. */
#include "backend/exec.h"
#include "base/files.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "models/load.h"
#include "models/models.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "python.h"

enum { IMAGES = 2, BATCHES = 7 };
static const double TOLERANCE = 1e-5;

/* Every family in its kinds of depth and width; smaller images where the network is large. */
static const struct {
    const char *name;
    int size;
} cases[] = {{"resnet8", 32},    {"resnet20", 32}, {"resnet110", 16}, {"resnet8x4", 32},
             {"resnet32x4", 16}, {"wrn_16_1", 32}, {"wrn_16_2", 32},  {"wrn_40_2", 16},
             {"vgg8", 64},       {"vgg11", 32},    {"vgg19", 16},     {"resnet18", 64},
             {"resnet50", 64}};
enum { CASES = sizeof cases / sizeof cases[0] };

typedef struct {
    char folder[32]; /* empty when there is no PyTorch */
    Backend *backend;
} Peer;

static void no_error(Err *err)
{
    if (err) {
        print_error("%s\n", err->message);
    }
    assert_null(err);
}

/* PyTorch is slow to start: one run makes the references of all cases. */
static int peer_open(void **state)
{
    Peer *peer = xcalloc(1, sizeof *peer);
    *state = peer;
    const BackendOptions options = {.threads = 1, .deterministic = true};
    no_error(backend_open("ref", &options, &peer->backend));
    if (!python_has("torch")) {
        return 0;
    }
    (void)snprintf(peer->folder, sizeof peer->folder, "/tmp/forward_XXXXXX");
    assert_non_null(mkdtemp(peer->folder));
    char *command = xformat("tests/zoo_torch.py forward %s", peer->folder);
    for (int i = 0; i < CASES; ++i) {
        char *longer = xformat("%s %s:%d", command, cases[i].name, cases[i].size);
        free(command);
        command = longer;
    }
    FILE *python = python_open(command);
    free(command);
    return python_close(python);
}

static int peer_close(void **state)
{
    Peer *peer = *state;
    backend_close(peer->backend);
    if (peer->folder[0] != '\0') {
        no_error(dir_remove(peer->folder));
    }
    free(peer);
    return 0;
}

/* A file of the case's folder, which must have `size` bytes. */
static void *read_file(const Peer *peer, const char *net, const char *name, size_t size)
{
    char *path = xformat("%s/%s/%s", peer->folder, net, name);
    FileMap map;
    no_error(file_map(path, &map));
    assert_int_equal(map.size, size);
    void *data = xmalloc(size);
    memcpy(data, map.data, size);
    file_unmap(&map);
    free(path);
    return data;
}

typedef struct {
    Params params;
    Graph graph;
    ModelBuild build;
    float *arena[ARENA_COUNT];
} Net;

static void net_make(const Peer *peer, const char *name, int size, int stem_channels, Net *net)
{
    *net = (Net){0};
    graph_init(&net->graph, &net->params, IMAGES, DT_F32);
    net->build = (ModelBuild){.params = &net->params,
                              .graph = &net->graph,
                              .prefix = "teacher.",
                              .bn = BN_EVAL,
                              .classes = model_find(name)->classes,
                              .mean = {0.5071f, 0.4867f, 0.4408f},
                              .std = {0.2675f, 0.2565f, 0.2761f},
                              .stem_channels = stem_channels};
    net->build.images = graph_input(&net->graph, "images", DT_U8, IMAGES, size, size, 3, true);
    no_error(model_build(name, &net->build));
    params_finish(&net->params);
    graph_output(&net->graph, net->build.logits, "logits");
    for (int i = 0; i < net->build.n_taps; ++i) {
        char tap[16];
        (void)snprintf(tap, sizeof tap, "tap%d", i);
        graph_output(&net->graph, net->build.taps[i], tap);
    }
    static const Arena used[] = {ARENA_FROZEN, ARENA_STATE};
    for (int i = 0; i < 2; ++i) {
        net->arena[used[i]] = xaligned(net->params.arena_elems[used[i]] * sizeof(float));
    }
    char *path = xformat("%s/%s/weights.pth", peer->folder, name);
    WeightsFile *file = NULL;
    no_error(weights_open(path, &file));
    no_error(model_load_weights(&net->params, "teacher.", file, net->arena));
    weights_close(file);
    free(path);
}

static void net_free(Net *net)
{
    for (int i = 0; i < ARENA_COUNT; ++i) {
        free(net->arena[i]);
    }
    graph_free(&net->graph);
    params_free(&net->params);
}

/* Largest difference of an output from PyTorch's, as a share of the largest value. */
static double output_error(const Peer *peer, Exec *exec, const Net *net, const char *name,
                           const char *output)
{
    const Tensor *t = &net->graph.tensors[graph_find_tensor(&net->graph, output)];
    const size_t count = tensor_elems(t);
    char *file = xformat("%s.bin", output);
    float *want = read_file(peer, name, file, count * sizeof *want);
    float *got = xmalloc(count * sizeof *got);
    exec_read(exec, output, got, count * sizeof *got);
    double largest = 0.0;
    double worst = 0.0;
    for (size_t i = 0; i < count; ++i) {
        assert_true(isfinite(got[i]));
        largest = fmax(largest, fabs((double)want[i]));
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    }
    assert_true(largest > 0.0);
    free(want);
    free(got);
    free(file);
    return worst / largest;
}

static double forward_error(const Peer *peer, const Net *net, const char *name, unsigned fusion_off)
{
    const ExecOptions options = {.fusion_off = fusion_off, .check_plan = true, .poison = true};
    Exec *exec = NULL;
    no_error(exec_open(peer->backend, &net->graph, &options, &exec));
    exec_bind(exec, ARENA_FROZEN, net->arena[ARENA_FROZEN]);
    exec_bind(exec, ARENA_STATE, net->arena[ARENA_STATE]);
    exec_refresh(exec, false);
    const size_t bytes = tensor_bytes(&net->graph.tensors[net->build.images]);
    void *images = read_file(peer, name, "images.bin", bytes);
    exec_write(exec, "images", images, bytes);
    exec_run(exec, &(ExecRun){.rows = IMAGES, .scale = 1.0f});
    double worst = output_error(peer, exec, net, name, "logits");
    for (int i = 0; i < net->build.n_taps; ++i) {
        char tap[16];
        (void)snprintf(tap, sizeof tap, "tap%d", i);
        worst = fmax(worst, output_error(peer, exec, net, name, tap));
    }
    free(images);
    exec_close(exec);
    return worst;
}

static void test_forward(void **state)
{
    const Peer *peer = *state;
    if (peer->folder[0] == '\0') {
        python_skip("torch");
        skip();
    }
    for (int i = 0; i < CASES; ++i) {
        Net net;
        net_make(peer, cases[i].name, cases[i].size, 3, &net);
        const double parts = forward_error(peer, &net, cases[i].name, FUSE_ALL);
        const double fused = forward_error(peer, &net, cases[i].name, 0);
        printf("# %-10s %3d px: used %.3f of the tolerance, fused %.3f\n", cases[i].name,
               cases[i].size, parts / TOLERANCE, fused / TOLERANCE);
        assert_true(parts < TOLERANCE);
        assert_true(fused < TOLERANCE);
        net_free(&net);
    }
}

/* Padding channels of the stem's image change nothing. */
static void test_stem_channels(void **state)
{
    const Peer *peer = *state;
    if (peer->folder[0] == '\0') {
        python_skip("torch");
        skip();
    }
    static const struct {
        const char *name;
        int size, channels;
    } stems[] = {{"resnet8", 32, 4}, {"wrn_16_1", 32, 8}, {"resnet18", 64, 4}};
    for (size_t i = 0; i < sizeof stems / sizeof stems[0]; ++i) {
        Net net;
        net_make(peer, stems[i].name, stems[i].size, stems[i].channels, &net);
        assert_true(forward_error(peer, &net, stems[i].name, 0) < TOLERANCE);
        net_free(&net);
    }
}

static void test_written_weights(void **state)
{
    const Peer *peer = *state;
    if (peer->folder[0] == '\0' || !python_has("torch, safetensors")) {
        python_skip("torch with safetensors");
        skip();
    }
    static const char *const names[] = {"resnet8x4", "wrn_16_2", "vgg8", "resnet50"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
        Net net;
        net_make(peer, names[i], 64, 3, &net);
        char *path = xformat("%s/%s/written.safetensors", peer->folder, names[i]);
        ModelEntries entries = model_save_entries(&net.params, "teacher.", net.arena, BATCHES);
        no_error(safetensors_write(path, entries.tensors, entries.count,
                                   (const char *[]){"format", "pt", NULL}));
        model_entries_free(&entries);
        char *command = xformat("tests/zoo_torch.py compare %s %s", names[i], path);
        FILE *python = python_open(command);
        int batches = 0;
        assert_int_equal(fscanf(python, "batches %d", &batches), 1);
        assert_int_equal(python_close(python), 0);
        assert_int_equal(batches, BATCHES);
        free(command);
        free(path);
        net_free(&net);
    }
}

int main(void)
{
    log_set_level(LOG_WARN); /* the .pth reader has something to say about every file */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_stem_channels),
                                       cmocka_unit_test(test_written_weights)};
    return cmocka_run_group_tests(tests, peer_open, peer_close);
}
