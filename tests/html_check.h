/* Is a page well formed, as an XML parser would ask: every tag closed by its own name, attributes quoted, no stray '<' or
 * '&', valid UTF-8, no control characters. Void elements of HTML need no end. Style is skipped. */
#ifndef CUDISTILL_TESTS_HTML_CHECK_H
#define CUDISTILL_TESTS_HTML_CHECK_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { HTML_DEPTH = 64, HTML_NAME = 32 };

typedef struct {
    char names[HTML_DEPTH][HTML_NAME];
    int depth;
    const char *begin;
    char why[200];
} HtmlCheck;

static inline bool html_fail(HtmlCheck *check, const char *at, const char *what)
{
    (void)snprintf(check->why, sizeof check->why, "byte %ld: %s near '%.60s'",
                   (long)(at - check->begin), what, at);
    return false;
}

static inline bool html_void(const char *name)
{
    static const char *const names[] = {"meta", "img", "br", "link", "hr", "input"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* After a tag's name: attributes, each name="value", up to '>'. */
static inline const char *html_attributes(const char *at, bool *closed)
{
    *closed = false;
    for (;;) {
        at += strspn(at, " \n");
        if (*at == '/' && at[1] == '>') {
            *closed = true;
            return at + 2;
        }
        if (*at == '>') {
            return at + 1;
        }
        const size_t name =
            strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789");
        if (name == 0 || at[name] != '=' || at[name + 1] != '"') {
            return NULL;
        }
        at = strpbrk(at + name + 2, "\"<");
        if (at == NULL || *at == '<') {
            return NULL;
        }
        at++;
    }
}

static inline const char *html_tag(HtmlCheck *check, const char *at)
{
    const bool end = at[1] == '/';
    const char *from = at + (end ? 2 : 1);
    const size_t size = strcspn(from, " \n/>");
    char name[HTML_NAME];
    if (size == 0 || size >= sizeof name || !isalpha((unsigned char)from[0])) {
        html_fail(check, at, "no tag");
        return NULL;
    }
    memcpy(name, from, size);
    name[size] = '\0';
    if (end) {
        if (check->depth == 0 || strcmp(check->names[check->depth - 1], name) != 0 ||
            from[size] != '>') {
            html_fail(check, at, "end of another element");
            return NULL;
        }
        check->depth--;
        return from + size + 1;
    }
    bool closed;
    const char *next = html_attributes(from + size, &closed);
    if (next == NULL) {
        html_fail(check, at, "bad attribute");
        return NULL;
    }
    if (!closed && !html_void(name)) {
        if (check->depth == HTML_DEPTH) {
            html_fail(check, at, "too deep");
            return NULL;
        }
        memcpy(check->names[check->depth++], name, size + 1);
    }
    if (strcmp(name, "style") == 0) {
        next = strstr(next, "</style>");
        if (next == NULL) {
            html_fail(check, at, "style without end");
        }
    }
    return next;
}

static inline bool html_entity(const char *at)
{
    static const char *const known[] = {"&lt;", "&gt;", "&amp;", "&quot;", "&#39;"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strncmp(at, known[i], strlen(known[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* Length of the UTF-8 character at `at`, 0 when it is none. */
static inline int html_character(const unsigned char *at)
{
    const int length = at[0] < 0x80    ? 1
                       : at[0] >= 0xF0 ? 4
                       : at[0] >= 0xE0 ? 3
                       : at[0] >= 0xC2 ? 2
                                       : 0;
    for (int i = 1; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return at[0] < 0x20 && at[0] != '\n' ? 0 : length;
}

static inline bool html_well_formed(const char *page, HtmlCheck *check)
{
    memset(check, 0, sizeof *check);
    check->begin = page;
    static const char doctype[] = "<!DOCTYPE html>";
    if (strncmp(page, doctype, strlen(doctype)) != 0) {
        return html_fail(check, page, "no doctype");
    }
    for (const unsigned char *byte = (const unsigned char *)page; *byte != '\0';) {
        const int length = html_character(byte);
        if (length == 0) {
            return html_fail(check, (const char *)byte, "no UTF-8, or a control character");
        }
        byte += length;
    }
    for (const char *at = page + strlen(doctype); *at != '\0';) {
        if (*at == '<') {
            at = html_tag(check, at);
            if (at == NULL) {
                return false;
            }
        } else if (*at == '>' || (*at == '&' && !html_entity(at))) {
            return html_fail(check, at, "a bare character");
        } else {
            at++;
        }
    }
    return check->depth == 0 || html_fail(check, page + strlen(page), "unclosed element");
}

#endif
