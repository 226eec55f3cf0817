/* What the completion scripts share, and the script for bash. */
#include "cli/completion.h"

#include "base/text.h"
#include "bench/problems.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "models/models.h"

#include <stdlib.h>
#include <string.h>

/* ---- Shared ---- */

static void walk(FILE *out, const Command *command, const char *path,
                 void (*visit)(FILE *, const Command *, const char *))
{
    if (!command->commands) {
        visit(out, command, path);
        return;
    }
    for (size_t i = 0; command->commands[i]; i++) {
        char *longer = xformat("%s%s%s", path, path[0] ? " " : "", command->commands[i]->name);
        walk(out, command->commands[i], longer, visit);
        free(longer);
    }
}

void completion_walk(FILE *out, void (*visit)(FILE *, const Command *, const char *))
{
    walk(out, &command_root, "", visit);
}

static void add_word(Text *text, const char *word, size_t length)
{
    text_puts(text, text->size > 0 ? " " : "");
    text_bytes(text, word, length);
}

static char *split_choices(const char *choices)
{
    Text text = {0};
    for (const char *at = choices; *at;) {
        const size_t length = strcspn(at, "|");
        add_word(&text, at, length);
        at += length + (at[length] == '|');
    }
    return text.text;
}

static char *model_words(void)
{
    Text text = {0};
    int count;
    const ModelInfo *models = model_list(&count);
    for (int i = 0; i < count; i++) {
        add_word(&text, models[i].name, strlen(models[i].name));
    }
    return text.text;
}

static char *op_words(void)
{
    Text text = {0};
    int count;
    const BenchOp *ops = problem_list(&count);
    for (int i = 0; i < count; i++) {
        add_word(&text, ops[i].name, strlen(ops[i].name));
    }
    return text.text;
}

/* "section.key" of all keys, each followed by `end`. */
static void add_keys(Text *text, const char *end)
{
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *word = xformat("%s.%s%s", key->section, key->key, end);
        add_word(text, word, strlen(word));
        free(word);
    }
}

static char *setting_words(void)
{
    Text text = {0};
    add_keys(&text, "=");
    return text.text;
}

static char *topic_words(void)
{
    Text text = {0};
    for (size_t i = 0; command_root.commands[i]; i++) {
        const char *name = command_root.commands[i]->name;
        add_word(&text, name, strlen(name));
    }
    size_t count;
    const Topic *topics = help_topics(&count);
    for (size_t i = 0; i < count; i++) {
        add_word(&text, topics[i].name, strlen(topics[i].name));
    }
    const char *section = "";
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        if (strcmp(section, key->section) != 0) {
            section = key->section;
            add_word(&text, section, strlen(section));
        }
    }
    add_keys(&text, "");
    return text.text;
}

char *completion_words(ArgKind kind, const char *choices)
{
    switch (kind) {
    case ARG_CHOICE:
        return split_choices(choices);
    case ARG_MODEL:
        return model_words();
    case ARG_BENCH_OP:
        return op_words();
    case ARG_SETTING:
        return setting_words();
    case ARG_TOPIC:
        return topic_words();
    case ARG_FLAG:
    case ARG_TEXT:
    case ARG_INT:
    case ARG_FLOAT:
    case ARG_DURATION:
    case ARG_FILE:
    case ARG_DIR:
    case ARG_RUN:
        break;
    }
    return NULL;
}

char *completion_key_words(const ConfigKey *key)
{
    if (key->type == CONFIG_ENUM) {
        return split_choices(key->names);
    }
    if (key->type == CONFIG_BOOL) {
        return xstrdup("true false");
    }
    return strcmp(key->key, "model") == 0 ? model_words() : NULL;
}

void completion_quote(FILE *out, const char *text)
{
    fputc('\'', out);
    for (const char *at = text; *at; at++) {
        if (*at == '\'') {
            fputs("'\\''", out);
        } else {
            fputc(*at, out);
        }
    }
    fputc('\'', out);
}

/* ---- bash ---- */

/* The statement that fills COMPREPLY with values of a kind. */
static void bash_values(FILE *out, ArgKind kind, const char *choices)
{
    char *words = completion_words(kind, choices);
    if (kind == ARG_SETTING) {
        fputs("_cudistill_setting", out);
    } else if (words) {
        fputs("_cudistill_words ", out);
        completion_quote(out, words);
    } else if (kind == ARG_FILE) {
        fputs("_cudistill_files -f", out);
    } else if (kind == ARG_DIR || kind == ARG_RUN) {
        fputs("_cudistill_files -d", out);
    } else {
        fputs(":", out);
    }
    free(words);
}

static void bash_command(FILE *out, const Command *command, const char *path)
{
    fprintf(out, "    '%s')\n        case \"$option\" in\n", path);
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *option = &command->options[i];
        if (option->kind == ARG_FLAG) {
            continue;
        }
        fprintf(out, "        --%s", option->name);
        if (option->letter) {
            fprintf(out, "|-%c", option->letter);
        }
        fputs(") ", out);
        bash_values(out, option->kind, option->choices);
        fputs("; return ;;\n", out);
    }
    fputs("        esac\n        if [[ $cur == -* ]]; then _cudistill_words '--help", out);
    for (size_t i = 0; i < command->option_count; i++) {
        fprintf(out, " --%s", command->options[i].name);
    }
    fputs("'\n        else ", out);
    bash_values(out, command->max_arguments == 0 ? ARG_TEXT : command->argument_kind, NULL);
    fputs("; fi ;;\n", out);
}

/* Words after a command that has sub-commands, or after the program itself. */
static void bash_groups(FILE *out, const Command *command, const char *path)
{
    fprintf(out, "    '%s') _cudistill_words '", path);
    for (size_t i = 0; command->commands[i]; i++) {
        fprintf(out, "%s ", command->commands[i]->name);
    }
    for (size_t i = 0; i < command->option_count; i++) {
        fprintf(out, "--%s ", command->options[i].name);
    }
    fputs("--help' ;;\n", out);
    for (size_t i = 0; command->commands[i]; i++) {
        if (command->commands[i]->commands) {
            bash_groups(out, command->commands[i], command->commands[i]->name);
        }
    }
}

static void bash_settings(FILE *out)
{
    char *keys = setting_words();
    fputs(
        "# section.key=value; the shell takes '=' for a word of its own.\n_cudistill_setting()\n{\n"
        "    if [[ -z $key ]]; then\n        compopt -o nospace\n        _cudistill_words ",
        out);
    completion_quote(out, keys);
    fputs("\n        return\n    fi\n    case \"$key\" in\n", out);
    free(keys);
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *words = completion_key_words(key);
        if (words) {
            fprintf(out, "    %s.%s) _cudistill_words '%s' ;;\n", key->section, key->key, words);
        } else if (key->type == CONFIG_PATH) {
            fprintf(out, "    %s.%s) _cudistill_files -f ;;\n", key->section, key->key);
        }
        free(words);
    }
    fputs("    esac\n}\n\n", out);
}

void completion_bash(FILE *out)
{
    fputs("# bash completion for cudistill, written by 'cudistill completion bash'.\n\n"
          "_cudistill_words()\n{\n"
          "    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\")\n}\n\n"
          "_cudistill_files()\n{\n    compopt -o filenames\n"
          "    mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$cur\")\n}\n\n",
          out);
    bash_settings(out);
    /* option: what the word under the cursor is the value of; key: the setting's key, when its value is asked for. */
    fputs("_cudistill()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} at=$((COMP_CWORD - 1)) option= key= path=\n"
          "    if [[ $cur == = ]]; then cur=; at=$COMP_CWORD; fi\n"
          "    if [[ $at -gt 1 && ${COMP_WORDS[at]} == = ]]; then\n"
          "        option=${COMP_WORDS[at - 1]}\n"
          "        if [[ $option != -* ]]; then\n"
          "            key=$option\n            option=${COMP_WORDS[at - 2]}\n"
          "            if [[ $option == = ]]; then option=${COMP_WORDS[at - 3]}; fi\n"
          "        fi\n"
          "    else\n        option=${COMP_WORDS[at]}\n    fi\n"
          "    COMPREPLY=()\n"
          "    if [[ $COMP_CWORD -gt 1 ]]; then path=${COMP_WORDS[1]}; fi\n"
          "    case \"$path\" in\n    ",
          out);
    const char *bar = "";
    for (size_t i = 0; command_root.commands[i]; i++) {
        if (command_root.commands[i]->commands) {
            fprintf(out, "%s%s", bar, command_root.commands[i]->name);
            bar = "|";
        }
    }
    fputs(") if [[ $COMP_CWORD -gt 2 ]]; then path=\"$path ${COMP_WORDS[2]}\"; fi ;;\n    esac\n"
          "    case \"$path\" in\n",
          out);
    bash_groups(out, &command_root, "");
    completion_walk(out, bash_command);
    fputs("    esac\n}\n\ncomplete -F _cudistill cudistill\n", out);
}
