/* TensorBoard event files: records of {u64 length, masked CRC-32C of it, data, masked CRC-32C of data}, the data being
 * protobuf messages (event.proto beside events.c). Source: tensorboard/compat/proto and its record_writer.
 *
 * Writing: events_open makes DIR/events.out.tfevents.<seconds>.<host>.<pid>; each call appends one whole record, so that a
 * kill leaves at most a torn last one, which readers tolerate. A resumed run opens a new file in the same folder, named to be
 * read after those that are there; events of steps beyond the resumed one are hidden by the SessionLog START event that
 * events_open writes when resume_step >= 0 (TensorBoard's fast loader hides those of a tag once that is written again).
 * Errors (disk full) name the file; what was written in part is taken back, so that later calls may succeed.
 * wall_time: seconds since 1970. Scalars are stored as float32. Not for several threads. */
#ifndef CUDISTILL_IO_EVENTS_H
#define CUDISTILL_IO_EVENTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Events Events;
Err *events_open(const char *dir, long resume_step /* -1 = fresh */, Events **out);
void events_close(Events *events); /* accepts NULL */
Err *events_scalar(Events *events, const char *tag, long step, double value);
Err *events_image(Events *events, const char *tag, long step, const uint8_t *png, size_t size,
                  int height, int width);
/* Of `count` finite values, in TensorBoard's exponential buckets; values that are not finite are left out. */
Err *events_histogram(Events *events, const char *tag, long step, const float *values,
                      size_t count);
/* HParams plugin: the run's settings (name, value as text or number) at its beginning, and its end. Runs of one name make
 * one row of its table. TensorBoard keeps the first of each that it finds in a folder: a run that will be resumed has not
 * ended. */
typedef struct {
    const char *name;
    const char *text; /* NULL: `number` holds */
    double number;
} EventsHparam;
Err *events_session_start(Events *events, const char *run_name, const EventsHparam *params,
                          size_t count);
Err *events_session_end(Events *events, bool success);

/* ---- Reading ---- */

typedef enum { EVENT_VERSION, EVENT_SCALAR, EVENT_IMAGE, EVENT_HISTOGRAM, EVENT_OTHER } EventKind;
typedef struct {
    EventKind kind;
    double wall_time;
    int64_t step;
    const char *tag;   /* never NULL, may be no UTF-8; file_version's text of EVENT_VERSION */
    double value;      /* EVENT_SCALAR */
    int height, width; /* EVENT_IMAGE */
    const uint8_t *png;
    size_t png_size;
    double min, max, count, sum; /* EVENT_HISTOGRAM */
} EventValue;
typedef struct {
    long records;
    bool torn; /* the last record is not whole: a run was killed, or is writing */
} EventsSummary;
/* Calls `each` for every value of every record (data, size: the whole file); an EventValue and what it points to hold until
 * `each` returns. Executes nothing; EXIT_BAD_DATA with the byte position when a checksum or a message is wrong, or a record
 * has more than 256 MiB; `summary` counts the records before it. */
Err *events_read(const uint8_t *data, size_t size, void (*each)(void *context, const EventValue *),
                 void *context, EventsSummary *summary);

#endif
