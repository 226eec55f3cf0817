/* A growing text. Zeroed = empty. Not for several threads. */
#ifndef CUDISTILL_BASE_TEXT_H
#define CUDISTILL_BASE_TEXT_H

#include <stddef.h>

typedef struct {
    char *text; /* NUL-terminated; NULL while nothing was added */
    size_t size, capacity;
} Text;

void text_bytes(Text *out, const char *bytes, size_t size);
void text_puts(Text *out, const char *text);
void text_add(Text *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* With <, >, &, " and ' as entities, for HTML and SVG. */
void text_markup(Text *out, const char *text);
/* A JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void text_json(Text *out, const char *text);
/* `,"key":value` with %.10g, null where it is not finite: JSON has no NaN. */
void text_json_number(Text *out, const char *key, double value);
/* The text as it is, but U+FFFD for each byte that is not UTF-8. */
void text_utf8(Text *out, const char *text);
void text_free(Text *text); /* leaves it empty */

#endif
