/* Gradient buckets on real networks and random graphs. What a bucket claims is checked against the nodes themselves: every
 * node that writes a gradient of the slice must come at or before the bucket's step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "graph/buckets.h"
#include "graph_nets.h"
#include "models/models.h"
#include "random_graph.h"

#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20 };

/* ---- The check ---- */

/* The last step that writes into elements [first, first + count) of ARENA_GRAD, from the nodes alone; -1 = none. */
static int last_writer(const Graph *g, const Plan *plan, size_t first, size_t count)
{
    int last = -1;
    for (int s = 0; s < plan->n_steps; s++) {
        const Node *node = &g->nodes[plan->steps[s].node];
        for (int o = 0; o < node->n_out; o++) {
            const Tensor *t = node->out[o] >= 0 ? &g->tensors[node->out[o]] : NULL;
            if (!t || t->kind != TENSOR_GRAD) {
                continue;
            }
            const Param *p = &g->params->items[t->param];
            const bool apart = p->offset + p->count <= first || p->offset >= first + count;
            last = apart ? last : s;
        }
    }
    return last;
}

/* What is wrong with a table, or NULL. */
static const char *fault(const Graph *g, const Plan *plan, const Bucket *buckets, int count)
{
    const size_t elems = g->params->arena_elems[ARENA_WEIGHT];
    char *covered = calloc(elems + 1, 1);
    const char *wrong = NULL;
    for (int b = 0; b < count; b++) {
        if (b > 0 && buckets[b].ready_step < buckets[b - 1].ready_step) {
            wrong = "steps do not ascend";
        }
        if (buckets[b].count == 0 || buckets[b].first + buckets[b].count > elems) {
            free(covered);
            return "a bucket is empty or outside the arena";
        }
        for (size_t i = 0; i < buckets[b].count; i++) {
            wrong = covered[buckets[b].first + i]++ ? "two buckets overlap" : wrong;
        }
        const int last = last_writer(g, plan, buckets[b].first, buckets[b].count);
        if (buckets[b].ready_step < last) {
            wrong = "a gradient is written after the bucket's step";
        } else if (buckets[b].ready_step > last) {
            wrong = "a bucket is later than it need be";
        }
    }
    for (size_t i = 0; i < elems; i++) {
        wrong = covered[i] ? wrong : "an element is in no bucket";
    }
    free(covered);
    return wrong;
}

static int expect_sound(const Graph *g, const Plan *plan, const BucketOptions *options,
                        Bucket **out)
{
    const int count = buckets_build(g, plan, options, out);
    const char *wrong = fault(g, plan, *out, count);
    if (wrong) {
        fail_msg("%d buckets: %s", count, wrong);
    }
    return count;
}

/* ---- Networks ---- */

static int add_network(Graph *g, Params *params, const char *model, const char *prefix, int images)
{
    ModelBuild build = {.params = params,
                        .graph = g,
                        .prefix = prefix,
                        .trainable = true,
                        .bn = BN_TRAIN,
                        .classes = 100,
                        .images = images,
                        .x = -1,
                        .std = {1, 1, 1},
                        .stem_channels = 3};
    Err *err = model_build(model, &build);
    if (err) {
        fail_msg("%s", err->message);
    }
    return build.logits;
}

static void add_loss(Graph *g, const char *name, int logits, int labels)
{
    const DistillSpec spec = {.ce_weight = {.source = SOURCE_CONST, .value = 1},
                              .energy_temperature = 1};
    int in[DISTILL_IN_COUNT];
    memset(in, 0xFF, sizeof in);
    in[DISTILL_IN_Z] = logits;
    in[DISTILL_IN_LABELS] = labels;
    graph_distill(g, name, &spec, in);
}

/* A training graph of one or two networks. */
static Graph training_graph(Params *params, const char *first, const char *second, int size)
{
    const int batch = 2;
    Graph g;
    graph_init(&g, params, batch, DT_F32);
    const int images = graph_input(&g, "images", DT_U8, batch, size, size, 3, true);
    const int labels = graph_input(&g, "labels", DT_I32, batch, 1, 1, 1, true);
    const int logits = add_network(&g, params, first, "student.", images);
    const int others = second ? add_network(&g, params, second, "peer.", images) : -1;
    add_loss(&g, "loss", logits, labels);
    if (second) {
        add_loss(&g, "peer loss", others, labels);
    }
    params_finish(params);
    Err *err = graph_backward_losses(&g);
    assert_null(err);
    return g;
}

static size_t largest_param(const Params *params)
{
    size_t most = 0;
    for (int p = 0; p < params->count; p++) {
        most = params->items[p].count > most ? params->items[p].count : most;
    }
    return most * sizeof(float);
}

static void test_resnet50(void **state)
{
    (void)state;
    for (int fused = 0; fused < 2; fused++) {
        Params params = {0};
        Graph g = training_graph(&params, "resnet50", NULL, 224);
        if (fused) {
            net_fuse(&g, FUSE_ALL);
        }
        Plan *plan = plan_build(&g, NULL);
        Bucket *buckets = NULL;
        const int count = expect_sound(&g, plan, NULL, &buckets);
        const size_t most = largest_param(&params);
        for (int b = 0; b < count; b++) {
            const size_t bytes = buckets[b].count * sizeof(float);
            printf("resnet50 %s: bucket %d of %.2f MiB after step %d of %d\n",
                   fused ? "fused" : "plain", b, (double)bytes / MIB, buckets[b].ready_step,
                   plan->n_steps);
            assert_true(bytes < 25 * (size_t)MIB + most);
            assert_true(b == 0 || b >= count - 2 || bytes >= 25 * (size_t)MIB);
        }
        assert_true(count >= 4 && count <= 6);
        assert_true(buckets[0].count * sizeof(float) < MIB + most);
        assert_true(buckets[count - 1].count * sizeof(float) <= MIB);
        /* The first leaves early in backward, the last is complete with backward's end. */
        int backward = 0;
        while (!g.nodes[plan->steps[backward].node].backward) {
            backward++;
        }
        const int length = plan->n_steps - backward;
        assert_true(buckets[0].ready_step < backward + length / 10);
        assert_true(buckets[count - 1].ready_step >= plan->n_steps - 3);
        free(buckets);
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
}

static void test_small_networks(void **state)
{
    (void)state;
    static const char *const models[] = {"resnet20", "vgg8", "wrn_16_2"};
    static const BucketOptions sizes[] = {{0}, {1 << 12, 1 << 16}, {1, 1}, {1 << 30, 1 << 30}};
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        Params params = {0};
        Graph g = training_graph(&params, models[m], NULL, 32);
        Plan *plan = plan_build(&g, NULL);
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            Bucket *buckets = NULL;
            const int count = expect_sound(&g, plan, &sizes[s], &buckets);
            int trainable = 0;
            for (int p = 0; p < params.count; p++) {
                trainable += params.items[p].arena == ARENA_WEIGHT;
            }
            assert_true(sizes[s].bytes != 1 || count == trainable);
            assert_true(sizes[s].bytes != 1 << 30 || count == 1);
            free(buckets);
        }
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
}

/* Two networks in one step. Where the one that lies first in the arena is the last to finish, no bucket holds parameters of
 * both: the first to finish need not wait for the other. */
static void check_two_networks(bool swapped)
{
    Params params = {0};
    if (swapped) {
        add_network(NULL, &params, "resnet20", "peer.", -1);
    }
    Graph g = training_graph(&params, "vgg8", "resnet20", 32);
    Plan *plan = plan_build(&g, NULL);
    Bucket *buckets = NULL;
    const int count = expect_sound(&g, plan, NULL, &buckets);
    size_t second = SIZE_MAX; /* where the network that was registered first begins */
    for (int p = 0; p < params.count; p++) {
        const Param *param = &params.items[p];
        const char *prefix = swapped ? "peer." : "student.";
        if (param->arena == ARENA_WEIGHT && strncmp(param->name, prefix, strlen(prefix)) == 0) {
            second = param->offset < second ? param->offset : second;
        }
    }
    int mixed = 0;
    for (int b = 0; b < count; b++) {
        mixed += buckets[b].first < second && buckets[b].first + buckets[b].count > second;
    }
    assert_true(count >= 3);
    assert_true(mixed == 0 || !swapped);
    assert_true(!swapped || buckets[0].first == second);
    free(buckets);
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

static void test_two_networks(void **state)
{
    (void)state;
    check_two_networks(false);
    check_two_networks(true);
}

static void test_random_graphs(void **state)
{
    (void)state;
    int buckets_seen = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        Params params = {0};
        const RandomGraphOptions options = {
            .act = DT_F32, .backward = true, .queues = 1 + (int)(seed % 3)};
        Graph g = random_graph_make(seed, &params, options);
        if (seed % 2 == 0) {
            net_fuse(&g, FUSE_ALL);
        }
        Plan *plan = plan_build(&g, NULL);
        const BucketOptions sizes = {256 << seed % 3, 512 << seed % 4};
        Bucket *buckets = NULL;
        buckets_seen += expect_sound(&g, plan, &sizes, &buckets);
        free(buckets);
        plan_free(plan);
        graph_free(&g);
        params_free(&params);
    }
    assert_true(buckets_seen > 200);
}

/* Trainable parameters that the graph does not use: their slice is covered, alone it has no step, and it holds nobody up. */
static void test_unused_parameters(void **state)
{
    (void)state;
    Params params = {0};
    const int unused[2] = {64, 64};
    params_add(&params, "before.weight", ROLE_LINEAR_WEIGHT, 2, unused, true, INIT_ZERO, 0);
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    Plan *plan = plan_build(&g, NULL);
    Bucket *buckets = NULL;
    const int count = expect_sound(&g, plan, &(BucketOptions){1, 1}, &buckets);
    int without = 0;
    for (int b = 0; b < count; b++) {
        without += buckets[b].ready_step < 0;
    }
    assert_int_equal(without, 1);
    assert_int_equal(buckets[0].ready_step, -1);
    assert_int_equal(buckets[0].count, 64 * 64);
    free(buckets);
    expect_sound(&g, plan, &(BucketOptions){1 << 20, 1 << 20}, &buckets);
    assert_true(buckets[0].ready_step > 0);
    free(buckets);
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

static void test_nothing_trained(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_EVAL, false, false);
    Plan *plan = plan_build(&g, NULL);
    Bucket *buckets = NULL;
    assert_int_equal(buckets_build(&g, plan, NULL, &buckets), 0);
    assert_non_null(buckets);
    free(buckets);
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

/* The check itself notices each kind of fault. */
static void test_faults_are_noticed(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    Plan *plan = plan_build(&g, NULL);
    const BucketOptions sizes = {1 << 10, 1 << 11};
    Bucket *b = NULL;
    const int count = expect_sound(&g, plan, &sizes, &b);
    assert_true(count >= 4);
    for (int i = 0; i < count; i++) {
        const Bucket kept = b[i];
        b[i].ready_step--;
        assert_non_null(fault(&g, plan, b, count));
        b[i] = kept;
        b[i].count--;
        assert_non_null(fault(&g, plan, b, count));
        b[i] = kept;
    }
    assert_null(fault(&g, plan, b, count));
    free(b);
    plan_free(plan);
    graph_free(&g);
    params_free(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resnet50),           cmocka_unit_test(test_small_networks),
        cmocka_unit_test(test_two_networks),       cmocka_unit_test(test_random_graphs),
        cmocka_unit_test(test_unused_parameters),  cmocka_unit_test(test_nothing_trained),
        cmocka_unit_test(test_faults_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
