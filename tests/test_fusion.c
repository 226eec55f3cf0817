/* Fusion as structure: which groups form, how they are wired, what keeps them from forming, what a
 * broken fused graph is refused for. Numbers are compared elsewhere, by running the graphs. */
#include "graph/fusion.h"

#include "base/err.h"
#include "graph_nets.h"
#include "random_graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_valid(const Graph *g)
{
    char *wrong = graph_validate(g);
    if (wrong != NULL) {
        print_error("%s\n", wrong);
    }
    assert_null(wrong);
}

static void assert_refused(const Graph *g, const char *part)
{
    char *wrong = graph_validate(g);
    assert_non_null(wrong);
    if (strstr(wrong, part) == NULL) {
        print_error("expected '%s' in: %s\n", part, wrong);
    }
    assert_non_null(strstr(wrong, part));
    free(wrong);
}

static void training_fusion_of_a_residual_network(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    const int before = g.n_nodes;
    /* Groups: bn_relu stem, a.1, b.1; bn_add_relu a, b; backward the same five. */
    assert_int_equal(net_fuse(&g, NET_FUSE_BASE), 10);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_RELU), 0);
    assert_int_equal(net_count(&g, OP_RELU_BWD), 0);
    assert_int_equal(net_count(&g, OP_ADD), 0);
    assert_int_equal(net_count(&g, OP_CONV), 6);
    assert_int_equal(net_count(&g, OP_BN_APPLY), 6);
    assert_int_equal(net_count(&g, OP_BN_REDUCE), 6);
    assert_int_equal(net_count(&g, OP_BN_DX), 6);
    assert_int_equal(g.n_nodes, before - 5 - 5 - 4);

    const Node *a2 = net_node(&g, "a.bn2");
    assert_true(a2->attr.bn.relu && a2->in[2] == graph_find_tensor(&g, "stem.relu"));
    assert_int_equal(a2->out[0], graph_find_tensor(&g, "a.out"));
    /* Both operands of b's addition are batch norms: the later (the shortcut's) takes the other's
     * result. */
    const Node *b4 = net_node(&g, "b.bn4");
    assert_true(b4->attr.bn.relu && b4->in[2] == graph_find_tensor(&g, "b.bn2"));
    assert_false(net_node(&g, "b.bn2")->attr.bn.relu);

    /* Inside a block: masked in the reduction and in dx, dz never stored. */
    const Node *reduce = net_node(&g, "a.bn1.reduce");
    const Node *dx = net_node(&g, "a.bn1.dx");
    const int a1 = graph_find_tensor(&g, "a.relu1");
    assert_true(reduce->in[5] == a1 && reduce->out[1] == -1 && reduce->in[4] == -1);
    assert_true(dx->in[5] == a1 && dx->in[0] == reduce->in[0]);
    assert_int_equal(g.nodes[g.tensors[dx->in[0]].producer].op, OP_CONV_DGRAD);

    /* End of b: one reduction writes dz from the pool's gradient, the other and both dx read it. */
    const Node *main_reduce = net_node(&g, "b.bn2.reduce");
    const Node *short_reduce = net_node(&g, "b.bn4.reduce");
    const bool shortcut_writes = short_reduce->out[1] >= 0;
    const Node *writer = shortcut_writes ? short_reduce : main_reduce;
    const Node *reader = shortcut_writes ? main_reduce : short_reduce;
    assert_true(writer->out[1] >= 0 && writer->in[5] == graph_find_tensor(&g, "b.out") &&
                writer->in[4] == -1);
    assert_true(reader->in[0] == writer->out[1] && reader->in[5] == -1 && reader->out[1] == -1);
    assert_int_equal(net_node(&g, "b.bn2.dx")->in[0], writer->out[1]);
    assert_int_equal(net_node(&g, "b.bn4.dx")->in[0], writer->out[1]);
    assert_int_equal(net_node(&g, "b.bn4.dx")->in[5], -1);

    /* End of a: the gradients of b's two branches are summed on the way; dz also goes into the
     * shortcut. */
    const Node *end_a = net_node(&g, "a.bn2.reduce");
    assert_true(end_a->in[4] >= 0 && end_a->in[5] == graph_find_tensor(&g, "a.out") &&
                end_a->out[1] >= 0);
    const Node *stem = net_node(&g, "stem.bn1.reduce");
    assert_true(stem->in[0] == end_a->out[1] || stem->in[4] == end_a->out[1]);
    assert_true(stem->in[4] >= 0 && stem->out[1] >= 0);
    graph_free(&g);
    params_free(&params);
}

/* Inside a block: x of the first normalisation feeds the second convolution and its weight gradient
 * directly, whose data gradient masks and sums. */
static void training_forms_of_a_residual_network(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    const int rows = graph_rows_valid(&g);
    /* 10 as above; 2 normalisations into convolutions, 6 statistics, 2 reductions, 3 masks. */
    assert_int_equal(net_fuse(&g, FUSE_ALL), 10 + 2 + 6 + 2 + 3);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_BN_STATS), 0);
    assert_int_equal(net_count(&g, OP_BN_APPLY), 4);
    assert_int_equal(net_count(&g, OP_BN_REDUCE), 4);
    const int x = graph_find_tensor(&g, "a.conv1");
    const int coef = net_node(&g, "a.bn1.coef")->out[0];
    const Node *conv = net_node(&g, "a.conv2");
    assert_true(conv->in[0] == x && conv->in[4] == coef && conv->in[5] == rows);
    assert_true(conv->attr.conv.pre_relu && !conv->attr.conv.relu);
    assert_int_equal(conv->out[1], net_node(&g, "a.bn2.coef")->in[0]);
    const Node *first = net_node(&g, "a.conv1");
    assert_true(first->in[4] == -1 && first->in[5] == rows && !first->attr.conv.pre_relu);
    assert_int_equal(first->out[1], net_node(&g, "a.bn1.running")->in[0]);
    const Node *wgrad = net_node(&g, "a.conv2.wgrad");
    assert_true(wgrad->in[0] == x && wgrad->in[2] == coef && wgrad->in[3] == rows &&
                wgrad->attr.conv.pre_relu);
    const Node *dgrad = net_node(&g, "a.conv2.dgrad");
    assert_true(dgrad->in[2] == x && dgrad->in[3] == coef && dgrad->in[4] == rows);
    assert_int_equal(dgrad->out[1], net_node(&g, "a.bn1.dparam")->in[0]);
    const Node *dx = net_node(&g, "a.bn1.dx");
    assert_true(dx->in[0] == dgrad->out[0] && dx->in[3] == dgrad->out[1] && dx->in[5] == -1 &&
                !dx->attr.bn.remask);
    assert_int_equal(g.tensors[graph_find_tensor(&g, "a.relu1")].producer, -1);

    /* The stem's output is a residual: it is stored, and its mask recomputed; the block's end has
     * bits. */
    assert_true(net_node(&g, "stem.bn1.reduce")->attr.bn.remask);
    const Node *end = net_node(&g, "a.bn2");
    const Tensor *mask = &g.tensors[end->out[1]];
    assert_true(mask->dtype == DT_U8 && mask->n == 4 && mask->h == 8 && mask->c == 1);
    assert_int_equal(net_node(&g, "a.bn2.reduce")->in[6], end->out[1]);
    assert_int_equal(net_node(&g, "a.bn2.reduce")->in[5], -1);

    Graph small = graph_rebatch(&g, 2);
    assert_valid(&small);
    graph_free(&small);
    graph_free(&g);
    params_free(&params);
}

/* What keeps a normalised tensor, or a gradient, in memory. */
static void readers_and_taps_stop_training_forms(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        Params params = {0};
        Graph g = net_basic(&params, BN_TRAIN, true, true);
        const int y = graph_find_tensor(&g, "a.relu1");
        if (what == 0) {
            graph_output(&g, y, NULL);
        } else if (what == 1) {
            const int pooled = graph_avgpool(&g, "side", y, 8, 1, 0);
            graph_output(&g, pooled, NULL);
        } else {
            graph_output(&g, net_node(&g, "a.conv2.dgrad")->out[0], NULL);
        }
        net_fuse(&g, FUSE_ALL);
        assert_valid(&g);
        const bool kept = what < 2;
        assert_int_equal(net_node(&g, "a.bn1") != NULL, kept);
        assert_int_equal(net_node(&g, "a.conv2")->in[4] < 0, kept);
        assert_int_equal(g.tensors[y].producer >= 0, kept);
        assert_int_equal(net_node(&g, "a.conv2.dgrad")->out[1] < 0, !kept);
        assert_true(net_node(&g, "a.conv2")->out[1] >= 0 && net_node(&g, "b.conv2")->in[4] >= 0);
        graph_free(&g);
        params_free(&params);
    }
}

/* A group is all of its nodes: a candidate whose list differs from what stands there now is not
 * applied, nor is a group in which anything was refused applied in part. */
static void candidates_name_their_nodes(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    net_fuse(&g, NET_FUSE_BASE);
    FuseCandidate *candidates = NULL;
    const int count = fusion_candidates(&g, 1u << FUSE_AFFINE_CONV, &candidates);
    assert_int_equal(count, 2);
    for (int i = 0; i < count; i++) {
        const FuseCandidate *c = &candidates[i];
        static const Op ops[5] = {OP_BN_APPLY, OP_CONV, OP_CONV_WGRAD, OP_BN_REDUCE, OP_BN_DX};
        assert_true(c->graph == &g && c->count == 5 && c->nodes[0] == c->node);
        unsigned seen = 0;
        for (int k = 0; k < 5; k++) {
            for (int o = 0; o < 5; o++) {
                seen |= g.nodes[c->nodes[k]].op == ops[o] ? 1u << o : 0u;
            }
            assert_true(k < 2 || c->nodes[k] > c->nodes[k - 1]);
        }
        assert_int_equal(seen, 31);
        const Node *conv = &g.nodes[c->nodes[1]];
        assert_true(fusion_reader(&g, conv->out[0], OP_BN_STATS) >= 0);
    }
    assert_int_equal(fusion_reader(&g, candidates[0].nodes[0], OP_SGD), -1);
    candidates[0].count = 4;
    const bool verdict[2] = {true, false};
    assert_int_equal(fusion_apply(&g, candidates, verdict, count), 0);
    candidates[0].count = 5;
    assert_int_equal(fusion_apply(&g, candidates, verdict, count), 1);
    assert_valid(&g);
    free(candidates);
    graph_free(&g);
    params_free(&params);
}

static int count_sums(const Graph *g, Op op)
{
    int count = 0;
    for (int i = 0; i < g->n_nodes; i++) {
        count += g->nodes[i].op == op && g->nodes[i].out[1] >= 0 ? 1 : 0;
    }
    return count;
}

/* One stage a round, in order, and each on what a refused earlier one leaves. */
static void training_forms_come_in_stages(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    net_fuse(&g, NET_FUSE_BASE);
    static const int formed[] = {2, 6, 2, 3, 0};
    for (int round = 0; round < 5; round++) {
        FuseCandidate *candidates = NULL;
        const int count = fusion_candidates(&g, FUSE_ALL, &candidates);
        bool *verdict = xcalloc((size_t)count + 1, sizeof *verdict);
        for (int i = 0; i < count; i++) {
            verdict[i] = true;
        }
        assert_int_equal(fusion_apply(&g, candidates, verdict, count), formed[round]);
        assert_int_equal(count_sums(&g, OP_CONV), round < 1 ? 0 : 6);
        assert_int_equal(count_sums(&g, OP_CONV_DGRAD), round < 2 ? 0 : 2);
        assert_int_equal(count_sums(&g, OP_BN_APPLY), round < 3 ? 0 : 2);
        free(verdict);
        free(candidates);
    }
    graph_free(&g);
    params_free(&params);

    /* Without prologues y is stored, and its own reduction recomputes the mask all the same. */
    Params other = {0};
    g = net_basic(&other, BN_TRAIN, true, true);
    Graph bits = graph_copy(&g);
    net_fuse(&g, FUSE_ALL & ~(1u << FUSE_AFFINE_CONV));
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_BN_APPLY), 6);
    assert_int_equal(count_sums(&g, OP_CONV), 6);
    assert_int_equal(count_sums(&g, OP_CONV_DGRAD), 2);
    net_fuse(&bits, NET_FUSE_BASE | 1u << FUSE_BIT_MASK);
    assert_valid(&bits);
    assert_true(net_node(&bits, "a.bn1.reduce")->attr.bn.remask);
    assert_true(net_node(&bits, "a.bn1.dx")->attr.bn.remask);
    assert_int_equal(net_node(&bits, "a.bn1")->out[1], -1);
    assert_int_equal(count_sums(&bits, OP_BN_APPLY), 2);
    graph_free(&bits);
    graph_free(&g);
    params_free(&other);
}

static void inference_fusion_of_a_residual_network(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_EVAL, false, false);
    net_fuse(&g, FUSE_ALL);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_FOLD_BN), 6);
    assert_int_equal(net_count(&g, OP_CONV), 6);
    assert_int_equal(g.n_nodes, 6 + 6 + 3); /* and image, pool, linear */
    for (int i = 0; i < g.n_nodes; i++) {
        if (g.nodes[i].op == OP_CONV) {
            assert_int_equal(g.nodes[g.tensors[g.nodes[i].in[1]].producer].op, OP_FOLD_BN);
            assert_true(g.nodes[i].in[2] >= 0);
        }
    }
    const Node *a2 = net_node(&g, "a.conv2");
    assert_true(a2->attr.conv.relu && a2->in[3] == graph_find_tensor(&g, "stem.relu"));
    const Node *b4 = net_node(&g, "b.conv4");
    const Node *b2 = net_node(&g, "b.conv2");
    assert_true(b4->attr.conv.relu && b4->in[3] == b2->out[0] && !b2->attr.conv.relu &&
                b2->in[3] == -1);
    graph_free(&g);
    params_free(&params);
}

static void taps_are_not_hidden(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_EVAL, false, false);
    graph_output(&g, graph_find_tensor(&g, "a.conv1"), NULL); /* stops folding there */
    graph_output(&g, graph_find_tensor(&g, "a.add"),
                 NULL); /* pre-activation feature: stops the ReLU */
    graph_output(&g, graph_find_tensor(&g, "stem.relu"),
                 NULL); /* the end of a group: no hindrance */
    net_fuse(&g, FUSE_ALL);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_FOLD_BN), 5);
    assert_int_equal(net_count(&g, OP_BN_INFER), 1);
    assert_int_equal(net_count(&g, OP_RELU), 1);
    const char *const taps[3] = {"a.conv1", "a.add", "stem.relu"};
    for (int i = 0; i < 3; i++) {
        const Tensor *t = &g.tensors[graph_find_tensor(&g, taps[i])];
        assert_true(t->output && t->producer >= 0);
    }
    assert_true(net_node(&g, "a.conv2")->in[3] >= 0 && !net_node(&g, "a.conv2")->attr.conv.relu);
    graph_free(&g);
    params_free(&params);
}

static void patterns_can_be_refused_and_switched_off(void **state)
{
    (void)state;
    for (int train = 0; train < 2; train++) {
        Params params = {0};
        Graph g = net_basic(&params, train ? BN_TRAIN : BN_EVAL, train, train);
        Graph copy = graph_copy(&g);
        assert_int_equal(net_fuse(&copy, 0), 0);
        FuseCandidate *candidates = NULL;
        const int count = fusion_candidates(&copy, FUSE_ALL, &candidates);
        assert_true(count > 0);
        bool *verdict = xcalloc((size_t)count, sizeof *verdict);
        assert_int_equal(fusion_apply(&copy, candidates, verdict, count), 0);
        assert_int_equal(copy.n_nodes, g.n_nodes);
        assert_memory_equal(copy.nodes, g.nodes, (size_t)g.n_nodes * sizeof g.nodes[0]);
        free(verdict);
        free(candidates);
        graph_free(&copy);
        for (int p = 0; p < FUSE_COUNT; p++) {
            copy = graph_copy(&g);
            net_fuse(&copy, FUSE_ALL & ~(1u << p));
            assert_valid(&copy);
            graph_free(&copy);
            copy = graph_copy(&g);
            net_fuse(&copy, 1u << p);
            assert_valid(&copy);
            graph_free(&copy);
            assert_true(strlen(fuse_name((FusePattern)p)) > 0);
        }
        /* Without the group that sums two gradients a stem is masked twice instead. */
        if (train) {
            copy = graph_copy(&g);
            net_fuse(&copy, 1u << FUSE_BWD_RELU_BN);
            assert_true(net_node(&copy, "stem.bn1.dx")->in[5] ==
                        graph_find_tensor(&g, "stem.relu"));
            graph_free(&copy);
        }
        graph_free(&g);
        params_free(&params);
    }
}

static void random_graphs_stay_valid_under_fusion(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 500; seed++) {
        Params params = {0};
        RandomGraphOptions options = {
            .queues = 2, .backward = seed % 2 == 0, .inference = seed % 4 == 1};
        Graph g = random_graph_make(seed, &params, options);
        assert_valid(&g);
        Graph again = graph_copy(&g);
        net_fuse(&g, FUSE_ALL);
        assert_valid(&g);
        net_fuse(&again, FUSE_ALL);
        assert_int_equal(again.n_nodes, g.n_nodes);
        assert_memory_equal(again.nodes, g.nodes, (size_t)g.n_nodes * sizeof g.nodes[0]);
        graph_free(&again);
        graph_free(&g);
        params_free(&params);
    }
}

static Node *fused_conv(Graph *g)
{
    return (Node *)net_node(g, "a.conv2");
}
static Node *fused_dgrad(Graph *g)
{
    return (Node *)net_node(g, "a.conv2.dgrad");
}
static void break_pre_relu(Graph *g)
{
    ((Node *)net_node(g, "stem.conv1"))->attr.conv.pre_relu = true;
}
static void break_pre_coef(Graph *g)
{
    Node *conv = (Node *)net_node(g, "b.conv2");
    conv->in[4] = net_node(g, "a.bn1.coef")->out[0];
}
static void break_sum_rows(Graph *g)
{
    fused_conv(g)->in[5] = -1;
}
static void break_sum_relu(Graph *g)
{
    fused_conv(g)->attr.conv.relu = true;
}
static void break_rows_alone(Graph *g)
{
    Node *wgrad = (Node *)net_node(g, "a.conv2.wgrad");
    wgrad->in[2] = -1;
    wgrad->attr.conv.pre_relu = false;
}
static void break_dgrad_coef(Graph *g)
{
    fused_dgrad(g)->in[3] = -1;
}
static void break_dgrad_x(Graph *g)
{
    fused_dgrad(g)->in[2] = -1;
}
static void break_two_masks(Graph *g)
{
    ((Node *)net_node(g, "a.bn2.reduce"))->attr.bn.remask = true;
}
static void break_mask_size(Graph *g)
{
    g->tensors[net_node(g, "a.bn2")->out[1]].c = 2;
}
static void break_remask_place(Graph *g)
{
    ((Node *)net_node(g, "stem.bn1"))->attr.bn.remask = true;
}

static void broken_fused_graphs_are_refused(void **state)
{
    (void)state;
    static const struct {
        void (*change)(Graph *);
        const char *part;
    } cases[] = {
        {break_pre_relu, "no coefficients"},   {break_pre_coef, "expected 1x1x1x64"},
        {break_sum_rows, "no rows_valid"},     {break_sum_relu, "beside a bias"},
        {break_rows_alone, "for nothing"},     {break_dgrad_coef, "lacks input 3"},
        {break_dgrad_x, "without its x"},      {break_two_masks, "2 sources"},
        {break_mask_size, "expected 4x8x8x1"}, {break_remask_place, "recomputes a mask"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Params params = {0};
        Graph g = net_basic(&params, BN_TRAIN, true, true);
        net_fuse(&g, FUSE_ALL);
        assert_valid(&g);
        cases[i].change(&g);
        assert_refused(&g, cases[i].part);
        graph_free(&g);
        params_free(&params);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_fusion_of_a_residual_network),
        cmocka_unit_test(training_forms_of_a_residual_network),
        cmocka_unit_test(readers_and_taps_stop_training_forms),
        cmocka_unit_test(candidates_name_their_nodes),
        cmocka_unit_test(training_forms_come_in_stages),
        cmocka_unit_test(inference_fusion_of_a_residual_network),
        cmocka_unit_test(taps_are_not_hidden),
        cmocka_unit_test(patterns_can_be_refused_and_switched_off),
        cmocka_unit_test(random_graphs_stay_valid_under_fusion),
        cmocka_unit_test(broken_fused_graphs_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
