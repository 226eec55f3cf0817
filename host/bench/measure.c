/* Clocks, cache flushes, samples and their statistics. */
#include "bench/measure.h"

#include "base/log.h"
#include "base/plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIB = 1 << 20,
    GPU_BUFFER_MIB = 256,
    HOST_BUFFER_MIB = 64, /* where the system does not tell its cache */
    LINE = 64,
    WARM_UP = 3,
    MIN_SAMPLES = 20,
    MAX_SAMPLES = 2000,
    SLOW_SAMPLES = 5, /* enough of what takes long */
    MAX_PER_SAMPLE = 1000,
    COPIES = 9,
    COPY_CHUNK = MIB,
    DEVICE_TO_DEVICE = 3 /* cudaMemcpyDeviceToDevice */
};

static const double DEFAULT_MIN_TIME_S = 0.5;
static const double SAMPLE_S = 2e-4;
static const double MAX_TIME_FACTOR = 20;
static const double MAX_WALL_FACTOR = 4;

/* The few functions of the CUDA runtime that a device's own clock needs; its library comes with the CUDA part. */
typedef struct {
    int (*create)(void **event);
    int (*destroy)(void *event);
    int (*record)(void *event, void *stream);
    int (*elapsed)(float *ms, void *begin, void *end);
    int (*copy)(void *to, const void *from, size_t bytes, int kind, void *stream);
    void *begin, *end;
} DeviceClock;

struct Measure {
    Backend *backend;
    bool device; /* memory is not the host's */
    bool has_clock;
    DeviceClock clock;
    unsigned char *buffer[2];
    size_t buffer_bytes;
    double copy_speed;
};

/* ---- Clocks ---- */

static bool find(const char *name, void *function)
{
    void *symbol = NULL;
    Err *err = plugin_symbol(CUDA_PART, CUDA_PART_VARIABLE, name, &symbol);
    if (err) {
        err_free(err);
        return false;
    }
    memcpy(function, &symbol, sizeof symbol); /* C has no cast from an object to a function */
    return true;
}

static bool open_clock(DeviceClock *clock)
{
    return find("cudaEventCreate", &clock->create) && find("cudaEventDestroy", &clock->destroy) &&
           find("cudaEventRecord", &clock->record) &&
           find("cudaEventElapsedTime", &clock->elapsed) && find("cudaMemcpyAsync", &clock->copy) &&
           clock->create(&clock->begin) == 0 && clock->create(&clock->end) == 0;
}

static void sync_device(const Measure *m)
{
    m->backend->sync(m->backend, QUEUE_COMPUTE);
}

static void clock_begin(Measure *m, double *host)
{
    if (m->has_clock) {
        m->clock.record(m->clock.begin, m->backend->native_queue(m->backend, QUEUE_COMPUTE));
    } else {
        sync_device(m);
        *host = now_s();
    }
}

static double clock_end(Measure *m, double host)
{
    float ms = 0;
    if (m->has_clock) {
        m->clock.record(m->clock.end, m->backend->native_queue(m->backend, QUEUE_COMPUTE));
    }
    sync_device(m);
    if (!m->has_clock) {
        return now_s() - host;
    }
    const int status = m->clock.elapsed(&ms, m->clock.begin, m->clock.end);
    CHECK(status == 0, "cudaEventElapsedTime: CUDA error %d", status);
    return (double)ms * 1e-3;
}

/* ---- Statistics ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between the two nearest. */
static double quantile(const double *sorted, int count, double share)
{
    const double at = share * (count - 1);
    const int low = (int)at;
    const int high = low + 1 < count ? low + 1 : low;
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

Timing measure_summary(double *samples, int count, int per_sample)
{
    CHECK(count > 0, "no samples");
    qsort(samples, (size_t)count, sizeof *samples, by_value);
    const double median = quantile(samples, count, 0.5);
    const double p10 = quantile(samples, count, 0.1);
    const double p90 = quantile(samples, count, 0.9);
    return (Timing){.median = median,
                    .p10 = p10,
                    .p90 = p90,
                    .noise = median > 0 ? (p90 - p10) / median : 0,
                    .samples = count,
                    .per_sample = per_sample};
}

/* ---- Flush and copy ---- */

/* On hosts every thread writes a share, so that its own caches are emptied too. */
static void flush_caches(Measure *m)
{
    if (m->device) {
        m->backend->fill(m->backend, QUEUE_COMPUTE, m->buffer[0], 1, m->buffer_bytes);
        return;
    }
    unsigned char *buffer = m->buffer[0];
    const long long lines = (long long)(m->buffer_bytes / LINE);
#pragma omp parallel for schedule(static)
    for (long long i = 0; i < lines; i++) {
        buffer[i * LINE]++;
    }
}

static void copy_on_host(Measure *m)
{
    const long long chunks = (long long)((m->buffer_bytes + COPY_CHUNK - 1) / COPY_CHUNK);
#pragma omp parallel for schedule(static)
    for (long long i = 0; i < chunks; i++) {
        const size_t first = (size_t)i * COPY_CHUNK;
        const size_t left = m->buffer_bytes - first;
        memcpy(m->buffer[1] + first, m->buffer[0] + first, left < COPY_CHUNK ? left : COPY_CHUNK);
    }
}

static double time_copies(Measure *m)
{
    double samples[COPIES];
    double host = 0;
    for (int i = -1; i < COPIES; i++) {
        clock_begin(m, &host);
        if (m->device) {
            const int status =
                m->clock.copy(m->buffer[1], m->buffer[0], m->buffer_bytes, DEVICE_TO_DEVICE,
                              m->backend->native_queue(m->backend, QUEUE_COMPUTE));
            CHECK(status == 0, "cudaMemcpyAsync: CUDA error %d", status);
        } else {
            copy_on_host(m);
        }
        const double seconds = clock_end(m, host);
        samples[i < 0 ? 0 : i] = seconds; /* the first is a warm-up */
    }
    return measure_summary(samples, COPIES, 1).median;
}

/* A device whose runtime cannot be reached copies with the ReLU kernel. */
static Err *time_relu(Measure *m, double *seconds)
{
    const BenchOp *relu = NULL;
    TRY(problem_find("relu", &relu));
    enum { CHANNELS = 64 };
    const BenchPoint point = {
        .op = relu,
        .value = {(int)(m->buffer_bytes / (CHANNELS * sizeof(float))), 1, CHANNELS},
        .dtype = DT_F32};
    BenchLab *lab = NULL;
    TRY(lab_open(m->backend, &point, &lab));
    *seconds = measure_run(m, lab, &(MeasureOptions){.min_time_s = 0.05}).median;
    lab_close(lab);
    return NULL;
}

/* Of the last-level cache that a processor shares with its neighbours; sysconf would give the sum over the machine. */
static size_t last_level_cache(void)
{
    long kib = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (file) {
        char text[32];
        if (fgets(text, sizeof text, file)) {
            kib = strtol(text, NULL, 10);
        }
        fclose(file);
    }
    return kib > 0 && kib < 1L << 24 ? (size_t)kib << 10 : 0;
}

static size_t default_buffer(bool device)
{
    if (device) {
        return (size_t)GPU_BUFFER_MIB * MIB;
    }
    const size_t cache = last_level_cache();
    return cache > 0 ? 2 * cache : (size_t)HOST_BUFFER_MIB * MIB;
}

/* ---- Life ---- */

Err *measure_open(Backend *backend, size_t buffer_bytes, Measure **out)
{
    *out = NULL;
    Measure *m = xcalloc(1, sizeof *m);
    m->backend = backend;
    m->device = strcmp(backend->name, "cuda") == 0;
    m->has_clock = m->device && open_clock(&m->clock);
    m->buffer_bytes = buffer_bytes ? buffer_bytes : default_buffer(m->device);
    for (int i = 0; i < 2; i++) {
        m->buffer[i] = backend->alloc(backend, MEM_DEVICE, m->buffer_bytes);
        if (!m->buffer[i]) {
            Err *err = err_new(EXIT_DEVICE_MEMORY,
                               "%s: no memory for two buffers of %.0f MiB; --buffer takes smaller "
                               "ones",
                               backend->name, (double)m->buffer_bytes / MIB);
            measure_close(m);
            return err;
        }
    }
    double seconds = 0;
    Err *err = m->device && !m->has_clock ? time_relu(m, &seconds) : NULL;
    if (err) {
        measure_close(m);
        return err_context(err, "speed of a copy");
    }
    seconds = seconds > 0 ? seconds : time_copies(m);
    m->copy_speed = 2 * (double)m->buffer_bytes / seconds;
    *out = m;
    return NULL;
}

void measure_close(Measure *m)
{
    if (!m) {
        return;
    }
    sync_device(m);
    for (int i = 0; i < 2; i++) {
        if (m->buffer[i]) {
            m->backend->free(m->backend, MEM_DEVICE, m->buffer[i]);
        }
    }
    if (m->has_clock) {
        m->clock.destroy(m->clock.begin);
        m->clock.destroy(m->clock.end);
    }
    free(m);
}

double measure_copy_speed(const Measure *m)
{
    return m->copy_speed;
}

const char *measure_clock(const Measure *m)
{
    return m->has_clock ? "events" : "host";
}

/* ---- Sampling ---- */

/* How the runs of a sample are submitted: one after the other, or as a recording. */
typedef struct {
    BenchLab *lab;
    int runs;
    int recording; /* -1: none */
} Sample;

static void submit(const Measure *m, const Sample *sample)
{
    if (sample->recording >= 0) {
        m->backend->replay(m->backend, QUEUE_COMPUTE, sample->recording);
        return;
    }
    for (int i = 0; i < sample->runs; i++) {
        lab_submit(sample->lab);
    }
}

static int record_runs(const Measure *m, const Sample *sample)
{
    m->backend->capture_begin(m->backend, QUEUE_COMPUTE);
    for (int i = 0; i < sample->runs; i++) {
        lab_submit(sample->lab);
    }
    return m->backend->capture_end(m->backend, QUEUE_COMPUTE);
}

/* So many runs that a sample is long enough for the clock. */
static int runs_of_a_sample(Measure *m, BenchLab *lab)
{
    double host = 0;
    for (int i = 0; i < WARM_UP; i++) {
        lab_submit(lab);
    }
    clock_begin(m, &host);
    lab_submit(lab);
    const double seconds = clock_end(m, host);
    const double runs = seconds > 0 ? ceil(SAMPLE_S / seconds) : MAX_PER_SAMPLE;
    return runs < MAX_PER_SAMPLE ? (int)runs : MAX_PER_SAMPLE;
}

/* total: of the samples; wall: with what lies between them (flushing takes longer than most runs). */
static bool enough(int count, double total, double wall, double min_time)
{
    return count >= MAX_SAMPLES ||
           (count >= MIN_SAMPLES && (total >= min_time || wall >= MAX_WALL_FACTOR * min_time)) ||
           (count >= SLOW_SAMPLES && total >= MAX_TIME_FACTOR * min_time);
}

Timing measure_run(Measure *m, BenchLab *lab, const MeasureOptions *options)
{
    const double min_time = options->min_time_s > 0 ? options->min_time_s : DEFAULT_MIN_TIME_S;
    const int runs = runs_of_a_sample(m, lab);
    Sample sample = {.lab = lab, .runs = options->cold ? 1 : runs, .recording = -1};
    if (options->graph) {
        CHECK(m->backend->capture_begin, "%s records no graphs", m->backend->name);
        sample.recording = record_runs(m, &sample);
        submit(m, &sample);
    }
    double *seconds = xmalloc(MAX_SAMPLES * sizeof *seconds);
    double total = 0;
    int count = 0;
    const double start = now_s();
    while (!enough(count, total, now_s() - start, min_time)) {
        double host = 0;
        if (options->cold) {
            flush_caches(m);
        }
        clock_begin(m, &host);
        submit(m, &sample);
        const double elapsed = clock_end(m, host);
        total += elapsed;
        seconds[count++] = elapsed / sample.runs;
    }
    if (sample.recording >= 0) {
        m->backend->capture_free(m->backend, sample.recording);
    }
    const Timing timing = measure_summary(seconds, count, sample.runs);
    free(seconds);
    return timing;
}
