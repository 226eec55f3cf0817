/* TensorBoard event files: protobuf messages (event.proto) in records with CRC-32C sums. The reader takes files of any
 * origin: every length is checked against the bytes there are, and unpacking has a budget of memory. */
#include "io/events.h"

#include "base/files.h"
#include "base/text.h"
#include "io/event.pb-c.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <isa-l/crc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LENGTH_BYTES = 8,
    SUM_BYTES = 4,
    HEAD_BYTES = LENGTH_BYTES + SUM_BYTES,
    MAX_RECORD = 256 << 20,
    HOST_CHARS = 64,
    COLORSPACE_RGB = 3,
    SESSION_START_STATUS = 1,
    HPARAMS_SUCCESS = 1,
    HPARAMS_FAILURE = 2,
    HPARAMS_VERSION = 0
};

#define FILE_VERSION "brain.Event:2"
#define FILE_PREFIX "events.out.tfevents."

/* Histogram buckets of TensorFlow: limits grow by a tenth, from 1e-12 to 1e20, on both sides of zero. */
#define BUCKET_FIRST 1e-12
#define BUCKET_LAST 1e20
#define BUCKET_GROWTH 1.1
enum { BUCKET_SIDE = 774, BUCKETS = 2 * BUCKET_SIDE + 3 };

struct Events {
    char *path;
    int file;
    off_t size; /* of whole records */
    bool broken;
    double limits[BUCKETS];
};

/* ---- Records ---- */

static uint32_t masked_sum(const uint8_t *data, size_t size)
{
    CHECK(size <= INT32_MAX, "sum over %zu bytes", size);
    /* ISA-L only reads, its prototype just does not say so. */
    const uint32_t sum = crc32_iscsi((unsigned char *)data, (int)size, ~0U) ^ ~0U;
    return ((sum >> 15) | (sum << 17)) + 0xa282ead8U;
}

static void put_le(uint8_t *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        to[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get_le(const uint8_t *from, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value |= (uint64_t)from[i] << (8 * i);
    }
    return value;
}

static int write_whole(int file, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(file, data, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? errno : EIO;
        }
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static Err *record_append(Events *events, const uint8_t *record, size_t size)
{
    if (events->broken) {
        return err_new(EXIT_IO,
                       "%s: an earlier record could not be written whole, and not be taken back",
                       events->path);
    }
    const int reason = write_whole(events->file, record, size);
    if (reason != 0) {
        /* A torn record in the middle would end what readers see. */
        events->broken = ftruncate(events->file, events->size) != 0;
        return err_new(EXIT_IO, "%s: %s: free space there, or set log.tensorboard=no", events->path,
                       strerror(reason));
    }
    events->size += (off_t)size;
    return NULL;
}

static double wall_time(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0, "no clock: %s", strerror(errno));
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* protobuf-c has no const: it only reads what it packs. */
static char *packed_text(const char *text)
{
    return (char *)text;
}

static Err *event_append(Events *events, Tb__Event *event)
{
    event->has_wall_time = 1;
    event->wall_time = wall_time();
    const size_t size = tb__event__get_packed_size(event);
    if (size > MAX_RECORD) {
        return err_new(EXIT_INTERNAL, "%s: an event of %zu bytes; the most is %d", events->path,
                       size, MAX_RECORD);
    }
    uint8_t *const record = xmalloc(HEAD_BYTES + size + SUM_BYTES);
    put_le(record, size, LENGTH_BYTES);
    put_le(record + LENGTH_BYTES, masked_sum(record, LENGTH_BYTES), SUM_BYTES);
    tb__event__pack(event, record + HEAD_BYTES);
    put_le(record + HEAD_BYTES + size, masked_sum(record + HEAD_BYTES, size), SUM_BYTES);
    Err *const err = record_append(events, record, HEAD_BYTES + size + SUM_BYTES);
    free(record);
    return err;
}

static Err *value_append(Events *events, long step, Tb__Value *value)
{
    Tb__Summary summary = TB__SUMMARY__INIT;
    summary.n_value = 1;
    summary.value = &value;
    Tb__Event event = TB__EVENT__INIT;
    event.has_step = 1;
    event.step = step;
    event.summary = &summary;
    return event_append(events, &event);
}

/* ---- Opening ---- */

/* TensorBoard reads the files of a folder in the order of their names: seconds that are past those of every file there,
 * even when the clock was set back. */
static Err *file_seconds(const char *dir, long long *out)
{
    *out = (long long)time(NULL);
    char **names = NULL;
    size_t count = 0;
    TRY(dir_list(dir, &names, &count));
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], FILE_PREFIX, sizeof FILE_PREFIX - 1) == 0) {
            const long long seconds = strtoll(names[i] + sizeof FILE_PREFIX - 1, NULL, 10);
            if (seconds >= *out && seconds < 9999999999LL) {
                *out = seconds + 1;
            }
        }
    }
    names_free(names, count);
    return NULL;
}

static char *file_name(const char *dir, long long seconds)
{
    char host[HOST_CHARS] = "";
    (void)gethostname(host, sizeof host - 1);
    for (char *at = host; *at != '\0'; at++) {
        *at = *at == '/' ? '_' : *at;
    }
    char *const name =
        xformat(FILE_PREFIX "%010lld.%s.%d", seconds, host[0] ? host : "host", (int)getpid());
    char *const path = path_join(dir, name);
    free(name);
    return path;
}

static void limits_fill(double limits[BUCKETS])
{
    double limit = BUCKET_FIRST;
    for (int i = 0; i < BUCKET_SIDE; i++) {
        limits[BUCKET_SIDE + 2 + i] = limit;
        limits[BUCKET_SIDE - i] = -limit;
        limit *= BUCKET_GROWTH;
    }
    CHECK(limit >= BUCKET_LAST && limit / BUCKET_GROWTH < BUCKET_LAST, "%d buckets", BUCKET_SIDE);
    limits[0] = -DBL_MAX;
    limits[BUCKET_SIDE + 1] = 0;
    limits[BUCKETS - 1] = DBL_MAX;
}

static Err *begin_file(Events *events, long resume_step)
{
    Tb__Event version = TB__EVENT__INIT;
    version.file_version = packed_text(FILE_VERSION);
    TRY(event_append(events, &version));
    if (resume_step < 0) {
        return NULL;
    }
    Tb__SessionLog session = TB__SESSION_LOG__INIT;
    session.has_status = 1;
    session.status = SESSION_START_STATUS;
    Tb__Event start = TB__EVENT__INIT;
    start.session_log = &session;
    start.has_step = 1;
    /* Events of this step and later ones are dropped; those of resume_step stay. */
    start.step = resume_step + 1;
    return event_append(events, &start);
}

Err *events_open(const char *dir, long resume_step, Events **out)
{
    *out = NULL;
    TRY(dir_make(dir));
    long long seconds;
    TRY(file_seconds(dir, &seconds));
    char *const path = file_name(dir, seconds);
    const int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        Err *const err = err_new(EXIT_CANT_CREATE, "%s: %s: choose a folder that can be written",
                                 path, strerror(errno));
        free(path);
        return err;
    }
    Events *const events = xcalloc(1, sizeof *events);
    events->path = path;
    events->file = file;
    limits_fill(events->limits);
    Err *const err = begin_file(events, resume_step);
    if (err) {
        events_close(events);
        return err;
    }
    *out = events;
    return NULL;
}

void events_close(Events *events)
{
    if (!events) {
        return;
    }
    (void)close(events->file);
    free(events->path);
    free(events);
}

/* ---- Values ---- */

static Tb__Value value_of(const char *tag)
{
    Tb__Value value = TB__VALUE__INIT;
    value.tag = packed_text(tag);
    return value;
}

Err *events_scalar(Events *events, const char *tag, long step, double number)
{
    Tb__Value value = value_of(tag);
    value.has_simple_value = 1;
    value.simple_value = (float)number;
    return value_append(events, step, &value);
}

Err *events_image(Events *events, const char *tag, long step, const uint8_t *png, size_t size,
                  int height, int width)
{
    Tb__Image image = TB__IMAGE__INIT;
    image.has_height = image.has_width = image.has_colorspace = image.has_encoded = 1;
    image.height = height;
    image.width = width;
    image.colorspace = COLORSPACE_RGB;
    image.encoded.data = (uint8_t *)png;
    image.encoded.len = size;
    Tb__Value value = value_of(tag);
    value.image = &image;
    return value_append(events, step, &value);
}

/* The first limit above the value; bucket i holds limits[i-1] <= value < limits[i]. */
static int bucket_of(const double limits[BUCKETS], double value)
{
    int low = 0;
    int high = BUCKETS - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (value < limits[middle]) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* From the first bucket that holds something to the last, as all readers expect; a run of empty ones between becomes one,
 * whose limit is the last's. Returns how many are left. */
static size_t buckets_merge(const double limits[BUCKETS], const double counts[BUCKETS],
                            double out_limits[BUCKETS], double out_counts[BUCKETS])
{
    int last = BUCKETS - 1;
    while (last >= 0 && counts[last] == 0) {
        last--;
    }
    int first = 0;
    while (first < last && counts[first] == 0) {
        first++;
    }
    size_t n = 0;
    for (int i = first; i <= last; i++) {
        const bool extend = i > first && counts[i] == 0 && counts[i - 1] == 0;
        n += extend ? 0 : 1;
        out_limits[n - 1] = limits[i];
        out_counts[n - 1] = counts[i];
    }
    return n;
}

Err *events_histogram(Events *events, const char *tag, long step, const float *values, size_t count)
{
    Tb__Histogram histogram = TB__HISTOGRAM__INIT;
    histogram.has_min = histogram.has_max = histogram.has_num = histogram.has_sum =
        histogram.has_sum_squares = 1;
    double counts[BUCKETS] = {0};
    for (size_t i = 0; i < count; i++) {
        const double value = (double)values[i];
        if (!isfinite(value)) {
            continue;
        }
        histogram.min = histogram.num == 0 || value < histogram.min ? value : histogram.min;
        histogram.max = histogram.num == 0 || value > histogram.max ? value : histogram.max;
        histogram.num += 1;
        histogram.sum += value;
        histogram.sum_squares += value * value;
        counts[bucket_of(events->limits, value)] += 1;
    }
    double merged_limits[BUCKETS];
    double merged_counts[BUCKETS];
    const size_t n = buckets_merge(events->limits, counts, merged_limits, merged_counts);
    histogram.n_bucket_limit = histogram.n_bucket = n;
    histogram.bucket_limit = merged_limits;
    histogram.bucket = merged_counts;
    Tb__Value value = value_of(tag);
    value.histo = &histogram;
    return value_append(events, step, &value);
}

/* ---- Hyper-parameters ---- */

/* The plugin's message travels in the metadata of a value whose tensor is empty. */
static Err *hparams_append(Events *events, const char *tag, Tb__Hparams *hparams)
{
    /* A TensorProto: dtype float, shape [0]. */
    static const uint8_t empty_tensor[] = {0x08, 0x01, 0x12, 0x02, 0x12, 0x00};
    hparams->has_version = 1;
    hparams->version = HPARAMS_VERSION;
    const size_t size = tb__hparams__get_packed_size(hparams);
    uint8_t *const content = xmalloc(size);
    tb__hparams__pack(hparams, content);
    Tb__PluginData plugin = TB__PLUGIN_DATA__INIT;
    plugin.plugin_name = packed_text("hparams");
    plugin.has_content = 1;
    plugin.content.data = content;
    plugin.content.len = size;
    Tb__Metadata metadata = TB__METADATA__INIT;
    metadata.plugin_data = &plugin;
    Tb__Value value = value_of(tag);
    value.metadata = &metadata;
    value.has_tensor = 1;
    value.tensor.data = (uint8_t *)empty_tensor;
    value.tensor.len = sizeof empty_tensor;
    Err *const err = value_append(events, 0, &value);
    free(content);
    return err;
}

/* Readers refuse a whole message with a text that is not UTF-8. */
static char *utf8_copy(const char *text)
{
    Text copy = {0};
    text_utf8(&copy, text);
    return copy.text;
}

/* The plugin's tables are JSON, which has no infinity: such a number is written as text. */
static void hparam_fill(const EventsHparam *param, Tb__HparamEntry *entry, Tb__HparamValue *value)
{
    tb__hparam_entry__init(entry);
    tb__hparam_value__init(value);
    entry->key = utf8_copy(param->name);
    entry->value = value;
    if (param->text) {
        value->text = utf8_copy(param->text);
    } else if (isfinite(param->number)) {
        value->has_number = 1;
        value->number = param->number;
    } else {
        value->text = xformat("%g", param->number);
    }
}

Err *events_session_start(Events *events, const char *run_name, const EventsHparam *params,
                          size_t count)
{
    Tb__HparamEntry *const entries = xcalloc(count + 1, sizeof *entries);
    Tb__HparamValue *const values = xcalloc(count + 1, sizeof *values);
    Tb__HparamEntry **const pointers = xcalloc(count + 1, sizeof(Tb__HparamEntry *));
    for (size_t i = 0; i < count; i++) {
        hparam_fill(&params[i], &entries[i], &values[i]);
        pointers[i] = &entries[i];
    }
    Tb__SessionStart start = TB__SESSION_START__INIT;
    start.n_hparams = count;
    start.hparams = pointers;
    start.group_name = utf8_copy(run_name);
    start.has_start_time = 1;
    start.start_time = wall_time();
    Tb__Hparams hparams = TB__HPARAMS__INIT;
    hparams.session_start = &start;
    Err *const err = hparams_append(events, "_hparams_/session_start_info", &hparams);
    for (size_t i = 0; i < count; i++) {
        free(entries[i].key);
        free(values[i].text);
    }
    free(start.group_name);
    free(pointers);
    free(values);
    free(entries);
    return err;
}

Err *events_session_end(Events *events, bool success)
{
    Tb__SessionEnd end = TB__SESSION_END__INIT;
    end.has_status = end.has_end_time = 1;
    end.status = success ? HPARAMS_SUCCESS : HPARAMS_FAILURE;
    end.end_time = wall_time();
    Tb__Hparams hparams = TB__HPARAMS__INIT;
    hparams.session_end = &end;
    return hparams_append(events, "_hparams_/session_end_info", &hparams);
}

/* ---- Reading ---- */

/* Memory of one message. Many empty messages in few bytes would otherwise take far more memory than the file has bytes. */
typedef struct {
    size_t left;
} Budget;

static void *budget_alloc(void *context, size_t size)
{
    Budget *const budget = context;
    if (size > budget->left) {
        return NULL;
    }
    budget->left -= size;
    return malloc(size > 0 ? size : 1);
}

static void budget_free(void *context, void *block)
{
    (void)context;
    free(block);
}

enum { BUDGET_FACTOR = 32, BUDGET_BASE = 64 << 10, BUDGET_MOST = 1 << 30 };

static Tb__Event *event_unpack(const uint8_t *data, size_t size)
{
    const size_t share = size * BUDGET_FACTOR;
    Budget budget = {.left = BUDGET_BASE + (share < BUDGET_MOST ? share : BUDGET_MOST)};
    ProtobufCAllocator allocator = {
        .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget};
    return tb__event__unpack(&allocator, size, data);
}

static void event_free(Tb__Event *event)
{
    ProtobufCAllocator allocator = {.alloc = budget_alloc, .free = budget_free};
    tb__event__free_unpacked(event, &allocator);
}

static void value_report(const Tb__Value *value, EventValue out,
                         void (*each)(void *context, const EventValue *), void *context)
{
    out.kind = EVENT_OTHER;
    out.tag = value->tag ? value->tag : "";
    if (value->has_simple_value) {
        out.kind = EVENT_SCALAR;
        out.value = (double)value->simple_value;
    } else if (value->image) {
        out.kind = EVENT_IMAGE;
        out.height = value->image->height;
        out.width = value->image->width;
        out.png = value->image->encoded.data;
        out.png_size = value->image->encoded.len;
    } else if (value->histo) {
        out.kind = EVENT_HISTOGRAM;
        out.min = value->histo->min;
        out.max = value->histo->max;
        out.count = value->histo->num;
        out.sum = value->histo->sum;
    }
    each(context, &out);
}

static void event_report(const Tb__Event *event, void (*each)(void *context, const EventValue *),
                         void *context)
{
    EventValue out = {.kind = EVENT_OTHER, .wall_time = event->wall_time, .step = event->step};
    if (event->summary) {
        for (size_t i = 0; i < event->summary->n_value; i++) {
            value_report(event->summary->value[i], out, each, context);
        }
        return;
    }
    if (event->file_version) {
        out.kind = EVENT_VERSION;
        out.tag = event->file_version;
    } else {
        out.tag = event->session_log ? "session_log" : "";
    }
    each(context, &out);
}

/* The record at the beginning of data: *length bytes follow its head. False: the file ends within it. */
static Err *record_check(const uint8_t *data, size_t left, size_t position, size_t *length,
                         bool *whole)
{
    *whole = false;
    if (left < HEAD_BYTES) {
        return NULL;
    }
    if (get_le(data + LENGTH_BYTES, SUM_BYTES) != masked_sum(data, LENGTH_BYTES)) {
        return err_new(EXIT_BAD_DATA,
                       "byte %zu: the checksum of a record's length is wrong: not an event file, "
                       "or damaged from there on",
                       position);
    }
    const uint64_t size = get_le(data, LENGTH_BYTES);
    if (size > MAX_RECORD) {
        return err_new(EXIT_BAD_DATA, "byte %zu: a record of %llu bytes; more than %d are not read",
                       position, (unsigned long long)size, MAX_RECORD);
    }
    if (left - HEAD_BYTES < SUM_BYTES || size > left - HEAD_BYTES - SUM_BYTES) {
        return NULL;
    }
    const uint8_t *const body = data + HEAD_BYTES;
    if (get_le(body + size, SUM_BYTES) != masked_sum(body, (size_t)size)) {
        return err_new(EXIT_BAD_DATA,
                       "byte %zu: the checksum of a record of %zu bytes is wrong: damaged",
                       position, (size_t)size);
    }
    *length = (size_t)size;
    *whole = true;
    return NULL;
}

Err *events_read(const uint8_t *data, size_t size, void (*each)(void *context, const EventValue *),
                 void *context, EventsSummary *summary)
{
    *summary = (EventsSummary){0};
    size_t at = 0;
    while (at < size) {
        size_t length = 0;
        bool whole;
        TRY(record_check(data + at, size - at, at, &length, &whole));
        if (!whole) {
            summary->torn = true;
            return NULL;
        }
        Tb__Event *const event = event_unpack(data + at + HEAD_BYTES, length);
        if (!event) {
            return err_new(EXIT_BAD_DATA, "byte %zu: a record of %zu bytes is no event message", at,
                           length);
        }
        event_report(event, each, context);
        event_free(event);
        summary->records++;
        at += HEAD_BYTES + length + SUM_BYTES;
    }
    return NULL;
}
