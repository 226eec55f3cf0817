/* TensorBoard event files: what was recorded under each tag, from which step to which. */
#include "cli/inspect.h"

#include "io/events.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TAGS_MAX = 10000, TAG_WIDTH = 40 };

static const char *const KINDS[] = {[EVENT_VERSION] = "version",
                                    [EVENT_SCALAR] = "scalar",
                                    [EVENT_IMAGE] = "image",
                                    [EVENT_HISTOGRAM] = "histogram",
                                    [EVENT_OTHER] = "other"};

typedef struct {
    char *tag;
    EventKind kind;
    size_t count;
    int64_t first_step, last_step;
    double last, least, greatest; /* scalars; of the finite values */
} Tag;

typedef struct {
    Tag *tags; /* in the order of their first event */
    size_t count;
    size_t capacity;
    size_t last;       /* a guess at the next tag: they come in turns */
    size_t left_out;   /* events of tags beyond TAGS_MAX */
    char *version;     /* NULL until it is there */
    double begin, end; /* wall time */
} Tags;

static Tag *find_tag(Tags *t, const EventValue *value)
{
    for (size_t i = 0; i < t->count; i++) {
        const size_t at = (t->last + 1 + i) % t->count;
        if (t->tags[at].kind == value->kind && strcmp(t->tags[at].tag, value->tag) == 0) {
            t->last = at;
            return &t->tags[at];
        }
    }
    if (t->count == TAGS_MAX) {
        return NULL;
    }
    t->tags = xgrow(t->tags, &t->capacity, t->count + 1, sizeof *t->tags);
    t->last = t->count;
    t->tags[t->count] = (Tag){.tag = xstrdup(value->tag),
                              .kind = value->kind,
                              .first_step = value->step,
                              .last = (double)NAN,
                              .least = (double)NAN,
                              .greatest = (double)NAN};
    return &t->tags[t->count++];
}

static void note(void *context, const EventValue *value)
{
    Tags *t = context;
    t->begin = t->begin > 0 ? t->begin : value->wall_time;
    t->end = value->wall_time;
    if (value->kind == EVENT_VERSION) {
        free(t->version);
        t->version = xstrdup(value->tag);
        return;
    }
    Tag *tag = find_tag(t, value);
    if (tag == NULL) {
        t->left_out++;
        return;
    }
    tag->count++;
    tag->last_step = value->step;
    if (value->kind != EVENT_SCALAR) {
        return;
    }
    tag->last = value->value;
    if (isfinite(value->value)) {
        tag->least = value->value >= tag->least ? tag->least : value->value;
        tag->greatest = value->value <= tag->greatest ? tag->greatest : value->value;
    }
}

static void print_people(const char *path, const Tags *t, const EventsSummary *summary, Text *out)
{
    text_add(out, "%s: TensorBoard events, ", path);
    inspect_text(out, t->version != NULL ? t->version : "without a version");
    text_add(out, "\n  %-*s %-9s %8s %10s %10s %12s %12s %12s\n", TAG_WIDTH, "tag", "kind",
             "events", "first step", "last step", "last", "min", "max");
    for (size_t i = 0; i < t->count; i++) {
        const Tag *tag = &t->tags[i];
        Text name = {0};
        inspect_text(&name, tag->tag);
        text_add(out, "  %-*s %-9s %8zu %10lld %10lld", TAG_WIDTH, name.text, KINDS[tag->kind],
                 tag->count, (long long)tag->first_step, (long long)tag->last_step);
        if (tag->kind == EVENT_SCALAR) {
            text_add(out, " %12.6g %12.6g %12.6g", tag->last, tag->least, tag->greatest);
        }
        text_puts(out, "\n");
        text_free(&name);
    }
    text_add(out, "%ld records, %zu tags, over %.0f s\n", summary->records, t->count,
             t->end - t->begin);
    if (t->left_out > 0) {
        text_add(out, "%zu events of further tags are not listed\n", t->left_out);
    }
    if (summary->torn) {
        text_puts(out, "the last record is not whole: the run was killed, or is writing\n");
    }
}

static void print_json(const char *path, const Tags *t, const EventsSummary *summary, Text *out)
{
    text_puts(out, "{\"path\":");
    text_json(out, path);
    text_puts(out, ",\"kind\":\"events\",\"version\":");
    text_json(out, t->version != NULL ? t->version : "");
    text_add(out, ",\"records\":%ld,\"torn\":%s,\"unlisted\":%zu,\"tags\":[", summary->records,
             summary->torn ? "true" : "false", t->left_out);
    for (size_t i = 0; i < t->count; i++) {
        const Tag *tag = &t->tags[i];
        text_puts(out, i > 0 ? ",{\"tag\":" : "{\"tag\":");
        text_json(out, tag->tag);
        text_add(out, ",\"kind\":\"%s\",\"events\":%zu,\"first_step\":%lld,\"last_step\":%lld",
                 KINDS[tag->kind], tag->count, (long long)tag->first_step,
                 (long long)tag->last_step);
        if (tag->kind == EVENT_SCALAR) {
            text_json_number(out, "last", tag->last);
            text_json_number(out, "min", tag->least);
            text_json_number(out, "max", tag->greatest);
        }
        text_puts(out, "}");
    }
    text_puts(out, "]}\n");
}

Err *inspect_events(const char *path, const FileMap *map, InspectOptions options, Text *out)
{
    Tags tags = {0};
    EventsSummary summary = {0};
    Err *err = err_context(events_read(map->data, map->size, note, &tags, &summary), "'%s'", path);
    if (err == NULL && options.json) {
        print_json(path, &tags, &summary, out);
    } else if (err == NULL) {
        print_people(path, &tags, &summary, out);
    }
    for (size_t i = 0; i < tags.count; i++) {
        free(tags.tags[i].tag);
    }
    free(tags.tags);
    free(tags.version);
    return err;
}
