/* Capture: work that is submitted to a captured stream becomes a node that follows the stream's frontier. A stream joins
 * by waiting for an event of the capture, and every node must lie before the origin's frontier when the capture ends.
 * A launch of the graph is one piece of work of its stream that runs the nodes in a drawn order of its own. */
#include "kernels/emu/emu_internal.h"

#include <algorithm>
#include <thread>

namespace emu
{

struct Node {
    WorkRef work;
    std::vector<int> after;
};

struct Capture {
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    StreamRef origin;
    std::vector<StreamRef> members;
    std::vector<Node> nodes;
    bool invalid = false, ended = false;
};

namespace
{

/* A launch: its nodes one by one. */
struct GraphRun : Work {
    std::shared_ptr<const std::vector<Node>> nodes;
    std::vector<bool> begun, done;
    size_t left = 0;

    bool ready(size_t i) const
    {
        const std::vector<int> &after = (*nodes)[i].after;
        return !done[i] && std::all_of(after.begin(), after.end(),
                                       [this](int before) { return done[(size_t)before]; });
    }
    void begin() override
    {
        begun.assign(nodes->size(), false);
        done.assign(nodes->size(), false);
        left = nodes->size();
    }
    Step step() override
    {
        if (left == 0) {
            return Step::DONE;
        }
        std::vector<size_t> candidates;
        for (size_t i = 0; i < nodes->size(); i++) {
            if (ready(i)) {
                candidates.push_back(i);
            }
        }
        while (!candidates.empty()) {
            size_t pick = 0;
            {
                const std::lock_guard<std::mutex> held(device_lock());
                pick = (size_t)draw(candidates.size());
            }
            const size_t i = candidates[pick];
            if (!begun[i]) {
                begun[i] = true;
                (*nodes)[i].work->begin();
            }
            const Step step = (*nodes)[i].work->step();
            if (step == Step::DONE) {
                done[i] = true;
                left--;
                return left == 0 ? Step::DONE : Step::PROGRESS;
            }
            if (step == Step::PROGRESS) {
                return Step::PROGRESS;
            }
            candidates.erase(candidates.begin() + (long)pick);
        }
        return Step::IDLE;
    }
};

std::vector<std::shared_ptr<Capture>> active_captures()
{
    std::vector<std::shared_ptr<Capture>> active;
    for (const StreamRef &stream : all_streams()) {
        if (stream->capture != nullptr && stream->capture->origin == stream) {
            active.push_back(stream->capture);
        }
    }
    return active;
}

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

void merge(std::vector<int> *into, const std::vector<int> &more)
{
    into->insert(into->end(), more.begin(), more.end());
    std::sort(into->begin(), into->end());
    into->erase(std::unique(into->begin(), into->end()), into->end());
}

/* Whether every node lies at or before the frontier. */
bool joined(const std::vector<Node> &nodes, const std::vector<int> &frontier)
{
    std::vector<bool> before(nodes.size(), false);
    for (const int node : frontier) {
        before[(size_t)node] = true;
    }
    for (size_t i = nodes.size(); i-- > 0;) { /* a node comes after what it follows */
        if (!before[i]) {
            return false;
        }
        for (const int node : nodes[i].after) {
            before[(size_t)node] = true;
        }
    }
    return true;
}

} // namespace

cudaError_t capture_work(const StreamRef &stream, WorkRef work)
{
    Capture *const capture = stream->capture.get();
    if (capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    capture->nodes.push_back({std::move(work), stream->frontier});
    stream->frontier = {(int)capture->nodes.size() - 1};
    return cudaSuccess;
}

cudaError_t unsafe_call()
{
    const std::thread::id self = std::this_thread::get_id();
    cudaError_t error = cudaSuccess;
    for (const auto &capture : active_captures()) {
        const bool own = capture->thread == self && capture->mode != cudaStreamCaptureModeRelaxed;
        const bool other = capture->mode == cudaStreamCaptureModeGlobal;
        if (thread_mode != cudaStreamCaptureModeRelaxed &&
            (own || (other && thread_mode == cudaStreamCaptureModeGlobal))) {
            capture->invalid = true;
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

cudaError_t implicit_call()
{
    cudaError_t error = cudaSuccess;
    for (const StreamRef &stream : all_streams()) {
        if (stream->capture != nullptr && stream->blocking) {
            stream->capture->invalid = true;
            error = cudaErrorStreamCaptureImplicit;
        }
    }
    return error;
}

cudaError_t device_wide_call()
{
    cudaError_t error = cudaSuccess;
    for (const auto &capture : active_captures()) {
        capture->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error;
}

cudaError_t forbid(const StreamRef &stream)
{
    stream->capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

CapturedPoint captured_point(const StreamRef &stream)
{
    return {stream->capture, stream->frontier};
}

cudaError_t capture_wait(const StreamRef &stream, const CapturedPoint &point)
{
    if (point.capture->ended) {
        return cudaErrorCapturedEvent;
    }
    if (stream->capture == nullptr) {
        if (stream == all_streams()[0]) {
            point.capture->invalid = true;
            return cudaErrorStreamCaptureImplicit;
        }
        stream->capture = point.capture;
        stream->frontier = point.nodes;
        point.capture->members.push_back(stream);
        return cudaSuccess;
    }
    if (stream->capture != point.capture) {
        stream->capture->invalid = true;
        point.capture->invalid = true;
        return cudaErrorStreamCaptureMerge;
    }
    merge(&stream->frontier, point.nodes);
    return point.capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}

} // namespace emu

struct CUgraph_st {
    std::shared_ptr<const std::vector<emu::Node>> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<const std::vector<emu::Node>> nodes;
    emu::Point last; /* its launches do not overlap */
};

namespace
{

cudaError_t begin_capture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(emu::device_lock());
    const emu::StreamRef stream = emu::find_stream(handle);
    if (stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream == emu::all_streams()[0]) {
        return cudaErrorStreamCaptureUnsupported;
    }
    if (stream->capture != nullptr) {
        stream->capture->invalid = true;
        return cudaErrorIllegalState;
    }
    stream->capture = std::make_shared<emu::Capture>();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->origin = stream;
    stream->capture->members = {stream};
    stream->frontier.clear();
    return cudaSuccess;
}

cudaError_t end_capture(cudaStream_t handle, cudaGraph_t *graph)
{
    *graph = nullptr;
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(emu::device_lock());
    const emu::StreamRef stream = emu::find_stream(handle);
    if (stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    const std::shared_ptr<emu::Capture> capture = stream->capture;
    if (capture == nullptr) {
        return cudaErrorIllegalState;
    }
    if (capture->origin != stream) {
        capture->invalid = true;
        return cudaErrorStreamCaptureUnmatched;
    }
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id()) {
        return cudaErrorStreamCaptureWrongThread;
    }
    const std::vector<int> frontier = stream->frontier;
    capture->ended = true;
    for (const emu::StreamRef &member : capture->members) {
        member->capture = nullptr;
        member->frontier.clear();
    }
    capture->members.clear();
    capture->origin = nullptr;
    if (capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    if (!emu::joined(capture->nodes, frontier)) {
        return cudaErrorStreamCaptureUnjoined;
    }
    *graph = new CUgraph_st();
    (*graph)->nodes = std::make_shared<const std::vector<emu::Node>>(std::move(capture->nodes));
    return cudaSuccess;
}

cudaError_t launch_graph(cudaGraphExec_t exec, cudaStream_t handle)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return error;
    }
    const std::lock_guard<std::mutex> held(emu::device_lock());
    const emu::StreamRef stream = emu::find_stream(handle);
    if (exec == nullptr || stream == nullptr) {
        return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture != nullptr) { /* graphs within graphs: not emulated */
        return emu::forbid(stream);
    }
    if (stream == emu::all_streams()[0]) {
        const cudaError_t implicit = emu::implicit_call();
        if (implicit != cudaSuccess) {
            return implicit;
        }
    }
    auto run = std::make_shared<emu::GraphRun>();
    run->nodes = exec->nodes;
    exec->last = emu::push(stream, run, {exec->last});
    return cudaSuccess;
}

} // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    return emu::keep(begin_capture(stream, mode));
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    return emu::keep(end_capture(stream, graph));
}
cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    const cudaError_t error = emu::device_error();
    if (error != cudaSuccess) {
        return emu::keep(error);
    }
    const std::lock_guard<std::mutex> held(emu::device_lock());
    const emu::StreamRef stream = emu::find_stream(handle);
    if (stream == nullptr) {
        return emu::keep(cudaErrorInvalidResourceHandle);
    }
    *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
    std::swap(*mode, emu::thread_mode);
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    if (exec == nullptr || graph == nullptr) {
        return emu::keep(cudaErrorInvalidValue);
    }
    *exec = new CUgraphExec_st();
    (*exec)->nodes = graph->nodes;
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t)
{
    return emu::keep(exec == nullptr ? cudaErrorInvalidValue : cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    return emu::keep(launch_graph(exec, stream));
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    const std::lock_guard<std::mutex> held(emu::device_lock());
    delete exec; /* a launch under way keeps its nodes */
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *, size_t *count)
{
    if (graph == nullptr || count == nullptr) {
        return emu::keep(cudaErrorInvalidValue);
    }
    *count = graph->nodes->size();
    return cudaSuccess;
}
