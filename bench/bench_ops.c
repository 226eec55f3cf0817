/* Times single ops of the cpu backend at the shapes of the networks people distil, batch 64.
 *
 *     bench_ops [--threads N] [--precision bf16|fp32] [--only TEXT] [--hot]
 *
 * One JSON line per op: median microseconds and the 10th and 90th percentile; GFLOP/s and share of
 * the measured multiply-add peak for convolutions and linear layers (multiply-adds of the direct
 * form: Winograd forms may pass 100 %); GB/s and share of the measured read bandwidth for the
 * others (bytes: each input and output once). Before each run the caches are flushed by reading 96
 * MiB, unless --hot. Convolutions use the way that timing chooses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tests/cases.h"
#include "../tests/rig.h"
#include "args.h"
#include "peak.h"

enum { RUNS = 15, FLUSH_BYTES = 96 << 20 };

/* NOLINTBEGIN(bugprone-macro-parentheses): the arguments stand in initialisers. */
#define NET_CONV(name, size, from, to, kernel, step)                                               \
    {name " forward",    OP_CONV, 64, size, size, from, .o = to, .k = kernel, .stride = step,      \
     .pad = (kernel) / 2},                                                                         \
        {name " dgrad", OP_CONV_DGRAD, 64,          size,           size,                          \
         from,          .o = to,       .k = kernel, .stride = step, .pad = (kernel) / 2},          \
    {                                                                                              \
        name " wgrad", OP_CONV_WGRAD, 64, size, size, from, .o = to, .k = kernel, .stride = step,  \
                                                            .pad = (kernel) / 2                    \
    }

#define NET_BN(name, size, channels)                                                               \
    {name " bn_stats", OP_BN_STATS, 64, size, size, channels, .form = 0},                          \
        {name " bn_apply relu", OP_BN_APPLY, 64, size, size, channels, .form = C_RELU},            \
        {name " bn_apply residual relu", OP_BN_APPLY, 64, size, size, channels,                    \
         .form = C_RESIDUAL | C_RELU},                                                             \
        {name " bn_reduce mask", OP_BN_REDUCE, 64, size, size, channels, .form = C_MASK},          \
        {name " bn_reduce dy2 mask dz", OP_BN_REDUCE, 64, size, size, channels,                    \
         .form = C_DY2 | C_MASK | C_DZ},                                                           \
    {                                                                                              \
        name " bn_dx mask", OP_BN_DX, 64, size, size, channels, .form = C_MASK                     \
    }
/* NOLINTEND(bugprone-macro-parentheses) */

static const OpCase CASES[] = {
    {"stem 3-16 32", OP_CONV, 64, 32, 32, 3, .o = 16, .k = 3, .pad = 1},
    {"stem 3-16 32 wgrad", OP_CONV_WGRAD, 64, 32, 32, 3, .o = 16, .k = 3, .pad = 1},
    NET_CONV("16-16 32", 32, 16, 16, 3, 1),
    NET_CONV("32-32 32", 32, 32, 32, 3, 1),
    NET_CONV("64-64 32", 32, 64, 64, 3, 1),
    NET_CONV("16-32 32 s2", 32, 16, 32, 3, 2),
    NET_CONV("64-128 32 s2", 32, 64, 128, 3, 2),
    NET_CONV("32-32 16", 16, 32, 32, 3, 1),
    NET_CONV("64-64 16", 16, 64, 64, 3, 1),
    NET_CONV("128-128 16", 16, 128, 128, 3, 1),
    NET_CONV("64-64 8", 8, 64, 64, 3, 1),
    NET_CONV("128-128 8", 8, 128, 128, 3, 1),
    NET_CONV("256-256 8", 8, 256, 256, 3, 1),
    NET_CONV("64-128 32 1x1 s2", 32, 64, 128, 1, 2),
    NET_CONV("64-256 32 1x1", 32, 64, 256, 1, 1),
    {"teacher 64-64 32 bias residual relu", OP_CONV, 64, 32, 32, 64, .o = 64, .k = 3, .pad = 1,
     .form = C_BIAS | C_RESIDUAL | C_RELU},
    {"teacher 256-256 8 bias relu", OP_CONV, 64, 8, 8, 256, .o = 256, .k = 3, .pad = 1,
     .form = C_BIAS | C_RELU},
    NET_BN("16 32", 32, 16),
    NET_BN("64 32", 32, 64),
    NET_BN("256 8", 8, 256),
    {"add relu 64 32", OP_ADD, 64, 32, 32, 64, .form = C_RELU},
    {"avgpool 8 256", OP_AVGPOOL, 64, 8, 8, 256, .k = 8, .stride = 8},
    {"avgpool_bwd 8 256", OP_AVGPOOL_BWD, 64, 8, 8, 256, .k = 8, .stride = 8},
    {"maxpool 2 128 16", OP_MAXPOOL, 64, 16, 16, 128, .k = 2, .stride = 2},
    {"image 32", OP_IMAGE, 64, 32, 32, 3, .o = 3},
    {"linear 256-100", OP_LINEAR, 64, 1, 1, 256, .o = 100, .form = C_BIAS},
    {"linear 2048-1000", OP_LINEAR, 64, 1, 1, 2048, .o = 1000, .form = C_BIAS},
    {"distill KD 100", OP_DISTILL, 64, 1, 1, 100, .distill = D_KD},
    {"distill KD 1000", OP_DISTILL, 64, 1, 1, 1000, .distill = D_KD},
    {"sgd 2.4 M", OP_SGD, 1, 1, 1, 512, .o = 512, .k = 3, .form = C_DECAY_ALL},
};

typedef struct {
    Backend *backend;
    Peak peak;
    double read_gb_per_s;
    unsigned char *flush; /* NULL: hot */
    DType act;
} Limits;

static void fail(Err *err)
{
    if (err) {
        fprintf(stderr, "bench_ops: %s\n", err->message);
        exit(err->code);
    }
}

/* Multiply-adds of the direct form, times 2; 0 for ops bound by memory. */
static double case_flops(const OpCase *c)
{
    const double stride = c->stride ? c->stride : 1;
    switch (c->op) {
    case OP_CONV:
    case OP_CONV_DGRAD:
    case OP_CONV_WGRAD:
        return 2.0 * c->n * c->h / stride * c->w / stride * c->c * c->o * c->k * c->k;
    case OP_LINEAR:
    case OP_LINEAR_DGRAD:
    case OP_LINEAR_WGRAD:
        return 2.0 * c->n * c->c * c->o;
    default:
        return 0;
    }
}

static double case_bytes(const Graph *g, const Node *node)
{
    double bytes = 0;
    for (int i = 0; i < node->n_in; i++) {
        bytes += node->in[i] >= 0 ? (double)tensor_bytes(&g->tensors[node->in[i]]) : 0;
    }
    for (int i = 0; i < node->n_out; i++) {
        bytes += node->out[i] >= 0 ? (double)tensor_bytes(&g->tensors[node->out[i]]) : 0;
    }
    if (node->op == OP_SGD) { /* weights and momentum read and written, gradients read */
        bytes += 5.0 * (double)g->params->arena_elems[ARENA_WEIGHT] * sizeof(float);
    }
    return bytes;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static unsigned read_all(const unsigned char *memory)
{
    unsigned sum = 0;
    for (size_t i = 0; memory && i < FLUSH_BYTES; i += 64) {
        sum += memory[i];
    }
    return sum;
}

static void time_case(const Limits *limits, const OpCase *c)
{
    CaseNet net;
    case_build(c, limits->act, &net);
    Rig rig;
    fail(rig_open(&rig, limits->backend, &net.graph, NULL));
    rig_refresh(&rig);
    double seconds[RUNS];
    unsigned sink = 0;
    rig_run(&rig, c->n, 1, false, true);
    for (int i = 0; i < RUNS; i++) {
        sink += read_all(limits->flush);
        const double begin = now_s();
        rig_run(&rig, c->n, 1, false, true);
        seconds[i] = now_s() - begin;
    }
    qsort(seconds, RUNS, sizeof seconds[0], by_value);
    const double median = seconds[RUNS / 2];
    const double flops = case_flops(c);
    const double bytes = case_bytes(&net.graph, &net.graph.nodes[net.node]);
    printf("{\"bench\": \"op\", \"op\": \"%s\", \"case\": \"%s\", \"precision\": \"%s\", \"us\": "
           "%.1f, \"us_p10\": %.1f, "
           "\"us_p90\": %.1f, ",
           op_name(c->op), c->name, dtype_name(limits->act), median * 1e6, seconds[RUNS / 10] * 1e6,
           seconds[RUNS * 9 / 10] * 1e6);
    if (flops > 0) {
        printf("\"gflop_per_s\": %.0f, \"share\": %.3f}\n", flops / median / 1e9,
               flops / median / 1e9 / limits->peak.gflop_per_s);
    } else {
        printf("\"gb_per_s\": %.1f, \"share\": %.3f}\n", bytes / median / 1e9,
               bytes / median / 1e9 / limits->read_gb_per_s);
    }
    fflush(stdout);
    if (sink == 1) { /* never: the sum must be used */
        printf("\n");
    }
    rig_close(&rig);
    case_free(&net);
}

static const char *value_of(int argc, char **argv, const char *option)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], option) == 0) {
            return argv[i + 1];
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const char *threads = value_of(argc, argv, "--threads");
    const char *precision = value_of(argc, argv, "--precision");
    const char *only = value_of(argc, argv, "--only");
    const bool hot = argc > 1 && strcmp(argv[argc - 1], "--hot") == 0;
    Choices choices = {0};
    const BackendOptions options = {.threads = threads ? arg_count("--threads", threads) : 0,
                                    .choices = &choices};
    Limits limits = {0};
    fail(backend_open("cpu", &options, &limits.backend));
    DeviceInfo info;
    limits.backend->info(limits.backend, &info);
    limits.act = precision   ? (strcmp(precision, "fp32") == 0 ? DT_F32 : DT_BF16)
                 : info.bf16 ? DT_BF16
                             : DT_F32;
    limits.peak = peak_measure(limits.act == DT_BF16, info.threads);
    limits.read_gb_per_s = peak_read((size_t)256 << 20, info.threads);
    limits.flush = hot ? NULL : xaligned(FLUSH_BYTES);
    double load = 0;
    (void)getloadavg(&load, 1);
    printf("{\"bench\": \"peak\", \"device\": \"%s\", \"library\": \"%s\", \"threads\": %d, "
           "\"unit\": \"%s\", "
           "\"gflop_per_s\": %.0f, \"read_gb_per_s\": %.1f, \"load\": %.2f}\n",
           info.name, info.library, info.threads, limits.peak.unit, limits.peak.gflop_per_s,
           limits.read_gb_per_s, load);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        if (!only || strstr(CASES[i].name, only) || strstr(op_name(CASES[i].op), only)) {
            time_case(&limits, &CASES[i]);
        }
    }
    free(limits.flush);
    backend_close(limits.backend);
    choices_free(&choices);
    return EXIT_OK;
}
