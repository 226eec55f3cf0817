/* `cudistill completion bash|zsh|fish`. */
#include "cli/commands.h"
#include "cli/completion.h"

static Err *run_bash(const Args *args)
{
    (void)args;
    completion_bash(stdout);
    return NULL;
}

static Err *run_zsh(const Args *args)
{
    (void)args;
    completion_zsh(stdout);
    return NULL;
}

static Err *run_fish(const Args *args)
{
    (void)args;
    completion_fish(stdout);
    return NULL;
}

static const char *const bash_examples[] = {"source <(cudistill completion bash)", NULL};
static const char *const zsh_examples[] = {
    "cudistill completion zsh > ~/.zfunc/_cudistill   # a folder of $fpath", NULL};
static const char *const fish_examples[] = {
    "cudistill completion fish > ~/.config/fish/completions/cudistill.fish", NULL};

static const Command for_bash = {.name = "bash",
                                 .arguments = "",
                                 .summary = "print the script for bash",
                                 .examples = bash_examples,
                                 .run = run_bash};
static const Command for_zsh = {.name = "zsh",
                                .arguments = "",
                                .summary = "print the script for zsh",
                                .examples = zsh_examples,
                                .run = run_zsh};
static const Command for_fish = {.name = "fish",
                                 .arguments = "",
                                 .summary = "print the script for fish",
                                 .examples = fish_examples,
                                 .run = run_fish};
static const Command *const commands[] = {&for_bash, &for_zsh, &for_fish, NULL};

const Command command_completion = {.name = "completion",
                                    .arguments = "",
                                    .summary =
                                        "print a script that lets a shell complete command lines",
                                    .commands = commands};
