/* Streams and events. One thread plays the device: it takes, piece by piece, the head of a stream whose conditions hold.
 * With a seed it lags behind the host and prefers one stream for a while, then another, so that every order that the
 * program allows comes up; with seed 0 it takes pieces as they were submitted. */
#include "kernels/emu/emu_internal.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <thread>
#include <unistd.h>

struct CUstream_st {
    emu::StreamRef stream;
};
struct CUevent_st {
    unsigned flags;
    bool recorded;
    emu::Point point;
    emu::CapturedPoint captured;
    std::shared_ptr<double> time_s; /* when it was reached */
};

namespace emu
{

namespace
{

using Clock = std::chrono::steady_clock;

enum {
    LAG_US = 500,      /* so long after the last call of the host the device works on by itself */
    IDLE_US = 50,      /* between two looks at work that waits for other processes */
    BURST = 64,        /* pieces that the device may do at such a time, at most */
    FAVOUR = 48,       /* picks for which a stream stays preferred, at most */
    FAVOUR_OUT_OF = 8, /* one pick in so many is of any stream */
    EARLY_OUT_OF = 64  /* after one submission in so many the device may begin */
};

struct Device {
    std::mutex lock;
    std::condition_variable work, done; /* for the device; for hosts */
    std::vector<StreamRef> streams;     /* the first is stream 0 */
    std::vector<CUstream_st *> handles;
    std::vector<CUevent_st *> events;
    pid_t process = 0;
    bool started = false;
    int waiting = 0;     /* hosts that wait: the device runs freely */
    int64_t allowed = 0; /* pieces that it may do otherwise */
    uint64_t ticket = 0;
    uint64_t seed = 0, draws = 0;
    StreamRef favourite;
    int favoured = 0;
};

/* Never freed: the device's thread ends with the process. */
Device &device()
{
    static Device *const only = [] {
        Device *const made = new Device();
        made->streams.push_back(std::make_shared<Stream>());
        made->process = getpid();
        made->seed = setting("CUDISTILL_EMU_DELAY_SEED", 1);
        return made;
    }();
    return *only;
}

thread_local cudaError_t last_error = cudaSuccess;

bool reached(const Point &point)
{
    return point.stream == nullptr || point.stream->done >= point.number;
}

bool ready(const Stream &stream)
{
    return !stream.queue.empty() && std::all_of(stream.queue.front().after.begin(),
                                                stream.queue.front().after.end(), reached);
}

/* Of the streams that can go on, leaving out `idle`. */
StreamRef choose(Device &d, const std::vector<StreamRef> &idle)
{
    std::vector<StreamRef> candidates;
    for (const StreamRef &stream : d.streams) {
        if (ready(*stream) && std::find(idle.begin(), idle.end(), stream) == idle.end()) {
            candidates.push_back(stream);
        }
    }
    if (candidates.empty()) {
        return nullptr;
    }
    if (d.seed == 0) {
        return *std::min_element(candidates.begin(), candidates.end(),
                                 [](const StreamRef &a, const StreamRef &b) {
                                     return a->queue.front().ticket < b->queue.front().ticket;
                                 });
    }
    if (d.favoured-- <= 0 || d.favourite == nullptr || d.favourite->queue.empty()) {
        std::vector<StreamRef> busy;
        std::copy_if(d.streams.begin(), d.streams.end(), std::back_inserter(busy),
                     [](const StreamRef &stream) { return !stream->queue.empty(); });
        d.favourite = busy[draw(busy.size())];
        d.favoured = (int)draw(FAVOUR);
    }
    if (draw(FAVOUR_OUT_OF) != 0 &&
        std::find(candidates.begin(), candidates.end(), d.favourite) != candidates.end()) {
        return d.favourite;
    }
    return candidates[draw(candidates.size())];
}

/* Streams that were destroyed and have nothing left. */
void drop_destroyed(Device &d)
{
    d.streams.erase(std::remove_if(d.streams.begin(), d.streams.end(),
                                   [](const StreamRef &stream) {
                                       return stream->destroyed && stream->queue.empty();
                                   }),
                    d.streams.end());
}

void finish(Device &d, const StreamRef &stream)
{
    stream->queue.pop_front();
    stream->done++;
    if (stream->destroyed) {
        drop_destroyed(d);
    }
    d.done.notify_all();
}

/* One round of the device: a step of some stream. False when no stream can go on now. */
bool run_some(Device &d, std::unique_lock<std::mutex> &held)
{
    std::vector<StreamRef> idle;
    for (;;) {
        const StreamRef stream = choose(d, idle);
        if (stream == nullptr) {
            return false;
        }
        Entry *const entry = &stream->queue.front(); /* stays where it is while others are added */
        const bool begin = !entry->begun;
        entry->begun = true;
        const WorkRef work = entry->work;
        held.unlock();
        if (begin) {
            work->begin();
        }
        const Step step = work->step();
        held.lock();
        if (step == Step::IDLE) {
            idle.push_back(stream);
            continue;
        }
        d.allowed--;
        if (step == Step::DONE) {
            finish(d, stream);
        }
        return true;
    }
}

void device_main()
{
    Device &d = device();
    std::unique_lock<std::mutex> held(d.lock);
    for (;;) {
        const bool any = std::any_of(d.streams.begin(), d.streams.end(),
                                     [](const StreamRef &s) { return !s->queue.empty(); });
        if (!any) {
            d.work.wait(held);
            continue;
        }
        if (d.seed != 0 && d.waiting == 0 && d.allowed <= 0 &&
            d.work.wait_for(held, std::chrono::microseconds(LAG_US)) == std::cv_status::timeout) {
            d.allowed = 1 + (int64_t)draw(BURST);
        }
        if (d.seed != 0 && d.waiting == 0 && d.allowed <= 0) {
            continue;
        }
        if (!run_some(d, held)) {
            d.work.wait_for(held, std::chrono::microseconds(IDLE_US));
        }
    }
}

void start(Device &d)
{
    if (!d.started) {
        d.started = true;
        std::thread(device_main).detach();
    }
}

/* The host looks whether something is done: the device may go on a little, as time goes by. */
void let_go_on(Device &d)
{
    d.allowed += 1 + (int64_t)draw(4);
    d.work.notify_one();
}

CUstream_st *const LEGACY = reinterpret_cast<CUstream_st *>(1);

CUevent_st *find_event(cudaEvent_t event)
{
    Device &d = device();
    return std::find(d.events.begin(), d.events.end(), event) == d.events.end() ? nullptr : event;
}

} // namespace

/* ---- Settings and errors ---- */
uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *const text = getenv(name);
    return text == nullptr || *text == 0 ? otherwise : strtoull(text, nullptr, 10);
}

/* Finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t mix_bits(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda emulator: ");
    vfprintf(stderr, format, arguments);
    const std::string where = place();
    fprintf(stderr, "%s%s\n", where.empty() ? "" : " in ", where.c_str());
    va_end(arguments);
    fflush(stderr);
    abort();
}

cudaError_t keep(cudaError_t error)
{
    if (error != cudaSuccess && error != cudaErrorNotReady) {
        last_error = error;
    }
    return error;
}

cudaError_t device_error()
{
    if (setting("CUDISTILL_EMU_DEVICES", 1) == 0) {
        return cudaErrorNoDevice;
    }
    /* As with a real device, a child made by fork cannot use its parent's. */
    return device().process == getpid() ? cudaSuccess : cudaErrorInitializationError;
}

/* ---- Queues ---- */
namespace
{

struct Once : Work {
    std::function<void()> run;
    Step step() override
    {
        run();
        return Step::DONE;
    }
};

} // namespace

WorkRef make_work(std::function<void()> run)
{
    auto work = std::make_shared<Once>();
    work->run = std::move(run);
    return work;
}

std::mutex &device_lock()
{
    return device().lock;
}

uint64_t draw(uint64_t bound)
{
    Device &d = device();
    return d.seed == 0 || bound == 0 ? 0 : mix_bits(d.seed * 0x100000001b3u + d.draws++) % bound;
}

StreamRef find_stream(cudaStream_t stream)
{
    Device &d = device();
    if (stream == nullptr || stream == LEGACY) {
        return d.streams[0];
    }
    const auto found = std::find(d.handles.begin(), d.handles.end(), stream);
    return found == d.handles.end() ? nullptr : (*found)->stream;
}

const std::vector<StreamRef> &all_streams()
{
    return device().streams;
}

Point push(const StreamRef &stream, WorkRef work, std::vector<Point> after)
{
    Device &d = device();
    start(d);
    if (stream == d.streams[0]) {
        for (const StreamRef &other : d.streams) {
            if (other != stream && other->blocking) {
                after.push_back({other, other->submitted});
            }
        }
    } else if (stream->blocking) {
        after.push_back({d.streams[0], d.streams[0]->submitted});
    }
    Entry entry;
    entry.after = std::move(after);
    entry.work = std::move(work);
    entry.ticket = d.ticket++;
    stream->queue.push_back(std::move(entry));
    stream->submitted++;
    if (draw(EARLY_OUT_OF) == 0) {
        d.allowed = (int64_t)draw(8);
    }
    d.work.notify_one();
    return {stream, stream->submitted};
}

cudaError_t enqueue(cudaStream_t handle, WorkRef work, Point *point)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(device_lock());
    const StreamRef stream = find_stream(handle);
    if (stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) {
        return capture_work(stream, std::move(work));
    }
    if (stream == device().streams[0]) {
        const cudaError_t implicit = implicit_call();
        if (implicit != cudaSuccess) {
            return implicit;
        }
    }
    const Point reached_at = push(stream, std::move(work), {});
    if (point != nullptr) {
        *point = reached_at;
    }
    return cudaSuccess;
}

void wait_for(std::unique_lock<std::mutex> &held, const Point &point)
{
    Device &d = device();
    d.waiting++;
    d.work.notify_one();
    d.done.wait(held, [&] { return reached(point); });
    d.waiting--;
}

void wait_for_all(std::unique_lock<std::mutex> &held)
{
    const std::vector<StreamRef> streams = device().streams;
    for (const StreamRef &stream : streams) {
        wait_for(held, {stream, stream->submitted});
    }
}

/* ---- Streams ---- */
namespace
{

cudaError_t create_stream(cudaStream_t *stream, unsigned flags)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    if (stream == nullptr || flags > cudaStreamNonBlocking) {
        return cudaErrorInvalidValue;
    }
    Device &d = device();
    const std::lock_guard<std::mutex> held(d.lock);
    *stream = new CUstream_st();
    (*stream)->stream = std::make_shared<Stream>();
    (*stream)->stream->blocking = flags != cudaStreamNonBlocking;
    d.streams.push_back((*stream)->stream);
    d.handles.push_back(*stream);
    return cudaSuccess;
}

/* What is in the stream is still carried out. */
cudaError_t destroy_stream(cudaStream_t handle)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    Device &d = device();
    const std::lock_guard<std::mutex> held(d.lock);
    const StreamRef stream = find_stream(handle);
    if (stream == nullptr || stream == d.streams[0]) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) {
        return forbid(stream);
    }
    stream->destroyed = true;
    drop_destroyed(d);
    d.handles.erase(std::find(d.handles.begin(), d.handles.end(), handle));
    delete handle;
    return cudaSuccess;
}

/* query: says whether it is done; else waits for it. */
cudaError_t ask_stream(cudaStream_t handle, bool query)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    std::unique_lock<std::mutex> held(device_lock());
    const StreamRef stream = find_stream(handle);
    if (stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) {
        return forbid(stream);
    }
    const cudaError_t unsafe = unsafe_call();
    if (unsafe != cudaSuccess) {
        return unsafe;
    }
    const Point point = {stream, stream->submitted};
    if (!query) {
        wait_for(held, point);
        return cudaSuccess;
    }
    let_go_on(device());
    return reached(point) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t wait_event(cudaStream_t handle, cudaEvent_t handle_of_event)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(device_lock());
    const StreamRef stream = find_stream(handle);
    const CUevent_st *const event = find_event(handle_of_event);
    if (stream == nullptr || event == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (event->captured.capture != nullptr) {
        return capture_wait(stream, event->captured);
    }
    if (!event->recorded) {
        return cudaSuccess;
    }
    if (stream->capture != nullptr) {
        forbid(stream);
        return cudaErrorStreamCaptureIsolation;
    }
    push(stream, make_work([] {}), {event->point});
    return cudaSuccess;
}

/* ---- Events ---- */
cudaError_t create_event(cudaEvent_t *event, unsigned flags)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    if (event == nullptr || flags > (cudaEventBlockingSync | cudaEventDisableTiming)) {
        return cudaErrorInvalidValue;
    }
    Device &d = device();
    const std::lock_guard<std::mutex> held(d.lock);
    *event = new CUevent_st();
    (*event)->flags = flags;
    d.events.push_back(*event);
    return cudaSuccess;
}

cudaError_t destroy_event(cudaEvent_t event)
{
    Device &d = device();
    const std::lock_guard<std::mutex> held(d.lock);
    if (find_event(event) == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    d.events.erase(std::find(d.events.begin(), d.events.end(), event));
    delete event;
    return cudaSuccess;
}

cudaError_t record_event(cudaEvent_t handle_of_event, cudaStream_t handle)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(device_lock());
    const StreamRef stream = find_stream(handle);
    CUevent_st *const event = find_event(handle_of_event);
    if (stream == nullptr || event == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) {
        event->captured = captured_point(stream);
        return cudaSuccess;
    }
    if (stream == all_streams()[0]) {
        const cudaError_t implicit = implicit_call();
        if (implicit != cudaSuccess) {
            return implicit;
        }
    }
    auto time_s = std::make_shared<double>(0.0);
    event->captured = CapturedPoint();
    event->recorded = true;
    event->time_s = time_s;
    event->point =
        push(stream, make_work([time_s] {
                 *time_s = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
             }),
             {});
    return cudaSuccess;
}

cudaError_t ask_event(cudaEvent_t handle, bool query)
{
    const cudaError_t error = device_error();
    if (error != cudaSuccess) {
        return error;
    }
    std::unique_lock<std::mutex> held(device_lock());
    const CUevent_st *const event = find_event(handle);
    if (event == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (event->captured.capture != nullptr) {
        return cudaErrorCapturedEvent;
    }
    const cudaError_t unsafe = unsafe_call();
    if (unsafe != cudaSuccess) {
        return unsafe;
    }
    const Point point = event->point;
    if (!query) {
        wait_for(held, point);
        return cudaSuccess;
    }
    let_go_on(device());
    return reached(point) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t elapsed(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    const std::lock_guard<std::mutex> held(device_lock());
    const CUevent_st *const first = find_event(begin);
    const CUevent_st *const second = find_event(end);
    if (first == nullptr || second == nullptr || !first->recorded || !second->recorded ||
        ((first->flags | second->flags) & cudaEventDisableTiming) != 0) {
        return cudaErrorInvalidResourceHandle;
    }
    if (!reached(first->point) || !reached(second->point)) {
        return cudaErrorNotReady;
    }
    *milliseconds = (float)((*second->time_s - *first->time_s) * 1e3);
    return cudaSuccess;
}

} // namespace
} // namespace emu

void emu_set_delay_seed(uint64_t seed)
{
    emu::Device &d = emu::device();
    const std::lock_guard<std::mutex> held(d.lock);
    d.seed = seed;
    d.draws = 0;
    d.favoured = 0;
    d.work.notify_one();
}

/* ---- The runtime's calls ---- */
cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = emu::last_error;
    emu::last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void)
{
    return emu::last_error;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return emu::keep(emu::create_stream(stream, cudaStreamDefault));
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return emu::keep(emu::create_stream(stream, flags));
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return emu::keep(emu::create_stream(stream, flags));
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    return emu::keep(emu::destroy_stream(stream));
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return emu::keep(emu::ask_stream(stream, false));
}
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    return emu::keep(emu::ask_stream(stream, true));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    return emu::keep(emu::wait_event(stream, event));
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *user)
{
    return emu::keep(emu::enqueue(stream, emu::make_work([=] { function(user); }), nullptr));
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return emu::keep(emu::create_event(event, cudaEventDefault));
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    return emu::keep(emu::create_event(event, flags));
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    return emu::keep(emu::destroy_event(event));
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    return emu::keep(emu::record_event(event, stream));
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return emu::keep(emu::ask_event(event, false));
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    return emu::keep(emu::ask_event(event, true));
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    return emu::keep(emu::elapsed(milliseconds, begin, end));
}
cudaError_t cudaDeviceSynchronize(void)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    std::unique_lock<std::mutex> held(emu::device_lock());
    const cudaError_t forbidden = emu::device_wide_call();
    if (forbidden == cudaSuccess) {
        emu::wait_for_all(held);
    }
    return emu::keep(forbidden);
}
