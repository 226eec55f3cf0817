/* --help from the table: usage, summary, details, options in two columns, sub-commands, examples. */
#include "cli/args.h"

#include "base/text.h"

#include <stdlib.h>
#include <string.h>

enum { WIDTH = 79, LABEL_MAX = 30, GAP = 2, INDENT = 2 };

char *args_option_text(const ArgOption *option)
{
    Text text = {0};
    if (option->letter) {
        text_add(&text, "-%c, ", option->letter);
    } else {
        text_puts(&text, "    ");
    }
    text_add(&text, "--%s", option->name);
    const char *value = option->metavar ? option->metavar : option->choices;
    if (option->kind != ARG_FLAG && value) {
        text_add(&text, " %s", value);
    }
    return text.text;
}

/* Columns of a UTF-8 text: bytes that do not continue a character. */
static int columns(const char *text, size_t bytes)
{
    int count = 0;
    for (size_t i = 0; i < bytes; i++) {
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    }
    return count;
}

void args_wrap(FILE *out, const char *text, int column, int indent)
{
    int at = column;
    for (const char *word = text; *word;) {
        const size_t gap = strspn(word, " \n");
        if (gap > 0) {
            if (memchr(word, '\n', gap) != memrchr(word, '\n', gap)) {
                fprintf(out, "\n\n%*s", indent, "");
                at = indent;
            }
            word += gap;
            continue;
        }
        const size_t bytes = strcspn(word, " \n");
        const int length = columns(word, bytes);
        if (at > indent && at + 1 + length > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', out);
            at++;
        }
        fprintf(out, "%.*s", (int)bytes, word);
        at += length;
        word += bytes;
    }
    fputc('\n', out);
}

/* "  label    text": the label in a column of `width`, the text wrapped behind it. */
static void print_row(FILE *out, const char *label, const char *text, int width)
{
    const int column = INDENT + width + GAP;
    fprintf(out, "%*s%s", INDENT, "", label);
    if ((int)strlen(label) > width) {
        fprintf(out, "\n%*s", column, "");
    } else {
        fprintf(out, "%*s", column - INDENT - (int)strlen(label), "");
    }
    args_wrap(out, text, column, column);
}

static int label_width(int width, const char *label)
{
    const int length = (int)strlen(label);
    return length > width && length <= LABEL_MAX ? length : width;
}

static void print_options(const Command *command, FILE *out)
{
    static const char *const help = "-h, --help";
    char **labels = xcalloc(command->option_count + 1, sizeof *labels);
    int width = (int)strlen(help);
    for (size_t i = 0; i < command->option_count; i++) {
        labels[i] = args_option_text(&command->options[i]);
        width = label_width(width, labels[i]);
    }
    fprintf(out, "\noptions:\n");
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *option = &command->options[i];
        char *text =
            option->many ? xformat("%s; may be repeated", option->help) : xstrdup(option->help);
        print_row(out, labels[i], text, width);
        free(text);
        free(labels[i]);
    }
    print_row(out, help, "this text", width);
    free(labels);
}

static void print_commands(const Command *command, FILE *out)
{
    int width = 0;
    for (size_t i = 0; command->commands[i]; i++) {
        width = label_width(width, command->commands[i]->name);
    }
    fprintf(out, "\ncommands:\n");
    for (size_t i = 0; command->commands[i]; i++) {
        print_row(out, command->commands[i]->name, command->commands[i]->summary, width);
    }
}

void args_help(const Command *command, const char *path, FILE *out)
{
    const char *arguments = command->commands ? "COMMAND" : command->arguments;
    const bool options = command->option_count > 0 && !command->commands;
    fprintf(out, "usage: %s%s%s%s\n\n", path, arguments[0] ? " " : "", arguments,
            options ? " [options]" : "");
    args_wrap(out, command->summary, 0, 0);
    if (command->details) {
        fputc('\n', out);
        args_wrap(out, command->details, 0, 0);
    }
    if (command->commands) {
        print_commands(command, out);
    }
    print_options(command, out);
    if (command->examples) {
        fprintf(out, "\nexamples:\n");
        for (size_t i = 0; command->examples[i]; i++) {
            fprintf(out, "%*s%s\n", INDENT, "", command->examples[i]);
        }
    }
    if (command->commands) {
        fprintf(out, "\n'%s COMMAND --help' explains a command.\n", path);
    }
}
