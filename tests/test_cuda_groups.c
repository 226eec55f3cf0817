/* The training groups on the cuda backend, on and off. With fewer valid rows than the graph has a group runs as its parts
 * and leaves the very bits that the unfused nodes leave. With all rows valid it runs as one plan. Then sums are of the same
 * stored values in another order: within SUMS_LIMIT of each tensor's largest value (of any gradient's, for gradients). An
 * affine input besides has scale and shift in fp16: an activation within 2^-11 of zero may change its sign, and with it one
 * of the 64 to 256 pixels that a gradient adds up: AFFINE_LIMIT. (With fp32 scale and shift in the emulation these nets
 * stay within SUMS_LIMIT too: nothing else differs.)
 *
 * Skipped where there is no cuda backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec_snapshot.h"
#include "graph_nets.h"

#define SUMS_LIMIT 1e-5
#define AFFINE_LIMIT 0.1

enum {
    AFFINE = 1 << FUSE_AFFINE_CONV,
    GROUPS = AFFINE | 1 << FUSE_CONV_STATS | 1 << FUSE_DGRAD_BN
};

static Backend *open_cuda(void)
{
    Backend *backend = NULL;
    Err *err = backend_open("cuda", &(BackendOptions){.deterministic = true}, &backend);
    if (err) {
        print_message("skipped: %s\n", err->message);
        err_free(err);
        skip();
    }
    return backend;
}

/* Groups that the backend formed. */
static int count_groups(Backend *backend, const Graph *g, const ExecOptions *options)
{
    Exec *exec = NULL;
    int count = 0;
    Err *err = exec_open(backend, g, options, &exec);
    if (err) {
        fail_msg("%s", err->message);
    }
    const Graph *fused = exec_graph(exec);
    for (int i = 0; i < fused->n_nodes; i++) {
        const Node *node = &fused->nodes[i];
        count += node->op == OP_CONV && (node->in[4] >= 0 || node->out[1] >= 0);
        count += node->op == OP_CONV_DGRAD && node->out[1] >= 0;
        count += node->op == OP_CONV_WGRAD && node->in[2] >= 0;
    }
    exec_close(exec);
    return count;
}

static double on_against_off(Backend *backend, const Graph *g, int rows, unsigned without,
                             char where[NAME_MAX_LEN])
{
    const ExecOptions on = {.poison = true, .check_plan = true, .fusion_off = without};
    const ExecOptions off = {.poison = true, .check_plan = true, .fusion_off = GROUPS};
    Snapshot *want = snapshot_run(backend, g, &off, rows, 3, NULL, NULL);
    Snapshot *got = snapshot_run(backend, g, &on, rows, 3, NULL, NULL);
    const char *name = NULL;
    const double difference = snapshot_difference(got, want, rows, &name);
    (void)snprintf(where, NAME_MAX_LEN, "%s", name && difference > 0 ? name : "equal");
    snapshot_free(want);
    snapshot_free(got);
    return difference;
}

/* Like the small networks of graph_nets.h, with channels that groups want: multiples of 8. `bottleneck` also has 1x1. */
static Graph net_of_eights(Params *params, DType type, bool bottleneck)
{
    Graph g;
    graph_init(&g, params, 4, type);
    Net net = {.params = params, .g = &g, .bn = BN_TRAIN, .trainable = true};
    int x = graph_input(&g, "x", type, 4, 8, 8, 8, true);
    x = graph_relu(&g, "stem.relu", net_conv_bn(&net, "stem", 1, x, 8, 3, 1));
    x = net_block(&net, "a", x, 8, bottleneck ? 16 : 8, 1);
    x = net_block(&net, "b", x, 16, bottleneck ? 32 : 16, 2);
    net_head(&net, x, 7, true);
    return g;
}

static int check_net(Backend *backend, const Graph *g, const char *name)
{
    char sums_where[NAME_MAX_LEN];
    char where[NAME_MAX_LEN];
    const int formed = count_groups(backend, g, &(ExecOptions){.check_plan = true});
    const double some = on_against_off(backend, g, g->batch - 1, 0, where);
    if (some != 0) {
        fail_msg("%s: '%s' differs by %.3g with fewer rows", name, where, some);
    }
    const double sums = on_against_off(backend, g, g->batch, AFFINE, sums_where);
    const double all = on_against_off(backend, g, g->batch, 0, where);
    print_message("%s %s: %d groups; on against off: %.2g (%s), with affine input %.2g (%s)\n",
                  dtype_name(g->act), name, formed, sums, sums_where, all, where);
    assert_true(sums <= SUMS_LIMIT);
    assert_true(all <= AFFINE_LIMIT);
    return formed;
}

static void check_type(DType type, bool groups_wanted)
{
    Backend *backend = open_cuda();
    for (int kind = 0; kind <= NET_KINDS + 1; kind++) {
        Params params = {0};
        const bool eights = kind >= NET_KINDS;
        Graph g = eights ? net_of_eights(&params, type, kind > NET_KINDS)
                         : net_small((NetKind)kind, &params, type);
        const int formed =
            check_net(backend, &g, eights ? "channels of eight" : net_kind_name((NetKind)kind));
        assert_true(!eights || !groups_wanted || formed > 0);
        graph_free(&g);
        params_free(&params);
    }
    backend_close(backend);
}

static void test_fp16(void **state)
{
    (void)state;
    check_type(DT_F16, !getenv("CUDISTILL_EMU_REFUSE"));
}

static void test_bf16(void **state)
{
    (void)state;
    check_type(DT_BF16, false);
}

static void test_fp32(void **state)
{
    (void)state;
    check_type(DT_F32, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fp16), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_fp32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
