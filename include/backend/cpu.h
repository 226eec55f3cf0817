/* Internals of the cpu backend, shared by its files (host/backend/cpu*.c). Nobody else
 * includes this, but bench/ and tests/.
 *
 * Activations are F32 or BF16 in N H W C; statistics, coefficients, parameters and gradients are
 * fp32; sums over pixels are kept in fp32 for at most CPU_SUM_ROWS rows and then added in double.
 * All work is split over OpenMP threads in fixed, equal parts, so a result repeats exactly at one
 * thread count.
 *
 * Storage as bf16 rounds to nearest even. Where the CPU converts by itself (AVX512-BF16) subnormal
 * numbers become zero. */
#ifndef CUDISTILL_BACKEND_CPU_H
#define CUDISTILL_BACKEND_CPU_H

#include "backend/host_device.h"

/* Instruction sets our own loops are written for. BASE is plain C with 16-byte vectors and runs on
 * any processor. */
typedef enum { CPU_BASE, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16, CPU_ISA_COUNT } CpuIsa;

enum {
    CPU_BLOCK = 64,    /* columns that a loop handles at once: widths are multiples of it */
    CPU_SUM_ROWS = 512 /* rows summed in fp32 before they are added in double */
};

/* How a backward loop learns where the ReLU was open. */
typedef enum {
    MASK_NONE,
    MASK_OUTPUT,   /* y > 0 */
    MASK_RECOMPUTE /* x*scale + shift > 0 */
} MaskKind;

/* Vectors of one value per column, `width` long (the channels, repeated; see cpu_width). */
typedef struct {
    const float *scale, *shift, *mean;
    const float *x_factor, *offset; /* dx = scale*dz + x_factor*(x - mean) + offset */
} ColumnCoef;

/* Scratch of the summing loops: double [2 width] (the sums), then float [2 width]. */
#define CPU_SUM_BYTES(width) ((size_t)(width) * (2 * sizeof(double) + 2 * sizeof(float)))

/* Loops for one instruction set and one storage type. x, y, ... have that type. `rows` x `width`
 * loops need width to be a multiple of CPU_BLOCK; flat loops take any count. No alignment is
 * needed. y may be the same memory as any input that is read at the same element. */
typedef struct {
    const char *name;
    /* acc[0..width) += column sums, acc[width..2 width) += column sums of squares; acc has
     * CPU_SUM_BYTES(width) */
    void (*stats)(const void *x, long rows, int width, double *acc);
    /* y = x*scale + shift (+ residual) (relu) */
    void (*apply)(const void *x, const void *residual, void *y, long rows, int width,
                  const ColumnCoef *coef, bool relu);
    /* dz = (dy + dy2) masked, stored where dz is given; acc += column sums of dz, then of dz*(x -
     * mean) */
    void (*reduce)(const void *dy, const void *dy2, const void *x, const void *y, void *dz,
                   long rows, int width, const ColumnCoef *coef, MaskKind mask, double *acc);
    /* dx = scale*dz' + x_factor*(x - mean) + offset, dz' = masked dz; x_factor NULL: dx =
     * scale*dz' */
    void (*dx)(const void *dz, const void *x, const void *y, void *dx, long rows, int width,
               const ColumnCoef *coef, MaskKind mask);
    void (*relu)(const void *x, void *y, size_t count);
    void (*relu_bwd)(const void *dy, const void *y, void *dx, size_t count);
    void (*add)(const void *a, const void *b, void *y, size_t count, bool relu);
    void (*to_float)(const void *x, float *y, size_t count);
    void (*from_float)(const float *x, void *y, size_t count, float factor); /* y = x*factor */
    void (*accumulate)(const void *x, float *sum, size_t count);             /* sum += x */
    /* Where x is larger than best (or NaN, and best is not): best = x, place = here. */
    void (*max_place)(const void *x, float *best, float *place, size_t count, float here);
    /* sum += x where index equals here */
    void (*accumulate_where)(const void *x, const uint8_t *index, uint8_t here, float *sum,
                             size_t count);
} CpuLoops;

/* Loops on fp32 arenas. */
typedef struct {
    float lr, momentum, dampening, weight_decay, grad_factor; /* grad_factor = GRAD_SCALE * clip */
    bool nesterov, first;
} SgdCoef;
typedef struct {
    void (*sgd)(float *w, float *moment, const float *grad, size_t count, const SgdCoef *coef);
    /* Sum of squares in double; *bad += count of non-finite values. */
    double (*square_sum)(const float *x, size_t count, double *bad);
} CpuArenaLoops;

const CpuLoops *cpu_loops(CpuIsa isa, DType storage); /* storage: F32 or BF16 */
const CpuArenaLoops *cpu_arena_loops(CpuIsa isa);

/* Best instruction set of this machine at or below `cap` ("base", "avx2", "avx512_core",
 * "avx512_core_bf16", NULL = best). */
Err *cpu_isa_detect(const char *cap, CpuIsa *out);
const char *cpu_isa_name(CpuIsa isa);

/* --- convolution --- */
/* Values of a timed choice (Choices) between the ways to compute a convolution: oneDNN's from 0 on,
 * our own Winograd form. */
enum { CHOICE_WINOGRAD = 16 };
typedef enum { CONV_FORWARD, CONV_DGRAD, CONV_WGRAD } ConvKind;
typedef struct {
    ConvKind kind;
    DType act;
    int n, h, w, ic; /* of x (and dx) */
    int oh, ow, oc;  /* of y (and dy) */
    int kernel_h, kernel_w, stride, pad, groups;
    int weight_ic; /* of the weights, per group; fewer than ic where x has padding channels */
    bool bias, residual, relu; /* CONV_FORWARD */
} ConvShape;

/* Pointers of one run. FORWARD: x, bias, residual -> y. DGRAD: y (dy) -> x (dx). WGRAD: x, y (dy)
 * -> grad (OHWI fp32, added to where `add`). Weights come from the last pack. */
typedef struct {
    void *x, *y;
    const float *bias;
    const void *residual;
    float *grad;
    bool add;
    void *workspace;
} ConvArgs;

typedef struct DnnlContext DnnlContext;
typedef struct DnnlConv DnnlConv;
/* Only cpu_dnnl.c knows oneDNN. cap as in cpu_isa_detect; it holds for the process from the first
 * call on. */
Err *cpu_dnnl_open(const char *cap, DnnlContext **out);
void cpu_dnnl_close(DnnlContext *context);
void cpu_dnnl_describe(char *text, size_t size); /* "oneDNN 2.6.3, avx512_core_bf16" */
bool cpu_dnnl_bf16_native(void);                 /* AVX512-BF16 or AMX */
/* Number of ways oneDNN offers for this shape, best guess first; 0 = none. */
int cpu_dnnl_conv_candidates(DnnlContext *context, const ConvShape *shape);
Err *cpu_dnnl_conv_open(DnnlContext *context, const ConvShape *shape, int candidate,
                        DnnlConv **out);
void cpu_dnnl_conv_close(DnnlConv *conv);
const char *cpu_dnnl_conv_name(const DnnlConv *conv);
size_t cpu_dnnl_conv_workspace(const DnnlConv *conv);
void cpu_dnnl_conv_pack(DnnlConv *conv, const float *weights); /* OHWI, fp32; not for WGRAD */
void cpu_dnnl_conv_run(DnnlConv *conv, const ConvArgs *args);
/* Row-major c[m][n] = a*b + beta*c with a [m][k] or, transposed, stored [k][m]; b [k][n] or stored
 * [n][k]. */
void cpu_dnnl_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float *a,
                   const float *b, float beta, float *c);

/* Weight gradients as one oneDNN primitive per thread, each on its part of the batch. */
typedef struct ConvParts ConvParts;
bool cpu_conv_parts_fit(const ConvShape *shape, int threads);
Err *cpu_conv_parts_open(DnnlContext *context, const ConvShape *shape, int way, int threads,
                         ConvParts **out);
void cpu_conv_parts_close(ConvParts *parts);
size_t cpu_conv_parts_workspace(const ConvParts *parts);
void cpu_conv_parts_run(const ConvParts *parts, const ConvArgs *args);

/* Winograd F(2x2, 3x3): 3x3, stride 1, pad 1, one group, channels multiples of 16; FORWARD and
 * DGRAD in bf16 with fp32 transforms. 2.25 times fewer multiplications, and about twice the
 * rounding error of the direct form. */
typedef struct Winograd Winograd;
bool cpu_winograd_supports(CpuIsa isa, const ConvShape *shape);
Winograd *cpu_winograd_open(const ConvShape *shape, int threads);
void cpu_winograd_close(Winograd *winograd);
size_t cpu_winograd_workspace(const Winograd *winograd);
void cpu_winograd_pack(Winograd *winograd, const float *weights);
void cpu_winograd_run(const Winograd *winograd, const ConvArgs *args);

/* The weight gradient in the same form (one pass over x and dy, sums in fp32). `threads` decides
 * the size of its sums. */
typedef struct WinogradGrad WinogradGrad;
bool cpu_winograd_grad_supports(CpuIsa isa, const ConvShape *shape, int threads);
WinogradGrad *cpu_winograd_grad_open(const ConvShape *shape, int threads);
void cpu_winograd_grad_close(WinogradGrad *grad);
size_t cpu_winograd_grad_workspace(const WinogradGrad *grad);
void cpu_winograd_grad_run(const WinogradGrad *grad, const ConvArgs *args);

/* --- the backend's state and its steps --- */
typedef struct {
    HostDevice host; /* first: host_device.h */
    int threads;
    CpuIsa isa;
    DnnlContext *dnnl;
} Cpu;

/* What a prepared step is. run and the rest may be NULL. */
typedef struct CpuStep CpuStep;
struct CpuStep {
    Cpu *cpu;
    const CpuLoops *loops; /* of the node's activation type */
    void (*run)(CpuStep *, const Step *, const RunArgs *);
    void (*pack)(CpuStep *, const Step *, const RunArgs *);
    void (*release)(CpuStep *);
    void *own;  /* the op's */
    int width;  /* columns loops */
    int repeat; /* rows of the tensor per row of `width` columns */
    MaskKind mask;
};

/* Each takes a step with cpu set, and fills loops, run, workspace, ... or says why not. */
Err *cpu_prepare_conv(Backend *backend, Step *step, CpuStep *own);
Err *cpu_prepare_bn(Step *step, CpuStep *own);
Err *cpu_prepare_elementwise(Step *step, CpuStep *own);
Err *cpu_prepare_pool(Step *step, CpuStep *own);
Err *cpu_prepare_linear(Step *step, CpuStep *own);
Err *cpu_prepare_param(Step *step, CpuStep *own);
Err *cpu_prepare_rows(Step *step, CpuStep *own);
Err *cpu_prepare_distill(Step *step, CpuStep *own);

/* Bytes rounded up to whole cache lines: parts of a workspace begin at one. */
static inline size_t cpu_lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}
/* NULL where activations may have this type, else why not. */
Err *cpu_check_storage(const Step *step, DType type);
/* A [rows][channels] array read as [rows/repeat][width], width = repeat*channels, the smallest
 * multiple of CPU_BLOCK. */
int cpu_width(int channels, int *repeat);
/* Part `index` of `parts` equal parts of [0, count), cut at multiples of `grain`. */
typedef struct {
    long begin, end;
} Range;
Range cpu_part(long count, long grain, int index, int parts);
static inline const Tensor *cpu_in(const Step *step, int slot)
{
    const int id = slot < step_node(step)->n_in ? step_node(step)->in[slot] : -1;
    return id < 0 ? NULL : &step->graph->tensors[id];
}
static inline const Tensor *cpu_out(const Step *step, int slot)
{
    const int id = slot < step_node(step)->n_out ? step_node(step)->out[slot] : -1;
    return id < 0 ? NULL : &step->graph->tensors[id];
}
static inline void *cpu_in_at(const Step *step, const RunArgs *args, int slot)
{
    return slot < step_node(step)->n_in ? step_address(step, args, step_node(step)->in[slot])
                                        : NULL;
}
static inline void *cpu_out_at(const Step *step, const RunArgs *args, int slot)
{
    return slot < step_node(step)->n_out ? step_address(step, args, step_node(step)->out[slot])
                                         : NULL;
}
static inline bool cpu_adds(const Step *step, const RunArgs *args)
{
    return args->grad_add || step_node(step)->accumulate;
}

#endif
