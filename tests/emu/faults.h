/* Kernels that test the emulator: sound ones, and ones with a planted fault that it must find. Launchers return the status
 * of the launch. */
#ifndef CUDISTILL_TESTS_EMU_FAULTS_H
#define CUDISTILL_TESTS_EMU_FAULTS_H

#include "kernels/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Sound. */
KernelStatus probe_copy(KernelStream stream, const float *x, float *y, int n);
/* y[i] = factor * x[i], factor from device memory. */
KernelStatus probe_scale(KernelStream stream, const float *x, const float *factor, float *y, int n);
/* One block per row: y[row] = {sum, maximum, sum of squares} of n values. */
KernelStatus probe_reduce(KernelStream stream, const float *x, float *y, int rows, int n,
                          int threads);
/* Each block reverses its 256 values through shared memory. */
KernelStatus probe_reverse(KernelStream stream, const float *x, float *y, int blocks);
/* Running total of 32 values by shuffles, and the ballot of those above 0. */
KernelStatus probe_scan(KernelStream stream, const float *x, float *y, unsigned *positive);
/* Sum over a cluster of 4 blocks of 64 threads through distributed shared memory; y [blocks]. */
KernelStatus probe_cluster(KernelStream stream, const float *x, float *y, int clusters);
/* Copies through `bytes` of dynamic shared memory; allow: calls allow_shared first. */
KernelStatus probe_dynamic(KernelStream stream, const float *x, float *y, size_t bytes, bool allow);
/* Histogram of n bytes in shared memory; y [256]. */
KernelStatus probe_histogram(KernelStream stream, const uint8_t *x, unsigned *y, int n);
KernelStatus probe_convert(KernelStream stream, KernelType type, const float *x, void *y,
                           float *back, int n);
KernelStatus probe_random(KernelStream stream, uint64_t seed, uint32_t epoch, uint64_t sample,
                          int purpose, uint32_t *bits, uint32_t *below, float *uniform, int n);
KernelStatus probe_shape(KernelStream stream, unsigned grid_y, unsigned block);

/* Faults. */
KernelStatus fault_no_barrier(KernelStream stream, const float *x, float *y, int blocks);
KernelStatus fault_no_second_barrier(KernelStream stream, const float *x, float *y, int rounds);
KernelStatus fault_no_warp_sync(KernelStream stream, const float *x, float *y);
KernelStatus fault_unwritten_shared(KernelStream stream, float *y);
KernelStatus fault_store_beyond(KernelStream stream, float *y, int n);
KernelStatus fault_load_beyond(KernelStream stream, const float *x, float *y, int n);
KernelStatus fault_raw_load_beyond(KernelStream stream, const float *x, float *y, int n);
KernelStatus fault_shared_beyond(KernelStream stream, float *y);
KernelStatus fault_misaligned(KernelStream stream, const float *x, float *y);
KernelStatus fault_exit_before_barrier(KernelStream stream, float *y);
KernelStatus fault_other_barrier(KernelStream stream, float *y);
KernelStatus fault_half_warp_shuffle(KernelStream stream, float *y);
KernelStatus fault_partial_warp(KernelStream stream, float *y);
KernelStatus fault_early_cluster_exit(KernelStream stream, const float *x, float *y);

#ifdef __cplusplus
}
#endif
#endif
