/* Command lines against their tables: values are checked while parsing, so that reading them afterwards cannot fail. One pass
 * over argv; --help is looked for first, so that it works beside a mistake. */
#include "cli/args.h"

#include "base/duration.h"
#include "base/near.h"
#include "base/text.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Values of one option. */
typedef struct {
    const char **values;
    size_t count, capacity;
} Given;

struct Args {
    const Command *command;
    const char *path;
    Given *given; /* one for each option of the table */
    Given arguments;
};

/* ---- The table ---- */

/* option_count when there is none. */
static size_t find_name(const Command *command, const char *name, size_t length)
{
    size_t i = 0;
    while (i < command->option_count && (strlen(command->options[i].name) != length ||
                                         strncmp(command->options[i].name, name, length) != 0)) {
        i++;
    }
    return i;
}

static size_t find_letter(const Command *command, char letter)
{
    size_t i = 0;
    while (i < command->option_count && command->options[i].letter != letter) {
        i++;
    }
    return i;
}

/* "config check" of "cudistill config check": how messages name the command. */
static const char *short_path(const char *path)
{
    const char *space = strchr(path, ' ');
    return space ? space + 1 : path;
}

/* Number of the name among "a|b|c"; -1 when it is none of them. */
static int find_choice(const char *choices, const char *name)
{
    const size_t length = strlen(name);
    int position = 0;
    for (const char *at = choices; *at; position++) {
        const size_t here = strcspn(at, "|");
        if (here == length && strncmp(at, name, length) == 0) {
            return position;
        }
        at += here + (at[here] == '|');
    }
    return -1;
}

/* "auto, must or never". Caller frees. */
static char *spell_choices(const char *choices)
{
    Text text = {0};
    for (const char *at = choices; *at;) {
        const size_t length = strcspn(at, "|");
        const char *rest = at + length + (at[length] == '|');
        text_bytes(&text, at, length);
        text_puts(&text, *rest == '\0' ? "" : strchr(rest, '|') ? ", " : " or ");
        at = rest;
    }
    return text.text ? text.text : xstrdup("");
}

/* "; did you mean 'must'?" or "". Caller frees. */
static char *choice_hint(const char *choices, const char *value)
{
    char *names = xstrdup(choices);
    NearMiss near = near_start(value);
    char *save = NULL;
    for (char *name = strtok_r(names, "|", &save); name; name = strtok_r(NULL, "|", &save)) {
        near_offer(&near, name);
    }
    char *hint = near_hint(&near);
    free(names);
    return hint;
}

/* ---- Values ---- */

static Err *bad_value(const Args *args, const ArgOption *option, const char *value,
                      const char *needed)
{
    return err_new(EXIT_USAGE_ERR, "%s: --%s '%s': %s", short_path(args->path), option->name, value,
                   needed);
}

static Err *check_number(const Args *args, const ArgOption *option, const char *value)
{
    const bool whole = option->kind == ARG_INT;
    const char *kind = whole ? "a whole number" : "a number";
    char *end;
    errno = 0;
    const double number = whole ? (double)strtoll(value, &end, 10) : strtod(value, &end);
    const bool bounded = option->min != 0 || option->max != 0;
    const bool inside = !bounded || (number >= option->min && number <= option->max);
    if (end != value && *end == '\0' && errno == 0 && isfinite(number) && inside &&
        strpbrk(value, "xX ") == NULL) {
        return NULL;
    }
    char *needed = bounded && option->max < 1e15
                       ? xformat("%s from %.15g to %.15g is needed", kind, option->min, option->max)
                   : bounded ? xformat("%s of at least %.15g is needed", kind, option->min)
                             : xformat("%s is needed", kind);
    Err *err = bad_value(args, option, value, needed);
    free(needed);
    return err;
}

static Err *check_choice(const Args *args, const ArgOption *option, const char *value)
{
    if (find_choice(option->choices, value) >= 0) {
        return NULL;
    }
    char *names = spell_choices(option->choices);
    char *hint = choice_hint(option->choices, value);
    char *needed = xformat("use %s%s", names, hint);
    Err *err = bad_value(args, option, value, needed);
    free(names);
    free(hint);
    free(needed);
    return err;
}

static Err *check_value(const Args *args, const ArgOption *option, const char *value)
{
    double seconds;
    const char *equals;
    const char *dot;
    switch (option->kind) {
    case ARG_INT:
    case ARG_FLOAT:
        return check_number(args, option, value);
    case ARG_CHOICE:
        return check_choice(args, option, value);
    case ARG_DURATION:
        return duration_parse(value, &seconds)
                   ? NULL
                   : bad_value(args, option, value,
                               "a length of time is needed, as 90s, 12h or 23h50m");
    case ARG_SETTING:
        equals = strchr(value, '=');
        dot = strchr(value, '.');
        return equals && dot && dot < equals
                   ? NULL
                   : bad_value(args, option, value, "section.key=value is needed, as optim.lr=0.1");
    case ARG_FLAG:
    case ARG_TEXT:
    case ARG_FILE:
    case ARG_DIR:
    case ARG_RUN:
    case ARG_MODEL:
    case ARG_TOPIC:
    case ARG_BENCH_OP:
        break;
    }
    return value[0] != '\0' ? NULL : bad_value(args, option, value, "the value is empty");
}

static void push(Given *given, const char *value)
{
    given->values = xgrow(given->values, &given->capacity, given->count + 1, sizeof *given->values);
    given->values[given->count++] = value;
}

static Err *give(Args *args, size_t index, const char *value)
{
    const ArgOption *option = &args->command->options[index];
    Given *given = &args->given[index];
    if (given->count > 0 && !option->many) {
        return err_new(EXIT_USAGE_ERR, "%s: --%s is given twice", short_path(args->path),
                       option->name);
    }
    if (option->kind != ARG_FLAG) {
        TRY(check_value(args, option, value));
    }
    push(given, value);
    return NULL;
}

/* ---- Options ---- */

static Err *unknown_option(const Args *args, const char *text)
{
    const Command *command = args->command;
    const char *name = text + strspn(text, "-");
    char *word = xformat("%.*s", (int)strcspn(name, "="), name);
    NearMiss near = near_start(word);
    near_offer(&near, "help");
    for (size_t i = 0; i < command->option_count; i++) {
        near_offer(&near, command->options[i].name);
    }
    char *hint =
        text[1] == '-' && near.best ? xformat("; did you mean --%s?", near.best) : xstrdup("");
    Err *err = err_new(EXIT_USAGE_ERR, "%s: unknown option %.*s%s ('%s --help' lists them)",
                       short_path(args->path), (int)strcspn(text, "="), text, hint, args->path);
    free(word);
    free(hint);
    return err;
}

static Err *no_value(const Args *args, const ArgOption *option)
{
    return err_new(EXIT_USAGE_ERR, "%s: --%s needs a value: --%s %s", short_path(args->path),
                   option->name, option->name, option->metavar ? option->metavar : option->choices);
}

/* The word behind an option is its value, unless it is an option itself: then the value was forgotten. */
static bool is_option(const Command *command, const char *text)
{
    return strncmp(text, "--", 2) == 0 &&
           (text[2] == '\0' ||
            find_name(command, text + 2, strcspn(text + 2, "=")) < command->option_count);
}

static Err *take_next(Args *args, size_t index, int argc, char **argv, int *at)
{
    if (*at + 1 >= argc || is_option(args->command, argv[*at + 1])) {
        return no_value(args, &args->command->options[index]);
    }
    return give(args, index, argv[++*at]);
}

static Err *parse_long(Args *args, int argc, char **argv, int *at)
{
    const char *text = argv[*at];
    const size_t length = strcspn(text + 2, "=");
    const size_t index = find_name(args->command, text + 2, length);
    if (index == args->command->option_count) {
        return unknown_option(args, text);
    }
    const ArgOption *option = &args->command->options[index];
    const bool equals = text[2 + length] == '=';
    if (option->kind == ARG_FLAG) {
        return equals ? err_new(EXIT_USAGE_ERR, "%s: --%s takes no value", short_path(args->path),
                                option->name)
                      : give(args, index, "");
    }
    return equals ? give(args, index, text + 3 + length) : take_next(args, index, argc, argv, at);
}

/* "-q", "-qv", "-n5", "-n 5". */
static Err *parse_letters(Args *args, int argc, char **argv, int *at)
{
    const char *text = argv[*at];
    for (const char *letter = text + 1; *letter; letter++) {
        const size_t index = find_letter(args->command, *letter);
        if (index == args->command->option_count) {
            char unknown[3] = {'-', *letter, '\0'};
            return unknown_option(args, unknown);
        }
        if (args->command->options[index].kind == ARG_FLAG) {
            TRY(give(args, index, ""));
        } else if (letter[1] != '\0') {
            return give(args, index, letter + 1);
        } else {
            return take_next(args, index, argc, argv, at);
        }
    }
    return NULL;
}

static Err *check_count(const Args *args)
{
    const Command *command = args->command;
    const size_t count = args->arguments.count;
    if (count < (size_t)command->min_arguments) {
        return err_new(EXIT_USAGE_ERR, "%s: %s is missing; usage: %s %s%s", short_path(args->path),
                       command->arguments, args->path, command->arguments,
                       command->option_count > 0 ? " [options]" : "");
    }
    if (command->max_arguments >= 0 && count > (size_t)command->max_arguments) {
        return err_new(EXIT_USAGE_ERR, "%s: unexpected argument '%s'; usage: %s%s%s%s",
                       short_path(args->path), args->arguments.values[command->max_arguments],
                       args->path, command->arguments[0] ? " " : "", command->arguments,
                       command->option_count > 0 ? " [options]" : "");
    }
    return NULL;
}

static Err *parse_all(Args *args, int argc, char **argv)
{
    bool options = true;
    for (int at = 1; at < argc; at++) {
        const char *text = argv[at];
        if (!options || text[0] != '-' || text[1] == '\0') {
            push(&args->arguments, text);
        } else if (strcmp(text, "--") == 0) {
            options = false;
        } else if (text[1] == '-') {
            TRY(parse_long(args, argc, argv, &at));
        } else {
            TRY(parse_letters(args, argc, argv, &at));
        }
    }
    return check_count(args);
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

Err *args_parse(const Command *command, const char *path, int argc, char **argv, Args **out)
{
    *out = NULL;
    if (wants_help(argc, argv)) {
        args_help(command, path, stdout);
        return NULL;
    }
    Args *args = xcalloc(1, sizeof *args);
    args->command = command;
    args->path = path;
    args->given = xcalloc(command->option_count + 1, sizeof *args->given);
    Err *err = parse_all(args, argc, argv);
    if (err) {
        args_free(args);
        return err;
    }
    *out = args;
    return NULL;
}

void args_free(Args *args)
{
    if (!args) {
        return;
    }
    for (size_t i = 0; i < args->command->option_count; i++) {
        free(args->given[i].values);
    }
    free(args->given);
    free(args->arguments.values);
    free(args);
}

/* ---- Sub-commands ---- */

static Err *unknown_command(const Command *command, const char *path, const char *name)
{
    NearMiss near = near_start(name);
    near_offer(&near, "--help");
    for (size_t i = 0; command->commands[i]; i++) {
        near_offer(&near, command->commands[i]->name);
    }
    char *hint = near_hint(&near);
    const bool top = strchr(path, ' ') == NULL;
    Err *err = err_new(EXIT_USAGE_ERR, "%s%sunknown %s '%s'%s ('%s --help' lists them)",
                       top ? "" : short_path(path), top ? "" : ": ",
                       name[0] == '-' ? "option" : "command", name, hint, path);
    free(hint);
    return err;
}

static Err *run_sub_command(const Command *command, const char *path, int argc, char **argv)
{
    if (argc < 2) {
        Text names = {0};
        for (size_t i = 0; command->commands[i]; i++) {
            text_add(&names, "%s%s", i ? "|" : "", command->commands[i]->name);
        }
        char *spelled = spell_choices(names.text);
        Err *err = err_new(EXIT_USAGE_ERR, "%s: a command is missing: %s ('%s --help' explains)",
                           short_path(path), spelled, path);
        free(spelled);
        text_free(&names);
        return err;
    }
    for (size_t i = 0; command->commands[i]; i++) {
        const Command *sub = command->commands[i];
        if (strcmp(sub->name, argv[1]) == 0) {
            char *longer = xformat("%s %s", path, sub->name);
            Err *err = args_run(sub, longer, argc - 1, argv + 1);
            free(longer);
            return err;
        }
    }
    if (wants_help(argc, argv)) {
        args_help(command, path, stdout);
        return NULL;
    }
    return unknown_command(command, path, argv[1]);
}

Err *args_run(const Command *command, const char *path, int argc, char **argv)
{
    if (command->commands) {
        return run_sub_command(command, path, argc, argv);
    }
    Args *args;
    TRY(args_parse(command, path, argc, argv, &args));
    Err *err = args ? command->run(args) : NULL;
    args_free(args);
    return err;
}

/* ---- Reads ---- */

static const Given *given_of(const Args *args, const char *name, const ArgOption **option)
{
    const size_t index = find_name(args->command, name, strlen(name));
    CHECK(index < args->command->option_count, "command %s has no option --%s", args->command->name,
          name);
    *option = &args->command->options[index];
    return &args->given[index];
}

/* The last value; NULL when there is none. `kinds`: bit k, the option may be of ArgKind k. */
static const char *last_value(const Args *args, const char *name, unsigned kinds)
{
    const ArgOption *option;
    const Given *given = given_of(args, name, &option);
    CHECK(kinds >> option->kind & 1, "option --%s of command %s is of kind %d", name,
          args->command->name, (int)option->kind);
    return given->count > 0 ? given->values[given->count - 1] : NULL;
}

bool args_given(const Args *args, const char *option)
{
    const ArgOption *row;
    return given_of(args, option, &row)->count > 0;
}

bool args_flag(const Args *args, const char *option)
{
    return last_value(args, option, 1u << ARG_FLAG) != NULL;
}

const char *args_text(const Args *args, const char *option, const char *fallback)
{
    const char *value = last_value(args, option, ~(1u << ARG_FLAG));
    return value ? value : fallback;
}

int64_t args_int(const Args *args, const char *option, int64_t fallback)
{
    const char *value = last_value(args, option, 1u << ARG_INT);
    return value ? (int64_t)strtoll(value, NULL, 10) : fallback;
}

double args_float(const Args *args, const char *option, double fallback)
{
    const char *value = last_value(args, option, 1u << ARG_FLOAT | 1u << ARG_DURATION);
    const ArgOption *row;
    given_of(args, option, &row);
    if (!value) {
        return fallback;
    }
    if (row->kind == ARG_FLOAT) {
        return strtod(value, NULL);
    }
    double seconds = fallback;
    (void)duration_parse(value, &seconds);
    return seconds;
}

int args_choice(const Args *args, const char *option, int fallback)
{
    const char *value = last_value(args, option, 1u << ARG_CHOICE);
    const ArgOption *row;
    given_of(args, option, &row);
    return value ? find_choice(row->choices, value) : fallback;
}

const char *const *args_all(const Args *args, const char *option, size_t *count)
{
    const ArgOption *row;
    const Given *given = given_of(args, option, &row);
    *count = given->count;
    return given->values;
}

size_t args_count(const Args *args)
{
    return args->arguments.count;
}

const char *args_at(const Args *args, size_t i)
{
    CHECK(i < args->arguments.count, "command %s has %zu arguments, number %zu is read",
          args->command->name, args->arguments.count, i);
    return args->arguments.values[i];
}
