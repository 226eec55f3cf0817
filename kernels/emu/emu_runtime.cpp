/* The described device: properties and limits, checks of a launch, names of errors. */
#include "kernels/emu/emu_internal.h"

#include <algorithm>
#include <stdio.h>
#include <string.h>

namespace emu
{
namespace
{

enum { MULTIPROCESSORS = 132, THREADS_A_MULTIPROCESSOR = 2048, MOST_BLOCKS = 32 };

thread_local int current_device;

int device_count()
{
    return (int)setting("CUDISTILL_EMU_DEVICES", 1);
}
cudaError_t check_device(int device)
{
    const cudaError_t error = device_error();
    return error != cudaSuccess                     ? error
           : device < 0 || device >= device_count() ? cudaErrorInvalidDevice
                                                    : cudaSuccess;
}

/* What cudaFuncSetAttribute said of a kernel. */
struct Limits {
    size_t shared_bytes = SHARED_DEFAULT;
    bool large_clusters = false;
};
std::map<const void *, Limits> *limits; /* with the lock */

Limits &limits_of(const void *kernel)
{
    if (limits == nullptr) {
        limits = new std::map<const void *, Limits>();
    }
    return (*limits)[kernel];
}

cudaError_t check_shape(const LaunchShape &shape, const void *kernel)
{
    const dim3 block = shape.block;
    const dim3 grid = shape.grid;
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || block.x > MAX_BLOCK || block.y > MAX_BLOCK || threads > MAX_BLOCK ||
        block.z > MAX_BLOCK_Z || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.x > 0x7fffffffu || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) {
        return cudaErrorInvalidConfiguration;
    }
    const std::lock_guard<std::mutex> held(device_lock());
    const Limits &limit = limits_of(kernel);
    if (shape.cluster == 0 || grid.x % shape.cluster != 0 ||
        shape.cluster > (limit.large_clusters ? CLUSTER_MOST : CLUSTER_PORTABLE)) {
        return cudaErrorInvalidClusterSize;
    }
    return shape.shared_bytes > limit.shared_bytes ? cudaErrorInvalidValue : cudaSuccess;
}

int attribute_of(cudaDeviceAttr attribute)
{
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        return MAX_BLOCK;
    case cudaDevAttrMaxGridDimX:
        return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
        return MAX_GRID_YZ;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return SHARED_DEFAULT;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return SHARED_OPTIN;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return SHARED_OPTIN + 1024;
    case cudaDevAttrWarpSize:
        return LANES;
    case cudaDevAttrMaxRegistersPerBlock:
        return 65536;
    case cudaDevAttrClockRate:
        return 1980000;
    case cudaDevAttrMultiProcessorCount:
        return MULTIPROCESSORS;
    case cudaDevAttrMemoryClockRate:
        return 3201000;
    case cudaDevAttrGlobalMemoryBusWidth:
        return 6144;
    case cudaDevAttrL2CacheSize:
        return 50 << 20;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return THREADS_A_MULTIPROCESSOR;
    case cudaDevAttrComputeCapabilityMajor:
        return 9;
    case cudaDevAttrComputeCapabilityMinor:
        return 0;
    case cudaDevAttrClusterLaunch:
        return 1;
    }
    return -1;
}

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};
const ErrorText ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "invalid cluster size"},
};
const ErrorText *find_error(cudaError_t error)
{
    for (const ErrorText &known : ERRORS) {
        if (known.error == error) {
            return &known;
        }
    }
    return nullptr;
}

} // namespace

void submit(const LaunchShape &shape, cudaStream_t stream, const void *kernel,
            std::function<void()> thread)
{
    cudaError_t error = device_error();
    if (error == cudaSuccess) {
        error = check_shape(shape, kernel);
    }
    if (error == cudaSuccess) {
        auto launch = std::make_shared<Launch>();
        launch->name = std::string(shape.launcher) + ":" + shape.kernel;
        launch->grid = shape.grid;
        launch->block = shape.block;
        launch->cluster = shape.cluster;
        launch->shared_bytes = shape.shared_bytes;
        launch->thread = std::move(thread);
        error = enqueue(stream, make_work([launch] { run_launch(*launch); }), nullptr);
    }
    keep(error);
}

} // namespace emu

cudaError_t cudaGetDeviceCount(int *count)
{
    const cudaError_t error = emu::device_error();
    *count = error == cudaSuccess ? emu::device_count() : 0;
    return emu::keep(error);
}
cudaError_t cudaSetDevice(int device)
{
    const cudaError_t error = emu::check_device(device);
    if (error == cudaSuccess) {
        emu::current_device = device;
    }
    return emu::keep(error);
}
cudaError_t cudaGetDevice(int *device)
{
    *device = emu::current_device;
    return emu::keep(emu::device_error());
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    const cudaError_t error = emu::check_device(device);
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    *value = emu::attribute_of(attribute);
    return emu::keep(*value < 0 ? cudaErrorInvalidValue : cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    const cudaError_t error = emu::check_device(device);
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated sm_90");
    properties->totalGlobalMem = (size_t)emu::setting("CUDISTILL_EMU_MEMORY", (uint64_t)16 << 30);
    properties->sharedMemPerBlock = emu::SHARED_DEFAULT;
    properties->sharedMemPerBlockOptin = emu::SHARED_OPTIN;
    properties->sharedMemPerMultiprocessor = emu::SHARED_OPTIN + 1024;
    properties->regsPerBlock = emu::attribute_of(cudaDevAttrMaxRegistersPerBlock);
    properties->warpSize = emu::LANES;
    properties->maxThreadsPerBlock = emu::MAX_BLOCK;
    properties->maxThreadsPerMultiProcessor = emu::THREADS_A_MULTIPROCESSOR;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = emu::MAX_GRID_YZ;
    properties->maxGridSize[2] = emu::MAX_GRID_YZ;
    properties->major = 9;
    properties->minor = 0;
    properties->multiProcessorCount = emu::MULTIPROCESSORS;
    properties->memoryBusWidth = emu::attribute_of(cudaDevAttrGlobalMemoryBusWidth);
    properties->l2CacheSize = emu::attribute_of(cudaDevAttrL2CacheSize);
    properties->pciBusID = device + 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    const cudaError_t error = emu::check_device(device);
    if (error == cudaSuccess) {
        snprintf(text, (size_t)size, "0000:%02x:00.0", device + 1);
    }
    return emu::keep(error);
}
cudaError_t cudaDeviceReset(void)
{
    return cudaDeviceSynchronize();
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return emu::keep(emu::device_error());
}
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = emu::setting("CUDISTILL_EMU_DEVICES", 1) == 0 ? 0 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error)
{
    const emu::ErrorText *const found = emu::find_error(error);
    return found == nullptr ? "unrecognized error code" : found->name;
}
const char *cudaGetErrorString(cudaError_t error)
{
    const emu::ErrorText *const found = emu::find_error(error);
    return found == nullptr ? "unrecognized error code" : found->text;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    const std::lock_guard<std::mutex> held(emu::device_lock());
    switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
        if (value < 0 || value > emu::SHARED_OPTIN) {
            return emu::keep(cudaErrorInvalidValue);
        }
        emu::limits_of(kernel).shared_bytes = (size_t)value;
        return cudaSuccess;
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
        emu::limits_of(kernel).large_clusters = value != 0;
        return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
        return cudaSuccess;
    }
    return emu::keep(cudaErrorInvalidValue);
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int block_size,
                                                          size_t shared_bytes)
{
    if (block_size <= 0 || block_size > emu::MAX_BLOCK || shared_bytes > emu::SHARED_OPTIN) {
        return emu::keep(cudaErrorInvalidValue);
    }
    const size_t by_shared = (emu::SHARED_OPTIN + 1024) / (shared_bytes + 1024);
    *blocks = (int)std::min({by_shared, (size_t)(emu::THREADS_A_MULTIPROCESSOR / block_size),
                             (size_t)emu::MOST_BLOCKS});
    return cudaSuccess;
}
