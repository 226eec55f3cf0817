/* Descriptions of convolution nodes for cuDNN: pure functions of the graph, shared by cuda_conv.c, both implementations of
 * cuda_cudnn.h and the tests of plans. */
#ifndef CUDISTILL_BACKEND_CUDA_CONV_H
#define CUDISTILL_BACKEND_CUDA_CONV_H

#include "backend/cuda_cudnn.h"

/* The spec of an OP_CONV, OP_CONV_DGRAD or OP_CONV_WGRAD node with everything that fusion put into it. */
CudnnConvSpec cuda_conv_spec(const Graph *graph, int node);
/* The convolution alone: what a group falls back to, with our kernels around it. */
CudnnConvSpec cuda_conv_plain(CudnnConvSpec spec);
bool cuda_conv_is_plain(const CudnnConvSpec *spec);
bool cuda_conv_same(const CudnnConvSpec *a, const CudnnConvSpec *b);

/* The specs that a candidate's group would need, at most FUSE_MAX_NODES; 0 = none of its own: the group always works.
 * -1 = cannot be had. Relu behind an add is counted in already, so that no plan is compiled that the next round replaces. */
int cuda_conv_group(const FuseCandidate *candidate, CudnnConvSpec *specs);

/* The parameters that the coefficients `coef` of a batch norm were made of, as tensor ids; false when they do not come
 * from BN_FINALIZE or BN_INFER. */
bool cuda_conv_bn_params(const Graph *graph, int coef, int *gamma, int *beta);

enum { CONV_KEY_MAX = 160 };
/* "fwd fp16 n256 56x56x64 56x56x64 k3x3 s1 p1 g1 affine_relu stats" */
void cuda_conv_key(const CudnnConvSpec *spec, char text[CONV_KEY_MAX]);

#endif
