/* The distillation op without a term and with one network's logits x only: cross entropy of the student with the label,
 * smoothed or not, with or without its gradient, or the statistics and the energy of one network (training from labels
 * alone, evaluation, the energy scan of a teacher).
 *
 *   dz_k = A e^{x_k - x0} - b smoothing/C,  k != y
 *
 * x is read once and dz written once wherever the row fits (registers or shared memory), x twice in the two-sweep form
 * where there is a gradient. One exponential per column in the sums (two for an energy whose temperature is not 1, 2 or
 * 4); the gradient takes them from registers or again. Errors of exponentials: distill_fast.cuh. */
#ifndef CUDISTILL_KERNELS_DISTILL_SINGLE_CUH
#define CUDISTILL_KERNELS_DISTILL_SINGLE_CUH

#include "kernels/distill_fast.cuh"

/* Sums over the columns other than the target. */
enum {
    X_E,    /* e^{x - x0} */
    X_EE,   /* e^{(x - x0)/Te}, of a teacher */
    X_RANK, /* columns above the target */
    X_SUM,  /* x - x0, with smoothing only */
    X_COUNT
};

/* What all threads of a row know. */
typedef struct {
    int classes, y;
    bool teacher, bad, has_label, smoothed;
    float xy, below; /* the target's logit and the next smaller number */
    float e_scale;   /* log2(e) / Te */
    int e_power;     /* e^x as this power of e^{x/Te}; 0: an exponential of its own */
} SingleRow;

/* A thread's state while it goes through its columns: its sums against the largest logit it has seen. */
typedef struct {
    float x0;
    float first; /* lowest column that holds x0 */
    float s[X_COUNT];
    float count; /* columns in X_SUM */
} SingleSums;

/* Gradient of a column, with the op's scale. */
typedef struct {
    float a, even, gy;
} SingleGradient;

/* One block's row in shared memory, beside its columns. */
typedef struct {
    RowRecord record;
    SingleGradient gradient;
} SingleShared;

template <typename T> struct SinglePointers {
    const T *x;
    T *dz;
    bool read_packs, write_packs;
};

template <typename T, int V>
DEVICE SinglePointers<T> single_pointers(const DistillParams &p, int row)
{
    const DistillLaunch &in = p.launch;
    SinglePointers<T> at;
    at.x = in.z ? static_cast<const T *>(in.z) + row * in.ldz
                : static_cast<const T *>(in.t) + row * in.ldt;
    at.dz = p.spec.statistics_only ? NULL : static_cast<T *>(in.dz) + row * in.lddz;
    at.read_packs = aligned_to(at.x, V * sizeof(T));
    at.write_packs = aligned_to(at.dz, V * sizeof(T));
    return at;
}

template <typename T> DEVICE SingleRow single_begin(const DistillParams &p, const T *x, int row)
{
    SingleRow r = {};
    r.classes = p.launch.classes;
    r.teacher = !p.launch.z;
    r.has_label = p.launch.labels != NULL;
    const int label = r.has_label ? load_cached(p.launch.labels + row) : 0;
    r.bad = label < 0 || label >= r.classes;
    r.y = r.bad ? 0 : label;
    r.smoothed = !r.teacher && p.spec.smoothing != 0;
    r.xy = r.bad ? NAN : target_logit(to_float(load_cached(x + r.y)));
    r.below = next_below(r.xy);
    if (r.teacher) {
        r.e_scale = DISTILL_LOG2E / p.spec.energy_temperature;
        r.e_power = power_of(p.spec.energy_temperature);
    }
    return r;
}

/* ---- Sums ---- */

DEVICE SingleSums single_start(const SingleRow &r)
{
    SingleSums sums = {};
    sums.x0 = -INFINITY;
    sums.first = (float)r.classes;
    return sums;
}

/* Makes x0 the reference. A NaN stays in the sums. */
DEVICE void single_move(SingleSums &sums, const SingleRow &r, float x0)
{
    /* Before the first finite logit the sums are 0. */
    const bool none = sums.x0 == -INFINITY;
    const float d = none ? 0 : x0 - sums.x0;
    sums.s[X_E] *= exp2_fast(-d * DISTILL_LOG2E);
    sums.s[X_EE] *= exp2_fast(-d * r.e_scale);
    sums.s[X_SUM] -= sums.count * d;
    sums.x0 = x0;
}

/* -inf in place of the target and of what is beyond the end. */
template <int V> DEVICE void single_mask(float (&x)[V], int k, const SingleRow &r)
{
    if ((k <= r.y && r.y < k + V) || k + V > r.classes) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            x[i] = k + i == r.y || k + i >= r.classes ? -INFINITY : x[i];
        }
    }
}

/* Lowest of the columns that hold x0, or `other`. */
template <int V> DEVICE float single_first(const float (&x)[V], int k, float x0, float other)
{
#pragma unroll
    for (int i = V - 1; i >= 0; i--) {
        other = x[i] == x0 ? (float)(k + i) : other;
    }
    return other;
}

/* Raises the reference to the largest of masked columns. */
template <int V>
DEVICE void single_raise(const float (&x)[V], int k, const SingleRow &r, SingleSums &sums)
{
    const float larger = pack_max(x, sums.x0);
    if (larger > sums.x0) {
        single_move(sums, r, larger);
        sums.first = single_first(x, k, larger, (float)r.classes);
    }
}

template <int V>
DEVICE void single_ranks(const float (&x)[V], int k, const SingleRow &r, SingleSums &sums)
{
    const float least = k + V <= r.y ? r.below : r.xy;
#pragma unroll
    for (int i = 0; i < V; i++) {
        sums.s[X_RANK] += x[i] > least ? 1.0f : 0.0f;
    }
    if (k <= r.y && r.y < k + V) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            sums.s[X_RANK] += k + i < r.y && x[i] == r.xy ? 1.0f : 0.0f;
        }
    }
}

/* Masked columns k to k + V, none above x0. e returns a student's exponentials. */
template <int V>
DEVICE void single_add(const float (&x)[V], int k, const SingleRow &r, SingleSums &sums,
                       float (&e)[V])
{
    single_ranks(x, k, r, sums);
    const float x0 = sums.x0 == -INFINITY ? 0 : sums.x0;
    if (r.smoothed) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            const bool real = k + i != r.y && k + i < r.classes;
            sums.s[X_SUM] += real ? x[i] - x0 : 0;
            sums.count += real ? 1.0f : 0.0f;
        }
    }
    if (!r.teacher) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            e[i] = exp2_fast((x[i] - x0) * DISTILL_LOG2E);
            sums.s[X_E] += e[i];
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float ee = exp2_fast((x[i] - x0) * r.e_scale);
        sums.s[X_EE] += ee;
        sums.s[X_E] += r.e_power ? raise(ee, r.e_power) : exp2_fast((x[i] - x0) * DISTILL_LOG2E);
    }
}

/* From the threads' sums to the row's, in every thread. */
template <class Team> DEVICE void single_combine(Team &team, SingleSums &sums)
{
    float first[1] = {sums.first};
    team.template combine<OpSum>(sums.s);
    team.template combine<OpMin>(first);
    sums.first = first[0];
}

/* Makes the row's largest logit the reference of all threads. */
template <class Team> DEVICE void single_agree(Team &team, const SingleRow &r, SingleSums &sums)
{
    float max[1] = {sums.x0};
    team.template combine<OpMax>(max);
    sums.first = sums.x0 < max[0] ? (float)r.classes : sums.first;
    single_move(sums, r, max[0]);
}

/* ---- From the sums to the results ---- */

/* Loss, cross entropy and the gradient's coefficients of a student. By one warp. */
DEVICE SingleGradient single_loss(const DistillParams &p, int row, const SingleRow &r,
                                  const SingleSums &sums, const Soft &p1, RowRecord *record)
{
    const float b = row_value(p, row, p.spec.ce_weight, RowFacts{0, -p1.log_py, 0});
    const float even = p.spec.smoothing / (float)r.classes;
    const float on_y = even + (1 - p.spec.smoothing);
    const float others = even * (float)(r.classes - 1);
    float ce = 0;
    SingleGradient g = {0, 0, 0};
    if (r.has_label) {
        ce = -p1.log_py;
        if (r.smoothed) {
            ce = others * p1.lse - even * sums.s[X_SUM] - on_y * p1.log_py;
        }
        const float scale = row_scale(p);
        g.a = scale * b * p1.scale;
        g.even = scale * b * even;
        g.gy = scale * b * (others * p1.py - on_y * p1.np);
    }
    if (lane() == 0) {
        const float loss = b * ce;
        record->out[ROW_CE] = ce;
        record->out[ROW_LOSS] = loss;
        record->sum[SUM_CE] = loss;
        record->sum[SUM_LOSS] = loss;
        record->sum[SUM_NONFINITE] = isfinite(loss) ? 0.0f : 1.0f;
    }
    return g;
}

/* By one warp. */
DEVICE void single_energy(const DistillParams &p, const SingleRow &r, const SingleSums &sums,
                          float d, RowRecord *record)
{
    const float temperature = p.spec.energy_temperature;
    const float energy = -(temperature * soft_make(sums.s[X_EE], d / temperature).lse + sums.x0);
    if (lane() == 0) {
        record->out[ROW_ENERGY] = energy;
        record->sum[SUM_ENERGY] = energy;
        record->out[ROW_LOSS] = r.bad ? NAN : 0;
        record->sum[SUM_LOSS] = r.bad ? NAN : 0;
        record->sum[SUM_NONFINITE] = isfinite(energy) ? 0.0f : 1.0f;
    }
}

/* By one warp. */
DEVICE SingleGradient single_finish(const DistillParams &p, int row, const SingleRow &r,
                                    const SingleSums &sums, RowRecord *record)
{
    /* An infinite x0 leaves no exponential. */
    const float d = isinf(sums.x0) ? NAN : r.xy - sums.x0;
    const Soft p1 = soft_make(sums.s[X_E], d);
    const NetFacts net = {sums.x0, r.xy, sums.s[X_RANK], sums.first, r.y, r.has_label};
    net_record(record, r.teacher ? teacher_columns() : student_columns(), net, p1, r.classes,
               lane() == 0);
    if (lane() == 0) {
        record->sum[SUM_ROWS] = 1;
    }
    SingleGradient g = {0, 0, 0};
    if (r.teacher) {
        single_energy(p, r, sums, d, record);
    } else {
        g = single_loss(p, row, r, sums, p1, record);
    }
    return g;
}

/* e: exponentials against the row's x0. */
template <typename T, int V>
DEVICE void single_store(float (&e)[V], const SinglePointers<T> &at, int k, int end,
                         const SingleRow &r, const SingleGradient &g, bool add)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        e[i] = g.a * e[i] - g.even;
    }
    if (k <= r.y && r.y < k + V) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            e[i] = k + i == r.y ? g.gy : e[i];
        }
    }
    store_columns<T, V>(at.dz, k, end, at.write_packs, add, e);
}

/* A row at or beyond rows_valid. */
template <typename T, int V, class Team>
DEVICE void single_invalid(const DistillParams &p, const Team &team, int row)
{
    if (p.spec.dz_add || p.spec.statistics_only) {
        return;
    }
    const SinglePointers<T> at = single_pointers<T, V>(p, row);
    int begin;
    int end;
    team.slice(p.launch.classes, &begin, &end);
    for (int k = begin + team.thread() * V; k < end; k += team.threads() * V) {
        float zero[V] = {};
        store_columns<T, V>(at.dz, k, end, at.write_packs, false, zero);
    }
}

#endif
