/* The man page, written from the tables of commands, keys and topics, in the macros of man(7). */
#include "cli/help.h"

#include "base/version.h"
#include "cli/commands.h"

#include <stdlib.h>
#include <string.h>

/* A character of several bytes as \[uXXXX]; how many bytes it has. */
static size_t put_wide(FILE *out, const char *text)
{
    const unsigned char *bytes = (const unsigned char *)text;
    const size_t more = bytes[0] >= 0xF0 ? 3 : bytes[0] >= 0xE0 ? 2 : 1;
    unsigned code = bytes[0] & (0x3Fu >> more);
    for (size_t i = 1; i <= more; i++) {
        CHECK((bytes[i] & 0xC0) == 0x80, "'%s' is not UTF-8", text);
        code = code << 6 | (bytes[i] & 0x3Fu);
    }
    fprintf(out, "\\[u%04X]", code);
    return more + 1;
}

/* How roff writes a character that it would take for something else, or NULL. Long lists of choices may be broken at '|'. */
static const char *escape_of(char character)
{
    static const struct {
        char character;
        const char *text;
    } escapes[] = {{'\\', "\\e"},  {'-', "\\-"},   {'\'', "\\(aq"}, {'"', "\\(dq"}, {'^', "\\(ha"},
                   {'~', "\\(ti"}, {'`', "\\(ga"}, {'|', "|\\:"},   {'\n', " "}};
    for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
        if (escapes[i].character == character) {
            return escapes[i].text;
        }
    }
    return NULL;
}

/* Text escaped; a line break becomes a blank, a blank line a paragraph. */
static void put_text(FILE *out, const char *text)
{
    fputs(text[0] == '.' ? "\\&" : "", out); /* else a request */
    for (const char *at = text; *at;) {
        const char *escape = escape_of(*at);
        if (strncmp(at, "\n\n", 2) == 0) {
            fputs(at[2] == '.' ? "\n.PP\n\\&" : "\n.PP\n", out);
            at += 2;
        } else if ((unsigned char)*at >= 0x80) {
            at += put_wide(out, at);
        } else {
            if (escape) {
                fputs(escape, out);
            } else {
                fputc(*at, out);
            }
            at++;
        }
    }
}

static void put_paragraph(FILE *out, const char *text)
{
    put_text(out, text);
    fputc('\n', out);
}

/* A term and what it means. */
static void put_term(FILE *out, const char *term, const char *text)
{
    fputs(".TP\n\\fB", out);
    put_text(out, term);
    fputs("\\fR\n", out);
    put_paragraph(out, text);
}

static void put_options(FILE *out, const Command *command)
{
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *option = &command->options[i];
        char *label = args_option_text(option);
        char *text =
            option->many ? xformat("%s; may be repeated", option->help) : xstrdup(option->help);
        put_term(out, label + strspn(label, " "), text);
        free(label);
        free(text);
    }
}

static void put_examples(FILE *out, const Command *command)
{
    if (!command->examples) {
        return;
    }
    fputs(".PP\n.EX\n", out);
    for (size_t i = 0; command->examples[i]; i++) {
        put_paragraph(out, command->examples[i]);
    }
    fputs(".EE\n", out);
}

static void put_command(FILE *out, const Command *command, const char *path)
{
    if (command->commands) {
        for (size_t i = 0; command->commands[i]; i++) {
            char *longer = xformat("%s %s", path, command->commands[i]->name);
            put_command(out, command->commands[i], longer);
            free(longer);
        }
        return;
    }
    fputs(".SS \"", out);
    put_text(out, path);
    fprintf(out, "%s", command->arguments[0] ? " " : "");
    put_text(out, command->arguments);
    fprintf(out, "%s\"\n", command->option_count > 0 ? " [options]" : "");
    put_paragraph(out, command->summary);
    if (command->details) {
        fputs(".PP\n", out);
        put_paragraph(out, command->details);
    }
    put_options(out, command);
    put_examples(out, command);
}

static void put_keys(FILE *out)
{
    const char *section = "";
    const ConfigKey *key;
    for (size_t i = 0; (key = help_key_at(i)); i++) {
        if (strcmp(section, key->section) != 0) {
            section = key->section;
            fprintf(out, ".SS \"[%s]\"\n", section);
        }
        char *type = help_type_text(key);
        char *term = xformat("%s%s%s", key->key, key->fallback && key->fallback[0] ? " = " : "",
                             key->fallback ? key->fallback : "");
        char *text =
            xformat("%s%s%s%s", key->help, key->help[0] ? " (" : "", type, key->help[0] ? ")" : "");
        put_term(out, term, text);
        free(type);
        free(term);
        free(text);
    }
}

static void put_topics(FILE *out)
{
    size_t count;
    const Topic *topics = help_topics(&count);
    for (size_t t = 0; t < count; t++) {
        fprintf(out, ".SH \"%s\"\n", topics[t].heading);
        for (size_t i = 0; i < topics[t].count; i++) {
            put_term(out, topics[t].rows[i].name, topics[t].rows[i].text);
        }
    }
}

void help_man(FILE *out)
{
    fputs(".TH CUDISTILL 1 \"\" \"cudistill " PROGRAM_VERSION "\" \"User Commands\"\n"
          ".ad l\n" /* a line of a list of choices has no space to stretch */
          ".SH NAME\ncudistill \\- knowledge distillation of image classifiers\n"
          ".SH SYNOPSIS\n.B cudistill\n.I COMMAND\n[\\fIarguments\\fR] [\\fIoptions\\fR]\n"
          ".SH DESCRIPTION\n",
          out);
    put_paragraph(out, command_root.summary);
    fputs(".PP\n", out);
    put_paragraph(out, "Options are written --name VALUE or --name=VALUE; \"--\" ends them. Every "
                       "command has --help.");
    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; command_root.commands[i]; i++) {
        char *path = xformat("cudistill %s", command_root.commands[i]->name);
        put_command(out, command_root.commands[i], path);
        free(path);
    }
    fputs(".SH CONFIGURATION\n", out);
    put_paragraph(out, "A configuration is an INI file: [section] and key = value lines, comments "
                       "on lines of their own (# or ;), and above the first section at most one "
                       "include = other.ini. Keys with their defaults:");
    put_keys(out);
    put_topics(out);
    fputs(".SH EXAMPLES\n", out);
    put_examples(out, &command_root);
}
