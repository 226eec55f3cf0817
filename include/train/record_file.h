/* Small files of a run's folder: written whole or not at all. */
#ifndef CUDISTILL_TRAIN_RECORD_FILE_H
#define CUDISTILL_TRAIN_RECORD_FILE_H

#include "base/err.h"
#include "base/text.h"

/* `json` (one value) as DIR/name, indented; folders in `name` are made. Empties `json`. EXIT_INTERNAL when it is not
 * JSON. */
Err *record_write_json(const char *dir, const char *name, Text *json);
/* Bytes as DIR/name; folders in `name` are made. */
Err *record_write(const char *dir, const char *name, const void *data, size_t size);
/* `,"key":"text"`, null for NULL. */
void record_text(Text *json, const char *key, const char *text);
/* Seconds since 1970, to the millisecond. */
double record_time(void);

#endif
