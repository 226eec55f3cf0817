/* Inside the emulator: emu_block.cpp (one launch), emu_memory.cpp, emu_queue.cpp (streams, events), emu_graph.cpp (capture),
 * emu_runtime.cpp (the rest of the runtime's calls), emu_nccl.cpp.
 *
 * Thread rules: the state below is guarded by device_lock(), except what belongs to the running launch, which only the
 * device's thread touches. */
#ifndef CUDISTILL_EMU_INTERNAL_H
#define CUDISTILL_EMU_INTERNAL_H

#include "kernels/emu/emu.h"
#include "kernels/emu/emu_api.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace emu
{

/* ---- Settings ---- */
enum {
    MAX_BLOCK = 1024,
    MAX_BLOCK_Z = 64,
    MAX_GRID_YZ = 65535,
    SHARED_DEFAULT = 48 * 1024, /* dynamic shared memory without cudaFuncSetAttribute */
    SHARED_OPTIN = 227 * 1024,  /* with it, sm_90 */
    CLUSTER_PORTABLE = 8,
    CLUSTER_MOST = 16
};
/* Of an environment variable; `otherwise` where it is not set. */
uint64_t setting(const char *name, uint64_t otherwise);
uint64_t mix_bits(uint64_t x);
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- emu_block.cpp ---- */
struct Launch {
    std::string name;
    dim3 grid, block;
    unsigned cluster;
    size_t shared_bytes;
    std::function<void()> thread;
};
void run_launch(const Launch &launch);
/* Where the running kernel is: "kernel k, block (1,0,0), thread (3,0,0)"; "" where none runs. */
std::string place();

/* ---- emu_memory.cpp ---- */
enum class Memory { UNKNOWN, PINNED, DEVICE };
/* What holds all the bytes; UNKNOWN also where they reach beyond an allocation. `outside`, if given, is set where the
 * address lies in an allocation that ends too early. */
Memory memory_of(const void *p, size_t bytes, bool *outside);
/* The last hits are forgotten: an allocation has gone. */
void forget_allocations();

/* ---- emu_queue.cpp ---- */
std::mutex &device_lock();

/* One piece of work. The device's thread calls begin() once and then step() until it says DONE, without the lock;
 * IDLE = nothing to do yet, other streams go on. A captured piece does so in every replay. */
enum class Step { DONE, PROGRESS, IDLE };
struct Work {
    virtual ~Work()
    {
    }
    virtual void begin()
    {
    }
    virtual Step step() = 0;
};
typedef std::shared_ptr<Work> WorkRef;
/* Work that is done in one step. */
WorkRef make_work(std::function<void()> run);

struct Stream;
struct Capture;
typedef std::shared_ptr<Stream> StreamRef;

/* A place in a stream: reached when so many of its pieces are done. */
struct Point {
    StreamRef stream; /* NULL = reached */
    uint64_t number = 0;
};

struct Entry {
    std::vector<Point> after;
    WorkRef work;
    bool begun = false;
    uint64_t ticket = 0; /* order of submission */
};

struct Stream {
    bool blocking = true; /* waits for stream 0 and the other way round */
    bool destroyed = false;
    std::deque<Entry> queue; /* pieces done..submitted */
    uint64_t submitted = 0, done = 0;
    std::shared_ptr<Capture> capture;
    std::vector<int> frontier; /* captured nodes that the next one follows */
};

/* Puts work into the stream, or records it where the stream is captured. cudaError_t, not yet kept. The lock is not
 * held. point, if given: what it will be reached at (a NULL stream when it was recorded). */
cudaError_t enqueue(cudaStream_t stream, WorkRef work, Point *point);
/* With the lock. `after`: what it waits for besides the stream's own order. */
Point push(const StreamRef &stream, WorkRef work, std::vector<Point> after);
StreamRef find_stream(cudaStream_t stream);  /* with the lock; NULL where it is none */
const std::vector<StreamRef> &all_streams(); /* with the lock; the first is stream 0 */
/* Waits until the point is reached; meanwhile the device runs freely. */
void wait_for(std::unique_lock<std::mutex> &held, const Point &point);
void wait_for_all(std::unique_lock<std::mutex> &held);
/* A draw in [0, bound) of the device's own sequence, 0 where orders are not drawn. With the lock. */
uint64_t draw(uint64_t bound);

/* Keeps the error for cudaGetLastError and returns it. */
cudaError_t keep(cudaError_t error);
/* No device, or a forked child: the error of every call. */
cudaError_t device_error();

/* ---- emu_graph.cpp: all with the lock ---- */
/* Records the work in the stream's capture. */
cudaError_t capture_work(const StreamRef &stream, WorkRef work);
/* Whether a call that waits or allocates is forbidden by a capture (of this thread, or of any in global mode); that
 * capture is then invalid. */
cudaError_t unsafe_call();
/* Whether stream 0 cannot be used, since a blocking stream is captured; that capture is then invalid. */
cudaError_t implicit_call();
/* A call that a capture of any kind forbids. */
cudaError_t device_wide_call();
/* A call that the stream's capture forbids. */
cudaError_t forbid(const StreamRef &stream);
/* What an event remembers of a capture. */
struct CapturedPoint {
    std::shared_ptr<Capture> capture; /* NULL = recorded outside captures */
    std::vector<int> nodes;
};
CapturedPoint captured_point(const StreamRef &stream);
/* `stream` waits for what was captured: it joins that capture. */
cudaError_t capture_wait(const StreamRef &stream, const CapturedPoint &point);

} // namespace emu

#endif
