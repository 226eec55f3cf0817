/* `cudistill help`: finds out what a word is (command, topic, section, key, another program's name of a key) and explains
 * it; near misses among all of these. */
#include "cli/commands.h"
#include "cli/help.h"

#include "base/near.h"
#include "train/settings_names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Commands ---- */

static const Command *find_command(const Command *parent, const char *name)
{
    for (size_t i = 0; parent->commands && parent->commands[i]; i++) {
        if (strcmp(parent->commands[i]->name, name) == 0) {
            return parent->commands[i];
        }
    }
    return NULL;
}

/* ---- Keys ---- */

static const char *next_name(const char **at, size_t *length)
{
    const char *name = *at;
    *length = strcspn(name, "|");
    *at += *length + (name[*length] == '|');
    return *length > 0 ? name : NULL;
}

/* Equal but for leading dashes, case, and '-' against '_'. */
static bool same_name(const char *word, const char *name, size_t length)
{
    word += strspn(word, "-");
    const size_t dashes = strspn(name, "-");
    name += dashes;
    length -= dashes;
    if (strlen(word) != length) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        const int a = word[i] == '-' ? '_' : tolower((unsigned char)word[i]);
        const int b = name[i] == '-' ? '_' : tolower((unsigned char)name[i]);
        if (a != b) {
            return false;
        }
    }
    return true;
}

static const ConfigKey *find_key(const char *section, const char *name)
{
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        if (strcmp(key->section, section) == 0 && strcmp(key->key, name) == 0) {
            return key;
        }
    }
    return NULL;
}

/* "section.key", or the key alone in any section. How many were explained. */
static int explain_keys(const char *word, FILE *out)
{
    int found = 0;
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *full = xformat("%s.%s", key->section, key->key);
        if (strcmp(word, full) == 0 || strcmp(word, key->key) == 0) {
            fputs(found++ > 0 ? "\n" : "", out);
            help_key(key, out);
        }
        free(full);
    }
    return found;
}

/* Keys that another program calls so. */
static int explain_names(const char *word, FILE *out)
{
    int found = 0;
    size_t count;
    const ConfigNames *names = settings_names(&count);
    for (size_t i = 0; i < count; i++) {
        bool here = false;
        for (int origin = 0; origin < NAMES_COUNT && !here; origin++) {
            const char *at = names[i].names[origin] ? names[i].names[origin] : "";
            size_t length;
            const char *name;
            while (!here && (name = next_name(&at, &length))) {
                here = same_name(word, name, length);
            }
            const ConfigKey *key = here ? find_key(names[i].section, names[i].key) : NULL;
            if (key) {
                const char *program = names_origin((NameOrigin)origin);
                fprintf(out, "%s%s is %s%s name of %s.%s:\n\n", found++ > 0 ? "\n" : "", word,
                        program ? program : "another", program ? "'s" : "", key->section, key->key);
                help_key(key, out);
            }
        }
    }
    return found;
}

static bool is_section(const char *word)
{
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        if (strcmp(key->section, word) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- Near misses ---- */

/* The nearest word so far, kept, and the key that it stands for (NULL: itself). */
typedef struct {
    NearMiss near;
    char *word, *key;
} Guess;

static void offer(Guess *guess, const char *word, const char *key)
{
    near_offer(&guess->near, word);
    if (guess->near.best == word) {
        free(guess->word);
        free(guess->key);
        guess->word = xstrdup(word);
        guess->key = key ? xstrdup(key) : NULL;
        guess->near.best = guess->word;
    }
}

static void offer_commands(Guess *guess)
{
    for (size_t i = 0; command_root.commands[i]; i++) {
        offer(guess, command_root.commands[i]->name, NULL);
    }
    size_t count;
    const Topic *topics = help_topics(&count);
    for (size_t i = 0; i < count; i++) {
        offer(guess, topics[i].name, NULL);
    }
}

static void offer_keys(Guess *guess)
{
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *full = xformat("%s.%s", key->section, key->key);
        offer(guess, key->section, NULL);
        offer(guess, full, NULL);
        offer(guess, key->key, full);
        free(full);
    }
}

static void offer_names(Guess *guess)
{
    size_t count;
    const ConfigNames *names = settings_names(&count);
    for (size_t i = 0; i < count; i++) {
        char *full = xformat("%s.%s", names[i].section, names[i].key);
        for (int origin = 0; origin < NAMES_COUNT; origin++) {
            const char *at = names[i].names[origin] ? names[i].names[origin] : "";
            size_t length;
            const char *name;
            while ((name = next_name(&at, &length))) {
                const size_t dashes = strspn(name, "-");
                char *word = xformat("%.*s", (int)(length - dashes), name + dashes);
                offer(guess, word, full);
                free(word);
            }
        }
        free(full);
    }
}

static Err *unknown_word(const char *word)
{
    Guess guess = {.near = near_start(word)};
    offer_commands(&guess);
    offer_keys(&guess);
    offer_names(&guess);
    Err *err = err_new(EXIT_USAGE_ERR, "help: no command, topic, section or key '%s'%s%s%s%s%s%s",
                       word, guess.word ? "; did you mean '" : "", guess.word ? guess.word : "",
                       guess.word ? "'" : "", guess.key ? " (" : "", guess.key ? guess.key : "",
                       !guess.word ? ""
                       : guess.key ? ")?"
                                   : "?");
    free(guess.word);
    free(guess.key);
    return err;
}

/* ---- The command ---- */

static Err *explain_word(const char *word)
{
    const Command *command = find_command(&command_root, word);
    if (command) {
        char *path = xformat("cudistill %s", word);
        args_help(command, path, stdout);
        free(path);
    }
    if (is_section(word)) {
        printf("%sconfiguration keys of [%s]:\n\n", command ? "\n" : "", word);
        help_section(word, stdout);
        return NULL;
    }
    size_t count;
    const Topic *topics = help_topics(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(topics[i].name, word) == 0) {
            help_topic(&topics[i], stdout);
            return NULL;
        }
    }
    if (command || explain_keys(word, stdout) > 0 || explain_names(word, stdout) > 0) {
        return NULL;
    }
    return unknown_word(word);
}

static Err *run(const Args *args)
{
    if (args_flag(args, "man")) {
        help_man(stdout);
        return NULL;
    }
    if (args_count(args) == 0) {
        args_help(&command_root, "cudistill", stdout);
        return NULL;
    }
    const char *word = args_at(args, 0);
    if (args_count(args) == 1) {
        return explain_word(word);
    }
    const Command *command = find_command(&command_root, word);
    const Command *sub = command ? find_command(command, args_at(args, 1)) : NULL;
    if (!sub) {
        return err_new(EXIT_USAGE_ERR, "help: no command '%s %s'", word, args_at(args, 1));
    }
    char *path = xformat("cudistill %s %s", word, sub->name);
    args_help(sub, path, stdout);
    free(path);
    return NULL;
}

static const ArgOption options[] = {
    {.name = "man", .kind = ARG_FLAG, .help = "everything as a man page (roff)"}};
static const char *const examples[] = {"cudistill help train",      "cudistill help optim",
                                       "cudistill help optim.lr",   "cudistill help SOLVER.LR",
                                       "cudistill help exit-codes", NULL};

const Command command_help = {
    .name = "help",
    .arguments = "[WORD]",
    .argument_kind = ARG_TOPIC,
    .max_arguments = 2,
    .summary = "explain a command, a configuration key or section",
    .details =
        "WORD is a command, a section, a key, the name that RepDistiller, mdistiller or timm "
        "has for a key, or one of exit-codes, environment and files.",
    .options = options,
    .option_count = sizeof options / sizeof options[0],
    .examples = examples,
    .run = run};
