/* Gradients against central differences, in double on `ref`: every op with a gradient, and whole
 * small networks (fused and not). The forms of the distillation loss are in test_grad_distill.c.
 *
 * (L(x+h) - L(x-h)) / 2h has an error of h^2 L'''/6 from the formula and eps*|L|/h from
 * rounding; with h = 1e-5 and losses and third derivatives of order 1..10 both are below 1e-9.
 * Asked: 1e-6 of the tensor's largest gradient. Data keep ReLU and pooling away from their kinks
 * (a step of h crosses none with these seeds). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "distill_values.h"
#include "graph/gradient.h"
#include "random_graph.h"
#include "rig.h"

enum { MAX_INPUTS = 4, SAMPLES = 12, CLASSES = 6 };
static const double STEP = 1e-5;
static const double TOLERANCE = 1e-6;

typedef struct {
    Params params;
    Graph g;
    int rows;               /* valid rows; 0 = all */
    int inputs[MAX_INPUTS]; /* tensors whose gradient is wanted */
    int n_inputs;
    int y; /* with a seed: loss = sum of "seed" * "y"; -1: sum of the loss nodes */
    double *seed;
    double used; /* largest error, in tolerances */
} Problem;

/* ---- Building blocks ---- */

static int weight(Problem *p, const char *name, int o, int i, int k)
{
    return params_add(&p->params, name, ROLE_CONV_WEIGHT, 4, (int[]){o, i, k, k}, true, INIT_ZERO,
                      0);
}

static int vector(Problem *p, const char *name, ParamRole role, int count)
{
    return params_add(&p->params, name, role, 1, &count, true, INIT_ZERO, 0);
}

static int bn_params(Problem *p, const char *name, int c)
{
    char part[64];
    static const ParamRole roles[4] = {ROLE_BN_WEIGHT, ROLE_BN_BIAS, ROLE_RUNNING_MEAN,
                                       ROLE_RUNNING_VAR};
    int first = -1;
    for (int i = 0; i < 4; i++) {
        snprintf(part, sizeof part, "%s.%d", name, i);
        const int id = vector(p, part, roles[i], c);
        first = i == 0 ? id : first;
    }
    return first;
}

static int conv(Problem *p, const char *name, int x, int o, int k, int stride)
{
    const int w = weight(p, name, o, p->g.tensors[x].c, k);
    return graph_conv(&p->g, name, x, w, -1, stride, k / 2, 1);
}

static int bn(Problem *p, const char *name, int x, BnMode mode)
{
    return graph_bn(&p->g, name, x, bn_params(p, name, p->g.tensors[x].c), mode, 1e-5F, 0.1F);
}

static int input(Problem *p, const char *name, int h, int w, int c)
{
    const int x = graph_input(&p->g, name, DT_F64, p->g.batch, h, w, c, true);
    p->inputs[p->n_inputs++] = x;
    return x;
}

static int linear(Problem *p, const char *name, int x, int o)
{
    char bias[64];
    snprintf(bias, sizeof bias, "%s.bias", name);
    const int shape[2] = {o, p->g.tensors[x].c};
    const int w = params_add(&p->params, name, ROLE_LINEAR_WEIGHT, 2, shape, true, INIT_ZERO, 0);
    return graph_linear(&p->g, name, x, w, vector(p, bias, ROLE_BIAS, o));
}

static void begin(Problem *p, int batch)
{
    memset(p, 0, sizeof *p);
    graph_init(&p->g, &p->params, batch, DT_F64);
    p->y = -1;
}

/* ---- Checking ---- */

static double *draw_input(const Tensor *t, uint64_t seed)
{
    Rng rng = rng_make(seed, 7, 0, RNG_TEST);
    double *v = xmalloc((tensor_elems(t) + 1) * sizeof *v);
    for (size_t i = 0; i < tensor_elems(t); i++) {
        v[i] = t->dtype == DT_I32 ? (double)rng_below(&rng, CLASSES) : rng_normal(&rng);
        if (t->dtype == DT_F64 && fabs(v[i]) < 0.02) {
            v[i] += v[i] < 0 ? -0.02 : 0.02;
        }
    }
    return v;
}

static double *draw_param(const Param *param, uint64_t seed)
{
    Rng rng = rng_make(seed, 8, 0, RNG_TEST);
    double *v = xmalloc((param->count + 1) * sizeof *v);
    const bool matrix = param->role == ROLE_CONV_WEIGHT || param->role == ROLE_LINEAR_WEIGHT;
    const double fan_in = matrix ? (double)param->count / param->shape[0] : 10;
    for (size_t i = 0; i < param->count; i++) {
        v[i] = sqrt(2 / fan_in) * rng_normal(&rng);
        v[i] = param->role == ROLE_BN_WEIGHT     ? 1 + 0.5 * v[i]
               : param->role == ROLE_RUNNING_VAR ? 0.5 + fabs(v[i])
                                                 : v[i];
    }
    return v;
}

static double loss_of(const Problem *p, Rig *rig)
{
    const float scale = 0.5F;
    rig_run(rig, p->rows ? p->rows : p->g.batch, scale, false, false);
    double loss = 0;
    if (p->y >= 0) {
        double *y = rig_read(rig, "y");
        for (size_t i = 0; i < tensor_elems(&p->g.tensors[p->y]); i++) {
            loss += y[i] * p->seed[i];
        }
        free(y);
        return loss;
    }
    for (int i = 0; i < p->g.n_nodes; i++) {
        if (p->g.nodes[i].op == OP_DISTILL) {
            double *sums = rig_read(rig, p->g.tensors[p->g.nodes[i].out[DISTILL_OUT_SUMS]].name);
            loss += (double)scale * sums[SUM_LOSS];
            free(sums);
        }
    }
    return loss;
}

typedef void (*Assign)(Problem *p, Rig *rig, int id, const double *values);

static void assign_param(Problem *p, Rig *rig, int id, const double *values)
{
    rig_set_param(rig, p->params.items[id].arena, id, values);
    rig_refresh(rig);
}

static void assign_input(Problem *p, Rig *rig, int id, const double *values)
{
    rig_write(rig, p->g.tensors[id].name, values);
}

/* `values` of the parameter or input `id` have the gradient `grad`. */
static void check_tensor(Problem *p, Rig *rig, const char *name, Assign assign, int id,
                         double *values, size_t elems, const double *grad)
{
    double largest = 1e-3;
    for (size_t i = 0; i < elems; i++) {
        largest = fmax(largest, fabs(grad[i]));
    }
    Rng rng = rng_make(3, 9, (uint64_t)id, RNG_TEST);
    for (int s = 0; s < SAMPLES && (size_t)s < elems; s++) {
        const size_t i = elems <= SAMPLES ? (size_t)s : rng_below(&rng, (uint32_t)elems);
        const double at = values[i];
        values[i] = at + STEP;
        assign(p, rig, id, values);
        const double up = loss_of(p, rig);
        values[i] = at - STEP;
        assign(p, rig, id, values);
        const double down = loss_of(p, rig);
        values[i] = at;
        const double numeric = (up - down) / (2 * STEP);
        const double share = fabs(numeric - grad[i]) / (TOLERANCE * largest);
        if (!(share <= 1)) {
            fail_msg("%s[%zu]: gradient %.10g, central difference %.10g", name, i, grad[i],
                     numeric);
        }
        p->used = fmax(p->used, share);
    }
    assign(p, rig, id, values);
}

static void write_all(Problem *p, Rig *rig)
{
    for (int t = 0; t < p->g.n_tensors; t++) {
        const Tensor *tensor = &p->g.tensors[t];
        const bool scalar =
            strcmp(tensor->name, "rows_valid") == 0 || strcmp(tensor->name, "scale") == 0;
        if (tensor->kind == TENSOR_INPUT && !scalar && strcmp(tensor->name, "seed") != 0) {
            double *values = draw_input(tensor, (uint64_t)t + 1);
            rig_write(rig, tensor->name, values);
            free(values);
        }
    }
    for (int i = 0; i < p->params.count; i++) {
        double *values = draw_param(&p->params.items[i], (uint64_t)i + 1);
        rig_set_param(rig, p->params.items[i].arena, i, values);
        free(values);
    }
    if (p->y >= 0) {
        rig_write(rig, "seed", p->seed);
    }
    rig_refresh(rig);
}

/* Checks the finished graph: wanted[i] is the gradient tensor of inputs[i]. */
static void check_graph(Problem *p, Backend *backend, const int *wanted, unsigned fusion_off)
{
    Rig rig;
    const ExecOptions options = {.fusion_off = fusion_off, .check_plan = true, .poison = true};
    assert_null(rig_open(&rig, backend, &p->g, &options));
    write_all(p, &rig);
    loss_of(p, &rig);
    double *input_grads[MAX_INPUTS];
    double **param_grads = xcalloc((size_t)p->params.count + 1, sizeof *param_grads);
    for (int i = 0; i < p->n_inputs; i++) {
        assert_true(wanted[i] >= 0);
        input_grads[i] = rig_read(&rig, p->g.tensors[wanted[i]].name);
    }
    for (int i = 0; i < p->params.count; i++) {
        if (exec_plan(rig.exec)->param_ready[i] >= 0) {
            param_grads[i] = rig_get_param(&rig, ARENA_GRAD, i);
        }
    }
    for (int i = 0; i < p->n_inputs; i++) {
        const Tensor *t = &p->g.tensors[p->inputs[i]];
        double *values = draw_input(t, (uint64_t)p->inputs[i] + 1);
        check_tensor(p, &rig, t->name, assign_input, p->inputs[i], values, tensor_elems(t),
                     input_grads[i]);
        free(values);
        free(input_grads[i]);
    }
    for (int i = 0; i < p->params.count; i++) {
        const Param *param = &p->params.items[i];
        if (param_grads[i]) {
            double *values = draw_param(param, (uint64_t)i + 1);
            check_tensor(p, &rig, param->name, assign_param, i, values, param->count,
                         param_grads[i]);
            free(values);
            free(param_grads[i]);
        }
    }
    free(param_grads);
    rig_close(&rig);
}

static Backend *open_ref(void)
{
    Backend *backend = NULL;
    assert_null(backend_open("ref", NULL, &backend));
    return backend;
}

static void end(Problem *p)
{
    graph_free(&p->g);
    params_free(&p->params);
    free(p->seed);
}

/* Gradient of sum(seed * y) for all parameters and inputs of the problem, with fusion and
 * without. */
static void check_seeded(Problem *p, const char *name, int y)
{
    const Tensor t = p->g.tensors[y];
    params_finish(&p->params);
    graph_output(&p->g, y, "y");
    p->y = y;
    const int seed = graph_input(&p->g, "seed", t.dtype, t.n, t.h, t.w, t.c, t.batched);
    p->seed = draw_input(&t, 99);
    const size_t row = tensor_elems(&t) / (size_t)t.n;
    for (size_t i = 0; p->rows && i < tensor_elems(&t); i++) {
        p->seed[i] = i < (size_t)p->rows * row ? p->seed[i] : 0; /* as the loss's gradient is */
    }
    int wanted[MAX_INPUTS];
    Err *err = graph_backward(&p->g, &(GradSeed){y, seed}, 1, p->inputs, p->n_inputs, wanted);
    if (err) {
        fail_msg("%s: %s", name, err->message);
    }
    Backend *backend = open_ref();
    check_graph(p, backend, wanted, FUSE_ALL);
    check_graph(p, backend, wanted, 0);
    backend_close(backend);
    printf("%-28s %5.1f%%\n", name, 100 * p->used);
    end(p);
}

/* ---- Ops ---- */

static void test_conv(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int h, w, c, o, k, stride, pad, groups;
    } shapes[] = {
        {"conv 3x3", 5, 4, 3, 4, 3, 1, 1, 1},       {"conv 3x3 s2", 5, 6, 2, 3, 3, 2, 1, 1},
        {"conv 1x1 s2", 5, 5, 3, 2, 1, 2, 0, 1},    {"conv 7x7 s2 p3", 8, 9, 2, 2, 7, 2, 3, 1},
        {"conv 5x5", 5, 5, 1, 1, 5, 1, 2, 1},       {"conv groups", 4, 4, 4, 6, 3, 1, 1, 2},
        {"conv depthwise", 4, 3, 3, 3, 3, 1, 1, 3}, {"conv H=W=1", 1, 1, 2, 3, 3, 1, 1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        Problem p;
        begin(&p, 2);
        const int w = weight(&p, "w", shapes[i].o, shapes[i].c / shapes[i].groups, shapes[i].k);
        const int b = vector(&p, "b", ROLE_BIAS, shapes[i].o);
        const int x = input(&p, "x", shapes[i].h, shapes[i].w, shapes[i].c);
        check_seeded(
            &p, shapes[i].name,
            graph_conv(&p.g, "conv", x, w, b, shapes[i].stride, shapes[i].pad, shapes[i].groups));
    }
}

static void test_linear(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 3);
    check_seeded(&p, "linear", linear(&p, "fc", input(&p, "x", 1, 1, 5), 4));
}

static void test_bn(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        BnMode mode;
        int rows;
        bool relu;
    } modes[] = {{"bn train", BN_TRAIN, 0, false},
                 {"bn train rows", BN_TRAIN, 3, false},
                 {"bn frozen stats", BN_FROZEN_STATS, 0, false},
                 {"bn eval", BN_EVAL, 0, false},
                 {"bn train relu", BN_TRAIN, 0, true},
                 {"bn train relu rows", BN_TRAIN, 2, true},
                 {"bn eval relu", BN_EVAL, 0, true}};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        Problem p;
        begin(&p, 4);
        p.rows = modes[i].rows;
        int y = bn(&p, "bn", input(&p, "x", 3, 2, 3), modes[i].mode);
        y = modes[i].relu ? graph_relu(&p.g, "relu", y) : y;
        check_seeded(&p, modes[i].name, y);
    }
}

static void test_elementwise(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 2);
    check_seeded(&p, "relu", graph_relu(&p.g, "relu", input(&p, "x", 3, 4, 5)));
    begin(&p, 2);
    const int a = input(&p, "a", 3, 2, 2);
    check_seeded(&p, "add", graph_add(&p.g, "add", a, input(&p, "b", 3, 2, 2)));
    begin(&p, 2);
    const int x = input(&p, "x", 3, 2, 2);
    check_seeded(&p, "add to itself, relu", graph_relu(&p.g, "relu", graph_add(&p.g, "add", x, x)));
    begin(&p, 2);
    check_seeded(&p, "cast", graph_cast(&p.g, "cast", input(&p, "x", 3, 2, 2), DT_F64));
}

static void test_pool(void **state)
{
    (void)state;
    static const int pools[][4] = {{2, 2, 0, 6}, {3, 2, 1, 7}, {3, 1, 1, 4}, {4, 4, 0, 4}};
    for (size_t i = 0; i < sizeof pools / sizeof pools[0]; i++) {
        const int *k = pools[i];
        char name[64];
        Problem p;
        begin(&p, 2);
        snprintf(name, sizeof name, "avgpool %d s%d p%d", k[0], k[1], k[2]);
        check_seeded(&p, name,
                     graph_avgpool(&p.g, "pool", input(&p, "x", k[3], k[3], 3), k[0], k[1], k[2]));
        begin(&p, 2);
        snprintf(name, sizeof name, "maxpool %d s%d p%d", k[0], k[1], k[2]);
        check_seeded(&p, name,
                     graph_maxpool(&p.g, "pool", input(&p, "x", k[3], k[3], 3), k[0], k[1], k[2]));
    }
}

static void test_shared_parameters(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 3);
    const int w = weight(&p, "w", 3, 3, 3);
    const int norm = bn_params(&p, "bn", 3);
    int y = input(&p, "x", 4, 4, 3);
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "conv%d", i);
        y = graph_conv(&p.g, name, y, w, -1, 1, 1, 1);
        snprintf(name, sizeof name, "bn%d", i);
        y = graph_bn(&p.g, name, y, norm, BN_TRAIN, 1e-5F, 0.1F);
    }
    check_seeded(&p, "weights used three times", y);
}

/* ---- Networks ---- */

static int basic_block(Problem *p, const char *base, int x, int o, int stride)
{
    char name[5][48];
    static const char *const parts[5] = {"conv1", "conv2", "down", "add", "relu"};
    for (int i = 0; i < 5; i++) {
        snprintf(name[i], sizeof name[i], "%s.%s", base, parts[i]);
    }
    char part[64];
    int y =
        bn(p, strcat(strcpy(part, name[0]), ".bn"), conv(p, name[0], x, o, 3, stride), BN_TRAIN);
    y = graph_relu(&p->g, strcat(strcpy(part, name[0]), ".relu"), y);
    y = bn(p, strcat(strcpy(part, name[1]), ".bn"), conv(p, name[1], y, o, 3, 1), BN_TRAIN);
    int shortcut = x;
    if (stride != 1 || p->g.tensors[x].c != o) {
        shortcut = bn(p, strcat(strcpy(part, name[2]), ".bn"), conv(p, name[2], x, o, 1, stride),
                      BN_TRAIN);
    }
    return graph_relu(&p->g, name[4], graph_add(&p->g, name[3], y, shortcut));
}

static int global_pool(Problem *p, const char *name, int x)
{
    return graph_avgpool(&p->g, name, x, p->g.tensors[x].h, 1, 0);
}

static void test_basic_blocks(void **state)
{
    (void)state;
    for (int rows = 0; rows <= 3; rows += 3) {
        Problem p;
        begin(&p, 4);
        p.rows = rows;
        int y = basic_block(&p, "a", input(&p, "x", 6, 6, 3), 3, 1);
        y = basic_block(&p, "b", y, 4, 2);
        check_seeded(&p, rows ? "basic blocks, 3 of 4 rows" : "basic blocks",
                     linear(&p, "fc", global_pool(&p, "p", y), 5));
    }
}

static void test_preactivation_block(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 3);
    const int x = conv(&p, "stem", input(&p, "x", 5, 5, 3), 4, 3, 1);
    int y = graph_relu(&p.g, "relu1", bn(&p, "bn1", x, BN_TRAIN));
    const int shortcut = conv(&p, "short", y, 5, 1, 2);
    y = conv(&p, "conv1", y, 5, 3, 2);
    y = graph_relu(&p.g, "relu2", bn(&p, "bn2", y, BN_TRAIN));
    y = graph_add(&p.g, "add", conv(&p, "conv2", y, 5, 3, 1), shortcut);
    y = graph_relu(&p.g, "relu3", bn(&p, "bn3", y, BN_TRAIN));
    check_seeded(&p, "pre-activation block", linear(&p, "fc", global_pool(&p, "p", y), 5));
}

static void test_pools_and_frozen_parts(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 3);
    int y =
        graph_relu(&p.g, "relu1",
                   bn(&p, "bn1", conv(&p, "conv1", input(&p, "x", 9, 9, 3), 4, 3, 1), BN_TRAIN));
    y = graph_maxpool(&p.g, "max", y, 3, 2, 1);
    y = graph_relu(&p.g, "relu2", bn(&p, "bn2", conv(&p, "conv2", y, 3, 3, 1), BN_EVAL));
    y = graph_avgpool(&p.g, "avg", y, 2, 2, 0);
    const int frozen = params_add(&p.params, "frozen", ROLE_CONV_WEIGHT, 4, (int[]){4, 3, 1, 1},
                                  false, INIT_ZERO, 0);
    y = graph_conv(&p.g, "frozen", y, frozen, -1, 1, 0, 1);
    y = graph_relu(&p.g, "relu3", bn(&p, "bn3", y, BN_FROZEN_STATS));
    check_seeded(&p, "pools and frozen parts", linear(&p, "fc", global_pool(&p, "p", y), 4));
}

/* A network with an auxiliary head: two losses flow into one trunk. */
static void test_two_losses(void **state)
{
    (void)state;
    Problem p;
    begin(&p, 4);
    p.rows = 3;
    const int x = graph_input(&p.g, "x", DT_F64, 4, 6, 6, 3, true);
    const int teacher = graph_input(&p.g, "teacher", DT_F64, 4, 1, 1, CLASSES, true);
    const int labels = graph_input(&p.g, "labels", DT_I32, 4, 1, 1, 1, true);
    const int trunk = basic_block(&p, "a", x, 3, 1);
    int in[DISTILL_IN_COUNT];
    no_inputs(in);
    in[DISTILL_IN_T] = teacher;
    in[DISTILL_IN_LABELS] = labels;
    DistillSpec spec = kd_spec();
    in[DISTILL_IN_Z] =
        linear(&p, "fc", global_pool(&p, "p1", basic_block(&p, "b", trunk, 4, 2)), CLASSES);
    graph_distill(&p.g, "main", &spec, in);
    in[DISTILL_IN_Z] = linear(&p, "aux", global_pool(&p, "p2", trunk), CLASSES);
    in[DISTILL_IN_T] = -1;
    spec.n_terms = 0;
    graph_distill(&p.g, "second", &spec, in);
    params_finish(&p.params);
    assert_null(graph_backward_losses(&p.g));
    Backend *backend = open_ref();
    check_graph(&p, backend, NULL, FUSE_ALL);
    check_graph(&p, backend, NULL, 0);
    backend_close(backend);
    printf("%-28s %5.1f%%\n", "two losses", 100 * p.used);
    end(&p);
}

static void test_random_graphs(void **state)
{
    (void)state;
    Backend *backend = open_ref();
    double used = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        Problem p = {.y = -1};
        p.g = random_graph_make(seed, &p.params,
                                (RandomGraphOptions){.act = DT_F64, .backward = true, .ops = 8});
        check_graph(&p, backend, NULL, seed % 2 ? FUSE_ALL : 0);
        used = fmax(used, p.used);
        end(&p);
    }
    backend_close(backend);
    printf("%-28s %5.1f%%\n", "random graphs", 100 * used);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_bn),
        cmocka_unit_test(test_elementwise),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_shared_parameters),
        cmocka_unit_test(test_basic_blocks),
        cmocka_unit_test(test_preactivation_block),
        cmocka_unit_test(test_pools_and_frozen_parts),
        cmocka_unit_test(test_two_losses),
        cmocka_unit_test(test_random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
