/* The program's command line from outside: exit codes and messages of mistakes, help of everything, the man page, completion
 * in the shells themselves, and the time that help takes. The program is $CUDISTILL, else build/cudistill. */
#include "base/files.h"
#include "base/text.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "models/models.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_WORDS = 32, MAX_OUTPUT = 1 << 20, HELP_COLUMNS = 100 };

typedef struct {
    const char *program;
    char dir[64], out[80], err[80];
} Fixture;

typedef struct {
    int code;
    char *out, *err;
} Output;

/* ---- Running things ---- */

static int run_argv(const Fixture *f, char *const *argv)
{
    (void)fflush(stdout);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const int out = open(f->out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        const int err = open(f->err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        (void)dup2(out, STDOUT_FILENO);
        (void)dup2(err, STDERR_FILENO);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static Output read_output(const Fixture *f, int code)
{
    Output output = {.code = code};
    assert_null(file_read_text(f->out, MAX_OUTPUT, &output.out));
    assert_null(file_read_text(f->err, MAX_OUTPUT, &output.err));
    return output;
}

static void output_free(Output *output)
{
    free(output->out);
    free(output->err);
}

/* The program with the words of a line; no word holds a blank. */
static Output run(const Fixture *f, const char *words)
{
    char *text = xstrdup(words);
    char *argv[MAX_WORDS + 2] = {xstrdup(f->program)};
    char *const program = argv[0];
    int argc = 1;
    char *save = NULL;
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        assert_true(argc <= MAX_WORDS);
        argv[argc++] = word;
    }
    const int code = run_argv(f, argv);
    free(program);
    free(text);
    return read_output(f, code);
}

/* A script in a shell; $CUDISTILL and $DIR are set for it. */
static Output run_script(const Fixture *f, const char *shell, const char *script)
{
    char *path = path_join(f->dir, "script");
    assert_null(file_write_atomic(path, script, strlen(script)));
    assert_int_equal(setenv("DIR", f->dir, 1), 0);
    char *const argv[] = {(char *)shell, path, NULL};
    const int code = run_argv(f, argv);
    free(path);
    return read_output(f, code);
}

static bool have(const char *program)
{
    char *command = xformat("command -v %s >/dev/null 2>&1", program);
    const bool found = system(command) == 0;
    free(command);
    if (!found) {
        printf("skipped: there is no %s here\n", program);
    }
    return found;
}

static void expect_in(const char *what, const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("%s: no '%s' in\n%s", what, part, text);
    }
}

/* ---- Mistakes ---- */

static void mistakes_have_codes(void **state)
{
    static const struct {
        const char *words;
        int code;
        const char *says;
    } cases[] = {
        {"trian", 64, "unknown command 'trian'; did you mean 'train'?"},
        {"--halp", 64, "did you mean '--help'?"},
        {"train", 64, "train: CONFIG.ini is missing"},
        {"train a.ini b.ini", 64, "unexpected argument 'b.ini'"},
        {"train a.ini --sede 3", 64, "unknown option --sede; did you mean --seed?"},
        {"train a.ini --resume alwyas", 64, "use auto, must or never"},
        {"train a.ini --seed 1 --seed 2", 64, "--seed is given twice"},
        {"train a.ini --seed=x", 64, "a whole number"},
        {"train a.ini --seed 1 --set run.seed=2", 64, "--seed and --set run.seed=2 are the same"},
        {"train a.ini --seeds 1,2,2", 64, "different whole numbers"},
        {"train a.ini --seeds 1,", 64, "different whole numbers"},
        {"train a.ini --seed 1 --seeds 1,2", 64, "exclude each other"},
        {"train a.ini --quiet --verbose", 64, "exclude each other"},
        {"train a.ini --describe d.json", 64, "goes with --dry-run"},
        {"train a.ini --time-limit never", 64, "23h50m"},
        {"train a.ini --set lr=1", 64, "section.key=value"},
        {"train /nonexistent/a.ini", 66, "/nonexistent/a.ini"},
        {"eval w.pth --data synthetic", 64, "--model is missing"},
        {"eval w.pth --model resnet20", 64, "--data is missing"},
        {"eval w.pth --model resnet20 --data synthetic --mean 1,2", 64, "three numbers"},
        {"eval /nonexistent.pth --model resnet20 --data synthetic", 66, "/nonexistent.pth"},
        {"eval w.pth --model resnet21 --data synthetic", 78, "did you mean"},
        {"suite a.ini -q --json", 64, "exclude each other"},
        {"suite a.ini --seeds 1,x", 64, "different whole numbers"},
        {"suite /nonexistent/a.ini", 66, "/nonexistent/a.ini"},
        {"bench op distil", 64, "distill"},
        {"models all", 64, "unexpected argument 'all'"},
        {"completion", 64, "bash, zsh or fish"},
        {"completion tcsh", 64, "unknown command 'tcsh'"},
        {"version --jsno", 64, "did you mean --json?"},
        {"help optim.lrr", 64, "did you mean 'optim.lr'?"},
        {"help tmeperature", 64, "'temperature' (distill.temperature)"},
        {"help SOLVER.WEIHGT_DECAY", 64, "'SOLVER.WEIGHT_DECAY' (optim.weight_decay)"},
        {"help tarin", 64, "did you mean 'train'?"},
        {"help zzzzzzzzzzzz", 64, "no command, topic, section or key 'zzzzzzzzzzzz'"},
        {"help train now", 64, "no command 'train now'"},
    };
    const Fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Output output = run(f, cases[i].words);
        if (output.code != cases[i].code) {
            fail_msg("'%s' left with %d, not %d: %s", cases[i].words, output.code, cases[i].code,
                     output.err);
        }
        expect_in(cases[i].words, output.err, cases[i].says);
        /* A line that says which device was taken may stand before it. */
        assert_true(strncmp(output.err, "cudistill: ", 11) == 0 ||
                    strstr(output.err, "\ncudistill: ") != NULL);
        assert_string_equal(output.out, "");
        output_free(&output);
    }
    Output output = run(f, "");
    assert_int_equal(output.code, 64);
    expect_in("no command", output.err, "usage: cudistill COMMAND");
    output_free(&output);
}

static void closed_output_is_an_error(void **state)
{
    const Fixture *f = *state;
    Output output = run_script(f, "sh", "\"$CUDISTILL\" help --man >/dev/full\n");
    assert_int_equal(output.code, 74);
    expect_in("/dev/full", output.err, "standard output");
    output_free(&output);
}

/* ---- Training ---- */

static char *read_in(const Fixture *f, const char *name)
{
    char *path = path_join(f->dir, name);
    char *text = NULL;
    Err *err = file_read_text(path, MAX_OUTPUT, &text);
    if (err) {
        fail_msg("%s", err->message);
    }
    free(path);
    return text;
}

static void options_become_overrides(void **state)
{
    static const char config[] = "[run]\nname = small\nseed = 9\n[data]\noptions = "
                                 "classes=4,train=64,test=32\n[student]\nmodel = resnet8\n"
                                 "[train]\nbatch = 16\n[schedule]\nepochs = 1\nkind = constant\n"
                                 "[log]\ntensorboard = false\nimages = false\n[dist]\nthreads = 1\n"
                                 "[report]\nauto = false\n";
    const Fixture *f = *state;
    char *path = path_join(f->dir, "small.ini");
    assert_null(file_write_atomic(path, config, strlen(config)));
    free(path);
    Output output =
        run_script(f, "sh",
                   "\"$CUDISTILL\" train \"$DIR/small.ini\" --seeds 3,4 --out \"$DIR/many\" "
                   "--max-steps 2 -s optim.lr=0.1 --device cpu\n");
    if (output.code != 0) {
        fail_msg("%d: %s", output.code, output.err);
    }
    expect_in("--seeds", output.out, "small                          2 ");
    output_free(&output);
    char *origins = read_in(f, "many/small-s4/config.origin.tsv");
    expect_in("origins", origins, "run.seed\t4\t--seeds\n");
    expect_in("origins", origins, "train.max_steps\t2\t--max-steps\n");
    expect_in("origins", origins, "optim.lr\t0.1\t--set\n");
    expect_in("origins", origins, "dist.device\tcpu\t--device\n");
    assert_non_null(strstr(origins, "small.ini:2\n")); /* run.name: not given, so not overridden */
    free(origins);
    output =
        run_script(f, "sh", "\"$CUDISTILL\" train \"$DIR/small.ini\" --out \"$DIR/one\" --json\n");
    assert_int_equal(output.code, 0);
    char *save = NULL;
    const char *last = NULL;
    int lines = 0;
    for (char *line = strtok_r(output.out, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *event = json_loads(line, 0, NULL);
        assert_non_null(event);
        json_decref(event);
        last = line;
        lines++;
    }
    assert_true(lines >= 2);
    json_t *result = json_loads(last, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(result, "event")), "result");
    assert_int_equal(json_integer_value(json_object_get(result, "seed")), 9);
    json_decref(result);
    output_free(&output);
    output = run_script(f, "sh",
                        "\"$CUDISTILL\" train \"$DIR/small.ini\" --out \"$DIR/none\" -n --json\n");
    assert_int_equal(output.code, 0);
    json_t *plan = json_loads(output.out, 0, NULL);
    assert_non_null(plan);
    json_decref(plan);
    output_free(&output);
    path = path_join(f->dir, "none");
    assert_false(path_exists(path));
    free(path);
}

/* ---- Help ---- */

static void check_help(const Fixture *f, const Command *command, const char *path, int *count)
{
    char *words = xformat("%s%s--help", path, path[0] ? " " : "");
    Output output = run(f, words);
    assert_int_equal(output.code, 0);
    assert_string_equal(output.err, "");
    expect_in(words, output.out, "usage: cudistill");
    expect_in(words, output.out, "--help");
    for (const char *at = output.out; *at;) {
        const size_t length = strcspn(at, "\n");
        if (length > HELP_COLUMNS) {
            fail_msg("'%s' has a line of %zu columns: %.*s", words, length, (int)length, at);
        }
        at += length + (at[length] == '\n');
    }
    for (size_t i = 0; i < command->option_count; i++) {
        char *label = xformat("--%s", command->options[i].name);
        expect_in(words, output.out, label);
        free(label);
    }
    output_free(&output);
    free(words);
    (*count)++;
    for (size_t i = 0; command->commands && command->commands[i]; i++) {
        const Command *sub = command->commands[i];
        char *longer = xformat("%s%s%s", path, path[0] ? " " : "", sub->name);
        check_help(f, sub, longer, count);
        free(longer);
    }
}

static void every_command_has_help(void **state)
{
    int count = 0;
    check_help(*state, &command_root, "", &count);
    printf("%d commands\n", count);
    assert_true(count >= 12);
}

/* A command is a table that the parser understands: what a mistake in it would break is looked for here. */
static void check_table(const Command *command)
{
    assert_true((command->run != NULL) != (command->commands != NULL));
    assert_true(command->name && command->summary && command->arguments);
    assert_true(command->max_arguments < 0 || command->min_arguments <= command->max_arguments);
    assert_true((command->max_arguments == 0) == (command->arguments[0] == '\0'));
    for (size_t i = 0; i < command->option_count; i++) {
        const ArgOption *o = &command->options[i];
        assert_non_null(o->help);
        assert_true(o->letter != 'h' && strcmp(o->name, "help") != 0);
        assert_true(o->kind == ARG_FLAG ? !o->metavar : o->metavar || o->choices);
        assert_true((o->kind == ARG_CHOICE) == (o->choices != NULL));
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(o->name, command->options[k].name);
            assert_true(o->letter == 0 || o->letter != command->options[k].letter);
        }
    }
    for (size_t i = 0; command->commands && command->commands[i]; i++) {
        check_table(command->commands[i]);
    }
}

static void tables_are_sound(void **state)
{
    (void)state;
    check_table(&command_root);
}

static void every_key_is_explained(void **state)
{
    const Fixture *f = *state;
    const ConfigKey *key;
    size_t count = 0;
    for (; (key = help_key_at(count)); count++) {
        char *full = xformat("%s.%s", key->section, key->key);
        char *words = xformat("help %s", full);
        Output output = run(f, words);
        assert_int_equal(output.code, 0);
        assert_int_equal(strncmp(output.out, full, strlen(full)), 0);
        expect_in(words, output.out, "\n    type ");
        if (key->names) {
            expect_in(words, output.out, key->names);
        }
        output_free(&output);
        free(words);
        words = xformat("help %s", key->section);
        output = run(f, words);
        assert_int_equal(output.code, 0);
        expect_in(words, output.out, full);
        output_free(&output);
        free(words);
        free(full);
    }
    printf("%zu keys\n", count);
    assert_true(count > 70);
}

static void foreign_names_lead_to_keys(void **state)
{
    static const struct {
        const char *words, *says;
    } cases[] = {
        {"help SOLVER.LR", "SOLVER.LR is mdistiller's name of optim.lr:"},
        {"help kd_T", "kd_T is RepDistiller's name of distill.temperature:"},
        {"help KD-T", "name of distill.temperature:"},
        {"help -- --warmup-epochs", "schedule.warmup_epochs"},
        {"help batch", "eval.batch = "},
        {"help batch", "train.batch = "},
        {"help run.seed", "option        --seed of 'cudistill train'"},
        {"help optim.lr", "RepDistiller  --learning_rate\n"},
        {"help optim.lr", "mdistiller    SOLVER.LR\n"},
        {"help optim.lr", "timm          --lr\n"},
        {"help exit-codes", "\n75    stopped by a signal or the time limit"},
        {"help environment", "\nCUDISTILL_PLAN_CACHE\n"},
        {"help completion bash", "usage: cudistill completion bash"},
        {"help train", "configuration keys of [train]:"},
    };
    const Fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Output output = run(f, cases[i].words);
        assert_int_equal(output.code, 0);
        expect_in(cases[i].words, output.out, cases[i].says);
        output_free(&output);
    }
}

static void options_set_keys_that_exist(void **state)
{
    (void)state;
    int count = 0;
    for (size_t i = 0; i < command_train.option_count; i++) {
        const char *sets = train_option_key(command_train.options[i].name);
        bool found = sets == NULL;
        const ConfigKey *key;
        for (size_t k = 0; !found && (key = help_key_at(k)); k++) {
            char *full = xformat("%s.%s", key->section, key->key);
            found = strcmp(full, sets) == 0;
            free(full);
        }
        assert_true(found);
        count += sets != NULL;
    }
    assert_int_equal(count, 8);
}

static void version_is_told(void **state)
{
    const Fixture *f = *state;
    static const char *const ways[] = {"version", "--version", "-V"};
    for (int i = 0; i < 3; i++) {
        Output output = run(f, ways[i]);
        assert_int_equal(output.code, 0);
        assert_int_equal(
            strncmp(output.out, "cudistill " PROGRAM_VERSION, strlen("cudistill " PROGRAM_VERSION)),
            0);
        output_free(&output);
    }
    Output output = run(f, "version --json");
    json_t *root = json_loads(output.out, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "version")), PROGRAM_VERSION);
    const json_t *libraries = json_object_get(root, "libraries");
    assert_string_equal(json_string_value(json_object_get(libraries, "jansson")),
                        jansson_version_str());
    assert_non_null(strstr(json_string_value(json_object_get(libraries, "cpu")), "oneDNN"));
    json_decref(root);
    output_free(&output);
}

static void models_are_json_lines(void **state)
{
    const Fixture *f = *state;
    Output output = run(f, "models --json");
    int count;
    const ModelInfo *models = model_list(&count);
    char *line = output.out;
    for (int i = 0; i < count; i++) {
        const size_t length = strcspn(line, "\n");
        json_t *root = json_loadb(line, length, 0, NULL);
        assert_non_null(root);
        assert_string_equal(json_string_value(json_object_get(root, "name")), models[i].name);
        assert_int_equal(json_integer_value(json_object_get(root, "parameters")),
                         (json_int_t)models[i].params);
        json_decref(root);
        line += length + 1;
    }
    assert_string_equal(line, "");
    output_free(&output);
}

/* ---- The man page ---- */

static void the_man_page_is_whole(void **state)
{
    const Fixture *f = *state;
    Output output = run(f, "help --man");
    assert_int_equal(output.code, 0);
    static const char *const parts[] = {
        ".SH NAME",          "\n.SH SYNOPSIS",    "\n.SH COMMANDS",  "\n.SH CONFIGURATION",
        "\n.SH EXIT STATUS", "\n.SH ENVIRONMENT", "\n.SH FILES",     "\n.SH EXAMPLES",
        "\\-\\-resume",      "weight_decay",      "OMP_NUM_THREADS", "NO_COLOR",
        "CUDISTILL_DESCRIBE"};
    char *plain = xstrdup(output.out); /* headings are quoted */
    size_t to = 0;
    for (size_t from = 0; plain[from]; from++) {
        if (plain[from] != '"') {
            plain[to++] = plain[from];
        }
    }
    plain[to] = '\0';
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        expect_in("man page", plain, parts[i]);
    }
    free(plain);
    output_free(&output);
    if (have("groff")) {
        output = run_script(f, "sh",
                            "\"$CUDISTILL\" help --man >\"$DIR/cudistill.1\" &&\n"
                            "groff -man -ww -Tutf8 \"$DIR/cudistill.1\"\n");
        assert_int_equal(output.code, 0);
        assert_string_equal(output.err, "");
        assert_true(strlen(output.out) > 5000);
        output_free(&output);
    }
}

/* ---- Completion ---- */

/* Words of the command line (the last one is under the cursor), and what is offered, in any order. */
static const struct {
    const char *words, *offers;
} bash_cases[] = {
    {"tr", "train"},
    {"mod", "models"},
    {"--v", "--version"},
    {"train --res", "--resume"},
    {"train a.ini --see", "--seed --seeds"},
    {"train --resume ''", "auto must never"},
    {"train --resume = m", "must"},
    {"train --resume =", "auto must never"},
    {"train --set optim.l", "optim.loss_scale= optim.lr="},
    {"train -s schedule.kind = c", "constant cosine"},
    {"train --set run.deterministic =", "false true"},
    {"train --set = schedule.kind = mul", "multistep"},
    {"train --set student.model = wrn_40_", "wrn_40_1 wrn_40_2"},
    {"train --seed ''", ""},
    {"eval --model wrn_16_", "wrn_16_1 wrn_16_2"},
    {"eval --precision b", "bf16"},
    {"completion ''", "--help bash fish zsh"},
    {"completion bash ''", ""},
    {"bench op dist", "distill"},
    {"bench op distill --cache w", "warm"},
    {"help optim.l", "optim.loss_scale optim.lr"},
    {"help exit", "exit-codes"},
    {"train \"$DIR/some\"", "some folder some.ini"},
    {"train --out \"$DIR/some\"", "some folder"},
};

static void sort_words(char **words, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        for (size_t k = i; k > 0 && strcmp(words[k - 1], words[k]) > 0; k--) {
            char *word = words[k];
            words[k] = words[k - 1];
            words[k - 1] = word;
        }
    }
}

static void bash_completes(void **state)
{
    const Fixture *f = *state;
    if (!have("bash")) {
        skip();
    }
    for (size_t i = 0; i < sizeof bash_cases / sizeof bash_cases[0]; i++) {
        char *script = xformat("source <(\"$CUDISTILL\" completion bash)\n"
                               "compopt() { :; }\n" /* serves interactive shells only */
                               "COMP_WORDS=(cudistill %s)\n"
                               "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                               "_cudistill\nprintf '%%s\\n' \"${COMPREPLY[@]}\"\n",
                               bash_cases[i].words);
        Output output = run_script(f, "bash", script);
        assert_string_equal(output.err, "");
        char *words[MAX_WORDS];
        size_t count = 0;
        char *save = NULL;
        for (char *line = strtok_r(output.out, "\n", &save); line;
             line = strtok_r(NULL, "\n", &save)) {
            assert_true(count < MAX_WORDS);
            char *slash = strrchr(line, '/');
            words[count++] = slash ? slash + 1 : line;
        }
        sort_words(words, count);
        Text offers = {0};
        for (size_t k = 0; k < count; k++) {
            text_add(&offers, "%s%s", k ? " " : "", words[k]);
        }
        if (strcmp(offers.text ? offers.text : "", bash_cases[i].offers) != 0) {
            fail_msg("'%s' offers '%s', not '%s'", bash_cases[i].words,
                     offers.text ? offers.text : "", bash_cases[i].offers);
        }
        text_free(&offers);
        output_free(&output);
        free(script);
    }
}

/* A script without mistakes; what it offers is looked at in fish, which can be asked. */
static void other_shells_take_their_scripts(void **state)
{
    const Fixture *f = *state;
    if (have("zsh")) {
        Output output = run_script(f, "sh",
                                   "\"$CUDISTILL\" completion zsh >\"$DIR/_cudistill\" &&\n"
                                   "zsh -n \"$DIR/_cudistill\"\n");
        assert_int_equal(output.code, 0);
        assert_string_equal(output.err, "");
        output_free(&output);
    }
    if (!have("fish")) {
        return;
    }
    Output output = run_script(f, "sh",
                               "\"$CUDISTILL\" completion fish >\"$DIR/c.fish\" &&\n"
                               "fish -n \"$DIR/c.fish\" &&\n"
                               "fish -N -c \"source '$DIR/c.fish'\n"
                               "complete -C 'cudistill tr'\n"
                               "complete -C 'cudistill train --resu'\n"
                               "complete -C 'cudistill train --resume mu'\n"
                               "complete -C 'cudistill train --set schedule.kind=cos'\n"
                               "complete -C 'cudistill completion zs'\n"
                               "complete -C 'cudistill bench op dist'\"\n");
    assert_int_equal(output.code, 0);
    static const char *const offers[] = {
        "train\t", "--resume\t", "must\t", "schedule.kind=cosine\t", "zsh\t", "distill\n"};
    for (size_t i = 0; i < sizeof offers / sizeof offers[0]; i++) {
        expect_in("fish", output.out, offers[i]);
    }
    output_free(&output);
}

/* ---- Speed ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &usage), 0);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Wall time is printed; the limit holds for the processor's time, which other programs on the machine change little. */
static void help_is_there_at_once(void **state)
{
    enum { RUNS = 20, WARM_UP = 3 };
    static const double limit_s = 0.010;
    static const char *const lines[] = {"--help", "train --help", "version", "help optim.lr"};
    const Fixture *f = *state;
    for (size_t l = 0; l < sizeof lines / sizeof lines[0]; l++) {
        double wall[RUNS] = {0};
        double cpu[RUNS] = {0};
        for (int i = -WARM_UP; i < RUNS; i++) {
            struct timespec begin;
            struct timespec end;
            const double cpu_begin = cpu_seconds();
            (void)clock_gettime(CLOCK_MONOTONIC, &begin);
            Output output = run(f, lines[l]);
            (void)clock_gettime(CLOCK_MONOTONIC, &end);
            assert_int_equal(output.code, 0);
            output_free(&output);
            if (i >= 0) {
                wall[i] = (double)(end.tv_sec - begin.tv_sec) +
                          1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
                cpu[i] = cpu_seconds() - cpu_begin;
            }
        }
        qsort(wall, RUNS, sizeof wall[0], by_value);
        qsort(cpu, RUNS, sizeof cpu[0], by_value);
        printf("%-14s wall: min %.1f ms, median %.1f ms; processor: median %.1f ms\n", lines[l],
               1e3 * wall[0], 1e3 * wall[RUNS / 2], 1e3 * cpu[RUNS / 2]);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        assert_true(cpu[RUNS / 2] < limit_s);
#else
        (void)limit_s;
#endif
    }
}

/* ---- Fixture ---- */

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    const char *program = getenv("CUDISTILL");
    f->program = program && program[0] ? program : "build/cudistill";
    if (access(f->program, X_OK) != 0) {
        (void)fprintf(stderr, "no program '%s': build first, and run from the tree's root\n",
                      f->program);
        free(f);
        return -1;
    }
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/cudistill_cli_XXXXXX");
    if (!mkdtemp(f->dir) || setenv("CUDISTILL", f->program, 1) != 0) {
        free(f);
        return -1;
    }
    (void)snprintf(f->out, sizeof f->out, "%s/out", f->dir);
    (void)snprintf(f->err, sizeof f->err, "%s/err", f->dir);
    char *folder = path_join(f->dir, "some folder");
    char *file = path_join(f->dir, "some.ini");
    assert_null(dir_make(folder));
    assert_null(file_write_atomic(file, "\n", 1));
    free(folder);
    free(file);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    assert_null(dir_remove(f->dir));
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_have_codes),
        cmocka_unit_test(closed_output_is_an_error),
        cmocka_unit_test(options_become_overrides),
        cmocka_unit_test(tables_are_sound),
        cmocka_unit_test(every_command_has_help),
        cmocka_unit_test(every_key_is_explained),
        cmocka_unit_test(foreign_names_lead_to_keys),
        cmocka_unit_test(options_set_keys_that_exist),
        cmocka_unit_test(version_is_told),
        cmocka_unit_test(models_are_json_lines),
        cmocka_unit_test(the_man_page_is_whole),
        cmocka_unit_test(bash_completes),
        cmocka_unit_test(other_shells_take_their_scripts),
        cmocka_unit_test(help_is_there_at_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
