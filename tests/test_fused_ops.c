/* The fused forms of a training step, one node at a time: on ref each op case of such a form gives
 * bit for bit what its parts give, built here as separate nodes, in every storage type and in every
 * row, those beyond rows_valid included. Nothing is shared with fusion, which tests of whole
 * networks cover; backends follow ref on the same cases in test_ops. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "case_data.h"
#include "rig.h"

enum { SEED = 11 };

static const BnAttr BN = {.eps = 1e-5F, .momentum = 0.1F};

/* A normalised x, with ReLU where asked, as a node of its own. */
static int apply_node(const CaseBuild *b, int x, int coef, int rows, bool relu)
{
    const Tensor t = b->g->tensors[x];
    const int y = graph_tensor(b->g, "applied", TENSOR_ACT, t.dtype, t.n, t.h, t.w, t.c, t.batched);
    Node *node = graph_node(b->g, OP_BN_APPLY, "apply", 4, (int[]){x, coef, -1, rows}, 1, &y);
    node->attr.bn = BN;
    node->attr.bn.relu = relu;
    return y;
}

static void parts_of_conv(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    ConvAttr attr = case_conv_attr(c);
    attr.pre_relu = false;
    const int oh = case_window(c->h, attr.kernel_h, attr.stride, c->pad);
    const int ow = case_window(c->w, attr.kernel_w, attr.stride, c->pad);
    const int weight = params_find(&b->net->params, "weight");
    const int rows = graph_rows_valid(g);
    int x = case_in(b, 0, g->act, c->h, c->w, c->c);
    const bool forward = c->op == OP_CONV;
    if (c->form & C_AFFINE) {
        const int coef = case_in_vector(b, forward ? 4 : 2, g->math, 4 * c->c);
        x = apply_node(b, x, coef, rows, (c->form & C_PRE_RELU) != 0);
    }
    if (!forward) {
        const int in[2] = {x, case_in(b, 1, g->act, oh, ow, c->o)};
        case_node(b, 2, in, 1, (int[]){graph_param_grad(g, weight)})->attr.conv = attr;
        return;
    }
    const int in[4] = {x, graph_param(g, weight), -1,
                       c->form & C_RESIDUAL ? case_in(b, 3, g->act, oh, ow, c->o) : -1};
    const int y = case_out(b, 0, g->act, oh, ow, c->o);
    case_node(b, 4, in, 1, &y)->attr.conv = attr;
    if (c->form & C_SUMS) {
        const int sums = case_out_vector(b, 1, 1, 1, 1, 2 * c->o + 1);
        graph_node(g, OP_BN_STATS, "stats", 2, (int[]){y, rows}, 1, &sums)->attr.bn = BN;
    }
}

static void parts_of_dgrad(const CaseBuild *b)
{
    const OpCase *c = b->c;
    Graph *g = b->g;
    const ConvAttr attr = case_conv_attr(c);
    const int oh = case_window(c->h, attr.kernel_h, attr.stride, c->pad);
    const int ow = case_window(c->w, attr.kernel_w, attr.stride, c->pad);
    const int rows = graph_rows_valid(g);
    const int in[2] = {case_in(b, 0, g->act, oh, ow, c->o),
                       graph_param(g, params_find(&b->net->params, "weight"))};
    const int x = case_in(b, 2, g->act, c->h, c->w, c->c);
    const int coef = case_in_vector(b, 3, g->math, 4 * c->c);
    const int y = apply_node(b, x, coef, rows, true);
    const int dx = graph_tensor(g, "dx", TENSOR_ACT, g->act, g->batch, c->h, c->w, c->c, true);
    case_node(b, 2, in, 1, &dx)->attr.conv = attr;
    const int out[2] = {case_out_vector(b, 1, 1, 1, 1, 2 * c->c + 1),
                        case_out(b, 0, g->act, c->h, c->w, c->c)};
    graph_node(g, OP_BN_REDUCE, "reduce", 6, (int[]){dx, x, coef, rows, -1, y}, 2, out)->attr.bn =
        BN;
}

/* BN_REDUCE and BN_DX as the case has them, but masked by an output: normalised here for C_REMASK,
 * the input "in5" for C_BITS. BN_APPLY without its bits. */
static void parts_of_bn(const CaseBuild *b, OpCase *plain)
{
    *plain = *b->c;
    plain->form &= ~(unsigned)(C_BITS | C_REMASK);
    plain->form |= plain->op == OP_BN_APPLY ? 0 : C_MASK;
    const CaseBuild plainly = {plain, b->net, b->g};
    case_bn(&plainly);
    Graph *g = b->g;
    if (b->c->form & C_REMASK) {
        Node node = g->nodes[0];
        g->n_nodes = 0;
        const int rows = graph_rows_valid(g);
        const int y = apply_node(b, node.in[1], node.in[2], rows, true);
        node.in[5] = y;
        graph_node(g, node.op, node.name, node.n_in, node.in, node.n_out, node.out)->attr.bn =
            node.attr.bn;
    }
}

static void build_parts(const OpCase *c, DType act, CaseNet *net)
{
    memset(net, 0, sizeof *net);
    const CaseBuild b = {c, net, &net->graph};
    OpCase plain;
    case_params(&b);
    graph_init(&net->graph, &net->params, c->n, act);
    switch (c->op) {
    case OP_CONV:
    case OP_CONV_WGRAD:
        parts_of_conv(&b);
        break;
    case OP_CONV_DGRAD:
        parts_of_dgrad(&b);
        break;
    default:
        parts_of_bn(&b, &plain);
        break;
    }
}

/* 1 where the bit is set: an output with that mask. */
static double *output_of_bits(const OpCase *c, const double *bits)
{
    const size_t pixels = (size_t)c->n * (size_t)c->h * (size_t)c->w;
    const size_t channels = (size_t)c->c;
    double *y = xcalloc(pixels * channels, sizeof *y);
    for (size_t i = 0; i < pixels * channels; i++) {
        const double byte = bits[i / channels * ((channels + 7) / 8) + i % channels / 8];
        y[i] = (double)((int)byte >> (i % channels % 8) & 1);
    }
    return y;
}

static void write_inputs(Rig *rig, const OpCase *c, const Graph *g)
{
    for (int t = 0; t < g->n_tensors; t++) {
        const int slot = case_slot(&g->tensors[t]);
        if (slot < 0) {
            continue;
        }
        Tensor like = g->tensors[t];
        const bool from_bits = slot == 5 && (c->form & C_BITS) != 0;
        like.c = from_bits ? (like.c + 7) / 8 : like.c;
        double *values = case_input_values(c, from_bits ? 6 : slot, &like, DATA_NORMAL, SEED);
        if (from_bits) {
            double *y = output_of_bits(c, values);
            free(values);
            values = y;
        }
        rig_write(rig, g->tensors[t].name, values);
        free(values);
    }
}

static void open_net(Rig *rig, Backend *ref, const OpCase *c, const CaseNet *net)
{
    char *wrong = graph_validate(&net->graph);
    if (wrong) {
        fail_msg("%s: %s", c->name, wrong);
    }
    const ExecOptions options = {.fusion_off = FUSE_ALL, .poison = true, .check_plan = true};
    Err *err = rig_open(rig, ref, &net->graph, &options);
    if (err) {
        fail_msg("%s: %s", c->name, err->message);
    }
    write_inputs(rig, c, &net->graph);
    for (int p = 0; p < net->params.count; p++) {
        double *values =
            case_param_values(net, p, CASE_SLOT_PARAM, DATA_NORMAL, net->graph.act, SEED);
        rig_set_param(rig, net->params.items[p].arena, p, values);
        rig_set_param(rig, ARENA_GRAD, p, values);
        free(values);
    }
    rig_refresh(rig);
    rig_run(rig, c->rows ? c->rows : c->n, 1, (c->form & C_GRAD_ADD) != 0, true);
}

static void expect_equal(const OpCase *c, DType act, const char *what, const double *got,
                         const double *want, size_t elems)
{
    for (size_t i = 0; i < elems; i++) {
        if (!(got[i] == want[i])) {
            fail_msg("%s in %s: %s[%zu] is %.9g, its parts give %.9g", c->name, dtype_name(act),
                     what, i, got[i], want[i]);
        }
    }
}

/* The bits that BN_APPLY wrote, against its own y. */
static void check_bits(Rig *rig, const OpCase *c, DType act)
{
    double *bits = rig_read(rig, "out1");
    double *y = rig_read(rig, "out0");
    double *open = output_of_bits(c, bits);
    const size_t elems = rig_elems(rig, "out0");
    for (size_t i = 0; i < elems; i++) {
        y[i] = y[i] > 0 ? 1 : 0;
    }
    expect_equal(c, act, "mask", open, y, elems);
    for (size_t i = 0; c->c % 8 != 0 && i < rig_elems(rig, "out1"); i++) {
        const size_t bytes = ((size_t)c->c + 7) / 8;
        const bool last = i % bytes == bytes - 1;
        assert_true(!last || (int)bits[i] >> (c->c % 8) == 0);
    }
    free(bits);
    free(y);
    free(open);
}

static void check_case(Backend *ref, const OpCase *c, DType act)
{
    CaseNet fused;
    CaseNet parts;
    Rig a;
    Rig b;
    case_build(c, act, &fused);
    build_parts(c, act, &parts);
    open_net(&a, ref, c, &fused);
    open_net(&b, ref, c, &parts);
    for (int slot = 0; slot < 2; slot++) {
        char name[16];
        snprintf(name, sizeof name, "out%d", slot);
        const bool bits = slot == 1 && c->op == OP_BN_APPLY;
        if (graph_find_tensor(&fused.graph, name) < 0 || bits) {
            continue;
        }
        double *got = rig_read(&a, name);
        double *want = rig_read(&b, name);
        assert_int_equal(rig_elems(&a, name), rig_elems(&b, name));
        expect_equal(c, act, name, got, want, rig_elems(&a, name));
        free(got);
        free(want);
    }
    if (c->op == OP_CONV_WGRAD) {
        double *got = rig_get_param(&a, ARENA_GRAD, 0);
        double *want = rig_get_param(&b, ARENA_GRAD, 0);
        expect_equal(c, act, "gradient", got, want, fused.params.items[0].count);
        free(got);
        free(want);
    }
    if (c->op == OP_BN_APPLY) {
        check_bits(&a, c, act);
    }
    rig_close(&a);
    rig_close(&b);
    case_free(&fused);
    case_free(&parts);
}

static void fused_forms_are_their_parts(void **state)
{
    (void)state;
    static const DType types[] = {DT_F64, DT_F32, DT_BF16, DT_F16};
    Backend *ref = NULL;
    assert_null(backend_open("ref", NULL, &ref));
    int cases = 0;
    for (int i = 0; i < OP_CASE_COUNT; i++) {
        for (int t = 0; (op_cases[i].form & C_OPTIONAL) != 0 && t < 4; t++) {
            check_case(ref, &op_cases[i], types[t]);
            cases++;
        }
    }
    printf("%d fused cases equal their parts\n", cases);
    assert_true(cases >= 100);
    backend_close(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(fused_forms_are_their_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
