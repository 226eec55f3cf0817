/* Definitions of convolution and linear layers and their gradients: direct sums in double. Fused
 * forms round where their parts would store. */
#include "ref_ops.h"

#include <string.h>

/* Everything about one convolution that the three loops share. */
typedef struct {
    const ConvAttr *attr;
    int n, h, w, c; /* input */
    int oh, ow, o;  /* output */
    /* channels of one group; those of the input beyond all groups are padding and ignored */
    int group_c, group_o;
} Conv;

static Conv conv_shape(const RefOp *op, const Tensor *x, const Tensor *w, const Tensor *y)
{
    Conv conv = {&op->node->attr.conv, x->n, x->h, x->w, x->c, y->h, y->w, y->c, w->c, 0};
    conv.group_o = conv.o / conv.attr->groups;
    return conv;
}

/* One tap of one output element: the input channels of its group, and the weights that meet
 * them. */
typedef struct {
    size_t y;    /* output element */
    size_t x, w; /* first of group_c consecutive elements */
} Tap;

typedef void (*TapLoop)(void *context, const Conv *conv, const Tap *tap);

/* Visits every (output element, kernel position) pair that lies inside the image. */
static void conv_taps(const Conv *conv, TapLoop visit, void *context)
{
    const ConvAttr *a = conv->attr;
    const size_t outputs = (size_t)conv->n * (size_t)conv->oh * (size_t)conv->ow * (size_t)conv->o;
    for (size_t y = 0; y < outputs; y++) {
        const int o = (int)(y % (size_t)conv->o);
        const size_t pixel = y / (size_t)conv->o;
        const int ox = (int)(pixel % (size_t)conv->ow);
        const int oy = (int)(pixel / (size_t)conv->ow % (size_t)conv->oh);
        const int n = (int)(pixel / (size_t)conv->ow / (size_t)conv->oh);
        const int first_c = o / conv->group_o * conv->group_c;
        for (int ky = 0; ky < a->kernel_h; ky++) {
            const int iy = oy * a->stride - a->pad + ky;
            for (int kx = 0; kx < a->kernel_w; kx++) {
                const int ix = ox * a->stride - a->pad + kx;
                if (iy < 0 || iy >= conv->h || ix < 0 || ix >= conv->w) {
                    continue;
                }
                const Tap tap = {
                    .y = y,
                    .x = (((size_t)n * (size_t)conv->h + (size_t)iy) * (size_t)conv->w +
                          (size_t)ix) *
                             (size_t)conv->c +
                         (size_t)first_c,
                    .w = (((size_t)o * (size_t)a->kernel_h + (size_t)ky) * (size_t)a->kernel_w +
                          (size_t)kx) *
                         (size_t)conv->group_c,
                };
                visit(context, conv, &tap);
            }
        }
    }
}

typedef struct {
    const double *x, *w, *dy;
    double *y, *dx, *dw;
} ConvData;

static void tap_forward(void *context, const Conv *conv, const Tap *tap)
{
    const ConvData *d = context;
    double sum = 0;
    for (int i = 0; i < conv->group_c; i++) {
        sum += d->x[tap->x + (size_t)i] * d->w[tap->w + (size_t)i];
    }
    d->y[tap->y] += sum;
}

static void tap_dgrad(void *context, const Conv *conv, const Tap *tap)
{
    const ConvData *d = context;
    for (int i = 0; i < conv->group_c; i++) {
        d->dx[tap->x + (size_t)i] += d->dy[tap->y] * d->w[tap->w + (size_t)i];
    }
}

static void tap_wgrad(void *context, const Conv *conv, const Tap *tap)
{
    const ConvData *d = context;
    for (int i = 0; i < conv->group_c; i++) {
        d->dw[tap->w + (size_t)i] += d->dy[tap->y] * d->x[tap->x + (size_t)i];
    }
}

/* x as the batch norm in front leaves it. */
static void normalise_input(const RefOp *op, int coef_slot)
{
    if (op->in[coef_slot]) {
        ref_affine(ref_in(op, 0), op->in[0], op->in[coef_slot],
                   ref_rows_valid(op, coef_slot + 1, ref_in(op, 0)->n),
                   op->node->attr.conv.pre_relu);
    }
}

void ref_conv(const RefOp *op)
{
    normalise_input(op, 4);
    const Conv conv = conv_shape(op, ref_in(op, 0), ref_in(op, 1), ref_out(op, 0));
    const double *bias = op->in[2];
    const double *residual = op->in[3];
    const size_t outputs = tensor_elems(ref_out(op, 0));
    ConvData data = {.x = op->in[0], .w = op->in[1], .y = op->out[0]};
    for (size_t i = 0; i < outputs; i++) {
        data.y[i] = (bias ? bias[i % (size_t)conv.o] : 0) + (residual ? residual[i] : 0);
    }
    conv_taps(&conv, tap_forward, &data);
    for (size_t i = 0; conv.attr->relu && i < outputs; i++) {
        data.y[i] = data.y[i] < 0 ? 0 : data.y[i];
    }
    if (op->out[1]) {
        const Tensor *y = ref_out(op, 0);
        for (size_t i = 0; i < outputs; i++) {
            data.y[i] = ref_round(y->dtype, data.y[i]);
        }
        ref_sums(y, data.y, ref_rows_valid(op, 5, y->n), op->out[1]);
    }
}

void ref_conv_dgrad(const RefOp *op)
{
    const Conv conv = conv_shape(op, ref_out(op, 0), ref_in(op, 1), ref_in(op, 0));
    ConvData data = {.dy = op->in[0], .w = op->in[1], .dx = op->out[0]};
    memset(data.dx, 0, tensor_elems(ref_out(op, 0)) * sizeof(double));
    conv_taps(&conv, tap_dgrad, &data);
    if (!op->in[2]) {
        return;
    }
    const Tensor *x = ref_in(op, 2);
    const int rows = ref_rows_valid(op, 4, x->n);
    const size_t valid = tensor_elems(x) / (size_t)x->n * (size_t)rows;
    for (size_t i = 0; i < tensor_elems(x); i++) {
        const bool open = i < valid && ref_affine_at(x, op->in[2], op->in[3], i) > 0;
        data.dx[i] = open ? ref_round(x->dtype, data.dx[i]) : 0;
    }
    ref_gradient_sums(x, data.dx, op->in[2], op->in[3], rows, op->out[1]);
}

void ref_conv_wgrad(const RefOp *op)
{
    normalise_input(op, 2);
    const Conv conv = conv_shape(op, ref_in(op, 0), ref_out(op, 0), ref_in(op, 1));
    ConvData data = {.x = op->in[0], .dy = op->in[1], .dw = op->out[0]};
    memset(data.dw, 0, tensor_elems(ref_out(op, 0)) * sizeof(double));
    conv_taps(&conv, tap_wgrad, &data);
}

void ref_bias_grad(const RefOp *op)
{
    const Tensor *dy = ref_in(op, 0);
    double *db = op->out[0];
    memset(db, 0, (size_t)dy->c * sizeof(double));
    for (size_t i = 0; i < tensor_elems(dy); i++) {
        db[i % (size_t)dy->c] += op->in[0][i];
    }
}

void ref_linear(const RefOp *op)
{
    const size_t n = (size_t)ref_in(op, 0)->n;
    const size_t inputs = (size_t)ref_in(op, 0)->c;
    const size_t outputs = (size_t)ref_out(op, 0)->c;
    for (size_t row = 0; row < n; row++) {
        for (size_t o = 0; o < outputs; o++) {
            double sum = op->in[2] ? op->in[2][o] : 0;
            for (size_t i = 0; i < inputs; i++) {
                sum += op->in[0][row * inputs + i] * op->in[1][o * inputs + i];
            }
            op->out[0][row * outputs + o] = sum;
        }
    }
}

void ref_linear_dgrad(const RefOp *op)
{
    const size_t n = (size_t)ref_in(op, 0)->n;
    const size_t outputs = (size_t)ref_in(op, 0)->c;
    const size_t inputs = (size_t)ref_out(op, 0)->c;
    for (size_t row = 0; row < n; row++) {
        for (size_t i = 0; i < inputs; i++) {
            double sum = 0;
            for (size_t o = 0; o < outputs; o++) {
                sum += op->in[0][row * outputs + o] * op->in[1][o * inputs + i];
            }
            op->out[0][row * inputs + i] = sum;
        }
    }
}

void ref_linear_wgrad(const RefOp *op)
{
    const size_t n = (size_t)ref_in(op, 0)->n;
    const size_t inputs = (size_t)ref_in(op, 0)->c;
    const size_t outputs = (size_t)ref_in(op, 1)->c;
    for (size_t o = 0; o < outputs; o++) {
        for (size_t i = 0; i < inputs; i++) {
            double sum = 0;
            for (size_t row = 0; row < n; row++) {
                sum += op->in[1][row * outputs + o] * op->in[0][row * inputs + i];
            }
            op->out[0][o * inputs + i] = sum;
        }
    }
}
