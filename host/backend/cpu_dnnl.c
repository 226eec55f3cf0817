/* Convolutions and matrix products through oneDNN. Activations are N H W C as they lie; weights are
 * in whatever blocked layout the chosen implementation wants, filled by a reorder when weights
 * change; weight gradients come out in such a layout too and are reordered into (or onto) the OHWI
 * arena. All memory objects are made once; a run only sets handles. */
#include "backend/cpu.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ARGS = 6, CANDIDATES_MAX = 4, CACHED_PRIMITIVES = 4 };

#define DNNL_OK(call)                                                                              \
    do {                                                                                           \
        const dnnl_status_t status_ = (call);                                                      \
        CHECK(status_ == dnnl_success, "oneDNN: %s returned status %d", #call, (int)status_);      \
    } while (0)

struct DnnlContext {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

struct DnnlConv {
    DnnlContext *context;
    ConvShape shape;
    char name[64];
    bool gemm;   /* 1x1 weight gradient as a matrix product */
    bool copies; /* the residual is copied into y and summed there */
    dnnl_primitive_t primitive;
    dnnl_primitive_t reorder;     /* pack, or unpack of a weight gradient */
    dnnl_primitive_t reorder_add; /* unpack that adds; NULL for pack */
    dnnl_memory_t plain, packed;  /* weights: OHWI fp32, and the implementation's layout */
    dnnl_memory_t x, y, bias, residual, scratchpad;
    void *weights;   /* packed; NULL for weight gradients, which pass through the workspace */
    float *expanded; /* weights with padding channels of zeros; NULL where there are none */
    size_t packed_bytes, scratch_bytes, y_bytes;
};

static dnnl_cpu_isa_t isa_of_cap(const char *cap)
{
    if (strcmp(cap, "base") == 0) {
        return dnnl_cpu_isa_sse41;
    }
    if (strcmp(cap, "avx2") == 0) {
        return dnnl_cpu_isa_avx2;
    }
    return strcmp(cap, "avx512_core") == 0 ? dnnl_cpu_isa_avx512_core
                                           : dnnl_cpu_isa_avx512_core_bf16;
}

Err *cpu_dnnl_open(const char *cap, DnnlContext **out)
{
    if (cap) {
        /* refused once oneDNN has generated code; the first cap then stays */
        (void)dnnl_set_max_cpu_isa(isa_of_cap(cap));
    }
    /* a large cache would keep the code of every way that was only timed; a few entries serve
     * equal parts */
    DNNL_OK(dnnl_set_primitive_cache_capacity(CACHED_PRIMITIVES));
    DnnlContext *context = xcalloc(1, sizeof *context);
    dnnl_status_t status = dnnl_engine_create(&context->engine, dnnl_cpu, 0);
    if (status == dnnl_success) {
        status = dnnl_stream_create(&context->stream, context->engine, dnnl_stream_default_flags);
    }
    if (status != dnnl_success) {
        cpu_dnnl_close(context);
        return err_new(EXIT_NO_DEVICE, "oneDNN cannot open its CPU engine (status %d)",
                       (int)status);
    }
    *out = context;
    return NULL;
}

void cpu_dnnl_close(DnnlContext *context)
{
    if (!context) {
        return;
    }
    if (context->stream) {
        dnnl_stream_destroy(context->stream);
    }
    if (context->engine) {
        dnnl_engine_destroy(context->engine);
    }
    free(context);
}

static const char *isa_text(dnnl_cpu_isa_t isa)
{
    switch (isa) {
    case dnnl_cpu_isa_sse41:
        return "sse4.1";
    case dnnl_cpu_isa_avx:
        return "avx";
    case dnnl_cpu_isa_avx2:
        return "avx2";
    case dnnl_cpu_isa_avx2_vnni:
        return "avx2_vnni";
    case dnnl_cpu_isa_avx512_core:
        return "avx512_core";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "avx512_core_vnni";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "avx512_core_bf16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "avx512_core_amx";
    default:
        return "other";
    }
}

void cpu_dnnl_describe(char *text, size_t size)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(text, size, "oneDNN %d.%d.%d, %s", version->major, version->minor, version->patch,
             isa_text(dnnl_get_effective_cpu_isa()));
}

bool cpu_dnnl_bf16_native(void)
{
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    return isa == dnnl_cpu_isa_avx512_core_bf16 || isa == dnnl_cpu_isa_avx512_core_amx;
}

void cpu_dnnl_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float *a,
                   const float *b, float beta, float *c)
{
    DNNL_OK(dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1.0f, a,
                       a_transposed ? m : k, b, b_transposed ? k : n, beta, c, n));
}

static dnnl_data_type_t data_type(DType type)
{
    return type == DT_F32 ? dnnl_f32 : dnnl_bf16;
}

/* x, weights, bias, y of a shape; weights in the layout of the implementation's choice. */
typedef struct {
    dnnl_memory_desc_t x, y, bias, weights, plain;
    dnnl_dims_t strides, padding;
} ConvMemory;

/* The OHWI fp32 arena seen as weights [o, i, h, w], or [g, o/g, i/g, h, w]. */
static dnnl_memory_desc_t plain_weights(const ConvShape *s)
{
    const dnnl_dim_t each = (dnnl_dim_t)s->ic / s->groups;
    const dnnl_dim_t pixel = each * s->kernel_w;
    const dnnl_dim_t filter = pixel * s->kernel_h;
    dnnl_memory_desc_t md;
    if (s->groups == 1) {
        const dnnl_dims_t dims = {s->oc, each, s->kernel_h, s->kernel_w};
        const dnnl_dims_t strides = {filter, 1, pixel, each};
        DNNL_OK(dnnl_memory_desc_init_by_strides(&md, 4, dims, dnnl_f32, strides));
        return md;
    }
    const dnnl_dims_t dims = {s->groups, s->oc / s->groups, each, s->kernel_h, s->kernel_w};
    const dnnl_dims_t strides = {filter * (s->oc / s->groups), filter, 1, pixel, each};
    DNNL_OK(dnnl_memory_desc_init_by_strides(&md, 5, dims, dnnl_f32, strides));
    return md;
}

static ConvMemory conv_memory(const ConvShape *s)
{
    ConvMemory m = {.strides = {s->stride, s->stride}, .padding = {s->pad, s->pad}};
    const dnnl_dims_t x_dims = {s->n, s->ic, s->h, s->w};
    const dnnl_dims_t y_dims = {s->n, s->oc, s->oh, s->ow};
    const dnnl_dims_t bias_dims = {s->oc};
    DNNL_OK(dnnl_memory_desc_init_by_tag(&m.x, 4, x_dims, data_type(s->act), dnnl_nhwc));
    DNNL_OK(dnnl_memory_desc_init_by_tag(&m.y, 4, y_dims, data_type(s->act), dnnl_nhwc));
    DNNL_OK(dnnl_memory_desc_init_by_tag(&m.bias, 1, bias_dims, dnnl_f32, dnnl_a));
    m.plain = plain_weights(s);
    DNNL_OK(dnnl_memory_desc_init_by_tag(&m.weights, m.plain.ndims, m.plain.dims,
                                         s->kind == CONV_WGRAD ? dnnl_f32 : data_type(s->act),
                                         dnnl_format_tag_any));
    return m;
}

typedef enum { RESIDUAL_BINARY, RESIDUAL_SUM } ResidualForm;

static dnnl_primitive_attr_t conv_attr(const ConvShape *s, const ConvMemory *m, ResidualForm form)
{
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t ops;
    DNNL_OK(dnnl_primitive_attr_create(&attr));
    DNNL_OK(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    if (s->kind != CONV_FORWARD) {
        return attr;
    }
    DNNL_OK(dnnl_post_ops_create(&ops));
    if (s->residual && form == RESIDUAL_BINARY) {
        DNNL_OK(dnnl_post_ops_append_binary(ops, dnnl_binary_add, &m->y));
    } else if (s->residual) {
        DNNL_OK(dnnl_post_ops_append_sum(ops, 1.0f));
    }
    if (s->relu) {
        DNNL_OK(dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f));
    }
    DNNL_OK(dnnl_primitive_attr_set_post_ops(attr, ops));
    DNNL_OK(dnnl_post_ops_destroy(ops));
    return attr;
}

static bool forward_desc(const ConvShape *s, const ConvMemory *m, dnnl_convolution_desc_t *desc)
{
    dnnl_memory_desc_t weights = m->weights;
    if (s->kind ==
        CONV_WGRAD) { /* the hint of a backward descriptor has the activations' type throughout */
        DNNL_OK(dnnl_memory_desc_init_by_tag(&weights, m->plain.ndims, m->plain.dims,
                                             data_type(s->act), dnnl_format_tag_any));
    }
    const dnnl_prop_kind_t kind =
        s->kind == CONV_FORWARD ? dnnl_forward_inference : dnnl_forward_training;
    return dnnl_convolution_forward_desc_init(desc, kind, dnnl_convolution_direct, &m->x, &weights,
                                              s->kind == CONV_FORWARD && s->bias ? &m->bias : NULL,
                                              &m->y, m->strides, m->padding,
                                              m->padding) == dnnl_success;
}

/* A walk over oneDNN's implementations. The iterator refers to the other members, which must
 * outlive it. */
typedef struct {
    dnnl_convolution_desc_t desc;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t hint;
    dnnl_primitive_desc_iterator_t iterator; /* NULL: there is none */
} ConvWalk;

static void walk_begin(ConvWalk *walk, DnnlContext *context, const ConvShape *s,
                       const ConvMemory *m, ResidualForm form)
{
    *walk = (ConvWalk){.attr = conv_attr(s, m, form)};
    if (!forward_desc(s, m, &walk->desc)) {
        return;
    }
    if (s->kind != CONV_FORWARD &&
        dnnl_primitive_desc_create(&walk->hint, &walk->desc, NULL, context->engine, NULL) !=
            dnnl_success) {
        walk->hint = NULL;
        return;
    }
    if (s->kind == CONV_DGRAD) {
        DNNL_OK(dnnl_convolution_backward_data_desc_init(&walk->desc, dnnl_convolution_direct,
                                                         &m->x, &m->weights, &m->y, m->strides,
                                                         m->padding, m->padding));
    } else if (s->kind == CONV_WGRAD) {
        DNNL_OK(dnnl_convolution_backward_weights_desc_init(&walk->desc, dnnl_convolution_direct,
                                                            &m->x, &m->weights, NULL, &m->y,
                                                            m->strides, m->padding, m->padding));
    }
    if (dnnl_primitive_desc_iterator_create(&walk->iterator, &walk->desc, walk->attr,
                                            context->engine, walk->hint) != dnnl_success) {
        walk->iterator = NULL;
    }
}

static void walk_end(ConvWalk *walk)
{
    if (walk->iterator) {
        dnnl_primitive_desc_iterator_destroy(walk->iterator);
    }
    if (walk->hint) {
        dnnl_primitive_desc_destroy(walk->hint);
    }
    dnnl_primitive_attr_destroy(walk->attr);
}

static const char *implementation_name(const_dnnl_primitive_desc_t pd)
{
    const char *name = "";
    DNNL_OK(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, (void *)&name));
    return name;
}

/* Kinds of implementation, best first: a kind counts only where no better one exists. */
typedef enum { WAY_DIRECT, WAY_GEMM, WAY_PLAIN_LOOPS, WAY_KINDS } WayKind;

static WayKind way_kind(const char *name)
{
    return strncmp(name, "ref", 3) == 0 ? WAY_PLAIN_LOOPS
           : strstr(name, "gemm:")      ? WAY_GEMM
                                        : WAY_DIRECT;
}

/* The ways that oneDNN offers, as positions in its own list. Several entries of one name are one
 * way. */
typedef struct {
    ResidualForm form;
    int position;
    char name[64];
} ConvWay;
typedef struct {
    ConvWay ways[CANDIDATES_MAX];
    int count;
} ConvOffer;

static void offer_add(ConvOffer *offer, ResidualForm form, int position, const char *name,
                      WayKind kind)
{
    if (way_kind(name) != kind || offer->count == CANDIDATES_MAX) {
        return;
    }
    for (int i = 0; i < offer->count; i++) {
        if (offer->ways[i].form == form && strcmp(offer->ways[i].name, name) == 0) {
            return;
        }
    }
    ConvWay *way = &offer->ways[offer->count++];
    *way = (ConvWay){.form = form, .position = position};
    snprintf(way->name, sizeof way->name, "%s", name);
}

static void offer_form(ConvOffer *offer, DnnlContext *context, const ConvShape *s,
                       const ConvMemory *m, ResidualForm form, WayKind kind)
{
    ConvWalk walk;
    walk_begin(&walk, context, s, m, form);
    bool more = walk.iterator != NULL;
    for (int position = 0; more; position++) {
        dnnl_primitive_desc_t pd = dnnl_primitive_desc_iterator_fetch(walk.iterator);
        if (pd) {
            offer_add(offer, form, position, implementation_name(pd), kind);
            dnnl_primitive_desc_destroy(pd);
        }
        more = dnnl_primitive_desc_iterator_next(walk.iterator) == dnnl_success;
    }
    walk_end(&walk);
}

static ConvOffer conv_offer(DnnlContext *context, const ConvShape *s, const ConvMemory *m)
{
    ConvOffer offer = {.count = 0};
    /* oneDNN 2.6 adds a residual wrongly below AVX2 where channels do not fill a vector */
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    const bool binary = !s->residual || (isa != dnnl_cpu_isa_sse41 && isa != dnnl_cpu_isa_avx);
    for (int kind = WAY_DIRECT; kind < WAY_KINDS && offer.count == 0; kind++) {
        if (binary) {
            offer_form(&offer, context, s, m, RESIDUAL_BINARY, (WayKind)kind);
        }
        if (s->residual) {
            offer_form(&offer, context, s, m, RESIDUAL_SUM, (WayKind)kind);
        }
    }
    return offer;
}

static dnnl_primitive_desc_t conv_pick(DnnlContext *context, const ConvShape *s,
                                       const ConvMemory *m, const ConvWay *way)
{
    ConvWalk walk;
    dnnl_primitive_desc_t pd = NULL;
    walk_begin(&walk, context, s, m, way->form);
    bool more = walk.iterator != NULL;
    for (int position = 0; more && position < way->position; position++) {
        more = dnnl_primitive_desc_iterator_next(walk.iterator) == dnnl_success;
    }
    if (more) {
        pd = dnnl_primitive_desc_iterator_fetch(walk.iterator);
    }
    walk_end(&walk);
    return pd;
}

/* x has more channels than the weights: the others are zero, and have no gradient. */
static bool is_padded(const ConvShape *s)
{
    return s->groups == 1 && s->weight_ic < s->ic;
}

static size_t plain_elems(const ConvShape *s)
{
    return (size_t)s->oc * (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)(s->ic / s->groups);
}

/* A 1x1 weight gradient without stride is dw[o][i] = dy[p][o]^T x[p][i], in the arena's own
 * layout. */
static bool gemm_fits(const ConvShape *s)
{
    return s->kind == CONV_WGRAD && s->kernel_h == 1 && s->kernel_w == 1 && s->stride == 1 &&
           s->pad == 0 && s->groups == 1 && !is_padded(s);
}

int cpu_dnnl_conv_candidates(DnnlContext *context, const ConvShape *shape)
{
    const ConvMemory m = conv_memory(shape);
    return conv_offer(context, shape, &m).count + (gemm_fits(shape) ? 1 : 0);
}

static dnnl_memory_t memory_of(const DnnlContext *context, const dnnl_memory_desc_t *md)
{
    dnnl_memory_t memory;
    DNNL_OK(dnnl_memory_create(&memory, md, context->engine, DNNL_MEMORY_NONE));
    return memory;
}

static dnnl_primitive_t make_reorder(const DnnlContext *context, const dnnl_memory_desc_t *from,
                                     const dnnl_memory_desc_t *to, bool add)
{
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t primitive;
    DNNL_OK(dnnl_primitive_attr_create(&attr));
    if (add) {
        dnnl_post_ops_t ops;
        DNNL_OK(dnnl_post_ops_create(&ops));
        DNNL_OK(dnnl_post_ops_append_sum(ops, 1.0f));
        DNNL_OK(dnnl_primitive_attr_set_post_ops(attr, ops));
        DNNL_OK(dnnl_post_ops_destroy(ops));
    }
    DNNL_OK(
        dnnl_reorder_primitive_desc_create(&pd, from, context->engine, to, context->engine, attr));
    DNNL_OK(dnnl_primitive_create(&primitive, pd));
    DNNL_OK(dnnl_primitive_desc_destroy(pd));
    DNNL_OK(dnnl_primitive_attr_destroy(attr));
    return primitive;
}

static const dnnl_memory_desc_t *query_md(const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, what, 0);
    CHECK(md, "oneDNN knows no memory descriptor %d", (int)what);
    return md;
}

static void set_up(DnnlConv *conv, const ConvMemory *m, dnnl_primitive_desc_t pd)
{
    DnnlContext *context = conv->context;
    snprintf(conv->name, sizeof conv->name, "%s%s", implementation_name(pd),
             conv->copies ? " sum" : "");
    DNNL_OK(dnnl_primitive_create(&conv->primitive, pd));
    const dnnl_memory_desc_t *scratch = query_md(pd, dnnl_query_scratchpad_md);
    conv->scratch_bytes = cpu_lines(dnnl_memory_desc_get_size(scratch));
    conv->scratchpad = memory_of(context, scratch);
    const dnnl_memory_desc_t *packed = query_md(
        pd, conv->shape.kind == CONV_WGRAD ? dnnl_query_diff_weights_md : dnnl_query_weights_md);
    conv->packed_bytes = cpu_lines(dnnl_memory_desc_get_size(packed));
    conv->packed = memory_of(context, packed);
    conv->plain = memory_of(context, &m->plain);
    conv->y_bytes = dnnl_memory_desc_get_size(&m->y);
    conv->x = memory_of(context, &m->x);
    conv->y = memory_of(context, &m->y);
    conv->residual = memory_of(context, &m->y);
    conv->bias = memory_of(context, &m->bias);
    if (conv->shape.kind == CONV_WGRAD) {
        conv->reorder = make_reorder(context, packed, &m->plain, false);
        conv->reorder_add = make_reorder(context, packed, &m->plain, true);
    } else {
        conv->reorder = make_reorder(context, &m->plain, packed, false);
        conv->weights = xaligned(conv->packed_bytes);
        conv->expanded =
            is_padded(&conv->shape) ? xaligned(plain_elems(&conv->shape) * sizeof(float)) : NULL;
        DNNL_OK(dnnl_memory_set_data_handle(conv->packed, conv->weights));
    }
}

/* dst [o][i] = src [o][p] (dy read transposed) times weights [p][i] (x). */
static Err *open_gemm(DnnlConv *conv)
{
    const ConvShape *s = &conv->shape;
    const dnnl_dim_t pixels = (dnnl_dim_t)s->n * s->h * s->w;
    const dnnl_dims_t a_dims = {s->oc, pixels};
    const dnnl_dims_t a_strides = {1, s->oc};
    const dnnl_dims_t b_dims = {pixels, s->ic};
    const dnnl_dims_t c_dims = {s->oc, s->ic};
    dnnl_memory_desc_t a;
    dnnl_memory_desc_t b;
    dnnl_memory_desc_t c;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd;
    DNNL_OK(dnnl_memory_desc_init_by_strides(&a, 2, a_dims, data_type(s->act), a_strides));
    DNNL_OK(dnnl_memory_desc_init_by_tag(&b, 2, b_dims, data_type(s->act), dnnl_ab));
    DNNL_OK(dnnl_memory_desc_init_by_tag(&c, 2, c_dims, dnnl_f32, dnnl_ab));
    DNNL_OK(dnnl_primitive_attr_create(&attr));
    DNNL_OK(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    DNNL_OK(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c));
    const dnnl_status_t status =
        dnnl_primitive_desc_create(&pd, &desc, attr, conv->context->engine, NULL);
    DNNL_OK(dnnl_primitive_attr_destroy(attr));
    if (status != dnnl_success) {
        return err_new(EXIT_NO_DEVICE, "oneDNN has no matrix product for this shape (status %d)",
                       (int)status);
    }
    DNNL_OK(dnnl_primitive_create(&conv->primitive, pd));
    const dnnl_memory_desc_t *scratch = query_md(pd, dnnl_query_scratchpad_md);
    conv->scratch_bytes = cpu_lines(dnnl_memory_desc_get_size(scratch));
    conv->scratchpad = memory_of(conv->context, scratch);
    conv->packed_bytes = cpu_lines(dnnl_memory_desc_get_size(&c));
    conv->y = memory_of(conv->context, &a);
    conv->x = memory_of(conv->context, &b);
    conv->packed = memory_of(conv->context, &c);
    snprintf(conv->name, sizeof conv->name, "matmul");
    DNNL_OK(dnnl_primitive_desc_destroy(pd));
    return NULL;
}

Err *cpu_dnnl_conv_open(DnnlContext *context, const ConvShape *shape, int candidate, DnnlConv **out)
{
    const ConvMemory m = conv_memory(shape);
    const ConvOffer offer = conv_offer(context, shape, &m);
    DnnlConv *conv = xcalloc(1, sizeof *conv);
    conv->context = context;
    conv->shape = *shape;
    *out = NULL;
    if (candidate == offer.count && gemm_fits(shape)) {
        conv->gemm = true;
        Err *err = open_gemm(conv);
        if (err) {
            cpu_dnnl_conv_close(conv);
            return err;
        }
        *out = conv;
        return NULL;
    }
    dnnl_primitive_desc_t pd =
        candidate < offer.count ? conv_pick(context, shape, &m, &offer.ways[candidate]) : NULL;
    if (!pd) {
        free(conv);
        return err_new(EXIT_NO_DEVICE, "oneDNN has no way %d of %d for this convolution", candidate,
                       offer.count);
    }
    conv->copies = shape->residual && offer.ways[candidate].form == RESIDUAL_SUM;
    set_up(conv, &m, pd);
    DNNL_OK(dnnl_primitive_desc_destroy(pd));
    *out = conv;
    return NULL;
}

static void destroy_memory(dnnl_memory_t memory)
{
    if (memory) {
        dnnl_memory_destroy(memory);
    }
}

static void destroy_primitive(dnnl_primitive_t primitive)
{
    if (primitive) {
        dnnl_primitive_destroy(primitive);
    }
}

void cpu_dnnl_conv_close(DnnlConv *conv)
{
    if (!conv) {
        return;
    }
    destroy_primitive(conv->primitive);
    destroy_primitive(conv->reorder);
    destroy_primitive(conv->reorder_add);
    destroy_memory(conv->plain);
    destroy_memory(conv->packed);
    destroy_memory(conv->x);
    destroy_memory(conv->y);
    destroy_memory(conv->bias);
    destroy_memory(conv->residual);
    destroy_memory(conv->scratchpad);
    free(conv->weights);
    free(conv->expanded);
    free(conv);
}

const char *cpu_dnnl_conv_name(const DnnlConv *conv)
{
    return conv->name;
}

size_t cpu_dnnl_conv_workspace(const DnnlConv *conv)
{
    if (conv->shape.kind != CONV_WGRAD) {
        return conv->scratch_bytes;
    }
    const size_t whole = is_padded(&conv->shape) ? plain_elems(&conv->shape) * sizeof(float) : 0;
    return conv->scratch_bytes + conv->packed_bytes + cpu_lines(whole);
}

static void execute_reorder(const DnnlConv *conv, dnnl_primitive_t reorder, dnnl_memory_t from,
                            dnnl_memory_t to)
{
    const dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    DNNL_OK(dnnl_primitive_execute(reorder, conv->context->stream, 2, args));
}

static void set_handle(dnnl_memory_t memory, const void *data)
{
    DNNL_OK(dnnl_memory_set_data_handle(memory, (void *)data));
}

void cpu_dnnl_conv_pack(DnnlConv *conv, const float *weights)
{
    CHECK(conv->shape.kind != CONV_WGRAD, "a weight gradient has no weights to pack");
    const size_t wide = (size_t)(conv->shape.ic / conv->shape.groups);
    const size_t narrow = (size_t)conv->shape.weight_ic;
    for (size_t i = 0; conv->expanded && i < plain_elems(&conv->shape) / wide; i++) {
        memcpy(conv->expanded + i * wide, weights + i * narrow, narrow * sizeof(float));
    }
    set_handle(conv->plain, conv->expanded ? conv->expanded : weights);
    execute_reorder(conv, conv->reorder, conv->plain, conv->packed);
}

static void run_forward(DnnlConv *conv, const ConvArgs *args)
{
    dnnl_exec_arg_t list[MAX_ARGS] = {{DNNL_ARG_SRC, conv->x},
                                      {DNNL_ARG_WEIGHTS, conv->packed},
                                      {DNNL_ARG_DST, conv->y},
                                      {DNNL_ARG_SCRATCHPAD, conv->scratchpad}};
    int count = 4;
    if (conv->shape.bias) {
        set_handle(conv->bias, args->bias);
        list[count++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, conv->bias};
    }
    if (conv->copies && args->residual != args->y) {
        memcpy(args->y, args->residual, conv->y_bytes);
    } else if (conv->shape.residual && !conv->copies) {
        set_handle(conv->residual, args->residual);
        list[count++] =
            (dnnl_exec_arg_t){DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, conv->residual};
    }
    DNNL_OK(dnnl_primitive_execute(conv->primitive, conv->context->stream, count, list));
}

/* Drops the gradients of padding channels. */
static void narrow_gradient(const ConvShape *s, const float *whole, float *grad, bool add)
{
    const size_t filters = plain_elems(s) / (size_t)s->ic;
    for (size_t i = 0; i < filters; i++) {
        for (int c = 0; c < s->weight_ic; c++) {
            float *to = grad + i * (size_t)s->weight_ic + (size_t)c;
            *to = (add ? *to : 0.0f) + whole[i * (size_t)s->ic + (size_t)c];
        }
    }
}

static void run_wgrad(DnnlConv *conv, const ConvArgs *args)
{
    float *whole =
        (float *)(void *)((char *)args->workspace + conv->scratch_bytes + conv->packed_bytes);
    set_handle(conv->packed, (char *)args->workspace + conv->scratch_bytes);
    const dnnl_exec_arg_t list[4] = {{DNNL_ARG_SRC, conv->x},
                                     {DNNL_ARG_DIFF_DST, conv->y},
                                     {DNNL_ARG_DIFF_WEIGHTS, conv->packed},
                                     {DNNL_ARG_SCRATCHPAD, conv->scratchpad}};
    DNNL_OK(dnnl_primitive_execute(conv->primitive, conv->context->stream, 4, list));
    const bool padded = is_padded(&conv->shape);
    set_handle(conv->plain, padded ? whole : args->grad);
    execute_reorder(conv, args->add && !padded ? conv->reorder_add : conv->reorder, conv->packed,
                    conv->plain);
    if (padded) {
        narrow_gradient(&conv->shape, whole, args->grad, args->add);
    }
}

static void run_gemm(DnnlConv *conv, const ConvArgs *args)
{
    float *product =
        args->add ? (float *)(void *)((char *)args->workspace + conv->scratch_bytes) : args->grad;
    set_handle(conv->packed, product);
    const dnnl_exec_arg_t list[4] = {{DNNL_ARG_SRC, conv->y},
                                     {DNNL_ARG_WEIGHTS, conv->x},
                                     {DNNL_ARG_DST, conv->packed},
                                     {DNNL_ARG_SCRATCHPAD, conv->scratchpad}};
    DNNL_OK(dnnl_primitive_execute(conv->primitive, conv->context->stream, 4, list));
    const size_t count = (size_t)conv->shape.oc * (size_t)conv->shape.ic;
    for (size_t i = 0; args->add && i < count; i++) {
        args->grad[i] += product[i];
    }
}

void cpu_dnnl_conv_run(DnnlConv *conv, const ConvArgs *args)
{
    set_handle(conv->x, args->x);
    set_handle(conv->y, args->y);
    set_handle(conv->scratchpad, args->workspace);
    if (conv->gemm) {
        run_gemm(conv, args);
        return;
    }
    switch (conv->shape.kind) {
    case CONV_FORWARD:
        run_forward(conv, args);
        return;
    case CONV_WGRAD:
        run_wgrad(conv, args);
        return;
    default: {
        const dnnl_exec_arg_t list[4] = {{DNNL_ARG_DIFF_SRC, conv->x},
                                         {DNNL_ARG_WEIGHTS, conv->packed},
                                         {DNNL_ARG_DIFF_DST, conv->y},
                                         {DNNL_ARG_SCRATCHPAD, conv->scratchpad}};
        DNNL_OK(dnnl_primitive_execute(conv->primitive, conv->context->stream, 4, list));
        return;
    }
    }
}
