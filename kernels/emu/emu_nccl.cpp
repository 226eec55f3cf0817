/* NCCL between processes of one machine. The ranks map one piece of shared memory, named by the unique id and unlinked as
 * soon as all are there. A collective goes by chunks: every rank copies its chunk into its slot and says so, then reads
 * all slots, says so, and goes on when all have read. The steps are pieces of an emulated stream's work: between them
 * other streams go on, and a step that waits for a peer never blocks the device. */
#include "kernels/emu/emu_internal.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <thread>
#include <unistd.h>

namespace
{

enum { MOST_RANKS = 16 };
enum : size_t { CHUNK = 256 * 1024 };

using Clock = std::chrono::steady_clock;

struct Descriptor {
    int kind, type, op, root;
    uint64_t count;
};
bool same(const Descriptor &a, const Descriptor &b)
{
    return a.kind == b.kind && a.type == b.type && a.op == b.op && a.root == b.root &&
           a.count == b.count;
}

/* All zero when the memory is new. */
struct Peer {
    std::atomic<uint32_t> here, gone, finalized;
    std::atomic<int> process;
    std::atomic<uint64_t> posted, read; /* chunks */
    Descriptor doing;
};
struct Shared {
    std::atomic<uint32_t> arrived;
    Peer peer[MOST_RANKS];
    alignas(64) char slot[MOST_RANKS][CHUNK];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "atomics are shared by processes");

struct Collective;

struct Member {
    int rank, world;
    bool blocking;
    std::string name; /* of the shared memory */
    Shared *shared = nullptr;
    std::mutex lock; /* of the following */
    ncclResult_t error = ncclSuccess;
    std::string text;
    int unsettled = 0; /* ncclCommGetAsyncError says "in progress" so many times more */
    bool finalizing = false;
    bool linked = true;
    Clock::time_point since; /* of the call that waits for peers */
    /* the device's thread alone */
    uint64_t chunk = 0;
    const Collective *running = nullptr;

    Peer &self()
    {
        return shared->peer[rank];
    }
    ~Member()
    {
        if (shared != nullptr) {
            if (linked && shared->arrived.load() < (uint32_t)world) {
                shm_unlink(name.c_str());
            }
            munmap(shared, sizeof *shared);
        }
    }
};
typedef std::shared_ptr<Member> MemberRef;

void set_error(Member *member, ncclResult_t error, const std::string &text)
{
    const std::lock_guard<std::mutex> held(member->lock);
    if (member->error == ncclSuccess) {
        member->error = error;
        member->text = text;
    }
}
ncclResult_t error_of(Member *member)
{
    const std::lock_guard<std::mutex> held(member->lock);
    return member->error;
}

double timeout_s()
{
    return (double)emu::setting("CUDISTILL_EMU_NCCL_TIMEOUT_S", 30);
}
double seconds_since(Clock::time_point begin)
{
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/* Ended, or ended and not yet collected by its parent. */
bool process_ended(pid_t process)
{
    if (kill(process, 0) != 0 && errno == ESRCH) {
        return true;
    }
    char path[64];
    char text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
    FILE *const file = fopen(path, "r");
    if (file == nullptr) {
        return false;
    }
    const size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *const after_name = strrchr(text, ')');
    return after_name != nullptr && after_name[1] == ' ' && after_name[2] == 'Z';
}

/* A peer that cannot come any more, or has been silent for too long, is an error of the communicator. */
void check_peers(Member *member, Clock::time_point since)
{
    for (int rank = 0; rank < member->world; rank++) {
        const Peer &peer = member->shared->peer[rank];
        if (rank == member->rank || peer.finalized.load() != 0) {
            continue;
        }
        const bool ended = peer.process.load() != 0 && process_ended((pid_t)peer.process.load());
        /* It may have left in good order since the first look. */
        if (peer.finalized.load() == 0 && (peer.gone.load() != 0 || ended)) {
            set_error(member, ncclRemoteError, "rank " + std::to_string(rank) + " has gone");
            return;
        }
    }
    if (seconds_since(since) > timeout_s()) {
        set_error(member, ncclRemoteError, "no answer from another rank");
    }
}

template <typename Done> bool all_peers(Member *member, Done done)
{
    for (int rank = 0; rank < member->world; rank++) {
        if (!done(member->shared->peer[rank])) {
            return false;
        }
    }
    return true;
}

size_t type_bytes(int type)
{
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    default:
        return 4;
    }
}

float read_value(int type, const char *values, size_t i)
{
    float value;
    half_t half;
    bf16_t brain;
    switch (type) {
    case ncclFloat16:
        memcpy(&half, values + 2 * i, 2);
        return to_float(half);
    case ncclBfloat16:
        memcpy(&brain, values + 2 * i, 2);
        return to_float(brain);
    default:
        memcpy(&value, values + 4 * i, 4);
        return value;
    }
}
void write_value(int type, char *values, size_t i, float value)
{
    const half_t half = __float2half_rn(value);
    const bf16_t brain = __float2bfloat16_rn(value);
    switch (type) {
    case ncclFloat16:
        memcpy(values + 2 * i, &half, 2);
        return;
    case ncclBfloat16:
        memcpy(values + 2 * i, &brain, 2);
        return;
    default:
        memcpy(values + 4 * i, &value, 4);
    }
}

enum { ALL_REDUCE, BROADCAST };

struct Collective : emu::Work {
    MemberRef member;
    Descriptor what;
    const char *send;
    char *receive;

    enum Phase { WAIT_TURN, POST, READ, LEAVE } phase = WAIT_TURN;
    uint64_t at = 0; /* bytes done */
    Clock::time_point since, looked;

    void begin() override
    {
        phase = WAIT_TURN;
        at = 0;
    }
    uint64_t bytes() const
    {
        return what.count * type_bytes(what.type);
    }
    size_t chunk_bytes() const
    {
        return (size_t)std::min<uint64_t>(CHUNK, bytes() - at);
    }

    void post()
    {
        Peer &self = member->self();
        self.doing = what;
        if (what.kind == ALL_REDUCE || what.root == member->rank) {
            memcpy(member->shared->slot[member->rank], send + at, chunk_bytes());
        }
        self.posted.store(member->chunk + 1);
    }
    void read()
    {
        Shared *const shared = member->shared;
        if (what.kind == BROADCAST) {
            memcpy(receive + at, shared->slot[what.root], chunk_bytes());
        } else {
            const size_t count = chunk_bytes() / type_bytes(what.type);
            for (size_t i = 0; i < count; i++) {
                float sum = 0.0f;
                for (int rank = 0; rank < member->world; rank++) {
                    sum += read_value(what.type, shared->slot[rank], i);
                }
                sum = what.op == ncclAvg ? sum / (float)member->world : sum;
                write_value(what.type, receive + at, i, sum);
            }
        }
        member->self().read.store(member->chunk + 1);
    }
    bool agreed()
    {
        return all_peers(member.get(), [this](const Peer &peer) { return same(peer.doing, what); });
    }

    emu::Step wait()
    {
        if (seconds_since(looked) > 0.05) {
            looked = Clock::now();
            check_peers(member.get(), since);
        }
        return emu::Step::IDLE;
    }
    emu::Step end()
    {
        if (member->running == this) {
            member->running = nullptr;
        }
        return emu::Step::DONE;
    }

    emu::Step step() override
    {
        if (error_of(member.get()) != ncclSuccess) {
            return end();
        }
        const uint64_t next = member->chunk + 1;
        switch (phase) {
        case WAIT_TURN:
            if (member->running != nullptr) {
                return emu::Step::IDLE;
            }
            if (bytes() == 0) {
                return emu::Step::DONE;
            }
            member->running = this;
            phase = POST;
            return emu::Step::PROGRESS;
        case POST:
            post();
            since = looked = Clock::now();
            phase = READ;
            return emu::Step::PROGRESS;
        case READ:
            if (!all_peers(member.get(), [=](const Peer &p) { return p.posted.load() >= next; })) {
                return wait();
            }
            if (!agreed()) {
                set_error(member.get(), ncclInvalidUsage,
                          "the ranks' collectives differ in order, count, type or root");
                return end();
            }
            read();
            phase = LEAVE;
            return emu::Step::PROGRESS;
        case LEAVE:
            if (!all_peers(member.get(), [=](const Peer &p) { return p.read.load() >= next; })) {
                return wait();
            }
            member->chunk++;
            at += chunk_bytes();
            phase = POST;
            return at == bytes() ? end() : emu::Step::PROGRESS;
        }
        return end();
    }
};

/* ---- Joining ---- */
std::string memory_name(const ncclUniqueId &id)
{
    uint64_t hash = 0;
    for (const char byte : id.internal) {
        hash = emu::mix_bits(hash ^ (unsigned char)byte);
    }
    char text[64];
    snprintf(text, sizeof text, "/cudistill-emu-%016llx-", (unsigned long long)hash);
    std::string name = text;
    for (size_t i = 0; i < 64 && isalnum((unsigned char)id.internal[i]); i++) { /* for people */
        name += id.internal[i];
    }
    return name;
}

ncclResult_t join(const MemberRef &member)
{
    const int file = shm_open(member->name.c_str(), O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, (off_t)sizeof(Shared)) != 0) {
        return ncclSystemError;
    }
    void *const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) {
        return ncclSystemError;
    }
    member->shared = static_cast<Shared *>(memory);
    if (member->self().here.exchange(1) != 0) {
        member->linked = false;
        return ncclInvalidUsage;
    }
    member->self().process.store((int)getpid());
    if (member->shared->arrived.fetch_add(1) + 1 == (uint32_t)member->world) {
        shm_unlink(member->name.c_str());
    }
    return ncclSuccess;
}

bool all_arrived(Member *member)
{
    if (member->shared->arrived.load() < (uint32_t)member->world) {
        return false;
    }
    member->linked = false;
    return true;
}

/* What the communicator waits for is over, or has failed. */
bool settled(Member *member)
{
    if (!all_arrived(member)) {
        check_peers(member, member->since);
        return error_of(member) != ncclSuccess;
    }
    if (member->finalizing) {
        const bool left = all_peers(member, [](const Peer &p) { return p.finalized.load() != 0; });
        if (!left) {
            check_peers(member, member->since);
        }
        return left || error_of(member) != ncclSuccess;
    }
    return true;
}

void wait_settled(Member *member)
{
    while (!settled(member)) {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
}

/* ---- Enqueuing ---- */
struct Call {
    std::shared_ptr<Collective> work;
    cudaStream_t stream;
};
thread_local int group_depth;
thread_local std::vector<Call> *group_calls;

ncclResult_t put(const Call &call)
{
    Member *const member = call.work->member.get();
    const cudaError_t error = emu::enqueue(call.stream, call.work, nullptr);
    if (error != cudaSuccess) {
        set_error(member, ncclUnhandledCudaError, cudaGetErrorString(error));
        return ncclUnhandledCudaError;
    }
    if (member->blocking) {
        return ncclSuccess;
    }
    const std::lock_guard<std::mutex> held(member->lock);
    member->unsettled = 2;
    return ncclInProgress;
}

bool on_device(const void *p, uint64_t bytes)
{
    return bytes == 0 || emu::memory_of(p, (size_t)bytes, nullptr) != emu::Memory::UNKNOWN;
}

} // namespace

struct ncclComm {
    MemberRef member;
};

namespace
{

ncclResult_t collect(ncclComm_t comm, Descriptor what, const void *send, void *receive,
                     cudaStream_t stream)
{
    if (comm == nullptr) {
        return ncclInvalidArgument;
    }
    Member *const member = comm->member.get();
    const uint64_t bytes = what.count * type_bytes(what.type);
    if (what.root < 0 || what.root >= member->world || !on_device(receive, bytes) ||
        ((what.kind == ALL_REDUCE || what.root == member->rank) && !on_device(send, bytes))) {
        return ncclInvalidArgument;
    }
    {
        const std::lock_guard<std::mutex> held(member->lock);
        if (member->error != ncclSuccess) {
            return member->error;
        }
        if (member->finalizing || (member->unsettled > 0 && group_depth == 0)) {
            member->text = "a call while the communicator is in progress or finalized";
            return ncclInvalidUsage;
        }
    }
    auto work = std::make_shared<Collective>();
    work->member = comm->member;
    work->what = what;
    work->send = static_cast<const char *>(send);
    work->receive = static_cast<char *>(receive);
    if (group_depth > 0) {
        group_calls->push_back({work, stream});
        return ncclSuccess;
    }
    return put({work, stream});
}

ncclResult_t open_member(ncclComm_t *comm, int world, const ncclUniqueId &id, int rank,
                         bool blocking)
{
    *comm = nullptr;
    if (world < 1 || world > MOST_RANKS || rank < 0 || rank >= world) {
        return ncclInvalidArgument;
    }
    if (emu::device_error() != cudaSuccess) {
        return ncclUnhandledCudaError;
    }
    auto member = std::make_shared<Member>();
    member->rank = rank;
    member->world = world;
    member->blocking = blocking;
    member->name = memory_name(id);
    member->since = Clock::now();
    const ncclResult_t result = join(member);
    if (result != ncclSuccess) {
        return result;
    }
    *comm = new ncclComm{member};
    if (!blocking) {
        member->unsettled = 1;
        return ncclInProgress;
    }
    wait_settled(member.get());
    const ncclResult_t error = error_of(member.get());
    if (error != ncclSuccess) {
        member->self().gone.store(1);
        delete *comm;
        *comm = nullptr;
    }
    return error;
}

} // namespace

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof *id);
    const char *const fixed = getenv("NCCL_COMM_ID");
    if (fixed != nullptr && *fixed != 0) {
        snprintf(id->internal, sizeof id->internal, "%s", fixed);
        return ncclSuccess;
    }
    return getrandom(id->internal, 32, 0) == 32 ? ncclSuccess : ncclSystemError;
}
const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    }
    return "unknown result code";
}
/* Valid until the next call. */
const char *ncclGetLastError(ncclComm_t comm)
{
    thread_local std::string text;
    if (comm == nullptr) {
        return "";
    }
    const std::lock_guard<std::mutex> held(comm->member->lock);
    text = comm->member->text;
    return text.c_str();
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int world, ncclUniqueId id, int rank)
{
    return open_member(comm, world, id, rank, true);
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int world, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config != nullptr && config->magic != 0xcafebeef) {
        return ncclInvalidArgument;
    }
    return open_member(comm, world, id, rank, config == nullptr || config->blocking != 0);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    if (comm == nullptr || state == nullptr) {
        return ncclInvalidArgument;
    }
    Member *const member = comm->member.get();
    const bool over = settled(member);
    const std::lock_guard<std::mutex> held(member->lock);
    *state = member->error;
    if (member->error == ncclSuccess && (!over || member->unsettled > 0)) {
        *state = ncclInProgress;
    }
    if (over && member->unsettled > 0) {
        member->unsettled--;
    }
    return ncclSuccess;
}
ncclResult_t ncclCommCount(ncclComm_t comm, int *count)
{
    *count = comm->member->world;
    return ncclSuccess;
}
ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank)
{
    *rank = comm->member->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    if (comm == nullptr) {
        return ncclInvalidArgument;
    }
    cudaDeviceSynchronize(); /* what was enqueued is carried out */
    Member *const member = comm->member.get();
    {
        const std::lock_guard<std::mutex> held(member->lock);
        if (member->finalizing) {
            return ncclInvalidUsage;
        }
        member->finalizing = true;
        member->since = Clock::now();
    }
    member->self().finalized.store(1);
    if (!member->blocking) {
        return ncclInProgress;
    }
    wait_settled(member);
    return error_of(member);
}
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm == nullptr) {
        return ncclInvalidArgument;
    }
    Member *const member = comm->member.get();
    if (!member->finalizing && error_of(member) == ncclSuccess) {
        cudaDeviceSynchronize();
        member->self().finalized.store(1);
    }
    delete comm;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (comm == nullptr) {
        return ncclInvalidArgument;
    }
    set_error(comm->member.get(), ncclInvalidUsage, "the communicator was given up");
    comm->member->self().gone.store(1);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    const bool known = type == ncclFloat16 || type == ncclBfloat16 || type == ncclFloat32;
    if (!known || (op != ncclSum && op != ncclAvg)) {
        return ncclInvalidArgument;
    }
    return collect(comm, {ALL_REDUCE, (int)type, (int)op, 0, count}, send, receive, stream);
}
ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream)
{
    return collect(comm, {BROADCAST, (int)type, 0, root, count}, send, receive, stream);
}
ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    if (group_calls == nullptr) {
        group_calls = new std::vector<Call>();
    }
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void)
{
    if (group_depth == 0) {
        return ncclInvalidUsage;
    }
    if (--group_depth > 0) {
        return ncclSuccess;
    }
    const std::vector<Call> calls = std::move(*group_calls);
    delete group_calls;
    group_calls = nullptr;
    ncclResult_t result = ncclSuccess;
    for (const Call &call : calls) {
        const ncclResult_t now = put(call);
        result = result == ncclSuccess || result == ncclInProgress ? now : result;
    }
    return result;
}
