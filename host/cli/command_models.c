/* `cudistill models`: the zoo as a table. */
#include "cli/commands.h"

#include "base/text.h"
#include "models/models.h"

#include <stdio.h>

static void print_json(const ModelInfo *models, int count)
{
    Text text = {0};
    for (int i = 0; i < count; i++) {
        text_puts(&text, "{\"name\":");
        text_json(&text, models[i].name);
        text_puts(&text, ",\"family\":");
        text_json(&text, models[i].family);
        text_add(&text, ",\"pixels\":%d,\"classes\":%d,\"parameters\":%zu", models[i].input_size,
                 models[i].classes, models[i].params);
        text_puts(&text, models[i].macs > 0 ? "" : ",\"mega_mult_adds\":null");
        if (models[i].macs > 0) {
            text_json_number(&text, "mega_mult_adds", models[i].macs);
        }
        text_puts(&text, "}\n");
    }
    (void)fputs(text.text ? text.text : "", stdout);
    text_free(&text);
}

static void print_table(const ModelInfo *models, int count)
{
    printf("%-14s %6s %8s %12s %10s  %s\n", "name", "pixels", "classes", "parameters", "M mult-add",
           "family");
    for (int i = 0; i < count; i++) {
        printf("%-14s %6d %8d %12zu ", models[i].name, models[i].input_size, models[i].classes,
               models[i].params);
        if (models[i].macs > 0) {
            printf("%10.1f  %s\n", models[i].macs, models[i].family);
        } else {
            printf("%10s  %s\n", "-", models[i].family);
        }
    }
}

static Err *run(const Args *args)
{
    int count;
    const ModelInfo *models = model_list(&count);
    if (args_flag(args, "json")) {
        print_json(models, count);
    } else {
        print_table(models, count);
    }
    return NULL;
}

static const ArgOption options[] = {
    {.name = "json", .kind = ARG_FLAG, .help = "one JSON object a network"}};

const Command command_models = {.name = "models",
                                .arguments = "",
                                .summary = "list the networks with their sizes",
                                .options = options,
                                .option_count = sizeof options / sizeof options[0],
                                .run = run};
