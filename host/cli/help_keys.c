/* Configuration keys explained: type, default, who else calls them what, and which option sets them. */
#include "cli/help.h"

#include "base/text.h"
#include "cli/commands.h"
#include "train/settings.h"
#include "train/settings_names.h"
#include "train/suite.h"

#include <stdlib.h>
#include <string.h>

enum { INDENT = 4, LABEL = 14 };

const ConfigKey *help_key_at(size_t i)
{
    size_t runs;
    size_t suites;
    const ConfigKey *of_runs = settings_schema(&runs);
    const ConfigKey *of_suites = suite_keys(&suites);
    if (i < runs) {
        return &of_runs[i];
    }
    return i - runs < suites ? &of_suites[i - runs] : NULL;
}

static const char *type_name(ConfigType type)
{
    switch (type) {
    case CONFIG_BOOL:
        return "true or false";
    case CONFIG_INT:
        return "whole number";
    case CONFIG_INTS:
        return "whole numbers with commas";
    case CONFIG_FLOAT:
        return "number";
    case CONFIG_FLOATS:
        return "numbers with commas";
    case CONFIG_STRING:
        return "text";
    case CONFIG_PATH:
        return "path, from the folder of the file; ${NAME} is an environment variable";
    case CONFIG_ENUM:
        break;
    }
    return "one of";
}

char *help_type_text(const ConfigKey *key)
{
    Text text = {0};
    text_puts(&text, type_name(key->type));
    if (key->type == CONFIG_ENUM) {
        text_add(&text, " %s", key->names);
    } else if (key->min != 0 || key->max != 0) {
        text_add(&text, " from %.10g to %.10g", key->min, key->max);
    }
    return text.text;
}

static void print_head(const ConfigKey *key, FILE *out)
{
    const char *fallback = key->fallback;
    fprintf(out, "%s.%s %s %s\n", key->section, key->key, fallback ? "=" : "",
            !fallback     ? "(must be given)"
            : fallback[0] ? fallback
                          : "(empty)");
    fprintf(out, "%*s", INDENT, "");
    args_wrap(out, key->help[0] ? key->help : "(no further explanation)", INDENT, INDENT);
}

static void print_field(const char *label, const char *text, FILE *out)
{
    fprintf(out, "%*s%-*s", INDENT, "", LABEL, label);
    args_wrap(out, text, INDENT + LABEL, INDENT + LABEL);
}

/* "a|b" as "a, b". Caller frees. */
static char *with_commas(const char *names)
{
    Text text = {0};
    for (const char *at = names; *at; at++) {
        if (*at == '|') {
            text_puts(&text, ", ");
        } else {
            text_bytes(&text, at, 1);
        }
    }
    return text.text;
}

static void print_names(const ConfigKey *key, FILE *out)
{
    for (int origin = 0; origin < NAMES_COUNT; origin++) {
        const char *names = settings_name(key->section, key->key, (NameOrigin)origin);
        if (names) {
            const char *program = names_origin((NameOrigin)origin);
            char *spelled = with_commas(names);
            print_field(program ? program : "elsewhere", spelled, out);
            free(spelled);
        }
    }
}

static void print_option(const ConfigKey *key, FILE *out)
{
    char *full = xformat("%s.%s", key->section, key->key);
    for (size_t i = 0; i < command_train.option_count; i++) {
        const char *name = command_train.options[i].name;
        const char *sets = train_option_key(name);
        if (sets && strcmp(sets, full) == 0) {
            char *text = xformat("--%s of 'cudistill train'", name);
            print_field("option", text, out);
            free(text);
        }
    }
    free(full);
}

void help_key(const ConfigKey *key, FILE *out)
{
    print_head(key, out);
    char *type = help_type_text(key);
    print_field("type", type, out);
    free(type);
    print_option(key, out);
    print_names(key, out);
}

void help_section(const char *section, FILE *out)
{
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        if (strcmp(key->section, section) != 0) {
            continue;
        }
        print_head(key, out);
        if (key->names) {
            fprintf(out, "%*s[%s]\n", INDENT, "", key->names);
        }
    }
}
