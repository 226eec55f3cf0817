/* Memory of the emulated device: heap memory in a table. The table answers which kind of memory an address is, and
 * whether an access stays inside its allocation; a sanitizer sees the same errors by itself. */
#include "kernels/emu/emu_internal.h"

#include <algorithm>
#include <stdlib.h>
#include <string.h>

namespace emu
{

uintptr_t allocation_base;
size_t allocation_bytes;

namespace
{

enum { ALIGNMENT = 256, RECENT = 8, POISON = 0xff };

struct Allocation {
    size_t bytes;
    Memory kind;
};
struct Range {
    uintptr_t base;
    size_t bytes;
};

std::mutex table_lock;
std::map<uintptr_t, Allocation> *table; /* never freed: kernels may run until the process ends */
size_t used;
/* Allocations that the running kernel hit, the latest first. */
Range recent[RECENT];

std::map<uintptr_t, Allocation> &allocations()
{
    if (table == nullptr) {
        table = new std::map<uintptr_t, Allocation>();
    }
    return *table;
}
size_t device_bytes()
{
    return (size_t)setting("CUDISTILL_EMU_MEMORY", (uint64_t)16 << 30);
}

bool holds(const Range &range, uintptr_t at, size_t bytes)
{
    return at - range.base < range.bytes && bytes <= range.bytes - (at - range.base);
}

cudaError_t allocate(void **memory, size_t bytes, Memory kind)
{
    if (memory == nullptr) {
        return cudaErrorInvalidValue;
    }
    *memory = nullptr;
    if (bytes == 0) {
        return cudaSuccess;
    }
    const std::lock_guard<std::mutex> held(table_lock);
    const size_t limit = device_bytes();
    if (kind == Memory::DEVICE && (bytes > limit || used > limit - bytes)) {
        return cudaErrorMemoryAllocation;
    }
    if (posix_memalign(memory, ALIGNMENT, bytes) != 0) {
        *memory = nullptr;
        return cudaErrorMemoryAllocation;
    }
    memset(*memory, POISON, bytes);
    allocations()[(uintptr_t)*memory] = {bytes, kind};
    used += kind == Memory::DEVICE ? bytes : 0;
    return cudaSuccess;
}

/* Waits for the device first, as cudaFree does. */
cudaError_t release(void *memory, Memory kind)
{
    if (memory == nullptr) {
        return cudaSuccess;
    }
    {
        std::unique_lock<std::mutex> held(device_lock());
        const cudaError_t error = unsafe_call();
        if (error != cudaSuccess) {
            return error;
        }
        wait_for_all(held);
    }
    const std::lock_guard<std::mutex> held(table_lock);
    const auto found = allocations().find((uintptr_t)memory);
    if (found == allocations().end() || found->second.kind != kind) {
        return cudaErrorInvalidValue;
    }
    used -= kind == Memory::DEVICE ? found->second.bytes : 0;
    allocations().erase(found);
    free(memory);
    return cudaSuccess;
}

/* The allocation that begins at or before the address. */
bool allocation_before(uintptr_t at, Range *range, Memory *kind)
{
    auto found = allocations().upper_bound(at);
    if (found == allocations().begin()) {
        return false;
    }
    --found;
    *range = {found->first, found->second.bytes};
    *kind = found->second.kind;
    return true;
}

cudaError_t checked_allocate(void **memory, size_t bytes, Memory kind)
{
    cudaError_t error = device_error();
    if (error == cudaSuccess) {
        const std::lock_guard<std::mutex> held(device_lock());
        error = unsafe_call();
    }
    return error != cudaSuccess ? error : allocate(memory, bytes, kind);
}
cudaError_t checked_release(void *memory, Memory kind)
{
    const cudaError_t error = device_error();
    return error != cudaSuccess ? error : release(memory, kind);
}

/* ---- Copies ---- */
struct Copy {
    void *to;
    const void *from;
    size_t bytes;
    bool from_pageable, to_pageable;
};

cudaError_t check_copy(Copy *copy, cudaMemcpyKind kind)
{
    bool to_outside = false;
    bool from_outside = false;
    const Memory to = memory_of(copy->to, copy->bytes, &to_outside);
    const Memory from = memory_of(copy->from, copy->bytes, &from_outside);
    if (to_outside || from_outside || copy->to == nullptr || copy->from == nullptr) {
        return cudaErrorInvalidValue;
    }
    if (kind != cudaMemcpyDefault) {
        const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
        const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
        if (to_device != (to == Memory::DEVICE) || from_device != (from == Memory::DEVICE)) {
            return cudaErrorInvalidValue;
        }
    }
    copy->from_pageable = from == Memory::UNKNOWN;
    copy->to_pageable = to == Memory::UNKNOWN;
    return cudaSuccess;
}

bool captured(cudaStream_t stream)
{
    const std::lock_guard<std::mutex> held(device_lock());
    const StreamRef found = find_stream(stream);
    return found != nullptr && found->capture != nullptr;
}

cudaError_t enqueue_copy(Copy copy, cudaMemcpyKind kind, cudaStream_t stream, Point *point)
{
    if (copy.bytes == 0) {
        return cudaSuccess;
    }
    const cudaError_t error = check_copy(&copy, kind);
    if (error != cudaSuccess) {
        return error;
    }
    if (copy.from_pageable && !captured(stream)) {
        const char *const from = static_cast<const char *>(copy.from);
        auto staged = std::make_shared<std::vector<char>>(from, from + copy.bytes);
        return enqueue(stream,
                       make_work([copy, staged] { memcpy(copy.to, staged->data(), copy.bytes); }),
                       point);
    }
    return enqueue(stream, make_work([copy] { memmove(copy.to, copy.from, copy.bytes); }), point);
}

cudaError_t wait_point(const Point &point)
{
    std::unique_lock<std::mutex> held(device_lock());
    wait_for(held, point);
    return cudaSuccess;
}

cudaError_t copy_async(Copy copy, cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    Point point;
    error = enqueue_copy(copy, kind, stream, &point);
    const bool to_pageable = memory_of(copy.to, copy.bytes, nullptr) == Memory::UNKNOWN;
    return error == cudaSuccess && to_pageable ? wait_point(point) : error;
}

/* Stream 0 and the host waits. */
cudaError_t sync_call_allowed()
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(device_lock());
    const cudaError_t unsafe = unsafe_call();
    return unsafe != cudaSuccess ? unsafe : implicit_call();
}

cudaError_t set_bytes(void *to, int byte, size_t bytes, cudaStream_t stream, Point *point)
{
    cudaError_t error = device_error();
    if (error != cudaSuccess || bytes == 0) {
        return error;
    }
    if (memory_of(to, bytes, nullptr) == Memory::UNKNOWN) {
        return cudaErrorInvalidValue;
    }
    return enqueue(stream, make_work([=] { memset(to, byte, bytes); }), point);
}

} // namespace

Memory memory_of(const void *p, size_t bytes, bool *outside)
{
    const std::lock_guard<std::mutex> held(table_lock);
    Range range;
    Memory kind;
    const uintptr_t at = (uintptr_t)p;
    if (!allocation_before(at, &range, &kind) || at - range.base >= range.bytes) {
        return Memory::UNKNOWN;
    }
    if (!holds(range, at, bytes)) {
        if (outside != nullptr) {
            *outside = true;
        }
        return Memory::UNKNOWN;
    }
    return kind;
}

void forget_allocations()
{
    memset(recent, 0, sizeof recent);
    allocation_base = 0;
    allocation_bytes = 0;
}

void find_allocation(const void *p, size_t bytes, const char *what)
{
    const uintptr_t at = (uintptr_t)p;
    Range range;
    int place_in_list = 0;
    while (place_in_list < RECENT && !holds(recent[place_in_list], at, bytes)) {
        place_in_list++;
    }
    if (place_in_list < RECENT) {
        range = recent[place_in_list];
    } else {
        const std::lock_guard<std::mutex> held(table_lock);
        Memory kind;
        if (!allocation_before(at, &range, &kind)) {
            fail("%s of %zu bytes at %p, which is not device or pinned memory", what, bytes, p);
        }
        if (!holds(range, at, bytes)) {
            fail("%s of %zu bytes at %p, which is not device or pinned memory: %zu bytes after the "
                 "beginning of an allocation of %zu",
                 what, bytes, p, (size_t)(at - range.base), range.bytes);
        }
        place_in_list = RECENT - 1;
    }
    memmove(recent + 1, recent, (size_t)place_in_list * sizeof recent[0]);
    recent[0] = range;
    allocation_base = range.base;
    allocation_bytes = range.bytes;
}

void misaligned(const void *p, size_t align, const char *what)
{
    fail("%s at %p, which is not aligned to %zu bytes", what, p, align);
}

} // namespace emu

size_t emu_live_allocations(void)
{
    const std::lock_guard<std::mutex> held(emu::table_lock);
    return emu::allocations().size();
}

/* ---- The runtime's calls ---- */
cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    return emu::keep(emu::checked_allocate(memory, bytes, emu::Memory::DEVICE));
}
cudaError_t cudaFree(void *memory)
{
    return emu::keep(emu::checked_release(memory, emu::Memory::DEVICE));
}
cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    return emu::keep(emu::checked_allocate(memory, bytes, emu::Memory::PINNED));
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    return cudaMallocHost(memory, bytes);
}
cudaError_t cudaFreeHost(void *memory)
{
    return emu::keep(emu::checked_release(memory, emu::Memory::PINNED));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return emu::keep(emu::copy_async({to, from, bytes, false, false}, kind, stream));
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    cudaError_t error = emu::sync_call_allowed();
    emu::Point point;
    if (error == cudaSuccess) {
        error = emu::enqueue_copy({to, from, bytes, false, false}, kind, nullptr, &point);
    }
    return emu::keep(error == cudaSuccess ? emu::wait_point(point) : error);
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t stream)
{
    emu::Point point;
    return emu::keep(emu::set_bytes(to, byte, bytes, stream, &point));
}
cudaError_t cudaMemset(void *to, int byte, size_t bytes)
{
    cudaError_t error = emu::sync_call_allowed();
    emu::Point point;
    if (error == cudaSuccess) {
        error = emu::set_bytes(to, byte, bytes, nullptr, &point);
    }
    return emu::keep(error); /* of device memory: the host does not wait */
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *memory)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    const emu::Memory kind = emu::memory_of(memory, 1, nullptr);
    memset(attributes, 0, sizeof *attributes);
    attributes->device = kind == emu::Memory::UNKNOWN ? -2 : 0;
    attributes->type = kind == emu::Memory::DEVICE   ? cudaMemoryTypeDevice
                       : kind == emu::Memory::PINNED ? cudaMemoryTypeHost
                                                     : cudaMemoryTypeUnregistered;
    void *const address = const_cast<void *>(memory);
    attributes->devicePointer = kind == emu::Memory::UNKNOWN ? nullptr : address;
    attributes->hostPointer = kind == emu::Memory::DEVICE ? nullptr : address;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    const cudaError_t error = emu::device_error();
    if (error == cudaSuccess) {
        const std::lock_guard<std::mutex> held(emu::table_lock);
        *total_bytes = emu::device_bytes();
        *free_bytes = *total_bytes - emu::used;
    }
    return emu::keep(error);
}
