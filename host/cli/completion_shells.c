/* Completion for zsh and fish. */
#include "cli/completion.h"

#include "base/text.h"
#include "cli/commands.h"
#include "cli/help.h"

#include <stdlib.h>
#include <string.h>

/* ---- zsh ---- */

/* Text of a specification of _arguments inside single quotes; special characters get a backslash. */
static void zsh_text(FILE *out, const char *text, const char *special)
{
    for (const char *at = text; *at; at++) {
        if (*at == '\'') {
            fputs("'\\''", out);
        } else {
            fprintf(out, strchr(special, *at) ? "\\%c" : "%c", *at);
        }
    }
}

/* ":what:action" of a value. */
static void zsh_action(FILE *out, ArgKind kind, const char *choices, const char *what)
{
    fputs(":", out);
    zsh_text(out, what, ":\\");
    fputs(":", out);
    char *words = completion_words(kind, choices);
    if (kind == ARG_SETTING) {
        fputs("_cudistill_setting", out);
    } else if (words) {
        fprintf(out, "(%s)", words);
    } else if (kind == ARG_FILE) {
        fputs("_files", out);
    } else if (kind == ARG_DIR || kind == ARG_RUN) {
        fputs("_files -/", out);
    } else {
        fputs(" ", out);
    }
    free(words);
}

/* name: "--seed" or "-s"; its value follows behind '=', or as the next word. */
static void zsh_option(FILE *out, const ArgOption *option, const char *name, const char *joint)
{
    const bool flag = option->kind == ARG_FLAG;
    fprintf(out, " \\\n            '%s%s%s[", option->many ? "*" : "", name, flag ? "" : joint);
    zsh_text(out, option->help, "[]:\\");
    fputs("]", out);
    if (!flag) {
        zsh_action(out, option->kind, option->choices, option->metavar ? option->metavar : "value");
    }
    fputs("'", out);
}

static void zsh_command(FILE *out, const Command *command, const char *path)
{
    fprintf(out, "    '%s')\n        _arguments -s '(-h --help)'{-h,--help}'[explain]'", path);
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *option = &command->options[i];
        char *name = xformat("--%s", option->name);
        zsh_option(out, option, name, "=");
        free(name);
        if (option->letter) {
            const char letter[] = {'-', option->letter, '\0'};
            zsh_option(out, option, letter, "+");
        }
    }
    if (command->max_arguments != 0) {
        fputs(" \\\n            '*", out);
        zsh_action(out, command->argument_kind, NULL, command->arguments);
        fputs("'", out);
    }
    fputs(" ;;\n", out);
}

/* The commands of a group, as pairs for _describe. */
static void zsh_group(FILE *out, const Command *command, const char *path)
{
    fprintf(out, "    '%s')\n        names=(", path);
    for (size_t i = 0; command->commands[i]; i++) {
        fprintf(out, "\n            '%s:", command->commands[i]->name);
        zsh_text(out, command->commands[i]->summary, ":\\");
        fputs("'", out);
    }
    fputs(")\n        _describe command names ;;\n", out);
    for (size_t i = 0; command->commands[i]; i++) {
        if (command->commands[i]->commands) {
            zsh_group(out, command->commands[i], command->commands[i]->name);
        }
    }
}

static void zsh_settings(FILE *out)
{
    char *keys = completion_words(ARG_SETTING, NULL);
    fprintf(out,
            "_cudistill_setting() {\n    if [[ $PREFIX != *=* ]]; then\n"
            "        compadd -S '' -- %s\n        return\n    fi\n"
            "    local key=${PREFIX%%%%=*}\n    compset -P '*='\n    case $key in\n",
            keys);
    free(keys);
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *words = completion_key_words(key);
        if (words) {
            fprintf(out, "    %s.%s) compadd -- %s ;;\n", key->section, key->key, words);
        } else if (key->type == CONFIG_PATH) {
            fprintf(out, "    %s.%s) _files ;;\n", key->section, key->key);
        }
        free(words);
    }
    fputs("    esac\n}\n\n", out);
}

void completion_zsh(FILE *out)
{
    fputs("#compdef cudistill\n# zsh completion, written by 'cudistill completion zsh'.\n\n", out);
    zsh_settings(out);
    fputs("_cudistill() {\n    local -a names\n    local path_=\n    integer used=1\n"
          "    if (( CURRENT > 2 )); then\n        path_=$words[2]\n        used=2\n"
          "        case $path_ in\n        ",
          out);
    const char *bar = "";
    for (size_t i = 0; command_root.commands[i]; i++) {
        if (command_root.commands[i]->commands) {
            fprintf(out, "%s%s", bar, command_root.commands[i]->name);
            bar = "|";
        }
    }
    fputs(") if (( CURRENT > 3 )); then path_=\"$path_ $words[3]\"; used=3; fi ;;\n"
          "        esac\n    fi\n    shift $((used - 1)) words\n    (( CURRENT -= used - 1 ))\n"
          "    case $path_ in\n",
          out);
    zsh_group(out, &command_root, "");
    completion_walk(out, zsh_command);
    fputs("    esac\n}\n\n_cudistill \"$@\"\n", out);
}

/* ---- fish ---- */

static void fish_quote(FILE *out, const char *text)
{
    fputc('\'', out);
    for (const char *at = text; *at; at++) {
        fprintf(out, *at == '\'' || *at == '\\' ? "\\%c" : "%c", *at);
    }
    fputc('\'', out);
}

static void fish_line(FILE *out, const char *path)
{
    fprintf(out, "complete -c cudistill -n '__cudistill_at %s'", path);
}

/* " -x -a 'words'", " -r -F" or " -x". */
static void fish_values(FILE *out, ArgKind kind, const char *choices, const char *required)
{
    char *words = completion_words(kind, choices);
    if (kind == ARG_SETTING) {
        fprintf(out, " %s -f -a '(__cudistill_settings)'", required);
    } else if (words) {
        fprintf(out, " %s -f -a ", required);
        fish_quote(out, words);
    } else if (kind == ARG_FILE) {
        fprintf(out, " %s -F", required);
    } else if (kind == ARG_DIR || kind == ARG_RUN) {
        fprintf(out, " %s -f -a '(__fish_complete_directories (commandline -ct))'", required);
    } else {
        fprintf(out, " %s -f", required);
    }
    free(words);
}

static void fish_command(FILE *out, const Command *command, const char *path)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *option = &command->options[i];
        fish_line(out, path);
        fprintf(out, " -l %s", option->name);
        if (option->letter) {
            fprintf(out, " -s %c", option->letter);
        }
        if (option->kind != ARG_FLAG) {
            fish_values(out, option->kind, option->choices, "-r");
        }
        fputs(" -d ", out);
        fish_quote(out, option->help);
        fputc('\n', out);
    }
    fish_line(out, path);
    fputs(" -l help -s h -d 'explain'\n", out);
    if (command->max_arguments != 0) {
        fish_line(out, path);
        fish_values(out, command->argument_kind, NULL, "");
        fputc('\n', out);
    }
}

static void fish_group(FILE *out, const Command *command, const char *path)
{
    for (size_t i = 0; command->commands[i]; i++) {
        const Command *sub = command->commands[i];
        fprintf(out, "complete -c cudistill -n '__cudistill_just %s' -a %s -d ", path, sub->name);
        fish_quote(out, sub->summary);
        fputc('\n', out);
        if (sub->commands) {
            fish_group(out, sub, sub->name);
        }
    }
}

/* Keys followed by '=', and by each of their values where those are known. */
static void fish_settings(FILE *out)
{
    fputs("function __cudistill_settings\n    printf '%s\\n'", out);
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        char *words = completion_key_words(key);
        fprintf(out, " \\\n        %s.%s=", key->section, key->key);
        for (const char *at = words; at && *at;) {
            const size_t length = strcspn(at, " ");
            fprintf(out, " %s.%s=%.*s", key->section, key->key, (int)length, at);
            at += length + (at[length] == ' ');
        }
        free(words);
    }
    fputs("\nend\n\n", out);
}

void completion_fish(FILE *out)
{
    fputs("# fish completion, written by 'cudistill completion fish'.\n\n"
          "# The words after the program begin with these.\n"
          "function __cudistill_at\n    set -l words (commandline -opc)\n"
          "    set -l last (math 1 + (count $argv))\n"
          "    test (count $words) -ge $last\n"
          "    and test \"$words[2..$last]\" = \"$argv\"\nend\n\n"
          "# ... and there are no others.\n"
          "function __cudistill_just\n    set -l words (commandline -opc)\n"
          "    test (count $words) -eq (math 1 + (count $argv))\n"
          "    and begin\n        test (count $argv) -eq 0\n        or __cudistill_at $argv\n    "
          "end\n"
          "end\n\n",
          out);
    fish_settings(out);
    fputs("complete -c cudistill -f\n", out);
    fish_group(out, &command_root, "");
    for (size_t i = 0; i < command_root.option_count; i++) {
        fprintf(out, "complete -c cudistill -n '__cudistill_just' -l %s -d ",
                command_root.options[i].name);
        fish_quote(out, command_root.options[i].help);
        fputc('\n', out);
    }
    completion_walk(out, fish_command);
}
