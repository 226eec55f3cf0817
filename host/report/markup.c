/* Escaping of untrusted text for HTML and terminals, pictures as data, numbers for people. */
#include "report/markup.h"

#include "base/err.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- Text ---- */

/* The character at `at` and its bytes; 0xFFFD and 1 where it is no UTF-8. */
static uint32_t utf8_next(const unsigned char *at, size_t *bytes)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t length = at[0] < 0x80       ? 1
                          : at[0] >> 5 == 6  ? 2
                          : at[0] >> 4 == 14 ? 3
                          : at[0] >> 3 == 30 ? 4
                                             : 0;
    *bytes = 1;
    if (length == 1) {
        return at[0];
    }
    uint32_t code = length > 0 ? at[0] & (0xFFu >> (length + 1)) : 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0xFFFD;
        }
        code = code << 6 | (at[i] & 0x3Fu);
    }
    if (length == 0 || code < least[length] || code > 0x10FFFF ||
        (code >= 0xD800 && code < 0xE000)) {
        return 0xFFFD;
    }
    *bytes = length;
    return code;
}

/* Control characters, and those that turn the direction of the text around them. */
static bool is_control(uint32_t code)
{
    return (code < 0x20 && code != '\n') || (code >= 0x7F && code < 0xA0) ||
           (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

void markup_plain(Text *out, const char *text, size_t limit)
{
    const unsigned char *at = (const unsigned char *)text;
    text_puts(out, "");
    for (size_t count = 0; *at != '\0'; count++) {
        if (count == limit) {
            text_puts(out, "…");
            return;
        }
        size_t bytes;
        const uint32_t code = utf8_next(at, &bytes);
        if (is_control(code)) {
            text_puts(out, " ");
        } else if (code == 0xFFFD) {
            text_puts(out, "\xEF\xBF\xBD");
        } else {
            text_bytes(out, (const char *)at, bytes);
        }
        at += bytes;
    }
}

void markup_text(Text *out, const char *text, size_t limit)
{
    Text plain = {0};
    markup_plain(&plain, text, limit);
    text_markup(out, plain.text);
    text_free(&plain);
}

/* East Asian wide and emoji blocks take two columns on a terminal. */
static int code_columns(uint32_t code)
{
    if ((code >= 0x300 && code < 0x370) || (code >= 0x200B && code <= 0x200F) || code == 0xFEFF ||
        (code >= 0xFE00 && code <= 0xFE0F) || (code >= 0x20D0 && code < 0x2100)) {
        return 0;
    }
    const bool wide = (code >= 0x1100 && code < 0x1160) || (code >= 0x2E80 && code < 0xA4D0) ||
                      (code >= 0xAC00 && code < 0xD7A4) || (code >= 0xF900 && code < 0xFB00) ||
                      (code >= 0xFE30 && code < 0xFE70) || (code >= 0xFF00 && code < 0xFF61) ||
                      (code >= 0xFFE0 && code < 0xFFE7) || (code >= 0x1F300 && code < 0x1F650) ||
                      (code >= 0x1F900 && code < 0x1FA00) || (code >= 0x20000 && code < 0x40000);
    return wide ? 2 : 1;
}

int text_columns(const char *text)
{
    int columns = 0;
    size_t bytes;
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at += bytes) {
        columns += code_columns(utf8_next(at, &bytes));
    }
    return columns;
}

/* ---- Pictures ---- */

static void base64(Text *out, const uint8_t *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t length = (size + 2) / 3 * 4;
    char *text = xmalloc(length + 1);
    char *at = text;
    for (size_t i = 0; i < size; i += 3) {
        const uint32_t b1 = i + 1 < size ? data[i + 1] : 0;
        const uint32_t b2 = i + 2 < size ? data[i + 2] : 0;
        const uint32_t bits = (uint32_t)data[i] << 16 | b1 << 8 | b2;
        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = digits[bits >> 6 & 63];
        *at++ = digits[bits & 63];
    }
    for (size_t i = 0; i < (3 - size % 3) % 3; i++) {
        text[length - 1 - i] = '=';
    }
    text_bytes(out, text, length);
    free(text);
}

void markup_png(Text *out, const uint8_t *png, size_t size, const char *alt)
{
    text_puts(out, "<img alt=\"");
    markup_text(out, alt, 80);
    text_puts(out, "\" src=\"data:image/png;base64,");
    base64(out, png, size);
    text_puts(out, "\">");
}

/* ---- Numbers ---- */

void markup_number(Text *out, double value, int decimals)
{
    if (!isfinite(value)) {
        text_puts(out, "–");
        return;
    }
    char digits[400];
    (void)snprintf(digits, sizeof digits, "%.*f", decimals, value);
    const bool zero = strspn(digits, "-0.") == strlen(digits);
    const char *body = digits[0] == '-' ? digits + 1 : digits;
    text_add(out, "%s%s", digits[0] == '-' && !zero ? "−" : "", body);
}

void markup_count(Text *out, double value)
{
    if (!isfinite(value)) {
        text_puts(out, "–");
        return;
    }
    char digits[400];
    (void)snprintf(digits, sizeof digits, "%.0f", fabs(value));
    const size_t length = strlen(digits);
    text_puts(out, value <= -0.5 ? "−" : "");
    for (size_t i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) {
            text_puts(out, "\xE2\x80\xAF"); /* narrow no-break space */
        }
        text_bytes(out, &digits[i], 1);
    }
}

void markup_duration(Text *out, double seconds)
{
    if (!isfinite(seconds) || seconds < 0.0 || seconds > 1e12) {
        text_puts(out, "–");
        return;
    }
    const long whole = (long)(seconds + 0.5);
    if (seconds < 10.0) {
        text_add(out, "%.1f s", seconds);
    } else if (whole < 60) {
        text_add(out, "%ld s", whole);
    } else if (whole < 3600) {
        text_add(out, "%ld m %ld s", whole / 60, whole % 60);
    } else if (whole < 86400) {
        text_add(out, "%ld h %ld m", whole / 3600, whole % 3600 / 60);
    } else {
        text_add(out, "%ld d %ld h", whole / 86400, whole % 86400 / 3600);
    }
}

void markup_time(Text *out, double unix_seconds)
{
    struct tm parts;
    if (!isfinite(unix_seconds) || fabs(unix_seconds) > 1e11) {
        text_puts(out, "–");
        return;
    }
    const time_t when = (time_t)unix_seconds;
    if (gmtime_r(&when, &parts) == NULL) {
        text_puts(out, "–");
        return;
    }
    char text[64];
    (void)strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
    text_puts(out, text);
}
