/* Runs a problem of distill_problem.h through kernel_distill: uploads it with the pitches and offsets of a Layout,
 * launches a form, brings the results back without the padding and checks that the padding is untouched. */
#ifndef CUDISTILL_TESTS_KERNELS_DISTILL_RIG_H
#define CUDISTILL_TESTS_KERNELS_DISTILL_RIG_H

#include "../distill_check.h"
#include "kernels/distill.h"

#include <cuda_runtime_api.h>
#ifdef CUDISTILL_EMU
#include "kernels/emu/emu_api.h"
#endif

#define CUDA_OK(call)                                                                              \
    do {                                                                                           \
        const cudaError_t code_ = (call);                                                          \
        CHECK(code_ == cudaSuccess, "%s: error %d", #call, (int)code_);                            \
    } while (0)

/* Elements between the end of a row and the next, and in front of the first. */
typedef struct {
    int gap_z, gap_t, gap_dz, offset;
    DType t_type, dz_type;
    bool add; /* dz starts with values and is added to */
    float loss_scale;
    bool no_teacher;
    bool no_rows;
    bool no_counter; /* the sums are a launch of their own */
    int runs;        /* launches one after another, with one counter; 0 = 1 */
} Layout;

enum { FORM_COUNT = 5 };
static const char *const form_names[FORM_COUNT] = {"auto", "warp", "block", "two-sweep", "cluster"};

/* Orders of the emulator's threads that a test runs. */
static inline int order_count(void)
{
#ifdef CUDISTILL_EMU
    const char *text = getenv("CUDISTILL_EMU_ORDERS");
    return text && strcmp(text, "1") == 0 ? 1 : 3;
#else
    return 1;
#endif
}

static inline void set_order(int order)
{
#ifdef CUDISTILL_EMU
    emu_set_order(order);
#else
    (void)order;
#endif
}

/* The form; the two-sweep form in place of clusters where the device has none. */
static inline DistillForm usable_form(DistillForm form)
{
    int major = 0;
    CUDA_OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    return form == DISTILL_CLUSTER && major < 9 ? DISTILL_TWO_SWEEP : form;
}

static inline void *device_bytes(const void *host, size_t bytes)
{
    void *device = NULL;
    CUDA_OK(cudaMalloc(&device, bytes + 16));
    if (host) {
        CUDA_OK(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
    }
    return device;
}

/* Rows of `from` (of the problem's type, without gaps) as rows of `type` with gaps of NaN. */
static inline void *device_rows(const Problem *p, const void *from, DType type, int gap, int offset,
                                size_t *bytes)
{
    const size_t pitch = (size_t)(p->c + gap);
    *bytes = ((size_t)offset + (size_t)p->n * pitch + 1) * dtype_size(type);
    void *host = xmalloc(*bytes);
    for (size_t i = 0; i < *bytes / dtype_size(type); i++) {
        dtype_store(type, host, i, NAN);
    }
    for (int row = 0; row < p->n; row++) {
        for (int k = 0; k < p->c; k++) {
            const double x = dtype_load(p->dtype, from, (size_t)row * (size_t)p->c + (size_t)k);
            dtype_store(type, host, (size_t)offset + (size_t)row * pitch + (size_t)k, x);
        }
    }
    void *device = device_bytes(host, *bytes);
    free(host);
    return device;
}

/* Device copies of a problem's inputs, freed together. */
typedef struct {
    void *all[16];
    int count;
} Uploads;

static inline void *upload(Uploads *u, const void *host, size_t bytes)
{
    if (!host) {
        return NULL;
    }
    void *device = device_bytes(host, bytes);
    u->all[u->count++] = device;
    return device;
}

static inline DistillLaunch launch_inputs(const Problem *p, const Layout *layout, Uploads *u)
{
    const size_t rows = (size_t)p->n;
    const size_t pairs = rows * 2 * (size_t)p->spec.sparse_k;
    const float valid = (float)p->rows_valid;
    const float scale = (float)(p->scale / (layout->loss_scale != 0 ? layout->loss_scale : 1));
    return (DistillLaunch){
        .n = p->n,
        .classes = p->c,
        .z_type = (KernelType)p->dtype,
        .t_type = (KernelType)layout->t_type,
        .dz_type = (KernelType)layout->dz_type,
        .ldz = p->c + layout->gap_z,
        .ldt = p->c + layout->gap_t,
        .lddz = p->c + layout->gap_dz,
        .labels = p->no_labels ? NULL : upload(u, p->labels, rows * sizeof *p->labels),
        .theta = upload(u, p->theta, sizeof p->theta),
        .row_params = upload(u, p->row_params, rows * PROBLEM_COLUMNS * sizeof(float)),
        .columns = PROBLEM_COLUMNS,
        .target_kind = upload(u, p->target_kind, rows * 2 * sizeof(int32_t)),
        .target_weight = upload(u, p->target_weight, rows * 2 * sizeof(float)),
        .target_class = upload(u, p->target_class, rows * 2 * sizeof(int32_t)),
        .sparse_index = upload(u, p->sparse_index, pairs * sizeof(int32_t)),
        .sparse_value = upload(u, p->sparse_value, pairs * sizeof(float)),
        .dense = upload(u, p->dense, rows * 2 * (size_t)p->c * sizeof(float)),
        .rows_valid = upload(u, &valid, sizeof valid),
        .scale = upload(u, &scale, sizeof scale),
        .loss_scale =
            layout->loss_scale != 0 ? upload(u, &layout->loss_scale, sizeof(float)) : NULL,
    };
}

static inline Layout plain_layout(const Problem *p)
{
    return (Layout){.t_type = p->dtype, .dz_type = p->dtype};
}

/* The status; results (dz of layout->dz_type, statistics F32) into *r where it is 0. dz of *r is what dz holds
 * before. */
static inline KernelStatus run_kernel(const Problem *p, const Layout *layout, DistillForm form,
                                      Result *r)
{
    Uploads u = {.count = 0};
    DistillLaunch in = launch_inputs(p, layout, &u);
    size_t bytes;
    size_t dz_bytes;
    const Problem old = {.n = p->n, .c = p->c, .dtype = r->dz_type};
    char *z = device_rows(p, p->z, p->dtype, layout->gap_z, layout->offset, &bytes);
    char *t = device_rows(p, p->t, layout->t_type, layout->gap_t, layout->offset, &bytes);
    char *dz = device_rows(&old, r->dz, layout->dz_type, layout->gap_dz, layout->offset, &dz_bytes);
    const size_t dz_size = dtype_size(layout->dz_type);
    const size_t offset = (size_t)layout->offset;
    in.z = p->no_student ? NULL : z + offset * dtype_size(p->dtype);
    in.t = layout->no_teacher ? NULL : t + offset * dtype_size(layout->t_type);
    in.dz = dz + offset * dz_size;
    const size_t row_bytes = (size_t)p->n * ROW_FIELDS * sizeof(float);
    in.rows = device_bytes(NULL, row_bytes);
    in.sums = device_bytes(NULL, SUM_FIELDS * sizeof(float));
    in.workspace = device_bytes(NULL, kernel_distill_workspace(&p->spec, p->n, p->c));
    float *const rows = in.rows;
    in.rows = layout->no_rows ? NULL : rows;
    unsigned count = 0;
    unsigned *const counter = device_bytes(&count, sizeof count);
    in.counter = layout->no_counter ? NULL : counter;
    DistillSpec spec = p->spec;
    spec.dz_add = layout->add;
    KernelStatus status = kernel_distill(NULL, &spec, &in, usable_form(form));
    for (int run = 1; run < layout->runs; run++) {
        CUDA_OK(cudaMemset(in.sums, 0xff, SUM_FIELDS * sizeof(float)));
        status = kernel_distill(NULL, &spec, &in, usable_form(form));
    }
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpy(&count, counter, sizeof count, cudaMemcpyDeviceToHost));
    CHECK(count == 0, "the counter of the sums was left at %u", count);
    if (status == 0) {
        char *host = xmalloc(dz_bytes);
        CUDA_OK(cudaMemcpy(host, dz, dz_bytes, cudaMemcpyDeviceToHost));
        CUDA_OK(cudaMemcpy(r->rows, rows, row_bytes, cudaMemcpyDeviceToHost));
        CUDA_OK(cudaMemcpy(r->sums, in.sums, SUM_FIELDS * sizeof(float), cudaMemcpyDeviceToHost));
        const size_t pitch = (size_t)(p->c + layout->gap_dz);
        for (size_t row = 0; row < (size_t)p->n; row++) {
            memcpy((char *)r->dz + row * (size_t)p->c * dz_size,
                   host + (offset + row * pitch) * dz_size, (size_t)p->c * dz_size);
            for (size_t k = (size_t)p->c; k < pitch; k++) {
                CHECK(isnan(dtype_load(layout->dz_type, host, offset + row * pitch + k)),
                      "gap of row %zu was written", row);
            }
        }
        for (size_t k = 0; k < offset; k++) {
            CHECK(isnan(dtype_load(layout->dz_type, host, k)), "written in front of dz");
        }
        free(host);
    }
    void *const more[] = {z, t, dz, rows, in.sums, in.workspace, counter};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        CUDA_OK(cudaFree(more[i]));
    }
    for (int i = 0; i < u.count; i++) {
        CUDA_OK(cudaFree(u.all[i]));
    }
    return status;
}

/* ---- Bounds ---- */

/* Of the fp32 forms. An exponential's argument has 4 roundings (distance, scale and its division, product) of relative
 * 2^-24, exp2 adds 2^-22, and a fourth power multiplies the latter by 4: 16 eps + 4 eps |argument|. A sum of C of them
 * adds at most sqrt(C / 32) eps (random walk within a thread) and the tree 10 eps. The row's own arithmetic
 * (soft_make) adds 8 eps and as much of every logarithm. A log-sum-exp: the relative error of its sum, and 2 eps of its
 * own size, which is below reach + log C. */
static inline Bound kernel_bound(const Problem *p)
{
    Bound b = bound_of(p);
    b.delta = 0x1p-24 * (34 + 4 * b.reach + sqrt(fmin(p->c, 1024) / 32.0));
    b.lse_error = b.delta + 0x1p-23 * (b.reach + log(p->c));
    b.ce_error = 2 * b.lse_error;
    return b;
}

/* Largest share of its bound that the kernel uses on this problem, against the definition in double; fails the test with
 * the place where it uses more. */
static inline double compare_with_ref(const Problem *p, const Layout *layout, DistillForm form)
{
    const Bound b = kernel_bound(p);
    Result ref = result_new(p, DT_F64, DT_F64);
    Result got = result_new(p, layout->dz_type, DT_F32);
    for (size_t i = 0; i < (size_t)p->n * (size_t)p->c && layout->add; i++) {
        dtype_store(layout->dz_type, got.dz, i, 0.25 * (double)(i % 7) - 0.5);
        dtype_store(DT_F64, ref.dz, i, dtype_load(layout->dz_type, got.dz, i));
    }
    Problem definition = *p;
    definition.spec.dz_add = layout->add;
    definition.t = layout->no_teacher ? NULL : p->t;
    run_ref(&definition, &ref);
    const KernelStatus status = run_kernel(p, layout, form, &got);
    if (status != 0) {
        fail_msg("%s, form %s, C %d: status %d", p->name, form_names[form], p->c, status);
    }
    char what[96];
    snprintf(what, sizeof what, "%s, form %s", p->name, form_names[form]);
    const double worst = results_within(p, &b, &ref, &got, what);
    result_free(&ref);
    result_free(&got);
    return worst;
}

#endif
