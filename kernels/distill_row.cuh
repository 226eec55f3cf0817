/* What all forms of the distillation kernel share: the threads that work on one row ("team": a warp, a block or a
 * cluster of blocks) with their reductions, the softmax of a row with its target class apart, and the values a row
 * takes for temperatures and weights. Formulas: kernels/distill_spec.h; definition: host/backend/distill_ref.c.
 *
 * A softmax is held as one target class apart from the others: exponentials e_k of the non-target classes, taken
 * against the largest non-target logit x0, their sum sn >= 1, and the target's distance d from x0. Then p_y, 1 - p_y,
 * both logarithms and the distribution over the non-target classes follow without cancellation however confident the
 * row is; every gradient is A es_k - B et_k on the non-target classes plus a number on the target. */
#ifndef CUDISTILL_KERNELS_DISTILL_ROW_CUH
#define CUDISTILL_KERNELS_DISTILL_ROW_CUH

#include "kernels/kernel.cuh"

#include "kernels/distill.h"

#ifdef CUDISTILL_EMU
#define GRID_CONSTANT
#else
#include <cuda_pipeline_primitives.h>
#define GRID_CONSTANT __grid_constant__
#endif

#define DISTILL_ZSCORE_EPS 1e-7f /* added to the standard deviation (LSKD) */
#define DISTILL_COS_MIN 1e-12f   /* least denominator of the cosine */
#define DISTILL_LOG2E 1.4426950408889634f
#define DISTILL_LN2 0.6931471805599453f

/* Arguments of every row kernel. */
typedef struct {
    DistillSpec spec;
    DistillLaunch launch; /* leading dimensions filled in */
    float *partials;      /* [n][SUM_FIELDS] shares of the rows in the sums; NULL = not wanted */
} DistillParams;

/* a * b, rounded: never part of a fused multiply-add. The difference of two such products of equal factors is 0, so that
 * the divergence of equal networks is. */
DEVICE float rounded_product(float a, float b)
{
#ifdef CUDISTILL_EMU
    return a * b;
#else
    return __fmul_rn(a, b);
#endif
}

/* ---- Teams ---- */

enum { TEAM_VALUES = 16 /* most values of one reduction */ };

struct OpSum {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return a + b;
    }
};
struct OpMax {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return fmaxf(a, b);
    }
};
struct OpMin {
    __device__ __forceinline__ float operator()(float a, float b) const
    {
        return fminf(a, b);
    }
};

template <class Op, int N> DEVICE void warp_combine(float (&v)[N])
{
    if constexpr (std::is_same<Op, OpSum>::value) {
        warp_sum(v);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            v[i] = warp_reduce(v[i], Op());
        }
    }
}

/* All columns of a row belong to one warp. */
struct WarpTeam {
    enum { SCRATCH = 1 };
    __device__ __forceinline__ explicit WarpTeam(float *)
    {
    }
    __device__ __forceinline__ int thread(void) const
    {
        return lane();
    }
    __device__ __forceinline__ int threads(void) const
    {
        return WARP_SIZE;
    }
    /* Columns of this block: begin to end. */
    __device__ __forceinline__ void slice(int classes, int *begin, int *end) const
    {
        *begin = 0;
        *end = classes;
    }
    __device__ __forceinline__ bool leads(void) const
    {
        return true; /* this warp does the arithmetic of the row */
    }
    __device__ __forceinline__ bool writes(void) const
    {
        return true; /* this warp's block stores exports */
    }
    __device__ __forceinline__ void sync(void) const
    {
        sync_warp();
    }
    __device__ __forceinline__ void finish(void) const
    {
    }
    template <class Op, int N> __device__ __forceinline__ void combine(float (&v)[N])
    {
        warp_combine<Op>(v);
    }
};

/* Two buffers of the warps' results in turn, so that one barrier serves each reduction; then one
 * column of totals per warp. */
enum { BLOCK_SCRATCH = 3 * MAX_WARPS * TEAM_VALUES };

/* Adds the warps' results in the order of the warps; lane i < N returns total i. */
template <class Op, int N>
DEVICE float combine_warps(float *scratch, int buffer, const float (&v)[N])
{
    float *const of_warps = scratch + buffer * MAX_WARPS * TEAM_VALUES;
    if (lane() == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            of_warps[warp() * TEAM_VALUES + i] = v[i];
        }
    }
    sync_block();
    float total = 0;
    if (lane() < N) {
        total = of_warps[lane()];
        for (int w = 1; w < warp_count(); w++) {
            total = Op()(total, of_warps[w * TEAM_VALUES + lane()]);
        }
    }
    return total;
}

/* Lane i < N holds value i; afterwards every lane holds all. */
template <int N> DEVICE void spread_in_warp(float *scratch, float total, float (&v)[N])
{
    float *const totals = scratch + (2 * MAX_WARPS + warp()) * TEAM_VALUES;
    sync_warp(); /* totals may still be read */
    if (lane() < N) {
        totals[lane()] = total;
    }
    sync_warp();
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = totals[i];
    }
}

struct BlockTeam {
    enum { SCRATCH = BLOCK_SCRATCH };
    float *scratch;
    int buffer;
    __device__ __forceinline__ explicit BlockTeam(float *shared) : scratch(shared), buffer(0)
    {
    }
    __device__ __forceinline__ int thread(void) const
    {
        return (int)threadIdx.x;
    }
    __device__ __forceinline__ int threads(void) const
    {
        return (int)blockDim.x;
    }
    __device__ __forceinline__ void slice(int classes, int *begin, int *end) const
    {
        *begin = 0;
        *end = classes;
    }
    __device__ __forceinline__ bool leads(void) const
    {
        return warp() == 0;
    }
    __device__ __forceinline__ bool writes(void) const
    {
        return true;
    }
    __device__ __forceinline__ void sync(void) const
    {
        sync_block();
    }
    __device__ __forceinline__ void finish(void) const
    {
    }
    template <class Op, int N> __device__ __forceinline__ void combine(float (&v)[N])
    {
        static_assert(N <= TEAM_VALUES, "scratch");
        warp_combine<Op>(v);
        const float total = combine_warps<Op>(scratch, buffer, v);
        buffer ^= 1;
        spread_in_warp(scratch, total, v);
    }
};

/* Columns of a cluster's block, a multiple of 64 apart. */
static __host__ __device__ __forceinline__ int cluster_slice(int classes, int blocks)
{
    const int even = (classes + blocks - 1) / blocks;
    return (even + 63) / 64 * 64;
}

/* Two more buffers of the blocks' results, read by the whole cluster. */
struct ClusterTeam {
    enum { SCRATCH = BLOCK_SCRATCH + 2 * TEAM_VALUES };
    float *scratch;
    int buffer, rank, blocks;
    __device__ __forceinline__ ClusterTeam(float *shared, int size)
        : scratch(shared), buffer(0), rank(cluster_rank()), blocks(size)
    {
    }
    __device__ __forceinline__ int thread(void) const
    {
        return (int)threadIdx.x;
    }
    __device__ __forceinline__ int threads(void) const
    {
        return (int)blockDim.x;
    }
    __device__ __forceinline__ void slice(int classes, int *begin, int *end) const
    {
        const int width = cluster_slice(classes, blocks);
        *begin = rank * width < classes ? rank * width : classes;
        *end = *begin + width < classes ? *begin + width : classes;
    }
    __device__ __forceinline__ bool leads(void) const
    {
        return warp() == 0;
    }
    __device__ __forceinline__ bool writes(void) const
    {
        return rank == 0;
    }
    __device__ __forceinline__ void sync(void) const
    {
        sync_block();
    }
    /* No block leaves while another may read its results. */
    __device__ __forceinline__ void finish(void) const
    {
        cluster_sync();
    }
    template <class Op, int N> __device__ __forceinline__ void combine(float (&v)[N])
    {
        static_assert(N <= TEAM_VALUES, "scratch");
        warp_combine<Op>(v);
        float total = combine_warps<Op>(scratch, buffer, v);
        float *const of_block = scratch + BLOCK_SCRATCH + buffer * TEAM_VALUES;
        if (warp() == 0 && lane() < N) {
            of_block[lane()] = total;
        }
        cluster_sync();
        if (lane() < N) {
            total = cluster_shared(of_block, 0)[lane()];
            for (int r = 1; r < blocks; r++) {
                total = Op()(total, cluster_shared(of_block, r)[lane()]);
            }
        }
        buffer ^= 1;
        spread_in_warp(scratch, total, v);
    }
};

/* ---- Rows in shared memory ---- */

static __host__ __device__ __forceinline__ int type_size(int type)
{
    return type == KERNEL_F32 ? 4 : 2;
}

/* Bytes of one network's columns, to the next 16. */
static __host__ __device__ __forceinline__ size_t row_part_bytes(int columns, int type)
{
    return ((size_t)columns * type_size(type) + 15) / 16 * 16;
}

/* 16 bytes from global to shared memory, both aligned to that, without a register in between; they are there, for the
 * thread that asked, after copies_wait. */
DEVICE void copy_to_shared(void *shared, const void *global)
{
#ifdef CUDISTILL_EMU
    *static_cast<Pack<uint32_t, 4> *>(shared) =
        load_pack_stream<uint32_t, 4>(static_cast<const uint32_t *>(global));
#else
    __pipeline_memcpy_async(shared, global, 16);
#endif
}

DEVICE void copies_wait(void)
{
#ifndef CUDISTILL_EMU
    __pipeline_commit();
    __pipeline_wait_prior(0);
#endif
}

/* ---- Softmax of a row ---- */

typedef struct {
    float d;  /* (x_y - x0) / temperature */
    float sn; /* sum of the non-target exponentials */
    float log_sn;
    float lse;    /* log-sum-exp over all classes, less x0 / temperature */
    float scale;  /* p_k = scale * e_k */
    float py, np; /* p_y and 1 - p_y */
    float log_py, log_np;
} Soft;

DEVICE Soft soft_make(float sn, float d)
{
    Soft s;
    s.sn = sn;
    s.d = d;
    s.log_sn = logf(sn);
    const bool above = d > 0;
    const float r = expf(above ? -d : d);
    const float a =
        rounded_product(sn, r); /* for equal networks every path must give equal values */
    const float total = sn + r;
    s.log_py = above ? -log1pf(a) : d - logf(total);
    s.lse = d - s.log_py;
    const float inv = 1 / (above ? 1 + a : total);
    s.py = above ? inv : r * inv;
    s.scale = above ? r * inv : inv;
    s.lse = above ? s.lse : logf(total);
    s.np = rounded_product(sn, s.scale);
    s.log_np = s.log_sn - s.lse;
    return s;
}

/* Smoothed one-hot: 1 - delta on the target, delta / (C-1) elsewhere; e_k = 1. */
DEVICE Soft soft_smooth(int classes, float delta)
{
    const float others = (float)(classes - 1);
    Soft s;
    s.sn = others;
    s.d = 0;
    s.log_sn = logf(others);
    s.lse = 0;
    s.scale = delta / others;
    s.py = 1 - delta;
    s.np = delta;
    s.log_py = log1pf(-delta);
    s.log_np = logf(delta);
    return s;
}

/* log(a / b) of two sums, exact when they are nearly equal. */
DEVICE float log_ratio(const Soft &a, const Soft &b)
{
    const bool near = a.sn < 2 * b.sn && b.sn < 2 * a.sn;
    return near ? log1pf((a.sn - b.sn) / b.sn) : a.log_sn - b.log_sn;
}

/* Binary part target / non-target of KL(q || p). */
DEVICE float soft_tckd(const Soft &p, const Soft &q)
{
    float value = 0;
    if (q.py != 0) {
        value += q.py * (q.log_py - p.log_py);
    }
    if (q.np != 0) {
        value += q.np * (q.log_np - p.log_np);
    }
    return value;
}

/* Of a pair of rows over the non-target classes: u, v = (x - x0) / T of student and teacher, es, et. */
typedef struct {
    float et_w;  /* et (v - u) */
    float et_v;  /* et v */
    float et_vw; /* et v (v - u) */
    float es_u;  /* es u */
} PairSums;

/* KL over the non-target classes. */
DEVICE float soft_nckd(const Soft &p, const Soft &q, const PairSums &sums)
{
    return sums.et_w / q.sn - log_ratio(q, p);
}

/* d KL / dT with both temperatures moving (temperature_gradient of distill_ref.c); smooth: q does not
 * depend on T. */
DEVICE float soft_kl_temperature(const Soft &p, const Soft &q, const PairSums &sums, float ts,
                                 float tt, bool smooth)
{
    const float wy = q.d - p.d;
    const float eq_u = q.scale * (sums.et_v - sums.et_w) + q.py * p.d;
    const float ep_u = p.scale * sums.es_u + p.py * p.d;
    const float eq_v = q.scale * sums.et_v + q.py * q.d;
    const float eq_w = q.scale * sums.et_w + q.py * wy;
    const float moved = q.scale * sums.et_vw + q.py * q.d * wy - eq_v * eq_w;
    return (eq_u - ep_u) / ts - (smooth ? 0 : moved / tt);
}

/* ---- Values of a row ---- */

/* What has been found out about the row so far. */
typedef struct {
    float energy, ce_s, ce_t;
} RowFacts;

DEVICE float row_value(const DistillParams &p, int row, const RowValue &v, const RowFacts &facts)
{
    if (v.source == SOURCE_ROW) {
        return load_cached(p.launch.row_params + (int64_t)row * p.launch.columns + v.column);
    }
    if (v.source == SOURCE_BAND) {
        const float low = load_cached(p.launch.theta);
        const float high = load_cached(p.launch.theta + 1);
        return facts.energy < low ? v.band[0] : (facts.energy > high ? v.band[2] : v.band[1]);
    }
    if (v.source == SOURCE_WSL && facts.ce_t != 0) {
        return v.value * -expm1f(-facts.ce_s / facts.ce_t);
    }
    return v.value;
}

/* The op's scale, with the loss scale. */
DEVICE float row_scale(const DistillParams &p)
{
    const float scale = p.launch.scale ? load_cached(p.launch.scale) : 1;
    return p.launch.loss_scale ? scale * load_cached(p.launch.loss_scale) : scale;
}

DEVICE bool row_is_valid(const DistillParams &p, int row)
{
    return !p.launch.rows_valid || (float)row < load_cached(p.launch.rows_valid);
}

/* ---- Exports ---- */

/* One row's exports while the row is at work, in shared memory. */
typedef struct {
    float out[ROW_FIELDS];
    float sum[SUM_FIELDS];
} RowRecord;

/* By one warp. */
DEVICE void record_clear(RowRecord *record)
{
    for (int i = lane(); i < ROW_FIELDS; i += WARP_SIZE) {
        record->out[i] = 0;
    }
    for (int i = lane(); i < SUM_FIELDS; i += WARP_SIZE) {
        record->sum[i] = 0;
    }
}

/* By one warp, after sync_warp. */
DEVICE void record_store(const DistillParams &p, int row, const RowRecord *record)
{
    if (p.launch.rows) {
        for (int i = lane(); i < ROW_FIELDS; i += WARP_SIZE) {
            store_global(p.launch.rows + (int64_t)row * ROW_FIELDS + i, record->out[i]);
        }
    }
    if (p.partials) {
        for (int i = lane(); i < SUM_FIELDS; i += WARP_SIZE) {
            store_global(p.partials + (int64_t)row * SUM_FIELDS + i, record->sum[i]);
        }
    }
}

/* A network's row as its statistics see it. */
typedef struct {
    float x0, xy;
    float rank;  /* classes above the label */
    float first; /* lowest non-target index that holds x0 */
    int y;
    bool has_label;
} NetFacts;

/* Columns of one network; lane 0 writes them. */
typedef struct {
    int max, arg, rank, ce, sum_ce, sum_top1, sum_top5;
} NetColumns;

DEVICE float net_record(RowRecord *record, const NetColumns &columns, const NetFacts &net,
                        const Soft &unit, int classes, bool writer)
{
    const bool bad = isnan(unit.lse);
    const float y = (float)net.y;
    const float other = net.xy == net.x0 && y < net.first ? y : net.first;
    const float arg = bad ? -1 : (net.xy > net.x0 ? y : other);
    const float rank = !net.has_label ? 0 : (bad ? (float)classes : net.rank);
    const float ce = net.has_label ? -unit.log_py : 0;
    const bool known = net.has_label && arg >= 0 && isfinite(ce);
    if (writer) {
        record->out[columns.max] = bad ? NAN : fmaxf(unit.py, unit.scale);
        record->out[columns.arg] = arg;
        record->out[columns.rank] = rank;
        record->out[columns.ce] = ce;
        record->sum[columns.sum_ce] = ce;
        record->sum[columns.sum_top1] = known && rank < 1 ? 1.0f : 0.0f;
        record->sum[columns.sum_top5] = known && rank < 5 ? 1.0f : 0.0f;
    }
    return arg;
}

DEVICE NetColumns student_columns(void)
{
    return NetColumns{ROW_PMAX, ROW_SARG, ROW_SRANK, ROW_CE_S, SUM_CE_S, SUM_TOP1, SUM_TOP5};
}
DEVICE NetColumns teacher_columns(void)
{
    return NetColumns{ROW_QMAX, ROW_TARG, ROW_TRANK, ROW_CE_T, SUM_CE_T, SUM_TTOP1, SUM_TTOP5};
}

DEVICE float cosine(float zz, float tt, float zt)
{
    const float norms = sqrtf(zz) * sqrtf(tt);
    return isnan(zt) ? NAN : zt / fmaxf(norms, DISTILL_COS_MIN);
}

/* The target's logit; one that is +inf spoils its row as an infinite logit of another class does. */
DEVICE float target_logit(float x)
{
    return x == INFINITY ? NAN : x;
}

#endif
