/* Growing texts, and what JSON and HTML want escaped. */
#include "base/text.h"

#include "base/err.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* U+FFFD, which stands for bytes that are no character. */
#define REPLACEMENT "\xEF\xBF\xBD"

void text_bytes(Text *out, const char *bytes, size_t size)
{
    out->text = xgrow(out->text, &out->capacity, out->size + size + 1, 1);
    memcpy(out->text + out->size, bytes, size);
    out->size += size;
    out->text[out->size] = '\0';
}

void text_puts(Text *out, const char *text)
{
    text_bytes(out, text, strlen(text));
}

void text_add(Text *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *piece = xvformat(format, args);
    va_end(args);
    text_puts(out, piece);
    free(piece);
}

void text_markup(Text *out, const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        switch (*at) {
        case '<':
            text_puts(out, "&lt;");
            break;
        case '>':
            text_puts(out, "&gt;");
            break;
        case '&':
            text_puts(out, "&amp;");
            break;
        case '"':
            text_puts(out, "&quot;");
            break;
        case '\'':
            text_puts(out, "&#39;");
            break;
        default:
            text_bytes(out, at, 1);
        }
    }
}

/* Bytes of the UTF-8 character at `at`, 0 when it is none (too long a form, a surrogate, beyond U+10FFFF). */
static size_t utf8_length(const unsigned char *at)
{
    const size_t length = at[0] < 0x80                     ? 1
                          : at[0] >= 0xC2 && at[0] <= 0xDF ? 2
                          : (at[0] & 0xF0) == 0xE0         ? 3
                          : at[0] >= 0xF0 && at[0] <= 0xF4 ? 4
                                                           : 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    const bool overlong = (at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xF0 && at[1] < 0x90);
    const bool beyond = (at[0] == 0xED && at[1] > 0x9F) || (at[0] == 0xF4 && at[1] > 0x8F);
    return overlong || beyond ? 0 : length;
}

void text_utf8(Text *out, const char *text)
{
    text_puts(out, "");
    const char *at = text;
    while (*at != '\0') {
        const size_t length = utf8_length((const unsigned char *)at);
        text_bytes(out, length > 0 ? at : REPLACEMENT,
                   length > 0 ? length : sizeof REPLACEMENT - 1);
        at += length > 0 ? length : 1;
    }
}

void text_json(Text *out, const char *text)
{
    text_puts(out, "\"");
    const char *at = text;
    while (*at != '\0') {
        const size_t length = utf8_length((const unsigned char *)at);
        if (*at == '"' || *at == '\\') {
            text_add(out, "\\%c", *at);
        } else if ((unsigned char)*at < 0x20) {
            text_add(out, "\\u%04x", (unsigned)*at);
        } else if (length == 0) {
            text_puts(out, REPLACEMENT);
        } else {
            text_bytes(out, at, length);
        }
        at += length > 0 ? length : 1;
    }
    text_puts(out, "\"");
}

void text_json_number(Text *out, const char *key, double value)
{
    if (isfinite(value)) {
        text_add(out, ",\"%s\":%.10g", key, value);
    } else {
        text_add(out, ",\"%s\":null", key);
    }
}

void text_free(Text *text)
{
    free(text->text);
    *text = (Text){0};
}
