/* Pieces of HTML. What comes from a run's files passes through markup_text, which makes any bytes harmless. */
#ifndef CUDISTILL_REPORT_MARKUP_H
#define CUDISTILL_REPORT_MARKUP_H

#include "base/text.h"

#include <stddef.h>
#include <stdint.h>

/* At most `limit` characters of `text`, escaped; "…" for the rest. Bytes that are not UTF-8 become U+FFFD, control
 * characters a blank (a newline stays). */
void markup_text(Text *out, const char *text, size_t limit);
/* The same without escaping: valid UTF-8, no control characters. */
void markup_plain(Text *out, const char *text, size_t limit);
/* Columns that `text` takes on a terminal: wide characters 2, combining ones 0. */
int text_columns(const char *text);

/* <img> with the picture inside; `alt` is escaped. */
void markup_png(Text *out, const uint8_t *png, size_t size, const char *alt);

/* Numbers for people. "–" where not finite. */
void markup_number(Text *out, double value, int decimals);
void markup_count(Text *out, double value);       /* 12 345 */
void markup_duration(Text *out, double seconds);  /* 11 m 40 s */
void markup_time(Text *out, double unix_seconds); /* 2026-11-22 20:07 UTC */

#endif
