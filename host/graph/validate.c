/* What a legal graph is: every rule about order, kinds, shapes, types and attributes, checked node
 * by node without trusting the code that built or rewrote it. A rule returns NULL or a malloc'ed
 * description. */
#include "graph/graph.h"

#include "base/err.h"
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const Graph *g;
    const Node *node;
} Check;

/* data/augment.h holds an offset in a byte; the graph knows no data layer. */
enum { VIEWS_MAX_PAD = 127 };

#define REQUIRE(cond, ...)                                                                         \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            return xformat(__VA_ARGS__);                                                           \
        }                                                                                          \
    } while (0)
#define PASS_ON(call)                                                                              \
    do {                                                                                           \
        char *wrong_ = (call);                                                                     \
        if (wrong_ != NULL) {                                                                      \
            return wrong_;                                                                         \
        }                                                                                          \
    } while (0)

static const Tensor *in(const Check *c, int slot)
{
    return c->node->in[slot] >= 0 ? &c->g->tensors[c->node->in[slot]] : NULL;
}

static const Tensor *out(const Check *c, int slot)
{
    return c->node->out[slot] >= 0 ? &c->g->tensors[c->node->out[slot]] : NULL;
}

static char *want_shape(const Tensor *t, const char *what, int n, int h, int w, int ch)
{
    REQUIRE(t->n == n && t->h == h && t->w == w && t->c == ch,
            "%s '%s' is %dx%dx%dx%d, expected %dx%dx%dx%d", what, t->name, t->n, t->h, t->w, t->c,
            n, h, w, ch);
    return NULL;
}

static char *want_dtype(const Tensor *t, const char *what, DType dtype)
{
    REQUIRE(t->dtype == dtype, "%s '%s' is %s, expected %s", what, t->name, dtype_name(t->dtype),
            dtype_name(dtype));
    return NULL;
}

static char *want_like(const Tensor *t, const char *what, const Tensor *like)
{
    PASS_ON(want_shape(t, what, like->n, like->h, like->w, like->c));
    PASS_ON(want_dtype(t, what, like->dtype));
    REQUIRE(t->batched == like->batched, "%s '%s' and '%s' differ in being batched", what, t->name,
            like->name);
    return NULL;
}

static char *want_vector(const Check *c, const Tensor *t, const char *what, int count)
{
    PASS_ON(want_shape(t, what, 1, 1, 1, count));
    return want_dtype(t, what, c->g->math);
}

static char *want_rows_valid(const Check *c, int slot)
{
    const Tensor *t = in(c, slot);
    PASS_ON(want_shape(t, "rows_valid", 1, 1, 1, 1));
    return want_dtype(t, "rows_valid", DT_F32);
}

static char *want_grad(const Tensor *t)
{
    REQUIRE(t->kind == TENSOR_GRAD, "gradient output '%s' is no gradient of a parameter", t->name);
    return NULL;
}

/* Inputs in `needed` (bit = slot) are present and there are at most `count` slots; likewise
 * outputs. */
static char *want_slots(const Check *c, int count, unsigned needed, int out_count,
                        unsigned out_needed)
{
    REQUIRE(c->node->n_in <= count, "has %d inputs, at most %d are known", c->node->n_in, count);
    REQUIRE(c->node->n_out <= out_count, "has %d outputs, at most %d are known", c->node->n_out,
            out_count);
    for (int i = 0; i < count; i++) {
        REQUIRE((needed >> i & 1u) == 0 || c->node->in[i] >= 0, "lacks input %d", i);
    }
    for (int i = 0; i < out_count; i++) {
        REQUIRE((out_needed >> i & 1u) == 0 || c->node->out[i] >= 0, "lacks output %d", i);
    }
    return NULL;
}

static char *check_image(const Check *c)
{
    PASS_ON(want_slots(c, 1, 1u, 1, 1u));
    const Tensor *x = in(c, 0);
    const Tensor *y = out(c, 0);
    PASS_ON(want_dtype(x, "image", DT_U8));
    PASS_ON(want_dtype(y, "output", c->g->act));
    PASS_ON(want_shape(x, "image", y->n, y->h, y->w, 3));
    REQUIRE(y->c >= 3, "has %d channels, at least 3 are needed", y->c);
    for (int i = 0; i < 3; i++) {
        REQUIRE(c->node->attr.image.std[i] > 0.0f, "standard deviation %d is not positive", i);
    }
    return NULL;
}

/* The geometry that a convolution and its two gradients share. `stem` allows padding channels. */
static char *check_conv_shapes(const Check *c, const Tensor *x, const Tensor *w, const Tensor *y)
{
    const ConvAttr *a = &c->node->attr.conv;
    REQUIRE(a->stride > 0 && a->pad >= 0 && a->groups > 0, "stride %d, pad %d, groups %d",
            a->stride, a->pad, a->groups);
    REQUIRE(w->h == a->kernel_h && w->w == a->kernel_w, "kernel is %d x %d, '%s' is %d x %d",
            a->kernel_h, a->kernel_w, w->name, w->h, w->w);
    REQUIRE(w->n % a->groups == 0, "%d channels in %d groups", w->n, a->groups);
    REQUIRE(x->c == w->c * a->groups || (a->groups == 1 && x->c > w->c),
            "'%s' has %d channels, the weights take %d", x->name, x->c, w->c * a->groups);
    PASS_ON(want_dtype(w, "weights", c->g->math));
    PASS_ON(want_dtype(x, "x side", c->g->act));
    PASS_ON(want_dtype(y, "y side", c->g->act));
    REQUIRE(x->batched == y->batched, "'%s' and '%s' differ in being batched", x->name, y->name);
    return want_shape(y, "y side", x->n, window_out(x->h, a->kernel_h, a->stride, a->pad),
                      window_out(x->w, a->kernel_w, a->stride, a->pad), w->n);
}

/* The batch norm that a convolution or its weight gradient applies while it loads x. */
static char *check_pre_affine(const Check *c, const Tensor *x, int coef_slot)
{
    const Tensor *coef = in(c, coef_slot);
    REQUIRE(coef != NULL || !c->node->attr.conv.pre_relu,
            "has a ReLU before it but no coefficients");
    if (coef != NULL) {
        PASS_ON(want_vector(c, coef, "coef", 4 * x->c));
    }
    return in(c, coef_slot + 1) != NULL ? want_rows_valid(c, coef_slot + 1) : NULL;
}

static char *check_conv(const Check *c)
{
    PASS_ON(want_slots(c, 6, 3u, 2, 1u));
    PASS_ON(check_conv_shapes(c, in(c, 0), in(c, 1), out(c, 0)));
    PASS_ON(check_pre_affine(c, in(c, 0), 4));
    if (in(c, 2) != NULL) {
        PASS_ON(want_vector(c, in(c, 2), "bias", out(c, 0)->c));
    }
    if (in(c, 3) != NULL) {
        PASS_ON(want_like(in(c, 3), "residual", out(c, 0)));
    }
    REQUIRE(in(c, 5) == NULL || in(c, 4) != NULL || out(c, 1) != NULL,
            "counts valid rows for nothing");
    if (out(c, 1) == NULL) {
        return NULL;
    }
    REQUIRE(in(c, 5) != NULL, "has sums but no rows_valid");
    REQUIRE(in(c, 2) == NULL && in(c, 3) == NULL && !c->node->attr.conv.relu,
            "has sums beside a bias, a residual or a ReLU");
    return want_vector(c, out(c, 1), "sums", 2 * out(c, 0)->c + 1);
}

static char *check_conv_dgrad(const Check *c)
{
    const bool reduces = in(c, 2) != NULL;
    PASS_ON(want_slots(c, 5, reduces ? 31u : 3u, 2, reduces ? 3u : 1u));
    PASS_ON(check_conv_shapes(c, out(c, 0), in(c, 1), in(c, 0)));
    REQUIRE(!c->node->attr.conv.pre_relu, "has a ReLU before it");
    if (!reduces) {
        REQUIRE(in(c, 3) == NULL && in(c, 4) == NULL && out(c, 1) == NULL,
                "has parts of a batch norm without its x");
        return NULL;
    }
    PASS_ON(want_like(in(c, 2), "x of the batch norm", out(c, 0)));
    PASS_ON(want_vector(c, in(c, 3), "coef", 4 * out(c, 0)->c));
    PASS_ON(want_rows_valid(c, 4));
    return want_vector(c, out(c, 1), "sums", 2 * out(c, 0)->c + 1);
}

static char *check_conv_wgrad(const Check *c)
{
    PASS_ON(want_slots(c, 4, 3u, 1, 1u));
    PASS_ON(want_grad(out(c, 0)));
    PASS_ON(check_pre_affine(c, in(c, 0), 2));
    REQUIRE(in(c, 3) == NULL || in(c, 2) != NULL, "counts valid rows for nothing");
    return check_conv_shapes(c, in(c, 0), out(c, 0), in(c, 1));
}

static char *check_bias_grad(const Check *c)
{
    PASS_ON(want_slots(c, 1, 1u, 1, 1u));
    PASS_ON(want_grad(out(c, 0)));
    return want_vector(c, out(c, 0), "bias gradient", in(c, 0)->c);
}

static char *check_bn_attr(const Check *c)
{
    const BnAttr *a = &c->node->attr.bn;
    REQUIRE(a->eps > 0.0f, "eps is %g", (double)a->eps);
    REQUIRE(a->momentum >= 0.0f && a->momentum <= 1.0f, "momentum is %g", (double)a->momentum);
    REQUIRE(!a->remask || c->node->op == OP_BN_REDUCE || c->node->op == OP_BN_DX,
            "recomputes a mask that it does not use");
    return NULL;
}

/* One bit an element of x. */
static char *want_mask(const Tensor *mask, const Tensor *x)
{
    PASS_ON(want_dtype(mask, "mask", DT_U8));
    REQUIRE(mask->batched == x->batched, "'%s' and '%s' differ in being batched", mask->name,
            x->name);
    return want_shape(mask, "mask", x->n, x->h, x->w, (x->c + 7) / 8);
}

/* The sources of a ReLU mask: slot 5 the output, slot 6 bits, or recomputed; at most one. */
static char *check_mask_source(const Check *c, const Tensor *x)
{
    const int sources = (in(c, 5) != NULL) + (in(c, 6) != NULL) + (c->node->attr.bn.remask ? 1 : 0);
    REQUIRE(sources <= 1, "has %d sources of its mask", sources);
    if (in(c, 5) != NULL) {
        PASS_ON(want_like(in(c, 5), "y", x));
    }
    return in(c, 6) != NULL ? want_mask(in(c, 6), x) : NULL;
}

static char *check_bn_stats(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 2, 3u, 1, 1u));
    PASS_ON(want_dtype(in(c, 0), "x", c->g->act));
    PASS_ON(want_rows_valid(c, 1));
    return want_vector(c, out(c, 0), "sums", 2 * in(c, 0)->c + 1);
}

static char *check_bn_finalize(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 3, 7u, 1, 1u));
    const int channels = in(c, 1)->c;
    PASS_ON(want_vector(c, in(c, 0), "sums", 2 * channels + 1));
    PASS_ON(want_vector(c, in(c, 1), "gamma", channels));
    PASS_ON(want_vector(c, in(c, 2), "beta", channels));
    return want_vector(c, out(c, 0), "coef", 4 * channels);
}

static char *check_bn_running(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 3, 7u, 2, 3u));
    for (int i = 0; i < 2; i++) {
        const int slot = op_alias_input(OP_BN_RUNNING, i);
        const Tensor *t = in(c, slot);
        REQUIRE(c->node->out[i] == c->node->in[slot], "output %d is not input %d", i, slot);
        REQUIRE(t->kind == TENSOR_PARAM && c->g->params->items[t->param].arena == ARENA_STATE,
                "'%s' is no running statistic", t->name);
        PASS_ON(want_vector(c, in(c, 0), "sums", 2 * t->c + 1));
    }
    return NULL;
}

static char *check_bn_infer(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 4, 15u, 1, 1u));
    for (int i = 0; i < 4; i++) {
        PASS_ON(want_vector(c, in(c, i), "batch norm parameter", in(c, 0)->c));
    }
    return want_vector(c, out(c, 0), "coef", 4 * in(c, 0)->c);
}

static char *check_bn_apply(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 4, 3u, 2, 1u));
    const Tensor *x = in(c, 0);
    PASS_ON(want_dtype(x, "x", c->g->act));
    PASS_ON(want_vector(c, in(c, 1), "coef", 4 * x->c));
    if (in(c, 2) != NULL) {
        PASS_ON(want_like(in(c, 2), "residual", x));
    }
    if (in(c, 3) != NULL) {
        PASS_ON(want_rows_valid(c, 3));
    }
    if (out(c, 1) != NULL) {
        PASS_ON(want_mask(out(c, 1), x));
    }
    return want_like(out(c, 0), "y", x);
}

static char *check_bn_reduce(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 7, 15u, 2, 1u));
    const Tensor *x = in(c, 1);
    PASS_ON(want_dtype(x, "x", c->g->act));
    PASS_ON(want_like(in(c, 0), "dy", x));
    PASS_ON(want_vector(c, in(c, 2), "coef", 4 * x->c));
    PASS_ON(want_rows_valid(c, 3));
    if (in(c, 4) != NULL) {
        PASS_ON(want_like(in(c, 4), "dy2", x));
    }
    PASS_ON(check_mask_source(c, x));
    REQUIRE(in(c, 4) == NULL || out(c, 1) != NULL, "adds a second gradient but stores no dz");
    if (out(c, 1) != NULL) {
        PASS_ON(want_like(out(c, 1), "dz", x));
    }
    return want_vector(c, out(c, 0), "sums", 2 * x->c + 1);
}

static char *check_bn_dparam(const Check *c)
{
    PASS_ON(want_slots(c, 1, 1u, 2, 0u));
    REQUIRE(out(c, 0) != NULL || out(c, 1) != NULL, "has no output");
    for (int i = 0; i < 2; i++) {
        if (out(c, i) != NULL) {
            PASS_ON(want_grad(out(c, i)));
            PASS_ON(want_vector(c, in(c, 0), "sums", 2 * out(c, i)->c + 1));
        }
    }
    return NULL;
}

static char *check_bn_dx(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 7, c->node->attr.bn.frozen ? 23u : 31u, 1, 1u));
    const Tensor *x = in(c, 1);
    PASS_ON(want_dtype(x, "x", c->g->act));
    PASS_ON(want_like(in(c, 0), "dz", x));
    PASS_ON(want_vector(c, in(c, 2), "coef", 4 * x->c));
    if (in(c, 3) != NULL) {
        PASS_ON(want_vector(c, in(c, 3), "sums", 2 * x->c + 1));
    }
    PASS_ON(want_rows_valid(c, 4));
    PASS_ON(check_mask_source(c, x));
    return want_like(out(c, 0), "dx", x);
}

static char *check_elementwise(const Check *c, int inputs)
{
    PASS_ON(want_slots(c, inputs, (1u << inputs) - 1u, 1, 1u));
    for (int i = 1; i < inputs; i++) {
        PASS_ON(want_like(in(c, i), "input", in(c, 0)));
    }
    return want_like(out(c, 0), "output", in(c, 0));
}

static char *check_pool_shapes(const Check *c, const Tensor *x, const Tensor *y)
{
    const PoolAttr *a = &c->node->attr.pool;
    REQUIRE(a->kernel > 0 && a->stride > 0 && a->pad >= 0 && 2 * a->pad <= a->kernel,
            "kernel %d, stride %d, pad %d", a->kernel, a->stride, a->pad);
    PASS_ON(want_dtype(y, "y side", x->dtype));
    REQUIRE(x->batched == y->batched, "'%s' and '%s' differ in being batched", x->name, y->name);
    return want_shape(y, "y side", x->n, window_out(x->h, a->kernel, a->stride, a->pad),
                      window_out(x->w, a->kernel, a->stride, a->pad), x->c);
}

static char *check_pool_index(const Tensor *index, const Tensor *y)
{
    PASS_ON(want_dtype(index, "index", DT_U8));
    return want_shape(index, "index", y->n, y->h, y->w, y->c);
}

static char *check_pool(const Check *c)
{
    switch (c->node->op) {
    case OP_AVGPOOL:
        PASS_ON(want_slots(c, 1, 1u, 1, 1u));
        return check_pool_shapes(c, in(c, 0), out(c, 0));
    case OP_AVGPOOL_BWD:
        PASS_ON(want_slots(c, 1, 1u, 1, 1u));
        return check_pool_shapes(c, out(c, 0), in(c, 0));
    case OP_MAXPOOL:
        PASS_ON(want_slots(c, 1, 1u, 2, 3u));
        PASS_ON(check_pool_index(out(c, 1), out(c, 0)));
        return check_pool_shapes(c, in(c, 0), out(c, 0));
    default:
        PASS_ON(want_slots(c, 2, 3u, 1, 1u));
        PASS_ON(check_pool_index(in(c, 1), in(c, 0)));
        return check_pool_shapes(c, out(c, 0), in(c, 0));
    }
}

static char *check_linear_shapes(const Check *c, const Tensor *x, const Tensor *w, const Tensor *y)
{
    PASS_ON(want_shape(x, "x side", x->n, 1, 1, w->c));
    PASS_ON(want_shape(w, "weights", w->n, 1, 1, w->c));
    PASS_ON(want_shape(y, "y side", x->n, 1, 1, w->n));
    PASS_ON(want_dtype(w, "weights", c->g->math));
    REQUIRE(x->dtype == c->g->act || x->dtype == c->g->math, "'%s' is %s", x->name,
            dtype_name(x->dtype));
    REQUIRE(x->batched == y->batched, "'%s' and '%s' differ in being batched", x->name, y->name);
    return want_dtype(y, "y side", c->g->math);
}

static char *check_linear(const Check *c)
{
    switch (c->node->op) {
    case OP_LINEAR:
        PASS_ON(want_slots(c, 3, 3u, 1, 1u));
        if (in(c, 2) != NULL) {
            PASS_ON(want_vector(c, in(c, 2), "bias", out(c, 0)->c));
        }
        return check_linear_shapes(c, in(c, 0), in(c, 1), out(c, 0));
    case OP_LINEAR_DGRAD:
        PASS_ON(want_slots(c, 2, 3u, 1, 1u));
        return check_linear_shapes(c, out(c, 0), in(c, 1), in(c, 0));
    default:
        PASS_ON(want_slots(c, 2, 3u, 1, 1u));
        PASS_ON(want_grad(out(c, 0)));
        return check_linear_shapes(c, in(c, 0), out(c, 0), in(c, 1));
    }
}

static char *check_cast(const Check *c)
{
    PASS_ON(want_slots(c, 1, 1u, 1, 1u));
    const Tensor *x = in(c, 0);
    REQUIRE(x->batched == out(c, 0)->batched, "'%s' and '%s' differ in being batched", x->name,
            out(c, 0)->name);
    return want_shape(out(c, 0), "output", x->n, x->h, x->w, x->c);
}

static char *check_fold(const Check *c)
{
    PASS_ON(check_bn_attr(c));
    PASS_ON(want_slots(c, 6, 61u, 2, 3u));
    const Tensor *w = in(c, 0);
    for (int i = 1; i < 6; i++) {
        if (in(c, i) != NULL) {
            PASS_ON(want_vector(c, in(c, i), "batch norm parameter or bias", w->n));
        }
    }
    PASS_ON(want_shape(out(c, 0), "folded weights", w->n, w->h, w->w, w->c));
    PASS_ON(want_dtype(out(c, 0), "folded weights", c->g->math));
    return want_vector(c, out(c, 1), "folded bias", w->n);
}

/* {scale, good steps}; shared between graphs or, for a loss of its own, an input. */
static char *want_loss_scale(const Check *c, int slot)
{
    PASS_ON(want_shape(in(c, slot), "loss scale", 1, 1, 1, 2));
    return want_dtype(in(c, slot), "loss scale", DT_F32);
}

/* Integer and parameter inputs of a loss: [n, 1, 1, columns] of a type; columns 0 = any. */
static char *want_rows(const Check *c, int slot, const char *what, int n, DType dtype, int columns)
{
    const Tensor *t = in(c, slot);
    if (t == NULL) {
        return NULL;
    }
    PASS_ON(want_dtype(t, what, dtype));
    if (slot == DISTILL_IN_LABELS) {
        REQUIRE(tensor_elems(t) == (size_t)n, "%s '%s' has %zu elements for %d rows", what, t->name,
                tensor_elems(t), n);
        return NULL;
    }
    return want_shape(t, what, n, 1, 1, columns > 0 ? columns : t->c);
}

static char *check_distill_terms(const DistillSpec *s)
{
    REQUIRE(s->n_terms >= 0 && s->n_terms <= DISTILL_MAX_TERMS, "has %d terms", s->n_terms);
    for (int i = 0; i < s->n_terms; i++) {
        const DistillTerm *t = &s->terms[i];
        REQUIRE(t->ts.source != SOURCE_CONST || t->ts.value > 0.0f,
                "term %d has the student temperature %g", i, (double)t->ts.value);
        REQUIRE(t->tt.source != SOURCE_CONST || t->tt.value > 0.0f,
                "term %d has the teacher temperature %g", i, (double)t->tt.value);
        REQUIRE(t->topk == 0 || t->form == FORM_KL,
                "term %d restricts a form other than KL to top-k classes", i);
    }
    return NULL;
}

static char *check_distill(const Check *c)
{
    REQUIRE(c->node->attr.distill >= 0 && c->node->attr.distill < c->g->n_specs,
            "refers to specification %d of %d", c->node->attr.distill, c->g->n_specs);
    const DistillSpec *s = &c->g->specs[c->node->attr.distill];
    PASS_ON(check_distill_terms(s));
    PASS_ON(want_slots(c, DISTILL_IN_COUNT, 0u, DISTILL_OUT_COUNT, 0u));
    const Tensor *z = in(c, DISTILL_IN_Z);
    const Tensor *t = in(c, DISTILL_IN_T);
    REQUIRE(z != NULL || (t != NULL && s->statistics_only), "has no logits");
    REQUIRE(t != NULL || s->n_terms == 0, "has terms but no teacher");
    const Tensor *logits = z != NULL ? z : t;
    const int n = logits->n;
    PASS_ON(want_shape(logits, "logits", n, 1, 1, logits->c));
    if (t != NULL) {
        PASS_ON(want_shape(t, "teacher logits", n, 1, 1, logits->c));
    }
    if (in(c, DISTILL_IN_ROWS_VALID) != NULL) {
        PASS_ON(want_rows_valid(c, DISTILL_IN_ROWS_VALID));
    }
    PASS_ON(want_rows(c, DISTILL_IN_LABELS, "labels", n, DT_I32, 1));
    PASS_ON(want_rows(c, DISTILL_IN_ROW_PARAMS, "row parameters", n, DT_F32, 0));
    PASS_ON(want_rows(c, DISTILL_IN_TARGET_KIND, "target kinds", n, DT_I32, DISTILL_MAX_TARGETS));
    PASS_ON(
        want_rows(c, DISTILL_IN_TARGET_WEIGHT, "target weights", n, DT_F32, DISTILL_MAX_TARGETS));
    PASS_ON(
        want_rows(c, DISTILL_IN_TARGET_CLASS, "target classes", n, DT_I32, DISTILL_MAX_TARGETS));
    PASS_ON(want_rows(c, DISTILL_IN_SPARSE_INDEX, "sparse indices", n, DT_I32,
                      DISTILL_MAX_TARGETS * s->sparse_k));
    PASS_ON(want_rows(c, DISTILL_IN_SPARSE_VALUE, "sparse values", n, DT_F32,
                      DISTILL_MAX_TARGETS * s->sparse_k));
    PASS_ON(want_rows(c, DISTILL_IN_DENSE, "dense targets", n, DT_F32,
                      DISTILL_MAX_TARGETS * logits->c));
    if (in(c, DISTILL_IN_LOSS_SCALE) != NULL) {
        PASS_ON(want_loss_scale(c, DISTILL_IN_LOSS_SCALE));
    }
    const Tensor *dz = out(c, DISTILL_OUT_DZ);
    REQUIRE(s->statistics_only || (z != NULL && dz != NULL && in(c, DISTILL_IN_SCALE) != NULL),
            "wants a gradient but lacks z, dz or scale");
    return dz != NULL ? want_shape(dz, "dz", n, 1, 1, logits->c) : NULL;
}

static char *check_sgd(const Check *c)
{
    PASS_ON(want_slots(c, 3, 1u, 0, 0u));
    PASS_ON(want_shape(in(c, 0), "hyper", 1, 1, 1, HYPER_COUNT));
    PASS_ON(want_dtype(in(c, 0), "hyper", DT_F32));
    if (in(c, 2) != NULL) {
        PASS_ON(want_loss_scale(c, 2));
    }
    return in(c, 1) != NULL ? want_shape(in(c, 1), "stats", 1, 1, 1, 2) : NULL;
}

static char *check_grad_norm(const Check *c)
{
    PASS_ON(want_slots(c, 0, 0u, 1, 1u));
    return want_shape(out(c, 0), "stats", 1, 1, 1, 2);
}

static char *check_loss_scale(const Check *c)
{
    const LossScaleAttr *a = &c->node->attr.loss_scale;
    PASS_ON(want_slots(c, 2, 3u, 1, 1u));
    PASS_ON(want_shape(in(c, 0), "stats", 1, 1, 1, 2));
    PASS_ON(want_loss_scale(c, 1));
    REQUIRE(in(c, 1)->kind == TENSOR_SHARED, "'%s' is not shared between graphs", in(c, 1)->name);
    REQUIRE(c->node->out[0] == c->node->in[1], "output 0 is not input 1");
    REQUIRE(a->growth >= 1.0f && a->backoff > 0.0f && a->backoff <= 1.0f && a->interval > 0,
            "growth %g, backoff %g, interval %d", (double)a->growth, (double)a->backoff,
            a->interval);
    return NULL;
}

static char *check_gather(const Check *c)
{
    PASS_ON(want_slots(c, 2, 3u, 1, 1u));
    const Tensor *table = in(c, 0);
    const Tensor *index = in(c, 1);
    PASS_ON(want_shape(table, "table", table->n, 1, 1, table->c));
    REQUIRE(!table->batched, "table '%s' is batched", table->name);
    PASS_ON(want_shape(index, "index", index->n, 1, 1, 1));
    PASS_ON(want_dtype(index, "index", DT_I32));
    PASS_ON(want_shape(out(c, 0), "y", index->n, 1, 1, table->c));
    REQUIRE(out(c, 0)->batched == index->batched, "'%s' and '%s' differ in being batched",
            out(c, 0)->name, index->name);
    return want_dtype(out(c, 0), "y", table->dtype);
}

static char *check_views(const Check *c)
{
    PASS_ON(want_slots(c, 5, 31u, 3, 7u));
    const Tensor *set = in(c, 0);
    const Tensor *images = out(c, 0);
    PASS_ON(want_dtype(set, "set of images", DT_U8));
    PASS_ON(want_shape(set, "set of images", set->n, set->h, set->w, 3));
    for (int i = 0; i < 5; i++) {
        REQUIRE(!in(c, i)->batched, "input '%s' is batched", in(c, i)->name);
    }
    for (int i = 1; i < 3; i++) {
        PASS_ON(want_dtype(in(c, i), "labels or order", DT_I32));
        PASS_ON(want_shape(in(c, i), "labels or order", set->n, 1, 1, 1));
    }
    PASS_ON(want_dtype(in(c, 3), "cursor", DT_I32));
    PASS_ON(want_shape(in(c, 3), "cursor", 1, 1, 1, 4));
    PASS_ON(want_rows_valid(c, 4));
    PASS_ON(want_dtype(images, "images", DT_U8));
    PASS_ON(want_shape(images, "images", images->n, set->h, set->w, 3));
    for (int i = 1; i < 3; i++) {
        PASS_ON(want_dtype(out(c, i), "labels or ids", DT_I32));
        PASS_ON(want_shape(out(c, i), "labels or ids", images->n, 1, 1, 1));
    }
    REQUIRE(c->node->attr.views.pad >= 0 && c->node->attr.views.pad <= VIEWS_MAX_PAD, "pad is %d",
            c->node->attr.views.pad);
    return NULL;
}

static char *check_rules(const Check *c)
{
    switch (c->node->op) {
    case OP_IMAGE:
        return check_image(c);
    case OP_CONV:
        return check_conv(c);
    case OP_CONV_DGRAD:
        return check_conv_dgrad(c);
    case OP_CONV_WGRAD:
        return check_conv_wgrad(c);
    case OP_BIAS_GRAD:
        return check_bias_grad(c);
    case OP_BN_STATS:
        return check_bn_stats(c);
    case OP_BN_FINALIZE:
        return check_bn_finalize(c);
    case OP_BN_RUNNING:
        return check_bn_running(c);
    case OP_BN_INFER:
        return check_bn_infer(c);
    case OP_BN_APPLY:
        return check_bn_apply(c);
    case OP_BN_REDUCE:
        return check_bn_reduce(c);
    case OP_BN_DPARAM:
        return check_bn_dparam(c);
    case OP_BN_DX:
        return check_bn_dx(c);
    case OP_RELU:
        return check_elementwise(c, 1);
    case OP_RELU_BWD:
    case OP_ADD:
        return check_elementwise(c, 2);
    case OP_AVGPOOL:
    case OP_AVGPOOL_BWD:
    case OP_MAXPOOL:
    case OP_MAXPOOL_BWD:
        return check_pool(c);
    case OP_LINEAR:
    case OP_LINEAR_DGRAD:
    case OP_LINEAR_WGRAD:
        return check_linear(c);
    case OP_CAST:
        return check_cast(c);
    case OP_FOLD_BN:
        return check_fold(c);
    case OP_DISTILL:
        return check_distill(c);
    case OP_GRAD_NORM:
        return check_grad_norm(c);
    case OP_SGD:
        return check_sgd(c);
    case OP_LOSS_SCALE:
        return check_loss_scale(c);
    case OP_GATHER:
        return check_gather(c);
    case OP_VIEWS:
        return check_views(c);
    case OP_COUNT:
        break;
    }
    return xformat("is of an unknown kind");
}

static char *check_tensor(const Graph *g, int id)
{
    const Tensor *t = &g->tensors[id];
    REQUIRE(t->dtype >= 0 && t->dtype < DT_COUNT, "tensor '%s' has the unknown type %d", t->name,
            (int)t->dtype);
    REQUIRE(t->n > 0 && t->h > 0 && t->w > 0 && t->c > 0, "tensor '%s' is %dx%dx%dx%d", t->name,
            t->n, t->h, t->w, t->c);
    REQUIRE(!t->batched || t->n == g->batch, "batched tensor '%s' has n = %d in a graph for %d",
            t->name, t->n, g->batch);
    REQUIRE(t->producer >= -1 && t->producer < g->n_nodes, "tensor '%s' comes from node %d of %d",
            t->name, t->producer, g->n_nodes);
    if (t->kind == TENSOR_SHARED) {
        REQUIRE(t->shared >= 0 && (size_t)t->shared % dtype_size(t->dtype) == 0,
                "shared tensor '%s' is at byte %d", t->name, t->shared);
        REQUIRE(!t->batched && !t->output, "shared tensor '%s' is batched or an output", t->name);
    }
    if (t->kind != TENSOR_PARAM && t->kind != TENSOR_GRAD) {
        REQUIRE(t->kind == TENSOR_ACT || t->producer < 0, "input '%s' is written by a node",
                t->name);
        return NULL;
    }
    REQUIRE(g->params != NULL && t->param >= 0 && t->param < g->params->count,
            "tensor '%s' refers to parameter %d", t->name, t->param);
    const Param *p = &g->params->items[t->param];
    REQUIRE(t->dtype == g->math && tensor_elems(t) == p->count && !t->batched,
            "tensor '%s' does not fit parameter '%s'", t->name, p->name);
    REQUIRE(t->kind == TENSOR_PARAM || p->trainable,
            "'%s' is the gradient of '%s', which is not trainable", t->name, p->name);
    return NULL;
}

/* Ids in range, everything read was written before, one writer per activation, the accumulate flag
 * of gradients. */
static char *check_order(const Check *c, int index, bool *written)
{
    const Graph *g = c->g;
    const Node *node = c->node;
    REQUIRE(node->n_in >= 0 && node->n_in <= NODE_MAX_IN && node->n_out >= 0 &&
                node->n_out <= NODE_MAX_OUT,
            "has %d inputs and %d outputs", node->n_in, node->n_out);
    for (int k = 0; k < node->n_in; k++) {
        const int id = node->in[k];
        REQUIRE(id >= -1 && id < g->n_tensors, "reads tensor %d of %d", id, g->n_tensors);
        REQUIRE(id < 0 || g->tensors[id].kind != TENSOR_ACT || written[id],
                "reads '%s' before it is written", g->tensors[id].name);
    }
    for (int k = node->n_in; k < NODE_MAX_IN; k++) {
        REQUIRE(node->in[k] == -1, "has %d inputs but fills slot %d", node->n_in, k);
    }
    for (int k = 0; k < node->n_out; k++) {
        const int id = node->out[k];
        REQUIRE(id >= -1 && id < g->n_tensors, "writes tensor %d of %d", id, g->n_tensors);
        if (id < 0) {
            continue;
        }
        const Tensor *t = &g->tensors[id];
        REQUIRE(t->kind != TENSOR_INPUT, "writes the input '%s'", t->name);
        REQUIRE((t->kind != TENSOR_PARAM && t->kind != TENSOR_SHARED) ||
                    op_alias_input(node->op, k) >= 0,
                "writes the %s '%s'", t->kind == TENSOR_PARAM ? "parameter" : "shared tensor",
                t->name);
        if (t->kind == TENSOR_ACT) {
            REQUIRE(!written[id], "writes '%s', which has a writer already", t->name);
            REQUIRE(t->producer == index, "writes '%s', whose producer is recorded as node %d",
                    t->name, t->producer);
        }
        if (t->kind == TENSOR_GRAD) {
            REQUIRE(node->accumulate == written[id],
                    written[id] ? "overwrites the gradient '%s' instead of adding"
                                : "adds to the gradient '%s' before it is written",
                    t->name);
        }
        written[id] = true;
    }
    return NULL;
}

static char *validate_nodes(const Graph *g, bool *written)
{
    for (int i = 0; i < g->n_nodes; i++) {
        const Check c = {g, &g->nodes[i]};
        if (c.node->op < 0 || c.node->op >= OP_COUNT) {
            return xformat("node %d is of the unknown kind %d", i, (int)c.node->op);
        }
        char *wrong = check_order(&c, i, written);
        if (wrong == NULL) {
            wrong = check_rules(&c);
        }
        if (wrong != NULL) {
            char *text =
                xformat("node %d, %s '%s': %s", i, op_name(c.node->op), c.node->name, wrong);
            free(wrong);
            return text;
        }
    }
    for (int t = 0; t < g->n_tensors; t++) {
        if (g->tensors[t].producer >= 0 && !written[t]) {
            return xformat("tensor '%s' is not written by its producer, node %d",
                           g->tensors[t].name, g->tensors[t].producer);
        }
    }
    return NULL;
}

char *graph_validate(const Graph *g)
{
    for (int t = 0; t < g->n_tensors; t++) {
        char *wrong = check_tensor(g, t);
        if (wrong != NULL) {
            return wrong;
        }
    }
    bool *written = xcalloc((size_t)g->n_tensors + 1, sizeof *written);
    char *wrong = validate_nodes(g, written);
    free(written);
    return wrong;
}
