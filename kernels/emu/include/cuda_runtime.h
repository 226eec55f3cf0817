/* Emulated CUDA: kernel language and runtime, see emu.h and cuda_runtime_api.h. */
#ifndef CUDISTILL_EMU_CUDA_RUNTIME_H
#define CUDISTILL_EMU_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#endif
