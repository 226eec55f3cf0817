/* Parameters, builders, validation and gradient as structure: counts of nodes, wiring, refusals.
 * Numbers are compared elsewhere, by running the graphs. */
#include "graph/graph.h"

#include "base/err.h"
#include "graph/gradient.h"
#include "graph_nets.h"
#include "random_graph.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void assert_valid(const Graph *g)
{
    char *wrong = graph_validate(g);
    if (wrong != NULL) {
        print_error("%s\n", wrong);
    }
    assert_null(wrong);
}

/* A bug ends the process with EXIT_INTERNAL: tried in a child with its stderr closed. */
static void assert_ends_process(void (*bug)(void))
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(STDERR_FILENO);
        bug();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_INTERNAL);
}

/* --- parameters --- */

static void element_types(void **state)
{
    (void)state;
    assert_int_equal(dtype_size(DT_BF16), 2);
    assert_int_equal(dtype_size(DT_F64), 8);
    assert_string_equal(dtype_name(DT_U8), "u8");
    volatile float one = 1.0f;
    assert_true(one + (float)dtype_eps(DT_F32) > one && one + (float)dtype_eps(DT_F32) / 2 == one);
    assert_true(dtype_eps(DT_I32) == 0.0);
}

static void parameters_lie_in_reverse_order(void **state)
{
    (void)state;
    Params params = {0};
    const int conv[4] = {5, 3, 3, 3};
    const int five[1] = {5};
    params_add(&params, "s.conv.weight", ROLE_CONV_WEIGHT, 4, conv, true, INIT_NORMAL, 1.0);
    params_add(&params, "s.bn.weight", ROLE_BN_WEIGHT, 1, five, true, INIT_ONE, 0.0);
    params_add(&params, "s.bn.running_mean", ROLE_RUNNING_MEAN, 1, five, true, INIT_ZERO, 0.0);
    params_add(&params, "t.conv.weight", ROLE_CONV_WEIGHT, 4, conv, false, INIT_NORMAL, 1.0);
    params_finish(&params);
    assert_int_equal(params.items[0].count, 135);
    assert_int_equal(params.items[1].offset, 0);
    assert_int_equal(params.items[0].offset, 16);
    assert_int_equal(params.arena_elems[ARENA_WEIGHT], 16 + 144);
    assert_int_equal(params.items[2].arena, ARENA_STATE);
    assert_false(params.items[2].trainable);
    assert_int_equal(params.items[3].arena, ARENA_FROZEN);
    assert_int_equal(params_find(&params, "t.conv.weight"), 3);
    assert_int_equal(params_find(&params, "conv.weight"), -1);
    assert_int_equal(params_count(&params, "s."), 140);
    assert_int_equal(params_count(&params, ""), 275);
    params_free(&params);
}

static void add_twice(void)
{
    Params params = {0};
    const int shape[1] = {4};
    params_add(&params, "b", ROLE_BIAS, 1, shape, true, INIT_ZERO, 0.0);
    params_add(&params, "b", ROLE_BIAS, 1, shape, true, INIT_ZERO, 0.0);
}

static void duplicate_parameters_are_a_bug(void **state)
{
    (void)state;
    assert_ends_process(add_twice);
}

/* Values depend on seed and short name alone: not on the prefix, the order or what else there
 * is. */
static void initial_values_follow_the_name(void **state)
{
    (void)state;
    enum { N = 40000 };
    const int shape[2] = {200, 200};
    Params a = {0};
    params_add(&a, "x.w", ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_NORMAL, 0.5);
    params_add(&a, "x.u", ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_UNIFORM, 0.25);
    params_finish(&a);
    Params b = {0};
    params_add(&b, "yy.u", ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_UNIFORM, 0.25);
    params_add(&b, "yy.w", ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_NORMAL, 0.5);
    params_finish(&b);
    float *wa = xcalloc(2 * N, sizeof(float));
    float *wb = xcalloc(2 * N, sizeof(float));
    float *const arena_a[ARENA_COUNT] = {[ARENA_WEIGHT] = wa};
    float *const arena_b[ARENA_COUNT] = {[ARENA_WEIGHT] = wb};
    params_init(&a, "x.", 7, arena_a);
    params_init(&b, "none.", 7, arena_b);
    assert_true(wb[0] == 0.0f && wb[N] == 0.0f);
    params_init(&b, "yy.", 7, arena_b);
    assert_memory_equal(wa + a.items[0].offset, wb + b.items[1].offset, N * sizeof(float));
    assert_memory_equal(wa + a.items[1].offset, wb + b.items[0].offset, N * sizeof(float));
    double sum[2] = {0};
    double square[2] = {0};
    float widest = 0.0f;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 2; k++) {
            const double v = wa[a.items[k].offset + (size_t)i];
            sum[k] += v;
            square[k] += v * v;
        }
        const float u = wa[a.items[1].offset + (size_t)i];
        widest = fabsf(u) > widest ? fabsf(u) : widest;
    }
    /* 5 standard errors: sd / sqrt(N) of the mean, sd / sqrt(2 N) of the deviation of a normal. */
    assert_true(fabs(sum[0] / N) < 5 * 0.5 / sqrt(N));
    assert_true(fabs(sqrt(square[0] / N) - 0.5) < 5 * 0.5 / sqrt(2.0 * N));
    assert_true(fabs(sum[1] / N) < 5 * 0.25 / sqrt(3.0 * N));
    assert_true(fabs(sqrt(square[1] / N) - 0.25 / sqrt(3.0)) < 0.002);
    assert_true(widest <= 0.25f && widest > 0.2499f);
    params_init(&b, "yy.", 8, arena_b);
    assert_memory_not_equal(wa + a.items[0].offset, wb + b.items[1].offset, N * sizeof(float));
    free(wa);
    free(wb);
    params_free(&a);
    params_free(&b);
}

/* --- builders and copies --- */

static void shapes_are_inferred(void **state)
{
    (void)state;
    Params params = {0};
    const int blocks[4] = {3, 4, 6, 3};
    Graph g = net_bottleneck(&params, BN_TRAIN, true, true, blocks, 2, DT_BF16);
    assert_valid(&g);
    assert_int_equal(params_count(&params, ""), 25557032); /* torchvision's resnet50 */
    const Tensor *stem = &g.tensors[graph_find_tensor(&g, "stem.conv1")];
    assert_true(stem->h == 112 && stem->c == 64 && stem->dtype == DT_BF16 && stem->batched);
    assert_int_equal(g.tensors[graph_find_tensor(&g, "maxpool")].h, 56);
    assert_int_equal(g.tensors[graph_find_tensor(&g, "maxpool.index")].dtype, DT_U8);
    const Tensor *last = &g.tensors[graph_find_tensor(&g, "layer4.2.out")];
    assert_true(last->h == 7 && last->c == 2048);
    const Tensor *logits = &g.tensors[graph_find_tensor(&g, "logits")];
    assert_true(logits->dtype == DT_F32 && logits->c == 1000 && logits->output);
    const Tensor *w = &g.tensors[graph_find_tensor(&g, "stem.conv1.weight")];
    assert_true(w->n == 64 && w->h == 7 && w->w == 7 && w->c == 3 && w->dtype == DT_F32);
    assert_int_equal(graph_param(&g, 0), graph_find_tensor(&g, params.items[0].name));
    const int rows_valid = graph_rows_valid(&g);
    assert_int_equal(g.tensors[rows_valid].kind, TENSOR_INPUT);
    assert_int_equal(graph_find_tensor(&g, "rows_valid"), rows_valid);

    Graph copy = graph_copy(&g);
    assert_int_equal(copy.n_nodes, g.n_nodes);
    graph_output(&copy, rows_valid, "renamed");
    assert_int_equal(graph_find_tensor(&g, "rows_valid"), rows_valid);
    graph_free(&copy);

    Graph small = graph_rebatch(&g, 1);
    assert_valid(&small);
    assert_int_equal(small.tensors[graph_find_tensor(&small, "logits")].n, 1);
    assert_int_equal(small.tensors[graph_find_tensor(&small, "fc.weight")].n, 1000);
    graph_free(&small);
    graph_free(&g);
    params_free(&params);
}

static void double_graphs_are_double(void **state)
{
    (void)state;
    Params params = {0};
    RandomGraphOptions options = {.act = DT_F64, .backward = true};
    Graph g = random_graph_make(3, &params, options);
    assert_valid(&g);
    assert_int_equal(g.math, DT_F64);
    for (int t = 0; t < g.n_tensors; t++) {
        const Tensor *x = &g.tensors[t];
        assert_true(x->kind == TENSOR_INPUT || x->dtype == DT_F64 || x->dtype == DT_U8);
    }
    graph_free(&g);
    params_free(&params);
}

static void stages_separate_weights(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_EVAL, false, false);
    net_fuse(&g, FUSE_ALL);
    graph_assign_stages(&g);
    int weights = 0;
    for (int i = 0; i < g.n_nodes; i++) {
        assert_int_equal(g.nodes[i].stage == STAGE_WEIGHTS, g.nodes[i].op == OP_FOLD_BN);
        weights += g.nodes[i].stage == STAGE_WEIGHTS ? 1 : 0;
    }
    assert_int_equal(weights, 6);
    graph_free(&g);
    params_free(&params);
}

/* --- validation --- */

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

static Node *node_of(Graph *g, Op op)
{
    for (int i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op == op) {
            return &g->nodes[i];
        }
    }
    return NULL;
}

static void break_order(Graph *g)
{
    const Node stats = g->nodes[2];
    g->nodes[2] = g->nodes[3]; /* coefficients before their statistics */
    g->nodes[3] = stats;
    g->tensors[g->nodes[2].out[0]].producer = 2;
    g->tensors[g->nodes[3].out[0]].producer = 3;
}
static void break_stride(Graph *g)
{
    node_of(g, OP_CONV)->attr.conv.stride = 0;
}
static void break_shape(Graph *g)
{
    g->tensors[node_of(g, OP_CONV)->out[0]].h++;
}
static void break_batch(Graph *g)
{
    g->tensors[node_of(g, OP_RELU)->out[0]].n++;
}
static void break_dtype(Graph *g)
{
    g->tensors[node_of(g, OP_BN_APPLY)->out[0]].dtype = DT_BF16;
}
static void break_coef(Graph *g)
{
    g->tensors[node_of(g, OP_BN_FINALIZE)->out[0]].c--;
}
static void break_id(Graph *g)
{
    node_of(g, OP_ADD)->in[1] = g->n_tensors;
}
static void break_missing(Graph *g)
{
    node_of(g, OP_ADD)->in[1] = -1;
}
static void break_writer(Graph *g)
{
    Node *last = &g->nodes[g->n_nodes - 1];
    last->out[0] = node_of(g, OP_CONV)->out[0];
}
static void break_input(Graph *g)
{
    g->tensors[node_of(g, OP_RELU)->out[0]].kind = TENSOR_INPUT;
}
static void break_running(Graph *g)
{
    Node *node = node_of(g, OP_BN_RUNNING);
    node->out[0] = node->out[1];
}
static void break_grad_first(Graph *g)
{
    node_of(g, OP_CONV_WGRAD)->accumulate = true;
}
static void break_grad_kind(Graph *g)
{
    Node *node = node_of(g, OP_CONV_WGRAD);
    node->out[0] = node->in[1];
}
static void break_spec(Graph *g)
{
    node_of(g, OP_DISTILL)->attr.distill = 1;
}
static void break_temperature(Graph *g)
{
    g->specs[0].n_terms = 1;
}
static void break_teacher(Graph *g)
{
    g->specs[0].n_terms = 1;
    g->specs[0].terms[0].ts.value = 1.0f;
    g->specs[0].terms[0].tt.value = 1.0f;
}
static void break_labels(Graph *g)
{
    g->tensors[graph_find_tensor(g, "labels")].dtype = DT_F32;
}
static void break_eps(Graph *g)
{
    node_of(g, OP_BN_STATS)->attr.bn.eps = 0.0f;
}
static void break_sums(Graph *g)
{
    node_of(g, OP_BN_DX)->in[3] = -1;
}
static void break_frozen(Graph *g)
{
    ((Param *)&g->params->items[0])->trainable = false;
}
static void break_op(Graph *g)
{
    g->nodes[0].op = OP_COUNT;
}
static void break_slots(Graph *g)
{
    node_of(g, OP_RELU)->n_in = 2;
}

static void broken_graphs_are_refused(void **state)
{
    (void)state;
    static const struct {
        void (*change)(Graph *);
        const char *part;
    } cases[] = {
        {break_order, "before it is written"},
        {break_stride, "stride 0"},
        {break_shape, "expected 4x8x8x8"},
        {break_batch, "in a graph for 4"},
        {break_dtype, "is bf16, expected f32"},
        {break_coef, "expected 1x1x1x32"},
        {break_id, "reads tensor"},
        {break_missing, "lacks input 1"},
        {break_writer, "has a writer already"},
        {break_input, "is written by a node"},
        {break_running, "is not input 1"},
        {break_grad_first, "before it is written"},
        {break_grad_kind, "writes"},
        {break_spec, "specification 1 of 1"},
        {break_temperature, "temperature 0"},
        {break_teacher, "no teacher"},
        {break_labels, "is f32, expected i32"},
        {break_eps, "eps is 0"},
        {break_sums, "lacks input 3"},
        {break_frozen, "not trainable"},
        {break_op, "unknown kind"},
        {break_slots, "at most 1 are known"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Params params = {0};
        Graph g = net_basic(&params, BN_TRAIN, true, true);
        assert_valid(&g);
        cases[i].change(&g);
        assert_refused(&g, cases[i].part);
        graph_free(&g);
        params_free(&params);
    }
}

/* --- nodes of a step around the network --- */

typedef struct {
    Graph g;
    int scale;
} Around;

/* Views of a set of 6 images, a gathered row each, and the loss scale at byte 16. */
static Around around_make(void)
{
    Around a = {0};
    graph_init(&a.g, NULL, 3, DT_F32);
    Graph *g = &a.g;
    const int set = graph_input(g, "set", DT_U8, 6, 4, 5, 3, false);
    const int labels = graph_input(g, "set_labels", DT_I32, 6, 1, 1, 1, false);
    const int order = graph_input(g, "order", DT_I32, 6, 1, 1, 1, false);
    const int cursor = graph_input(g, "cursor", DT_I32, 1, 1, 1, 4, false);
    const int table = graph_input(g, "table", DT_F32, 6, 1, 1, 7, false);
    int out[3];
    graph_views(g, "views", set, labels, order, cursor, (ViewsAttr){.pad = 2, .flip = true}, out);
    graph_output(g, graph_gather(g, "rows", table, out[2]), NULL);
    graph_output(g, out[0], "images");
    const int stats = graph_input(g, "stats", DT_F32, 1, 1, 1, 2, false);
    a.scale = graph_shared(g, "loss_scale", DT_F32, 2, 16);
    graph_node(g, OP_LOSS_SCALE, "scaler", 2, (int[]){stats, a.scale}, 1, &a.scale)
        ->attr.loss_scale = (LossScaleAttr){.growth = 2, .backoff = 0.5F, .interval = 10};
    return a;
}

static void break_shared_place(Graph *g)
{
    g->tensors[graph_find_tensor(g, "loss_scale")].shared = 2;
}
static void break_shared_kind(Graph *g)
{
    g->tensors[graph_find_tensor(g, "loss_scale")].kind = TENSOR_INPUT;
}
static void break_shared_output(Graph *g)
{
    g->tensors[graph_find_tensor(g, "loss_scale")].output = true;
}
static void break_growth(Graph *g)
{
    node_of(g, OP_LOSS_SCALE)->attr.loss_scale.interval = 0;
}
static void break_index(Graph *g)
{
    g->tensors[node_of(g, OP_GATHER)->in[1]].dtype = DT_F32;
}
static void break_table(Graph *g)
{
    g->tensors[node_of(g, OP_GATHER)->out[0]].c = 6;
}
static void break_set(Graph *g)
{
    g->tensors[graph_find_tensor(g, "set_labels")].n = 5;
}
static void break_cursor(Graph *g)
{
    g->tensors[graph_find_tensor(g, "cursor")].c = 3;
}
static void break_pad(Graph *g)
{
    node_of(g, OP_VIEWS)->attr.views.pad = 128;
}

static void nodes_around_the_network_are_checked(void **state)
{
    (void)state;
    static const struct {
        void (*change)(Graph *);
        const char *part;
    } cases[] = {
        {break_shared_place, "at byte 2"}, {break_shared_kind, "writes the input"},
        {break_shared_output, "output"},   {break_growth, "interval 0"},
        {break_index, "expected"},         {break_table, "expected 3x1x1x7"},
        {break_set, "expected 6x1x1x1"},   {break_cursor, "expected 1x1x1x4"},
        {break_pad, "pad is 128"},
    };
    Around a = around_make();
    assert_valid(&a.g);
    assert_int_equal(graph_shared(&a.g, "loss_scale", DT_F32, 2, 16), a.scale);
    assert_int_equal(op_alias_input(OP_LOSS_SCALE, 0), 1);
    Graph small = graph_rebatch(&a.g, 2);
    assert_valid(&small);
    assert_int_equal(small.tensors[graph_find_tensor(&small, "set")].n, 6);
    assert_int_equal(small.tensors[graph_find_tensor(&small, "images")].n, 2);
    graph_free(&small);
    graph_free(&a.g);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Around broken = around_make();
        cases[i].change(&broken.g);
        assert_refused(&broken.g, cases[i].part);
        graph_free(&broken.g);
    }
}

/* --- gradient --- */

static void gradient_of_a_residual_network(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, true);
    assert_valid(&g);
    /* 6 convolutions with batch norm, 5 ReLUs, 2 additions. */
    assert_int_equal(net_count(&g, OP_BN_STATS), 6);
    assert_int_equal(net_count(&g, OP_BN_RUNNING), 6);
    assert_int_equal(net_count(&g, OP_CONV_WGRAD), 6);
    assert_int_equal(net_count(&g, OP_CONV_DGRAD), 5); /* none into the images */
    assert_int_equal(net_count(&g, OP_BN_REDUCE), 6);
    assert_int_equal(net_count(&g, OP_BN_DPARAM), 6);
    assert_int_equal(net_count(&g, OP_BN_DX), 6);
    assert_int_equal(net_count(&g, OP_RELU), 5);
    assert_int_equal(net_count(&g, OP_RELU_BWD), 5);
    assert_int_equal(net_count(&g, OP_ADD), 2 + 2); /* forward; gradients of the two block inputs */
    assert_int_equal(net_count(&g, OP_LINEAR_WGRAD), 1);
    assert_int_equal(net_count(&g, OP_LINEAR_DGRAD), 1);
    assert_int_equal(net_count(&g, OP_BIAS_GRAD), 1);
    assert_int_equal(net_count(&g, OP_AVGPOOL_BWD), 1);
    for (int i = 0; i < params.count; i++) {
        const Param *p = &params.items[i];
        char name[NAME_MAX_LEN + 8];
        (void)snprintf(name, sizeof name, "%s.grad", p->name);
        assert_int_equal(graph_find_tensor(&g, name) >= 0, p->arena == ARENA_WEIGHT);
    }
    for (int i = 0; i < g.n_nodes; i++) {
        assert_false(g.nodes[i].accumulate);
    }
    graph_free(&g);
    params_free(&params);
}

static void frozen_parts_get_no_gradient(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_EVAL, false, true);
    assert_valid(&g);
    for (int i = 0; i < g.n_nodes; i++) {
        assert_false(g.nodes[i].backward);
    }
    graph_free(&g);
    params_free(&params);
    /* Trained behind constant statistics: dx = scale * dz, dgamma and dbeta through the reduction,
     * no sums in dx. */
    Params tuned = {0};
    g = net_basic(&tuned, BN_EVAL, true, true);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_BN_REDUCE), 6);
    assert_int_equal(net_count(&g, OP_BN_INFER), 6);
    for (int i = 0; i < g.n_nodes; i++) {
        if (g.nodes[i].op == OP_BN_DX) {
            assert_true(g.nodes[i].attr.bn.frozen && g.nodes[i].in[3] == -1);
        }
    }
    net_fuse(&g, FUSE_ALL);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_FOLD_BN),
                     0); /* the convolution's result is read by the gradient */
    graph_free(&g);
    params_free(&tuned);
}

static void shared_weights_accumulate(void **state)
{
    (void)state;
    Params params = {0};
    const int shape[4] = {4, 4, 3, 3};
    const int w = params_add(&params, "w", ROLE_CONV_WEIGHT, 4, shape, true, INIT_NORMAL, 0.1);
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, 2, DT_F32);
    const int x = graph_input(&g, "x", DT_F32, 2, 5, 5, 4, true);
    const int dy = graph_input(&g, "dy", DT_F32, 2, 5, 5, 4, true);
    const int a = graph_conv(&g, "a", x, w, -1, 1, 1, 1);
    const int b = graph_conv(&g, "b", a, w, -1, 1, 1, 1);
    const int c = graph_add(&g, "c", b, a);
    const int d = graph_add(&g, "d", c, c);
    int wanted[3] = {-2, -2, -2};
    Err *err = graph_backward(&g, &(GradSeed){d, dy}, 1, (const int[]){x, dy, graph_param(&g, w)},
                              3, wanted);
    assert_null(err);
    assert_valid(&g);
    assert_int_equal(net_count(&g, OP_CONV_WGRAD), 2);
    assert_false(net_node(&g, "b.wgrad")->accumulate);
    assert_true(net_node(&g, "a.wgrad")->accumulate);
    assert_int_equal(net_count(&g, OP_CONV_DGRAD), 2); /* x is wanted */
    assert_true(wanted[0] >= 0 && g.tensors[wanted[0]].output);
    assert_int_equal(wanted[1], -1); /* the seed leads nowhere from itself */
    assert_int_equal(g.tensors[wanted[2]].kind, TENSOR_GRAD);
    /* d = c + c: its gradient arrives twice at c. a: by the addition and through b. */
    assert_int_equal(net_count(&g, OP_ADD), 2 + 2);
    graph_free(&g);
    params_free(&params);
}

static void gradient_refuses_what_it_cannot_pass(void **state)
{
    (void)state;
    Params params = {0};
    Graph g = net_basic(&params, BN_TRAIN, true, false);
    net_fuse(&g, FUSE_ALL);
    const int logits = graph_find_tensor(&g, "logits");
    const int seed = graph_input(&g, "seed", DT_F32, 4, 1, 1, 10, true);
    Err *err = graph_backward(&g, &(GradSeed){logits, seed}, 1, NULL, 0, NULL);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_INTERNAL);
    assert_non_null(strstr(err->message, "b.bn4"));
    err_free(err);
    graph_free(&g);
    params_free(&params);
    /* Images have no gradient. */
    Params other = {0};
    g = net_basic(&other, BN_TRAIN, true, false);
    const int images = graph_find_tensor(&g, "images");
    const int dz = graph_input(&g, "seed", DT_F32, 4, 1, 1, 10, true);
    int wanted = -1;
    err = graph_backward(&g, &(GradSeed){graph_find_tensor(&g, "logits"), dz}, 1, &images, 1,
                         &wanted);
    assert_non_null(err);
    assert_non_null(strstr(err->message, "no gradient rule"));
    err_free(err);
    graph_free(&g);
    params_free(&other);
}

static void gradients_take_the_tensor_type(void **state)
{
    (void)state;
    Params params = {0};
    const int shape[2] = {3, 4};
    const int w = params_add(&params, "w", ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_NORMAL, 0.1);
    params_finish(&params);
    Graph g;
    graph_init(&g, &params, 2, DT_BF16);
    const int x = graph_input(&g, "x", DT_BF16, 2, 1, 1, 4, true);
    const int a = graph_relu(&g, "a", x);
    const int seed_a = graph_input(&g, "da", DT_F32, 2, 1, 1, 4, true); /* a feature loss in fp32 */
    const int y = graph_linear(&g, "y", a, w, -1);
    const int seed_y = graph_input(&g, "dy", DT_F32, 2, 1, 1, 3, true);
    int wanted = -1;
    const GradSeed seeds[2] = {{y, seed_y}, {a, seed_a}};
    assert_null(graph_backward(&g, seeds, 2, &x, 1, &wanted));
    assert_valid(&g);
    assert_int_equal(g.tensors[wanted].dtype, DT_BF16);
    assert_int_equal(net_count(&g, OP_CAST), 1);
    assert_int_equal(g.tensors[net_node(&g, "y.dgrad")->out[0]].dtype, DT_BF16);
    graph_free(&g);
    params_free(&params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(element_types),
        cmocka_unit_test(parameters_lie_in_reverse_order),
        cmocka_unit_test(duplicate_parameters_are_a_bug),
        cmocka_unit_test(initial_values_follow_the_name),
        cmocka_unit_test(shapes_are_inferred),
        cmocka_unit_test(double_graphs_are_double),
        cmocka_unit_test(stages_separate_weights),
        cmocka_unit_test(broken_graphs_are_refused),
        cmocka_unit_test(nodes_around_the_network_are_checked),
        cmocka_unit_test(gradient_of_a_residual_network),
        cmocka_unit_test(frozen_parts_get_no_gradient),
        cmocka_unit_test(shared_weights_accumulate),
        cmocka_unit_test(gradient_refuses_what_it_cannot_pass),
        cmocka_unit_test(gradients_take_the_tensor_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
