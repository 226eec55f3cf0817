/* Pairs key=value, with commas or spaces between them. */
#include "train/shape.h"

#include "base/near.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *key;
    long *value;
    long min, max;
    bool given;
} Field;
enum { FIELDS = 4 };

static Err *refuse(const char *pair, const char *hint)
{
    return err_new(EXIT_CONFIG_ERR,
                   "'%s': size, classes, train and test are taken, as "
                   "size=224,classes=1000,train=1281167,test=50000%s",
                   pair, hint);
}

static Err *read_value(const char *pair, const char *text, Field *field)
{
    char *end;
    const long value = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    if (value < 0 || *end != '\0' || value < field->min || value > field->max) {
        return err_new(EXIT_CONFIG_ERR, "'%s': %s is a whole number from %ld to %ld", pair,
                       field->key, field->min, field->max);
    }
    if (field->given) {
        return err_new(EXIT_CONFIG_ERR, "'%s': %s is given twice", pair, field->key);
    }
    *field->value = value;
    field->given = true;
    return NULL;
}

static Err *read_pair(const char *pair, Field fields[FIELDS])
{
    const size_t length = strcspn(pair, "=");
    if (pair[length] == '\0') {
        return refuse(pair, "");
    }
    char *key = xformat("%.*s", (int)length, pair);
    NearMiss near = near_start(key);
    Err *err = NULL;
    int i = 0;
    while (i < FIELDS && strcmp(fields[i].key, key) != 0) {
        near_offer(&near, fields[i++].key);
    }
    if (i < FIELDS) {
        err = read_value(pair, pair + length + 1, &fields[i]);
    } else {
        char *hint = near_hint(&near);
        err = refuse(pair, hint);
        free(hint);
    }
    free(key);
    return err;
}

Err *shape_parse(const char *options, DataShape *out)
{
    *out = (DataShape){.size = 224, .classes = 1000, .train = 1281167, .test = 50000};
    Field fields[FIELDS] = {{"size", &out->size, 1, 4096, false},
                            {"classes", &out->classes, 2, 1 << 20, false},
                            {"train", &out->train, 1, 2000000000, false},
                            {"test", &out->test, 1, 2000000000, false}};
    char *text = xstrdup(options);
    char *save = NULL;
    Err *err = NULL;
    for (char *pair = strtok_r(text, ", ", &save); pair && !err;
         pair = strtok_r(NULL, ", ", &save)) {
        err = read_pair(pair, fields);
    }
    free(text);
    return err;
}
