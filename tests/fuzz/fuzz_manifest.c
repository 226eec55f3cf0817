/* MANIFEST of a checkpoint. An even first byte: the rest is the file. An odd one: the rest is its text, to which the last
 * line with its hash is added. Three files stand beside it. A manifest that is accepted must name only them, with their
 * sizes and hashes. */
#include "fuzz.h"

#include "base/files.h"
#include "train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char EMPTY[] = "";
static const char MODEL[] = "weights";
static const char HEAD[] = "cudistill-checkpoint 1\n";

/* What the line "hash size name" of this file must be. */
static bool is_line_of(const char *line, size_t length, const char *name, const char *content)
{
    char hash[33];
    hash_hex(content, strlen(content), hash);
    char expected[96];
    const int size = snprintf(expected, sizeof expected, "%s %zu %s", hash, strlen(content), name);
    return length == (size_t)size && memcmp(line, expected, length) == 0;
}

/* Leading zeros, signs and blanks of the size are read like the number they stand for; all else must be as written. */
static bool is_like_line_of(const char *line, size_t length, const char *name, const char *content)
{
    char *text = xformat("%.*s", (int)length, line);
    char *rest = NULL;
    const long long size = length > 33 ? strtoll(text + 33, &rest, 10) : -1;
    char *canonical = rest != NULL ? xformat("%.33s%lld%s", text, size, rest) : xstrdup("");
    const bool same = is_line_of(canonical, strlen(canonical), name, content);
    free(canonical);
    free(text);
    return same;
}

static void check_accepted(const FuzzBytes *manifest)
{
    const char *at = (const char *)manifest->data;
    FUZZ_CHECK(manifest->size > strlen(HEAD) && memcmp(at, HEAD, strlen(HEAD)) == 0, "no head");
    const char *end = at + manifest->size;
    at += strlen(HEAD);
    for (;;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        FUZZ_CHECK(newline != NULL, "a last line without an end");
        if (newline + 1 == end) {
            break; /* the manifest's own hash */
        }
        const size_t length = (size_t)(newline - at);
        FUZZ_CHECK(is_like_line_of(at, length, "a", EMPTY) ||
                       is_like_line_of(at, length, "m", MODEL),
                   "accepted: %.*s", (int)length, at);
        at = newline + 1;
    }
    char hash[33];
    const size_t text = (size_t)(at - (const char *)manifest->data);
    hash_hex(manifest->data, text, hash);
    FUZZ_CHECK(strncmp(at, "manifest ", 9) == 0 && strncmp(at + 9, hash, 32) == 0,
               "the text does not have the hash in its last line");
}

int fuzz_manifest(const uint8_t *data, size_t size)
{
    FuzzInput input = {data, size};
    const uint8_t mode = fuzz_byte(&input);
    FuzzBytes manifest = {0};
    if (mode % 2 == 1) {
        fuzz_put(&manifest, HEAD, mode & 2 ? 0 : strlen(HEAD));
        fuzz_put(&manifest, input.at, input.left);
        char hash[33];
        hash_hex(manifest.data, manifest.size, hash);
        fuzz_put(&manifest, "manifest ", 9);
        fuzz_put(&manifest, hash, 32);
        fuzz_put(&manifest, "\n", 1);
    } else {
        fuzz_put(&manifest, input.at, input.left);
    }
    fuzz_file_add("step/MANIFEST", manifest.data, manifest.size);
    fuzz_file_add("step/a", EMPTY, 0);
    fuzz_file_add("step/m", MODEL, strlen(MODEL));
    if (!fuzz_refused(checkpoint_verify("step"), EXIT_BAD_DATA)) {
        check_accepted(&manifest);
    }
    fuzz_files_clear();
    fuzz_bytes_free(&manifest);
    return 0;
}
