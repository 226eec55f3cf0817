/* The fused forms of a training step on ref, which defines them as their parts with the parts'
 * roundings: with every subset of them a network leaves the very bits behind that it leaves without
 * them, in every type, with all rows valid and with fewer, whatever memory held before. So nothing
 * here has a tolerance. Also the group each network family gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec_snapshot.h"
#include "graph_nets.h"

static const FusePattern PATTERNS[] = {FUSE_AFFINE_CONV, FUSE_CONV_STATS, FUSE_DGRAD_BN,
                                       FUSE_BIT_MASK};
enum { SUBSETS = 16 };

static unsigned subset_mask(int subset)
{
    unsigned mask = 0;
    for (int i = 0; i < 4; i++) {
        mask |= (unsigned)(subset >> i & 1) << PATTERNS[i];
    }
    return mask;
}

/* Everything but the training forms outside `subset`. */
static ExecOptions options_of(int subset)
{
    return (ExecOptions){.fusion_off = subset_mask(SUBSETS - 1) & ~subset_mask(subset),
                         .poison = true,
                         .check_plan = true};
}

static Backend *open_ref(void)
{
    Backend *backend = NULL;
    Err *err = backend_open("ref", NULL, &backend);
    if (err) {
        fail_msg("%s", err->message);
    }
    return backend;
}

static void expect_same(Backend *ref, const Graph *g, const Snapshot *want, int subset, int rows,
                        uint64_t seed, const char *what)
{
    const ExecOptions options = options_of(subset);
    Snapshot *got = snapshot_run(ref, g, &options, rows, seed, NULL, NULL);
    const char *where = NULL;
    const double difference = snapshot_difference(got, want, rows, &where);
    if (difference != 0) {
        fail_msg("%s, %s, seed %llu, %d rows, forms %#x: '%s' differs by %.3g", what,
                 dtype_name(g->act), (unsigned long long)seed, rows, subset_mask(subset), where,
                 difference);
    }
    snapshot_free(got);
}

static void families_keep_every_bit(void **state)
{
    (void)state;
    static const DType types[] = {DT_F64, DT_F32, DT_BF16, DT_F16};
    Backend *ref = open_ref();
    for (int kind = 0; kind < NET_KINDS; kind++) {
        for (int t = 0; t < 4; t++) {
            Params params = {0};
            Graph g = net_small((NetKind)kind, &params, types[t]);
            for (int rows = g.batch - 1; rows <= g.batch; rows++) {
                const ExecOptions none = options_of(0);
                Snapshot *want = snapshot_run(ref, &g, &none, rows, 3, NULL, NULL);
                for (int subset = 1; subset < SUBSETS; subset++) {
                    expect_same(ref, &g, want, subset, rows, 3, net_kind_name((NetKind)kind));
                }
                snapshot_free(want);
            }
            graph_free(&g);
            params_free(&params);
        }
    }
    backend_close(ref);
}

static void random_graphs_keep_every_bit(void **state)
{
    (void)state;
    static const DType types[] = {DT_F64, DT_F32, DT_BF16, DT_F16};
    Backend *ref = open_ref();
    for (uint64_t seed = 1; seed <= 60; seed++) {
        Params params = {0};
        const RandomGraphOptions options = {.act = types[seed % 4],
                                            .queues = (int)(seed % 3) + 1,
                                            .backward = true,
                                            .sgd = seed % 5 == 0,
                                            .loss_scale = seed % 2 == 0};
        Graph g = random_graph_make(seed, &params, options);
        const int rows = seed % 2 == 0 ? g.batch : g.batch - 1;
        const ExecOptions none = options_of(0);
        Snapshot *want = snapshot_run(ref, &g, &none, rows, seed, NULL, NULL);
        expect_same(ref, &g, want, SUBSETS - 1, rows, seed, "random graph");
        expect_same(ref, &g, want, 1 + (int)(seed % (SUBSETS - 2)), rows, seed, "random graph");
        snapshot_free(want);
        graph_free(&g);
        params_free(&params);
    }
    backend_close(ref);
}

/* Takes half of the training groups, as a library that knows some shapes and not others. */
static void fuse_half(Graph *g, uint32_t draw)
{
    Rng rng = rng_make(9, draw, 0, RNG_TEST);
    for (int round = 0; round < 16; round++) {
        FuseCandidate *candidates = NULL;
        const int count = fusion_candidates(g, FUSE_ALL, &candidates);
        bool *verdict = xcalloc((size_t)count + 1, sizeof *verdict);
        for (int i = 0; i < count; i++) {
            const bool train = (subset_mask(SUBSETS - 1) >> candidates[i].pattern & 1u) != 0;
            verdict[i] = !train || rng_below(&rng, 2) == 0;
        }
        fusion_apply(g, candidates, verdict, count);
        free(verdict);
        free(candidates);
    }
}

static void refusals_keep_every_bit(void **state)
{
    (void)state;
    Backend *ref = open_ref();
    const ExecOptions none = options_of(0);
    const ExecOptions as_is = {.fusion_off = FUSE_ALL, .poison = true, .check_plan = true};
    for (int kind = 0; kind < NET_KINDS; kind++) {
        Params params = {0};
        Graph g = net_small((NetKind)kind, &params, DT_BF16);
        Snapshot *want = snapshot_run(ref, &g, &none, 3, 5, NULL, NULL);
        for (uint32_t draw = 0; draw < 8; draw++) {
            Graph fused = graph_copy(&g);
            fuse_half(&fused, draw);
            Snapshot *got = snapshot_run(ref, &fused, &as_is, 3, 5, NULL, NULL);
            const char *where = NULL;
            const double difference = snapshot_difference(got, want, 3, &where);
            if (difference != 0) {
                fail_msg("%s, draw %u: '%s' differs by %.3g", net_kind_name((NetKind)kind), draw,
                         where, difference);
            }
            snapshot_free(got);
            graph_free(&fused);
        }
        snapshot_free(want);
        graph_free(&g);
        params_free(&params);
    }
    backend_close(ref);
}

/* --- what forms where --- */

typedef struct {
    int affine_conv, affine_wgrad, conv_sums, dgrad_sums, bits, remask, apply;
} Forms;

static Forms count_forms(const Graph *g)
{
    Forms f = {0};
    for (int i = 0; i < g->n_nodes; i++) {
        const Node *node = &g->nodes[i];
        f.affine_conv += node->op == OP_CONV && node->in[4] >= 0;
        f.affine_wgrad += node->op == OP_CONV_WGRAD && node->in[2] >= 0;
        f.conv_sums += node->op == OP_CONV && node->out[1] >= 0;
        f.dgrad_sums += node->op == OP_CONV_DGRAD && node->out[1] >= 0;
        f.bits += node->op == OP_BN_APPLY && node->out[1] >= 0;
        f.remask += (node->op == OP_BN_REDUCE || node->op == OP_BN_DX) && node->attr.bn.remask;
        f.apply += node->op == OP_BN_APPLY;
    }
    return f;
}

static void expect_forms(const Graph *g, const char *what, Forms want)
{
    const Forms got = count_forms(g);
    if (memcmp(&got, &want, sizeof got) != 0) {
        fail_msg("%s: affine conv %d, wgrad %d; conv sums %d; dgrad sums %d; bits %d; remask %d; "
                 "bn_apply %d",
                 what, got.affine_conv, got.affine_wgrad, got.conv_sums, got.dgrad_sums, got.bits,
                 got.remask, got.apply);
    }
}

static void families_get_their_forms(void **state)
{
    (void)state;
    static const Forms want[NET_KINDS] = {
        /* Inside a block the first normalisation vanishes; block ends have a residual and bits; the
         * stem's output is a residual too. */
        [NET_RESNET] = {.affine_conv = 3,
                        .affine_wgrad = 3,
                        .conv_sums = 8,
                        .dgrad_sums = 3,
                        .bits = 3,
                        .remask = 1,
                        .apply = 5},
        /* Two normalisations in each block; the stem's output is pooled. */
        [NET_BOTTLENECK] = {.affine_conv = 6,
                            .affine_wgrad = 6,
                            .conv_sums = 12,
                            .dgrad_sums = 6,
                            .bits = 3,
                            .remask = 2,
                            .apply = 6},
        /* All but the last normalisation vanish, two of them into a convolution and a shortcut,
         * whose gradients are added before the reduction; sums of an addition have no epilogue. */
        [NET_PREACT] = {.affine_conv = 8,
                        .affine_wgrad = 8,
                        .conv_sums = 4,
                        .dgrad_sums = 4,
                        .remask = 4,
                        .apply = 1},
        /* Half of the normalisations feed a pool. */
        [NET_VGG] = {.affine_conv = 2,
                     .affine_wgrad = 2,
                     .conv_sums = 4,
                     .dgrad_sums = 2,
                     .remask = 4,
                     .apply = 2},
        /* One of them has no ReLU: no mask, so no reduction behind its data gradient. */
        [NET_MOBILE] = {.affine_conv = 5,
                        .affine_wgrad = 5,
                        .conv_sums = 8,
                        .dgrad_sums = 4,
                        .remask = 3,
                        .apply = 3},
    };
    for (int kind = 0; kind < NET_KINDS; kind++) {
        Params params = {0};
        Graph g = net_small((NetKind)kind, &params, DT_BF16);
        net_fuse(&g, FUSE_ALL);
        assert_null(graph_validate(&g));
        expect_forms(&g, net_kind_name((NetKind)kind), want[kind]);
        graph_free(&g);
        params_free(&params);
    }
}

/* oneDNN has no such prologues and epilogues: the graph is the one of the other patterns alone. */
static void cpu_keeps_its_own_forms(void **state)
{
    (void)state;
    Backend *cpu = NULL;
    Err *err = backend_open("cpu", NULL, &cpu);
    if (err) {
        fail_msg("%s", err->message);
    }
    for (int kind = 0; kind < NET_KINDS; kind++) {
        Params params = {0};
        Graph g = net_small((NetKind)kind, &params, DT_F32);
        Rig rig;
        assert_null(rig_open(&rig, cpu, &g, &(ExecOptions){.check_plan = true}));
        net_fuse(&g, NET_FUSE_BASE);
        const Graph *got = exec_graph(rig.exec);
        assert_int_equal(got->n_nodes, g.n_nodes);
        const Forms forms = count_forms(got);
        assert_int_equal(forms.apply, net_count(&g, OP_BN_APPLY));
        expect_forms(got, net_kind_name((NetKind)kind), (Forms){.apply = forms.apply});
        rig_close(&rig);
        graph_free(&g);
        params_free(&params);
    }
    backend_close(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_keep_every_bit), cmocka_unit_test(random_graphs_keep_every_bit),
        cmocka_unit_test(refusals_keep_every_bit), cmocka_unit_test(families_get_their_forms),
        cmocka_unit_test(cpu_keeps_its_own_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
